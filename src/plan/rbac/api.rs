//! The permissions of the faults that are made through the API server, and of their reverts.

use super::{EXEC, Rules, owner_rules, workloads};
use crate::{
    labels,
    plan::types::{Plan, PlannedStep, ResolvedObject},
    scenario::types::{BudgetPolicy, CutHow, FaultSpec},
};

/// To read an object and change fields of it.
const CHANGE: &[&str] = &["get", "patch"];

/// What injecting it, watching it and its proofs need.
pub(super) fn of_fault(plan: &Plan, step: &PlannedStep, fault: &FaultSpec, object: &ResolvedObject, why: &str, rules: &mut Rules) {
    let own = plan.place.firedrill.namespace.as_str();
    of_revert(own, step, fault, object, why, rules);
    // Whether it holds is watched where one object shows it: see `fault::changed`.
    let suspends = fault.cut_backup_job.as_ref().is_some_and(|cut| cut.how == CutHow::Suspend);
    for (watched, group, resource) in [
        (fault.scale.is_some() || fault.bad_image.is_some(), "apps", workloads(&object.kind)),
        (suspends, "batch", "cronjobs"),
        (fault.detach_service.is_some(), "", "services"),
        (fault.hide_secret.is_some(), "", "secrets"),
    ] {
        if watched {
            rules.named(&object.namespace, group, resource, &object.name, &["watch"], why);
        }
    }
    if fault.hide_secret.is_some() {
        rules.named(&object.namespace, "", "secrets", &object.name, &["delete"], why);
        rules.all(own, "", "secrets", &["create"], why);
    }
    if let Some(lose) = &fault.lose_volume {
        // Whether it was set aside or not.
        claim_rules(step, object, lose.set_aside, why, rules);
    }
    if loses_nodes(fault) {
        // What is lost with a node counts against the limits.
        rules.add(None, "", "pods", None, &["list"], why);
        // Where the API server really is: the way there is kept.
        rules.all("default", "discovery.k8s.io", "endpointslices", &["list"], why);
    }
    if fault.drain_node.is_some() {
        // By their node, which may carry pods of any namespace.
        rules.add(None, "", "pods", None, &["list"], why);
        for pod in &step.evicts {
            match plan.limits.budgets {
                BudgetPolicy::Respect => rules.all(&pod.namespace, "", "pods/eviction", &["create"], why),
                BudgetPolicy::Ignore => rules.all(&pod.namespace, "", "pods", &["delete"], why),
            }
            rules.add(None, "", "namespaces", Some(&pod.namespace), &["get"], "whether drills are allowed");
        }
    }
}

/// Whether nodes are lost by it.
pub(super) const fn loses_nodes(fault: &FaultSpec) -> bool {
    fault.lose_node.is_some() || fault.lose_zone.is_some()
}

/// What reverting it and proving that it is gone need.
pub(super) fn of_revert(own: &str, step: &PlannedStep, fault: &FaultSpec, object: &ResolvedObject, why: &str, rules: &mut Rules) {
    if fault.cordon_node.is_some() || fault.drain_node.is_some() {
        rules.add(None, "", "nodes", Some(&object.name), CHANGE, why);
    }
    if loses_nodes(fault) {
        rules.add(None, "", "nodes", Some(&object.name), &["get"], why);
        rules.all(own, "coordination.k8s.io", "leases", &["create", "delete", "get", "patch"], why);
    }
    if fault.fill_node_disk.is_some() {
        rules.add(None, "", "nodes", Some(&object.name), &["get"], why);
    }
    let namespace = object.namespace.as_str();
    if fault.detach_service.is_some() {
        rules.named(namespace, "", "services", &object.name, CHANGE, why);
        rules.all(namespace, "discovery.k8s.io", "endpointslices", &["list"], why);
        rules.all(namespace, "", "pods", &["list"], why);
    }
    if fault.bad_image.is_some() {
        let history = if object.kind == "Deployment" { "replicasets" } else { "controllerrevisions" };
        rules.named(namespace, "apps", workloads(&object.kind), &object.name, CHANGE, why);
        // What the rollout has made has names that nobody knows before.
        rules.all(namespace, "apps", history, &["delete", "list"], why);
        rules.all(namespace, "", "pods", if object.kind == "Deployment" { &["list"] } else { &["delete", "list"] }, why);
    }
    if fault.hide_secret.is_some() {
        rules.named(namespace, "", "secrets", &object.name, CHANGE, why);
        rules.all(namespace, "", "secrets", &["create"], why);
        rules.named(own, "", "secrets", &labels::hidden_copy(namespace, &object.name), &["delete", "get"], why);
        rules.add(None, "", "namespaces", Some(namespace), &["get"], "whether drills are allowed");
    }
    if fault.lose_volume.as_ref().is_some_and(|lose| lose.set_aside) {
        claim_rules(step, object, true, why, rules);
        rules.add(None, "", "namespaces", Some(namespace), &["get"], "whether drills are allowed");
    }
    if fault.custom.is_some() {
        rules.all(namespace, "", "pods/exec", EXEC, why);
    }
    for pod in &step.evicts {
        rules.all(&pod.namespace, "", "pods", &["list"], why);
        owner_rules(&pod.namespace, &pod.owner, why, rules);
    }
}

/// To take a volume from a claim, or to give it back: either way the claim is deleted and made anew, and its pods go.
fn claim_rules(step: &PlannedStep, object: &ResolvedObject, set_aside: bool, why: &str, rules: &mut Rules) {
    let namespace = object.namespace.as_str();
    let (claim, volume) = if set_aside { (&["delete", "get", "patch"][..], CHANGE) } else { (&["delete", "get"][..], &["get"][..]) };
    rules.named(namespace, "", "persistentvolumeclaims", &object.name, claim, why);
    rules.all(namespace, "", "persistentvolumeclaims", &["create"], why);
    if let Some(name) = &step.volume {
        rules.add(None, "", "persistentvolumes", Some(name), volume, why);
    }
    // Which pods use it by then has no name that could be known now.
    rules.all(namespace, "", "pods", &["delete", "list"], why);
}

/// To make an object, look at it, and delete it.
pub(super) fn of_manifest(step: &PlannedStep, fault: &FaultSpec, why: &str, rules: &mut Rules) {
    let Some(object) = &step.manifest else { return };
    of_manifest_revert(step, fault, why, rules);
    if runs_jobs(fault) {
        return;
    }
    rules.all(&object.namespace, &object.group, &object.plural, &["create"], why);
    rules.add(None, "", "namespaces", Some(&object.namespace), &["get"], "whether drills are allowed");
    if let Some(secret) = fault.manifest.as_ref().and_then(|m| m.secret.as_ref()) {
        rules.named(&secret.namespace, "", "secrets", &secret.name, &["get"], why);
    }
}

/// Whether a fault's commands are run by Jobs.
pub(super) fn runs_jobs(fault: &FaultSpec) -> bool {
    fault.custom.as_ref().is_some_and(|custom| custom.job.is_some())
}

/// To delete it, and to see that it is gone.
pub(super) fn of_manifest_revert(step: &PlannedStep, fault: &FaultSpec, why: &str, rules: &mut Rules) {
    let Some(object) = &step.manifest else { return };
    if runs_jobs(fault) {
        let namespace = object.namespace.as_str();
        for part in ["inject", "effective", "revert", "gone"] {
            rules.named(namespace, "batch", "jobs", &format!("{}-{part}", object.name), &["delete", "get"], why);
        }
        // Ended, and left there.
        rules.named(namespace, "batch", "jobs", &format!("{}-inject", object.name), &["patch"], why);
        rules.all(namespace, "batch", "jobs", &["create"], why);
        rules.all(namespace, "", "pods", &["list"], why);
        rules.all(namespace, "", "pods/log", &["get"], why);
        rules.add(None, "", "namespaces", Some(namespace), &["get"], "whether drills are allowed");
    } else {
        rules.named(&object.namespace, &object.group, &object.plural, &object.name, &["delete", "get"], why);
    }
}
