//! Samples into runs. Pure.
//!
//! Samples come in order of completion and are put in order of sending here, in a buffer that the sampler keeps
//! bounded: it never has more than [`Cadence::window`] samples sent behind an unfinished one.

use std::collections::{BTreeMap, VecDeque};

use super::sample::{Cadence, Sample};
use crate::{
    clock::{ClockId, Stamp},
    journal::{ProbeRun, RunEnd},
    scenario::types::ProbeState,
};

/// What a probe says now.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeLive {
    /// Its state; none before the first sample.
    pub state: Option<ProbeState>,
    /// When the first sample of the unbroken stretch in this state was sent. A stretch goes on across cuts, not across
    /// holes. Compare it with `last_complete` only: both are by the same clock.
    pub since: Stamp,
    /// When the last sample was complete.
    pub last_complete: Stamp,
    /// Samples in the stretch.
    pub count: u64,
    /// What the last sample said.
    pub detail: String,
}

/// Makes the runs of one probe.
#[derive(Debug)]
pub struct RunBuilder {
    probe: String,
    hole_us: i64,
    /// Whether a sample is only sent after the one before was complete (a ledger), so that time within a sample is no hole.
    sequential: bool,
    window: usize,
    next: u64,
    waiting: BTreeMap<u64, Option<Sample>>,
    cuts: VecDeque<(ClockId, i64)>,
    run: Option<ProbeRun>,
    live: Option<ProbeLive>,
}

impl RunBuilder {
    /// A builder for a probe of this cadence.
    pub fn new(probe: &str, cadence: Cadence, sequential: bool) -> Self {
        let every_us = i64::try_from(cadence.every.as_micros()).unwrap_or(i64::MAX);
        Self {
            probe: probe.to_owned(),
            hole_us: every_us.saturating_mul(2),
            sequential,
            window: cadence.window(),
            next: 0,
            waiting: BTreeMap::new(),
            cuts: VecDeque::new(),
            run: None,
            live: None,
        }
    }

    /// What the probe says now; none before the first sample.
    pub fn live(&self) -> Option<&ProbeLive> {
        self.live.as_ref()
    }

    /// Takes a sample in and gives the runs that it ended.
    pub fn push(&mut self, sample: Sample) -> Vec<ProbeRun> {
        if sample.n >= self.next {
            self.waiting.insert(sample.n, Some(sample));
        }
        self.drain()
    }

    /// Samples of these numbers (inclusive) will never come.
    pub fn lost(&mut self, from: u64, to: u64) -> Vec<ProbeRun> {
        // All that is lost at once is adjacent; two ends are enough to get over it and keep the buffer bounded.
        let from = from.max(self.next);
        if to >= from && from == self.next {
            self.next = to + 1;
        } else if to >= from {
            for n in from..=to.min(from.saturating_add(self.window as u64)) {
                self.waiting.entry(n).or_insert(None);
            }
        }
        self.drain()
    }

    /// The current run ends at this instant: samples sent at or after it belong to the next one. The instant is given
    /// on the clock of the probe's samples. The run is given out when the first sample behind the cut is in.
    pub fn cut(&mut self, at: &Stamp) {
        // Cuts are made at faults; a thousand without a sample between them are as good as the last one.
        if self.cuts.len() >= 1000 {
            self.cuts.pop_front();
        }
        self.cuts.push_back((at.clock.clone(), at.mono_us));
    }

    /// No more samples come: the last runs.
    pub fn finish(&mut self) -> Vec<ProbeRun> {
        let mut ended = Vec::new();
        while let Some((&n, _)) = self.waiting.first_key_value() {
            self.next = n;
            ended.extend(self.drain());
        }
        if let Some(run) = self.run.take() {
            // A cut behind the last sample is the end all the same.
            ended.push(ProbeRun { ended: RunEnd::End, ..run });
        }
        ended
    }

    fn drain(&mut self) -> Vec<ProbeRun> {
        let mut ended = Vec::new();
        loop {
            if let Some(slot) = self.waiting.remove(&self.next) {
                self.next += 1;
                if let Some(sample) = slot {
                    self.integrate(&sample, &mut ended);
                }
            } else if self.waiting.len() > self.window {
                // Only a sampler that broke its promise, or lost samples, gets here: go on with what there is.
                self.next = self.waiting.first_key_value().map_or(self.next, |(&n, _)| n);
            } else {
                return ended;
            }
        }
    }

    fn integrate(&mut self, sample: &Sample, ended: &mut Vec<ProbeRun>) {
        let cut = self.take_cuts(&sample.send);
        let hole = self.run.as_ref().is_some_and(|run| self.is_hole(run, sample)) || self.live_is_elsewhere(sample);
        let changed = self.run.as_ref().is_some_and(|run| run.state != sample.state);
        let end = if hole {
            Some(RunEnd::Hole)
        } else if changed {
            Some(RunEnd::Change)
        } else if cut {
            Some(RunEnd::Cut)
        } else {
            None
        };
        if let (Some(end), Some(run)) = (end, self.run.take_if(|_| end.is_some())) {
            ended.push(ProbeRun { ended: end, ..run });
        }
        self.extend_run(sample);
        self.extend_live(sample, hole);
    }

    /// Whether a cut lies at or before this instant; forgets those.
    fn take_cuts(&mut self, send: &Stamp) -> bool {
        let mut found = false;
        while self.cuts.front().is_some_and(|(clock, at)| *clock != send.clock || *at <= send.mono_us) {
            self.cuts.pop_front();
            found = true;
        }
        found
    }

    fn live_is_elsewhere(&self, sample: &Sample) -> bool {
        self.live.as_ref().is_some_and(|live| live.since.clock != sample.send.clock)
    }

    fn is_hole(&self, run: &ProbeRun, sample: &Sample) -> bool {
        let from = if self.sequential { run.last_complete.mono_us } else { run.last_send.mono_us };
        sample.send.mono_us - from > self.hole_us
    }

    fn extend_run(&mut self, sample: &Sample) {
        let took = us(&sample.send, &sample.complete);
        match &mut self.run {
            Some(run) => {
                run.widest_us = run.widest_us.max(us(&run.last_send, &sample.complete));
                run.last_send = sample.send.clone();
                run.last_complete = sample.complete.clone();
                run.count += 1;
                run.slowest_us = run.slowest_us.max(took);
            }
            None => {
                self.run = Some(ProbeRun {
                    probe: self.probe.clone(),
                    state: sample.state,
                    first_send: sample.send.clone(),
                    first_complete: sample.complete.clone(),
                    last_send: sample.send.clone(),
                    last_complete: sample.complete.clone(),
                    count: 1,
                    slowest_us: took,
                    widest_us: 0,
                    detail: sample.detail.clone(),
                    ended: RunEnd::End,
                });
            }
        }
    }

    fn extend_live(&mut self, sample: &Sample, hole: bool) {
        let goes_on = self.live.as_mut().filter(|live| !hole && live.state == Some(sample.state));
        match goes_on {
            Some(live) => {
                live.last_complete = sample.complete.clone();
                live.count += 1;
                live.detail.clone_from(&sample.detail);
            }
            None => {
                self.live = Some(ProbeLive {
                    state: Some(sample.state),
                    since: sample.send.clone(),
                    last_complete: sample.complete.clone(),
                    count: 1,
                    detail: sample.detail.clone(),
                });
            }
        }
    }
}

/// From one stamp to a later one of the same clock, microseconds.
fn us(from: &Stamp, to: &Stamp) -> u64 {
    u64::try_from(to.mono_us - from.mono_us).unwrap_or(0)
}

#[cfg(test)]
mod tests;
