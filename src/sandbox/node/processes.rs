//! The processes of a node, as a privileged pod with `hostPID` sees them, and those of a pod, as an ephemeral container of it does: each
//! container that runs has one.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Arc, Weak},
};

use rustix::process::Signal as UnixSignal;
use serde_json::json;

use super::{
    super::{cluster::Cluster, control::Who, core::text, model::Signal, net::Net, store::Key},
    Nodes,
    container::Phase,
};
use crate::{
    agent::{
        host::Host,
        inside,
        loss::{NodeProcess, Part},
        partition::{Cutting, PartitionAt},
        processes::{Ident, NodePod, Process, State, Table},
        volume::{Volume, VolumeAt},
    },
    clock::Clock,
};

/// A process of a container.
struct Seen {
    key: Key,
    uid: String,
    container: String,
    id: String,
    ident: Ident,
    comm: String,
    held: bool,
}

impl Nodes {
    fn processes(&self, node: &str) -> Vec<Seen> {
        let mut all = Vec::new();
        for ((key, uid), run) in self.runs.iter().filter(|(_, run)| run.node == node) {
            for container in &run.containers {
                let Phase::Running(process) = &container.phase else { continue };
                let id = process.id.split_once("://").map_or(process.id.as_str(), |(_, id)| id);
                // In ticks of a hundredth of a second, as the kernel has it.
                let start = u64::try_from(process.started / 10_000).unwrap_or(0);
                let ident = Ident { pid: process.pid, start };
                let comm = comm(&run.pod.value, &container.name);
                all.push(Seen {
                    key: key.clone(),
                    uid: uid.clone(),
                    container: container.name.clone(),
                    id: id.to_owned(),
                    ident,
                    comm,
                    held: process.held,
                });
            }
        }
        all
    }
}

/// What the kernel calls a container's process: the first 15 bytes of its program's name.
fn comm(pod: &serde_json::Value, container: &str) -> String {
    let lists = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
    let spec = lists.iter().flat_map(|at| super::look::items(pod, at)).find(|c| text(c, "/name") == container);
    let command = spec.map_or("", |spec| text(spec, "/command/0"));
    let program = command.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(container);
    program.chars().take(15).collect()
}

/// Whose processes a container sees beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Beside {
    Nobody,
    One(String),
    All,
}

/// A node's processes as one of its pods sees them.
pub(in crate::sandbox) struct NodeTable {
    cluster: Weak<Cluster>,
    clock: Clock,
    node: String,
    /// The pod that looks, `namespace/name`, and its uid.
    own: String,
    own_uid: String,
    /// The container that looks.
    container: String,
    /// Whose processes it sees, of its own pod: those of one other container, or of all where they share them.
    beside: Beside,
    /// It is an ephemeral container.
    inside: bool,
    /// It may write to files of others: user 0 with DAC_OVERRIDE, or the user whose files these are.
    writes: bool,
    /// It may signal its pod's processes: user 0 with KILL, or the user whose processes these are.
    signals: bool,
    /// The volumes that it has, by their names.
    volumes: BTreeSet<String>,
    /// It sees the processes of others (`hostPID`).
    sees_all: bool,
    /// It may signal them (`privileged`).
    privileged: bool,
}

impl fmt::Debug for NodeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTable").field("node", &self.node).finish_non_exhaustive()
    }
}

impl NodeTable {
    /// For a container of a pod on a node.
    pub(in crate::sandbox) fn new(cluster: Weak<Cluster>, clock: Clock, node: &str, pod: &serde_json::Value, container: &str) -> Self {
        let lists = ["/spec/containers", "/spec/ephemeralContainers"];
        let inside = super::look::items(pod, lists[1]).iter().any(|c| text(c, "/name") == container);
        let spec = lists.iter().flat_map(|at| super::look::items(pod, at)).find(|c| text(c, "/name") == container);
        let target = spec.map_or("", |spec| text(spec, "/targetContainerName"));
        let beside = match target {
            _ if super::look::flag(pod, "/spec/shareProcessNamespace") => Beside::All,
            "" => Beside::Nobody,
            target => Beside::One(target.to_owned()),
        };
        let user = spec.and_then(|spec| spec.pointer("/securityContext/runAsUser")).and_then(serde_json::Value::as_i64);
        let has = |capability: &str| {
            let added = spec.map(|spec| super::look::items(spec, "/securityContext/capabilities/add")).unwrap_or_default();
            user.is_some_and(|user| user != 0) || added.iter().any(|one| one == capability)
        };
        let mounts = spec.map(|spec| super::look::items(spec, "/volumeMounts")).unwrap_or_default();
        let own = mounts.iter().filter(|mount| text(mount, "/mountPath") == inside::mount(text(mount, "/name")));
        Self {
            container: container.to_owned(),
            beside,
            inside,
            writes: has("DAC_OVERRIDE"),
            signals: has("KILL"),
            volumes: own.map(|mount| text(mount, "/name").to_owned()).collect(),
            cluster,
            clock,
            node: node.to_owned(),
            own: format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name")),
            own_uid: text(pod, "/metadata/uid").to_owned(),
            sees_all: super::look::flag(pod, "/spec/hostPID"),
            privileged: spec.is_some_and(|spec| super::look::flag(spec, "/securityContext/privileged")),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let Some(cluster) = self.cluster.upgrade() else { return Vec::new() };
        let mut all = cluster.lock().nodes.processes(&self.node);
        all.retain(|p| {
            let beside = match &self.beside {
                Beside::Nobody => false,
                Beside::One(name) => p.container == *name,
                Beside::All => true,
            };
            self.sees_all || p.uid == self.own_uid && (!self.inside || beside || p.container == self.container)
        });
        all
    }
}

impl Table for NodeTable {
    fn host(&self) -> Host {
        Host { cgroup: Some(2), freezer: true, ..Host::default() }
    }

    fn inside(&self) -> bool {
        self.inside
    }

    fn pids(&self) -> BTreeSet<i32> {
        self.seen().into_iter().map(|p| p.ident.pid).collect()
    }

    fn state(&self, ident: Ident) -> State {
        if let Some((_, part, _)) = DAEMONS.iter().find(|(daemon, ..)| *daemon == ident) {
            let stopped = self.cluster.upgrade().is_some_and(|cluster| cluster.lock().nodes.is_stopped(&self.node, *part));
            return if stopped { State::Stopped } else { State::Running };
        }
        match self.seen().into_iter().find(|p| p.ident == ident) {
            None => State::Dead,
            Some(p) if p.held => State::Stopped,
            Some(_) => State::Running,
        }
    }

    fn of_pod(&self, pod: &NodePod, pids: &BTreeSet<i32>) -> Vec<Process> {
        // Not itself: it is in its own cgroup.
        let itself = |p: &Seen| self.inside && p.container == self.container;
        let own = self.seen().into_iter().filter(|p| p.uid == pod.uid && pids.contains(&p.ident.pid) && !itself(p));
        let process = |p: Seen| Process {
            ident: p.ident,
            comm: p.comm,
            // The status and the mounts say the same name.
            container: pod.ids.get(&p.id).cloned().unwrap_or(p.container),
            id: p.id,
            state: if p.held { State::Stopped } else { State::Running },
            // Where the pod shares them, the first one is the sandbox's own.
            init: !self.inside || self.beside != Beside::All,
        };
        own.map(process).collect()
    }

    fn signal(&self, ident: Ident, signal: UnixSignal) -> Result<bool, String> {
        let refused = |why: &str| format!("failed to send {signal:?} to process {}: {why}", ident.pid);
        let (to, called) = match signal {
            UnixSignal::STOP => (Signal::Stop, "STOP"),
            UnixSignal::CONT => (Signal::Continue, "CONT"),
            UnixSignal::KILL => (Signal::Kill, "KILL"),
            UnixSignal::TERM => (Signal::Term, "TERM"),
            _ => return Err(refused("not rehearsable")),
        };
        if let Some((_, part, _)) = DAEMONS.iter().find(|(daemon, ..)| *daemon == ident) {
            if !self.privileged {
                return Err(refused("Operation not permitted"));
            }
            let stopped = match to {
                Signal::Stop => true,
                Signal::Continue => false,
                _ => return Err(refused("not rehearsable")),
            };
            let Some(cluster) = self.cluster.upgrade() else { return Ok(false) };
            let now = self.clock.now().wall_us;
            let items = cluster.lock().nodes.stop_daemon(&self.node, *part, stopped, now);
            cluster.poke(items);
            return Ok(true);
        }
        let Some(found) = self.seen().into_iter().find(|p| p.ident == ident) else { return Ok(false) };
        if !self.privileged && (found.uid != self.own_uid || self.inside && !self.signals) {
            return Err(refused("Operation not permitted"));
        }
        // As the kernel has it: it is sent, and nothing happens.
        if self.inside && self.beside != Beside::All && matches!(to, Signal::Stop | Signal::Kill) {
            return Ok(true);
        }
        let Some(cluster) = self.cluster.upgrade() else { return Ok(false) };
        let now = self.clock.now().wall_us;
        let hit = {
            let mut inner = cluster.lock();
            let run = inner.nodes.runs.get_mut(&(found.key.clone(), found.uid.clone()));
            let hit = run.is_some_and(|run| run.signal(&found.container, to, now));
            if let Some(hosting) = inner.nodes.hosting.as_ref().filter(|_| hit) {
                let pod = format!("{}/{}", found.key.0, found.key.1);
                let (uid, container, pid) = (&found.uid, &found.container, ident.pid);
                let fact = json!({"pod": pod, "uid": uid, "container": container, "pid": pid, "signal": called});
                hosting.note(self.own.clone(), "signal", fact);
            }
            hit
        };
        if hit {
            cluster.poke([(Who::Kubelet, found.key)]);
        }
        Ok(hit)
    }

    fn command(&self, ident: Ident) -> Option<String> {
        self.seen().into_iter().find(|p| p.ident == ident).map(|p| p.comm)
    }

    fn volume(&self, at: &VolumeAt, lost: bool) -> Result<Box<dyn Volume + Send>, String> {
        let Some(cluster) = self.cluster.upgrade() else { return Err("the sandbox is ending".to_owned()) };
        let (pod, hosting) = {
            let inner = cluster.lock();
            (inner.nodes.pod_on(&self.node, &at.pod.uid), inner.nodes.hosting.clone())
        };
        let hosting = hosting.ok_or("the sandbox is ending")?;
        if !self.privileged && at.pod.uid != self.own_uid {
            return Err(format!("failed to open {} of {}: Operation not permitted", at.mount, at.pod.name));
        }
        if self.inside {
            let name = at.declared.as_deref().filter(|name| !at.of_node && self.volumes.contains(*name));
            let name = name.ok_or_else(|| format!("failed to open {} of {}: no such volume is mounted here", at.mount, at.pod.name))?;
            return Ok(Box::new(super::volumes::open_whole(&hosting, pod.as_ref(), name, self.writes)?));
        }
        if at.of_node {
            let (cluster, clock, name) = (self.cluster.clone(), self.clock.clone(), self.node.clone());
            return Ok(Box::new(super::volumes::open_disk(&hosting, super::volumes::OfNode { cluster, clock, name })));
        }
        let runs = self.seen().iter().any(|p| p.uid == at.pod.uid && p.container == at.container);
        if !runs && !lost {
            return Err(format!("no process of container {} of {} is on this node", at.container, at.pod.name));
        }
        Ok(Box::new(super::volumes::open(&hosting, pod.as_ref(), at)?))
    }

    fn cut(&self, at: &PartitionAt) -> Result<Box<dyn Cutting>, String> {
        let (ip, net) = self.address(at)?;
        net.set_cuts(ip, &at.name, Some(at.cuts.clone()));
        let (cluster, uid) = (self.cluster.clone(), at.pod.uid.clone());
        Ok(Box::new(CutOff { cluster, uid, net, ip, name: at.name.clone(), count: at.cuts.len() }))
    }

    fn is_cut(&self, at: &PartitionAt) -> Result<bool, String> {
        self.address(at).map(|(ip, net)| net.has_cuts(ip, &at.name))
    }

    fn node_processes(&self) -> Result<Vec<NodeProcess>, String> {
        if !self.sees_all {
            return Err("it does not see the processes of its node".to_owned());
        }
        let pods = self.seen().into_iter().filter(|p| p.uid != self.own_uid).map(|p| NodeProcess {
            ident: p.ident,
            part: Part::Workload,
            comm: p.comm,
            state: if p.held { State::Stopped } else { State::Running },
        });
        let daemons =
            DAEMONS.into_iter().map(|(ident, part, comm)| NodeProcess { ident, part, comm: comm.to_owned(), state: self.state(ident) });
        Ok(pods.chain(daemons).collect())
    }

    fn cut_node(&self, name: &str) -> Result<Box<dyn Cutting>, String> {
        if !self.privileged {
            return Err("failed to cut the node's network: Operation not permitted".to_owned());
        }
        let (cluster, node) = (self.cluster.clone(), self.node.clone());
        let cut = Isolation { cluster, clock: self.clock.clone(), node, name: name.to_owned() };
        cut.set(true);
        Ok(Box::new(cut))
    }

    fn node_is_cut(&self, name: &str) -> Result<bool, String> {
        let cluster = self.cluster.upgrade().ok_or("the sandbox is ending")?;
        let inner = cluster.lock();
        Ok(inner.nodes.cut_by(&self.node).is_some_and(|by| by == name))
    }
}

/// What runs on a node beside pods. Stopped, its kubelet does nothing and answers nobody.
const DAEMONS: [(Ident, Part, &str); 2] =
    [(Ident { pid: 2, start: 1 }, Part::Runtime, "containerd"), (Ident { pid: 3, start: 1 }, Part::Kubelet, "kubelet")];

/// A node's network that is cut until this is dropped.
struct Isolation {
    cluster: Weak<Cluster>,
    clock: Clock,
    node: String,
    name: String,
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isolation").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Isolation {
    fn set(&self, cut: bool) {
        let Some(cluster) = self.cluster.upgrade() else { return };
        let now = self.clock.now().wall_us;
        let items = cluster.lock().nodes.isolate(&self.node, cut.then_some(self.name.as_str()), now);
        cluster.poke(items);
    }
}

impl Cutting for Isolation {
    fn look(&self) -> Result<String, String> {
        let cluster = self.cluster.upgrade().ok_or("the sandbox is ending")?;
        let by = cluster.lock().nodes.cut_by(&self.node).map(str::to_owned);
        if by.as_ref() == Some(&self.name) { Ok("its network is cut".to_owned()) } else { Err("its network is back".to_owned()) }
    }

    fn lift(&mut self) -> Result<(), String> {
        self.set(false);
        Ok(())
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl NodeTable {
    /// The address of a pod of the node's, and the network that it is in.
    fn address(&self, at: &PartitionAt) -> Result<(IpAddr, Arc<Net>), String> {
        let found = self.seen().into_iter().find(|p| p.uid == at.pod.uid);
        let found = found.ok_or_else(|| format!("pod {} has no process on this node", at.pod.name))?;
        if !self.privileged && found.uid != self.own_uid {
            return Err(format!("failed to enter the network namespace of {}: Operation not permitted", at.pod.name));
        }
        let cluster = self.cluster.upgrade().ok_or("the sandbox is ending")?;
        let inner = cluster.lock();
        let net = inner.nodes.hosting.as_ref().map(|hosting| Arc::clone(&hosting.net)).ok_or("the sandbox is ending")?;
        let ip = inner.nodes.runs.get(&(found.key, found.uid)).and_then(|run| run.address.parse().ok());
        Ok((ip.ok_or_else(|| format!("pod {} has no address", at.pod.name))?, net))
    }
}

/// A cut that is in force until it is dropped, as rules end with the socket they belong to.
struct CutOff {
    cluster: Weak<Cluster>,
    uid: String,
    net: Arc<Net>,
    ip: IpAddr,
    name: String,
    count: usize,
}

impl fmt::Debug for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutOff").field("ip", &self.ip).finish_non_exhaustive()
    }
}

impl Cutting for CutOff {
    fn look(&self) -> Result<String, String> {
        let runs = |cluster: Arc<Cluster>| cluster.lock().nodes.runs.keys().any(|(_, uid)| *uid == self.uid);
        if !self.cluster.upgrade().is_some_and(runs) {
            return Err("the pod is gone, and its traffic with it".to_owned());
        }
        if self.net.has_cuts(self.ip, &self.name) {
            Ok(format!("{} of its traffic", crate::scenario::diag::counted(self.count, "cut")))
        } else {
            Err("its traffic passes again".to_owned())
        }
    }

    fn lift(&mut self) -> Result<(), String> {
        self.net.set_cuts(self.ip, &self.name, None);
        Ok(())
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        self.net.set_cuts(self.ip, &self.name, None);
    }
}
