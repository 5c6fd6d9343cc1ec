//! The guards once more, at the instant of an inject, against what is really there.

use super::{
    drain,
    guard::{self, FaultOn, Touched},
    kinds,
    make::{Refused, database_namespace},
    manifest, resolve, snapshot,
    types::{Plan, ResolvedTarget},
    wants::Wants,
};
use crate::{
    cluster::{Cluster, Fresh},
    scenario::types::Target,
};

/// A fault that may be injected now.
#[derive(Debug, Clone, PartialEq)]
pub struct Rechecked {
    /// Its target as it resolves now; without objects for a fault without a target.
    pub target: ResolvedTarget,
    /// What the drill has broken once this fault is injected.
    pub touched: Touched,
    /// What is worth a remark.
    pub warnings: Vec<String>,
}

/// Reads again what the fault of a step is about (its target, labels, budgets), resolves the target anew and asks all
/// guards. The chosen objects may differ from the plan's (a fail-over moves a role); what may never differ is that they
/// lie in the plan's scope, for which alone the drill holds Leases.
///
/// # Errors
/// Every reason why it may not be injected, also that the cluster could not be read.
pub async fn recheck(cluster: &Cluster, plan: &Plan, step_path: &str, touched: &Touched) -> Result<Rechecked, Refused> {
    let refused = |why: String| Refused { reasons: vec![why] };
    let step = plan.step(step_path).ok_or_else(|| refused(format!("the plan has no step {step_path}")))?;
    let spec = step.spec.inject.as_ref().ok_or_else(|| refused(format!("step `{}` injects nothing", step.title)))?;
    let view = kinds::fault(spec).ok_or_else(|| refused(format!("step `{}`: its fault must have exactly one kind", step.title)))?;
    let mut touched = touched.clone();
    let Some(name) = view.target else {
        let target = ResolvedTarget { spec: Target::default(), matched: 0, objects: Vec::new() };
        if let Some(object) = &step.manifest {
            let own_namespace = plan.place.firedrill.namespace.clone();
            let wants = Wants { namespaces: [object.namespace.clone()].into(), own_namespace, ..Wants::default() };
            let snapshot = snapshot::read(cluster, &wants, Fresh::Seen).await.map_err(|error| refused(error.to_string()))?;
            let found = manifest::check(&plan.place, &plan.limits, &step.title, object, &snapshot, &mut touched);
            if !found.refusals.is_empty() {
                return Err(Refused { reasons: found.refusals });
            }
        }
        if let Some(database) = kinds::fault_database(spec) {
            let who = format!("step `{}`", step.title);
            let namespace =
                database_namespace(database, &plan.targets).ok_or_else(|| refused(format!("{who}: its database is nowhere")))?;
            let own_namespace = plan.place.firedrill.namespace.clone();
            let wants = Wants { namespaces: [namespace.clone()].into(), own_namespace, ..Wants::default() };
            let snapshot = snapshot::read(cluster, &wants, Fresh::Seen).await.map_err(|error| refused(error.to_string()))?;
            if let Some(why) = guard::namespace_refusal(&who, &namespace, &plan.place, &snapshot) {
                return Err(refused(why));
            }
        }
        return Ok(Rechecked { target, touched, warnings: Vec::new() });
    };
    let planned = plan.targets.get(name).ok_or_else(|| refused(format!("the plan has no target `{name}`")))?;
    let mut wants = Wants::of_target(&planned.spec, &plan.place.firedrill.namespace, view.asks_budgets());
    if drain::takes_pods(spec) {
        wants.drained.push(planned.spec.clone());
    }
    if spec.lose_volume.is_some() {
        wants.all_pods(&planned.spec);
    }
    let snapshot = snapshot::read(cluster, &wants, Fresh::Seen).await.map_err(|error| refused(error.to_string()))?;
    let target = resolve::resolve(name, &planned.spec, &snapshot, plan.seed).map_err(refused)?;
    let on = FaultOn { step: &step.title, spec, target_name: name, target: &target };
    let mut found = guard::check(&plan.place, &plan.limits, on, &snapshot, &mut touched);
    for object in target.chosen().chain(&drain::evicted(spec, &target, &snapshot)) {
        let (scope, place) =
            if object.kind == "Node" { (&plan.scope.nodes, &object.name) } else { (&plan.scope.namespaces, &object.namespace) };
        if !scope.contains(place) {
            let called = guard::called(object);
            found.refusals.push(format!("step `{}`: {called} is outside the plan's scope, for which no Lease is held", step.title));
        }
    }
    if found.refusals.is_empty() {
        Ok(Rechecked { target, touched, warnings: found.warnings })
    } else {
        Err(Refused { reasons: found.refusals })
    }
}
