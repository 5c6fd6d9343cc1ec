//! `fillDisk`, `corruptFile` and `deleteFiles`: what a helper does on a volume of the target, and undoes there.
//!
//! The helper's side is [`crate::agent::volume`]. The lasting thing is the claim: where the pod is gone, the revert goes through
//! whichever pod has the claim mounted by then, and where none has, through the node that it was on. A helper within a pod has the
//! pod's volumes mounted whole: a `subPath` is a part of the file's path there.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume as PodVolume, VolumeMount};
use kube::ResourceExt as _;

use super::{
    FaultCx, FaultError, FillGoal, Home, OnVolume, PodOnNode, Prepared, Undo, VolumeAct, VolumeId,
    change::until,
    home,
    on_nodes::{self, own_name, said},
    owner, processes,
};
use crate::{
    agent::{
        inside::Work,
        node::NodeReq,
        pods::is_over,
        volume::{OURS, Step, VolumeAt, VolumeSeen},
    },
    clock::Stamp,
    cluster::Fresh,
    journal::{RevertResult, TouchedObject},
    plan::ResolvedObject,
    scenario::types::{FaultSpec, FillDisk, Placement},
};

/// A volume of a pod, where a container has it.
struct Place {
    container: String,
    mount: String,
    sub_path: Option<String>,
    claim: Option<String>,
    /// What the pod calls the volume.
    name: String,
    /// What of the path lies below the mount.
    below: String,
}

pub(super) async fn prepare(
    cx: &FaultCx,
    spec: &FaultSpec,
    targets: &[ResolvedObject],
    containers: &[String],
) -> Result<Prepared, FaultError> {
    let (path, what) = if let Some(fill) = &spec.fill_disk {
        (fill.path.as_deref(), "fill a volume")
    } else if let Some(corrupt) = &spec.corrupt_file {
        (Some(corrupt.path.as_str()), "damage a file")
    } else if let Some(delete) = &spec.delete_files {
        (Some(delete.path.as_str()), "delete files")
    } else {
        return Err(FaultError::NotBuilt);
    };
    if path.is_some_and(|path| path.split('/').any(|part| part == "..")) {
        return Err(FaultError::failed(what, format!("`{}` is refused: a path has no `..`", path.unwrap_or_default())));
    }
    let name = own_name(cx, OURS);
    let placement = home::placement(cx, spec);
    let (mut at, mut objects) = (Vec::<OnVolume>::new(), Vec::new());
    for target in targets {
        let failed = |why: String| FaultError::failed(format!("{what} of {} {}/{}", target.kind, target.namespace, target.name), why);
        let (pod, place) = match target.kind.as_str() {
            "PersistentVolumeClaim" => of_claim(cx, target, path).await?,
            _ => {
                let pod = processes::there_by(cx, &target.namespace, &target.name, &target.uid).await?;
                let pod = pod.ok_or_else(|| failed("it is no longer there".to_owned()))?;
                let path = path.ok_or_else(|| failed("the `path` of a volume is needed".to_owned()))?;
                let place = of_path(&pod, path, containers).map_err(failed)?;
                (pod, place)
            }
        };
        let place = if placement == Placement::Pod { place.whole().map_err(failed)? } else { place };
        let on = on_node(cx, &pod, &place.container, placement).await?;
        if on.node.is_empty() || pod.metadata.deletion_timestamp.is_some() {
            return Err(failed("it is on no node, or is being deleted: its volumes cannot be reached".to_owned()));
        }
        let (kind, uid) = if target.kind == "Pod" {
            ("Volume", format!("{}:{}", target.name, place.mount))
        } else {
            (target.kind.as_str(), target.name.clone())
        };
        objects.push(TouchedObject { kind: kind.to_owned(), namespace: target.namespace.clone(), name: uid, uid: target.uid.clone() });
        // Two pods of one claim have one volume.
        if place.claim.is_some() && at.iter().any(|other| other.claim == place.claim && other.pod.namespace == on.namespace) {
            continue;
        }
        let Place { container, mount, sub_path, claim, name, below } = place;
        let act = act(spec, below).map_err(failed)?;
        let id = VolumeId { device: String::new(), root: String::new() };
        let declared = (placement == Placement::Pod).then_some(name);
        at.push(OnVolume { pod: on, container, mount, sub_path, claim, id, act, declared });
    }
    if at.is_empty() {
        return Err(FaultError::failed(what, "the target matches nothing"));
    }
    let seen = ask(cx, Step::Look, &name, &at.iter().map(|on| (on.clone(), false)).collect::<Vec<_>>()).await?;
    for (on, seen) in at.iter_mut().zip(seen) {
        let (Some(id), Some(act)) = (seen.id, seen.act) else {
            return Err(FaultError::failed(
                what,
                format!("the helper {} does not say which volume that is", Home::of(&on.pod, Work::Volumes)),
            ));
        };
        (on.id, on.act) = (id, act);
    }
    Ok(Prepared { undo: Undo::Volumes { at, name }, objects })
}

/// What filling is, on a volume and on a node's disk.
pub(super) fn fill_act(fill: &FillDisk) -> Result<VolumeAct, String> {
    let goal = match (fill.to, fill.leave) {
        (Some(share), None) => FillGoal::Share(share),
        (None, Some(bytes)) => FillGoal::Leave(bytes),
        _ => return Err("exactly one of `to` and `leave` is needed".to_owned()),
    };
    Ok(VolumeAct::Fill { goal, over: fill.over.filter(|over| !over.0.is_zero()) })
}

/// What the reverts on several volumes come to: what others have changed on one of them must not go unsaid.
pub(super) fn outcome(seen: &[VolumeSeen]) -> RevertResult {
    let has = |wanted| seen.iter().any(|s| s.result == Some(wanted));
    [RevertResult::Superseded, RevertResult::Reverted].into_iter().find(|r| has(*r)).unwrap_or(RevertResult::Nothing)
}

fn act(spec: &FaultSpec, below: String) -> Result<VolumeAct, String> {
    if let Some(fill) = &spec.fill_disk {
        return fill_act(fill);
    }
    if below.is_empty() {
        return Err("the path is a whole volume: name a file on it".to_owned());
    }
    Ok(match &spec.corrupt_file {
        Some(corrupt) => VolumeAct::Corrupt { path: below, bytes: corrupt.bytes.map_or(8 << 10, |b| b.0), range: None },
        None => VolumeAct::Delete { path: below },
    })
}

async fn on_node(cx: &FaultCx, pod: &Pod, container: &str, placement: Placement) -> Result<PodOnNode, FaultError> {
    let uid = pod.uid().unwrap_or_default();
    cx.helpers.keep_containers(&uid, processes::container_ids(pod));
    Ok(PodOnNode {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid,
        node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
        containers: vec![container.to_owned()],
        owner: owner::of(cx, pod).await?,
        placement,
    })
}

/// The mounts of a pod's containers, of the chosen ones if some are, with their volumes.
fn mounts<'a>(pod: &'a Pod, containers: &'a [String]) -> impl Iterator<Item = (&'a str, &'a VolumeMount, &'a PodVolume)> {
    let spec = pod.spec.as_ref();
    let volumes = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let all = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    all.iter().filter(|c| containers.is_empty() || containers.contains(&c.name)).flat_map(move |c| {
        c.volume_mounts
            .iter()
            .flatten()
            .filter_map(move |mount| Some((c.name.as_str(), mount, volumes.iter().find(|v| v.name == mount.name)?)))
    })
}

/// The claim of a volume, none for one of the pod's own; or why it is not touched.
fn claim_of(pod: &Pod, volume: &PodVolume) -> Result<Option<String>, String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Ok(Some(claim.claim_name.clone()));
    }
    if volume.ephemeral.is_some() {
        return Ok(Some(format!("{}-{}", pod.name_any(), volume.name)));
    }
    if volume.empty_dir.is_some() {
        return Ok(None);
    }
    Err(format!(
        "volume {} is neither of a claim nor an emptyDir: it belongs to the node, to the cluster or to others, and is not touched",
        volume.name
    ))
}

fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn place(pod: &Pod, (container, mount, volume): (&str, &VolumeMount, &PodVolume), below: &str) -> Result<Place, String> {
    let claim = claim_of(pod, volume)?;
    if mount.read_only == Some(true) {
        return Err(format!("volume {} is mounted read-only in container {container}", volume.name));
    }
    Ok(Place {
        container: container.to_owned(),
        mount: trimmed(&mount.mount_path).to_owned(),
        sub_path: mount.sub_path.clone().or_else(|| mount.sub_path_expr.clone()),
        claim,
        name: volume.name.clone(),
        below: below.trim_start_matches('/').to_owned(),
    })
}

/// The volume that a path in the container is on.
fn of_path(pod: &Pod, path: &str, containers: &[String]) -> Result<Place, String> {
    let below = |mount: &str| {
        let rest = path.strip_prefix(trimmed(mount))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    };
    let mut found: Vec<_> = mounts(pod, containers).filter_map(|m| Some((m, below(&m.1.mount_path)?))).collect();
    // The longest is the one that counts; of several containers one that may write.
    let longest = found.iter().map(|((_, mount, _), _)| trimmed(&mount.mount_path).len()).max();
    found.retain(|((_, mount, _), _)| Some(trimmed(&mount.mount_path).len()) == longest);
    found.sort_by_key(|((_, mount, _), _)| mount.read_only == Some(true));
    match found.into_iter().next() {
        Some((mount, below)) => place(pod, mount, below),
        None => {
            let there: std::collections::BTreeSet<&str> = mounts(pod, containers).map(|(_, mount, _)| mount.mount_path.as_str()).collect();
            let there = there.into_iter().collect::<Vec<_>>().join(", ");
            Err(format!("no volume is mounted at or above {path}; a container's own file system is not touched. Volumes are at: {there}"))
        }
    }
}

impl Place {
    /// The same on the whole volume, as an agent within the pod has it.
    fn whole(self) -> Result<Self, String> {
        let Some(part) = &self.sub_path else { return Ok(self) };
        if part.contains('$') || part.split('/').any(|part| part == "..") {
            return Err(format!(
                "it has `{part}` of the volume mounted at {}, and an agent in the pod does not know where on the whole volume that is",
                self.mount
            ));
        }
        let below = [part.trim_matches('/'), self.below.as_str()].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
        Ok(Self { below: if self.below.is_empty() { String::new() } else { below }, sub_path: None, ..self })
    }
}

/// Which part of a claim is meant.
#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    /// Whichever a pod has: its agent has all.
    Any,
    /// This one; none: the whole.
    Only(Option<&'a str>),
}

/// Where a pod has a claim mounted.
fn of_pods_claim(pod: &Pod, claim: &str, part: Part<'_>) -> Option<Place> {
    mounts(pod, &[])
        .filter(|(_, _, volume)| claim_of(pod, volume).is_ok_and(|c| c.as_deref() == Some(claim)))
        .filter(|(_, mount, _)| match part {
            Part::Any => true,
            Part::Only(sub_path) => mount.sub_path.as_deref().or(mount.sub_path_expr.as_deref()) == sub_path,
        })
        .find_map(|mount| place(pod, mount, "").ok())
}

/// A running pod that has a claim mounted, and where.
async fn mounted(cx: &FaultCx, namespace: &str, claim: &str, part: Part<'_>) -> Result<Option<(Pod, Place)>, FaultError> {
    let live = |pod: &Pod| !is_over(pod) && pod.metadata.deletion_timestamp.is_none() && !processes::container_ids(pod).is_empty();
    let keep = |pod: Pod| of_pods_claim(&pod, claim, part).filter(|_| live(&pod)).map(|place| (pod, place));
    let what = format!("list the pods of claim {namespace}/{claim}");
    Ok(cx.cluster.list_map(&cx.cluster.api(namespace), None, &what, Fresh::Now, keep).await?.into_iter().next())
}

async fn of_claim(cx: &FaultCx, target: &ResolvedObject, path: Option<&str>) -> Result<(Pod, Place), FaultError> {
    let found = mounted(cx, &target.namespace, &target.name, Part::Only(None)).await?;
    let (pod, place) = found.ok_or_else(|| {
        let what = format!("reach claim {}/{}", target.namespace, target.name);
        FaultError::failed(what, "no running pod has it mounted as a whole and writable: name a pod and a path instead")
    })?;
    Ok((pod, Place { below: path.unwrap_or_default().trim_start_matches('/').to_owned(), ..place }))
}

/// Asks the helpers. With each volume: whether its pod may be gone.
async fn ask(cx: &FaultCx, step: Step, name: &str, all: &[(OnVolume, bool)]) -> Result<Vec<VolumeSeen>, FaultError> {
    let one = |(on, _): &(OnVolume, bool)| VolumeAt {
        pod: processes::on_node(cx, &on.pod),
        container: on.container.clone(),
        mount: on.mount.clone(),
        id: (!on.id.device.is_empty()).then(|| on.id.clone()),
        name: name.to_owned(),
        act: on.act.clone(),
        of_node: false,
        declared: on.declared.clone(),
    };
    let request = |which: &[&(OnVolume, bool)]| NodeReq::Volumes { step, at: which.iter().map(|on| one(on)).collect() };
    on_nodes::ask(cx, all, |(on, _)| Home::of(&on.pod, Work::Volumes), ("act on volumes", on_nodes::WRITE_LIMIT), request).await
}

/// The volumes as they can be reached now, and what is to be said of those that are gone for good.
async fn now(cx: &FaultCx, at: &[OnVolume]) -> Result<(Vec<(OnVolume, bool)>, Vec<String>), FaultError> {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for on in at {
        let found = processes::there(cx, &on.pod).await?.filter(|pod| !is_over(pod));
        if let Some(pod) = found {
            cx.helpers.keep_containers(&on.pod.uid, processes::container_ids(&pod));
            there.push((on.clone(), false));
            continue;
        }
        let called = format!("pod {}/{} (uid {})", on.pod.namespace, on.pod.name, on.pod.uid);
        let Some(claim) = &on.claim else {
            gone.push(format!("{called} is gone, and its volume at {} with it", on.mount));
            continue;
        };
        if cx.cluster.get_opt::<PersistentVolumeClaim>(&on.pod.namespace, claim).await?.is_none() {
            gone.push(format!("claim {}/{claim} is gone", on.pod.namespace));
            continue;
        }
        let part = if on.pod.placement == Placement::Pod { Part::Any } else { Part::Only(on.sub_path.as_deref()) };
        match mounted(cx, &on.pod.namespace, claim, part).await? {
            Some((pod, place)) => {
                let pod = on_node(cx, &pod, &place.container, on.pod.placement).await?;
                let declared = on.declared.as_ref().map(|_| place.name);
                there.push((OnVolume { pod, container: place.container, mount: place.mount, declared, ..on.clone() }, false));
            }
            // The node that it was on may have it mounted still.
            None => there.push((on.clone(), true)),
        }
    }
    Ok((there, gone))
}

/// Places the helpers, and looks whether each still finds what it is to act on.
pub(super) async fn arm(cx: &FaultCx, at: &[OnVolume], name: &str) -> Result<(), FaultError> {
    ask(cx, Step::Look, name, &as_it_was(at)).await.map(drop)
}

fn as_it_was(at: &[OnVolume]) -> Vec<(OnVolume, bool)> {
    at.iter().map(|on| (on.clone(), false)).collect()
}

pub(super) async fn inject(cx: &FaultCx, at: &[OnVolume], name: &str) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    ask(cx, Step::Inject, name, &as_it_was(at)).await?;
    Ok((start, cx.clock.now()))
}

pub(super) async fn effective(cx: &FaultCx, at: &[OnVolume], name: &str, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let look = || async { ask(cx, Step::Check, name, &as_it_was(at)).await };
    on_nodes::effective(cx, "that the volume is as it should be", limit, look).await
}

pub(super) async fn holds(cx: &FaultCx, at: &[OnVolume], name: &str) -> Result<Option<String>, FaultError> {
    let (there, mut broken) = now(cx, at).await?;
    if !there.is_empty() {
        broken.extend(ask(cx, Step::Check, name, &there).await?.into_iter().filter_map(|s| s.broken));
    }
    Ok((!broken.is_empty()).then(|| broken.join("; ")))
}

pub(super) async fn revert(cx: &FaultCx, at: &[OnVolume], name: &str) -> Result<(RevertResult, String), FaultError> {
    let (there, mut details) = now(cx, at).await?;
    if there.is_empty() {
        return Ok((RevertResult::TargetGone, details.join("; ")));
    }
    let seen = ask(cx, Step::Revert, name, &there).await.map_err(|error| kept(error, &there, name))?;
    details.extend(seen.iter().map(|s| s.detail.clone()));
    Ok((outcome(&seen), details.join("; ")))
}

/// What a person has to know when nobody can reach a volume.
fn kept(error: FaultError, there: &[(OnVolume, bool)], name: &str) -> FaultError {
    let lost: Vec<String> = there.iter().filter(|(_, lost)| *lost).filter_map(|(on, _)| on.claim.clone()).collect();
    if lost.is_empty() {
        return error;
    }
    let claims = lost.join(", ");
    FaultError::failed(
        format!("clean up claim {claims}"),
        format!("{error}; no pod has it mounted: start one, and revert again, or remove {name} from it"),
    )
}

pub(super) async fn gone(cx: &FaultCx, at: &[OnVolume], name: &str, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that nothing of ours is on the volume", limit, || async {
        let (there, mut proof) = now(cx, at).await?;
        if !there.is_empty() {
            let seen = ask(cx, Step::Check, name, &there).await?;
            if seen.iter().any(|s| s.left || s.effective) {
                return Ok(Err(said(&seen)));
            }
            proof.extend(seen.into_iter().map(|s| s.detail));
        }
        Ok(Ok(proof.join("; ")))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_volume_is_found_on_the_whole_one() {
        let place = |part: Option<&str>, below: &str| Place {
            container: "main".to_owned(),
            mount: "/data".to_owned(),
            sub_path: part.map(str::to_owned),
            claim: None,
            name: "data".to_owned(),
            below: below.to_owned(),
        };
        for (part, below, wanted) in
            [(None, "d/a", "d/a"), (Some("pg/main"), "d/a", "pg/main/d/a"), (Some("pg/"), "a*", "pg/a*"), (Some("pg"), "", "")]
        {
            let whole = place(part, below).whole().unwrap();
            assert_eq!((whole.below.as_str(), whole.sub_path), (wanted, None), "{part:?} {below}");
        }
        for part in ["$(POD_NAME)/pg", "../pg"] {
            let error = place(Some(part), "a").whole().map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
