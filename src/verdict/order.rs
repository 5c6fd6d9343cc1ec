//! `order`: probes recover one after the other.

use super::{
    Bracket, Judged, Outcome, Unit,
    facts::{Facts, Origin},
    series::{After, Series},
};
use crate::scenario::types::OrderObjective;

pub(super) fn judge(facts: &Facts<'_>, spec: &OrderObjective) -> Judged {
    let mut judged = Judged::against(spec.probes.join(", then "));
    let origin = match facts.origin(Some(&spec.after)) {
        Ok(origin) => origin,
        Err(why) => return judged.inconclusive(why),
    };
    if let Some((_, why)) = facts.hold_broken(origin.fault) {
        return judged.inconclusive(why);
    }
    let start = facts.clocks.at(origin.start);
    let mut at: Vec<(&str, Result<Bracket, String>)> = Vec::new();
    for probe in &spec.probes {
        let recovered = recovered(facts, &origin, probe);
        if let Ok(when) = &recovered {
            judged.part(probe.clone(), when.minus(start), Unit::Microseconds);
        }
        at.push((probe, recovered));
    }
    let mut outcome = if at.len() < 2 { Outcome::Inconclusive } else { Outcome::Met };
    let mut reasons = Vec::new();
    for pair in at.windows(2) {
        let [(a, first), (b, second)] = pair else { continue };
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(why), _) | (_, Err(why)) => {
                outcome = outcome.max(Outcome::Inconclusive);
                reasons.push(why.clone());
                continue;
            }
        };
        // Not after: the second one's recovery minus the first one's is not below 0.
        let of_pair = second.minus(*first).no_less_than(0);
        outcome = outcome.max(of_pair);
        match of_pair {
            Outcome::Met => {}
            Outcome::Missed => reasons.push(format!("`{b}` recovered before `{a}`")),
            Outcome::Inconclusive => reasons.push(format!("what was measured does not say whether `{a}` recovered before `{b}`")),
        }
    }
    if reasons.is_empty() {
        reasons.push(if at.len() < 2 { "an order needs two probes or more".to_owned() } else { "in the order asked for".to_owned() });
    }
    reasons.dedup();
    judged.say(outcome, reasons.join("; "))
}

/// When a probe recovered, on the time line. One that never did has recovered at no time before its last bad sample.
fn recovered(facts: &Facts<'_>, origin: &Origin<'_>, probe: &str) -> Result<Bracket, String> {
    match Series::of(facts, probe).after(origin, stable_for(facts, probe)) {
        After::Nothing => Err(format!("`{probe}` gave no sample after the fault")),
        After::NeverBad { .. } => Err(format!("`{probe}` was never bad, so it has no place in the order")),
        After::Down(down) => {
            Ok(down.recovered(facts).unwrap_or(Bracket { lower: facts.clocks.at(&down.bad_until.last_send).lower, upper: None }))
        }
    }
}

/// How long a probe must stay good: the longest that any `recoveryTime` of the scenario asks of it.
pub(super) fn stable_for(facts: &Facts<'_>, probe: &str) -> i64 {
    let times = facts.plan.objectives.iter().filter_map(|o| o.spec.recovery_time.as_ref()).filter(|r| r.probe == probe);
    times.map(|r| super::micros(r.stable_for)).max().unwrap_or(0)
}
