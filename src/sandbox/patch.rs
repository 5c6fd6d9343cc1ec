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
        _ => {
            let mut known = vec![JSON, MERGE, APPLY];
            if !kind.custom() {
                known.insert(2, STRATEGIC);
            }
            let message = format!("the body of the request was in an unknown format - accepted media types include: {}", known.join(", "));
            Err(Refusal::new(415, "UnsupportedMediaType", message))
        }
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
            let operations: json_patch::Patch =
                serde_json::from_value(patch.clone()).map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(&mut value, &operations).map_err(|error| {
                let refusal = Refusal::new(422, "Invalid", "the server rejected our request due to an error in our request");
                tracing::debug!(%error, "a JSON patch does not fit");
                refusal
            })?;
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

/// The answer to a patch whose result is not of its kind.
pub(super) fn unfit(error: &str) -> Refusal {
    Refusal::invalid_as("", "", "", &[FieldError::invalid("patch", "", error)])
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
    let Some(key) = key else {
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
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
    Ok(())
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
