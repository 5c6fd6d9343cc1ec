//! What would have decided an objective that a bracket left open.

use super::{Bracket, facts::Facts, time};
use crate::scenario::types::Dur;

/// Cadences people write, in microseconds, slowest first.
const CADENCES: [u64; 12] = [10_000_000, 5_000_000, 2_000_000, 1_000_000, 500_000, 200_000, 100_000, 50_000, 20_000, 10_000, 5_000, 2_000];

/// For a bracket with the target inside: the slowest cadence at which a true value in the middle of the bracket would be
/// decided. With cadence `e` and time limit `2·e` a bracket is up to `2·e + 2·e` wide (`docs/measuring.md`), and it may lie on
/// the target's side of the true value.
pub(super) fn cadence(facts: &Facts<'_>, probe: &str, measured: Bracket, target: i64) -> Option<String> {
    let (lower, upper) = (measured.lower?, measured.upper?);
    let planned = facts.plan.probes.get(probe)?;
    let margin = (lower.midpoint(upper)).abs_diff(target);
    let now = format!("`{probe}` was sampled every {} and the bracket is {} wide", planned.every, time(measured.width()?));
    match CADENCES.into_iter().filter(|c| *c < planned.every.as_micros()).find(|c| 4 * c <= margin) {
        Some(c) => {
            Some(format!("{now}; with `every: {}` and `timeout: {}` it would be decided", Dur::from_micros(c), Dur::from_micros(2 * c)))
        }
        None => {
            Some(format!("{now}; the value is too close to the target for a faster cadence to decide it surely: choose another target"))
        }
    }
}
