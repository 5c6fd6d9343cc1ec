//! Pods as lists of them are read: without their specification and the managers of their fields, which are most of a list's bytes and
//! of which those who count pods need nothing.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};

/// A pod without specification. To be listed and made a [`Pod`] of; never to be written back.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LeanPod {
    #[serde(default, deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<PodStatus>,
}

impl From<LeanPod> for Pod {
    fn from(pod: LeanPod) -> Self {
        Self { metadata: pod.metadata, spec: None, status: pod.status }
    }
}

impl Resource for LeanPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is read of metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read = Option::<Metadata>::deserialize(deserializer)?.unwrap_or_default();
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        labels: read.labels,
        annotations: read.annotations,
        owner_references: read.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lean_pod_is_the_pod_without_what_is_left_out() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
                "deletionTimestamp": "2026-01-01T00:01:00Z", "labels": {"app": "web"}, "annotations": {"status": "{}"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r", "controller": true}],
                "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:metadata": {}}}]},
            "spec": {"containers": [{"name": "web", "image": "web"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": [pod, {}]});
        let whole: ObjectList<Pod> = serde_json::from_value(list.clone()).unwrap();
        let lean: ObjectList<LeanPod> = serde_json::from_value(list).unwrap();
        for (mut whole, lean) in whole.items.into_iter().zip(lean.items) {
            whole.spec = None;
            whole.metadata.managed_fields = None;
            assert_eq!(Pod::from(lean), whole);
        }
        assert_eq!(
            (LeanPod::kind(&()), LeanPod::plural(&()), LeanPod::api_version(&())),
            (Pod::kind(&()), Pod::plural(&()), Pod::api_version(&()))
        );
    }
}
