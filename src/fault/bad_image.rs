//! `badImage`: rolls out an image that nobody can have, as a typing mistake in a release does.
//!
//! A StatefulSet whose pod cannot start is not helped by setting the image back: its controller waits for that pod to become ready
//! (a known issue of Kubernetes), so the revert deletes it. It also removes the revision that the fault has made from the history,
//! so that a later `kubectl rollout undo` does not bring it back.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet},
        core::v1::{Container, Pod},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, Preconditions, PropagationPolicy},
    core::{NamespaceResourceScope, Selector},
};
use serde::de::DeserializeOwned;

use super::{
    FaultCx, FaultError, ImageChange, Prepared, Undo,
    change::{Decision, as_is, change, is_foreign, mark, marked_by, only, refuse_foreign, touched, unmark, until},
};
use crate::{
    clock::Stamp,
    journal::RevertResult,
    plan::{
        ResolvedObject,
        rollout::{Rolls, containers, settled, which},
    },
};

/// How long the controller may take to see that the image is set back.
const SEEN_LIMIT: Duration = Duration::from_secs(20);
/// How much longer than an old pod's grace period it may take until a new one waits for its image.
const BEYOND_GRACE: Duration = Duration::from_secs(30);
/// The longest wait for that, whatever the grace period.
const LONGEST: Duration = Duration::from_secs(600);
/// What a pod waits with whose image cannot be had.
const WAITS: [&str; 3] = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"];

/// An undo taken apart.
struct Image<'a> {
    id: (&'a str, &'a str, &'a str),
    kind: &'a str,
    images: &'a [ImageChange],
    ready: i32,
}

fn parts(undo: &Undo) -> Result<Image<'_>, FaultError> {
    match undo {
        Undo::Image { namespace, kind, name, uid, images, ready, .. } => {
            Ok(Image { id: (namespace, name, uid), kind, images, ready: *ready })
        }
        _ => Err(FaultError::NotBuilt),
    }
}

/// A workload whose image can be changed.
trait Workload: Rolls + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned {
    /// What each of its rollouts leaves in the history.
    type Revision: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned;
    /// Whether pods that cannot start hold the rolled-back rollout up.
    const STUCK: bool;

    fn selector(&self) -> Option<&LabelSelector>;
    /// The containers that a revision is for.
    fn containers(revision: &Self::Revision) -> Vec<Container>;
}

/// Calls a function for the kind that an undo names.
macro_rules! by_kind {
    ($kind:expr, $function:ident ( $($arg:expr),* )) => {
        match $kind {
            "Deployment" => $function::<Deployment>($($arg),*).await,
            "StatefulSet" => $function::<StatefulSet>($($arg),*).await,
            other => Err(FaultError::failed(format!("roll out an image of a {other}"), "only Deployments and StatefulSets are rolled")),
        }
    };
}

/// The same image by a digest of zeros, which no content has: it cannot be pulled, from the registry that is allowed there anyway.
fn impossible(image: &str) -> String {
    let bare = image.split_once('@').map_or(image, |(bare, _)| bare);
    let (path, name) = bare.rsplit_once('/').map_or(("", bare), |(path, name)| (path, name));
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{path}{slash}{name}@sha256:{}", "0".repeat(64))
}

pub(super) async fn prepare(cx: &FaultCx, chosen: &[String], targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let target = only(targets, "roll out an image", "workload")?;
    let (images, ready, takes) = by_kind!(target.kind.as_str(), read(cx, target, chosen))?;
    let (namespace, name, kind, uid) = (target.namespace.clone(), target.name.clone(), target.kind.clone(), target.uid.clone());
    Ok(Prepared { undo: Undo::Image { namespace, kind, name, uid, images, ready, takes }, objects: vec![touched(target)] })
}

async fn read<K: Workload>(cx: &FaultCx, target: &ResolvedObject, chosen: &[String]) -> Result<(Vec<ImageChange>, i32, u32), FaultError> {
    let called = format!("roll out an image of {} {}/{}", target.kind, target.namespace, target.name);
    let refused = |why: String| Err(FaultError::failed(&called, why));
    let found = as_is::<K>(cx, target, &called).await?;
    if let Some(why) = found.unfit() {
        return refused(why);
    }
    if let Err(how) = settled(&found) {
        return refused(format!("a rollout is under way ({how}): wait until it is through"));
    }
    let has = containers(&found);
    if let Some(why) = which(&has, chosen) {
        return refused(why);
    }
    let pod = found.pod();
    let all = pod.iter().flat_map(|pod| &pod.containers).filter(|c| chosen.is_empty() || chosen.contains(&c.name));
    let images = all.map(|c| {
        let before = c.image.clone().unwrap_or_default();
        ImageChange { container: c.name.clone(), set: impossible(&before), before }
    });
    let images: Vec<ImageChange> = images.collect();
    if let Some(same) = images.iter().find(|image| image.set == image.before) {
        return refused(format!("container {} has an image that cannot be had already: nothing would change", same.container));
    }
    Ok((images, found.ready(), found.takes()))
}

/// Whether every container of the undo has this image now.
fn has_all(now: &impl Rolls, images: &[ImageChange], image: impl Fn(&ImageChange) -> &str) -> bool {
    let pod = now.pod();
    let now = |name: &str| pod.and_then(|pod| pod.containers.iter().find(|c| c.name == name)).and_then(|c| c.image.as_deref());
    images.iter().all(|change| now(&change.container) == Some(image(change)))
}

/// Whether any container has the image that the fault has set.
fn has_ours(now: &impl Rolls, image: &Image<'_>) -> bool {
    now.pod().is_some_and(|pod| has_image(&pod.containers, image))
}

/// A merge patch that puts images in place of others, where those are there. It replaces the list whole, so all of each container
/// goes along as it was read; the resourceVersion that goes along too refuses it if anything has changed since.
fn replaced(now: &impl Rolls, images: &[ImageChange], old: fn(&ImageChange) -> &str, new: fn(&ImageChange) -> &str) -> serde_json::Value {
    let mut all: Vec<Container> = now.pod().map(|pod| pod.containers.clone()).unwrap_or_default();
    for container in &mut all {
        let change = images.iter().find(|c| c.container == container.name && container.image.as_deref() == Some(old(c)));
        if let Some(change) = change {
            container.image = Some(new(change).to_owned());
        }
    }
    serde_json::json!({"template": {"spec": {"containers": all}}})
}

fn before(change: &ImageChange) -> &str {
    &change.before
}

fn set(change: &ImageChange) -> &str {
    &change.set
}

pub(super) async fn inject(cx: &FaultCx, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let image = parts(undo)?;
    by_kind!(image.kind, inject_kind(cx, &image))
}

async fn inject_kind<K: Workload>(cx: &FaultCx, image: &Image<'_>) -> Result<(Stamp, Stamp), FaultError> {
    let called = format!("roll out an image of {} {}/{}", image.kind, image.id.0, image.id.1);
    let start = cx.clock.now();
    let done = change::<K, ()>(cx, image.id, |now| {
        refuse_foreign(cx, now, &called)?;
        if marked_by(now).is_some() && has_all(now, image.images, set) {
            return Ok(Decision::Done(()));
        }
        if !has_all(now, image.images, before) {
            return Err(FaultError::failed(&called, "others have set another image meanwhile"));
        }
        let mut patch = mark(&cx.drill);
        patch["spec"] = replaced(now, image.images, before, set);
        Ok(Decision::Patch(patch, ()))
    })
    .await?;
    done.map(|()| (start, cx.clock.now())).ok_or_else(|| FaultError::failed(called, "it is no longer there"))
}

pub(super) async fn effective(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let image = parts(undo)?;
    by_kind!(image.kind, effective_kind(cx, &image, limit))
}

/// A pod of the new template waits for an image that does not come.
async fn effective_kind<K: Workload>(cx: &FaultCx, image: &Image<'_>, limit: Duration) -> Result<(Stamp, String), FaultError> {
    // An old pod may have to end first, in its own time.
    let found = there::<K>(cx, image).await?;
    let grace = found.as_ref().and_then(|now| now.pod()?.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
    let limit = limit.max(Duration::from_secs(grace.unwrap_or(0)).saturating_add(BEYOND_GRACE).min(LONGEST));
    until(cx, "that a pod waits for the image", limit, || async {
        let Some(now) = there::<K>(cx, image).await? else { return Ok(Err("the workload is gone".to_owned())) };
        if !has_all(&now, image.images, set) {
            return Ok(Err("others have set another image".to_owned()));
        }
        let pods = with_our_image(cx, &now, image).await?;
        let waits = pods.iter().find_map(|pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            let ours = statuses.iter().filter(|s| image.images.iter().any(|change| change.container == s.name));
            let mut reasons = ours.filter_map(|s| s.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
            reasons.find(|reason| WAITS.contains(reason)).map(|reason| format!("pod {} waits: {reason}", pod.name_any()))
        });
        Ok(waits
            .ok_or_else(|| format!("{} with the image, and none has tried to pull it", crate::scenario::diag::counted(pods.len(), "pod"))))
    })
    .await
}

async fn there<K: Workload>(cx: &FaultCx, image: &Image<'_>) -> Result<Option<K>, FaultError> {
    let found = cx.cluster.get_opt::<K>(image.id.0, image.id.1).await?;
    Ok(found.filter(|o| o.uid().as_deref() == Some(image.id.2)))
}

/// Its pods whose container has the image that this fault has set.
async fn with_our_image<K: Workload>(cx: &FaultCx, now: &K, image: &Image<'_>) -> Result<Vec<Pod>, FaultError> {
    let (namespace, name, _) = image.id;
    let Some(selector) = now.selector().cloned() else { return Ok(Vec::new()) };
    let selector = Selector::try_from(selector)
        .map_err(|e| FaultError::failed(format!("select the pods of {} {namespace}/{name}", image.kind), e.to_string()))?;
    let (api, what) = (cx.cluster.api::<Pod>(namespace), format!("list pods in {namespace}"));
    let pods = cx.cluster.list_all(&api, Some(&selector.to_string()), &what).await?;
    Ok(pods.into_iter().filter(|pod| pod.spec.as_ref().is_some_and(|s| has_image(&s.containers, image))).collect())
}

fn has_image(containers: &[Container], image: &Image<'_>) -> bool {
    image.images.iter().any(|change| containers.iter().any(|c| c.name == change.container && c.image.as_deref() == Some(&change.set)))
}

pub(super) async fn holds(cx: &FaultCx, undo: &Undo) -> Result<Option<String>, FaultError> {
    let image = parts(undo)?;
    by_kind!(image.kind, holds_kind(cx, &image))
}

async fn holds_kind<K: Workload>(cx: &FaultCx, image: &Image<'_>) -> Result<Option<String>, FaultError> {
    Ok(match there::<K>(cx, image).await? {
        None => Some("the workload is gone".to_owned()),
        Some(now) if !has_all(&now, image.images, set) => Some("others have set another image".to_owned()),
        Some(_) => None,
    })
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let image = parts(undo)?;
    by_kind!(image.kind, revert_kind(cx, &image))
}

async fn revert_kind<K: Workload>(cx: &FaultCx, image: &Image<'_>) -> Result<(RevertResult, String), FaultError> {
    let done = change::<K, _>(cx, image.id, |now| {
        let superseded = |why: &str| (RevertResult::Superseded, format!("{why}; left so"));
        let other = is_foreign(cx, now);
        Ok(match (marked_by(now) == Some(&cx.drill), has_ours(now, image)) {
            (true, true) => {
                let mut patch = unmark();
                patch["spec"] = replaced(now, image.images, set, before);
                let said = if has_all(now, image.images, set) {
                    (RevertResult::Reverted, "the image is as before".to_owned())
                } else {
                    (RevertResult::Superseded, "others have set another image of one container; left so, the rest is as before".to_owned())
                };
                Decision::Patch(patch, (other, said))
            }
            (true, false) => Decision::Patch(unmark(), (other, superseded("others have set another image"))),
            (false, _) if has_all(now, image.images, before) => {
                Decision::Fence((other, (RevertResult::Nothing, "the image is as before".to_owned())))
            }
            (false, _) => Decision::Done((other, superseded("others have set another image"))),
        })
    })
    .await?;
    let Some((other, said)) = done else { return Ok((RevertResult::TargetGone, "the workload is gone".to_owned())) };
    // Whatever became of the workload, what hangs on this fault's own image is ours; also after a revert that was cut short.
    if !other && let Some(now) = seen::<K>(cx, image).await? {
        clear(cx, &now, image).await?;
    }
    Ok(said)
}

/// The workload, once its controller has seen its newest spec: from then on it makes nothing with the old one.
async fn seen<K: Workload>(cx: &FaultCx, image: &Image<'_>) -> Result<Option<K>, FaultError> {
    let what = "that the controller has seen the image set back";
    until(cx, what, SEEN_LIMIT, || async {
        Ok(match there::<K>(cx, image).await? {
            Some(now) if !now.rolled().2 => Err("its controller has not seen the newest spec".to_owned()),
            _ => Ok(String::new()),
        })
    })
    .await?;
    there::<K>(cx, image).await
}

/// Deletes an object, only this very one; one that is gone is passed over.
async fn delete<K>(cx: &FaultCx, namespace: &str, object: &K) -> Result<(), FaultError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let name = object.name_any();
    let what = format!("delete {}", crate::cluster::named(&K::kind(&()), namespace, &name));
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    cx.leave.to(&what)?;
    let api: Api<K> = cx.cluster.api(namespace);
    match cx.cluster.call(&what, api.delete(&name, &params)).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_controlled(object: &impl Resource, uid: &str) -> bool {
    object.meta().owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == uid)
}

/// The revisions that this fault has made a workload make.
async fn revisions<K: Workload>(cx: &FaultCx, image: &Image<'_>) -> Result<Vec<K::Revision>, FaultError> {
    let (api, what) = (cx.cluster.api::<K::Revision>(image.id.0), format!("list {} in {}", K::Revision::plural(&()), image.id.0));
    let revisions = cx.cluster.list_all(&api, None, &what).await?;
    let ours = |revision: &K::Revision| is_controlled(revision, image.id.2) && has_image(&K::containers(revision), image);
    Ok(revisions.into_iter().filter(ours).collect())
}

/// Removes what the rolled-back rollout has left: stuck pods, and its revision in the history.
async fn clear<K: Workload>(cx: &FaultCx, now: &K, image: &Image<'_>) -> Result<(), FaultError> {
    if has_ours(now, image) {
        return Ok(());
    }
    if K::STUCK {
        for pod in with_our_image(cx, now, image).await?.iter().filter(|pod| is_controlled(*pod, image.id.2)) {
            delete(cx, image.id.0, pod).await?;
        }
    }
    for revision in revisions::<K>(cx, image).await? {
        delete(cx, image.id.0, &revision).await?;
    }
    Ok(())
}

impl Workload for Deployment {
    type Revision = ReplicaSet;
    const STUCK: bool = false;

    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|s| &s.selector)
    }

    fn containers(set: &ReplicaSet) -> Vec<Container> {
        let pod = set.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref());
        pod.map(|pod| pod.containers.clone()).unwrap_or_default()
    }
}

impl Workload for StatefulSet {
    type Revision = ControllerRevision;
    const STUCK: bool = true;

    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|s| &s.selector)
    }

    fn containers(revision: &ControllerRevision) -> Vec<Container> {
        let containers = revision.data.as_ref().and_then(|data| data.0.pointer("/spec/template/spec/containers")).cloned();
        containers.and_then(|all| serde_json::from_value(all).ok()).unwrap_or_default()
    }
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let image = parts(undo)?;
    by_kind!(image.kind, gone_kind(cx, &image, limit))
}

async fn gone_kind<K: Workload>(cx: &FaultCx, image: &Image<'_>, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the rollout is taken back", limit, || async {
        let Some(now) = there::<K>(cx, image).await? else { return Ok(Ok("the workload is gone".to_owned())) };
        if marked_by(&now) == Some(&cx.drill) || has_ours(&now, image) {
            return Ok(Err("it still carries the drill's mark or image".to_owned()));
        }
        if let Err(how) = settled(&now) {
            return Ok(Err(how));
        }
        let (ready, wanted) = (now.ready(), image.ready.min(now.replicas()));
        if ready < wanted {
            return Ok(Err(format!("{ready} of {wanted} pods are ready")));
        }
        if let Some(pod) = with_our_image(cx, &now, image).await?.first() {
            return Ok(Err(format!("pod {} with the image is still there", pod.name_any())));
        }
        Ok(match revisions::<K>(cx, image).await?.first() {
            Some(left) => Err(format!("{} {} is still there", K::Revision::kind(&()), left.name_any())),
            None => Ok(format!("the rollout is taken back, {ready} ready")),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_of_the_same_place_and_cannot_be_had() {
        let zeros = "0".repeat(64);
        for (image, same) in [
            ("nginx", "nginx"),
            ("nginx:1.27", "nginx"),
            ("registry.example:5000/team/shop:v1", "registry.example:5000/team/shop"),
            ("registry.example:5000/shop", "registry.example:5000/shop"),
            ("ghcr.io/a/b:v1@sha256:1234", "ghcr.io/a/b"),
        ] {
            assert_eq!(impossible(image), format!("{same}@sha256:{zeros}"), "{image}");
        }
        assert_eq!(impossible(&impossible("a/b:c")), impossible("a/b:c"));
    }
}
