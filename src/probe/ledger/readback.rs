//! Reading a ledger back: from the primary, and from every replica once it has replayed past the primary's position.

use std::{pin::pin, time::Duration};

use futures::{StreamExt as _, future::join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Ledger, SCHEMA,
    judge::{judge, missing},
};
use crate::{
    journal::{LedgerCopy, Reading},
    probe::pg::{Pg, PgError, PgTarget},
    scenario::types::Dur,
};

/// How long the primary may take to be found and read.
const PRIMARY_LIMIT: Duration = Duration::from_secs(60);
/// How long a replica may take to catch up and be read.
const COPY_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// A replica to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// The pod's name.
    pub name: String,
    /// Its address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What was read of the primary.
struct Primary {
    rows: Vec<i64>,
    /// Its WAL position after the last write.
    position: String,
    /// Its own address, to know it again among the pods.
    address: Option<String>,
}

impl Ledger {
    pub(super) async fn read_back(&mut self, copies: Vec<Copy>) -> Reading {
        self.state.connection = None;
        let primary = match timeout(PRIMARY_LIMIT, self.primary()).await {
            Ok(primary) => primary,
            Err(_) => {
                let why = self.reachable().await.err().map(|error| format!(": {error}")).unwrap_or_default();
                return Reading::Failed { detail: format!("the primary could not be read within {}{why}", Dur(PRIMARY_LIMIT)) };
            }
        };
        if self.state.interrupted {
            return Reading::Failed {
                detail: "the drill was interrupted: what was written before is not known, and so neither is what of it was lost".to_owned(),
            };
        }
        let (attempts, first) = (&self.state.attempts, self.state.first);
        let mut reading = judge(self.clock.id(), attempts, first, &primary.rows);
        reading.samples = format!("samples/{}", crate::probe::files::file_name(&self.probe));
        reading.copies.push(LedgerCopy {
            name: "primary".to_owned(),
            caught_up: true,
            missing: missing(attempts, first, &primary.rows),
            detail: primary.address.iter().map(|address| format!("at {address}")).collect(),
        });
        let others = copies.into_iter().filter(|copy| primary.address.as_ref() != Some(&copy.host));
        let read = join_all(others.map(|copy| self.copy(copy, &primary.position))).await;
        reading.copies.extend(read);
        Reading::Ledger(reading)
    }

    /// The time limit of one attempt, so that a host that does not answer is tried again.
    async fn reachable(&self) -> Result<Pg, PgError> {
        let limit = self.cadence.timeout.max(Duration::from_secs(2));
        match timeout(limit, Pg::connect(&self.dialer, &self.spec.target)).await {
            Ok(connected) => connected,
            Err(_) => Err(crate::net::NetError::peer(format!("no answer within {}", Dur(limit))).into()),
        }
    }

    async fn primary(&self) -> Primary {
        loop {
            let read = async {
                let pg = self.reachable().await?;
                if pg.simple("SELECT pg_catalog.pg_is_in_recovery()").await?.as_deref() == Some("t") {
                    return Err(PgError::from(crate::net::NetError::peer("a replica, not a primary")));
                }
                let position = pg.simple("SELECT pg_catalog.pg_current_wal_lsn()").await?.unwrap_or_default();
                let address = pg.simple("SELECT pg_catalog.host(pg_catalog.inet_server_addr())").await?;
                let rows = rows(&pg, &self.spec.table).await?;
                Ok(Primary { rows, position, address })
            };
            match read.await {
                Ok(primary) => return primary,
                Err(error) => tracing::debug!(%error, "ledger's primary not read yet"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn copy(&self, copy: Copy, position: &str) -> LedgerCopy {
        let target = PgTarget { host: copy.host.clone(), port: copy.port, ..self.spec.target.clone() };
        let (mut caught_up, mut last) = (false, String::new());
        let read = timeout(COPY_LIMIT, async {
            loop {
                match self.try_copy(&target, position).await {
                    Ok((up, rows, detail)) => {
                        caught_up = up;
                        return (rows, detail);
                    }
                    Err(why) => last = why,
                }
                sleep(PAUSE).await;
            }
        })
        .await;
        match read {
            Ok((rows, detail)) => {
                let missing = missing(&self.state.attempts, self.state.first, &rows);
                LedgerCopy { name: copy.name, caught_up, missing, detail }
            }
            Err(_) => {
                LedgerCopy { name: copy.name, caught_up: false, missing: 0, detail: format!("not read within {}: {last}", Dur(COPY_LIMIT)) }
            }
        }
    }

    /// The rows of a replica that has replayed past `position`, or why not yet.
    async fn try_copy(&self, target: &PgTarget, position: &str) -> Result<(bool, Vec<i64>, String), String> {
        let limit = Duration::from_secs(5);
        let read = async {
            let pg = Pg::connect(&self.dialer, target).await?;
            let past = format!("SELECT pg_catalog.pg_last_wal_replay_lsn() >= '{position}'::pg_lsn");
            // A server that is no replica at all replays nothing: a second primary, and its rows are not to be trusted.
            let replica = pg.simple("SELECT pg_catalog.pg_is_in_recovery()").await?.as_deref() == Some("t");
            let past = !replica || pg.simple(&past).await?.as_deref() == Some("t");
            let rows = if past { Some(rows(&pg, &self.spec.table).await?) } else { None };
            Ok::<_, PgError>((replica, rows))
        };
        match timeout(limit, read).await {
            Err(_) => Err(format!("no answer within {}", Dur(limit))),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok((_, None))) => Err(format!("it has not replayed up to {position}")),
            Ok(Ok((true, Some(rows)))) => Ok((true, rows, String::new())),
            Ok(Ok((false, Some(rows)))) => Ok((false, rows, "it is no replica: a second primary".to_owned())),
        }
    }
}

/// All numbers, in order of their position.
async fn rows(pg: &Pg, table: &str) -> Result<Vec<i64>, PgError> {
    let query = format!("SELECT n FROM {SCHEMA}.{table} ORDER BY pos");
    let mut stream = pin!(pg.client().query_raw(&query, std::iter::empty::<i64>()).await?);
    let mut rows = Vec::new();
    while let Some(row) = stream.next().await {
        rows.push(row?.try_get(0)?);
    }
    Ok(rows)
}
