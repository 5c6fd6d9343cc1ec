//! What a plan says.

use super::*;

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
    environment.spec.firedrill = crate::scenario::types::OwnPlace::default();
    let by_default = plan_of(&cut("suspend"), &shop(), &environment, 7).unwrap();
    assert_eq!(by_default.watchdog.unwrap().service_account, "firedrill-watchdog", "nobody has to ask for it");
    environment.spec.firedrill.watchdog.service_account = "dog".to_owned();
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
    assert_eq!(of(&backup, "cronjobs"), ["shop: get,patch,watch backup"]);
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
    says(&planned(&policy("none")), "step `lose it`: `freeze` is undone by no revert; its helper undoes what it holds when the drill ends");
    let scaled = json!({"targets": {"t": {"namespace": "shop", "deployment": "web"}}, "limits": {"pods": 4, "objects": 1}, "probes": {},
        "objectives": [], "steps": [{"name": "none", "inject": {"scale": {"target": "t", "replicas": 0}, "undo": "none"}}]});
    says(&planned(&scaled), "step `none`: `scale` is never undone: irreversible");
    says(&planned(&policy("runbook")), "step `lose it`: `freeze` is undone only by the runbook");
    let later = json!({"targets": {"primary": {"namespace": "shop", "pods": "cluster=orders,role=master"}, "copy": {"namespace": "shop", "pods": "a=b"}},
        "probes": {"checkout": {"http": {"url": "http://x"}}, "c": {"pods": {"target": "copy", "ready": 1}}}, "objectives": []});
    says(&planned(&later), "probe `c`: target `copy` (pods a=b in shop) matches nothing (yet)");
}
