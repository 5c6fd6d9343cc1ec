//! The pods that agents run in: what they look like, and how they come and go.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    link::{Events, Link, LinkError, LinkSpec, Transport},
    protocol::SOCKET,
};
use crate::{
    clock::Clock,
    cluster::{Cluster, ClusterError, Leave, WatchPause},
    labels,
    scenario::types::{Dur, OwnPlace},
};

/// What runs in an agent's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentKind {
    /// Probes cluster names; without privileges, and not on these nodes.
    Observer {
        /// Nodes that faults of the drill act on.
        avoid_nodes: Vec<String>,
    },
    /// Reverts the drill when its runner is lost; without privileges but those of its ServiceAccount, and not on these nodes.
    Watchdog {
        /// Nodes that faults of the drill act on.
        avoid_nodes: Vec<String>,
        /// The ServiceAccount it acts as.
        service_account: String,
        /// How long the drill's Leases live without renewal.
        lease: Dur,
    },
    /// Acts on the processes of one node; privileged.
    NodeHelper {
        /// The node.
        node: String,
        /// It has an account of its own, with which it can lose the node.
        may_lose: bool,
        /// Its kubelet never evicts it.
        critical: bool,
    },
}

impl AgentKind {
    /// The value of [`labels::ROLE`].
    pub const fn role(&self) -> &'static str {
        match self {
            Self::Observer { .. } => "observer",
            Self::Watchdog { .. } => "watchdog",
            Self::NodeHelper { .. } => "node-helper",
        }
    }

    /// The pod's name in a drill.
    pub fn pod_name(&self, drill: &str) -> String {
        match self {
            Self::Observer { .. } => fit(format!("observer-{drill}")),
            Self::Watchdog { .. } => fit(format!("watchdog-{drill}")),
            Self::NodeHelper { node, .. } => fit(format!("node-helper-{drill}-{node}")),
        }
    }
}

/// Object names have at most 253 characters.
fn fit(name: String) -> String {
    if name.len() <= 253 {
        return name;
    }
    let digest = hex::encode(Sha256::digest(&name));
    let mut end = 253 - 17;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{}", name[..end].trim_end_matches(['-', '.']), &digest[..16])
}

/// What to place.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// What it runs.
    pub kind: AgentKind,
    /// The drill.
    pub drill: String,
    /// The drill's token.
    pub token: String,
    /// Who places it, and attaches to it: see [`LinkSpec::runner`].
    pub runner: String,
    /// firedrill's own place: namespace and image.
    pub place: OwnPlace,
    /// The agent's time to live without a renewal.
    pub ttl: Duration,
    /// After this long the kubelet ends the pod whatever happens: the last resort, longer than any drill.
    pub deadline: Duration,
}

impl PodSpec {
    /// The pod.
    ///
    /// # Panics
    /// Never: the JSON below is a pod.
    pub fn manifest(&self) -> Result<Pod, LinkError> {
        let name = self.kind.pod_name(&self.drill);
        let command = match self.kind {
            AgentKind::Observer { .. } => "observe",
            AgentKind::Watchdog { .. } => "watchdog",
            AgentKind::NodeHelper { .. } => "node",
        };
        let env: Vec<Value> = [("FIREDRILL_DRILL", &self.drill), ("FIREDRILL_TOKEN", &self.token)]
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .chain([
                json!({"name": "FIREDRILL_TTL", "value": Dur(self.ttl).to_string()}),
                json!({"name": "FIREDRILL_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
                json!({"name": "FIREDRILL_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}),
            ])
            .collect();
        let mut container = json!({
            "name": "agent",
            "image": self.place.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/firedrill", "agent", command],
            "env": env,
            "volumeMounts": [{"name": "run", "mountPath": SOCKET.rsplit_once('/').map_or("/", |(dir, _)| dir)}],
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        let mut spec = json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            // Enough to undo everything after SIGTERM.
            "terminationGracePeriodSeconds": 15,
            "activeDeadlineSeconds": self.deadline.as_secs().max(60),
            "volumes": [{"name": "run", "emptyDir": {"sizeLimit": "16Mi"}}],
        });
        match &self.kind {
            AgentKind::NodeHelper { node, may_lose, critical } => {
                // No limit on processor time: a throttled helper would be late, and it is idle but for milliseconds.
                container["resources"] = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}});
                // Privileged: it reads and signals other pods' processes, whoever they run as and whatever confines them.
                container["securityContext"] = json!({"privileged": true, "runAsUser": 0});
                spec["nodeName"] = json!(node);
                spec["hostPID"] = json!(true);
                spec["hostNetwork"] = json!(true);
                spec["dnsPolicy"] = json!("Default");
                spec["tolerations"] = json!([{"operator": "Exists"}]);
                if *critical {
                    // A kubelet whose disk is full evicts all other pods, one after the other.
                    spec["priorityClassName"] = json!("system-node-critical");
                }
                if *may_lose {
                    spec["serviceAccountName"] = json!(labels::LOSS_ACCOUNT);
                    // A kubelet that stands still refreshes no token: this one lives as long as the drill can.
                    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": self.deadline.as_secs().max(3600)}});
                    let ca = json!({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}});
                    let own = json!({"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}});
                    add(&mut spec["volumes"], json!({"name": "account", "projected": {"sources": [token, ca, own]}}));
                    let at = "/var/run/secrets/kubernetes.io/serviceaccount";
                    add(&mut container["volumeMounts"], json!({"name": "account", "mountPath": at, "readOnly": true}));
                }
            }
            AgentKind::Observer { avoid_nodes } => {
                container["resources"] = json!({"requests": {"cpu": "50m", "memory": "48Mi"}, "limits": {"memory": "128Mi"}});
                unprivileged(&mut spec, &mut container);
                keep_off(&mut spec, avoid_nodes);
            }
            AgentKind::Watchdog { avoid_nodes, service_account, lease } => {
                container["resources"] = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
                unprivileged(&mut spec, &mut container);
                keep_off(&mut spec, avoid_nodes);
                spec["serviceAccountName"] = json!(service_account);
                spec["automountServiceAccountToken"] = json!(true);
                // Whatever ends it early, it begins anew and looks at the record again.
                spec["restartPolicy"] = json!("OnFailure");
                // A node that is cut off for a while must not cost the drill its watchdog.
                let stays =
                    |taint: &str| json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute"});
                spec["tolerations"] = json!([stays("not-ready"), stays("unreachable")]);
                if let Some(env) = container["env"].as_array_mut() {
                    env.push(json!({"name": "FIREDRILL_NAMESPACE", "value": self.place.namespace}));
                    env.push(json!({"name": "FIREDRILL_LEASE", "value": lease.to_string()}));
                }
            }
        }
        spec["containers"] = json!([container]);
        let pod = json!({
            "metadata": {
                "name": name,
                "namespace": self.place.namespace,
                "labels": {labels::MANAGED_BY: labels::MANAGER, labels::DRILL: self.drill, labels::ROLE: self.kind.role()},
            },
            "spec": spec,
        });
        serde_json::from_value(pod).map_err(|e| self.failed(format!("its manifest is wrong: {e}")))
    }

    fn failed(&self, why: impl Into<String>) -> LinkError {
        LinkError::NotPlaced { at: format!("pod {}/{}", self.place.namespace, self.kind.pod_name(&self.drill)), why: why.into() }
    }
}

fn add(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

/// What Pod Security's *restricted* asks for, and a root file system that is only read.
fn unprivileged(spec: &mut Value, container: &mut Value) {
    container["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    spec["securityContext"] = json!({
        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
    });
}

/// Keeps a pod off nodes.
fn keep_off(spec: &mut Value, nodes: &[String]) {
    if nodes.is_empty() {
        return;
    }
    // One value a requirement: that is all that `matchFields` takes.
    let fields: Vec<Value> = nodes.iter().map(|node| json!({"key": "metadata.name", "operator": "NotIn", "values": [node]})).collect();
    spec["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}}});
}

/// Makes firedrill's own namespace if it is missing. One that is there is left as it is.
///
/// # Errors
/// When it is missing and cannot be made.
pub async fn ensure_namespace(cluster: &Cluster, name: &str) -> Result<(), ClusterError> {
    if cluster.get_cluster_opt::<Namespace>(name).await?.is_some() {
        return Ok(());
    }
    let metadata = kube::api::ObjectMeta {
        name: Some(name.to_owned()),
        // Node helpers are privileged pods; this is the label without which Pod Security may refuse them.
        labels: Some(BTreeMap::from([
            (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
            (labels::POD_SECURITY.to_owned(), "privileged".to_owned()),
        ])),
        ..kube::api::ObjectMeta::default()
    };
    let namespace = Namespace { metadata, ..Namespace::default() };
    match cluster.call(format!("create namespace {name}"), cluster.cluster_api::<Namespace>().create(&post(), &namespace)).await {
        Err(e) if !e.is_conflict() => Err(e),
        _ => Ok(()),
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() }
}

/// Creates an agent's pod, or finds the one that an earlier runner of the same drill has made.
///
/// # Errors
/// When the pod is refused, or one of that name is in the way.
pub async fn make(cluster: &Cluster, spec: &PodSpec, leave: &Leave, deadline: tokio::time::Instant) -> Result<Pod, LinkError> {
    let namespace = &spec.place.namespace;
    let name = spec.kind.pod_name(&spec.drill);
    ensure_namespace(cluster, namespace).await.map_err(|e| spec.failed(e.to_string()))?;
    let api: Api<Pod> = cluster.api(namespace);
    let manifest = spec.manifest()?;
    loop {
        let what = format!("create pod {namespace}/{name}");
        leave.ask().map_err(|why| spec.failed(why))?;
        match cluster.call(&what, api.create(&post(), &manifest)).await {
            Ok(pod) => return Ok(pod),
            Err(e) if e.is_conflict() => {}
            Err(e) if e.is_forbidden() && e.to_string().contains("PodSecurity") => {
                let hint =
                    format!("label the namespace: kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged");
                return Err(spec.failed(format!("{e}; {hint}")));
            }
            Err(e) => return Err(spec.failed(e.to_string())),
        }
        // There is one already: of this drill, or of another one that must not be touched.
        let Some(found) = cluster.get_opt::<Pod>(namespace, &name).await.map_err(|e| spec.failed(e.to_string()))? else { continue };
        if found.labels().get(labels::DRILL) != Some(&spec.drill) {
            return Err(spec.failed("a pod of that name exists and is not of this drill; delete it, if it is not wanted"));
        }
        if !is_over(&found) && found.metadata.deletion_timestamp.is_none() {
            return Ok(found);
        }
        remove_pod(cluster, &found, deadline.saturating_duration_since(tokio::time::Instant::now()))
            .await
            .map_err(|why| spec.failed(why))?;
    }
}

/// Whether nothing runs in a pod any more, and never will.
pub fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Puts an agent in its place, or finds the one that an earlier runner of the same drill has put there, and attaches to it.
/// Returns the link and the pod's name. Takes at most `limit`; `leave` is asked at once before each attempt to make the pod.
///
/// # Errors
/// When the pod is refused, does not come up in time (with the kubelet's reason), or does not answer.
pub async fn place(
    cluster: &Cluster,
    spec: &PodSpec,
    leave: &Leave,
    clock: &Clock,
    limit: Duration,
) -> Result<(Link, Events, String), LinkError> {
    let deadline = tokio::time::Instant::now() + limit;
    let namespace = &spec.place.namespace;
    let name = spec.kind.pod_name(&spec.drill);
    let api: Api<Pod> = cluster.api(namespace);
    let mut again = true;
    loop {
        let pod = make(cluster, spec, leave, deadline).await?;
        // One that had started was there before; if it now turns out to have just ended, another one is made.
        let found = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        match tokio::time::timeout_at(deadline, wait_running(&api, &name)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) if found && again => {
                tracing::debug!("pod {namespace}/{name} was found and is of no use: {why}");
                again = false;
                continue;
            }
            Ok(Err(why)) => return Err(spec.failed(why)),
            Err(_) => {
                let found = cluster.get_opt::<Pod>(namespace, &name).await.ok().flatten();
                return Err(spec.failed(format!(
                    "not running within {}: {}",
                    Dur(limit),
                    found.map_or_else(|| "it cannot be read".to_owned(), |p| waiting_for(&p))
                )));
            }
        }
        let token = token_of(&pod).unwrap_or_else(|| spec.token.clone());
        let transport =
            Transport::Exec { client: cluster.streams.clone(), namespace: namespace.clone(), pod: name.clone(), container: None };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_secs(5));
        let link = LinkSpec { drill: spec.drill.clone(), token, runner: spec.runner.clone(), ttl: spec.ttl, transport };
        tokio::select! {
            biased;
            attached = Link::attach(link, clock.clone(), left) => return attached.map(|(link, events)| (link, events, name)),
            // The kubelet says a moment late that an agent has died: it was found running and never answers.
            () = until_ended(&api, &name), if found && again => {
                tracing::debug!("pod {namespace}/{name} was found and has ended: another one takes its place");
                again = false;
            }
        }
    }
}

/// Waits until a pod has ended or is gone. Whoever waits has a limit.
async fn until_ended(api: &Api<Pod>, name: &str) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone());
        match api.get_opt(name).await {
            Ok(None) => return,
            Ok(Some(pod)) if matches!(phase(&pod).as_deref(), Some("Failed" | "Succeeded")) => return,
            // It cannot be seen just now.
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// The token an agent's pod was made with. It keeps drills apart; it is no secret (who may exec needs none).
fn token_of(pod: &Pod) -> Option<String> {
    let env = pod.spec.as_ref()?.containers.first()?.env.as_ref()?;
    env.iter().find(|e| e.name == "FIREDRILL_TOKEN").and_then(|e| e.value.clone())
}

async fn wait_running(api: &Api<Pod>, name: &str) -> Result<(), String> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(25);
    let mut seen = false;
    let mut pods = Box::pin(watcher(api.clone(), config).backoff(WatchPause::default()));
    while let Some(event) = pods.next().await {
        let pod = match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => pod,
            Ok(watcher::Event::Delete(_)) => return Err("it was deleted".to_owned()),
            Ok(watcher::Event::InitDone) if seen => return Err("it was deleted".to_owned()),
            Ok(_) => continue,
            Err(e) => {
                tracing::debug!("watching pod {name}: {e}");
                continue;
            }
        };
        seen = false;
        match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
            Some("Running") if is_ready(&pod) => return Ok(()),
            Some(phase @ ("Succeeded" | "Failed")) => return Err(format!("it is {phase}: {}", waiting_for(&pod))),
            _ => {}
        }
        if let Some(why) = hopeless(&pod) {
            return Err(why);
        }
    }
    Err("the watch ended".to_owned())
}

fn is_ready(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.is_some_and(|all| all.iter().all(|c| c.state.as_ref().is_some_and(|s| s.running.is_some())))
}

/// What keeps a pod from ever running by itself, if something does.
pub fn hopeless(pod: &Pod) -> Option<String> {
    let why = waiting_for(pod);
    let reasons = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"];
    (is_over(pod) || reasons.iter().any(|reason| why.contains(reason))).then_some(why)
}

/// What a pod that is not running waits for, in the kubelet's or the scheduler's words.
pub fn waiting_for(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "no status yet".to_owned() };
    let mut said = Vec::new();
    for c in status.container_statuses.iter().flatten() {
        if let Some(w) = c.state.as_ref().and_then(|s| s.waiting.as_ref()) {
            said.push(
                format!("{} {}", w.reason.as_deref().unwrap_or("waiting"), w.message.as_deref().unwrap_or_default()).trim().to_owned(),
            );
        }
        if let Some(t) = c.state.as_ref().and_then(|s| s.terminated.as_ref()) {
            said.push(format!("ended with {}: {}", t.exit_code, t.message.as_deref().unwrap_or_default()));
        }
    }
    if said.is_empty() {
        said.extend(status.conditions.iter().flatten().filter(|c| c.status == "False").filter_map(|c| c.message.clone()));
    }
    if said.is_empty() {
        said.extend(status.message.clone());
    }
    if said.is_empty() { format!("phase {}", status.phase.as_deref().unwrap_or("unknown")) } else { said.join("; ") }
}

/// Deletes an agent's pod and waits until it is gone.
///
/// # Errors
/// When it cannot be deleted or is still there after `limit`.
pub async fn remove(cluster: &Cluster, namespace: &str, name: &str, limit: Duration) -> Result<(), String> {
    match cluster.get_opt::<Pod>(namespace, name).await {
        Ok(None) => Ok(()),
        Ok(Some(pod)) => remove_pod(cluster, &pod, limit).await,
        Err(e) => Err(e.to_string()),
    }
}

async fn remove_pod(cluster: &Cluster, pod: &Pod, limit: Duration) -> Result<(), String> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = cluster.api(&namespace);
    let params = DeleteParams {
        // Nothing runs in it any more: no need to wait for the kubelet.
        grace_period_seconds: is_over(pod).then_some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match cluster.call(format!("delete pod {namespace}/{name}"), api.delete(&name, &params)).await {
        Ok(_) => {}
        Err(e) if e.is_not_found() || e.is_conflict() => {}
        Err(e) => return Err(e.to_string()),
    }
    let gone = async {
        loop {
            match cluster.get_opt::<Pod>(&namespace, &name).await {
                Ok(Some(found)) if found.uid() == pod.uid() => {}
                Ok(_) => return,
                Err(e) => tracing::debug!("waiting for a pod to be gone: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(limit, gone).await.map_err(|_| format!("pod {namespace}/{name} is still there after {}", Dur(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: AgentKind) -> PodSpec {
        PodSpec {
            kind,
            drill: "lose-primary-20260101-ab12".to_owned(),
            token: "t".to_owned(),
            runner: "r".to_owned(),
            place: OwnPlace::default(),
            ttl: Duration::from_secs(30),
            deadline: Duration::from_secs(3600),
        }
    }

    #[test]
    fn an_observer_needs_no_privilege_and_stays_off_the_nodes_of_the_drill() {
        let pod = serde_json::to_value(spec(AgentKind::Observer { avoid_nodes: vec!["a".to_owned(), "b".to_owned()] }).manifest().unwrap())
            .unwrap();
        let (s, c) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(
            c["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
        );
        assert_eq!((&s["securityContext"]["runAsNonRoot"], &s["hostPID"], &s["hostNetwork"]), (&json!(true), &Value::Null, &Value::Null));
        let terms = &s["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms.as_array().unwrap().len(), 1, "several terms would be alternatives");
        assert_eq!(terms[0]["matchFields"].as_array().unwrap().len(), 2);
        assert_eq!(s["automountServiceAccountToken"], json!(false));
    }

    #[test]
    fn a_watchdog_is_restricted_stays_off_the_nodes_of_the_drill_and_begins_anew() {
        let kind = AgentKind::Watchdog { avoid_nodes: vec!["a".to_owned()], service_account: "w".to_owned(), lease: Dur::from_secs(15) };
        let pod = serde_json::to_value(spec(kind).manifest().unwrap()).unwrap();
        let (s, c) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!((&s["serviceAccountName"], &s["automountServiceAccountToken"]), (&json!("w"), &json!(true)));
        assert_eq!((&s["restartPolicy"], &s["hostPID"], &s["hostNetwork"]), (&json!("OnFailure"), &Value::Null, &Value::Null));
        assert_eq!(
            (&s["securityContext"]["runAsNonRoot"], &s["securityContext"]["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault"))
        );
        assert_eq!(
            c["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
        );
        assert!(s["tolerations"].as_array().unwrap().iter().all(|t| t.get("tolerationSeconds").is_none()));
        assert_eq!(
            s["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchFields"][0]["values"],
            json!(["a"])
        );
        let env: Vec<&str> = c["env"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
        for name in ["FIREDRILL_DRILL", "FIREDRILL_NAMESPACE", "FIREDRILL_LEASE", "FIREDRILL_POD_UID"] {
            assert!(env.contains(&name), "{name} is not in {env:?}");
        }
    }

    #[test]
    fn a_node_helper_is_pinned_and_tolerates_everything() {
        let pod = serde_json::to_value(
            spec(AgentKind::NodeHelper { node: "node2".to_owned(), may_lose: false, critical: false }).manifest().unwrap(),
        )
        .unwrap();
        let s = &pod["spec"];
        assert_eq!((&s["nodeName"], &s["hostPID"], &s["restartPolicy"]), (&json!("node2"), &json!(true), &json!("Never")));
        assert_eq!(s["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(pod["metadata"]["labels"][labels::ROLE], "node-helper");
        assert_eq!((&s["serviceAccountName"], &s["automountServiceAccountToken"]), (&Value::Null, &json!(false)));
        let loses = spec(AgentKind::NodeHelper { node: "node2".to_owned(), may_lose: true, critical: true }).manifest().unwrap();
        let s = &serde_json::to_value(loses).unwrap()["spec"];
        assert_eq!((&s["serviceAccountName"], &s["priorityClassName"]), (&json!(labels::LOSS_ACCOUNT), &json!("system-node-critical")));
        assert_eq!(s["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], json!(3600));
    }

    #[test]
    fn a_name_too_long_is_cut_and_stays_unique() {
        let kind = |n: &str| AgentKind::NodeHelper { node: format!("{}{n}", "x".repeat(250)), may_lose: false, critical: false };
        let (a, b) = (kind("a").pod_name("d"), kind("b").pod_name("d"));
        assert!(a.len() <= 253 && b.len() <= 253 && a != b);
    }
}
