//! `web`: an HTTP service. With `database` it is the shop's checkout: `/healthz` answers 200 only if it wrote and read a row just
//! now, `/licence?player=…` answers paid players from a cache while the database is away, `/orders` stores an order; its variables
//! are those of the real one (`PGHOST`, `DEGRADED_MODE`, …). Without, it answers every path, and `/metrics` with how often it was asked.
//!
//! Knobs, read at each request: `status` (the code of every answer), `latency` (before each answer), `error-share` (a share from 0
//! to 1 that is answered with 503), `down` (`true`: connections are closed without an answer, and it is not ready), `unready` (`true`:
//! the kubelet's probes fail; of all other knobs they know nothing), `cached` (`true`: what was once answered with 200 is answered so for ever, whatever has become of it),
//! `degraded` (`broken`: paid players are not answered from the cache). Read when it starts: `database` (`true`).

mod checkout;
mod database;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt as _, future::BoxFuture};

use self::checkout::Checkout;
use super::{
    super::{
        kubelet::{ExecAsk, ExecEnd},
        program::{Env, Program},
    },
    Probe,
    alertmanager::{picked, share},
    http::{self, Reply, Request},
};

/// Where it listens if nothing is said.
const PORT: u16 = 8080;
/// The most answers that are kept by `cached`.
const CACHED: usize = 1_000;

/// The program.
#[derive(Debug, Default)]
pub(super) struct Web {
    /// It listens.
    up: OnceLock<()>,
    checkout: OnceLock<Arc<Checkout>>,
    asked: AtomicU64,
    cached: Mutex<BTreeMap<String, Reply>>,
}

fn on(env: &Env, knob: &str) -> bool {
    env.knob(knob).is_some_and(|value| value == "true")
}

fn status(env: &Env) -> Result<Option<u16>, String> {
    let Some(text) = env.knob("status") else { return Ok(None) };
    let code = text.parse::<u16>().ok().filter(|code| (200..600).contains(code));
    code.map(Some).ok_or_else(|| format!("annotation status: `{text}` is no status of an answer"))
}

impl Web {
    fn cached(&self) -> MutexGuard<'_, BTreeMap<String, Reply>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, env: &Env) -> Result<(), String> {
        share(env, "error-share")?;
        status(env)?;
        env.knob_duration("latency")?;
        if on(env, "database") {
            let checkout = Checkout::of(env)?;
            env.spawn(Arc::clone(&checkout).keep_watch());
            // It begins once.
            let _ = self.checkout.set(checkout);
        }
        let _ = self.up.set(());
        Ok(())
    }

    async fn answer(&self, env: &Env, ask: Request) -> Option<Reply> {
        if on(env, "down") {
            return None;
        }
        // Knobs made wrong since the start count as none.
        if let Some(latency) = env.knob_duration("latency").ok().flatten() {
            tokio::time::sleep(latency).await;
        }
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let about_itself = matches!(ask.path.as_str(), "/livez" | "/metrics");
        if !about_itself {
            if picked(env, share(env, "error-share").unwrap_or_default(), "error", number) {
                return Some(Reply::text(503, "the knob `error-share` says so\n"));
            }
            if let Some(status) = status(env).ok().flatten() {
                return Some(Reply::text(status, "the knob `status` says so\n"));
            }
        }
        let caches = !about_itself && ask.method == "GET" && on(env, "cached");
        let key = format!("{} {:?}", ask.path, ask.query);
        if caches && let Some(reply) = self.cached().get(&key) {
            return Some(reply.clone());
        }
        let reply = match self.checkout.get() {
            Some(checkout) => checkout.answer(&ask).await,
            None if ask.path == "/metrics" => Reply::text(200, format!("web_requests_total {number}\n")),
            None => Reply::text(200, "ok\n"),
        };
        let mut cached = self.cached();
        if caches && reply.status == 200 && cached.len() < CACHED {
            cached.insert(key, reply.clone());
        }
        Some(reply)
    }
}

impl Program for Web {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            if let Err(why) = self.begin(&env) {
                env.say(&why);
                return 1;
            }
            let (site, own) = (env.clone(), Arc::clone(&self));
            let site: http::Site = Arc::new(move |ask| {
                let (env, own) = (site.clone(), Arc::clone(&own));
                async move { own.answer(&env, ask).await }.boxed()
            });
            http::serve(&env, http::port(&env, "http", PORT), site).await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        let database = self.checkout.get().is_some();
        http::probed("web", self.up.get().is_some(), probe, |path| match path {
            // The kubelet's probes are answered at once, and these would have to ask the database.
            "/healthz" | "/licence" if database => 501,
            "/livez" | "/metrics" => 200,
            _ if database => 404,
            _ => 200,
        })
    }

    fn exec(self: Arc<Self>, _env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        http::no_commands("web", ask).boxed()
    }
}
