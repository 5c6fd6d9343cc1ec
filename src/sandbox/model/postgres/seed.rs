//! The shop's rows: what its bootstrap script makes, computed from the time of the bootstrap alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{
    data::{Action, Chunk, Row, Table, Tables},
    value::{Cell, Column, Kind},
};

/// How many accounts there are in the beginning.
pub(super) const ACCOUNTS: i64 = 5000;
/// How many orders.
pub(super) const ORDERS: i64 = 20_000;
const HOUR_US: i64 = 3_600_000_000;
const MINUTE_US: i64 = 60_000_000;

/// The rows of the tables that are not empty in the beginning.
#[derive(Debug)]
pub(super) struct Seeded {
    /// When the shop was made.
    pub(super) at_us: i64,
    accounts: BTreeMap<i64, Chunk>,
    orders: BTreeMap<i64, Chunk>,
}

/// What is made at the same time is the same.
impl PartialEq for Seeded {
    fn eq(&self, other: &Self) -> bool {
        self.at_us == other.at_us
    }
}

impl Eq for Seeded {}

impl Seeded {
    /// Those of a table.
    pub(super) fn of(&self, table: &str) -> Option<&BTreeMap<i64, Chunk>> {
        match table {
            "accounts" => Some(&self.accounts),
            "orders" => Some(&self.orders),
            _ => None,
        }
    }
}

/// The rows of a shop that was made at this time. They follow from it alone, so that all members may share them.
pub(super) fn rows(at_us: i64) -> Arc<Seeded> {
    static KNOWN: Mutex<BTreeMap<i64, Weak<Seeded>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|_, seeded| seeded.strong_count() > 0);
    if let Some(seeded) = known.get(&at_us).and_then(Weak::upgrade) {
        return seeded;
    }
    let made = Arc::new(make(at_us));
    known.insert(at_us, Arc::downgrade(&made));
    made
}

fn make(at_us: i64) -> Seeded {
    let (paid, free) = (Cell::text("paid"), Cell::text("free"));
    let account = |id: i64| -> Row {
        let n = id - 2;
        let (name, plan, created) = match id {
            1 => ("paid".to_owned(), &paid, at_us),
            2 => ("free".to_owned(), &free, at_us),
            _ => (format!("player-{n:05}"), if n % 3 == 0 { &paid } else { &free }, at_us - n * HOUR_US),
        };
        [Cell::Int(id), Cell::text(name), plan.clone(), Cell::Time(created)].into()
    };
    let order = |id: i64| -> Row {
        let (account, cents) = (1 + (id * 7919) % ACCOUNTS, 100 + (id * 104_729) % 20_000);
        [Cell::Int(id), Cell::Int(account), Cell::Int(cents), Cell::Time(at_us - (ORDERS - id) * MINUTE_US)].into()
    };
    Seeded { at_us, accounts: chunks(ACCOUNTS, account), orders: chunks(ORDERS, order) }
}

fn chunks(last: i64, row: impl Fn(i64) -> Row) -> BTreeMap<i64, Chunk> {
    let mut chunks: BTreeMap<i64, Vec<(i64, Row)>> = BTreeMap::new();
    for id in 1..=last {
        chunks.entry(id >> 8).or_default().push((id, row(id)));
    }
    chunks.into_iter().map(|(n, rows)| (n, Arc::new(rows))).collect()
}

/// Makes the tables, with their rows and who may do what.
pub(super) fn plant(into: &mut Tables, at_us: i64) {
    let seeded = rows(at_us);
    let id = || Column { identity: true, not_null: true, unique: true, ..Column::new("id", Kind::Int) };
    let column = |name: &str, kind| Column { not_null: true, ..Column::new(name, kind) };
    let now = |name: &str| Column { now: true, ..column(name, Kind::Time) };
    let unique = |name: &str| Column { unique: true, ..column(name, Kind::Text) };
    let tables = [
        ("accounts", vec![id(), unique("name"), column("plan", Kind::Text), now("created")], Some(&seeded.accounts)),
        ("orders", vec![id(), column("account", Kind::Int), column("amount_cents", Kind::Int), now("at")], Some(&seeded.orders)),
        ("health", vec![unique("name"), column("beat", Kind::Int), column("at", Kind::Time)], None),
    ];
    for (name, columns, rows) in tables {
        let mut table = Table::new(columns.into(), "postgres");
        if let Some(rows) = rows {
            table.chunks.clone_from(rows);
            table.next = rows.values().next_back().and_then(|chunk| chunk.last()).map_or(1, |(id, _)| id + 1);
        }
        into.tables.insert(name.to_owned(), Arc::new(table));
        for action in [Action::Select, Action::Insert, Action::Update] {
            Arc::make_mut(&mut into.grants).insert(("checkout".to_owned(), name.to_owned(), action));
        }
        for reader in ["monitor", "usage_metrics"] {
            Arc::make_mut(&mut into.grants).insert((reader.to_owned(), name.to_owned(), Action::Select));
        }
    }
    Arc::make_mut(&mut into.schemas).insert("firedrill".to_owned(), "firedrill_ledger".to_owned());
    into.seeded = Some(seeded);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_those_of_the_bootstrap_script() {
        let mut tables = Tables::default();
        plant(&mut tables, 1_767_225_600_000_000);
        assert_eq!((tables.tables["accounts"].count(), tables.tables["orders"].count()), (5000, 20_000));
        let written = |table: &str, n: usize| -> Vec<String> {
            let (_, row) = tables.tables[table].rows().nth(n).unwrap();
            row.iter().map(|cell| cell.written().unwrap()).collect()
        };
        assert_eq!(written("accounts", 0), ["1", "paid", "paid", "2026-01-01 00:00:00+00"]);
        assert_eq!(written("accounts", 4), ["5", "player-00003", "paid", "2025-12-31 21:00:00+00"]);
        assert_eq!(written("accounts", 4999), ["5000", "player-04998", "paid", "2025-06-06 18:00:00+00"]);
        assert_eq!(written("orders", 0), ["1", "2920", "4829", "2025-12-18 02:41:00+00"]);
        assert_eq!(tables.tables["orders"].next, 20_001);
    }

    #[test]
    fn equal_times_share_their_rows() {
        let (one, other) = (rows(7), rows(7));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &rows(8)));
    }
}
