//! How long a drill should take: the shortest, if nothing has to be waited for, and the longest its time limits allow.

use super::types::{Plan, PlannedStep};
use crate::scenario::types::Dur;

/// Shortest and longest, and warnings where they do not fit the drill's own limit. A step without any time limit (a person's
/// agreement, a runbook whose steps have none) leaves only `limits.duration` as the longest.
pub(super) fn expected(plan: &Plan) -> ((Dur, Dur), Vec<String>) {
    let limit = plan.limits.duration;
    let (mut low, mut high) = steps(&plan.steps);
    if let Some(steady) = &plan.steady_state {
        // Once before the first step, once after the reverts.
        low = add(low, add(steady.hold, steady.hold));
        high = high.map(|high| add(high, add(steady.timeout, steady.timeout)));
    }
    let mut warnings = Vec::new();
    if low > limit {
        warnings.push(format!("the drill takes at least {low}, and is aborted after {limit} (`limits.duration`)"));
    } else if let Some(high) = high
        && high > limit
    {
        warnings.push(format!("if its steps use all their time the drill takes {high}, and is aborted after {limit} (`limits.duration`)"));
    }
    let high = high.unwrap_or(limit).min(limit).max(low);
    ((low, high), warnings)
}

fn add(a: Dur, b: Dur) -> Dur {
    Dur(a.0.saturating_add(b.0))
}

fn steps(list: &[PlannedStep]) -> (Dur, Option<Dur>) {
    list.iter()
        .map(step)
        .fold((Dur::ZERO, Some(Dur::ZERO)), |(low, high), (l, h)| (add(low, l), Option::zip(high, h).map(|(a, b)| add(a, b))))
}

/// Of one step; no longest when nothing limits it.
fn step(step: &PlannedStep) -> (Dur, Option<Dur>) {
    let spec = &step.spec;
    let when = spec.when.as_ref().map_or(Dur::ZERO, |w| w.timeout);
    let (low, high) = if let Some(hold) = spec.hold {
        (hold, Some(hold))
    } else if let Some(wait) = &spec.wait_for {
        (wait.hold, Some(wait.timeout))
    } else if let Some(manual) = &spec.manual {
        (Dur::ZERO, manual.within)
    } else if let Some(declare) = &spec.declare {
        (Dur::ZERO, declare.within)
    } else if spec.inject.is_some() || spec.revert.is_some() {
        // Proof of effect, and of being gone, have limits of their own well within this.
        (Dur::ZERO, Some(Dur::from_secs(60)))
    } else if spec.note.is_some() {
        (Dur::ZERO, Some(Dur::ZERO))
    } else if spec.parallel.is_some() {
        let children: Vec<_> = step.children.iter().map(self::step).collect();
        let low = children.iter().map(|c| c.0).max().unwrap_or_default();
        (low, children.iter().map(|c| c.1).try_fold(Dur::ZERO, |most, high| Some(most.max(high?))))
    } else {
        (Dur::ZERO, None)
    };
    let high = match (spec.within, high) {
        (Some(within), Some(high)) => Some(within.min(high)),
        (Some(within), None) => Some(within),
        (None, high) => high,
    };
    (spec.within.map_or(low, |within| low.min(within)), high.map(|high| add(when, high)))
}
