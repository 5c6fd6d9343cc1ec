//! The contract of the faults that an agent makes from within its target's pod, in the sandbox: each kind through the cases in which it
//! could differ from a node helper's.
//!
//! With FIREDRILL_FAULT_TABLE a line is added to that file for each case that ran: fault, case, where, ok.

#[path = "sandbox_controllers/world.rs"]
mod world;

use std::{collections::BTreeMap, io::Write as _, sync::Arc, time::Duration};

use firedrill::{
    agent::inside,
    clock::Clock,
    cluster::Cluster,
    fault::{self, FaultCx, Helpers, Undo},
    journal::RevertResult,
    plan::{self, Plan, ResolvedObject, ResolvedTarget},
    sandbox::Signal,
    scenario::types::{EnvironmentSpec, FaultSpec, Target},
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use world::World;

/// The longest that a proof may take.
const LIMIT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(20);

struct Kind {
    name: &'static str,
    spec: Value,
    /// The pod's containers have to see each other's processes.
    shared: bool,
    /// What a revert finds when the pod, or the container, is another one.
    replaced: [RevertResult; 2],
}

fn kinds() -> Vec<Kind> {
    use RevertResult::{Nothing, Reverted, TargetGone};
    let kind = |name, mut spec: Value, shared, replaced| {
        spec["placement"] = json!("pod");
        Kind { name, spec, shared, replaced }
    };
    // An agent is told to end with its pod, and undoes everything before.
    vec![
        kind("fillDisk", json!({"fillDisk": {"target": "t", "path": "/data/d", "leave": "0"}}), false, [Nothing, Reverted]),
        kind("corruptFile", json!({"corruptFile": {"target": "t", "path": "/data/d/a"}}), false, [Nothing, Reverted]),
        kind("deleteFiles", json!({"deleteFiles": {"target": "t", "path": "/data/d/*"}}), false, [Nothing, Reverted]),
        kind("signal", json!({"signal": {"target": "t", "signal": "SIGSTOP", "process": "sh"}}), true, [TargetGone, Nothing]),
        kind("freeze", json!({"freeze": {"target": "t"}}), true, [TargetGone, Nothing]),
    ]
}

struct Shop {
    world: World,
    cluster: Cluster,
    clock: Clock,
}

impl Shop {
    /// A pod `db-0` with a claim of 1 GiB, and files on it.
    async fn new(shared: bool, user: Option<i64>) -> Self {
        let world = World::new(2).await;
        // With a user of its own it is what a restricted namespace takes.
        let security = user.map(|user| {
            json!({"runAsUser": user, "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}})
        });
        let set = json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}},
            }}],
            "template": {
                "metadata": {"labels": {"app": "db"}, "annotations": {"sandbox.firedrill.dev/model": "shell"}},
                "spec": {"terminationGracePeriodSeconds": 1, "shareProcessNamespace": shared, "containers": [{
                    "name": "main", "image": "db:1", "command": ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 5; done"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/scratch"}], "securityContext": security,
                }], "volumes": [{"name": "tmp", "emptyDir": {}}]},
            },
        }});
        world.create::<StatefulSet>(set).await;
        world.until("it is ready", 120, "db-0", ready).await;
        let own: Namespace = world.get_all("kube-system").await;
        let cluster = Cluster::from_client(world.sandbox.client("admin"), "sandbox", own.uid().unwrap());
        let clock = Clock::virtual_at("runner", world.sandbox.now_us());
        let shop = Self { world, cluster, clock };
        shop.say("mkdir -p /data/d && echo one > /data/d/a && echo two > /data/d/b").await.expect("files are made");
        shop
    }

    async fn of(kind: &Kind) -> Self {
        Self::new(kind.shared, None).await
    }

    /// What a command in the pod says; none if it fails, or does not answer.
    async fn say(&self, script: &str) -> Option<String> {
        let (status, out, _) = timeout(Duration::from_secs(2), self.world.exec("db-0", &["sh", "-c", script])).await.ok()?;
        (status.as_deref() == Some("Success")).then_some(out)
    }

    /// All that is on the volume, if it can be written to: a witness that knows nothing of agents.
    async fn witness(&self) -> Option<String> {
        self.say("cat /data/d/a /data/d/b && echo x > /data/probe && rm /data/probe && find /data").await
    }

    fn cx(&self) -> FaultCx {
        let target = ResolvedTarget { spec: Target::default(), objects: Vec::new(), matched: 0 };
        let plan = Plan { place: EnvironmentSpec::default(), targets: [("t".to_owned(), target)].into(), ..Plan::empty("t") };
        let plan = Arc::new(plan);
        let helpers = Helpers::with_ttl(self.cluster.clone(), self.clock.clone(), Arc::clone(&plan), "drill-1", TTL);
        FaultCx { helpers, ..FaultCx::new(self.cluster.clone(), self.clock.clone(), plan, "drill-1") }
    }

    async fn targets(&self) -> Vec<ResolvedObject> {
        let pod: Pod = self.world.get("db-0").await;
        vec![ResolvedObject {
            kind: "Pod".to_owned(),
            namespace: "shop".to_owned(),
            name: "db-0".to_owned(),
            uid: pod.uid().unwrap(),
            node: String::new(),
            owner: String::new(),
            ready: true,
            chosen: true,
        }]
    }

    async fn bite(&self, cx: &FaultCx, fault: &Value) -> (FaultSpec, Undo) {
        let spec: FaultSpec = serde_json::from_value(fault.clone()).unwrap();
        let prepared = fault::prepare(cx, &spec, &self.targets().await).await.unwrap();
        fault::arm(cx, &spec, &prepared.undo).await.unwrap();
        assert!(self.witness().await.is_some(), "arming breaks nothing");
        fault::inject(cx, &spec, &prepared.undo).await.unwrap();
        fault::effective(cx, &spec, &prepared.undo, LIMIT).await.unwrap();
        assert_eq!(fault::holds(cx, &spec, &prepared.undo).await.unwrap(), None);
        // As the journal keeps it.
        let kept = serde_json::to_string(&prepared.undo).unwrap();
        (spec, serde_json::from_str(&kept).unwrap())
    }

    async fn refusal(&self, cx: &FaultCx, fault: &Value) -> String {
        let spec: FaultSpec = serde_json::from_value(fault.clone()).unwrap();
        fault::prepare(cx, &spec, &self.targets().await).await.unwrap_err().to_string()
    }

    async fn revert(&self, cx: &FaultCx, undo: &Undo) -> RevertResult {
        // As the drill does it: an agent that is just ending is none, and the next try places another one.
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

    /// The agents in the pod: all that there ever were, and those of them that have not ended.
    async fn agents(&self) -> (usize, usize) {
        let pod: Pod = self.world.get("db-0").await;
        let all = pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten()).filter(|c| inside::is_own(&c.name)).count();
        (all, inside::left_in(&pod, "drill-1").len())
    }

    /// Nothing of firedrill's runs any more, no helper was placed, and the volume is as it was.
    async fn end(&self, cx: &FaultCx, before: Option<&String>) {
        assert_eq!(cx.helpers.remove_all(LIMIT).await, Vec::<String>::new());
        assert_eq!(self.agents().await.1, 0);
        let pods: Vec<Pod> = self.world.list_all().await;
        let names: Vec<String> = pods.iter().map(|p| p.name_any()).collect();
        assert_eq!(names, ["db-0"]);
        if let Some(before) = before {
            assert_eq!(self.witness().await.as_ref(), Some(before));
        }
        self.world.stop().await;
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count
}

fn ran(kind: &str, case: &str) {
    println!("{kind} in a pod: {case}: ok");
    if let Some(path) = std::env::var_os("FIREDRILL_FAULT_TABLE").filter(|path| !path.is_empty()) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that tests beside each other do not mix their lines.
        file.write_all(format!("{kind} in a pod\t{case}\tsandbox\tok\n").as_bytes()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_injected_proven_reverted_and_gone_once_or_twice() {
    for kind in kinds() {
        let shop = Shop::of(&kind).await;
        let before = shop.witness().await.unwrap();
        let cx = shop.cx();
        let spec: FaultSpec = serde_json::from_value(kind.spec.clone()).unwrap();
        let prepared = fault::prepare(&cx, &spec, &shop.targets().await).await.unwrap();
        assert_eq!(shop.revert(&cx, &prepared.undo).await, RevertResult::Nothing, "{}", kind.name);
        fault::gone(&cx, &prepared.undo, LIMIT).await.unwrap();
        assert_eq!(shop.witness().await.as_ref(), Some(&before));
        ran(kind.name, "revert without inject");
        let (spec, undo) = shop.bite(&cx, &kind.spec).await;
        assert_ne!(shop.witness().await.as_ref(), Some(&before), "{} broke nothing", kind.name);
        assert!(fault::gone(&cx, &undo, Duration::ZERO).await.is_err(), "{} is said to be gone while it is there", kind.name);
        fault::inject(&cx, &spec, &undo).await.unwrap();
        fault::effective(&cx, &spec, &undo, LIMIT).await.unwrap();
        ran(kind.name, "inject twice");
        // It is renewed for as long as the runner lives.
        tokio::time::sleep(TTL * 3).await;
        assert_eq!(fault::holds(&cx, &spec, &undo).await.unwrap(), None);
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted, "{}", kind.name);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        assert_eq!(shop.witness().await.as_ref(), Some(&before), "{}", kind.name);
        ran(kind.name, "inject, proof, revert, proof");
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{}", kind.name);
        ran(kind.name, "revert twice");
        assert_eq!(shop.agents().await, (1, 1), "one agent did all of it");
        shop.end(&cx, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_runner_reverts_from_the_bare_undo() {
    for kind in kinds() {
        let shop = Shop::of(&kind).await;
        let before = shop.witness().await.unwrap();
        let lost = shop.cx();
        let (_, undo) = shop.bite(&lost, &kind.spec).await;
        lost.helpers.detach().await;
        let cx = shop.cx();
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted, "{}", kind.name);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        assert_eq!(shop.agents().await, (1, 1), "the agent that is there is taken over");
        ran(kind.name, "revert on another machine");
        // Its agent has ended by then: a container cannot be started again.
        assert_eq!(cx.helpers.remove_all(LIMIT).await, Vec::<String>::new());
        let third = shop.cx();
        assert_eq!(shop.revert(&third, &undo).await, RevertResult::Nothing);
        fault::gone(&third, &undo, LIMIT).await.unwrap();
        assert_eq!(shop.agents().await, (2, 1), "{}", kind.name);
        ran(kind.name, "second revert on another machine");
        shop.end(&third, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_renewals_each_is_undone_by_its_agent() {
    for kind in kinds() {
        let shop = Shop::of(&kind).await;
        let before = shop.witness().await.unwrap();
        let lost = shop.cx();
        let (_, undo) = shop.bite(&lost, &kind.spec).await;
        lost.helpers.detach().await;
        let detached = Instant::now();
        while shop.witness().await.as_ref() != Some(&before) {
            assert!(detached.elapsed() < TTL + Duration::from_secs(2), "{} is still there after {:?}", kind.name, detached.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(detached.elapsed() > TTL / 2, "{} was undone at once", kind.name);
        let cx = shop.cx();
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{}", kind.name);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        ran(kind.name, "renewals stopped");
        shop.end(&cx, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_reverted_when_its_pod_or_its_container_is_another_one() {
    for kind in kinds() {
        for (case, wanted) in [(0, kind.replaced[0]), (1, kind.replaced[1])] {
            let shop = Shop::of(&kind).await;
            let before = shop.witness().await.unwrap();
            let cx = shop.cx();
            let (_, undo) = shop.bite(&cx, &kind.spec).await;
            let pod: Pod = shop.world.get("db-0").await;
            if case == 0 {
                shop.world.delete::<Pod>("db-0", DeleteParams::default()).await;
                shop.world.until("another one", 120, "db-0", |p: &Pod| p.uid() != pod.uid() && ready(p)).await;
            } else {
                shop.world.sandbox.signal("shop", "db-0", "main", Signal::Kill).unwrap();
                shop.world.until("it runs again", 120, "db-0", |p: &Pod| restarts(p) == 1 && ready(p)).await;
            }
            let result = shop.revert(&cx, &undo).await;
            assert_eq!(result, wanted, "{}, {case}", kind.name);
            fault::gone(&cx, &undo, LIMIT).await.unwrap();
            ran(kind.name, if case == 0 { "target gone" } else { "container restarted" });
            shop.end(&cx, Some(&before)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_held_from_within_a_pod_whose_processes_are_shared() {
    for hold in [false, true] {
        let shop = Shop::new(true, None).await;
        let before = shop.witness().await.unwrap();
        let cx = shop.cx();
        let (spec, undo) = shop.bite(&cx, &json!({"crash": {"target": "t", "hold": hold}, "placement": "pod"})).await;
        if hold {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!((fault::holds(&cx, &spec, &undo).await.unwrap(), shop.witness().await), (None, None));
        }
        let wanted = if hold { RevertResult::Reverted } else { RevertResult::Nothing };
        assert_eq!(shop.revert(&cx, &undo).await, wanted);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        let pod: Pod = shop.world.get("db-0").await;
        assert!(restarts(&pod) > 0);
        ran(if hold { "crash hold" } else { "crash" }, "inject, proof, revert, proof");
        shop.end(&cx, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_drops_from_inside_is_refused() {
    let shop = Shop::new(false, None).await;
    let before = shop.witness().await.unwrap();
    let cx = shop.cx();
    for (fault, why) in [
        (json!({"freeze": {"target": "t"}, "placement": "pod"}), "needs `shareProcessNamespace: true`"),
        (json!({"crash": {"target": "t"}, "placement": "pod"}), "needs `shareProcessNamespace: true`"),
        (json!({"fillDisk": {"target": "t", "path": "/tmp", "to": "90%"}, "placement": "pod"}), "no volume is mounted at or above /tmp"),
        (json!({"fillDisk": {"target": "t", "path": "/scratch", "to": "90%"}, "placement": "pod"}), "the node's own disk"),
        (json!({"signal": {"target": "t", "signal": "SIGTERM", "process": "nginx"}, "placement": "pod"}), "is called `nginx`"),
    ] {
        let error = shop.refusal(&cx, &fault).await;
        assert!(error.contains(why), "{error}");
    }
    for signal in ["SIGSTOP", "SIGKILL"] {
        let spec: FaultSpec =
            serde_json::from_value(json!({"signal": {"target": "t", "signal": signal, "process": "sh"}, "placement": "pod"})).unwrap();
        let prepared = fault::prepare(&cx, &spec, &shop.targets().await).await.unwrap();
        fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
        let error = fault::inject(&cx, &spec, &prepared.undo).await.unwrap_err().to_string();
        assert!(error.contains(&format!("the kernel drops {signal} from inside")), "{error}");
    }
    shop.end(&cx, Some(&before)).await;
}

/// The container's first process ends, and with it everything in its process namespace.
#[tokio::test(start_paused = true)]
async fn a_signal_that_ends_the_agent_too_is_proven_by_its_container() {
    let shop = Shop::new(false, None).await;
    let before = shop.witness().await.unwrap();
    let cx = shop.cx();
    let spec: FaultSpec =
        serde_json::from_value(json!({"signal": {"target": "t", "signal": "SIGTERM", "process": "sh"}, "placement": "pod"})).unwrap();
    let prepared = fault::prepare(&cx, &spec, &shop.targets().await).await.unwrap();
    fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
    fault::inject(&cx, &spec, &prepared.undo).await.unwrap();
    shop.world.until("the container is another one", 60, "db-0", |p: &Pod| restarts(p) == 1 && ready(p)).await;
    let (_, proof) = fault::effective(&cx, &spec, &prepared.undo, LIMIT).await.unwrap();
    assert!(proof.contains("container main has ended"), "{proof}");
    assert_eq!(shop.revert(&cx, &prepared.undo).await, RevertResult::Nothing);
    fault::gone(&cx, &prepared.undo, LIMIT).await.unwrap();
    let pod: Pod = shop.world.get("db-0").await;
    assert_eq!(restarts(&pod), 1);
    shop.end(&cx, Some(&before)).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_restricted_namespace_the_agent_is_the_targets_user() {
    let fill = json!({"fillDisk": {"target": "t", "path": "/data", "leave": "0"}, "placement": "pod"});
    let restricted = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let shop = Shop::new(false, None).await;
    shop.world.patch_all::<Namespace>("shop", restricted.clone()).await;
    let cx = shop.cx();
    let error = shop.refusal(&cx, &fill).await;
    assert!(error.contains("container main does not say its `runAsUser`"), "{error}");
    shop.end(&cx, None).await;
    let shop = Shop::new(false, Some(999)).await;
    shop.world.patch_all::<Namespace>("shop", restricted).await;
    let before = shop.witness().await.unwrap();
    let cx = shop.cx();
    let (_, undo) = shop.bite(&cx, &fill).await;
    let pod: Pod = shop.world.get("db-0").await;
    let agent = &pod.spec.as_ref().unwrap().ephemeral_containers.as_ref().unwrap()[0];
    let security = agent.security_context.as_ref().unwrap();
    assert_eq!((security.run_as_user, security.run_as_non_root, security.allow_privilege_escalation), (Some(999), Some(true), Some(false)));
    assert_eq!(security.capabilities.as_ref().unwrap().add, None);
    assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Reverted);
    fault::gone(&cx, &undo, LIMIT).await.unwrap();
    ran("fillDisk", "a restricted namespace");
    shop.end(&cx, Some(&before)).await;
}

/// Applies what `plan --rbac` printed, as an administrator does.
async fn grant(shop: &Shop, yaml: &str) {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    for object in objects.into_iter().filter(|object| object["kind"] != "Namespace") {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = object["kind"].as_str().unwrap();
        let plural = format!("{}s", kind.to_lowercase());
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
        let client = shop.cluster.client.clone();
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_rights_that_the_plan_prints_are_enough_for_runner_and_watchdog() {
    let shop = Shop::new(false, None).await;
    shop.world.patch_all::<Namespace>("shop", json!({"metadata": {"labels": {"firedrill.dev/drills": "allowed"}}})).await;
    let own: Namespace = serde_json::from_value(json!({"metadata": {"name": "firedrill"}})).unwrap();
    shop.cluster.cluster_api::<Namespace>().create(&PostParams::default(), &own).await.unwrap();
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "filling"},
        "spec": {
            "summary": "A volume fills up.",
            "targets": {"t": {"namespace": "shop", "pods": "app=db", "expect": 1}},
            "limits": {"volumes": 1, "duration": "10m"},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "db-0", "cel": "object.metadata.name == 'db-0'"}}},
            "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
            // The environment has no node helpers: it is made from within the pod.
            "steps": [{"name": "fill", "inject": {"fillDisk": {"target": "t", "path": "/data", "leave": "0"}}}],
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sandbox"},
        "spec": {"clusters": {"main": {"uid": shop.cluster.uid}}, "firedrill": {"nodeHelpers": false, "watchdog": {"serviceAccount": "watchdog"}}},
    });
    let loaded = firedrill::scenario::parse_scenario("filling.yaml", &scenario.to_string(), &[]).unwrap();
    let environment = firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    let plan = plan::plan_on(&shop.cluster, &loaded, &environment, &BTreeMap::new(), 1).await.unwrap();
    grant(&shop, &plan::rbac::yaml(&plan, &"User:runner".parse().unwrap())).await;
    let plan = Arc::new(plan);
    let cx = |user: &str| {
        let cluster = Cluster::from_client(shop.world.sandbox.client(user), "sandbox", shop.cluster.uid.clone());
        let helpers = Helpers::with_ttl(cluster.clone(), shop.clock.clone(), Arc::clone(&plan), "drill-1", TTL);
        FaultCx { helpers, ..FaultCx::new(cluster, shop.clock.clone(), Arc::clone(&plan), "drill-1") }
    };
    let before = shop.witness().await.unwrap();
    let runner = cx("runner");
    let fault = serde_json::to_value(plan.steps[0].spec.inject.as_ref().unwrap()).unwrap();
    let (_, undo) = shop.bite(&runner, &fault).await;
    runner.helpers.detach().await;
    // The agent of the runner's is there; and then another one is needed.
    let watchdog = cx("system:serviceaccount:firedrill:watchdog");
    assert_eq!(shop.revert(&watchdog, &undo).await, RevertResult::Reverted);
    fault::gone(&watchdog, &undo, LIMIT).await.unwrap();
    assert_eq!(watchdog.helpers.remove_all(LIMIT).await, Vec::<String>::new());
    let again = cx("system:serviceaccount:firedrill:watchdog");
    assert_eq!(shop.revert(&again, &undo).await, RevertResult::Nothing);
    assert_eq!(again.helpers.remove_all(LIMIT).await, Vec::<String>::new());
    let refused: Vec<String> = shop.world.sandbox.audit().iter().filter(|e| e.code == 403).map(|e| format!("{e:?}")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    assert_eq!((shop.agents().await, shop.witness().await), ((2, 0), Some(before)));
    shop.world.stop().await;
}
