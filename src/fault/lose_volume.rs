//! `loseVolume`: a claim loses its volume. The claim is deleted with the pods that use it and made anew, empty; the volume that it had is
//! set aside: its reclaim policy becomes Retain, so that the cluster keeps it, with what is on it, for a claim of that name.
//!
//! Nothing on the volume is read or written. Which claim stands in for the lost one is written on the volume, so that a revert from
//! anywhere can tell it from one that others have made in the meantime.

mod back;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::json;

pub(super) use self::back::{gone, let_go, revert};
use super::{
    FaultCx, FaultError, LostClaim, OwnerState, PodRef, Prepared, Undo,
    change::{Decision, LOOK_EVERY, as_is, change, change_cluster, is_foreign, mark, marked_by, only, refuse_foreign, touched, until},
    owner,
};
use crate::{
    clock::Stamp,
    cluster::Fresh,
    journal::TouchedObject,
    labels,
    plan::{ResolvedObject, claims_used, unfit_claim},
    scenario::types::{Dur, LoseVolume},
};

/// How much longer than their grace period pods may take to go, and a claim with them.
const BEYOND_GRACE: Duration = Duration::from_secs(60);
/// The longest wait for pods to go, whatever their grace period.
const LONGEST: Duration = Duration::from_secs(600);
/// Annotations that belong to the binding and not to the claim.
const OF_THE_BINDING: [&str; 4] = [
    "pv.kubernetes.io/",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// What to do next.
enum Next<T> {
    /// Nothing: this came of it.
    Done(T),
    /// Look again at once.
    Again,
    /// Look again in a moment: this is not so yet.
    Wait(String),
}

/// Goes on step by step until it is done.
///
/// # Errors
/// Those of a step; it was not done in time.
async fn through<T, F>(lost: &LostClaim, what: &str, mut step: impl FnMut() -> F) -> Result<T, FaultError>
where
    F: Future<Output = Result<Next<T>, FaultError>>,
{
    let limit = Duration::from_secs(lost.grace_secs).saturating_add(BEYOND_GRACE).min(LONGEST);
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let missing = match step().await? {
            Next::Done(outcome) => return Ok(outcome),
            Next::Again => "others write to it all the time".to_owned(),
            Next::Wait(missing) => missing,
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(FaultError::failed(what, format!("{missing}; waited for {}", Dur(limit))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn called(lost: &LostClaim) -> String {
    format!("lose the volume of claim {}/{}", lost.namespace, lost.name)
}

async fn claim(cx: &FaultCx, lost: &LostClaim) -> Result<Option<PersistentVolumeClaim>, FaultError> {
    Ok(cx.cluster.get_opt::<PersistentVolumeClaim>(&lost.namespace, &lost.name).await?)
}

/// The volume, as long as it is this one.
async fn volume(cx: &FaultCx, lost: &LostClaim) -> Result<Option<PersistentVolume>, FaultError> {
    let found = cx.cluster.get_cluster_opt::<PersistentVolume>(&lost.volume).await?;
    Ok(found.filter(|v| v.uid().as_deref() == Some(&lost.volume_uid)))
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// Whether it is the claim that is lost, and not another of its name.
fn is_the_lost(claim: &PersistentVolumeClaim, lost: &LostClaim) -> bool {
    claim.uid().as_deref() == Some(&lost.uid)
}

/// The volume that a claim has, or asks for.
fn volume_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

fn stand_in(volume: &PersistentVolume) -> Option<&str> {
    volume.annotations().get(labels::STAND_IN).map(String::as_str)
}

/// The claim that a volume is kept for: namespace, name and, once it is bound, uid.
fn kept_for(volume: &PersistentVolume) -> Option<(&str, &str, Option<&str>)> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((claim.namespace.as_deref()?, claim.name.as_deref()?, claim.uid.as_deref().filter(|uid| !uid.is_empty())))
}

/// The pods that use the claim of this name.
async fn users(cx: &FaultCx, namespace: &str, name: &str) -> Result<Vec<Pod>, FaultError> {
    let keep = |pod: Pod| claims_used(&pod).iter().any(|claim| claim == name).then_some(pod);
    let what = format!("list pods in {namespace}");
    Ok(cx.cluster.list_map(&cx.cluster.api(namespace), None, &what, Fresh::Now, keep).await?)
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

pub(super) async fn prepare(cx: &FaultCx, fault: &LoseVolume, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let target = only(targets, "lose a volume", "claim")?;
    let (namespace, name, uid) = (target.namespace.clone(), target.name.clone(), target.uid.clone());
    let called = format!("lose the volume of claim {namespace}/{name}");
    let refused = |why: String| Err(FaultError::failed(&called, why));
    let claim = as_is::<PersistentVolumeClaim>(cx, target, &called).await?;
    if let Some(why) = unfit_claim(&claim) {
        return refused(why);
    }
    let Some(found) = cx.cluster.get_cluster_opt::<PersistentVolume>(volume_of(&claim)).await? else {
        return refused(format!("its volume {} is not there", volume_of(&claim)));
    };
    refuse_foreign(cx, &found, &called)?;
    if kept_for(&found) != Some((namespace.as_str(), name.as_str(), Some(uid.as_str()))) {
        return refused(format!("its volume {} belongs to another claim", found.name_any()));
    }
    if found.metadata.deletion_timestamp.is_some() {
        return refused(format!("its volume {} is being deleted, and would go with the claim for good", found.name_any()));
    }
    let (mut pods, mut owners, mut grace_secs) = (Vec::new(), Vec::new(), 0);
    let mut objects = vec![touched(target)];
    for pod in users(cx, &namespace, &name).await? {
        let (its, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        if pod.labels().get(labels::MANAGED_BY).is_some_and(|by| by == labels::MANAGER) {
            return refused(format!("firedrill's own pod {its} uses it"));
        }
        let Some(of) = owner::of(cx, &pod).await? else {
            return refused(format!("pod {its} uses it, and nothing would bring that back: it has no controller"));
        };
        if pod.metadata.deletion_timestamp.is_some() || has_ended(&pod) {
            continue;
        }
        if !owners.contains(&of) {
            owners.push(of);
        }
        let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
        grace_secs = grace_secs.max(grace.unwrap_or(0));
        objects.push(TouchedObject { kind: "Pod".to_owned(), namespace: namespace.clone(), name: its.clone(), uid: uid.clone() });
        pods.push(PodRef { namespace: namespace.clone(), name: its, uid });
    }
    let mut states: Vec<OwnerState> = Vec::new();
    for of in owners {
        states.push(owner::state(cx, of).await?);
    }
    let lost = LostClaim {
        set_aside: fault.set_aside,
        volume: found.name_any(),
        volume_uid: found.uid().unwrap_or_default(),
        policy: policy(&found).to_owned(),
        labels: claim.labels().clone(),
        annotations: claim.annotations().clone(),
        owners: claim.owner_references().to_vec(),
        spec: claim.spec.unwrap_or_default(),
        namespace,
        name,
        uid,
        pods,
        users: states,
        grace_secs,
    };
    Ok(Prepared { undo: Undo::Claim(Box::new(lost)), objects })
}

/// Whether it was this drill that has begun to lose the volume.
async fn is_ours(cx: &FaultCx, lost: &LostClaim) -> Result<bool, FaultError> {
    if !lost.set_aside {
        return Ok(cx.deleted.has(&lost.uid));
    }
    Ok(volume(cx, lost).await?.is_some_and(|v| marked_by(&v) == Some(&cx.drill)))
}

pub(super) async fn inject(cx: &FaultCx, lost: &LostClaim) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    through(lost, &called(lost), || take(cx, lost)).await?;
    Ok((start, cx.clock.now()))
}

/// The next step of losing it, by what is there.
async fn take(cx: &FaultCx, lost: &LostClaim) -> Result<Next<()>, FaultError> {
    let refused = |why: &str| Err(FaultError::failed(called(lost), why));
    let Some(now) = claim(cx, lost).await? else {
        if !is_ours(cx, lost).await? {
            return refused("it is no longer there");
        }
        end_users(cx, lost, false).await?;
        make(cx, lost, empty(lost, &cx.drill)).await?;
        return Ok(Next::Again);
    };
    let going = now.metadata.deletion_timestamp.is_some();
    if is_the_lost(&now, lost) && !going {
        if lost.set_aside {
            set_aside(cx, lost).await?;
        }
        // Of the very version that was seen: one that arrives after a revert is refused.
        if remove(cx, lost, &now).await? {
            cx.deleted.add(&lost.uid);
        }
        return Ok(Next::Again);
    }
    if !is_ours(cx, lost).await? {
        return refused(if is_the_lost(&now, lost) { "others are deleting it" } else { "it is no longer there: another has its name" });
    }
    let left = end_users(cx, lost, going).await?;
    if going {
        return Ok(Next::Wait(left.unwrap_or_else(|| format!("claim {}/{} is still being deleted", lost.namespace, lost.name))));
    }
    if volume_of(&now) == lost.volume {
        return refused("others have bound the volume again");
    }
    if lost.set_aside {
        note_stand_in(cx, lost, &now).await?;
    }
    Ok(Next::Done(()))
}

/// Has the cluster keep the volume when its claim goes, and marks it.
async fn set_aside(cx: &FaultCx, lost: &LostClaim) -> Result<(), FaultError> {
    let what = format!("set PersistentVolume {} aside", lost.volume);
    let refused = |why: &str| Err(FaultError::failed(&what, why));
    let done = change_cluster::<PersistentVolume, _>(cx, (&lost.volume, &lost.volume_uid), |now| {
        refuse_foreign(cx, now, &what)?;
        if marked_by(now) == Some(&cx.drill) && policy(now) == "Retain" {
            return Ok(Decision::Done(()));
        }
        if kept_for(now).and_then(|(.., uid)| uid) != Some(lost.uid.as_str()) {
            return refused("it belongs to another claim by now");
        }
        if policy(now) != lost.policy {
            return refused("others have changed its reclaim policy meanwhile");
        }
        let mut patch = mark(&cx.drill);
        patch["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        Ok(Decision::Patch(patch, ()))
    })
    .await?;
    done.ok_or_else(|| FaultError::failed(&what, "it is no longer there"))
}

/// Deletes a claim, this very version of it. False: it has changed, or is gone.
async fn remove(cx: &FaultCx, lost: &LostClaim, now: &PersistentVolumeClaim) -> Result<bool, FaultError> {
    let what = format!("delete claim {}/{}", lost.namespace, lost.name);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: now.uid(), resource_version: now.resource_version() }),
        ..DeleteParams::default()
    };
    cx.leave.to(&what)?;
    match cx.cluster.call(&what, cx.cluster.api::<PersistentVolumeClaim>(&lost.namespace).delete(&lost.name, &params)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes the pods that used the claim when this was prepared and, where a claim is being deleted, those that hold that up: all that
/// have a node, also those that have ended. Gives what is still there, if anything.
async fn end_users(cx: &FaultCx, lost: &LostClaim, going: bool) -> Result<Option<String>, FaultError> {
    let mut left = None;
    for pod in users(cx, &lost.namespace, &lost.name).await? {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let held_up = going && pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|node| !node.is_empty()));
        if !held_up && lost.pods.iter().all(|p| p.uid != uid) {
            continue;
        }
        left = Some(format!("pod {}/{name} uses it and is not gone yet", lost.namespace));
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let what = format!("delete pod {}/{name}", lost.namespace);
        if owner::controller(pod.owner_references()).is_none() {
            return Err(FaultError::failed(what, "it uses the claim, and nothing would bring it back: it has no controller"));
        }
        let params =
            DeleteParams { preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }), ..DeleteParams::default() };
        cx.leave.to(&what)?;
        match cx.cluster.call(&what, cx.cluster.api::<Pod>(&lost.namespace).delete(&name, &params)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(left)
}

/// The claim as it is made anew: without the volume, without anything that would fill another one.
fn empty(lost: &LostClaim, drill: &str) -> PersistentVolumeClaim {
    let spec = PersistentVolumeClaimSpec { volume_name: None, data_source: None, data_source_ref: None, ..lost.spec.clone() };
    let own = |key: &str| !OF_THE_BINDING.iter().any(|prefix| key.starts_with(prefix));
    let annotations = lost.annotations.iter().filter(|(key, _)| own(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    // One whose volume was not set aside is nothing that would be given back.
    of(lost, lost.set_aside.then_some(drill), annotations, spec)
}

fn of(
    lost: &LostClaim,
    drill: Option<&str>,
    annotations: BTreeMap<String, String>,
    spec: PersistentVolumeClaimSpec,
) -> PersistentVolumeClaim {
    let mut all = lost.labels.clone();
    all.extend(drill.map(|drill| (labels::FAULT.to_owned(), drill.to_owned())));
    let metadata = ObjectMeta {
        name: Some(lost.name.clone()),
        namespace: Some(lost.namespace.clone()),
        labels: (!all.is_empty()).then_some(all),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: (!lost.owners.is_empty()).then(|| lost.owners.clone()),
        ..ObjectMeta::default()
    };
    PersistentVolumeClaim { metadata, spec: Some(spec), status: None }
}

/// Makes a claim. That there is one already is no error: a StatefulSet makes its own.
async fn make(cx: &FaultCx, lost: &LostClaim, claim: PersistentVolumeClaim) -> Result<(), FaultError> {
    let what = format!("make claim {}/{}", lost.namespace, lost.name);
    let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
    cx.leave.to(&what)?;
    match cx.cluster.call(&what, cx.cluster.api(&lost.namespace).create(&params, &claim)).await {
        Err(error) if !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Marks the claim that stands in for the lost one, and notes on the volume which that is.
async fn note_stand_in(cx: &FaultCx, lost: &LostClaim, now: &PersistentVolumeClaim) -> Result<(), FaultError> {
    let uid = now.uid().unwrap_or_default();
    let id = (lost.namespace.as_str(), lost.name.as_str(), uid.as_str());
    change::<PersistentVolumeClaim, _>(cx, id, |now| {
        refuse_foreign(cx, now, &called(lost))?;
        Ok(if marked_by(now).is_some() { Decision::Done(()) } else { Decision::Patch(mark(&cx.drill), ()) })
    })
    .await?;
    change_cluster::<PersistentVolume, _>(cx, (&lost.volume, &lost.volume_uid), |now| {
        let noted = is_foreign(cx, now) || stand_in(now) == Some(uid.as_str());
        let patch = json!({"metadata": {"annotations": {labels::STAND_IN: uid}}});
        Ok(if noted { Decision::Done(()) } else { Decision::Patch(patch, ()) })
    })
    .await?;
    Ok(())
}

pub(super) async fn effective(cx: &FaultCx, lost: &LostClaim, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the claim has lost its volume", limit, || async {
        let Some(now) = claim(cx, lost).await? else { return Ok(Err("the claim is not there".to_owned())) };
        if let Some(how) = holds(cx, lost).await? {
            return Ok(Err(how));
        }
        if let Some(pod) =
            users(cx, &lost.namespace, &lost.name).await?.iter().find(|p| lost.pods.iter().any(|old| p.uid().as_ref() == Some(&old.uid)))
        {
            return Ok(Err(format!("pod {} still uses it", pod.name_any())));
        }
        let kept = volume(cx, lost).await?;
        if lost.set_aside && kept.is_none_or(|v| marked_by(&v) != Some(&cx.drill) || policy(&v) != "Retain") {
            return Ok(Err(format!("volume {} is not kept", lost.volume)));
        }
        let what = if lost.set_aside { "is kept" } else { "was given up" };
        Ok(Ok(format!("the claim is another (uid {}), without data; volume {} {what}", now.uid().unwrap_or_default(), lost.volume)))
    })
    .await
}

/// What is lost is the way to the data: the claim may be filled, deleted and made anew without giving that back.
pub(super) async fn holds(cx: &FaultCx, lost: &LostClaim) -> Result<Option<String>, FaultError> {
    if let Some(now) = claim(cx, lost).await? {
        if is_the_lost(&now, lost) {
            return Ok(Some("the claim is still there".to_owned()));
        }
        if volume_of(&now) == lost.volume {
            return Ok(Some("others have bound the volume to the claim again".to_owned()));
        }
    }
    let kept = volume(cx, lost).await?;
    let of = kept.as_ref().and_then(kept_for).filter(|(.., uid)| *uid != Some(lost.uid.as_str()));
    Ok(of.map(|(namespace, name, _)| format!("others have given the volume to claim {namespace}/{name}")))
}
