//! Pod Security: what the labels of a namespace forbid its pods, and warn of.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Case,
    bench::{Bench, MERGE, STRATEGIC},
    case,
};

pub(crate) const CASES: &[Case] = &[
    case!(pod_security_refuses, "Pod Security refuses a privileged pod in a baseline namespace"),
    case!(pod_security_restricted, "a restricted namespace asks for four things that a pod does not have by itself"),
    case!(pod_security_of_an_older_version, "a namespace may ask for the rules of an older version"),
    case!(pod_security_of_ephemeral_containers, "Pod Security looks at ephemeral containers, and at new images, not at labels"),
    case!(pod_security_warns, "a workload whose pods would be refused is made with a warning"),
    case!(pod_security_labels, "labels of Pod Security that mean nothing are refused"),
];

/// Has the namespace forbid what is above a level, and waits until it does: the server looks at its own copy of the namespace.
async fn enforce(b: &Bench, level: &str) {
    b.account().await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    b.patch("namespaces/@ns@", MERGE, label).await.is(200);
    let probe = json!({"metadata": {"name": "probe"}, "spec": {"hostPID": true, "containers": [{"name": "main", "image": "none"}]}});
    for _ in 0..200 {
        if b.post("pods?dryRun=All", probe.clone()).await.code == 403 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the label does not take effect");
}

fn pod(name: &str, spec: Value, own: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "none", "securityContext": own}]}});
    if let (Some(to), Some(spec)) = (pod["spec"].as_object_mut(), spec.as_object()) {
        to.extend(spec.clone());
    }
    pod
}

const UNRESTRICTED: &str = "allowPrivilegeEscalation != false (container \"main\" must set securityContext.allowPrivilegeEscalation=false), \
     unrestricted capabilities (container \"main\" must set securityContext.capabilities.drop=[\"ALL\"]), \
     runAsNonRoot != true (pod or container \"main\" must set securityContext.runAsNonRoot=true), \
     seccompProfile (pod or container \"main\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

async fn pod_security_refuses(b: &Bench) {
    enforce(b, "baseline").await;
    let body = b.post("pods", pod("a", json!({"hostPID": true}), json!({"privileged": true}))).await;
    let message = "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true), privileged \
                   (container \"main\" must not set securityContext.privileged=true)";
    let body = body.refused(403, "Forbidden", message);
    assert_eq!(body["details"], json!({"name": "a", "kind": "pods"}), "{body}");
    b.pod("b").await;
}

async fn pod_security_restricted(b: &Bench) {
    enforce(b, "restricted").await;
    let message = format!("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": {UNRESTRICTED}");
    b.post("pods", pod("a", json!({}), json!({}))).await.refused(403, "Forbidden", &message);
    let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let whole = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}});
    let answer = b.post("pods", pod("a", whole, own)).await;
    assert_eq!(answer.warnings, [""; 0]);
    answer.is(201);
    // What is wrong with the pod itself is told first.
    let answer = b.post("pods", json!({"metadata": {"name": "b"}, "spec": {"containers": []}})).await;
    answer.invalid("Pod", "b", &["FieldValueRequired spec.containers: Required value"]);
}

async fn pod_security_of_an_older_version(b: &Bench) {
    enforce(b, "baseline").await;
    let probe =
        json!({"containers": [{"name": "main", "image": "none", "livenessProbe": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}}]});
    let message = "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": probe or lifecycle host (container \"main\" uses \
                   probe or lifecycle host \"10.0.0.1\")";
    b.post("pods", pod("a", probe.clone(), json!({}))).await.refused(403, "Forbidden", message);
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce-version": "v1.33"}}});
    b.patch("namespaces/@ns@", MERGE, label).await.is(200);
    for _ in 0..200 {
        let answer = b.post("pods", pod("a", probe.clone(), json!({}))).await;
        if answer.code == 201 {
            return;
        }
        answer.is(403);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the label does not take effect");
}

async fn pod_security_of_ephemeral_containers(b: &Bench) {
    b.account().await;
    let made = b.make("pods", pod("a", json!({"hostIPC": true}), json!({}))).await;
    enforce(b, "baseline").await;
    let container = json!({"name": "debug", "image": "tools", "securityContext": {"privileged": true}});
    let message = "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostIPC=true), privileged \
                   (container \"debug\" must not set securityContext.privileged=true)";
    let patch = json!({"spec": {"ephemeralContainers": [container]}});
    b.patch("pods/a/ephemeralcontainers", STRATEGIC, patch).await.refused(403, "Forbidden", message);
    let image = json!({"spec": {"containers": [{"name": "main", "image": "other"}]}});
    let message = "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostIPC=true)";
    b.patch("pods/a", STRATEGIC, image).await.refused(403, "Forbidden", message);
    let after = b.patch("pods/a", MERGE, json!({"metadata": {"labels": {"step": "two"}}})).await.is(200);
    assert_eq!((&after["metadata"]["labels"]["step"], &after["spec"]), (&json!("two"), &made["spec"]));
}

async fn pod_security_warns(b: &Bench) {
    enforce(b, "baseline").await;
    let mut web = crate::kinds::named("deployments").object("web");
    web["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let warning = "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostNetwork=true)\"";
    let answer = b.post("deployments", web.clone()).await;
    assert_eq!(answer.warnings, [warning]);
    answer.is(201);
    // Who says what to warn of is told that.
    let labels = json!({"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/warn-version": "v1.18"});
    b.patch("namespaces/@ns@", MERGE, json!({"metadata": {"labels": labels}})).await.is(200);
    let warning = "299 - \"would violate PodSecurity \\\"restricted:v1.18\\\": allowPrivilegeEscalation != false (container \\\"main\\\" must set \
                   securityContext.allowPrivilegeEscalation=false), runAsNonRoot != true (pod or container \\\"main\\\" must set \
                   securityContext.runAsNonRoot=true)\"";
    for _ in 0..200 {
        let answer = b.post("pods?dryRun=All", pod("a", json!({}), json!({}))).await;
        if !answer.warnings.is_empty() {
            assert_eq!(answer.warnings, [warning]);
            answer.is(201);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the label does not take effect");
}

async fn pod_security_labels(b: &Bench) {
    for (label, value, why) in [
        ("enforce", "strict", "must be one of privileged, baseline, restricted"),
        ("enforce-version", "1.30", "must be \"latest\" or \"v1.x\""),
        ("warn", "all", "must be one of privileged, baseline, restricted"),
        ("audit-version", "v1.030", "must be \"latest\" or \"v1.x\""),
    ] {
        let mut labels = json!({});
        labels[format!("pod-security.kubernetes.io/{label}")] = json!(value);
        let answer = b.patch("namespaces/@ns@", MERGE, json!({"metadata": {"labels": labels}})).await;
        let cause = format!("FieldValueInvalid metadata.labels[pod-security.kubernetes.io/{label}]: Invalid value: \"{value}\": {why}");
        answer.invalid("Namespace", "@ns@", &[&cause]);
    }
}
