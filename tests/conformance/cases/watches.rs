//! Watches.

use serde_json::json;

use crate::{
    Case,
    answer::version,
    bench::{Bench, MERGE},
    case,
};

pub(crate) const CASES: &[Case] = &[
    case!(watch_from_a_version, "a watch from a version tells everything after it, in order"),
    case!(watch_the_past, "a watch from an older version begins with what has happened since"),
    case!(watch_without_a_version, "a watch without a version begins with what there is"),
    case!(watch_from_version_zero, "a watch from version 0 begins with what there is"),
    case!(watch_with_a_label, "an object that begins to match is added, one that no longer does is deleted"),
    case!(watch_one_object, "a watch of one object by its name"),
    case!(watch_a_field, "a watch of a field selector: a pod that leaves the selector is deleted"),
    case!(watch_ends_in_time, "timeoutSeconds ends a watch"),
    case!(watch_deleted_has_the_last_version, "a deleted object is told with the version of its deletion"),
    case!(watch_finalizers, "what waits for finalizers is modified first and deleted later"),
    case!(watch_version_that_is_none, "a version that is no number is refused"),
    case!(watch_bookmarks, "bookmarks carry a version and nothing else"),
    case!(watch_initial_events, "sendInitialEvents: what there is, then a bookmark that says so"),
    case!(watch_initial_events_needs, "sendInitialEvents needs its resourceVersionMatch, and a watch"),
    case!(watch_metadata_only, "a watch of metadata alone"),
    case!(watch_over_namespaces, "a watch over all namespaces"),
    case!(watch_not_other_namespaces, "a watch of a namespace hears nothing of another"),
    case!(watch_of_a_path, "the old way of watching by path"),
    case!(watch_and_dry_run, "a dry run and a refused write are not told"),
];

async fn watch_from_a_version(b: &Bench) {
    let from = version(&b.get("leases").await.is(200));
    let mut watch = b.watch(&format!("leases?resourceVersion={from}")).await;
    b.make("leases", json!({"metadata": {"name": "a"}})).await;
    b.patch("leases/a", MERGE, json!({"spec": {"holderIdentity": "me"}})).await.is(200);
    b.make("leases", json!({"metadata": {"name": "b"}})).await;
    b.delete("leases/a", json!({})).await.is(200);
    watch.expect(&["ADDED a", "MODIFIED a", "ADDED b", "DELETED a"]).await;
}

async fn watch_the_past(b: &Bench) {
    let from = version(&b.get("leases").await.is(200));
    b.make("leases", json!({"metadata": {"name": "a"}})).await;
    b.patch("leases/a", MERGE, json!({"spec": {"holderIdentity": "me"}})).await.is(200);
    b.delete("leases/a", json!({})).await.is(200);
    let mut watch = b.watch(&format!("leases?resourceVersion={from}")).await;
    let (event, object) = watch.event().await;
    assert_eq!((event.as_str(), object["spec"].get("holderIdentity")), ("ADDED a", None), "as it was then: {object}");
    watch.expect(&["MODIFIED a", "DELETED a"]).await;
}

async fn watch_without_a_version(b: &Bench) {
    b.make("leases", json!({"metadata": {"name": "a"}})).await;
    b.make("leases", json!({"metadata": {"name": "b"}})).await;
    let mut watch = b.watch("leases").await;
    watch.expect(&["ADDED a", "ADDED b"]).await;
    b.make("leases", json!({"metadata": {"name": "c"}})).await;
    watch.expect(&["ADDED c"]).await;
}

async fn watch_from_version_zero(b: &Bench) {
    b.make("leases", json!({"metadata": {"name": "a"}})).await;
    // What is at hand need not be the newest, so it is waited for.
    b.until("leases?resourceVersion=0", |answer| answer.body["items"].as_array().is_some_and(|items| items.len() == 1)).await;
    let mut watch = b.watch("leases?resourceVersion=0").await;
    watch.expect(&["ADDED a"]).await;
    b.delete("leases/a", json!({})).await.is(200);
    watch.expect(&["DELETED a"]).await;
}

async fn watch_with_a_label(b: &Bench) {
    let from = version(&b.config_map("a").await);
    let mut watch = b.watch(&format!("configmaps?resourceVersion={from}&labelSelector=on%3Dyes")).await;
    let set = |value: &str| json!({"metadata": {"labels": {"on": value}}});
    b.patch("configmaps/a", MERGE, set("yes")).await.is(200);
    b.patch("configmaps/a", MERGE, json!({"data": {"x": "y"}})).await.is(200);
    b.patch("configmaps/a", MERGE, set("no")).await.is(200);
    b.patch("configmaps/a", MERGE, json!({"data": {"x": "z"}})).await.is(200);
    b.patch("configmaps/a", MERGE, set("yes")).await.is(200);
    watch.expect(&["ADDED a", "MODIFIED a"]).await;
    let (event, object) = watch.event().await;
    // It is shown as it was when it still matched.
    assert_eq!((event.as_str(), &object["metadata"]["labels"]["on"]), ("DELETED a", &json!("yes")), "{object}");
    watch.expect(&["ADDED a"]).await;
}

async fn watch_one_object(b: &Bench) {
    let from = version(&b.config_map("a").await);
    let mut watch = b.watch(&format!("configmaps?resourceVersion={from}&fieldSelector=metadata.name%3Db")).await;
    b.patch("configmaps/a", MERGE, json!({"data": {"x": "y"}})).await.is(200);
    b.config_map("b").await;
    b.delete("configmaps/a", json!({})).await.is(200);
    b.delete("configmaps/b", json!({})).await.is(200);
    watch.expect(&["ADDED b", "DELETED b"]).await;
}

async fn watch_a_field(b: &Bench) {
    let from = version(&b.pod("a").await);
    let mut watch = b.watch(&format!("pods?resourceVersion={from}&fieldSelector=status.phase%3DPending")).await;
    b.patch("pods/a/status", MERGE, json!({"status": {"phase": "Running"}})).await.is(200);
    watch.expect(&["DELETED a"]).await;
}

async fn watch_ends_in_time(b: &Bench) {
    let from = version(&b.get("leases").await.is(200));
    let begun = tokio::time::Instant::now();
    let mut watch = b.watch(&format!("leases?resourceVersion={from}&timeoutSeconds=2")).await;
    assert_eq!(watch.next().await, None);
    let took = begun.elapsed().as_millis();
    assert!((1_500..6_000).contains(&took), "{took} ms");
}

async fn watch_deleted_has_the_last_version(b: &Bench) {
    let made = b.config_map("a").await;
    let mut watch = b.watch(&format!("configmaps?resourceVersion={}&fieldSelector=metadata.name%3Da", version(&made))).await;
    b.delete("configmaps/a", json!({})).await.is(200);
    let (event, object) = watch.event().await;
    assert_eq!((event.as_str(), &object["data"]), ("DELETED a", &json!({"key": "value"})));
    let number = |object: &serde_json::Value| version(object).parse::<u64>().unwrap();
    assert!(number(&object) > number(&made), "{object}");
}

async fn watch_finalizers(b: &Bench) {
    let made = b.make("configmaps", json!({"metadata": {"name": "a", "finalizers": ["x.test/hold"]}})).await;
    let mut watch = b.watch(&format!("configmaps?resourceVersion={}&fieldSelector=metadata.name%3Da", version(&made))).await;
    b.delete("configmaps/a", json!({})).await.is(200);
    let (event, object) = watch.event().await;
    assert_eq!((event.as_str(), object["metadata"]["deletionTimestamp"].is_string()), ("MODIFIED a", true), "{object}");
    b.patch("configmaps/a", MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
    watch.expect(&["DELETED a"]).await;
}

async fn watch_version_that_is_none(b: &Bench) {
    // Unlike in a list, the server takes it for a fault of its own.
    let body = b.get("leases?watch=true&resourceVersion=new").await.is(500);
    assert_eq!(body.get("reason"), None, "{body}");
}

async fn watch_bookmarks(b: &Bench) {
    let made = b.make("leases", json!({"metadata": {"name": "a"}})).await;
    // The last bookmark comes shortly before the watch ends by itself.
    let path = format!("leases?resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds=6", version(&made));
    let mut watch = b.watch(&path).await;
    let event = watch.next().await.unwrap_or_else(|| panic!("no bookmark"));
    assert_eq!(event["type"], "BOOKMARK", "{event}");
    let object = &event["object"];
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Lease"), &json!("coordination.k8s.io/v1")), "{object}");
    assert!(version(object).parse::<u64>().unwrap() >= version(&made).parse::<u64>().unwrap(), "{object}");
    assert_eq!(object["metadata"].get("name"), None, "{object}");
}

async fn watch_initial_events(b: &Bench) {
    b.make("leases", json!({"metadata": {"name": "a"}})).await;
    b.make("leases", json!({"metadata": {"name": "b"}})).await;
    let path = "leases?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = b.watch(path).await;
    watch.expect(&["ADDED a", "ADDED b"]).await;
    let (event, object) = watch.event().await;
    assert_eq!(event, "BOOKMARK", "{object}");
    assert_eq!(object["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}), "{object}");
    let later = version(&b.make("leases", json!({"metadata": {"name": "c"}})).await);
    watch.expect(&["ADDED c"]).await;
    assert!(version(&object).parse::<u64>().unwrap() < later.parse::<u64>().unwrap());
}

async fn watch_initial_events_needs(b: &Bench) {
    for query in ["watch=true&sendInitialEvents=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"] {
        let body = b.get(&format!("leases?{query}")).await.is(422);
        assert!(body["message"].as_str().unwrap().starts_with("ListOptions.meta.k8s.io \"\" is invalid: "), "{body}");
    }
}

async fn watch_metadata_only(b: &Bench) {
    b.config_map("a").await;
    let answer = b
        .get_as(
            "configmaps?watch=true&resourceVersion=0&timeoutSeconds=1&fieldSelector=metadata.name%3Da",
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        )
        .await;
    let body = answer.is(200);
    // A single line is read as a whole.
    assert_eq!((&body["type"], &body["object"]["kind"]), (&json!("ADDED"), &json!("PartialObjectMetadata")), "{body}");
    assert_eq!((&body["object"]["metadata"]["name"], body["object"].get("data")), (&json!("a"), None), "{body}");
}

async fn watch_over_namespaces(b: &Bench) {
    b.make("namespaces", json!({"metadata": {"name": "@ns@-two"}})).await;
    b.later("namespaces/@ns@-two");
    let from = version(&b.get("/api/v1/configmaps?limit=1").await.is(200));
    let mut watch = b.watch(&format!("/api/v1/configmaps?labelSelector=across%3D@ns@&resourceVersion={from}")).await;
    let object = json!({"metadata": {"name": "a", "labels": {"across": "@ns@"}}});
    b.post("/api/v1/namespaces/@ns@-two/configmaps", object.clone()).await.is(201);
    b.make("configmaps", object).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (event, object) = watch.event().await;
        seen.push(format!("{event} {}", object["metadata"]["namespace"].as_str().unwrap()));
    }
    assert_eq!(seen, ["ADDED a @ns@-two", "ADDED a @ns@"]);
}

async fn watch_not_other_namespaces(b: &Bench) {
    b.make("namespaces", json!({"metadata": {"name": "@ns@-two"}})).await;
    b.later("namespaces/@ns@-two");
    let from = version(&b.get("leases").await.is(200));
    let mut watch = b.watch(&format!("leases?resourceVersion={from}")).await;
    b.post("/apis/coordination.k8s.io/v1/namespaces/@ns@-two/leases", json!({"metadata": {"name": "a"}})).await.is(201);
    b.make("leases", json!({"metadata": {"name": "b"}})).await;
    watch.expect(&["ADDED b"]).await;
}

async fn watch_of_a_path(b: &Bench) {
    b.make("leases", json!({"metadata": {"name": "a"}})).await;
    let answer = b.get("/apis/coordination.k8s.io/v1/watch/namespaces/@ns@/leases/a?timeoutSeconds=1").await;
    let body = answer.is(200);
    assert_eq!((&body["type"], &body["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")), "{body}");
}

async fn watch_and_dry_run(b: &Bench) {
    let made = b.make("leases", json!({"metadata": {"name": "a"}})).await;
    let mut watch = b.watch(&format!("leases?resourceVersion={}", version(&made))).await;
    b.patch("leases/a?dryRun=All", MERGE, json!({"spec": {"holderIdentity": "x"}})).await.is(200);
    b.patch("leases/a", MERGE, json!({"spec": {"leaseDurationSeconds": -1}})).await.is(422);
    b.patch("leases/a", MERGE, json!({})).await.is(200);
    b.patch("leases/a", MERGE, json!({"spec": {"holderIdentity": "y"}})).await.is(200);
    let (event, object) = watch.event().await;
    assert_eq!((event.as_str(), &object["spec"]["holderIdentity"]), ("MODIFIED a", &json!("y")));
}
