//! Steps and the faults in them.

use super::{
    acts, fault_rule,
    model::{At, StepInfo},
    placements,
    spec::{Cx, unique},
    targets::at_least,
    text,
};
use crate::scenario::{
    diag::clip,
    types::{Dur, FaultSpec, OneOf, Runbook, Step, TargetKind, UndoPolicy, WaitFor},
};

pub(super) fn check(cx: &mut Cx<'_>) {
    let steps: &[StepInfo] = cx.steps;
    unique(cx, "step", steps.iter().filter_map(|step| Some((step.name.as_deref()?, step.span))));
    for step in steps {
        if step.name.as_deref().is_some_and(|name| name.trim().is_empty()) {
            cx.gather.mistake(step.span, "the step's name is empty");
        }
    }
    let at = cx.spec.get("steps");
    let mut shortest = cx.model.steady.as_ref().map_or(Dur::ZERO, |steady| Dur(steady.hold.0.saturating_mul(2)));
    for (i, step) in cx.model.steps.iter().enumerate() {
        if let Some(step) = step {
            one(cx, at.item(i), step, i);
            shortest = Dur(shortest.0.saturating_add(least(step).0));
        }
    }
    let (longest, span) = cx.longest();
    if shortest > longest && longest > Dur::ZERO {
        let place = if cx.spec.get("limits").get("duration").is_set() { span } else { at.key() };
        cx.gather
            .mistake(place, format!("the drill takes at least {shortest} and may take {longest}"))
            .help("its `hold` steps and `steadyState.for` (before and after) add up to that; raise `limits.duration`");
    }
}

/// How long a step takes at least.
fn least(step: &Step) -> Dur {
    let own = match (&step.hold, &step.wait_for, &step.parallel) {
        (Some(hold), _, _) => *hold,
        (_, Some(wait), _) => wait.hold,
        (_, _, Some(steps)) => steps.iter().map(least).max().unwrap_or_default(),
        _ => Dur::ZERO,
    };
    Dur(own.0.saturating_add(step.when.as_ref().map_or(Dur::ZERO, |when| when.hold).0))
}

fn one(cx: &mut Cx<'_>, at: At<'_>, step: &Step, top: usize) {
    if let Some(when) = &step.when {
        wait(cx, at.get("when"), when);
    }
    if let Some(within) = step.within {
        cx.positive(at.get("within"), "`within`", within);
    }
    if let Some(fault) = &step.inject {
        self::fault(cx, at.get("inject"), fault, top);
    }
    if let Some(name) = &step.revert {
        revert(cx, at.get("revert"), name, top);
    }
    if let Some(wait) = &step.wait_for {
        self::wait(cx, at.get("waitFor"), wait);
    }
    if let Some(hold) = step.hold {
        cx.positive(at.get("hold"), "`hold`", hold);
    }
    if let Some(runbook) = &step.runbook {
        self::runbook(cx, at.get("runbook"), runbook);
    }
    if let Some(manual) = &step.manual {
        let place = at.get("manual");
        if manual.instruction.trim().is_empty() {
            cx.gather.mistake(place.get("do").span(), "the instruction is empty").help("say what a person has to do");
        }
        if let Some(within) = manual.within {
            cx.positive(place.get("within"), "`within`", within);
        }
    }
    if let Some(approve) = &step.approve
        && approve.question.trim().is_empty()
    {
        cx.gather.mistake(at.get("approve").get("question").span(), "the question is empty");
    }
    if let Some(declare) = &step.declare
        && let Some(alert) = &declare.alert
    {
        cx.probe_of(at.get("declare").get("alert"), alert, "alert", |probe| probe.alert.is_some());
    }
    if let Some(steps) = &step.parallel {
        let place = at.get("parallel");
        if steps.is_empty() {
            cx.gather.mistake(place.key(), "`parallel` is empty");
        }
        for (i, step) in steps.iter().enumerate() {
            one(cx, place.item(i), step, top);
        }
    }
}

fn wait(cx: &mut Cx<'_>, at: At<'_>, wait: &WaitFor) {
    let _ = cx.probe(at.get("probe"), &wait.probe);
    if cx.positive(at.get("timeout"), "`timeout`", wait.timeout) && wait.hold >= wait.timeout {
        cx.gather
            .mistake(
                at.get("timeout").span(),
                format!("`timeout` {} is not longer than `for` {}: it could never hold", wait.timeout, wait.hold),
            )
            .also(at.get("for").span(), "for");
    }
    let (longest, span) = cx.longest();
    if wait.timeout > longest && longest > Dur::ZERO {
        cx.gather
            .warning(at.get("timeout").span(), format!("`timeout` {} is longer than the drill may take, {longest}", wait.timeout))
            .also(span, "limits.duration")
            .help("the drill would be aborted first");
    }
}

fn revert(cx: &mut Cx<'_>, at: At<'_>, name: &str, top: usize) {
    let Some(step) = cx.inject(at, name) else { return };
    if step.top >= top {
        cx.gather
            .mistake(at.span(), format!("step `{}` does not come before its revert", clip(name)))
            .also(step.span, "it is here")
            .help("a fault can be reverted once it was injected");
    }
    if step.fault().is_some_and(|fault| fault.undo == Some(UndoPolicy::None)) {
        cx.gather
            .mistake(at.span(), format!("step `{}` has `undo: none`: there is nothing to revert", clip(name)))
            .also(step.span, "the step");
    }
}

fn runbook(cx: &mut Cx<'_>, at: At<'_>, runbook: &Runbook) {
    if let Some(file) = runbook.file.as_ref().filter(|file| !text::is_beside(file)) {
        cx.gather
            .mistake(at.get("file").span(), format!("`{}` is not a file beside the scenario", clip(file)))
            .help("write a path below the scenario's own folder, for example `runbooks/restore.md`");
    }
    if let Some(job) = &runbook.cron_job {
        if job.parse::<crate::scenario::types::ServiceRef>().map_or(true, |name| name.port.is_some()) {
            cx.gather.mistake(at.get("cronJob").span(), format!("`{}` is not `namespace/name`", clip(job)));
        }
        for key in ["runIn", "stepWithin"] {
            if at.get(key).is_set() {
                cx.gather.mistake(at.get(key).key(), format!("`{key}` goes with a `file`")).also(at.get("cronJob").key(), "cronJob");
            }
        }
    }
    if let Some(target) = runbook.run_in.as_ref().and_then(|run_in| run_in.target.as_ref()) {
        cx.target(at.get("runIn").get("target"), target, &[TargetKind::Pods], "`runIn`");
    }
    if let Some(job) = runbook.run_in.as_ref().and_then(|run_in| run_in.job.as_ref()) {
        let place = at.get("runIn").get("job");
        if job.image.trim().is_empty() {
            cx.gather.mistake(place.get("image").span(), "the image is empty");
        }
        for (i, volume) in job.new_volumes.iter().enumerate() {
            let place = place.get("newVolumes").item(i);
            if !volume.path.starts_with('/') {
                cx.gather.mistake(place.get("path").span(), format!("`{}` does not start with `/`", clip(&volume.path)));
            }
            if volume.size.0 == 0 {
                cx.gather.mistake(place.get("size").span(), "a volume of no size");
            }
        }
        for (key, list, kinds) in [("volumes", &job.volumes, &[][..]), ("mounts", &job.mounts, &["secret/", "configMap/"][..])] {
            for (i, text) in list.iter().enumerate() {
                let ok = text.split_once(':').is_some_and(|(what, path)| {
                    path.starts_with('/')
                        && !what.is_empty()
                        && (kinds.is_empty() || kinds.iter().any(|kind| what.strip_prefix(kind).is_some_and(|n| !n.is_empty())))
                });
                if !ok {
                    let form = if key == "volumes" { "`claim:/path`" } else { "`secret/NAME:/path` or `configMap/NAME:/path`" };
                    cx.gather.mistake(place.get(key).item(i).span(), format!("`{}` is not {form}", clip(text)));
                }
            }
        }
    }
    if runbook.file.is_some() && runbook.run_in.is_none() {
        cx.gather.warning(at.key(), "the runbook has no `runIn`").help("if it has `sh` blocks, say where they run");
    }
    if let Some(within) = runbook.step_within {
        cx.positive(at.get("stepWithin"), "`stepWithin`", within);
    }
    for (i, name) in runbook.restores.iter().enumerate() {
        let place = at.get("restores").item(i);
        // A fault without a target is named by its step.
        let by_step = cx.steps.iter().any(|s| s.kind == Some("inject") && s.name.as_deref() == Some(name));
        if !by_step {
            cx.target(place, name, &ALL_KINDS, "`restores`");
        }
        let undone = cx.steps.iter().filter(|s| s.kind == Some("inject")).any(|s| match s.fault() {
            None => true,
            Some(fault) => fault.undo == Some(UndoPolicy::Runbook) && (fault.target() == Some(name) || s.name.as_deref() == Some(name)),
        });
        if !undone {
            cx.gather
                .warning(place.span(), format!("no fault on `{}` has `undo: runbook`", clip(name)))
                .help("what the runbook restores is then undone a second time by firedrill");
        }
    }
}

const ALL_KINDS: [TargetKind; 7] = [
    TargetKind::Pods,
    TargetKind::Nodes,
    TargetKind::Pvc,
    TargetKind::Service,
    TargetKind::CronJob,
    TargetKind::Workload,
    TargetKind::Secret,
];

fn fault(cx: &mut Cx<'_>, at: At<'_>, fault: &FaultSpec, top: usize) {
    let Some(kind) = fault.kind_name() else { return };
    let Some(rule) = fault_rule(kind) else { return };
    let place = at.get(kind);
    if let Some(name) = fault.target() {
        let target = cx.target(place.get("target"), name, rule.targets, &format!("`{kind}`"));
        let number = target.map_or(1, at_least);
        // What a target of the wrong kind would count is nothing to go by.
        let fits = target.is_some() || !matches!(cx.model.targets.get(name), Some(Some(_)));
        let limits = &cx.model.limits;
        // Scaling up takes no pod down; whether scaling to less does is for the plan to see.
        let pods = rule.counts.pods && fault.scale.as_ref().is_none_or(|scale| scale.replicas == 0);
        let on_pods = rule.targets == [TargetKind::Pods];
        let on_nodes = rule.targets == [TargetKind::Nodes];
        for (counts, key, limit, least) in [
            (pods, "pods", limits.pods, if on_pods { number } else { 1 }),
            (rule.counts.nodes, "nodes", limits.nodes, if on_nodes { number } else { 1 }),
            (rule.counts.volumes, "volumes", limits.volumes, number),
            (rule.counts.objects, "objects", limits.objects, number),
        ] {
            if fits && counts {
                limited(cx, place, kind, (key, limit), least);
            }
        }
    } else if fault.object_file().is_some() {
        limited(cx, place, kind, ("objects", cx.model.limits.objects), 1);
    }
    undo(cx, at, fault, kind, top);
    if let Some(placement) = fault.placement {
        let place = at.get("placement");
        let has = placements(kind);
        if has.is_empty() {
            cx.gather.mistake(place.key(), format!("`{kind}` has no helper, and so no `placement`")).help("leave it out");
        } else if !has.contains(&placement) {
            cx.gather
                .mistake(place.span(), format!("`{kind}` needs its node, and cannot be made from within a pod"))
                .help("leave `placement` out");
        }
    }
    acts::check(cx, place, fault, kind);
}

/// Whether a limit leaves room for what the fault breaks at least.
fn limited(cx: &mut Cx<'_>, place: At<'_>, kind: &str, (key, limit): (&str, u32), least: u32) {
    if limit < least {
        let written = cx.spec.get("limits").get(key);
        cx.gather
            .mistake(place.key(), format!("`{kind}` breaks at least {least} of `{key}`, and `limits.{key}` is {limit}"))
            .also(if written.is_set() { written.span() } else { cx.spec.get("limits").key() }, "the limits")
            .help(format!("what `limits` does not name is 0; set `{key}: {least}` if that is wanted"));
    }
}

/// Whether the fault's undo policy can be kept.
fn undo(cx: &mut Cx<'_>, at: At<'_>, fault: &FaultSpec, kind: &str, top: usize) {
    let policy = fault.undo.unwrap_or_default();
    let automatic = matches!(policy, UndoPolicy::Auto | UndoPolicy::OnAbort);
    if automatic && fault.sql.as_ref().is_some_and(|sql| sql.revert.is_none()) {
        let span = if at.get("undo").is_set() { at.get("undo").span() } else { at.get("sql").key() };
        cx.gather
            .mistake(span, "an `sql` fault without `revert` has no undo of its own")
            .help("give it a `revert` statement, or `undo: runbook` if the runbook restores it, or `undo: none`");
    }
    if automatic && fault.lose_volume.as_ref().is_some_and(|volume| !volume.set_aside) {
        cx.gather
            .mistake(at.get("loseVolume").get("setAside").span(), "what is not set aside cannot be put back")
            .help("set `undo: runbook` if the runbook restores it, or `undo: none`");
    }
    if let Some(duration) = fault.duration {
        cx.positive(at.get("for"), "`for`", duration);
        if policy == UndoPolicy::None {
            cx.gather
                .mistake(at.get("for").key(), "`for` reverts the fault, and `undo: none` says never")
                .also(at.get("undo").span(), "undo");
        }
    }
    if policy == UndoPolicy::Runbook {
        // By its target; a fault without one by the name of its step.
        let target = fault.target();
        let step = cx.steps.iter().find(|s| s.fault() == Some(fault)).and_then(|s| s.name.as_deref());
        let restored = cx.model.steps.iter().enumerate().skip(top).any(|(_, later)| match later {
            None => true,
            Some(later) => restores(later, target) || restores(later, step),
        });
        if !restored {
            let name = target.or(step);
            let what = name.map_or_else(|| "it".to_owned(), |t| format!("`{}`", clip(t)));
            let help = match name {
                Some(name) => format!("add `restores: [{}]` to the runbook step that does, after this step", clip(name)),
                None => "give this step a `name`, and name it under `restores` of the runbook step that restores it".to_owned(),
            };
            cx.gather
                .mistake(at.get("undo").span(), format!("`undo: runbook`, but no later runbook step restores {what}"))
                .also(at.get(kind).key(), "the fault")
                .help(help);
        }
    }
}

fn restores(step: &Step, name: Option<&str>) -> bool {
    let Some(name) = name else { return false };
    let own = step.runbook.as_ref().is_some_and(|runbook| runbook.restores.iter().any(|r| r == name));
    own || step.parallel.iter().flatten().any(|step| restores(step, Some(name)))
}
