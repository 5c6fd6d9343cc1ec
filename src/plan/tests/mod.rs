//! Planning on hand-made snapshots: every refusal, and what a plan says.

mod api_faults;
mod plans;
mod refusals;

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{seen::*, types::*, *};
use crate::{
    labels,
    scenario::types::{Dur, Environment, Scenario, Target, Vantage},
    selector,
};

const UID: &str = "5d1f0c2e-0000-4000-8000-000000000001";

fn labelled(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn allowed() -> BTreeMap<String, String> {
    labelled(&[(labels::DRILLS, labels::ALLOWED)])
}

fn pod(uid: &str, node: &str, owner: &str, pairs: &[(&str, &str)]) -> PodSeen {
    let (node, owner) = (node.to_owned(), owner.to_owned());
    let mount = |path: &str, unfit| MountSeen { container: "main".to_owned(), path: path.to_owned(), unfit };
    let mounts = vec![mount("/data", None), mount("/etc/conf", Some("is neither of a claim nor an emptyDir"))];
    PodSeen { uid: uid.to_owned(), labels: labelled(pairs), node, owner, ready: true, mounts, ..PodSeen::default() }
}

/// A shop with a database of three, a web of four, a backup job and a budget.
fn shop() -> Snapshot {
    let mut snapshot = Snapshot { cluster_uid: UID.to_owned(), cluster_name: "staging-eu".to_owned(), ..Snapshot::default() };
    for namespace in ["shop", "firedrill", "kube-system"] {
        snapshot.namespaces.insert(namespace.to_owned(), NamespaceSeen { labels: allowed(), terminating: false });
    }
    snapshot.namespaces.insert("other".to_owned(), NamespaceSeen::default());
    for i in 1..=3 {
        let node =
            NodeSeen { uid: format!("node-{i}"), labels: labelled(&[(labels::ZONE, &format!("z{i}"))]), ready: true, cordoned: false };
        snapshot.nodes.insert(format!("node{i}"), node);
    }
    let mut pods = BTreeMap::new();
    for i in 0..3 {
        let role = if i == 0 { "master" } else { "replica" };
        let db = pod(&format!("db-{i}"), &format!("node{}", i + 1), "StatefulSet/orders", &[("cluster", "orders"), ("role", role)]);
        pods.insert(format!("orders-{i}"), db);
    }
    for i in 0..4 {
        pods.insert(format!("web-abc-{i}"), pod(&format!("web-{i}"), "node1", "Deployment/web", &[("app", "web")]));
    }
    for namespace in ["other", "kube-system", "firedrill"] {
        let one = BTreeMap::from([("lonely".to_owned(), pod(namespace, "node1", "", &[("app", "web")]))]);
        snapshot.pods.insert(namespace.to_owned(), one);
    }
    snapshot.pods.insert("shop".to_owned(), pods);
    let budget = BudgetSeen { name: "orders".to_owned(), selector: selector::parse("cluster=orders").ok(), allowed: 1, stale: false };
    snapshot.budgets.insert("shop".to_owned(), vec![budget]);
    let seen = |uid: &str| ObjectSeen { uid: uid.to_owned(), ..ObjectSeen::default() };
    for (kind, name, object) in [
        (NamedKind::Service, "checkout", seen("svc")),
        (NamedKind::Service, "orders-db", seen("svc-db")),
        (NamedKind::Secret, "orders-ledger", seen("secret")),
        (NamedKind::CronJob, "backup", seen("cron")),
        (NamedKind::Deployment, "web", ObjectSeen { replicas: Some(4), selector: selector::parse("app=web").ok(), ..seen("deploy") }),
    ] {
        snapshot.objects.insert(ObjectKey::new(kind, "shop", name), object);
    }
    snapshot
}

fn environment() -> Environment {
    serde_json::from_value(json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "staging"},
        "spec": {"clusters": {"main": {"uid": UID}}, "prometheus": {"url": "http://prometheus.example"},
                 "alertmanager": {"service": "monitoring/alertmanager:9093"}, "receiver": {"service": "monitoring/receiver:8080"},
                 "firedrill": {"watchdog": {"enabled": false}}}
    }))
    .unwrap()
}

/// A scenario whose spec is the default one with these keys replaced.
fn scenario(changes: &Value) -> Scenario {
    let mut spec = json!({
        "summary": "The orders database loses its primary.",
        "targets": {"primary": {"namespace": "shop", "pods": "cluster=orders,role=master", "expect": 1}},
        "limits": {"pods": 1},
        "probes": {
            "checkout": {"http": {"url": "http://checkout.shop/healthz"}},
            "outside": {"http": {"url": "https://shop.example.com/"}, "every": "2s"},
            "leader": {"pods": {"target": "primary", "ready": 1}},
            "orders": {"ledger": {"postgres": {"service": "shop/orders-db", "database": "orders", "secret": "shop/orders-ledger"}}},
            "paged": {"alert": {"name": "Down"}}
        },
        "steps": [
            {"name": "lose it", "inject": {"freeze": {"target": "primary"}}},
            {"parallel": [{"hold": "5s"}, {"waitFor": {"probe": "checkout", "state": "good", "for": "10s", "timeout": "5m"}}]}
        ],
        "objectives": [
            {"recoveryTime": {"probe": "checkout", "after": "lose it", "within": "60s"}},
            {"recoveryTime": {"probe": "checkout", "after": "lose it", "within": "90s"}},
            {"name": "no loss", "dataLoss": {"ledger": "orders", "writes": 0}}
        ]
    });
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "lose-primary"}, "spec": spec
    }))
    .unwrap()
}

fn plan_of(changes: &Value, snapshot: &Snapshot, environment: &Environment, seed: u64) -> Result<Plan, Refused> {
    let scenario = scenario(changes);
    make(&Inputs {
        scenario: &scenario,
        scenario_sha256: "abc",
        parameters: &IndexMap::new(),
        environment,
        snapshot,
        seed,
        runbooks: &BTreeMap::new(),
    })
}

fn planned(changes: &Value) -> Plan {
    plan_of(changes, &shop(), &environment(), 7).unwrap_or_else(|refused| panic!("{refused}"))
}

/// Asserts that it is refused with exactly these reasons, each given by a part of it.
#[track_caller]
fn refused(changes: &Value, snapshot: &Snapshot, environment: &Environment, parts: &[&str]) {
    let reasons = plan_of(changes, snapshot, environment, 7).expect_err("it was planned").reasons;
    for part in parts {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "no `{part}` in {reasons:#?}");
    }
    assert_eq!(reasons.len(), parts.len(), "{reasons:#?}");
}

/// A drill that breaks one target and watches nothing.
fn breaks(target: &Value, fault: &str, limits: &Value) -> Value {
    json!({"targets": {"t": target}, "limits": limits, "probes": {}, "objectives": [],
           "steps": [{"name": "break", "inject": {fault: {"target": "t"}}}]})
}
