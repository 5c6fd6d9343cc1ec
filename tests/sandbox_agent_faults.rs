//! The contract of the faults that a node helper does, in the sandbox: every kind through every case.
//!
//! With FIREDRILL_FAULT_TABLE a line is added to that file for each case that ran: fault, case, where, ok.

#[path = "sandbox_controllers/world.rs"]
mod world;

use std::{io::Write as _, sync::Arc, time::Duration};

use firedrill::{
    agent::node::HOLD_EVERY,
    clock::Clock,
    cluster::Cluster,
    fault::{self, FaultCx, Helpers, Undo},
    journal::RevertResult,
    plan::{Plan, ResolvedObject, ResolvedTarget},
    sandbox::Signal,
    scenario::types::{EnvironmentSpec, FaultSpec, Target},
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Pod},
};
use kube::{ResourceExt as _, api::DeleteParams};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use world::World;

/// The longest that a proof may take.
const LIMIT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(20);

/// A kind of fault, what others do to it, and what its revert then finds.
struct Kind {
    name: &'static str,
    spec: Value,
    /// A command in the pod; without one a signal from the node.
    meddle: Option<&'static str>,
    meddled: RevertResult,
    /// What a revert finds while it is there.
    found: RevertResult,
    /// What a revert finds when the pod, or the container, is another one.
    replaced: [RevertResult; 2],
    /// How much later than its undo the pod may be back: the kubelet pauses before it starts a container once more.
    pause: Duration,
}

impl Kind {
    /// It ends processes, so that others have no value to change.
    fn kills(&self) -> bool {
        self.spec["crash"].is_object()
    }

    /// Nothing of it is there that could be undone.
    fn is_over_at_once(&self) -> bool {
        self.spec["crash"]["hold"] == false
    }
}

fn kinds() -> Vec<Kind> {
    use RevertResult::{Nothing, Reverted, Superseded, TargetGone};
    let kind =
        |name, spec, meddle, meddled, replaced| Kind { name, spec, meddle, meddled, found: Reverted, replaced, pause: Duration::ZERO };
    let crash = |hold: bool| json!({"crash": {"target": "t", "hold": hold}});
    vec![
        kind("freeze", json!({"freeze": {"target": "t"}}), None, Nothing, [TargetGone, Nothing]),
        Kind { found: Nothing, ..kind("crash", crash(false), None, Nothing, [Nothing, Nothing]) },
        Kind { pause: Duration::from_secs(40), ..kind("crash hold", crash(true), None, Nothing, [Reverted, Reverted]) },
        kind("signal", json!({"signal": {"target": "t", "signal": "SIGSTOP", "process": "sh"}}), None, Nothing, [TargetGone, Nothing]),
        kind(
            "fillDisk",
            json!({"fillDisk": {"target": "t", "path": "/data/d", "leave": "0"}}),
            Some("rm -r /data/.firedrill*"),
            Nothing,
            [Reverted, Reverted],
        ),
        kind(
            "corruptFile",
            json!({"corruptFile": {"target": "t", "path": "/data/d/a"}}),
            Some("echo theirs > /data/d/a"),
            Superseded,
            [Reverted, Reverted],
        ),
        kind(
            "deleteFiles",
            json!({"deleteFiles": {"target": "t", "path": "/data/d/*"}}),
            Some("echo theirs > /data/d/a"),
            Superseded,
            [Reverted, Reverted],
        ),
    ]
}

struct Shop {
    world: World,
    cluster: Cluster,
    clock: Clock,
}

impl Shop {
    /// A pod `db-0` with a claim of 1 GiB, and files on it.
    async fn new() -> Self {
        let world = World::new(2).await;
        let set = json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}},
            }}],
            "template": {
                "metadata": {"labels": {"app": "db"}, "annotations": {"sandbox.firedrill.dev/model": "shell"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "main", "image": "db:1", "command": ["sh", "-c", "while :; do sleep 5; done"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/scratch"}],
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

    /// What a command in the pod says; none if it fails, or does not answer.
    async fn say(&self, script: &str) -> Option<String> {
        let (status, out, _) = timeout(Duration::from_secs(2), self.world.try_exec("db-0", &["sh", "-c", script])).await.ok()?.ok()?;
        (status.as_deref() == Some("Success")).then_some(out)
    }

    /// All that is on the volume, if it can be written to: a witness that knows nothing of helpers.
    async fn witness(&self) -> Option<String> {
        self.say("cat /data/d/a /data/d/b && echo x > /data/probe && rm /data/probe && find /data").await
    }

    /// Whether all is as it was, and stays so for longer than a container lives that is held down.
    async fn is_as(&self, before: &String) -> bool {
        for _ in 0..2 {
            if self.witness().await.as_ref() != Some(before) {
                return false;
            }
            tokio::time::sleep(HOLD_EVERY * 2).await;
        }
        true
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
        vec![object("Pod", "db-0", &pod.uid().unwrap())]
    }

    async fn bite(&self, cx: &FaultCx, kind: &Kind) -> (FaultSpec, Undo) {
        let spec: FaultSpec = serde_json::from_value(kind.spec.clone()).unwrap();
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

    /// No pod of firedrill's is left, and the volume is as it was.
    async fn end(&self, cx: &FaultCx, before: Option<&String>) {
        assert_eq!(cx.helpers.remove_all(LIMIT).await, Vec::<String>::new());
        let after = self.witness().await;
        if let Some(before) = before {
            assert_eq!(after.as_ref(), Some(before));
        }
        self.world.stop().await;
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn object(kind: &str, name: &str, uid: &str) -> ResolvedObject {
    ResolvedObject {
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        node: String::new(),
        owner: String::new(),
        ready: true,
        chosen: true,
    }
}

fn ran(kind: &Kind, case: &str) {
    println!("{}: {case}: ok", kind.name);
    if let Some(path) = std::env::var_os("FIREDRILL_FAULT_TABLE").filter(|path| !path.is_empty()) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that tests beside each other do not mix their lines.
        file.write_all(format!("{}\t{case}\tsandbox\tok\n", kind.name).as_bytes()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_injected_proven_reverted_and_gone_once_or_twice() {
    for kind in kinds() {
        let shop = Shop::new().await;
        let before = shop.witness().await.unwrap();
        let cx = shop.cx();
        let spec: FaultSpec = serde_json::from_value(kind.spec.clone()).unwrap();
        let prepared = fault::prepare(&cx, &spec, &shop.targets().await).await.unwrap();
        assert_eq!(shop.revert(&cx, &prepared.undo).await, RevertResult::Nothing, "{}", kind.name);
        fault::gone(&cx, &prepared.undo, LIMIT).await.unwrap();
        assert_eq!(shop.witness().await.as_ref(), Some(&before));
        ran(&kind, "revert without inject");
        let (spec, undo) = shop.bite(&cx, &kind).await;
        assert_ne!(shop.witness().await.as_ref(), Some(&before), "{} broke nothing", kind.name);
        assert!(fault::gone(&cx, &undo, Duration::ZERO).await.is_err(), "{} is said to be gone while it is there", kind.name);
        fault::inject(&cx, &spec, &undo).await.unwrap();
        fault::effective(&cx, &spec, &undo, LIMIT).await.unwrap();
        ran(&kind, "inject twice");
        // It is renewed for as long as the runner lives.
        tokio::time::sleep(TTL * 3).await;
        assert_eq!(fault::holds(&cx, &spec, &undo).await.unwrap(), None);
        assert_eq!(shop.is_as(&before).await, kind.is_over_at_once(), "{}", kind.name);
        assert_eq!(shop.revert(&cx, &undo).await, kind.found, "{}", kind.name);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        assert!(shop.is_as(&before).await, "{}", kind.name);
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{}", kind.name);
        ran(&kind, "revert twice");
        shop.end(&cx, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_runner_reverts_from_the_bare_undo() {
    for kind in kinds() {
        let shop = Shop::new().await;
        let before = shop.witness().await.unwrap();
        let lost = shop.cx();
        // The inject is one request to the helper: a runner that dies leaves all of it or nothing.
        let (_, undo) = shop.bite(&lost, &kind).await;
        lost.helpers.detach().await;
        let cx = shop.cx();
        assert_eq!(shop.revert(&cx, &undo).await, kind.found, "{}", kind.name);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        ran(&kind, "revert on another machine");
        let third = shop.cx();
        assert_eq!(shop.revert(&third, &undo).await, RevertResult::Nothing);
        fault::gone(&third, &undo, LIMIT).await.unwrap();
        ran(&kind, "second revert on another machine");
        shop.end(&third, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_renewals_each_is_undone_by_its_helper() {
    for kind in kinds().into_iter().filter(|kind| !kind.is_over_at_once()) {
        let shop = Shop::new().await;
        let before = shop.witness().await.unwrap();
        let lost = shop.cx();
        let (_, undo) = shop.bite(&lost, &kind).await;
        lost.helpers.detach().await;
        let detached = Instant::now();
        while !shop.is_as(&before).await {
            let passed = detached.elapsed();
            assert!(passed < TTL + kind.pause + Duration::from_secs(2), "{} is still there after {passed:?}", kind.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(detached.elapsed() > TTL / 2, "{} was undone at once", kind.name);
        let cx = shop.cx();
        assert_eq!(shop.revert(&cx, &undo).await, RevertResult::Nothing, "{}", kind.name);
        fault::gone(&cx, &undo, LIMIT).await.unwrap();
        ran(&kind, "renewals stopped");
        shop.end(&cx, Some(&before)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_reverted_when_its_pod_or_its_container_is_another_one() {
    for kind in kinds() {
        for (case, wanted) in [(0, kind.replaced[0]), (1, kind.replaced[1])] {
            let shop = Shop::new().await;
            let before = shop.witness().await.unwrap();
            let cx = shop.cx();
            let (_, undo) = shop.bite(&cx, &kind).await;
            let pod: Pod = shop.world.get("db-0").await;
            let restarts = |p: &Pod| p.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
            if case == 0 {
                shop.world.delete::<Pod>("db-0", DeleteParams::default()).await;
                shop.world.until("another one", 120, "db-0", |p: &Pod| p.uid() != pod.uid() && ready(p)).await;
            } else if kind.kills() && !kind.is_over_at_once() {
                // What the kubelet starts is killed at once, again and again.
                shop.world.until("it was started twice", 120, "db-0", |p: &Pod| restarts(p) == 2).await;
                assert!(!shop.is_as(&before).await, "{} does not hold it down", kind.name);
            } else {
                if !kind.kills() {
                    shop.world.sandbox.signal("shop", "db-0", "main", Signal::Kill).unwrap();
                }
                shop.world.until("it runs again", 120, "db-0", |p: &Pod| restarts(p) == 1 && ready(p)).await;
            }
            let result = shop.revert(&cx, &undo).await;
            assert_eq!(result, wanted, "{}, {case}", kind.name);
            fault::gone(&cx, &undo, LIMIT).await.unwrap();
            ran(&kind, if case == 0 { "target gone" } else { "container restarted" });
            shop.end(&cx, Some(&before)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_have_changed_is_seen_and_left_alone() {
    for kind in kinds().into_iter().filter(|kind| !kind.kills()) {
        let shop = Shop::new().await;
        let cx = shop.cx();
        let (spec, undo) = shop.bite(&cx, &kind).await;
        match kind.meddle {
            Some(script) => drop(shop.say(script).await.expect("others can do that")),
            None => shop.world.sandbox.signal("shop", "db-0", "main", Signal::Continue).unwrap(),
        }
        let broken = fault::holds(&cx, &spec, &undo).await.unwrap();
        assert!(broken.is_some(), "{} is said to hold", kind.name);
        let (result, said) = fault::revert(&cx, &undo).await.unwrap();
        assert_eq!(result, kind.meddled, "{}: {said}", kind.name);
        if kind.meddled == RevertResult::Superseded {
            assert_eq!(shop.say("cat /data/d/a").await.as_deref(), Some("theirs\n"), "{}: {said}", kind.name);
        }
        ran(&kind, "value changed by others");
        shop.end(&cx, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_filled_through_whoever_has_it_and_what_is_no_volume_is_refused() {
    let shop = Shop::new().await;
    let before = shop.witness().await.unwrap();
    let cx = shop.cx();
    let claim: k8s_openapi::api::core::v1::PersistentVolumeClaim = shop.world.get("data-db-0").await;
    let target = object("PersistentVolumeClaim", "data-db-0", &claim.uid().unwrap());
    let spec: FaultSpec = serde_json::from_value(json!({"fillDisk": {"target": "t", "to": "90%", "over": "60s"}})).unwrap();
    let prepared = fault::prepare(&cx, &spec, std::slice::from_ref(&target)).await.unwrap();
    assert_eq!(prepared.objects[0].kind, "PersistentVolumeClaim");
    fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
    fault::inject(&cx, &spec, &prepared.undo).await.unwrap();
    fault::effective(&cx, &spec, &prepared.undo, LIMIT).await.unwrap();
    let used = async || {
        let said = shop.say("df /data").await.unwrap();
        said.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().parse::<u64>().unwrap() * 100 / (1 << 20)
    };
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!((40..=50).contains(&used().await), "{}", used().await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!((88..=90).contains(&used().await), "{}", used().await);
    assert_eq!(shop.revert(&cx, &prepared.undo).await, RevertResult::Reverted);
    fault::gone(&cx, &prepared.undo, LIMIT).await.unwrap();
    for (fault, why) in [
        (json!({"fillDisk": {"target": "t", "path": "/tmp", "to": "90%"}}), "no volume is mounted at or above /tmp"),
        (json!({"fillDisk": {"target": "t", "path": "/data/../tmp", "to": "90%"}}), "has no `..`"),
        (json!({"fillDisk": {"target": "t", "path": "/scratch", "to": "90%"}}), "the node's own disk"),
        (json!({"corruptFile": {"target": "t", "path": "/data"}}), "name a file on it"),
        (json!({"corruptFile": {"target": "t", "path": "/data/none"}}), "there is no file none"),
        (json!({"deleteFiles": {"target": "t", "path": "/data/d/*.none"}}), "nothing matches"),
        (json!({"signal": {"target": "t", "signal": "SIGTERM", "process": "nginx"}}), "is called `nginx`"),
    ] {
        let spec: FaultSpec = serde_json::from_value(fault).unwrap();
        let error = fault::prepare(&cx, &spec, &shop.targets().await).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    shop.end(&cx, Some(&before)).await;
}

#[tokio::test(start_paused = true)]
async fn files_on_a_claim_are_named_from_its_top() {
    for fault in [json!({"corruptFile": {"target": "t", "path": "/d/a"}}), json!({"deleteFiles": {"target": "t", "path": "d/*"}})] {
        let shop = Shop::new().await;
        let before = shop.witness().await.unwrap();
        let cx = shop.cx();
        let claim: k8s_openapi::api::core::v1::PersistentVolumeClaim = shop.world.get("data-db-0").await;
        let target = object("PersistentVolumeClaim", "data-db-0", &claim.uid().unwrap());
        let spec: FaultSpec = serde_json::from_value(fault).unwrap();
        let prepared = fault::prepare(&cx, &spec, std::slice::from_ref(&target)).await.unwrap();
        assert_eq!(prepared.objects[0].kind, "PersistentVolumeClaim");
        fault::arm(&cx, &spec, &prepared.undo).await.unwrap();
        fault::inject(&cx, &spec, &prepared.undo).await.unwrap();
        fault::effective(&cx, &spec, &prepared.undo, LIMIT).await.unwrap();
        assert_ne!(shop.say("cat /data/d/a").await.as_deref(), Some("one\n"), "{spec:?}");
        assert_eq!(shop.revert(&cx, &prepared.undo).await, RevertResult::Reverted);
        fault::gone(&cx, &prepared.undo, LIMIT).await.unwrap();
        shop.end(&cx, Some(&before)).await;
    }
}
