//! Pods and the pods in templates (`pkg/apis/core/validation`).

use serde_json::{Value, json};

use super::names;
use crate::sandbox::{core::text, quantity::Quantity, refusal::FieldError};

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A pod's spec at a path.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let volumes = list(spec, "volumes");
    let mut seen: Vec<&str> = Vec::new();
    for (n, volume) in volumes.iter().enumerate() {
        name(volume, &format!("{path}.volumes[{n}]"), &mut seen, errors);
    }
    let mounted: Vec<&str> = volumes.iter().map(|volume| text(volume, "/name")).collect();
    let containers = list(spec, "containers");
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (field, containers) in [
        ("containers", containers),
        ("initContainers", list(spec, "initContainers")),
        ("ephemeralContainers", list(spec, "ephemeralContainers")),
    ] {
        for (n, container) in containers.iter().enumerate() {
            let path = format!("{path}.{field}[{n}]");
            name(container, &path, &mut seen, errors);
            self::container(container, &path, &mounted, errors);
        }
    }
    let known = ["Always", "OnFailure", "Never"];
    one_of(spec, "restartPolicy", path, &known, errors);
    one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    if let Some(grace) = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).filter(|grace| *grace < 0) {
        errors.push(FieldError::invalid(format!("{path}.terminationGracePeriodSeconds"), grace, "must be greater than or equal to 0"));
    }
    if let Some(most) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64).filter(|n| *n < 1) {
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), most, "must be between 1 and 2147483647, inclusive"));
    }
    names::labels(spec.get("nodeSelector").unwrap_or(&Value::Null), &format!("{path}.nodeSelector"), errors);
}

fn one_of(spec: &Value, field: &str, path: &str, known: &[&str], errors: &mut Vec<FieldError>) {
    let value = text(spec, &format!("/{field}"));
    if !known.contains(&value) {
        errors.push(FieldError::not_supported(format!("{path}.{field}"), value, known));
    }
}

fn name<'a>(value: &'a Value, path: &str, seen: &mut Vec<&'a str>, errors: &mut Vec<FieldError>) {
    let name = text(value, "/name");
    let field = format!("{path}.name");
    if name.is_empty() {
        errors.push(FieldError::required(field, ""));
        return;
    }
    names::dns_label(name).into_iter().for_each(|why| errors.push(FieldError::invalid(field.clone(), name, why)));
    if seen.contains(&name) {
        errors.push(FieldError::duplicate(field, name));
    }
    seen.push(name);
}

fn container(container: &Value, path: &str, volumes: &[&str], errors: &mut Vec<FieldError>) {
    if text(container, "/image").is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if text(container, "/image").trim() != text(container, "/image") {
        let image = text(container, "/image");
        errors.push(FieldError::invalid(format!("{path}.image"), image, "must not have leading or trailing whitespace"));
    }
    one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], errors);
    for (n, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.env[{n}].name"), ""));
        } else if name.contains('=') {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(FieldError::invalid(format!("{path}.env[{n}].name"), name, why));
        }
    }
    for (n, port) in list(container, "ports").iter().enumerate() {
        let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
        let field = format!("{path}.ports[{n}].containerPort");
        if number == 0 {
            errors.push(FieldError::required(field, ""));
        } else if !(1..=65_535).contains(&number) {
            errors.push(FieldError::invalid(field, number, "must be between 1 and 65535, inclusive"));
        }
    }
    for (n, port) in list(container, "ports").iter().enumerate() {
        let protocol = text(port, "/protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            errors.push(FieldError::not_supported(format!("{path}.ports[{n}].protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = container.get(probe) {
            self::probe(value, &format!("{path}.{probe}"), errors);
        }
    }
    for (n, mount) in list(container, "volumeMounts").iter().enumerate() {
        let volume = text(mount, "/name");
        if volume.is_empty() {
            errors.push(FieldError::required(format!("{path}.volumeMounts[{n}].name"), ""));
        } else if !volumes.contains(&volume) {
            let wrong = crate::sandbox::refusal::Wrong::NotFound;
            errors.push(FieldError::new(wrong, format!("{path}.volumeMounts[{n}].name"), volume, ""));
        }
        if text(mount, "/mountPath").is_empty() {
            errors.push(FieldError::required(format!("{path}.volumeMounts[{n}].mountPath"), ""));
        }
    }
    let resources = container.get("resources").unwrap_or(&Value::Null);
    for which in ["limits", "requests"] {
        for (what, amount) in resources.get(which).and_then(Value::as_object).into_iter().flatten() {
            let quantity = amount.as_str().and_then(Quantity::read);
            if quantity.is_some_and(Quantity::is_negative) {
                let field = format!("{path}.resources.{which}[{what}]");
                errors.push(FieldError::invalid(field, amount.clone(), "must be greater than or equal to 0"));
            }
            let limit = resources.pointer(&format!("/limits/{}", what.replace('/', "~1"))).and_then(Value::as_str);
            if let (Some(request), Some(most)) = (quantity.filter(|_| which == "requests"), limit.and_then(Quantity::read))
                && request.more_than(most)
            {
                let why = format!("must be less than or equal to {what} limit of {}", limit.unwrap_or_default());
                errors.push(FieldError::invalid(format!("{path}.resources.requests"), amount.clone(), why));
            }
        }
    }
}

fn probe(probe: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !["exec", "httpGet", "tcpSocket", "grpc"].iter().any(|handler| probe.get(handler).is_some()) {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(n) = probe.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
            errors.push(FieldError::invalid(format!("{path}.{field}"), n, "must be greater than or equal to 0"));
        }
    }
}

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                          additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                          previously negative)";

/// What of a pod cannot be changed: almost all.
pub(super) fn frozen(old: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    for list in ["containers", "initContainers"] {
        let count = |value: &Value| value.pointer(&format!("/spec/{list}")).and_then(Value::as_array).map_or(0, Vec::len);
        if count(old) != count(value) {
            errors.push(FieldError::forbidden(format!("spec.{list}"), "pod updates may not add or remove containers"));
            return;
        }
    }
    let deadline = |value: &Value| value.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
    let bare = |value: &Value| {
        let mut spec = value.get("spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.shift_remove("activeDeadlineSeconds");
            map.shift_remove("tolerations");
        }
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        spec
    };
    if let (Some(was), Some(is)) = (deadline(old), deadline(value))
        && was < is
    {
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", is, "must be less than or equal to previous value"));
    }
    let (was, is) = (bare(old), bare(value));
    if was != is {
        // A real server adds a difference of Go structs; here it is the names of the fields.
        let names = was.as_object().into_iter().chain(is.as_object()).flat_map(serde_json::Map::keys);
        let mut changed: Vec<&str> = names.filter(|name| was.get(*name) != is.get(*name)).map(String::as_str).collect();
        changed.sort_unstable();
        changed.dedup();
        let why = format!("pod updates may not change fields other than {CHANGEABLE}\nchanged: {}\n", changed.join(", "));
        errors.push(FieldError::forbidden("spec", why));
    }
    let tolerations = |value: &Value| value.pointer("/spec/tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let now = tolerations(value);
    // The time of a toleration may be changed, too.
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|field| a.get(*field) == b.get(*field));
    if !tolerations(old).iter().all(|kept| now.iter().any(|t| same(t, kept))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
    }
}

/// What a change of ephemeral containers breaks.
pub(in crate::sandbox) fn ephemeral(old: &Value, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let none = json!({});
    let (was, is) = (old.get("spec").unwrap_or(&none), value.get("spec").unwrap_or(&none));
    spec(is, "spec", &mut errors);
    let new = list(is, "ephemeralContainers");
    for kept in list(was, "ephemeralContainers") {
        let name = text(kept, "/name");
        match new.iter().find(|container| text(container, "/name") == name) {
            None => {
                errors.push(FieldError::forbidden(
                    "spec.ephemeralContainers",
                    format!("existing ephemeral containers \"{name}\" may not be removed\n"),
                ));
            }
            Some(container) if container != kept => {
                errors.push(FieldError::forbidden(
                    "spec.ephemeralContainers",
                    format!("existing ephemeral containers \"{name}\" may not be changed\n"),
                ));
            }
            Some(_) => {}
        }
    }
    for (n, container) in new.iter().enumerate() {
        let target = text(container, "/targetContainerName");
        let known = list(is, "containers").iter().chain(list(is, "initContainers")).any(|c| text(c, "/name") == target);
        if !target.is_empty() && !known {
            let wrong = crate::sandbox::refusal::Wrong::NotFound;
            errors.push(FieldError::new(wrong, format!("spec.ephemeralContainers[{n}].targetContainerName"), target, ""));
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if container.get(field).is_some() {
                errors.push(FieldError::forbidden(
                    format!("spec.ephemeralContainers[{n}].{field}"),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
    }
    errors
}
