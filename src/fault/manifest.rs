//! `manifest`: makes an object, and deletes it as its undo: a NetworkPolicy, an experiment of another tool. Whether it bit is said by
//! a CEL expression over the object.
//!
//! The object is the plan's, marked with the drill. One that is there already is never taken over.

use std::time::Duration;

use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams, Preconditions},
};
use serde_json::Value;

use super::{FaultCx, FaultError, Prepared, Undo, change::until};
use crate::{
    clock::Stamp,
    cluster::named,
    journal::{RevertResult, TouchedObject},
    labels,
    plan::PlannedManifest,
    probe::cel,
    scenario::types::{FaultSpec, ProbeState},
};

/// An undo taken apart.
struct Made<'a> {
    api: Api<DynamicObject>,
    called: String,
    namespace: &'a str,
    name: &'a str,
    gone: Option<&'a str>,
}

fn parts<'a>(cx: &FaultCx, undo: &'a Undo) -> Result<Made<'a>, FaultError> {
    let Undo::Manifest { api_version, kind, plural, namespace, name, gone } = undo else { return Err(FaultError::NotBuilt) };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api = Api::namespaced_with(cx.cluster.client.clone(), namespace, &resource);
    Ok(Made { api, called: named(kind, namespace, name), namespace, name, gone: gone.as_deref() })
}

/// The object as the plan has it.
pub(super) fn planned<'a>(cx: &'a FaultCx, spec: &FaultSpec) -> Result<&'a PlannedManifest, FaultError> {
    let steps = cx.plan.leaf_steps();
    let mut of_this = steps.into_iter().filter(|step| step.spec.inject.as_ref() == Some(spec));
    of_this.find_map(|step| step.manifest.as_ref()).ok_or_else(|| FaultError::failed("make an object", "the plan does not have it"))
}

impl Made<'_> {
    async fn now(&self, cx: &FaultCx) -> Result<Option<DynamicObject>, FaultError> {
        Ok(cx.cluster.call(format!("read {}", self.called), self.api.get_opt(self.name)).await?)
    }
}

fn is_ours(cx: &FaultCx, object: &DynamicObject) -> bool {
    object.labels().get(labels::FAULT) == Some(&cx.drill)
}

pub(super) async fn prepare(cx: &FaultCx, spec: &FaultSpec) -> Result<Prepared, FaultError> {
    let PlannedManifest { api_version, kind, plural, namespace, name, .. } = planned(cx, spec)?;
    let undo = Undo::Manifest {
        api_version: api_version.clone(),
        kind: kind.clone(),
        plural: plural.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        gone: spec.manifest.as_ref().and_then(|m| m.gone.clone()),
    };
    let made = parts(cx, &undo)?;
    if made.now(cx).await?.is_some() {
        return Err(FaultError::failed(format!("make {}", made.called), "it is there already: it is not this drill's to delete"));
    }
    // It has no uid yet.
    let uid = planned(cx, spec)?.id();
    let object = TouchedObject { kind: kind.clone(), namespace: made.namespace.to_owned(), name: name.clone(), uid };
    Ok(Prepared { undo, objects: vec![object] })
}

pub(super) async fn inject(cx: &FaultCx, spec: &FaultSpec, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let made = parts(cx, undo)?;
    let what = format!("make {}", made.called);
    let start = cx.clock.now();
    let mut object: DynamicObject =
        serde_json::from_value(planned(cx, spec)?.object.clone()).map_err(|e| FaultError::failed(&what, e.to_string()))?;
    object.labels_mut().insert(labels::FAULT.to_owned(), cx.drill.clone());
    let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
    cx.leave.to(&what)?;
    match cx.cluster.call(&what, made.api.create(&params, &object)).await {
        Ok(_) => {}
        Err(error) if error.is_conflict() => match made.now(cx).await? {
            Some(now) if is_ours(cx, &now) => {}
            _ => return Err(FaultError::failed(what, "others have made one of that name meanwhile")),
        },
        Err(error) => return Err(error.into()),
    }
    Ok((start, cx.clock.now()))
}

/// What an expression says of an object: nothing if it is true.
fn against(expression: &str, object: &DynamicObject) -> Option<String> {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let outcome = cel(expression, &value);
    (outcome.state != ProbeState::Good).then(|| format!("`{expression}`: {}", outcome.detail))
}

pub(super) async fn effective(cx: &FaultCx, spec: &FaultSpec, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the object has its effect", limit, || async {
        Ok(match holds(cx, spec, undo).await? {
            None => Ok(format!("{} is there, and `{}` is true", parts(cx, undo)?.called, condition(spec))),
            Some(how) => Err(how),
        })
    })
    .await
}

fn condition(spec: &FaultSpec) -> &str {
    spec.manifest.as_ref().map_or("", |manifest| manifest.effective.as_str())
}

pub(super) async fn holds(cx: &FaultCx, spec: &FaultSpec, undo: &Undo) -> Result<Option<String>, FaultError> {
    Ok(match parts(cx, undo)?.now(cx).await? {
        None => Some("it is gone".to_owned()),
        Some(now) if !is_ours(cx, &now) => Some("others have put another in its place".to_owned()),
        Some(now) if now.metadata.deletion_timestamp.is_some() => Some("others are deleting it".to_owned()),
        Some(now) => against(condition(spec), &now),
    })
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let made = parts(cx, undo)?;
    let Some(now) = made.now(cx).await? else { return Ok((RevertResult::Nothing, "it is not there".to_owned())) };
    if !is_ours(cx, &now) {
        return Ok((RevertResult::Superseded, "another of its name is there, which is not this drill's; left so".to_owned()));
    }
    let what = format!("delete {}", made.called);
    let params =
        DeleteParams { preconditions: Some(Preconditions { uid: now.uid(), resource_version: None }), ..DeleteParams::background() };
    cx.leave.to(&what)?;
    match cx.cluster.call(&what, made.api.delete(made.name, &params)).await {
        Ok(_) => Ok((RevertResult::Reverted, "it is deleted".to_owned())),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok((RevertResult::Nothing, "others have deleted it".to_owned())),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let made = parts(cx, undo)?;
    until(cx, "that the object is gone", limit, || async {
        Ok(match (made.now(cx).await?, made.gone) {
            (None, _) => Ok(format!("{} is not there", made.called)),
            (Some(now), _) if !is_ours(cx, &now) => Ok(format!("{} is another's", made.called)),
            (Some(now), Some(gone)) if now.metadata.deletion_timestamp.is_some() => match against(gone, &now) {
                None => Ok(format!("{} is being deleted, and `{gone}` is true", made.called)),
                Some(how) => Err(how),
            },
            (Some(_), _) => Err("it is still there".to_owned()),
        })
    })
    .await
}
