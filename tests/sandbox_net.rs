//! The sandbox's network and programs, by the smallest one: `echo`.

#[path = "sandbox_controllers/world.rs"]
mod world;

use std::time::Duration;

use firedrill::{
    net::Whose,
    sandbox::{NodeState, Signal},
};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use world::World;

fn echo(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "echo"}, "annotations": {"sandbox.firedrill.dev/model": "echo"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 5, "containers": [{"name": "main", "image": "echo:1"}]},
    })
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

async fn shop(names: &[&str]) -> World {
    let world = World::new(3).await;
    world
        .create::<Service>(
            json!({"metadata": {"name": "echo"}, "spec": {"selector": {"app": "echo"}, "ports": [{"port": 7777, "targetPort": 7}]}}),
        )
        .await;
    for (n, name) in names.iter().enumerate() {
        world.create::<Pod>(echo(name, &format!("n{n}"))).await;
        world.until("it is ready", 60, name, ready).await;
    }
    behind(&world, names.len()).await;
    world
}

/// Waits until so many ready endpoints are behind the Service.
async fn behind(world: &World, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let slices = world.list::<EndpointSlice>("kubernetes.io/service-name=echo").await;
        let all = slices.iter().flat_map(|slice| &slice.endpoints);
        let ready = all.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count();
        if ready == count {
            return;
        }
        assert!(Instant::now() < deadline, "{ready} endpoints instead of {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn say(stream: &mut firedrill::net::Stream, line: &str) -> Option<String> {
    stream.write_all(format!("{line}\n").as_bytes()).await.ok()?;
    let mut buffer = vec![0; line.len() + 1];
    timeout(Duration::from_secs(1), stream.read_exact(&mut buffer)).await.ok()?.ok()?;
    Some(String::from_utf8(buffer).unwrap().trim_end().to_owned())
}

#[tokio::test(start_paused = true)]
async fn names_and_services_lead_to_ready_pods_and_to_nothing_else() {
    let world = shop(&["a", "b"]).await;
    let dialer = world.sandbox.dialer(Some("shop"));
    for name in ["echo", "echo.shop", "echo.shop.svc", "echo.shop.svc.cluster.local"] {
        let mut stream = dialer.connect(name, 7777).await.unwrap();
        assert_eq!(say(&mut stream, "hello").await.as_deref(), Some("hello"), "{name}");
    }
    let other = world.sandbox.dialer(Some("default"));
    assert!(other.connect("echo.shop", 7777).await.is_ok());
    for (dialer, name) in [(&other, "echo"), (&dialer, "nobody.shop")] {
        let error = dialer.connect(name, 7777).await.err().unwrap();
        assert!(error.detail.contains("no such name") && error.whose == Whose::Peer, "{name}: {error}");
    }
    let error = world.sandbox.dialer(None).connect("echo.shop.svc.cluster.local", 7777).await.err().unwrap();
    assert!(error.detail.contains("not rehearsable") && error.whose == Whose::Own, "neither good nor bad: {error}");
    let error = dialer.connect("echo", 1).await.err().unwrap();
    assert!(error.detail.contains("refused"), "no such port: {error}");
    // The last ready pod goes: refused, as kube-proxy has it.
    for name in ["a", "b"] {
        world.delete::<Pod>(name, kube::api::DeleteParams::default()).await;
    }
    behind(&world, 0).await;
    let error = dialer.connect("echo", 7777).await.err().unwrap();
    assert!(error.detail.contains("refused"), "{error}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_program_accepts_nothing_and_goes_on_where_it_was() {
    let world = shop(&["a"]).await;
    let dialer = world.sandbox.dialer(Some("shop"));
    let mut before = dialer.connect("echo", 7777).await.unwrap();
    assert!(say(&mut before, "one").await.is_some());
    world.sandbox.signal("shop", "a", "main", Signal::Stop).unwrap();
    assert_eq!(say(&mut before, "two").await, None);
    let mut during = dialer.connect("echo", 7777).await.expect("the kernel takes connections for it");
    assert_eq!(say(&mut during, "three").await, None);
    world.sandbox.signal("shop", "a", "main", Signal::Continue).unwrap();
    let mut late = vec![0; 6];
    timeout(Duration::from_secs(1), during.read_exact(&mut late)).await.unwrap().unwrap();
    assert_eq!(late, b"three\n");
    // Killed: its connections end, and the kubelet starts it again.
    world.sandbox.signal("shop", "a", "main", Signal::Kill).unwrap();
    assert_eq!(timeout(Duration::from_secs(1), during.read(&mut late)).await.unwrap().unwrap_or(0), 0);
    world
        .until("it is there again", 30, "a", |pod: &Pod| {
            ready(pod) && pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count == 1
        })
        .await;
    behind(&world, 1).await;
    let mut after = dialer.connect("echo", 7777).await.unwrap();
    assert!(say(&mut after, "four").await.is_some());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_to_a_lost_node_until_it_is_back() {
    let world = shop(&["a"]).await;
    let dialer = world.sandbox.dialer(Some("shop"));
    let mut stream = dialer.connect("echo", 7777).await.unwrap();
    assert!(say(&mut stream, "one").await.is_some());
    for lost in [NodeState::CutOff, NodeState::Frozen] {
        assert!(world.sandbox.set_node("n0", lost));
        assert_eq!(say(&mut stream, "two").await, None, "{lost:?}");
        assert!(timeout(Duration::from_secs(5), dialer.connect("echo", 7777)).await.is_err(), "{lost:?}: no answer at all");
        assert!(world.sandbox.set_node("n0", NodeState::Up));
        let mut late = vec![0; 4];
        timeout(Duration::from_secs(1), stream.read_exact(&mut late)).await.unwrap().unwrap();
        assert_eq!(late, b"two\n", "{lost:?}: what was on its way arrives");
    }
    let start = Instant::now();
    let error = dialer.connect("10.244.0.250", 7).await.err().unwrap();
    assert!(error.detail.contains("10.244.0.250") && start.elapsed() >= Duration::from_secs(3), "{error}");
    world.stop().await;
}
