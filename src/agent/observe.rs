//! What runs in the observer's pod: the same samplers as in the runner's process.
//!
//! What they see is kept until the runner has it, so that a drill which cuts the observer off from the API server loses
//! nothing but time; how much is kept is bounded, and what is dropped beyond that shows as a hole.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::server::{EventsOut, Order};
use crate::{
    clock::{Clock, Stamp},
    journal::Reading,
    net::Dialer,
    probe::{Engine, LedgerCopy, ProbeSpec, Seen},
};

/// What samplers may be ahead of the batches.
const SEEN: usize = 1024;
/// The most in one batch.
const BATCH: usize = 200;
/// How long a batch may wait to be filled.
const BATCH_EVERY: Duration = Duration::from_millis(50);

/// What the runner asks of the observer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Ask {
    /// Sample these, and nothing else any more.
    Start {
        /// What to sample.
        probes: Vec<ProbeSpec>,
    },
    /// End a ledger's writing and read it back.
    ReadBack {
        /// The probe.
        probe: String,
        /// Replicas to read besides the primary.
        copies: Vec<LedgerCopy>,
    },
    /// Stop sampling, remove what was made, and hand everything over.
    Stop,
}

/// What the observer answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answered {
    /// Done; with what did not go well, if anything.
    Done {
        /// What.
        trouble: Option<String>,
    },
    /// A ledger was read back.
    Read {
        /// When that began.
        begin: Stamp,
        /// When it was complete.
        end: Stamp,
        /// What was found.
        reading: Box<Reading>,
    },
}

/// What the observer tells unasked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// What its samplers saw, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Seen>,
    /// Nothing follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
}

struct Observer {
    clock: Clock,
    dialer: Dialer,
    running: Option<Running>,
}

struct Running {
    engine: Engine,
    batches: tokio::task::JoinHandle<()>,
}

/// Runs the observer's service until it is told to end. `dialer` is its pod's.
///
/// # Errors
/// When something it made could not be removed.
pub async fn run(clock: Clock, dialer: Dialer, events: EventsOut, mut orders: mpsc::Receiver<Order>) -> Result<String, String> {
    let mut observer = Observer { clock, dialer, running: None };
    let mut readings = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = readings.join_next(), if !readings.is_empty() => {}
            order = orders.recv() => match order {
                Some(Order::Call { body, reply }) => observer.ask(body, reply, &events, &mut readings).await,
                Some(Order::End { .. }) | None => break,
            },
        }
    }
    readings.shutdown().await;
    match observer.stop(&events).await {
        None => Ok("nothing left".to_owned()),
        Some(trouble) => Err(trouble),
    }
}

impl Observer {
    async fn ask(&mut self, body: Value, reply: oneshot::Sender<Result<Value, String>>, events: &EventsOut, readings: &mut JoinSet<()>) {
        let answer = match serde_json::from_value(body) {
            Err(error) => Err(format!("not understood: {error}")),
            Ok(Ask::Start { probes }) => self.start(probes, events).map(|()| Answered::Done { trouble: None }),
            Ok(Ask::Stop) => Ok(Answered::Done { trouble: self.stop(events).await }),
            Ok(Ask::ReadBack { probe, copies }) => match self.running.as_ref().map(|running| running.engine.read_back(&probe, copies)) {
                None => Err("nothing is being sampled".to_owned()),
                Some(read) => {
                    // Takes up to minutes; pings and other ledgers must not wait for it.
                    readings.spawn(async move {
                        let answer = read.await.map(|(begin, end, reading)| Answered::Read { begin, end, reading: Box::new(reading) });
                        send(reply, answer);
                    });
                    return;
                }
            },
        };
        send(reply, answer);
    }

    fn start(&mut self, probes: Vec<ProbeSpec>, events: &EventsOut) -> Result<(), String> {
        if let Some(running) = self.running.take() {
            // Another runner took the drill over. What the ledgers wrote stays: it tells that there was one before.
            running.engine.abandon();
            running.batches.abort();
        }
        let (out, seen) = mpsc::channel(SEEN);
        let mut engine = Engine::new(self.clock.clone(), self.dialer.clone(), out);
        for probe in probes {
            engine.add(probe)?;
        }
        self.running = Some(Running { engine, batches: tokio::spawn(batch(seen, events.clone())) });
        Ok(())
    }

    async fn stop(&mut self, events: &EventsOut) -> Option<String> {
        let Running { engine, batches } = self.running.take()?;
        let stopped = engine.stop().await;
        let batched = batches.await.map_err(|error| format!("what was seen could not be handed over: {error}"));
        tell(events, &Told { seen: Vec::new(), end: true });
        stopped.and(batched).err()
    }
}

fn send(reply: oneshot::Sender<Result<Value, String>>, answer: Result<Answered, String>) {
    let answer = answer.and_then(|answer| serde_json::to_value(answer).map_err(|error| error.to_string()));
    // Who asked may have given up.
    let _ = reply.send(answer);
}

/// Bundles what is seen, so that fifty writes a second are not a hundred messages.
async fn batch(mut seen: mpsc::Receiver<Seen>, events: EventsOut) {
    let mut ticks = interval(BATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::new();
    loop {
        let ended = tokio::select! {
            biased;
            one = seen.recv() => match one {
                Some(one) => { waiting.push(one); if waiting.len() < BATCH { continue } false }
                None => true,
            },
            _ = ticks.tick() => false,
        };
        if !waiting.is_empty() {
            tell(&events, &Told { seen: std::mem::take(&mut waiting), end: false });
        }
        if ended {
            return;
        }
    }
}

fn tell(events: &EventsOut, told: &Told) {
    match serde_json::to_value(told) {
        Ok(value) => events.push(value),
        Err(error) => tracing::error!(%error, "what was seen cannot be sent"),
    }
}
