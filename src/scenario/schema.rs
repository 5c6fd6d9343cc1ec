//! JSON Schema of the language, made from the types: what editors use, and what [`super::check`] walks.

use std::sync::LazyLock;

use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{RecursiveTransform, Transform},
};
use serde_json::{Map, Value, json};

use super::types::{API_VERSION, Environment, Scenario};

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// A scenario.
    Scenario,
    /// An environment.
    Environment,
}

impl Document {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Scenario, Self::Environment];

    /// As in the document's `kind`.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Scenario => "Scenario",
            Self::Environment => "Environment",
        }
    }

    /// The schema of its documents, draft 2020-12, as the check walks it: a kind's choices are in `x-one-of`, and `x-names` says of a text
    /// (or a list of them) that it names a `target`, a `probe` or a `step` of the scenario.
    pub(crate) fn walked(self) -> &'static Value {
        static SCENARIO: LazyLock<Value> = LazyLock::new(generate::<Scenario>);
        static ENVIRONMENT: LazyLock<Value> = LazyLock::new(generate::<Environment>);
        match self {
            Self::Scenario => &SCENARIO,
            Self::Environment => &ENVIRONMENT,
        }
    }

    /// The schema for editors: besides, `x-one-of` is said in JSON Schema's own words, and `apiVersion` and `kind` are fixed.
    pub fn schema(self) -> Value {
        let mut schema = self.walked().clone();
        one_of(&mut schema);
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            set(properties, "apiVersion", "const", json!(API_VERSION));
            set(properties, "kind", "const", json!(self.kind()));
        }
        if let Some(root) = schema.as_object_mut() {
            root.insert("$id".to_owned(), json!(format!("https://firedrill.dev/schema/v1alpha1/{}.json", self.kind().to_lowercase())));
        }
        schema
    }
}

fn set(properties: &mut Map<String, Value>, name: &str, key: &str, value: Value) {
    if let Some(property) = properties.get_mut(name).and_then(Value::as_object_mut) {
        property.insert(key.to_owned(), value);
    }
}

fn generate<T: JsonSchema>() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    RecursiveTransform(no_null).transform(&mut schema);
    schema.to_value()
}

/// A key that is written must have a value: `freeze:` alone is a mistake, not the absence of a freeze.
fn no_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(any)) = object.get_mut("anyOf") {
        any.retain(|s| s.get("type") != Some(&json!("null")));
        if let [Value::Object(only)] = any.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    if object.get("default") == Some(&Value::Null) {
        object.remove("default");
    }
}

/// `x-one-of: [a, b]` as `oneOf: [{required: [a]}, {required: [b]}]`, for editors, and no word of what only the check reads.
fn one_of(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(one_of);
            object.remove("x-names");
            if let Some(Value::Array(kinds)) = object.remove("x-one-of") {
                let choices: Vec<Value> = kinds.iter().map(|kind| json!({"required": [kind]})).collect();
                object.insert("oneOf".to_owned(), Value::Array(choices));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(one_of),
        _ => {}
    }
}
