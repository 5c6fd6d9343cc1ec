//! "What if the target had been 10 s": the same measurements against other targets.

use super::{Verdict, judge};
use crate::{
    journal::{Event, Record},
    plan::Plan,
    scenario::types::Scenario,
};

/// Why a drill cannot be judged again with other parameters.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RejudgeError {
    /// The journal has no plan.
    #[error("failed to judge again: the journal does not begin with the drill's plan")]
    NoPlan,
    /// The scenario does not have the objectives of the plan.
    #[error(
        "failed to judge again: the scenario has {scenario} objectives and the drill's plan {plan}; it is not the scenario that was run"
    )]
    OtherScenario {
        /// Objectives in the scenario.
        scenario: usize,
        /// Objectives in the plan.
        plan: usize,
    },
    /// An objective is of another kind than in the plan.
    #[error("failed to judge again: objective `{0}` is of another kind than in the drill's plan; it is not the scenario that was run")]
    OtherKind(String),
}

/// Judges the records with the objectives of the same scenario under other parameters. What was done and measured stays
/// what it was; only targets change.
pub fn rejudge(records: &[Record], scenario: &Scenario) -> Result<Verdict, RejudgeError> {
    rejudge_plan(records, scenario).map(|records| judge(&records))
}

/// The records with the plan's objectives replaced by the scenario's, for a report of what would have been. Never to be
/// written as evidence.
pub fn rejudge_plan(records: &[Record], scenario: &Scenario) -> Result<Vec<Record>, RejudgeError> {
    use crate::scenario::types::OneOf;
    let mut records = records.to_vec();
    let Some(Event::Started { plan, .. }) = records.first_mut().map(|r| &mut r.event) else { return Err(RejudgeError::NoPlan) };
    let plan: &mut Plan = plan;
    let objectives = &scenario.spec.objectives;
    if objectives.len() != plan.objectives.len() {
        return Err(RejudgeError::OtherScenario { scenario: objectives.len(), plan: plan.objectives.len() });
    }
    for (planned, new) in plan.objectives.iter_mut().zip(objectives) {
        if planned.spec.kind_name() != new.kind_name() {
            return Err(RejudgeError::OtherKind(planned.name.clone()));
        }
        planned.spec = new.clone();
    }
    // A backup's limits are its probe's.
    for (name, probe) in &mut plan.probes {
        if let (Some(planned), Some(new)) = (&mut probe.spec.backup, scenario.spec.probes.get(name).and_then(|p| p.backup.as_ref())) {
            (planned.max_age, planned.min_size) = (new.max_age, new.min_size);
        }
    }
    Ok(records)
}
