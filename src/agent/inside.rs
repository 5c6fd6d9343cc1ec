//! An agent within a pod: an ephemeral container beside the target's own, where no pod may be placed on the node.
//!
//! It is the node helper ([`super::node`]), and acts on nothing but its own pod, by what Pod Security *baseline* allows: user 0 with one
//! capability. Where the namespace enforces *restricted* it has none, and is the target container's own user instead.
//!
//! - **Volumes**: the claims and emptyDirs that the pod declares are mounted in it, each whole, by their names. No process of others is
//!   needed for that, and none is seen.
//! - **Processes**: it shares the pod's process namespace, or, where the pod does not share one, that of the one container that is named. In
//!   the latter the target's first process is number 1, to which signals from inside get only if it has a handler for them: SIGKILL and
//!   SIGSTOP never do ([`dropped`]). And when that process ends, everything in its namespace ends with it, the agent included.
//!
//! An ephemeral container can neither be removed nor started again: the agent ends by itself, each one has a name of its own, and the record
//! of those that have ended stays on the pod for as long as it lives.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EphemeralContainer, Namespace, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    link::{Link, LinkError, LinkSpec, Transport},
    pods::is_over,
};
use crate::{
    clock::Clock,
    cluster::{Cluster, Fresh, Leave, WatchPause},
    labels,
    scenario::types::Dur,
};

/// What the names of all agents' containers begin with.
const PREFIX: &str = "firedrill-agent-";
/// Where an agent has the pod's volumes.
const VOLUMES: &str = "/volumes";
/// How long an agent that may be ending may keep another one from being placed.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(15);
/// How long a goodbye may take.
const BYE_LIMIT: Duration = Duration::from_secs(15);

/// Whether a container is an agent's.
pub fn is_own(container: &str) -> bool {
    container.starts_with(PREFIX)
}

/// Where an agent has a volume of its pod.
pub fn mount(volume: &str) -> String {
    format!("{VOLUMES}/{volume}")
}

/// Why a signal is not sent to the first process of the namespace that the agent is in.
pub fn dropped(process: &str, signal: &str) -> String {
    format!(
        "{process} is the first of the process namespace that the agent is in, and the kernel drops {signal} from inside: nothing was done. \
         Use `placement: node`, or a pod with `shareProcessNamespace: true`"
    )
}

/// What an agent is for; it has the power for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// What the pod has mounted.
    Volumes,
    /// Its processes.
    Processes,
}

impl Work {
    const fn letter(self) -> char {
        match self {
            Self::Volumes => 'v',
            Self::Processes => 'p',
        }
    }

    /// The one capability with which user 0 can do it.
    const fn capability(self) -> &'static str {
        match self {
            Self::Volumes => "DAC_OVERRIDE",
            Self::Processes => "KILL",
        }
    }
}

/// What to place in a pod.
#[derive(Debug, Clone)]
pub struct InsideSpec {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid: another pod of that name is not touched.
    pub uid: String,
    /// What for.
    pub work: Work,
    /// The container that is meant: whose user the agent is where it may not be user 0, and whose processes it sees where the pod does
    /// not share them. None: all.
    pub container: Option<String>,
    /// The drill.
    pub drill: String,
    /// The drill's token.
    pub token: String,
    /// Who places it, and attaches to it: see [`LinkSpec::runner`].
    pub runner: String,
    /// firedrill's image.
    pub image: String,
    /// The agent's time to live without a renewal.
    pub ttl: Duration,
}

impl InsideSpec {
    fn at(&self) -> String {
        format!("agent in pod {}/{}", self.namespace, self.pod)
    }

    fn failed(&self, why: impl Into<String>) -> LinkError {
        LinkError::NotPlaced { at: self.at(), why: why.into() }
    }

    /// What tells the agents of this drill, this work and this container from others; a number follows. Its socket is called so, too, and
    /// pods that use their node's network share the names of those.
    fn prefix(&self) -> String {
        let container = self.container.as_deref().unwrap_or_default();
        let digest = hex::encode(Sha256::digest(format!("{}/{}/{container}", self.uid, self.drill)));
        format!("{PREFIX}{}{}-", self.work.letter(), &digest[..10])
    }

    /// The container, in a namespace that enforces *restricted* or in another one.
    ///
    /// # Errors
    /// Why it cannot be had in this pod.
    fn container(&self, pod: &Pod, name: &str, restricted: bool) -> Result<EphemeralContainer, String> {
        let mut security = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        if restricted {
            let user = user(pod, self.container.as_deref())?;
            (security["runAsNonRoot"], security["runAsUser"]) = (json!(true), json!(user.0));
            if let Some(group) = user.1 {
                security["runAsGroup"] = json!(group);
            }
        } else {
            (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) = (json!(false), json!(0), json!(0));
            security["capabilities"]["add"] = json!([self.work.capability()]);
        }
        let env = |name: &str, value: &str| json!({"name": name, "value": value});
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let mut container = json!({
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/firedrill", "agent", "pod"],
            "env": [
                env("FIREDRILL_DRILL", &self.drill),
                env("FIREDRILL_TOKEN", &self.token),
                env("FIREDRILL_TTL", &Dur(self.ttl).to_string()),
                env("FIREDRILL_SOCKET", &format!("@{name}")),
                field("FIREDRILL_POD", "metadata.name"),
                field("FIREDRILL_POD_UID", "metadata.uid"),
            ],
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        match self.work {
            Work::Volumes => {
                let mounts: Vec<Value> =
                    volumes(pod).into_iter().map(|volume| json!({"name": volume, "mountPath": mount(&volume)})).collect();
                container["volumeMounts"] = json!(mounts);
            }
            Work::Processes if shares_processes(pod) => {}
            Work::Processes => {
                let target = self
                    .container
                    .as_deref()
                    .ok_or("which container's processes are meant is not said: name it in the target's `containers`")?;
                container["targetContainerName"] = json!(target);
            }
        }
        serde_json::from_value(container).map_err(|error| format!("its container is wrong: {error}"))
    }
}

/// Whether a pod's containers see each other's processes.
pub fn shares_processes(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.share_process_namespace == Some(true) && spec.host_pid != Some(true))
}

/// The volumes of a pod that are mounted in its agents: claims and emptyDirs that have files.
fn volumes(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let devices: Vec<&str> =
        spec.containers.iter().flat_map(|c| c.volume_devices.iter().flatten()).map(|device| device.name.as_str()).collect();
    let fits = |volume: &&k8s_openapi::api::core::v1::Volume| {
        (volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.empty_dir.is_some())
            && !devices.contains(&volume.name.as_str())
    };
    spec.volumes.iter().flatten().filter(fits).map(|volume| volume.name.clone()).collect()
}

/// The user and group of a container, or of all of a pod, as its manifest says them.
///
/// # Errors
/// It does not say, or says user 0, or several.
pub fn user(pod: &Pod, container: Option<&str>) -> Result<(i64, Option<i64>), String> {
    let spec = pod.spec.as_ref().ok_or("it has no spec")?;
    let general = spec.security_context.as_ref();
    let of = |c: &Container| {
        let own = c.security_context.as_ref();
        let user = own.and_then(|s| s.run_as_user).or_else(|| general.and_then(|s| s.run_as_user));
        let group = own.and_then(|s| s.run_as_group).or_else(|| general.and_then(|s| s.run_as_group));
        user.map(|user| (user, group)).ok_or_else(|| {
            format!(
                "container {} does not say its `runAsUser`, and an agent in a *restricted* namespace has to be of that user: say it",
                c.name
            )
        })
    };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|c| Some(c.name.as_str()) == container));
    let users = all.filter(|c| container.is_none_or(|name| c.name == name)).map(of).collect::<Result<Vec<_>, _>>()?;
    match users.as_slice() {
        [(0, _), ..] => Err("its user is 0, which *restricted* does not allow".to_owned()),
        [first, rest @ ..] if rest.iter().all(|other| other.0 == first.0) => Ok(*first),
        [] => Err(format!("it has no container {}", container.unwrap_or_default())),
        _ => Err("its containers have several users, and an agent in a *restricted* namespace can be one of them only: name one container in the target's `containers`".to_owned()),
    }
}

/// Whether each container of a pod says which user it is, and that this is not 0.
pub fn says_users(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let general = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let user = |c: &Container| c.security_context.as_ref().and_then(|s| s.run_as_user).or(general);
    spec.containers.iter().all(|c| user(c).is_some_and(|user| user != 0))
}

/// The status of a container that was added to a pod.
fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.ephemeral_container_statuses.iter().flatten().find(|status| status.name == name)
}

fn runs(pod: &Pod, name: &str) -> bool {
    status(pod, name).and_then(|s| s.state.as_ref()).is_some_and(|state| state.running.is_some())
}

/// Whether a container that was added to a pod has ended for good.
pub(super) fn has_ended(pod: &Pod, name: &str) -> bool {
    is_over(pod) || status(pod, name).and_then(|s| s.state.as_ref()).is_some_and(|state| state.terminated.is_some())
}

fn added(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

fn var<'a>(container: &'a EphemeralContainer, name: &str) -> Option<&'a str> {
    container.env.iter().flatten().find(|var| var.name == name)?.value.as_deref()
}

fn of_drill(container: &EphemeralContainer, drill: &str) -> bool {
    is_own(&container.name) && var(container, "FIREDRILL_DRILL") == Some(drill)
}

/// The agents of a drill that have not ended in a pod, by their containers' names.
pub fn left_in(pod: &Pod, drill: &str) -> Vec<String> {
    added(pod).filter(|c| of_drill(c, drill) && !has_ended(pod, &c.name)).map(|c| c.name.clone()).collect()
}

/// An agent of this drill, work and container that runs in a pod, with its token.
fn running(pod: &Pod, spec: &InsideSpec) -> Option<(String, String)> {
    let prefix = spec.prefix();
    let fits = |c: &&EphemeralContainer| c.name.starts_with(&prefix) && of_drill(c, &spec.drill) && runs(pod, &c.name);
    added(pod).filter(fits).last().map(|c| (c.name.clone(), var(c, "FIREDRILL_TOKEN").unwrap_or_default().to_owned()))
}

/// Whether an agent of this drill, work and container runs in its pod.
///
/// # Errors
/// The pod cannot be read.
pub async fn exists(cluster: &Cluster, spec: &InsideSpec) -> Result<bool, crate::cluster::ClusterError> {
    let pod = cluster.get_opt::<Pod>(&spec.namespace, &spec.pod).await?.filter(|pod| pod.uid().as_deref() == Some(&spec.uid));
    Ok(pod.is_some_and(|pod| !is_over(&pod) && running(&pod, spec).is_some()))
}

/// The pod, while it is the one that is meant and can take a container.
async fn there(cluster: &Cluster, spec: &InsideSpec) -> Result<Pod, LinkError> {
    let pod = cluster.get_opt::<Pod>(&spec.namespace, &spec.pod).await.map_err(|e| spec.failed(e.to_string()))?;
    let pod = pod.filter(|pod| pod.uid().as_deref() == Some(&spec.uid)).ok_or_else(|| spec.failed("the pod is no longer there"))?;
    if is_over(&pod) {
        return Err(spec.failed("the pod has ended"));
    }
    Ok(pod)
}

/// Puts an agent into its pod, or finds the one that an earlier runner of the same drill has put there, and attaches to it. Returns
/// the link and the container's name. Takes at most `limit`; `leave` is asked at once before the pod is changed.
///
/// # Errors
/// It is refused, does not come up in time (with the kubelet's reason), or does not answer.
pub async fn place(
    cluster: &Cluster,
    spec: &InsideSpec,
    leave: &Leave,
    clock: &Clock,
    limit: Duration,
) -> Result<(Link, String), LinkError> {
    let deadline = tokio::time::Instant::now() + limit;
    let left = || deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_secs(5));
    let api: Api<Pod> = cluster.api(&spec.namespace);
    if let Some((name, token)) = running(&there(cluster, spec).await?, spec) {
        match attach(cluster, spec, &name, token, clock, left().min(TAKE_OVER_LIMIT)).await {
            Ok(link) => return Ok((link, name)),
            // The kubelet says a moment late that one has ended.
            Err(error) => tracing::debug!("container {name} of pod {}/{} is of no use: {error}", spec.namespace, spec.pod),
        }
    }
    let name = add(cluster, spec, leave, deadline).await?;
    match tokio::time::timeout_at(deadline, wait_running(&api, &spec.pod, &name)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(spec.failed(why)),
        Err(_) => {
            let waits = api.get_opt(&spec.pod).await.ok().flatten().and_then(|pod| waits_for(&pod, &name));
            return Err(spec.failed(format!(
                "not running within {}: {}",
                Dur(limit),
                waits.unwrap_or_else(|| "its kubelet says nothing of it".to_owned())
            )));
        }
    }
    let link = attach(cluster, spec, &name, spec.token.clone(), clock, left()).await?;
    Ok((link, name))
}

async fn attach(
    cluster: &Cluster,
    spec: &InsideSpec,
    name: &str,
    token: String,
    clock: &Clock,
    limit: Duration,
) -> Result<Link, LinkError> {
    let transport = Transport::Exec {
        client: cluster.streams.clone(),
        namespace: spec.namespace.clone(),
        pod: spec.pod.clone(),
        container: Some(name.to_owned()),
    };
    let to = LinkSpec { drill: spec.drill.clone(), token, runner: spec.runner.clone(), ttl: spec.ttl, transport };
    // It has nothing to say unasked.
    Link::attach(to, clock.clone(), limit).await.map(|(link, _events)| link)
}

/// Adds the container to the pod. Its name.
async fn add(cluster: &Cluster, spec: &InsideSpec, leave: &Leave, deadline: tokio::time::Instant) -> Result<String, LinkError> {
    let namespace = cluster.get_cluster_opt::<Namespace>(&spec.namespace).await.map_err(|e| spec.failed(e.to_string()))?;
    let mut restricted = namespace.is_some_and(|n| n.labels().get(labels::POD_SECURITY).is_some_and(|level| level == labels::RESTRICTED));
    let api: Api<Pod> = cluster.api(&spec.namespace);
    let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    loop {
        let pod = there(cluster, spec).await?;
        let number = added(&pod).filter(|c| is_own(&c.name)).count();
        let name = format!("{}{number}", spec.prefix());
        let container = spec.container(&pod, &name, restricted).map_err(|why| spec.failed(why))?;
        // Whoever changes the pod meanwhile may have replaced it.
        let patch = json!({"metadata": {"resourceVersion": pod.resource_version()}, "spec": {"ephemeralContainers": [container]}});
        let what = format!("add container {name} to pod {}/{}", spec.namespace, spec.pod);
        leave.ask().map_err(|why| spec.failed(why))?;
        match cluster.call(&what, api.patch_subresource("ephemeralcontainers", &spec.pod, &params, &Patch::Strategic(&patch))).await {
            Ok(_) => return Ok(name),
            Err(error) if error.is_conflict() && tokio::time::Instant::now() < deadline => {}
            // The cluster's own default is stricter than the namespace says.
            Err(error) if error.is_forbidden() && !restricted && error.to_string().contains("PodSecurity \"restricted") => {
                restricted = true
            }
            Err(error) => return Err(spec.failed(error.to_string())),
        }
    }
}

async fn wait_running(api: &Api<Pod>, pod: &str, name: &str) -> Result<(), String> {
    let config = watcher::Config::default().fields(&format!("metadata.name={pod}")).timeout(25);
    let mut pods = Box::pin(watcher(api.clone(), config).backoff(WatchPause::default()));
    while let Some(event) = pods.next().await {
        let pod = match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => pod,
            Ok(watcher::Event::Delete(_)) => return Err("the pod was deleted".to_owned()),
            Ok(_) => continue,
            Err(e) => {
                tracing::debug!("watching pod {pod}: {e}");
                continue;
            }
        };
        if runs(&pod, name) {
            return Ok(());
        }
        let waits = waits_for(&pod, name);
        let reasons = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"];
        if has_ended(&pod, name) || waits.as_ref().is_some_and(|why| reasons.iter().any(|reason| why.contains(reason))) {
            return Err(waits.unwrap_or_else(|| "the pod has ended".to_owned()));
        }
    }
    Err("the watch ended".to_owned())
}

/// What keeps it from running, in the kubelet's words.
fn waits_for(pod: &Pod, name: &str) -> Option<String> {
    let state = status(pod, name)?.state.as_ref()?;
    let said = |reason: Option<&str>, message: Option<&str>| {
        [reason, message].into_iter().flatten().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    };
    let waits = state.waiting.as_ref().map(|w| said(w.reason.as_deref(), w.message.as_deref()));
    waits.or_else(|| {
        state.terminated.as_ref().map(|t| format!("it ended with {}: {}", t.exit_code, t.message.as_deref().unwrap_or_default()))
    })
}

/// Who ends agents, and of which drill.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// The drill.
    pub drill: &'a str,
    /// The runner: see [`LinkSpec::runner`].
    pub runner: &'a str,
    /// How long an agent lives that heard of it.
    pub ttl: Duration,
}

/// Asks all agents of a drill in the pods of a namespace to undo what they hold and to end, and waits until they have. What is left
/// after `limit`.
pub async fn end_all(cluster: &Cluster, namespace: &str, by: &By<'_>, told: &[String], clock: &Clock, limit: Duration) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut told = told.to_vec();
    loop {
        let keep = |pod: Pod| (!left_in(&pod, by.drill).is_empty()).then_some(pod);
        let what = format!("list the pods with agents in {namespace}");
        let pods = cluster.list_map(&cluster.api(namespace), None, &what, Fresh::Now, keep).await;
        let pods = match pods {
            Ok(pods) => pods,
            Err(error) => return vec![error.to_string()],
        };
        let mut left = Vec::new();
        for pod in &pods {
            for name in left_in(pod, by.drill) {
                let key = format!("{}/{name}", pod.name_any());
                left.push(format!(
                    "container {name} of pod {namespace}/{} still runs; it ends by itself when nobody renews it",
                    pod.name_any()
                ));
                // Of an earlier runner. Where it cannot be told, its time to live runs out.
                if !told.contains(&key) && runs(pod, &name) {
                    told.push(key);
                    goodbye(cluster, pod, &name, by, clock).await;
                }
            }
        }
        if left.is_empty() || tokio::time::Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn goodbye(cluster: &Cluster, pod: &Pod, name: &str, by: &By<'_>, clock: &Clock) {
    let Some(container) = added(pod).find(|c| c.name == name) else { return };
    let transport = Transport::Exec {
        client: cluster.streams.clone(),
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
        container: Some(name.to_owned()),
    };
    let token = var(container, "FIREDRILL_TOKEN").unwrap_or_default().to_owned();
    let to = LinkSpec { drill: by.drill.to_owned(), token, runner: by.runner.to_owned(), ttl: by.ttl, transport };
    let said = match Link::attach(to, clock.clone(), BYE_LIMIT).await {
        Ok((link, _events)) => link.bye(BYE_LIMIT).await,
        Err(error) => Err(error),
    };
    match said {
        Ok(said) if said.is_empty() => {}
        Ok(said) => tracing::warn!("the agent in pod {} still had something to undo: {said}", pod.name_any()),
        Err(error) => tracing::debug!("goodbye to the agent in pod {}: {error}", pod.name_any()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(change: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "db-0", "namespace": "shop", "uid": "u"}, "spec": {
            "containers": [
                {"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "pg"}], "volumeDevices": [{"name": "raw", "devicePath": "/dev/x"}]},
                {"name": "side"},
            ],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}, {"name": "tmp", "emptyDir": {}},
                {"name": "raw", "persistentVolumeClaim": {"claimName": "raw"}}, {"name": "config", "configMap": {"name": "c"}},
                {"name": "host", "hostPath": {"path": "/"}},
            ],
        }});
        json_patch::merge(&mut pod, &change);
        serde_json::from_value(pod).unwrap()
    }

    fn spec(work: Work, container: Option<&str>) -> InsideSpec {
        let text = str::to_owned;
        InsideSpec {
            namespace: text("shop"),
            pod: text("db-0"),
            uid: text("u"),
            work,
            container: container.map(text),
            drill: text("drill-1"),
            token: text("t"),
            runner: text("r"),
            image: text("firedrill:1"),
            ttl: Duration::from_secs(30),
        }
    }

    fn made(work: Work, container: Option<&str>, pod: &Pod, restricted: bool) -> Result<Value, String> {
        spec(work, container).container(pod, "firedrill-agent-x-0", restricted).map(|c| serde_json::to_value(c).unwrap())
    }

    #[test]
    fn it_has_one_capability_and_the_pods_own_volumes_whole() {
        let c = made(Work::Volumes, Some("main"), &pod(json!({})), false).unwrap();
        assert_eq!(
            c["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": false, "runAsUser": 0, "runAsGroup": 0,
                   "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}, "seccompProfile": {"type": "RuntimeDefault"}})
        );
        // Neither what is the node's or the cluster's, nor what has no files; and no part of one.
        assert_eq!(
            c["volumeMounts"],
            json!([{"name": "data", "mountPath": "/volumes/data"}, {"name": "tmp", "mountPath": "/volumes/tmp"}])
        );
        assert_eq!(c["targetContainerName"], Value::Null);
        let c = made(Work::Processes, Some("main"), &pod(json!({})), false).unwrap();
        assert_eq!((&c["targetContainerName"], &c["volumeMounts"]), (&json!("main"), &Value::Null));
        assert_eq!(c["securityContext"]["capabilities"], json!({"drop": ["ALL"], "add": ["KILL"]}));
        let shared = pod(json!({"spec": {"shareProcessNamespace": true}}));
        assert_eq!(made(Work::Processes, None, &shared, false).unwrap()["targetContainerName"], Value::Null);
        assert!(made(Work::Processes, None, &pod(json!({})), false).unwrap_err().contains("`containers`"));
    }

    #[test]
    fn in_a_restricted_namespace_it_is_the_targets_user_and_has_no_capability() {
        let user = |user: i64| json!({"spec": {"securityContext": {"runAsUser": user, "runAsGroup": 7}}});
        let c = made(Work::Volumes, Some("main"), &pod(user(999)), true).unwrap();
        assert_eq!(
            c["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 7,
                   "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})
        );
        for (change, container, why) in [
            (json!({}), Some("main"), "container main does not say its `runAsUser`"),
            (user(0), Some("main"), "its user is 0"),
            (user(999), Some("none"), "it has no container none"),
            (
                json!({"spec": {"containers": [{"name": "a", "securityContext": {"runAsUser": 1}}, {"name": "b", "securityContext": {"runAsUser": 2}}]}}),
                None,
                "several users",
            ),
        ] {
            let error = made(Work::Volumes, container, &pod(change), true).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn each_has_a_name_of_its_own_and_those_that_run_are_found() {
        let (a, b) = (spec(Work::Volumes, Some("main")).prefix(), spec(Work::Processes, Some("main")).prefix());
        assert!(a != b && a != spec(Work::Volumes, Some("side")).prefix() && is_own(&a) && a.len() < 40, "{a}");
        let container = |name: String, drill: &str| json!({"name": name, "env": [{"name": "FIREDRILL_DRILL", "value": drill}, {"name": "FIREDRILL_TOKEN", "value": "old"}]});
        let status =
            |name: &str, state: Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let with = |second: Value| {
            pod(json!({
                "spec": {"ephemeralContainers": [container(format!("{a}0"), "drill-1"), container(format!("{a}1"), "drill-1"), container("debugger".to_owned(), "drill-1")]},
                "status": {"phase": "Running", "ephemeralContainerStatuses": [
                    status(&format!("{a}0"), json!({"terminated": {"exitCode": 0}})), status(&format!("{a}1"), second),
                    status("debugger", json!({"running": {}})),
                ]},
            }))
        };
        let now = with(json!({"running": {}}));
        assert_eq!(running(&now, &spec(Work::Volumes, Some("main"))), Some((format!("{a}1"), "old".to_owned())));
        assert_eq!(running(&now, &spec(Work::Processes, Some("main"))), None);
        assert_eq!((left_in(&now, "drill-1"), left_in(&now, "drill-2").len()), (vec![format!("{a}1")], 0));
        assert_eq!(left_in(&with(json!({"terminated": {"exitCode": 1}})), "drill-1"), Vec::<String>::new());
        // One that its kubelet has not begun yet will run.
        assert_eq!(left_in(&with(json!({"waiting": {"reason": "ContainerCreating"}})), "drill-1").len(), 1);
    }
}
