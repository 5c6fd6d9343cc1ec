//! Losing a node: its kubelet, its container runtime and all its pods' processes are stopped, and its network is cut but for the way to
//! the API server.
//!
//! A runner reaches a helper through the kubelet, so that a lost node's helper is on its own. It holds the loss only as long as it sees, over
//! the way that is kept ([`way`]), that the runner renews a Lease of this loss; it gives the node back when that Lease says so, and when
//! nobody has renewed it for the time to live, for which it needs neither network nor API server.
//!
//! If the helper itself dies, the kernel takes the cut away with its socket, and its guard ([`guard`]), a process beside it that was told
//! of every process before that was stopped, lets them go on. If the helper hangs, the guard ends it first.
//!
//! It is done in two parts. All pods' processes are stopped before the runner is answered; the runtime, the kubelet and the network follow
//! `ANSWER_TIME` later, because the answer goes through them.

pub mod guard;
mod kernel;
pub mod way;

pub use kernel::{api_server, this_program};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use kube::Client;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use self::{
    guard::{Guard, GuardBy},
    way::{Asked, Way},
};
use super::{
    partition::Cutting,
    processes::{Ident, Proc, State},
    volume::Step,
};
use crate::clock::{Clock, Stamp};

/// How long the answer to an inject may take through the kubelet before that is stopped.
const ANSWER_TIME: Duration = Duration::from_millis(100);
/// How often a lost node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long stopping or continuing processes may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// A node that is to be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossAt {
    /// The node.
    pub node: String,
    /// What the rules are called; it tells one loss from another.
    pub name: String,
    /// firedrill's own namespace.
    pub namespace: String,
    /// The Lease that keeps it lost.
    pub lease: String,
    /// How long it stays lost without a renewal, in milliseconds.
    pub ttl_ms: u64,
    /// More addresses of the API server, beside the one that pods are told.
    pub keep: Vec<SocketAddr>,
}

/// How far a loss is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LossState {
    /// This helper knows of none.
    #[default]
    Unknown,
    /// All is ready, and nothing is changed.
    Armed,
    /// The pods are stopped, and the rest follows.
    Losing,
    /// The node is lost.
    Lost,
    /// It is given back, or never was lost and will not be.
    Back,
}

/// What a helper says of a loss: to the runner, and on the Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LossSeen {
    /// Which loss.
    pub name: String,
    /// How far it is.
    pub state: LossState,
    /// Processes of pods that are stopped.
    pub workloads: u32,
    /// Processes of the runtime that are stopped.
    pub runtime: u32,
    /// Processes of the kubelet that are stopped.
    pub kubelet: u32,
    /// Of all these, how many run.
    pub running: u32,
    /// Whether the network is cut.
    pub cut: bool,
    /// From the inject to the last workload's stop, in microseconds.
    pub workloads_us: u64,
    /// From the inject to the whole loss, in microseconds.
    pub lost_us: u64,
    /// When it was lost, by the helper's clock.
    pub at: Option<Stamp>,
    /// How others have undone a part of it meanwhile, if they did.
    pub broken: Option<String>,
    /// For a revert: how many processes were let go on by it.
    pub lifted: u32,
    /// For people.
    pub detail: String,
}

/// What a process is to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Of a pod.
    Workload,
    /// Of the container runtime.
    Runtime,
    /// The kubelet.
    Kubelet,
}

/// A process that a lost node has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProcess {
    /// Which.
    pub ident: Ident,
    /// What it is.
    pub part: Part,
    /// Its command's name.
    pub comm: String,
    /// Whether it can run.
    pub state: State,
}

/// What a helper must have to lose its node.
#[derive(Clone)]
pub struct Means {
    /// The API server, as the helper's own account.
    pub client: Arc<dyn Fn() -> Result<Client, String> + Send + Sync>,
    /// The API server's address as this pod is told it; none where the network is not the kernel's.
    pub server: Option<SocketAddr>,
    /// What guards the stopped processes.
    pub guard: GuardBy,
    /// Where it says until when it lives by its Lease.
    pub kept: watch::Sender<Option<Instant>>,
    /// Its clock.
    pub clock: Clock,
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// A loss that is armed, in force, or over.
#[derive(Debug)]
struct Held {
    at: LossAt,
    state: LossState,
    /// All that was stopped.
    stopped: BTreeMap<Ident, Part>,
    cut: Option<Box<dyn Cutting>>,
    guard: Guard,
    way: Way,
    began: Instant,
    seen: LossSeen,
}

/// The loss of a helper's node: one at a time.
#[derive(Debug, Default)]
pub(super) struct Losses {
    means: Option<Means>,
    held: Option<Held>,
    next: Option<Instant>,
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Losses {
    pub(super) fn with(means: Means) -> Self {
        Self { means: Some(means), ..Self::default() }
    }

    /// When [`Self::turn`] is due; never, if there is nothing to do.
    pub(super) async fn due(&self) {
        match self.next {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn answer(&mut self, proc: &Proc, own: &str, step: Step, at: LossAt) -> Result<LossSeen, String> {
        match step {
            Step::Look => self.arm(proc, own, at).await,
            Step::Inject => self.inject(proc, own, &at).await,
            Step::Check => Ok(self.report(proc, own, &at)),
            Step::Revert => self.revert(proc, own, &at).await,
        }
    }

    /// Makes ready all that an inject needs, and proves that it would work.
    async fn arm(&mut self, proc: &Proc, own: &str, at: LossAt) -> Result<LossSeen, String> {
        if let Some(held) = &self.held {
            match held.state {
                LossState::Losing | LossState::Lost if held.at.name != at.name => {
                    return Err(format!("node {} is lost already, by {}", at.node, held.at.name));
                }
                LossState::Armed | LossState::Losing | LossState::Lost if held.at.name == at.name => return Ok(self.report(proc, own, &at)),
                _ => {}
            }
        }
        let means = self.means.as_ref().ok_or("this helper cannot lose its node: it was placed without an account of its own")?;
        let found = proc.node_processes(own)?;
        for part in [Part::Kubelet, Part::Runtime] {
            if !found.iter().any(|p| p.part == part) {
                let what = if part == Part::Kubelet { "kubelet" } else { "container runtime" };
                return Err(format!("no {what} was found among the processes of node {}", at.node));
            }
        }
        if proc.node_is_cut(&at.name)? {
            return Err(format!("the network of node {} is cut by another helper: nothing was done", at.node));
        }
        let guard = Guard::start(&means.guard).await?;
        let way = Way::open((means.client)()?, &at, means.kept.clone()).await?;
        let seen = LossSeen { name: at.name.clone(), state: LossState::Armed, ..LossSeen::default() };
        let (stopped, began) = (BTreeMap::new(), Instant::now());
        self.held = Some(Held { at: at.clone(), state: LossState::Armed, stopped, cut: None, guard, way, began, seen });
        self.next = Some(Instant::now() + LOOK_EVERY);
        let seen = self.report(proc, own, &at);
        if let Some(held) = &self.held {
            held.way.say(&seen);
        }
        Ok(seen)
    }

    /// Stops the pods; the rest follows when the runner has the answer.
    async fn inject(&mut self, proc: &Proc, own: &str, at: &LossAt) -> Result<LossSeen, String> {
        let held = self.held.as_mut().filter(|h| h.at.name == at.name).ok_or("this loss is not armed here: nothing was done")?;
        match held.state {
            LossState::Armed => {}
            LossState::Losing | LossState::Lost => return Ok(self.report(proc, own, at)),
            LossState::Unknown | LossState::Back => return Err("this loss is over: nothing was done".to_owned()),
        }
        if held.way.asked() != Asked::Hold {
            return Err("its Lease asks for the node back: nothing was done".to_owned());
        }
        held.began = Instant::now();
        held.state = LossState::Losing;
        if let Err(why) = held.stop(proc, own, |part| part == Part::Workload).await {
            let undone = self.give_back(proc, own, &why).await;
            return Err(undone.err().map_or(why.clone(), |also| format!("{why}; {also}")));
        }
        held.seen.workloads_us = micros(held.began);
        self.next = Some(Instant::now() + ANSWER_TIME);
        Ok(self.report(proc, own, at))
    }

    /// What is to be done from time to time.
    pub(super) async fn turn(&mut self, proc: &Proc, own: &str) {
        self.next = Some(Instant::now() + LOOK_EVERY);
        let Some(held) = self.held.as_mut() else {
            self.next = None;
            return;
        };
        let guarded = held.guard.alive().await;
        match held.state {
            LossState::Unknown | LossState::Back => {
                self.next = None;
                return;
            }
            LossState::Armed => {
                if held.way.asked() == Asked::Back {
                    // Whoever asks for it back may not find it lost a moment later.
                    held.state = LossState::Back;
                    held.seen.detail = "it was not lost".to_owned();
                }
            }
            LossState::Losing | LossState::Lost => {
                let why = match (&guarded, held.way.asked()) {
                    (Err(why), _) => Some(why.clone()),
                    (_, Asked::Back) => Some("its Lease asks for it".to_owned()),
                    (Ok(()), Asked::Hold) => held.go_on(proc, own, self.means.as_ref()).await.err(),
                };
                if let Some(why) = why
                    && let Err(failed) = self.give_back(proc, own, &why).await
                {
                    tracing::error!("the node is not wholly given back, and it is tried again: {failed}");
                }
            }
        }
        if let Some(held) = &self.held {
            let seen = held.look(proc, own);
            held.way.say(&seen);
        }
    }

    fn report(&self, proc: &Proc, own: &str, at: &LossAt) -> LossSeen {
        match self.held.as_ref().filter(|h| h.at.name == at.name) {
            Some(held) => held.look(proc, own),
            // A helper that came after the one that lost the node.
            None => {
                let mut seen = LossSeen { name: at.name.clone(), ..LossSeen::default() };
                let found = proc.node_processes(own).unwrap_or_default();
                tally(&mut seen, &found);
                seen.cut = proc.node_is_cut(&at.name).unwrap_or(false);
                seen.detail = describe(&at.node, &seen);
                seen
            }
        }
    }

    async fn revert(&mut self, proc: &Proc, own: &str, at: &LossAt) -> Result<LossSeen, String> {
        match self.held.as_ref().filter(|h| h.at.name == at.name).map(|h| h.state) {
            Some(LossState::Losing | LossState::Lost) => {
                self.give_back(proc, own, "the runner asks for it").await?;
            }
            Some(_) => {
                if let Some(held) = self.held.as_mut() {
                    held.state = LossState::Back;
                }
            }
            None => {
                // Whatever is stopped here was stopped by one that is no more, its guard included.
                let mut stopped = BTreeMap::new();
                for process in proc.node_processes(own)?.into_iter().filter(|p| p.state == State::Stopped) {
                    stopped.insert(process.ident, process.part);
                }
                let lifted = go_on_all(proc, &stopped).await?;
                return Ok(LossSeen { lifted, ..self.report(proc, own, at) });
            }
        }
        Ok(self.report(proc, own, at))
    }

    /// Gives the node back: the network first, then all that was stopped.
    async fn give_back(&mut self, proc: &Proc, own: &str, why: &str) -> Result<(), String> {
        let Some(held) = self.held.as_mut() else { return Ok(()) };
        if let Some(cut) = held.cut.as_mut() {
            cut.lift()?;
            held.cut = None;
        }
        let lifted = go_on_all(proc, &held.stopped).await?;
        held.seen.lifted = held.seen.lifted.saturating_add(lifted);
        held.stopped.clear();
        held.guard.over().await;
        held.state = LossState::Back;
        held.seen.detail = format!("given back: {why}");
        let seen = held.look(proc, own);
        held.way.say(&seen);
        self.next = None;
        Ok(())
    }

    pub(super) async fn undo_all(&mut self, proc: &Proc, own: &str, why: &str, said: &mut Vec<String>, failed: &mut Vec<String>) {
        let lost = self.held.as_ref().is_some_and(|h| matches!(h.state, LossState::Losing | LossState::Lost));
        if !lost {
            return;
        }
        match self.give_back(proc, own, why).await {
            Ok(()) => {
                if let Some(held) = &mut self.held {
                    said.push(format!("gave node {} back, {} processes of it go on", held.at.node, held.seen.lifted));
                    held.way.told().await;
                }
            }
            Err(why) => failed.push(why),
        }
    }
}

impl Held {
    /// Stops all processes of these parts, until two passes in a row find the same, all of them stopped.
    async fn stop(&mut self, proc: &Proc, own: &str, of: impl Fn(Part) -> bool) -> Result<u32, String> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let (mut before, mut hit): (Option<BTreeSet<Ident>>, u32) = (None, 0);
        loop {
            let found: Vec<NodeProcess> = proc.node_processes(own)?.into_iter().filter(|p| of(p.part)).collect();
            // One that somebody else has stopped is not ours to let go on.
            let run: Vec<&NodeProcess> = found.iter().filter(|p| p.state == State::Running).collect();
            let all: BTreeSet<Ident> = found.iter().map(|p| p.ident).collect();
            if run.is_empty() && before.as_ref() == Some(&all) {
                return Ok(hit);
            }
            // The guard first: whatever happens next, it knows.
            let new: Vec<Ident> = run.iter().map(|p| p.ident).filter(|i| !self.stopped.contains_key(i)).collect();
            self.guard.tell(&new).await?;
            for process in &run {
                self.stopped.insert(process.ident, process.part);
                hit += u32::from(proc.signal(process.ident, Signal::STOP)?);
            }
            before = run.is_empty().then_some(all);
            if Instant::now() >= deadline {
                return Err(format!("{} processes still ran {} s after they were stopped", run.len(), SETTLE_LIMIT.as_secs()));
            }
            if !run.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// The second part of the loss; once it is lost, what has come to run again is stopped again, and noted.
    async fn go_on(&mut self, proc: &Proc, own: &str, means: Option<&Means>) -> Result<(), String> {
        if self.state == LossState::Losing {
            let keep: Vec<SocketAddr> = means.and_then(|m| m.server).into_iter().chain(self.at.keep.iter().copied()).collect();
            self.stop(proc, own, |_| true).await?;
            self.cut = Some(proc.cut_node(&self.at.name, &keep)?);
            self.state = LossState::Lost;
            self.seen.lost_us = micros(self.began);
            self.seen.at = means.map(|m| m.clock.now());
            return Ok(());
        }
        let found = proc.node_processes(own)?;
        let run: Vec<&NodeProcess> = found.iter().filter(|p| p.state == State::Running).collect();
        if !run.is_empty() {
            // A workload that the runtime was just making when it was stopped may come late; a service manager's new kubelet is a repair.
            let repaired: BTreeSet<&str> = run.iter().filter(|p| p.part != Part::Workload).map(|p| p.comm.as_str()).collect();
            if !repaired.is_empty() {
                let names = repaired.into_iter().collect::<Vec<_>>().join(", ");
                self.seen.broken = Some(format!("{names} of node {} ran again: does a service manager start it?", self.at.node));
            }
            self.stop(proc, own, |_| true).await?;
        }
        if let Some(why) = self.cut.as_ref().and_then(|cut| cut.look().err()) {
            self.seen.broken = Some(format!("the network of node {}: {why}", self.at.node));
        }
        Ok(())
    }

    fn look(&self, proc: &Proc, own: &str) -> LossSeen {
        let mut seen = LossSeen { name: self.at.name.clone(), state: self.state, cut: self.cut.is_some(), ..self.seen.clone() };
        match proc.node_processes(own) {
            Ok(found) => tally(&mut seen, &found),
            Err(why) => seen.broken = Some(why),
        }
        let own = if seen.detail.is_empty() { String::new() } else { format!("; {}", seen.detail) };
        seen.detail = describe(&self.at.node, &seen) + &own;
        seen
    }
}

fn tally(seen: &mut LossSeen, found: &[NodeProcess]) {
    let stopped = |part| count(found.iter().filter(|p| p.part == part && p.state == State::Stopped).count());
    (seen.workloads, seen.runtime, seen.kubelet) = (stopped(Part::Workload), stopped(Part::Runtime), stopped(Part::Kubelet));
    seen.running = count(found.iter().filter(|p| p.state == State::Running).count());
}

fn describe(node: &str, seen: &LossSeen) -> String {
    let LossSeen { workloads, runtime, kubelet, running, .. } = seen;
    let network = if seen.cut { "its network cut but for the API server" } else { "its network is not cut" };
    format!(
        "node {node}: stopped by signals: {workloads} processes of pods, {runtime} of the runtime, {kubelet} of the kubelet; {running} run; {network}"
    )
}

/// Lets processes go on until none of them is stopped. How many were.
async fn go_on_all(proc: &Proc, all: &BTreeMap<Ident, Part>) -> Result<u32, String> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut woken = BTreeSet::new();
    loop {
        let mut stopped: Vec<(Part, Ident)> =
            all.iter().filter(|(i, _)| proc.state(**i) == State::Stopped).map(|(i, p)| (*p, *i)).collect();
        if stopped.is_empty() {
            return Ok(count(woken.len()));
        }
        // The pods first: a kubelet that wakes before them could find them dead.
        stopped.sort();
        for (_, ident) in stopped {
            proc.signal(ident, Signal::CONT)?;
            woken.insert(ident);
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "processes are still stopped {} s after SIGCONT: is something else stopping them?",
                SETTLE_LIMIT.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
