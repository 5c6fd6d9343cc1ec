//! The controllers of pods: who brings a pod back, and whether it has.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use kube::{ResourceExt as _, core::Selector};

use super::{FaultCx, FaultError, OwnerRef, OwnerState, change::until};
use crate::{clock::Stamp, cluster::Fresh};

/// What a controller wants, and how its pods are selected.
struct Wanted {
    uid: String,
    replicas: i32,
    selector: LabelSelector,
}

/// How many pods a controller wants and how many of them are ready, by the pods themselves.
///
/// Its status is not asked: right after a deletion it still counts the pod that is being ended, and `observedGeneration` says
/// nothing of pods.
struct Count {
    uid: String,
    wanted: i32,
    ready: i32,
}

/// The one of them that made the object, if there is one.
pub(super) fn controller(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|o| o.controller == Some(true))
}

/// Who brings a pod back: its controller, or the Deployment above its ReplicaSet. `None` for a pod of its own.
///
/// # Errors
/// The API server.
pub(super) async fn of(cx: &FaultCx, pod: &Pod) -> Result<Option<OwnerRef>, FaultError> {
    let namespace = pod.namespace().unwrap_or_default();
    match controller(pod.owner_references()) {
        Some(direct) => above(cx, &namespace, direct).await.map(Some),
        None => Ok(None),
    }
}

/// The controller of a pod, or the Deployment above it if it is a ReplicaSet.
///
/// # Errors
/// The API server.
pub(super) async fn above(cx: &FaultCx, namespace: &str, direct: &OwnerReference) -> Result<OwnerRef, FaultError> {
    let mut top = direct.clone();
    if direct.kind == "ReplicaSet"
        && let Some(set) = cx.cluster.get_opt::<ReplicaSet>(namespace, &direct.name).await?
        && let Some(above) = controller(set.owner_references())
    {
        top = above.clone();
    }
    Ok(OwnerRef { namespace: namespace.to_owned(), kind: top.kind, name: top.name, uid: top.uid })
}

/// Whether the kind is one whose pods can be counted.
fn is_counted(kind: &str) -> bool {
    matches!(kind, "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
}

async fn wanted(cx: &FaultCx, owner: &OwnerRef) -> Result<Option<Wanted>, FaultError> {
    let (ns, name) = (owner.namespace.as_str(), owner.name.as_str());
    macro_rules! replicas {
        ($kind:ty) => {
            cx.cluster.get_opt::<$kind>(ns, name).await?.and_then(|o| {
                let (uid, spec) = (o.uid().unwrap_or_default(), o.spec?);
                Some(Wanted { uid, replicas: spec.replicas.unwrap_or(1), selector: spec.selector })
            })
        };
    }
    Ok(match owner.kind.as_str() {
        "Deployment" => replicas!(Deployment),
        "ReplicaSet" => replicas!(ReplicaSet),
        "StatefulSet" => replicas!(StatefulSet),
        "DaemonSet" => cx.cluster.get_opt::<DaemonSet>(ns, name).await?.and_then(|o| {
            let (uid, replicas) = (o.uid().unwrap_or_default(), o.status.map_or(0, |s| s.desired_number_scheduled));
            Some(Wanted { uid, replicas, selector: o.spec?.selector })
        }),
        // Jobs and custom controllers: whether they bring a pod back is their own affair.
        _ => None,
    })
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True")
}

async fn count(cx: &FaultCx, owner: &OwnerRef, fresh: Fresh) -> Result<Option<Count>, FaultError> {
    let ns = owner.namespace.as_str();
    let Some(Wanted { uid, replicas, selector }) = wanted(cx, owner).await? else { return Ok(None) };
    let selector = Selector::try_from(selector)
        .map_err(|e| FaultError::failed(format!("select the pods of {} {ns}/{}", owner.kind, owner.name), e.to_string()))?;
    let (api, what) = (cx.cluster.api::<Pod>(ns), format!("list pods in {ns}"));
    let keep = |pod: Pod| {
        let of = controller(pod.owner_references()).filter(|_| is_ready(&pod))?;
        Some((of.kind.clone(), of.name.clone(), of.uid.clone()))
    };
    let mut by_controller: BTreeMap<(String, String, String), i32> = BTreeMap::new();
    for of in cx.cluster.list_map(&api, Some(&selector.to_string()), &what, fresh, keep).await? {
        *by_controller.entry(of).or_default() += 1;
    }
    let mut ready = 0;
    for ((kind, name, of), pods) in by_controller {
        // Of a Deployment's pods the controller is one of its ReplicaSets.
        let ours = of == uid
            || owner.kind == "Deployment"
                && kind == "ReplicaSet"
                && cx.cluster.get_opt::<ReplicaSet>(ns, &name).await?.is_some_and(|set| {
                    set.uid().as_deref() == Some(&of) && controller(set.owner_references()).is_some_and(|above| above.uid == uid)
                });
        if ours {
            ready += pods;
        }
    }
    Ok(Some(Count { uid, wanted: replicas, ready }))
}

/// How many pods a controller wants, and the first by name of those that are ready; none when it is gone, or one that keeps no count.
///
/// # Errors
/// The API server.
pub(super) async fn ready_pod(cx: &FaultCx, owner: &OwnerRef) -> Result<Option<(i32, Option<Pod>)>, FaultError> {
    let ns = owner.namespace.as_str();
    let Some(Wanted { uid, replicas, selector }) = wanted(cx, owner).await? else { return Ok(None) };
    let selector = Selector::try_from(selector)
        .map_err(|e| FaultError::failed(format!("select the pods of {} {ns}/{}", owner.kind, owner.name), e.to_string()))?;
    let (api, what) = (cx.cluster.api::<Pod>(ns), format!("list pods in {ns}"));
    // Of each controller the first: whatever else is true of one of its pods here is true of all.
    let mut firsts: BTreeMap<String, Pod> = BTreeMap::new();
    let keep = |pod: Pod| -> Option<()> {
        let direct = controller(pod.owner_references()).filter(|_| is_ready(&pod))?.uid.clone();
        if firsts.get(&direct).is_none_or(|first| pod.name_any() < first.name_any()) {
            firsts.insert(direct, pod);
        }
        None
    };
    cx.cluster.list_map(&api, Some(&selector.to_string()), &what, Fresh::Now, keep).await?;
    let mut firsts: Vec<Pod> = firsts.into_values().collect();
    firsts.sort_by_key(kube::ResourceExt::name_any);
    for pod in firsts {
        if of(cx, &pod).await?.is_some_and(|above| above.uid == uid) {
            return Ok(Some((replicas, Some(pod))));
        }
    }
    Ok(Some((replicas, None)))
}

/// An owner and how it is now.
///
/// # Errors
/// The API server.
pub(super) async fn state(cx: &FaultCx, owner: OwnerRef) -> Result<OwnerState, FaultError> {
    let ready = count(cx, &owner, Fresh::Seen).await?.map_or(0, |c| c.ready);
    Ok(OwnerState { owner, ready })
}

/// Waits until each owner has as many ready pods as before (or as it wants, if that is less by now). A pod that is being
/// deleted is not ready, whatever its conditions say. An owner that was made anew meanwhile must have its pods, too.
///
/// # Errors
/// Not within the limit.
pub(super) async fn all_ready(cx: &FaultCx, owners: &[OwnerState], limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that all pods are back", limit, || async {
        let mut said = Vec::new();
        for OwnerState { owner, ready: before } in owners {
            let called = format!("{} {}/{}", owner.kind, owner.namespace, owner.name);
            let Some(Count { uid, wanted, ready }) = count(cx, owner, Fresh::Now).await? else {
                said.push(if is_counted(&owner.kind) { format!("{called} is gone") } else { format!("{called} keeps no count") });
                continue;
            };
            let anew = if uid == owner.uid { "" } else { " (made anew)" };
            if ready < (*before).min(wanted) {
                return Ok(Err(format!("{called}{anew} has {ready} of {wanted} ready, {before} before")));
            }
            said.push(format!("{called}{anew} has {ready} of {wanted} ready"));
        }
        Ok(Ok(said.join(", ")))
    })
    .await
}
