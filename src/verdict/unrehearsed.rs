//! What the sandbox's models had no answer to: a drill that met it was not played, so that it is neither passed nor failed.

use super::{ObjectiveVerdict, Outcome};
use crate::{
    journal::{Event, Reading, Record},
    scenario::types::ProbeState,
};

/// How the sandbox says that none of its models has an answer to a command, a statement or a probe.
const NOT_REHEARSABLE: &str = "not rehearsable";

/// The first place of a journal where the sandbox said that something is not rehearsable, in one line.
pub(super) fn first(records: &[Record]) -> Option<&str> {
    records.iter().find_map(|record| {
        let said: &str = match &record.event {
            Event::Run(run) if run.state != ProbeState::Good => &run.detail,
            Event::RunbookStep(step) => &step.detail,
            Event::Reading { reading: Reading::Failed { detail }, .. } => detail,
            Event::StepEnded { detail, .. } | Event::InjectFailed { detail, .. } | Event::NotEffective { detail, .. } => detail,
            Event::HoldBroken { detail, .. } | Event::SteadyState { detail, held: false, .. } => detail,
            Event::AbortRequested { reason, .. } => reason,
            _ => return None,
        };
        said.lines().find(|line| line.contains(NOT_REHEARSABLE))
    })
}

/// Nothing is known to be missed in such a drill: a real cluster might well have answered.
pub(super) fn withdraw(objectives: &mut [ObjectiveVerdict]) {
    for objective in objectives.iter_mut().filter(|o| o.outcome == Outcome::Missed) {
        objective.outcome = Outcome::Inconclusive;
        objective.reason = format!("missed, but the sandbox could not play the drill: {}", objective.reason);
    }
}
