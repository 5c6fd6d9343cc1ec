//! `junit.xml`: an objective is a test case.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report as Xml, TestCase, TestCaseStatus, TestSuite};

use super::{Report, ReportError};
use crate::verdict::{DrillVerdict, ObjectiveVerdict, Outcome, Unit};

/// Missed is a failure; inconclusive is an error, never a pass. Two more cases say whether the drill as a whole holds and
/// whether the cluster is clean, so that every report of a scenario has the same cases.
pub(super) fn render(report: &Report) -> Result<String, ReportError> {
    let mut suite = TestSuite::new(report.scenario.clone());
    for objective in &report.verdict.objectives {
        suite.add_test_case(case(report, objective));
    }
    let verdict = &report.verdict;
    let whole = match verdict.drill {
        _ if verdict.reasons.is_empty() => TestCaseStatus::success(),
        // What is missed is said by its own case.
        DrillVerdict::Passed | DrillVerdict::Failed | DrillVerdict::Inconclusive | DrillVerdict::Aborted => {
            error(&verdict.drill.to_string(), &verdict.reasons.join("; "))
        }
    };
    let clean = if verdict.clean { TestCaseStatus::success() } else { error("not clean", &verdict.unclean.join("; ")) };
    for (name, status) in [("the drill as a whole", whole), ("the cluster is clean", clean)] {
        let mut case = TestCase::new(name, status);
        case.set_classname(report.scenario.clone());
        suite.add_test_case(case);
    }
    suite.add_property(property("drill", &report.drill));
    suite.add_property(property("environment", &report.environment));
    suite.add_property(property("verdict", &verdict.drill.to_string()));
    suite.add_property(property("clean", &verdict.clean.to_string()));
    for stays in &verdict.stays {
        suite.add_property(property("stays", stays));
    }
    suite.add_property(property("seed", &report.seed.to_string()));
    suite.add_property(property("journal.head", &report.journal.head));
    if report.sandbox {
        suite.add_property(property("sandbox", "SANDBOX: not evidence"));
    }
    if let Some(us) = report.duration_us.and_then(|us| u64::try_from(us).ok()) {
        suite.set_time(Duration::from_micros(us));
    }
    let mut xml = Xml::new(if report.sandbox { "firedrill (SANDBOX)" } else { "firedrill" });
    xml.add_test_suite(suite);
    xml.to_string().map_err(|e| ReportError::Junit(e.to_string()))
}

fn property(name: &str, value: &str) -> Property {
    Property::new(name, value)
}

fn error(kind: &str, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_type(kind).set_message(message).set_description(message);
    status
}

fn case(report: &Report, objective: &ObjectiveVerdict) -> TestCase {
    let status = match objective.outcome {
        Outcome::Met => TestCaseStatus::success(),
        Outcome::Missed => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type("missed").set_message(objective.reason.clone()).set_description(text(objective));
            status
        }
        Outcome::Inconclusive => {
            let mut status = error("inconclusive", &objective.reason);
            status.set_description(text(objective));
            status
        }
    };
    let mut case = TestCase::new(objective.name.clone(), status);
    case.set_classname(report.scenario.clone());
    case.add_property(property("kind", &objective.kind));
    case.add_property(property("target", &objective.target));
    if let Some(measured) = objective.measured {
        case.add_property(property("measured", &objective.unit.show(measured)));
        if objective.unit == Unit::Microseconds
            && let Some(upper) = measured.upper.and_then(|u| u64::try_from(u).ok())
        {
            case.set_time(Duration::from_micros(upper));
        }
    }
    case.set_system_out(text(objective));
    case
}

fn text(objective: &ObjectiveVerdict) -> String {
    let mut text = format!("{}: target {}", objective.outcome, objective.target);
    if objective.measured.is_some() {
        text.push_str(&format!(", measured {}", objective.measured_text()));
    }
    text.push_str(&format!("\n{}", objective.reason));
    if let Some(hint) = &objective.hint {
        text.push_str(&format!("\n{hint}"));
    }
    for part in &objective.parts {
        text.push_str(format!("\n  {}: {} {}", part.name, part.unit.show(part.measured), part.detail).trim_end());
    }
    text
}
