//! Looking at objects: what several controllers ask of them.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use serde_json::{Map, Value, json};

use super::api::{At, By};
use crate::sandbox::{
    core::{State, as_map, at, field, map_at, meta, pairs, text},
    refusal::Answer,
    store::Stored,
};

/// One second in microseconds.
pub(in crate::sandbox) const SECOND: i64 = 1_000_000;

/// A number at a JSON pointer.
pub(in crate::sandbox) fn number(value: &Value, pointer: &str) -> Option<i64> {
    at(value, pointer).and_then(Value::as_i64)
}

/// Whether a field is true.
pub(in crate::sandbox) fn flag(value: &Value, pointer: &str) -> bool {
    at(value, pointer).and_then(Value::as_bool) == Some(true)
}

/// A list at a JSON pointer; empty where there is none.
pub(in crate::sandbox) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Labels, or any map of strings.
pub(in crate::sandbox) fn strings_at(value: &Value, pointer: &str) -> BTreeMap<String, String> {
    pairs(value, pointer).into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A time that Kubernetes wrote, in microseconds since the Unix epoch.
pub(in crate::sandbox) fn time(value: &Value, pointer: &str) -> Option<i64> {
    at(value, pointer)?.as_str()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

/// A time with microseconds (`metav1.MicroTime`).
pub(in crate::sandbox) fn micro_time(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| String::new(), |t| format!("{t:.6}"))
}

/// It is being deleted.
pub(in crate::sandbox) fn deleting(value: &Value) -> bool {
    at(value, "/metadata/deletionTimestamp").is_some()
}

/// The pod has ended for good.
pub(in crate::sandbox) fn ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// `IsPodActive`: neither ended nor being deleted.
pub(in crate::sandbox) fn active(pod: &Value) -> bool {
    !ended(pod) && !deleting(pod)
}

/// A condition of its status.
pub(in crate::sandbox) fn condition<'a>(value: &'a Value, kind: &str) -> Option<&'a Value> {
    items(value, "/status/conditions").iter().find(|c| text(c, "/type") == kind)
}

/// A condition is True.
pub(in crate::sandbox) fn holds(value: &Value, kind: &str) -> bool {
    condition(value, kind).is_some_and(|c| text(c, "/status") == "True")
}

/// The pod is ready.
pub(in crate::sandbox) fn ready(pod: &Value) -> bool {
    holds(pod, "Ready")
}

/// When a ready pod becomes available (`IsPodAvailable`); none: it is not ready.
pub(in crate::sandbox) fn available_at(pod: &Value, min_ready_secs: i64) -> Option<i64> {
    let condition = condition(pod, "Ready").filter(|c| text(c, "/status") == "True")?;
    Some(time(condition, "/lastTransitionTime").unwrap_or(0) + min_ready_secs.max(0) * SECOND)
}

/// Sets a condition. Its time of transition is kept while its status stays.
pub(in crate::sandbox) fn set_condition(status: &mut Value, kind: &str, is: &str, reason: &str, message: &str, now: &str) {
    let conditions = as_map(status).entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(conditions) = conditions else { return };
    let mut made = json!({"type": kind, "status": is, "lastTransitionTime": now});
    for (field, content) in [("reason", reason), ("message", message)] {
        if !content.is_empty() {
            made[field] = Value::from(content);
        }
    }
    match conditions.iter_mut().find(|c| text(c, "/type") == kind) {
        Some(old) => {
            if text(old, "/status") == is {
                made["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            // Fields of other kinds of conditions (lastUpdateTime, lastProbeTime) stay.
            for (field, value) in old.as_object().into_iter().flatten() {
                if made.get(field).is_none() && field != "reason" && field != "message" {
                    made[field] = value.clone();
                }
            }
            *old = made;
        }
        None => conditions.push(made),
    }
}

/// Takes a condition away.
pub(in crate::sandbox) fn drop_condition(status: &mut Value, kind: &str) {
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        conditions.retain(|c| text(c, "/type") != kind);
    }
}

/// Sets a number, or drops the field where it is 0, as Go's `omitempty` does.
pub(in crate::sandbox) fn set_count(status: &mut Value, field: &str, n: usize) {
    let map = as_map(status);
    if n == 0 {
        map.shift_remove(field);
    } else {
        map.insert(field.to_owned(), Value::from(n));
    }
}

/// The controller among its owners: kind, name, uid.
pub(in crate::sandbox) fn controller_of(value: &Value) -> Option<(&str, &str, &str)> {
    let owner = items(value, "/metadata/ownerReferences").iter().find(|o| flag(o, "/controller"))?;
    Some((text(owner, "/kind"), text(owner, "/name"), text(owner, "/uid")))
}

/// A reference to an object as the controller of another.
pub(in crate::sandbox) fn owner_reference(api_version: &str, kind: &str, owner: &Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": text(owner, "/metadata/name"), "uid": text(owner, "/metadata/uid"),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// A label selector; none if it cannot be read. An empty one selects everything.
pub(in crate::sandbox) fn selector(value: &Value, pointer: &str) -> Option<Selector> {
    let selector = at(value, pointer)?.clone();
    Selector::try_from(serde_json::from_value::<LabelSelector>(selector).ok()?).ok()
}

/// Whether a selector selects an object.
pub(in crate::sandbox) fn selects(selector: &Selector, object: &Value) -> bool {
    selector.matches(&strings_at(object, "/metadata/labels"))
}

/// A number or a percentage of a total, rounded up or down (`intstr.GetScaledValueFromIntOrPercent`).
pub(in crate::sandbox) fn scaled(value: Option<&Value>, total: i64, up: bool) -> i64 {
    match value {
        Some(Value::Number(n)) => n.as_i64().unwrap_or(0),
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = total.saturating_mul(percent);
            if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }
        }
        _ => 0,
    }
}

/// A short name for contents, of the letters that Kubernetes uses (`rand.SafeEncodeString`).
pub(in crate::sandbox) fn hash(contents: &[&str]) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut n = mix(contents) & 0xffff_ffff;
    let mut name = String::new();
    while n > 0 || name.is_empty() {
        name.push(char::from(LETTERS[usize::try_from(n % 27).unwrap_or(0)]));
        n /= 27;
    }
    name
}

/// A number from texts (FNV-1a, then splitmix64's last step, so that similar texts get unlike numbers).
pub(in crate::sandbox) fn mix(contents: &[&str]) -> u64 {
    let mut n: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in contents.iter().flat_map(|text| text.bytes().chain([0xff])) {
        n = (n ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    crate::random::spread(n)
}

/// A number in a range, from the seed and what it is for. It does not depend on what was drawn before.
pub(in crate::sandbox) fn draw(seed: u64, what: &[&str], from: i64, to: i64) -> i64 {
    let seed = seed.to_string();
    let mut all = vec![seed.as_str()];
    all.extend(what);
    let span = u64::try_from((to - from).max(1)).unwrap_or(1);
    from + i64::try_from(mix(&all) % span).unwrap_or(0)
}

/// A pod as a controller makes it from its template. It has no name yet.
pub(in crate::sandbox) fn pod_from(template: &Value, owner: Value) -> Value {
    let mut pod = json!({"metadata": {}, "spec": template.get("spec").cloned().unwrap_or_else(|| json!({}))});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(found) = template.pointer(&format!("/metadata/{field}")).filter(|f| !f.is_null()) {
            meta(&mut pod).insert(field.to_owned(), found.clone());
        }
    }
    meta(&mut pod).insert("ownerReferences".to_owned(), json!([owner]));
    pod
}

/// Sets a label.
pub(in crate::sandbox) fn set_label(value: &mut Value, name: &str, content: &str) {
    map_at(meta(value), "labels").insert(name.to_owned(), Value::from(content));
}

/// Sets an annotation.
pub(in crate::sandbox) fn annotate(value: &mut Value, name: &str, content: &str) {
    map_at(meta(value), "annotations").insert(name.to_owned(), Value::from(content));
}

/// An annotation; empty where there is none.
pub(in crate::sandbox) fn annotation<'a>(value: &'a Value, name: &str) -> &'a str {
    at(value, "/metadata/annotations")
        .and_then(Value::as_object)
        .and_then(|all| field(all, name))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A label; empty where there is none.
pub(in crate::sandbox) fn label<'a>(value: &'a Value, name: &str) -> &'a str {
    at(value, "/metadata/labels").and_then(Value::as_object).and_then(|all| field(all, name)).and_then(Value::as_str).unwrap_or_default()
}

/// A part of a map that is made where it is missing.
pub(in crate::sandbox) fn part<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    map_at(as_map(value), name)
}

impl State {
    /// Objects of a namespace (all: empty) that a uid controls.
    pub(in crate::sandbox) fn controlled(&self, shelf: &str, namespace: &str, uid: &str) -> Vec<Arc<Stored>> {
        let all = self.store.list(shelf, namespace).map(|(_, stored)| stored);
        all.filter(|stored| controller_of(&stored.value).is_some_and(|(.., owner)| owner == uid)).cloned().collect()
    }

    /// The objects that belong to an owner by its selector: its own that still match, and orphans that match, which are
    /// adopted; own ones that no longer match are let go (`PodControllerRefManager.ClaimPods`).
    ///
    /// # Errors
    /// Of the writes.
    pub(in crate::sandbox) fn claim(
        &mut self,
        by: By<'_>,
        (group, plural): (&str, &str),
        (api_version, kind): (&str, &str),
        owner: &Value,
    ) -> Answer<Vec<Arc<Stored>>> {
        let (namespace, uid) = (text(owner, "/metadata/namespace"), text(owner, "/metadata/uid"));
        let Some(selector) = selector(owner, "/spec/selector") else { return Ok(Vec::new()) };
        let shelf = format!("{group}/{plural}");
        let all: Vec<Arc<Stored>> = self.store.list(&shelf, namespace).map(|(_, stored)| Arc::clone(stored)).collect();
        let mut claimed = Vec::new();
        for object in all {
            let name = text(&object.value, "/metadata/name").to_owned();
            let at = At::new(group, plural, namespace, &name);
            match controller_of(&object.value) {
                Some((.., of)) if of == uid => {
                    if selects(&selector, &object.value) {
                        claimed.push(object);
                    } else if !deleting(owner) {
                        let mut value = object.value.clone();
                        if let Some(Value::Array(owners)) = meta(&mut value).get_mut("ownerReferences") {
                            owners.retain(|o| text(o, "/uid") != uid);
                        }
                        self.change(by, at, "", value)?;
                    }
                }
                None if !deleting(owner) && !deleting(&object.value) && selects(&selector, &object.value) => {
                    let mut value = object.value.clone();
                    let owners = meta(&mut value).entry("ownerReferences").or_insert_with(|| json!([]));
                    if let Value::Array(owners) = owners {
                        owners.push(owner_reference(api_version, kind, owner));
                    }
                    claimed.push(self.change(by, at, "", value)?);
                }
                _ => {}
            }
        }
        Ok(claimed)
    }

    /// Tells of something that happened to an object (`client-go/tools/record`): the same again is counted.
    pub(in crate::sandbox) fn tell(&mut self, by: By<'_>, about: (&str, &str, &Value), kind: &str, reason: &str, message: &str) {
        let (api_version, of, object) = about;
        let (name, uid) = (text(object, "/metadata/name").to_owned(), text(object, "/metadata/uid").to_owned());
        let own = text(object, "/metadata/namespace");
        let namespace = if own.is_empty() { "default" } else { own }.to_owned();
        let component = by.agent;
        let event = format!("{name}.{:016x}", mix(&[&uid, by.user, kind, reason, message]));
        let now = self.now();
        let at = At::new("", "events", &namespace, &event);
        if let Some(old) = self.peek("", "events", &namespace, &event).cloned() {
            let mut value = old.value.clone();
            let count = number(&value, "/count").unwrap_or(1);
            as_map(&mut value).insert("count".to_owned(), Value::from(count + 1));
            as_map(&mut value).insert("lastTimestamp".to_owned(), Value::from(now));
            // An event that cannot be written is lost, as everywhere.
            let _ = self.change(by, at, "", value);
            return;
        }
        let mut involved = json!({"apiVersion": api_version, "kind": of, "name": name, "uid": uid});
        if !own.is_empty() {
            involved["namespace"] = Value::from(own);
        }
        let value = json!({
            "metadata": {"name": event, "namespace": namespace}, "involvedObject": involved, "reason": reason, "message": message,
            "type": kind, "count": 1, "firstTimestamp": now, "lastTimestamp": now, "source": {"component": component},
            "reportingComponent": component, "reportingInstance": "",
        });
        let _ = self.make(by, at, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_asked() {
        let quarter = json!("25%");
        assert_eq!((scaled(Some(&quarter), 10, true), scaled(Some(&quarter), 10, false)), (3, 2));
        assert_eq!(scaled(Some(&json!(4)), 10, true), 4);
        assert_eq!(scaled(None, 10, true), 0);
    }

    #[test]
    fn what_is_drawn_depends_on_the_seed_and_on_what_it_is_for() {
        let drawn = |seed, what: &str| draw(seed, &[what, "x"], 0, 1_000_000);
        assert_eq!(drawn(1, "a"), drawn(1, "a"));
        assert_ne!(drawn(1, "a"), drawn(2, "a"));
        assert_ne!(drawn(1, "a"), drawn(1, "b"));
        assert!((0..100).map(|n| draw(n, &["y"], 5, 8)).all(|n| (5..8).contains(&n)));
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut status = json!({});
        set_condition(&mut status, "Ready", "True", "", "", "then");
        set_condition(&mut status, "Ready", "True", "Why", "because", "now");
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "then");
        set_condition(&mut status, "Ready", "False", "", "", "now");
        assert_eq!(status["conditions"][0], json!({"type": "Ready", "status": "False", "lastTransitionTime": "now"}));
    }
}
