//! The runner's side of sampling: what all samplers see comes together here and becomes runs, the board, the raw
//! series and events.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Cadence, ProbeLive, RunBuilder, Sample, Seen, files::SampleFile};
use crate::{
    clock::{ClockId, Stamp},
    journal::{Event, ProbeRun},
    scenario::types::{Dur, ProbeState},
};

/// What every probe says now, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Board(pub BTreeMap<String, ProbeLive>);

/// How the runner speaks to the collector.
#[derive(Debug)]
pub(super) enum Order {
    /// The current run of every probe ends at this instant of the runner's clock.
    Cut(Stamp),
    /// Another clock against the runner's, as [`Event::ClockLinked`] has it.
    Link { clock: ClockId, offset_us: i64, error_us: i64, wall_offset_us: i64 },
    /// Answered when all that came before is in the journal's hands.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug, Clone, Copy)]
struct Link {
    offset_us: i64,
    error_us: i64,
    wall_offset_us: i64,
}

struct Watched {
    builder: RunBuilder,
    cadence: Cadence,
    file: Option<SampleFile>,
    last: Option<Instant>,
    stale: bool,
}

/// What the collector works with.
pub(super) struct Collector {
    own: ClockId,
    probes: BTreeMap<Arc<str>, Watched>,
    links: BTreeMap<ClockId, Link>,
    /// Comparisons of a third clock with one that is not linked itself yet.
    unlinked: BTreeMap<ClockId, (ClockId, Link)>,
    events: mpsc::Sender<Event>,
    board: watch::Sender<Board>,
}

/// Nobody takes the events any more: the runner is going down.
struct Gone;

impl Collector {
    pub(super) fn new(own: ClockId, events: mpsc::Sender<Event>, board: watch::Sender<Board>) -> Self {
        Self { own, probes: BTreeMap::new(), links: BTreeMap::new(), unlinked: BTreeMap::new(), events, board }
    }

    /// Makes a probe known. A file that cannot be opened is told when the collector runs, and no reason not to sample.
    pub(super) fn add(&mut self, probe: &str, cadence: Cadence, sequential: bool, dir: &Path) -> Option<Event> {
        let (file, told) = match SampleFile::open(dir, probe) {
            Ok(file) => (Some(file), None),
            Err(error) => (None, Some(not_kept(probe, &error))),
        };
        let builder = RunBuilder::new(probe, cadence, sequential);
        self.probes.insert(probe.into(), Watched { builder, cadence, file, last: None, stale: false });
        told
    }

    /// Takes in what is seen until nobody is left to see anything, then ends all runs.
    pub(super) async fn run(mut self, mut seen: mpsc::Receiver<Seen>, mut orders: mpsc::Receiver<Order>) {
        let mut chores = interval(Duration::from_millis(250));
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ordered = true;
        loop {
            let done = tokio::select! {
                biased;
                one = seen.recv() => match one {
                    Some(one) => self.take(one).await,
                    None => break,
                },
                order = orders.recv(), if ordered => match order {
                    Some(order) => self.obey(order).await,
                    None => { ordered = false; Ok(()) }
                },
                _ = chores.tick() => self.chores().await,
            };
            if done.is_err() {
                return;
            }
        }
        for watched in self.probes.values_mut() {
            for run in watched.builder.finish() {
                if self.events.send(Event::Run(run)).await.is_err() {
                    return;
                }
            }
        }
        // If nobody takes them, nobody misses them.
        let _ = self.chores().await;
    }

    async fn take(&mut self, seen: Seen) -> Result<(), Gone> {
        match seen {
            Seen::Sample { probe, sample } => self.sample(&probe, sample).await,
            Seen::Lost { probe, from, to } => {
                let runs = self.probes.get_mut(&probe).map(|watched| watched.builder.lost(from, to)).unwrap_or_default();
                self.runs(runs).await?;
                self.trouble(&probe, &format!("{} samples were taken and could not be kept", to - from + 1)).await
            }
            Seen::Attempt { probe, write, send } => self.row(&probe, &format!("w{write}"), &send, "sent").await,
            Seen::Written { probe, write, outcome, end } => self.row(&probe, &format!("w{write}"), &end, &outcome).await,
            Seen::Alert(alert) => self.event(Event::Alert(*alert)).await,
            Seen::Linked { clock, base, offset_us, error_us, wall_offset_us } => {
                self.linked(clock, base, Link { offset_us, error_us, wall_offset_us }).await
            }
            Seen::Reading { of, begin, end, reading } => {
                self.event(Event::Reading { of: of.to_string(), begin, end, reading: *reading }).await
            }
            Seen::Trouble { probe, detail } => {
                tracing::warn!(probe = &*probe, detail, "probe has trouble");
                self.trouble(&probe, &detail).await
            }
        }
    }

    async fn sample(&mut self, probe: &Arc<str>, sample: Sample) -> Result<(), Gone> {
        let Some(watched) = self.probes.get_mut(probe) else { return Ok(()) };
        watched.last = Some(Instant::now());
        watched.stale = false;
        let written = watched.file.as_mut().map_or(Ok(()), |file| file.sample(&sample));
        let runs = watched.builder.push(sample);
        if let Some(live) = watched.builder.live() {
            let live = live.clone();
            self.board.send_if_modified(|board| match board.0.get_mut(&**probe) {
                Some(old) if *old == live => false,
                Some(old) => {
                    *old = live;
                    true
                }
                None => {
                    board.0.insert(probe.to_string(), live);
                    true
                }
            });
        }
        self.runs(runs).await?;
        self.written(probe, written).await
    }

    async fn row(&mut self, probe: &Arc<str>, n: &str, at: &Stamp, state: &str) -> Result<(), Gone> {
        let file = self.probes.get_mut(probe).and_then(|watched| watched.file.as_mut());
        let written = file.map_or(Ok(()), |file| file.row(n, at, "", state, ""));
        self.written(probe, written).await
    }

    async fn written(&mut self, probe: &str, written: std::io::Result<()>) -> Result<(), Gone> {
        match written {
            Ok(()) => Ok(()),
            Err(error) => self.event(not_kept(probe, &error)).await,
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), Gone> {
        match order {
            Order::Cut(at) => {
                let links = &self.links;
                for watched in self.probes.values_mut() {
                    let clock = watched.builder.live().map_or(&self.own, |live| &live.since.clock);
                    let mono_us = match links.get(clock) {
                        _ if *clock == self.own => at.mono_us,
                        Some(link) => at.mono_us + link.offset_us,
                        // A clock that is not linked: cut here and now, by order of arrival.
                        None => i64::MIN,
                    };
                    watched.builder.cut(&Stamp { mono_us, clock: clock.clone(), ..at });
                }
                Ok(())
            }
            Order::Link { clock, offset_us, error_us, wall_offset_us } => {
                let own = self.own.clone();
                self.linked(clock, own, Link { offset_us, error_us, wall_offset_us }).await
            }
            Order::Flush(answer) => {
                // Who asked may have given up.
                let _ = answer.send(());
                Ok(())
            }
        }
    }

    /// Journals a clock's link with the runner's; one that is linked over another clock carries the errors of both.
    async fn linked(&mut self, clock: ClockId, base: ClockId, link: Link) -> Result<(), Gone> {
        let over =
            if base == self.own { Some(Link { offset_us: 0, error_us: 0, wall_offset_us: 0 }) } else { self.links.get(&base).copied() };
        let Some(over) = over else {
            self.unlinked.insert(clock, (base, link));
            return Ok(());
        };
        let link = Link {
            offset_us: over.offset_us + link.offset_us,
            error_us: over.error_us + link.error_us,
            wall_offset_us: over.wall_offset_us + link.wall_offset_us,
        };
        self.links.insert(clock.clone(), link);
        let Link { offset_us, error_us, wall_offset_us } = link;
        self.event(Event::ClockLinked { clock: clock.clone(), offset_us, error_us, wall_offset_us }).await?;
        let waiting: Vec<_> = self.unlinked.extract_if(.., |_, (base, _)| *base == clock).collect();
        for (third, (base, link)) in waiting {
            Box::pin(self.linked(third, base, link)).await?;
        }
        Ok(())
    }

    /// Flushes the files, and shows probes that say nothing any more as unknown.
    async fn chores(&mut self) -> Result<(), Gone> {
        let mut told = Vec::new();
        for (probe, watched) in &mut self.probes {
            if let Some(Err(error)) = watched.file.as_mut().map(SampleFile::flush) {
                told.push(not_kept(probe, &error));
            }
            let patience = watched.cadence.every * 2 + watched.cadence.timeout + Duration::from_millis(500);
            let silent = watched.last.map(|last| last.elapsed()).filter(|silent| *silent > patience && !watched.stale);
            if let (Some(silent), Some(live)) = (silent, watched.builder.live()) {
                watched.stale = true;
                let detail = format!("no sample for {}", Dur(Duration::from_millis(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX))));
                let last = live.last_complete.clone();
                let live = ProbeLive { state: Some(ProbeState::Unknown), since: last.clone(), last_complete: last, count: 0, detail };
                self.board.send_modify(|board| {
                    board.0.insert(probe.to_string(), live);
                });
            }
        }
        for event in told {
            self.event(event).await?;
        }
        Ok(())
    }

    async fn runs(&self, runs: Vec<ProbeRun>) -> Result<(), Gone> {
        for run in runs {
            self.event(Event::Run(run)).await?;
        }
        Ok(())
    }

    async fn trouble(&self, probe: &str, detail: &str) -> Result<(), Gone> {
        self.event(Event::Deviation { detail: format!("probe `{probe}`: {detail}") }).await
    }

    async fn event(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

fn not_kept(probe: &str, error: &std::io::Error) -> Event {
    Event::Deviation { detail: format!("probe `{probe}`: its raw samples could not be written any more: {error}; its runs go on") }
}

#[cfg(test)]
mod tests;
