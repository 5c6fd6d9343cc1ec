//! The transactions of an `sql` fault, on a connection that is there.
//!
//! Rows are counted by the server's own statistics of the transaction under way, before and after the statement, so that what triggers
//! and cascades change counts, too, and nothing has to be believed that the statement says of itself. What changes the catalogue
//! (TRUNCATE, definitions) is not counted so and is rolled back.
//!
//! The mark is an empty large object with a comment, made in the same transaction: any role may make one, it needs no table and no
//! schema, and it lives and dies with the rows: a copy of the database that does not have it does not have the fault either.
//!
//! An advisory lock is held as long as a transaction of the fault is open, and the server ends one that nobody goes on with. So who
//! has the lock and sees no mark knows that nothing of it will come any more.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::{cluster::Leave, probe::forward::said, scenario::statement};

/// How long one statement may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);
/// How long it may wait for locks of others.
const LOCK_LIMIT: Duration = Duration::from_secs(15);
/// After this long without a word the server ends a transaction of ours.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How long another transaction of the same fault is waited for: it is ended by then.
const OTHER_LIMIT: Duration = Duration::from_secs(15);
/// Time between two looks whether it has ended.
const AGAIN: Duration = Duration::from_millis(200);

/// What the comment of every mark begins with.
const HEAD: &str = "firedrill drill ";
/// All marks. 2613 is `pg_largeobject`, and 16 the length of [`HEAD`].
const MARKS: &str =
    "select objoid::bigint, description from pg_description where classoid = 2613 and left(description, 16) = 'firedrill drill '";
/// How many rows this transaction has touched, and how many of the catalogue.
const COUNT: &str = "select coalesce(sum(case when schemaname = 'pg_catalog' then 0 else n_tup_ins + n_tup_upd + n_tup_del end), 0)::bigint, \
                     coalesce(sum(case when schemaname = 'pg_catalog' then n_tup_ins + n_tup_upd + n_tup_del else 0 end), 0)::bigint \
                     from pg_stat_xact_all_tables where schemaname <> 'pg_toast'";

/// What tells that the fault of an undo was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The drill.
    pub drill: String,
    /// The fault.
    pub id: String,
    /// The large object's number.
    pub oid: u32,
}

impl Mark {
    /// For a drill and what tells this fault from its others.
    pub fn new(drill: &str, what: &str) -> Self {
        let hash = Sha256::digest(format!("{drill}\n{what}"));
        // The upper half: the server's own counter begins at the bottom.
        let oid = 0x8000_0000 | u32::from_be_bytes([hash[16], hash[17], hash[18], hash[19]]);
        Self { drill: drill.to_owned(), id: hex::encode(&hash[..16]), oid }
    }

    /// The advisory lock's number.
    fn lock(&self) -> i64 {
        let hash = Sha256::digest(&self.id);
        i64::from_be_bytes([hash[0] & 0x7f, hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
    }

    fn comment(&self, rows: u64) -> String {
        format!("{HEAD}{} {} rows {rows}", self.drill, self.id)
    }
}

/// A mark that was found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    mark: Mark,
    rows: u64,
}

impl Found {
    fn read(oid: &str, comment: &str) -> Option<Self> {
        let mut words = comment.strip_prefix(HEAD)?.split(' ');
        let (drill, id) = (words.next()?.to_owned(), words.next()?.to_owned());
        let rows = words.nth(1)?.parse().ok()?;
        Some(Self { mark: Mark { drill, id, oid: oid.parse().ok()? }, rows })
    }
}

/// What is done.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The statement.
    pub statement: String,
    /// What undoes it, if anything.
    pub revert: Option<String>,
    /// The most rows it may touch.
    pub most: u64,
}

/// Why a transaction did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// Nothing of it was committed.
    #[error("{0}")]
    No(String),
    /// No answer to the commit: a mark tells.
    #[error("it is unknown whether it was committed: {0}")]
    Unknown(String),
}

impl From<Error> for NotDone {
    fn from(error: Error) -> Self {
        Self::No(said(&error))
    }
}

fn no<T>(why: impl Into<String>) -> Result<T, NotDone> {
    Err(NotDone::No(why.into()))
}

/// What a revert came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// There is no mark: it was not committed, or is undone.
    Nothing,
    /// So many rows were touched, as many as by the fault.
    Reverted(u64),
    /// The undo would touch another number of rows than the fault did; nothing was written.
    Superseded {
        /// By the fault.
        rows: u64,
        /// By the undo.
        undo: u64,
    },
    /// So many rows are changed, and there is no statement that undoes it.
    NoStatement(u64),
}

/// What a text query gives.
async fn ask(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    let mut rows = Vec::new();
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|n| row.get(n).unwrap_or_default().to_owned()).collect());
        }
    }
    Ok(rows)
}

async fn marks(client: &Client) -> Result<Vec<Found>, Error> {
    let rows = ask(client, MARKS).await?;
    Ok(rows.iter().filter_map(|row| Found::read(row.first()?, row.get(1)?)).collect())
}

async fn rows_of(client: &Client, mark: &Mark) -> Result<Option<u64>, Error> {
    Ok(marks(client).await?.into_iter().find(|found| found.mark == *mark).map(|found| found.rows))
}

/// Rows that were touched: of tables, and of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    rows: u64,
    catalogue: u64,
}

async fn count(client: &Client) -> Result<Count, NotDone> {
    let rows = ask(client, COUNT).await?;
    let number = |at: usize| rows.first().and_then(|row| row.get(at)?.parse::<u64>().ok());
    match (number(0), number(1)) {
        (Some(rows), Some(catalogue)) => Ok(Count { rows, catalogue }),
        _ => no("the server does not say how many rows are touched"),
    }
}

/// Begins a transaction that only one of the fault can have open.
async fn begin(client: &Client, mark: &Mark) -> Result<(), NotDone> {
    let (statement, lock, idle) = (STATEMENT_LIMIT.as_millis(), LOCK_LIMIT.as_millis(), IDLE_LIMIT.as_millis());
    let deadline = tokio::time::Instant::now() + OTHER_LIMIT;
    loop {
        client
            .batch_execute(&format!(
                "begin isolation level read committed, read write; set local statement_timeout = {statement}; \
                 set local lock_timeout = {lock}; set local idle_in_transaction_session_timeout = {idle}"
            ))
            .await?;
        let got = ask(client, &format!("select pg_try_advisory_xact_lock({})", mark.lock())).await?;
        if got.first().and_then(|row| row.first()).is_some_and(|got| got == "t") {
            return Ok(());
        }
        client.batch_execute("rollback").await?;
        if tokio::time::Instant::now() >= deadline {
            return no("another transaction of this fault is still open");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Ends a transaction that is not to be committed. The server does the same when the connection ends.
async fn give_up<T>(client: &Client, outcome: Result<T, NotDone>) -> Result<T, NotDone> {
    if matches!(outcome, Err(NotDone::No(_))) {
        // What was wrong is told; a connection that is over has rolled it back.
        let _ = client.batch_execute("rollback").await;
    }
    outcome
}

async fn commit(client: &Client, leave: &Leave) -> Result<(), NotDone> {
    leave.ask().map_err(NotDone::No)?;
    client.batch_execute("commit").await.map_err(|error| NotDone::Unknown(said(&error)))
}

/// Runs one statement and gives the rows that it touched.
async fn touch(client: &Client, sql: &str) -> Result<u64, NotDone> {
    if let Some(why) = statement::refusal(sql) {
        return no(why);
    }
    let before = count(client).await?;
    // The extended protocol takes one statement only: a second one could end the transaction.
    let prepared = client.prepare(sql).await?;
    if !prepared.params().is_empty() {
        return no("it has parameters, for which there are no values");
    }
    let claimed = client.execute(&prepared, &[]).await?;
    // What was put off to the commit would come after the count.
    client.batch_execute("set constraints all immediate").await?;
    let after = count(client).await?;
    if after.catalogue != before.catalogue {
        return no("it changes definitions or truncates a table, which cannot be counted");
    }
    let Some(rows) = after.rows.checked_sub(before.rows) else { return no("the server counts fewer rows than before") };
    let changes = matches!(statement::first_word(sql).as_deref(), Some("delete" | "insert" | "merge" | "update"));
    if changes && claimed > rows {
        return no(format!("it says that it touches {claimed} rows, and the server counts {rows}: what it changes lies elsewhere"));
    }
    Ok(rows)
}

/// Looks whether the fault can be had: both statements are understood, rows are counted, this is no replica, and no other drill's fault
/// is there. Changes nothing.
///
/// # Errors
/// Why not.
pub async fn prepare(client: &Client, mark: &Mark, wanted: &Wanted) -> Result<(), NotDone> {
    let outcome = prepare_within(client, mark, wanted).await;
    // Whatever it was: nothing is to be kept.
    let _ = client.batch_execute("rollback").await;
    outcome
}

async fn prepare_within(client: &Client, mark: &Mark, wanted: &Wanted) -> Result<(), NotDone> {
    client.batch_execute(&format!("begin read only; set local statement_timeout = {}", STATEMENT_LIMIT.as_millis())).await?;
    let state = ask(client, "select pg_is_in_recovery(), current_setting('track_counts')").await?;
    match state.first().map(Vec::as_slice) {
        Some([recovery, counts]) if recovery == "f" && counts == "on" => {}
        Some([recovery, _]) if recovery != "f" => return no("it is a replica, which takes no writes"),
        _ => return no("the server does not count rows: set `track_counts = on`"),
    }
    if let Some(other) = marks(client).await?.into_iter().find(|found| found.mark.drill != mark.drill) {
        let Mark { drill, oid, .. } = other.mark;
        return no(format!(
            "drill {drill} has changed {} rows in it; undo that first: firedrill revert {drill}. If that drill is no more and nothing of it is \
             left, remove its mark: select lo_unlink({oid})",
            other.rows
        ));
    }
    for (what, sql) in [("statement", Some(&wanted.statement)), ("revert", wanted.revert.as_ref())] {
        let Some(sql) = sql else { continue };
        if let Some(why) = statement::refusal(sql) {
            return no(format!("`{what}`: {why}"));
        }
        client.prepare(sql).await.map_err(|error| NotDone::No(format!("`{what}`: {}", said(&error))))?;
    }
    Ok(())
}

/// Runs the statement, counts, tries its undo, and commits; the rows that were touched. With the mark there it does nothing.
///
/// # Errors
/// It failed, touched none or too many rows, or its undo would not touch as many: nothing was committed. Or the answer to the commit
/// was lost.
pub async fn inject(client: &Client, mark: &Mark, wanted: &Wanted, leave: &Leave) -> Result<u64, NotDone> {
    begin(client, mark).await?;
    let outcome = inject_within(client, mark, wanted, leave).await;
    give_up(client, outcome).await
}

async fn inject_within(client: &Client, mark: &Mark, wanted: &Wanted, leave: &Leave) -> Result<u64, NotDone> {
    if let Some(rows) = rows_of(client, mark).await? {
        client.batch_execute("rollback").await?;
        return Ok(rows);
    }
    client.batch_execute(&format!("select lo_create({})", mark.oid)).await?;
    let rows = touch(client, &wanted.statement).await?;
    let most = wanted.most;
    if rows == 0 {
        return no("it touches no row: rolled back");
    }
    if rows > most {
        return no(format!("it touches {rows} rows, and `maxRows` is {most}: rolled back"));
    }
    if let Some(undo) = &wanted.revert {
        // While it can still be rolled back: an undo that does not fit would be found too late.
        client.batch_execute("savepoint firedrill_undo").await?;
        let undone =
            touch(client, undo).await.map_err(|error| NotDone::No(format!("its `revert` would fail, so it is rolled back: {error}")))?;
        client.batch_execute("rollback to savepoint firedrill_undo").await?;
        if undone != rows {
            return no(format!(
                "it touches {rows} rows and its `revert` {undone}, so that it could not be told whether all is undone: rolled back"
            ));
        }
    }
    // Drill names are names of Kubernetes objects, and the rest is hexadecimal: nothing in it is a quote.
    client.batch_execute(&format!("comment on large object {} is '{}'", mark.oid, mark.comment(rows).replace('\'', "''"))).await?;
    commit(client, leave).await?;
    Ok(rows)
}

/// Undoes what the mark tells of, and removes the mark in the same transaction.
///
/// # Errors
/// The undo failed; or the answer to the commit was lost.
pub async fn revert(client: &Client, mark: &Mark, undo: Option<&str>, leave: &Leave) -> Result<Undone, NotDone> {
    begin(client, mark).await?;
    let outcome = revert_within(client, mark, undo, leave).await;
    give_up(client, outcome).await
}

async fn revert_within(client: &Client, mark: &Mark, undo: Option<&str>, leave: &Leave) -> Result<Undone, NotDone> {
    let found = rows_of(client, mark).await?;
    let (rows, undo) = match (found, undo) {
        (Some(rows), Some(undo)) => (rows, undo),
        (found, _) => {
            client.batch_execute("rollback").await?;
            return Ok(found.map_or(Undone::Nothing, Undone::NoStatement));
        }
    };
    let undone = touch(client, undo).await?;
    if undone != rows {
        client.batch_execute("rollback").await?;
        return Ok(Undone::Superseded { rows, undo: undone });
    }
    client.batch_execute(&format!("select lo_unlink({})", mark.oid)).await?;
    commit(client, leave).await?;
    Ok(Undone::Reverted(rows))
}

/// Removes the mark and leaves the rows. Whether there was one.
///
/// # Errors
/// As [`revert`].
pub async fn forget(client: &Client, mark: &Mark, leave: &Leave) -> Result<bool, NotDone> {
    begin(client, mark).await?;
    let outcome = async {
        if rows_of(client, mark).await?.is_none() {
            client.batch_execute("rollback").await?;
            return Ok(false);
        }
        client.batch_execute(&format!("select lo_unlink({})", mark.oid)).await?;
        commit(client, leave).await?;
        Ok(true)
    }
    .await;
    give_up(client, outcome).await
}

/// The rows that the fault has touched, if it is committed.
///
/// # Errors
/// The server's.
pub async fn look(client: &Client, mark: &Mark) -> Result<Option<u64>, NotDone> {
    Ok(rows_of(client, mark).await?)
}

/// The same, once no transaction of the fault is open any more.
///
/// # Errors
/// The server's; or one stays open.
pub async fn settled(client: &Client, mark: &Mark) -> Result<Option<u64>, NotDone> {
    begin(client, mark).await?;
    let found = rows_of(client, mark).await;
    match client.batch_execute("rollback").await {
        Ok(()) => found.map_err(NotDone::from),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_again_by_its_comment() {
        let mark = Mark::new("lose-orders-1", "a");
        assert!(mark.oid >= 0x8000_0000 && mark.lock() >= 0);
        assert_eq!(Found::read(&mark.oid.to_string(), &mark.comment(7)), Some(Found { mark: mark.clone(), rows: 7 }));
        assert_ne!(mark, Mark::new("lose-orders-1", "b"));
        assert_eq!(HEAD.len(), 16);
        for other in ["firedrill drill", "firedrill drill a b rows", "firedrill drill a b rows x", "other"] {
            assert_eq!(Found::read("1", other), None, "{other}");
        }
    }
}
