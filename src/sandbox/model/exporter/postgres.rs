//! `postgres-exporter`: what its queries give (`--extend.query-path`), asked of the database at each scrape.

use std::{fmt::Write as _, time::Duration};

use indexmap::IndexMap;
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};

use super::super::{
    super::{mounts, program::Env},
    prometheus::option,
    sql::{Rows, Session, Target, said},
};

/// How long a connection and all queries may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Queries by the prefix of their metrics.
type File = IndexMap<String, Query>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    query: String,
    metrics: Vec<IndexMap<String, Column>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    usage: String,
    #[serde(default)]
    #[expect(dead_code, reason = "read so that nothing in the file is unknown")]
    description: String,
}

/// The queries and the database that they are asked of.
#[derive(Debug)]
pub(super) struct Queries {
    file: File,
    target: Target,
    server: String,
    session: Mutex<Option<Session>>,
}

impl Queries {
    /// As the container's command, files and variables (`DATA_SOURCE_URI`, …) say.
    ///
    /// # Errors
    /// One of them is wrong, or not rehearsable.
    pub(super) fn of(env: &Env) -> Result<Self, String> {
        let path = option(env, "--extend.query-path").ok_or("not rehearsable: no --extend.query-path")?;
        let files = mounts::files(env);
        let content = files.get(&path).ok_or_else(|| format!("{path}: no such file"))?;
        let file: File = serde_saphyr::from_str(content).map_err(|error| format!("{path}: {error}"))?;
        for (column, kind) in file.values().flat_map(|query| query.metrics.iter().flatten()) {
            if !matches!(kind.usage.as_str(), "GAUGE" | "COUNTER" | "LABEL" | "DISCARD") {
                return Err(format!("{path}: not rehearsable: column {column} is a {}", kind.usage));
            }
        }
        let uri = env.var("DATA_SOURCE_URI").ok_or("no DATA_SOURCE_URI")?;
        let (server, rest) = uri.split_once('/').ok_or("DATA_SOURCE_URI names no database")?;
        let (host, port) = server.split_once(':').unwrap_or((server, "5432"));
        // A pod's own address stands for its loopback: there is none in a sandbox.
        let host = if host == "127.0.0.1" || host == "localhost" { env.ip() } else { host };
        let target = Target {
            host: host.to_owned(),
            port: port.parse().map_err(|_| format!("DATA_SOURCE_URI: `{port}` is no port"))?,
            database: rest.split('?').next().unwrap_or_default().to_owned(),
            user: env.var("DATA_SOURCE_USER").unwrap_or_default(),
            password: env.var("DATA_SOURCE_PASS").unwrap_or_default(),
            application: "postgres_exporter",
        };
        Ok(Self { file, target, server: server.to_owned(), session: Mutex::new(None) })
    }

    /// Asks the database.
    pub(super) async fn ask(&self, env: &Env) -> String {
        // One scrape at a time: the exporter has one connection.
        let mut kept = self.session.lock().await;
        let session = kept.take().filter(|session| !session.is_closed());
        let asked = async {
            let session = match session {
                Some(session) => session,
                None => Session::open(env.dialer(), &self.target).await?,
            };
            let mut text = "pg_up 1\n".to_owned();
            for (prefix, query) in &self.file {
                let (names, rows) = session.query(&query.query).await.map_err(|error| said(&error))?;
                shown(&mut text, (prefix, query), &self.server, &names, &rows);
            }
            Ok::<_, String>((session, text))
        };
        match timeout(LIMIT, asked).await {
            Ok(Ok((session, text))) => {
                *kept = Some(session);
                text
            }
            Ok(Err(why)) => {
                env.say(&format!("Error opening connection to database: {why}"));
                "pg_up 0\n".to_owned()
            }
            Err(_) => "pg_up 0\n".to_owned(),
        }
    }
}

/// The metrics of a query's rows.
fn shown(text: &mut String, (prefix, query): (&str, &Query), server: &str, names: &[String], rows: &Rows) {
    let usage = |name: &str| query.metrics.iter().find_map(|columns| columns.get(name)).map(|column| column.usage.as_str());
    for row in rows {
        let cells: Vec<(&str, Option<&str>)> = names.iter().map(String::as_str).zip(row.iter().map(Option::as_deref)).collect();
        let mut labels = String::new();
        for (name, value) in cells.iter().filter(|(name, _)| usage(name) == Some("LABEL")) {
            let value = value.unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(labels, "{name}=\"{value}\",");
        }
        for (name, value) in cells.iter().filter(|(name, _)| matches!(usage(name), Some("GAUGE" | "COUNTER"))) {
            let value = match value {
                Some("t") => "1",
                Some("f") => "0",
                // What is no number is shown as NaN.
                Some(text) if text.parse::<f64>().is_ok() => text,
                _ => "NaN",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{prefix}_{name}{{{labels}server=\"{server}\"}} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_labels_and_values() {
        let file =
            "orders_rows:\n  query: \"SELECT\"\n  metrics:\n  - relation: {usage: LABEL, description: T}\n  - count: {usage: GAUGE}\n";
        let file: File = serde_saphyr::from_str(file).unwrap();
        let mut text = String::new();
        let names = ["relation".to_owned(), "count".to_owned(), "other".to_owned()];
        let cell = |text: &str| Some(text.to_owned());
        let rows = vec![vec![cell("a\"b"), cell("5"), cell("x")], vec![cell("c"), None, None]];
        shown(&mut text, ("orders_rows", &file["orders_rows"]), "h:1", &names, &rows);
        assert_eq!(text, "orders_rows_count{relation=\"a\\\"b\",server=\"h:1\"} 5\norders_rows_count{relation=\"c\",server=\"h:1\"} NaN\n");
    }
}
