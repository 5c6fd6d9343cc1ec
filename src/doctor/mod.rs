//! What a cluster lets drills do, before one is run there: which faults of a scenario can work, what stands in their way, and what to
//! change. `firedrill doctor` shows it.
//!
//! What is asked for is what a drill would do, as far as that changes nothing: its plan is made, its permissions are asked for, and its
//! pods are created as trials (`dryRun=All`), which goes through Pod Security, quotas and webhooks as the pods themselves would.
//!
//! **Architecture invariant:** it changes nothing, unless it is told to look at nodes, for which it places pods and removes them.

mod facts;
mod look;
mod place;
mod pods;
mod render;

use std::collections::BTreeMap;

use serde::Serialize;

pub use facts::{Offset, offset};
pub use look::{Asked, look};
pub use render::render;

use crate::{cluster::ClusterError, exit::Exit};

/// Whether something is as a drill needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It is.
    Ok,
    /// It may be, or will not do in every case.
    Warning,
    /// It is not: the drill would be refused, or would fail.
    No,
}

impl Verdict {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::No => "no",
        }
    }
}

/// What findings are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Area {
    /// The cluster.
    Cluster,
    /// firedrill's own place in it, and the pods it puts there.
    Place,
    /// The nodes that helpers would work on.
    Nodes,
    /// The scenario there.
    Drill,
    /// Its faults.
    Faults,
}

impl Area {
    /// As it is shown.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Place => "firedrill's own place",
            Self::Nodes => "Nodes",
            Self::Drill => "The drill",
            Self::Faults => "Faults",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What it belongs to.
    pub area: Area,
    /// What was looked at, in two or three words.
    pub what: String,
    /// Whether it is as it must be.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to change, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

impl Finding {
    pub(crate) fn new(area: Area, what: impl Into<String>, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { area, what: what.into(), verdict, found: found.into(), change: None }
    }

    pub(crate) fn change(mut self, change: impl Into<String>) -> Self {
        self.change = Some(change.into());
        self
    }
}

/// What is found where nothing can be looked at.
pub fn unreachable(error: &ClusterError) -> Finding {
    let change = "see whether the address is right, the network lets this machine through, and the credentials are still good";
    Finding::new(Area::Cluster, "API server", Verdict::No, error.to_string()).change(change)
}

/// All findings, in the order of their areas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The environment's name.
    pub environment: String,
    /// The cluster, for people.
    pub cluster: String,
    /// The scenario, if one was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report of these findings.
    pub fn new(environment: &str, cluster: &str, scenario: Option<&str>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.area);
        Self { environment: environment.to_owned(), cluster: cluster.to_owned(), scenario: scenario.map(str::to_owned), findings }
    }

    /// How many there are of each verdict.
    pub fn counts(&self) -> BTreeMap<Verdict, usize> {
        let mut counts = BTreeMap::new();
        for finding in &self.findings {
            *counts.entry(finding.verdict).or_default() += 1;
        }
        counts
    }

    /// Refused when something stands in the way.
    pub fn exit(&self) -> Exit {
        if self.findings.iter().any(|finding| finding.verdict == Verdict::No) { Exit::Refused } else { Exit::Passed }
    }
}
