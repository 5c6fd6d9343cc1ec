//! The processes that commands make in a container: their numbers, their groups, and signals to them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::files::{Files, Mount, Tree};

/// The first number that a command gets: those below are the container's own.
const FIRST: i32 = 20;
/// The last one (`/proc/sys/kernel/pid_max` of a small machine).
const LAST: i32 = 32_767;

/// SIGTERM.
const TERM: i32 = 15;
/// Signals by name and number.
const SIGNALS: [(&str, i32); 10] =
    [("HUP", 1), ("INT", 2), ("QUIT", 3), ("KILL", 9), ("USR1", 10), ("USR2", 12), ("PIPE", 13), ("TERM", 15), ("CONT", 18), ("STOP", 19)];

/// A signal's number, by its name with or without `SIG`, or by its number; 0 is no signal and only asks.
pub(super) fn signal(text: &str) -> Option<i32> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if name == "0" {
        return Some(0);
    }
    let known = SIGNALS.iter().find(|(n, number)| *n == name || number.to_string() == name);
    known.map(|(_, number)| *number)
}

/// What a process does at a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trap {
    Ignore,
    Do(String),
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) group: i32,
    /// By signal's number.
    traps: Mutex<BTreeMap<i32, Trap>>,
    /// Signals whose traps have not run yet.
    pending: Mutex<Vec<i32>>,
    caught: Notify,
    ended_by: Mutex<Option<i32>>,
    end: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Sets what it does at a signal; none: what is usual.
    pub(super) fn trap(&self, signal: i32, to: Option<Trap>) {
        match to {
            Some(to) => drop(lock(&self.traps).insert(signal, to)),
            None => drop(lock(&self.traps).remove(&signal)),
        }
    }

    /// Signals ignored so far stay ignored in what it starts.
    fn inherited(&self) -> BTreeMap<i32, Trap> {
        lock(&self.traps).iter().filter(|(_, trap)| **trap == Trap::Ignore).map(|(s, t)| (*s, t.clone())).collect()
    }

    fn deliver(&self, signal: i32) {
        let trap = if signal == 9 { None } else { lock(&self.traps).get(&signal).cloned() };
        match trap {
            // 0 only asks, and SIGCONT and the like end nobody.
            _ if signal == 0 || signal == 18 => {}
            Some(Trap::Ignore) => {}
            Some(Trap::Do(_)) => {
                let mut pending = lock(&self.pending);
                if !pending.contains(&signal) {
                    pending.push(signal);
                }
                drop(pending);
                self.caught.notify_one();
            }
            None => {
                lock(&self.ended_by).get_or_insert(128 + signal);
                self.end.cancel();
            }
        }
    }

    /// SIGTERM to the first process of a container, which the kernel gives only to those that have a trap for it.
    pub(super) fn terminate_first(&self) {
        let trapped = lock(&self.traps).contains_key(&TERM);
        if trapped {
            self.deliver(TERM);
        }
    }

    /// What is to be done for a signal that came.
    pub(super) fn caught(&self) -> Option<String> {
        let signal = lock(&self.pending).pop()?;
        match lock(&self.traps).get(&signal) {
            Some(Trap::Do(what)) => Some(what.clone()),
            _ => None,
        }
    }

    /// Waits until a signal came that it has a trap for.
    pub(super) async fn until_caught(&self) {
        while lock(&self.pending).is_empty() {
            self.caught.notified().await;
        }
    }

    /// Waits until a signal has ended it. With which exit code.
    pub(super) async fn ended(&self) -> i32 {
        self.end.cancelled().await;
        lock(&self.ended_by).unwrap_or(137)
    }
}

/// The processes that commands have made in a container since it began to run, and its own files. Gone with the container.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Space {
    tree: Tree,
    mounts: Vec<Mount>,
    table: Mutex<(i32, BTreeMap<i32, Arc<Process>>)>,
}

impl Space {
    /// Of a container with these volumes.
    pub(in crate::sandbox) fn new(mounts: Vec<Mount>) -> Self {
        Self { tree: Tree::default(), mounts, table: Mutex::default() }
    }

    /// What is seen of files in it. `full`: its node's disk is.
    pub(in crate::sandbox) fn files(&self, full: bool) -> Files {
        Files::new(self.tree.clone(), self.mounts.clone(), full)
    }

    /// A new process, of a group of its own or of its parent's. None: there are too many.
    pub(super) fn start(self: &Arc<Self>, parent: Option<&Process>) -> Option<Running> {
        let mut table = lock(&self.table);
        let (last, all) = &mut *table;
        let mut pid = (*last).max(FIRST - 1) + 1;
        if pid > LAST {
            pid = FIRST;
        }
        while all.contains_key(&pid) {
            pid += 1;
        }
        if pid > LAST || all.len() > 1_000 {
            return None;
        }
        let process = Arc::new(Process {
            pid,
            group: parent.map_or(pid, |p| p.group),
            traps: Mutex::new(parent.map(Process::inherited).unwrap_or_default()),
            pending: Mutex::default(),
            caught: Notify::new(),
            ended_by: Mutex::default(),
            end: CancellationToken::new(),
        });
        *last = pid;
        all.insert(pid, Arc::clone(&process));
        drop(table);
        Some(Running { space: Arc::clone(self), process })
    }

    /// Sends a signal to a process, or to a group (its number negated). False: there is none.
    pub(super) fn signal(&self, to: i32, signal: i32) -> bool {
        let found: Vec<Arc<Process>> =
            lock(&self.table).1.values().filter(|p| if to < 0 { -p.group == to } else { p.pid == to }).cloned().collect();
        for process in &found {
            process.deliver(signal);
        }
        !found.is_empty()
    }
}

/// A process while it runs.
#[derive(Debug)]
pub(super) struct Running {
    space: Arc<Space>,
    pub(super) process: Arc<Process>,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.space.table).1.remove(&self.process.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reaches_a_group_and_nobody_else() {
        let space = Arc::new(Space::default());
        let (one, two) = (space.start(None).unwrap(), space.start(None).unwrap());
        let child = space.start(Some(&one.process)).unwrap();
        assert!(space.signal(-one.process.pid, 15));
        assert!(one.process.end.is_cancelled() && child.process.end.is_cancelled() && !two.process.end.is_cancelled());
        assert_eq!(*lock(&child.process.ended_by), Some(143));
        let group = -one.process.pid;
        drop(one);
        // The group lives as long as one of it does.
        assert!(space.signal(group, 0));
        drop(child);
        assert!(!space.signal(group, 0));
        assert!(space.signal(two.process.pid, 0) && !space.signal(1, 0));
    }

    #[test]
    fn what_is_ignored_is_ignored_until_sigkill() {
        let space = Arc::new(Space::default());
        let running = space.start(None).unwrap();
        running.process.trap(15, Some(Trap::Ignore));
        let child = space.start(Some(&running.process)).unwrap();
        space.signal(-running.process.pid, 15);
        assert!(!running.process.end.is_cancelled() && !child.process.end.is_cancelled());
        space.signal(-running.process.pid, 9);
        assert!(running.process.end.is_cancelled() && child.process.end.is_cancelled());
    }
}
