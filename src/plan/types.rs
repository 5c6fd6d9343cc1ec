//! The plan as data.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::scenario::types::{
    AbortIf, Dur, EnvironmentSpec, Limits, Objective, Probe, SteadyState, Step, Target, UndoPolicy, Vantage, Watchdog,
};

/// The version of the plan's format; a plan of another version is refused.
pub const PLAN_VERSION: u32 = 1;

/// What a drill will do, on which cluster, to what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The scenario's name.
    pub name: String,
    /// Its summary.
    pub summary: String,
    /// SHA-256 (hex) of the scenario's text.
    pub scenario_sha256: String,
    /// The values of its parameters in this plan.
    pub parameters: IndexMap<String, String>,
    /// The environment's name.
    pub environment: String,
    /// The environment.
    pub place: EnvironmentSpec,
    /// The uid of the cluster's kube-system namespace.
    pub cluster_uid: String,
    /// The kubeconfig's context or server, for people.
    pub cluster_name: String,
    /// Everything random in the drill comes from this.
    pub seed: u64,
    /// Limits.
    pub limits: Limits,
    /// Targets by name, as resolved when the plan was made. They are resolved again at each inject.
    pub targets: BTreeMap<String, ResolvedTarget>,
    /// Probes by name.
    pub probes: IndexMap<String, PlannedProbe>,
    /// Steady state.
    pub steady_state: Option<SteadyState>,
    /// Steps in order, parallel ones nested.
    pub steps: Vec<PlannedStep>,
    /// Objectives in order.
    pub objectives: Vec<PlannedObjective>,
    /// Abort conditions.
    pub abort_if: Vec<AbortIf>,
    /// Names of the Leases to take, sorted: one a namespace and node touched.
    pub leases: Vec<String>,
    /// Namespaces and nodes that may be changed.
    pub scope: Scope,
    /// What a reader must know before agreeing: budgets, irreversible faults, slow probes.
    pub warnings: Vec<String>,
    /// The permissions this drill needs.
    pub rbac: Vec<Permission>,
    /// Who reverts when the runner is lost; none where the environment has none, and for a drill without faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<PlannedWatchdog>,
    /// How long it should take, without surprises: shortest and longest (by the time limits).
    pub expected: (Dur, Dur),
}

impl Plan {
    /// A plan of nothing: what somebody who needs only a part of one (a probe on its own, a test of a fault) fills in.
    pub fn empty(name: &str) -> Self {
        Self {
            version: PLAN_VERSION,
            name: name.to_owned(),
            summary: String::new(),
            scenario_sha256: String::new(),
            parameters: IndexMap::new(),
            environment: String::new(),
            place: EnvironmentSpec::default(),
            cluster_uid: String::new(),
            cluster_name: String::new(),
            seed: 0,
            limits: Limits::default(),
            targets: BTreeMap::new(),
            probes: IndexMap::new(),
            steady_state: None,
            steps: Vec::new(),
            objectives: Vec::new(),
            abort_if: Vec::new(),
            leases: Vec::new(),
            scope: Scope::default(),
            warnings: Vec::new(),
            rbac: Vec::new(),
            watchdog: None,
            expected: (Dur::ZERO, Dur::ZERO),
        }
    }
}

/// The watchdog of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedWatchdog {
    /// The ServiceAccount it acts as, in firedrill's own namespace.
    pub service_account: String,
    /// What that account needs to revert this drill. The watchdog asks for each before the first fault.
    pub rbac: Vec<Permission>,
}

/// Namespaces and nodes a drill may change things in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Namespaces, sorted.
    pub namespaces: Vec<String>,
    /// Nodes, sorted.
    pub nodes: Vec<String>,
    /// How much the drill breaks, as the plan sees it: what the limits are held against.
    #[serde(default)]
    pub blast: BlastRadius,
}

/// How much a drill breaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlastRadius {
    /// Pods, those counted that go when a workload is scaled down.
    pub pods: u32,
    /// Nodes.
    pub nodes: u32,
    /// Volumes.
    pub volumes: u32,
    /// Other objects.
    pub objects: u32,
}

/// A target and what it was resolved to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTarget {
    /// As the scenario says it.
    pub spec: Target,
    /// How many objects match.
    pub matched: u32,
    /// What matches, sorted by name; chosen ones are marked. Of those not chosen at most [`SHOWN_UNCHOSEN`] are kept: a
    /// plan must fit into a record in the cluster whatever a selector matches.
    pub objects: Vec<ResolvedObject>,
}

/// How many objects that match and were not chosen a plan keeps.
pub const SHOWN_UNCHOSEN: usize = 200;

impl ResolvedTarget {
    /// The chosen objects.
    pub fn chosen(&self) -> impl Iterator<Item = &ResolvedObject> {
        self.objects.iter().filter(|o| o.chosen)
    }
}

/// An object of the cluster as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedObject {
    /// `Pod`, `Node`, `CronJob` …
    pub kind: String,
    /// Namespace, empty for nodes.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid.
    pub uid: String,
    /// For pods: the node it is on.
    pub node: String,
    /// For pods: its lasting controller by name, `StatefulSet/orders`, `Deployment/web`.
    pub owner: String,
    /// For pods: whether it is ready.
    pub ready: bool,
    /// Whether it was chosen by the target's mode and the seed.
    pub chosen: bool,
}

/// A probe with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedProbe {
    /// The probe.
    pub spec: Probe,
    /// Time from one sample's start to the next.
    pub every: Dur,
    /// How long one sample may take.
    pub timeout: Dur,
    /// Where it is sampled from.
    pub from: Vantage,
}

/// A step with its path and what it will touch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedStep {
    /// `1`, `2`, `3.1` …
    pub path: String,
    /// The scenario's name of it, or its kind and number.
    pub title: String,
    /// The step. Those of a `parallel` are in `children` and not here again.
    pub spec: Step,
    /// For `inject`: the fault's number, from 0 in order of the plan.
    pub fault: Option<u32>,
    /// For `inject`: the undo policy.
    pub undo: Option<UndoPolicy>,
    /// For `inject`: what will be touched, `Pod shop/orders-0`.
    pub touches: Vec<String>,
    /// For a drain: the pods that it evicts; for a lost volume: those that use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicts: Vec<ResolvedObject>,
    /// For a lost volume: the PersistentVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// For a manifest: the object that it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<PlannedManifest>,
    /// For `runbook` from a file: the file's text, so that a resumed drill does not depend on it.
    pub runbook_text: Option<String>,
    /// The steps of a `parallel`.
    pub children: Vec<PlannedStep>,
}

impl Plan {
    /// The environment's watchdog, if this drill has something for it to revert.
    pub fn guarded_by(&self) -> Option<&Watchdog> {
        self.place.firedrill.guard().filter(|_| self.leaf_steps().iter().any(|step| step.fault.is_some()))
    }

    /// All steps that do something, depth first, `parallel` itself left out.
    pub fn leaf_steps(&self) -> Vec<&PlannedStep> {
        fn walk<'a>(steps: &'a [PlannedStep], out: &mut Vec<&'a PlannedStep>) {
            for step in steps {
                if step.children.is_empty() { out.push(step) } else { walk(&step.children, out) }
            }
        }
        let mut out = Vec::new();
        walk(&self.steps, &mut out);
        out
    }

    /// The step of a path.
    pub fn step(&self, path: &str) -> Option<&PlannedStep> {
        fn find<'a>(steps: &'a [PlannedStep], path: &str) -> Option<&'a PlannedStep> {
            steps.iter().find_map(|s| if s.path == path { Some(s) } else { find(&s.children, path) })
        }
        find(&self.steps, path)
    }

    /// The step a scenario refers to by name.
    pub fn step_named(&self, name: &str) -> Option<&PlannedStep> {
        fn find<'a>(steps: &'a [PlannedStep], name: &str) -> Option<&'a PlannedStep> {
            steps.iter().find_map(|s| if s.title == name { Some(s) } else { find(&s.children, name) })
        }
        find(&self.steps, name)
    }
}

/// An object that a fault makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedManifest {
    /// API group, empty for the core one.
    pub group: String,
    /// Resource, such as `networkpolicies`.
    pub plural: String,
    /// `apiVersion`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// All of it.
    pub object: serde_json::Value,
}

impl PlannedManifest {
    /// What it counts as among the objects that a drill touches: it has no uid before it is made.
    pub fn id(&self) -> String {
        format!("{}/{}/{}/{}", self.group, self.kind, self.namespace, self.name)
    }
}

/// An objective with its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedObjective {
    /// What reports call it; unique in the plan.
    pub name: String,
    /// The objective.
    pub spec: Objective,
}

/// A permission, as a rule of a Role (with a namespace) or of a ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// Namespace; none for a ClusterRole.
    pub namespace: Option<String>,
    /// API group, empty for the core one.
    pub group: String,
    /// Resource, with subresource: `pods/exec`.
    pub resource: String,
    /// Verbs, sorted.
    pub verbs: Vec<String>,
    /// Only these names, if not empty.
    pub names: Vec<String>,
    /// Why.
    pub because: String,
}
