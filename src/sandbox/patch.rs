//! The four kinds of patch (`k8s.io/apiserver/pkg/endpoints/handlers/patch.go`).

use serde_json::{Map, Value};

use super::{
    kinds::Kind,
    refusal::{Answer, FieldError, Refusal},
    request::Ask,
    schema::{List, Schema},
};

/// What a patch's content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Merge that knows keyed lists.
    Strategic,
    /// Server-side apply.
    Apply,
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// The format of a patch.
///
/// # Errors
/// 415 for one that the kind does not take: custom resources know no strategic merge.
pub(super) fn format(ask: &Ask, kind: &Kind) -> Answer<Format> {
    match ask.content_type.as_str() {
        JSON => Ok(Format::Json),
        MERGE => Ok(Format::Merge),
        STRATEGIC if !kind.custom() => Ok(Format::Strategic),
        APPLY => Ok(Format::Apply),
        _ => Err(Refusal::new(415, "UnsupportedMediaType", "415: Unsupported Media Type")),
    }
}

/// The patch's body.
///
/// # Errors
/// 400: it is not JSON (for apply: nor YAML).
pub(super) fn body(ask: &Ask, format: Format) -> Answer<Value> {
    match serde_json::from_slice(&ask.body) {
        Ok(value) => Ok(value),
        Err(error) if format == Format::Apply => std::str::from_utf8(&ask.body)
            .ok()
            .and_then(|text| serde_saphyr::from_str(text).ok())
            .ok_or_else(|| Refusal::bad_request(format!("error decoding YAML: {error}"))),
        Err(error) => Err(Refusal::bad_request(format!("error decoding patch: {error}"))),
    }
}

/// Changes an object by a patch that is not apply.
///
/// # Errors
/// 400: it is no patch. 422: a JSON patch does not fit the object, or its `test` fails.
pub(super) fn patched(kind: &Kind, object: &Value, patch: &Value, format: Format) -> Answer<Value> {
    let mut value = object.clone();
    match format {
        Format::Json => {
            let unfit = || Refusal::new(422, "Invalid", "the server rejected our request due to an error in our request");
            // Any list of maps is a patch to the real one; what the maps mean is seen when it is applied.
            let list = patch.as_array().is_some_and(|all| all.iter().all(Value::is_object));
            let operations: json_patch::Patch = serde_json::from_value(patch.clone()).map_err(|error| match list {
                true => unfit(),
                false => Refusal::bad_request(format!("error decoding patch: {error}")),
            })?;
            for operation in operations.0 {
                let operation = as_go(&value, operation);
                json_patch::patch(&mut value, &[operation]).map_err(|_| unfit())?;
            }
        }
        Format::Merge => {
            if !patch.is_object() {
                return Err(Refusal::bad_request("error decoding patch: json: cannot unmarshal into a map"));
            }
            merge(&mut value, patch, 0);
        }
        Format::Strategic | Format::Apply => {
            if !patch.is_object() {
                return Err(Refusal::bad_request("error decoding patch: json: cannot unmarshal into a map"));
            }
            strategic(&kind.schema, &mut value, patch, 0)?;
        }
    }
    Ok(value)
}

/// Go's library (`evanphx/json-patch` 4) sets a missing key of a map that is to be replaced, and copies null from one.
fn as_go(value: &Value, operation: json_patch::PatchOperation) -> json_patch::PatchOperation {
    use json_patch::{AddOperation, PatchOperation};
    let missing_in_map = |path: &str| {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        value.pointer(path).is_none() && value.pointer(parent).is_some_and(Value::is_object)
    };
    match operation {
        PatchOperation::Replace(replace) if missing_in_map(replace.path.as_str()) => {
            PatchOperation::Add(AddOperation { path: replace.path, value: replace.value })
        }
        PatchOperation::Copy(copy) if missing_in_map(copy.from.as_str()) => {
            PatchOperation::Add(AddOperation { path: copy.path, value: Value::Null })
        }
        other => other,
    }
}

/// The answer to a patch whose result is not of its kind.
pub(super) fn unfit(patched: &str, error: &str) -> Refusal {
    Refusal::invalid_as("", "", "", &[FieldError::invalid("patch", patched, error)])
}

/// Patches nested deeper than this are not followed further.
const DEEPEST: usize = 200;

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value, depth: usize) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, change) in patch {
        if change.is_null() {
            target.shift_remove(name);
        } else if depth < DEEPEST {
            merge(target.entry(name.clone()).or_insert(Value::Null), change, depth + 1);
        }
    }
}

/// Strategic merge (`k8s.io/apimachinery/pkg/util/strategicpatch`).
fn strategic(schema: &Schema, target: &mut Value, patch: &Value, depth: usize) -> Answer<()> {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if depth >= DEEPEST {
        return Err(Refusal::bad_request("error decoding patch: it is nested too deep"));
    }
    match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(changes.iter().filter(|(name, _)| *name != "$patch").map(|(n, v)| (n.clone(), v.clone())).collect());
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Refusal::bad_request(format!("Unknown patch type found: {other}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return Ok(()) };
    if let Some(Value::Array(kept)) = changes.get("$retainKeys") {
        map.retain(|name, _| kept.iter().any(|k| k.as_str() == Some(name)));
    }
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (map.get_mut(list), change) {
                items.retain(|item| !gone.contains(item));
            }
        } else if let Some(list) = name.strip_prefix("$setElementOrder/") {
            // Applied after the list itself, below.
            let _ = list;
        } else if name.starts_with('$') {
            continue;
        } else if change.is_null() {
            map.shift_remove(name);
        } else {
            let field = schema.field(name);
            match change {
                Value::Array(items) => strategic_list(field, map.entry(name.clone()).or_insert(Value::Null), items, depth + 1)?,
                _ => strategic(field, map.entry(name.clone()).or_insert(Value::Null), change, depth + 1)?,
            }
        }
    }
    for (name, order) in changes {
        if let (Some(list), Value::Array(order)) = (name.strip_prefix("$setElementOrder/"), order) {
            reorder(schema.field(list), map.get_mut(list), order);
        }
    }
    Ok(())
}

fn strategic_list(schema: &Schema, target: &mut Value, patch: &[Value], depth: usize) -> Answer<()> {
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    let replaced = patch.iter().any(|item| directive(item).as_deref() == Some("replace"));
    let key = schema.strategic_key();
    if !target.is_array() || replaced || key.is_none() && schema.list != List::Set {
        let clean = patch.iter().filter(|item| directive(item).is_none()).cloned();
        *target = Value::Array(clean.collect());
        return Ok(());
    }
    let Value::Array(items) = target else { return Ok(()) };
    let before = items.clone();
    let Some(key) = key else {
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        *items = in_order(std::mem::take(items), patch, &before, |item| item.clone());
        return Ok(());
    };
    for item in patch {
        let Some(name) = item.get(key) else {
            return Err(Refusal::bad_request(format!("map: {item} does not contain declared merge key: {key}")));
        };
        let found = items.iter().position(|mine| mine.get(key) == Some(name));
        match (directive(item).as_deref(), found) {
            (Some("delete"), Some(at)) => drop(items.remove(at)),
            (Some("delete"), None) => {}
            (_, Some(at)) => strategic(schema.item(), &mut items[at], item, depth)?,
            (_, None) => {
                let mut made = Value::Null;
                strategic(schema.item(), &mut made, item, depth)?;
                items.push(made);
            }
        }
    }
    *items = in_order(std::mem::take(items), patch, &before, |item| item.get(key).cloned().unwrap_or_default());
    Ok(())
}

/// The order of a merged list (`normalizeElementOrder`): the patch's items keep their order among each other, the others
/// theirs; where both are known from before that order counts, and what is new goes first.
fn in_order(merged: Vec<Value>, patch: &[Value], before: &[Value], name: impl Fn(&Value) -> Value) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| name(other) == name(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|item| place(patch, item).is_some());
    named.sort_by_key(|item| place(patch, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut ordered = Vec::new();
    loop {
        let first = match (others.peek(), named.peek()) {
            (None, None) => return ordered,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(item)) => match (place(before, other), place(before, item)) {
                (Some(other), Some(item)) => other <= item,
                _ => false,
            },
        };
        ordered.extend(if first { others.next() } else { named.next() });
    }
}

/// Items that the order names, in that order; others behind them as they were.
fn reorder(schema: &Schema, list: Option<&mut Value>, order: &[Value]) {
    let Some(Value::Array(items)) = list else { return };
    let key = schema.strategic_key();
    let rank = |item: &Value| {
        let same = |named: &Value| match key {
            Some(key) => named.get(key).is_some() && named.get(key) == item.get(key),
            None => named == item,
        };
        order.iter().position(same).unwrap_or(usize::MAX)
    };
    items.sort_by_key(rank);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sandbox::schema;

    #[track_caller]
    fn strategically(kind: &str, object: Value, patch: &Value, wanted: &Value) {
        let mut value = object;
        strategic(&schema::built_in(kind), &mut value, patch, 0).unwrap();
        assert_eq!(value, *wanted, "{patch}");
    }

    #[test]
    fn keyed_lists_merge_and_others_are_replaced() {
        let pod = json!({"spec": {"containers": [{"name": "a", "args": ["1", "2"]}, {"name": "b"}], "tolerations": [{"key": "x"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "y"}]}});
        let wanted = json!({"spec": {"containers": [{"name": "a", "args": ["3"]}, {"name": "b"}], "tolerations": [{"key": "y"}]}});
        strategically("Pod", pod.clone(), &patch, &wanted);
        let patch = json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}});
        strategically("Pod", pod.clone(), &patch, &json!({"spec": {"containers": [{"name": "b"}], "tolerations": [{"key": "x"}]}}));
        let patch = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}], "tolerations": null}});
        strategically("Pod", pod.clone(), &patch, &json!({"spec": {"containers": [{"name": "c"}]}}));
        let patch =
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "tty": true}]}});
        let wanted = json!([{"name": "b", "tty": true}, {"name": "a", "args": ["1", "2"]}]);
        strategically("Pod", pod.clone(), &patch, &json!({"spec": {"containers": wanted, "tolerations": [{"key": "x"}]}}));
        let nameless = json!({"spec": {"containers": [{"image": "x"}]}});
        assert_eq!(strategic(&schema::built_in("Pod"), &mut pod.clone(), &nameless, 0).unwrap_err().code(), 400);
    }

    #[test]
    fn finalizers_are_a_set_and_strategies_are_replaced_whole() {
        let object =
            json!({"metadata": {"finalizers": ["a"]}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({
            "metadata": {"finalizers": ["b"], "$deleteFromPrimitiveList/finalizers": ["a"]},
            "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
        });
        let wanted = json!({"metadata": {"finalizers": ["b"]}, "spec": {"strategy": {"type": "Recreate"}}});
        strategically("Deployment", object, &patch, &wanted);
    }

    #[test]
    fn a_merge_patch_deletes_by_null() {
        let mut value = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut value, &json!({"a": {"b": null, "c": [3], "e": {"f": null, "g": 1}}, "d": {"x": 1}}), 0);
        assert_eq!(value, json!({"a": {"c": [3], "e": {"g": 1}}, "d": {"x": 1}}));
    }

    #[test]
    fn a_patch_that_is_nested_without_end_is_refused() {
        let mut deep = json!(1);
        for _ in 0..DEEPEST + 10 {
            deep = json!({"a": deep});
        }
        assert!(strategic(&schema::built_in("Pod"), &mut json!({}), &deep, 0).is_err());
        merge(&mut json!({}), &deep, 0);
    }
}
