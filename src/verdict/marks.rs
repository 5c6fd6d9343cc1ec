//! Named instants of a drill, each with its bracket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Bracket,
    facts::Facts,
    micros,
    order::stable_for,
    series::{After, Series},
};
use crate::{
    journal::{AlertStage, DigestWhich, Reading, StepOutcome},
    scenario::types::ProbeState,
};

/// A named instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// Which.
    pub kind: MarkKind,
    /// Of what: the fault's step, the alert, the probe.
    pub of: String,
    /// When, in microseconds since the drill's first record.
    pub at: Bracket,
    /// What it is known by.
    pub detail: String,
}

/// Which instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MarkKind {
    /// A fault was injected.
    Injected,
    /// A fault was proven to bite.
    Effective,
    /// A probe went bad.
    OutageBegan,
    /// An alert's condition was true.
    Firing,
    /// An alert was active at Alertmanager.
    Notified,
    /// An alert was received.
    Detected,
    /// The outage was declared.
    Declared,
    /// Somebody acknowledged.
    Acknowledged,
    /// A probe was good again.
    Recovered,
    /// The recovery was verified: a wait for it ended, or a restored copy was read.
    Verified,
    /// A probe had been good for as long as it must be.
    Stable,
    /// A fault was proven to be gone.
    FaultGone,
}

impl std::fmt::Display for MarkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Injected => "injected",
            Self::Effective => "effective",
            Self::OutageBegan => "outage began",
            Self::Firing => "firing",
            Self::Notified => "notified",
            Self::Detected => "detected",
            Self::Declared => "declared",
            Self::Acknowledged => "acknowledged",
            Self::Recovered => "recovered",
            Self::Verified => "verified",
            Self::Stable => "stable",
            Self::FaultGone => "fault gone",
        })
    }
}

/// All marks of a drill, in order of time.
pub(super) fn all(facts: &Facts<'_>) -> Vec<Mark> {
    let mut marks = Vec::new();
    faults(facts, &mut marks);
    alerts(facts, &mut marks);
    people(facts, &mut marks);
    probes(facts, &mut marks);
    verified(facts, &mut marks);
    marks.sort_by_key(|m| (m.at.lower.is_none(), m.at.lower, m.kind));
    marks
}

fn mark(kind: MarkKind, of: impl Into<String>, at: Bracket, detail: impl Into<String>) -> Mark {
    Mark { kind, of: of.into(), at, detail: detail.into() }
}

fn faults(facts: &Facts<'_>, marks: &mut Vec<Mark>) {
    let at = |s| facts.clocks.at(s);
    for (id, fault) in &facts.faults {
        let title = facts.fault_title(*id);
        if let Some((start, end)) = fault.injected {
            let objects: Vec<_> = fault.objects.iter().map(ToString::to_string).collect();
            marks.push(mark(MarkKind::Injected, &title, at(start).to(at(end)), objects.join(", ")));
        }
        if let (Some((proven, proof)), Some(start)) = (fault.effective, fault.injected.map(|i| i.0).or(fault.intent)) {
            marks.push(mark(MarkKind::Effective, &title, at(start).to(at(proven)), proof));
        }
        if let Some((gone, proof)) = fault.gone {
            let from = fault.revert.map_or(Bracket::UNBOUNDED, |(begun, ..)| at(begun));
            marks.push(mark(MarkKind::FaultGone, &title, from.to(at(gone)), proof));
        }
    }
}

fn alerts(facts: &Facts<'_>, marks: &mut Vec<Mark>) {
    for seen in &facts.alerts {
        let kind = match seen.stage {
            AlertStage::Firing => MarkKind::Firing,
            AlertStage::Notified => MarkKind::Notified,
            AlertStage::Received => MarkKind::Detected,
            AlertStage::Absent | AlertStage::Suppressed | AlertStage::Heartbeat | AlertStage::Resolved => continue,
        };
        let at = facts.clocks.at(&seen.after).to(facts.clocks.at(&seen.before));
        marks.push(mark(kind, &seen.probe, at, &seen.detail));
    }
}

fn people(facts: &Facts<'_>, marks: &mut Vec<Mark>) {
    for step in facts.plan.leaf_steps() {
        let Some((end, StepOutcome::Succeeded, detail)) = facts.steps.get(step.path.as_str()).and_then(|s| s.ended) else { continue };
        if step.spec.declare.is_some() {
            let said = facts.acks.iter().find(|a| a.step == step.path && !a.refused);
            marks.push(mark(MarkKind::Declared, &step.title, facts.clocks.at(said.map_or(end, |a| a.at)), detail));
        }
    }
    for ack in facts.acks.iter().filter(|a| !a.refused && !facts.declared_by_alert(a.step)) {
        let path = ack.step.split('#').next().unwrap_or(ack.step);
        let title = facts.plan.step(path).map_or(ack.step, |s| s.title.as_str());
        marks.push(mark(MarkKind::Acknowledged, title, facts.clocks.at(ack.at), format!("by {}", ack.by)));
    }
}

fn probes(facts: &Facts<'_>, marks: &mut Vec<Mark>) {
    let Ok(origin) = facts.origin(None) else { return };
    for (name, probe) in &facts.plan.probes {
        // An alert that ends has not recovered anything.
        if probe.spec.alert.is_some() {
            continue;
        }
        let stable_for = stable_for(facts, name);
        let After::Down(down) = Series::of(facts, name).after(&origin, stable_for) else { continue };
        let clocks = &facts.clocks;
        let from = down.earliest().map_or(Bracket::UNBOUNDED, |(s, less)| clocks.at(s).plus(-less));
        marks.push(mark(MarkKind::OutageBegan, name, from.to(clocks.at(&down.first_bad.first_complete)), &down.first_bad.detail));
        if let (Some(at), Some(back)) = (down.recovered(facts), down.back) {
            marks.push(mark(MarkKind::Recovered, name, at, &back.detail));
            if stable_for > 0 {
                let held = format!("good for {}", super::time(stable_for));
                marks.push(mark(MarkKind::Stable, name, at.plus(stable_for), held));
            }
        }
    }
}

fn verified(facts: &Facts<'_>, marks: &mut Vec<Mark>) {
    for step in facts.plan.leaf_steps() {
        let Some(wait) = step.spec.wait_for.as_ref().filter(|w| w.state == ProbeState::Good) else { continue };
        let facts_of = facts.steps.get(step.path.as_str());
        if let Some((end, StepOutcome::Succeeded, detail)) = facts_of.and_then(|s| s.ended) {
            let held = if micros(wait.hold) > 0 { format!("good for {}", wait.hold) } else { detail.to_owned() };
            marks.push(mark(MarkKind::Verified, &wait.probe, facts.clocks.at(end), held));
        }
    }
    for (of, readings) in &facts.readings {
        for read in readings {
            if let Reading::Digest { side: DigestWhich::Restored, rows, .. } = read.reading {
                let at = facts.clocks.at(read.begin).to(facts.clocks.at(read.end));
                marks.push(mark(MarkKind::Verified, *of, at, format!("{rows} rows of the restored copy read")));
            }
        }
    }
}
