//! Is the runner dead? Pure: a function of what was seen and when.

use std::{collections::BTreeMap, time::Duration};

use crate::scenario::types::Dur;

/// The shortest time that is added to a Lease's own.
const LEAST_MARGIN: Dur = Dur::from_secs(5);

/// What was seen of a drill at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Its record is gone.
    Over,
    /// Its record is there.
    Running {
        /// The versions of its Leases, by name.
        versions: BTreeMap<String, String>,
        /// How long they live, where they say so.
        lease: Option<Dur>,
    },
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The drill has ended.
    Over,
    /// The runner lives, or may.
    Lives,
    /// The runner is dead.
    Dead {
        /// For how long nothing has changed.
        silent: Dur,
        /// The versions that have not changed.
        versions: BTreeMap<String, String>,
    },
}

/// Looks at a drill's Leases until they have not changed for as long as they live and half of that again (at least 5 s).
///
/// Only time that was watched counts: after a gap (the API server was away, this machine was asleep) the runner, which was
/// perhaps away too, gets the whole time anew to renew.
#[derive(Debug, Clone)]
pub struct Vigil {
    lease: Dur,
    /// Since when nothing has changed, when it was last looked, and what was seen.
    stretch: Option<(i64, i64, BTreeMap<String, String>)>,
}

impl Vigil {
    /// Nothing seen yet. `lease` is how long Leases live until they say so themselves.
    pub fn new(lease: Dur) -> Self {
        Self { lease: lease.max(Dur::from_secs(2)), stretch: None }
    }

    /// How long the drill's Leases live.
    pub fn lease(&self) -> Dur {
        self.lease
    }

    /// For how long nothing may change before the runner is taken for dead.
    pub fn limit(&self) -> Dur {
        Dur(self.lease.0 + (self.lease.0 / 2).max(LEAST_MARGIN.0))
    }

    /// How often to look: a living runner renews four times in a Lease's life.
    pub fn every(&self) -> Duration {
        self.lease.0 / 8
    }

    /// The longest time between two looks that still belong together.
    fn longest_gap_us(&self) -> i64 {
        us(self.lease) / 2
    }

    /// Begins anew, after somebody has acted.
    pub fn forget(&mut self) {
        self.stretch = None;
    }

    /// Takes a look made at an instant of the watchdog's own monotonic clock, in microseconds; none when it failed.
    pub fn look(&mut self, at_us: i64, seen: Option<Seen>) -> Look {
        let (versions, lease) = match seen {
            // It cannot be seen: not a sign of life, and no time that was watched. The gap decides at the next look.
            None => return Look::Lives,
            Some(Seen::Over) => return Look::Over,
            Some(Seen::Running { versions, lease }) => (versions, lease),
        };
        if let Some(lease) = lease.filter(|lease| *lease >= Dur::from_secs(2)) {
            self.lease = lease;
        }
        let since = match &self.stretch {
            Some((since, last, before)) if *before == versions && at_us - last <= self.longest_gap_us() => *since,
            _ => at_us,
        };
        self.stretch = Some((since, at_us, versions.clone()));
        let silent_us = at_us - since;
        if silent_us >= us(self.limit()) {
            return Look::Dead { silent: Dur::from_micros(silent_us.unsigned_abs()), versions };
        }
        Look::Lives
    }
}

fn us(time: Dur) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn seen(versions: &[(&str, &str)]) -> Option<Seen> {
        let versions = versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
        Some(Seen::Running { versions, lease: Some(Dur::from_secs(10)) })
    }

    /// Looks every second from one instant to another at what a function says, and gives the first that is not `Lives`.
    fn watch(vigil: &mut Vigil, from: i64, to: i64, what: impl Fn(i64) -> Option<Seen>) -> Option<(i64, Look)> {
        (from..=to).find_map(|second| match vigil.look(second * S, what(second)) {
            Look::Lives => None,
            other => Some((second, other)),
        })
    }

    #[test]
    fn a_runner_that_renews_lives_however_long_the_drill_is() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        let renewed = |second: i64| seen(&[("ns-a", "1"), ("ns-b", &(second / 9).to_string())]);
        assert_eq!(watch(&mut vigil, 0, 5_000, renewed), None, "one Lease that changes is life enough");
    }

    #[test]
    fn a_silent_runner_is_dead_after_its_lease_and_half_of_it() {
        let mut vigil = Vigil::new(Dur::from_secs(99));
        let silent = |second: i64| seen(&[("ns-a", if second < 7 { "1" } else { "2" })]);
        let (second, look) = watch(&mut vigil, 0, 60, silent).unwrap();
        assert_eq!(second, 7 + 15);
        let versions = BTreeMap::from([("ns-a".to_owned(), "2".to_owned())]);
        assert_eq!(look, Look::Dead { silent: Dur::from_secs(15), versions });
    }

    #[test]
    fn the_margin_is_never_less_than_five_seconds() {
        let mut vigil = Vigil::new(Dur::from_secs(2));
        assert_eq!(vigil.limit(), Dur::from_secs(7));
        vigil.look(0, seen(&[]));
        assert_eq!(vigil.limit(), Dur::from_secs(15), "the Lease's own word counts");
    }

    #[test]
    fn leases_that_are_gone_while_the_record_stays_are_no_life() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        let gone =
            |second: i64| if second < 3 { seen(&[("ns-a", "1")]) } else { Some(Seen::Running { versions: BTreeMap::new(), lease: None }) };
        let (second, look) = watch(&mut vigil, 0, 60, gone).unwrap();
        assert_eq!((second, look), (3 + 15, Look::Dead { silent: Dur::from_secs(15), versions: BTreeMap::new() }));
    }

    #[test]
    fn a_record_that_is_gone_ends_it_at_once() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        assert_eq!(vigil.look(0, Some(Seen::Over)), Look::Over);
    }

    #[test]
    fn an_api_server_that_was_away_gives_the_runner_its_whole_time_anew() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        let away = |second: i64| if (5..40).contains(&second) { None } else { seen(&[("ns-a", "1")]) };
        let (second, _) = watch(&mut vigil, 0, 100, away).unwrap();
        assert_eq!(second, 40 + 15);
    }

    #[test]
    fn single_looks_that_fail_do_not_put_the_revert_off_for_ever() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        let flaky = |second: i64| if second % 3 == 0 { None } else { seen(&[("ns-a", "1")]) };
        let (second, _) = watch(&mut vigil, 1, 100, flaky).unwrap();
        assert!((16..=17).contains(&second), "{second}");
    }

    #[test]
    fn a_watchdog_that_was_asleep_itself_does_not_blame_the_runner() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        assert_eq!(vigil.look(0, seen(&[("ns-a", "1")])), Look::Lives);
        assert_eq!(vigil.look(3600 * S, seen(&[("ns-a", "1")])), Look::Lives);
    }

    #[test]
    fn after_somebody_has_acted_it_begins_anew() {
        let mut vigil = Vigil::new(Dur::from_secs(10));
        assert!(watch(&mut vigil, 0, 15, |_| seen(&[("ns-a", "1")])).is_some());
        vigil.forget();
        assert_eq!(watch(&mut vigil, 16, 30, |_| seen(&[("ns-a", "1")])), None);
    }
}
