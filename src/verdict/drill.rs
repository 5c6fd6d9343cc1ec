//! The drill as a whole.

use super::{DrillVerdict, ObjectiveVerdict, Outcome, facts::Facts};
use crate::{journal::StepOutcome, scenario::types::OnFailure};

/// How an `abortRequested` begins its `by` when a failed step asked for it: then the verdict is taken from what was measured
/// until then. All others (a person, a signal, `abortIf`, the time limit) make the drill `aborted`.
pub const ABORTED_BY_STEP: &str = "step ";

/// The verdict with the reasons, beyond its objectives, why it is not `passed`.
pub(super) fn whole(facts: &Facts<'_>, objectives: &[ObjectiveVerdict], unrehearsed: Option<&str>) -> (DrillVerdict, Vec<String>) {
    let mut reasons = open_questions(facts);
    reasons.splice(..0, unrehearsed.map(|said| format!("the sandbox could not play the drill, so that nothing is known of it: {said}")));
    let others: Vec<_> = facts.aborts.iter().filter(|(by, _)| !by.starts_with(ABORTED_BY_STEP)).collect();
    for (by, reason) in &facts.aborts {
        reasons.insert(0, format!("aborted by {by}: {reason}"));
    }
    if let Some(detail) = facts.lease_lost {
        reasons.insert(0, format!("the Leases were lost: {detail}"));
    }
    if objectives.is_empty() {
        reasons.push("there is no objective".to_owned());
    }
    let any = |outcome| objectives.iter().any(|o| o.outcome == outcome);
    let verdict = if !others.is_empty() || facts.lease_lost.is_some() {
        DrillVerdict::Aborted
    } else if any(Outcome::Missed) {
        DrillVerdict::Failed
    } else if any(Outcome::Inconclusive) || !reasons.is_empty() {
        DrillVerdict::Inconclusive
    } else {
        DrillVerdict::Passed
    };
    (verdict, reasons)
}

/// What must be so of every drill that passes, whatever its objectives.
fn open_questions(facts: &Facts<'_>) -> Vec<String> {
    let mut open = Vec::new();
    if facts.plan.steady_state.is_some() {
        for (phase, seen) in [("before the first step", facts.steady_before), ("again after the reverts", facts.steady_after)] {
            match seen {
                Some((true, _)) => {}
                Some((false, detail)) => open.push(format!("the steady state did not hold {phase}: {detail}")),
                None => open.push(format!("the steady state was not seen to hold {phase}")),
            }
        }
    }
    for id in facts.planned_faults() {
        let title = facts.fault_title(id);
        let Some(fault) = facts.faults.get(&id).filter(|f| f.intent.is_some() || f.injected.is_some()) else {
            open.push(format!("the fault of `{title}` was never injected"));
            continue;
        };
        if let Some((_, why)) = fault.failed {
            open.push(format!("the fault of `{title}` could not be injected: {why}"));
        } else if fault.effective.is_none() {
            let why = fault.not_effective.map_or_else(String::new, |d| format!(": {d}"));
            open.push(format!("the fault of `{title}` was not proven to have any effect{why}"));
        }
        if let Some((_, why)) = facts.hold_broken(Some(id)) {
            open.push(why);
        }
    }
    for step in facts.plan.leaf_steps() {
        if let Some((_, StepOutcome::Failed | StepOutcome::TimedOut, detail)) = facts.steps.get(step.path.as_str()).and_then(|s| s.ended)
            && step.spec.on_failure.unwrap_or_default() == OnFailure::Abort
        {
            open.push(format!("the step `{}` failed: {}", step.title, detail.lines().next().unwrap_or_default()));
        }
    }
    if facts.steps_ended.is_none() {
        open.push("the steps never ended".to_owned());
    }
    if facts.ended.is_none() {
        open.push("the drill never ended".to_owned());
    }
    open
}
