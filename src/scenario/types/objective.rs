//! Objectives: targets on what was measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dur, Percent, Postgres, one_of};

one_of! {
    /// A target on what probes and marks show. Decided met, missed or inconclusive from the journal alone.
    pub struct Objective {
        /// Achieved recovery time of a probe.
        "recoveryTime" recovery_time: RecoveryTime,
        /// Time until an alert was received.
        "detectionTime" detection_time: DetectionTime,
        /// Acknowledged writes that are gone (RPO), by a ledger.
        "dataLoss" data_loss: DataLoss,
        /// Share of time a probe was good.
        "availability" availability: Availability,
        /// A runbook's duration, whole and per step.
        "runbook" runbook: RunbookObjective,
        /// Age and size of the newest backup.
        "backup" backup: BackupObjective,
        /// Source and restored copy hold the same rows.
        "restore" restore: RestoreObjective,
        /// Probes recover in this order.
        "order" order: OrderObjective,
        /// A step (manual, declare, runbook …) was done in time.
        "stepTime" step_time: StepTime,
        /// A probe never was in a state during the drill (or after a step).
        "never" never: Never,
        /// The value of a probe's state at the end: for checks that are either so or not.
        "check" check: Check,
    }
    common {
        /// What reports call it; default: its kind and what it is about.
        "name" name: String,
    }
}

/// Where a measured time starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum From {
    /// When the fault was injected (the default).
    #[default]
    Fault,
    /// When the outage began, by the probe itself.
    Outage,
    /// When the alert was received.
    Detected,
    /// When the outage was declared.
    Declared,
}

/// The achieved recovery time of a probe after a step must be within a target (RTO).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoveryTime {
    /// The probe that says what recovered means.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The step that broke it. Not needed with `from: outage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub after: Option<String>,
    /// The target.
    pub within: Dur,
    /// The probe must stay good this long to count as recovered.
    #[serde(default)]
    pub stable_for: Dur,
    /// Where the time starts.
    #[serde(default)]
    pub from: From,
    /// With `from: detected`: the alert probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "probe"))]
    pub alert: Option<String>,
}

/// An alert must be received within a target after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DetectionTime {
    /// The alert probe.
    #[schemars(extend("x-names" = "probe"))]
    pub alert: String,
    /// The step.
    #[schemars(extend("x-names" = "step"))]
    pub after: String,
    /// The target.
    pub within: Dur,
}

/// At most this much acknowledged data may be lost (RPO).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataLoss {
    /// The ledger probe.
    #[schemars(extend("x-names" = "probe"))]
    pub ledger: String,
    /// The most writes that may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<u64>,
    /// The longest achieved recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Dur>,
    /// The step; default the first fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub after: Option<String>,
}

/// A probe must be good for at least a share of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Availability {
    /// The probe.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The step the window starts with; default the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub after: Option<String>,
    /// The window's length; default until the end of the steps.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub window: Option<Dur>,
    /// The least share.
    pub at_least: Percent,
}

/// A runbook must succeed within a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunbookObjective {
    /// The step that follows the runbook.
    #[schemars(extend("x-names" = "step"))]
    pub step: String,
    /// The target for the whole.
    pub within: Dur,
    /// Targets for its steps, by heading.
    #[serde(default, skip_serializing_if = "indexmap::IndexMap::is_empty")]
    pub steps: indexmap::IndexMap<String, Dur>,
}

/// The newest backup must be young and large enough at the end, by the backup tool's own word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupObjective {
    /// The backup probe.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The oldest it may be; default the probe's `maxAge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Dur>,
    /// A backup must have been finished after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub after: Option<String>,
}

/// Digests of the same rows in the source and in the restored copy must be equal, computed in the databases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreObjective {
    /// The source.
    pub source: DigestSide,
    /// The restored copy.
    pub restored: DigestSide,
    /// What to compare: a query that gives the rows in a fixed order. Its digest and its number of rows are computed in the database.
    pub query: String,
    /// The fewest rows there must be: a restore of nothing proves nothing. Default 1.
    #[serde(default = "one")]
    pub min_rows: u64,
    /// When the source is read: after this step (default: at the start of the steps, before anything is broken).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub source_at: Option<String>,
    /// When the restored copy is read: after this step (default: at the end of the steps).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub restored_at: Option<String>,
}

const fn one() -> u64 {
    1
}

/// Probes must recover in a given order after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderObjective {
    /// The probes, first to recover first.
    #[schemars(extend("x-names" = "probe"))]
    pub probes: Vec<String>,
    /// The step.
    #[schemars(extend("x-names" = "step"))]
    pub after: String,
}

/// A step must have succeeded within a target, from its start or from another step's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepTime {
    /// The step.
    #[schemars(extend("x-names" = "step"))]
    pub step: String,
    /// Measured from the start of this step; default its own start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub after: Option<String>,
    /// The target.
    pub within: Dur,
}

/// A probe must never have been in a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Never {
    /// The probe.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The state.
    pub state: super::ProbeState,
    /// Only after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "step"))]
    pub after: Option<String>,
}

/// A probe must be in a state at the end of the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// The probe.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The state.
    pub state: super::ProbeState,
}

/// Where a digest of rows is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DigestSide {
    /// The database.
    pub postgres: Postgres,
}
