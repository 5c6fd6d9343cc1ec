//! Faults: what a drill breaks.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dur, ObjectName, Percent, Postgres, Quantity, one_of};

one_of! {
    /// A change made to break something, with an undo, a proof that it bit and a proof that it is gone.
    pub struct FaultSpec {
        /// Delete pods, as `kubectl delete pod` does: a polite shutdown.
        "podKill" pod_kill: PodKill,
        /// SIGKILL of every process of the target's containers at once: a crash.
        "crash" crash: Crash,
        /// SIGSTOP of every process of the target's containers: a hang.
        "freeze" freeze: OnTarget,
        /// A signal to one process.
        "signal" signal: Signal,
        /// Set a workload's replicas.
        "scale" scale: Scale,
        /// Cut a backup job: suspend it, kill its running Job, or make it succeed with nothing in it.
        "cutBackupJob" cut_backup_job: CutBackupJob,
        /// Cordon and drain nodes.
        "drainNode" drain_node: OnTarget,
        /// Cordon nodes.
        "cordonNode" cordon_node: OnTarget,
        /// Point a Service at nothing.
        "detachService" detach_service: OnTarget,
        /// Take a Secret away; the copy stays in the cluster.
        "hideSecret" hide_secret: OnTarget,
        /// Lose a volume's data.
        "loseVolume" lose_volume: LoseVolume,
        /// Roll out an image that cannot run.
        "badImage" bad_image: OnTarget,
        /// Fill the volume a path is on.
        "fillDisk" fill_disk: FillDisk,
        /// Damage a file.
        "corruptFile" corrupt_file: CorruptFile,
        /// Delete files; set aside for the undo.
        "deleteFiles" delete_files: DeleteFiles,
        /// Cut network traffic.
        "partition" partition: Partition,
        /// Lose nodes: kubelet, runtime and workloads frozen, network cut.
        "loseNode" lose_node: OnTarget,
        /// Lose all nodes of a zone at once.
        "loseZone" lose_zone: OnTarget,
        /// Fill a node's own disk.
        "fillNodeDisk" fill_node_disk: FillDisk,
        /// Statements with a role the scenario names.
        "sql" sql: SqlFault,
        /// Your own commands, under the same contract.
        "custom" custom: CustomFault,
        /// Any object, applied as the fault and deleted as its undo.
        "manifest" manifest: ManifestFault,
    }
    common {
        /// Undo policy; default `auto` where the fault has an undo.
        "undo" undo: UndoPolicy,
        /// Revert after this long even if the drill goes on.
        "for" duration: Dur,
        /// Where the helper is that makes it, for the kinds that need one; default `node`, or `pod` where the environment has no node helpers.
        "placement" placement: Placement,
    }
}

impl FaultSpec {
    /// The target it names, for the kinds that have one.
    pub fn target(&self) -> Option<&str> {
        fn on(fault: &Option<OnTarget>) -> Option<&str> {
            fault.as_ref().map(|f| f.target.as_str())
        }
        None.or_else(|| self.pod_kill.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.crash.as_ref().map(|f| f.target.as_str()))
            .or_else(|| on(&self.freeze))
            .or_else(|| self.signal.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.scale.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.cut_backup_job.as_ref().map(|f| f.target.as_str()))
            .or_else(|| on(&self.drain_node))
            .or_else(|| on(&self.cordon_node))
            .or_else(|| on(&self.detach_service))
            .or_else(|| on(&self.hide_secret))
            .or_else(|| self.lose_volume.as_ref().map(|f| f.target.as_str()))
            .or_else(|| on(&self.bad_image))
            .or_else(|| self.fill_disk.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.corrupt_file.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.delete_files.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.partition.as_ref().map(|f| f.target.as_str()))
            .or_else(|| on(&self.lose_node))
            .or_else(|| on(&self.lose_zone))
            .or_else(|| self.fill_node_disk.as_ref().map(|f| f.target.as_str()))
            .or_else(|| self.custom.as_ref().and_then(|f| f.target.as_deref()))
    }
}

/// A file beside the scenario that a fault makes objects of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectFile<'a> {
    /// Its name, as the scenario has it.
    pub file: &'a str,
    /// What its `${…}` stand for.
    pub values: &'a IndexMap<String, String>,
    /// The keys that lead to `file` from the fault.
    pub at: &'static [&'static str],
}

impl FaultSpec {
    /// The file that the fault's object is in, for the kinds that make one.
    pub fn object_file(&self) -> Option<ObjectFile<'_>> {
        let made = self.manifest.as_ref().map(|m| ObjectFile { file: &m.file, values: &m.values, at: &["manifest", "file"] });
        made.or_else(|| {
            let job = self.custom.as_ref()?.job.as_ref()?;
            Some(ObjectFile { file: &job.file, values: &job.values, at: &["custom", "job", "file"] })
        })
    }
}

/// Where the helper is that makes a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Placement {
    /// On the target's node: a privileged pod.
    #[default]
    Node,
    /// In the target's pod: an ephemeral container with one capability at most. For `fillDisk`, `corruptFile`, `deleteFiles` and
    /// `signal`; for `freeze` and `crash` where the pod has `shareProcessNamespace: true`.
    Pod,
}

impl Placement {
    /// Whether it is the default, which records leave out.
    pub fn is_node(&self) -> bool {
        *self == Self::Node
    }
}

/// When a fault is undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UndoPolicy {
    /// Always, at the end of the drill at the latest.
    #[default]
    Auto,
    /// Only if the drill does not reach its runbook.
    OnAbort,
    /// The runbook restores it; what was set aside is dropped only after verification.
    Runbook,
    /// Never: irreversible, to be confirmed in the plan.
    None,
}

/// A fault that needs nothing but a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnTarget {
    /// The target.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
}

/// Deletes pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodKill {
    /// A target of pods.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Grace period; default the pod's own. `0s` is a forced deletion (which still gives SIGTERM and about a second).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Dur>,
}

/// Kills every process of the target's containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Crash {
    /// A target of pods.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Kill again whatever is started, until the revert.
    #[serde(default)]
    pub hold: bool,
}

/// Sends a signal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signal {
    /// A target of pods.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Name such as `SIGTERM`.
    pub signal: String,
    /// The process, by its command's name or a part of its command line.
    pub process: String,
}

/// Sets replicas.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scale {
    /// A target of a Deployment or StatefulSet.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// The replicas to set.
    pub replicas: u32,
}

/// Cuts a backup job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CutBackupJob {
    /// A target of a CronJob.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// How it is cut; default `suspend`.
    #[serde(default)]
    pub how: CutHow,
    /// For `killRunning`: this long after the Job started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Dur>,
}

/// The ways a backup job goes missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CutHow {
    /// It never starts.
    #[default]
    Suspend,
    /// It is killed in the middle of its run.
    KillRunning,
    /// It runs, says it succeeded, and copied nothing: every container and init container runs `true`, which their images must
    /// have (where one does not, the Job fails, and the fault is judged as not holding).
    Empty,
}

/// Loses a volume's data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoseVolume {
    /// A target of a claim.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Keep the data aside in the cluster until the restore is verified; `false` is irreversible.
    #[serde(default = "yes")]
    pub set_aside: bool,
}

const fn yes() -> bool {
    true
}

/// Fills a disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FillDisk {
    /// A target of pods, claims or nodes.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// A path on the volume, inside the target's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Up to this share of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Percent>,
    /// Leaving this much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<Quantity>,
    /// Slowly, so that forecasts can see it; default at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Dur>,
}

/// Damages a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CorruptFile {
    /// A target of pods or a claim.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// The file, on a volume of the target.
    pub path: String,
    /// How many bytes; default one block of 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Quantity>,
}

/// Deletes files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteFiles {
    /// A target of pods or a claim.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// What to delete, a path or a glob, on a volume of the target.
    pub path: String,
}

/// Cuts traffic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Partition {
    /// A target of pods.
    #[schemars(extend("x-names" = "target"))]
    pub target: String,
    /// Only to and from these targets; default everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-names" = "target"))]
    pub peers: Vec<String>,
    /// Only these networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// Only these ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Name look-ups: port 53, alone or beside those of `ports`.
    #[serde(default)]
    pub dns: bool,
    /// Which way; default both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

/// Which way traffic is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// Into the target.
    Ingress,
    /// Out of it.
    Egress,
}

/// Statements that do damage, as a role that exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqlFault {
    /// The database and the role (its Secret).
    pub postgres: Postgres,
    /// One statement.
    pub statement: String,
    /// The most rows it may touch; more and it is rolled back.
    pub max_rows: u64,
    /// A statement that undoes it; without it the undo policy must be `runbook` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<String>,
}

/// The user's own fault.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomFault {
    /// A target of pods in which the commands run. This or `job`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-names" = "target"))]
    pub target: Option<String>,
    /// A Job that is run once with each of the commands. This or `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<CustomJob>,
    /// Breaks it. Run in each container of the target, by its `sh`, where it may be run again if it was cut short; or by the Job.
    pub inject: Vec<String>,
    /// Exit code 0 proves that it bit; any other before.
    pub effective: Vec<String>,
    /// Undoes it, also after half an injection; it may be run twice.
    pub revert: Vec<String>,
    /// Exit code 0 proves that it is gone; also before it was injected.
    pub gone: Vec<String>,
    /// How long each command may take, of a Job from when it is made; default 1m. What takes longer is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Dur>,
}

/// A Job for the commands of a fault.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomJob {
    /// A YAML file in the scenario's folder or below it: a Job of one container, whose command is replaced.
    pub file: String,
    /// Free values for the file's `${…}`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub values: IndexMap<String, String>,
}

/// An object as a fault.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFault {
    /// A YAML file in the scenario's folder or below it.
    pub file: String,
    /// CEL over `object`, true when it bit.
    pub effective: String,
    /// CEL over `object` while it is being deleted, true when nothing of its effect is left; default: the object does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<String>,
    /// Free values for the file's `${…}`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub values: IndexMap<String, String>,
    /// A Secret the object needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectName>,
}
