//! Requests just as firedrill's own code makes them, by way of the same client library.

use std::time::Duration;

use futures::{TryStreamExt as _, pin_mut};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{
        ApiResource, AttachParams, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions,
        WatchEvent, WatchParams,
    },
    core::GroupVersionKind,
    discovery::{self, Scope},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use crate::{
    Case,
    answer::version,
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(drill_changes_a_field, "a fault's write: metadata alone comes back, uid and version go along"),
    case!(drill_change_is_refused, "a fault's write against an old version is a conflict, against another uid invalid"),
    case!(drill_record, "the record: made once, written by merge patches, read back, listed by label, deleted"),
    case!(drill_lease, "a Lease: taken once, renewed, lost to another, given back with its version"),
    case!(drill_stop, "the cluster-wide stop: a forced apply, lifted by a delete"),
    case!(drill_kills_a_pod, "pods are deleted by uid, with a grace, and not if another one has the name"),
    case!(drill_watches_pods, "a watch through the client library's watcher"),
    case!(
        drill_watches_one_object,
        "metadata of one object is watched without a version before: whatever becomes of it, and nothing of others"
    ),
    case!(drill_discovers_kinds, "kinds are found by discovery, and a missing one is not"),
    case!(drill_reads_any_kind, "objects of any kind, by group, version and kind"),
    case!(drill_lists_in_pages, "lists in pages through the client library"),
    case!(drill_errors, "errors as the client library tells them"),
    case!(drill_may_not_read, "a Secret that one may not read"),
    case!(drill_snapshot_kinds, "every kind of a plan's snapshot is listed, named or by label"),
    case!(drill_job_from_a_cron_job, "a Job made from a CronJob's template, and deleted with its pods"),
    case!(drill_exec_fails, "an exec in a pod without a node fails with the server's words"),
];

async fn drill_changes_a_field(b: &Bench) {
    for plural in ["deployments", "statefulsets"] {
        let made = b.make(plural, named(plural).object("web")).await;
        for _ in 0..8 {
            let now = b.get(&format!("{plural}/web")).await.is(200);
            let metadata =
                json!({"resourceVersion": version(&now), "uid": now["metadata"]["uid"], "labels": {"firedrill.dev/fault": "d1"}});
            let path = format!("{plural}/web?fieldManager=firedrill");
            let answer = b.patch_metadata(&path, MERGE, json!({"metadata": metadata, "spec": {"minReadySeconds": 3}})).await;
            if answer.code == 409 {
                continue;
            }
            let meta = answer.is(200);
            assert_eq!((&meta["kind"], meta.get("spec")), (&json!("PartialObjectMetadata"), None), "{meta}");
            assert_eq!((&meta["metadata"]["uid"], &meta["metadata"]["generation"]), (&made["metadata"]["uid"], &json!(2)), "{meta}");
            break;
        }
        let now = b.get(&format!("{plural}/web")).await.is(200);
        assert_eq!(
            (&now["spec"]["minReadySeconds"], &now["metadata"]["labels"]["firedrill.dev/fault"]),
            (&json!(3), &json!("d1")),
            "{now}"
        );
    }
    b.make("cronjobs", named("cronjobs").object("backup")).await;
    let patch = json!({"spec": {"suspend": true}, "metadata": {"labels": {"firedrill.dev/fault": null}}});
    b.patch_metadata("cronjobs/backup?fieldManager=firedrill", MERGE, patch).await.is(200);
}

async fn drill_change_is_refused(b: &Bench) {
    let made = b.make("cronjobs", named("cronjobs").object("backup")).await;
    b.patch("cronjobs/backup", MERGE, json!({"spec": {"suspend": false}})).await.is(200);
    let patch = json!({"metadata": {"resourceVersion": version(&made), "uid": made["metadata"]["uid"]}, "spec": {"suspend": true}});
    let answer = b.patch_metadata("cronjobs/backup?fieldManager=firedrill", MERGE, patch).await;
    let message = "Operation cannot be fulfilled on cronjobs.batch \"backup\": the object has been modified; please apply your changes to \
                   the latest version and try again";
    answer.refused(409, "Conflict", message);
    let patch = json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000001"}, "spec": {"suspend": true}});
    let body = b.patch_metadata("cronjobs/backup?fieldManager=firedrill", MERGE, patch).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "metadata.uid", "{body}");
    assert_eq!(b.get("cronjobs/backup").await.is(200)["spec"]["suspend"], false);
}

async fn drill_record(b: &Bench) {
    let api: Api<ConfigMap> = Api::namespaced(b.client(), b.namespace());
    let labels = json!({"app.kubernetes.io/managed-by": "firedrill", "firedrill.dev/drill": "d1"});
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "firedrill-d1", "labels": labels}, "data": {"plan": "{}"}})).unwrap();
    let params = PostParams { field_manager: Some("firedrill".to_owned()), ..PostParams::default() };
    assert!(api.get_opt("firedrill-d1").await.unwrap().is_none());
    let made = api.create(&params, &map).await.unwrap();
    assert!(
        matches!(api.create(&params, &map).await, Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists")
    );
    let patch = PatchParams { field_manager: Some("firedrill".to_owned()), ..PatchParams::default() };
    let first = json!({"metadata": {"resourceVersion": made.resource_version()}, "data": {"event-1": "a", "event-2": "b"}});
    let after = api.patch_metadata("firedrill-d1", &patch, &Patch::Merge(&first)).await.unwrap();
    assert_ne!(after.resource_version(), made.resource_version());
    let again = api.patch_metadata("firedrill-d1", &patch, &Patch::Merge(&first)).await;
    assert!(matches!(again, Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "Conflict"));
    api.patch_metadata("firedrill-d1", &patch, &Patch::Merge(json!({"data": {"event-1": null}}))).await.unwrap();
    let read = api.get("firedrill-d1").await.unwrap();
    assert_eq!(read.data.unwrap().into_keys().collect::<Vec<_>>(), ["event-2", "plan"]);
    let missing = api.patch("none", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "b"}}))).await;
    assert!(matches!(missing, Err(kube::Error::Api(status)) if status.code == 404));
    let list = api.list(&ListParams::default().labels("app.kubernetes.io/managed-by=firedrill,firedrill.dev/drill")).await.unwrap();
    assert_eq!(list.items.iter().map(|map| map.name_any()).collect::<Vec<_>>(), ["firedrill-d1"]);
    api.delete("firedrill-d1", &DeleteParams::default()).await.unwrap();
    assert!(matches!(api.delete("firedrill-d1", &DeleteParams::default()).await, Err(kube::Error::Api(status)) if status.code == 404));
}

async fn drill_lease(b: &Bench) {
    let api: Api<Lease> = Api::namespaced(b.client(), b.namespace());
    let spec = |holder: &str, at: &str| json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": at, "acquireTime": at, "leaseTransitions": 0});
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "scope"}, "spec": spec("one", "2026-01-01T00:00:00.000001Z")})).unwrap();
    assert!(matches!(api.get("scope").await, Err(kube::Error::Api(status)) if status.code == 404));
    let made = api.create(&PostParams::default(), &lease).await.unwrap();
    assert!(matches!(api.create(&PostParams::default(), &lease).await, Err(kube::Error::Api(status)) if status.code == 409));
    let mut renewed = made.clone();
    renewed.spec = serde_json::from_value(spec("one", "2026-01-01T00:00:05.5Z")).unwrap();
    let renewed = api.replace("scope", &PostParams::default(), &renewed).await.unwrap();
    // Whoever holds the older version has lost.
    let mut other = made.clone();
    other.spec = serde_json::from_value(spec("two", "2026-01-01T00:00:06Z")).unwrap();
    let lost = api.replace("scope", &PostParams::default(), &other).await;
    assert!(matches!(lost, Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "Conflict"));
    let with = |lease: &Lease| DeleteParams {
        preconditions: Some(Preconditions { uid: lease.uid(), resource_version: lease.resource_version() }),
        ..DeleteParams::default()
    };
    let refused = api.delete("scope", &with(&made)).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "Conflict"));
    api.delete("scope", &with(&renewed)).await.unwrap();
    let gone = api.replace("scope", &PostParams::default(), &renewed).await;
    assert!(matches!(&gone, Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409)), "{gone:?}");
    assert!(matches!(api.delete("scope", &DeleteParams::default()).await, Err(kube::Error::Api(status)) if status.code == 404));
}

async fn drill_stop(b: &Bench) {
    let api: Api<ConfigMap> = Api::namespaced(b.client(), b.namespace());
    let params = PatchParams::apply("firedrill").force();
    for by in ["ann", "bob"] {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stop", "labels": {"x": "stop"}}, "data": {"by": by}});
        let map: ConfigMap = serde_json::from_value(map).unwrap();
        let now = api.patch("stop", &params, &Patch::Apply(&map)).await.unwrap();
        assert_eq!(now.data.unwrap()["by"], by);
    }
    api.delete("stop", &DeleteParams::default()).await.unwrap();
    assert!(matches!(api.delete("stop", &DeleteParams::default()).await, Err(kube::Error::Api(status)) if status.code == 404));
}

async fn drill_kills_a_pod(b: &Bench) {
    let made = b.bound_pod("a").await;
    let api: Api<Pod> = Api::namespaced(b.client(), b.namespace());
    let with = |uid: &str, grace: u32| DeleteParams {
        grace_period_seconds: Some(grace),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    let other = api.delete("a", &with("00000000-0000-0000-0000-000000000001", 5)).await;
    assert!(matches!(other, Err(kube::Error::Api(status)) if status.code == 409));
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let marked = api.delete("a", &with(uid, 5)).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(5));
    api.delete("a", &with(uid, 0)).await.unwrap();
    let gone = api.delete("a", &with(uid, 0)).await;
    assert!(matches!(gone, Err(kube::Error::Api(status)) if status.code == 404));
}

async fn drill_watches_pods(b: &Bench) {
    b.pod("a").await;
    let api: Api<Pod> = Api::namespaced(b.client(), b.namespace());
    let events = watcher(api, watcher::Config::default().labels("app=a").timeout(25)).default_backoff();
    pin_mut!(events);
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("deleted") {
        let event = tokio::time::timeout(Duration::from_secs(20), events.try_next()).await.expect("an event").unwrap().unwrap();
        seen.push(match event {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitApply(pod) => format!("there {}", pod.name_any()),
            watcher::Event::InitDone => {
                b.patch("pods/a/status", MERGE, json!({"status": {"phase": "Running"}})).await.is(200);
                "done".to_owned()
            }
            watcher::Event::Apply(pod) => {
                // It may be marked before it goes.
                if pod.metadata.deletion_timestamp.is_none() {
                    b.delete("pods/a", json!({"gracePeriodSeconds": 0})).await.is(200);
                }
                pod.status.and_then(|status| status.phase).unwrap_or_default()
            }
            watcher::Event::Delete(_) => "deleted".to_owned(),
        });
    }
    seen.dedup();
    assert_eq!(seen, ["init", "there a", "done", "Running", "deleted"]);
}

async fn drill_watches_one_object(b: &Bench) {
    for plural in ["services", "secrets", "deployments", "statefulsets", "cronjobs"] {
        let kind = named(plural);
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(kind.group(), "v1", kind.kind));
        let api: Api<DynamicObject> = Api::namespaced_with(b.client(), b.namespace(), &resource);
        let params = WatchParams::default().fields("metadata.name=web").timeout(25);
        let events = api.watch_metadata(&params, "0").await.unwrap();
        pin_mut!(events);
        b.make(plural, kind.object("other")).await;
        b.make(plural, kind.object("web")).await;
        b.patch(&format!("{plural}/web"), MERGE, json!({"metadata": {"labels": {"firedrill.dev/fault": "d1"}}})).await.is(200);
        b.delete(&format!("{plural}/web"), json!({"propagationPolicy": "Background"})).await.is(200);
        let mut seen = Vec::new();
        while seen.last() != Some(&"deleted") {
            let event = tokio::time::timeout(Duration::from_secs(20), events.try_next()).await.expect("an event").unwrap().unwrap();
            let (what, object) = match event {
                WatchEvent::Added(object) => ("added", object),
                WatchEvent::Modified(object) => ("modified", object),
                WatchEvent::Deleted(object) => ("deleted", object),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(error) => panic!("{plural}: {error:?}"),
            };
            assert_eq!(object.name_any(), "web", "{plural}");
            seen.push(what);
        }
        seen.dedup();
        assert_eq!(seen, ["added", "modified", "deleted"], "{plural}");
    }
}

async fn drill_discovers_kinds(b: &Bench) {
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, capabilities) = discovery::pinned_kind(&b.client(), &kind).await.unwrap();
    assert_eq!((resource.plural.as_str(), capabilities.scope), ("deployments", Scope::Namespaced));
    assert!(capabilities.operations.iter().any(|verb| verb == "patch"));
    let (resource, capabilities) = discovery::pinned_kind(&b.client(), &GroupVersionKind::gvk("", "v1", "Node")).await.unwrap();
    assert_eq!((resource.plural.as_str(), capabilities.scope), ("nodes", Scope::Cluster));
    assert!(discovery::pinned_kind(&b.client(), &GroupVersionKind::gvk("apps", "v1", "Boat")).await.is_err());
    assert!(discovery::pinned_kind(&b.client(), &GroupVersionKind::gvk("none.test", "v1", "Boat")).await.is_err());
    let version = b.client().apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with('v'), "{version:?}");
}

async fn drill_reads_any_kind(b: &Bench) {
    b.config_map("a").await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
    let api: Api<DynamicObject> = Api::namespaced_with(b.client(), b.namespace(), &resource);
    assert_eq!(api.get_opt("a").await.unwrap().unwrap().data["data"]["key"], "value");
    assert!(api.get_opt("none").await.unwrap().is_none());
    assert_eq!(api.get_metadata("a").await.unwrap().name_any(), "a");
    let list = api.list(&ListParams::default().labels("app=a")).await.unwrap();
    assert_eq!((list.items.len(), list.items[0].data["data"]["key"].as_str()), (1, Some("value")));
}

async fn drill_lists_in_pages(b: &Bench) {
    for number in 0..5 {
        b.pod(&format!("p{number}")).await;
    }
    let api: Api<Pod> = Api::namespaced(b.client(), b.namespace());
    let (mut found, mut params, mut left) = (Vec::new(), ListParams::default().limit(2), Vec::new());
    loop {
        let page = api.list(&params).await.unwrap();
        found.extend(page.items.iter().map(|pod| pod.name_any()));
        left.push(page.metadata.remaining_item_count);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    assert_eq!((found, left), (["p0", "p1", "p2", "p3", "p4"].map(str::to_owned).to_vec(), vec![Some(3), Some(1), None]));
}

async fn drill_errors(b: &Bench) {
    let api: Api<Deployment> = Api::namespaced(b.client(), b.namespace());
    let error = api.get("none").await.unwrap_err();
    let kube::Error::Api(status) = &error else { panic!("{error:?}") };
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (404, "NotFound", "deployments.apps \"none\" not found"));
    assert!(status.is_failure() && status.is_not_found());
    let user = b.user("@ns@-ann");
    let denied: Api<Namespace> = Api::all(user.client());
    let kube::Error::Api(status) = denied.get("kube-system").await.unwrap_err() else { panic!("no answer") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
}

async fn drill_may_not_read(b: &Bench) {
    b.make("secrets", named("secrets").object("a")).await;
    let message =
        "secrets \"a\" is forbidden: User \"@ns@-ann\" cannot get resource \"secrets\" in API group \"\" in the namespace \"@ns@\"";
    b.user("@ns@-ann").get("secrets/a").await.refused(403, "Forbidden", message);
    let api: Api<Secret> = Api::namespaced(b.client(), b.namespace());
    let secret = api.get("a").await.unwrap();
    assert_eq!(secret.data.unwrap()["key"].0, b"value");
}

async fn drill_snapshot_kinds(b: &Bench) {
    let kinds = [
        "pods",
        "services",
        "configmaps",
        "secrets",
        "persistentvolumeclaims",
        "endpointslices",
        "poddisruptionbudgets",
        "deployments",
        "replicasets",
        "statefulsets",
        "daemonsets",
        "cronjobs",
        "jobs",
        "nodes",
        "namespaces",
        "leases",
        "events",
    ];
    for plural in kinds {
        for query in ["limit=500", "limit=500&labelSelector=none%3Dsuch", "resourceVersion=0"] {
            let list = b.get(&format!("{plural}?{query}")).await.is(200);
            assert_eq!(list["kind"], format!("{}List", named(plural).kind), "{plural}?{query}");
        }
        b.get(&format!("{plural}/@ns@-none")).await.is(404);
    }
}

async fn drill_job_from_a_cron_job(b: &Bench) {
    let cron = b.make("cronjobs", named("cronjobs").object("backup")).await;
    let mut spec = cron["spec"]["jobTemplate"]["spec"].clone();
    spec["suspend"] = json!(true);
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "backup", "uid": cron["metadata"]["uid"]});
    let job = b.make("jobs", json!({"metadata": {"name": "run", "ownerReferences": [owner]}, "spec": spec})).await;
    assert_eq!(job["spec"]["template"]["spec"]["restartPolicy"], "Never");
    let answer = b.delete("jobs/run", json!({"propagationPolicy": "Background"})).await;
    assert_eq!(answer.warnings, [""; 0]);
    assert_eq!(answer.is(200)["status"], "Success");
    b.get("jobs/run").await.is(404);
    b.delete("jobs/run", json!({"propagationPolicy": "Background"})).await.is(404);
}

async fn drill_exec_fails(b: &Bench) {
    b.pod("a").await;
    let api: Api<Pod> = Api::namespaced(b.client(), b.namespace());
    let error = api.exec("a", ["true"], &AttachParams::default()).await.err().expect("no exec without a node");
    assert!(error.to_string().contains("400"), "{error}");
    let error = api.exec("none", ["true"], &AttachParams::default()).await.err().expect("no exec without a pod");
    assert!(error.to_string().contains("404"), "{error}");
    assert_eq!(api.logs("a", &LogParams::default()).await.unwrap(), "");
    let missing = api.logs("none", &LogParams::default()).await;
    assert!(matches!(missing, Err(kube::Error::Api(status)) if status.code == 404));
}
