//! The contract of the faults that need no kubelet, against a real API server and its controllers:
//! prepare → arm → inject → effective → holds → revert → gone, and every way in which it can be disturbed.
//!
//! `tests/testbed/testbed up --mode apiserver`, then
//! `FIREDRILL_TEST_KUBECONFIG=… cargo test --test apiserver_faults -- --nocapture`. Without a cluster it says that it is skipped.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fault_kit::{LIMIT, Table, World, bite, connect, ensure, from, kubeconfig, resolved, spec, unique, until};
use firedrill::{
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    labels,
    plan::ResolvedObject,
    scenario::types::{FaultSpec, OwnPlace},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};

/// A kind of fault on a thing made for one case.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    PodKill,
    ScaleDeployment,
    ScaleStatefulSet,
    Suspend,
    Empty,
    KillRunning,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::PodKill, "podKill"),
    (Kind::ScaleDeployment, "scale Deployment"),
    (Kind::ScaleStatefulSet, "scale StatefulSet"),
    (Kind::Suspend, "cutBackupJob suspend"),
    (Kind::Empty, "cutBackupJob empty"),
    (Kind::KillRunning, "cutBackupJob killRunning"),
];

impl Kind {
    /// Whether there is a value that others can change, and that a revert sets back.
    const fn has_value(self) -> bool {
        !matches!(self, Self::PodKill | Self::KillRunning)
    }
}

/// A thing and a fault on it.
struct Case<'a> {
    w: &'a World,
    cx: FaultCx,
    kind: Kind,
    spec: FaultSpec,
    objects: Vec<ResolvedObject>,
    name: String,
}

fn template(labels: &Value) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none", "command": ["run"], "args": ["it"]}]}})
}

impl<'a> Case<'a> {
    async fn new(w: &'a World, kind: Kind) -> Self {
        let name = unique("thing");
        let labels = json!({"app": name});
        let workload = json!({"metadata": {"name": name}, "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(&labels)}});
        let mut pod = template(&labels);
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["initContainers"] = json!([
            {"name": "dump", "image": "none", "command": ["dump"], "args": ["it"]},
            {"name": "sidecar", "image": "none", "restartPolicy": "Always", "command": ["serve"]},
        ]);
        let cron = json!({"metadata": {"name": name}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pod}}}});
        let (spec, objects) = match kind {
            Kind::PodKill => {
                w.create::<Deployment>(workload).await;
                let pods = ready_pods(w, &name, 3).await;
                (json!({"podKill": {"target": "t"}}), pods.iter().take(2).map(|p| resolved("Pod", p)).collect())
            }
            Kind::ScaleDeployment => {
                let made = w.create::<Deployment>(workload).await;
                ready_pods(w, &name, 3).await;
                (json!({"scale": {"target": "t", "replicas": 0}}), vec![resolved("Deployment", &made)])
            }
            Kind::ScaleStatefulSet => {
                let mut set = workload;
                set["spec"]["serviceName"] = json!(name);
                set["spec"]["podManagementPolicy"] = json!("Parallel");
                let made = w.create::<StatefulSet>(set).await;
                ready_pods(w, &name, 3).await;
                (json!({"scale": {"target": "t", "replicas": 1}}), vec![resolved("StatefulSet", &made)])
            }
            Kind::Suspend | Kind::Empty | Kind::KillRunning => {
                let made = w.create::<CronJob>(cron).await;
                let how = match kind {
                    Kind::Suspend => "suspend",
                    Kind::Empty => "empty",
                    _ => "killRunning",
                };
                if kind == Kind::KillRunning {
                    run_job(w, &made).await;
                }
                (json!({"cutBackupJob": {"target": "t", "how": how}}), vec![resolved("CronJob", &made)])
            }
        };
        let cx = w.cx(&unique("drill"), &[("t", &[])], OwnPlace::default(), LIMIT);
        Self { w, cx, kind, spec: fault_kit::spec(spec), objects, name }
    }

    async fn bite(&self) -> Result<Undo, String> {
        bite(&self.cx, &self.spec, &self.objects).await
    }

    async fn revert(&self, undo: &Undo) -> Result<(RevertResult, String), String> {
        fault::revert(&self.cx, undo).await.map_err(|e| format!("revert: {e}"))
    }

    async fn gone(&self, undo: &Undo) -> Result<String, String> {
        fault::gone(&self.cx, undo, LIMIT).await.map(|(_, proof)| proof).map_err(|e| format!("gone: {e}"))
    }

    async fn holds(&self, undo: &Undo) -> Result<Option<String>, String> {
        fault::holds(&self.cx, &self.spec, undo).await.map_err(|e| format!("holds: {e}"))
    }

    /// The first revert's result when it was injected and nobody disturbed it.
    const fn undone(&self) -> RevertResult {
        if self.kind.has_value() { RevertResult::Reverted } else { RevertResult::Nothing }
    }

    /// Replicas, suspend or command as it is now; and whether it bears a drill's mark.
    async fn value(&self) -> (Value, bool) {
        let all = match self.kind {
            Kind::PodKill | Kind::ScaleDeployment => get::<Deployment>(self.w, &self.name).await,
            Kind::ScaleStatefulSet => get::<StatefulSet>(self.w, &self.name).await,
            _ => get::<CronJob>(self.w, &self.name).await,
        };
        let pod = &all["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        let value = match self.kind {
            Kind::Suspend => all["spec"]["suspend"].clone(),
            Kind::Empty => {
                let all = pod["initContainers"].as_array().into_iter().flatten().chain(pod["containers"].as_array().into_iter().flatten());
                all.map(|c| json!([c["name"], c["command"], c["args"]])).collect()
            }
            _ => all["spec"]["replicas"].clone(),
        };
        (value, !all["metadata"]["labels"][labels::FAULT].is_null())
    }

    /// The thing's resourceVersion.
    async fn version(&self) -> Value {
        let all = match self.kind {
            Kind::PodKill | Kind::ScaleDeployment => get::<Deployment>(self.w, &self.name).await,
            Kind::ScaleStatefulSet => get::<StatefulSet>(self.w, &self.name).await,
            _ => get::<CronJob>(self.w, &self.name).await,
        };
        all["metadata"]["resourceVersion"].clone()
    }

    /// Somebody else changes what the fault changed.
    async fn meddle(&self) {
        let patch = match self.kind {
            Kind::Suspend => json!({"spec": {"suspend": false}}),
            Kind::Empty => {
                json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "main", "command": ["another"]}]}}}}}})
            }
            _ => json!({"spec": {"replicas": 2}}),
        };
        let (params, patch) =
            (PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() }, Patch::Strategic(patch));
        match self.kind {
            Kind::PodKill | Kind::ScaleDeployment => {
                drop(self.w.cluster.api::<Deployment>(&self.w.ns).patch(&self.name, &params, &patch).await.unwrap())
            }
            Kind::ScaleStatefulSet => drop(self.w.cluster.api::<StatefulSet>(&self.w.ns).patch(&self.name, &params, &patch).await.unwrap()),
            _ => drop(self.w.cluster.api::<CronJob>(&self.w.ns).patch(&self.name, &params, &patch).await.unwrap()),
        }
    }

    async fn delete(&self) {
        let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        match self.kind {
            Kind::PodKill | Kind::ScaleDeployment => delete::<Deployment>(self.w, &self.name, &params).await,
            Kind::ScaleStatefulSet => delete::<StatefulSet>(self.w, &self.name, &params).await,
            _ => delete::<CronJob>(self.w, &self.name, &params).await,
        }
    }
}

async fn get<K>(w: &World, name: &str) -> Value
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    serde_json::to_value(w.cluster.api::<K>(&w.ns).get(name).await.unwrap()).unwrap()
}

async fn delete<K>(w: &World, name: &str, params: &DeleteParams)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    w.cluster.api::<K>(&w.ns).delete(name, params).await.unwrap();
    until("the thing is gone", || async { w.cluster.get_opt::<K>(&w.ns, name).await.unwrap().is_none() }).await;
}

/// The pods of a thing once there are this many, ready.
async fn ready_pods(w: &World, app: &str, n: usize) -> Vec<Pod> {
    let params = ListParams::default().labels(&format!("app={app}"));
    let api: Api<Pod> = w.cluster.api(&w.ns);
    let ready = |p: &Pod| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    let look = || async { api.list(&params).await.unwrap().items.into_iter().filter(ready).collect::<Vec<_>>() };
    until("the pods are ready", || async { look().await.len() == n }).await;
    // And the controllers know it.
    until("the workload counts them", || async {
        let deployment = w.cluster.get_opt::<Deployment>(&w.ns, app).await.unwrap().and_then(|d| d.status?.ready_replicas);
        let set = w.cluster.get_opt::<StatefulSet>(&w.ns, app).await.unwrap().and_then(|s| s.status?.ready_replicas);
        deployment.or(set) == Some(i32::try_from(n).unwrap())
    })
    .await;
    look().await
}

/// A Job of a CronJob, running.
async fn run_job(w: &World, cron: &CronJob) -> Job {
    let name = unique("run");
    let template = serde_json::to_value(cron.spec.as_ref().unwrap().job_template.spec.as_ref().unwrap()).unwrap();
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": cron.name_any(), "uid": cron.uid(), "controller": true});
    let job = w.create::<Job>(json!({"metadata": {"name": name, "ownerReferences": [owner]}, "spec": template})).await;
    until("the Job runs", || async {
        let job = w.cluster.get_opt::<Job>(&w.ns, &name).await.unwrap();
        job.and_then(|j| j.status?.ready) == Some(1)
    })
    .await;
    job
}

/// While this is set, no pod becomes ready.
static NOBODY_GETS_READY: AtomicBool = AtomicBool::new(false);

/// There is no kubelet: makes every pod running and ready.
async fn kubelet(api: Api<Pod>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if NOBODY_GETS_READY.load(Ordering::SeqCst) {
            continue;
        }
        for pod in api.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default() {
            if pod.status.as_ref().is_some_and(|s| s.phase.as_deref() != Some("Pending")) {
                continue;
            }
            let conditions: Vec<Value> =
                ["Ready", "ContainersReady", "Initialized", "PodScheduled"].iter().map(|c| json!({"type": c, "status": "True"})).collect();
            let status = json!({"status": {"phase": "Running", "conditions": conditions}});
            // The pod may have gone in the meantime.
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
        }
    }
}

async fn inject_twice(c: &Case<'_>) -> Result<String, String> {
    let undo = c.bite().await?;
    let once = c.value().await;
    fault::inject(&c.cx, &c.spec, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    ensure(c.value().await == once, format!("the second inject changed {once:?} to {:?}", c.value().await))?;
    let (_, proof) = fault::effective(&c.cx, &c.spec, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    ensure(c.holds(&undo).await?.is_none(), "it does not hold")?;
    let (result, _) = c.revert(&undo).await?;
    ensure(result == c.undone(), format!("reverted as {result:?}"))?;
    c.gone(&undo).await?;
    Ok(proof)
}

async fn revert_twice(c: &Case<'_>) -> Result<String, String> {
    let before = c.value().await;
    let undo = c.bite().await?;
    let (first, _) = c.revert(&undo).await?;
    ensure(first == c.undone(), format!("the first revert was {first:?}"))?;
    let (second, said) = c.revert(&undo).await?;
    ensure(second == RevertResult::Nothing, format!("the second revert was {second:?}: {said}"))?;
    let proof = c.gone(&undo).await?;
    ensure(c.value().await == before, format!("{before:?} became {:?}", c.value().await))?;
    Ok(proof)
}

async fn revert_without_inject(c: &Case<'_>) -> Result<String, String> {
    let before = c.value().await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    ensure(!prepared.objects.is_empty(), "it names no object")?;
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("it was {result:?}"))?;
    ensure(c.value().await == before, "it changed something")?;
    // Also of a Job that was to be killed: it is still there, as it was, and nothing is left of the fault.
    c.gone(&prepared.undo).await?;
    Ok(said)
}

async fn target_gone(c: &Case<'_>) -> Result<String, String> {
    let undo = c.bite().await?;
    c.delete().await;
    let (result, said) = c.revert(&undo).await?;
    // Where there is nothing to undo there is no thing to miss.
    ensure(result == RevertResult::TargetGone || !c.kind.has_value(), format!("it was {result:?}: {said}"))?;
    c.gone(&undo).await?;
    let stale = fault::prepare(&c.cx, &c.spec, &c.objects).await;
    ensure(stale.is_err(), "what is gone could be prepared again")?;
    Ok(said)
}

async fn value_changed(c: &Case<'_>) -> Result<String, String> {
    let undo = c.bite().await?;
    c.meddle().await;
    let theirs = c.value().await.0;
    let broken = c.holds(&undo).await?.ok_or("the change of others was not seen by `holds`")?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Superseded, format!("it was {result:?}: {said}"))?;
    let (now, marked) = c.value().await;
    ensure(now == theirs, format!("{theirs} of somebody else was overwritten with {now}"))?;
    ensure(!marked, "the mark was left behind")?;
    Ok(format!("{broken} / {said}"))
}

async fn changed_between(c: &Case<'_>) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    if c.kind == Kind::Suspend {
        // The one value that others can set to ours.
        let patch = Patch::Merge(json!({"spec": {"suspend": true}}));
        c.w.cluster.api::<CronJob>(&c.w.ns).patch(&c.name, &PatchParams::default(), &patch).await.unwrap();
    } else {
        c.meddle().await;
    }
    let theirs = c.value().await;
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.err().ok_or("it was injected over the change of others")?;
    ensure(c.value().await == theirs, "something was changed all the same")?;
    c.revert(&prepared.undo).await?;
    ensure(c.value().await == theirs, "the revert changed what was not ours")?;
    Ok(error.to_string())
}

async fn another_drill(c: &Case<'_>) -> Result<String, String> {
    let undo = c.bite().await?;
    let during = c.value().await;
    let other = Case {
        cx: c.w.cx(&unique("other"), &[("t", &[])], OwnPlace::default(), LIMIT),
        spec: c.spec.clone(),
        objects: c.objects.clone(),
        name: c.name.clone(),
        ..*c
    };
    let error = fault::prepare(&other.cx, &other.spec, &other.objects).await.err().ok_or("two drills may break one thing")?;
    let (result, said) = other.revert(&undo).await?;
    ensure(matches!(result, RevertResult::Superseded | RevertResult::Nothing), format!("another drill's revert was {result:?}: {said}"))?;
    ensure(c.value().await == during, "another drill's revert changed the value")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "it could not be reverted afterwards")?;
    Ok(error.to_string())
}

async fn another_machine(c: &Case<'_>, kubeconfig: &str) -> Result<String, String> {
    let before = c.value().await;
    let undo = c.bite().await?;
    let elsewhere = World { cluster: connect(kubeconfig).await, ns: c.w.ns.clone() };
    let cx = elsewhere.cx(&c.cx.drill, &[], OwnPlace::default(), LIMIT);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| e.to_string())?;
    ensure(result == c.undone(), format!("it was {result:?}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    ensure(c.value().await == before, format!("{before:?} became {:?}", c.value().await))?;
    Ok(said)
}

/// Of `podKill`: the pods are hit by uid, and a part of them may be gone already.
async fn only_these_pods(c: &Case<'_>) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    let api: Api<Pod> = c.w.cluster.api(&c.w.ns);
    let first = &c.objects[0].name;
    api.delete(first, &DeleteParams::default().grace_period(0)).await.unwrap();
    until("the first pod is gone", || async { api.get_opt(first).await.unwrap().is_none() }).await;
    // Another pod takes the name of the first.
    let same_name: Pod = from(json!({"metadata": {"name": first}, "spec": {"containers": [{"name": "main", "image": "none"}]}}));
    let stranger = api.create(&Default::default(), &same_name).await.unwrap();
    fault::inject(&c.cx, &c.spec, &prepared.undo).await.map_err(|e| format!("inject: {e}"))?;
    let (_, proof) = fault::effective(&c.cx, &c.spec, &prepared.undo, LIMIT).await.map_err(|e| format!("effective: {e}"))?;
    let still = api.get_opt(first).await.unwrap().ok_or("a pod that only bears the name was killed")?;
    ensure(still.uid() == stranger.uid() && still.metadata.deletion_timestamp.is_none(), "a pod that only bears the name was killed")?;
    ensure(api.get_opt(&c.objects[1].name).await.unwrap().is_none(), "the second pod was not killed")?;
    c.gone(&prepared.undo).await?;
    Ok(proof)
}

/// Of what deletes: when others were first, nothing was broken, and that is no success.
async fn others_first(c: &Case<'_>) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    fault::arm(&c.cx, &c.spec, &prepared.undo).await.map_err(|e| format!("arm: {e}"))?;
    for object in &prepared.objects {
        if object.kind == "Job" {
            delete::<Job>(c.w, &object.name, &DeleteParams::background()).await;
        } else {
            let api: Api<Pod> = c.w.cluster.api(&c.w.ns);
            api.delete(&object.name, &DeleteParams::default().grace_period(0)).await.map_err(|e| e.to_string())?;
        }
    }
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.err().ok_or("it counts what others have deleted")?;
    ensure(c.revert(&prepared.undo).await?.0 == RevertResult::Nothing, "there was something to revert")?;
    c.gone(&prepared.undo).await?;
    Ok(error.to_string())
}

/// Of `podKill`: right after the deletion a controller's status still counts the pod; that is no proof of its return.
async fn back_only_when_back(w: &World) -> Result<String, String> {
    let c = Case::new(w, Kind::PodKill).await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    fault::arm(&c.cx, &c.spec, &prepared.undo).await.map_err(|e| format!("arm: {e}"))?;
    NOBODY_GETS_READY.store(true, Ordering::SeqCst);
    let injected = fault::inject(&c.cx, &c.spec, &prepared.undo).await;
    let early = fault::gone(&c.cx, &prepared.undo, Duration::ZERO).await;
    NOBODY_GETS_READY.store(false, Ordering::SeqCst);
    injected.map_err(|e| format!("inject: {e}"))?;
    let error = early.err().ok_or("proven gone before any pod was back")?;
    c.gone(&prepared.undo).await?;
    Ok(error.to_string())
}

/// Of `killRunning`: a Job that ended by itself was not killed, also when only its pod knows yet.
async fn ended_by_itself(w: &World) -> Result<String, String> {
    let c = Case::new(w, Kind::KillRunning).await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    let job = prepared.objects[0].name.clone();
    let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let api: Api<Pod> = w.cluster.api(&w.ns);
    let pod = api.list(&params).await.unwrap().items.remove(0);
    let ended = json!({"status": {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "False"}]}});
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(ended)).await.unwrap();
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.err().ok_or("a Job that had succeeded counts as killed")?;
    let still = w.cluster.get_opt::<Job>(&w.ns, &job).await.unwrap();
    ensure(still.is_some(), "the Job that had succeeded was deleted")?;
    until("the Job's own word", || async {
        w.cluster.get_opt::<Job>(&w.ns, &job).await.unwrap().and_then(|j| j.status?.completion_time).is_some()
    })
    .await;
    ensure(fault::inject(&c.cx, &c.spec, &prepared.undo).await.is_err(), "a complete Job counts as killed")?;
    ensure(c.revert(&prepared.undo).await?.0 == RevertResult::Nothing, "there was something to revert")?;
    c.gone(&prepared.undo).await?;
    Ok(error.to_string())
}

/// Of `empty`: init containers are emptied, a sidecar is not; and an image without `true` is found out.
async fn emptied_wholly(w: &World) -> Result<String, String> {
    let c = Case::new(w, Kind::Empty).await;
    let undo = c.bite().await?;
    let (value, _) = c.value().await;
    ensure(value == json!([["dump", ["true"], null], ["sidecar", ["serve"], null], ["main", ["true"], null]]), value.to_string())?;
    let cron = w.cluster.get_opt::<CronJob>(&w.ns, &c.name).await.unwrap().unwrap();
    let job = run_job(w, &cron).await;
    ensure(c.holds(&undo).await?.is_none(), "a Job that runs its stand-in is a finding")?;
    let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
    let api: Api<Pod> = w.cluster.api(&w.ns);
    let pod = api.list(&params).await.unwrap().items.remove(0);
    let state = json!({"terminated": {"exitCode": 128, "reason": "StartError"}});
    let status = json!({"name": "main", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let failed = json!({"status": {"phase": "Failed", "containerStatuses": [status]}});
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(failed)).await.unwrap();
    let broken = c.holds(&undo).await?.ok_or("a Job that fails instead of succeeding with nothing in it is no finding")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "not reverted")?;
    c.gone(&undo).await?;
    Ok(broken)
}

/// An inject that the API server carries out after its revert (it hung; the runner gave up or died) is refused.
async fn late_inject(c: &Case<'_>) -> Result<String, String> {
    let before = c.value().await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    let version = c.version().await;
    let (result, _) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("it was {result:?}"))?;
    // What an inject had sent before, against the version it had read.
    let spec = match c.kind {
        Kind::Suspend => json!({"suspend": true}),
        Kind::Empty => json!({"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "none"}]}}}}}),
        _ => json!({"replicas": 0}),
    };
    let late = Patch::Merge(json!({"metadata": {"resourceVersion": version, "labels": {labels::FAULT: c.cx.drill}}, "spec": spec}));
    let params = PatchParams::default();
    let answer = match c.kind {
        Kind::PodKill | Kind::ScaleDeployment => c.w.cluster.api::<Deployment>(&c.w.ns).patch(&c.name, &params, &late).await.map(drop),
        Kind::ScaleStatefulSet => c.w.cluster.api::<StatefulSet>(&c.w.ns).patch(&c.name, &params, &late).await.map(drop),
        _ => c.w.cluster.api::<CronJob>(&c.w.ns).patch(&c.name, &params, &late).await.map(drop),
    };
    let error = answer.err().ok_or("it was carried out after the revert")?;
    ensure(matches!(&error, kube::Error::Api(status) if status.code == 409), error.to_string())?;
    ensure(c.value().await == before, "something was changed, or a mark is left")?;
    Ok("refused: 409".to_owned())
}

/// Of `podKill`: a pod that nothing brings back.
async fn pod_without_owner(w: &World) -> Result<String, String> {
    let pod =
        w.create::<Pod>(json!({"metadata": {"name": unique("alone")}, "spec": {"containers": [{"name": "main", "image": "none"}]}})).await;
    let cx = w.cx(&unique("drill"), &[("t", &[])], OwnPlace::default(), LIMIT);
    let error = fault::prepare(&cx, &spec(json!({"podKill": {"target": "t"}})), &[resolved("Pod", &pod)]).await.err();
    error.map(|e| e.to_string()).ok_or_else(|| "it may be killed for good without a word".to_owned())
}

/// What would break nothing is no fault.
async fn without_effect(w: &World, kind: Kind) -> Result<String, String> {
    let mut c = Case::new(w, kind).await;
    match kind {
        Kind::Suspend => {
            let patch = Patch::Merge(json!({"spec": {"suspend": true}}));
            w.cluster.api::<CronJob>(&w.ns).patch(&c.name, &PatchParams::default(), &patch).await.unwrap();
        }
        Kind::Empty => {
            let with = |name: &str, command: &str| json!({"name": name, "image": "none", "command": [command], "args": null});
            let pod = json!({"containers": [with("main", "true")], "initContainers": [with("dump", "true")]});
            let patch = Patch::Strategic(json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}}));
            w.cluster.api::<CronJob>(&w.ns).patch(&c.name, &PatchParams::default(), &patch).await.unwrap();
        }
        Kind::KillRunning => {
            let jobs: Api<Job> = w.cluster.api(&w.ns);
            jobs.delete_collection(&DeleteParams::background(), &ListParams::default()).await.unwrap();
            until("no Job runs", || async { jobs.list(&ListParams::default()).await.unwrap().items.is_empty() }).await;
        }
        _ => c.spec = spec(json!({"scale": {"target": "t", "replicas": 3}})),
    }
    let error = fault::prepare(&c.cx, &c.spec, &c.objects).await.err();
    error.map(|e| e.to_string()).ok_or_else(|| "it may be injected".to_owned())
}

#[tokio::test]
async fn faults_keep_their_contract() {
    let Some(kubeconfig) = kubeconfig("FIREDRILL_TEST_KUBECONFIG", "an API server: tests/testbed/testbed up --mode apiserver") else {
        return;
    };
    let w = World::new(connect(&kubeconfig).await, "faults").await;
    let kubelet = tokio::spawn(kubelet(w.cluster.api(&w.ns)));
    let mut table = Table::default();
    for (kind, name) in KINDS {
        table.add(name, "inject twice", inject_twice(&Case::new(&w, kind).await).await);
        table.add(name, "revert twice", revert_twice(&Case::new(&w, kind).await).await);
        table.add(name, "revert without inject", revert_without_inject(&Case::new(&w, kind).await).await);
        table.add(name, "target gone", target_gone(&Case::new(&w, kind).await).await);
        table.add(name, "revert on another machine", another_machine(&Case::new(&w, kind).await, &kubeconfig).await);
        if kind.has_value() {
            table.add(name, "value changed by others", value_changed(&Case::new(&w, kind).await).await);
            table.add(name, "changed between prepare and inject", changed_between(&Case::new(&w, kind).await).await);
            table.add(name, "under another drill's fault", another_drill(&Case::new(&w, kind).await).await);
            table.add(name, "inject arrives after the revert", late_inject(&Case::new(&w, kind).await).await);
        } else {
            table.add(name, "others were first", others_first(&Case::new(&w, kind).await).await);
        }
        if kind != Kind::PodKill {
            table.add(name, "without effect", without_effect(&w, kind).await);
        }
    }
    table.add("podKill", "a part gone, a name taken", only_these_pods(&Case::new(&w, Kind::PodKill).await).await);
    table.add("podKill", "a pod that nothing brings back", pod_without_owner(&w).await);
    table.add("podKill", "not back before it is back", back_only_when_back(&w).await);
    table.add("cutBackupJob killRunning", "ended by itself", ended_by_itself(&w).await);
    table.add("cutBackupJob empty", "init containers; an image without `true`", emptied_wholly(&w).await);
    kubelet.abort();
    w.end().await;
    table.end();
}
