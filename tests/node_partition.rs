//! What a node helper does to real traffic: two network namespaces with a cable between them, connections over it, and the kernel's
//! nftables. Needs root, as a node helper does.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::symlink},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use firedrill::{
    agent::{
        node::{Node, NodeReq},
        partition::{PartitionAt, PartitionSeen, PartitionsReport},
        processes::{NodePod, Proc},
        server::Order,
        volume::Step,
    },
    fault::Cut,
    scenario::types::Direction,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

const UID: &str = "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
const ON_NODE: &str = "77777777-4b5a-6978-8796-a5b4c3d2e1f0";
const ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The pod, its peer, and the peer's second address.
const POD: &str = "10.77.0.1";
const PEER: &str = "10.77.0.2";
const OTHER: &str = "10.77.9.2";
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
    pod: Child,
    peer: Child,
    node: Child,
    orders: mpsc::Sender<Order>,
    ended: JoinHandle<Result<String, String>>,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.pod, &mut self.peer, &mut self.node] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn sleeper(own: bool) -> Child {
    let mut command = if own { Command::new("unshare") } else { Command::new("sleep") };
    let command = if own { command.args(["-n", "sleep", "600"]) } else { command.arg("600") };
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|c| c != "sleep\n") {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not begin to sleep");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
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

impl World {
    fn new() -> Self {
        let (pod, peer, node) = (sleeper(true), sleeper(true), sleeper(false));
        let (a, b) = (pod.id(), peer.id());
        ip(a, &format!("link add eth0 type veth peer name eth0 netns {b}"));
        for (pid, address) in [(a, POD), (b, PEER)] {
            ip(pid, &format!("addr add {address}/24 dev eth0"));
            ip(pid, "link set lo up");
            ip(pid, "link set eth0 up");
        }
        ip(b, &format!("addr add {OTHER}/24 dev eth0"));
        ip(a, "route add 10.77.9.0/24 dev eth0");
        let dir = tempfile::tempdir().unwrap();
        for (pid, uid) in [(a, UID), (node.id(), ON_NODE), (1, "")] {
            let entry = dir.path().join(pid.to_string());
            fs::create_dir(&entry).unwrap();
            for file in ["stat", "status", "task", "cmdline", "ns"] {
                // The node's first process is whoever shares the node's network.
                let of = if pid == 1 { node.id() } else { pid };
                symlink(Path::new("/proc").join(of.to_string()).join(file), entry.join(file)).unwrap();
            }
            let log = format!("9613 600 254:0 /var/lib/kubelet/pods/{uid}/containers/main/1a /dev/termination-log rw - ext4 d rw\n");
            fs::write(entry.join("mountinfo"), log).unwrap();
            fs::write(entry.join("cgroup"), format!("0::/kubepods/burstable/pod{uid}/{ID}\n")).unwrap();
        }
        let (orders, ended) = helper(dir.path());
        Self { dir, pod, peer, node, orders, ended }
    }

    fn at(&self, cuts: Vec<Cut>) -> PartitionAt {
        let pod = NodePod { uid: UID.to_owned(), name: "shop/web-0".to_owned(), containers: Vec::new(), ids: BTreeMap::new() };
        PartitionAt { pod, name: "firedrill-drill-1-abc".to_owned(), cuts }
    }

    async fn ask(&self, step: Step, at: &PartitionAt) -> Result<PartitionSeen, String> {
        let (reply, answer) = oneshot::channel();
        let body = serde_json::to_value(NodeReq::Partitions { step, at: vec![at.clone()] }).unwrap();
        self.orders.send(Order::Call { body, reply }).await.unwrap();
        let report: PartitionsReport = serde_json::from_value(answer.await.unwrap()?).unwrap();
        Ok(report.partitions.into_iter().next().unwrap())
    }

    /// A port of the peer's at which somebody listens, and whether the pod reaches it.
    fn leaves(&self, address: &str) -> bool {
        reaches(self.pod.id(), self.peer.id(), address, 0)
    }

    fn enters(&self, port: u16) -> bool {
        reaches(self.peer.id(), self.pod.id(), POD, port)
    }
}

fn helper(proc: &Path) -> (mpsc::Sender<Order>, JoinHandle<Result<String, String>>) {
    let (orders, rx) = mpsc::channel(8);
    (orders, tokio::spawn(Node::new(Proc::at(proc.to_owned()), "own".to_owned()).run(rx)))
}

/// Whether one namespace reaches an address of another one.
fn reaches(from: u32, to: u32, address: &str, port: u16) -> bool {
    let bind: SocketAddr = format!("{address}:{port}").parse().unwrap();
    let listener = within(to, move || TcpListener::bind(bind).unwrap());
    let at = listener.local_addr().unwrap();
    within(from, move || TcpStream::connect_timeout(&at, SOON).is_ok())
}

fn cut(network: Option<&str>, ports: &[u16], direction: Option<Direction>) -> Cut {
    Cut { direction, network: network.map(str::to_owned), ports: ports.to_vec() }
}

#[tokio::test]
async fn all_traffic_is_cut_and_comes_back() {
    if skipped() {
        return;
    }
    let w = World::new();
    assert!(w.leaves(PEER) && w.enters(0));
    // A connection that is open.
    let peer = w.peer.id();
    let listener = within(peer, || TcpListener::bind(format!("{PEER}:0")).unwrap());
    let at = listener.local_addr().unwrap();
    let mut near = within(w.pod.id(), move || TcpStream::connect(at).unwrap());
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    near.write_all(b"a").unwrap();
    far.read_exact(&mut [0]).unwrap();

    let at = w.at(vec![cut(None, &[], None)]);
    w.ask(Step::Look, &at).await.unwrap();
    assert!(w.leaves(PEER), "a look changes nothing");
    assert!(!w.ask(Step::Revert, &at).await.unwrap().lifted, "without an inject there is nothing to undo");
    let seen = w.ask(Step::Inject, &at).await.unwrap();
    assert!(seen.effective && seen.left && seen.broken.is_none(), "{seen:?}");
    assert!(!w.leaves(PEER) && !w.enters(0));
    near.write_all(b"b").unwrap();
    let error = far.read_exact(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    // What the pod says to itself passes.
    assert!(reaches(w.pod.id(), w.pod.id(), "127.0.0.1", 0) && reaches(w.pod.id(), w.pod.id(), POD, 0));
    // Twice is as good as once.
    assert!(w.ask(Step::Inject, &at).await.unwrap().effective);
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(check.effective && !check.detail.contains(" 0 packets"), "{check:?}");
    assert!(w.ask(Step::Revert, &at).await.unwrap().lifted);
    assert!(w.leaves(PEER) && w.enters(0));
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    far.read_exact(&mut [0]).unwrap();
    assert!(!w.ask(Step::Revert, &at).await.unwrap().lifted);
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(!check.left && check.broken.is_some(), "{check:?}");
}

#[tokio::test]
async fn only_what_is_named_is_cut() {
    if skipped() {
        return;
    }
    let w = World::new();
    // One address of the peer's.
    let at = w.at(vec![cut(Some(&format!("{PEER}/32")), &[], None)]);
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(!w.leaves(PEER) && w.leaves(OTHER));
    w.ask(Step::Revert, &at).await.unwrap();
    // A network of any length.
    for (network, there, other) in [("10.77.8.0/23", true, false), ("10.77.0.0/16", false, false), ("10.77.0.0/25", false, true)] {
        let at = w.at(vec![cut(Some(network), &[], None)]);
        w.ask(Step::Inject, &at).await.unwrap();
        assert_eq!((w.leaves(PEER), w.leaves(OTHER)), (there, other), "{network}");
        w.ask(Step::Revert, &at).await.unwrap();
    }
    // A port of the pod's own, on the way in; nothing on the way out.
    let at = w.at(vec![cut(None, &[8080], Some(Direction::Ingress))]);
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(!w.enters(8080) && w.enters(8081));
    assert!(reaches(w.pod.id(), w.peer.id(), PEER, 8080));
    w.ask(Step::Revert, &at).await.unwrap();
    let at = w.at(vec![cut(None, &[8080], Some(Direction::Egress))]);
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(w.enters(8080) && !reaches(w.pod.id(), w.peer.id(), PEER, 8080) && reaches(w.pod.id(), w.peer.id(), PEER, 8081));
    w.ask(Step::Revert, &at).await.unwrap();
    // IPv6.
    for (pid, address) in [(w.pod.id(), "fd77::1"), (w.peer.id(), "fd77::2")] {
        ip(pid, &format!("addr add {address}/64 dev eth0 nodad"));
    }
    let v6 = |w: &World| {
        let bind = SocketAddr::from((Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2), 0));
        let listener = within(w.peer.id(), move || TcpListener::bind(bind).unwrap());
        let at = listener.local_addr().unwrap();
        within(w.pod.id(), move || TcpStream::connect_timeout(&at, SOON).is_ok())
    };
    // The first packet waits until both ends have found each other.
    let began = Instant::now();
    while !v6(&w) {
        assert!(began.elapsed() < Duration::from_secs(20), "the two never reach each other by IPv6");
    }
    let at = w.at(vec![cut(Some("fd77::2/127"), &[], None)]);
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(!v6(&w) && w.leaves(PEER));
    w.ask(Step::Revert, &at).await.unwrap();
    assert!(v6(&w));
}

#[tokio::test]
async fn the_end_of_the_helper_is_the_end_of_the_cut_however_it_comes() {
    if skipped() {
        return;
    }
    let mut w = World::new();
    let at = w.at(vec![cut(None, &[], None)]);
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(!w.leaves(PEER));
    // Killed outright: nothing of it runs any more, and its sockets are closed by the kernel.
    w.ended.abort();
    let _ = (&mut w.ended).await;
    assert!(w.leaves(PEER));
    (w.orders, w.ended) = helper(w.dir.path());
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(!check.left && !check.effective, "{check:?}");
    assert!(!w.ask(Step::Revert, &at).await.unwrap().lifted);
    // Told to end, as at the end of its time to live.
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(!w.leaves(PEER));
    w.orders.send(Order::End { why: "test".to_owned() }).await.unwrap();
    assert_eq!((&mut w.ended).await.unwrap().unwrap(), "gave shop/web-0 its traffic back");
    assert!(w.leaves(PEER));
}

#[tokio::test]
async fn a_node_is_never_cut_off_and_a_cut_of_another_helper_is_seen() {
    if skipped() {
        return;
    }
    let w = World::new();
    let mut at = w.at(vec![cut(None, &[], None)]);
    at.pod.uid = ON_NODE.to_owned();
    let error = w.ask(Step::Inject, &at).await.unwrap_err();
    assert!(error.contains("would cut off the node"), "{error}");
    at.pod.uid = "own".to_owned();
    assert!(w.ask(Step::Inject, &at).await.unwrap_err().contains("refused"));
    let none = w.at(Vec::new());
    assert!(w.ask(Step::Inject, &none).await.unwrap_err().contains("0 rules"));
    assert!(w.ask(Step::Inject, &w.at(vec![cut(Some("10.0.0.0/40"), &[], None)])).await.unwrap_err().contains("is not a network"));
    let at = w.at(vec![cut(None, &[], None)]);
    w.ask(Step::Inject, &at).await.unwrap();
    let (orders, _ended) = helper(w.dir.path());
    let (reply, answer) = oneshot::channel();
    let body = serde_json::to_value(NodeReq::Partitions { step: Step::Inject, at: vec![at.clone()] }).unwrap();
    orders.send(Order::Call { body, reply }).await.unwrap();
    let error = answer.await.unwrap().unwrap_err();
    assert!(error.contains("by another helper"), "{error}");
    assert!(w.ask(Step::Revert, &at).await.unwrap().lifted && w.leaves(PEER));
}
