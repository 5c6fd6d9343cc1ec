//! What was approved against what would run now.
//!
//! Drift is anything a person who agreed to a plan did not see: other objects (by kind, namespace, name, owner and node; a
//! pod that came back under its name with another uid is the same to a reader, and each inject looks again anyway), other
//! steps, probes, objectives, limits, warnings, another scenario, environment or cluster. What does not count: the seed's
//! value when it chooses the same, how long it should take, the name of the context, permissions.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::types::{Plan, PlannedStep};

/// What an approval speaks of, by section.
fn essence(plan: &Plan) -> BTreeMap<&'static str, Value> {
    let targets: BTreeMap<&str, Value> = plan
        .targets
        .iter()
        .map(|(name, target)| {
            let objects: Vec<Value> = target
                .chosen()
                .map(|o| json!({"kind": o.kind, "namespace": o.namespace, "name": o.name, "owner": o.owner, "node": o.node}))
                .collect();
            (name.as_str(), json!({"spec": target.spec, "matched": target.matched, "chosen": objects}))
        })
        .collect();
    BTreeMap::from([
        ("version", json!(plan.version)),
        ("scenario", json!({"name": plan.name, "sha256": plan.scenario_sha256})),
        ("parameters", json!(plan.parameters)),
        ("environment", json!({"name": plan.environment, "spec": plan.place})),
        ("cluster", json!(plan.cluster_uid)),
        ("limits", json!(plan.limits)),
        ("targets", json!(targets)),
        ("probes", json!(plan.probes)),
        ("steadyState", json!(plan.steady_state)),
        ("steps", json!(plan.steps.iter().map(seen).collect::<Vec<_>>())),
        ("objectives", json!(plan.objectives)),
        ("abortIf", json!(plan.abort_if)),
        ("leases", json!(plan.leases)),
        ("warnings", json!(plan.warnings)),
    ])
}

/// A step as a reader sees it: what it evicts is among what it touches, by name, and not by uid.
fn seen(step: &PlannedStep) -> PlannedStep {
    PlannedStep { evicts: Vec::new(), children: step.children.iter().map(seen).collect(), ..step.clone() }
}

/// SHA-256 (hex) of what an approval speaks of: equal when and only when [`drift`] finds nothing.
pub fn digest(plan: &Plan) -> String {
    let essence = essence(plan);
    hex::encode(Sha256::digest(serde_json::to_vec(&essence).unwrap_or_default()))
}

/// Every difference between an approved plan and the plan of now, a line each; empty when there is none.
pub fn drift(approved: &Plan, now: &Plan) -> Vec<String> {
    let (before, after) = (essence(approved), essence(now));
    let mut lines = Vec::new();
    for (section, was) in &before {
        if let Some(is) = after.get(section) {
            compare(section, was, is, &mut lines);
        }
    }
    lines
}

fn compare(path: &str, was: &Value, is: &Value, lines: &mut Vec<String>) {
    if was == is {
        return;
    }
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, was) in a {
                match b.get(key) {
                    Some(is) => compare(&format!("{path}.{key}"), was, is, lines),
                    None => lines.push(format!("{path}.{key}: was {}, is gone", short(was))),
                }
            }
            for (key, is) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                lines.push(format!("{path}.{key}: new, {}", short(is)));
            }
        }
        (Value::Array(a), Value::Array(b)) if path.ends_with(".chosen") || path == "warnings" || path == "leases" => {
            // Sets: what went and what came, whatever its place.
            lines.extend(a.iter().filter(|item| !b.contains(item)).map(|item| format!("{path}: no longer {}", short(item))));
            lines.extend(b.iter().filter(|item| !a.contains(item)).map(|item| format!("{path}: new {}", short(item))));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (was, is)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), was, is, lines);
            }
        }
        _ => lines.push(format!("{path}: was {}, is {}", short(was), short(is))),
    }
}

/// A value in at most a line: an object of the cluster as people name it, anything else as JSON.
fn short(value: &Value) -> String {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("");
    if value.get("kind").is_some() && value.get("node").is_some() {
        let mut out = crate::cluster::named(text("kind"), text("namespace"), text("name"));
        if !text("node").is_empty() {
            out += &format!(" on {}", text("node"));
        }
        if !text("owner").is_empty() {
            out += &format!(" of {}", text("owner"));
        }
        return out;
    }
    let json = match value {
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    };
    if json.chars().count() > 160 { json.chars().take(157).chain("…".chars()).collect() } else { json }
}
