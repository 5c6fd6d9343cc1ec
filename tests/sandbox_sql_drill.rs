//! Drills that change rows, in the sandbox, with no more rights than `plan --rbac` prints: one that comes to its end, one whose rows are left
//! to the runbook, and one whose runner is lost and whose watchdog reverts it.

#[expect(dead_code, reason = "shared with the suite of the database")]
#[path = "sandbox_database/world.rs"]
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use firedrill::{
    clock::Clock,
    cluster::Cluster,
    drill::{Drill, DrillOptions, Takeover},
    gate::Gate,
    journal::{Disk, MemoryDisk},
    plan,
    scenario::types::Dur,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, TypeMeta},
};
use serde_json::{Value, json};
use world::World;

const LEASE: Duration = Duration::from_secs(15);
const LOST: &str = "select count(*) from accounts where plan = 'lost'";
const BACK: &str = "update accounts set plan = 'free' where plan = 'lost'";

async fn shop() -> World {
    let w = World::up(7, &[]).await;
    let namespaces: Api<Namespace> = Api::all(w.client.clone());
    let allowed = Patch::Merge(json!({"metadata": {"labels": {"firedrill.dev/drills": "allowed"}}}));
    namespaces.patch("shop", &PatchParams::default(), &allowed).await.unwrap();
    let own = serde_json::from_value(json!({"metadata": {"name": "firedrill"}})).unwrap();
    namespaces.create(&PostParams::default(), &own).await.unwrap();
    ask(&w, "update accounts set plan = 'free' where id <= 50").await;
    w
}

async fn ask(w: &World, statement: &str) -> Option<String> {
    let target = w.target("orders-db", "postgres", "orders-superuser");
    firedrill::probe::Pg::connect(&w.dialer(), &target).await.unwrap().simple(statement).await.unwrap()
}

/// Rows that are lost, and marks.
async fn state(w: &World) -> (String, String) {
    (ask(w, LOST).await.unwrap(), ask(w, "select count(*) from pg_description").await.unwrap())
}

fn are(rows: &str, marks: &str) -> (String, String) {
    (rows.to_owned(), marks.to_owned())
}

/// The drill, its rights granted, as its runner would run it.
async fn drill(w: &World, most: u64, revert: Option<&str>, steps: Value) -> (Arc<Drill>, MemoryDisk) {
    let postgres = json!({"service": "shop/orders-db", "database": "orders", "secret": "shop/orders-app"});
    let mut sql = json!({"postgres": postgres, "statement": "update accounts set plan = 'lost' where id <= 50", "maxRows": most});
    let mut fault = json!({"sql": {}});
    match revert {
        Some(revert) => sql["revert"] = json!(revert),
        None => fault["undo"] = json!("runbook"),
    }
    fault["sql"] = sql;
    let mut all = vec![json!({"name": "rows", "inject": fault})];
    all.extend(steps.as_array().unwrap().clone());
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "rows"},
        "spec": {
            "summary": "Rows are lost.", "limits": {"duration": "30m"}, "targets": {"leader": {"namespace": "shop", "pods": "cluster=orders,role=master"}},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "orders-db", "cel": "object.metadata.name == 'orders-db'"}}},
            "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
            "steps": all,
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    let text = scenario.to_string();
    let loaded = firedrill::scenario::parse_scenario("rows.yaml", &text, &[]).unwrap();
    let uid = Api::<Namespace>::all(w.client.clone()).get("kube-system").await.unwrap().uid().unwrap();
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sandbox"},
        "spec": {"clusters": {"main": {"uid": uid}}, "firedrill": {"watchdog": {"serviceAccount": "watchdog"}}},
    });
    let environment = firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    let admin = Cluster::from_client(w.client.clone(), "sandbox", uid.clone());
    let runbook = format!("# Rows\n## Put them back\n```sh\npsql -d orders -X -c \"{BACK}\"\n```\n");
    let files = BTreeMap::from([("back.md".to_owned(), runbook)]);
    let plan = plan::plan_on(&admin, &loaded, &environment, &files, 1).await.unwrap();
    grant(w, &plan::rbac::yaml(&plan, &"User:runner".parse().unwrap())).await;
    let runner = Cluster::from_client(w.sandbox.client("runner"), "sandbox", uid);
    let missing = plan::may::missing(&runner, &plan.rbac).await;
    assert_eq!(missing, plan::may::Missing::default());
    let disk = MemoryDisk::default();
    let options = DrillOptions {
        by: "test".to_owned(),
        confirmed_by: Some("test".to_owned()),
        auto_ack: true,
        lease: Dur(LEASE),
        out: tempfile::tempdir().unwrap().keep(),
        disk: Disk::Memory(disk.clone()),
        seed: Some(1),
        sandbox: Some(w.sandbox.dialer(None)),
        takeover: Takeover::default(),
    };
    Drill::start(runner, Clock::virtual_at("runner", w.sandbox.now_us()), plan, "drill-1", &text, options)
        .await
        .map(|drill| (drill, disk))
        .unwrap()
}

/// All that the drill has written down.
fn journal(drill: &Drill, disk: &MemoryDisk) -> String {
    let records = firedrill::journal::read_on(&Disk::Memory(disk.clone()), &drill.evidence().journal()).unwrap();
    serde_json::to_string(&records).unwrap()
}

/// Applies what `plan --rbac` printed, as an administrator does.
async fn grant(w: &World, yaml: &str) {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    for object in objects.into_iter().filter(|object| object["kind"] != "Namespace") {
        let types =
            TypeMeta { api_version: object["apiVersion"].as_str().unwrap().to_owned(), kind: object["kind"].as_str().unwrap().to_owned() };
        let plural = format!("{}s", types.kind.to_lowercase());
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &types.kind), &plural);
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(w.client.clone(), namespace, &resource),
            None => Api::all_with(w.client.clone(), &resource),
        };
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
}

/// Nobody has asked for what it may not.
fn no_refusals(w: &World) {
    let refused: Vec<String> = w.sandbox.audit().iter().filter(|e| e.code == 403).map(|e| format!("{e:?}")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
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

#[test]
fn a_drill_changes_rows_and_puts_them_back() {
    on_a_large_stack(whole_drill);
}

#[test]
fn rows_over_the_limit_are_not_changed() {
    on_a_large_stack(over_the_limit);
}

#[test]
fn rows_are_left_to_the_runbook_and_the_mark_goes() {
    on_a_large_stack(by_the_runbook);
}

#[test]
fn a_watchdog_puts_rows_back() {
    on_a_large_stack(lost_runner);
}

/// Runs a drill to its end beside somebody who sees whether its rows were changed.
async fn run(w: &World, drill: &Arc<Drill>) -> (firedrill::drill::DrillEnd, bool) {
    let mut seen = false;
    let end = tokio::select! {
        biased;
        end = Box::pin(drill.run()) => end,
        () = async {
            while state(w).await != are("50", "1") {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            seen = true;
            // The undo is in the record, and nothing of the Secret's contents.
            let records: Api<ConfigMap> = Api::namespaced(w.client.clone(), "firedrill");
            let text = format!("{:?}", records.list(&ListParams::default()).await.unwrap().items);
            assert!(text.contains("drill-1") && !text.contains("sandbox-orders-app"), "{text}");
            std::future::pending::<()>().await;
        } => unreachable!("it waits for ever"),
    };
    (end, seen)
}

async fn whole_drill() {
    let w = shop().await;
    let (drill, disk) = Box::pin(drill(&w, 50, Some(BACK), json!([{"hold": "10s"}]))).await;
    let (end, seen) = run(&w, &drill).await;
    assert!(seen, "the rows were not changed: {end:?}\n{}", journal(&drill, &disk));
    assert!(end.clean && end.trouble.is_none(), "{end:?}");
    assert_eq!(state(&w).await, are("0", "0"));
    assert!(journal(&drill, &disk).contains("`revert` touched 50 rows, as many as the fault"), "{}", journal(&drill, &disk));
    assert!(
        !journal(&drill, &disk).contains("sandbox-orders-app") && !journal(&drill, &disk).contains("holdBroken"),
        "{}",
        journal(&drill, &disk)
    );
    no_refusals(&w);
    w.sandbox.stop().await;
}

async fn over_the_limit() {
    let w = shop().await;
    let (drill, disk) = Box::pin(drill(&w, 49, Some(BACK), json!([{"hold": "1s"}]))).await;
    let (end, seen) = run(&w, &drill).await;
    assert!(end.clean && !seen, "{end:?}");
    assert!(journal(&drill, &disk).contains("it touches 50 rows, and `maxRows` is 49: rolled back"), "{}", journal(&drill, &disk));
    assert_eq!(state(&w).await, are("0", "0"));
    no_refusals(&w);
    w.sandbox.stop().await;
}

/// (The runbook's own rights are another suite's.)
async fn by_the_runbook() {
    let w = shop().await;
    let run_in = json!({"target": "leader", "container": "postgres"});
    let back = json!({"name": "back", "runbook": {"file": "back.md", "runIn": run_in, "restores": ["rows"]}});
    let (drill, disk) = Box::pin(drill(&w, 50, None, json!([{"hold": "5s"}, back]))).await;
    let (end, seen) = run(&w, &drill).await;
    assert!(seen && end.clean && end.trouble.is_none(), "{end:?}\n{}", journal(&drill, &disk));
    assert_eq!(
        state(&w).await,
        are("0", "0"),
        "the runbook puts the rows back, and the drill removes its mark\n{}",
        journal(&drill, &disk)
    );
    assert!(!journal(&drill, &disk).contains("holdBroken"), "{}", journal(&drill, &disk));
    w.sandbox.stop().await;
}

async fn lost_runner() {
    let w = shop().await;
    let (drill, _disk) = Box::pin(drill(&w, 50, Some(BACK), json!([{"hold": "20m"}]))).await;
    let runner = Gate::new();
    let run = Box::pin(runner.hold(async { drill.run().await }));
    let watch = async {
        while state(&w).await != are("50", "1") {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        runner.kill();
        let own: Api<Pod> = Api::namespaced(w.client.clone(), "firedrill");
        // The watchdog's own pod is the last to go.
        let began = tokio::time::Instant::now();
        while !own.list(&ListParams::default()).await.unwrap().items.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(300), "the watchdog has not ended its work");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        biased;
        _ = run => panic!("the runner ended by itself"),
        () = Box::pin(watch) => {}
    }
    assert_eq!(state(&w).await, are("0", "0"));
    no_refusals(&w);
    let by = "system:serviceaccount:firedrill:watchdog";
    let forwarded = w.sandbox.audit().iter().any(|e| e.user == by && e.subresource == "portforward");
    assert!(forwarded, "the watchdog has not gone to the database");
    w.sandbox.stop().await;
}
