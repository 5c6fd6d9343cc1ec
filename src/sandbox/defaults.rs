//! Values that the API server fills in (`pkg/apis/*/v1/defaults.go`).

use serde_json::{Map, Value, json};

use super::{
    core::{as_map, map_at},
    kinds::Kind,
};

fn default(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let missing = map.get(name).is_none_or(|value| value.is_null() || value.as_str() == Some(""));
    if missing {
        map.insert(name.to_owned(), value.into());
    }
}

fn items<'a>(map: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Fills in what is missing.
pub(super) fn apply(kind: &Kind, value: &mut Value) {
    if kind.typed.is_none() {
        return;
    }
    let map = as_map(value);
    match kind.kind.as_str() {
        "Pod" => {
            let spec = map_at(map, "spec");
            default(spec, "enableServiceLinks", true);
            let on_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
            for container in items(spec, "initContainers").filter(|_| on_host) {
                host_ports(container);
            }
            for container in items(spec, "containers").filter(|_| on_host) {
                host_ports(container);
            }
            pod_spec(spec);
            for list in ["initContainers", "containers"] {
                items(map_at(map, "spec"), list).for_each(requests_from_limits);
            }
        }
        "Deployment" => {
            let spec = map_at(map, "spec");
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "progressDeadlineSeconds", 600);
            let strategy = map_at(spec, "strategy");
            default(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                let rolling = map_at(strategy, "rollingUpdate");
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
            template(spec);
        }
        "ReplicaSet" => {
            let spec = map_at(map, "spec");
            default(spec, "replicas", 1);
            template(spec);
        }
        "StatefulSet" => {
            let spec = map_at(map, "spec");
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "podManagementPolicy", "OrderedReady");
            let strategy = map_at(spec, "updateStrategy");
            default(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                default(map_at(strategy, "rollingUpdate"), "partition", 0);
            }
            let retention = map_at(spec, "persistentVolumeClaimRetentionPolicy");
            default(retention, "whenDeleted", "Retain");
            default(retention, "whenScaled", "Retain");
            for claim in items(spec, "volumeClaimTemplates") {
                default(claim, "apiVersion", "v1");
                default(claim, "kind", "PersistentVolumeClaim");
                default(map_at(claim, "spec"), "volumeMode", "Filesystem");
                default(map_at(claim, "status"), "phase", "Pending");
            }
            template(spec);
        }
        "DaemonSet" => {
            let spec = map_at(map, "spec");
            default(spec, "revisionHistoryLimit", 10);
            let strategy = map_at(spec, "updateStrategy");
            default(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                let rolling = map_at(strategy, "rollingUpdate");
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
            template(spec);
        }
        "Job" => job(map_at(map, "spec"), true),
        "CronJob" => {
            let spec = map_at(map, "spec");
            default(spec, "concurrencyPolicy", "Allow");
            default(spec, "suspend", false);
            default(spec, "successfulJobsHistoryLimit", 3);
            default(spec, "failedJobsHistoryLimit", 1);
            let template = map_at(spec, "jobTemplate");
            map_at(template, "metadata");
            job(map_at(template, "spec"), false);
        }
        "Service" => service(map_at(map, "spec")),
        "Secret" => default(map, "type", "Opaque"),
        "Namespace" => {
            let metadata = map_at(map, "metadata");
            if let Some(name) = metadata.get("name").cloned() {
                map_at(metadata, "labels").insert("kubernetes.io/metadata.name".to_owned(), name);
            }
        }
        "PersistentVolumeClaim" => default(map_at(map, "spec"), "volumeMode", "Filesystem"),
        "PersistentVolume" => {
            let spec = map_at(map, "spec");
            default(spec, "volumeMode", "Filesystem");
            default(spec, "persistentVolumeReclaimPolicy", "Retain");
        }
        "EndpointSlice" => {
            for port in items(map, "ports") {
                // An absent name is the empty one.
                port.entry("name").or_insert(Value::from(""));
                default(port, "protocol", "TCP");
            }
            for endpoint in items(map, "endpoints") {
                map_at(endpoint, "conditions");
            }
        }
        "NetworkPolicy" => {
            let spec = map_at(map, "spec");
            if spec.get("policyTypes").is_none() {
                let both = spec.get("egress").is_some_and(|e| e.as_array().is_some_and(|e| !e.is_empty()));
                spec.insert("policyTypes".to_owned(), if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
            }
        }
        "StorageClass" => {
            default(map, "reclaimPolicy", "Delete");
            default(map, "volumeBindingMode", "Immediate");
        }
        "PriorityClass" => default(map, "preemptionPolicy", "PreemptLowerPriority"),
        "RoleBinding" | "ClusterRoleBinding" => {
            default(map_at(map, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
            for subject in items(map, "subjects") {
                let group = if subject.get("kind").and_then(Value::as_str) == Some("ServiceAccount") { "" } else { super::rbac::GROUP };
                if !group.is_empty() {
                    default(subject, "apiGroup", group);
                }
            }
        }
        "Event" => {
            let count = map.get("count").and_then(Value::as_u64);
            if count == Some(0) {
                map.shift_remove("count");
            }
        }
        "CustomResourceDefinition" => super::crd::defaults(map_at(map, "spec")),
        _ => {}
    }
}

fn template(spec: &mut Map<String, Value>) {
    let template = map_at(spec, "template");
    map_at(template, "metadata");
    pod_spec(map_at(template, "spec"));
}

fn job(spec: &mut Map<String, Value>, own: bool) {
    if own {
        let both = spec.get("completions").is_none() && spec.get("parallelism").is_none();
        if both {
            default(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        default(spec, "backoffLimit", 6);
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "podReplacementPolicy", "TerminatingOrFailed");
        default(spec, "manualSelector", false);
    }
    template(spec);
}

fn service(spec: &mut Map<String, Value>) {
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in items(spec, "ports") {
        default(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            let target = port.get("targetPort");
            if target.is_none_or(|t| t.is_null() || t == &Value::from(0) || t == &Value::from("")) {
                port.insert("targetPort".to_owned(), number);
            }
        }
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    map_at(spec, "securityContext");
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".to_owned(), account);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            let tag = image.rsplit('/').next().unwrap_or_default().split_once(':').map(|(_, tag)| tag);
            let latest = !image.contains('@') && matches!(tag, None | Some("latest"));
            default(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
            default(container, "terminationMessagePath", "/dev/termination-log");
            default(container, "terminationMessagePolicy", "File");
            map_at(container, "resources");
            for port in items(container, "ports") {
                default(port, "protocol", "TCP");
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(Value::Object(probe)) = container.get_mut(probe) {
                    default(probe, "timeoutSeconds", 1);
                    default(probe, "periodSeconds", 10);
                    default(probe, "successThreshold", 1);
                    default(probe, "failureThreshold", 3);
                    if let Some(Value::Object(http)) = probe.get_mut("httpGet") {
                        default(http, "path", "/");
                        default(http, "scheme", "HTTP");
                    }
                }
            }
            for variable in items(container, "env") {
                if let Some(Value::Object(field)) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
                    default(field, "apiVersion", "v1");
                }
            }
        }
    }
    for volume in items(spec, "volumes") {
        for source in ["configMap", "secret", "projected", "downwardAPI"] {
            if let Some(Value::Object(source)) = volume.get_mut(source) {
                default(source, "defaultMode", 0o644);
            }
        }
        if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
            path.entry("type").or_insert(Value::from(""));
        }
    }
}

/// In the host's network a container's port is the host's.
fn host_ports(container: &mut Map<String, Value>) {
    for port in items(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            port.entry("hostPort").or_insert(number);
        }
    }
}

/// A limit without a request is also the request; of a pod itself, not of a template.
fn requests_from_limits(container: &mut Map<String, Value>) {
    let resources = map_at(container, "resources");
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = map_at(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// `status.qosClass` (`pkg/apis/core/helper/qos`): Guaranteed when every container's limits for CPU and memory are its
/// requests, BestEffort when there are none.
pub(super) fn qos_class(spec: &Value) -> &'static str {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list).and_then(Value::as_array));
    let containers: Vec<&Value> = lists.flatten().collect();
    let of = |container: &Value, which: &str, what: &str| container.pointer(&format!("/resources/{which}/{what}")).cloned();
    let any = containers
        .iter()
        .any(|c| ["cpu", "memory"].iter().any(|what| of(c, "requests", what).is_some() || of(c, "limits", what).is_some()));
    let all = containers
        .iter()
        .all(|c| ["cpu", "memory"].iter().all(|what| of(c, "limits", what).is_some() && of(c, "limits", what) == of(c, "requests", what)));
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
