//! What agents within the targets' pods would find, and what the watchdog's account may. Reads and asks; changes nothing.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::ResourceExt as _;

use super::{Area, Finding, Verdict};
use crate::{
    cluster::Cluster,
    labels,
    plan::{Permission, Plan, PlannedStep, kinds, may},
    scenario::types::OwnPlace,
};

/// What agents within pods are put there by.
const SUBRESOURCE: &str = "pods/ephemeralcontainers";
/// How many namespaces are asked about.
const NAMESPACES: usize = 20;

/// Whether a step's fault is made from within its target's pods.
pub(super) fn is_inside(plan: &Plan, step: &PlannedStep) -> bool {
    step.spec.inject.as_ref().is_some_and(|fault| kinds::is_inside(fault, &plan.place.firedrill))
}

/// Whether pods can be given an agent, and what Pod Security lets it be there.
pub(super) async fn within(cluster: &Cluster, plan: Option<&Plan>) -> Vec<Finding> {
    let mut found = vec![ephemeral(cluster, plan).await];
    for namespace in plan.iter().flat_map(|plan| &plan.scope.namespaces).take(NAMESPACES) {
        found.push(security(cluster, namespace, plan).await);
    }
    found
}

/// The namespaces in which agents are put into pods, or could be.
fn namespaces(plan: &Plan, wanted: impl Fn(&PlannedStep) -> bool) -> BTreeSet<String> {
    let steps = plan.leaf_steps().into_iter().filter(|step| wanted(step));
    let targets = steps.filter_map(|step| plan.targets.get(step.spec.inject.as_ref()?.target()?));
    targets.flat_map(|target| target.chosen().map(|object| object.namespace.clone())).filter(|n| !n.is_empty()).collect()
}

async fn ephemeral(cluster: &Cluster, plan: Option<&Plan>) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Drill, "ephemeral containers", verdict, found);
    let needed = plan.is_some_and(|plan| plan.leaf_steps().iter().any(|step| is_inside(plan, step)));
    let no = if needed { Verdict::No } else { Verdict::Ok };
    let unneeded = if needed { "" } else { ", and this drill needs none" };
    match cluster.call("ask the API server what pods have", cluster.client.list_core_api_resources("v1")).await {
        Ok(list) if list.resources.iter().any(|resource| resource.name == SUBRESOURCE) => {}
        Ok(_) => return of(no, format!("this API server does not have {SUBRESOURCE}{unneeded}")),
        Err(error) => return of(Verdict::Warning, error.to_string()),
    }
    let Some(plan) = plan else { return of(Verdict::Ok, format!("this API server has {SUBRESOURCE}")) };
    let could = |step: &PlannedStep| step.spec.inject.as_ref().and_then(kinds::fault).is_some_and(|view| view.works_inside());
    let asked: Vec<Permission> = namespaces(plan, could).into_iter().take(NAMESPACES).map(permission).collect();
    if asked.is_empty() {
        return of(Verdict::Ok, format!("this API server has {SUBRESOURCE}; no fault of this drill could be made by one"));
    }
    let missing = may::missing(cluster, &asked).await;
    if let Some(first) = missing.unknown.first() {
        return of(Verdict::Warning, format!("whether this user may is not known: {first}"));
    }
    if !missing.denied.is_empty() {
        let denied = of(no, format!("this user may not {}{unneeded}", missing.denied.join(", ")));
        return if needed { denied.change("`firedrill plan FILE --rbac` prints what an owner has to apply") } else { denied };
    }
    let places: Vec<&str> = asked.iter().filter_map(|rule| rule.namespace.as_deref()).collect();
    of(Verdict::Ok, format!("this API server has {SUBRESOURCE}, and this user may use them in {}", places.join(", ")))
}

fn permission(namespace: String) -> Permission {
    Permission {
        namespace: Some(namespace),
        group: String::new(),
        resource: SUBRESOURCE.to_owned(),
        verbs: vec!["patch".to_owned()],
        names: Vec::new(),
        because: String::new(),
    }
}

/// What a namespace enforces. Whether an agent fits there is for the plan to say.
async fn security(cluster: &Cluster, namespace: &str, plan: Option<&Plan>) -> Finding {
    let of = |verdict, found: String| Finding::new(Area::Drill, format!("Pod Security of {namespace}"), verdict, found);
    let level = match cluster.get_cluster_opt::<Namespace>(namespace).await {
        Ok(Some(namespace)) => namespace.labels().get(labels::POD_SECURITY).cloned(),
        Ok(None) => return of(Verdict::Warning, "the namespace is not there".to_owned()),
        Err(error) => return of(Verdict::Warning, error.to_string()),
    };
    let inside = plan.is_some_and(|plan| namespaces(plan, |step| is_inside(plan, step)).contains(namespace));
    let agents = match level.as_deref() {
        _ if !inside => "",
        Some(labels::RESTRICTED) => "; agents in pods are the target's own user and have no capability",
        _ => "; agents in pods are user 0 with DAC_OVERRIDE or KILL",
    };
    let said = level.map_or_else(|| "nothing said: the cluster's own default".to_owned(), |level| format!("enforces *{level}*"));
    of(Verdict::Ok, format!("{said}{agents}"))
}

/// Whether the watchdog's account is there, and has the permissions to revert the drill. None: the drill has no watchdog.
pub(super) async fn watchdog(cluster: &Cluster, own: &OwnPlace, plan: Option<&Plan>) -> Option<Finding> {
    let of = |verdict, found: String| Finding::new(Area::Place, "watchdog's account", verdict, found);
    let account = plan.map_or(own.guard(), Plan::guarded_by)?;
    let (namespace, name) = (own.namespace.as_str(), account.service_account.as_str());
    let grant = "`firedrill plan FILE --rbac | kubectl apply -f -` makes it and what it may do";
    match cluster.get_opt::<ServiceAccount>(namespace, name).await {
        Ok(Some(_)) => {}
        Ok(None) => return Some(of(Verdict::No, format!("there is no ServiceAccount {namespace}/{name}")).change(grant)),
        // What it may can be asked all the same.
        Err(error) if error.is_forbidden() => {}
        Err(error) => return Some(of(Verdict::Warning, error.to_string())),
    }
    let Some(planned) = plan.and_then(|plan| plan.watchdog.as_ref()) else {
        return Some(of(Verdict::Ok, format!("ServiceAccount {namespace}/{name}; what it needs is known with a scenario")));
    };
    let missing = may::missing_of(cluster, (namespace, name), &planned.rbac).await;
    if !missing.denied.is_empty() {
        let more = if missing.denied.len() > 8 { format!(" and {} more", missing.denied.len() - 8) } else { String::new() };
        let denied = missing.denied.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        return Some(of(Verdict::No, format!("ServiceAccount {namespace}/{name} may not {denied}{more}")).change(grant));
    }
    Some(match missing.unknown.first() {
        Some(first) => of(Verdict::Warning, format!("what ServiceAccount {namespace}/{name} may cannot be asked by this user: {first}"))
            .change("have it allowed to create subjectaccessreviews, or wait: the watchdog asks for itself before the first fault"),
        None => {
            of(Verdict::Ok, format!("ServiceAccount {namespace}/{name} has all {} permissions to revert the drill", planned.rbac.len()))
        }
    })
}
