//! What a shell knows, and how it reads, writes and gives up.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Commands,
    files::{self, Files},
    io::{Fd, Input, MOST},
    process::{Process, Space},
    syntax::Stage,
};
use crate::clock::Clock;

/// How many commands may run while no time passes: more is a loop that never sleeps.
const STEPS_AT_ONCE: u64 = 200_000;
/// How many commands may run at all.
const STEPS: u64 = 20_000_000;

/// Why a shell does not simply go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// Out of so many loops.
    Break(u32),
    Continue(u32),
    Return(i32),
    /// The shell ends.
    Exit(i32),
    /// Something cannot be rehearsed, or is too much: all ends, and nothing can take it for success.
    Refused(String),
}

pub(super) type Going<T> = Result<T, Stop>;

/// What all shells of one exec have in common.
pub(super) struct Host<'a> {
    pub(super) commands: &'a dyn Commands,
    pub(super) space: Arc<Space>,
    pub(super) clock: &'a Clock,
    pub(super) full: &'a (dyn Fn() -> bool + Sync),
    /// What runs in the background.
    pub(super) jobs: mpsc::Sender<BoxFuture<'a, ()>>,
    /// Why a command in the background could not be rehearsed.
    pub(super) refused: Arc<OnceLock<String>>,
}

impl Clone for Host<'_> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands,
            space: Arc::clone(&self.space),
            clock: self.clock,
            full: self.full,
            jobs: self.jobs.clone(),
            refused: Arc::clone(&self.refused),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// `-e`
    pub(super) exit: bool,
    /// `-u`
    pub(super) no_unset: bool,
    /// `-x`
    pub(super) trace: bool,
    /// `-f`
    pub(super) no_glob: bool,
    pub(super) pipe_fail: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub(super) value: String,
    pub(super) exported: bool,
}

/// A shell, or a copy of one for what runs in a process of its own.
#[derive(Clone)]
pub(super) struct Shell<'a> {
    pub(super) host: Host<'a>,
    pub(super) process: Arc<Process>,
    pub(super) variables: BTreeMap<String, Variable>,
    pub(super) functions: BTreeMap<String, Arc<Stage>>,
    /// `$0`
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) options: Options,
    pub(super) bash: bool,
    pub(super) status: i32,
    /// How the last command substitution of this command ended.
    pub(super) substituted: Option<i32>,
    /// `$!`
    pub(super) background: Option<i32>,
    pub(super) jobs: BTreeMap<i32, watch::Receiver<Option<i32>>>,
    pub(super) fds: BTreeMap<u32, Fd>,
    pub(super) folder: String,
    /// `trap … EXIT`
    pub(super) at_exit: Option<String>,
    /// Of functions that run: what `local` has hidden.
    pub(super) locals: Vec<BTreeMap<String, Option<Variable>>>,
    pub(super) loops: u32,
    /// Where a failure ends nothing: conditions, and all but the last of `&&` and `||`.
    pub(super) unchecked: u32,
    pub(super) depth: u32,
    pub(super) steps: u64,
    pub(super) steps_at: (Option<Instant>, u64),
    /// A copy: traps are of the shell that it was copied from.
    pub(super) copy: bool,
}

impl<'a> Shell<'a> {
    pub(super) fn new(host: Host<'a>, process: Arc<Process>, environment: &BTreeMap<String, String>, fds: BTreeMap<u32, Fd>) -> Self {
        let variable = |(name, value): (&String, &String)| (name.clone(), Variable { value: value.clone(), exported: true });
        Self {
            host,
            process,
            variables: environment.iter().map(variable).collect(),
            functions: BTreeMap::new(),
            name: "sh".to_owned(),
            args: Vec::new(),
            options: Options::default(),
            bash: false,
            status: 0,
            substituted: None,
            background: None,
            jobs: BTreeMap::new(),
            fds,
            folder: "/".to_owned(),
            at_exit: None,
            locals: Vec::new(),
            loops: 0,
            unchecked: 0,
            depth: 0,
            steps: 0,
            steps_at: (None, 0),
            copy: false,
        }
    }

    pub(super) fn files(&self) -> Files {
        self.host.space.files((self.host.full)())
    }

    /// An absolute path.
    pub(super) fn path(&self, path: &str) -> String {
        if path.starts_with('/') { files::clean(path) } else { files::clean(&format!("{}/{path}", self.folder)) }
    }

    /// A parameter's value.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        match name {
            "?" => Some(self.status.to_string()),
            "$" => Some(self.process.pid.to_string()),
            "#" => Some(self.args.len().to_string()),
            "!" => self.background.map(|pid| pid.to_string()),
            "0" => Some(self.name.clone()),
            "@" | "*" => Some(self.args.join(" ")),
            "-" => {
                let flags =
                    [(self.options.exit, 'e'), (self.options.no_unset, 'u'), (self.options.trace, 'x'), (self.options.no_glob, 'f')];
                Some(flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag).collect())
            }
            "PWD" => Some(self.folder.clone()),
            _ => match name.parse::<usize>() {
                Ok(n) => self.args.get(n.wrapping_sub(1)).cloned(),
                Err(_) => self.variables.get(name).map(|v| v.value.clone()),
            },
        }
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        match self.variables.get_mut(name) {
            Some(variable) => variable.value = value,
            None => drop(self.variables.insert(name.to_owned(), Variable { value, exported: false })),
        }
    }

    pub(super) fn input(&self) -> Arc<Input> {
        match self.fds.get(&0) {
            Some(Fd::In(input)) => Arc::clone(input),
            _ => Input::bytes(Vec::new()),
        }
    }

    /// Writes to a descriptor. The exit code of a command that has nothing else to do.
    pub(super) async fn write(&mut self, fd: u32, bytes: &[u8]) -> Going<i32> {
        let Some(Fd::Out(output)) = self.fds.get(&fd).cloned() else {
            return Ok(if bytes.is_empty() { 0 } else { 1 });
        };
        match output.write(bytes, &self.files()).await {
            Ok(()) => Ok(0),
            Err(None) => Err(self.refuse(&format!("more than {} MiB of output are kept for another command", MOST >> 20)).await),
            Err(Some(why)) => {
                if fd != 2 {
                    self.say(&format!("write error: {why}")).await;
                }
                Ok(1)
            }
        }
    }

    /// A message on standard error.
    pub(super) async fn say(&mut self, what: &str) {
        let line = format!("{}: {what}\n", self.name);
        if let Some(Fd::Out(output)) = self.fds.get(&2).cloned() {
            // Who cannot be told is not told.
            let _ = output.write(line.as_bytes(), &self.files()).await;
        }
    }

    /// Something that the sandbox does not have, or too much of it.
    pub(super) async fn refuse(&mut self, why: &str) -> Stop {
        let why = format!("not rehearsable: {why}");
        if let Some(Fd::Out(output)) = self.fds.get(&2).cloned() {
            let _ = output.write(format!("{why}\n").as_bytes(), &self.files()).await;
        }
        Stop::Refused(why)
    }

    /// An error of the language, which ends the shell.
    pub(super) async fn fails(&mut self, why: &str) -> Stop {
        self.say(why).await;
        Stop::Exit(self.wrong())
    }

    /// The exit code of what the shell itself could not do.
    pub(super) const fn wrong(&self) -> i32 {
        if self.bash { 1 } else { 2 }
    }

    pub(super) async fn bounded(&mut self, length: usize) -> Going<()> {
        if length > MOST { Err(self.refuse(&format!("a word of more than {} MiB", MOST >> 20)).await) } else { Ok(()) }
    }

    /// Counts a step, and lets others run now and then.
    pub(super) async fn step(&mut self) -> Going<()> {
        self.steps += 1;
        let now = Instant::now();
        if self.steps_at.0 != Some(now) {
            self.steps_at = (Some(now), self.steps);
        }
        if self.steps - self.steps_at.1 > STEPS_AT_ONCE {
            return Err(self.refuse(&format!("{STEPS_AT_ONCE} commands without a sleep: an endless loop?")).await);
        }
        if self.steps > STEPS {
            return Err(self.refuse(&format!("more than {STEPS} commands")).await);
        }
        if self.steps.is_multiple_of(256) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Sets an option by its letter. False: it has none of that letter.
    pub(super) fn flag(&mut self, flag: char, on: bool) -> bool {
        match flag {
            'e' => self.options.exit = on,
            'u' => self.options.no_unset = on,
            'x' => self.options.trace = on,
            'f' => self.options.no_glob = on,
            _ => return false,
        }
        true
    }

    /// Sets an option by its name.
    pub(super) fn option(&mut self, name: &str, on: bool) -> bool {
        match name {
            "errexit" => self.flag('e', on),
            "nounset" => self.flag('u', on),
            "xtrace" => self.flag('x', on),
            "noglob" => self.flag('f', on),
            "pipefail" => {
                self.options.pipe_fail = on;
                true
            }
            _ => false,
        }
    }
}
