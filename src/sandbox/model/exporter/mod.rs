//! Exporters: `object-metrics` shows Kubernetes objects under the names of kube-state-metrics and as targets for discovery,
//! `postgres-exporter` what its queries give, `backup-exporter` what pgBackRest says of its backups.
//!
//! Knobs, read at each request: `down` (`true`: connections are closed without an answer), `stuck` (`true`: it goes on saying what it
//! said when that began), `lies` (samples, one a line or separated by `;`, that take the place of all of the same names; a value
//! may be `now` or `now-30`, in seconds).

mod backups;
mod objects;
mod postgres;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};

use self::{objects::Objects, postgres::Queries};
use super::{
    super::{
        kubelet::{ExecAsk, ExecEnd},
        program::{Env, Program},
    },
    Probe,
    http::{self, Reply, Request},
};

/// Asks pgBackRest in an exporter's container: `pgbackrest info --output=json`.
pub(super) type Info = fn(Env) -> BoxFuture<'static, Result<String, String>>;

/// What an exporter shows.
#[derive(Clone, Copy)]
enum Kind {
    Objects,
    Postgres,
    Backups(Info),
}

#[derive(Debug, Default)]
struct Shown {
    up: bool,
    /// As it was read last.
    metrics: String,
    pods: Value,
    nodes: Value,
    /// What it said when it got stuck.
    stuck: Option<String>,
}

/// The program.
pub(super) struct Exporter {
    kind: Kind,
    shown: Mutex<Shown>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.name()).finish_non_exhaustive()
    }
}

impl Exporter {
    pub(super) fn objects() -> Self {
        Self { kind: Kind::Objects, shown: Mutex::default() }
    }

    pub(super) fn postgres() -> Self {
        Self { kind: Kind::Postgres, shown: Mutex::default() }
    }

    pub(super) fn backups(info: Info) -> Self {
        Self { kind: Kind::Backups(info), shown: Mutex::default() }
    }

    const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Objects => "object-metrics",
            Kind::Postgres => "postgres-exporter",
            Kind::Backups(_) => "backup-exporter",
        }
    }

    const fn port(&self) -> u16 {
        match self.kind {
            Kind::Objects => 8080,
            Kind::Postgres => 9187,
            Kind::Backups(_) => 9854,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, env: &Env, queries: Option<&Queries>, ask: &Request) -> Option<Reply> {
        if env.knob("down").is_some_and(|down| down == "true") {
            return None;
        }
        Some(match (ask.route(), self.kind) {
            (("GET", "/metrics"), _) => {
                let honest = match queries {
                    Some(queries) => queries.ask(env).await,
                    None => self.lock().metrics.clone(),
                };
                let mut shown = self.lock();
                let said = match env.knob("stuck").as_deref() {
                    Some("true") => shown.stuck.get_or_insert(honest).clone(),
                    _ => {
                        shown.stuck = None;
                        honest
                    }
                };
                Reply::text(200, lied(said, env.knob("lies").as_deref(), env.now_us() / 1_000_000))
            }
            (("GET", "/targets/pods"), Kind::Objects) => Reply::json(200, &self.lock().pods),
            (("GET", "/targets/nodes"), Kind::Objects) => Reply::json(200, &self.lock().nodes),
            _ => Reply::not_found(ask),
        })
    }
}

/// The name of the series that a sample is of.
fn name_of(line: &str) -> &str {
    line.split(['{', ' ']).next().unwrap_or_default()
}

/// What is said with the lies in place of the truth.
fn lied(honest: String, lies: Option<&str>, now: i64) -> String {
    let Some(lies) = lies else { return honest };
    let lies: Vec<&str> = lies.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut said: Vec<String> =
        honest.lines().filter(|line| !lies.iter().any(|lie| name_of(lie) == name_of(line))).map(str::to_owned).collect();
    for lie in lies {
        let (series, value) = lie.rsplit_once(' ').unwrap_or((lie, "NaN"));
        let time = value.strip_prefix("now").map(|rest| if rest.is_empty() { Ok(0) } else { rest.parse::<i64>() });
        said.push(match time {
            Some(Ok(offset)) => format!("{series} {}", now.saturating_add(offset)),
            _ => lie.to_owned(),
        });
    }
    said.join("\n") + "\n"
}

impl Program for Exporter {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            let mut queries = None;
            match self.kind {
                Kind::Objects => {
                    *self.lock() = Shown { pods: json!([]), nodes: json!([]), ..Shown::default() };
                    let own = Arc::clone(&self);
                    env.spawn(objects::keep(env.clone(), Arc::default(), move |objects: &Objects| own.show(objects)));
                }
                Kind::Postgres => match Queries::of(&env) {
                    Ok(read) => queries = Some(Arc::new(read)),
                    Err(why) => {
                        env.say(&why);
                        return 1;
                    }
                },
                Kind::Backups(info) => {
                    let own = Arc::clone(&self);
                    env.spawn(backups::keep(env.clone(), info, move |metrics| own.lock().metrics = metrics));
                }
            }
            self.lock().up = true;
            let (site, own) = (env.clone(), Arc::clone(&self));
            let site: http::Site = Arc::new(move |ask| {
                let (env, own, queries) = (site.clone(), Arc::clone(&own), queries.clone());
                async move { own.answer(&env, queries.as_deref(), &ask).await }.boxed()
            });
            http::serve(&env, http::port(&env, "metrics", self.port()), site).await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        let up = self.lock().up;
        http::probed(self.name(), up, probe, |path| if path == "/metrics" { 200 } else { 404 })
    }

    fn exec(self: Arc<Self>, _env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        http::no_commands(self.name(), ask).boxed()
    }
}

impl Exporter {
    fn show(&self, objects: &Objects) {
        let mut shown = self.lock();
        (shown.metrics, shown.pods, shown.nodes) = (objects.metrics(), objects.pod_targets(), objects.node_targets());
    }
}

/// The time from one reading to the next, as the variable `EVERY_SECONDS` says.
fn every(env: &Env, otherwise: u64) -> std::time::Duration {
    let seconds = env.var("EVERY_SECONDS").and_then(|text| text.parse::<u64>().ok()).unwrap_or(otherwise);
    std::time::Duration::from_secs(seconds.clamp(1, 3600))
}

#[cfg(test)]
mod tests {
    use super::lied;

    #[test]
    fn lies_take_the_place_of_whatever_has_their_names() {
        let honest = "a{x=\"1\"} 1\na{x=\"2\"} 2\nab 3\n".to_owned();
        assert_eq!(lied(honest.clone(), None, 100), honest);
        assert_eq!(lied(honest.clone(), Some("a{x=\"1\"} 9; c now-30\nd now"), 100), "ab 3\na{x=\"1\"} 9\nc 70\nd 100\n");
    }
}
