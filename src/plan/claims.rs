//! Losing the volume of a claim: which pods go with it, and when it may not be lost.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;

use super::{
    guard::{FaultOn, Findings, Touched, called},
    seen::{NamedKind, ObjectSeen, Snapshot},
    types::{ResolvedObject, ResolvedTarget},
};
use crate::scenario::types::FaultSpec;

/// The claims that a pod uses, by name.
pub fn used(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

/// Why a claim has nothing to lose, or could not be put back as it was, if so.
pub fn unfit(claim: &PersistentVolumeClaim) -> Option<String> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Some("it is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if phase != "Bound" {
        return Some(format!("it is {phase}: only a bound claim has something to lose"));
    }
    let pod = claim.owner_references().iter().find(|owner| owner.kind == "Pod")?;
    Some(format!("it belongs to pod {}, and comes and goes with that", pod.name))
}

fn seen<'a>(object: &ResolvedObject, snapshot: &'a Snapshot) -> Option<&'a ObjectSeen> {
    snapshot.object(NamedKind::PersistentVolumeClaim, &object.namespace, &object.name)
}

/// The volume of the claim that is chosen.
pub(super) fn volume(target: &ResolvedTarget, snapshot: &Snapshot) -> Option<String> {
    let claim = target.chosen().find_map(|object| seen(object, snapshot))?;
    (!claim.volume.is_empty()).then(|| claim.volume.clone())
}

/// The pods that go with the volumes of a `loseVolume`; of other faults none. What is ending goes by itself.
pub(super) fn users(spec: &FaultSpec, target: &ResolvedTarget, snapshot: &Snapshot) -> Vec<ResolvedObject> {
    if spec.lose_volume.is_none() {
        return Vec::new();
    }
    let of = |claim: &ResolvedObject| {
        let (namespace, name) = (claim.namespace.clone(), claim.name.clone());
        let pods = snapshot.pods.get(&namespace).into_iter().flatten();
        pods.filter(move |(_, pod)| !pod.ending && pod.claims.contains(&name)).map(move |(name, pod)| ResolvedObject {
            kind: "Pod".to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            owner: pod.owner.clone(),
            ready: pod.ready,
            chosen: true,
        })
    };
    target.chosen().filter(|object| object.kind == "PersistentVolumeClaim").flat_map(of).collect()
}

/// Refuses claims that have nothing to lose, and those of pods that nothing brings back; counts the pods that go.
pub(super) fn check(fault: FaultOn<'_>, snapshot: &Snapshot, touched: &mut Touched, found: &mut Findings) {
    let FaultOn { step, spec, target, .. } = fault;
    if spec.lose_volume.is_none() {
        return;
    }
    for object in target.chosen() {
        if let Some(why) = seen(object, snapshot).and_then(|claim| claim.unfit.as_ref()) {
            found.refusals.push(format!("step `{step}`: `loseVolume` can do nothing with {}: {why}", called(object)));
        }
    }
    for pod in users(spec, target, snapshot) {
        if pod.owner.is_empty() {
            found.refusals.push(format!(
                "step `{step}`: pod {}/{} uses the volume and would end, and nothing would bring it back: it has no controller",
                pod.namespace, pod.name
            ));
        }
        touched.pods.insert(pod.uid);
    }
}
