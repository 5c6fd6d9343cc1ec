//! Faults on nodes, Services, images and Secrets: what is refused, what counts, and what is permitted for them.

use super::*;

/// `node1` allows drills and carries pods of the shop only.
fn shop_with_nodes() -> Snapshot {
    let mut snapshot = shop();
    for node in snapshot.nodes.values_mut() {
        node.labels.extend(allowed());
    }
    let on = |namespace: &str, name: &str, pod: PodSeen| OnNode { namespace: namespace.to_owned(), name: name.to_owned(), pod: Some(pod) };
    let pods = vec![
        on("shop", "web-abc-1", pod("web-1", "node1", "Deployment/web", &[("app", "web")])),
        on("shop", "orders-0", pod("db-0", "node1", "StatefulSet/orders", &[])),
    ];
    snapshot.on_nodes.insert("node1".to_owned(), pods);
    snapshot
}

fn node(fault: &str, limits: &Value) -> Value {
    breaks(&json!({"zone": "z1"}), fault, limits)
}

#[test]
fn a_drain_counts_what_it_evicts_and_holds_leases_there() {
    let plan = plan_of(&node("drainNode", &json!({"nodes": 1, "pods": 2})), &shop_with_nodes(), &environment(), 7).unwrap();
    assert_eq!(plan.steps[0].touches, ["Node node1", "Pod shop/orders-0", "Pod shop/web-abc-1"]);
    assert_eq!(plan.scope.blast, BlastRadius { nodes: 1, pods: 2, ..BlastRadius::default() });
    assert_eq!(plan.leases, ["node-node1", "ns-shop"]);
    let part = "breaks 2 pods, and `limits.pods` is 1";
    refused(&node("drainNode", &json!({"nodes": 1, "pods": 1})), &shop_with_nodes(), &environment(), &[part]);
    let part = "breaks 1 node, and `limits.nodes` is 0";
    refused(&node("cordonNode", &json!({})), &shop_with_nodes(), &environment(), &[part]);
    let plan = plan_of(&node("cordonNode", &json!({"nodes": 1})), &shop_with_nodes(), &environment(), 7).unwrap();
    assert_eq!(
        (plan.steps[0].touches.as_slice(), plan.leases.as_slice()),
        (&["Node node1".to_owned()][..], &["node-node1".to_owned()][..])
    );
}

#[test]
fn a_cordoned_node_stays_as_its_owner_has_it() {
    let mut snapshot = shop_with_nodes();
    snapshot.nodes.get_mut("node1").unwrap().cordoned = true;
    let part = "node node1 is cordoned already: nothing would change, and it would stay cordoned";
    for fault in ["cordonNode", "drainNode"] {
        refused(&node(fault, &json!({"nodes": 1, "pods": 2})), &snapshot, &environment(), &[part]);
    }
}

#[test]
fn a_drain_evicts_only_what_drills_may_touch() {
    let drain = node("drainNode", &json!({"nodes": 1, "pods": 9}));
    let add = |namespace: &str, name: &str, seen: Option<PodSeen>| {
        let mut snapshot = shop_with_nodes();
        let on = OnNode { namespace: namespace.to_owned(), name: name.to_owned(), pod: seen };
        snapshot.on_nodes.get_mut("node1").unwrap().push(on);
        snapshot
    };
    let web = |owner: &str| Some(pod("x", "node1", owner, &[]));
    let system = add("kube-system", "coredns", web("Deployment/coredns"));
    refused(&drain, &system, &environment(), &["step `break` evicts pods there: namespace kube-system is a system namespace"]);
    let other = add("other", "x", web("Deployment/x"));
    refused(&drain, &other, &environment(), &["step `break` evicts pods there: namespace other does not allow drills"]);
    let own = add("shop", "runbook-1", None);
    refused(&drain, &own, &environment(), &["would evict firedrill's own pod shop/runbook-1"]);
    let alone = add("shop", "alone", web(""));
    refused(&drain, &alone, &environment(), &["would evict pod shop/alone, and nothing would bring it back"]);
    let mut ending = web("").unwrap();
    ending.ending = true;
    let ending = add("shop", "ending", Some(ending));
    assert_eq!(plan_of(&drain, &ending, &environment(), 7).unwrap().steps[0].evicts.len(), 2, "what is ending goes by itself");
    let mut empty = shop_with_nodes();
    empty.on_nodes.clear();
    refused(&drain, &empty, &environment(), &["no pod on the chosen nodes can be evicted"]);
}

#[test]
fn objects_that_a_fault_can_do_nothing_with_are_refused() {
    let limits = json!({"objects": 1, "pods": 4});
    let service = breaks(&json!({"namespace": "shop", "service": "checkout"}), "detachService", &limits);
    assert!(plan_of(&service, &shop(), &environment(), 7).is_ok());
    let unfit = |kind: NamedKind, name: &str, change: &dyn Fn(&mut ObjectSeen)| {
        let mut snapshot = shop();
        change(snapshot.objects.get_mut(&ObjectKey::new(kind, "shop", name)).unwrap());
        snapshot
    };
    let external = unfit(NamedKind::Service, "checkout", &|seen| seen.unfit = Some("it is an ExternalName".to_owned()));
    refused(&service, &external, &environment(), &["`detachService` can do nothing with Service shop/checkout: it is an ExternalName"]);
    let image =
        |containers: Value| breaks(&json!({"namespace": "shop", "deployment": "web", "containers": containers}), "badImage", &limits);
    let two = unfit(NamedKind::Deployment, "web", &|seen| seen.containers = vec!["main".to_owned(), "proxy".to_owned()]);
    refused(&image(json!([])), &two, &environment(), &["it has containers main, proxy: say which, with the target's `containers: [main]`"]);
    refused(&image(json!(["x"])), &two, &environment(), &["it has no container `x`; it has main, proxy"]);
    assert!(plan_of(&image(json!(["proxy"])), &two, &environment(), 7).is_ok());
    let wide = unfit(NamedKind::Deployment, "web", &|seen| seen.takes = 5);
    refused(&image(json!([])), &wide, &environment(), &["breaks 5 pods, and `limits.pods` is 4"]);
}

/// Group, resource, names and verbs of the rules of a place.
fn rules(permissions: &[Permission], namespace: Option<&str>, resource: &str) -> Vec<String> {
    let of = permissions.iter().filter(|p| p.namespace.as_deref() == namespace && p.resource == resource);
    of.map(|p| format!("{} [{}]", p.verbs.join(","), p.names.join(","))).collect()
}

#[test]
fn permissions_are_those_of_the_fault_and_of_its_revert() {
    let mut guarded = environment();
    guarded.spec.firedrill.watchdog = serde_json::from_value(json!({"serviceAccount": "dog"})).unwrap();
    let of = |changes: &Value| {
        let plan = plan_of(changes, &shop_with_nodes(), &guarded, 7).unwrap();
        (plan.rbac, plan.watchdog.unwrap().rbac)
    };
    let (runner, dog) = of(&node("drainNode", &json!({"nodes": 1, "pods": 2})));
    assert_eq!(rules(&runner, None, "nodes"), ["get,list,watch []", "patch [node1]"]);
    assert_eq!(rules(&runner, Some("shop"), "pods/eviction"), ["create []"]);
    assert_eq!(rules(&dog, None, "nodes"), ["get,patch [node1]"]);
    assert_eq!(rules(&dog, Some("shop"), "pods/eviction"), Vec::<String>::new());
    let (runner, _) = of(&node("drainNode", &json!({"nodes": 1, "pods": 2, "budgets": "ignore"})));
    assert_eq!(rules(&runner, Some("shop"), "pods/eviction"), Vec::<String>::new());
    assert!(rules(&runner, Some("shop"), "pods").iter().any(|rule| rule.contains("delete")));
    assert_eq!(rules(&dog, Some("shop"), "deployments"), ["get [web]"]);

    let limits = json!({"objects": 1, "pods": 4});
    let (runner, dog) = of(&breaks(&json!({"namespace": "shop", "service": "checkout"}), "detachService", &limits));
    // Who only reverts has nothing to watch.
    for (permissions, verbs) in [(&runner, "get,patch,watch"), (&dog, "get,patch")] {
        assert_eq!(rules(permissions, Some("shop"), "services"), [format!("{verbs} [checkout]")]);
        assert_eq!(rules(permissions, Some("shop"), "endpointslices"), ["list []"]);
    }
    let (runner, dog) = of(&breaks(&json!({"namespace": "shop", "deployment": "web"}), "badImage", &limits));
    for (permissions, verbs) in [(&runner, "get,patch,watch"), (&dog, "get,patch")] {
        assert_eq!(rules(permissions, Some("shop"), "deployments"), [format!("{verbs} [web]")]);
        assert_eq!(rules(permissions, Some("shop"), "replicasets"), ["delete,list []"]);
    }
    // The copy alone may be read in firedrill's own namespace, by its name.
    let (runner, dog) = of(&breaks(&json!({"namespace": "shop", "secret": "orders-ledger"}), "hideSecret", &limits));
    let copy = labels::hidden_copy("shop", "orders-ledger");
    assert_eq!(rules(&runner, Some("shop"), "secrets"), ["create []", "delete,get,patch,watch [orders-ledger]"]);
    assert_eq!(rules(&runner, Some("firedrill"), "secrets"), ["create []".to_owned(), format!("delete,get [{copy}]")]);
    assert_eq!(rules(&dog, Some("shop"), "secrets"), ["create []", "get,patch [orders-ledger]"]);
    assert_eq!(rules(&dog, Some("firedrill"), "secrets"), [format!("delete,get [{copy}]")]);
}

/// A pod that came back under its name with another uid is the same to whoever approved the plan.
#[test]
fn uids_of_evicted_pods_are_no_drift() {
    let drain = node("drainNode", &json!({"nodes": 1, "pods": 3}));
    let approved = plan_of(&drain, &shop_with_nodes(), &environment(), 7).unwrap();
    let mut later = shop_with_nodes();
    later.on_nodes.get_mut("node1").unwrap()[0].pod.as_mut().unwrap().uid = "another".to_owned();
    assert_eq!(drift(&approved, &plan_of(&drain, &later, &environment(), 7).unwrap()), Vec::<String>::new());
    later.on_nodes.get_mut("node1").unwrap().pop();
    assert!(!drift(&approved, &plan_of(&drain, &later, &environment(), 7).unwrap()).is_empty());
}

#[test]
fn a_manifest_is_part_of_the_plan() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: nobody, namespace: NS}\nspec: {podSelector: {}}\n";
    let fault = json!({"manifest": {"file": "p.yaml", "effective": "true", "secret": "shop/orders-ledger"}});
    let of = |namespace: &str, objects: u32, namespaced: bool, secret: bool| {
        let changes = json!({"targets": {}, "limits": {"objects": objects}, "probes": {}, "objectives": [],
            "steps": [{"name": "break", "inject": fault}]});
        let mut snapshot = shop();
        let kind = KindSeen { group: "networking.k8s.io".to_owned(), plural: "networkpolicies".to_owned(), namespaced };
        snapshot.kinds.insert(("networking.k8s.io/v1".to_owned(), "NetworkPolicy".to_owned()), kind);
        if !secret {
            snapshot.objects.remove(&ObjectKey::new(NamedKind::Secret, "shop", "orders-ledger"));
        }
        make(&Inputs {
            scenario: &scenario(&changes),
            scenario_sha256: "abc",
            parameters: &IndexMap::new(),
            environment: &environment(),
            snapshot: &snapshot,
            seed: 7,
            runbooks: &BTreeMap::from([("p.yaml".to_owned(), text.replace("NS", namespace))]),
        })
    };
    let plan = of("shop", 1, true, true).unwrap();
    assert_eq!(plan.steps[0].touches, ["NetworkPolicy shop/nobody"]);
    assert_eq!((plan.scope.namespaces.as_slice(), plan.scope.blast.objects), (&["shop".to_owned()][..], 1));
    assert_eq!(rules(&plan.rbac, Some("shop"), "networkpolicies"), ["create []", "delete,get [nobody]"]);
    assert_eq!(plan.steps[0].manifest.as_ref().unwrap().object["metadata"]["name"], "nobody");
    for (namespace, objects, namespaced, secret, part) in [
        ("other", 1, true, true, "namespace other does not allow drills"),
        ("firedrill", 1, true, true, "namespace firedrill is firedrill's own"),
        ("shop", 0, true, true, "breaks 1 object, and `limits.objects` is 0"),
        ("shop", 1, false, true, "a NetworkPolicy has no namespace"),
        ("shop", 1, true, false, "Secret shop/orders-ledger, which it needs, does not exist"),
    ] {
        let reasons = of(namespace, objects, namespaced, secret).unwrap_err().reasons;
        assert!(reasons.len() == 1 && reasons[0].contains(part), "{reasons:?}");
    }
    // Whoever approved a plan approved its object.
    let mut other = plan.clone();
    other.steps[0].manifest.as_mut().unwrap().object["spec"] = json!({});
    assert!(!drift(&plan, &other).is_empty());
}

#[test]
fn a_job_for_commands_is_part_of_the_plan() {
    let text = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "cut", "namespace": "shop"}, "spec": {"template": {
        "spec": {"serviceAccountName": "chaos", "containers": [{"name": "main", "image": "${image}"}]}}}});
    let of = |change: &dyn Fn(&mut Value), objects: u32| {
        let mut text = text.clone();
        change(&mut text);
        let fault = json!({"custom": {"job": {"file": "j.yaml", "values": {"image": "chaos:1"}},
            "inject": ["break"], "effective": ["look"], "revert": ["mend"], "gone": ["look", "-v"]}});
        let changes = json!({"targets": {}, "limits": {"objects": objects}, "probes": {}, "objectives": [],
            "steps": [{"name": "break", "inject": fault}]});
        let mut snapshot = shop();
        let kind = KindSeen { group: "batch".to_owned(), plural: "jobs".to_owned(), namespaced: true };
        snapshot.kinds.insert(("batch/v1".to_owned(), "Job".to_owned()), kind);
        let mut guarded = environment();
        guarded.spec.firedrill.watchdog = serde_json::from_value(json!({"serviceAccount": "dog"})).unwrap();
        make(&Inputs {
            scenario: &scenario(&changes),
            scenario_sha256: "abc",
            parameters: &IndexMap::new(),
            environment: &guarded,
            snapshot: &snapshot,
            seed: 7,
            runbooks: &BTreeMap::from([("j.yaml".to_owned(), text.to_string())]),
        })
    };
    let plan = of(&|_| {}, 1).unwrap();
    assert_eq!(plan.steps[0].touches, ["Job shop/cut-…"]);
    assert_eq!((plan.scope.namespaces.as_slice(), plan.scope.blast.objects), (&["shop".to_owned()][..], 1));
    for permissions in [&plan.rbac, &plan.watchdog.as_ref().unwrap().rbac] {
        let jobs = rules(permissions, Some("shop"), "jobs");
        assert_eq!(jobs, ["create,delete,list []", "get [cut-effective,cut-gone,cut-revert]", "get,patch [cut-inject]"]);
        assert_eq!(rules(permissions, Some("shop"), "pods/log"), ["get []"]);
    }
    let page = render(&plan, 200);
    for part in ["Job shop/cut-… of j.yaml: image chaos:1, account chaos", "inject: [\"break\"]", "revert: [\"mend\"]"] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    let pod = "/spec/template/spec/containers";
    let set = |at: &'static str, to: Value| move |text: &mut Value| *text.pointer_mut(at).unwrap() = to.clone();
    let two = json!([{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]);
    let many = |text: &mut Value| text["spec"]["completions"] = json!(2);
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, u32, &str); 8] = [
        (&set("/metadata/namespace", json!("other")), 1, "namespace other does not allow drills"),
        (&set("/kind", json!("CronJob")), 1, "is a CronJob of batch/v1: it must be a Job of batch/v1"),
        (&set("/metadata/name", json!("x".repeat(54))), 1, "has a name of 54 letters"),
        (&set(pod, two), 1, "has 2 containers: it must have one"),
        (&set(pod, json!([])), 1, "has no container"),
        (
            &|text: &mut Value| text["metadata"]["annotations"] = json!({"y": true}),
            1,
            "is none that an API server would take: invalid type: boolean `true`",
        ),
        (&many, 1, "has `completions` or `parallelism`"),
        (&|_| {}, 0, "breaks 1 object, and `limits.objects` is 0"),
    ];
    for (change, objects, part) in cases {
        let reasons = of(change, objects).unwrap_err().reasons;
        assert!(reasons.len() == 1 && reasons[0].contains(part), "{reasons:?}");
    }
}

/// A scenario whose one fault changes rows.
fn rows(at: &Value, change: &Value) -> Value {
    let mut sql = json!({"postgres": {"database": "orders", "secret": "shop/orders-ledger"}, "statement": "delete from orders where id = 1",
        "maxRows": 5, "revert": "insert into orders (id) values (1)"});
    sql["postgres"].as_object_mut().unwrap().extend(at.as_object().unwrap().clone());
    sql.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"limits": {}, "probes": {}, "objectives": [], "steps": [{"name": "break", "inject": {"sql": sql}}]})
}

#[test]
fn a_fault_on_rows_is_planned_where_its_database_is() {
    let mut guarded = environment();
    guarded.spec.firedrill.watchdog = serde_json::from_value(json!({"serviceAccount": "dog"})).unwrap();
    let service = json!({"service": "shop/orders-db"});
    let plan = plan_of(&rows(&service, &json!({})), &shop(), &guarded, 7).unwrap();
    assert_eq!(plan.steps[0].touches, ["Database orders of Service shop/orders-db"]);
    assert_eq!((plan.leases.as_slice(), plan.scope.blast), (&["ns-shop".to_owned()][..], BlastRadius::default()));
    let page = render(&plan, 200);
    for part in [
        "statement: [\"delete from orders where id = 1\"]",
        "at most 5 rows, as the role of Secret shop/orders-ledger; more are rolled back",
        "revert: [\"insert into orders (id) values (1)\"]",
    ] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    let dog = plan.watchdog.unwrap().rbac;
    for permissions in [&plan.rbac, &dog] {
        assert_eq!(rules(permissions, Some("shop"), "secrets"), ["get [orders-ledger]"]);
        assert_eq!(rules(permissions, Some("shop"), "services"), ["get [orders-db]"]);
        assert_eq!(rules(permissions, Some("shop"), "endpointslices"), ["list []"]);
        assert_eq!(rules(permissions, Some("shop"), "pods"), ["get,list,watch []"]);
        assert_eq!(rules(permissions, Some("shop"), "pods/portforward"), ["create,get []"]);
    }
    let target = plan_of(&rows(&json!({"target": "primary"}), &json!({})), &shop(), &guarded, 7).unwrap();
    assert_eq!(target.steps[0].touches, ["Database orders of target `primary`"]);
    let dog = target.watchdog.unwrap().rbac;
    assert_eq!(rules(&dog, Some("shop"), "pods"), ["list []"]);
    assert_eq!(rules(&dog, Some("shop"), "pods/portforward"), ["create,get []"]);
    let unguarded = plan_of(&rows(&service, &json!({})), &shop(), &environment(), 7).unwrap();
    assert!(
        unguarded.warnings.iter().any(|w| w.starts_with("no watchdog") && w.contains("`sql` of step `break`")),
        "{:?}",
        unguarded.warnings
    );
}

#[test]
fn a_fault_on_rows_is_refused_where_it_cannot_be_counted_or_is_not_allowed() {
    let service = json!({"service": "shop/orders-db"});
    for (at, change, part) in [
        (json!({"service": "shop/none"}), json!({}), "Service shop/none does not exist"),
        (json!({"service": "shop/orders-db", "secret": "shop/none"}), json!({}), "Secret shop/none does not exist"),
        (json!({}), json!({}), "its database needs a `service` or a `target` of pods"),
        (service.clone(), json!({"statement": "truncate orders"}), "`statement`: the rows that `truncate` touches cannot be counted"),
        (service.clone(), json!({"statement": "delete from a; commit"}), "`statement`: it is more than one statement"),
        (service, json!({"revert": "rollback"}), "`revert`: `rollback` has to do with transactions"),
    ] {
        refused(&rows(&at, &change), &shop(), &environment(), &[part]);
    }
    for (namespace, part) in
        [("other", "namespace other does not allow drills"), ("kube-system", "namespace kube-system is a system namespace")]
    {
        let mut snapshot = shop();
        snapshot.objects.insert(ObjectKey::new(NamedKind::Service, namespace, "db"), ObjectSeen::default());
        refused(&rows(&json!({"service": format!("{namespace}/db")}), &json!({})), &snapshot, &environment(), &[part]);
    }
}

/// The shop with a backup repository on a claim, which one pod has mounted.
fn shop_with_claim() -> Snapshot {
    let mut snapshot = shop();
    let seen = ObjectSeen { uid: "claim".to_owned(), volume: "pv-7".to_owned(), ..ObjectSeen::default() };
    snapshot.objects.insert(ObjectKey::new(NamedKind::PersistentVolumeClaim, "shop", "repo"), seen);
    let mut user = pod("repo-0", "node1", "Deployment/repo", &[("app", "repo")]);
    user.claims = vec!["repo".to_owned()];
    let ended = PodSeen { uid: "old".to_owned(), ending: true, ..user.clone() };
    let pods = snapshot.pods.get_mut("shop").unwrap();
    pods.insert("repo-abc-0".to_owned(), user);
    pods.insert("repo-job-0".to_owned(), ended);
    snapshot
}

fn loses(change: &Value, limits: &Value) -> Value {
    let mut fault = json!({"target": "t"});
    fault.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"targets": {"t": {"namespace": "shop", "pvc": "repo"}}, "limits": limits, "probes": {}, "objectives": [],
        "steps": [{"name": "break", "inject": {"loseVolume": fault, "undo": "none"}}]})
}

#[test]
fn a_lost_volume_is_planned_with_the_pods_that_use_it() {
    let mut guarded = environment();
    guarded.spec.firedrill.watchdog = serde_json::from_value(json!({"serviceAccount": "dog"})).unwrap();
    let limits = json!({"volumes": 1, "pods": 1});
    let plan = plan_of(&loses(&json!({}), &limits), &shop_with_claim(), &guarded, 7).unwrap();
    assert_eq!(plan.steps[0].touches, ["PersistentVolume pv-7", "PersistentVolumeClaim shop/repo", "Pod shop/repo-abc-0"]);
    assert_eq!((plan.scope.blast.volumes, plan.scope.blast.pods), (1, 1));
    let page = render(&plan, 200);
    assert!(page.contains("the volume it has is set aside") && page.contains("→ PersistentVolume pv-7"), "{page}");
    let dog = plan.watchdog.unwrap().rbac;
    for permissions in [&plan.rbac, &dog] {
        assert_eq!(rules(permissions, None, "persistentvolumes"), ["get,patch [pv-7]"]);
        assert_eq!(rules(permissions, Some("shop"), "persistentvolumeclaims"), ["create []", "delete,get,patch [repo]"]);
        assert_eq!(rules(permissions, Some("shop"), "deployments"), ["get [repo]"]);
        assert!(rules(permissions, Some("shop"), "pods").iter().all(|rule| rule == "delete,list []"), "{permissions:?}");
    }
    // Whoever sees the plan sees that nothing will be kept, and nobody may touch the volume.
    let gone = plan_of(&loses(&json!({"setAside": false}), &limits), &shop_with_claim(), &guarded, 7).unwrap();
    assert!(gone.warnings.iter().any(|w| w.contains("sets nothing aside") && w.contains("irreversible")), "{:?}", gone.warnings);
    assert_eq!(rules(&gone.rbac, None, "persistentvolumes"), ["get [pv-7]"]);
    assert_eq!(rules(&gone.watchdog.unwrap().rbac, None, "persistentvolumes"), Vec::<String>::new());
}

#[test]
fn a_volume_that_cannot_be_given_back_is_refused() {
    let limits = json!({"volumes": 1, "pods": 1});
    let scenario = loses(&json!({}), &limits);
    let changed = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = shop_with_claim();
        change(&mut snapshot);
        snapshot
    };
    let unbound = changed(&|snapshot| {
        let claim = snapshot.objects.get_mut(&ObjectKey::new(NamedKind::PersistentVolumeClaim, "shop", "repo")).unwrap();
        claim.unfit = Some("it is Pending".to_owned());
    });
    refused(&scenario, &unbound, &environment(), &["`loseVolume` can do nothing with PersistentVolumeClaim shop/repo: it is Pending"]);
    let alone = changed(&|snapshot| snapshot.pods.get_mut("shop").unwrap().get_mut("repo-abc-0").unwrap().owner.clear());
    refused(&scenario, &alone, &environment(), &["pod shop/repo-abc-0 uses the volume and would end, and nothing would bring it back"]);
    refused(
        &loses(&json!({}), &json!({"volumes": 1})),
        &shop_with_claim(),
        &environment(),
        &["with it the drill breaks 1 pod, and `limits.pods` is 0"],
    );
    let guarded = changed(&|snapshot| {
        let budget = BudgetSeen { name: "repo".to_owned(), selector: selector::parse("app=repo").ok(), allowed: 0, stale: false };
        snapshot.budgets.get_mut("shop").unwrap().push(budget);
    });
    refused(&scenario, &guarded, &environment(), &["breaks 1 pod of PodDisruptionBudget shop/repo, which allows 0 now"]);
    let elsewhere = changed(&|snapshot| snapshot.namespaces.get_mut("shop").unwrap().labels.clear());
    refused(&scenario, &elsewhere, &environment(), &["namespace shop does not allow drills"]);
}
