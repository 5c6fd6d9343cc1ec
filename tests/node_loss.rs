//! What a node helper does to a node: real processes called as a kubelet and a runtime are, others in made-up cgroups of pods, a network
//! namespace of their own with a cable, and the kernel's nftables. The Lease is on a sandbox's API server. Needs root, as a node helper does.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::symlink},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use firedrill::{
    agent::{
        loss::{LossAt, LossSeen, LossState, Means, guard::GuardBy},
        node::{Node, NodeReq},
        processes::Proc,
        server::Order,
        volume::Step,
    },
    clock::Clock,
    labels,
    sandbox::{Sandbox, SandboxOptions},
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

const OWN: &str = "99999999-4b5a-6978-8796-a5b4c3d2e1f0";
const WEB: &str = "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
const DB: &str = "1f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
const NODE: &str = "10.78.0.1";
const SERVER: &str = "10.78.0.2";
const NAME: &str = "firedrill-drill-1-abc";
/// Long enough for a packet over a cable within the machine.
const SOON: Duration = Duration::from_millis(400);

fn skipped() -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        println!("SKIPPED: network namespaces need root");
    }
    skip
}

struct World {
    dir: tempfile::TempDir,
    /// Everything on the node by name, and the API server's machine.
    children: Vec<(&'static str, Child)>,
    sandbox: Sandbox,
    orders: mpsc::Sender<Order>,
    ended: JoinHandle<Result<String, String>>,
    kept: watch::Receiver<Option<tokio::time::Instant>>,
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('-')
}

/// Does something in the network namespace of a process.
fn within<T: Send + 'static>(pid: u32, act: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    });
    thread.join().unwrap()
}

fn ip(pid: u32, args: &str) {
    let said = Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "ip"]).args(args.split(' ')).output().unwrap();
    assert!(said.status.success(), "ip {args}: {}", String::from_utf8_lossy(&said.stderr));
}

/// A process that sleeps under this name.
fn sleeper(folder: &Path, comm: &str, own_network: bool) -> Child {
    let program = folder.join(comm);
    if !program.exists() {
        fs::copy(fs::canonicalize("/bin/sleep").unwrap(), &program).unwrap();
    }
    let mut command = if own_network { Command::new("unshare") } else { Command::new(&program) };
    if own_network {
        command.arg("-n").arg(&program);
    }
    let child = command.arg("600").stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let cut: String = comm.chars().take(15).collect();
    while fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|c| c.trim_end() != cut) || state(child.id()) != 'S' {
        assert!(began.elapsed() < Duration::from_secs(10), "{comm} does not begin to sleep");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::new(SandboxOptions { seed: 7, wall_us: 1_767_225_600_000_000 });
        let client = sandbox.client("admin");
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "firedrill"}})).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let lease = json!({"metadata": {"name": "lost-node1", "annotations": {labels::LOSS: NAME}}, "spec": {"holderIdentity": "drill-1"}});
        let lease: Lease = serde_json::from_value(lease).unwrap();
        Api::<Lease>::namespaced(client, "firedrill").create(&PostParams::default(), &lease).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("proc")).unwrap();
        let children = Vec::new();
        let (orders, rx) = mpsc::channel(8);
        let (kept, until) = watch::channel(None);
        let own = sandbox.clone();
        let means = Means {
            client: Arc::new(move || Ok(own.client("admin"))),
            server: Some(SocketAddr::new(SERVER.parse().unwrap(), 6443)),
            guard: GuardBy::Process(env!("CARGO_BIN_EXE_firedrill").into()),
            kept,
            clock: Clock::host(),
        };
        let node = Node::new(Proc::at(dir.path().join("proc")), OWN.to_owned()).losing(means);
        let ended = tokio::spawn(node.run(rx));
        let mut world = Self { dir, children, sandbox, orders, ended, kept: until };
        world.start("init", "init", "0::/init.scope", true);
        world.start("peer", "peer", "", true);
        let (a, b) = (world.pid("init"), world.pid("peer"));
        ip(a, &format!("link add eth0 type veth peer name eth0 netns {b}"));
        for (pid, address) in [(a, NODE), (b, SERVER)] {
            ip(pid, &format!("addr add {address}/24 dev eth0"));
            ip(pid, "link set lo up");
            ip(pid, "link set eth0 up");
        }
        let pod = |uid: &str| format!("4:memory:/kubepods/burstable/pod{uid}/aabbccddeeff\n0::/");
        world.start("kubelet", "kubelet", "0::/system.slice/kubelet.service", false);
        world.start("containerd", "containerd", "0::/system.slice/containerd.service", false);
        world.start("shim", "containerd-shim-runc-v2", "0::/system.slice/containerd.service", false);
        world.start("sshd", "sshd", "0::/system.slice/ssh.service", false);
        world.start("web", "nginx", &pod(WEB), false);
        world.start("db", "postgres", &pod(DB), false);
        // A kubelet in a pod is a workload like any other.
        world.start("nested", "kubelet", &pod(DB), false);
        world.start("own", "firedrill", &pod(OWN), false);
        world
    }

    /// A process of the node; its first one lends it its network.
    fn start(&mut self, name: &'static str, comm: &str, cgroup: &str, own_network: bool) {
        let child = sleeper(self.dir.path(), comm, own_network);
        let pid = child.id();
        self.children.push((name, child));
        if cgroup.is_empty() {
            return;
        }
        let entry = self.dir.path().join("proc").join(if name == "init" { "1".to_owned() } else { pid.to_string() });
        fs::create_dir(&entry).unwrap();
        for file in ["stat", "status", "task", "cmdline", "ns"] {
            symlink(Path::new("/proc").join(pid.to_string()).join(file), entry.join(file)).unwrap();
        }
        fs::write(entry.join("mountinfo"), "").unwrap();
        fs::write(entry.join("cgroup"), format!("{cgroup}\n")).unwrap();
    }

    fn pid(&self, name: &str) -> u32 {
        self.children.iter().find(|(n, _)| *n == name).unwrap().1.id()
    }

    /// Those of the node's processes that are stopped.
    fn stopped(&self) -> Vec<&'static str> {
        self.children.iter().filter(|(_, child)| state(child.id()) == 'T').map(|(name, _)| *name).collect()
    }

    async fn ask(&self, step: Step) -> Result<LossSeen, String> {
        let (reply, answer) = oneshot::channel();
        let at = LossAt {
            node: "node1".to_owned(),
            name: NAME.to_owned(),
            namespace: "firedrill".to_owned(),
            lease: "lost-node1".to_owned(),
            ttl_ms: 2_000,
            keep: Vec::new(),
        };
        self.orders.send(Order::Call { body: serde_json::to_value(NodeReq::Loss { step, at }).unwrap(), reply }).await.unwrap();
        answer.await.unwrap().map(|v| serde_json::from_value(v).unwrap())
    }

    async fn patch_lease(&self, patch: Value) {
        let api: Api<Lease> = Api::namespaced(self.sandbox.client("admin"), "firedrill");
        api.patch("lost-node1", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// What the helper says on the Lease.
    async fn word(&self) -> LossSeen {
        let client: Client = self.sandbox.client("admin");
        let lease = Api::<Lease>::namespaced(client, "firedrill").get("lost-node1").await.unwrap();
        let text = lease.metadata.annotations.unwrap_or_default().get(labels::LOSS_SEEN).cloned();
        text.map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default()
    }

    /// Waits for a word on the Lease, which is the proof that a runner goes by.
    async fn until_word(&self, what: &str, limit: Duration, is: impl Fn(&LossSeen) -> bool) -> LossSeen {
        let began = Instant::now();
        loop {
            let seen = self.word().await;
            if is(&seen) {
                return seen;
            }
            assert!(began.elapsed() < limit, "{what}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the node reaches a port of the API server's machine.
    fn reaches(&self, port: u16) -> bool {
        let bind: SocketAddr = format!("{SERVER}:{port}").parse().unwrap();
        let _listener = within(self.pid("peer"), move || TcpListener::bind(bind).unwrap());
        within(self.pid("init"), move || TcpStream::connect_timeout(&bind, SOON).is_ok())
    }

    /// Whether the API server's machine reaches a port of the node.
    fn is_reached(&self, port: u16) -> bool {
        let bind: SocketAddr = format!("{NODE}:{port}").parse().unwrap();
        let _listener = within(self.pid("init"), move || TcpListener::bind(bind).unwrap());
        within(self.pid("peer"), move || TcpStream::connect_timeout(&bind, SOON).is_ok())
    }

    fn is_whole(&self) {
        assert_eq!(self.stopped(), Vec::<&str>::new());
        assert!(self.reaches(80) && self.is_reached(10250), "its network is not back");
    }

    async fn lose(&self) -> LossSeen {
        let armed = self.ask(Step::Look).await.unwrap();
        assert_eq!((armed.state, armed.running), (LossState::Armed, 6), "{armed:?}");
        self.is_whole();
        let began = Instant::now();
        let answer = self.ask(Step::Inject).await.unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_millis(500), "{took:?}");
        assert_eq!(
            (answer.state, answer.workloads, answer.kubelet),
            (LossState::Losing, 3, 0),
            "the answer goes through the kubelet: {answer:?}"
        );
        assert_eq!(self.stopped(), ["web", "db", "nested"]);
        let lost = self.until_word("it is lost", Duration::from_secs(2), |seen| seen.state == LossState::Lost).await;
        println!("answered after {took:?}; workloads {} us, all {} us", lost.workloads_us, lost.lost_us);
        assert_eq!((lost.workloads, lost.runtime, lost.kubelet, lost.running), (3, 2, 1, 0), "{lost:?}");
        assert!(lost.cut && lost.broken.is_none() && lost.lost_us < 500_000, "{lost:?}");
        lost
    }
}

#[tokio::test]
async fn a_node_is_lost_but_for_the_way_to_the_api_server_and_given_back_when_its_lease_asks() {
    if skipped() {
        return;
    }
    let mut w = World::new().await;
    assert_eq!(w.ask(Step::Inject).await.unwrap_err(), "this loss is not armed here: nothing was done");
    w.lose().await;
    assert_eq!(
        w.stopped(),
        ["kubelet", "containerd", "shim", "web", "db", "nested"],
        "neither its own pod nor what is no part of Kubernetes"
    );
    assert!(w.reaches(6443), "the way to the API server is kept");
    assert!(!w.reaches(80) && !w.reaches(10250) && !w.is_reached(10250) && !w.is_reached(6443));
    let again = w.ask(Step::Inject).await.unwrap();
    assert_eq!((again.state, again.workloads), (LossState::Lost, 3), "twice is as good as once");
    // A container that was just being made when its runtime was stopped.
    w.start("late", "late", &format!("0::/kubepods/pod{WEB}/aabbccddeeff"), false);
    let late = w.until_word("what comes late is stopped", Duration::from_secs(2), |seen| seen.workloads == 4).await;
    assert!(late.broken.is_none(), "{late:?}");
    // A service manager that starts a stopped kubelet anew undoes the loss, and it is noted.
    w.start("again", "kubelet", "0::/system.slice/kubelet.service", false);
    let repaired = w.until_word("the repair is noted", Duration::from_secs(2), |seen| seen.broken.is_some() && seen.kubelet == 2).await;
    assert!(repaired.broken.unwrap().contains("kubelet of node node1 ran again"), "which is stopped again all the same");
    w.patch_lease(json!({"metadata": {"annotations": {labels::LOSS_BACK: "drill-1"}}})).await;
    let back = w.until_word("it is back", Duration::from_secs(3), |seen| seen.state == LossState::Back).await;
    assert_eq!((back.lifted, back.running, back.cut), (8, 8, false), "{back:?}");
    w.is_whole();
    let error = w.ask(Step::Inject).await.unwrap_err();
    assert_eq!(error, "this loss is over: nothing was done");
}

#[tokio::test]
async fn one_that_is_asked_back_before_it_is_lost_is_never_lost() {
    if skipped() {
        return;
    }
    let w = World::new().await;
    w.ask(Step::Look).await.unwrap();
    w.patch_lease(json!({"metadata": {"annotations": {labels::LOSS_BACK: "drill-1"}}})).await;
    w.until_word("it will not be lost", Duration::from_secs(3), |seen| seen.state == LossState::Back && seen.lifted == 0).await;
    assert_eq!(w.ask(Step::Inject).await.unwrap_err(), "this loss is over: nothing was done");
    w.is_whole();
}

#[tokio::test]
async fn renewals_keep_it_lost_and_its_end_gives_it_back() {
    if skipped() {
        return;
    }
    let mut w = World::new().await;
    w.lose().await;
    let before = w.kept.borrow_and_update().unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(w.kept.borrow().unwrap(), before, "that the Lease is read is no renewal");
    w.patch_lease(json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})).await;
    w.kept.changed().await.unwrap();
    assert!(w.kept.borrow().unwrap() > before);
    w.orders.send(Order::End { why: "no runner renewed it".to_owned() }).await.unwrap();
    let said = (&mut w.ended).await.unwrap().unwrap();
    assert!(said.contains("gave node node1 back, 6 processes of it go on"), "{said}");
    w.is_whole();
    let back = w.word().await;
    assert!(back.state == LossState::Back && back.detail.contains("no runner renewed it"), "the last word stands on the Lease: {back:?}");
}

#[tokio::test]
async fn a_helper_that_dies_leaves_nothing() {
    if skipped() {
        return;
    }
    let w = World::new().await;
    w.lose().await;
    // All that ends with its process ends with its task: the socket of the rules, and the guard's input.
    w.ended.abort();
    let began = Instant::now();
    while !w.stopped().is_empty() || !w.reaches(80) {
        assert!(began.elapsed() < Duration::from_secs(5), "still stopped: {:?}", w.stopped());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("given back {:?} after the helper died", began.elapsed());
    w.is_whole();
}

#[tokio::test]
async fn a_helper_that_hangs_is_ended_by_its_guard() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = sleeper(dir.path(), "victim", false);
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let start: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    // The shell is the helper: it says which process it stops, and then nothing more.
    let script = format!("exec 3<>fifo; \"$0\" agent guard < fifo & echo stop {} {start} >&3; exec sleep 600", victim.id());
    assert!(Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap().success());
    let mut helper = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_firedrill")])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    kill_process(Pid::from_raw(i32::try_from(victim.id()).unwrap()).unwrap(), Signal::STOP).unwrap();
    let began = Instant::now();
    while state(victim.id()) != 'S' {
        assert!(began.elapsed() < Duration::from_secs(15), "it is still stopped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(5), "it was not stopped at all");
    assert!(helper.try_wait().unwrap().is_some_and(|status| !status.success()), "the helper that hangs is ended");
    victim.kill().unwrap();
    victim.wait().unwrap();
}
