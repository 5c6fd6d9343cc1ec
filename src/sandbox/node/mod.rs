//! Nodes and their kubelets: heartbeats, pods and their containers, and what befalls a node.
//!
//! **Architecture invariant:** kubelets are told nothing but what the API server knows, and only while their node can reach it.

mod container;
mod pod;
mod probe;
mod processes;
mod reach;
mod report;
mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Value, json};

use self::pod::Run;
pub(super) use self::{processes::NodeTable, reach::Reach};
use super::{
    control::{
        Again, Item, Who,
        api::{At, By},
        look::{self, SECOND, draw, micro_time, number},
    },
    core::{State, as_map, meta, seconds, text},
    model::Signal,
    program::Hosting,
    store::Key,
};
use crate::agent::loss::Part;

/// How often a kubelet renews its Lease (`renewIntervalFraction` of `nodeLeaseDurationSeconds`).
const LEASE_EVERY_US: i64 = 10 * SECOND;
/// How often it reports a status that has not changed (`nodeStatusReportFrequency`).
const REPORT_EVERY_US: i64 = 300 * SECOND;
/// How long pressure is reported after it has ended (`evictionPressureTransitionPeriod`).
const PRESSURE_US: i64 = 300 * SECOND;

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It works.
    Up,
    /// Its network is gone: what runs on it goes on, and nobody hears of it.
    CutOff,
    /// Nothing on it moves, and its network is gone. Nothing of it is forgotten.
    Frozen,
}

/// A node.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) state: NodeState,
    zone: String,
    number: u32,
    addresses: u32,
    images: BTreeSet<String>,
    /// The last number that a process got.
    pids: i32,
    pub(super) disk_full: bool,
    /// Until when disk pressure is reported after it has ended.
    pressure_until: Option<i64>,
    /// When the Lease is renewed next.
    next_lease: i64,
    /// When the status was reported last.
    reported: Option<i64>,
    /// What of its own daemons is stopped.
    stopped: BTreeSet<Part>,
    /// What has cut its network from within.
    cut_by: Option<String>,
    /// Where programs run.
    pub(super) hosting: Option<Arc<Hosting>>,
}

impl Machine {
    /// Its kubelet works and can be reached.
    fn works(&self) -> bool {
        self.state == NodeState::Up && self.stopped.is_empty() && self.cut_by.is_none()
    }

    pub(super) fn pressed(&self, now: i64) -> bool {
        self.disk_full || self.pressure_until.is_some_and(|until| until > now)
    }

    /// A fresh address of the node's range.
    fn address(&mut self) -> String {
        self.addresses = self.addresses % 250 + 1;
        format!("10.{}.{}.{}", 244 + self.number / 256 % 8, self.number % 256, self.addresses + 1)
    }

    fn host(&self) -> String {
        format!("172.18.{}.{}", self.number / 250, self.number % 250 + 2)
    }
}

/// All nodes, and the pods on them by name and uid: of one name there can be two, when a lost node goes on running one that
/// was replaced elsewhere.
#[derive(Debug)]
pub(super) struct Nodes {
    seed: u64,
    /// Where programs run: there as soon as the cluster is.
    pub(super) hosting: Option<Arc<Hosting>>,
    machines: BTreeMap<String, Machine>,
    runs: BTreeMap<(Key, String), Run>,
    /// Pods that were bound to a node while its kubelet could not hear of it.
    missed: BTreeMap<String, BTreeSet<Key>>,
}

impl Nodes {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, hosting: None, machines: BTreeMap::new(), runs: BTreeMap::new(), missed: BTreeMap::new() }
    }

    /// Whether a node's kubelet is one of these.
    pub(super) fn has(&self, node: &str) -> bool {
        self.machines.contains_key(node)
    }

    /// The pods that kubelets take care of.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Key> {
        self.runs.keys().map(|(key, _)| key)
    }

    /// Whether its kubelet can be reached.
    pub(super) fn reachable(&self, node: &str) -> bool {
        self.machines.get(node).is_some_and(Machine::works)
    }

    /// A kubelet starts and makes its Node.
    pub(super) fn register(&mut self, state: &mut State, name: &str, zone: &str) -> Option<Item> {
        if self.has(name) {
            return None;
        }
        let number = u32::try_from(self.machines.len()).unwrap_or(u32::MAX);
        let machine = Machine {
            state: NodeState::Up,
            zone: zone.to_owned(),
            number,
            addresses: 0,
            images: BTreeSet::new(),
            pids: container::FIRST_PID,
            disk_full: false,
            pressure_until: None,
            // Kubelets do not beat in step.
            next_lease: state.now_us + draw(self.seed, &["lease", name], 0, LEASE_EVERY_US),
            reported: Some(state.now_us),
            stopped: BTreeSet::new(),
            cut_by: None,
            hosting: self.hosting.clone(),
        };
        let node = describe(&machine, name, &state.now());
        self.machines.insert(name.to_owned(), machine);
        let user = format!("system:node:{name}");
        let by = by(&user);
        // A name that no Node can have is refused as on a real cluster: there is no such node then.
        if state.peek("", "nodes", "", name).is_none()
            && let Err(refusal) = state.make(by, At::new("", "nodes", "", ""), node)
        {
            tracing::warn!(node = name, why = %refusal.status()["message"], "a node was refused");
            self.machines.remove(name);
            return None;
        }
        let _ = renew(state, by, name);
        Some((Who::Heart, Key(String::new(), name.to_owned())))
    }

    /// A kubelet's heartbeat, and what it does every ten seconds besides.
    pub(super) fn heartbeat(&mut self, state: &mut State, name: &str, now: i64) -> Again {
        let Some(machine) = self.machines.get_mut(name).filter(|machine| machine.works()) else { return Ok(None) };
        let user = format!("system:node:{name}");
        let by = by(&user);
        if machine.next_lease <= now {
            machine.next_lease = now + LEASE_EVERY_US;
            renew(state, by, name)?;
            self.relieve(state, name, now)?;
        }
        let Some(machine) = self.machines.get_mut(name) else { return Ok(None) };
        let Some(node) = state.peek("", "nodes", "", name).cloned() else { return Ok(Some(machine.next_lease)) };
        let wanted = conditions(machine.pressed(now));
        let differs = wanted.iter().any(|(kind, is, ..)| look::condition(&node.value, kind).is_none_or(|c| text(c, "/status") != *is));
        if differs || machine.reported.is_none_or(|at| at + REPORT_EVERY_US <= now) {
            machine.reported = Some(now);
            let stamp = state.now();
            let mut status = node.value.get("status").cloned().unwrap_or_else(|| json!({}));
            set_conditions(&mut status, &wanted, &stamp);
            state.change_status(by, At::new("", "nodes", "", name), &node, status)?;
        }
        Ok(Some(machine.next_lease))
    }

    /// Under disk pressure a pod has to go, one each time (`pkg/kubelet/eviction`): the least important first.
    fn relieve(&mut self, state: &mut State, name: &str, now: i64) -> super::refusal::Answer<()> {
        if !self.machines.get(name).is_some_and(|machine| machine.disk_full) {
            return Ok(());
        }
        let evictable = self.runs.iter().filter(|(_, run)| run.node == name && run.evictable());
        let victim = evictable.min_by_key(|(id, run)| (number(&run.pod.value, "/spec/priority").unwrap_or(0), (*id).clone()));
        let Some(id) = victim.map(|(id, _)| id.clone()) else { return Ok(()) };
        if let Some(run) = self.runs.get_mut(&id) {
            let message = "The node was low on resource: ephemeral-storage.";
            run.evict(message);
            let user = format!("system:node:{name}");
            let pod = Arc::clone(&run.pod);
            state.tell(by(&user), ("v1", "Pod", &pod.value), "Warning", "Evicted", message);
        }
        // Its status changes, and so it is looked at again whenever it has to be.
        self.sync(state, &id.0, now).map(drop)
    }

    /// A kubelet's work on the pods of a name.
    pub(super) fn sync(&mut self, state: &mut State, key: &Key, now: i64) -> Again {
        let stored = state.peek("", "pods", &key.0, &key.1).cloned();
        if let Some(pod) = &stored {
            let uid = text(&pod.value, "/metadata/uid").to_owned();
            let node = text(&pod.value, "/spec/nodeName");
            if !self.runs.contains_key(&(key.clone(), uid.clone())) {
                // What has ended before this kubelet knew it is not begun again.
                let over = look::ended(&pod.value) && !look::deleting(&pod.value);
                if !self.reachable(node) {
                    self.missed.entry(node.to_owned()).or_default().insert(key.clone());
                } else if !over {
                    self.runs.insert((key.clone(), uid), Run::new(node, Arc::clone(pod), now));
                }
            }
        }
        let from = (key.clone(), String::new());
        let ids: Vec<(Key, String)> = self
            .runs
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(id, _)| id.0 == *key)
            .map(|(id, _)| id.clone())
            .collect();
        let mut again: Option<i64> = None;
        for id in ids {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            let Some(machine) = self.machines.get_mut(&run.node) else { continue };
            let current = stored.as_ref().filter(|pod| text(&pod.value, "/metadata/uid") == id.1);
            let next = match machine.state {
                NodeState::Frozen => None,
                _ if machine.stopped.contains(&Part::Kubelet) => None,
                NodeState::Up if machine.cut_by.is_some() => run.tick(self.seed, None, machine, now),
                NodeState::CutOff => run.tick(self.seed, None, machine, now),
                NodeState::Up => match current {
                    // It was deleted without waiting for the kubelet, which ends what it finds.
                    None => {
                        self.runs.remove(&id);
                        continue;
                    }
                    Some(pod) => {
                        run.see(pod, now);
                        let next = run.tick(self.seed, Some(&*state), machine, now);
                        if run.report(state, machine)? {
                            self.runs.remove(&id);
                            continue;
                        }
                        next
                    }
                },
            };
            again = [again, next].into_iter().flatten().min();
        }
        Ok(again)
    }

    /// Whose work follows from a change of a node. What its kubelet has missed it lists when it can be reached again.
    fn on(&mut self, name: &str) -> Vec<Item> {
        let missed = if self.reachable(name) { self.missed.remove(name).unwrap_or_default() } else { BTreeSet::new() };
        let own = self.runs.iter().filter(|(_, run)| run.node == name);
        let mut items: Vec<Item> = own.map(|((key, _), _)| (Who::Kubelet, key.clone())).collect();
        items.dedup();
        items.extend(missed.into_iter().map(|key| (Who::Kubelet, key)));
        items.push((Who::Heart, Key(String::new(), name.to_owned())));
        items
    }

    /// Changes how a node is. Whose work follows from it; none: there is no such node.
    pub(super) fn set(&mut self, name: &str, to: NodeState, now: i64) -> Option<Vec<Item>> {
        let machine = self.machines.get_mut(name)?;
        let from = std::mem::replace(&mut machine.state, to);
        for run in self.runs.values_mut().filter(|run| run.node == name) {
            run.freeze_node(to == NodeState::Frozen);
        }
        if let Some(hosting) = &self.hosting {
            hosting.net.set_node(name, to == NodeState::Up && machine.cut_by.is_none());
        }
        if from == NodeState::Frozen && to != NodeState::Frozen {
            // Clocks went on while nothing moved.
            machine.next_lease = now;
        }
        if to == NodeState::Up && from != NodeState::Up {
            (machine.next_lease, machine.reported) = (now, None);
            for run in self.runs.values_mut().filter(|run| run.node == name) {
                run.forget_report();
            }
        }
        Some(self.on(name))
    }

    /// Stops one of a node's daemons, or lets it go on.
    pub(super) fn stop_daemon(&mut self, name: &str, part: Part, stopped: bool, now: i64) -> Vec<Item> {
        let Some(machine) = self.machines.get_mut(name) else { return Vec::new() };
        if stopped {
            machine.stopped.insert(part);
        } else {
            machine.stopped.remove(&part);
        }
        self.resume(name, now)
    }

    /// Whether one of a node's daemons is stopped.
    pub(super) fn is_stopped(&self, name: &str, part: Part) -> bool {
        self.machines.get(name).is_some_and(|machine| machine.stopped.contains(&part))
    }

    /// Cuts a node's network from within, or gives it back.
    pub(super) fn isolate(&mut self, name: &str, by: Option<&str>, now: i64) -> Vec<Item> {
        let Some(machine) = self.machines.get_mut(name) else { return Vec::new() };
        machine.cut_by = by.map(str::to_owned);
        if let Some(hosting) = &self.hosting {
            hosting.net.set_node(name, machine.state == NodeState::Up && by.is_none());
        }
        self.resume(name, now)
    }

    /// What has cut a node's network from within.
    pub(super) fn cut_by(&self, name: &str) -> Option<&str> {
        self.machines.get(name)?.cut_by.as_deref()
    }

    /// A kubelet that works again beats at once and says all anew.
    fn resume(&mut self, name: &str, now: i64) -> Vec<Item> {
        if let Some(machine) = self.machines.get_mut(name).filter(|machine| machine.works()) {
            (machine.next_lease, machine.reported) = (now, None);
            for run in self.runs.values_mut().filter(|run| run.node == name) {
                run.forget_report();
            }
        }
        self.on(name)
    }

    /// Fills a node's disk or frees it.
    pub(super) fn fill(&mut self, name: &str, full: bool, now: i64) -> Option<Vec<Item>> {
        let machine = self.machines.get_mut(name)?;
        if machine.disk_full && !full {
            machine.pressure_until = Some(now + PRESSURE_US);
        }
        machine.disk_full = full;
        Some(self.on(name))
    }

    /// Sends a signal to a container. None: it does not run.
    pub(super) fn signal(&mut self, (namespace, pod): (&str, &str), container: &str, signal: Signal, now: i64) -> Option<Vec<Item>> {
        let key = Key(namespace.to_owned(), pod.to_owned());
        let from = (key.clone(), String::new());
        let mut hit = false;
        for (_, run) in self.runs.range_mut((Bound::Included(from), Bound::Unbounded)).take_while(|(id, _)| id.0 == key) {
            hit |= run.signal(container, signal, now);
        }
        hit.then(|| vec![(Who::Kubelet, key)])
    }

    /// Nothing can be written to a node's disk.
    pub(super) fn disk_full(&self, name: &str) -> bool {
        self.machines.get(name).is_some_and(|machine| machine.disk_full)
    }

    /// The node on which a pod has an address, if one has it.
    pub(super) fn holder(&self, address: &str) -> Option<&str> {
        self.runs.values().find(|run| run.address == address).map(|run| run.node.as_str())
    }

    /// Ends everything that runs at once: the sandbox ends.
    pub(super) fn drop_all(&mut self) {
        self.runs.clear();
        self.hosting = None;
        self.machines.values_mut().for_each(|machine| machine.hosting = None);
    }

    /// A pod that runs, by uid.
    fn run_mut(&mut self, key: &Key, uid: &str) -> Option<(&mut Run, &Machine)> {
        let run = self.runs.get_mut(&(key.clone(), uid.to_owned()))?;
        let machine = self.machines.get(&run.node)?;
        Some((run, machine))
    }
}

/// A kubelet as the writer.
pub(super) fn by(user: &str) -> By<'_> {
    By { user, agent: "kubelet" }
}

/// Renews a node's Lease.
fn renew(state: &mut State, by: By<'_>, name: &str) -> super::refusal::Answer<()> {
    let at = At::new("coordination.k8s.io", "leases", "kube-node-lease", name);
    let now = micro_time(state.now_us);
    if let Some(lease) = state.peek("coordination.k8s.io", "leases", "kube-node-lease", name).cloned() {
        let mut value = lease.value.clone();
        look::part(&mut value, "spec").insert("renewTime".to_owned(), Value::from(now));
        return state.change(by, at, "", value).map(drop);
    }
    let mut lease = json!({
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
    });
    if let Some(node) = state.peek("", "nodes", "", name) {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": text(&node.value, "/metadata/uid")});
        meta(&mut lease).insert("ownerReferences".to_owned(), json!([owner]));
    }
    state.make(by, at, lease).map(drop)
}

type Wanted = [(&'static str, &'static str, &'static str, &'static str); 4];

fn conditions(pressed: bool) -> Wanted {
    let disk = if pressed {
        ("DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        disk,
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
}

fn set_conditions(status: &mut Value, wanted: &Wanted, now: &str) {
    for (kind, is, reason, message) in wanted {
        look::set_condition(status, kind, is, reason, message, now);
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        as_map(condition).insert("lastHeartbeatTime".to_owned(), Value::from(now));
    }
}

/// A Node as its kubelet makes it.
fn describe(machine: &Machine, name: &str, now: &str) -> Value {
    let resources = json!({"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"});
    let mut labels = json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
    });
    if !machine.zone.is_empty() {
        labels["topology.kubernetes.io/zone"] = Value::from(machine.zone.as_str());
    }
    let mut status = json!({
        "capacity": resources, "allocatable": resources,
        "addresses": [{"type": "InternalIP", "address": machine.host()}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "6.12.0", "osImage": "sandbox",
            "containerRuntimeVersion": "sandbox://1", "kubeletVersion": "v1.34.0", "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": "amd64",
        },
    });
    set_conditions(&mut status, &conditions(false), now);
    json!({"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})
}

/// `metav1.Time` of a moment.
fn stamp(us: i64) -> Value {
    Value::from(seconds(us))
}
