//! Whether a fault holds, in the sandbox: a watch says when to look, who may not watch looks every second, and either way somebody who undoes
//! a fault is seen at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use firedrill::{
    clock::Clock,
    cluster::Cluster,
    drill::{Drill, DrillOptions, Takeover},
    journal::{Disk, Event, MemoryDisk},
    plan,
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
    scenario::types::Dur,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// How long the fault is held.
const HELD: Duration = Duration::from_secs(600);
/// When somebody undoes it.
const UNDONE: Duration = Duration::from_secs(300);

async fn make(client: &Client, group: &str, kind: &str, plural: &str, object: Value) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut whole = json!({"apiVersion": if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") }, "kind": kind});
    whole.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
    api.create(&PostParams::default(), &serde_json::from_value(whole).unwrap()).await.unwrap();
}

/// How often the Deployment was read while the fault was held, and what was found broken, and when after the change by others, in microseconds.
struct Seen {
    reads: usize,
    broken: Option<(i64, String)>,
}

/// A Deployment of three is made two, and held so.
async fn held(verbs: &[&str], undone: bool) -> Seen {
    let sandbox = Sandbox::new(SandboxOptions { seed: 1, wall_us: 1_767_225_600_000_000 });
    sandbox.start_cluster(ClusterOptions::default());
    sandbox.add_node("n1", "zone-1");
    let admin = sandbox.client("admin");
    let labels = json!({"firedrill.dev/drills": "allowed"});
    make(&admin, "", "Namespace", "namespaces", json!({"metadata": {"name": "shop", "labels": labels}})).await;
    make(&admin, "", "Namespace", "namespaces", json!({"metadata": {"name": "firedrill"}})).await;
    let pod = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": pod});
    make(&admin, "apps", "Deployment", "deployments", json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).await;
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": verbs}]);
    make(&admin, "rbac.authorization.k8s.io", "ClusterRole", "clusterroles", json!({"metadata": {"name": "runner"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "runner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "runner"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "runner"}],
    });
    make(&admin, "rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", binding).await;
    let web: Api<Deployment> = Api::namespaced(admin.clone(), "shop");
    while web.get("web").await.unwrap().status.and_then(|status| status.ready_replicas) != Some(3) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let (drill, disk) = start(&sandbox, &admin).await;
    let mut changed_us = None;
    let run = async {
        let end = drill.run().await;
        assert!(end.clean && end.trouble.is_none(), "{end:?}");
    };
    tokio::select! {
        biased;
        () = Box::pin(run) => {}
        () = async {
            while web.get("web").await.unwrap().spec.and_then(|spec| spec.replicas) != Some(2) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            tokio::time::sleep(UNDONE).await;
            if undone {
                let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
                web.patch("web", &PatchParams::default(), &patch).await.unwrap();
                changed_us = Some(sandbox.now_us());
            }
            std::future::pending::<()>().await;
        } => unreachable!("it waits for ever"),
    }
    let records = firedrill::journal::read_on(&Disk::Memory(disk), &drill.evidence().journal()).unwrap();
    let broken = records.iter().find_map(|record| match &record.event {
        Event::HoldBroken { at, detail, .. } => Some((at.wall_us - changed_us.unwrap_or_default(), detail.clone())),
        _ => None,
    });
    let reads = |e: &&firedrill::sandbox::AuditEntry| e.user == "runner" && e.verb == "get" && e.resource == "deployments";
    let reads = sandbox.audit().iter().filter(reads).count();
    sandbox.stop().await;
    Seen { reads, broken }
}

async fn start(sandbox: &Sandbox, admin: &Client) -> (Arc<Drill>, MemoryDisk) {
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "short"},
        "spec": {
            "summary": "A Deployment is a pod short.", "limits": {"duration": "30m", "objects": 1, "pods": 1},
            "targets": {"web": {"namespace": "shop", "deployment": "web"}},
            "probes": {"there": {"object": {"apiVersion": "v1", "kind": "Namespace", "name": "shop", "cel": "object.metadata.name == 'shop'"}}},
            "steadyState": {"good": ["there"], "for": "1s", "timeout": "30s"},
            "steps": [
                {"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 2}}},
                {"hold": format!("{}s", HELD.as_secs())},
            ],
            "objectives": [{"check": {"probe": "there", "state": "good"}}],
        },
    });
    let text = scenario.to_string();
    let loaded = firedrill::scenario::parse_scenario("short.yaml", &text, &[]).unwrap();
    let uid = Api::<Namespace>::all(admin.clone()).get("kube-system").await.unwrap().uid().unwrap();
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sandbox"},
        "spec": {"clusters": {"main": {"uid": uid}}, "firedrill": {"watchdog": {"enabled": false}}},
    });
    let environment = firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    let cluster = Cluster::from_client(admin.clone(), "sandbox", uid.clone());
    let plan = plan::plan_on(&cluster, &loaded, &environment, &BTreeMap::new(), 1).await.unwrap();
    let disk = MemoryDisk::default();
    let options = DrillOptions {
        by: "test".to_owned(),
        confirmed_by: Some("test".to_owned()),
        auto_ack: true,
        lease: Dur(Duration::from_secs(15)),
        out: tempfile::tempdir().unwrap().keep(),
        disk: Disk::Memory(disk.clone()),
        seed: Some(1),
        sandbox: Some(sandbox.dialer(None)),
        takeover: Takeover::default(),
    };
    let runner = Cluster::from_client(sandbox.client("runner"), "sandbox", uid);
    let clock = Clock::virtual_at("runner", sandbox.now_us());
    (Drill::start(runner, clock, plan, "drill-1", &text, options).await.unwrap(), disk)
}

/// Runs it in paused time, on a stack that holds a whole drill of an unoptimised build.
fn on_a_large_stack<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test());
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

const BLIND: &[&str] = &["create", "delete", "get", "list", "patch", "update"];

#[test]
fn a_fault_that_is_left_alone_is_read_seldom_and_one_that_is_undone_is_seen_within_a_second() {
    on_a_large_stack(|| async {
        let alone = held(&["*"], false).await;
        assert_eq!(alone.broken, None);
        // A few for each of the watches that follow one another, instead of six hundred.
        assert!(alone.reads > 20 && alone.reads < 120, "{} reads in {HELD:?}", alone.reads);
        let undone = held(&["*"], true).await;
        let (after_us, detail) = undone.broken.expect("a broken hold");
        assert_eq!(detail, "others have set 4 replicas");
        assert!((0..=1_200_000).contains(&after_us), "{after_us} us");
    });
}

#[test]
fn who_may_not_watch_looks_every_second() {
    on_a_large_stack(|| async {
        let undone = held(BLIND, true).await;
        let (after_us, detail) = undone.broken.expect("a broken hold");
        assert_eq!(detail, "others have set 4 replicas");
        assert!((0..=1_200_000).contains(&after_us), "{after_us} us");
        assert!(undone.reads > 250, "{} reads in {UNDONE:?}", undone.reads);
    });
}
