//! The object of a fault: what a `manifest` makes, and the Job of a `custom`. Read, filled in and checked. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use serde_json::Value;

use super::{
    guard::{self, Findings, Touched},
    seen::Snapshot,
    types::PlannedManifest,
};
use crate::scenario::{
    Loaded,
    types::{EnvironmentSpec, FaultSpec, Limits, ObjectFile},
};

/// Groups of kinds that say who may do what, or that firedrill itself or the cluster stands on.
const GROUPS: [&str; 8] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "rbac.authorization.k8s.io",
];
/// The longest name of a Job for commands: its pods carry the Jobs' names as labels, of 63 letters at most.
const JOB_NAME: usize = 63 - "-effective".len();
/// Core kinds of the same sort.
const CORE: [&str; 5] = ["Binding", "Event", "Namespace", "Node", "ServiceAccount"];

/// An object as a file has it: what is known of it without a cluster.
pub(super) struct Object {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    object: Value,
}

/// Reads the object of a fault's file and fills in its `${…}`.
///
/// # Errors
/// What is wrong with it, naming the file.
pub(super) fn read(text: &str, fault: &FaultSpec) -> Result<Object, String> {
    let ObjectFile { file, values, at: _ } = fault.object_file().ok_or("the fault makes no object")?;
    // The parser's words may show lines of the file.
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|_| format!("the manifest {file} is not YAML"))?;
    let Ok([mut object]) = <[Value; 1]>::try_from(documents) else {
        return Err(format!("the manifest {file} must have one object: one fault is one object"));
    };
    fill(&mut object, values)
        .map_err(|name| format!("the manifest {file} has `${{{name}}}`, and the fault's `values` do not: add `values: {{{name}: …}}`"))?;
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    for (what, value) in [("apiVersion", &api_version), ("kind", &kind), ("metadata.name", &name), ("metadata.namespace", &namespace)] {
        if value.is_empty() {
            return Err(format!("the manifest {file} has no `{what}`"));
        }
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    if GROUPS.contains(&group) || group.is_empty() && CORE.contains(&kind.as_str()) {
        return Err(format!("the manifest {file} is a {kind}: rights, Leases and what the cluster stands on are no fault's to make"));
    }
    if group.is_empty() && kind == "Secret" {
        return Err(format!(
            "the manifest {file} is a Secret, and the plan, which anybody may read, would have its contents: `secret` names one"
        ));
    }
    if group.is_empty() && kind == "List" {
        return Err(format!("the manifest {file} is a List: one fault is one object"));
    }
    if fault.custom.is_some() {
        runs_commands(&api_version, &kind, &name, &object).map_err(|why| format!("the Job of {file} {why}"))?;
    }
    Ok(Object { api_version, kind, namespace, name, object })
}

/// Whether commands can be run by an object: that it is a Job of one container, once.
fn runs_commands(api_version: &str, kind: &str, name: &str, object: &Value) -> Result<(), String> {
    if (api_version, kind) != ("batch/v1", "Job") {
        return Err(format!("is a {kind} of {api_version}: it must be a Job of batch/v1"));
    }
    if let Err(error) = serde_json::from_value::<Job>(object.clone()) {
        return Err(format!("is none that an API server would take: {error}"));
    }
    if name.len() > JOB_NAME {
        return Err(format!("has a name of {} letters: with what each command adds to it there is room for {JOB_NAME}", name.len()));
    }
    let count = |at: &str| object.pointer(at).and_then(Value::as_u64).unwrap_or(1);
    if count("/spec/completions") != 1 || count("/spec/parallelism") != 1 {
        return Err("has `completions` or `parallelism`: each command is run by one pod, once".to_owned());
    }
    match object.pointer("/spec/template/spec/containers").and_then(Value::as_array).map(Vec::as_slice) {
        Some([_]) => Ok(()),
        Some(more) if more.len() > 1 => Err(format!(
            "has {} containers: it must have one, the commands'; what runs beside it is an init container that restarts",
            more.len()
        )),
        _ => Err("has no container".to_owned()),
    }
}

/// Fills in texts. A text that is nothing but one `${…}` of a whole number becomes that number.
fn fill(value: &mut Value, values: &indexmap::IndexMap<String, String>) -> Result<(), String> {
    match value {
        Value::String(text) => {
            if let Some(whole) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).filter(|name| !name.contains('}')) {
                let found = values.get(whole).ok_or_else(|| whole.to_owned())?;
                *value = found.parse::<i64>().map_or_else(|_| Value::from(found.as_str()), Value::from);
                return Ok(());
            }
            let mut filled = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once("${") {
                let Some((name, after)) = after.split_once('}') else { break };
                filled += before;
                filled += values.get(name).ok_or_else(|| name.to_owned())?;
                rest = after;
            }
            filled += rest;
            *text = filled;
            Ok(())
        }
        Value::Array(all) => all.iter_mut().try_for_each(|item| fill(item, values)),
        Value::Object(all) => all.values_mut().try_for_each(|item| fill(item, values)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// The objects of a scenario's faults that can be read, for what has to be known of the cluster.
pub(super) fn all(loaded: &Loaded, files: &BTreeMap<String, String>) -> Vec<Object> {
    let steps = super::kinds::leaves(&loaded.scenario.spec.steps);
    let faults = steps.into_iter().filter_map(|step| step.inject.as_ref());
    faults.filter_map(|fault| read(files.get(fault.object_file()?.file)?, fault).ok()).collect()
}

/// What is made, as the plan has it.
///
/// # Errors
/// Why it cannot be made on this cluster.
pub(super) fn plan(file: &str, object: Object, snapshot: &Snapshot) -> Result<PlannedManifest, String> {
    let Object { api_version, kind, namespace, name, object } = object;
    let Some(seen) = snapshot.kinds.get(&(api_version.clone(), kind.clone())) else {
        return Err(format!("the manifest {file}: this cluster has no kind {api_version} {kind}"));
    };
    if !seen.namespaced {
        return Err(format!("the manifest {file}: a {kind} has no namespace, and only namespaces allow drills"));
    }
    Ok(PlannedManifest { group: seen.group.clone(), plural: seen.plural.clone(), api_version, kind, namespace, name, object })
}

/// The guards of a fault's object: its namespace and the limits.
pub(super) fn check(
    place: &EnvironmentSpec,
    limits: &Limits,
    step: &str,
    manifest: &PlannedManifest,
    snapshot: &Snapshot,
    touched: &mut Touched,
) -> Findings {
    let mut found = Findings::default();
    found.refusals.extend(guard::namespace_refusal(&format!("step `{step}`"), &manifest.namespace, place, snapshot));
    touched.objects.insert(manifest.id());
    found.refusals.extend(guard::over_limits(limits, touched).into_iter().map(|why| format!("step `{step}`: {why}")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::types::ManifestFault;

    fn fault(values: &[(&str, &str)]) -> FaultSpec {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let manifest = ManifestFault { file: "x.yaml".to_owned(), values, ..ManifestFault::default() };
        FaultSpec { manifest: Some(manifest), ..FaultSpec::default() }
    }

    #[test]
    fn values_are_filled_in() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'a-${who}', namespace: shop}\ndata: {n: '${n}', both: '${who} ${n}', no: '$x'}\n";
        let object = read(text, &fault(&[("who", "b"), ("n", "7")])).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((object.name.as_str(), object.namespace.as_str()), ("a-b", "shop"));
        assert_eq!(object.object["data"], serde_json::json!({"n": 7, "both": "b 7", "no": "$x"}));
        let why = read(text, &fault(&[("n", "7")])).err().unwrap();
        assert!(why.contains("has `${who}`, and the fault's `values` do not"), "{why}");
    }

    #[test]
    fn what_no_fault_may_make_is_refused() {
        let of = |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n");
        for (text, part) in [
            (of("coordination.k8s.io/v1", "Lease"), "is a Lease: rights, Leases"),
            (of("rbac.authorization.k8s.io/v1", "RoleBinding"), "is a RoleBinding"),
            (of("v1", "Namespace"), "is a Namespace"),
            (of("v1", "Secret"), "is a Secret, and the plan"),
            (of("v1", "List"), "is a List"),
            ("a: [".to_owned(), "is not YAML"),
            (of("v1", "Pod") + "---\n" + &of("v1", "Pod"), "must have one object"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n".to_owned(), "has no `metadata.namespace`"),
        ] {
            let why = read(&text, &fault(&[])).err().unwrap_or_else(|| panic!("taken: {text}"));
            assert!(why.contains(part), "{why}");
        }
    }
}
