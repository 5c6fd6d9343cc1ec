//! What befalls a runner that lives: signals, another drill on the same namespace, a sleep longer than its Lease.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::kit::{LEASE, Shop, drill_in, is, kind, records, report, scenario, shop};

/// A drill that lasts until it is disturbed.
fn long(shop: &Shop, hold: &str) -> PathBuf {
    let spec = json!({
        "steps": [
            {"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}},
            {"name": "cut", "inject": {"cutBackupJob": {"target": "backup", "how": "suspend"}}},
            {"hold": hold},
            {"name": "kill", "inject": {"podKill": {"target": "one-api"}}},
        ],
        "objectives": [{"check": {"probe": "job", "state": "good"}}],
    });
    scenario(shop, "long", spec)
}

fn position(records: &[Value], is: impl Fn(&Value) -> bool) -> Option<usize> {
    records.iter().position(is)
}

/// The hold of the third step has begun.
fn held(record: &Value) -> bool {
    record["event"]["stepStarted"]["step"] == json!("3")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_at_any_point_ends_in_a_clean_abort() {
    let Some((shop, _answers)) = shop("a_signal_at_any_point_ends_in_a_clean_abort").await else { return };
    let reverting: fn(&Value) -> bool = |r| kind(r) == "revertIntent";
    let injected: fn(&Value) -> bool = |r| kind(r) == "injected";
    let leased: fn(&Value) -> bool = |r| kind(r) == "leasesTaken";
    type Case = (&'static str, fn(&Value) -> bool, &'static str, &'static [&'static str]);
    let cases: [Case; 7] = [
        ("before it is armed", leased, "60s", &["INT"]),
        ("just injected", injected, "60s", &["INT"]),
        ("in a hold", held, "60s", &["TERM"]),
        ("in a hold, twice", held, "60s", &["INT", "INT"]),
        ("in a hold, its terminal closed", held, "60s", &["HUP"]),
        ("in a hold, both", held, "60s", &["TERM", "INT"]),
        ("reverting", reverting, "100ms", &["INT"]),
    ];
    for (n, (point, at, hold, signals)) in cases.into_iter().enumerate() {
        let out = shop.world.dir.path().join(format!("signal-{n}"));
        let mut running = shop.run(&long(&shop, hold), &out, LEASE);
        running.reached(point, at).await;
        for signal in signals {
            running.signal(signal);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ended = running.end().await;
        assert_eq!(ended.code, Some(4), "{point}: {}", ended.said);
        assert_eq!(shop.left().await, Vec::<String>::new(), "{point}");
        let records = records(&out);
        let abort = position(&records, is("abortRequested")).unwrap_or_else(|| panic!("{point}: no abort in the journal"));
        assert_eq!(records[abort]["event"]["abortRequested"]["by"], json!(format!("SIG{}", signals[0])), "{point}");
        assert!(!records[abort..].iter().any(|r| kind(r) == "stepStarted"), "{point}: a step began after the abort");
        assert_eq!(records.last().unwrap()["event"]["ended"]["clean"], json!(true), "{point}");
        assert_eq!(report(&out)["verdict"]["drill"], json!("aborted"), "{point}");
        shop.as_it_was().await;
    }
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_whose_terminal_is_gone_reverts_all_the_same() {
    let Some((shop, _answers)) = shop("a_runner_whose_terminal_is_gone_reverts_all_the_same").await else { return };
    let out = shop.world.dir.path().join("gone");
    let mut running = shop.run_asking(&long(&shop, "60s"), &out, LEASE);
    running.reached("the hold", held).await;
    running.hang_up();
    running.signal("HUP");
    tokio::time::sleep(Duration::from_millis(100)).await;
    // A shell sends it twice: for the job and for the terminal. This one also makes it say something.
    running.signal("HUP");
    let ended = running.end().await;
    assert_eq!(ended.code, Some(4), "by signal {:?}", ended.signal);
    assert_eq!(shop.left().await, Vec::<String>::new());
    assert_eq!(report(&out)["verdict"]["drill"], json!("aborted"));
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_drill_on_the_same_namespace_is_refused() {
    let Some((shop, _answers)) = shop("a_second_drill_on_the_same_namespace_is_refused").await else { return };
    let (first_out, second_out) = (shop.world.dir.path().join("first"), shop.world.dir.path().join("second"));
    // It has changed nothing yet that the second one's plan could see.
    let spec = json!({
        "steps": [{"hold": "60s"}, {"name": "shrink", "inject": {"scale": {"target": "web", "replicas": 1}}}],
        "objectives": [{"check": {"probe": "job", "state": "good"}}],
    });
    let drill = scenario(&shop, "two", spec);
    let mut first = shop.run(&drill, &first_out, LEASE);
    first.reached("the first in its hold", is("stepStarted")).await;
    let second = shop.run(&drill, &second_out, LEASE).end().await;
    assert_eq!(second.code, Some(4), "{}", second.said);
    let said = format!("in use by drill {}", drill_in(&first_out).unwrap());
    assert!(second.said.contains(&said), "no `{said}` in {}", second.said);
    assert!(!records(&second_out).iter().any(|r| matches!(kind(r), "intent" | "stepStarted" | "leasesTaken")));
    if let Some(name) = drill_in(&second_out) {
        assert!(!shop.has_record(&name).await, "the refused drill left its record behind");
    }
    assert!(!first.records().iter().any(|r| matches!(kind(r), "holdBroken" | "abortRequested")), "the first was disturbed");
    first.signal("TERM");
    assert_eq!(first.end().await.code, Some(4));
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_slept_past_its_lease_only_aborts() {
    let Some((shop, _answers)) = shop("a_runner_that_slept_past_its_lease_only_aborts").await else { return };
    let out = shop.world.dir.path().join("slept");
    let mut running = shop.run(&long(&shop, "5s"), &out, LEASE);
    running.reached("the hold", held).await;
    running.signal("STOP");
    tokio::time::sleep(LEASE * 3).await;
    let asleep = running.records().len();
    running.signal("CONT");
    let ended = running.end().await;
    assert_eq!(ended.code, Some(4), "{}", ended.said);
    let records = records(&out);
    let after = &records[asleep..];
    assert!(position(after, is("abortRequested")).is_some(), "no abort: {after:#?}");
    assert!(!after.iter().any(|r| matches!(kind(r), "intent" | "injected")), "it went on injecting");
    assert_eq!(shop.left().await, Vec::<String>::new());
    shop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_was_taken_over_from_while_it_slept_changes_nothing() {
    let Some((shop, _answers)) = shop("a_runner_that_was_taken_over_from_while_it_slept_changes_nothing").await else { return };
    for (n, (hold, at)) in [("60s", "the hold"), ("100ms", "the revert")].into_iter().enumerate() {
        let out = shop.world.dir.path().join(format!("slept-{n}"));
        let mut running = shop.run(&long(&shop, hold), &out, LEASE);
        running.reached(at, if n == 0 { held } else { |r: &Value| kind(r) == "revertIntent" }).await;
        running.signal("STOP");
        let drill = drill_in(&out).unwrap();
        let elsewhere = shop.world.dir.path().join(format!("elsewhere-{n}"));
        let taken = shop.take_over("revert", &drill, &elsewhere, LEASE).end().await;
        // Where the steps had ended the verdict is of what is known: not enough, since measurements are not in the record.
        let right: &[i32] = if n == 0 { &[4] } else { &[3, 4] };
        assert!(taken.code.is_some_and(|code| right.contains(&code)), "{at}: {:?}: {}", taken.code, taken.said);
        assert_eq!(shop.left().await, Vec::<String>::new(), "{at}");
        shop.as_it_was().await;
        let (before, asleep) = (shop.versions().await, running.records().len());
        running.signal("CONT");
        let ended = running.end().await;
        // It cannot know what the other one did: aborted, and perhaps not clean as far as it saw; never a pass.
        assert!(matches!(ended.code, Some(4 | 5)), "{at}: {:?}: {}", ended.code, ended.said);
        assert_eq!(shop.versions().await, before, "{at}: it changed something: {}", ended.said);
        let records = records(&out);
        let after = &records[asleep..];
        assert!(!after.iter().any(|r| matches!(kind(r), "intent" | "injected" | "reverted")), "{at}: {after:#?}");
    }
    shop.end().await;
}
