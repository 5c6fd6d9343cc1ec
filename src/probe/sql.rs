//! `sql`: one statement on PostgreSQL. It runs in a transaction that is read-only, unless it is said to write.

use std::sync::Arc;

use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    pg::{Pg, PgError, PgTarget},
    sample::Outcome,
    sampler::Take,
};
use crate::{net::Dialer, scenario::types::Connection};

/// Lack of privilege, as SQLSTATE.
const REFUSED: &str = "42501";

/// A `sql` probe with its database found and its Secret read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SqlSpec {
    /// The database.
    pub target: PgTarget,
    /// The statement.
    pub query: String,
    /// The expected value.
    pub expect: Option<String>,
    /// Good when refused for lack of privilege.
    pub refused: bool,
    /// The statement writes.
    pub writes: bool,
}

/// The samples of a `sql` probe.
pub(super) fn take(spec: &SqlSpec, connection: Connection, dialer: &Dialer) -> Take {
    let kept: Option<Mutex<Option<Pg>>> = (connection == Connection::Kept).then(Mutex::default);
    let shared = Arc::new((spec.clone(), dialer.clone(), kept));
    Box::new(move || {
        let shared = shared.clone();
        async move {
            let (spec, dialer, kept) = &*shared;
            match kept {
                None => match Pg::connect(dialer, &spec.target).await {
                    Ok(pg) => judge(spec, ask(spec, &pg).await),
                    Err(error) => error.into(),
                },
                Some(kept) => reuse(spec, dialer, kept).await,
            }
        }
        .boxed()
    })
}

/// With `kept` the connection stays until it is known to be over: one that is half open is asked again and again, as a
/// pool without time limits does.
async fn reuse(spec: &SqlSpec, dialer: &Dialer, kept: &Mutex<Option<Pg>>) -> Outcome {
    let mut slot = kept.lock().await;
    if slot.as_ref().is_none_or(Pg::is_closed) {
        *slot = match Pg::connect(dialer, &spec.target).await {
            Ok(pg) => Some(pg),
            Err(error) => return error.into(),
        };
    }
    match &*slot {
        Some(pg) => judge(spec, ask(spec, pg).await),
        None => Outcome::unknown("there is no connection"),
    }
}

async fn ask(spec: &SqlSpec, pg: &Pg) -> Result<Option<String>, PgError> {
    // Whether a statement is refused must not depend on the transaction being read-only, and it must leave nothing behind
    // if it is not refused.
    let (begin, end) = match (spec.refused, spec.writes) {
        (true, _) => ("BEGIN", "ROLLBACK"),
        (false, true) => ("BEGIN", "COMMIT"),
        (false, false) => ("BEGIN READ ONLY", "ROLLBACK"),
    };
    pg.simple(begin).await?;
    // The extended protocol takes one statement only: a second one could end the transaction and do as it likes.
    let answer = match pg.client().prepare(&spec.query).await {
        Ok(_) => pg.simple(&spec.query).await,
        Err(error) => Err(error.into()),
    };
    match (&answer, pg.simple(if answer.is_ok() { end } else { "ROLLBACK" }).await) {
        // It is only done when it is committed.
        (Ok(_), Err(error)) => Err(error),
        _ => answer,
    }
}

fn judge(spec: &SqlSpec, answer: Result<Option<String>, PgError>) -> Outcome {
    match (answer, &spec.expect) {
        (Err(error), _) if spec.refused && error.code.as_deref() == Some(REFUSED) => Outcome::good(format!("refused: {error}")),
        (Err(error), _) => error.into(),
        (Ok(_), _) if spec.refused => Outcome::bad("not refused"),
        (Ok(value), None) => Outcome::good(value.unwrap_or_else(|| "done".to_owned())),
        (Ok(value), Some(expect)) if value.as_ref() == Some(expect) => Outcome::good(value.unwrap_or_default()),
        (Ok(value), Some(expect)) => Outcome::bad(format!("{} instead of {expect}", value.as_deref().unwrap_or("nothing"))),
    }
}
