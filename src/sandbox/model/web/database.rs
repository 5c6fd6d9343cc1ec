//! The database as checkout sees it: every call has a time limit, and a connection that failed once is not used again.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use super::super::{
    super::program::Env,
    sql::{Rows, Session, Target, literal, said},
};

/// Connections at a time.
const CONNECTIONS: usize = 4;

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database said no: nothing was stored.
    Refused(String),
    /// The database was not reached: nothing was stored.
    Away(String),
    /// It was asked and did not answer: the outcome is not known.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(to, "refused by the database: {why}"),
            Self::Away(why) => write!(to, "no connection to the database: {why}"),
            Self::Unknown(why) => write!(to, "no answer from the database: {why}"),
        }
    }
}

/// A few connections to the database behind a host name.
#[derive(Debug)]
pub(super) struct Database {
    target: Target,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
}

fn first(rows: Rows) -> Option<String> {
    rows.into_iter().next().and_then(|row| row.into_iter().next().flatten())
}

impl Database {
    /// As the variables of the container say: `PGHOST`, `PGPORT`, `PGDATABASE`, `PGUSER`, `PGPASSWORD`.
    ///
    /// # Errors
    /// The port is none.
    pub(super) fn of(env: &Env) -> Result<Self, String> {
        let var = |name: &str, otherwise: &str| env.var(name).unwrap_or_else(|| otherwise.to_owned());
        let port = var("PGPORT", "5432");
        let target = Target {
            host: var("PGHOST", "localhost"),
            port: port.parse().map_err(|_| format!("PGPORT: `{port}` is no port"))?,
            database: var("PGDATABASE", "orders"),
            user: var("PGUSER", "checkout"),
            password: var("PGPASSWORD", ""),
            application: "checkout",
        };
        Ok(Self { target, permits: Semaphore::new(CONNECTIONS), idle: Mutex::default() })
    }

    /// Writes `beat` into the row of `name` in table `health`, and reads it back in another transaction.
    pub(super) async fn beat(&self, env: &Env, name: &str, beat: i64, budget: Duration) -> Result<(), Failure> {
        let name = literal(name);
        let write = format!(
            "INSERT INTO health (name, beat, at) VALUES ({name}, {beat}, now()) \
             ON CONFLICT (name) DO UPDATE SET beat = greatest(health.beat, excluded.beat), at = now() RETURNING beat"
        );
        let read = format!("SELECT beat FROM health WHERE name = {name}");
        let number = |rows: Rows| first(rows).and_then(|text| text.parse::<i64>().ok());
        let asked = self.within(env, budget, async |session| {
            let written = number(session.query(&write).await?.1);
            let found = number(session.query(&read).await?.1);
            Ok((written, found))
        });
        match asked.await? {
            (Some(written), Some(found)) if found >= written => Ok(()),
            (written, found) => Err(Failure::Unknown(format!("wrote {written:?} and read {found:?}"))),
        }
    }

    /// Stores an order; its id.
    pub(super) async fn order(&self, env: &Env, account: i64, amount_cents: i64, budget: Duration) -> Result<i64, Failure> {
        let insert = format!("INSERT INTO orders (account, amount_cents) VALUES ({account}, {amount_cents}) RETURNING id");
        let rows = self.within(env, budget, async |session| Ok(session.query(&insert).await?.1)).await?;
        first(rows).and_then(|id| id.parse().ok()).ok_or_else(|| Failure::Unknown("the order has no id".to_owned()))
    }

    /// Whether a player pays, if there is such a player.
    pub(super) async fn pays(&self, env: &Env, player: &str, budget: Duration) -> Result<Option<bool>, Failure> {
        let paid = format!("SELECT plan = 'paid' FROM accounts WHERE name = {}", literal(player));
        let rows = self.within(env, budget, async |session| Ok(session.query(&paid).await?.1)).await?;
        Ok(first(rows).map(|paid| paid == "t"))
    }

    /// The names of at most `most` paid players.
    pub(super) async fn paid_players(&self, env: &Env, most: usize, budget: Duration) -> Result<Vec<String>, Failure> {
        let names = format!("SELECT name FROM accounts WHERE plan = 'paid' ORDER BY id LIMIT {most}");
        let rows = self.within(env, budget, async |session| Ok(session.query(&names).await?.1)).await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// Runs `call` on a kept or fresh connection, all within `budget`.
    async fn within<T>(
        &self,
        env: &Env,
        budget: Duration,
        call: impl AsyncFnOnce(&Session) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Failure> {
        let mut asked = false;
        let attempt = async {
            let permit = self.permits.acquire().await.map_err(|_| Failure::Away("shutting down".to_owned()))?;
            let session = match self.kept() {
                Some(session) => session,
                None => Session::open(env.dialer(), &self.target).await.map_err(Failure::Away)?,
            };
            asked = true;
            match call(&session).await {
                Ok(answer) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
                    drop(permit);
                    Ok(answer)
                }
                Err(error) if error.as_db_error().is_some() => Err(Failure::Refused(said(&error))),
                Err(error) => Err(Failure::Unknown(said(&error))),
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
            if !session.is_closed() {
                return Some(session);
            }
        }
        None
    }
}
