//! What a revert needs, as data.

use serde::{Deserialize, Serialize};

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
    /// Processes in pods of one node are signalled or killed by a node helper.
    Processes {
        /// The targets.
        pods: Vec<PodOnNode>,
        /// What was done to them.
        how: ProcessFault,
    },
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
