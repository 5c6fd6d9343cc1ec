//! Server-side apply.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{causes_of, version},
    bench::{APPLY, Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(apply_creates, "apply makes what is missing, and its fields are the manager's"),
    case!(apply_again_changes_nothing, "the same apply again writes nothing"),
    case!(apply_together, "two managers own what both apply with the same value"),
    case!(apply_conflict, "another value for another's field is a conflict that names the field"),
    case!(apply_conflict_with_an_update, "a field that an update has changed conflicts, too"),
    case!(apply_forced, "a forced apply takes the field from the other"),
    case!(apply_drops_fields, "a field that is no longer applied goes, unless another owns it"),
    case!(apply_needs_a_manager, "apply without a field manager is refused"),
    case!(apply_body, "an applied object needs apiVersion and kind, and the name of the path"),
    case!(apply_with_managed_fields, "an applied object must not bring managedFields"),
    case!(apply_containers, "apply: containers by name, each manager its own"),
    case!(apply_conflict_in_a_container, "a conflict in a list names the element by its key"),
    case!(apply_to_status, "apply of a status counts apart"),
    case!(apply_replicas_given_up, "a field that is given up to another manager stays"),
    case!(apply_with_a_version, "apply with an old resourceVersion is a conflict"),
    case!(apply_dry_run, "a dry run of an apply writes nothing"),
    case!(force_is_for_apply, "force is for apply alone"),
    case!(apply_keeps_what_others_set, "apply leaves alone what it does not name"),
];

/// A ConfigMap to apply.
fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// `MANAGER OPERATION FIELDS` of each entry, in the order of managers.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut owners: Vec<String> = entries
        .iter()
        .map(|entry| {
            let subresource = if entry["subresource"].is_null() { String::new() } else { format!("/{}", text(entry, "subresource")) };
            format!("{} {}{subresource} {}", text(entry, "manager"), text(entry, "operation"), entry["fieldsV1"])
        })
        .collect();
    owners.sort();
    owners
}

async fn apply_creates(b: &Bench) {
    let made = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(201);
    assert_eq!((&made["data"], &made["metadata"]["name"]), (&json!({"x": "1"}), &json!("a")));
    assert_eq!(owners(&made), [r#"one Apply {"f:data":{"f:x":{}}}"#]);
}

async fn apply_again_changes_nothing(b: &Bench) {
    let made = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(201);
    let again = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(200);
    assert_eq!(version(&again), version(&made));
}

async fn apply_together(b: &Bench) {
    b.apply("configmaps/a", "one", map(json!({"x": "1", "y": "1"}))).await.is(201);
    let both = b.apply("configmaps/a", "two", map(json!({"x": "1", "z": "1"}))).await.is(200);
    assert_eq!(both["data"], json!({"x": "1", "y": "1", "z": "1"}));
    assert_eq!(owners(&both), [r#"one Apply {"f:data":{"f:x":{},"f:y":{}}}"#, r#"two Apply {"f:data":{"f:x":{},"f:z":{}}}"#]);
}

async fn apply_conflict(b: &Bench) {
    b.apply("configmaps/a", "one", map(json!({"x": "1", "y": "1"}))).await.is(201);
    let message = "Apply failed with 1 conflict: conflict with \"one\": .data.x";
    let body = b.apply("configmaps/a", "two", map(json!({"x": "2"}))).await.refused(409, "Conflict", message);
    assert_eq!(causes_of(&body), ["FieldManagerConflict .data.x: conflict with \"one\""], "{body}");
    let message = "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.x\n- .data.y";
    b.apply("configmaps/a", "two", map(json!({"x": "2", "y": "2"}))).await.refused(409, "Conflict", message);
    assert_eq!(b.get("configmaps/a").await.is(200)["data"], json!({"x": "1", "y": "1"}));
}

async fn apply_conflict_with_an_update(b: &Bench) {
    b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(201);
    b.patch("configmaps/a?fieldManager=two", MERGE, json!({"data": {"x": "2"}})).await.is(200);
    let body = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(409);
    // The time of the update is part of the message.
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("Apply failed with 1 conflict: conflict with \"two\" using v1"), "{message}");
    assert!(message.ends_with(": .data.x"), "{message}");
    assert_eq!(b.apply("configmaps/a", "one", map(json!({"x": "2"}))).await.is(200)["data"], json!({"x": "2"}));
}

async fn apply_forced(b: &Bench) {
    b.apply("configmaps/a", "one", map(json!({"x": "1", "y": "1"}))).await.is(201);
    let after = b.apply("configmaps/a?force=true", "two", map(json!({"x": "2"}))).await.is(200);
    assert_eq!(after["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(owners(&after), [r#"one Apply {"f:data":{"f:y":{}}}"#, r#"two Apply {"f:data":{"f:x":{}}}"#]);
}

async fn apply_drops_fields(b: &Bench) {
    b.apply("configmaps/a", "one", map(json!({"x": "1", "y": "1", "z": "1"}))).await.is(201);
    b.apply("configmaps/a", "two", map(json!({"z": "1"}))).await.is(200);
    let after = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(200);
    assert_eq!(after["data"], json!({"x": "1", "z": "1"}));
    assert_eq!(owners(&after), [r#"one Apply {"f:data":{"f:x":{}}}"#, r#"two Apply {"f:data":{"f:z":{}}}"#]);
    let mut none = map(json!({}));
    none.as_object_mut().unwrap().remove("data");
    let after = b.apply("configmaps/a", "one", none).await.is(200);
    assert_eq!(after["data"], json!({"z": "1"}));
    assert_eq!(owners(&after), [r#"two Apply {"f:data":{"f:z":{}}}"#]);
}

async fn apply_needs_a_manager(b: &Bench) {
    let body = b.patch("configmaps/a", APPLY, map(json!({"x": "1"}))).await.is(422);
    let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    assert_eq!((&body["reason"], &body["message"]), (&json!("Invalid"), &json!(message)), "{body}");
}

async fn apply_body(b: &Bench) {
    let answer = b.apply("configmaps/a", "one", json!({"metadata": {"name": "a"}})).await;
    assert_eq!(answer.is(400)["reason"], "BadRequest");
    let answer = b.apply("configmaps/b", "one", map(json!({}))).await;
    answer.refused(400, "BadRequest", "the name of the object (a) does not match the name on the URL (b)");
    let mut other = map(json!({}));
    other["kind"] = json!("Secret");
    let body = b.apply("configmaps/a", "one", other).await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    let message = "the name of the object (c based on URL) was undeterminable: name must be provided";
    let answer = b.apply("configmaps/c", "one", json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "1"}})).await;
    answer.refused(400, "BadRequest", message);
}

async fn apply_with_managed_fields(b: &Bench) {
    let mut made = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(201);
    made["data"]["x"] = json!("2");
    b.apply("configmaps/a", "one", made).await.refused(400, "BadRequest", "metadata.managedFields must be nil");
}

/// A Deployment with these containers to apply.
fn deployment(containers: Value) -> Value {
    let template = json!({"metadata": {"labels": {"app": "it"}}, "spec": {"containers": containers}});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "it"}}, "template": template});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn containers(object: &Value) -> Vec<String> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().map(|c| format!("{}={}", c["name"].as_str().unwrap(), c["image"].as_str().unwrap())).collect()
}

async fn apply_containers(b: &Bench) {
    let at = "deployments/web";
    b.apply(at, "one", deployment(json!([{"name": "main", "image": "one"}]))).await.is(201);
    let side = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                      "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "two"}]}}}});
    let after = b.apply(at, "two", side).await.is(200);
    assert_eq!(containers(&after), ["main=one", "side=two"]);
    let after =
        b.apply(at, "one", deployment(json!([{"name": "main", "image": "new", "env": [{"name": "A", "value": "1"}]}]))).await.is(200);
    assert_eq!(containers(&after), ["main=new", "side=two"]);
    let none = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
    assert_eq!(containers(&b.apply(at, "two", none).await.is(200)), ["main=new"]);
}

async fn apply_conflict_in_a_container(b: &Bench) {
    b.apply("deployments/web", "one", deployment(json!([{"name": "main", "image": "one"}]))).await.is(201);
    let message = "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"main\"].image";
    let answer = b.apply("deployments/web", "two", deployment(json!([{"name": "main", "image": "two"}]))).await;
    answer.refused(409, "Conflict", message);
}

async fn apply_to_status(b: &Bench) {
    b.pod("a").await;
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
                        "status": {"conditions": [{"type": "one.test/x", "status": "True"}]}});
    let after = b.apply("pods/a/status", "one", status).await.is(200);
    let found = after["status"]["conditions"].as_array().unwrap().iter().any(|condition| condition["type"] == "one.test/x");
    assert!(found, "{after}");
    let owner = owners(&after).into_iter().find(|owner| owner.starts_with("one ")).unwrap();
    let fields = r#"{"f:status":{"f:conditions":{"k:{\"type\":\"one.test/x\"}":{".":{},"f:status":{},"f:type":{}}}}}"#;
    assert_eq!(owner, format!("one Apply/status {fields}"));
}

async fn apply_replicas_given_up(b: &Bench) {
    let at = "deployments/web";
    b.apply(at, "one", deployment(json!([{"name": "main", "image": "one"}]))).await.is(201);
    b.patch("deployments/web/scale?fieldManager=scaler", MERGE, json!({"spec": {"replicas": 0}})).await.is(200);
    let replicas = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 0}});
    b.apply(at, "two", replicas).await.is(200);
    let mut without = deployment(json!([{"name": "main", "image": "one"}]));
    without["spec"].as_object_mut().unwrap().remove("replicas");
    assert_eq!(b.apply(at, "one", without).await.is(200)["spec"]["replicas"], 0);
}

async fn apply_with_a_version(b: &Bench) {
    let made = b.apply("configmaps/a", "one", map(json!({"x": "1"}))).await.is(201);
    b.patch("configmaps/a?fieldManager=two", MERGE, json!({"data": {"y": "1"}})).await.is(200);
    let mut object = map(json!({"x": "2"}));
    object["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let message = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest \
                   version and try again";
    b.apply("configmaps/a", "one", object).await.refused(409, "Conflict", message);
}

async fn apply_dry_run(b: &Bench) {
    assert_eq!(b.apply("configmaps/a?dryRun=All", "one", map(json!({"x": "1"}))).await.is(201)["data"], json!({"x": "1"}));
    assert_eq!(b.get("configmaps/a").await.code, 404);
}

async fn force_is_for_apply(b: &Bench) {
    b.config_map("a").await;
    let body = b.patch("configmaps/a?force=true", MERGE, json!({})).await.is(422);
    let message = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
    assert_eq!(body["message"], message, "{body}");
}

async fn apply_keeps_what_others_set(b: &Bench) {
    let mut object = named("deployments").object("web");
    object["metadata"]["annotations"] = json!({"note.test/a": "kept"});
    b.post("deployments?fieldManager=maker", object).await.is(201);
    let wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"drill": "one"}}});
    let after = b.apply("deployments/web", "one", wanted).await.is(200);
    assert_eq!(after["metadata"]["labels"], json!({"app": "it", "drill": "one"}));
    assert_eq!(after["metadata"]["annotations"]["note.test/a"], "kept");
    let wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
    let after = b.apply("deployments/web", "one", wanted).await.is(200);
    assert_eq!(after["metadata"]["labels"], json!({"app": "it"}));
}
