//! Connections to PostgreSQL over the [`Dialer`].

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio_postgres::{
    AsyncMessage, Client, Config, NoTls, SimpleQueryMessage,
    error::{DbError, Severity},
};
use tokio_util::task::AbortOnDropHandle;

use crate::net::{Dialer, NetError, Whose};

/// Something that must never be shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one who must present it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A database and who connects.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PgTarget {
    /// Host; looked up anew for each connection.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// Why a statement or a connection failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct PgError {
    /// Whose failure it is.
    pub whose: Whose,
    /// The server's SQLSTATE, where it gave one.
    pub code: Option<String>,
    /// Whether the server ended the session with it (FATAL, PANIC).
    pub fatal: bool,
    /// What failed, for people.
    pub detail: String,
}

impl From<NetError> for PgError {
    fn from(error: NetError) -> Self {
        Self { whose: error.whose, code: None, fatal: true, detail: error.detail }
    }
}

impl From<tokio_postgres::Error> for PgError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let fatal = !matches!(db.parsed_severity(), Some(Severity::Error));
            let code = db.code().code();
            return Self { whose: Whose::Peer, code: Some(code.to_owned()), fatal, detail: format!("{code}: {}", db.message()) };
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                return NetError::io("PostgreSQL", io).into();
            }
            cause = inner.source();
        }
        NetError::peer(format!("PostgreSQL: {error}")).into()
    }
}

impl From<PgError> for super::Outcome {
    fn from(error: PgError) -> Self {
        NetError { whose: error.whose, detail: error.detail }.into()
    }
}

/// A connection. Dropping it closes it without a word, as a client that gives up does.
#[derive(Debug)]
pub struct Pg {
    client: Client,
    warning: Arc<Mutex<Option<String>>>,
    _driver: AbortOnDropHandle<()>,
}

impl Pg {
    /// Looks the host up and connects. Without TLS.
    ///
    /// # Errors
    /// If that fails; the caller limits the time.
    pub async fn connect(dialer: &Dialer, target: &PgTarget) -> Result<Self, PgError> {
        let stream = dialer.connect(&target.host, target.port).await?;
        let mut config = Config::new();
        config.user(&target.user).password(target.password.reveal()).dbname(&target.database).application_name("firedrill");
        let (client, mut connection) = config.connect_raw(stream, NoTls).await?;
        let warning = Arc::new(Mutex::new(None));
        let warned = warning.clone();
        let driver = tokio::spawn(async move {
            // Notices come before the answer they belong to, and are noted before it is passed on.
            while let Some(message) = futures::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) if is_warning(&notice) => {
                        let said = format!("{}: {}", notice.code().code(), notice.message());
                        *warned.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
                    }
                    Ok(_) => {}
                    // The statement under way is told of it.
                    Err(_) => return,
                }
            }
        });
        Ok(Self { client, warning, _driver: AbortOnDropHandle::new(driver) })
    }

    /// The client.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the connection is known to be over.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements in the simple protocol (an implicit transaction if there is no other) and gives the first row's
    /// first column of the last result that has rows.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub async fn simple(&self, statements: &str) -> Result<Option<String>, PgError> {
        let mut first = None;
        let mut fresh = true;
        for message in self.client.simple_query(statements).await? {
            match message {
                SimpleQueryMessage::Row(row) if fresh => {
                    first = Some(row.try_get(0)?.map(str::to_owned));
                    fresh = false;
                }
                SimpleQueryMessage::RowDescription(_) => {
                    (first, fresh) = (None, true);
                }
                _ => {}
            }
        }
        Ok(first.flatten())
    }

    /// The last warning since this was asked before.
    pub fn take_warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether a notice is a warning. By the severity that is not translated, because messages are in the server's language.
fn is_warning(notice: &DbError) -> bool {
    notice.parsed_severity() == Some(Severity::Warning) || (notice.parsed_severity().is_none() && notice.severity() == "WARNING")
}
