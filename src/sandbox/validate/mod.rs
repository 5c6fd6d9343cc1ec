//! Rules of the fields that drills touch, with Kubernetes' words (`pkg/apis/*/validation`). What is not here is not checked:
//! `docs/sandbox.md` says so.

mod names;
mod pods;
mod workloads;

use serde_json::{Value, json};

use super::{
    core::{strings, text},
    crd,
    kinds::Kind,
    refusal::FieldError,
};

pub(super) use pods::ephemeral;

/// What an object that is made breaks.
pub(super) fn create(kind: &Kind, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    names::metadata(kind, value, &mut errors);
    contents(kind, value, &mut errors);
    errors
}

/// What a change breaks.
pub(super) fn update(kind: &Kind, subresource: &str, old: &Value, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (was, is) = (&old["metadata"][field], &value["metadata"][field]);
        if was != is {
            errors.push(FieldError::invalid(format!("metadata.{field}"), is.clone(), "field is immutable"));
        }
    }
    names::labels_and_finalizers(value, &mut errors);
    if old.pointer("/metadata/deletionTimestamp").is_some() {
        let had = strings(old, "/metadata/finalizers");
        let new: Vec<&str> = strings(value, "/metadata/finalizers").into_iter().filter(|f| !had.contains(f)).collect();
        if !new.is_empty() {
            let list: Vec<String> = new.iter().map(|f| format!("\"{f}\"")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    if subresource == "status" {
        if kind.custom() {
            errors.extend(crd::validate(&kind.schema, value));
        }
        return errors;
    }
    contents(kind, value, &mut errors);
    frozen(kind, old, value, &mut errors);
    errors
}

/// What cannot be changed.
fn frozen(kind: &Kind, old: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    let changed = |pointer: &str| old.pointer(pointer) != value.pointer(pointer);
    let at = |pointer: &str| value.pointer(pointer).cloned().unwrap_or(Value::Null);
    match kind.kind.as_str() {
        "Pod" => pods::frozen(old, value, errors),
        "Deployment" | "ReplicaSet" | "DaemonSet" if changed("/spec/selector") => {
            errors.push(FieldError::invalid("spec.selector", at("/spec/selector"), "field is immutable"));
        }
        "StatefulSet" => workloads::stateful_set_frozen(old, value, errors),
        "Job" => workloads::job_frozen(old, value, errors),
        "ConfigMap" | "Secret" if old.get("immutable") == Some(&Value::Bool(true)) => {
            if value.get("immutable") != Some(&Value::Bool(true)) {
                errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
            }
            for field in ["data", "binaryData"] {
                if old.get(field) != value.get(field) {
                    errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
        }
        "Service"
            if changed("/spec/clusterIP")
                && !matches!(text(value, "/spec/type"), "ExternalName")
                && !text(old, "/spec/clusterIP").is_empty() =>
        {
            errors.push(FieldError::invalid("spec.clusterIPs[0]", json!([at("/spec/clusterIP")]), "may not change once set"));
        }
        "RoleBinding" | "ClusterRoleBinding" if changed("/roleRef") => {
            errors.push(FieldError::invalid("roleRef", at("/roleRef"), "cannot change roleRef"));
        }
        "PersistentVolumeClaim" => {
            let bare = |value: &Value| {
                let mut spec = value.get("spec").cloned().unwrap_or_default();
                if let Some(spec) = spec.as_object_mut() {
                    spec.shift_remove("resources");
                    spec.shift_remove("volumeAttributesClassName");
                    // A claim without one gets its volume's name once.
                    if text(old, "/spec/volumeName").is_empty() {
                        spec.shift_remove("volumeName");
                    }
                }
                spec
            };
            if bare(old) != bare(value) {
                let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
                errors.push(FieldError::forbidden("spec", why));
            }
        }
        "Secret" if changed("/type") => errors.push(FieldError::invalid("type", at("/type"), "field is immutable")),
        _ => {}
    }
}

fn contents(kind: &Kind, value: &Value, errors: &mut Vec<FieldError>) {
    match kind.kind.as_str() {
        "Pod" => pods::spec(value.get("spec").unwrap_or(&Value::Null), "spec", errors),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => workloads::replicated(kind, value, errors),
        "Job" => workloads::job(value.get("spec").unwrap_or(&Value::Null), "spec", errors),
        "CronJob" => workloads::cron_job(value, errors),
        "Service" => service(value, errors),
        "ConfigMap" | "Secret" => data(kind, value, errors),
        "Lease" => {
            let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64);
            if let Some(n) = number("/spec/leaseDurationSeconds").filter(|n| *n <= 0) {
                errors.push(FieldError::invalid("spec.leaseDurationSeconds", n, "must be greater than 0"));
            }
            if let Some(n) = number("/spec/leaseTransitions").filter(|n| *n < 0) {
                errors.push(FieldError::invalid("spec.leaseTransitions", n, "must be greater than or equal to 0"));
            }
        }
        "PodDisruptionBudget" => {
            let spec = value.get("spec").unwrap_or(&Value::Null);
            if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
                errors.push(FieldError::invalid("spec", spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
            }
            for field in ["minAvailable", "maxUnavailable"] {
                if let Some(n) = spec.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
                    errors.push(FieldError::invalid(format!("spec.{field}"), n, "must be greater than or equal to 0"));
                }
            }
        }
        "Role" | "ClusterRole" => rules(kind, value, errors),
        "RoleBinding" | "ClusterRoleBinding" => {
            let name = text(value, "/roleRef/name");
            if name.is_empty() {
                errors.push(FieldError::required("roleRef.name", ""));
            }
            let known: &[&str] = if kind.namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
            let of = text(value, "/roleRef/kind");
            if !known.contains(&of) {
                errors.push(FieldError::not_supported("roleRef.kind", of, known));
            }
        }
        "PersistentVolumeClaim" => {
            if value.pointer("/spec/accessModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
                errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
            }
            if value.pointer("/spec/resources/requests/storage").is_none() {
                errors.push(FieldError::required("spec.resources[storage]", ""));
            }
        }
        "Event" => {
            let (of, place) = (text(value, "/involvedObject/namespace"), text(value, "/metadata/namespace"));
            if of.is_empty() && place != "default" || !of.is_empty() && of != place {
                errors.push(FieldError::invalid("involvedObject.namespace", of, "does not match event.namespace"));
            }
        }
        "CustomResourceDefinition" => definition(value, errors),
        _ if kind.custom() => errors.extend(crd::validate(&kind.schema, value)),
        _ => {}
    }
}

fn service(value: &Value, errors: &mut Vec<FieldError>) {
    let ports = value.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let kind = text(value, "/spec/type");
    if ports.is_empty() && kind != "ExternalName" && text(value, "/spec/clusterIP") != "None" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !known.contains(&kind) {
        errors.push(FieldError::not_supported("spec.type", kind, &known));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{n}]");
        let name = text(port, "/name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            names::dns_label(name).into_iter().for_each(|why| errors.push(FieldError::invalid(format!("{path}.name"), name, why)));
            if seen.contains(&name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            seen.push(name);
        }
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            errors.push(FieldError::invalid(format!("{path}.port"), number, "must be between 1 and 65535, inclusive"));
        }
        let protocol = text(port, "/protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(format!("{path}.protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
    }
}

/// The largest ConfigMap or Secret, in bytes.
const LARGEST_DATA: usize = 1024 * 1024;

fn data(kind: &Kind, value: &Value, errors: &mut Vec<FieldError>) {
    let mut total = 0;
    for field in ["data", "binaryData"] {
        for (key, content) in value.get(field).and_then(Value::as_object).into_iter().flatten() {
            for why in names::config_key(key) {
                errors.push(FieldError::invalid(format!("{field}[{key}]"), key.as_str(), why));
            }
            let text = content.as_str().unwrap_or_default();
            total += if kind.kind == "Secret" || field == "binaryData" { text.len() / 4 * 3 } else { text.len() };
        }
    }
    if total > LARGEST_DATA {
        let field = if kind.kind == "Secret" { "data" } else { "" };
        errors.push(FieldError::new(
            super::refusal::Wrong::TooLong,
            field,
            Value::Null,
            format!("may not be more than {LARGEST_DATA} bytes"),
        ));
    }
}

fn rules(kind: &Kind, value: &Value, errors: &mut Vec<FieldError>) {
    for (n, rule) in value.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let path = format!("rules[{n}]");
        let none = |field: &str| rule.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty);
        if none("verbs") {
            errors.push(FieldError::required(format!("{path}.verbs"), "verbs must contain at least one value"));
        }
        if !none("nonResourceURLs") {
            if kind.namespaced {
                let urls = rule["nonResourceURLs"].clone();
                errors.push(FieldError::invalid(
                    format!("{path}.nonResourceURLs"),
                    urls,
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            continue;
        }
        if none("apiGroups") {
            errors.push(FieldError::required(format!("{path}.apiGroups"), "resource rules must supply at least one api group"));
        }
        if none("resources") {
            errors.push(FieldError::required(format!("{path}.resources"), "resource rules must supply at least one resource"));
        }
    }
}

fn definition(value: &Value, errors: &mut Vec<FieldError>) {
    let (group, plural, name) = (text(value, "/spec/group"), text(value, "/spec/names/plural"), text(value, "/metadata/name"));
    let wanted = format!("{plural}.{group}");
    if name != wanted {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    for (field, pointer) in
        [("spec.group", "/spec/group"), ("spec.names.plural", "/spec/names/plural"), ("spec.names.kind", "/spec/names/kind")]
    {
        if text(value, pointer).is_empty() {
            errors.push(FieldError::required(field, ""));
        }
    }
    let scope = text(value, "/spec/scope");
    if !matches!(scope, "Cluster" | "Namespaced") {
        errors.push(FieldError::not_supported("spec.scope", scope, &["Cluster", "Namespaced"]));
    }
    let versions = value.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if versions.iter().filter(|version| version["storage"] == json!(true)).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", json!(versions), "must have exactly one version marked as storage version"));
    }
    for (n, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            errors.push(FieldError::required(format!("spec.versions[{n}].schema.openAPIV3Schema"), "schemas are required"));
        }
    }
}
