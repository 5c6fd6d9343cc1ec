//! `firedrill stop`: every drill of the cluster ends, none begins, and what is under way is undone.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::{
    kit::{LEASE, Shop, drill_in, is, kind, records, report, scenario, shop},
    support::cli::firedrill,
};

fn stop(shop: &Shop, more: &[&str]) -> String {
    let args: Vec<&str> = ["stop", "--namespace", &shop.own].iter().chain(more).copied().collect();
    let output = firedrill(&shop.world.kubeconfig, &args);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_every_drill_and_lets_none_begin() {
    let Some((shop, _answers)) = shop("a_stop_ends_every_drill_and_lets_none_begin").await else { return };
    let spec = json!({
        "steps": [
            {"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}},
            {"hold": "60s"},
            {"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}},
        ],
        "objectives": [{"check": {"probe": "job", "state": "good"}}],
    });
    let file = scenario(&shop, "stopped", spec);
    let (first, second, third) =
        (shop.world.dir.path().join("first"), shop.world.dir.path().join("second"), shop.world.dir.path().join("third"));
    let mut running = shop.run(&file, &first, LEASE);
    running.reached("the fault", is("effective")).await;
    let drill = drill_in(&first).unwrap();
    let said = stop(&shop, &["--reason", "real incident 4711"]);
    assert!(said.contains(&drill) && said.contains("firedrill stop --lift"), "{said}");

    let ended = running.end().await;
    assert_eq!(ended.code, Some(4), "{}", ended.said);
    let journal = records(&first);
    let abort = journal.iter().find(|r| kind(r) == "abortRequested").expect("an abort in the journal");
    assert!(abort.to_string().contains("real incident 4711"), "{abort}");
    assert_eq!(report(&first)["verdict"]["drill"], json!("aborted"));
    assert!(!journal.iter().any(|r| r["event"]["intent"]["step"] == json!("3")), "a fault was injected after the stop");

    // None begins, and who wants to is told by whom and why.
    let refused = shop.run(&file, &second, LEASE).end().await;
    assert_eq!(refused.code, Some(4), "{}", refused.said);
    assert!(refused.said.contains("real incident 4711") && refused.said.contains("--lift"), "{}", refused.said);
    assert!(drill_in(&second).is_none(), "a refused drill left evidence");
    assert_eq!(shop.left().await, ["ConfigMap firedrill-stop"]);

    // Made by hand, without a word in it, it stops as well.
    let maps = Api::<ConfigMap>::namespaced(shop.world.client.clone(), &shop.own);
    maps.delete("firedrill-stop", &DeleteParams::default()).await.unwrap();
    let by_hand = json!({"metadata": {"name": "firedrill-stop"}});
    maps.create(&kube::api::PostParams::default(), &serde_json::from_value(by_hand).unwrap()).await.unwrap();
    let refused = shop.run(&file, &third, LEASE).end().await;
    assert_eq!(refused.code, Some(4), "{}", refused.said);
    assert!(refused.said.contains("all drills are stopped"), "{}", refused.said);

    assert!(stop(&shop, &["--lift"]).contains("may run again"));
    assert!(stop(&shop, &["--lift"]).contains("were not stopped"));
    let again = shop.world.dir.path().join("again");
    let mut running = shop.run(&file, &again, LEASE);
    running.reached("the fault", is("effective")).await;
    running.signal("TERM");
    assert_eq!(running.end().await.code, Some(4));
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}
