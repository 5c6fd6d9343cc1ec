//! `freeze` and `crash`: every process of the target's containers is stopped, or killed, by a helper on its node or in its pod.
//!
//! The helper itself is [`crate::agent::node`]; here is the runner's side of the contract.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::{
    FaultCx, FaultError, Home, OwnerState, PodOnNode, Prepared, ProcessFault, Undo,
    change::until,
    home::{self, On},
    on_nodes::{still_there, together},
    owner,
};
use crate::{
    agent::{
        inside::{self, Work},
        node::{NodeReport, NodeReq, PodReport},
        processes::NodePod,
    },
    clock::Stamp,
    journal::{RevertResult, TouchedObject},
    plan::ResolvedObject,
    scenario::types::{FaultSpec, Placement},
};

/// How long a helper may take to answer; it gives up by itself after half of that.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The kubelet waits up to five minutes before it starts a container again that crashed many times.
const BACK_OFF: Duration = Duration::from_secs(330);

impl ProcessFault {
    const fn verb(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Crash | Self::CrashHold => "crash",
        }
    }
}

pub(super) async fn prepare(
    cx: &FaultCx,
    spec: &FaultSpec,
    targets: &[ResolvedObject],
    containers: &[String],
    how: ProcessFault,
) -> Result<Prepared, FaultError> {
    let inside = (home::placement(cx, spec) == Placement::Pod).then_some(On::All);
    let (pods, objects) = pods(cx, targets, containers, how.verb(), inside).await?;
    Ok(Prepared { undo: Undo::Processes { pods, how }, objects })
}

/// The target's pods on their nodes, for whoever acts on their processes. `what` is to be done: `freeze`; `inside`: from within the pod.
pub(super) async fn pods(
    cx: &FaultCx,
    targets: &[ResolvedObject],
    containers: &[String],
    what: &str,
    inside: Option<On>,
) -> Result<(Vec<PodOnNode>, Vec<TouchedObject>), FaultError> {
    let (mut pods, mut objects) = (Vec::new(), Vec::new());
    for target in targets {
        let ResolvedObject { namespace, name, uid, .. } = target;
        let refused = |why: String| FaultError::failed(format!("{what} pod {namespace}/{name}"), why);
        let Some(pod) = there_by(cx, namespace, name, uid).await? else { return Err(refused("it is no longer there".to_owned())) };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if node.is_empty() || pod.metadata.deletion_timestamp.is_some() {
            return Err(refused("it is on no node, or is being deleted: it has no processes to act on".to_owned()));
        }
        let has: BTreeSet<&str> =
            pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())).map(|c| c.name.as_str()).collect();
        if let Some(missing) = containers.iter().find(|c| !has.contains(c.as_str())) {
            return Err(refused(format!("it has no container `{missing}`; it has {}", has.into_iter().collect::<Vec<_>>().join(", "))));
        }
        let (placement, containers) = match inside {
            Some(on) => (Placement::Pod, home::reach(&pod, containers, on).map_err(refused)?),
            None => (Placement::Node, containers.to_vec()),
        };
        objects.push(TouchedObject { kind: "Pod".to_owned(), namespace: namespace.clone(), name: name.clone(), uid: uid.clone() });
        pods.push(PodOnNode {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            node,
            containers,
            owner: owner::of(cx, &pod).await?,
            placement,
        });
    }
    if pods.is_empty() {
        return Err(FaultError::failed(what, "the target matches no pod"));
    }
    Ok((pods, objects))
}

/// The pod with this uid, if it exists.
pub(super) async fn there_by(cx: &FaultCx, namespace: &str, name: &str, uid: &str) -> Result<Option<Pod>, FaultError> {
    Ok(cx.cluster.get_opt::<Pod>(namespace, name).await?.filter(|p| p.uid().as_deref() == Some(uid)))
}

/// The same pod, if it still exists.
pub(super) async fn there(cx: &FaultCx, pod: &PodOnNode) -> Result<Option<Pod>, FaultError> {
    there_by(cx, &pod.namespace, &pod.name, &pod.uid).await
}

/// Ids and names of a pod's running containers, as its status has them.
pub(super) fn container_ids(pod: &Pod) -> BTreeMap<String, String> {
    let Some(status) = &pod.status else { return BTreeMap::new() };
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter()
        .flatten()
        .flatten()
        .filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()) && !inside::is_own(&c.name))
        .filter_map(|c| Some((c.container_id.as_deref()?.split_once("://")?.1.to_owned(), c.name.clone())))
        .collect()
}

fn by_home(pods: &[PodOnNode]) -> BTreeMap<Home, Vec<&PodOnNode>> {
    let mut homes: BTreeMap<Home, Vec<&PodOnNode>> = BTreeMap::new();
    for pod in pods {
        homes.entry(Home::of(pod, Work::Processes)).or_default().push(pod);
    }
    homes
}

/// A pod as its helper is told of it.
pub(super) fn on_node(cx: &FaultCx, pod: &PodOnNode) -> NodePod {
    NodePod {
        uid: pod.uid.clone(),
        name: format!("{}/{}", pod.namespace, pod.name),
        containers: pod.containers.clone(),
        // What a container is called is also told by its mounts; this is the second witness.
        ids: cx.helpers.containers(&pod.uid).unwrap_or_default(),
    }
}

fn all_on_node(cx: &FaultCx, pods: &[&PodOnNode]) -> Vec<NodePod> {
    pods.iter().map(|pod| on_node(cx, pod)).collect()
}

/// Asks the helpers of all places at once. The first failure is returned after all have answered.
async fn ask(
    cx: &FaultCx,
    pods: &[PodOnNode],
    what: &str,
    request: impl Fn(Vec<NodePod>) -> NodeReq,
) -> Result<Vec<(NodeReport, Home)>, FaultError> {
    let asked = by_home(pods).into_iter().map(|(home, pods)| {
        let request = request(all_on_node(cx, &pods));
        async move {
            let link = cx.helper(&home).await?;
            let report: NodeReport = link.call(what, &request, ASK_LIMIT).await?;
            Ok::<_, FaultError>((report, home))
        }
    });
    join_all(asked).await.into_iter().collect()
}

/// Remembers which containers the pods have, by their status.
pub(super) async fn see_containers(cx: &FaultCx, pods: &[PodOnNode]) -> Result<(), FaultError> {
    for pod in pods {
        if let Some(found) = there(cx, pod).await? {
            cx.helpers.keep_containers(&pod.uid, container_ids(&found));
        }
    }
    Ok(())
}

/// Places the helpers, and looks whether each sees the processes it is to act on.
pub(super) async fn arm(cx: &FaultCx, pods: &[PodOnNode]) -> Result<(), FaultError> {
    see_containers(cx, pods).await?;
    for (report, home) in ask(cx, pods, "look", |pods| NodeReq::Look { pods }).await? {
        if let Some(none) = report.pods.iter().find(|p| p.live == 0) {
            let what = format!("arm the helper {home}");
            return Err(FaultError::failed(what, format!("it sees no process in the chosen containers: {}", none.detail)));
        }
    }
    Ok(())
}

pub(super) async fn inject(cx: &FaultCx, pods: &[PodOnNode], how: ProcessFault) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    let reports = ask(cx, pods, how.verb(), |pods| NodeReq::Inject { how, pods }).await?;
    let end = cx.clock.now();
    for (report, home) in reports {
        tracing::debug!(%home, took_us = report.took_us, "{} done", how.verb());
    }
    Ok((start, end))
}

async fn check(cx: &FaultCx, pods: &[PodOnNode], how: ProcessFault) -> Result<Vec<PodReport>, FaultError> {
    let reports = ask(cx, pods, "check", |pods| NodeReq::Check { how, pods }).await?;
    Ok(reports.into_iter().flat_map(|(report, _)| report.pods).collect())
}

fn said(reports: &[PodReport]) -> String {
    reports.iter().map(|r| r.detail.as_str()).collect::<Vec<_>>().join("; ")
}

/// Every process that was hit is stopped (frozen) or gone (crashed), as the node's kernel says.
pub(super) async fn effective(cx: &FaultCx, pods: &[PodOnNode], how: ProcessFault, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let what = if how == ProcessFault::Freeze { "that all processes are stopped" } else { "that all processes are gone" };
    until(cx, what, limit, || async {
        let reports = check(cx, pods, how).await?;
        Ok(if reports.iter().all(|r| r.effective) { Ok(said(&reports)) } else { Err(said(&reports)) })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, pods: &[PodOnNode], how: ProcessFault) -> Result<Option<String>, FaultError> {
    if how == ProcessFault::Crash {
        return Ok(None);
    }
    let broken: Vec<String> = check(cx, pods, how).await?.into_iter().filter_map(|r| r.broken).collect();
    Ok((!broken.is_empty()).then(|| broken.join("; ")))
}

pub(super) async fn revert(cx: &FaultCx, pods: &[PodOnNode], how: ProcessFault) -> Result<(RevertResult, String), FaultError> {
    if how == ProcessFault::Crash {
        return Ok((RevertResult::Nothing, "a crash has nothing to undo: the kubelet starts the containers again".to_owned()));
    }
    let homes = by_home(pods).into_iter().map(|(home, pods)| revert_at(cx, home, pods, how));
    let answers = join_all(homes).await;
    let (results, details): (Vec<_>, Vec<_>) = answers.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    Ok((together(&results), details.join("; ")))
}

async fn revert_at(cx: &FaultCx, home: Home, pods: Vec<&PodOnNode>, how: ProcessFault) -> Result<(RevertResult, String), FaultError> {
    let left = still_there(cx, &pods, |pod| pod).await?.len();
    let gone = || match &home {
        Home::Node(_) => format!("none of the pods {home} exists any more"),
        Home::Pod { namespace, name, .. } => format!("pod {namespace}/{name} does not exist any more"),
    };
    let link = match cx.existing_helper(&home).await? {
        Some(link) => link,
        None if left == 0 => return Ok((RevertResult::TargetGone, gone())),
        None if how == ProcessFault::CrashHold => {
            return Ok((RevertResult::Nothing, format!("no helper of this drill runs {home}, so nothing is being killed")));
        }
        // Somebody stopped them and nobody is there to wake them: a new helper.
        None => cx.helper(&home).await?,
    };
    let request = NodeReq::Revert { how, pods: all_on_node(cx, &pods) };
    let report: NodeReport = link.call("revert", &request, ASK_LIMIT).await?;
    let hit: u32 = report.pods.iter().map(|p| p.hit).sum();
    Ok(match how {
        _ if hit == 0 && left == 0 => (RevertResult::TargetGone, gone()),
        _ if hit == 0 => (RevertResult::Nothing, format!("nothing was to be undone {home}")),
        ProcessFault::Freeze => (RevertResult::Reverted, format!("{hit} processes {home} go on")),
        ProcessFault::Crash | ProcessFault::CrashHold => (RevertResult::Reverted, format!("processes {home} are no longer killed")),
    })
}

/// Frozen: no process is stopped any more. Crashed: the containers run again, or the pod's owner has its pods back.
pub(super) async fn gone(cx: &FaultCx, pods: &[PodOnNode], how: ProcessFault, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let limit = if how == ProcessFault::CrashHold { limit.max(BACK_OFF) } else { limit };
    until(cx, "that nothing is left of it", limit, || async {
        let mut proof = Vec::new();
        for (home, pods) in by_home(pods) {
            let mut alive: Vec<PodOnNode> = Vec::new();
            for pod in pods {
                match there(cx, pod).await? {
                    Some(found) if how != ProcessFault::Freeze => match not_running(&found, &pod.containers) {
                        Some(waits) => return Ok(Err(format!("pod {}/{}: {waits}", pod.namespace, pod.name))),
                        None => {
                            proof.push(format!("the containers of {}/{} run", pod.namespace, pod.name));
                            alive.push(pod.clone());
                        }
                    },
                    Some(_) => alive.push(pod.clone()),
                    None => match replaced(cx, pod).await? {
                        Ok(said) => proof.push(said),
                        Err(seen) => return Ok(Err(seen)),
                    },
                }
            }
            if alive.is_empty() {
                continue;
            }
            // For a crash the helper is asked only if there is one: without one nothing is killed.
            if how != ProcessFault::Freeze && cx.existing_helper(&home).await?.is_none() {
                continue;
            }
            for (report, _) in ask(cx, &alive, "look", |pods| NodeReq::Look { pods }).await? {
                // Right after the kill the kubelet's word is still the old one; the kernel's is not.
                if let Some(down) = report.pods.iter().find(|p| how != ProcessFault::Freeze && p.live == 0) {
                    return Ok(Err(format!("no process runs: {}", down.detail)));
                }
                if let Some(bad) = report.pods.iter().find(|p| p.held || (how == ProcessFault::Freeze && p.stopped > 0)) {
                    return Ok(Err(if bad.held { format!("{}; still held down", bad.detail) } else { bad.detail.clone() }));
                }
                proof.extend(report.pods.iter().map(|p| p.detail.clone()));
            }
        }
        Ok(Ok(proof.join("; ")))
    })
    .await
}

/// The pod is gone: what counts is that its owner has its pods.
async fn replaced(cx: &FaultCx, pod: &PodOnNode) -> Result<Result<String, String>, FaultError> {
    let called = format!("pod {}/{} (uid {})", pod.namespace, pod.name, pod.uid);
    Ok(match &pod.owner {
        None => Ok(format!("{called} is gone for good")),
        Some(of) => {
            let state = OwnerState { owner: of.clone(), ready: i32::MAX };
            match owner::all_ready(cx, &[state], Duration::ZERO).await {
                Ok((_, said)) => Ok(format!("{called} is gone and {said}")),
                Err(FaultError::NotSeen { seen, .. }) => Err(seen),
                Err(e) => return Err(e),
            }
        }
    })
}

/// Which of the chosen containers does not run, and what it waits for.
fn not_running(pod: &Pod, chosen: &[String]) -> Option<String> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref())?;
    statuses
        .iter()
        .filter(|c| chosen.is_empty() || chosen.contains(&c.name))
        .find(|c| c.state.as_ref().is_none_or(|s| s.running.is_none()))
        .map(|c| {
            let waiting = c.state.as_ref().and_then(|s| s.waiting.as_ref());
            let why = waiting.map_or_else(
                || "has ended".to_owned(),
                |w| format!("waits: {}", w.message.as_ref().or(w.reason.as_ref()).map_or("", |m| m)),
            );
            format!("container {} {why}", c.name)
        })
}
