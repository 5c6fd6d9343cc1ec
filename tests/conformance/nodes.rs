//! What cases need that look at controllers, scheduler and kubelets: pods that run the same on both sides, and conditions with limits.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use serde_json::{Value, json};

use crate::{
    answer::NAMESPACE,
    bench::{Bench, MERGE},
    differences::Side,
};

/// How long controllers and kubelets may take for anything.
const LIMIT: Duration = Duration::from_secs(90);
/// How often they are asked: nodes of the testbed share two cores.
const EVERY: Duration = Duration::from_millis(250);

/// An image with a shell, which the testbed's nodes have; the sandbox takes any.
const IMAGE: &str = "localhost/toolbox:1";

/// Makes the commands that probes run, `ready` and `healthy`, which fail while there is a file; the sandbox's `idle` model has them by itself.
const SERVE: &str = "for probe in ready healthy; do
  printf '#!/bin/sh\\ntest ! -e /tmp/un%s\\n' $probe >/usr/local/bin/$probe && chmod 755 /usr/local/bin/$probe
done
while :; do sleep 1; done";

/// A container that runs until it is ended, and is ready while the command `ready` succeeds.
pub(crate) fn serving() -> Value {
    let probe = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    json!({"name": "main", "image": IMAGE, "command": ["sh", "-c", SERVE], "readinessProbe": probe})
}

/// A container that runs a script.
pub(crate) fn script(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script]})
}

/// The template of pods with this label and these containers. Where they run scripts, the sandbox's shell does; see [`serving`] for the others.
pub(crate) fn template(app: &str, containers: Value) -> Value {
    let scripts = containers.as_array().is_some_and(|all| all.iter().all(|container| container.get("readinessProbe").is_none()));
    let model = if scripts { "shell" } else { "idle" };
    json!({
        "metadata": {"labels": {"app": app}, "annotations": {"sandbox.firedrill.dev/model": model}},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false},
    })
}

/// A Deployment of pods that serve, or a StatefulSet but for its `serviceName`.
pub(crate) fn workload(name: &str, replicas: u32) -> Value {
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, json!([serving()]))});
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A pod that serves.
pub(crate) fn pod(name: &str) -> Value {
    let mut pod = template(name, json!([serving()]));
    pod["metadata"]["name"] = json!(name);
    pod
}

/// A number of an object; 0 where there is none, as Go leaves it out.
pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether a condition of an object's status is true.
pub(crate) fn holds(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}

/// A list's items that are not being deleted.
pub(crate) fn staying(list: &Value) -> Vec<&Value> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter(|item| item.pointer("/metadata/deletionTimestamp").is_none()).collect()
}

/// An object's name.
pub(crate) fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// A selector for [`Bench::get`]: `pods?labelSelector=app%3Dweb`.
pub(crate) fn of(resource: &str, app: &str) -> String {
    format!("{resource}?labelSelector=app%3D{app}")
}

impl Bench {
    /// Waits until what is there is as wanted.
    pub(crate) async fn settled(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.within(LIMIT, EVERY, path, |answer| answer.code == 200 && wanted(&answer.body)).await
    }

    /// Waits until it is not there any more.
    pub(crate) async fn gone(&self, path: &str) {
        self.within(LIMIT, EVERY, path, |answer| answer.code == 404).await;
    }

    /// Has the probes `ready` or `healthy` of a pod that serves succeed or fail from now on.
    pub(crate) async fn probes(&self, pod: &str, probe: &str, good: bool) {
        if self.side() == Side::Sandbox {
            let mut annotations = json!({});
            annotations[format!("sandbox.firedrill.dev/un{probe}")] = if good { Value::Null } else { json!("true") };
            self.patch(&format!("pods/{pod}"), MERGE, json!({"metadata": {"annotations": annotations}})).await.is(200);
            return;
        }
        let pods: Api<Pod> = Api::namespaced(self.plain_client(), self.namespace());
        let what = if good { format!("rm -f /tmp/un{probe}") } else { format!("touch /tmp/un{probe}") };
        let pod = pod.replace(NAMESPACE, self.namespace());
        let run = async {
            let params = AttachParams::default().stdout(false);
            // It may be between two of its runs.
            loop {
                if let Ok(mut running) = pods.exec(&pod, ["sh", "-c", &what], &params).await
                    && let Some(status) = running.take_status()
                    && status.await.and_then(|status| status.status).as_deref() == Some("Success")
                {
                    return;
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::time::timeout(LIMIT, run).await.unwrap_or_else(|_| panic!("`{what}` cannot be run in pod {pod}"));
    }
}
