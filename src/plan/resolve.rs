//! Targets → objects: [`resolve`] is pure, [`fresh`] reads one target again.
//!
//! A choice (`mode: one`, `2`, `30%`) takes the objects with the smallest SHA-256 of seed, target name, namespace and
//! name. That depends neither on the order of a list nor on a random generator's version, and an object that comes or
//! goes changes the choice only if it is itself among the chosen.
//!
//! Never matched: pods that are being deleted or have ended (a fault on them would prove nothing), and firedrill's own.

use kube::core::SelectorExt as _;
use sha2::{Digest as _, Sha256};

use super::{
    seen::{NamedKind, PodSeen, Snapshot},
    snapshot,
    types::{Plan, ResolvedObject, ResolvedTarget, SHOWN_UNCHOSEN},
    wants::Wants,
};
use crate::{
    cluster::{Cluster, ClusterError, Fresh},
    labels,
    scenario::types::{Mode, Target},
    selector,
};

/// Resolves a target. Zero matches are not an error here: [`super::guard`] refuses them where it matters.
///
/// # Errors
/// When the target names no thing, no namespace, or a selector that does not parse: mistakes of the scenario, named.
pub fn resolve(name: &str, target: &Target, snapshot: &Snapshot, seed: u64) -> Result<ResolvedTarget, String> {
    let mut objects = matching(name, target, snapshot)?;
    objects.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let matched = objects.len();
    choose(name, target.mode, seed, &mut objects);
    let mut shown = 0;
    objects.retain(|object| {
        shown += usize::from(!object.chosen);
        object.chosen || shown <= SHOWN_UNCHOSEN
    });
    Ok(ResolvedTarget { spec: target.clone(), matched: u32::try_from(matched).unwrap_or(u32::MAX), objects })
}

/// Reads just one target of a plan again and resolves it anew.
///
/// # Errors
/// When the cluster cannot be read, or the plan has no such target.
pub async fn fresh(cluster: &Cluster, plan: &Plan, target: &str) -> Result<ResolvedTarget, FreshError> {
    let planned = plan.targets.get(target).ok_or_else(|| FreshError::Target(format!("the plan has no target `{target}`")))?;
    let wants = Wants::of_target(&planned.spec, &plan.place.firedrill.namespace, false);
    let snapshot = snapshot::read(cluster, &wants, Fresh::Now).await?;
    resolve(target, &planned.spec, &snapshot, plan.seed).map_err(FreshError::Target)
}

/// Why a target could not be resolved again.
#[derive(Debug, thiserror::Error)]
pub enum FreshError {
    /// The cluster could not be read.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The target cannot be resolved at all.
    #[error("failed to resolve: {0}")]
    Target(String),
}

/// How many a mode chooses out of those that match; none when there are too few of them.
pub fn wanted(mode: Mode, matched: usize) -> Option<usize> {
    let wanted = match mode {
        Mode::All => matched,
        Mode::One => 1,
        Mode::Count(n) => n as usize,
        // Rounded up, in whole numbers.
        Mode::Percent(percent) => (matched * usize::from(percent)).div_ceil(100),
    };
    (wanted <= matched).then_some(wanted)
}

fn choose(target: &str, mode: Mode, seed: u64, objects: &mut [ResolvedObject]) {
    // Too few: none is chosen rather than some, so that the refusal of the guard is not half true.
    let wanted = wanted(mode, objects.len()).unwrap_or(0);
    if wanted == objects.len() {
        objects.iter_mut().for_each(|object| object.chosen = true);
        return;
    }
    let mut ranked: Vec<([u8; 32], usize)> =
        objects.iter().enumerate().map(|(i, object)| (rank(seed, target, &object.namespace, &object.name), i)).collect();
    ranked.sort_unstable();
    for (_, i) in ranked.into_iter().take(wanted) {
        objects[i].chosen = true;
    }
}

fn rank(seed: u64, target: &str, namespace: &str, name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for part in [target, namespace, name] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().into()
}

/// The one object, other than a pod or a node, that a target names.
pub(super) fn named_object(target: &Target) -> Option<(NamedKind, &str)> {
    let named = [
        (NamedKind::PersistentVolumeClaim, &target.pvc),
        (NamedKind::Service, &target.service),
        (NamedKind::CronJob, &target.cron_job),
        (NamedKind::Deployment, &target.deployment),
        (NamedKind::StatefulSet, &target.stateful_set),
        (NamedKind::Secret, &target.secret),
    ];
    named.into_iter().find_map(|(kind, name)| Some((kind, name.as_deref()?)))
}

fn matching(name: &str, target: &Target, snapshot: &Snapshot) -> Result<Vec<ResolvedObject>, String> {
    if target.nodes.is_some() || target.zone.is_some() {
        return nodes(name, target, snapshot);
    }
    let namespace =
        target.namespace.as_deref().filter(|n| !n.is_empty()).ok_or_else(|| format!("target `{name}`: it needs a `namespace`"))?;
    if let Some((kind, object)) = named_object(target) {
        let seen = snapshot.object(kind, namespace, object);
        return Ok(seen.map(|seen| plain(kind.as_str(), namespace, object, &seen.uid)).into_iter().collect());
    }
    let pods = snapshot.pods.get(namespace);
    let keep = |wanted: &dyn Fn(&str, &PodSeen) -> bool| -> Vec<ResolvedObject> {
        let pods = pods.into_iter().flatten().filter(|(name, pod)| !pod.ending && wanted(name, pod));
        pods.map(|(name, pod)| of_pod(namespace, name, pod)).collect()
    };
    if let Some(selector) = &target.pods {
        let selector = selector::parse(&selector.0).map_err(|error| format!("target `{name}`: {error}"))?;
        return Ok(keep(&|_, pod| selector.matches(&pod.labels)));
    }
    if let Some(pod) = &target.name {
        return Ok(keep(&|name, _| name == pod));
    }
    if let Some(owner) = &target.owner {
        return Ok(keep(&|_, pod| pod.owner == *owner));
    }
    Err(format!("target `{name}` says nothing of what it is: write for example `pods: app=web` or `cronJob: backup`"))
}

/// The nodes that a target matches; all of them, whatever its mode chooses. None: it cannot be said, and resolving it says why.
pub(super) fn node_names(target: &Target, snapshot: &Snapshot) -> Vec<String> {
    nodes("", target, snapshot).unwrap_or_default().into_iter().map(|node| node.name).collect()
}

fn nodes(name: &str, target: &Target, snapshot: &Snapshot) -> Result<Vec<ResolvedObject>, String> {
    let selector = target.nodes.as_ref().map(|s| selector::parse(&s.0)).transpose().map_err(|error| format!("target `{name}`: {error}"))?;
    let nodes = snapshot.nodes.iter().filter(|(_, node)| {
        selector.as_ref().is_none_or(|s| s.matches(&node.labels))
            && target.zone.as_ref().is_none_or(|zone| node.labels.get(labels::ZONE) == Some(zone))
    });
    Ok(nodes.map(|(name, node)| ResolvedObject { ready: node.ready, ..plain("Node", "", name, &node.uid) }).collect())
}

fn plain(kind: &str, namespace: &str, name: &str, uid: &str) -> ResolvedObject {
    ResolvedObject {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        node: String::new(),
        owner: String::new(),
        ready: false,
        chosen: false,
    }
}

fn of_pod(namespace: &str, name: &str, pod: &PodSeen) -> ResolvedObject {
    ResolvedObject { node: pod.node.clone(), owner: pod.owner.clone(), ready: pod.ready, ..plain("Pod", namespace, name, &pod.uid) }
}
