//! `plan` against a real API server: it reads and nothing else, refuses what it must, and says permissions that suffice.

mod support;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use firedrill::{
    cluster::{Cluster, connect_with},
    plan::{Plan, Touched, recheck},
};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    batch::v1::CronJob,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use support::{
    World,
    cli::{firedrill, stderr},
    eventually, stdout, world,
};

/// A shop: a leader, a replica, a budget, a Service, a Secret and a backup job.
async fn shop(test: &str) -> Option<World> {
    let world = world(test).await?;
    world.pod("orders-0", &[("cluster", "orders"), ("role", "master")]).await;
    world.pod("orders-1", &[("cluster", "orders"), ("role", "replica")]).await;
    world.create::<Service>(json!({"metadata": {"name": "checkout"}, "spec": {"ports": [{"port": 80}]}})).await;
    world.create::<Service>(json!({"metadata": {"name": "orders-db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    world.create::<Secret>(json!({"metadata": {"name": "ledger"}, "stringData": {"username": "u", "password": "very-secret-word"}})).await;
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "b", "image": "none"}]}}}});
    world.create::<CronJob>(json!({"metadata": {"name": "backup"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": template}})).await;
    Some(world)
}

/// The scenario and its environment.
fn files(world: &World, inject: &Value) -> (PathBuf, PathBuf) {
    let namespace = &world.namespace;
    let postgres = json!({"service": format!("{namespace}/orders-db"), "database": "orders", "secret": format!("{namespace}/ledger")});
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "lose-primary"},
        "spec": {
            "summary": "The orders database loses its primary.",
            "targets": {
                "primary": {"namespace": namespace, "pods": "cluster=orders,role=master", "expect": 1},
                "backup": {"namespace": namespace, "cronJob": "backup"}
            },
            "limits": {"pods": 1, "objects": 1},
            "probes": {
                "checkout": {"http": {"url": format!("http://checkout.{namespace}/healthz")}},
                "leader": {"pods": {"target": "primary", "ready": 1}},
                "job": {"object": {"apiVersion": "batch/v1", "kind": "CronJob", "namespace": namespace, "name": "backup",
                                   "cel": "object.spec.suspend == false"}},
                "orders": {"ledger": {"postgres": postgres}}
            },
            "steps": [{"name": "break it", "inject": inject}, {"hold": "1s"}],
            "objectives": [
                {"recoveryTime": {"probe": "checkout", "after": "break it", "within": "60s"}},
                {"dataLoss": {"ledger": "orders", "writes": 0}},
                {"check": {"probe": "leader", "state": "good"}}, {"check": {"probe": "job", "state": "good"}}
            ]
        }
    });
    (world.file("scenario.yaml", &scenario.to_string()), world.environment(&format!("{namespace}-own")))
}

fn kill() -> Value {
    json!({"podKill": {"target": "primary"}})
}

fn plan(world: &World, files: &(PathBuf, PathBuf), kubeconfig: Option<&PathBuf>, more: &[&str]) -> std::process::Output {
    let mut args = vec!["plan", files.0.to_str().unwrap(), "-e", files.1.to_str().unwrap(), "--seed", "7"];
    args.extend(more);
    firedrill(kubeconfig.unwrap_or(&world.kubeconfig), &args)
}

fn planned(world: &World, files: &(PathBuf, PathBuf), kubeconfig: Option<&PathBuf>) -> Plan {
    let output = plan(world, files, kubeconfig, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Everything a plan could have changed, by kind and name, with its version.
async fn versions(world: &World) -> BTreeMap<String, String> {
    async fn of<K>(world: &World, into: &mut BTreeMap<String, String>)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        for object in world.api::<K>().list(&ListParams::default()).await.unwrap() {
            let kind = K::kind(&K::DynamicType::default()).into_owned();
            into.insert(format!("{kind} {}", object.name_any()), object.resource_version().unwrap());
        }
    }
    let mut all = BTreeMap::new();
    of::<Pod>(world, &mut all).await;
    of::<ConfigMap>(world, &mut all).await;
    of::<Secret>(world, &mut all).await;
    of::<Service>(world, &mut all).await;
    of::<CronJob>(world, &mut all).await;
    of::<Lease>(world, &mut all).await;
    let namespaces = Api::<Namespace>::all(world.client.clone());
    for namespace in namespaces.list(&ListParams::default()).await.unwrap() {
        if namespace.name_any().starts_with(&world.namespace) {
            all.insert(format!("Namespace {}", namespace.name_any()), namespace.resource_version().unwrap());
        }
    }
    all
}

#[tokio::test]
async fn a_plan_reads_and_nothing_else() {
    let Some(world) = shop("a_plan_reads_and_nothing_else").await else { return };
    let files = files(&world, &kill());
    let before = versions(&world).await;
    assert!(before.len() >= 8, "{before:?}");
    let output = plan(&world, &files, None, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let page = stdout(&output);
    for part in [
        format!("→ Pod {}/orders-0", world.namespace),
        "pods         1 of at most 1".to_owned(),
        "seed         7".to_owned(),
        "from the cluster".to_owned(),
        format!("Leases       ns-{}", world.namespace),
    ] {
        assert!(page.contains(&part), "no `{part}` in\n{page}");
    }
    assert!(!page.contains("very-secret-word"));
    let json = plan(&world, &files, None, &["-o", "json"]);
    assert!(!stdout(&json).contains("very-secret-word"));
    assert_eq!(versions(&world).await, before, "the plan changed something (or made its own namespace)");
    world.end().await;
}

#[tokio::test]
async fn what_must_be_refused_is_refused() {
    let Some(world) = shop("what_must_be_refused_is_refused").await else { return };
    let files = files(&world, &kill());
    let refused = |parts: &[&str]| {
        let output = plan(&world, &files, None, &[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{text}");
        for part in parts {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        assert!(output.stdout.is_empty());
    };
    let budget =
        json!({"metadata": {"name": "none-may-go"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"cluster": "orders"}}}});
    world.create::<PodDisruptionBudget>(budget).await;
    let budgets = world.api::<PodDisruptionBudget>();
    eventually("the budget's status", async || {
        budgets.get("none-may-go").await.unwrap().status.is_some_and(|s| s.observed_generation.is_some() && s.expected_pods == 2)
    })
    .await;
    refused(&["breaks 1 pod of PodDisruptionBudget", "none-may-go, which allows 0 now"]);
    budgets.delete("none-may-go", &kube::api::DeleteParams::default()).await.unwrap();

    let relabel = |labels: Value| json!({"metadata": {"labels": labels}});
    let pods = world.api::<Pod>();
    pods.patch("orders-1", &PatchParams::default(), &Patch::Merge(relabel(json!({"role": "master"})))).await.unwrap();
    refused(&["expects 1 and matches 2 (orders-0, orders-1)", "breaks 2 pods, and `limits.pods` is 1"]);
    for pod in ["orders-0", "orders-1"] {
        pods.patch(pod, &PatchParams::default(), &Patch::Merge(relabel(json!({"role": "replica"})))).await.unwrap();
    }
    refused(&["matches nothing"]);
    pods.patch("orders-0", &PatchParams::default(), &Patch::Merge(relabel(json!({"role": "master"})))).await.unwrap();

    let namespaces = Api::<Namespace>::all(world.client.clone());
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {"firedrill.dev/drills": value}}}));
    namespaces.patch(&world.namespace, &PatchParams::default(), &label(Value::Null)).await.unwrap();
    refused(&["does not allow drills: its owner can say `kubectl label namespace"]);
    namespaces.patch(&world.namespace, &PatchParams::default(), &label(json!("allowed"))).await.unwrap();
    assert_eq!(plan(&world, &files, None, &[]).status.code(), Some(0));

    let wrong = std::fs::read_to_string(&files.1).unwrap().replace(&world.cluster.uid, "00000000-dead-4000-8000-000000000000");
    std::fs::write(&files.1, wrong).unwrap();
    refused(&[&world.cluster.uid, "00000000-dead-4000-8000-000000000000"]);
    world.end().await;
}

#[tokio::test]
async fn the_printed_roles_suffice_and_no_more_is_given() {
    let Some(world) = shop("the_printed_roles_suffice_and_no_more_is_given").await else { return };
    let files = files(&world, &kill());
    let user = format!("runner-{}", world.namespace);
    let as_runner = world.kubeconfig_as(&user);
    let output = plan(&world, &files, Some(&as_runner), &[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        stderr(&output).starts_with("failed to read namespace kube-system") && stderr(&output).contains("forbidden"),
        "{}",
        stderr(&output)
    );

    let roles = plan(&world, &files, None, &["--rbac", "--rbac-subject", &format!("User:{user}")]);
    assert_eq!(roles.status.code(), Some(0), "{}", stderr(&roles));
    // Where nobody is named, it is the account in the environment's own namespace.
    let unnamed = stdout(&plan(&world, &files, None, &["--rbac"]));
    let account = format!("kind: ServiceAccount\n    name: \"firedrill\"\n    namespace: \"{}-own\"", world.namespace);
    assert!(unnamed.contains(&account), "{unnamed}");
    let mut made = Vec::new();
    for document in stdout(&roles).split("---\n") {
        // Cluster-wide names of drills of other tests must not meet.
        let document = document.replace("firedrill-lose-primary", &format!("firedrill-{}", world.namespace));
        let object: DynamicObject = serde_saphyr::from_str(&document).unwrap();
        let types = object.types.clone().unwrap();
        let gvk = GroupVersionKind::try_from(&types).unwrap();
        let (resource, _) = kube::discovery::pinned_kind(&world.client, &gvk).await.unwrap();
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(world.client.clone(), &namespace, &resource),
            None => Api::all_with(world.client.clone(), &resource),
        };
        let name = object.name_any();
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{} {name}: {error}", types.kind));
        made.push((api, name));
    }
    // The authorizer learns of new roles by watch.
    eventually("the plan to succeed with the printed roles", async || plan(&world, &files, Some(&as_runner), &[]).status.success()).await;
    let (theirs, ours) = (planned(&world, &files, Some(&as_runner)), planned(&world, &files, None));
    assert_eq!(firedrill::plan::drift(&ours, &theirs), Vec::<String>::new());
    let may = async |verb: &str, resource: &str, namespace: &str, name: &str| {
        let attributes = json!({"verb": verb, "resource": resource, "namespace": namespace, "name": name});
        let review = json!({"metadata": {}, "spec": {"user": user, "resourceAttributes": attributes}});
        let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
        Api::all(world.client.clone()).create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    let (here, own) = (world.namespace.as_str(), format!("{}-own", world.namespace));
    assert!(may("delete", "pods", here, "orders-0").await);
    assert!(may("get", "secrets", here, "ledger").await);
    assert!(may("create", "configmaps", &own, "").await);
    for (verb, resource, namespace, name) in [
        ("list", "secrets", here, ""),
        ("get", "secrets", here, "another"),
        ("create", "pods", here, ""),
        ("delete", "pods", "kube-system", "x"),
        ("create", "namespaces", "", ""),
        ("patch", "namespaces", "", here),
        ("create", "configmaps", here, ""),
    ] {
        assert!(!may(verb, resource, namespace, name).await, "may {verb} {resource} {namespace}/{name}");
    }
    // Without what firedrill's own place needs, a drill is refused before it begins, and says what is missing.
    let own_binding =
        made.iter().position(|(api, _)| api.namespace() == Some(&own) && api.resource_url().ends_with("/rolebindings")).unwrap();
    let (api, name) = made.remove(own_binding);
    api.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    let out = world.dir.path().join("evidence");
    let args = ["run", files.0.to_str().unwrap(), "-e", files.1.to_str().unwrap(), "--yes", "--out", out.to_str().unwrap()];
    eventually("the run to be refused", async || {
        let output = firedrill(&as_runner, &args);
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        stderr(&output).contains("this user may not ") && stderr(&output).contains(&format!("create configmaps in {own}"))
    })
    .await;
    let pod = world.api::<Pod>().get("orders-0").await.unwrap();
    assert_eq!(pod.metadata.deletion_timestamp, None);
    for (api, name) in made.into_iter().rev() {
        api.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    }
    world.end().await;
}

#[tokio::test]
async fn a_recheck_follows_the_role_and_stops_at_the_guards() {
    let Some(world) = shop("a_recheck_follows_the_role_and_stops_at_the_guards").await else { return };
    let files = files(&world, &kill());
    let plan = planned(&world, &files, None);
    let first = recheck(&world.cluster, &plan, "1", &Touched::default()).await.unwrap();
    assert_eq!(first.target.chosen().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["orders-0"]);
    let pods = world.api::<Pod>();
    for (pod, role) in [("orders-0", "replica"), ("orders-1", "master")] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"role": role}}}));
        pods.patch(pod, &PatchParams::default(), &patch).await.unwrap();
    }
    // A guard's list is not older than the one before; what others wrote in the last milliseconds it may not have.
    eventually("the recheck follows the role", async || {
        let moved = recheck(&world.cluster, &plan, "1", &Touched::default()).await;
        moved.is_ok_and(|moved| moved.target.chosen().map(|o| o.name.as_str()).eq(["orders-1"]))
    })
    .await;
    // What was broken before counts: one pod is the limit, and this would be the second.
    let refused = recheck(&world.cluster, &plan, "1", &first.touched).await.unwrap_err();
    assert!(refused.to_string().contains("breaks 2 pods, and `limits.pods` is 1"), "{refused}");
    let none = Patch::Merge(json!({"metadata": {"labels": {"firedrill.dev/drills": null}}}));
    Api::<Namespace>::all(world.client.clone()).patch(&world.namespace, &PatchParams::default(), &none).await.unwrap();
    let refused = recheck(&world.cluster, &plan, "1", &Touched::default()).await.unwrap_err();
    assert!(refused.to_string().contains("does not allow drills"), "{refused}");
    world.end().await;
}

/// The runner's own client, not the test's: a refused call comes back at once, and is not repeated.
#[tokio::test]
async fn a_refused_eviction_is_not_repeated() {
    let Some(world) = shop("a_refused_eviction_is_not_repeated").await else { return };
    let budget = json!({"metadata": {"name": "all"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"cluster": "orders"}}}});
    world.create::<PodDisruptionBudget>(budget).await;
    let budgets = world.api::<PodDisruptionBudget>();
    eventually("the budget's status", async || budgets.get("all").await.unwrap().status.is_some_and(|s| s.expected_pods == 2)).await;
    let cluster: Cluster = connect_with(kube::config::Kubeconfig::read_from(&world.kubeconfig).unwrap(), None).await.unwrap();
    let started = tokio::time::Instant::now();
    let evict = cluster.api::<Pod>(&world.namespace);
    let refused = cluster.call("evict pod orders-0", evict.evict("orders-0", &kube::api::EvictParams::default())).await.unwrap_err();
    assert_eq!(refused.code(), Some(429), "{refused}");
    // kube's own 16 tries wait for a second at the least before they give up.
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    world.end().await;
}

#[tokio::test]
async fn five_thousand_pods_are_planned_quickly() {
    let Some(world) = shop("five_thousand_pods_are_planned_quickly").await else { return };
    let files = files(&world, &json!({"podKill": {"target": "many"}}));
    let text = std::fs::read_to_string(&files.0).unwrap();
    let mut scenario: Value = serde_json::from_str(&text).unwrap();
    scenario["spec"]["targets"]["many"] = json!({"namespace": world.namespace, "pods": "app=many", "mode": "one"});
    std::fs::write(&files.0, scenario.to_string()).unwrap();
    let pods = world.api::<Pod>();
    let spec = json!({"containers": [{"name": "main", "image": "none"}], "automountServiceAccountToken": false});
    let create = |i: u32| {
        let (pods, spec) = (pods.clone(), spec.clone());
        async move {
            let pod = json!({"metadata": {"name": format!("many-{i:04}"), "labels": {"app": "many"}}, "spec": spec});
            pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        }
    };
    use futures::StreamExt as _;
    futures::stream::iter((0..5000).map(create)).buffer_unordered(32).collect::<Vec<_>>().await;
    let started = tokio::time::Instant::now();
    let plan = planned(&world, &files, None);
    let took = started.elapsed();
    assert_eq!(plan.targets["many"].matched, 5000);
    assert_eq!(plan.targets["many"].chosen().count(), 1);
    eprintln!("planned over 5,000 pods in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    world.end().await;
}
