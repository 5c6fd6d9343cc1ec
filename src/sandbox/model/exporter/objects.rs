//! Kubernetes objects as metrics, under the names of kube-state-metrics so that its rules carry over, and as targets for
//! Prometheus' HTTP service discovery.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Node, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    runtime::watcher::{self, Event},
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::super::super::{
    control::look::{self, items, number},
    core::text,
    program::Env,
};

/// How long it waits after a watch has failed.
const PAUSE: Duration = Duration::from_secs(1);

type All = BTreeMap<(String, String), Value>;

/// What the cluster holds, kind by kind.
#[derive(Debug, Default)]
pub(super) struct Objects {
    kinds: BTreeMap<&'static str, All>,
    /// Lists that are not complete yet.
    listing: BTreeMap<&'static str, All>,
    /// Whether a kind is known as it is now.
    listed: BTreeMap<&'static str, bool>,
    /// Something has changed since it was shown.
    changed: bool,
}

/// Follows the cluster, and shows what it holds at a fixed rate.
pub(super) async fn keep(env: Env, objects: Arc<Mutex<Objects>>, show: impl Fn(&Objects) + Send + Sync + 'static) {
    let Some(client) = env.client() else { return };
    env.spawn(follow::<Pod>(env.clone(), client.clone(), Arc::clone(&objects), "pods"));
    env.spawn(follow::<Node>(env.clone(), client.clone(), Arc::clone(&objects), "nodes"));
    env.spawn(follow::<Job>(env.clone(), client.clone(), Arc::clone(&objects), "jobs"));
    env.spawn(follow::<CronJob>(env.clone(), client.clone(), Arc::clone(&objects), "cronjobs"));
    env.spawn(follow::<PersistentVolumeClaim>(env.clone(), client.clone(), Arc::clone(&objects), "claims"));
    env.spawn(follow::<StatefulSet>(env.clone(), client.clone(), Arc::clone(&objects), "statefulsets"));
    env.spawn(follow::<Deployment>(env.clone(), client, Arc::clone(&objects), "deployments"));
    let mut ticks = interval(super::every(&env, 2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut objects = lock(&objects);
        if std::mem::take(&mut objects.changed) {
            show(&objects);
        }
    }
}

fn lock(objects: &Mutex<Objects>) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the objects of a kind.
async fn follow<K: Resource<DynamicType = ()>>(env: Env, client: Client, objects: Arc<Mutex<Objects>>, kind: &'static str) {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<K>(&()));
    loop {
        let events = watcher::watcher(api.clone(), watcher::Config::default());
        pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => lock(&objects).take(kind, event),
                Err(error) => {
                    env.say(&format!("failed to watch {kind}: {error}"));
                    break;
                }
            }
        }
        // It begins anew with a list: until then nobody knows what has changed.
        lock(&objects).blind(kind);
        sleep(PAUSE).await;
    }
}

fn entry(object: &DynamicObject) -> Option<((String, String), Value)> {
    let value = serde_json::to_value(object).ok()?;
    Some(((text(&value, "/metadata/namespace").to_owned(), text(&value, "/metadata/name").to_owned()), value))
}

impl Objects {
    /// Takes in what a watch tells.
    fn take(&mut self, kind: &'static str, event: Event<DynamicObject>) {
        match event {
            Event::Init => {
                self.listing.insert(kind, All::new());
            }
            Event::InitApply(object) => self.listing.entry(kind).or_default().extend(entry(&object)),
            Event::InitDone => {
                self.kinds.insert(kind, self.listing.remove(kind).unwrap_or_default());
                self.listed.insert(kind, true);
                self.changed = true;
            }
            Event::Apply(object) => {
                self.kinds.entry(kind).or_default().extend(entry(&object));
                self.changed = true;
            }
            Event::Delete(object) => {
                if let Some((key, _)) = entry(&object) {
                    self.kinds.entry(kind).or_default().remove(&key);
                }
                self.changed = true;
            }
        }
    }

    /// A kind cannot be watched just now.
    fn blind(&mut self, kind: &'static str) {
        self.listed.insert(kind, false);
        self.changed = true;
    }

    fn all(&self, kind: &str) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.kinds.get(kind).into_iter().flatten().map(|((namespace, name), value)| (namespace.as_str(), name.as_str(), value))
    }

    /// The metrics.
    pub(super) fn metrics(&self) -> String {
        let mut to = Text::default();
        for (namespace, name, pod) in self.all("pods") {
            pod_metrics(&mut to, namespace, name, pod);
        }
        for (_, name, node) in self.all("nodes") {
            for condition in items(node, "/status/conditions").iter().filter(|c| text(c, "/type") == "Ready") {
                for status in ["true", "false", "unknown"] {
                    let holds = text(condition, "/status").eq_ignore_ascii_case(status);
                    to.line("kube_node_status_condition", &[("node", name), ("condition", "Ready"), ("status", status)], u8::from(holds));
                }
            }
            to.line("kube_node_spec_unschedulable", &[("node", name)], u8::from(look::flag(node, "/spec/unschedulable")));
        }
        for (namespace, name, job) in self.all("jobs") {
            let labels = [("namespace", namespace), ("job_name", name)];
            for (metric, field) in
                [("kube_job_status_active", "active"), ("kube_job_status_succeeded", "succeeded"), ("kube_job_status_failed", "failed")]
            {
                to.line(metric, &labels, number(job, &format!("/status/{field}")).unwrap_or(0));
            }
            to.time("kube_job_status_start_time", &labels, job, "/status/startTime");
            to.time("kube_job_status_completion_time", &labels, job, "/status/completionTime");
        }
        for (namespace, name, job) in self.all("cronjobs") {
            let labels = [("namespace", namespace), ("cronjob", name)];
            to.line("kube_cronjob_spec_suspend", &labels, u8::from(look::flag(job, "/spec/suspend")));
            to.time("kube_cronjob_status_last_schedule_time", &labels, job, "/status/lastScheduleTime");
            to.time("kube_cronjob_status_last_successful_time", &labels, job, "/status/lastSuccessfulTime");
        }
        for (namespace, name, claim) in self.all("claims") {
            let phase = text(claim, "/status/phase");
            let phase = if phase.is_empty() { "Unknown" } else { phase };
            to.line(
                "kube_persistentvolumeclaim_status_phase",
                &[("namespace", namespace), ("persistentvolumeclaim", name), ("phase", phase)],
                1,
            );
        }
        for (namespace, name, set) in self.all("statefulsets") {
            let labels = [("namespace", namespace), ("statefulset", name)];
            to.line("kube_statefulset_replicas", &labels, number(set, "/spec/replicas").unwrap_or(1));
            to.line("kube_statefulset_status_replicas_ready", &labels, number(set, "/status/readyReplicas").unwrap_or(0));
        }
        for (namespace, name, deployment) in self.all("deployments") {
            let labels = [("namespace", namespace), ("deployment", name)];
            to.line("kube_deployment_spec_replicas", &labels, number(deployment, "/spec/replicas").unwrap_or(1));
            to.line("kube_deployment_status_replicas_available", &labels, number(deployment, "/status/availableReplicas").unwrap_or(0));
        }
        // What cannot be read is not shown as if it were so still.
        if self.listed.len() == 7 && self.listed.values().all(|listed| *listed) {
            to.0 + "object_metrics_read_success 1\n"
        } else {
            "object_metrics_read_success 0\n".to_owned()
        }
    }

    /// Every named port of every pod that has an address and has not ended, with the meta labels that Prometheus' own Kubernetes
    /// discovery gives.
    pub(super) fn pod_targets(&self) -> Value {
        let mut targets = Vec::new();
        for (namespace, name, pod) in self.all("pods") {
            let address = text(pod, "/status/podIP");
            if look::ended(pod) || address.is_empty() {
                continue;
            }
            let mut labels = BTreeMap::from([
                ("__meta_kubernetes_namespace".to_owned(), namespace.to_owned()),
                ("__meta_kubernetes_pod_name".to_owned(), name.to_owned()),
                ("__meta_kubernetes_pod_node_name".to_owned(), text(pod, "/spec/nodeName").to_owned()),
            ]);
            for (key, value) in look::strings_at(pod, "/metadata/labels") {
                let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                labels.insert(format!("__meta_kubernetes_pod_label_{key}"), value);
            }
            for port in items(pod, "/spec/containers").iter().flat_map(|container| items(container, "/ports")) {
                let (Some(number), port_name) = (number(port, "/containerPort"), text(port, "/name")) else { continue };
                if port_name.is_empty() {
                    continue;
                }
                let mut labels = labels.clone();
                labels.insert("__meta_kubernetes_pod_container_port_name".to_owned(), port_name.to_owned());
                targets.push(json!({ "targets": [format!("{address}:{number}")], "labels": labels }));
            }
        }
        Value::Array(targets)
    }

    /// Every node's kubelet.
    pub(super) fn node_targets(&self) -> Value {
        let target = |(_, name, node): (&str, &str, &Value)| {
            let address = items(node, "/status/addresses").iter().find(|address| text(address, "/type") == "InternalIP")?;
            let port = number(node, "/status/daemonEndpoints/kubeletEndpoint/Port")?;
            Some(json!({
                "targets": [format!("{}:{port}", text(address, "/address"))], "labels": { "__meta_kubernetes_node_name": name },
            }))
        };
        self.all("nodes").filter_map(target).collect()
    }
}

fn pod_metrics(to: &mut Text, namespace: &str, name: &str, pod: &Value) {
    let of = [("namespace", namespace), ("pod", name)];
    to.line("kube_pod_info", &[of[0], of[1], ("node", text(pod, "/spec/nodeName"))], 1);
    let Some(status) = pod.get("status") else { return };
    let phase = text(status, "/phase");
    to.line("kube_pod_status_phase", &[of[0], of[1], ("phase", if phase.is_empty() { "Unknown" } else { phase })], 1);
    to.line("kube_pod_status_ready", &[of[0], of[1], ("condition", "true")], u8::from(look::ready(pod)));
    for container in items(status, "/containerStatuses") {
        let labels = [of[0], of[1], ("container", text(container, "/name"))];
        to.line("kube_pod_container_status_restarts_total", &labels, number(container, "/restartCount").unwrap_or(0));
    }
}

/// Prometheus' text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        // Names of objects and their states need no escaping. Writing to a String cannot fail.
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }

    fn time(&mut self, name: &str, labels: &[(&str, &str)], of: &Value, at: &str) {
        if let Some(us) = look::time(of, at) {
            self.line(name, labels, us / 1_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Objects {
        let pod = |phase: &str| {
            json!({
                "metadata": {"labels": {"cluster": "orders", "a.b/c-d": "x"}},
                "spec": {"nodeName": "node1", "containers": [{"name": "c", "ports": [
                    {"name": "metrics", "containerPort": 9187}, {"containerPort": 1}]}]},
                "status": {"phase": phase, "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{"name": "c", "restartCount": 3}]},
            })
        };
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let mut objects = Objects::default();
        for kind in ["pods", "nodes", "jobs", "cronjobs", "claims", "statefulsets", "deployments"] {
            objects.listed.insert(kind, true);
        }
        objects.kinds.insert("pods", All::from([(key("orders-0"), pod("Running")), (key("backup-1"), pod("Succeeded"))]));
        let node = json!({
            "spec": {"unschedulable": true},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.11"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}, "conditions": [{"type": "Ready", "status": "Unknown"}]},
        });
        objects.kinds.insert("nodes", All::from([((String::new(), "node1".to_owned()), node)]));
        let job = json!({"status": {"failed": 1, "startTime": "1970-01-01T00:01:40Z"}});
        objects.kinds.insert("jobs", All::from([(key("backup"), job)]));
        objects
    }

    #[test]
    fn metrics_bear_the_names_of_kube_state_metrics() {
        let text = objects().metrics();
        for line in [
            r#"kube_pod_status_phase{namespace="shop",pod="orders-0",phase="Running"} 1"#,
            r#"kube_pod_container_status_restarts_total{namespace="shop",pod="orders-0",container="c"} 3"#,
            r#"kube_node_status_condition{node="node1",condition="Ready",status="unknown"} 1"#,
            r#"kube_node_status_condition{node="node1",condition="Ready",status="true"} 0"#,
            r#"kube_node_spec_unschedulable{node="node1"} 1"#,
            r#"kube_job_status_failed{namespace="shop",job_name="backup"} 1"#,
            r#"kube_job_status_start_time{namespace="shop",job_name="backup"} 100"#,
            "object_metrics_read_success 1",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line} in {text}");
        }
        let mut blind = objects();
        blind.listed.insert("jobs", false);
        assert_eq!(blind.metrics(), "object_metrics_read_success 0\n", "nothing is shown as if it were so still");
    }

    #[test]
    fn targets_are_named_ports_of_pods_that_run() {
        let objects = objects();
        let targets = objects.pod_targets();
        assert_eq!(targets.as_array().map(Vec::len), Some(1), "{targets}");
        assert_eq!(targets[0]["targets"], json!(["10.0.0.7:9187"]));
        assert_eq!(targets[0]["labels"]["__meta_kubernetes_pod_label_a_b_c_d"], "x");
        assert_eq!(targets[0]["labels"]["__meta_kubernetes_pod_container_port_name"], "metrics");
        assert_eq!(objects.node_targets()[0]["targets"], json!(["172.30.0.11:10250"]));
    }
}
