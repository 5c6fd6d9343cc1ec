//! One signal to one process of a pod, and what became of it.
//!
//! kill(2)'s return proves nothing: a signal may be ignored, blocked, or dropped because its process is the first of its namespace and
//! has no handler for it. What would be lost like that is refused; what was sent is proven by the process's state: stopped, gone, or no
//! longer waiting for delivery.

use std::{collections::BTreeMap, time::Duration};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    inside,
    processes::{Ident, NodePod, Proc, Process, State},
    volume::Step,
};

/// How long a process may take to be in the state that a signal brings about.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// A signal to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignalTo {
    /// The pod.
    pub pod: NodePod,
    /// The command's name, or a part of its command line.
    pub process: String,
    /// Which process that is, once it is known.
    pub ident: Option<Ident>,
    /// `SIGTERM` and the like.
    pub signal: String,
    /// Tells this signal from another one of the same kind to the same process.
    pub id: String,
}

/// What a helper answers about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignalSeen {
    /// The process.
    pub ident: Option<Ident>,
    /// For a check: the act is proven.
    pub effective: bool,
    /// For a check: how it was undone by others, if it was.
    pub broken: Option<String>,
    /// For a revert: it was stopped, and goes on.
    pub woken: bool,
    /// The process is stopped.
    pub stopped: bool,
    /// For people.
    pub detail: String,
}

/// The answer about signals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignalsReport {
    /// One each, in the order asked.
    pub signals: Vec<SignalSeen>,
}

/// A signal by its name.
///
/// # Errors
/// There is none of that name.
pub fn by_name(name: &str) -> Result<Signal, String> {
    Ok(match name {
        "SIGHUP" => Signal::HUP,
        "SIGINT" => Signal::INT,
        "SIGQUIT" => Signal::QUIT,
        "SIGILL" => Signal::ILL,
        "SIGABRT" => Signal::ABORT,
        "SIGBUS" => Signal::BUS,
        "SIGFPE" => Signal::FPE,
        "SIGKILL" => Signal::KILL,
        "SIGUSR1" => Signal::USR1,
        "SIGSEGV" => Signal::SEGV,
        "SIGUSR2" => Signal::USR2,
        "SIGPIPE" => Signal::PIPE,
        "SIGALRM" => Signal::ALARM,
        "SIGTERM" => Signal::TERM,
        "SIGCONT" => Signal::CONT,
        "SIGSTOP" => Signal::STOP,
        "SIGTSTP" => Signal::TSTP,
        other => return Err(format!("`{other}` is no signal: write for example `SIGTERM`")),
    })
}

/// Whether it stops a process until SIGCONT: the only ones that have something to undo.
pub fn stops(signal: &str) -> bool {
    matches!(signal, "SIGSTOP" | "SIGTSTP")
}

#[derive(Debug)]
struct Act {
    to: SignalTo,
    ident: Ident,
}

/// The signals that a helper has sent.
#[derive(Debug, Default)]
pub(super) struct Signals(BTreeMap<(String, Ident, String), Act>);

fn key(to: &SignalTo, ident: Ident) -> (String, Ident, String) {
    (to.pod.uid.clone(), ident, format!("{} {}", to.signal, to.id))
}

impl Signals {
    pub(super) async fn answer(&mut self, proc: &Proc, step: Step, all: Vec<SignalTo>) -> Result<Vec<SignalSeen>, String> {
        let mut chosen = Vec::new();
        for to in all {
            let ident = match (to.ident, step) {
                (Some(ident), _) => ident,
                (None, Step::Look) => choose(proc, &to)?.ident,
                (None, _) => return Err("which process is not said: look first".to_owned()),
            };
            // All must be as they should before any is touched.
            if step == Step::Inject && !self.0.contains_key(&key(&to, ident)) {
                ready(proc, &to, ident)?;
            }
            chosen.push((to, ident));
        }
        let mut seen = Vec::new();
        for (to, ident) in chosen {
            seen.push(match step {
                Step::Look => {
                    let found = proc.of_pod(&to.pod, [ident.pid]).into_iter().find(|p| p.ident == ident);
                    let found = found.ok_or_else(|| format!("process {} of {} is gone", ident.pid, to.pod.name))?;
                    let stopped = found.state == State::Stopped;
                    let detail = format!("process {} ({}) of {}", ident.pid, found.comm, to.pod.name);
                    SignalSeen { ident: Some(ident), stopped, detail, ..SignalSeen::default() }
                }
                Step::Inject => {
                    self.send(proc, &to, ident).await?;
                    self.check(proc, &to, ident)
                }
                Step::Check => self.check(proc, &to, ident),
                Step::Revert => {
                    let woken = if stops(&to.signal) { wake(proc, ident, &to.pod.name).await? } else { false };
                    self.0.remove(&key(&to, ident));
                    let went_on = if woken { "goes on" } else { "was not stopped" };
                    let detail = format!("process {} of {} {went_on}", ident.pid, to.pod.name);
                    SignalSeen { ident: Some(ident), woken, detail, ..SignalSeen::default() }
                }
            });
        }
        Ok(seen)
    }

    async fn send(&mut self, proc: &Proc, to: &SignalTo, ident: Ident) -> Result<(), String> {
        let signal = by_name(&to.signal)?;
        let known = self.0.contains_key(&key(to, ident));
        // Sent twice it would be two signals; only what keeps a state is sent again where that was lost.
        if known && !(stops(&to.signal) && proc.state(ident) == State::Running) {
            return Ok(());
        }
        self.0.insert(key(to, ident), Act { to: to.clone(), ident });
        if !proc.signal(ident, signal)? {
            self.0.remove(&key(to, ident));
            return Err(format!("process {} of {} is gone: nothing was done", ident.pid, to.pod.name));
        }
        let deadline = Instant::now() + SETTLE_LIMIT;
        while !arrived(proc, to, ident) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn check(&self, proc: &Proc, to: &SignalTo, ident: Ident) -> SignalSeen {
        let state = proc.state(ident);
        let known = self.0.contains_key(&key(to, ident));
        // Whether a helper that came later knows it from the state alone.
        let telling = stops(&to.signal) || to.signal == "SIGKILL";
        let effective = (known || telling) && arrived(proc, to, ident);
        let is = match state {
            State::Running => "runs",
            State::Stopped => "is stopped",
            State::Dead => "is gone",
        };
        let name = format!("process {} of {}", ident.pid, to.pod.name);
        let detail = match (known, effective) {
            (true, true) => format!("{name} got {} and {is}", to.signal),
            (true, false) => format!("{} to {name} is not delivered: it {is}", to.signal),
            (false, _) => format!("{name} {is}"),
        };
        let broken = (stops(&to.signal) && state != State::Stopped).then(|| format!("{name} is no longer stopped: it {is}"));
        SignalSeen { ident: Some(ident), effective, broken, stopped: state == State::Stopped, detail, woken: false }
    }

    /// Wakes all that were stopped.
    pub(super) async fn undo_all(&mut self, proc: &Proc, said: &mut Vec<String>, failed: &mut Vec<String>) {
        for act in std::mem::take(&mut self.0).into_values().filter(|act| stops(&act.to.signal)) {
            match wake(proc, act.ident, &act.to.pod.name).await {
                Ok(false) => {}
                Ok(true) => said.push(format!("let process {} of {} go on", act.ident.pid, act.to.pod.name)),
                Err(why) => failed.push(why),
            }
        }
    }
}

/// Whether a signal has done what can be seen of it.
fn arrived(proc: &Proc, to: &SignalTo, ident: Ident) -> bool {
    let state = proc.state(ident);
    match to.signal.as_str() {
        "SIGKILL" => state == State::Dead,
        "SIGCONT" => state != State::Stopped,
        name if stops(name) => state == State::Stopped,
        name => {
            state == State::Dead
                || by_name(name).is_ok_and(|signal| proc.masks(ident).is_none_or(|masks| !masks.pending(signal)) && state == State::Running)
        }
    }
}

/// Refuses what could not arrive.
fn ready(proc: &Proc, to: &SignalTo, ident: Ident) -> Result<(), String> {
    let signal = by_name(&to.signal)?;
    let name = format!("process {} of {}", ident.pid, to.pod.name);
    let found = proc.of_pod(&to.pod, [ident.pid]).into_iter().find(|p| p.ident == ident);
    let found = found.ok_or_else(|| format!("{name} is gone, or is in none of the chosen containers: nothing was done"))?;
    if stops(&to.signal) && found.state == State::Stopped {
        return Err(format!("{name} is stopped already: stopping it would change nothing"));
    }
    if proc.inside() && found.init && matches!(to.signal.as_str(), "SIGKILL" | "SIGSTOP") {
        return Err(inside::dropped(&name, &to.signal));
    }
    let Some(masks) = proc.masks(ident) else { return Ok(()) };
    let forced = matches!(to.signal.as_str(), "SIGKILL" | "SIGSTOP" | "SIGCONT");
    if !forced && masks.ignores(signal) {
        return Err(format!("{name} ignores {}: nothing would happen", to.signal));
    }
    if !forced && masks.blocks(signal) {
        return Err(format!("{name} has {} blocked: it would wait, and come whenever the process likes", to.signal));
    }
    if !forced && found.init && !masks.catches(signal) {
        return Err(match proc.inside() {
            true => inside::dropped(&name, &to.signal),
            false => format!(
                "{name} is the first of its container and has no handler for {}: the kernel would drop it. Choose another process or SIGKILL",
                to.signal
            ),
        });
    }
    Ok(())
}

/// The one process that is meant: the narrowest reading of the name that fits any counts. What is said of others is their number and
/// their command's name alone: a command line may hold a password.
fn choose(proc: &Proc, to: &SignalTo) -> Result<Process, String> {
    let wanted = to.process.trim();
    if wanted.is_empty() {
        return Err("which process is not said".to_owned());
    }
    let all = proc.of_pod(&to.pod, proc.pids());
    // The kernel keeps 15 bytes of a name.
    let short: String = wanted.chars().take(15).collect();
    let line = |p: &Process| proc.command(p.ident).unwrap_or_default();
    let readings: [&dyn Fn(&Process) -> bool; 4] =
        [&|p| p.comm == wanted || p.comm == short && wanted.len() > 15, &|p| line(p) == wanted, &|p| line(p).starts_with(wanted), &|p| {
            line(p).contains(wanted)
        }];
    let found = readings.iter().map(|fits| all.iter().filter(|p| fits(p)).collect::<Vec<_>>()).find(|found| !found.is_empty());
    let says = |some: &[&Process]| some.iter().take(5).map(|p| format!("{} ({})", p.comm, p.ident.pid)).collect::<Vec<_>>().join(", ");
    match found.as_deref() {
        Some([one]) => Ok((*one).clone()),
        None => {
            let there = says(&all.iter().collect::<Vec<_>>());
            Err(format!("no process of {} is called `{wanted}`; there are: {there}", to.pod.name))
        }
        Some(many) => Err(format!(
            "{} processes of {} fit `{wanted}`, and one is meant: name more of its command line ({})",
            many.len(),
            to.pod.name,
            says(many)
        )),
    }
}

async fn wake(proc: &Proc, ident: Ident, pod: &str) -> Result<bool, String> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut woken = false;
    while proc.state(ident) == State::Stopped {
        proc.signal(ident, Signal::CONT)?;
        woken = true;
        if Instant::now() >= deadline {
            return Err(format!("process {} of {pod} is still stopped after SIGCONT: is something else stopping it?", ident.pid));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(woken)
}
