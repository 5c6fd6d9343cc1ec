//! Intervals of microseconds in which a measured thing is known to lie.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::scenario::types::Dur;

/// A closed interval in microseconds (or in the unit named beside it). A missing end is infinitely far away: nothing is
/// known on that side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bracket {
    /// The least it can be.
    pub lower: Option<i64>,
    /// The most it can be.
    pub upper: Option<i64>,
}

impl Bracket {
    /// Nothing is known.
    pub const UNBOUNDED: Self = Self { lower: None, upper: None };

    /// Both ends known. Ends given the wrong way round are put right, so that an interval is never empty.
    pub fn new(a: i64, b: i64) -> Self {
        Self { lower: Some(a.min(b)), upper: Some(a.max(b)) }
    }

    /// A value without error.
    pub fn exact(at: i64) -> Self {
        Self::new(at, at)
    }

    /// From here on, no upper end.
    pub fn at_least(lower: i64) -> Self {
        Self { lower: Some(lower), upper: None }
    }

    /// From the start of `self` to the end of `other`.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { lower: self.lower, upper: other.upper }
    }

    /// All that `self − other` can be.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let sub = |a: Option<i64>, b: Option<i64>| Some(a?.saturating_sub(b?));
        Self { lower: sub(self.lower, other.upper), upper: sub(self.upper, other.lower) }
    }

    /// Both ends moved by `by`.
    #[must_use]
    pub fn plus(self, by: i64) -> Self {
        Self { lower: self.lower.map(|x| x.saturating_add(by)), upper: self.upper.map(|x| x.saturating_add(by)) }
    }

    /// The part that is not below 0: a length of time never is.
    #[must_use]
    pub fn not_negative(self) -> Self {
        Self { lower: Some(self.lower.unwrap_or(0).max(0)), upper: self.upper.map(|x| x.max(0)) }
    }

    /// Upper minus lower end; none when either is missing.
    pub fn width(self) -> Option<i64> {
        Some(self.upper?.saturating_sub(self.lower?))
    }

    /// Whether a value is inside.
    pub fn contains(self, value: i64) -> bool {
        self.lower.is_none_or(|l| l <= value) && self.upper.is_none_or(|u| value <= u)
    }

    /// A measured value that must be at most `target`: met when all of the bracket is, missed when none of it is.
    pub fn at_most(self, target: i64) -> Outcome {
        if self.upper.is_some_and(|u| u <= target) {
            Outcome::Met
        } else if self.lower.is_some_and(|l| l > target) {
            Outcome::Missed
        } else {
            Outcome::Inconclusive
        }
    }

    /// A measured value that must be at least `target`.
    pub fn no_less_than(self, target: i64) -> Outcome {
        if self.lower.is_some_and(|l| l >= target) {
            Outcome::Met
        } else if self.upper.is_some_and(|u| u < target) {
            Outcome::Missed
        } else {
            Outcome::Inconclusive
        }
    }

    /// As times: `21.33s … 21.64s`, `4.2s … ∞`; one value when there is no error.
    pub fn as_time(self) -> String {
        match (self.lower, self.upper) {
            (Some(l), Some(u)) if l == u => time(l),
            (l, u) => format!("{} … {}", l.map_or_else(|| "-∞".to_owned(), time), u.map_or_else(|| "∞".to_owned(), time)),
        }
    }
}

/// Microseconds for people: to a hundredth of a millisecond below 100 ms, to a millisecond below a minute, to a tenth of
/// a second above.
pub fn time(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    let rounded = match us {
        0..100_000 => us.saturating_add(5) / 10 * 10,
        100_000..60_000_000 => us.saturating_add(500) / 1_000 * 1_000,
        _ => us.saturating_add(50_000) / 100_000 * 100_000,
    };
    format!("{sign}{}", Dur::from_micros(rounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_hold_all_that_can_be() {
        let (a, b) = (Bracket::new(10, 14), Bracket::new(3, 4));
        assert_eq!(a.minus(b), Bracket::new(6, 11));
        assert_eq!(Bracket::at_least(10).minus(b), Bracket::at_least(6));
        assert_eq!(a.minus(Bracket::at_least(3)), Bracket { lower: None, upper: Some(11) });
        assert_eq!(Bracket::new(-5, 3).not_negative(), Bracket::new(0, 3));
        assert_eq!(Bracket::new(-5, -3).not_negative(), Bracket::new(0, 0));
    }

    #[test]
    fn only_a_whole_bracket_decides() {
        assert_eq!(Bracket::new(3, 5).at_most(5), Outcome::Met);
        assert_eq!(Bracket::new(3, 5).at_most(4), Outcome::Inconclusive);
        assert_eq!(Bracket::new(3, 5).at_most(3), Outcome::Inconclusive);
        assert_eq!(Bracket::new(3, 5).at_most(2), Outcome::Missed);
        assert_eq!(Bracket::at_least(3).at_most(9), Outcome::Inconclusive);
        assert_eq!(Bracket::at_least(3).at_most(2), Outcome::Missed);
        assert_eq!(Bracket::UNBOUNDED.at_most(i64::MAX), Outcome::Inconclusive);
        assert_eq!(Bracket::new(95, 97).no_less_than(95), Outcome::Met);
        assert_eq!(Bracket::new(95, 97).no_less_than(96), Outcome::Inconclusive);
        assert_eq!(Bracket::new(95, 97).no_less_than(98), Outcome::Missed);
    }

    #[test]
    fn times_for_people() {
        for (us, text) in [
            (0, "0s"),
            (7, "10us"),
            (42_317, "42.32ms"),
            (1_234_567, "1.235s"),
            (21_400_400, "21.4s"),
            (75_123_456, "1m15.1s"),
            (-1_500_000, "-1.5s"),
        ] {
            assert_eq!(time(us), text);
        }
        assert_eq!(Bracket::at_least(4_200_000).as_time(), "4.2s … ∞");
    }
}
