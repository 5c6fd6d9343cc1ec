//! Every fault that is made through the API server, once each on real kubelets: inject, proof, revert, proof, and nothing left.
//! (The cases that kubelets have no part in run on an API server alone and in the sandbox.)
//!
//! `tests/testbed/testbed up`, then `FIREDRILL_TESTBED_KUBECONFIG=… cargo test --test testbed_api_faults -- --nocapture`. It cordons and
//! drains a node: nothing else should be using the cluster. Without a cluster it says that it is skipped.

#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/cases.rs"]
mod cases;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
mod fault_kit;
#[expect(unreachable_pub, reason = "shared by suites, each of which is a crate of its own")]
#[path = "fault_kit/things.rs"]
mod things;

use fault_kit::{Table, World, connect, kubeconfig, until};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use things::{Case, KINDS, Kind};

async fn there_and_back(kubeconfig: &str, kind: Kind) -> cases::Outcome {
    let w = World::on_kubelets(connect(kubeconfig).await, "kubelets").await;
    let case = Box::pin(Case::new(&w, kind)).await;
    let outcome = Box::pin(cases::nothing_left(&case)).await;
    let (namespaces, ns) = (w.cluster.cluster_api::<Namespace>(), w.ns.clone());
    w.end().await;
    // Its pods would be in the way of a drain.
    until("its namespace is gone", || async { namespaces.get_opt(&ns).await.unwrap().is_none() }).await;
    outcome
}

#[tokio::test]
async fn each_api_fault_on_kubelets() {
    let Some(kubeconfig) = kubeconfig("FIREDRILL_TESTBED_KUBECONFIG", "a cluster with kubelets: tests/testbed/testbed up") else { return };
    let mut table = Table::of("kubelets");
    // One after the other, and after all else: what a case looks at beside its own namespace, firedrill's and the nodes, should not be changed by
    // another one.
    let (alone, others): (Vec<_>, Vec<_>) =
        KINDS.into_iter().partition(|(kind, _)| matches!(kind, Kind::Cordon | Kind::Drain | Kind::Hide));
    let outcomes = join_all(others.iter().map(|(kind, _)| there_and_back(&kubeconfig, *kind))).await;
    for ((_, name), outcome) in others.iter().zip(outcomes) {
        table.add(name, "inject, proof, revert, proof", outcome);
    }
    for (kind, name) in alone {
        table.add(name, "inject, proof, revert, proof", there_and_back(&kubeconfig, kind).await);
    }
    table.end();
}
