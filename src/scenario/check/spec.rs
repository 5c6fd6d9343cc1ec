//! What a document means: the checks that need more than one part of it.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::{
    model::{At, Model, StepInfo, step_index},
    names, objectives, probes, steps, targets, text,
};
use crate::{
    labels::SYSTEM_NAMESPACES,
    scenario::{
        diag::{Gather, Span, clip, nearest, quoted},
        tree::{Node, Value},
        types::{API_VERSION, Dur, Environment, Probe, Target, TargetKind},
    },
};

/// What the checks of a scenario share.
pub(crate) struct Cx<'a> {
    pub(crate) spec: At<'a>,
    pub(crate) model: &'a Model,
    pub(crate) steps: &'a [StepInfo],
    pub(crate) gather: &'a mut Gather,
    pub(crate) used_targets: BTreeSet<String>,
}

/// Checks what a scenario means, and gives its parts. `json` is what [`super::shape`] made of `root`.
pub(crate) fn scenario(root: &Node, json: &Json, gather: &mut Gather) -> Model {
    use crate::scenario::schema::Document;
    let root = At::root(root);
    head(root, gather);
    let nothing = Json::Null;
    let spec = root.get("spec");
    let model = Model::new(json.get("spec").unwrap_or(&nothing), spec);
    let index = step_index(spec.get("steps"), &model);
    let mut cx = Cx { spec, model: &model, steps: &index, gather, used_targets: BTreeSet::new() };
    if json.get("spec").and_then(|s| s.get("summary")).and_then(Json::as_str).is_some_and(|s| s.trim().is_empty()) {
        cx.gather.mistake(spec.get("summary").span(), "`summary` is empty").help("one sentence: what is lost, and what must happen");
    }
    limits(&mut cx);
    targets::check(&mut cx);
    probes::check(&mut cx);
    steady_state(&mut cx);
    steps::check(&mut cx);
    objectives::check(&mut cx);
    abort_if(&mut cx);
    unused_targets(&mut cx);
    names::check(&mut cx, Document::Scenario.walked());
    model
}

/// Checks what an environment means.
pub(crate) fn environment(root: &Node, environment: Option<&Environment>, gather: &mut Gather) {
    let at = At::root(root);
    head(at, gather);
    let Some(environment) = environment else { return };
    let spec = at.get("spec");
    if environment.spec.clusters.is_empty() {
        gather
            .mistake(spec.get("clusters").key(), "`clusters` is empty")
            .help("name at least one cluster and the uid of its kube-system namespace");
    }
    for (name, cluster) in &environment.spec.clusters {
        let at = spec.get("clusters").get(name);
        if cluster.uid.trim().is_empty() {
            gather
                .mistake(at.get("uid").span(), format!("cluster `{}` has an empty `uid`", clip(name)))
                .help("kubectl get namespace kube-system -o jsonpath='{.metadata.uid}'");
        }
    }
    for (key, endpoint) in [
        ("prometheus", &environment.spec.prometheus),
        ("alertmanager", &environment.spec.alertmanager),
        ("receiver", &environment.spec.receiver),
    ] {
        let (at, Some(endpoint)) = (spec.get(key), endpoint) else { continue };
        if endpoint.service.as_ref().is_some_and(|service| service.port.is_none()) {
            gather.mistake(at.get("service").span(), format!("the Service of `{key}` needs a port")).help("write `namespace/name:port`");
        }
        if let Some(url) = &endpoint.url {
            match text::url(url) {
                Err(why) => drop(gather.mistake(at.get("url").span(), why)),
                Ok(Some(warning)) => drop(gather.warning(at.get("url").span(), warning)),
                Ok(None) => {}
            }
        }
    }
    if let Some(heartbeat) = &environment.spec.heartbeat {
        let at = spec.get("heartbeat");
        if heartbeat.every == Dur::ZERO {
            gather.mistake(at.get("every").span(), "a heartbeat cannot come every 0s");
        }
        if environment.spec.receiver.is_none() {
            gather.mistake(at.key(), "a heartbeat needs a `receiver`").help("its notifications are read back there");
        }
    }
    let own = &environment.spec.firedrill.namespace;
    let at = spec.get("firedrill").get("namespace");
    if !text::dns_label(own, 63) {
        gather.mistake(at.span(), format!("`{}` is not a namespace's name", clip(own)));
    } else if SYSTEM_NAMESPACES.contains(&own.as_str()) {
        gather.mistake(at.span(), format!("`{own}` is a system namespace")).help("give firedrill a namespace of its own");
    }
    let watchdog = &environment.spec.firedrill.watchdog;
    if !watchdog.service_account.split('.').all(|label| text::dns_label(label, 253)) {
        let at = spec.get("firedrill").get("watchdog").get("serviceAccount");
        gather
            .mistake(at.span(), format!("`{}` is not a ServiceAccount's name", clip(&watchdog.service_account)))
            .help("its name alone: it is in firedrill's own namespace");
    }
}

fn head(root: At<'_>, gather: &mut Gather) {
    let at = root.get("metadata").get("name");
    if let Some(name) = at.node().and_then(Node::text)
        && !text::dns_label(name, 50)
    {
        gather
            .mistake(at.span(), format!("`{}` is not a name", clip(name)))
            .help("lower case letters, digits and dashes, at most 50, no dash at its ends");
    }
}

/// What a document says it is; reported here when it is not one this build knows.
pub(crate) fn document(root: &Node, gather: &mut Gather) -> Option<crate::scenario::schema::Document> {
    use crate::scenario::schema::Document;
    let at = At::root(root);
    let version = at.get("apiVersion");
    match version.node().map(Node::text) {
        Some(Some(API_VERSION)) => {}
        // With a kind there is a schema, which asks for it.
        None if at.get("kind").is_set() => {}
        None => drop(gather.mistake(root.span, "`apiVersion` is missing").help(format!("write `apiVersion: {API_VERSION}`"))),
        Some(other) => {
            let shown = other.map_or_else(|| "that".to_owned(), |o| format!("`{}`", clip(o)));
            gather.mistake(version.span(), format!("{shown} is no version this build reads")).help(format!("write `{API_VERSION}`"));
        }
    }
    let kind = at.get("kind");
    let kinds = Document::ALL.map(Document::kind);
    match kind.node().map(Node::text) {
        Some(Some(text)) => {
            let found = Document::ALL.into_iter().find(|d| d.kind() == text);
            if found.is_none() {
                let meant = nearest(text, kinds).map(|k| format!("did you mean `{k}`?"));
                gather
                    .mistake(kind.span(), format!("`{}` is no kind of document", clip(text)))
                    .help_if(meant)
                    .help(format!("possible are {}", quoted(kinds)));
            }
            found
        }
        Some(None) => {
            gather.mistake(kind.key(), format!("`kind` must be one of {}", quoted(kinds)));
            None
        }
        None => {
            gather.mistake(root.span, "`kind` is missing").help(format!("possible are {}", quoted(kinds)));
            None
        }
    }
}

impl<'a> Cx<'a> {
    fn dangling(&mut self, at: At<'_>, what: &str, name: &str, names: &[String]) {
        // Where a scenario's targets, probes or steps cannot be read at all, which was said, what they are called is not known.
        if let Some(section) = self.spec.get(&format!("{what}s")).node()
            && !matches!((what, &section.value), ("step", Value::List(_)) | ("target" | "probe", Value::Map(_)))
        {
            return;
        }
        let names = || names.iter().map(String::as_str);
        let mut known: Vec<&str> = names().collect();
        known.dedup();
        let known =
            if known.is_empty() { format!("there are no {what}s") } else { format!("there are {}", quoted(known.into_iter().take(20))) };
        let meant = nearest(name, names()).map_or_else(String::new, |n| format!(": did you mean `{n}`?"));
        self.gather.mistake(at.span(), format!("{what} `{}` does not exist{meant}", clip(name))).help(known);
    }

    /// The probe of a name. None: there is none, which is said here, or its own shape is wrong.
    pub(crate) fn probe(&mut self, at: At<'_>, name: &str) -> Option<&'a Probe> {
        let found = self.model.probes.get(name);
        if found.is_none() {
            let names: Vec<String> = self.model.probes.keys().cloned().collect();
            self.dangling(at, "probe", name, &names);
        }
        found?.as_ref()
    }

    /// The probe of a name, which must be of a kind.
    pub(crate) fn probe_of(&mut self, at: At<'_>, name: &str, kind: &str, is: impl Fn(&Probe) -> bool) -> Option<&'a Probe> {
        let probe = self.probe(at, name)?;
        if is(probe) {
            return Some(probe);
        }
        let actual = crate::scenario::types::OneOf::kind_name(probe).unwrap_or("other");
        let fitting: Vec<&str> =
            self.model.probes.iter().filter(|(_, p)| p.as_ref().is_some_and(&is)).map(|(name, _)| name.as_str()).collect();
        let help =
            if fitting.is_empty() { format!("the scenario has no `{kind}` probe") } else { format!("of that kind: {}", quoted(fitting)) };
        self.gather.mistake(at.span(), format!("probe `{}` is of kind `{actual}`; `{kind}` is needed here", clip(name))).help(help);
        None
    }

    /// The target of a name. None: there is none, which is said here, or its own shape is wrong.
    pub(crate) fn named_target(&mut self, at: At<'_>, name: &str) -> Option<&'a Target> {
        let found = self.model.targets.get(name);
        if found.is_none() {
            let names: Vec<String> = self.model.targets.keys().cloned().collect();
            self.dangling(at, "target", name, &names);
        }
        found?.as_ref()
    }

    /// The target of a name, which must be of one of these kinds.
    pub(crate) fn target(&mut self, at: At<'_>, name: &str, kinds: &[TargetKind], who: &str) -> Option<&'a Target> {
        self.used_targets.insert(name.to_owned());
        let target = self.named_target(at, name)?;
        let kind = target.kind()?;
        if !kinds.contains(&kind) {
            let wanted = kinds.iter().map(|k| k.words()).collect::<Vec<_>>().join(" or ");
            self.gather
                .mistake(at.span(), format!("{who} needs {wanted}, and target `{}` is {}", clip(name), kind.words()))
                .also(self.spec.get("targets").get(name).key(), "the target");
            return None;
        }
        Some(target)
    }

    /// The step of a name.
    pub(crate) fn step(&mut self, at: At<'_>, name: &str) -> Option<&'a StepInfo> {
        let steps: &'a [StepInfo] = self.steps;
        let found = steps.iter().find(|step| step.name.as_deref() == Some(name));
        if found.is_none() {
            let names: Vec<String> = steps.iter().filter_map(|step| step.name.clone()).collect();
            if names.is_empty() && !steps.is_empty() {
                self.gather
                    .mistake(at.span(), format!("step `{}` does not exist", clip(name)))
                    .help("no step has a `name`: give the one that is meant one");
            } else {
                self.dangling(at, "step", name, &names);
            }
        }
        found
    }

    /// The step of a name, which must inject a fault.
    pub(crate) fn inject(&mut self, at: At<'_>, name: &str) -> Option<&'a StepInfo> {
        let step = self.step(at, name)?;
        match step.kind {
            Some("inject") => Some(step),
            None => None,
            Some(kind) => {
                let injects: Vec<&str> = self.steps.iter().filter(|s| s.kind == Some("inject")).filter_map(|s| s.name.as_deref()).collect();
                let help =
                    if injects.is_empty() { "no named step injects a fault".to_owned() } else { format!("faults: {}", quoted(injects)) };
                self.gather
                    .mistake(at.span(), format!("step `{}` is a `{kind}`; a step that injects a fault is needed here", clip(name)))
                    .also(step.span, "the step")
                    .help(help);
                None
            }
        }
    }

    /// The limit on the drill's duration, and where it is.
    pub(crate) fn longest(&self) -> (Dur, Span) {
        (self.model.limits.duration, self.spec.get("limits").get("duration").span())
    }

    /// A time that only makes sense if it is not 0.
    pub(crate) fn positive(&mut self, at: At<'_>, what: &str, dur: Dur) -> bool {
        if dur == Dur::ZERO && at.is_set() {
            self.gather.mistake(at.span(), format!("{what} is 0s")).help("give it a time");
        }
        dur != Dur::ZERO
    }
}

fn limits(cx: &mut Cx<'_>) {
    let at = cx.spec.get("limits");
    if cx.model.limits.duration == Dur::ZERO {
        cx.gather.mistake(at.get("duration").span(), "`limits.duration` is 0s: the drill would be aborted at its start");
    }
}

fn steady_state(cx: &mut Cx<'_>) {
    let at = cx.spec.get("steadyState");
    let Some(steady) = &cx.model.steady else {
        if !at.is_set() && cx.steps.iter().any(|step| step.kind == Some("inject")) {
            cx.gather
                .warning(cx.spec.key(), "there is no `steadyState`")
                .help("without it nothing shows that all was well before the fault, or is again after it");
        }
        return;
    };
    if steady.good.is_empty() && steady.quiet.is_empty() {
        cx.gather
            .mistake(at.key(), "`steadyState` names nothing that must hold")
            .help("name probes under `good`, alert probes under `quiet`");
    }
    for (i, name) in steady.good.iter().enumerate() {
        let place = at.get("good").item(i);
        if cx.probe(place, name).is_some_and(|probe| probe.alert.is_some()) {
            cx.gather
                .mistake(place.span(), format!("`{}` is an alert probe", clip(name)))
                .help("alerts that must not fire go under `quiet`");
        }
    }
    for (i, name) in steady.quiet.iter().enumerate() {
        cx.probe_of(at.get("quiet").item(i), name, "alert", |probe| probe.alert.is_some());
    }
    if cx.positive(at.get("for"), "`steadyState.for`", steady.hold) && steady.hold >= steady.timeout {
        cx.gather
            .mistake(
                at.get("timeout").span(),
                format!("`timeout` {} is not longer than `for` {}: it could never hold", steady.timeout, steady.hold),
            )
            .also(at.get("for").span(), "for");
    }
}

fn abort_if(cx: &mut Cx<'_>) {
    for (i, condition) in cx.model.abort_if.iter().enumerate() {
        let Some(condition) = condition else { continue };
        let at = cx.spec.get("abortIf").item(i);
        let _ = cx.probe(at.get("probe"), &condition.probe);
        let (longest, span) = cx.longest();
        if condition.hold > longest {
            cx.gather
                .mistake(at.get("for").span(), format!("`for` {} is longer than the drill may take, {longest}", condition.hold))
                .also(span, "limits.duration");
        }
    }
}

fn unused_targets(cx: &mut Cx<'_>) {
    let names: Vec<&String> = cx.model.targets.keys().filter(|name| !cx.used_targets.contains(*name)).collect();
    // What a part with a mistake uses is not known.
    let complete = cx.model.probes.values().all(Option::is_some)
        && cx.model.steps.iter().all(Option::is_some)
        && cx.model.objectives.iter().all(Option::is_some);
    if complete {
        for name in names {
            let span = cx.spec.get("targets").get(name).key();
            cx.gather.warning(span, format!("target `{}` is not used", clip(name)));
        }
    }
}

/// Names of which each may be there once only.
pub(crate) fn unique<'n>(cx: &mut Cx<'_>, what: &str, names: impl Iterator<Item = (&'n str, Span)>) {
    let mut seen: IndexMap<&str, Span> = IndexMap::new();
    for (name, span) in names {
        match seen.get(name) {
            Some(first) => {
                cx.gather
                    .mistake(span, format!("two {what}s have the name `{}`", clip(name)))
                    .also(*first, format!("the first one, line {}", first.line))
                    .help("give one of them another name");
            }
            None => drop(seen.insert(name, span)),
        }
    }
}
