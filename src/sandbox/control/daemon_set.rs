//! DaemonSets (`pkg/controller/daemon`): one pod on each node that will have it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    fit,
    look::{self, SECOND, active, available_at, deleting, hash, items, number, owner_reference, pod_from, scaled, set_count, set_label},
};
use crate::sandbox::{
    core::{State, as_map, map_at, meta, text},
    refusal::Answer,
    store::{Key, Stored},
};

const BY: By<'_> = controller!("daemon-set-controller");
const HASH: &str = "controller-revision-hash";
/// What every pod of a DaemonSet tolerates (`AddOrUpdateDaemonPodTolerations`).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// How long it waits to replace a pod that failed: first, and at most (`failedPodsBackoff`).
const BACKOFF_SECS: (i64, i64) = (1, 900);

/// Makes it true.
pub(super) fn reconcile(state: &mut State, failed: &mut Failed, key: &Key, now: i64) -> Again {
    let Some(set) = state.peek("apps", "daemonsets", &key.0, &key.1).cloned() else { return Ok(None) };
    if deleting(&set.value) {
        return Ok(None);
    }
    state.claim(BY, ("", "pods"), ("apps/v1", "DaemonSet"), &set.value)?;
    let template = template(&set.value);
    let revision = label_of(&template);
    let mut again: Option<i64> = None;
    let mut done = Ok(());
    let nodes: Vec<Arc<Stored>> = state.store.list("/nodes", "").map(|(_, node)| Arc::clone(node)).collect();
    let mut have = pods(state, &set);
    let uid = text(&set.value, "/metadata/uid").to_owned();
    for node in &nodes {
        let name = text(&node.value, "/metadata/name");
        let (run, stay) = belongs(&template, &node.value);
        let here = have.remove(name).unwrap_or_default();
        for pod in here.iter().filter(|pod| look::ended(&pod.value) && !deleting(&pod.value)) {
            let at = replace_at(failed, &uid, name, &pod.value);
            if at <= now {
                replaced(failed, &uid, name, now);
                remove(state, key, &pod.value)?;
            } else {
                again = Some(again.map_or(at, |a| a.min(at)));
            }
        }
        let mut living: Vec<&Arc<Stored>> = here.iter().filter(|pod| active(&pod.value)).collect();
        living.sort_by_key(|pod| (text(&pod.value, "/metadata/creationTimestamp").to_owned(), pod.version));
        if run && here.is_empty() {
            done = make(state, &set, &template, name).and(done);
        }
        let keep = usize::from(stay);
        for surplus in living.iter().skip(keep) {
            remove(state, key, &surplus.value)?;
        }
    }
    // Pods of nodes that are gone are the pod collector's.
    roll(state, &set, &template, &revision, &nodes, now)?;
    let next = write_status(state, &set, &template, &revision, &nodes, now)?;
    done.map(|()| [again, next].into_iter().flatten().min())
}

fn remove(state: &mut State, key: &Key, pod: &Value) -> Answer<()> {
    state.remove(BY, At::pod(&key.0, text(pod, "/metadata/name")), &json!({}))
}

/// How often pods of a set (by uid) failed on a node, and when the last one did.
pub(super) type Failed = BTreeMap<(String, String), (u32, i64)>;

/// When a failed pod may be replaced. Forgotten after twice the longest wait without a failure.
fn replace_at(failed: &mut Failed, set: &str, node: &str, pod: &Value) -> i64 {
    let ended = items(pod, "/status/containerStatuses").iter().filter_map(|c| look::time(c, "/state/terminated/finishedAt")).max();
    let ended = ended.or_else(|| look::time(pod, "/metadata/creationTimestamp")).unwrap_or(0);
    let (count, last) = failed.entry((set.to_owned(), node.to_owned())).or_insert((0, ended));
    if ended - *last > 2 * BACKOFF_SECS.1 * SECOND {
        *count = 0;
    }
    ended + (BACKOFF_SECS.0 << (*count).min(10)).min(BACKOFF_SECS.1) * SECOND
}

/// Notes that a failed pod is being replaced.
fn replaced(failed: &mut Failed, set: &str, node: &str, now: i64) {
    failed.retain(|_, (_, last)| now - *last <= 2 * BACKOFF_SECS.1 * SECOND);
    let (count, last) = failed.entry((set.to_owned(), node.to_owned())).or_insert((0, now));
    *count = count.saturating_add(1);
    *last = now;
}

/// The pods by node: the one they run on or are meant for.
fn pods(state: &State, set: &Stored) -> BTreeMap<String, Vec<Arc<Stored>>> {
    let mut by_node: BTreeMap<String, Vec<Arc<Stored>>> = BTreeMap::new();
    for pod in state.controlled("/pods", text(&set.value, "/metadata/namespace"), text(&set.value, "/metadata/uid")) {
        by_node.entry(node_of(&pod.value).to_owned()).or_default().push(pod);
    }
    by_node
}

fn node_of(pod: &Value) -> &str {
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        return node;
    }
    let pointer = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    text(pod, pointer)
}

/// The template with what every pod of a DaemonSet gets.
fn template(set: &Value) -> Value {
    let mut template = set.pointer("/spec/template").cloned().unwrap_or_default();
    let revision = hash(&[&template.to_string()]);
    set_label(&mut template, HASH, &revision);
    let spec = map_at(as_map(&mut template), "spec");
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Value::Array(tolerations) = tolerations {
        tolerations.extend(TOLERATED.iter().map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect})));
    }
    template
}

fn label_of(template: &Value) -> String {
    look::label(template, HASH).to_owned()
}

/// Whether a pod is to be there, and whether one that is there may stay (`NodeShouldRunDaemonPod`).
fn belongs(template: &Value, node: &Value) -> (bool, bool) {
    if !fit::likes_node(template, node) {
        return (false, false);
    }
    let stay = fit::untolerated(template, node, &["NoExecute"]).is_none();
    (stay && fit::untolerated(template, node, &["NoSchedule"]).is_none(), stay)
}

fn make(state: &mut State, set: &Stored, template: &Value, node: &str) -> Answer<()> {
    let (namespace, name) = (text(&set.value, "/metadata/namespace"), text(&set.value, "/metadata/name"));
    let mut pod = pod_from(template, owner_reference("apps/v1", "DaemonSet", &set.value));
    meta(&mut pod).insert("generateName".to_owned(), Value::from(format!("{name}-")));
    let spec = look::part(&mut pod, "spec");
    let affinity = map_at(map_at(spec, "affinity"), "nodeAffinity");
    affinity.insert(
        "requiredDuringSchedulingIgnoredDuringExecution".to_owned(),
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}),
    );
    let about = ("apps/v1", "DaemonSet", &set.value);
    let made = state.make(BY, At::pod(namespace, ""), pod)?;
    let message = format!("Created pod: {}", text(&made.value, "/metadata/name"));
    state.tell(BY, about, "Normal", "SuccessfulCreate", &message);
    Ok(())
}

/// A rolling update: pods of an older template are deleted, so many at a time.
fn roll(state: &mut State, set: &Stored, template: &Value, revision: &str, nodes: &[Arc<Stored>], now: i64) -> Answer<()> {
    if text(&set.value, "/spec/updateStrategy/type") == "OnDelete" {
        return Ok(());
    }
    let min_ready = number(&set.value, "/spec/minReadySeconds").unwrap_or(0);
    let wanted = nodes.iter().filter(|node| belongs(template, &node.value).0).count();
    let limit = set.value.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable");
    let most = scaled(limit, i64::try_from(wanted).unwrap_or(0), true).max(1);
    let have = pods(state, set);
    let good = |pod: &Value| !deleting(pod) && available_at(pod, min_ready).is_some_and(|at| at <= now);
    let (mut unavailable, mut old_sick, mut old_good) = (0, Vec::new(), Vec::new());
    for node in nodes.iter().filter(|node| belongs(template, &node.value).0) {
        let here = have.get(text(&node.value, "/metadata/name")).map(Vec::as_slice).unwrap_or_default();
        if !here.iter().any(|pod| good(&pod.value)) {
            unavailable += 1;
        }
        for pod in here.iter().filter(|pod| !deleting(&pod.value) && look::label(&pod.value, HASH) != revision) {
            if good(&pod.value) { old_good.push(Arc::clone(pod)) } else { old_sick.push(Arc::clone(pod)) }
        }
    }
    let room = usize::try_from(most - unavailable).unwrap_or(0);
    let key = Key(text(&set.value, "/metadata/namespace").to_owned(), String::new());
    for pod in old_sick.iter().chain(old_good.iter().take(room)) {
        remove(state, &key, &pod.value)?;
    }
    Ok(())
}

fn write_status(state: &mut State, set: &Stored, template: &Value, revision: &str, nodes: &[Arc<Stored>], now: i64) -> Again {
    let min_ready = number(&set.value, "/spec/minReadySeconds").unwrap_or(0);
    let have = pods(state, set);
    let (mut desired, mut current, mut misplaced, mut ready_pods, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    let mut next: Option<i64> = None;
    for node in nodes {
        let here = have.get(text(&node.value, "/metadata/name")).map(Vec::as_slice).unwrap_or_default();
        let (run, _) = belongs(template, &node.value);
        if !run {
            misplaced += usize::from(!here.is_empty());
            continue;
        }
        desired += 1;
        let Some(pod) = here.iter().filter(|pod| !deleting(&pod.value)).min_by_key(|pod| pod.version) else { continue };
        current += 1;
        updated += usize::from(look::label(&pod.value, HASH) == revision);
        if let Some(at) = available_at(&pod.value, min_ready) {
            ready_pods += 1;
            if at <= now {
                available += 1;
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
    }
    let mut status = json!({
        "currentNumberScheduled": current, "desiredNumberScheduled": desired, "numberMisscheduled": misplaced, "numberReady": ready_pods,
        "observedGeneration": set.value["metadata"]["generation"],
    });
    set_count(&mut status, "updatedNumberScheduled", updated);
    set_count(&mut status, "numberAvailable", available);
    set_count(&mut status, "numberUnavailable", usize::saturating_sub(desired, available));
    let (namespace, name) = (text(&set.value, "/metadata/namespace"), text(&set.value, "/metadata/name"));
    let Some(stored) = state.peek("apps", "daemonsets", namespace, name).cloned() else { return Ok(next) };
    state.change_status(BY, At::new("apps", "daemonsets", namespace, name), &stored, status)?;
    Ok(next)
}
