//! `scale`: sets the replicas of a Deployment or StatefulSet.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, StatefulSet, StatefulSetStatus};
use kube::{Resource, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;

use super::{
    FaultCx, FaultError, Prepared, Undo,
    change::{Decision, as_is, change, mark, marked_by, only, refuse_foreign, touched, unmark, until},
};
use crate::{
    clock::Stamp,
    journal::RevertResult,
    plan::ResolvedObject,
    scenario::{diag::counted, types::Scale},
};

/// What `scale` needs to know of a workload.
trait Replicas: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned {
    fn wanted(&self) -> i32;
    /// Pods there are, pods ready, and whether the controller has seen the newest spec.
    fn actual(&self) -> (i32, i32, bool);
}

macro_rules! replicas {
    ($kind:ty, $there:expr) => {
        impl Replicas for $kind {
            fn wanted(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
            }
            fn actual(&self) -> (i32, i32, bool) {
                let Some(status) = &self.status else { return (0, 0, false) };
                ($there(status), status.ready_replicas.unwrap_or(0), status.observed_generation >= self.metadata.generation)
            }
        }
    };
}
replicas!(Deployment, |status: &DeploymentStatus| status.replicas.unwrap_or(0));
replicas!(StatefulSet, |status: &StatefulSetStatus| status.replicas);

/// The undo of a `scale`, taken apart.
struct Scaled<'a> {
    id: (&'a str, &'a str, &'a str),
    kind: &'a str,
    before: i32,
    set: i32,
    ready: i32,
}

fn parts(undo: &Undo) -> Result<Scaled<'_>, FaultError> {
    match undo {
        Undo::Scale { namespace, kind, name, uid, before, set, ready } => {
            Ok(Scaled { id: (namespace, name, uid), kind, before: *before, set: *set, ready: *ready })
        }
        _ => Err(FaultError::NotBuilt),
    }
}

/// Calls a function for the kind that an undo names.
macro_rules! by_kind {
    ($scaled:expr, $function:ident ( $($arg:expr),* )) => {
        match $scaled.kind {
            "Deployment" => $function::<Deployment>($($arg),*).await,
            "StatefulSet" => $function::<StatefulSet>($($arg),*).await,
            other => Err(FaultError::failed(format!("scale a {other}"), "only Deployments and StatefulSets are scaled")),
        }
    };
}

pub(super) async fn prepare(cx: &FaultCx, spec: &Scale, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let target = only(targets, "scale", "workload")?;
    let set = i32::try_from(spec.replicas).unwrap_or(i32::MAX);
    let called = format!("scale {} {}/{}", target.kind, target.namespace, target.name);
    let (before, ready) = match target.kind.as_str() {
        "Deployment" => read::<Deployment>(cx, target, &called).await?,
        _ => read::<StatefulSet>(cx, target, &called).await?,
    };
    if before == set {
        return Err(FaultError::failed(called, format!("it has {} already: nothing would change", counted(set, "replica"))));
    }
    let (namespace, name, kind, uid) = (target.namespace.clone(), target.name.clone(), target.kind.clone(), target.uid.clone());
    Ok(Prepared { undo: Undo::Scale { namespace, kind, name, uid, before, set, ready }, objects: vec![touched(target)] })
}

async fn read<K: Replicas>(cx: &FaultCx, target: &ResolvedObject, called: &str) -> Result<(i32, i32), FaultError> {
    let found = as_is::<K>(cx, target, called).await?;
    Ok((found.wanted(), found.actual().1))
}

pub(super) async fn inject(cx: &FaultCx, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let scaled = parts(undo)?;
    by_kind!(scaled, inject_kind(cx, &scaled))
}

async fn inject_kind<K: Replicas>(cx: &FaultCx, scaled: &Scaled<'_>) -> Result<(Stamp, Stamp), FaultError> {
    let called = format!("scale {} {}/{}", scaled.kind, scaled.id.0, scaled.id.1);
    let start = cx.clock.now();
    let done = change::<K, ()>(cx, scaled.id, |now| {
        refuse_foreign(cx, now, &called)?;
        match (now.wanted(), marked_by(now).is_some()) {
            (replicas, true) if replicas == scaled.set => Ok(Decision::Done(())),
            (replicas, _) if replicas == scaled.before => {
                let mut patch = mark(&cx.drill);
                patch["spec"]["replicas"] = scaled.set.into();
                Ok(Decision::Patch(patch, ()))
            }
            (replicas, _) => Err(FaultError::failed(&called, format!("others have set it to {} meanwhile", counted(replicas, "replica")))),
        }
    })
    .await?;
    done.map(|()| (start, cx.clock.now())).ok_or_else(|| FaultError::failed(called, "it is no longer there"))
}

pub(super) async fn effective(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let scaled = parts(undo)?;
    by_kind!(scaled, effective_kind(cx, &scaled, limit))
}

async fn effective_kind<K: Replicas>(cx: &FaultCx, scaled: &Scaled<'_>, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the replicas have changed", limit, || async {
        let Some(now) = cx.cluster.get_opt::<K>(scaled.id.0, scaled.id.1).await? else { return Ok(Err("it is gone".to_owned())) };
        let (there, _, current) = now.actual();
        Ok(if current && now.wanted() == scaled.set && there == scaled.set {
            Ok(format!("{} instead of {}", counted(there, "replica"), scaled.before))
        } else {
            Err(format!("{}, {} wanted", counted(there, "replica"), now.wanted()))
        })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, undo: &Undo) -> Result<Option<String>, FaultError> {
    let scaled = parts(undo)?;
    by_kind!(scaled, holds_kind(cx, &scaled))
}

async fn holds_kind<K: Replicas>(cx: &FaultCx, scaled: &Scaled<'_>) -> Result<Option<String>, FaultError> {
    Ok(match cx.cluster.get_opt::<K>(scaled.id.0, scaled.id.1).await? {
        None => Some("the workload is gone".to_owned()),
        Some(now) if now.wanted() != scaled.set => Some(format!("others have set {}", counted(now.wanted(), "replica"))),
        Some(_) => None,
    })
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let scaled = parts(undo)?;
    by_kind!(scaled, revert_kind(cx, &scaled))
}

async fn revert_kind<K: Replicas>(cx: &FaultCx, scaled: &Scaled<'_>) -> Result<(RevertResult, String), FaultError> {
    let done = change::<K, _>(cx, scaled.id, |now| {
        let (replicas, ours) = (now.wanted(), marked_by(now) == Some(&cx.drill));
        Ok(match (ours, replicas) {
            (true, n) if n == scaled.set => {
                let mut patch = unmark();
                patch["spec"]["replicas"] = scaled.before.into();
                Decision::Patch(patch, (RevertResult::Reverted, format!("{} again", counted(scaled.before, "replica"))))
            }
            (true, n) => {
                Decision::Patch(unmark(), (RevertResult::Superseded, format!("others have set {}; left so", counted(n, "replica"))))
            }
            (false, n) if n == scaled.before => Decision::Fence((RevertResult::Nothing, format!("it has {}", counted(n, "replica")))),
            (false, n) => Decision::Done((RevertResult::Superseded, format!("others have set {}; left so", counted(n, "replica")))),
        })
    })
    .await?;
    Ok(done.unwrap_or((RevertResult::TargetGone, "the workload is gone".to_owned())))
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let scaled = parts(undo)?;
    by_kind!(scaled, gone_kind(cx, &scaled, limit))
}

async fn gone_kind<K: Replicas>(cx: &FaultCx, scaled: &Scaled<'_>, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the replicas are as before", limit, || async {
        let Some(now) = cx.cluster.get_opt::<K>(scaled.id.0, scaled.id.1).await? else { return Ok(Ok("the workload is gone".to_owned())) };
        let (_, ready, current) = now.actual();
        let wanted_ready = scaled.ready.min(scaled.before);
        Ok(if marked_by(&now) == Some(&cx.drill) {
            Err("it still carries the drill's mark".to_owned())
        } else if now.wanted() == scaled.before && current && ready >= wanted_ready {
            Ok(format!("{}, {ready} ready", counted(scaled.before, "replica")))
        } else {
            Err(format!("{} wanted, {ready} of {wanted_ready} ready", counted(now.wanted(), "replica")))
        })
    })
    .await
}
