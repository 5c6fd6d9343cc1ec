//! `recoveryTime`: the achieved recovery time of a probe.

use super::{
    Bracket, Judged, Outcome, Unit,
    facts::{Facts, Origin},
    hint, micros,
    series::{After, Down, Series},
    time,
};
use crate::{
    clock::Stamp,
    journal::{AlertSeen, AlertStage},
    scenario::types::{From, ProbeState, RecoveryTime},
};

pub(super) fn judge(facts: &Facts<'_>, spec: &RecoveryTime) -> Judged {
    let judged = Judged::within(spec.within);
    let origin = match facts.origin(spec.after.as_deref()) {
        Ok(origin) => origin,
        Err(why) => return judged.inconclusive(why),
    };
    let series = Series::of(facts, &spec.probe);
    if series.is_empty() {
        return judged.inconclusive(format!("`{}` gave no sample that says good or bad", spec.probe));
    }
    match series.after(&origin, micros(spec.stable_for)) {
        After::Nothing => judged.inconclusive(format!("`{}` gave no sample after the fault", spec.probe)),
        After::NeverBad { whose: true, .. } => judged.inconclusive(format!(
            "`{}` was bad only after another fault had come, or the steps had ended, while this one was still in place: it is not known whose outage that is",
            spec.probe
        )),
        After::NeverBad { unseen: Some(unseen), .. } => judged.inconclusive(format!(
            "`{}` was never bad as far as it was watched, which ends {} before the steps did",
            spec.probe,
            time(unseen)
        )),
        After::NeverBad { widest, good_for, .. } => never_bad(facts, spec, &origin, judged, widest, good_for),
        After::Down(down) => was_down(facts, spec, &origin, judged, &down, &series),
    }
}

fn never_bad(facts: &Facts<'_>, spec: &RecoveryTime, origin: &Origin<'_>, judged: Judged, widest: Option<i64>, good_for: i64) -> Judged {
    // Whatever came after the journal's end may be its outage.
    if facts.steps_ended.is_none() {
        return judged.inconclusive(format!("`{}` was never bad as far as the journal goes, which ends before the steps did", spec.probe));
    }
    let target = micros(spec.within);
    let measured = Bracket { lower: Some(0), upper: widest };
    let judged = judged.measured(measured);
    if origin.fault.is_none() {
        return judged.inconclusive(format!("`{}` was never bad and nothing was broken: there was nothing to recover from", spec.probe));
    }
    if Series::of(facts, &spec.probe).state_before(origin.start).is_none() {
        return judged.inconclusive(format!("`{}` is not known to have been good before the fault", spec.probe));
    }
    if let Some((_, why)) = facts.hold_broken(origin.fault) {
        return judged.inconclusive(why);
    }
    if good_for < micros(spec.stable_for) {
        let why =
            format!("`{}` was never bad, but it was seen for {} only, and {} are asked for", spec.probe, time(good_for), spec.stable_for);
        return judged.inconclusive(why);
    }
    match measured.at_most(target) {
        Outcome::Met => {
            let why = format!(
                "`{}` was never bad after the fault; no outage longer than {} can hide between two samples",
                spec.probe,
                time(widest.unwrap_or(0))
            );
            judged.say(Outcome::Met, why)
        }
        outcome => {
            let mut judged = judged.say(
                outcome,
                format!(
                    "`{}` was never bad after the fault, but an outage longer than the target may hide between two samples",
                    spec.probe
                ),
            );
            judged.hint = hint::cadence(facts, &spec.probe, measured, target);
            judged
        }
    }
}

fn was_down(
    facts: &Facts<'_>,
    spec: &RecoveryTime,
    origin: &Origin<'_>,
    mut judged: Judged,
    down: &Down<'_>,
    series: &Series<'_, '_>,
) -> Judged {
    let target = micros(spec.within);
    let (start, since) = match start_of(facts, spec, origin, down) {
        Ok(start) => start,
        Err(why) => return judged.inconclusive(why),
    };
    let clocks = &facts.clocks;
    let lower = start.latest.map_or(Bracket::UNBOUNDED, |s| clocks.between(&down.bad_until.last_send, s)).lower;
    let recovered = down.back.filter(|_| down.stable);
    let upper = down.latest().and_then(|(end, more)| {
        let (begin, less) = start.earliest?;
        Some(clocks.between(end, begin).upper?.saturating_add(more).saturating_add(less))
    });
    let upper = if planted!(DropUpperEnd) { lower } else { upper };
    let measured = Bracket { lower, upper }.not_negative();
    judged.measured = Some(measured);
    if spec.from != From::Outage
        && let Some(outage) = outage(facts, down)
    {
        judged.part("outage seen by the probe", outage, Unit::Microseconds);
    }
    if let Some((at, why)) = facts.hold_broken(origin.fault) {
        let long_past = recovered.and_then(|b| clocks.between(at, &b.first_complete).lower).is_some_and(|d| d >= micros(spec.stable_for));
        if !long_past {
            return judged.inconclusive(why);
        }
    }
    // A later fault may well find the probe bad from an earlier one; the first must find it good.
    let first = facts.faults.iter().filter_map(|(id, f)| Some((clocks.at(f.injected?.0).lower?, *id))).min().map(|(_, id)| id);
    if origin.fault.is_some() && origin.fault == first && series.state_before(origin.start) != Some(ProbeState::Good) {
        return judged.inconclusive(format!("`{}` is not known to have been good before the fault", spec.probe));
    }
    let outcome = measured.at_most(target);
    let range = measured.as_time();
    match (outcome, recovered) {
        (Outcome::Met, _) => judged.say(Outcome::Met, format!("`{}` was good again {range} after {since}", spec.probe)),
        (Outcome::Missed, Some(_)) => judged.say(Outcome::Missed, format!("`{}` was good again only {range} after {since}", spec.probe)),
        (Outcome::Missed, None) => judged.say(Outcome::Missed, format!("`{}` was still bad {} after {since}", spec.probe, time(lower.unwrap_or(0)))),
        (Outcome::Inconclusive, Some(_)) if upper.is_none() => {
            judged.inconclusive("the clocks of the probe and of the drill were never linked, or not in the drill's first runner: no time can be measured between them")
        }
        (Outcome::Inconclusive, Some(_)) => {
            judged.hint = hint::cadence(facts, &spec.probe, measured, target);
            judged.inconclusive(format!("the target lies within what was measured: `{}` was good again {range} after {since}", spec.probe))
        }
        (Outcome::Inconclusive, None) => {
            let why = not_back(facts, spec, origin, down);
            judged.inconclusive(why)
        }
    }
}

/// Why there is no recovery, and yet no proof that the target was missed.
fn not_back(facts: &Facts<'_>, spec: &RecoveryTime, origin: &Origin<'_>, down: &Down<'_>) -> String {
    let probe = &spec.probe;
    if !std::ptr::eq(down.bad_until, down.last_bad) {
        return format!(
            "`{probe}` was bad again after a time in which nobody watched it, or not closely enough: it may have recovered and failed again"
        );
    }
    if down.back.is_some() {
        return format!(
            "`{probe}` was good again, but seen to stay so for {} only; {} are asked for and the drill did not watch that long",
            time(down.good_for),
            spec.stable_for
        );
    }
    match facts.taken_away(origin.fault) {
        Some(_) => {
            format!("`{probe}` was not good again before the drill took the fault away, and that was before the target time was over")
        }
        None => format!("`{probe}` was never good again, and the drill ended before the target time was over"),
    }
}

/// The earliest and the latest instant at which a measured time can have begun.
struct Start<'a> {
    /// A stamp, and microseconds to take from it.
    earliest: Option<(&'a Stamp, i64)>,
    latest: Option<&'a Stamp>,
}

fn start_of<'a>(facts: &Facts<'a>, spec: &RecoveryTime, origin: &Origin<'a>, down: &Down<'a>) -> Result<(Start<'a>, String), String> {
    let both = |at: &'a Stamp| Start { earliest: Some((at, 0)), latest: Some(at) };
    match spec.from {
        From::Fault => {
            let since = spec.after.as_ref().map_or_else(|| "the fault".to_owned(), |a| format!("`{a}`"));
            Ok((Start { earliest: Some((origin.start, 0)), latest: Some(origin.effective) }, since))
        }
        From::Outage => {
            Ok((Start { earliest: down.earliest(), latest: Some(&down.first_bad.first_complete) }, "the outage began".to_owned()))
        }
        From::Detected => {
            let alert = spec.alert.as_deref().ok_or("`from: detected` needs `alert`")?;
            let after = |a: &&AlertSeen| a.stage == AlertStage::Received && facts.clocks.maybe_after(&a.before, origin.start);
            let received = facts.alerts_of(alert).find(after);
            let seen = received.ok_or_else(|| format!("the alert `{alert}` was never received: there is no detection to count from"))?;
            Ok((Start { earliest: Some((&seen.after, 0)), latest: Some(&seen.before) }, format!("`{alert}` was received")))
        }
        From::Declared => {
            let declared = facts.declared(origin).ok_or("the outage was never declared")?;
            Ok((both(declared), "the outage was declared".to_owned()))
        }
    }
}

/// How long the probe was away, by itself: from between the last good and the first bad sample to between the last bad and
/// the first good one.
pub(super) fn outage(facts: &Facts<'_>, down: &Down<'_>) -> Option<Bracket> {
    let clocks = &facts.clocks;
    let lower = clocks.between(&down.bad_until.last_send, &down.first_bad.first_complete).lower;
    let upper = down.latest().and_then(|(end, more)| {
        let (begin, less) = down.earliest()?;
        Some(clocks.between(end, begin).upper?.saturating_add(more).saturating_add(less))
    });
    Some(Bracket { lower, upper }.not_negative())
}
