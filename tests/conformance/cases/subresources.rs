//! Status, scale, eviction, and what subresources leave alone.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::version,
    bench::{Bench, JSON, MERGE, STRATEGIC},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(status_does_not_change_the_spec, "a write of the status leaves spec and labels alone"),
    case!(the_object_does_not_change_its_status, "a write of the object leaves the status alone"),
    case!(status_of_every_kind, "the kinds that have a status, and those that have none"),
    case!(status_with_an_old_version, "a status written against an old version is a conflict"),
    case!(scale_is_read, "the scale of workloads, with their selector"),
    case!(scale_is_written, "a scale that is put or patched changes the replicas, and the generation"),
    case!(scale_with_an_old_version, "a scale put with an old version is a conflict"),
    case!(scale_below_zero, "a negative scale is invalid"),
    case!(scale_of_what_has_none, "there is no scale of a DaemonSet"),
    case!(scale_dry_run, "a dry run of a scale writes nothing"),
    case!(eviction_without_a_budget, "an eviction without a budget is a delete with the pod's grace"),
    case!(eviction_refused_by_a_budget, "a budget that allows no disruption refuses an eviction"),
    case!(eviction_allowed_by_a_budget, "a budget that allows one is counted down"),
    case!(eviction_of_a_missing_pod, "an eviction of a pod that is not there"),
    case!(eviction_dry_run, "a dry run of an eviction takes nothing away"),
    case!(eviction_with_two_budgets, "two budgets over one pod are refused"),
    case!(eviction_under_another_name, "an eviction names the pod of the path"),
    case!(eviction_of_a_pending_pod, "a budget does not hold a pod that does not run"),
    case!(subresource_unknown, "a subresource that does not exist is not found"),
    case!(replica_set_status, "the status of a ReplicaSet is checked against itself"),
];

async fn status_does_not_change_the_spec(b: &Bench) {
    let made = b.pod("a").await;
    let mut changed = made.clone();
    changed["spec"]["activeDeadlineSeconds"] = json!(5);
    changed["metadata"]["labels"]["app"] = json!("other");
    changed["metadata"]["annotations"] = json!({"note.test/a": "b"});
    changed["status"]["phase"] = json!("Running");
    changed["status"]["message"] = json!("hello");
    let after = b.put("pods/a/status", changed).await.is(200);
    assert_eq!(after["spec"], made["spec"]);
    assert_eq!((&after["status"]["phase"], &after["status"]["message"]), (&json!("Running"), &json!("hello")));
    assert_eq!(b.get("pods/a/status").await.is(200), after);
    let mut patch = json!({"spec": {"replicas": 5}, "status": {"collisionCount": 2}});
    b.make("deployments", named("deployments").object("web")).await;
    let after = b.patch("deployments/web/status", MERGE, patch.take()).await.is(200);
    assert_eq!((&after["spec"]["replicas"], &after["status"]["collisionCount"]), (&json!(0), &json!(2)), "{after}");
}

async fn the_object_does_not_change_its_status(b: &Bench) {
    b.pod("a").await;
    let after = b.patch("pods/a", MERGE, json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Running"}})).await.is(200);
    assert_eq!((&after["status"]["phase"], &after["metadata"]["labels"]["x"]), (&json!("Pending"), &json!("y")));
    b.make("poddisruptionbudgets", named("poddisruptionbudgets").object("a")).await;
    let after = b.patch("poddisruptionbudgets/a", MERGE, json!({"status": {"disruptionsAllowed": 77}})).await.is(200);
    assert_ne!(after["status"]["disruptionsAllowed"], 77, "{after}");
}

async fn status_of_every_kind(b: &Bench) {
    b.account().await;
    for plural in ["deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs", "services", "poddisruptionbudgets"] {
        b.make(plural, named(plural).object("it")).await;
        assert_eq!(b.get(&format!("{plural}/it/status")).await.is(200)["metadata"]["name"], "it", "{plural}");
    }
    for plural in ["configmaps", "secrets", "leases", "roles", "endpointslices"] {
        b.make(plural, named(plural).object("it")).await;
        let message = "the server could not find the requested resource";
        b.get(&format!("{plural}/it/status")).await.refused(404, "NotFound", message);
    }
}

async fn status_with_an_old_version(b: &Bench) {
    let made = b.pod("a").await;
    b.patch("pods/a", MERGE, json!({"metadata": {"labels": {"x": "y"}}})).await.is(200);
    let message = "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest \
                   version and try again";
    b.put("pods/a/status", made).await.refused(409, "Conflict", message);
}

async fn scale_is_read(b: &Bench) {
    for plural in ["deployments", "replicasets", "statefulsets"] {
        let made = b.make(plural, named(plural).object("it")).await;
        let scale = b.get(&format!("{plural}/it/scale")).await.is(200);
        assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")), "{scale}");
        assert_eq!((&scale["metadata"]["name"], &scale["metadata"]["uid"]), (&json!("it"), &made["metadata"]["uid"]), "{scale}");
        assert_eq!(scale["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"], "{scale}");
        assert!(!version(&scale).is_empty());
        assert_eq!((&scale["spec"], &scale["status"]), (&json!({}), &json!({"replicas": 0, "selector": "app=it"})), "{plural}: {scale}");
    }
}

/// A Deployment whose Pods no controller makes, because it is paused before it has any.
async fn paused(b: &Bench) -> Value {
    let mut object = named("deployments").object("web");
    object["spec"]["paused"] = json!(true);
    b.make("deployments", object).await
}

async fn scale_is_written(b: &Bench) {
    paused(b).await;
    let mut scale = b.get("deployments/web/scale").await.is(200);
    scale["spec"]["replicas"] = json!(3);
    // The controller may have written a status in between.
    scale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let after = b.put("deployments/web/scale", scale).await.is(200);
    assert_eq!(after["spec"], json!({"replicas": 3}), "{after}");
    let now = b.get("deployments/web").await.is(200);
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(3), &json!(2)), "{now}");
    for (kind, patch) in [
        (MERGE, json!({"spec": {"replicas": 2}})),
        (STRATEGIC, json!({"spec": {"replicas": 1}})),
        (JSON, json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])),
    ] {
        let after = b.patch("deployments/web/scale", kind, patch.clone()).await.is(200);
        assert_eq!(after["kind"], "Scale");
        let now = b.get("deployments/web").await.is(200);
        assert_eq!(now["spec"]["replicas"], after["spec"]["replicas"], "{now}");
    }
    assert_eq!(b.get("deployments/web").await.is(200)["spec"]["replicas"], 4);
}

async fn scale_with_an_old_version(b: &Bench) {
    paused(b).await;
    let scale = b.get("deployments/web/scale").await.is(200);
    b.patch("deployments/web", MERGE, json!({"metadata": {"labels": {"x": "y"}}})).await.is(200);
    let message = "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to \
                   the latest version and try again";
    b.put("deployments/web/scale", scale).await.refused(409, "Conflict", message);
}

async fn scale_below_zero(b: &Bench) {
    paused(b).await;
    let cause = "FieldValueInvalid spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    let answer = b.patch("deployments/web/scale", MERGE, json!({"spec": {"replicas": -1}})).await;
    answer.invalid("Scale.autoscaling", "web", &[cause]);
}

async fn scale_of_what_has_none(b: &Bench) {
    b.make("daemonsets", named("daemonsets").object("it")).await;
    let message = "the server could not find the requested resource";
    b.get("daemonsets/it/scale").await.refused(404, "NotFound", message);
    b.get("deployments/none/scale").await.refused(404, "NotFound", "deployments.apps \"none\" not found");
}

async fn scale_dry_run(b: &Bench) {
    paused(b).await;
    let would = b.patch("deployments/web/scale?dryRun=All", MERGE, json!({"spec": {"replicas": 3}})).await.is(200);
    assert_eq!(would["spec"]["replicas"], 3);
    assert_eq!(b.get("deployments/web").await.is(200)["spec"]["replicas"], 0);
}

/// A pod that says that it runs and is ready.
async fn ready_pod(b: &Bench, name: &str) {
    b.bound_pod(name).await;
    let conditions = json!([{"type": "Ready", "status": "True"}]);
    b.patch(&format!("pods/{name}/status"), MERGE, json!({"status": {"phase": "Running", "conditions": conditions}})).await.is(200);
    b.patch(&format!("pods/{name}"), MERGE, json!({"metadata": {"labels": {"app": "it"}}})).await.is(200);
}

/// A budget over `app=it` as its controller sees it: this many pods must stay, and this many are there. It is said here as well,
/// because there may be no controller.
async fn budget(b: &Bench, name: &str, stay: i64, there: i64) {
    let mut object = named("poddisruptionbudgets").object(name);
    object["spec"]["minAvailable"] = json!(stay);
    b.make("poddisruptionbudgets", object).await;
    let allowed = (there - stay).max(0);
    let status = json!({"observedGeneration": 1, "currentHealthy": there, "desiredHealthy": stay, "expectedPods": there, "disruptionsAllowed": allowed});
    let at = format!("poddisruptionbudgets/{name}");
    b.patch(&format!("{at}/status"), MERGE, json!({"status": status})).await.is(200);
    let settled = |answer: &crate::answer::Answer| {
        let status = &answer.body["status"];
        (status["observedGeneration"].as_i64(), status["disruptionsAllowed"].as_i64(), status["currentHealthy"].as_i64())
            == (Some(1), Some(allowed), Some(there))
    };
    b.until(&at, settled).await;
}

fn eviction(name: &str) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "@ns@"}})
}

async fn eviction_without_a_budget(b: &Bench) {
    ready_pod(b, "a").await;
    let answer = b.post("pods/a/eviction", eviction("a")).await.is(201);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")), "{answer}");
    let marked = b.get("pods/a").await.is(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30, "{marked}");
    let conditions = marked["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap_or_else(|| panic!("{marked}"));
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")), "{target}");
    assert_eq!(target["message"], "Eviction API: evicting", "{target}");
    let mut now = eviction("a");
    now["deleteOptions"] = json!({"gracePeriodSeconds": 0});
    b.post("pods/a/eviction", now).await.is(201);
    assert_eq!(b.get("pods/a").await.code, 404);
}

async fn eviction_refused_by_a_budget(b: &Bench) {
    ready_pod(b, "a").await;
    budget(b, "it", 1, 1).await;
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let body = b.post("pods/a/eviction", eviction("a")).await.refused(429, "TooManyRequests", message);
    let cause = json!({"reason": "DisruptionBudget", "message": "The disruption budget it needs 1 healthy pods and has 1 currently"});
    assert_eq!(body["details"]["causes"], json!([cause]), "{body}");
    assert_eq!(b.get("pods/a").await.is(200)["metadata"].get("deletionTimestamp"), None);
}

async fn eviction_allowed_by_a_budget(b: &Bench) {
    ready_pod(b, "a").await;
    ready_pod(b, "b").await;
    budget(b, "it", 1, 2).await;
    b.post("pods/a/eviction", eviction("a")).await.is(201);
    assert!(b.get("pods/a").await.is(200)["metadata"]["deletionTimestamp"].is_string());
    b.post("pods/b/eviction", eviction("b")).await.is(429);
    let status = b.get("poddisruptionbudgets/it").await.is(200)["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0, "{status}");
}

async fn eviction_of_a_missing_pod(b: &Bench) {
    b.post("pods/none/eviction", eviction("none")).await.refused(404, "NotFound", "pods \"none\" not found");
}

async fn eviction_dry_run(b: &Bench) {
    ready_pod(b, "a").await;
    b.post("pods/a/eviction?dryRun=All", eviction("a")).await.is(201);
    assert_eq!(b.get("pods/a").await.is(200)["metadata"].get("deletionTimestamp"), None);
}

async fn eviction_with_two_budgets(b: &Bench) {
    ready_pod(b, "a").await;
    ready_pod(b, "b").await;
    for name in ["one", "two"] {
        b.make("poddisruptionbudgets", named("poddisruptionbudgets").object(name)).await;
    }
    let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let body = b.post("pods/a/eviction", eviction("a")).await.is(500);
    assert_eq!((&body["status"], body.get("reason"), &body["message"]), (&json!("Failure"), None, &json!(message)), "{body}");
    assert_eq!(b.get("pods/a").await.is(200)["metadata"].get("deletionTimestamp"), None);
}

async fn eviction_under_another_name(b: &Bench) {
    ready_pod(b, "a").await;
    let answer = b.post("pods/a/eviction", eviction("b")).await;
    answer.refused(400, "BadRequest", "name in URL does not match name in Eviction object");
}

async fn eviction_of_a_pending_pod(b: &Bench) {
    b.pod("it").await;
    budget(b, "it", 1, 0).await;
    b.post("pods/it/eviction", eviction("it")).await.is(201);
    assert_eq!(b.get("pods/it").await.code, 404);
}

async fn subresource_unknown(b: &Bench) {
    b.config_map("a").await;
    let message = "the server could not find the requested resource";
    b.get("configmaps/a/colour").await.refused(404, "NotFound", message);
    b.post("configmaps/a/eviction", eviction("a")).await.refused(404, "NotFound", message);
}

async fn replica_set_status(b: &Bench) {
    let mut object = named("replicasets").object("a");
    object["spec"]["selector"] = json!({"matchLabels": {"app": "nobody"}});
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "nobody"});
    b.make("replicasets", object).await;
    let body = b.patch("replicasets/a/status", MERGE, json!({"status": {"replicas": 1, "readyReplicas": 2}})).await.is(422);
    let cause = &body["details"]["causes"][0];
    assert_eq!(cause["message"], "Invalid value: 2: cannot be greater than status.replicas", "{body}");
    assert_eq!(cause["field"], "status.readyReplicas", "{body}");
}
