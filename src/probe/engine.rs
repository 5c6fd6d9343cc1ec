//! Runs samplers: the same code in the runner's process and in the observer pod. Knows nothing of Kubernetes.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Cadence, LedgerCopy, Sampler, Seen, Take,
    alert::{self, AlertSpec},
    http,
    ledger::{self, Ledger, LedgerSpec, ReadBack},
    metric,
    sql::{self, SqlSpec},
    tcp,
};
use crate::{
    clock::{Clock, Stamp},
    journal::Reading,
    net::Dialer,
    scenario::types::{Connection, Dur, HttpProbe, MetricProbe, ProbeState, TcpProbe},
};

/// Everything a sampler must be told, names of the cluster already turned into hosts, secrets already read. Goes over
/// the observer's link and is never written anywhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSpec {
    /// The probe.
    pub name: String,
    /// Time from one sample's start to the next.
    pub every: Dur,
    /// How long one sample may take.
    pub timeout: Dur,
    /// Whether each sample makes a new connection.
    pub connection: Connection,
    /// What to sample.
    pub kind: SpecKind,
}

impl ProbeSpec {
    /// How often and how long.
    pub const fn cadence(&self) -> Cadence {
        Cadence { every: self.every.0, timeout: self.timeout.0 }
    }
}

/// What to sample.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SpecKind {
    /// An HTTP request.
    Http(HttpProbe),
    /// A TCP connection.
    Tcp(TcpProbe),
    /// A PromQL expression.
    Metric {
        /// The probe.
        probe: MetricProbe,
        /// Prometheus' address.
        prometheus: String,
    },
    /// A statement.
    Sql(SqlSpec),
    /// A sequential writer.
    Ledger(LedgerSpec),
    /// An alert.
    Alert(AlertSpec),
}

/// Running samplers.
#[derive(Debug)]
pub struct Engine {
    clock: Clock,
    dialer: Dialer,
    out: mpsc::Sender<Seen>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    ledgers: BTreeMap<String, mpsc::Sender<ReadBack>>,
    /// The longest that a task may take to end.
    longest: Duration,
}

impl Engine {
    /// An engine without samplers; what they see goes to `out`.
    pub fn new(clock: Clock, dialer: Dialer, out: mpsc::Sender<Seen>) -> Self {
        Self {
            clock,
            dialer,
            out,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            ledgers: BTreeMap::new(),
            longest: Duration::ZERO,
        }
    }

    /// The clock of its stamps.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Starts sampling what `spec` says.
    ///
    /// # Errors
    /// If it makes no sense: an address that is none, a header that cannot be sent.
    pub fn add(&mut self, spec: ProbeSpec) -> Result<(), String> {
        let wrong = |why: String| format!("probe `{}`: {why}", spec.name);
        let (take, silence) = match &spec.kind {
            SpecKind::Http(probe) => (http::take(probe, spec.connection, &self.dialer).map_err(wrong)?, ProbeState::Bad),
            SpecKind::Tcp(probe) => (tcp::take(probe, spec.connection, &self.dialer).map_err(wrong)?, ProbeState::Bad),
            SpecKind::Metric { probe, prometheus } => (metric::take(probe, prometheus, &self.dialer).map_err(wrong)?, ProbeState::Unknown),
            SpecKind::Sql(sql) => (sql::take(sql, spec.connection, &self.dialer), ProbeState::Bad),
            SpecKind::Alert(alert) => {
                let made = alert::take(&spec.name, alert, spec.cadence(), &self.clock, &self.dialer, &self.out);
                let (take, follower) = made.map_err(wrong)?;
                self.longest = self.longest.max(spec.timeout.0 + Duration::from_secs(5));
                self.spawn(&spec.name, follower.run(self.stop.clone()));
                (take, ProbeState::Unknown)
            }
            SpecKind::Ledger(ledger) => {
                self.write(&spec, ledger);
                return Ok(());
            }
        };
        self.sample(&spec.name, spec.cadence(), silence, take, None);
        Ok(())
    }

    /// Starts sampling with `take`.
    pub fn sample(&mut self, probe: &str, cadence: Cadence, silence: ProbeState, take: Take, nudges: Option<mpsc::Receiver<()>>) {
        let sampler = Sampler { probe: probe.into(), cadence, clock: self.clock.clone(), take, silence, nudges };
        let (out, stop) = (self.out.clone(), self.stop.clone());
        self.longest = self.longest.max(cadence.timeout);
        self.spawn(probe, sampler.run(out, stop));
    }

    fn write(&mut self, spec: &ProbeSpec, ledger: &LedgerSpec) {
        let (orders, orders_rx) = mpsc::channel(1);
        self.ledgers.insert(spec.name.clone(), orders);
        self.longest = self.longest.max(spec.timeout.0 + ledger::DROP_LIMIT);
        let writer = Ledger::new(&spec.name, ledger.clone(), spec.cadence(), &self.clock, &self.dialer, &self.out);
        self.spawn(&spec.name, writer.run(orders_rx, self.stop.clone()));
    }

    /// Ends a ledger's writing and reads it back; the future does not borrow the engine.
    pub fn read_back(
        &self,
        probe: &str,
        copies: Vec<LedgerCopy>,
    ) -> impl Future<Output = Result<(Stamp, Stamp, Reading), String>> + Send + use<> {
        let (ledger, probe) = (self.ledgers.get(probe).cloned(), probe.to_owned());
        async move {
            let ledger = ledger.ok_or_else(|| format!("there is no ledger `{probe}`"))?;
            let (reply, answer) = oneshot::channel();
            let gone = || format!("the writer of ledger `{probe}` is gone");
            ledger.send(ReadBack { copies, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        }
    }

    /// Something to be told as if a sampler had seen it.
    pub(super) fn teller(&self) -> mpsc::Sender<Seen> {
        self.out.clone()
    }

    /// Ends everything at once and leaves what ledgers made where it is.
    pub fn abandon(mut self) {
        self.tasks.abort_all();
    }

    /// Runs a task of a probe. A panic of it is told, not swallowed.
    pub(super) fn spawn(&mut self, probe: &str, task: impl Future<Output = ()> + Send + 'static) {
        let (probe, out): (Arc<str>, _) = (probe.into(), self.out.clone());
        self.tasks.spawn(crate::gate::own(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let why = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
                let detail = format!("its sampler failed: {}; it is not sampled any more", why.unwrap_or_default());
                // If nobody listens any more, nobody is misled either.
                let _ = out.send(Seen::Trouble { probe, detail }).await;
            }
        }));
    }

    /// Stops sampling; samples under way are waited for, and what ledgers made is removed.
    ///
    /// # Errors
    /// When something did not end in time.
    pub async fn stop(mut self) -> Result<(), String> {
        self.stop.cancel();
        let limit = Instant::now() + self.longest + Duration::from_secs(5);
        while let Ok(Some(_)) = timeout_at(limit, self.tasks.join_next()).await {}
        if self.tasks.is_empty() {
            return Ok(());
        }
        let left = self.tasks.len();
        self.tasks.shutdown().await;
        Err(format!("{left} samplers did not stop in time and were ended"))
    }
}

#[cfg(test)]
mod tests;
