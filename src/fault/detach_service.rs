//! `detachService`: points a Service at nothing, by one more key in its selector that no pod has. The pods go on as they are; who
//! asks for them by the Service's name finds nobody.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::ResourceExt as _;

use super::{
    FaultCx, FaultError, Prepared, Undo,
    change::{Decision, as_is, change, mark, marked_by, only, refuse_foreign, touched, unmark, until},
    owner::is_ready,
};
use crate::{
    clock::Stamp,
    journal::RevertResult,
    labels,
    plan::{ResolvedObject, seen::not_detachable},
    scenario::diag::counted,
};

/// An undo taken apart.
struct Detached<'a> {
    id: (&'a str, &'a str, &'a str),
    ready: usize,
}

fn parts(undo: &Undo) -> Result<Detached<'_>, FaultError> {
    match undo {
        Undo::Service { namespace, name, uid, ready } => Ok(Detached { id: (namespace, name, uid), ready: *ready as usize }),
        _ => Err(FaultError::NotBuilt),
    }
}

/// The value of the key that detaches a Service; it is a drill's name.
fn detached(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.selector.as_ref()?.get(labels::DETACHED).map(String::as_str)
}

pub(super) async fn prepare(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let target = only(targets, "detach a Service", "Service")?;
    let (namespace, name, uid) = (target.namespace.clone(), target.name.clone(), target.uid.clone());
    let called = format!("detach Service {namespace}/{name}");
    let service = as_is::<Service>(cx, target, &called).await?;
    if let Some(why) = not_detachable(&service) {
        return Err(FaultError::failed(called, why));
    }
    let ready = endpoints(cx, &namespace, &name).await?.len();
    if ready == 0 {
        return Err(FaultError::failed(called, "it has no ready endpoint now: nothing would change"));
    }
    let ready = u32::try_from(ready).unwrap_or(u32::MAX);
    Ok(Prepared { undo: Undo::Service { namespace, name, uid, ready }, objects: vec![touched(target)] })
}

async fn there(cx: &FaultCx, (namespace, name, uid): (&str, &str, &str)) -> Result<Option<Service>, FaultError> {
    Ok(cx.cluster.get_opt::<Service>(namespace, name).await?.filter(|s| s.uid().as_deref() == Some(uid)))
}

/// Who stands ready behind a Service: pods by uid, others by address. A pod counts once, whatever addresses it has.
async fn endpoints(cx: &FaultCx, namespace: &str, name: &str) -> Result<BTreeSet<String>, FaultError> {
    let (api, what) = (cx.cluster.api::<EndpointSlice>(namespace), format!("list EndpointSlices of Service {namespace}/{name}"));
    let slices = cx.cluster.list_all(&api, Some(&format!("kubernetes.io/service-name={name}")), &what).await?;
    // No word on readiness is to be taken for ready.
    let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let called = |e: &Endpoint| e.target_ref.as_ref().and_then(|r| r.uid.clone()).or_else(|| e.addresses.first().cloned());
    let all = slices.into_iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).flat_map(|slice| slice.endpoints);
    Ok(all.filter(ready).filter_map(|endpoint| called(&endpoint)).collect())
}

pub(super) async fn inject(cx: &FaultCx, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let id = parts(undo)?.id;
    let called = format!("detach Service {}/{}", id.0, id.1);
    let start = cx.clock.now();
    let done = change::<Service, ()>(cx, id, |now| {
        refuse_foreign(cx, now, &called)?;
        match detached(now) {
            Some(drill) if drill == cx.drill => return Ok(Decision::Done(())),
            Some(other) => return Err(FaultError::failed(&called, format!("drill {other} has detached it"))),
            None => {}
        }
        if let Some(why) = not_detachable(now) {
            return Err(FaultError::failed(&called, why));
        }
        let mut patch = mark(&cx.drill);
        patch["spec"]["selector"][labels::DETACHED] = cx.drill.clone().into();
        Ok(Decision::Patch(patch, ()))
    })
    .await?;
    done.map(|()| (start, cx.clock.now())).ok_or_else(|| FaultError::failed(called, "it is no longer there"))
}

pub(super) async fn effective(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let Detached { id, ready } = parts(undo)?;
    until(cx, "that nobody stands behind the Service", limit, || async {
        if let Some(how) = holds(cx, undo).await? {
            return Ok(Err(how));
        }
        let left = endpoints(cx, id.0, id.1).await?.len();
        Ok(if left == 0 {
            Ok(format!("no ready endpoint, {ready} before"))
        } else {
            Err(format!("{} still", counted(left, "ready endpoint")))
        })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, undo: &Undo) -> Result<Option<String>, FaultError> {
    let id = parts(undo)?.id;
    Ok(match there(cx, id).await? {
        None => Some("the Service is gone".to_owned()),
        Some(now) if detached(&now) != Some(&cx.drill) => Some("others have changed its selector".to_owned()),
        Some(_) => None,
    })
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let id = parts(undo)?.id;
    let done = change::<Service, _>(cx, id, |now| {
        // The one key goes and the rest stays as it is now, whoever has changed that.
        Ok(match (marked_by(now) == Some(&cx.drill), detached(now)) {
            (_, Some(drill)) if drill == cx.drill => {
                let mut patch = if marked_by(now) == Some(&cx.drill) { unmark() } else { serde_json::json!({}) };
                patch["spec"]["selector"][labels::DETACHED] = serde_json::Value::Null;
                Decision::Patch(patch, (RevertResult::Reverted, "its selector is as before".to_owned()))
            }
            (true, _) => Decision::Patch(unmark(), (RevertResult::Superseded, "others have changed its selector; left so".to_owned())),
            (false, Some(other)) => Decision::Done((RevertResult::Superseded, format!("drill {other} has detached it; left so"))),
            (false, None) => Decision::Fence((RevertResult::Nothing, "it is not detached".to_owned())),
        })
    })
    .await?;
    Ok(done.unwrap_or((RevertResult::TargetGone, "the Service is gone".to_owned())))
}

/// As many endpoints as before, or one for each ready pod that it selects, if there are fewer of those by now.
pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let Detached { id, ready } = parts(undo)?;
    until(cx, "that the Service leads somewhere again", limit, || async {
        let Some(now) = there(cx, id).await? else { return Ok(Ok("the Service is gone".to_owned())) };
        if marked_by(&now) == Some(&cx.drill) || detached(&now) == Some(&cx.drill) {
            return Ok(Err("it still carries the drill's mark".to_owned()));
        }
        let there = endpoints(cx, id.0, id.1).await?.len();
        if there >= ready {
            return Ok(Ok(format!("{}, {ready} before", counted(there, "ready endpoint"))));
        }
        let selector = now.spec.and_then(|s| s.selector).unwrap_or_default();
        let selector: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (api, what) = (cx.cluster.api::<Pod>(id.0), format!("list pods in {}", id.0));
        let pods = cx.cluster.list_all(&api, Some(&selector.join(",")), &what).await?;
        let pods = pods.iter().filter(|pod| is_ready(pod)).count();
        Ok(if there >= pods {
            Ok(format!("{} for {}, {ready} before", counted(there, "ready endpoint"), counted(pods, "ready pod")))
        } else {
            Err(format!("{} for {}, {ready} before", counted(there, "ready endpoint"), counted(pods, "ready pod")))
        })
    })
    .await
}
