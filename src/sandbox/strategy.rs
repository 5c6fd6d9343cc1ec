//! What each kind's strategy does to an object before it is stored (`pkg/registry/*/*/strategy.go`), and admission: the
//! namespace must be there and living, service accounts must exist.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    core::{State, as_map, map_at, meta, text},
    crd,
    kinds::{Generation, Kind},
    rbac,
    refusal::{Answer, FieldError, Refusal},
    request::Ask,
    store::Key,
};

impl State {
    /// Admission before an object is created (plugins NamespaceLifecycle, ServiceAccount, Priority, DefaultTolerationSeconds).
    ///
    /// # Errors
    /// 404: there is no such namespace. 403: it is being deleted, or the pod's service account does not exist.
    pub(super) fn admit(&mut self, kind: &Kind, key: &Key, value: &mut Value) -> Answer<()> {
        let Key(namespace, name) = key;
        if kind.namespaced {
            let Some(found) = self.peek("", "namespaces", "", namespace) else {
                let kind = self.kinds.v1("", "namespaces");
                return Err(kind.map_or_else(Refusal::no_such_page, |kind| Refusal::not_found(&kind, namespace)));
            };
            if text(&found.value, "/status/phase") == "Terminating" {
                let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
                let cause = format!("namespace {namespace} is being terminated");
                return Err(Refusal::forbidden(&kind.group, &kind.plural, name, &why).cause(
                    "NamespaceTerminating",
                    &cause,
                    "metadata.namespace",
                ));
            }
        }
        match kind.kind.as_str() {
            "Pod" => self.admit_pod(kind, key, value)?,
            // TaintNodesByCondition: until the node life cycle controller knows better.
            "Node" => {
                let taints = map_at(as_map(value), "spec").entry("taints").or_insert_with(|| json!([]));
                let taint = "node.kubernetes.io/not-ready";
                if let Value::Array(taints) = taints
                    && !taints.iter().any(|t| text(t, "/key") == taint)
                {
                    taints.push(json!({"key": taint, "effect": "NoSchedule"}));
                }
            }
            // StorageObjectInUseProtection.
            "PersistentVolumeClaim" => add_finalizer(value, "kubernetes.io/pvc-protection"),
            "PersistentVolume" => add_finalizer(value, "kubernetes.io/pv-protection"),
            _ => {}
        }
        Ok(())
    }

    fn admit_pod(&mut self, kind: &Kind, key: &Key, value: &mut Value) -> Answer<()> {
        let class = text(value, "/spec/priorityClassName").to_owned();
        let spec = map_at(as_map(value), "spec");
        let account =
            spec.get("serviceAccountName").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
        // The controller that makes `default` in each namespace may be behind, or not be there.
        if account != "default" && self.peek("", "serviceaccounts", &key.0, &account).is_none() {
            let why = format!("error looking up service account {}/{account}: serviceaccount \"{account}\" not found", key.0);
            return Err(Refusal::forbidden(&kind.group, &kind.plural, &key.1, &why));
        }
        spec.insert("serviceAccountName".to_owned(), Value::from(account.as_str()));
        let declined = |value: Option<&Value>| value.and_then(|value| value.get("automountServiceAccountToken")).and_then(Value::as_bool);
        let declined_by_account = declined(self.peek("", "serviceaccounts", &key.0, &account).map(|account| &account.value));
        spec.insert("serviceAccount".to_owned(), Value::from(account));
        if spec.get("automountServiceAccountToken").and_then(Value::as_bool).or(declined_by_account) != Some(false) {
            let volume = format!("kube-api-access-{}", self.store.suffix());
            mount_token(spec, &volume);
        }
        let (priority, policy) = match class.as_str() {
            "" => (0, "PreemptLowerPriority".to_owned()),
            "system-node-critical" => (2_000_001_000, "PreemptLowerPriority".to_owned()),
            "system-cluster-critical" => (2_000_000_000, "PreemptLowerPriority".to_owned()),
            other => match self.peek("scheduling.k8s.io", "priorityclasses", "", other) {
                Some(class) => {
                    let policy = text(&class.value, "/preemptionPolicy");
                    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
                    (class.value["value"].as_i64().unwrap_or(0), policy.to_owned())
                }
                None => {
                    let why = format!("no PriorityClass with name {other} was found");
                    return Err(Refusal::forbidden(&kind.group, &kind.plural, &key.1, &why));
                }
            },
        };
        spec.insert("priority".to_owned(), Value::from(priority));
        spec.entry("preemptionPolicy").or_insert(Value::from(policy));
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Value::Array(tolerations) = tolerations {
            for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
                let tolerated = tolerations
                    .iter()
                    .any(|t| (text(t, "/key") == taint || text(t, "/key").is_empty()) && matches!(text(t, "/effect"), "NoExecute" | ""));
                if !tolerated {
                    tolerations.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
                }
            }
        }
        Ok(())
    }

    /// What is asked last: nobody gives away rights that they do not have.
    ///
    /// # Errors
    /// 403.
    pub(super) fn admit_last(&self, ask: &Ask, kind: &Kind, old: Option<&Value>, value: &Value) -> Answer<()> {
        if kind.group == rbac::GROUP { rbac::escalates(self, ask, kind, old, value) } else { Ok(()) }
    }
}

fn add_finalizer(value: &mut Value, finalizer: &str) {
    let finalizers = meta(value).entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(finalizers) = finalizers
        && !finalizers.iter().any(|f| f == finalizer)
    {
        finalizers.push(Value::from(finalizer));
    }
}

/// The volume with the service account's token, in every container that has nothing of its own there
/// (`plugin/pkg/admission/serviceaccount`).
fn mount_token(spec: &mut serde_json::Map<String, Value>, volume: &str) {
    const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = as_map(container).entry("volumeMounts").or_insert_with(|| json!([]));
            if let Value::Array(mounts) = mounts
                && !mounts.iter().any(|mount| text(mount, "/mountPath") == PATH)
            {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": PATH}));
                mounted = true;
            }
        }
    }
    if mounted && let Value::Array(volumes) = spec.entry("volumes").or_insert_with(|| json!([])) {
        let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ]}}));
    }
}

/// Sets what the kind's own code sets when an object is made.
///
/// # Errors
/// 422: a Service asks for an address that is taken.
pub(super) fn before_create(state: &mut State, kind: &Kind, value: &mut Value) -> Answer<()> {
    let map = as_map(value);
    match kind.kind.as_str() {
        "Pod" => {
            let class = super::defaults::qos_class(map.get("spec").unwrap_or(&Value::Null));
            map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        }
        "Namespace" => {
            map.insert("spec".to_owned(), json!({"finalizers": ["kubernetes"]}));
            map.insert("status".to_owned(), json!({"phase": "Active"}));
            let name = text(value, "/metadata/name").to_owned();
            // Also where the name is wrong: validation tells so afterwards.
            map_at(meta(value), "labels").insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
        }
        "PersistentVolumeClaim" | "PersistentVolume" => {
            map.insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        "Service" => {
            map.insert("status".to_owned(), json!({"loadBalancer": {}}));
            service_addresses(state, kind, value)?;
        }
        "CustomResourceDefinition" => {
            map.shift_remove("status");
            crd::before_create(value);
        }
        "Secret" => string_data(value),
        "Node" => {}
        "Job" => {
            map.insert("status".to_owned(), json!({}));
            job_selector(value);
        }
        _ if kind.custom() && kind.status => {
            map.shift_remove("status");
        }
        _ if kind.custom() => {}
        _ if kind.status => {
            let status = match kind.kind.as_str() {
                "ReplicaSet" => json!({"replicas": 0}),
                "StatefulSet" => json!({"replicas": 0, "availableReplicas": 0}),
                "DaemonSet" => json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
                "PodDisruptionBudget" => {
                    json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
                }
                "Ingress" => json!({"loadBalancer": {}}),
                _ => json!({}),
            };
            map.insert("status".to_owned(), status);
        }
        _ => {}
    }
    Ok(())
}

/// `stringData` is a way to write `data`, and never read.
fn string_data(value: &mut Value) {
    use base64::Engine as _;
    let map = as_map(value);
    let Some(Value::Object(texts)) = map.shift_remove("stringData") else { return };
    let data = map_at(map, "data");
    for (name, text) in texts {
        let text = text.as_str().unwrap_or_default();
        data.insert(name, Value::from(base64::engine::general_purpose::STANDARD.encode(text)));
    }
}

/// Services have addresses of 10.96.0.0/12, as kubeadm's.
fn service_addresses(state: &mut State, kind: &Kind, value: &mut Value) -> Answer<()> {
    let name = text(value, "/metadata/name").to_owned();
    let spec = map_at(as_map(value), "spec");
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        return Ok(());
    }
    let taken: BTreeSet<String> =
        state.store.list("/services", "").map(|(_, service)| text(&service.value, "/spec/clusterIP").to_owned()).collect();
    let given = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let address = if given.is_empty() {
        // The lower part of the range is for addresses that are asked for.
        let mut free = None;
        for _ in 0..4096 {
            let n = 4096 + state.store.below(61_440);
            let address = format!("10.96.{}.{}", n / 256, n % 256);
            if !taken.contains(&address) && !matches!(n % 256, 0 | 255) {
                free = Some(address);
                break;
            }
        }
        free.ok_or_else(|| Refusal::internal("failed to allocate IP for service: range is full"))?
    } else if given != "None" && taken.contains(&given) {
        let error = FieldError::invalid(
            "spec.clusterIPs",
            json!([given]),
            format!("failed to allocate IP {given}: provided IP is already allocated"),
        );
        return Err(Refusal::invalid(kind, &name, &[error]));
    } else {
        given
    };
    spec.insert("clusterIP".to_owned(), Value::from(address.as_str()));
    spec.entry("clusterIPs").or_insert_with(|| json!([address]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| Value::from("SingleStack"));
    if spec.get("type").and_then(Value::as_str).is_some_and(|t| t == "NodePort" || t == "LoadBalancer") {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) == 0 {
                as_map(port).insert("nodePort".to_owned(), Value::from(30_000 + state.store.below(2768)));
            }
        }
    }
    Ok(())
}

/// A Job finds its pods by its own uid, unless the author brings a selector (`spec.manualSelector`).
fn job_selector(value: &mut Value) {
    if value.pointer("/spec/manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let name = text(value, "/metadata/name").to_owned();
    let uid = text(value, "/metadata/uid").to_owned();
    let spec = map_at(as_map(value), "spec");
    spec.insert("selector".to_owned(), json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    let labels = map_at(map_at(map_at(spec, "template"), "metadata"), "labels");
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(label.to_owned(), Value::from(value.as_str()));
    }
}

/// What of its metadata nobody can change (`rest.BeforeUpdate`).
pub(super) fn keep_metadata(old: &Value, value: &mut Value) {
    let metadata = meta(value);
    for field in ["creationTimestamp", "generation", "selfLink", "resourceVersion"] {
        match old["metadata"].get(field) {
            Some(kept) => drop(metadata.insert(field.to_owned(), kept.clone())),
            None => drop(metadata.shift_remove(field)),
        }
    }
    // Set on what lives, validation refuses them.
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let Some(kept) = old["metadata"].get(field) {
            metadata.insert(field.to_owned(), kept.clone());
        }
    }
    for field in ["namespace", "name", "uid"] {
        if let Some(kept) = old["metadata"].get(field) {
            metadata.entry(field).or_insert_with(|| kept.clone());
        }
    }
}

/// An update of an object leaves its status alone, one of its status all else.
pub(super) fn before_update(kind: &Kind, subresource: &str, old: &Value, value: &mut Value) {
    let keep = |value: &mut Value, field: &str| match old.get(field) {
        Some(kept) => drop(as_map(value).insert(field.to_owned(), kept.clone())),
        None => drop(as_map(value).shift_remove(field)),
    };
    match subresource {
        "" if kind.status => keep(value, "status"),
        "status" => {
            let status = as_map(value).shift_remove("status");
            let metadata = as_map(value).shift_remove("metadata");
            let mut kept = old.clone();
            if let Some(status) = status {
                as_map(&mut kept).insert("status".to_owned(), status);
            } else {
                as_map(&mut kept).shift_remove("status");
            }
            if let Some(new) = metadata {
                // Most kinds let their metadata be changed by way of the status; these do not.
                let frozen = kind.custom() || matches!(kind.group.as_str(), "apps" | "batch" | "policy");
                if frozen {
                    if let Some(managed) = new.get("managedFields") {
                        meta(&mut kept).insert("managedFields".to_owned(), managed.clone());
                    }
                    // Its controller notes the revision in this way, which leaves the generation alone.
                    if kind.kind == "Deployment" {
                        match new.get("annotations") {
                            Some(annotations) => drop(meta(&mut kept).insert("annotations".to_owned(), annotations.clone())),
                            None => drop(meta(&mut kept).shift_remove("annotations")),
                        }
                    }
                } else {
                    as_map(&mut kept).insert("metadata".to_owned(), new);
                    if let Some(owners) = old["metadata"].get("ownerReferences") {
                        meta(&mut kept).insert("ownerReferences".to_owned(), owners.clone());
                    }
                }
            }
            *value = kept;
        }
        _ => {}
    }
    match kind.kind.as_str() {
        "Secret" => string_data(value),
        "Namespace" if subresource != "finalize" => keep(value, "spec"),
        "Service" if subresource.is_empty() => {
            // Addresses stay when an update does not name them.
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
                if let Some(kept) = old["spec"].get(field) {
                    let spec = map_at(as_map(value), "spec");
                    if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
                        spec.entry(field).or_insert_with(|| kept.clone());
                    }
                }
            }
        }
        "Job" if subresource.is_empty() => {
            let spec = map_at(as_map(value), "spec");
            if let Some(kept) = old["spec"].get("selector") {
                spec.entry("selector").or_insert_with(|| kept.clone());
            }
        }
        _ => {}
    }
}

/// Whether an update changed nothing: then nothing is written. Times of managers do not count.
pub(super) fn same_but_times(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let body = old.len() == new.len() && old.iter().all(|(name, value)| name == "metadata" || new.get(name) == Some(value));
    if !body {
        return false;
    }
    let (Some(Value::Object(old)), Some(Value::Object(new))) = (old.get("metadata"), new.get("metadata")) else {
        return old.get("metadata") == new.get("metadata");
    };
    let timeless = |old: &Value, new: &Value| match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let others = |map: &serde_json::Map<String, Value>| map.len() - usize::from(map.contains_key("time"));
            others(old) == others(new) && old.iter().all(|(name, value)| name == "time" || new.get(name) == Some(value))
        }
        _ => old == new,
    };
    let same = |name: &str, old: &Value, new: &Value| match (old, new) {
        (Value::Array(old), Value::Array(new)) if name == "managedFields" => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| timeless(old, new))
        }
        _ => old == new,
    };
    old.len() == new.len() && old.iter().all(|(name, value)| new.get(name).is_some_and(|new| same(name, value, new)))
}

/// Counts changes of what is wanted.
pub(super) fn bump_generation(kind: &Kind, old: &Value, value: &mut Value) {
    let annotations = |value: &Value| value.pointer("/metadata/annotations").cloned();
    let rest = |value: &Value| {
        let mut map = value.as_object().cloned().unwrap_or_default();
        map.shift_remove("metadata");
        if kind.status {
            map.shift_remove("status");
        }
        map
    };
    let changed = match kind.generation {
        Generation::None => false,
        Generation::Spec => old.get("spec") != value.get("spec"),
        Generation::SpecOrAnnotations => old.get("spec") != value.get("spec") || annotations(old) != annotations(value),
        Generation::Custom => rest(old) != rest(value),
    };
    if changed {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        meta(value).insert("generation".to_owned(), Value::from(generation + 1));
    }
}

/// Whether an update takes the last finalizer from an object that is being deleted.
pub(super) fn ends_with_update(kind: &Kind, old: &Value, value: &Value) -> bool {
    let finalizers = |value: &Value| value.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
    if old.pointer("/metadata/deletionTimestamp").is_none() || finalizers(value) > 0 {
        return false;
    }
    if kind.kind == "Namespace" {
        return value.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty);
    }
    // A definition is marked without a grace period.
    finalizers(old) > 0 && old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}
