//! Objects by (group, resource, namespace, name), one counter of versions for all, and the log of changes that watches
//! and lists of the past read.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

/// How many changes the log holds before the oldest are forgotten.
const LOG_LIMIT: usize = 20_000;
/// And for how long, in microseconds: an API server has etcd forget every five minutes what is older than five minutes
/// (`--etcd-compaction-interval`).
const LOG_US: i64 = 600_000_000;
/// So many of the newest changes are kept as they are; older ones as JSON, which is a fifth of their size and which hardly anybody asks
/// for.
const WHOLE: usize = 256;

/// Namespace (empty where there is none) and name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Key(pub(super) String, pub(super) String);

/// As etcd has it: `shop-two/a` comes before `shop/a`.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        if self.0 == other.0 {
            return self.1.cmp(&other.1);
        }
        fn bytes(key: &Key) -> impl Iterator<Item = u8> {
            key.0.bytes().chain([b'/']).chain(key.1.bytes())
        }
        bytes(self).cmp(bytes(other))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// An object in one version. Its value has neither `apiVersion` nor `kind`: those depend on how it is asked for.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) value: Value,
    pub(super) version: u64,
    json: OnceLock<Bytes>,
}

impl Stored {
    pub(super) fn new(value: Value, version: u64) -> Arc<Self> {
        Arc::new(Self { value, version, json: OnceLock::new() })
    }

    /// As JSON, made once.
    pub(super) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| serde_json::to_vec(&self.value).unwrap_or_default().into())
    }
}

/// A change.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    /// When, in microseconds since the Unix epoch.
    pub(super) at_us: i64,
    pub(super) shelf: Arc<str>,
    pub(super) key: Key,
    /// None: it was created.
    pub(super) before: Option<Arc<Stored>>,
    /// Of a deletion the last state, with the deletion's version.
    pub(super) after: Arc<Stored>,
    pub(super) deleted: bool,
}

impl Change {
    fn packed(&self) -> Packed {
        let pack = |stored: &Arc<Stored>| (stored.json().clone(), stored.version);
        Packed {
            version: self.version,
            at_us: self.at_us,
            shelf: Arc::clone(&self.shelf),
            key: self.key.clone(),
            before: self.before.as_ref().map(pack),
            after: pack(&self.after),
            deleted: self.deleted,
        }
    }
}

/// A [`Change`] with its objects as JSON, each with its version.
#[derive(Debug)]
pub(super) struct Packed {
    version: u64,
    at_us: i64,
    shelf: Arc<str>,
    key: Key,
    before: Option<(Bytes, u64)>,
    after: (Bytes, u64),
    deleted: bool,
}

/// A change in the log.
#[derive(Debug)]
pub(super) enum Logged {
    Whole(Change),
    Packed(Box<Packed>),
}

impl Logged {
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Whole(change) => change.version,
            Self::Packed(packed) => packed.version,
        }
    }

    pub(super) fn shelf(&self) -> &str {
        match self {
            Self::Whole(change) => &change.shelf,
            Self::Packed(packed) => &packed.shelf,
        }
    }

    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Whole(change) => &change.key,
            Self::Packed(packed) => &packed.key,
        }
    }

    fn at_us(&self) -> i64 {
        match self {
            Self::Whole(change) => change.at_us,
            Self::Packed(packed) => packed.at_us,
        }
    }

    /// The change, whole.
    pub(super) fn open(&self) -> Cow<'_, Change> {
        let packed = match self {
            Self::Whole(change) => return Cow::Borrowed(change),
            Self::Packed(packed) => packed,
        };
        // It was written here, from a value: it can be read.
        let unpack = |(json, version): &(Bytes, u64)| Stored::new(serde_json::from_slice(json).unwrap_or_default(), *version);
        Cow::Owned(Change {
            version: packed.version,
            at_us: packed.at_us,
            shelf: Arc::clone(&packed.shelf),
            key: packed.key.clone(),
            before: packed.before.as_ref().map(unpack),
            after: unpack(&packed.after),
            deleted: packed.deleted,
        })
    }
}

type Shelf = BTreeMap<Key, Arc<Stored>>;

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    /// The time under which changes are kept, in microseconds since the Unix epoch: set by whoever locks the state.
    pub(super) now_us: i64,
    version: u64,
    /// Changes up to this version are forgotten.
    compacted: u64,
    shelves: BTreeMap<Arc<str>, Shelf>,
    log: VecDeque<Logged>,
    rng: StdRng,
}

impl Store {
    pub(super) fn new(seed: u64) -> Self {
        Self { now_us: 0, version: 0, compacted: 0, shelves: BTreeMap::new(), log: VecDeque::new(), rng: StdRng::seed_from_u64(seed) }
    }

    /// The version of the newest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Changes up to this version are forgotten.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// A fresh uid (a random UUID, from the seed).
    pub(super) fn uid(&mut self) -> String {
        let mut bytes = [0_u8; 16];
        self.rng.fill_bytes(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = hex::encode(bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The five letters that `generateName` adds (`k8s.io/apimachinery/pkg/util/rand`).
    pub(super) fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5).map(|_| char::from(LETTERS[self.below(LETTERS.len())])).collect()
    }

    /// A number below the bound, which is at least 1.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound.max(1))
    }

    pub(super) fn get(&self, shelf: &str, key: &Key) -> Option<&Arc<Stored>> {
        self.shelves.get(shelf)?.get(key)
    }

    /// Objects in order of namespace and name; of one namespace unless it is empty.
    pub(super) fn list(&self, shelf: &str, namespace: &str) -> impl Iterator<Item = (&Key, &Arc<Stored>)> {
        let from = Key(namespace.to_owned(), String::new());
        let namespace = namespace.to_owned();
        let found = self.shelves.get(shelf).map(|shelf| shelf.range(from..));
        found.into_iter().flatten().take_while(move |(key, _)| namespace.is_empty() || key.0 == namespace)
    }

    /// All objects, with their shelves.
    pub(super) fn everything(&self) -> impl Iterator<Item = (&Arc<str>, &Key, &Arc<Stored>)> {
        self.shelves.iter().flat_map(|(shelf, objects)| objects.iter().map(move |(key, stored)| (shelf, key, stored)))
    }

    /// Objects as they were at a version; none if that is forgotten.
    pub(super) fn list_at(&self, shelf: &str, namespace: &str, version: u64) -> Option<BTreeMap<Key, Arc<Stored>>> {
        if version < self.compacted {
            return None;
        }
        let mut found: Shelf = self.list(shelf, namespace).map(|(key, stored)| (key.clone(), Arc::clone(stored))).collect();
        for logged in self.log.iter().rev().take_while(|logged| logged.version() > version) {
            if logged.shelf() == shelf && (namespace.is_empty() || logged.key().0 == namespace) {
                match &logged.open().before {
                    Some(before) => drop(found.insert(logged.key().clone(), Arc::clone(before))),
                    None => drop(found.remove(logged.key())),
                }
            }
        }
        Some(found)
    }

    /// Writes an object, under the next version.
    pub(super) fn put(&mut self, shelf: &str, key: &Key, mut value: Value) -> Arc<Stored> {
        self.version += 1;
        set_version(&mut value, self.version);
        let stored = Stored::new(value, self.version);
        let shelf = self.shelf(shelf);
        let before = self.shelves.entry(Arc::clone(&shelf)).or_default().insert(key.clone(), Arc::clone(&stored));
        self.record(Change {
            version: self.version,
            at_us: self.now_us,
            shelf,
            key: key.clone(),
            before,
            after: Arc::clone(&stored),
            deleted: false,
        });
        stored
    }

    /// Takes an object away, in the last state given or else as it is. What is given back carries the version of its deletion.
    pub(super) fn delete(&mut self, shelf: &str, key: &Key, last: Option<Value>) -> Option<Arc<Stored>> {
        let before = self.shelves.get_mut(shelf)?.remove(key)?;
        self.version += 1;
        let mut value = last.unwrap_or_else(|| before.value.clone());
        set_version(&mut value, self.version);
        let after = Stored::new(value, self.version);
        let shelf = self.shelf(shelf);
        let (version, at_us) = (self.version, self.now_us);
        let change = Change { version, at_us, shelf, key: key.clone(), before: Some(before), after: Arc::clone(&after), deleted: true };
        self.record(change);
        Some(after)
    }

    fn shelf(&self, shelf: &str) -> Arc<str> {
        self.shelves.get_key_value(shelf).map_or_else(|| Arc::from(shelf), |(name, _)| Arc::clone(name))
    }

    fn record(&mut self, change: Change) {
        self.log.push_back(Logged::Whole(change));
        let past = self.now_us - LOG_US;
        while let Some(oldest) = self.log.pop_front_if(|oldest| oldest.at_us() < past) {
            self.compacted = oldest.version();
        }
        while self.log.len() > LOG_LIMIT {
            if let Some(oldest) = self.log.pop_front() {
                self.compacted = oldest.version();
            }
        }
        // One comes, so one grows old: those before it have grown old before.
        let old = self.log.len().checked_sub(WHOLE + 1).and_then(|old| self.log.get_mut(old));
        if let Some(old) = old
            && let Logged::Whole(change) = old
        {
            *old = Logged::Packed(Box::new(change.packed()));
        }
    }

    /// Forgets all changes so far: watches and lists of an older version get 410.
    pub(super) fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.version;
    }

    /// Changes after a version, oldest first; none if some of them are forgotten.
    pub(super) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Logged>> {
        if version < self.compacted {
            return None;
        }
        let from = self.log.partition_point(|logged| logged.version() <= version);
        Some(self.log.range(from..))
    }
}

/// Writes the version into an object.
pub(super) fn set_version(value: &mut Value, version: u64) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::from(version.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key("shop".to_owned(), name.to_owned())
    }

    #[test]
    fn the_past_can_be_listed_until_it_is_forgotten() {
        let mut store = Store::new(1);
        store.put("/pods", &key("a"), json!({"metadata": {}, "n": 1}));
        store.put("/pods", &key("b"), json!({"metadata": {}}));
        let then = store.version();
        store.put("/pods", &key("a"), json!({"metadata": {}, "n": 2}));
        store.delete("/pods", &key("b"), None).unwrap();
        store.put("/pods", &key("c"), json!({"metadata": {}}));
        let past = store.list_at("/pods", "shop", then).unwrap();
        assert_eq!(past.keys().map(|key| key.1.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(past[&key("a")].value["n"], 1);
        assert_eq!(store.since(then).unwrap().count(), 3);
        store.compact();
        assert!(store.list_at("/pods", "shop", then).is_none() && store.since(then).is_none());
        assert_eq!(store.since(store.version()).unwrap().count(), 0);
    }

    #[test]
    fn objects_are_in_the_order_of_etcd() {
        let mut store = Store::new(1);
        for (namespace, name) in [("shop", "b"), ("shop", "a.c"), ("shop", "a"), ("shop-two", "z"), ("a", "a-b"), ("a", "a")] {
            store.put("/pods", &Key(namespace.to_owned(), name.to_owned()), json!({"metadata": {}}));
        }
        let order = |namespace| store.list("/pods", namespace).map(|(key, _)| format!("{}/{}", key.0, key.1)).collect::<Vec<_>>();
        assert_eq!(order(""), ["a/a", "a/a-b", "shop-two/z", "shop/a", "shop/a.c", "shop/b"]);
        assert_eq!(order("shop"), ["shop/a", "shop/a.c", "shop/b"]);
    }

    #[test]
    fn the_log_is_bounded() {
        let mut store = Store::new(1);
        for n in 0..LOG_LIMIT + 10 {
            store.put("/configmaps", &key("a"), json!({"metadata": {}, "n": n}));
        }
        assert_eq!(store.log.len(), LOG_LIMIT);
        assert_eq!(store.compacted(), 10);
        assert!(store.since(9).is_none() && store.since(10).is_some());
    }

    #[test]
    fn old_changes_are_told_as_new_ones_are() {
        let mut store = Store::new(1);
        let object = |n: usize| json!({"metadata": {"name": "a", "labels": {"b": "1", "a": "2"}}, "n": n, "half": 0.5});
        for n in 0..WHOLE * 2 {
            store.put("/configmaps", &key("a"), object(n));
        }
        store.delete("/configmaps", &key("a"), None).unwrap();
        for n in 0..WHOLE {
            store.put("/pods", &key("b"), object(n));
        }
        let all: Vec<_> = store.since(0).unwrap().map(|logged| (matches!(logged, Logged::Packed(_)), logged.open())).collect();
        assert_eq!(all.iter().filter(|(packed, _)| *packed).count(), WHOLE * 2 + 1);
        for (n, (_, change)) in all.iter().enumerate().take(WHOLE * 2) {
            let mut wanted = object(n);
            set_version(&mut wanted, n as u64 + 1);
            // As text, which shows the order of the fields.
            assert_eq!(change.after.value.to_string(), wanted.to_string());
            assert_eq!((change.after.version, change.before.is_none()), (n as u64 + 1, n == 0));
        }
        let end = &all[WHOLE * 2].1;
        assert!(end.deleted && end.key == key("a") && &*end.shelf == "/configmaps");
        let past = store.list_at("/configmaps", "shop", 10).unwrap();
        assert_eq!((past.len(), &past[&key("a")].value["n"]), (1, &json!(9)));
    }

    #[test]
    fn the_log_forgets_what_is_old() {
        let mut store = Store::new(1);
        for second in 0..700 {
            store.now_us = second * 1_000_000;
            store.put("/configmaps", &key("a"), json!({"metadata": {}, "n": second}));
        }
        // The change of second 99 is of version 100, and 600 seconds before the last one.
        assert_eq!((store.compacted(), store.log.len()), (99, 601));
        assert!(store.since(98).is_none() && store.since(99).is_some());
    }

    #[test]
    fn the_same_seed_gives_the_same_names() {
        let names = |seed| {
            let mut store = Store::new(seed);
            (store.uid(), store.suffix())
        };
        assert_eq!(names(7), names(7));
        assert_ne!(names(7), names(8));
        assert_eq!(names(7).0.len(), 36);
    }
}
