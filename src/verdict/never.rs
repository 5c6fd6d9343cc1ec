//! `never`: a probe was never in a state.

use super::{Judged, Outcome, Unit, facts::Facts, series::Series};
use crate::{
    journal::ProbeRun,
    scenario::types::{Never, ProbeState},
};

pub(super) fn judge(facts: &Facts<'_>, spec: &Never) -> Judged {
    let judged = Judged::against(format!("never {}", spec.state));
    let origin = match &spec.after {
        None => None,
        Some(after) => match facts.origin(Some(after)) {
            Ok(origin) => Some(origin),
            Err(why) => return judged.inconclusive(why),
        },
    };
    let clocks = &facts.clocks;
    let start = origin.map_or(facts.begin, |o| o.start);
    let series = Series::of(facts, &spec.probe);
    let over = facts.steps_ended.or(facts.ended.map(|e| e.0));
    let within = |r: &&ProbeRun| clocks.maybe_after(&r.last_complete, start) && over.is_none_or(|o| !clocks.surely_after(&r.first_send, o));
    let runs: Vec<&ProbeRun> = series.runs.iter().copied().filter(within).collect();
    if let Some(hit) = runs.iter().find(|r| r.state == spec.state && clocks.surely_after(&r.last_send, start)) {
        let when = clocks.between(&hit.first_send, start);
        let mut judged = judged;
        judged.part("first seen after", when.to(clocks.between(&hit.first_complete, start)).not_negative(), Unit::Microseconds);
        return judged.say(Outcome::Missed, format!("`{}` was {}: {}", spec.probe, spec.state, hit.detail));
    }
    if runs.iter().any(|r| r.state == spec.state) {
        return judged.inconclusive(format!("`{}` was {} at about the time the window began", spec.probe, spec.state));
    }
    let known: Vec<_> = runs.iter().copied().filter(|r| r.state != ProbeState::Unknown || spec.state == ProbeState::Unknown).collect();
    let (Some(first), Some(last)) = (known.first(), known.last()) else {
        return judged.inconclusive(format!("`{}` gave no sample in that time", spec.probe));
    };
    let hole = known.windows(2).any(|w| matches!(w, [a, b] if !series.adjacent(a, b)));
    if hole {
        return judged.inconclusive(format!("`{}` was not observed all the time, so it may have been {} unseen", spec.probe, spec.state));
    }
    let Some(over) = over else { return judged.inconclusive("the steps never ended") };
    // Without an origin the probe counts from its own beginning.
    let late = origin.is_some() && clocks.between(&first.first_send, start).lower.is_none_or(|d| d > series.hole);
    if late || clocks.between(over, &last.last_complete).lower.is_none_or(|d| d > series.hole) {
        return judged.inconclusive(format!("`{}` was not observed from beginning to end of that time", spec.probe));
    }
    if let Some((_, why)) = facts.hold_broken(origin.and_then(|o| o.fault)) {
        return judged.inconclusive(why);
    }
    judged.say(
        Outcome::Met,
        format!("`{}` was never {} in any of {} samples", spec.probe, spec.state, known.iter().map(|r| r.count).sum::<u64>()),
    )
}
