//! Names, labels and metadata (`k8s.io/apimachinery/pkg/util/validation`, `pkg/api/validation`).

use serde_json::{Value, json};

use crate::sandbox::{
    core::{pairs, strings, text},
    kinds::Kind,
    refusal::{FieldError, Wrong},
};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
                     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                         end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and \
                        end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
                        '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                         character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
                           end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
                          'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(most: usize) -> String {
    format!("must be no more than {most} characters")
}

fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.chars().all(|c| plain(c) || c == '-') && text.chars().next().is_some_and(plain) && text.chars().next_back().is_some_and(plain)
}

/// What keeps a text from being a DNS label.
pub(super) fn dns_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) {
        wrong.push(if text.contains('.') && text.split('.').all(is_label) { "must not contain dots".to_owned() } else { LABEL.to_owned() });
    }
    wrong
}

/// What keeps a text from being a DNS name.
pub(super) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    if !text.split('.').all(is_label) {
        wrong.push(SUBDOMAIN.to_owned());
    }
    wrong
}

fn dns_1035(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) || text.starts_with(|c: char| c.is_ascii_digit()) {
        wrong.push(DNS_1035.to_owned());
    }
    wrong
}

/// What keeps a text from being a key of a ConfigMap or Secret.
pub(super) fn config_key(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        wrong.push(CONFIG_KEY.to_owned());
    }
    match text {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && ends(text.chars().next()) && ends(text.chars().next_back())
}

/// What keeps a text from being the key of a label or annotation.
fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            *name
        }
        _ => {
            let rule = NAME_PART.trim_start_matches("name part ");
            return vec![format!("a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        wrong.push(format!("name part {}", too_long(63)));
    }
    if !is_name(name) {
        wrong.push(NAME_PART.to_owned());
    }
    wrong
}

fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !text.is_empty() && !is_name(text) {
        wrong.push(LABEL_VALUE.to_owned());
    }
    wrong
}

/// Labels at a path.
pub(super) fn labels(labels: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        qualified_name(key).into_iter().for_each(|why| errors.push(FieldError::invalid(path, key.as_str(), why)));
        let value = value.as_str().unwrap_or_default();
        label_value(value).into_iter().for_each(|why| errors.push(FieldError::invalid(path, value, why)));
    }
}

/// The name and what goes with it.
pub(super) fn metadata(kind: &Kind, value: &Value, errors: &mut Vec<FieldError>) {
    let name = text(value, "/metadata/name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        let wrong = match kind.kind.as_str() {
            "Namespace" | "StatefulSet" => dns_label(name),
            "Service" => dns_1035(name),
            "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => path_segment(name),
            _ => dns_subdomain(name),
        };
        wrong.into_iter().for_each(|why| errors.push(FieldError::invalid("metadata.name", name, why)));
        // Its Jobs' names are longer by 11.
        if kind.kind == "CronJob" && name.len() > 52 {
            errors.push(FieldError::invalid("metadata.name", name, too_long(52)));
        }
    }
    if !kind.namespaced && !text(value, "/metadata/namespace").is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    labels_and_finalizers(kind, value, errors);
}

fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => ['/', '%'].into_iter().filter(|c| name.contains(*c)).map(|c| format!("may not contain '{c}'")).collect(),
    }
}

/// The largest annotations, in bytes.
const LARGEST_ANNOTATIONS: usize = 256 * 1024;

/// Labels, annotations, finalizers and owners.
pub(super) fn labels_and_finalizers(kind: &Kind, value: &Value, errors: &mut Vec<FieldError>) {
    labels(&value["metadata"]["labels"], "metadata.labels", errors);
    let mut size = 0;
    for (key, value) in pairs(value, "/metadata/annotations") {
        size += key.len() + value.len();
        qualified_name(&key.to_lowercase()).into_iter().for_each(|why| errors.push(FieldError::invalid("metadata.annotations", key, why)));
    }
    if size > LARGEST_ANNOTATIONS {
        let why = format!("may not be more than {LARGEST_ANNOTATIONS} bytes");
        errors.push(FieldError::new(Wrong::TooLong, "metadata.annotations", Value::Null, why));
    }
    let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for owner in owners {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let why = if field == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                errors.push(FieldError::invalid(format!("metadata.ownerReferences.{field}"), "", why));
            }
        }
    }
    let controllers = owners.iter().filter(|owner| owner.get("controller") == Some(&Value::Bool(true))).count();
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", json!(owners), why));
    }
    let finalizers = strings(value, "/metadata/finalizers");
    for finalizer in &finalizers {
        qualified_name(finalizer).into_iter().for_each(|why| errors.push(FieldError::invalid("metadata.finalizers", *finalizer, why)));
    }
    // What built-in kinds ask besides comes after what all ask.
    for (n, finalizer) in finalizers.into_iter().enumerate() {
        if !finalizer.contains('/') && !kind.custom() && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("metadata.finalizers[{n}]"), finalizer, why));
        }
    }
}
