//! The commands that a database's containers have: `psql`, `patronictl`, `pgbackrest`, `pg_ctl`. A declared table: whatever else is asked is not
//! rehearsable.

use std::sync::{Arc, Mutex};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};

use super::{
    super::{
        super::{
            kubelet::{ExecAsk, ExecEnd},
            program::{Env, Program},
            shell::{self, Commands, Ran},
        },
        Probe,
    },
    PORT, archive, dcs,
    member::Member,
    pgbackrest, psql, restored,
    server::{Server, lock},
};

/// Whose commands they are.
#[derive(Clone)]
pub(super) enum Place {
    /// Of a member's database container.
    Database(Arc<Member>),
    /// Of the container beside it.
    Member,
    /// Of a repository's host, or of a backup's job.
    Repository,
    /// Of a pod that a runbook runs in: a server may be started there.
    Tools(Arc<Mutex<Option<Arc<Server>>>>),
}

/// Answers a command in a container.
pub(super) fn exec(env: Env, ask: ExecAsk, place: Place) -> BoxFuture<'static, ExecEnd> {
    async move {
        let tools = Tools { env: env.clone(), place };
        shell::exec(&env, &tools, ask).await
    }
    .boxed()
}

struct Tools {
    env: Env,
    place: Place,
}

impl Commands for Tools {
    fn run<'a>(&'a self, ran: Ran<'a>) -> BoxFuture<'a, Option<i32>> {
        async move {
            match ran.argv.first().map(String::as_str) {
                Some("psql") => {
                    let asked = psql::read(ran.argv)?.with(ran.vars, &ran.stdin)?;
                    // Another host is asked over the network, which nobody has needed yet.
                    if asked.host.as_ref().is_some_and(|host| !host.starts_with('/')) {
                        return None;
                    }
                    Some(psql::run(&asked, self.server().as_ref(), ran.stdout, ran.stderr).await)
                }
                Some("pg_isready") => {
                    let (text, code) = if self.server().is_some() { ("accepting connections", 0) } else { ("no response", 2) };
                    ran.stdout.extend_from_slice(format!("/run/postgresql:{PORT} - {text}\n").as_bytes());
                    Some(code)
                }
                Some("patronictl") => self.patronictl(ran).await,
                Some("pgbackrest") => pgbackrest::run(&self.env, &self.place, ran).await,
                Some("pg_ctl") => match &self.place {
                    Place::Tools(slot) => restored::pg_ctl(&self.env, slot, ran).await,
                    _ => None,
                },
                _ => None,
            }
        }
        .boxed()
    }
}

impl Tools {
    fn server(&self) -> Option<Arc<Server>> {
        match &self.place {
            Place::Database(member) => member.server(),
            Place::Tools(slot) => lock(slot).clone(),
            Place::Member | Place::Repository => None,
        }
    }

    async fn patronictl(&self, ran: Ran<'_>) -> Option<i32> {
        let Place::Database(member) = &self.place else { return None };
        let words: Vec<&str> = ran.argv.iter().skip(1).map(String::as_str).collect();
        let format = match words.as_slice() {
            ["-c" | "--config-file", _, "list"] | ["list"] => "pretty",
            ["-c" | "--config-file", _, "list", "-f" | "--format", format] | ["list", "-f" | "--format", format] => format,
            _ => return None,
        };
        let view = match member.dcs.load().await {
            Ok(view) => view,
            Err(why) => {
                ran.stderr.extend_from_slice(format!("Error: the API server gave no answer: {why:?}\n").as_bytes());
                return Some(1);
            }
        };
        let rows = dcs::listed(&view);
        const COLUMNS: [&str; 6] = ["Member", "Host", "Role", "State", "TL", "Lag in MB"];
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let scope = member.dcs.scope();
        let text = match format {
            "json" => {
                let rows = rows.iter().map(|row| {
                    let mut out = json!({"Cluster": scope});
                    for column in COLUMNS {
                        // The leader's lag is not said at all.
                        if !(column == "Lag in MB" && row[column] == "") {
                            out[column] = row[column].clone();
                        }
                    }
                    out
                });
                // With a space after each colon, as Python writes it: people grep for it.
                python(&Value::Array(rows.collect())) + "\n"
            }
            "tsv" => {
                let mut text = format!("Cluster\t{}\n", COLUMNS.join("\t"));
                for row in &rows {
                    let cells: Vec<String> = COLUMNS.iter().map(|column| cell(&row[column])).collect();
                    text.push_str(&format!("{scope}\t{}\n", cells.join("\t")));
                }
                text
            }
            "pretty" => {
                let mut text = format!("+ Cluster: {scope} ({}) +\n| {} |\n", view.system.unwrap_or(0), COLUMNS.join(" | "));
                for row in &rows {
                    let cells: Vec<String> = COLUMNS.iter().map(|column| cell(&row[column])).collect();
                    text.push_str(&format!("| {} |\n", cells.join(" | ")));
                }
                text
            }
            _ => return None,
        };
        ran.stdout.extend_from_slice(text.as_bytes());
        Some(0)
    }
}

/// JSON as Python's `json.dumps` writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Array(all) => format!("[{}]", all.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(all) => {
            let pairs = all.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), python(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A pod that runbooks run in, with the database's programs and whatever volumes it has.
#[derive(Default)]
pub(in super::super) struct PostgresTools {
    server: Arc<Mutex<Option<Arc<Server>>>>,
}

impl Program for PostgresTools {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            env.terminated().cancelled().await;
            if let Some(server) = lock(&self.server).take() {
                server.stop.cancel();
            }
            0
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Tcp if lock(&self.server).is_some() => Ok(()),
            Probe::Tcp => Err("dial tcp: connect: connection refused".to_owned()),
            other => Err(format!("not rehearsable: a pod with the database's tools has no answer to {other:?}")),
        }
    }

    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        exec(env, ask, Place::Tools(Arc::clone(&self.server)))
    }
}

/// A member of the database.
#[derive(Default)]
pub(in super::super) struct Postgres {
    member: Mutex<Option<Arc<Member>>>,
}

impl Program for Postgres {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            match Member::new(&env) {
                Ok(member) => {
                    *lock(&self.member) = Some(Arc::clone(&member));
                    member.run().await
                }
                Err(why) => {
                    env.say(&why);
                    1
                }
            }
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        let member = lock(&self.member).clone().ok_or("dial tcp: connect: connection refused")?;
        match probe {
            Probe::Http { path } => match super::rest::status(&member, path) {
                Some(true) => Ok(()),
                Some(false) => Err("HTTP probe failed with statuscode: 503".to_owned()),
                None => Err("HTTP probe failed with statuscode: 404".to_owned()),
            },
            Probe::Tcp if member.server().is_some() => Ok(()),
            Probe::Tcp => Err("dial tcp: connect: connection refused".to_owned()),
            other => Err(format!("not rehearsable: the database has no answer to {other:?}")),
        }
    }

    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        let member = lock(&self.member).clone();
        match member {
            Some(member) => exec(env, ask, Place::Database(member)),
            None => std::future::ready(ExecEnd::Failed("the container has just been started".to_owned())).boxed(),
        }
    }
}

/// The repositories' hosts that a container knows: those in the files of a repository's host are its own.
pub(super) fn repositories(env: &Env) -> std::collections::BTreeMap<u32, String> {
    archive::hosts(env)
}
