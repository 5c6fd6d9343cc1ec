//! What a node helper does to real processes. Their cgroups are made up, in a `/proc` of symbolic links; the processes, the
//! signals and the states are the kernel's.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use firedrill::{
    agent::{
        node::{Node, NodeReport, NodeReq},
        processes::{NodePod, Proc},
        server::Order,
        signals::{SignalSeen, SignalTo, SignalsReport},
        volume::Step,
    },
    fault::ProcessFault,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

const UID: &str = "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
const MAIN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SIDE: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const SANDBOX: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

struct World {
    dir: tempfile::TempDir,
    children: Vec<Child>,
    orders: mpsc::Sender<Order>,
    ended: JoinHandle<Result<String, String>>,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (orders, rx) = mpsc::channel(8);
        let ended = tokio::spawn(Node::new(Proc::at(dir.path().to_owned()), "own".to_owned()).run(rx));
        Self { dir, children: Vec::new(), orders, ended }
    }

    /// A process in a container of the pod. `named` says whether its mounts name the container.
    fn process(&mut self, uid: &str, container: &str, name: Option<&str>) -> u32 {
        self.command(uid, container, name, Command::new("sleep").arg("600"), "sleep")
    }

    /// The same with a command of its own, which goes by this name when it is ready.
    fn command(&mut self, uid: &str, container: &str, name: Option<&str>, command: &mut Command, comm: &str) -> u32 {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        let entry = self.dir.path().join(pid.to_string());
        fs::create_dir(&entry).unwrap();
        for file in ["stat", "status", "task", "cmdline"] {
            symlink(Path::new("/proc").join(pid.to_string()).join(file), entry.join(file)).unwrap();
        }
        let mounts =
            name.map(|n| format!("613 600 254:0 /var/lib/kubelet/pods/{uid}/containers/{n}/1a2b /dev/termination-log rw - ext4 d rw\n"));
        fs::write(entry.join("mountinfo"), mounts.unwrap_or_default()).unwrap();
        // It is a process like any other only once it has started to sleep.
        for _ in 0..500 {
            if state(pid) == 'S' && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim_end() == comm) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::write(entry.join("cgroup"), format!("4:memory:/kubepods/burstable/pod{uid}/{container}\n0::/\n")).unwrap();
        pid
    }

    async fn ask(&self, request: NodeReq) -> Result<NodeReport, String> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Call { body: serde_json::to_value(request).unwrap(), reply }).await.unwrap();
        answer.await.unwrap().map(|v| serde_json::from_value(v).unwrap())
    }

    async fn inject(&self, how: ProcessFault, pod: &NodePod) -> Result<NodeReport, String> {
        self.ask(NodeReq::Inject { how, pods: vec![pod.clone()] }).await
    }

    async fn check(&self, how: ProcessFault, pod: &NodePod) -> NodeReport {
        self.ask(NodeReq::Check { how, pods: vec![pod.clone()] }).await.unwrap()
    }

    async fn revert(&self, how: ProcessFault, pod: &NodePod) -> NodeReport {
        self.ask(NodeReq::Revert { how, pods: vec![pod.clone()] }).await.unwrap()
    }

    async fn signal(&self, step: Step, to: &SignalTo) -> Result<SignalSeen, String> {
        let (reply, answer) = oneshot::channel();
        let body = serde_json::to_value(NodeReq::Signals { step, to: vec![to.clone()] }).unwrap();
        self.orders.send(Order::Call { body, reply }).await.unwrap();
        let report: SignalsReport = serde_json::from_value(answer.await.unwrap()?).unwrap();
        Ok(report.signals.into_iter().next().unwrap())
    }

    /// A signal to the process that is meant by this, chosen by a look.
    async fn chosen(&self, signal: &str, process: &str) -> SignalTo {
        let to = signal_to(signal, process);
        let seen = self.signal(Step::Look, &to).await.unwrap();
        SignalTo { ident: seen.ident, ..to }
    }

    async fn end(&mut self) -> Result<String, String> {
        self.orders.send(Order::End { why: "test".to_owned() }).await.unwrap();
        (&mut self.ended).await.unwrap()
    }
}

fn pod(containers: &[&str], ids: &[(&str, &str)]) -> NodePod {
    NodePod {
        uid: UID.to_owned(),
        name: "shop/orders-0".to_owned(),
        containers: containers.iter().map(|c| (*c).to_owned()).collect(),
        ids: ids.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect::<BTreeMap<_, _>>(),
    }
}

fn signal_to(signal: &str, process: &str) -> SignalTo {
    let (signal, process, id) = (signal.to_owned(), process.to_owned(), "1".to_owned());
    SignalTo { pod: pod(&[], &[]), process, ident: None, signal, id }
}

/// The kernel's letter for a process's state.
fn state(pid: u32) -> char {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return '-' };
    stat[stat.rfind(')').unwrap() + 2..].chars().next().unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

#[tokio::test]
async fn freeze_stops_the_chosen_containers_and_nothing_else_and_thaws() {
    let mut w = World::new();
    let main = [w.process(UID, MAIN, Some("postgres")), w.process(UID, MAIN, Some("postgres"))];
    // Its mounts do not name it, the pod's status does.
    let by_status = w.process(UID, SIDE, None);
    let sandbox = w.process(UID, SANDBOX, None);
    let stranger = w.process("99999999-4b5a-6978-8796-a5b4c3d2e1f0", MAIN, Some("postgres"));
    let all = pod(&[], &[(SIDE, "exporter")]);
    let report = w.inject(ProcessFault::Freeze, &all).await.unwrap();
    assert!(report.pods[0].effective && report.pods[0].hit == 3, "{report:?}");
    assert!(main.iter().chain([&by_status]).all(|p| state(*p) == 'T'));
    assert!(state(sandbox) == 'S' && state(stranger) == 'S');
    // Twice is as good as once.
    let again = w.inject(ProcessFault::Freeze, &all).await.unwrap();
    assert!(again.pods[0].effective && again.pods[0].hit == 3, "{again:?}");
    assert_eq!(w.revert(ProcessFault::Freeze, &all).await.pods[0].hit, 3);
    until("all run again", || main.iter().chain([&by_status]).all(|p| state(*p) == 'S')).await;
    let twice = w.revert(ProcessFault::Freeze, &all).await;
    assert_eq!((twice.pods[0].hit, twice.pods[0].stopped), (0, 0));
    // One container only.
    let one = pod(&["exporter"], &[(SIDE, "exporter")]);
    assert_eq!(w.inject(ProcessFault::Freeze, &one).await.unwrap().pods[0].hit, 1);
    assert!(state(by_status) == 'T' && main.iter().all(|p| state(*p) == 'S'));
}

#[tokio::test]
async fn a_freeze_that_others_undo_is_seen() {
    let mut w = World::new();
    let pid = w.process(UID, MAIN, Some("postgres"));
    let p = pod(&[], &[]);
    w.inject(ProcessFault::Freeze, &p).await.unwrap();
    assert_eq!(w.check(ProcessFault::Freeze, &p).await.pods[0].broken, None);
    // A process that comes from outside, as an exec probe does, does not break it.
    w.process(UID, MAIN, Some("postgres"));
    assert_eq!(w.check(ProcessFault::Freeze, &p).await.pods[0].broken, None);
    Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap();
    until("it runs", || state(pid) == 'S').await;
    let broken = w.check(ProcessFault::Freeze, &p).await.pods[0].broken.clone().unwrap();
    assert!(broken.contains("1 of 1 frozen processes of shop/orders-0 run again"), "{broken}");
    // And a container restarted in its place.
    w.inject(ProcessFault::Freeze, &p).await.unwrap();
    w.process(UID, SIDE, Some("postgres"));
    let broken = w.check(ProcessFault::Freeze, &p).await.pods[0].broken.clone().unwrap();
    assert!(broken.contains("restarted"), "{broken}");
}

#[tokio::test]
async fn crash_kills_once_and_held_kills_what_comes_after_until_the_revert() {
    let mut w = World::new();
    let first = [w.process(UID, MAIN, Some("postgres")), w.process(UID, MAIN, Some("postgres"))];
    let sandbox = w.process(UID, SANDBOX, None);
    let p = pod(&[], &[]);
    let report = w.inject(ProcessFault::Crash, &p).await.unwrap();
    assert!(report.pods[0].effective && report.pods[0].hit == 2 && report.took_us < 50_000, "{report:?}");
    assert!(first.iter().all(|p| matches!(state(*p), 'Z' | '-')) && state(sandbox) == 'S');
    // Restarted in place: not held, so it lives.
    let second = w.process(UID, SIDE, Some("postgres"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(state(second), 'S');
    assert_eq!(w.revert(ProcessFault::Crash, &p).await.pods[0].hit, 0);

    let held = w.inject(ProcessFault::CrashHold, &p).await.unwrap();
    assert!(held.pods[0].held && held.pods[0].effective, "{held:?}");
    assert_eq!(state(second), 'Z');
    let third = w.process(UID, "dddddddddddddddd", Some("postgres"));
    until("what came after is killed", || state(third) == 'Z').await;
    let check = w.check(ProcessFault::CrashHold, &p).await;
    assert!(check.pods[0].broken.is_none() && check.pods[0].detail.contains("1 more killed since"), "{check:?}");
    assert_eq!(state(sandbox), 'S');
    assert_eq!(w.revert(ProcessFault::CrashHold, &p).await.pods[0].hit, 1);
    assert_eq!(w.revert(ProcessFault::CrashHold, &p).await.pods[0].hit, 0);
    let fourth = w.process(UID, "eeeeeeeeeeeeeeee", Some("postgres"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(state(fourth), 'S');
}

#[tokio::test]
async fn the_helpers_end_undoes_everything() {
    let mut w = World::new();
    let pid = w.process(UID, MAIN, Some("postgres"));
    let p = pod(&[], &[]);
    w.inject(ProcessFault::Freeze, &p).await.unwrap();
    assert_eq!(state(pid), 'T');
    assert_eq!(w.end().await.unwrap(), "let 1 frozen processes of shop/orders-0 go on");
    until("it runs", || state(pid) == 'S').await;
}

#[tokio::test]
async fn a_helper_that_came_later_thaws_without_knowing_what_was_frozen() {
    let mut w = World::new();
    let pid = w.process(UID, MAIN, Some("postgres"));
    Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap();
    until("it stops", || state(pid) == 'T').await;
    let p = pod(&[], &[]);
    assert!(w.check(ProcessFault::Freeze, &p).await.pods[0].effective);
    assert_eq!(w.revert(ProcessFault::Freeze, &p).await.pods[0].hit, 1);
    until("it runs", || state(pid) == 'S').await;
    assert_eq!(w.revert(ProcessFault::Freeze, &p).await.pods[0].hit, 0);
}

#[tokio::test]
async fn without_a_process_nothing_is_done_to_any_pod() {
    let mut w = World::new();
    let pid = w.process(UID, MAIN, Some("postgres"));
    let mut none = pod(&[], &[]);
    none.uid = "77777777-4b5a-6978-8796-a5b4c3d2e1f0".to_owned();
    let error = w.ask(NodeReq::Inject { how: ProcessFault::Crash, pods: vec![pod(&[], &[]), none] }).await.unwrap_err();
    assert!(error.contains("no process in the chosen containers on this node: nothing was done"), "{error}");
    until("it lives", || state(pid) == 'S').await;
    assert!(w.inject(ProcessFault::Freeze, &pod(&["nginx"], &[])).await.is_err());
}

#[tokio::test]
async fn one_process_is_stopped_and_goes_on() {
    let mut w = World::new();
    let first = w.process(UID, MAIN, Some("postgres"));
    let second = w.command(UID, MAIN, Some("postgres"), Command::new("sleep").arg("601"), "sleep");
    // Two are called so, and one is meant.
    let error = w.signal(Step::Look, &signal_to("SIGSTOP", "sleep")).await.unwrap_err();
    assert!(error.contains("2 processes of shop/orders-0 fit `sleep`, and one is meant"), "{error}");
    let error = w.signal(Step::Look, &signal_to("SIGSTOP", "nginx")).await.unwrap_err();
    assert!(error.contains("no process of shop/orders-0 is called `nginx`") && error.contains("sleep ("), "{error}");
    assert!(!error.contains("600"), "a command line may hold a password: {error}");
    let to = w.chosen("SIGSTOP", "sleep 601").await;
    assert_eq!(w.chosen("SIGSTOP", "p 601").await.ident, to.ident);
    assert_eq!(to.ident.unwrap().pid, i32::try_from(second).unwrap());
    // Without an inject there is nothing to undo.
    assert!(!w.signal(Step::Revert, &to).await.unwrap().woken);
    let seen = w.signal(Step::Inject, &to).await.unwrap();
    assert!(seen.effective && seen.broken.is_none() && state(second) == 'T' && state(first) == 'S', "{seen:?}");
    assert!(w.signal(Step::Inject, &to).await.unwrap().effective);
    // Others undo it.
    Command::new("kill").args(["-CONT", &second.to_string()]).status().unwrap();
    until("it runs", || state(second) == 'S').await;
    let broken = w.signal(Step::Check, &to).await.unwrap().broken.unwrap();
    assert!(broken.contains("is no longer stopped: it runs"), "{broken}");
    w.signal(Step::Inject, &to).await.unwrap();
    assert_eq!(state(second), 'T');
    assert!(w.signal(Step::Revert, &to).await.unwrap().woken);
    until("it runs", || state(second) == 'S').await;
    assert!(!w.signal(Step::Revert, &to).await.unwrap().woken);
    // The helper's end wakes it, and so does a helper that knows only the undo.
    w.signal(Step::Inject, &to).await.unwrap();
    assert!(w.end().await.unwrap().contains("go on"));
    until("it runs", || state(second) == 'S').await;
    Command::new("kill").args(["-STOP", &second.to_string()]).status().unwrap();
    until("it stops", || state(second) == 'T').await;
    let (orders, rx) = mpsc::channel(8);
    w.orders = orders;
    w.ended = tokio::spawn(Node::new(Proc::at(w.dir.path().to_owned()), "own".to_owned()).run(rx));
    assert!(w.signal(Step::Check, &to).await.unwrap().effective);
    assert!(w.signal(Step::Revert, &to).await.unwrap().woken);
}

#[tokio::test]
async fn a_signal_that_would_be_lost_is_refused_and_one_that_arrives_is_sent_once() {
    let mut w = World::new();
    let hits = w.dir.path().join("hits");
    let handler = format!("trap 'echo x >> {}' USR1; trap '' HUP; while :; do sleep 0.05; done", hits.display());
    let pid = w.command(UID, MAIN, Some("postgres"), Command::new("bash").args(["-c", &handler]), "bash");
    until("its handlers are there", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & 1 == 1
    })
    .await;
    let ignored = w.chosen("SIGHUP", "bash").await;
    let error = w.signal(Step::Inject, &ignored).await.unwrap_err();
    assert!(error.contains("ignores SIGHUP"), "{error}");
    let caught = w.chosen("SIGUSR1", "bash").await;
    assert!(w.signal(Step::Inject, &caught).await.unwrap().effective);
    until("it was handled", || fs::read_to_string(&hits).is_ok_and(|t| t == "x\n")).await;
    // The second inject of the same fault is not a second signal; another fault's is.
    w.signal(Step::Inject, &caught).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fs::read_to_string(&hits).unwrap(), "x\n");
    w.signal(Step::Inject, &SignalTo { id: "2".to_owned(), ..caught.clone() }).await.unwrap();
    until("it was handled again", || fs::read_to_string(&hits).is_ok_and(|t| t == "x\nx\n")).await;
    // It has nothing to undo, and a killed process is no process to signal.
    assert!(!w.signal(Step::Revert, &caught).await.unwrap().woken);
    let kill = w.chosen("SIGKILL", "bash").await;
    assert!(w.signal(Step::Inject, &kill).await.unwrap().effective && matches!(state(pid), 'Z' | '-'));
    assert!(w.signal(Step::Inject, &kill).await.unwrap().effective, "twice is as good as once");
    let late = SignalTo { id: "3".to_owned(), ..kill };
    assert!(w.signal(Step::Inject, &late).await.unwrap_err().contains("nothing was done"));
    // The helper's own pod is never touched.
    let mut own = signal_to("SIGKILL", "bash");
    own.pod.uid = "own".to_owned();
    assert!(w.signal(Step::Look, &own).await.unwrap_err().contains("refused"));
}
