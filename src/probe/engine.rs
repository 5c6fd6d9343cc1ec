//! Runs samplers: the same code in the runner's process and in the observer pod. Knows nothing of Kubernetes.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Cadence, Sampler, Seen, Take, http, metric, tcp};
use crate::{
    clock::Clock,
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
}

/// Running samplers.
#[derive(Debug)]
pub struct Engine {
    clock: Clock,
    dialer: Dialer,
    out: mpsc::Sender<Seen>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// The longest time limit of a sample.
    longest: Duration,
}

impl Engine {
    /// An engine without samplers; what they see goes to `out`.
    pub fn new(clock: Clock, dialer: Dialer, out: mpsc::Sender<Seen>) -> Self {
        Self { clock, dialer, out, stop: CancellationToken::new(), tasks: JoinSet::new(), longest: Duration::ZERO }
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

    /// Runs a task of a probe. A panic of it is told, not swallowed.
    pub(super) fn spawn(&mut self, probe: &str, task: impl Future<Output = ()> + Send + 'static) {
        let (probe, out): (Arc<str>, _) = (probe.into(), self.out.clone());
        self.tasks.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let why = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
                let detail = format!("its sampler failed: {}; it is not sampled any more", why.unwrap_or_default());
                // If nobody listens any more, nobody is misled either.
                let _ = out.send(Seen::Trouble { probe, detail }).await;
            }
        });
    }

    /// A token that is cancelled when the engine stops.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops sampling; samples under way are waited for. Gives what did not end in time.
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
