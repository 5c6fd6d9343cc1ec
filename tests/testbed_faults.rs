//! What node helpers do on real kubelets: real processes of real pods, a real helper on their node, and every way in
//! which runner, link and helper can be lost meanwhile.
//!
//! `tests/testbed/testbed up`, then `FIREDRILL_TESTBED_KUBECONFIG=… cargo test --test testbed_faults -- --nocapture`. It must run
//! on the testbed's machine as root: it kills processes of the helper from outside. Without a cluster it says that it is skipped.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/jobs.rs"]
mod jobs;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fault_kit::{LIMIT, Table, World, bite, connect, ensure, kubeconfig, resolved, spec, unique, until};
use firedrill::{
    agent::pods::ensure_namespace,
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    labels,
    plan::{ResolvedObject, ResolvedTarget},
    scenario::types::{FaultSpec, OwnPlace, Target},
};
use jobs::JobCase;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, DeleteParams, ListParams},
};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

/// The helpers' time to live here.
const TTL: Duration = Duration::from_secs(5);

struct Case {
    w: World,
    own: OwnPlace,
    cx: FaultCx,
    pod: Pod,
}

impl Case {
    /// A Deployment of one pod with two containers: one of several processes, one of a single one. With a volume of its own where the
    /// name of the fault says so.
    async fn new(w: World, own: OwnPlace, containers: &[&str], fault: &str) -> Self {
        let name = unique("victim");
        let main = "sleep 9001 & sleep 9002 & while :; do sleep 0.2; done";
        let volume = ["fillDisk", "corruptFile", "deleteFiles", "custom"].contains(&fault);
        let (mounts, volumes) = if volume {
            let claim = json!({"metadata": {"name": name}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "fixed", "resources": {"requests": {"storage": "64Mi"}},
            }});
            w.create::<PersistentVolumeClaim>(claim).await;
            (json!([{"name": "data", "mountPath": "/data"}]), json!([{"name": "data", "persistentVolumeClaim": {"claimName": name}}]))
        } else {
            (json!([]), json!([]))
        };
        let container = |name: &str, command: &str| json!({"name": name, "image": "localhost/toolbox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", command], "volumeMounts": mounts});
        let deployment = json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "volumes": volumes, "containers": [container("main", main), container("side", "exec sleep 9003")]},
        }}});
        w.create::<Deployment>(deployment).await;
        let pod = running(&w, &name, None).await;
        let cx = w.cx(&unique("drill"), &[("t", containers)], own.clone(), TTL);
        Self { w, own, cx, pod }
    }

    fn objects(&self) -> Vec<ResolvedObject> {
        vec![resolved("Pod", &self.pod)]
    }

    async fn bite(&self, fault: &FaultSpec) -> Result<Undo, String> {
        bite(&self.cx, fault, &self.objects()).await
    }

    async fn revert(&self, undo: &Undo) -> Result<(RevertResult, String), String> {
        fault::revert(&self.cx, undo).await.map_err(|e| format!("revert: {e}"))
    }

    async fn gone(&self, undo: &Undo) -> Result<String, String> {
        fault::gone(&self.cx, undo, LIMIT).await.map(|(_, proof)| proof).map_err(|e| format!("gone: {e}"))
    }

    /// The state of a container's first process, as another process in that container sees it: a witness that knows nothing
    /// of helpers.
    async fn witness(&self, container: &str) -> char {
        let api: Api<Pod> = self.w.cluster.api(&self.w.ns);
        let params = AttachParams::default().container(container).stderr(false);
        let mut process = api.exec(&self.pod.name_any(), ["cat", "/proc/1/stat"], &params).await.unwrap();
        let mut said = String::new();
        process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
        said.rfind(')').and_then(|i| said[i + 1..].trim_start().chars().next()).unwrap_or('?')
    }

    /// What a shell in the main container says; none if it fails.
    async fn say(&self, script: &str) -> Option<String> {
        let api: Api<Pod> = self.w.cluster.api(&self.w.ns);
        let params = AttachParams::default().container("main").stderr(false);
        let mut process = api.exec(&self.pod.name_any(), ["bash", "-c", script], &params).await.unwrap();
        let status = process.take_status().unwrap();
        let mut said = Vec::new();
        process.stdout().unwrap().read_to_end(&mut said).await.unwrap();
        // A damaged file is no text.
        let said = String::from_utf8_lossy(&said).into_owned();
        (status.await?.status.as_deref() == Some("Success")).then_some(said)
    }

    /// All that the pod sees of itself: its files, whether they can be written to, a process's state, and whether it reaches the API server.
    async fn sees(&self) -> Option<String> {
        self.say(
            "set -e; if [ -d /data ]; then cat /data/d/*; echo x > /data/probe; rm /data/probe; find /data | sort; fi
            for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^sleep 900[1]' && sed 's/.*) //' $p/stat | cut -c1; done || true
            timeout 2 bash -c 'exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/443' && echo reached || echo cut",
        )
        .await
    }

    async fn restarts(&self) -> i32 {
        let pod = self.w.cluster.get_opt::<Pod>(&self.w.ns, &self.pod.name_any()).await.unwrap();
        pod.and_then(|p| p.status).into_iter().flat_map(|s| s.container_statuses.unwrap_or_default()).map(|c| c.restart_count).sum()
    }

    async fn helper(&self) -> Option<Pod> {
        let selector = format!("{}={}", labels::DRILL, self.cx.drill);
        self.w.cluster.api::<Pod>(&self.own.namespace).list(&ListParams::default().labels(&selector)).await.unwrap().items.pop()
    }

    /// SIGKILLs a process of the helper's pod by its command line, from outside the cluster.
    async fn kill_in_helper(&self, command: &str) -> usize {
        let uid = self.helper().await.and_then(|p| p.uid()).unwrap();
        let mut killed = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if read("cgroup").contains(&uid) && read("cmdline").replace('\0', " ").contains(command) {
                let pid = entry.file_name().to_string_lossy().into_owned();
                killed += usize::from(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
            }
        }
        killed
    }

    /// Makes the files that faults act on. What the pod sees then.
    async fn with_files(&self) -> Result<String, String> {
        self.say("[ -d /data ] || exit 0; mkdir -p /data/d && echo one > /data/d/a && echo two > /data/d/b")
            .await
            .ok_or("no files could be made")?;
        let seen = self.sees().await.ok_or("the pod cannot look at itself")?;
        ensure(seen.contains("reached") && seen.contains('S'), format!("it is not as it should be before the fault: {seen}"))?;
        Ok(seen)
    }

    async fn end(self) -> (World, Vec<String>) {
        let mut left = self.cx.helpers.remove_all(LIMIT).await;
        left.extend(self.helper().await.map(|p| p.name_any()));
        let claims = self.w.cluster.api::<PersistentVolumeClaim>(&self.w.ns);
        let _ = claims.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
        let _ = self.w.cluster.api::<Deployment>(&self.w.ns).delete_collection(&DeleteParams::background(), &ListParams::default()).await;
        (self.w, left)
    }
}

/// The one running pod of a Deployment, another one than `before`.
async fn running(w: &World, app: &str, before: Option<&str>) -> Pod {
    let params = ListParams::default().labels(&format!("app={app}"));
    let api: Api<Pod> = w.cluster.api(&w.ns);
    let ready = |p: &Pod| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    let look = || async { api.list(&params).await.unwrap().items.into_iter().find(|p| ready(p) && p.uid().as_deref() != before) };
    until("the pod runs", || async { look().await.is_some() }).await;
    look().await.unwrap()
}

fn freeze() -> FaultSpec {
    spec(json!({"freeze": {"target": "t"}}))
}

fn crash(hold: bool) -> FaultSpec {
    spec(json!({"crash": {"target": "t", "hold": hold}}))
}

async fn frozen_and_thawed(c: &Case) -> Result<String, String> {
    ensure(c.witness("main").await != 'T', "it is stopped before the fault")?;
    let prepared = fault::prepare(&c.cx, &freeze(), &c.objects()).await.map_err(|e| e.to_string())?;
    let placing = Instant::now();
    fault::arm(&c.cx, &freeze(), &prepared.undo).await.map_err(|e| e.to_string())?;
    let placed_ms = placing.elapsed().as_millis();
    let (start, end) = fault::inject(&c.cx, &freeze(), &prepared.undo).await.map_err(|e| e.to_string())?;
    let took_ms = (end.mono_us - start.mono_us) as f64 / 1e3;
    let (at, proof) = fault::effective(&c.cx, &freeze(), &prepared.undo, LIMIT).await.map_err(|e| e.to_string())?;
    let proven_ms = (at.mono_us - start.mono_us) as f64 / 1e3;
    ensure((c.witness("main").await, c.witness("side").await) == ('T', 'T'), "the witness sees them run")?;
    let holds = fault::holds(&c.cx, &freeze(), &prepared.undo).await.map_err(|e| e.to_string())?;
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    c.gone(&prepared.undo).await?;
    ensure(c.witness("main").await != 'T' && c.witness("side").await != 'T', "the witness sees them stopped")?;
    ensure(c.restarts().await == 0, "a container was restarted")?;
    let second = c.revert(&prepared.undo).await?;
    ensure(second.0 == RevertResult::Nothing, format!("the second revert: {second:?}"))?;
    Ok(format!("helper placed in {placed_ms} ms, inject {took_ms:.1} ms, proven after {proven_ms:.1} ms: {proof}; {said}"))
}

async fn frozen_twice(c: &Case) -> Result<String, String> {
    let undo = c.bite(&freeze()).await?;
    fault::inject(&c.cx, &freeze(), &undo).await.map_err(|e| format!("second inject: {e}"))?;
    let (_, proof) = fault::effective(&c.cx, &freeze(), &undo, LIMIT).await.map_err(|e| e.to_string())?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "not reverted")?;
    c.gone(&undo).await?;
    Ok(proof)
}

async fn reverted_without_inject(c: &Case, fault: &FaultSpec) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, fault, &c.objects()).await.map_err(|e| e.to_string())?;
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    c.gone(&prepared.undo).await?;
    ensure(c.restarts().await == 0, "a container was restarted")?;
    Ok(said)
}

/// A fault that a helper does, from its inject to the proof that it is gone, by what the pod itself sees.
async fn bitten_and_gone(c: &Case, fault: FaultSpec) -> Result<String, String> {
    let before = c.with_files().await?;
    let undo = c.bite(&fault).await?;
    let during = c.sees().await;
    ensure(during.as_ref() != Some(&before), format!("the pod sees no difference: {during:?}"))?;
    fault::inject(&c.cx, &fault, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    let (_, proof) = fault::effective(&c.cx, &fault, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    let holds = fault::holds(&c.cx, &fault, &undo).await.map_err(|e| e.to_string())?;
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    let after = c.sees().await;
    ensure(after.as_ref() == Some(&before), format!("the pod sees {after:?} and saw {before}"))?;
    ensure(c.restarts().await == 0, "a container was restarted")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "the second revert finds something")?;
    Ok(format!("{proof}; {said}"))
}

/// Without renewals its helper undoes it, and nothing is left to do for another runner.
async fn undone_by_its_helper(c: &Case, fault: FaultSpec) -> Result<String, String> {
    let before = c.with_files().await?;
    let undo = c.bite(&fault).await?;
    c.cx.helpers.detach().await;
    let lost = Instant::now();
    while c.sees().await.as_ref() != Some(&before) {
        ensure(
            lost.elapsed() < TTL + Duration::from_secs(2),
            format!("still there {:.1} s after the runner was lost", lost.elapsed().as_secs_f64()),
        )?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = lost.elapsed().as_secs_f64();
    until("the helper has ended", || async { c.helper().await.and_then(|p| p.status?.phase).as_deref() == Some("Succeeded") }).await;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "a revert finds something")?;
    c.gone(&undo).await?;
    Ok(format!("undone by itself {after:.1} s after the runner was lost (time to live {} s)", TTL.as_secs()))
}

/// The helper is killed outright, and another one undoes what it finds.
async fn undone_by_another_helper(c: &Case, fault: FaultSpec) -> Result<String, String> {
    let before = c.with_files().await?;
    let undo = c.bite(&fault).await?;
    ensure(c.kill_in_helper("agent node").await > 0, "there was no helper to kill")?;
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    // What the kernel ends with the helper's process is gone already.
    let wanted = if fault.partition.is_some() { RevertResult::Nothing } else { RevertResult::Reverted };
    ensure(result == wanted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    let after = c.sees().await;
    ensure(after.as_ref() == Some(&before), format!("the pod sees {after:?} and saw {before}"))?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(said)
}

/// Commands of the scenario's own: they set a file aside, and put it back.
fn custom() -> FaultSpec {
    let sh = |script: &str| json!(["sh", "-c", script]);
    spec(json!({"custom": {
        "target": "t",
        "inject": sh("[ ! -e /data/d/a ] || mv /data/d/a /data/aside"),
        "effective": ["test", "!", "-e", "/data/d/a"],
        "revert": sh("[ ! -e /data/aside ] || mv /data/aside /data/d/a"),
        "gone": ["test", "-e", "/data/d/a"],
    }}))
}

/// Whether the pod can look a name up, and whether it reaches the API server by its address.
async fn finds_and_reaches(c: &Case) -> Option<(bool, bool)> {
    let said = c
        .say(
            "timeout 3 getent hosts kubernetes.default.svc.cluster.local >/dev/null && echo found || echo lost
            timeout 2 bash -c 'exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/443' && echo reached || echo cut",
        )
        .await?;
    Some((said.contains("found"), said.contains("reached")))
}

/// Traffic with a Service alone, or look-ups of names alone, is cut; the other of the two goes on.
async fn cut_in_part(c: &Case, fault: FaultSpec, during: (bool, bool)) -> Result<String, String> {
    let api = Target { namespace: Some("default".to_owned()), service: Some("kubernetes".to_owned()), ..Target::default() };
    let mut plan = (*c.cx.plan).clone();
    plan.targets.insert("api".to_owned(), ResolvedTarget { spec: api, objects: Vec::new(), matched: 0 });
    let cx = FaultCx { plan: Arc::new(plan), ..c.cx.clone() };
    let before = finds_and_reaches(c).await;
    ensure(before == Some((true, true)), format!("before the fault: {before:?}"))?;
    let undo = bite(&cx, &fault, &c.objects()).await?;
    let seen = finds_and_reaches(c).await;
    ensure(seen == Some(during), format!("found and reached: {seen:?}, not {during:?}"))?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    let after = finds_and_reaches(c).await;
    ensure(after == Some((true, true)), format!("after the fault: {after:?}"))?;
    Ok(said)
}

async fn one_container_only(c: &Case) -> Result<String, String> {
    let undo = c.bite(&freeze()).await?;
    ensure((c.witness("side").await, c.witness("main").await != 'T') == ('T', true), "not only the chosen container is stopped")?;
    c.revert(&undo).await?;
    c.gone(&undo).await
}

async fn runner_lost(c: &Case) -> Result<String, String> {
    let undo = c.bite(&freeze()).await?;
    // While it is renewed it stays.
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    ensure(c.witness("main").await == 'T', "it thawed though the runner lives")?;
    c.cx.helpers.detach().await;
    let lost = Instant::now();
    while c.witness("main").await == 'T' {
        ensure(
            lost.elapsed() < TTL + Duration::from_secs(2),
            format!("still frozen {:.1} s after the runner was lost", lost.elapsed().as_secs_f64()),
        )?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = lost.elapsed().as_secs_f64();
    until("the helper has ended", || async { c.helper().await.and_then(|p| p.status?.phase).as_deref() == Some("Succeeded") }).await;
    let api: Api<Pod> = c.w.cluster.api(&c.own.namespace);
    let log = api.logs(&c.helper().await.unwrap().name_any(), &Default::default()).await.map_err(|e| e.to_string())?;
    ensure(log.contains("no runner renewed"), format!("its log does not say why: {log}"))?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    Ok(format!("thawed by itself {after:.1} s after the runner was lost (time to live {} s)", TTL.as_secs()))
}

async fn exec_killed(c: &Case) -> Result<String, String> {
    let undo = c.bite(&freeze()).await?;
    ensure(c.kill_in_helper("agent attach").await > 0, "there was no exec to kill")?;
    let cut = Instant::now();
    let holds = fault::holds(&c.cx, &freeze(), &undo).await.map_err(|e| format!("holds: {e}"))?;
    let again = cut.elapsed().as_millis();
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    ensure(c.witness("main").await == 'T', "it thawed: the renewals did not go on")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "not reverted")?;
    c.gone(&undo).await?;
    Ok(format!("attached again and answered after {again} ms"))
}

async fn helper_killed(c: &Case) -> Result<String, String> {
    let undo = c.bite(&freeze()).await?;
    ensure(c.kill_in_helper("agent node").await > 0, "there was no helper to kill")?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure(c.witness("main").await == 'T', "it thawed by itself")?;
    // What a runner does that knows nothing but the record.
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    ensure(c.witness("main").await != 'T', "still stopped")?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(format!("by a new helper: {said}"))
}

async fn another_runner(c: &Case, fault: FaultSpec) -> Result<String, String> {
    let undo = c.bite(&fault).await?;
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    let late = fault::inject(&c.cx, &fault, &undo).await;
    ensure(late.is_err(), "the first runner may still act after it was taken over from")?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(said)
}

async fn pod_deleted(c: &Case, fault: &FaultSpec) -> Result<String, String> {
    let undo = c.bite(fault).await?;
    let api: Api<Pod> = c.w.cluster.api(&c.w.ns);
    api.delete(&c.pod.name_any(), &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    running(&c.w, &c.pod.labels()["app"], c.pod.uid().as_deref()).await;
    until("the pod is gone", || async { api.get_opt(&c.pod.name_any()).await.unwrap().is_none() }).await;
    let broken = fault::holds(&c.cx, fault, &undo).await.map_err(|e| e.to_string())?;
    ensure(broken.is_some() || fault.freeze.is_none(), "the loss of the pod was not seen by `holds`")?;
    let (result, said) = c.revert(&undo).await?;
    ensure(matches!(result, RevertResult::TargetGone | RevertResult::Reverted), format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    ensure(c.revert(&undo).await?.0 == RevertResult::TargetGone, "the second revert finds something")?;
    Ok(broken.unwrap_or(said))
}

async fn crashed(c: &Case) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &crash(false), &c.objects()).await.map_err(|e| e.to_string())?;
    fault::arm(&c.cx, &crash(false), &prepared.undo).await.map_err(|e| e.to_string())?;
    let (start, end) = fault::inject(&c.cx, &crash(false), &prepared.undo).await.map_err(|e| e.to_string())?;
    let took_ms = (end.mono_us - start.mono_us) as f64 / 1e3;
    let (_, proof) = fault::effective(&c.cx, &crash(false), &prepared.undo, LIMIT).await.map_err(|e| e.to_string())?;
    until("both containers were restarted", || async { c.restarts().await == 2 }).await;
    let (result, _) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("{result:?}"))?;
    c.gone(&prepared.undo).await?;
    let back_ms = (c.cx.clock.now().mono_us - start.mono_us) / 1000;
    Ok(format!("inject {took_ms:.1} ms, containers back after {back_ms} ms: {proof}"))
}

async fn held_down(c: &Case) -> Result<String, String> {
    let undo = c.bite(&crash(true)).await?;
    until("what the kubelet starts again is killed again", || async { c.restarts().await >= 3 }).await;
    let holds = fault::holds(&c.cx, &crash(true), &undo).await.map_err(|e| e.to_string())?;
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    let (_, proof) = fault::effective(&c.cx, &crash(true), &undo, LIMIT).await.map_err(|e| e.to_string())?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "the second revert finds something")?;
    Ok(proof)
}

async fn runner_lost_while_held(c: &Case) -> Result<String, String> {
    let undo = c.bite(&crash(true)).await?;
    c.cx.helpers.detach().await;
    until("the helper has ended", || async { c.helper().await.and_then(|p| p.status?.phase).as_deref() == Some("Succeeded") }).await;
    c.gone(&undo).await
}

// Tests side by side: most of the time they wait.
#[test]
fn freeze_keeps_its_contract() {
    on_a_large_stack(&["freeze"]);
}

#[test]
fn crash_keeps_its_contract() {
    on_a_large_stack(&["crash", "crash hold"]);
}

#[test]
fn what_else_helpers_do_keeps_its_contract() {
    on_a_large_stack(&["signal", "fillDisk", "corruptFile", "deleteFiles", "partition", "custom"]);
}

#[test]
fn commands_run_by_jobs_keep_their_contract() {
    on_a_large_stack(&[jobs::NAME]);
}

/// All these cases in one function are too much for the two mebibytes of a test's stack.
fn on_a_large_stack(faults: &'static [&'static str]) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(keeps_its_contract(faults));
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// All cases of these faults, or those of them that FIREDRILL_TESTBED_ONLY is a part of.
async fn keeps_its_contract(faults: &[&str]) {
    let how = "a cluster with kubelets on this machine, and root: tests/testbed/testbed up";
    let Some(kubeconfig) = kubeconfig("FIREDRILL_TESTBED_KUBECONFIG", how) else { return };
    let only = std::env::var("FIREDRILL_TESTBED_ONLY").unwrap_or_default();
    let cluster = connect(&kubeconfig).await;
    let image = std::env::var("FIREDRILL_TESTBED_IMAGE").unwrap_or_else(|_| "localhost/firedrill:dev".to_owned());
    let own = OwnPlace { namespace: unique("own"), image, ..OwnPlace::default() };
    ensure_namespace(&cluster, &own.namespace).await.unwrap();
    let mut w = World::on_kubelets(cluster, "victims").await;
    let mut table = Table::of("kubelets");
    let mut ran = 0;
    macro_rules! case {
        ($fault:literal, $case:literal, $containers:expr, |$c:ident| $test:expr) => {
            if faults.contains(&$fault) && format!("{} {}", $fault, $case).contains(&only) {
                let $c = Case::new(w, own.clone(), $containers, $fault).await;
                // Boxed: sixteen of them side by side are too much for a test's stack.
                let outcome = Box::pin($test).await;
                let (world, left) = $c.end().await;
                w = world;
                let outcome = outcome.and_then(|said| ensure(left.is_empty(), format!("left behind: {left:?}")).map(|()| said));
                println!("{} {}: {outcome:?}", $fault, $case);
                table.add($fault, $case, outcome);
                ran += 1;
            }
        };
    }
    case!("freeze", "inject, proof, revert, proof", &[], |c| frozen_and_thawed(&c));
    case!("freeze", "inject twice", &[], |c| frozen_twice(&c));
    case!("freeze", "revert without inject", &[], |c| reverted_without_inject(&c, &freeze()));
    case!("freeze", "one container only", &["side"], |c| one_container_only(&c));
    case!("freeze", "renewals stopped", &[], |c| runner_lost(&c));
    case!("freeze", "exec killed", &[], |c| exec_killed(&c));
    case!("freeze", "helper killed", &[], |c| helper_killed(&c));
    case!("freeze", "revert on another machine", &[], |c| another_runner(&c, freeze()));
    case!("freeze", "target gone", &[], |c| pod_deleted(&c, &freeze()));
    case!("crash", "inject, proof, revert, proof", &[], |c| crashed(&c));
    case!("crash", "revert without inject", &[], |c| reverted_without_inject(&c, &crash(false)));
    case!("crash hold", "inject, proof, revert, proof", &[], |c| held_down(&c));
    case!("crash hold", "revert without inject", &[], |c| reverted_without_inject(&c, &crash(true)));
    case!("crash hold", "renewals stopped", &[], |c| runner_lost_while_held(&c));
    case!("crash hold", "revert on another machine", &[], |c| another_runner(&c, crash(true)));
    case!("crash hold", "target gone", &[], |c| pod_deleted(&c, &crash(true)));
    macro_rules! by_helper {
        ($fault:literal, $spec:tt) => {
            case!($fault, "inject, proof, revert, proof", &["main"], |c| bitten_and_gone(&c, spec(json!({$fault: $spec}))));
            case!($fault, "renewals stopped", &["main"], |c| undone_by_its_helper(&c, spec(json!({$fault: $spec}))));
            case!($fault, "helper killed", &["main"], |c| undone_by_another_helper(&c, spec(json!({$fault: $spec}))));
        };
    }
    by_helper!("signal", {"target": "t", "signal": "SIGSTOP", "process": "sleep 9001"});
    by_helper!("fillDisk", {"target": "t", "path": "/data/d", "leave": "0"});
    by_helper!("corruptFile", {"target": "t", "path": "/data/d/a"});
    by_helper!("deleteFiles", {"target": "t", "path": "/data/d/*"});
    by_helper!("partition", {"target": "t"});
    let peers = || spec(json!({"partition": {"target": "t", "peers": ["api"]}}));
    case!("partition", "from a Service only", &["main"], |c| cut_in_part(&c, peers(), (true, false)));
    let dns = || spec(json!({"partition": {"target": "t", "dns": true}}));
    case!("partition", "look-ups of names only", &["main"], |c| cut_in_part(&c, dns(), (false, true)));
    case!("custom", "inject, proof, revert, proof", &["main"], |c| bitten_and_gone(&c, custom()));
    macro_rules! by_jobs {
        ($case:literal, |$c:ident| $test:expr) => {
            if faults.contains(&jobs::NAME) && format!("{} {}", jobs::NAME, $case).contains(&only) {
                let mut case = JobCase::new(w).await;
                let $c = &mut case;
                let outcome = Box::pin($test).await;
                w = case.end().await;
                println!("{} {}: {outcome:?}", jobs::NAME, $case);
                table.add(jobs::NAME, $case, outcome);
                ran += 1;
            }
        };
    }
    by_jobs!("inject, proof, revert, proof", |c| jobs::whole(c));
    by_jobs!("without effect", |c| jobs::without_effect(c));
    by_jobs!("cut short while it runs", |c| jobs::cut_short(c, &kubeconfig));
    by_jobs!("a command that fails, and one that takes too long", |c| jobs::fails(c));
    by_jobs!("a Job that cannot start", |c| jobs::cannot_start(c));
    let namespaces = w.cluster.cluster_api::<Namespace>();
    let _ = namespaces.delete(&own.namespace, &DeleteParams::default()).await;
    w.end().await;
    if only.is_empty() || ran > 0 {
        table.end();
    }
}
