//! Helpers: privileged pods, one a node, placed when a fault needs them and removed with the drill; and agents within the target's pods,
//! which are told to end with it.

use std::{
    collections::{BTreeMap, BTreeSet},
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

use super::{FaultError, Home};
use crate::{
    agent::{
        Link, LinkState,
        inside::{self, InsideSpec},
        link,
        pods::{AgentKind, PodSpec, place, remove},
    },
    clock::Clock,
    cluster::{Cluster, Leave, again},
    labels,
    plan::{Plan, kinds},
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
    /// Its pod, or its container in the target's pod.
    name: String,
}

type Slot = Arc<tokio::sync::Mutex<Option<Placed>>>;

/// The helpers of a drill. Clones share them.
#[derive(Debug, Clone)]
pub struct Helpers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    clock: Clock,
    plan: Arc<Plan>,
    drill: String,
    token: String,
    /// Who this is, for helpers.
    runner: String,
    ttl: Duration,
    /// One lock a place, so that helpers are placed beside each other and none twice.
    homes: Mutex<BTreeMap<Home, Slot>>,
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
        let (token, runner) = (format!("{:032x}", rand::random::<u128>()), link::runner());
        let (homes, containers, renewals) = (Mutex::default(), Mutex::default(), Mutex::default());
        // Known from the start, so that a helper placed for another fault can do it, too.
        let steps = plan.leaf_steps();
        let faults = || steps.iter().filter_map(|step| step.spec.inject.as_ref());
        let may_lose = AtomicBool::new(faults().any(|f| f.lose_node.is_some() || f.lose_zone.is_some()));
        let critical = AtomicBool::new(faults().any(|f| f.fill_node_disk.is_some()));
        let drill = drill.to_owned();
        drop(steps);
        Self(Arc::new(Inner { cluster, clock, plan, drill, token, runner, ttl, homes, containers, may_lose, critical, renewals }))
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

    fn slots(&self) -> Vec<(Home, Slot)> {
        let homes = self.0.homes.lock().unwrap_or_else(PoisonError::into_inner);
        homes.iter().map(|(home, slot)| (home.clone(), Arc::clone(slot))).collect()
    }

    /// The helper of a place; put there if there is none, found if an earlier runner of the drill has placed it.
    ///
    /// # Errors
    /// When the environment forbids node helpers, or it does not come up.
    pub(super) async fn on(&self, home: &Home, leave: &Leave) -> Result<Link, FaultError> {
        let inner = &self.0;
        if let Home::Node(node) = home
            && !inner.plan.place.firedrill.node_helpers
        {
            let what = format!("place a node helper on {node}");
            return Err(FaultError::failed(what, "the environment says `nodeHelpers: false`, and this fault needs one"));
        }
        let slot = Arc::clone(inner.homes.lock().unwrap_or_else(PoisonError::into_inner).entry(home.clone()).or_default());
        let mut slot = slot.lock().await;
        if let Some(placed) = &*slot
            && !matches!(&*placed.link.state().borrow(), LinkState::Ended(_))
        {
            return Ok(placed.link.clone());
        }
        // Found or made: a helper has nothing to say unasked.
        let (link, name) = match home {
            Home::Node(node) => {
                let (link, _events, pod) = place(&inner.cluster, &self.on_node(node), leave, &inner.clock, PLACE_LIMIT).await?;
                (link, pod)
            }
            Home::Pod { .. } => match self.in_pod(home) {
                Some(spec) => inside::place(&inner.cluster, &spec, leave, &inner.clock, PLACE_LIMIT).await?,
                None => return Err(FaultError::NotBuilt),
            },
        };
        *slot = Some(Placed { link: link.clone(), name });
        Ok(link)
    }

    fn on_node(&self, node: &str) -> PodSpec {
        let inner = &self.0;
        PodSpec {
            kind: AgentKind::NodeHelper {
                node: node.to_owned(),
                may_lose: inner.may_lose.load(Ordering::SeqCst),
                critical: inner.critical.load(Ordering::SeqCst),
            },
            drill: inner.drill.clone(),
            token: inner.token.clone(),
            runner: inner.runner.clone(),
            place: inner.plan.place.firedrill.clone(),
            ttl: inner.ttl,
            deadline: inner.plan.limits.duration.0 + LAST_RESORT,
        }
    }

    fn in_pod(&self, home: &Home) -> Option<InsideSpec> {
        let Home::Pod { namespace, name, uid, work, container } = home else { return None };
        let inner = &self.0;
        Some(InsideSpec {
            namespace: namespace.clone(),
            pod: name.clone(),
            uid: uid.clone(),
            work: *work,
            container: container.clone(),
            drill: inner.drill.clone(),
            token: inner.token.clone(),
            runner: inner.runner.clone(),
            image: inner.plan.place.firedrill.image.clone(),
            ttl: inner.ttl,
        })
    }

    /// The helper of a place if there is one, of this runner or of an earlier one.
    pub(super) async fn existing(&self, home: &Home, leave: &Leave) -> Result<Option<Link>, FaultError> {
        let inner = &self.0;
        let slot = self.slots().into_iter().find(|(of, _)| of == home).map(|(_, slot)| slot);
        let placed = match slot {
            Some(slot) => slot.lock().await.clone(),
            None => None,
        };
        match (home, placed) {
            (Home::Node(_), Some(_)) => return self.on(home, leave).await.map(Some),
            // One in a pod ends with what it is beside, and is not made anew for a question.
            (Home::Pod { .. }, Some(placed)) if !matches!(&*placed.link.state().borrow(), LinkState::Ended(_)) => {
                return Ok(Some(placed.link));
            }
            _ => {}
        }
        let runs = match home {
            Home::Node(node) => {
                let name = AgentKind::NodeHelper { node: node.clone(), may_lose: false, critical: false }.pod_name(&inner.drill);
                let found = inner.cluster.get_opt::<Pod>(&inner.plan.place.firedrill.namespace, &name).await?;
                found.is_some_and(|p| {
                    p.metadata.deletion_timestamp.is_none() && p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
                })
            }
            Home::Pod { .. } => match self.in_pod(home) {
                Some(spec) => inside::exists(&inner.cluster, &spec).await?,
                None => false,
            },
        };
        if runs { self.on(home, leave).await.map(Some) } else { Ok(None) }
    }

    pub(super) fn keep_containers(&self, uid: &str, ids: BTreeMap<String, String>) {
        self.0.containers.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), ids);
    }

    pub(super) fn containers(&self, uid: &str) -> Option<BTreeMap<String, String>> {
        self.0.containers.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The helpers that are in place, as they are called, and where: `namespace/name` of the pod.
    pub async fn placed(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (home, slot) in self.slots() {
            let Some(placed) = slot.lock().await.clone() else { continue };
            all.push(match &home {
                Home::Node(_) => (format!("node helper {home}"), format!("{}/{}", self.0.plan.place.firedrill.namespace, placed.name)),
                Home::Pod { namespace, name, .. } => (format!("agent {} {home}", placed.name), format!("{namespace}/{name}")),
            });
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
    /// runners. Returns what is left after `limit`, empty when all are gone; of those in pods the record of their containers stays.
    pub async fn remove_all(&self, limit: Duration) -> Vec<String> {
        let inner = &self.0;
        let namespace = &inner.plan.place.firedrill.namespace;
        let slots = self.slots();
        let mut inside: BTreeSet<String> = slots
            .iter()
            .filter_map(|(home, _)| if let Home::Pod { namespace, .. } = home { Some(namespace.clone()) } else { None })
            .collect();
        inside.extend(self.drilled_inside());
        let goodbyes = slots.into_iter().map(|(home, slot)| async move {
            let placed = slot.lock().await.take()?;
            match placed.link.bye(BYE_LIMIT).await {
                Ok(said) if said.is_empty() => {}
                Ok(said) => tracing::warn!("the helper {home} still had something to undo: {said}"),
                // It undoes everything too when its pod is deleted, or nobody renews it.
                Err(e) => {
                    tracing::debug!("goodbye to the helper {home}: {e}");
                    return None;
                }
            }
            if let Home::Pod { name, .. } = home { Some(format!("{name}/{}", placed.name)) } else { None }
        });
        let told: Vec<String> = join_all(goodbyes).await.into_iter().flatten().collect();
        // A node that is still lost is given back when its helper hears no more of it, and its kubelet then ends the helper.
        self.end_renewals();
        let by = inside::By { drill: &inner.drill, runner: &inner.runner, ttl: inner.ttl };
        let mut left = Vec::new();
        for namespace in inside {
            left.extend(inside::end_all(&inner.cluster, &namespace, &by, &told, &inner.clock, limit).await);
        }
        let selector = format!("{}={},{}=node-helper", labels::DRILL, inner.drill, labels::ROLE);
        let api = inner.cluster.api::<Pod>(namespace);
        let what = format!("list node helpers in {namespace}");
        let pods = match again(|| inner.cluster.list_all(&api, Some(&selector), &what)).await {
            Ok(pods) => pods,
            Err(e) => {
                left.push(e.to_string());
                return left;
            }
        };
        let removed = pods.iter().map(|pod| async move { remove(&inner.cluster, namespace, &pod.name_any(), limit).await.err() });
        left.extend(join_all(removed).await.into_iter().flatten());
        if inner.may_lose.load(Ordering::SeqCst) {
            left.extend(self.remove_leases().await.err());
        }
        left
    }

    /// The namespaces in whose pods the plan has agents.
    fn drilled_inside(&self) -> BTreeSet<String> {
        let plan = &self.0.plan;
        let steps = plan.leaf_steps();
        let faults = steps.iter().filter_map(|step| step.spec.inject.as_ref()).filter(|f| kinds::is_inside(f, &plan.place.firedrill));
        let targets = faults.filter_map(|fault| plan.targets.get(fault.target()?));
        targets.flat_map(|target| target.chosen().map(|o| o.namespace.clone()).chain(target.spec.namespace.clone())).collect()
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
