//! What a drill does next. Pure: the whole order of a drill is in this one function.

use super::{DrillState, StepState};
use crate::{
    journal::FaultId,
    plan::{Plan, PlannedStep},
    scenario::types::UndoPolicy,
};

/// What the executor is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Have a person agree to the plan.
    Confirm,
    /// Take the Leases.
    TakeLeases,
    /// Place observers and helpers, start the probes.
    Arm,
    /// Wait until the steady state has held.
    SteadyBefore,
    /// Do a step (with its children, if it is a `parallel`).
    Step(String),
    /// Note that the steps are over.
    EndSteps,
    /// Revert a fault and prove that it is gone.
    Revert(FaultId),
    /// Leave a fault as it is, by its undo policy, and note that.
    Leave(FaultId),
    /// Wait until the steady state holds again.
    SteadyAfter,
    /// Take the last readings and end the sampling.
    Readings,
    /// Remove observers, helpers, Leases.
    Disarm,
    /// Note that the drill has ended.
    End,
    /// Nothing: the drill has ended, or this runner has been fenced off.
    Done,
}

/// The next action of a drill: confirm → lease → arm → steady state → steps → reverts in reverse order → steady state again →
/// last readings → disarm → end. An abort at any point goes to the reverts.
pub fn next(plan: &Plan, state: &DrillState) -> Action {
    if state.ended.is_some() || state.lease_lost.is_some() {
        return Action::Done;
    }
    let aborted = state.abort.is_some();
    if !aborted && !state.confirmed {
        return Action::Confirm;
    }
    // An aborted drill that has changed nothing needs no Lease to end.
    let touched = !state.faults.is_empty() || !state.steps.is_empty();
    if !state.leased && (!aborted || touched) {
        return Action::TakeLeases;
    }
    if !aborted && !state.steps_ended {
        if !state.armed {
            return Action::Arm;
        }
        if plan.steady_state.is_some() && state.steady_before.is_none() {
            return Action::SteadyBefore;
        }
        if let Some(step) = plan.steps.iter().find(|step| !is_over(step, state)) {
            return Action::Step(step.path.clone());
        }
    }
    if !state.steps_ended {
        return Action::EndSteps;
    }
    if let Some((&id, fault)) = state.faults.iter().rev().find(|(_, fault)| fault.wants_revert()) {
        let policy = plan.step(&fault.step).and_then(|step| step.undo).unwrap_or_default();
        return match policy {
            UndoPolicy::Auto => Action::Revert(id),
            UndoPolicy::OnAbort | UndoPolicy::Runbook if aborted => Action::Revert(id),
            UndoPolicy::OnAbort | UndoPolicy::Runbook | UndoPolicy::None => Action::Leave(id),
        };
    }
    if state.armed && plan.steady_state.is_some() && state.steady_after.is_none() {
        return Action::SteadyAfter;
    }
    if state.armed && !state.readings_done {
        return Action::Readings;
    }
    if state.disarmed.is_none() {
        return Action::Disarm;
    }
    Action::End
}

fn is_over(step: &PlannedStep, state: &DrillState) -> bool {
    matches!(state.steps.get(&step.path), Some(StepState::Ended { .. }))
}
