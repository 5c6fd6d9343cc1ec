//! The project's own engine through thousands of bad days: each seed is a drill in a sandbox, with weather and with trouble for its
//! runner, and checkers that stand apart from the engine look at what came of it.
//!
//! `FIREDRILL_SIM_SEEDS=N` plays N seeds instead of 1,000, `FIREDRILL_SIM_FROM=K` beginning with K; `FIREDRILL_SIM_SEED=K` plays one and
//! tells all of it.

mod check;
mod draw;
mod history;
mod mended;
#[cfg(debug_assertions)]
mod planted;
mod play;
mod run;
mod shipped;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many seeds there are when nothing else is said.
const SEEDS: u64 = 1_000;
/// Every so many seeds one is played twice.
const TWICE: u64 = 20;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("FIREDRILL_SIM_SEED") {
        return play::on_a_large_stack(move || play::tell(seed));
    }
    let (from, seeds) = (number("FIREDRILL_SIM_FROM").unwrap_or(0), number("FIREDRILL_SIM_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(from);
    let failures: Mutex<BTreeSet<u64>> = Mutex::default();
    let sums: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let requests: [AtomicU64; 2] = Default::default();
    let began = std::time::Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            let played = play::one(seed, seed.is_multiple_of(TWICE));
            for (all, own) in requests.iter().zip(played.requests) {
                all.fetch_add(own, Ordering::Relaxed);
            }
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            for what in played.sorts {
                *sums.entry(what).or_default() += 1;
            }
            if !played.wrong.is_empty() {
                println!("seed {seed}, commit {}:", play::commit());
                played.wrong.iter().for_each(|why| println!("  {why}"));
                println!("  again: FIREDRILL_SIM_SEED={seed} cargo test --test simulation no_seed -- --nocapture");
                failures.lock().unwrap_or_else(PoisonError::into_inner).insert(seed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            std::thread::Builder::new().stack_size(play::STACK).spawn_scoped(scope, work).expect("a thread");
        }
    });
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = began.elapsed();
    println!("{seeds} seeds in {took:.1?} on {threads} threads: {sums:?}");
    let [own, others] = requests.map(|all| all.into_inner() / seeds.max(1));
    let rate = seeds as f64 / took.as_secs_f64() / threads as f64;
    println!("{rate:.2} seeds a second a thread; {own} requests a seed by the cluster's own components, {others} by its clients");
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failures.is_empty(), "{} of {seeds} seeds break a promise: {:?}", failures.len(), failures.iter().take(20).collect::<Vec<_>>());
    // A simulation in which nothing happens finds nothing.
    if seeds >= 200 {
        let wanted = ["broke something", "stopped processes", "killed processes", "ended clean", "died", "was taken over", "met", "missed"];
        for what in wanted {
            assert!(sums.get(what).is_some_and(|n| *n >= seeds / 50), "too few seeds in which a drill {what}: {sums:?}");
        }
        assert!(sums.get("was refused").is_none_or(|n| *n <= seeds / 8), "too many drills that never were: {sums:?}");
    }
}
