//! Stamps of several clocks on one time line.

use std::collections::BTreeMap;

use super::Bracket;
use crate::{
    clock::{ClockId, Stamp},
    journal::{Event, Record},
};

/// How fast two clocks may drift apart where no link bounds it: 500 parts per million, the most that Linux slews a clock
/// (`adjtimex(2)`), so more than any sound oscillator does by itself.
const DRIFT_PPM: i64 = 500;

/// One measured offset.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// When, by the other clock.
    at: i64,
    /// The other clock minus the base clock: least and most.
    offset: (i64, i64),
}

/// All that a journal says about how its clocks stand to each other.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The clock of the journal's first record, on which the time line is.
    base: ClockId,
    /// Its reading at the first record: the time line's zero.
    zero: i64,
    links: BTreeMap<ClockId, Vec<Link>>,
}

impl Clocks {
    pub(crate) fn new(records: &[Record]) -> Self {
        let Some(first) = records.first() else {
            return Self { base: ClockId("none".into()), zero: 0, links: BTreeMap::new() };
        };
        let base = first.at.clock.clone();
        let mut links: BTreeMap<ClockId, Vec<Link>> = BTreeMap::new();
        for record in records {
            // A link to a runner on another machine says nothing about the base clock.
            if let (Event::ClockLinked { clock, offset_us, error_us, .. }, true) = (&record.event, record.at.clock == base) {
                let error = error_us.saturating_abs();
                links.entry(clock.clone()).or_default().push(Link {
                    at: record.at.mono_us.saturating_add(*offset_us),
                    offset: (offset_us.saturating_sub(error), offset_us.saturating_add(error)),
                });
            }
        }
        for list in links.values_mut() {
            list.sort_by_key(|l| l.at);
        }
        Self { base, zero: first.at.mono_us, links }
    }

    /// A stamp on the time line: microseconds since the first record, with the error of its clock. Unbounded when its clock
    /// was never linked.
    pub(crate) fn at(&self, stamp: &Stamp) -> Bracket {
        if stamp.clock == self.base {
            return Bracket::exact(stamp.mono_us.saturating_sub(self.zero));
        }
        let Some((low, high)) = self.links.get(&stamp.clock).and_then(|links| offset_at(links, stamp.mono_us)) else {
            return Bracket::UNBOUNDED;
        };
        Bracket::new(stamp.mono_us.saturating_sub(high), stamp.mono_us.saturating_sub(low)).plus(self.zero.saturating_neg())
    }

    /// `later − earlier`. Exact on one clock, whether it is linked or not.
    pub(super) fn between(&self, later: &Stamp, earlier: &Stamp) -> Bracket {
        if later.clock == earlier.clock {
            Bracket::exact(later.mono_us.saturating_sub(earlier.mono_us))
        } else {
            self.at(later).minus(self.at(earlier))
        }
    }

    /// Whether `later` may have been at or after `earlier`.
    pub(super) fn maybe_after(&self, later: &Stamp, earlier: &Stamp) -> bool {
        self.between(later, earlier).upper.is_none_or(|d| d >= 0)
    }

    /// Whether `later` was at or after `earlier` for certain.
    pub(super) fn surely_after(&self, later: &Stamp, earlier: &Stamp) -> bool {
        self.between(later, earlier).lower.is_some_and(|d| d >= 0)
    }
}

/// The other clock's offset at one of its instants: between two links anything that either of them allows (clocks drift
/// steadily over the ten seconds between links); outside of all links the nearest one, widened by [`DRIFT_PPM`].
fn offset_at(links: &[Link], at: i64) -> Option<(i64, i64)> {
    let after = links.partition_point(|l| l.at <= at);
    let before = after.checked_sub(1).and_then(|i| links.get(i));
    match (before, links.get(after)) {
        (Some(a), Some(b)) => Some((a.offset.0.min(b.offset.0), a.offset.1.max(b.offset.1))),
        (Some(only), None) | (None, Some(only)) => {
            let away = at.saturating_sub(only.at).saturating_abs();
            let drift = away.saturating_mul(DRIFT_PPM) / 1_000_000 + i64::from(away > 0);
            Some((only.offset.0.saturating_sub(drift), only.offset.1.saturating_add(drift)))
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(clock: &str, mono_us: i64) -> Stamp {
        Stamp { clock: ClockId(clock.into()), mono_us, wall_us: 0 }
    }

    fn note(at: Stamp, event: Event) -> Record {
        Record { seq: 0, prev: String::new(), at, event }
    }

    fn linked(clock: &str, runner: Stamp, offset_us: i64, error_us: i64) -> Record {
        note(runner, Event::ClockLinked { clock: ClockId(clock.into()), offset_us, error_us, wall_offset_us: 0 })
    }

    #[test]
    fn two_clocks_an_hour_apart_meet_within_the_error_of_the_link() {
        let hour = 3_600_000_000;
        let clocks = Clocks::new(&[
            note(stamp("runner", 5_000_000), Event::Note { text: String::new() }),
            linked("observer", stamp("runner", 6_000_000), hour, 300),
            linked("observer", stamp("runner", 16_000_000), hour + 100, 200),
        ]);
        assert_eq!(clocks.at(&stamp("runner", 7_000_000)), Bracket::exact(2_000_000));
        // Between the links: all that either allows.
        assert_eq!(clocks.at(&stamp("observer", hour + 7_000_000)), Bracket::new(2_000_000 - 300, 2_000_000 + 300));
        // A second before the first link and two after the last: 500 ppm more.
        assert_eq!(clocks.at(&stamp("observer", hour + 5_000_000)), Bracket::new(-300 - 501, 300 + 501));
        assert_eq!(clocks.at(&stamp("observer", hour + 100 + 18_000_000)), Bracket::new(13_000_000 - 1_201, 13_000_000 + 1_201));
        // On one clock the offset does not matter.
        assert_eq!(clocks.between(&stamp("observer", 12), &stamp("observer", 5)), Bracket::exact(7));
    }

    #[test]
    fn what_was_never_linked_is_nowhere() {
        let clocks = Clocks::new(&[
            note(stamp("runner", 0), Event::Note { text: String::new() }),
            // By a second runner, whose own clock nobody linked to the first's.
            linked("observer", stamp("laptop", 10), 0, 1),
        ]);
        assert_eq!(clocks.at(&stamp("laptop", 10)), Bracket::UNBOUNDED);
        assert_eq!(clocks.at(&stamp("observer", 10)), Bracket::UNBOUNDED);
        assert!(clocks.maybe_after(&stamp("laptop", 10), &stamp("runner", 20)));
        assert!(!clocks.surely_after(&stamp("laptop", 10), &stamp("runner", 20)));
    }
}
