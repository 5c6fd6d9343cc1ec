//! `runbook`: a runbook's duration, whole and per step.

use super::{
    Bracket, Judged, Outcome, Unit,
    facts::{Facts, StepFacts},
    micros, time,
};
use crate::{
    journal::{RunbookState, RunbookStep, StepOutcome},
    scenario::types::RunbookObjective,
};

pub(super) fn judge(facts: &Facts<'_>, spec: &RunbookObjective) -> Judged {
    let mut judged = Judged::within(spec.within);
    let (step, done) = match facts.step_named(&spec.step) {
        Ok(found) => found,
        Err(why) => return judged.inconclusive(why),
    };
    if step.spec.runbook.is_none() {
        return judged.inconclusive(format!("the step `{}` follows no runbook", spec.step));
    }
    let items: Vec<&RunbookStep> = facts.runbook.iter().copied().filter(|r| r.step == step.path).collect();
    let mut outcome = whole(facts, spec, done, &mut judged);
    let mut reasons: Vec<String> = std::mem::take(&mut judged.reason).split_terminator('\n').map(str::to_owned).collect();
    let mut titles: Vec<&str> = Vec::new();
    for item in &items {
        if !titles.contains(&item.title.as_str()) {
            titles.push(&item.title);
        }
    }
    for title in &titles {
        let part = one_step(facts, &items, title, spec);
        if let Some(o) = part.outcome.filter(|o| *o != Outcome::Met) {
            reasons.push(format!("`{title}` {}", part.detail));
            outcome = outcome.max(o);
        }
        judged.parts.push(part);
    }
    for wanted in spec.steps.keys().filter(|w| !titles.contains(&w.as_str())) {
        reasons.push(format!("its step `{wanted}` was never begun"));
        outcome = outcome.max(Outcome::Inconclusive);
    }
    // A file's runbook of which nothing was done proves nothing.
    let nothing_done = !items.iter().any(|i| i.state == RunbookState::Succeeded);
    if outcome == Outcome::Met && step.runbook_text.is_some() && nothing_done {
        return judged.inconclusive("no step of the runbook was done");
    }
    let skipped = titles.iter().filter(|t| last_state(&items, t) == Some(RunbookState::Skipped)).count();
    if skipped > 0 {
        reasons.push(format!("{skipped} skipped: a deviation"));
    }
    judged.say(outcome, reasons.join("; "))
}

/// The runbook as a whole; its reason is left in `judged`.
fn whole(facts: &Facts<'_>, spec: &RunbookObjective, done: &StepFacts<'_>, judged: &mut Judged) -> Outcome {
    let Some(start) = done.started else {
        judged.reason = "it was never begun".to_owned();
        return Outcome::Inconclusive;
    };
    let target = micros(spec.within);
    let Some((end, how, detail)) = done.ended else {
        let lower = facts.ended.and_then(|(at, _)| facts.clocks.between(at, start).lower);
        let took = Bracket { lower, upper: None }.not_negative();
        judged.measured = Some(took);
        judged.reason = "it never ended".to_owned();
        return took.at_most(target);
    };
    let took = facts.clocks.between(end, start).not_negative();
    judged.measured = Some(took);
    let shown = took.as_time();
    match how {
        StepOutcome::Succeeded => {
            let outcome = took.at_most(target);
            judged.reason = match outcome {
                Outcome::Met => format!("followed in {shown}"),
                Outcome::Missed => format!("followed, but in {shown}"),
                Outcome::Inconclusive => "its start and its end are on clocks that were never linked".to_owned(),
            };
            outcome
        }
        StepOutcome::Failed | StepOutcome::TimedOut => {
            let word = if how == StepOutcome::Failed { "failed" } else { "was not done in time" };
            judged.reason = format!("it {word} after {shown}: {}", detail.lines().next().unwrap_or_default());
            Outcome::Missed
        }
        StepOutcome::Aborted => {
            judged.measured = Some(Bracket { lower: took.lower, upper: None });
            judged.reason = format!("given up after {shown}, because the drill was aborted");
            Bracket { lower: took.lower, upper: None }.at_most(target)
        }
    }
}

fn last_state(items: &[&RunbookStep], title: &str) -> Option<RunbookState> {
    items.iter().rfind(|i| i.title == title).map(|i| i.state)
}

/// One step of the runbook, from its first start to its last end, tries and all. Only one with a target of its own has an
/// outcome.
fn one_step(facts: &Facts<'_>, items: &[&RunbookStep], title: &str, spec: &RunbookObjective) -> super::Part {
    let of: Vec<_> = items.iter().filter(|i| i.title == title).collect();
    let start = of.iter().find(|i| i.state == RunbookState::Started).or(of.first());
    let last = of.last();
    let took = match (start, last) {
        (Some(s), Some(e)) if e.state != RunbookState::Started => facts.clocks.between(&e.at, &s.at).not_negative(),
        _ => Bracket::at_least(0),
    };
    let state = last.map_or(RunbookState::Started, |l| l.state);
    let tries = of.iter().map(|i| i.attempt).max().unwrap_or(1);
    let mut detail = match state {
        RunbookState::Started => "never ended".to_owned(),
        RunbookState::Succeeded => format!("took {}", took.as_time()),
        RunbookState::Failed => "failed".to_owned(),
        RunbookState::Skipped => "was skipped".to_owned(),
        RunbookState::TimedOut => format!("was not done within its time, {}", took.as_time()),
    };
    let outcome = spec.steps.get(title).map(|target| {
        detail.push_str(&format!(", target ≤ {}", time(micros(*target))));
        match state {
            RunbookState::Succeeded => took.at_most(micros(*target)),
            RunbookState::Failed | RunbookState::TimedOut => Outcome::Missed,
            RunbookState::Started | RunbookState::Skipped => Outcome::Inconclusive,
        }
    });
    if tries > 1 {
        detail.push_str(&format!(", in {tries} tries: a deviation"));
    }
    super::Part { name: title.to_owned(), measured: took, unit: Unit::Microseconds, outcome, detail }
}
