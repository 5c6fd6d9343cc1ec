//! Whether a fault holds while it should, and its end by its own `for`.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use kube::{
    Api, Client,
    api::{DynamicObject, WatchEvent, WatchParams},
};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::executor::Drill;
use crate::{
    cluster::{WATCH_SECS, WatchPause},
    fault::{self, Changed},
    gate,
    journal::{Event, FaultId},
    scenario::types::FaultSpec,
};

/// How often it is looked whether a fault still holds: never more often, and this often where no watch tells when.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is looked all the same while a watch tells: one that has gone silent is not seen to have.
const WATCHED: Duration = Duration::from_secs(15);
/// How often where each look is a Job.
const COSTLY: Duration = Duration::from_secs(30);

/// What a watch of what a fault has changed says.
#[derive(Debug, Default)]
struct Watched {
    /// It is open: no event, no change.
    open: AtomicBool,
    /// Something has changed since the last look.
    changed: AtomicBool,
}

impl Drill {
    /// Watches whether a fault holds, and reverts it by itself after its `for`.
    pub(super) async fn watch_fault(self: &Arc<Self>, id: FaultId, spec: FaultSpec, undo: fault::Undo) {
        let drill = Arc::clone(self);
        let until = spec.duration.map(|time| Instant::now() + time.0);
        let live = move |state: &super::DrillState| state.faults.get(&id).is_some_and(super::FaultState::is_live);
        let watched = Arc::new(Watched::default());
        let follow = fault::changed(&undo).map(|object| follow(self.cluster.streams.clone(), object, Arc::clone(&watched)));
        self.spawn(async move {
            let _follow = follow.map(|follow| AbortOnDropHandle::new(tokio::spawn(gate::own(follow))));
            let costly = fault::is_costly(&undo);
            let mut holds = true;
            let mut looked = Instant::now();
            while live(&drill.state()) {
                let pause = Instant::now() + EVERY;
                tokio::time::sleep_until(until.map_or(pause, |until| until.min(pause))).await;
                if until.is_some_and(|until| Instant::now() >= until) {
                    if let Err(error) = drill.revert(id, "its `for` is over").await {
                        tracing::warn!(%error, "a fault could not be reverted in time; it will be tried again");
                    }
                    return;
                }
                // Taken before the look: what changes meanwhile is looked at again.
                let changed = watched.changed.swap(false, Ordering::AcqRel);
                let quiet =
                    watched.open.load(Ordering::Acquire) && !changed && looked.elapsed() < WATCHED || costly && looked.elapsed() < COSTLY;
                if !holds || quiet || !live(&drill.state()) {
                    continue;
                }
                looked = Instant::now();
                match fault::holds(&drill.faults, &spec, &undo).await {
                    // A revert may have begun while we looked: then it is no finding.
                    Ok(Some(detail)) if live(&drill.state()) => {
                        holds = false;
                        let event = Event::HoldBroken { fault: id, at: drill.clock.now(), detail };
                        if let Err(error) = drill.record(event).await {
                            tracing::warn!(%error, "a broken hold could not be journalled");
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        // Whatever has changed has not been seen.
                        watched.changed.store(true, Ordering::Release);
                        tracing::debug!(%error, "it cannot be seen whether the fault holds");
                    }
                }
            }
        })
        .await;
    }
}

/// Says whether an object may have changed, for as long as it is polled. A watch needs no list before it: from version 0 it begins with the
/// object as it is.
async fn follow(client: Client, Changed { kind, namespace, name }: Changed, watched: Arc<Watched>) {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &kind);
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECS);
    let mut pauses = WatchPause::default();
    loop {
        match api.watch_metadata(&params, "0").await {
            Ok(events) => {
                watched.open.store(true, Ordering::Release);
                // What happened before it was open.
                watched.changed.store(true, Ordering::Release);
                pauses = WatchPause::default();
                let mut events = pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    match event {
                        WatchEvent::Bookmark(_) => {}
                        WatchEvent::Error(_) => break,
                        _ => watched.changed.store(true, Ordering::Release),
                    }
                }
                watched.open.store(false, Ordering::Release);
            }
            // One that is not allowed is tried again too: rights may be given while a drill runs, and once in half a minute is not much.
            Err(error) => tracing::debug!(%error, "it cannot be watched whether the fault holds"),
        }
        tokio::time::sleep(pauses.next().unwrap_or(EVERY)).await;
    }
}
