use serde_json::json;

use super::*;
use crate::sandbox::{Sandbox, SandboxOptions, Weather};

const NAMES: [&str; 6] = ["ns-a", "ns-b", "ns-c", "ns-d", "node-a", "node-b"];

async fn place(seed: u64) -> Sandbox {
    let sandbox = Sandbox::new(SandboxOptions { seed, wall_us: 1_767_225_600_000_000 });
    let namespace: k8s_openapi::api::core::v1::Namespace = serde_json::from_value(json!({"metadata": {"name": "firedrill"}})).unwrap();
    Api::all(sandbox.client("admin")).create(&PostParams::default(), &namespace).await.unwrap();
    sandbox
}

fn fence(sandbox: &Sandbox, user: &str) -> Fence {
    let clock = Clock::virtual_at("runner", sandbox.now_us());
    Fence::new(sandbox.client(user), "firedrill", "d", "one", Dur::from_secs(15), clock)
}

fn names() -> Vec<String> {
    NAMES.iter().map(|name| (*name).to_owned()).collect()
}

/// How often the Leases were asked for by somebody.
fn asked(sandbox: &Sandbox, user: &str) -> usize {
    sandbox.audit().iter().filter(|entry| entry.user == user && entry.resource == "leases").count()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_in_passing_costs_no_lease() {
    let mut troubled = 0;
    for seed in 0..10 {
        let sandbox = place(seed).await;
        sandbox.set_weather(Weather { refused: 40, lost: 40, users: vec!["admin:runner".to_owned()], ..Weather::default() });
        let fence = fence(&sandbox, "admin:runner");
        fence.take(&names()).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(fence.held.lock().await.len(), NAMES.len());
        fence.check().unwrap();
        // Without any trouble each is made and renewed, once.
        troubled += usize::from(asked(&sandbox, "admin:runner") > 2 * NAMES.len());
        sandbox.stop().await;
    }
    assert!(troubled >= 4, "the weather was fair in {} of 10", 10 - troubled);
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_asked_for_once() {
    let sandbox = place(1).await;
    let error = fence(&sandbox, "eve").take(&names()).await.unwrap_err();
    assert!(matches!(error, LeaseError::Api { passing: false, .. }), "{error:?}");
    let written = sandbox.audit().iter().filter(|entry| entry.user == "eve" && entry.verb == "create").count();
    assert_eq!(written, 1, "{error}");
    sandbox.stop().await;
}
