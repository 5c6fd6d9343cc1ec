//! Steps: what a drill does, in order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dur, FaultSpec, ProbeState, Quantity, one_of};

one_of! {
    /// One step of a drill. Exactly one kind is set; a name is needed where something refers to the step.
    pub struct Step {
        /// Break something.
        "inject" inject: FaultSpec,
        /// Undo the fault of an earlier step, named, before the end of the drill.
        #[schemars(extend("x-names" = "step"))]
        "revert" revert: String,
        /// Wait until a probe is in a state.
        "waitFor" wait_for: WaitFor,
        /// Let time pass while everything is watched.
        "hold" hold: Dur,
        /// Follow a runbook.
        "runbook" runbook: Runbook,
        /// Ask a person to do something and to say when it is done.
        "manual" manual: Manual,
        /// Ask a person to agree before the drill goes on.
        "approve" approve: Approve,
        /// Declare the outage: the mark `declared`. By a person, or by an alert's receipt.
        "declare" declare: Declare,
        /// A remark kept in the timeline.
        "note" note: String,
        /// Several steps at once; ends when all have ended.
        "parallel" parallel: Vec<Step>,
    }
    common {
        /// What other parts of the scenario call this step. Default: its kind and number.
        "name" name: String,
        /// Only then: wait for this condition before the step starts (for example that the backup is running).
        "when" when: WaitFor,
        /// How long the step may take.
        "within" within: Dur,
        /// What to do when it fails: `abort` (default) or `continue`.
        "onFailure" on_failure: OnFailure,
    }
}

impl Step {
    /// What reports and other parts call it: its name, else its kind and its path (`inject 1`, `hold 3.2`).
    pub fn title(&self, path: &str) -> String {
        self.name.clone().unwrap_or_else(|| format!("{} {path}", super::OneOf::kind_name(self).unwrap_or("step")))
    }
}

/// What a failed step does to the drill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Go to the reverts; the verdict is taken from what was measured until then.
    #[default]
    Abort,
    /// Go on with the next step.
    Continue,
}

/// A wait for a probe's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WaitFor {
    /// The probe.
    #[schemars(extend("x-names" = "probe"))]
    pub probe: String,
    /// The state; for an alert probe `bad` is firing.
    pub state: ProbeState,
    /// For how long without a break; default one sample.
    #[serde(default, rename = "for")]
    pub hold: Dur,
    /// How long to wait.
    pub timeout: Dur,
}

/// A runbook as the team keeps it, or a Job that stands for one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["file", "cronJob"]))]
pub struct Runbook {
    /// A Markdown file, relative to the scenario: headings are steps, fenced `sh` blocks are run, `- [ ]` lines are manual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where the `sh` blocks run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_in: Option<RunIn>,
    /// An existing Job's or CronJob's template to start instead, `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron_job: Option<String>,
    /// How long each step may take unless the file says otherwise (`<!-- within: 5m -->` under its heading).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_within: Option<Dur>,
    /// Targets that this runbook restores: faults with undo policy `runbook` on them count as undone when it has succeeded.
    /// A fault without a target is named by its step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-names" = "target"))]
    pub restores: Vec<String>,
}

/// Where shell blocks run. Exactly one of `target` and `job`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["target", "job"]))]
pub struct RunIn {
    /// A target of pods; the first ready one is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "target"))]
    pub target: Option<String>,
    /// The container; default the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// A pod made for the runbook from an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<RunJob>,
}

/// A pod made for the runbook. Its blocks run one after another in it; it stays until the drill disarms, so that what it
/// restored can be looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunJob {
    /// Namespace; it must be allowed for drills.
    pub namespace: String,
    /// Image with a shell.
    pub image: String,
    /// ServiceAccount; default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Claims to mount, `claim:path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// New, empty volumes to mount; they go when the pod goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_volumes: Vec<NewVolume>,
    /// Environment variables. No secrets here: the scenario is part of the evidence.
    #[serde(default, skip_serializing_if = "indexmap::IndexMap::is_empty")]
    pub env: indexmap::IndexMap<String, String>,
    /// Secrets whose keys become environment variables; their values are masked in all output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from_secrets: Vec<String>,
    /// Secrets and ConfigMaps to mount, `secret/NAME:path` or `configMap/NAME:path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// User id the pod runs as; default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<i64>,
    /// Group id of its files; default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<i64>,
}

/// An empty volume made for a runbook's pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVolume {
    /// Where it is mounted.
    pub path: String,
    /// Its size.
    pub size: Quantity,
    /// Its StorageClass; default the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
}

/// Something a person does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manual {
    /// What to do.
    #[serde(rename = "do")]
    pub instruction: String,
    /// Who does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// How long that may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Dur>,
}

/// A person's agreement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approve {
    /// The question.
    pub question: String,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// The outage is declared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-one-of" = ["role", "alert"]))]
pub struct Declare {
    /// Who declares it; waits for that person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Declared by the receipt of this alert instead of by a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "probe"))]
    pub alert: Option<String>,
    /// How long that may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Dur>,
}
