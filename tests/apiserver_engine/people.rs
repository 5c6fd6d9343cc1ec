//! What people see of a drill from elsewhere, and what they may say to it.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::{
    kit::{LEASE, Shop, drill_in, is, records, scenario, shop, step_begun},
    support::{cli::firedrill, eventually},
};

/// Runs a command for the shop's namespace: its exit code and all it says.
fn tell(shop: &Shop, args: &[&str]) -> (Option<i32>, String) {
    let args: Vec<&str> = args.iter().copied().chain(["-n", &shop.own]).collect();
    said(&firedrill(&shop.world.kubeconfig, &args))
}

fn said(output: &std::process::Output) -> (Option<i32>, String) {
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

async fn status(shop: &Shop, says: &[&str]) {
    eventually(&format!("status says {says:?}"), async || {
        let (code, said) = tell(shop, &["status"]);
        code == Some(0) && says.iter().all(|what| said.contains(what))
    })
    .await;
}

fn refused(shop: &Shop, ack: &[&str], why: &str) {
    let args: Vec<&str> = ["ack"].iter().chain(ack).copied().collect();
    let (code, said) = tell(shop, &args);
    assert_eq!(code, Some(4), "{ack:?}: {said}");
    assert!(said.contains(why), "{ack:?}: no `{why}` in {said}");
}

fn taken(shop: &Shop, step: &str) -> String {
    let (code, said) = tell(shop, &["ack", step]);
    assert_eq!(code, Some(0), "{step}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_drill_asks_is_seen_elsewhere_and_nothing_else_is_answered() {
    let Some((shop, _answers)) = shop("what_a_drill_asks_is_seen_elsewhere_and_nothing_else_is_answered").await else { return };
    shop.world.file("tell.md", "# Tell people\n\n- [ ] Tell support\n- [ ] Tell sales\n");
    let spec = json!({
        "steps": [
            {"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}},
            {"name": "call", "manual": {"do": "Call the owner"}},
            {"name": "tell", "runbook": {"file": "tell.md"}},
            {"name": "look", "hold": "100s"},
            {"name": "agree", "approve": {"question": "Go on?"}},
        ],
        "objectives": [{"check": {"probe": "job", "state": "good"}}],
    });
    let out = shop.world.dir.path().join("asks");
    let mut running = shop.run_asking(&scenario(&shop, "asks", spec), &out, LEASE);
    running.reached("the manual step", step_begun("2")).await;
    status(&shop, &["in step 2 (call)", "waits for a person, step 2: Call the owner", "firedrill ack 2 ", "Leases renewed"]).await;
    let drill = drill_in(&out).unwrap();
    let (code, list) = tell(&shop, &["list"]);
    assert!(code == Some(0) && list.contains(&drill) && list.contains("in step 2 (call)") && list.contains("Leases renewed"), "{list}");

    refused(&shop, &["1"], "step 1 (cut) is over: it succeeded at 2");
    refused(&shop, &["4"], "step 4 (look) asks nobody; what waits for a person now: `2` (Call the owner)");
    refused(&shop, &["9"], "there is no step 9");
    refused(&shop, &["2#1"], "is no runbook");
    refused(&shop, &["2", "--retry"], "failed step of a runbook");
    refused(&shop, &["3"], "is a runbook");
    refused(&shop, &["3#3"], "it has 2");
    refused(&shop, &["3#step1", "--refuse"], "when it has failed");
    // Given before it is asked, it is kept.
    assert!(taken(&shop, "3#2").contains("does not ask yet"));
    taken(&shop, "2");
    status(&shop, &["in step 3 (tell)", "waits for a person, step 3#1: Tell support", "firedrill ack '3#1' "]).await;
    refused(&shop, &["2"], "step 2 (call) is over");
    taken(&shop, "3#1");
    // The runner hears of it at once: what a second answer would be told in the next milliseconds depends on how far it has come.
    status(&shop, &["in step 4 (look)", "Leases renewed"]).await;
    refused(&shop, &["3#1"], "step 3 (tell) is over");
    assert!(!tell(&shop, &["status"]).1.contains("waits for a person"));

    let (code, told) = tell(&shop, &["abort", "--reason", "enough", "no-such-drill"]);
    assert!(code == Some(4) && told.contains(&drill), "{told}");
    running.signal("KILL");
    assert_eq!(running.end().await.signal, Some(9));
    status(&shop, &["Leases not renewed for", &format!("`firedrill resume {drill} -n {}`", shop.own)]).await;
    let (code, told) = tell(&shop, &["abort"]);
    assert!(code == Some(0) && told.contains(&format!("firedrill revert {drill} -n {}", shop.own)), "{told}");
    let ended = shop.take_over("revert", &drill, &shop.world.dir.path().join("elsewhere"), LEASE).end().await;
    assert_eq!(ended.code, Some(4), "{}", ended.said);
    assert!(records(&out).iter().any(is("acknowledged")));
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}

/// With the environment in the variable.
fn with_environment(shop: &Shop, environment: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(args).env("KUBECONFIG", &shop.world.kubeconfig).env("FIREDRILL_ENVIRONMENT", environment);
    said(&command.current_dir(shop.world.dir.path()).output().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_says_where_drills_are_found_and_stopped() {
    let Some((shop, _answers)) = shop("the_environment_says_where_drills_are_found_and_stopped").await else { return };
    let spec = json!({
        "steps": [{"hold": "100s"}, {"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}}],
        "objectives": [{"check": {"probe": "job", "state": "good"}}],
    });
    let out = shop.world.dir.path().join("found");
    let mut running = shop.run(&scenario(&shop, "found", spec), &out, LEASE);
    running.reached("the hold", is("stepStarted")).await;
    let drill = drill_in(&out).unwrap();
    let environment = shop.world.environment(&shop.own);

    // It is not there yet, or not any more: what is not looked into is not called empty.
    let (code, said) = with_environment(&shop, &environment, &["list", "-n", "y-no-such-namespace"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("there is no namespace y-no-such-namespace") && !said.contains("no drill is running"), "{said}");
    let (code, said) = with_environment(&shop, &environment, &["list", "-n", &shop.world.namespace]);
    assert_eq!((code, said.trim()), (Some(0), &*format!("no drill is running or left behind in namespace {}", shop.world.namespace)));
    let (code, said) = with_environment(&shop, &environment, &["list"]);
    assert!(code == Some(0) && said.contains(&drill), "{said}");
    let by_argument = said_by_argument(&shop, &environment);
    assert!(by_argument.contains(&drill), "{by_argument}");
    let (code, said) = with_environment(&shop, Path::new("nowhere.yaml"), &["list"]);
    assert!(code != Some(0) && said.contains("nowhere.yaml"), "{said}");

    let (code, said) = with_environment(&shop, &environment, &["stop", "--reason", "real incident"]);
    assert_eq!(code, Some(0), "{said}");
    for what in [format!("in namespace {} begins any more", shop.own), format!("firedrill stop --lift -n {}", shop.own), drill] {
        assert!(said.contains(&what), "no `{what}` in {said}");
    }
    assert_eq!(running.end().await.code, Some(4));
    let (code, said) = with_environment(&shop, &environment, &["stop", "--lift"]);
    assert!(code == Some(0) && said.contains("may run again"), "{said}");
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}

fn said_by_argument(shop: &Shop, environment: &Path) -> String {
    said(&firedrill(&shop.world.kubeconfig, &["list", "--environment", environment.to_str().unwrap()])).1
}
