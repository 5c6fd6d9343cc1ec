//! Pods that have to leave their node: because of its taints (`pkg/controller/tainteviction`), or because it is gone
//! (`pkg/controller/podgc`).

use serde_json::{Value, json};

use super::{
    Again, Control,
    api::{At, By, controller},
    fit::tolerates,
    look::{self, SECOND, deleting, items, number, time},
};
use crate::sandbox::{
    core::{State, text},
    store::{Key, Stored},
};

const BY: By<'_> = controller!("taint-eviction-controller");
const GC: By<'_> = controller!("pod-garbage-collector");
/// How long a node may be missing before its pods are given up (`quarantineTime`).
const QUARANTINE_US: i64 = 40 * SECOND;
/// How often the pod collector looks (`gcCheckPeriod`).
const GC_US: i64 = 20 * SECOND;

/// Of one pod.
pub(super) fn reconcile(state: &mut State, control: &mut Control, key: &Key, now: i64) -> Again {
    let Some(pod) = state.peek("", "pods", &key.0, &key.1).cloned() else { return Ok(None) };
    let name = text(&pod.value, "/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let Some(node) = state.peek("", "nodes", "", name).cloned() else { return orphan(state, control, key, &pod, now) };
    control.missing.remove(name);
    if deleting(&pod.value) {
        return Ok(None);
    }
    let Some(at) = leaves_at(&pod.value, &node.value, now) else { return Ok(None) };
    if at > now {
        return Ok(Some(at));
    }
    mark(state, BY, key, &pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")?;
    state.tell(BY, ("v1", "Pod", &pod.value), "Normal", "TaintManagerEviction", &format!("Marking for deletion Pod {}/{}", key.0, key.1));
    state.remove(BY, At::pod(&key.0, &key.1), &json!({}))?;
    Ok(None)
}

/// When the taints drive the pod away. None: it may stay.
fn leaves_at(pod: &Value, node: &Value, now: i64) -> Option<i64> {
    let mut earliest: Option<i64> = None;
    for taint in items(node, "/spec/taints").iter().filter(|t| text(t, "/effect") == "NoExecute") {
        let since = time(taint, "/timeAdded").unwrap_or(now);
        let tolerations: Vec<&Value> = items(pod, "/spec/tolerations").iter().filter(|t| tolerates(t, taint)).collect();
        if tolerations.is_empty() {
            return Some(now);
        }
        // Of several that match the shortest counts; one without a time does not limit it.
        if let Some(secs) = tolerations.iter().filter_map(|t| number(t, "/tolerationSeconds")).min() {
            let at = since + secs.max(0) * SECOND;
            earliest = Some(earliest.map_or(at, |e| e.min(at)));
        }
    }
    earliest
}

fn mark(state: &mut State, by: By<'_>, key: &Key, pod: &Stored, reason: &str, message: &str) -> crate::sandbox::refusal::Answer<()> {
    let mut status = pod.value.get("status").cloned().unwrap_or_default();
    let now = state.now();
    look::set_condition(&mut status, "DisruptionTarget", "True", reason, message, &now);
    if by.user == GC.user && !look::ended(&pod.value) {
        status["phase"] = Value::from("Failed");
    }
    state.change_status(by, At::pod(&key.0, &key.1), pod, status)
}

/// Its node does not exist: nobody will ever tell how it ended.
fn orphan(state: &mut State, control: &mut Control, key: &Key, pod: &Stored, now: i64) -> Again {
    // A node is seen to be missing at the moment at which it is deleted, or else when the pod is made.
    let gone = control.missing.entry(text(&pod.value, "/spec/nodeName").to_owned()).or_insert(now);
    // The collector looks every 20 s.
    let at = (*gone + QUARANTINE_US + GC_US - 1).div_euclid(GC_US) * GC_US;
    if at > now {
        return Ok(Some(at));
    }
    mark(state, GC, key, pod, "DeletionByPodGC", "PodGC: node no longer exists")?;
    state.remove(GC, At::pod(&key.0, &key.1), &json!({"gracePeriodSeconds": 0}))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_toleration_counts() {
        let taint = json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
        let node = json!({"spec": {"taints": [taint]}});
        let since = time(&node, "/spec/taints/0/timeAdded").unwrap();
        let pod = |tolerations: Value| json!({"spec": {"tolerations": tolerations}});
        let key = "node.kubernetes.io/unreachable";
        assert_eq!(leaves_at(&pod(json!([])), &node, 7), Some(7));
        assert_eq!(leaves_at(&pod(json!([{"operator": "Exists"}])), &node, 7), None);
        let both = json!([{"key": key, "operator": "Exists"}, {"key": key, "operator": "Exists", "tolerationSeconds": 300}]);
        assert_eq!(leaves_at(&pod(both), &node, 7), Some(since + 300 * SECOND));
        assert_eq!(leaves_at(&pod(json!([])), &json!({}), 7), None);
    }
}
