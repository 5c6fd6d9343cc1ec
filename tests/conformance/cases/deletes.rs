//! Deletes: preconditions, grace, finalizers, propagation.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{names, version},
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(delete_with_the_wrong_uid, "a delete of another uid is a conflict that names both"),
    case!(delete_with_the_wrong_version, "a delete of an old version is a conflict that names both"),
    case!(delete_with_the_right_preconditions, "a delete with the uid and version that are there"),
    case!(delete_with_finalizers, "an object with finalizers stays, marked, until they are gone"),
    case!(finalizers_cannot_be_added_later, "no finalizer is added to what is being deleted"),
    case!(deleted_object_can_be_updated, "what is being deleted can be changed, and not be brought back"),
    case!(delete_twice, "a second delete of what waits for finalizers changes nothing"),
    case!(delete_foreground, "foreground: a finalizer of the collector's, and the object stays for now"),
    case!(delete_orphan, "orphan: a finalizer of the collector's"),
    case!(delete_background, "background: gone at once"),
    case!(delete_propagation_unknown, "an unknown propagationPolicy is refused"),
    case!(delete_job_orphans, "a Job deleted without a policy leaves its pods behind, and a warning says so"),
    case!(delete_options_in_the_query, "options of a delete as parameters of the query"),
    case!(delete_options_not_readable, "options that cannot be read are refused"),
    case!(delete_pod_with_grace, "a pod on a node is marked with its grace and stays"),
    case!(delete_pod_grace_shortens, "a second delete can shorten the grace, and not lengthen it"),
    case!(delete_pod_by_force, "grace 0 takes a pod away at once"),
    case!(delete_pod_without_a_node, "a pod without a node goes at once"),
    case!(delete_pod_that_is_over, "a pod that has ended goes at once"),
    case!(delete_pod_negative_grace, "a negative grace is one second"),
    case!(deletecollection_with_selectors, "deletecollection takes what the selectors choose"),
    case!(deletecollection_with_preconditions, "deletecollection of what has finalizers marks it"),
    case!(delete_what_is_owned, "an owned object can be deleted apart from its owner"),
];

async fn delete_with_the_wrong_uid(b: &Bench) {
    let made = b.config_map("a").await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let wrong = "00000000-0000-0000-0000-000000000001";
    let message = format!(
        "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition ({wrong}) does not match the UID in record ({uid}). The \
         object might have been deleted and then recreated"
    );
    let body = b.delete("configmaps/a", json!({"preconditions": {"uid": wrong}})).await.refused(409, "Conflict", &message);
    assert_eq!(body["details"], json!({"name": "a", "kind": "ConfigMap"}), "{body}");
    b.get("configmaps/a").await.is(200);
}

async fn delete_with_the_wrong_version(b: &Bench) {
    let made = b.config_map("a").await;
    let second = b.patch("configmaps/a", MERGE, json!({"data": {"a": "b"}})).await.is(200);
    let message = format!(
        "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition ({}) does not match the ResourceVersion in \
         record ({}). The object might have been modified",
        version(&made),
        version(&second)
    );
    let answer = b.delete("configmaps/a", json!({"preconditions": {"resourceVersion": version(&made)}})).await;
    answer.refused(409, "Conflict", &message);
    b.get("configmaps/a").await.is(200);
}

async fn delete_with_the_right_preconditions(b: &Bench) {
    for resource in ["configmaps", "leases", "secrets"] {
        let made = b.make(resource, named(resource).object("a")).await;
        let metadata = &made["metadata"];
        let preconditions = json!({"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]});
        b.delete(&format!("{resource}/a"), json!({"preconditions": preconditions})).await.is(200);
        assert_eq!(b.get(&format!("{resource}/a")).await.code, 404);
    }
}

/// A ConfigMap that somebody holds.
async fn held(b: &Bench) -> Value {
    b.make("configmaps", json!({"metadata": {"name": "a", "finalizers": ["x.test/hold"]}, "data": {"key": "value"}})).await
}

async fn release(b: &Bench, path: &str) {
    b.patch(path, MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
}

async fn delete_with_finalizers(b: &Bench) {
    let made = held(b).await;
    let marked = b.delete("configmaps/a", json!({})).await.is(200);
    assert_eq!((&marked["kind"], &marked["metadata"]["uid"]), (&json!("ConfigMap"), &made["metadata"]["uid"]), "{marked}");
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0, "{marked}");
    assert_ne!(version(&marked), version(&made));
    let there = b.get("configmaps/a").await.is(200);
    assert_eq!(there["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    b.post("configmaps", json!({"metadata": {"name": "a"}})).await.refused(
        409,
        "AlreadyExists",
        "object is being deleted: configmaps \"a\" already exists",
    );
    let last = b.patch("configmaps/a", MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
    assert_eq!(last["metadata"].get("finalizers"), None, "{last}");
    assert_eq!(b.get("configmaps/a").await.code, 404);
}

async fn finalizers_cannot_be_added_later(b: &Bench) {
    held(b).await;
    b.delete("configmaps/a", json!({})).await.is(200);
    let patch = json!({"metadata": {"finalizers": ["x.test/hold", "x.test/more"]}});
    let cause = "FieldValueForbidden metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                 found new finalizers []string{\"x.test/more\"}";
    b.patch("configmaps/a", MERGE, patch).await.invalid("ConfigMap", "a", &[cause]);
    release(b, "configmaps/a").await;
}

async fn deleted_object_can_be_updated(b: &Bench) {
    held(b).await;
    let marked = b.delete("configmaps/a", json!({})).await.is(200);
    let after = b.patch("configmaps/a", MERGE, json!({"metadata": {"deletionTimestamp": null}, "data": {"key": "other"}})).await.is(200);
    assert_eq!(after["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"], "{after}");
    assert_eq!(after["data"]["key"], "other");
    release(b, "configmaps/a").await;
}

async fn delete_twice(b: &Bench) {
    held(b).await;
    let first = b.delete("configmaps/a", json!({})).await.is(200);
    let second = b.delete("configmaps/a", json!({})).await.is(200);
    assert_eq!(version(&first), version(&second));
    release(b, "configmaps/a").await;
}

async fn delete_foreground(b: &Bench) {
    b.config_map("a").await;
    let marked = b.delete("configmaps/a", json!({"propagationPolicy": "Foreground"})).await.is(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{marked}");
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    b.patch("configmaps/a", MERGE, json!({"metadata": {"finalizers": null}})).await;
    b.until("configmaps/a", |answer| answer.code == 404).await;
}

async fn delete_orphan(b: &Bench) {
    b.config_map("a").await;
    let marked = b.delete("configmaps/a", json!({"propagationPolicy": "Orphan"})).await.is(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]), "{marked}");
    b.patch("configmaps/a", MERGE, json!({"metadata": {"finalizers": null}})).await;
    b.until("configmaps/a", |answer| answer.code == 404).await;
}

async fn delete_background(b: &Bench) {
    b.config_map("a").await;
    let answer = b.delete("configmaps/a", json!({"propagationPolicy": "Background"})).await.is(200);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(b.get("configmaps/a").await.code, 404);
}

async fn delete_propagation_unknown(b: &Bench) {
    b.config_map("a").await;
    let body = b.delete("configmaps/a", json!({"propagationPolicy": "Sideways"})).await.is(422);
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\""), "{body}");
    b.get("configmaps/a").await.is(200);
}

async fn delete_job_orphans(b: &Bench) {
    b.make("jobs", named("jobs").object("a")).await;
    let answer = b.delete("jobs/a", json!({})).await;
    let warning = "299 - \"child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
                   set propagationPolicy=Orphan to suppress this warning\"";
    assert_eq!(answer.warnings, [warning]);
    let marked = answer.is(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]), "{marked}");
    b.patch("jobs/a", MERGE, json!({"metadata": {"finalizers": null}})).await;
    b.until("jobs/a", |answer| answer.code == 404).await;
}

async fn delete_options_in_the_query(b: &Bench) {
    b.bound_pod("a").await;
    b.config_map("a").await;
    b.delete("configmaps/a?dryRun=All", Value::Null).await.is(200);
    b.get("configmaps/a").await.is(200);
    let marked = b.delete("pods/a?gracePeriodSeconds=7", Value::Null).await.is(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7, "{marked}");
    b.delete("pods/a?gracePeriodSeconds=0", Value::Null).await.is(200);
    assert_eq!(b.get("pods/a").await.code, 404);
}

async fn delete_options_not_readable(b: &Bench) {
    b.config_map("a").await;
    // The server takes it for a fault of its own.
    let body = b.delete("configmaps/a", json!({"gracePeriodSeconds": "soon"})).await.is(500);
    assert_eq!(body.get("reason"), None, "{body}");
    b.get("configmaps/a").await.is(200);
}

async fn delete_pod_with_grace(b: &Bench) {
    let made = b.bound_pod("a").await;
    let marked = b.delete("pods/a", json!({})).await.is(200);
    assert_eq!((&marked["kind"], &marked["metadata"]["uid"]), (&json!("Pod"), &made["metadata"]["uid"]));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30, "{marked}");
    assert!(marked["metadata"]["deletionTimestamp"].as_str() > made["metadata"]["creationTimestamp"].as_str(), "{marked}");
    // Nobody looks after that node, so nobody takes the pod away.
    let there = b.get("pods/a").await.is(200);
    assert_eq!(there["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    b.delete("pods/a", json!({"gracePeriodSeconds": 0})).await.is(200);
    assert_eq!(b.get("pods/a").await.code, 404);
}

async fn delete_pod_grace_shortens(b: &Bench) {
    b.bound_pod("a").await;
    let grace = |object: &Value| object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    assert_eq!(grace(&b.delete("pods/a", json!({"gracePeriodSeconds": 20})).await.is(200)), Some(20));
    assert_eq!(grace(&b.delete("pods/a", json!({"gracePeriodSeconds": 90})).await.is(200)), Some(20));
    assert_eq!(grace(&b.delete("pods/a", json!({"gracePeriodSeconds": 5})).await.is(200)), Some(5));
    assert_eq!(grace(&b.delete("pods/a", json!({})).await.is(200)), Some(5));
}

async fn delete_pod_by_force(b: &Bench) {
    let made = b.bound_pod("a").await;
    let answer = b.delete("pods/a", json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(answer.warnings, [""; 0]);
    assert_eq!(answer.is(200)["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(b.get("pods/a").await.code, 404);
}

async fn delete_pod_without_a_node(b: &Bench) {
    b.pod("a").await;
    b.delete("pods/a", json!({})).await.is(200);
    assert_eq!(b.get("pods/a").await.code, 404);
}

async fn delete_pod_that_is_over(b: &Bench) {
    b.bound_pod("a").await;
    b.patch("pods/a/status", MERGE, json!({"status": {"phase": "Succeeded"}})).await.is(200);
    b.delete("pods/a", json!({})).await.is(200);
    assert_eq!(b.get("pods/a").await.code, 404);
}

async fn delete_pod_negative_grace(b: &Bench) {
    b.bound_pod("a").await;
    let marked = b.delete("pods/a", json!({"gracePeriodSeconds": -5})).await.is(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 1, "{marked}");
}

async fn deletecollection_with_selectors(b: &Bench) {
    for (name, tier) in [("a", "front"), ("b", "back"), ("c", "front")] {
        b.make("leases", json!({"metadata": {"name": name, "labels": {"tier": tier}}})).await;
    }
    b.delete("leases?labelSelector=tier%3Dfront&fieldSelector=metadata.name!%3Dc", json!({})).await.is(200);
    assert_eq!(names(&b.get("leases").await.is(200)), ["b", "c"]);
    b.delete("leases?dryRun=All", Value::Null).await.is(200);
    assert_eq!(names(&b.get("leases").await.is(200)), ["b", "c"]);
    // Options in the body take the place of all that are in the query: this is no dry run.
    b.delete("leases?dryRun=All", json!({})).await.is(200);
    assert_eq!(b.get("leases").await.is(200)["items"], json!([]));
    assert_eq!(b.delete("leases", json!({})).await.is(200)["items"], json!([]));
}

async fn deletecollection_with_preconditions(b: &Bench) {
    b.make("leases", json!({"metadata": {"name": "a", "finalizers": ["x.test/hold"]}})).await;
    b.make("leases", json!({"metadata": {"name": "b"}})).await;
    b.delete("leases", json!({})).await.is(200);
    let left = b.get("leases").await.is(200);
    assert_eq!(names(&left), ["a"]);
    assert!(left["items"][0]["metadata"]["deletionTimestamp"].is_string(), "{left}");
    release(b, "leases/a").await;
}

async fn delete_what_is_owned(b: &Bench) {
    let owner = b.config_map("owner").await;
    let reference = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true
    });
    b.make("configmaps", json!({"metadata": {"name": "a", "ownerReferences": [reference]}})).await;
    b.delete("configmaps/a", json!({})).await.is(200);
    b.get("configmaps/owner").await.is(200);
    let mut second = reference.clone();
    second["name"] = json!("other");
    second["uid"] = json!("00000000-0000-0000-0000-000000000001");
    let body = json!({"metadata": {"name": "b", "ownerReferences": [reference, second]}});
    let body = b.post("configmaps", body).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "metadata.ownerReferences", "{body}");
}
