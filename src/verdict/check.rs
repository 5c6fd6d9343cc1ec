//! `check`: a probe's state at the end of the steps.

use super::{Judged, Outcome, facts::Facts, micros, series::Series};
use crate::scenario::types::{Check, ProbeState};

pub(super) fn judge(facts: &Facts<'_>, spec: &Check) -> Judged {
    let judged = Judged::against(format!("{} at the end", spec.state));
    let Some(over) = facts.steps_ended else { return judged.inconclusive("the steps never ended") };
    let series = Series::of(facts, &spec.probe);
    let clocks = &facts.clocks;
    let Some(run) = series.runs.iter().rfind(|r| clocks.surely_after(over, &r.first_complete)) else {
        return judged.inconclusive(format!("`{}` gave no sample before the steps ended", spec.probe));
    };
    let timeout = facts.plan.probes.get(&spec.probe).map_or(0, |p| micros(p.timeout));
    let stale = clocks.between(over, &run.last_complete).lower.is_none_or(|d| d > series.hole.saturating_add(timeout));
    if stale {
        return judged.inconclusive(format!("`{}` was not observed when the steps ended", spec.probe));
    }
    let seen = format!("`{}` was {} at the end of the steps: {}", spec.probe, run.state, run.detail);
    match run.state {
        state if state == spec.state => judged.say(Outcome::Met, seen),
        ProbeState::Unknown => judged.inconclusive(seen),
        ProbeState::Good | ProbeState::Bad => judged.say(Outcome::Missed, seen),
    }
}
