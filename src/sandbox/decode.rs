//! Reading objects: JSON, of the right kind, with only the fields the kind has.

use serde_json::{Map, Value};

use super::{
    core::text,
    crd,
    kinds::Kind,
    quantity,
    refusal::{Answer, Refusal},
    request::Ask,
};

/// Why a value is not an object of its kind.
#[derive(Debug)]
pub(super) enum Misfit {
    /// It has these fields that the kind has not, and the request was strict.
    Unknown(Vec<String>),
    /// A field is of another type.
    Type(String),
}

impl Misfit {
    /// In the words of a strict decoder.
    pub(super) fn strict(self) -> String {
        match self {
            Self::Unknown(fields) => {
                let fields: Vec<String> = fields.iter().map(|field| format!("unknown field \"{field}\"")).collect();
                format!("strict decoding error: {}", fields.join(", "))
            }
            Self::Type(why) => why,
        }
    }
}

/// The object in a request's body, without `apiVersion` and `kind`.
///
/// # Errors
/// 400: it is none of this kind. 415: it is not JSON or YAML.
pub(super) fn object(ask: &Ask, kind: &Kind, warnings: &mut Vec<String>) -> Answer<Value> {
    let value = body(ask)?;
    let version = text(&value, "/apiVersion");
    if !version.is_empty() && version != kind.api_version() {
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    let named = text(&value, "/kind");
    if !named.is_empty() && named != kind.kind {
        return Err(Refusal::bad_request(format!(
            "{named} in version \"{}\" cannot be handled as a {}: converting ({named}) to ({}): unknown conversion",
            kind.version, kind.kind, kind.kind
        )));
    }
    let value = with_kind(kind, value);
    validated(ask, kind, value, warnings).map_err(|misfit| {
        Refusal::bad_request(format!("{0} in version \"{1}\" cannot be handled as a {0}: {2}", kind.kind, kind.version, misfit.strict()))
    })
}

/// A request's body as a map.
///
/// # Errors
/// 400: it is none. 415: it is not JSON or YAML.
pub(super) fn body(ask: &Ask) -> Answer<Value> {
    let value: Result<Value, String> = match ask.content_type.as_str() {
        "" | "application/json" => serde_json::from_slice(&ask.body).map_err(|error| error.to_string()),
        "application/yaml" => std::str::from_utf8(&ask.body)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_saphyr::from_str(text).map_err(|error| error.to_string())),
        other => {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml (not {other})"
            );
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
    };
    match value {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Refusal::bad_request("couldn't get version/kind; json parse error: it is not an object")),
        Err(why) => Err(Refusal::bad_request(format!("couldn't get version/kind; json parse error: {why}"))),
    }
}

/// With `apiVersion` and `kind` in front.
pub(super) fn with_kind(kind: &Kind, value: Value) -> Value {
    let mut whole = Map::new();
    whole.insert("apiVersion".to_owned(), Value::from(kind.api_version()));
    whole.insert("kind".to_owned(), Value::from(kind.kind.as_str()));
    if let Value::Object(map) = value {
        whole.extend(map.into_iter().filter(|(name, _)| name != "apiVersion" && name != "kind"));
    }
    Value::Object(whole)
}

/// Null where a text belongs is an empty text to Go.
fn texts(kind: &Kind, value: &mut Value, depth: usize) {
    const TEXTS: [&str; 4] = ["labels", "annotations", "matchLabels", "nodeSelector"];
    if depth > 128 || kind.typed.is_none() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let own =
                    depth == 0 && matches!(kind.kind.as_str(), "ConfigMap" | "Secret") && matches!(name.as_str(), "data" | "stringData");
                match value {
                    Value::Object(map) if own || TEXTS.contains(&name.as_str()) => {
                        map.values_mut().filter(|text| text.is_null()).for_each(|text| *text = Value::from(""));
                    }
                    _ if name == "managedFields" => {}
                    _ => texts(kind, value, depth + 1),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| texts(kind, item, depth + 1)),
        _ => {}
    }
}

/// As [`typed`], with a warning or an error for what is dropped, as `fieldValidation` says; `Warn` unless it says otherwise.
pub(super) fn validated(ask: &Ask, kind: &Kind, mut value: Value, warnings: &mut Vec<String>) -> Result<Value, Misfit> {
    texts(kind, &mut value, 0);
    let mut unknown = Vec::new();
    let level = ask.option("fieldValidation").unwrap_or("Warn");
    let value = typed(kind, value, (level != "Ignore").then_some(&mut unknown))?;
    match level {
        "Strict" if !unknown.is_empty() => return Err(Misfit::Unknown(unknown)),
        _ => warnings.extend(unknown.iter().map(|field| format!("unknown field \"{field}\""))),
    }
    Ok(value)
}

/// Drops what the kind does not know, and `apiVersion` and `kind` themselves. What is dropped is named in `unknown`.
pub(super) fn typed(kind: &Kind, value: Value, unknown: Option<&mut Vec<String>>) -> Result<Value, Misfit> {
    let raw = unknown.is_some().then(|| value.clone());
    let mut value = match kind.typed {
        Some(typed) => {
            let mut value = typed(value).map_err(|error| Misfit::Type(error.to_string()))?;
            tidy(&mut value, 0);
            quantity::shorten(&mut value, 0).map_err(|why| Misfit::Type(why.to_owned()))?;
            value
        }
        None => {
            let mut value = value;
            crd::prune(&kind.schema, &mut value);
            value
        }
    };
    if let (Some(raw), Some(unknown)) = (raw, unknown) {
        lost(&raw, &value, "", unknown);
        unknown.sort();
    }
    if kind.typed.is_none() {
        crd::default(&kind.schema, &mut value);
    }
    if let Some(map) = value.as_object_mut() {
        map.shift_remove("apiVersion");
        map.shift_remove("kind");
    }
    Ok(value)
}

/// Fields that are in one and not in the other. Empty values are dropped by typed kinds and count as there.
fn lost(raw: &Value, kept: &Value, path: &str, into: &mut Vec<String>) {
    match (raw, kept) {
        (Value::Object(raw), Value::Object(kept)) => {
            for (name, value) in raw {
                let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &here, into),
                    None if empty(value) => {}
                    None => into.push(here),
                }
            }
        }
        (Value::Array(raw), Value::Array(kept)) if raw.len() == kept.len() => {
            for (n, (raw, kept)) in raw.iter().zip(kept).enumerate() {
                lost(raw, kept, &format!("{path}[{n}]"), into);
            }
        }
        _ => {}
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Drops what Go's `omitempty` drops: empty lists, and empty maps of strings (an empty struct is kept, as in `emptyDir: {}`).
fn tidy(value: &mut Value, depth: usize) {
    const MAPS: [&str; 9] =
        ["labels", "annotations", "matchLabels", "nodeSelector", "data", "binaryData", "stringData", "limits", "requests"];
    const LISTS_KEPT: [&str; 2] = ["containers", "rules"];
    if depth > 128 {
        return;
    }
    match value {
        Value::Object(map) => {
            map.retain(|name, value| match value {
                Value::Object(map) => !(map.is_empty() && MAPS.contains(&name.as_str())),
                Value::Array(items) => !items.is_empty() || LISTS_KEPT.contains(&name.as_str()),
                Value::Null => false,
                _ => true,
            });
            for value in map.values_mut() {
                tidy(value, depth + 1);
            }
        }
        Value::Array(items) => {
            for item in items {
                tidy(item, depth + 1);
            }
        }
        _ => {}
    }
}
