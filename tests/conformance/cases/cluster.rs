//! What the server says of itself, and things without a namespace.

use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, JSON, MERGE},
    case,
};

pub(crate) const CASES: &[Case] = &[
    case!(version_of_the_server, "the version has its parts"),
    case!(healthz, "healthz, livez and readyz say ok"),
    case!(discovery_of_the_core, "discovery of the core: kinds, verbs, subresources, short names"),
    case!(discovery_of_groups, "discovery of groups and their preferred versions"),
    case!(discovery_of_apps, "discovery of apps/v1"),
    case!(kube_system_has_a_uid, "the namespaces that are always there"),
    case!(namespace_finalize, "a namespace's finalizers are its own subresource"),
    case!(node_is_cordoned, "a node is cordoned, labelled and tainted by patches"),
    case!(node_status, "a node's status is its own"),
    case!(events_are_kept, "an event is made by generateName and counted up by a patch"),
    case!(own_lease_of_kube_system, "objects of different namespaces do not meet"),
    case!(namespaces_are_listed, "namespaces are listed by label"),
];

async fn version_of_the_server(b: &Bench) {
    let version = b.get("/version").await.is(200);
    // The testbed's is compiled without its number.
    for key in ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"] {
        assert!(version[key].is_string(), "{key}: {version}");
    }
    assert!(version["gitVersion"].as_str().unwrap().starts_with('v'), "{version}");
}

async fn healthz(b: &Bench) {
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(b.get(path).await.is(200), json!("ok"), "{path}");
    }
}

/// A resource of a discovery document.
fn resource<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

async fn discovery_of_the_core(b: &Bench) {
    let versions = b.get("/api").await.is(200);
    assert_eq!((&versions["kind"], &versions["versions"]), (&json!("APIVersions"), &json!(["v1"])), "{versions}");
    let list = b.get("/api/v1").await.is(200);
    assert_eq!((&list["kind"], &list["groupVersion"]), (&json!("APIResourceList"), &json!("v1")), "{list}");
    let pods = resource(&list, "pods");
    assert_eq!((&pods["kind"], &pods["namespaced"], &pods["singularName"]), (&json!("Pod"), &json!(true), &json!("pod")), "{pods}");
    assert_eq!(pods["shortNames"], json!(["po"]), "{pods}");
    assert_eq!(pods["verbs"], json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]), "{pods}");
    let eviction = resource(&list, "pods/eviction");
    assert_eq!((&eviction["kind"], &eviction["group"], &eviction["version"]), (&json!("Eviction"), &json!("policy"), &json!("v1")));
    for name in
        ["pods/exec", "pods/log", "pods/status", "pods/binding", "pods/ephemeralcontainers", "pods/portforward", "namespaces/finalize"]
    {
        resource(&list, name);
    }
    assert_eq!(resource(&list, "nodes")["namespaced"], false);
}

async fn discovery_of_groups(b: &Bench) {
    let list = b.get("/apis").await.is(200);
    assert_eq!(list["kind"], "APIGroupList", "{list}");
    for (name, version) in [
        ("apps", "v1"),
        ("batch", "v1"),
        ("policy", "v1"),
        ("coordination.k8s.io", "v1"),
        ("rbac.authorization.k8s.io", "v1"),
        ("authorization.k8s.io", "v1"),
        ("discovery.k8s.io", "v1"),
        ("apiextensions.k8s.io", "v1"),
        ("networking.k8s.io", "v1"),
        ("storage.k8s.io", "v1"),
    ] {
        let group = list["groups"].as_array().unwrap().iter().find(|group| group["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        let preferred = json!({"groupVersion": format!("{name}/{version}"), "version": version});
        assert_eq!(group["preferredVersion"], preferred, "{group}");
        assert!(group["versions"].as_array().unwrap().contains(&preferred), "{group}");
        let one = b.get(&format!("/apis/{name}")).await.is(200);
        assert_eq!((&one["kind"], &one["preferredVersion"]), (&json!("APIGroup"), &preferred), "{one}");
    }
}

async fn discovery_of_apps(b: &Bench) {
    let list = b.get("/apis/apps/v1").await.is(200);
    assert_eq!(list["groupVersion"], "apps/v1", "{list}");
    for (name, kind) in
        [("deployments", "Deployment"), ("replicasets", "ReplicaSet"), ("statefulsets", "StatefulSet"), ("daemonsets", "DaemonSet")]
    {
        assert_eq!(resource(&list, name)["kind"], kind);
        resource(&list, &format!("{name}/status"));
    }
    let scale = resource(&list, "deployments/scale");
    assert_eq!(
        (&scale["kind"], &scale["group"], &scale["verbs"]),
        (&json!("Scale"), &json!("autoscaling"), &json!(["get", "patch", "update"])),
        "{scale}"
    );
}

async fn kube_system_has_a_uid(b: &Bench) {
    for name in ["kube-system", "default", "kube-public", "kube-node-lease"] {
        let space = b.get(&format!("namespaces/{name}")).await.is(200);
        assert_eq!((space["metadata"]["uid"].as_str().map(str::len), &space["status"]["phase"]), (Some(36), &json!("Active")), "{space}");
    }
    let message = "namespaces \"kube-system\" is forbidden: this namespace may not be deleted";
    b.delete("namespaces/kube-system", json!({"dryRun": ["All"]})).await.refused(403, "Forbidden", message);
}

async fn namespace_finalize(b: &Bench) {
    let mut space = b.get("namespaces/@ns@").await.is(200);
    space["spec"]["finalizers"] = json!(["kubernetes", "x.test/hold"]);
    let after = b.put("namespaces/@ns@/finalize", space).await.is(200);
    assert_eq!(after["spec"]["finalizers"], json!(["kubernetes", "x.test/hold"]), "{after}");
    let after = b.patch("namespaces/@ns@", MERGE, json!({"spec": {"finalizers": []}})).await.is(200);
    assert_eq!(after["spec"]["finalizers"], json!(["kubernetes", "x.test/hold"]), "{after}");
    let mut space = after;
    space["spec"]["finalizers"] = json!(["kubernetes"]);
    b.put("namespaces/@ns@/finalize", space).await.is(200);
}

async fn node_is_cordoned(b: &Bench) {
    b.node().await;
    let at = "nodes/@ns@-node";
    let after = b
        .patch(at, MERGE, json!({"spec": {"unschedulable": true}, "metadata": {"labels": {"firedrill.dev/drills": "allowed"}}}))
        .await
        .is(200);
    assert_eq!((&after["spec"]["unschedulable"], &after["metadata"]["labels"]["firedrill.dev/drills"]), (&json!(true), &json!("allowed")));
    let after = b.patch(at, MERGE, json!({"spec": {"unschedulable": null}})).await.is(200);
    assert_eq!(after["spec"].get("unschedulable"), None, "{after}");
    let taint = json!([{"op": "add", "path": "/spec/taints", "value": [{"key": "x", "effect": "NoSchedule"}]}]);
    let after = b.patch(at, JSON, taint).await.is(200);
    assert!(after["spec"]["taints"].as_array().unwrap().iter().any(|taint| taint["key"] == "x"), "{after}");
    let wrong = json!({"spec": {"taints": [{"key": "x", "effect": "Sometimes"}]}});
    b.patch(at, MERGE, wrong).await.is(422);
}

async fn node_status(b: &Bench) {
    b.node().await;
    let status = json!({"status": {"capacity": {"cpu": "2", "pods": "110"}, "addresses": [{"type": "InternalIP", "address": "10.1.2.3"}]}});
    let after = b.patch("nodes/@ns@-node/status", MERGE, status).await.is(200);
    assert_eq!(
        (&after["status"]["capacity"]["cpu"], &after["status"]["addresses"][0]["address"]),
        (&json!("2"), &json!("10.1.2.3")),
        "{after}"
    );
    let after = b.patch("nodes/@ns@-node", MERGE, json!({"status": {"capacity": {"cpu": "9"}}})).await.is(200);
    assert_eq!(after["status"]["capacity"]["cpu"], "2", "{after}");
}

async fn events_are_kept(b: &Bench) {
    let about = json!({"kind": "Pod", "namespace": "@ns@", "name": "a", "apiVersion": "v1"});
    let event = json!({
        "metadata": {"generateName": "a."}, "involvedObject": about, "reason": "Drilled", "message": "one", "type": "Warning", "count": 1,
        "source": {"component": "firedrill"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z"
    });
    let made = b.make("events", event).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    let after = b.patch(&format!("events/{name}"), MERGE, json!({"count": 2, "lastTimestamp": "2026-01-01T00:00:05Z"})).await.is(200);
    assert_eq!((&after["count"], &after["message"]), (&json!(2), &json!("one")));
    let other = json!({"metadata": {"name": "b"}, "involvedObject": {"kind": "Pod", "namespace": "other", "name": "a"}, "reason": "X"});
    let body = b.post("events", other).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "involvedObject.namespace", "{body}");
}

async fn own_lease_of_kube_system(b: &Bench) {
    b.make("leases", json!({"metadata": {"name": "same"}, "spec": {"holderIdentity": "here"}})).await;
    b.make("namespaces", json!({"metadata": {"name": "@ns@-two"}})).await;
    b.later("namespaces/@ns@-two");
    let other = "/apis/coordination.k8s.io/v1/namespaces/@ns@-two/leases";
    b.post(other, json!({"metadata": {"name": "same"}, "spec": {"holderIdentity": "there"}})).await.is(201);
    assert_eq!(b.get("leases/same").await.is(200)["spec"]["holderIdentity"], "here");
    b.delete("leases/same", json!({})).await.is(200);
    assert_eq!(b.get(&format!("{other}/same")).await.is(200)["spec"]["holderIdentity"], "there");
}

async fn namespaces_are_listed(b: &Bench) {
    b.patch("namespaces/@ns@", MERGE, json!({"metadata": {"labels": {"own": "@ns@"}}})).await.is(200);
    let list = b.get("namespaces?labelSelector=own%3D@ns@").await.is(200);
    assert_eq!((&list["kind"], crate::answer::names(&list)), (&json!("NamespaceList"), vec!["@ns@".to_owned()]));
    let list = b.get("namespaces?fieldSelector=status.phase%3DActive,metadata.name%3D@ns@").await.is(200);
    assert_eq!(crate::answer::names(&list), ["@ns@"]);
}
