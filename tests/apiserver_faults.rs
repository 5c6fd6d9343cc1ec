//! The contract of the faults that need no kubelet, against a real API server and its controllers:
//! prepare → arm → inject → effective → holds → revert → gone, and every way in which it can be disturbed.
//!
//! `tests/testbed/testbed up --mode apiserver`, then
//! `FIREDRILL_TEST_KUBECONFIG=… cargo test --test apiserver_faults -- --nocapture`. Without a cluster it says that it is skipped.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/cases.rs"]
mod cases;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fault_kit::{LIMIT, Table, World, connect, ensure, from, kubeconfig, resolved, spec, unique, until};
use firedrill::{fault, journal::RevertResult, scenario::types::OwnPlace};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use things::{Case, KINDS, Kind, delete, run_job};

/// While this is set, no pod becomes ready.
static NOBODY_GETS_READY: AtomicBool = AtomicBool::new(false);

/// There is no kubelet: makes every pod running and ready, with an address, unless its image cannot be had.
async fn kubelet(api: Api<Pod>) {
    let mut addresses = 0u32;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if NOBODY_GETS_READY.load(Ordering::SeqCst) {
            continue;
        }
        for pod in api.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default() {
            let status = pod.status.clone().unwrap_or_default();
            if status.phase.as_deref() != Some("Pending") || status.container_statuses.is_some() {
                continue;
            }
            let containers = pod.spec.iter().flat_map(|s| &s.containers);
            let images = containers.filter_map(|c| Some((c.name.as_str(), c.image.as_deref()?)));
            let cannot = images.into_iter().find(|(_, image)| image.contains("@sha256:0000"));
            let status = if let Some((name, image)) = cannot {
                let state = json!({"waiting": {"reason": "ErrImagePull"}});
                let container = json!({"name": name, "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": state});
                json!({"status": {"phase": "Pending", "containerStatuses": [container]}})
            } else {
                addresses += 1;
                let ip = format!("10.99.{}.{}", addresses / 250, addresses % 250 + 1);
                let conditions = ["Ready", "ContainersReady", "Initialized", "PodScheduled"];
                let conditions: Vec<Value> = conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
                json!({"status": {"phase": "Running", "conditions": conditions, "podIP": ip, "podIPs": [{"ip": ip}]}})
            };
            // The pod may have gone in the meantime.
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
        }
    }
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

/// Of `podKill`: a pod that nothing brings back.
async fn pod_without_owner(w: &World) -> Result<String, String> {
    let pod =
        w.create::<Pod>(json!({"metadata": {"name": unique("alone")}, "spec": {"containers": [{"name": "main", "image": "none"}]}})).await;
    let cx = w.cx(&unique("drill"), &[("t", &[])], OwnPlace::default(), LIMIT);
    let error = fault::prepare(&cx, &spec(json!({"podKill": {"target": "t"}})), &[resolved("Pod", &pod)]).await.err();
    error.map(|e| e.to_string()).ok_or_else(|| "it may be killed for good without a word".to_owned())
}

/// A case on a thing made for it; on the heap, for together they are more than a test's stack holds.
macro_rules! on {
    ($case:path, $w:expr, $kind:expr $(, $more:expr)*) => {{
        let case = Box::pin(Case::new(&$w, $kind)).await;
        let outcome = Box::pin($case(&case $(, $more)*)).await;
        things::tidy(&$w).await;
        outcome
    }};
}

#[tokio::test]
async fn faults_keep_their_contract() {
    let Some(kubeconfig) = kubeconfig("FIREDRILL_TEST_KUBECONFIG", "an API server: tests/testbed/testbed up --mode apiserver") else {
        return;
    };
    let w = World::new(connect(&kubeconfig).await, "faults").await;
    let elsewhere = w.elsewhere(&kubeconfig).await;
    let kubelet = tokio::spawn(kubelet(w.cluster.api(&w.ns)));
    let mut table = Table::of("API server");
    // A drain needs a scheduler, and a second node to go to; a claim needs what provides volumes, and kubelets that let go of them.
    let elsewhere_only = |kind: Kind| matches!(kind, Kind::Drain | Kind::LoseOfDeployment | Kind::LoseOfStatefulSet);
    for (kind, name) in KINDS.into_iter().filter(|(kind, _)| !elsewhere_only(*kind)) {
        table.add(name, "inject twice", on!(cases::inject_twice, w, kind));
        table.add(name, "revert twice", on!(cases::revert_twice, w, kind));
        table.add(name, "revert without inject", on!(cases::revert_without_inject, w, kind));
        // A Secret that is hidden goes with its namespace only, and that is all cases' here.
        if !kind.goes_with_its_namespace() {
            table.add(name, "target gone", on!(cases::target_gone, w, kind));
        }
        table.add(name, "revert on another machine", on!(cases::another_machine, w, kind, &elsewhere));
        table.add(name, "inject, proof, revert, proof", on!(cases::nothing_left, w, kind));
        table.add(name, "runner killed in inject", Box::pin(cases::killed_in_inject(&w, kind, &elsewhere)).await);
        table.add(name, "runner killed in revert", Box::pin(cases::killed_in_revert(&w, kind, &elsewhere)).await);
        if kind.has_value() {
            table.add(name, "value changed by others", on!(cases::value_changed, w, kind));
            table.add(name, "changed between prepare and inject", on!(cases::changed_between, w, kind));
            table.add(name, "under another drill's fault", on!(cases::another_drill, w, kind));
            // What is not there yet has no version that could be moved on.
            if kind != Kind::Manifest {
                table.add(name, "inject arrives after the revert", on!(cases::late_inject, w, kind));
            }
        } else {
            table.add(name, "others were first", on!(others_first, w, kind));
        }
        things::tidy(&w).await;
        if kind != Kind::PodKill {
            table.add(name, "without effect", Box::pin(cases::without_effect(Box::pin(Case::new(&w, kind)).await)).await);
        }
    }
    table.add("podKill", "a part gone, a name taken", on!(only_these_pods, w, Kind::PodKill));
    table.add("podKill", "a pod that nothing brings back", Box::pin(pod_without_owner(&w)).await);
    table.add("podKill", "not back before it is back", Box::pin(back_only_when_back(&w)).await);
    table.add("cutBackupJob killRunning", "ended by itself", Box::pin(ended_by_itself(&w)).await);
    table.add("cutBackupJob empty", "init containers; an image without `true`", Box::pin(emptied_wholly(&w)).await);
    kubelet.abort();
    things::tidy(&w).await;
    w.end().await;
    table.end();
}
