//! Targets.

use super::{model::At, spec::Cx, text};
use crate::{
    labels::SYSTEM_NAMESPACES,
    scenario::{
        diag::{clip, quoted},
        types::{Mode, Target, TargetKind},
    },
};

/// The kinds of controller pods can be chosen by.
const OWNERS: &[&str] = &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];

pub(super) fn check(cx: &mut Cx<'_>) {
    for (name, target) in &cx.model.targets {
        let at = cx.spec.get("targets").get(name);
        if !text::own_name(name) {
            cx.gather
                .mistake(at.key(), format!("`{}` is not a target's name", clip(name)))
                .help("letters, digits, `-` and `_`, at most 63");
        }
        if let Some(target) = target {
            one(cx, at, name, target);
        }
    }
}

fn one(cx: &mut Cx<'_>, at: At<'_>, name: &str, target: &Target) {
    let Some(kind) = target.kind() else { return };
    namespace(cx, at, name, target, kind);
    if let Some(owner) = &target.owner {
        let place = at.get("owner").span();
        match owner.split_once('/') {
            Some((kind, object)) if OWNERS.contains(&kind) && text::object_name(object) => {}
            Some((kind, _)) if !OWNERS.contains(&kind) => {
                let near = crate::scenario::diag::nearest(kind, OWNERS.iter().copied()).map(|k| format!("did you mean `{k}`?"));
                cx.gather
                    .mistake(place, format!("`{}` is no kind of controller", clip(kind)))
                    .help_if(near)
                    .help(format!("possible are {}", quoted(OWNERS.iter().copied())));
            }
            _ => {
                cx.gather.mistake(place, format!("`{}` is not `Kind/name`", clip(owner))).help("write for example `StatefulSet/orders`");
            }
        }
    }
    for (key, value) in [
        ("name", &target.name),
        ("pvc", &target.pvc),
        ("service", &target.service),
        ("cronJob", &target.cron_job),
        ("deployment", &target.deployment),
        ("statefulSet", &target.stateful_set),
        ("secret", &target.secret),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !text::object_name(value)) {
            cx.gather
                .mistake(at.get(key).span(), format!("`{}` is not an object's name", clip(value)))
                .help_if(value.contains('/').then(|| "the namespace goes under `namespace`".to_owned()));
        }
    }
    if !target.containers.is_empty() && !matches!(kind, TargetKind::Pods | TargetKind::Workload) {
        cx.gather.mistake(
            at.get("containers").key(),
            format!("`containers` fits targets of pods and workloads, and `{}` is {}", clip(name), kind.words()),
        );
    }
    if target.is_single() && at.get("mode").is_set() {
        cx.gather
            .mistake(at.get("mode").span(), format!("`{}` is one object by its name: there is nothing to choose", clip(name)))
            .help("leave `mode` out");
    }
    match (target.expect, target.mode) {
        (Some(0), _) => {
            cx.gather
                .mistake(at.get("expect").span(), "`expect: 0` would be a drill without a target")
                .help("a target that matches nothing refuses the drill");
        }
        (Some(expect), _) if target.is_single() && expect > 1 => {
            cx.gather.mistake(at.get("expect").span(), format!("`{}` is one object by its name, never {expect}", clip(name)));
        }
        (Some(expect), Mode::Count(n)) if n > expect => {
            cx.gather
                .mistake(at.get("mode").span(), format!("`mode: {n}` chooses more than the {expect} that are expected"))
                .also(at.get("expect").span(), "expect");
        }
        _ => {}
    }
}

fn namespace(cx: &mut Cx<'_>, at: At<'_>, name: &str, target: &Target, kind: TargetKind) {
    match (&target.namespace, kind) {
        (Some(_), TargetKind::Nodes) => {
            cx.gather.mistake(at.get("namespace").key(), "nodes and zones are in no namespace").help("leave `namespace` out");
        }
        (None, TargetKind::Nodes) => {}
        (None, _) => {
            cx.gather.mistake(at.key(), format!("target `{}` needs a `namespace`", clip(name)));
        }
        (Some(namespace), _) if !text::dns_label(namespace, 63) => {
            cx.gather.mistake(at.get("namespace").span(), format!("`{}` is not a namespace's name", clip(namespace)));
        }
        (Some(namespace), _) if SYSTEM_NAMESPACES.contains(&namespace.as_str()) => {
            cx.gather.mistake(at.get("namespace").span(), format!("no drill may touch the system namespace `{namespace}`"));
        }
        _ => {}
    }
}

/// How many objects of a target a fault breaks at least, as far as the scenario says.
pub(super) fn at_least(target: &Target) -> u32 {
    match target.mode {
        _ if target.is_single() => 1,
        Mode::One => 1,
        Mode::Count(n) => n,
        Mode::All => target.expect.unwrap_or(1),
        Mode::Percent(p) => target.expect.map_or(1, |n| u32::try_from((u64::from(n) * u64::from(p)).div_ceil(100)).unwrap_or(u32::MAX)),
    }
}
