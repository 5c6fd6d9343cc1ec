use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::*;

const EVERY: i64 = 100;

fn cadence(timeout_us: u64) -> Cadence {
    Cadence { every: Duration::from_micros(EVERY.unsigned_abs()), timeout: Duration::from_micros(timeout_us) }
}

fn builder() -> RunBuilder {
    RunBuilder::new("web", cadence(200), false)
}

fn stamp(us: i64) -> Stamp {
    Stamp { clock: ClockId("c".into()), mono_us: us, wall_us: us }
}

fn sample(n: u64, send: i64, complete: i64, state: ProbeState) -> Sample {
    Sample { n, send: stamp(send), complete: stamp(complete), state, detail: format!("{state} {n}") }
}

/// (state, first send, last complete, count, widest, why it ended).
fn shown(run: &ProbeRun) -> (ProbeState, i64, i64, u64, u64, RunEnd) {
    (run.state, run.first_send.mono_us, run.last_complete.mono_us, run.count, run.widest_us, run.ended)
}

use ProbeState::{Bad, Good, Unknown};

#[test]
fn equal_samples_are_one_run_until_the_state_changes() {
    let mut b = builder();
    assert!(b.push(sample(0, 0, 10, Good)).is_empty());
    assert!(b.push(sample(1, 100, 130, Good)).is_empty());
    let ended = b.push(sample(2, 200, 205, Bad));
    assert_eq!(ended.iter().map(shown).collect::<Vec<_>>(), [(Good, 0, 130, 2, 130, RunEnd::Change)]);
    assert_eq!((ended[0].slowest_us, ended[0].detail.as_str()), (30, "good 0"));
    assert_eq!((ended[0].first_complete.mono_us, ended[0].last_send.mono_us), (10, 100));
    let last = b.finish();
    assert_eq!(last.iter().map(shown).collect::<Vec<_>>(), [(Bad, 200, 205, 1, 0, RunEnd::End)]);
}

#[test]
fn a_late_sample_keeps_its_place_in_the_order_of_sending() {
    let mut b = builder();
    b.push(sample(0, 0, 10, Good));
    // Sent at 100 and answered at 290, after the ones sent at 200.
    assert!(b.push(sample(2, 200, 210, Good)).is_empty());
    let ended = b.push(sample(1, 100, 290, Bad));
    assert_eq!(ended.iter().map(shown).collect::<Vec<_>>(), [(Good, 0, 10, 1, 0, RunEnd::Change), (Bad, 100, 290, 1, 0, RunEnd::Change)]);
    assert_eq!(b.live().map(|live| live.since.mono_us), Some(200));
}

#[test]
fn more_than_twice_every_between_sends_is_a_hole_and_exactly_twice_is_none() {
    let mut b = builder();
    b.push(sample(0, 0, 10, Good));
    assert!(b.push(sample(1, 200, 210, Good)).is_empty());
    let ended = b.push(sample(2, 401, 410, Good));
    assert_eq!(ended.iter().map(shown).collect::<Vec<_>>(), [(Good, 0, 210, 2, 210, RunEnd::Hole)]);
    // The stretch starts anew behind the hole.
    assert_eq!(b.live().map(|live| (live.since.mono_us, live.count)), Some((401, 1)));
}

#[test]
fn time_within_a_sequential_sample_is_no_hole() {
    let mut b = RunBuilder::new("ledger", cadence(200), true);
    b.push(sample(0, 0, 900, Good));
    assert!(b.push(sample(1, 1000, 1010, Good)).is_empty());
    assert_eq!(b.push(sample(2, 1300, 1310, Good)).len(), 1);
}

#[test]
fn a_cut_ends_the_run_by_sending_not_by_arrival() {
    let mut b = builder();
    b.push(sample(0, 0, 10, Good));
    b.cut(&stamp(150));
    // Sent before the cut, answered after it: still before.
    assert!(b.push(sample(1, 100, 190, Good)).is_empty());
    let ended = b.push(sample(2, 200, 210, Good));
    assert_eq!(ended.iter().map(shown).collect::<Vec<_>>(), [(Good, 0, 190, 2, 190, RunEnd::Cut)]);
    // The stretch goes on across it.
    assert_eq!(b.live().map(|live| (live.since.mono_us, live.count)), Some((0, 3)));
    assert_eq!(b.finish().iter().map(shown).collect::<Vec<_>>(), [(Good, 200, 210, 1, 0, RunEnd::End)]);
}

#[test]
fn another_clock_is_a_hole() {
    let mut b = builder();
    b.push(sample(0, 0, 10, Good));
    let elsewhere = |us| Stamp { clock: ClockId("d".into()), ..stamp(us) };
    let moved = Sample { send: elsewhere(50), complete: elsewhere(60), ..sample(1, 0, 0, Good) };
    assert_eq!(b.push(moved).first().map(|run| run.ended), Some(RunEnd::Hole));
    assert_eq!(b.live().map(|live| live.since.mono_us), Some(50));
}

#[test]
fn lost_samples_are_gone_over_and_leave_a_hole() {
    let mut b = builder();
    b.push(sample(0, 0, 10, Good));
    assert!(b.push(sample(5, 500, 510, Good)).is_empty());
    let ended = b.lost(1, 4);
    assert_eq!(ended.iter().map(|run| run.ended).collect::<Vec<_>>(), [RunEnd::Hole]);
    // A loss told of twice, or late, changes nothing.
    assert!(b.lost(1, 4).is_empty());
    assert!(b.push(sample(3, 300, 310, Bad)).is_empty());
    assert_eq!(b.finish().len(), 1);
}

#[test]
fn a_sample_that_never_comes_does_not_hold_up_the_others_for_ever() {
    let mut b = builder();
    let window = cadence(200).window() as u64;
    for n in 1..=window {
        assert!(b.push(sample(n, n.cast_signed() * EVERY, n.cast_signed() * EVERY + 10, Good)).is_empty());
    }
    assert!(b.live().is_none());
    let n = window + 1;
    b.push(sample(n, n.cast_signed() * EVERY, n.cast_signed() * EVERY + 10, Good));
    assert_eq!(b.live().map(|live| live.count), Some(n));
    assert!(b.waiting.is_empty());
}

/// What the runs must say, computed the slow way from all samples in order of sending.
fn expected(samples: &[Sample], cuts: &[i64]) -> Vec<(ProbeState, i64, i64, u64, u64, RunEnd)> {
    let mut runs: Vec<Vec<&Sample>> = Vec::new();
    let mut ends = Vec::new();
    for (i, s) in samples.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &samples[i]);
        let end = before.and_then(|p| {
            if s.send.mono_us - p.send.mono_us > 2 * EVERY {
                Some(RunEnd::Hole)
            } else if p.state != s.state {
                Some(RunEnd::Change)
            } else {
                cuts.iter().any(|cut| p.send.mono_us < *cut && *cut <= s.send.mono_us).then_some(RunEnd::Cut)
            }
        });
        if end.is_some() || runs.is_empty() {
            ends.extend(end);
            runs.push(Vec::new());
        }
        runs.last_mut().unwrap().push(s);
    }
    ends.push(RunEnd::End);
    runs.iter()
        .zip(ends)
        .map(|(run, end)| {
            let widest = run.windows(2).map(|w| (w[1].complete.mono_us - w[0].send.mono_us).unsigned_abs()).max().unwrap_or(0);
            (run[0].state, run[0].send.mono_us, run[run.len() - 1].complete.mono_us, run.len() as u64, widest, end)
        })
        .collect()
}

#[test]
fn in_whatever_order_samples_come_the_runs_are_those_of_the_order_of_sending() {
    let (mut holes, mut changes, mut cut_runs, mut late) = (0, 0, 0, 0);
    for seed in 0..2000u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let timeout = EVERY * rng.random_range(1..=6);
        let mut send = 0;
        let mut state = Good;
        let samples: Vec<Sample> = (0..rng.random_range(1..120u64))
            .map(|n| {
                send += if rng.random_bool(0.05) { EVERY * rng.random_range(1..5) } else { EVERY };
                send += rng.random_range(0..3);
                if rng.random_bool(0.15) {
                    state = *[Good, Bad, Unknown].get(rng.random_range(0..3usize)).unwrap();
                }
                sample(n, send, send + rng.random_range(1..=timeout), state)
            })
            .collect();
        let mut cuts: Vec<i64> = (0..rng.random_range(0..4)).map(|_| rng.random_range(0..=send)).collect();
        cuts.sort_unstable();
        // Arrival: by completion, those that are complete at the same time in any order; a cut is told when it is made.
        let mut arrivals: Vec<(i64, u32, Option<&Sample>)> =
            samples.iter().map(|s| (s.complete.mono_us, rng.next_u32(), Some(s))).collect();
        arrivals.extend(cuts.iter().map(|cut| (*cut, 0, None)));
        arrivals.shuffle(&mut rng);
        arrivals.sort_by_key(|(at, tie, _)| (*at, *tie));
        let mut b = RunBuilder::new("web", cadence(timeout.unsigned_abs()), false);
        let mut got = Vec::new();
        let mut largest = 0;
        for (at, _, arrived) in arrivals {
            match arrived {
                Some(s) => {
                    late += u32::from(s.n > b.next);
                    got.extend(b.push(s.clone()));
                }
                None => b.cut(&stamp(at)),
            }
            largest = largest.max(b.waiting.len());
        }
        got.extend(b.finish());
        let got: Vec<_> = got.iter().map(shown).collect();
        assert_eq!(got, expected(&samples, &cuts), "seed {seed}");
        assert!(largest <= cadence(timeout.unsigned_abs()).window(), "seed {seed}: {largest} waited");
        assert_eq!(got.iter().map(|run| run.3).sum::<u64>(), samples.len() as u64, "seed {seed}");
        holes += got.iter().filter(|run| run.5 == RunEnd::Hole).count();
        changes += got.iter().filter(|run| run.5 == RunEnd::Change).count();
        cut_runs += got.iter().filter(|run| run.5 == RunEnd::Cut).count();
    }
    // The cases must occur, or the test shows nothing.
    assert!(holes > 1000 && changes > 1000 && cut_runs > 500 && late > 1000, "{holes} {changes} {cut_runs} {late}");
}
