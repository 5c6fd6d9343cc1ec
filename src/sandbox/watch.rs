//! Watches (`k8s.io/apiserver/pkg/storage/cacher`): events after a version, initial events, bookmarks, and the end of all
//! watches after a time.

use std::{collections::VecDeque, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    core::Core,
    kinds::Kind,
    newest::Follower,
    read::{self, Filter},
    refusal::{Answer, Refusal},
    request::{Ask, Place},
    store::{self, Change, Store, Stored},
};

/// How often a watch that takes bookmarks gets one, as the real watch cache does.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// And once more so long before the watch ends, in seconds.
const BOOKMARK_BEFORE_END_SECS: u64 = 2;
/// Events are sent in lots of no more than this, so that one watch never holds a copy of the whole log.
const LOT: usize = 512;

/// A body that is made while it is read.
pub(super) type Flow = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>;

struct Watch {
    core: Arc<Core>,
    ask: Arc<Ask>,
    kind: Arc<Kind>,
    namespace: String,
    filter: Filter,
    /// Everything up to here was sent.
    version: u64,
    newest: Follower,
    /// Lines that are ready.
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    /// Nothing comes after what is ready.
    over: bool,
}

/// Opens a watch. `gap`: it is told at once that its version is too old. `cut`: it ends after that time.
///
/// # Errors
/// 400, 422: wrong options.
pub(super) fn open(core: &Arc<Core>, ask: Arc<Ask>, kind: &Arc<Kind>, place: &Place, gap: bool, cut: Option<Duration>) -> Answer<Flow> {
    let filter = Filter::read(&ask, kind)?;
    let wanted = read::check_versions(&ask)?;
    let timeout = ask.number("timeoutSeconds")?;
    let newest = core.newest.follow();
    let mut state = core.lock();
    // Half an hour to an hour, as `--min-request-timeout` has it.
    let secs = match timeout {
        Some(secs) if secs > 0 => secs,
        _ => 1800 + u64::try_from(state.store.below(1800)).unwrap_or(0),
    };
    let now = Instant::now();
    let last_bookmark = Some(secs).filter(|secs| *secs > BOOKMARK_BEFORE_END_SECS).map(|secs| secs - BOOKMARK_BEFORE_END_SECS);
    let mut watch = Watch {
        core: Arc::clone(core),
        bookmarks: ask.flag("allowWatchBookmarks"),
        ask,
        kind: Arc::clone(kind),
        namespace: place.namespace.clone(),
        filter,
        version: state.store.version(),
        newest,
        ready: VecDeque::new(),
        next_bookmark: now + last_bookmark.map_or(BOOKMARK_EVERY, |secs| BOOKMARK_EVERY.min(Duration::from_secs(secs))),
        ends: now + cut.unwrap_or_else(|| Duration::from_secs(secs)).min(Duration::from_secs(secs)),
        over: false,
    };
    let initial = watch.ask.option("sendInitialEvents").map(|_| watch.ask.flag("sendInitialEvents"));
    if gap && wanted.is_some_and(|version| version > 0) {
        watch.expire(wanted.unwrap_or_default(), state.store.version());
    } else if initial.unwrap_or(wanted.unwrap_or(0) == 0) {
        for (_, stored) in state.store.list(kind.shelf(), &watch.namespace) {
            if watch.filter.matches(&stored.value) {
                let line = watch.line("ADDED", stored);
                watch.ready.push_back(line);
            }
        }
        if initial == Some(true) && watch.bookmarks {
            let line = watch.bookmark(true);
            watch.ready.push_back(line);
        }
    } else if let Some(wanted) = wanted.filter(|version| *version > 0) {
        watch.version = wanted;
        watch.gather(&state.store);
    }
    drop(state);
    Ok(Box::pin(futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok(Frame::data(line)), watch))
    })))
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        let core = Arc::clone(&self.core);
        loop {
            if let Some(first) = self.ready.pop_front() {
                // What is ready goes out in one piece.
                let mut bytes = first.to_vec();
                for line in self.ready.drain(..) {
                    bytes.extend_from_slice(&line);
                }
                return Some(bytes.into());
            }
            if self.over {
                return None;
            }
            // Looked at before the store is, so that no change can slip in between.
            let newest = self.newest.latest();
            if self.version < newest {
                self.gather(&core.lock().store);
                continue;
            }
            tokio::select! {
                biased;
                () = core.closed.cancelled() => return None,
                () = tokio::time::sleep_until(self.ends) => return None,
                _ = self.newest.changed() => {}
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    let last = self.ends - Duration::from_secs(BOOKMARK_BEFORE_END_SECS);
                    let next = self.next_bookmark + BOOKMARK_EVERY;
                    // The last comes shortly before the end; after it, none.
                    self.next_bookmark = if self.next_bookmark < last { next.min(last) } else { self.ends + BOOKMARK_EVERY };
                    return Some(self.bookmark(false));
                }
            }
        }
    }

    /// Takes the next lot of what has happened since.
    fn gather(&mut self, store: &Store) {
        let Some(changes) = store.since(self.version) else {
            return self.expire(self.version, store.compacted());
        };
        let mut seen = self.version;
        let mut lines = Vec::new();
        let shelf = self.kind.shelf();
        for logged in changes.take(LOT) {
            seen = logged.version();
            if logged.shelf() == shelf && (self.namespace.is_empty() || logged.key().0 == self.namespace) {
                lines.extend(self.event(&logged.open()));
            }
        }
        self.ready.extend(lines);
        self.version = seen;
    }

    /// A change as this watch sees it: an object that begins or ceases to pass the filter is added or deleted.
    fn event(&self, change: &Change) -> Option<Bytes> {
        let passes = |stored: &Stored| self.filter.matches(&stored.value);
        let before = change.before.as_deref().is_some_and(passes);
        let after = !change.deleted && passes(&change.after);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        // What leaves the filter is shown as it last passed, under the version of the change.
        match &change.before {
            Some(last) if kind == "DELETED" && !change.deleted => {
                let mut value = last.value.clone();
                store::set_version(&mut value, change.version);
                Some(self.line(kind, &Stored::new(value, change.version)))
            }
            _ => Some(self.line(kind, &change.after)),
        }
    }

    fn line(&self, event: &str, stored: &Stored) -> Bytes {
        let mut bytes = format!("{{\"type\":\"{event}\",\"object\":").into_bytes();
        bytes.extend(read::object_json(&self.ask, &self.kind, stored));
        bytes.extend_from_slice(b"}\n");
        bytes.into()
    }

    fn bookmark(&self, initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = if self.ask.only_metadata() {
            ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned())
        } else {
            (self.kind.kind.clone(), self.kind.api_version())
        };
        let event = json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": version, "metadata": metadata}});
        format!("{event}\n").into()
    }

    /// Changes that this watch would need are forgotten: it says so and ends.
    fn expire(&mut self, version: u64, oldest: u64) {
        let status: Value = Refusal::expired(format!("too old resource version: {version} ({oldest})")).status();
        self.ready.push_back(format!("{}\n", json!({"type": "ERROR", "object": status})).into());
        self.over = true;
    }
}
