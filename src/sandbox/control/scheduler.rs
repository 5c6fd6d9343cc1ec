//! The scheduler (`pkg/scheduler`): a node for each pod that has none. What keeps a pod off a node is in `fit.rs`.
//!
//! Of the real one's scores only spreading is left: pods of one owner go to different zones and nodes, then to the
//! emptiest node; of equals the seed chooses. There is no preemption.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By},
    fit::{self, Sight},
    look::{self, annotate, annotation, controller_of, deleting, items, label, mix, number, selects},
};
use crate::sandbox::{
    core::{State, text},
    refusal::Answer,
    store::Key,
};

const BY: By<'_> = By { user: "system:kube-scheduler", agent: "kube-scheduler" };
const ZONE: &str = "topology.kubernetes.io/zone";
/// Where a claim's volume is to be made (`volume.kubernetes.io/selected-node`).
pub(super) const SELECTED: &str = "volume.kubernetes.io/selected-node";

/// Of one pod, or of the empty key: all that have no node are looked at again.
pub(super) fn reconcile(state: &mut State, seed: u64, key: &Key, _now: i64) -> Again {
    let pending: Vec<Key> = if key.1.is_empty() {
        let mut pending: Vec<(i64, String, Key)> = state
            .store
            .list("/pods", "")
            .filter(|(_, pod)| text(&pod.value, "/spec/nodeName").is_empty())
            .map(|(key, pod)| {
                let priority = number(&pod.value, "/spec/priority").unwrap_or(0);
                (-priority, text(&pod.value, "/metadata/creationTimestamp").to_owned(), key.clone())
            })
            .collect();
        pending.sort();
        pending.into_iter().map(|(.., key)| key).collect()
    } else {
        vec![key.clone()]
    };
    let mut sight: Option<Sight> = None;
    for key in pending {
        if one(state, seed, &key, &mut sight)? {
            sight = None;
        }
    }
    Ok(None)
}

/// True: it got a node, or one was chosen for it.
fn one(state: &mut State, seed: u64, key: &Key, sight: &mut Option<Sight>) -> Answer<bool> {
    let Some(stored) = state.peek("", "pods", &key.0, &key.1).cloned() else { return Ok(false) };
    let pod = &stored.value;
    let mine = matches!(text(pod, "/spec/schedulerName"), "" | "default-scheduler");
    if !mine || deleting(pod) || !text(pod, "/spec/nodeName").is_empty() || look::ended(pod) {
        return Ok(false);
    }
    if !items(pod, "/spec/schedulingGates").is_empty() {
        return cannot(state, key, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates").map(|()| false);
    }
    let claims = match claims(state, pod) {
        Ok(claims) => claims,
        Err(why) => {
            let nodes = state.store.list("/nodes", "").count();
            let message = format!(
                "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling."
            );
            return cannot(state, key, "Unschedulable", &message).map(|()| false);
        }
    };
    let own;
    let sight = if fit::assumed(state, pod).is_some() {
        own = Sight::without(state, text(pod, "/metadata/uid"));
        &own
    } else {
        sight.get_or_insert_with(|| Sight::of(state))
    };
    let mut why: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(Vec<i64>, u64, String)> = None;
    // A claim that waits for its volume has chosen its node.
    let chosen = claims.iter().find_map(|(_, chosen)| chosen.clone());
    for node in &sight.nodes {
        let name = text(&node.value, "/metadata/name");
        if let Some(reason) = fit::refuses(state, sight, pod, &node.value) {
            *why.entry(reason).or_default() += 1;
            continue;
        }
        if chosen.as_ref().is_some_and(|chosen| chosen != name) {
            continue;
        }
        let luck = mix(&[&seed.to_string(), text(pod, "/metadata/uid"), name]);
        let rank = (score(sight, pod, &node.value), luck, name.to_owned());
        if best.as_ref().is_none_or(|best| rank < *best) {
            best = Some(rank);
        }
    }
    let Some((.., node)) = best else {
        let total = sight.nodes.len();
        let mut reasons: Vec<String> = why.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        let message = if total == 0 {
            "no nodes available to schedule pods".to_owned()
        } else {
            format!(
                "0/{total} nodes are available: {}. preemption: 0/{total} nodes are available: {total} Preemption is not helpful for \
                 scheduling.",
                reasons.join(", ")
            )
        };
        return cannot(state, key, "Unschedulable", &message).map(|()| false);
    };
    if !claims.is_empty() {
        // Their volumes are made on that node first; the pod is looked at again when they are.
        for (claim, _) in claims.iter().filter(|(_, chosen)| chosen.is_none()) {
            let Some(stored) = state.peek("", "persistentvolumeclaims", &key.0, claim).cloned() else { continue };
            let mut value = stored.value.clone();
            annotate(&mut value, SELECTED, &node);
            state.change(BY, At::new("", "persistentvolumeclaims", &key.0, claim), "", value)?;
        }
        return Ok(true);
    }
    state.bind_to(BY, &key.0, &key.1, &node)?;
    let message = format!("Successfully assigned {}/{} to {node}", key.0, key.1);
    state.tell(BY, ("v1", "Pod", pod), "Normal", "Scheduled", &message);
    Ok(true)
}

/// The pod's claims that have no volume yet but may get one where the pod goes, each with the node chosen for it.
///
/// # Errors
/// Why the pod has to wait.
fn claims(state: &State, pod: &Value) -> Result<Vec<(String, Option<String>)>, String> {
    let namespace = text(pod, "/metadata/namespace");
    let mut waiting = Vec::new();
    for name in fit::claims(pod) {
        let Some(claim) = state.peek("", "persistentvolumeclaims", namespace, &name) else {
            return Err(format!("persistentvolumeclaim \"{name}\" not found"));
        };
        if deleting(&claim.value) {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if !text(&claim.value, "/spec/volumeName").is_empty() && text(&claim.value, "/status/phase") == "Bound" {
            continue;
        }
        let class = text(&claim.value, "/spec/storageClassName");
        let class = state.peek("storage.k8s.io", "storageclasses", "", class);
        // One that names its volume is bound without the scheduler.
        let named = !text(&claim.value, "/spec/volumeName").is_empty();
        if named || class.is_none_or(|class| text(&class.value, "/volumeBindingMode") != "WaitForFirstConsumer") {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let chosen = annotation(&claim.value, SELECTED);
        waiting.push((name, (!chosen.is_empty()).then(|| chosen.to_owned())));
    }
    Ok(waiting)
}

/// The less the better: what is preferred, then how many siblings are in the zone and on the node, then how many pods.
fn score(sight: &Sight, pod: &Value, node: &Value) -> Vec<i64> {
    let mut preferred = 0;
    for term in items(pod, "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution") {
        let wanted = json!({"nodeSelectorTerms": [term["preference"]]});
        if fit::terms(&wanted, node) {
            preferred -= number(term, "/weight").unwrap_or(0);
        }
    }
    for (which, sign) in [("podAffinity", -1), ("podAntiAffinity", 1)] {
        for term in items(pod, &format!("/spec/affinity/{which}/preferredDuringSchedulingIgnoredDuringExecution")) {
            let key = text(term, "/podAffinityTerm/topologyKey");
            let selector = look::selector(term, "/podAffinityTerm/labelSelector");
            let namespace = text(pod, "/metadata/namespace");
            let near = sight.nodes.iter().filter(|n| !label(node, key).is_empty() && label(&n.value, key) == label(node, key));
            let count = near
                .flat_map(|n| sight.on(&n.value))
                .filter(|p| text(&p.value, "/metadata/namespace") == namespace && selector.as_ref().is_some_and(|s| selects(s, &p.value)))
                .count();
            preferred += sign * number(term, "/weight").unwrap_or(0) * i64::try_from(count).unwrap_or(0);
        }
    }
    let mine = controller_of(pod).map(|(.., uid)| uid);
    let sibling = |other: &Value| mine.is_some() && controller_of(other).map(|(.., uid)| uid) == mine;
    let count = |node: &Value| sight.on(node).iter().filter(|p| sibling(&p.value)).count();
    let zone = label(node, ZONE);
    let in_zone: usize = sight.nodes.iter().filter(|n| label(&n.value, ZONE) == zone).map(|n| count(&n.value)).sum();
    let as_i64 = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    vec![preferred, as_i64(in_zone), as_i64(count(node)), as_i64(sight.on(node).len())]
}

/// Says on the pod that it has no node, and why.
fn cannot(state: &mut State, key: &Key, reason: &str, message: &str) -> Answer<()> {
    let Some(pod) = state.peek("", "pods", &key.0, &key.1).cloned() else { return Ok(()) };
    let said = look::condition(&pod.value, "PodScheduled");
    if said.is_some_and(|c| text(c, "/reason") == reason && text(c, "/message") == message) {
        return Ok(());
    }
    let mut status = pod.value.get("status").cloned().unwrap_or_default();
    let now = state.now();
    look::set_condition(&mut status, "PodScheduled", "False", reason, message, &now);
    state.change_status(BY, At::pod(&key.0, &key.1), &pod, status)?;
    if reason == "Unschedulable" {
        state.tell(BY, ("v1", "Pod", &pod.value), "Warning", "FailedScheduling", message);
    }
    Ok(())
}
