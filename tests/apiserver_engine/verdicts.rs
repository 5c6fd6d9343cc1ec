//! Verdicts that may not depend on luck.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::kit::{ANSWERS, LEASE, Shop, bare_shop, full, kind, records, report, say, scenario, shop};

/// How often the same experiment is made.
const TIMES: usize = 20;
const SIDE_BY_SIDE: usize = 5;

/// Runs the same drill again and again, and counts exit code, verdict and outcomes.
async fn again_and_again(test: &'static str, times: usize, drill: fn(&Shop) -> PathBuf) -> Option<BTreeMap<String, usize>> {
    let left = RefCell::new((0..times).collect::<Vec<_>>());
    let seen: RefCell<BTreeMap<String, usize>> = RefCell::default();
    let mut shops = Vec::new();
    for _ in 0..SIDE_BY_SIDE {
        shops.push(bare_shop(test, Duration::from_millis(600)).await?);
    }
    let next = || left.borrow_mut().pop();
    join_all(shops.into_iter().map(|shop| {
        let (next, seen) = (&next, &seen);
        async move {
            while let Some(next) = next() {
                let out = shop.world.dir.path().join(format!("again-{next}"));
                let ended = shop.run(&drill(&shop), &out, LEASE * 3).end().await;
                assert_eq!(shop.left().await, Vec::<String>::new(), "{}", ended.said);
                shop.as_it_was().await;
                let verdict = report(&out)["verdict"].clone();
                let outcomes: Vec<&Value> = verdict["objectives"].as_array().unwrap().iter().map(|o| &o["outcome"]).collect();
                let came_to = format!("exit code {:?}, {}, {outcomes:?}", ended.code, verdict["drill"]);
                *seen.borrow_mut().entry(came_to).or_default() += 1;
            }
            shop.end().await;
        }
    }))
    .await;
    let seen = seen.into_inner();
    assert_eq!(seen.values().sum::<usize>(), times);
    say(&format!("{test}: {seen:?}"));
    Some(seen)
}

/// The drill is over before the thing has recovered; that it comes back by the drill's own revert is no recovery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_that_ends_before_recovery_is_never_a_pass() {
    let _answers = ANSWERS.read().await;
    let drill: fn(&Shop) -> PathBuf = |shop| {
        let spec = json!({
            "steps": [{"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}}],
            "objectives": [{"recoveryTime": {"probe": "web", "after": "shrink", "within": "60s"}}],
        });
        scenario(shop, "ends-early", spec)
    };
    let Some(seen) = again_and_again("a_drill_that_ends_before_recovery_is_never_a_pass", TIMES, drill).await else { return };
    assert_eq!(seen.len(), 1, "the same experiment had different verdicts: {seen:?}");
    let came_to = seen.keys().next().unwrap();
    assert!(came_to.starts_with("exit code Some(3)") || came_to.starts_with("exit code Some(1)"), "{came_to}");
    assert!(!came_to.contains("\"met\""), "{came_to}");
}

/// The steps are over as soon as it is good again; its objective asks for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_is_watched_for_as_long_as_its_objective_asks() {
    let Some((shop, _answers)) = shop("a_recovery_is_watched_for_as_long_as_its_objective_asks").await else { return };
    let spec = json!({
        "steps": [
            {"name": "kill", "inject": {"podKill": {"target": "one-api"}}},
            {"waitFor": {"probe": "api", "state": "good", "for": "100ms", "timeout": "60s"}},
        ],
        "objectives": [{"recoveryTime": {"probe": "api", "after": "kill", "within": "50s", "stableFor": "3s"}}],
    });
    let out = shop.world.dir.path().join("watched");
    let ended = shop.run(&scenario(&shop, "watched", spec), &out, LEASE * 3).end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let notes: Vec<String> = records(&out).iter().filter_map(|r| Some(r["event"]["note"]["text"].as_str()?.to_owned())).collect();
    assert_eq!(
        notes.iter().filter(|n| n.starts_with("watching on: `api` is good and must be seen to stay so for 3s")).count(),
        1,
        "{notes:?}"
    );
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_recovery_passes_every_time() {
    let _answers = ANSWERS.read().await;
    let drill: fn(&Shop) -> PathBuf = |shop| {
        let spec = json!({
            "steps": [
                {"name": "kill", "inject": {"podKill": {"target": "one-api"}}},
                {"waitFor": {"probe": "api", "state": "good", "for": "500ms", "timeout": "60s"}},
            ],
            "objectives": [
                {"recoveryTime": {"probe": "api", "after": "kill", "within": "50s", "stableFor": "300ms"}},
                {"check": {"probe": "web", "state": "good"}},
            ],
        });
        scenario(shop, "recovers", spec)
    };
    let times = if full() { TIMES } else { TIMES / 2 };
    let Some(seen) = again_and_again("the_same_recovery_passes_every_time", times, drill).await else { return };
    assert_eq!(seen.len(), 1, "the same experiment had different verdicts: {seen:?}");
    assert!(seen.keys().next().unwrap().starts_with("exit code Some(0), \"passed\""), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_selector_that_matches_nothing_never_passes() {
    let Some((shop, _answers)) = shop("a_selector_that_matches_nothing_never_passes").await else { return };
    let ns = shop.world.namespace.clone();
    // At the plan: refused.
    let spec = json!({
        "targets": {"none": {"namespace": ns, "pods": "app=nobody"}},
        "probes": {"always": {"object": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": ns, "name": "web", "cel": "object.metadata.name == \"web\""}}},
        "steadyState": {"good": ["always"], "for": "100ms", "timeout": "10s"},
        "steps": [{"name": "kill", "inject": {"podKill": {"target": "none"}}}],
        "objectives": [{"check": {"probe": "always", "state": "good"}}],
    });
    let out = shop.world.dir.path().join("none");
    let ended = shop.run(&scenario(&shop, "none", spec), &out, LEASE).end().await;
    assert_eq!(ended.code, Some(4), "{}", ended.said);
    assert!(ended.said.contains("matches nothing"), "{}", ended.said);
    assert!(records(&out).is_empty());
    // At the inject: there was something to hit when it was planned, and there is nothing any more.
    let spec = json!({
        "steps": [
            {"name": "empty", "inject": {"scale": {"target": "web", "replicas": 0}}},
            {"name": "kill", "inject": {"podKill": {"target": "all-web"}}, "onFailure": "continue"},
        ],
        "objectives": [{"check": {"probe": "api", "state": "good"}}],
    });
    let out = shop.world.dir.path().join("gone");
    let ended = shop.run(&scenario(&shop, "gone", spec), &out, LEASE).end().await;
    let verdict = report(&out)["verdict"].clone();
    assert_eq!(ended.code, Some(3), "{}\n{verdict:#}", ended.said);
    let failed = records(&out).into_iter().find(|r| kind(r) == "stepEnded" && r["event"]["stepEnded"]["step"] == json!("2"));
    let detail = failed.unwrap()["event"]["stepEnded"]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("matches nothing"), "{detail}");
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}
