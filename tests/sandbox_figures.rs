//! What the sandbox's API server costs: printed, never held against a bound, for machines differ
//! (`cargo test --release --test sandbox_figures -- --nocapture`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use firedrill::{
    cluster::Cluster,
    labels, plan,
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
    scenario,
};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchParams},
};
use serde_json::{Value, json};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_hour_and_five_thousand_pods() {
    let sandbox = Sandbox::new(SandboxOptions { seed: 1, wall_us: 1_767_225_600_000_000 });
    let client = sandbox.client("admin");
    let namespace: Namespace = from(json!({"metadata": {"name": "shop"}}));
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");

    let began = Instant::now();
    for n in 0..5000 {
        let pod = from(json!({
            "metadata": {"name": format!("web-{n}"), "labels": {"app": "web", "n": (n % 50).to_string()}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let made = began.elapsed();

    let began = Instant::now();
    for _ in 0..5 {
        let params = ListParams::default().limit(500);
        let (mut count, mut token) = (0, None);
        loop {
            let page = pods.list(&ListParams { continue_token: token, ..params.clone() }).await.unwrap();
            count += page.items.len();
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                break;
            }
        }
        assert_eq!(count, 5000);
    }
    let whole = began.elapsed() / 5;
    let began = Instant::now();
    for n in 0..200 {
        let some = pods.list(&ListParams::default().labels(&format!("n={}", n % 50))).await.unwrap();
        assert_eq!(some.items.len(), 100);
    }
    let selected = began.elapsed() / 200;

    // A thousand changes, each seen by a watch, in an hour.
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    let empty = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watch = maps.watch(&WatchParams::default().timeout(3600), &empty).await.unwrap();
    let seen = tokio::spawn(async move { watch.try_fold(0_u32, |count, _| std::future::ready(Ok(count + 1))).await });
    let began = Instant::now();
    for n in 0..1000 {
        let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "count"}, "data": {"n": n.to_string()}});
        maps.patch("count", &PatchParams::apply("figures"), &Patch::Apply(patch)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3600)).await;
    }
    let seen = seen.await.unwrap().unwrap();
    // And the bookmarks, one a minute.
    assert!((1000..1062).contains(&seen), "{seen}");
    let hour = began.elapsed();
    println!("5,000 pods made in {made:?}; listed whole in {whole:?}; 100 of them by label in {selected:?}");
    println!("an hour of virtual time with 1,000 applies and a watch: {hour:?}");
    sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_over_five_thousand_pods_on_five_hundred_nodes() {
    let sandbox = Sandbox::new(SandboxOptions { seed: 1, wall_us: 1_767_225_600_000_000 });
    sandbox.start_cluster(ClusterOptions::default());
    let client = sandbox.client("admin");
    let allowed = json!({labels::DRILLS: labels::ALLOWED});
    let namespace: Namespace = from(json!({"metadata": {"name": "shop", "labels": allowed}}));
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    for n in 0..500 {
        sandbox.add_node(&format!("n{n}"), &format!("zone-{}", n % 3));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    for n in 0..5000 {
        let pod = from(json!({
            "metadata": {"name": format!("web-{n}"), "labels": {"app": format!("web-{}", n % 50)}},
            "spec": {"nodeName": format!("n{}", n % 500), "containers": [{"name": "web", "image": "web:1"}]},
        }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let ready = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
    while !pods.list(&ListParams::default()).await.unwrap().items.iter().all(ready) {
        assert!(tokio::time::Instant::now() < deadline, "the pods do not run");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "many"},
        "spec": {
            "summary": "Half of a large shop goes away.",
            "targets": {"some": {"namespace": "shop", "pods": "app=web-7", "mode": "50%"}, "all": {"namespace": "shop", "pods": "app"}},
            "limits": {"pods": 5000, "duration": "5m"},
            "probes": {"all": {"pods": {"target": "all", "ready": 5000}, "every": "1s", "timeout": "1s"}},
            "steps": [{"name": "kill", "inject": {"podKill": {"target": "some"}}}, {"name": "kill all", "inject": {"podKill": {"target": "all"}}}],
            "objectives": [{"check": {"probe": "all", "state": "good"}}],
        },
    });
    let loaded = scenario::parse_scenario("many.yaml", &scenario.to_string(), &[])
        .unwrap_or_else(|problems| panic!("{}", scenario::diag::render(&problems.list, false)));
    let own: Namespace = Api::all(client.clone()).get("kube-system").await.unwrap();
    let uid = own.metadata.uid.unwrap();
    let environment = json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "many"},
                             "spec": {"clusters": {"main": {"uid": uid}}}});
    let environment = scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    let cluster = Cluster::from_client(client, "sandbox", uid);
    let began = Instant::now();
    let plan = plan::plan_on(&cluster, &loaded, &environment, &BTreeMap::new(), 1).await.unwrap_or_else(|why| panic!("{why}"));
    let took = began.elapsed();
    assert_eq!((plan.targets["some"].chosen().count(), plan.targets["all"].chosen().count()), (50, 5000));
    println!("a plan over 5,000 pods on 500 nodes: {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    sandbox.stop().await;
}
