//! Metronomes on threads of their own, probes on them, and the verdict on what the probes saw.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use firedrill::{
    clock::Clock,
    journal::{Event, ProbeRun, Record},
    net::{Dialer, HttpRequest, Url, request},
    plan::{Plan, PlannedObjective, PlannedProbe, PlannedStep},
    probe::{Observer, ProbeSet, ProbeSpec, SpecKind},
    scenario::types::{Connection, Dur, Exchange, From, HttpProbe, Objective, Probe, RecoveryTime, TcpProbe, Vantage},
    verdict::{ObjectiveVerdict, judge},
};
use testbed_parts::metronome::{Addresses, Entry, Event as Went, Metronome, Mode, Options, Outage, Service};
use tokio::{sync::mpsc, time::Instant};

pub(crate) type Result<T = ()> = anyhow::Result<T>;

/// A metronome on a thread of its own; stopped when dropped.
pub(crate) struct Yardstick {
    pub(crate) to: Addresses,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result>>,
}

impl Yardstick {
    pub(crate) fn start() -> Result<Self> {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (said, to) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let options = Options { http: any, tcp: any, control: any, clock: testbed_parts::clock::Clock::default() };
                let metronome = Metronome::start(options).await?;
                said.send(metronome.addresses())?;
                // Dropped is as good as told.
                let _ = stopped.await;
                metronome.stop().await
            })
        });
        let to = to.recv_timeout(Duration::from_secs(10))?;
        Ok(Self { to, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) async fn schedule(&self, outages: &[Outage]) -> Result {
        let body = serde_json::to_vec(&serde_json::json!({ "outages": outages }))?;
        self.ask("POST", "/schedule", body).await?;
        Ok(())
    }

    /// Every time it was down for that port: when it was not yet, and when it was surely, closed; the same for open again.
    pub(crate) async fn outages(&self, service: Service) -> Result<Vec<Truth>> {
        let log: Vec<Entry> = serde_json::from_slice(&self.ask("GET", "/log", Vec::new()).await?)?;
        let mut found = Vec::new();
        let mut down: Option<Entry> = None;
        for entry in log.into_iter().filter(|entry| entry.service == service) {
            match entry.event {
                Went::Closed | Went::Hung => down = Some(entry),
                Went::Opened | Went::Answering => {
                    if let Some(down) = down.take() {
                        found.push(Truth {
                            closed: (down.begin_mono_us, down.end_mono_us),
                            opened: (entry.begin_mono_us, entry.end_mono_us),
                        });
                    }
                }
            }
        }
        Ok(found)
    }

    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Bytes> {
        let dialer = Dialer::host()?;
        let url: Url = format!("http://{}{path}", self.to.control).parse().map_err(anyhow::Error::msg)?;
        let headers = [("content-type", "application/json")];
        let asked = HttpRequest::new(method, url, headers, body.into()).map_err(anyhow::Error::msg)?;
        let answer = tokio::time::timeout(Duration::from_secs(10), request(&dialer, &asked, 1 << 24)).await??;
        anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok(answer.body)
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("the metronome failed: {error}"),
                Err(_) => eprintln!("the metronome panicked"),
            }
        }
    }
}

/// A real outage, by `CLOCK_MONOTONIC` in microseconds: each end lies between two instants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truth {
    pub(crate) closed: (i64, i64),
    pub(crate) opened: (i64, i64),
}

impl Truth {
    /// Its true duration lies between these.
    pub(crate) fn duration(&self) -> (i64, i64) {
        (self.opened.0 - self.closed.1, self.opened.1 - self.closed.0)
    }
}

/// A probe on a metronome.
pub(crate) fn probe(to: &Addresses, service: Service, every_ms: u64) -> ProbeSpec {
    let kind = match service {
        Service::Http => SpecKind::Http(HttpProbe { url: format!("http://{}/", to.http), ..HttpProbe::default() }),
        Service::Tcp => {
            let greeting = Exchange { expect: Some("220 ".to_owned()), ..Exchange::default() };
            SpecKind::Tcp(TcpProbe { address: to.tcp.to_string(), exchange: vec![greeting] })
        }
    };
    let timeout = Dur::from_millis((2 * every_ms).max(500));
    let name = format!("{service:?}-{every_ms}").to_lowercase();
    ProbeSpec { name, every: Dur::from_millis(every_ms), timeout, connection: Connection::Fresh, kind }
}

/// What probes saw, cut in the middle between two outages.
pub(crate) struct Watched {
    pub(crate) specs: Vec<ProbeSpec>,
    /// In order; each with the instant it came at, by the runner's clock.
    pub(crate) events: Vec<(firedrill::clock::Stamp, Event)>,
    /// Where it was cut, by the runner's clock.
    pub(crate) cuts: Vec<i64>,
}

/// Lets the outages happen one after the other, `gap` apart, and watches them.
pub(crate) async fn watch(
    clock: &Clock,
    dir: &Path,
    yardstick: &Yardstick,
    specs: Vec<ProbeSpec>,
    observer: Option<Observer>,
    outages: &[(u32, Mode)],
    gap_ms: u32,
) -> Result<Watched> {
    let (events_tx, mut events_rx) = mpsc::channel(256);
    let (own, recorder) = (clock.clone(), clock.clone());
    let record = tokio::spawn(async move {
        let mut events = Vec::new();
        while let Some(event) = events_rx.recv().await {
            events.push((recorder.now(), event));
        }
        events
    });
    let (here, there) = match observer {
        Some(observer) => (Vec::new(), Some((observer, specs.clone()))),
        None => (specs.clone(), None),
    };
    let set = ProbeSet::of_specs(own, dir, here, there, events_tx).await?;
    let mut in_ms = gap_ms;
    let mut planned = Vec::new();
    let mut cut_at = Vec::new();
    for (length, mode) in outages {
        planned.push(Outage { in_ms: Some(in_ms), for_ms: Some(*length), mode: *mode, ..Outage::default() });
        cut_at.push(in_ms + length + gap_ms / 2);
        in_ms += length + gap_ms;
    }
    let start = Instant::now();
    yardstick.schedule(&planned).await?;
    let mut cuts = vec![i64::MIN];
    for at in cut_at {
        tokio::time::sleep_until(start + Duration::from_millis(at.into())).await;
        cuts.push(clock.now().mono_us);
        set.cut().await;
    }
    tokio::time::sleep_until(start + Duration::from_millis((in_ms + gap_ms / 2).into())).await;
    set.stop().await?;
    let events = record.await?;
    Ok(Watched { specs, events, cuts })
}

impl Watched {
    /// The events of the outage of this number alone: the runs of one probe between two cuts, and everything else.
    pub(crate) fn of(&self, spec: &ProbeSpec, outage: usize) -> Vec<(firedrill::clock::Stamp, Event)> {
        let (from, to) = (self.cuts[outage], self.cuts[outage + 1]);
        let within = |run: &ProbeRun| run.probe == spec.name && (from..to).contains(&run.first_send.mono_us);
        self.events.iter().filter(|(_, event)| !matches!(event, Event::Run(run) if !within(run))).cloned().collect()
    }
}

/// The verdict on a recovery time of this probe after what happened.
pub(crate) fn verdict(
    spec: &ProbeSpec,
    objective: RecoveryTime,
    steps: Vec<PlannedStep>,
    first: &firedrill::clock::Stamp,
    events: Vec<(firedrill::clock::Stamp, Event)>,
) -> ObjectiveVerdict {
    let mut plan = Plan::empty("metronome");
    let probe = match &spec.kind {
        SpecKind::Http(http) => Probe { http: Some(http.clone()), ..Probe::default() },
        SpecKind::Tcp(tcp) => Probe { tcp: Some(tcp.clone()), ..Probe::default() },
        other => panic!("{other:?}"),
    };
    plan.probes.insert(spec.name.clone(), PlannedProbe { spec: probe, every: spec.every, timeout: spec.timeout, from: Vantage::Runner });
    plan.objectives
        .push(PlannedObjective { name: "rto".to_owned(), spec: Objective { recovery_time: Some(objective), ..Objective::default() } });
    plan.steps = steps;
    let (drill, by, version) = ("metronome".to_owned(), "test".to_owned(), "0".to_owned());
    let started = Event::Started { drill, plan: Box::new(plan), by, version, sandbox: false };
    // All was watched to its end.
    let end = events.last().map_or(first, |(at, _)| at).clone();
    let ended = (end.clone(), Event::StepsEnded { at: end });
    let all = std::iter::once((first.clone(), started)).chain(events).chain([ended]);
    let records: Vec<Record> = all.zip(0..).map(|((at, event), seq)| Record { seq, prev: format!("{seq:064}"), at, event }).collect();
    let mut verdict = judge(&records);
    assert_eq!(verdict.objectives.len(), 1);
    verdict.objectives.remove(0)
}

/// An objective on the outage itself.
pub(crate) fn outage_of(spec: &ProbeSpec, within: Dur) -> RecoveryTime {
    RecoveryTime { probe: spec.name.clone(), after: None, within, stable_for: Dur::ZERO, from: From::Outage, alert: None }
}

/// Outages, the two probes that watch them with their cadences (milliseconds), and the time between.
pub(crate) type Series = (&'static [u32], [(Service, u64); 2], u32);

/// Thirty outages of 0.25 s to 20 s, all metronomes at once: about 45 s.
pub(crate) const THIRTY: &[Series] = &[
    (&[250, 350, 500, 700, 900, 1200, 1600, 2000, 2500], [(Service::Http, 50), (Service::Tcp, 100)], 1800),
    (&[300, 450, 600, 800, 1000, 1400, 1800, 2200], [(Service::Http, 100), (Service::Tcp, 250)], 2200),
    (&[3000, 3500, 4000, 4500, 5000], [(Service::Http, 250), (Service::Tcp, 500)], 3000),
    (&[6000, 7000, 8000], [(Service::Http, 500), (Service::Tcp, 100)], 3000),
    (&[9000, 12000], [(Service::Http, 1000), (Service::Tcp, 250)], 6000),
    (&[10000, 15000], [(Service::Http, 200), (Service::Tcp, 1000)], 6000),
    (&[20000], [(Service::Http, 100), (Service::Tcp, 500)], 3000),
];

/// An outage as it was and as it was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) probe: String,
    pub(crate) every: Dur,
    pub(crate) timeout: Dur,
    pub(crate) mode: Mode,
    pub(crate) truth: (i64, i64),
    pub(crate) lower: Option<i64>,
    pub(crate) upper: Option<i64>,
    pub(crate) reason: String,
}

/// All thirty, each by two probes.
pub(crate) async fn thirty(clock: &Clock, dir: &Path) -> Result<Vec<Measured>> {
    let first = clock.now();
    let series = THIRTY.iter().enumerate().map(|(number, (lengths, probes, gap_ms))| {
        let (first, dir) = (&first, dir.join(number.to_string()));
        async move {
            let yardstick = Yardstick::start()?;
            let specs: Vec<_> = probes.iter().map(|(service, every)| probe(&yardstick.to, *service, *every)).collect();
            // Refused and hung by turns, and the other way round in every other series.
            let mode = |i: usize| if (i + number).is_multiple_of(2) { Mode::Refuse } else { Mode::Hang };
            let outages: Vec<_> = lengths.iter().enumerate().map(|(i, length)| (*length, mode(i))).collect();
            let watched = watch(clock, &dir, &yardstick, specs, None, &outages, *gap_ms).await?;
            let mut measured = Vec::new();
            for (spec, (service, _)) in watched.specs.iter().zip(probes) {
                let truths = yardstick.outages(*service).await?;
                anyhow::ensure!(truths.len() == outages.len(), "{} outages of {} happened", truths.len(), outages.len());
                for (i, (truth, (_, mode))) in truths.iter().zip(&outages).enumerate() {
                    let said = verdict(spec, outage_of(spec, Dur::from_secs(1)), Vec::new(), first, watched.of(spec, i));
                    let bracket = said.measured;
                    measured.push(Measured {
                        probe: format!("{number}/{}", spec.name),
                        every: spec.every,
                        timeout: spec.timeout,
                        mode: *mode,
                        truth: truth.duration(),
                        lower: bracket.and_then(|b| b.lower),
                        upper: bracket.and_then(|b| b.upper),
                        reason: said.reason,
                    });
                }
            }
            Ok::<_, anyhow::Error>(measured)
        }
    });
    let mut all = Vec::new();
    for measured in futures::future::join_all(series).await {
        all.extend(measured?);
    }
    Ok(all)
}
