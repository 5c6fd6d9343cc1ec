//! A probe's samples after a fault: when it was last bad, when it was good again, and whether it stayed so.

use super::{
    Bracket,
    facts::{Facts, Origin},
};
use crate::{
    clock::Stamp,
    journal::{ProbeRun, RunEnd},
    scenario::types::ProbeState,
};

/// What a probe showed after an origin.
#[derive(Debug)]
pub(super) enum After<'a> {
    /// No sample that says good or bad.
    Nothing,
    /// No bad sample. An outage can have been no longer than this (microseconds; none: unknown) and hidden between two
    /// good ones.
    NeverBad {
        /// The largest distance from a good sample's send to the next good one's completion.
        widest: Option<i64>,
        /// How long it was seen good after the origin, without a hole, at the least.
        good_for: i64,
        /// It was bad only after the next fault had come, or the steps had ended, while this one was still in place: nobody knows whose outage that is.
        whose: bool,
        /// For how long before the end of the steps nobody is known to have watched it: longer than a hole, for an outage that began then
        /// may have lasted for ever. Microseconds, at the least.
        unseen: Option<i64>,
    },
    /// It was bad.
    Down(Down<'a>),
}

/// An outage as its probe saw it.
#[derive(Debug)]
pub(super) struct Down<'a> {
    /// The run with the last good sample before it, if there was one.
    pub(super) last_good: Option<&'a ProbeRun>,
    /// The run with the first bad sample.
    pub(super) first_bad: &'a ProbeRun,
    /// The run with the last bad sample before recovery.
    pub(super) last_bad: &'a ProbeRun,
    /// The run after which it may have recovered unseen, if there was a time that a recovery could have lasted in and that nobody watched, or
    /// that it was seen good in for less; else the last bad one.
    pub(super) bad_until: &'a ProbeRun,
    /// The first sample of the good phase after it.
    pub(super) back: Option<&'a ProbeRun>,
    /// How long that phase was seen to last.
    pub(super) good_for: i64,
    /// Whether that is as long as it must be.
    pub(super) stable: bool,
}

impl<'a> Down<'a> {
    /// The instant of recovery on the time line, not before `bad` ended and not after `good` was complete.
    pub(super) fn recovered(&self, facts: &Facts<'_>) -> Option<Bracket> {
        let (latest, more) = self.latest()?;
        Some(facts.clocks.at(&self.bad_until.last_send).to(facts.clocks.at(latest).plus(more)))
    }

    /// The latest instant of recovery: a stamp and microseconds to add to it. None when it did not recover.
    ///
    /// That is when the first good sample was complete. Only an outage so short that this sample was sent before any bad one
    /// was complete may have begun after the good sample was answered, and so have ended later: by the first good sample
    /// that was sent after the last bad one was complete.
    pub(super) fn latest(&self) -> Option<(&'a Stamp, i64)> {
        let back = self.back.filter(|_| self.stable)?;
        let bad_over = &self.last_bad.last_complete;
        let one_clock = [&back.first_send, bad_over, &self.first_bad.first_complete].iter().all(|s| s.clock == back.first_send.clock);
        if !one_clock || back.first_send.mono_us >= self.first_bad.first_complete.mono_us {
            return Some((&back.first_complete, 0));
        }
        let widest = i64::try_from(back.widest_us).unwrap_or(i64::MAX);
        if back.last_send.mono_us < bad_over.mono_us {
            return None;
        }
        let good_then = bad_over.mono_us.saturating_add(widest);
        Some(if good_then > back.first_complete.mono_us { (bad_over, widest) } else { (&back.first_complete, 0) })
    }

    /// The earliest instant at which it can have begun: a stamp and microseconds to take from it. None when no good sample
    /// came before.
    ///
    /// That is when the last good sample was sent; if it was answered only after the first bad one, it may itself have been
    /// held up by the outage, and the sample before it counts.
    pub(super) fn earliest(&self) -> Option<(&'a Stamp, i64)> {
        let good = self.last_good?;
        let first_bad = &self.first_bad.first_complete;
        if good.last_complete.clock != first_bad.clock || good.last_complete.mono_us <= first_bad.mono_us {
            return Some((&good.last_send, 0));
        }
        (good.count > 1).then(|| (&good.last_send, i64::try_from(good.widest_us).unwrap_or(i64::MAX)))
    }
}

/// A probe's runs and how dense they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series<'f, 'a> {
    facts: &'f Facts<'a>,
    /// Ordered by sending.
    pub(super) runs: &'f [&'a ProbeRun],
    /// Two good samples further apart than this leave a hole, in microseconds.
    pub(super) hole: i64,
}

impl<'f, 'a> Series<'f, 'a> {
    pub(super) fn of(facts: &'f Facts<'a>, probe: &str) -> Self {
        let runs = facts.runs.get(probe).map_or(&[] as &[_], Vec::as_slice);
        let hole = facts.plan.probes.get(probe).map_or(0, |p| {
            let (every, timeout) = (super::micros(p.every), super::micros(p.timeout));
            // A ledger writes one after the other: a write that waits for its time limit holds up the next.
            if p.spec.ledger.is_some() { every.max(timeout).saturating_mul(2) } else { every.saturating_mul(2) }
        });
        Self { facts, runs, hole }
    }

    /// Whether any sample says good or bad.
    pub(super) fn is_empty(&self) -> bool {
        !self.runs.iter().any(|r| r.state != ProbeState::Unknown)
    }

    /// The state last known for certain before an instant.
    pub(super) fn state_before(&self, at: &Stamp) -> Option<ProbeState> {
        let known = |r: &&&ProbeRun| r.state != ProbeState::Unknown && self.facts.clocks.surely_after(at, &r.first_complete);
        self.runs.iter().rfind(known).map(|r| r.state)
    }

    /// Whether nothing is missing between two runs.
    pub(super) fn adjacent(&self, earlier: &ProbeRun, later: &ProbeRun) -> bool {
        earlier.ended != RunEnd::Hole
            && earlier.last_send.clock == later.first_send.clock
            && later.first_send.mono_us.saturating_sub(earlier.last_send.mono_us) <= self.hole
    }

    /// What the probe showed after an origin. `stable_for`: how long it must be good to count as recovered, from the
    /// sending of the first good sample to the sending of the last. What the drill itself brings about later is not
    /// counted: an outage that only begins after the next fault or after the drill's own revert, and a recovery that only
    /// begins after that revert.
    pub(super) fn after(&self, origin: &Origin<'a>, stable_for: i64) -> After<'a> {
        let clocks = &self.facts.clocks;
        let taken_away = self.facts.taken_away(origin.fault);
        let next_fault = self.next_fault(origin);
        let beyond = |limit: Option<&Stamp>, run: &ProbeRun| limit.is_some_and(|l| clocks.surely_after(&run.first_send, l));
        let mut walk = Walk::default();
        for run in self.runs.iter().copied() {
            walk.unwatched |= walk.previous.is_some_and(|previous| !self.adjacent(previous, run));
            if run.state != ProbeState::Unknown {
                walk.previous = Some(run);
            }
            let before = !clocks.maybe_after(&run.last_complete, origin.start);
            match run.state {
                ProbeState::Unknown => {
                    walk.broken |= run.ended == RunEnd::Hole;
                    walk.trailing = Some(run).filter(|_| !before);
                }
                ProbeState::Good if before => walk.last_good = Some(run),
                ProbeState::Bad if before => {}
                ProbeState::Bad => {
                    let others = walk.first_bad.is_none() && beyond(next_fault, run);
                    // What only begins once the steps have ended is not what the fault did.
                    let late = walk.first_bad.is_none() && beyond(self.facts.steps_ended, run);
                    if beyond(taken_away, run) || others || late {
                        walk.whose = (others || late) && self.facts.may_hold_at(origin.fault, &run.first_send);
                        walk.beyond = true;
                        break;
                    }
                    walk.known = true;
                    walk.first_bad.get_or_insert(run);
                    // Seen good for too short a time, it may have been good for longer than it was seen.
                    if let Some(earlier) = walk.last_bad
                        && (walk.unwatched || walk.phase.is_some())
                        && clocks.between(&run.first_complete, &earlier.last_send).upper.is_none_or(|time| time >= stable_for)
                    {
                        walk.hidden.get_or_insert(earlier);
                    }
                    walk.unwatched = false;
                    (walk.last_bad, walk.phase, walk.broken) = (Some(run), None, false);
                }
                ProbeState::Good => {
                    let goes_on = walk.phase.is_some_and(|(_, last)| !walk.broken && self.adjacent(last, run));
                    if !goes_on && walk.phase.is_none() && walk.first_bad.is_some() && beyond(taken_away, run) {
                        break;
                    }
                    if walk.first_bad.is_none() {
                        walk.gap(self.gap(walk.last_good, run, origin));
                        walk.last_good = Some(run);
                    }
                    // Only a sample sent after the fault took effect can show that it did no harm.
                    walk.known |= clocks.surely_after(&run.last_send, origin.effective);
                    walk.phase = Some((walk.phase.filter(|_| goes_on).map_or(run, |(first, _)| first), run));
                    (walk.broken, walk.trailing) = (run.ended == RunEnd::Hole, None);
                    if walk.first_bad.is_some() && self.good_for(&walk, origin) >= stable_for {
                        break;
                    }
                }
            }
        }
        self.conclude(walk, origin, stable_for)
    }

    fn conclude(&self, mut walk: Walk<'a>, origin: &Origin<'a>, stable_for: i64) -> After<'a> {
        let good_for = self.good_for(&walk, origin);
        match (walk.first_bad, walk.last_bad) {
            (Some(first_bad), Some(last_bad)) => After::Down(Down {
                last_good: walk.last_good,
                first_bad,
                last_bad,
                bad_until: walk.hidden.unwrap_or(last_bad),
                back: walk.phase.map(|(first, _)| first),
                good_for,
                stable: walk.phase.is_some() && good_for >= stable_for,
            }),
            _ if !walk.known => After::Nothing,
            _ => {
                // Samples that say nothing at the end may hide an outage as well.
                if let (Some(last), Some(unknown)) = (walk.last_good, walk.trailing) {
                    walk.gap(self.facts.clocks.between(&unknown.last_complete, &last.last_send).upper);
                }
                let unseen = walk.last_good.filter(|_| !walk.beyond).and_then(|last| self.unseen(last));
                After::NeverBad { widest: if walk.endless { None } else { Some(walk.widest) }, good_for, whose: walk.whose, unseen }
            }
        }
    }

    /// How long before the end of the steps the last good sample was, if that is a hole, or if the next one was not good and is lost. The samples
    /// of a runner that was lost are in the journal up to its last word on that probe.
    fn unseen(&self, last: &ProbeRun) -> Option<i64> {
        let since = self.facts.clocks.between(self.facts.steps_ended?, &last.last_send).lower?;
        let lost = last.ended == RunEnd::Change && self.runs.last().is_some_and(|newest| std::ptr::eq(*newest, last));
        (since > self.hole || lost).then_some(since.max(0))
    }

    /// How long the current good phase has lasted. Before any outage only what comes after the fault took effect counts; and before one that
    /// came after another fault or after the steps, only what comes after this one was gone, for what a fault leaves behind may show late.
    fn good_for(&self, walk: &Walk<'a>, origin: &Origin<'a>) -> i64 {
        let Some((first, last)) = walk.phase else { return 0 };
        let whole = self.facts.clocks.between(&last.last_send, &first.first_send).lower.unwrap_or(0);
        let seen = if walk.first_bad.is_some() {
            whole
        } else {
            let gone = self.facts.gone_within_steps(origin.fault).filter(|_| walk.beyond);
            whole.min(self.facts.clocks.between(&last.last_send, gone.unwrap_or(origin.effective)).lower.unwrap_or(0))
        };
        seen.max(0)
    }

    /// The longest outage that began after the origin and can hide in a good run or before it.
    fn gap(&self, previous: Option<&ProbeRun>, run: &ProbeRun, origin: &Origin<'a>) -> Option<i64> {
        let clocks = &self.facts.clocks;
        let since_origin = clocks.between(&run.first_complete, origin.start).upper;
        let since_previous = previous.and_then(|p| clocks.between(&run.first_complete, &p.last_send).upper);
        let before = match (since_origin, since_previous) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(before.max(i64::try_from(run.widest_us).unwrap_or(i64::MAX)))
    }

    /// When the first fault after the origin's was injected.
    fn next_fault(&self, origin: &Origin<'a>) -> Option<&'a Stamp> {
        let starts = self.facts.faults.iter().filter(|(id, _)| Some(**id) != origin.fault).filter_map(|(_, f)| Some(f.injected?.0));
        starts
            .filter(|s| self.facts.clocks.between(s, origin.effective).lower.is_some_and(|d| d > 0))
            .min_by_key(|s| self.facts.clocks.at(s).lower)
    }
}

/// Where a walk through the runs has come to.
#[derive(Debug, Default)]
struct Walk<'a> {
    last_good: Option<&'a ProbeRun>,
    first_bad: Option<&'a ProbeRun>,
    last_bad: Option<&'a ProbeRun>,
    /// First and last run of the good phase it is in.
    phase: Option<(&'a ProbeRun, &'a ProbeRun)>,
    /// A hole since the last good run.
    broken: bool,
    /// The run before, of those that say good or bad.
    previous: Option<&'a ProbeRun>,
    /// Something is missing since the last bad run.
    unwatched: bool,
    /// The last bad run before a time that was long enough for a recovery, and not watched or seen good for less.
    hidden: Option<&'a ProbeRun>,
    /// The unknown run after the last good one.
    trailing: Option<&'a ProbeRun>,
    /// A bad sample, or a good one that was sent after the fault took effect for certain.
    known: bool,
    /// It ended at an outage that may be this fault's or a later one's.
    whose: bool,
    /// It ended at an outage that is not this fault's: it was watched until then.
    beyond: bool,
    widest: i64,
    endless: bool,
}

impl Walk<'_> {
    fn gap(&mut self, gap: Option<i64>) {
        match gap {
            Some(us) => self.widest = self.widest.max(us),
            None => self.endless = true,
        }
    }
}
