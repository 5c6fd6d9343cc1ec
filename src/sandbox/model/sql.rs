//! A database's client, as models that need a database use it: simple queries over the sandbox's network.

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
use tokio_util::task::AbortOnDropHandle;

use crate::net::Dialer;

/// Where a database is and who asks.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) password: String,
    /// What the client calls itself.
    pub(super) application: &'static str,
}

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    /// Moves the bytes.
    _driver: AbortOnDropHandle<()>,
}

/// Rows, each a value a column; a value that is null is none.
pub(super) type Rows = Vec<Vec<Option<String>>>;

impl Session {
    /// Connects. The caller limits the time.
    ///
    /// # Errors
    /// There is no connection, or the database refuses.
    pub(super) async fn open(dialer: &Dialer, target: &Target) -> Result<Self, String> {
        let stream = dialer.connect(&target.host, target.port).await.map_err(|error| error.to_string())?;
        let mut config = Config::new();
        config.user(&target.user).password(&target.password).dbname(&target.database).application_name(target.application);
        let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| said(&error))?;
        // Its failure is told to the statement that was under way.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether it is known to be over.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements; the columns' names and the rows of the last.
    ///
    /// # Errors
    /// The database's, or the connection's.
    pub(super) async fn query(&self, statements: &str) -> Result<(Vec<String>, Rows), tokio_postgres::Error> {
        let (mut names, mut rows) = (Vec::new(), Rows::new());
        for message in self.client.simple_query(statements).await? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    names = columns.iter().map(|column| column.name().to_owned()).collect();
                    rows.clear();
                }
                SimpleQueryMessage::Row(row) => {
                    let values = (0..row.len()).map(|n| row.try_get(n).map(|value| value.map(str::to_owned)));
                    rows.push(values.collect::<Result<_, _>>()?);
                }
                _ => {}
            }
        }
        Ok((names, rows))
    }
}

/// What a database or a connection says went wrong.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

/// A text as a literal of SQL (`standard_conforming_strings`).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
