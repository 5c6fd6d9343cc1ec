//! A database server: what runs over a server's files. Sessions, transactions, and the wait for a synchronous replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    ast::Statement,
    data::{Change, Data, Tables, verifier},
    eval::{Answer, Facts, Follower, Scope, SqlError},
    execute::{self, Outcome, Rows},
    parse,
    value::{Cell, Kind},
};
use crate::clock::Clock;

/// A server's files, shared by those who have the volume.
pub(super) type Files = Arc<Mutex<Data>>;

/// Locks something whose holder never panics in the middle of a change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many sessions there may be (`max_connections`).
const SESSIONS: usize = 120;

#[derive(Default)]
struct State {
    /// By the number of their connection.
    followers: BTreeMap<u64, Follower>,
    /// `synchronous_standby_names`: one of them must have a commit. Empty: nobody waits.
    synchronous: Vec<String>,
    sessions: usize,
    next: u64,
    /// Advisory locks that transactions have.
    locks: BTreeSet<i64>,
}

/// A server that runs.
pub(super) struct Server {
    pub(super) files: Files,
    pub(super) clock: Clock,
    /// Its address, as it knows it.
    pub(super) address: String,
    state: Mutex<State>,
    /// Something of the files or the state is not as it was.
    changed: watch::Sender<u64>,
    /// It stops: every session ends.
    pub(super) stop: CancellationToken,
    /// It is down: nobody gets its log any more.
    pub(super) down: CancellationToken,
    /// Whether nothing more can be written to its volume, where that is known.
    full: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

/// How the wait for a synchronous replica ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// It has it, or none is asked for.
    Done,
    /// The statement's time was over. It is committed here all the same.
    Cancelled,
    /// The server stops.
    Stopped,
}

impl Server {
    pub(super) fn new(files: Files, clock: &Clock, address: &str) -> Arc<Self> {
        Arc::new(Self {
            files,
            clock: clock.clone(),
            address: address.to_owned(),
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            stop: CancellationToken::new(),
            down: CancellationToken::new(),
            full: OnceLock::new(),
        })
    }

    /// Has it ask whether its volume is full before each commit.
    pub(super) fn on_volume(&self, full: impl Fn() -> bool + Send + Sync + 'static) {
        // Once: a server does not change its volume.
        let _ = self.full.set(Box::new(full));
    }

    /// Now, in microseconds since the Unix epoch.
    pub(super) fn now_us(&self) -> i64 {
        self.clock.now().wall_us
    }

    /// Tells all who wait that something has changed.
    pub(super) fn touch(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// To wait for a change with.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Who must have a commit before it is acknowledged.
    pub(super) fn set_synchronous(&self, names: Vec<String>) {
        let mut state = lock(&self.state);
        if state.synchronous != names {
            state.synchronous = names;
            drop(state);
            self.touch();
        }
    }

    /// A replica has connected. Its number.
    pub(super) fn join(&self, follower: Follower) -> u64 {
        let mut state = lock(&self.state);
        state.next += 1;
        let number = state.next;
        state.followers.insert(number, follower);
        drop(state);
        self.touch();
        number
    }

    /// A replica tells how far it is.
    pub(super) fn progress(&self, number: u64, flushed: u64, replayed: u64) {
        if let Some(follower) = lock(&self.state).followers.get_mut(&number) {
            (follower.flushed, follower.replayed) = (flushed, replayed);
        }
        self.touch();
    }

    /// A replica is gone.
    pub(super) fn leave(&self, number: u64) {
        lock(&self.state).followers.remove(&number);
        self.touch();
    }

    /// The replicas that stream.
    pub(super) fn followers(&self) -> Vec<Follower> {
        let state = lock(&self.state);
        let sync = |f: &Follower| Follower { sync: state.synchronous.contains(&f.name), ..f.clone() };
        state.followers.values().map(sync).collect()
    }

    fn has(&self, lsn: u64) -> bool {
        let state = lock(&self.state);
        state.synchronous.is_empty() || state.followers.values().any(|f| f.flushed >= lsn && state.synchronous.contains(&f.name))
    }

    /// Waits until a synchronous replica has the log up to a position.
    pub(super) async fn replicated(&self, lsn: u64, limit: Option<Duration>) -> Waited {
        let mut changes = self.changes();
        let wait = async {
            while !self.has(lsn) {
                // The sender is this server's own.
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let limit = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Waited::Stopped,
            () = wait => Waited::Done,
            () = limit => Waited::Cancelled,
        }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// Wrong password, no such role or database, too many sessions, or the server takes none now: all fatal.
    pub(super) fn session(self: &Arc<Self>, user: &str, password: Option<&str>, database: &str) -> Answer<Session> {
        let mut state = lock(&self.state);
        if self.stop.is_cancelled() {
            return Err(SqlError::new("57P03", "the database system is shutting down"));
        }
        if state.sessions >= SESSIONS {
            return Err(SqlError::new("53300", "sorry, too many clients already"));
        }
        {
            let files = lock(&self.files);
            if let Some(password) = password
                && files.tables.roles.get(user).is_none_or(|role| role.verifier != verifier(user, password))
            {
                return Err(SqlError::new("28P01", format!("password authentication failed for user \"{user}\"")));
            }
        }
        if !matches!(database, "orders" | "postgres") {
            return Err(SqlError::new("3D000", format!("database \"{database}\" does not exist")));
        }
        state.sessions += 1;
        let server = Arc::clone(self);
        Ok(Session { server, user: user.to_owned(), database: database.to_owned(), transaction: None, timeout: None, waits: true })
    }
}

/// An advisory lock, until its transaction ends.
struct Held {
    server: Arc<Server>,
    key: i64,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.server.state).locks.remove(&self.key);
    }
}

/// A transaction under way.
#[derive(Debug)]
struct Transaction {
    /// What it sees: what was there when it began, and its own changes.
    tables: Tables,
    changes: Vec<Change>,
    read_only: bool,
    /// Begun by `BEGIN`.
    explicit: bool,
    failed: bool,
    /// Savepoints: their names, what was seen there, and how many changes there were.
    saved: Vec<(String, Tables, usize)>,
    locks: Vec<Held>,
}

/// How a session's transaction is (for `ReadyForQuery`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Idle,
    Open,
    Failed,
}

/// A session.
pub(super) struct Session {
    server: Arc<Server>,
    user: String,
    database: String,
    transaction: Option<Transaction>,
    /// `statement_timeout`.
    timeout: Option<Duration>,
    /// Whether its commits wait for a synchronous replica; without, the server lies.
    pub(super) waits: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = lock(&self.server.state);
        state.sessions = state.sessions.saturating_sub(1);
    }
}

/// That a commit was not waited for to its end.
pub(super) const UNSURE: &str = "canceling wait for synchronous replication due to user request";

impl Session {
    /// Sets what `SET` sets.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if name == "statement_timeout" {
            let ms = value.trim_end_matches("ms").parse().unwrap_or(0);
            self.timeout = (ms > 0).then(|| Duration::from_millis(ms));
        }
    }

    pub(super) fn status(&self) -> Status {
        match &self.transaction {
            Some(open) if open.explicit && open.failed => Status::Failed,
            Some(open) if open.explicit => Status::Open,
            _ => Status::Idle,
        }
    }

    fn begin(&mut self, read_only: bool, explicit: bool) {
        let tables = lock(&self.server.files).tables.clone();
        let (changes, saved, locks) = (Vec::new(), Vec::new(), Vec::new());
        self.transaction = Some(Transaction { tables, changes, read_only, explicit, failed: false, saved, locks });
    }

    /// The tables as this session sees them now.
    pub(super) fn tables(&self) -> Tables {
        match &self.transaction {
            Some(open) => open.tables.clone(),
            None => lock(&self.server.files).tables.clone(),
        }
    }

    fn facts(&self) -> Facts {
        let files = lock(&self.server.files);
        let in_recovery = files.standby || files.recovery.is_some();
        let (lsn, replayed, replayed_at_us) = (files.past.lsn, files.replayed, files.replayed_at_us);
        drop(files);
        Facts {
            user: self.user.clone(),
            now_us: self.server.now_us(),
            in_recovery,
            read_only: in_recovery || self.transaction.as_ref().is_some_and(|open| open.read_only),
            lsn,
            replayed,
            replayed_at_us,
            address: self.server.address.clone(),
            followers: self.server.followers(),
            touched: self.touched(),
        }
    }

    /// How many rows, and how many of the catalogue, the open transaction has touched.
    fn touched(&self) -> (i64, i64) {
        let changes = self.transaction.iter().flat_map(|open| &open.changes);
        changes.fold((0, 0), |(rows, catalogue), change| match change {
            Change::Put { .. } | Change::Gone { .. } => (rows + 1, catalogue),
            _ => (rows, catalogue + 1),
        })
    }

    /// Savepoints and locks of the open transaction. None: the statement is another one.
    fn within(&mut self, statement: &Statement) -> Option<Answer<Outcome>> {
        let no_block = |what: &str| Some(Err(SqlError::new("25P01", format!("{what} can only be used in transaction blocks"))));
        let tag = |tag: &str| Some(Ok(Outcome { tag: tag.to_owned(), ..Outcome::default() }));
        let open = self.transaction.as_mut().filter(|open| open.explicit);
        match (statement, open) {
            (Statement::Savepoint(name), Some(open)) => {
                open.saved.push((name.clone(), open.tables.clone(), open.changes.len()));
                tag("SAVEPOINT")
            }
            (Statement::RollbackTo(name), Some(open)) => {
                let Some(at) = open.saved.iter().rposition(|(saved, ..)| saved == name) else {
                    return Some(Err(SqlError::new("3B001", format!("savepoint \"{name}\" does not exist"))));
                };
                open.saved.truncate(at + 1);
                let (_, tables, changes) = &open.saved[at];
                open.tables.clone_from(tables);
                open.changes.truncate(*changes);
                open.failed = false;
                tag("ROLLBACK")
            }
            (Statement::Savepoint(_), None) => no_block("SAVEPOINT"),
            (Statement::RollbackTo(_), None) => no_block("ROLLBACK TO SAVEPOINT"),
            (Statement::TryLock(key), open) => {
                let mine = open.as_ref().is_some_and(|open| open.locks.iter().any(|held| held.key == *key));
                let free = mine || !lock(&self.server.state).locks.contains(key);
                if let Some(open) = open.filter(|_| free && !mine) {
                    lock(&self.server.state).locks.insert(*key);
                    open.locks.push(Held { server: Arc::clone(&self.server), key: *key });
                }
                let rows = Rows { columns: vec![("pg_try_advisory_xact_lock".to_owned(), Kind::Bool)], rows: vec![vec![Cell::Bool(free)]] };
                Some(Ok(Outcome { rows: Some(rows), tag: "SELECT 1".to_owned(), changes: Vec::new() }))
            }
            _ => None,
        }
    }

    /// Runs one statement within the transaction that is open, or one of its own that [`Session::settle`] ends.
    ///
    /// # Errors
    /// The server's: the transaction has failed then.
    pub(super) fn execute(&mut self, statement: &Statement, params: &[Cell]) -> Answer<Outcome> {
        let done = |tag: &str| Ok(Outcome { tag: tag.to_owned(), ..Outcome::default() });
        if self.status() == Status::Failed && !matches!(statement, Statement::Commit | Statement::Rollback | Statement::RollbackTo(_)) {
            let why = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(SqlError::new("25P02", why));
        }
        match statement {
            Statement::Begin { read_only } => {
                let changes = self.transaction.take().map(|open| open.changes).unwrap_or_default();
                self.begin(*read_only, true);
                // What came before it in the same message belongs to it.
                if let Some(open) = &mut self.transaction {
                    changes.iter().for_each(|change| open.tables.apply(change));
                    open.changes = changes;
                }
                return done("BEGIN");
            }
            Statement::Commit => {
                if self.status() == Status::Failed {
                    self.transaction = None;
                    return done("ROLLBACK");
                }
                if let Some(open) = &mut self.transaction {
                    open.explicit = false;
                }
                return done("COMMIT");
            }
            Statement::Rollback => {
                self.transaction = None;
                return done("ROLLBACK");
            }
            Statement::Set { name, value } => {
                self.set(name, value);
                return done("SET");
            }
            _ => {}
        }
        if let Some(done) = self.within(statement) {
            return done;
        }
        if self.transaction.is_none() {
            self.begin(false, false);
        }
        if self.database != "orders" && touches_tables(statement) {
            return Err(SqlError::not_rehearsable(format!("tables of database {}", self.database)));
        }
        let facts = self.facts();
        let Some(open) = &mut self.transaction else { return Err(SqlError::new("XX000", "there is no transaction")) };
        let files = Arc::clone(&self.server.files);
        // Numbers are never given twice, whatever becomes of the transaction.
        let next = |table: &str| {
            let mut files = lock(&files);
            let found = files.tables.tables.get_mut(table).map(Arc::make_mut);
            found.map_or(1, |found| {
                found.next += 1;
                found.next - 1
            })
        };
        let mut own = BTreeMap::new();
        let made: Vec<String> = open.tables.tables.keys().filter(|name| !lock(&files).tables.tables.contains_key(*name)).cloned().collect();
        let mut number = |table: &str| {
            if made.iter().any(|name| name == table) {
                // Made in this transaction: nobody else gives its numbers.
                let first = open.tables.tables.get(table).map_or(1, |table| table.next);
                let n = own.entry(table.to_owned()).or_insert(first);
                *n += 1;
                *n - 1
            } else {
                next(table)
            }
        };
        let scope = Scope { tables: &open.tables, facts: &facts, params, row: None, excluded: None, group: None };
        match execute::run(statement, scope, &mut number) {
            Ok(outcome) => {
                outcome.changes.iter().for_each(|change| open.tables.apply(change));
                open.changes.extend(outcome.changes.iter().cloned());
                Ok(outcome)
            }
            Err(error) => {
                open.failed = true;
                if !open.explicit {
                    self.transaction = None;
                }
                Err(error)
            }
        }
    }

    /// Ends a transaction that is not, or not any more, one of `BEGIN`: commits it, and says up to where the log has to be
    /// replicated.
    ///
    /// # Errors
    /// The server has become a replica meanwhile.
    pub(super) fn settle(&mut self) -> Answer<Option<u64>> {
        if self.transaction.as_ref().is_none_or(|open| open.explicit) {
            return Ok(None);
        }
        let Some(open) = self.transaction.take() else { return Ok(None) };
        if open.changes.is_empty() {
            return Ok(None);
        }
        if self.server.full.get().is_some_and(|full| full()) {
            return Err(SqlError::new("53100", "could not extend file \"base/5/16384\": No space left on device"));
        }
        let mut files = lock(&self.server.files);
        if files.standby || files.recovery.is_some() {
            return Err(SqlError::new("25006", "cannot commit in a server that is in recovery"));
        }
        // What it has seen goes first: as long as it is there, the commit has to copy what the two share.
        let Transaction { changes, tables, saved, locks, .. } = open;
        drop((tables, saved));
        let lsn = files.commit(changes, self.server.now_us());
        drop(files);
        drop(locks);
        self.server.touch();
        Ok(Some(lsn))
    }

    /// Gives up a transaction that an error ended.
    pub(super) fn fail(&mut self) {
        match &mut self.transaction {
            Some(open) if open.explicit => open.failed = true,
            _ => self.transaction = None,
        }
    }

    /// Waits for a commit to be safe.
    pub(super) async fn sure(&self, lsn: u64) -> Waited {
        if self.waits { self.server.replicated(lsn, self.timeout).await } else { Waited::Done }
    }

    /// Reads and runs statements as `psql -c` does, and waits for their commit.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn simple(&mut self, sql: &str) -> Answer<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for text in parse::split(sql).map_err(SqlError::not_rehearsable)? {
            let statement = match parse::parse(&text) {
                Ok(statement) => statement,
                Err(why) => {
                    self.fail();
                    return Err(SqlError::not_rehearsable(why));
                }
            };
            outcomes.push(self.execute(&statement, &[])?);
        }
        if let Some(lsn) = self.settle()? {
            match self.sure(lsn).await {
                Waited::Done | Waited::Cancelled => {}
                Waited::Stopped => return Err(SqlError::new("57P01", "terminating connection due to administrator command")),
            }
        }
        Ok(outcomes)
    }
}

fn touches_tables(statement: &Statement) -> bool {
    match statement {
        Statement::Select(select) => select.from.as_deref().is_some_and(|from| !from.starts_with("pg_")),
        Statement::Housekeeping(_) => false,
        _ => true,
    }
}
