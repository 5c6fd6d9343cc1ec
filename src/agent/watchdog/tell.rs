//! What the watchdog tells in the cluster.

use k8s_openapi::api::core::v1::Event;
use kube::api::PostParams;
use serde_json::json;

use crate::{
    clock::Clock,
    cluster::{Cluster, ClusterError},
    labels,
};

/// How loud an Event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Warning,
}

/// An Event to be made.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) kind: Kind,
    /// One word.
    pub(super) reason: &'a str,
    /// A sentence.
    pub(super) message: &'a str,
    /// The ConfigMap it is about.
    pub(super) about: &'a str,
    /// The pod that tells it.
    pub(super) by: &'a str,
}

/// Makes a Kubernetes Event about the drill's record, for `kubectl get events`: it outlives the record and the watchdog.
pub(super) async fn event(cluster: &Cluster, clock: &Clock, namespace: &str, told: &Told<'_>) -> Result<(), ClusterError> {
    let now = jiff::Timestamp::from_microsecond(clock.now().wall_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let second = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let event = json!({
        "metadata": {
            "generateName": format!("{}.", told.about), "namespace": namespace,
            "labels": {labels::MANAGED_BY: labels::MANAGER},
        },
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": namespace, "name": told.about},
        "type": match told.kind { Kind::Normal => "Normal", Kind::Warning => "Warning" },
        "reason": told.reason,
        // The API server takes no more than 1024 bytes.
        "message": shorten(told.message, 1000),
        "firstTimestamp": second, "lastTimestamp": second, "count": 1,
        "source": {"component": "firedrill-watchdog", "host": told.by},
        "reportingComponent": "firedrill.dev/watchdog", "reportingInstance": told.by,
    });
    let event: Event = serde_json::from_value(event).map_err(|error| ClusterError::Config { why: error.to_string() })?;
    let api = cluster.api::<Event>(namespace);
    cluster.call(format!("create an Event in {namespace}"), api.create(&PostParams::default(), &event)).await.map(|_| ())
}

fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
