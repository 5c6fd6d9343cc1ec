//! `loseNode` and `loseZone`: nodes whose kubelet, container runtime and pods stand still, and whose network is cut but for the way to the
//! API server, each by a helper on it ([`crate::agent::loss`]).
//!
//! A helper is reached through the kubelet, so that nobody reaches the helper of a lost node: runner and helper talk over a Lease. The runner
//! renews it, and asks on it for the node back; the helper says on it how the node is.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::{Node, Pod},
    discovery::v1::EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    FaultCx, FaultError, Home, NodeRef, Prepared, Undo,
    change::{LOOK_EVERY, until},
    cordon_node::there,
    on_nodes::{own_name, together},
    processes::ASK_LIMIT,
};
use crate::{
    agent::{
        loss::{LossAt, LossSeen, LossState},
        node::NodeReq,
        pods::is_over,
        volume::Step,
    },
    clock::Stamp,
    journal::{RevertResult, TouchedObject},
    labels,
    plan::ResolvedObject,
};

/// The node life-cycle controller calls a node lost 40 or 50 s after its last word, unless it is told otherwise.
const NOT_READY: Duration = Duration::from_secs(120);
/// How long a helper may take to give its node back once it is asked on the Lease.
const BACK_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn prepare(cx: &FaultCx, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let (mut nodes, mut objects) = (Vec::new(), Vec::new());
    for ResolvedObject { name, uid, .. } in targets {
        let called = format!("lose node {name}");
        let Some(node) = there(cx, name, uid).await? else { return Err(FaultError::failed(called, "it is no longer there")) };
        if !is_ready(&node) {
            return Err(FaultError::failed(called, "it is not Ready: losing it would prove nothing"));
        }
        if let Some(lease) = lease(cx, name).await?
            && let Some(drill) = lease.labels().get(labels::DRILL)
            && *drill != cx.drill
        {
            let revert = crate::hint::command(&format!("revert {drill}"), &cx.plan.place.firedrill.namespace);
            return Err(FaultError::failed(called, format!("drill {drill} has lost it; undo that first: {revert}")));
        }
        if let Some(drill) = others_helper(cx, name).await? {
            return Err(FaultError::failed(
                called,
                format!("a node helper of drill {drill} is on it, and could not undo what it did there"),
            ));
        }
        objects.push(TouchedObject { kind: "Node".to_owned(), namespace: String::new(), name: name.clone(), uid: uid.clone() });
        nodes.push(NodeRef { name: name.clone(), uid: uid.clone() });
    }
    if nodes.is_empty() {
        return Err(FaultError::failed("lose nodes", "the target matches no node"));
    }
    let name = own_name(cx, "firedrill-");
    Ok(Prepared { undo: Undo::NodeLoss { nodes, name }, objects })
}

/// Another drill that has a helper on a node. Lost with the node, that could keep no time to live.
async fn others_helper(cx: &FaultCx, node: &str) -> Result<Option<String>, FaultError> {
    let own = &cx.plan.place.firedrill.namespace;
    let selector = format!("{}=node-helper", labels::ROLE);
    let pods = cx.cluster.list_all(&cx.cluster.api::<Pod>(own), Some(&selector), &format!("list node helpers in {own}")).await?;
    let on = |pod: &&Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node) && !is_over(pod);
    Ok(pods.iter().filter(on).filter_map(|pod| pod.labels().get(labels::DRILL)).find(|drill| **drill != cx.drill).cloned())
}

fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|status| status == "True")
}

fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

fn api(cx: &FaultCx) -> Api<Lease> {
    cx.cluster.api(&cx.plan.place.firedrill.namespace)
}

async fn lease(cx: &FaultCx, node: &str) -> Result<Option<Lease>, FaultError> {
    Ok(cx.cluster.get_opt::<Lease>(&cx.plan.place.firedrill.namespace, &labels::loss_lease(node)).await?)
}

/// The Lease of this loss.
async fn own_lease(cx: &FaultCx, node: &str, name: &str) -> Result<Option<Lease>, FaultError> {
    Ok(lease(cx, node).await?.filter(|lease| lease.annotations().get(labels::LOSS).map(String::as_str) == Some(name)))
}

/// What the node's helper says on the Lease of this loss.
async fn word(cx: &FaultCx, node: &str, name: &str) -> Result<Option<LossSeen>, FaultError> {
    let Some(lease) = own_lease(cx, node, name).await? else { return Ok(None) };
    Ok(Some(said(&lease)))
}

fn said(lease: &Lease) -> LossSeen {
    lease.annotations().get(labels::LOSS_SEEN).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn at(cx: &FaultCx, node: &str, name: &str, keep: Vec<SocketAddr>) -> LossAt {
    LossAt {
        node: node.to_owned(),
        name: name.to_owned(),
        namespace: cx.plan.place.firedrill.namespace.clone(),
        lease: labels::loss_lease(node),
        ttl_ms: u64::try_from(cx.helpers.ttl().as_millis()).unwrap_or(u64::MAX),
        keep,
    }
}

async fn ask(cx: &FaultCx, node: &str, what: &str, step: Step, at: LossAt) -> Result<LossSeen, FaultError> {
    let link = cx.helper(&Home::node(node)).await?;
    Ok(link.call(what, &NodeReq::Loss { step, at }, ASK_LIMIT).await?)
}

/// Where the API server really is, as far as that may be read: some networks replace a Service's address before a rule sees it.
async fn servers(cx: &FaultCx) -> Vec<SocketAddr> {
    let api: Api<EndpointSlice> = cx.cluster.api("default");
    let found = cx.cluster.list_all(&api, Some("kubernetes.io/service-name=kubernetes"), "list the API server's endpoints").await;
    let mut all = Vec::new();
    for slice in found.unwrap_or_default() {
        let ports: Vec<u16> = slice.ports.iter().flatten().filter_map(|p| u16::try_from(p.port?).ok()).collect();
        let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses).filter_map(|a| a.parse().ok());
        for ip in addresses {
            all.extend(ports.iter().map(|port| SocketAddr::new(ip, *port)));
        }
    }
    all.truncate(64);
    all
}

/// Places the helpers with their Leases, and has each prove that it could lose its node and hear of its Lease.
pub(super) async fn arm(cx: &FaultCx, nodes: &[NodeRef], name: &str) -> Result<(), FaultError> {
    cx.helpers.may_lose_nodes();
    let keep = servers(cx).await;
    let each = nodes.iter().map(|node| {
        let keep = keep.clone();
        async move {
            make_lease(cx, &node.name, name).await?;
            cx.helpers.renew(&node.name, &cx.leave);
            ask(cx, &node.name, "get ready to lose the node", Step::Look, at(cx, &node.name, name, keep)).await
        }
    });
    join_all(each).await.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
}

async fn make_lease(cx: &FaultCx, node: &str, name: &str) -> Result<(), FaultError> {
    let what = format!("create Lease {}", labels::loss_lease(node));
    let drill = cx.drill.as_str();
    let mut wanted = Lease {
        spec: Some(LeaseSpec {
            holder_identity: Some(drill.to_owned()),
            lease_duration_seconds: i32::try_from(cx.helpers.ttl().as_secs()).ok(),
            renew_time: now(cx),
            ..LeaseSpec::default()
        }),
        ..Lease::default()
    };
    wanted.metadata.name = Some(labels::loss_lease(node));
    wanted.metadata.labels = Some(BTreeMap::from(
        [(labels::MANAGED_BY, labels::MANAGER), (labels::DRILL, drill), (labels::ROLE, "loss")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    ));
    wanted.metadata.annotations = Some(BTreeMap::from([(labels::LOSS.to_owned(), name.to_owned())]));
    let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
    for _ in 0..2 {
        match cx.cluster.call(&what, api(cx).create(&params, &wanted)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
        // That of this loss is as good; one of a loss of this drill that is over makes room.
        match lease(cx, node).await? {
            Some(found) if found.annotations().get(labels::LOSS).map(String::as_str) == Some(name) => return Ok(()),
            Some(found) if found.labels().get(labels::DRILL) == Some(&cx.drill) && !is_lost(said(&found).state) => {
                delete(cx, node, &found).await?;
            }
            Some(_) => return Err(FaultError::failed(what, "one that is in use is in the way: revert the drill that has made it")),
            None => {}
        }
    }
    Err(FaultError::failed(what, "it is made and deleted by others"))
}

const fn is_lost(state: LossState) -> bool {
    matches!(state, LossState::Losing | LossState::Lost)
}

async fn delete(cx: &FaultCx, node: &str, lease: &Lease) -> Result<(), FaultError> {
    let name = labels::loss_lease(node);
    let params = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: lease.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match cx.cluster.call(format!("delete Lease {name}"), api(cx).delete(&name, &params)).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

fn now(cx: &FaultCx) -> Option<MicroTime> {
    jiff::Timestamp::from_microsecond(cx.clock.now().wall_us).ok().map(MicroTime)
}

/// All at once: each helper stops its node's pods before it answers, and the rest a moment later.
pub(super) async fn inject(cx: &FaultCx, nodes: &[NodeRef], name: &str) -> Result<(Stamp, Stamp), FaultError> {
    let mut left = Vec::new();
    for node in nodes {
        // A node that is lost cannot be asked, and need not be.
        match word(cx, &node.name, name).await? {
            Some(seen) if is_lost(seen.state) => {}
            Some(_) => left.push(node),
            None => return Err(FaultError::failed(format!("lose node {}", node.name), "it is not armed: its Lease is gone")),
        }
    }
    let start = cx.clock.now();
    let each = left.into_iter().map(|node| async move {
        cx.helpers.renew(&node.name, &cx.leave);
        ask(cx, &node.name, "lose the node", Step::Inject, at(cx, &node.name, name, Vec::new())).await
    });
    let seen = join_all(each).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    for seen in seen {
        tracing::debug!(workloads_us = seen.workloads_us, "{}", seen.detail);
    }
    Ok((start, cx.clock.now()))
}

/// Each helper has said that its node is lost, and the API server has come to call it not ready. The instant is that of the last helper's
/// word: what follows from it shows only after the cluster's own timers.
pub(super) async fn effective(cx: &FaultCx, nodes: &[NodeRef], name: &str, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let limit = limit.max(NOT_READY);
    let (lost, proof) = until(cx, "that the helpers have lost their nodes", limit, || async {
        let mut proof = Vec::new();
        for node in nodes {
            match word(cx, &node.name, name).await? {
                Some(seen) if seen.state == LossState::Lost && seen.running == 0 && seen.cut => proof.push(seen.detail),
                Some(seen) if seen.state == LossState::Back => {
                    return Err(FaultError::failed(format!("lose node {}", node.name), seen.detail));
                }
                Some(seen) => return Ok(Err(seen.detail)),
                None => return Ok(Err(format!("node {} has no Lease of this loss", node.name))),
            }
        }
        Ok(Ok(proof.join("; ")))
    })
    .await?;
    let (_, missed) = until(cx, "that the nodes are not ready", limit, || async {
        let mut proof = Vec::new();
        for node in nodes {
            let seen = word(cx, &node.name, name).await?.unwrap_or_default();
            if seen.state == LossState::Back {
                return Err(FaultError::failed(format!("lose node {}", node.name), seen.detail));
            }
            match there(cx, &node.name, &node.uid).await? {
                Some(found) if is_ready(&found) => return Ok(Err(format!("node {} is still Ready", node.name))),
                Some(found) => proof.push(format!("Ready of {} is {}", node.name, ready(&found).unwrap_or("gone"))),
                None => proof.push(format!("node {} is gone", node.name)),
            }
        }
        Ok(Ok(proof.join(", ")))
    })
    .await?;
    // The instant is that of the helpers' word: what came after it is told as that.
    Ok((lost, format!("{proof}; after that, {missed}")))
}

pub(super) async fn holds(cx: &FaultCx, nodes: &[NodeRef], name: &str) -> Result<Option<String>, FaultError> {
    let mut broken = Vec::new();
    for node in nodes {
        // A runner that has taken the drill over goes on with the renewals.
        cx.helpers.renew(&node.name, &cx.leave);
        let seen = word(cx, &node.name, name).await?;
        let found = there(cx, &node.name, &node.uid).await?;
        broken.extend(match (seen, found) {
            (_, None) => Some(format!("node {} is gone", node.name)),
            (None, _) => Some(format!("the Lease that keeps node {} lost is gone", node.name)),
            (Some(seen), _) if seen.state != LossState::Lost => Some(format!("node {} is not lost any more: {}", node.name, seen.detail)),
            (Some(_), Some(found)) if is_ready(&found) => Some(format!("node {} is Ready", node.name)),
            (Some(seen), _) => seen.broken,
        });
    }
    Ok((!broken.is_empty()).then(|| broken.join("; ")))
}

pub(super) async fn revert(cx: &FaultCx, nodes: &[NodeRef], name: &str) -> Result<(RevertResult, String), FaultError> {
    let answers = join_all(nodes.iter().map(|node| revert_one(cx, node, name))).await;
    let (results, details): (Vec<_>, Vec<_>) = answers.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    Ok((together(&results), details.join("; ")))
}

async fn revert_one(cx: &FaultCx, node: &NodeRef, name: &str) -> Result<(RevertResult, String), FaultError> {
    let called = &node.name;
    let is_there = there(cx, called, &node.uid).await?.is_some();
    let Some(lease) = own_lease(cx, called, name).await? else {
        return Ok(match is_there {
            true => (RevertResult::Nothing, format!("node {called} was not lost, or is back")),
            false => (RevertResult::TargetGone, format!("node {called} is gone")),
        });
    };
    let before = said(&lease);
    if before.state == LossState::Back {
        return Ok((RevertResult::Nothing, before.detail));
    }
    let what = format!("give node {called} back");
    cx.leave.to(&what)?;
    let patch = json!({"metadata": {"annotations": {labels::LOSS_BACK: cx.drill}, "uid": lease.uid()}});
    patch_lease(cx, called, &what, &patch).await?;
    let asked = tokio::time::Instant::now();
    loop {
        let seen = word(cx, called, name).await?.unwrap_or_default();
        if seen.state == LossState::Back {
            let result = if is_lost(before.state) || seen.lifted > 0 { RevertResult::Reverted } else { RevertResult::Nothing };
            return Ok((result, format!("{}, {} processes went on", seen.detail, seen.lifted)));
        }
        // A helper that is no more gives no answer. What it stopped its guard has let go on; the next helper looks.
        let found = there(cx, called, &node.uid).await?;
        if found.is_none() {
            return Ok((RevertResult::TargetGone, format!("node {called} is gone")));
        }
        if found.is_some_and(|found| is_ready(&found)) && asked.elapsed() >= 4 * LOOK_EVERY {
            cx.helpers.may_lose_nodes();
            let seen = ask(cx, called, "give the node back", Step::Revert, at(cx, called, name, Vec::new())).await?;
            let result = if seen.lifted > 0 || is_lost(before.state) { RevertResult::Reverted } else { RevertResult::Nothing };
            // So that a second revert, and whoever holds it, find it so.
            let seen = LossSeen { state: LossState::Back, name: name.to_owned(), ..seen };
            let text = serde_json::to_string(&seen).unwrap_or_default();
            patch_lease(cx, called, &what, &json!({"metadata": {"annotations": {labels::LOSS_SEEN: text}}})).await?;
            return Ok((result, format!("{}, {} processes went on", seen.detail, seen.lifted)));
        }
        if asked.elapsed() >= BACK_LIMIT.max(cx.helpers.ttl() + Duration::from_secs(10)) {
            let why = format!(
                "its helper does not answer on Lease {}; it gives the node back by itself {} s after the last renewal. If the node stays lost, restart it",
                labels::loss_lease(called),
                cx.helpers.ttl().as_secs()
            );
            return Err(FaultError::failed(what, why));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn patch_lease(cx: &FaultCx, node: &str, what: &str, patch: &Value) -> Result<(), FaultError> {
    let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    match cx.cluster.call(what, api(cx).patch_metadata(&labels::loss_lease(node), &params, &Patch::Merge(patch))).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Each node is Ready, and its helper sees nothing stopped and nothing cut. The Lease goes then.
pub(super) async fn gone(cx: &FaultCx, nodes: &[NodeRef], name: &str, limit: Duration) -> Result<(Stamp, String), FaultError> {
    cx.helpers.may_lose_nodes();
    let proven = until(cx, "that the nodes are back", limit, || async {
        let mut proof = Vec::new();
        for node in nodes {
            match there(cx, &node.name, &node.uid).await? {
                Some(found) if is_ready(&found) => {}
                Some(found) => return Ok(Err(format!("Ready of node {} is {}", node.name, ready(&found).unwrap_or("missing")))),
                None => {
                    proof.push(format!("node {} is gone", node.name));
                    continue;
                }
            }
            let seen = ask(cx, &node.name, "look", Step::Check, at(cx, &node.name, name, Vec::new())).await?;
            if seen.cut || seen.kubelet + seen.runtime > 0 || is_lost(seen.state) {
                return Ok(Err(seen.detail));
            }
            proof.push(format!("node {} is Ready; {}", node.name, seen.detail));
        }
        Ok(Ok(proof.join("; ")))
    })
    .await?;
    for node in nodes {
        cx.helpers.no_renewals(&node.name);
        if let Some(lease) = own_lease(cx, &node.name, name).await? {
            cx.leave.to(&format!("delete Lease {}", labels::loss_lease(&node.name)))?;
            delete(cx, &node.name, &lease).await?;
        }
    }
    Ok(proven)
}
