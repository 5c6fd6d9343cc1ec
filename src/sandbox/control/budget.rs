//! Disruption budgets (`pkg/controller/disruption`): how many pods may go now.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{self, SECOND, active, controller_of, deleting, number, scaled, selects},
};
use crate::sandbox::{
    core::{State, text},
    store::{Key, Stored},
};

const BY: By<'_> = controller!("disruption-controller");
/// How long an eviction that was allowed counts until the pod is seen to go (`DeletionTimeout`).
const FORGET_US: i64 = 120 * SECOND;

/// Of one budget.
pub(super) fn reconcile(state: &mut State, key: &Key, now: i64) -> Again {
    let Some(budget) = state.peek("policy", "poddisruptionbudgets", &key.0, &key.1).cloned() else { return Ok(None) };
    let selector = look::selector(&budget.value, "/spec/selector");
    let hit = |pod: &Value| selector.as_ref().is_some_and(|s| selects(s, pod)) && !look::ended(pod);
    let pods: Vec<Arc<Stored>> =
        state.store.list("/pods", &key.0).filter(|(_, pod)| hit(&pod.value)).map(|(_, pod)| Arc::clone(pod)).collect();
    let (expected, desired) = expected(state, &budget.value, &pods);
    let mut disrupted: BTreeMap<String, i64> = BTreeMap::new();
    let mut again: Option<i64> = None;
    for (name, at) in look::strings_at(&budget.value, "/status/disruptedPods") {
        let at = at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_microsecond);
        let there = pods.iter().any(|pod| text(&pod.value, "/metadata/name") == name && !deleting(&pod.value));
        if there && at + FORGET_US > now {
            disrupted.insert(name, at);
            again = Some(again.map_or(at + FORGET_US, |a| a.min(at + FORGET_US)));
        }
    }
    let healthy =
        |pod: &&Arc<Stored>| active(&pod.value) && look::ready(&pod.value) && !disrupted.contains_key(text(&pod.value, "/metadata/name"));
    let healthy = i64::try_from(pods.iter().filter(healthy).count()).unwrap_or(0);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let mut status = json!({});
    if let Some(conditions) = budget.value.pointer("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    let (is, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let stamp = state.now();
    look::set_condition(&mut status, "DisruptionAllowed", is, reason, "", &stamp);
    let generation = budget.value["metadata"]["generation"].clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["message"] = Value::from("");
        condition["observedGeneration"] = generation.clone();
    }
    status["observedGeneration"] = generation;
    if !disrupted.is_empty() {
        status["disruptedPods"] = disrupted.into_iter().map(|(name, at)| (name, Value::from(crate::sandbox::core::seconds(at)))).collect();
    }
    for (field, n) in
        [("disruptionsAllowed", allowed), ("currentHealthy", healthy), ("desiredHealthy", desired), ("expectedPods", expected)]
    {
        status[field] = Value::from(n);
    }
    state.change_status(BY, At::new("policy", "poddisruptionbudgets", &key.0, &key.1), &budget, status)?;
    Ok(again)
}

/// How many pods there should be, and how many of them have to be healthy.
fn expected(state: &State, budget: &Value, pods: &[Arc<Stored>]) -> (i64, i64) {
    let count = i64::try_from(pods.len()).unwrap_or(0);
    if let Some(most) = budget.pointer("/spec/maxUnavailable") {
        let expected = scale(state, pods);
        return (expected, (expected - scaled(Some(most), expected, true)).max(0));
    }
    match budget.pointer("/spec/minAvailable") {
        Some(Value::Number(least)) => (count, least.as_i64().unwrap_or(0)),
        Some(percent) => {
            let expected = scale(state, pods);
            (expected, scaled(Some(percent), expected, true))
        }
        None => (count, 1),
    }
}

/// What the pods' controllers want (`getExpectedScale`).
fn scale(state: &State, pods: &[Arc<Stored>]) -> i64 {
    let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
    for pod in pods {
        let namespace = text(&pod.value, "/metadata/namespace");
        let Some((kind, name, uid)) = controller_of(&pod.value) else { continue };
        let plural = match kind {
            "ReplicaSet" => "replicasets",
            "StatefulSet" => "statefulsets",
            _ => continue,
        };
        let Some(set) = state.peek("apps", plural, namespace, name).filter(|set| text(&set.value, "/metadata/uid") == uid) else {
            continue;
        };
        let above = controller_of(&set.value).filter(|(kind, ..)| *kind == "Deployment");
        let above = above.and_then(|(_, name, _)| state.peek("apps", "deployments", namespace, name));
        let owner = above.unwrap_or(set);
        let uid = text(&owner.value, "/metadata/uid").to_owned();
        wanted.insert(uid, number(&owner.value, "/spec/replicas").unwrap_or(0));
    }
    wanted.values().sum()
}
