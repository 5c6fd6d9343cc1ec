//! What agents do from within pods on real kubelets: real ephemeral containers, in namespaces that enforce Pod Security *baseline* and
//! *restricted*, where the environment has no node helpers.
//!
//! `tests/testbed/testbed up`, then `FIREDRILL_TESTBED_KUBECONFIG=… cargo test --test testbed_inside -- --nocapture`. Without a cluster it
//! says that it is skipped.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;

use std::time::{Duration, Instant};

use fault_kit::{LIMIT, Table, World, bite, connect, ensure, kubeconfig, resolved, spec, unique, until};
use firedrill::{
    agent::inside,
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    scenario::types::{FaultSpec, OwnPlace},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// The agents' time to live here.
const TTL: Duration = Duration::from_secs(5);

/// What a case needs of its pod.
#[derive(Clone, Copy, Default)]
struct Wish {
    restricted: bool,
    shared: bool,
    /// The container has a part of its volume.
    part: bool,
}

struct Case<'a> {
    w: &'a World,
    own: OwnPlace,
    cx: FaultCx,
    pod: Pod,
}

impl<'a> Case<'a> {
    /// A Deployment of one pod with a volume, several processes and two containers.
    async fn new(w: &'a World, own: OwnPlace, wish: Wish) -> Case<'a> {
        let name = unique("victim");
        let claim = json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fixed", "resources": {"requests": {"storage": "64Mi"}},
        }});
        w.create::<PersistentVolumeClaim>(claim).await;
        let mut mount = json!({"name": "data", "mountPath": "/data"});
        if wish.part {
            mount["subPath"] = json!("part");
        }
        let confined = json!({
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        let security = if wish.restricted { confined } else { json!({}) };
        let container = |name: &str, command: &str| {
            json!({"name": name, "image": "localhost/toolbox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", command],
                   "volumeMounts": [mount], "securityContext": security})
        };
        // The first process handles SIGHUP by ending, as a program does that is told to.
        let main = "trap 'exit 3' HUP; sleep 9001 & sleep 9002 & while :; do sleep 0.2; done";
        let deployment = json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 1, "shareProcessNamespace": wish.shared,
                "securityContext": if wish.restricted { json!({"fsGroup": 1000}) } else { json!({}) },
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
                "containers": [container("main", main), container("side", "exec sleep 9003")],
            },
        }}});
        w.create::<Deployment>(deployment).await;
        let pod = running(w, &name, None).await;
        let cx = w.cx(&unique("drill"), &[("t", &[]), ("main", &["main"]), ("side", &["side"])], own.clone(), TTL);
        Self { w, own, cx, pod }
    }

    fn api(&self) -> Api<Pod> {
        self.w.cluster.api(&self.w.ns)
    }

    async fn bite(&self, fault: &FaultSpec) -> Result<Undo, String> {
        bite(&self.cx, fault, &[resolved("Pod", &self.pod)]).await
    }

    async fn revert(&self, undo: &Undo) -> Result<(RevertResult, String), String> {
        fault::revert(&self.cx, undo).await.map_err(|e| format!("revert: {e}"))
    }

    async fn gone(&self, undo: &Undo) -> Result<String, String> {
        fault::gone(&self.cx, undo, LIMIT).await.map(|(_, proof)| proof).map_err(|e| format!("gone: {e}"))
    }

    /// What a shell in the main container says; none if it fails.
    async fn say(&self, script: &str) -> Option<String> {
        let params = AttachParams::default().container("main").stderr(false);
        let mut process = self.api().exec(&self.pod.name_any(), ["bash", "-c", script], &params).await.ok()?;
        let status = process.take_status()?;
        let mut said = Vec::new();
        process.stdout()?.read_to_end(&mut said).await.ok()?;
        // A damaged file is no text.
        let said = String::from_utf8_lossy(&said).into_owned();
        (status.await?.status.as_deref() == Some("Success")).then_some(said)
    }

    /// All that the pod sees of itself: its files, whether they can be written to, and how its processes are.
    async fn sees(&self) -> Option<String> {
        self.say(
            "set -e; cat /data/d/*; echo x > /data/probe; rm /data/probe; find /data -not -name lost+found | sort
            for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^sleep 900[13]' && sed 's/.*) //' $p/stat | cut -c1; done || true",
        )
        .await
    }

    async fn with_files(&self) -> Result<String, String> {
        self.say("mkdir -p /data/d && echo one > /data/d/a && echo two > /data/d/b").await.ok_or("no files could be made")?;
        self.sees().await.ok_or_else(|| "the pod cannot look at itself".to_owned())
    }

    async fn restarts(&self) -> i32 {
        let pod = self.api().get_opt(&self.pod.name_any()).await.unwrap();
        pod.and_then(|p| p.status).into_iter().flat_map(|s| s.container_statuses.unwrap_or_default()).map(|c| c.restart_count).sum()
    }

    /// The drill's agents that have not ended, and any pod of firedrill's own.
    async fn left(&self) -> Vec<String> {
        let pod = self.api().get_opt(&self.pod.name_any()).await.unwrap();
        let mut left = pod.map(|pod| inside::left_in(&pod, &self.cx.drill)).unwrap_or_default();
        let own: Api<Pod> = self.w.cluster.api(&self.own.namespace);
        left.extend(own.list(&ListParams::default()).await.unwrap().items.iter().map(|p| p.name_any()));
        left
    }

    async fn end(self) -> Vec<String> {
        let mut left = self.cx.helpers.remove_all(LIMIT).await;
        left.extend(self.left().await);
        let _ = self
            .w
            .cluster
            .api::<PersistentVolumeClaim>(&self.w.ns)
            .delete_collection(&DeleteParams::background(), &ListParams::default())
            .await;
        let _ = self.w.cluster.api::<Deployment>(&self.w.ns).delete_collection(&DeleteParams::background(), &ListParams::default()).await;
        left
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

/// From the inject to the proof that it is gone, by what the pod itself sees.
async fn bitten_and_gone(c: &Case<'_>, fault: FaultSpec) -> Result<String, String> {
    let before = c.with_files().await?;
    let placing = Instant::now();
    let undo = c.bite(&fault).await?;
    let bitten_ms = placing.elapsed().as_millis();
    let during = c.sees().await;
    ensure(during.as_ref() != Some(&before), format!("the pod sees no difference: {during:?}"))?;
    fault::inject(&c.cx, &fault, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    let (_, proof) = fault::effective(&c.cx, &fault, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    // While it is renewed it stays.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    let holds = fault::holds(&c.cx, &fault, &undo).await.map_err(|e| e.to_string())?;
    ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    c.gone(&undo).await?;
    let after = c.sees().await;
    ensure(after.as_ref() == Some(&before), format!("the pod sees {after:?} and saw {before}"))?;
    ensure(c.restarts().await == 0, "a container was restarted")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "the second revert finds something")?;
    Ok(format!("placed and proven after {bitten_ms} ms: {proof}; {said}"))
}

/// Without renewals its agent undoes it, and nothing is left to do for another runner.
async fn undone_by_its_agent(c: &Case<'_>, fault: FaultSpec) -> Result<String, String> {
    let before = c.with_files().await?;
    let undo = c.bite(&fault).await?;
    c.cx.helpers.detach().await;
    let lost = Instant::now();
    while c.sees().await.as_ref() != Some(&before) {
        let after = lost.elapsed();
        ensure(after < TTL + Duration::from_secs(2), format!("still there {:.1} s after the runner was lost", after.as_secs_f64()))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = lost.elapsed().as_secs_f64();
    until("the agent has ended", || async { c.left().await.is_empty() }).await;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "a revert finds something")?;
    c.gone(&undo).await?;
    Ok(format!("undone by itself {after:.1} s after the runner was lost (time to live {} s)", TTL.as_secs()))
}

async fn another_runner(c: &Case<'_>, fault: FaultSpec) -> Result<String, String> {
    let before = c.with_files().await?;
    let undo = c.bite(&fault).await?;
    c.cx.helpers.detach().await;
    let cx = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| format!("revert: {e}"))?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| format!("gone: {e}"))?;
    ensure(c.sees().await.as_ref() == Some(&before), "the pod is not as it was")?;
    let left = cx.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    // One that has ended cannot be started again: this one places another.
    let third = c.w.cx(&c.cx.drill, &[], c.own.clone(), TTL);
    let again = fault::revert(&third, &undo).await.map_err(|e| format!("second revert: {e}"))?;
    ensure(again.0 == RevertResult::Nothing, format!("{again:?}"))?;
    let left = third.helpers.remove_all(LIMIT).await;
    ensure(left.is_empty(), left.join("; "))?;
    Ok(said)
}

async fn crashed(c: &Case<'_>, hold: bool) -> Result<String, String> {
    let fault = placed(json!({"crash": {"target": "t", "hold": hold}}));
    let undo = c.bite(&fault).await?;
    let least = if hold { 3 } else { 2 };
    until("containers are started anew", || async { c.restarts().await >= least }).await;
    if hold {
        let holds = fault::holds(&c.cx, &fault, &undo).await.map_err(|e| e.to_string())?;
        ensure(holds.is_none(), format!("it does not hold: {holds:?}"))?;
    }
    let (result, said) = c.revert(&undo).await?;
    ensure(result == if hold { RevertResult::Reverted } else { RevertResult::Nothing }, format!("{result:?}: {said}"))?;
    c.gone(&undo).await
}

/// A signal that the first process handles by ending, which takes the agent with it.
async fn ended_by_a_signal(c: &Case<'_>) -> Result<String, String> {
    let fault = placed(json!({"signal": {"target": "main", "signal": "SIGHUP", "process": "sh -c trap"}}));
    let undo = c.bite(&fault).await?;
    until("the container is started anew", || async { c.restarts().await == 1 }).await;
    ensure(c.revert(&undo).await?.0 == RevertResult::Nothing, "there was something to undo")?;
    c.gone(&undo).await
}

/// What the kernel drops is not sent.
async fn refused(c: &Case<'_>) -> Result<String, String> {
    let pod = [resolved("Pod", &c.pod)];
    let freeze = placed(json!({"freeze": {"target": "t"}}));
    let error = fault::prepare(&c.cx, &freeze, &pod).await.err().ok_or("freeze was not refused")?.to_string();
    ensure(error.contains("shareProcessNamespace"), &error)?;
    let signal = placed(json!({"signal": {"target": "main", "signal": "SIGSTOP", "process": "sh -c trap"}}));
    let stopped = bite(&c.cx, &signal, &pod).await.err().ok_or("SIGSTOP to process 1 was not refused")?;
    ensure(stopped.contains("the kernel drops SIGSTOP from inside"), &stopped)?;
    Ok(format!("{error}; {stopped}"))
}

fn placed(mut fault: Value) -> FaultSpec {
    fault["placement"] = json!("pod");
    spec(fault)
}

// Tests side by side: most of the time they wait.
#[test]
fn volumes_are_filled_from_within_pods() {
    on_a_large_stack(&["fillDisk"]);
}

#[test]
fn files_are_damaged_and_deleted_from_within_pods() {
    on_a_large_stack(&["corruptFile", "deleteFiles"]);
}

#[test]
fn signals_are_sent_from_within_pods() {
    on_a_large_stack(&["signal"]);
}

#[test]
fn processes_are_frozen_and_crashed_from_within_pods() {
    on_a_large_stack(&["freeze", "crash", "crash hold"]);
}

/// All these cases in one function are too much for the two mebibytes of a test's stack.
fn on_a_large_stack(faults: &'static [&'static str]) {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(keeps_its_contract(faults));
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// All cases of these faults, or those of them that FIREDRILL_TESTBED_ONLY is a part of.
async fn keeps_its_contract(faults: &[&str]) {
    let how = "a cluster with kubelets: tests/testbed/testbed up";
    let Some(kubeconfig) = kubeconfig("FIREDRILL_TESTBED_KUBECONFIG", how) else { return };
    let only = std::env::var("FIREDRILL_TESTBED_ONLY").unwrap_or_default();
    let image = std::env::var("FIREDRILL_TESTBED_IMAGE").unwrap_or_else(|_| "localhost/firedrill:dev".to_owned());
    let own = OwnPlace { namespace: unique("own"), image, node_helpers: false, ..OwnPlace::default() };
    let mut worlds = Vec::new();
    for level in ["baseline", "restricted"] {
        let w = World::new(connect(&kubeconfig).await, level).await;
        let label = Patch::Merge(json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}));
        w.cluster.cluster_api::<Namespace>().patch(&w.ns, &PatchParams::default(), &label).await.unwrap();
        worlds.push(w);
    }
    let mut table = Table::of("kubelets");
    let mut ran = 0;
    macro_rules! case {
        ($fault:expr, $case:expr, $wish:expr, |$c:ident| $test:expr) => {
            let (fault, wish): (&str, Wish) = ($fault, $wish);
            if faults.contains(&fault) && format!("{fault} in a pod {}", $case).contains(&only) {
                let $c = Case::new(&worlds[usize::from(wish.restricted)], own.clone(), wish).await;
                let outcome = Box::pin($test).await;
                let left = $c.end().await;
                let outcome = outcome.and_then(|said| ensure(left.is_empty(), format!("left behind: {left:?}")).map(|()| said));
                println!("{fault} in a pod, {}: {outcome:?}", $case);
                table.add(&format!("{fault} in a pod"), $case, outcome);
                ran += 1;
            }
        };
    }
    let baseline = Wish::default();
    let (restricted, shared, part) =
        (Wish { restricted: true, ..baseline }, Wish { shared: true, ..baseline }, Wish { part: true, ..baseline });
    let fill = || placed(json!({"fillDisk": {"target": "main", "path": "/data", "leave": "0"}}));
    for (fault, spec) in [
        ("fillDisk", fill()),
        ("corruptFile", placed(json!({"corruptFile": {"target": "main", "path": "/data/d/a"}}))),
        ("deleteFiles", placed(json!({"deleteFiles": {"target": "main", "path": "/data/d/*"}}))),
        ("signal", placed(json!({"signal": {"target": "main", "signal": "SIGSTOP", "process": "sleep 9001"}}))),
    ] {
        case!(fault, "inject, proof, revert, proof", baseline, |c| bitten_and_gone(&c, spec.clone()));
        case!(fault, "a restricted namespace", restricted, |c| bitten_and_gone(&c, spec.clone()));
        case!(fault, "renewals stopped", baseline, |c| undone_by_its_agent(&c, spec.clone()));
        case!(fault, "revert on another machine", baseline, |c| another_runner(&c, spec.clone()));
    }
    case!("fillDisk", "renewals stopped in a restricted namespace", restricted, |c| undone_by_its_agent(&c, fill()));
    case!("corruptFile", "a part of a volume", part, |c| bitten_and_gone(
        &c,
        placed(json!({"corruptFile": {"target": "main", "path": "/data/d/a"}}))
    ));
    // Not the first container: what looks runs in that one.
    let freeze = || placed(json!({"freeze": {"target": "side"}}));
    case!("freeze", "inject, proof, revert, proof", shared, |c| bitten_and_gone(&c, freeze()));
    case!("freeze", "renewals stopped", shared, |c| undone_by_its_agent(&c, freeze()));
    case!("crash", "inject, proof, revert, proof", shared, |c| crashed(&c, false));
    case!("crash hold", "inject, proof, revert, proof", shared, |c| crashed(&c, true));
    case!("signal", "ends its container and the agent", baseline, |c| ended_by_a_signal(&c));
    case!("signal", "what the kernel drops", baseline, |c| refused(&c));
    for w in worlds {
        w.end().await;
    }
    if only.is_empty() || ran > 0 {
        table.end();
    }
}
