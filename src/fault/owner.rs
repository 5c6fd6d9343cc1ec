//! The controllers of pods: who brings a pod back, and whether it has.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt as _;

use super::{FaultCx, FaultError, OwnerRef, OwnerState, change::until};
use crate::clock::Stamp;

/// How many pods a controller wants, how many are ready, and whether it has seen its newest spec.
struct Count {
    uid: String,
    wanted: i32,
    ready: i32,
    current: bool,
}

fn controller(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|o| o.controller == Some(true))
}

/// Who brings a pod back: its controller, or the Deployment above its ReplicaSet. `None` for a pod of its own.
///
/// # Errors
/// The API server.
pub(super) async fn of(cx: &FaultCx, pod: &Pod) -> Result<Option<OwnerRef>, FaultError> {
    let namespace = pod.namespace().unwrap_or_default();
    let Some(direct) = controller(pod.owner_references()) else { return Ok(None) };
    let mut top = direct.clone();
    if direct.kind == "ReplicaSet"
        && let Some(set) = cx.cluster.get_opt::<ReplicaSet>(&namespace, &direct.name).await?
        && let Some(above) = controller(set.owner_references())
    {
        top = above.clone();
    }
    Ok(Some(OwnerRef { namespace, kind: top.kind, name: top.name, uid: top.uid }))
}

async fn count(cx: &FaultCx, owner: &OwnerRef) -> Result<Option<Count>, FaultError> {
    let (ns, name) = (owner.namespace.as_str(), owner.name.as_str());
    macro_rules! replicas {
        ($kind:ty) => {
            cx.cluster.get_opt::<$kind>(ns, name).await?.map(|o| {
                let status = o.status.clone().unwrap_or_default();
                Count {
                    uid: o.uid().unwrap_or_default(),
                    wanted: o.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
                    ready: status.ready_replicas.unwrap_or(0),
                    current: status.observed_generation >= o.metadata.generation,
                }
            })
        };
    }
    Ok(match owner.kind.as_str() {
        "Deployment" => replicas!(Deployment),
        "ReplicaSet" => replicas!(ReplicaSet),
        "StatefulSet" => replicas!(StatefulSet),
        "DaemonSet" => cx.cluster.get_opt::<DaemonSet>(ns, name).await?.map(|o| {
            let status = o.status.clone().unwrap_or_default();
            Count {
                uid: o.uid().unwrap_or_default(),
                wanted: status.desired_number_scheduled,
                ready: status.number_ready,
                current: status.observed_generation >= o.metadata.generation,
            }
        }),
        // Jobs and custom controllers: whether they bring a pod back is their own affair.
        _ => None,
    })
}

/// An owner and how it is now.
///
/// # Errors
/// The API server.
pub(super) async fn state(cx: &FaultCx, owner: OwnerRef) -> Result<OwnerState, FaultError> {
    let ready = count(cx, &owner).await?.map_or(0, |c| c.ready);
    Ok(OwnerState { owner, ready })
}

/// Waits until each owner has as many ready pods as before (or as it wants, if that is less by now).
///
/// # Errors
/// Not within the limit.
pub(super) async fn all_ready(cx: &FaultCx, owners: &[OwnerState], limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that all pods are back", limit, || async {
        let mut said = Vec::new();
        for OwnerState { owner, ready } in owners {
            let called = format!("{} {}/{}", owner.kind, owner.namespace, owner.name);
            match count(cx, owner).await? {
                None => said.push(format!("{called} is gone or keeps no count")),
                Some(now) if now.uid != owner.uid => said.push(format!("{called} was made anew")),
                Some(now) if now.current && now.ready >= (*ready).min(now.wanted) => {
                    said.push(format!("{called} has {} of {} ready", now.ready, now.wanted));
                }
                Some(now) => return Ok(Err(format!("{called} has {} of {} ready, {ready} before", now.ready, now.wanted))),
            }
        }
        Ok(Ok(said.join(", ")))
    })
    .await
}
