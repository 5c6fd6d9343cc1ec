//! Drills with every fault that is made through the API server, in the sandbox, with no more rights than `plan --rbac` prints: one that
//! comes to its end, and one whose runner is lost and whose watchdog reverts it.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use std::{collections::BTreeMap, time::Duration};

use fault_kit::{World, from, until};
use firedrill::{
    cluster::Cluster,
    drill::{Drill, DrillOptions, Takeover},
    gate::Gate,
    journal::{Disk, MemoryDisk},
    plan,
    scenario::types::{Dur, OwnPlace},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::Job,
    core::v1::{Node, PersistentVolumeClaim, Pod, Secret, Service},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams, TypeMeta},
};
use serde_json::{Value, json};

const LEASE: Duration = Duration::from_secs(15);
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: nobody, namespace: shop}\n\
                      spec: {podSelector: {matchLabels: {app: '${app}'}}, policyTypes: [Ingress]}\n";

/// Writes to a volume of its own, as the image's own tools would elsewhere.
const JOB: &str = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: cut, namespace: shop}\nspec:\n  template:\n    metadata: {annotations: {sandbox.firedrill.dev/model: shell}}\n    \
                   spec:\n      nodeSelector: {kubernetes.io/hostname: n0}\n      volumes: [{name: data, persistentVolumeClaim: {claimName: shared}}]\n      \
                   containers: [{name: main, image: 'tools:1', volumeMounts: [{name: data, mountPath: /data}]}]\n";

fn workload(name: &str, replicas: u32) -> Value {
    let labels = json!({"app": name});
    let pod = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": format!("{name}:1")}]});
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "serviceName": name,
        "template": {"metadata": {"labels": labels}, "spec": pod}}})
}

/// A shop on three nodes, two of which may be broken.
async fn shop() -> World {
    let w = World::in_sandbox().await;
    for node in ["n1", "n2"] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"firedrill.dev/drills": "allowed", "node": node}}}));
        w.cluster.cluster_api::<Node>().patch(node, &PatchParams::default(), &patch).await.unwrap();
    }
    let mut web = workload("web", 3);
    web["spec"].as_object_mut().unwrap().remove("serviceName");
    w.create::<Deployment>(web).await;
    w.create::<StatefulSet>(workload("db", 2)).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "resources": {"requests": {"storage": "16Mi"}}});
    w.create::<PersistentVolumeClaim>(json!({"metadata": {"name": "shared"}, "spec": spec})).await;
    // Bound before anything is looked at.
    let pod = json!({"nodeSelector": {"kubernetes.io/hostname": "n0"}, "containers": [{"name": "main", "image": "holder:1"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "shared"}}]});
    w.create::<Pod>(json!({"metadata": {"name": "holder"}, "spec": pod})).await;
    things::bound_claim(&w, "shared").await;
    let mut store = workload("store", 1);
    store["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": spec}]);
    // Where no node is drained.
    store["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "n0"});
    w.create::<StatefulSet>(store).await;
    w.create::<Service>(json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})).await;
    w.create::<Secret>(json!({"metadata": {"name": "password"}, "stringData": {"password": things::PASSWORD}})).await;
    things::ready_pods(&w, "web", 3).await;
    things::ready_pods(&w, "db", 2).await;
    things::ready_pods(&w, "store", 1).await;
    until("the Service has its endpoints", || async { things::endpoints(&w, "web").await == 3 }).await;
    w
}

/// The drill, its rights granted, as its runner would run it.
async fn drill(w: &World, hold: &str) -> std::sync::Arc<Drill> {
    let fault = |name: &str, fault: Value| json!({"name": name, "inject": fault});
    let scenario = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "everything"},
        "spec": {
            "summary": "Everything at once.",
            "targets": {
                "drained": {"nodes": "node=n2"}, "cordoned": {"nodes": "node=n1"}, "web": {"namespace": "shop", "service": "web"},
                "db": {"namespace": "shop", "statefulSet": "db"}, "password": {"namespace": "shop", "secret": "password"},
                "store": {"namespace": "shop", "pvc": "data-store-0"},
            },
            "limits": {"pods": 9, "nodes": 2, "objects": 9, "volumes": 1, "duration": "30m"},
            "probes": {"open": {"object": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "cel": "object.metadata.name == 'web'"}}},
            "steadyState": {"good": ["open"], "for": "1s", "timeout": "30s"},
            "steps": [
                fault("a", json!({"drainNode": {"target": "drained"}})),
                fault("b", json!({"cordonNode": {"target": "cordoned"}})),
                fault("c", json!({"detachService": {"target": "web"}})),
                fault("d", json!({"badImage": {"target": "db"}})),
                fault("e", json!({"hideSecret": {"target": "password"}})),
                fault("f", json!({"manifest": {"file": "policy.yaml", "effective": "object.spec.policyTypes[0] == 'Ingress'", "values": {"app": "web"}}})),
                fault("g", json!({"loseVolume": {"target": "store"}})),
                fault("h", json!({"custom": {
                    "job": {"file": "job.yaml"}, "inject": ["sh", "-c", "echo broken > /data/broken"], "effective": ["test", "-s", "/data/broken"],
                    "revert": ["rm", "-f", "/data/broken"], "gone": ["test", "!", "-e", "/data/broken"],
                }})),
                {"hold": hold},
            ],
            "objectives": [{"check": {"probe": "open", "state": "good"}}],
        },
    });
    let text = scenario.to_string();
    let loaded = firedrill::scenario::parse_scenario("everything.yaml", &text, &[]).unwrap();
    let environment = json!({
        "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sandbox"},
        "spec": {"clusters": {"main": {"uid": w.cluster.uid}}, "firedrill": {"watchdog": {"serviceAccount": "watchdog"}}},
    });
    let environment = firedrill::scenario::parse_environment("environment.yaml", &environment.to_string()).unwrap();
    let files = BTreeMap::from([("policy.yaml".to_owned(), POLICY.to_owned()), ("job.yaml".to_owned(), JOB.to_owned())]);
    let plan = plan::plan_on(&w.cluster, &loaded, &environment, &files, 1).await.unwrap();
    assert!(plan.steps[0].evicts.iter().any(|pod| pod.namespace == "shop"), "nothing is evicted: {:?}", plan.steps[0].evicts);
    grant(w, &plan::rbac::yaml(&plan, &"User:runner".parse().unwrap())).await;
    let sandbox = w.sandbox.as_ref().unwrap();
    let runner = Cluster::from_client(sandbox.client("runner"), "sandbox", w.cluster.uid.clone());
    let missing = plan::may::missing(&runner, &plan.rbac).await;
    assert_eq!(missing, plan::may::Missing::default());
    let options = DrillOptions {
        by: "test".to_owned(),
        confirmed_by: Some("test".to_owned()),
        auto_ack: true,
        lease: Dur(LEASE),
        out: tempfile::tempdir().unwrap().keep(),
        disk: Disk::Memory(MemoryDisk::default()),
        seed: Some(1),
        sandbox: Some(sandbox.dialer(None)),
        takeover: Takeover::default(),
    };
    Drill::start(runner, w.clock(), plan, "drill-1", &text, options).await.unwrap()
}

/// Applies what `plan --rbac` printed, as an administrator does.
async fn grant(w: &World, yaml: &str) {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    for object in objects.into_iter().filter(|object| object["kind"] != "Namespace") {
        let types =
            TypeMeta { api_version: object["apiVersion"].as_str().unwrap().to_owned(), kind: object["kind"].as_str().unwrap().to_owned() };
        let plural = format!("{}s", types.kind.to_lowercase());
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk_with_plural(&kube::api::GroupVersionKind::gvk(group, version, &types.kind), &plural);
        let client = w.cluster.client.clone();
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        api.create(&PostParams::default(), &from(object)).await.unwrap();
    }
}

/// Whether every fault is there.
async fn broken(w: &World) -> bool {
    let node = async |name: &str| w.cluster.get_cluster_opt::<Node>(name).await.unwrap().unwrap().spec.unwrap().unschedulable == Some(true);
    let on_n2 = ListParams::default().fields("spec.nodeName=n2");
    node("n1").await
        && node("n2").await
        && w.cluster.api::<Pod>("shop").list(&on_n2).await.unwrap().items.is_empty()
        && things::endpoints(w, "web").await == 0
        && w.cluster.get_opt::<Secret>("shop", "password").await.unwrap().is_none()
        && w.cluster.get_opt::<StatefulSet>("shop", "db").await.unwrap().unwrap().status.unwrap().ready_replicas != Some(2)
        && w.cluster.get_opt::<k8s_openapi::api::networking::v1::NetworkPolicy>("shop", "nobody").await.unwrap().is_some()
        && w.cluster
            .get_opt::<PersistentVolumeClaim>("shop", "data-store-0")
            .await
            .unwrap()
            .is_some_and(|claim| claim.metadata.labels.is_some_and(|labels| labels.contains_key(firedrill::labels::FAULT)))
        && w.cluster.get_opt::<Job>("shop", "cut-inject").await.unwrap().is_some_and(|job| job.status.unwrap().succeeded == Some(1))
}

/// Nobody has asked for what it may not.
fn no_refusals(w: &World) {
    let refused: Vec<String> = w.sandbox.as_ref().unwrap().audit().iter().filter(|e| e.code == 403).map(|e| format!("{e:?}")).collect();
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
fn a_drill_comes_to_its_end_with_the_rights_that_the_plan_prints() {
    on_a_large_stack(whole_drill);
}

#[test]
fn a_watchdog_reverts_it_all_with_the_rights_that_the_plan_prints() {
    on_a_large_stack(lost_runner);
}

async fn whole_drill() {
    let w = shop().await;
    let before = things::everything(&w).await;
    let drill = Box::pin(drill(&w, "10s")).await;
    let mut seen = false;
    let end = tokio::select! {
        biased;
        end = Box::pin(drill.run()) => end,
        () = async {
            until("everything is broken", || broken(&w)).await;
            seen = true;
            std::future::pending::<()>().await;
        } => unreachable!("it waits for ever"),
    };
    assert!(seen, "not everything was broken: {end:?}");
    assert!(end.clean && end.trouble.is_none(), "{end:?}");
    no_refusals(&w);
    assert_eq!(things::everything(&w).await, before);
    assert!(w.cluster.api::<Job>("shop").list(&ListParams::default()).await.unwrap().items.is_empty(), "a Job of the fault is left");
    w.end().await;
}

async fn lost_runner() {
    let w = shop().await;
    let before = things::everything(&w).await;
    let drill = Box::pin(drill(&w, "20m")).await;
    let runner = Gate::new();
    let run = Box::pin(runner.hold(async { drill.run().await }));
    let watch = async {
        until("everything is broken", || broken(&w)).await;
        runner.kill();
        let own: Api<Pod> = w.cluster.api(&OwnPlace::default().namespace);
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
    no_refusals(&w);
    assert_eq!(things::everything(&w).await, before);
    assert!(w.cluster.api::<Job>("shop").list(&ListParams::default()).await.unwrap().items.is_empty(), "a Job of the fault is left");
    let by = "system:serviceaccount:firedrill:watchdog";
    let audit = w.sandbox.as_ref().unwrap().audit();
    let written = |resource: &str| audit.iter().any(|e| e.user == by && e.is_write() && e.resource == resource);
    for resource in
        ["nodes", "services", "statefulsets", "secrets", "networkpolicies", "persistentvolumes", "persistentvolumeclaims", "jobs"]
    {
        assert!(written(resource), "the watchdog has not written {resource}");
    }
    w.end().await;
}
