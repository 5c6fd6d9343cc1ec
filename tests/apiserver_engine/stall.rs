//! The API server stops answering in the middle of a drill: for a while, and for longer than the drill's Lease lives. Its process
//! is stopped with SIGSTOP, so connections stay open and nothing is refused, which is the worst way.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::kit::{ANSWERS, LEASE, Shop, bare_shop, drill_in, full, kind, records, report, say, scenario};

/// The API server's process, found by the folder of its cluster; stopped until it is dropped.
struct Stalled(String);

impl Stalled {
    /// The process that serves the cluster of this kubeconfig, if it is one of this machine's testbed.
    fn find(shop: &Shop) -> Option<String> {
        let cluster = shop.world.kubeconfig.parent()?.to_str()?.to_owned();
        std::fs::read_dir("/proc").ok()?.flatten().map(|e| e.path()).find_map(|dir| {
            let line = std::fs::read_to_string(dir.join("cmdline")).ok()?.replace('\0', " ");
            let found = line.split(' ').next()?.ends_with("/kube-apiserver") && line.contains(&format!("{cluster}/"));
            found.then(|| dir.file_name().unwrap().to_string_lossy().into_owned())
        })
    }

    fn stop(pid: &str) -> Self {
        assert!(std::process::Command::new("kill").args(["-STOP", pid]).status().unwrap().success());
        Self(pid.to_owned())
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

fn drill(shop: &Shop) -> PathBuf {
    let spec = json!({
        "steps": [
            {"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}},
            {"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}},
            {"hold": "500ms"},
        ],
        "objectives": [{"recoveryTime": {"probe": "web", "after": "shrink", "within": "10ms"}}],
    });
    scenario(shop, "stall", spec)
}

fn first_intent(record: &Value) -> bool {
    kind(record) == "intent"
}

fn second_intent(record: &Value) -> bool {
    kind(record) == "intent" && record["event"]["intent"]["step"] == json!("2")
}

fn revert(record: &Value) -> bool {
    kind(record) == "revertIntent"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_api_server_leaves_nothing_behind() {
    let _alone = ANSWERS.write().await;
    let Some(shop) = bare_shop("a_stalled_api_server_leaves_nothing_behind", Duration::from_millis(50)).await else { return };
    let Some(pid) = Stalled::find(&shop) else {
        say("a_stalled_api_server_leaves_nothing_behind: NOT RUN, the API server is no process of this machine's testbed");
        return;
    };
    let seconds = Duration::from_secs;
    // A call has a limit of 10 s: in the fourth case an inject is given up that the API server may carry out later.
    type Case = (&'static str, fn(&Value) -> bool, Duration, Duration, &'static [i32]);
    let cases: [Case; 4] = [
        ("at an inject, shorter than the Lease", first_intent, seconds(15), seconds(4), &[1, 3, 4]),
        ("at an inject, longer than the Lease", second_intent, LEASE, seconds(8), &[4]),
        ("at a revert, longer than the Lease", revert, LEASE, seconds(7), &[1, 3, 4]),
        ("at an inject, longer than a call may take", second_intent, seconds(15), seconds(13), &[1, 3, 4]),
    ];
    for (n, (what, at, lease, time, right)) in cases.into_iter().enumerate() {
        let out = shop.world.dir.path().join(format!("stall-{n}"));
        let mut running = shop.run(&drill(&shop), &out, lease);
        running.reached(what, at).await;
        let stalled = Stalled::stop(&pid);
        tokio::time::sleep(time).await;
        drop(stalled);
        let ended = running.end().await;
        let kinds: Vec<String> = records(&out).iter().map(|r| kind(r).to_owned()).filter(|k| k != "run").collect();
        assert!(ended.code.is_some_and(|c| right.contains(&c)), "{what}: {:?}: {}\n{kinds:?}", ended.code, ended.said);
        assert_eq!(report(&out)["verdict"]["clean"], json!(true), "{what}");
        assert_eq!(shop.left().await, Vec::<String>::new(), "{what}: {}\n{kinds:?}", ended.said);
        shop.as_it_was().await;
        // What was under way may arrive late; it must have been refused.
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(shop.left().await, Vec::<String>::new(), "{what}, a second later");
    }
    shop.end().await;
}

/// It never comes back while the runner waits: then the runner says what to do, and that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_stays_away_is_said_and_the_revert_works_later() {
    let test = "an_api_server_that_stays_away_is_said_and_the_revert_works_later";
    if !full() {
        return say(&format!("{test}: NOT RUN, it takes minutes: FIREDRILL_TEST_FULL=1"));
    }
    let _alone = ANSWERS.write().await;
    let Some(shop) = bare_shop(test, Duration::from_millis(50)).await else { return };
    let Some(pid) = Stalled::find(&shop) else { return say(&format!("{test}: NOT RUN, no testbed")) };
    let out = shop.world.dir.path().join("away");
    let mut running = shop.run(&drill(&shop), &out, LEASE);
    running.reached("the second intent", second_intent).await;
    let stalled = Stalled::stop(&pid);
    let ended = running.end_within(Duration::from_secs(900)).await;
    drop(stalled);
    let drill = drill_in(&out).unwrap();
    assert_eq!(ended.code, Some(5), "{}", ended.said);
    assert!(ended.said.contains(&format!("firedrill revert {drill}")), "{}", ended.said);
    let taken = shop.take_over("revert", &drill, &shop.world.dir.path().join("later"), LEASE).end().await;
    assert_eq!(taken.code, Some(4), "{}", taken.said);
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}
