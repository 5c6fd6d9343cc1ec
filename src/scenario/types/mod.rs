//! The language: what a Scenario and an Environment may say.
//!
//! Everything read from YAML is a plain struct; a *kind* (of fault, probe, step, objective) is a struct of optional
//! fields with exactly one set, as Kubernetes volumes are. That keeps the JSON Schema structural and every mistake in
//! its place. The types here say what is well-formed; [`crate::scenario::check`] says what makes sense.

mod duration;
mod environment;
mod fault;
mod objective;
mod probe;
mod step;

pub use duration::{Dur, ParseDurError, Percent, Quantity};
pub use environment::*;
pub use fault::*;
pub use objective::*;
pub use probe::*;
pub use step::*;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group and version this build reads and writes.
pub const API_VERSION: &str = "firedrill.dev/v1alpha1";

/// A kind written as a struct of optional fields of which exactly one is set.
pub trait OneOf {
    /// The names of the fields that are set, in the order of the struct.
    fn set_fields(&self) -> Vec<&'static str>;
    /// The name of the field that is set, when there is exactly one.
    fn kind_name(&self) -> Option<&'static str> {
        match self.set_fields().as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// Declares a struct of optional fields with exactly one set, and its [`OneOf`]. After `common` come fields that go with any kind.
macro_rules! one_of {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* $wire:literal $field:ident: $ty:ty),+ $(,)? }
     $(common { $($(#[$cmeta:meta])* $cwire:literal $cfield:ident: $cty:ty),+ $(,)? })?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(extend("x-one-of" = [$($wire),+]))]
        pub struct $name {
            $($(#[$fmeta])* #[serde(rename = $wire, default, skip_serializing_if = "Option::is_none")] pub $field: Option<$ty>,)+
            $($($(#[$cmeta])* #[serde(rename = $cwire, default, skip_serializing_if = "Option::is_none")] pub $cfield: Option<$cty>,)+)?
        }
        impl $crate::scenario::types::OneOf for $name {
            fn set_fields(&self) -> Vec<&'static str> {
                let mut set = Vec::new();
                $(if self.$field.is_some() { set.push($wire); })+
                set
            }
        }
        impl $name {
            /// The names of the kinds a reader may choose from.
            pub const KINDS: &'static [&'static str] = &[$($wire),+];
        }
    };
}
pub(crate) use one_of;

/// A drill's description: what to break, what to watch, and what must then be true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Always `firedrill.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Scenario`.
    pub kind: String,
    /// The scenario's name and labels.
    pub metadata: Metadata,
    /// What to do.
    pub spec: ScenarioSpec,
}

/// Name and labels of a scenario or an environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// A DNS label: lower case letters, digits and dashes, at most 50 characters.
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Free labels, kept in the evidence.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub labels: IndexMap<String, String>,
    /// Free annotations, kept in the evidence.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub annotations: IndexMap<String, String>,
}

/// The body of a [`Scenario`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioSpec {
    /// One sentence: what is lost, and what must happen.
    pub summary: String,
    /// Named values used as `${name}` anywhere below, changed with `--set name=value`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub parameters: IndexMap<String, Scalar>,
    /// What the drill may touch, by name.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub targets: IndexMap<String, Target>,
    /// The largest blast radius and the longest duration.
    #[serde(default)]
    pub limits: Limits,
    /// What is watched, by name, all through the drill.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub probes: IndexMap<String, Probe>,
    /// What must hold before the first step and again after the reverts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady_state: Option<SteadyState>,
    /// What is done, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// What must be true of what was measured.
    #[schemars(length(min = 1))]
    pub objectives: Vec<Objective>,
    /// Conditions that end the drill at once and start the reverts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abort_if: Vec<AbortIf>,
}

/// A value of a parameter: a string, a number or a boolean, written as YAML does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Scalar(#[schemars(schema_with = "scalar_schema")] pub serde_json::Value);

fn scalar_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": ["string", "number", "boolean"]})
}

/// Something the drill may touch. Exactly one of `pods`, `name`, `owner`, `nodes`, `zone`, `pvc`, `service`, `cronJob`,
/// `deployment`, `statefulSet`, `secret` says which.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = Target::WAYS))]
pub struct Target {
    /// The cluster, a name of the environment's `clusters`; default: the environment's only or first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The namespace of everything but nodes and zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pods by label selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Selector>,
    /// One pod by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Pods by their controller, `Kind/name`, for example `StatefulSet/orders`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Nodes by label selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Selector>,
    /// All nodes of a zone (label `topology.kubernetes.io/zone`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// A PersistentVolumeClaim by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<String>,
    /// A Service by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A CronJob by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron_job: Option<String>,
    /// A Deployment by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// A StatefulSet by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<String>,
    /// A Secret by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Only these containers of the pods; default: all but firedrill's own. Of a workload: those whose image `badImage` changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// How many of what matches: `one`, `all`, a number or a percentage, chosen with the drill's seed. Default `all`.
    #[serde(default, skip_serializing_if = "Mode::is_all")]
    pub mode: Mode,
    /// How many must match when the plan is made and again when it is used; anything else refuses the drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<u32>,
}

/// What a target is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// Pods, by `pods`, `name` or `owner`.
    Pods,
    /// Nodes, by `nodes` or `zone`.
    Nodes,
    /// A PersistentVolumeClaim.
    Pvc,
    /// A Service.
    Service,
    /// A CronJob.
    CronJob,
    /// A Deployment or StatefulSet.
    Workload,
    /// A Secret.
    Secret,
}

impl TargetKind {
    /// In words: `pods`, `a claim (pvc)`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Nodes => "nodes",
            Self::Pvc => "a volume claim (`pvc`)",
            Self::Service => "a Service",
            Self::CronJob => "a CronJob",
            Self::Workload => "a Deployment or StatefulSet",
            Self::Secret => "a Secret",
        }
    }
}

impl Target {
    /// The keys of which exactly one says what the target is.
    pub const WAYS: &'static [&'static str] =
        &["pods", "name", "owner", "nodes", "zone", "pvc", "service", "cronJob", "deployment", "statefulSet", "secret"];

    /// What it is made of; none unless exactly one of [`Target::WAYS`] is set.
    pub fn kind(&self) -> Option<TargetKind> {
        let ways = [
            (self.pods.is_some(), TargetKind::Pods),
            (self.name.is_some(), TargetKind::Pods),
            (self.owner.is_some(), TargetKind::Pods),
            (self.nodes.is_some(), TargetKind::Nodes),
            (self.zone.is_some(), TargetKind::Nodes),
            (self.pvc.is_some(), TargetKind::Pvc),
            (self.service.is_some(), TargetKind::Service),
            (self.cron_job.is_some(), TargetKind::CronJob),
            (self.deployment.is_some(), TargetKind::Workload),
            (self.stateful_set.is_some(), TargetKind::Workload),
            (self.secret.is_some(), TargetKind::Secret),
        ];
        let mut set = ways.iter().filter(|(set, _)| *set);
        match (set.next(), set.next()) {
            (Some((_, kind)), None) => Some(*kind),
            _ => None,
        }
    }

    /// Whether it can only ever be one object, by its name.
    pub fn is_single(&self) -> bool {
        self.pods.is_none() && self.owner.is_none() && self.nodes.is_none() && self.zone.is_none()
    }
}

/// How many of the matching things are chosen. Written `one`, `all`, `3` or `30%`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// One, chosen with the seed.
    One,
    /// All.
    #[default]
    All,
    /// This many, chosen with the seed.
    Count(u32),
    /// This share, rounded up, chosen with the seed.
    Percent(u8),
}

impl Mode {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl std::str::FromStr for Mode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a mode: write `one`, `all`, a number such as `2`, or a percentage such as `30%`");
        match text {
            "one" => Ok(Self::One),
            "all" => Ok(Self::All),
            _ => match text.strip_suffix('%') {
                Some(p) => p.parse::<u8>().ok().filter(|p| (1..=100).contains(p)).map(Self::Percent).ok_or_else(wrong),
                None => text.parse::<u32>().ok().filter(|n| *n > 0).map(Self::Count).ok_or_else(wrong),
            },
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::All => f.write_str("all"),
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

duration::string_like!(Mode, "mode", r"^(one|all|[0-9]+|[0-9]{1,3}%)$");

/// A label selector in kubectl's syntax: `app=web,tier in (a, b),!canary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Selector(pub String);

/// `namespace/name`, optionally followed by `:port` (a number or a port's name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Port number or name.
    pub port: Option<String>,
}

impl std::str::FromStr for ServiceRef {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not `namespace/name` or `namespace/name:port`");
        let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (rest, None),
        };
        let label = |s: &str| {
            !s.is_empty() && s.len() <= 253 && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
        };
        if !label(namespace) || !label(name) || port.as_deref().is_some_and(|p| !label(p)) {
            return Err(wrong());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }
}

impl std::fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        self.port.as_ref().map_or(Ok(()), |p| write!(f, ":{p}"))
    }
}

duration::string_like!(ServiceRef, "namespace/name or namespace/name:port", r"^[a-z0-9.-]+/[a-z0-9.-]+(:[a-z0-9-]+)?$");

/// `namespace/name` of an object such as a Secret.
pub type ObjectName = ServiceRef;

/// The largest blast radius a drill may have. What is not set here is 0, except `duration`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Pods that may be broken in all (pods that a fault on a workload or a node takes down count).
    pub pods: u32,
    /// Nodes that may be broken.
    pub nodes: u32,
    /// Volumes that may be lost or filled.
    pub volumes: u32,
    /// Other objects that may be changed: workloads scaled, CronJobs, Services, Secrets.
    pub objects: u32,
    /// How long the drill may take before it is aborted and reverted.
    pub duration: Dur,
    /// What a fault does when a PodDisruptionBudget would not allow an eviction.
    pub budgets: BudgetPolicy,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pods: 0, nodes: 0, volumes: 0, objects: 0, duration: Dur::from_secs(3600), budgets: BudgetPolicy::default() }
    }
}

/// What to do about PodDisruptionBudgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BudgetPolicy {
    /// A fault that would break a budget is refused at plan and at inject.
    #[default]
    Respect,
    /// Budgets are shown and ignored: real outages ignore them too.
    Ignore,
}

/// What must hold before the first step, and again after the reverts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SteadyState {
    /// Probes that must be good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-names" = "probe"))]
    pub good: Vec<String>,
    /// Alert probes that must not be firing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-names" = "probe"))]
    pub quiet: Vec<String>,
    /// For how long without a break.
    #[serde(rename = "for")]
    pub hold: Dur,
    /// How long to wait for that.
    pub timeout: Dur,
}

/// Ends the drill at once when true: the reverts run and the verdict is `aborted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AbortIf {
    /// The probe to look at.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The state that aborts.
    #[serde(default = "ProbeState::bad")]
    pub state: ProbeState,
    /// For how long without a break.
    #[serde(rename = "for")]
    pub hold: Dur,
}
