//! The control port: `POST /schedule`, `DELETE /schedule`, `GET /log`, `GET /time`, `GET /healthz`.

use std::sync::Arc;

use axum::extract;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};

use super::port::Order;
use super::schedule::{self, Outage, Planned, Service};
use super::{Entry, Orders, log::Log};
use crate::clock::{Clock, Now};

/// Outages that may wait at a time.
const WAITING: usize = 1_000;

/// What the control port works on.
pub(super) struct State {
    clock: Clock,
    log: Arc<Log>,
    orders: Orders,
    planned: Mutex<Vec<Planned>>,
}

impl State {
    pub(super) fn new(clock: Clock, log: Arc<Log>, orders: Orders) -> Arc<Self> {
        Arc::new(Self { clock, log, orders, planned: Mutex::default() })
    }

    async fn order(&self, make: impl Fn(Service) -> Order) -> Result<(), Refusal> {
        for service in Service::ALL {
            let gone = |_| (StatusCode::INTERNAL_SERVER_ERROR, format!("the {service:?} port has ended\n"));
            self.orders.of(service).send(make(service)).await.map_err(gone)?;
        }
        Ok(())
    }
}

type Refusal = (StatusCode, String);
type Shared = extract::State<Arc<State>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Schedule {
    outages: Vec<Outage>,
}

pub(super) async fn serve(listener: TcpListener, state: Arc<State>, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/schedule", post(add).delete(cancel))
        .route("/log", get(entries))
        .route("/time", get(time))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(state);
    let stop = async move {
        // An error says that the metronome is gone: a reason to stop, too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    tokio::select! { biased;
        () = stop => Ok(()),
        served = axum::serve(listener, routes) => Ok(served?),
    }
}

async fn add(extract::State(state): Shared, Json(asked): Json<Schedule>) -> Result<Json<Vec<Planned>>, Refusal> {
    let mut planned = state.planned.lock().await;
    let now = state.clock.now();
    planned.retain(|outage| outage.up_at_us >= now.wall_us);
    if planned.len() + asked.outages.len() > WAITING {
        return Err((StatusCode::BAD_REQUEST, format!("more than {WAITING} outages would wait\n")));
    }
    let new = schedule::plan(&asked.outages, &planned, now.wall_us).map_err(|wrong| (StatusCode::BAD_REQUEST, wrong + "\n"))?;
    state.order(|service| Order::Add(new.iter().copied().filter(|outage| outage.concerns(service)).collect())).await?;
    planned.extend_from_slice(&new);
    Ok(Json(new))
}

async fn cancel(extract::State(state): Shared) -> Result<StatusCode, Refusal> {
    let mut planned = state.planned.lock().await;
    state.order(|_| Order::Cancel).await?;
    planned.clear();
    Ok(StatusCode::NO_CONTENT)
}

async fn entries(extract::State(state): Shared) -> Json<Vec<Entry>> {
    Json(state.log.entries())
}

async fn time(extract::State(state): Shared) -> Json<Now> {
    Json(state.clock.now())
}
