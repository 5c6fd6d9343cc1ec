//! JSON patch, merge patch and strategic merge patch.

use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, JSON, MERGE, STRATEGIC},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(json_patch_operations, "JSON patch: add, replace, remove, copy, move, test"),
    case!(json_patch_test_fails, "a JSON patch whose test fails changes nothing"),
    case!(json_patch_path_missing, "a JSON patch of a path that is not there is refused"),
    case!(json_patch_escapes, "JSON patch: ~1 is a slash and ~0 a tilde"),
    case!(json_patch_lists, "JSON patch: indices of lists, and - for the end"),
    case!(json_patch_not_readable, "a JSON patch that is no list of operations is refused"),
    case!(merge_patch_null_deletes, "merge patch: null deletes, objects are merged, lists replaced"),
    case!(merge_patch_replaces_containers, "merge patch: a list of containers takes the place of the other"),
    case!(merge_patch_not_readable, "a merge patch that is no object is refused"),
    case!(merge_patch_of_a_wrong_type, "a merge patch that puts text where a number belongs is refused"),
    case!(strategic_containers_by_name, "strategic merge: containers are merged by name"),
    case!(strategic_delete, "strategic merge: $patch: delete takes a container away, null a field"),
    case!(strategic_env_and_ports, "strategic merge: variables by name, ports by number, tolerations replaced"),
    case!(strategic_replace, "strategic merge: $patch: replace"),
    case!(strategic_conditions, "strategic merge of a status: conditions by type"),
    case!(strategic_order, "strategic merge: what is new comes first"),
    case!(patch_type_unknown, "a patch of an unknown type is refused"),
    case!(patch_cannot_rename, "a patch cannot give an object another name or namespace"),
    case!(patch_of_finalizers, "strategic merge adds finalizers, merge patch replaces them"),
    case!(patch_service_ports, "strategic merge of a service: ports by number"),
    case!(patch_and_put_with_unknown_fields, "unknown fields are dropped with a warning, and refused under Strict"),
];

async fn json_patch_operations(b: &Bench) {
    b.make("configmaps", json!({"metadata": {"name": "a"}, "data": {"one": "1", "two": "2", "three": "3"}})).await;
    let patch = json!([
        {"op": "test", "path": "/data/one", "value": "1"},
        {"op": "add", "path": "/data/four", "value": "4"},
        {"op": "replace", "path": "/data/one", "value": "uno"},
        {"op": "remove", "path": "/data/two"},
        {"op": "copy", "from": "/data/three", "path": "/data/five"},
        {"op": "move", "from": "/data/three", "path": "/data/six"},
        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}},
    ]);
    let after = b.patch("configmaps/a", JSON, patch).await.is(200);
    assert_eq!(after["data"], json!({"five": "3", "four": "4", "one": "uno", "six": "3"}));
    assert_eq!(after["metadata"]["labels"], json!({"a": "b"}));
}

async fn json_patch_test_fails(b: &Bench) {
    let made = b.config_map("a").await;
    let patch = json!([{"op": "replace", "path": "/data/key", "value": "new"}, {"op": "test", "path": "/data/key", "value": "old"}]);
    let message = "the server rejected our request due to an error in our request";
    b.patch("configmaps/a", JSON, patch).await.refused(422, "Invalid", message);
    assert_eq!(b.get("configmaps/a").await.is(200), made);
    let version = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]}]);
    b.patch("configmaps/a", JSON, version).await.is(200);
}

async fn json_patch_path_missing(b: &Bench) {
    let made = b.config_map("a").await;
    let message = "the server rejected our request due to an error in our request";
    for patch in [
        json!([{"op": "remove", "path": "/data/none"}]),
        json!([{"op": "add", "path": "/none/deep/key", "value": "x"}]),
        json!([{"op": "test", "path": "/data/none", "value": "x"}]),
    ] {
        b.patch("configmaps/a", JSON, patch).await.refused(422, "Invalid", message);
    }
    assert_eq!(b.get("configmaps/a").await.is(200), made);
    // RFC 6902 says otherwise, but a replace makes what is missing, and a copy of it makes null, which is an empty text here.
    let copy = json!([{"op": "copy", "from": "/data/none", "path": "/data/x"}]);
    assert_eq!(b.patch("configmaps/a", JSON, copy).await.is(200)["data"]["x"], "");
    let replace = json!([{"op": "replace", "path": "/data/none", "value": "x"}]);
    assert_eq!(b.patch("configmaps/a", JSON, replace).await.is(200)["data"]["none"], "x");
}

async fn json_patch_escapes(b: &Bench) {
    b.config_map("a").await;
    let patch = json!([
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/one.test~1a", "value": "slash"},
        {"op": "add", "path": "/metadata/labels/one.test~1b", "value": "slash"},
    ]);
    let after = b.patch("configmaps/a", JSON, patch).await.is(200);
    assert_eq!(after["metadata"]["annotations"], json!({"one.test/a": "slash"}));
    assert_eq!(after["metadata"]["labels"]["one.test/b"], "slash");
}

async fn json_patch_lists(b: &Bench) {
    b.make("configmaps", json!({"metadata": {"name": "a", "finalizers": ["x.test/1", "x.test/2"]}})).await;
    let finalizers = |object: &Value| object["metadata"]["finalizers"].clone();
    let patch = json!([
        {"op": "add", "path": "/metadata/finalizers/-", "value": "x.test/3"},
        {"op": "add", "path": "/metadata/finalizers/0", "value": "x.test/0"},
        {"op": "remove", "path": "/metadata/finalizers/1"},
    ]);
    let after = b.patch("configmaps/a", JSON, patch).await.is(200);
    assert_eq!(finalizers(&after), json!(["x.test/0", "x.test/2", "x.test/3"]));
    let out = json!([{"op": "replace", "path": "/metadata/finalizers/9", "value": "x.test/9"}]);
    b.patch("configmaps/a", JSON, out).await.is(422);
    b.patch("configmaps/a", JSON, json!([{"op": "remove", "path": "/metadata/finalizers"}])).await.is(200);
}

async fn json_patch_not_readable(b: &Bench) {
    b.config_map("a").await;
    for patch in [json!({"op": "remove"}), json!("x")] {
        let body = b.patch("configmaps/a", JSON, patch).await.is(400);
        assert_eq!(body["reason"], "BadRequest", "{body}");
    }
    b.patch("configmaps/a", JSON, json!([{"op": "fly", "path": "/data/key"}])).await.is(422);
}

async fn merge_patch_null_deletes(b: &Bench) {
    let metadata = json!({"name": "a", "labels": {"x": "1", "y": "2"}, "finalizers": ["x.test/1"]});
    b.make("configmaps", json!({"metadata": metadata, "data": {"one": "1", "two": "2"}})).await;
    let patch = json!({"metadata": {"labels": {"x": null}, "finalizers": ["x.test/2"]}, "data": {"one": null, "three": "3", "none": null}});
    let after = b.patch("configmaps/a", MERGE, patch).await.is(200);
    assert_eq!((&after["data"], &after["metadata"]["labels"]), (&json!({"three": "3", "two": "2"}), &json!({"y": "2"})));
    assert_eq!(after["metadata"]["finalizers"], json!(["x.test/2"]));
    let after = b.patch("configmaps/a", MERGE, json!({"metadata": {"labels": null, "finalizers": null}, "data": null})).await.is(200);
    assert_eq!((after.get("data"), after["metadata"].get("labels"), after["metadata"].get("finalizers")), (None, None, None), "{after}");
}

/// A Deployment with two containers that nothing runs.
async fn deployment(b: &Bench) {
    let mut object = named("deployments").object("web");
    object["spec"]["template"]["spec"]["containers"] = json!([
        {"name": "main", "image": "one", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "ports": [{"containerPort": 80}]},
        {"name": "side", "image": "two"}
    ]);
    object["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "one", "operator": "Exists"}]);
    b.make("deployments", object).await;
}

/// A patch of the template's spec.
fn template(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

/// `name=image` of each container.
fn images(object: &Value) -> Vec<String> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().map(|c| format!("{}={}", c["name"].as_str().unwrap(), c["image"].as_str().unwrap())).collect()
}

async fn merge_patch_replaces_containers(b: &Bench) {
    deployment(b).await;
    let after = b.patch("deployments/web", MERGE, template(json!({"containers": [{"name": "main", "image": "new"}]}))).await.is(200);
    assert_eq!(images(&after), ["main=new"]);
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0].get("env"), None, "{after}");
}

async fn merge_patch_not_readable(b: &Bench) {
    b.config_map("a").await;
    let body = b.patch("configmaps/a", MERGE, json!([1])).await.is(400);
    assert_eq!(body["reason"], "BadRequest", "{body}");
}

async fn merge_patch_of_a_wrong_type(b: &Bench) {
    deployment(b).await;
    for (path, patch) in [
        ("deployments/web", json!({"spec": {"replicas": "many"}})),
        ("deployments/web", json!({"metadata": {"labels": {"a": 1}}})),
        ("deployments/web/scale", json!({"spec": {"replicas": "many"}})),
    ] {
        let body = b.patch(path, MERGE, patch).await.is(422);
        assert_eq!((&body["reason"], &body["details"]["causes"][0]["field"]), (&json!("Invalid"), &json!("patch")), "{body}");
        assert!(body["message"].as_str().unwrap().starts_with(" \"\" is invalid: patch: Invalid value: "), "{body}");
    }
}

async fn strategic_containers_by_name(b: &Bench) {
    deployment(b).await;
    let patch = template(json!({"containers": [{"name": "side", "image": "new"}]}));
    let after = b.patch("deployments/web", STRATEGIC, patch).await.is(200);
    let mut found = images(&after);
    found.sort();
    assert_eq!(found, ["main=one", "side=new"]);
    let main = after["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().find(|c| c["name"] == "main").unwrap();
    assert_eq!(main["env"].as_array().map(Vec::len), Some(2), "{main}");
}

async fn strategic_delete(b: &Bench) {
    deployment(b).await;
    let patch = template(json!({"containers": [{"name": "side", "$patch": "delete"}, {"name": "main", "ports": null}]}));
    let after = b.patch("deployments/web", STRATEGIC, patch).await.is(200);
    assert_eq!(images(&after), ["main=one"]);
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0].get("ports"), None, "{after}");
}

async fn strategic_env_and_ports(b: &Bench) {
    deployment(b).await;
    let container =
        json!({"name": "main", "env": [{"name": "B", "value": "two"}, {"name": "C", "value": "3"}], "ports": [{"containerPort": 81}]});
    let patch = template(json!({"containers": [container], "tolerations": [{"key": "two", "operator": "Exists"}]}));
    let after = b.patch("deployments/web", STRATEGIC, patch).await.is(200);
    let spec = &after["spec"]["template"]["spec"];
    let main = spec["containers"].as_array().unwrap().iter().find(|c| c["name"] == "main").unwrap();
    let mut env: Vec<String> = main["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{}={}", e["name"].as_str().unwrap(), e["value"].as_str().unwrap()))
        .collect();
    env.sort();
    assert_eq!(env, ["A=1", "B=two", "C=3"]);
    let mut ports: Vec<i64> = main["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].as_i64().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [80, 81]);
    assert_eq!(spec["tolerations"], json!([{"key": "two", "operator": "Exists"}]));
}

async fn strategic_replace(b: &Bench) {
    deployment(b).await;
    let patch = template(json!({"containers": [{"$patch": "replace"}, {"name": "only", "image": "new"}]}));
    let after = b.patch("deployments/web", STRATEGIC, patch).await.is(200);
    assert_eq!(images(&after), ["only=new"]);
    b.config_map("a").await;
    let after = b.patch("configmaps/a", STRATEGIC, json!({"data": {"$patch": "replace", "new": "1"}})).await.is(200);
    assert_eq!(after["data"], json!({"new": "1"}));
}

async fn strategic_conditions(b: &Bench) {
    b.pod("a").await;
    let set = |conditions: Value| json!({"status": {"conditions": conditions}});
    let first = json!([{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}]);
    b.patch("pods/a/status", STRATEGIC, set(first)).await.is(200);
    let after = b.patch("pods/a/status", STRATEGIC, set(json!([{"type": "Ready", "status": "True"}]))).await.is(200);
    let mut found: Vec<String> = after["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| format!("{}={}", condition["type"].as_str().unwrap(), condition["status"].as_str().unwrap()))
        .collect();
    found.sort();
    assert_eq!(found, ["PodScheduled=True", "Ready=True"]);
    let after = b.patch("pods/a/status", MERGE, set(json!([{"type": "Ready", "status": "False"}]))).await.is(200);
    assert_eq!(after["status"]["conditions"].as_array().map(Vec::len), Some(1), "a merge patch replaces the list: {after}");
}

async fn strategic_order(b: &Bench) {
    deployment(b).await;
    let patch = template(json!({"containers": [{"name": "new", "image": "three"}]}));
    let after = b.patch("deployments/web", STRATEGIC, patch).await.is(200);
    assert_eq!(images(&after), ["new=three", "main=one", "side=two"]);
}

async fn patch_type_unknown(b: &Bench) {
    b.config_map("a").await;
    let body = b.patch("configmaps/a", "application/json", json!({"data": {}})).await.is(415);
    assert_eq!(body["reason"], "UnsupportedMediaType", "{body}");
    assert_eq!(body["message"], "415: Unsupported Media Type", "{body}");
}

async fn patch_cannot_rename(b: &Bench) {
    b.config_map("a").await;
    let body = b.patch("configmaps/a", MERGE, json!({"metadata": {"name": "b"}})).await.is(400);
    assert_eq!(body["message"], "the name of the object (b) does not match the name on the URL (a)", "{body}");
    let body = b.patch("configmaps/a", MERGE, json!({"metadata": {"namespace": "other"}})).await.is(400);
    assert_eq!(body["message"], "the namespace of the provided object does not match the namespace sent on the request", "{body}");
}

async fn patch_of_finalizers(b: &Bench) {
    b.make("configmaps", json!({"metadata": {"name": "a", "finalizers": ["x.test/1"]}})).await;
    let set = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let after = b.patch("configmaps/a", STRATEGIC, set(json!(["x.test/2"]))).await.is(200);
    let mut found: Vec<&str> = after["metadata"]["finalizers"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, ["x.test/1", "x.test/2"]);
    let after = b.patch("configmaps/a", MERGE, set(json!(["x.test/3"]))).await.is(200);
    assert_eq!(after["metadata"]["finalizers"], json!(["x.test/3"]));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.test/3"]}});
    let after = b.patch("configmaps/a", STRATEGIC, patch).await.is(200);
    assert_eq!(after["metadata"].get("finalizers"), None, "{after}");
}

async fn patch_service_ports(b: &Bench) {
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    b.make("services", json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}})).await;
    let patch = json!({"spec": {"ports": [{"port": 81, "targetPort": 8081}], "selector": {"tier": "front"}}});
    let after = b.patch("services/web", STRATEGIC, patch).await.is(200);
    let mut found: Vec<String> = after["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| format!("{}:{}->{}", port["name"].as_str().unwrap(), port["port"], port["targetPort"]))
        .collect();
    found.sort();
    assert_eq!(found, ["a:80->80", "b:81->8081"]);
    assert_eq!(after["spec"]["selector"], json!({"app": "web", "tier": "front"}));
}

async fn patch_and_put_with_unknown_fields(b: &Bench) {
    let body = json!({"metadata": {"name": "a"}, "data": {"key": "value"}, "colour": "red"});
    let answer = b.post("configmaps", body.clone()).await;
    assert_eq!(answer.warnings, ["299 - \"unknown field \\\"colour\\\"\""]);
    assert_eq!(answer.is(201).get("colour"), None);
    let strict = b.post("configmaps?fieldValidation=Strict&dryRun=All", json!({"metadata": {"name": "b"}, "colour": "red"})).await;
    let message = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"colour\"";
    strict.refused(400, "BadRequest", message);
    let ignored = b.put("configmaps/a?fieldValidation=Ignore", body).await;
    assert_eq!(ignored.warnings, [""; 0]);
    assert_eq!(ignored.is(200).get("colour"), None);
    let patched = b.patch("configmaps/a", MERGE, json!({"colour": "red"})).await;
    assert_eq!(patched.warnings, ["299 - \"unknown field \\\"colour\\\"\""]);
    assert_eq!(patched.is(200).get("colour"), None);
}
