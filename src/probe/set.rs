//! All probes of a drill, as the runner holds them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Board, Engine, Seen,
    collect::{Collector, Order},
    resolve::{Resolved, Sampled},
};
use crate::{
    clock::Clock,
    cluster::Cluster,
    journal::Event,
    net::{Dialer, NetError},
    plan::Plan,
    scenario::types::{Dur, Vantage},
};

/// What the collector may lag behind the samplers, in items.
const SEEN: usize = 4096;
/// How long the collector may take to write down what it has.
const COLLECT_LIMIT: Duration = Duration::from_secs(30);

/// What probes need of the drill.
#[derive(Debug, Clone)]
pub struct ProbeCx {
    /// The runner's clock.
    pub clock: Clock,
    /// The cluster.
    pub cluster: Cluster,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Where raw samples go; made when missing.
    pub samples_dir: PathBuf,
    /// The drill's name.
    pub drill: String,
}

/// Why probes could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A probe cannot be sampled.
    #[error("failed to start probe `{probe}`: {why}")]
    Start {
        /// Which.
        probe: String,
        /// Why.
        why: String,
    },
    /// The network cannot be used.
    #[error("failed to start probes: {0}")]
    Net(#[from] NetError),
    /// Something of the sampling did not end as it should.
    #[error("failed to stop probes: {0}")]
    Stop(String),
}

/// All probes of a drill, running.
#[derive(Debug)]
pub struct ProbeSet {
    clock: Clock,
    engine: Engine,
    orders: mpsc::Sender<Order>,
    board: watch::Receiver<Board>,
    collector: JoinHandle<()>,
}

impl ProbeSet {
    /// Starts sampling every probe of the plan. What is seen goes to `events` (make it hold some hundred).
    ///
    /// # Errors
    /// When a probe cannot be sampled at all: its Secret or Service is missing, its address is none.
    pub async fn start(cx: ProbeCx, events: mpsc::Sender<Event>) -> Result<Self, ProbeError> {
        let (board_tx, board) = watch::channel(Board::default());
        let (seen_tx, seen) = mpsc::channel::<Seen>(SEEN);
        let (orders, orders_rx) = mpsc::channel(64);
        let mut collector = Collector::new(cx.clock.id().clone(), events.clone(), board_tx);
        let mut engine = Engine::new(cx.clock.clone(), Dialer::host()?, seen_tx);
        for (name, planned) in &cx.plan.probes {
            let start = |why: String| ProbeError::Start { probe: name.clone(), why };
            let Resolved { sampled, sequential } = super::resolve::resolve(&cx, name, planned).await.map_err(start)?;
            let cadence = super::Cadence { every: planned.every.0, timeout: planned.timeout.0 };
            if let Some(told) = collector.add(name, cadence, sequential, &cx.samples_dir)
                && events.send(told).await.is_err()
            {
                return Err(ProbeError::Stop("nobody takes the events".to_owned()));
            }
            match sampled {
                Sampled::Spec(spec, Vantage::Runner) => engine.add(*spec).map_err(start)?,
                Sampled::Spec(_, Vantage::Cluster) => {
                    return Err(start("it is sampled from the cluster, and there is no observer".to_owned()));
                }
                Sampled::Here { take, silence, nudges } => engine.sample(name, cadence, silence, take, nudges),
            }
        }
        let collector = tokio::spawn(collector.run(seen, orders_rx));
        Ok(Self { clock: cx.clock, engine, orders, board, collector })
    }

    /// What every probe says now; changes with every sample.
    pub fn board(&self) -> watch::Receiver<Board> {
        self.board.clone()
    }

    /// Ends the current run of every probe at this instant, so that before and after can be told apart. The runs are in
    /// the journal as soon as each probe's next sample is in.
    pub async fn cut(&self) {
        // A collector that is gone is told of by `stop`.
        let _ = self.orders.send(Order::Cut(self.clock.now())).await;
    }

    /// The readings at the end: ledgers stop writing and are read back, backup tools are asked. When this returns, their
    /// events have been sent.
    ///
    /// # Errors
    /// When the samplers are gone.
    pub async fn readings(&mut self) -> Result<(), ProbeError> {
        let (answer, flushed) = oneshot::channel();
        let gone = |_| ProbeError::Stop("the collector is gone".to_owned());
        self.orders.send(Order::Flush(answer)).await.map_err(|_| gone(()))?;
        timeout(COLLECT_LIMIT, flushed)
            .await
            .map_err(|_| ProbeError::Stop(format!("the collector did not answer within {}", Dur(COLLECT_LIMIT))))?
            .map_err(|_| gone(()))
    }

    /// Stops sampling, sends the last runs, and joins every task.
    ///
    /// # Errors
    /// When something did not end in time or failed; everything that could be sent was sent all the same.
    pub async fn stop(self) -> Result<(), ProbeError> {
        let Self { engine, orders, mut collector, .. } = self;
        // Dropping the engine's end of the channel is what tells the collector that no more comes.
        let engine = engine.stop().await;
        drop(orders);
        let collected = match timeout(COLLECT_LIMIT, &mut collector).await {
            Ok(joined) => joined.map_err(|error| format!("the collector failed: {error}")),
            Err(_) => {
                collector.abort();
                Err(format!("the collector did not end within {}", Dur(COLLECT_LIMIT)))
            }
        };
        engine.and(collected).map_err(ProbeError::Stop)
    }
}
