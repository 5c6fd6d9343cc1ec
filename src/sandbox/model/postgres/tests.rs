//! Statements, logs and timelines by themselves.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ast::Statement,
    data::{Change, Data, Role, Row, Tables, verifier},
    eval::{Facts, Follower, Scope, SqlError},
    execute::{Outcome, describe, run},
    parse::{parse, split},
    value::{Cell, Kind, Lsn},
};

const NOW: i64 = 1_767_225_600_000_000;

fn shop() -> Data {
    let role = |name: &str, superuser| (name.to_owned(), Role { verifier: verifier(name, "x"), superuser });
    let roles = [role("postgres", true), role("checkout", false), role("monitor", false), role("firedrill_ledger", false)];
    let mut data = Data::new(7);
    data.commit(vec![Change::Seed { at_us: NOW, roles: BTreeMap::from(roles) }], NOW);
    data
}

fn facts(user: &str) -> Facts {
    let follower = Follower { name: "b".into(), address: "10.0.0.2".into(), sent: 9, flushed: 9, replayed: 9, sync: true };
    Facts {
        user: user.to_owned(),
        now_us: NOW,
        in_recovery: false,
        read_only: false,
        lsn: 0x1_0000_00ff,
        replayed: 5,
        replayed_at_us: None,
        address: "10.0.0.1".to_owned(),
        followers: vec![follower],
        touched: (0, 0),
    }
}

fn on(data: &mut Data, facts: &Facts, sql: &str, params: &[Cell]) -> Result<Outcome, SqlError> {
    let statement = parse(sql).map_err(SqlError::not_rehearsable)?;
    let tables: Tables = data.tables.clone();
    let scope = Scope { tables: &tables, facts, params, row: None, excluded: None, group: None };
    let mut given = BTreeMap::new();
    let mut next = |table: &str| {
        let n = given.entry(table.to_owned()).or_insert(tables.tables[table].next);
        *n += 1;
        *n - 1
    };
    let outcome = run(&statement, scope, &mut next)?;
    if !outcome.changes.is_empty() {
        data.commit(outcome.changes.clone(), NOW);
    }
    Ok(outcome)
}

fn one(data: &mut Data, user: &str, sql: &str) -> String {
    let rows = on(data, &facts(user), sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).rows.unwrap();
    rows.rows
        .iter()
        .map(|row| row.iter().map(|c| c.written().unwrap_or("NULL".into())).collect::<Vec<_>>().join("|"))
        .collect::<Vec<_>>()
        .join(";")
}

fn code(data: &mut Data, user: &str, sql: &str) -> &'static str {
    on(data, &facts(user), sql, &[]).expect_err(sql).code
}

#[test]
fn queries_are_answered() {
    let data = &mut shop();
    for (sql, answer) in [
        ("SELECT pg_catalog.current_setting('transaction_read_only')", "off"),
        ("select pg_is_in_recovery()", "f"),
        ("SELECT pg_catalog.pg_current_wal_lsn()", "1/FF"),
        ("SELECT pg_catalog.host(pg_catalog.inet_server_addr())", "10.0.0.1"),
        ("SELECT pg_catalog.to_regnamespace('firedrill')", "firedrill"),
        ("SELECT pg_catalog.to_regclass('firedrill.none')", "NULL"),
        ("SELECT '0/10'::pg_lsn >= '0/F'::pg_lsn", "t"),
        ("select count(*) as accounts from accounts", "5000"),
        ("select count(*) as orders, max(id) as newest from orders", "20000|20000"),
        ("SELECT plan = 'paid' FROM accounts WHERE name = 'player-00003'", "t"),
        ("SELECT name FROM accounts WHERE plan = 'paid' AND id > 4996 ORDER BY id DESC LIMIT 2", "player-04998;player-04995"),
        ("select * from accounts where id = 2", "2|free|free|2026-01-01 00:00:00+00"),
        ("select id from orders where not id <= 19999 or id = 1 order by id", "1;20000"),
        ("select count(*) from pg_stat_replication where state = 'streaming'", "1"),
        ("select application_name, sync_state from pg_stat_replication", "b|sync"),
        (
            "SELECT 'accounts' AS relation, count(*) AS count FROM accounts UNION ALL SELECT 'orders', count(*) FROM orders",
            "accounts|5000;orders|20000",
        ),
        (
            "SELECT pg_is_in_recovery()::int AS in_recovery, CASE WHEN pg_is_in_recovery() THEN COALESCE(extract(epoch FROM now() - \
             pg_last_xact_replay_timestamp()), 0) ELSE 0 END AS replay_age_seconds, (SELECT count(*) FROM pg_stat_replication WHERE \
             state = 'streaming') AS streaming_replicas",
            "0|0|1",
        ),
        ("select 7 / 2 + 1 - -3 * 2 % 4, 'a' || 'b'", "6|ab"),
        ("select null is null and not null is not null, coalesce(null, 3), greatest(1, 5, 2)", "t|3|5"),
    ] {
        assert_eq!(one(data, "postgres", sql), answer, "{sql}");
    }
    let replica = Facts { in_recovery: true, read_only: true, replayed_at_us: Some(NOW - 1_500_000), ..facts("postgres") };
    let asked = "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp()), pg_last_wal_replay_lsn(), pg_is_in_recovery()";
    let rows = on(data, &replica, asked, &[]).unwrap().rows.unwrap().rows;
    assert_eq!(rows, [[Cell::Span(1_500_000), Cell::Lsn(5), Cell::Bool(true)]]);
    assert_eq!(Cell::Span(1_500_000).written().unwrap(), "1.500000");
}

#[test]
fn writes_change_what_they_say_and_nobody_may_do_more_than_granted() {
    let data = &mut shop();
    on(data, &facts("firedrill_ledger"), "CREATE TABLE firedrill.l (pos bigint GENERATED ALWAYS AS IDENTITY, n bigint NOT NULL)", &[])
        .unwrap();
    on(data, &facts("firedrill_ledger"), "COMMENT ON TABLE firedrill.l IS 'it''s mine'", &[]).unwrap();
    assert_eq!(one(data, "firedrill_ledger", "SELECT obj_description('firedrill.l'::regclass, 'pg_class')"), "it's mine");
    let made = on(data, &facts("firedrill_ledger"), "INSERT INTO firedrill.l (n) VALUES (5), (7) RETURNING pos, n", &[]).unwrap();
    assert_eq!((made.tag.as_str(), made.rows.unwrap().rows.len()), ("INSERT 0 2", 2));
    assert_eq!(one(data, "firedrill_ledger", "SELECT n FROM firedrill.l ORDER BY pos"), "5;7");
    // As checkout beats: the first makes the row, the next ones only move it on.
    let beat = "INSERT INTO health (name, beat, at) VALUES ($1, $2, now()) ON CONFLICT (name) DO UPDATE SET beat = greatest(health.beat, \
                excluded.beat), at = now() RETURNING beat";
    for (sent, kept) in [(3, 3), (5, 5), (4, 5)] {
        let rows = on(data, &facts("checkout"), beat, &[Cell::text("a"), Cell::Int(sent)]).unwrap().rows.unwrap().rows;
        assert_eq!(rows, [[Cell::Int(kept)]]);
    }
    assert_eq!(data.tables.tables["health"].count(), 1);
    let insert = "INSERT INTO orders (account, amount_cents) VALUES (1, 250) RETURNING id";
    assert_eq!(one(data, "checkout", insert), "20001");
    assert_eq!(on(data, &facts("postgres"), "UPDATE accounts SET plan = 'free' WHERE id <= 3", &[]).unwrap().tag, "UPDATE 3");
    assert_eq!(on(data, &facts("postgres"), "DELETE FROM orders WHERE id > 20000", &[]).unwrap().tag, "DELETE 1");
    for (user, sql, expected) in [
        ("monitor", "INSERT INTO orders (account, amount_cents) VALUES (1, 1)", "42501"),
        ("checkout", "DELETE FROM orders", "42501"),
        ("checkout", "SELECT n FROM firedrill.l", "42501"),
        ("checkout", "CREATE TABLE t (n bigint)", "42501"),
        ("checkout", "DROP TABLE orders", "42501"),
        ("checkout", "CREATE SCHEMA more", "42501"),
        ("postgres", "SELECT * FROM nothing", "42P01"),
        ("postgres", "SELECT nothing FROM orders", "42703"),
        ("postgres", "INSERT INTO accounts (name, plan) VALUES ('paid', 'paid')", "23505"),
        ("postgres", "INSERT INTO orders (account) VALUES (1)", "23502"),
        ("postgres", "INSERT INTO orders (id, account, amount_cents) VALUES (1, 1, 1)", "428C9"),
        ("postgres", "SELECT 1 / 0", "22012"),
        ("postgres", "SELECT 9223372036854775807 + 1", "22003"),
        ("postgres", "SELECT 'x'::bigint", "22P02"),
        ("postgres", "DROP SCHEMA firedrill", "2BP01"),
    ] {
        assert_eq!(code(data, user, sql), expected, "{user}: {sql}");
    }
    let read_only = Facts { read_only: true, ..facts("checkout") };
    assert_eq!(on(data, &read_only, insert, &[]).unwrap_err().code, "25006");
}

#[test]
fn whatever_is_not_understood_whole_is_not_rehearsable() {
    let data = &mut shop();
    for sql in [
        "SELECT pg_sleep(1)",
        "SELECT * FROM accounts, orders",
        "SELECT * FROM accounts JOIN orders ON true",
        "SELECT plan, count(*) FROM accounts GROUP BY plan",
        "SELECT * FROM accounts WHERE name LIKE 'p%'",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "COPY accounts TO '/tmp/x'",
        "VACUUM",
        "SET ROLE postgres",
        "SELECT 1 2",
        "SELECT",
        "",
        "INSERT INTO orders SELECT 1",
        "SELECT 1 = 'a'",
        "BEGIN ISOLATION LEVEL sometimes",
    ] {
        assert_eq!(code(data, "postgres", sql), "0A000", "{sql}");
    }
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(code(data, "postgres", &deep), "0A000");
    assert_eq!(split("BEGIN; SELECT ';' -- ;\n; ;COMMIT").unwrap(), ["BEGIN", "SELECT ';' -- ;", "COMMIT"]);
}

#[test]
fn parameters_have_the_kinds_of_what_they_stand_beside() {
    let tables = shop().tables;
    let kinds = |sql: &str| describe(&parse(sql).unwrap(), &tables).unwrap();
    let beat = "INSERT INTO health (name, beat, at) VALUES ($1, $2, now()) ON CONFLICT (name) DO NOTHING RETURNING beat";
    assert_eq!(kinds(beat), (Some(vec![("beat".to_owned(), Kind::Int)]), vec![Kind::Text, Kind::Int]));
    let names = "SELECT name FROM accounts WHERE plan = $2 AND $3 < id LIMIT $1";
    assert_eq!(kinds(names), (Some(vec![("name".to_owned(), Kind::Text)]), vec![Kind::Int, Kind::Text, Kind::Int]));
    assert_eq!(kinds("DELETE FROM orders WHERE id = $1"), (None, vec![Kind::Int]));
}

/// The numbers are PostgreSQL's: the wrapped query, run by hand on version 15 over the rows `(1,paid,paid,"2026-01-01 00:00:00+00")` and
/// `(2,free,free,"2026-01-01 00:00:00+00")`, is what SHA-256 of these texts and 64-bit sums give.
#[test]
fn a_digest_is_the_sum_of_the_rows_hashes() {
    use sha2::{Digest as _, Sha256};
    let half = |from: u8| format!("coalesce(sum(('x' || substr(h, {from}, 16))::bit(64)::bigint::numeric), 0)::text");
    let wrapped = |query: &str| {
        format!(
            "select count(*), {}, {} from (select encode(sha256(convert_to(r::text, 'UTF8')), 'hex') as h from (\n{query}\n) as r) as hashes",
            half(1),
            half(17)
        )
    };
    let data = &mut shop();
    assert!(matches!(parse(&wrapped("select * from accounts -- all")), Ok(Statement::Digest(_))));
    let answer = one(data, "monitor", &wrapped("select * from accounts where id <= 2 order by id"));
    let texts = [r#"(1,paid,paid,"2026-01-01 00:00:00+00")"#, r#"(2,free,free,"2026-01-01 00:00:00+00")"#];
    let sum = |at: usize| -> i128 {
        texts.iter().map(|text| i128::from(i64::from_be_bytes(Sha256::digest(text)[at..at + 8].try_into().unwrap()))).sum()
    };
    assert_eq!(answer, format!("2|{}|{}", sum(0), sum(8)));
    assert_eq!(one(data, "monitor", &wrapped("select * from health")), "0|0|0");
    assert_eq!(code(data, "monitor", &wrapped("select * from firedrill.x")), "42P01");
}

fn put(n: i64) -> Vec<Change> {
    let row: Row = [Cell::text("a"), Cell::Int(n), Cell::Time(NOW)].into();
    vec![Change::Put { table: "health".to_owned(), pos: n, row }]
}

fn rows(data: &Data) -> usize {
    data.tables.tables["health"].count()
}

#[test]
fn a_replica_follows_until_the_timelines_part() {
    let mut primary = shop();
    let mut replica = Data::from_image(primary.image().pack().unpack(), true, None);
    assert_eq!(replica.tables, primary.tables);
    assert!(Arc::ptr_eq(&replica.tables.tables["orders"].chunks[&0], &primary.tables.tables["orders"].chunks[&0]), "rows are shared");
    let before = replica.past.clone();
    for n in 1..=10 {
        primary.commit(put(n), NOW + n);
    }
    for record in primary.since(before.lsn, 4).unwrap() {
        assert!(replica.receive(record));
    }
    assert_eq!((rows(&primary), rows(&replica)), (10, 0), "received is not replayed");
    assert!(replica.replay(u64::MAX, NOW + 2) && rows(&replica) == 2, "up to a time");
    assert_eq!(replica.next_at_us(), Some(NOW + 3));
    assert!(primary.past.leads_on(&replica.past));
    let old = primary.since(before.lsn, 1).unwrap().remove(0);
    assert!(!replica.receive(old), "nothing is taken twice");

    replica.promote(NOW + 100);
    assert_eq!((rows(&replica), replica.past.timeline), (4, 2), "all that was received is kept");
    assert!(!replica.standby);
    assert!(!replica.past.leads_on(&primary.past), "six transactions are on no timeline of the new primary");
    assert!(replica.past.leads_on(&before), "who is behind the fork may follow");
    let elsewhere = Data::new(8);
    assert!(!replica.past.leads_on(&elsewhere.past), "never another cluster");
    replica.commit(put(20), NOW + 200);
    let third = Data::from_image(replica.image(), true, None);
    assert_eq!((rows(&third), third.past.timeline), (5, 2));
    // A second failover, elsewhere: the same number of a timeline is not the same timeline.
    primary.promote(NOW + 300);
    assert_eq!(primary.past.timeline, replica.past.timeline);
    assert!(!replica.past.leads_on(&primary.past) && !primary.past.leads_on(&replica.past));
}

#[test]
fn a_segment_is_closed_and_positions_are_written_as_postgresql_writes_them() {
    let mut data = shop();
    data.commit(put(1), NOW);
    let end = data.switch(NOW);
    assert!(end.is_multiple_of(super::data::SEGMENT) && data.switch(NOW) == end);
    for (lsn, text) in [(0, "0/0"), (0x1_2345_6789, "1/23456789"), (255, "0/FF")] {
        assert_eq!(Lsn(lsn).to_string(), text);
        assert_eq!(Lsn::parse(text), Some(Lsn(lsn)));
    }
    assert_eq!(Lsn::parse("1"), None);
    assert_eq!(Cell::Time(NOW + 123_400).written().unwrap(), "2026-01-01 00:00:00.1234+00");
}
