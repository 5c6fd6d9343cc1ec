//! Objectives: whether anything could decide them.

use super::{
    model::At,
    probes::postgres,
    spec::{Cx, unique},
};
use crate::scenario::{
    diag::{clip, quoted},
    types::{
        Availability, BackupObjective, DataLoss, DetectionTime, Dur, From, Objective, OrderObjective, Probe, RecoveryTime,
        RestoreObjective, RunbookObjective, StepTime,
    },
};

pub(super) fn check(cx: &mut Cx<'_>) {
    let at = cx.spec.get("objectives");
    let names = cx.model.objectives.iter().enumerate().filter_map(|(i, objective)| {
        let name = objective.as_ref()?.name.as_deref()?;
        Some((name, at.item(i).get("name").span()))
    });
    let names: Vec<_> = names.collect();
    unique(cx, "objective", names.into_iter());
    for (i, objective) in cx.model.objectives.iter().enumerate() {
        if let Some(objective) = objective {
            one(cx, at.item(i), objective);
        }
    }
}

fn one(cx: &mut Cx<'_>, at: At<'_>, objective: &Objective) {
    if let Some(o) = &objective.recovery_time {
        recovery_time(cx, at.get("recoveryTime"), o);
    }
    if let Some(o) = &objective.detection_time {
        detection_time(cx, at.get("detectionTime"), o);
    }
    if let Some(o) = &objective.data_loss {
        data_loss(cx, at.get("dataLoss"), o);
    }
    if let Some(o) = &objective.availability {
        availability(cx, at.get("availability"), o);
    }
    if let Some(o) = &objective.runbook {
        runbook(cx, at.get("runbook"), o);
    }
    if let Some(o) = &objective.backup {
        backup(cx, at.get("backup"), o);
    }
    if let Some(o) = &objective.restore {
        restore(cx, at.get("restore"), o);
    }
    if let Some(o) = &objective.order {
        order(cx, at.get("order"), o);
    }
    if let Some(o) = &objective.step_time {
        step_time(cx, at.get("stepTime"), o);
    }
    if let Some(o) = &objective.never {
        let at = at.get("never");
        let _ = cx.probe(at.get("probe"), &o.probe);
        if let Some(after) = &o.after {
            let _ = cx.step(at.get("after"), after);
        }
    }
    if let Some(o) = &objective.check {
        let _ = cx.probe(at.get("check").get("probe"), &o.probe);
    }
}

/// A target that ends the drill before it is missed decides nothing.
fn target(cx: &mut Cx<'_>, at: At<'_>, within: Dur) {
    let (longest, span) = cx.longest();
    if cx.positive(at, "the target", within) && within > longest && longest > Dur::ZERO {
        cx.gather
            .mistake(at.span(), format!("the target {within} is longer than the drill may take, {longest}: it could never be missed"))
            .also(span, "limits.duration")
            .help("raise `limits.duration` above it");
    }
}

/// The resolution of a probe against a target: see the bracket rules. Of a recovery at once it may be known no more than that it
/// happened within `2 · every + timeout`; with a target below that it is luck whether anything can be met.
fn fast_enough(cx: &mut Cx<'_>, at: At<'_>, name: &str, probe: &Probe, within: Dur, what: &str) {
    let (every, timeout) = probe.cadence();
    let width = Dur(every.0.saturating_mul(2).saturating_add(timeout.0));
    if width <= within || within == Dur::ZERO {
        return;
    }
    let place = cx.spec.get("probes").get(name);
    // every = within / 4 with timeout = 2 · every gives a width of exactly the target.
    let every_us = neat((within.as_micros() / 4).max(1));
    let fast = Dur::from_micros(every_us);
    let timeout_us = neat(within.as_micros().saturating_sub(2 * every_us).max(1)).min(2 * every_us);
    let help = if fast < Dur::from_millis(1) {
        "no cadence decides so short a target".to_owned()
    } else {
        format!("`every: {fast}, timeout: {}` or faster decides it", Dur::from_micros(timeout_us))
    };
    cx.gather
        .warning(at.span(), format!("probe `{}` is too slow for this target: with `every` {every} and `timeout` {timeout} {what} is known to {width} at worst, and the target is {within}", clip(name)))
        .also(place.key(), "the probe")
        .help(help);
}

/// Down to a number people write: one or two leading digits.
fn neat(us: u64) -> u64 {
    let mut unit = 1u64;
    while us / unit >= 100 {
        unit *= 10;
    }
    us / unit * unit
}

fn recovery_time(cx: &mut Cx<'_>, at: At<'_>, o: &RecoveryTime) {
    target(cx, at.get("within"), o.within);
    let (longest, span) = cx.longest();
    if o.stable_for >= longest && longest > Dur::ZERO {
        cx.gather
            .mistake(
                at.get("stableFor").span(),
                format!("`stableFor` {} is not shorter than the drill may take, {longest}: nothing could count as recovered", o.stable_for),
            )
            .also(span, "limits.duration");
    }
    if let Some(probe) = cx.probe(at.get("probe"), &o.probe) {
        if probe.alert.is_some() {
            cx.gather
                .mistake(
                    at.get("probe").span(),
                    format!("`{}` is an alert: its end says nothing about when the service was back", clip(&o.probe)),
                )
                .help("name the probe that shows what users see");
        }
        fast_enough(cx, at.get("within"), &o.probe, probe, o.within, "a recovery");
    }
    match (&o.after, o.from) {
        (Some(after), _) => drop(cx.inject(at.get("after"), after)),
        (None, From::Outage) => {}
        (None, From::Fault) => {
            cx.gather
                .mistake(at.key(), "nothing says when this recovery time starts")
                .help("name the step that injects the fault under `after`, or measure `from: outage`");
        }
        (None, _) => drop(cx.gather.mistake(at.key(), "`recoveryTime` needs `after`, the step that injects the fault")),
    }
    match (o.from, &o.alert) {
        (From::Detected, None) => drop(cx.gather.mistake(at.get("from").span(), "`from: detected` needs the `alert` that detects it")),
        (From::Detected, Some(alert)) => drop(cx.probe_of(at.get("alert"), alert, "alert", |p| p.alert.is_some())),
        (_, Some(_)) => drop(cx.gather.mistake(at.get("alert").key(), "`alert` goes with `from: detected`")),
        (From::Declared, None) if cx.steps.iter().all(|step| step.kind != Some("declare")) => {
            cx.gather.mistake(at.get("from").span(), "`from: declared`, but no step declares the outage").help("add a `declare` step");
        }
        _ => {}
    }
}

fn detection_time(cx: &mut Cx<'_>, at: At<'_>, o: &DetectionTime) {
    target(cx, at.get("within"), o.within);
    let _ = cx.inject(at.get("after"), &o.after);
    if let Some(probe) = cx.probe_of(at.get("alert"), &o.alert, "alert", |p| p.alert.is_some()) {
        fast_enough(cx, at.get("within"), &o.alert, probe, o.within, "the receipt");
    }
}

fn data_loss(cx: &mut Cx<'_>, at: At<'_>, o: &DataLoss) {
    let _ = cx.probe_of(at.get("ledger"), &o.ledger, "ledger", |p| p.ledger.is_some());
    if o.writes.is_none() && o.within.is_none() {
        cx.gather
            .mistake(at.key(), "`dataLoss` has no target")
            .help("write `writes: 0` for none lost, or `within: 5m` for the recovery point");
    }
    if let Some(within) = o.within {
        target(cx, at.get("within"), within);
    }
    match &o.after {
        Some(after) => drop(cx.inject(at.get("after"), after)),
        None if cx.steps.iter().all(|step| step.kind.is_some_and(|kind| kind != "inject")) => {
            cx.gather.mistake(at.key(), "no step injects a fault: nothing could be lost by it");
        }
        None => {}
    }
}

fn availability(cx: &mut Cx<'_>, at: At<'_>, o: &Availability) {
    if o.at_least.0 <= 0.0 {
        cx.gather.mistake(at.get("atLeast").span(), "`atLeast: 0%` could never be missed");
    }
    if let Some(after) = &o.after {
        let _ = cx.step(at.get("after"), after);
    }
    if cx.model.steps.is_empty() {
        cx.gather.mistake(at.key(), "there are no steps: the window would be empty");
    }
    let probe = cx.probe(at.get("probe"), &o.probe);
    let Some(window) = o.window else { return };
    if window == Dur::ZERO {
        cx.gather.mistake(at.get("for").span(), "the window is 0s: nothing is in it");
        return;
    }
    let (longest, span) = cx.longest();
    if window > longest {
        cx.gather
            .mistake(at.get("for").span(), format!("the window {window} is longer than the drill may take, {longest}"))
            .also(span, "limits.duration");
    }
    if let Some(probe) = probe {
        fast_enough(cx, at.get("for"), &o.probe, probe, window, "each change");
    }
}

fn runbook(cx: &mut Cx<'_>, at: At<'_>, o: &RunbookObjective) {
    target(cx, at.get("within"), o.within);
    if let Some(step) = cx.step(at.get("step"), &o.step)
        && let Some(kind) = step.kind.filter(|kind| *kind != "runbook")
    {
        cx.gather
            .mistake(at.get("step").span(), format!("step `{}` is a `{kind}`, not a runbook", clip(&o.step)))
            .also(step.span, "the step");
    }
    for (heading, within) in &o.steps {
        target(cx, at.get("steps").get(heading), *within);
    }
}

fn backup(cx: &mut Cx<'_>, at: At<'_>, o: &BackupObjective) {
    let _ = cx.probe_of(at.get("probe"), &o.probe, "backup", |p| p.backup.is_some());
    if let Some(after) = &o.after {
        let _ = cx.step(at.get("after"), after);
    }
    if let Some(age) = o.max_age {
        cx.positive(at.get("maxAge"), "`maxAge`", age);
    }
}

fn restore(cx: &mut Cx<'_>, at: At<'_>, o: &RestoreObjective) {
    for (key, side) in [("source", &o.source), ("restored", &o.restored)] {
        postgres(cx, at.get(key).get("postgres"), &side.postgres, key == "restored");
    }
    if o.query.trim().is_empty() {
        cx.gather.mistake(at.get("query").span(), "the query is empty");
    }
    if o.min_rows == 0 {
        cx.gather.mistake(at.get("minRows").span(), "`minRows: 0` would accept a restore of nothing").help("1 is the least");
    }
    let source = o.source_at.as_ref().and_then(|name| cx.step(at.get("sourceAt"), name));
    let restored = o.restored_at.as_ref().and_then(|name| cx.step(at.get("restoredAt"), name));
    if o.source.postgres == o.restored.postgres
        && let (Some(source), Some(restored)) = (source, restored)
        && source.path == restored.path
    {
        cx.gather
            .mistake(at.key(), "source and restored copy are the same database at the same time: they are always equal")
            .help("compare two databases, or one at two times with `sourceAt` and `restoredAt`");
    }
    let can_restore = |kind: Option<&str>| kind.is_none_or(|kind| matches!(kind, "runbook" | "manual"));
    if !cx.steps.iter().any(|step| can_restore(step.kind)) {
        cx.gather.mistake(at.key(), "no step restores anything").help("add a `runbook` or a `manual` step that does");
    }
}

fn order(cx: &mut Cx<'_>, at: At<'_>, o: &OrderObjective) {
    let _ = cx.inject(at.get("after"), &o.after);
    for (i, name) in o.probes.iter().enumerate() {
        let place = at.get("probes").item(i);
        let _ = cx.probe(place, name);
        if o.probes.iter().take(i).any(|before| before == name) {
            cx.gather.mistake(place.span(), format!("probe `{}` is named twice", clip(name)));
        }
    }
    if o.probes.len() < 2 {
        cx.gather.mistake(
            at.get("probes").key(),
            format!("an order of {} needs at least two probes", quoted(o.probes.iter().map(String::as_str))),
        );
    }
}

fn step_time(cx: &mut Cx<'_>, at: At<'_>, o: &StepTime) {
    target(cx, at.get("within"), o.within);
    let step = cx.step(at.get("step"), &o.step);
    let after = o.after.as_ref().and_then(|name| cx.step(at.get("after"), name));
    if let (Some(step), Some(after)) = (step, after)
        && (after.top > step.top || after.path == step.path)
    {
        cx.gather
            .mistake(
                at.get("after").span(),
                format!("step `{}` does not come before `{}`", clip(o.after.as_deref().unwrap_or_default()), clip(&o.step)),
            )
            .also(after.span, "it is here");
    }
}
