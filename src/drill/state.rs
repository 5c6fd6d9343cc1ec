//! The state of a drill as the events say it. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clock::Stamp,
    fault::Undo,
    journal::{Event, FaultId, Record, ResumeIntent, RevertResult, SteadyPhase, StepOutcome, TouchedObject},
    plan::Plan,
};

/// An event that cannot follow from the events before it: a bug, or a journal that was tampered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} cannot be: {detail}")]
pub struct IllegalTransition {
    /// The record.
    pub seq: u64,
    /// Why.
    pub detail: String,
}

/// A fault that was at least intended.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultState {
    /// Its step.
    pub step: String,
    /// Its undo.
    pub undo: Undo,
    /// What it acts on.
    pub objects: Vec<TouchedObject>,
    /// Begin and end of the injection, if it came to that.
    pub injected: Option<(Stamp, Stamp)>,
    /// Whether the proof that it bit was had.
    pub effective: Option<bool>,
    /// Undone by others while it should have held.
    pub hold_broken: bool,
    /// A revert was begun.
    pub reverting: bool,
    /// How the last revert ended.
    pub reverted: Option<RevertResult>,
    /// Proof that nothing is left was had.
    pub gone: bool,
}

impl FaultState {
    /// Whether something may be left of it in the cluster.
    pub fn is_settled(&self) -> bool {
        match self.reverted {
            Some(RevertResult::Superseded | RevertResult::TargetGone | RevertResult::NotOurs) => true,
            Some(RevertResult::Reverted | RevertResult::Nothing) => self.gone,
            Some(RevertResult::Failed) | None => false,
        }
    }

    /// Whether a revert has still to be tried.
    pub fn wants_revert(&self) -> bool {
        self.reverted.is_none()
    }

    /// Whether it holds now, as far as is known.
    pub fn is_live(&self) -> bool {
        self.injected.is_some() && !self.reverting && self.reverted.is_none()
    }
}

/// Where a step is.
#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// Begun.
    Running {
        /// When.
        start: Stamp,
    },
    /// Ended.
    Ended {
        /// When it began.
        start: Stamp,
        /// How.
        outcome: StepOutcome,
        /// When.
        end: Stamp,
    },
}

/// A drill's state: the fold of its records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrillState {
    /// The drill's name; empty before the first record.
    pub drill: String,
    /// The plan.
    pub plan: Option<Arc<Plan>>,
    /// The number of the next record.
    pub next_seq: u64,
    /// Agreed to.
    pub confirmed: bool,
    /// Leases held by this runner.
    pub leased: bool,
    /// This runner has been fenced off.
    pub lease_lost: Option<String>,
    /// Whoever took over from this runner has ended the drill clean.
    pub ended_elsewhere: bool,
    /// Observers placed and probes running, by this runner.
    pub armed: bool,
    /// The steady state before the first step.
    pub steady_before: Option<bool>,
    /// The steady state after the reverts, as this runner saw it.
    pub steady_after: Option<bool>,
    /// Steps by path.
    pub steps: BTreeMap<String, StepState>,
    /// Faults by number.
    pub faults: BTreeMap<FaultId, FaultState>,
    /// Who asked for an abort, and why.
    pub abort: Option<(String, String)>,
    /// All steps are done or given up.
    pub steps_ended: bool,
    /// Last readings done.
    pub readings_done: bool,
    /// Observers, helpers removed; what is left.
    pub disarmed: Option<Vec<String>>,
    /// Over; whether clean.
    pub ended: Option<bool>,
    /// Whether a runner has taken this drill over, and what for.
    pub resumed: Option<ResumeIntent>,
    /// Steps that were running when a runner died; they are not begun again by themselves.
    pub interrupted: Vec<String>,
}

impl DrillState {
    /// Replays records.
    ///
    /// # Errors
    /// A record that cannot follow from those before it.
    pub fn replay(records: &[Record]) -> Result<Self, IllegalTransition> {
        let mut state = Self::default();
        for record in records {
            state.next_seq = record.seq;
            state.apply(&record.event)?;
        }
        Ok(state)
    }

    /// Whether every fault is undone and proven gone, and nothing of firedrill's own is left.
    pub fn is_clean(&self) -> bool {
        self.faults.values().all(FaultState::is_settled) && self.disarmed.as_ref().is_none_or(Vec::is_empty)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// The event cannot follow from those before it; the state is then unchanged except for nothing that matters: a drill ends there.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalTransition> {
        let seq = self.next_seq;
        let illegal = |detail: &str| IllegalTransition { seq, detail: detail.to_owned() };
        if self.ended.is_some() && !matches!(event, Event::Resumed { .. }) {
            return Err(illegal("the drill had ended"));
        }
        if self.plan.is_none() && !matches!(event, Event::Started { .. }) {
            return Err(illegal("the drill had not started"));
        }
        match event {
            Event::Started { drill, plan, .. } => {
                if self.plan.is_some() {
                    return Err(illegal("the drill had started already"));
                }
                self.drill.clone_from(drill);
                self.plan = Some(Arc::new((**plan).clone()));
            }
            Event::Confirmed { .. } => self.confirmed = true,
            Event::Resumed { intent, .. } => self.resume(*intent),
            Event::LeasesTaken { .. } => self.leased = true,
            Event::LeaseLost { detail } => {
                self.leased = false;
                self.lease_lost = Some(detail.clone());
            }
            Event::EndedElsewhere { .. } => self.ended_elsewhere = true,
            Event::ArmingDone { .. } => self.armed = true,
            Event::SteadyState { phase: SteadyPhase::Before, held, .. } => self.steady_before = Some(*held),
            Event::SteadyState { phase: SteadyPhase::After, held, .. } => self.steady_after = Some(*held),
            Event::StepStarted { step, start } => {
                if !self.leased {
                    return Err(illegal("a step began without Leases"));
                }
                if self.plan.as_ref().is_none_or(|p| p.step(step).is_none()) {
                    return Err(illegal(&format!("there is no step {step} in the plan")));
                }
                self.steps.insert(step.clone(), StepState::Running { start: start.clone() });
            }
            Event::StepEnded { step, outcome, end, .. } => match self.steps.get(step) {
                Some(StepState::Running { start }) => {
                    let start = start.clone();
                    self.steps.insert(step.clone(), StepState::Ended { start, outcome: *outcome, end: end.clone() });
                }
                _ => return Err(illegal(&format!("step {step} ended and was not running"))),
            },
            Event::StepsEnded { .. } => self.steps_ended = true,
            Event::Intent { fault, step, undo, objects } => {
                if !self.leased {
                    return Err(illegal("an intent without Leases"));
                }
                // An abort may come while the intent is being made durable. It is a fault like any other then: its revert finds
                // nothing. The executor looks once more before it injects.
                if self.faults.contains_key(fault) {
                    return Err(illegal(&format!("fault {fault} was intended twice")));
                }
                let (step, undo, objects) = (step.clone(), (**undo).clone(), objects.clone());
                let state = FaultState {
                    step,
                    undo,
                    objects,
                    injected: None,
                    effective: None,
                    hold_broken: false,
                    reverting: false,
                    reverted: None,
                    gone: false,
                };
                self.faults.insert(*fault, state);
            }
            Event::Injected { fault, start, end } => self.fault(*fault, seq)?.injected = Some((start.clone(), end.clone())),
            Event::InjectFailed { fault, start, .. } => {
                let failed = self.fault(*fault, seq)?;
                failed.injected = Some((start.clone(), start.clone()));
                failed.effective = Some(false);
            }
            Event::Effective { fault, .. } => self.fault(*fault, seq)?.effective = Some(true),
            Event::NotEffective { fault, .. } => self.fault(*fault, seq)?.effective = Some(false),
            Event::HoldBroken { fault, .. } => self.fault(*fault, seq)?.hold_broken = true,
            Event::RevertIntent { fault, .. } => {
                let fault = self.fault(*fault, seq)?;
                fault.reverting = true;
                fault.gone = false;
            }
            Event::Reverted { fault, result, .. } => {
                let fault = self.fault(*fault, seq)?;
                fault.reverting = false;
                fault.reverted = Some(*result);
            }
            Event::Gone { fault, .. } => self.fault(*fault, seq)?.gone = true,
            Event::AbortRequested { by, reason } => {
                self.abort.get_or_insert_with(|| (by.clone(), reason.clone()));
            }
            Event::ReadingsDone { .. } => self.readings_done = true,
            Event::Disarmed { left } => self.disarmed = Some(left.clone()),
            Event::Ended { clean, .. } => {
                if *clean && !self.is_clean() {
                    return Err(illegal("the drill ended as clean and is not"));
                }
                self.ended = Some(*clean);
            }
            Event::ClockLinked { .. }
            | Event::Armed { .. }
            | Event::Run(_)
            | Event::Alert(_)
            | Event::Reading { .. }
            | Event::RunbookStep(_)
            | Event::Acknowledged { .. }
            | Event::Deviation { .. }
            | Event::Note { .. } => {}
        }
        self.next_seq = seq + 1;
        Ok(())
    }

    fn fault(&mut self, id: FaultId, seq: u64) -> Result<&mut FaultState, IllegalTransition> {
        self.faults.get_mut(&id).ok_or_else(|| IllegalTransition { seq, detail: format!("fault {id} was never intended") })
    }

    /// A new runner: what only the old one had (Leases, probes) must be had anew; a revert that was begun or that failed
    /// must be done again; a step that was running begins again if it only waits or asks, and ends the drill if it acts.
    fn resume(&mut self, intent: ResumeIntent) {
        self.resumed = Some(intent);
        (self.leased, self.armed, self.readings_done) = (false, false, false);
        (self.lease_lost, self.steady_after, self.disarmed, self.ended) = (None, None, None, None);
        let running: Vec<(String, Stamp)> = self
            .steps
            .iter()
            .filter_map(|(path, step)| match step {
                StepState::Running { start } => Some((path.clone(), start.clone())),
                StepState::Ended { .. } => None,
            })
            .collect();
        for (path, start) in running {
            if self.may_begin_again(&path) {
                self.steps.remove(&path);
            } else {
                self.steps.insert(path.clone(), StepState::Ended { end: start.clone(), start, outcome: StepOutcome::Aborted });
                self.interrupted.push(path);
            }
        }
        for fault in self.faults.values_mut() {
            fault.reverting = false;
            if !fault.is_settled() {
                fault.reverted = None;
                fault.gone = false;
            }
        }
        let why = match intent {
            ResumeIntent::Revert => Some("firedrill revert".to_owned()),
            ResumeIntent::Resume if !self.interrupted.is_empty() => {
                Some(format!("the runner died in step {}", self.interrupted.join(", ")))
            }
            ResumeIntent::Resume => None,
        };
        if let Some(reason) = why {
            self.abort.get_or_insert_with(|| ("resume".to_owned(), reason));
        }
    }

    /// Whether a step that was cut short can simply be done again: it changes nothing, or had not yet come to its intent.
    fn may_begin_again(&self, path: &str) -> bool {
        let Some(step) = self.plan.as_ref().and_then(|plan| plan.step(path)) else { return false };
        let spec = &step.spec;
        let only_waits = spec.wait_for.is_some()
            || spec.hold.is_some()
            || spec.manual.is_some()
            || spec.approve.is_some()
            || spec.declare.is_some()
            || spec.note.is_some();
        let not_yet = spec.inject.is_some() && step.fault.is_some_and(|fault| !self.faults.contains_key(&fault));
        only_waits || not_yet || !step.children.is_empty()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
