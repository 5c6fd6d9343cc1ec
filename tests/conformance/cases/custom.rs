//! Kinds that are defined at run time.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{bare, names, version},
    bench::{APPLY, Bench, JSON, MERGE, STRATEGIC},
    case,
    kinds::crd,
};

pub(crate) const CASES: &[Case] = &[
    case!(custom_kind_appears, "a definition makes a kind that can be found, and takes it away again"),
    case!(definition_waits_for_its_objects, "a deleted definition waits for its last object, and makes no new ones"),
    case!(custom_objects, "custom objects: create, read, list, replace, delete"),
    case!(custom_patches, "custom objects: merge and JSON patch, no strategic merge"),
    case!(custom_validation, "a custom object is checked against its schema"),
    case!(custom_defaults_and_pruning, "defaults of the schema are filled in, fields it does not have are dropped"),
    case!(custom_status, "the status of a custom object is apart, and generation counts the rest"),
    case!(custom_scale, "the scale of a custom object"),
    case!(custom_apply, "server-side apply of a custom object"),
    case!(custom_watch, "a watch of custom objects"),
    case!(watch_too_old, "a watch from a version that is no longer known says 410 in an event"),
    case!(custom_messages, "custom objects are called by resource and group in messages"),
    case!(crd_needs_its_name, "a definition's name is made of its resource and group"),
];

const BOATS: &str = "/apis/@ns@.test/v1/namespaces/@ns@/boats";

/// Defines `boats` in a group of the case's own and waits until they can be had.
async fn define(b: &Bench) {
    b.make("customresourcedefinitions", crd("boats.@ns@.test")).await;
    b.later("customresourcedefinitions/boats.@ns@.test");
    let established = |answer: &crate::answer::Answer| {
        let conditions = answer.body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    };
    b.until("customresourcedefinitions/boats.@ns@.test", established).await;
    b.until(BOATS, |answer| answer.code == 200).await;
}

fn boat(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "@ns@.test/v1", "kind": "Boat", "metadata": {"name": name}, "spec": spec})
}

async fn make(b: &Bench, name: &str) -> Value {
    b.post(BOATS, boat(name, json!({"size": 1}))).await.is(201)
}

async fn custom_kind_appears(b: &Bench) {
    b.get(BOATS).await.is(404);
    define(b).await;
    let found = |answer: &crate::answer::Answer| answer.code == 200 && answer.body["resources"][0]["name"] == "boats";
    let resources = b.until("/apis/@ns@.test/v1", found).await;
    let wanted = json!({"name": "boats", "singularName": "boat", "namespaced": true, "kind": "Boat"});
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&resources["resources"][0][key], value, "{resources}");
    }
    let names: Vec<&str> = resources["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["boats", "boats/status", "boats/scale"]);
    let groups = b.get("/apis").await.is(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "@ns@.test"), "{groups}");
    make(b, "a").await;
    b.delete("customresourcedefinitions/boats.@ns@.test", json!({})).await.is(200);
    b.until("customresourcedefinitions/boats.@ns@.test", |answer| answer.code == 404).await;
    b.until(BOATS, |answer| answer.code == 404).await;
}

async fn definition_waits_for_its_objects(b: &Bench) {
    define(b).await;
    let mut held = boat("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["x.test/hold"]);
    b.post(BOATS, held).await.is(201);
    make(b, "free").await;
    let at = "customresourcedefinitions/boats.@ns@.test";
    let marked = b.delete(at, json!({})).await.is(200);
    let pending = |definition: &Value, status: &str| {
        let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Terminating" && one["status"] == status)
    };
    assert!(marked["metadata"]["deletionTimestamp"].is_string() && pending(&marked, "True"), "{marked}");
    assert_eq!(marked["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]), "{marked}");
    b.until(&format!("{BOATS}/free"), |answer| answer.code == 404).await;
    let left = b.until(&format!("{BOATS}/held"), |answer| answer.body["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(left["metadata"]["finalizers"], json!(["x.test/hold"]), "{left}");
    // The server may not have seen yet that it is to end.
    let mut refused = b.post(&format!("{BOATS}?dryRun=All"), boat("late", json!({"size": 1}))).await;
    for _ in 0..100 {
        if refused.code != 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        refused = b.post(&format!("{BOATS}?dryRun=All"), boat("late", json!({"size": 1}))).await;
    }
    let why = "boats.@ns@.test \"late\" is forbidden: create not allowed while custom resource definition is terminating";
    refused.refused(403, "Forbidden", why);
    assert!(pending(&b.get(at).await.is(200), "True"));
    b.patch(&format!("{BOATS}/held"), MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
    b.until(at, |answer| answer.code == 404).await;
    b.until(BOATS, |answer| answer.code == 404).await;
}

async fn custom_objects(b: &Bench) {
    define(b).await;
    let made = make(b, "a").await;
    assert_eq!((&made["kind"], &made["metadata"]["generation"]), (&json!("Boat"), &json!(1)), "{made}");
    make(b, "b").await;
    let list = b.get(&format!("{BOATS}?limit=1")).await.is(200);
    assert_eq!((&list["kind"], names(&list)), (&json!("BoatList"), vec!["a".to_owned()]), "{list}");
    // Unlike those of typed lists, its items say what they are.
    assert_eq!(list["items"][0]["kind"], "Boat", "{list}");
    assert!(!list["metadata"]["continue"].as_str().unwrap().is_empty());
    let mut next = made.clone();
    next["spec"]["size"] = json!(2);
    let after = b.put(&format!("{BOATS}/a"), next).await.is(200);
    assert_eq!((&after["spec"]["size"], &after["metadata"]["generation"]), (&json!(2), &json!(2)));
    b.put(&format!("{BOATS}/a"), made).await.is(409);
    let answer = b.delete(&format!("{BOATS}/a"), json!({})).await.is(200);
    assert_eq!((&answer["kind"], &answer["details"]["kind"]), (&json!("Status"), &json!("boats")), "{answer}");
    b.get(&format!("{BOATS}/a")).await.is(404);
    b.delete(BOATS, json!({})).await.is(200);
    assert_eq!(b.get(BOATS).await.is(200)["items"], json!([]));
}

async fn custom_patches(b: &Bench) {
    define(b).await;
    make(b, "a").await;
    let at = format!("{BOATS}/a");
    assert_eq!(b.patch(&at, MERGE, json!({"spec": {"note": "x"}})).await.is(200)["spec"]["note"], "x");
    let json = json!([{"op": "replace", "path": "/spec/size", "value": 3}]);
    assert_eq!(b.patch(&at, JSON, json).await.is(200)["spec"]["size"], 3);
    let body = b.patch(&at, STRATEGIC, json!({"spec": {"size": 4}})).await.is(415);
    assert_eq!(body["reason"], "UnsupportedMediaType", "{body}");
}

async fn custom_validation(b: &Bench) {
    define(b).await;
    let cause = "FieldValueRequired spec.size: Required value";
    b.post(BOATS, boat("a", json!({}))).await.invalid("Boat.@ns@.test", "a", &[cause]);
    let cause = "FieldValueTypeInvalid spec.crew: Invalid value: \"string\": spec.crew in body must be of type integer: \"string\"";
    b.post(BOATS, boat("a", json!({"size": 1, "crew": "large"}))).await.invalid("Boat.@ns@.test", "a", &[cause]);
    let cause = "FieldValueInvalid spec.crew: Invalid value: -1: spec.crew in body should be greater than or equal to 0";
    b.post(BOATS, boat("a", json!({"size": 1, "crew": -1}))).await.invalid("Boat.@ns@.test", "a", &[cause]);
    make(b, "a").await;
    b.patch(&format!("{BOATS}/a"), MERGE, json!({"spec": {"size": null}})).await.is(422);
}

async fn custom_defaults_and_pruning(b: &Bench) {
    define(b).await;
    let made = b.post(BOATS, boat("a", json!({"size": 1, "sails": 3}))).await;
    assert_eq!(made.warnings, ["299 - \"unknown field \\\"spec.sails\\\"\""]);
    assert_eq!(made.is(201)["spec"], json!({"size": 1, "colour": "blue"}));
}

async fn custom_status(b: &Bench) {
    define(b).await;
    let mut object = boat("a", json!({"size": 1}));
    object["status"] = json!({"size": 9});
    let made = b.post(BOATS, object).await.is(201);
    assert_eq!(made.get("status"), None, "{made}");
    let at = format!("{BOATS}/a/status");
    let after = b.patch(&at, MERGE, json!({"spec": {"size": 5}, "status": {"size": 1}})).await.is(200);
    assert_eq!((&after["spec"]["size"], &after["status"]["size"], &after["metadata"]["generation"]), (&json!(1), &json!(1), &json!(1)));
    let after = b.patch(&format!("{BOATS}/a"), MERGE, json!({"spec": {"size": 5}, "status": {"size": 8}})).await.is(200);
    assert_eq!((&after["spec"]["size"], &after["status"]["size"], &after["metadata"]["generation"]), (&json!(5), &json!(1), &json!(2)));
}

async fn custom_scale(b: &Bench) {
    define(b).await;
    make(b, "a").await;
    let at = format!("{BOATS}/a/scale");
    let scale = b.get(&at).await.is(200);
    assert_eq!((&scale["kind"], &scale["spec"]), (&json!("Scale"), &json!({"replicas": 1})), "{scale}");
    let after = b.patch(&at, MERGE, json!({"spec": {"replicas": 4}})).await.is(200);
    assert_eq!(after["spec"]["replicas"], 4);
    assert_eq!(b.get(&format!("{BOATS}/a")).await.is(200)["spec"]["size"], 4);
}

async fn custom_apply(b: &Bench) {
    define(b).await;
    let at = format!("{BOATS}/a");
    let made = b.apply(&at, "one", boat("a", json!({"size": 1, "note": "x"}))).await.is(201);
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:note": {}, "f:size": {}}}), "{made}");
    let message = "Apply failed with 1 conflict: conflict with \"one\": .spec.size";
    b.apply(&at, "two", boat("a", json!({"size": 2}))).await.refused(409, "Conflict", message);
    let after = b.apply(&at, "one", boat("a", json!({"size": 3}))).await.is(200);
    assert_eq!(bare(&after)["spec"], json!({"size": 3, "colour": "blue"}));
    b.patch(&at, APPLY, boat("a", json!({"size": 3}))).await.is(422);
}

async fn custom_watch(b: &Bench) {
    define(b).await;
    let from = version(&b.get(BOATS).await.is(200));
    let mut watch = b.watch(&format!("{BOATS}?resourceVersion={from}")).await;
    make(b, "a").await;
    b.patch(&format!("{BOATS}/a"), MERGE, json!({"spec": {"size": 2}})).await.is(200);
    b.delete(&format!("{BOATS}/a"), json!({})).await.is(200);
    watch.expect(&["ADDED a", "MODIFIED a", "DELETED a"]).await;
}

/// The kind is younger than the version, so that no server remembers it.
async fn watch_too_old(b: &Bench) {
    define(b).await;
    let mut watch = b.watch(&format!("{BOATS}?resourceVersion=1")).await;
    let event = watch.next().await.unwrap_or_else(|| panic!("no event"));
    assert_eq!(event["type"], "ERROR", "{event}");
    let object = &event["object"];
    assert_eq!((&object["kind"], &object["code"], &object["reason"]), (&json!("Status"), &json!(410), &json!("Expired")), "{object}");
    assert!(object["message"].as_str().unwrap().starts_with("too old resource version: 1 ("), "{object}");
    assert_eq!(watch.next().await, None);
}

async fn custom_messages(b: &Bench) {
    define(b).await;
    b.get(&format!("{BOATS}/none")).await.refused(404, "NotFound", "boats.@ns@.test \"none\" not found");
    make(b, "a").await;
    let answer = b.post(BOATS, boat("a", json!({"size": 1}))).await;
    answer.refused(409, "AlreadyExists", "boats.@ns@.test \"a\" already exists");
    let message = "boats.@ns@.test is forbidden: User \"@ns@-ann\" cannot list resource \"boats\" in API group \"@ns@.test\" in the \
                   namespace \"@ns@\"";
    b.user("@ns@-ann").get(BOATS).await.refused(403, "Forbidden", message);
}

async fn crd_needs_its_name(b: &Bench) {
    let mut object = crd("boats.@ns@.test");
    object["metadata"]["name"] = json!("ships.@ns@.test");
    let body = b.post("customresourcedefinitions", object).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "metadata.name", "{body}");
    let message = "Invalid value: \"ships.@ns@.test\": must be spec.names.plural+\".\"+spec.group";
    assert_eq!(body["details"]["causes"][0]["message"], message, "{body}");
}
