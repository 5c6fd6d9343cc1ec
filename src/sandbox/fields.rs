//! Sets of fields, as `managedFields` holds them (`fieldsV1`), and the questions server-side apply asks of them: which
//! fields an object has, how two objects differ, what is taken away (`sigs.k8s.io/structured-merge-diff`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::{List, Schema};

/// A set of fields: a tree in which each node may be a member itself. Steps are written as in `fieldsV1`: `f:spec`,
/// `k:{"name":"web"}`, `v:"value"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    member: bool,
    below: BTreeMap<String, Fields>,
}

impl Fields {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.values().all(Self::is_empty)
    }

    fn insert(&mut self, path: &[String]) {
        let mut at = self;
        for step in path {
            at = at.below.entry(step.clone()).or_default();
        }
        at.member = true;
    }

    fn tidy(mut self) -> Self {
        self.below.retain(|_, below| !below.is_empty());
        self
    }

    /// Members of either.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.member |= other.member;
        for (step, below) in &other.below {
            match all.below.get_mut(step) {
                Some(mine) => *mine = mine.union(below),
                None => drop(all.below.insert(step.clone(), below.clone())),
            }
        }
        all
    }

    /// Members of this that are not members of the other.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let below = self.below.iter().map(|(step, mine)| {
            let left = other.below.get(step).map_or_else(|| mine.clone(), |theirs| mine.difference(theirs));
            (step.clone(), left)
        });
        Self { member: self.member && !other.member, below: below.collect() }.tidy()
    }

    /// Members of both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let below = self.below.iter().filter_map(|(step, mine)| Some((step.clone(), mine.intersection(other.below.get(step)?))));
        Self { member: self.member && other.member, below: below.collect() }.tidy()
    }

    /// Without these fields and all below them.
    fn without(mut self, path: &[&str]) -> Self {
        match path {
            [] => Self::default(),
            [last] => {
                self.below.remove(*last);
                self
            }
            [step, rest @ ..] => {
                if let Some(below) = self.below.remove(*step) {
                    let left = below.without(rest);
                    if !left.is_empty() {
                        self.below.insert((*step).to_owned(), left);
                    }
                }
                self
            }
        }
    }

    /// Without what no manager owns, because the API server sets it (`stripSet` of the field manager; status or all but
    /// status, as each kind's `GetResetFields` says).
    pub(super) fn owned(self, subresource: &str, has_status: bool) -> Self {
        const SYSTEM: [&str; 8] =
            ["f:name", "f:namespace", "f:creationTimestamp", "f:selfLink", "f:uid", "f:managedFields", "f:generation", "f:resourceVersion"];
        let mut left = self.without(&["f:apiVersion"]).without(&["f:kind"]);
        if let Some(metadata) = left.below.get_mut("f:metadata") {
            metadata.member = false;
        }
        for step in SYSTEM {
            left = left.without(&["f:metadata", step]);
        }
        for step in ["f:deletionTimestamp", "f:deletionGracePeriodSeconds"] {
            left = left.without(&["f:metadata", step]);
        }
        match subresource {
            "" if has_status => left = left.without(&["f:status"]),
            "status" => left = left.without(&["f:spec"]),
            _ => {}
        }
        left.member = false;
        left.tidy()
    }

    /// As `fieldsV1`.
    pub(super) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, below) in &self.below {
            map.insert(step.clone(), below.to_json());
        }
        Value::Object(map)
    }

    /// From `fieldsV1`.
    pub(super) fn from_json(value: &Value) -> Self {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Self {
        let mut fields = Self::default();
        let Some(map) = value.as_object() else { return fields };
        if depth > 128 {
            return fields;
        }
        fields.member = depth > 0 && (map.is_empty() || map.contains_key("."));
        for (step, below) in map {
            if step != "." {
                fields.below.insert(canonical(step), Self::read(below, depth + 1));
            }
        }
        fields
    }

    /// Each member as Kubernetes writes a path: `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.gather(String::new(), &mut all);
        all
    }

    fn gather(&self, path: String, all: &mut Vec<String>) {
        for (step, below) in &self.below {
            let here = match step.split_at_checked(2) {
                Some(("f:", name)) => format!("{path}.{name}"),
                Some(("k:", keys)) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    format!("{path}[{}]", keys.join(","))
                }
                Some(("v:", value)) => format!("{path}[={value}]"),
                _ => format!("{path}[{step}]"),
            };
            if below.member {
                all.push(here.clone());
            }
            below.gather(here, all);
        }
    }
}

/// The same step in the one spelling used here: keys sorted, no spaces.
fn canonical(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("k:", keys)) => match serde_json::from_str::<BTreeMap<String, Value>>(keys) {
            Ok(keys) => format!("k:{}", serde_json::to_string(&keys).unwrap_or_default()),
            Err(_) => step.to_owned(),
        },
        _ => step.to_owned(),
    }
}

/// The step to a list's item; none in a list that is one value.
pub(super) fn item_step(schema: &Schema, item: &Value) -> Option<String> {
    match &schema.list {
        List::Atomic => None,
        List::Set => Some(format!("v:{item}")),
        List::Keyed(keys) => {
            let mut found = BTreeMap::new();
            for key in keys {
                let value = item.get(key).cloned().or_else(|| default_key(key))?;
                found.insert(key, value);
            }
            Some(format!("k:{}", serde_json::to_string(&found).ok()?))
        }
    }
}

/// Keys that have a default in the API's schema.
fn default_key(key: &str) -> Option<Value> {
    (key == "protocol").then(|| Value::from("TCP"))
}

/// A value's children, by step; none if it is one value to the schema (`None`).
fn children<'a>(schema: &'a Schema, value: &'a Value) -> Option<Vec<(String, &'a Schema, &'a Value)>> {
    match value {
        Value::Object(map) if !schema.atomic => {
            Some(map.iter().map(|(name, value)| (format!("f:{name}"), schema.field(name), value)).collect())
        }
        Value::Array(items) if schema.list != List::Atomic => {
            Some(items.iter().filter_map(|item| Some((item_step(schema, item)?, schema.item(), item))).collect())
        }
        _ => None,
    }
}

/// The fields that an object has (`TypedValue.ToFieldSet`).
pub(super) fn of(schema: &Schema, value: &Value) -> Fields {
    let mut fields = Fields::default();
    collect(schema, value, &mut Vec::new(), &mut fields);
    fields
}

fn collect(schema: &Schema, value: &Value, path: &mut Vec<String>, fields: &mut Fields) {
    let Some(below) = children(schema, value) else {
        return fields.insert(path);
    };
    if below.is_empty() {
        return if value.is_object() && !path.is_empty() {
            fields.insert(path)
        };
    }
    for (step, schema, value) in below {
        let in_list = !step.starts_with("f:");
        path.push(step);
        collect(schema, value, path, fields);
        if in_list {
            fields.insert(path);
        }
        path.pop();
    }
}

/// How two objects differ (`typed.Comparison`).
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: Fields,
    pub(super) modified: Fields,
    pub(super) removed: Fields,
}

/// Compares an object before and after.
pub(super) fn compare(schema: &Schema, before: &Value, after: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    walk(schema, Some(before), Some(after), &mut Vec::new(), &mut comparison);
    comparison
}

fn walk(schema: &Schema, before: Option<&Value>, after: Option<&Value>, path: &mut Vec<String>, into: &mut Comparison) {
    if before == after {
        return;
    }
    let empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    let left = before.map(|value| children(schema, value));
    let right = after.map(|value| children(schema, value));
    let leaf = matches!(left, Some(None)) || matches!(right, Some(None)) || empty(before) && empty(after);
    if !leaf {
        let old: BTreeMap<String, (&Schema, &Value)> =
            left.flatten().into_iter().flatten().map(|(step, schema, value)| (step, (schema, value))).collect();
        let new: BTreeMap<String, (&Schema, &Value)> =
            right.flatten().into_iter().flatten().map(|(step, schema, value)| (step, (schema, value))).collect();
        for (step, (schema, value)) in &new {
            path.push(step.clone());
            walk(schema, old.get(step).map(|(_, value)| *value), Some(value), path, into);
            path.pop();
        }
        for (step, (schema, value)) in &old {
            if !new.contains_key(step) {
                path.push(step.clone());
                walk(schema, Some(value), None, path, into);
                path.pop();
            }
        }
    }
    match (before, after) {
        (None, _) => into.added.insert(path),
        (_, None) => into.removed.insert(path),
        _ if leaf => into.modified.insert(path),
        _ => {}
    }
}

/// Merges a configuration into an object: its fields win, keyed items are merged, items of sets are added
/// (`TypedValue.Merge`).
pub(super) fn merge(schema: &Schema, live: &mut Value, config: &Value) {
    match (&mut *live, config) {
        (Value::Object(live), Value::Object(config)) if !schema.atomic => {
            for (name, value) in config {
                match live.get_mut(name) {
                    Some(mine) => merge(schema.field(name), mine, value),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(mine), Value::Array(theirs)) if schema.list != List::Atomic => merge_items(schema, mine, theirs),
        (live, config) => *live = config.clone(),
    }
}

/// Both lists side by side: what both have comes in the configuration's order, and what only one has stays behind what it stood behind there. Where
/// either could come first, what only the live object has does.
fn merge_items(schema: &Schema, live: &mut Vec<Value>, config: &[Value]) {
    let steps = |items: &[Value]| -> Vec<Option<String>> { items.iter().map(|item| item_step(schema, item)).collect() };
    let (mine, theirs) = (steps(live), steps(config));
    let mut merged: Vec<Value> = Vec::with_capacity(live.len() + config.len());
    // Of those that both have, the one whose turn it is.
    let mut shared = theirs.iter().filter(|step| mine.contains(step)).peekable();
    let (mut at, mut taken) = (0, 0);
    while at < live.len() || taken < config.len() {
        let next = theirs.get(taken);
        match mine.get(at) {
            Some(step) if !theirs.contains(step) => {
                merged.push(live[at].clone());
                at += 1;
                continue;
            }
            // It comes later in the configuration, or has come.
            Some(step) if next.is_none() || next != Some(step) && shared.peek().is_some_and(|turn| *turn != step) => {
                at += 1;
                continue;
            }
            Some(step) if next == Some(step) || shared.peek().is_none() => at += 1,
            _ => {}
        }
        let (Some(item), Some(step)) = (config.get(taken), next) else { break };
        merged.push(match mine.iter().position(|other| other == step) {
            Some(found) => {
                let mut both = live[found].clone();
                merge(schema.item(), &mut both, item);
                both
            }
            None => item.clone(),
        });
        taken += 1;
        shared.next_if_eq(&step);
    }
    *live = merged;
}

/// Takes fields away: a member goes with all below it unless `kept` has something there.
pub(super) fn remove(schema: &Schema, value: &mut Value, gone: &Fields, kept: &Fields) {
    let goes = |step: &str, gone: &Fields, kept: &Fields| {
        gone.below.get(step).is_some_and(|g| g.member) && kept.below.get(step).is_none_or(Fields::is_empty)
    };
    match value {
        Value::Object(map) if !schema.atomic => {
            map.retain(|name, _| !goes(&format!("f:{name}"), gone, kept));
            let none = Fields::default();
            let mut emptied = Vec::new();
            for (name, value) in map.iter_mut() {
                let step = format!("f:{name}");
                if let Some(below) = gone.below.get(&step) {
                    remove(schema.field(name), value, below, kept.below.get(&step).unwrap_or(&none));
                    let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
                    if empty && kept.below.get(&step).is_none_or(Fields::is_empty) {
                        emptied.push(name.clone());
                    }
                }
            }
            for name in emptied {
                map.shift_remove(&name);
            }
        }
        Value::Array(items) if schema.list != List::Atomic => {
            items.retain(|item| !item_step(schema, item).is_some_and(|step| goes(&step, gone, kept)));
            let none = Fields::default();
            for item in items.iter_mut() {
                let Some(step) = item_step(schema, item) else { continue };
                if let Some(below) = gone.below.get(&step) {
                    remove(schema.item(), item, below, kept.below.get(&step).unwrap_or(&none));
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sandbox::schema;

    fn pod(containers: Value) -> Value {
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn fields_are_written_as_kubernetes_writes_them() {
        let schema = schema::built_in("Pod");
        let value = json!({
            "metadata": {"labels": {"app": "web"}, "finalizers": ["a/b"]},
            "spec": {"containers": [{"name": "web", "image": "web:1", "args": ["x"]}], "nodeSelector": {"zone": "a"}},
        });
        let fields = of(&schema, &value);
        let written = fields.to_json();
        assert_eq!(
            written,
            json!({
                "f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}, "f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:args": {}, "f:image": {}, "f:name": {}}},
                    "f:nodeSelector": {},
                },
            })
        );
        assert_eq!(Fields::from_json(&written), fields);
        let paths = fields.paths();
        assert!(paths.contains(&".spec.containers[name=\"web\"].image".to_owned()), "{paths:?}");
        assert!(paths.contains(&".metadata.finalizers[=\"a/b\"]".to_owned()), "{paths:?}");
    }

    #[test]
    fn a_comparison_tells_added_changed_and_removed() {
        let schema = schema::built_in("Pod");
        let before = pod(json!([{"name": "web", "image": "web:1"}, {"name": "old", "image": "old:1"}]));
        let after = pod(json!([{"name": "new", "image": "new:1"}, {"name": "web", "image": "web:2"}]));
        let changes = compare(&schema, &before, &after);
        assert_eq!(changes.modified.paths(), [".spec.containers[name=\"web\"].image"]);
        assert!(changes.added.paths().contains(&".spec.containers[name=\"new\"]".to_owned()));
        assert!(changes.removed.paths().contains(&".spec.containers[name=\"old\"].image".to_owned()));
        let same = compare(&schema, &after, &after);
        assert!(same.added.is_empty() && same.modified.is_empty() && same.removed.is_empty());
    }

    #[test]
    fn a_merge_keeps_what_only_the_live_object_has() {
        let schema = schema::built_in("Pod");
        let mut live = pod(json!([{"name": "side", "image": "side:1"}, {"name": "web", "image": "web:1", "tty": true}]));
        merge(&schema, &mut live, &pod(json!([{"name": "web", "image": "web:2"}, {"name": "new", "image": "new:1"}])));
        let wanted = json!([
            {"name": "side", "image": "side:1"}, {"name": "web", "image": "web:2", "tty": true}, {"name": "new", "image": "new:1"},
        ]);
        assert_eq!(live["spec"]["containers"], wanted);
    }

    #[test]
    fn a_merge_keeps_the_order_of_both() {
        let schema = schema::built_in("Pod");
        let list = |names: &str| pod(names.chars().map(|name| json!({"name": name.to_string()})).collect());
        for (live, config, wanted) in [
            ("m", "s", "ms"),
            ("ms", "m", "ms"),
            ("ab", "ba", "ba"),
            ("abc", "ca", "bca"),
            ("abc", "cxa", "bcxa"),
            ("axb", "ayb", "axyb"),
            ("", "ab", "ab"),
            ("ab", "", "ab"),
        ] {
            let mut merged = list(live);
            merge(&schema, &mut merged, &list(config));
            assert_eq!(merged, list(wanted), "{live} and {config}");
        }
    }

    #[test]
    fn what_is_taken_away_leaves_what_others_own() {
        let schema = schema::built_in("ConfigMap");
        let mut value = json!({"data": {"a": "1", "b": "2"}, "metadata": {"annotations": {"x": "y"}}});
        let gone = of(&schema, &json!({"data": {"a": "1", "b": "2"}, "metadata": {"annotations": {"x": "y"}}}));
        let kept = of(&schema, &json!({"data": {"b": "2"}}));
        remove(&schema, &mut value, &gone.difference(&kept), &kept);
        assert_eq!(value, json!({"data": {"b": "2"}}));
    }

    #[test]
    fn sets_of_fields_are_sets() {
        let schema = schema::built_in("ConfigMap");
        let (a, b) = (of(&schema, &json!({"data": {"a": "1", "b": "2"}})), of(&schema, &json!({"data": {"b": "2", "c": "3"}})));
        assert_eq!(a.union(&b), of(&schema, &json!({"data": {"a": "1", "b": "2", "c": "3"}})));
        assert_eq!(a.intersection(&b), of(&schema, &json!({"data": {"b": "2"}})));
        assert_eq!(a.difference(&b), of(&schema, &json!({"data": {"a": "1"}})));
        assert!(a.difference(&a).is_empty());
    }
}
