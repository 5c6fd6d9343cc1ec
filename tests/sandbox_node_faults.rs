//! The contract of lost nodes, in the sandbox: the real helper on a modelled node, every case for one node and for two as one.
//!
//! With FIREDRILL_FAULT_TABLE a line is added to that file for each case that ran: fault, case, where, ok.

#[path = "sandbox_controllers/world.rs"]
mod world;

use std::{io::Write as _, sync::Arc, time::Duration};

use firedrill::{
    clock::Clock,
    cluster::Cluster,
    fault::{self, FaultCx, Helpers, Undo},
    journal::RevertResult,
    labels,
    plan::{Plan, ResolvedObject},
    sandbox::Signal,
    scenario::types::{EnvironmentSpec, FaultSpec},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Namespace, Node, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::Instant;
use world::World;

const LIMIT: Duration = Duration::from_secs(120);
const TTL: Duration = Duration::from_secs(20);
const KINDS: [(&str, usize); 2] = [("loseNode", 1), ("loseZone", 2)];

struct Shop {
    world: World,
    cluster: Cluster,
    clock: Clock,
    nodes: Vec<Node>,
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

impl Shop {
    /// Three nodes, a pod on each, and the account that helpers lose nodes with.
    async fn new(count: usize) -> Self {
        let world = World::new(3).await;
        let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}, "annotations": {"sandbox.firedrill.dev/model": "shell"}}, "spec": {
                "containers": [{"name": "main", "image": "web:1", "command": ["sh", "-c", "while :; do sleep 5; done"]}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"app": "web"}}}],
            },
        }}});
        world.create::<Deployment>(web).await;
        world.until("they run", 120, "web", |d: &Deployment| d.status.as_ref().and_then(|s| s.ready_replicas) == Some(3)).await;
        let system: Namespace = world.get_all("kube-system").await;
        let cluster = Cluster::from_client(world.sandbox.client("admin"), "sandbox", system.uid().unwrap());
        let clock = Clock::virtual_at("runner", world.sandbox.now_us());
        let post = PostParams::default();
        let own: Namespace = serde_json::from_value(json!({"metadata": {"name": "firedrill"}})).unwrap();
        drop(cluster.cluster_api::<Namespace>().create(&post, &own).await);
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": labels::LOSS_ACCOUNT}})).unwrap();
        cluster.api::<ServiceAccount>("firedrill").create(&post, &account).await.unwrap();
        // What `plan --rbac` gives it: without these two verbs the helper refuses to lose anything.
        let leases = ["lost-n0", "lost-n1", "lost-n2"];
        let rules =
            json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": leases, "verbs": ["get", "patch"]}]);
        let role: Role = serde_json::from_value(json!({"metadata": {"name": "loss"}, "rules": rules})).unwrap();
        cluster.api::<Role>("firedrill").create(&post, &role).await.unwrap();
        let binding = json!({"metadata": {"name": "loss"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "loss"},
            "subjects": [{"kind": "ServiceAccount", "name": labels::LOSS_ACCOUNT, "namespace": "firedrill"}]});
        let binding: RoleBinding = serde_json::from_value(binding).unwrap();
        cluster.api::<RoleBinding>("firedrill").create(&post, &binding).await.unwrap();
        let mut nodes = world.list_all::<Node>().await;
        nodes.sort_by_key(|node| node.name_any());
        nodes.truncate(count);
        Self { world, cluster, clock, nodes }
    }

    fn cx(&self) -> FaultCx {
        let plan = Arc::new(Plan { place: EnvironmentSpec::default(), ..Plan::empty("t") });
        let helpers = Helpers::with_ttl(self.cluster.clone(), self.clock.clone(), Arc::clone(&plan), "drill-1", TTL);
        FaultCx { helpers, ..FaultCx::new(self.cluster.clone(), self.clock.clone(), plan, "drill-1") }
    }

    fn targets(&self) -> Vec<ResolvedObject> {
        let object = |node: &Node| ResolvedObject {
            kind: "Node".to_owned(),
            namespace: String::new(),
            name: node.name_any(),
            uid: node.uid().unwrap(),
            node: String::new(),
            owner: String::new(),
            ready: true,
            chosen: true,
        };
        self.nodes.iter().map(object).collect()
    }

    /// How many nodes are Ready.
    async fn ready(&self) -> usize {
        self.world.list_all::<Node>().await.iter().filter(|node| is_ready(node)).count()
    }

    /// Whether a command can be had from each of the pods on the lost nodes: a witness that knows nothing of helpers.
    async fn answer(&self) -> bool {
        let names: Vec<String> = self.nodes.iter().map(ResourceExt::name_any).collect();
        for pod in self.world.list::<Pod>("app=web").await {
            let on = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
            if names.contains(&on) && pod.metadata.deletion_timestamp.is_none() {
                let name = pod.name_any();
                let said = tokio::time::timeout(Duration::from_secs(2), self.try_exec(&name)).await;
                if !matches!(said, Ok(true)) {
                    return false;
                }
            }
        }
        true
    }

    async fn try_exec(&self, pod: &str) -> bool {
        let params = kube::api::AttachParams::default().stderr(false);
        match self.world.api::<Pod>().exec(pod, ["sh", "-c", "echo here"], &params).await {
            Ok(mut process) => match process.take_status() {
                Some(status) => status.await.and_then(|s| s.status).as_deref() == Some("Success"),
                None => false,
            },
            Err(_) => false,
        }
    }

    async fn bite(&self, cx: &FaultCx, kind: &str) -> (FaultSpec, Undo) {
        let spec: FaultSpec = serde_json::from_value(json!({kind: {"target": "t"}})).unwrap();
        let prepared = fault::prepare(cx, &spec, &self.targets()).await.unwrap();
        fault::arm(cx, &spec, &prepared.undo).await.unwrap();
        assert!(self.answer().await && self.ready().await == 3, "arming breaks nothing");
        fault::inject(cx, &spec, &prepared.undo).await.unwrap();
        fault::effective(cx, &spec, &prepared.undo, LIMIT).await.unwrap();
        assert_eq!(fault::holds(cx, &spec, &prepared.undo).await.unwrap(), None);
        assert_eq!(self.ready().await, 3 - self.nodes.len(), "nothing is lost");
        let kept = serde_json::to_string(&prepared.undo).unwrap();
        (spec, serde_json::from_str(&kept).unwrap())
    }

    async fn revert(&self, cx: &FaultCx, undo: &Undo) -> RevertResult {
        // As the drill does it: a helper that is just ending is none, and the next try finds another one.
        let mut last = None;
        for _ in 0..10 {
            match fault::revert(cx, undo).await {
                Ok((result, _)) => return result,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("not reverted: {last:?}");
    }

    async fn gone(&self, cx: &FaultCx, undo: &Undo) {
        let began = Instant::now();
        fault::gone(cx, undo, LIMIT).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(15), "back after {:?}", began.elapsed());
        assert!(self.answer().await && self.ready().await == 3, "not all is back");
    }

    async fn end(&self, cx: &FaultCx) {
        assert_eq!(cx.helpers.remove_all(LIMIT).await, Vec::<String>::new());
        let leases = self.cluster.api::<Lease>("firedrill").list(&ListParams::default()).await.unwrap().items;
        assert_eq!(leases.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), Vec::<String>::new());
        self.world.stop().await;
    }
}

fn ran(kind: &str, case: &str) {
    println!("{kind}: {case}: ok");
    if let Some(path) = std::env::var_os("FIREDRILL_FAULT_TABLE").filter(|path| !path.is_empty()) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that tests beside each other do not mix their lines.
        file.write_all(format!("{kind}\t{case}\tsandbox\tok\n").as_bytes()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_are_lost_and_come_back_once_or_twice() {
    for (kind, count) in KINDS {
        let shop = Shop::new(count).await;
        let cx = shop.cx();
        let spec: FaultSpec = serde_json::from_value(json!({kind: {"target": "t"}})).unwrap();
        let prepared = fault::prepare(&cx, &spec, &shop.targets()).await.unwrap();
        assert_eq!(shop.revert(&cx, &prepared.undo).await, RevertResult::Nothing);
        assert!(fault::inject(&cx, &spec, &prepared.undo).await.is_err(), "it was not armed");
        shop.gone(&cx, &prepared.undo).await;
        ran(kind, "revert without inject");
        let (spec, undo) = shop.bite(&cx, kind).await;
        assert!(!shop.answer().await, "what runs on it answers");
        assert!(fault::gone(&cx, &undo, Duration::ZERO).await.is_err(), "{kind} is said to be gone while it is there");
        fault::inject(&cx, &spec, &undo).await.unwrap();
        fault::effective(&cx, &spec, &undo, LIMIT).await.unwrap();
        ran(kind, "inject twice");
        tokio::time::sleep(TTL * 3).await;
        assert_eq!(fault::holds(&cx, &spec, &undo).await.unwrap(), None);
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted, "{kind}");
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{kind}");
        shop.gone(&cx, &undo).await;
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{kind}");
        ran(kind, "inject, proof, revert, proof");
        ran(kind, "revert twice");
        // It can be had again.
        let (_, undo) = shop.bite(&cx, kind).await;
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted, "{kind}");
        shop.gone(&cx, &undo).await;
        shop.end(&cx).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_runner_gives_them_back_from_the_bare_undo() {
    for (kind, count) in KINDS {
        let shop = Shop::new(count).await;
        let lost = shop.cx();
        let (_, undo) = shop.bite(&lost, kind).await;
        lost.helpers.detach().await;
        let cx = shop.cx();
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted, "{kind}");
        shop.gone(&cx, &undo).await;
        ran(kind, "revert on another machine");
        let third = shop.cx();
        assert_eq!(shop.revert(&third, &undo).await, RevertResult::Nothing);
        shop.gone(&third, &undo).await;
        ran(kind, "second revert on another machine");
        shop.end(&third).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_renewals_their_helpers_give_them_back() {
    for (kind, count) in KINDS {
        let shop = Shop::new(count).await;
        let lost = shop.cx();
        let (_, undo) = shop.bite(&lost, kind).await;
        lost.helpers.detach().await;
        let detached = Instant::now();
        while !shop.answer().await {
            assert!(detached.elapsed() < TTL + Duration::from_secs(2), "{kind} is still there after {:?}", detached.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(detached.elapsed() > TTL / 2, "{kind} was undone at once");
        // The helper has yet to say so on the Lease: until then it is not known who has given the node back.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let cx = shop.cx();
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{kind}");
        shop.gone(&cx, &undo).await;
        ran(kind, "renewals stopped");
        shop.end(&cx).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_only_armed_leaves_nothing() {
    let shop = Shop::new(2).await;
    let cx = shop.cx();
    let spec: FaultSpec = serde_json::from_value(json!({"loseZone": {"target": "t"}})).unwrap();
    // Before the steady state, and again before the inject: another loss then, of the same nodes by the same helpers.
    for _ in 0..2 {
        let prepared = fault::prepare(&cx, &spec, &shop.targets()).await.unwrap();
        fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
        tokio::time::sleep(TTL).await;
    }
    assert!(shop.answer().await && shop.ready().await == 3, "arming breaks nothing");
    shop.end(&cx).await;
}

#[tokio::test(start_paused = true)]
async fn a_nodes_disk_is_filled_and_freed() {
    let shop = Shop::new(1).await;
    let name = shop.nodes[0].name_any();
    let pressed = async || {
        let node: Node = shop.world.get_all(&name).await;
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "DiskPressure" && c.status == "True")
    };
    let cx = shop.cx();
    let prepare = async |fault: serde_json::Value| {
        let spec: FaultSpec = serde_json::from_value(json!({"fillNodeDisk": fault})).unwrap();
        let prepared = fault::prepare(&cx, &spec, &shop.targets()).await;
        prepared.map(|prepared| (spec, prepared.undo)).map_err(|error| error.to_string())
    };
    let refused = prepare(json!({"target": "t", "leave": "0"})).await.unwrap_err();
    assert!(refused.contains("to undo it"), "{refused}");
    let refused = prepare(json!({"target": "t", "path": "/", "to": "95%"})).await.unwrap_err();
    assert!(refused.contains("`path: /` is refused"), "{refused}");
    let (spec, undo) = prepare(json!({"target": "t", "to": "95%"})).await.unwrap();
    assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing);
    fault::gone(&cx, &undo, LIMIT).await.unwrap();
    ran("fillNodeDisk", "revert without inject");
    fault::arm(&cx, &spec, &undo).await.unwrap();
    assert!(!pressed().await, "arming fills nothing");
    fault::inject(&cx, &spec, &undo).await.unwrap();
    fault::effective(&cx, &spec, &undo, LIMIT).await.unwrap();
    fault::inject(&cx, &spec, &undo).await.unwrap();
    ran("fillNodeDisk", "inject twice");
    assert!(fault::gone(&cx, &undo, Duration::ZERO).await.is_err(), "it is said to be gone while it is there");
    // Longer than it takes a kubelet to evict all that it may, and than without renewals.
    tokio::time::sleep(TTL * 6).await;
    assert!(pressed().await, "its kubelet has room");
    assert_eq!(fault::holds(&cx, &spec, &undo).await.unwrap(), None, "its own kubelet must not evict the helper");
    assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted);
    assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing);
    fault::gone(&cx, &undo, LIMIT).await.unwrap();
    ran("fillNodeDisk", "inject, proof, revert, proof");
    ran("fillNodeDisk", "revert twice");
    shop.end(&cx).await;
}

/// Also by a helper that has to get onto a node whose kubelet takes in next to nobody.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_freed_without_its_runner() {
    for case in ["revert on another machine", "renewals stopped", "helper killed"] {
        let shop = Shop::new(1).await;
        let cx = shop.cx();
        let spec: FaultSpec = serde_json::from_value(json!({"fillNodeDisk": {"target": "t", "to": "95%"}})).unwrap();
        let prepared = fault::prepare(&cx, &spec, &shop.targets()).await.unwrap();
        fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
        fault::inject(&cx, &spec, &prepared.undo).await.unwrap();
        fault::effective(&cx, &spec, &prepared.undo, LIMIT).await.unwrap();
        // Its kubelet has seen it by then.
        tokio::time::sleep(TTL * 2).await;
        let helpers: Api<Pod> = shop.cluster.api("firedrill");
        let helper = helpers.list(&ListParams::default()).await.unwrap().items.pop().unwrap();
        cx.helpers.detach().await;
        match case {
            "renewals stopped" => tokio::time::sleep(TTL + Duration::from_secs(2)).await,
            "helper killed" => {
                let container = &helper.spec.as_ref().unwrap().containers[0].name;
                shop.world.sandbox.signal("firedrill", &helper.name_any(), container, Signal::Kill).unwrap();
            }
            _ => {}
        }
        let other = shop.cx();
        let wanted = if case == "renewals stopped" { RevertResult::Nothing } else { RevertResult::Reverted };
        assert_eq!(shop.revert(&other, &prepared.undo).await, wanted, "{case}");
        fault::gone(&other, &prepared.undo, LIMIT).await.unwrap();
        ran("fillNodeDisk", case);
        shop.end(&other).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_taken_out_of_the_cluster_is_not_missed() {
    let shop = Shop::new(1).await;
    let cx = shop.cx();
    let (spec, undo) = shop.bite(&cx, "loseNode").await;
    shop.world.delete_all::<Node>(&shop.nodes[0].name_any()).await;
    assert!(fault::holds(&cx, &spec, &undo).await.unwrap().is_some(), "that the node is gone was not seen");
    assert_eq!(shop.revert(&cx, &undo).await, RevertResult::TargetGone);
    fault::gone(&cx, &undo, LIMIT).await.unwrap();
    assert!(fault::prepare(&cx, &spec, &shop.targets()).await.is_err(), "what is gone could be prepared again");
    ran("loseNode", "target gone");
    drop(shop.world.api::<Pod>().delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await);
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_change_is_seen_and_other_drills_are_kept_out() {
    let shop = Shop::new(1).await;
    let cx = shop.cx();
    let (spec, undo) = shop.bite(&cx, "loseNode").await;
    let plan = Arc::clone(&cx.plan);
    let other = FaultCx::new(shop.cluster.clone(), shop.clock.clone(), plan, "drill-2");
    let error = fault::prepare(&other, &spec, &shop.targets()).await.unwrap_err().to_string();
    assert!(error.contains("not Ready") || error.contains("drill-1"), "{error}");
    // Somebody asks for the node on the Lease.
    let api: Api<Lease> = shop.cluster.api("firedrill");
    let lease = labels::loss_lease(&shop.nodes[0].name_any());
    let back = json!({"metadata": {"annotations": {labels::LOSS_BACK: "somebody"}}});
    api.patch(&lease, &PatchParams::default(), &Patch::Merge(&back)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let broken = fault::holds(&cx, &spec, &undo).await.unwrap().unwrap();
    assert!(broken.contains("not lost any more"), "{broken}");
    assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing);
    shop.gone(&cx, &undo).await;
    ran("loseNode", "value changed by others");
    shop.end(&cx).await;
}

/// Three nodes, and a web on two of them.
const WORLD: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Environment
metadata: {name: small}
spec:
  clusters: {main: {uid: sandbox}}
  firedrill: {image: "localhost/firedrill:1"}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {firedrill.dev/drills: allowed, topology.kubernetes.io/zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {firedrill.dev/drills: allowed, topology.kubernetes.io/zone: b}}
---
apiVersion: v1
kind: Node
metadata: {name: n3, labels: {firedrill.dev/drills: allowed, topology.kubernetes.io/zone: c}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {firedrill.dev/drills: allowed}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {sandbox.firedrill.dev/model: web}}
    spec:
      containers: [{name: web, image: "localhost/web:1", ports: [{containerPort: 80}]}]
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
"#;

/// A zone is lost twice in one drill.
const SCENARIO: &str = r#"
apiVersion: firedrill.dev/v1alpha1
kind: Scenario
metadata: {name: zone-away}
spec:
  summary: A zone is lost and comes back, twice.
  targets: {zone: {zone: b}}
  limits: {pods: 9, nodes: 1, duration: 30m}
  probes:
    site: {http: {url: "http://web.shop/"}, every: 250ms, timeout: 500ms}
  steadyState: {good: [site], for: 2s, timeout: 1m}
  steps:
    - name: lose it
      inject: {loseZone: {target: zone}}
    - waitFor: {probe: site, state: good, for: 20s, timeout: 5m}
    - revert: lose it
    - name: lose it again
      inject: {loseNode: {target: zone}, for: 1m}
    - hold: 2m
    - waitFor: {probe: site, state: good, for: 20s, timeout: 5m}
  objectives:
    - recoveryTime: {probe: site, after: lose it, within: 3m, stableFor: 10s}
"#;

/// The command itself: plan, helpers placed before the steady state, guards asked again with a helper on the node, reverts, and nothing left.
#[test]
fn a_drill_loses_a_zone_twice_and_ends_clean() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("world.yaml"), WORLD).unwrap();
    std::fs::write(place.path().join("scenario.yaml"), SCENARIO).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(["run", "scenario.yaml", "--sandbox", "--pace", "max", "--yes", "--seed", "7"]).current_dir(place.path());
    let output = command.env_remove("KUBECONFIG").env_remove("FIREDRILL_ENVIRONMENT").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("PASSED") && said.contains("node n2: stopped by signals"), "{said}");
}
