//! A webhook for Alertmanager that keeps every notification with the instant it arrived.
//!
//! `POST /alerts` takes a notification, `GET /notifications[?since=US&alertname=NAME]` gives what came, oldest first,
//! `DELETE /notifications` forgets it, `GET /time` says what this clock says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Now};

/// Notifications kept unless told otherwise; the oldest go first.
pub const KEPT: usize = 10_000;
/// The largest notification taken, bytes.
const LARGEST: usize = 1 << 20;

/// An alert of a notification, as Alertmanager sends it (webhook format, version 4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// `firing` or `resolved`.
    pub status: String,
    /// The alert's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The alert's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// When it began to fire, RFC 3339, by Prometheus's clock.
    #[serde(default)]
    pub starts_at: String,
    /// When it ended or is taken to end.
    #[serde(default)]
    pub ends_at: String,
    /// Alertmanager's hash of the labels.
    #[serde(default)]
    pub fingerprint: String,
}

/// A notification, as Alertmanager sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// `firing` or `resolved`.
    pub status: String,
    /// What its alerts are grouped by.
    #[serde(default)]
    pub group_labels: BTreeMap<String, String>,
    /// The receiver's name in Alertmanager's configuration.
    #[serde(default)]
    pub receiver: String,
    /// Its alerts.
    pub alerts: Vec<Alert>,
}

/// A notification that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// When the whole of it had arrived, wall time in microseconds since the Unix epoch.
    pub received_us: i64,
    /// The same by `CLOCK_MONOTONIC`, microseconds.
    pub received_mono_us: i64,
    /// Counts from 1 and never starts again, so that a gap shows what was forgotten.
    pub id: u64,
    /// `firing` or `resolved`.
    pub status: String,
    /// What its alerts are grouped by.
    #[serde(rename = "groupLabels")]
    pub group_labels: BTreeMap<String, String>,
    /// Alertmanager's name for this receiver.
    pub receiver: String,
    /// Its alerts.
    pub alerts: Vec<Alert>,
}

/// What arrived so far.
#[derive(Debug)]
pub struct Inbox {
    clock: Clock,
    kept: usize,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    last_id: u64,
    received: VecDeque<Received>,
}

impl Inbox {
    /// An empty inbox that keeps the newest `kept` notifications.
    pub fn new(clock: Clock, kept: usize) -> Arc<Self> {
        Arc::new(Self { clock, kept: kept.max(1), notes: Mutex::default() })
    }

    /// The routes over this inbox.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/alerts", post(take))
            .route("/notifications", get(give).delete(forget))
            .route("/time", get(time))
            .route("/healthz", get(|| async { "ok\n" }))
            .layer(DefaultBodyLimit::max(LARGEST))
            .with_state(self)
    }

    fn take(&self, payload: Payload) -> u64 {
        let now = self.clock.now();
        let mut notes = self.notes();
        notes.last_id += 1;
        let id = notes.last_id;
        if notes.received.len() == self.kept {
            notes.received.pop_front();
        }
        let Payload { status, group_labels, receiver, alerts } = payload;
        let (received_us, received_mono_us) = (now.wall_us, now.mono_us);
        notes.received.push_back(Received { received_us, received_mono_us, id, status, group_labels, receiver, alerts });
        id
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // A notification is pushed whole or not at all.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Only what was received at or after this, wall microseconds.
    since: Option<i64>,
    /// Only notifications that hold an alert of this name.
    alertname: Option<String>,
}

async fn take(State(inbox): State<Arc<Inbox>>, Json(payload): Json<Payload>) -> StatusCode {
    let names: Vec<_> = payload.alerts.iter().filter_map(|alert| alert.labels.get("alertname")).cloned().collect();
    let status = payload.status.clone();
    let id = inbox.take(payload);
    println!("notification {id}: {status} {}", names.join(" "));
    StatusCode::OK
}

async fn give(State(inbox): State<Arc<Inbox>>, Query(filter): Query<Filter>) -> Json<Vec<Received>> {
    let wanted = |received: &&Received| {
        filter.since.is_none_or(|since| received.received_us >= since)
            && filter.alertname.as_ref().is_none_or(|name| received.alerts.iter().any(|alert| alert.labels.get("alertname") == Some(name)))
    };
    Json(inbox.notes().received.iter().filter(wanted).cloned().collect())
}

async fn forget(State(inbox): State<Arc<Inbox>>) -> StatusCode {
    inbox.notes().received.clear();
    StatusCode::NO_CONTENT
}

async fn time(State(inbox): State<Arc<Inbox>>) -> Json<Now> {
    Json(inbox.clock.now())
}
