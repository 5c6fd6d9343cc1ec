//! Owner collection (`pkg/controller/garbagecollector`): dependents of owners that are gone or are going.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{deleting, flag, items},
};
use crate::sandbox::{
    core::{State, meta, strings, text},
    kinds::Kind,
    refusal::Answer,
    store::{Key, Stored},
};

const BY: By<'_> = controller!("generic-garbage-collector");
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Whose owners they are: by uid, shelf and key.
type Owned = BTreeMap<String, BTreeSet<(Arc<str>, Key)>>;

/// Of an owner that is gone (`("", uid)`), or of an object (`(shelf, "namespace/name")`).
pub(super) fn reconcile(state: &mut State, owned: &Owned, key: &Key, _now: i64) -> Again {
    if key.0.is_empty() {
        for (shelf, key) in dependents(owned, &key.1) {
            attend(state, owned, &shelf, &key)?;
        }
        // It may be the last dependent that an owner waited for.
        if let Some((shelf, key)) = find(state, &key.1) {
            finish(state, owned, &shelf, &key)?;
        }
        return Ok(None);
    }
    let (namespace, name) = key.1.split_once('/').unwrap_or(("", &key.1));
    let object = Key(namespace.to_owned(), name.to_owned());
    attend(state, owned, &key.0, &object)?;
    finish(state, owned, &key.0, &object)?;
    Ok(None)
}

fn dependents(owned: &Owned, uid: &str) -> Vec<(Arc<str>, Key)> {
    owned.get(uid).into_iter().flatten().cloned().collect()
}

/// An object that is being deleted with its dependents first, by uid.
fn find(state: &State, uid: &str) -> Option<(Arc<str>, Key)> {
    let waits = |value: &Value| deleting(value) && text(value, "/metadata/uid") == uid;
    state.store.everything().find(|(.., stored)| waits(&stored.value)).map(|(shelf, key, _)| (Arc::clone(shelf), key.clone()))
}

/// The kind whose objects are on a shelf, in any version.
fn kind_of(state: &State, shelf: &str) -> Option<Arc<Kind>> {
    let (group, plural) = shelf.split_once('/')?;
    let versions: Vec<&str> = state.kinds.groups().find(|(g, _)| *g == group)?.1;
    versions.into_iter().find_map(|version| state.kinds.find(group, version, plural)).cloned()
}

/// The owner that a reference means, if it exists.
fn owner(state: &State, namespace: &str, reference: &Value) -> Option<Arc<Stored>> {
    let version = text(reference, "/apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = state.kinds.of(group, version)?.find(|kind| kind.kind == text(reference, "/kind"))?;
    let namespace = if kind.namespaced { namespace } else { "" };
    let found = state.store.get(kind.shelf(), &Key(namespace.to_owned(), text(reference, "/name").to_owned()))?;
    (text(&found.value, "/metadata/uid") == text(reference, "/uid")).then(|| Arc::clone(found))
}

/// An object goes when none of its owners is left (`attemptToDeleteItem`).
fn attend(state: &mut State, owned: &Owned, shelf: &str, key: &Key) -> Answer<()> {
    let Some(object) = state.store.get(shelf, key).cloned() else { return Ok(()) };
    let Some(kind) = kind_of(state, shelf) else { return Ok(()) };
    let references = items(&object.value, "/metadata/ownerReferences");
    if references.is_empty() || deleting(&object.value) {
        return Ok(());
    }
    let at = At::new(&kind.group, &kind.plural, &key.0, &key.1);
    let preconditions = json!({"uid": text(&object.value, "/metadata/uid")});
    let (mut solid, mut waiting, mut gone) = (0, Vec::new(), Vec::new());
    for reference in references {
        match owner(state, &key.0, reference) {
            None => gone.push(text(reference, "/uid").to_owned()),
            Some(owner) if deleting(&owner.value) && strings(&owner.value, "/metadata/finalizers").contains(&FOREGROUND) => {
                waiting.push(reference.clone());
            }
            Some(_) => solid += 1,
        }
    }
    if solid > 0 {
        // Another owner holds it: the ones that are gone are struck out.
        if gone.is_empty() && waiting.is_empty() {
            return Ok(());
        }
        let struck: Vec<&str> = gone.iter().map(String::as_str).chain(waiting.iter().map(|r| text(r, "/uid"))).collect();
        return strike(state, &kind, at, &object, &struck);
    }
    // An owner that waits for it waits for what it owns, too.
    let first = !waiting.is_empty() && owned.contains_key(text(&object.value, "/metadata/uid"));
    let policy = if first { "Foreground" } else { "Background" };
    state.remove_of(BY, &kind, at, &json!({"propagationPolicy": policy, "preconditions": preconditions}))
}

fn strike(state: &mut State, kind: &Arc<Kind>, at: At<'_>, object: &Stored, uids: &[&str]) -> Answer<()> {
    let mut value = object.value.clone();
    let metadata = meta(&mut value);
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
        owners.retain(|o| !uids.contains(&text(o, "/uid")));
        if owners.is_empty() {
            metadata.shift_remove("ownerReferences");
        }
    }
    state.change_of(BY, kind, at, value).map(drop)
}

/// An owner that is being deleted: its dependents are let go, or deleted before it.
fn finish(state: &mut State, owned: &Owned, shelf: &str, key: &Key) -> Answer<()> {
    let Some(object) = state.store.get(shelf, key).cloned() else { return Ok(()) };
    let finalizers = strings(&object.value, "/metadata/finalizers");
    if !deleting(&object.value) {
        return Ok(());
    }
    let uid = text(&object.value, "/metadata/uid");
    let finalizer = if finalizers.contains(&ORPHAN) {
        for (shelf, key) in dependents(owned, uid) {
            let (Some(kind), Some(dependent)) = (kind_of(state, &shelf), state.store.get(&shelf, &key).cloned()) else { continue };
            strike(state, &kind, At::new(&kind.group, &kind.plural, &key.0, &key.1), &dependent, &[uid])?;
        }
        ORPHAN
    } else if finalizers.contains(&FOREGROUND) {
        let mut blocked = false;
        for (shelf, key) in dependents(owned, uid) {
            attend(state, owned, &shelf, &key)?;
            let left = state.store.get(&shelf, &key);
            let blocks = |r: &Value| text(r, "/uid") == uid && flag(r, "/blockOwnerDeletion");
            blocked |= left.is_some_and(|left| items(&left.value, "/metadata/ownerReferences").iter().any(blocks));
        }
        if blocked {
            return Ok(());
        }
        FOREGROUND
    } else {
        return Ok(());
    };
    let Some(kind) = kind_of(state, shelf) else { return Ok(()) };
    let mut value = object.value.clone();
    let metadata = meta(&mut value);
    if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers") {
        finalizers.retain(|f| f.as_str() != Some(finalizer));
        if finalizers.is_empty() {
            metadata.shift_remove("finalizers");
        }
    }
    state.change_of(BY, &kind, At::new(&kind.group, &kind.plural, &key.0, &key.1), value).map(drop)
}
