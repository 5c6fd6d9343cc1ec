//! `alert`: an alert followed from Prometheus over Alertmanager to the receiver. Bad means firing.
//!
//! The series of samples is what Alertmanager says (silenced and inhibited alerts are bad too: they fire, and nobody
//! hears of it). Beside it the alert's stages are told, each between two instants. A notification's arrival is stamped by
//! the receiver's own clock, which is compared with ours all the time.

mod stages;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use self::stages::{AmAlert, Notification, PromAlerts, Received, Rules, Stages};
use super::{Cadence, Outcome, Seen, metric::percent, sampler::Take};
use crate::{
    clock::{Clock, ClockId, Stamp},
    net::{Dialer, HttpConn, HttpRequest, NetError, Url, get_json},
};

/// The name of the receiver's clock.
pub const RECEIVER_CLOCK: &str = "receiver";
/// How often Prometheus is asked whether it can evaluate the alert's rule.
const RULES_EVERY: Duration = Duration::from_secs(5);
/// How often the receiver's clock is compared, and by how many pings each time.
const LINK_EVERY: Duration = Duration::from_secs(10);
const PINGS: usize = 7;
/// The most of an answer that is taken.
const LARGEST: usize = 16 << 20;

/// An `alert` probe with its addresses found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertSpec {
    /// The alert's name.
    pub name: String,
    /// Labels it must have.
    pub labels: IndexMap<String, String>,
    /// The always-firing alert's name, if there is one.
    pub heartbeat: Option<String>,
    /// Alertmanager's address.
    pub alertmanager: String,
    /// Prometheus' address, if there is one.
    pub prometheus: Option<String>,
    /// The receiver's address, if there is one.
    pub receiver: Option<String>,
}

/// What the parts of an alert probe share.
struct Shared {
    url: Url,
    dialer: Dialer,
    clock: Clock,
    stages: Mutex<Stages>,
    /// Why Prometheus or the receiver could not be asked just now, if so.
    blind: Mutex<Option<String>>,
    out: mpsc::Sender<Seen>,
}

impl Shared {
    fn blind(&self) -> MutexGuard<'_, Option<String>> {
        self.blind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, with: impl FnOnce(&mut Stages) -> Vec<crate::journal::AlertSeen>) {
        let seen = with(&mut self.stages.lock().unwrap_or_else(PoisonError::into_inner));
        for alert in seen {
            // Nobody listens any more: the sampler ends by itself.
            drop(self.out.send(Seen::Alert(Box::new(alert))).await);
        }
    }
}

/// The follower of Prometheus and the receiver, to be run beside the sampler.
pub(super) struct Follower {
    probe: Arc<str>,
    alert: String,
    shared: Arc<Shared>,
    prometheus: Option<Url>,
    receiver: Option<Url>,
    cadence: Cadence,
}

/// The samples of an `alert` probe, and the follower beside them.
///
/// # Errors
/// If an address is none.
pub(super) fn take(
    probe: &str,
    spec: &AlertSpec,
    cadence: Cadence,
    clock: &Clock,
    dialer: &Dialer,
    out: &mpsc::Sender<Seen>,
) -> Result<(Take, Follower), String> {
    let base: Url = spec.alertmanager.parse()?;
    let filters = std::iter::once(("alertname", spec.name.as_str())).chain(spec.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let filters: Vec<String> = filters.map(|(k, v)| format!("filter={}", percent(&format!("{k}={}", quoted(v))))).collect();
    let url = base.join(&format!("/api/v2/alerts?active=true&silenced=true&inhibited=true&unprocessed=true&{}", filters.join("&")));
    let stages = Mutex::new(Stages::new(probe, spec));
    let shared = Arc::new(Shared { url, dialer: dialer.clone(), clock: clock.clone(), stages, blind: Mutex::default(), out: out.clone() });
    let parse = |url: &Option<String>| url.as_deref().map(str::parse::<Url>).transpose();
    let prometheus = parse(&spec.prometheus)?;
    let receiver = parse(&spec.receiver)?;
    let follower = Follower { probe: probe.into(), alert: spec.name.clone(), shared: shared.clone(), prometheus, receiver, cadence };
    let take: Take = Box::new(move || {
        let shared = shared.clone();
        async move { sample(&shared).await }.boxed()
    });
    Ok((take, follower))
}

async fn sample(shared: &Shared) -> Outcome {
    let send = shared.clock.now();
    let alerts = match get_json::<Vec<AmAlert>>(&shared.dialer, &shared.url).await {
        Ok(alerts) => alerts,
        // Alertmanager is asked as a witness; what is down if it does not answer is the witness.
        Err(error) => return Outcome::unknown(error.detail),
    };
    let complete = shared.clock.now();
    let outcome = stages::judge(&alerts);
    shared.tell(|stages| stages.alertmanager(&alerts, &send, &complete)).await;
    // While one of the three cannot be asked, "it did not fire" and "it did not arrive" are not known.
    let blind = shared.blind().clone();
    blind.map_or(outcome, Outcome::unknown)
}

/// A label's value as Alertmanager's matchers take it.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Follower {
    /// Follows until stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(self.cadence.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut inbox = self.receiver.clone().map(Inbox::new);
        let (mut prometheus_down, mut receiver_down) = (false, false);
        let (mut rules_asked, mut broken) = (None::<Instant>, None);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let (fired, received) = futures::join!(self.prometheus(), self.receiver(inbox.as_mut()));
            if rules_asked.is_none_or(|asked| asked.elapsed() >= RULES_EVERY) {
                (rules_asked, broken) = (Some(Instant::now()), self.broken().await);
            }
            let named =
                |what: &str, asked: &Result<(), NetError>| asked.as_ref().err().map(|error| format!("{what} could not be asked: {error}"));
            *self.shared.blind() = named("Prometheus", &fired).or(named("the alert receiver", &received)).or(broken.clone());
            self.trouble("Prometheus", fired.err(), &mut prometheus_down).await;
            self.trouble("the alert receiver", received.err(), &mut receiver_down).await;
        }
    }

    async fn prometheus(&self) -> Result<(), NetError> {
        let Some(base) = &self.prometheus else { return Ok(()) };
        let shared = &self.shared;
        let url = base.join("/api/v1/alerts");
        let send = shared.clock.now();
        let alerts: PromAlerts = within(self.cadence, get_json(&shared.dialer, &url)).await?;
        let complete = shared.clock.now();
        shared.tell(|stages| stages.prometheus(&alerts, &send, &complete)).await;
        Ok(())
    }

    /// Why the alert's rule cannot be evaluated, if Prometheus says so: then its silence means nothing. What does not know the
    /// question (some that speak Prometheus' API) says nothing of it.
    async fn broken(&self) -> Option<String> {
        let url = self.prometheus.as_ref()?.join("/api/v1/rules?type=alert");
        let rules: Rules = within(self.cadence, get_json(&self.shared.dialer, &url)).await.ok()?;
        rules.broken(&self.alert)
    }

    async fn receiver(&self, inbox: Option<&mut Inbox>) -> Result<(), NetError> {
        let Some(inbox) = inbox else { return Ok(()) };
        let shared = &self.shared;
        if let Some(linked) = inbox.link(shared, self.cadence).await? {
            drop(shared.out.send(linked).await);
        }
        let new = within(self.cadence, inbox.new_ones(&shared.dialer)).await?;
        shared.tell(|stages| new.iter().flat_map(|notification| stages.received(notification)).collect()).await;
        Ok(())
    }

    /// Told when it begins, and again only after it had ended.
    async fn trouble(&self, what: &str, error: Option<NetError>, down: &mut bool) {
        if let Some(error) = error.as_ref().filter(|_| !*down) {
            let detail = format!("{what} could not be asked: {error}");
            drop(self.shared.out.send(Seen::Trouble { probe: self.probe.clone(), detail }).await);
        }
        *down = error.is_some();
    }
}

async fn within<T>(cadence: Cadence, call: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
    let limit = cadence.timeout.max(Duration::from_secs(1));
    match timeout(limit, call).await {
        Ok(done) => done,
        Err(_) => Err(NetError::peer(format!("no answer within {}", crate::scenario::types::Dur(limit)))),
    }
}

/// The receiver's notifications, read from where the last reading ended.
struct Inbox {
    base: Url,
    connection: Option<HttpConn>,
    /// When the clock was compared last.
    linked: Option<Instant>,
    /// The receiver's wall time from which on notifications concern this drill.
    since_us: Option<i64>,
    last_id: u64,
}

#[derive(Deserialize)]
struct Now {
    wall_us: i64,
    mono_us: i64,
}

impl Inbox {
    fn new(base: Url) -> Self {
        Self { base, connection: None, linked: None, since_us: None, last_id: 0 }
    }

    /// On one connection kept open, so that a ping is one round trip and not three.
    async fn get<T: serde::de::DeserializeOwned>(&mut self, dialer: &Dialer, path: &str) -> Result<T, NetError> {
        let url = self.base.join(path);
        let mut connection = match self.connection.take().filter(HttpConn::is_usable) {
            Some(connection) => connection,
            None => HttpConn::open(dialer, &self.base).await?,
        };
        let answer = connection.send(&HttpRequest::get(url.clone()), LARGEST).await?;
        if answer.status != 200 || answer.cut {
            return Err(NetError::peer(format!("GET {url}: status {} or too long", answer.status)));
        }
        self.connection = Some(connection);
        serde_json::from_slice(&answer.body).map_err(|error| NetError::peer(format!("GET {url}: not the expected JSON: {error}")))
    }

    /// Compares the clocks when it is time to: the fastest of several pings has the smallest error.
    async fn link(&mut self, shared: &Shared, cadence: Cadence) -> Result<Option<Seen>, NetError> {
        if self.linked.is_some_and(|linked| linked.elapsed() < LINK_EVERY) {
            return Ok(None);
        }
        let mut best: Option<(i64, Stamp, Now)> = None;
        for _ in 0..PINGS {
            let sent = shared.clock.now();
            let there: Now = within(cadence, self.get(&shared.dialer, "/time")).await?;
            let trip = shared.clock.now().mono_us - sent.mono_us;
            if best.as_ref().is_none_or(|(shortest, ..)| trip < *shortest) {
                best = Some((trip, sent, there));
            }
        }
        let Some((trip, sent, there)) = best else { return Ok(None) };
        self.linked = Some(Instant::now());
        self.since_us.get_or_insert(there.wall_us);
        Ok(Some(Seen::Linked {
            clock: ClockId(RECEIVER_CLOCK.into()),
            base: shared.clock.id().clone(),
            offset_us: there.mono_us - (sent.mono_us + trip / 2),
            error_us: trip / 2 + 1,
            wall_offset_us: there.wall_us - (sent.wall_us + trip / 2),
        }))
    }

    /// Notifications that were not given before.
    async fn new_ones(&mut self, dialer: &Dialer) -> Result<Vec<Notification>, NetError> {
        let Some(since) = self.since_us else { return Ok(Vec::new()) };
        let mut found: Vec<Received> = self.get(dialer, &format!("/notifications?since={since}")).await?;
        found.sort_by_key(|received| received.id);
        if found.last().is_some_and(|last| last.id < self.last_id) {
            // It counts from 1 again: it was started anew, maybe elsewhere, with another clock.
            (self.last_id, self.linked) = (0, None);
        }
        let clock = ClockId(RECEIVER_CLOCK.into());
        let new: Vec<_> = found.into_iter().filter(|received| received.id > self.last_id).collect();
        if let Some(last) = new.last() {
            self.last_id = last.id;
            self.since_us = Some(new.iter().map(|received| received.received_us).max().unwrap_or(since).max(since));
        }
        Ok(new.into_iter().map(|received| received.at(&clock)).collect())
    }
}
