//! The kinds that the API server serves: one table for the built-in ones, and those that a CustomResourceDefinition adds.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        admissionregistration::v1 as admission, apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
        discovery::v1 as discovery, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling,
        storage::v1 as storage,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::schema::{self, Schema};

/// Reads an object as its Go type would be read: what the type does not know is dropped.
pub(super) type Typed = fn(Value) -> Result<Value, serde_json::Error>;

/// When `metadata.generation` grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// It has none.
    None,
    /// When the spec changes.
    Spec,
    /// When the spec or the annotations change (Deployments).
    SpecOrAnnotations,
    /// When anything but metadata and, if it is a subresource, status changes (custom resources).
    Custom,
}

/// A kind in one version.
#[derive(Clone)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) list: String,
    pub(super) plural: String,
    pub(super) shelf: String,
    pub(super) singular: String,
    pub(super) short: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    /// It has `/status`.
    pub(super) status: bool,
    /// It has `/scale`.
    pub(super) scale: bool,
    /// Where a scale reads and writes: replicas wanted, replicas there, selector (a text; empty: none). JSON pointers.
    pub(super) scale_paths: [String; 3],
    /// Others: `exec`, `eviction`, `finalize` …
    pub(super) subresources: Vec<&'static str>,
    /// An object may be replaced without saying which version (`AllowUnconditionalUpdate`).
    pub(super) unconditional: bool,
    /// PUT makes an object that does not exist (`AllowCreateOnUpdate`).
    pub(super) create_on_update: bool,
    /// DELETE answers with the object and not with a Status (`ReturnDeletedObject`).
    pub(super) returns_deleted: bool,
    pub(super) generation: Generation,
    /// Of built-in kinds.
    pub(super) typed: Option<Typed>,
    /// Not stored: SubjectAccessReview and the like.
    pub(super) review: bool,
    /// How lists merge, and for custom resources what they may hold.
    pub(super) schema: Arc<Schema>,
    /// Fields that a field selector may name, besides the name and the namespace.
    pub(super) selectable: Vec<String>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

impl Kind {
    /// `apps/v1`, or `v1` in the core group.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `deployments.apps`.
    pub(super) fn group_resource(&self) -> String {
        super::refusal::qualified(&self.group, &self.plural)
    }

    /// The name of the place where its objects are stored, whatever the version.
    pub(super) fn shelf(&self) -> &str {
        &self.shelf
    }

    /// Made from a CustomResourceDefinition.
    pub(super) fn custom(&self) -> bool {
        self.typed.is_none() && !self.review
    }

    fn built_in<T: Serialize + DeserializeOwned>(group: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            list: format!("{kind}List"),
            plural: plural.to_owned(),
            shelf: format!("{group}/{plural}"),
            singular: kind.to_lowercase(),
            short: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            status: false,
            scale: false,
            scale_paths: ["/spec/replicas", "/status/replicas", ""].map(str::to_owned),
            subresources: Vec::new(),
            unconditional: true,
            create_on_update: false,
            returns_deleted: false,
            generation: Generation::None,
            typed: Some(|value| serde_json::to_value(serde_json::from_value::<T>(value)?)),
            review: false,
            schema: schema::built_in(kind),
            selectable: Vec::new(),
        }
    }

    fn short(mut self, names: &[&str]) -> Self {
        self.short = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    fn status(mut self) -> Self {
        self.status = true;
        self
    }

    fn scale(mut self) -> Self {
        self.scale = true;
        self
    }

    fn sub(mut self, names: &[&'static str]) -> Self {
        self.subresources = names.to_vec();
        self
    }

    fn conditional(mut self) -> Self {
        self.unconditional = false;
        self
    }

    fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    fn returns_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    fn select(mut self, fields: &[&str]) -> Self {
        self.selectable = fields.iter().map(|&field| field.to_owned()).collect();
        self
    }

    fn all(mut self) -> Self {
        self.categories = vec!["all".to_owned()];
        self
    }

    fn review(group: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        let mut review = Self::built_in::<Value>(group, kind, plural);
        review.namespaced = namespaced;
        review.review = true;
        review.typed = None;
        review
    }
}

/// The built-in kinds.
fn built_in() -> Vec<Kind> {
    use Generation::{Spec, SpecOrAnnotations};
    const EVENT: &[&str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];
    const POD: &[&str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ];
    let auth = "rbac.authorization.k8s.io";
    vec![
        Kind::built_in::<core::Pod>("", "Pod", "pods")
            .short(&["po"])
            .status()
            .sub(&["attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward"])
            .returns_deleted()
            .generation(Spec)
            .select(POD)
            .all(),
        Kind::built_in::<core::Namespace>("", "Namespace", "namespaces")
            .short(&["ns"])
            .cluster()
            .status()
            .sub(&["finalize"])
            .returns_deleted()
            .select(&["status.phase"]),
        Kind::built_in::<core::Node>("", "Node", "nodes").short(&["no"]).cluster().status().select(&["spec.unschedulable"]),
        Kind::built_in::<core::Service>("", "Service", "services")
            .short(&["svc"])
            .status()
            .create_on_update()
            .returns_deleted()
            .select(&["spec.clusterIP", "spec.type"])
            .all(),
        Kind::built_in::<core::Endpoints>("", "Endpoints", "endpoints").short(&["ep"]).create_on_update(),
        Kind::built_in::<core::ConfigMap>("", "ConfigMap", "configmaps").short(&["cm"]),
        Kind::built_in::<core::Secret>("", "Secret", "secrets").select(&["type"]),
        Kind::built_in::<core::ServiceAccount>("", "ServiceAccount", "serviceaccounts").short(&["sa"]).returns_deleted(),
        Kind::built_in::<core::Event>("", "Event", "events").short(&["ev"]).create_on_update().select(EVENT),
        Kind::built_in::<core::PersistentVolumeClaim>("", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .status()
            .returns_deleted(),
        Kind::built_in::<core::PersistentVolume>("", "PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .cluster()
            .status()
            .returns_deleted(),
        Kind::built_in::<core::LimitRange>("", "LimitRange", "limitranges").short(&["limits"]).create_on_update(),
        Kind::built_in::<core::ResourceQuota>("", "ResourceQuota", "resourcequotas").short(&["quota"]).status().returns_deleted(),
        Kind::built_in::<apps::Deployment>("apps", "Deployment", "deployments")
            .short(&["deploy"])
            .status()
            .scale()
            .generation(SpecOrAnnotations)
            .all(),
        Kind::built_in::<apps::ReplicaSet>("apps", "ReplicaSet", "replicasets")
            .short(&["rs"])
            .status()
            .scale()
            .generation(Spec)
            .select(&["status.replicas"])
            .all(),
        Kind::built_in::<apps::StatefulSet>("apps", "StatefulSet", "statefulsets").short(&["sts"]).status().scale().generation(Spec).all(),
        Kind::built_in::<apps::DaemonSet>("apps", "DaemonSet", "daemonsets").short(&["ds"]).status().generation(Spec).all(),
        Kind::built_in::<apps::ControllerRevision>("apps", "ControllerRevision", "controllerrevisions"),
        Kind::built_in::<batch::Job>("batch", "Job", "jobs").status().generation(Spec).select(&["status.successful"]).all(),
        Kind::built_in::<batch::CronJob>("batch", "CronJob", "cronjobs").short(&["cj"]).status().generation(Spec).all(),
        Kind::built_in::<coordination::Lease>("coordination.k8s.io", "Lease", "leases").conditional().create_on_update(),
        Kind::built_in::<discovery::EndpointSlice>("discovery.k8s.io", "EndpointSlice", "endpointslices").generation(Generation::Custom),
        Kind::built_in::<policy::PodDisruptionBudget>("policy", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .status()
            .conditional()
            .generation(Spec),
        Kind::built_in::<networking::NetworkPolicy>("networking.k8s.io", "NetworkPolicy", "networkpolicies")
            .short(&["netpol"])
            .generation(Spec),
        Kind::built_in::<networking::Ingress>("networking.k8s.io", "Ingress", "ingresses").short(&["ing"]).status().generation(Spec),
        Kind::built_in::<rbac::Role>(auth, "Role", "roles").create_on_update(),
        Kind::built_in::<rbac::RoleBinding>(auth, "RoleBinding", "rolebindings").create_on_update(),
        Kind::built_in::<rbac::ClusterRole>(auth, "ClusterRole", "clusterroles").cluster().create_on_update(),
        Kind::built_in::<rbac::ClusterRoleBinding>(auth, "ClusterRoleBinding", "clusterrolebindings").cluster().create_on_update(),
        Kind::built_in::<scheduling::PriorityClass>("scheduling.k8s.io", "PriorityClass", "priorityclasses").short(&["pc"]).cluster(),
        Kind::built_in::<storage::StorageClass>("storage.k8s.io", "StorageClass", "storageclasses")
            .short(&["sc"])
            .cluster()
            .returns_deleted(),
        Kind::built_in::<admission::ValidatingAdmissionPolicy>(
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
        )
        .cluster()
        .status()
        .conditional()
        .generation(Spec),
        Kind::built_in::<admission::ValidatingAdmissionPolicyBinding>(
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
        )
        .cluster()
        .conditional()
        .generation(Spec),
        Kind::built_in::<apiextensions::CustomResourceDefinition>(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
        .short(&["crd", "crds"])
        .cluster()
        .status()
        .conditional()
        .generation(Spec),
        Kind::review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
        Kind::review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", false),
        Kind::review("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
        Kind::review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", false),
    ]
}

/// All kinds that are served now.
#[derive(Debug, Clone)]
pub(super) struct Kinds {
    /// By group, then version, then plural.
    served: BTreeMap<String, BTreeMap<String, BTreeMap<String, Arc<Kind>>>>,
}

impl Kinds {
    /// The built-in ones.
    pub(super) fn new() -> Self {
        let mut kinds = Self { served: BTreeMap::new() };
        for kind in built_in() {
            kinds.add(kind);
        }
        kinds
    }

    /// Serves a kind from now on, in place of one of that name.
    pub(super) fn add(&mut self, kind: Kind) {
        let versions = self.served.entry(kind.group.clone()).or_default();
        versions.entry(kind.version.clone()).or_default().insert(kind.plural.clone(), Arc::new(kind));
    }

    /// Serves no version of a resource any more.
    pub(super) fn remove(&mut self, group: &str, plural: &str) {
        if let Some(versions) = self.served.get_mut(group) {
            for kinds in versions.values_mut() {
                kinds.remove(plural);
            }
            versions.retain(|_, kinds| !kinds.is_empty());
            if versions.is_empty() {
                self.served.remove(group);
            }
        }
    }

    /// A resource of a version.
    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.served.get(group)?.get(version)?.get(plural)
    }

    /// A built-in resource, whose version is v1.
    pub(super) fn v1(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        self.find(group, "v1", plural).cloned()
    }

    /// Whether a group is served in any version.
    pub(super) fn has_group(&self, group: &str) -> bool {
        self.served.contains_key(group)
    }

    /// Groups in order of their names, each with its versions, best first.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.served.iter().map(|(group, versions)| {
            let mut versions: Vec<&str> = versions.keys().map(String::as_str).collect();
            versions.sort_by_cached_key(|version| std::cmp::Reverse(kube::core::Version::parse(version).priority()));
            (group.as_str(), versions)
        })
    }

    /// The kinds of a version of a group.
    pub(super) fn of(&self, group: &str, version: &str) -> Option<impl Iterator<Item = &Arc<Kind>>> {
        Some(self.served.get(group)?.get(version)?.values())
    }
}
