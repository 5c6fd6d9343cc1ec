//! `podKill`: deletes pods, as `kubectl delete pod` does. A polite shutdown: the container gets SIGTERM, and what runs in it may
//! hand over. (`crash` and `freeze` do not ask.)

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Preconditions},
};

use super::{
    FaultCx, FaultError, OwnerState, PodRef, Prepared, Undo,
    change::{touched, until},
    owner,
};
use crate::{
    clock::Stamp,
    cluster::Fresh,
    plan::ResolvedObject,
    scenario::types::{FaultSpec, UndoPolicy},
};

/// How many deletions are under way at once.
const AT_ONCE: usize = 10;

pub(super) async fn prepare(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let (mut pods, mut owners, mut objects) = (Vec::new(), BTreeMap::new(), Vec::new());
    let wanted: Vec<PodRef> =
        targets.iter().map(|t| PodRef { namespace: t.namespace.clone(), name: t.name.clone(), uid: t.uid.clone() }).collect();
    let now = still_there(cx, &wanted).await?;
    for (target, pod) in targets.iter().zip(&wanted) {
        let called = format!("kill pod {}/{}", pod.namespace, pod.name);
        let Some(seen) = now.get(pod.uid.as_str()) else {
            return Err(FaultError::failed(called, "it is no longer there"));
        };
        match &seen.controller {
            Some(direct) if owners.contains_key(&direct.uid) => {}
            Some(direct) => drop(owners.insert(direct.uid.clone(), owner::above(cx, &pod.namespace, direct).await?)),
            None if irreversible(cx, target) => {}
            None => {
                return Err(FaultError::failed(called, "nothing would bring it back: it has no controller (`undo: none` accepts that)"));
            }
        }
        pods.push(pod.clone());
        objects.push(touched(target));
    }
    let mut states: Vec<OwnerState> = Vec::new();
    for of in owners.into_values() {
        // Two ReplicaSets may be one Deployment's.
        if states.iter().all(|state| state.owner != of) {
            states.push(owner::state(cx, of).await?);
        }
    }
    Ok(Prepared { undo: Undo::Deleted { pods, owners: states }, objects })
}

/// Whether the plan accepts that this pod does not come back.
fn irreversible(cx: &FaultCx, target: &ResolvedObject) -> bool {
    cx.plan.leaf_steps().iter().any(|step| {
        step.undo == Some(UndoPolicy::None)
            && step
                .spec
                .inject
                .as_ref()
                .and_then(|f| f.pod_kill.as_ref())
                .is_some_and(|kill| cx.plan.targets.get(&kill.target).is_some_and(|t| t.chosen().any(|o| o.uid == target.uid)))
    })
}

/// Deletes the pods. One that is gone already, or has been replaced by another of its name, is passed over; if that is true
/// of all of them, nothing was broken.
pub(super) async fn inject(cx: &FaultCx, spec: &FaultSpec, pods: &[PodRef]) -> Result<(Stamp, Stamp), FaultError> {
    let grace = spec.pod_kill.as_ref().and_then(|kill| kill.grace).map(|g| u32::try_from(g.0.as_secs()).unwrap_or(u32::MAX));
    let start = cx.clock.now();
    let answers: Vec<Result<bool, FaultError>> = stream::iter(pods)
        .map(|pod| async move {
            // Only this very pod: the one that takes its name afterwards is not ours to kill.
            let params = DeleteParams {
                grace_period_seconds: grace,
                preconditions: Some(Preconditions { uid: Some(pod.uid.clone()), resource_version: None }),
                ..DeleteParams::default()
            };
            let what = format!("delete pod {}/{}", pod.namespace, pod.name);
            cx.leave.to(&what)?;
            match cx.cluster.call(&what, cx.cluster.api::<Pod>(&pod.namespace).delete(&pod.name, &params)).await {
                Ok(_) => {
                    cx.deleted.add(&pod.uid);
                    Ok(true)
                }
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(cx.deleted.has(&pod.uid)),
                Err(error) => Err(error.into()),
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let end = cx.clock.now();
    let mut any = false;
    for answer in answers {
        any |= answer?;
    }
    if !any {
        let names: Vec<String> = pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        return Err(FaultError::failed(format!("kill {}", names.join(", ")), "gone before anything was done to it: nothing was broken"));
    }
    Ok((start, end))
}

/// The pod is deleted, or marked for deletion: it is out of its Services, and the kubelet ends it.
pub(super) async fn effective(cx: &FaultCx, pods: &[PodRef], limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the pods are deleted", limit, || async {
        let there = still_there(cx, pods).await?;
        let live = |pod: &&PodRef| there.get(pod.uid.as_str()).is_some_and(|seen| !seen.ending);
        let said = |pod: &PodRef| format!("{} is {}", pod.name, if there.contains_key(pod.uid.as_str()) { "being ended" } else { "gone" });
        Ok(match pods.iter().find(live) {
            Some(pod) => Err(format!("pod {}/{} is not being deleted", pod.namespace, pod.name)),
            None => Ok(pods.iter().map(said).collect::<Vec<_>>().join(", ")),
        })
    })
    .await
}

/// A pod that exists.
struct Seen {
    controller: Option<OwnerReference>,
    ending: bool,
}

impl Seen {
    fn of(pod: Pod) -> Self {
        let ending = pod.metadata.deletion_timestamp.is_some();
        Self { controller: owner::controller(pod.owner_references()).cloned(), ending }
    }
}

/// Which of the pods exist, by uid. Many are seen by a list of their namespace: a thousand reads would take longer than the deletions.
async fn still_there<'a>(cx: &FaultCx, pods: &'a [PodRef]) -> Result<BTreeMap<&'a str, Seen>, FaultError> {
    let mut there = BTreeMap::new();
    if pods.len() <= AT_ONCE {
        // As many at once as the deletions will be: the connections that they need are then open.
        let read = |pod: &'a PodRef| async move { (pod, cx.cluster.get_opt::<Pod>(&pod.namespace, &pod.name).await) };
        for (pod, now) in stream::iter(pods).map(read).buffered(AT_ONCE).collect::<Vec<_>>().await {
            let now = now?.filter(|now| now.uid().as_deref() == Some(&pod.uid));
            there.extend(now.map(|now| (pod.uid.as_str(), Seen::of(now))));
        }
        return Ok(there);
    }
    let ours: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    for namespace in pods.iter().map(|pod| pod.namespace.as_str()).collect::<BTreeSet<_>>() {
        let what = format!("list pods in {namespace}");
        let seen = |pod: Pod| Some((*ours.get(pod.metadata.uid.as_deref()?)?, Seen::of(pod)));
        there.extend(cx.cluster.list_map(&cx.cluster.api(namespace), None, &what, Fresh::Now, seen).await?);
    }
    Ok(there)
}
