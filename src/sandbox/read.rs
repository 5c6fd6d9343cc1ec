//! Get and list: selectors, pages, versions, metadata only.

use std::sync::Arc;

use base64::Engine as _;
use kube::core::Expression;
use serde_json::{Value, json};

use super::{
    core::State,
    kinds::Kind,
    refusal::{Answer, FieldError, Refusal},
    request::{Ask, Place},
    store::{Key, Stored},
};

/// Label and field selectors.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    labels: Vec<Expression>,
    fields: Vec<FieldTest>,
}

/// One term of a field selector.
#[derive(Debug, Clone)]
struct FieldTest {
    /// Where the field is.
    pointer: String,
    /// What it is if it is not there.
    missing: &'static str,
    equal: bool,
    wanted: String,
}

impl Filter {
    /// Of a request.
    ///
    /// # Errors
    /// 400: one cannot be read, or the kind has no such field.
    pub(super) fn read(ask: &Ask, kind: &Kind) -> Answer<Self> {
        let labels = ask
            .option("labelSelector")
            .map(|text| {
                crate::selector::parse(text).map_err(|error| Refusal::bad_request(format!("unable to parse requirement: {}", error.why)))
            })
            .transpose()?
            .map_or_else(Vec::new, |selector| selector.into_iter().collect());
        let mut fields = Vec::new();
        for part in ask.option("fieldSelector").unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
            let (name, equal, value) = if let Some((name, value)) = part.split_once("!=") {
                (name, false, value)
            } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (name, true, value)
            } else {
                let why = format!("invalid selector: '{part}'; can't understand '{part}'");
                return Err(Refusal::bad_request(why));
            };
            let known =
                name == "metadata.name" || kind.namespaced && name == "metadata.namespace" || kind.selectable.iter().any(|f| f == name);
            if !known {
                return Err(Refusal::bad_request(if kind.selectable.is_empty() && !kind.custom() {
                    format!("\"{name}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                } else {
                    format!("field label not supported: {name}")
                }));
            }
            let (pointer, missing) = field(kind, name);
            fields.push(FieldTest { pointer, missing, equal, wanted: value.to_owned() });
        }
        Ok(Self { labels, fields })
    }

    /// Whether everything passes.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object passes.
    pub(super) fn matches(&self, value: &Value) -> bool {
        let labels = value.get("metadata").and_then(|metadata| metadata.get("labels"));
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        let passes = |expression: &Expression| match expression {
            Expression::In(key, values) => label(key).is_some_and(|value| values.contains(value)),
            Expression::NotIn(key, values) => label(key).is_none_or(|value| !values.contains(value)),
            Expression::Equal(key, wanted) => label(key) == Some(wanted),
            Expression::NotEqual(key, wanted) => label(key) != Some(wanted),
            Expression::Exists(key) => label(key).is_some(),
            Expression::DoesNotExist(key) => label(key).is_none(),
        };
        self.labels.iter().all(passes)
            && self.fields.iter().all(|test| {
                let same = match value.pointer(&test.pointer) {
                    Some(Value::String(text)) => *text == test.wanted,
                    Some(Value::Null) | None => test.missing == test.wanted,
                    Some(other) => printed(other) == test.wanted,
                };
                same == test.equal
            })
    }
}

/// A value that is no text, as it is compared with one.
fn printed(value: &Value) -> String {
    value.to_string()
}

/// Where a field of a selector is, and what a missing one is taken for.
fn field(kind: &Kind, name: &str) -> (String, &'static str) {
    let pointer = match (kind.kind.as_str(), name) {
        ("Event", "source") => "/source/component".to_owned(),
        ("Job", "status.successful") => "/status/succeeded".to_owned(),
        _ => format!("/{}", name.replace('.', "/")),
    };
    let missing = match name {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.successful" | "status.replicas" => "0",
        _ => "",
    };
    (pointer, missing)
}

/// The bytes of an object as it is answered.
pub(super) fn object_json(ask: &Ask, kind: &Kind, stored: &Stored) -> Vec<u8> {
    if ask.only_metadata() {
        let metadata = stored.value.get("metadata").unwrap_or(&Value::Null);
        return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}).to_string().into_bytes();
    }
    let mut bytes = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\"", kind.kind, kind.api_version()).into_bytes();
    push_rest(&mut bytes, stored.json());
    bytes
}

/// Adds an object's fields to an object that was begun.
fn push_rest(bytes: &mut Vec<u8>, json: &[u8]) {
    if json.len() > 2 {
        bytes.push(b',');
        bytes.extend_from_slice(&json[1..]);
    } else {
        bytes.push(b'}');
    }
}

/// A list that has to wait, because it must not be older than what this server knows.
#[derive(Debug)]
pub(super) struct NotYet(pub(super) u64);

/// What a `continue` token holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Token {
    /// The version of the whole list.
    rv: u64,
    /// The last object of the page before.
    after: Key,
    /// Objects are as they are now, because that version is forgotten.
    #[serde(default)]
    inconsistent: bool,
}

impl Token {
    fn write(&self) -> String {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn read(text: &str) -> Answer<Self> {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            let at = text.find(|c| !legal(c)).unwrap_or(text.len());
            let why = format!("invalid continue token: continue key is not valid: illegal base64 data at input byte {at}");
            Refusal::bad_request(why)
        })
    }
}

fn wrong_options(error: FieldError) -> Refusal {
    Refusal::invalid_as("meta.k8s.io", "ListOptions", "", &[error])
}

/// `resourceVersion` of a request; empty and absent are the same.
fn version_of(ask: &Ask) -> Answer<Option<u64>> {
    let read = |text: &str| {
        text.parse().map_err(|_| {
            let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
            let why = format!("resourceVersion: Invalid value: \"{text}\": {why}");
            if ask.verb == "watch" { Refusal::new(500, "", why) } else { Refusal::bad_request(format!("invalid resource version: {why}")) }
        })
    };
    ask.option("resourceVersion").map(read).transpose()
}

/// Which versions a list or watch may have.
///
/// # Errors
/// 422: options that do not go together (`metav1.ValidateListOptions`).
pub(super) fn check_versions(ask: &Ask) -> Answer<Option<u64>> {
    let version = version_of(ask)?;
    let initial = ask.option("sendInitialEvents").is_some();
    let matching = ask.option("resourceVersionMatch");
    if initial {
        if matching != Some("NotOlderThan") {
            return Err(wrong_options(FieldError::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )));
        }
        if ask.verb != "watch" {
            return Err(wrong_options(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")));
        }
        return Ok(version);
    }
    let Some(matching) = matching else { return Ok(version) };
    let wrong = if ask.verb == "watch" {
        Some(FieldError::forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden for watch"))
    } else if version.is_none() {
        Some(FieldError::forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"))
    } else if ask.option("continue").is_some() {
        Some(FieldError::forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
    } else if matching != "Exact" && matching != "NotOlderThan" {
        Some(FieldError::not_supported("resourceVersionMatch", matching, &["Exact", "NotOlderThan", ""]))
    } else if matching == "Exact" && version == Some(0) {
        Some(FieldError::forbidden("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
    } else {
        None
    };
    wrong.map_or(Ok(version), |error| Err(wrong_options(error)))
}

impl State {
    /// GET of an object.
    ///
    /// # Errors
    /// 404.
    pub(super) fn get(&self, kind: &Kind, place: &Place) -> Answer<Arc<Stored>> {
        self.found(kind, place)
    }

    /// GET of a list: its JSON.
    ///
    /// # Errors
    /// 400, 422: wrong options. 410: the version is forgotten. The inner error: the version is not reached yet.
    pub(super) fn list(&self, ask: &Ask, kind: &Kind, place: &Place) -> Answer<Result<Vec<u8>, NotYet>> {
        let filter = Filter::read(ask, kind)?;
        let limit = ask.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let wanted = check_versions(ask)?;
        let shelf = kind.shelf();
        let exact = ask.option("resourceVersionMatch") == Some("Exact")
            || ask.option("resourceVersionMatch").is_none() && limit.is_some() && wanted.is_some_and(|version| version > 0);
        let now = self.store.version();
        if wanted.is_some_and(|wanted| wanted > now) {
            return Ok(Err(NotYet(wanted.unwrap_or_default())));
        }
        let mut version = now;
        let mut after = None;
        if let Some(token) = ask.option("continue") {
            if wanted.is_some_and(|version| version > 0) {
                return Err(Refusal::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token = Token::read(token)?;
            after = Some(token.after);
            if !token.inconsistent {
                version = token.rv;
            }
        } else if exact {
            version = wanted.unwrap_or(now);
        }
        if version == now {
            let found = self.store.list(shelf, &place.namespace);
            return Ok(Ok(self.page(ask, kind, found, &filter, limit, version, after)));
        }
        let Some(past) = self.store.list_at(shelf, &place.namespace, version) else {
            return Err(match after {
                None => Refusal::expired("The resourceVersion for the provided list is too old."),
                Some(after) => {
                    let token = Token { rv: now, after, inconsistent: true };
                    Refusal::expired(
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
                         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
                         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
                         deleted between the time the first chunk was returned and now may show up in the list.",
                    )
                    .with_continue(token.write())
                }
            });
        };
        Ok(Ok(self.page(ask, kind, past.iter(), &filter, limit, version, after)))
    }

    #[expect(clippy::too_many_arguments, reason = "the options of one list")]
    fn page<'a>(
        &self,
        ask: &Ask,
        kind: &Kind,
        objects: impl Iterator<Item = (&'a Key, &'a Arc<Stored>)>,
        filter: &Filter,
        limit: Option<usize>,
        version: u64,
        after: Option<Key>,
    ) -> Vec<u8> {
        let partial = ask.only_metadata();
        let (list, api_version) = if partial {
            ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
        } else {
            (kind.list.clone(), kind.api_version())
        };
        let mut items: Vec<u8> = Vec::new();
        let mut last: Option<&Key> = None;
        let (mut count, mut remaining) = (0, 0_u64);
        for (key, stored) in objects {
            if after.as_ref().is_some_and(|after| key <= after) || !filter.matches(&stored.value) {
                continue;
            }
            if limit.is_some_and(|limit| count >= limit) {
                remaining += 1;
                continue;
            }
            if count > 0 {
                items.push(b',');
            }
            // Items of built-in kinds say neither kind nor version: the list does.
            if partial || kind.custom() {
                items.extend(object_json(ask, kind, stored));
            } else {
                items.extend_from_slice(stored.json());
            }
            count += 1;
            last = Some(key);
        }
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if remaining > 0
            && let Some(last) = last
        {
            metadata["continue"] = Value::from(Token { rv: version, after: last.clone(), inconsistent: false }.write());
            if filter.is_empty() {
                metadata["remainingItemCount"] = Value::from(remaining);
            }
        }
        let mut bytes = format!("{{\"kind\":\"{list}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[").into_bytes();
        bytes.append(&mut items);
        bytes.extend_from_slice(b"]}");
        bytes
    }
}

/// The answer to a list that wants a version which is never reached.
pub(super) fn too_new(wanted: u64, now: u64) -> Refusal {
    Refusal::new(504, "Timeout", format!("Timeout: Too large resource version: {wanted}, current: {now}"))
        .cause("ResourceVersionTooLarge", "Too large resource version", "")
        .retry_after(1)
}
