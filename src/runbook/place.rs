//! Where a runbook's blocks run: an existing pod of a target, or a pod made for the runbook; and which Secrets are known there.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::{Pod, PodSpec, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{control::RunbookCx, mask::Masks, shell::Place};
use crate::{
    cluster::{Cluster, ClusterError},
    labels,
    plan::{Plan, PlannedStep},
    scenario::types::{ObjectName, RunIn, RunJob},
};

/// The value of [`labels::ROLE`] on what runbooks make.
pub const ROLE: &str = "runbook";
/// The value of [`labels::ROLE`] on the Jobs that run a fault's commands.
pub const FAULT_ROLE: &str = "fault";
/// The container of a runbook's pod.
const CONTAINER: &str = "runbook";
/// How much longer than the drill may take a runbook's pod lives, should nobody remove it.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// How long a runbook's pod has to start: images may have to be fetched.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Time between looks at a pod or Job that is waited for.
const LOOK: Duration = Duration::from_millis(250);
/// How long removing what runbooks made may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

/// The name of what is made for a step of a drill: short, because a Job's name becomes a label of its pods.
pub fn name(drill: &str, step: &str, attempt: u32) -> String {
    let hash = hex::encode(Sha256::digest(drill.as_bytes()));
    let step: String = step.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(20).collect();
    let again = if attempt > 1 { format!("-{attempt}") } else { String::new() };
    format!("runbook-{step}-{}{again}", &hash[..10])
}

/// The labels of what a runbook makes.
pub(super) fn made(drill: &str) -> Value {
    json!({labels::DRILL: drill, labels::ROLE: ROLE, labels::MANAGED_BY: labels::MANAGER})
}

/// Makes ready where a runbook's blocks run, and gathers the secrets that may show up there. The second part names Secrets that could
/// not be read; if there are any, output must not be kept.
pub(super) async fn ready(cx: &RunbookCx, step: &PlannedStep, run_in: &RunIn) -> Result<(Place, Masks, Vec<String>), String> {
    let (pod, container) = match (&run_in.target, &run_in.job) {
        (Some(target), None) => (in_target(&cx.cluster, &cx.plan, target).await?, run_in.container.clone()),
        (None, Some(job)) => (in_job(cx, step, job).await?, Some(CONTAINER.to_owned())),
        _ => return Err("`runIn` needs exactly one of `target` and `job`".to_owned()),
    };
    let namespace = pod.namespace().unwrap_or_default();
    let mut secrets = secrets_of(&namespace, pod.spec.as_ref());
    secrets.extend(secrets_named(&cx.plan));
    let (masks, unreadable) = masks(&cx.cluster, &secrets).await;
    let api = Api::namespaced(cx.cluster.streams.clone(), &namespace);
    Ok((Place::Pod { api, name: pod.name_any(), container }, masks, unreadable))
}

/// The first ready pod, by name, of those a target chooses now: after a failover another one leads.
///
/// # Errors
/// When the cluster cannot be asked, or no pod of the target is ready.
pub async fn in_target(cluster: &Cluster, plan: &Plan, target: &str) -> Result<Pod, String> {
    let resolved =
        crate::plan::resolve::fresh(cluster, plan, target).await.map_err(|e| format!("failed to look up target `{target}`: {e}"))?;
    let first = resolved.chosen().filter(|object| object.kind == "Pod" && object.ready).min_by(|a, b| a.name.cmp(&b.name));
    let Some(first) = first else { return Err(format!("no pod of target `{target}` is ready ({} match)", resolved.matched)) };
    let pod = cluster.get_opt::<Pod>(&first.namespace, &first.name).await.map_err(|e| e.to_string())?;
    pod.ok_or_else(|| format!("pod {}/{} is gone", first.namespace, first.name))
}

/// The pod made for a step, there already when the drill was resumed.
async fn in_job(cx: &RunbookCx, step: &PlannedStep, job: &RunJob) -> Result<Pod, String> {
    let name = name(&cx.drill, &step.path, 1);
    let full = format!("pod {}/{name}", job.namespace);
    let life = cx.plan.limits.duration.0 + LEFT_ALONE;
    let pod = pod(&cx.drill, &name, job, life)?;
    let api = cx.cluster.api::<Pod>(&job.namespace);
    let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
    match cx.cluster.call(format!("create {full}"), api.create(&params, &pod)).await {
        Ok(_) => {}
        Err(e) if e.is_conflict() => {}
        Err(e) => return Err(e.to_string()),
    }
    let deadline = tokio::time::Instant::now() + START_LIMIT;
    loop {
        let Some(pod) = cx.cluster.get_opt::<Pod>(&job.namespace, &name).await.map_err(|e| e.to_string())? else {
            return Err(format!("{full} was deleted while it was starting"));
        };
        if pod.labels().get(labels::DRILL) != Some(&cx.drill) {
            return Err(format!("{full} exists and is not of this drill"));
        }
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        match phase.as_str() {
            "Running" => return Ok(pod),
            "Failed" | "Succeeded" => return Err(format!("{full} ended before the runbook's first step: {}", waiting_for(&pod))),
            _ => {}
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(format!("{full} did not start within {}: {}", crate::scenario::types::Dur(START_LIMIT), waiting_for(&pod)));
        }
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => return Err("the drill is aborted".to_owned()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Why a pod does not run, in the kubelet's or the scheduler's words.
pub(crate) fn waiting_for(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "it has no status yet".to_owned() };
    let container = status.container_statuses.iter().flatten().find_map(|c| {
        let state = c.state.as_ref()?;
        let (reason, message) = match (&state.waiting, &state.terminated) {
            (Some(w), _) => (w.reason.clone(), w.message.clone()),
            (_, Some(t)) => (t.reason.clone(), Some(format!("exit code {} {}", t.exit_code, t.message.clone().unwrap_or_default()))),
            _ => return None,
        };
        Some(format!("{} {}", reason.unwrap_or_default(), message.unwrap_or_default()).trim().to_owned())
    });
    let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    container
        .or_else(|| scheduled.and_then(|c| c.message.clone()))
        .or_else(|| status.message.clone())
        .unwrap_or_else(|| format!("phase {}", status.phase.clone().unwrap_or_default()))
}

/// The pod for a runbook: it sleeps, and blocks are run in it by exec.
fn pod(drill: &str, name: &str, job: &RunJob, life: Duration) -> Result<Pod, String> {
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let mut add = |path: &str, source: Value, read_only: bool| {
        let volume = format!("v{}", volumes.len());
        let mut source = source;
        source["name"] = json!(volume);
        volumes.push(source);
        mounts.push(json!({"name": volume, "mountPath": path, "readOnly": read_only}));
    };
    for text in &job.volumes {
        let Some((claim, path)) = text.split_once(':').filter(|(c, p)| !c.is_empty() && p.starts_with('/')) else {
            return Err(format!("volume `{text}` is not `claim:/path`"));
        };
        add(path, json!({"persistentVolumeClaim": {"claimName": claim}}), false);
    }
    for text in &job.mounts {
        let wrong = || format!("mount `{text}` is not `secret/NAME:/path` or `configMap/NAME:/path`");
        let (what, path) = text.split_once(':').filter(|(_, p)| p.starts_with('/')).ok_or_else(wrong)?;
        let source = match what.split_once('/') {
            // Keys are often refused when anyone else may read them.
            Some(("secret", name)) if !name.is_empty() => json!({"secret": {"secretName": name, "defaultMode": 0o440}}),
            Some(("configMap", name)) if !name.is_empty() => json!({"configMap": {"name": name}}),
            _ => return Err(wrong()),
        };
        add(path, source, true);
    }
    for new in &job.new_volumes {
        if !new.path.starts_with('/') {
            return Err(format!("new volume: path `{}` does not start with `/`", new.path));
        }
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": new.size.to_string()}}});
        if let Some(class) = &new.storage_class {
            spec["storageClassName"] = json!(class);
        }
        // An ephemeral volume belongs to the pod: it is new, and Kubernetes removes it with the pod.
        add(&new.path, json!({"ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": made(drill)}, "spec": spec}}}), false);
    }
    let env_from: Vec<Value> = job.env_from_secrets.iter().map(|s| json!({"secretRef": {"name": s}})).collect();
    let mut env: Vec<Value> = job.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    env.push(json!({"name": "FIREDRILL_DRILL", "value": drill}));
    let mut spec = json!({
        "restartPolicy": "Never",
        "activeDeadlineSeconds": life.as_secs().max(1),
        "terminationGracePeriodSeconds": 2,
        "enableServiceLinks": false,
        "containers": [{
            "name": CONTAINER,
            "image": job.image,
            "imagePullPolicy": "IfNotPresent",
            // As PID 1 it takes SIGTERM at once, and as a shell that waits it reaps what blocks leave behind.
            "command": ["sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 5 & wait $!; done"],
            "envFrom": env_from,
            "env": env,
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    if let Some(account) = &job.service_account {
        spec["serviceAccountName"] = json!(account);
    }
    let mut security = json!({});
    if let Some(user) = job.run_as_user {
        security["runAsUser"] = json!(user);
    }
    if let Some(group) = job.fs_group {
        security["fsGroup"] = json!(group);
    }
    spec["securityContext"] = security;
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": job.namespace, "labels": made(drill)},
        "spec": spec,
    }))
    .map_err(|e| format!("failed to write the runbook's pod: {e}"))
}

/// The Secrets a pod's containers can see.
pub(super) fn secrets_of(namespace: &str, spec: Option<&PodSpec>) -> BTreeSet<(String, String)> {
    let mut names = BTreeSet::new();
    let Some(spec) = spec else { return names };
    let mut add = |name: Option<&String>| {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            names.insert((namespace.to_owned(), name.clone()));
        }
    };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            add(from.secret_ref.as_ref().map(|s| &s.name));
        }
        for env in container.env.iter().flatten() {
            add(env.value_from.as_ref().and_then(|v| v.secret_key_ref.as_ref()).map(|s| &s.name));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        add(volume.secret.as_ref().and_then(|s| s.secret_name.as_ref()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            add(source.secret.as_ref().map(|s| &s.name));
        }
    }
    names
}

/// The Secrets that a plan's probes, objectives and faults name: every field called `secret`.
pub(super) fn secrets_named(plan: &Plan) -> BTreeSet<(String, String)> {
    fn walk(value: &Value, names: &mut BTreeSet<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str().map(str::parse::<ObjectName>) {
                        Some(Ok(name)) if key == "secret" => {
                            names.insert((name.namespace, name.name));
                        }
                        _ => walk(value, names),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, names)),
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    // A plan always turns into JSON: it is the journal's first record.
    if let Ok(value) = serde_json::to_value((&plan.probes, &plan.objectives, &plan.steps)) {
        walk(&value, &mut names);
    }
    names
}

/// The values of Secrets, and which could not be read (but exist, for all that is known).
pub(super) async fn masks(cluster: &Cluster, names: &BTreeSet<(String, String)>) -> (Masks, Vec<String>) {
    let (mut masks, mut unreadable) = (Masks::default(), Vec::new());
    for (namespace, name) in names {
        match cluster.get_opt::<Secret>(namespace, name).await {
            Ok(secret) => {
                for (key, value) in secret.and_then(|s| s.data).unwrap_or_default() {
                    masks.add(&key, &value.0);
                }
            }
            Err(error) => unreadable.push(error.to_string()),
        }
    }
    (masks, unreadable)
}

/// Removes the pods and Jobs that a drill's runbooks made, and waits until they are gone. Returns what is left.
///
/// # Errors
/// When the cluster cannot be asked; then nothing is known of what is left.
pub async fn cleanup(cluster: &Cluster, drill: &str, namespaces: &[String]) -> Result<Vec<String>, ClusterError> {
    use k8s_openapi::api::batch::v1::Job;
    let selector = format!("{}={drill},{} in ({ROLE},{FAULT_ROLE})", labels::DRILL, labels::ROLE);
    let list = ListParams::default().labels(&selector);
    let deadline = tokio::time::Instant::now() + REMOVE_LIMIT;
    let mut asked = BTreeSet::new();
    loop {
        let mut left = Vec::new();
        for namespace in namespaces {
            let jobs = cluster.api::<Job>(namespace);
            for job in cluster.call(format!("list jobs of drill {drill} in {namespace}"), jobs.list(&list)).await? {
                let full = format!("Job {namespace}/{}", job.name_any());
                if asked.insert(full.clone()) {
                    gone_is_fine(cluster.call(format!("delete {full}"), jobs.delete(&job.name_any(), &DeleteParams::background())).await)?;
                }
                left.push(full);
            }
            let pods = cluster.api::<Pod>(namespace);
            for pod in cluster.call(format!("list pods of drill {drill} in {namespace}"), pods.list(&list)).await? {
                let full = format!("Pod {namespace}/{}", pod.name_any());
                if asked.insert(full.clone()) {
                    gone_is_fine(cluster.call(format!("delete {full}"), pods.delete(&pod.name_any(), &DeleteParams::default())).await)?;
                }
                left.push(full);
            }
        }
        if left.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn gone_is_fine<T>(result: Result<T, ClusterError>) -> Result<(), ClusterError> {
    match result {
        Ok(_) => Ok(()),
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::types::NewVolume;

    #[test]
    fn a_runbooks_pod_has_what_was_asked_and_ends_by_itself() {
        let job = RunJob {
            namespace: "shop".to_owned(),
            image: "img:1".to_owned(),
            volumes: vec!["data:/data".to_owned()],
            mounts: vec!["secret/key:/keys".to_owned(), "configMap/conf:/etc/conf".to_owned()],
            new_volumes: vec![NewVolume {
                path: "/new".to_owned(),
                size: "512Mi".parse().unwrap(),
                storage_class: Some("fixed".to_owned()),
            }],
            env_from_secrets: vec!["db".to_owned()],
            run_as_user: Some(999),
            fs_group: Some(998),
            ..RunJob::default()
        };
        let pod = pod("a-drill", "runbook-1", &job, Duration::from_secs(1800)).unwrap();
        assert_eq!(pod.labels()[labels::DRILL], "a-drill");
        let spec = pod.spec.unwrap();
        assert_eq!(spec.active_deadline_seconds, Some(1800));
        let paths: Vec<_> = spec.containers[0].volume_mounts.iter().flatten().map(|m| m.mount_path.as_str()).collect();
        assert_eq!(paths, ["/data", "/keys", "/etc/conf", "/new"]);
        let claim = spec.volumes.as_ref().unwrap()[3].ephemeral.as_ref().unwrap().volume_claim_template.as_ref().unwrap();
        assert_eq!(claim.spec.storage_class_name.as_deref(), Some("fixed"));
        let names = secrets_of("shop", Some(&spec));
        assert_eq!(names.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), ["db", "key"]);
    }

    #[test]
    fn wrong_mounts_are_named() {
        for (volumes, mounts, word) in
            [("data", "", "`data`"), ("data:rel", "", "`data:rel`"), ("", "key:/k", "`key:/k`"), ("", "secret/:/k", "`secret/:/k`")]
        {
            let one = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
            let job = RunJob { volumes: one(volumes), mounts: one(mounts), ..RunJob::default() };
            let error = pod("d", "n", &job, Duration::from_secs(1)).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn names_stay_short_and_apart() {
        let long = "a".repeat(80);
        assert!(name(&long, "12.34.56", 99).len() <= 52);
        assert_ne!(name("a", "1", 1), name("b", "1", 1));
        assert_ne!(name("a", "1", 1), name("a", "1", 2));
        assert_eq!(name("a", "3.1", 1)[..12].to_owned(), "runbook-3-1-");
    }
}
