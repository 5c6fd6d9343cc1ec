//! What is refused, and the limits.

use super::*;

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
        &["breaks 1 object, and `limits.objects` is 0"],
    );
    planned(&breaks(&backup, "cutBackupJob", &json!({"objects": 1})));
}

#[test]
fn scaling_counts_the_pods_that_go_or_come() {
    let scale = |replicas: u32, pods: u32| {
        json!({"targets": {"t": {"namespace": "shop", "deployment": "web"}}, "limits": {"pods": pods, "objects": 1}, "probes": {},
               "objectives": [], "steps": [{"name": "break", "inject": {"scale": {"target": "t", "replicas": replicas}}}]})
    };
    assert_eq!(planned(&scale(1, 3)).scope.blast, BlastRadius { pods: 3, objects: 1, ..BlastRadius::default() });
    assert_eq!(planned(&scale(9, 5)).scope.blast, BlastRadius { pods: 5, objects: 1, ..BlastRadius::default() });
    refused(&scale(u32::MAX, 5), &shop(), &environment(), &["breaks 4294967291 pods, and `limits.pods` is 5"]);
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
    refused(&json!({}), &shop(), &none, &["`freeze` cannot be made in Pod shop/orders-0 (the environment says `nodeHelpers: false`)"]);
    let cut = breaks(&json!({"namespace": "shop", "name": "orders-0"}), "partition", &json!({"pods": 1}));
    refused(&cut, &shop(), &none, &["`partition` needs a node helper, and the environment says `nodeHelpers: false`"]);
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

/// A fault on the pod orders-0.
fn placed(fault: Value, placement: Option<&str>) -> Value {
    let mut inject = fault;
    if let Some(placement) = placement {
        inject["placement"] = json!(placement);
    }
    json!({"targets": {"t": {"namespace": "shop", "name": "orders-0"}}, "limits": {"pods": 1, "volumes": 1}, "probes": {}, "objectives": [],
           "steps": [{"name": "break", "inject": inject}]})
}

#[test]
fn a_placement_is_had_where_it_works_and_else_refused_with_its_reason() {
    let fill = || json!({"fillDisk": {"target": "t", "path": "/data", "leave": "0"}});
    let signal = || json!({"signal": {"target": "t", "signal": "SIGHUP", "process": "postgres"}});
    let on = |kind: &str| json!({kind: {"target": "t"}});
    let mut none = environment();
    none.spec.firedrill.node_helpers = false;
    let seen = |shares: bool, says_user: bool, level: &str| {
        let mut snapshot = shop();
        let pod = snapshot.pods.get_mut("shop").unwrap().get_mut("orders-0").unwrap();
        (pod.shares_processes, pod.says_user) = (shares, says_user);
        snapshot.namespaces.get_mut("shop").unwrap().labels.insert("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned());
        snapshot
    };
    let plain = seen(false, false, "baseline");
    for (spec, environment, snapshot) in [
        (placed(fill(), Some("pod")), environment(), &plain),
        (placed(fill(), None), none.clone(), &plain),
        (placed(signal(), Some("pod")), environment(), &plain),
        (placed(on("freeze"), Some("pod")), environment(), &seen(true, false, "privileged")),
        (placed(on("crash"), None), none.clone(), &seen(true, true, "restricted")),
    ] {
        let plan = plan_of(&spec, snapshot, &environment, 7).unwrap_or_else(|refused| panic!("{spec}: {refused}"));
        assert!(plan.warnings.iter().any(|w| w.contains("ephemeral container")), "{:?}", plan.warnings);
        let has = |resource: &str, verb: &str, namespace: &str| {
            let of = |p: &&Permission| p.resource == resource && p.namespace.as_deref() == Some(namespace);
            plan.rbac.iter().filter(of).any(|p| p.verbs.iter().any(|v| v == verb))
        };
        assert!(has("pods/ephemeralcontainers", "patch", "shop") && has("pods/exec", "create", "shop"), "{:#?}", plan.rbac);
        assert!(!has("pods", "create", "firedrill"), "no helper is placed in firedrill's own namespace");
    }
    let plan = planned(&placed(fill(), Some("node")));
    assert!(!plan.rbac.iter().any(|p| p.resource == "pods/ephemeralcontainers"));
    for (spec, environment, snapshot, why) in [
        (placed(on("freeze"), Some("pod")), environment(), plain.clone(), "needs `shareProcessNamespace: true`"),
        (
            placed(on("partition"), Some("pod")),
            environment(),
            plain.clone(),
            "`partition` needs its node, and cannot be made from within a pod",
        ),
        (placed(on("podKill"), Some("pod")), environment(), plain.clone(), "`podKill` has no helper whose `placement` could be chosen"),
        (placed(fill(), Some("node")), none.clone(), plain.clone(), "`nodeHelpers: false`: allow it, or leave `placement` out"),
        (placed(fill(), None), none, seen(false, false, "restricted"), "namespace shop enforces *restricted*"),
    ] {
        refused(&spec, &snapshot, &environment, &[why]);
    }
}

#[test]
fn nodes_need_their_own_label_and_must_not_carry_firedrill() {
    let mut snapshot = shop();
    for node in ["node1", "node2"] {
        snapshot.nodes.get_mut(node).unwrap().labels.extend(allowed());
    }
    snapshot.own_nodes.insert("node2".to_owned());
    let zone = |zone: &str| breaks(&json!({"zone": zone}), "loseZone", &json!({"nodes": 1}));
    refused(&zone("z2"), &snapshot, &environment(), &["node node2 carries firedrill's own"]);
    refused(&zone("z3"), &snapshot, &environment(), &["node node3 does not allow drills"]);
    refused(&zone("z4"), &snapshot, &environment(), &["matches nothing"]);
    snapshot.nodes.get_mut("node1").unwrap().labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
    refused(&zone("z1"), &snapshot, &environment(), &["node node1 carries the control plane: `loseZone` may not act on it"]);
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
        "step `1`: with it the drill breaks 1 pod",
        "matches nothing",
        "step `2`: with it the drill breaks 1 pod",
    ];
    refused(&both, &shop(), &environment(), &parts);
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
        ["step `s`: with it the drill breaks 1 node, and `limits.nodes` is 0"]
    );
    assert_eq!(refusals(json!({"zone": "z1"}), lose.clone(), json!({"nodes": 1})), Vec::<String>::new());
    // The pods that are lost with a node count, too.
    let mut carrying = snapshot.clone();
    let pod = PodSeen { uid: "u-orders-0".to_owned(), node: "node1".to_owned(), ..PodSeen::default() };
    carrying
        .on_nodes
        .insert("node1".to_owned(), vec![OnNode { namespace: "shop".to_owned(), name: "orders-0".to_owned(), pod: Some(pod) }]);
    let spec: Target = serde_json::from_value(json!({"zone": "z1"})).unwrap();
    let target = resolve::resolve("t", &spec, &carrying, 7).unwrap();
    let (fault, limits) = (serde_json::from_value(lose).unwrap(), serde_json::from_value(json!({"nodes": 1})).unwrap());
    let on = FaultOn { step: "s", spec: &fault, target_name: "t", target: &target };
    let found = check(&environment().spec, &limits, on, &carrying, &mut Touched::default());
    assert_eq!(found.refusals, ["step `s`: with it the drill breaks 1 pod, and `limits.pods` is 0"]);
    // What acts on a pod's volume breaks the volume, and takes no pod away.
    let fill = json!({"fillDisk": {"target": "t", "path": "/data", "to": "90%"}});
    let primary = json!({"namespace": "shop", "pods": "cluster=orders,role=master"});
    assert_eq!(
        refusals(primary.clone(), fill.clone(), json!({"pods": 1})),
        ["step `s`: with it the drill breaks 1 volume, and `limits.volumes` is 0"]
    );
    assert_eq!(refusals(primary.clone(), fill, json!({"volumes": 1})), Vec::<String>::new());
    // And there must be one.
    for (path, why) in [
        ("/etc", "no volume is mounted at or above /etc; volumes are at /data"),
        ("/database", "no volume is mounted at or above /database; volumes are at /data"),
        ("/etc/conf/a", "the volume at /etc/conf is neither of a claim nor an emptyDir"),
        ("/data/../etc", "may lead out of the volume"),
    ] {
        let delete = json!({"deleteFiles": {"target": "t", "path": path}});
        let found = refusals(primary.clone(), delete, json!({"volumes": 1}));
        assert!(found.len() == 1 && found[0].contains(why), "{path}: {found:?}");
    }
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
