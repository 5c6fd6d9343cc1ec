//! One container: from the image to its end, and again.

use serde_json::Value;

use super::{
    super::{
        control::look::{SECOND, draw, mix},
        core::text,
        model::{self, Exec, Log, Model, Next, Signal, Turn},
        program::{Hosted, Hosting},
    },
    probe::{Watch, Which},
};

/// The first and the longest pause before a container is started again (`MaxContainerBackOff`).
const BACKOFF_US: (i64, i64) = (10 * SECOND, 300 * SECOND);
/// How long it takes to pull an image that the node does not have.
const PULL_US: (i64, i64) = (800_000, 4_000_000);
/// How long it takes to make and start a container.
const START_US: (i64, i64) = (100_000, 500_000);
/// How often a container that cannot be made is tried again.
const RETRY_US: i64 = 10 * SECOND;

/// The first and the last number of a process: those of a node's own processes are smaller.
pub(super) const FIRST_PID: i32 = 1_000;
const LAST_PID: i32 = 4_194_303;

/// What kind of container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Init,
    /// An init container that stays (`restartPolicy: Always`).
    Sidecar,
    Main,
    Ephemeral,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) started: i64,
    pub(super) ended: i64,
    pub(super) id: String,
}

/// A process.
pub(super) struct Process {
    model: Box<dyn Model>,
    pub(super) id: String,
    /// Its number on the node.
    pub(super) pid: i32,
    pub(super) started: i64,
    next: Option<i64>,
    /// SIGSTOP.
    pub(super) held: bool,
    /// Its node does not move.
    node_frozen: bool,
    /// A SIGTERM that waits for SIGCONT.
    pending_term: bool,
    /// It was asked to end, and is killed then.
    pub(super) kill_at: Option<i64>,
    probes: Vec<Watch>,
}

impl Process {
    /// Holds what moves outside of its turns, or lets it go on.
    fn hold(&self) {
        match self.model.gate() {
            Some(gate) if self.held || self.node_frozen => gate.stop(),
            Some(gate) => gate.go_on(),
            None => {}
        }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("id", &self.id).field("held", &self.held).finish_non_exhaustive()
    }
}

/// What it does now.
#[derive(Debug)]
pub(super) enum Phase {
    /// Not yet, or not again: reason, message, and when to go on.
    Waiting {
        reason: &'static str,
        message: String,
        until: Option<i64>,
        pulled: bool,
    },
    Running(Process),
    Ended(End),
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) phase: Phase,
    pub(super) restarts: u32,
    pub(super) last: Option<End>,
    pub(super) log: Log,
    pub(super) previous: Log,
    /// How long the next pause is, and since when.
    backoff: Option<(i64, i64)>,
    /// How often its image could not be pulled.
    pulls_failed: u32,
    pub(super) ready: bool,
    pub(super) started: bool,
}

/// What a container needs of its surroundings.
pub(super) struct Around<'a> {
    pub(super) seed: u64,
    pub(super) pod: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) uid: &'a str,
    pub(super) grace: i64,
    pub(super) disk_full: bool,
    pub(super) images: &'a mut std::collections::BTreeSet<String>,
    /// The last number that the node gave to a process.
    pub(super) pids: &'a mut i32,
    /// Why it cannot be configured: a Secret that it needs is not there.
    pub(super) unset: Option<String>,
    /// What the namespace says of images.
    pub(super) models: &'a str,
    pub(super) hosting: Option<&'a std::sync::Arc<Hosting>>,
    pub(super) node: &'a str,
    pub(super) address: &'a str,
    pub(super) now: i64,
    /// Events to tell: type, reason, message.
    pub(super) events: &'a mut Vec<(&'static str, &'static str, String)>,
}

impl<'a> Around<'a> {
    fn turn<'t>(&'t self, container: &'t str, log: &'t mut Log) -> Turn<'t> {
        Turn { now_us: self.now, pod: self.pod, container, disk_full: self.disk_full, log }
    }
}

impl Container {
    pub(super) fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            phase: Phase::Waiting {
                reason: if role == Role::Init || role == Role::Sidecar { "PodInitializing" } else { "ContainerCreating" },
                message: String::new(),
                until: None,
                pulled: false,
            },
            restarts: 0,
            last: None,
            log: Log::default(),
            previous: Log::default(),
            backoff: None,
            pulls_failed: 0,
            ready: false,
            started: false,
        }
    }

    pub(super) fn running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    pub(super) fn ended(&self) -> Option<&End> {
        if let Phase::Ended(end) = &self.phase { Some(end) } else { None }
    }

    /// Gets on as far as it can without waiting. When it wants to go on. `restart`: it is started again when it has ended.
    pub(super) fn advance(&mut self, around: &mut Around<'_>, restart: impl Fn(&End) -> bool) -> Option<i64> {
        // Bounded: from waiting to running to ended and back to waiting is the longest way.
        for _ in 0..6 {
            let wait = match &self.phase {
                Phase::Waiting { until, .. } => {
                    if let Some(until) = until.filter(|until| *until > around.now) {
                        return Some(until);
                    }
                    self.wake(around)
                }
                Phase::Running(_) => self.turn(around),
                Phase::Ended(end) => {
                    if !restart(end) {
                        return None;
                    }
                    self.again(around.now);
                    None
                }
            };
            match (&self.phase, wait) {
                (Phase::Running(_), wait) => return wait,
                (Phase::Waiting { until: Some(until), .. }, _) if *until > around.now => return Some(*until),
                _ => {}
            }
        }
        Some(around.now + SECOND)
    }

    /// From one stage of waiting to the next.
    fn wake(&mut self, around: &mut Around<'_>) -> Option<i64> {
        let now = around.now;
        let image = text(around.spec, "/image").to_owned();
        let Phase::Waiting { reason, pulled, .. } = &self.phase else { return None };
        let (reason, pulled) = (*reason, *pulled);
        let quoted = format!("{image:?}");
        if !pulled {
            let run = format!("{}/{}/{}", around.uid, self.name, self.restarts);
            if missing(&image) {
                return self.no_image(around, reason);
            }
            let has = around.images.contains(&image);
            if !has && text(around.spec, "/imagePullPolicy") == "Never" {
                self.wait(
                    "ErrImageNeverPull",
                    format!("Container image {quoted} is not present with pull policy of Never"),
                    now + RETRY_US,
                    false,
                );
                return None;
            }
            let pull = if has { 0 } else { draw(around.seed, &["pull", &image, around.uid], PULL_US.0, PULL_US.1) };
            if has {
                around.events.push(("Normal", "Pulled", format!("Container image {quoted} already present on machine")));
            } else {
                around.events.push(("Normal", "Pulling", format!("Pulling image {quoted}")));
            }
            let start = draw(around.seed, &["start", &run], START_US.0, START_US.1);
            // Its state does not change: it is being created all the while.
            let reason = if reason == "CrashLoopBackOff" { "CrashLoopBackOff" } else { creating(self.role) };
            self.wait(reason, String::new(), now + pull + start, true);
            return None;
        }
        if around.images.insert(image) {
            around.events.push(("Normal", "Pulled", format!("Successfully pulled image {quoted}")));
        }
        self.pulls_failed = 0;
        if let Some(why) = around.unset.take() {
            around.events.push(("Warning", "Failed", format!("Error: {why}")));
            self.wait("CreateContainerConfigError", why, now + RETRY_US, true);
            return None;
        }
        let mut model = match model::make(around.pod, around.spec, around.models, around.hosting) {
            Ok(model) => model,
            Err(why) => {
                self.wait("CreateContainerError", why, now + RETRY_US, true);
                return None;
            }
        };
        self.previous = std::mem::take(&mut self.log);
        model.place(around.node, around.address);
        let mut turn = around.turn(&self.name, &mut self.log);
        let next = match model.start(&mut turn) {
            Ok(next) => next,
            Err(why) => {
                self.wait("CreateContainerError", why, now + RETRY_US, true);
                return None;
            }
        };
        around.events.push(("Normal", "Created", format!("Created container: {}", self.name)));
        around.events.push(("Normal", "Started", format!("Started container {}", self.name)));
        let id = identity(around.seed, around.uid, &self.name, self.restarts);
        let probes = Watch::all(around.spec, now);
        self.started = !probes.iter().any(|p| p.which == Which::Startup);
        self.ready = self.started && !probes.iter().any(|p| p.which == Which::Readiness);
        *around.pids = next_pid(*around.pids);
        let pid = *around.pids;
        let process = Process {
            model,
            id,
            pid,
            started: now,
            next: None,
            held: false,
            node_frozen: false,
            pending_term: false,
            kill_at: None,
            probes,
        };
        self.phase = Phase::Running(process);
        self.follow(next, now);
        None
    }

    fn wait(&mut self, reason: &'static str, message: String, until: i64, pulled: bool) {
        self.phase = Phase::Waiting { reason, message, until: Some(until), pulled };
    }

    /// An image that nobody has: `ErrImagePull` and `ImagePullBackOff` by turns, with longer and longer pauses.
    fn no_image(&mut self, around: &mut Around<'_>, reason: &'static str) -> Option<i64> {
        let image = text(around.spec, "/image");
        let quoted = format!("{image:?}");
        let now = around.now;
        let try_us = draw(around.seed, &["pull", image], 200_000, 900_000);
        match reason {
            // The attempt has failed; a moment later it is called a pause.
            "ErrImagePull" => {
                let wait = (BACKOFF_US.0 << (self.pulls_failed.max(1) - 1).min(10)).min(BACKOFF_US.1);
                around.events.push(("Normal", "BackOff", format!("Back-off pulling image {quoted}")));
                let message = format!("Back-off pulling image {quoted}: ErrImagePull: {image}: not found");
                self.wait("ImagePullBackOff", message, now + wait, false);
            }
            "Pulling" => {
                self.pulls_failed = self.pulls_failed.saturating_add(1);
                let why = format!("failed to pull and unpack image {quoted}: failed to resolve image: {image}: not found");
                around.events.push(("Warning", "Failed", format!("Failed to pull image {quoted}: {why}")));
                self.wait("ErrImagePull", why, now + 2 * SECOND, false);
            }
            _ => {
                around.events.push(("Normal", "Pulling", format!("Pulling image {quoted}")));
                self.wait("Pulling", String::new(), now + try_us, false);
            }
        }
        None
    }

    /// What a running process's time brings: its own turns, probes, and the end of its grace. When the next comes.
    fn turn(&mut self, around: &mut Around<'_>) -> Option<i64> {
        let now = around.now;
        let Phase::Running(process) = &mut self.phase else { return None };
        if process.kill_at.is_some_and(|at| at <= now) {
            self.end(137, now);
            return None;
        }
        process.model.drain(&mut self.log);
        if !process.held && (process.next.is_some_and(|at| at <= now) || process.model.due()) {
            process.next = None;
            let mut turn = around.turn(&self.name, &mut self.log);
            let next = process.model.turn(&mut turn);
            self.follow(next, now);
        }
        self.probe(around);
        let Phase::Running(process) = &self.phase else { return None };
        let stopping = process.kill_at.is_some();
        let started = self.started;
        let counts = |p: &&Watch| !(stopping && p.which != Which::Readiness) && (p.which == Which::Startup) != started;
        let probes = process.probes.iter().filter(counts).map(|p| p.due);
        let next = process.next.filter(|_| !process.held);
        probes.chain(next).chain(process.kill_at).min()
    }

    fn probe(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        let Phase::Running(process) = &mut self.phase else { return };
        let stopping = process.kill_at.is_some();
        let mut kill = false;
        for n in 0..process.probes.len() {
            let watch = &mut process.probes[n];
            // Until it has started only that is asked; afterwards never again.
            let counts = (watch.which == Which::Startup) != self.started && !(stopping && watch.which != Which::Readiness);
            if !counts || watch.due > now || !watch.answers(process.held) {
                continue;
            }
            let mut turn = around.turn(&self.name, &mut self.log);
            let answer =
                if process.held { Err("context deadline exceeded".to_owned()) } else { process.model.probe(&mut turn, &watch.probe) };
            let changed = watch.result(answer.is_ok(), now);
            let which = watch.which;
            if let Err(why) = &answer {
                around.events.push(("Warning", "Unhealthy", format!("{} probe failed: {why}", which.title())));
            }
            let good = watch.good;
            if !changed {
                continue;
            }
            match (which, good) {
                (Which::Startup, Some(true)) => {
                    self.started = true;
                    self.ready = !process.probes.iter().any(|p| p.which == Which::Readiness);
                    // The others begin now.
                    for other in process.probes.iter_mut().filter(|p| p.which != Which::Startup) {
                        other.due = other.due.max(now);
                    }
                }
                (Which::Readiness, Some(good)) => self.ready = good,
                (Which::Startup | Which::Liveness, Some(false)) => {
                    around.events.push((
                        "Normal",
                        "Killing",
                        format!("Container {} failed {} probe, will be restarted", self.name, which.title().to_lowercase()),
                    ));
                    kill = true;
                }
                _ => {}
            }
        }
        if kill {
            self.stop(around, around.grace);
        }
    }

    /// Asks it to end, and kills it when its grace is over. A second call can only shorten that.
    pub(super) fn stop(&mut self, around: &mut Around<'_>, grace_us: i64) {
        let now = around.now;
        let Phase::Running(process) = &mut self.phase else { return };
        let at = now + grace_us.max(0);
        if let Some(kill_at) = process.kill_at {
            process.kill_at = Some(kill_at.min(at));
            return;
        }
        process.kill_at = Some(at);
        if let Some(command) = around.spec.pointer("/lifecycle/preStop/exec/command").and_then(Value::as_array)
            && !process.held
        {
            let command: Vec<String> = command.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let mut turn = around.turn(&self.name, &mut self.log);
            if let Exec::NotRehearsable(why) = process.model.exec(&mut turn, &command) {
                around.events.push(("Warning", "FailedPreStopHook", format!("PreStopHook failed: {why}")));
            }
        }
        self.term(around.pod, around.disk_full, now);
    }

    fn term(&mut self, pod: &Value, disk_full: bool, now: i64) {
        let Phase::Running(process) = &mut self.phase else { return };
        if process.held {
            process.pending_term = true;
            return;
        }
        let mut turn = Turn { now_us: now, pod, container: &self.name, disk_full, log: &mut self.log };
        let next = process.model.stop(&mut turn);
        self.follow(next, now);
    }

    /// A signal from somebody on the node. False: it does not run.
    pub(super) fn signal(&mut self, pod: &Value, disk_full: bool, signal: Signal, now: i64) -> bool {
        let Phase::Running(process) = &mut self.phase else { return false };
        match signal {
            Signal::Kill => self.end(137, now),
            Signal::Stop => {
                process.held = true;
                process.hold();
            }
            Signal::Term => self.term(pod, disk_full, now),
            Signal::Continue => {
                process.held = false;
                process.hold();
                // Times that have passed meanwhile are due now.
                process.next = process.next.map(|at| at.max(now));
                if std::mem::take(&mut process.pending_term) {
                    self.term(pod, disk_full, now);
                }
            }
        }
        true
    }

    /// Its node freezes or goes on.
    pub(super) fn freeze_node(&mut self, frozen: bool) {
        if let Phase::Running(process) = &mut self.phase {
            process.node_frozen = frozen;
            process.hold();
        }
    }

    /// The program that it runs, if it is one.
    pub(super) fn hosted(&self) -> Option<&Hosted> {
        if let Phase::Running(process) = &self.phase { process.model.hosted() } else { None }
    }

    /// Its log, with what it has written until now.
    pub(super) fn fetch_log(&mut self) {
        if let Phase::Running(process) = &mut self.phase {
            process.model.drain(&mut self.log);
        }
    }

    /// A command in it.
    pub(super) fn exec(&mut self, pod: &Value, disk_full: bool, command: &[String], now: i64) -> Option<Exec> {
        let Phase::Running(process) = &mut self.phase else { return None };
        let mut turn = Turn { now_us: now, pod, container: &self.name, disk_full, log: &mut self.log };
        Some(process.model.exec(&mut turn, command))
    }

    fn follow(&mut self, next: Next, now: i64) {
        match next {
            Next::Ended(code) => self.end(code, now),
            Next::Runs(at) => {
                if let Phase::Running(process) = &mut self.phase {
                    process.next = at;
                }
            }
        }
    }

    fn end(&mut self, code: i32, now: i64) {
        let Phase::Running(process) = &mut self.phase else { return };
        process.model.drain(&mut self.log);
        let reason = if code == 0 { "Completed" } else { "Error" };
        let end = End { code, reason, started: process.started, ended: now, id: process.id.clone() };
        (self.ready, self.started) = (false, false);
        self.phase = Phase::Ended(end);
    }

    /// It is to be started again: at once the first time, then after a pause that doubles; a run of ten minutes forgives
    /// (`kuberuntime.doBackOff`).
    fn again(&mut self, now: i64) {
        let Phase::Ended(end) = &self.phase else { return };
        let end = end.clone();
        let forgotten = self.backoff.is_some_and(|(_, last)| end.ended - last > 2 * BACKOFF_US.1);
        if forgotten {
            self.backoff = None;
        }
        let ready_at = self.backoff.map_or(end.ended, |(wait, _)| end.ended + wait);
        let next = self.backoff.map_or(BACKOFF_US.0, |(wait, _)| (wait * 2).min(BACKOFF_US.1));
        let pause = self.backoff.map_or(0, |(wait, _)| wait);
        self.backoff = Some((next, end.ended));
        self.last = Some(end);
        self.restarts = self.restarts.saturating_add(1);
        if ready_at > now {
            let message = format!("back-off {}s restarting failed container={}", pause / SECOND, self.name);
            self.wait("CrashLoopBackOff", message, ready_at, false);
        } else {
            self.phase = Phase::Waiting { reason: creating(self.role), message: String::new(), until: None, pulled: false };
        }
    }
}

fn creating(role: Role) -> &'static str {
    if matches!(role, Role::Init | Role::Sidecar) { "PodInitializing" } else { "ContainerCreating" }
}

/// An image that cannot be pulled: its registry's name is of the top-level domain that never exists (RFC 2606), or its tag
/// says so.
fn missing(image: &str) -> bool {
    let host = image.split('/').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    // Nothing has a digest of zeros.
    let nothing = image.rsplit_once("@sha256:").is_some_and(|(_, digest)| digest.bytes().all(|b| b == b'0'));
    nothing || image.contains('/') && (host == "invalid" || host.ends_with(".invalid")) || image.ends_with(":no-such-tag")
}

/// Numbers of processes, as the kernel gives them: upwards, and from the beginning once they are used up. One that was used so long ago
/// belongs to nobody any more.
fn next_pid(last: i32) -> i32 {
    if last >= LAST_PID { FIRST_PID } else { last + 1 }
}

/// A container's id, as containerd writes them.
fn identity(seed: u64, uid: &str, name: &str, restarts: u32) -> String {
    let seed = seed.to_string();
    let run = restarts.to_string();
    let part = |n: &str| format!("{:016x}", mix(&[&seed, uid, name, &run, n]));
    format!("containerd://{}{}{}{}", part("1"), part("2"), part("3"), part("4"))
}
