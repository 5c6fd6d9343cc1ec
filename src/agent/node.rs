//! What a node helper does: freeze, crash and hold down the processes of pods on its node, prove it, and undo it. Single signals
//! ([`super::signals`]), volumes ([`super::volume`]) and traffic ([`super::partition`]) have files of their own.
//!
//! It needs nothing but `/proc` and signals: no API server, no runtime, no network. It never touches its own pod, and
//! whatever it did it undoes when it ends, for whatever reason it ends.
//!
//! **Freeze** sends SIGSTOP to every process of the chosen containers until two passes in a row find the same processes, all of
//! them stopped: then none of them can have made another one. What enters a frozen container later from outside (an exec probe
//! of the kubelet, `kubectl exec`) is left to run: stopping a process of the runtime half way into the container would keep
//! its shim from reporting that the container ended, and so hold the kubelet up as well.
//!
//! The same helper runs within a pod ([`super::inside`]), and acts on nothing but that pod there.
//!
//! **Crash** sends SIGKILL, the first process of each process namespace first (its end takes the rest at once), until none of
//! them is left. Held, it looks again every 20 ms and kills whatever runs in the chosen containers by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};

use super::{
    inside,
    loss::{LossAt, Losses, Means},
    partition::{PartitionAt, Partitions, PartitionsReport},
    processes::{Ident, NodePod, Proc, Process, State},
    server::Order,
    signals::{SignalTo, Signals, SignalsReport},
    volume::{FILL_EVERY, Step, VolumeAt, Volumes, VolumesReport},
};
use crate::fault::ProcessFault;

/// How often a held crash looks for new processes.
pub const HOLD_EVERY: Duration = Duration::from_millis(20);
/// How long one inject or revert may try until all processes are in the wanted state.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// What a node helper can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum NodeReq {
    /// Look and change nothing.
    Look {
        /// At these.
        pods: Vec<NodePod>,
    },
    /// Act.
    Inject {
        /// How.
        how: ProcessFault,
        /// On these.
        pods: Vec<NodePod>,
    },
    /// Did it bite, and does it still?
    Check {
        /// What.
        how: ProcessFault,
        /// On these.
        pods: Vec<NodePod>,
    },
    /// Undo.
    Revert {
        /// What.
        how: ProcessFault,
        /// On these.
        pods: Vec<NodePod>,
    },
    /// A signal to single processes.
    Signals {
        /// What of it.
        step: Step,
        /// To these.
        to: Vec<SignalTo>,
    },
    /// Pods' traffic.
    Partitions {
        /// What of it.
        step: Step,
        /// Of these.
        at: Vec<PartitionAt>,
    },
    /// Look at the node itself.
    Host,
    /// The node itself is lost.
    Loss {
        /// What of it.
        step: Step,
        /// How.
        at: LossAt,
    },
    /// Volumes of pods.
    Volumes {
        /// What of it.
        step: Step,
        /// These.
        at: Vec<VolumeAt>,
    },
}

impl NodeReq {
    /// The pods it is about.
    fn pods(&self) -> Vec<&NodePod> {
        match self {
            Self::Look { pods } | Self::Inject { pods, .. } | Self::Check { pods, .. } | Self::Revert { pods, .. } => pods.iter().collect(),
            Self::Loss { .. } => Vec::new(),
            Self::Signals { to, .. } => to.iter().map(|to| &to.pod).collect(),
            Self::Partitions { at, .. } => at.iter().map(|at| &at.pod).collect(),
            Self::Volumes { at, .. } => at.iter().map(|at| &at.pod).collect(),
            Self::Host => Vec::new(),
        }
    }
}

/// What a node helper answers about each pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The pod's uid.
    pub uid: String,
    /// Live processes in the chosen containers now.
    pub live: u32,
    /// Of those, stopped.
    pub stopped: u32,
    /// The containers they are in.
    pub containers: BTreeSet<String>,
    /// Processes that this act hit (inject), or that were still under it (revert).
    pub hit: u32,
    /// Whether new processes are being killed.
    pub held: bool,
    /// For a check: the act is proven.
    pub effective: bool,
    /// For a check: how it was undone by others, if it was.
    pub broken: Option<String>,
    /// For people.
    pub detail: String,
}

/// A node helper's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// A pod each, in the order asked.
    pub pods: Vec<PodReport>,
    /// How long it took on the node, in microseconds.
    pub took_us: u64,
}

/// What was done to a pod.
#[derive(Debug)]
struct Act {
    pod: NodePod,
    how: ProcessFault,
    victims: Vec<Process>,
    /// Processes killed while held, and the longest time that one of them can have lived.
    killed_again: u32,
    longest_lived: Duration,
}

/// The state of a node helper.
#[derive(Debug)]
pub struct Node {
    proc: Proc,
    own_uid: String,
    acts: BTreeMap<String, Act>,
    signals: Signals,
    volumes: Volumes,
    partitions: Partitions,
    losses: Losses,
    /// Numbers seen by the held crash, and since when, so that only new ones are looked at closely.
    seen: BTreeMap<i32, Instant>,
    swept: Option<Instant>,
}

impl Node {
    /// A helper in the pod with this uid, which it will never touch.
    pub fn new(proc: Proc, own_uid: String) -> Self {
        let (signals, volumes, partitions) = (Signals::default(), Volumes::default(), Partitions::default());
        let losses = Losses::default();
        Self { proc, own_uid, acts: BTreeMap::new(), signals, volumes, partitions, losses, seen: BTreeMap::new(), swept: None }
    }

    /// The same, able to lose its node.
    pub fn losing(self, means: Means) -> Self {
        Self { losses: Losses::with(means), ..self }
    }

    /// Serves until told to end; then undoes everything and says what.
    ///
    /// # Errors
    /// When something could not be undone.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<String, String> {
        let mut hold = tokio::time::interval(HOLD_EVERY);
        hold.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut fill = tokio::time::interval(FILL_EVERY);
        fill.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = hold.tick(), if self.acts.values().any(|a| a.how == ProcessFault::CrashHold) => self.kill_again(),
                _ = fill.tick(), if self.volumes.busy() => self.volumes.turn(&self.proc),
                () = self.losses.due() => self.losses.turn(&self.proc, &self.own_uid).await,
                order = orders.recv() => match order {
                    Some(Order::Call { body, reply }) => {
                        let answer = match serde_json::from_value(body) {
                            Ok(request) => self.answer(request).await,
                            Err(e) => Err(format!("not a request to a node helper: {e}")),
                        };
                        // The runner may have gone; it will ask again.
                        let _ = reply.send(answer);
                    }
                    Some(Order::End { why }) => return self.undo_all(&why).await,
                    None => return self.undo_all("nobody is there any more").await,
                }
            }
        }
    }

    async fn answer(&mut self, request: NodeReq) -> Result<Value, String> {
        let start = Instant::now();
        let inside = self.proc.inside();
        if inside && matches!(request, NodeReq::Host | NodeReq::Loss { .. } | NodeReq::Partitions { .. }) {
            return Err("refused: an agent within a pod has no power over its node or its traffic".to_owned());
        }
        if request == NodeReq::Host {
            return json(&self.proc.host());
        }
        if let NodeReq::Loss { step, at } = request {
            return json(&self.losses.answer(&self.proc, &self.own_uid, step, at).await?);
        }
        let pods = request.pods();
        if pods.is_empty() {
            return Err("no pods were named".to_owned());
        }
        if let Some(other) = pods.iter().find(|p| (p.uid == self.own_uid) != inside || p.uid.is_empty()) {
            let why = if inside { "is not the pod that the agent is in" } else { "is the helper's own pod, or has no uid" };
            return Err(format!("refused: {} {why}", other.name));
        }
        let pods = match request {
            NodeReq::Look { pods } => pods.iter().map(|p| self.look(p)).collect(),
            NodeReq::Inject { how, pods } => self.inject(how, &pods).await?,
            NodeReq::Check { how, pods } => pods.iter().map(|p| self.check(how, p)).collect(),
            NodeReq::Revert { how, pods } => self.revert(how, &pods).await?,
            NodeReq::Signals { step, to } => {
                let signals = self.signals.answer(&self.proc, step, to).await?;
                return json(&SignalsReport { signals });
            }
            NodeReq::Partitions { step, at } => {
                let partitions = self.partitions.answer(&self.proc, step, &at)?;
                return json(&PartitionsReport { partitions });
            }
            NodeReq::Host => Vec::new(),
            NodeReq::Loss { .. } => return Err("a node is no pod".to_owned()),
            NodeReq::Volumes { step, at } => {
                let volumes = self.volumes.answer(&self.proc, step, at).await?;
                return json(&VolumesReport { volumes, took_us: micros(start) });
            }
        };
        json(&NodeReport { pods, took_us: micros(start) })
    }

    fn look(&self, pod: &NodePod) -> PodReport {
        let found = self.proc.of_pod(pod, self.proc.pids());
        let held = self.acts.get(&pod.uid).is_some_and(|a| a.how == ProcessFault::CrashHold);
        let stopped = found.iter().filter(|p| p.state == State::Stopped).count();
        let containers: BTreeSet<String> = found.iter().map(|p| p.container.clone()).collect();
        let detail = format!("{}: {} processes in {}, {stopped} of them stopped", pod.name, found.len(), list(&containers));
        PodReport {
            uid: pod.uid.clone(),
            live: count(found.len()),
            stopped: count(stopped),
            containers,
            held,
            detail,
            ..PodReport::default()
        }
    }

    async fn inject(&mut self, how: ProcessFault, pods: &[NodePod]) -> Result<Vec<PodReport>, String> {
        // All must be there before any is touched.
        let pids = self.proc.pids();
        for pod in pods {
            let same = self.acts.get(&pod.uid).is_some_and(|a| a.how == how);
            let found = self.proc.of_pod(pod, pids.iter().copied());
            if !same && found.is_empty() {
                return Err(format!("pod {} has no process in the chosen containers on this node: nothing was done", pod.name));
            }
            if self.proc.inside()
                && let Some(first) = found.iter().find(|p| p.init)
            {
                let signal = if how == ProcessFault::Freeze { "SIGSTOP" } else { "SIGKILL" };
                return Err(inside::dropped(&format!("process {} of {}", first.ident.pid, pod.name), signal));
            }
        }
        for pod in pods {
            let act = Act { pod: pod.clone(), how, victims: Vec::new(), killed_again: 0, longest_lived: Duration::ZERO };
            match self.acts.get_mut(&pod.uid) {
                // Injected twice: the second time hits what there is, and the first is not forgotten.
                Some(before) if before.how == how => before.pod = act.pod,
                _ => {
                    self.acts.insert(pod.uid.clone(), act);
                }
            }
        }
        match how {
            ProcessFault::Freeze => self.freeze(pods).await?,
            ProcessFault::Crash | ProcessFault::CrashHold => self.kill(pods).await?,
        }
        Ok(pods.iter().map(|p| self.check(how, p)).collect())
    }

    /// Stops until two passes in a row find the same processes, all stopped.
    async fn freeze(&mut self, pods: &[NodePod]) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut before: Option<BTreeSet<Ident>> = None;
        loop {
            let pids = self.proc.pids();
            let mut now = BTreeSet::new();
            let mut all_stopped = true;
            for pod in pods {
                for process in self.proc.of_pod(pod, pids.iter().copied()).into_iter().filter(|p| !p.comm.starts_with("runc:[")) {
                    if process.state == State::Running {
                        all_stopped = false;
                        self.proc.signal(process.ident, Signal::STOP)?;
                    }
                    now.insert(process.ident);
                    self.remember(&pod.uid, process);
                }
            }
            if all_stopped && before.as_ref() == Some(&now) {
                return Ok(());
            }
            before = all_stopped.then_some(now);
            if Instant::now() >= deadline {
                return Err(format!("not all processes stopped within {} s", SETTLE_LIMIT.as_secs()));
            }
            if !all_stopped {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Kills until none of the containers' processes is left.
    async fn kill(&mut self, pods: &[NodePod]) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        // Only containers that run now: what the kubelet starts in their place is killed only when held.
        let mut containers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut first = true;
        loop {
            let pids = self.proc.pids();
            let mut left = false;
            for pod in pods {
                let ids = containers.entry(pod.uid.clone()).or_default();
                for process in self.proc.of_pod(pod, pids.iter().copied()) {
                    if first {
                        ids.insert(process.id.clone());
                    }
                    if ids.contains(&process.id) {
                        left = true;
                        self.proc.signal(process.ident, Signal::KILL)?;
                        self.remember(&pod.uid, process);
                    }
                }
            }
            if !left {
                return Ok(());
            }
            first = false;
            if Instant::now() >= deadline {
                return Err(format!("not all processes were gone within {} s of SIGKILL", SETTLE_LIMIT.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn remember(&mut self, uid: &str, process: Process) {
        if let Some(act) = self.acts.get_mut(uid)
            && !act.victims.iter().any(|v| v.ident == process.ident)
        {
            act.victims.push(process);
        }
    }

    /// One look of the held crashes. Numbers that have been there for a while are looked at once a second only: a process
    /// enters its container within moments of its birth.
    fn kill_again(&mut self) {
        let now = Instant::now();
        let sweep = self.swept.is_none_or(|t| now - t >= Duration::from_secs(1));
        let pids = self.proc.pids();
        self.seen.retain(|pid, _| pids.contains(pid));
        let new: Vec<i32> = pids
            .into_iter()
            .filter(|pid| {
                let since = *self.seen.entry(*pid).or_insert(now);
                sweep || now - since < Duration::from_secs(5)
            })
            .collect();
        if sweep {
            self.swept = Some(now);
        }
        for act in self.acts.values_mut().filter(|a| a.how == ProcessFault::CrashHold) {
            for process in self.proc.of_pod(&act.pod, new.iter().copied()) {
                let born = self.seen.get(&process.ident.pid).copied().unwrap_or(now);
                match self.proc.signal(process.ident, Signal::KILL) {
                    Ok(true) => {
                        act.killed_again += 1;
                        act.longest_lived = act.longest_lived.max(now - born + HOLD_EVERY);
                    }
                    Ok(false) => {}
                    Err(e) => tracing::error!("{e}"),
                }
            }
        }
    }

    fn check(&self, how: ProcessFault, pod: &NodePod) -> PodReport {
        let mut report = self.look(pod);
        let act = self.acts.get(&pod.uid).filter(|a| a.how == how);
        let hit = act.map_or(0, |a| a.victims.len());
        report.hit = count(hit);
        match how {
            ProcessFault::Freeze => {
                let Some(act) = act else {
                    // A helper that came after the one that froze: what is stopped is all it can go by.
                    report.effective = report.live > 0 && report.live == report.stopped;
                    report.broken = (!report.effective).then(|| report.detail.clone());
                    return report;
                };
                let alive: Vec<_> = act.victims.iter().map(|v| (v, self.proc.state(v.ident))).collect();
                let running = alive.iter().filter(|(_, s)| *s == State::Running).count();
                let dead = alive.iter().filter(|(_, s)| *s == State::Dead).count();
                report.effective = hit > 0 && running == 0 && dead < hit;
                let fresh: BTreeSet<&str> = self
                    .proc
                    .of_pod(pod, self.proc.pids())
                    .iter()
                    .filter(|p| !act.victims.iter().any(|v| v.id == p.id))
                    .filter_map(|p| act.victims.iter().find(|v| v.container == p.container).map(|v| v.container.as_str()))
                    .collect();
                if running > 0 {
                    report.broken = Some(format!("{running} of {hit} frozen processes of {} run again", pod.name));
                } else if !fresh.is_empty() {
                    report.broken =
                        Some(format!("containers {} of {} were restarted", fresh.into_iter().collect::<Vec<_>>().join(", "), pod.name));
                } else if dead == hit {
                    report.broken = Some(format!("all {hit} frozen processes of {} have ended", pod.name));
                }
                let names = list(&act.victims.iter().map(|v| v.container.clone()).collect());
                report.detail = format!("{}: {} of {hit} processes in {names} stopped (state T)", pod.name, hit - running - dead);
                if dead > 0 {
                    report.detail.push_str(&format!(", {dead} ended"));
                }
            }
            ProcessFault::Crash | ProcessFault::CrashHold => {
                let left = act.map_or(0, |a| a.victims.iter().filter(|v| self.proc.state(v.ident) != State::Dead).count());
                report.effective = hit > 0 && left == 0;
                let names = act.map_or_else(String::new, |a| list(&a.victims.iter().map(|v| v.container.clone()).collect()));
                report.detail = format!("{}: {} of {hit} processes in {names} gone", pod.name, hit - left);
                if how == ProcessFault::CrashHold {
                    if let Some(act) = act.filter(|a| a.killed_again > 0) {
                        let ms = act.longest_lived.as_millis();
                        report.detail.push_str(&format!(", {} more killed since (the longest lived at most {ms} ms)", act.killed_again));
                    }
                    report.broken = (!report.held).then(|| format!("nothing kills new processes of {} any more", pod.name));
                }
            }
        }
        report
    }

    async fn revert(&mut self, how: ProcessFault, pods: &[NodePod]) -> Result<Vec<PodReport>, String> {
        let mut hits = Vec::new();
        for pod in pods {
            hits.push(match how {
                ProcessFault::Freeze => self.thaw(pod).await?,
                ProcessFault::Crash => 0,
                ProcessFault::CrashHold => u32::from(self.acts.get(&pod.uid).is_some_and(|a| a.how == how)),
            });
            if self.acts.get(&pod.uid).is_some_and(|a| a.how == how) {
                self.acts.remove(&pod.uid);
            }
        }
        if !self.acts.values().any(|a| a.how == ProcessFault::CrashHold) {
            self.seen.clear();
            self.swept = None;
        }
        Ok(pods.iter().zip(hits).map(|(pod, hit)| PodReport { hit, ..self.look(pod) }).collect())
    }

    /// Continues until none of the processes is stopped. Returns how many were.
    async fn thaw(&self, pod: &NodePod) -> Result<u32, String> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut woken = BTreeSet::new();
        loop {
            let mut stopped: Vec<Ident> =
                self.proc.of_pod(pod, self.proc.pids()).iter().filter(|p| p.state == State::Stopped).map(|p| p.ident).collect();
            if let Some(act) = self.acts.get(&pod.uid) {
                // Also those that are not found by their cgroup any more.
                stopped.extend(act.victims.iter().map(|v| v.ident).filter(|i| self.proc.state(*i) == State::Stopped));
            }
            if stopped.is_empty() {
                return Ok(count(woken.len()));
            }
            for ident in stopped {
                self.proc.signal(ident, Signal::CONT)?;
                woken.insert(ident);
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "processes of {} are still stopped {} s after SIGCONT: is something else stopping them?",
                    pod.name,
                    SETTLE_LIMIT.as_secs()
                ));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn undo_all(&mut self, why: &str) -> Result<String, String> {
        let (mut said, mut failed) = (Vec::new(), Vec::new());
        self.losses.undo_all(&self.proc, &self.own_uid, why, &mut said, &mut failed).await;
        for act in std::mem::take(&mut self.acts).into_values() {
            match act.how {
                ProcessFault::Freeze => {
                    let (pod, name) = (act.pod.clone(), act.pod.name.clone());
                    self.acts.insert(pod.uid.clone(), act);
                    match self.thaw(&pod).await {
                        Ok(0) => {}
                        Ok(n) => said.push(format!("let {n} frozen processes of {name} go on")),
                        Err(e) => failed.push(e),
                    }
                    self.acts.remove(&pod.uid);
                }
                ProcessFault::CrashHold => said.push(format!("stopped killing processes of {}", act.pod.name)),
                ProcessFault::Crash => {}
            }
        }
        self.signals.undo_all(&self.proc, &mut said, &mut failed).await;
        self.partitions.undo_all(&mut said, &mut failed);
        self.volumes.undo_all(&self.proc, &mut said, &mut failed);
        if failed.is_empty() { Ok(said.join("; ")) } else { Err(failed.join("; ")) }
    }
}

fn json(report: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(report).map_err(|e| e.to_string())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn list(containers: &BTreeSet<String>) -> String {
    if containers.is_empty() {
        return "no container".to_owned();
    }
    let plural = if containers.len() == 1 { "container" } else { "containers" };
    format!("{plural} {}", containers.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
