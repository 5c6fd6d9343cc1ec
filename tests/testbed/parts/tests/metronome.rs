//! The metronome as its users see it: sockets and the control port.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{LIMIT, request};
use testbed_parts::clock::Clock;
use testbed_parts::metronome::{Addresses, Entry, Event, Metronome, Options, Planned, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

type Result<T = ()> = anyhow::Result<T>;

async fn start(clock: Clock) -> Result<(Metronome, Addresses)> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let metronome = Metronome::start(Options { http: any, tcp: any, control: any, clock }).await?;
    let addresses = metronome.addresses();
    Ok((metronome, addresses))
}

async fn schedule(to: &Addresses, outages: &str) -> Result<Vec<Planned>> {
    let (status, body) = request(to.control, "POST", "/schedule", &format!(r#"{{"outages":[{outages}]}}"#)).await?;
    anyhow::ensure!(status == 200, "{status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// The log's entries of one port, once there are `count`.
async fn log(to: &Addresses, service: Service, count: usize) -> Result<Vec<Entry>> {
    let wait = async {
        loop {
            let (_, body) = request(to.control, "GET", "/log", "").await?;
            let entries: Vec<Entry> = serde_json::from_str(&body)?;
            let entries: Vec<_> = entries.into_iter().filter(|entry| entry.service == service).collect();
            if entries.len() >= count {
                return Ok(entries);
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, wait).await?
}

fn events(entries: &[Entry]) -> Vec<Event> {
    entries.iter().map(|entry| entry.event).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_then_refuses_then_serves_and_the_log_brackets_what_clients_see() -> Result {
    let clock = Clock::default();
    let (metronome, to) = start(clock).await?;
    schedule(&to, r#"{"in_ms":150,"for_ms":200}"#).await?;
    // Every attempt: when it was sent, when it was over, whether it was answered.
    let mut seen = Vec::new();
    let before = clock.now().mono_us;
    while clock.now().mono_us < before + 600_000 {
        let sent = clock.now().mono_us;
        let good = matches!(request(to.http, "GET", "/", "").await, Ok((200, body)) if body == "ok\n");
        seen.push((sent, clock.now().mono_us, good));
        sleep(Duration::from_millis(1)).await;
    }
    let entries = log(&to, Service::Http, 3).await?;
    assert_eq!(events(&entries), [Event::Opened, Event::Closed, Event::Opened]);
    let (closed, opened) = (&entries[1], &entries[2]);
    assert!(closed.begin_mono_us <= closed.end_mono_us && closed.end_mono_us < opened.begin_mono_us);
    let within = |low: i64, high: i64, good: bool| {
        let inside: Vec<_> = seen.iter().filter(|(sent, over, _)| *sent > low && *over < high).collect();
        assert!(inside.len() > 5, "only {} attempts between {low} and {high}", inside.len());
        let wrong = inside.iter().find(|(_, _, answered)| *answered != good);
        assert!(wrong.is_none(), "{wrong:?} should have been good: {good}; {entries:?}");
    };
    within(before, closed.begin_mono_us, true);
    within(closed.end_mono_us, opened.begin_mono_us, false);
    within(opened.end_mono_us, i64::MAX, true);
    metronome.stop().await
}

#[tokio::test]
async fn going_down_resets_connections_and_refuses_new_ones() -> Result {
    let (metronome, to) = start(Clock::default()).await?;
    let mut kept = TcpStream::connect(to.tcp).await?;
    let mut banner = [0; 21];
    timeout(LIMIT, kept.read_exact(&mut banner)).await??;
    assert_eq!(&banner, b"220 metronome ready\r\n");
    schedule(&to, r#"{"in_ms":20,"for_ms":60000,"service":"tcp"}"#).await?;
    let error = timeout(LIMIT, kept.read(&mut banner)).await?.err().map(|error| error.kind());
    assert_eq!(error, Some(std::io::ErrorKind::ConnectionReset));
    let entries = log(&to, Service::Tcp, 2).await?;
    assert_eq!((entries[1].event, entries[1].connections_reset), (Event::Closed, 1));
    let refused = TcpStream::connect(to.tcp).await.err().map(|error| error.kind());
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
    // The other port is not concerned, and cancelling brings this one back.
    assert_eq!(request(to.http, "GET", "/", "").await?.0, 200);
    assert_eq!(request(to.control, "DELETE", "/schedule", "").await?.0, 204);
    let entries = log(&to, Service::Tcp, 3).await?;
    assert_eq!((entries[2].event, entries[2].planned_us), (Event::Opened, None));
    TcpStream::connect(to.tcp).await?;
    metronome.stop().await
}

#[tokio::test]
async fn hanging_accepts_and_answers_late() -> Result {
    let (metronome, to) = start(Clock::default()).await?;
    let mut kept = TcpStream::connect(to.http).await?;
    let get = b"GET / HTTP/1.1\r\nhost: m\r\n\r\n";
    let mut answer = [0; 512];
    kept.write_all(get).await?;
    assert!(timeout(LIMIT, kept.read(&mut answer)).await?? > 0);
    schedule(&to, r#"{"in_ms":0,"for_ms":60000,"mode":"hang"}"#).await?;
    assert_eq!(events(&log(&to, Service::Http, 2).await?), [Event::Opened, Event::Hung]);
    let mut fresh = TcpStream::connect(to.http).await?;
    for stream in [&mut kept, &mut fresh] {
        stream.write_all(get).await?;
        let silent = timeout(Duration::from_millis(100), stream.read(&mut answer)).await;
        assert!(silent.is_err(), "a hung port said {silent:?}");
    }
    assert_eq!(request(to.control, "DELETE", "/schedule", "").await?.0, 204);
    for stream in [&mut kept, &mut fresh] {
        let length = timeout(LIMIT, stream.read(&mut answer)).await??;
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
    }
    metronome.stop().await
}

#[tokio::test]
async fn a_lying_clock_shifts_every_wall_time() -> Result {
    let offset = -7_000_000;
    let (honest, lying) = (Clock::default(), Clock::with_offset(offset));
    let (metronome, to) = start(lying).await?;
    let down_at = lying.now().wall_us + 50_000;
    let up_at = down_at + 50_000;
    schedule(&to, &format!(r#"{{"down_at_us":{down_at},"up_at_us":{up_at}}}"#)).await?;
    let entries = log(&to, Service::Tcp, 3).await?;
    assert_eq!((entries[1].planned_us, entries[2].planned_us), (Some(down_at), Some(up_at)));
    assert!(entries[1].begin_us >= down_at, "closed at {} before {down_at}", entries[1].begin_us);
    // By the same machine's monotonic clock, its wall times are off by the offset.
    let now = honest.now();
    let honest_wall = now.wall_us - (now.mono_us - entries[1].begin_mono_us);
    let error = entries[1].begin_us - honest_wall - offset;
    assert!(error.abs() < 1_000_000, "off by {error} us");
    metronome.stop().await
}

#[tokio::test]
async fn a_schedule_that_makes_no_sense_is_refused() -> Result {
    let (metronome, to) = start(Clock::default()).await?;
    schedule(&to, r#"{"in_ms":5000,"for_ms":1000}"#).await?;
    for (outages, word) in [
        (r#"{"in_ms":5500,"for_ms":10}"#, "it meets the outage"),
        (r#"{"down_at_us":1,"up_at_us":2}"#, "is past"),
        (r#"{"in_ms":1}"#, "give down_at_us and up_at_us"),
        (r#"{"in_ms":1,"for_ms":1,"colour":"red"}"#, "colour"),
    ] {
        let refused = schedule(&to, outages).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.starts_with('4') && refused.contains(word), "{outages} gave {refused:?}");
    }
    metronome.stop().await
}
