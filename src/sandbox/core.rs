//! What the API server is made of, and the few operations on objects that everything else uses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    audit::Audit,
    kinds::{Kind, Kinds},
    kubelet::Kubelets,
    newest::Newest,
    refusal::{Answer, Refusal},
    request::Place,
    store::{Key, Store, Stored},
    weather::Weather,
};
use crate::clock::Clock;

/// All that changes. Locked for one operation at a time, never across an await.
pub(super) struct State {
    pub(super) store: Store,
    pub(super) kinds: Kinds,
    pub(super) audit: Audit,
    pub(super) weather: Weather,
    pub(super) kubelets: Option<Arc<dyn Kubelets>>,
    /// What the answer to the request of now says besides (`Warning` headers).
    pub(super) warnings: Vec<String>,
    /// How many requests there have been.
    pub(super) requests: u64,
    /// Now, in microseconds since the Unix epoch: read once a request.
    pub(super) now_us: i64,
}

/// The API server.
pub(super) struct Core {
    state: Mutex<State>,
    /// The newest version: what watches wait for.
    pub(super) newest: Arc<Newest>,
    pub(super) clock: Clock,
    pub(super) seed: u64,
    /// It has ended.
    pub(super) closed: CancellationToken,
    /// Exec sessions.
    pub(super) sessions: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// The state under lock. When it is given back, watches learn of what was written.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    newest: &'a Newest,
}

impl std::ops::Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let version = self.state.store.version();
        self.newest.set(version);
    }
}

impl Core {
    /// With the namespaces and roles that a fresh cluster has.
    pub(super) fn new(seed: u64, wall_us: i64) -> Self {
        let mut state = State {
            store: Store::new(seed),
            kinds: Kinds::new(),
            audit: Audit::default(),
            weather: Weather::default(),
            kubelets: None,
            warnings: Vec::new(),
            requests: 0,
            now_us: wall_us,
        };
        state.store.now_us = wall_us;
        super::bootstrap::fill(&mut state);
        let newest = Newest::new(state.store.version());
        Self {
            state: Mutex::new(state),
            newest,
            clock: Clock::virtual_at("sandbox", wall_us),
            seed,
            closed: CancellationToken::new(),
            sessions: Mutex::new(JoinSet::new()),
        }
    }

    /// The state, with the time of now in it.
    pub(super) fn lock(&self) -> Locked<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now_us = self.clock.now().wall_us;
        state.store.now_us = state.now_us;
        Locked { state, newest: &self.newest }
    }
}

/// `metadata.creationTimestamp` and its like: RFC 3339 in whole seconds.
pub(super) fn seconds(us: i64) -> String {
    jiff::Timestamp::from_second(us.div_euclid(1_000_000)).map_or_else(|_| String::new(), |t| t.to_string())
}

/// A field that is a map, which is made where it is missing.
pub(super) fn map_at<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let field = map.entry(name).or_insert(Value::Null);
    as_map(field)
}

/// A value as a map, which it becomes if it is none.
pub(super) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map just above"),
    }
}

/// `metadata`, which is made where it is missing.
pub(super) fn meta(value: &mut Value) -> &mut Map<String, Value> {
    map_at(as_map(value), "metadata")
}

/// So many fields are gone through one by one before a hash of the name is made.
const FEW: usize = 16;

/// A field of a map, found by its name. Most maps of objects are so small that a hash of the name costs more than a look at each.
pub(super) fn field<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if map.len() > FEW { map.get(name) } else { map.iter().find(|(own, _)| own.as_str() == name).map(|(_, value)| value) }
}

/// What is at a JSON pointer, as [`Value::pointer`] finds it, which makes two copies of each name on its way.
pub(super) fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.contains('~') {
        return value.pointer(pointer);
    }
    let Some(names) = pointer.strip_prefix('/') else { return pointer.is_empty().then_some(value) };
    names.split('/').try_fold(value, |value, name| match value {
        Value::Object(map) => field(map, name),
        // Numbers have no sign and no zero in front.
        Value::Array(items) if name.len() == 1 || !name.starts_with(['0', '+']) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

/// A text at a JSON pointer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The strings of a list at a JSON pointer.
pub(super) fn strings<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    at(value, pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The pairs of a map of strings at a JSON pointer.
pub(super) fn pairs<'a>(value: &'a Value, pointer: &str) -> Vec<(&'a str, &'a str)> {
    let map = at(value, pointer).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
}

/// Where an object is stored.
pub(super) fn key(kind: &Kind, place: &Place) -> Key {
    Key(if kind.namespaced { place.namespace.clone() } else { String::new() }, place.name.clone())
}

impl State {
    /// `metav1.Time` of now.
    pub(super) fn now(&self) -> String {
        seconds(self.now_us)
    }

    /// An object that a request names.
    ///
    /// # Errors
    /// 404.
    pub(super) fn found(&self, kind: &Kind, place: &Place) -> Answer<Arc<Stored>> {
        let stored = self.store.get(kind.shelf(), &key(kind, place));
        stored.cloned().ok_or_else(|| Refusal::not_found(kind, &place.name))
    }

    /// An object of a built-in kind, of the inside.
    pub(super) fn peek(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.store.get(&format!("{group}/{plural}"), &Key(namespace.to_owned(), name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_lead_where_serde_s_lead() {
        let many: Map<String, Value> = (0..40).map(|n| (format!("k{n}"), json!(n))).collect();
        let value = json!({"a": {"b": [1, {"c": null}], "": 2, "x/y": 3, "m~n": 4}, "many": many, "01": 5, "text": "t"});
        let pointers = [
            "",
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/a/b/0",
            "/a/b/1/c",
            "/a/b/01",
            "/a/b/+1",
            "/a/b/2",
            "/a/b/x",
            "/a/b/",
            "/a/x~1y",
            "/a/m~0n",
            "/many/k39",
            "/many/k40",
            "/01",
            "/text/0",
            "a",
            "/a/b/-1",
            "/a/b/00",
        ];
        for pointer in pointers {
            assert_eq!(at(&value, pointer), value.pointer(pointer), "{pointer}");
        }
    }
}
