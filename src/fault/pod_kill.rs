//! `podKill`: deletes pods, as `kubectl delete pod` does. A polite shutdown: the container gets SIGTERM, and what runs in it may
//! hand over. (`crash` and `freeze` do not ask.)

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Preconditions},
};

use super::{FaultCx, FaultError, PodRef, Prepared, Undo, change::until, owner};
use crate::{
    clock::Stamp,
    cluster::Fresh,
    journal::TouchedObject,
    plan::ResolvedObject,
    scenario::types::{FaultSpec, UndoPolicy},
};

/// How many deletions are under way at once.
const AT_ONCE: usize = 10;

pub(super) async fn prepare(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let (mut pods, mut owners, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    // As many at once as the deletions will be: the connections that they need are then open.
    let found: Vec<_> = stream::iter(targets)
        .map(|target| async move { (target, cx.cluster.get_opt::<Pod>(&target.namespace, &target.name).await) })
        .buffered(AT_ONCE)
        .collect()
        .await;
    for (target, pod) in found {
        let called = format!("kill pod {}/{}", target.namespace, target.name);
        let Some(pod) = pod?.filter(|pod| pod.uid().as_deref() == Some(&target.uid)) else {
            return Err(FaultError::failed(called, "it is no longer there"));
        };
        match owner::of(cx, &pod).await? {
            Some(of) if owners.contains(&of) => {}
            Some(of) => owners.push(of),
            None if irreversible(cx, target) => {}
            None => {
                return Err(FaultError::failed(called, "nothing would bring it back: it has no controller (`undo: none` accepts that)"));
            }
        }
        pods.push(PodRef { namespace: target.namespace.clone(), name: target.name.clone(), uid: target.uid.clone() });
        objects.push(TouchedObject {
            kind: "Pod".to_owned(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
        });
    }
    let mut states = Vec::new();
    for of in owners {
        states.push(owner::state(cx, of).await?);
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
        let live = |pod: &&PodRef| there.get(pod.uid.as_str()) == Some(&false);
        let said = |pod: &PodRef| format!("{} is {}", pod.name, if there.contains_key(pod.uid.as_str()) { "being ended" } else { "gone" });
        Ok(match pods.iter().find(live) {
            Some(pod) => Err(format!("pod {}/{} is not being deleted", pod.namespace, pod.name)),
            None => Ok(pods.iter().map(said).collect::<Vec<_>>().join(", ")),
        })
    })
    .await
}

/// Which of the pods exist, by uid, and whether each is being deleted. Many are seen by a list of their namespace: a thousand reads would
/// take longer than the deletions.
async fn still_there<'a>(cx: &FaultCx, pods: &'a [PodRef]) -> Result<BTreeMap<&'a str, bool>, FaultError> {
    let mut there = BTreeMap::new();
    if pods.len() <= AT_ONCE {
        for pod in pods {
            let now = cx.cluster.get_opt::<Pod>(&pod.namespace, &pod.name).await?.filter(|now| now.uid().as_deref() == Some(&pod.uid));
            there.extend(now.map(|now| (pod.uid.as_str(), now.metadata.deletion_timestamp.is_some())));
        }
        return Ok(there);
    }
    let ours: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    for namespace in pods.iter().map(|pod| pod.namespace.as_str()).collect::<BTreeSet<_>>() {
        let what = format!("list pods in {namespace}");
        let seen = |pod: Pod| {
            let uid = ours.get(pod.metadata.uid.as_deref()?)?;
            Some((*uid, pod.metadata.deletion_timestamp.is_some()))
        };
        there.extend(cx.cluster.list_map(&cx.cluster.api(namespace), None, &what, Fresh::Now, seen).await?);
    }
    Ok(there)
}
