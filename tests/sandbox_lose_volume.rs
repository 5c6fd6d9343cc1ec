//! `loseVolume` in the sandbox, beyond the cases that all faults share (`sandbox_faults.rs`): what is on the volumes, what others do
//! meanwhile, what a runbook restores, and claims that have nothing to lose.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use fault_kit::{LIMIT, Table, World, ensure, from, resolved, spec, unique, until};
use firedrill::{
    fault::{self, LostClaim, Undo},
    journal::RevertResult,
    labels,
    scenario::types::OwnPlace,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, DeleteParams, PostParams},
};
use serde_json::json;
use things::{Case, Kind};
use tokio::io::AsyncReadExt as _;

type Outcome = Result<String, String>;

fn lost(undo: &Undo) -> &LostClaim {
    let Undo::Claim(lost) = undo else { panic!("{undo:?}") };
    lost
}

async fn volume(w: &World, name: &str) -> Option<PersistentVolume> {
    w.cluster.get_cluster_opt::<PersistentVolume>(name).await.unwrap()
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap()
}

fn is_marked(labels: &std::collections::BTreeMap<String, String>) -> bool {
    labels.contains_key(labels::FAULT)
}

/// What a command in a pod of a StatefulSet says.
async fn say(w: &World, pod: &str, script: &str) -> String {
    let api: Api<Pod> = w.cluster.api(&w.ns);
    let mut process = api.exec(pod, ["sh", "-c", script], &AttachParams::default().stderr(false)).await.unwrap();
    let mut said = String::new();
    process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    said
}

/// The data goes with the volume and comes back with it; what was written meanwhile goes with the volume that stood in.
async fn data_comes_back() -> Outcome {
    let w = World::in_sandbox().await;
    let labels = json!({"app": "db"});
    let set = json!({"metadata": {"name": "db"}, "spec": {
        "serviceName": "db", "replicas": 1, "selector": {"matchLabels": labels},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}},
        }}],
        "template": {
            "metadata": {"labels": labels, "annotations": {"sandbox.firedrill.dev/model": "shell"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "main", "image": "db:1", "command": ["sh", "-c", "while :; do sleep 5; done"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }]},
        },
    }});
    w.create::<k8s_openapi::api::apps::v1::StatefulSet>(set).await;
    things::ready_pods(&w, "db", 1).await;
    say(&w, "db-0", "echo precious > /data/file").await;
    let claim = things::bound_claim(&w, "data-db-0").await;
    let cx = w.cx(&unique("drill"), &[("t", &[])], OwnPlace::default(), LIMIT);
    let fault = spec(json!({"loseVolume": {"target": "t"}}));
    let undo = fault_kit::bite(&cx, &fault, &[resolved("PersistentVolumeClaim", &claim)]).await?;
    things::ready_pods(&w, "db", 1).await;
    let during = say(&w, "db-0", "cat /data/file 2>/dev/null || echo nothing").await;
    ensure(during.trim() == "nothing", format!("the pod still reads {during:?}"))?;
    say(&w, "db-0", "echo another > /data/file").await;
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| e.to_string())?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    let after = say(&w, "db-0", "cat /data/file").await;
    ensure(after.trim() == "precious", format!("after the revert it reads {after:?}"))?;
    until("the volume that stood in is gone", || async {
        w.cluster.list_all(&w.cluster.cluster_api::<PersistentVolume>(), None, "list").await.unwrap().len() == 1
    })
    .await;
    w.end().await;
    Ok(said)
}

/// A claim that others have made in the meantime stays; what was there is kept, and it is said where and what to do.
async fn another_claim() -> Outcome {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfDeployment).await;
    let undo = c.bite().await?;
    c.replace_claim().await;
    ensure(c.holds(&undo).await?.is_none(), "the volume is as lost as before")?;
    let theirs = c.thing().await["metadata"]["uid"].clone();
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Superseded, format!("{result:?}: {said}"))?;
    let now = c.thing().await;
    ensure(now["metadata"]["uid"] == theirs && now["spec"]["volumeName"] != json!(c.volume), "the claim of others was changed")?;
    let kept = volume(&w, &c.volume).await.ok_or("the volume is gone")?;
    ensure(policy(&kept) == "Retain" && is_marked(kept.labels()), "the volume is not kept")?;
    ensure(said.contains(&c.volume) && said.contains("To have it again") && said.contains("To drop it"), said.clone())?;
    w.end().await;
    Ok(said)
}

/// What was set aside and then deleted by others is lost, and no success.
async fn kept_volume_deleted() -> Outcome {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfDeployment).await;
    let undo = c.bite().await?;
    w.cluster.cluster_api::<PersistentVolume>().delete(&c.volume, &DeleteParams::default()).await.unwrap();
    until("the volume is gone", || async { volume(&w, &c.volume).await.is_none() }).await;
    let error = c.revert(&undo).await.err().ok_or("a revert without the data is told as one")?;
    ensure(error.contains("others have deleted it") && error.contains("Restore"), error.clone())?;
    w.end().await;
    Ok(error)
}

/// The volume in a claim of another name: in use there, and left so.
async fn given_to_another_claim() -> Outcome {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfDeployment).await;
    let undo = c.bite().await?;
    let patch = json!({"spec": {"claimRef": {"namespace": w.ns, "name": "rescued", "uid": null, "resourceVersion": null}}});
    let volumes: Api<PersistentVolume> = w.cluster.cluster_api();
    volumes.patch(&c.volume, &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    let mut rescued = json!({"metadata": {"name": "rescued"}, "spec": lost(&undo).spec});
    rescued["spec"]["volumeName"] = json!(c.volume);
    w.create::<PersistentVolumeClaim>(rescued).await;
    things::bound_claim(&w, "rescued").await;
    let broken = c.holds(&undo).await?.ok_or("nobody noticed that the data is there again")?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Superseded, format!("{result:?}: {said}"))?;
    let claim = things::bound_claim(&w, "rescued").await;
    ensure(claim.spec.unwrap().volume_name.as_deref() == Some(&c.volume), "the claim of others was changed")?;
    ensure(!is_marked(volume(&w, &c.volume).await.unwrap().labels()), "the mark was left")?;
    w.end().await;
    Ok(format!("{broken} / {said}"))
}

/// A runbook's restore ends what was set aside, not before it is seen.
async fn left_to_the_runbook() -> Outcome {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfStatefulSet).await;
    let undo = c.bite().await?;
    let error = fault::let_go(&c.cx, &undo, false).await.err().ok_or("it was dropped though nothing was restored")?.to_string();
    ensure(error.contains("no runbook") && error.contains(&c.volume), error.clone())?;
    let kept = volume(&w, &c.volume).await.ok_or("the volume is gone")?;
    ensure(policy(&kept) == "Retain" && is_marked(kept.labels()), "the volume is not kept")?;
    things::ready_pods(&w, app(&c), 2).await;
    fault::let_go(&c.cx, &undo, true).await.map_err(|e| e.to_string())?;
    until("the cluster has done with the volume what it does with those that nobody claims", || async {
        volume(&w, &c.volume).await.is_none()
    })
    .await;
    let claim = things::bound_claim(&w, &c.name).await;
    ensure(!is_marked(claim.labels()), "the mark was left")?;
    w.end().await;
    Ok(error)
}

/// The StatefulSet whose first claim it is.
fn app<'a>(c: &'a Case<'_>) -> &'a str {
    c.name.strip_prefix("data-").and_then(|name| name.strip_suffix("-0")).unwrap()
}

/// A restore that did not come is no reason to drop what there was.
async fn not_restored() -> Outcome {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfDeployment).await;
    let undo = c.bite().await?;
    things::ready_pods(&w, &c.name, 1).await;
    c.api().delete(&c.name, &DeleteParams::default()).await.unwrap();
    // The pod holds the claim up: neither is there another one, nor will there be.
    let error = fault::let_go(&c.cx, &undo, true).await;
    let now = c.thing().await;
    let kept = volume(&w, &c.volume).await.ok_or("the volume is gone")?;
    ensure(now["metadata"]["deletionTimestamp"].is_string(), "this case cannot fail: the claim is not going")?;
    ensure(error.is_err() && policy(&kept) == "Retain", "it was dropped while the claim was being deleted")?;
    w.end().await;
    Ok(error.err().map(|e| e.to_string()).unwrap_or_default())
}

/// Declared irreversible: the cluster does with the volume what it does, and nobody promises more.
async fn not_set_aside() -> Outcome {
    let w = World::in_sandbox().await;
    let mut c = Case::new(&w, Kind::LoseOfDeployment).await;
    c.spec = spec(json!({"loseVolume": {"target": "t", "setAside": false}, "undo": "none"}));
    let undo = c.bite().await?;
    until("the volume is gone", || async { volume(&w, &c.volume).await.is_none() }).await;
    fault::inject(&c.cx, &c.spec, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    ensure(c.holds(&undo).await?.is_none(), "it does not hold")?;
    things::ready_pods(&w, &c.name, 1).await;
    let claim = things::bound_claim(&w, &c.name).await;
    ensure(!is_marked(claim.labels()), "a mark for a revert that will not come")?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::NotOurs, format!("{result:?}: {said}"))?;
    w.end().await;
    Ok(said)
}

/// A pod of its own, running or ended, would not come back; neither would a claim that goes with its pod.
async fn unfit() -> Outcome {
    let mut said = Vec::new();
    for ended in [false, true] {
        let w = World::in_sandbox().await;
        let c = Case::new(&w, Kind::LoseOfDeployment).await;
        let annotations = if ended {
            json!({"sandbox.firedrill.dev/model": "batch", "sandbox.firedrill.dev/runs-for": "1s"})
        } else {
            json!({"sandbox.firedrill.dev/model": "idle"})
        };
        let alone = json!({"metadata": {"name": "alone", "annotations": annotations}, "spec": {
            "restartPolicy": "Never", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": c.name}}],
            "containers": [{"name": "main", "image": "none", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}});
        w.create::<Pod>(alone).await;
        until("the pod is there", || async {
            let phase = w.cluster.get_opt::<Pod>(&w.ns, "alone").await.unwrap().and_then(|p| p.status?.phase);
            phase.as_deref() == Some(if ended { "Succeeded" } else { "Running" })
        })
        .await;
        let error = fault::prepare(&c.cx, &c.spec, &c.objects).await.err().ok_or("it may be injected")?.to_string();
        ensure(error.contains("pod alone uses it, and nothing would bring that back"), error.clone())?;
        said.push(error);
        w.end().await;
    }
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfDeployment).await;
    let pod = &w.cluster.list_all(&w.cluster.api::<Pod>(&w.ns), None, "list").await.unwrap()[0];
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
    let patch = json!({"metadata": {"ownerReferences": [owner]}});
    c.api().patch(&c.name, &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    let error = fault::prepare(&c.cx, &c.spec, &c.objects).await.err().ok_or("a claim of a pod's own may be lost")?.to_string();
    ensure(error.contains("it belongs to pod"), error.clone())?;
    said.push(error);
    w.end().await;
    Ok(said.join(" / "))
}

/// Another pod takes the claim between the look and the deletion, and has no controller: nothing is deleted that would not come back.
async fn a_stranger_comes() -> Outcome {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::LoseOfDeployment).await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    let alone: Pod = from(json!({"metadata": {"name": "alone"}, "spec": {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": c.name}}],
        "containers": [{"name": "main", "image": "none", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}));
    let pods: Api<Pod> = w.cluster.api(&w.ns);
    pods.create(&PostParams::default(), &alone).await.unwrap();
    until("the pod runs", || async { pods.get("alone").await.unwrap().status.and_then(|s| s.phase).as_deref() == Some("Running") }).await;
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.err().ok_or("a pod that does not come back was deleted")?.to_string();
    ensure(pods.get("alone").await.unwrap().metadata.deletion_timestamp.is_none(), "it was deleted")?;
    let still = c.revert(&prepared.undo).await.err().ok_or("the claim cannot go while the pod is there")?;
    ensure(still.contains("alone"), still)?;
    // It says what stands in the way; then the revert goes on.
    pods.delete("alone", &DeleteParams::default()).await.unwrap();
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Reverted, format!("{result:?}: {said}"))?;
    c.gone(&prepared.undo).await?;
    w.end().await;
    Ok(error)
}

#[tokio::test(start_paused = true)]
async fn a_lost_volume_beyond_the_contract() {
    let mut table = Table::of("sandbox");
    let name = "loseVolume Deployment";
    table.add("loseVolume StatefulSet", "the data comes back", Box::pin(data_comes_back()).await);
    table.add("loseVolume StatefulSet", "left to the runbook", Box::pin(left_to_the_runbook()).await);
    table.add(name, "another claim by others", Box::pin(another_claim()).await);
    table.add(name, "the kept volume deleted", Box::pin(kept_volume_deleted()).await);
    table.add(name, "the volume given to another claim", Box::pin(given_to_another_claim()).await);
    table.add(name, "a restore that did not come", Box::pin(not_restored()).await);
    table.add(name, "nothing set aside", Box::pin(not_set_aside()).await);
    table.add(name, "a pod or claim that nothing brings back", Box::pin(unfit()).await);
    table.add(name, "a pod that came after the look", Box::pin(a_stranger_comes()).await);
    table.end();
}
