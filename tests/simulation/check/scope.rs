//! Never two drills in one scope: whoever breaks or reverts something holds its namespace's Lease at that moment, a Lease is taken from
//! another one only once it has run out, and nobody changes what another drill has marked.

use std::collections::BTreeMap;

use firedrill::labels;

use super::{Change, change_of};
use crate::history::{History, OWN, Violation, called, done, text, violation};

const PROMISE: &str = "never two drills in one scope";

/// A Lease as the requests left it.
#[derive(Debug, Clone)]
struct Held {
    holder: String,
    user: String,
    renewed_us: i64,
    lives_us: i64,
}

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut leases: BTreeMap<String, Held> = BTreeMap::new();
    let mut marks: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut found = Vec::new();
    let mut say = |why: String| found.push(violation(PROMISE, why));
    for (number, entry) in history.audit.iter().enumerate().filter(|(_, entry)| done(entry)) {
        let sent = entry.request_object().unwrap_or_default();
        if entry.resource == "leases" && entry.namespace == OWN {
            let name = if entry.name.is_empty() { text(&sent["metadata"]["name"]).to_owned() } else { entry.name.clone() };
            if entry.verb == "delete" {
                if leases.remove(&name).is_some_and(|held| held.user != entry.user) {
                    say(format!("a Lease that another runner holds is deleted: {}", called(number, entry)));
                }
                continue;
            }
            let holder = text(&sent["spec"]["holderIdentity"]).to_owned();
            let lives_us = sent["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(0) * 1_000_000;
            if let Some(held) = leases.get(&name).filter(|held| held.holder != holder && entry.at_us - held.renewed_us < held.lives_us) {
                let (whose, ago) = (&held.holder, entry.at_us - held.renewed_us);
                say(format!("Lease {name} is taken from {whose}, renewed {ago} us before: {}", called(number, entry)));
            }
            leases.insert(name, Held { holder, user: entry.user.clone(), renewed_us: entry.at_us, lives_us });
            continue;
        }
        let Some(runner) = history.runner(&entry.user) else { continue };
        let change = change_of(entry);
        if change == Change::Own {
            continue;
        }
        let lease = format!("ns-{}", entry.namespace);
        match leases.get(&lease) {
            None => say(format!("nobody holds Lease {lease}: {}", called(number, entry))),
            Some(held) if held.holder.split('/').next() != Some(&runner.drill) => {
                say(format!("Lease {lease} is held by {}: {}", held.holder, called(number, entry)));
            }
            Some(_) => {}
        }
        let object = (entry.resource.clone(), entry.name.clone());
        if let Some(mark) = sent.pointer("/metadata/labels").and_then(|l| l.get(labels::FAULT)) {
            let whose = |mark: &str| mark.trim_end_matches(".reverting").to_owned();
            if let Some(other) = marks.get(&object).filter(|other| whose(other) != runner.drill) {
                say(format!("it is marked by {other}: {}", called(number, entry)));
            }
            match mark.as_str() {
                Some(mark) => drop(marks.insert(object, mark.to_owned())),
                None => drop(marks.remove(&object)),
            }
        }
    }
    found
}
