//! The Environment: where a portable scenario runs.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dur, Metadata, ServiceRef};

/// Where drills run: clusters with their identity, monitoring, and firedrill's own place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Environment {
    /// Always `firedrill.dev/v1alpha1`.
    pub api_version: String,
    /// Always `Environment`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What it is.
    pub spec: EnvironmentSpec,
}

/// The body of an [`Environment`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// Clusters by name; the first is the default one.
    #[schemars(length(min = 1))]
    pub clusters: IndexMap<String, ClusterRef>,
    /// Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Endpoint>,
    /// Alertmanager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<Endpoint>,
    /// Where alert notifications arrive and can be read back with their arrival times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<Endpoint>,
    /// An alert that always fires; its notifications prove that alerts can arrive at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// firedrill's own place in the cluster.
    #[serde(default)]
    pub firedrill: OwnPlace,
}

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterRef {
    /// The kubeconfig's context; default its current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The uid of the kube-system namespace: a wrong kubeconfig is refused.
    pub uid: String,
}

/// Where a service of the environment is: a Service in the cluster, or an address the runner's machine can reach.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["service", "url"]))]
pub struct Endpoint {
    /// `namespace/name:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// `http://…` from the runner's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The always-firing alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// Its name.
    pub alert: String,
    /// At least one notification must arrive in each such time.
    pub every: Dur,
}

/// firedrill's own place in the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OwnPlace {
    /// The namespace for records, Leases, observer and node helpers. Made when missing.
    pub namespace: String,
    /// The image of observer and node helpers.
    pub image: String,
    /// Whether privileged node helpers may be used. Without them faults on processes and volumes are made from within the target's
    /// pods (`placement: pod`), as far as they can be.
    pub node_helpers: bool,
    /// What reverts a drill whose runner is lost: on unless it is turned off. Without it, changes through the API (`scale`,
    /// `cutBackupJob`) stay until somebody runs `firedrill revert`.
    pub watchdog: Watchdog,
}

impl OwnPlace {
    /// The watchdog, unless it is turned off.
    pub fn guard(&self) -> Option<&Watchdog> {
        self.watchdog.enabled.then_some(&self.watchdog)
    }
}

impl Default for OwnPlace {
    fn default() -> Self {
        let image = format!("firedrill:{}", env!("CARGO_PKG_VERSION"));
        Self { namespace: "firedrill".to_owned(), image, node_helpers: true, watchdog: Watchdog::default() }
    }
}

/// The watchdog: a pod beside each drill that breaks something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Watchdog {
    /// `false`: no watchdog. Then a lost runner's changes stay until somebody runs `firedrill revert`.
    pub enabled: bool,
    /// The ServiceAccount it acts as, in firedrill's own namespace. `firedrill plan --rbac` prints it with what it may do.
    #[schemars(length(min = 1))]
    pub service_account: String,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { enabled: true, service_account: "firedrill-watchdog".to_owned() }
    }
}
