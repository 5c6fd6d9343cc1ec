//! StatefulSets (`pkg/controller/statefulset`): pods with names that stay, one after the other, each with its claims.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{self, active, available_at, deleting, ended, hash, items, number, owner_reference, pod_from, ready, set_count, set_label},
};
use crate::sandbox::{
    core::{State, as_map, meta, text},
    refusal::{Answer, Refusal},
    store::{Key, Stored},
};

const BY: By<'_> = controller!("statefulset-controller");
const REVISION: &str = "controller-revision-hash";

struct Set {
    stored: Arc<Stored>,
    namespace: String,
    name: String,
    /// First ordinal, and how many.
    start: i64,
    replicas: i64,
    /// One after the other.
    ordered: bool,
    min_ready_secs: i64,
    current: String,
    update: String,
}

/// Makes it true.
pub(super) fn reconcile(state: &mut State, key: &Key, now: i64) -> Again {
    let Some(stored) = state.peek("apps", "statefulsets", &key.0, &key.1).cloned() else { return Ok(None) };
    if deleting(&stored.value) {
        return Ok(None);
    }
    state.claim(BY, ("", "pods"), ("apps/v1", "StatefulSet"), &stored.value)?;
    let update = revision(state, &stored)?;
    let current = match text(&stored.value, "/status/currentRevision") {
        "" => update.clone(),
        known => known.to_owned(),
    };
    let number = |pointer: &str, none: i64| look::number(&stored.value, pointer).unwrap_or(none);
    let set = Set {
        namespace: key.0.clone(),
        name: key.1.clone(),
        start: number("/spec/ordinals/start", 0),
        replicas: number("/spec/replicas", 1),
        ordered: text(&stored.value, "/spec/podManagementPolicy") != "Parallel",
        min_ready_secs: number("/spec/minReadySeconds", 0),
        current,
        update,
        stored: Arc::clone(&stored),
    };
    let done = step(state, &set, now);
    let again = write_status(state, &set, now)?;
    done.map(|()| again)
}

/// The pods by ordinal.
fn pods(state: &State, set: &Set) -> BTreeMap<i64, Arc<Stored>> {
    let uid = text(&set.stored.value, "/metadata/uid");
    let own = state.controlled("/pods", &set.namespace, uid);
    let ordinal = |pod: &Stored| text(&pod.value, "/metadata/name").strip_prefix(&format!("{}-", set.name))?.parse().ok();
    own.into_iter().filter_map(|pod| Some((ordinal(&pod)?, pod))).collect()
}

/// One pass (`updateStatefulSet`): it ends where a real one would wait for something.
fn step(state: &mut State, set: &Set, now: i64) -> Answer<()> {
    let range = set.start..set.start + set.replicas;
    let good = |pod: &Stored| available_at(&pod.value, set.min_ready_secs).is_some_and(|at| at <= now);
    for ordinal in range.clone() {
        let found = pods(state, set).remove(&ordinal);
        // One that waits, perhaps for a claim that was deleted, gets those of its claims that are not there.
        if let Some(pod) = found.as_ref().filter(|pod| text(&pod.value, "/status/phase") == "Pending") {
            let name = text(&pod.value, "/metadata/name");
            claims(state, set, name)?;
        }
        match &found {
            Some(pod) if deleting(&pod.value) => {
                if set.ordered {
                    return Ok(());
                }
            }
            // One that has ended is replaced; it has to be gone first.
            Some(pod) if ended(&pod.value) => {
                let name = text(&pod.value, "/metadata/name");
                state.remove(BY, At::pod(&set.namespace, name), &json!({}))?;
                let message = format!(
                    "StatefulSet {}/{} is recreating {} Pod {name}",
                    set.namespace,
                    set.name,
                    text(&pod.value, "/status/phase").to_lowercase()
                );
                state.tell(BY, ("apps/v1", "StatefulSet", &set.stored.value), "Warning", "RecreatingTerminatedPod", &message);
                if set.ordered {
                    return Ok(());
                }
            }
            Some(pod) => {
                if set.ordered && !(ready(&pod.value) && good(pod)) {
                    return Ok(());
                }
            }
            None => {
                make(state, set, ordinal)?;
                if set.ordered {
                    return Ok(());
                }
            }
        }
    }
    let have = pods(state, set);
    let healthy = |pod: &Stored| active(&pod.value) && ready(&pod.value);
    let condemned: Vec<&Arc<Stored>> = have.iter().rev().filter(|(n, _)| !range.contains(n)).map(|(_, pod)| pod).collect();
    let first_unhealthy = have.iter().find(|(_, pod)| !healthy(pod)).map(|(n, _)| *n);
    for pod in condemned {
        let name = text(&pod.value, "/metadata/name");
        if deleting(&pod.value) {
            if set.ordered {
                return Ok(());
            }
            continue;
        }
        // An unhealthy pod is given up only if no earlier one is unhealthy, too.
        let ordinal = have.iter().find(|(_, p)| Arc::ptr_eq(p, pod)).map(|(n, _)| *n);
        if set.ordered && !healthy(pod) && first_unhealthy != ordinal {
            return Ok(());
        }
        delete(state, set, name)?;
        if set.ordered {
            return Ok(());
        }
    }
    if text(&set.stored.value, "/spec/updateStrategy/type") == "OnDelete" {
        return Ok(());
    }
    let partition = number(&set.stored.value, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    for (_, pod) in have.iter().rev().filter(|(n, _)| range.contains(n) && **n >= set.start + partition) {
        if look::label(&pod.value, REVISION) != set.update && !deleting(&pod.value) {
            return delete(state, set, text(&pod.value, "/metadata/name"));
        }
        if !(healthy(pod) && good(pod)) {
            return Ok(());
        }
    }
    Ok(())
}

fn delete(state: &mut State, set: &Set, name: &str) -> Answer<()> {
    state.remove(BY, At::pod(&set.namespace, name), &json!({}))?;
    let message = format!("delete Pod {name} in StatefulSet {} successful", set.name);
    state.tell(BY, ("apps/v1", "StatefulSet", &set.stored.value), "Normal", "SuccessfulDelete", &message);
    Ok(())
}

/// Makes a pod, and before it its claims.
fn make(state: &mut State, set: &Set, ordinal: i64) -> Answer<()> {
    let value = &set.stored.value;
    let about = ("apps/v1", "StatefulSet", value);
    let partition = number(value, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    let old = ordinal < set.start + partition && set.current != set.update;
    let revision = if old { &set.current } else { &set.update };
    let stored = state.peek("apps", "controllerrevisions", &set.namespace, revision).filter(|_| old);
    let template = stored.and_then(|r| r.value.pointer("/data/spec/template").cloned());
    let template = template.unwrap_or_else(|| value.pointer("/spec/template").cloned().unwrap_or_default());
    let name = format!("{}-{ordinal}", set.name);
    let mut pod = pod_from(&template, owner_reference("apps/v1", "StatefulSet", value));
    meta(&mut pod).insert("name".to_owned(), Value::from(name.as_str()));
    set_label(&mut pod, REVISION, revision);
    set_label(&mut pod, "statefulset.kubernetes.io/pod-name", &name);
    set_label(&mut pod, "apps.kubernetes.io/pod-index", &ordinal.to_string());
    let spec = look::part(&mut pod, "spec");
    spec.insert("hostname".to_owned(), Value::from(name.as_str()));
    let service = text(value, "/spec/serviceName");
    if !service.is_empty() {
        spec.insert("subdomain".to_owned(), Value::from(service));
    }
    let volumes = match claims(state, set, &name) {
        Ok(volumes) => volumes,
        Err(refusal) => {
            let message = format!("create Pod {name} in StatefulSet {} failed error: {}", set.name, said(&refusal));
            state.tell(BY, about, "Warning", "FailedCreate", &message);
            return Err(refusal);
        }
    };
    if !volumes.is_empty() {
        let all = spec_volumes(&mut pod);
        all.retain(|volume| !volumes.iter().any(|v| v["name"] == volume["name"]));
        all.extend(volumes);
    }
    match state.make(BY, At::pod(&set.namespace, ""), pod) {
        Ok(_) => {
            let message = format!("create Pod {name} in StatefulSet {} successful", set.name);
            state.tell(BY, about, "Normal", "SuccessfulCreate", &message);
            Ok(())
        }
        Err(refusal) => {
            let message = format!("create Pod {name} in StatefulSet {} failed error: {}", set.name, said(&refusal));
            state.tell(BY, about, "Warning", "FailedCreate", &message);
            Err(refusal)
        }
    }
}

fn said(refusal: &Refusal) -> String {
    refusal.status()["message"].as_str().unwrap_or_default().to_owned()
}

/// Makes those claims of a pod that are not there, and gives the pod's volumes of all of them. One that is being deleted has to be gone first.
fn claims(state: &mut State, set: &Set, pod: &str) -> Answer<Vec<Value>> {
    let value = &set.stored.value;
    let (mut volumes, mut going) = (Vec::new(), Vec::new());
    for template in items(value, "/spec/volumeClaimTemplates") {
        let kind = text(template, "/metadata/name");
        let claim = format!("{kind}-{pod}");
        volumes.push(json!({"name": kind, "persistentVolumeClaim": {"claimName": claim}}));
        match state.peek("", "persistentvolumeclaims", &set.namespace, &claim) {
            Some(found) if deleting(&found.value) => going.push(format!("pvc {claim} is being deleted")),
            Some(_) => {}
            None => {
                let mut made = json!({"metadata": {"name": claim, "namespace": set.namespace}, "spec": template["spec"]});
                for field in ["labels", "annotations"] {
                    if let Some(found) = template.pointer(&format!("/metadata/{field}")) {
                        meta(&mut made).insert(field.to_owned(), found.clone());
                    }
                }
                for (key, value) in look::strings_at(value, "/spec/selector/matchLabels") {
                    set_label(&mut made, &key, &value);
                }
                state.make(BY, At::new("", "persistentvolumeclaims", &set.namespace, ""), made)?;
                let message = format!("create Claim {claim} Pod {pod} in StatefulSet {} success", set.name);
                state.tell(BY, ("apps/v1", "StatefulSet", value), "Normal", "SuccessfulCreate", &message);
            }
        }
    }
    if going.is_empty() { Ok(volumes) } else { Err(Refusal::new(500, "InternalError", going.join(", "))) }
}

fn spec_volumes(pod: &mut Value) -> &mut Vec<Value> {
    let volumes = look::part(pod, "spec").entry("volumes").or_insert_with(|| json!([]));
    if !volumes.is_array() {
        *volumes = json!([]);
    }
    match volumes {
        Value::Array(volumes) => volumes,
        _ => unreachable!("made a list just above"),
    }
}

/// The ControllerRevision of the present template, which is made where there is none.
fn revision(state: &mut State, set: &Stored) -> Answer<String> {
    let value = &set.value;
    let (namespace, name) = (text(value, "/metadata/namespace"), text(value, "/metadata/name"));
    let template = value.pointer("/spec/template").cloned().unwrap_or_default();
    let known = state.controlled("apps/controllerrevisions", namespace, text(value, "/metadata/uid"));
    // What is the same is not told by its hash: after a patch the same template may stand there in another order.
    if let Some(same) = known.iter().find(|r| r.value.pointer("/data/spec/template") == Some(&template)) {
        return Ok(text(&same.value, "/metadata/name").to_owned());
    }
    let hash = hash(&[&template.to_string()]);
    let full = format!("{name}-{hash}");
    if state.peek("apps", "controllerrevisions", namespace, &full).is_some() {
        return Ok(full);
    }
    let next = known.iter().filter_map(|r| number(&r.value, "/revision")).max().unwrap_or(0) + 1;
    let mut made = json!({
        "metadata": {
            "name": full, "namespace": namespace, "ownerReferences": [owner_reference("apps/v1", "StatefulSet", value)],
        },
        "data": {"spec": {"template": template}}, "revision": next,
    });
    for (key, label) in look::strings_at(value, "/spec/template/metadata/labels") {
        set_label(&mut made, &key, &label);
    }
    set_label(&mut made, "controller.kubernetes.io/hash", &hash);
    state.make(BY, At::new("apps", "controllerrevisions", namespace, ""), made)?;
    // Those that nothing uses any more are kept for rolling back, so many of them.
    let limit = usize::try_from(number(value, "/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(0);
    let current = text(value, "/status/currentRevision");
    let mut unused: Vec<_> = known.iter().filter(|r| text(&r.value, "/metadata/name") != current).collect();
    unused.sort_by_key(|r| number(&r.value, "/revision"));
    let surplus = unused.len().saturating_sub(limit);
    for gone in unused.into_iter().take(surplus) {
        state.remove(BY, At::new("apps", "controllerrevisions", namespace, text(&gone.value, "/metadata/name")), &json!({}))?;
    }
    Ok(full)
}

fn write_status(state: &mut State, set: &Set, now: i64) -> Again {
    let have = pods(state, set);
    let mut status = json!({});
    let (mut ready_pods, mut available, mut next): (usize, usize, Option<i64>) = (0, 0, None);
    let (mut current, mut updated) = (0, 0);
    for pod in have.values() {
        let pod = &pod.value;
        if let Some(at) = available_at(pod, set.min_ready_secs) {
            ready_pods += 1;
            if at <= now {
                available += 1;
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        if !deleting(pod) {
            current += usize::from(look::label(pod, REVISION) == set.current);
            updated += usize::from(look::label(pod, REVISION) == set.update);
        }
    }
    status["observedGeneration"] = set.stored.value["metadata"]["generation"].clone();
    status["replicas"] = Value::from(have.len());
    set_count(&mut status, "readyReplicas", ready_pods);
    let wanted = usize::try_from(set.replicas).unwrap_or(0);
    let complete = updated == have.len() && updated == wanted && ready_pods == wanted;
    let current_revision = if complete { &set.update } else { &set.current };
    set_count(&mut status, "currentReplicas", if complete { updated } else { current });
    set_count(&mut status, "updatedReplicas", updated);
    let map = as_map(&mut status);
    map.insert("currentRevision".to_owned(), Value::from(current_revision.as_str()));
    map.insert("updateRevision".to_owned(), Value::from(set.update.as_str()));
    map.insert("collisionCount".to_owned(), Value::from(0));
    map.insert("availableReplicas".to_owned(), Value::from(available));
    let Some(stored) = state.peek("apps", "statefulsets", &set.namespace, &set.name).cloned() else { return Ok(next) };
    state.change_status(BY, At::new("apps", "statefulsets", &set.namespace, &set.name), &stored, status)?;
    Ok(next)
}
