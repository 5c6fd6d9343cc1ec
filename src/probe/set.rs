//! All probes of a drill, as the runner holds them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Board, Cadence, Engine, Observer, ProbeSpec, Seen, SpecKind, Take,
    backup::Backup,
    collect::{Collector, Order},
    observer::{READ_LIMIT, Watching},
    resolve::Sampled,
};
use crate::{
    agent::LinkError,
    clock::{Clock, Stamp},
    cluster::Cluster,
    journal::{Event, Reading},
    net::{Dialer, NetError},
    plan::Plan,
    scenario::types::{Dur, ProbeState, Vantage},
};

/// How long a backup tool may take to answer.
const BACKUP_LIMIT: Duration = Duration::from_secs(30);
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
    /// The network as the runner has it.
    pub dialer: Dialer,
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
    /// The observer could not be placed.
    #[error("failed to start probes: {0}")]
    Observer(#[from] LinkError),
    /// Something of the sampling did not end as it should.
    #[error("failed to stop probes: {0}")]
    Stop(String),
}

/// All probes of a drill, running.
#[derive(Debug)]
pub struct ProbeSet {
    clock: Clock,
    engine: Engine,
    observer: Option<Watching>,
    orders: mpsc::Sender<Order>,
    board: watch::Receiver<Board>,
    collector: JoinHandle<()>,
    /// What is read at the end.
    last: Vec<LastRead>,
    cx: Option<ProbeCx>,
}

/// Something that is read at the end.
#[derive(Clone)]
enum LastRead {
    Ledger { probe: String, from: Vantage, replicas: Option<String> },
    Backup { probe: String, backup: Arc<Backup> },
}

impl std::fmt::Debug for LastRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ledger { probe, .. } | Self::Backup { probe, .. } => f.write_str(probe),
        }
    }
}

/// A probe that only the runner can take: its name, cadence, sampling, what its silence means, and what makes it look out of turn.
type OwnProbe = (String, Cadence, Take, ProbeState, Option<mpsc::Receiver<()>>);

/// Probes that can be sampled, before they are.
#[derive(Default)]
struct Prepared {
    here: Vec<ProbeSpec>,
    there: Vec<ProbeSpec>,
    own: Vec<OwnProbe>,
    last: Vec<LastRead>,
}

impl ProbeSet {
    /// Starts sampling every probe of the plan, and places the observer if one is needed. What is seen goes to `events`
    /// (make it hold some hundred).
    ///
    /// # Errors
    /// When a probe cannot be sampled at all: its Secret or Service is missing, its address is none, the observer does not
    /// come up.
    pub async fn start(cx: ProbeCx, events: mpsc::Sender<Event>) -> Result<Self, ProbeError> {
        let mut prepared = Prepared::default();
        for (name, planned) in &cx.plan.probes {
            let start = |why: String| ProbeError::Start { probe: name.clone(), why };
            match super::resolve::resolve(&cx, name, planned).await.map_err(start)? {
                Sampled::Spec(spec, from) => {
                    if let Some(ledger) = planned.spec.ledger.as_ref() {
                        prepared.last.push(LastRead::Ledger { probe: name.clone(), from, replicas: ledger.replicas.clone() });
                    }
                    match from {
                        Vantage::Runner => prepared.here.push(*spec),
                        Vantage::Cluster => prepared.there.push(*spec),
                    }
                }
                Sampled::Here { take, silence, nudges, backup } => {
                    let cadence = Cadence { every: planned.every.0, timeout: planned.timeout.0 };
                    prepared.own.push((name.clone(), cadence, take, silence, nudges));
                    prepared.last.extend(backup.map(|backup| LastRead::Backup { probe: name.clone(), backup }));
                }
            }
        }
        let observer = if prepared.there.is_empty() {
            None
        } else {
            let (observer, remark) = Observer::place(&cx).await?;
            let pod = observer.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
            let told =
                std::iter::once(Event::Armed { what: "observer".to_owned(), pod }).chain(remark.map(|detail| Event::Deviation { detail }));
            for event in told {
                events.send(event).await.map_err(|_| nobody())?;
            }
            Some(observer)
        };
        let (clock, dialer, samples_dir) = (cx.clock.clone(), cx.dialer.clone(), cx.samples_dir.clone());
        Self::begin(clock, dialer, &samples_dir, prepared, observer, Some(cx), events).await
    }

    /// Starts sampling what is given, without a plan and a cluster: `here` in this process, `there` by an observer that is
    /// attached to already.
    ///
    /// # Errors
    /// When a probe cannot be sampled at all.
    pub async fn of_specs(
        clock: Clock,
        samples_dir: &Path,
        here: Vec<ProbeSpec>,
        there: Option<(Observer, Vec<ProbeSpec>)>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, ProbeError> {
        let (observer, there) = there.map_or_else(|| (None, Vec::new()), |(observer, specs)| (Some(observer), specs));
        let ledger = |spec: &&ProbeSpec| matches!(spec.kind, SpecKind::Ledger(_));
        let all = here.iter().map(|spec| (spec, Vantage::Runner)).chain(there.iter().map(|spec| (spec, Vantage::Cluster)));
        let ledgers = all.filter(|(spec, _)| ledger(spec));
        let last = ledgers.map(|(spec, from)| LastRead::Ledger { probe: spec.name.clone(), from, replicas: None }).collect();
        let prepared = Prepared { here, there, own: Vec::new(), last };
        Self::begin(clock, Dialer::host()?, samples_dir, prepared, observer, None, events).await
    }

    async fn begin(
        clock: Clock,
        dialer: Dialer,
        samples_dir: &Path,
        prepared: Prepared,
        observer: Option<Observer>,
        cx: Option<ProbeCx>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, ProbeError> {
        let Prepared { here, there, own, last } = prepared;
        let (board_tx, board) = watch::channel(Board::default());
        let (seen_tx, seen) = mpsc::channel::<Seen>(SEEN);
        let (orders, orders_rx) = mpsc::channel(64);
        let mut collector = Collector::new(clock.id().clone(), events.clone(), board_tx);
        let sequential = |spec: &ProbeSpec| matches!(spec.kind, SpecKind::Ledger(_));
        let specs = here.iter().chain(&there).map(|spec| (&spec.name, spec.cadence(), sequential(spec)));
        for (name, cadence, sequential) in specs.chain(own.iter().map(|(name, cadence, ..)| (name, *cadence, false))) {
            if let Some(told) = collector.add(name, cadence, sequential, samples_dir) {
                events.send(told).await.map_err(|_| nobody())?;
            }
        }
        let collector = tokio::spawn(crate::gate::own(collector.run(seen, orders_rx)));
        let mut engine = Engine::new(clock.clone(), dialer, seen_tx.clone());
        let observer = match observer {
            Some(observer) => Some(observer.start(there, seen_tx, orders.clone()).await?),
            None => None,
        };
        for (name, cadence, take, silence, nudges) in own {
            engine.sample(&name, cadence, silence, take, nudges);
        }
        for spec in here {
            let probe = spec.name.clone();
            engine.add(spec).map_err(|why| ProbeError::Start { probe, why })?;
        }
        Ok(Self { clock, engine, observer, orders, board, collector, last, cx })
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
        let tell = self.engine.teller();
        let readings = join_all(self.last.iter().map(|last| self.read(last))).await;
        for reading in readings {
            tell.send(reading).await.map_err(|_| gone())?;
        }
        drop(tell);
        let (answer, flushed) = oneshot::channel();
        self.orders.send(Order::Flush(answer)).await.map_err(|_| gone())?;
        timeout(COLLECT_LIMIT, flushed)
            .await
            .map_err(|_| ProbeError::Stop(format!("the collector did not answer within {}", Dur(COLLECT_LIMIT))))?
            .map_err(|_| gone())
    }

    async fn read(&self, last: &LastRead) -> Seen {
        let begin = self.clock.now();
        let (probe, read) = match last {
            LastRead::Backup { probe, backup } => (probe, Ok((begin.clone(), None, backup.reading(BACKUP_LIMIT).await))),
            LastRead::Ledger { probe, from, replicas } => {
                (probe, self.read_ledger(probe, *from, replicas.as_deref()).await.map(|(begin, end, reading)| (begin, Some(end), reading)))
            }
        };
        let end = self.clock.now();
        let (begin, end, reading) = match read {
            Ok((begin, there, reading)) => (begin, there.unwrap_or(end), reading),
            Err(detail) => (begin, end, Reading::Failed { detail }),
        };
        Seen::Reading { of: probe.as_str().into(), begin, end, reading: Box::new(reading) }
    }

    async fn read_ledger(&self, probe: &str, from: Vantage, replicas: Option<&str>) -> Result<(Stamp, Stamp, Reading), String> {
        let copies = match (replicas, &self.cx) {
            (Some(target), Some(cx)) => super::resolve::copies(cx, target).await?,
            _ => Vec::new(),
        };
        let none_there = replicas.is_some() && copies.is_empty();
        let read = match (from, &self.observer) {
            (Vantage::Cluster, Some(observer)) => observer.read_back(probe, copies).await,
            (Vantage::Cluster, None) => Err("there is no observer".to_owned()),
            (Vantage::Runner, _) => match timeout(READ_LIMIT, self.engine.read_back(probe, copies)).await {
                Ok(read) => read,
                Err(_) => Err(format!("not read back within {}", Dur(READ_LIMIT))),
            },
        };
        match read {
            // Replicas that were to be read and are not there are not "all replicas agree".
            Ok((begin, end, Reading::Ledger(mut reading))) if none_there => {
                let detail = "no pod of the replicas' target has an address".to_owned();
                reading.copies.push(crate::journal::LedgerCopy { name: "replicas".to_owned(), caught_up: false, missing: 0, detail });
                Ok((begin, end, Reading::Ledger(reading)))
            }
            read => read,
        }
    }

    /// Stops sampling, removes what was made, sends the last runs, and joins every task.
    ///
    /// # Errors
    /// When something did not end in time, failed or is left behind; everything that could be sent was sent all the same.
    pub async fn stop(self) -> Result<(), ProbeError> {
        self.end(true).await
    }

    /// As [`Self::stop`], but lets go of the observer without a word: what a runner does that must not change anything any
    /// more. The observer may be another runner's by now; if it is nobody's it ends by itself.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub async fn leave(self) -> Result<(), ProbeError> {
        self.end(false).await
    }

    async fn end(self, remove: bool) -> Result<(), ProbeError> {
        let Self { engine, observer, orders, mut collector, .. } = self;
        // Both at once: each has samples under way to wait for. When both ends of the channel are dropped the collector
        // knows that no more comes.
        let watched = async {
            match observer {
                Some(observer) if remove => observer.stop().await,
                Some(observer) => {
                    observer.leave().await;
                    Vec::new()
                }
                None => Vec::new(),
            }
        };
        let (engine, mut trouble) = futures::join!(engine.stop(), watched);
        trouble.extend(engine.err());
        drop(orders);
        match timeout(COLLECT_LIMIT, &mut collector).await {
            Ok(joined) => trouble.extend(joined.err().map(|error| format!("the collector failed: {error}"))),
            Err(_) => {
                collector.abort();
                trouble.push(format!("the collector did not end within {}", Dur(COLLECT_LIMIT)));
            }
        }
        if trouble.is_empty() { Ok(()) } else { Err(ProbeError::Stop(trouble.join("; "))) }
    }
}

fn nobody() -> ProbeError {
    ProbeError::Stop("nobody takes the events".to_owned())
}

fn gone() -> ProbeError {
    ProbeError::Stop("the collector is gone".to_owned())
}
