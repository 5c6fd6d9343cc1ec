//! The database as checkout sees it: every call has a time limit, and a connection that failed once is not used again.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::licence::Plan;

/// Connections at a time. Abandoned attempts are the database's to clean up: few, so that a hung primary is not
/// flooded with them when it wakes.
const CONNECTIONS: usize = 4;
/// What the server enforces, for calls that were abandoned here: a hung commit must not pile up sessions behind it.
const SESSION: &str = "-c statement_timeout=1000 -c lock_timeout=500 -c idle_in_transaction_session_timeout=2000";

/// Where the database is and who asks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database said no: nothing was stored.
    Refused(tokio_postgres::Error),
    /// The database was not reached: nothing was stored.
    Away(String),
    /// It was asked and did not answer: the outcome is not known.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => match error.as_db_error() {
                Some(said) => write!(to, "refused by the database: {} ({})", said.message(), said.code().code()),
                None => write!(to, "refused by the database: {error}"),
            },
            Self::Away(why) => write!(to, "no connection to the database: {why}"),
            Self::Unknown(why) => write!(to, "no answer from the database: {why}"),
        }
    }
}

pub(super) type Outcome<T> = Result<T, Failure>;

/// A connection and the task that drives it, which ends with it.
#[derive(Debug)]
struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A few connections to the database behind a host name.
#[derive(Debug)]
pub struct Database {
    settings: Settings,
    resolver: TokioResolver,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
}

impl Database {
    /// Does not connect yet.
    ///
    /// # Errors
    /// If the machine's resolver configuration cannot be read.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        // Not the C library's resolver: a static program cannot load its modules.
        let mut builder = TokioResolver::builder_tokio().context("failed to read /etc/resolv.conf")?;
        // The cluster has IPv4 only: do not wait for a second answer.
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4Only;
        let resolver = builder.build().context("failed to make a resolver")?;
        Ok(Self { settings, resolver, permits: Semaphore::new(CONNECTIONS), idle: Mutex::default() })
    }

    /// Writes `beat` into the row of `name` in table `health`, and reads it back in another transaction.
    pub(super) async fn beat(&self, name: &str, beat: i64, budget: Duration) -> Outcome<()> {
        let write = "INSERT INTO health (name, beat, at) VALUES ($1, $2, now()) \
             ON CONFLICT (name) DO UPDATE SET beat = greatest(health.beat, excluded.beat), at = now() RETURNING beat";
        let read = "SELECT beat FROM health WHERE name = $1";
        self.within(budget, async |client| {
            let written: i64 = client.query_one(write, &[&name, &beat]).await?.try_get(0)?;
            let found: i64 = client.query_one(read, &[&name]).await?.try_get(0)?;
            Ok(if found >= written { Ok(()) } else { Err(format!("wrote {written} and read {found}")) })
        })
        .await?
        .map_err(Failure::Unknown)
    }

    /// Stores an order; its id.
    pub(super) async fn order(&self, account: i64, amount_cents: i64, budget: Duration) -> Outcome<i64> {
        let insert = "INSERT INTO orders (account, amount_cents) VALUES ($1, $2) RETURNING id";
        self.within(budget, async |client| client.query_one(insert, &[&account, &amount_cents]).await?.try_get(0)).await
    }

    /// What a player pays, if there is such a player.
    pub(super) async fn plan(&self, player: &str, budget: Duration) -> Outcome<Option<Plan>> {
        let paid = "SELECT plan = 'paid' FROM accounts WHERE name = $1";
        self.within(budget, async |client| {
            let row = client.query_opt(paid, &[&player]).await?;
            let paid: Option<bool> = row.as_ref().map(|row| row.try_get(0)).transpose()?;
            Ok(paid.map(|paid| if paid { Plan::Paid } else { Plan::Free }))
        })
        .await
    }

    /// The names of at most `most` paid players.
    pub(super) async fn paid_players(&self, most: usize, budget: Duration) -> Outcome<Vec<String>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let names = "SELECT name FROM accounts WHERE plan = 'paid' ORDER BY id LIMIT $1";
        self.within(budget, async |client| client.query(names, &[&most]).await?.iter().map(|row: &Row| row.try_get(0)).collect()).await
    }

    /// Runs `call` on a kept or fresh connection, all within `budget`.
    async fn within<T>(&self, budget: Duration, call: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>) -> Outcome<T> {
        let mut asked = false;
        let attempt = async {
            let closed = |_| Failure::Away("shutting down".to_owned());
            let permit = self.permits.acquire().await.map_err(closed)?;
            let session = match self.kept() {
                Some(session) => session,
                None => self.connect().await.map_err(|error| Failure::Away(format!("{error:#}")))?,
            };
            asked = true;
            match call(&session.client).await {
                Ok(answer) => {
                    self.keep(session);
                    drop(permit);
                    Ok(answer)
                }
                Err(error) if error.as_db_error().is_some() => Err(Failure::Refused(error)),
                Err(error) => Err(Failure::Unknown(error.to_string())),
            }
        };
        match timeout(budget, attempt).await {
            Ok(outcome) => outcome,
            Err(_) if asked => Err(Failure::Unknown(format!("none within {budget:?}"))),
            Err(_) => Err(Failure::Away(format!("none within {budget:?}"))),
        }
    }

    fn kept(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(session) = idle.pop() {
            if !session.client.is_closed() {
                return Some(session);
            }
        }
        None
    }

    fn keep(&self, session: Session) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }

    async fn connect(&self) -> anyhow::Result<Session> {
        let Settings { host, port, database, user, password } = &self.settings;
        let addresses = self.resolver.lookup_ip(host.as_str()).await.with_context(|| format!("failed to look up {host}"))?;
        let address = addresses.iter().next().with_context(|| format!("{host} has no address"))?;
        let stream = TcpStream::connect(SocketAddr::new(address, *port)).await?;
        stream.set_nodelay(true)?;
        let (client, connection) = Config::new()
            .user(user)
            .password(password)
            .dbname(database)
            .application_name("checkout")
            .options(SESSION)
            .connect_raw(stream, NoTls)
            .await?;
        let driver = tokio::spawn(async move {
            // Its failure shows in the call that was under way.
            let _ = connection.await;
        });
        Ok(Session { client, driver })
    }
}
