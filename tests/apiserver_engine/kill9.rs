//! The runner is killed with SIGKILL at every record of its journal; then another one, from a folder where nothing is known
//! but the kubeconfig, leaves the cluster clean and never invents a pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures::future::join_all;
use serde_json::json;

use crate::kit::{ANSWERS, LEASE, Shop, bare_shop, drill_in, full, kind, records, report, say, scenario, steady, told};

/// How many drills run side by side, each in a shop of its own.
const SIDE_BY_SIDE: usize = 6;

/// A drill with every API fault that lasts and one that does not, whose objective is *missed*: no runner, resumed or not, may
/// call it passed.
fn drill(shop: &Shop) -> std::path::PathBuf {
    let spec = json!({
        "steps": [
            {"note": "it begins"},
            {"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}},
            {"hold": "300ms"},
            {"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}},
            {"manual": {"do": "look at it", "within": "10s"}},
            {"name": "kill", "inject": {"podKill": {"target": "one-api"}}},
            {"revert": "shrink"},
            {"hold": "100ms"},
            {"note": "it ends"},
        ],
        "objectives": [
            {"recoveryTime": {"probe": "web", "after": "shrink", "within": "10ms"}},
            {"check": {"probe": "job", "state": "good"}},
        ],
    });
    scenario(shop, "kill9", spec)
}

/// Where a runner was killed and what became of it.
struct Killed {
    /// The number of its last whole record, not counting what probes saw.
    last: usize,
    /// That record's kind.
    kind: String,
}

/// Runs a drill, kills its runner at a record, takes it over, and looks.
async fn kill_and_take_over(shop: &Shop, at: usize, how: &str, same_folder: bool) -> Result<Option<Killed>, String> {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("first");
    let ended = shop.run(&drill(shop), &out, LEASE).kill_at(at + 1).await;
    if ended.signal != Some(9) {
        return Ok(None);
    }
    let seen = records(&out);
    let seen = steady(&seen);
    let killed = Killed { last: seen.len().saturating_sub(1), kind: seen.last().map(|last| kind(last).to_owned()).unwrap_or_default() };
    let here = format!("killed at record {at}, last was {} ({})", killed.last, killed.kind);
    let name = drill_in(&out).ok_or("no evidence folder")?;
    if shop.has_record(&name).await {
        let elsewhere = if same_folder { out.clone() } else { scratch.path().join("second") };
        let taken = shop.take_over(how, &name, &elsewhere, LEASE).end().await;
        let verdict = report(&elsewhere)["verdict"].clone();
        // 4: aborted. Where the steps had ended, and where a drill is resumed, it is as it is: missed, or not known.
        let over = seen.iter().any(|record| kind(record) == "stepsEnded");
        let right: &[i32] = if how == "revert" && !over { &[4] } else { &[1, 3, 4] };
        if !taken.code.is_some_and(|code| right.contains(&code)) {
            return Err(format!("{here}: {how} ended with {:?}: {}\n{verdict:#}", taken.code, taken.said));
        }
        if verdict["clean"] != json!(true) || verdict["drill"] == json!("passed") {
            return Err(format!("{here}: {how} came to {verdict:#}"));
        }
        if !same_folder && how == "revert" && records(&elsewhere).iter().any(|r| matches!(kind(r), "run" | "reading")) {
            return Err(format!("{here}: the record in the cluster alone has measurements"));
        }
    } else {
        // Before the record was there nothing may have been changed, and after it was deleted nothing may be left.
        let taken = shop.take_over(how, &name, &scratch.path().join("second"), LEASE).end().await;
        if taken.code != Some(4) || !taken.said.contains("there is no drill") {
            return Err(format!("{here}: {how} of a drill without a record ended with {:?}: {}", taken.code, taken.said));
        }
    }
    let left = shop.left().await;
    if !left.is_empty() {
        return Err(format!("{here}, then {how}: left behind: {}", left.join("; ")));
    }
    shop.as_it_was().await;
    Ok(Some(killed))
}

/// The kinds of the records of a drill that nobody disturbs, in order, without what probes saw.
async fn undisturbed(shop: &Shop) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let ended = shop.run(&drill(shop), &out, LEASE * 3).end().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    say(&format!("undisturbed: {}", told(&out)));
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.as_it_was().await;
    steady(&records(&out)).into_iter().map(|record| kind(record).to_owned()).collect()
}

/// Does something at each of these records, in several shops at once; returns the records at which runners were really killed.
async fn at_all(test: &str, points: Vec<(usize, &'static str, bool)>, shops: Vec<Shop>) -> BTreeMap<usize, String> {
    let queue = Mutex::new(points.into_iter().rev().collect::<Vec<_>>());
    let hit: Mutex<BTreeMap<usize, String>> = Mutex::default();
    let failed: Mutex<Vec<String>> = Mutex::default();
    let next = || queue.lock().unwrap().pop();
    join_all(shops.into_iter().map(|shop| {
        let (next, hit, failed) = (&next, &hit, &failed);
        async move {
            while let Some((at, how, same)) = next() {
                match kill_and_take_over(&shop, at, how, same).await {
                    Ok(Some(killed)) => drop(hit.lock().unwrap().insert(killed.last, killed.kind)),
                    Ok(None) => {}
                    Err(why) => {
                        failed.lock().unwrap().push(why);
                        // What is left in this shop would disturb all that follow.
                        break;
                    }
                }
            }
            shop.end().await;
        }
    }))
    .await;
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{test}: {} of the points:\n{}", failed.len(), failed.join("\n"));
    assert!(queue.into_inner().unwrap().is_empty(), "{test}: points were left out");
    let hit = hit.into_inner().unwrap();
    say(&format!("{test}: last records: {}", hit.iter().map(|(n, kind)| format!("{n}:{kind} ")).collect::<String>()));
    hit
}

async fn shops(test: &str) -> Option<Vec<Shop>> {
    let mut shops = vec![bare_shop(test, std::time::Duration::from_millis(50)).await?];
    for _ in 1..SIDE_BY_SIDE {
        shops.push(bare_shop(test, std::time::Duration::from_millis(50)).await?);
    }
    Some(shops)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_record_then_reverted_from_elsewhere() {
    let _answers = ANSWERS.read().await;
    let Some(shops) = shops("killed_at_every_record_then_reverted_from_elsewhere").await else { return };
    let all = undisturbed(&shops[0]).await;
    let points = (0..all.len()).map(|at| (at, "revert", false)).collect();
    let hit = at_all("revert", points, shops).await;
    let kinds: BTreeSet<&str> = all.iter().map(String::as_str).collect();
    let hit_kinds: BTreeSet<&str> = hit.values().map(String::as_str).collect();
    say(&format!(
        "killed with {} different last records of {}; kinds of last record: {}",
        hit.len(),
        all.len(),
        hit_kinds.iter().copied().collect::<Vec<_>>().join(" ")
    ));
    // Records that follow one another without a wait between cannot be told apart from outside; these can.
    for needed in ["started", "leasesTaken", "intent", "injected", "effective", "revertIntent", "reverted", "gone", "stepStarted"] {
        assert!(kinds.contains(needed), "the drill has no {needed}");
    }
    assert!(hit_kinds.contains("intent") && hit_kinds.contains("injected"), "never killed between intent and proof: {hit_kinds:?}");
    assert!(hit.len() * 2 >= all.len(), "too few different points were hit: {hit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_then_resumed_ends_clean_and_never_passes() {
    let _answers = ANSWERS.read().await;
    let Some(shops) = shops("killed_then_resumed_ends_clean_and_never_passes").await else { return };
    let all = undisturbed(&shops[0]).await.len();
    let every = if full() { 1 } else { 5 };
    // In the same folder, as after a crash; and elsewhere, by the record in the cluster alone.
    let points = (0..all).step_by(every).flat_map(|at| if full() { vec![(at, true), (at, false)] } else { vec![(at, at % 2 == 0)] });
    let hit = at_all("resume", points.map(|(at, same)| (at, "resume", same)).collect(), shops).await;
    say(&format!("resumed after being killed with {} different last records of {all}", hit.len()));
}
