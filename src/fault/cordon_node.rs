//! `cordonNode`: makes nodes unschedulable, as `kubectl cordon` does. What runs there goes on; nothing new comes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use super::{
    FaultCx, FaultError, NodeRef, Prepared, Undo,
    change::{Decision, change_cluster, mark, marked_by, refuse_foreign, unmark, until},
};
use crate::{
    clock::Stamp,
    journal::{RevertResult, TouchedObject},
    plan::ResolvedObject,
};

/// What the node life-cycle controller puts on a cordoned node, and takes away a moment after it is schedulable again.
const TAINT: &str = "node.kubernetes.io/unschedulable";

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
}

pub(super) async fn prepare(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let (nodes, objects) = nodes(cx, targets).await?;
    Ok(Prepared { undo: Undo::Cordon { nodes }, objects })
}

/// The nodes of a target, each there and schedulable. One that somebody has cordoned is not ours to make schedulable again.
pub(super) async fn nodes(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<(Vec<NodeRef>, Vec<TouchedObject>), FaultError> {
    let (mut nodes, mut objects) = (Vec::new(), Vec::new());
    for ResolvedObject { name, uid, .. } in targets {
        let called = format!("cordon node {name}");
        let Some(node) = there(cx, name, uid).await? else { return Err(FaultError::failed(called, "it is no longer there")) };
        refuse_foreign(cx, &node, &called)?;
        if is_cordoned(&node) {
            return Err(FaultError::failed(called, "it is cordoned already: nothing would change"));
        }
        objects.push(TouchedObject { kind: "Node".to_owned(), namespace: String::new(), name: name.clone(), uid: uid.clone() });
        nodes.push(NodeRef { name: name.clone(), uid: uid.clone() });
    }
    if nodes.is_empty() {
        return Err(FaultError::failed("cordon", "the target matches no node"));
    }
    Ok((nodes, objects))
}

/// The node with this uid, if it exists.
pub(super) async fn there(cx: &FaultCx, name: &str, uid: &str) -> Result<Option<Node>, FaultError> {
    Ok(cx.cluster.get_cluster_opt::<Node>(name).await?.filter(|n| n.uid().as_deref() == Some(uid)))
}

pub(super) async fn inject(cx: &FaultCx, nodes: &[NodeRef]) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    for NodeRef { name, uid } in nodes {
        let called = format!("cordon node {name}");
        let done = change_cluster::<Node, ()>(cx, (name, uid), |now| {
            refuse_foreign(cx, now, &called)?;
            match (is_cordoned(now), marked_by(now).is_some()) {
                (true, true) => Ok(Decision::Done(())),
                (true, false) => Err(FaultError::failed(&called, "others have cordoned it meanwhile")),
                (false, _) => {
                    let mut patch = mark(&cx.drill);
                    patch["spec"]["unschedulable"] = true.into();
                    Ok(Decision::Patch(patch, ()))
                }
            }
        })
        .await?;
        done.ok_or_else(|| FaultError::failed(called, "it is no longer there"))?;
    }
    Ok((start, cx.clock.now()))
}

pub(super) async fn effective(cx: &FaultCx, nodes: &[NodeRef], limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the nodes are cordoned", limit, || async {
        Ok(match holds(cx, nodes).await? {
            None => Ok(format!("unschedulable: {}", names(nodes))),
            Some(how) => Err(how),
        })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, nodes: &[NodeRef]) -> Result<Option<String>, FaultError> {
    for NodeRef { name, uid } in nodes {
        match there(cx, name, uid).await? {
            None => return Ok(Some(format!("node {name} is gone"))),
            Some(now) if !is_cordoned(&now) => return Ok(Some(format!("others have made node {name} schedulable again"))),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Each node by itself: one that others have taken care of does not keep the rest from being reverted.
pub(super) async fn revert(cx: &FaultCx, nodes: &[NodeRef]) -> Result<(RevertResult, String), FaultError> {
    let (mut results, mut details, mut failed) = (Vec::new(), Vec::new(), None);
    for NodeRef { name, uid } in nodes {
        let done = change_cluster::<Node, _>(cx, (name, uid), |now| {
            let superseded = |why: &str| (RevertResult::Superseded, format!("others have {why} node {name}; left so"));
            Ok(match (marked_by(now) == Some(&cx.drill), is_cordoned(now)) {
                (true, true) => {
                    let mut patch = unmark();
                    // The API server never keeps a `false` here.
                    patch["spec"]["unschedulable"] = serde_json::Value::Null;
                    Decision::Patch(patch, (RevertResult::Reverted, format!("node {name} is schedulable again")))
                }
                (true, false) => Decision::Patch(unmark(), superseded("uncordoned")),
                (false, true) => Decision::Done(superseded("cordoned")),
                (false, false) => Decision::Fence((RevertResult::Nothing, format!("node {name} is schedulable"))),
            })
        })
        .await;
        match done {
            Ok(done) => {
                let (result, detail) = done.unwrap_or((RevertResult::TargetGone, format!("node {name} is gone")));
                results.push(result);
                details.push(detail);
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok((together(&results), details.join("; "))),
    }
}

/// What several reverts are in one word: that others have had a hand in it must not be lost, and what was done asks for its proof.
fn together(results: &[RevertResult]) -> RevertResult {
    [RevertResult::Superseded, RevertResult::Reverted, RevertResult::Nothing]
        .into_iter()
        .find(|result| results.contains(result))
        .unwrap_or(RevertResult::TargetGone)
}

pub(super) async fn gone(cx: &FaultCx, nodes: &[NodeRef], limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the nodes are schedulable again", limit, || async {
        let mut said = Vec::new();
        for NodeRef { name, uid } in nodes {
            let Some(now) = there(cx, name, uid).await? else {
                said.push(format!("node {name} is gone"));
                continue;
            };
            if marked_by(&now) == Some(&cx.drill) {
                return Ok(Err(format!("node {name} still carries the drill's mark")));
            }
            if is_cordoned(&now) {
                return Ok(Err(format!("node {name} is still cordoned")));
            }
            if now.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|taint| taint.key == TAINT) {
                return Ok(Err(format!("node {name} still has the taint {TAINT}")));
            }
            said.push(format!("node {name} is schedulable"));
        }
        Ok(Ok(said.join(", ")))
    })
    .await
}

fn names(nodes: &[NodeRef]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_did_is_never_lost_among_several_reverts() {
        use RevertResult::{Nothing, Reverted, Superseded, TargetGone};
        assert_eq!(together(&[Reverted, Superseded, TargetGone]), Superseded);
        assert_eq!(together(&[TargetGone, Reverted, Nothing]), Reverted);
        assert_eq!(together(&[TargetGone, Nothing]), Nothing);
        assert_eq!(together(&[TargetGone, TargetGone]), TargetGone);
    }
}
