//! The resources that drills meet: where they are, and an object of each that no controller makes anything of.

use serde_json::{Value, json};

/// A resource.
pub(crate) struct Kind {
    /// As in paths.
    pub(crate) plural: &'static str,
    /// The API group and version, such as `apps/v1`; `v1` is the core.
    pub(crate) version: &'static str,
    /// The kind.
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
}

const fn kind(plural: &'static str, version: &'static str, kind: &'static str) -> Kind {
    Kind { plural, version, kind, namespaced: true }
}

const fn cluster(plural: &'static str, version: &'static str, kind: &'static str) -> Kind {
    Kind { plural, version, kind, namespaced: false }
}

/// All that the cases name.
pub(crate) const KINDS: &[Kind] = &[
    kind("configmaps", "v1", "ConfigMap"),
    kind("endpoints", "v1", "Endpoints"),
    kind("events", "v1", "Event"),
    kind("persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
    kind("pods", "v1", "Pod"),
    kind("secrets", "v1", "Secret"),
    kind("serviceaccounts", "v1", "ServiceAccount"),
    kind("services", "v1", "Service"),
    kind("controllerrevisions", "apps/v1", "ControllerRevision"),
    kind("daemonsets", "apps/v1", "DaemonSet"),
    kind("deployments", "apps/v1", "Deployment"),
    kind("replicasets", "apps/v1", "ReplicaSet"),
    kind("statefulsets", "apps/v1", "StatefulSet"),
    kind("cronjobs", "batch/v1", "CronJob"),
    kind("jobs", "batch/v1", "Job"),
    kind("leases", "coordination.k8s.io/v1", "Lease"),
    kind("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    kind("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
    kind("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget"),
    kind("rolebindings", "rbac.authorization.k8s.io/v1", "RoleBinding"),
    kind("roles", "rbac.authorization.k8s.io/v1", "Role"),
    cluster("namespaces", "v1", "Namespace"),
    cluster("nodes", "v1", "Node"),
    cluster("persistentvolumes", "v1", "PersistentVolume"),
    cluster("clusterrolebindings", "rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    cluster("clusterroles", "rbac.authorization.k8s.io/v1", "ClusterRole"),
    cluster("priorityclasses", "scheduling.k8s.io/v1", "PriorityClass"),
    cluster("storageclasses", "storage.k8s.io/v1", "StorageClass"),
    cluster("customresourcedefinitions", "apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    cluster("selfsubjectaccessreviews", "authorization.k8s.io/v1", "SelfSubjectAccessReview"),
    cluster("subjectaccessreviews", "authorization.k8s.io/v1", "SubjectAccessReview"),
    cluster("selfsubjectreviews", "authentication.k8s.io/v1", "SelfSubjectReview"),
];

impl Kind {
    /// The group; empty for the core.
    pub(crate) fn group(&self) -> &'static str {
        self.version.split_once('/').map_or("", |(group, _)| group)
    }

    /// As messages and audit logs call it: `deployments.apps`.
    pub(crate) fn called(&self) -> String {
        if self.group().is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group()) }
    }

    /// A small object of the kind, called as asked for and labelled `app: it`, that no controller changes but for its status.
    pub(crate) fn object(&self, name: &str) -> Value {
        let mut object = body(self.plural, name);
        object["apiVersion"] = json!(self.version);
        object["kind"] = json!(self.kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["labels"] = json!({"app": "it"});
        object
    }
}

/// A resource of the table.
pub(crate) fn named(plural: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.plural == plural).unwrap_or_else(|| panic!("no resource {plural} in the table"))
}

/// A path's address: see [`crate::bench::Bench`].
pub(crate) fn url(path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let kind = named(path.split(['/', '?']).next().unwrap_or_default());
    let root = if kind.group().is_empty() { "/api" } else { "/apis" };
    let namespace = if kind.namespaced { "/namespaces/@ns@" } else { "" };
    format!("{root}/{}{namespace}/{path}", kind.version)
}

/// What an object of a kind needs besides its name.
fn body(plural: &str, name: &str) -> Value {
    let container = json!({"name": "main", "image": "none"});
    let template = json!({"metadata": {"labels": {"app": "it"}}, "spec": {"containers": [container]}});
    let selector = json!({"matchLabels": {"app": "it"}});
    let once = json!({"metadata": {"labels": {"app": "it"}}, "spec": {"containers": [container], "restartPolicy": "Never"}});
    match plural {
        "configmaps" => json!({"data": {"key": "value"}}),
        // Endpoints without a Service are cleaned away when their controller begins, unless they look like a leader's.
        "endpoints" => {
            json!({"metadata": {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]})
        }
        "events" => json!({
            "involvedObject": {"kind": "Pod", "namespace": "@ns@", "name": "a"}, "reason": "Tested", "message": "A test.", "type": "Normal"
        }),
        "persistentvolumeclaims" => json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}
        }),
        "pods" => json!({"spec": {"containers": [container], "automountServiceAccountToken": false}}),
        "secrets" => json!({"stringData": {"key": "value"}}),
        "services" => json!({"spec": {"selector": {"app": "it"}, "ports": [{"port": 80}]}}),
        "controllerrevisions" => json!({"revision": 1, "data": {"key": "value"}}),
        "daemonsets" => json!({"spec": {"selector": selector, "template": template}}),
        "deployments" | "replicasets" => json!({"spec": {"replicas": 0, "selector": selector, "template": template}}),
        "statefulsets" => json!({"spec": {"replicas": 0, "serviceName": "it", "selector": selector, "template": template}}),
        "cronjobs" => json!({"spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": once}}}}),
        "jobs" => json!({"spec": {"suspend": true, "template": once}}),
        "leases" => json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}),
        "endpointslices" => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
        "networkpolicies" => json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        "poddisruptionbudgets" => json!({"spec": {"minAvailable": 1, "selector": selector}}),
        "rolebindings" | "clusterrolebindings" => json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody-here"}]
        }),
        "roles" | "clusterroles" => json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        "persistentvolumes" => json!({
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/none"}, "storageClassName": "none"}
        }),
        "priorityclasses" => json!({"value": 10}),
        "storageclasses" => json!({"provisioner": "none.test"}),
        "customresourcedefinitions" => crd(name),
        _ => json!({}),
    }
}

/// A definition of `PLURAL.GROUP` with a spec of a size, a status and a scale.
pub(crate) fn crd(name: &str) -> Value {
    let (plural, group) = name.split_once('.').unwrap_or((name, "none.test"));
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 0}, "colour": {"type": "string", "default": "blue"}, "note": {"type": "string"},
                "crew": {"type": "integer", "minimum": 0}
            }},
            "status": {"type": "object", "properties": {"size": {"type": "integer"}}}
        }
    });
    let scale = json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}, "scale": scale}
            }]
        }
    })
}
