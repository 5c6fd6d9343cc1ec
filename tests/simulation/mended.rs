//! What simulation has found in the engine, each by itself.

use std::time::Duration;

use firedrill::{
    clock::{Clock, ClockId, Stamp},
    cluster::Leave,
    drill::Fence,
    fault::{self, FaultCx, Undo},
    journal::{Event, JournalError, RecordStore, Tail, find_record},
    plan::Plan,
    sandbox::Weather,
    scenario::types::{Dur, FaultSpec},
};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    history::{OWN, done},
    world::{WALL_US, World},
};

const RUNNER_0: &str = "runner-0";

fn lossy(world: &World) {
    world.sandbox.set_weather(Weather { lost: 1000, users: vec![RUNNER_0.to_owned()], ..Weather::default() });
}

async fn leases(world: &World) -> usize {
    world.api::<Lease>(OWN).list(&ListParams::default()).await.unwrap().items.len()
}

fn fence(world: &World) -> Fence {
    let clock = Clock::virtual_at("machine-0", WALL_US);
    Fence::new(world.sandbox.client(RUNNER_0), OWN, "d", "one", Dur::from_secs(8), clock)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_though_the_answers_were_lost() {
    let world = World::new(7).await.unwrap();
    // Taken, and nobody told us.
    let one = fence(&world);
    lossy(&world);
    assert!(one.take(&["ns-shop".to_owned()]).await.is_err());
    assert_eq!(leases(&world).await, 0, "what was made by a request without an answer is left");
    // Renewed, and nobody told us.
    world.sandbox.set_weather(Weather::default());
    let two = fence(&world);
    two.take(&["ns-shop".to_owned()]).await.unwrap();
    lossy(&world);
    assert!(two.renew().await.is_err());
    assert_eq!(leases(&world).await, 1);
    world.sandbox.set_weather(Weather::default());
    two.give_back().await.unwrap();
    assert_eq!(leases(&world).await, 0, "a renewal without an answer made it another Lease");
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_was_refused_is_none() {
    let world = World::new(7).await.unwrap();
    let fence = fence(&world);
    fence.take(&["ns-shop".to_owned()]).await.unwrap();
    let api = world.api::<Lease>(OWN);
    let renewed = async || api.get("ns-shop").await.unwrap().spec.and_then(|s| s.renew_time);
    let first = renewed().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Somebody touches it: the renewal is against a version that is no more.
    let touch = json!({"metadata": {"annotations": {"touched": "yes"}}});
    api.patch("ns-shop", &PatchParams::default(), &Patch::Merge(&touch)).await.unwrap();
    fence.renew().await.unwrap();
    assert_ne!(renewed().await, first, "it goes on as if it were renewed, and whoever watches the Lease sees that it is not");
    world.sandbox.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_changed_once_the_leases_have_run_out_while_it_was_read() {
    let slow = Weather { slow: 1000, slowest: Duration::from_secs(9), users: vec![RUNNER_0.to_owned()], ..Weather::default() };
    let mut late = 0;
    for seed in 0..8 {
        let world = World::new(seed).await.unwrap();
        let fence = fence(&world);
        fence.take(&["ns-shop".to_owned()]).await.unwrap();
        let asked = fence.clone();
        let leave = Leave::new(move || asked.check().map_err(|error| error.to_string()));
        let clock = Clock::virtual_at("machine-0", WALL_US);
        let cx = FaultCx { leave, ..FaultCx::new(world.cluster(RUNNER_0), clock, Plan::empty("d").into(), "d") };
        let web = world.api::<Deployment>("shop").get("web").await.unwrap();
        let (namespace, kind, name, uid) = ("shop".to_owned(), "Deployment".to_owned(), "web".to_owned(), web.uid().unwrap_or_default());
        let undo = Undo::Scale { namespace, kind, name, uid, before: 3, set: 1, ready: 3 };
        // Most of its Lease's life is over; the read then takes up to 9 s.
        tokio::time::sleep(Duration::from_millis(6_300)).await;
        fence.check().unwrap();
        world.sandbox.set_weather(slow.clone());
        let injected = fault::inject(&cx, &FaultSpec::default(), &undo).await;
        let patched = world.sandbox.audit().iter().any(|e| done(e) && e.user == RUNNER_0 && e.resource == "deployments");
        if injected.is_err() {
            assert!(!patched && fence.check().is_err(), "{injected:?}");
            late += 1;
        }
        world.sandbox.stop().await;
    }
    assert!(late >= 6, "the Lease had run out when the answer came, and yet something was changed: {late} of 8 refused");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_another_runner_has_written_to_is_not_deleted() {
    let world = World::new(7).await.unwrap();
    let mut store = RecordStore::new(world.sandbox.client(RUNNER_0), OWN, "d", "");
    let at = Stamp { clock: ClockId("machine-0".into()), mono_us: 0, wall_us: WALL_US };
    let note = |text: &str| {
        serde_json::to_string(&json!({"seq": 0, "prev": "", "at": at, "event": Event::Note { text: text.to_owned() }})).unwrap()
    };
    store.push(note("the plan"));
    store.push(note("mine"));
    store.flush(&Tail::default()).await.unwrap();
    let patch = json!({"data": {"events.jsonl": format!("{}\n{}\n", note("mine"), note("theirs"))}});
    let maps = world.api::<ConfigMap>(OWN);
    let before = maps.get("firedrill-d").await.unwrap();
    maps.patch("firedrill-d", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert!(matches!(store.delete().await, Err(JournalError::Fenced { .. })));
    assert!(find_record(&world.admin, OWN, "d").await.is_err() || maps.get_opt("firedrill-d").await.unwrap().is_some());
    // As it was, it goes.
    let back = json!({"data": before.data});
    maps.patch("firedrill-d", &PatchParams::default(), &Patch::Merge(&back)).await.unwrap();
    store.delete().await.unwrap();
    assert!(maps.get_opt("firedrill-d").await.unwrap().is_none());
    world.sandbox.stop().await;
}
