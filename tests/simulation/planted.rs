//! Bugs that are put into the engine on purpose: each must be found within 500 seeds, by the checker of the promise that it breaks.

use firedrill::planted::{Bug, plant};

use crate::{
    check,
    draw::{self, Script, Trouble},
    play, run,
};

/// Within so many seeds.
const WITHIN: u64 = 500;

/// The first seed in which a bug breaks its promise.
fn found(bug: Bug, promise: &'static str) {
    found_in(bug, promise, |_| true);
}

/// As [`found`], but plays only the seeds that can show it; all are counted.
fn found_in(bug: Bug, promise: &'static str, can: fn(&Script) -> bool) {
    play::on_a_large_stack(move || {
        let mut others = Vec::new();
        for script in (0..WITHIN).map(draw::script).filter(can) {
            let seed = script.seed;
            plant(Some(bug));
            // The verdict is made again by a checker: it has the bug, too.
            let wrong = run::simulate(&script).map(|history| check::all(&history));
            plant(None);
            let wrong = match wrong {
                Ok(wrong) => wrong,
                Err(why) => {
                    others.push(format!("seed {seed}: {why}"));
                    continue;
                }
            };
            if let Some(first) = wrong.iter().find(|v| v.promise == promise) {
                println!("{bug:?}: found with seed {seed}: {first}");
                return;
            }
            others.extend(wrong.iter().map(|v| format!("seed {seed}: {v}")));
        }
        panic!("{bug:?} breaks `{promise}` in none of {WITHIN} seeds; others: {others:#?}");
    });
}

#[test]
fn a_revert_that_is_skipped_is_found() {
    found(Bug::SkipRevert, "every fault is gone at the end or reported as not clean");
}

#[test]
fn a_fault_before_its_intent_is_found() {
    found(Bug::InjectBeforeIntent, "no inject before a durable intent");
}

#[test]
fn a_bracket_without_its_upper_end_is_found() {
    found(Bug::DropUpperEnd, "every bracket contains the truth");
}

#[test]
fn limits_that_are_ignored_are_found() {
    found_in(Bug::IgnoreLimits, "limits are kept", Script::is_limited);
}

#[test]
fn a_runner_that_acts_after_fencing_is_found() {
    // Only one that slept can be seen to be fenced at once.
    found_in(Bug::ActAfterFencing, "nothing is written after fencing", |script| matches!(script.trouble, Trouble::Sleep { .. }));
}
