//! What is known of a simulated drill when it is over: all that checkers look at.

use std::collections::BTreeMap;

use firedrill::{
    journal::{Record, Synced},
    plan::Plan,
    sandbox::{AuditEntry, Truth},
};
use serde_json::Value;

/// firedrill's own namespace in these worlds.
pub(crate) const OWN: &str = "firedrill";
/// What the users begin with that are runners.
pub(crate) const RUNNER: &str = "runner-";

/// All that happened in a sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Every request, in order of arrival.
    pub(crate) audit: Vec<AuditEntry>,
    /// Objects before the first drill.
    pub(crate) before: Vec<Value>,
    /// Objects after the last one.
    pub(crate) after: Vec<Value>,
    /// Why there was no drill: its plan was refused.
    pub(crate) refused: Option<String>,
    /// All runners, in order of their beginning.
    pub(crate) runners: Vec<Runner>,
    /// What node helpers really sent to processes, in order.
    pub(crate) signals: Vec<Sent>,
}

/// A signal that a process got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at_us: i64,
    /// The pod that sent it, by name.
    pub(crate) by: String,
    /// The uid of the pod that has the process.
    pub(crate) uid: String,
    pub(crate) pid: i64,
    /// `STOP`, `CONT` or `KILL`.
    pub(crate) signal: String,
}

impl Sent {
    /// What a sandbox knows of them.
    pub(crate) fn all(truth: &[Truth]) -> Vec<Self> {
        let sent = |t: &Truth| Self {
            at_us: t.at_us,
            by: t.pod.rsplit('/').next().unwrap_or_default().to_owned(),
            uid: text(&t.fact["uid"]).to_owned(),
            pid: t.fact["pid"].as_i64().unwrap_or_default(),
            signal: text(&t.fact["signal"]).to_owned(),
        };
        truth.iter().filter(|t| t.what == "signal").map(sent).collect()
    }

    /// Whether it breaks something.
    pub(crate) fn breaks(&self) -> bool {
        self.signal == "STOP" || self.signal == "KILL"
    }

    /// Whether it was sent for a drill: the helper's name says it.
    pub(crate) fn is_of(&self, drill: &str) -> bool {
        self.by.strip_prefix("node-helper-").and_then(|rest| rest.strip_prefix(drill)).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// One runner: a process that ran a drill, or tried to.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    /// Its user.
    pub(crate) user: String,
    /// Its drill.
    pub(crate) drill: String,
    pub(crate) plan: Plan,
    /// How long its Leases live without a renewal, in microseconds.
    pub(crate) lease_us: i64,
    /// The name of its clock.
    pub(crate) clock: String,
    /// Its monotonic clock minus the sandbox's wall clock, in microseconds.
    pub(crate) clock_us: i64,
    /// Its journal as it was when the runner ended, what was not synced included.
    pub(crate) journal: String,
    /// The syncs of its journal. A moment is the number of requests there had been.
    pub(crate) syncs: Vec<Synced>,
    /// When it lived, by the sandbox's wall clock: the spans in which it was run. One that slept has several.
    pub(crate) lived: Vec<(i64, i64)>,
    /// How it ended.
    pub(crate) end: End,
}

/// How a runner ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It was killed.
    Died,
    /// It went round in circles, without ever waiting, until it was killed.
    Circles,
    /// It did not begin, or not take over.
    Refused(String),
    /// It came to its end, and says whether the cluster is as it was.
    Over { clean: bool, trouble: Option<String> },
}

/// Something that must never be, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which promise is broken.
    pub(crate) promise: &'static str,
    /// How.
    pub(crate) evidence: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.promise, self.evidence)
    }
}

pub(crate) fn violation(promise: &'static str, evidence: impl Into<String>) -> Violation {
    Violation { promise, evidence: evidence.into() }
}

impl Runner {
    /// The whole lines of its journal.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.journal.split_inclusive('\n').filter(|l| l.ends_with('\n')).filter_map(|l| serde_json::from_str(l).ok()).collect()
    }
}

impl History {
    /// The runner of a user.
    pub(crate) fn runner(&self, user: &str) -> Option<&Runner> {
        self.runners.iter().find(|runner| runner.user == user)
    }

    /// What runners changed, in order, with its number: carried out, and no trial.
    pub(crate) fn written(&self) -> impl Iterator<Item = (usize, &AuditEntry, &Runner)> {
        let all = self.audit.iter().enumerate().filter(|(_, entry)| done(entry));
        all.filter_map(|(n, entry)| Some((n, entry, self.runner(&entry.user)?)))
    }

    /// Every pod that there ever was, by uid: as the last request that had it whole had it.
    pub(crate) fn pods(&self) -> BTreeMap<String, Value> {
        let mut pods = BTreeMap::new();
        for pod in self.before.iter().filter(|o| o["kind"] == "Pod").chain(&self.after).filter(|o| o["kind"] == "Pod") {
            pods.insert(text(&pod["metadata"]["uid"]).to_owned(), pod.clone());
        }
        for entry in self.audit.iter().filter(|e| e.resource == "pods" && e.verb == "update") {
            if let Some(pod) = entry.request_object().filter(|pod| !text(&pod["metadata"]["uid"]).is_empty()) {
                pods.insert(text(&pod["metadata"]["uid"]).to_owned(), pod);
            }
        }
        pods
    }
}

/// Whether a request changed something: carried out, be its answer lost or not.
pub(crate) fn done(entry: &AuditEntry) -> bool {
    entry.is_write() && (200..300).contains(&entry.code) && !entry.dry_run && entry.group != "authorization.k8s.io"
}

/// The text of a value; empty if it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `patch apps/deployments shop/web at 12`.
pub(crate) fn called(number: usize, entry: &AuditEntry) -> String {
    let group = if entry.group.is_empty() { String::new() } else { format!("{}/", entry.group) };
    let sub = if entry.subresource.is_empty() { String::new() } else { format!("/{}", entry.subresource) };
    let (verb, resource, namespace, name, user) = (&entry.verb, &entry.resource, &entry.namespace, &entry.name, &entry.user);
    let sent: String = String::from_utf8_lossy(&entry.request).chars().take(300).collect();
    format!("request {number} at {} us by {user}: {verb} {group}{resource}{sub} {namespace}/{name} {sent}", entry.at_us)
}
