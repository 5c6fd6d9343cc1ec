//! The controllers of a cluster and its scheduler, with the timing rules of the real ones (`pkg/controller/*`,
//! `pkg/scheduler`).
//!
//! Each is a function from the API server's state, an object's name and the time to writes and the time at which it wants to
//! look again. One task calls them: it follows the log of changes, works out whom a change concerns, and sleeps until the next
//! of them is due. Nothing polls, so that an idle cluster costs nothing but its heartbeats.
//!
//! **Architecture invariant:** controllers keep no memory of objects. What they know they read from the store each time;
//! only back-offs and the like are kept here.

pub(super) mod api;
mod budget;
mod cron;
mod cron_job;
mod daemon_set;
mod deployment;
mod endpoints;
mod ephemeral;
mod evict;
mod fit;
mod garbage;
mod job;
mod job_status;
pub(super) mod look;
mod mirror;
mod namespace;
mod node_life;
mod notice;
mod queue;
mod replica_set;
mod rollout;
mod scheduler;
mod slices;
mod stateful_set;
mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use self::queue::Queue;
pub(super) use self::volumes::PROVISIONER;
use super::{
    cluster::{Cluster, ClusterOptions, Inner},
    core::{Core, State},
    node::Nodes,
    refusal::Answer,
    store::Key,
};

/// Who has something to do. The order is the order in which those act that are due at the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// A kubelet's heartbeat; the key is `("", node)`.
    Heart,
    /// A kubelet's work on a pod.
    Kubelet,
    NodeLife,
    /// Eviction of a pod by its node's taints, and of pods whose node is gone.
    Evict,
    /// Claims of pods' own volumes.
    Ephemeral,
    Volumes,
    Scheduler,
    ReplicaSet,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Endpoints,
    Budget,
    Namespace,
    /// Owner collection. The key is `("", uid)` of an owner that is gone, or `(shelf, "namespace/name")`.
    Garbage,
    /// Events that are forgotten after an hour.
    EventEnd,
}

/// Somebody's work on one object.
pub(super) type Item = (Who, Key);

/// When a controller wants to look again, in microseconds since the Unix epoch; none: when something changes.
pub(super) type Again = Answer<Option<i64>>;

impl Who {
    /// How long it takes from a change to the reaction, in microseconds: queue, watch and work of the real one.
    fn reacts_after(self) -> i64 {
        match self {
            Self::Heart | Self::EventEnd => 0,
            Self::Scheduler => 5_000,
            Self::Kubelet => 20_000,
            Self::Endpoints | Self::Budget => 15_000,
            _ => 10_000,
        }
    }
}

/// How long events are kept (`--event-ttl`).
const EVENT_US: i64 = 3600 * look::SECOND;
/// So many items are worked on before others get a turn.
const LOT: usize = 256;
/// The first and the longest time until something that failed is tried again (`DefaultControllerRateLimiter`).
const RETRY_US: (i64, i64) = (5_000, 1000 * look::SECOND);

/// What the controllers remember.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) queue: Queue,
    options: ClusterOptions,
    seed: u64,
    /// Changes up to this version were noticed; none: nothing yet.
    cursor: Option<u64>,
    /// How often each failed in a row.
    failures: BTreeMap<Item, u32>,
    /// Who has an owner of this uid: shelf and key.
    owned: BTreeMap<String, BTreeSet<(Arc<str>, Key)>>,
    /// When each event was written last.
    events: BTreeMap<Key, i64>,
    daemons: daemon_set::Failed,
    /// Since when nodes are missing on which pods are said to run.
    missing: BTreeMap<String, i64>,
    /// When the next node of a zone may be tainted (`--node-eviction-rate`).
    zones: BTreeMap<String, i64>,
    /// How often there was something to do.
    pub(super) wakes: u64,
}

impl Control {
    pub(super) fn new(options: ClusterOptions, seed: u64) -> Self {
        Self {
            queue: Queue::default(),
            options,
            seed,
            cursor: None,
            failures: BTreeMap::new(),
            owned: BTreeMap::new(),
            events: BTreeMap::new(),
            daemons: BTreeMap::new(),
            missing: BTreeMap::new(),
            zones: BTreeMap::new(),
            wakes: 0,
        }
    }
}

/// Does all that is due. True: there is more to do at once.
fn turn(state: &mut State, inner: &mut Inner) -> bool {
    let now = state.now_us;
    inner.control.notice(state, &inner.nodes);
    for item in std::mem::take(&mut inner.poked) {
        inner.control.queue.add(item, now);
    }
    let mut done = 0;
    while let Some(item) = inner.control.queue.take(now) {
        if done == 0 {
            inner.control.wakes += 1;
        }
        done += 1;
        match act(state, &mut inner.control, &mut inner.nodes, &item, now) {
            Ok(again) => {
                inner.control.failures.remove(&item);
                if let Some(at) = again {
                    // At the earliest a millisecond from now, or an eager one would hold up the rest of the world.
                    inner.control.queue.add(item, at.max(now + 1_000));
                }
            }
            Err(refusal) => {
                let failures = inner.control.failures.entry(item.clone()).or_default();
                *failures = failures.saturating_add(1);
                let wait = RETRY_US.0.saturating_mul(1 << (*failures - 1).min(30)).min(RETRY_US.1);
                tracing::debug!(who = ?item.0, key = ?item.1, why = %refusal.status()["message"], "a controller's write was refused");
                inner.control.queue.add(item, now + wait);
            }
        }
        inner.control.notice(state, &inner.nodes);
        if done >= LOT {
            return true;
        }
    }
    false
}

fn act(state: &mut State, control: &mut Control, nodes: &mut Nodes, (who, key): &Item, now: i64) -> Again {
    match who {
        Who::Heart => nodes.heartbeat(state, &key.1, now),
        Who::Kubelet => nodes.sync(state, key, now),
        Who::NodeLife => node_life::reconcile(state, control, key, now),
        Who::Evict => evict::reconcile(state, control, key, now),
        Who::Ephemeral => ephemeral::reconcile(state, key),
        Who::Volumes => volumes::reconcile(state, control.seed, key, now),
        Who::Scheduler => scheduler::reconcile(state, control.seed, key, now),
        Who::ReplicaSet => replica_set::reconcile(state, key, now),
        Who::Deployment => deployment::reconcile(state, key, now),
        Who::StatefulSet => stateful_set::reconcile(state, key, now),
        Who::DaemonSet => daemon_set::reconcile(state, &mut control.daemons, key, now),
        Who::Job => job::reconcile(state, key, now),
        Who::CronJob => cron_job::reconcile(state, key, now),
        Who::Endpoints => endpoints::reconcile(state, key, now),
        Who::Budget => budget::reconcile(state, key, now),
        Who::Namespace => namespace::reconcile(state, key, now),
        Who::Garbage => garbage::reconcile(state, &control.owned, key, now),
        Who::EventEnd => Ok(end_event(state, control, key, now)),
    }
}

/// Events are written with a lease of an hour, and vanish without anybody deleting them.
fn end_event(state: &mut State, control: &mut Control, key: &Key, now: i64) -> Option<i64> {
    let ends = *control.events.get(key)? + EVENT_US;
    if ends > now {
        return Some(ends);
    }
    control.events.remove(key);
    let kind = state.kinds.v1("", "events")?;
    state.erase(&kind, key, None);
    None
}

/// Runs the cluster until the sandbox ends.
pub(super) async fn run(core: Arc<Core>, cluster: Arc<Cluster>) {
    let mut newest = core.newest.follow();
    loop {
        newest.latest();
        let (more, due, now) = {
            // In this order everywhere: the API server's state, then the cluster's.
            let mut state = core.lock();
            let mut inner = cluster.lock();
            let more = turn(&mut state, &mut inner);
            (more, inner.control.queue.next(), state.now_us)
        };
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let wait = due.map(|due| Duration::from_micros(u64::try_from(due - now).unwrap_or(0)));
        tokio::select! {
            biased;
            () = core.closed.cancelled() => return,
            _ = newest.changed() => {}
            () = cluster.poke.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// Which controller an object of this kind has, if it is one that works here.
fn who_controls(kind: &str) -> Option<Who> {
    Some(match kind {
        "ReplicaSet" => Who::ReplicaSet,
        "Deployment" => Who::Deployment,
        "StatefulSet" => Who::StatefulSet,
        "DaemonSet" => Who::DaemonSet,
        "Job" => Who::Job,
        "CronJob" => Who::CronJob,
        _ => return None,
    })
}

/// What of a node matters to others than its own kubelet: heartbeats alone do not.
fn node_matters(before: Option<&Value>, after: &Value) -> bool {
    let Some(before) = before else { return true };
    let at = |value: &Value, pointer: &str| value.pointer(pointer).cloned();
    let states = |value: &Value| -> Vec<(String, String)> {
        let all = look::items(value, "/status/conditions").iter();
        all.map(|c| (super::core::text(c, "/type").to_owned(), super::core::text(c, "/status").to_owned())).collect()
    };
    ["/spec", "/metadata/labels", "/metadata/deletionTimestamp", "/status/allocatable"].iter().any(|p| at(before, p) != at(after, p))
        || states(before) != states(after)
}
