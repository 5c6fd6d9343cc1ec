//! Changing a field of an object so that it can be undone: the object is marked with the drill while the change holds, and
//! nothing is written against a state that was not looked at.

use std::{fmt::Debug, time::Duration};

use kube::{
    Api, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{FaultCx, FaultError};
use crate::{clock::Stamp, cluster::named, hint, journal::TouchedObject, labels, plan::ResolvedObject};

/// How often a write is tried again when somebody else has written in between.
const CONFLICTS: usize = 8;
/// How often a proof is looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What to do with an object as it is now.
pub(super) enum Decision<T> {
    /// Merge-patch it with this; then the value is the outcome.
    Patch(Value, T),
    /// Nothing to write.
    Done(T),
    /// Nothing to change, but a write of this drill may still be under way (sent to an API server that hung, by a runner that
    /// gave up waiting or died): move the resourceVersion on, so that it is refused when it arrives.
    Fence(T),
}

/// The one object that a fault acts on. `what` is to be done, `kind` it is called by: `detach`, `Service`.
///
/// # Errors
/// There are none, or several.
pub(super) fn only<'a>(targets: &'a [ResolvedObject], what: &str, kind: &str) -> Result<&'a ResolvedObject, FaultError> {
    match targets {
        [target] => Ok(target),
        _ => Err(FaultError::failed(what, format!("the target must be one {kind} and is {}", targets.len()))),
    }
}

/// A target as it is now.
///
/// # Errors
/// It is gone or another one of its name, or another drill has changed it.
pub(super) async fn as_is<K>(cx: &FaultCx, target: &ResolvedObject, called: &str) -> Result<K, FaultError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let found = cx.cluster.get_opt::<K>(&target.namespace, &target.name).await?.filter(|o| o.uid().as_deref() == Some(&target.uid));
    let found = found.ok_or_else(|| FaultError::failed(called, "it is no longer there"))?;
    refuse_foreign(cx, &found, called)?;
    Ok(found)
}

/// A target, for the journal.
pub(super) fn touched(target: &ResolvedObject) -> TouchedObject {
    let ResolvedObject { kind, namespace, name, uid, .. } = target.clone();
    TouchedObject { kind, namespace, name, uid }
}

/// Reads an object, decides, and writes, all against the same resourceVersion; `None` when it does not exist (any more) or is
/// another one of the same name.
///
/// # Errors
/// The API server, or an object that is written to all the time.
pub(super) async fn change<K, T>(
    cx: &FaultCx,
    id: (&str, &str, &str),
    decide: impl FnMut(&K) -> Result<Decision<T>, FaultError>,
) -> Result<Option<T>, FaultError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    change_in(cx, &cx.cluster.api(id.0), id, decide).await
}

/// [`change`] of an object of a kind that has no namespaces: name and uid.
///
/// # Errors
/// As [`change`].
pub(super) async fn change_cluster<K, T>(
    cx: &FaultCx,
    (name, uid): (&str, &str),
    decide: impl FnMut(&K) -> Result<Decision<T>, FaultError>,
) -> Result<Option<T>, FaultError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    change_in(cx, &cx.cluster.cluster_api(), ("", name, uid), decide).await
}

async fn change_in<K, T>(
    cx: &FaultCx,
    api: &Api<K>,
    (namespace, name, uid): (&str, &str, &str),
    mut decide: impl FnMut(&K) -> Result<Decision<T>, FaultError>,
) -> Result<Option<T>, FaultError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let called = named(&K::kind(&()), namespace, name);
    let what = format!("change {called}");
    for _ in 0..CONFLICTS {
        let Some(now) = cx.cluster.call(format!("read {called}"), api.get_opt(name)).await? else { return Ok(None) };
        if now.uid().as_deref() != Some(uid) {
            return Ok(None);
        }
        // One write, or two that cancel each other out: a write that changes nothing does not move the resourceVersion.
        let (writes, outcome) = match decide(&now)? {
            Decision::Done(outcome) => return Ok(Some(outcome)),
            Decision::Patch(patch, outcome) => (vec![patch], outcome),
            Decision::Fence(outcome) => (vec![mark(&passing(cx)), unmark()], outcome),
        };
        let mut version = now.resource_version();
        let mut written = true;
        for mut patch in writes {
            patch["metadata"]["resourceVersion"] = Value::from(version.take());
            patch["metadata"]["uid"] = Value::from(uid);
            let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
            cx.leave.to(&what)?;
            match cx.cluster.call(&what, api.patch_metadata(name, &params, &Patch::Merge(&patch))).await {
                Ok(after) => version = after.metadata.resource_version,
                Err(error) if error.is_conflict() => {
                    written = false;
                    break;
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        if written {
            return Ok(Some(outcome));
        }
    }
    Err(FaultError::failed(what, "others write to it all the time"))
}

/// The drill that an object is marked with, if any.
pub(super) fn marked_by<K: Resource>(object: &K) -> Option<&str> {
    object.meta().labels.as_ref()?.get(labels::FAULT).map(String::as_str)
}

/// The mark that a fence leaves for the moment between its two writes, or for longer, if it is cut short there.
fn passing(cx: &FaultCx) -> String {
    format!("{}.reverting", cx.drill)
}

/// Whether another drill has marked the object.
pub(super) fn is_foreign<K: Resource>(cx: &FaultCx, object: &K) -> bool {
    marked_by(object).is_some_and(|drill| drill != cx.drill && drill != passing(cx))
}

/// A patch that marks the object with the drill.
pub(super) fn mark(drill: &str) -> Value {
    serde_json::json!({"metadata": {"labels": {labels::FAULT: drill}}})
}

/// A patch that takes the mark away.
pub(super) fn unmark() -> Value {
    serde_json::json!({"metadata": {"labels": {labels::FAULT: null}}})
}

/// Refuses an object that another drill has changed.
pub(super) fn refuse_foreign<K>(cx: &FaultCx, object: &K, what: &str) -> Result<(), FaultError>
where
    K: Resource,
{
    match marked_by(object) {
        Some(other) if other != cx.drill => {
            let revert = hint::command(&format!("revert {other}"), &cx.plan.place.firedrill.namespace);
            Err(FaultError::failed(what, format!("drill {other} has changed it; undo that first: {revert}")))
        }
        _ => Ok(()),
    }
}

/// Looks again and again until a proof is there.
///
/// # Errors
/// It is not there within the limit. Errors of the look itself are no proof of anything and are looked past.
pub(super) async fn until<F>(cx: &FaultCx, what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<(Stamp, String), FaultError>
where
    F: Future<Output = Result<Result<String, String>, FaultError>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(Ok(proof)) => return Ok((cx.clock.now(), proof)),
            Ok(Err(seen)) => seen,
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(FaultError::NotSeen { what: what.to_owned(), after: limit, seen });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
