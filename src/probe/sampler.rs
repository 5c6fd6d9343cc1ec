//! The sampler: samples at a fixed rate, each with a time limit.
//!
//! A sample starts at every tick of a fixed grid, whether the one before has ended or not: "wait, then sample again"
//! would sample least when there is most to see. Samples may overlap, up to those that fit into one time limit and one
//! more. A tick that could not be kept (the process slept) is left out, and shows as a hole.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::sample::{Cadence, Outcome, Sample, Seen};
use crate::{
    clock::Clock,
    scenario::types::{Dur, ProbeState},
};

/// Makes the future of one sample. It must not limit time by itself.
pub type Take = Box<dyn FnMut() -> BoxFuture<'static, Outcome> + Send>;

/// Complete samples that wait for a slow reader; beyond that they are lost, and said to be.
const BACKLOG: usize = 10_000;

/// A sampler of one probe.
pub struct Sampler {
    /// The probe.
    pub probe: Arc<str>,
    /// How often and how long.
    pub cadence: Cadence,
    /// The clock of its stamps.
    pub clock: Clock,
    /// Takes one sample.
    pub take: Take,
    /// What silence until the time limit means: bad for what a client would wait for too, unknown when it was only a tool
    /// of observation (Prometheus, the API server) that was asked.
    pub silence: ProbeState,
    /// An occasion for an extra sample between two ticks (a watch has seen something).
    pub nudges: Option<mpsc::Receiver<()>>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("probe", &self.probe).field("cadence", &self.cadence).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Samples until stopped, then waits for the samples under way (each has its limit) and hands all over. Ends early
    /// when nobody listens any more.
    pub async fn run(mut self, out: mpsc::Sender<Seen>, stop: CancellationToken) {
        let (in_flight, window) = (self.cadence.in_flight(), self.cadence.window() as u64);
        let anchor = Instant::now();
        let mut tick = anchor;
        let mut next = 0u64;
        let mut under_way = FuturesUnordered::new();
        // Numbers under way, for the oldest one.
        let mut numbers = std::collections::BTreeSet::new();
        let mut backlog = Backlog { probe: self.probe.clone(), waiting: VecDeque::new() };
        loop {
            let stopped = stop.is_cancelled();
            if stopped && under_way.is_empty() && backlog.waiting.is_empty() {
                return;
            }
            let room = under_way.len() < in_flight && numbers.first().is_none_or(|oldest| next - oldest < window);
            let go = tokio::select! {
                biased;
                Some(sample) = under_way.next() => {
                    let sample: Sample = sample;
                    numbers.remove(&sample.n);
                    backlog.add(sample);
                    false
                }
                permit = out.reserve(), if !backlog.waiting.is_empty() => {
                    let Ok(permit) = permit else { return };
                    if let Some(seen) = backlog.waiting.pop_front() {
                        permit.send(seen);
                    }
                    false
                }
                () = stop.cancelled(), if !stopped => false,
                () = sleep_until(tick), if !stopped => {
                    tick = after(anchor, self.cadence.every, Instant::now());
                    room
                }
                Some(()) = nudge(&mut self.nudges), if !stopped && room => true,
            };
            if go {
                numbers.insert(next);
                under_way.push(one(next, self.cadence, self.silence, self.clock.clone(), (self.take)()));
                next += 1;
            }
        }
    }
}

/// The first tick of the grid after `now`: the ticks between were missed.
fn after(anchor: Instant, every: Duration, now: Instant) -> Instant {
    let every_ns = every.as_nanos().max(1);
    let passed = now.saturating_duration_since(anchor).as_nanos() / every_ns + 1;
    let ns = u64::try_from(passed.saturating_mul(every_ns)).unwrap_or(u64::MAX);
    anchor + Duration::from_nanos(ns)
}

async fn nudge(nudges: &mut Option<mpsc::Receiver<()>>) -> Option<()> {
    match nudges {
        Some(receiver) => receiver.recv().await,
        None => None,
    }
}

async fn one(n: u64, cadence: Cadence, silence: ProbeState, clock: Clock, take: BoxFuture<'static, Outcome>) -> Sample {
    let send = clock.now();
    let outcome = timeout(cadence.timeout, take).await;
    let complete = clock.now();
    let limit_us = i64::try_from(cadence.timeout.as_micros()).unwrap_or(i64::MAX);
    let late_us = (complete.mono_us - send.mono_us).saturating_sub(limit_us);
    let outcome = match outcome {
        Ok(outcome) => outcome,
        // The limit is only proof of a slow answer if this process was there to see one. A process that was stopped or
        // asleep finds the limit over and the answer unread.
        Err(_) if late_us > late_limit_us(cadence) => {
            Outcome::unknown(format!("the observer did not run for {} ms", (late_us + limit_us) / 1000))
        }
        Err(_) => Outcome { state: silence, detail: format!("no answer within {}", Dur(cadence.timeout)) },
    };
    Sample { n, send, complete, state: outcome.state, detail: short(outcome.detail) }
}

/// How late a time limit may be noticed and still count as the other side's silence.
fn late_limit_us(cadence: Cadence) -> i64 {
    i64::try_from(cadence.timeout.as_micros() / 4).unwrap_or(i64::MAX).max(50_000)
}

/// Details go into the journal: long ones are cut.
pub(super) fn short(detail: String) -> String {
    const LONGEST: usize = 300;
    match detail.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail,
    }
}

struct Backlog {
    probe: Arc<str>,
    waiting: VecDeque<Seen>,
}

impl Backlog {
    fn add(&mut self, sample: Sample) {
        if self.waiting.len() < BACKLOG {
            self.waiting.push_back(Seen::Sample { probe: self.probe.clone(), sample });
            return;
        }
        // Adjacent losses are one.
        let n = sample.n;
        match self.waiting.back_mut() {
            Some(Seen::Lost { to, .. }) if *to + 1 == n => *to = n,
            _ => self.waiting.push_back(Seen::Lost { probe: self.probe.clone(), from: n, to: n }),
        }
    }
}

#[cfg(test)]
mod tests;
