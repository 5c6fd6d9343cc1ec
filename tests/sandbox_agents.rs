//! Agents in the sandbox, placed and asked by the engine's own functions: what they do to containers is seen from outside.

#[path = "sandbox_controllers/world.rs"]
mod world;

use std::{sync::Arc, time::Duration};

use firedrill::{
    agent::{
        Link, LinkEvent, LinkSpec, Transport,
        observe::{Answered, Ask},
    },
    clock::Clock,
    cluster::Cluster,
    drill::{Drill, DrillOptions, Takeover},
    fault::{self, FaultCx, Helpers, Undo},
    gate::Gate,
    journal::{Disk, MemoryDisk, RevertResult},
    plan::{self, Inputs, Plan, ResolvedObject, ResolvedTarget},
    probe::{Observer, ProbeCx},
    sandbox::NodeState,
    scenario::types::{Dur, EnvironmentSpec, FaultSpec, Target},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use world::World;

/// The longest that a proof may take.
const LIMIT: Duration = Duration::from_secs(30);
const DRILL: &str = "drill-1";

fn echo(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "echo"}, "annotations": {"sandbox.firedrill.dev/model": "echo"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 5, "containers": [{"name": "main", "image": "echo:1"}]},
    })
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()).map_or(0, |all| all[0].restart_count)
}

/// A pod `a` on node n0 that answers on port 7 of a Service, and a pod `b` on n1 that nobody is to touch.
struct Shop {
    world: World,
    cluster: Cluster,
    clock: Clock,
}

impl Shop {
    async fn new() -> Self {
        let world = World::new(3).await;
        for (name, node) in [("a", "n0"), ("b", "n1")] {
            world.create::<Pod>(echo(name, node)).await;
            world.until("it is ready", 60, name, ready).await;
            let service =
                json!({"metadata": {"name": name}, "spec": {"clusterIP": "None", "selector": {"app": "echo"}, "ports": [{"port": 7}]}});
            world.create::<Service>(service).await;
        }
        let client = world.sandbox.client("admin");
        let own: Namespace = world.get_all("kube-system").await;
        let cluster = Cluster::from_client(client, "sandbox", own.uid().unwrap());
        let clock = Clock::virtual_at("runner", world.sandbox.now_us());
        Self { world, cluster, clock }
    }

    /// Whether the program of a pod answers.
    async fn answers(&self, pod: &str) -> bool {
        let pod: Pod = self.world.get(pod).await;
        let Some(ip) = pod.status.and_then(|s| s.pod_ip) else { return false };
        let exchange = async {
            let mut stream = self.world.sandbox.dialer(Some("shop")).connect(&ip, 7).await.ok()?;
            stream.write_all(b"x\n").await.ok()?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).await.ok()?;
            (answer == *b"x\n").then_some(())
        };
        timeout(Duration::from_millis(200), exchange).await.ok().flatten().is_some()
    }

    async fn until_it_answers(&self, pod: &str, limit: Duration) -> Duration {
        let began = Instant::now();
        while !self.answers(pod).await {
            assert!(began.elapsed() < limit, "{pod} does not answer within {limit:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        began.elapsed()
    }

    fn cx(&self, ttl: Duration) -> FaultCx {
        let target = ResolvedTarget { spec: Target::default(), objects: Vec::new(), matched: 0 };
        let plan = Plan { place: EnvironmentSpec::default(), targets: [("t".to_owned(), target)].into(), ..Plan::empty("t") };
        let plan = Arc::new(plan);
        let helpers = Helpers::with_ttl(self.cluster.clone(), self.clock.clone(), Arc::clone(&plan), DRILL, ttl);
        FaultCx { helpers, ..FaultCx::new(self.cluster.clone(), self.clock.clone(), plan, DRILL) }
    }

    /// The whole way of a fault on pod `a`, up to its proof.
    async fn bite(&self, cx: &FaultCx, fault: &Value) -> (Undo, String) {
        let spec: FaultSpec = serde_json::from_value(fault.clone()).unwrap();
        let pod: Pod = self.world.get("a").await;
        let target = ResolvedObject {
            kind: "Pod".to_owned(),
            namespace: "shop".to_owned(),
            name: "a".to_owned(),
            uid: pod.uid().unwrap(),
            node: String::new(),
            owner: String::new(),
            ready: true,
            chosen: true,
        };
        let prepared = fault::prepare(cx, &spec, &[target]).await.unwrap();
        fault::arm(cx, &spec, &prepared.undo).await.unwrap();
        assert!(self.answers("a").await, "arming breaks nothing");
        fault::inject(cx, &spec, &prepared.undo).await.unwrap();
        let (_, proof) = fault::effective(cx, &spec, &prepared.undo, LIMIT).await.unwrap();
        (prepared.undo, proof)
    }

    /// Nothing of firedrill is left in its namespace.
    async fn no_pods_left(&self) {
        let pods = Api::<Pod>::namespaced(self.world.sandbox.client("admin"), "firedrill");
        let left: Vec<String> =
            pods.list(&kube::api::ListParams::default()).await.unwrap().iter().map(kube::ResourceExt::name_any).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_pod_does_not_answer_until_it_is_thawed_and_nobody_else_is_hit() {
    let shop = Shop::new().await;
    let cx = shop.cx(Duration::from_secs(30));
    let (undo, proof) = shop.bite(&cx, &json!({"freeze": {"target": "t"}})).await;
    assert_eq!(proof, "shop/a: 1 of 1 processes in container main stopped (state T)");
    assert!(!shop.answers("a").await && shop.answers("b").await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!shop.answers("a").await, "it is renewed for as long as the runner lives");
    fault::revert(&cx, &undo).await.unwrap();
    shop.until_it_answers("a", Duration::from_secs(1)).await;
    assert_eq!(restarts(&shop.world.get("a").await), 0, "a thaw is no restart");
    assert_eq!(cx.helpers.remove_all(LIMIT).await, Vec::<String>::new());
    shop.no_pods_left().await;
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crashed_pod_is_started_again_and_a_held_one_only_after_the_revert() {
    let shop = Shop::new().await;
    let cx = shop.cx(Duration::from_secs(30));
    let before: Pod = shop.world.get("a").await;
    let (_, proof) = shop.bite(&cx, &json!({"crash": {"target": "t"}})).await;
    assert_eq!(proof, "shop/a: 1 of 1 processes in container main gone");
    shop.world.until("the kubelet starts it again", 60, "a", |pod: &Pod| ready(pod) && restarts(pod) == 1).await;
    shop.until_it_answers("a", Duration::from_secs(1)).await;
    let after: Pod = shop.world.get("a").await;
    let id = |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].container_id.clone();
    assert_ne!(id(&before), id(&after));
    let (undo, _) = shop.bite(&cx, &json!({"crash": {"target": "t", "hold": true}})).await;
    for _ in 0..240 {
        assert!(!shop.answers("a").await, "it is held down");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(restarts(&shop.world.get("a").await) >= 3, "the kubelet has tried, and was shot at");
    fault::revert(&cx, &undo).await.unwrap();
    // By now the kubelet pauses between two tries.
    shop.until_it_answers("a", Duration::from_secs(330)).await;
    assert_eq!(cx.helpers.remove_all(LIMIT).await, Vec::<String>::new());
    shop.no_pods_left().await;
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_nobody_renews_lets_go_even_on_a_node_that_is_cut_off() {
    for cut_off in [false, true] {
        let shop = Shop::new().await;
        let ttl = Duration::from_secs(20);
        let cx = shop.cx(ttl);
        shop.bite(&cx, &json!({"freeze": {"target": "t"}})).await;
        if cut_off {
            assert!(shop.world.sandbox.set_node("n0", NodeState::CutOff));
        }
        cx.helpers.detach().await;
        let detached = Instant::now();
        if cut_off {
            // From outside nothing can be seen of it. It is back before the node controller gives the pod up.
            tokio::time::sleep(ttl + Duration::from_secs(2)).await;
            assert!(shop.world.sandbox.set_node("n0", NodeState::Up));
            shop.until_it_answers("a", Duration::from_secs(1)).await;
        } else {
            shop.until_it_answers("a", ttl + Duration::from_secs(2)).await;
            // The last renewal was at most a third of the time before.
            assert!(detached.elapsed() > ttl / 2, "{:?}", detached.elapsed());
        }
        assert_eq!(restarts(&shop.world.get("a").await), 0);
        shop.world.stop().await;
    }
}

fn ran(case: &str) {
    if let Some(path) = std::env::var_os("FIREDRILL_FAULT_TABLE").filter(|path| !path.is_empty()) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, format!("partition\t{case}\tsandbox\tok\n").as_bytes()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_cut_off_is_alone_until_it_has_its_traffic_back() {
    let shop = Shop::new().await;
    let cx = shop.cx(Duration::from_secs(30));
    let fault = json!({"partition": {"target": "t"}});
    let (undo, proof) = shop.bite(&cx, &fault).await;
    let spec: FaultSpec = serde_json::from_value(fault.clone()).unwrap();
    assert_eq!(proof, "shop/a: 1 cut of its traffic");
    assert!(!shop.answers("a").await && shop.answers("b").await);
    fault::inject(&cx, &spec, &undo).await.unwrap();
    ran("inject twice");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!shop.answers("a").await, "it is renewed for as long as the runner lives");
    // A container that is started again is in the same network.
    shop.world.sandbox.signal("shop", "a", "main", firedrill::sandbox::Signal::Kill).unwrap();
    shop.world.until("it runs again", 60, "a", |pod: &Pod| ready(pod) && restarts(pod) == 1).await;
    assert!(!shop.answers("a").await);
    assert_eq!(fault::holds(&cx, &spec, &undo).await.unwrap(), None);
    assert_eq!(fault::revert(&cx, &undo).await.unwrap().0, RevertResult::Reverted);
    ran("container restarted");
    fault::gone(&cx, &undo, LIMIT).await.unwrap();
    shop.until_it_answers("a", Duration::from_secs(1)).await;
    assert_eq!(fault::revert(&cx, &undo).await.unwrap().0, RevertResult::Nothing);
    ran("revert twice");
    // One peer only, and one way only: others still reach it.
    for (fault, reached) in [
        (json!({"partition": {"target": "t", "cidrs": ["10.99.0.0/16"]}}), true),
        (json!({"partition": {"target": "t", "ports": [8]}}), true),
        (json!({"partition": {"target": "t", "ports": [7], "direction": "egress"}}), true),
        (json!({"partition": {"target": "t", "ports": [7], "direction": "ingress"}}), false),
    ] {
        let (undo, _) = shop.bite(&cx, &fault).await;
        assert_eq!(shop.answers("a").await, reached, "{fault}");
        fault::revert(&cx, &undo).await.unwrap();
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
    }
    // By another runner, which knows the undo alone.
    let (undo, _) = shop.bite(&cx, &fault).await;
    cx.helpers.detach().await;
    let other = shop.cx(Duration::from_secs(30));
    let kept: Undo = serde_json::from_str(&serde_json::to_string(&undo).unwrap()).unwrap();
    assert_eq!(fault::revert(&other, &kept).await.unwrap().0, RevertResult::Reverted);
    fault::gone(&other, &kept, LIMIT).await.unwrap();
    ran("revert on another machine");
    shop.until_it_answers("a", Duration::from_secs(1)).await;
    // The pod goes, and its cut with it; one of the same name is not cut off.
    let (undo, _) = shop.bite(&other, &fault).await;
    let before: Pod = shop.world.get("a").await;
    shop.world.delete::<Pod>("a", kube::api::DeleteParams::default()).await;
    shop.world.gone::<Pod>("a", 60).await;
    shop.world.create::<Pod>(echo("a", "n0")).await;
    shop.world.until("another one", 60, "a", |pod: &Pod| ready(pod) && pod.uid() != before.uid()).await;
    assert!(fault::holds(&other, &spec, &undo).await.unwrap().is_some());
    fault::revert(&other, &undo).await.unwrap();
    fault::gone(&other, &undo, LIMIT).await.unwrap();
    ran("target gone");
    shop.until_it_answers("a", Duration::from_secs(1)).await;
    assert_eq!(other.helpers.remove_all(LIMIT).await, Vec::<String>::new());
    shop.no_pods_left().await;
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_renewals_a_pod_has_its_traffic_back() {
    let shop = Shop::new().await;
    let ttl = Duration::from_secs(20);
    let cx = shop.cx(ttl);
    let (undo, _) = shop.bite(&cx, &json!({"partition": {"target": "t"}})).await;
    cx.helpers.detach().await;
    let detached = Instant::now();
    shop.until_it_answers("a", ttl + Duration::from_secs(2)).await;
    assert!(detached.elapsed() > ttl / 2, "{:?}", detached.elapsed());
    ran("renewals stopped");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let other = shop.cx(ttl);
    assert_eq!(fault::revert(&other, &undo).await.unwrap().0, RevertResult::Nothing);
    fault::gone(&other, &undo, LIMIT).await.unwrap();
    ran("revert without inject");
    assert_eq!(other.helpers.remove_all(LIMIT).await, Vec::<String>::new());
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_privileges_cannot_act_on_others() {
    let shop = Shop::new().await;
    let pod = json!({
        "metadata": {"name": "sly"},
        "spec": {"nodeName": "n0", "hostPID": true, "containers": [{
            "name": "agent", "image": "firedrill", "command": ["/firedrill", "agent", "node"],
            "env": [{"name": "FIREDRILL_DRILL", "value": DRILL}, {"name": "FIREDRILL_TOKEN", "value": "t"}],
        }]},
    });
    shop.world.create::<Pod>(pod).await;
    shop.world.until("it runs", 60, "sly", ready).await;
    let client = shop.world.sandbox.client("admin");
    let transport = Transport::Exec { client, namespace: "shop".to_owned(), pod: "sly".to_owned(), container: None };
    let spec = LinkSpec { drill: DRILL.to_owned(), token: "t".to_owned(), runner: "r".to_owned(), ttl: LIMIT, transport };
    let (link, _events) = Link::attach(spec, shop.clock.clone(), LIMIT).await.unwrap();
    let a: Pod = shop.world.get("a").await;
    let pods = json!([{"uid": a.uid(), "name": "shop/a", "containers": [], "ids": {}}]);
    let answer = link.call::<Value>("freeze", &json!({"inject": {"how": "freeze", "pods": pods}}), LIMIT).await;
    assert!(answer.as_ref().is_err_and(|e| e.to_string().contains("Operation not permitted")), "{answer:?}");
    assert!(shop.answers("a").await);
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_is_cut_off_loses_nothing_and_its_clock_is_measured() {
    let shop = Shop::new().await;
    let dir = tempfile::tempdir().unwrap();
    let plan = Arc::new(Plan::empty("t"));
    let cx = ProbeCx {
        clock: shop.clock.clone(),
        cluster: shop.cluster.clone(),
        dialer: shop.world.sandbox.dialer(None),
        plan,
        samples_dir: dir.path().to_owned(),
        drill: DRILL.to_owned(),
    };
    let (observer, _) = Observer::place(&cx).await.unwrap();
    let Observer { link, mut events, pod } = observer;
    let name = pod.unwrap().name;
    let pods = Api::<Pod>::namespaced(shop.world.sandbox.client("admin"), "firedrill");
    let node = pods.get(&name).await.unwrap().spec.unwrap().node_name.unwrap();
    // Its clock began when it started, so that it is behind the runner's by what came before.
    let measured = link.clock_link().unwrap();
    assert!(measured.clock.0.starts_with("observer/") && measured.offset_us < -1_000_000, "{measured:?}");
    assert!(measured.error_us < 100_000, "{measured:?}");
    let a: Pod = shop.world.get("a").await;
    let address = format!("{}:7", a.status.unwrap().pod_ip.unwrap());
    let probes = json!([{
        "name": "echo", "every": "100ms", "timeout": "50ms", "connection": "fresh",
        "kind": {"tcp": {"address": address, "exchange": [{"send": "x\n"}, {"expect": "x"}]}},
    }]);
    let ask = Ask::Start { probes: serde_json::from_value(probes).unwrap() };
    link.call::<Answered>("start", &ask, LIMIT).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(shop.world.sandbox.set_node(&node, NodeState::CutOff));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(shop.world.sandbox.set_node(&node, NodeState::Up));
    tokio::time::sleep(Duration::from_secs(10)).await;
    link.call::<Answered>("stop", &Ask::Stop, LIMIT).await.unwrap();
    let mut states = Vec::new();
    loop {
        let event = timeout(LIMIT, events.next()).await.unwrap().unwrap();
        let LinkEvent::Event(told) = event else { panic!("{event:?}") };
        for seen in told["seen"].as_array().into_iter().flatten() {
            let sample = &seen["sample"]["sample"];
            assert_eq!(sample["n"], json!(states.len()), "they come in order, none is missing");
            states.push(sample["state"].as_str().unwrap().to_owned());
        }
        if told["end"] == json!(true) {
            break;
        }
    }
    assert!((345..=355).contains(&states.len()), "ten a second for 35 s: {}", states.len());
    let bad = states.iter().filter(|s| *s == "bad").count();
    assert!((195..=205).contains(&bad), "bad for the 20 s in which it was cut off: {bad}");
    let first = states.iter().position(|s| s == "bad").unwrap();
    assert!(states[first..first + bad].iter().all(|s| s == "bad") && states.iter().all(|s| s != "unknown"));
    link.bye(LIMIT).await.unwrap();
    shop.world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_reverts_when_the_runners_lease_has_run_out_and_not_before() {
    const LEASE: Duration = Duration::from_secs(15);
    let shop = Shop::new().await;
    let client = shop.world.sandbox.client("admin");
    shop.world.patch_all::<Namespace>("shop", json!({"metadata": {"labels": {"firedrill.dev/drills": "allowed"}}})).await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "web:1"}]}}}});
    shop.world.create::<Deployment>(web).await;
    let replicas = |d: &Deployment| d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    shop.world.until("web is up", 60, "web", |d: &Deployment| replicas(d) == 2).await;
    // The watchdog's account, and what it may do.
    firedrill::agent::pods::ensure_namespace(&shop.cluster, "firedrill").await.unwrap();
    let post = PostParams::default();
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "watchdog"}})).unwrap();
    Api::namespaced(client.clone(), "firedrill").create(&post, &account).await.unwrap();
    let role = json!({"metadata": {"name": "watchdog"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    Api::<ClusterRole>::all(client.clone()).create(&post, &serde_json::from_value(role).unwrap()).await.unwrap();
    let binding = json!({
        "metadata": {"name": "watchdog"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "watchdog"},
        "subjects": [{"kind": "ServiceAccount", "name": "watchdog", "namespace": "firedrill"}],
    });
    Api::<ClusterRoleBinding>::all(client.clone()).create(&post, &serde_json::from_value(binding).unwrap()).await.unwrap();
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "lose-runner"},
        "spec": {
            "summary": "The runner of a drill is lost.",
            "targets": {"web": {"namespace": "shop", "deployment": "web"}},
            "limits": {"pods": 2, "objects": 2, "duration": "20m"},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "b", "cel": "object.metadata.name == 'b'"}}},
            "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
            "steps": [{"name": "no web", "inject": {"scale": {"target": "web", "replicas": 0}}}, {"hold": "15m"}],
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    let text = scenario.to_string();
    let loaded = firedrill::scenario::parse_scenario("lose-runner.yaml", &text, &[]).unwrap();
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sandbox"},
        "spec": {"clusters": {"main": {"uid": shop.cluster.uid}}, "firedrill": {"watchdog": {"serviceAccount": "watchdog"}}},
    });
    let environment = firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    let snapshot = plan::snapshot::take(&shop.cluster, &loaded.scenario, &environment).await.unwrap();
    let plan = plan::make(&Inputs {
        scenario: &loaded.scenario,
        scenario_sha256: &loaded.sha256,
        parameters: &loaded.parameters,
        environment: &environment,
        snapshot: &snapshot,
        seed: 1,
        runbooks: &std::collections::BTreeMap::new(),
    })
    .unwrap();
    let out = tempfile::tempdir().unwrap();
    let options = DrillOptions {
        by: "test".to_owned(),
        confirmed_by: Some("test".to_owned()),
        auto_ack: true,
        lease: Dur(LEASE),
        out: out.path().to_owned(),
        disk: Disk::Memory(MemoryDisk::default()),
        seed: Some(1),
        sandbox: Some(shop.world.sandbox.dialer(None)),
        takeover: Takeover::default(),
    };
    let drill = Drill::start(shop.cluster.clone(), shop.clock.clone(), plan, DRILL, &text, options).await.unwrap();
    let runner = Gate::new();
    let run = runner.hold(async { drill.run().await });
    let watch = async {
        shop.world.until("web is broken", 120, "web", |d: &Deployment| d.spec.as_ref().unwrap().replicas == Some(0)).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let web: Deployment = shop.world.get("web").await;
        assert_eq!(web.spec.unwrap().replicas, Some(0), "while the runner lives the watchdog does nothing");
        runner.kill();
        let killed = Instant::now();
        let undone = |d: &Deployment| d.spec.as_ref().unwrap().replicas == Some(2);
        shop.world.until("it is reverted", 60, "web", undone).await;
        killed.elapsed()
    };
    let took = tokio::select! {
        biased;
        _ = run => panic!("the runner ended by itself"),
        took = watch => took,
    };
    assert!(took >= LEASE - Duration::from_secs(5) && took <= LEASE + Duration::from_secs(20), "{took:?}");
    let pods = Api::<Pod>::namespaced(client.clone(), "firedrill");
    let began = Instant::now();
    while !pods.list(&kube::api::ListParams::default()).await.unwrap().items.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(90), "the watchdog's pod is the last to go, and goes");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let by = "system:serviceaccount:firedrill:watchdog";
    let audit = shop.world.sandbox.audit();
    assert!(audit.iter().any(|e| e.user == by && e.is_write() && e.namespace == "shop"), "it acted with its own account");
    shop.world.stop().await;
    let own = format!("firedrill-sandbox-{}-", std::process::id());
    let names = std::fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap_or_default());
    assert_eq!(names.filter(|name| name.starts_with(&own)).collect::<Vec<_>>(), [""; 0], "its folder for samples is left");
}
