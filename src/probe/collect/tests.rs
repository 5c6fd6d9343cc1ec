use tokio::time::sleep;

use super::*;
use crate::{clock::Clock, journal::RunEnd, scenario::types::ProbeState};

const CADENCE: Cadence = Cadence { every: Duration::from_millis(100), timeout: Duration::from_millis(200) };

struct Bench {
    seen: mpsc::Sender<Seen>,
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<Event>,
    board: watch::Receiver<Board>,
    _dir: tempfile::TempDir,
}

fn id(clock: &str) -> ClockId {
    ClockId(clock.into())
}

/// A collector of probe `web` whose own clock is `runner`.
fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (events_tx, events) = mpsc::channel(100);
    let (board_tx, board) = watch::channel(Board::default());
    let (seen, seen_rx) = mpsc::channel(100);
    let (orders, orders_rx) = mpsc::channel(100);
    let mut collector = Collector::new(id("runner"), events_tx, board_tx);
    assert_eq!(collector.add("web", CADENCE, false, dir.path()), None);
    tokio::spawn(collector.run(seen_rx, orders_rx));
    Bench { seen, orders, events, board, _dir: dir }
}

impl Bench {
    async fn sample(&self, clock: &str, n: u64, send_ms: i64) {
        let at = |ms: i64| Stamp { clock: id(clock), mono_us: ms * 1000, wall_us: ms * 1000 };
        let sample = Sample { n, send: at(send_ms), complete: at(send_ms + 5), state: ProbeState::Good, detail: String::new() };
        self.seen.send(Seen::Sample { probe: "web".into(), sample }).await.unwrap();
    }

    async fn cut(&self, ms: i64) {
        self.flush().await;
        self.orders.send(Order::Cut(Stamp { clock: id("runner"), mono_us: ms * 1000, wall_us: 0 })).await.unwrap();
        self.flush().await;
    }

    /// All that was sent before is dealt with.
    async fn flush(&self) {
        let (answer, flushed) = oneshot::channel();
        self.orders.send(Order::Flush(answer)).await.unwrap();
        flushed.await.unwrap();
    }

    /// Ends the sampling and gives all events.
    async fn end(self) -> Vec<Event> {
        let Self { seen, orders, mut events, .. } = self;
        drop((seen, orders));
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            all.push(event);
        }
        all
    }
}

/// First send and end of each run.
fn runs(events: &[Event]) -> Vec<(i64, RunEnd)> {
    let run = |event: &Event| if let Event::Run(run) = event { Some((run.first_send.mono_us / 1000, run.ended)) } else { None };
    events.iter().filter_map(run).collect()
}

fn link(clock: &str, offset_us: i64, error_us: i64) -> Order {
    Order::Link { clock: id(clock), offset_us, error_us, wall_offset_us: offset_us }
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_made_at_its_instant_on_the_samplers_own_clock() {
    let bench = bench();
    // The observer's clock is 10 s ahead.
    bench.orders.send(link("observer", 10_000_000, 50)).await.unwrap();
    bench.sample("observer", 0, 10_000).await;
    bench.sample("observer", 1, 10_100).await;
    bench.cut(150).await;
    bench.sample("observer", 2, 10_140).await;
    bench.sample("observer", 3, 10_160).await;
    assert_eq!(runs(&bench.end().await), [(10_000, RunEnd::Cut), (10_160, RunEnd::End)]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_on_a_clock_that_is_not_linked_is_made_here_and_now() {
    let bench = bench();
    bench.sample("elsewhere", 0, 10_000).await;
    bench.cut(150).await;
    bench.sample("elsewhere", 1, 10_100).await;
    assert_eq!(runs(&bench.end().await), [(10_000, RunEnd::Cut), (10_100, RunEnd::End)]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_linked_over_another_carries_the_errors_of_both() {
    let bench = bench();
    let third = Seen::Linked { clock: id("receiver"), base: id("observer"), offset_us: 7, error_us: 3, wall_offset_us: 70 };
    // Before the observer itself is linked nothing can be said; then it is said at once.
    bench.seen.send(third.clone()).await.unwrap();
    bench.flush().await;
    bench.orders.send(link("observer", 1000, 20)).await.unwrap();
    bench.flush().await;
    bench.seen.send(third).await.unwrap();
    bench.flush().await;
    let links: Vec<_> = bench
        .end()
        .await
        .into_iter()
        .map(|event| match event {
            Event::ClockLinked { clock, offset_us, error_us, wall_offset_us } => (clock.to_string(), offset_us, error_us, wall_offset_us),
            other => panic!("{other:?}"),
        })
        .collect();
    let receiver = ("receiver".to_owned(), 1007, 23, 1070);
    assert_eq!(links, [("observer".to_owned(), 1000, 20, 1000), receiver.clone(), receiver]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_says_nothing_any_more_is_unknown_on_the_board() {
    let bench = bench();
    bench.sample("runner", 0, 0).await;
    bench.sample("runner", 1, 100).await;
    bench.flush().await;
    let live = bench.board.borrow().0["web"].clone();
    assert_eq!((live.state, live.since.mono_us, live.last_complete.mono_us, live.count), (Some(ProbeState::Good), 0, 105_000, 2));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(bench.board.borrow().0["web"].state, Some(ProbeState::Good));
    sleep(Duration::from_millis(700)).await;
    let live = bench.board.borrow().0["web"].clone();
    assert_eq!((live.state, live.count), (Some(ProbeState::Unknown), 0));
    // It is back with the next sample, with a stretch that starts behind the hole.
    bench.sample("runner", 2, 1300).await;
    bench.flush().await;
    let live = bench.board.borrow().0["web"].clone();
    assert_eq!((live.state, live.since.mono_us), (Some(ProbeState::Good), 1_300_000));
    assert_eq!(runs(&bench.end().await), [(0, RunEnd::Hole), (1300, RunEnd::End)]);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_written_is_a_deviation_and_the_runs_go_on() {
    let (events_tx, _events) = mpsc::channel(100);
    let mut collector = Collector::new(id("runner"), events_tx, watch::channel(Board::default()).0);
    let told = collector.add("web", CADENCE, false, Path::new("/dev/null/samples"));
    assert!(matches!(told, Some(Event::Deviation { detail }) if detail.contains("probe `web`: its raw samples could not be written")));
    assert!(collector.probes.contains_key("web"));
}

#[tokio::test(start_paused = true)]
async fn lost_samples_and_troubles_are_deviations() {
    let bench = bench();
    let clock = Clock::virtual_at("runner", 0);
    bench.sample("runner", 0, 0).await;
    bench.seen.send(Seen::Lost { probe: "web".into(), from: 1, to: 4 }).await.unwrap();
    bench.sample("runner", 5, 500).await;
    bench.seen.send(Seen::Trouble { probe: "web".into(), detail: "its sampler failed".to_owned() }).await.unwrap();
    bench.seen.send(Seen::Attempt { probe: "web".into(), write: 1, send: clock.now() }).await.unwrap();
    bench.flush().await;
    let events = bench.end().await;
    let said: Vec<_> =
        events.iter().filter_map(|event| if let Event::Deviation { detail } = event { Some(detail.as_str()) } else { None }).collect();
    assert_eq!(said, ["probe `web`: 4 samples were taken and could not be kept", "probe `web`: its sampler failed"]);
    assert_eq!(runs(&events), [(0, RunEnd::Hole), (500, RunEnd::End)]);
}
