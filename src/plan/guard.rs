//! What may not be broken. Asked when the plan is made and again at each inject, of the same facts read anew.
//!
//! - A fault changes things only in namespaces, and nodes, whose owners put the label `firedrill.dev/drills=allowed` on
//!   them; so does a runbook, and a probe that writes. System namespaces and firedrill's own are refused whatever their labels.
//! - A fault on pods needs their namespace's label and not their node's, even where a node helper does it: the helper
//!   acts on the processes of these pods alone, runs in firedrill's own namespace, and whether privileged helpers may be
//!   placed at all is said by the environment (`firedrill.nodeHelpers`) and by the cluster's own admission; where not, what can be is
//!   made from within the target's pods. A fault on
//!   a node needs that node's label; a drain needs that of every namespace besides whose pods it evicts.
//! - The limits count what is distinct over the whole drill. Scaling down counts the pods that go.
//! - A PodDisruptionBudget is asked for each fault: all pods of it that the fault breaks go at once, and a budget whose
//!   status is older than its spec allows nothing, as the eviction API has it.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::SelectorExt as _;

use super::{
    claims, drain, kinds, placed, resolve,
    rollout::which,
    seen::{NamedKind, ObjectSeen, PodSeen, Snapshot},
    types::{BlastRadius, ResolvedObject, ResolvedTarget},
};
use crate::{
    fault::Undo,
    labels,
    scenario::{
        diag::counted,
        types::{BudgetPolicy, EnvironmentSpec, FaultSpec, Limits},
    },
};

/// A volume that is named by a pod that has it mounted; its uid is the pod's.
pub(crate) const VOLUME: &str = "Volume";

/// Rows of a database, which have a limit of their own and count against none of the drill's.
pub(crate) const DATABASE: &str = "Database";

/// What the faults of a drill have broken so far, by uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Pods.
    pub pods: BTreeSet<String>,
    /// Nodes.
    pub nodes: BTreeSet<String>,
    /// Volumes.
    pub volumes: BTreeSet<String>,
    /// Other objects.
    pub objects: BTreeSet<String>,
    /// Pods that scaling a workload takes away or adds, or that a rollout takes away, by the workload's uid. Those that are added take room from others.
    pub scaled: BTreeMap<String, u32>,
}

impl Touched {
    /// Adds what an intent of the journal says: how a resumed drill knows. Objects are kind and uid.
    pub fn add_intent<'a>(&mut self, undo: &Undo, objects: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (kind, uid) in objects {
            self.add(kind, uid);
        }
        if let Undo::Scale { uid, before, set, .. } = undo {
            self.scaled.insert(uid.clone(), before.abs_diff(*set));
        }
        if let Undo::Image { uid, takes, .. } = undo {
            self.scaled.insert(uid.clone(), *takes);
        }
    }

    fn add(&mut self, kind: &str, uid: &str) {
        let set = match kind {
            "Pod" => &mut self.pods,
            "Node" => &mut self.nodes,
            "PersistentVolumeClaim" | VOLUME => &mut self.volumes,
            DATABASE => return,
            _ => &mut self.objects,
        };
        set.insert(uid.to_owned());
    }

    /// In numbers.
    pub fn blast(&self) -> BlastRadius {
        BlastRadius {
            pods: self.scaled.values().fold(count(&self.pods), |sum, n| sum.saturating_add(*n)),
            nodes: count(&self.nodes),
            volumes: count(&self.volumes),
            objects: count(&self.objects),
        }
    }
}

fn count(set: &BTreeSet<String>) -> u32 {
    u32::try_from(set.len()).unwrap_or(u32::MAX)
}

/// A fault that is about to be planned or injected, and the target it is meant for as it resolves now.
#[derive(Debug, Clone, Copy)]
pub struct FaultOn<'a> {
    /// The step's name, for messages.
    pub step: &'a str,
    /// The fault.
    pub spec: &'a FaultSpec,
    /// The target's name.
    pub target_name: &'a str,
    /// The target as resolved.
    pub target: &'a ResolvedTarget,
}

/// What the guards found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why not. Empty: it may be done.
    pub refusals: Vec<String>,
    /// What a reader should know.
    pub warnings: Vec<String>,
}

/// Checks a fault against everything but the limits, adds what it would break to `touched`, and checks the limits on that.
pub fn check(place: &EnvironmentSpec, limits: &Limits, fault: FaultOn<'_>, snapshot: &Snapshot, touched: &mut Touched) -> Findings {
    let mut found = Findings::default();
    let FaultOn { step, spec, target_name, target } = fault;
    let Some(view) = kinds::fault(spec) else {
        found.refusals.push(format!("step `{step}`: its fault must have exactly one kind"));
        return found;
    };
    counts(target_name, target, &mut found);
    if target.matched == 0 {
        let own = target.spec.namespace.as_ref().filter(|namespace| snapshot.own_pods.contains(*namespace));
        let own = own.map_or("", |_| " but pods of firedrill's own, which no drill may break: select others by their labels");
        found.refusals.push(format!("step `{step}`: target `{target_name}` ({}) matches nothing{own}", describe(target)));
    }
    placed::check(&place.firedrill, fault, &view, snapshot, &mut found);
    if let Some(path) = path(spec).filter(|path| path.split('/').any(|part| part == "..")) {
        found.refusals.push(format!("step `{step}`: `{path}` may lead out of the volume: write the path without `..`"));
    }
    if let Some(path) = path(spec).filter(|path| view.breaks == kinds::Breaks::Volumes && !path.contains("..")) {
        placed::volumes(fault, &view, path, snapshot, &mut found);
    }
    for object in target.chosen() {
        if !view.accepts.contains(&object.kind.as_str()) {
            found.refusals.push(format!(
                "step `{step}`: `{}` cannot act on {}, only on {}",
                view.kind,
                called(object),
                view.accepts.join(" or ")
            ));
            break;
        }
    }
    for namespace in target.chosen().map(|o| o.namespace.as_str()).filter(|n| !n.is_empty()).collect::<BTreeSet<_>>() {
        found.refusals.extend(namespace_refusal(&format!("step `{step}`"), namespace, place, snapshot));
    }
    for node in target.chosen().filter(|o| o.kind == "Node") {
        found.refusals.extend(node_refusal(step, &node.name, snapshot));
        // What runs nowhere else would be lost: the API server through which all is undone.
        let labels = snapshot.nodes.get(&node.name).map(|seen| &seen.labels);
        if view.helper && labels.is_some_and(|has| labels::CONTROL_PLANE.iter().any(|label| has.contains_key(*label))) {
            let (kind, name) = (view.kind, &node.name);
            found
                .refusals
                .push(format!("step `{step}`: node {name} carries the control plane: `{kind}` may not act on it, whatever its labels"));
        }
    }
    drain::check(place, fault, snapshot, touched, &mut found);
    claims::check(fault, snapshot, touched, &mut found);
    if view.asks_budgets() {
        budgets(limits.budgets, step, spec, target, snapshot, &mut found);
    }
    let unready = target.chosen().filter(|o| o.kind == "Pod" && !o.ready).map(|o| o.name.as_str()).collect::<Vec<_>>();
    if !unready.is_empty() {
        found.warnings.push(format!("step `{step}`: not ready now, so that breaking it may prove nothing: {}", some(&unready)));
    }
    for object in target.chosen() {
        // What acts on a volume of a pod breaks the volume.
        let volume = view.breaks == kinds::Breaks::Volumes && object.kind == "Pod";
        touched.add(if volume { VOLUME } else { &object.kind }, &object.uid);
        if let Some(scale) = &spec.scale
            && let Some(replicas) = workload(object, snapshot).and_then(|w| w.replicas)
        {
            touched.scaled.insert(object.uid.clone(), replicas.abs_diff(scale.replicas));
            if replicas == scale.replicas {
                found.refusals.push(format!(
                    "step `{step}`: {} already has {}: scaling it would change nothing",
                    called(object),
                    counted(replicas, "replica")
                ));
            }
        }
        if spec.bad_image.is_some() || spec.detach_service.is_some() {
            let seen = workload(object, snapshot).or_else(|| snapshot.object(NamedKind::Service, &object.namespace, &object.name));
            let which = seen.filter(|_| spec.bad_image.is_some()).and_then(|seen| which(&seen.containers, &target.spec.containers));
            if let Some(why) = seen.and_then(|seen| seen.unfit.clone()).or(which) {
                found.refusals.push(format!("step `{step}`: `{}` can do nothing with {}: {why}", view.kind, called(object)));
            }
            if let Some(seen) = seen.filter(|_| spec.bad_image.is_some()) {
                touched.scaled.insert(object.uid.clone(), seen.takes);
            }
        }
        if spec.cut_backup_job.as_ref().is_some_and(|cut| cut.how == crate::scenario::types::CutHow::Suspend)
            && snapshot.object(NamedKind::CronJob, &object.namespace, &object.name).is_some_and(|o| o.suspended)
        {
            found.refusals.push(format!("step `{step}`: {} is suspended already: suspending it would change nothing", called(object)));
        }
    }
    found.refusals.extend(over_limits(limits, touched).into_iter().map(|why| format!("step `{step}`: {why}")));
    found
}

/// Where on a volume a fault acts.
fn path(spec: &FaultSpec) -> Option<&str> {
    let fill = spec.fill_disk.as_ref().or(spec.fill_node_disk.as_ref()).and_then(|fill| fill.path.as_deref());
    let corrupt = spec.corrupt_file.as_ref().map(|corrupt| corrupt.path.as_str());
    fill.or(corrupt).or(spec.delete_files.as_ref().map(|delete| delete.path.as_str()))
}

/// What `expect` and `mode` say against what matches.
pub fn counts(name: &str, target: &ResolvedTarget, found: &mut Findings) {
    let matched = target.matched;
    if let Some(expect) = target.spec.expect
        && expect != matched
    {
        let names: Vec<&str> = target.objects.iter().map(|o| o.name.as_str()).collect();
        let which = if names.is_empty() { String::new() } else { format!(" ({})", some(&names)) };
        found.refusals.push(format!("target `{name}` ({}) expects {expect} and matches {matched}{which}", describe(target)));
    }
    if matched > 0 && resolve::wanted(target.spec.mode, matched as usize).is_none() {
        found.refusals.push(format!("target `{name}` ({}) is to choose {} and matches only {matched}", describe(target), target.spec.mode));
    }
}

/// Why nothing may be changed in a namespace, if so. `who` begins the sentence.
pub fn namespace_refusal(who: &str, namespace: &str, place: &EnvironmentSpec, snapshot: &Snapshot) -> Option<String> {
    // Kubernetes keeps this prefix for itself.
    if labels::SYSTEM_NAMESPACES.contains(&namespace) || namespace.starts_with("kube-") {
        return Some(format!("{who}: namespace {namespace} is a system namespace; no drill may touch it, whatever its labels"));
    }
    if namespace == place.firedrill.namespace {
        return Some(format!("{who}: namespace {namespace} is firedrill's own; a drill may not break what runs it"));
    }
    let Some(seen) = snapshot.namespaces.get(namespace) else {
        return Some(format!("{who}: namespace {namespace} does not exist"));
    };
    if seen.terminating {
        return Some(format!("{who}: namespace {namespace} is being deleted"));
    }
    (!seen.allowed()).then(|| {
        let (key, value) = (labels::DRILLS, labels::ALLOWED);
        format!("{who}: namespace {namespace} does not allow drills: its owner can say `kubectl label namespace {namespace} {key}={value}`")
    })
}

fn node_refusal(step: &str, node: &str, snapshot: &Snapshot) -> Option<String> {
    let Some(seen) = snapshot.nodes.get(node) else {
        return Some(format!("step `{step}`: node {node} does not exist"));
    };
    if snapshot.own_nodes.contains(node) {
        return Some(format!(
            "step `{step}`: node {node} carries firedrill's own runner, observer or operator: move it, or choose other nodes"
        ));
    }
    (!seen.allowed()).then(|| {
        let (key, value) = (labels::DRILLS, labels::ALLOWED);
        format!("step `{step}`: node {node} does not allow drills: its owner can say `kubectl label node {node} {key}={value}`")
    })
}

/// What is asked of a budget: namespace, name, how many may go now, and whether that is out of date.
type Asked<'a> = (&'a str, &'a str, u32, bool);

/// The budgets that speak of a pod.
fn budgets_of<'a>(namespace: &'a str, pod: &PodSeen, snapshot: &'a Snapshot) -> impl Iterator<Item = Asked<'a>> {
    let budgets = snapshot.budgets.get(namespace).map(Vec::as_slice).unwrap_or_default();
    budgets
        .iter()
        .filter(|budget| budget.selector.as_ref().is_some_and(|s| s.matches(&pod.labels)))
        .map(move |budget| (namespace, budget.name.as_str(), if budget.stale { 0 } else { budget.allowed }, budget.stale))
        .collect::<Vec<_>>()
        .into_iter()
}

fn budgets(policy: BudgetPolicy, step: &str, spec: &FaultSpec, target: &ResolvedTarget, snapshot: &Snapshot, found: &mut Findings) {
    let with_volume = claims::users(spec, target, snapshot);
    let mut broken: BTreeMap<Asked<'_>, u32> = BTreeMap::new();
    for object in target.chosen().chain(&with_volume) {
        if let Some(pod) = snapshot.pod(&object.namespace, &object.name).filter(|_| object.kind == "Pod") {
            for budget in budgets_of(&object.namespace, pod, snapshot) {
                *broken.entry(budget).or_default() += 1;
            }
        } else if let Some(scale) = &spec.scale
            && let Some(ObjectSeen { replicas: Some(replicas), selector: Some(selector), .. }) = workload(object, snapshot)
            && *replicas > scale.replicas
        {
            // Which of its pods go is the controller's choice, so any budget that speaks of one of them is asked for all that go.
            let pods = snapshot.pods.get(&object.namespace).into_iter().flatten().map(|(_, pod)| pod);
            let asked =
                pods.filter(|pod| !pod.ending && selector.matches(&pod.labels)).flat_map(|p| budgets_of(&object.namespace, p, snapshot));
            for budget in asked.collect::<BTreeSet<_>>() {
                *broken.entry(budget).or_default() += replicas - scale.replicas;
            }
        }
    }
    for ((namespace, budget, allowed, stale), wanted) in broken {
        if wanted <= allowed {
            continue;
        }
        let pods = counted(wanted, "pod");
        let stale = if stale { " (its status is not up to date)" } else { "" };
        let text = format!("step `{step}` breaks {pods} of PodDisruptionBudget {namespace}/{budget}, which allows {allowed} now{stale}");
        match policy {
            BudgetPolicy::Respect => found.refusals.push(format!("{text}: wait, choose fewer, or say `limits: {{budgets: ignore}}`")),
            BudgetPolicy::Ignore => found.warnings.push(format!("{text}; the scenario ignores budgets")),
        }
    }
}

pub(super) fn over_limits(limits: &Limits, touched: &Touched) -> Vec<String> {
    if planted!(IgnoreLimits) {
        return Vec::new();
    }
    let is = touched.blast();
    let rows = [
        ("pods", is.pods, limits.pods),
        ("nodes", is.nodes, limits.nodes),
        ("volumes", is.volumes, limits.volumes),
        ("objects", is.objects, limits.objects),
    ];
    rows.into_iter()
        .filter(|(_, is, limit)| is > limit)
        .map(|(what, is, limit)| {
            format!("with it the drill breaks {}, and `limits.{what}` is {limit}", counted(is, what.trim_end_matches('s')))
        })
        .collect()
}

fn workload<'a>(object: &ResolvedObject, snapshot: &'a Snapshot) -> Option<&'a ObjectSeen> {
    let kind = match object.kind.as_str() {
        "Deployment" => NamedKind::Deployment,
        "StatefulSet" => NamedKind::StatefulSet,
        _ => return None,
    };
    snapshot.object(kind, &object.namespace, &object.name)
}

/// `Pod shop/orders-0`.
pub fn called(object: &ResolvedObject) -> String {
    crate::cluster::named(&object.kind, &object.namespace, &object.name)
}

/// A target in few words: `pods app=web in shop`.
pub fn describe(target: &ResolvedTarget) -> String {
    let spec = &target.spec;
    let what = [
        ("pods", spec.pods.as_ref().map(|s| s.0.as_str())),
        ("pod", spec.name.as_deref()),
        ("pods of", spec.owner.as_deref()),
        ("nodes", spec.nodes.as_ref().map(|s| s.0.as_str())),
        ("nodes of zone", spec.zone.as_deref()),
        ("claim", spec.pvc.as_deref()),
        ("Service", spec.service.as_deref()),
        ("CronJob", spec.cron_job.as_deref()),
        ("Deployment", spec.deployment.as_deref()),
        ("StatefulSet", spec.stateful_set.as_deref()),
        ("Secret", spec.secret.as_deref()),
    ];
    let what = what.into_iter().find_map(|(kind, value)| value.map(|v| format!("{kind} {v}"))).unwrap_or_default();
    spec.namespace.as_ref().map_or_else(|| what.clone(), |namespace| format!("{what} in {namespace}"))
}

/// Up to five names.
fn some(names: &[&str]) -> String {
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}
