//! Field managers: who owns which fields (`metadata.managedFields`), and server-side apply
//! (`k8s.io/apimachinery/pkg/util/managedfields`, `sigs.k8s.io/structured-merge-diff/merge`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    core::meta,
    fields::{self, Fields},
    kinds::Kind,
    refusal::{Answer, Refusal},
};

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) manager: String,
    /// By server-side apply.
    pub(super) apply: bool,
    pub(super) subresource: String,
}

/// What one manager owns.
#[derive(Debug, Clone)]
struct Owned {
    api_version: String,
    time: String,
    fields: Fields,
}

/// Update (after apply, in their order), manager, subresource.
type Who = (bool, String, String);

type Managers = BTreeMap<Who, Owned>;

impl Writer {
    fn key(&self) -> Who {
        (!self.apply, self.manager.clone(), self.subresource.clone())
    }
}

fn read(value: &Value) -> Managers {
    let entries = value.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let entries = entries.into_iter().flatten().filter(|entry| entry.get("fieldsV1").is_some());
    entries
        .map(|entry| {
            let key = (text(entry, "operation") != "Apply", text(entry, "manager"), text(entry, "subresource"));
            let fields = Fields::from_json(entry.get("fieldsV1").unwrap_or(&Value::Null));
            (key, Owned { api_version: text(entry, "apiVersion"), time: text(entry, "time"), fields })
        })
        .collect()
}

fn write(value: &mut Value, managers: Managers) {
    let mut entries: Vec<_> = managers.into_iter().filter(|(_, owned)| !owned.fields.is_empty()).collect();
    entries.sort_by(|(a, x), (b, y)| (a.0, &x.time, &a.1, &a.2).cmp(&(b.0, &y.time, &b.1, &b.2)));
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|((update, manager, subresource), owned)| {
            let mut entry = json!({
                "manager": manager,
                "operation": if update { "Update" } else { "Apply" },
                "apiVersion": owned.api_version,
                "time": owned.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": owned.fields.to_json(),
            });
            if !subresource.is_empty() {
                entry["subresource"] = Value::from(subresource);
            }
            entry
        })
        .collect();
    if entries.is_empty() {
        meta(value).shift_remove("managedFields");
    } else {
        meta(value).insert("managedFields".to_owned(), Value::Array(entries));
    }
}

/// Notes what a create, update or patch has changed. `after` may bring managers with it, as an update does that sends
/// back what it read; without any those of `before` count.
pub(super) fn updated(kind: &Kind, before: &Value, after: &mut Value, writer: &Writer, now: &str) {
    let mut managers = read(after);
    if is_reset(after) {
        managers.clear();
        meta(after).shift_remove("managedFields");
    } else if managers.is_empty() {
        managers = read(before);
    }
    // What has no managers gets none by an update, only by an apply.
    if managers.is_empty() && before.pointer("/metadata/uid").is_some() {
        meta(after).shift_remove("managedFields");
        return;
    }
    let changes = fields::compare(&kind.schema, before, after);
    let own = |fields: Fields| fields.owned(&writer.subresource, kind.status);
    let (written, removed) = (own(changes.added.union(&changes.modified)), own(changes.removed));
    let key = writer.key();
    for (other, owned) in &mut managers {
        if *other != key {
            owned.fields = owned.fields.difference(&written).difference(&removed);
        }
    }
    if !written.is_empty() || !removed.is_empty() {
        let owned = managers.entry(key).or_insert_with(|| Owned {
            api_version: kind.api_version(),
            time: now.to_owned(),
            fields: Fields::default(),
        });
        owned.fields = owned.fields.difference(&removed).union(&written);
        now.clone_into(&mut owned.time);
        owned.api_version = kind.api_version();
    }
    write(after, managers);
}

/// `[]` or `[{}]`: who writes it wants the managers forgotten.
fn is_reset(value: &Value) -> bool {
    match value.pointer("/metadata/managedFields").and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// Applies a configuration: the object as it then is, with its managers.
///
/// # Errors
/// 409 with a cause for each field that another manager owns, unless forced.
pub(super) fn applied(kind: &Kind, live: &Value, config: &Value, writer: &Writer, force: bool, now: &str) -> Answer<Value> {
    let mut managers = read(live);
    let mut bare = live.clone();
    meta(&mut bare).shift_remove("managedFields");
    let key = writer.key();
    let mine = fields::of(&kind.schema, config).owned(&writer.subresource, kind.status);
    let last = managers.get(&key).map(|owned| owned.fields.clone()).unwrap_or_default();
    let mut merged = bare.clone();
    fields::merge(&kind.schema, &mut merged, config);
    let others = managers.iter().filter(|(other, _)| **other != key).fold(Fields::default(), |all, (_, o)| all.union(&o.fields));
    let kept = others.union(&mine);
    fields::remove(&kind.schema, &mut merged, &last.difference(&kept), &kept);

    let changes = fields::compare(&kind.schema, &bare, &merged);
    let written = changes.added.union(&changes.modified).owned(&writer.subresource, kind.status);
    let mut conflicts = Vec::new();
    for (other, owned) in &mut managers {
        if *other == key {
            continue;
        }
        let conflict = owned.fields.intersection(&written);
        if !conflict.is_empty() {
            conflicts.push((other.clone(), owned.clone(), conflict.paths()));
            owned.fields = owned.fields.difference(&conflict);
        }
        owned.fields = owned.fields.difference(&changes.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(refuse(&conflicts));
    }
    let time = match managers.get(&key) {
        Some(owned) if owned.fields == mine && bare == merged => owned.time.clone(),
        _ => now.to_owned(),
    };
    managers.insert(key, Owned { api_version: kind.api_version(), time, fields: mine });
    write(&mut merged, managers);
    Ok(merged)
}

fn refuse(conflicts: &[(Who, Owned, Vec<String>)]) -> Refusal {
    let called = |(update, manager, subresource): &Who, owned: &Owned| {
        let mut text = format!("\"{manager}\"");
        if !subresource.is_empty() {
            text = format!("{text} with subresource \"{subresource}\"");
        }
        // Of the time the server prints only an update's.
        if *update { format!("{text} using {}", owned.api_version) } else { text }
    };
    let count: usize = conflicts.iter().map(|(.., paths)| paths.len()).sum();
    let message = match conflicts {
        [(who, owned, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {}: {}", called(who, owned), paths.concat())
        }
        _ => {
            let mut lines = Vec::new();
            for (who, owned, paths) in conflicts {
                lines.push(format!("conflicts with {}:", called(who, owned)));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let mut refusal = Refusal::new(409, "Conflict", message);
    for (who, owned, paths) in conflicts {
        for path in paths {
            refusal = refusal.cause("FieldManagerConflict", &format!("conflict with {}", called(who, owned)), path);
        }
    }
    refusal
}
