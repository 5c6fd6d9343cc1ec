//! What is watched beside the steps: signals, the inbox, `abortIf`, the time limit, the Leases.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    acks::{self, Question},
    executor::Drill,
    wait::{Stretch, Waited},
};
use crate::{
    cluster::{WATCH_SECS, WatchPause},
    gate,
    journal::{ResumeIntent, STOP, Stop, record_name},
    scenario::types::{Dur, ProbeState},
    signals::Signals,
};

/// How often the inbox and the stop of all drills are read when nothing tells that they have changed.
const INBOX_EVERY: Duration = Duration::from_secs(1);
/// How often they are read all the same while a watch tells: one that has gone silent is not seen to have.
const INBOX_WATCHED: Duration = Duration::from_secs(15);

impl Drill {
    /// Starts a task that ends with the drill.
    pub(super) async fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.lock().await.spawn(gate::own(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = work => {}
            }
        }));
    }

    pub(super) async fn spawn_watchers(self: &Arc<Self>) {
        let drill = Arc::clone(self);
        self.spawn(async move { drill.watch_signals().await }).await;
        let drill = Arc::clone(self);
        self.spawn(async move { drill.watch_inbox().await }).await;
        let drill = Arc::clone(self);
        self.spawn(async move { drill.watch_questions().await }).await;
        let drill = Arc::clone(self);
        self.spawn(async move { drill.watch_conditions().await }).await;
        let drill = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(drill.plan.limits.duration.0).await;
            let limit = drill.plan.limits.duration;
            drill.request_abort("limits.duration", &format!("the drill has taken longer than {limit}")).await;
        })
        .await;
        let drill = Arc::clone(self);
        self.spawn(async move {
            let why = drill.journal.failed().await;
            drill.request_abort("firedrill", &format!("the journal cannot be written any more: {why}")).await;
        })
        .await;
        let drill = Arc::clone(self);
        self.spawn(async move {
            drill.fence.until_lapsed().await;
            drill.abort_lapsed().await;
        })
        .await;
        let drill = Arc::clone(self);
        self.spawn(async move {
            let error = drill.fence.lost().await;
            drill.request_abort("firedrill", &error.to_string()).await;
        })
        .await;
        let (fence, over) = (self.fence.clone(), self.over.clone());
        self.tasks.lock().await.spawn(gate::own(fence.keep(over)));
    }

    /// The first signal aborts and reverts; a second one skips the waiting afterwards, never the reverts.
    async fn watch_signals(&self) {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::warn!(%error, "signals cannot be handled here; use `{}`", self.command("abort"));
                return;
            }
        };
        loop {
            let which = signals.next().await;
            if self.state().abort.is_some() {
                tracing::warn!("{which} again: the reverts are never skipped; what is not a revert is");
                self.hurry.cancel();
            } else {
                self.request_abort(which, "asked to stop").await;
            }
        }
    }

    async fn watch_inbox(&self) {
        let own = &self.plan.place.firedrill.namespace;
        let (nudge, mut nudges) = mpsc::channel(1);
        let watched = Arc::new(AtomicBool::new(false));
        let api: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(self.cluster.streams.clone(), own);
        // The drill's own record changes all the time.
        let config = watcher::Config::default().timeout(WATCH_SECS).fields(&format!("metadata.name!={}", record_name(&self.name)));
        let follow = follow_inbox(watcher::watcher(api, config), self.inbox.name(), nudge, Arc::clone(&watched));
        // Who only reverts is soon done, and a watchdog may not watch.
        let only_reverts = self.state().resumed == Some(ResumeIntent::Revert);
        let _follow = (!only_reverts).then(|| AbortOnDropHandle::new(tokio::spawn(gate::own(follow))));
        loop {
            let every = if watched.load(Ordering::Acquire) { INBOX_WATCHED } else { INBOX_EVERY };
            tokio::select! {
                biased;
                Some(()) = nudges.recv() => {}
                () = tokio::time::sleep(every) => {}
            }
            // A stop that cannot be read is none: the drill goes on until its Leases say otherwise, and injects nothing meanwhile.
            if let Ok(Some(stop)) = Stop::read(&self.cluster.client, &self.plan.place.firedrill.namespace).await {
                let by = if stop.by.is_empty() { "firedrill stop" } else { &stop.by };
                self.request_abort(by, &stop.to_string()).await;
            }
            let items = match self.inbox.read().await {
                Ok(items) => items,
                Err(error) => {
                    tracing::debug!(%error, "the inbox cannot be read");
                    continue;
                }
            };
            if let Some(item) = items.get("abort") {
                self.request_abort(&item.by, if item.remark.is_empty() { "firedrill abort" } else { &item.remark }).await;
            }
            for key in self.acks.deliver(&items).await {
                // Read and kept here; if it cannot be taken away it would only be read again.
                if let Err(error) = self.inbox.take(&key).await {
                    tracing::debug!(%error, "the inbox cannot be emptied");
                }
            }
        }
    }

    /// What people are asked is put beside the inbox, where `firedrill status` and `firedrill ack` see it from any machine.
    async fn watch_questions(&self) {
        let mut asked = self.acks.asked();
        // A runner before this one may have left its questions behind.
        let mut shown = self.state().resumed.is_none().then(Vec::<Question>::new);
        loop {
            let now = asked.borrow_and_update().clone();
            // One that was taken over from writes nothing there any more.
            if shown.as_ref() != Some(&now) && self.fence.check().is_ok() {
                match self.inbox.leave(acks::ASKED, &acks::to_item(&self.options.by, &now)).await {
                    Ok(()) => shown = Some(now.clone()),
                    Err(error) => tracing::debug!(%error, "what is asked cannot be shown elsewhere yet"),
                }
            }
            let again = shown.as_ref() != Some(&now);
            tokio::select! {
                biased;
                changed = asked.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(INBOX_EVERY), if again => {}
            }
        }
    }

    /// `abortIf`, from the first step to the end of the steps.
    async fn watch_conditions(&self) {
        let conditions = &self.plan.abort_if;
        if conditions.is_empty() {
            return;
        }
        let mut stretches: Vec<Stretch> = conditions.iter().map(|_| Stretch::default()).collect();
        let mut board = self.board();
        loop {
            let state = self.state();
            if state.steps_ended || state.abort.is_some() {
                return;
            }
            if !state.steps.is_empty() {
                let now_us = self.clock.now().mono_us;
                let look = board.borrow_and_update().clone();
                let fired = conditions.iter().zip(&mut stretches).find_map(|(condition, stretch)| {
                    let wanted = [(condition.probe.as_str(), condition.state)];
                    stretch.look(&look, &wanted, condition.hold, now_us).then_some(condition)
                });
                if let Some(condition) = fired {
                    let why = format!("{} was {} for {}", condition.probe, condition.state, condition.hold);
                    self.request_abort("abortIf", &why).await;
                    return;
                }
            }
            tokio::select! {
                biased;
                Ok(()) = board.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }

    /// As `wait_for`, but goes on after an abort, until a second signal or the loss of the Leases.
    pub(super) async fn wait_for_even_aborted(&self, wanted: &[(&str, ProbeState)], hold: Dur, timeout: Dur) -> Waited {
        let mut stretch = Stretch::default();
        let deadline = tokio::time::Instant::now() + timeout.0;
        loop {
            if stretch.look(&self.board().borrow(), wanted, hold, self.clock.now().mono_us) {
                return Waited::Met;
            }
            tokio::select! {
                biased;
                () = self.hurry.cancelled() => return Waited::Aborted,
                _ = self.fence.lost() => return Waited::Aborted,
                () = tokio::time::sleep_until(deadline) => return Waited::TimedOut,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }
}

/// Nudges whenever the inbox or the stop of all drills may have changed, and says whether it would.
async fn follow_inbox(
    events: impl futures::Stream<Item = Result<watcher::Event<PartialObjectMeta<ConfigMap>>, watcher::Error>> + Send,
    inbox: String,
    nudge: mpsc::Sender<()>,
    watched: Arc<AtomicBool>,
) {
    let mut events = pin!(events.backoff(WatchPause::default()));
    while let Some(event) = events.next().await {
        match &event {
            Ok(watcher::Event::Apply(map) | watcher::Event::Delete(map)) if map.name_any() != inbox && map.name_any() != STOP => continue,
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(watcher::Event::InitDone) => watched.store(true, Ordering::Release),
            Ok(_) => {}
            Err(error) => {
                watched.store(false, Ordering::Release);
                tracing::debug!(%error, "the watch of the inbox broke");
            }
        }
        // A nudge that waits already is as good as two.
        let _ = nudge.try_send(());
    }
    watched.store(false, Ordering::Release);
}
