//! Waiting for what probes show.

use std::time::Duration;

use crate::{
    clock::Stamp,
    journal::{Event, StepOutcome},
    probe::{Board, ProbeLive},
    scenario::types::{Dur, ProbeState},
};

use super::{DrillError, executor::Drill};

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// What was waited for has come.
    Met,
    /// It has not come in time.
    TimedOut,
    /// The drill was aborted, or this runner fenced off.
    Aborted,
}

impl Waited {
    pub(super) fn outcome(self) -> StepOutcome {
        match self {
            Self::Met => StepOutcome::Succeeded,
            Self::TimedOut => StepOutcome::TimedOut,
            Self::Aborted => StepOutcome::Aborted,
        }
    }
}

/// For how long a condition on the board has held without a break, by the runner's own clock.
///
/// The board's stamps may be of another clock, so they are only compared with themselves: a `since` that has moved means that
/// there was a break between two looks.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    began_us: Option<i64>,
    since: Vec<Option<Stamp>>,
}

impl Stretch {
    /// Looks at the probes named; true once all have been in the wanted state for `hold`.
    pub(super) fn look(&mut self, board: &Board, wanted: &[(&str, ProbeState)], hold: Dur, now_us: i64) -> bool {
        let live: Vec<Option<&ProbeLive>> = wanted.iter().map(|(probe, _)| board.0.get(*probe)).collect();
        let all = live.iter().zip(wanted).all(|(live, (_, state))| live.is_some_and(|l| l.state == Some(*state)));
        let since: Vec<Option<Stamp>> = live.iter().map(|l| l.map(|l| l.since.clone())).collect();
        if !all {
            *self = Self::default();
            return false;
        }
        if self.began_us.is_none() || since != self.since {
            self.began_us = Some(now_us);
            self.since = since;
        }
        self.began_us.is_some_and(|began| now_us - began >= i64::try_from(hold.as_micros()).unwrap_or(i64::MAX))
    }
}

/// What stands against a condition, for people: `checkout is bad (503), backups has no sample yet`.
pub(super) fn against(board: &Board, wanted: &[(&str, ProbeState)]) -> String {
    let wrong: Vec<String> = wanted
        .iter()
        .filter_map(|(probe, state)| match board.0.get(*probe) {
            Some(live) if live.state == Some(*state) => None,
            Some(ProbeLive { state: Some(now), detail, .. }) => Some(format!("{probe} is {now} ({detail})")),
            _ => Some(format!("{probe} has no sample yet")),
        })
        .collect();
    if wrong.is_empty() { "it did not hold long enough".to_owned() } else { wrong.join(", ") }
}

/// For how long a probe has been seen good without a break; nothing if it is not good now.
fn seen_for(board: &Board, probe: &str) -> Option<Duration> {
    let live = board.0.get(probe).filter(|live| live.state == Some(ProbeState::Good) && live.since.clock == live.last_complete.clock)?;
    Some(Duration::from_micros(u64::try_from(live.last_complete.mono_us - live.since.mono_us).unwrap_or(0)))
}

/// How often a condition is looked at when the board does not change.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Drill {
    /// Waits until all probes named are in the wanted state for `hold`, at most `timeout`.
    pub(super) async fn wait_for(&self, wanted: &[(&str, ProbeState)], hold: Dur, timeout: Dur) -> Waited {
        let mut stretch = Stretch::default();
        let mut board = self.board();
        let deadline = tokio::time::Instant::now() + timeout.0;
        loop {
            if self.abort.is_cancelled() {
                return Waited::Aborted;
            }
            if stretch.look(&board.borrow_and_update(), wanted, hold, self.clock.now().mono_us) {
                return Waited::Met;
            }
            tokio::select! {
                biased;
                () = self.abort.cancelled() => return Waited::Aborted,
                () = tokio::time::sleep_until(deadline) => return Waited::TimedOut,
                // A closed board (sampling has ended) is left to the other branches.
                Ok(()) = board.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// A recovery that was not yet seen to last as long as its objective asks is watched on, as long as its probe stays good: a drill
    /// that ends a second too early proves nothing. Before the reverts at the end: what comes back by them is no recovery.
    pub(super) async fn watch_on(&self) -> Result<(), DrillError> {
        if self.state().faults.is_empty() {
            return Ok(());
        }
        for recovery in self.plan.objectives.iter().filter_map(|objective| objective.spec.recovery_time.as_ref()) {
            let Some(probe) = self.plan.probes.get(&recovery.probe) else { continue };
            // It counts from sending to sending.
            let wanted = recovery.stable_for.0 + probe.every.0 * 2;
            let board = self.board();
            let deadline = tokio::time::Instant::now() + wanted + probe.timeout.0;
            let mut told = false;
            while !self.abort.is_cancelled()
                && seen_for(&board.borrow(), &recovery.probe).is_some_and(|seen| seen < wanted)
                && tokio::time::Instant::now() < deadline
            {
                if !told {
                    told = true;
                    let text = format!("watching on: `{}` is good and must be seen to stay so for {}", recovery.probe, recovery.stable_for);
                    self.record(Event::Note { text }).await?;
                }
                tokio::select! {
                    biased;
                    () = self.abort.cancelled() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        }
        Ok(())
    }

    /// Lets time pass, unless the drill is aborted.
    pub(super) async fn pause(&self, time: Dur) -> Waited {
        tokio::select! {
            biased;
            () = self.abort.cancelled() => Waited::Aborted,
            () = tokio::time::sleep(time.0) => Waited::Met,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockId;

    fn live(state: ProbeState, since_us: i64) -> ProbeLive {
        let stamp = Stamp { clock: ClockId("observer".into()), mono_us: since_us, wall_us: since_us };
        ProbeLive { state: Some(state), since: stamp.clone(), last_complete: stamp, count: 1, detail: "503".to_owned() }
    }

    fn board(state: ProbeState, since_us: i64) -> Board {
        Board([("checkout".to_owned(), live(state, since_us))].into())
    }

    #[test]
    fn a_stretch_must_last_and_a_break_between_looks_starts_it_again() {
        let wanted = [("checkout", ProbeState::Good)];
        let hold = Dur::from_secs(10);
        let mut stretch = Stretch::default();
        assert!(!stretch.look(&board(ProbeState::Good, 5), &wanted, hold, 0));
        assert!(!stretch.look(&board(ProbeState::Good, 5), &wanted, hold, 9_999_999));
        assert!(stretch.look(&board(ProbeState::Good, 5), &wanted, hold, 10_000_000));
        // Good again, but since another instant: it was bad in between, unseen.
        assert!(!stretch.look(&board(ProbeState::Good, 6), &wanted, hold, 10_000_001));
        assert!(!stretch.look(&board(ProbeState::Bad, 7), &wanted, hold, 99_000_000));
        assert!(!stretch.look(&board(ProbeState::Good, 6), &wanted, hold, 100_000_000));
    }

    #[test]
    fn a_probe_without_a_sample_is_never_as_wanted() {
        let wanted = [("checkout", ProbeState::Good), ("orders", ProbeState::Good)];
        let mut stretch = Stretch::default();
        assert!(!stretch.look(&board(ProbeState::Good, 5), &wanted, Dur::ZERO, 0));
        assert_eq!(against(&board(ProbeState::Bad, 5), &wanted), "checkout is bad (503), orders has no sample yet");
    }
}
