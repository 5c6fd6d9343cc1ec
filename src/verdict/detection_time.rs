//! `detectionTime`: an alert reached its receiver in time.

use super::{
    Bracket, Judged, Outcome, Unit,
    facts::{Facts, Origin},
    micros,
    series::Series,
    time,
};
use crate::{
    clock::Stamp,
    journal::{AUTO_ACK, AlertSeen, AlertStage},
    scenario::types::{DetectionTime, ProbeState},
};

pub(super) fn judge(facts: &Facts<'_>, spec: &DetectionTime) -> Judged {
    let mut judged = Judged::within(spec.within);
    let origin = match facts.origin(Some(&spec.after)) {
        Ok(origin) => origin,
        Err(why) => return judged.inconclusive(why),
    };
    if let Err(why) = baseline(facts, spec, &origin) {
        return judged.inconclusive(why);
    }
    let stages = stages(facts, &spec.alert, &origin);
    parts(facts, &origin, &stages, &mut judged);
    let target = micros(spec.within);
    let first = |stage| stages.iter().find(|a| a.stage == stage).copied();
    let broken = facts.hold_broken(origin.fault);
    if let Some(received) = first(AlertStage::Received) {
        let clocks = &facts.clocks;
        let lower = clocks.between(&received.after, origin.effective).lower;
        let upper = clocks.between(&received.before, origin.start).upper;
        let measured = Bracket { lower, upper }.not_negative();
        judged.measured = Some(measured);
        if let Some((at, why)) = broken
            && !clocks.surely_after(at, &received.before)
        {
            return judged.inconclusive(why);
        }
        let range = measured.as_time();
        return match measured.at_most(target) {
            // It came, and it came late: that needs no other proof that the way was open.
            Outcome::Missed => judged.say(Outcome::Missed, format!("`{}` was received only {range} after `{}`", spec.alert, spec.after)),
            Outcome::Met => match heartbeat(facts, spec, &origin, &received.before) {
                Ok(()) => judged.say(Outcome::Met, format!("`{}` was received {range} after `{}`", spec.alert, spec.after)),
                Err(why) => judged.inconclusive(format!("`{}` was received {range} after `{}`, but {why}", spec.alert, spec.after)),
            },
            Outcome::Inconclusive if upper.is_none() => {
                judged.inconclusive("the clocks of the receiver's readings and of the drill were never linked")
            }
            Outcome::Inconclusive => {
                judged.hint = Some(
                    "a receiver that says when each notification arrived, or that is read more often, would narrow the bracket".to_owned(),
                );
                judged.inconclusive(format!("the target lies within what was measured: received {range} after `{}`", spec.after))
            }
        };
    }
    if let Some((_, why)) = broken {
        return judged.inconclusive(why);
    }
    never_received(facts, spec, &origin, &stages, judged)
}

/// The alert must have been looked at and absent when the fault came: neither firing, nor silenced, nor inhibited.
fn baseline(facts: &Facts<'_>, spec: &DetectionTime, origin: &Origin<'_>) -> Result<(), String> {
    let alert = &spec.alert;
    let before = facts.alerts_of(alert).filter(|a| a.stage != AlertStage::Heartbeat);
    let last = before.filter(|a| facts.clocks.surely_after(origin.start, &a.before)).last();
    match last.map(|a| a.stage) {
        Some(AlertStage::Absent) => Ok(()),
        Some(AlertStage::Suppressed) => {
            Err(format!("`{alert}` was silenced or inhibited when the fault came: nobody would have been told"))
        }
        Some(AlertStage::Firing | AlertStage::Notified | AlertStage::Received) => {
            Err(format!("`{alert}` was already firing when the fault came: its receipt would prove nothing"))
        }
        Some(AlertStage::Resolved) => Err(format!("`{alert}` had only just ended when the fault came and was not seen to be absent")),
        Some(AlertStage::Heartbeat) | None => {
            Err(format!("`{alert}` was not looked at before the fault, so it may have been firing all along"))
        }
    }
}

/// The alert's sightings after the origin, in order.
fn stages<'a>(facts: &Facts<'a>, alert: &str, origin: &Origin<'_>) -> Vec<&'a AlertSeen> {
    facts.alerts_of(alert).filter(|a| a.stage != AlertStage::Heartbeat && !facts.clocks.surely_after(origin.start, &a.before)).collect()
}

/// Each stage apart, counted from the one before it.
fn parts(facts: &Facts<'_>, origin: &Origin<'_>, stages: &[&AlertSeen], judged: &mut Judged) {
    let clocks = &facts.clocks;
    let mut since = (origin.start, origin.effective);
    for (stage, name) in [
        (AlertStage::Firing, "until the alert's condition was true"),
        (AlertStage::Notified, "from there until Alertmanager had it"),
        (AlertStage::Received, "from there until it was received"),
    ] {
        if let Some(seen) = stages.iter().find(|a| a.stage == stage) {
            let span = Bracket { lower: clocks.between(&seen.after, since.1).lower, upper: clocks.between(&seen.before, since.0).upper };
            judged.part(name, span.not_negative(), Unit::Microseconds);
            since = (&seen.after, &seen.before);
        }
    }
    let received = stages.iter().find(|a| a.stage == AlertStage::Received);
    if let Some(received) = received
        // In CI nobody acknowledges anything, and least of all the page; nor does the page itself, where it declares the outage.
        && let Some(ack) = facts.acks.iter().find(|a| {
            !a.refused && a.by != AUTO_ACK && !facts.declared_by_alert(a.step) && clocks.surely_after(a.at, &received.before)
        })
    {
        let span = clocks.between(ack.at, &received.before).to(clocks.between(ack.at, &received.after)).not_negative();
        judged.part("from there until somebody acknowledged", span, Unit::Microseconds).detail = format!("by {}", ack.by);
    }
}

/// Nobody was told. That is a miss only if it is the alert's fault and not the watcher's: `docs/measuring.md`, "An alert that
/// never came".
fn never_received(facts: &Facts<'_>, spec: &DetectionTime, origin: &Origin<'_>, stages: &[&AlertSeen], mut judged: Judged) -> Judged {
    let alert = &spec.alert;
    let target = micros(spec.within);
    let known = Series::of(facts, alert);
    // The probe's sample is unknown when Prometheus, Alertmanager or the receiver could not be read.
    let Some(last_look) = known.runs.iter().rfind(|r| r.state != ProbeState::Unknown).map(|r| &r.last_send) else {
        return judged.inconclusive(format!("`{alert}` was not received, but the receiver was never read successfully"));
    };
    let furthest = stages.iter().map(|a| a.stage).filter(|s| matches!(s, AlertStage::Firing | AlertStage::Notified)).max();
    let mut waited = facts.clocks.between(last_look, origin.effective).lower;
    // An alert that had not even begun to fire has no reason to once the drill has taken the fault away.
    if let (None, Some(away)) = (furthest, facts.taken_away(origin.fault)) {
        waited = waited.min(facts.clocks.between(away, origin.effective).lower);
    }
    let waited = Bracket { lower: waited, upper: None }.not_negative();
    judged.measured = Some(waited);
    if stages.iter().any(|a| a.stage == AlertStage::Suppressed) {
        return judged.inconclusive(format!("`{alert}` was silenced or inhibited during the drill, and not received"));
    }
    if waited.at_most(target) != Outcome::Missed {
        let seen = time(waited.lower.unwrap_or(0));
        return judged.inconclusive(format!(
            "`{alert}` was not received, but the drill watched the broken system for {seen} only: shorter than the target"
        ));
    }
    let seen = time(waited.lower.unwrap_or(0));
    if let Some(why) = facts.taken_over(None) {
        return judged.inconclusive(format!("`{alert}` was not received within {seen}, but nobody looked all that time: {why}"));
    }
    match (heartbeat_over(facts, spec, origin), furthest) {
        (_, Some(AlertStage::Notified)) => judged.say(
            Outcome::Missed,
            format!("`{alert}` was active at Alertmanager and not received within {seen}: its notifications do not arrive"),
        ),
        (_, Some(_)) => judged.say(
            Outcome::Missed,
            format!("`{alert}` was firing and not received within {seen}: it does not get from Prometheus to the receiver"),
        ),
        (Ok(()), None) => judged
            .say(Outcome::Missed, format!("`{alert}` never fired within {seen}, while heartbeats did arrive: nothing detects this fault")),
        (Err(why), None) => judged.inconclusive(format!("`{alert}` was not seen to fire and not received within {seen}, but {why}")),
    }
}

/// Whether heartbeats prove the way from Prometheus to the receiver open from before the fault to after `until`.
fn heartbeat(facts: &Facts<'_>, spec: &DetectionTime, origin: &Origin<'_>, until: &Stamp) -> Result<(), String> {
    beats(facts, spec, origin, |beat| facts.clocks.surely_after(&beat.before, until))
}

/// Whether heartbeats prove the way open until the target time was over.
fn heartbeat_over(facts: &Facts<'_>, spec: &DetectionTime, origin: &Origin<'_>) -> Result<(), String> {
    let target = micros(spec.within);
    beats(facts, spec, origin, |beat| facts.clocks.between(&beat.before, origin.effective).lower.is_some_and(|d| d >= target))
}

fn beats(facts: &Facts<'_>, spec: &DetectionTime, origin: &Origin<'_>, late_enough: impl Fn(&AlertSeen) -> bool) -> Result<(), String> {
    let own = facts.plan.probes.get(&spec.alert).and_then(|p| p.spec.alert.as_ref()?.heartbeat.as_deref());
    let place = facts.plan.place.heartbeat.as_ref();
    let Some(name) = own.or(place.map(|h| h.alert.as_str())) else {
        return Err("no heartbeat alert is configured, so nothing proves that alerts could arrive at all".to_owned());
    };
    let every = place.map(|h| micros(h.every));
    let clocks = &facts.clocks;
    let is_it = |a: &&AlertSeen| {
        a.stage == AlertStage::Heartbeat && (a.probe == spec.alert || a.labels.get("alertname").is_some_and(|n| n == name))
    };
    let mut all: Vec<_> = facts.alerts.iter().copied().filter(is_it).collect();
    all.sort_by_key(|a| clocks.at(&a.before).lower);
    let Some(mut last) = all.iter().rfind(|a| clocks.surely_after(origin.start, &a.before)).copied() else {
        return Err(format!("the heartbeat `{name}` did not arrive before the fault"));
    };
    let too_long = |later: &Stamp, earlier: &Stamp| every.is_some_and(|e| clocks.between(later, earlier).lower.is_none_or(|d| d > e));
    if too_long(origin.start, &last.before) {
        return Err(format!("the heartbeat `{name}` had stopped before the fault"));
    }
    for beat in all.iter().copied().filter(|a| !clocks.surely_after(origin.start, &a.before)) {
        if too_long(&beat.after, &last.before) {
            return Err(format!("the heartbeat `{name}` paused for more than {} during the drill", time(every.unwrap_or(0))));
        }
        if late_enough(beat) {
            return Ok(());
        }
        last = beat;
    }
    Err(format!("the heartbeat `{name}` did not arrive afterwards, so the way to the receiver is not known to have been open"))
}
