//! The sandbox's API server as its clients see it. What is asserted here holds for a real one, too, where it can; the
//! conformance suite compares the two case by case.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use firedrill::sandbox::{ExecAsk, ExecEnd, Kubelets, LogAsk, Sandbox, SandboxOptions, Weather};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, AttachParams, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, LogParams, Patch, PatchParams,
        PostParams, Preconditions, PropagationPolicy, WatchEvent, WatchParams,
    },
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const WALL_US: i64 = 1_767_225_600_000_000;

fn sandbox() -> Sandbox {
    Sandbox::new(SandboxOptions { seed: 7, wall_us: WALL_US })
}

async fn shop(sandbox: &Sandbox) -> Client {
    let client = sandbox.client("admin");
    let namespace: Namespace = from(json!({"metadata": {"name": "shop"}}));
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    client
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str) -> Pod {
    from(json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}))
}

fn deployment(name: &str) -> Deployment {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    from(json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}}))
}

fn config(name: &str, value: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name}, "data": {"key": value}}))
}

/// Status code, reason and message of a refusal.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: kube::Result<T>) -> (u16, String, String) {
    match answer {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not refused: {other:?}"),
    }
}

fn merge(value: Value) -> Patch<Value> {
    Patch::Merge(value)
}

#[tokio::test(start_paused = true)]
async fn objects_are_made_read_changed_and_deleted() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let made = pods.create(&PostParams::default(), &pod("web-0")).await.unwrap();
    let spec = made.spec.clone().unwrap();
    assert_eq!((spec.restart_policy.as_deref(), spec.termination_grace_period_seconds), (Some("Always"), Some(30)));
    assert_eq!(made.status.clone().unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.creation_timestamp().unwrap().0.as_microsecond(), WALL_US);
    assert!(made.uid().is_some() && made.resource_version().is_some());

    let again = refused(pods.create(&PostParams::default(), &pod("web-0")).await);
    assert_eq!(again, (409, "AlreadyExists".to_owned(), "pods \"web-0\" already exists".to_owned()));
    let missing = refused(pods.get("other").await);
    assert_eq!(missing, (404, "NotFound".to_owned(), "pods \"other\" not found".to_owned()));
    let nowhere: Api<Pod> = Api::namespaced(client.clone(), "nowhere");
    assert_eq!(refused(nowhere.create(&PostParams::default(), &pod("a")).await).2, "namespaces \"nowhere\" not found");

    // A pod that no node runs is gone at once; one on a node is marked until its grace period is over.
    assert!(pods.delete("web-0", &DeleteParams::default()).await.unwrap().is_left());
    assert_eq!(refused(pods.get("web-0").await).0, 404);
    let mut placed = pod("web-1");
    placed.spec.as_mut().unwrap().node_name = Some("node1".to_owned());
    pods.create(&PostParams::default(), &placed).await.unwrap();
    let marked = pods.delete("web-1", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(marked.metadata.deletion_timestamp.unwrap().0.as_microsecond(), WALL_US + 30_000_000);
    let shorter = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods.delete("web-1", &shorter).await.unwrap();
    assert_eq!(refused(pods.get("web-1").await).0, 404);

    let generated: ConfigMap = from(json!({"metadata": {"generateName": "x-"}}));
    let generated = Api::<ConfigMap>::namespaced(client, "shop").create(&PostParams::default(), &generated).await.unwrap();
    assert_eq!(generated.name_any().len(), 7);
    sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_who_change_one_version_one_is_refused() {
    let sandbox = sandbox();
    let leases: Api<Lease> = Api::namespaced(shop(&sandbox).await, "shop");
    let lease: Lease = from(json!({"metadata": {"name": "drill"}, "spec": {"holderIdentity": "a"}}));
    let read = leases.create(&PostParams::default(), &lease).await.unwrap();
    let mut first = read.clone();
    first.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
    let first = leases.replace("drill", &PostParams::default(), &first).await.unwrap();
    let mut second = read;
    second.spec.as_mut().unwrap().holder_identity = Some("c".to_owned());
    let (code, reason, message) = refused(leases.replace("drill", &PostParams::default(), &second).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on leases.coordination.k8s.io \"drill\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    // An update that changes nothing writes nothing.
    let same = leases.replace("drill", &PostParams::default(), &first).await.unwrap();
    assert_eq!(same.resource_version(), first.resource_version());
    // A Lease is one of the kinds that an update makes; not if it says which object it means.
    let stale = DeleteParams {
        preconditions: Some(Preconditions { uid: None, resource_version: Some("1".to_owned()) }),
        ..DeleteParams::default()
    };
    assert_eq!(refused(leases.delete("drill", &stale).await).0, 409);
    leases.delete("drill", &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(leases.replace("drill", &PostParams::default(), &first).await).0, 409);
    // Without a version an update of a Lease is refused.
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let (code, _, message) = refused(leases.replace("drill", &PostParams::default(), &lease).await);
    assert_eq!(code, 422);
    assert!(message.ends_with("metadata.resourceVersion: Invalid value: 0: must be specified for an update"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn four_kinds_of_patch() {
    let sandbox = sandbox();
    let deployments: Api<Deployment> = Api::namespaced(shop(&sandbox).await, "shop");
    let made = deployments.create(&PostParams::default(), &deployment("web")).await.unwrap();
    assert_eq!((made.spec.as_ref().unwrap().replicas, made.metadata.generation), (Some(1), Some(1)));
    let none = PatchParams::default();

    let scaled = deployments.patch("web", &none, &merge(json!({"spec": {"replicas": 3}}))).await.unwrap();
    assert_eq!((scaled.spec.unwrap().replicas, scaled.metadata.generation), (Some(3), Some(2)));
    let stale = merge(json!({"metadata": {"resourceVersion": made.resource_version()}, "spec": {"replicas": 4}}));
    assert_eq!(refused(deployments.patch("web", &none, &stale).await).0, 409);

    let container = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:1"}]}}}});
    let both = deployments.patch("web", &none, &Patch::Strategic(container)).await.unwrap();
    let containers = both.spec.unwrap().template.spec.unwrap().containers;
    assert_eq!(containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["side", "web"], "what is new comes first");
    let without = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "$patch": "delete"}]}}}});
    let one = deployments.patch("web", &none, &Patch::Strategic(without)).await.unwrap();
    assert_eq!(one.spec.unwrap().template.spec.unwrap().containers.len(), 1);

    let test: json_patch::Patch = from(json!([
        {"op": "test", "path": "/spec/replicas", "value": 3},
        {"op": "replace", "path": "/spec/replicas", "value": 0},
    ]));
    let zero = deployments.patch("web", &none, &Patch::<()>::Json(test.clone())).await.unwrap();
    assert_eq!(zero.spec.unwrap().replicas, Some(0));
    let (code, reason, _) = refused(deployments.patch("web", &none, &Patch::<()>::Json(test)).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));

    let (code, _, message) = refused(deployments.patch("web", &none, &merge(json!({"spec": {"replicas": -1}}))).await);
    assert_eq!(code, 422);
    assert!(message.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"), "{message}");
    let selector = merge(json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}}));
    let (_, _, message) = refused(deployments.patch("web", &none, &selector).await);
    assert!(message.contains("spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\"}}: field is immutable"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn server_side_apply_owns_fields() {
    let sandbox = sandbox();
    let maps: Api<ConfigMap> = Api::namespaced(shop(&sandbox).await, "shop");
    let apply =
        |data: Value| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data}));
    let (ann, bob) = (PatchParams::apply("ann"), PatchParams::apply("bob"));
    maps.patch("settings", &ann, &apply(json!({"a": "1", "b": "1"}))).await.unwrap();
    // The same value is owned by both, another is a conflict.
    maps.patch("settings", &bob, &apply(json!({"a": "1", "c": "1"}))).await.unwrap();
    let conflict = maps.patch("settings", &bob, &apply(json!({"a": "2", "c": "1"}))).await;
    let Err(kube::Error::Api(status)) = conflict else { panic!("no conflict: {conflict:?}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"ann\": .data.a");
    let cause = &status.details.as_ref().unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".data.a"));
    maps.patch("settings", &bob.clone().force(), &apply(json!({"a": "2", "c": "1"}))).await.unwrap();
    // What its only owner no longer applies goes away; what others own stays.
    let left = maps.patch("settings", &ann, &apply(json!({}))).await.unwrap();
    assert_eq!(left.data.unwrap().into_iter().collect::<Vec<_>>(), [("a".to_owned(), "2".to_owned()), ("c".to_owned(), "1".to_owned())]);
    // Nothing changes: nothing is written.
    let before = maps.get("settings").await.unwrap();
    let after = maps.patch("settings", &bob, &apply(json!({"a": "2", "c": "1"}))).await.unwrap();
    assert_eq!(before.resource_version(), after.resource_version());
    let unnamed = maps.patch("settings", &PatchParams::default(), &apply(json!({}))).await;
    assert!(unnamed.is_err());
}

#[tokio::test(start_paused = true)]
async fn lists_select_and_come_in_pages() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    for n in 0..5 {
        let mut pod = pod(&format!("web-{n}"));
        pod.labels_mut().insert("n".to_owned(), n.to_string());
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let names = |list: &kube::api::ObjectList<Pod>| list.items.iter().map(|p| p.name_any()).collect::<Vec<_>>();
    let some = pods.list(&ListParams::default().labels("app=web,n in (1,3)")).await.unwrap();
    assert_eq!(names(&some), ["web-1", "web-3"]);
    let one = pods.list(&ListParams::default().fields("metadata.name=web-2")).await.unwrap();
    assert_eq!(names(&one), ["web-2"]);
    let pending = Api::<Pod>::all(client).list(&ListParams::default().fields("status.phase!=Running,spec.nodeName=")).await.unwrap();
    assert_eq!(pending.items.len(), 5);
    assert_eq!(refused(pods.list(&ListParams::default().fields("spec.foo=x")).await).2, "field label not supported: spec.foo");

    let first = pods.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((names(&first), first.metadata.remaining_item_count), (vec!["web-0".to_owned(), "web-1".to_owned()], Some(3)));
    let token = first.metadata.continue_.clone().unwrap();
    // The pages are of one version, whatever happens meanwhile.
    pods.delete("web-3", &DeleteParams::default()).await.unwrap();
    let rest = pods.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
    assert_eq!(names(&rest), ["web-2", "web-3", "web-4"]);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    sandbox.compact();
    assert_eq!(refused(pods.list(&ListParams::default().limit(10).continue_token(&token)).await).1, "Expired");

    // A version that is not there yet is waited for, three seconds of virtual time.
    let future =
        ListParams { resource_version: Some("100000".to_owned()), ..ListParams::default() }.matching(kube::api::VersionMatch::NotOlderThan);
    let before = sandbox.now_us();
    let (code, reason, message) = refused(pods.list(&future).await);
    assert_eq!((code, reason.as_str(), sandbox.now_us() - before), (504, "Timeout", 3_000_000));
    assert!(message.contains("Too large resource version: 100000"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn watches_follow_from_a_version() {
    let sandbox = sandbox();
    let maps: Api<ConfigMap> = Api::namespaced(shop(&sandbox).await, "shop");
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = Box::pin(maps.watch(&WatchParams::default().timeout(100), &version).await.unwrap());
    maps.create(&PostParams::default(), &config("a", "1")).await.unwrap();
    maps.patch("a", &PatchParams::default(), &merge(json!({"data": {"key": "2"}}))).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    let mut last = 0;
    while let Some(event) = watch.try_next().await.unwrap() {
        let (kind, map) = match event {
            WatchEvent::Added(map) => ("added", map),
            WatchEvent::Modified(map) => ("modified", map),
            WatchEvent::Deleted(map) => ("deleted", map),
            // At 60 s and at 98 s of the 100.
            WatchEvent::Bookmark(mark) => {
                assert_eq!(mark.metadata.resource_version, last.to_string());
                seen.push(("bookmark", String::new()));
                continue;
            }
            WatchEvent::Error(status) => panic!("{status:?}"),
        };
        let version: u64 = map.resource_version().unwrap().parse().unwrap();
        assert!(version > last);
        last = version;
        seen.push((kind, map.data.unwrap()["key"].clone()));
    }
    let wanted = [("added", "1"), ("modified", "2"), ("deleted", "2"), ("bookmark", ""), ("bookmark", "")];
    assert_eq!(seen.iter().map(|(k, v)| (*k, v.as_str())).collect::<Vec<_>>(), wanted);
    assert_eq!(sandbox.now_us(), WALL_US + 100_000_000, "the watch has ended after its 100 s");

    // An object that ceases to match is deleted for the watch that selects.
    let selected = WatchParams::default().labels("on=yes").timeout(5).disable_bookmarks();
    let version = maps.create(&PostParams::default(), &config("b", "1")).await.unwrap().resource_version().unwrap();
    let label = |value: &str| merge(json!({"metadata": {"labels": {"on": value}}}));
    maps.patch("b", &PatchParams::default(), &label("yes")).await.unwrap();
    maps.patch("b", &PatchParams::default(), &label("no")).await.unwrap();
    let events: Vec<_> = maps.watch(&selected, &version).await.unwrap().try_collect().await.unwrap();
    assert!(matches!(events.as_slice(), [WatchEvent::Added(_), WatchEvent::Deleted(_)]), "{events:?}");

    // What is forgotten cannot be followed.
    sandbox.compact();
    let events: Vec<_> = maps.watch(&selected, &version).await.unwrap().try_collect().await.unwrap();
    let [WatchEvent::Error(status)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(status.message.starts_with("too old resource version: "), "{}", status.message);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_of_kube_keeps_up_through_gaps() {
    let sandbox = sandbox();
    let maps: Api<ConfigMap> = Api::namespaced(shop(&sandbox).await, "shop");
    sandbox.set_weather(Weather { watch_cut: 1000, watch_gap: 300, ..Weather::default() });
    let writer = maps.clone();
    let writes = tokio::spawn(async move {
        for n in 0..60 {
            writer
                .patch(
                    "count",
                    &PatchParams::apply("test"),
                    &Patch::Apply(json!({
                        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "count"}, "data": {"n": n.to_string()},
                    })),
                )
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut seen = Box::pin(kube::runtime::WatchStreamExt::applied_objects(kube::runtime::WatchStreamExt::default_backoff(
        kube::runtime::watcher(maps, kube::runtime::watcher::Config::default()),
    )));
    let found = tokio::time::timeout(Duration::from_secs(300), async {
        while let Some(map) = seen.next().await {
            if map.is_ok_and(|map| map.data.is_some_and(|data| data["n"] == "59")) {
                return true;
            }
        }
        false
    });
    assert!(found.await.unwrap());
    writes.await.unwrap();
    let watches = sandbox.audit().iter().filter(|entry| entry.verb == "watch").count();
    assert!(watches > 3, "watches were cut and opened again, {watches} in all");
}

#[tokio::test(start_paused = true)]
async fn deletions_wait_for_finalizers_and_owners() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
    let mut held = deployment("web");
    held.metadata.finalizers = Some(vec!["firedrill.dev/test".to_owned()]);
    deployments.create(&PostParams::default(), &held).await.unwrap();
    let marked = deployments.delete("web", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let none = merge(json!({"metadata": {"finalizers": null}}));
    let added = merge(json!({"metadata": {"finalizers": ["firedrill.dev/test", "firedrill.dev/more"]}}));
    assert_eq!(refused(deployments.patch("web", &PatchParams::default(), &added).await).0, 422);
    deployments.patch("web", &PatchParams::default(), &none).await.unwrap();
    assert_eq!(refused(deployments.get("web").await).0, 404);

    deployments.create(&PostParams::default(), &deployment("front")).await.unwrap();
    let foreground = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    let waiting = deployments.delete("front", &foreground).await.unwrap().left().unwrap();
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"]);

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ending = namespaces.delete("shop", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(ending.status.unwrap().phase.as_deref(), Some("Terminating"));
    let (code, reason, message) = refused(Api::<Pod>::namespaced(client, "shop").create(&PostParams::default(), &pod("late")).await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(message, "pods \"late\" is forbidden: unable to create new content in namespace shop because it is being terminated");
}

#[tokio::test(start_paused = true)]
async fn subresources_change_only_their_part() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
    deployments.create(&PostParams::default(), &deployment("web")).await.unwrap();
    let both = merge(json!({"spec": {"replicas": 9}, "status": {"readyReplicas": 1}}));
    let status = deployments.patch_status("web", &PatchParams::default(), &both).await.unwrap();
    assert_eq!((status.spec.unwrap().replicas, status.status.unwrap().ready_replicas), (Some(1), Some(1)));
    let spec = deployments.patch("web", &PatchParams::default(), &merge(json!({"spec": {"paused": true}, "status": null}))).await.unwrap();
    assert_eq!((spec.spec.unwrap().paused, spec.status.unwrap().ready_replicas), (Some(true), Some(1)));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &merge(json!({"spec": {"replicas": 4}}))).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(4));
    assert_eq!(deployments.get_scale("web").await.unwrap().status.unwrap().selector.as_deref(), Some("app=web"));
    assert_eq!(refused(deployments.patch_scale("web", &PatchParams::default(), &merge(json!({"spec": {"replicas": -4}}))).await).0, 422);

    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    pods.create(&PostParams::default(), &pod("web-0")).await.unwrap();
    let helper = json!({"spec": {"ephemeralContainers": [{"name": "helper", "image": "helper:1", "targetContainerName": "web"}]}});
    let helped = pods.patch_ephemeral_containers("web-0", &PatchParams::default(), &Patch::Strategic(helper)).await.unwrap();
    assert_eq!(helped.spec.unwrap().ephemeral_containers.unwrap()[0].name, "helper");
    let gone = merge(json!({"spec": {"ephemeralContainers": null}}));
    let (code, _, message) = refused(pods.patch_ephemeral_containers("web-0", &PatchParams::default(), &gone).await);
    assert_eq!(code, 422);
    assert!(message.contains("existing ephemeral containers \"helper\" may not be removed"), "{message}");
    let image = merge(json!({"spec": {"containers": [{"name": "web", "image": "web:2"}], "hostname": "x"}}));
    let (code, _, message) = refused(pods.patch("web-0", &PatchParams::default(), &image).await);
    assert!(code == 422 && message.contains("pod updates may not change fields other than `spec.containers[*].image`"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn evictions_ask_the_budget() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> = Api::namespaced(client, "shop");
    for name in ["web-0", "web-1"] {
        let mut pod = pod(name);
        pod.spec.as_mut().unwrap().node_name = Some("node1".to_owned());
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    }
    let budget = from(json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}));
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    // No controller has looked at it yet.
    let (code, _, message) = refused(pods.evict("web-0", &EvictParams::default()).await);
    assert_eq!((code, message.as_str()), (429, "Cannot evict pod as it would violate the pod's disruption budget."));
    let counted = merge(json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    }}));
    budgets.patch_status("web", &PatchParams::default(), &counted).await.unwrap();
    pods.evict("web-0", &EvictParams::default()).await.unwrap();
    assert!(pods.get("web-0").await.unwrap().metadata.deletion_timestamp.is_some());
    let refusal = pods.evict("web-1", &EvictParams::default()).await;
    let Err(kube::Error::Api(status)) = refusal else { panic!("{refusal:?}") };
    assert_eq!(status.code, 429);
    let cause = &status.details.as_ref().unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str()),
        ("DisruptionBudget", "The disruption budget web needs 1 healthy pods and has 2 currently")
    );
    assert!(pods.get("web-1").await.unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test(start_paused = true)]
async fn users_may_do_what_roles_say() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let bob = sandbox.client("bob");
    let (his, pods): (Api<Pod>, Api<Pod>) = (Api::namespaced(bob.clone(), "shop"), Api::namespaced(client.clone(), "shop"));
    pods.create(&PostParams::default(), &pod("web-0")).await.unwrap();
    let (code, reason, message) = refused(his.get("web-0").await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "pods \"web-0\" is forbidden: User \"bob\" cannot get resource \"pods\" in API group \"\" in the namespace \"shop\""
    );
    let (_, _, message) = refused(Api::<Node>::all(bob.clone()).list(&ListParams::default()).await);
    assert_eq!(message, "nodes is forbidden: User \"bob\" cannot list resource \"nodes\" in API group \"\" at the cluster scope");

    let roles: Api<k8s_openapi::api::rbac::v1::Role> = Api::namespaced(client.clone(), "shop");
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> = Api::namespaced(client.clone(), "shop");
    let role = from(json!({"metadata": {"name": "reader"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["web-0"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]},
    ]}));
    roles.create(&PostParams::default(), &role).await.unwrap();
    let binding = from(json!({
        "metadata": {"name": "bob"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}],
    }));
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    assert_eq!(his.get("web-0").await.unwrap().name_any(), "web-0");
    assert_eq!(refused(his.get("web-1").await).0, 403);
    assert_eq!(refused(his.list(&ListParams::default()).await).0, 403);
    let (_, _, message) = refused(his.evict("web-0", &EvictParams::default()).await);
    assert_eq!(
        message,
        "pods \"web-0\" is forbidden: User \"bob\" cannot create resource \"pods/eviction\" in API group \"\" in the namespace \"shop\""
    );
    // What he does not have he cannot give.
    let more = from(json!({"metadata": {"name": "more"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}));
    let (code, _, message) =
        refused(Api::namespaced(bob.clone(), "shop").create(&PostParams::default(), &more as &k8s_openapi::api::rbac::v1::Role).await);
    assert_eq!(code, 403);
    assert!(
        message.ends_with(
            "user \"bob\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
        ),
        "{message}"
    );

    let reviews: Api<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview> = Api::all(bob);
    for (verb, name, allowed) in [("get", "web-0", true), ("get", "web-1", false), ("delete", "web-0", false)] {
        let review = from(json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "shop", "name": name}}}));
        let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        assert_eq!(status.allowed, allowed, "{verb} {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_come_with_their_definition() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let definitions: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition")),
    );
    let gvk = GroupVersionKind::gvk("firedrill.dev", "v1alpha1", "Drill");
    assert!(kube::discovery::pinned_kind(&client, &gvk).await.is_err());
    let definition = from(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "drills.firedrill.dev"},
        "spec": {
            "group": "firedrill.dev", "scope": "Namespaced", "names": {"plural": "drills", "kind": "Drill"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["seed"], "properties": {
                        "seed": {"type": "integer", "minimum": 0}, "pace": {"type": "string", "default": "max"},
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    }));
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let (resource, capabilities) = kube::discovery::pinned_kind(&client, &gvk).await.unwrap();
    assert_eq!((resource.plural.as_str(), capabilities.scope == kube::discovery::Scope::Namespaced), ("drills", true));
    let drills: Api<DynamicObject> = Api::namespaced_with(client.clone(), "shop", &resource);
    let drill =
        |spec: Value| from(json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Drill", "metadata": {"name": "a"}, "spec": spec}));
    let (code, _, message) = refused(drills.create(&PostParams::default(), &drill(json!({"pace": "slow"}))).await);
    assert_eq!((code, message.as_str()), (422, "Drill.firedrill.dev \"a\" is invalid: spec.seed: Required value"));
    let made = drills.create(&PostParams::default(), &drill(json!({"seed": 1, "unknown": true}))).await.unwrap();
    assert_eq!(made.data["spec"], json!({"seed": 1, "pace": "max"}));
    let status = drills.patch_status("a", &PatchParams::default(), &merge(json!({"status": {"phase": "Running"}}))).await.unwrap();
    assert_eq!((status.metadata.generation, &status.data["status"]["phase"]), (Some(1), &json!("Running")));
    let listed = drills.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].types.as_ref().unwrap().kind, "Drill");
    let groups = kube::Discovery::new(client.clone()).run_aggregated().await.unwrap();
    assert!(groups.has_group("firedrill.dev") && groups.has_group("apps"));
    assert_eq!(client.apiserver_version().await.unwrap().minor, "34");
    definitions.delete("drills.firedrill.dev", &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(drills.list(&ListParams::default()).await).0, 404);
}

/// Runs `cat`, `fail` and `hang`.
struct Shell;

impl Kubelets for Shell {
    fn reachable(&self, node: &str) -> bool {
        node == "node1"
    }

    fn exec(&self, mut ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        async move {
            match ask.command[0].as_str() {
                "cat" => {
                    let mut text = Vec::new();
                    ask.stdin.read_to_end(&mut text).await.unwrap();
                    ask.stdout.write_all(&text).await.unwrap();
                    ask.stderr.write_all(b"done").await.unwrap();
                    ExecEnd::Exit(0)
                }
                "hang" => std::future::pending().await,
                "fail" => ExecEnd::Exit(3),
                other => ExecEnd::Failed(format!("exec: \"{other}\": executable file not found in $PATH")),
            }
        }
        .boxed()
    }

    fn log(&self, pod: &Value, ask: &LogAsk) -> Result<String, String> {
        Ok(format!("{} {} {:?}\n", pod["metadata"]["name"], ask.container, ask.tail_lines))
    }
}

#[tokio::test(start_paused = true)]
async fn commands_and_logs_go_to_the_kubelet() {
    let sandbox = sandbox();
    let client = shop(&sandbox).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    pods.create(&PostParams::default(), &pod("web-0")).await.unwrap();
    let params = || AttachParams::default().stdin(true).stderr(true);
    let unplaced = pods.exec("web-0", ["cat"], &params()).await.map(drop);
    assert_eq!(refused(unplaced).2, "pod web-0 does not have a host assigned");
    Api::all(client).create(&PostParams::default(), &from::<Node>(json!({"metadata": {"name": "node1"}}))).await.unwrap();
    let binding =
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web-0"}, "target": {"kind": "Node", "name": "node1"}});
    let _: Value = pods.create_subresource("binding", "web-0", &PostParams::default(), &binding).await.unwrap();
    let unreachable = pods.exec("web-0", ["cat"], &params()).await.map(drop);
    assert_eq!(refused(unreachable).2, "no preferred addresses found; known addresses: []");
    sandbox.set_kubelets(Some(Arc::new(Shell)));

    let mut cat = pods.exec("web-0", ["cat"], &params()).await.unwrap();
    // More than all the pipes on the way hold.
    let text = vec![b'x'; 3_000_000];
    let (mut stdin, mut stdout, mut stderr) = (cat.stdin().unwrap(), cat.stdout().unwrap(), cat.stderr().unwrap());
    let status = cat.take_status().unwrap();
    let write = async {
        stdin.write_all(&text).await.unwrap();
        stdin.shutdown().await.unwrap();
        drop(stdin);
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (_, read, said) = tokio::join!(write, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    read.unwrap();
    said.unwrap();
    assert_eq!((out.len(), err.as_slice()), (text.len(), b"done".as_slice()));
    assert_eq!(status.await.unwrap().status.as_deref(), Some("Success"));
    cat.join().await.unwrap();

    let mut fail = pods.exec("web-0", ["fail"], &params()).await.unwrap();
    let status = fail.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    assert_eq!(status.details.unwrap().causes.unwrap()[0].message.as_deref(), Some("3"));
    // A client that goes away takes its command with it, and the sandbox ends all the same.
    let hang = pods.exec("web-0", ["hang"], &params()).await.unwrap();
    drop(hang);
    let hang = pods.exec("web-0", ["hang"], &params()).await.unwrap();
    let log = pods.logs("web-0", &LogParams { tail_lines: Some(5), ..LogParams::default() }).await.unwrap();
    assert_eq!(log, "\"web-0\" web Some(5)\n");
    sandbox.stop().await;
    drop(hang);
    assert!(pods.get("web-0").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn bad_weather_comes_from_the_seed() {
    async fn run(seed: u64) -> Vec<(u16, &'static str, i64)> {
        let sandbox = Sandbox::new(SandboxOptions { seed, wall_us: WALL_US });
        let maps: Api<ConfigMap> = Api::namespaced(shop(&sandbox).await, "shop");
        sandbox.set_weather(Weather { refused: 100, lost: 100, slow: 200, slowest: Duration::from_secs(2), ..Weather::default() });
        for n in 0..100 {
            let answer = maps.create(&PostParams::default(), &config(&format!("c{n}"), "1")).await;
            let entry = sandbox.audit().pop().unwrap();
            match entry.trouble {
                "lost" => assert!(matches!(answer, Err(kube::Error::HyperError(_) | kube::Error::Service(_))), "{answer:?}"),
                "error" => assert_eq!(refused(answer).0, entry.code),
                _ => drop(answer.unwrap()),
            }
        }
        sandbox.set_weather(Weather::default());
        // What was lost was done, what was refused was not.
        let audit = sandbox.audit();
        let made = audit.iter().filter(|e| e.resource == "configmaps" && e.code == 201).count();
        assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), made);
        for trouble in ["lost", "error", "slow"] {
            assert!(audit.iter().any(|e| e.trouble == trouble), "no request was {trouble}");
        }
        audit.iter().map(|e| (e.code, e.trouble, e.at_us)).collect()
    }
    let first = run(3).await;
    assert_eq!(first, run(3).await);
    assert_ne!(first, run(4).await);
}

#[tokio::test(start_paused = true)]
async fn the_same_requests_get_the_same_answers() {
    async fn run() -> (Vec<String>, Vec<(String, String, u16)>) {
        let sandbox = sandbox();
        let client = shop(&sandbox).await;
        let pods: Api<Pod> = Api::namespaced(client, "shop");
        let said = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (pods, said) = (pods.clone(), Arc::clone(&said));
                tokio::spawn(async move {
                    let made = pods.create(&PostParams::default(), &pod(&format!("web-{n}"))).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(100 - n)).await;
                    pods.delete(&made.name_any(), &DeleteParams::default()).await.unwrap();
                    said.lock().unwrap().push(serde_json::to_string(&made).unwrap());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let said = said.lock().unwrap().clone();
        (said, sandbox.audit().into_iter().map(|e| (e.verb, e.uri, e.code)).collect())
    }
    assert_eq!(run().await, run().await);
}

#[tokio::test(start_paused = true)]
async fn trials_change_nothing_and_metadata_is_enough() {
    let sandbox = sandbox();
    let maps: Api<ConfigMap> = Api::namespaced(shop(&sandbox).await, "shop");
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    assert_eq!(maps.create(&trial, &config("a", "1")).await.unwrap().data.unwrap()["key"], "1");
    assert_eq!(refused(maps.get("a").await).0, 404);
    maps.create(&PostParams::default(), &config("a", "1")).await.unwrap();
    maps.patch("a", &PatchParams { dry_run: true, ..PatchParams::default() }, &merge(json!({"data": {"key": "2"}}))).await.unwrap();
    maps.delete("a", &DeleteParams { dry_run: true, ..DeleteParams::default() }).await.unwrap();
    assert_eq!(maps.get("a").await.unwrap().data.unwrap()["key"], "1");
    assert_eq!(maps.get_metadata("a").await.unwrap().types.unwrap().kind, "PartialObjectMetadata");
    assert_eq!(maps.list_metadata(&ListParams::default()).await.unwrap().items[0].name_any(), "a");
    let entries = sandbox.audit();
    let patch = entries.iter().find(|entry| entry.verb == "patch").unwrap();
    assert!(patch.dry_run && patch.is_write());
    assert_eq!((patch.patch_type.as_str(), patch.code, patch.user.as_str()), ("application/merge-patch+json", 200, "admin"));
    assert_eq!(patch.request_object().unwrap(), json!({"data": {"key": "2"}}));
    assert_eq!((patch.resource.as_str(), patch.namespace.as_str(), patch.name.as_str()), ("configmaps", "shop", "a"));
}
