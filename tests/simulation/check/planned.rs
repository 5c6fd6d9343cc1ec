//! No write outside the plan. What a plan allows is worked out here from its targets and faults.

use std::collections::{BTreeMap, BTreeSet};

use firedrill::{
    labels,
    plan::{Plan, PlannedStep},
    sandbox::AuditEntry,
    scenario::types::{CutHow, FaultSpec, Mode, Target},
};
use serde_json::Value;

use super::{Change, change_of};
use crate::history::{History, OWN, Runner, Violation, called, done, text, violation};

const PROMISE: &str = "no write outside the plan";
const LIMITS: &str = "limits are kept";

/// Every write of every runner.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let pods = history.pods();
    let mut made: BTreeSet<(String, String)> = BTreeSet::new();
    let mut found = Vec::new();
    for (number, entry, runner) in history.written() {
        let allowed = if entry.namespace == OWN { own(entry, runner, &mut made) } else { scope(entry, runner, &pods) };
        if let Err(why) = allowed {
            found.push(violation(PROMISE, format!("{why}: {}", called(number, entry))));
        }
    }
    found
}

/// In firedrill's own namespace: the drill's record and inbox, its Leases, and pods that it made there.
fn own(entry: &AuditEntry, runner: &Runner, made: &mut BTreeSet<(String, String)>) -> Result<(), String> {
    let sent = entry.request_object().unwrap_or_default();
    let name = if entry.name.is_empty() { text(&sent["metadata"]["name"]) } else { &entry.name };
    let maps = [format!("firedrill-{}", runner.drill), format!("firedrill-{}-inbox", runner.drill)];
    match (entry.resource.as_str(), entry.subresource.as_str()) {
        ("configmaps", "") if maps.iter().any(|map| map == name) => Ok(()),
        ("configmaps", "") => Err(format!("ConfigMap {name} is not its drill's")),
        ("leases", "") if runner.plan.leases.iter().any(|lease| lease == name) => Ok(()),
        ("leases", "") => Err(format!("Lease {name} is not in the plan")),
        ("pods", "") if entry.verb == "create" && sent["metadata"]["labels"][labels::DRILL] == runner.drill.as_str() => {
            made.insert((runner.drill.clone(), name.to_owned()));
            Ok(())
        }
        ("pods", _) if made.contains(&(runner.drill.clone(), name.to_owned())) => Ok(()),
        (resource, _) => Err(format!("{resource} {name} is none of its business")),
    }
}

/// Anywhere else: what a fault of the plan changes, and nothing else of it.
fn scope(entry: &AuditEntry, runner: &Runner, pods: &BTreeMap<String, Value>) -> Result<(), String> {
    let sent = entry.request_object().unwrap_or_default();
    let mut why = "no fault of the plan is about it".to_owned();
    for step in runner.plan.leaf_steps() {
        let Some((fault, target)) = fault_of(&runner.plan, step) else { continue };
        if target.namespace.as_deref() != Some(&entry.namespace) {
            continue;
        }
        match allows(entry, &sent, fault, target, pods) {
            Some(Ok(())) => return Ok(()),
            Some(Err(wrong)) => why = wrong,
            None => {}
        }
    }
    Err(why)
}

pub(super) fn fault_of<'a>(plan: &'a Plan, step: &'a PlannedStep) -> Option<(&'a FaultSpec, &'a Target)> {
    let fault = step.spec.inject.as_ref()?;
    Some((fault, &plan.targets.get(fault.target()?)?.spec))
}

/// Whether a fault allows a request; nothing if it is not about it.
fn allows(
    entry: &AuditEntry,
    sent: &Value,
    fault: &FaultSpec,
    target: &Target,
    pods: &BTreeMap<String, Value>,
) -> Option<Result<(), String>> {
    let is = |resource: &str, name: &Option<String>| entry.resource == resource && name.as_ref() == Some(&entry.name);
    if fault.scale.is_some() && (is("deployments", &target.deployment) || is("statefulsets", &target.stateful_set)) {
        return Some(patches_only(entry, sent, "replicas"));
    }
    if let Some(cut) = &fault.cut_backup_job {
        match cut.how {
            CutHow::Suspend if is("cronjobs", &target.cron_job) => return Some(patches_only(entry, sent, "suspend")),
            CutHow::Empty if is("cronjobs", &target.cron_job) => return Some(patches_only(entry, sent, "jobTemplate")),
            _ => {}
        }
    }
    if fault.pod_kill.is_some() && entry.resource == "pods" && entry.verb == "delete" {
        let uid = text(&sent["preconditions"]["uid"]);
        let Some(pod) = pods.get(uid) else { return Some(Err(format!("a pod by the uid `{uid}`, which there never was"))) };
        return selects(target, pod).then_some(Ok(()));
    }
    None
}

/// A patch of one field and of the drill's mark, against what was read.
fn patches_only(entry: &AuditEntry, sent: &Value, field: &str) -> Result<(), String> {
    if entry.verb != "patch" || !entry.subresource.is_empty() {
        return Err(format!("a fault changes `{field}` by a patch"));
    }
    let keys = |at: &Value| at.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let strange = keys(sent).into_iter().filter(|k| !matches!(k.as_str(), "metadata" | "spec")).chain(
        keys(&sent["metadata"])
            .into_iter()
            .filter(|k| !matches!(k.as_str(), "labels" | "resourceVersion" | "uid"))
            .chain(keys(&sent["metadata"]["labels"]).into_iter().filter(|k| k != labels::FAULT))
            .chain(keys(&sent["spec"]).into_iter().filter(|k| k != field)),
    );
    let strange: Vec<String> = strange.collect();
    if !strange.is_empty() {
        return Err(format!("changes also {}", strange.join(", ")));
    }
    if text(&sent["metadata"]["resourceVersion"]).is_empty() {
        return Err("written against no version that was read".to_owned());
    }
    Ok(())
}

/// Whether a target of pods means a pod: `key=value` pairs, as these scenarios have them.
pub(super) fn selects(target: &Target, pod: &Value) -> bool {
    let Some(selector) = &target.pods else { return false };
    selector.0.split(',').all(|pair| pair.split_once('=').is_some_and(|(key, value)| pod["metadata"]["labels"][key] == value))
}

/// How much a drill broke, by what was really sent, is within what its target's mode and its limits allow.
pub(super) fn limits(history: &History) -> Vec<Violation> {
    let pods = history.pods();
    let mut found = Vec::new();
    let mut replicas: BTreeMap<(String, String), i64> = BTreeMap::new();
    for object in &history.before {
        if let (Some(n), kind) = (object["spec"]["replicas"].as_i64(), text(&object["kind"])) {
            let resource = if kind == "Deployment" { "deployments" } else { "statefulsets" };
            replicas.insert((resource.to_owned(), text(&object["metadata"]["name"]).to_owned()), n);
        }
    }
    let mut broken: BTreeMap<String, Broken> = BTreeMap::new();
    let mut signals = history.signals.iter().filter(|sent| sent.breaks()).peekable();
    for (number, entry) in history.audit.iter().enumerate().filter(|(_, entry)| done(entry)) {
        let key = (entry.resource.clone(), entry.name.clone());
        let set = entry.request_object().and_then(|sent| sent["spec"]["replicas"].as_i64()).filter(|_| entry.subresource.is_empty());
        while let Some(sent) = signals.next_if(|sent| sent.at_us <= entry.at_us) {
            let Some(runner) = history.runners.iter().find(|runner| sent.is_of(&runner.drill)) else { continue };
            let broken = broken.entry(runner.drill.clone()).or_default();
            broken.signalled.insert(sent.uid.clone());
            found.extend(broken.over(runner, &pods).map(|why| violation(LIMITS, format!("{why}: {sent:?}"))));
        }
        if let Some(runner) = history.runner(&entry.user) {
            let broken = broken.entry(runner.drill.clone()).or_default();
            match change_of(entry) {
                Change::Break { uid } => {
                    if let (Some(set), Some(before)) = (set, replicas.get(&key)) {
                        broken.scaled_away.insert(uid.clone(), before - set);
                    }
                    broken.objects.insert(uid);
                }
                Change::Delete { uid } if entry.resource == "pods" => drop(broken.pods.insert(uid)),
                Change::Delete { .. } | Change::Undo | Change::Own => {}
            }
            found.extend(broken.over(runner, &pods).map(|why| violation(LIMITS, format!("{why}: {}", called(number, entry)))));
        }
        if let Some(set) = set {
            replicas.insert(key, set);
        }
    }
    found
}

#[derive(Debug, Default)]
struct Broken {
    pods: BTreeSet<String>,
    /// Pods whose processes were stopped or killed.
    signalled: BTreeSet<String>,
    objects: BTreeSet<String>,
    scaled_away: BTreeMap<String, i64>,
    told: bool,
}

impl Broken {
    /// What is too much, told once.
    fn over(&mut self, runner: &Runner, all: &BTreeMap<String, Value>) -> Option<String> {
        let limits = &runner.plan.limits;
        let pods = self.pods.union(&self.signalled).count() as i64 + self.scaled_away.values().filter(|n| **n > 0).sum::<i64>();
        let one = |step: &PlannedStep| {
            let (fault, target) = fault_of(&runner.plan, step)?;
            let killed = self.pods.iter().filter_map(|uid| all.get(uid)).filter(|pod| selects(target, pod)).count();
            (fault.pod_kill.is_some() && target.mode == Mode::One && killed > 1)
                .then(|| format!("{killed} pods killed where one was meant"))
        };
        let why = if pods > i64::from(limits.pods) {
            Some(format!("{pods} pods broken, and limits.pods is {}", limits.pods))
        } else if self.objects.len() > limits.objects as usize {
            Some(format!("{} objects broken, and limits.objects is {}", self.objects.len(), limits.objects))
        } else {
            runner.plan.leaf_steps().into_iter().find_map(one)
        };
        why.filter(|_| !std::mem::replace(&mut self.told, true))
    }
}
