//! The timeline: what happened, in order, in UTC and as an offset from the drill's first record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    data::{revert_word, runbook_word, title},
    deviations,
};
use crate::{
    clock::Stamp,
    journal::{AlertStage, Event, ProbeRun, Reading, Record, ResumeIntent, SteadyPhase, StepOutcome},
    plan::Plan,
    scenario::types::ProbeState,
    verdict::{Bracket, Clocks, time},
};

/// A probe that flaps has thousands of runs; the journal has them all.
const RUNS_OF_A_PROBE: usize = 50;

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When, in UTC, by the clock it was read on.
    pub utc: String,
    /// Microseconds since the drill's first record. Of another clock than the drill's first runner's: the middle of what its measured
    /// offset allows; none if it was never measured.
    pub offset_us: Option<i64>,
    /// What happened.
    pub what: String,
    /// The number of the record.
    pub seq: u64,
}

/// All entries, in order of time: by their offsets where all are known, else by wall time.
pub(super) fn of(records: &[Record], plan: &Plan) -> Vec<Entry> {
    let Some(first) = records.first() else { return Vec::new() };
    let mut shown: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    let mut entries: Vec<Entry> = Vec::new();
    let deviations = deviations::of(records);
    let clocks = Clocks::new(records);
    for record in records {
        // Of what is said again and again the first time and, with the count, the last.
        if let Event::Deviation { .. } = record.event
            && !deviations.iter().any(|said| said.seq.0 == record.seq || said.seq.1 == record.seq)
        {
            continue;
        }
        if let Event::Run(run) = &record.event {
            let n = shown.entry(&run.probe).or_default();
            // Good runs are what is expected, unless they end something.
            *n += usize::from(run.state != ProbeState::Good || *n > 0);
            if *n == 0 || *n > RUNS_OF_A_PROBE {
                continue;
            }
        }
        let (at, what) = describe(record, plan);
        let Some(mut what) = what else { continue };
        if let Some(said) = deviations.iter().find(|said| said.times > 1 && said.seq.1 == record.seq) {
            what.push_str(&format!(" (the last of {} times)", said.times));
        }
        let offset_us = match clocks.at(at) {
            Bracket { lower: Some(lower), upper: Some(upper) } => Some(lower.midpoint(upper)),
            _ => None,
        };
        entries.push(Entry { utc: at.utc(), offset_us, what, seq: record.seq });
    }
    for (probe, n) in shown {
        if n > RUNS_OF_A_PROBE {
            let (utc, seq) = (first.at.utc(), first.seq);
            let what = format!("`{probe}` changed {} more times than are shown here", n - RUNS_OF_A_PROBE);
            entries.push(Entry { utc, offset_us: Some(0), what, seq });
        }
    }
    if entries.iter().all(|entry| entry.offset_us.is_some()) {
        // Wall clocks may be an hour apart; the record's number keeps the journal's order.
        entries.sort_by_key(|entry| (entry.offset_us, entry.seq));
    } else {
        // RFC 3339 in UTC with a fixed number of digits sorts as text.
        entries.sort_by(|a, b| (&a.utc, a.seq).cmp(&(&b.utc, b.seq)));
    }
    entries
}

/// When an event happened and what to say of it.
fn describe<'a>(record: &'a Record, plan: &Plan) -> (&'a Stamp, Option<String>) {
    let fault = |id: &u32| {
        let step = plan.leaf_steps().into_iter().find(|s| s.fault == Some(*id));
        step.map_or_else(|| format!("fault {id}"), |s| s.title.clone())
    };
    let at = &record.at;
    match &record.event {
        Event::Started { by, .. } => (at, Some(format!("the drill was started by {by}"))),
        Event::Confirmed { by } => (at, Some(format!("the plan was agreed to by {by}"))),
        Event::Resumed { by, intent, clock } => {
            let word = match intent {
                ResumeIntent::Resume => "to go on",
                ResumeIntent::Revert => "to revert",
            };
            (at, Some(format!("taken over {word} by {by} (clock {clock})")))
        }
        Event::LeasesTaken { leases } if leases.is_empty() => (at, Some("no Lease is needed: nothing is touched".to_owned())),
        Event::LeasesTaken { leases } => (at, Some(format!("Leases taken: {}", leases.join(", ")))),
        Event::LeaseLost { detail } => (at, Some(format!("Leases LOST: {detail}"))),
        Event::EndedElsewhere { at } => (at, Some("whoever took the drill over has reverted it and ended it clean".to_owned())),
        Event::ClockLinked { .. } => (at, None),
        Event::Armed { what, pod } => (at, Some(format!("{what} placed: {pod}"))),
        Event::ArmingDone { at } => (at, Some("all is armed and watched".to_owned())),
        Event::SteadyState { phase, held, detail } => {
            let phase = match phase {
                SteadyPhase::Before => "before the first step",
                SteadyPhase::After => "after the reverts",
            };
            let word = if *held { "held" } else { "did NOT hold" };
            (at, Some(format!("steady state {word} {phase}: {detail}")))
        }
        Event::Run(run) => (&run.first_send, Some(a_run(run))),
        Event::Alert(seen) => {
            let word = match seen.stage {
                AlertStage::Absent => "absent",
                AlertStage::Firing => "firing",
                AlertStage::Notified => "active at Alertmanager",
                AlertStage::Suppressed => "silenced or inhibited",
                AlertStage::Received => "received",
                AlertStage::Heartbeat => return (at, None),
                AlertStage::Resolved => "its end was received",
            };
            (&seen.before, Some(format!("alert `{}`: {word}. {}", seen.probe, seen.detail).trim_end().to_owned()))
        }
        Event::Reading { of, end, reading, .. } => (end, Some(a_reading(of, reading))),
        Event::StepStarted { step, start } => (start, Some(format!("step {step} `{}` begins", title(plan, step)))),
        Event::StepEnded { step, outcome, detail, end } => {
            let word = match outcome {
                StepOutcome::Succeeded => "done",
                StepOutcome::Failed => "FAILED",
                StepOutcome::TimedOut => "not done in time",
                StepOutcome::Aborted => "given up",
            };
            let text = format!("step {step} `{}` {word}: {}", title(plan, step), first_line(detail));
            (end, Some(text.trim_end_matches(": ").to_owned()))
        }
        Event::Intent { .. } => (at, None),
        Event::Injected { fault: id, start, .. } => (start, Some(format!("fault injected: {}", fault(id)))),
        Event::InjectFailed { fault: id, detail, start } => (start, Some(format!("fault could NOT be injected: {}: {detail}", fault(id)))),
        Event::Effective { fault: id, at, proof } => (at, Some(format!("fault proven to bite: {}: {proof}", fault(id)))),
        Event::NotEffective { fault: id, detail } => (at, Some(format!("fault NOT proven to bite: {}: {detail}", fault(id)))),
        Event::HoldBroken { fault: id, at, detail } => (at, Some(format!("fault did NOT hold: {}: {detail}", fault(id)))),
        Event::RevertIntent { fault: id, because } => (at, Some(format!("revert begins: {} ({because})", fault(id)))),
        Event::Reverted { fault: id, result, detail, end } => {
            (end, Some(format!("revert ended: {}: {}: {detail}", fault(id), revert_word(*result)).trim_end_matches(": ").to_owned()))
        }
        Event::Gone { fault: id, at, proof } => (at, Some(format!("fault proven gone: {}: {proof}", fault(id)))),
        Event::RunbookStep(r) => {
            let tries = if r.attempt > 1 { format!(", try {}", r.attempt) } else { String::new() };
            (&r.at, Some(format!("runbook `{}`: `{}` {}{tries}", title(plan, &r.step), r.title, runbook_word(r.state))))
        }
        Event::Acknowledged { step, by, refused, remark, at } => {
            let word = if *refused { "REFUSED" } else { "acknowledged" };
            (at, Some(format!("`{}` {word} by {by}. {remark}", title(plan, step)).trim_end_matches(". ").to_owned()))
        }
        Event::Deviation { detail } => (at, Some(format!("deviation: {detail}"))),
        Event::Note { text } => (at, Some(format!("note: {text}"))),
        Event::AbortRequested { by, reason } => (at, Some(format!("ABORT by {by}: {reason}"))),
        Event::StepsEnded { at } => (at, Some("steps ended".to_owned())),
        Event::ReadingsDone { at } => (at, Some("all readings done, sampling ended".to_owned())),
        Event::Disarmed { left } if left.is_empty() => (at, Some("helpers, observers and Leases removed".to_owned())),
        Event::Disarmed { left } => (at, Some(format!("LEFT in the cluster: {}", left.join(", ")))),
        Event::Ended { clean, at } => (at, Some(format!("the drill ended, {}", if *clean { "clean" } else { "NOT clean" }))),
    }
}

fn a_run(run: &ProbeRun) -> String {
    let lasted = run.last_complete.mono_us.saturating_sub(run.first_send.mono_us);
    let samples = if run.count == 1 { "1 sample".to_owned() } else { format!("{} samples in {}", run.count, time(lasted)) };
    format!("`{}` {}: {} ({samples})", run.probe, run.state, first_line(&run.detail))
}

fn a_reading(of: &str, reading: &Reading) -> String {
    match reading {
        Reading::Backup { id, .. } if id.is_empty() => format!("`{of}`: there is no backup"),
        Reading::Backup { id, bytes, .. } => format!("`{of}`: newest backup {id}, {bytes} bytes"),
        Reading::Ledger(l) => format!("`{of}` read back: {} acknowledged, {} lost, {} unknown", l.ok, l.lost.len(), l.unknown),
        Reading::Digest { rows, .. } => format!("`{of}`: digest of {rows} rows read"),
        Reading::Failed { detail } => format!("`{of}` could not be read: {}", first_line(detail)),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
