//! How long from a step's start to the deletion of its pod, as a watch on a connection of its own sees it. A benchmark: it prints
//! its figures and asserts none of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use firedrill::clock::Clock;
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    kit::{ANSWERS, LEASE, Shop, bare_shop, kind, records, say, scenario},
    support::eventually,
};

/// Drills, and pods killed in each, one step a pod. (The record in the cluster grows with the drill, and with it the time that writing it takes.)
const DRILLS: usize = 3;
const PODS: usize = 10;

/// When a watch saw each pod go, by this host's clock.
type Seen = Arc<Mutex<BTreeMap<String, i64>>>;

async fn witness(api: Api<Pod>, version: String, clock: Clock, seen: Seen) {
    let mut watch = Box::pin(api.watch(&WatchParams::default().labels("app=victim").timeout(280), &version).await.unwrap());
    while let Some(event) = watch.next().await {
        let pod = match event.unwrap() {
            WatchEvent::Deleted(pod) => pod,
            WatchEvent::Modified(pod) if pod.metadata.deletion_timestamp.is_some() => pod,
            _ => continue,
        };
        let now_us = clock.now().mono_us;
        seen.lock().await.entry(pod.name_any()).or_insert(now_us);
    }
}

fn of_three(what: &str, mut us: Vec<i64>) -> String {
    us.sort_unstable();
    let ms = |us: i64| us as f64 / 1e3;
    format!("{what}: {:.1} / {:.1} / {:.1} ms (least, median, most of {})", ms(us[0]), ms(us[us.len() / 2]), ms(us[us.len() - 1]), us.len())
}

async fn victims(shop: &Shop, n: usize) -> Vec<String> {
    let api = shop.world.api::<Pod>();
    let params = ListParams::default().labels("app=victim");
    let ready = async || -> Vec<String> {
        let running = |p: &Pod| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
        api.list(&params).await.unwrap().items.iter().filter(|p| running(p)).map(|p| p.name_any()).collect()
    };
    eventually("all victims run", async || ready().await.len() == n).await;
    ready().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn step_to_deletion() {
    // Alone, so that the figures are of one drill and not of ten.
    let _alone = ANSWERS.write().await;
    let Some(shop) = bare_shop("step_to_deletion", Duration::from_millis(50)).await else { return };
    let pod = json!({"metadata": {"labels": {"app": "victim"}}, "spec": {"containers": [{"name": "main", "image": "none"}]}});
    let spec = json!({"replicas": PODS, "selector": {"matchLabels": {"app": "victim"}}, "template": pod});
    shop.world.create::<Deployment>(json!({"metadata": {"name": "victim"}, "spec": spec})).await;
    victims(&shop, PODS).await;
    let (clock, seen): (Clock, Seen) = (Clock::host(), Arc::default());
    let version = shop.world.api::<Pod>().list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watch = tokio::spawn(witness(shop.world.api(), version, clock.clone(), Arc::clone(&seen)));

    let (mut from_step, mut from_intent, mut from_inject) = (Vec::new(), Vec::new(), Vec::new());
    for drill in 0..DRILLS {
        let mut targets = serde_json::Map::new();
        let mut steps = Vec::new();
        for (n, name) in victims(&shop, PODS).await.iter().enumerate() {
            targets.insert(format!("v{n}"), json!({"namespace": shop.world.namespace, "name": name}));
            steps.push(json!({"name": format!("kill {n}"), "inject": {"podKill": {"target": format!("v{n}")}}}));
        }
        let spec = json!({
            "targets": targets, "steps": steps, "limits": {"pods": PODS, "duration": "5m"},
            "probes": {"web": {"object": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": shop.world.namespace, "name": "web", "cel": "object.metadata.name == \"web\""}}},
            "steadyState": {"good": ["web"], "for": "100ms", "timeout": "10s"},
            "objectives": [{"check": {"probe": "web", "state": "good"}}],
        });
        let out = shop.world.dir.path().join(format!("latency-{drill}"));
        let ended = shop.run(&scenario(&shop, &format!("latency-{drill}"), spec), &out, LEASE * 5).end().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let seen_now = seen.lock().await.clone();
        let (mut started, mut intended): (i64, i64) = (0, 0);
        let mut victim = String::new();
        for record in records(&out) {
            let event = &record["event"];
            let us = |stamp: &Value| stamp["monoUs"].as_i64().unwrap();
            match kind(&record) {
                "stepStarted" => started = us(&event["stepStarted"]["start"]),
                "intent" => {
                    intended = us(&record["at"]);
                    victim = event["intent"]["objects"][0]["name"].as_str().unwrap().to_owned();
                }
                "injected" => {
                    let gone = *seen_now.get(&victim).unwrap_or_else(|| panic!("the watch never saw {victim} go"));
                    from_step.push(gone - started);
                    from_intent.push(gone - intended);
                    from_inject.push(gone - us(&event["injected"]["start"]));
                }
                _ => {}
            }
        }
    }
    assert_eq!(from_step.len(), DRILLS * PODS);
    say(&of_three("step's start to deletion seen", from_step));
    say(&of_three("  of that, from the intent (then synced to disk and to the record in the cluster)", from_intent));
    say(&of_three("  of that, from the deletion's request", from_inject));

    // The same watch, the same cluster, the same kind of pod, by kubectl.
    let kubectl = shop.world.kubeconfig.parent().map(|dir| dir.join("bin/kubectl")).filter(|path| path.exists());
    if let Some(kubectl) = kubectl {
        let mut by_kubectl = Vec::new();
        for name in victims(&shop, PODS).await {
            let start = clock.now().mono_us;
            let delete = ["--namespace", &shop.world.namespace, "delete", "pod", &name, "--wait=false"];
            let done =
                tokio::process::Command::new(&kubectl).env("KUBECONFIG", &shop.world.kubeconfig).args(delete).output().await.unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            eventually("the watch sees it", async || seen.lock().await.contains_key(&name)).await;
            by_kubectl.push(seen.lock().await[&name] - start);
        }
        say(&of_three("kubectl delete pod, from its start", by_kubectl));
    } else {
        say("kubectl: not measured, the testbed's is not beside the kubeconfig");
    }
    watch.abort();
    shop.end().await;
}
