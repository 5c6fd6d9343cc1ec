//! What the API server does with an object's metadata.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{bare, names, version},
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(generate_name, "generateName is followed by five signs of the alphabet without vowels"),
    case!(name_wins_over_generate_name, "a name is taken although there is a generateName"),
    case!(neither_name, "an object without name and generateName is invalid"),
    case!(generation_counts_the_spec, "generation goes up with the spec and not with labels or status"),
    case!(no_generation_without_a_spec, "a ConfigMap has no generation"),
    case!(an_update_that_changes_nothing, "a write that changes nothing leaves the resourceVersion as it is"),
    case!(server_fields_cannot_be_set, "uid, creationTimestamp, generation and deletionTimestamp of a new object are the server's"),
    case!(create_with_a_resource_version, "a new object must not bring a resourceVersion"),
    case!(update_with_another_uid, "an update whose uid is another object's is a conflict"),
    case!(update_without_a_version, "an update without resourceVersion takes what is there"),
    case!(update_under_another_name, "the name in the body must be that of the path"),
    case!(namespace_in_the_body, "the namespace in the body must be that of the path"),
    case!(version_in_a_merge_patch, "a merge patch with an old resourceVersion is a conflict"),
    case!(uid_in_a_merge_patch, "a merge patch with another uid is invalid"),
    case!(a_name_comes_free, "a name can be used again, under another uid and a later version"),
    case!(dry_run_of_an_update, "a dry run of an update says what would be and writes nothing"),
    case!(managed_fields_name_the_writer, "managedFields say who wrote which fields"),
    case!(managed_fields_can_be_reset, "an empty list of managedFields in an update forgets the owners"),
    case!(label_selector_of_many_terms, "set-based selectors: in, notin, exists, does not exist"),
    case!(owner_references_are_kept, "owner references are stored, and one without a uid is invalid"),
    case!(a_version_grows, "every write of whatever object has a higher version"),
];

async fn generate_name(b: &Bench) {
    let body = json!({"metadata": {"generateName": "map-"}});
    let mut found = Vec::new();
    for _ in 0..5 {
        let made = b.make("configmaps", body.clone()).await;
        assert_eq!(made["metadata"]["generateName"], "map-");
        let name = made["metadata"]["name"].as_str().unwrap().to_owned();
        let suffix = name.strip_prefix("map-").unwrap();
        assert!(suffix.len() == 5 && suffix.chars().all(|sign| "bcdfghjklmnpqrstvwxz2456789".contains(sign)), "{name}");
        found.push(name);
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 5);
}

async fn name_wins_over_generate_name(b: &Bench) {
    let made = b.make("configmaps", json!({"metadata": {"name": "a", "generateName": "map-"}})).await;
    assert_eq!((&made["metadata"]["name"], &made["metadata"]["generateName"]), (&json!("a"), &json!("map-")));
}

async fn neither_name(b: &Bench) {
    let causes = ["FieldValueRequired metadata.name: Required value: name or generateName is required"];
    b.post("configmaps", json!({"metadata": {}})).await.invalid("ConfigMap", "", &causes);
}

async fn generation_counts_the_spec(b: &Bench) {
    let generation = |object: &Value| object["metadata"]["generation"].as_i64();
    assert_eq!(generation(&b.make("deployments", named("deployments").object("web")).await), Some(1));
    let at = "deployments/web";
    assert_eq!(generation(&b.patch(at, MERGE, json!({"metadata": {"labels": {"a": "b"}}})).await.is(200)), Some(1));
    assert_eq!(generation(&b.patch(at, MERGE, json!({"spec": {"paused": true}})).await.is(200)), Some(2));
    assert_eq!(generation(&b.patch(at, MERGE, json!({"spec": {"paused": true}})).await.is(200)), Some(2));
    assert_eq!(generation(&b.patch("deployments/web/status", MERGE, json!({"status": {"collisionCount": 3}})).await.is(200)), Some(2));
    assert_eq!(generation(&b.patch(at, MERGE, json!({"metadata": {"generation": 9}})).await.is(200)), Some(2));
    assert_eq!(generation(&b.get(at).await.is(200)), Some(2));
}

async fn no_generation_without_a_spec(b: &Bench) {
    let made = b.config_map("a").await;
    assert_eq!(made["metadata"].get("generation"), None, "{made}");
    let after = b.patch("configmaps/a", MERGE, json!({"data": {"key": "other"}})).await.is(200);
    assert_eq!(after["metadata"].get("generation"), None, "{after}");
}

async fn an_update_that_changes_nothing(b: &Bench) {
    let made = b.config_map("a").await;
    assert_eq!(version(&b.put("configmaps/a", made.clone()).await.is(200)), version(&made));
    assert_eq!(version(&b.patch("configmaps/a", MERGE, json!({"data": {"key": "value"}})).await.is(200)), version(&made));
    assert_eq!(version(&b.patch("configmaps/a", MERGE, json!({})).await.is(200)), version(&made));
    assert_ne!(version(&b.patch("configmaps/a", MERGE, json!({"data": {"key": "other"}})).await.is(200)), version(&made));
}

async fn server_fields_cannot_be_set(b: &Bench) {
    let metadata = json!({
        "name": "web", "uid": "00000000-0000-0000-0000-000000000001", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7,
        "deletionTimestamp": "2001-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3, "selfLink": "/here"
    });
    let mut object = named("deployments").object("web");
    object["metadata"] = metadata;
    object["status"] = json!({"replicas": 5});
    let made = b.make("deployments", object).await;
    assert_ne!(made["metadata"]["uid"], "00000000-0000-0000-0000-000000000001", "{made}");
    assert_ne!(made["metadata"]["creationTimestamp"], "2001-01-01T00:00:00Z", "{made}");
    assert_eq!(made["metadata"]["generation"], 1, "{made}");
    assert_eq!((made["metadata"].get("deletionTimestamp"), made["metadata"].get("deletionGracePeriodSeconds")), (None, None), "{made}");
    assert_eq!(made["status"], json!({}), "{made}");
}

async fn create_with_a_resource_version(b: &Bench) {
    let answer = b.post("configmaps", json!({"metadata": {"name": "a", "resourceVersion": "1"}})).await;
    let body = answer.is(500);
    let wanted = json!("resourceVersion should not be set on objects to be created");
    // The server has no reason for it, only a message.
    assert_eq!((&body["message"], body.get("reason")), (&wanted, None), "{body}");
}

async fn update_with_another_uid(b: &Bench) {
    let mut made = b.config_map("a").await;
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    made["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000001");
    let message = format!(
        "Operation cannot be fulfilled on configmaps \"a\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/@ns@/a, \
         ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: 00000000-0000-0000-0000-000000000001, \
         UID in object meta: {uid}"
    );
    b.put("configmaps/a", made).await.refused(409, "Conflict", &message);
}

async fn update_without_a_version(b: &Bench) {
    let made = b.config_map("a").await;
    let after = b.put("configmaps/a", json!({"metadata": {"name": "a"}, "data": {"other": "value"}})).await.is(200);
    assert_eq!((&after["data"], &after["metadata"]["uid"]), (&json!({"other": "value"}), &made["metadata"]["uid"]));
    assert_eq!(after["metadata"].get("labels"), None, "an update replaces: {after}");
    let nothing = b.put("configmaps/none", json!({"metadata": {"name": "none"}})).await;
    nothing.refused(404, "NotFound", "configmaps \"none\" not found");
}

async fn update_under_another_name(b: &Bench) {
    b.config_map("a").await;
    let answer = b.put("configmaps/a", json!({"metadata": {"name": "b"}})).await;
    answer.refused(400, "BadRequest", "the name of the object (b) does not match the name on the URL (a)");
}

async fn namespace_in_the_body(b: &Bench) {
    let answer = b.post("configmaps", json!({"metadata": {"name": "a", "namespace": "other"}})).await;
    answer.refused(400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request");
    let made = b.make("configmaps", json!({"metadata": {"name": "a", "namespace": "@ns@"}})).await;
    assert_eq!(made["metadata"]["namespace"], "@ns@");
}

async fn version_in_a_merge_patch(b: &Bench) {
    let made = b.config_map("a").await;
    let with = |version: &str| json!({"metadata": {"resourceVersion": version}, "data": {"by": version}});
    let second = b.patch("configmaps/a", MERGE, with(&version(&made))).await.is(200);
    let conflict = b.patch("configmaps/a", MERGE, with(&version(&made))).await;
    conflict.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
    let now = b.get("configmaps/a").await.is(200);
    assert_eq!((version(&now), &now["data"]["by"]), (version(&second), &json!(version(&made))));
}

async fn uid_in_a_merge_patch(b: &Bench) {
    let made = b.config_map("a").await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    b.patch("configmaps/a", MERGE, json!({"metadata": {"uid": uid}, "data": {"a": "b"}})).await.is(200);
    let wrong = "00000000-0000-0000-0000-000000000001";
    let other = json!({"metadata": {"uid": wrong}, "data": {"a": "c"}});
    // Not a conflict, as it is for an update.
    let cause = format!("FieldValueInvalid metadata.uid: Invalid value: \"{wrong}\": field is immutable");
    b.patch("configmaps/a", MERGE, other).await.invalid("ConfigMap", "a", &[&cause]);
}

async fn a_name_comes_free(b: &Bench) {
    let first = b.config_map("a").await;
    b.delete("configmaps/a", json!({})).await.is(200);
    let second = b.config_map("a").await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    let number = |object: &Value| version(object).parse::<u64>().unwrap();
    assert!(number(&second) > number(&first));
}

async fn dry_run_of_an_update(b: &Bench) {
    let made = b.config_map("a").await;
    let would = b.patch("configmaps/a?dryRun=All", MERGE, json!({"data": {"key": "other"}})).await.is(200);
    assert_eq!(would["data"]["key"], "other");
    assert_eq!(b.get("configmaps/a").await.is(200), made);
    let mut next = made.clone();
    next["data"]["key"] = json!("third");
    assert_eq!(b.put("configmaps/a?dryRun=All", next).await.is(200)["data"]["key"], "third");
    assert_eq!(b.get("configmaps/a").await.is(200), made);
    let answer = b.patch("configmaps/a?dryRun=Some", MERGE, json!({})).await;
    let body = answer.is(422);
    assert_eq!(body["reason"], "Invalid", "{body}");
}

async fn managed_fields_name_the_writer(b: &Bench) {
    let body = json!({"metadata": {"name": "a", "labels": {"app": "a"}}, "data": {"one": "1"}});
    let made = b.post("configmaps?fieldManager=first", body).await.is(201);
    let entry = |object: &Value, index: usize| {
        let mut entry = object["metadata"]["managedFields"][index].clone();
        let time = entry.as_object_mut().and_then(|entry| entry.remove("time"));
        assert!(time.is_some_and(|time| time.as_str().is_some_and(|time| time.ends_with('Z'))), "{object}");
        entry
    };
    let first = json!({
        "manager": "first", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {".": {}, "f:one": {}}, "f:metadata": {"f:labels": {".": {}, "f:app": {}}}}
    });
    assert_eq!(entry(&made, 0), first);
    let after = b.patch("configmaps/a?fieldManager=second", MERGE, json!({"data": {"two": "2"}})).await.is(200);
    assert_eq!(after["metadata"]["managedFields"].as_array().unwrap().len(), 2, "{after}");
    assert_eq!(entry(&after, 0), first);
    let second = json!({
        "manager": "second", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:two": {}}}
    });
    assert_eq!(entry(&after, 1), second);
    // Who changes a value owns it from then on.
    let third = b.patch("configmaps/a?fieldManager=second", MERGE, json!({"data": {"one": "3"}})).await.is(200);
    assert_eq!(entry(&third, 0)["fieldsV1"], json!({"f:data": {}, "f:metadata": {"f:labels": {".": {}, "f:app": {}}}}));
    assert_eq!(entry(&third, 1)["fieldsV1"], json!({"f:data": {"f:one": {}, "f:two": {}}}));
}

async fn managed_fields_can_be_reset(b: &Bench) {
    b.config_map("a").await;
    let after = b.patch("configmaps/a", MERGE, json!({"metadata": {"managedFields": [{}]}})).await.is(200);
    assert_eq!(after["metadata"].get("managedFields"), None, "{after}");
}

async fn label_selector_of_many_terms(b: &Bench) {
    for (name, tier) in [("a", Some("front")), ("b", Some("back")), ("c", None)] {
        let labels = tier.map_or_else(|| json!({"all": "x"}), |tier| json!({"all": "x", "tier": tier}));
        b.make("configmaps", json!({"metadata": {"name": name, "labels": labels}})).await;
    }
    for (selector, wanted) in [
        ("tier%20in%20(front,middle),all", &["a"][..]),
        ("tier%20notin%20(front),all", &["b", "c"]),
        ("tier,all%3D%3Dx", &["a", "b"]),
        ("!tier,all", &["c"]),
        ("tier!%3Dfront,all", &["b", "c"]),
        ("all%3Dy", &[]),
    ] {
        assert_eq!(names(&b.get(&format!("configmaps?labelSelector={selector}")).await.is(200)), wanted, "{selector}");
    }
}

async fn owner_references_are_kept(b: &Bench) {
    let owner = b.config_map("owner").await;
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]});
    let made = b.make("configmaps", json!({"metadata": {"name": "a", "ownerReferences": [reference]}})).await;
    assert_eq!(bare(&made)["metadata"]["ownerReferences"], json!([reference]));
    let body =
        json!({"metadata": {"name": "b", "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": ""}]}});
    let answer = b.post("configmaps", body).await;
    answer.invalid("ConfigMap", "b", &["FieldValueInvalid metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"]);
}

async fn a_version_grows(b: &Bench) {
    let mut last = 0;
    for resource in ["configmaps", "secrets", "services", "leases"] {
        let made = b.make(resource, named(resource).object("a")).await;
        let now: u64 = version(&made).parse().unwrap();
        assert!(now > last, "{now} after {last}");
        last = now;
    }
    let list: u64 = version(&b.get("configmaps").await.is(200)).parse().unwrap();
    assert!(list >= last, "{list} after {last}");
}
