//! Nothing is written by a runner after another one has taken over from it, and nothing broken or reverted after its Lease has expired by
//! its own clock.

use std::collections::BTreeMap;

use super::{Change, change_of};
use crate::history::{History, OWN, Violation, called, done, text, violation};

const PROMISE: &str = "nothing is written after fencing";

pub(super) fn check(history: &History) -> Vec<Violation> {
    // By Lease: who holds it. By Lease and runner: when it was last renewed.
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    let mut renewed: BTreeMap<(String, String), i64> = BTreeMap::new();
    // Runners that somebody has taken over from, with the request that did it.
    let mut fenced: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for (number, entry) in history.audit.iter().enumerate().filter(|(_, entry)| done(entry)) {
        let Some(runner) = history.runner(&entry.user) else { continue };
        let own = entry.namespace == OWN;
        if let Some(by) = fenced.get(&entry.user) {
            found.push(violation(PROMISE, format!("taken over from at request {by}: {}", called(number, entry))));
        }
        if own && entry.resource == "leases" {
            let sent = entry.request_object().unwrap_or_default();
            let name = if entry.name.is_empty() { text(&sent["metadata"]["name"]).to_owned() } else { entry.name.clone() };
            if entry.verb == "delete" {
                holders.remove(&name);
                continue;
            }
            let before = holders.insert(name.clone(), entry.user.clone());
            // Another drill's runner that is dead is no longer anybody's; this one's is.
            if let Some(before) = before.filter(|before| *before != entry.user) {
                fenced.entry(before).or_insert(number);
            }
            renewed.insert((name, entry.user.clone()), entry.at_us);
            continue;
        }
        if own || change_of(entry) == Change::Own {
            continue;
        }
        let lease = format!("ns-{}", entry.namespace);
        match renewed.get(&(lease.clone(), entry.user.clone())) {
            Some(at_us) if entry.at_us - at_us <= runner.lease_us => {}
            Some(at_us) => {
                let ago = entry.at_us - at_us;
                found.push(violation(PROMISE, format!("Lease {lease} was last renewed {ago} us before: {}", called(number, entry))));
            }
            None => found.push(violation(PROMISE, format!("it never held Lease {lease}: {}", called(number, entry)))),
        }
    }
    found
}
