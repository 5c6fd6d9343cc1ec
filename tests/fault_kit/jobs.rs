//! The contract of a `custom` fault whose commands are run by Jobs: on kubelets and in the sandbox the same.

#![allow(dead_code, reason = "each suite uses its own part")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use firedrill::{
    cluster::Leave,
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    labels,
    plan::Plan,
    scenario::types::{FaultSpec, OwnPlace},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::fault_kit::{LIMIT, World, bite, ensure, from, spec, unique, until};

/// What the table calls it.
pub const NAME: &str = "custom by a Job";

/// A volume, a pod that sees it, and a fault whose Jobs write there.
pub struct JobCase {
    pub w: World,
    cx: FaultCx,
    spec: FaultSpec,
    name: String,
}

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).into()
}

impl JobCase {
    pub async fn new(w: World) -> Self {
        let name = unique("cut");
        let (class, image) = if w.kubelets { ("fixed", "localhost/toolbox:1") } else { ("standard", "toolbox:1") };
        let claim = json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "16Mi"}},
        }});
        w.create::<PersistentVolumeClaim>(claim).await;
        let model = json!({"sandbox.firedrill.dev/model": "shell"});
        let pod = |command: &str| {
            json!({"terminationGracePeriodSeconds": 1, "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}], "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }]})
        };
        let reader = json!({"metadata": {"name": name, "annotations": model}, "spec": pod("while :; do sleep 1; done")});
        w.create::<Pod>(reader).await;
        let running = async |p: Option<Pod>| p.and_then(|p| p.status?.phase).as_deref() == Some("Running");
        until("the reader runs", || async { running(w.cluster.get_opt::<Pod>(&w.ns, &name).await.unwrap()).await }).await;
        // What the file says of command, time and restarts is replaced.
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": w.ns}, "spec": {
            "ttlSecondsAfterFinished": 0, "backoffLimit": 4,
            "template": {"metadata": {"annotations": model}, "spec": pod("exit 9")},
        }});
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
        let custom = json!({
            "job": {"file": "job.yaml"}, "within": "20s",
            "inject": sh("echo broken >> /data/broken"), "effective": ["test", "-s", "/data/broken"],
            "revert": sh("rm -f /data/broken /data/half"), "gone": ["test", "!", "-e", "/data/broken"],
        });
        let mut case = Self { cx: w.cx(&unique("drill"), &[], OwnPlace::default(), LIMIT), w, spec: spec(json!({"custom": custom})), name };
        case.cx = case.planned(case.cx.clone(), job);
        case
    }

    /// With the step of the plan, as the fault stands now.
    fn planned(&self, cx: FaultCx, job: Value) -> FaultCx {
        let step = json!({"path": "1", "title": "break", "spec": {"inject": self.spec}, "fault": 0, "undo": null, "touches": [],
            "runbookText": null, "children": [], "manifest": {
                "group": "batch", "plural": "jobs", "apiVersion": "batch/v1", "kind": "Job",
                "namespace": self.w.ns, "name": self.name, "object": job}});
        FaultCx { plan: Arc::new(Plan { steps: vec![from(step)], ..(*cx.plan).clone() }), ..cx }
    }

    /// The fault with other commands.
    fn with(&mut self, change: impl FnOnce(&mut firedrill::scenario::types::CustomFault)) {
        change(self.spec.custom.as_mut().unwrap());
        let job = self.cx.plan.steps[0].manifest.as_ref().unwrap().object.clone();
        self.cx = self.planned(self.cx.clone(), job);
    }

    async fn say(&self, script: &str) -> String {
        let api: Api<Pod> = self.w.cluster.api(&self.w.ns);
        let mut process = api.exec(&self.name, ["sh", "-c", script], &AttachParams::default().stderr(false)).await.unwrap();
        let mut said = String::new();
        process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
        said
    }

    async fn value(&self) -> String {
        self.say("cat /data/broken 2>/dev/null || true").await
    }

    /// The Jobs that are there, without what their names have in common.
    async fn jobs(&self) -> Vec<String> {
        let all = self.w.cluster.api::<Job>(&self.w.ns).list(&ListParams::default()).await.unwrap();
        all.iter().filter_map(|job| Some(job.name_any().strip_prefix(&format!("{}-", self.name))?.to_owned())).collect()
    }

    async fn bite(&self) -> Result<Undo, String> {
        bite(&self.cx, &self.spec, &[]).await
    }

    async fn inject(&self) -> Result<Undo, String> {
        let undo = self.planned_undo().await?;
        fault::arm(&self.cx, &self.spec, &undo).await.map_err(|e| e.to_string())?;
        fault::inject(&self.cx, &self.spec, &undo).await.map(|_| undo).map_err(|e| e.to_string())
    }

    async fn revert(&self, undo: &Undo) -> Result<(RevertResult, String), String> {
        fault::revert(&self.cx, undo).await.map_err(|e| format!("revert: {e}"))
    }

    /// Gone, and with it every Job and what they changed.
    async fn gone(&self, cx: &FaultCx, undo: &Undo) -> Result<String, String> {
        let (_, proof) = fault::gone(cx, undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
        ensure(self.jobs().await.is_empty(), format!("left: {:?}", self.jobs().await))?;
        let left = self.say("ls /data | grep -v lost.found || true").await;
        ensure(left.is_empty(), format!("on the volume is {left}"))?;
        Ok(proof)
    }

    /// The same drill's runner on another machine, which knows nothing but the record.
    async fn elsewhere(&self, kubeconfig: &str) -> (World, FaultCx) {
        let w = self.w.elsewhere(kubeconfig).await;
        let cx = w.cx(&self.cx.drill, &[], OwnPlace::default(), LIMIT);
        (w, cx)
    }

    /// Takes the reader and its claim away, and gives the world back.
    pub async fn end(self) -> World {
        let _ = self.w.cluster.api::<Pod>(&self.w.ns).delete(&self.name, &DeleteParams::default().grace_period(0)).await;
        let _ = self.w.cluster.api::<PersistentVolumeClaim>(&self.w.ns).delete(&self.name, &DeleteParams::default()).await;
        self.w
    }
}

fn is(result: &(RevertResult, String), wanted: RevertResult) -> Result<(), String> {
    ensure(result.0 == wanted, format!("{:?}: {}", result.0, result.1))
}

pub async fn whole(c: &JobCase) -> Result<String, String> {
    let undo = c.bite().await?;
    ensure(c.value().await == "broken\n", format!("the volume has {:?}", c.value().await))?;
    let marked = |job: Job| job.labels().get(labels::DRILL) == Some(&c.cx.drill);
    let jobs = c.w.cluster.api::<Job>(&c.w.ns).list(&ListParams::default()).await.map_err(|e| e.to_string())?;
    ensure(!jobs.items.is_empty() && jobs.items.into_iter().all(marked), "a Job is not marked with the drill")?;
    ensure(fault::holds(&c.cx, &c.spec, &undo).await.map_err(|e| e.to_string())?.is_none(), "it does not hold")?;
    is(&c.revert(&undo).await?, RevertResult::Reverted)?;
    c.gone(&c.cx, &undo).await
}

pub async fn inject_twice(c: &JobCase) -> Result<String, String> {
    let undo = c.bite().await?;
    fault::inject(&c.cx, &c.spec, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    ensure(c.value().await == "broken\n", format!("the second inject made {:?}", c.value().await))?;
    let (_, proof) = fault::effective(&c.cx, &c.spec, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    c.revert(&undo).await?;
    c.gone(&c.cx, &undo).await?;
    // And a second time after it was undone: one drill may break the same thing twice.
    let undo = c.bite().await?;
    is(&c.revert(&undo).await?, RevertResult::Reverted)?;
    c.gone(&c.cx, &undo).await?;
    Ok(proof)
}

pub async fn revert_twice(c: &JobCase) -> Result<String, String> {
    let undo = c.bite().await?;
    is(&c.revert(&undo).await?, RevertResult::Reverted)?;
    let second = c.revert(&undo).await?;
    is(&second, RevertResult::Nothing)?;
    c.gone(&c.cx, &undo).await?;
    is(&c.revert(&undo).await?, RevertResult::Nothing)?;
    c.gone(&c.cx, &undo).await?;
    Ok(second.1)
}

pub async fn revert_without_inject(c: &JobCase) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &[]).await.map_err(|e| e.to_string())?;
    let done = c.revert(&prepared.undo).await?;
    is(&done, RevertResult::Nothing)?;
    c.gone(&c.cx, &prepared.undo).await?;
    Ok(done.1)
}

/// The namespace is gone, and all with it.
pub async fn target_gone(c: &JobCase) -> Result<String, String> {
    let undo = c.bite().await?;
    let namespaces: Api<Namespace> = c.w.cluster.cluster_api();
    namespaces.delete(&c.w.ns, &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    until("the namespace is gone", || async { namespaces.get_opt(&c.w.ns).await.unwrap().is_none() }).await;
    let done = c.revert(&undo).await?;
    is(&done, RevertResult::TargetGone)?;
    fault::gone(&c.cx, &undo, LIMIT).await.map(|(_, proof)| format!("{} / {proof}", done.1)).map_err(|e| e.to_string())
}

pub async fn another_machine(c: &JobCase, kubeconfig: &str) -> Result<String, String> {
    let undo = c.bite().await?;
    let (_w, cx) = c.elsewhere(kubeconfig).await;
    let done = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    is(&done, RevertResult::Reverted)?;
    c.gone(&cx, &undo).await?;
    Ok(done.1)
}

/// A runner that is lost while the Job of `inject` runs: it is ended before `revert`, which is run though `gone` is content.
pub async fn cut_short(c: &mut JobCase, kubeconfig: &str) -> Result<String, String> {
    c.with(|custom| custom.inject = sh("echo half > /data/half; sleep 15; echo broken > /data/broken"));
    let prepared = fault::prepare(&c.cx, &c.spec, &[]).await.map_err(|e| e.to_string())?;
    {
        let inject = fault::inject(&c.cx, &c.spec, &prepared.undo);
        let half = until("half of it is done", || async { c.say("cat /data/half 2>/dev/null || true").await == "half\n" });
        tokio::select! {
            ended = inject => return Err(format!("it came to its end: {ended:?}")),
            () = half => {}
        }
    }
    let (_w, cx) = c.elsewhere(kubeconfig).await;
    let done = fault::revert(&cx, &prepared.undo).await.map_err(|e| format!("revert: {e}"))?;
    is(&done, RevertResult::Reverted)?;
    c.gone(&cx, &prepared.undo).await?;
    tokio::time::sleep(Duration::from_secs(16)).await;
    ensure(c.value().await.is_empty(), "the lost inject went on")?;
    Ok(done.1)
}

/// A runner that is killed after so many writes, and another one that finishes the revert.
pub async fn killed(c: &JobCase, in_revert: bool) -> Result<String, String> {
    for writes in 0..20 {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let leave = Leave::new(move || if count.fetch_add(1, Ordering::SeqCst) < writes { Ok(()) } else { Err("killed here".to_owned()) });
        let dying = FaultCx { leave, ..c.cx.clone() };
        let undo = if in_revert {
            let undo = c.bite().await?;
            let _ = fault::revert(&dying, &undo).await;
            undo
        } else {
            let prepared = fault::prepare(&dying, &c.spec, &[]).await.map_err(|e| e.to_string())?;
            ensure(asked.load(Ordering::SeqCst) == 0, "it wrote before it was armed")?;
            if fault::arm(&dying, &c.spec, &prepared.undo).await.is_ok() {
                let _ = fault::inject(&dying, &c.spec, &prepared.undo).await;
            }
            prepared.undo
        };
        let broken = !c.value().await.is_empty();
        let (_w, cx) = c.elsewhere("").await;
        let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("killed after {writes}: {e}"))?;
        ensure((result == RevertResult::Reverted) == broken, format!("killed after {writes}: {result:?}: {said}"))?;
        c.gone(&cx, &undo).await.map_err(|e| format!("killed after {writes}: {e}"))?;
        if asked.load(Ordering::SeqCst) <= writes {
            ensure(writes > 2, format!("{writes} writes"))?;
            return Ok(format!("killed before each of {writes} writes, and after the last"));
        }
    }
    Err("it never comes to its end".to_owned())
}

/// Somebody else has mended it.
pub async fn value_changed(c: &JobCase) -> Result<String, String> {
    let undo = c.bite().await?;
    c.say("rm /data/broken").await;
    let holds = fault::holds(&c.cx, &c.spec, &undo).await.map_err(|e| e.to_string())?;
    let broken = holds.ok_or("what others mended was not seen")?;
    ensure(broken.contains("`effective` fails in Job") && broken.contains("exit code 1"), broken.clone())?;
    is(&c.revert(&undo).await?, RevertResult::Nothing)?;
    c.gone(&c.cx, &undo).await?;
    Ok(broken)
}

/// A second drill, whose Jobs have the same names.
pub async fn another_drill(c: &JobCase) -> Result<String, String> {
    let undo = c.bite().await?;
    let job = c.cx.plan.steps[0].manifest.as_ref().unwrap().object.clone();
    let other = c.planned(c.w.cx(&unique("other"), &[], OwnPlace::default(), LIMIT), job);
    let error = fault::arm(&other, &c.spec, &undo).await.err().ok_or("two drills may break one thing")?.to_string();
    ensure(error.contains("it is there already, and not this drill's"), error.clone())?;
    ensure(fault::revert(&other, &undo).await.is_err(), "another drill undid it")?;
    ensure(c.value().await == "broken\n", "another drill changed it")?;
    c.revert(&undo).await?;
    c.gone(&c.cx, &undo).await?;
    Ok(error)
}

/// Proofs that prove nothing, and what cannot run at all: nothing is broken by them.
pub async fn without_effect(c: &mut JobCase) -> Result<String, String> {
    let fault = c.spec.custom.clone().unwrap();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut said = Vec::new();
    for (effective, gone, part) in [
        (words(&["true"]), fault.gone.clone(), "`effective` succeeds before the fault: it would prove nothing"),
        (fault.effective.clone(), sh("echo no such thing; exit 3"), "`gone` fails before the fault, so that it could not prove its end"),
    ] {
        c.with(|custom| (custom.effective, custom.gone) = (effective, gone));
        let error = c.inject().await.err().ok_or("it was injected")?;
        ensure(error.contains(part), error.clone())?;
        // Nothing is left that anybody would have to undo.
        ensure(c.value().await.is_empty() && c.jobs().await.is_empty(), format!("left: {:?}", c.jobs().await))?;
        said.push(error);
    }
    ensure(said[1].contains("exit code 3: [main] no such thing"), said[1].clone())?;
    Ok(said.join(" / "))
}

/// A command that fails half-way, and one that does not end in its time.
pub async fn fails(c: &mut JobCase) -> Result<String, String> {
    let mut said = Vec::new();
    for (script, part) in [
        ("echo half > /data/half; echo cannot go on; exit 3", "exit code 3: [main] cannot go on"),
        ("echo half > /data/half; sleep 60; echo broken > /data/broken", "it did not end within 10s and was ended"),
    ] {
        c.with(|custom| {
            custom.inject = sh(script);
            custom.within = Some(serde_json::from_value(json!("10s")).unwrap());
        });
        let error = c.inject().await.err().ok_or("it came to its end")?;
        ensure(error.contains(part), error.clone())?;
        let prepared = fault::prepare(&c.cx, &c.spec, &[]).await.map_err(|e| e.to_string())?;
        is(&c.revert(&prepared.undo).await?, RevertResult::Reverted)?;
        c.gone(&c.cx, &prepared.undo).await?;
        said.push(error);
    }
    Ok(said.join(" / "))
}

/// A Job that cannot start is no command that failed: it proves nothing.
pub async fn cannot_start(c: &JobCase) -> Result<String, String> {
    let mut job = c.cx.plan.steps[0].manifest.as_ref().unwrap().object.clone();
    job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("nobodys");
    let cx = c.planned(c.cx.clone(), job);
    let prepared = fault::prepare(&cx, &c.spec, &[]).await.map_err(|e| e.to_string())?;
    let error = fault::arm(&cx, &c.spec, &prepared.undo).await.err().ok_or("it was armed")?.to_string();
    ensure(error.contains("-gone") && error.contains("it did not end within 20s and was ended"), error.clone())?;
    ensure(error.contains("nobodys"), error.clone())?;
    ensure(c.value().await.is_empty() && c.jobs().await.is_empty(), format!("left: {:?}", c.jobs().await))?;
    Ok(error)
}

impl JobCase {
    async fn planned_undo(&self) -> Result<Undo, String> {
        fault::prepare(&self.cx, &self.spec, &[]).await.map(|prepared| prepared.undo).map_err(|e| e.to_string())
    }

    /// A Job of that name which is nobody's.
    pub async fn foreign_job(&self) -> Result<String, String> {
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "toolbox:1", "command": ["true"]}]});
        let job = json!({"metadata": {"name": format!("{}-inject", self.name)}, "spec": {"template": {"spec": pod}}});
        let jobs = self.w.cluster.api::<Job>(&self.w.ns);
        jobs.create(&PostParams::default(), &from(job)).await.map_err(|e| e.to_string())?;
        let error = self.inject().await.err().ok_or("another's Job was taken over")?;
        ensure(error.contains("it is there already, and not this drill's"), error.clone())?;
        ensure(self.jobs().await == ["inject"], format!("{:?}", self.jobs().await))?;
        jobs.delete(&format!("{}-inject", self.name), &DeleteParams::background()).await.map_err(|e| e.to_string())?;
        Ok(error)
    }
}
