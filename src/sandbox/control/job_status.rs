//! What a Job's status says: how many pods succeeded and failed, also of pods that are gone, and how it ended.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    Again,
    api::At,
    job::{BY, TRACKING, Verdict, index_of, outcome},
    look::{self, deleting, number, set_count},
};
use crate::sandbox::{
    core::{State, as_map, strings, text},
    store::Stored,
};

/// A Job's pods.
pub(super) fn pods(state: &State, job: &Stored) -> Vec<Arc<Stored>> {
    state.controlled("/pods", text(&job.value, "/metadata/namespace"), text(&job.value, "/metadata/uid"))
}

/// Numbers of pods.
pub(super) struct Counts {
    pub(super) active: i64,
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    pub(super) terminating: i64,
    ready: usize,
    /// Indexes that have succeeded.
    indexes: BTreeSet<i64>,
}

impl Counts {
    /// What the status says, and the pods that it has not counted yet: those that still carry the finalizer.
    pub(super) fn of(job: &Value, pods: &[Arc<Stored>]) -> Self {
        let uncounted = |good: bool| {
            let held = |pod: &Value| strings(pod, "/metadata/finalizers").contains(&TRACKING);
            pods.iter().filter(|pod| held(&pod.value) && outcome(job, &pod.value) == Some(good)).count()
        };
        let as_i64 = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let indexed = text(job, "/spec/completionMode") == "Indexed";
        let mut indexes = read_indexes(text(job, "/status/completedIndexes"));
        let completions = number(job, "/spec/completions").unwrap_or(0);
        for pod in pods.iter().filter(|pod| outcome(job, &pod.value) == Some(true)) {
            indexes.extend(index_of(&pod.value).filter(|n| *n < completions));
        }
        Self {
            active: as_i64(pods.iter().filter(|pod| look::active(&pod.value)).count()),
            succeeded: if indexed {
                as_i64(indexes.len())
            } else {
                number(job, "/status/succeeded").unwrap_or(0) + as_i64(uncounted(true))
            },
            failed: number(job, "/status/failed").unwrap_or(0) + as_i64(uncounted(false)),
            terminating: as_i64(pods.iter().filter(|pod| deleting(&pod.value) && !look::ended(&pod.value)).count()),
            ready: pods.iter().filter(|pod| look::active(&pod.value) && look::ready(&pod.value)).count(),
            indexes,
        }
    }

    /// Indexes that have neither succeeded nor a pod.
    pub(super) fn free_indexes(&self, job: &Value, pods: &[Arc<Stored>]) -> impl Iterator<Item = i64> + use<> {
        let taken: BTreeSet<i64> = pods.iter().filter(|pod| look::active(&pod.value)).filter_map(|pod| index_of(&pod.value)).collect();
        let done = self.indexes.clone();
        (0..number(job, "/spec/completions").unwrap_or(0)).filter(move |n| !taken.contains(n) && !done.contains(n))
    }
}

/// `1,3-5`.
fn read_indexes(text: &str) -> BTreeSet<i64> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>())
            && to - from < 100_000
        {
            all.extend(from..=to);
        }
    }
    all
}

fn write_indexes(all: &BTreeSet<i64>) -> String {
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for n in all {
        match parts.last_mut() {
            Some((_, to)) if *to + 1 == *n => *to = *n,
            _ => parts.push((*n, *n)),
        }
    }
    let part = |(from, to): (i64, i64)| match to - from {
        0 => from.to_string(),
        // As the real one: two neighbours are written as a pair.
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    };
    parts.into_iter().map(part).collect::<Vec<_>>().join(",")
}

/// Writes the status.
pub(super) fn write(state: &mut State, job: &Stored, pods: &[Arc<Stored>], verdict: Option<&Verdict>, suspended: bool) -> Again {
    let value = &job.value;
    let counts = Counts::of(value, pods);
    let now = state.now();
    let mut status = value.get("status").cloned().unwrap_or_else(|| json!({}));
    let started = status.get("startTime").is_some();
    if !started && !suspended {
        status["startTime"] = Value::from(now.as_str());
    }
    let count = |n: i64| usize::try_from(n).unwrap_or(0);
    set_count(&mut status, "active", count(counts.active));
    set_count(&mut status, "succeeded", count(counts.succeeded));
    set_count(&mut status, "failed", count(counts.failed));
    status["terminating"] = Value::from(counts.terminating);
    status["ready"] = Value::from(counts.ready);
    status["uncountedTerminatedPods"] = json!({});
    if text(value, "/spec/completionMode") == "Indexed" {
        status["completedIndexes"] = Value::from(write_indexes(&counts.indexes));
    }
    let about = ("batch/v1", "Job", value);
    if let Some(verdict) = verdict {
        let first = if verdict.end == "Failed" { "FailureTarget" } else { "SuccessCriteriaMet" };
        look::set_condition(&mut status, first, "True", &verdict.reason, &verdict.message, &now);
        // The end is told once the last pod has ended (KEP-3998, KEP-3939).
        if counts.active == 0 && counts.terminating == 0 {
            look::set_condition(&mut status, verdict.end, "True", &verdict.reason, &verdict.message, &now);
            if verdict.end == "Complete" {
                status["completionTime"] = Value::from(now.as_str());
                state.tell(BY, about, "Normal", "Completed", "Job completed");
            } else {
                state.tell(BY, about, "Warning", &verdict.reason, &verdict.message);
            }
        }
    } else {
        suspension(state, about, &mut status, suspended, &now);
    }
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        for condition in conditions {
            let map = as_map(condition);
            let since = map.get("lastTransitionTime").cloned().unwrap_or_default();
            map.entry("lastProbeTime").or_insert(since);
        }
    }
    let at = At::new("batch", "jobs", text(value, "/metadata/namespace"), text(value, "/metadata/name"));
    let Some(stored) = state.peek("batch", "jobs", at.namespace, at.name).cloned() else { return Ok(None) };
    state.change_status(BY, at, &stored, status)?;
    Ok(None)
}

fn suspension(state: &mut State, about: (&str, &str, &Value), status: &mut Value, suspended: bool, now: &str) {
    let was = look::condition(&json!({"status": status}), "Suspended").map(|c| text(c, "/status") == "True");
    match (suspended, was) {
        (true, None | Some(false)) => {
            look::set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
            as_map(status).shift_remove("startTime");
            state.tell(BY, about, "Normal", "Suspended", "Job suspended");
        }
        (false, Some(true)) => {
            look::set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now);
            status["startTime"] = Value::from(now);
            state.tell(BY, about, "Normal", "Resumed", "Job resumed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_in_ranges() {
        for text in ["", "0", "0,1", "1,3-5", "0-2,7"] {
            assert_eq!(write_indexes(&read_indexes(text)), text);
        }
        assert!(read_indexes("x,1-,-1,1-99999999999").is_empty());
    }
}
