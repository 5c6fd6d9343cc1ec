//! Every verb on every resource that drills meet.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::{names, version},
    bench::{APPLY, Bench, JSON, MERGE, STRATEGIC},
    kinds::{Kind, named},
};

/// `NAME => RESOURCE, KIND OF THE ANSWER TO A DELETE;`: a case for each.
macro_rules! each {
    ($($name:ident => $plural:literal, $deleted:literal;)*) => {
        pub(crate) const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            says: concat!("create, read, list, watch, replace, patch, apply and delete ", $plural),
            nodes: false,
            run: |bench| Box::pin(every_verb(bench, named($plural), $deleted)),
        }),*];
    };
}

each! {
    verbs_of_configmaps => "configmaps", "Status";
    verbs_of_endpoints => "endpoints", "Status";
    verbs_of_events => "events", "Status";
    verbs_of_persistentvolumeclaims => "persistentvolumeclaims", "PersistentVolumeClaim";
    verbs_of_pods => "pods", "Pod";
    verbs_of_secrets => "secrets", "Status";
    verbs_of_serviceaccounts => "serviceaccounts", "ServiceAccount";
    verbs_of_services => "services", "Service";
    verbs_of_daemonsets => "daemonsets", "Status";
    verbs_of_deployments => "deployments", "Status";
    verbs_of_replicasets => "replicasets", "Status";
    verbs_of_statefulsets => "statefulsets", "Status";
    verbs_of_controllerrevisions => "controllerrevisions", "Status";
    verbs_of_cronjobs => "cronjobs", "Status";
    verbs_of_jobs => "jobs", "Status";
    verbs_of_leases => "leases", "Status";
    verbs_of_endpointslices => "endpointslices", "Status";
    verbs_of_networkpolicies => "networkpolicies", "Status";
    verbs_of_poddisruptionbudgets => "poddisruptionbudgets", "Status";
    verbs_of_rolebindings => "rolebindings", "Status";
    verbs_of_roles => "roles", "Status";
    verbs_of_nodes => "nodes", "Status";
    verbs_of_persistentvolumes => "persistentvolumes", "PersistentVolume";
    verbs_of_clusterrolebindings => "clusterrolebindings", "Status";
    verbs_of_clusterroles => "clusterroles", "Status";
    verbs_of_priorityclasses => "priorityclasses", "Status";
    verbs_of_storageclasses => "storageclasses", "StorageClass";
    verbs_of_customresourcedefinitions => "customresourcedefinitions", "CustomResourceDefinition";
}

async fn every_verb(b: &Bench, kind: &'static Kind, deleted: &str) {
    if kind.plural == "pods" {
        b.account().await;
    }
    let name = match (kind.plural, kind.namespaced) {
        ("customresourcedefinitions", _) => "boats.@ns@.test",
        (_, true) => "it",
        (_, false) => "@ns@-it",
    };
    let at = format!("{}/{name}", kind.plural);
    let mut object = kind.object(name);
    object["metadata"]["labels"]["own"] = json!("@ns@");
    create(b, kind, name, &object).await;
    let made = b.get(&at).await.is(200);
    read(b, kind, name, &made).await;
    write(b, kind, name, &made).await;
    remove(b, kind, name, deleted, &made).await;
    together(b, kind, name, object).await;
}

async fn create(b: &Bench, kind: &Kind, name: &str, object: &Value) {
    let (plural, called) = (kind.plural, kind.called());
    let at = format!("{plural}/{name}");
    b.post(&format!("{plural}?dryRun=All"), object.clone()).await.is(201);
    let missing = b.get(&at).await.refused(404, "NotFound", &format!("{called} \"{name}\" not found"));
    let mut details = json!({"name": name, "kind": plural});
    if !kind.group().is_empty() {
        details["group"] = json!(kind.group());
    }
    assert_eq!(missing["details"], details, "{missing}");
    if !kind.namespaced {
        b.later(&at);
    }
    let made = b.post(plural, object.clone()).await.is(201);
    assert_eq!((&made["apiVersion"], &made["kind"]), (&json!(kind.version), &json!(kind.kind)), "{made}");
    let metadata = &made["metadata"];
    assert_eq!(metadata["name"], name, "{made}");
    assert_eq!(metadata["namespace"].as_str(), kind.namespaced.then_some("@ns@"), "{made}");
    assert_eq!(metadata["uid"].as_str().map(str::len), Some(36), "{made}");
    let second = metadata["creationTimestamp"].as_str().map(|time| (time.len(), time.ends_with('Z')));
    assert_eq!(second, Some((20, true)), "whole seconds, UTC: {made}");
    let again = b.post(plural, object.clone()).await.refused(409, "AlreadyExists", &format!("{called} \"{name}\" already exists"));
    assert_eq!(again["details"], details, "{again}");
}

async fn read(b: &Bench, kind: &Kind, name: &str, made: &Value) {
    let plural = kind.plural;
    let list = b.get(&format!("{plural}?fieldSelector=metadata.name%3D{name}")).await.is(200);
    assert_eq!((&list["apiVersion"], &list["kind"]), (&json!(kind.version), &json!(format!("{}List", kind.kind))), "{list}");
    assert_eq!(names(&list), [name], "{list}");
    // An item of a typed list says neither what it is nor of which version.
    assert_eq!((&list["items"][0]["kind"], &list["items"][0]["apiVersion"]), (&Value::Null, &Value::Null), "{list}");
    assert!(!version(&list).is_empty(), "{list}");
    assert_eq!(names(&b.get(&format!("{plural}?labelSelector=own%3D@ns@,app!%3Dother")).await.is(200)), [name]);
    assert_eq!(b.get(&format!("{plural}?labelSelector=own%3D@ns@,app%3Dother")).await.is(200)["items"], json!([]));
    let meta = b.get_as(&format!("{plural}/{name}"), "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await.is(200);
    assert_eq!((&meta["kind"], &meta["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")), "{meta}");
    assert_eq!(meta["metadata"]["uid"], made["metadata"]["uid"], "{meta}");
    assert_eq!((meta.get("spec"), meta.get("data")), (None, None), "{meta}");
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = b.get_as(&format!("{plural}?fieldSelector=metadata.name%3D{name}"), accept).await.is(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")), "{list}");
    assert_eq!(names(&list), [name], "{list}");
}

async fn write(b: &Bench, kind: &Kind, name: &str, made: &Value) {
    let (plural, called) = (kind.plural, kind.called());
    let at = format!("{plural}/{name}");
    let step = |object: &Value| object["metadata"]["labels"]["step"].as_str().unwrap_or_default().to_owned();
    let mut watch = b.watch(&format!("{plural}?fieldSelector=metadata.name%3D{name}&resourceVersion={}", version(made))).await;
    let put = b.replace(&at, |object| object["metadata"]["labels"]["step"] = json!("put")).await.is(200);
    assert_eq!((step(&put), &put["metadata"]["uid"]), ("put".to_owned(), &made["metadata"]["uid"]), "{put}");
    assert_ne!(version(&put), version(made));
    let stale = b.put(&at, made.clone()).await.refused(
        409,
        "Conflict",
        &format!(
            "Operation cannot be fulfilled on {called} \"{name}\": \
             the object has been modified; please apply your changes to the latest version and try again"
        ),
    );
    assert_eq!(stale["details"]["name"], name, "{stale}");
    let to = |step: &str| json!({"metadata": {"labels": {"step": step}}});
    assert_eq!(step(&b.patch(&at, MERGE, to("merge")).await.is(200)), "merge");
    if kind.plural != "customresourcedefinitions" {
        assert_eq!(step(&b.patch(&at, STRATEGIC, to("strategic")).await.is(200)), "strategic");
    }
    let json = json!([{"op": "replace", "path": "/metadata/labels/step", "value": "json"}]);
    assert_eq!(step(&b.patch(&at, JSON, json).await.is(200)), "json");
    let wanted = json!({"apiVersion": kind.version, "kind": kind.kind, "metadata": {"name": name, "labels": {"applied": "yes"}}});
    let applied = b.apply(&at, "conformance", wanted).await.is(200);
    assert_eq!(applied["metadata"]["labels"], json!({"app": "it", "applied": "yes", "own": "@ns@", "step": "json"}), "{applied}");
    let owner = applied["metadata"]["managedFields"].as_array().unwrap().iter().find(|entry| entry["manager"] == "conformance");
    let owner = owner.unwrap_or_else(|| panic!("no entry of the manager: {applied}"));
    assert_eq!((&owner["operation"], &owner["apiVersion"]), (&json!("Apply"), &json!(kind.version)), "{owner}");
    assert_eq!(owner["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:applied": {}}}}), "{owner}");
    // The watch has seen every one of these in this order, whatever else controllers have written in between.
    let mut wanted = vec!["put", "merge", "strategic", "json"];
    wanted.retain(|step| *step != "strategic" || kind.plural != "customresourcedefinitions");
    let mut seen: Vec<String> = Vec::new();
    while seen.last().map(String::as_str) != wanted.last().copied() {
        let (event, object) = watch.event().await;
        assert_eq!(event, format!("MODIFIED {name}"), "{object}");
        assert_eq!((&object["kind"], &object["apiVersion"]), (&json!(kind.kind), &json!(kind.version)), "{object}");
        seen.push(step(&object));
        seen.dedup();
    }
    seen.retain(|step| !step.is_empty());
    assert_eq!(seen, wanted);
    for (patch, body) in [(MERGE, to("none")), (JSON, json!([]))] {
        b.patch(&format!("{plural}/@ns@-none"), patch, body).await.refused(404, "NotFound", &format!("{called} \"@ns@-none\" not found"));
    }
    let mut fresh = kind.object("@ns@-new");
    if plural == "customresourcedefinitions" {
        return;
    }
    // An apply makes what is missing.
    fresh["metadata"]["labels"] = json!({"own": "@ns@", "app": "new"});
    if !kind.namespaced {
        b.later(&format!("{plural}/@ns@-new"));
    }
    let new = b.patch(&format!("{plural}/@ns@-new?fieldManager=conformance"), APPLY, fresh).await.is(201);
    assert_eq!(new["metadata"]["managedFields"][0]["operation"], "Apply", "{new}");
}

async fn remove(b: &Bench, kind: &Kind, name: &str, deleted: &str, made: &Value) {
    let (plural, called) = (kind.plural, kind.called());
    let at = format!("{plural}/{name}");
    b.delete(&format!("{plural}/@ns@-none"), json!({})).await.refused(404, "NotFound", &format!("{called} \"@ns@-none\" not found"));
    let dry = b.delete(&at, json!({"dryRun": ["All"], "propagationPolicy": "Background"})).await.is(200);
    b.get(&at).await.is(200);
    let answer = b.delete(&at, json!({"propagationPolicy": "Background"})).await.is(200);
    assert_eq!((&answer["kind"], &dry["kind"]), (&json!(deleted), &json!(deleted)), "{dry} {answer}");
    if deleted == "Status" {
        let mut details = json!({"name": name, "kind": plural, "uid": made["metadata"]["uid"]});
        if !kind.group().is_empty() {
            details["group"] = json!(kind.group());
        }
        assert_eq!((&answer["status"], &answer["details"]), (&json!("Success"), &details), "{answer}");
    } else {
        assert_eq!(answer["metadata"]["uid"], made["metadata"]["uid"], "{answer}");
    }
    release(b, &at).await;
    b.until(&at, |answer| answer.code == 404).await;
}

/// Takes away the finalizers that admission or defaults have put on some kinds; their controllers may be quicker.
async fn release(b: &Bench, at: &str) {
    let answer = b.patch(at, MERGE, json!({"metadata": {"finalizers": null}})).await;
    assert!(matches!(answer.code, 200 | 404), "{answer:?}");
}

async fn together(b: &Bench, kind: &Kind, name: &str, object: Value) {
    let plural = kind.plural;
    let at = format!("{plural}/{name}");
    b.post(plural, object).await.is(201);
    let list = b.delete(&format!("{plural}?labelSelector=own%3D@ns@,app%3Dit"), json!({"propagationPolicy": "Background"})).await.is(200);
    // What is deleted at once is listed; a Status says so where kinds answer deletes with one.
    assert_eq!(list["kind"], format!("{}List", kind.kind), "{list}");
    assert_eq!(names(&list), [name], "{list}");
    release(b, &at).await;
    b.until(&at, |answer| answer.code == 404).await;
    if plural != "customresourcedefinitions" {
        b.get(&format!("{plural}/@ns@-new")).await.is(200);
    }
}
