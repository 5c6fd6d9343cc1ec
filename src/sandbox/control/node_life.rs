//! Node life cycle (`pkg/controller/nodelifecycle`): nodes whose kubelet is silent, their taints, and their pods.
//!
//! The real controller looks every five seconds (`--node-monitor-period`). Here it looks when a node's grace period may
//! be over, rounded up to that rhythm; a heartbeat by itself wakes nobody.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Again, Control,
    api::{At, By, controller},
    look::{self, SECOND, holds, items, label, time},
};
use crate::sandbox::{
    core::{State, as_map, map_at, text},
    refusal::Answer,
    store::{Key, Stored},
};

const BY: By<'_> = controller!("node-controller");
const MONITOR_US: i64 = 5 * SECOND;
/// One node every ten seconds a zone gets the taint that drives its pods away (`--node-eviction-rate=0.1`).
const TAINT_EVERY_US: i64 = 10 * SECOND;
/// From this share of silent nodes on, a zone is taken to be cut off rather than broken (`--unhealthy-zone-threshold`).
const UNHEALTHY_PERCENT: usize = 55;
/// Up to so many nodes a disturbed zone is left alone (`--large-cluster-size-threshold`).
const LARGE_CLUSTER: usize = 50;
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The last sign of life of a node's kubelet.
fn heard(state: &State, node: &Value) -> i64 {
    let lease = state.peek("coordination.k8s.io", "leases", "kube-node-lease", text(node, "/metadata/name"));
    let renewed = lease.and_then(|lease| time(&lease.value, "/spec/renewTime"));
    let posted = look::condition(node, "Ready").filter(|c| text(c, "/status") != "Unknown").and_then(|c| time(c, "/lastHeartbeatTime"));
    let born = time(node, "/metadata/creationTimestamp");
    [renewed, posted, born].into_iter().flatten().max().unwrap_or(0)
}

/// Of one node.
pub(super) fn reconcile(state: &mut State, control: &mut Control, key: &Key, now: i64) -> Again {
    let Some(node) = state.peek("", "nodes", "", &key.1).cloned() else { return Ok(None) };
    let grace = i64::try_from(control.options.node_grace.as_micros()).unwrap_or(i64::MAX / 4);
    let deadline = heard(state, &node.value).saturating_add(grace);
    let mut node = node;
    if now >= deadline {
        if text(look::condition(&node.value, "Ready").unwrap_or(&Value::Null), "/status") != "Unknown" {
            node = silence(state, &node)?;
        }
        pods_not_ready(state, &key.1)?;
    } else if !holds(&node.value, "Ready") {
        pods_not_ready(state, &key.1)?;
    }
    let again = taint(state, control, &node, now)?;
    let tick = |at: i64| at.div_euclid(MONITOR_US) * MONITOR_US + MONITOR_US;
    let look = if now >= deadline { None } else { Some(tick(deadline - 1)) };
    Ok([again, look].into_iter().flatten().min())
}

/// Nobody knows any more how it is.
fn silence(state: &mut State, node: &Stored) -> Answer<Arc<Stored>> {
    let now = state.now();
    let name = text(&node.value, "/metadata/name").to_owned();
    let mut status = node.value.get("status").cloned().unwrap_or_else(|| json!({}));
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        look::set_condition(&mut status, kind, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.", &now);
    }
    state.change_status(BY, At::new("", "nodes", "", &name), node, status)?;
    let message = format!("Node {name} status is now: NodeNotReady");
    state.tell(BY, ("v1", "Node", &node.value), "Normal", "NodeNotReady", &message);
    state.peek("", "nodes", "", &name).cloned().ok_or_else(crate::sandbox::refusal::Refusal::no_such_page)
}

/// Its pods are not ready, whatever their kubelet said last (`MarkPodsNotReady`).
fn pods_not_ready(state: &mut State, node: &str) -> Answer<()> {
    let ready = |pod: &Value| text(pod, "/spec/nodeName") == node && look::ready(pod);
    let pods: Vec<Arc<Stored>> =
        state.store.list("/pods", "").filter(|(_, pod)| ready(&pod.value)).map(|(_, pod)| Arc::clone(pod)).collect();
    for pod in pods {
        let now = state.now();
        let mut status = pod.value.get("status").cloned().unwrap_or_default();
        for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if text(condition, "/type") == "Ready" {
                let map = as_map(condition);
                map.insert("status".to_owned(), Value::from("False"));
                map.insert("lastTransitionTime".to_owned(), Value::from(now.as_str()));
            }
        }
        let at = At::pod(text(&pod.value, "/metadata/namespace"), text(&pod.value, "/metadata/name"));
        state.change_status(BY, at, &pod, status)?;
        state.tell(BY, ("v1", "Pod", &pod.value), "Warning", "NodeNotReady", "Node is not ready");
    }
    Ok(())
}

/// How a zone is: silent nodes and all.
fn zone_of(node: &Value) -> String {
    label(node, "topology.kubernetes.io/zone").to_owned()
}

/// Whether nodes of a zone get the taint that drives pods away (`ComputeZoneState`, `handleDisruption`).
fn may_evict(state: &State, zone: &str) -> bool {
    let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (_, node) in state.store.list("/nodes", "") {
        let (silent, all) = zones.entry(zone_of(&node.value)).or_default();
        *all += 1;
        *silent += usize::from(!holds(&node.value, "Ready"));
    }
    // When nothing answers anywhere, it is more likely the controller that is cut off.
    if zones.values().all(|(silent, all)| silent == all) {
        return false;
    }
    let (silent, all) = zones.get(zone).copied().unwrap_or((0, 1));
    let disturbed = silent > 2 && silent < all && silent * 100 >= all * UNHEALTHY_PERCENT;
    !disturbed || all > LARGE_CLUSTER
}

/// The taints that follow from its conditions. When to look again, if its turn has not come.
fn taint(state: &mut State, control: &mut Control, node: &Stored, now: i64) -> Answer<Option<i64>> {
    let value = &node.value;
    let is = |kind: &str| text(look::condition(value, kind).unwrap_or(&Value::Null), "/status").to_owned();
    let ready = is("Ready");
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, key) in [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ] {
        if is(kind) == "True" {
            wanted.push((key, "NoSchedule"));
        }
    }
    if look::flag(value, "/spec/unschedulable") {
        wanted.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    let mut again = None;
    let down = match ready.as_str() {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = down {
        wanted.push((key, "NoSchedule"));
        let has = |effect: &str| items(value, "/spec/taints").iter().any(|t| text(t, "/key") == key && text(t, "/effect") == effect);
        let zone = zone_of(value);
        if may_evict(state, &zone) {
            let next = control.zones.get(&zone).copied().unwrap_or(i64::MIN);
            if has("NoExecute") {
                wanted.push((key, "NoExecute"));
            } else if now >= next {
                wanted.push((key, "NoExecute"));
                control.zones.insert(zone, now + TAINT_EVERY_US);
            } else {
                again = Some(next);
            }
        } else {
            // Until the others are back.
            again = Some(now + MONITOR_US);
        }
    }
    const OURS: [&str; 6] = [
        UNREACHABLE,
        NOT_READY,
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/unschedulable",
    ];
    let mut taints: Vec<Value> = Vec::new();
    for taint in items(value, "/spec/taints") {
        let (key, effect) = (text(taint, "/key"), text(taint, "/effect"));
        if !OURS.contains(&key) || wanted.contains(&(key, effect)) {
            wanted.retain(|w| *w != (key, effect));
            taints.push(taint.clone());
        }
    }
    let stamp = state.now();
    taints.extend(wanted.into_iter().map(|(key, effect)| json!({"key": key, "effect": effect, "timeAdded": stamp})));
    if taints == items(value, "/spec/taints") {
        return Ok(again);
    }
    let mut changed = value.clone();
    let spec = map_at(as_map(&mut changed), "spec");
    if taints.is_empty() {
        spec.shift_remove("taints");
    } else {
        spec.insert("taints".to_owned(), Value::Array(taints));
    }
    state.change(BY, At::new("", "nodes", "", text(value, "/metadata/name")), "", changed)?;
    Ok(again)
}
