//! The observer as the runner holds it: placed outside of the blast radius, told what to sample, listened to.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::{LedgerCopy, ProbeCx, ProbeSpec, Seen, collect::Order};
use crate::{
    agent::{
        self, Events, Link, LinkError, LinkEvent,
        observe::{Answered, Ask, Told},
        pods::{self, AgentKind, PodSpec},
    },
    clock::Stamp,
    cluster::{Cluster, Fresh, Leave},
    journal::Reading,
    plan::Plan,
};

/// How long the observer may take to be running.
const PLACE_LIMIT: Duration = Duration::from_secs(90);
/// How long it lives without a renewal. Longer than a partition of a minute, which it is there to see.
const TTL: Duration = Duration::from_secs(120);
/// Beyond the drill's own limit, until the kubelet ends it whatever happens.
const SPARE: Duration = Duration::from_secs(1800);
/// How long it may take to begin.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to stop: samples under way, and removing ledgers' tables.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long reading a ledger back may take: primary and replicas have a minute each.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(150);
/// How long the pod may take to go.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

/// An observer that is attached to.
#[derive(Debug)]
pub struct Observer {
    /// The link to it.
    pub link: Link,
    /// What it tells.
    pub events: Events,
    /// Its pod, to be removed at the end.
    pub pod: Option<ObserverPod>,
}

/// The observer's pod.
#[derive(Debug, Clone)]
pub struct ObserverPod {
    /// The cluster.
    pub cluster: Cluster,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Observer {
    /// Places an observer, or finds the one of this drill that is there, and attaches to it. Gives also what there is to
    /// say of the place it could not have.
    ///
    /// # Errors
    /// When it does not come up in time.
    pub async fn place(cx: &ProbeCx) -> Result<(Self, Option<String>), LinkError> {
        let place = cx.plan.place.firedrill.clone();
        let namespace = place.namespace.clone();
        let (avoid_nodes, remark) =
            outside(&cx.cluster, &cx.plan, "observer").await.map_err(|why| LinkError::NotPlaced { at: "observer".to_owned(), why })?;
        let spec = PodSpec {
            kind: AgentKind::Observer { avoid_nodes },
            drill: cx.drill.clone(),
            token: format!("{:032x}", rand::random::<u128>()),
            runner: agent::link::runner(),
            place,
            ttl: TTL,
            deadline: cx.plan.limits.duration.0 + SPARE,
        };
        let (link, events, name) = pods::place(&cx.cluster, &spec, &Leave::always(), &cx.clock, PLACE_LIMIT).await?;
        let pod = Some(ObserverPod { cluster: cx.cluster.clone(), namespace, name });
        Ok((Self { link, events, pod }, remark))
    }

    /// Makes it sample, and passes on what it sees and how its clock stands.
    pub(super) async fn start(
        self,
        probes: Vec<ProbeSpec>,
        seen: mpsc::Sender<Seen>,
        orders: mpsc::Sender<Order>,
    ) -> Result<Watching, LinkError> {
        let Self { link, events, pod } = self;
        // The clock first: nothing it sees can be placed in time before.
        let mut clocks = link.clock_links();
        let first = clocks.borrow_and_update().clone();
        if let Some(first) = first {
            tell_clock(&orders, first).await;
        }
        link.call::<Answered>("start", &Ask::Start { probes }, START_LIMIT).await?;
        let listener = tokio::spawn(crate::gate::own(listen(events, seen)));
        let clock = tokio::spawn(crate::gate::own(async move {
            while clocks.changed().await.is_ok() {
                let link = clocks.borrow_and_update().clone();
                if let Some(link) = link {
                    tell_clock(&orders, link).await;
                }
            }
        }));
        Ok(Watching { link, pod, listener, clock })
    }
}

async fn tell_clock(orders: &mpsc::Sender<Order>, link: crate::agent::ClockLink) {
    let crate::agent::ClockLink { clock, offset_us, error_us, wall_offset_us } = link;
    // A collector that is gone is told of when it is joined.
    drop(orders.send(Order::Link { clock, offset_us, error_us, wall_offset_us }).await);
}

async fn listen(mut events: Events, seen: mpsc::Sender<Seen>) {
    let trouble = |detail: String| Seen::Trouble { probe: "observer".into(), detail };
    while let Some(event) = events.next().await {
        let passed = match event {
            LinkEvent::Event(value) => match serde_json::from_value::<Told>(value) {
                Ok(told) => {
                    for one in told.seen {
                        if seen.send(one).await.is_err() {
                            return;
                        }
                    }
                    if told.end {
                        return;
                    }
                    Ok(())
                }
                Err(error) => seen.send(trouble(format!("it said something that is not understood: {error}"))).await,
            },
            LinkEvent::Lost(count) => {
                seen.send(trouble(format!("was cut off for so long that it lost {count} batches of samples: holes"))).await
            }
        };
        if passed.is_err() {
            return;
        }
    }
    // Nobody listens any more, or it is told.
    drop(seen.send(trouble("its link has ended; what it samples is unknown from here on".to_owned())).await);
}

/// An observer that samples.
#[derive(Debug)]
pub(super) struct Watching {
    link: Link,
    pod: Option<ObserverPod>,
    listener: JoinHandle<()>,
    clock: JoinHandle<()>,
}

impl Watching {
    /// Ends a ledger's writing and reads it back.
    pub(super) fn read_back(
        &self,
        probe: &str,
        copies: Vec<LedgerCopy>,
    ) -> impl Future<Output = Result<(Stamp, Stamp, Reading), String>> + Send + use<> {
        let (link, ask) = (self.link.clone(), Ask::ReadBack { probe: probe.to_owned(), copies });
        async move {
            match link.call::<Answered>("read back", &ask, READ_LIMIT).await {
                Ok(Answered::Read { begin, end, reading }) => Ok((begin, end, *reading)),
                Ok(Answered::Done { .. }) => Err("the observer answered something else than a reading".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    /// Lets go of it.
    pub(super) async fn leave(self) {
        for task in [self.listener, self.clock] {
            task.abort();
            // It was told to end just above; its being cancelled is no finding.
            drop(task.await);
        }
    }

    /// Stops it, takes in the rest of what it saw, and removes it. What did not go well.
    pub(super) async fn stop(self) -> Vec<String> {
        let Self { link, pod, mut listener, clock } = self;
        let mut trouble = Vec::new();
        match link.call::<Answered>("stop", &Ask::Stop, STOP_LIMIT).await {
            Ok(Answered::Done { trouble: Some(why) }) => trouble.push(format!("the observer did not stop cleanly: {why}")),
            Ok(_) => {}
            Err(error) => trouble.push(error.to_string()),
        }
        // After an orderly stop it ends with the last event; otherwise there is nothing to wait for.
        let patience = if trouble.is_empty() { STOP_LIMIT } else { Duration::from_secs(1) };
        match timeout(patience, &mut listener).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => trouble.push(format!("listening to the observer failed: {error}")),
            Err(_) => {
                listener.abort();
                trouble.push("the observer's last samples did not come".to_owned());
            }
        }
        clock.abort();
        // It was told to end just above; its being cancelled is no finding.
        drop(clock.await);
        if let Err(error) = link.bye(Duration::from_secs(20)).await {
            trouble.push(error.to_string());
        }
        if let Some(ObserverPod { cluster, namespace, name }) = pod
            && let Err(why) = pods::remove(&cluster, &namespace, &name, REMOVE_LIMIT).await
        {
            trouble.push(why);
        }
        trouble
    }
}

/// The nodes that a pod of firedrill's must not be on to be outside of the blast radius, and what there is to say if no such
/// place is left.
///
/// # Errors
/// The nodes cannot be read.
pub(crate) async fn outside(cluster: &Cluster, plan: &Plan, what: &str) -> Result<(Vec<String>, Option<String>), String> {
    Ok(avoid(plan, &nodes(cluster).await?, what))
}

/// The nodes on which an ordinary pod can be put.
async fn nodes(cluster: &Cluster) -> Result<BTreeSet<String>, String> {
    let usable = |node: Node| {
        let spec = node.spec.clone().unwrap_or_default();
        let tainted = spec.taints.iter().flatten().any(|taint| taint.effect != "PreferNoSchedule");
        (spec.unschedulable != Some(true) && !tainted).then(|| node.name_any())
    };
    let nodes = cluster.list_map(&cluster.cluster_api::<Node>(), None, "list nodes", Fresh::Now, usable).await;
    nodes.map(|nodes| nodes.into_iter().collect()).map_err(|error| error.to_string())
}

/// The nodes that such a pod must not be on: those of everything a fault may hit; if that leaves none, those of what
/// was chosen; if that leaves none either, no place is outside of the blast radius, and that is said.
fn avoid(plan: &Plan, nodes: &BTreeSet<String>, what: &str) -> (Vec<String>, Option<String>) {
    let names: BTreeSet<&str> =
        plan.leaf_steps().iter().filter_map(|step| crate::plan::kinds::fault(step.spec.inject.as_ref()?)?.target).collect();
    let targets = || plan.targets.iter().filter(|(name, _)| names.contains(name.as_str())).map(|(_, target)| target);
    let of = |chosen_only: bool| -> Vec<String> {
        let objects = targets().flat_map(|target| &target.objects).filter(|object| object.chosen || !chosen_only);
        let on = objects.map(|object| if object.kind == "Node" { object.name.clone() } else { object.node.clone() });
        on.filter(|node| !node.is_empty()).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let leaves_some = |avoided: &Vec<String>| avoided.is_empty() || nodes.iter().any(|node| !avoided.contains(node));
    [of(false), of(true)].into_iter().find(leaves_some).map_or_else(
        || (Vec::new(), Some(format!("the {what} is within the blast radius: every node it could be on carries what a fault hits"))),
        |avoided| (avoided, None),
    )
}
