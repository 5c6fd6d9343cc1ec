//! The shop's checkout: it needs the database to take an order, and to say that it is healthy; licence checks of paid players
//! survive without it unless that is switched off.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    super::{
        super::program::Env,
        http::{Reply, Request},
    },
    database::{Database, Failure},
};

/// Paid players preloaded into the cache, and the most it holds.
const PLAYERS: usize = 10_000;
/// How often the database is checked for the metrics, and the cache of paid players renewed.
const CHECK_EVERY: Duration = Duration::from_millis(500);
const CACHE_EVERY: Duration = Duration::from_secs(30);

/// One instance of the service.
#[derive(Debug)]
pub(super) struct Checkout {
    env: Env,
    name: String,
    check_budget: Duration,
    order_budget: Duration,
    degrades: bool,
    database: Database,
    paid: Mutex<BTreeSet<String>>,
    beat: AtomicI64,
    database_up: AtomicBool,
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    orders: AtomicU64,
    orders_failed: AtomicU64,
    orders_unknown: AtomicU64,
    licences: AtomicU64,
    licences_degraded: AtomicU64,
    licences_refused: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    account: i64,
    amount_cents: i64,
}

impl Checkout {
    /// As the variables of the container say.
    ///
    /// # Errors
    /// One of them is wrong.
    pub(super) fn of(env: &Env) -> Result<Arc<Self>, String> {
        let ms = |name: &str, otherwise: u64| {
            let text = env.var(name);
            let ms = text.as_deref().map(str::parse).transpose().map_err(|_| format!("{name}: no number of milliseconds"))?;
            Ok::<_, String>(Duration::from_millis(ms.unwrap_or(otherwise)))
        };
        let degrades = match env.var("DEGRADED_MODE").as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some(other) => return Err(format!("DEGRADED_MODE: `{other}` is neither true nor false")),
        };
        let counter = AtomicU64::default;
        Ok(Arc::new(Self {
            name: env.var("POD_NAME").unwrap_or_else(|| "checkout".to_owned()),
            check_budget: ms("CHECK_BUDGET_MS", 150)?,
            order_budget: ms("ORDER_BUDGET_MS", 1000)?,
            degrades,
            database: Database::of(env)?,
            env: env.clone(),
            paid: Mutex::default(),
            beat: AtomicI64::default(),
            database_up: AtomicBool::default(),
            healthy: counter(),
            unhealthy: counter(),
            orders: counter(),
            orders_failed: counter(),
            orders_unknown: counter(),
            licences: counter(),
            licences_degraded: counter(),
            licences_refused: counter(),
        }))
    }

    fn paid(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.paid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, players: impl IntoIterator<Item = String>) {
        let mut known = self.paid();
        for player in players {
            if known.len() < PLAYERS {
                known.insert(player);
            }
        }
    }

    /// Checks the database and renews the cache of paid players, for as long as it is polled.
    pub(super) async fn keep_watch(self: Arc<Self>) {
        let (mut checks, mut renewals) = (interval(CHECK_EVERY), interval(CACHE_EVERY));
        checks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = renewals.tick() => match self.database.paid_players(&self.env, PLAYERS, self.order_budget).await {
                    Ok(players) => self.learn(players),
                    Err(failure) => {
                        self.env.say(&format!("paid players not loaded: {failure}"));
                        // Sooner than usual: with an empty cache there is no degraded mode.
                        renewals.reset_after(CHECK_EVERY);
                    }
                },
                _ = checks.tick() => {
                    let up = self.check().await;
                    if self.database_up.swap(up.is_ok(), Ordering::Relaxed) != up.is_ok() {
                        match up {
                            Ok(()) => self.env.say("the database is up"),
                            Err(failure) => self.env.say(&format!("the database is down: {failure}")),
                        }
                    }
                }
            }
        }
    }

    /// Writes and reads a row, now.
    async fn check(&self) -> Result<(), Failure> {
        let beat = self.beat.fetch_add(1, Ordering::Relaxed) + 1;
        self.database.beat(&self.env, &self.name, beat, self.check_budget).await
    }

    /// Answers a request.
    pub(super) async fn answer(&self, ask: &Request) -> Reply {
        match ask.route() {
            ("GET", "/healthz") => match self.check().await {
                Ok(()) => {
                    count(&self.healthy);
                    Reply::text(200, "ok\n")
                }
                Err(failure) => {
                    count(&self.unhealthy);
                    Reply::text(503, format!("{failure}\n"))
                }
            },
            ("GET", "/livez") => Reply::text(200, "ok\n"),
            ("GET", "/metrics") => Reply::text(200, self.metrics()),
            ("GET", "/licence") => match ask.value("player") {
                Some(player) => self.licence(player).await,
                None => Reply::text(400, "missing field `player`\n"),
            },
            ("POST", "/orders") => match serde_json::from_slice(&ask.body) {
                Ok(order) => self.order(order).await,
                Err(error) => Reply::text(422, format!("{error}\n")),
            },
            _ => Reply::not_found(ask),
        }
    }

    async fn order(&self, Order { account, amount_cents }: Order) -> Reply {
        match self.database.order(&self.env, account, amount_cents, self.order_budget).await {
            Ok(id) => {
                count(&self.orders);
                Reply::json(201, &json!({ "id": id }))
            }
            Err(failure) => {
                self.env.say(&format!("order of account {account} not confirmed: {failure}"));
                let (counter, status) = match failure {
                    Failure::Refused(_) => (&self.orders_failed, 422),
                    Failure::Away(_) => (&self.orders_failed, 503),
                    Failure::Unknown(_) => (&self.orders_unknown, 504),
                };
                count(counter);
                Reply::text(status, format!("{failure}\n"))
            }
        }
    }

    async fn licence(&self, player: &str) -> Reply {
        let answer = |plan: &str, degraded: bool| Reply::json(200, &json!({ "player": player, "plan": plan, "degraded": degraded }));
        match self.database.pays(&self.env, player, self.check_budget).await {
            Ok(Some(true)) => {
                count(&self.licences);
                self.learn([player.to_owned()]);
                answer("paid", false)
            }
            Ok(Some(false)) => {
                count(&self.licences);
                self.paid().remove(player);
                answer("free", false)
            }
            Ok(None) => Reply::text(404, format!("no player {player}\n")),
            Err(_) if self.degrades && self.env.knob("degraded").as_deref() != Some("broken") && self.paid().contains(player) => {
                count(&self.licences_degraded);
                answer("paid", true)
            }
            Err(failure) => {
                count(&self.licences_refused);
                Reply::text(503, format!("{failure}\n"))
            }
        }
    }

    fn metrics(&self) -> String {
        let mut text = format!("checkout_database_up {}\n", u8::from(self.database_up.load(Ordering::Relaxed)));
        for (name, counter) in [
            ("checkout_health_checks_total{result=\"good\"}", &self.healthy),
            ("checkout_health_checks_total{result=\"bad\"}", &self.unhealthy),
            ("checkout_orders_total{result=\"stored\"}", &self.orders),
            ("checkout_orders_total{result=\"failed\"}", &self.orders_failed),
            ("checkout_orders_total{result=\"unknown\"}", &self.orders_unknown),
            ("checkout_licence_checks_total{result=\"checked\"}", &self.licences),
            ("checkout_licence_checks_total{result=\"degraded\"}", &self.licences_degraded),
            ("checkout_licence_checks_total{result=\"refused\"}", &self.licences_refused),
        ] {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} {}", counter.load(Ordering::Relaxed));
        }
        text
    }
}
