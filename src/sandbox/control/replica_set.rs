//! ReplicaSets (`pkg/controller/replicaset`): so many pods, and which of them go first.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{self, active, available_at, controller_of, deleting, items, number, owner_reference, pod_from, ready, set_count},
};
use crate::sandbox::{
    core::{State, meta, text},
    refusal::Answer,
    store::{Key, Stored},
};

const BY: By<'_> = controller!("replicaset-controller");
/// How many pods are made or deleted in one go (`BurstReplicas`).
const BURST: usize = 500;

/// Makes it true.
pub(super) fn reconcile(state: &mut State, key: &Key, now: i64) -> Again {
    let Some(set) = state.peek("apps", "replicasets", &key.0, &key.1).cloned() else { return Ok(None) };
    let pods = state.claim(BY, ("", "pods"), ("apps/v1", "ReplicaSet"), &set.value)?;
    let pods: Vec<Arc<Stored>> = pods.into_iter().filter(|pod| active(&pod.value)).collect();
    let wanted = usize::try_from(number(&set.value, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
    let done = if deleting(&set.value) { Ok(()) } else { manage(state, &set, &pods, wanted) };
    let failure = done.as_ref().err().map(|refusal| refusal.status()["message"].as_str().unwrap_or_default().to_owned());
    let again = write_status(state, &set, wanted, failure, now)?;
    done.map(|()| again)
}

fn manage(state: &mut State, set: &Stored, pods: &[Arc<Stored>], wanted: usize) -> Answer<()> {
    let namespace = text(&set.value, "/metadata/namespace");
    let name = text(&set.value, "/metadata/name");
    let about = ("apps/v1", "ReplicaSet", &set.value);
    for _ in pods.len()..wanted.min(pods.len() + BURST) {
        let template = set.value.pointer("/spec/template").unwrap_or(&Value::Null);
        let mut pod = pod_from(template, owner_reference("apps/v1", "ReplicaSet", &set.value));
        meta(&mut pod).insert("generateName".to_owned(), Value::from(format!("{name}-")));
        match state.make(BY, At::pod(namespace, ""), pod) {
            Ok(made) => {
                let message = format!("Created pod: {}", text(&made.value, "/metadata/name"));
                state.tell(BY, about, "Normal", "SuccessfulCreate", &message);
            }
            Err(refusal) => {
                let message = format!("Error creating: {}", refusal.status()["message"].as_str().unwrap_or_default());
                state.tell(BY, about, "Warning", "FailedCreate", &message);
                return Err(refusal);
            }
        }
    }
    if pods.len() > wanted {
        for pod in first_to_go(state, set, pods).into_iter().take((pods.len() - wanted).min(BURST)) {
            let pod = text(&pod.value, "/metadata/name");
            state.remove(BY, At::pod(namespace, pod), &json!({}))?;
            state.tell(BY, about, "Normal", "SuccessfulDelete", &format!("Deleted pod: {pod}"));
        }
    }
    Ok(())
}

/// In the order in which pods are given up (`controller.ActivePodsWithRanks`): without a node, not running, not ready,
/// cheaper to delete, on a node with more of them, ready for a shorter time, restarted more often, younger.
fn first_to_go(state: &State, set: &Stored, pods: &[Arc<Stored>]) -> Vec<Arc<Stored>> {
    let namespace = text(&set.value, "/metadata/namespace");
    // Pods of all sets of one Deployment count for a node's rank.
    let deployment = controller_of(&set.value).map(|(.., uid)| uid.to_owned());
    let mut ranks: BTreeMap<String, i64> = BTreeMap::new();
    let mut related = vec![text(&set.value, "/metadata/uid").to_owned()];
    if let Some(deployment) = deployment {
        let siblings = state.controlled("apps/replicasets", namespace, &deployment);
        related = siblings.iter().map(|s| text(&s.value, "/metadata/uid").to_owned()).collect();
    }
    for uid in related {
        for pod in state.controlled("/pods", namespace, &uid).iter().filter(|pod| active(&pod.value)) {
            *ranks.entry(text(&pod.value, "/spec/nodeName").to_owned()).or_default() += 1;
        }
    }
    let rank = |pod: &Stored| {
        let pod = &pod.value;
        let node = text(pod, "/spec/nodeName");
        let phase = match text(pod, "/status/phase") {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost: i64 = look::annotation(pod, "controller.kubernetes.io/pod-deletion-cost").parse().unwrap_or(0);
        let since = available_at(pod, 0).unwrap_or(0);
        let restarts = items(pod, "/status/containerStatuses").iter().filter_map(|c| number(c, "/restartCount")).max().unwrap_or(0);
        let born = look::time(pod, "/metadata/creationTimestamp").unwrap_or(0);
        let crowd = -ranks.get(node).copied().unwrap_or(0);
        (!node.is_empty(), phase, ready(pod), cost, crowd, -since, -restarts, -born, text(pod, "/metadata/uid").to_owned())
    };
    let mut sorted = pods.to_vec();
    sorted.sort_by_cached_key(|pod| rank(pod));
    sorted
}

/// `calculateStatus`. The time at which the next ready pod becomes available.
fn write_status(state: &mut State, set: &Stored, wanted: usize, failure: Option<String>, now: i64) -> Again {
    let namespace = text(&set.value, "/metadata/namespace");
    let pods = state.controlled("/pods", namespace, text(&set.value, "/metadata/uid"));
    let pods: Vec<&Value> = pods.iter().map(|pod| &pod.value).filter(|pod| active(pod)).collect();
    let min_ready = number(&set.value, "/spec/minReadySeconds").unwrap_or(0);
    let labels = look::strings_at(&set.value, "/spec/template/metadata/labels");
    let fully = pods.iter().filter(|pod| labels.iter().all(|(key, value)| look::label(pod, key) == value)).count();
    let (mut ready_pods, mut available, mut next) = (0, 0, None);
    for at in pods.iter().filter_map(|pod| available_at(pod, min_ready)) {
        ready_pods += 1;
        if at <= now {
            available += 1;
        } else {
            next = Some(next.map_or(at, |next: i64| next.min(at)));
        }
    }
    let mut status = json!({"replicas": pods.len()});
    set_count(&mut status, "fullyLabeledReplicas", fully);
    set_count(&mut status, "readyReplicas", ready_pods);
    set_count(&mut status, "availableReplicas", available);
    status["observedGeneration"] = set.value["metadata"]["generation"].clone();
    if let Some(conditions) = set.value.pointer("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    match failure {
        Some(message) => {
            let reason = if pods.len() < wanted { "FailedCreate" } else { "FailedDelete" };
            look::set_condition(&mut status, "ReplicaFailure", "True", reason, &message, &state.now());
        }
        None => look::drop_condition(&mut status, "ReplicaFailure"),
    }
    if items(&status, "/conditions").is_empty() {
        crate::sandbox::core::as_map(&mut status).shift_remove("conditions");
    }
    let name = text(&set.value, "/metadata/name");
    let Some(set) = state.peek("apps", "replicasets", namespace, name).cloned() else { return Ok(next) };
    state.change_status(BY, At::new("apps", "replicasets", namespace, name), &set, status)?;
    Ok(next)
}
