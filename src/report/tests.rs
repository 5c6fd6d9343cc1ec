//! Tests of the reports: one drill in all forms, compared with what is kept beside this file.

use super::*;
use crate::{
    clock::{ClockId, Stamp},
    journal::*,
    scenario::types::*,
    verdict::tests::kit::{Tape, at},
};
use ProbeState::{Bad, Good};

/// A drill with something of everything: a failover in time, a page that is too late, two lost writes, a runbook with a retry,
/// a deviation and text that no format may take for its own.
fn drill() -> Vec<Record> {
    let mut t = Tape::new();
    t.rto(3_000, 5_000);
    t.probe("paged", 1_000, |p| p.alert = Some(AlertProbe { name: "OrdersDown".into(), ..AlertProbe::default() }));
    t.probe("orders", 20, |p| p.ledger = Some(LedgerProbe::default()));
    t.step("rejoin | the <old> primary", |s| s.runbook = Some(Runbook::default()));
    t.objective("paged in time", |o| {
        o.detection_time = Some(DetectionTime { alert: "paged".into(), after: "break it".into(), within: Dur::from_secs(2) });
    });
    t.objective("nothing lost", |o| {
        o.data_loss = Some(DataLoss { ledger: "orders".into(), writes: Some(0), within: None, after: None });
    });
    t.objective("runbook", |o| {
        let step = "rejoin | the <old> primary".into();
        o.runbook = Some(RunbookObjective { step, within: Dur::from_secs(4), steps: [("start".to_owned(), Dur::from_secs(1))].into() });
    });
    t.objective("copies agree", |o| {
        o.check = Some(Check { probe: "mirror".into(), state: Good });
    });
    t.push(0, Event::Confirmed { by: "ann@laptop, by --yes".into() });
    t.push(10, Event::LeasesTaken { leases: vec!["ns-shop".into()] });
    t.push(20, Event::ClockLinked { clock: at(0).clock, offset_us: 12, error_us: 300, wall_offset_us: 3_600_000_000 });
    t.push(30, Event::Armed { what: "observer".into(), pod: "firedrill/observer-x7".into() });
    let seen = |stage, after: i64, before: i64| {
        let labels = [("alertname".to_owned(), "OrdersDown".to_owned())].into();
        Event::Alert(AlertSeen {
            probe: "paged".into(),
            stage,
            fingerprint: "f1".into(),
            after: at(after),
            before: at(before),
            labels,
            detail: "severity=page".into(),
        })
    };
    t.push(500, seen(AlertStage::Absent, 400, 500));
    t.run("web", Good, 0, 900, RunEnd::Cut);
    t.run("orders", Good, 0, 900, RunEnd::Cut);
    t.break_it(1_000, 1_020);
    t.run("web", Bad, 1_100, 3_300, RunEnd::Change);
    t.push(4_000, seen(AlertStage::Firing, 3_000, 4_000));
    t.push(4_500, seen(AlertStage::Received, 4_400, 4_500));
    t.run("web", Good, 3_400, 10_900, RunEnd::Cut);
    t.push(5_000, Event::StepStarted { step: "3".into(), start: at(5_000) });
    let item = |attempt, state, ms, detail: &str| {
        let (step, title, detail) = ("3".to_owned(), "start".to_owned(), detail.to_owned());
        Event::RunbookStep(RunbookStep { step, index: 0, title, attempt, state, within_us: None, detail, at: at(ms) })
    };
    t.push(5_000, item(1, RunbookState::Started, 5_000, ""));
    t.push(6_000, item(1, RunbookState::Failed, 6_000, "exit code 1"));
    t.push(6_500, item(2, RunbookState::Started, 6_500, ""));
    let remark = "said <script>alert(1)</script> | ]]>".to_owned();
    t.push(6_800, Event::Acknowledged { step: "3#1".into(), by: "bob".into(), refused: false, remark, at: at(6_800) });
    t.push(7_000, item(2, RunbookState::Succeeded, 7_000, "ok\nrejoined\u{1b}[31m"));
    t.push(7_000, Event::Deviation { detail: "`start` was tried twice".into() });
    t.push(7_100, Event::StepEnded { step: "3".into(), outcome: StepOutcome::Succeeded, detail: String::new(), end: at(7_100) });
    t.steps_ended(10_000);
    t.revert(11_000, RevertResult::Reverted);
    t.run("web", Good, 11_000, 19_900, RunEnd::End);
    let write = |n: u64, ms| LedgerWrite { n, send: at(ms), ack: at(ms + 5) };
    let reading = Reading::Ledger(LedgerReading {
        attempted: 990,
        ok: 980,
        failed: 3,
        unknown: 7,
        lost: vec![write(48, 960), write(49, 980)],
        last_kept: Some(write(47, 940)),
        copies: vec![LedgerCopy { name: "primary".into(), caught_up: true, missing: 2, detail: String::new() }],
        samples: "samples/orders.csv".into(),
        ..LedgerReading::default()
    });
    t.push(19_000, Event::Reading { of: "orders".into(), begin: at(18_500), end: at(19_000), reading });
    t.end(20_000);
    t.records()
}

#[test]
fn the_reports_say_what_they_said_before() {
    let records = drill();
    let report = collect(&records).unwrap();
    insta::assert_snapshot!("terminal_100", terminal(&records, 100, false));
    insta::assert_snapshot!("terminal_60", terminal(&records, 60, false));
    insta::assert_snapshot!("report_md", markdown::render(&report));
    insta::assert_snapshot!("junit_xml", junit::render(&report).unwrap());
    insta::assert_snapshot!("report_json", json::render(&report));
}

#[test]
fn the_terminal_summary_keeps_its_width_and_is_plain_unless_asked() {
    let records = drill();
    for width in [60, 80, 100] {
        for line in terminal(&records, width, false).lines() {
            let columns = textwrap::core::display_width(line);
            // The journal's name in the first line is not broken.
            assert!(columns <= width, "{columns} columns at {width}: {line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        }
    }
    // A word that is longer than a line is not broken: nobody could copy it.
    let mut t = Tape::new();
    let long = format!("/evidence/{}", "a-long-name/".repeat(12));
    t.push(100, Event::Deviation { detail: format!("kept in {long} for now") });
    assert!(terminal(&t.records(), 60, false).lines().any(|line| line.trim() == long), "{}", terminal(&t.records(), 60, false));
    let coloured = terminal(&records, 80, true);
    assert!(coloured.contains("\u{1b}["));
}

#[test]
fn the_committed_schema_is_the_one_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema/report-v1.json");
    let now = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("FIREDRILL_BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(
        kept == now,
        "docs/schema/report-v1.json is out of date: run `FIREDRILL_BLESS=1 cargo test --lib report::` and look at the change"
    );
}

#[test]
fn a_report_reads_back() {
    let report = collect(&drill()).unwrap();
    let again: Report = serde_json::from_str(&json::render(&report)).unwrap();
    assert_eq!(report, again);
}

#[test]
fn an_objective_is_a_test_case_and_only_met_passes() {
    let xml = junit::render(&collect(&drill()).unwrap()).unwrap();
    let back = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    let suite = &back.test_suites[0];
    // rto met; paged and lost missed; runbook missed by its step; copies never watched; the whole is fine but for them; clean.
    assert_eq!((suite.tests, suite.failures, suite.errors), (7, 3, 1), "{xml}");
    let mut left = drill();
    for record in &mut left {
        if let Event::Ended { clean, .. } = &mut record.event {
            *clean = false;
        }
    }
    let xml = junit::render(&collect(&left).unwrap()).unwrap();
    let back = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    assert_eq!(back.test_suites[0].errors, 2, "{xml}");
}

#[test]
fn exit_codes_are_those_of_the_docs() {
    use crate::verdict::judge;
    let docs = include_str!("../../docs/exit-codes.md");
    for exit in [Exit::Passed, Exit::Failed, Exit::Usage, Exit::Inconclusive, Exit::Refused, Exit::NotClean] {
        assert!(docs.contains(&format!("| {} |", exit.code())), "{exit:?}");
    }
    let mut verdict = judge(&drill());
    for (drill, code) in [
        (DrillVerdict::Passed, Exit::Passed),
        (DrillVerdict::Failed, Exit::Failed),
        (DrillVerdict::Inconclusive, Exit::Inconclusive),
        (DrillVerdict::Aborted, Exit::Refused),
    ] {
        verdict.drill = drill;
        verdict.clean = true;
        assert_eq!(exit(&verdict), code);
        verdict.clean = false;
        assert_eq!(exit(&verdict), Exit::NotClean);
    }
}

#[test]
fn the_folder_is_whole_and_its_sums_are_right() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("samples")).unwrap();
    std::fs::write(dir.path().join("samples/web.csv"), "1,2\n").unwrap();
    write(dir.path(), &drill()).unwrap();
    let sums = std::fs::read_to_string(dir.path().join("SHA256SUMS")).unwrap();
    let names: Vec<_> = sums.lines().map(|l| l.split("  ").nth(1).unwrap()).collect();
    assert_eq!(names, ["junit.xml", "report.json", "report.md", "samples/web.csv"]);
    assert!(sums.contains(&format!("{}  samples/web.csv", line_hash("1,2\n"))));
    // The same again, byte for byte, and nothing half-written stays.
    write(dir.path(), &drill()).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("SHA256SUMS")).unwrap(), sums);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn a_report_that_cannot_be_written_says_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = write(&file, &drill()).unwrap_err();
    assert!(error.to_string().contains("failed to make the folder"), "{error}");
    // /dev/full is a disk with no space left.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").and_then(|mut f| std::io::Write::write_all(&mut f, b"x"));
    let error = ReportError::io("write", std::path::Path::new("report.md"), full.unwrap_err());
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(help.contains("the disk is full"), "{help}");
    assert!(matches!(write(dir.path(), &[]), Err(ReportError::NoPlan)));
}

#[test]
fn what_happened_on_other_clocks_is_in_its_place_and_what_was_never_compared_has_none() {
    let hour = 3_600_000_000;
    let mut t = Tape::new();
    let note = |text: &str| Event::Note { text: text.to_owned() };
    t.push(10, Event::ClockLinked { clock: at(0).clock, offset_us: 0, error_us: 0, wall_offset_us: 0 });
    let link = Event::ClockLinked { clock: ClockId("observer".into()), offset_us: hour, error_us: 300, wall_offset_us: hour };
    t.push(20, link);
    t.push(1_000, note("before"));
    // Its clocks, both of them, are an hour ahead.
    let of = |clock: &str, ms: i64| Stamp { clock: ClockId(clock.into()), mono_us: at(ms).mono_us + hour, wall_us: at(ms).wall_us + hour };
    let seen = |clock: &str, detail: &str| {
        let (after, before) = (of(clock, 1_900), of(clock, 2_000));
        let (probe, fingerprint) = ("paged".to_owned(), String::new());
        Event::Alert(AlertSeen {
            probe,
            stage: AlertStage::Firing,
            fingerprint,
            after,
            before,
            labels: [].into(),
            detail: detail.to_owned(),
        })
    };
    t.push(2_500, seen("observer", "by the observer"));
    t.push(3_000, note("after"));
    let told = |t: &Tape| {
        let report = collect(&t.records()).unwrap();
        let told = report.timeline.into_iter().filter(|e| ["note:", "by the"].iter().any(|word| e.what.contains(word)));
        told.map(|e| (e.offset_us, e.what)).collect::<Vec<_>>()
    };
    let found = told(&t);
    let offsets: Vec<_> = found.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [Some(1_000_000), Some(2_000_000), Some(3_000_000)], "{found:?}");
    t.push(3_500, seen("stranger", "by the stranger"));
    let found = told(&t);
    assert!(found.iter().any(|(offset, what)| offset.is_none() && what.contains("stranger")), "{found:?}");
}

#[test]
fn what_is_said_again_and_again_is_one_line_with_how_often_and_when() {
    let mut t = Tape::new();
    for (n, ms) in (2_000..9_000).step_by(1_000).enumerate() {
        let detail = format!("probe `paged`: Prometheus could not be asked: no answer within {n}.5s from 10.0.0.{n}:9090");
        t.push(ms, Event::Deviation { detail });
        let detail = format!("runbook step `start` was tried again by ann after attempt {n}");
        t.push(ms, Event::Deviation { detail });
    }
    t.push(9_500, Event::Deviation { detail: "left out".into() });
    t.push(9_700, Event::Deviation { detail: "left out".into() });
    let records = t.records();
    let report = collect(&records).unwrap();
    assert_eq!(report.deviations.len(), 9, "{:#?}", report.deviations);
    let first = "probe `paged`: Prometheus could not be asked: no answer within 0.5s from 10.0.0.0:9090";
    assert_eq!(report.deviations[0], format!("{first} (7 times, from 2s to 8s after the start)"));
    // What people did is said each time, for its numbers count.
    assert_eq!(report.deviations[7], "runbook step `start` was tried again by ann after attempt 6");
    assert_eq!(report.deviations[8], "left out (2 times, from 9.5s to 9.7s after the start)");
    let asked: Vec<_> = report.timeline.iter().filter(|e| e.what.contains("Prometheus")).collect();
    assert_eq!((asked.len(), asked[0].offset_us, asked[1].offset_us), (2, Some(2_000_000), Some(8_000_000)), "{asked:#?}");
    assert!(asked[1].what.ends_with("(the last of 7 times)"), "{asked:#?}");
    for form in [terminal(&records, 200, false), markdown::render(&report)] {
        assert_eq!(form.matches("7 times, from").count(), 1, "{form}");
    }
}
