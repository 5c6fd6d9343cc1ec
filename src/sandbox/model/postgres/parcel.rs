//! A whole database on its way to another machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    data::{Action, Image, Past, Role, Row, Table, Tables},
    seed,
    value::Column,
};

/// [`Tables`] on their way: what is as it was made is not sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Packed {
    tables: BTreeMap<String, PackedTable>,
    schemas: Arc<BTreeMap<String, String>>,
    roles: Arc<BTreeMap<String, Role>>,
    grants: Arc<BTreeSet<(String, String, Action)>>,
    objects: Arc<BTreeMap<i64, (String, Option<String>)>>,
    seeded_us: Option<i64>,
}

type Rows = Vec<(i64, Row)>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PackedTable {
    columns: Vec<Column>,
    owner: String,
    comment: Option<String>,
    next: i64,
    /// Without rows where they are those it was made with.
    chunks: Vec<(i64, Option<Rows>)>,
}

/// An [`Image`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Parcel {
    past: Past,
    at_us: i64,
    tables: Packed,
}

impl Image {
    /// Makes it ready to be sent.
    pub(super) fn pack(&self) -> Parcel {
        let seeded = self.tables.seeded.clone();
        let tables = self.tables.tables.iter().map(|(name, table)| {
            let known = seeded.as_ref().and_then(|seeded| seeded.of(name));
            let chunks = table.chunks.iter().map(|(n, chunk)| {
                let same = known.and_then(|known| known.get(n)).is_some_and(|known| Arc::ptr_eq(known, chunk) || known == chunk);
                (*n, (!same).then(|| chunk.to_vec()))
            });
            let packed = PackedTable {
                columns: table.columns.to_vec(),
                owner: table.owner.clone(),
                comment: table.comment.clone(),
                next: table.next,
                chunks: chunks.collect(),
            };
            (name.clone(), packed)
        });
        let tables = Packed {
            tables: tables.collect(),
            schemas: self.tables.schemas.clone(),
            roles: self.tables.roles.clone(),
            grants: self.tables.grants.clone(),
            objects: self.tables.objects.clone(),
            seeded_us: self.tables.seeded.as_ref().map(|seeded| seeded.at_us),
        };
        Parcel { past: self.past.clone(), at_us: self.at_us, tables }
    }
}

impl Parcel {
    /// What was packed.
    pub(super) fn unpack(self) -> Image {
        let Self { past, at_us, tables: Packed { tables, schemas, roles, grants, objects, seeded_us } } = self;
        let seeded = seeded_us.map(seed::rows);
        let unpacked = tables.into_iter().map(|(name, table)| {
            let known = seeded.as_ref().and_then(|seeded| seeded.of(&name));
            let chunks = table.chunks.into_iter().map(|(n, rows)| {
                let chunk = match rows {
                    Some(rows) => Arc::new(rows),
                    None => known.and_then(|known| known.get(&n)).cloned().unwrap_or_default(),
                };
                (n, chunk)
            });
            let table = Table {
                columns: table.columns.into(),
                owner: table.owner,
                comment: table.comment,
                next: table.next,
                chunks: chunks.collect(),
            };
            (name, Arc::new(table))
        });
        let tables = Tables { tables: unpacked.collect(), schemas, roles, grants, objects, seeded };
        Image { past, at_us, tables }
    }
}
