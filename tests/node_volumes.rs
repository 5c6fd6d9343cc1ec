//! What a node helper does to real volumes: ext4 images, mounted by processes in mount namespaces of their own. Needs root, as a
//! node helper does.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use firedrill::{
    agent::{
        node::{Node, NodeReq},
        processes::{NodePod, Proc},
        server::Order,
        volume::{Step, VolumeAt, VolumeSeen, VolumesReport},
    },
    fault::{FillGoal, VolumeAct},
    journal::RevertResult,
    scenario::types::{Dur, Percent, Quantity},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

const UID: &str = "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
const MAIN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "77777777-4b5a-6978-8796-a5b4c3d2e1f0";
const NAME: &str = ".firedrill-drill-1-abc";

struct Helper {
    orders: mpsc::Sender<Order>,
    ended: JoinHandle<Result<String, String>>,
}

struct World {
    dir: tempfile::TempDir,
    children: Vec<Child>,
    helper: Helper,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether this machine lets its tests mount. Where it does not, they say so.
fn may_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: mounting needs root");
    }
    root
}

impl World {
    /// A pod with a volume of 64 MiB.
    fn new() -> Self {
        Self::sized(64 << 20)
    }

    fn sized(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Who mounts must be able to go through it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(dir.path().join("proc/1")).unwrap();
        symlink("/", dir.path().join("proc/1/root")).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        let helper = Helper::new(&dir.path().join("proc"));
        let mut w = Self { dir, children: Vec::new(), helper };
        let mount = format!("mount -o loop {0}/image {0}/data", w.dir.path().display());
        w.process(UID, &mount);
        w
    }

    /// A process of a pod, which first runs this in a mount namespace of its own. Gives its number.
    fn process(&mut self, uid: &str, first: &str) -> u32 {
        let ready = self.dir.path().join(format!("ready-{}", self.children.len()));
        let script = format!("{first} && touch {} && exec sleep 600", ready.display());
        let child =
            Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &script]).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        let began = Instant::now();
        while !ready.exists() || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c != "sleep\n") {
            assert!(began.elapsed() < Duration::from_secs(10), "the process is not ready: {script}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let entry = self.dir.path().join("proc").join(pid.to_string());
        fs::create_dir(&entry).unwrap();
        for file in ["stat", "status", "task", "root", "cmdline"] {
            symlink(Path::new("/proc").join(pid.to_string()).join(file), entry.join(file)).unwrap();
        }
        let own = format!("9613 600 254:0 /var/lib/kubelet/pods/{uid}/containers/main/1a2b /dev/termination-log rw - ext4 d rw\n");
        fs::write(entry.join("mountinfo"), own + &fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap()).unwrap();
        fs::write(entry.join("cgroup"), format!("0::/kubepods/burstable/pod{uid}/{MAIN}\n")).unwrap();
        pid
    }

    /// Ends a process, as a pod's deletion does.
    fn end(&mut self, pid: u32) {
        let child = self.children.iter_mut().find(|c| c.id() == pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(self.dir.path().join("proc").join(pid.to_string())).unwrap();
    }

    fn pid(&self) -> u32 {
        self.children[0].id()
    }

    fn mount(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    /// A path on the volume, as this process reaches it.
    fn on(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root{}", self.pid(), self.mount()));
        root.join(path)
    }

    fn free(&self) -> u64 {
        let s = rustix::fs::statvfs(self.on("").as_os_str()).unwrap();
        s.f_bavail * s.f_frsize
    }

    fn at(&self, act: VolumeAct) -> VolumeAt {
        let pod = NodePod { uid: UID.to_owned(), name: "shop/orders-0".to_owned(), containers: Vec::new(), ids: BTreeMap::new() };
        VolumeAt {
            pod,
            container: "main".to_owned(),
            mount: self.mount(),
            id: None,
            name: NAME.to_owned(),
            act,
            of_node: false,
            declared: None,
        }
    }

    async fn ask(&self, step: Step, at: &VolumeAt) -> Result<VolumeSeen, String> {
        self.helper.ask(step, at).await
    }

    /// A helper that knows nothing of what the first one did.
    fn another(&mut self) {
        self.helper.ended.abort();
        self.helper = Helper::new(&self.dir.path().join("proc"));
    }

    async fn goodbye(&mut self) -> Result<String, String> {
        self.helper.orders.send(Order::End { why: "test".to_owned() }).await.unwrap();
        (&mut self.helper.ended).await.unwrap()
    }
}

impl Helper {
    fn new(proc: &Path) -> Self {
        let (orders, rx) = mpsc::channel(8);
        Self { orders, ended: tokio::spawn(Node::new(Proc::at(proc.to_owned()), "own".to_owned()).run(rx)) }
    }

    async fn ask(&self, step: Step, at: &VolumeAt) -> Result<VolumeSeen, String> {
        let (reply, answer) = oneshot::channel();
        let body = serde_json::to_value(NodeReq::Volumes { step, at: vec![at.clone()] }).unwrap();
        self.orders.send(Order::Call { body, reply }).await.unwrap();
        let report: VolumesReport = serde_json::from_value(answer.await.unwrap()?).unwrap();
        Ok(report.volumes.into_iter().next().unwrap())
    }
}

fn run(command: &mut Command) {
    let said = command.output().unwrap();
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
}

fn fill(goal: FillGoal, over: Option<Duration>) -> VolumeAct {
    VolumeAct::Fill { goal, over: over.map(Dur) }
}

fn share(percent: f64) -> FillGoal {
    FillGoal::Share(Percent(percent))
}

#[tokio::test]
async fn a_volume_is_filled_and_freed() {
    if !may_mount() {
        return;
    }
    let w = World::new();
    let before = w.free();
    let at = w.at(fill(share(90.0), None));
    let look = w.ask(Step::Look, &at).await.unwrap();
    let at = VolumeAt { id: look.id.clone(), ..at };
    assert!(!look.left && w.free() == before, "a look changes nothing");
    // Without an inject there is nothing to undo.
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Nothing));
    let seen = w.ask(Step::Inject, &at).await.unwrap();
    assert!(seen.effective && seen.broken.is_none() && seen.left, "{seen:?}");
    let used = 1.0 - w.free() as f64 / (before + 1) as f64;
    assert!((0.85..0.95).contains(&used), "{used}: {seen:?}");
    // Twice is as good as once.
    let free = w.free();
    assert!(w.ask(Step::Inject, &at).await.unwrap().effective);
    assert_eq!(w.free(), free);
    // It is as full as that already: another fault would change nothing.
    let other = VolumeAt { name: ".firedrill-drill-1-def".to_owned(), ..w.at(fill(share(50.0), None)) };
    let refused = w.ask(Step::Inject, &other).await.unwrap_err();
    assert!(refused.contains("would change nothing"), "{refused}");
    let reverted = w.ask(Step::Revert, &at).await.unwrap();
    assert!(reverted.result == Some(RevertResult::Reverted) && !reverted.left, "{reverted:?}");
    assert_eq!((w.free(), w.on(NAME).exists()), (before, false));
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Nothing));
}

#[tokio::test]
async fn a_nodes_own_disk_is_filled_down_to_what_its_kubelet_needs() {
    if !may_mount() {
        return;
    }
    let mut w = World::sized(1 << 30);
    fs::create_dir(w.on("kubelet")).unwrap();
    let (node, before) = (w.dir.path().join("proc/1"), w.free());
    // The node sees the volume as its own, and its kubelet says where it lives.
    fs::remove_file(node.join("root")).unwrap();
    for file in ["root", "mountinfo"] {
        symlink(format!("/proc/{}/{file}", w.pid()), node.join(file)).unwrap();
    }
    let kubelet = w.dir.path().join("proc/4242");
    fs::create_dir(&kubelet).unwrap();
    fs::write(kubelet.join("comm"), "kubelet\n").unwrap();
    fs::write(kubelet.join("cmdline"), format!("/usr/bin/kubelet\0--v=2\0--root-dir\0{}/kubelet/\0--config=x\0", w.mount())).unwrap();
    let of_node = |goal| VolumeAt { of_node: true, ..w.at(fill(goal, None)) };
    let refused = w.ask(Step::Inject, &of_node(FillGoal::Leave(Quantity(200 << 20)))).await.unwrap_err();
    assert!(refused.contains("the node needs 268435456 bytes to undo it"), "{refused}");
    let refused = w.ask(Step::Look, &of_node(share(99.0))).await.unwrap_err();
    assert!(refused.contains("to undo it") && w.free() == before, "{refused}");
    let at = of_node(FillGoal::Leave(Quantity(300 << 20)));
    let seen = w.ask(Step::Inject, &at).await.unwrap();
    assert!(seen.effective && seen.broken.is_none(), "{seen:?}");
    assert!(w.on("kubelet").join(NAME).exists(), "it is not in the kubelet's folder");
    assert!(w.free().abs_diff(300 << 20) < 1 << 20, "{} free", w.free());
    // A helper that knows nothing of it frees it.
    w.another();
    let reverted = w.ask(Step::Revert, &at).await.unwrap();
    assert_eq!((reverted.result, reverted.left, w.free()), (Some(RevertResult::Reverted), false, before));
}

#[tokio::test]
async fn nothing_more_can_be_written_to_a_full_one() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    let before = w.free();
    let at = w.at(fill(FillGoal::Leave(Quantity(0)), None));
    let seen = w.ask(Step::Inject, &at).await.unwrap();
    assert!(seen.effective, "{seen:?}");
    // Not even by root, for whom a part of it is kept.
    let error = fs::write(w.on("more"), vec![1; 64 << 10]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    // The end of the helper, as at the end of its time to live.
    let said = w.goodbye().await.unwrap();
    assert!(said.contains("bytes given back"), "{said}");
    fs::remove_file(w.on("more")).unwrap();
    assert_eq!(w.free(), before);
}

#[tokio::test]
async fn a_slow_fill_rises_by_and_by() {
    if !may_mount() {
        return;
    }
    let w = World::new();
    let before = w.free();
    let at = w.at(fill(share(80.0), Some(Duration::from_secs(4))));
    let first = w.ask(Step::Inject, &at).await.unwrap();
    assert!(first.broken.is_none(), "{first:?}");
    let mut levels = vec![w.free()];
    let mut effective = false;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        levels.push(w.free());
        effective |= w.ask(Step::Check, &at).await.unwrap().effective;
    }
    assert!(levels.windows(2).take(4).all(|l| l[1] < l[0]), "{levels:?}");
    assert!(levels[2] > before / 3 && effective, "{levels:?}");
    let end = w.ask(Step::Check, &at).await.unwrap();
    assert!(end.effective && end.detail.contains("80.") || end.detail.contains("79."), "{end:?}");
    w.ask(Step::Revert, &at).await.unwrap();
    assert_eq!(w.free(), before);
    // It does not go on by itself.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(w.free(), before);
}

#[tokio::test]
async fn a_helper_that_came_later_finds_the_file_by_its_name() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    let before = w.free();
    let at = w.at(fill(share(70.0), None));
    w.ask(Step::Inject, &at).await.unwrap();
    w.another();
    assert!(w.on(NAME).exists(), "a helper that is killed outright undoes nothing");
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(check.effective && check.left, "{check:?}");
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Reverted));
    assert_eq!(w.free(), before);
}

#[tokio::test]
async fn a_pod_that_is_gone_leaves_its_volume_to_be_freed() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    let at = w.at(fill(share(70.0), None));
    let id = w.ask(Step::Look, &at).await.unwrap().id;
    let at = VolumeAt { id, ..at };
    w.ask(Step::Inject, &at).await.unwrap();
    // The node has the same device mounted too, elsewhere.
    let elsewhere = w.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let loops = Command::new("losetup").args(["-n", "-O", "NAME", "-j"]).arg(w.dir.path().join("image")).output().unwrap();
    let device = String::from_utf8(loops.stdout).unwrap();
    let node = w.process(OTHER, &format!("mount {} {}", device.trim(), elsewhere.display()));
    w.end(w.pid());
    let file = PathBuf::from(format!("/proc/{node}/root{}", elsewhere.join(NAME).display()));
    assert!(file.exists());
    let look = w.ask(Step::Look, &at).await.unwrap_err();
    assert!(look.contains("no process of container main"), "another pod's mount is no place for a new fault: {look}");
    let said = w.goodbye().await.unwrap();
    assert!(said.contains("bytes given back") && !file.exists(), "{said}");
}

#[tokio::test]
async fn what_others_do_to_the_file_is_seen_and_nothing_else_is_touched() {
    if !may_mount() {
        return;
    }
    let w = World::new();
    let victim = w.dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let at = w.at(fill(share(90.0), Some(Duration::from_secs(3))));
    w.ask(Step::Inject, &at).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Swapped for a link in the middle of the fill.
    fs::remove_file(w.on(NAME)).unwrap();
    symlink(&victim, w.on(NAME)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(!check.effective && check.broken.as_ref().is_some_and(|b| b.contains("replaced")), "{check:?}");
    let reverted = w.ask(Step::Revert, &at).await.unwrap();
    assert_eq!(reverted.result, Some(RevertResult::Superseded), "{reverted:?}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(w.on(NAME)).unwrap();
    // Removed.
    let at = w.at(fill(share(50.0), None));
    w.ask(Step::Inject, &at).await.unwrap();
    fs::remove_file(w.on(NAME)).unwrap();
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(check.broken.as_ref().is_some_and(|b| b.contains("was removed")), "{check:?}");
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Nothing));
}

#[tokio::test]
async fn what_is_no_volume_is_refused() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    let free = w.free();
    let all = fill(share(90.0), None);
    // No mount at all: the container's own file system.
    let at = VolumeAt { mount: w.dir.path().display().to_string(), ..w.at(all.clone()) };
    let error = w.ask(Step::Inject, &at).await.unwrap_err();
    assert!(error.contains("no volume is mounted there"), "{error}");
    let at = VolumeAt { mount: format!("{}/../data", w.mount()), ..w.at(all.clone()) };
    assert!(w.ask(Step::Inject, &at).await.unwrap_err().contains("no volume is mounted there"));
    // A folder of the node's own disk, mounted as a volume.
    let (folder, host) = (w.dir.path().join("bound"), w.dir.path().join("host"));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&host).unwrap();
    let own = "22222222-4b5a-6978-8796-a5b4c3d2e1f0";
    w.process(own, &format!("mount --bind {} {}", host.display(), folder.display()));
    let mut at = VolumeAt { mount: folder.display().to_string(), ..w.at(all.clone()) };
    at.pod.uid = own.to_owned();
    let error = w.ask(Step::Inject, &at).await.unwrap_err();
    let same = fs::metadata(&host).unwrap().dev() == fs::metadata("/").unwrap().dev();
    assert!(error.contains("the node's own disk") || !same && error.contains("memory"), "{error}");
    // One in memory.
    let memory = w.dir.path().join("memory");
    fs::create_dir(&memory).unwrap();
    let shm = "33333333-4b5a-6978-8796-a5b4c3d2e1f0";
    w.process(shm, &format!("mount -t tmpfs -o size=16m x {}", memory.display()));
    let mut at = VolumeAt { mount: memory.display().to_string(), ..w.at(all.clone()) };
    at.pod.uid = shm.to_owned();
    assert!(w.ask(Step::Inject, &at).await.unwrap_err().contains("in memory"));
    // The helper's own pod.
    let mut at = w.at(all);
    at.pod.uid = "own".to_owned();
    assert!(w.ask(Step::Inject, &at).await.unwrap_err().contains("refused"));
    assert_eq!((w.free(), fs::read_dir(&host).unwrap().count()), (free, 0));
}

fn corrupt(path: &str) -> VolumeAct {
    VolumeAct::Corrupt { path: path.to_owned(), bytes: 8 << 10, range: None }
}

/// What an undo would hold after a look.
async fn chosen(w: &World, act: VolumeAct) -> VolumeAt {
    let at = w.at(act);
    let seen = w.ask(Step::Look, &at).await.unwrap();
    VolumeAt { id: seen.id, act: seen.act.unwrap(), ..at }
}

#[tokio::test]
async fn a_file_is_damaged_and_mended() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    let whole: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    fs::create_dir(w.on("base")).unwrap();
    fs::write(w.on("base/16384"), &whole).unwrap();
    let read = |w: &World| fs::read(w.on("base/16384")).unwrap();
    let at = chosen(&w, corrupt("base/16384")).await;
    assert_eq!(read(&w), whole, "a look changes nothing");
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Nothing));
    let seen = w.ask(Step::Inject, &at).await.unwrap();
    assert!(seen.effective && seen.broken.is_none(), "{seen:?}");
    let damaged = read(&w);
    assert_eq!(damaged.iter().zip(&whole).filter(|(a, b)| a != b).count(), 8 << 10);
    assert!(w.ask(Step::Inject, &at).await.unwrap().effective);
    assert_eq!(read(&w), damaged, "twice is as good as once");
    // By a helper that knows only what the undo says.
    w.another();
    assert!(w.ask(Step::Check, &at).await.unwrap().effective);
    let reverted = w.ask(Step::Revert, &at).await.unwrap();
    assert_eq!((reverted.result, reverted.left), (Some(RevertResult::Reverted), false), "{reverted:?}");
    assert_eq!((read(&w), w.on(NAME).exists()), (whole.clone(), false));
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Nothing));
    // At the helper's end.
    let at = chosen(&w, corrupt("base/16384")).await;
    w.ask(Step::Inject, &at).await.unwrap();
    assert!(w.goodbye().await.unwrap().contains("put back"));
    assert_eq!((read(&w), w.on(NAME).exists()), (whole, false));
}

#[tokio::test]
async fn a_file_that_others_have_written_is_left_to_them() {
    if !may_mount() {
        return;
    }
    let w = World::new();
    let whole = vec![7u8; 40_000];
    fs::write(w.on("f"), &whole).unwrap();
    let at = chosen(&w, corrupt("f")).await;
    // Changed between the look and the inject: nothing is done.
    fs::write(w.on("f"), vec![8u8; 40_000]).unwrap();
    let error = w.ask(Step::Inject, &at).await.unwrap_err();
    assert!(error.contains("changed since"), "{error}");
    assert!(!w.on(NAME).exists());
    // An inject that was cut short in the middle of the range, and its revert.
    fs::write(w.on("f"), &whole).unwrap();
    let at = chosen(&w, corrupt("f")).await;
    w.ask(Step::Inject, &at).await.unwrap();
    let VolumeAct::Corrupt { range: Some(range), .. } = &at.act else { panic!("no range") };
    let (from, length) = (usize::try_from(range.offset).unwrap(), usize::try_from(range.length).unwrap());
    let mut half = fs::read(w.on("f")).unwrap();
    half[from + length / 2..from + length].fill(7);
    fs::write(w.on("f"), &half).unwrap();
    assert!(w.ask(Step::Check, &at).await.unwrap().broken.is_some());
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Reverted));
    assert_eq!(fs::read(w.on("f")).unwrap(), whole);
    // Somebody has written one byte of it.
    let at = chosen(&w, corrupt("f")).await;
    w.ask(Step::Inject, &at).await.unwrap();
    let mut theirs = fs::read(w.on("f")).unwrap();
    theirs[from] = 99;
    fs::write(w.on("f"), &theirs).unwrap();
    assert!(w.ask(Step::Check, &at).await.unwrap().broken.unwrap().contains("somebody has written"));
    let reverted = w.ask(Step::Revert, &at).await.unwrap();
    assert_eq!(reverted.result, Some(RevertResult::Superseded), "{reverted:?}");
    assert_eq!(fs::read(w.on("f")).unwrap(), theirs);
    assert_eq!(fs::read(w.on(&format!("{NAME}/original"))).unwrap(), &whole[..length]);
    // Another file in its place.
    fs::remove_dir_all(w.on(NAME)).unwrap();
    fs::write(w.on("f"), &whole).unwrap();
    let at = chosen(&w, corrupt("f")).await;
    w.ask(Step::Inject, &at).await.unwrap();
    fs::write(w.on("g"), "new").unwrap();
    fs::rename(w.on("g"), w.on("f")).unwrap();
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Superseded));
    assert_eq!(fs::read_to_string(w.on("f")).unwrap(), "new");
}

#[tokio::test]
async fn files_are_taken_away_and_brought_back() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    fs::create_dir_all(w.on("base/sub")).unwrap();
    for (path, text) in [("base/a.db", "a"), ("base/b.db", "b"), ("base/keep.txt", "k"), ("base/sub/c", "c"), (".firedrill-x", "x")] {
        fs::write(w.on(path), text).unwrap();
    }
    let delete = |path: &str| VolumeAct::Delete { path: path.to_owned() };
    let at = w.at(delete("base/*.db"));
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Nothing));
    let seen = w.ask(Step::Inject, &at).await.unwrap();
    assert!(seen.effective && seen.detail.contains("2 of 2"), "{seen:?}");
    let names = |w: &World| {
        let mut names: Vec<String> = fs::read_dir(w.on("base")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&w), ["keep.txt", "sub"]);
    assert!(w.ask(Step::Inject, &at).await.unwrap().effective);
    w.another();
    let inode = |w: &World, at: &str| fs::metadata(w.on(at)).unwrap().ino();
    assert_eq!(w.ask(Step::Revert, &at).await.unwrap().result, Some(RevertResult::Reverted));
    assert_eq!((names(&w).len(), w.on(NAME).exists()), (4, false));
    // A folder with all that is in it, and the end of the helper.
    let before = inode(&w, "base/sub/c");
    w.ask(Step::Inject, &w.at(delete("base/s*"))).await.unwrap();
    assert!(!w.on("base/sub").exists());
    assert!(w.goodbye().await.unwrap().contains("1 files and folders put back"));
    assert_eq!(inode(&w, "base/sub/c"), before);
    // Somebody has made a new one: it is left alone, and the old one is kept.
    w.another();
    w.ask(Step::Inject, &at).await.unwrap();
    fs::write(w.on("base/a.db"), "new").unwrap();
    let check = w.ask(Step::Check, &at).await.unwrap();
    assert!(!check.effective && check.broken.unwrap().contains("base/a.db"));
    let reverted = w.ask(Step::Revert, &at).await.unwrap();
    assert_eq!(reverted.result, Some(RevertResult::Superseded), "{reverted:?}");
    let read = |path: &str| fs::read_to_string(w.on(path)).unwrap();
    assert_eq!((read("base/a.db"), read("base/b.db"), read(&format!("{NAME}/0"))), ("new".to_owned(), "b".to_owned(), "a".to_owned()));
    // What is ours, and what there is not.
    for nothing in ["*.none", ".fire*", "lost+found", "base/a.db/x"] {
        let at = VolumeAt { name: ".firedrill-drill-1-none".to_owned(), ..w.at(delete(nothing)) };
        let error = w.ask(Step::Inject, &at).await.unwrap_err();
        assert!(error.contains("nothing matches") || error.contains("Not a directory"), "{nothing}: {error}");
    }
}

#[tokio::test]
async fn no_path_leads_out_of_a_volume() {
    if !may_mount() {
        return;
    }
    let mut w = World::new();
    let victim = w.dir.path().join("outside");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("f"), vec![5; 9000]).unwrap();
    fs::create_dir(w.on("in")).unwrap();
    fs::write(w.on("in/f"), vec![5; 9000]).unwrap();
    symlink(&victim, w.on("link")).unwrap();
    symlink(victim.join("f"), w.on("file")).unwrap();
    for path in ["../outside/f", "in/../../outside/f", "link/f", "file", "/..", ""] {
        for act in [corrupt(path), VolumeAct::Delete { path: path.to_owned() }] {
            // A link itself may be taken away: it is on the volume, and comes back as it was.
            if matches!(&act, VolumeAct::Delete { path } if path == "file") {
                continue;
            }
            let error = w.ask(Step::Inject, &w.at(act.clone())).await.unwrap_err();
            assert!(!error.is_empty() && !w.on(NAME).exists(), "{act:?}: {error}");
        }
    }
    // Swapped for a link between the look and the inject.
    let at = chosen(&w, corrupt("in/f")).await;
    fs::rename(w.on("in"), w.on("was")).unwrap();
    symlink(&victim, w.on("in")).unwrap();
    let error = w.ask(Step::Inject, &at).await.unwrap_err();
    assert!(error.contains("symbolic link"), "{error}");
    fs::remove_file(w.on("in")).unwrap();
    fs::rename(w.on("was"), w.on("in")).unwrap();
    // And between the inject and the revert.
    w.ask(Step::Inject, &at).await.unwrap();
    fs::rename(w.on("in"), w.on("was")).unwrap();
    symlink(&victim, w.on("in")).unwrap();
    let error = w.ask(Step::Revert, &at).await.unwrap_err();
    assert!(error.contains("symbolic link"), "{error}");
    assert_eq!(fs::read(victim.join("f")).unwrap(), vec![5; 9000]);
    // Another mount below the volume is another volume.
    fs::create_dir(w.on("nested")).unwrap();
    let nested = format!("{}/nested", w.mount());
    let root = format!("nsenter -t {} -m mount -t tmpfs x {nested}", w.pid());
    run(Command::new("sh").args(["-c", &root]));
    fs::write(w.on("nested/f"), "x").unwrap();
    let at = VolumeAt { name: ".firedrill-drill-1-xdev".to_owned(), ..w.at(VolumeAct::Delete { path: "nested/f".to_owned() }) };
    let error = w.ask(Step::Inject, &at).await.unwrap_err();
    assert!(error.contains("out of the volume"), "{error}");
    assert!(w.on("nested/f").exists());
    w.another();
}
