//! The guard: a process beside the helper that lets stopped processes go on when the helper dies or hangs.
//!
//! The helper tells it, over its standard input, of every process before that is stopped, and that it is alive. When its input ends, or
//! nothing has come for a while, it lets all of them go on; in the second case it ends the helper first, and with it the cut of the network.

use std::{collections::BTreeSet, io::Write as _, path::PathBuf, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, getppid, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::Instant,
};

use crate::agent::processes::{Ident, Proc, State};

/// Without a word for so long the helper counts as hung.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// How long a word to the guard may take.
const TELL_LIMIT: Duration = Duration::from_secs(1);
/// How long it may take to let all go on.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// What guards.
#[derive(Debug, Clone)]
pub enum GuardBy {
    /// `firedrill agent guard`, by this program.
    Process(PathBuf),
    /// Nothing: a sandbox's processes end with their node.
    Nobody,
}

/// A guard as its helper has it.
#[derive(Debug)]
pub(super) struct Guard(Option<(Child, ChildStdin)>);

impl Guard {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub(super) async fn start(by: &GuardBy) -> Result<Self, String> {
        let GuardBy::Process(program) = by else { return Ok(Self(None)) };
        let failed = |e: std::io::Error| format!("failed to start the guard of stopped processes, {}: {e}", program.display());
        let mut command = Command::new(program);
        command.args(["agent", "guard"]).stdin(Stdio::piped()).stdout(Stdio::piped()).env_clear();
        let mut child = command.spawn().map_err(failed)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the guard of stopped processes has no pipes".to_owned());
        };
        let mut said = BufReader::new(from).lines();
        match tokio::time::timeout(5 * TELL_LIMIT, said.next_line()).await {
            Ok(Ok(Some(line))) if line == READY => Ok(Self(Some((child, to)))),
            Ok(answer) => Err(format!("the guard of stopped processes does not start: {answer:?}")),
            Err(_) => Err("the guard of stopped processes does not start in time".to_owned()),
        }
    }

    async fn say(&mut self, text: &str) -> Result<(), String> {
        let Some((child, to)) = &mut self.0 else { return Ok(()) };
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the guard of stopped processes has ended ({status})"));
        }
        let told = async {
            to.write_all(text.as_bytes()).await?;
            to.flush().await
        };
        match tokio::time::timeout(TELL_LIMIT, told).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(format!("the guard of stopped processes cannot be told: {e}")),
            Err(_) => Err("the guard of stopped processes does not listen".to_owned()),
        }
    }

    /// These are about to be stopped.
    pub(super) async fn tell(&mut self, all: &[Ident]) -> Result<(), String> {
        let lines: String = all.iter().map(|i| format!("stop {} {}\n", i.pid, i.start)).collect();
        if lines.is_empty() { Ok(()) } else { self.say(&lines).await }
    }

    pub(super) async fn alive(&mut self) -> Result<(), String> {
        self.say("alive\n").await
    }

    /// Nothing is stopped any more.
    pub(super) async fn over(&mut self) {
        // One that is gone has nothing to forget.
        if let Err(why) = self.say("over\n").await {
            tracing::warn!("{why}");
        }
    }
}

/// What it says first.
const READY: &str = "ready";

/// What `firedrill agent guard` does: until its input ends. What it let go on, if anything.
///
/// # Errors
/// Something is still stopped.
pub async fn run(proc: &Proc, input: impl AsyncRead + Unpin) -> Result<u32, String> {
    // Memory that runs out in the helper's container must not take both. Only where that is allowed.
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!("oom_score_adj: {e}");
    }
    let helper = getppid();
    // Nobody waits for it any more if it cannot be said.
    let _ = writeln!(std::io::stdout(), "{READY}");
    let mut lines = BufReader::new(input).lines();
    let mut all: BTreeSet<Ident> = BTreeSet::new();
    loop {
        match tokio::time::timeout(SILENCE_LIMIT, lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                let words: Vec<&str> = line.split(' ').collect();
                match words.as_slice() {
                    ["stop", pid, start] => {
                        if let (Ok(pid), Ok(start)) = (pid.parse(), start.parse()) {
                            all.insert(Ident { pid, start });
                        }
                    }
                    ["over"] => all.clear(),
                    _ => {}
                }
            }
            Ok(Ok(None) | Err(_)) => break,
            // An armed helper that hangs holds nothing.
            Err(_) if all.is_empty() => {}
            Err(_) => {
                end(helper);
                break;
            }
        }
    }
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut woken = BTreeSet::new();
    loop {
        let stopped: Vec<Ident> = all.iter().copied().filter(|i| proc.state(*i) == State::Stopped).collect();
        if stopped.is_empty() {
            return Ok(u32::try_from(woken.len()).unwrap_or(u32::MAX));
        }
        if Instant::now() >= deadline {
            return Err(format!("{} processes are still stopped", stopped.len()));
        }
        for ident in stopped {
            match proc.signal(ident, Signal::CONT) {
                Ok(_) => drop(woken.insert(ident)),
                Err(why) => drop(writeln!(std::io::stderr(), "firedrill agent guard: {why}")),
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ends the helper that hangs, if it is still there: the kernel takes away the cut with it.
fn end(helper: Option<Pid>) {
    if let Some(pid) = helper.filter(|pid| getppid() == Some(*pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
