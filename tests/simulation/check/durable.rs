//! No inject before a durable intent: the journal's line is synced and the in-cluster record has it before the request that breaks
//! something is sent.

use std::collections::BTreeSet;

use firedrill::{journal::Record, sandbox::AuditEntry};

use super::{Change, change_of, uids};
use crate::history::{History, OWN, Runner, Violation, called, text, violation};

const PROMISE: &str = "no inject before a durable intent";

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    // By drill: what the record in the cluster says is intended, after each request.
    let mut recorded: std::collections::BTreeMap<String, BTreeSet<String>> = std::collections::BTreeMap::new();
    for (number, entry, runner) in history.written() {
        if is_record(entry) {
            let known = self::recorded(entry);
            if !known.is_empty() {
                recorded.insert(runner.drill.clone(), known);
            }
            continue;
        }
        let (Change::Break { uid } | Change::Delete { uid }) = change_of(entry) else { continue };
        if !recorded.get(&runner.drill).is_some_and(|known| known.contains(&uid)) {
            found.push(violation(PROMISE, format!("no intent for uid {uid} in the record in the cluster: {}", called(number, entry))));
        }
        if !synced(runner, number).contains(&uid) {
            found.push(violation(PROMISE, format!("no intent for uid {uid} in what was synced of the journal: {}", called(number, entry))));
        }
    }
    found
}

/// Whether a request writes to a drill's record in the cluster.
pub(super) fn is_record(entry: &AuditEntry) -> bool {
    entry.namespace == OWN && entry.resource == "configmaps"
}

/// The uids of intents that such a request brings.
pub(super) fn recorded(entry: &AuditEntry) -> BTreeSet<String> {
    let sent = entry.request_object().unwrap_or_default();
    intended(text(&sent["data"]["events.jsonl"]).lines())
}

/// The uids of intents that the journal had, durably, when a request arrived.
pub(super) fn synced(runner: &Runner, number: usize) -> BTreeSet<String> {
    let durable = runner.syncs.iter().filter(|sync| sync.moment <= number as u64).map(|sync| sync.bytes).max().unwrap_or(0);
    let text = runner.journal.get(..durable.min(runner.journal.len())).unwrap_or_default();
    intended(text.split_inclusive('\n').filter(|line| line.ends_with('\n')))
}

/// The uids of intents among lines of a journal. The other lines are most of it, and are not read.
fn intended<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let records = lines.filter(|line| line.contains("\"intent\":")).filter_map(|line| serde_json::from_str::<Record>(line).ok());
    records.flat_map(|record| uids(&record.event)).collect()
}
