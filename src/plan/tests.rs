//! Planning on hand-made snapshots: every refusal, and what a plan says.

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
    PodSeen { uid: uid.to_owned(), labels: labelled(pairs), node: node.to_owned(), owner: owner.to_owned(), ready: true, ending: false }
}

/// A shop with a database of three, a web of four, a backup job and a budget.
fn shop() -> Snapshot {
    let mut snapshot = Snapshot { cluster_uid: UID.to_owned(), cluster_name: "staging-eu".to_owned(), ..Snapshot::default() };
    for namespace in ["shop", "firedrill", "kube-system"] {
        snapshot.namespaces.insert(namespace.to_owned(), NamespaceSeen { labels: allowed(), terminating: false });
    }
    snapshot.namespaces.insert("other".to_owned(), NamespaceSeen::default());
    for i in 1..=3 {
        let node = NodeSeen { uid: format!("node-{i}"), labels: labelled(&[(labels::ZONE, &format!("z{i}"))]), ready: true };
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
                 "alertmanager": {"service": "monitoring/alertmanager:9093"}, "receiver": {"service": "monitoring/receiver:8080"}}
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

#[test]
fn a_plan_says_what_it_will_touch() {
    let plan = planned(&json!({}));
    assert_eq!(plan.steps[0].touches, ["Pod shop/orders-0"]);
    assert_eq!(plan.steps[0].fault, Some(0));
    assert_eq!(plan.steps.iter().map(|s| s.path.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(plan.steps[1].children.iter().map(|s| s.path.as_str()).collect::<Vec<_>>(), ["2.1", "2.2"]);
    assert_eq!(plan.steps[1].children[1].title, "waitFor 2.2");
    assert_eq!(plan.leases, ["ns-shop"]);
    assert_eq!(plan.scope.namespaces, ["shop"]);
    assert_eq!(plan.scope.blast, BlastRadius { pods: 1, ..BlastRadius::default() });
    let names: Vec<_> = plan.objectives.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["recoveryTime checkout", "recoveryTime checkout (2)", "no loss"]);
    // A minute for the fault, the longer of the parallel steps.
    assert_eq!(plan.expected, (Dur::from_secs(10), Dur::from_secs(360)));
    let object = plan.targets["primary"].chosen().next().unwrap();
    assert_eq!((object.node.as_str(), object.owner.as_str(), object.uid.as_str()), ("node1", "StatefulSet/orders", "db-0"));
}

#[test]
fn probes_get_their_defaults_and_their_vantage() {
    let plan = planned(&json!({}));
    let of = |name: &str| {
        let probe = &plan.probes[name];
        (probe.every.to_string(), probe.timeout.to_string(), probe.from)
    };
    let want = |every: &str, timeout: &str, from| (every.to_owned(), timeout.to_owned(), from);
    assert_eq!(of("checkout"), want("100ms", "200ms", Vantage::Cluster));
    assert_eq!(of("outside"), want("2s", "4s", Vantage::Runner));
    assert_eq!(of("leader"), want("1s", "2s", Vantage::Runner));
    assert_eq!(of("orders"), want("20ms", "200ms", Vantage::Cluster));
    assert_eq!(of("paged"), want("1s", "2s", Vantage::Cluster));
    let mut bare = shop();
    bare.objects.remove(&ObjectKey::new(NamedKind::Service, "shop", "checkout"));
    let plan = plan_of(&json!({}), &bare, &environment(), 7).unwrap();
    assert_eq!(plan.probes["checkout"].from, Vantage::Runner, "no such Service: a name like any other");
}

#[test]
fn places_that_do_not_allow_drills_are_refused() {
    let web = |namespace: &str| json!({"namespace": namespace, "pods": "app=web"});
    let limits = json!({"pods": 9});
    for (namespace, part) in [
        ("other", "namespace other does not allow drills: its owner can say `kubectl label namespace other firedrill.dev/drills=allowed`"),
        ("kube-system", "namespace kube-system is a system namespace"),
        ("firedrill", "namespace firedrill is firedrill's own"),
    ] {
        refused(&breaks(&web(namespace), "podKill", &limits), &shop(), &environment(), &[part]);
    }
    let mut gone = shop();
    gone.namespaces.get_mut("shop").unwrap().terminating = true;
    refused(&breaks(&web("shop"), "podKill", &limits), &gone, &environment(), &["namespace shop is being deleted"]);
    gone.namespaces.remove("shop");
    refused(&breaks(&web("shop"), "podKill", &limits), &gone, &environment(), &["namespace shop does not exist"]);
    let mut wrong = shop();
    wrong.namespaces.get_mut("shop").unwrap().labels.insert(labels::DRILLS.to_owned(), "true".to_owned());
    refused(&breaks(&web("shop"), "podKill", &limits), &wrong, &environment(), &["namespace shop does not allow drills"]);
}

#[test]
fn the_label_is_asked_of_runbooks_and_of_probes_that_write_too() {
    let job = json!({"runbook": {"file": "x.md", "runIn": {"job": {"namespace": "other", "image": "i"}}}});
    refused(
        &json!({"probes": {}, "objectives": [], "steps": [job]}),
        &shop(),
        &environment(),
        &["the runbook x.md was not read", "step `runbook 1`: namespace other does not allow drills"],
    );
    let mut snapshot = shop();
    snapshot.namespaces.get_mut("shop").unwrap().labels.clear();
    refused(&json!({"steps": []}), &snapshot, &environment(), &["probe `orders` writes there: namespace shop does not allow drills"]);
    // Looking is free.
    let looks = json!({"probes": {"leader": {"pods": {"target": "primary", "ready": 1}}}, "steps": [], "objectives": []});
    assert_eq!(plan_of(&looks, &snapshot, &environment(), 7).unwrap().leases, Vec::<String>::new());
}

#[test]
fn limits_count_what_is_really_there() {
    let web = json!({"namespace": "shop", "pods": "app=web"});
    refused(&breaks(&web, "podKill", &json!({"pods": 3})), &shop(), &environment(), &["breaks 4 pods, and `limits.pods` is 3"]);
    assert_eq!(planned(&breaks(&web, "podKill", &json!({"pods": 4}))).scope.blast.pods, 4);
    refused(&breaks(&web, "podKill", &json!({})), &shop(), &environment(), &["`limits.pods` is 0"]);
    let backup = json!({"namespace": "shop", "cronJob": "backup"});
    refused(
        &breaks(&backup, "cutBackupJob", &json!({"pods": 9})),
        &shop(),
        &environment(),
        &["breaks 1 objects, and `limits.objects` is 0"],
    );
    planned(&breaks(&backup, "cutBackupJob", &json!({"objects": 1})));
}

#[test]
fn scaling_down_counts_the_pods_that_go() {
    let scale = |replicas: u32, pods: u32| {
        json!({"targets": {"t": {"namespace": "shop", "deployment": "web"}}, "limits": {"pods": pods, "objects": 1}, "probes": {},
               "objectives": [], "steps": [{"name": "break", "inject": {"scale": {"target": "t", "replicas": replicas}}}]})
    };
    assert_eq!(planned(&scale(1, 3)).scope.blast, BlastRadius { pods: 3, objects: 1, ..BlastRadius::default() });
    assert_eq!(planned(&scale(9, 0)).scope.blast, BlastRadius { pods: 0, objects: 1, ..BlastRadius::default() });
    refused(&scale(0, 3), &shop(), &environment(), &["breaks 4 pods, and `limits.pods` is 3"]);
    let mut guarded = shop();
    let web = BudgetSeen { name: "web".to_owned(), selector: selector::parse("app").ok(), allowed: 2, stale: false };
    guarded.budgets.get_mut("shop").unwrap().push(web);
    refused(&scale(1, 3), &guarded, &environment(), &["breaks 3 pods of PodDisruptionBudget shop/web, which allows 2 now"]);
    assert!(plan_of(&scale(2, 3), &guarded, &environment(), 7).is_ok());
    refused(&scale(4, 3), &shop(), &environment(), &["already has 4 replicas: scaling it would change nothing"]);
}

#[test]
fn what_matches_must_be_as_many_as_expected_and_more_than_none() {
    let limits = json!({"pods": 9});
    let expects = json!({"namespace": "shop", "pods": "app=web", "expect": 3});
    let part = "target `t` (pods app=web in shop) expects 3 and matches 4 (web-abc-0, web-abc-1, web-abc-2, web-abc-3)";
    refused(&breaks(&expects, "podKill", &limits), &shop(), &environment(), &[part]);
    let none = json!({"namespace": "shop", "pods": "app=nothing"});
    refused(
        &breaks(&none, "podKill", &limits),
        &shop(),
        &environment(),
        &["step `break`: target `t` (pods app=nothing in shop) matches nothing"],
    );
    let many = json!({"namespace": "shop", "pods": "app=web", "mode": "5"});
    refused(&breaks(&many, "podKill", &limits), &shop(), &environment(), &["is to choose 5 and matches only 4"]);
    let gone = json!({"namespace": "shop", "cronJob": "nope"});
    refused(&breaks(&gone, "cutBackupJob", &limits), &shop(), &environment(), &["(CronJob nope in shop) matches nothing"]);
}

#[test]
fn ending_pods_never_match() {
    let mut snapshot = shop();
    snapshot.pods.get_mut("shop").unwrap().get_mut("web-abc-2").unwrap().ending = true;
    let plan = plan_of(
        &breaks(&json!({"namespace": "shop", "owner": "Deployment/web"}), "podKill", &json!({"pods": 9})),
        &snapshot,
        &environment(),
        7,
    );
    assert_eq!(plan.unwrap().steps[0].touches, ["Pod shop/web-abc-0", "Pod shop/web-abc-1", "Pod shop/web-abc-3"]);
}

#[test]
fn budgets_are_respected_or_said() {
    let all = json!({"namespace": "shop", "pods": "cluster=orders"});
    let limits = |budgets: &str| json!({"pods": 3, "budgets": budgets});
    let part = "step `break` breaks 3 pods of PodDisruptionBudget shop/orders, which allows 1 now";
    refused(&breaks(&all, "podKill", &limits("respect")), &shop(), &environment(), &[part]);
    let plan = planned(&breaks(&all, "podKill", &limits("ignore")));
    assert!(plan.warnings.iter().any(|w| w.contains(part) && w.contains("ignores budgets")), "{:?}", plan.warnings);
    let one = json!({"namespace": "shop", "name": "orders-1"});
    planned(&breaks(&one, "podKill", &limits("respect")));
    let mut stale = shop();
    stale.budgets.get_mut("shop").unwrap()[0].stale = true;
    refused(&breaks(&one, "podKill", &limits("respect")), &stale, &environment(), &["allows 0 now (its status is not up to date)"]);
}

#[test]
fn another_cluster_is_refused_with_both_uids() {
    let mut snapshot = shop();
    snapshot.cluster_uid = "another".to_owned();
    let part = "context staging-eu is the cluster with uid another, but the environment's cluster `main` has uid 5d1f0c2e";
    refused(&json!({}), &snapshot, &environment(), &[part]);
    let mut unsaid = environment();
    unsaid.spec.clusters[0].uid = String::new();
    snapshot.cluster_uid = String::new();
    refused(&json!({}), &snapshot, &unsaid, &["has uid : choose the right"]);
}

#[test]
fn helpers_need_the_environments_leave_and_faults_their_kind_of_target() {
    let mut none = environment();
    none.spec.firedrill.node_helpers = false;
    refused(&json!({}), &shop(), &none, &["`freeze` needs a node helper, and the environment says `nodeHelpers: false`"]);
    let backup = json!({"namespace": "shop", "cronJob": "backup"});
    refused(
        &breaks(&backup, "podKill", &json!({"objects": 1})),
        &shop(),
        &environment(),
        &["`podKill` cannot act on CronJob shop/backup, only on Pod"],
    );
    let mut suspended = shop();
    suspended.objects.get_mut(&ObjectKey::new(NamedKind::CronJob, "shop", "backup")).unwrap().suspended = true;
    refused(&breaks(&backup, "cutBackupJob", &json!({"objects": 1})), &suspended, &environment(), &["is suspended already"]);
}

#[test]
fn nodes_need_their_own_label_and_must_not_carry_firedrill() {
    let mut snapshot = shop();
    for node in ["node1", "node2"] {
        snapshot.nodes.get_mut(node).unwrap().labels.extend(allowed());
    }
    snapshot.own_nodes.insert("node2".to_owned());
    let zone = |zone: &str| breaks(&json!({"zone": zone}), "loseZone", &json!({"nodes": 1}));
    let missing = "the fault kind `loseZone` is not built yet";
    refused(&zone("z1"), &snapshot, &environment(), &[missing]);
    refused(&zone("z2"), &snapshot, &environment(), &[missing, "node node2 carries firedrill's own"]);
    refused(&zone("z3"), &snapshot, &environment(), &[missing, "node node3 does not allow drills"]);
    refused(&zone("z4"), &snapshot, &environment(), &[missing, "matches nothing"]);
}

#[test]
fn what_is_missing_beside_targets_is_refused() {
    let mut snapshot = shop();
    snapshot.objects.remove(&ObjectKey::new(NamedKind::Secret, "shop", "orders-ledger"));
    let mut bare = environment();
    bare.spec.receiver = None;
    refused(&json!({}), &snapshot, &bare, &["Secret shop/orders-ledger does not exist", "probe `paged` needs `receiver`"]);
    let object = json!({"probes": {"x": {"object": {"apiVersion": "v9/x", "kind": "Nope", "name": "n", "cel": "true"}}}, "steps": [], "objectives": []});
    refused(&object, &shop(), &environment(), &["this cluster has no kind v9/x Nope"]);
    let job = json!({"probes": {}, "objectives": [], "steps": [{"runbook": {"cronJob": "shop/nope"}}]});
    refused(&job, &shop(), &environment(), &["there is no CronJob or Job shop/nope"]);
}

#[test]
fn all_reasons_come_at_once_and_each_once() {
    let both = json!({"targets": {"a": {"namespace": "other", "pods": "app=web"}, "b": {"namespace": "shop", "pods": "app=none"}},
        "limits": {}, "probes": {}, "objectives": [], "steps": [
            {"name": "1", "inject": {"podKill": {"target": "a"}}}, {"name": "2", "inject": {"podKill": {"target": "b"}}}]});
    let parts = [
        "namespace other does not allow",
        "step `1`: with it the drill breaks 1 pods",
        "matches nothing",
        "step `2`: with it the drill breaks 1 pods",
    ];
    refused(&both, &shop(), &environment(), &parts);
}

#[test]
fn a_later_fault_on_what_may_have_moved_is_said() {
    let kill = json!({"inject": {"podKill": {"target": "primary"}}});
    let plan = planned(&json!({"steps": [kill, kill], "objectives": []}));
    assert!(plan.warnings.iter().any(|w| w.contains("meet the same pods now")), "{:?}", plan.warnings);
    assert_eq!(plan.steps[1].fault, Some(1));
    let plan = planned(&json!({"steps": [kill, kill], "objectives": [], "limits": {"pods": 2}}));
    assert_eq!(plan.warnings, Vec::<String>::new());
}

/// A choice is a function of the seed, the target and what matches: shuffled, and with others that come and go, it stays.
#[test]
fn choices_follow_the_seed_and_nothing_else() {
    let target: Target = serde_json::from_value(json!({"namespace": "shop", "pods": "app=web", "mode": "30%"})).unwrap();
    let mut snapshot = shop();
    let pods = snapshot.pods.get_mut("shop").unwrap();
    for i in 0..40 {
        pods.insert(format!("web-{i}"), pod(&format!("w{i}"), "node1", "", &[("app", "web")]));
    }
    let chosen = |name: &str, snapshot: &Snapshot, seed: u64| -> Vec<String> {
        resolve::resolve(name, &target, snapshot, seed).unwrap().chosen().map(|o| o.name.clone()).collect()
    };
    let mut differ = 0;
    for seed in 0..50u64 {
        let first = chosen("t", &snapshot, seed);
        // 44 match; 30 % of them is 13.2, rounded up.
        assert_eq!(first.len(), 14);
        assert_eq!(first, chosen("t", &snapshot, seed));
        differ += usize::from(first != chosen("t", &snapshot, seed + 1)) + usize::from(first != chosen("u", &snapshot, seed));
        // Whoever was not chosen may go without changing the choice (as long as the number stays).
        let mut fewer = snapshot.clone();
        let gone = fewer.pods["shop"].keys().find(|name| name.starts_with("web") && !first.contains(name)).unwrap().clone();
        fewer.pods.get_mut("shop").unwrap().remove(&gone);
        assert!(chosen("t", &fewer, seed).iter().all(|name| first.contains(name)));
    }
    assert!(differ > 95, "the seed and the name hardly matter: {differ}");
}

#[test]
fn modes_round_up_and_refuse_too_few() {
    use crate::scenario::types::Mode;
    for (mode, matched, want) in [
        (Mode::All, 0, Some(0)),
        (Mode::One, 0, None),
        (Mode::One, 5, Some(1)),
        (Mode::Count(3), 2, None),
        (Mode::Count(3), 3, Some(3)),
        (Mode::Percent(1), 5, Some(1)),
        (Mode::Percent(50), 5, Some(3)),
        (Mode::Percent(100), 5, Some(5)),
        (Mode::Percent(50), 0, Some(0)),
    ] {
        assert_eq!(resolve::wanted(mode, matched), want, "{mode} of {matched}");
    }
}

#[test]
fn a_huge_selector_does_not_make_a_huge_plan() {
    let mut snapshot = shop();
    let pods = snapshot.pods.get_mut("shop").unwrap();
    for i in 0..5000 {
        pods.insert(format!("big-{i:04}"), pod(&format!("b{i}"), "node1", "Deployment/big", &[("app", "big")]));
    }
    let one = breaks(&json!({"namespace": "shop", "pods": "app=big", "mode": "one"}), "podKill", &json!({"pods": 1}));
    let plan = plan_of(&one, &snapshot, &environment(), 7).unwrap();
    assert_eq!(plan.targets["t"].matched, 5000);
    assert_eq!(plan.targets["t"].objects.len(), SHOWN_UNCHOSEN + 1);
    assert!(serde_json::to_string(&plan).unwrap().len() < 100_000);
}

#[test]
fn drift_is_what_a_reader_did_not_see() {
    let approved = planned(&json!({}));
    assert_eq!(drift(&approved, &approved), Vec::<String>::new());
    // A new uid under the same name, another context, another seed that chooses the same: not drift.
    let mut same = shop();
    same.cluster_name = "other-name".to_owned();
    same.pods.get_mut("shop").unwrap().get_mut("orders-0").unwrap().uid = "db-0-again".to_owned();
    let now = plan_of(&json!({}), &same, &environment(), 8).unwrap();
    assert_eq!(drift(&approved, &now), Vec::<String>::new());
    assert_eq!(digest(&approved), digest(&now));
    // The role moved.
    let mut moved = shop();
    let pods = moved.pods.get_mut("shop").unwrap();
    for (name, role) in [("orders-0", "replica"), ("orders-1", "master")] {
        pods.get_mut(name).unwrap().labels.insert("role".to_owned(), role.to_owned());
    }
    let now = plan_of(&json!({}), &moved, &environment(), 7).unwrap();
    let lines = drift(&approved, &now);
    assert!(lines.iter().any(|l| l == "targets.primary.chosen: no longer Pod shop/orders-0 on node1 of StatefulSet/orders"), "{lines:#?}");
    assert!(lines.iter().any(|l| l == "targets.primary.chosen: new Pod shop/orders-1 on node2 of StatefulSet/orders"), "{lines:#?}");
    assert_ne!(digest(&approved), digest(&now));
    // Another node under the same name, one more that matches, another limit, another step.
    let mut elsewhere = shop();
    elsewhere.pods.get_mut("shop").unwrap().get_mut("orders-0").unwrap().node = "node3".to_owned();
    assert!(!drift(&approved, &plan_of(&json!({}), &elsewhere, &environment(), 7).unwrap()).is_empty());
    let lines = drift(&approved, &planned(&json!({"limits": {"pods": 2}})));
    assert_eq!(lines, ["limits.pods: was 1, is 2"]);
    let lines = drift(&approved, &planned(&json!({"steps": [{"name": "lose it", "inject": {"crash": {"target": "primary"}}}]})));
    assert!(lines.iter().any(|l| l.starts_with("steps")), "{lines:#?}");
}

#[test]
fn who_reverts_when_the_runner_is_lost_is_said_and_gets_what_that_needs() {
    let cut = |how: &str| {
        let mut cut = breaks(&json!({"namespace": "shop", "cronJob": "backup"}), "cutBackupJob", &json!({"objects": 1}));
        cut["steps"][0]["inject"]["cutBackupJob"]["how"] = json!(how);
        cut
    };
    let unguarded = |plan: &Plan| plan.warnings.iter().any(|w| w.starts_with("no watchdog: "));
    let without = planned(&cut("suspend"));
    let said = "no watchdog: if the runner's machine is lost, `cutBackupJob` of step `break` stay until `firedrill revert`";
    assert!(without.warnings.iter().any(|w| w.starts_with(said)), "{:?}", without.warnings);
    assert_eq!(without.watchdog, None);
    assert!(!unguarded(&planned(&cut("killRunning"))), "a killed Job is not undone by anybody");
    assert!(!unguarded(&planned(&json!({}))), "what is frozen wakes up by itself");

    let mut environment = environment();
    environment.spec.firedrill.watchdog = Some(crate::scenario::types::Watchdog { service_account: "dog".to_owned() });
    let plan = plan_of(&cut("suspend"), &shop(), &environment, 7).unwrap();
    assert!(!unguarded(&plan));
    let watchdog = plan.watchdog.as_ref().unwrap();
    let of = |rules: &[Permission], resource: &str| -> Vec<String> {
        let rules = rules.iter().filter(|p| p.resource == resource);
        rules.map(|p| format!("{}: {} {}", p.namespace.as_deref().unwrap_or("*"), p.verbs.join(","), p.names.join(","))).collect()
    };
    assert_eq!(of(&watchdog.rbac, "cronjobs"), ["shop: get,patch backup"]);
    assert_eq!(of(&watchdog.rbac, "pods"), ["firedrill: delete,get,list ", "shop: list "]);
    assert_eq!(of(&watchdog.rbac, "jobs"), ["shop: list "]);
    assert_eq!(of(&watchdog.rbac, "secrets"), Vec::<String>::new());
    assert_eq!(of(&watchdog.rbac, "pods/exec"), Vec::<String>::new(), "no helper, nothing to run a command in");
    assert_eq!(of(&plan.rbac, "pods"), ["firedrill: create,delete,get,list ", "shop: list "]);
    assert_eq!(of(&plan.rbac, "nodes"), ["*: list "]);
    let frozen = plan_of(&json!({}), &shop(), &environment, 7).unwrap();
    assert_eq!(of(&frozen.watchdog.unwrap().rbac, "pods/exec"), ["firedrill: create,get "], "processes are woken by the node's helper");
    let yaml = rbac::yaml(&plan, &"User:ann".parse().unwrap());
    for part in [
        "kind: ServiceAccount\nmetadata:\n  name: \"dog\"\n  namespace: firedrill\n---\n",
        "kind: Role\nmetadata:\n  name: firedrill-lose-primary-watchdog\n  namespace: shop\n",
        "  - kind: ServiceAccount\n    name: \"dog\"\n    namespace: \"firedrill\"\n",
    ] {
        assert!(yaml.contains(part), "no {part} in\n{yaml}");
    }
    assert!(render(&plan, 200).contains("watchdog     reverts as ServiceAccount firedrill/dog if the runner's machine is lost"));
    let watched = json!({"steps": [{"hold": "1s"}], "objectives": [], "limits": {}});
    assert_eq!(plan_of(&watched, &shop(), &environment, 7).unwrap().watchdog, None, "nothing to revert");
}

#[test]
fn a_plan_survives_its_file() {
    let plan = planned(&json!({}));
    let read: Plan = serde_json::from_str(&serde_json::to_string_pretty(&plan).unwrap()).unwrap();
    assert_eq!(read, plan);
    assert_eq!(digest(&read), digest(&plan));
}

#[test]
fn permissions_are_as_small_as_the_drill() {
    let of = |plan: &Plan, resource: &str| -> Vec<String> {
        let rules = plan.rbac.iter().filter(|p| p.resource == resource);
        rules.map(|p| format!("{}: {} {}", p.namespace.as_deref().unwrap_or("*"), p.verbs.join(","), p.names.join(","))).collect()
    };
    let freeze = planned(&json!({}));
    assert_eq!(of(&freeze, "secrets"), ["shop: get orders-ledger"]);
    assert_eq!(of(&freeze, "pods"), ["firedrill: create,delete,get,list,watch ", "shop: get,list,watch "]);
    assert_eq!(of(&freeze, "pods/exec"), ["firedrill: create,get "]);
    assert_eq!(of(&freeze, "namespaces"), ["*: get firedrill,kube-system,shop"]);
    assert_eq!(of(&freeze, "statefulsets"), ["shop: get orders"]);
    assert_eq!(of(&freeze, "nodes"), ["*: list "]);
    let backup = breaks(&json!({"namespace": "shop", "cronJob": "backup"}), "cutBackupJob", &json!({"objects": 1}));
    let backup = planned(&backup);
    assert_eq!(of(&backup, "cronjobs"), ["shop: get,patch backup"]);
    assert_eq!(of(&backup, "pods"), ["firedrill: list ", "shop: list "], "no probe from the cluster, no helper: only looked for");
    assert_eq!(of(&backup, "jobs"), ["shop: get,list "]);
    let kill = planned(&breaks(&json!({"namespace": "shop", "name": "orders-1"}), "podKill", &json!({"pods": 1})));
    assert_eq!(of(&kill, "pods"), ["firedrill: list ", "shop: delete,get,list,watch "]);
    assert!(kill.rbac.iter().all(|p| !p.verbs.iter().any(|v| v == "*") && p.resource != "*" && !p.because.is_empty()));
    let mut fresh = shop();
    fresh.namespaces.remove("firedrill");
    let fresh = plan_of(&json!({}), &fresh, &environment(), 7).unwrap();
    assert_eq!(of(&fresh, "namespaces"), ["*: create ", "*: get firedrill,kube-system,shop"]);
    let yaml = rbac::yaml(&fresh, &"ServiceAccount:ops/runner".parse().unwrap());
    assert!(
        yaml.contains("kind: Namespace\nmetadata:\n  name: firedrill\n") && !yaml.contains("\"create\"]\n    resources: [\"namespaces\"]")
    );
    assert!(yaml.contains("  - kind: ServiceAccount\n    name: \"runner\"\n    namespace: \"ops\"\n"), "{yaml}");
}

#[test]
fn subjects_are_read_or_explained() {
    for text in ["User:jane@example.com", "Group:ops", "ServiceAccount:a/b"] {
        assert!(text.parse::<rbac::Subject>().is_ok(), "{text}");
    }
    for text in ["", "User:", "jane", "ServiceAccount:a", "ServiceAccount:/b", "Role:x"] {
        assert!(text.parse::<rbac::Subject>().is_err(), "{text}");
    }
}

#[test]
fn the_page_fits_and_says_what_matters() {
    let mut plan = planned(&json!({}));
    plan.warnings.push("something \u{1b}[31m with an escape in it".to_owned());
    let page = render(&plan, 60);
    for part in [
        "lose it: freeze",
        "→ Pod shop/orders-0",
        "undo: always",
        "pods         1 of at most 1",
        "Leases       ns-shop",
        "expected",
        "checkout: http every 100ms within 200ms from the cluster",
        "no loss",
        "secrets orders-ledger: get",
        &digest(&plan)[..16],
    ] {
        assert!(page.contains(part), "no `{part}` in\n{page}");
    }
    assert!(!page.contains('\u{1b}'), "what comes from outside must not steer the terminal");
    for line in page.lines() {
        let unbreakable = line.split_whitespace().count() <= 2;
        assert!(line.chars().count() <= 60 || unbreakable, "{} columns: {line}", line.chars().count());
    }
    assert!(render::render_with(&plan, 60, true).contains("\u{1b}["));
}

#[test]
fn what_a_snapshot_cannot_give_is_refused_by_name() {
    let snapshot = shop();
    let mut kinds = shop();
    for (kind, namespaced) in [("Pod", true), ("Node", false)] {
        let api = KindSeen { group: String::new(), plural: format!("{}s", kind.to_lowercase()), namespaced };
        kinds.kinds.insert(("v1".to_owned(), kind.to_owned()), api);
    }
    let object = |object: Value| json!({"probes": {"x": {"object": object}}, "steps": [{"hold": "1s"}], "objectives": []});
    let in_none = json!({"apiVersion": "v1", "kind": "Pod", "name": "n", "cel": "true"});
    refused(&object(in_none), &kinds, &environment(), &["probe `x`: Pod n needs a `namespace`"]);
    let in_one = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "namespace": "shop", "cel": "true"});
    refused(&object(in_one), &kinds, &environment(), &["probe `x`: Node n has no namespace: leave it out"]);
    let mut nowhere = environment();
    nowhere.spec.clusters.clear();
    refused(&json!({}), &snapshot, &nowhere, &["the environment names no cluster: add `clusters: {main: {uid: …}}`"]);
    let two = json!({"targets": {"primary": {"namespace": "shop", "pods": "cluster=orders,role=master", "cluster": "dr"}}});
    let part = "target `primary`: drills over more than one cluster (`dr` beside `main`) are not built yet";
    refused(&two, &snapshot, &environment(), &[part]);
    let named = json!({"namespace": "shop", "cronJob": "backup"});
    let later = json!({"targets": {"t": named}, "probes": {}, "objectives": [], "steps": [{"runbook": {"cronJob": "nope"}}]});
    refused(&later, &snapshot, &environment(), &["`cronJob: nope` is not `namespace/name`"]);
    let gone = json!({"probes": {"leader": {"pods": {"target": "nobody", "ready": 1}}}, "steps": [{"hold": "1s"}], "objectives": []});
    refused(&gone, &snapshot, &environment(), &["probe `leader`: there is no target `nobody`"]);
    let gone = json!({"probes": {}, "steps": [{"inject": {"podKill": {"target": "nobody"}}}], "objectives": []});
    refused(&gone, &snapshot, &environment(), &["there is no target `nobody`"]);
    let none = json!({"probes": {}, "steps": [{}], "objectives": []});
    refused(&none, &snapshot, &environment(), &["must have exactly one kind"]);
    let none = json!({"probes": {}, "steps": [{"name": "x", "inject": {}}], "objectives": []});
    refused(&none, &snapshot, &environment(), &["step `x`: its fault must have exactly one kind"]);
}

#[test]
fn what_a_reader_should_know_is_said_and_refuses_nothing() {
    let says = |plan: &Plan, part: &str| assert!(plan.warnings.iter().any(|w| w.contains(part)), "{part}: {:?}", plan.warnings);
    let mut unready = shop();
    unready.pods.get_mut("shop").unwrap().get_mut("orders-0").unwrap().ready = false;
    unready.objects.remove(&ObjectKey::new(NamedKind::Service, "shop", "checkout"));
    unready.objects.remove(&ObjectKey::new(NamedKind::Service, "shop", "orders-db"));
    unready.unreadable.push("budgets of shop could not be read".to_owned());
    let plan = plan_of(&json!({}), &unready, &environment(), 7).unwrap();
    says(&plan, "step `lose it`: not ready now, so that breaking it may prove nothing: orders-0");
    says(&plan, "probe `orders`: Service shop/orders-db does not exist (yet)");
    says(&plan, "budgets of shop could not be read");
    let policy = |undo: &str| json!({"steps": [{"name": "lose it", "inject": {"freeze": {"target": "primary"}, "undo": undo}}]});
    says(&planned(&policy("none")), "step `lose it`: `freeze` is never undone: irreversible");
    says(&planned(&policy("runbook")), "step `lose it`: `freeze` is undone only by the runbook");
    let later = json!({"targets": {"primary": {"namespace": "shop", "pods": "cluster=orders,role=master"}, "copy": {"namespace": "shop", "pods": "a=b"}},
        "probes": {"checkout": {"http": {"url": "http://x"}}, "c": {"pods": {"target": "copy", "ready": 1}}}, "objectives": []});
    says(&planned(&later), "probe `c`: target `copy` (pods a=b in shop) matches nothing (yet)");
}

#[test]
fn nodes_and_volumes_have_limits_of_their_own() {
    use super::{
        guard::{FaultOn, Touched, check},
        resolve,
    };
    let mut snapshot = shop();
    for node in snapshot.nodes.values_mut() {
        node.labels.extend(allowed());
    }
    let refusals = |target: Value, fault: Value, limits: Value| {
        let spec: Target = serde_json::from_value(target).unwrap();
        let target = resolve::resolve("t", &spec, &snapshot, 7).unwrap();
        let (fault, limits) = (serde_json::from_value(fault).unwrap(), serde_json::from_value(limits).unwrap());
        let on = FaultOn { step: "s", spec: &fault, target_name: "t", target: &target };
        check(&environment().spec, &limits, on, &snapshot, &mut Touched::default()).refusals
    };
    let lose = json!({"loseZone": {"target": "t"}});
    assert_eq!(
        refusals(json!({"zone": "z1"}), lose.clone(), json!({})),
        ["step `s`: with it the drill breaks 1 nodes, and `limits.nodes` is 0"]
    );
    assert_eq!(refusals(json!({"zone": "z1"}), lose, json!({"nodes": 1})), Vec::<String>::new());
    // A node that has gone since its target was resolved.
    let spec: Target = serde_json::from_value(json!({"zone": "z1"})).unwrap();
    let target = resolve::resolve("t", &spec, &snapshot, 7).unwrap();
    let fault = serde_json::from_value(json!({"loseZone": {"target": "t"}})).unwrap();
    let limits = serde_json::from_value(json!({"nodes": 1})).unwrap();
    let mut fewer = snapshot.clone();
    fewer.nodes.remove("node1");
    let on = FaultOn { step: "s", spec: &fault, target_name: "t", target: &target };
    let found = check(&environment().spec, &limits, on, &fewer, &mut Touched::default());
    assert_eq!(found.refusals, ["step `s`: node node1 does not exist"]);
}
