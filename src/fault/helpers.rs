//! Node helpers: privileged pods, one a node, placed when a fault needs them and removed with the drill.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use tokio_util::task::AbortOnDropHandle;

use super::FaultError;
use crate::{
    agent::{
        Link, LinkState,
        pods::{AgentKind, PodSpec, place, remove},
    },
    clock::Clock,
    cluster::{Cluster, Leave},
    labels,
    plan::Plan,
};

/// A helper's time to live without a renewal: what a runner that dies leaves frozen is free after this.
pub(crate) const HELPER_TTL: Duration = Duration::from_secs(30);
/// How long a helper's pod may take to run (its image may have to be pulled).
const PLACE_LIMIT: Duration = Duration::from_secs(120);
/// How much longer than the drill the kubelet lets a helper's pod live, as a last resort.
const LAST_RESORT: Duration = Duration::from_secs(3600);
/// How long a helper may take to undo everything when it is told goodbye.
const BYE_LIMIT: Duration = Duration::from_secs(15);

/// A helper in its place.
#[derive(Debug, Clone)]
struct Placed {
    link: Link,
    pod: String,
}

/// The node helpers of a drill. Clones share them.
#[derive(Debug, Clone)]
pub struct Helpers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    clock: Clock,
    plan: Arc<Plan>,
    drill: String,
    token: String,
    ttl: Duration,
    /// One lock a node, so that helpers are placed beside each other and none twice.
    nodes: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Option<Placed>>>>>,
    /// Container ids as the pods' status had them when they were armed, by the pods' uid.
    containers: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    /// Helpers have an account of their own, so that they can lose their nodes.
    may_lose: AtomicBool,
    /// No kubelet evicts helpers.
    critical: AtomicBool,
    /// What renews the Leases of lost nodes, by node.
    renewals: Mutex<BTreeMap<String, AbortOnDropHandle<()>>>,
}

impl Helpers {
    /// For a drill. None is placed yet.
    pub fn new(cluster: Cluster, clock: Clock, plan: Arc<Plan>, drill: &str) -> Self {
        Self::with_ttl(cluster, clock, plan, drill, HELPER_TTL)
    }

    /// The same with another time to live than `HELPER_TTL`.
    pub fn with_ttl(cluster: Cluster, clock: Clock, plan: Arc<Plan>, drill: &str, ttl: Duration) -> Self {
        let token = format!("{:032x}", rand::random::<u128>());
        let (nodes, containers, renewals) = (Mutex::default(), Mutex::default(), Mutex::default());
        // Known from the start, so that a helper placed for another fault can do it, too.
        let steps = plan.leaf_steps();
        let faults = || steps.iter().filter_map(|step| step.spec.inject.as_ref());
        let may_lose = AtomicBool::new(faults().any(|f| f.lose_node.is_some() || f.lose_zone.is_some()));
        let critical = AtomicBool::new(faults().any(|f| f.fill_node_disk.is_some()));
        let drill = drill.to_owned();
        drop(steps);
        Self(Arc::new(Inner { cluster, clock, plan, drill, token, ttl, nodes, containers, may_lose, critical, renewals }))
    }

    /// Helpers placed from now on have an account of their own.
    pub(super) fn may_lose_nodes(&self) {
        self.0.may_lose.store(true, Ordering::SeqCst);
    }

    /// Kubelets do not evict helpers that are placed from now on.
    pub(super) fn fill_nodes(&self) {
        self.0.critical.store(true, Ordering::SeqCst);
    }

    /// The helpers' time to live.
    pub(super) fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Renews the Lease of a node's loss from now on, until [`Self::no_renewals`], [`Self::detach`], or until it may not act any more.
    pub(super) fn renew(&self, node: &str, leave: &Leave) {
        let mut all = self.0.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(node).is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (cluster, clock, leave) = (self.0.cluster.clone(), self.0.clock.clone(), leave.clone());
        let (lease, own) = (labels::loss_lease(node), self.0.plan.place.firedrill.namespace.clone());
        let every = (self.0.ttl / 4).max(Duration::from_millis(250));
        let task = async move {
            let api = cluster.api::<Lease>(&own);
            let what = format!("renew Lease {own}/{lease}");
            loop {
                tokio::time::sleep(every).await;
                // One that woke up too late must not keep a node lost that others have given back.
                if leave.ask().is_err() {
                    return;
                }
                let Ok(now) = Timestamp::from_microsecond(clock.now().wall_us) else { return };
                let patch = serde_json::json!({"spec": {"renewTime": MicroTime(now)}});
                let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
                match cluster.call(&what, api.patch(&lease, &params, &Patch::Merge(&patch))).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => return,
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        };
        all.insert(node.to_owned(), AbortOnDropHandle::new(tokio::spawn(crate::gate::own(task))));
    }

    /// Renews the Lease of a node's loss no more.
    pub(super) fn no_renewals(&self, node: &str) {
        self.0.renewals.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn end_renewals(&self) {
        self.0.renewals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn slots(&self) -> Vec<(String, Arc<tokio::sync::Mutex<Option<Placed>>>)> {
        let nodes = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().map(|(node, slot)| (node.clone(), Arc::clone(slot))).collect()
    }

    /// The helper of a node; placed if there is none, found if an earlier runner of the drill has placed it.
    ///
    /// # Errors
    /// When the environment forbids node helpers, or its pod does not come up.
    pub(super) async fn on(&self, node: &str, leave: &Leave) -> Result<Link, FaultError> {
        let inner = &self.0;
        let own = &inner.plan.place.firedrill;
        if !own.node_helpers {
            let what = format!("place a node helper on {node}");
            return Err(FaultError::failed(what, "the environment says `nodeHelpers: false`, and freezing and crashing need one"));
        }
        let slot = Arc::clone(inner.nodes.lock().unwrap_or_else(PoisonError::into_inner).entry(node.to_owned()).or_default());
        let mut slot = slot.lock().await;
        if let Some(placed) = &*slot
            && !matches!(&*placed.link.state().borrow(), LinkState::Ended(_))
        {
            return Ok(placed.link.clone());
        }
        let spec = PodSpec {
            kind: AgentKind::NodeHelper {
                node: node.to_owned(),
                may_lose: inner.may_lose.load(Ordering::SeqCst),
                critical: inner.critical.load(Ordering::SeqCst),
            },
            drill: inner.drill.clone(),
            token: inner.token.clone(),
            place: own.clone(),
            ttl: inner.ttl,
            deadline: inner.plan.limits.duration.0 + LAST_RESORT,
        };
        // A helper has nothing to say unasked.
        let (link, _events, pod) = place(&inner.cluster, &spec, leave, &inner.clock, PLACE_LIMIT).await?;
        *slot = Some(Placed { link: link.clone(), pod });
        Ok(link)
    }

    /// The helper of a node if there is one, of this runner or of an earlier one.
    pub(super) async fn existing(&self, node: &str, leave: &Leave) -> Result<Option<Link>, FaultError> {
        let slot = self.slots().into_iter().find(|(name, _)| name == node).map(|(_, slot)| slot);
        if let Some(slot) = slot
            && slot.lock().await.is_some()
        {
            return self.on(node, leave).await.map(Some);
        }
        let name = AgentKind::NodeHelper { node: node.to_owned(), may_lose: false, critical: false }.pod_name(&self.0.drill);
        let found = self.0.cluster.get_opt::<Pod>(&self.0.plan.place.firedrill.namespace, &name).await?;
        let runs = found.is_some_and(|p| {
            p.metadata.deletion_timestamp.is_none() && p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
        });
        if runs { self.on(node, leave).await.map(Some) } else { Ok(None) }
    }

    pub(super) fn keep_containers(&self, uid: &str, ids: BTreeMap<String, String>) {
        self.0.containers.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), ids);
    }

    pub(super) fn containers(&self, uid: &str) -> Option<BTreeMap<String, String>> {
        self.0.containers.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The helpers that are in place: `node helper on <node>` and their pods, `namespace/name`.
    pub async fn placed(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (node, slot) in self.slots() {
            if let Some(placed) = &*slot.lock().await {
                all.push((format!("node helper on {node}"), format!("{}/{}", self.0.plan.place.firedrill.namespace, placed.pod)));
            }
        }
        all
    }

    /// Lets go of all helpers without a word: what a runner does that must not act any more. They undo everything by
    /// themselves when their time to live has run out, unless another runner takes them over.
    pub async fn detach(&self) {
        self.end_renewals();
        for (_, slot) in self.slots() {
            *slot.lock().await = None;
        }
    }

    /// Tells all helpers to undo what they still hold and to end, and deletes the drill's helper pods, also those of earlier
    /// runners. Returns what is left after `limit`, empty when all are gone.
    pub async fn remove_all(&self, limit: Duration) -> Vec<String> {
        let inner = &self.0;
        let namespace = &inner.plan.place.firedrill.namespace;
        let goodbyes = self.slots().into_iter().map(|(node, slot)| async move {
            let Some(placed) = slot.lock().await.take() else { return };
            match placed.link.bye(BYE_LIMIT).await {
                Ok(said) if said.is_empty() => {}
                Ok(said) => tracing::warn!("the node helper on {node} still had something to undo: {said}"),
                // It undoes everything too when its pod is deleted.
                Err(e) => tracing::debug!("goodbye to the node helper on {node}: {e}"),
            }
        });
        join_all(goodbyes).await;
        // A node that is still lost is given back when its helper hears no more of it, and its kubelet then ends the helper.
        self.end_renewals();
        let selector = format!("{}={},{}=node-helper", labels::DRILL, inner.drill, labels::ROLE);
        let api = inner.cluster.api::<Pod>(namespace);
        let pods = match inner.cluster.list_all(&api, Some(&selector), &format!("list node helpers in {namespace}")).await {
            Ok(pods) => pods,
            Err(e) => return vec![e.to_string()],
        };
        let removed = pods.iter().map(|pod| async move { remove(&inner.cluster, namespace, &pod.name_any(), limit).await.err() });
        let mut left: Vec<String> = join_all(removed).await.into_iter().flatten().collect();
        if inner.may_lose.load(Ordering::SeqCst) {
            left.extend(self.remove_leases().await.err());
        }
        left
    }

    /// Deletes the Leases of losses of this drill: those that were armed and never injected have nobody else to do it.
    async fn remove_leases(&self) -> Result<(), String> {
        let inner = &self.0;
        let namespace = &inner.plan.place.firedrill.namespace;
        let api = inner.cluster.api::<Lease>(namespace);
        let selector = format!("{}={},{}=loss", labels::DRILL, inner.drill, labels::ROLE);
        let listed = inner.cluster.list_all(&api, Some(&selector), &format!("list Leases of lost nodes in {namespace}")).await;
        for lease in listed.map_err(|error| error.to_string())? {
            let name = lease.name_any();
            match inner.cluster.call(format!("delete Lease {namespace}/{name}"), api.delete(&name, &DeleteParams::default())).await {
                Err(error) if !error.is_not_found() => return Err(error.to_string()),
                _ => {}
            }
        }
        Ok(())
    }
}
