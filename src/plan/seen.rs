//! What was seen of a cluster: of each object only what planning looks at, so that thousands of pods are cheap.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{ResourceExt as _, core::Selector};

use super::{claims, others::Others};
use crate::{agent::inside, labels};

/// The cluster as planning sees it. What was not asked for is absent.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The uid of its kube-system namespace.
    pub cluster_uid: String,
    /// The kubeconfig's context, for people.
    pub cluster_name: String,
    /// Namespaces that exist, by name.
    pub namespaces: BTreeMap<String, NamespaceSeen>,
    /// Nodes, by name.
    pub nodes: BTreeMap<String, NodeSeen>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<String, BTreeMap<String, PodSeen>>,
    /// What a drain would evict, by node.
    pub on_nodes: BTreeMap<String, Vec<OnNode>>,
    /// Namespaces in which a target's selector met pods of firedrill's own, which are never a target.
    pub own_pods: BTreeSet<String>,
    /// PodDisruptionBudgets by namespace.
    pub budgets: BTreeMap<String, Vec<BudgetSeen>>,
    /// Named objects that exist.
    pub objects: BTreeMap<ObjectKey, ObjectSeen>,
    /// Kinds of object probes that the cluster knows, by `apiVersion` and kind.
    pub kinds: BTreeMap<(String, String), KindSeen>,
    /// Nodes that carry firedrill's own pods, or this runner.
    pub own_nodes: BTreeSet<String>,
    /// What could not be read for lack of permission and is not needed to decide; shown as warnings.
    pub unreadable: Vec<String>,
    /// Experiments of other tools.
    pub others: Others,
}

/// A namespace.
#[derive(Debug, Clone, Default)]
pub struct NamespaceSeen {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// A node.
#[derive(Debug, Clone, Default)]
pub struct NodeSeen {
    /// uid.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its kubelet reports it ready.
    pub ready: bool,
    /// Whether it is cordoned.
    pub cordoned: bool,
}

/// A pod.
#[derive(Debug, Clone, Default)]
pub struct PodSeen {
    /// uid.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its node; empty when it has none yet.
    pub node: String,
    /// Its lasting controller by name, `Deployment/web`, `StatefulSet/orders`, `Job/backup-1`; empty without one.
    pub owner: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is being deleted, or has succeeded or failed: a fault on it would prove nothing.
    pub ending: bool,
    /// Whether its containers see each other's processes.
    pub shares_processes: bool,
    /// Whether each of its containers says which user it is, and that this is not 0.
    pub says_user: bool,
    /// The claims it uses.
    pub claims: Vec<String>,
    /// Where its containers have volumes.
    pub mounts: Vec<MountSeen>,
}

/// Where a container has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSeen {
    /// The container.
    pub container: String,
    /// The path in it, without a `/` at its end.
    pub path: String,
    /// Why no fault acts on this volume from there, if so.
    pub unfit: Option<&'static str>,
}

/// A pod on a node that a drain would evict.
#[derive(Debug, Clone)]
pub struct OnNode {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The pod; none for one of firedrill's own.
    pub pod: Option<PodSeen>,
}

/// A PodDisruptionBudget.
#[derive(Debug, Clone)]
pub struct BudgetSeen {
    /// Name.
    pub name: String,
    /// The pods it speaks of; none when it selects none.
    pub selector: Option<Selector>,
    /// How many of them may be disrupted now.
    pub allowed: u32,
    /// Whether its status is older than its spec; then nothing is allowed, as the eviction API has it.
    pub stale: bool,
}

/// The kinds that targets can name, and that are read one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedKind {
    /// `apps/v1`.
    Deployment,
    /// `apps/v1`.
    StatefulSet,
    /// `batch/v1`.
    CronJob,
    /// `batch/v1`.
    Job,
    /// Core.
    PersistentVolumeClaim,
    /// Core.
    Service,
    /// Core. Only its metadata is ever read here.
    Secret,
}

impl NamedKind {
    /// As in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Service => "Service",
            Self::Secret => "Secret",
        }
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: NamedKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(kind: NamedKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// A named object.
#[derive(Debug, Clone, Default)]
pub struct ObjectSeen {
    /// uid.
    pub uid: String,
    /// Deployment, StatefulSet: the replicas wanted.
    pub replicas: Option<u32>,
    /// Deployment, StatefulSet: its pods.
    pub selector: Option<Selector>,
    /// CronJob: whether it is suspended.
    pub suspended: bool,
    /// Deployment, StatefulSet: the containers of its pods.
    pub containers: Vec<String>,
    /// Deployment, StatefulSet: how many of its pods a rollout that never gets ready takes away.
    pub takes: u32,
    /// PersistentVolumeClaim: its volume; empty without one.
    pub volume: String,
    /// Why the one fault that is meant for such an object can do nothing with this one, if so.
    pub unfit: Option<String>,
}

/// A kind of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSeen {
    /// API group, empty for the core one.
    pub group: String,
    /// Resource, such as `pods`.
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

impl NamespaceSeen {
    /// From the API's object.
    pub fn of(namespace: &Namespace) -> Self {
        Self { labels: namespace.labels().clone(), terminating: namespace.metadata.deletion_timestamp.is_some() }
    }

    /// Whether its owner allows drills.
    pub fn allowed(&self) -> bool {
        self.labels.get(labels::DRILLS).is_some_and(|value| value == labels::ALLOWED)
    }
}

impl NodeSeen {
    /// From the API's object.
    pub fn of(node: &Node) -> Self {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        Self {
            uid: node.uid().unwrap_or_default(),
            labels: node.labels().clone(),
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            cordoned: node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)),
        }
    }

    /// Whether its owner allows drills.
    pub fn allowed(&self) -> bool {
        self.labels.get(labels::DRILLS).is_some_and(|value| value == labels::ALLOWED)
    }
}

impl PodSeen {
    /// From the API's object; none for firedrill's own pods, which no target may ever match.
    pub fn of(pod: &Pod) -> Option<Self> {
        if pod.labels().get(labels::MANAGED_BY).is_some_and(|value| value == labels::MANAGER) {
            return None;
        }
        let status = pod.status.as_ref();
        let finished = status.and_then(|s| s.phase.as_deref()).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        Some(Self {
            uid: pod.uid().unwrap_or_default(),
            labels: pod.labels().clone(),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
            owner: owner(pod),
            ready: status
                .and_then(|s| s.conditions.as_deref())
                .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            ending: finished || pod.metadata.deletion_timestamp.is_some(),
            shares_processes: inside::shares_processes(pod),
            says_user: inside::says_users(pod),
            claims: claims::used(pod),
            mounts: mounts(pod),
        })
    }
}

fn mounts(pod: &Pod) -> Vec<MountSeen> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let all = spec.containers.iter().flat_map(|c| c.volume_mounts.iter().flatten().map(move |mount| (c, mount)));
    let seen = all.filter_map(|(container, mount)| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        let of_pods = volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.empty_dir.is_some();
        let unfit = match (of_pods, mount.read_only == Some(true)) {
            (false, _) => Some("is neither of a claim nor an emptyDir"),
            (true, true) => Some("is mounted read-only"),
            (true, false) => None,
        };
        Some(MountSeen { container: container.name.clone(), path: mount.mount_path.trim_end_matches('/').to_owned(), unfit })
    });
    seen.collect()
}

/// The lasting controller of a pod. A ReplicaSet of a Deployment is named after it and the pod template's hash, which the
/// pod carries as a label, so the Deployment is known without reading ReplicaSets.
pub fn owner(pod: &Pod) -> String {
    let Some(owner) = pod.owner_references().iter().find(|o| o.controller == Some(true)) else { return String::new() };
    if owner.kind == "ReplicaSet"
        && let Some(deployment) = pod
            .labels()
            .get("pod-template-hash")
            .and_then(|hash| owner.name.strip_suffix(hash.as_str()))
            .and_then(|name| name.strip_suffix('-'))
    {
        return format!("Deployment/{deployment}");
    }
    format!("{}/{}", owner.kind, owner.name)
}

/// Why a Service cannot be pointed at nothing by its selector, if so.
pub fn not_detachable(service: &Service) -> Option<&'static str> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some("it is an ExternalName, a name for something outside, and has no endpoints");
    }
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    (!selects).then_some("it has no selector: somebody else writes its endpoints")
}

/// Whether a drain evicts a pod. Not one of a DaemonSet, which would make it anew on that node at once; not one of the kubelet's own
/// (the API server has only its mirror); and not one that has ended.
pub fn evictable(pod: &Pod) -> bool {
    let of_daemon_set = pod.owner_references().iter().any(|o| o.controller == Some(true) && o.kind == "DaemonSet");
    let mirror = pod.annotations().contains_key("kubernetes.io/config.mirror");
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !of_daemon_set && !mirror && !matches!(phase, Some("Succeeded" | "Failed"))
}

impl BudgetSeen {
    /// From the API's object.
    pub fn of(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        Self {
            name: budget.name_any(),
            selector: budget.spec.as_ref().and_then(|s| s.selector.clone()).and_then(|s| Selector::try_from(s).ok()),
            allowed: status.map_or(0, |s| u32::try_from(s.disruptions_allowed).unwrap_or(0)),
            stale: status.and_then(|s| s.observed_generation) < budget.metadata.generation,
        }
    }
}

impl Snapshot {
    /// A pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodSeen> {
        self.pods.get(namespace)?.get(name)
    }

    /// A named object.
    pub fn object(&self, kind: NamedKind, namespace: &str, name: &str) -> Option<&ObjectSeen> {
        self.objects.get(&ObjectKey::new(kind, namespace, name))
    }
}
