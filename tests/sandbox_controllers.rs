//! The sandbox's controllers, scheduler and kubelets, each rule in virtual time and as a client sees it.
//!
//! Cases marked *conformance* can be asked of a real API server with its controller manager in the same words; the others
//! need nodes that run something.

#[path = "sandbox_controllers/world.rs"]
mod world;

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, EvictParams, LogParams, PropagationPolicy},
};
use serde_json::{Value, json};
use world::{World, refused};

use firedrill::sandbox::{NodeState, Signal};

fn template(labels: Value, extra: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "main", "image": "main:1"}]});
    if let (Some(spec), Some(extra)) = (spec.as_object_mut(), extra.as_object()) {
        spec.extend(extra.clone());
    }
    json!({"metadata": {"labels": labels}, "spec": spec})
}

fn deployment(name: &str, replicas: i32, spec: Value) -> Value {
    let mut value = json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(json!({"app": name}), json!({}))},
    });
    merge(&mut value["spec"], spec);
    value
}

fn stateful(name: &str, replicas: i32, spec: Value) -> Value {
    let mut value = deployment(name, replicas, json!({"serviceName": name}));
    merge(&mut value["spec"], spec);
    value
}

fn job(name: &str, knobs: Value, spec: Value) -> Value {
    let mut template = template(json!({}), json!({"restartPolicy": "Never"}));
    template["metadata"] = json!({"annotations": knobs});
    let mut value = json!({"metadata": {"name": name}, "spec": {"template": template}});
    merge(&mut value["spec"], spec);
    value
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

const BATCH: &str = "sandbox.firedrill.dev/model";

fn batch(runs: &str, code: &str) -> Value {
    json!({BATCH: "batch", "sandbox.firedrill.dev/runs-for": runs, "sandbox.firedrill.dev/exit-code": code})
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default()
}

fn available(d: &Deployment) -> i32 {
    d.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_deployment_comes_up_and_rolls_within_its_bounds() {
    let world = World::new(3).await;
    let made: Deployment =
        world.create(deployment("web", 4, json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}))).await;
    let up = world.until("web is up", 60, "web", |d: &Deployment| available(d) == 4).await;
    let status = up.status.unwrap();
    assert_eq!(
        (status.observed_generation, status.updated_replicas, status.unavailable_replicas),
        (made.metadata.generation, Some(4), None)
    );
    let progressing = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
    let first: Vec<ReplicaSet> = world.list("").await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].name_any(), format!("web-{}", first[0].labels()["pod-template-hash"]));

    // Watched at every step: never fewer than 4 available, never more than 5 pods that count.
    world.patch::<Deployment>("web", json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "main:2"}]}}}})).await;
    let mut steps = 0;
    loop {
        let pods: Vec<Pod> = world.list("app=web").await;
        let counted = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
        assert!(counted.clone().count() <= 5, "more than replicas and surge");
        assert!(counted.clone().filter(|p| is_ready(p)).count() >= 4, "fewer ready than wanted");
        let new = counted.filter(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("main:2") && is_ready(p)).count();
        if new == 4 {
            break;
        }
        steps += 1;
        assert!(steps < 600, "the rollout does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let done = world
        .until("rolled", 60, "web", |d: &Deployment| {
            d.status.as_ref().unwrap().observed_generation == d.metadata.generation && d.status.as_ref().unwrap().replicas == Some(4)
        })
        .await;
    assert_eq!(done.annotations()["deployment.kubernetes.io/revision"], "2");
    let sets: Vec<ReplicaSet> = world.list("").await;
    let mut sizes: Vec<i32> = sets.iter().map(|s| s.spec.as_ref().unwrap().replicas.unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 4], "the old set is kept, empty");
    world.stop().await;
}

/// *Conformance*, as far as the objects go.
#[tokio::test(start_paused = true)]
async fn a_rollout_that_cannot_succeed_stops_and_says_so() {
    let world = World::new(2).await;
    world.create::<Deployment>(deployment("web", 4, json!({"progressDeadlineSeconds": 60}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 4).await;
    world
        .patch::<Deployment>(
            "web",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "registry.invalid/main:2"}]}}}}),
        )
        .await;
    let reason = |d: &Deployment| {
        let conditions = d.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        conditions.into_iter().find(|c| c.type_ == "Progressing").and_then(|c| c.reason).unwrap_or_default()
    };
    let stuck = world.until("it gives up", 120, "web", |d: &Deployment| reason(d) == "ProgressDeadlineExceeded").await;
    // A quarter may be missing.
    assert_eq!(available(&stuck), 3);
    let pods: Vec<Pod> = world.list("app=web").await;
    let waiting: Vec<String> = pods
        .iter()
        .filter_map(|p| p.status.as_ref()?.container_statuses.as_ref()?[0].state.as_ref()?.waiting.as_ref()?.reason.clone())
        .collect();
    assert_eq!(waiting.len(), 2, "a surge of one, and one in place of an old pod");
    assert!(waiting.iter().all(|r| r == "ErrImagePull" || r == "ImagePullBackOff"), "{waiting:?}");
    // The way back.
    world.patch::<Deployment>("web", json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "main:1"}]}}}})).await;
    world
        .until("web is back", 60, "web", |d: &Deployment| available(d) == 4 && d.status.as_ref().unwrap().updated_replicas == Some(4))
        .await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_it_shrinks_pods_that_are_not_ready_go_first_and_then_the_youngest() {
    // One node for each: pods on a crowded one would go before.
    let world = World::new(4).await;
    let probe = json!({"template": {"spec": {"containers": [{"name": "main", "image": "main:1", "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}}]}}});
    world.create::<Deployment>(deployment("web", 2, probe)).await;
    world.until("two are up", 60, "web", |d: &Deployment| available(d) == 2).await;
    let old: Vec<String> = world.list::<Pod>("app=web").await.iter().map(ResourceExt::name_any).collect();
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.patch::<Deployment>("web", json!({"spec": {"replicas": 4}})).await;
    world.until("four are up", 60, "web", |d: &Deployment| available(d) == 4).await;
    world.patch::<Pod>(&old[0], json!({"metadata": {"annotations": {"sandbox.firedrill.dev/unready": "true"}}})).await;
    world.until("one is not ready", 60, "web", |d: &Deployment| available(d) == 3).await;
    world.patch::<Deployment>("web", json!({"spec": {"replicas": 3}})).await;
    world.gone::<Pod>(&old[0], 60).await;
    world.patch::<Deployment>("web", json!({"spec": {"replicas": 1}})).await;
    world.until("one is left", 90, "web", |d: &Deployment| d.status.as_ref().unwrap().replicas == Some(1)).await;
    let left: Vec<String> =
        world.list::<Pod>("app=web").await.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any).collect();
    assert_eq!(left, [old[1].clone()], "the oldest stays");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn recreate_never_runs_old_and_new_together() {
    let world = World::new(2).await;
    let slow = json!({"metadata": {"annotations": {"sandbox.firedrill.dev/stop-takes": "5s"}}});
    world.create::<Deployment>(deployment("web", 2, json!({"strategy": {"type": "Recreate"}, "template": slow}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 2).await;
    world.patch::<Deployment>("web", json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "main:2"}]}}}})).await;
    let mut new = 0;
    for _ in 0..600 {
        let pods: Vec<Pod> = world.list("app=web").await;
        let image = |p: &&Pod| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("main:2");
        new = pods.iter().filter(image).count();
        assert!(new == 0 || new == pods.len(), "old and new at once");
        if new == 2 && pods.iter().all(is_ready) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(new, 2);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_goes_up_and_down_in_order() {
    let world = World::new(3).await;
    world.create::<StatefulSet>(stateful("db", 3, json!({}))).await;
    let mut seen: Vec<Vec<String>> = Vec::new();
    for _ in 0..600 {
        let pods: Vec<Pod> = world.list("app=db").await;
        for (n, pod) in pods.iter().enumerate().skip(1) {
            assert!(is_ready(&pods[n - 1]), "{} was made before {} was ready", pod.name_any(), pods[n - 1].name_any());
        }
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        if seen.last() != Some(&names) {
            seen.push(names);
        }
        if pods.len() == 3 && pods.iter().all(is_ready) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(seen.last().unwrap(), &["db-0", "db-1", "db-2"]);
    let pod: Pod = world.get("db-1").await;
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(pod.spec.unwrap().hostname.as_deref(), Some("db-1"));

    // An update begins with the last; each has to be ready before the next goes.
    world.patch::<StatefulSet>("db", json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "main:2"}]}}}})).await;
    let mut order: Vec<String> = Vec::new();
    for _ in 0..2000 {
        let pods: Vec<Pod> = world.list("app=db").await;
        assert!(pods.iter().filter(|p| !is_ready(p)).count() <= 1, "one at a time");
        for pod in pods.iter().filter(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("main:2")) {
            if !order.contains(&pod.name_any()) {
                order.push(pod.name_any());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(order, ["db-2", "db-1", "db-0"]);
    let updated: StatefulSet = world.get("db").await;
    let status = updated.status.unwrap();
    assert_eq!((status.current_revision.clone(), status.updated_replicas), (status.update_revision, Some(3)));

    world.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
    let mut order: Vec<String> = Vec::new();
    for _ in 0..600 {
        let pods: Vec<Pod> = world.list("app=db").await;
        let going: Vec<String> = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some()).map(ResourceExt::name_any).collect();
        assert!(going.len() <= 1, "{going:?}");
        order.extend(going.into_iter().filter(|name| !order.contains(name)).collect::<Vec<_>>());
        if pods.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(order, ["db-2", "db-1", "db-0"]);
    world.stop().await;
}

/// *Conformance.*
#[tokio::test(start_paused = true)]
async fn a_parallel_stateful_set_does_not_wait() {
    let world = World::new(0).await;
    world.create::<StatefulSet>(stateful("db", 3, json!({"podManagementPolicy": "Parallel"}))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.list::<Pod>("app=db").await.len(), 3, "nothing is ready, and all are there");
    world.create::<StatefulSet>(stateful("slow", 3, json!({}))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.list::<Pod>("app=slow").await.len(), 1, "in order it waits for the first");
    world.stop().await;
}

fn claims() -> Value {
    json!({"volumeClaimTemplates": [{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]})
}

#[tokio::test(start_paused = true)]
async fn claims_stay_on_their_node_and_so_do_their_pods() {
    let world = World::new(3).await;
    world.create::<StatefulSet>(stateful("db", 2, claims())).await;
    world.until("db is up", 60, "db", |s: &StatefulSet| s.status.as_ref().unwrap().ready_replicas == Some(2)).await;
    let pod: Pod = world.get("db-0").await;
    let home = node_of(&pod);
    let claim: PersistentVolumeClaim = world.get("data-db-0").await;
    assert_eq!(claim.annotations()["volume.kubernetes.io/selected-node"], home);
    assert_eq!(claim.status.unwrap().phase.as_deref(), Some("Bound"));
    let volume: PersistentVolume = world.get_all(&claim.spec.unwrap().volume_name.unwrap()).await;
    let terms = serde_json::to_value(volume.spec.unwrap().node_affinity.unwrap()).unwrap();
    assert_eq!(terms.pointer("/required/nodeSelectorTerms/0/matchExpressions/0/values/0"), Some(&json!(home)));

    // Its node takes nobody: the pod waits rather than going elsewhere without its data.
    world.patch_all::<Node>(&home, json!({"spec": {"unschedulable": true}})).await;
    world.delete::<Pod>("db-0", DeleteParams::default()).await;
    world.gone_uid::<Pod>("db-0", &pod.uid().unwrap(), 60).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let again: Pod = world.get("db-0").await;
    assert_eq!(node_of(&again), "");
    let scheduled = again.status.unwrap().conditions.unwrap().into_iter().find(|c| c.type_ == "PodScheduled").unwrap();
    assert_eq!((scheduled.status.as_str(), scheduled.reason.as_deref()), ("False", Some("Unschedulable")));
    let why = scheduled.message.unwrap();
    assert!(why.starts_with("0/3 nodes are available: ") && why.contains("didn't match PersistentVolume's node affinity"), "{why}");
    let events: Vec<Event> = world.list("").await;
    assert!(events.iter().any(|e| e.reason.as_deref() == Some("FailedScheduling") && e.involved_object.name.as_deref() == Some("db-0")));
    world.patch_all::<Node>(&home, json!({"spec": {"unschedulable": null}})).await;
    let back = world.until("db-0 is back", 60, "db-0", is_ready).await;
    assert_eq!(node_of(&back), home);

    // A claim in use is kept until its pod is gone.
    world.delete::<PersistentVolumeClaim>("data-db-1", DeleteParams::default()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.get::<PersistentVolumeClaim>("data-db-1").await.metadata.deletion_timestamp.is_some());
    world.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    world.gone::<PersistentVolumeClaim>("data-db-1", 60).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.list_all::<PersistentVolume>().await.len(), 1, "a volume of the class Delete goes with its claim");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn anti_affinity_spreads_over_zones_and_no_further() {
    let world = World::new(3).await;
    let apart = json!({"template": {"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "db"}}},
    ]}}}}});
    world.create::<Deployment>(deployment("db", 4, apart)).await;
    world.until("three of four are up", 60, "db", |d: &Deployment| available(d) == 3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let pods: Vec<Pod> = world.list("app=db").await;
    let mut nodes: Vec<String> = pods.iter().map(node_of).collect();
    nodes.sort();
    assert_eq!(nodes, ["", "n0", "n1", "n2"], "one a zone, and one too many");
    // A zone more, and the fourth has a place.
    world.sandbox.add_node("n3", "zone-3");
    world.until("all are up", 60, "db", |d: &Deployment| available(d) == 4).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn topology_spread_taints_and_selectors_are_honoured() {
    let world = World::new(2).await;
    world.sandbox.add_node("n2", "zone-0");
    let spread = json!({"template": {"spec": {"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}},
    ]}}});
    world.create::<Deployment>(deployment("web", 6, spread)).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 6).await;
    let pods: Vec<Pod> = world.list("app=web").await;
    assert_eq!(pods.iter().filter(|p| node_of(p) == "n1").count(), 3, "half of them in the zone of one node");

    world.patch_all::<Node>("n1", json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}})).await;
    world.create::<Pod>(json!({"metadata": {"name": "picky"}, "spec": {"nodeSelector": {"kubernetes.io/hostname": "n1"}, "containers": [{"name": "a", "image": "a:1"}]}})).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let picky: Pod = world.get("picky").await;
    let why = picky.status.unwrap().conditions.unwrap()[0].message.clone().unwrap();
    assert_eq!(
        why,
        "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, 2 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    let tolerant = json!({"metadata": {"name": "tolerant"}, "spec": {
        "nodeSelector": {"kubernetes.io/hostname": "n1"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "containers": [{"name": "a", "image": "a:1"}],
    }});
    world.create::<Pod>(tolerant).await;
    world.until("tolerant runs", 30, "tolerant", is_ready).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_set_is_on_every_node_that_will_have_it() {
    let world = World::new(3).await;
    let value = json!({"metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template(json!({"app": "agent"}), json!({}))}});
    world.create::<DaemonSet>(value).await;
    let count = |n: i32| move |d: &DaemonSet| d.status.as_ref().is_some_and(|s| s.number_ready == n && s.desired_number_scheduled == n);
    world.until("on all three", 60, "agent", count(3)).await;
    // Cordoned nodes keep theirs, new ones get one, and tainted ones do not.
    world.patch_all::<Node>("n0", json!({"spec": {"unschedulable": true}})).await;
    world.sandbox.add_node("n3", "zone-0");
    world.until("on the fourth", 60, "agent", count(4)).await;
    world.patch_all::<Node>("n1", json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}})).await;
    world.until("off the tainted one", 90, "agent", count(3)).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_tries_again_with_longer_and_longer_pauses_and_then_gives_up() {
    let world = World::new(1).await;
    world.create::<Job>(job("bad", batch("1s", "3"), json!({"backoffLimit": 3}))).await;
    let failed = |j: &Job| {
        j.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default().iter().any(|c| c.type_ == "Failed" && c.status == "True")
    };
    let end = world.until("it gives up", 600, "bad", failed).await;
    let status = end.status.unwrap();
    assert_eq!(status.failed, Some(4));
    let reason = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Failed").unwrap().reason;
    assert_eq!(reason.as_deref(), Some("BackoffLimitExceeded"));
    let mut pods: Vec<Pod> = world.list("job-name=bad").await;
    pods.sort_by_key(ResourceExt::creation_timestamp);
    let ended = |p: &Pod| {
        p.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0]
            .state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .finished_at
            .clone()
            .unwrap()
            .0
    };
    let made = |p: &Pod| p.creation_timestamp().unwrap().0;
    let pauses: Vec<i64> = pods.windows(2).map(|w| made(&w[1]).duration_since(ended(&w[0])).as_secs()).collect();
    assert_eq!(pods.len(), 4);
    for (pause, wanted) in pauses.iter().zip([10, 20, 40]) {
        assert!((wanted..=wanted + 1).contains(pause), "{pauses:?}");
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_complete_expire_and_run_out_of_time() {
    let world = World::new(2).await;
    let complete = |j: &Job| j.status.as_ref().is_some_and(|s| s.completion_time.is_some());
    world.create::<Job>(job("many", batch("5s", "0"), json!({"completions": 5, "parallelism": 2, "ttlSecondsAfterFinished": 100}))).await;
    let mut most = 0;
    for _ in 0..600 {
        let pods: Vec<Pod> = world.list("job-name=many").await;
        most = most.max(pods.iter().filter(|p| !matches!(p.status.as_ref().unwrap().phase.as_deref(), Some("Succeeded"))).count());
        if complete(&world.get::<Job>("many").await) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(most, 2, "as many at once as the parallelism");
    let many: Job = world.get("many").await;
    assert_eq!(many.status.as_ref().unwrap().succeeded, Some(5));
    let types: Vec<String> = many.status.unwrap().conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(types, ["SuccessCriteriaMet", "Complete"]);
    tokio::time::sleep(Duration::from_secs(95)).await;
    world.get::<Job>("many").await;
    world.gone::<Job>("many", 10).await;
    assert_eq!(world.list::<Pod>("job-name=many").await.len(), 0, "its pods go with it");

    world.create::<Job>(job("slow", batch("1h", "0"), json!({"activeDeadlineSeconds": 30}))).await;
    let end = world
        .until("it is cut off", 90, "slow", |j: &Job| {
            j.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default().iter().any(|c| c.type_ == "Failed")
        })
        .await;
    let reasons: Vec<Option<String>> = end.status.unwrap().conditions.unwrap().into_iter().map(|c| c.reason).collect();
    assert_eq!(reasons, [Some("DeadlineExceeded".to_owned()), Some("DeadlineExceeded".to_owned())]);

    // Indexed: one success for each index.
    world.create::<Job>(job("indexed", batch("2s", "0"), json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}))).await;
    let done = world.until("indexed", 60, "indexed", complete).await;
    assert_eq!(done.status.unwrap().completed_indexes.as_deref(), Some("0-2"));
    world.stop().await;
}

/// *Conformance*, up to the pod's end.
#[tokio::test(start_paused = true)]
async fn a_suspended_job_waits() {
    let world = World::new(1).await;
    world.create::<Job>(job("held", batch("2s", "0"), json!({"suspend": true}))).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let held: Job = world.get("held").await;
    let status = held.status.unwrap();
    let conditions: Vec<(String, String)> = status.conditions.unwrap().into_iter().map(|c| (c.type_, c.status)).collect();
    assert_eq!((conditions, status.start_time), (vec![("Suspended".to_owned(), "True".to_owned())], None));
    assert_eq!(world.list::<Pod>("").await.len(), 0);
    world.patch::<Job>("held", json!({"spec": {"suspend": false}})).await;
    world
        .until("it is done", 60, "held", |j: &Job| j.status.as_ref().is_some_and(|s| s.succeeded == Some(1) && s.completion_time.is_some()))
        .await;
    world.stop().await;
}

/// *Conformance*, given a minute.
#[tokio::test(start_paused = true)]
async fn a_cron_job_starts_at_the_minute_and_not_while_it_is_suspended() {
    let world = World::new(1).await;
    let mut template = job("x", batch("20s", "0"), json!({}));
    template.as_object_mut().unwrap().remove("metadata");
    world.create::<CronJob>(json!({"metadata": {"name": "backup"}, "spec": {"schedule": "*/2 * * * *", "jobTemplate": template}})).await;
    let jobs = || async { world.list::<Job>("").await };
    tokio::time::sleep(Duration::from_secs(115)).await;
    assert_eq!(jobs().await.len(), 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let first = jobs().await;
    assert_eq!(first.len(), 1);
    let at = world.start().checked_add(jiff::SignedDuration::from_secs(120)).unwrap();
    assert_eq!(first[0].name_any(), format!("backup-{}", at.as_second() / 60));
    assert_eq!(first[0].annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"], at.to_string());
    assert_eq!(first[0].owner_references()[0].kind, "CronJob");
    let cron: CronJob = world.get("backup").await;
    let status = cron.status.unwrap();
    assert_eq!((status.active.unwrap().len(), status.last_schedule_time.unwrap().0), (1, at));

    world.patch::<CronJob>("backup", json!({"spec": {"suspend": true}})).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(jobs().await.len(), 1, "nothing while it is suspended");
    let cron: CronJob = world.get("backup").await;
    assert!(cron.status.as_ref().unwrap().active.is_none() && cron.status.unwrap().last_successful_time.is_some());
    // Of what it missed it makes up the last one.
    world.patch::<CronJob>("backup", json!({"spec": {"suspend": false}})).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(jobs().await.len(), 2);
    // No more than three that succeeded are kept.
    tokio::time::sleep(Duration::from_secs(1230)).await;
    assert_eq!(jobs().await.len(), 3);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_that_forbids_company_waits() {
    let world = World::new(1).await;
    for (policy, wanted) in [("Forbid", 1), ("Replace", 1), ("Allow", 3)] {
        let mut template = job("x", batch("1h", "0"), json!({}));
        template.as_object_mut().unwrap().remove("metadata");
        let name = policy.to_lowercase();
        world.create::<CronJob>(json!({"metadata": {"name": name}, "spec": {"schedule": "* * * * *", "concurrencyPolicy": policy, "jobTemplate": template}})).await;
        tokio::time::sleep(Duration::from_secs(182)).await;
        let jobs: Vec<Job> = world.list("").await;
        let mut own: Vec<String> = jobs
            .iter()
            .filter(|j| j.owner_references()[0].name == name && j.metadata.deletion_timestamp.is_none())
            .map(ResourceExt::name_any)
            .collect();
        own.sort();
        assert_eq!(own.len(), wanted, "{policy}: {own:?}");
        let first = (world.start().as_second() + 60) / 60;
        assert_eq!(own[0].ends_with(&first.to_string()), policy != "Replace", "{policy}: {own:?}");
        world.delete::<CronJob>(&name, DeleteParams::background()).await;
        tokio::time::sleep(Duration::from_secs(58)).await;
        world.restart_clock();
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_noticed_after_40_s_and_its_pods_leave_300_s_later() {
    let world = World::new(3).await;
    world.create::<Deployment>(deployment("web", 3, json!({}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 3).await;
    let lost: Vec<Pod> = world.list::<Pod>("app=web").await.into_iter().filter(|p| node_of(p) == "n1").collect();
    assert_eq!(lost.len(), 1);
    assert!(world.sandbox.set_node("n1", NodeState::Frozen));
    let began = tokio::time::Instant::now();
    let ready =
        |n: &Node| n.status.as_ref().unwrap().conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Ready").unwrap().status.clone();
    world.until_all("it is noticed", 90, "n1", |n: &Node| ready(n) == "Unknown").await;
    let noticed = began.elapsed();
    assert!((Duration::from_secs(30)..=Duration::from_secs(46)).contains(&noticed), "{noticed:?}");
    world.until("its pod is not ready", 5, &lost[0].name_any(), |p: &Pod| !is_ready(p)).await;
    let node: Node = world.get_all("n1").await;
    let taints = node.spec.unwrap().taints.unwrap();
    let effects: Vec<&str> = taints.iter().filter(|t| t.key == "node.kubernetes.io/unreachable").map(|t| t.effect.as_str()).collect();
    assert_eq!(effects, ["NoSchedule", "NoExecute"]);
    world.until("its pod is to go", 320, &lost[0].name_any(), |p: &Pod| p.metadata.deletion_timestamp.is_some()).await;
    let left = began.elapsed().saturating_sub(noticed);
    assert!((Duration::from_secs(298)..=Duration::from_secs(303)).contains(&left), "{left:?}");
    // Nobody can say that it has ended: it stays, and another takes its place.
    world.until("another is up", 60, "web", |d: &Deployment| available(d) == 3).await;
    world.get::<Pod>(&lost[0].name_any()).await;
    assert!(world.sandbox.set_node("n1", NodeState::Up));
    world.gone::<Pod>(&lost[0].name_any(), 60).await;
    world.until_all("it is back", 30, "n1", |n: &Node| ready(n) == "True" && n.spec.as_ref().unwrap().taints.is_none()).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_in_time_keeps_its_pods() {
    let world = World::new(3).await;
    world.create::<Deployment>(deployment("web", 3, json!({}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 3).await;
    world.sandbox.set_node("n1", NodeState::CutOff);
    world.until("one is missing", 90, "web", |d: &Deployment| available(d) == 2).await;
    let (_, _, message) = refused(world.logs("n1").await);
    assert!(message.contains("n1"), "{message}");
    tokio::time::sleep(Duration::from_secs(200)).await;
    world.sandbox.set_node("n1", NodeState::Up);
    world.until("all are back", 30, "web", |d: &Deployment| available(d) == 3).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let pods: Vec<Pod> = world.list("app=web").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|p| p.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count == 0));
    world.stop().await;
}

/// What was bound to a node while nobody could reach it is begun when it is back, without anything else happening to the pod.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_learns_of_pods_it_has_missed() {
    let world = World::new(2).await;
    for (cut, back) in [(NodeState::CutOff, NodeState::Up), (NodeState::Frozen, NodeState::Up)] {
        world.sandbox.set_node("n1", cut);
        let mut web = deployment("web", 1, json!({}));
        web["spec"]["template"]["spec"]["nodeName"] = json!("n1");
        world.create::<Deployment>(web).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let pods: Vec<Pod> = world.list("app=web").await;
        assert_eq!(pods[0].status.as_ref().and_then(|s| s.phase.as_deref()), Some("Pending"), "{cut:?}");
        world.sandbox.set_node("n1", back);
        world.until("it is up", 30, "web", |d: &Deployment| available(d) == 1).await;
        assert_eq!(world.list::<Pod>("app=web").await[0].uid(), pods[0].uid(), "{cut:?}");
        world.delete::<Deployment>("web", DeleteParams::background()).await;
        world.gone::<Pod>(&pods[0].name_any(), 60).await;
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_is_gone_are_given_up() {
    let world = World::new(2).await;
    world.create::<Deployment>(deployment("web", 2, json!({}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 2).await;
    let lost: Vec<Pod> = world.list::<Pod>("app=web").await.into_iter().filter(|p| node_of(p) == "n1").collect();
    world.sandbox.set_node("n1", NodeState::CutOff);
    world.delete_all::<Node>("n1").await;
    tokio::time::sleep(Duration::from_secs(38)).await;
    assert_eq!(world.get::<Pod>(&lost[0].name_any()).await.uid(), lost[0].uid());
    world.gone::<Pod>(&lost[0].name_any(), 24).await;
    world.until("web is up again", 60, "web", |d: &Deployment| available(d) == 2).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_every_node_is_silent_nobody_is_driven_away() {
    let world = World::new(2).await;
    world.create::<Deployment>(deployment("web", 2, json!({}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 2).await;
    for node in ["n0", "n1"] {
        world.sandbox.set_node(node, NodeState::CutOff);
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(world.list::<Pod>("app=web").await.iter().all(|p| p.metadata.deletion_timestamp.is_none()));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_allows_what_it_can_spare() {
    let world = World::new(3).await;
    world.create::<Deployment>(deployment("web", 3, json!({}))).await;
    world
        .create::<PodDisruptionBudget>(
            json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}}),
        )
        .await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 3).await;
    let allowed = |n: i32| move |b: &PodDisruptionBudget| b.status.as_ref().is_some_and(|s| s.disruptions_allowed == n);
    let budget = world.until("one may go", 10, "web", allowed(1)).await;
    let status = budget.status.unwrap();
    assert_eq!((status.current_healthy, status.desired_healthy, status.expected_pods), (3, 2, 3));
    let condition = &status.conditions.unwrap()[0];
    assert_eq!(
        (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str()),
        ("DisruptionAllowed", "True", "SufficientPods")
    );
    let names: Vec<String> = world.list::<Pod>("app=web").await.iter().map(ResourceExt::name_any).collect();
    let pods = world.api::<Pod>();
    pods.evict(&names[0], &EvictParams::default()).await.unwrap();
    let (code, _, message) = refused(pods.evict(&names[1], &EvictParams::default()).await);
    assert_eq!((code, message.as_str()), (429, "Cannot evict pod as it would violate the pod's disruption budget."));
    world.until("its successor is up", 60, "web", allowed(1)).await;
    pods.evict(&names[1], &EvictParams::default()).await.unwrap();
    // Of a share, and of what its Deployment wants.
    world
        .create::<PodDisruptionBudget>(
            json!({"metadata": {"name": "share"}, "spec": {"maxUnavailable": "50%", "selector": {"matchLabels": {"app": "web"}}}}),
        )
        .await;
    world
        .until("the share is counted", 60, "share", |b: &PodDisruptionBudget| {
            b.status.as_ref().is_some_and(|s| (s.expected_pods, s.desired_healthy, s.disruptions_allowed) == (3, 1, 2))
        })
        .await;
    world.stop().await;
}

/// *Conformance.*
#[tokio::test(start_paused = true)]
async fn dependents_go_with_their_owner_before_it_or_are_let_go() {
    let world = World::new(0).await;
    for (name, policy) in
        [("back", PropagationPolicy::Background), ("fore", PropagationPolicy::Foreground), ("orphan", PropagationPolicy::Orphan)]
    {
        world.create::<Deployment>(deployment(name, 2, json!({}))).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (of, selector) = (policy.clone(), format!("app={name}"));
        assert_eq!(world.list::<Pod>(&selector).await.len(), 2);
        world.delete::<Deployment>(name, DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }).await;
        world.gone::<Deployment>(name, 10).await;
        let left = world.list::<Pod>(&selector).await;
        let sets = world.list::<ReplicaSet>(&selector).await;
        match of {
            // The owner goes last.
            PropagationPolicy::Foreground => assert_eq!((left.len(), sets.len()), (0, 0)),
            PropagationPolicy::Background => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(world.list::<Pod>(&selector).await.len() + world.list::<ReplicaSet>(&selector).await.len(), 0);
            }
            _ => {
                assert_eq!((left.len(), sets.len()), (2, 1));
                assert!(sets[0].owner_references().is_empty());
                assert_eq!(left[0].owner_references().len(), 1, "the pods are the set's, which is left");
            }
        }
    }
    // An owner that never was.
    world.create::<Secret>(json!({"metadata": {"name": "stray", "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "no-such-uid"}]}})).await;
    world.gone::<Secret>("stray", 10).await;
    world.stop().await;
}

/// *Conformance.*
#[tokio::test(start_paused = true)]
async fn a_namespace_has_a_service_account_and_takes_all_along() {
    let world = World::new(1).await;
    world.until("its account is made", 5, "default", |_: &ServiceAccount| true).await;
    world.create::<Deployment>(deployment("web", 2, json!({}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 2).await;
    world.delete_all::<Namespace>("shop").await;
    let still: Namespace = world.get_all("shop").await;
    assert_eq!(still.status.unwrap().phase.as_deref(), Some("Terminating"));
    world.gone_all::<Namespace>("shop", 60).await;
    assert!(world.list::<Pod>("").await.is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_readiness_and_the_end() {
    let world = World::new(2).await;
    let container = json!({"name": "main", "image": "main:1", "ports": [{"name": "http", "containerPort": 8080}], "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}});
    let spec =
        json!({"template": {"metadata": {"annotations": {"sandbox.firedrill.dev/stop-takes": "5s"}}, "spec": {"containers": [container]}}});
    world.create::<Deployment>(deployment("web", 2, spec)).await;
    world
        .create::<Service>(
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}),
        )
        .await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let read = || async {
        let slices: Vec<EndpointSlice> = world.list("kubernetes.io/service-name=web").await;
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
        let conditions = slices[0].endpoints.iter().map(|e| e.conditions.clone().unwrap());
        let mut all: Vec<_> = conditions.map(|c| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(read().await, [(true, true, false), (true, true, false)]);
    let pods: Vec<Pod> = world.list("app=web").await;
    world.patch::<Pod>(&pods[0].name_any(), json!({"metadata": {"annotations": {"sandbox.firedrill.dev/unready": "true"}}})).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(read().await, [(false, false, false), (true, true, false)]);
    world.delete::<Pod>(&pods[1].name_any(), DeleteParams::default()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(read().await.contains(&(false, true, true)), "it serves while it ends: {:?}", read().await);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_is_started_again_with_longer_pauses() {
    let world = World::new(1).await;
    world.create::<Pod>(json!({"metadata": {"name": "crash", "annotations": batch("1s", "1")}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}})).await;
    let mut starts: Vec<jiff::Timestamp> = Vec::new();
    let mut backoff = false;
    for _ in 0..1800 {
        let pod: Pod = world.get("crash").await;
        let status = pod.status.unwrap().container_statuses.unwrap_or_default();
        if let Some(state) = status.first().and_then(|s| s.state.clone()) {
            if let Some(at) = state.running.and_then(|r| r.started_at)
                && starts.last() != Some(&at.0)
            {
                starts.push(at.0);
            }
            backoff |= state.waiting.and_then(|w| w.reason).as_deref() == Some("CrashLoopBackOff");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(backoff);
    let pauses: Vec<i64> = starts.windows(2).map(|w| w[1].duration_since(w[0]).as_secs()).collect();
    // A second of running, and then at once, 10, 20, 40, 80 s.
    for (pause, wanted) in pauses.iter().zip([1, 11, 21, 41, 81]) {
        assert!((wanted..=wanted + 1).contains(pause), "{pauses:?}");
    }
    assert!(pauses.len() >= 4, "{pauses:?}");
    let (previous, last) = (world.log("crash", true).await.unwrap(), world.log("crash", false).await);
    assert_eq!(previous, "started\nended with code 1\n");
    assert!(last.is_ok());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first_in_order_and_sidecars_stay() {
    let world = World::new(1).await;
    let knobs = json!({
        "sandbox.firedrill.dev/model.first": "batch", "sandbox.firedrill.dev/runs-for.first": "3s",
        "sandbox.firedrill.dev/model.last": "batch", "sandbox.firedrill.dev/runs-for.last": "4s",
    });
    let container = |name: &str| json!({"name": name, "image": format!("{name}:1")});
    let mut side = container("side");
    side["restartPolicy"] = json!("Always");
    let spec = json!({"initContainers": [container("first"), side, container("last")], "containers": [container("main")]});
    world.create::<Pod>(json!({"metadata": {"name": "app", "annotations": knobs}, "spec": spec})).await;
    let pod = world.until("app runs", 60, "app", is_ready).await;
    let status = pod.status.unwrap();
    let started = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
        let state = s.state.clone().unwrap();
        state.running.and_then(|r| r.started_at).or(state.terminated.and_then(|t| t.started_at)).unwrap().0
    };
    let init = status.init_container_statuses.unwrap();
    let order: Vec<_> = init.iter().chain(&status.container_statuses.unwrap()).map(started).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert!(init[1].state.as_ref().unwrap().running.is_some(), "the sidecar goes on");
    assert!(order[3].duration_since(order[0]).as_secs() >= 7);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn probes_restart_what_hangs_and_nothing_else() {
    let world = World::new(1).await;
    let container =
        json!({"name": "a", "image": "a:1", "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 5, "failureThreshold": 2}});
    world
        .create::<Pod>(json!({"metadata": {"name": "app"}, "spec": {"terminationGracePeriodSeconds": 10, "containers": [container]}}))
        .await;
    world.until("app runs", 60, "app", is_ready).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    world.sandbox.signal("shop", "app", "a", Signal::Stop).unwrap();
    let began = tokio::time::Instant::now();
    let restarts =
        |n: i32| move |p: &Pod| p.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count == n && is_ready(p);
    let pod = world.until("it is restarted", 60, "app", restarts(1)).await;
    // Two time-outs, and the grace that a held process does not use.
    let took = began.elapsed();
    assert!((Duration::from_secs(16)..=Duration::from_secs(24)).contains(&took), "{took:?}");
    let last = pod.status.unwrap().container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 137);
    // Killed: the same, and at once.
    world.sandbox.signal("shop", "app", "a", Signal::Kill).unwrap();
    world.until("it is back", 30, "app", restarts(2)).await;
    assert!(world.sandbox.signal("shop", "other", "a", Signal::Kill).is_err());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_grace_and_no_more() {
    let world = World::new(1).await;
    for (name, takes, least, most) in [("quick", "0s", 0, 1), ("slow", "8s", 8, 9), ("stubborn", "1h", 20, 21)] {
        let pod = json!({
            "metadata": {"name": name, "annotations": {"sandbox.firedrill.dev/stop-takes": takes}},
            "spec": {"terminationGracePeriodSeconds": 20, "containers": [{"name": "a", "image": "a:1"}]},
        });
        world.create::<Pod>(pod).await;
        world.until("it runs", 30, name, is_ready).await;
        let began = tokio::time::Instant::now();
        world.delete::<Pod>(name, DeleteParams::default()).await;
        world.gone::<Pod>(name, 60).await;
        let took = began.elapsed().as_secs();
        assert!((least..=most).contains(&took), "{name}: {took} s");
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_missing_keeps_a_pod_from_starting() {
    let world = World::new(1).await;
    let pod = |name: &str, spec: Value| {
        let mut value = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}});
        merge(&mut value["spec"], spec);
        value
    };
    world.create::<Pod>(pod("mounts", json!({"volumes": [{"name": "key", "secret": {"secretName": "key"}}]}))).await;
    let env = json!({"containers": [{"name": "a", "image": "a:1", "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}]});
    world.create::<Pod>(pod("reads", env)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let reason = |p: Pod| p.status.unwrap().container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap().reason.unwrap();
    assert_eq!(reason(world.get("mounts").await), "ContainerCreating");
    assert_eq!(reason(world.get("reads").await), "CreateContainerConfigError");
    world.create::<Secret>(json!({"metadata": {"name": "key"}, "stringData": {"k": "v"}})).await;
    for name in ["mounts", "reads"] {
        world.until("it runs", 150, name, is_ready).await;
    }
    // A model that there is not, is no success.
    world
        .create::<Pod>(
            json!({"metadata": {"name": "what", "annotations": {BATCH: "what"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}}),
        )
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(reason(world.get("what").await), "CreateContainerError");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_pods_and_keeps_others_out() {
    let world = World::new(2).await;
    world.create::<Deployment>(deployment("web", 2, json!({}))).await;
    world.until("web is up", 60, "web", |d: &Deployment| available(d) == 2).await;
    assert!(world.sandbox.fill_node_disk("n0", true) && !world.sandbox.fill_node_disk("none", true));
    let pressed =
        |n: &Node| n.status.as_ref().unwrap().conditions.as_ref().unwrap().iter().any(|c| c.type_ == "DiskPressure" && c.status == "True");
    world.until_all("pressure is told", 30, "n0", pressed).await;
    let evicted = |p: &&Pod| p.status.as_ref().unwrap().reason.as_deref() == Some("Evicted");
    tokio::time::sleep(Duration::from_secs(30)).await;
    let pods: Vec<Pod> = world.list("app=web").await;
    assert_eq!(pods.iter().filter(evicted).count(), 1);
    assert!(pods.iter().filter(|p| is_ready(p)).all(|p| node_of(p) == "n1"));
    world.until("both are up", 30, "web", |d: &Deployment| available(d) == 2).await;
    world.sandbox.fill_node_disk("n0", false);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(pressed(&world.get_all("n0").await), "it is told for five more minutes");
    tokio::time::sleep(Duration::from_secs(200)).await;
    let node: Node = world.get_all("n0").await;
    assert!(!pressed(&node) && node.spec.unwrap().taints.is_none());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn commands_and_logs_reach_the_model() {
    let world = World::new(1).await;
    world.create::<Pod>(json!({"metadata": {"name": "app"}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}})).await;
    world.until("app runs", 60, "app", is_ready).await;
    assert_eq!(world.exec("app", &["echo", "a", "b"]).await, (Some("Success".to_owned()), "a b\n".to_owned(), String::new()));
    let (status, out, why) = world.exec("app", &["pg_dump"]).await;
    assert_eq!((status.as_deref(), out.as_str()), (Some("Failure"), ""));
    assert!(why.contains("not rehearsable"), "{why}");
    assert_eq!(world.log("app", false).await.unwrap(), "started\n");
    let pods = world.api::<Pod>();
    let tail = pods.logs("app", &LogParams { tail_lines: Some(0), ..LogParams::default() }).await.unwrap();
    assert_eq!(tail, "");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_history() {
    async fn history(seed: u64) -> Vec<(i64, String, String, String, u16)> {
        let world = World::seeded(seed, 3).await;
        world.create::<StatefulSet>(stateful("db", 2, claims())).await;
        world.create::<Deployment>(deployment("web", 3, json!({}))).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.sandbox.set_node("n2", NodeState::Frozen);
        tokio::time::sleep(Duration::from_secs(500)).await;
        let audit = world.sandbox.audit();
        world.stop().await;
        audit.into_iter().map(|e| (e.at_us, e.user, e.verb, format!("{} {}", e.uri, String::from_utf8_lossy(&e.request)), e.code)).collect()
    }
    let (first, again, other) = (history(7).await, history(7).await, history(8).await);
    assert!(first.len() > 200);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let refused: Vec<_> = first.iter().filter(|e| e.4 >= 400).collect();
    assert!(refused.is_empty(), "no component writes what is refused: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_costs_its_heartbeats() {
    let world = World::new(3).await;
    world.create::<Deployment>(deployment("web", 20, json!({}))).await;
    world.until("web is up", 90, "web", |d: &Deployment| available(d) == 20).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (wakes, began) = (world.sandbox.wakes(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let (wakes, took) = (world.sandbox.wakes() - wakes, began.elapsed());
    println!("an hour of 3 nodes and 20 pods: {took:?}, {wakes} wakes");
    // Three Leases every ten seconds; the watch over each node's silence; statuses every five minutes; events that end.
    assert!(wakes <= 3 * 360 + 3 * 180 + 150, "{wakes}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    world.stop().await;
}
