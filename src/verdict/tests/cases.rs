//! One drill, and what becomes of it when one thing changes.

use super::kit::*;
use crate::{
    clock::{ClockId, Stamp},
    fault::Undo,
    journal::*,
    scenario::types::*,
    verdict::{Bracket, DrillVerdict, MarkKind, Outcome},
};
use ProbeState::{Bad, Good, Unknown};

/// Good until 1 s, broken at 1.000–1.020 s, bad from 1.1 s to 3.5 s, good from 3.6 s to 20 s; steps end at 10 s, the fault is
/// taken away at 11 s, the drill ends at 20 s. Target 3 s, stable for 5 s.
fn healthy() -> Tape {
    let mut j = Tape::new();
    j.rto(3_000, 5_000);
    j.run("web", Good, 0, 900, RunEnd::Cut);
    j.break_it(1_000, 1_020);
    j.run("web", Good, 1_000, 1_000, RunEnd::Change);
    j.run("web", Bad, 1_100, 3_500, RunEnd::Change);
    j.run("web", Good, 3_600, 10_900, RunEnd::Cut);
    j.steps_ended(10_000);
    j.revert(11_000, RevertResult::Reverted);
    j.run("web", Good, 11_000, 19_900, RunEnd::End);
    j.end(20_000);
    j
}

/// The drill without its records that `drop` picks.
fn without(mut j: Tape, drop: impl Fn(&Event) -> bool) -> Tape {
    j.events.retain(|(_, e)| !drop(e));
    j
}

#[test]
fn a_healthy_drill_passes_with_the_brackets_of_the_design() {
    let verdict = healthy().judge();
    assert_eq!(verdict.drill, DrillVerdict::Passed, "{:?}", verdict.reasons);
    assert!(verdict.clean, "{:?}", verdict.unclean);
    let o = &verdict.objectives[0];
    // lower = B1.send − F.effective, upper = G1.complete − F.start.
    assert_eq!(o.measured, Some(Bracket::new(3_500_000 - 1_020_000, 3_610_000 - 1_000_000)));
    // outage = [B1.send − Bfirst.complete, G1.complete − Glast.send].
    assert_eq!(o.parts[0].measured, Bracket::new(3_500_000 - 1_110_000, 3_610_000 - 1_000_000));
    let mark = |kind| verdict.marks.iter().find(|m| m.kind == kind).map(|m| m.at);
    assert_eq!(mark(MarkKind::Injected), Some(Bracket::new(1_000_000, 1_003_000)));
    assert_eq!(mark(MarkKind::Effective), Some(Bracket::new(1_000_000, 1_020_000)));
    assert_eq!(mark(MarkKind::OutageBegan), Some(Bracket::new(1_000_000, 1_110_000)));
    assert_eq!(mark(MarkKind::Recovered), Some(Bracket::new(3_500_000, 3_610_000)));
    assert_eq!(mark(MarkKind::Stable), Some(Bracket::new(8_500_000, 8_610_000)));
    assert_eq!(mark(MarkKind::FaultGone), Some(Bracket::new(11_000_000, 11_040_000)));
}

#[test]
fn only_the_whole_bracket_decides() {
    for (within, drill, outcome) in [
        (2_610, DrillVerdict::Passed, Outcome::Met),
        (2_609, DrillVerdict::Inconclusive, Outcome::Inconclusive),
        (2_480, DrillVerdict::Inconclusive, Outcome::Inconclusive),
        (2_479, DrillVerdict::Failed, Outcome::Missed),
    ] {
        let mut j = healthy();
        j.plan.objectives.clear();
        j.rto(within, 5_000);
        let verdict = j.judge();
        assert_eq!((verdict.drill, verdict.objectives[0].outcome), (drill, outcome), "{within} ms");
        assert_eq!(verdict.objectives[0].hint.is_some(), outcome == Outcome::Inconclusive);
    }
}

#[test]
fn no_pass_without_an_end_a_steady_state_an_effect_or_an_objective() {
    let inconclusive = |j: Tape, why: &str| {
        let verdict = j.judge();
        assert_eq!(verdict.drill, DrillVerdict::Inconclusive, "{why}: {:?}", verdict.reasons);
        let all = format!("{:?} {:?}", verdict.reasons, verdict.objectives);
        assert!(all.contains(why), "{why} not in {all}");
    };
    inconclusive(without(healthy(), |e| matches!(e, Event::Ended { .. })), "the drill never ended");
    inconclusive(without(healthy(), |e| matches!(e, Event::StepsEnded { .. })), "the steps never ended");
    inconclusive(without(healthy(), |e| matches!(e, Event::SteadyState { phase: SteadyPhase::After, .. })), "again after the reverts");
    inconclusive(without(healthy(), |e| matches!(e, Event::Effective { .. })), "not proven to have any effect");
    inconclusive(without(healthy(), |e| matches!(e, Event::Run(_))), "no sample");
    let mut j = healthy();
    j.plan.objectives.clear();
    inconclusive(j, "there is no objective");
    let mut j = healthy();
    for (_, event) in &mut j.events {
        if let Event::Intent { objects, .. } = event {
            objects.clear();
        }
    }
    inconclusive(j, "nothing to act on");
    let mut j = healthy();
    j.push(2_000, Event::HoldBroken { fault: 0, at: at(2_000), detail: "resumed by somebody".into() });
    inconclusive(j, "did not hold while it should");
    let mut j = healthy();
    j.step("break more", |s| s.inject = Some(FaultSpec::default()));
    inconclusive(j, "`break more` was never injected");
    let mut j = healthy();
    j.push(9_000, Event::StepEnded { step: "2".into(), outcome: StepOutcome::Failed, detail: "no".into(), end: at(9_000) });
    inconclusive(j, "the step `watch` failed");
}

#[test]
fn aborts_abort_but_a_failed_step_lets_the_measurements_speak() {
    let mut j = healthy();
    j.push(5_000, Event::AbortRequested { by: "ann@laptop".into(), reason: "Ctrl-C".into() });
    assert_eq!(j.judge().drill, DrillVerdict::Aborted);
    let mut j = healthy();
    j.plan.objectives.clear();
    j.rto(1_000, 5_000);
    j.push(5_000, Event::AbortRequested { by: "step 2".into(), reason: "it failed".into() });
    assert_eq!(j.judge().drill, DrillVerdict::Failed);
    let mut j = healthy();
    j.push(5_000, Event::AbortRequested { by: "step 2".into(), reason: "it failed".into() });
    assert_eq!(j.judge().drill, DrillVerdict::Inconclusive);
    let mut j = healthy();
    j.push(5_000, Event::LeaseLost { detail: "asleep".into() });
    assert_eq!(j.judge().drill, DrillVerdict::Aborted);
}

#[test]
fn clean_needs_proof() {
    let unclean = |j: Tape, why: &str| {
        let verdict = j.judge();
        assert!(!verdict.clean && verdict.unclean.iter().any(|u| u.contains(why)), "{why}: {:?}", verdict.unclean);
    };
    unclean(without(healthy(), |e| matches!(e, Event::Gone { .. })), "not proven to be gone");
    unclean(without(healthy(), |e| matches!(e, Event::Reverted { .. })), "was not reverted");
    unclean(without(healthy(), |e| matches!(e, Event::Ended { .. })), "never ended");
    let mut j = healthy();
    j.push(19_000, Event::Disarmed { left: vec!["pod firedrill/observer-x".into()] });
    unclean(j, "observer-x");
    let mut j = healthy();
    j.revert(12_000, RevertResult::Failed);
    unclean(j, "failed");
    // Nothing was ever touched.
    let j = Tape::new();
    assert!(j.judge().clean);
    // What was declared irreversible is named, and what the runbook restores is none of that.
    for (policy, stays) in [(UndoPolicy::None, 1), (UndoPolicy::Runbook, 0)] {
        let mut j = healthy();
        j.plan.steps[0].spec.inject.as_mut().unwrap().undo = Some(policy);
        j.revert(12_000, RevertResult::NotOurs);
        let verdict = j.judge();
        assert!(verdict.clean && verdict.stays.len() == stays, "{policy:?}: {:?}", verdict.stays);
        assert_eq!(verdict.cleanness().contains("declared irreversible"), stays == 1);
        assert!(verdict.stays.iter().all(|what| what == "what `break it` did on Pod shop/orders-db-0 (`freeze`)"), "{:?}", verdict.stays);
        let shown = crate::report::terminal(&j.records(), 100, false);
        assert_eq!(shown.contains("clean but for what stays"), stays == 1, "{shown}");
    }
}

#[test]
fn several_bad_phases_count_until_the_first_stable_good() {
    let mut j = healthy();
    j.events.retain(|(_, e)| !matches!(e, Event::Run(r) if r.first_send == at(3_600)));
    j.run("web", Good, 3_600, 5_000, RunEnd::Change);
    j.run("web", Bad, 5_100, 5_200, RunEnd::Change);
    j.run("web", Good, 5_300, 10_900, RunEnd::Cut);
    let o = j.only();
    assert_eq!(o.measured, Some(Bracket::new(5_200_000 - 1_020_000, 5_310_000 - 1_000_000)));
    assert_eq!(o.outcome, Outcome::Missed);
    // Without the demand for stability the first good sample counts.
    j.plan.objectives.clear();
    j.rto(3_000, 0);
    assert_eq!(j.only().outcome, Outcome::Met);
}

#[test]
fn unknown_is_never_good_and_a_hole_starts_stability_again() {
    let with_middle = |state, from, to, ended_before| {
        let mut j = healthy();
        j.events.retain(|(_, e)| !matches!(e, Event::Run(r) if r.first_send.mono_us >= at(3_600).mono_us));
        j.run("web", Good, 3_600, from - 100, ended_before);
        if let Some(state) = state {
            j.run("web", state, from, to, RunEnd::Change);
        }
        j.run("web", Good, to + 100, 19_900, RunEnd::End);
        j.only()
    };
    // A whole second of unknown: recovery counts from the good sample after it.
    let o = with_middle(Some(Unknown), 6_000, 7_000, RunEnd::Change);
    assert_eq!(o.measured, Some(Bracket::new(2_480_000, 7_110_000 - 1_000_000)));
    assert_eq!(o.outcome, Outcome::Inconclusive);
    // A hole: the same.
    let o = with_middle(None, 6_000, 7_000, RunEnd::Hole);
    assert_eq!(o.measured, Some(Bracket::new(2_480_000, 7_110_000 - 1_000_000)));
    // Even one that the sampler did not name.
    let o = with_middle(None, 6_000, 7_000, RunEnd::Cut);
    assert_eq!(o.measured, Some(Bracket::new(2_480_000, 7_110_000 - 1_000_000)));
    // One unknown sample between two good ones is no hole.
    let o = with_middle(Some(Unknown), 6_000, 6_000, RunEnd::Change);
    assert_eq!(o.outcome, Outcome::Met);
}

#[test]
fn a_drill_that_ends_before_it_is_stable_is_not_met() {
    let mut j = without(healthy(), |e| matches!(e, Event::Run(r) if r.first_send.mono_us >= at(3_600).mono_us));
    j.run("web", Good, 3_600, 8_500, RunEnd::End);
    let o = j.only();
    assert_eq!((o.outcome, o.measured), (Outcome::Inconclusive, Some(Bracket::at_least(2_480_000))));
    assert!(o.reason.contains("did not watch that long"), "{}", o.reason);
}

#[test]
fn never_recovered_has_no_upper_end() {
    let mut j = without(healthy(), |e| matches!(e, Event::Run(r) if r.first_send.mono_us >= at(1_100).mono_us));
    j.run("web", Bad, 1_100, 9_000, RunEnd::End);
    let o = j.only();
    assert_eq!((o.outcome, o.measured), (Outcome::Missed, Some(Bracket::at_least(9_000_000 - 1_020_000))));
    j.plan.objectives.clear();
    j.rto(60_000, 0);
    let o = j.only();
    assert_eq!(o.outcome, Outcome::Inconclusive);
    assert!(o.reason.contains("before the drill took the fault away"), "{}", o.reason);
}

#[test]
fn what_recovers_only_when_the_drill_takes_the_fault_away_did_not_recover() {
    let frozen = |result| {
        let mut j = without(healthy(), |e| {
            matches!(e, Event::Run(r) if r.first_send.mono_us >= at(1_100).mono_us)
                || matches!(e, Event::RevertIntent { .. } | Event::Reverted { .. } | Event::Gone { .. })
        });
        j.plan.objectives.clear();
        j.rto(30_000, 5_000);
        j.run("web", Bad, 1_100, 11_100, RunEnd::Change);
        j.revert(11_000, result);
        j.run("web", Good, 11_200, 19_900, RunEnd::End);
        j.only()
    };
    // 10.2 s is within 30 s: but it was the revert that brought it back.
    let o = frozen(RevertResult::Reverted);
    assert_eq!((o.outcome, o.measured.unwrap().upper), (Outcome::Inconclusive, None), "{}", o.reason);
    assert!(o.reason.contains("took the fault away"), "{}", o.reason);
    // A revert that found nothing to undo brought nothing back.
    assert_eq!(frozen(RevertResult::Nothing).outcome, Outcome::Met);
}

#[test]
fn an_outage_of_the_revert_itself_is_not_the_faults() {
    let mut j = without(healthy(), |e| matches!(e, Event::Run(r) if r.first_send == at(11_000)));
    j.run("web", Good, 11_000, 11_200, RunEnd::Change);
    j.run("web", Bad, 11_300, 12_000, RunEnd::Change);
    j.run("web", Good, 12_100, 19_900, RunEnd::End);
    assert_eq!(j.only().outcome, Outcome::Met);
}

#[test]
fn no_bad_sample_means_no_longer_than_the_widest_gap() {
    let never_bad = |j: &mut Tape, gap_ms: i64| {
        j.events.retain(|(_, e)| !matches!(e, Event::Run(_)));
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.run("web", Good, 1_000, 5_000, RunEnd::Cut);
        j.run("web", Good, 5_000 + gap_ms, 19_900, RunEnd::End);
    };
    let mut j = healthy();
    never_bad(&mut j, 100);
    let o = j.only();
    assert_eq!((o.outcome, o.measured), (Outcome::Met, Some(Bracket::new(0, 110_000))), "{}", o.reason);
    never_bad(&mut j, 4_000);
    let o = j.only();
    assert_eq!((o.outcome, o.measured), (Outcome::Inconclusive, Some(Bracket::new(0, 4_010_000))));
    // Watched for a moment only.
    j.events.retain(|(_, e)| !matches!(e, Event::Run(_)));
    j.run("web", Good, 0, 900, RunEnd::Cut);
    j.run("web", Good, 1_000, 1_500, RunEnd::End);
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
    // The sampler slept from just before the fault on: a sample that was answered after it says nothing of it.
    j.plan.objectives.clear();
    j.rto(3_000, 0);
    j.events.retain(|(_, e)| !matches!(e, Event::Run(_)));
    j.run("web", Good, 0, 1_000, RunEnd::Hole);
    let o = j.only();
    assert_eq!((o.outcome, o.measured), (Outcome::Inconclusive, None), "{}", o.reason);
    // Bad from the start: nothing can be said of the fault.
    let mut j = without(healthy(), |e| matches!(e, Event::Run(r) if r.first_send.mono_us < at(1_100).mono_us));
    j.run("web", Bad, 0, 900, RunEnd::Cut);
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
}

#[test]
fn other_beginnings() {
    let from = |from, j: &mut Tape| {
        j.plan.objectives.clear();
        j.objective("rto", |o| {
            o.recovery_time = Some(RecoveryTime {
                probe: "web".into(),
                after: Some("break it".into()),
                within: Dur::from_secs(3),
                stable_for: Dur::from_secs(5),
                from,
                alert: Some("paged".into()),
            });
        });
        j.only()
    };
    let mut j = healthy();
    assert_eq!(from(From::Outage, &mut j).measured, Some(Bracket::new(2_390_000, 2_610_000)));
    let o = from(From::Detected, &mut j);
    assert_eq!(o.outcome, Outcome::Inconclusive);
    assert!(o.reason.contains("never received"));
    assert_eq!(from(From::Declared, &mut j).outcome, Outcome::Inconclusive);
    j.push(2_300, Event::Alert(super::detection::seen(AlertStage::Received, 2_000, 2_300)));
    assert_eq!(from(From::Detected, &mut j).measured, Some(Bracket::new(1_200_000, 1_610_000)));
    j.step("declare", |s| s.declare = Some(Declare::default()));
    j.push(2_400, Event::Acknowledged { step: "3".into(), by: "ann".into(), refused: false, remark: String::new(), at: at(2_400) });
    j.push(2_500, Event::StepEnded { step: "3".into(), outcome: StepOutcome::Succeeded, detail: String::new(), end: at(2_500) });
    assert_eq!(from(From::Declared, &mut j).measured, Some(Bracket::new(1_100_000, 1_210_000)));
}

#[test]
fn another_machines_clock_cannot_measure() {
    let mut j = healthy();
    for (_, event) in &mut j.events {
        if let Event::Run(run) = event {
            for stamp in [&mut run.first_send, &mut run.first_complete, &mut run.last_send, &mut run.last_complete] {
                stamp.clock = ClockId("laptop".into());
            }
        }
    }
    let o = j.only();
    assert_ne!(o.outcome, Outcome::Met);
    assert_ne!(o.outcome, Outcome::Missed);
}

#[test]
fn availability_counts_unknown_both_ways() {
    let judged = |at_least: f64, window: Option<u64>, j: &mut Tape| {
        j.plan.objectives.clear();
        j.objective("up", |o| {
            let window = window.map(Dur::from_secs);
            let after = Some("break it".into());
            o.availability = Some(Availability { probe: "web".into(), after, window, at_least: Percent(at_least) });
        });
        j.only()
    };
    let mut j = healthy();
    // 9 s until the steps' end; bad surely from 1.11 s to 3.5 s, good surely from 3.61 s.
    let o = judged(71.0, None, &mut j);
    assert_eq!(o.measured, Some(Bracket::new(710_000, 1_000_000 - 265_555)));
    assert_eq!(o.outcome, Outcome::Met);
    assert_eq!(judged(72.0, None, &mut j).outcome, Outcome::Inconclusive);
    assert_eq!(judged(74.0, None, &mut j).outcome, Outcome::Missed);
    // A window that the drill did not watch to its end cannot be met by what was seen.
    assert_eq!(judged(50.0, Some(60), &mut j).outcome, Outcome::Inconclusive);
    let mut j = without(j, |e| matches!(e, Event::Run(_)));
    assert_eq!(judged(0.0, None, &mut j).outcome, Outcome::Inconclusive);
}

/// A ledger's reading of 1000 acknowledged writes, the ones given lost (number, send, ack in ms).
fn ledger(lost: &[(u64, i64, i64)]) -> LedgerReading {
    let write = |&(n, send, ack): &(u64, i64, i64)| LedgerWrite { n, send: at(send), ack: at(ack) };
    LedgerReading {
        attempted: 1_010,
        ok: 1_000,
        unknown: 10,
        lost: lost.iter().map(write).collect(),
        last_kept: Some(write(&(40, 880, 890))),
        copies: vec![LedgerCopy {
            name: "primary".into(),
            caught_up: true,
            missing: u64::try_from(lost.len()).unwrap(),
            detail: String::new(),
        }],
        ..LedgerReading::default()
    }
}

fn with_ledger(reading: Reading, writes: Option<u64>, within_ms: Option<u64>) -> Tape {
    let mut j = healthy();
    j.plan.objectives.clear();
    j.probe("orders", 20, |p| p.ledger = Some(LedgerProbe::default()));
    j.run("orders", Good, 0, 900, RunEnd::Cut);
    j.push(19_000, Event::Reading { of: "orders".into(), begin: at(18_000), end: at(19_000), reading });
    j.objective("rpo", |o| {
        o.data_loss = Some(DataLoss { ledger: "orders".into(), writes, within: within_ms.map(Dur::from_millis), after: None });
    });
    j
}

#[test]
fn lost_writes_are_counted_and_dated() {
    assert_eq!(with_ledger(Reading::Ledger(ledger(&[])), Some(0), None).only().outcome, Outcome::Met);
    let o = with_ledger(Reading::Ledger(ledger(&[(41, 890, 900), (42, 900, 910)])), Some(0), None).only();
    assert_eq!((o.outcome, o.measured), (Outcome::Missed, Some(Bracket::exact(2))));
    // Recovery point: [F.start − oldestLost.ack, F.effective − lastKept.send].
    let point = |within| with_ledger(Reading::Ledger(ledger(&[(41, 890, 900), (99, 1_500, 1_510)])), None, Some(within)).only();
    assert_eq!(point(140).measured, Some(Bracket::new(100_000, 140_000)));
    assert_eq!(point(140).outcome, Outcome::Met);
    assert_eq!(point(120).outcome, Outcome::Inconclusive);
    assert_eq!(point(99).outcome, Outcome::Missed);
    // The one acknowledged after the fault took effect is a split brain's.
    assert!(point(140).parts.iter().any(|p| p.detail.contains("1 lost writes were acknowledged after")));
}

#[test]
fn no_loss_is_not_proven_by_not_looking() {
    let inconclusive = |reading, why: &str| {
        let o = with_ledger(reading, Some(0), None).only();
        assert_eq!(o.outcome, Outcome::Inconclusive, "{why}");
        assert!(o.reason.contains(why), "{why}: {}", o.reason);
    };
    inconclusive(Reading::Ledger(LedgerReading { ok: 0, ..ledger(&[]) }), "no acknowledged write");
    inconclusive(Reading::Ledger(LedgerReading { copies: Vec::new(), ..ledger(&[]) }), "from nowhere");
    inconclusive(Reading::Ledger(LedgerReading { phantom: 2, ..ledger(&[]) }), "nobody wrote");
    inconclusive(Reading::Failed { detail: "no route".into() }, "no route");
    let mut behind = ledger(&[]);
    behind.copies.push(LedgerCopy { name: "orders-db-2".into(), caught_up: false, missing: 0, detail: "not answering".into() });
    inconclusive(Reading::Ledger(behind), "orders-db-2");
    // A caught-up replica that lacks a write has lost it, whatever the primary says.
    let mut diverged = ledger(&[]);
    diverged.copies.push(LedgerCopy { name: "orders-db-2".into(), caught_up: true, missing: 3, detail: String::new() });
    assert_eq!(with_ledger(Reading::Ledger(diverged), Some(0), None).only().outcome, Outcome::Missed);
    // A configured replica that was not read.
    let mut j = with_ledger(Reading::Ledger(ledger(&[])), Some(0), None);
    j.plan.probes.get_mut("orders").unwrap().spec.ledger =
        Some(LedgerProbe { replicas: Some("replicas".into()), ..LedgerProbe::default() });
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
    // No write before the fault.
    let j = without(with_ledger(Reading::Ledger(ledger(&[])), Some(0), None), |e| matches!(e, Event::Run(r) if r.probe == "orders"));
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
    // Never read.
    let j = without(with_ledger(Reading::Ledger(ledger(&[])), Some(0), None), |e| matches!(e, Event::Reading { .. }));
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
}

/// Another runner takes the drill over: 15 s in, after the fault.
fn taken_over(mut j: Tape, ms: i64, clock: &str) -> Tape {
    let clock = ClockId(clock.into());
    let resumed = Event::Resumed { by: "bob@desk".into(), intent: ResumeIntent::Resume, clock };
    let place = j.events.iter().position(|(stamp, _)| stamp.mono_us > at(ms).mono_us).unwrap_or(j.events.len());
    j.events.insert(place, (at(ms), resumed));
    j
}

#[test]
fn a_writer_that_died_with_its_runner_proves_nothing() {
    for (lost, whole) in [(Vec::new(), Outcome::Met), (vec![(41, 890, 900)], Outcome::Missed)] {
        let mut drill = with_ledger(Reading::Ledger(ledger(&lost)), Some(0), Some(60_000));
        drill.events.sort_by_key(|(stamp, _)| stamp.mono_us);
        assert_eq!(drill.only().outcome, whole);
        // Also on the same machine, whose clock goes on.
        for clock in ["runner", "desk"] {
            let o = taken_over(drill.clone(), 15_000, clock).only();
            assert_eq!(o.outcome, Outcome::Inconclusive, "{}", o.reason);
            assert!(o.reason.contains("one writer") && o.reason.contains("bob@desk"), "{}", o.reason);
        }
        // After the reading, or before there was any writer, it changes nothing.
        assert_eq!(taken_over(drill.clone(), 19_500, "runner").only().outcome, whole);
        assert_eq!(taken_over(drill.clone(), -1, "runner").only().outcome, whole);
        // Out of the record in the cluster alone, which has no runs.
        let bare = without(taken_over(drill, 15_000, "runner"), |e| matches!(e, Event::Run(_)));
        assert!(bare.only().reason.contains("one writer"), "{}", bare.only().reason);
    }
}

#[test]
fn a_takeover_leaves_a_hole_in_the_samples_and_no_more() {
    // The sampler of the first runner was last heard of at 1 s; the second one's saw `web` good from 5 s on.
    let mut j = without(healthy(), |e| matches!(e, Event::Run(r) if r.first_send.mono_us >= at(1_000).mono_us));
    j.run("web", Good, 5_000, 10_900, RunEnd::Cut);
    j.run("web", Good, 11_000, 19_900, RunEnd::End);
    let judged = |within: u64, mut j: Tape| {
        j.plan.objectives.clear();
        j.rto(within, 5_000);
        j.only()
    };
    let j = taken_over(j, 4_900, "runner");
    // An outage of nearly all that time may hide in the hole.
    assert_eq!(judged(3_000, j.clone()).outcome, Outcome::Inconclusive);
    assert_eq!(judged(3_000, j.clone()).measured, Some(Bracket::new(0, 4_010_000)));
    assert_eq!(judged(60_000, j.clone()).outcome, Outcome::Met);
    // Nor was it never bad, nor is the share of time known that lies in it.
    let with = |mut j: Tape, set: &dyn Fn(&mut Objective)| {
        j.plan.objectives.clear();
        j.objective("o", |o| set(o));
        j.only().outcome
    };
    let after = || Some("break it".to_owned());
    let never = |o: &mut Objective| o.never = Some(Never { probe: "web".into(), state: Bad, after: after() });
    assert_eq!(with(j.clone(), &never), Outcome::Inconclusive);
    let up = |o: &mut Objective| {
        o.availability = Some(Availability { probe: "web".into(), after: after(), window: None, at_least: Percent(90.0) });
    };
    assert_eq!(with(j, &up), Outcome::Inconclusive);
}

#[test]
fn no_time_is_measured_from_one_machines_clock_to_anothers() {
    // Broken and seen bad by the first runner; seen good again by the second, on another machine, whose clock says anything.
    for shift_us in [-3_600_000_000, -2_000_000, 0, 2_000_000, 3_600_000_000] {
        let mut j = healthy();
        for (_, event) in &mut j.events {
            if let Event::Run(run) = event
                && run.first_send.mono_us >= at(3_600).mono_us
            {
                for stamp in [&mut run.first_send, &mut run.first_complete, &mut run.last_send, &mut run.last_complete] {
                    (stamp.clock, stamp.mono_us) = (ClockId("desk".into()), stamp.mono_us + shift_us);
                }
            }
        }
        let mut j = taken_over(j, 3_550, "desk");
        // The second runner's links are to its own clock, which nobody linked to the first's.
        let link = Event::ClockLinked { clock: ClockId("desk".into()), offset_us: 0, error_us: 1, wall_offset_us: 0 };
        j.events.push((Stamp { clock: ClockId("desk".into()), ..at(4_000) }, link));
        for (within, from) in
            [(1, From::Fault), (3_000, From::Fault), (3_600_000, From::Fault), (1, From::Outage), (3_600_000, From::Outage)]
        {
            j.plan.objectives.clear();
            j.rto(within, 5_000);
            j.plan.objectives[0].spec.recovery_time.as_mut().unwrap().from = from;
            let o = j.only();
            // Only that it was still bad when the first runner looked last is known: 2.48 s after the fault.
            let wanted = if within == 1 { Outcome::Missed } else { Outcome::Inconclusive };
            assert_eq!(o.outcome, wanted, "{shift_us} {within} {from:?}: {}", o.reason);
            assert_eq!(o.measured.unwrap().upper, None, "{shift_us} {within} {from:?}");
            assert!(wanted == Outcome::Missed || o.reason.contains("never linked"), "{}", o.reason);
        }
    }
}

#[test]
fn a_time_that_nobody_watched_between_two_bad_ones_may_hide_a_recovery() {
    for (bad_again, lower, outcome) in [(20_000, 2_000, Outcome::Inconclusive), (6_000, 30_000, Outcome::Missed)] {
        let mut j = Tape::new();
        j.rto(3_000, 5_000);
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Good, 1_000, 1_000, RunEnd::Change);
        j.run("web", Bad, 1_100, 2_000, RunEnd::Hole);
        j.run("web", Bad, bad_again, 30_000, RunEnd::End);
        j.steps_ended(31_000);
        j.revert(32_000, RevertResult::Reverted);
        j.end(40_000);
        let o = j.judge().objectives.remove(0);
        assert_eq!(
            (o.outcome, o.measured),
            (outcome, Some(Bracket { lower: Some(lower * 1_000 - 1_020_000), upper: None })),
            "{}",
            o.reason
        );
        // Five seconds could not have passed unseen in the shorter one.
        assert_eq!(o.reason.contains("in which nobody watched it"), outcome == Outcome::Inconclusive, "{}", o.reason);
    }
}

#[test]
fn a_journal_that_breaks_off_says_nothing_of_outages_that_had_not_begun() {
    let good = |over: bool| {
        let mut j = Tape::new();
        j.rto(3_000, 1_000);
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Good, 1_000, 5_000, RunEnd::End);
        if over {
            j.steps_ended(5_100);
        }
        j.only()
    };
    assert_eq!(good(true).outcome, Outcome::Met);
    let o = good(false);
    assert_eq!((o.outcome, o.measured), (Outcome::Inconclusive, None), "{}", o.reason);
    assert!(o.reason.contains("ends before the steps did"), "{}", o.reason);
}

/// A runner is lost after the last step's end, and with it the outage that it was watching.
#[test]
fn a_probe_that_was_not_watched_to_the_steps_end_is_not_known_to_have_stayed_good() {
    let until = |last_ms: i64, ended: RunEnd| {
        let mut j = Tape::new();
        j.rto(3_000, 1_000);
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Good, 1_000, last_ms, ended);
        j.steps_ended(5_100);
        j.only()
    };
    assert_eq!(until(4_900, RunEnd::Cut).outcome, Outcome::Met);
    // The next sample was not good; the run that it began was lost.
    let o = until(5_000, RunEnd::Change);
    assert_eq!((o.outcome, o.measured), (Outcome::Inconclusive, None), "{}", o.reason);
    let o = until(4_800, RunEnd::Cut);
    assert_eq!((o.outcome, o.measured), (Outcome::Inconclusive, None), "{}", o.reason);
    assert!(o.reason.contains("which ends 300ms before the steps did"), "{}", o.reason);
}

#[test]
fn a_good_time_that_was_seen_too_short_may_have_been_long_enough() {
    // Good samples for 900 ms; between the bad ones around them lie 1,110 ms, of which all but nothing may have been good.
    for (bad_again, lower) in [(2_600, 1_500), (2_400, 4_000)] {
        let mut j = Tape::new();
        j.rto(1_000, 1_000);
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Good, 1_000, 1_000, RunEnd::Change);
        j.run("web", Bad, 1_100, 1_500, RunEnd::Change);
        j.run("web", Good, 1_600, bad_again - 100, RunEnd::Change);
        j.run("web", Bad, bad_again, 4_000, RunEnd::Change);
        j.run("web", Good, 4_100, 9_000, RunEnd::End);
        j.steps_ended(9_100);
        j.revert(9_200, RevertResult::Nothing);
        j.end(9_300);
        let o = j.only();
        assert_eq!(o.measured, Some(Bracket::new(lower * 1_000 - 1_020_000, 4_110_000 - 1_000_000)), "{}", o.reason);
        assert_eq!(o.outcome, if lower == 1_500 { Outcome::Inconclusive } else { Outcome::Missed }, "{}", o.reason);
    }
}

#[test]
fn an_outage_that_begins_after_another_fault_is_not_known_to_be_nobodys() {
    // Nothing is seen of the first fault until the second one comes, of something else.
    let lasting = Tape::new().undo;
    let two = |undo: &Undo, result: RevertResult, revert_ms: i64| {
        let mut j = Tape::new();
        j.undo = undo.clone();
        j.rto(3_000, 1_000);
        j.step("break another", |s| s.inject = Some(FaultSpec::default()));
        let path = j.plan.steps.last().unwrap().path.clone();
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Good, 1_000, 4_000, RunEnd::Change);
        j.intent(1, &path, 3_000);
        j.push(3_000, Event::Injected { fault: 1, start: at(3_000), end: at(3_003) });
        j.push(3_010, Event::Effective { fault: 1, at: at(3_010), proof: String::new() });
        j.run("web", Bad, 4_100, 6_000, RunEnd::Change);
        j.run("web", Good, 6_100, 11_000, RunEnd::End);
        j.steps_ended_and_revert(10_000, revert_ms, result);
        j.end(12_000);
        j.only()
    };
    // Undone after the steps, by the drill or by somebody before it, or never.
    for result in [RevertResult::Reverted, RevertResult::Superseded, RevertResult::Nothing, RevertResult::TargetGone, RevertResult::NotOurs]
    {
        let o = two(&lasting, result, 10_500);
        assert_eq!(o.outcome, Outcome::Inconclusive, "{result:?}: {}", o.reason);
        assert!(o.reason.contains("not known whose"), "{}", o.reason);
    }
    // One that was over at once, and one that was undone before it began.
    assert_eq!(two(&momentary(), RevertResult::Nothing, 10_500).outcome, Outcome::Met);
    assert_eq!(two(&lasting, RevertResult::Reverted, 2_500).outcome, Outcome::Met);
    // One that was undone so short a time before that it may have shown late, and one that a step was to undo and that stays.
    let o = two(&lasting, RevertResult::Reverted, 3_500);
    assert_eq!(o.outcome, Outcome::Inconclusive, "{}", o.reason);
    assert!(o.reason.contains("seen for 460ms only"), "{}", o.reason);
    for result in [RevertResult::NotOurs, RevertResult::Failed] {
        assert_eq!(two(&lasting, result, 2_500).outcome, Outcome::Inconclusive, "{result:?}");
    }
}

#[test]
fn what_the_sandbox_could_not_play_is_neither_passed_nor_failed() {
    let judged = |sandbox: bool, back_ms: i64, said: &str| {
        let mut j = Tape::new();
        j.rto(3_000, 1_000);
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Bad, 1_100, back_ms, RunEnd::Change);
        j.run("web", Good, back_ms + 100, 9_500, RunEnd::End);
        let detail = format!("block at line 13: could not be run:\n{said}\nthe end");
        j.push(8_000, Event::StepEnded { step: "2".into(), outcome: StepOutcome::Failed, detail, end: at(8_000) });
        j.steps_ended_and_revert(9_000, 9_500, RevertResult::Reverted);
        j.end(10_000);
        let mut records = j.records();
        if let Event::Started { sandbox: is_one, .. } = &mut records[0].event {
            *is_one = sandbox;
        }
        crate::verdict::judge(&records)
    };
    let unknown = "not rehearsable: there is no answer to [\"date\"]";
    for (back_ms, outcome) in [(3_000, Outcome::Met), (6_000, Outcome::Inconclusive)] {
        let verdict = judged(true, back_ms, unknown);
        assert_eq!((verdict.drill, verdict.objectives[0].outcome), (DrillVerdict::Inconclusive, outcome), "{verdict:?}");
        assert!(verdict.reasons[0].ends_with(unknown), "{:?}", verdict.reasons);
    }
    // What a real cluster says is no more than words, and a sandbox that could play the drill is believed.
    for verdict in [judged(false, 6_000, unknown), judged(true, 6_000, "no such file")] {
        assert_eq!((verdict.drill, verdict.objectives[0].outcome), (DrillVerdict::Failed, Outcome::Missed), "{verdict:?}");
    }
}

#[test]
fn an_outage_that_begins_after_the_steps_is_not_the_faults() {
    // Undone by a step at 2 s, good until the steps' end at 4 s, bad from 6 s on.
    let late = |revert_ms: i64| {
        let mut j = Tape::new();
        j.rto(3_000, 1_000);
        j.run("web", Good, 0, 900, RunEnd::Cut);
        j.break_it(1_000, 1_020);
        j.run("web", Good, 1_000, 5_900, RunEnd::Change);
        j.run("web", Bad, 6_000, 8_000, RunEnd::Change);
        j.run("web", Good, 8_100, 11_000, RunEnd::End);
        j.steps_ended_and_revert(4_000, revert_ms, RevertResult::Reverted);
        j.end(12_000);
        j.only()
    };
    let o = late(2_000);
    assert_eq!(o.outcome, Outcome::Met, "{}", o.reason);
    // One that was still in place may have done it.
    let o = late(9_000);
    assert_eq!(o.outcome, Outcome::Inconclusive, "{}", o.reason);
}
