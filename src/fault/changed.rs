//! Which object a fault has changed, for those who watch it.

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::CronJob,
    core::v1::{Secret, Service},
};
use kube::api::ApiResource;

use super::{CronJobChange, Undo};

/// An object that a fault has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// Its kind, namespaced.
    pub kind: ApiResource,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The one object in which all that [`super::holds`] looks at is to be seen. None where it looks at more, at things that no API server knows of, or
/// at nothing.
pub fn changed(undo: &Undo) -> Option<Changed> {
    let workload = |kind: &str| if kind == "Deployment" { resource::<Deployment>() } else { resource::<StatefulSet>() };
    let (kind, namespace, name) = match undo {
        Undo::Scale { namespace, kind, name, .. } | Undo::Image { namespace, kind, name, .. } => (workload(kind), namespace, name),
        Undo::CronJob { namespace, name, change: CronJobChange::Suspended { .. }, .. } => (resource::<CronJob>(), namespace, name),
        Undo::Service { namespace, name, .. } => (resource::<Service>(), namespace, name),
        Undo::Secret { namespace, name, .. } => (resource::<Secret>(), namespace, name),
        _ => return None,
    };
    Some(Changed { kind, namespace: namespace.clone(), name: name.clone() })
}

/// Whether a look at what a fault has changed is work for the cluster itself, so that none is taken every second.
pub fn is_costly(undo: &Undo) -> bool {
    matches!(undo, Undo::Job(_))
}

fn resource<K: kube::Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
