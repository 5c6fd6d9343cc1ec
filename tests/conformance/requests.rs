//! What firedrill has asked of API servers in real drills, and whether the cases ask for all of it.
//!
//! `asked-by-drills.tsv` is made by `asked-by-drills.sh` from the audit logs of a testbed.

use std::{collections::BTreeSet, fmt::Write as _, sync::Mutex};

use libtest_mimic::{Failed, Trial};

use crate::{asked::Asked, cases, sides};

/// Verb, resource with its subresource, patch type, status; sorted, each once.
const ASKED: &str = include_str!("asked-by-drills.tsv");

/// What no case here can ask for, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("get\tpods/exec\t-\t101", KUBELET),
    ("get\tpods/portforward\t-\t101", KUBELET),
    ("get\tpods/log\t-\t200", KUBELET),
    ("get\tconfigmaps\t-\t500", STALLED),
    ("get\tcronjobs.batch\t-\t500", STALLED),
    ("get\tdeployments.apps\t-\t500", STALLED),
    ("patch\tconfigmaps\tmerge\t504", STALLED),
    ("update\tleases.coordination.k8s.io\t-\t504", STALLED),
];
const KUBELET: &str =
    "a kubelet must answer: tests/testbed_faults.rs and tests/cluster_runbook.rs have real ones, the sandbox's are models";
const STALLED: &str = "the API server's store hung: tests/apiserver_engine/stall.rs makes it hang, and the sandbox's weather does";

/// The tests that are about all cases together.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("suite::every_request_of_real_drills_is_in_a_case", covered),
        Trial::test("suite::the_list_of_requests_is_sorted", sorted),
        Trial::test("suite::the_audit_log_of_the_sandbox_tells_what_was_asked", audited),
    ]
}

/// The lines of the list.
fn lines() -> impl Iterator<Item = &'static str> {
    ASKED.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

fn sorted() -> Result<(), Failed> {
    let found: Vec<&str> = lines().collect();
    let wanted: Vec<&str> = found.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    if found.len() < 40 {
        return Err(Failed::from(format!("{} lines: real drills ask for more than that", found.len())));
    }
    if found != wanted {
        return Err(Failed::from("asked-by-drills.tsv is not sorted, or has a line twice"));
    }
    if let Some((stranger, why)) = ELSEWHERE.iter().find(|(line, _)| !found.contains(line)) {
        return Err(Failed::from(format!("no drill has asked for {stranger}, of which it is said that no case can ({why})")));
    }
    Ok(())
}

/// Every line of the list is asked for by a case, with the same status.
fn covered() -> Result<(), Failed> {
    let asked: BTreeSet<String> = all()?.iter().flat_map(|(_, ran)| ran.asked.iter().map(Asked::to_string)).collect();
    let missing: Vec<&str> = lines().filter(|line| !ELSEWHERE.iter().any(|(other, _)| other == line) && !asked.contains(*line)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Failed::from(format!("asked for in real drills and by no case:\n{}", missing.join("\n")))) }
}

/// The sandbox's audit log is what its checkers go by: it must tell what a client knows that it has asked.
fn audited() -> Result<(), Failed> {
    let mut differences = String::new();
    for (name, ran) in all()? {
        let sorted = |asked: &[Asked]| {
            let mut asked: Vec<String> = asked.iter().map(Asked::to_string).collect();
            asked.sort();
            asked
        };
        let (asked, audited) = (sorted(&ran.asked), sorted(&ran.audited));
        // The sandbox audits what it has read, and does not read a body that is too large.
        let asked: Vec<String> = asked.into_iter().filter(|line| !line.ends_with("\t413")).collect();
        let missing: Vec<&String> = asked.iter().filter(|line| !audited.contains(line)).collect();
        if !missing.is_empty() || audited.len() < asked.len() {
            let _ = writeln!(differences, "{name}: {} asked, {} in the audit log; missing: {missing:?}", asked.len(), audited.len());
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(Failed::from(differences)) }
}

/// Every case, run once for all that want to know what it asks. One that fails is its own test's affair.
fn all() -> Result<Vec<(&'static str, sides::Ran)>, Failed> {
    static DONE: Mutex<Option<Vec<(&'static str, sides::Ran)>>> = Mutex::new(None);
    let mut done = DONE.lock().map_err(|_| Failed::from("a case broke the run of all cases"))?;
    if done.is_none() {
        *done = Some(cases::all().filter_map(|case| Some((case.name, sides::on_sandbox(case).ok()?))).collect());
    }
    done.clone().ok_or_else(|| Failed::from("nothing ran"))
}
