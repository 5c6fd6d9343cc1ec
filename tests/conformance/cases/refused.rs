//! Requests that are refused for what they are.

use hyper::Method;
use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(unknown_resource, "a resource, version or group that does not exist is not found"),
    case!(unknown_path, "a path that leads nowhere is not found"),
    case!(namespace_missing, "nothing is created in a namespace that does not exist"),
    case!(namespace_terminating, "nothing is created in a namespace that is going"),
    case!(body_is_no_json, "a body that is no JSON is refused"),
    case!(body_of_another_kind, "a body of another kind or version is refused"),
    case!(body_of_a_wrong_type, "text where a number belongs is refused"),
    case!(body_missing, "a create without a body is refused"),
    case!(method_not_allowed, "verbs that a resource does not have"),
    case!(create_at_a_name, "a create at an object's path is refused"),
    case!(media_type_unknown, "an answer in an unknown form cannot be had, a body in one is not read"),
    case!(put_of_what_is_missing, "which kinds an update makes if they are missing"),
    case!(put_without_a_version, "which kinds an update without a version replaces"),
    case!(delete_is_not_an_update, "an update cannot mark an object deleted"),
    case!(request_too_large, "a body over three megabytes is refused"),
    case!(dry_run_value, "dryRun is All and nothing else"),
    case!(field_manager_too_long, "a field manager has at most 128 characters"),
];

const NOWHERE: &str = "the server could not find the requested resource";

async fn unknown_resource(b: &Bench) {
    for path in ["/api/v1/namespaces/@ns@/boats", "/apis/apps/v1/namespaces/@ns@/boats/a"] {
        b.get(path).await.refused(404, "NotFound", NOWHERE);
    }
    // The real one writes these as text, because nothing stands behind the path that knows of Kubernetes' objects.
    for path in ["/api/v2", "/apis/none.test/v1", "/apis/apps/v9/namespaces/@ns@/deployments", "/apis/none.test/v1/boats/a"] {
        let answer = b.get(path).await;
        assert_eq!(answer.code, 404, "{answer:?}");
    }
}

async fn unknown_path(b: &Bench) {
    for path in ["/none", "/api/v1/pods/extra/path/that/leads/nowhere"] {
        let answer = b.get(path).await;
        assert_eq!(answer.code, 404, "{answer:?}");
    }
}

async fn namespace_missing(b: &Bench) {
    let message = "namespaces \"@ns@-none\" not found";
    for plural in ["configmaps", "secrets", "services"] {
        let mut object = named(plural).object("a");
        object["metadata"]["namespace"] = json!("@ns@-none");
        let body = b.post(&format!("/api/v1/namespaces/@ns@-none/{plural}"), object).await.refused(404, "NotFound", message);
        assert_eq!(body["details"], json!({"name": "@ns@-none", "kind": "namespaces"}), "{body}");
    }
    b.get("/api/v1/namespaces/@ns@-none/configmaps/a").await.refused(404, "NotFound", "configmaps \"a\" not found");
}

async fn namespace_terminating(b: &Bench) {
    let at = "/api/v1/namespaces/@ns@-two";
    b.make("namespaces", json!({"metadata": {"name": "@ns@-two"}})).await;
    // Something that holds the namespace, so that it is seen while it goes.
    let held = json!({"metadata": {"name": "held", "finalizers": ["x.test/hold"]}});
    b.post(&format!("{at}/configmaps"), held).await.is(201);
    let going = b.delete(at, json!({})).await.is(200);
    assert_eq!((&going["kind"], &going["status"]["phase"]), (&json!("Namespace"), &json!("Terminating")), "{going}");
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    assert_eq!(going["spec"]["finalizers"], json!(["kubernetes"]), "{going}");
    let message = "configmaps \"a\" is forbidden: unable to create new content in namespace @ns@-two because it is being terminated";
    let body = b.post(&format!("{at}/configmaps"), json!({"metadata": {"name": "a"}})).await.refused(403, "Forbidden", message);
    let cause =
        json!({"reason": "NamespaceTerminating", "message": "namespace @ns@-two is being terminated", "field": "metadata.namespace"});
    assert_eq!(body["details"]["causes"], json!([cause]), "{body}");
    // What is there can still be changed.
    b.patch(&format!("{at}/configmaps/held"), MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
}

async fn body_is_no_json(b: &Bench) {
    let body = b.post_text("configmaps", "application/json", "{\"metadata\": ").await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    let made = b.post_text("configmaps", "application/yaml", "metadata:\n  name: a\ndata: {key: value}\n").await.is(201);
    assert_eq!(made["data"]["key"], "value");
}

async fn body_of_another_kind(b: &Bench) {
    let message = "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret).v1.Secret to (core.ConfigMap).core.ConfigMap: unknown conversion";
    let answer = b.post("configmaps", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})).await;
    let body = answer.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    assert!(body["message"].as_str().unwrap().contains(message.split(": ").next().unwrap()), "{body}");
    let message = "the API version in the data (apps/v1) does not match the expected API version (v1)";
    let answer = b.post("configmaps", json!({"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "a"}})).await;
    let body = answer.is(400);
    assert_eq!(body["reason"], "BadRequest", "{message}: {body}");
}

async fn body_of_a_wrong_type(b: &Bench) {
    let mut object = named("deployments").object("web");
    object["spec"]["replicas"] = json!("many");
    let body = b.post("deployments", object).await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    let body = b.post("configmaps", json!({"metadata": {"name": "a"}, "data": {"key": 1}})).await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
    assert!(body["message"].as_str().unwrap().starts_with("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: "), "{body}");
}

async fn body_missing(b: &Bench) {
    let body = b.post_text("configmaps", "application/json", "").await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
}

async fn method_not_allowed(b: &Bench) {
    let message = "the server does not allow this method on the requested resource";
    b.delete("/api/v1/namespaces", json!({})).await.refused(405, "MethodNotAllowed", message);
    b.post("/api/v1/pods", json!({})).await.refused(405, "MethodNotAllowed", message);
    b.ask(Method::PUT, "configmaps", Some("application/json"), Some(json!({}))).await.refused(405, "MethodNotAllowed", message);
    b.ask(Method::PATCH, "configmaps", Some(MERGE), Some(json!({}))).await.refused(405, "MethodNotAllowed", message);
}

async fn create_at_a_name(b: &Bench) {
    let message = "the server does not allow this method on the requested resource";
    b.post("configmaps/a", json!({"metadata": {"name": "a"}})).await.refused(405, "MethodNotAllowed", message);
}

async fn media_type_unknown(b: &Bench) {
    b.config_map("a").await;
    let body = b.get_as("configmaps/a", "application/xml").await.is(406);
    assert_eq!(body["reason"], "NotAcceptable", "{body}");
    let body = b.post_text("configmaps", "application/xml", "<a/>").await.is(415);
    assert_eq!(body["reason"], "UnsupportedMediaType", "{body}");
    b.get_as("configmaps/a", "*/*").await.is(200);
    b.get_as("configmaps/a", "application/xml, application/json;q=0.5").await.is(200);
}

/// Each kind: what a PUT of a missing object is answered.
async fn put_of_what_is_missing(b: &Bench) {
    b.account().await;
    let mut found = Vec::new();
    let kinds = [
        "configmaps",
        "secrets",
        "services",
        "serviceaccounts",
        "events",
        "leases",
        "deployments",
        "jobs",
        "roles",
        "poddisruptionbudgets",
    ];
    for plural in kinds {
        found.push((plural, b.put(&format!("{plural}/new"), named(plural).object("new")).await.code));
    }
    let wanted = [404, 404, 201, 404, 201, 201, 404, 404, 201, 404];
    let wanted: Vec<(&str, u16)> = kinds.into_iter().zip(wanted).collect();
    assert_eq!(found, wanted);
}

/// Each kind: what a PUT without a resourceVersion is answered.
async fn put_without_a_version(b: &Bench) {
    let mut found = Vec::new();
    let kinds =
        ["configmaps", "secrets", "serviceaccounts", "leases", "deployments", "statefulsets", "cronjobs", "roles", "poddisruptionbudgets"];
    for plural in kinds {
        b.make(plural, named(plural).object("it")).await;
        found.push((plural, b.put(&format!("{plural}/it"), named(plural).object("it")).await.code));
    }
    let wanted = [200, 200, 200, 422, 200, 200, 200, 200, 422];
    let wanted: Vec<(&str, u16)> = kinds.into_iter().zip(wanted).collect();
    assert_eq!(found, wanted);
    let message =
        "leases.coordination.k8s.io \"it\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    b.put("leases/it", named("leases").object("it")).await.refused(422, "Invalid", message);
}

async fn delete_is_not_an_update(b: &Bench) {
    b.config_map("a").await;
    let after = b.patch("configmaps/a", MERGE, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})).await;
    let cause = "FieldValueInvalid metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable";
    after.invalid("ConfigMap", "a", &[cause]);
    let uid = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}});
    let now = b.patch("configmaps/a", MERGE, uid).await.is(200);
    assert_ne!(now["metadata"]["creationTimestamp"], "2001-01-01T00:00:00Z", "{now}");
}

async fn request_too_large(b: &Bench) {
    let body = json!({"metadata": {"name": "a"}, "data": {"x": "x".repeat(4 << 20)}});
    let answer = b.post("configmaps", body).await;
    let message = "Request entity too large: limit is 3145728";
    answer.refused(413, "RequestEntityTooLarge", message);
}

async fn dry_run_value(b: &Bench) {
    let body = b.post("configmaps?dryRun=Yes", json!({"metadata": {"name": "a"}})).await.is(422);
    assert_eq!(body["reason"], "Invalid", "{body}");
    assert_eq!(b.get("configmaps/a").await.code, 404);
}

async fn field_manager_too_long(b: &Bench) {
    let manager = "m".repeat(129);
    let body: Value = b.post(&format!("configmaps?fieldManager={manager}"), json!({"metadata": {"name": "a"}})).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "fieldManager", "{body}");
}
