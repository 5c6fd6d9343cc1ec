//! The bar for measuring: real outages of known length, probed for real, judged by the verdict.

mod kit;

use std::time::Duration;

use firedrill::{
    agent::{Link, LinkSpec, Transport},
    clock::{Clock, Stamp},
    fault::Undo,
    journal::{Event, TouchedObject},
    plan::PlannedStep,
    probe::Observer,
    scenario::types::{Dur, FaultSpec, From, OnTarget, RecoveryTime, Step},
    verdict::Outcome,
};
use kit::{Result, Yardstick, outage_of, probe, thirty, verdict, watch};
use testbed_parts::metronome::{Mode, Service};

#[tokio::test]
async fn the_true_duration_of_thirty_outages_lies_inside_every_reported_bracket() -> Result {
    let dir = tempfile::tempdir()?;
    let all = thirty(&Clock::host(), dir.path()).await?;
    assert_eq!(all.len(), 60);
    for m in &all {
        let (truth, bracket) = (m.truth, (m.lower, m.upper));
        println!(
            "{} ({:?}) every {} timeout {}: true {truth:?} us, measured {bracket:?} us {}",
            m.probe, m.mode, m.every, m.timeout, m.reason
        );
    }
    let outside = |m: &&kit::Measured| {
        let low = m.lower.is_none_or(|lower| lower > m.truth.1);
        // A bracket without an upper end contains everything, and says nothing.
        let high = m.upper.is_none_or(|upper| upper < m.truth.0);
        low || high
    };
    let wrong: Vec<_> = all.iter().filter(outside).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), all.len());
    Ok(())
}

#[tokio::test]
async fn five_seconds_at_a_cadence_of_two_do_not_decide_a_target_of_five() -> Result {
    let (clock, dir, yardstick) = (Clock::host(), tempfile::tempdir()?, Yardstick::start()?);
    let first = clock.now();
    let specs = vec![probe(&yardstick.to, Service::Http, 2000), probe(&yardstick.to, Service::Http, 100)];
    let watched = watch(&clock, dir.path(), &yardstick, specs, None, &[(5000, Mode::Refuse)], 5000).await?;
    let said = |within| {
        watched.specs.iter().map(|spec| verdict(spec, outage_of(spec, within), Vec::new(), &first, watched.of(spec, 0))).collect::<Vec<_>>()
    };
    let at_five = said(Dur::from_secs(5));
    assert_eq!(at_five[0].outcome, Outcome::Inconclusive, "{:#?}", at_five[0]);
    // Not for want of data: the same samples do decide targets that are further off, and a denser cadence nearer ones.
    assert_eq!((said(Dur::from_secs(20))[0].outcome, said(Dur::from_secs(1))[0].outcome), (Outcome::Met, Outcome::Missed));
    assert_eq!((said(Dur::from_millis(5500))[1].outcome, said(Dur::from_millis(4500))[1].outcome), (Outcome::Met, Outcome::Missed));
    Ok(())
}

/// An observer in a process of its own whose clock is off.
async fn observer(clock: &Clock, offset_us: i64) -> Result<Observer> {
    let args = ["agent", "observe", "--stdio", "--drill", "d", "--token", "t", "--clock-offset-us", &offset_us.to_string()];
    let transport = Transport::Child { program: env!("CARGO_BIN_EXE_firedrill").into(), args: args.map(str::to_owned).to_vec() };
    let spec = LinkSpec { drill: "d".to_owned(), token: "t".to_owned(), runner: "r".to_owned(), ttl: Duration::from_secs(60), transport };
    let (link, events) = Link::attach(spec, clock.clone(), Duration::from_secs(20)).await?;
    Ok(Observer { link, events, pod: None })
}

#[tokio::test]
async fn clocks_an_hour_apart_measure_a_recovery_right() -> Result {
    const HOUR_US: i64 = 3_600_000_000;
    let (clock, dir, yardstick) = (Clock::host(), tempfile::tempdir()?, Yardstick::start()?);
    // The metronome's log is by CLOCK_MONOTONIC of this machine, the runner's clock by CLOCK_BOOTTIME.
    let shift = clock.now().mono_us - testbed_parts::clock::Clock::default().now().mono_us;
    for offset in [HOUR_US, -HOUR_US] {
        let first = clock.now();
        let specs = vec![probe(&yardstick.to, Service::Http, 100)];
        let before = yardstick.outages(Service::Http).await?.len();
        let observer = Some(observer(&clock, offset).await?);
        let watched = watch(&clock, dir.path(), &yardstick, specs, observer, &[(2000, Mode::Refuse)], 1500).await?;
        let truth = yardstick.outages(Service::Http).await?[before];
        let spec = &watched.specs[0];
        // The samples are on the other clock, or this shows nothing.
        let runs: Vec<_> =
            watched.events.iter().filter_map(|(_, event)| if let Event::Run(run) = event { Some(run) } else { None }).collect();
        assert!(runs.len() >= 3, "{runs:#?}");
        let host = clock.now().mono_us;
        assert!(runs.iter().all(|run| (run.first_send.mono_us - host - offset).abs() < 60_000_000), "{runs:#?}");

        // The fault is on the runner's clock: closing the port.
        let on_runner = |mono_us: i64| Stamp { mono_us: mono_us + shift, ..first.clone() };
        let (start, effective) = (on_runner(truth.closed.0), on_runner(truth.closed.1));
        let port = TouchedObject { kind: "Port".to_owned(), namespace: String::new(), name: "http".to_owned(), uid: "1".to_owned() };
        let undo = Box::new(Undo::Deleted { pods: Vec::new(), owners: Vec::new() });
        let fault = [
            Event::StepStarted { step: "1".to_owned(), start: start.clone() },
            Event::Intent { fault: 0, step: "1".to_owned(), undo, objects: vec![port] },
            Event::Injected { fault: 0, start: start.clone(), end: effective.clone() },
            Event::Effective { fault: 0, at: effective.clone(), proof: "the port is closed".to_owned() },
        ];
        let mut events: Vec<_> = fault.into_iter().map(|event| (effective.clone(), event)).collect();
        events.extend(watched.events.iter().cloned());
        let objective = RecoveryTime {
            probe: spec.name.clone(),
            after: Some("close it".to_owned()),
            within: Dur::from_secs(3),
            stable_for: Dur::ZERO,
            from: From::Fault,
            alert: None,
        };
        let inject = FaultSpec { freeze: Some(OnTarget { target: "port".to_owned() }), ..FaultSpec::default() };
        let step = PlannedStep {
            path: "1".to_owned(),
            title: "close it".to_owned(),
            spec: Step { inject: Some(inject), ..Step::default() },
            fault: Some(0),
            undo: None,
            touches: Vec::new(),
            evicts: Vec::new(),
            manifest: None,
            volume: None,
            runbook_text: None,
            children: Vec::new(),
        };
        let said = verdict(spec, objective, vec![step], &first, events);
        let bracket = said.measured.unwrap_or_else(|| panic!("{said:#?}"));
        let (least, most) = truth.duration();
        let (lower, upper) = (bracket.lower.unwrap_or(i64::MIN), bracket.upper.unwrap_or(i64::MAX));
        assert!(lower <= most && least <= upper, "{offset}: {least}..{most} is not in {said:#?}");
        // Two samples and a time limit wide at the most, and not a fraction of an hour.
        assert!(upper - lower <= 2 * 100_000 + 500_000 + 50_000, "{offset}: {said:#?}");
        assert_eq!(said.outcome, Outcome::Met, "{said:#?}");
    }
    Ok(())
}
