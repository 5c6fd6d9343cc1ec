//! The runner dies by SIGKILL at every record of its journal, each once just written and, at length, once just durable too; then
//! another one, from a folder where nothing is known but the kubeconfig, leaves the cluster clean and never invents a pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures::future::join_all;
use serde_json::json;

use crate::kit::{ANSWERS, LEASE, Shop, bare_shop, binary, drill_in, full, kind, records, report, say, scenario, steady, told};

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

/// At which record a runner dies, and who takes its drill over.
#[derive(Debug, Clone)]
struct Point {
    /// Its kind.
    kind: String,
    /// Which of that kind, from 0.
    nth: usize,
    moment: &'static str,
    how: &'static str,
    same_folder: bool,
}

/// Every record of a drill, by its kind and which of that kind it is: what one drill writes in between (a remark about a wait) another
/// need not.
fn points(all: &[String]) -> Vec<(String, usize)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    all.iter()
        .map(|kind| {
            let nth = seen.entry(kind).or_default();
            *nth += 1;
            (kind.clone(), *nth - 1)
        })
        .collect()
}

/// Runs a drill, whose runner dies at a record, takes it over, and looks. Whether there was such a record.
async fn kill_and_take_over(shop: &Shop, point: &Point) -> Result<bool, String> {
    let Point { kind: last, nth, moment, how, same_folder } = point;
    let (how, same_folder) = (*how, *same_folder);
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("first");
    let ended = shop.run_doomed(&drill(shop), &out, LEASE, &format!("{last}:{nth}:{moment}")).end().await;
    let seen = records(&out);
    let seen = steady(&seen);
    let of_kind = seen.iter().filter(|record| kind(record) == last).count();
    if ended.signal != Some(9) {
        return if of_kind <= *nth { Ok(false) } else { Err(format!("it did not die at {last} {nth}: {}", ended.said)) };
    }
    // Nothing was written after it.
    if of_kind != nth + 1 || kind(seen[seen.len() - 1]) != last {
        return Err(format!("it was to die at {last} {nth}: {}", told(&out)));
    }
    let here = format!("killed at {last} {nth}, {moment}");
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
    Ok(true)
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

/// Does something at each of these points, in several shops at once; gives the points at which no runner died.
async fn at_all(test: &str, points: Vec<Point>, shops: Vec<Shop>) -> Vec<String> {
    let queue = Mutex::new(points.into_iter().rev().collect::<Vec<_>>());
    let missed: Mutex<Vec<String>> = Mutex::default();
    let failed: Mutex<Vec<String>> = Mutex::default();
    let next = || queue.lock().unwrap().pop();
    join_all(shops.into_iter().map(|shop| {
        let (next, missed, failed) = (&next, &missed, &failed);
        async move {
            while let Some(point) = next() {
                match kill_and_take_over(&shop, &point).await {
                    Ok(true) => {}
                    Ok(false) => missed.lock().unwrap().push(format!("{} {} {}", point.kind, point.nth, point.moment)),
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
    missed.into_inner().unwrap()
}

/// Only a remark may be in one drill and not in another.
fn only_remarks(missed: &[String]) -> bool {
    missed.iter().all(|point| point.starts_with("note ") || point.starts_with("deviation "))
}

/// Six shops, and the drill as it is when nobody dies. None where there is no API server, or a runner that cannot be made to die.
async fn shops(test: &str) -> Option<(Vec<Shop>, Vec<String>)> {
    if !cfg!(debug_assertions) || binary() != std::path::Path::new(env!("CARGO_BIN_EXE_firedrill")) {
        say(&format!("{test}: skipped: only the runner of a debug build dies at a record"));
        return None;
    }
    let mut shops = vec![bare_shop(test, std::time::Duration::from_millis(50)).await?];
    for _ in 1..SIDE_BY_SIDE {
        shops.push(bare_shop(test, std::time::Duration::from_millis(50)).await?);
    }
    let all = undisturbed(&shops[0]).await;
    Some((shops, all))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_record_then_reverted_from_elsewhere() {
    let _answers = ANSWERS.read().await;
    let Some((shops, all)) = shops("killed_at_every_record_then_reverted_from_elsewhere").await else { return };
    let moments: &[&str] = if full() { &["written", "recorded"] } else { &["written"] };
    let point = |(kind, nth): (String, usize), moment| Point { kind, nth, moment, how: "revert", same_folder: false };
    let wanted: Vec<Point> = points(&all).into_iter().flat_map(|at| moments.iter().map(move |moment| point(at.clone(), moment))).collect();
    let kinds: BTreeSet<&str> = all.iter().map(String::as_str).collect();
    for needed in ["started", "leasesTaken", "intent", "injected", "effective", "revertIntent", "reverted", "gone", "stepStarted", "ended"]
    {
        assert!(kinds.contains(needed), "the drill has no {needed}");
    }
    let count = wanted.len();
    let missed = at_all("revert", wanted, shops).await;
    let (records, moments, kinds) = (all.len(), moments.join(" and "), kinds.len());
    say(&format!("died at {} of {count} points ({records} records of {kinds} kinds, {moments}); not at: {missed:?}", count - missed.len()));
    assert!(only_remarks(&missed), "{missed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_then_resumed_ends_clean_and_never_passes() {
    let _answers = ANSWERS.read().await;
    let Some((shops, all)) = shops("killed_then_resumed_ends_clean_and_never_passes").await else { return };
    let every = if full() { 1 } else { 5 };
    // In the same folder, as after a crash; and elsewhere, by the record in the cluster alone.
    let folders = |n: usize| if full() { vec![true, false] } else { vec![n.is_multiple_of(2)] };
    let wanted: Vec<Point> = points(&all)
        .into_iter()
        .enumerate()
        .step_by(every)
        .flat_map(|(n, (kind, nth))| {
            let moment = ["written", "recorded"][n % 2];
            folders(n).into_iter().map(move |same_folder| Point { kind: kind.clone(), nth, moment, how: "resume", same_folder })
        })
        .collect();
    let count = wanted.len();
    let missed = at_all("resume", wanted, shops).await;
    say(&format!("resumed after dying at {} of {count} points; not at: {missed:?}", count - missed.len()));
    assert!(only_remarks(&missed), "{missed:?}");
}
