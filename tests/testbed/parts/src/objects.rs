//! Kubernetes objects as metrics, under the names of kube-state-metrics so that its rules carry over, and as targets
//! for Prometheus's HTTP service discovery: Debian has neither kube-state-metrics nor a Prometheus that knows Kubernetes.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// What the cluster held at one reading.
#[derive(Debug, Default)]
pub struct Objects {
    /// Pods of every namespace.
    pub pods: Vec<Pod>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Jobs of every namespace.
    pub jobs: Vec<Job>,
    /// CronJobs of every namespace.
    pub cron_jobs: Vec<CronJob>,
    /// Claims of every namespace.
    pub claims: Vec<PersistentVolumeClaim>,
    /// StatefulSets of every namespace.
    pub stateful_sets: Vec<StatefulSet>,
    /// Deployments of every namespace.
    pub deployments: Vec<Deployment>,
}

impl Objects {
    /// Reads the cluster, from the API server's cache, each kind within `limit`.
    ///
    /// # Errors
    /// If a kind cannot be listed in time.
    pub async fn read(client: &Client, limit: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            pods: list(client, limit).await?,
            nodes: list(client, limit).await?,
            jobs: list(client, limit).await?,
            cron_jobs: list(client, limit).await?,
            claims: list(client, limit).await?,
            stateful_sets: list(client, limit).await?,
            deployments: list(client, limit).await?,
        })
    }

    /// The metrics.
    pub fn metrics(&self) -> String {
        let mut to = Text::default();
        for pod in &self.pods {
            pod_metrics(&mut to, pod);
        }
        for node in &self.nodes {
            let name = node.name_any();
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            for condition in conditions.filter(|condition| condition.type_ == "Ready") {
                for status in ["true", "false", "unknown"] {
                    let holds = condition.status.eq_ignore_ascii_case(status);
                    let labels = [("node", name.as_str()), ("condition", "Ready"), ("status", status)];
                    to.line("kube_node_status_condition", &labels, u8::from(holds));
                }
            }
            let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
            to.line("kube_node_spec_unschedulable", &[("node", &name)], u8::from(unschedulable));
        }
        for job in &self.jobs {
            let (namespace, name) = names(job);
            let labels = [("namespace", namespace.as_str()), ("job_name", name.as_str())];
            let Some(status) = &job.status else { continue };
            to.line("kube_job_status_active", &labels, status.active.unwrap_or(0));
            to.line("kube_job_status_succeeded", &labels, status.succeeded.unwrap_or(0));
            to.line("kube_job_status_failed", &labels, status.failed.unwrap_or(0));
            if let Some(at) = &status.start_time {
                to.line("kube_job_status_start_time", &labels, at.0.as_second());
            }
            if let Some(at) = &status.completion_time {
                to.line("kube_job_status_completion_time", &labels, at.0.as_second());
            }
        }
        for job in &self.cron_jobs {
            let (namespace, name) = names(job);
            let labels = [("namespace", namespace.as_str()), ("cronjob", name.as_str())];
            let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or_default();
            to.line("kube_cronjob_spec_suspend", &labels, u8::from(suspended));
            let Some(status) = &job.status else { continue };
            if let Some(at) = &status.last_schedule_time {
                to.line("kube_cronjob_status_last_schedule_time", &labels, at.0.as_second());
            }
            if let Some(at) = &status.last_successful_time {
                to.line("kube_cronjob_status_last_successful_time", &labels, at.0.as_second());
            }
        }
        for claim in &self.claims {
            let (namespace, name) = names(claim);
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
            let labels = [("namespace", namespace.as_str()), ("persistentvolumeclaim", name.as_str()), ("phase", phase)];
            to.line("kube_persistentvolumeclaim_status_phase", &labels, 1);
        }
        for set in &self.stateful_sets {
            let (namespace, name) = names(set);
            let labels = [("namespace", namespace.as_str()), ("statefulset", name.as_str())];
            let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            to.line("kube_statefulset_replicas", &labels, set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1));
            to.line("kube_statefulset_status_replicas_ready", &labels, ready);
        }
        for deployment in &self.deployments {
            let (namespace, name) = names(deployment);
            let labels = [("namespace", namespace.as_str()), ("deployment", name.as_str())];
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            to.line("kube_deployment_spec_replicas", &labels, wanted);
            to.line("kube_deployment_status_replicas_available", &labels, available);
        }
        to.0
    }

    /// Every named port of every pod that has an address and has not ended, with the meta labels that Prometheus's own
    /// Kubernetes discovery gives.
    pub fn pod_targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for pod in &self.pods {
            let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { continue };
            let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
            let Some(address) = status.pod_ip.as_ref().filter(|_| !ended) else { continue };
            let (namespace, name) = names(pod);
            let mut labels = BTreeMap::from([
                ("__meta_kubernetes_namespace".to_owned(), namespace),
                ("__meta_kubernetes_pod_name".to_owned(), name),
                ("__meta_kubernetes_pod_node_name".to_owned(), spec.node_name.clone().unwrap_or_default()),
            ]);
            for (key, value) in pod.labels() {
                let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                labels.insert(format!("__meta_kubernetes_pod_label_{key}"), value.clone());
            }
            for port in spec.containers.iter().flat_map(|container| container.ports.iter().flatten()) {
                let Some(port_name) = &port.name else { continue };
                let mut labels = labels.clone();
                labels.insert("__meta_kubernetes_pod_container_port_name".to_owned(), port_name.clone());
                targets.push(Target { targets: vec![format!("{address}:{}", port.container_port)], labels });
            }
        }
        targets
    }

    /// Every node's kubelet.
    pub fn node_targets(&self) -> Vec<Target> {
        let target = |node: &Node| {
            let status = node.status.as_ref()?;
            let address = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
            let kubelet = status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?;
            Some(Target {
                targets: vec![format!("{}:{}", address.address, kubelet.port)],
                labels: BTreeMap::from([("__meta_kubernetes_node_name".to_owned(), node.name_any())]),
            })
        };
        self.nodes.iter().filter_map(target).collect()
    }
}

/// An entry of Prometheus's HTTP service discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// `address:port`.
    pub targets: Vec<String>,
    /// Labels of all of them.
    pub labels: BTreeMap<String, String>,
}

async fn list<K>(client: &Client, limit: Duration) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    // Version 0: whatever the API server has in its cache; cheap enough to be asked every two seconds.
    let cached = ListParams::default().match_any();
    let kind = K::kind(&());
    let listed = timeout(limit, api.list(&cached)).await.with_context(|| format!("failed to list {kind}s within {limit:?}"))?;
    Ok(listed.with_context(|| format!("failed to list {kind}s"))?.items)
}

fn names<K: Resource>(object: &K) -> (String, String) {
    (object.meta().namespace.clone().unwrap_or_default(), object.meta().name.clone().unwrap_or_default())
}

fn pod_metrics(to: &mut Text, pod: &Pod) {
    let (namespace, name) = names(pod);
    let of = [("namespace", namespace.as_str()), ("pod", name.as_str())];
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    to.line("kube_pod_info", &[of[0], of[1], ("node", node)], 1);
    let Some(status) = &pod.status else { return };
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    to.line("kube_pod_status_phase", &[of[0], of[1], ("phase", phase)], 1);
    let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    to.line("kube_pod_status_ready", &[of[0], of[1], ("condition", "true")], u8::from(ready));
    for container in status.container_statuses.iter().flatten() {
        let labels = [of[0], of[1], ("container", container.name.as_str())];
        to.line("kube_pod_container_status_restarts_total", &labels, container.restart_count);
    }
}

/// Prometheus's text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        // Names of objects and their states need no escaping. Writing to a String cannot fail.
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::Objects;

    fn objects() -> anyhow::Result<Objects> {
        let pod = |name: &str, phase: &str| {
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "shop", "name": name, "labels": {"cluster": "orders", "a.b/c-d": "x"}},
                "spec": {"nodeName": "node1", "containers": [{"name": "c", "ports": [
                    {"name": "metrics", "containerPort": 9187}, {"containerPort": 1}]}]},
                "status": {"phase": phase, "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]}
            }))
        };
        Ok(Objects {
            pods: vec![pod("orders-0", "Running")?, pod("backup-1", "Succeeded")?],
            nodes: vec![serde_json::from_value(serde_json::json!({
                "metadata": {"name": "node1"}, "spec": {"unschedulable": true},
                "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.11"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                    "conditions": [{"type": "Ready", "status": "Unknown"}]}
            }))?],
            jobs: vec![serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "shop", "name": "backup"}, "spec": {"template": {}},
                "status": {"failed": 1, "startTime": "1970-01-01T00:01:40Z"}
            }))?],
            ..Objects::default()
        })
    }

    #[test]
    fn metrics_bear_the_names_of_kube_state_metrics() -> anyhow::Result<()> {
        let text = objects()?.metrics();
        for line in [
            r#"kube_pod_status_phase{namespace="shop",pod="orders-0",phase="Running"} 1"#,
            r#"kube_pod_container_status_restarts_total{namespace="shop",pod="orders-0",container="c"} 3"#,
            r#"kube_node_status_condition{node="node1",condition="Ready",status="unknown"} 1"#,
            r#"kube_node_status_condition{node="node1",condition="Ready",status="true"} 0"#,
            r#"kube_node_spec_unschedulable{node="node1"} 1"#,
            r#"kube_job_status_failed{namespace="shop",job_name="backup"} 1"#,
            r#"kube_job_status_start_time{namespace="shop",job_name="backup"} 100"#,
        ] {
            assert!(text.lines().any(|have| have == line), "no {line} in {text}");
        }
        Ok(())
    }

    #[test]
    fn targets_are_named_ports_of_pods_that_run() -> anyhow::Result<()> {
        let objects = objects()?;
        let targets = objects.pod_targets();
        assert_eq!(targets.len(), 1, "{targets:?}");
        assert_eq!(targets[0].targets, ["10.0.0.7:9187"]);
        let label = |name: &str| targets[0].labels.get(name).map(String::as_str);
        assert_eq!(label("__meta_kubernetes_pod_label_a_b_c_d"), Some("x"));
        assert_eq!(label("__meta_kubernetes_pod_container_port_name"), Some("metrics"));
        assert_eq!(objects.node_targets()[0].targets, ["172.30.0.11:10250"]);
        Ok(())
    }
}
