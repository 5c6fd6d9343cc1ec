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
    if kind.kind == "Pod" && value.pointer("/spec/ephemeralContainers").is_some() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    errors
}

/// What a change breaks.
pub(super) fn update(kind: &Kind, subresource: &str, old: &Value, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (was, is) = (&old["metadata"][field], &value["metadata"][field]);
        if was != is {
            errors.push(FieldError::invalid(format!("metadata.{field}"), is.clone(), "field is immutable"));
        }
    }
    names::labels_and_finalizers(kind, value, &mut errors);
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
    // The real one looks at metadata twice, once for all kinds and once for each, and tells both times.
    errors.extend_from_within(..);
    if subresource == "status" {
        if kind.custom() {
            errors.extend(crd::validate(kind, value));
        }
        if kind.kind == "ReplicaSet" {
            workloads::replica_set_status(value, &mut errors);
        }
        return errors;
    }
    contents(kind, value, &mut errors);
    if kind.kind == "Job" {
        // This, too, twice.
        contents(kind, value, &mut errors);
    }
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
        "Secret" if changed("/type") => errors.push(FieldError::invalid("type", at("/type"), "field is immutable")),
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
                if let Some(text) = spec.get(field).and_then(Value::as_str) {
                    let percent = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
                    let why = match percent {
                        Some(percent) if percent > 100 => "must not be greater than 100%",
                        Some(_) => continue,
                        None => {
                            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
                                 used for validation is '[0-9]+%')"
                        }
                    };
                    errors.push(FieldError::invalid(format!("spec.{field}"), text, why));
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
        "Node" => {
            let taints = value.pointer("/spec/taints").and_then(Value::as_array);
            for (n, taint) in taints.into_iter().flatten().enumerate() {
                let effect = text(taint, "/effect");
                let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                if !known.contains(&effect) {
                    errors.push(FieldError::not_supported(format!("metadata.taints[{n}].effect"), effect, &known));
                }
            }
        }
        _ if kind.custom() => errors.extend(crd::validate(kind, value)),
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
            if field == "data" && value.pointer("/binaryData").is_some_and(|binary| binary.get(key).is_some()) {
                errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), "duplicate of key present in binaryData"));
            }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sandbox::{decode, defaults, kinds::Kinds, refusal::Refusal};

    /// The message for an object as its author wrote it.
    fn said(group: &str, plural: &str, object: Value) -> String {
        let kind = Kinds::new().v1(group, plural).unwrap();
        let mut value = decode::typed(&kind, decode::with_kind(&kind, object), None).unwrap();
        defaults::apply(&kind, &mut value);
        let errors = create(&kind, &value);
        if errors.is_empty() {
            return String::new();
        }
        let name = text(&value, "/metadata/name").to_owned();
        Refusal::invalid(&kind, &name, &errors).status()["message"].as_str().unwrap().to_owned()
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    #[test]
    fn pods() {
        assert_eq!(said("", "pods", pod(json!({"containers": [{"name": "a", "image": "b"}]}))), "");
        assert_eq!(said("", "pods", pod(json!({}))), "Pod \"a\" is invalid: spec.containers: Required value");
        let nameless = said("", "pods", pod(json!({"containers": [{}]})));
        assert_eq!(nameless, "Pod \"a\" is invalid: [spec.containers[0].name: Required value, spec.containers[0].image: Required value]");
        let twice = pod(json!({"containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}], "restartPolicy": "Sometimes"}));
        assert_eq!(
            said("", "pods", twice),
            "Pod \"a\" is invalid: [spec.containers[1].name: Duplicate value: \"a\", spec.restartPolicy: Unsupported value: \"Sometimes\": \
             supported values: \"Always\", \"OnFailure\", \"Never\"]"
        );
        let mount = json!({"containers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
        assert_eq!(said("", "pods", pod(mount)), "Pod \"a\" is invalid: spec.containers[0].volumeMounts[0].name: Not found: \"v\"");
    }

    #[test]
    fn names_and_labels() {
        let map = |metadata: Value| said("", "configmaps", json!({"metadata": metadata}));
        assert_eq!(map(json!({"name": "a.b-c"})), "");
        assert_eq!(map(json!({})), "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
        assert_eq!(
            map(json!({"name": "A_b"})),
            "ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        let label = map(json!({"name": "a", "labels": {"app": "-x"}}));
        assert!(
            label.starts_with("ConfigMap \"a\" is invalid: metadata.labels: Invalid value: \"-x\": a valid label must be an empty"),
            "{label}"
        );
        assert!(said("", "namespaces", json!({"metadata": {"name": "a.b"}})).ends_with("must not contain dots"));
        assert!(said("", "services", json!({"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}})).contains("a DNS-1035 label"));
        let key = said("", "configmaps", json!({"metadata": {"name": "a"}, "data": {"a/b": ""}}));
        assert!(key.starts_with("ConfigMap \"a\" is invalid: data[a/b]: Invalid value: \"a/b\": a valid config key"), "{key}");
    }

    #[test]
    fn workloads() {
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
        let deployment = |spec: Value| said("apps", "deployments", json!({"metadata": {"name": "a"}, "spec": spec}));
        let selector = json!({"matchLabels": {"app": "a"}});
        assert_eq!(deployment(json!({"selector": selector, "template": template})), "");
        assert_eq!(
            deployment(json!({"template": template})),
            "Deployment.apps \"a\" is invalid: [spec.selector: Required value, spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: \
             `selector` does not match template `labels`]"
        );
        assert_eq!(
            deployment(json!({"selector": selector, "template": template, "replicas": -1})),
            "Deployment.apps \"a\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let job = json!({"template": {"spec": {"containers": [{"name": "a", "image": "b"}], "restartPolicy": "Never"}}});
        let cron = |schedule: &str| {
            let spec = json!({"schedule": schedule, "jobTemplate": {"spec": job}});
            said("batch", "cronjobs", json!({"metadata": {"name": "a"}, "spec": spec}))
        };
        for right in ["*/5 * * * *", "0 3 1,15 jan-mar mon", "@hourly", "@every 5m", "59 23 31 12 6"] {
            assert_eq!(cron(right), "", "{right}");
        }
        assert_eq!(cron(""), "CronJob.batch \"a\" is invalid: spec.schedule: Required value");
        for (wrong, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert!(cron(wrong).contains(why), "{}", cron(wrong));
        }
    }
}
