//! `receiver`: the alert receiver, which keeps every notification with the time of its arrival.
//!
//! `POST /alerts` takes a notification, `GET /notifications[?since=US&alertname=NAME]` gives what came, oldest first,
//! `DELETE /notifications` forgets it, `GET /time` says what its clock says. What it keeps is forgotten when it ends.
//!
//! Knobs: `down` (`true`: it closes every connection without an answer, and is not ready), `lose-notifications` (a share from 0 to
//! 1: so many are taken and not kept).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use serde_json::json;

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
/// Notifications kept; the oldest go first.
const KEPT: usize = 10_000;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    starts_at: String,
    #[serde(default)]
    ends_at: String,
    #[serde(default)]
    fingerprint: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    status: String,
    #[serde(default)]
    group_labels: BTreeMap<String, String>,
    #[serde(default)]
    receiver: String,
    alerts: Vec<Alert>,
}

/// A notification that came.
#[derive(Debug, Clone, Serialize)]
struct Received {
    received_us: i64,
    received_mono_us: i64,
    id: u64,
    status: String,
    #[serde(rename = "groupLabels")]
    group_labels: BTreeMap<String, String>,
    receiver: String,
    alerts: Vec<Alert>,
}

#[derive(Debug, Default)]
struct Inbox {
    /// It listens.
    up: bool,
    last_id: u64,
    arrived: u64,
    received: VecDeque<Received>,
}

/// The program.
#[derive(Debug, Default)]
pub(super) struct Receiver(Mutex<Inbox>);

fn down(env: &Env) -> bool {
    env.knob("down").is_some_and(|down| down == "true")
}

impl Receiver {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, env: &Env, ask: &Request) -> Option<Reply> {
        if down(env) {
            return None;
        }
        Some(match ask.route() {
            ("POST", "/alerts") => match serde_json::from_slice::<Payload>(&ask.body) {
                Ok(payload) => self.take(env, payload),
                Err(error) if error.is_data() => Reply::text(422, format!("{error}\n")),
                Err(error) => Reply::text(400, format!("{error}\n")),
            },
            ("GET", "/notifications") => self.give(ask),
            ("DELETE", "/notifications") => {
                self.lock().received.clear();
                Reply::text(204, "")
            }
            ("GET", "/time") => {
                let now = env.clock().now();
                Reply::json(200, &json!({ "wall_us": now.wall_us, "mono_us": now.mono_us }))
            }
            ("GET", "/healthz") => Reply::text(200, "ok\n"),
            _ => Reply::not_found(ask),
        })
    }

    fn take(&self, env: &Env, payload: Payload) -> Reply {
        // A knob made wrong since the start counts as none.
        let share = share(env, "lose-notifications").unwrap_or_default();
        let now = env.clock().now();
        let mut inbox = self.lock();
        inbox.arrived += 1;
        if picked(env, share, "lost", inbox.arrived) {
            return Reply::text(200, "");
        }
        inbox.last_id += 1;
        let Payload { status, group_labels, receiver, alerts } = payload;
        let names: Vec<&str> = alerts.iter().filter_map(|alert| alert.labels.get("alertname")).map(String::as_str).collect();
        env.say(&format!("notification {}: {status} {}", inbox.last_id, names.join(" ")));
        let told = |alert: &Alert| json!({"alertname": alert.labels.get("alertname"), "status": alert.status});
        env.truth("received", json!({"id": inbox.last_id, "alerts": alerts.iter().map(told).collect::<Vec<_>>()}));
        let (received_us, received_mono_us, id) = (now.wall_us, now.mono_us, inbox.last_id);
        if inbox.received.len() >= KEPT {
            inbox.received.pop_front();
        }
        inbox.received.push_back(Received { received_us, received_mono_us, id, status, group_labels, receiver, alerts });
        Reply::text(200, "")
    }

    fn give(&self, ask: &Request) -> Reply {
        let since = match ask.value("since").map(str::parse::<i64>).transpose() {
            Ok(since) => since.unwrap_or(i64::MIN),
            Err(error) => return Reply::text(400, format!("since: {error}\n")),
        };
        let name = ask.value("alertname");
        let inbox = self.lock();
        let named = |received: &Received| {
            name.is_none_or(|name| received.alerts.iter().any(|a| a.labels.get("alertname").is_some_and(|n| n == name)))
        };
        let wanted: Vec<&Received> = inbox.received.iter().filter(|r| r.received_us >= since && named(r)).collect();
        Reply::json(200, &json!(wanted))
    }
}

impl Program for Receiver {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            if let Err(why) = share(&env, "lose-notifications") {
                env.say(&why);
                return 1;
            }
            self.lock().up = true;
            let (site, own) = (env.clone(), Arc::clone(&self));
            let site: http::Site = Arc::new(move |ask| std::future::ready(own.answer(&site, &ask)).boxed());
            http::serve(&env, http::port(&env, "http", PORT), site).await
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        let up = self.lock().up;
        http::probed("receiver", up, probe, |path| if matches!(path, "/healthz" | "/time" | "/notifications") { 200 } else { 404 })
    }

    fn exec(self: Arc<Self>, _env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        http::no_commands("receiver", ask).boxed()
    }
}
