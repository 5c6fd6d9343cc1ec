//! Whole objects as the server fills them in.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::bare,
    bench::{Bench, MERGE},
    case,
    kinds::named,
};

pub(crate) const CASES: &[Case] = &[
    case!(defaults_of_a_pod, "what a pod is given"),
    case!(defaults_of_probes, "what probes, ports, mounts and volumes are given"),
    case!(defaults_of_a_deployment, "what a Deployment is given"),
    case!(defaults_of_a_replica_set, "what a ReplicaSet is given"),
    case!(defaults_of_a_stateful_set, "what a StatefulSet is given"),
    case!(defaults_of_a_daemon_set, "what a DaemonSet is given"),
    case!(defaults_of_a_job, "what a Job is given"),
    case!(defaults_of_a_cron_job, "what a CronJob is given"),
    case!(defaults_of_a_service, "what a Service is given: an address, a type, target ports"),
    case!(defaults_of_a_headless_service, "a headless Service has no address"),
    case!(defaults_of_a_claim, "what a claim is given, with its finalizer"),
    case!(defaults_of_a_budget, "what a budget is given"),
    case!(defaults_of_a_secret, "what a Secret is given"),
    case!(defaults_of_a_namespace, "what a Namespace is given, with its label"),
    case!(defaults_of_an_endpoint_slice, "what an EndpointSlice is given"),
    case!(defaults_of_a_binding, "what the subjects and roles of a binding are given"),
    case!(defaults_of_a_node, "what a Node is given"),
    case!(defaults_come_back, "a default that is taken away comes back"),
];

/// A template as the server fills it in.
fn template(restart: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "it"}},
        "spec": {
            "containers": [container()], "dnsPolicy": "ClusterFirst", "restartPolicy": restart, "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30
        }
    })
}

fn container() -> Value {
    json!({
        "name": "main", "image": "none", "imagePullPolicy": "Always", "resources": {},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
    })
}

/// The object of the table, made, must be this (without what is another each time, and without its status).
async fn made(b: &Bench, plural: &str, spec: Value, status: Value) {
    let kind = named(plural);
    let made = bare(&b.make(plural, kind.object("it")).await);
    assert_eq!(made["metadata"]["generation"], 1, "{made}");
    assert_eq!(made["spec"], spec, "{made}");
    assert_eq!(made["status"], status, "{made}");
}

async fn defaults_of_a_pod(b: &Bench) {
    let pod = bare(&b.pod("a").await);
    // How long it stays on a lost node is set where the server is started.
    let seconds = pod["spec"]["tolerations"][0]["tolerationSeconds"].clone();
    let stays = |key: &str| json!({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": seconds});
    let wanted = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "@ns@", "labels": {"app": "a"}, "generation": 1},
        "spec": {
            "automountServiceAccountToken": false, "containers": [container()], "dnsPolicy": "ClusterFirst", "enableServiceLinks": true,
            "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "serviceAccount": "default", "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
            "tolerations": [stays("node.kubernetes.io/not-ready"), stays("node.kubernetes.io/unreachable")]
        },
        "status": {"phase": "Pending", "qosClass": "BestEffort"}
    });
    assert!(seconds.as_i64().is_some_and(|seconds| seconds > 0), "{pod}");
    assert_eq!(pod, wanted);
}

async fn defaults_of_probes(b: &Bench) {
    b.account().await;
    let container = json!({
        "name": "main", "image": "store/app:1.2", "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}}, "livenessProbe": {"tcpSocket": {"port": 80}},
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]
    });
    let volumes = json!([
        {"name": "data", "emptyDir": {}}, {"name": "map", "configMap": {"name": "a"}}, {"name": "secret", "secret": {"secretName": "a"}},
        {"name": "host", "hostPath": {"path": "/x"}}
    ]);
    let spec = json!({"automountServiceAccountToken": false, "hostNetwork": true, "containers": [container], "volumes": volumes});
    let pod = b.make("pods", json!({"metadata": {"name": "a"}, "spec": spec})).await;
    let found = &pod["spec"]["containers"][0];
    assert_eq!(found["imagePullPolicy"], "IfNotPresent", "{found}");
    assert_eq!(found["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]), "{found}");
    let rest = json!({"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1});
    let with = |key: &str, handler: Value| {
        let mut probe = rest.clone();
        probe[key] = handler;
        probe
    };
    assert_eq!(found["readinessProbe"], with("httpGet", json!({"path": "/", "port": 80, "scheme": "HTTP"})), "{found}");
    assert_eq!(found["livenessProbe"], with("tcpSocket", json!({"port": 80})), "{found}");
    assert_eq!(found["env"][0]["valueFrom"]["fieldRef"], json!({"apiVersion": "v1", "fieldPath": "metadata.name"}), "{found}");
    let wanted = json!([
        {"name": "data", "emptyDir": {}}, {"name": "map", "configMap": {"name": "a", "defaultMode": 420}},
        {"name": "secret", "secret": {"secretName": "a", "defaultMode": 420}}, {"name": "host", "hostPath": {"path": "/x", "type": ""}}
    ]);
    assert_eq!(pod["spec"]["volumes"], wanted);
}

async fn defaults_of_a_deployment(b: &Bench) {
    let mut object = named("deployments").object("one");
    object["spec"].as_object_mut().unwrap().remove("replicas");
    object["spec"]["paused"] = json!(true);
    assert_eq!(b.make("deployments", object).await["spec"]["replicas"], 1);
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
    let spec = json!({
        "progressDeadlineSeconds": 600, "replicas": 0, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "it"}},
        "strategy": strategy, "template": template("Always")
    });
    made(b, "deployments", spec, json!({})).await;
    let mut object = named("deployments").object("two");
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    assert_eq!(b.make("deployments", object).await["spec"]["strategy"], json!({"type": "Recreate"}));
}

async fn defaults_of_a_replica_set(b: &Bench) {
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "it"}}, "template": template("Always")});
    made(b, "replicasets", spec, json!({"replicas": 0})).await;
}

async fn defaults_of_a_stateful_set(b: &Bench) {
    let spec = json!({
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}, "podManagementPolicy": "OrderedReady",
        "replicas": 0, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "it"}}, "serviceName": "it",
        "template": template("Always"), "updateStrategy": {"rollingUpdate": {"partition": 0}, "type": "RollingUpdate"}
    });
    made(b, "statefulsets", spec, json!({"availableReplicas": 0, "replicas": 0})).await;
}

async fn defaults_of_a_daemon_set(b: &Bench) {
    let spec = json!({
        "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "it"}}, "template": template("Always"),
        "updateStrategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}, "type": "RollingUpdate"}
    });
    let status = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
    made(b, "daemonsets", spec, status).await;
}

async fn defaults_of_a_job(b: &Bench) {
    let job = bare(&b.make("jobs", named("jobs").object("it")).await);
    let (spec, labels) = (&job["spec"], &job["spec"]["template"]["metadata"]["labels"]);
    let uid = labels["controller-uid"].as_str().unwrap_or_else(|| panic!("{job}"));
    assert_eq!(uid.len(), 36, "{job}");
    let wanted = json!({
        "app": "it", "batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": "it", "controller-uid": uid, "job-name": "it"
    });
    assert_eq!(labels, &wanted, "{job}");
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}), "{job}");
    let mut rest = spec.clone();
    rest.as_object_mut().unwrap().remove("selector");
    let mut filled = template("Never");
    filled["metadata"]["labels"] = wanted;
    let wanted = json!({
        "backoffLimit": 6, "completionMode": "NonIndexed", "completions": 1, "manualSelector": false, "parallelism": 1,
        "podReplacementPolicy": "TerminatingOrFailed", "suspend": true, "template": filled
    });
    assert_eq!(rest, wanted, "{job}");
    assert_eq!(job["status"], json!({}), "{job}");
}

async fn defaults_of_a_cron_job(b: &Bench) {
    let mut filled = template("Never");
    filled["metadata"]["labels"] = json!({"app": "it"});
    let spec = json!({
        "concurrencyPolicy": "Allow", "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {}, "spec": {"template": filled}},
        "schedule": "0 0 1 1 *", "successfulJobsHistoryLimit": 3, "suspend": true
    });
    made(b, "cronjobs", spec, json!({})).await;
    let mut object = named("cronjobs").object("other");
    object["spec"].as_object_mut().unwrap().remove("suspend");
    assert_eq!(b.make("cronjobs", object).await["spec"]["suspend"], false);
}

async fn defaults_of_a_service(b: &Bench) {
    let service = bare(&b.make("services", named("services").object("it")).await);
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_else(|| panic!("{service}"));
    assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{service}");
    let wanted = json!({
        "clusterIP": address, "clusterIPs": [address], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"app": "it"},
        "sessionAffinity": "None", "type": "ClusterIP"
    });
    assert_eq!((&service["spec"], &service["status"]), (&wanted, &json!({"loadBalancer": {}})));
    let other = b.make("services", named("services").object("other")).await;
    assert_ne!(other["spec"]["clusterIP"], address);
}

async fn defaults_of_a_headless_service(b: &Bench) {
    let mut object = named("services").object("it");
    object["spec"]["clusterIP"] = json!("None");
    object["spec"]["ports"] = json!([{"port": 80, "targetPort": "web", "protocol": "UDP"}]);
    let service = b.make("services", object).await;
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["clusterIPs"]), (&json!("None"), &json!(["None"])));
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "protocol": "UDP", "targetPort": "web"}]));
    let named = json!({"metadata": {"name": "away"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let service = b.make("services", named).await;
    assert_eq!(service["spec"].get("clusterIP"), None, "{service}");
}

async fn defaults_of_a_claim(b: &Bench) {
    let claim = bare(&b.make("persistentvolumeclaims", named("persistentvolumeclaims").object("it")).await);
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]), "{claim}");
    let wanted = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none", "volumeMode": "Filesystem"
    });
    assert_eq!((&claim["spec"], &claim["status"]), (&wanted, &json!({"phase": "Pending"})), "{claim}");
}

async fn defaults_of_a_budget(b: &Bench) {
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "it"}}});
    let status = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
    made(b, "poddisruptionbudgets", spec, status).await;
}

async fn defaults_of_a_secret(b: &Bench) {
    let secret = bare(&b.make("secrets", named("secrets").object("it")).await);
    let wanted = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "it", "namespace": "@ns@", "labels": {"app": "it"}},
        "data": {"key": "dmFsdWU="}, "type": "Opaque"
    });
    assert_eq!(secret, wanted);
}

async fn defaults_of_a_namespace(b: &Bench) {
    let space = bare(&b.get("namespaces/@ns@").await.is(200));
    let wanted = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "@ns@", "labels": {"kubernetes.io/metadata.name": "@ns@"}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}
    });
    assert_eq!(space, wanted);
    let after = b.patch("namespaces/@ns@", MERGE, json!({"metadata": {"labels": {"kubernetes.io/metadata.name": null}}})).await.is(200);
    assert_eq!(after["metadata"]["labels"]["kubernetes.io/metadata.name"], "@ns@", "{after}");
}

async fn defaults_of_an_endpoint_slice(b: &Bench) {
    let slice = bare(&b.make("endpointslices", named("endpointslices").object("it")).await);
    assert_eq!(slice["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]), "{slice}");
    assert_eq!(slice["endpoints"], json!([{"addresses": ["10.0.0.1"], "conditions": {}}]), "{slice}");
}

async fn defaults_of_a_binding(b: &Bench) {
    let subjects = json!([{"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "robot", "namespace": "@ns@"}]);
    let body = json!({"metadata": {"name": "a"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": subjects});
    let made = b.make("rolebindings", body).await;
    let group = "rbac.authorization.k8s.io";
    assert_eq!(made["roleRef"], json!({"apiGroup": group, "kind": "ClusterRole", "name": "view"}));
    let wanted =
        json!([{"apiGroup": group, "kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "robot", "namespace": "@ns@"}]);
    assert_eq!(made["subjects"], wanted);
}

async fn defaults_of_a_node(b: &Bench) {
    b.later("nodes/@ns@-node");
    let node = bare(&b.make("nodes", json!({"metadata": {"name": "@ns@-node"}})).await);
    assert_eq!(node["metadata"]["name"], "@ns@-node");
    // Tainted from the beginning, until it says that it is ready.
    assert_eq!(node["spec"]["taints"], json!([{"effect": "NoSchedule", "key": "node.kubernetes.io/not-ready"}]), "{node}");
}

async fn defaults_come_back(b: &Bench) {
    b.make("deployments", named("deployments").object("web")).await;
    let patch = json!({"spec": {"revisionHistoryLimit": null, "strategy": null, "template": {"spec": {"dnsPolicy": null}}}});
    let after = b.patch("deployments/web", MERGE, patch).await.is(200);
    let spec = &after["spec"];
    assert_eq!((&spec["revisionHistoryLimit"], &spec["strategy"]["type"]), (&json!(10), &json!("RollingUpdate")), "{after}");
    assert_eq!(spec["template"]["spec"]["dnsPolicy"], "ClusterFirst", "{after}");
    assert_eq!(after["metadata"]["generation"], 1, "nothing has changed: {after}");
}
