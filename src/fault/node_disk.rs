//! `fillNodeDisk`: a file of ours takes the room of the file system that a node's kubelet lives on.
//!
//! As `fillDisk` does it ([`crate::agent::volume`]), in the kubelet's own folder, and never so far that the kubelet and the helper could not
//! undo it: a floor is always left.

use std::time::Duration;

use super::{FaultCx, FaultError, Home, NodeDisk, NodeRef, Prepared, Undo, VolumeId, change::until, cordon_node::there, on_nodes, volumes};
use crate::{
    agent::{
        node::NodeReq,
        processes::NodePod,
        volume::{OURS, Step, VolumeAt, VolumeSeen},
    },
    clock::Stamp,
    journal::{RevertResult, TouchedObject},
    plan::ResolvedObject,
    scenario::types::FillDisk,
};

pub(super) async fn prepare(cx: &FaultCx, fill: &FillDisk, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let what = "fill the disk of a node";
    let act = volumes::fill_act(fill).map_err(|why| FaultError::failed(what, why))?;
    if let Some(path) = &fill.path {
        return Err(FaultError::failed(what, format!("`path: {path}` is refused: it is the disk of the node's kubelet that is filled")));
    }
    let name = on_nodes::own_name(cx, OURS);
    let (mut at, mut objects) = (Vec::new(), Vec::new());
    for ResolvedObject { name, uid, .. } in targets {
        if there(cx, name, uid).await?.is_none() {
            return Err(FaultError::failed(format!("fill the disk of node {name}"), "it is no longer there"));
        }
        objects.push(TouchedObject { kind: "Node".to_owned(), namespace: String::new(), name: name.clone(), uid: uid.clone() });
        let id = VolumeId { device: String::new(), root: String::new() };
        at.push(NodeDisk { node: NodeRef { name: name.clone(), uid: uid.clone() }, id, act: act.clone() });
    }
    if at.is_empty() {
        return Err(FaultError::failed(what, "the target matches no node"));
    }
    let seen = ask(cx, Step::Look, &name, &at).await?;
    for (disk, seen) in at.iter_mut().zip(seen) {
        disk.id = seen.id.ok_or_else(|| FaultError::failed(what, format!("the helper on {} does not say which disk", disk.node.name)))?;
    }
    Ok(Prepared { undo: Undo::NodeDisk { at, name }, objects })
}

fn on_node(disk: &NodeDisk, name: &str) -> VolumeAt {
    let NodeRef { name: node, uid } = &disk.node;
    let pod = NodePod { uid: uid.clone(), name: format!("node {node}"), containers: Vec::new(), ids: std::collections::BTreeMap::new() };
    let known = (!disk.id.device.is_empty()).then(|| disk.id.clone());
    let (container, mount) = (String::new(), "the kubelet's disk".to_owned());
    VolumeAt { pod, container, mount, id: known, name: name.to_owned(), act: disk.act.clone(), of_node: true, declared: None }
}

async fn ask(cx: &FaultCx, step: Step, name: &str, at: &[NodeDisk]) -> Result<Vec<VolumeSeen>, FaultError> {
    cx.helpers.fill_nodes();
    let request = |which: &[&NodeDisk]| NodeReq::Volumes { step, at: which.iter().map(|disk| on_node(disk, name)).collect() };
    on_nodes::ask(cx, at, |disk| Home::node(&disk.node.name), ("fill the node's disk", on_nodes::WRITE_LIMIT), request).await
}

pub(super) async fn arm(cx: &FaultCx, at: &[NodeDisk], name: &str) -> Result<(), FaultError> {
    ask(cx, Step::Look, name, at).await.map(drop)
}

pub(super) async fn inject(cx: &FaultCx, at: &[NodeDisk], name: &str) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    ask(cx, Step::Inject, name, at).await?;
    Ok((start, cx.clock.now()))
}

pub(super) async fn effective(cx: &FaultCx, at: &[NodeDisk], name: &str, limit: Duration) -> Result<(Stamp, String), FaultError> {
    on_nodes::effective(cx, "that the disk fills", limit, || ask(cx, Step::Check, name, at)).await
}

pub(super) async fn holds(cx: &FaultCx, at: &[NodeDisk], name: &str) -> Result<Option<String>, FaultError> {
    Ok(on_nodes::broken(&ask(cx, Step::Check, name, at).await?))
}

/// The nodes that are still in the cluster, and what is said of the others.
async fn left(cx: &FaultCx, at: &[NodeDisk]) -> Result<(Vec<NodeDisk>, Vec<String>), FaultError> {
    let (mut left, mut gone) = (Vec::new(), Vec::new());
    for disk in at {
        match there(cx, &disk.node.name, &disk.node.uid).await? {
            Some(_) => left.push(disk.clone()),
            None => gone.push(format!("node {} is gone", disk.node.name)),
        }
    }
    Ok((left, gone))
}

pub(super) async fn revert(cx: &FaultCx, at: &[NodeDisk], name: &str) -> Result<(RevertResult, String), FaultError> {
    let (left, gone) = left(cx, at).await?;
    if left.is_empty() {
        return Ok((RevertResult::TargetGone, gone.join("; ")));
    }
    let seen = ask(cx, Step::Revert, name, &left).await?;
    Ok((volumes::outcome(&seen), gone.into_iter().chain([on_nodes::said(&seen)]).collect::<Vec<_>>().join("; ")))
}

/// No file of ours is on any of the disks.
pub(super) async fn gone(cx: &FaultCx, at: &[NodeDisk], name: &str, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the room is given back", limit, || async {
        let (left, mut proof) = left(cx, at).await?;
        let seen = ask(cx, Step::Check, name, &left).await?;
        if seen.iter().any(|s| s.left) {
            return Ok(Err(on_nodes::said(&seen)));
        }
        proof.push(on_nodes::said(&seen));
        Ok(Ok(proof.join("; ")))
    })
    .await
}
