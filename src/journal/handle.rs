//! The journal as the drill's tasks hold it.

use std::sync::Arc;

use tokio::sync::{Mutex, broadcast, watch};

use super::{Event, JournalError, Log, Record, RecordStore};
use crate::clock::Clock;

/// Called with every record once it is written, in order, under the journal's lock: keep it short.
pub type Listener = Box<dyn Fn(&Record) + Send + Sync>;

/// How many records a slow display may lag behind before it is told that it missed some.
const DISPLAY_BACKLOG: usize = 4096;

/// A handle on the drill's journal. Cheap to clone; all clones write to the same file and record.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
    clock: Clock,
    feed: broadcast::Sender<Record>,
    failure: watch::Sender<Option<String>>,
}

struct Inner {
    log: Log,
    store: Option<RecordStore>,
    listener: Listener,
    #[cfg(debug_assertions)]
    doomed: super::doomed::Doomed,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Journal {
    /// A journal over a file and, unless this is a test without a cluster, the in-cluster record.
    pub fn new(log: Log, store: Option<RecordStore>, clock: Clock, listener: Listener) -> Self {
        let (feed, _) = broadcast::channel(DISPLAY_BACKLOG);
        let inner = Inner {
            log,
            store,
            listener,
            #[cfg(debug_assertions)]
            doomed: super::doomed::Doomed::from_environment(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), clock, feed, failure: watch::Sender::new(None) }
    }

    /// Appends an event. Returns once it is as durable as its kind demands.
    ///
    /// A disk that is full or fails does not hold up what must go on: events that need not be durable are then kept in
    /// memory and in the in-cluster record, and [`Self::failed`] says it, so that the drill can be aborted and its faults reverted.
    ///
    /// # Errors
    /// For an event that must be durable: the file or the in-cluster record cannot be written. An intent that is refused so is an
    /// event all the same (it may be in either), so that its revert follows.
    /// Another runner has taken the drill over ([`JournalError::Fenced`]).
    pub async fn append(&self, event: Event) -> Result<Record, JournalError> {
        let mut inner = self.inner.lock().await;
        let (must, should, for_record) = (event.must_be_durable(), event.should_be_durable(), event.for_record());
        let begins = matches!(event, Event::Started { .. } | Event::Resumed { .. });
        let at = self.clock.now();
        let (record, line) = inner.log.append(at, event)?;
        #[cfg(debug_assertions)]
        inner.doomed.passes(&record.event, super::doomed::Moment::Written);
        if for_record && let Some(store) = &mut inner.store {
            store.push(line);
        }
        let mut refused = None;
        if must || should {
            refused = inner.log.sync().err().filter(|_| must);
        }
        self.tell_failure(&inner.log);
        // A drill that cannot even begin leaves no record.
        if let (true, Some(error)) = (begins, refused.take_if(|_| begins)) {
            return Err(error);
        }
        if must || should {
            let head = inner.log.tail().clone();
            if let Some(store) = &mut inner.store {
                match store.flush(&head).await {
                    Err(JournalError::Fenced { drill }) => return Err(JournalError::Fenced { drill }),
                    Err(error) if begins => return Err(error),
                    Err(error) if must => drop(refused.get_or_insert(error)),
                    // What should but need not be recorded goes along with the next flush.
                    Err(error) => tracing::warn!(%error, "the in-cluster record lags behind"),
                    Ok(()) => {}
                }
            }
        }
        #[cfg(debug_assertions)]
        inner.doomed.passes(&record.event, super::doomed::Moment::Recorded);
        (inner.listener)(&record);
        // No display attached is fine.
        let _ = self.feed.send(record.clone());
        refused.map_or(Ok(record), Err)
    }

    fn tell_failure(&self, log: &Log) {
        if let Some(why) = log.failure() {
            self.failure.send_if_modified(|told| told.is_none() && told.replace(why.to_owned()).is_none());
        }
    }

    /// Waits until the file could not be written, and says why.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(why) = failure.borrow_and_update().clone() {
                return why;
            }
            if failure.changed().await.is_err() {
                // The sender lives as long as this journal does.
                return "the journal has ended".to_owned();
            }
        }
    }

    /// The records that the file lacks because it cannot be written.
    pub async fn unwritten(&self) -> Vec<Record> {
        let inner = self.inner.lock().await;
        inner.log.unwritten().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Syncs the file and writes the in-cluster record.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn flush(&self) -> Result<(), JournalError> {
        let mut inner = self.inner.lock().await;
        let synced = inner.log.sync();
        self.tell_failure(&inner.log);
        let head = inner.log.tail().clone();
        // The record all the more when the file cannot be written.
        let recorded = match &mut inner.store {
            Some(store) => store.flush(&head).await,
            None => Ok(()),
        };
        synced.and(recorded)
    }

    /// Deletes the in-cluster record: the drill is over and clean.
    ///
    /// # Errors
    /// The API server does not do it.
    pub async fn delete_record(&self) -> Result<(), JournalError> {
        match &mut self.inner.lock().await.store {
            Some(store) => store.delete().await,
            None => Ok(()),
        }
    }

    /// Forgets the in-cluster record: this runner has been fenced off and must not write there any more.
    pub async fn detach_record(&self) {
        self.inner.lock().await.store = None;
    }

    /// The hash of the last line, for people to write down.
    pub async fn head(&self) -> String {
        self.inner.lock().await.log.tail().head.clone()
    }

    /// The runner's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// All records from now on, for a display.
    pub fn subscribe(&self) -> broadcast::Receiver<Record> {
        self.feed.subscribe()
    }
}
