//! What a database holds, and the log of its changes: rows, roles, timelines, positions. Pure.
//!
//! Rows live in chunks that copies share until one of them is changed: a snapshot costs nothing, and a replica or a backup
//! costs what differs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    seed,
    value::{Cell, Column},
};

/// How many positions share a chunk, as a power of two.
const CHUNK_BITS: u32 = 8;
/// How many records of its log a member keeps; a replica that is further behind has to be copied anew.
const KEPT: usize = 50_000;
/// The size of a segment of the log (`--wal-segsize`).
pub(super) const SEGMENT: u64 = 4 << 20;
/// Where the log of a new cluster begins.
pub(super) const FIRST_LSN: u64 = 0x0140_0000;

/// A row's values.
pub(super) type Row = Arc<[Cell]>;
/// Rows by their position.
pub(super) type Chunk = Arc<Vec<(i64, Row)>>;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Arc<[Column]>,
    pub(super) owner: String,
    pub(super) comment: Option<String>,
    /// The position of the next row.
    pub(super) next: i64,
    pub(super) chunks: BTreeMap<i64, Chunk>,
}

impl Table {
    /// An empty one.
    pub(super) fn new(columns: Arc<[Column]>, owner: &str) -> Self {
        Self { columns, owner: owner.to_owned(), comment: None, next: 1, chunks: BTreeMap::new() }
    }

    /// All rows, in order of their position.
    pub(super) fn rows(&self) -> impl Iterator<Item = &(i64, Row)> {
        self.chunks.values().flat_map(|chunk| chunk.iter())
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> usize {
        self.chunks.values().map(|chunk| chunk.len()).sum()
    }

    /// A column's place.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn put(&mut self, pos: i64, row: Row) {
        let chunk = Arc::make_mut(self.chunks.entry(pos >> CHUNK_BITS).or_default());
        match chunk.binary_search_by_key(&pos, |(pos, _)| *pos) {
            Ok(at) => chunk[at].1 = row,
            Err(at) => chunk.insert(at, (pos, row)),
        }
        self.next = self.next.max(pos.saturating_add(1));
    }

    fn remove(&mut self, pos: i64) {
        let Some(chunk) = self.chunks.get_mut(&(pos >> CHUNK_BITS)) else { return };
        let chunk = Arc::make_mut(chunk);
        if let Ok(at) = chunk.binary_search_by_key(&pos, |(pos, _)| *pos) {
            chunk.remove(at);
        }
    }
}

/// What may be done to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Action {
    Select,
    Insert,
    Update,
    Delete,
}

/// Who may log in, and how they prove it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Role {
    /// Of the password: see [`verifier`].
    pub(super) verifier: String,
    pub(super) superuser: bool,
}

/// What is stored of a password.
pub(super) fn verifier(role: &str, password: &str) -> String {
    hex::encode(Sha256::digest(format!("{role}\n{password}")))
}

/// What a database holds at one position of its log. Cheap to clone: every transaction has one of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// By `schema.table`; `public` is left out.
    pub(super) tables: BTreeMap<String, Arc<Table>>,
    /// Schemas and their owners.
    pub(super) schemas: Arc<BTreeMap<String, String>>,
    pub(super) roles: Arc<BTreeMap<String, Role>>,
    /// Role, table, and what it may do.
    pub(super) grants: Arc<BTreeSet<(String, String, Action)>>,
    /// Large objects, all of them empty: owners and comments.
    pub(super) objects: Arc<BTreeMap<i64, (String, Option<String>)>>,
    /// The rows it was made with, which need not be sent.
    pub(super) seeded: Option<Arc<seed::Seeded>>,
}

/// A change, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    /// The first one of a shop that has traded for a while: its roles, tables and rows.
    Seed { at_us: i64, roles: BTreeMap<String, Role> },
    /// A schema is made.
    Schema { name: String, owner: String },
    /// A schema is dropped.
    NoSchema { name: String },
    /// A table is made.
    Table { name: String, columns: Vec<Column>, owner: String },
    /// A table is dropped.
    NoTable { name: String },
    /// A table's comment.
    Comment { name: String, text: Option<String> },
    /// A large object is made.
    Object { oid: i64, owner: String },
    /// A large object's comment.
    ObjectComment { oid: i64, text: Option<String> },
    /// A large object is removed.
    NoObject { oid: i64 },
    /// A row is put at its position.
    Put { table: String, pos: i64, row: Row },
    /// A row is removed.
    Gone { table: String, pos: i64 },
}

impl Change {
    /// About how many bytes of log it takes.
    fn bytes(&self) -> u64 {
        match self {
            Self::Seed { .. } => 3 << 20,
            Self::Put { row, .. } => 96 + 16 * row.len() as u64,
            Self::Gone { .. } => 64,
            _ => 512,
        }
    }
}

impl Tables {
    /// Applies a change. One that does not fit (of a table that is gone) changes nothing.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Seed { at_us, roles } => {
                seed::plant(self, *at_us);
                self.roles = Arc::new(roles.clone());
            }
            Change::Schema { name, owner } => drop(Arc::make_mut(&mut self.schemas).insert(name.clone(), owner.clone())),
            Change::NoSchema { name } => drop(Arc::make_mut(&mut self.schemas).remove(name)),
            Change::Table { name, columns, owner } => {
                self.tables.insert(name.clone(), Arc::new(Table::new(columns.clone().into(), owner)));
            }
            Change::NoTable { name } => drop(self.tables.remove(name)),
            Change::Comment { name, text } => {
                if let Some(table) = self.tables.get_mut(name) {
                    Arc::make_mut(table).comment.clone_from(text);
                }
            }
            Change::Object { oid, owner } => drop(Arc::make_mut(&mut self.objects).insert(*oid, (owner.clone(), None))),
            Change::ObjectComment { oid, text } => {
                if let Some((_, comment)) = Arc::make_mut(&mut self.objects).get_mut(oid) {
                    comment.clone_from(text);
                }
            }
            Change::NoObject { oid } => drop(Arc::make_mut(&mut self.objects).remove(oid)),
            Change::Put { table, pos, row } => {
                if let Some(table) = self.tables.get_mut(table) {
                    Arc::make_mut(table).put(*pos, Arc::clone(row));
                }
            }
            Change::Gone { table, pos } => {
                if let Some(table) = self.tables.get_mut(table) {
                    Arc::make_mut(table).remove(*pos);
                }
            }
        }
    }

    /// Whether a role may do this to a table.
    pub(super) fn may(&self, role: &str, table: &str, action: Action) -> bool {
        self.roles.get(role).is_some_and(|known| known.superuser)
            || self.tables.get(table).is_some_and(|known| known.owner == role)
            || self.grants.contains(&(role.to_owned(), table.to_owned(), action))
    }

    /// About how many bytes it takes on a disk.
    pub(super) fn bytes(&self) -> u64 {
        // An empty cluster with its catalogues and three databases.
        let rows: u64 = self.tables.values().map(|table| table.count() as u64 * (48 + 12 * table.columns.len() as u64)).sum();
        (30 << 20) + rows
    }
}

/// A committed transaction in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Where it ends.
    pub(super) lsn: u64,
    pub(super) timeline: u32,
    /// When it was committed, in microseconds since the Unix epoch.
    pub(super) at_us: i64,
    pub(super) changes: Vec<Change>,
}

/// Where a server's log stands, and where its timelines branched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    /// Of the cluster: a member of another one is never followed.
    pub(super) system: u64,
    pub(super) timeline: u32,
    /// Timelines before, each with the position where it was left.
    pub(super) history: Vec<(u32, u64)>,
    /// The end of the log.
    pub(super) lsn: u64,
}

impl Past {
    /// Whether a server that stands there can go on with this one's log, without going back first.
    pub(super) fn leads_on(&self, from: &Self) -> bool {
        let left = match self.history.iter().find(|(timeline, _)| *timeline == from.timeline) {
            Some((_, left)) => *left,
            None if from.timeline == self.timeline => self.lsn,
            None => return false,
        };
        self.system == from.system && from.lsn <= left && self.shares(from)
    }

    /// The timelines before must be the same ones.
    fn shares(&self, from: &Self) -> bool {
        from.history.iter().all(|branch| self.history.contains(branch))
    }
}

/// A whole database at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) past: Past,
    /// When its last transaction was committed.
    pub(super) at_us: i64,
    pub(super) tables: Tables,
}

/// What a restored database still has to fetch before it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recovery {
    /// The repository's host, and its number.
    pub(super) host: String,
    pub(super) repository: u32,
    /// The backup that was restored.
    pub(super) label: String,
    /// Up to this time, or to the end of the archive.
    pub(super) until_us: Option<i64>,
}

/// A server's files: what outlives its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) past: Past,
    /// What is replayed.
    pub(super) tables: Tables,
    /// Up to where.
    pub(super) replayed: u64,
    /// When the last replayed transaction was committed.
    pub(super) replayed_at_us: Option<i64>,
    /// Records after `log_from`.
    log: VecDeque<Arc<Record>>,
    log_from: u64,
    /// `standby.signal`.
    pub(super) standby: bool,
    /// `recovery.signal`.
    pub(super) recovery: Option<Recovery>,
}

impl Data {
    /// A new cluster.
    pub(super) fn new(system: u64) -> Self {
        let past = Past { system, timeline: 1, history: Vec::new(), lsn: FIRST_LSN };
        Self {
            past,
            tables: Tables::default(),
            replayed: FIRST_LSN,
            replayed_at_us: None,
            log: VecDeque::new(),
            log_from: FIRST_LSN,
            standby: false,
            recovery: None,
        }
    }

    /// A copy of a server that runs or was saved.
    pub(super) fn from_image(image: Image, standby: bool, recovery: Option<Recovery>) -> Self {
        let lsn = image.past.lsn;
        Self {
            past: image.past,
            tables: image.tables,
            replayed: lsn,
            replayed_at_us: Some(image.at_us),
            log: VecDeque::new(),
            log_from: lsn,
            standby,
            recovery,
        }
    }

    /// What is replayed now, as a copy gets it.
    pub(super) fn image(&self) -> Image {
        let past = Past { lsn: self.replayed, ..self.past.clone() };
        Image { past, at_us: self.replayed_at_us.unwrap_or(0), tables: self.tables.clone() }
    }

    /// Commits changes of its own. The record's end.
    pub(super) fn commit(&mut self, changes: Vec<Change>, now_us: i64) -> u64 {
        let bytes = 64 + changes.iter().map(Change::bytes).sum::<u64>();
        let lsn = self.past.lsn + bytes;
        let record = Arc::new(Record { lsn, timeline: self.past.timeline, at_us: now_us, changes });
        self.keep(record);
        self.replay(lsn, i64::MAX);
        lsn
    }

    /// Takes a record of another server's. False: it does not follow on what is here.
    pub(super) fn receive(&mut self, record: Arc<Record>) -> bool {
        if record.lsn <= self.past.lsn || record.timeline < self.past.timeline {
            return false;
        }
        self.keep(record);
        true
    }

    fn keep(&mut self, record: Arc<Record>) {
        self.past.lsn = record.lsn;
        self.log.push_back(record);
        // Only what is replayed may go.
        while self.log.len() > KEPT && self.log.front().is_some_and(|first| first.lsn <= self.replayed) {
            if let Some(first) = self.log.pop_front() {
                self.log_from = first.lsn;
            }
        }
    }

    /// Replays what was committed up to a position and a time. Whether something was.
    pub(super) fn replay(&mut self, up_to: u64, until_us: i64) -> bool {
        let before = self.replayed;
        let from = self.log.partition_point(|record| record.lsn <= self.replayed);
        for n in from..self.log.len() {
            let record = Arc::clone(&self.log[n]);
            if record.lsn > up_to || record.at_us > until_us {
                break;
            }
            for change in &record.changes {
                self.tables.apply(change);
            }
            self.replayed = record.lsn;
            self.replayed_at_us = Some(record.at_us);
        }
        self.replayed != before
    }

    /// When the next record that is not replayed was committed.
    pub(super) fn next_at_us(&self) -> Option<i64> {
        self.log.get(self.log.partition_point(|record| record.lsn <= self.replayed)).map(|record| record.at_us)
    }

    /// At most so many records after a position; none if they are not kept any more.
    pub(super) fn since(&self, lsn: u64, most: usize) -> Option<Vec<Arc<Record>>> {
        if lsn < self.log_from {
            return None;
        }
        let from = self.log.partition_point(|record| record.lsn <= lsn);
        Some(self.log.iter().skip(from).take(most).cloned().collect())
    }

    /// After where records are kept.
    pub(super) const fn kept_from(&self) -> u64 {
        self.log_from
    }

    /// Ends recovery: everything received is replayed, and a new timeline begins.
    pub(super) fn promote(&mut self, now_us: i64) {
        self.replay(u64::MAX, i64::MAX);
        self.branch(now_us);
    }

    /// A new timeline begins after what is replayed; what was received beyond that is left behind.
    pub(super) fn branch(&mut self, now_us: i64) {
        self.log.retain(|record| record.lsn <= self.replayed);
        self.past.lsn = self.replayed;
        self.past.history.push((self.past.timeline, self.past.lsn));
        self.past.timeline += 1;
        (self.standby, self.recovery) = (false, None);
        self.commit(Vec::new(), now_us);
    }

    /// Follows another server's timelines from here on; its log leads on from here.
    pub(super) fn follow(&mut self, past: &Past) {
        self.past.timeline = past.timeline;
        self.past.history.clone_from(&past.history);
        self.standby = true;
    }

    /// The rest of the segment is left empty (`pg_switch_wal`).
    pub(super) fn switch(&mut self, now_us: i64) -> u64 {
        if !self.past.lsn.is_multiple_of(SEGMENT) {
            let lsn = self.past.lsn.next_multiple_of(SEGMENT);
            let record = Record { lsn, timeline: self.past.timeline, at_us: now_us, changes: Vec::new() };
            self.keep(Arc::new(record));
            self.replay(lsn, i64::MAX);
        }
        self.past.lsn
    }
}
