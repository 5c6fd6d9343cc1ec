//! The shop's checkout: needs the database to take an order, and to say that it is healthy; licence checks of paid
//! players survive without it unless that is switched off.

mod database;
mod licence;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::interval;

pub use database::{Database, Settings};
use database::{Failure, Outcome};
use licence::{Cache, Plan};

/// Paid players preloaded into the cache, and the most it holds.
const PLAYERS: usize = 10_000;
/// How often the database is checked for the metrics, and the cache of paid players renewed.
const CHECK_EVERY: Duration = Duration::from_millis(500);
const CACHE_EVERY: Duration = Duration::from_secs(30);

/// How a checkout behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// This instance's name; its row in table `health`.
    pub name: String,
    /// Time for a health or licence check, everything included.
    pub check_budget: Duration,
    /// Time for an order.
    pub order_budget: Duration,
    /// Whether paid players are answered from the cache while the database is away.
    pub degraded_mode: bool,
}

/// One instance of the service.
#[derive(Debug)]
pub struct Checkout {
    options: Options,
    database: Database,
    paid: Cache,
    beat: AtomicI64,
    database_up: AtomicBool,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
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

impl Checkout {
    /// An instance over `database`.
    pub fn new(options: Options, database: Database) -> Arc<Self> {
        Arc::new(Self {
            options,
            database,
            paid: Cache::new(PLAYERS),
            beat: AtomicI64::new(0),
            database_up: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// Its routes.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/orders", post(order))
            .route("/licence", get(licence))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Checks the database and renews the cache of paid players, for as long as it is polled.
    pub async fn keep_watch(&self) {
        let (mut checks, mut renewals) = (interval(CHECK_EVERY), interval(CACHE_EVERY));
        loop {
            tokio::select! { biased;
                _ = renewals.tick() => match self.database.paid_players(PLAYERS, self.options.order_budget).await {
                    Ok(players) => self.paid.learn(players),
                    Err(failure) => {
                        println!("paid players not loaded: {failure}");
                        // Sooner than usual: with an empty cache there is no degraded mode.
                        renewals.reset_after(CHECK_EVERY);
                    }
                },
                _ = checks.tick() => {
                    let up = self.check().await;
                    if self.database_up.swap(up.is_ok(), Ordering::Relaxed) != up.is_ok() {
                        match up {
                            Ok(()) => println!("the database is up"),
                            Err(failure) => println!("the database is down: {failure}"),
                        }
                    }
                }
            }
        }
    }

    /// Writes and reads a row, now.
    async fn check(&self) -> Outcome<()> {
        let beat = self.beat.fetch_add(1, Ordering::Relaxed) + 1;
        self.database.beat(&self.options.name, beat, self.options.check_budget).await
    }
}

type Shared = State<Arc<Checkout>>;

async fn healthz(State(checkout): Shared) -> (StatusCode, String) {
    match checkout.check().await {
        Ok(()) => {
            count(&checkout.counters.healthy);
            (StatusCode::OK, "ok\n".to_owned())
        }
        Err(failure) => {
            count(&checkout.counters.unhealthy);
            (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n"))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    account: i64,
    amount_cents: i64,
}

#[derive(Serialize)]
struct Ordered {
    id: i64,
}

async fn order(State(checkout): Shared, Json(order): Json<Order>) -> Result<(StatusCode, Json<Ordered>), Refusal> {
    let counters = &checkout.counters;
    match checkout.database.order(order.account, order.amount_cents, checkout.options.order_budget).await {
        Ok(id) => {
            count(&counters.orders);
            Ok((StatusCode::CREATED, Json(Ordered { id })))
        }
        Err(failure) => {
            println!("order of account {} not confirmed: {failure}", order.account);
            let (counter, status) = match failure {
                Failure::Refused(_) => (&counters.orders_failed, StatusCode::UNPROCESSABLE_ENTITY),
                Failure::Away(_) => (&counters.orders_failed, StatusCode::SERVICE_UNAVAILABLE),
                Failure::Unknown(_) => (&counters.orders_unknown, StatusCode::GATEWAY_TIMEOUT),
            };
            count(counter);
            Err((status, format!("{failure}\n")))
        }
    }
}

type Refusal = (StatusCode, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Player {
    player: String,
}

#[derive(Serialize)]
struct Licence {
    player: String,
    plan: Plan,
    degraded: bool,
}

async fn licence(State(checkout): Shared, Query(Player { player }): Query<Player>) -> Result<Json<Licence>, Refusal> {
    let counters = &checkout.counters;
    match checkout.database.plan(&player, checkout.options.check_budget).await {
        Ok(Some(plan)) => {
            count(&counters.licences);
            match plan {
                Plan::Paid => checkout.paid.learn([player.clone()]),
                Plan::Free => checkout.paid.forget(&player),
            }
            Ok(Json(Licence { player, plan, degraded: false }))
        }
        Ok(None) => Err((StatusCode::NOT_FOUND, format!("no player {player}\n"))),
        Err(_) if checkout.options.degraded_mode && checkout.paid.knows(&player) => {
            count(&counters.licences_degraded);
            Ok(Json(Licence { player, plan: Plan::Paid, degraded: true }))
        }
        Err(failure) => {
            count(&counters.licences_refused);
            Err((StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")))
        }
    }
}

async fn metrics(State(checkout): Shared) -> String {
    let c = &checkout.counters;
    let mut text = format!("checkout_database_up {}\n", u8::from(checkout.database_up.load(Ordering::Relaxed)));
    for (name, counter) in [
        ("checkout_health_checks_total{result=\"good\"}", &c.healthy),
        ("checkout_health_checks_total{result=\"bad\"}", &c.unhealthy),
        ("checkout_orders_total{result=\"stored\"}", &c.orders),
        ("checkout_orders_total{result=\"failed\"}", &c.orders_failed),
        ("checkout_orders_total{result=\"unknown\"}", &c.orders_unknown),
        ("checkout_licence_checks_total{result=\"checked\"}", &c.licences),
        ("checkout_licence_checks_total{result=\"degraded\"}", &c.licences_degraded),
        ("checkout_licence_checks_total{result=\"refused\"}", &c.licences_refused),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {}", counter.load(Ordering::Relaxed));
    }
    text
}
