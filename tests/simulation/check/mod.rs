//! What must be true of every simulated drill, looked at from outside: what was asked of the API server, what became of the objects, the
//! journals, and when things really were up. Nothing of the engine decides here but its journal's format and the verdict that is held
//! against the truth.

mod durable;
mod fenced;
mod left;
mod planned;
mod processes;
mod scope;
mod tests;
mod truth;

use firedrill::{
    journal::{Event, Record},
    labels,
};
use serde_json::Value;

use crate::history::{History, OWN, Runner, Violation, text, violation};

/// Looks at everything.
pub(crate) fn all(history: &History) -> Vec<Violation> {
    let checks =
        [planned::check, planned::limits, durable::check, processes::check, left::check, scope::check, fenced::check, truth::check];
    checks.iter().flat_map(|check| check(history)).collect()
}

/// What a request of a runner to change something is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// A field of an object is broken and the object marked with the drill; its uid.
    Break { uid: String },
    /// A pod or Job is deleted; its uid.
    Delete { uid: String },
    /// The mark is taken away, and maybe the field put back; or the object is written to without being changed.
    Undo,
    /// It is not about what drills break.
    Own,
}

/// What a request is, told from what was sent.
fn change_of(entry: &firedrill::sandbox::AuditEntry) -> Change {
    if entry.namespace == OWN || entry.namespace.is_empty() {
        return Change::Own;
    }
    let sent = entry.request_object().unwrap_or_default();
    match entry.verb.as_str() {
        "delete" => Change::Delete { uid: text(&sent["preconditions"]["uid"]).to_owned() },
        _ => {
            let mark = sent.pointer("/metadata/labels").and_then(|l| l.get(labels::FAULT));
            let breaks = mark.and_then(Value::as_str).is_some_and(|mark| !mark.ends_with(".reverting"));
            if breaks || mark.is_none() { Change::Break { uid: text(&sent["metadata"]["uid"]).to_owned() } } else { Change::Undo }
        }
    }
}

/// The intents of a journal.
fn intents(records: &[Record]) -> impl Iterator<Item = (&Record, u32, &str, &firedrill::fault::Undo)> {
    records.iter().filter_map(|record| match &record.event {
        Event::Intent { fault, step, undo, .. } => Some((record, *fault, step.as_str(), undo.as_ref())),
        _ => None,
    })
}

/// The uids that an intent speaks of.
fn uids(event: &Event) -> Vec<String> {
    match event {
        Event::Intent { objects, .. } => objects.iter().map(|object| object.uid.clone()).collect(),
        _ => Vec::new(),
    }
}

/// When the first exec was asked for, if one was and it matters. From then on the order in which two things of the same instant are done is not
/// the seed's alone: kube's side of an exec picks among what is ready by a chance of tokio's, which only its unstable builds let one seed.
fn first_exec(history: &History) -> i64 {
    if cfg!(tokio_unstable) {
        return i64::MAX;
    }
    history.audit.iter().find(|entry| entry.subresource == "exec").map_or(i64::MAX, |entry| entry.at_us)
}

/// The same seed gives the same journals, byte for byte, and the same requests; in ordinary builds up to the first exec.
pub(crate) fn same(first: &History, second: &History) -> Vec<Violation> {
    const PROMISE: &str = "the same seed gives the same journal";
    let mut found = Vec::new();
    let until_us = first_exec(first).min(first_exec(second));
    if first.runners.len() != second.runners.len() && until_us == i64::MAX {
        found.push(violation(PROMISE, format!("{} runners, and {}", first.runners.len(), second.runners.len())));
    }
    for (one, two) in first.runners.iter().zip(&second.runners) {
        let differs = one.journal.lines().zip(two.journal.lines()).position(|(a, b)| a != b);
        let shorter = one.journal.lines().count().min(two.journal.lines().count());
        let at = differs.unwrap_or(shorter);
        let when = |runner: &Runner| {
            let record = runner.journal.lines().nth(at).and_then(|line| serde_json::from_str::<Record>(line).ok());
            record.map_or(i64::MAX, |record| record.at.mono_us - runner.clock_us)
        };
        // What is there no more was not written before whatever the other one has there.
        if one.journal != two.journal && (until_us == i64::MAX || when(one).min(when(two)) < until_us) {
            let line = |text: &str| text.lines().nth(at).unwrap_or("nothing").to_owned();
            let why = format!("{}: line {} is {} and {}", one.user, at + 1, line(&one.journal), line(&two.journal));
            found.push(violation(PROMISE, why));
        }
    }
    let asked = |history: &History| {
        let early = history.audit.iter().filter(|e| e.at_us < until_us);
        early.map(|e| (e.at_us, e.user.clone(), e.verb.clone(), e.uri.clone())).collect::<Vec<_>>()
    };
    let (one, two) = (asked(first), asked(second));
    if let Some(at) =
        one.iter().zip(&two).position(|(a, b)| a != b).or_else(|| (one.len() != two.len()).then_some(one.len().min(two.len())))
    {
        found.push(violation(PROMISE, format!("request {at} is {:?} and {:?}", one.get(at), two.get(at))));
    }
    found
}
