//! Faults, a file a kind, each keeping the whole contract: prepare → arm → inject → effective → holds → revert → gone.
//!
//! A new kind is a new file, a variant of [`Undo`], and a line in each `match` below.
//!
//! **Architecture invariant:** an undo is data. It never holds the contents of a Secret or a file, it is enough for a
//! revert from another machine, and it names the lasting thing (the CronJob, the StatefulSet), not what comes and goes.

mod bad_image;
mod change;
mod changed;
mod cordon_node;
mod custom;
mod custom_job;
mod cut_backup_job;
mod detach_service;
mod drain_node;
mod helpers;
mod hide_secret;
mod home;
mod lose_node;
mod lose_volume;
mod manifest;
mod node_disk;
mod on_nodes;
mod owner;
mod partition;
mod pod_kill;
mod processes;
mod scale;
mod signal;
pub mod sql;
mod undo;
mod volumes;

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use changed::{Changed, changed, is_costly};
pub use helpers::Helpers;
use home::Home;
pub use undo::*;

use crate::{
    agent::Link,
    clock::{Clock, Stamp},
    cluster::{Cluster, ClusterError, Leave},
    journal::{RevertResult, TouchedObject},
    plan::{Plan, ResolvedObject},
    scenario::types::{Dur, FaultSpec},
};

/// What faults need of the drill.
#[derive(Debug, Clone)]
pub struct FaultCx {
    /// The cluster.
    pub cluster: Cluster,
    /// The runner's clock.
    pub clock: Clock,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The drill's name: what a changed object is marked with.
    pub drill: String,
    /// Node helpers, placed when they are needed.
    pub helpers: Helpers,
    /// What this runner has deleted.
    pub deleted: Deleted,
    /// Asked at once before each write.
    pub leave: Leave,
}

impl Leave {
    fn to(&self, what: &str) -> Result<(), FaultError> {
        self.ask().map_err(|why| FaultError::failed(what, why))
    }
}

/// The uids that a runner has deleted: a second inject finds them gone and knows why, a first one that finds its targets gone
/// has broken nothing.
#[derive(Debug, Clone, Default)]
pub struct Deleted(Arc<Mutex<BTreeSet<String>>>);

impl Deleted {
    fn add(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
    }

    fn has(&self, uid: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }
}

impl FaultCx {
    /// For a drill. Nothing is placed yet.
    pub fn new(cluster: Cluster, clock: Clock, plan: Arc<Plan>, drill: &str) -> Self {
        let helpers = Helpers::new(cluster.clone(), clock.clone(), Arc::clone(&plan), drill);
        Self { cluster, clock, plan, drill: drill.to_owned(), helpers, deleted: Deleted::default(), leave: Leave::always() }
    }

    /// The helper of a place, put there if there is none.
    async fn helper(&self, home: &Home) -> Result<Link, FaultError> {
        self.helpers.on(home, &self.leave).await
    }

    /// The helper of a place if there is one.
    async fn existing_helper(&self, home: &Home) -> Result<Option<Link>, FaultError> {
        self.helpers.existing(home, &self.leave).await
    }
}

/// What is known before a fault is injected.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// How to undo it, and what it will act on: all that inject, revert and the proofs need.
    pub undo: Undo,
    /// For people.
    pub objects: Vec<TouchedObject>,
}

/// Why a part of a fault's contract failed.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The node helper.
    #[error(transparent)]
    Link(#[from] crate::agent::LinkError),
    /// The fault cannot be had as it is asked for.
    #[error("failed to {what}: {why}")]
    Failed {
        /// What was to be done: `scale StatefulSet shop/orders`.
        what: String,
        /// Why.
        why: String,
    },
    /// A proof did not come in time.
    #[error("{what} not seen within {}: {seen}", Dur(*.after))]
    NotSeen {
        /// What would prove it.
        what: String,
        /// The limit.
        after: Duration,
        /// What was seen instead.
        seen: String,
    },
    /// A kind this build does not have.
    #[error("this build cannot inject such a fault")]
    NotBuilt,
}

impl FaultError {
    /// Whether the API server does not let it be done.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Cluster(error) if error.is_forbidden())
    }

    pub(crate) fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), why: why.into() }
    }
}

/// The target a fault names.
pub fn target_of(spec: &FaultSpec) -> Option<&str> {
    spec.target()
}

/// Whether a fault needs a helper, on a node or in a pod, which takes seconds to place.
pub fn needs_helper(spec: &FaultSpec) -> bool {
    let on_volumes = spec.fill_disk.is_some() || spec.corrupt_file.is_some() || spec.delete_files.is_some();
    let on_nodes = spec.lose_node.is_some() || spec.lose_zone.is_some() || spec.fill_node_disk.is_some();
    on_nodes || spec.freeze.is_some() || spec.crash.is_some() || spec.signal.is_some() || spec.partition.is_some() || on_volumes
}

/// A future on the heap, made in a frame of its own. In a build without optimisation whoever polls has room on its stack for each
/// future that it might make: for those of all kinds at once that is more than a thread's stack holds.
fn apart<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}

/// Reads the state before and returns what the fault will do and how to undo it. Changes nothing.
///
/// # Errors
/// The state cannot be read, or the fault would change nothing, or could not be undone.
pub async fn prepare(cx: &FaultCx, spec: &FaultSpec, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let containers = target_of(spec).and_then(|t| cx.plan.targets.get(t)).map(|t| t.spec.containers.clone()).unwrap_or_default();
    if spec.pod_kill.is_some() {
        apart(|| pod_kill::prepare(cx, targets)).await
    } else if let Some(crash) = &spec.crash {
        let how = if crash.hold { ProcessFault::CrashHold } else { ProcessFault::Crash };
        apart(|| processes::prepare(cx, spec, targets, &containers, how)).await
    } else if spec.freeze.is_some() {
        apart(|| processes::prepare(cx, spec, targets, &containers, ProcessFault::Freeze)).await
    } else if let Some(scale) = &spec.scale {
        apart(|| scale::prepare(cx, scale, targets)).await
    } else if let Some(cut) = &spec.cut_backup_job {
        apart(|| cut_backup_job::prepare(cx, cut, targets)).await
    } else if spec.cordon_node.is_some() {
        apart(|| cordon_node::prepare(cx, targets)).await
    } else if spec.drain_node.is_some() {
        apart(|| drain_node::prepare(cx, spec, targets)).await
    } else if spec.detach_service.is_some() {
        apart(|| detach_service::prepare(cx, targets)).await
    } else if spec.bad_image.is_some() {
        apart(|| bad_image::prepare(cx, &containers, targets)).await
    } else if spec.hide_secret.is_some() {
        apart(|| hide_secret::prepare(cx, targets)).await
    } else if let Some(lose) = &spec.lose_volume {
        apart(|| lose_volume::prepare(cx, lose, targets)).await
    } else if spec.manifest.is_some() {
        apart(|| manifest::prepare(cx, spec)).await
    } else if spec.lose_node.is_some() || spec.lose_zone.is_some() {
        apart(|| lose_node::prepare(cx, targets)).await
    } else if let Some(fill) = &spec.fill_node_disk {
        apart(|| node_disk::prepare(cx, fill, targets)).await
    } else if let Some(signal) = &spec.signal {
        apart(|| signal::prepare(cx, spec, signal, targets, &containers)).await
    } else if let Some(partition) = &spec.partition {
        apart(|| partition::prepare(cx, partition, targets)).await
    } else if spec.fill_disk.is_some() || spec.corrupt_file.is_some() || spec.delete_files.is_some() {
        apart(|| volumes::prepare(cx, spec, targets, &containers)).await
    } else if let Some(custom) = &spec.custom {
        match custom.job {
            Some(_) => custom_job::prepare(cx, spec, custom),
            None => apart(|| custom::prepare(cx, custom, targets, &containers)).await,
        }
    } else if let Some(sql) = &spec.sql {
        apart(|| sql::prepare(cx, sql)).await
    } else {
        Err(FaultError::NotBuilt)
    }
}

/// Does everything slow, so that the injection takes milliseconds.
///
/// # Errors
/// A helper cannot be placed, or the target has gone meanwhile.
pub async fn arm(cx: &FaultCx, spec: &FaultSpec, undo: &Undo) -> Result<(), FaultError> {
    match undo {
        Undo::Processes { pods, .. } => apart(|| processes::arm(cx, pods)).await,
        Undo::Signal { to, signal, id } => apart(|| signal::arm(cx, to, signal, id)).await,
        Undo::Partition { pods, name, cuts } => apart(|| partition::arm(cx, pods, name, cuts)).await,
        Undo::Volumes { at, name } => apart(|| volumes::arm(cx, at, name)).await,
        Undo::NodeLoss { nodes, name } => apart(|| lose_node::arm(cx, nodes, name)).await,
        Undo::NodeDisk { at, name } => apart(|| node_disk::arm(cx, at, name)).await,
        Undo::CronJob { change: CronJobChange::JobKilled { .. }, .. } => apart(|| cut_backup_job::arm(cx, spec, undo)).await,
        Undo::Job(_) => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom_job::arm(cx, custom, undo)).await
        }
        Undo::Deleted { .. } | Undo::Scale { .. } | Undo::CronJob { .. } => Ok(()),
        Undo::Cordon { .. }
        | Undo::Drain { .. }
        | Undo::Service { .. }
        | Undo::Image { .. }
        | Undo::Secret { .. }
        | Undo::Claim(_)
        | Undo::Custom { .. }
        | Undo::Sql { .. }
        | Undo::Manifest { .. } => Ok(()),
    }
}

/// Breaks it. Gives the instants before the first change and after the last answer. Doing it twice changes nothing more.
///
/// # Errors
/// It could not be done, wholly or in part; [`revert`] deals with what there is.
pub async fn inject(cx: &FaultCx, spec: &FaultSpec, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    match undo {
        Undo::Deleted { pods, .. } => apart(|| pod_kill::inject(cx, spec, pods)).await,
        Undo::Scale { .. } => apart(|| scale::inject(cx, undo)).await,
        Undo::CronJob { .. } => apart(|| cut_backup_job::inject(cx, undo)).await,
        Undo::Cordon { nodes } => apart(|| cordon_node::inject(cx, nodes)).await,
        Undo::Drain { nodes, pods, .. } => apart(|| drain_node::inject(cx, nodes, pods)).await,
        Undo::Service { .. } => apart(|| detach_service::inject(cx, undo)).await,
        Undo::Image { .. } => apart(|| bad_image::inject(cx, undo)).await,
        Undo::Secret { .. } => apart(|| hide_secret::inject(cx, undo)).await,
        Undo::Claim(lost) => apart(|| lose_volume::inject(cx, lost)).await,
        Undo::Manifest { .. } => apart(|| manifest::inject(cx, spec, undo)).await,
        Undo::Custom { .. } => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom::inject(cx, custom, undo)).await
        }
        Undo::Job(_) => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom_job::inject(cx, custom, undo)).await
        }
        Undo::Sql { .. } => {
            let sql = spec.sql.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| sql::inject(cx, sql, undo)).await
        }
        Undo::Processes { pods, how } => {
            cx.leave.to("signal processes")?;
            apart(|| processes::inject(cx, pods, *how)).await
        }
        Undo::Signal { to, signal, id } => {
            cx.leave.to("send a signal")?;
            apart(|| signal::inject(cx, to, signal, id)).await
        }
        Undo::Partition { pods, name, cuts } => {
            cx.leave.to("cut traffic")?;
            apart(|| partition::inject(cx, pods, name, cuts)).await
        }
        Undo::Volumes { at, name } => {
            cx.leave.to("change volumes")?;
            apart(|| volumes::inject(cx, at, name)).await
        }
        Undo::NodeLoss { nodes, name } => {
            cx.leave.to("lose nodes")?;
            apart(|| lose_node::inject(cx, nodes, name)).await
        }
        Undo::NodeDisk { at, name } => {
            cx.leave.to("fill disks of nodes")?;
            apart(|| node_disk::inject(cx, at, name)).await
        }
    }
}

/// Waits for the proof that it bit, and gives the instant at which that proof was complete.
///
/// # Errors
/// The proof did not come within the limit.
pub async fn effective(cx: &FaultCx, spec: &FaultSpec, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    match undo {
        Undo::Deleted { pods, .. } => apart(|| pod_kill::effective(cx, pods, limit)).await,
        Undo::Scale { .. } => apart(|| scale::effective(cx, undo, limit)).await,
        Undo::CronJob { .. } => apart(|| cut_backup_job::effective(cx, undo, limit)).await,
        Undo::Cordon { nodes } => apart(|| cordon_node::effective(cx, nodes, limit)).await,
        Undo::Drain { nodes, grace_secs, .. } => apart(|| drain_node::effective(cx, nodes, *grace_secs, limit)).await,
        Undo::Service { .. } => apart(|| detach_service::effective(cx, undo, limit)).await,
        Undo::Image { .. } => apart(|| bad_image::effective(cx, undo, limit)).await,
        Undo::Secret { .. } => apart(|| hide_secret::effective(cx, undo, limit)).await,
        Undo::Claim(lost) => apart(|| lose_volume::effective(cx, lost, limit)).await,
        Undo::Manifest { .. } => apart(|| manifest::effective(cx, spec, undo, limit)).await,
        Undo::Custom { .. } => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom::effective(cx, custom, undo, limit)).await
        }
        Undo::Job(_) => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom_job::effective(cx, custom, undo, limit)).await
        }
        Undo::Sql { .. } => apart(|| sql::effective(cx, undo, limit)).await,
        Undo::Processes { pods, how } => apart(|| processes::effective(cx, pods, *how, limit)).await,
        Undo::Signal { to, signal, id } => apart(|| signal::effective(cx, to, signal, id, limit)).await,
        Undo::Partition { pods, name, cuts } => apart(|| partition::effective(cx, pods, name, cuts, limit)).await,
        Undo::Volumes { at, name } => apart(|| volumes::effective(cx, at, name, limit)).await,
        Undo::NodeLoss { nodes, name } => apart(|| lose_node::effective(cx, nodes, name, limit)).await,
        Undo::NodeDisk { at, name } => apart(|| node_disk::effective(cx, at, name, limit)).await,
    }
}

/// Whether it still holds: `None`, or how others have undone it. What happens once (a kill) has nothing to hold.
///
/// # Errors
/// It cannot be seen.
pub async fn holds(cx: &FaultCx, spec: &FaultSpec, undo: &Undo) -> Result<Option<String>, FaultError> {
    match undo {
        Undo::Deleted { .. } => Ok(None),
        Undo::Scale { .. } => apart(|| scale::holds(cx, undo)).await,
        Undo::CronJob { .. } => apart(|| cut_backup_job::holds(cx, undo)).await,
        Undo::Cordon { nodes } => apart(|| cordon_node::holds(cx, nodes)).await,
        Undo::Drain { nodes, .. } => apart(|| drain_node::holds(cx, nodes)).await,
        Undo::Service { .. } => apart(|| detach_service::holds(cx, undo)).await,
        Undo::Image { .. } => apart(|| bad_image::holds(cx, undo)).await,
        Undo::Secret { .. } => apart(|| hide_secret::holds(cx, undo)).await,
        Undo::Claim(lost) => apart(|| lose_volume::holds(cx, lost)).await,
        Undo::Manifest { .. } => apart(|| manifest::holds(cx, spec, undo)).await,
        Undo::Custom { .. } => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom::holds(cx, custom, undo)).await
        }
        Undo::Job(_) => {
            let custom = spec.custom.as_ref().ok_or(FaultError::NotBuilt)?;
            apart(|| custom_job::holds(cx, custom, undo)).await
        }
        Undo::Sql { .. } => apart(|| sql::holds(cx, undo)).await,
        Undo::Processes { pods, how } => apart(|| processes::holds(cx, pods, *how)).await,
        Undo::Signal { to, signal, id } => apart(|| signal::holds(cx, to, signal, id)).await,
        Undo::Partition { pods, name, cuts } => apart(|| partition::holds(cx, pods, name, cuts)).await,
        Undo::Volumes { at, name } => apart(|| volumes::holds(cx, at, name)).await,
        Undo::NodeLoss { nodes, name } => apart(|| lose_node::holds(cx, nodes, name)).await,
        Undo::NodeDisk { at, name } => apart(|| node_disk::holds(cx, at, name)).await,
    }
}

/// Undoes it, from the bare undo: after a whole, a partial or no injection, twice, when the target is gone, from anywhere. What
/// is no longer ours is left alone.
///
/// # Errors
/// It could not be done now; it may be tried again.
pub async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    match undo {
        Undo::Deleted { .. } => Ok((RevertResult::Nothing, "the pods' owners bring them back".to_owned())),
        Undo::Scale { .. } => apart(|| scale::revert(cx, undo)).await,
        Undo::CronJob { .. } => apart(|| cut_backup_job::revert(cx, undo)).await,
        Undo::Cordon { nodes } | Undo::Drain { nodes, .. } => apart(|| cordon_node::revert(cx, nodes)).await,
        Undo::Service { .. } => apart(|| detach_service::revert(cx, undo)).await,
        Undo::Image { .. } => apart(|| bad_image::revert(cx, undo)).await,
        Undo::Secret { .. } => apart(|| hide_secret::revert(cx, undo)).await,
        Undo::Claim(lost) => apart(|| lose_volume::revert(cx, lost)).await,
        Undo::Manifest { .. } => apart(|| manifest::revert(cx, undo)).await,
        Undo::Custom { .. } => apart(|| custom::revert(cx, undo)).await,
        Undo::Job(_) => apart(|| custom_job::revert(cx, undo)).await,
        Undo::Sql { .. } => apart(|| sql::revert(cx, undo)).await,
        Undo::Processes { pods, how } => apart(|| processes::revert(cx, pods, *how)).await,
        Undo::Signal { to, signal, id } => apart(|| signal::revert(cx, to, signal, id)).await,
        Undo::Partition { pods, name, cuts } => apart(|| partition::revert(cx, pods, name, cuts)).await,
        Undo::Volumes { at, name } => apart(|| volumes::revert(cx, at, name)).await,
        Undo::NodeLoss { nodes, name } => apart(|| lose_node::revert(cx, nodes, name)).await,
        Undo::NodeDisk { at, name } => apart(|| node_disk::revert(cx, at, name)).await,
    }
}

/// Waits for the proof that nothing is left of it.
///
/// # Errors
/// The proof did not come within the limit.
pub async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    match undo {
        Undo::Deleted { owners, .. } => apart(|| owner::all_ready(cx, owners, limit)).await,
        Undo::Scale { .. } => apart(|| scale::gone(cx, undo, limit)).await,
        Undo::CronJob { .. } => apart(|| cut_backup_job::gone(cx, undo, limit)).await,
        Undo::Cordon { nodes } => apart(|| cordon_node::gone(cx, nodes, limit)).await,
        Undo::Drain { nodes, owners, .. } => apart(|| drain_node::gone(cx, nodes, owners, limit)).await,
        Undo::Service { .. } => apart(|| detach_service::gone(cx, undo, limit)).await,
        Undo::Image { .. } => apart(|| bad_image::gone(cx, undo, limit)).await,
        Undo::Secret { .. } => apart(|| hide_secret::gone(cx, undo, limit)).await,
        Undo::Claim(lost) => apart(|| lose_volume::gone(cx, lost, limit)).await,
        Undo::Manifest { .. } => apart(|| manifest::gone(cx, undo, limit)).await,
        Undo::Custom { .. } => apart(|| custom::gone(cx, undo, limit)).await,
        Undo::Job(_) => apart(|| custom_job::gone(cx, undo, limit)).await,
        Undo::Sql { .. } => apart(|| sql::gone(cx, undo, limit)).await,
        Undo::Processes { pods, how } => apart(|| processes::gone(cx, pods, *how, limit)).await,
        Undo::Signal { to, signal, id } => apart(|| signal::gone(cx, to, signal, id, limit)).await,
        Undo::Partition { pods, name, cuts } => apart(|| partition::gone(cx, pods, name, cuts, limit)).await,
        Undo::Volumes { at, name } => apart(|| volumes::gone(cx, at, name, limit)).await,
        Undo::NodeLoss { nodes, name } => apart(|| lose_node::gone(cx, nodes, name, limit)).await,
        Undo::NodeDisk { at, name } => apart(|| node_disk::gone(cx, at, name, limit)).await,
    }
}

/// Drops what was kept for a revert that will not come, by the fault's undo policy: what it has changed stays. `restored` says that
/// a runbook has restored the target, by its own word.
///
/// # Errors
/// It could not be dropped, or must not be, and says where it is.
pub async fn let_go(cx: &FaultCx, undo: &Undo, restored: bool) -> Result<(), FaultError> {
    match undo {
        Undo::Sql { .. } => apart(|| sql::let_go(cx, undo)).await,
        Undo::Claim(lost) => apart(|| lose_volume::let_go(cx, lost, restored)).await,
        _ => Ok(()),
    }
}
