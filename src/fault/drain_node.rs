//! `drainNode`: cordons nodes and evicts what runs there, as `kubectl drain` does: by the Eviction API, so that disruption budgets
//! have their say. Where the scenario ignores budgets the pods are deleted, as `kubectl drain --disable-eviction` does. Pods of
//! DaemonSets and of the kubelet itself stay.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, Preconditions},
};

use super::{FaultCx, FaultError, NodeRef, OwnerState, PodRef, Prepared, Undo, change::until, cordon_node, owner};
use crate::{
    clock::Stamp,
    journal::TouchedObject,
    labels,
    plan::{ResolvedObject, seen::evictable},
    scenario::{
        diag::counted,
        types::{BudgetPolicy, FaultSpec, UndoPolicy},
    },
};

/// How many evictions are under way at once.
const AT_ONCE: usize = 10;
/// How long a budget that allows no eviction now is asked again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How much longer than their grace period pods may take to go.
const BEYOND_GRACE: Duration = Duration::from_secs(30);
/// The longest wait for pods to go, whatever their grace period.
const LONGEST: Duration = Duration::from_secs(600);

pub(super) async fn prepare(cx: &FaultCx, spec: &FaultSpec, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let (nodes, mut objects) = cordon_node::nodes(cx, targets).await?;
    let (mut pods, mut owners, mut grace_secs) = (Vec::new(), Vec::new(), 0);
    for node in &nodes {
        for pod in on_node(cx, &node.name).await? {
            let (namespace, name, uid) = (pod.namespace().unwrap_or_default(), pod.name_any(), pod.uid().unwrap_or_default());
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let refused = |why: &str| Err(FaultError::failed(format!("evict pod {namespace}/{name} from node {}", node.name), why));
            if pod.labels().get(labels::MANAGED_BY).is_some_and(|by| by == labels::MANAGER) {
                return refused("it is firedrill's own");
            }
            if !cx.plan.scope.namespaces.contains(&namespace) {
                return refused("its namespace is outside the plan's scope, for which no Lease is held");
            }
            match owner::of(cx, &pod).await? {
                Some(of) if owners.contains(&of) => {}
                Some(of) => owners.push(of),
                None if spec.undo == Some(UndoPolicy::None) => {}
                None => return refused("nothing would bring it back: it has no controller (`undo: none` accepts that)"),
            }
            let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
            grace_secs = grace_secs.max(grace.unwrap_or(0));
            objects.push(TouchedObject { kind: "Pod".to_owned(), namespace: namespace.clone(), name: name.clone(), uid: uid.clone() });
            pods.push(PodRef { namespace, name, uid });
        }
    }
    if pods.is_empty() {
        return Err(FaultError::failed(
            "drain",
            "no pod on the chosen nodes can be evicted: nothing would break (`cordonNode` only cordons)",
        ));
    }
    let mut states = Vec::new();
    for of in owners {
        states.push(owner::state(cx, of).await?);
    }
    Ok(Prepared { undo: Undo::Drain { nodes, pods, owners: states, grace_secs }, objects })
}

/// The pods on a node that a drain is about, in any namespace.
async fn on_node(cx: &FaultCx, node: &str) -> Result<Vec<Pod>, FaultError> {
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let api: Api<Pod> = Api::all(cx.cluster.client.clone());
    let pods = cx.cluster.call(format!("list the pods on node {node}"), api.list(&params)).await?;
    Ok(pods.items.into_iter().filter(evictable).collect())
}

pub(super) async fn inject(cx: &FaultCx, nodes: &[NodeRef], pods: &[PodRef]) -> Result<(Stamp, Stamp), FaultError> {
    let (start, _) = cordon_node::inject(cx, nodes).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut left: Vec<&PodRef> = pods.iter().collect();
    loop {
        let answers: Vec<_> = stream::iter(left).map(|pod| async move { (pod, evict(cx, pod).await) }).buffered(AT_ONCE).collect().await;
        let mut blocked = Vec::new();
        for (pod, answer) in answers {
            if let Some(why) = answer? {
                blocked.push((pod, why));
            }
        }
        let Some((first, why)) = blocked.first() else { return Ok((start, cx.clock.now())) };
        if tokio::time::Instant::now() >= deadline {
            let what = format!("evict pod {}/{}", first.namespace, first.name);
            return Err(FaultError::failed(what, format!("{why}; asked for {}", crate::scenario::types::Dur(PATIENCE))));
        }
        left = blocked.into_iter().map(|(pod, _)| pod).collect();
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Evicts a pod, only this very one. Gives why a budget does not allow it now, if so.
async fn evict(cx: &FaultCx, pod: &PodRef) -> Result<Option<String>, FaultError> {
    let PodRef { namespace, name, uid } = pod;
    let what = format!("evict pod {namespace}/{name}");
    cx.leave.to(&what)?;
    let only =
        DeleteParams { preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }), ..DeleteParams::default() };
    let api: Api<Pod> = cx.cluster.api(namespace);
    if cx.plan.limits.budgets == BudgetPolicy::Ignore {
        return match cx.cluster.call(&what, api.delete(name, &only)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(None),
        };
    }
    let params = EvictParams { delete_options: Some(only), ..EvictParams::default() };
    // Which budget it is, the API server says in the details of its answer.
    let details = Mutex::new(None);
    let call = async {
        let answer = api.evict(name, &params).await;
        if let Err(kube::Error::Api(status)) = &answer {
            let cause = status.details.as_ref().and_then(|d| d.causes.first()).map(|cause| cause.message.clone());
            *details.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        }
        answer
    };
    match cx.cluster.call(&what, call).await {
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
        Err(error) if error.code() == Some(429) => {
            let cause = details.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok(Some(cause.filter(|why| !why.is_empty()).unwrap_or_else(|| error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn effective(cx: &FaultCx, nodes: &[NodeRef], grace_secs: u64, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let limit = limit.max(Duration::from_secs(grace_secs).saturating_add(BEYOND_GRACE).min(LONGEST));
    until(cx, "that the nodes are drained", limit, || async {
        Ok(match holds(cx, nodes).await? {
            None => Ok(format!("{} cordoned, no pod left that can be evicted", counted(nodes.len(), "node"))),
            Some(how) => Err(how),
        })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, nodes: &[NodeRef]) -> Result<Option<String>, FaultError> {
    if let Some(how) = cordon_node::holds(cx, nodes).await? {
        return Ok(Some(how));
    }
    for node in nodes {
        if let Some(pod) = on_node(cx, &node.name).await?.first() {
            return Ok(Some(format!("pod {}/{} is on node {}", pod.namespace().unwrap_or_default(), pod.name_any(), node.name)));
        }
    }
    Ok(None)
}

/// The nodes take pods again, and whoever lost one has it back, wherever.
pub(super) async fn gone(cx: &FaultCx, nodes: &[NodeRef], owners: &[OwnerState], limit: Duration) -> Result<(Stamp, String), FaultError> {
    let (_, schedulable) = cordon_node::gone(cx, nodes, limit).await?;
    let (at, back) = owner::all_ready(cx, owners, limit).await?;
    Ok((at, format!("{schedulable}; {back}")))
}
