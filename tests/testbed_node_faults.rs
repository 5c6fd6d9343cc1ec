//! Nodes that are lost, on real kubelets: what stands still, how soon, what the cluster makes of it, and that nodes come back whatever
//! becomes of runner and helper.
//!
//! `tests/testbed/testbed up`, then `FIREDRILL_TESTBED_KUBECONFIG=… cargo test --test testbed_node_faults -- --nocapture`. It must run on the
//! testbed's machine as root: it looks at the nodes' processes from outside, and kills some. Without a cluster it says that it is skipped.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fault_kit::{LIMIT, Table, World, bite, connect, ensure, from, kubeconfig, resolved, spec, unique, until};
use firedrill::{
    agent::pods::ensure_namespace,
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    labels,
    plan::ResolvedObject,
    scenario::types::{FaultSpec, OwnPlace},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Namespace, Node, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

/// The helpers' time to live here.
const TTL: Duration = Duration::from_secs(6);
/// A node is Ready again so soon after its revert.
const BACK: Duration = Duration::from_secs(15);
/// What the process that is to be killed as the runner is told by.
const CHILD: &str = "FIREDRILL_TESTBED_LOSS_CHILD";

struct Case {
    w: World,
    own: OwnPlace,
    cx: FaultCx,
    nodes: Vec<Node>,
    /// What the victim's process is called.
    mark: String,
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The account that helpers lose their nodes with, and what `plan --rbac` gives it.
async fn account(w: &World, own: &str, nodes: &[String]) {
    let cluster = &w.cluster;
    let post = PostParams::default();
    let account = json!({"metadata": {"name": labels::LOSS_ACCOUNT}});
    cluster.api::<ServiceAccount>(own).create(&post, &from(account)).await.unwrap();
    let leases: Vec<String> = nodes.iter().map(|node| labels::loss_lease(node)).collect();
    let rules =
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": leases, "verbs": ["get", "patch"]}]);
    cluster.api::<Role>(own).create(&post, &from(json!({"metadata": {"name": "loss"}, "rules": rules}))).await.unwrap();
    let binding = json!({"metadata": {"name": "loss"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "loss"},
        "subjects": [{"kind": "ServiceAccount", "name": labels::LOSS_ACCOUNT, "namespace": own}]});
    cluster.api::<RoleBinding>(own).create(&post, &from(binding)).await.unwrap();
}

/// The processes of this machine with such a command line, each with its state.
fn processes(mark: &str) -> Vec<(i32, char)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("cmdline").replace('\0', " ").contains(mark) {
            let stat = read("stat");
            found.push((pid, stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('-')));
        }
    }
    found
}

impl Case {
    /// A Deployment of one pod that leaves a lost node after three seconds, and the node that it runs on; with `count` more nodes beside.
    async fn new(w: World, own: OwnPlace, count: usize) -> Self {
        // A node that was lost is Ready before its taints are gone, and a pod that comes to it in between is evicted.
        let at_rest = |node: &Node| is_ready(node) && node.spec.as_ref().is_none_or(|spec| spec.taints.iter().flatten().next().is_none());
        until("all nodes are ready, without a taint", || async { nodes(&w).await.iter().all(at_rest) }).await;
        let name = unique("victim");
        let mark = format!("sleep 9{:06}", rand::random::<u32>() % 1_000_000);
        let stays = |taint: &str| json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3});
        let deployment = json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "tolerations": [stays("not-ready"), stays("unreachable")], "containers": [
                {"name": "main", "image": "localhost/toolbox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", format!("{mark} & wait")]}]},
        }}});
        w.create::<Deployment>(deployment).await;
        let cx = w.cx(&unique("drill"), &[("t", &[])], own.clone(), TTL);
        let mut case = Self { w, own, cx, nodes: Vec::new(), mark };
        until("the victim runs", || async { !case.running().await.is_empty() && !case.witness().is_empty() }).await;
        let on = case.running().await.pop().and_then(|p| p.spec?.node_name).unwrap();
        let mut all = nodes(&case.w).await;
        all.sort_by_key(|node| node.name_any() != on);
        all.truncate(count);
        case.nodes = all;
        case
    }

    /// The victim's pods that run and are ready.
    async fn running(&self) -> Vec<Pod> {
        let pods = self.w.cluster.api::<Pod>(&self.w.ns).list(&ListParams::default()).await.unwrap().items;
        let ready = |p: &Pod| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
        pods.into_iter().filter(|p| ready(p) && p.metadata.deletion_timestamp.is_none()).collect()
    }

    fn objects(&self) -> Vec<ResolvedObject> {
        self.nodes.iter().map(|node| resolved("Node", node)).collect()
    }

    async fn bite(&self, fault: &FaultSpec) -> Result<Undo, String> {
        bite(&self.cx, fault, &self.objects()).await
    }

    /// How the victim's process on its first node is: those of other nodes go on.
    fn witness(&self) -> Vec<char> {
        processes(&self.mark).into_iter().map(|(_, state)| state).collect()
    }

    async fn ready_within(&self, limit: Duration) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            let all = nodes(&self.w).await;
            if all.iter().all(is_ready) {
                return Ok(began.elapsed());
            }
            ensure(began.elapsed() < limit, format!("not Ready within {} s", limit.as_secs()))?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn helpers(&self) -> Vec<Pod> {
        let selector = format!("{}={}", labels::DRILL, self.cx.drill);
        self.w.cluster.api::<Pod>(&self.own.namespace).list(&ListParams::default().labels(&selector)).await.unwrap().items
    }

    async fn end(self) -> (World, Vec<String>) {
        let mut left = self.cx.helpers.remove_all(LIMIT).await;
        left.extend(self.helpers().await.iter().map(|p| format!("pod {}", p.name_any())));
        let leases = self.w.cluster.api::<Lease>(&self.own.namespace).list(&ListParams::default()).await.unwrap();
        left.extend(leases.items.iter().map(|lease| format!("Lease {}", lease.name_any())));
        left.extend(processes("agent guard").into_iter().map(|(pid, _)| format!("guard {pid}")));
        left.extend(self.ready_within(LIMIT).await.err());
        let _ = self.w.cluster.api::<Deployment>(&self.w.ns).delete_collection(&DeleteParams::background(), &ListParams::default()).await;
        (self.w, left)
    }
}

async fn nodes(w: &World) -> Vec<Node> {
    w.cluster.cluster_api::<Node>().list(&ListParams::default()).await.unwrap().items
}

fn lose() -> FaultSpec {
    spec(json!({"loseNode": {"target": "t"}}))
}

async fn lost_and_back(c: &Case, fault: FaultSpec) -> Result<String, String> {
    ensure(c.witness().iter().all(|s| *s == 'S') && !c.witness().is_empty(), format!("before the fault: {:?}", c.witness()))?;
    let prepared = fault::prepare(&c.cx, &fault, &c.objects()).await.map_err(|e| e.to_string())?;
    fault::arm(&c.cx, &fault, &prepared.undo).await.map_err(|e| format!("arm: {e}"))?;
    ensure(c.witness().iter().all(|s| *s == 'S'), "arming stopped something")?;
    let (start, end) = fault::inject(&c.cx, &fault, &prepared.undo).await.map_err(|e| format!("inject: {e}"))?;
    let injected_ms = (end.mono_us - start.mono_us) / 1000;
    // By then the last workload stands still.
    ensure(c.witness().iter().all(|s| *s == 'T'), format!("after the inject: {:?}", c.witness()))?;
    ensure(injected_ms <= 500, format!("inject took {injected_ms} ms"))?;
    let (at, proof) = fault::effective(&c.cx, &fault, &prepared.undo, LIMIT).await.map_err(|e| format!("effective: {e}"))?;
    let word_ms = (at.mono_us - start.mono_us) / 1000;
    let missed_ms = (c.cx.clock.now().mono_us - start.mono_us) / 1000;
    fault::inject(&c.cx, &fault, &prepared.undo).await.map_err(|e| format!("second inject: {e}"))?;
    let lost: Vec<String> = c.nodes.iter().map(|n| n.name_any()).collect();
    if lost.len() < 3 {
        let elsewhere = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some_and(|node| !lost.contains(node));
        until("the victim runs elsewhere", || async { c.running().await.iter().any(elsewhere) }).await;
    }
    let moved_ms = (c.cx.clock.now().mono_us - start.mono_us) / 1000;
    // Longer than without renewals.
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    let holds = fault::holds(&c.cx, &fault, &prepared.undo).await.map_err(|e| format!("holds: {e}"))?;
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    let asked = Instant::now();
    let (result, said) = fault::revert(&c.cx, &prepared.undo).await.map_err(|e| format!("revert: {e}"))?;
    let back_ms = asked.elapsed().as_millis();
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    ensure(c.witness().iter().all(|s| *s != 'T'), format!("after the revert: {:?}", c.witness()))?;
    c.ready_within(BACK).await?;
    let ready_ms = asked.elapsed().as_millis();
    let (second, said) = fault::revert(&c.cx, &prepared.undo).await.map_err(|e| format!("second revert: {e}"))?;
    ensure(second == RevertResult::Nothing, format!("the second revert: {second:?}: {said}"))?;
    let (_, gone) = fault::gone(&c.cx, &prepared.undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    Ok(format!(
        "inject {injected_ms} ms, its word after {word_ms} ms, not ready after {missed_ms} ms, elsewhere after {moved_ms} ms; \
         given back in {back_ms} ms, Ready after {ready_ms} ms; {proof}; {gone}"
    ))
}

async fn without_inject(c: &Case) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &lose(), &c.objects()).await.map_err(|e| e.to_string())?;
    let (result, said) = fault::revert(&c.cx, &prepared.undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    fault::arm(&c.cx, &lose(), &prepared.undo).await.map_err(|e| format!("arm: {e}"))?;
    let (result, said) = fault::revert(&c.cx, &prepared.undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Nothing, format!("armed, {result:?}: {said}"))?;
    let late = fault::inject(&c.cx, &lose(), &prepared.undo).await;
    ensure(late.is_err(), "it could be injected after its revert")?;
    fault::gone(&c.cx, &prepared.undo, LIMIT).await.map(|(_, proof)| proof).map_err(|e| format!("gone: {e}"))
}

/// The runner is a process of its own, and killed outright.
async fn runner_killed(c: &Case, config: &str) -> Result<String, String> {
    let told = json!({"kubeconfig": config, "own": c.own, "drill": c.cx.drill, "ns": c.w.ns, "objects": c.objects()}).to_string();
    let test = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut runner = Command::new(test)
        .args(["--exact", "the_runner_that_is_killed", "--nocapture"])
        .env(CHILD, told)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut lines = BufReader::new(runner.stdout.take().ok_or("no output")?).lines();
    let undo = tokio::task::spawn_blocking(move || lines.find_map(|line| line.ok()?.strip_prefix("UNDO ").map(str::to_owned)));
    let undo = tokio::time::timeout(4 * LIMIT, undo).await;
    let state = c.witness();
    runner.kill().map_err(|e| e.to_string())?;
    let killed = Instant::now();
    runner.wait().map_err(|e| e.to_string())?;
    let undo = undo.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?.ok_or("the runner did not lose the node")?;
    let undo: Undo = serde_json::from_str(&undo).map_err(|e| e.to_string())?;
    ensure(state.contains(&'T'), format!("the node was not lost: {state:?}"))?;
    while c.witness().contains(&'T') {
        ensure(killed.elapsed() < TTL + Duration::from_secs(2), format!("still lost {:.1} s after", killed.elapsed().as_secs_f64()))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let thawed = killed.elapsed().as_secs_f64();
    ensure(thawed > 1.0, "it was not lost at all")?;
    let ready = c.ready_within(BACK).await?.as_secs_f64();
    until("the helper has ended", || async {
        c.helpers().await.iter().all(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded"))
    })
    .await;
    let (result, said) = fault::revert(&c.cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    fault::gone(&c.cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    Ok(format!("given back {thawed:.1} s after its runner was killed (time to live {} s), Ready {ready:.1} s later; {said}", TTL.as_secs()))
}

/// Killed outright: the kernel takes the cut, the guard lets all go on, and another runner's helper finds nothing left.
async fn helper_killed(c: &Case) -> Result<String, String> {
    let undo = c.bite(&lose()).await?;
    ensure(c.witness().contains(&'T'), "the node is not lost")?;
    let uid = c.helpers().await.pop().and_then(|p| p.uid()).ok_or("no helper")?;
    let helper = processes("agent node").into_iter().map(|(pid, _)| pid);
    let helper = helper.filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().contains(&uid));
    let pids: Vec<String> = helper.map(|pid| pid.to_string()).collect();
    ensure(!pids.is_empty(), "there was no helper to kill")?;
    ensure(Command::new("kill").arg("-KILL").args(&pids).status().is_ok_and(|s| s.success()), "it could not be killed")?;
    let killed = Instant::now();
    while c.witness().contains(&'T') {
        ensure(killed.elapsed() < Duration::from_secs(3), "its guard lets nothing go on")?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let thawed_ms = killed.elapsed().as_millis();
    let ready = c.ready_within(BACK).await?.as_secs_f64();
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    c.cx.helpers.detach().await;
    let (_, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(format!("all goes on {thawed_ms} ms after the helper was killed, Ready {ready:.1} s later; {said}"))
}

async fn another_runner(c: &Case) -> Result<String, String> {
    let undo = c.bite(&lose()).await?;
    c.cx.helpers.detach().await;
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(said)
}

/// Files of this drill's in the folders of kubelets, with what room they take: seen from outside, through each kubelet's own root.
fn fillers(drill: &str) -> Vec<u64> {
    let mut found = std::collections::BTreeMap::new();
    for (pid, _) in processes("kubelet") {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        let folder = words.find_map(|word| word.strip_prefix("--root-dir")).map(|rest| rest.trim_start_matches('=').to_owned());
        let folder = folder.map(|inline| if inline.is_empty() { words.next().unwrap_or_default().to_owned() } else { inline });
        let folder = folder.unwrap_or_else(|| "/var/lib/kubelet".to_owned());
        for entry in std::fs::read_dir(format!("/proc/{pid}/root{folder}")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!(".firedrill-{drill}")) {
                found.extend(entry.metadata().map(|m| (m.ino(), m.blocks() * 512)));
            }
        }
    }
    found.into_values().collect()
}

/// Some more of the nodes' disks than is used: a hundredth and a half of the fullest.
fn fill(c: &Case) -> Result<FaultSpec, String> {
    ensure(fillers(&c.cx.drill).is_empty(), "there is a file of the drill's before the fault")?;
    let disks =
        processes("kubelet").into_iter().filter_map(|(pid, _)| rustix::fs::statvfs(format!("/proc/{pid}/root/var/lib/kubelet")).ok());
    let used = disks.map(|d| (d.f_blocks - d.f_bfree) as f64 * 100.0 / (d.f_blocks - d.f_bfree + d.f_bavail) as f64);
    let most = used.filter(|share| *share < 90.0).fold(0.0, f64::max);
    ensure(most > 0.0, "no kubelet's disk was found, or all are full")?;
    Ok(spec(json!({"fillNodeDisk": {"target": "t", "to": format!("{:.1}%", most + 1.5)}})))
}

async fn filled_and_freed(c: &Case) -> Result<String, String> {
    let fault = fill(c)?;
    let full = fault::prepare(&c.cx, &spec(json!({"fillNodeDisk": {"target": "t", "leave": "1Mi"}})), &c.objects()).await;
    let refused = full.err().map(|e| e.to_string()).ok_or("a node's disk may be filled wholly")?;
    ensure(refused.contains("to undo it"), refused)?;
    let undo = c.bite(&fault).await?;
    let during = fillers(&c.cx.drill);
    ensure(during.len() == 1 && during[0] > 50 << 20, format!("on the disk: {during:?}"))?;
    fault::inject(&c.cx, &fault, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    let holds = fault::holds(&c.cx, &fault, &undo).await.map_err(|e| format!("holds: {e}"))?;
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    let (result, said) = fault::revert(&c.cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted && fillers(&c.cx.drill).is_empty(), format!("{result:?}: {said}"))?;
    let (second, said) = fault::revert(&c.cx, &undo).await.map_err(|e| format!("second revert: {e}"))?;
    ensure(second == RevertResult::Nothing, format!("the second revert: {second:?}: {said}"))?;
    fault::gone(&c.cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    Ok(format!("{} bytes taken; {said}", during[0]))
}

async fn freed_by_its_helper(c: &Case) -> Result<String, String> {
    let undo = c.bite(&fill(c)?).await?;
    ensure(!fillers(&c.cx.drill).is_empty(), "nothing was filled")?;
    c.cx.helpers.detach().await;
    let lost = Instant::now();
    while !fillers(&c.cx.drill).is_empty() {
        ensure(lost.elapsed() < TTL + Duration::from_secs(2), format!("still there {:.1} s after", lost.elapsed().as_secs_f64()))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = lost.elapsed().as_secs_f64();
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    until("the helper has ended", || async {
        c.helpers().await.iter().all(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded"))
    })
    .await;
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(format!("freed {after:.1} s after the runner was lost (time to live {} s)", TTL.as_secs()))
}

/// Not a test of its own: what is started and killed as the runner.
#[tokio::test]
async fn the_runner_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let cluster = connect(told["kubeconfig"].as_str().unwrap()).await;
    let own: OwnPlace = from(told["own"].clone());
    let objects: Vec<ResolvedObject> = from(told["objects"].clone());
    let w = World::existing(cluster, told["ns"].as_str().unwrap());
    let cx = w.cx(told["drill"].as_str().unwrap(), &[("t", &[])], own, TTL);
    let undo = bite(&cx, &lose(), &objects).await.unwrap();
    println!("UNDO {}", serde_json::to_string(&undo).unwrap());
    std::future::pending::<()>().await;
}

/// All cases, or those of them that FIREDRILL_TESTBED_ONLY is a part of.
#[tokio::test]
async fn lost_nodes_come_back() {
    let how = "a cluster with kubelets on this machine, and root: tests/testbed/testbed up";
    let Some(config) = kubeconfig("FIREDRILL_TESTBED_KUBECONFIG", how) else { return };
    let only = std::env::var("FIREDRILL_TESTBED_ONLY").unwrap_or_default();
    let cluster = connect(&config).await;
    let image = std::env::var("FIREDRILL_TESTBED_IMAGE").unwrap_or_else(|_| "localhost/firedrill:dev".to_owned());
    let own = OwnPlace { namespace: unique("own"), image, ..OwnPlace::default() };
    ensure_namespace(&cluster, &own.namespace).await.unwrap();
    let mut w = World::new(cluster, "victims").await;
    let all: Vec<String> = nodes(&w).await.iter().map(|n| n.name_any()).collect();
    account(&w, &own.namespace, &all).await;
    let mut table = Table::of("kubelets");
    let mut ran = 0;
    macro_rules! case {
        ($fault:literal, $case:literal, $count:expr, |$c:ident| $test:expr) => {
            if format!("{} {}", $fault, $case).contains(&only) {
                let $c = Case::new(w, own.clone(), $count).await;
                let outcome = Box::pin($test).await;
                let (world, left) = $c.end().await;
                w = world;
                let outcome = outcome.and_then(|said| ensure(left.is_empty(), format!("left behind: {left:?}")).map(|()| said));
                println!("{} {}: {outcome:?}", $fault, $case);
                table.add($fault, $case, outcome);
                ran += 1;
            }
        };
    }
    case!("loseNode", "inject, proof, revert, proof", 1, |c| lost_and_back(&c, lose()));
    case!("loseNode", "revert without inject", 1, |c| without_inject(&c));
    case!("loseNode", "renewals stopped", 1, |c| runner_killed(&c, &config));
    case!("loseNode", "helper killed", 1, |c| helper_killed(&c));
    case!("loseNode", "revert on another machine", 1, |c| another_runner(&c));
    case!("loseZone", "inject, proof, revert, proof", 2, |c| lost_and_back(&c, spec(json!({"loseZone": {"target": "t"}}))));
    case!("fillNodeDisk", "inject, proof, revert, proof", 1, |c| filled_and_freed(&c));
    case!("fillNodeDisk", "renewals stopped", 1, |c| freed_by_its_helper(&c));
    let namespaces = w.cluster.cluster_api::<Namespace>();
    let _ = namespaces.delete(&own.namespace, &DeleteParams::default()).await;
    w.end().await;
    if only.is_empty() || ran > 0 {
        table.end();
    }
}
