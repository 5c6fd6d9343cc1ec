//! The truth is always inside of the bracket, and a verdict is never wrong.

use proptest::prelude::*;

use super::sampler::{Down, World, any_world};
use crate::{
    scenario::types::*,
    verdict::{Bracket, ObjectiveVerdict, Outcome},
};

/// Judges `recoveryTime` in a world.
fn judged(world: &World, from: From, target_us: i64, stable_us: i64) -> ObjectiveVerdict {
    let mut tape = world.drill();
    tape.objective("rto", |o| {
        o.recovery_time = Some(RecoveryTime {
            probe: "web".into(),
            after: Some("break it".into()),
            within: Dur::from_micros(u64::try_from(target_us).unwrap()),
            stable_for: Dur::from_micros(u64::try_from(stable_us).unwrap()),
            from,
            alert: None,
        });
    });
    tape.only()
}

/// Whether the probe saw the outage at all: if not, its verdict speaks of how long an outage can have been.
fn unseen(verdict: &ObjectiveVerdict) -> bool {
    verdict.reason.contains("never bad")
}

fn agrees(verdict: &ObjectiveVerdict, truth: i64, target: i64) -> Result<(), TestCaseError> {
    if let Some(measured) = verdict.measured {
        prop_assert!(measured.contains(truth), "{truth} µs is not in {measured:?}: {}", verdict.reason);
    }
    prop_assert!(verdict.outcome != Outcome::Met || truth <= target, "met, and {truth} µs > {target} µs");
    prop_assert!(verdict.outcome != Outcome::Missed || truth > target, "missed, and {truth} µs ≤ {target} µs");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recovery_after_a_fault(world in any_world(), share in 0.2f64..2.0, stable in 0i64..1_500_000) {
        let length = world.outage.1 - world.outage.0;
        // The instant at which the fault bit is where the outage began: within [F.start, F.effective].
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data, far from the limits")]
        let target = (share * length as f64) as i64;
        agrees(&judged(&world, From::Fault, target, stable), length, target)?;
    }

    #[test]
    fn outages_by_themselves(world in any_world(), share in 0.2f64..2.0) {
        let length = world.outage.1 - world.outage.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data, far from the limits")]
        let target = (share * length as f64) as i64;
        let verdict = judged(&world, From::Outage, target, 0);
        agrees(&verdict, length, target)?;
        // The same by the part of a verdict on another beginning.
        let of_fault = judged(&world, From::Fault, target, 0);
        if let Some(part) = of_fault.parts.first() {
            prop_assert!(part.measured.contains(length), "{length} µs is not in {:?}", part.measured);
        }
        prop_assert!(!unseen(&verdict) || verdict.outcome != Outcome::Missed);
    }

    #[test]
    fn availability_holds_the_true_share(world in any_world(), at_least in 0.0f64..100.0) {
        // What is unknown counts both ways; what lies between two equal samples counts as they do, so short outages between
        // good samples are outside of its promise.
        prop_assume!(world.outage.1 - world.outage.0 > 2 * world.timeout + 4 * world.every);
        let mut tape = world.drill();
        tape.objective("up", |o| {
            o.availability = Some(Availability { probe: "web".into(), after: Some("break it".into()), window: None, at_least: Percent(at_least) });
        });
        let verdict = tape.only();
        let window = world.end / 1_000 * 1_000 - world.fault.0;
        let good = window - (world.outage.1 - world.outage.0);
        let truth = i64::try_from(i128::from(good) * 1_000_000 / i128::from(window)).unwrap();
        if let Some(measured) = verdict.measured {
            // Shares are whole parts of a million.
            let measured = Bracket { lower: measured.lower.map(|l| l - 1), upper: measured.upper.map(|u| u + 1) };
            prop_assert!(measured.contains(truth), "{truth} ppm is not in {measured:?}");
        }
    }
}

/// A quiet world with one outage.
fn quiet(every: i64, outage: i64) -> World {
    let fault = (5_000_000, 5_010_000);
    World {
        how: Down::Refuses,
        fault,
        outage: (5_004_000, 5_004_000 + outage),
        every,
        timeout: 2 * every,
        latency: 4_000,
        jitter: 1_000,
        unknown_one_in: 0,
        hole: (0, 0),
        offset: 3_600_000_000,
        drift_ppm: 0,
        link_error: 300,
        end: 5_000_000 + outage + 30 * every,
        noise: 7,
    }
}

#[test]
fn five_seconds_seen_every_two_do_not_decide_a_target_of_five() {
    for hour in [0, 3_600_000_000] {
        let world = World { offset: hour, ..quiet(2_000_000, 5_000_000) };
        let verdict = judged(&world, From::Outage, 5_000_000, 0);
        assert_eq!(verdict.outcome, Outcome::Inconclusive, "{verdict:?}");
        assert!(verdict.measured.unwrap().contains(5_000_000));
        assert!(verdict.hint.is_some());
        // Every 20 ms decides between 4.9 s and 5.1 s.
        let world = World { offset: hour, ..quiet(20_000, 5_000_000) };
        assert_eq!(judged(&world, From::Outage, 5_100_000, 0).outcome, Outcome::Met);
        assert_eq!(judged(&world, From::Outage, 4_900_000, 0).outcome, Outcome::Missed);
    }
}

#[test]
fn brackets_are_as_narrow_as_the_cadence_allows() {
    for every in [20_000, 100_000, 500_000] {
        let mut widths: Vec<i64> = (1i64..=30)
            .map(|n| {
                let world = World { noise: n.unsigned_abs(), ..quiet(every, 250_000 + n * 650_000) };
                let measured = judged(&world, From::Outage, 1, 0).measured.unwrap();
                assert!(measured.contains(world.outage.1 - world.outage.0));
                measured.width().unwrap()
            })
            .collect();
        widths.sort_unstable();
        let median = widths[widths.len() / 2];
        assert!(median <= 2 * every + 2 * every, "median width {median} µs at {every} µs");
    }
}

#[test]
fn an_outage_seen_by_one_slow_sample_alone_is_still_inside() {
    // The bad sample is sent before a good one that is answered before it: the order of sending is not that of asking.
    use super::kit::{Tape, at};
    use crate::journal::*;
    let mut tape = Tape::new();
    tape.break_it(900, 910);
    let mut bad = super::kit::run("web", ProbeState::Bad, 1_000, 1_000, RunEnd::Change);
    (bad.first_complete, bad.last_complete) = (at(1_190), at(1_190));
    tape.run("web", ProbeState::Good, 0, 900, RunEnd::Change);
    tape.events.push((at(1_190), Event::Run(bad)));
    tape.run("web", ProbeState::Good, 1_100, 5_000, RunEnd::End);
    tape.objective("rto", |o| {
        let (probe, after, within) = ("web".into(), Some("break it".into()), Dur::from_millis(250));
        o.recovery_time = Some(RecoveryTime { probe, after, within, stable_for: Dur::ZERO, from: From::Fault, alert: None });
    });
    // It may have been down from 1.15 s, after the good sample of 1.1 s was answered, to 1.25 s.
    let verdict = tape.only();
    assert!(verdict.measured.unwrap().contains(1_250_000 - 900_000), "{verdict:?}");
}
