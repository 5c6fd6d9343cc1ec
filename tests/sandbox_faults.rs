//! The contract of every fault that is made through the API server, in the sandbox: prepare → arm → inject → effective → holds →
//! revert → gone, and every way in which it can be disturbed. Each case has a cluster of its own.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/cases.rs"]
mod cases;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use std::sync::Arc;

use fault_kit::{LIMIT, Table, World, until};
use firedrill::{
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    scenario::types::{BudgetPolicy, OwnPlace},
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{Node, Pod, Secret},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use things::{Case, KINDS, Kind, PASSWORD};

/// A case on a thing made for it, in a cluster made for it.
macro_rules! on {
    ($kind:expr, $case:ident) => {{
        let w = World::in_sandbox().await;
        // On the heap: together they are more than a test's stack holds.
        let case = Box::pin(Case::new(&w, $kind)).await;
        let outcome = Box::pin(cases::$case(&case)).await;
        w.end().await;
        outcome
    }};
}

async fn elsewhere(kind: Kind) -> cases::Outcome {
    let w = World::in_sandbox().await;
    let case = Box::pin(Case::new(&w, kind)).await;
    let outcome = Box::pin(cases::another_machine(&case, &w.elsewhere("").await)).await;
    w.end().await;
    outcome
}

async fn unfit(kind: Kind) -> cases::Outcome {
    let w = World::in_sandbox().await;
    let case = Box::pin(Case::new(&w, kind)).await;
    let outcome = Box::pin(cases::without_effect(case)).await;
    w.end().await;
    outcome
}

async fn killed(kind: Kind, in_revert: bool) -> cases::Outcome {
    let w = World::in_sandbox().await;
    let other = w.elsewhere("").await;
    let outcome = if in_revert {
        Box::pin(cases::killed_in_revert(&w, kind, &other)).await
    } else {
        Box::pin(cases::killed_in_inject(&w, kind, &other)).await
    };
    w.end().await;
    outcome
}

/// All cases of one kind of fault.
async fn contract(wanted: Kind) {
    let mut table = Table::of("sandbox");
    for (kind, name) in KINDS.into_iter().filter(|(kind, _)| *kind == wanted) {
        table.add(name, "inject twice", on!(kind, inject_twice));
        table.add(name, "revert twice", on!(kind, revert_twice));
        table.add(name, "revert without inject", on!(kind, revert_without_inject));
        table.add(name, "target gone", on!(kind, target_gone));
        table.add(name, "revert on another machine", elsewhere(kind).await);
        table.add(name, "inject, proof, revert, proof", on!(kind, nothing_left));
        table.add(name, "runner killed in inject", killed(kind, false).await);
        table.add(name, "runner killed in revert", killed(kind, true).await);
        if kind.has_value() {
            table.add(name, "value changed by others", on!(kind, value_changed));
            table.add(name, "changed between prepare and inject", on!(kind, changed_between));
            table.add(name, "under another drill's fault", on!(kind, another_drill));
            // What is not there yet has no version that could be moved on.
            if kind != Kind::Manifest {
                table.add(name, "inject arrives after the revert", on!(kind, late_inject));
            }
        }
        if kind != Kind::PodKill {
            table.add(name, "without effect", unfit(kind).await);
        }
    }
    table.end();
}

/// A test a kind, so that one that fails does not hide the others.
macro_rules! contracts {
    ($($name:ident: $kind:expr,)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            contract($kind).await;
        }
    )*};
}

contracts! {
    pod_kill_keeps_its_contract: Kind::PodKill,
    scale_of_a_deployment_keeps_its_contract: Kind::ScaleDeployment,
    scale_of_a_stateful_set_keeps_its_contract: Kind::ScaleStatefulSet,
    suspend_keeps_its_contract: Kind::Suspend,
    empty_keeps_its_contract: Kind::Empty,
    kill_running_keeps_its_contract: Kind::KillRunning,
    cordon_node_keeps_its_contract: Kind::Cordon,
    drain_node_keeps_its_contract: Kind::Drain,
    detach_service_keeps_its_contract: Kind::Detach,
    bad_image_of_a_deployment_keeps_its_contract: Kind::ImageDeployment,
    bad_image_of_a_stateful_set_keeps_its_contract: Kind::ImageStatefulSet,
    hide_secret_keeps_its_contract: Kind::Hide,
    lose_volume_of_a_deployment_keeps_its_contract: Kind::LoseOfDeployment,
    lose_volume_of_a_stateful_set_keeps_its_contract: Kind::LoseOfStatefulSet,
    manifest_keeps_its_contract: Kind::Manifest,
}

/// Every kind of the table is a test above: a new one is not forgotten.
#[test]
fn every_kind_has_its_test() {
    let text = include_str!("sandbox_faults.rs");
    let (_, list) = text.split_once("contracts! {").unwrap();
    let (list, _) = list.split_once('}').unwrap();
    assert_eq!(list.matches("Kind::").count(), KINDS.len());
}

/// Contents of a Secret are in the two Secrets and nowhere else: not in what the journal keeps, not in what is said.
#[tokio::test(start_paused = true)]
async fn a_hidden_secret_is_told_to_nobody() {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::Hide).await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.unwrap();
    let undo = c.bite().await.unwrap();
    let Undo::Secret { copy, .. } = &undo else { panic!("{undo:?}") };
    let own = OwnPlace::default().namespace;
    let kept = w.cluster.get_opt::<Secret>(&own, copy).await.unwrap().unwrap();
    assert_eq!(kept.data.unwrap()["password"].0, PASSWORD.as_bytes());
    let (_, effective) = fault::effective(&c.cx, &c.spec, &undo, LIMIT).await.unwrap();
    let again = fault::prepare(&c.cx, &c.spec, &c.objects).await.unwrap_err().to_string();
    c.meddle().await;
    let holds = c.holds(&undo).await.unwrap().unwrap();
    let (result, superseded) = c.revert(&undo).await.unwrap();
    assert_eq!(result, RevertResult::Superseded);
    // What it was is not lost for that, and it is said where it is.
    assert!(w.cluster.get_opt::<Secret>(&own, copy).await.unwrap().is_some());
    assert!(superseded.contains(copy), "{superseded}");
    c.delete().await;
    let (_, reverted) = c.revert(&undo).await.unwrap();
    let gone = c.gone(&undo).await.unwrap();
    let said =
        [format!("{prepared:?} {undo:?}"), serde_json::to_string(&undo).unwrap(), effective, again, holds, superseded, reverted, gone];
    for text in said {
        for secret in [PASSWORD, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5", "jane"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    w.end().await;
}

/// A copy that somebody has deleted is a loss, and is told as one.
#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_put_back_is_no_success() {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::Hide).await;
    let undo = c.bite().await.unwrap();
    let Undo::Secret { copy, .. } = &undo else { panic!("{undo:?}") };
    w.cluster.api::<Secret>(&OwnPlace::default().namespace).delete(copy, &DeleteParams::default()).await.unwrap();
    let error = c.revert(&undo).await.unwrap_err();
    assert!(error.contains("neither it nor its copy") && error.contains("make it anew"), "{error}");
    w.end().await;
}

/// A budget that allows nothing holds a drain up, which then names it; what is DaemonSets' stays.
#[tokio::test(start_paused = true)]
async fn a_drain_asks_the_budgets_and_leaves_daemon_sets_alone() {
    let w = World::in_sandbox().await;
    let c = Case::new(&w, Kind::Drain).await;
    let labels = json!({"app": "everywhere"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}});
    w.create::<DaemonSet>(json!({"metadata": {"name": "everywhere"}, "spec": {"selector": {"matchLabels": labels}, "template": pod}}))
        .await;
    until("it is everywhere", || async {
        let set = w.cluster.get_opt::<DaemonSet>(&w.ns, "everywhere").await.unwrap();
        set.and_then(|s| s.status).is_some_and(|s| s.number_ready == 3)
    })
    .await;
    let app = &w.cluster.list_all(&w.cluster.api::<Deployment>(&w.ns), None, "list").await.unwrap()[0];
    let budget = json!({"metadata": {"name": "all-of-them"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": app.name_any()}}}});
    w.create::<PodDisruptionBudget>(budget).await;
    until("the budget is counted", || async {
        let budget = w.cluster.get_opt::<PodDisruptionBudget>(&w.ns, "all-of-them").await.unwrap();
        budget.and_then(|b| b.status).is_some_and(|s| s.current_healthy == 3)
    })
    .await;
    let before = things::everything(&w).await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.unwrap();
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.unwrap_err().to_string();
    assert!(error.contains("evict pod shop/") && error.contains("all-of-them needs 3 healthy pods"), "{error}");
    assert_eq!(c.revert(&prepared.undo).await.unwrap().0, RevertResult::Reverted);
    c.gone(&prepared.undo).await.unwrap();
    assert_eq!(things::everything(&w).await, before);

    // Two may go by, one after the other.
    let patch = Patch::Merge(json!({"spec": {"minAvailable": 2}}));
    w.cluster.api::<PodDisruptionBudget>(&w.ns).patch("all-of-them", &PatchParams::default(), &patch).await.unwrap();
    let undo = c.bite().await.unwrap();
    let pods = w.cluster.list_all(&w.cluster.api::<Pod>(&w.ns), None, "list").await.unwrap();
    let left: Vec<String> =
        pods.iter().filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some(&c.name)).map(|p| p.name_any()).collect();
    assert!(left.len() == 1 && left[0].starts_with("everywhere-"), "{left:?}");
    c.revert(&undo).await.unwrap();
    c.gone(&undo).await.unwrap();

    // A scenario that ignores budgets is not held up, though this one allows nothing again.
    let patch = Patch::Merge(json!({"spec": {"minAvailable": 3}}));
    w.cluster.api::<PodDisruptionBudget>(&w.ns).patch("all-of-them", &PatchParams::default(), &patch).await.unwrap();
    let mut plan = (*c.cx.plan).clone();
    plan.limits.budgets = BudgetPolicy::Ignore;
    let ignoring = FaultCx { plan: Arc::new(plan), ..c.cx.clone() };
    let with_app = pods.iter().find(|p| !p.name_any().starts_with("everywhere-") && p.metadata.deletion_timestamp.is_none()).unwrap();
    let on = with_app.spec.as_ref().unwrap().node_name.clone().unwrap();
    let node = w.cluster.get_cluster_opt::<Node>(&on).await.unwrap().unwrap();
    let undo = fault_kit::bite(&ignoring, &c.spec, &[fault_kit::resolved("Node", &node)]).await.unwrap();
    c.revert(&undo).await.unwrap();
    c.gone(&undo).await.unwrap();
    w.end().await;
}

/// Of two containers the one that the target names gets the image; the other, and what others do to it, is left alone.
#[tokio::test(start_paused = true)]
async fn a_bad_image_is_of_the_container_that_is_meant() {
    let w = World::in_sandbox().await;
    let labels = json!({"app": "two"});
    let containers = json!([{"name": "main", "image": "shop:1"}, {"name": "proxy", "image": "proxy:1"}]);
    let spec = json!({"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}});
    let made = w.create::<Deployment>(json!({"metadata": {"name": "two"}, "spec": spec})).await;
    things::ready_pods(&w, "two", 2).await;
    let fault = fault_kit::spec(json!({"badImage": {"target": "t"}}));
    let target = [fault_kit::resolved("Deployment", &made)];
    let unsaid = w.cx("d", &[("t", &[])], OwnPlace::default(), LIMIT);
    let error = fault::prepare(&unsaid, &fault, &target).await.unwrap_err().to_string();
    assert!(error.contains("it has containers main, proxy: say which"), "{error}");
    let cx = w.cx("d", &[("t", &["proxy"])], OwnPlace::default(), LIMIT);
    let undo = fault_kit::bite(&cx, &fault, &target).await.unwrap();
    let images = async || {
        let now = w.cluster.get_opt::<Deployment>(&w.ns, "two").await.unwrap().unwrap();
        now.spec.unwrap().template.spec.unwrap().containers.into_iter().map(|c| c.image.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(images().await, ["shop:1".to_owned(), format!("proxy@sha256:{}", "0".repeat(64))]);
    let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "shop:2"}]}}}}));
    w.cluster.api::<Deployment>(&w.ns).patch("two", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(fault::revert(&cx, &undo).await.unwrap().0, RevertResult::Reverted);
    assert_eq!(images().await, ["shop:2", "proxy:1"]);
    fault::gone(&cx, &undo, LIMIT).await.unwrap();
    w.end().await;
}
