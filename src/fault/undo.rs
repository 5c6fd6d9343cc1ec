//! What a revert needs, as data.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::PersistentVolumeClaimSpec, apimachinery::pkg::apis::meta::v1::OwnerReference};
use serde::{Deserialize, Serialize};

use crate::{
    agent::{processes::Ident, signals},
    scenario::types::{Direction, Dur, Percent, Placement, Postgres, Quantity},
};

/// How to undo a fault. Written to the journal and to the in-cluster record before anything changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Undo {
    /// Nothing to undo: the cluster's own controllers bring the pods back. Gone when each owner has as many ready pods
    /// as it had before.
    Deleted {
        /// The pods that are deleted, each only as long as it has this uid.
        pods: Vec<PodRef>,
        /// Their owners.
        owners: Vec<OwnerState>,
    },
    /// Set the replicas back.
    Scale {
        /// Namespace.
        namespace: String,
        /// `Deployment` or `StatefulSet`.
        kind: String,
        /// Name.
        name: String,
        /// uid.
        uid: String,
        /// Replicas before.
        before: i32,
        /// Replicas the fault sets; anything else at revert is somebody else's.
        set: i32,
        /// Ready replicas before.
        ready: i32,
    },
    /// Set `suspend` of a CronJob back, or delete the stand-in.
    CronJob {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// uid.
        uid: String,
        /// What was changed.
        change: CronJobChange,
    },
    /// Make nodes schedulable again.
    Cordon {
        /// The nodes.
        nodes: Vec<NodeRef>,
    },
    /// Make nodes schedulable again; what was evicted is brought back by its owners.
    Drain {
        /// The nodes.
        nodes: Vec<NodeRef>,
        /// The pods that are evicted, each only as long as it has this uid.
        pods: Vec<PodRef>,
        /// Their owners.
        owners: Vec<OwnerState>,
        /// The longest grace period of these pods, in seconds.
        grace_secs: u64,
    },
    /// Take the key that no pod has out of a Service's selector.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// uid.
        uid: String,
        /// Ready endpoints before.
        ready: u32,
    },
    /// Set the images of a workload's containers back.
    Image {
        /// Namespace.
        namespace: String,
        /// `Deployment` or `StatefulSet`.
        kind: String,
        /// Name.
        name: String,
        /// uid.
        uid: String,
        /// The images.
        images: Vec<ImageChange>,
        /// Ready replicas before.
        ready: i32,
        /// How many pods the rollout may take away.
        #[serde(default)]
        takes: u32,
    },
    /// Make a Secret again from the copy that was set aside in firedrill's own namespace.
    Secret {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// uid before it was deleted.
        uid: String,
        /// The copy's name.
        copy: String,
    },
    /// Give a claim back the volume that was set aside.
    Claim(Box<LostClaim>),
    /// Delete an object that was made.
    Manifest {
        /// `apiVersion`.
        api_version: String,
        /// Kind.
        kind: String,
        /// Resource.
        plural: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// CEL over the object while it is being deleted: true when nothing of its effect is left.
        gone: Option<String>,
    },
    /// Nodes stand still, each until its helper gives it back: when its Lease asks for it, or is not renewed.
    NodeLoss {
        /// The nodes.
        nodes: Vec<NodeRef>,
        /// What tells this loss from another, on Leases and in rules.
        name: String,
    },
    /// A file of ours takes the room of nodes' own disks.
    NodeDisk {
        /// The disks.
        at: Vec<NodeDisk>,
        /// What ours is called there.
        name: String,
    },
    /// Processes in pods of one node are signalled or killed by a node helper.
    Processes {
        /// The targets.
        pods: Vec<PodOnNode>,
        /// What was done to them.
        how: ProcessFault,
    },
    /// A signal was sent to single processes. Those that were stopped go on.
    Signal {
        /// The processes.
        to: Vec<SignalledProcess>,
        /// `SIGSTOP` and the like.
        signal: String,
        /// Tells it from another signal of the same kind.
        id: String,
    },
    /// The traffic of pods is cut. The rules go with the helper that made them.
    Partition {
        /// The pods.
        pods: Vec<PodOnNode>,
        /// What the rules are called.
        name: String,
        /// What is cut.
        cuts: Vec<Cut>,
    },
    /// Something of ours lies on volumes: a file that fills one, or what was set aside. It is undone through whatever pod has the
    /// volume mounted then.
    Volumes {
        /// The volumes.
        at: Vec<OnVolume>,
        /// What ours is called there.
        name: String,
    },
    /// Run the scenario's own commands.
    Custom {
        /// Where `inject` is run.
        at: Vec<RunsIn>,
        /// Undoes it.
        revert: Vec<String>,
        /// Exit code 0 proves that it is gone.
        gone: Vec<String>,
        /// How long each may take.
        within: Dur,
        /// What the shells of its commands are called.
        mark: String,
    },
    /// Run the scenario's own command by a Job.
    Job(CustomUndo),
    /// Run the statement that undoes another, in the transaction that removes the mark of it.
    Sql {
        /// The database, and the Secret of the role.
        postgres: Postgres,
        /// The statement; without one the rows are left to the runbook.
        revert: Option<String>,
        /// What the mark is known by, beside the drill.
        id: String,
        /// The mark: the number of a large object.
        oid: u32,
    },
}

impl Undo {
    /// Whether a helper does it, which undoes what it holds when it ends, whatever the undo policy says.
    pub const fn of_helper(&self) -> bool {
        match self {
            Self::NodeLoss { .. } | Self::NodeDisk { .. } | Self::Processes { .. } | Self::Signal { .. } => true,
            Self::Partition { .. } | Self::Volumes { .. } => true,
            Self::Deleted { .. } | Self::Scale { .. } | Self::CronJob { .. } | Self::Cordon { .. } | Self::Drain { .. } => false,
            Self::Service { .. } | Self::Image { .. } | Self::Secret { .. } | Self::Manifest { .. } => false,
            Self::Custom { .. } | Self::Job(_) | Self::Sql { .. } | Self::Claim(_) => false,
        }
    }

    /// Whether all of it is done at once, so that nothing is ever to be taken away: a kill, a signal that does not stop. Of any other fault a
    /// revert that finds nothing to undo only says that somebody else had undone it, and not when.
    pub fn is_momentary(&self) -> bool {
        match self {
            Self::Deleted { .. } => true,
            Self::Processes { how, .. } => *how == ProcessFault::Crash,
            Self::Signal { signal, .. } => !signals::stops(signal),
            Self::CronJob { change, .. } => matches!(change, CronJobChange::JobKilled { .. }),
            Self::NodeLoss { .. } | Self::NodeDisk { .. } | Self::Partition { .. } | Self::Volumes { .. } => false,
            Self::Scale { .. } | Self::Cordon { .. } | Self::Drain { .. } | Self::Service { .. } | Self::Image { .. } => false,
            Self::Secret { .. } | Self::Manifest { .. } | Self::Custom { .. } | Self::Job(_) => false,
            Self::Sql { .. } | Self::Claim(_) => false,
        }
    }
}

/// What undoes a fault of the scenario's own that is run by Jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomUndo {
    /// Namespace of the Jobs.
    pub namespace: String,
    /// What their names begin with.
    pub name: String,
    /// The Job of the scenario's file, of which they are made.
    pub job: serde_json::Value,
    /// Undoes it.
    pub revert: Vec<String>,
    /// Exit code 0 proves that it is gone.
    pub gone: Vec<String>,
    /// How long each may take.
    pub within: Dur,
}

/// A claim as it was, and the volume that it loses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostClaim {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid before it was deleted.
    pub uid: String,
    /// Whether the volume is kept; else it goes by its reclaim policy.
    pub set_aside: bool,
    /// The PersistentVolume.
    pub volume: String,
    /// Its uid.
    pub volume_uid: String,
    /// Its reclaim policy before.
    pub policy: String,
    /// The claim's labels.
    pub labels: BTreeMap<String, String>,
    /// The claim's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The claim's owners.
    pub owners: Vec<OwnerReference>,
    /// The claim's spec, with the volume's name.
    pub spec: PersistentVolumeClaimSpec,
    /// The pods that used it, each only as long as it has this uid.
    pub pods: Vec<PodRef>,
    /// Their controllers.
    pub users: Vec<OwnerState>,
    /// The longest grace period of these pods, in seconds.
    pub grace_secs: u64,
}

/// A pod and the containers of it in which commands run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunsIn {
    /// The pod.
    pub pod: PodRef,
    /// The containers.
    pub containers: Vec<String>,
    /// Its controller, if any: whose pod stands in for one that is gone.
    pub owner: Option<OwnerRef>,
}

/// A pod, for as long as it is this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid.
    pub uid: String,
}

/// A node, for as long as it is this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRef {
    /// Name.
    pub name: String,
    /// uid.
    pub uid: String,
}

/// A node's own disk and how it is filled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDisk {
    /// The node.
    pub node: NodeRef,
    /// Which it is there.
    pub id: VolumeId,
    /// What is done.
    pub act: VolumeAct,
}

/// A controller of pods and how it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerState {
    /// Which.
    pub owner: OwnerRef,
    /// How many of its pods were ready.
    pub ready: i32,
}

/// A controller of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRef {
    /// Namespace.
    pub namespace: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// uid.
    pub uid: String,
}

/// How a CronJob was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum CronJobChange {
    /// `spec.suspend` was set to true; this is what it was.
    Suspended {
        /// Before.
        before: bool,
    },
    /// A running Job was deleted; nothing to undo.
    JobKilled {
        /// The Job's name.
        job: String,
        /// Its uid.
        uid: String,
    },
    /// The containers' commands were replaced by `true`; these are what they were (commands are no secrets: they are in the
    /// CronJob for all to read; values of environment variables are not copied).
    Emptied {
        /// The commands and arguments before, by container.
        before: Vec<ContainerCommand>,
    },
}

/// A container's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerCommand {
    /// The container.
    pub container: String,
    /// `command`, if set.
    pub command: Option<Vec<String>>,
    /// `args`, if set.
    pub args: Option<Vec<String>>,
}

/// A container's image, before and as the fault sets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageChange {
    /// The container.
    pub container: String,
    /// Before.
    pub before: String,
    /// One that cannot be had; anything else at revert is somebody else's.
    pub set: String,
}

/// A pod on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodOnNode {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid: what processes are found by.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Only these containers' processes, by name; all when empty.
    pub containers: Vec<String>,
    /// Its controller, if any.
    pub owner: Option<OwnerRef>,
    /// Where its helper is.
    #[serde(default, skip_serializing_if = "Placement::is_node")]
    pub placement: Placement,
}

/// What is done to processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessFault {
    /// SIGSTOP, undone by SIGCONT.
    Freeze,
    /// SIGKILL once.
    Crash,
    /// SIGKILL again and again until the revert.
    CrashHold,
}

/// A process that got a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignalledProcess {
    /// Its pod.
    pub pod: PodOnNode,
    /// What it was chosen by.
    pub process: String,
    /// Which it is on its node.
    pub ident: Ident,
}

/// A volume and what is done with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnVolume {
    /// The pod it was reached through.
    pub pod: PodOnNode,
    /// The container in it.
    pub container: String,
    /// Where it is mounted there.
    pub mount: String,
    /// The part of the volume that is mounted there (`subPath`), if it is not all of it.
    pub sub_path: Option<String>,
    /// The claim; none for one that lives and dies with its pod.
    pub claim: Option<String>,
    /// Which it is on its node.
    pub id: VolumeId,
    /// What is done.
    pub act: VolumeAct,
    /// For an agent within the pod: what the pod calls the volume, all of which it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
}

/// What is mounted, as its node's kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeId {
    /// The device's two numbers.
    pub device: String,
    /// The folder of its file system.
    pub root: String,
}

/// What is done with a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum VolumeAct {
    /// A file of ours takes its room.
    Fill {
        /// How far.
        goal: FillGoal,
        /// In this time; else at once.
        over: Option<Dur>,
    },
    /// Bytes of a file are changed; those that were there are set aside.
    Corrupt {
        /// The file, from where the volume is mounted.
        path: String,
        /// How many bytes at most.
        bytes: u64,
        /// Which, once the file was looked at.
        range: Option<DamagedRange>,
    },
    /// Files are set aside.
    Delete {
        /// Which, from where the volume is mounted; `*` and `?` stand for others.
        path: String,
    },
}

impl VolumeAct {
    /// For messages.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Fill { .. } => "fill the volume",
            Self::Corrupt { .. } => "damage a file",
            Self::Delete { .. } => "delete files",
        }
    }
}

/// How far a volume is filled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FillGoal {
    /// So much of it is used then, as `df` has it.
    Share(Percent),
    /// So many bytes are free then.
    Leave(Quantity),
}

/// Bytes of a file that are changed. Never the bytes themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedRange {
    /// The file's number on its volume.
    pub inode: u64,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// SHA-256 of what was there.
    pub before: String,
    /// SHA-256 of what we write there.
    pub after: String,
}

/// A part of a pod's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// One way only.
    pub direction: Option<Direction>,
    /// To and from this network only, as `10.0.0.0/8`.
    pub network: Option<String>,
    /// To these ports only, by TCP and UDP: others' on the way out, the pod's own on the way in.
    pub ports: Vec<u16>,
}
