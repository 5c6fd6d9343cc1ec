//! `availability`: the share of a window in which a probe was good.

use super::{Bracket, Judged, Outcome, Unit, facts::Facts, hint, micros, series::Series, time};
use crate::{
    clock::Stamp,
    journal::ProbeRun,
    scenario::types::{Availability, ProbeState},
};

/// Parts in a whole.
const WHOLE: i64 = 1_000_000;

pub(super) fn judge(facts: &Facts<'_>, spec: &Availability) -> Judged {
    let mut judged = Judged::against(format!("≥ {}", spec.at_least));
    judged.unit = Unit::PartsPerMillion;
    #[expect(clippy::cast_possible_truncation, reason = "a percentage from 0 to 100, times ten thousand")]
    let target = (spec.at_least.0 * 10_000.0).ceil() as i64;
    judged.target_value = Some(target);
    let origin = match facts.origin(spec.after.as_deref()) {
        Ok(origin) => origin,
        Err(why) => return judged.inconclusive(why),
    };
    let from = facts.clocks.at(origin.start);
    let Some(start) = from.lower.filter(|_| from.width() == Some(0)) else {
        return judged.inconclusive("the window begins on a clock that was never linked to the drill's");
    };
    let end = match (spec.window, facts.steps_ended) {
        (Some(window), _) => Some(start.saturating_add(micros(window))),
        (None, Some(ended)) => facts.clocks.at(ended).lower,
        (None, None) => return judged.inconclusive("the steps never ended, so the window has no end"),
    };
    let Some(end) = end.filter(|e| *e > start) else { return judged.inconclusive("the window is empty or has no known end") };
    let series = Series::of(facts, &spec.probe);
    let known = known(facts, &series, start, end);
    if known.good + known.bad == 0 {
        return judged.inconclusive(format!("`{}` was not observed in the window", spec.probe));
    }
    let length = end - start;
    let share = |us: i64| i64::try_from(i128::from(us) * i128::from(WHOLE) / i128::from(length)).unwrap_or(0);
    // Rounded outwards.
    let measured = Bracket::new(share(known.good), WHOLE - share(known.bad));
    judged.measured = Some(measured);
    judged.part("window", Bracket::exact(length), Unit::Microseconds);
    judged.part("good for", Bracket::new(known.good, length - known.bad), Unit::Microseconds);
    judged.part("unknown", Bracket::exact(length - known.bad - known.good), Unit::Microseconds);
    if let Some((_, why)) = facts.hold_broken(origin.fault) {
        return judged.inconclusive(why);
    }
    let shown = Unit::PartsPerMillion.show(measured);
    match measured.no_less_than(target) {
        Outcome::Inconclusive => {
            judged.hint = hint::cadence(facts, &spec.probe, Bracket::new(known.good, length - known.bad), share_of(target, length));
            let unseen = time(length - known.good - known.bad);
            judged.inconclusive(format!("good for {shown} of the window, of which {unseen} are unknown"))
        }
        outcome => judged.say(outcome, format!("good for {shown} of {}", time(length))),
    }
}

fn share_of(ppm: i64, length: i64) -> i64 {
    i64::try_from(i128::from(ppm) * i128::from(length) / i128::from(WHOLE)).unwrap_or(i64::MAX)
}

struct Known {
    good: i64,
    bad: i64,
}

/// How much of the window is known. Between two adjacent samples in the same state that state is taken to last; between a
/// good and a bad one, in holes, and where the observer failed, nothing is known.
fn known(facts: &Facts<'_>, series: &Series<'_, '_>, start: i64, end: i64) -> Known {
    let mut sum = Known { good: 0, bad: 0 };
    let mut stretch: Option<(&Stamp, &ProbeRun)> = None;
    let mut close = |stretch: Option<(&Stamp, &ProbeRun)>| {
        let Some((first, last)) = stretch else { return };
        let (Some(from), Some(to)) = (facts.clocks.at(first).upper, facts.clocks.at(&last.last_send).lower) else { return };
        let inside = (to.min(end) - from.max(start)).max(0);
        match last.state {
            ProbeState::Good => sum.good += inside,
            ProbeState::Bad => sum.bad += inside,
            ProbeState::Unknown => {}
        }
    };
    for run in series.runs.iter().copied() {
        match stretch {
            Some((first, last)) if last.state == run.state && series.adjacent(last, run) => stretch = Some((first, run)),
            _ => {
                close(stretch);
                stretch = Some((&run.first_complete, run));
            }
        }
    }
    close(stretch);
    sum
}
