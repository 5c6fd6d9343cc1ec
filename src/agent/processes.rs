//! The processes of pods, as `/proc` of a node shows them, and signals to exactly those.
//!
//! A pod's processes are found through their cgroups, which carry the pod's uid in every layout (cgroup v1 and v2, driver
//! cgroupfs and systemd); no container runtime is asked. Which container of the pod a process belongs to is said by the pod's
//! status (container ids, sent by the runner) and by its mounts: the kubelet mounts
//! `…/pods/<uid>/containers/<name>/<random>` as the termination log into every container but the sandbox. What neither of them
//! names (the sandbox, a container that is just being made) is never touched, nor are containers of agents in pods.
//!
//! An agent within a pod sees processes of that pod only, and not the pod's uid in their cgroups where those have a namespace of their
//! own: there the containers' ids alone tell, and what is in the agent's own cgroup is the agent's.
//!
//! A process is identified by its number *and* its start time, and signalled through a pidfd opened before the start time is
//! compared, so that a number that was given away again in between hits nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use super::{
    host::Host,
    inside,
    loss::NodeProcess,
    partition::{Cutting, PartitionAt},
    volume::{Volume, VolumeAt},
};

/// A pod whose processes are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePod {
    /// Its uid.
    pub uid: String,
    /// `namespace/name`, for messages.
    pub name: String,
    /// Only these containers, by name; all when empty.
    pub containers: Vec<String>,
    /// Container ids and their names, as the pod's status has them.
    pub ids: BTreeMap<String, String>,
}

/// A process that stays the same process: number and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ident {
    /// Number.
    pub pid: i32,
    /// Start, in clock ticks since the boot.
    pub start: u64,
}

/// A process of a pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Which.
    pub ident: Ident,
    /// Its command's name, as the kernel keeps it.
    pub comm: String,
    /// The container's id.
    pub id: String,
    /// The container's name.
    pub container: String,
    /// Whether it can run.
    pub state: State,
    /// The first of its container's process namespace: its end takes the others with it.
    pub init: bool,
}

/// Whether a process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can.
    Running,
    /// All its threads are stopped, or will be before they execute one more instruction of the program.
    Stopped,
    /// It has ended; at most its entry is left.
    Dead,
}

/// The processes of a node that is not this machine: a sandbox's.
pub trait Table: Send + Sync + std::fmt::Debug {
    /// All process numbers.
    fn pids(&self) -> BTreeSet<i32>;
    /// Whether it is seen from within a pod, not from its node.
    fn inside(&self) -> bool;
    /// How a process is.
    fn state(&self, ident: Ident) -> State;
    /// All processes that live in the containers of a pod, of these numbers.
    fn of_pod(&self, pod: &NodePod, pids: &BTreeSet<i32>) -> Vec<Process>;
    /// Sends a signal to exactly this process. `false` if it is gone.
    ///
    /// # Errors
    /// It is refused, with the reason.
    fn signal(&self, ident: Ident, signal: Signal) -> Result<bool, String>;
    /// A process's command line, its words parted by blanks. None: it is gone.
    fn command(&self, ident: Ident) -> Option<String>;
    /// Cuts a pod's traffic.
    ///
    /// # Errors
    /// It cannot be had here.
    fn cut(&self, at: &PartitionAt) -> Result<Box<dyn Cutting>, String>;
    /// Whether something of this name cuts a pod's traffic.
    ///
    /// # Errors
    /// The pod is not there, or cannot be cut off.
    fn is_cut(&self, at: &PartitionAt) -> Result<bool, String>;
    /// What the node has.
    fn host(&self) -> Host;
    /// Opens a volume of a pod. `lost`: also when the pod is gone.
    ///
    /// # Errors
    /// It is not there, or cannot be had here.
    fn volume(&self, at: &VolumeAt, lost: bool) -> Result<Box<dyn Volume + Send>, String>;
    /// All that is stopped when the node is lost, but for the pod that looks.
    ///
    /// # Errors
    /// It cannot be had here.
    fn node_processes(&self) -> Result<Vec<NodeProcess>, String>;
    /// Cuts the node's network but for the way to the API server.
    ///
    /// # Errors
    /// It cannot be had here.
    fn cut_node(&self, name: &str) -> Result<Box<dyn Cutting>, String>;
    /// Whether something of this name cuts the node's network.
    ///
    /// # Errors
    /// It cannot be had here.
    fn node_is_cut(&self, name: &str) -> Result<bool, String>;
}

/// The processes of a node.
#[derive(Debug, Clone)]
pub enum Proc {
    /// As its kernel shows them.
    Kernel(Kernel),
    /// As somebody else does.
    Table(Arc<dyn Table>),
}

impl Default for Proc {
    fn default() -> Self {
        Self::at(PathBuf::from("/proc"))
    }
}

impl Proc {
    /// Another `/proc`: for tests.
    pub const fn at(root: PathBuf) -> Self {
        Self::Kernel(Kernel { root, inside: false })
    }

    /// What an agent sees from within a pod.
    pub fn in_pod() -> Self {
        Self::in_pod_at(PathBuf::from("/proc"))
    }

    /// The same with another `/proc`: for tests.
    pub const fn in_pod_at(root: PathBuf) -> Self {
        Self::Kernel(Kernel { root, inside: true })
    }

    /// Whether it is seen from within a pod: signals that a first process has no handler for are dropped then, SIGKILL and SIGSTOP too.
    pub fn inside(&self) -> bool {
        match self {
            Self::Kernel(kernel) => kernel.inside,
            Self::Table(table) => table.inside(),
        }
    }

    /// All process numbers.
    pub fn pids(&self) -> BTreeSet<i32> {
        match self {
            Self::Kernel(kernel) => kernel.pids(),
            Self::Table(table) => table.pids(),
        }
    }

    /// How a process is: dead when it is not there, or its number belongs to another one by now.
    pub fn state(&self, ident: Ident) -> State {
        match self {
            Self::Kernel(kernel) => kernel.state(ident),
            Self::Table(table) => table.state(ident),
        }
    }

    /// All processes in the chosen, named containers of a pod, the first of each process namespace first.
    pub fn of_pod(&self, pod: &NodePod, pids: impl IntoIterator<Item = i32>) -> Vec<Process> {
        let mut found = match self {
            Self::Kernel(kernel) => kernel.of_pod(pod, pids),
            Self::Table(table) => table.of_pod(pod, &pids.into_iter().collect()),
        };
        found.retain(|p| p.state != State::Dead && (pod.containers.is_empty() || pod.containers.contains(&p.container)));
        // Whatever is chosen, it is never what undoes the fault.
        found.retain(|p| !inside::is_own(&p.container));
        found.sort_by_key(|p| (!p.init, p.ident));
        found
    }

    /// Sends a signal to exactly this process. `false` if it is gone.
    ///
    /// # Errors
    /// When the kernel refuses, with its reason.
    pub fn signal(&self, ident: Ident, signal: Signal) -> Result<bool, String> {
        match self {
            Self::Kernel(kernel) => kernel.signal(ident, signal),
            Self::Table(table) => table.signal(ident, signal),
        }
    }

    /// A process's command line, its words parted by blanks. None: it is gone.
    pub fn command(&self, ident: Ident) -> Option<String> {
        match self {
            Self::Kernel(kernel) => kernel.command(ident),
            Self::Table(table) => table.command(ident),
        }
    }

    /// What a process does with signals. None: it is gone, or that cannot be seen.
    pub(super) fn masks(&self, ident: Ident) -> Option<Masks> {
        match self {
            Self::Kernel(kernel) => kernel.masks(ident),
            Self::Table(_) => None,
        }
    }
}

/// A process's sets of signals, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Masks {
    pending: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

const fn has(mask: u64, signal: Signal) -> bool {
    // Signal n is bit n-1.
    mask >> (signal.as_raw() - 1) & 1 == 1
}

impl Masks {
    fn parse(status: &str) -> Option<Self> {
        let mask = |name: &str| {
            let text = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            u64::from_str_radix(text.trim(), 16).ok()
        };
        let pending = mask("SigPnd")? | mask("ShdPnd")?;
        Some(Self { pending, blocked: mask("SigBlk")?, ignored: mask("SigIgn")?, caught: mask("SigCgt")? })
    }

    /// It waits for delivery.
    pub(super) const fn pending(self, signal: Signal) -> bool {
        has(self.pending, signal)
    }

    /// It is not delivered for the time being.
    pub(super) const fn blocks(self, signal: Signal) -> bool {
        has(self.blocked, signal)
    }

    /// It is thrown away.
    pub(super) const fn ignores(self, signal: Signal) -> bool {
        has(self.ignored, signal)
    }

    /// It has a handler.
    pub(super) const fn catches(self, signal: Signal) -> bool {
        has(self.caught, signal)
    }
}

/// A node's `/proc`.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(super) root: PathBuf,
    /// It is a pod's, seen from within.
    pub(super) inside: bool,
}

impl Kernel {
    pub(super) fn pids(&self) -> BTreeSet<i32> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
    }

    pub(super) fn read(&self, pid: i32, file: &str) -> Option<String> {
        // Command names and mount points may hold any bytes.
        fs::read(self.root.join(pid.to_string()).join(file)).ok().map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// The container id of a process if it is in a container of the pod with this uid. `own` are the cgroups of the one who asks.
    fn container_id(&self, pid: i32, uid: &str, own: &str) -> Option<String> {
        let text = self.read(pid, "cgroup")?;
        if !self.inside {
            return container_in_cgroups(&text, uid);
        }
        if text == own { None } else { any_container(&text) }
    }

    /// The process of a number, now.
    pub(super) fn ident(&self, pid: i32) -> Option<Ident> {
        let start = parse_stat(&self.read(pid, "stat")?)?.start;
        Some(Ident { pid, start })
    }

    pub(super) fn state(&self, ident: Ident) -> State {
        let Some(stat) = self.read(ident.pid, "stat").as_deref().and_then(parse_stat) else { return State::Dead };
        if stat.start != ident.start {
            return State::Dead;
        }
        let tasks: Vec<(String, char)> = fs::read_dir(self.root.join(ident.pid.to_string()).join("task"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|t| {
                let text = fs::read(t.path().join("stat")).ok()?;
                Some((t.file_name().to_string_lossy().into_owned(), parse_stat(&String::from_utf8_lossy(&text))?.state))
            })
            .collect();
        if tasks.iter().all(|(_, s)| matches!(s, 'Z' | 'X' | 'x')) {
            // No task left to read: it went away while we looked.
            return State::Dead;
        }
        let stopped = |s: &char| matches!(s, 'T' | 't');
        let group_stops = tasks.iter().any(|(_, s)| stopped(s));
        let all_stopped = tasks.iter().all(|(tid, s)| match s {
            'T' | 't' | 'Z' | 'X' | 'x' => true,
            // In an uninterruptible wait (on a disk; a vfork whose child is stopped): it will stop before it returns to
            // the program if the stop is under way for the whole process or still pending.
            'D' => group_stops || self.read(ident.pid, &format!("task/{tid}/status")).is_some_and(|t| stop_pending(&t)),
            _ => false,
        });
        if all_stopped { State::Stopped } else { State::Running }
    }

    /// All processes in named containers of a pod.
    pub(super) fn of_pod(&self, pod: &NodePod, pids: impl IntoIterator<Item = i32>) -> Vec<Process> {
        let own = own_pid();
        let cgroups = if self.inside { self.read(own, "cgroup").unwrap_or_default() } else { String::new() };
        let mut names: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut found = Vec::new();
        for pid in pids.into_iter().filter(|p| *p != own) {
            let Some(id) = self.container_id(pid, &pod.uid, &cgroups) else { continue };
            let Some(stat) = self.read(pid, "stat").as_deref().and_then(parse_stat) else { continue };
            let name = names.entry(id.clone()).or_insert_with(|| pod.ids.get(&id).cloned());
            if name.is_none() {
                *name = self.read(pid, "mountinfo").and_then(|m| container_in_mounts(&m, &pod.uid));
            }
            let ident = Ident { pid, start: stat.start };
            let init = if self.inside { pid == 1 } else { self.read(pid, "status").is_some_and(|s| namespace_init(&s)) };
            found.push(Process { ident, comm: stat.comm, id, container: String::new(), state: self.state(ident), init });
        }
        found.retain_mut(|p| match names.get(&p.id) {
            Some(Some(name)) => {
                p.container.clone_from(name);
                true
            }
            _ => false,
        });
        found
    }

    fn command(&self, ident: Ident) -> Option<String> {
        let line = self.read(ident.pid, "cmdline")?;
        let stat = parse_stat(&self.read(ident.pid, "stat")?)?;
        let line = line.replace('\0', " ").trim().to_owned();
        // A kernel thread, or one that is ending, has none.
        (stat.start == ident.start).then(|| if line.is_empty() { format!("[{}]", stat.comm) } else { line })
    }

    fn masks(&self, ident: Ident) -> Option<Masks> {
        let status = self.read(ident.pid, "status")?;
        if self.ident(ident.pid) == Some(ident) { Masks::parse(&status) } else { None }
    }

    fn signal(&self, ident: Ident, signal: Signal) -> Result<bool, String> {
        let Some(pid) = Pid::from_raw(ident.pid) else { return Ok(false) };
        let refused = |e: Errno| format!("failed to send {signal:?} to process {}: {e}", ident.pid);
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::SRCH) => return Ok(false),
            // Before Linux 5.3, or forbidden by a sandbox: the number must do.
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(e) => return Err(refused(e)),
        };
        if self.ident(ident.pid) != Some(ident) {
            return Ok(false);
        }
        let sent = match fd {
            Some(fd) => pidfd_send_signal(fd, signal),
            None => kill_process(pid, signal),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(e) => Err(refused(e)),
        }
    }
}

/// This process's number, where it looks from.
pub(super) fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

pub(super) struct Stat {
    pub(super) comm: String,
    state: char,
    pub(super) start: u64,
}

/// `pid (comm) state ppid …`; field 22 is the start. The command's name may hold blanks and parentheses.
pub(super) fn parse_stat(text: &str) -> Option<Stat> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let mut rest = text.get(close + 1..)?.split_ascii_whitespace();
    let state = rest.next()?.chars().next()?;
    Some(Stat { comm: text.get(open + 1..close)?.to_owned(), state, start: rest.nth(18)?.parse().ok()? })
}

/// Whether SIGSTOP waits for delivery, for the thread or the whole process.
fn stop_pending(status: &str) -> bool {
    status.lines().filter_map(|l| l.strip_prefix("SigPnd:").or_else(|| l.strip_prefix("ShdPnd:"))).any(|mask| {
        // Signal n is bit n-1; SIGSTOP is 19.
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|m| m >> 18 & 1 == 1)
    })
}

/// Whether a process is number 1 in the innermost of its process namespaces, and that is not the one we look from.
fn namespace_init(status: &str) -> bool {
    let Some(pids) = status.lines().find_map(|l| l.strip_prefix("NSpid:")) else { return false };
    let pids: Vec<&str> = pids.split_ascii_whitespace().collect();
    pids.len() > 1 && pids.last() == Some(&"1")
}

/// The container id in `/proc/<pid>/cgroup`, if the process is in a container of this pod.
fn container_in_cgroups(text: &str, uid: &str) -> Option<String> {
    if uid.is_empty() {
        return None;
    }
    let plain = format!("pod{uid}");
    let slice = format!("pod{}.slice", uid.replace('-', "_"));
    text.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let mut segments = path.split('/');
        // `pod<uid>` (cgroupfs) or `kubepods-burstable-pod<uid with _>.slice` (systemd).
        segments.find(|s| *s == plain || s.strip_suffix(slice.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('-')))?;
        let container = segments.next()?;
        // `<id>`, `cri-containerd-<id>.scope`, `crio-<id>.scope`; CRI-O's monitor is in the pod's slice too, and is not the pod's.
        if container.contains("conmon") {
            return None;
        }
        let id = container.strip_suffix(".scope").unwrap_or(container);
        let id = id.rsplit_once('-').map_or(id, |(_, id)| id);
        (id.len() >= 12 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
    })
}

/// The container id in `/proc/<pid>/cgroup`, of whatever pod: as it is seen from within one, `0::/../cri-containerd-<id>.scope`.
fn any_container(text: &str) -> Option<String> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/')).find_map(|segment| {
        let id = segment.strip_suffix(".scope").unwrap_or(segment);
        let id = id.rsplit_once('-').map_or(id, |(_, id)| id);
        // The last part of a pod's uid has 12 digits.
        (id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && !segment.contains("conmon")).then(|| id.to_owned())
    })
}

/// The container's name in `/proc/<pid>/mountinfo`: the source of its termination log.
fn container_in_mounts(text: &str, uid: &str) -> Option<String> {
    let marker = format!("/pods/{uid}/containers/");
    text.lines().find_map(|line| {
        let root = line.split(' ').nth(3)?;
        let rest = root.split_once(marker.as_str()).map(|(_, rest)| rest).or_else(|| {
            // /var/lib/kubelet may be a mount of its own.
            root.strip_prefix(marker.trim_start_matches('/'))
        })?;
        let (name, file) = rest.split_once('/')?;
        (!name.is_empty() && !file.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn containers_are_found_in_every_layout_of_cgroups() {
        let under = UID.replace('-', "_");
        for text in [
            format!("9:name=systemd:/\n4:memory:/testbed1/kubepods/burstable/pod{UID}/{ID}\n0::/\n"),
            format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope/container/init.scope\n"),
            format!("0::/../../../besteffort/pod{UID}/{ID}/system.slice\n"),
        ] {
            assert_eq!(container_in_cgroups(&text, UID).as_deref(), Some(ID), "{text}");
        }
    }

    #[test]
    fn strangers_are_not_found() {
        let under = UID.replace('-', "_");
        for text in [
            format!("0::/kubepods/pod{UID}\n"),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-conmon-{ID}.scope\n"),
            format!("0::/kubepods/podf{UID}/{ID}\n"),
            format!("0::/kubepods/burstable/pod{}/{ID}\n", UID.replace('0', "1")),
            format!("0::/system.slice/containerd.service/{ID}\n"),
            String::new(),
        ] {
            assert_eq!(container_in_cgroups(&text, UID), None, "{text}");
        }
        assert_eq!(container_in_cgroups(&format!("0::/kubepods/pod/{ID}"), ""), None);
    }

    #[test]
    fn from_within_a_pod_the_container_alone_tells() {
        let under = UID.replace('-', "_");
        for text in [
            format!("0::/../{ID}\n"),
            format!("0::/../cri-containerd-{ID}.scope\n"),
            format!("9:name=systemd:/\n4:memory:/testbed1/kubepods/burstable/pod{UID}/{ID}\n0::/\n"),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope/container\n"),
        ] {
            assert_eq!(any_container(&text).as_deref(), Some(ID), "{text}");
        }
        for text in ["0::/\n".to_owned(), format!("0::/kubepods/pod{UID}\n"), format!("0::/../crio-conmon-{ID}.scope\n")] {
            assert_eq!(any_container(&text), None, "{text}");
        }
    }

    #[test]
    fn within_a_pod_an_agent_sees_others_and_neither_itself_nor_what_nobody_names() {
        let dir = tempfile::tempdir().unwrap();
        let write = |pid: i32, file: &str, text: &str| {
            let at = dir.path().join(pid.to_string()).join(file);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        };
        let (own, side) = ("a".repeat(64), "b".repeat(64));
        let stat = |pid: i32| format!("{pid} (sh) S 1 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 {pid}00 1000 10");
        let all = [(1, "9".repeat(64)), (7, ID.to_owned()), (8, side.clone()), (9, own.clone()), (own_pid(), own)];
        for (pid, id) in &all {
            write(*pid, "cgroup", &format!("0::/../{id}\n"));
            write(*pid, "stat", &stat(*pid));
            write(*pid, &format!("task/{pid}/stat"), &stat(*pid));
        }
        let proc = Proc::in_pod_at(dir.path().to_owned());
        let ids = BTreeMap::from([(ID.to_owned(), "main".to_owned()), (side, "firedrill-agent-1-0".to_owned())]);
        let pod = NodePod { uid: UID.to_owned(), name: "shop/a".to_owned(), containers: Vec::new(), ids };
        let found: Vec<(i32, String, bool)> =
            proc.of_pod(&pod, proc.pids()).into_iter().map(|p| (p.ident.pid, p.container, p.init)).collect();
        // Number 1 is the sandbox here, 9 an exec in the agent's own container, 8 another agent.
        assert_eq!(found, [(7, "main".to_owned(), false)]);
        let first = NodePod { ids: BTreeMap::from([("9".repeat(64), "main".to_owned())]), ..pod };
        assert!(proc.of_pod(&first, proc.pids())[0].init, "number 1 is the first of the namespace that it is seen from");
    }

    #[test]
    fn a_containers_name_is_the_source_of_its_termination_log() {
        let mounts = format!(
            "600 590 0:50 / / rw - overlay overlay rw\n\
             612 600 254:0 /var/lib/kubelet/pods/{UID}/etc-hosts /etc/hosts rw - ext4 /dev/vda rw\n\
             613 600 254:0 /var/lib/kubelet/pods/{UID}/containers/postgres/1a2b3c4d /dev/termination-log rw - ext4 /dev/vda rw\n"
        );
        assert_eq!(container_in_mounts(&mounts, UID).as_deref(), Some("postgres"));
        assert_eq!(container_in_mounts(&mounts.replace("/var/lib/kubelet", ""), UID).as_deref(), Some("postgres"));
        assert_eq!(container_in_mounts(&mounts, "another"), None);
    }

    #[test]
    fn a_stat_line_with_a_wild_name() {
        let s = parse_stat("42 (a) b (c) T 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10").unwrap();
        assert_eq!((s.comm.as_str(), s.state, s.start), ("a) b (c", 'T', 987_654));
        assert!(parse_stat("42 (cut").is_none() && parse_stat("").is_none());
    }

    #[test]
    fn pending_stops_and_first_processes() {
        assert!(stop_pending("SigPnd:\t0000000000000000\nShdPnd:\t0000000000040000\n"));
        assert!(!stop_pending("SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(namespace_init("NSpid:\t4711\t1\n") && !namespace_init("NSpid:\t1\n") && !namespace_init("NSpid:\t4711\t7\n"));
    }
}
