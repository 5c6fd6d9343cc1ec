//! `ledger`: a sequential writer of numbered rows into PostgreSQL, and what becomes of them.
//!
//! Each write is one `INSERT` of its own, sent when the one before has ended and `every` has passed. It counts as
//! acknowledged only when the server said so without a warning; as failed only when its error proves that the row was
//! not committed; else it is unknown. After anything but an acknowledgement or such an error the connection is dropped
//! and the name looked up anew, so that the writer finds the new primary as a client would.

mod judge;
mod readback;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::judge::{Attempt, Fate, fate};
use super::{
    Cadence, Outcome, Sample, Seen,
    pg::{Pg, PgError, PgTarget},
    sampler::short,
};
use crate::{clock::Clock, clock::Stamp, journal::Reading, net::Dialer, scenario::types::Dur};

pub use readback::Copy;

/// The least time between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(50);
/// How long removing the table may take.
pub(super) const DROP_LIMIT: Duration = Duration::from_secs(10);
/// Writes kept in memory: a day at 20 ms would be four times that, and is no drill.
const MOST_WRITES: usize = 1_000_000;
/// The schema of all ledgers.
const SCHEMA: &str = "firedrill";

/// A `ledger` probe with its database found and its Secret read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerSpec {
    /// The database.
    pub target: PgTarget,
    /// The table, in schema `firedrill`.
    pub table: String,
}

/// The name of a probe's table in a drill: the same for every runner of that drill.
pub fn table_name(drill: &str, probe: &str) -> String {
    let digest = hex::encode(Sha256::digest(format!("{drill}\n{probe}")));
    format!("ledger_{}", &digest[..20])
}

/// Ends the writing and reads back. Answered with the reading.
#[derive(Debug)]
pub(super) struct ReadBack {
    /// Replicas to read besides the primary.
    pub(super) copies: Vec<Copy>,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<(Stamp, Stamp, Reading)>,
}

/// A ledger's writer.
pub(super) struct Ledger {
    probe: Arc<str>,
    spec: LedgerSpec,
    cadence: Cadence,
    clock: Clock,
    dialer: Dialer,
    out: mpsc::Sender<Seen>,
    state: State,
}

/// What a writer knows.
#[derive(Default)]
struct State {
    connection: Option<Pg>,
    /// Whether the table is there; the token tells a table of this writer from one of a writer before it.
    ready: bool,
    token: String,
    made_schema: bool,
    /// The table was there before: what an interrupted runner wrote into it is not known here.
    interrupted: bool,
    samples: u64,
    first: u64,
    attempts: Vec<Attempt>,
}

impl Ledger {
    /// A writer that has not begun.
    pub(super) fn new(probe: &str, spec: LedgerSpec, cadence: Cadence, clock: &Clock, dialer: &Dialer, out: &mpsc::Sender<Seen>) -> Self {
        let token = format!("firedrill {:032x}", rand::random::<u128>());
        let state = State { token, first: 1, ..State::default() };
        Self { probe: probe.into(), spec, cadence, clock: clock.clone(), dialer: dialer.clone(), out: out.clone(), state }
    }

    /// Writes until told to read back or to stop; then removes what it made.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<ReadBack>, stop: CancellationToken) {
        let mut writing = true;
        let mut ordered = true;
        let mut due = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                order = orders.recv(), if ordered => match order {
                    Some(ReadBack { copies, reply }) => {
                        writing = false;
                        let begin = self.clock.now();
                        let reading = self.read_back(copies).await;
                        // Who asked may have given up.
                        let _ = reply.send((begin, self.clock.now(), reading));
                    }
                    None => ordered = false,
                },
                () = sleep_until(due), if writing => {
                    let start = Instant::now();
                    let connected = self.state.connection.is_some();
                    let listening = self.write().await;
                    let pause = if connected { self.cadence.every } else { self.cadence.every.max(RECONNECT) };
                    due = start + pause;
                    if !listening {
                        break;
                    }
                    if self.state.attempts.len() >= MOST_WRITES {
                        writing = false;
                        let detail = format!("stopped writing after {MOST_WRITES} writes");
                        drop(self.out.send(Seen::Trouble { probe: self.probe.clone(), detail }).await);
                    }
                }
            }
        }
        self.remove().await;
    }

    /// One write, or one attempt to get so far as to be able to. Whether anybody still listens.
    async fn write(&mut self) -> bool {
        let send = self.clock.now();
        let before = self.state.attempts.len();
        let outcome = match timeout(self.cadence.timeout, self.try_write(&send)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.state.connection = None;
                Outcome::bad(format!("no answer within {}", Dur(self.cadence.timeout)))
            }
        };
        let complete = self.clock.now();
        if let Some(attempt) = self.state.attempts.get_mut(before) {
            attempt.end_us = complete.mono_us;
            let (write, fate) = (self.state.first + before as u64, attempt.fate);
            let outcome = fate.to_string();
            let written = Seen::Written { probe: self.probe.clone(), write, outcome, end: complete.clone() };
            if self.out.send(written).await.is_err() {
                return false;
            }
        }
        let n = self.state.samples;
        self.state.samples += 1;
        let sample = Sample { n, send, complete, state: outcome.state, detail: short(outcome.detail) };
        self.out.send(Seen::Sample { probe: self.probe.clone(), sample }).await.is_ok()
    }

    async fn try_write(&mut self, send: &Stamp) -> Outcome {
        if let Err(error) = self.connected().await {
            self.state.connection = None;
            return error.into();
        }
        let write = self.state.first + self.state.attempts.len() as u64;
        // The attempt is on its way to the file before it is on its way to the server, and it stays `unknown` if this
        // future is dropped at its time limit.
        let sent = Seen::Attempt { probe: self.probe.clone(), write, send: send.clone() };
        if self.out.send(sent).await.is_err() {
            return Outcome::unknown("nobody listens any more");
        }
        self.state.attempts.push(Attempt { send_us: send.mono_us, wall_us: send.wall_us, end_us: send.mono_us, fate: Fate::Unknown });
        let Some(pg) = &self.state.connection else { return Outcome::unknown("there is no connection") };
        drop(pg.take_warning());
        let answer = pg.simple(&format!("INSERT INTO {SCHEMA}.{} (n) VALUES ({write})", self.spec.table)).await;
        let warning = pg.take_warning();
        let fate = fate(answer.as_ref().err(), warning.as_deref());
        if let Some(attempt) = self.state.attempts.last_mut() {
            attempt.fate = fate;
        }
        match (answer, warning) {
            (Ok(_), None) => Outcome::good(format!("write {write}")),
            (Ok(_), Some(warning)) => {
                self.state.connection = None;
                Outcome::bad(format!("write {write} is unknown: {warning}"))
            }
            (Err(error), _) => {
                self.state.connection = None;
                error.into()
            }
        }
    }

    /// Sees to a connection to a server that takes writes, and to the table.
    async fn connected(&mut self) -> Result<(), PgError> {
        if self.state.connection.as_ref().is_some_and(|pg| !pg.is_closed()) {
            return Ok(());
        }
        self.state.connection = None;
        let pg = Pg::connect(&self.dialer, &self.spec.target).await?;
        // As libpq's target_session_attrs=read-write asks.
        if pg.simple("SELECT pg_catalog.current_setting('transaction_read_only')").await?.as_deref() != Some("off") {
            return Err(crate::net::NetError::peer("the server takes no writes: it is a replica").into());
        }
        if !self.state.ready {
            self.make_table(&pg).await?;
            self.state.ready = true;
        }
        self.state.connection = Some(pg);
        Ok(())
    }

    async fn make_table(&mut self, pg: &Pg) -> Result<(), PgError> {
        let (table, token) = (&self.spec.table, &self.state.token);
        if pg.simple(&format!("SELECT pg_catalog.to_regnamespace('{SCHEMA}')")).await?.is_none() {
            pg.simple(&format!("CREATE SCHEMA {SCHEMA}")).await?;
            self.state.made_schema = true;
        }
        if pg.simple(&format!("SELECT pg_catalog.to_regclass('{SCHEMA}.{table}')")).await?.is_none() {
            // No key: a row that was written twice must be seen twice.
            let create = format!(
                "BEGIN; CREATE TABLE {SCHEMA}.{table} (pos bigint GENERATED ALWAYS AS IDENTITY, n bigint NOT NULL); \
                 COMMENT ON TABLE {SCHEMA}.{table} IS '{token}'; COMMIT"
            );
            pg.simple(&create).await?;
            return Ok(());
        }
        let comment = pg.simple(&format!("SELECT pg_catalog.obj_description('{SCHEMA}.{table}'::regclass, 'pg_class')")).await?;
        if comment.as_ref() == Some(token) {
            // Made by an attempt whose answer did not come in time.
            return Ok(());
        }
        self.state.interrupted = true;
        let last = pg.simple(&format!("SELECT coalesce(max(n), 0) FROM {SCHEMA}.{table}")).await?;
        self.state.first = last.and_then(|last| last.parse::<u64>().ok()).unwrap_or(0) + 1;
        Ok(())
    }

    /// Removes the table, and the schema if it was made here. What cannot be removed is told.
    async fn remove(&mut self) {
        if !self.state.ready {
            return;
        }
        let mut statements = format!("DROP TABLE IF EXISTS {SCHEMA}.{}", self.spec.table);
        if self.state.made_schema {
            statements.push_str(&format!("; DROP SCHEMA IF EXISTS {SCHEMA}"));
        }
        let removed = timeout(DROP_LIMIT, async {
            loop {
                let done = async {
                    self.connected().await?;
                    match &self.state.connection {
                        Some(pg) => pg.simple(&statements).await,
                        None => Ok(None),
                    }
                };
                match done.await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "ledger's table not removed yet"),
                }
                self.state.connection = None;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        if removed.await.is_err() {
            let (table, target) = (&self.spec.table, &self.spec.target);
            let detail = format!("left behind: table {SCHEMA}.{table} in database {} at {}; drop it", target.database, target.host);
            // Nobody left to tell: nothing to be done.
            drop(self.out.send(Seen::Trouble { probe: self.probe.clone(), detail }).await);
        }
    }
}
