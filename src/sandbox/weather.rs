//! Trouble on purpose: what a busy or failing API server does to its clients, drawn from the seed. Off unless asked for.
//!
//! Each request's trouble depends on the seed, the weather and the request's number alone, so that a run can be repeated.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// How often a request meets trouble, in parts of a thousand. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    /// A request is refused and not carried out: 429, 500, 503, or 409 for an update or patch.
    pub refused: u16,
    /// A write is carried out, and the connection is closed in place of an answer.
    pub lost: u16,
    /// An answer comes late.
    pub slow: u16,
    /// How late at most.
    pub slowest: Duration,
    /// A watch ends early, without a word.
    pub watch_cut: u16,
    /// A watch that is opened from a version is told that the version is too old (410), though it is not.
    pub watch_gap: u16,
    /// Whose requests meet it; empty: everybody's. Controllers of the sandbox should see fair weather.
    pub users: Vec<String>,
}

/// What happens to one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Answer with this code instead of doing it.
    pub(super) refused: Option<u16>,
    /// Do it, and close the connection.
    pub(super) lost: bool,
    /// Answer so much later.
    pub(super) late: Option<Duration>,
    /// End the watch after this long.
    pub(super) cut: Option<Duration>,
    /// Say that the watch's version is too old.
    pub(super) gap: bool,
}

impl Weather {
    /// Whether it never rains.
    fn is_fair(&self) -> bool {
        self.refused == 0 && self.lost == 0 && self.slow == 0 && self.watch_cut == 0 && self.watch_gap == 0
    }

    /// What happens to the request of this number.
    pub(super) fn at(&self, seed: u64, number: u64, user: &str, verb: &str) -> Trouble {
        let mut trouble = Trouble::default();
        if self.is_fair() || !self.users.is_empty() && !self.users.iter().any(|u| u == user) {
            return trouble;
        }
        // Odd multiplier: neighbouring numbers get unlike seeds.
        let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // All are always drawn, so that turning one kind of trouble up does not move the others.
        let mut hit = |per_mille: u16| rng.random_range(0..1000_u16) < per_mille;
        let (refused, lost, slow, cut, gap) = (hit(self.refused), hit(self.lost), hit(self.slow), hit(self.watch_cut), hit(self.watch_gap));
        let (which, late, after) = (rng.random_range(0..4_usize), rng.random_range(1..=1000_u32), rng.random_range(0..10_000_u64));
        let writes = !matches!(verb, "get" | "list" | "watch");
        if refused {
            let conflict = if matches!(verb, "update" | "patch") { 409 } else { 500 };
            trouble.refused = Some([429, 500, 503, conflict][which]);
        }
        // What was not carried out cannot be lost.
        trouble.lost = lost && writes && !refused;
        trouble.late = slow.then(|| self.slowest * late / 1000);
        if verb == "watch" {
            trouble.cut = cut.then(|| Duration::from_millis(after));
            trouble.gap = gap;
        }
        trouble
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_follows_from_seed_and_number() {
        let storm = Weather { refused: 300, lost: 300, slow: 300, slowest: Duration::from_secs(3), ..Weather::default() };
        let run = |seed| (0..200).map(|n| storm.at(seed, n, "admin", "patch")).collect::<Vec<_>>();
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let refused = run(1).iter().filter(|t| t.refused.is_some()).count();
        assert!((30..90).contains(&refused), "{refused} of 200 at 300 in a thousand");
        assert!(run(1).iter().filter_map(|t| t.late).all(|late| late <= Duration::from_secs(3)));
    }

    #[test]
    fn fair_weather_for_others_and_no_write_is_lost_that_is_none() {
        let storm = Weather { lost: 1000, users: vec!["runner".to_owned()], ..Weather::default() };
        assert_eq!(storm.at(1, 1, "admin", "create"), Trouble::default());
        assert!(storm.at(1, 1, "runner", "create").lost);
        assert!(!storm.at(1, 1, "runner", "list").lost);
        assert_eq!(Weather::default().at(1, 1, "admin", "create"), Trouble::default());
    }
}
