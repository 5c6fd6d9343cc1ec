use super::*;
use crate::{
    clock::{ClockId, Stamp},
    drill::{Action, next},
    fault::CronJobChange,
    plan::PlannedStep,
    scenario::types::{Dur, FaultSpec, Step, UndoPolicy},
};

fn stamp(us: i64) -> Stamp {
    Stamp { clock: ClockId("t".into()), mono_us: us, wall_us: us }
}

fn step(path: &str, spec: Step) -> PlannedStep {
    let fault = spec.inject.is_some().then(|| path.parse::<u32>().unwrap() - 1);
    let undo = fault.map(|_| UndoPolicy::Auto);
    PlannedStep {
        path: path.to_owned(),
        title: format!("step {path}"),
        spec,
        fault,
        undo,
        evicts: Vec::new(),
        volume: None,
        manifest: None,
        touches: vec![],
        runbook_text: None,
        children: vec![],
    }
}

fn plan() -> Plan {
    let inject = || Step { inject: Some(FaultSpec::default()), ..Step::default() };
    let hold = Step { hold: Some(Dur::from_secs(1)), ..Step::default() };
    let steps = vec![step("1", inject()), step("2", hold), step("3", inject())];
    Plan { steps, leases: vec!["ns-shop".to_owned()], ..Plan::empty("t") }
}

/// Plays a drill by the pure functions alone and gives all its events. `fail` names reverts that fail.
fn play(state: &mut DrillState, plan: &Plan, stop_after: usize, failing_reverts: bool) -> Vec<Event> {
    let mut all = Vec::new();
    for _ in 0..200 {
        let at = stamp(state.next_seq as i64);
        let undo = Undo::CronJob {
            namespace: "shop".to_owned(),
            name: "backup".to_owned(),
            uid: "1".to_owned(),
            change: CronJobChange::Suspended { before: false },
        };
        let events = match next(plan, state) {
            Action::Confirm => vec![Event::Confirmed { by: "t".to_owned() }],
            Action::TakeLeases => vec![Event::LeasesTaken { leases: plan.leases.clone() }],
            Action::Arm => vec![Event::ArmingDone { at }],
            Action::Step(path) => {
                let mut events = vec![Event::StepStarted { step: path.clone(), start: at.clone() }];
                if let Some(fault) = plan.step(&path).unwrap().fault {
                    events.push(Event::Intent { fault, step: path.clone(), undo: Box::new(undo), objects: vec![] });
                    events.push(Event::Injected { fault, start: at.clone(), end: at.clone() });
                    events.push(Event::Effective { fault, at: at.clone(), proof: String::new() });
                }
                events.push(Event::StepEnded { step: path, outcome: StepOutcome::Succeeded, detail: String::new(), end: at });
                events
            }
            Action::EndSteps => vec![Event::StepsEnded { at }],
            Action::Revert(fault) => {
                let result = if failing_reverts { RevertResult::Failed } else { RevertResult::Reverted };
                let mut events = vec![
                    Event::RevertIntent { fault, because: String::new() },
                    Event::Reverted { fault, result, detail: String::new(), end: at.clone() },
                ];
                if !failing_reverts {
                    events.push(Event::Gone { fault, at, proof: String::new() });
                }
                events
            }
            Action::Readings => vec![Event::ReadingsDone { at }],
            Action::Disarm => vec![Event::Disarmed { left: vec![] }],
            Action::End => vec![Event::Ended { clean: state.is_clean(), at }],
            Action::Done => return all,
            other => panic!("{other:?} is not in this plan"),
        };
        for event in events {
            state.apply(&event).unwrap_or_else(|e| panic!("{e}: {event:?}"));
            all.push(event);
            if all.len() == stop_after {
                return all;
            }
        }
    }
    panic!("the drill does not end");
}

fn started() -> DrillState {
    let mut state = DrillState::default();
    let event = Event::Started { drill: "d".to_owned(), plan: Box::new(plan()), by: String::new(), version: String::new(), sandbox: false };
    state.apply(&event).unwrap();
    state
}

#[test]
fn a_drill_reverts_in_reverse_order_and_ends_clean() {
    let (mut state, plan) = (started(), plan());
    let events = play(&mut state, &plan, usize::MAX, false);
    let reverts: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::RevertIntent { fault, .. } => Some(*fault),
            _ => None,
        })
        .collect();
    assert_eq!(reverts, [2, 0]);
    assert_eq!(state.ended, Some(true));
}

#[test]
fn wherever_a_runner_dies_the_next_one_reverts_all_that_was_intended() {
    let plan = plan();
    let whole = play(&mut started(), &plan, usize::MAX, false).len();
    for intent in [ResumeIntent::Revert, ResumeIntent::Resume] {
        for cut in 0..whole {
            let mut state = started();
            play(&mut state, &plan, cut.max(1), false);
            if state.ended.is_some() {
                continue;
            }
            let resumed = Event::Resumed { by: String::new(), intent, clock: ClockId("u".into()) };
            state.apply(&resumed).unwrap();
            let intended = state.faults.len();
            let after = play(&mut state, &plan, usize::MAX, false);
            assert_eq!(state.ended, Some(true), "cut at {cut}");
            assert!(state.faults.values().all(FaultState::is_settled), "cut at {cut}");
            if intent == ResumeIntent::Revert {
                assert_eq!(state.faults.len(), intended, "nothing is injected by a revert; cut at {cut}");
                assert!(!after.iter().any(|event| matches!(event, Event::Intent { .. })), "cut at {cut}");
            }
        }
    }
}

#[test]
fn a_failed_revert_is_never_clean_and_is_tried_again_by_the_next_runner() {
    let (mut state, plan) = (started(), plan());
    play(&mut state, &plan, usize::MAX, true);
    assert_eq!(state.ended, Some(false));
    state.apply(&Event::Resumed { by: String::new(), intent: ResumeIntent::Revert, clock: ClockId("t".into()) }).unwrap();
    play(&mut state, &plan, usize::MAX, false);
    assert_eq!(state.ended, Some(true));
}

#[test]
fn an_abort_that_comes_while_an_intent_is_written_leaves_it_to_the_reverts() {
    let (mut state, plan) = (started(), plan());
    let undo = Undo::Deleted { pods: vec![], owners: vec![] };
    let intent = Event::Intent { fault: 0, step: "1".to_owned(), undo: Box::new(undo), objects: vec![] };
    for event in [
        Event::Confirmed { by: String::new() },
        Event::LeasesTaken { leases: vec![] },
        Event::AbortRequested { by: String::new(), reason: String::new() },
        intent,
        Event::StepsEnded { at: stamp(0) },
    ] {
        state.apply(&event).unwrap();
    }
    assert!(!state.is_clean(), "it may have been injected: only a revert says that it was not");
    assert_eq!(next(&plan, &state), Action::Revert(0));
}

#[test]
fn what_cannot_follow_is_refused() {
    let mut state = started();
    let undo = Undo::Deleted { pods: vec![], owners: vec![] };
    let intent = Event::Intent { fault: 0, step: "1".to_owned(), undo: Box::new(undo), objects: vec![] };
    assert!(state.clone().apply(&intent).unwrap_err().detail.contains("without Leases"));
    state.apply(&Event::Confirmed { by: String::new() }).unwrap();
    state.apply(&Event::LeasesTaken { leases: vec![] }).unwrap();
    state.apply(&intent).unwrap();
    assert!(state.clone().apply(&intent).is_err(), "an intent twice");
    assert!(state.clone().apply(&Event::Ended { clean: true, at: stamp(0) }).is_err(), "clean with a fault not reverted");
    assert!(state.clone().apply(&Event::Gone { fault: 7, at: stamp(0), proof: String::new() }).is_err(), "a fault nobody intended");
}

#[test]
fn policies_decide_what_is_left_alone() {
    for (policy, aborted, reverted) in [
        (UndoPolicy::Auto, false, true),
        (UndoPolicy::OnAbort, false, false),
        (UndoPolicy::OnAbort, true, true),
        (UndoPolicy::Runbook, false, false),
        (UndoPolicy::Runbook, true, true),
        (UndoPolicy::None, true, false),
    ] {
        let mut plan = plan();
        for step in &mut plan.steps {
            step.undo = step.fault.map(|_| policy);
        }
        let mut state = started();
        play(&mut state, &plan, 8, false);
        assert!(state.faults.contains_key(&0));
        if aborted {
            state.apply(&Event::AbortRequested { by: String::new(), reason: String::new() }).unwrap();
        }
        state.apply(&Event::StepsEnded { at: stamp(0) }).unwrap();
        assert_eq!(matches!(next(&plan, &state), Action::Revert(_)), reverted, "{policy:?} aborted: {aborted}");
    }
}
