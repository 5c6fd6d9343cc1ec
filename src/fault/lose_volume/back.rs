//! Giving a claim back the volume that was set aside.
//!
//! Where the cluster binds by itself it is told whom the volume is for, and nothing else: the volume is kept for a claim of the lost one's
//! name, whoever makes that, and gets its reclaim policy back only when such a claim is bound to it. Until then no deletion of
//! anything can cost the data.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{
    super::{
        FaultCx, FaultError, LostClaim,
        change::{Decision, change, change_cluster, is_foreign, marked_by, unmark, until},
        hide_secret::is_alive,
        owner,
    },
    Next, claim, end_users, is_the_lost, kept_for, make, of, policy, remove, stand_in, through, volume, volume_of,
};
use crate::{clock::Stamp, journal::RevertResult, labels};

/// What the volume controller writes on a claim that it has bound.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// How long a restore may take to be seen at the drill's end.
const RESTORED_LIMIT: Duration = Duration::from_secs(60);

type Reverted = (RevertResult, String);

fn put_back(lost: &LostClaim) -> String {
    format!("give claim {}/{} its volume back", lost.namespace, lost.name)
}

/// What a person may do with a volume that is kept.
fn by_hand(lost: &LostClaim) -> String {
    let LostClaim { namespace, name, volume, .. } = lost;
    format!(
        "what it had is kept on PersistentVolume {volume}. To have it again: delete claim {namespace}/{name} and its pods, then \
         kubectl patch pv {volume} --type merge -p '{{\"spec\":{{\"claimRef\":{{\"uid\":null,\"resourceVersion\":null}}}}}}' and make the claim \
         with `volumeName: {volume}`. To drop it: kubectl patch pv {volume} -p '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Delete\"}}}}'"
    )
}

pub(in super::super) async fn revert(cx: &FaultCx, lost: &LostClaim) -> Result<Reverted, FaultError> {
    if !lost.set_aside {
        let why = "nothing was set aside: what was on the volume is left to whoever restores it";
        return Ok((RevertResult::NotOurs, why.to_owned()));
    }
    through(lost, &put_back(lost), || step(cx, lost)).await
}

/// The next step of giving it back, by what is there.
async fn step(cx: &FaultCx, lost: &LostClaim) -> Result<Next<Reverted>, FaultError> {
    let done = |result, detail: String| Ok(Next::Done((result, detail)));
    let LostClaim { namespace, name, volume: called, .. } = lost;
    let now = claim(cx, lost).await?;
    let Some(kept) = volume(cx, lost).await? else { return without_volume(cx, lost, now.as_ref()) };
    if is_foreign(cx, &kept) {
        return done(RevertResult::Superseded, format!("another drill has changed volume {called}; left so"));
    }
    let ours = marked_by(&kept) == Some(&cx.drill);
    if ours && let Some((other, of, _)) = kept_for(&kept).filter(|(a, b, _)| (*a, *b) != (namespace.as_str(), name.as_str())) {
        let detail = format!("others have given volume {called} to claim {other}/{of}; left so");
        give_back(cx, lost).await?;
        return done(RevertResult::Superseded, detail);
    }
    let Some(now) = now else {
        if !is_alive(cx, namespace).await? {
            if ours {
                give_back(cx, lost).await?;
            }
            return done(RevertResult::TargetGone, format!("namespace {namespace} is gone; volume {called} has its reclaim policy"));
        }
        if !ours {
            give_back(cx, lost).await?;
            return done(RevertResult::TargetGone, format!("claim {namespace}/{name} is gone"));
        }
        if keep_for_it(cx, lost).await? {
            make(cx, lost, with_volume(lost, &cx.drill)).await?;
        }
        return Ok(Next::Again);
    };
    let going = now.metadata.deletion_timestamp.is_some();
    if going && !ours {
        give_back(cx, lost).await?;
        return done(RevertResult::TargetGone, format!("others are deleting claim {namespace}/{name}"));
    }
    if going {
        let left = end_users(cx, lost, true).await?;
        return Ok(Next::Wait(left.unwrap_or_else(|| format!("claim {namespace}/{name} is still being deleted"))));
    }
    if is_the_lost(&now, lost) {
        return never_lost(cx, lost).await;
    }
    if volume_of(&now) == called {
        return bound_again(cx, lost, &now, &kept).await;
    }
    if !ours {
        give_back(cx, lost).await?;
        return done(RevertResult::TargetGone, format!("claim {namespace}/{name} is gone; another has its name"));
    }
    let returning = stand_in(&kept) == Some(labels::RETURNING);
    let uid = now.uid().unwrap_or_default();
    // While nobody has noted which claim stands in, the runner was lost before it could: whatever came after the lost one is that.
    if marked_by(&now) != Some(&cx.drill) && !returning && stand_in(&kept).is_some_and(|noted| noted != uid) {
        return done(RevertResult::Superseded, format!("others have made another claim; left so; {}", by_hand(lost)));
    }
    if !returning {
        // First of all, so that whoever makes the next claim of that name gets it.
        keep_for_it(cx, lost).await?;
        return Ok(Next::Again);
    }
    if volume_of(&now).is_empty() && marked_by(&now).is_none() {
        return Ok(Next::Wait(format!("claim {namespace}/{name} is not bound yet")));
    }
    remove(cx, lost, &now).await?;
    Ok(Next::Again)
}

fn without_volume(cx: &FaultCx, lost: &LostClaim, now: Option<&PersistentVolumeClaim>) -> Result<Next<Reverted>, FaultError> {
    if now.is_some_and(|now| !is_the_lost(now, lost) && marked_by(now) == Some(&cx.drill)) {
        let why = format!(
            "volume {} is gone, though it was set aside: others have deleted it. Restore what was on it, then take the mark away: \
             kubectl -n {} label pvc {} {}-",
            lost.volume,
            lost.namespace,
            lost.name,
            labels::FAULT
        );
        return Err(FaultError::failed(put_back(lost), why));
    }
    Ok(Next::Done((RevertResult::TargetGone, format!("volume {} is gone", lost.volume))))
}

/// The claim is there as it was: a deletion may still be under way, and must find another version before the cluster may delete volumes.
async fn never_lost(cx: &FaultCx, lost: &LostClaim) -> Result<Next<Reverted>, FaultError> {
    let id = (lost.namespace.as_str(), lost.name.as_str(), lost.uid.as_str());
    if change::<PersistentVolumeClaim, ()>(cx, id, |_| Ok(Decision::Fence(()))).await?.is_none() {
        return Ok(Next::Again);
    }
    // It may have been deleted before it was fenced, and is then there with a time of deletion.
    let now = claim(cx, lost).await?;
    if now.is_none_or(|now| !is_the_lost(&now, lost) || now.metadata.deletion_timestamp.is_some()) {
        return Ok(Next::Again);
    }
    Ok(Next::Done(if give_back(cx, lost).await? {
        (RevertResult::Reverted, "the claim was not deleted yet; its volume has its reclaim policy again".to_owned())
    } else {
        (RevertResult::Nothing, "it is there as before".to_owned())
    }))
}

/// A claim of that name has the volume, or is about to: both become what they were.
async fn bound_again(
    cx: &FaultCx,
    lost: &LostClaim,
    now: &PersistentVolumeClaim,
    kept: &PersistentVolume,
) -> Result<Next<Reverted>, FaultError> {
    if !is_bound(now, kept) {
        return Ok(Next::Wait(format!("claim {}/{} is not bound to volume {} yet", lost.namespace, lost.name, lost.volume)));
    }
    let (ours, marked) = (marked_by(kept) == Some(&cx.drill), marked_by(now) == Some(&cx.drill));
    let of_others = ours && !marked && stand_in(kept) != Some(labels::RETURNING);
    if !of_others && (ours || marked) {
        as_before(cx, lost, now).await?;
    }
    give_back(cx, lost).await?;
    Ok(Next::Done(if of_others {
        (RevertResult::Superseded, "others have bound the volume to the claim again; left so".to_owned())
    } else if ours || marked {
        (RevertResult::Reverted, format!("the claim has volume {} again, with what was on it", lost.volume))
    } else {
        (RevertResult::Nothing, "it is there as before".to_owned())
    }))
}

fn is_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    bound && claim.uid().is_some() && kept_for(volume).and_then(|(.., uid)| uid) == claim.uid().as_deref()
}

/// Labels, annotations and owners of the claim as they were; those that came since are left.
async fn as_before(cx: &FaultCx, lost: &LostClaim, now: &PersistentVolumeClaim) -> Result<(), FaultError> {
    let uid = now.uid().unwrap_or_default();
    let id = (lost.namespace.as_str(), lost.name.as_str(), uid.as_str());
    change::<PersistentVolumeClaim, ()>(cx, id, |now| {
        let mut patch = if marked_by(now) == Some(&cx.drill) { unmark() } else { json!({"metadata": {}}) };
        for (part, before, now) in [("labels", &lost.labels, now.labels()), ("annotations", &lost.annotations, now.annotations())] {
            for (key, value) in before.iter().filter(|(key, value)| now.get(*key) != Some(*value)) {
                patch["metadata"][part][key] = Value::from(value.as_str());
            }
        }
        if now.owner_references() != lost.owners {
            patch["metadata"]["ownerReferences"] = json!(lost.owners);
        }
        let same = patch == json!({"metadata": {}});
        Ok(if same { Decision::Done(()) } else { Decision::Patch(patch, ()) })
    })
    .await?;
    Ok(())
}

/// The claim as it was, with its volume, marked until that is proven. The controller says by itself that they are bound.
fn with_volume(lost: &LostClaim, drill: &str) -> PersistentVolumeClaim {
    let mut annotations = lost.annotations.clone();
    annotations.remove(BIND_COMPLETED);
    let spec = PersistentVolumeClaimSpec { volume_name: Some(lost.volume.clone()), ..lost.spec.clone() };
    of(lost, Some(drill), annotations, spec)
}

/// Has the volume wait for a claim of the lost one's name, whatever its uid. False: it is gone.
///
/// A uid that is on it is taken away only when the claim of that uid is gone: a claim that has been bound meanwhile, and then finds no uid
/// on its volume, is lost for Kubernetes (`ClaimMisbound`) and stays so.
async fn keep_for_it(cx: &FaultCx, lost: &LostClaim) -> Result<bool, FaultError> {
    let LostClaim { namespace, name, .. } = lost;
    // In this order: whoever is not there after the volume has named it will not come again.
    let Some(seen) = volume(cx, lost).await? else { return Ok(false) };
    let bound_to = kept_for(&seen).and_then(|(.., uid)| uid.map(str::to_owned));
    if bound_to.is_some() && claim(cx, lost).await?.and_then(|now| now.uid()) == bound_to && bound_to.as_ref() != Some(&lost.uid) {
        return Ok(true);
    }
    let done = change_cluster::<PersistentVolume, _>(cx, (&lost.volume, &lost.volume_uid), |now| {
        let uid = kept_for(now).and_then(|(.., uid)| uid);
        let waits = uid.is_none() && kept_for(now).is_some() && stand_in(now) == Some(labels::RETURNING);
        // Another one than was looked at: it is looked at again.
        if waits || uid.is_some() && uid != bound_to.as_deref() {
            return Ok(Decision::Done(()));
        }
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name,
            "uid": null, "resourceVersion": null});
        let annotations = json!({labels::STAND_IN: labels::RETURNING});
        Ok(Decision::Patch(json!({"metadata": {"annotations": annotations}, "spec": {"claimRef": claim}}), ()))
    })
    .await?;
    Ok(done.is_some())
}

/// Gives the volume its reclaim policy back and takes the mark away; where there is none, only makes a write that is still under way fail.
/// True: there was one.
async fn give_back(cx: &FaultCx, lost: &LostClaim) -> Result<bool, FaultError> {
    let done = change_cluster::<PersistentVolume, _>(cx, (&lost.volume, &lost.volume_uid), |now| {
        if marked_by(now) != Some(&cx.drill) {
            return Ok(Decision::Fence(false));
        }
        let mut patch = unmark();
        patch["metadata"]["annotations"] = json!({labels::STAND_IN: null});
        // Anything else was set by others.
        if policy(now) == "Retain" {
            patch["spec"]["persistentVolumeReclaimPolicy"] = json!(lost.policy);
        }
        Ok(Decision::Patch(patch, true))
    })
    .await?;
    Ok(done.unwrap_or(false))
}

pub(in super::super) async fn gone(cx: &FaultCx, lost: &LostClaim, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let (_, back) = until(cx, "that the claim has its volume", limit, || async {
        let kept = volume(cx, lost).await?;
        let marked = kept.as_ref().and_then(marked_by) == Some(&cx.drill);
        let Some(now) = claim(cx, lost).await? else {
            let alive = is_alive(cx, &lost.namespace).await?;
            let what = format!("namespace {} is gone", lost.namespace);
            return Ok(if alive || marked { Err("the claim is not there".to_owned()) } else { Ok(what) });
        };
        let Some(kept) = kept else { return Ok(Err(format!("volume {} is gone", lost.volume))) };
        if now.metadata.deletion_timestamp.is_some() || !is_bound(&now, &kept) || volume_of(&now) != lost.volume {
            return Ok(Err(format!("the claim is not bound to volume {}", lost.volume)));
        }
        if marked || marked_by(&now) == Some(&cx.drill) {
            return Ok(Err("the drill's mark is still there".to_owned()));
        }
        if policy(&kept) != lost.policy {
            return Ok(Err(format!("volume {} has reclaim policy {} and had {}", lost.volume, policy(&kept), lost.policy)));
        }
        Ok(Ok(format!("the claim is bound to volume {}", lost.volume)))
    })
    .await?;
    let (at, ready) = owner::all_ready(cx, &lost.users, limit).await?;
    Ok((at, if ready.is_empty() { back } else { format!("{back}; {ready}") }))
}

/// Lets go of a volume whose data a runbook has restored elsewhere: it gets its reclaim policy back, by which the cluster then does
/// with it what it does with any volume that nobody claims. Not before the claim is seen to have another one, and its pods are back.
pub(in super::super) async fn let_go(cx: &FaultCx, lost: &LostClaim, restored: bool) -> Result<(), FaultError> {
    if !lost.set_aside {
        return Ok(());
    }
    let what = format!("let go of PersistentVolume {}", lost.volume);
    let kept = |why: &str| Err(FaultError::failed(&what, format!("{why}; {}", by_hand(lost))));
    if !restored {
        return kept("no runbook that restores it has succeeded");
    }
    let seen = until(cx, "that the claim has another volume", RESTORED_LIMIT, || async {
        let now = claim(cx, lost).await?;
        let bound = |c: &PersistentVolumeClaim| c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let stays = |c: &PersistentVolumeClaim| c.metadata.deletion_timestamp.is_none() && !is_the_lost(c, lost);
        Ok(match now.filter(|c| bound(c) && stays(c)) {
            Some(now) => Ok(now.uid().unwrap_or_default()),
            None => Err("the claim is not bound".to_owned()),
        })
    })
    .await;
    let uid = match seen {
        Ok((_, uid)) => uid,
        Err(error) => return kept(&error.to_string()),
    };
    if let Err(error) = owner::all_ready(cx, &lost.users, RESTORED_LIMIT).await {
        return kept(&error.to_string());
    }
    let id = (lost.namespace.as_str(), lost.name.as_str(), uid.as_str());
    change::<PersistentVolumeClaim, ()>(cx, id, |now| {
        Ok(if marked_by(now) == Some(&cx.drill) { Decision::Patch(unmark(), ()) } else { Decision::Done(()) })
    })
    .await?;
    give_back(cx, lost).await?;
    Ok(())
}
