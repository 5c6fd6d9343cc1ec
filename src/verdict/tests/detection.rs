//! Cases of `detectionTime`, `runbook`, `backup`, `restore`, `order`, `stepTime`, `never`, `check`.

use std::collections::BTreeMap;

use super::kit::*;
use crate::{
    journal::*,
    scenario::types::*,
    verdict::{Bracket, MarkKind, Outcome},
};
use ProbeState::{Bad, Good, Unknown};

pub(super) fn seen(stage: AlertStage, after: i64, before: i64) -> AlertSeen {
    AlertSeen {
        probe: "paged".into(),
        stage,
        fingerprint: "f1".into(),
        after: at(after),
        before: at(before),
        labels: BTreeMap::new(),
        detail: String::new(),
    }
}

/// Broken at 10 s, firing at 12 s, at Alertmanager at 13 s, received at 15 s; heartbeats every 4 s; until 60 s. Target 10 s.
fn paged() -> Tape {
    let mut j = Tape::new();
    j.plan.place.heartbeat = Some(Heartbeat { alert: "Watchdog".into(), every: Dur::from_secs(5) });
    j.probe("paged", 1_000, |p| p.alert = Some(AlertProbe { name: "OrdersDown".into(), ..AlertProbe::default() }));
    j.objective("detected", |o| {
        o.detection_time = Some(DetectionTime { alert: "paged".into(), after: "break it".into(), within: Dur::from_secs(10) });
    });
    j.push(1_000, Event::Alert(seen(AlertStage::Absent, 500, 1_000)));
    for ms in (2_000..60_000).step_by(4_000) {
        j.push(ms, Event::Alert(seen(AlertStage::Heartbeat, ms - 50, ms)));
    }
    j.break_it(10_000, 10_020);
    j.run("paged", Good, 0, 11_900, RunEnd::Change);
    j.push(12_000, Event::Alert(seen(AlertStage::Firing, 11_000, 12_000)));
    j.push(13_000, Event::Alert(seen(AlertStage::Notified, 12_500, 13_000)));
    j.push(15_000, Event::Alert(seen(AlertStage::Received, 14_900, 15_000)));
    j.run("paged", Bad, 12_000, 59_000, RunEnd::End);
    j.steps_ended(50_000);
    j.revert(51_000, RevertResult::Reverted);
    j.end(60_000);
    j
}

fn without(mut j: Tape, drop: impl Fn(&Event) -> bool) -> Tape {
    j.events.retain(|(_, e)| !drop(e));
    j
}

fn stage(stage: AlertStage) -> impl Fn(&Event) -> bool {
    move |e| matches!(e, Event::Alert(a) if a.stage == stage)
}

#[test]
fn an_alert_received_in_time_is_met_with_its_stages_apart() {
    let o = paged().only();
    assert_eq!((o.outcome, o.measured), (Outcome::Met, Some(Bracket::new(4_880_000, 5_000_000))), "{}", o.reason);
    let parts: Vec<_> = o.parts.iter().map(|p| p.measured).collect();
    assert_eq!(parts, [Bracket::new(980_000, 2_000_000), Bracket::new(500_000, 2_000_000), Bracket::new(1_900_000, 2_500_000)]);
}

#[test]
fn only_a_person_acknowledges_a_page() {
    let acknowledged = |by: &str| {
        let mut j = paged();
        let event = Event::Acknowledged { step: "1".into(), by: by.into(), refused: false, remark: String::new(), at: at(16_000) };
        j.push(16_000, event);
        j.only().parts.iter().any(|p| p.name.contains("acknowledged"))
    };
    assert!(acknowledged("bob@desk"));
    assert!(!acknowledged(AUTO_ACK));
    // The page that declares the outage has been read by nobody.
    let mut j = paged();
    j.step("declared", |s| s.declare = Some(Declare { alert: Some("paged".into()), ..Declare::default() }));
    let path = j.plan.steps.last().unwrap().path.clone();
    let event = Event::Acknowledged { step: path.clone(), by: "alert paged".into(), refused: false, remark: String::new(), at: at(16_000) };
    j.push(16_000, event);
    j.push(16_000, Event::StepEnded { step: path, outcome: StepOutcome::Succeeded, detail: String::new(), end: at(16_000) });
    assert!(!j.only().parts.iter().any(|p| p.name.contains("acknowledged")));
    let kinds: Vec<_> = crate::verdict::judge(&j.records()).marks.iter().map(|mark| mark.kind).collect();
    assert!(kinds.contains(&MarkKind::Declared) && !kinds.contains(&MarkKind::Acknowledged), "{kinds:?}");
}

#[test]
fn an_alert_that_proves_nothing_is_not_met() {
    let inconclusive = |j: Tape, why: &str| {
        let o = j.only();
        assert_eq!(o.outcome, Outcome::Inconclusive, "{why}: {}", o.reason);
        assert!(o.reason.contains(why), "{why}: {}", o.reason);
    };
    inconclusive(without(paged(), stage(AlertStage::Absent)), "not looked at");
    let mut j = paged();
    j.events.insert(1, (at(2_000), Event::Alert(seen(AlertStage::Suppressed, 1_500, 2_000))));
    inconclusive(j, "silenced or inhibited");
    let mut j = paged();
    j.events.insert(1, (at(2_000), Event::Alert(seen(AlertStage::Notified, 1_500, 2_000))));
    inconclusive(j, "already firing");
    inconclusive(
        without(paged(), |e| matches!(e, Event::Alert(a) if a.stage == AlertStage::Heartbeat && a.before.mono_us <= at(10_000).mono_us)),
        "did not arrive before",
    );
    inconclusive(
        without(paged(), |e| matches!(e, Event::Alert(a) if a.stage == AlertStage::Heartbeat && a.before.mono_us > at(15_000).mono_us)),
        "did not arrive afterwards",
    );
    inconclusive(without(paged(), |e| matches!(e, Event::Alert(a) if a.before == at(14_000))), "paused");
    let mut j = paged();
    j.plan.place.heartbeat = None;
    inconclusive(j, "no heartbeat alert is configured");
    let mut j = paged();
    j.push(11_000, Event::HoldBroken { fault: 0, at: at(11_000), detail: "thawed".into() });
    inconclusive(j, "did not hold while it should");
}

#[test]
fn nobody_told_is_missed_when_it_is_the_alerts_fault() {
    // Broken routing, also for the heartbeat: active at Alertmanager, and the receiver, which was read, has nothing.
    let no_routing = |e: &Event| stage(AlertStage::Received)(e) || stage(AlertStage::Heartbeat)(e);
    let o = without(paged(), no_routing).only();
    assert_eq!(o.outcome, Outcome::Missed, "{}", o.reason);
    assert!(o.reason.contains("active at Alertmanager"));
    // The rule was removed: it never fired while heartbeats came.
    let never_fired = |e: &Event| matches!(e, Event::Alert(a) if a.stage > AlertStage::Absent && a.stage < AlertStage::Heartbeat);
    let j = without(paged(), never_fired);
    assert_eq!(j.only().outcome, Outcome::Missed, "{}", j.only().reason);
    // The same without heartbeats: nobody knows whether monitoring works at all.
    let j = without(paged(), |e| never_fired(e) || stage(AlertStage::Heartbeat)(e));
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
    // The receiver could not be read after the target time: it may be there.
    let mut j = without(paged(), |e| no_routing(e) || matches!(e, Event::Run(r) if r.state == Bad));
    j.run("paged", Bad, 12_000, 14_000, RunEnd::Change);
    j.run("paged", Unknown, 15_000, 59_000, RunEnd::End);
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
    // The drill took the fault away before the target time was over, and the alert had not begun to fire.
    let mut j = without(paged(), |e| never_fired(e) || matches!(e, Event::RevertIntent { .. } | Event::StepsEnded { .. }));
    j.events.push((at(14_000), Event::StepsEnded { at: at(14_000) }));
    j.events.push((at(15_000), Event::RevertIntent { fault: 0, because: "end of drill".into() }));
    assert_eq!(j.only().outcome, Outcome::Inconclusive, "{}", j.only().reason);
    // Another runner took over in between: it may have come and gone unseen.
    let mut j = without(paged(), no_routing);
    let resumed = Event::Resumed { by: "bob@desk".into(), intent: ResumeIntent::Resume, clock: at(0).clock };
    let place = j.events.iter().position(|(_, e)| matches!(e, Event::StepsEnded { .. })).unwrap();
    j.events.insert(place, (at(40_000), resumed));
    assert_eq!(j.only().outcome, Outcome::Inconclusive, "{}", j.only().reason);
    assert!(j.only().reason.contains("bob@desk"), "{}", j.only().reason);
    // Late is late.
    let mut j = without(paged(), stage(AlertStage::Received));
    j.push(25_000, Event::Alert(seen(AlertStage::Received, 24_000, 25_000)));
    assert_eq!(j.only().outcome, Outcome::Missed);
    let mut j = without(paged(), stage(AlertStage::Received));
    j.push(25_000, Event::Alert(seen(AlertStage::Received, 19_000, 25_000)));
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
}

fn item(index: u32, title: &str, attempt: u32, state: RunbookState, ms: i64) -> Event {
    let step =
        RunbookStep { step: "3".into(), index, title: title.into(), attempt, state, within_us: None, detail: String::new(), at: at(ms) };
    Event::RunbookStep(step)
}

/// A runbook of two steps, 2 s and 3 s, the second with a retry, whole 5.5 s.
fn followed() -> Tape {
    let mut j = Tape::new();
    j.step("restore", |s| s.runbook = Some(Runbook::default()));
    j.plan.steps[2].runbook_text = Some("# stop\n# start\n".into());
    j.objective("followed", |o| {
        let steps = [("start".to_owned(), Dur::from_millis(3_000))].into();
        o.runbook = Some(RunbookObjective { step: "restore".into(), within: Dur::from_millis(5_500), steps });
    });
    j.push(1_000, Event::StepStarted { step: "3".into(), start: at(1_000) });
    j.push(1_000, item(0, "stop", 1, RunbookState::Started, 1_000));
    j.push(3_000, item(0, "stop", 1, RunbookState::Succeeded, 3_000));
    j.push(3_000, item(1, "start", 1, RunbookState::Started, 3_000));
    j.push(4_000, item(1, "start", 1, RunbookState::Failed, 4_000));
    j.push(4_500, item(1, "start", 2, RunbookState::Started, 4_500));
    j.push(6_000, item(1, "start", 2, RunbookState::Succeeded, 6_000));
    j.push(6_500, Event::StepEnded { step: "3".into(), outcome: StepOutcome::Succeeded, detail: String::new(), end: at(6_500) });
    j
}

#[test]
fn runbooks_are_timed_whole_and_by_step() {
    let o = followed().only();
    assert_eq!((o.outcome, o.measured), (Outcome::Met, Some(Bracket::exact(5_500_000))), "{}", o.reason);
    assert_eq!(o.parts[1].measured, Bracket::exact(3_000_000));
    assert!(o.parts[1].detail.contains("2 tries: a deviation"));
    let change = |set: &dyn Fn(&mut RunbookObjective)| {
        let mut j = followed();
        set(j.plan.objectives[0].spec.runbook.as_mut().unwrap());
        j.only().outcome
    };
    assert_eq!(change(&|o| o.within = Dur::from_millis(5_499)), Outcome::Missed);
    assert_eq!(change(&|o| o.steps["start"] = Dur::from_millis(2_999)), Outcome::Missed);
    assert_eq!(
        change(&|o| {
            o.steps.insert("verify".into(), Dur::from_secs(9));
        }),
        Outcome::Inconclusive
    );
    let ended = |outcome| {
        let mut j = followed();
        j.push(6_500, Event::StepEnded { step: "3".into(), outcome, detail: "no key".into(), end: at(6_500) });
        j.only().outcome
    };
    assert_eq!(ended(StepOutcome::Failed), Outcome::Missed);
    assert_eq!(ended(StepOutcome::TimedOut), Outcome::Missed);
    assert_eq!(ended(StepOutcome::Aborted), Outcome::Inconclusive);
    assert_eq!(without(followed(), |e| matches!(e, Event::StepStarted { .. })).only().outcome, Outcome::Inconclusive);
    // All skipped: nothing was done.
    let mut j = without(followed(), |e| matches!(e, Event::RunbookStep(_)));
    j.plan.objectives[0].spec.runbook.as_mut().unwrap().steps.clear();
    j.push(2_000, item(0, "stop", 1, RunbookState::Skipped, 2_000));
    assert_eq!(j.only().outcome, Outcome::Inconclusive);
}

fn backup(finished_ms: i64, bytes: u64) -> Reading {
    let finished_wall_us = at(finished_ms).wall_us;
    Reading::Backup { id: "20260128F".into(), finished_wall_us, bytes, detail: String::new() }
}

fn backed_up(reading: Reading, after: Option<&str>) -> Outcome {
    let mut j = Tape::new();
    let max_age = Dur::from_secs(100);
    j.probe("backups", 1_000, |p| p.backup = Some(BackupProbe { max_age, ..BackupProbe::default() }));
    j.objective("backup", |o| o.backup = Some(BackupObjective { probe: "backups".into(), max_age: None, after: after.map(Into::into) }));
    j.break_it(10_000, 10_020);
    j.push(60_000, Event::Reading { of: "backups".into(), begin: at(59_000), end: at(60_000), reading });
    j.only().outcome
}

#[test]
fn backups_must_be_young_and_hold_something() {
    assert_eq!(backed_up(backup(-30_000, 4_096), None), Outcome::Met);
    assert_eq!(backed_up(backup(-41_000, 4_096), None), Outcome::Inconclusive);
    assert_eq!(backed_up(backup(-43_000, 4_096), None), Outcome::Missed);
    assert_eq!(backed_up(backup(-30_000, 0), None), Outcome::Missed);
    assert_eq!(backed_up(backup(70_000, 4_096), None), Outcome::Inconclusive);
    assert_eq!(backed_up(Reading::Failed { detail: "no answer".into() }, None), Outcome::Inconclusive);
    let none = Reading::Backup { id: String::new(), finished_wall_us: 0, bytes: 0, detail: String::new() };
    assert_eq!(backed_up(none, None), Outcome::Missed);
    assert_eq!(backed_up(backup(11_000, 4_096), Some("break it")), Outcome::Met);
    assert_eq!(backed_up(backup(5_000, 4_096), Some("break it")), Outcome::Missed);
}

fn restored(source: Option<(&str, u64)>, copy: Option<(&str, u64)>, min_rows: u64) -> Outcome {
    let mut j = Tape::new();
    let postgres = Postgres { service: None, target: None, database: "orders".into(), secret: "shop/s".parse().unwrap(), runbook: None };
    let side = DigestSide { postgres };
    let query = "select 1".to_owned();
    j.objective("same rows", |o| {
        o.restore = Some(RestoreObjective { source: side.clone(), restored: side, query, min_rows, source_at: None, restored_at: None });
    });
    for (side, read, ms) in [(DigestWhich::Source, source, 100), (DigestWhich::Restored, copy, 900)] {
        let reading = match read {
            Some((digest, rows)) => Reading::Digest { side, digest: digest.into(), rows },
            None => Reading::Failed { detail: "no route".into() },
        };
        j.push(ms, Event::Reading { of: "same rows".into(), begin: at(ms), end: at(ms + 1), reading });
    }
    j.only().outcome
}

#[test]
fn a_restore_is_the_same_rows_and_some() {
    assert_eq!(restored(Some(("aa", 5)), Some(("aa", 5)), 1), Outcome::Met);
    assert_eq!(restored(Some(("aa", 5)), Some(("ab", 5)), 1), Outcome::Missed);
    assert_eq!(restored(Some(("aa", 5)), Some(("aa", 4)), 1), Outcome::Missed);
    assert_eq!(restored(Some(("aa", 5)), Some(("", 0)), 1), Outcome::Inconclusive);
    assert_eq!(restored(Some(("aa", 0)), Some(("aa", 0)), 0), Outcome::Inconclusive);
    assert_eq!(restored(Some(("aa", 5)), Some(("aa", 5)), 6), Outcome::Inconclusive);
    assert_eq!(restored(Some(("aa", 5)), None, 1), Outcome::Inconclusive);
    assert_eq!(restored(None, Some(("aa", 5)), 1), Outcome::Inconclusive);
}

/// Two probes broken at 1 s; `web` back at 3 s, `mail` at 5 s.
fn two() -> Tape {
    let mut j = Tape::new();
    j.probe("mail", 100, |p| p.tcp = Some(TcpProbe::default()));
    j.break_it(1_000, 1_020);
    for (probe, back) in [("web", 3_000), ("mail", 5_000)] {
        j.run(probe, Good, 0, 900, RunEnd::Cut);
        j.run(probe, Bad, 1_000, back - 100, RunEnd::Change);
        j.run(probe, Good, back, 10_000, RunEnd::End);
    }
    j.steps_ended(10_000);
    j
}

#[test]
fn order_of_recovery() {
    let order = |probes: &[&str], j: &Tape| {
        let mut j = j.clone();
        let probes = probes.iter().map(|p| (*p).to_owned()).collect();
        j.objective("order", |o| o.order = Some(OrderObjective { probes, after: "break it".into() }));
        j.only().outcome
    };
    assert_eq!(order(&["web", "mail"], &two()), Outcome::Met);
    assert_eq!(order(&["mail", "web"], &two()), Outcome::Missed);
    assert_eq!(order(&["web"], &two()), Outcome::Inconclusive);
    let never_down = without(two(), |e| matches!(e, Event::Run(r) if r.probe == "mail" && r.state == Bad));
    assert_eq!(order(&["web", "mail"], &never_down), Outcome::Inconclusive);
    let together = without(two(), |e| matches!(e, Event::Run(r) if r.probe == "mail"));
    let mut together = together.clone();
    together.run("mail", Good, 0, 900, RunEnd::Cut);
    together.run("mail", Bad, 1_050, 2_950, RunEnd::Change);
    together.run("mail", Good, 3_050, 10_000, RunEnd::End);
    assert_eq!(order(&["web", "mail"], &together), Outcome::Inconclusive);
}

#[test]
fn steps_never_and_check() {
    let one = |set: &dyn Fn(&mut Objective), j: &Tape| {
        let mut j = j.clone();
        j.objective("it", set);
        j.only().outcome
    };
    let mut j = two();
    j.push(2_000, Event::StepStarted { step: "2".into(), start: at(2_000) });
    j.push(9_000, Event::StepEnded { step: "2".into(), outcome: StepOutcome::Succeeded, detail: String::new(), end: at(9_000) });
    let step_time = |after: Option<&str>, ms: u64, j: &Tape| {
        let (after, within) = (after.map(str::to_owned), Dur::from_millis(ms));
        one(&|o| o.step_time = Some(StepTime { step: "watch".into(), after: after.clone(), within }), j)
    };
    assert_eq!(step_time(None, 7_000, &j), Outcome::Met);
    assert_eq!(step_time(None, 6_999, &j), Outcome::Missed);
    assert_eq!(step_time(Some("break it"), 8_000, &j), Outcome::Met);
    assert_eq!(step_time(Some("break it"), 7_999, &j), Outcome::Missed);
    assert_eq!(step_time(None, 9_000, &two()), Outcome::Inconclusive);

    let never = |state, after: Option<&str>, j: &Tape| {
        let after = after.map(str::to_owned);
        one(&|o| o.never = Some(Never { probe: "web".into(), state, after: after.clone() }), j)
    };
    assert_eq!(never(Bad, Some("break it"), &two()), Outcome::Missed);
    let good = without(two(), |e| matches!(e, Event::Run(r) if r.state == Bad));
    // The hole where the bad run was: it may have been bad unseen.
    assert_eq!(never(Bad, Some("break it"), &good), Outcome::Inconclusive);
    let mut steady = without(two(), |e| matches!(e, Event::Run(_)));
    steady.run("web", Good, 0, 900, RunEnd::Cut);
    steady.run("web", Good, 1_000, 10_000, RunEnd::End);
    assert_eq!(never(Bad, Some("break it"), &steady), Outcome::Met);
    assert_eq!(never(Bad, None, &steady), Outcome::Met);
    let no_effect = without(steady, |e| matches!(e, Event::Effective { .. }));
    assert_eq!(never(Bad, Some("break it"), &no_effect), Outcome::Inconclusive);

    let check = |state, j: &Tape| one(&|o| o.check = Some(Check { probe: "web".into(), state }), j);
    assert_eq!(check(Good, &two()), Outcome::Met);
    assert_eq!(check(Bad, &two()), Outcome::Missed);
    let mut unknown = without(two(), |e| matches!(e, Event::Run(r) if r.probe == "web" && r.state == Good));
    unknown.run("web", Unknown, 3_000, 10_000, RunEnd::End);
    assert_eq!(check(Good, &unknown), Outcome::Inconclusive);
    let stale = without(two(), |e| matches!(e, Event::Run(r) if r.probe == "web" && r.first_send == at(3_000)));
    assert_eq!(check(Good, &stale), Outcome::Inconclusive);
}
