//! The report as data: what all its forms say.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    deviations,
    timeline::{self, Entry},
    touched,
};
use crate::{
    clock::Stamp,
    journal::{Event, FaultId, ProbeRun, Reading, Record, RevertResult, RunbookState, SteadyPhase, line_hash},
    plan::Plan,
    scenario::types::{OneOf, ProbeState},
    verdict::{Bracket, Verdict, judge},
};

/// The version of the report's format. A reader that knows it can rely on every field of its schema.
pub const SCHEMA: &str = "firedrill.dev/report/v1";

/// All that is reported of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Whether it was a sandbox drill. Then nothing in here is evidence of anything.
    pub sandbox: bool,
    /// The drill's name.
    pub drill: String,
    /// The scenario's name.
    pub scenario: String,
    /// Its summary.
    pub summary: String,
    /// SHA-256 (hex) of its text.
    pub scenario_sha256: String,
    /// The values of its parameters.
    pub parameters: IndexMap<String, String>,
    /// Everything random came from this.
    pub seed: u64,
    /// The environment's name.
    pub environment: String,
    /// The cluster, for people.
    pub cluster: String,
    /// The uid of its kube-system namespace.
    pub cluster_uid: String,
    /// firedrill's version.
    pub version: String,
    /// Who took part, and how: started, confirmed, acknowledged.
    pub participants: Vec<Participant>,
    /// When the first record was written, in UTC.
    pub started: String,
    /// When the drill ended, in UTC; none if it never did.
    pub ended: Option<String>,
    /// From the first record to the last, in microseconds.
    pub duration_us: Option<i64>,
    /// What it showed.
    pub verdict: Verdict,
    /// The steady state before the first step: whether it held and what was seen.
    pub baseline: Option<Steady>,
    /// The steady state after the reverts.
    pub afterwards: Option<Steady>,
    /// Each fault from proof of effect to proof of cleaning up.
    pub faults: Vec<FaultReport>,
    /// What was watched, and how densely.
    pub probes: Vec<ProbeReport>,
    /// Ledgers read back.
    pub ledgers: Vec<LedgerReport>,
    /// Backups and digests as they were read.
    pub readings: Vec<ReadingReport>,
    /// Steps of runbooks.
    pub runbooks: Vec<RunbookReport>,
    /// What was not done as the scenario says; what was said again and again is one entry with how often and when.
    pub deviations: Vec<String>,
    /// Clocks that were measured against the drill's.
    pub clocks: Vec<ClockReport>,
    /// What happened, in order.
    pub timeline: Vec<Entry>,
    /// The journal that all of this was made from.
    pub journal: JournalReport,
}

/// Somebody who took part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Participant {
    /// Who.
    pub who: String,
    /// What they did.
    pub did: String,
}

/// Whether the steady state held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Steady {
    /// Whether it did.
    pub held: bool,
    /// What was seen.
    pub detail: String,
}

/// A fault's life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// Its step.
    pub step: String,
    /// Its kind.
    pub kind: String,
    /// What it acted on.
    pub objects: Vec<String>,
    /// What it touched: objects, and processes, files, traffic and rows, which no request to the API server shows.
    #[serde(default)]
    pub touched: Vec<String>,
    /// Whether it was injected.
    pub injected: bool,
    /// Proof that it bit; none if there is none.
    pub effect: Option<String>,
    /// How it did not hold, if so: undone by others, or not what it was to be.
    pub hold_broken: Option<String>,
    /// What the revert did.
    pub revert: Option<String>,
    /// Proof that nothing is left of it; none if there is none.
    pub gone: Option<String>,
}

/// A probe's samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Time from one sample to the next, in microseconds.
    pub every_us: u64,
    /// Time limit of a sample, in microseconds.
    pub timeout_us: u64,
    /// Good samples.
    pub good: u64,
    /// Bad samples.
    pub bad: u64,
    /// Samples that say neither.
    pub unknown: u64,
    /// The slowest sample, in microseconds.
    pub slowest_us: u64,
}

/// A ledger read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerReport {
    /// Its probe.
    pub name: String,
    /// Writes tried.
    pub attempted: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Refused for certain.
    pub refused: u64,
    /// Neither acknowledged nor refused.
    pub unknown: u64,
    /// Numbers of the acknowledged writes that are gone.
    pub lost: Vec<u64>,
    /// Read back and never tried.
    pub phantom: u64,
    /// Read back more than once.
    pub duplicated: u64,
    /// Read back out of order.
    pub reordered: u64,
    /// Where it was read back.
    pub copies: Vec<String>,
}

/// Something read from a backup tool or a database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadingReport {
    /// The probe or objective.
    pub of: String,
    /// When, in UTC.
    pub at: String,
    /// What: `backup`, `source digest`, `restored digest`, `failed`.
    pub what: String,
    /// The identity or digest, and its size.
    pub detail: String,
}

/// A step of a runbook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunbookReport {
    /// The drill's step.
    pub step: String,
    /// The runbook's step.
    pub title: String,
    /// How it ended: `succeeded`, `failed`, `skipped`, `timed out`, `begun`.
    pub state: String,
    /// Tries.
    pub attempts: u32,
    /// From its first start to its end, in microseconds.
    pub took: Option<Bracket>,
    /// Who acknowledged it, for a manual step.
    pub actor: String,
    /// The end of its output, or the reason of a skip.
    pub detail: String,
}

/// A clock that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockReport {
    /// Its name.
    pub clock: String,
    /// How often it was measured.
    pub links: u64,
    /// The largest error of its offset, in microseconds.
    pub worst_error_us: i64,
    /// How far its wall time was from the runner's at most, in microseconds.
    pub wall_offset_us: i64,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalReport {
    /// Its records.
    pub records: u64,
    /// SHA-256 (hex) of its last line: it stands for all of them.
    pub head: String,
}

/// Gathers all there is to report. None when the records do not begin with a plan.
pub fn collect(records: &[Record]) -> Option<Report> {
    let (first, last) = (records.first()?, records.last()?);
    let Event::Started { drill, plan, by, version, sandbox } = &first.event else { return None };
    let ended = records.iter().rev().find_map(|r| if let Event::Ended { at, .. } = &r.event { Some(at.utc()) } else { None });
    let events = || records.iter().map(|r| &r.event);
    let steady = |wanted: SteadyPhase| {
        let found = events().rfind(|e| matches!(e, Event::SteadyState { phase, .. } if *phase == wanted))?;
        let Event::SteadyState { held, detail, .. } = found else { return None };
        Some(Steady { held: *held, detail: detail.clone() })
    };
    Some(Report {
        schema: SCHEMA.to_owned(),
        sandbox: *sandbox,
        drill: drill.clone(),
        scenario: plan.name.clone(),
        summary: plan.summary.clone(),
        scenario_sha256: plan.scenario_sha256.clone(),
        parameters: plan.parameters.clone(),
        seed: plan.seed,
        environment: plan.environment.clone(),
        cluster: plan.cluster_name.clone(),
        cluster_uid: plan.cluster_uid.clone(),
        version: version.clone(),
        participants: participants(by, records, plan),
        started: first.at.utc(),
        ended,
        duration_us: (first.at.clock == last.at.clock).then(|| last.at.mono_us.saturating_sub(first.at.mono_us)),
        verdict: judge(records),
        baseline: steady(SteadyPhase::Before),
        afterwards: steady(SteadyPhase::After),
        faults: faults(records, plan),
        probes: probes(records, plan),
        ledgers: ledgers(records),
        readings: readings(records),
        runbooks: runbooks(records, plan),
        deviations: deviations::of(records).iter().map(deviations::Said::line).collect(),
        clocks: clocks(records),
        timeline: timeline::of(records, plan),
        journal: JournalReport {
            records: u64::try_from(records.len()).unwrap_or(u64::MAX),
            // A record is written as its fields stand, so that this is the line's hash.
            head: serde_json::to_string(last).map(|line| line_hash(&line)).unwrap_or_default(),
        },
    })
}

/// The title of a step's path; a manual item of a runbook (`3#1`) counts to its step.
pub(super) fn title(plan: &Plan, path: &str) -> String {
    let step = path.split('#').next().unwrap_or(path);
    plan.step(step).map_or_else(|| path.to_owned(), |s| s.title.clone())
}

fn participants(by: &str, records: &[Record], plan: &Plan) -> Vec<Participant> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    let mut add = |who: &str, did: String| {
        if seen.insert((who.to_owned(), did.clone())) {
            all.push(Participant { who: who.to_owned(), did });
        }
    };
    add(by, "started the drill".to_owned());
    for record in records {
        match &record.event {
            Event::Confirmed { by } => add(by, "agreed to the plan".to_owned()),
            Event::Resumed { by, .. } => add(by, "took the drill over".to_owned()),
            Event::Acknowledged { step, by, refused, .. } => {
                let word = if *refused { "refused" } else { "acknowledged" };
                add(by, format!("{word} `{}`", title(plan, step)));
            }
            Event::AbortRequested { by, .. } => add(by, "aborted the drill".to_owned()),
            _ => {}
        }
    }
    all
}

fn faults(records: &[Record], plan: &Plan) -> Vec<FaultReport> {
    let mut all: BTreeMap<FaultId, FaultReport> = BTreeMap::new();
    for step in plan.leaf_steps() {
        if let (Some(id), Some(spec)) = (step.fault, &step.spec.inject) {
            let kind = spec.kind_name().unwrap_or_default().to_owned();
            all.insert(id, FaultReport { step: step.title.clone(), kind, ..FaultReport::default() });
        }
    }
    for record in records {
        let mut with = |id: &FaultId, set: &dyn Fn(&mut FaultReport)| set(all.entry(*id).or_default());
        match &record.event {
            Event::Intent { fault, objects, .. } => with(fault, &|f| f.objects = objects.iter().map(ToString::to_string).collect()),
            Event::Injected { fault, .. } => with(fault, &|f| f.injected = true),
            Event::Effective { fault, proof, .. } => with(fault, &|f| f.effect = Some(proof.clone())),
            Event::HoldBroken { fault, detail, .. } => with(fault, &|f| f.hold_broken = Some(detail.clone())),
            Event::Reverted { fault, result, detail, .. } => {
                with(fault, &|f| f.revert = Some(format!("{}: {detail}", revert_word(*result)).trim_end_matches(": ").to_owned()));
            }
            Event::Gone { fault, proof, .. } => with(fault, &|f| f.gone = Some(proof.clone())),
            _ => {}
        }
    }
    for (id, touched) in touched::of(records, plan) {
        all.entry(id).or_default().touched = touched.lines;
    }
    all.into_values().collect()
}

/// How a revert ended, in words.
pub(crate) const fn revert_word(result: RevertResult) -> &'static str {
    match result {
        RevertResult::Reverted => "reverted",
        RevertResult::Nothing => "nothing to undo",
        RevertResult::Superseded => "superseded: changed by others meanwhile, and left as they want it",
        RevertResult::TargetGone => "the target is gone",
        RevertResult::NotOurs => "left to the runbook, or irreversible as declared",
        RevertResult::Failed => "FAILED",
    }
}

fn probes(records: &[Record], plan: &Plan) -> Vec<ProbeReport> {
    let mut sums: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for record in records {
        if let Event::Run(ProbeRun { probe, state, count, slowest_us, .. }) = &record.event {
            let [good, bad, unknown, slowest] = sums.entry(probe).or_default();
            *match state {
                ProbeState::Good => good,
                ProbeState::Bad => bad,
                ProbeState::Unknown => unknown,
            } += count;
            *slowest = (*slowest).max(*slowest_us);
        }
    }
    let report = |(name, probe): (&String, &crate::plan::PlannedProbe)| {
        let [good, bad, unknown, slowest_us] = sums.get(name.as_str()).copied().unwrap_or_default();
        let kind = probe.spec.kind_name().unwrap_or_default().to_owned();
        let (every_us, timeout_us) = (probe.every.as_micros(), probe.timeout.as_micros());
        ProbeReport { name: name.clone(), kind, every_us, timeout_us, good, bad, unknown, slowest_us }
    };
    plan.probes.iter().map(report).collect()
}

fn ledgers(records: &[Record]) -> Vec<LedgerReport> {
    let report = |record: &Record| {
        let Event::Reading { of, reading: Reading::Ledger(l), .. } = &record.event else { return None };
        let copy = |c: &crate::journal::LedgerCopy| {
            let behind = if c.caught_up { "" } else { ", had not replayed everything" };
            format!("{}: {} missing{behind}", c.name, c.missing)
        };
        Some(LedgerReport {
            name: of.clone(),
            attempted: l.attempted,
            acknowledged: l.ok,
            refused: l.failed,
            unknown: l.unknown,
            lost: l.lost.iter().map(|w| w.n).collect(),
            phantom: l.phantom,
            duplicated: l.duplicated,
            reordered: l.reordered,
            copies: l.copies.iter().map(copy).collect(),
        })
    };
    records.iter().filter_map(report).collect()
}

fn readings(records: &[Record]) -> Vec<ReadingReport> {
    let report = |record: &Record| {
        let Event::Reading { of, end, reading, .. } = &record.event else { return None };
        let (what, detail) = match reading {
            Reading::Ledger(_) => return None,
            Reading::Backup { id, .. } if id.is_empty() => ("backup", "none".to_owned()),
            Reading::Backup { id, finished_wall_us, bytes, detail } => {
                let finished = crate::clock::utc(*finished_wall_us);
                ("backup", format!("{id}, finished {finished}, {bytes} bytes. {detail}").trim_end().to_owned())
            }
            Reading::Digest { side: crate::journal::DigestWhich::Source, digest, rows } => {
                ("source digest", format!("{digest} of {rows} rows"))
            }
            Reading::Digest { side: crate::journal::DigestWhich::Restored, digest, rows } => {
                ("restored digest", format!("{digest} of {rows} rows"))
            }
            Reading::Failed { detail } => ("failed", detail.clone()),
        };
        Some(ReadingReport { of: of.clone(), at: end.utc(), what: what.to_owned(), detail })
    };
    records.iter().filter_map(report).collect()
}

fn runbooks(records: &[Record], plan: &Plan) -> Vec<RunbookReport> {
    let mut all: IndexMap<(String, u32), (RunbookReport, Stamp)> = IndexMap::new();
    for record in records {
        match &record.event {
            Event::RunbookStep(r) => {
                let new = || {
                    let (step, title) = (title(plan, &r.step), r.title.clone());
                    let (state, actor, detail) = (String::new(), String::new(), String::new());
                    (RunbookReport { step, title, state, attempts: 0, took: None, actor, detail }, r.at.clone())
                };
                let (report, start) = all.entry((r.step.clone(), r.index)).or_insert_with(new);
                report.attempts = report.attempts.max(r.attempt);
                report.state = runbook_word(r.state).to_owned();
                report.detail.clone_from(&r.detail);
                if r.state != RunbookState::Started && r.at.clock == start.clock {
                    report.took = Some(Bracket::exact(r.at.mono_us.saturating_sub(start.mono_us)));
                }
            }
            // An acknowledgement comes before the end of the step it is for.
            Event::Acknowledged { step, by, .. } => {
                let path = step.split('#').next().unwrap_or(step);
                let current = all.iter_mut().rfind(|((p, _), (r, _))| p == path && r.state == runbook_word(RunbookState::Started));
                if let Some((_, (report, _))) = current {
                    report.actor.clone_from(by);
                }
            }
            _ => {}
        }
    }
    all.into_values().map(|(report, _)| report).collect()
}

pub(super) const fn runbook_word(state: RunbookState) -> &'static str {
    match state {
        RunbookState::Started => "begun",
        RunbookState::Succeeded => "succeeded",
        RunbookState::Failed => "failed",
        RunbookState::Skipped => "skipped",
        RunbookState::TimedOut => "timed out",
    }
}

fn clocks(records: &[Record]) -> Vec<ClockReport> {
    let mut all: BTreeMap<String, ClockReport> = BTreeMap::new();
    for record in records {
        if let Event::ClockLinked { clock, error_us, wall_offset_us, .. } = &record.event {
            let new = || ClockReport { clock: clock.to_string(), links: 0, worst_error_us: 0, wall_offset_us: 0 };
            let report = all.entry(clock.to_string()).or_insert_with(new);
            report.links += 1;
            report.worst_error_us = report.worst_error_us.max(*error_us);
            if wall_offset_us.saturating_abs() > report.wall_offset_us.saturating_abs() {
                report.wall_offset_us = *wall_offset_us;
            }
        }
    }
    all.into_values().collect()
}
