//! Where a fault's helpers may be: on nodes, or within the target's pods; and whether what it acts on is a volume of these pods. Asked when
//! the plan is made and again at each inject.

use std::collections::BTreeSet;

use super::{
    guard::{FaultOn, Findings, called},
    kinds::{self, FaultView},
    seen::{MountSeen, Snapshot},
};
use crate::{
    labels,
    scenario::types::{OwnPlace, Placement},
};

/// Why a fault's helpers cannot be where they should, and what stays of those within pods.
pub(super) fn check(own: &OwnPlace, fault: FaultOn<'_>, view: &FaultView<'_>, snapshot: &Snapshot, found: &mut Findings) {
    let FaultOn { step, spec, target, .. } = fault;
    let kind = view.kind;
    let mut refuse = |why: String| found.refusals.push(format!("step `{step}`: {why}"));
    if !view.helper {
        if spec.placement.is_some() {
            refuse(format!("`{kind}` has no helper whose `placement` could be chosen: leave it out"));
        }
        return;
    }
    let forced = spec.placement.is_none();
    match kinds::placement(spec, own) {
        Placement::Node if own.node_helpers => return,
        Placement::Node => {
            let instead = if view.works_inside() { "leave `placement` out" } else { "use `podKill`" };
            return refuse(format!("`{kind}` needs a node helper, and the environment says `nodeHelpers: false`: allow it, or {instead}"));
        }
        Placement::Pod if !view.works_inside() => {
            return refuse(format!("`{kind}` needs its node, and cannot be made from within a pod: leave `placement: pod` out"));
        }
        Placement::Pod => {}
    }
    let why = if forced { " (the environment says `nodeHelpers: false`)" } else { "" };
    for object in target.chosen().filter(|object| object.kind == "Pod") {
        let Some(pod) = snapshot.pod(&object.namespace, &object.name) else { continue };
        if view.hits_all() && !pod.shares_processes {
            refuse(format!("`{kind}` cannot be made in {}{why}: {}", called(object), kinds::NOT_SHARED));
        }
        let level = snapshot.namespaces.get(&object.namespace).and_then(|n| n.labels.get(labels::POD_SECURITY));
        if level.is_some_and(|level| level == labels::RESTRICTED) && !pod.says_user {
            refuse(format!(
                "`{kind}` cannot be made in {}{why}: namespace {} enforces *restricted*, where an agent has to be of the target's own user, and \
                 a container of it does not say its `runAsUser`: say it, or use a node helper",
                called(object),
                object.namespace
            ));
        }
    }
    found.warnings.push(format!(
        "step `{step}`: `{kind}` is made by an ephemeral container in each pod{why}; that it was there stays on the pod's record until the pod is deleted"
    ));
}

/// Why the path of a fault on volumes leads to none in a pod of its target.
pub(super) fn volumes(fault: FaultOn<'_>, view: &FaultView<'_>, path: &str, snapshot: &Snapshot, found: &mut Findings) {
    let FaultOn { step, target, .. } = fault;
    for object in target.chosen().filter(|object| object.kind == "Pod") {
        let Some(pod) = snapshot.pod(&object.namespace, &object.name) else { continue };
        let chosen = |mount: &&MountSeen| target.spec.containers.is_empty() || target.spec.containers.contains(&mount.container);
        let mounts: Vec<&MountSeen> = pod.mounts.iter().filter(chosen).collect();
        if let Some(why) = no_volume(&mounts, path) {
            found.refusals.push(format!("step `{step}`: `{}` can do nothing in {}: {why}", view.kind, called(object)));
        }
    }
}

/// As the fault chooses: the longest path counts, and of several containers one that may write.
fn no_volume(mounts: &[&MountSeen], path: &str) -> Option<String> {
    let is_above = |at: &str| path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let above: Vec<&MountSeen> = mounts.iter().copied().filter(|mount| is_above(&mount.path)).collect();
    let longest = above.iter().map(|mount| mount.path.len()).max();
    let at: Vec<&MountSeen> = above.into_iter().filter(|mount| Some(mount.path.len()) == longest).collect();
    match (at.first(), at.iter().all(|mount| mount.unfit.is_some())) {
        (Some(first), true) => Some(format!("the volume at {} {}", first.path, first.unfit.unwrap_or_default())),
        (Some(_), false) => None,
        (None, _) => {
            let fit: BTreeSet<&str> = mounts.iter().filter(|mount| mount.unfit.is_none()).map(|mount| mount.path.as_str()).collect();
            let there = if fit.is_empty() {
                "it has no volume of a claim and no emptyDir".to_owned()
            } else {
                format!("volumes are at {}", fit.into_iter().collect::<Vec<_>>().join(", "))
            };
            Some(format!("no volume is mounted at or above {path}; {there}"))
        }
    }
}
