//! Pods: what of them can be changed, ephemeral containers, binding, logs and exec without a kubelet.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, JSON, MERGE, STRATEGIC},
    case,
};

pub(crate) const CASES: &[Case] = &[
    case!(pod_spec_is_fixed, "of a pod's spec only a few fields can be changed"),
    case!(pod_image_can_change, "a pod's image can be changed, and its labels"),
    case!(pod_tolerations_are_added, "tolerations can be added and not taken away"),
    case!(pod_deadline_shortens, "activeDeadlineSeconds can be set and shortened, not lengthened"),
    case!(pod_needs_its_account, "a pod is refused while its ServiceAccount does not exist"),
    case!(pod_priority_class_unknown, "a pod with an unknown priority class is refused"),
    case!(pod_on_a_node, "a pod that is made with a node has one from the beginning"),
    case!(binding_puts_a_pod_on_a_node, "a binding puts a pod on a node, once"),
    case!(binding_of_a_missing_pod, "a binding of a pod that is not there"),
    case!(ephemeral_containers_are_added, "an ephemeral container is added by strategic merge"),
    case!(ephemeral_containers_stay, "an ephemeral container cannot be changed or removed"),
    case!(ephemeral_containers_elsewhere, "a new pod has no ephemeral containers, and an update cannot add any"),
    case!(log_of_a_pod_without_a_node, "the log of a pod that has no node"),
    case!(log_of_a_missing_pod, "the log of a pod, and of a container, that is not there"),
    case!(log_of_one_of_two, "the log of a pod with two containers needs a name"),
    case!(exec_without_a_node, "exec in a pod that has no node"),
    case!(exec_in_a_missing_container, "exec in a container, and in a pod, that is not there"),
    case!(exec_on_a_node_that_cannot_be_reached, "log and exec of a pod on a node that has no address"),
    case!(pod_conditions_and_phase, "a pod begins pending, without conditions, with its class of service"),
    case!(pod_quality_of_service, "the class of service follows from requests and limits"),
    case!(pod_service_account_token, "a token is mounted unless it is declined"),
];

fn two() -> Value {
    json!({"metadata": {"name": "two"}, "spec": {"containers": [{"name": "main", "image": "none"}, {"name": "side", "image": "none"}]}})
}

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                     `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

async fn pod_spec_is_fixed(b: &Bench) {
    b.pod("a").await;
    for patch in [
        json!([{"op": "add", "path": "/spec/hostname", "value": "x"}]),
        json!([{"op": "add", "path": "/spec/containers/0/command", "value": ["x"]}]),
        json!([{"op": "replace", "path": "/spec/restartPolicy", "value": "Never"}]),
    ] {
        let body = b.patch("pods/a", JSON, patch).await.is(422);
        let cause = &body["details"]["causes"][0];
        assert_eq!((&cause["reason"], &cause["field"]), (&json!("FieldValueForbidden"), &json!("spec")), "{body}");
        let message = cause["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("Forbidden: {FIXED}\n")), "the difference follows: {message}");
    }
    let added = json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "more", "image": "none"}}]);
    let cause = "FieldValueForbidden spec.containers: Forbidden: pod updates may not add or remove containers";
    b.patch("pods/a", JSON, added).await.invalid("Pod", "a", &[cause]);
}

async fn pod_image_can_change(b: &Bench) {
    b.pod("a").await;
    let patch = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "main", "image": "new"}]}});
    let after = b.patch("pods/a", STRATEGIC, patch).await.is(200);
    assert_eq!((&after["spec"]["containers"][0]["image"], &after["metadata"]["labels"]["x"]), (&json!("new"), &json!("y")));
    assert_eq!(after["metadata"]["generation"], 2, "{after}");
}

async fn pod_tolerations_are_added(b: &Bench) {
    let made = b.pod("a").await;
    let before = made["spec"]["tolerations"].as_array().unwrap().clone();
    let mut more = before.clone();
    more.push(json!({"key": "x", "operator": "Exists"}));
    let after = b.patch("pods/a", MERGE, json!({"spec": {"tolerations": more}})).await.is(200);
    assert_eq!(after["spec"]["tolerations"].as_array().unwrap().len(), before.len() + 1);
    b.patch("pods/a", MERGE, json!({"spec": {"tolerations": before}})).await.is(422);
}

async fn pod_deadline_shortens(b: &Bench) {
    b.pod("a").await;
    let set = |seconds: i64| json!({"spec": {"activeDeadlineSeconds": seconds}});
    b.patch("pods/a", MERGE, set(60)).await.is(200);
    b.patch("pods/a", MERGE, set(30)).await.is(200);
    let cause = "FieldValueInvalid spec.activeDeadlineSeconds: Invalid value: 40: must be less than or equal to previous value";
    b.patch("pods/a", MERGE, set(40)).await.invalid("Pod", "a", &[cause]);
}

async fn pod_needs_its_account(b: &Bench) {
    let spec = json!({"containers": [{"name": "main", "image": "none"}], "serviceAccountName": "nobody"});
    let answer = b.post("pods", json!({"metadata": {"name": "a"}, "spec": spec})).await;
    let message = "pods \"a\" is forbidden: error looking up service account @ns@/nobody: serviceaccount \"nobody\" not found";
    answer.refused(403, "Forbidden", message);
}

async fn pod_priority_class_unknown(b: &Bench) {
    b.account().await;
    let spec = json!({"containers": [{"name": "main", "image": "none"}], "priorityClassName": "@ns@-none"});
    let answer = b.post("pods", json!({"metadata": {"name": "a"}, "spec": spec})).await;
    let message = "pods \"a\" is forbidden: no PriorityClass with name @ns@-none was found";
    answer.refused(403, "Forbidden", message);
    b.make("priorityclasses", json!({"metadata": {"name": "@ns@-high"}, "value": 77})).await;
    b.later("priorityclasses/@ns@-high");
    let spec = json!({"containers": [{"name": "main", "image": "none"}], "priorityClassName": "@ns@-high"});
    // Admission knows classes from a cache of its own, which may be a moment behind.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let made = loop {
        let answer = b.post("pods", json!({"metadata": {"name": "a"}, "spec": spec})).await;
        if answer.code != 403 || tokio::time::Instant::now() >= deadline {
            break answer.is(201);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]), (&json!(77), &json!("PreemptLowerPriority")));
}

async fn pod_on_a_node(b: &Bench) {
    let made = b.bound_pod("a").await;
    assert_eq!((&made["spec"]["nodeName"], &made["status"]["phase"]), (&json!("@ns@-node"), &json!("Pending")));
}

fn binding(pod: &str) -> Value {
    json!({"metadata": {"name": pod}, "target": {"apiVersion": "v1", "kind": "Node", "name": "@ns@-node"}})
}

async fn binding_puts_a_pod_on_a_node(b: &Bench) {
    b.pod("a").await;
    b.later("pods/a");
    b.node().await;
    let answer = b.post("pods/a/binding", binding("a")).await.is(201);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")), "{answer}");
    let bound = b.get("pods/a").await.is(200);
    assert_eq!(bound["spec"]["nodeName"], "@ns@-node");
    let scheduled = bound["status"]["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == "PodScheduled");
    assert_eq!(scheduled.unwrap_or_else(|| panic!("{bound}"))["status"], "True");
    let message = "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"@ns@-node\"";
    b.post("pods/a/binding", binding("a")).await.refused(409, "Conflict", message);
}

async fn binding_of_a_missing_pod(b: &Bench) {
    b.node().await;
    b.post("pods/none/binding", binding("none")).await.refused(404, "NotFound", "pods \"none\" not found");
}

fn debugger(name: &str, image: &str) -> Value {
    json!({"spec": {"ephemeralContainers": [{"name": name, "image": image, "targetContainerName": "main"}]}})
}

async fn ephemeral_containers_are_added(b: &Bench) {
    b.pod("a").await;
    let after = b.patch("pods/a/ephemeralcontainers", STRATEGIC, debugger("debug", "tools")).await.is(200);
    assert_eq!(after["kind"], "Pod");
    let wanted = json!([{
        "name": "debug", "image": "tools", "targetContainerName": "main", "imagePullPolicy": "Always", "resources": {},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
    }]);
    assert_eq!(after["spec"]["ephemeralContainers"], wanted);
    let after = b.patch("pods/a/ephemeralcontainers", STRATEGIC, debugger("second", "tools")).await.is(200);
    assert_eq!(after["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    assert_eq!(after["spec"]["containers"].as_array().unwrap().len(), 1);
    let read = b.get("pods/a/ephemeralcontainers").await.is(200);
    assert_eq!(read["spec"]["ephemeralContainers"], after["spec"]["ephemeralContainers"]);
}

async fn ephemeral_containers_stay(b: &Bench) {
    b.pod("a").await;
    b.patch("pods/a/ephemeralcontainers", STRATEGIC, debugger("debug", "tools")).await.is(200);
    let body = b.patch("pods/a/ephemeralcontainers", STRATEGIC, debugger("debug", "other")).await.is(422);
    assert_eq!(body["details"]["causes"][0]["field"], "spec.ephemeralContainers", "{body}");
    let body = b.patch("pods/a/ephemeralcontainers", MERGE, json!({"spec": {"ephemeralContainers": null}})).await.is(422);
    assert_eq!(body["details"]["causes"][0]["reason"], "FieldValueForbidden", "{body}");
    let body = b.patch("pods/a/ephemeralcontainers", STRATEGIC, debugger("main", "tools")).await.is(422);
    assert_eq!(body["details"]["causes"][0]["reason"], "FieldValueDuplicate", "{body}");
}

async fn ephemeral_containers_elsewhere(b: &Bench) {
    b.account().await;
    let mut pod = two();
    pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "tools"}]);
    let cause = "FieldValueForbidden spec.ephemeralContainers: Forbidden: cannot be set on create";
    b.post("pods", pod).await.invalid("Pod", "two", &[cause]);
    b.pod("a").await;
    b.patch("pods/a", STRATEGIC, debugger("debug", "tools")).await.is(422);
}

async fn log_of_a_pod_without_a_node(b: &Bench) {
    b.pod("a").await;
    let answer = b.get("pods/a/log").await;
    assert_eq!((answer.code, &answer.body), (204, &json!("")), "{answer:?}");
}

async fn log_of_a_missing_pod(b: &Bench) {
    b.get("pods/none/log").await.refused(404, "NotFound", "pods \"none\" not found");
    b.pod("a").await;
    b.get("pods/a/log?container=none").await.refused(400, "BadRequest", "container none is not valid for pod a");
}

async fn log_of_one_of_two(b: &Bench) {
    b.account().await;
    b.make("pods", two()).await;
    let message = "a container name must be specified for pod two, choose one of: [main side]";
    b.get("pods/two/log").await.refused(400, "BadRequest", message);
    b.get("pods/two/log?container=side").await.is(204);
    let answer = b.get("pods/two/log?container=side&tailLines=-1").await.is(422);
    assert_eq!(answer["details"]["causes"][0]["field"], "tailLines", "{answer}");
}

async fn exec_without_a_node(b: &Bench) {
    b.pod("a").await;
    b.get("pods/a/exec?command=true&stdout=true").await.refused(400, "BadRequest", "pod a does not have a host assigned");
    b.get("pods/a/portforward?ports=80").await.refused(400, "BadRequest", "pod a does not have a host assigned");
}

async fn exec_in_a_missing_container(b: &Bench) {
    b.pod("a").await;
    b.get("pods/none/exec?command=true&stdout=true").await.refused(404, "NotFound", "pods \"none\" not found");
    let answer = b.get("pods/a/exec?command=true&stdout=true&container=none").await;
    answer.refused(400, "BadRequest", "container none is not valid for pod a");
}

async fn exec_on_a_node_that_cannot_be_reached(b: &Bench) {
    b.bound_pod("a").await;
    for path in ["pods/a/exec?command=true&stdout=true", "pods/a/log", "pods/a/portforward?ports=80"] {
        let body = b.get(path).await.is(500);
        let wanted = json!("no preferred addresses found; known addresses: []");
        assert_eq!((&body["message"], body.get("reason")), (&wanted, None), "{path}: {body}");
    }
}

async fn pod_conditions_and_phase(b: &Bench) {
    let made = b.pod("a").await;
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(made["metadata"]["generation"], 1, "{made}");
}

async fn pod_quality_of_service(b: &Bench) {
    b.account().await;
    let both = json!({"cpu": "100m", "memory": "64Mi"});
    for (name, resources, class, requests) in [
        ("a", json!({"limits": both}), "Guaranteed", both.clone()),
        ("b", json!({"requests": {"cpu": "50m"}}), "Burstable", json!({"cpu": "50m"})),
        ("c", json!({"requests": {"cpu": "0.1", "memory": "64Mi"}, "limits": both}), "Guaranteed", both.clone()),
    ] {
        let spec = json!({"containers": [{"name": "main", "image": "none", "resources": resources}]});
        let made = b.make("pods", json!({"metadata": {"name": name}, "spec": spec})).await;
        assert_eq!((&made["status"]["qosClass"], &made["spec"]["containers"][0]["resources"]["requests"]), (&json!(class), &requests));
    }
}

async fn pod_service_account_token(b: &Bench) {
    b.account().await;
    let made = b.make("pods", json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "main", "image": "none"}]}})).await;
    let spec = &made["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount", "{spec}");
    assert_eq!((&mount["name"], &mount["readOnly"]), (&spec["volumes"][0]["name"], &json!(true)), "{spec}");
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"), "{spec}");
    let without = b.pod("b").await;
    assert_eq!((without["spec"].get("volumes"), without["spec"]["containers"][0].get("volumeMounts")), (None, None), "{without}");
}
