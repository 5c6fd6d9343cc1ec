//! The live view, line by line.

use std::collections::BTreeMap;

use super::*;
use crate::{
    clock::{Clock, Stamp},
    journal::{AlertSeen, AlertStage, Event, RunbookState, RunbookStep, StepOutcome},
    probe::ProbeLive,
    scenario::types::ProbeState,
};

fn plan() -> Plan {
    let step = |path: &str, title: &str, spec: serde_json::Value, fault: Option<u32>| serde_json::json!({"path": path, "title": title, "spec": spec, "fault": fault, "undo": null, "touches": [], "runbookText": null, "children": []});
    serde_json::from_value(serde_json::json!({
        "version": 1, "name": "lose-database-primary", "summary": "", "scenarioSha256": "", "parameters": {}, "environment": "e",
        "place": {"clusters": {"c": {"uid": "u"}}}, "clusterUid": "u", "clusterName": "staging-eu", "seed": 42, "limits": {},
        "targets": {}, "probes": {}, "steadyState": null,
        "steps": [
            step("1", "lose the primary", serde_json::json!({"inject": {"freeze": {"target": "primary"}}}), Some(0)),
            step("2", "checkout is back", serde_json::json!({"waitFor": {"probe": "checkout", "state": "good", "timeout": "5m"}}), None),
            step("3", "rejoin", serde_json::json!({"runbook": {"file": "r.md"}}), None),
        ],
        "objectives": [
            {"name": "recoveryTime of checkout", "spec": {"recoveryTime": {"probe": "checkout", "after": "lose the primary", "within": "1m", "stableFor": "10s"}}},
            {"name": "detection", "spec": {"detectionTime": {"alert": "paged", "after": "lose the primary", "within": "20s"}}},
            {"name": "rejoin in time", "spec": {"runbook": {"step": "rejoin", "within": "5m"}}},
            {"name": "no write lost", "spec": {"dataLoss": {"ledger": "orders", "writes": 0}}},
        ],
        "abortIf": [], "leases": [], "scope": {"namespaces": [], "nodes": []}, "warnings": [], "rbac": [], "expected": ["0s", "0s"]
    }))
    .unwrap()
}

/// A stamp this many seconds after the drill began.
fn at(secs: i64) -> Stamp {
    Stamp {
        clock: Clock::host_as("runner").id().clone(),
        mono_us: 1_000_000 * (1000 + secs),
        wall_us: 1_763_823_600_000_000 + secs * 1_000_000,
    }
}

fn record(secs: i64, event: Event) -> Record {
    Record { seq: 0, prev: String::new(), at: at(secs), event }
}

fn started() -> Event {
    Event::Started { drill: "d".to_owned(), plan: Box::new(plan()), by: "ann@box".to_owned(), version: String::new(), sandbox: false }
}

fn board(probes: &[(&str, Option<ProbeState>, &str)]) -> Board {
    let live = |state: &Option<ProbeState>, detail: &str| ProbeLive {
        state: *state,
        since: at(0),
        last_complete: at(0),
        count: 1,
        detail: detail.to_owned(),
    };
    Board(probes.iter().map(|(name, state, detail)| ((*name).to_owned(), live(state, detail))).collect::<BTreeMap<_, _>>())
}

fn text(screen: &Screen, asked: &[Question], secs: i64, width: usize) -> String {
    let lines = screen.lines(asked, at(secs).mono_us, width);
    for line in &lines {
        let count: usize = line.iter().map(|(_, t)| t.chars().count()).sum();
        assert!(count <= width, "{count} > {width}: {line:?}");
    }
    lines.into_iter().map(|l| l.into_iter().map(|(_, t)| t).collect::<String>().trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A drill 25 s into its outage.
fn outage() -> Screen {
    let mut screen = Screen::new(Arc::new(plan()), "lose-database-primary-20261122".to_owned(), false);
    screen.record(&record(0, started()));
    screen.board(&board(&[("checkout", Some(ProbeState::Good), "200"), ("leader", None, "")]), at(1).mono_us);
    screen.record(&record(10, Event::StepStarted { step: "1".to_owned(), start: at(10) }));
    screen.record(&record(10, Event::Injected { fault: 0, start: at(10), end: at(10) }));
    screen.board(
        &board(&[("checkout", Some(ProbeState::Bad), "no answer within 200ms"), ("leader", Some(ProbeState::Unknown), "")]),
        at(11).mono_us,
    );
    screen.record(&record(
        12,
        Event::StepEnded { step: "1".to_owned(), outcome: StepOutcome::Succeeded, detail: String::new(), end: at(12) },
    ));
    screen.record(&record(12, Event::StepStarted { step: "2".to_owned(), start: at(12) }));
    let seen = AlertSeen {
        probe: "paged".to_owned(),
        stage: AlertStage::Received,
        fingerprint: String::new(),
        after: at(18),
        before: at(18),
        labels: BTreeMap::new(),
        detail: String::new(),
    };
    screen.record(&record(18, Event::Alert(seen)));
    screen
}

#[test]
fn an_outage_on_a_narrow_terminal() {
    let expected = "\
0:35 · lose-database-primary-20261122 · staging-eu · seed 42
▶ 2/3 checkout is back  0:23 of 5m
probes
✗ checkout               bad       0:24  no answer within 2…
? leader                 unknown   0:24
objectives
  recoveryTime of check…   25.0s of 1m ━━━━━━┄┄┄┄┄┄┄┄ down
  detection                 8.0s of 20s ━━━━━┄┄┄┄┄┄┄┄ done
  rejoin in time         not started
  no write lost          judged at the end";
    assert_eq!(text(&outage(), &[], 35, 60), expected);
}

#[test]
fn back_again_stable_and_over_target() {
    let mut screen = outage();
    let changes = screen.board(&board(&[("checkout", Some(ProbeState::Good), "200")]), at(31).mono_us);
    assert_eq!(changes, [("checkout".to_owned(), Tone::Good, "probe checkout is good: 200".to_owned())]);
    assert!(text(&screen, &[], 33, 100).contains("good again, 0:02 of 10s"), "{}", text(&screen, &[], 33, 100));
    assert!(text(&screen, &[], 42, 100).contains("21.0s of 1m") && text(&screen, &[], 42, 100).contains("recovered"));
    // An outage that comes later is another one: the clock stays.
    screen.board(&board(&[("checkout", Some(ProbeState::Bad), "500")]), at(50).mono_us);
    let later = text(&screen, &[], 60, 100);
    assert!(later.contains("21.0s of 1m") && later.contains("recovered") && later.contains("✗ checkout"), "{later}");
    let late = outage();
    let shown = text(&late, &[], 90, 100);
    assert!(shown.contains("1:20 of 1m") && shown.contains("over target, down"), "{shown}");
    assert!(late.lines(&[], at(90).mono_us, 100).iter().any(|l| l.iter().any(|(tone, t)| *tone == Tone::Bad && t.contains("over target"))));
}

#[test]
fn a_person_is_asked_and_a_runbooks_step_runs() {
    let mut screen = outage();
    screen.record(&record(40, Event::StepStarted { step: "3".to_owned(), start: at(40) }));
    let step = RunbookStep {
        step: "3".to_owned(),
        index: 1,
        title: "Rewind".to_owned(),
        attempt: 1,
        state: RunbookState::Started,
        within_us: Some(300_000_000),
        detail: String::new(),
        at: at(45),
    };
    screen.record(&record(45, Event::RunbookStep(step)));
    let asked = Question { step: "3#1".to_owned(), text: "Tell\u{1b}[2J support".to_owned(), failed_step: false };
    let shown = text(&screen, &[asked], 50, 60);
    assert!(
        shown.contains("  ▸ 2. Rewind  0:05 of 5m")
            && shown.contains("? 3#1 Tell [2J support\n  type `done` or `no` (or elsewhere: firedrill ack 3#1)"),
        "{shown}"
    );
}

#[test]
fn every_width_fits() {
    let screen = outage();
    for width in 20..200 {
        text(&screen, &[], 35, width);
    }
}

#[test]
fn the_sandbox_is_told_first_and_nobody_is_asked_to_type() {
    let mut screen = Screen::new(Arc::new(plan()), "lose-database-primary-20261122-a-long-name".to_owned(), true);
    screen.record(&record(0, started()));
    let question = |failed_step| Question { step: "3#1".to_owned(), text: "Tell people".to_owned(), failed_step };
    let shown = text(&screen, &[question(false), question(true)], 5, 40);
    assert!(shown.starts_with("0:05 · SANDBOX · "), "{shown}");
    assert!(shown.contains("a simulated participant answers") && shown.contains("nobody mends anything"), "{shown}");
    assert!(!shown.contains("type ") && !shown.contains("firedrill ack"), "{shown}");
}

#[test]
fn names_have_more_room_on_a_wide_terminal() {
    let longest = plan().objectives.iter().map(|o| o.name.clone()).max_by_key(|name| name.chars().count()).unwrap();
    assert!(longest.chars().count() > 22, "{longest}");
    assert!(!text(&outage(), &[], 35, 60).contains(&longest));
    assert!(text(&outage(), &[], 35, 140).contains(&longest), "{}", text(&outage(), &[], 35, 140));
}

#[test]
fn lines_for_a_log_say_what_and_where() {
    let plan = plan();
    let line = |event: &Event| line::of(&plan, event).map(|(_, text)| text);
    assert_eq!(line(&Event::StepStarted { step: "1".to_owned(), start: at(0) }).as_deref(), Some("step 1 lose the primary"));
    assert_eq!(line(&Event::Injected { fault: 0, start: at(0), end: at(0) }).as_deref(), Some("fault of step 1 lose the primary injected"));
    assert_eq!(line(&Event::Disarmed { left: vec!["Pod a/b".to_owned()] }).as_deref(), Some("left behind: Pod a/b"));
    let failed = Event::StepEnded { step: "2".to_owned(), outcome: StepOutcome::TimedOut, detail: "first\nsecond".to_owned(), end: at(0) };
    assert_eq!(line(&failed).as_deref(), Some("step 2 checkout is back timed out: first"));
}

#[tokio::test(start_paused = true)]
async fn a_view_ends_when_it_is_told_and_when_the_journal_ends() {
    for close in [true, false] {
        let (records, receiver) = tokio::sync::broadcast::channel(4);
        let (_board, board) = watch::channel(Board::default());
        let (_asked, asked) = watch::channel(Vec::new());
        let live = Live::start(Arc::new(plan()), "d", receiver, board, asked, Mode::Quiet, false);
        records.send(record(0, started())).unwrap();
        if close {
            drop(records);
        }
        let begin = Instant::now();
        live.finish().await;
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_flaps_does_not_drown_the_rest() {
    let mut flaps = Flaps::default();
    let mut said = Vec::new();
    let line = |i: u32| {
        if i.is_multiple_of(2) { (Tone::Good, "probe web is good".to_owned()) } else { (Tone::Warn, "probe web is bad".to_owned()) }
    };
    // Ten minutes, two changes a second.
    for i in 0..1200 {
        let (tone, text) = line(i);
        said.extend(flaps.changed("web", tone, text));
        tokio::time::advance(Duration::from_millis(500)).await;
        said.extend(flaps.due(false));
    }
    let texts: Vec<&str> = said.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts.len() < 12, "{texts:#?}");
    assert_eq!(texts[..2], ["probe web is good", "probe web is bad"]);
    assert_eq!(texts[4], "probe web changed 16 times more in 10s (it flaps). Now: probe web is bad");
    assert_eq!(texts[5], "probe web changed 40 times more in 20s (it flaps). Now: probe web is bad");
    // Every change was said or counted, those at the end as well.
    said.extend(flaps.due(true));
    let more: u32 = said.iter().filter_map(|(_, t)| t.strip_prefix("probe web changed ")?.split(' ').next()?.parse::<u32>().ok()).sum();
    assert_eq!(more + 4, 1200);
    // Others are said at once, and so is this one after a quiet time.
    assert!(flaps.changed("db", Tone::Warn, "probe db is bad".to_owned()).is_some());
    tokio::time::advance(Duration::from_secs(200)).await;
    assert!(flaps.due(false).is_empty());
    assert!(flaps.changed("web", Tone::Warn, "probe web is bad".to_owned()).is_some());
}

#[test]
fn a_long_question_is_whole_and_says_what_to_type() {
    let screen = outage();
    let words = "Tell support that the backup of tonight is missing and that nobody is to restart anything";
    let asked = Question { step: "4".to_owned(), text: words.to_owned(), failed_step: true };
    let shown = text(&screen, &[asked], 35, 60);
    assert!(
        shown
            .contains("? 4 Tell support that the backup of tonight is missing and\n    that nobody is to restart anything\n  type `retry`"),
        "{shown}"
    );
    assert_eq!(screen::untitled("hold 3", "3"), "hold");
    assert_eq!(screen::untitled("wait for node3", "3"), "wait for node3");
}
