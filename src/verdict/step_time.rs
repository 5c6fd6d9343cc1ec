//! `stepTime`: a step was done in time.

use super::{Bracket, Judged, Outcome, facts::Facts, micros};
use crate::{journal::StepOutcome, scenario::types::StepTime};

pub(super) fn judge(facts: &Facts<'_>, spec: &StepTime) -> Judged {
    let mut judged = Judged::within(spec.within);
    let target = micros(spec.within);
    let from = match &spec.after {
        Some(after) => facts.origin(Some(after)),
        None => facts.step_named(&spec.step).and_then(|(_, s)| {
            let start = s.started.ok_or_else(|| format!("the step `{}` was never begun", spec.step))?;
            Ok(super::facts::Origin { start, effective: start, fault: None })
        }),
    };
    let from = match from {
        Ok(from) => from,
        Err(why) => return judged.inconclusive(why),
    };
    // From an injection's first change: a person's watch does not wait for the proof.
    let since = |at| facts.clocks.between(at, from.start).not_negative();
    let done = facts.plan.step_named(&spec.step).and_then(|s| facts.steps.get(s.path.as_str())?.ended);
    let Some((end, how, detail)) = done else {
        let waited = Bracket { lower: facts.ended.and_then(|(at, _)| since(at).lower), upper: None }.not_negative();
        judged.measured = Some(waited);
        let outcome = waited.at_most(target);
        return judged.say(outcome, format!("the step `{}` was never done", spec.step));
    };
    let took = since(end);
    let shown = took.as_time();
    match how {
        StepOutcome::Succeeded => {
            judged.measured = Some(took);
            match took.at_most(target) {
                Outcome::Met => judged.say(Outcome::Met, format!("`{}` was done after {shown}", spec.step)),
                Outcome::Missed => judged.say(Outcome::Missed, format!("`{}` was done only after {shown}", spec.step)),
                Outcome::Inconclusive => judged.inconclusive("its start and its end are on clocks that were never linked"),
            }
        }
        StepOutcome::Failed | StepOutcome::TimedOut => {
            let why = format!("`{}` was not done after {shown}: {}", spec.step, detail.lines().next().unwrap_or_default());
            judged.measured(Bracket { upper: None, ..took }).say(Outcome::Missed, why)
        }
        StepOutcome::Aborted => {
            let waited = Bracket { upper: None, ..took };
            let outcome = waited.at_most(target);
            judged.measured(waited).say(outcome, format!("`{}` was given up after {shown}, because the drill was aborted", spec.step))
        }
    }
}
