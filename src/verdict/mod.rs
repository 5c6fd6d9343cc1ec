//! What a drill showed: marks with their brackets, each objective met, missed or inconclusive, and the whole.
//!
//! `docs/measuring.md` has the rules with their reasons.
//!
//! **Architecture invariant:** a function of the records alone. No cluster, no clock, no file: anyone can compute a verdict
//! again from the evidence, and what was not recorded cannot be part of it. Nothing here changes a record.

mod availability;
mod backup;
mod bracket;
mod check;
mod clean;
mod clocks;
mod data_loss;
mod detection_time;
mod drill;
mod facts;
mod hint;
mod marks;
mod never;
mod order;
mod recovery_time;
mod rejudge;
mod restore;
mod runbook;
mod series;
mod step_time;
#[cfg(test)]
pub(crate) mod tests;
mod unrehearsed;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use bracket::{Bracket, time};
pub(crate) use clocks::Clocks;
pub use drill::ABORTED_BY_STEP;
pub use marks::{Mark, MarkKind};
pub use rejudge::{RejudgeError, rejudge, rejudge_plan};

use crate::{
    journal::Record,
    scenario::types::{Objective, OneOf},
};
use facts::Facts;

/// Whether an objective was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Proven to be within the target.
    Met,
    /// What was measured decides neither.
    Inconclusive,
    /// Proven to be outside of the target.
    Missed,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Inconclusive => "inconclusive",
            Self::Missed => "missed",
        })
    }
}

/// What the drill as a whole showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DrillVerdict {
    /// Every objective was met, every fault bit, and the steady state held again at the end.
    Passed,
    /// An objective was missed.
    Failed,
    /// Nothing was missed, but not all was proven.
    Inconclusive,
    /// The drill was given up before its steps were done.
    Aborted,
}

impl std::fmt::Display for DrillVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Inconclusive => "inconclusive",
            Self::Aborted => "aborted",
        })
    }
}

/// What the numbers of a bracket count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unit {
    /// Microseconds.
    #[default]
    Microseconds,
    /// Writes.
    Writes,
    /// Rows.
    Rows,
    /// Bytes.
    Bytes,
    /// Parts of a million, of a share.
    PartsPerMillion,
}

impl Unit {
    /// A bracket in this unit, for people.
    pub fn show(self, bracket: Bracket) -> String {
        let number = |n: i64| match self {
            Self::Microseconds => time(n),
            Self::Writes | Self::Rows => n.to_string(),
            Self::Bytes => format!("{n} B"),
            // Rounded down: 99.99996 % is not 100 %.
            Self::PartsPerMillion => format!("{}.{:02}%", n / 10_000, n % 10_000 / 100),
        };
        let what = match self {
            Self::Writes => " writes",
            Self::Rows => " rows",
            _ => "",
        };
        match (bracket.lower, bracket.upper) {
            (Some(l), Some(u)) if l == u => format!("{}{what}", number(l)),
            (l, u) => format!("{} … {}{what}", l.map_or_else(|| "-∞".to_owned(), number), u.map_or_else(|| "∞".to_owned(), number)),
        }
    }
}

/// What a drill showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The drill's name.
    pub name: String,
    /// The whole.
    pub drill: DrillVerdict,
    /// Whether the cluster was proven to be as it was.
    pub clean: bool,
    /// Why it did not pass, beyond its objectives.
    pub reasons: Vec<String>,
    /// What is left, or not proven to be gone; empty when clean.
    pub unclean: Vec<String>,
    /// What stays because the scenario declared it irreversible (`undo: none`). Clean is all but that.
    #[serde(default)]
    pub stays: Vec<String>,
    /// Each objective, in the scenario's order.
    pub objectives: Vec<ObjectiveVerdict>,
    /// Named instants, in order of time.
    pub marks: Vec<Mark>,
    /// Whether it was a sandbox drill: never evidence.
    pub sandbox: bool,
}

impl Verdict {
    /// Whether it is clean, in words.
    pub const fn cleanness(&self) -> &'static str {
        match (self.clean, self.stays.is_empty()) {
            (true, true) => "clean",
            (true, false) => "clean but for what was declared irreversible",
            (false, _) => "NOT CLEAN",
        }
    }
}

/// What became of one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveVerdict {
    /// Its name, unique in the drill.
    pub name: String,
    /// Its kind, such as `recoveryTime`.
    pub kind: String,
    /// Met, missed or inconclusive.
    pub outcome: Outcome,
    /// What was measured, where a number was.
    pub measured: Option<Bracket>,
    /// What the numbers count.
    pub unit: Unit,
    /// The target, for people.
    pub target: String,
    /// The target in the unit, where it is a number.
    pub target_value: Option<i64>,
    /// Why: always said.
    pub reason: String,
    /// For an inconclusive one: what would decide it.
    pub hint: Option<String>,
    /// What it is made of: stages of a detection, steps of a runbook, counts of a ledger.
    pub parts: Vec<Part>,
}

impl ObjectiveVerdict {
    /// What was measured, for people.
    pub fn measured_text(&self) -> String {
        self.measured.map_or_else(String::new, |m| self.unit.show(m))
    }
}

/// A part of an objective's measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What.
    pub name: String,
    /// How much.
    pub measured: Bracket,
    /// Of what.
    pub unit: Unit,
    /// For a part with a target of its own: what became of it.
    pub outcome: Option<Outcome>,
    /// A remark, or empty.
    pub detail: String,
}

/// What the judge of a kind says of an objective.
#[derive(Debug, Default)]
struct Judged {
    outcome: Option<Outcome>,
    measured: Option<Bracket>,
    unit: Unit,
    target: String,
    target_value: Option<i64>,
    reason: String,
    hint: Option<String>,
    parts: Vec<Part>,
}

impl Judged {
    /// Begins with the target.
    fn against(target: impl Into<String>) -> Self {
        Self { target: target.into(), ..Self::default() }
    }

    /// Begins with a target time.
    fn within(target: crate::scenario::types::Dur) -> Self {
        Self { target: format!("≤ {target}"), target_value: Some(micros(target)), ..Self::default() }
    }

    fn measured(mut self, measured: Bracket) -> Self {
        self.measured = Some(measured);
        self
    }

    fn say(mut self, outcome: Outcome, reason: impl Into<String>) -> Self {
        self.outcome = Some(outcome);
        self.reason = reason.into();
        self
    }

    fn inconclusive(self, reason: impl Into<String>) -> Self {
        self.say(Outcome::Inconclusive, reason)
    }

    fn part(&mut self, name: impl Into<String>, measured: Bracket, unit: Unit) -> &mut Part {
        self.parts.push(Part { name: name.into(), measured, unit, outcome: None, detail: String::new() });
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }
}

/// A duration in the signed microseconds of brackets.
fn micros(dur: crate::scenario::types::Dur) -> i64 {
    i64::try_from(dur.as_micros()).unwrap_or(i64::MAX)
}

/// Judges a drill from its records alone. Records that do not begin with `started` give an inconclusive verdict without
/// objectives.
pub fn judge(records: &[Record]) -> Verdict {
    let Some(facts) = Facts::new(records) else {
        return Verdict {
            name: String::new(),
            drill: DrillVerdict::Inconclusive,
            clean: false,
            reasons: vec!["the journal does not begin with the drill's plan".to_owned()],
            unclean: vec!["nothing is known of what was touched".to_owned()],
            stays: Vec::new(),
            objectives: Vec::new(),
            marks: Vec::new(),
            sandbox: false,
        };
    };
    let mut objectives: Vec<_> = facts.plan.objectives.iter().map(|o| objective(&facts, &o.name, &o.spec)).collect();
    let unrehearsed = unrehearsed::first(records).filter(|_| facts.sandbox);
    if unrehearsed.is_some() {
        unrehearsed::withdraw(&mut objectives);
    }
    let unclean = clean::left(&facts);
    let (drill, reasons) = drill::whole(&facts, &objectives, unrehearsed);
    Verdict {
        name: facts.drill.to_owned(),
        drill,
        clean: unclean.is_empty(),
        reasons,
        unclean,
        stays: clean::stays(&facts),
        marks: marks::all(&facts),
        objectives,
        sandbox: facts.sandbox,
    }
}

fn objective(facts: &Facts<'_>, name: &str, spec: &Objective) -> ObjectiveVerdict {
    let kind = spec.kind_name();
    // A struct of optional fields: the compiler checks by this pattern that no kind is forgotten.
    let Objective {
        recovery_time,
        detection_time,
        data_loss,
        availability,
        runbook,
        backup,
        restore,
        order,
        step_time,
        never,
        check,
        name: _,
    } = spec;
    let judged = None
        .or_else(|| recovery_time.as_ref().map(|o| recovery_time::judge(facts, o)))
        .or_else(|| detection_time.as_ref().map(|o| detection_time::judge(facts, o)))
        .or_else(|| data_loss.as_ref().map(|o| data_loss::judge(facts, o)))
        .or_else(|| availability.as_ref().map(|o| availability::judge(facts, o)))
        .or_else(|| runbook.as_ref().map(|o| runbook::judge(facts, o)))
        .or_else(|| backup.as_ref().map(|o| backup::judge(facts, o)))
        .or_else(|| restore.as_ref().map(|o| restore::judge(facts, name, o)))
        .or_else(|| order.as_ref().map(|o| order::judge(facts, o)))
        .or_else(|| step_time.as_ref().map(|o| step_time::judge(facts, o)))
        .or_else(|| never.as_ref().map(|o| never::judge(facts, o)))
        .or_else(|| check.as_ref().map(|o| check::judge(facts, o)))
        .filter(|_| kind.is_some())
        .unwrap_or_else(|| Judged::default().inconclusive("the objective has not exactly one kind"));
    ObjectiveVerdict {
        name: name.to_owned(),
        kind: kind.unwrap_or_default().to_owned(),
        outcome: judged.outcome.unwrap_or(Outcome::Inconclusive),
        measured: judged.measured,
        unit: judged.unit,
        target: judged.target,
        target_value: judged.target_value,
        reason: judged.reason,
        hint: judged.hint,
        parts: judged.parts,
    }
}
