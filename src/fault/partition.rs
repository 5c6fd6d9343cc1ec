//! `partition`: the traffic of the target's pods is cut in their own network namespaces, by a helper on their node.
//!
//! Peers are resolved when the fault is prepared, and are in the undo as networks. The rules live and die with the helper
//! ([`crate::agent::partition`]): where there is none any more, nothing is cut.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use super::{
    Cut, FaultCx, FaultError, Home, PodOnNode, Prepared, Undo,
    change::until,
    on_nodes::{self, broken, own_name, said, still_there},
    processes,
};
use crate::{
    agent::{
        node::NodeReq,
        partition::{PartitionAt, PartitionSeen},
        volume::Step,
    },
    clock::Stamp,
    journal::RevertResult,
    plan::{self, ResolvedObject},
    scenario::types::Partition,
};

/// Where names are looked up.
const DNS: u16 = 53;

pub(super) async fn prepare(cx: &FaultCx, spec: &Partition, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let what = "cut off";
    let (pods, objects) = processes::pods(cx, targets, &[], what, None).await?;
    for on in &pods {
        let pod = processes::there(cx, on).await?;
        if pod.and_then(|p| p.spec?.host_network) == Some(true) {
            let why = "it uses its node's network: cutting it off would cut off the node";
            return Err(FaultError::failed(format!("{what} pod {}/{}", on.namespace, on.name), why));
        }
    }
    processes::see_containers(cx, &pods).await?;
    let mut networks: BTreeSet<String> = spec.cidrs.iter().cloned().collect();
    for peer in &spec.peers {
        let found = addresses(cx, peer).await?;
        if found.is_empty() {
            return Err(FaultError::failed(what, format!("peer `{peer}` has no address: nothing would be cut")));
        }
        networks.extend(found);
    }
    let mut ports: BTreeSet<u16> = spec.ports.iter().copied().collect();
    if spec.dns {
        ports.insert(DNS);
    }
    let (direction, ports) = (spec.direction, ports.into_iter().collect::<Vec<_>>());
    let cut = |network| Cut { direction, network, ports: ports.clone() };
    let cuts = if networks.is_empty() { vec![cut(None)] } else { networks.into_iter().map(|n| cut(Some(n))).collect() };
    let name = own_name(cx, "firedrill-");
    Ok(Prepared { undo: Undo::Partition { pods, name, cuts }, objects })
}

/// The addresses of a target, as networks of one address each.
async fn addresses(cx: &FaultCx, peer: &str) -> Result<BTreeSet<String>, FaultError> {
    let target = plan::resolve::fresh(&cx.cluster, &cx.plan, peer).await.map_err(|e| FaultError::failed("cut off", e.to_string()))?;
    let mut found = BTreeSet::new();
    for object in &target.objects {
        let (namespace, name) = (object.namespace.as_str(), object.name.as_str());
        match object.kind.as_str() {
            "Pod" => {
                let pod = cx.cluster.get_opt::<Pod>(namespace, name).await?;
                let ips = pod.and_then(|p| p.status).and_then(|s| s.pod_ips).unwrap_or_default();
                found.extend(ips.into_iter().filter_map(|ip| one(&ip.ip)));
            }
            "Node" => {
                let node = cx.cluster.get_cluster_opt::<Node>(name).await?;
                let all = node.and_then(|n| n.status).and_then(|s| s.addresses).unwrap_or_default();
                found.extend(all.into_iter().filter_map(|a| one(&a.address)));
            }
            "Service" => {
                // A pod talks to the Service's own address, or to its endpoints where it has none.
                let service = cx.cluster.get_opt::<Service>(namespace, name).await?;
                let own = service.and_then(|s| s.spec).and_then(|s| s.cluster_ips).unwrap_or_default();
                found.extend(own.iter().filter_map(|ip| one(ip)));
                let selector = format!("kubernetes.io/service-name={name}");
                let what = format!("list the endpoints of Service {namespace}/{name}");
                let slices = cx.cluster.list_all(&cx.cluster.api::<EndpointSlice>(namespace), Some(&selector), &what).await?;
                let endpoints = slices.iter().flat_map(|slice| &slice.endpoints).flat_map(|e| &e.addresses);
                found.extend(endpoints.filter_map(|ip| one(ip)));
            }
            kind => return Err(FaultError::failed("cut off", format!("a {kind} has no address: peers are pods, Services and nodes"))),
        }
    }
    Ok(found)
}

fn one(address: &str) -> Option<String> {
    let ip: std::net::IpAddr = address.parse().ok()?;
    Some(format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }))
}

async fn ask(cx: &FaultCx, step: Step, pods: &[PodOnNode], name: &str, cuts: &[Cut]) -> Result<Vec<PartitionSeen>, FaultError> {
    let one = |pod: &PodOnNode| PartitionAt { pod: processes::on_node(cx, pod), name: name.to_owned(), cuts: cuts.to_vec() };
    let request = |which: &[&PodOnNode]| NodeReq::Partitions { step, at: which.iter().map(|pod| one(pod)).collect() };
    on_nodes::ask(cx, pods, |pod| Home::node(&pod.node), ("cut off", processes::ASK_LIMIT), request).await
}

/// Places the helpers, and looks whether the pods can be cut off.
pub(super) async fn arm(cx: &FaultCx, pods: &[PodOnNode], name: &str, cuts: &[Cut]) -> Result<(), FaultError> {
    processes::see_containers(cx, pods).await?;
    ask(cx, Step::Look, pods, name, cuts).await.map(drop)
}

pub(super) async fn inject(cx: &FaultCx, pods: &[PodOnNode], name: &str, cuts: &[Cut]) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    ask(cx, Step::Inject, pods, name, cuts).await?;
    Ok((start, cx.clock.now()))
}

pub(super) async fn effective(
    cx: &FaultCx,
    pods: &[PodOnNode],
    name: &str,
    cuts: &[Cut],
    limit: Duration,
) -> Result<(Stamp, String), FaultError> {
    on_nodes::effective(cx, "that the traffic is cut", limit, || async { ask(cx, Step::Check, pods, name, cuts).await }).await
}

pub(super) async fn holds(cx: &FaultCx, pods: &[PodOnNode], name: &str, cuts: &[Cut]) -> Result<Option<String>, FaultError> {
    Ok(broken(&ask(cx, Step::Check, pods, name, cuts).await?))
}

pub(super) async fn revert(cx: &FaultCx, pods: &[PodOnNode], name: &str, cuts: &[Cut]) -> Result<(RevertResult, String), FaultError> {
    let left = still_there(cx, pods, |pod| pod).await?.len();
    let (mut seen, mut without) = (Vec::new(), Vec::new());
    for pod in pods {
        if cx.existing_helper(&Home::node(&pod.node)).await?.is_some() {
            seen.extend(ask(cx, Step::Revert, std::slice::from_ref(pod), name, cuts).await?);
        } else {
            without.push(format!("no helper of this drill runs on {}, and with it the rules are gone", pod.node));
        }
    }
    let details = [seen.iter().map(|s| s.detail.clone()).collect(), without].concat().join("; ");
    Ok(if seen.iter().any(|s| s.lifted) {
        (RevertResult::Reverted, details)
    } else if left == 0 {
        (RevertResult::TargetGone, "none of the pods exists any more".to_owned())
    } else {
        (RevertResult::Nothing, details)
    })
}

/// None of the pods that are there has rules of ours in its network namespace.
pub(super) async fn gone(
    cx: &FaultCx,
    pods: &[PodOnNode],
    name: &str,
    cuts: &[Cut],
    limit: Duration,
) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the traffic passes again", limit, || async {
        let there = still_there(cx, pods, |pod| pod).await?;
        let lost = pods.iter().filter(|pod| !there.contains(pod));
        let mut proof: Vec<String> = lost.map(|pod| format!("pod {}/{} (uid {}) is gone", pod.namespace, pod.name, pod.uid)).collect();
        let seen = ask(cx, Step::Check, &there, name, cuts).await?;
        if seen.iter().any(|s| s.left) {
            return Ok(Err(said(&seen)));
        }
        proof.push(said(&seen));
        Ok(Ok(proof.join("; ")))
    })
    .await
}
