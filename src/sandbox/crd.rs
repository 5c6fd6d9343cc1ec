//! CustomResourceDefinitions: kinds that come and go while the server runs (`k8s.io/apiextensions-apiserver`).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    core::{State, as_map, map_at, meta, strings, text},
    delete::Options,
    kinds::{Generation, Kind},
    refusal::{Answer, FieldError, Refusal, Wrong},
    schema::{self, Rules, Schema},
    store::{Key, Stored},
};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
const SHELF: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// What holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Values deeper than this are neither pruned nor checked.
const DEEPEST: usize = 64;

/// Defaults of a definition's spec.
pub(super) fn defaults(spec: &mut Map<String, Value>) {
    let names = map_at(spec, "names");
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
        if names.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
            names.insert(field.to_owned(), Value::from(value));
        }
    }
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
}

/// A definition's status before it is established.
pub(super) fn before_create(value: &mut Value) {
    let versions = value.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
    let storage = versions.iter().find(|v| v["storage"] == json!(true)).map(|v| text(v, "/name").to_owned());
    let stored: Vec<String> = storage.into_iter().collect();
    as_map(value)
        .insert("status".to_owned(), json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}));
}

/// Serves what a definition says, and says in its status that it does. The real server's controllers need a moment for
/// this; here it is done when the definition is written.
pub(super) fn established(state: &mut State, stored: &Arc<Stored>) -> Arc<Stored> {
    let definition = &stored.value;
    let (group, plural) = (text(definition, "/spec/group").to_owned(), text(definition, "/spec/names/plural").to_owned());
    state.kinds.remove(&group, &plural);
    for kind in kinds(definition) {
        state.kinds.add(kind);
    }
    let mut value = definition.clone();
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let now = state.now();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
    let status = map_at(as_map(&mut value), "status");
    let done = status.get("conditions").and_then(Value::as_array).is_some_and(|all| all.iter().any(|c| text(c, "/type") == "Established"));
    status.insert("acceptedNames".to_owned(), names);
    if !done {
        status.insert(
            "conditions".to_owned(),
            json!([
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ]),
        );
    }
    if value == *definition {
        return Arc::clone(stored);
    }
    let key = Key(String::new(), text(definition, "/metadata/name").to_owned());
    state.store.put(SHELF, &key, value);
    // The answer is the object as it was written; its status follows by watch, as from a real server.
    Arc::clone(stored)
}

/// A definition as it is when the first DELETE of it is answered: it has a finalizer from then on.
pub(super) fn marked(definition: &Value, now: &str) -> Value {
    let mut value = definition.clone();
    let metadata = meta(&mut value);
    metadata.insert("deletionTimestamp".to_owned(), Value::from(now));
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(finalizers) = finalizers
        && !finalizers.iter().any(|finalizer| finalizer == CLEANUP)
    {
        finalizers.push(Value::from(CLEANUP));
    }
    let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    terminating(&mut value, "True", "InstanceDeletionPending", why, now);
    value
}

fn terminating(definition: &mut Value, status: &str, reason: &str, message: &str, now: &str) {
    let conditions = map_at(as_map(definition), "status").entry("conditions").or_insert_with(|| json!([]));
    if let Value::Array(conditions) = conditions {
        conditions.retain(|condition| text(condition, "/type") != "Terminating");
        conditions.push(json!({"type": "Terminating", "status": status, "lastTransitionTime": now, "reason": reason, "message": message}));
    }
}

/// What the finalizer stands for: the objects are deleted, and with the last of them the definition goes. The real server's controller needs a
/// moment for this; here it follows at once.
pub(super) fn clean(state: &mut State, definition: &Value) {
    let (group, plural) = (text(definition, "/spec/group").to_owned(), text(definition, "/spec/names/plural").to_owned());
    let versions: Vec<String> = kinds(definition).into_iter().map(|kind| kind.version).collect();
    let kind = versions.iter().find_map(|version| state.kinds.find(&group, version, &plural).cloned());
    if let Some(kind) = kind {
        let keys: Vec<Key> = state.store.list(kind.shelf(), "").map(|(key, _)| key.clone()).collect();
        for key in keys {
            // Whoever has finalizers stays until they are gone, and the definition with it. That one is gone already is no matter.
            let _ = state.delete_key(&kind, &key, &Options::default());
        }
    }
    cleaned(state, &group, &plural);
}

/// Takes the finalizer from a definition that is being deleted, if there are no objects any more.
pub(super) fn cleaned(state: &mut State, group: &str, plural: &str) {
    let key = Key(String::new(), format!("{plural}.{group}"));
    let Some(definition) = state.store.get(SHELF, &key).cloned() else { return };
    let held = strings(&definition.value, "/metadata/finalizers").contains(&CLEANUP);
    if !going(&definition.value) || !held || state.store.list(&format!("{group}/{plural}"), "").next().is_some() {
        return;
    }
    let mut value = definition.value.clone();
    let now = state.now();
    terminating(&mut value, "False", "InstanceDeletionCompleted", "removed all instances", &now);
    let metadata = meta(&mut value);
    if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers") {
        finalizers.retain(|finalizer| finalizer != CLEANUP);
        if finalizers.is_empty() {
            metadata.shift_remove("finalizers");
        }
    }
    let kind = state.kinds.v1(GROUP, PLURAL);
    match kind.filter(|_| strings(&value, "/metadata/finalizers").is_empty()) {
        Some(kind) => drop(state.erase(&kind, &key, Some(value))),
        None => drop(state.store.put(SHELF, &key, value)),
    }
}

fn going(definition: &Value) -> bool {
    definition.pointer("/metadata/deletionTimestamp").is_some()
}

/// Nothing is made any more of a kind whose definition is being deleted.
///
/// # Errors
/// 403.
pub(super) fn may_create(state: &State, kind: &Kind, name: &str) -> Answer<()> {
    let definition = state.store.get(SHELF, &Key(String::new(), format!("{}.{}", kind.plural, kind.group)));
    if !kind.custom() || !definition.is_some_and(|definition| going(&definition.value)) {
        return Ok(());
    }
    Err(Refusal::forbidden(&kind.group, &kind.plural, name, "create not allowed while custom resource definition is terminating"))
}

/// Serves a definition's kinds no more. Its objects go with it.
pub(super) fn gone(state: &mut State, definition: &Value) {
    let (group, plural) = (text(definition, "/spec/group").to_owned(), text(definition, "/spec/names/plural").to_owned());
    let shelf = format!("{group}/{plural}");
    let keys: Vec<Key> = state.store.list(&shelf, "").map(|(key, _)| key.clone()).collect();
    for key in keys {
        state.store.delete(&shelf, &key, None);
    }
    state.kinds.remove(&group, &plural);
}

fn kinds(definition: &Value) -> Vec<Kind> {
    let string = |pointer: &str| text(definition, pointer).to_owned();
    let list = |pointer: &str| strings(definition, pointer).into_iter().map(str::to_owned).collect();
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    versions
        .filter(|version| version["served"] == json!(true))
        .map(|version| {
            let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
            Kind {
                group: string("/spec/group"),
                version: text(version, "/name").to_owned(),
                kind: string("/spec/names/kind"),
                list: string("/spec/names/listKind"),
                plural: string("/spec/names/plural"),
                shelf: format!("{}/{}", string("/spec/group"), string("/spec/names/plural")),
                singular: string("/spec/names/singular"),
                short: list("/spec/names/shortNames"),
                categories: list("/spec/names/categories"),
                namespaced: text(definition, "/spec/scope") == "Namespaced",
                status: version.pointer("/subresources/status").is_some(),
                scale: version.pointer("/subresources/scale").is_some(),
                scale_paths: ["specReplicasPath", "statusReplicasPath", "labelSelectorPath"]
                    .map(|field| text(version, &format!("/subresources/scale/{field}")).replace('.', "/")),
                subresources: Vec::new(),
                unconditional: false,
                create_on_update: false,
                returns_deleted: false,
                generation: Generation::Custom,
                typed: None,
                review: false,
                schema: schema::custom(version.pointer("/schema/openAPIV3Schema")),
                selectable: fields.map(|f| text(f, "/jsonPath").trim_start_matches('.').to_owned()).collect(),
            }
        })
        .collect()
}

/// Drops fields that the schema does not name.
pub(super) fn prune(schema: &Schema, value: &mut Value) {
    prune_at(schema, value, 0);
}

fn prune_at(schema: &Schema, value: &mut Value, depth: usize) {
    if depth >= DEEPEST {
        return;
    }
    match value {
        Value::Object(map) => {
            let closed = schema.rules.as_ref().is_some_and(|rules| rules.closed);
            if closed && schema.rest.is_none() {
                map.retain(|name, _| schema.fields.contains_key(name));
            }
            for (name, value) in map {
                // Metadata has a type of its own.
                if depth > 0 || name != "metadata" {
                    prune_at(schema.field(name), value, depth + 1);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                prune_at(schema.item(), item, depth + 1);
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults.
pub(super) fn default(schema: &Schema, value: &mut Value) {
    default_at(schema, value, 0);
}

fn default_at(schema: &Schema, value: &mut Value, depth: usize) {
    if depth >= DEEPEST {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, field) in &schema.fields {
                let Some(rules) = &field.rules else { continue };
                let missing = map.get(name).is_none_or(|value| value.is_null() && !rules.nullable);
                if let Some(default) = rules.default.as_ref().filter(|_| missing) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map {
                default_at(schema.field(name), value, depth + 1);
            }
        }
        Value::Array(items) => {
            for item in items {
                default_at(schema.item(), item, depth + 1);
            }
        }
        _ => {}
    }
}

/// What a custom resource breaks of its schema's rules, and of those of its scale.
pub(super) fn validate(kind: &Kind, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(&kind.schema, value, "", 0, &mut errors);
    let path = &kind.scale_paths[0];
    if let Some(replicas) = value.pointer(path).filter(|_| kind.scale && !path.is_empty()) {
        let field = path.replace('/', ".");
        match (replicas.as_i64(), replicas) {
            (Some(number), _) if number < 0 => {
                errors.push(FieldError::invalid(field, number, "should be a non-negative integer"));
            }
            (None, Value::String(text)) => {
                let why = format!("{field} accessor error: {text} is of the type string, expected int64");
                errors.push(FieldError::invalid(field, 0, why));
            }
            _ => {}
        }
    }
    errors
}

fn check(schema: &Schema, value: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth >= DEEPEST {
        return;
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(rules) = &schema.rules
        && !(value.is_null() && rules.nullable)
    {
        if let Some(error) = wrong_type(rules, value, path) {
            errors.push(error);
            return;
        }
        check_value(rules, value, path, errors);
        for name in &rules.required {
            if value.as_object().is_some_and(|map| !map.contains_key(name)) {
                errors.push(FieldError::required(below(name), ""));
            }
        }
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if depth > 0 || !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                    check(schema.field(name), value, &below(name), depth + 1, errors);
                }
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                check(schema.item(), item, &format!("{path}[{n}]"), depth + 1, errors);
            }
        }
        _ => {}
    }
}

fn wrong_type(rules: &Rules, value: &Value, path: &str) -> Option<FieldError> {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if rules.int_or_string {
        return (!matches!(kind, "integer" | "string")).then(|| {
            FieldError::new(Wrong::TypeInvalid, path, value.clone(), format!("{path} in body must be of type integer,string: \"{kind}\""))
        });
    }
    let wanted = rules.kind.as_deref()?;
    if wanted == kind || wanted == "number" && kind == "integer" {
        return None;
    }
    Some(FieldError::new(Wrong::TypeInvalid, path, kind, format!("{path} in body must be of type {wanted}: \"{kind}\"")))
}

fn check_value(rules: &Rules, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path, value.clone(), detail));
    if let Some(number) = value.as_f64() {
        if let Some(minimum) = rules.minimum.filter(|minimum| number < *minimum) {
            wrong(format!("{path} in body should be greater than or equal to {minimum}"));
        }
        if let Some(maximum) = rules.maximum.filter(|maximum| number > *maximum) {
            wrong(format!("{path} in body should be less than or equal to {maximum}"));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if let Some(least) = rules.min_length.filter(|least| length < *least) {
            wrong(format!("{path} in body should be at least {least} chars long"));
        }
        if let Some(most) = rules.max_length.filter(|most| length > *most) {
            wrong(format!("{path} in body should be at most {most} chars long"));
        }
    }
    if let Some(items) = value.as_array() {
        let count = items.len() as u64;
        if let Some(least) = rules.min_items.filter(|least| count < *least) {
            wrong(format!("{path} in body should have at least {least} items"));
        }
        if let Some(most) = rules.max_items.filter(|most| count > *most) {
            wrong(format!("{path} in body should have at most {most} items"));
        }
    }
    if !rules.values.is_empty() && !rules.values.contains(value) {
        let known: Vec<&str> = rules.values.iter().filter_map(Value::as_str).collect();
        errors.push(FieldError::not_supported(path, value.as_str().unwrap_or_default(), &known));
    }
}
