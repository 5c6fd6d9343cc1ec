use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::sleep;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn sampler(every: u32, timeout: u32, take: impl FnMut() -> BoxFuture<'static, Outcome> + Send + 'static) -> Sampler {
    Sampler {
        probe: "web".into(),
        cadence: Cadence { every: MS * every, timeout: MS * timeout },
        clock: Clock::virtual_at("v", 0),
        take: Box::new(take),
        silence: ProbeState::Bad,
        nudges: None,
    }
}

/// Runs a sampler for so long and gives its samples in order of completion.
async fn run_for(sampler: Sampler, time: Duration) -> Vec<Sample> {
    let (out, mut seen) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let task = tokio::spawn(sampler.run(out, stop.clone()));
    let reader = tokio::spawn(async move {
        let mut samples = Vec::new();
        while let Some(seen) = seen.recv().await {
            match seen {
                Seen::Sample { sample, .. } => samples.push(sample),
                other => panic!("{other:?}"),
            }
        }
        samples
    });
    sleep(time).await;
    stop.cancel();
    task.await.unwrap();
    reader.await.unwrap()
}

fn ms(stamp: &crate::clock::Stamp) -> i64 {
    stamp.mono_us / 1000
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_fixed_however_slow_the_answers_are() {
    let slow = sampler(100, 1000, || {
        async {
            sleep(MS * 350).await;
            Outcome::good("slow")
        }
        .boxed()
    });
    let samples = run_for(slow, MS * 1050).await;
    let sends: Vec<i64> = samples.iter().map(|s| ms(&s.send)).collect();
    assert_eq!(sends, (0..=10).map(|n| n * 100).collect::<Vec<_>>());
    assert!(samples.iter().all(|s| ms(&s.complete) - ms(&s.send) == 350 && s.state == ProbeState::Good));
}

use futures::FutureExt as _;

#[tokio::test(start_paused = true)]
async fn samples_overlap_up_to_the_bound_and_each_has_its_limit() {
    let (now, most) = (std::sync::Arc::new(AtomicUsize::new(0)), std::sync::Arc::new(AtomicUsize::new(0)));
    let (now2, most2) = (now.clone(), most.clone());
    let hung = sampler(100, 250, move || {
        let guard = Busy::new(now2.clone(), &most2);
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Outcome::good("never")
        }
        .boxed()
    });
    let samples = run_for(hung, MS * 1000).await;
    assert_eq!(samples.len(), 10);
    assert!(samples.iter().all(|s| s.state == ProbeState::Bad && ms(&s.complete) - ms(&s.send) == 250));
    assert_eq!(samples[0].detail, "no answer within 250ms");
    // 250 ms at every 100 ms: three at a time, and never more than ceil(250/100)+1.
    assert_eq!((most.load(Ordering::SeqCst), now.load(Ordering::SeqCst)), (3, 0));
}

struct Busy(std::sync::Arc<AtomicUsize>);
impl Busy {
    fn new(now: std::sync::Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(now)
    }
}
impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_unknown_where_only_a_tool_was_asked() {
    let mut asked = sampler(100, 50, || std::future::pending().boxed());
    asked.silence = ProbeState::Unknown;
    let samples = run_for(asked, MS * 120).await;
    assert_eq!(samples.iter().map(|s| s.state).collect::<Vec<_>>(), [ProbeState::Unknown; 2]);
}

#[tokio::test(start_paused = true)]
async fn ticks_that_were_slept_through_are_left_out_and_the_grid_stays() {
    let quick = sampler(100, 100, || async { Outcome::good("ok") }.boxed());
    let (out, mut seen) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let task = tokio::spawn(quick.run(out, stop.clone()));
    let mut sends = Vec::new();
    while sends.len() < 3 {
        let Some(Seen::Sample { sample, .. }) = seen.recv().await else { panic!("no sample") };
        sends.push(ms(&sample.send));
    }
    // The clock jumps, as it does when the process was stopped: no timer fires in between.
    tokio::time::advance(MS * 730).await;
    while sends.len() < 6 {
        let Some(Seen::Sample { sample, .. }) = seen.recv().await else { panic!("no sample") };
        sends.push(ms(&sample.send));
    }
    stop.cancel();
    task.await.unwrap();
    assert_eq!(sends, [0, 100, 200, 930, 1000, 1100]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_did_not_run_says_so_instead_of_bad() {
    let hung = sampler(1000, 100, || std::future::pending().boxed());
    let (out, mut seen) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let task = tokio::spawn(hung.run(out, stop.clone()));
    tokio::task::yield_now().await;
    tokio::time::advance(MS * 600).await;
    let Some(Seen::Sample { sample, .. }) = seen.recv().await else { panic!("no sample") };
    stop.cancel();
    task.await.unwrap();
    assert_eq!((sample.state, sample.detail.as_str()), (ProbeState::Unknown, "the observer did not run for 600 ms"));
}

#[tokio::test(start_paused = true)]
async fn a_nudge_takes_a_sample_out_of_turn_and_the_grid_stays() {
    let mut nudged = sampler(1000, 100, || async { Outcome::good("ok") }.boxed());
    let (nudge, nudges) = mpsc::channel(1);
    nudged.nudges = Some(nudges);
    let running = tokio::spawn(run_for(nudged, MS * 2500));
    sleep(MS * 300).await;
    nudge.send(()).await.unwrap();
    let samples = running.await.unwrap();
    assert_eq!(samples.iter().map(|s| (s.n, ms(&s.send))).collect::<Vec<_>>(), [(0, 0), (1, 300), (2, 1000), (3, 2000)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_away_loses_samples_only_beyond_the_backlog_and_is_told() {
    let quick = sampler(1, 1, || async { Outcome::good("ok") }.boxed());
    let (out, mut seen) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let task = tokio::spawn(quick.run(out, stop.clone()));
    sleep(MS * (u32::try_from(BACKLOG).unwrap() + 500)).await;
    stop.cancel();
    let (mut kept, mut lost, mut next) = (0, 0, 0);
    while let Some(seen) = seen.recv().await {
        match seen {
            Seen::Sample { sample, .. } => {
                assert_eq!(sample.n, next);
                (kept, next) = (kept + 1, next + 1);
            }
            Seen::Lost { from, to, .. } => {
                assert_eq!(from, next);
                (lost, next) = (lost + to - from + 1, to + 1);
            }
            other => panic!("{other:?}"),
        }
    }
    task.await.unwrap();
    assert_eq!(kept, u64::try_from(BACKLOG).unwrap() + 1);
    assert!((490..=510).contains(&lost), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_the_samples_under_way() {
    let started = std::sync::Arc::new(Mutex::new(0));
    let count = started.clone();
    let slow = sampler(100, 1000, move || {
        *count.lock().unwrap() += 1;
        async {
            sleep(MS * 800).await;
            Outcome::good("late")
        }
        .boxed()
    });
    let samples = run_for(slow, MS * 250).await;
    assert_eq!((samples.len(), *started.lock().unwrap()), (3, 3));
    assert!(samples.iter().all(|s| s.state == ProbeState::Good));
}

#[test]
fn the_bound_on_samples_under_way() {
    for (every, timeout, bound) in [(100, 200, 3), (100, 250, 4), (100, 50, 2), (1000, 1, 2), (20, 200, 11)] {
        assert_eq!(Cadence { every: MS * every, timeout: MS * timeout }.in_flight(), bound, "{every} {timeout}");
    }
}
