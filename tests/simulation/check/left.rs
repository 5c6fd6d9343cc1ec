//! Every fault is gone at the end, or said to be left: the objects are compared with those before.

use std::collections::BTreeMap;

use firedrill::labels;
use serde_json::Value;

use crate::history::{End, History, OWN, Violation, done, text, violation};

const PROMISE: &str = "every fault is gone at the end or reported as not clean";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let circles = history.runners.iter().filter(|runner| runner.end == End::Circles);
    let mut found: Vec<Violation> =
        circles.map(|r| violation("every runner comes to an end", format!("{} goes round in circles", r.user))).collect();
    // Who had the last word of each drill, and whether that was "clean". One that was refused or died said nothing of the cluster.
    let mut said: BTreeMap<&str, bool> = BTreeMap::new();
    for runner in &history.runners {
        match &runner.end {
            End::Over { clean, .. } => drop(said.insert(&runner.drill, *clean)),
            End::Refused(_) | End::Died | End::Circles => {}
        }
    }
    let all_clean = said.values().all(|clean| *clean);
    for (drill, what) in left(history) {
        // What is nobody's by name is everybody's.
        let reported = drill.as_ref().map_or(!all_clean, |drill| said.get(drill.as_str()) == Some(&false));
        if !reported {
            found.push(violation(PROMISE, what));
        }
    }
    found
}

/// What is left, with the drill whose name is on it.
fn left(history: &History) -> Vec<(Option<String>, String)> {
    let mut left = Vec::new();
    let others = set_by_others(history);
    for object in &history.after {
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let namespace = text(&object["metadata"]["namespace"]);
        let called = format!("{kind} {namespace}/{name}");
        let drill = object["metadata"]["labels"][labels::DRILL].as_str().map(str::to_owned);
        if namespace == OWN {
            if name != "kube-root-ca.crt" {
                left.push((drill, format!("{called} is left")));
            }
            continue;
        }
        if let Some(mark) = object["metadata"]["labels"][labels::FAULT].as_str() {
            left.push((Some(mark.trim_end_matches(".reverting").to_owned()), format!("{called} is marked {mark}")));
        }
        if let Some(drill) = drill {
            left.push((Some(drill), format!("{called} was made by a drill")));
        }
        if !matches!(kind, "Deployment" | "StatefulSet" | "CronJob") {
            continue;
        }
        let before = history.before.iter().find(|o| o["kind"] == object["kind"] && o["metadata"]["uid"] == object["metadata"]["uid"]);
        let Some(before) = before else {
            left.push((None, format!("{called} is another one than before")));
            continue;
        };
        let mut wanted = before["spec"].clone();
        for (field, value) in others.get(&(kind.to_owned(), name.to_owned())).into_iter().flatten() {
            wanted[field] = value.clone();
        }
        if object["spec"] != wanted {
            left.push((None, format!("{called} is {} and was {wanted}", object["spec"])));
        }
        let (ready, was) = (&object["status"]["readyReplicas"], &before["status"]["readyReplicas"]);
        if ready != was && others.is_empty() {
            left.push((None, format!("{called} has {ready} ready and had {was}")));
        }
    }
    for object in &history.before {
        let kind = text(&object["kind"]);
        let there = history.after.iter().any(|o| o["metadata"]["uid"] == object["metadata"]["uid"]);
        if matches!(kind, "Deployment" | "StatefulSet" | "CronJob") && !there {
            left.push((None, format!("{kind} {} is gone", text(&object["metadata"]["name"]))));
        }
    }
    left
}

/// What people who are no runner have set since: theirs stays.
fn set_by_others(history: &History) -> BTreeMap<(String, String), Vec<(String, Value)>> {
    let mut set: BTreeMap<(String, String), Vec<(String, Value)>> = BTreeMap::new();
    let people = history.audit.iter().filter(|e| done(e) && e.verb == "patch" && !e.user.starts_with("system:"));
    for entry in people.filter(|e| history.runner(&e.user).is_none()) {
        let kind = match entry.resource.as_str() {
            "deployments" => "Deployment",
            "cronjobs" => "CronJob",
            _ => continue,
        };
        let sent = entry.request_object().unwrap_or_default();
        for (field, value) in sent["spec"].as_object().into_iter().flatten() {
            set.entry((kind.to_owned(), entry.name.clone())).or_default().push((field.clone(), value.clone()));
        }
    }
    set
}
