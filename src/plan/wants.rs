//! What planning has to see of a cluster, derived from the scenario alone: reading it is [`super::snapshot`]'s.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    plan::{
        kinds,
        seen::{NamedKind, ObjectKey},
    },
    scenario::types::{Environment, Scenario, Target},
};

/// What to read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wants {
    /// Namespaces, by name.
    pub namespaces: BTreeSet<String>,
    /// Pods by namespace: those of these selectors, or all when there is none.
    pub pods: BTreeMap<String, PodWants>,
    /// Namespaces whose PodDisruptionBudgets are wanted.
    pub budgets: BTreeSet<String>,
    /// Named objects that should exist.
    pub objects: BTreeSet<ObjectKey>,
    /// Services that a host name may mean; no permission to read them means that they are not meant.
    pub maybe_services: BTreeSet<(String, String)>,
    /// `apiVersion` and kind of object probes.
    pub kinds: BTreeSet<(String, String)>,
    /// Whether nodes are wanted.
    pub nodes: bool,
    /// Targets of nodes that are to be drained or lost: what is on them is wanted.
    pub drained: Vec<Target>,
    /// firedrill's own namespace.
    pub own_namespace: String,
}

/// Which pods of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodWants {
    /// Those of any of these selectors.
    Selected(BTreeSet<String>),
    /// All.
    All,
}

impl Wants {
    /// What a scenario in an environment needs.
    pub fn of(scenario: &Scenario, environment: &Environment) -> Self {
        let spec = &scenario.spec;
        let own = &environment.spec.firedrill.namespace;
        let mut wants = Self { own_namespace: own.clone(), ..Self::default() };
        wants.namespaces.insert(own.clone());
        for target in spec.targets.values() {
            wants.target(target);
        }
        for probe in spec.probes.values() {
            let view = kinds::probe(probe);
            for service in view.services {
                wants.object(NamedKind::Service, &service.namespace, &service.name);
                wants.namespaces.insert(service.namespace.clone());
            }
            for secret in view.secrets {
                wants.object(NamedKind::Secret, &secret.namespace, &secret.name);
            }
            if let Some((name, namespace, _)) = view.host.as_deref().and_then(kinds::service_of_host) {
                wants.maybe_services.insert((namespace.to_owned(), name.to_owned()));
            }
            if let Some(object) = &probe.object {
                wants.kinds.insert((object.api_version.clone(), object.kind.clone()));
            }
        }
        for endpoint in kinds::endpoints(&environment.spec) {
            if kinds::needs_monitoring(spec.probes.values())
                && let Some(service) = &endpoint.service
            {
                wants.object(NamedKind::Service, &service.namespace, &service.name);
            }
        }
        for database in spec.objectives.iter().flat_map(kinds::objective_databases) {
            wants.object(NamedKind::Secret, &database.secret.namespace, &database.secret.name);
        }
        for step in kinds::leaves(&spec.steps) {
            if let Some(view) = step.inject.as_ref().and_then(kinds::fault)
                && let Some(target) = view.target.and_then(|name| spec.targets.get(name))
            {
                if view.asks_budgets()
                    && let Some(namespace) = &target.namespace
                {
                    wants.budgets.insert(namespace.clone());
                }
                wants.nodes |= view.breaks == kinds::Breaks::Nodes;
                if step.inject.as_ref().is_some_and(super::drain::takes_pods) {
                    wants.drained.push(target.clone());
                }
                if step.inject.as_ref().is_some_and(|fault| fault.lose_volume.is_some()) {
                    wants.all_pods(target);
                }
            }
            if let Some(database) = step.inject.as_ref().and_then(kinds::fault_database) {
                wants.object(NamedKind::Secret, &database.secret.namespace, &database.secret.name);
                if let Some(service) = &database.service {
                    wants.object(NamedKind::Service, &service.namespace, &service.name);
                    wants.namespaces.insert(service.namespace.clone());
                }
            }
            if let Some(secret) = step.inject.as_ref().and_then(|fault| fault.manifest.as_ref()).and_then(|m| m.secret.as_ref()) {
                wants.object(NamedKind::Secret, &secret.namespace, &secret.name);
            }
            if let Some(runbook) = &step.runbook {
                if let Some(job) = runbook.run_in.as_ref().and_then(|r| r.job.as_ref()) {
                    wants.namespaces.insert(job.namespace.clone());
                }
                if let Some((namespace, name)) = runbook.cron_job.as_deref().and_then(|c| c.split_once('/')) {
                    wants.namespaces.insert(namespace.to_owned());
                    wants.object(NamedKind::CronJob, namespace, name);
                    wants.object(NamedKind::Job, namespace, name);
                }
            }
        }
        wants
    }

    /// What one target needs to be resolved and checked again.
    pub fn of_target(target: &Target, own_namespace: &str, budgets: bool) -> Self {
        let mut wants = Self { own_namespace: own_namespace.to_owned(), ..Self::default() };
        wants.target(target);
        if budgets {
            wants.budgets.extend(target.namespace.clone());
        }
        wants
    }

    /// All pods of a target's namespace.
    pub(super) fn all_pods(&mut self, target: &Target) {
        self.pods.extend(target.namespace.clone().map(|namespace| (namespace, PodWants::All)));
    }

    fn object(&mut self, kind: NamedKind, namespace: &str, name: &str) {
        self.objects.insert(ObjectKey::new(kind, namespace, name));
    }

    fn target(&mut self, target: &Target) {
        self.nodes |= target.nodes.is_some() || target.zone.is_some();
        let Some(namespace) = target.namespace.as_deref() else { return };
        self.namespaces.insert(namespace.to_owned());
        if let Some((kind, name)) = super::resolve::named_object(target) {
            self.object(kind, namespace, name);
        }
        let pods = self.pods.get_mut(namespace);
        match (&target.pods, target.owner.is_some() || target.name.is_some(), pods) {
            // A pod by name is found by the field selector of its name only without a selector; listing is the simple way.
            (None, false, _) | (_, _, Some(PodWants::All)) => {}
            (_, true, _) => {
                self.pods.insert(namespace.to_owned(), PodWants::All);
            }
            (Some(selector), _, Some(PodWants::Selected(selectors))) => {
                selectors.insert(selector.0.clone());
            }
            (Some(selector), _, None) => {
                self.pods.insert(namespace.to_owned(), PodWants::Selected(BTreeSet::from([selector.0.clone()])));
            }
        }
    }
}
