//! The records, indexed by what they are about.

use std::collections::{BTreeMap, BTreeSet};

use super::clocks::Clocks;
use crate::{
    clock::Stamp,
    journal::{AlertSeen, Event, FaultId, ProbeRun, Reading, Record, RevertResult, RunbookStep, SteadyPhase, StepOutcome, TouchedObject},
    plan::{Plan, PlannedStep},
};

/// All about one fault.
#[derive(Debug, Default)]
pub(super) struct FaultFacts<'a> {
    pub(super) intent: Option<&'a Stamp>,
    pub(super) objects: Vec<&'a TouchedObject>,
    /// A helper made it, which undoes what it holds when it ends.
    pub(super) of_helper: bool,
    /// It did all that it does at once.
    pub(super) momentary: bool,
    pub(super) injected: Option<(&'a Stamp, &'a Stamp)>,
    pub(super) failed: Option<(&'a Stamp, &'a str)>,
    pub(super) effective: Option<(&'a Stamp, &'a str)>,
    pub(super) not_effective: Option<&'a str>,
    pub(super) broken: Option<(&'a Stamp, &'a str)>,
    /// When its revert began, why, and whether that was after the steps.
    pub(super) revert: Option<(&'a Stamp, &'a str, bool)>,
    pub(super) reverted: Option<(&'a Stamp, RevertResult, &'a str)>,
    pub(super) gone: Option<(&'a Stamp, &'a str)>,
}

impl<'a> FaultFacts<'a> {
    /// When it was seen to be gone, or else was undone. What the drill leaves in place, or could not undo, is not over.
    fn over(&self) -> Option<&'a Stamp> {
        let (end, result, _) = self.reverted?;
        match result {
            RevertResult::NotOurs | RevertResult::Failed => None,
            RevertResult::Reverted | RevertResult::Nothing | RevertResult::Superseded | RevertResult::TargetGone => {
                Some(self.gone.map_or(end, |(at, _)| at))
            }
        }
    }
}

/// All about one step.
#[derive(Debug, Default)]
pub(super) struct StepFacts<'a> {
    pub(super) started: Option<&'a Stamp>,
    pub(super) ended: Option<(&'a Stamp, StepOutcome, &'a str)>,
}

/// A reading with its time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read<'a> {
    pub(super) begin: &'a Stamp,
    pub(super) end: &'a Stamp,
    pub(super) reading: &'a Reading,
    /// Its place in the journal.
    nth: usize,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ack<'a> {
    pub(super) step: &'a str,
    pub(super) by: &'a str,
    pub(super) refused: bool,
    pub(super) at: &'a Stamp,
}

/// What a time or a window counts from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The earliest instant it can have happened.
    pub(super) start: &'a Stamp,
    /// The latest.
    pub(super) effective: &'a Stamp,
    /// The fault, if it is one.
    pub(super) fault: Option<FaultId>,
}

/// The records, indexed.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) drill: &'a str,
    pub(super) plan: &'a Plan,
    pub(super) sandbox: bool,
    pub(super) clocks: Clocks,
    /// The first record's instant.
    pub(super) begin: &'a Stamp,
    pub(super) faults: BTreeMap<FaultId, FaultFacts<'a>>,
    pub(super) steps: BTreeMap<&'a str, StepFacts<'a>>,
    pub(super) runs: BTreeMap<&'a str, Vec<&'a ProbeRun>>,
    pub(super) alerts: Vec<&'a AlertSeen>,
    pub(super) readings: BTreeMap<&'a str, Vec<Read<'a>>>,
    pub(super) runbook: Vec<&'a RunbookStep>,
    pub(super) acks: Vec<Ack<'a>>,
    pub(super) steady_before: Option<(bool, &'a str)>,
    pub(super) steady_after: Option<(bool, &'a str)>,
    /// By whom and why, in order.
    pub(super) aborts: Vec<(&'a str, &'a str)>,
    pub(super) lease_lost: Option<&'a str>,
    /// Whoever took over has ended the drill clean.
    pub(super) ended_elsewhere: bool,
    pub(super) steps_ended: Option<&'a Stamp>,
    pub(super) ended: Option<(&'a Stamp, bool)>,
    pub(super) left: Vec<&'a str>,
    /// Whether anything was placed in the cluster.
    pub(super) touched: bool,
    /// The place in the journal at which probes and writers were first known to be there.
    watched: Option<usize>,
    /// Where in the journal other runners took the drill over, and who they were.
    takeovers: Vec<(usize, &'a str)>,
}

impl<'a> Facts<'a> {
    /// None when the records do not begin with the plan.
    pub(super) fn new(records: &'a [Record]) -> Option<Self> {
        let Event::Started { drill, plan, sandbox, .. } = &records.first()?.event else { return None };
        let mut facts = Self {
            drill,
            plan,
            sandbox: *sandbox,
            clocks: Clocks::new(records),
            begin: &records.first()?.at,
            faults: BTreeMap::new(),
            steps: BTreeMap::new(),
            runs: BTreeMap::new(),
            alerts: Vec::new(),
            readings: BTreeMap::new(),
            runbook: Vec::new(),
            acks: Vec::new(),
            steady_before: None,
            steady_after: None,
            aborts: Vec::new(),
            lease_lost: None,
            ended_elsewhere: false,
            steps_ended: None,
            ended: None,
            left: Vec::new(),
            touched: false,
            watched: None,
            takeovers: Vec::new(),
        };
        for (nth, record) in records.iter().enumerate() {
            facts.add(nth, record);
        }
        for runs in facts.runs.values_mut() {
            in_order_of_sending(runs);
        }
        Some(facts)
    }

    fn add(&mut self, nth: usize, record: &'a Record) {
        let over = self.steps_ended.is_some() || !self.aborts.is_empty();
        // A journal restored from the record in the cluster has no runs, but has the intent of the fault.
        if matches!(record.event, Event::ArmingDone { .. } | Event::Run(_) | Event::Intent { .. }) {
            self.watched.get_or_insert(nth);
        }
        match &record.event {
            Event::Started { .. } | Event::Confirmed { .. } | Event::ClockLinked { .. } => {}
            Event::Deviation { .. } | Event::Note { .. } | Event::ArmingDone { .. } | Event::ReadingsDone { .. } => {}
            Event::Resumed { by, .. } => self.takeovers.push((nth, by)),
            Event::LeasesTaken { .. } | Event::Armed { .. } => self.touched = true,
            Event::LeaseLost { detail } => self.lease_lost = Some(detail),
            Event::EndedElsewhere { .. } => self.ended_elsewhere = true,
            Event::SteadyState { phase: SteadyPhase::Before, held, detail } => self.steady_before = Some((*held, detail)),
            Event::SteadyState { phase: SteadyPhase::After, held, detail } => self.steady_after = Some((*held, detail)),
            Event::Run(run) => self.runs.entry(&run.probe).or_default().push(run),
            Event::Alert(seen) => self.alerts.push(seen),
            Event::Reading { of, begin, end, reading } => self.readings.entry(of).or_default().push(Read { begin, end, reading, nth }),
            // A step begun again by a resume counts from its first start to its last end.
            Event::StepStarted { step, start } => {
                self.steps.entry(step).or_default().started.get_or_insert(start);
            }
            Event::StepEnded { step, outcome, detail, end } => self.steps.entry(step).or_default().ended = Some((end, *outcome, detail)),
            Event::Intent { fault, objects, undo, .. } => {
                self.touched = true;
                let facts = self.faults.entry(*fault).or_default();
                facts.intent.get_or_insert(&record.at);
                facts.objects = objects.iter().collect();
                facts.of_helper = undo.of_helper();
                facts.momentary = undo.is_momentary();
            }
            Event::Injected { fault, start, end } => {
                let facts = self.faults.entry(*fault).or_default();
                facts.injected = Some((facts.injected.map_or(start, |(first, _)| first), end));
            }
            Event::InjectFailed { fault, detail, start } => self.faults.entry(*fault).or_default().failed = Some((start, detail)),
            Event::Effective { fault, at, proof } => self.faults.entry(*fault).or_default().effective = Some((at, proof)),
            Event::NotEffective { fault, detail } => self.faults.entry(*fault).or_default().not_effective = Some(detail),
            Event::HoldBroken { fault, at, detail } => {
                self.faults.entry(*fault).or_default().broken.get_or_insert((at, detail));
            }
            Event::RevertIntent { fault, because } => {
                self.faults.entry(*fault).or_default().revert.get_or_insert((&record.at, because, over));
            }
            Event::Reverted { fault, result, detail, end } => {
                self.faults.entry(*fault).or_default().reverted = Some((end, *result, detail));
            }
            Event::Gone { fault, at, proof } => self.faults.entry(*fault).or_default().gone = Some((at, proof)),
            Event::RunbookStep(step) => self.runbook.push(step),
            Event::Acknowledged { step, by, refused, at, .. } => self.acks.push(Ack { step, by, refused: *refused, at }),
            Event::AbortRequested { by, reason } => self.aborts.push((by, reason)),
            Event::StepsEnded { at } => self.steps_ended = Some(at),
            Event::Disarmed { left } => self.left = left.iter().map(String::as_str).collect(),
            Event::Ended { clean, at } => self.ended = Some((at, *clean)),
        }
    }

    /// The plan's step of this name, with what became of it.
    pub(super) fn step_named(&self, name: &str) -> Result<(&'a PlannedStep, &StepFacts<'a>), String> {
        let step = self.plan.step_named(name).ok_or_else(|| format!("the plan has no step `{name}`"))?;
        let facts = self.steps.get(step.path.as_str()).ok_or_else(|| format!("the step `{name}` was never begun"))?;
        Ok((step, facts))
    }

    /// Where an objective's `after` counts from. Says why when that cannot be: a fault must have been proven to bite.
    pub(super) fn origin(&self, after: Option<&str>) -> Result<Origin<'a>, String> {
        let Some(name) = after else {
            if let Some(first) = self.plan.leaf_steps().into_iter().find_map(|s| s.fault) {
                return self.fault_origin(first);
            }
            let start = self.plan.leaf_steps().into_iter().find_map(|s| self.steps.get(s.path.as_str())?.started);
            let start = start.unwrap_or(self.begin);
            return Ok(Origin { start, effective: start, fault: None });
        };
        let step = self.plan.step_named(name).ok_or_else(|| format!("the plan has no step `{name}`"))?;
        if let Some(fault) = step.fault {
            return self.fault_origin(fault);
        }
        let start =
            self.steps.get(step.path.as_str()).and_then(|s| s.started).ok_or_else(|| format!("the step `{name}` was never begun"))?;
        Ok(Origin { start, effective: start, fault: None })
    }

    fn fault_origin(&self, id: FaultId) -> Result<Origin<'a>, String> {
        let title = self.fault_title(id);
        let Some(fault) = self.faults.get(&id) else { return Err(format!("the fault of `{title}` was never injected")) };
        if let Some((_, why)) = fault.failed {
            return Err(format!("the fault of `{title}` could not be injected: {why}"));
        }
        if fault.intent.is_some() && fault.objects.is_empty() {
            return Err(format!("the fault of `{title}` had nothing to act on"));
        }
        let (Some((effective, _)), Some(start)) = (fault.effective, fault.injected.map(|i| i.0).or(fault.intent)) else {
            let seen = fault.not_effective.map_or_else(String::new, |d| format!(": {d}"));
            return Err(format!("the fault of `{title}` was not proven to have any effect{seen}"));
        };
        Ok(Origin { start, effective, fault: Some(id) })
    }

    /// What people call a fault: its step's title.
    pub(super) fn fault_title(&self, id: FaultId) -> String {
        self.plan.leaf_steps().iter().find(|s| s.fault == Some(id)).map_or_else(|| format!("fault {id}"), |s| s.title.clone())
    }

    /// If the fault did not hold while it should: when, and what to say. Others have undone it, or it did not come to what it was to be.
    pub(super) fn hold_broken(&self, fault: Option<FaultId>) -> Option<(&'a Stamp, String)> {
        let id = fault?;
        let (at, detail) = self.faults.get(&id)?.broken?;
        Some((at, format!("the fault of `{}` did not hold while it should: {detail}", self.fault_title(id))))
    }

    /// When the drill itself took the fault away after its steps, if that changed anything: what recovers from then on did
    /// not recover by itself.
    pub(super) fn taken_away(&self, fault: Option<FaultId>) -> Option<&'a Stamp> {
        let fault = self.faults.get(&fault?)?;
        let (at, _, after_steps) = fault.revert?;
        let changed = match fault.reverted.map(|(_, result, _)| result) {
            Some(RevertResult::Reverted | RevertResult::Failed) | None => true,
            Some(RevertResult::Nothing | RevertResult::Superseded | RevertResult::TargetGone | RevertResult::NotOurs) => false,
        };
        (after_steps && changed).then_some(at)
    }

    /// When a fault that the drill took away before the end of its steps was seen to be gone, or else was undone.
    pub(super) fn gone_within_steps(&self, fault: Option<FaultId>) -> Option<&'a Stamp> {
        let fault = self.faults.get(&fault?)?;
        fault.revert.filter(|(.., after_steps)| !after_steps)?;
        fault.over()
    }

    /// Whether a fault may still have been in place at an instant: one that lasts, and that was not over by then.
    pub(super) fn may_hold_at(&self, fault: Option<FaultId>, at: &Stamp) -> bool {
        let Some(fault) = fault.and_then(|id| self.faults.get(&id)) else { return false };
        !fault.momentary && fault.over().is_none_or(|over| !self.clocks.surely_after(at, over))
    }

    /// Whether a step is declared by an alert's receipt: nobody says anything then.
    pub(super) fn declared_by_alert(&self, path: &str) -> bool {
        let declare = self.plan.step(path).and_then(|step| step.spec.declare.as_ref());
        declare.is_some_and(|declare| declare.alert.is_some())
    }

    /// When the outage was declared, at or after an origin: the first `declare` step done, at the instant the person said so if
    /// one did.
    pub(super) fn declared(&self, origin: &Origin<'_>) -> Option<&'a Stamp> {
        let steps = self.plan.leaf_steps().into_iter().filter(|s| s.spec.declare.is_some());
        let mut done = steps.filter_map(|s| {
            let (end, outcome, _) = self.steps.get(s.path.as_str())?.ended?;
            let said = self.acks.iter().find(|a| a.step == s.path && !a.refused).map(|a| a.at);
            (outcome == StepOutcome::Succeeded).then(|| said.unwrap_or(end))
        });
        done.find(|at| self.clocks.maybe_after(at, origin.start))
    }

    /// Sightings of an alert probe's alert, in order of the journal.
    pub(super) fn alerts_of(&self, probe: &str) -> impl Iterator<Item = &'a AlertSeen> + '_ {
        let probe = probe.to_owned();
        self.alerts.iter().copied().filter(move |a| a.probe == probe)
    }

    /// The newest reading of something.
    pub(super) fn last_reading(&self, of: &str) -> Option<Read<'a>> {
        self.readings.get(of)?.last().copied()
    }

    /// If another runner took the drill over after its probes had begun (and before `until`, when given): what to say. The
    /// writers and samplers of the one before ended unseen with it, so nothing that needs one of them without a break holds.
    pub(super) fn taken_over(&self, until: Option<&Read<'_>>) -> Option<String> {
        let watched = self.watched?;
        let (_, by) = self.takeovers.iter().find(|(nth, _)| *nth > watched && until.is_none_or(|read| *nth < read.nth))?;
        Some(format!("{by} took the drill over from a runner that had died: what that one had seen last went with it"))
    }

    /// Faults of the plan by number.
    pub(super) fn planned_faults(&self) -> BTreeSet<FaultId> {
        self.plan.leaf_steps().into_iter().filter_map(|s| s.fault).collect()
    }
}

/// Sorts by sending within each stretch on one clock; where the clock changes, the journal's order stands.
fn in_order_of_sending(runs: &mut [&ProbeRun]) {
    for stretch in runs.chunk_by_mut(|a, b| a.first_send.clock == b.first_send.clock) {
        stretch.sort_by_key(|r| (r.first_send.mono_us, r.last_send.mono_us));
    }
}
