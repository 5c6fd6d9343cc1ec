//! Claims and volumes (`pkg/controller/volume/persistentvolume`, `pvcprotection`), with a provisioner of local volumes: a
//! volume is made on the node that the scheduler chose, and stays there.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    fit::{self, amount},
    look::{self, SECOND, annotate, annotation, deleting, draw, items, time},
    scheduler::SELECTED,
};
use crate::sandbox::{
    core::{State, as_map, map_at, meta, strings, text},
    refusal::Answer,
    store::{Key, Stored},
};

const BY: By<'_> = controller!("persistent-volume-binder");
const PROTECT: By<'_> = controller!("pvc-protection-controller");
/// The provisioner of the class that a sandbox begins with.
pub(in crate::sandbox) const PROVISIONER: &str = "local.sandbox.firedrill.dev";
const VOLUME_PROTECT: By<'_> = controller!("pv-protection-controller");
const VOLUME_PROTECTED: &str = "kubernetes.io/pv-protection";
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const PROVISIONED: &str = "pv.kubernetes.io/provisioned-by";
const PROTECTED: &str = "kubernetes.io/pvc-protection";
/// How long it takes to make a volume, in microseconds.
const MAKE_US: (i64, i64) = (400_000, 2_000_000);
/// How often a claim is looked at again whose class does not exist.
const RETRY_US: i64 = 15 * SECOND;

/// Of a claim, or with an empty namespace of a volume.
pub(super) fn reconcile(state: &mut State, seed: u64, key: &Key, now: i64) -> Again {
    if key.0.is_empty() { volume(state, &key.1).map(|()| None) } else { claim(state, seed, key, now) }
}

fn at(key: &Key) -> At<'_> {
    At::new("", "persistentvolumeclaims", &key.0, &key.1)
}

fn claim(state: &mut State, seed: u64, key: &Key, now: i64) -> Again {
    let Some(claim) = state.peek("", "persistentvolumeclaims", &key.0, &key.1).cloned() else { return Ok(None) };
    let protected = strings(&claim.value, "/metadata/finalizers").contains(&PROTECTED);
    if deleting(&claim.value) {
        if protected && !used(state, key) {
            let mut value = claim.value.clone();
            if let Some(Value::Array(finalizers)) = meta(&mut value).get_mut("finalizers") {
                finalizers.retain(|f| f != PROTECTED);
            }
            state.change(PROTECT, at(key), "", value)?;
        }
        return Ok(None);
    }
    let mut claim = claim;
    let name = text(&claim.value, "/spec/volumeName").to_owned();
    if !name.is_empty() {
        return bound(state, key, &claim, &name).map(|()| None);
    }
    if claim.value.pointer("/spec/storageClassName").is_none() {
        // The default class, also when it was made after the claim.
        let classes = state.store.list("storage.k8s.io/storageclasses", "");
        let default = classes.map(|(_, c)| c).find(|c| annotation(&c.value, "storageclass.kubernetes.io/is-default-class") == "true");
        if let Some(class) = default.cloned() {
            let mut value = claim.value.clone();
            look::part(&mut value, "spec").insert("storageClassName".to_owned(), class.value["metadata"]["name"].clone());
            claim = set_class(state, key, value)?;
        }
    }
    let class_name = text(&claim.value, "/spec/storageClassName").to_owned();
    let class = state.peek("storage.k8s.io", "storageclasses", "", &class_name).cloned();
    let waits = class.as_ref().is_some_and(|c| text(&c.value, "/volumeBindingMode") == "WaitForFirstConsumer");
    let chosen = annotation(&claim.value, SELECTED).to_owned();
    // One that is kept for this claim is bound whatever the class says of waiting.
    if let Some(volume) = matching(state, &claim.value, &chosen).filter(|volume| is_kept_for(&volume.value, &claim.value)) {
        return bind(state, key, &claim, &volume).map(|()| None);
    }
    if waits && chosen.is_empty() {
        let message = "waiting for first consumer to be created before binding";
        return tell(state, &claim, "Normal", "WaitForFirstConsumer", message).map(|()| None);
    }
    if let Some(volume) = matching(state, &claim.value, &chosen) {
        return bind(state, key, &claim, &volume).map(|()| None);
    }
    let Some(class) = class else {
        if class_name.is_empty() {
            let message = "no persistent volumes available for this claim and no storage class is set";
            return tell(state, &claim, "Normal", "FailedBinding", message).map(|()| None);
        }
        let message = format!("storageclass.storage.k8s.io \"{class_name}\" not found");
        tell(state, &claim, "Warning", "ProvisioningFailed", &message)?;
        return Ok(Some(now + RETRY_US));
    };
    if text(&class.value, "/provisioner") != PROVISIONER {
        let message =
            format!("Waiting for a volume to be created either by the external provisioner '{}'", text(&class.value, "/provisioner"));
        return tell(state, &claim, "Normal", "ExternalProvisioning", &message).map(|()| None);
    }
    provision(state, seed, key, &claim, &class, &chosen, now)
}

/// A claim gets the default class: the one change of its spec that a claim without a volume may have.
fn set_class(state: &mut State, key: &Key, value: Value) -> Answer<Arc<Stored>> {
    let Some(kind) = state.kinds.v1("", "persistentvolumeclaims") else {
        return Err(crate::sandbox::refusal::Refusal::no_such_page());
    };
    // KEP-3333 lets only this controller do it; validation here knows no such exception.
    Ok(state.commit(&kind, key, value, false))
}

fn tell(state: &mut State, claim: &Stored, kind: &str, reason: &str, message: &str) -> Answer<()> {
    state.tell(BY, ("v1", "PersistentVolumeClaim", &claim.value), kind, reason, message);
    Ok(())
}

/// Whether a pod uses the claim: one that has a node, also when it has ended (`podUsesPVC`). Its own ephemeral volume an ended pod does not need.
fn used(state: &State, key: &Key) -> bool {
    let uses = |pod: &Value| {
        let named = items(pod, "/spec/volumes").iter().any(|v| text(v, "/persistentVolumeClaim/claimName") == key.1);
        named || !look::ended(pod) && fit::claims(pod).any(|claim| claim == key.1)
    };
    let mut pods = state.store.list("/pods", &key.0);
    pods.any(|(_, pod)| !text(&pod.value, "/spec/nodeName").is_empty() && uses(&pod.value))
}

/// Whether a volume names this claim, with its uid or, kept for whatever claim gets that name, without one (`IsVolumeBoundToClaim`).
fn is_kept_for(volume: &Value, claim: &Value) -> bool {
    text(volume, "/spec/claimRef/namespace") == text(claim, "/metadata/namespace")
        && text(volume, "/spec/claimRef/name") == text(claim, "/metadata/name")
        && matches!(text(volume, "/spec/claimRef/uid"), uid if uid.is_empty() || uid == text(claim, "/metadata/uid"))
}

/// A volume that is free, large enough and of the right kind, the smallest of them; one that is kept for this claim first.
fn matching(state: &State, claim: &Value, node: &str) -> Option<Arc<Stored>> {
    let asked = claim.pointer("/spec/resources/requests/storage").and_then(amount).unwrap_or(0);
    let modes = strings(claim, "/spec/accessModes");
    let selector = claim.pointer("/spec/selector").filter(|s| !s.is_null()).and_then(|_| look::selector(claim, "/spec/selector"));
    let wants = claim.pointer("/spec/selector").is_some_and(|s| !s.is_null());
    let node = state.peek("", "nodes", "", node).cloned();
    let mut best: Option<(bool, i128, &Arc<Stored>)> = None;
    for (_, volume) in state.store.list("/persistentvolumes", "") {
        let value = &volume.value;
        let kept = value.pointer("/spec/claimRef").is_some_and(|r| !r.is_null());
        let for_me = is_kept_for(value, claim);
        let size = value.pointer("/spec/capacity/storage").and_then(amount).unwrap_or(0);
        let has = strings(value, "/spec/accessModes");
        let fits = !deleting(value)
            && (!kept || for_me)
            && size >= asked
            && modes.iter().all(|mode| has.contains(mode))
            && text(value, "/spec/storageClassName") == text(claim, "/spec/storageClassName")
            && (!wants || selector.as_ref().is_some_and(|s| look::selects(s, value)))
            && node.as_ref().is_none_or(|node| value.pointer("/spec/nodeAffinity/required").is_none_or(|r| fit::terms(r, &node.value)));
        if fits && best.as_ref().is_none_or(|(mine, best, _)| (!for_me, size) < (!*mine, *best)) {
            best = Some((for_me, size, volume));
        }
    }
    best.map(|(.., volume)| Arc::clone(volume))
}

/// Volume and claim name each other.
fn bind(state: &mut State, key: &Key, claim: &Stored, volume: &Stored) -> Answer<()> {
    let name = text(&volume.value, "/metadata/name").to_owned();
    let mut value = volume.value.clone();
    let reference = json!({
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": key.0, "name": key.1, "uid": text(&claim.value, "/metadata/uid"),
    });
    if text(&value, "/spec/claimRef/uid").is_empty() {
        // One that was kept for the claim was bound by whoever keeps it.
        if !is_kept_for(&value, &claim.value) {
            annotate(&mut value, BY_CONTROLLER, "yes");
        }
        map_at(as_map(&mut value), "spec").insert("claimRef".to_owned(), reference);
        state.change(BY, At::new("", "persistentvolumes", "", &name), "", value)?;
    }
    let mut value = claim.value.clone();
    if text(&value, "/spec/volumeName") != name {
        look::part(&mut value, "spec").insert("volumeName".to_owned(), Value::from(name.as_str()));
        annotate(&mut value, BY_CONTROLLER, "yes");
    }
    annotate(&mut value, COMPLETED, "yes");
    let claim = state.change(BY, at(key), "", value)?;
    bound(state, key, &claim, &name)
}

/// Keeps both states in step. A claim whose volume is gone is lost.
fn bound(state: &mut State, key: &Key, claim: &Stored, name: &str) -> Answer<()> {
    let mut status = claim.value.get("status").cloned().unwrap_or_else(|| json!({}));
    let Some(volume) = state.peek("", "persistentvolumes", "", name).cloned() else {
        if text(&status, "/phase") == "Bound" {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            lose(state, key, claim, "ClaimLost", message)?;
        }
        return Ok(());
    };
    // One that was bound stays with the volume only as long as that names its uid: the real controller binds it no second time.
    let named = volume.value.pointer("/spec/claimRef").is_some_and(Value::is_object);
    if named
        && !annotation(&claim.value, COMPLETED).is_empty()
        && text(&volume.value, "/spec/claimRef/uid") != text(&claim.value, "/metadata/uid")
    {
        let message = "Two claims are bound to the same volume, this one is bound incorrectly";
        return lose(state, key, claim, "ClaimMisbound", message);
    }
    // Another claim's: its author has to wait.
    if named && !is_kept_for(&volume.value, &claim.value) {
        return Ok(());
    }
    // Named by its author: the volume has to be told.
    if text(&volume.value, "/spec/claimRef/uid").is_empty() || annotation(&claim.value, COMPLETED).is_empty() {
        return bind(state, key, claim, &volume);
    }
    set_phase(state, &volume, "Bound")?;
    status["phase"] = Value::from("Bound");
    status["accessModes"] = volume.value.pointer("/spec/accessModes").cloned().unwrap_or_default();
    status["capacity"] = volume.value.pointer("/spec/capacity").cloned().unwrap_or_default();
    state.change_status(BY, at(key), claim, status)
}

/// Says that a claim has no volume any more, once.
fn lose(state: &mut State, key: &Key, claim: &Stored, reason: &str, message: &str) -> Answer<()> {
    let mut status = claim.value.get("status").cloned().unwrap_or_else(|| json!({}));
    if text(&status, "/phase") == "Lost" {
        return Ok(());
    }
    status["phase"] = Value::from("Lost");
    state.change_status(BY, at(key), claim, status)?;
    state.tell(BY, ("v1", "PersistentVolumeClaim", &claim.value), "Warning", reason, message);
    Ok(())
}

fn set_phase(state: &mut State, volume: &Stored, phase: &str) -> Answer<()> {
    let name = text(&volume.value, "/metadata/name");
    let mut status = volume.value.get("status").cloned().unwrap_or_else(|| json!({}));
    if text(&status, "/phase") == phase {
        return Ok(());
    }
    status["phase"] = Value::from(phase);
    status["lastPhaseTransitionTime"] = Value::from(state.now());
    let Some(volume) = state.peek("", "persistentvolumes", "", name).cloned() else { return Ok(()) };
    state.change_status(BY, At::new("", "persistentvolumes", "", name), &volume, status)
}

/// Makes a volume, which takes a while.
fn provision(state: &mut State, seed: u64, key: &Key, claim: &Stored, class: &Stored, node: &str, now: i64) -> Again {
    let uid = text(&claim.value, "/metadata/uid");
    let began = items(&claim.value, "/metadata/managedFields").iter().filter_map(|m| time(m, "/time")).max().unwrap_or(now);
    let done = began + draw(seed, &["volume", uid], MAKE_US.0, MAKE_US.1);
    if done > now {
        return Ok(Some(done));
    }
    let name = format!("pvc-{uid}");
    let mut volume = json!({
        "metadata": {"name": name, "annotations": {PROVISIONED: PROVISIONER}},
        "spec": {
            "capacity": {"storage": claim.value.pointer("/spec/resources/requests/storage")},
            "accessModes": claim.value["spec"]["accessModes"],
            "storageClassName": class.value["metadata"]["name"],
            "persistentVolumeReclaimPolicy": class.value.get("reclaimPolicy").cloned().unwrap_or_else(|| json!("Delete")),
            "hostPath": {"path": format!("/volumes/{name}"), "type": "DirectoryOrCreate"},
            "claimRef": {
                "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": key.0, "name": key.1, "uid": uid,
            },
        },
    });
    if !node.is_empty() {
        let host = state.peek("", "nodes", "", node).map_or(node, |n| look::label(&n.value, "kubernetes.io/hostname")).to_owned();
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]},
        ]}});
    }
    let made = state.make(BY, At::new("", "persistentvolumes", "", ""), volume)?;
    let message = format!("Successfully provisioned volume {name}");
    state.tell(BY, ("v1", "PersistentVolumeClaim", &claim.value), "Normal", "ProvisioningSucceeded", &message);
    bind(state, key, claim, &made)?;
    Ok(None)
}

/// A volume whose claim is gone is given back: deleted, or kept with what is on it.
fn volume(state: &mut State, name: &str) -> Answer<()> {
    let Some(volume) = state.peek("", "persistentvolumes", "", name).cloned() else { return Ok(()) };
    let value = &volume.value;
    let uid = text(value, "/spec/claimRef/uid").to_owned();
    if deleting(value) {
        let claim = state.peek("", "persistentvolumeclaims", text(value, "/spec/claimRef/namespace"), text(value, "/spec/claimRef/name"));
        let bound = claim.is_some_and(|claim| text(&claim.value, "/metadata/uid") == uid && text(&claim.value, "/spec/volumeName") == name);
        if !bound && strings(value, "/metadata/finalizers").contains(&VOLUME_PROTECTED) {
            let mut value = value.clone();
            if let Some(Value::Array(finalizers)) = meta(&mut value).get_mut("finalizers") {
                finalizers.retain(|f| f != VOLUME_PROTECTED);
            }
            state.change(VOLUME_PROTECT, At::new("", "persistentvolumes", "", name), "", value)?;
        }
        return Ok(());
    }
    if uid.is_empty() {
        return set_phase(state, &volume, "Available");
    }
    let claim = state.peek("", "persistentvolumeclaims", text(value, "/spec/claimRef/namespace"), text(value, "/spec/claimRef/name"));
    if claim.is_some_and(|claim| text(&claim.value, "/metadata/uid") == uid) {
        return Ok(());
    }
    set_phase(state, &volume, "Released")?;
    let own = annotation(value, PROVISIONED) == PROVISIONER;
    if own && text(value, "/spec/persistentVolumeReclaimPolicy") == "Delete" {
        state.remove(BY, At::new("", "persistentvolumes", "", name), &json!({}))?;
    }
    Ok(())
}
