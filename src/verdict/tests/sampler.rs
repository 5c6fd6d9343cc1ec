//! A simulated service with known outages, and a sampler with every kind of imprecision, on its own clock.

use proptest::prelude::*;

use super::kit::{Tape, at, on};
use crate::{
    clock::{ClockId, Stamp},
    journal::*,
    scenario::types::*,
};

/// How the service treats a request while it is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Down {
    /// Answers at once that it cannot.
    Refuses,
    /// Answers nothing until it is up again.
    Hangs,
}

/// What there is to measure, and how it is measured. All times in microseconds of true time, which is the runner's clock.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) how: Down,
    /// The fault's first change, and when the proof that it bit was complete.
    pub(super) fault: (i64, i64),
    /// From when to when it is really down.
    pub(super) outage: (i64, i64),
    pub(super) every: i64,
    pub(super) timeout: i64,
    /// The longest time until a request reaches the service, and again until its answer is back.
    pub(super) latency: i64,
    /// The longest delay of a sample's start.
    pub(super) jitter: i64,
    /// One of so many samples fails on the observer's side; 0 for none.
    pub(super) unknown_one_in: u64,
    /// The sampler sleeps from, for.
    pub(super) hole: (i64, i64),
    /// Observer's clock minus the runner's at time 0.
    pub(super) offset: i64,
    /// How fast the observer's clock goes wrong.
    pub(super) drift_ppm: i64,
    /// The largest error of a measured offset.
    pub(super) link_error: i64,
    pub(super) end: i64,
    pub(super) noise: u64,
}

/// Deterministic noise from 0 to `max`, by a counter.
fn noise(seed: u64, n: u64, max: i64) -> i64 {
    i64::try_from(crate::random::mix(seed, n) % u64::try_from(max + 1).unwrap()).unwrap()
}

/// One sample.
#[derive(Debug, Clone, Copy)]
struct Sample {
    send: i64,
    complete: i64,
    state: ProbeState,
}

impl World {
    fn is_down(&self, at: i64) -> bool {
        self.outage.0 <= at && at < self.outage.1
    }

    fn samples(&self) -> Vec<Sample> {
        let ticks = (0..).map(|k| k * self.every).take_while(|t| *t < self.end);
        let mut out = Vec::new();
        for (tick, n) in ticks.zip(0u64..) {
            let send = tick + noise(self.noise, 4 * n, self.jitter);
            if (self.hole.0..self.hole.0 + self.hole.1).contains(&send) {
                continue;
            }
            let there = noise(self.noise, 4 * n + 1, self.latency / 2);
            let back = noise(self.noise, 4 * n + 2, self.latency / 2);
            let unknown =
                self.unknown_one_in > 0 && noise(self.noise, 4 * n + 3, 1 << 20).unsigned_abs().is_multiple_of(self.unknown_one_in);
            let arrived = send + there;
            let (state, complete) = match (self.is_down(arrived), self.how) {
                (false, _) => (ProbeState::Good, arrived + back),
                (true, Down::Refuses) => (ProbeState::Bad, arrived + back),
                // Answered when the service is back, if the sampler still waits.
                (true, Down::Hangs) if self.outage.1 + back <= send + self.timeout => (ProbeState::Good, self.outage.1 + back),
                (true, Down::Hangs) => (ProbeState::Bad, send + self.timeout),
            };
            let (state, complete) = if complete > send + self.timeout { (ProbeState::Bad, send + self.timeout) } else { (state, complete) };
            out.push(Sample { send, complete, state: if unknown { ProbeState::Unknown } else { state } });
        }
        out.sort_by_key(|s| s.send);
        out
    }

    /// True time as the observer's clock says it.
    fn seen(&self, us: i64) -> Stamp {
        let clock = us + self.offset + us * self.drift_ppm / 1_000_000;
        on("observer", clock)
    }

    fn runs(&self) -> Vec<ProbeRun> {
        let mut runs: Vec<(ProbeRun, Sample)> = Vec::new();
        for s in self.samples() {
            let cut = |last: &Sample| last.send < self.fault.0 && s.send >= self.fault.0;
            match runs.last_mut() {
                Some((run, last)) if run.state == s.state && s.send - last.send <= 2 * self.every && !cut(last) => {
                    run.last_send = self.seen(s.send);
                    run.last_complete = self.seen(s.complete);
                    run.count += 1;
                    run.slowest_us = run.slowest_us.max(u64::try_from(s.complete - s.send).unwrap());
                    let clock_span = self.seen(s.complete).mono_us - self.seen(last.send).mono_us;
                    run.widest_us = run.widest_us.max(u64::try_from(clock_span.max(0)).unwrap());
                    *last = s;
                }
                before => {
                    if let Some((run, last)) = before {
                        run.ended = if s.send - last.send > 2 * self.every {
                            RunEnd::Hole
                        } else if run.state == s.state {
                            RunEnd::Cut
                        } else {
                            RunEnd::Change
                        };
                    }
                    let run = ProbeRun {
                        probe: "web".into(),
                        state: s.state,
                        first_send: self.seen(s.send),
                        first_complete: self.seen(s.complete),
                        last_send: self.seen(s.send),
                        last_complete: self.seen(s.complete),
                        count: 1,
                        slowest_us: u64::try_from(s.complete - s.send).unwrap(),
                        widest_us: 0,
                        detail: String::new(),
                        ended: RunEnd::End,
                    };
                    runs.push((run, s));
                }
            }
        }
        runs.into_iter().map(|(run, _)| run).collect()
    }

    /// The journal of a drill in this world, without objectives.
    pub(super) fn drill(&self) -> Tape {
        let mut tape = Tape::new();
        let web = tape.plan.probes.get_mut("web").unwrap();
        web.every = Dur::from_micros(u64::try_from(self.every).unwrap());
        web.timeout = Dur::from_micros(u64::try_from(self.timeout).unwrap());
        for (tick, n) in (0..=self.end / 10_000_000).zip(1_000_000u64..) {
            let t = tick * 10_000_000;
            let true_offset = self.seen(t).mono_us - on("runner", t).mono_us;
            let error = noise(self.noise, n, 2 * self.link_error) - self.link_error;
            let link = Event::ClockLinked {
                clock: ClockId("observer".into()),
                offset_us: true_offset + error,
                error_us: self.link_error,
                wall_offset_us: true_offset,
            };
            tape.events.push((on("runner", t), link));
        }
        let (start, effective) = (on("runner", self.fault.0), on("runner", self.fault.1));
        tape.intent(0, "1", self.fault.0 / 1_000);
        tape.events.push((start.clone(), Event::Injected { fault: 0, start: start.clone(), end: start }));
        tape.events.push((effective.clone(), Event::Effective { fault: 0, at: effective, proof: String::new() }));
        for run in self.runs() {
            tape.events.push((at(self.end / 1_000), Event::Run(run)));
        }
        tape.steps_ended(self.end / 1_000);
        tape
    }
}

/// Any world: outages from a tenth of a sample to many, cadences from 20 ms to 2 s, clocks up to an hour apart.
pub(super) fn any_world() -> impl Strategy<Value = World> {
    let how = prop_oneof![Just(Down::Refuses), Just(Down::Hangs)];
    let every = prop_oneof![Just(20_000i64), Just(100_000), Just(500_000), Just(2_000_000)];
    let clock = (-3_600_000_000i64..3_600_000_000, -50i64..50, 0i64..5_000);
    let flaws = (prop_oneof![Just(0u64), Just(7), Just(40)], 0i64..60_000_000, prop_oneof![Just(0i64), 0i64..5_000_000]);
    let outage = (0i64..200_000, 0.0f64..1.0, 0.1f64..40.0);
    (how, every, 1.0f64..4.0, 0.0f64..0.9, 0.0f64..0.3, clock, flaws, outage, any::<u64>(), 5_000_000i64..7_000_000).prop_map(
        |(
            how,
            every,
            timeout,
            latency,
            jitter,
            (offset, drift_ppm, link_error),
            (unknown_one_in, hole_at, hole_for),
            outage,
            noise,
            fault,
        )| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data, far from the limits")]
            let part = |share: f64, of: i64| (share * of as f64) as i64;
            let (effect_takes, bites_at, lasts) = outage;
            let fault = (fault, fault + effect_takes);
            let down = fault.0 + part(bites_at, effect_takes);
            let outage = (down, down + part(lasts, every));
            World {
                how,
                fault,
                outage,
                every,
                timeout: part(timeout, every),
                latency: part(latency, every),
                jitter: part(jitter, every),
                unknown_one_in,
                hole: (hole_at, hole_for),
                offset,
                drift_ppm,
                link_error,
                end: outage.1 + 20 * every + 2_000_000,
                noise,
            }
        },
    )
}
