//! The contract of faults that run what the scenario says, in the sandbox: `custom` through every case, once where its effect dies
//! with the container and once where it stays on a volume.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fault_kit::{LIMIT, Table, World, bite, ensure, resolved, spec, unique, until};
use firedrill::{
    cluster::Leave,
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    plan::ResolvedObject,
    sandbox::Signal,
    scenario::types::{FaultSpec, OwnPlace},
};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// On a volume, and in the container's own file system.
const PLACES: [(&str, &str); 2] = [("custom", "/data"), ("custom", "/tmp")];
const PODS: [&str; 2] = ["db-0", "db-1"];

/// Two pods of a StatefulSet, each with a claim, and a fault on them.
struct Case {
    w: World,
    cx: FaultCx,
    spec: FaultSpec,
    objects: Vec<ResolvedObject>,
    file: String,
}

/// Each line of the file is one injection.
fn custom(file: &str) -> Value {
    let sh = |script: String| json!(["sh", "-c", script]);
    json!({"custom": {
        "target": "t",
        "inject": sh(format!("echo 'it'\"'\"'s broken' >> {file}")),
        "effective": ["test", "-s", file],
        "revert": sh(format!("rm -f {file}")),
        "gone": ["test", "!", "-e", file],
    }})
}

impl Case {
    async fn new(at: &str) -> Self {
        let w = World::in_sandbox().await;
        let set = json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 2, "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}},
            }}],
            "template": {
                "metadata": {"labels": {"app": "db"}, "annotations": {"sandbox.firedrill.dev/model": "shell"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "main", "image": "db:1", "command": ["sh", "-c", "while :; do sleep 5; done"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }]},
            },
        }});
        w.create::<StatefulSet>(set).await;
        let file = format!("{at}/broken");
        let cx = w.cx(&unique("drill"), &[("t", &[])], OwnPlace::default(), LIMIT);
        let mut case = Self { w, cx, spec: spec(custom(&file)), objects: Vec::new(), file };
        for pod in PODS {
            case.ready(pod, None).await;
            case.objects.push(resolved("Pod", &case.pod(pod).await.unwrap()));
        }
        case
    }

    async fn pod(&self, name: &str) -> Option<Pod> {
        self.w.cluster.get_opt::<Pod>(&self.w.ns, name).await.unwrap()
    }

    /// Waits until a pod, another one than `not`, is ready.
    async fn ready(&self, name: &str, not: Option<&str>) {
        let is = |p: &Pod| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
        until("the pod is ready", || async { self.pod(name).await.is_some_and(|p| is(&p) && p.uid().as_deref() != not) }).await;
    }

    /// What the file says in each pod; nothing where there is none.
    async fn value(&self) -> Vec<String> {
        let mut all = Vec::new();
        for pod in PODS {
            all.push(self.say(pod, &format!("cat {} 2>/dev/null || true", self.file)).await);
        }
        all
    }

    async fn say(&self, pod: &str, script: &str) -> String {
        let api: Api<Pod> = self.w.cluster.api(&self.w.ns);
        let mut process = api.exec(pod, ["sh", "-c", script], &AttachParams::default().stderr(false)).await.unwrap();
        let mut said = String::new();
        process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
        said
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

    /// The same drill's runner on another machine, which knows nothing but the record.
    async fn elsewhere(&self) -> (World, FaultCx) {
        let w = self.w.elsewhere("").await;
        let cx = w.cx(&self.cx.drill, &[], OwnPlace::default(), LIMIT);
        (w, cx)
    }

    async fn prepare_error(&self) -> Result<String, String> {
        let error = fault::prepare(&self.cx, &self.spec, &self.objects).await.err();
        error.map(|e| e.to_string()).ok_or_else(|| "it may be injected".to_owned())
    }

    fn on_volume(&self) -> bool {
        self.file.starts_with("/data")
    }
}

fn none() -> Vec<String> {
    vec![String::new(); 2]
}

fn once() -> Vec<String> {
    vec!["it's broken\n".to_owned(); 2]
}

async fn whole(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    ensure(c.value().await == once(), format!("the pods see {:?}", c.value().await))?;
    ensure(c.holds(&undo).await?.is_none(), "it does not hold")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "not reverted")?;
    let proof = c.gone(&undo).await?;
    ensure(c.value().await == none(), "it is still there")?;
    Ok(proof)
}

async fn inject_twice(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    fault::inject(&c.cx, &c.spec, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    ensure(c.value().await == once(), format!("the second inject made {:?}", c.value().await))?;
    let (_, proof) = fault::effective(&c.cx, &c.spec, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    c.revert(&undo).await?;
    c.gone(&undo).await?;
    Ok(proof)
}

async fn revert_twice(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "not reverted")?;
    let (second, said) = c.revert(&undo).await?;
    ensure(second == RevertResult::Nothing, format!("{second:?}: {said}"))?;
    c.gone(&undo).await?;
    Ok(said)
}

async fn revert_without_inject(c: &Case) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("{result:?}: {said}"))?;
    c.gone(&prepared.undo).await?;
    Ok(said)
}

/// One pod is made anew. What was in its container goes with it; what is on its volume is undone there.
async fn pod_replaced(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    let uid = c.objects[0].uid.clone();
    c.w.cluster.api::<Pod>(&c.w.ns).delete(PODS[0], &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    c.ready(PODS[0], Some(&uid)).await;
    let broken = c.holds(&undo).await?.ok_or("the loss of the pod was not seen")?;
    ensure(c.value().await[0].is_empty() != c.on_volume(), format!("{:?}", c.value().await))?;
    let (result, said) = c.revert(&undo).await?;
    // The other pod is still there.
    ensure(result == RevertResult::Reverted && said.contains(PODS[0]) == c.on_volume(), format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    ensure(c.value().await == none(), format!("{:?} is left", c.value().await))?;
    Ok(format!("{broken} / {said}"))
}

/// Pods and owner are gone.
async fn target_gone(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    c.w.cluster.api::<StatefulSet>(&c.w.ns).delete("db", &DeleteParams::background()).await.map_err(|e| e.to_string())?;
    until("the pods are gone", || async { c.pod(PODS[0]).await.is_none() && c.pod(PODS[1]).await.is_none() }).await;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::TargetGone, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    let error = c.prepare_error().await?;
    Ok(format!("{said} / {error}"))
}

async fn container_restarted(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    for pod in PODS {
        c.w.sandbox.as_ref().unwrap().signal(&c.w.ns, pod, "main", Signal::Kill).unwrap();
        until("it runs again", || async {
            let status = c.pod(pod).await.and_then(|p| p.status);
            status.is_some_and(|s| s.container_statuses.iter().flatten().all(|c| c.restart_count == 1 && c.ready))
        })
        .await;
    }
    let broken = c.holds(&undo).await?;
    ensure(broken.is_none() == c.on_volume(), format!("it holds: {broken:?}"))?;
    let (result, said) = c.revert(&undo).await?;
    let wanted = if c.on_volume() { RevertResult::Reverted } else { RevertResult::Nothing };
    ensure(result == wanted, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    ensure(c.value().await == none(), "it is still there")?;
    Ok(said)
}

/// A runner that is killed after so many writes, and another one that finishes the revert.
async fn killed(at: &str, in_revert: bool) -> Result<String, String> {
    for writes in 0..10 {
        let c = Case::new(at).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let leave = Leave::new(move || if count.fetch_add(1, Ordering::SeqCst) < writes { Ok(()) } else { Err("killed here".to_owned()) });
        let dying = FaultCx { leave, ..c.cx.clone() };
        let undo = if in_revert {
            let undo = c.bite().await?;
            let _ = fault::revert(&dying, &undo).await;
            undo
        } else {
            let prepared = fault::prepare(&dying, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
            ensure(asked.load(Ordering::SeqCst) == 0, "it wrote before it was injected")?;
            let _ = fault::inject(&dying, &c.spec, &prepared.undo).await;
            prepared.undo
        };
        let (w, cx) = c.elsewhere().await;
        let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("killed after {writes}: {e}"))?;
        let all = asked.load(Ordering::SeqCst) <= writes;
        let untouched = if in_revert { all } else { writes == 0 };
        ensure((result == RevertResult::Nothing) == untouched, format!("killed after {writes}: {result:?}: {said}"))?;
        fault::gone(&cx, &undo, LIMIT).await.map_err(|e| e.to_string())?;
        ensure(c.value().await == none(), format!("killed after {writes}: {:?} is left", c.value().await))?;
        drop(w);
        c.w.end().await;
        if all {
            ensure(writes == 2, format!("{writes} writes in two pods"))?;
            return Ok(format!("killed before each of {writes} writes, and after the last"));
        }
    }
    Err("it never comes to its end".to_owned())
}

async fn another_machine(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    let (_w, cx) = c.elsewhere().await;
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    ensure(c.value().await == none(), "it is still there")?;
    Ok(said)
}

/// Somebody else has mended one pod.
async fn value_changed(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    c.say(PODS[1], &format!("rm {}", c.file)).await;
    let broken = c.holds(&undo).await?.ok_or("what others mended was not seen")?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Reverted && !said.contains(PODS[1]), format!("it was undone where nothing was: {said}"))?;
    c.gone(&undo).await?;
    Ok(format!("{broken} / {said}"))
}

/// A second drill finds it broken already.
async fn another_drill(c: &Case) -> Result<String, String> {
    let undo = c.bite().await?;
    let other = c.w.cx(&unique("other"), &[("t", &[])], OwnPlace::default(), LIMIT);
    let error = fault::prepare(&other, &c.spec, &c.objects).await.err().ok_or("two drills may break one thing")?.to_string();
    ensure(error.contains("`gone` fails before the fault"), error.clone())?;
    c.revert(&undo).await?;
    c.gone(&undo).await?;
    Ok(error)
}

/// Proofs that prove nothing are refused.
async fn without_effect(mut c: Case) -> Result<String, String> {
    c.spec.custom.as_mut().unwrap().effective = vec!["true".to_owned()];
    let error = c.prepare_error().await?;
    ensure(error.contains("`effective` succeeds before the fault") && error.contains("prove nothing"), error.clone())?;
    c.w.end().await;
    Ok(error)
}

/// A pod that is gone when it is to be injected.
async fn changed_between(c: &Case) -> Result<String, String> {
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    c.w.cluster.api::<Pod>(&c.w.ns).delete(PODS[0], &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    c.ready(PODS[0], Some(&c.objects[0].uid)).await;
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.err().ok_or("it was injected into another pod")?;
    ensure(c.value().await[0].is_empty(), "another pod was broken")?;
    c.revert(&prepared.undo).await?;
    c.gone(&prepared.undo).await?;
    Ok(error.to_string())
}

#[tokio::test(start_paused = true)]
async fn custom_keeps_its_contract() {
    let mut table = Table::of("sandbox");
    for (name, at) in PLACES {
        macro_rules! case {
            ($title:literal, $test:ident) => {{
                let c = Case::new(at).await;
                let outcome = Box::pin($test(&c)).await.map(|said| format!("{at}: {said}"));
                c.w.end().await;
                table.add(name, $title, outcome);
            }};
        }
        case!("inject, proof, revert, proof", whole);
        case!("inject twice", inject_twice);
        case!("revert twice", revert_twice);
        case!("revert without inject", revert_without_inject);
        case!("target gone", target_gone);
        case!("a pod made anew", pod_replaced);
        case!("container restarted", container_restarted);
        case!("revert on another machine", another_machine);
        case!("value changed by others", value_changed);
        case!("changed between prepare and inject", changed_between);
        case!("under another drill's fault", another_drill);
        table.add(name, "without effect", Box::pin(without_effect(Case::new(at).await)).await);
        table.add(name, "runner killed in inject", Box::pin(killed(at, false)).await);
        table.add(name, "runner killed in revert", Box::pin(killed(at, true)).await);
    }
    table.end();
}

/// What a failing command says is told, but no Secret of its pod with it; and how far it came is undone.
#[tokio::test(start_paused = true)]
async fn a_failing_command_is_told_masked_and_undone() {
    let mut c = Case::new("/data").await;
    let secret: k8s_openapi::api::core::v1::Secret =
        c.w.create(json!({"metadata": {"name": "login"}, "stringData": {"password": "correct-horse-battery"}})).await;
    let env = json!([{"secretRef": {"name": secret.name_any()}}]);
    let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "envFrom": env}]}}}}));
    c.w.cluster.api::<StatefulSet>(&c.w.ns).patch("db", &PatchParams::default(), &patch).await.unwrap();
    for pod in PODS.iter().rev() {
        let at = PODS.iter().position(|p| p == pod).unwrap();
        c.ready(pod, Some(&c.objects[at].uid.clone())).await;
        c.objects[at] = resolved("Pod", &c.pod(pod).await.unwrap());
    }
    let custom = c.spec.custom.as_mut().unwrap();
    custom.inject = ["sh", "-c", "echo half > /data/broken; echo cannot log in with $password; exit 3"].map(str::to_owned).into();
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.unwrap();
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.unwrap_err().to_string();
    assert!(error.contains("run `inject` in pod shop/db-0") && error.contains("exit code 3: cannot log in with ***"), "{error}");
    assert_eq!(c.value().await, vec!["half\n".to_owned(); 2]);
    assert_eq!(c.revert(&prepared.undo).await.unwrap().0, RevertResult::Reverted);
    c.gone(&prepared.undo).await.unwrap();
    c.w.end().await;
}

/// A command that does not end is ended, within its time.
#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_is_ended() {
    let mut c = Case::new("/data").await;
    let custom = c.spec.custom.as_mut().unwrap();
    custom.inject = ["sh", "-c", "sleep 30; echo late > /data/broken"].map(str::to_owned).into();
    custom.within = Some(serde_json::from_value(json!("2s")).unwrap());
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.unwrap();
    let began = tokio::time::Instant::now();
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.unwrap_err().to_string();
    assert!(error.contains("it did not end within 2s: ended by SIGTERM"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(c.value().await, none(), "it went on all the same");
    assert_eq!(c.revert(&prepared.undo).await.unwrap().0, RevertResult::Nothing);
    c.w.end().await;
}
