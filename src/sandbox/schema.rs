//! How the parts of an object merge: which lists are sets or are keyed, which maps are one value. Server-side apply and
//! strategic merge patch both ask this.
//!
//! For built-in kinds only what departs from the rule is written down (`+listType`, `+mapType`, `patchMergeKey` and
//! `patchStrategy` of `k8s.io/api`): a map is merged field by field, a list is one value. For custom resources it comes
//! from the CustomResourceDefinition (KEP-2332, `x-kubernetes-list-type` and its like).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

/// How a list merges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum List {
    /// It is one value.
    #[default]
    Atomic,
    /// Of scalars, each of which is owned.
    Set,
    /// Of maps told apart by these fields.
    Keyed(Vec<String>),
}

/// What a custom resource's schema asks of a value.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) kind: Option<String>,
    pub(super) required: Vec<String>,
    pub(super) values: Vec<Value>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) default: Option<Value>,
    pub(super) nullable: bool,
    pub(super) int_or_string: bool,
    /// Fields that are not named are dropped.
    pub(super) closed: bool,
}

/// A part of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Schema {
    /// A map that is one value.
    pub(super) atomic: bool,
    pub(super) list: List,
    /// The field by which strategic merge patch tells a list's items apart; the first key unless said otherwise.
    pub(super) merge_key: Option<String>,
    pub(super) fields: BTreeMap<String, Schema>,
    /// Of fields that are not named.
    pub(super) rest: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    /// Custom resources only.
    pub(super) rules: Option<Box<Rules>>,
}

/// Of what no schema mentions.
static PLAIN: Schema =
    Schema { atomic: false, list: List::Atomic, merge_key: None, fields: BTreeMap::new(), rest: None, items: None, rules: None };

impl Schema {
    /// Of a field.
    pub(super) fn field(&self, name: &str) -> &Self {
        self.fields.get(name).or(self.rest.as_deref()).unwrap_or(&PLAIN)
    }

    /// Of a list's items.
    pub(super) fn item(&self) -> &Self {
        self.items.as_deref().unwrap_or(&PLAIN)
    }

    /// The field by which strategic merge patch tells items apart, if the list is merged at all.
    pub(super) fn strategic_key(&self) -> Option<&str> {
        match (&self.merge_key, &self.list) {
            (Some(key), _) => Some(key),
            (None, List::Keyed(keys)) => keys.first().map(String::as_str),
            _ => None,
        }
    }

    fn with(mut self, name: &str, field: Self) -> Self {
        self.fields.insert(name.to_owned(), field);
        self
    }
}

fn map() -> Schema {
    Schema::default()
}

fn atomic() -> Schema {
    Schema { atomic: true, ..Schema::default() }
}

fn set() -> Schema {
    Schema { list: List::Set, ..Schema::default() }
}

fn keyed(keys: &[&str], item: Schema) -> Schema {
    Schema { list: List::Keyed(keys.iter().map(|&key| key.to_owned()).collect()), items: Some(Box::new(item)), ..Schema::default() }
}

/// A list that strategic merge patch merges, though server-side apply takes it for one value.
fn patched(key: &str) -> Schema {
    Schema { merge_key: Some(key.to_owned()), ..Schema::default() }
}

fn metadata() -> Schema {
    map().with("ownerReferences", keyed(&["uid"], atomic())).with("finalizers", set())
}

fn conditions() -> Schema {
    map().with("conditions", keyed(&["type"], map()))
}

fn container() -> Schema {
    map()
        .with("env", keyed(&["name"], map()))
        .with("ports", keyed(&["containerPort", "protocol"], map()))
        .with("volumeMounts", keyed(&["mountPath"], map()))
        .with("volumeDevices", keyed(&["devicePath"], map()))
        .with("resources", map().with("claims", keyed(&["name"], map())))
}

fn pod_spec() -> Schema {
    map()
        .with("containers", keyed(&["name"], container()))
        .with("initContainers", keyed(&["name"], container()))
        .with("ephemeralContainers", keyed(&["name"], container()))
        .with("volumes", keyed(&["name"], map()))
        .with("imagePullSecrets", keyed(&["name"], atomic()))
        .with("hostAliases", keyed(&["ip"], map()))
        .with("topologySpreadConstraints", keyed(&["topologyKey", "whenUnsatisfiable"], map()))
        .with("schedulingGates", keyed(&["name"], map()))
        .with("resourceClaims", keyed(&["name"], map()))
        .with("nodeSelector", atomic())
}

fn template() -> Schema {
    map().with("metadata", metadata()).with("spec", pod_spec())
}

fn workload() -> Schema {
    map().with("selector", atomic()).with("template", template())
}

/// Of a built-in kind.
pub(super) fn built_in(kind: &str) -> Arc<Schema> {
    let root = map().with("metadata", metadata());
    let spec = |spec: Schema| root.clone().with("spec", spec).with("status", conditions());
    Arc::new(match kind {
        "Pod" => root.clone().with("spec", pod_spec()).with("status", conditions().with("podIPs", keyed(&["ip"], map()))),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => spec(workload()),
        "Job" => root.clone().with("spec", workload()).with("status", map().with("conditions", patched("type"))),
        "CronJob" => spec(map().with("jobTemplate", map().with("metadata", metadata()).with("spec", workload()))),
        "Service" => spec(map().with("selector", atomic()).with("ports", keyed(&["port", "protocol"], map()))),
        "ServiceAccount" => root.with("secrets", keyed(&["name"], map())).with("imagePullSecrets", patched("name")),
        "Node" => root
            .clone()
            .with("spec", map().with("podCIDRs", set()).with("taints", map()))
            .with("status", conditions().with("addresses", keyed(&["type"], map()))),
        "PersistentVolumeClaim" => spec(map().with("selector", atomic()).with("dataSource", atomic())),
        "PodDisruptionBudget" => spec(map().with("selector", atomic())),
        "NetworkPolicy" => spec(map().with("podSelector", atomic())),
        "ClusterRole" => root.with("aggregationRule", map()),
        "RoleBinding" | "ClusterRoleBinding" => root.with("roleRef", atomic()),
        "Event" => root.with("involvedObject", atomic()).with("related", atomic()),
        _ => spec(map()),
    })
}

/// Of a custom resource, from `spec.versions[].schema.openAPIV3Schema`. Without one every field is kept.
pub(super) fn custom(open_api: Option<&Value>) -> Arc<Schema> {
    let mut root = open_api.map_or_else(map, |schema| from_open_api(schema, 0));
    // Of these three the API server knows more than the definition says.
    root.fields.insert("metadata".to_owned(), metadata());
    root.fields.insert("apiVersion".to_owned(), map());
    root.fields.insert("kind".to_owned(), map());
    Arc::new(root)
}

/// Definitions nested deeper than this are not read: whatever is below is kept as it is.
const DEEPEST: usize = 64;

fn from_open_api(open_api: &Value, depth: usize) -> Schema {
    let text = |key: &str| open_api.get(key).and_then(Value::as_str);
    let flag = |key: &str| open_api.get(key).and_then(Value::as_bool).unwrap_or(false);
    let number = |key: &str| open_api.get(key).and_then(Value::as_f64);
    let count = |key: &str| open_api.get(key).and_then(Value::as_u64);
    let strings = |key: &str| -> Vec<String> {
        let list = open_api.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut schema = Schema::default();
    if depth >= DEEPEST {
        return schema;
    }
    schema.list = match text("x-kubernetes-list-type") {
        Some("map") => List::Keyed(strings("x-kubernetes-list-map-keys")),
        Some("set") => List::Set,
        _ => List::Atomic,
    };
    schema.atomic = text("x-kubernetes-map-type") == Some("atomic");
    for (name, field) in open_api.get("properties").and_then(Value::as_object).into_iter().flatten() {
        schema.fields.insert(name.clone(), from_open_api(field, depth + 1));
    }
    let additional = open_api.get("additionalProperties");
    if let Some(rest @ Value::Object(_)) = additional {
        schema.rest = Some(Box::new(from_open_api(rest, depth + 1)));
    }
    if let Some(items) = open_api.get("items") {
        schema.items = Some(Box::new(from_open_api(items, depth + 1)));
    }
    let keeps = flag("x-kubernetes-preserve-unknown-fields") || flag("x-kubernetes-embedded-resource") || additional.is_some();
    schema.rules = Some(Box::new(Rules {
        kind: text("type").map(str::to_owned),
        required: strings("required"),
        values: open_api.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        minimum: number("minimum"),
        maximum: number("maximum"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        default: open_api.get("default").cloned(),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        closed: !keeps,
    }));
    schema
}
