use std::net::Ipv4Addr;

use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};

use super::*;
use crate::probe::Sample;

const MS: Duration = Duration::from_millis(1);

fn engine() -> (Engine, mpsc::Receiver<Seen>) {
    let (out, seen) = mpsc::channel(1000);
    (Engine::new(Clock::host(), Dialer::host().unwrap(), out), seen)
}

fn spec(kind: SpecKind, connection: Connection) -> ProbeSpec {
    ProbeSpec { name: "p".to_owned(), every: Dur::from_millis(30), timeout: Dur::from_millis(200), connection, kind }
}

/// Samples until one is as wanted.
async fn until(seen: &mut mpsc::Receiver<Seen>, wanted: impl Fn(&Sample) -> bool) -> Sample {
    timeout(Duration::from_secs(20), async {
        loop {
            match seen.recv().await {
                Some(Seen::Sample { sample, .. }) if wanted(&sample) => return sample,
                Some(_) => {}
                None => panic!("the engine is gone"),
            }
        }
    })
    .await
    .unwrap()
}

/// A server that greets each connection with what is in the cell now, and keeps it open while that is not empty.
async fn greeter() -> (String, watch::Sender<&'static str>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (greeting, says) = watch::channel("220 ready\r\n");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut says = says.clone();
            tokio::spawn(async move {
                let greeting = *says.borrow_and_update();
                stream.write_all(greeting.as_bytes()).await.unwrap();
                let _ = says.changed().await;
            });
        }
    });
    (address, greeting)
}

fn tcp(address: &str, exchange: &[(&str, &str)]) -> SpecKind {
    let turn = |(kind, text): &(&str, &str)| {
        let mut turn = crate::scenario::types::Exchange::default();
        *(if *kind == "send" { &mut turn.send } else { &mut turn.expect }) = Some((*text).to_owned());
        turn
    };
    SpecKind::Tcp(TcpProbe { address: address.to_owned(), exchange: exchange.iter().map(turn).collect() })
}

#[tokio::test]
async fn tcp_is_good_when_what_is_expected_comes_bad_when_something_else_or_nothing_does() {
    let (address, greeting) = greeter().await;
    let (mut engine, mut seen) = engine();
    engine.add(spec(tcp(&address, &[("expect", "220 ")]), Connection::Fresh)).unwrap();
    until(&mut seen, |s| s.state == ProbeState::Good).await;
    greeting.send_replace("421 closing\r\n");
    let bad = until(&mut seen, |s| s.state == ProbeState::Bad).await;
    assert!(bad.detail.starts_with("no answer within 200ms"), "{}", bad.detail);
    greeting.send_replace("220 again\r\n");
    until(&mut seen, |s| s.state == ProbeState::Good).await;
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_is_closed_is_bad_once_and_then_made_again() {
    let (address, greeting) = greeter().await;
    let (mut engine, mut seen) = engine();
    engine.add(spec(tcp(&address, &[]), Connection::Kept)).unwrap();
    until(&mut seen, |s| s.state == ProbeState::Good && s.n > 2).await;
    // Every open connection is closed by this.
    greeting.send_replace("220 new\r\n");
    let bad = until(&mut seen, |s| s.state == ProbeState::Bad).await;
    assert!(bad.detail.contains("closed"), "{}", bad.detail);
    let good = until(&mut seen, |s| s.n > bad.n).await;
    assert_eq!(good.state, ProbeState::Good);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn http_is_judged_by_status_and_body() {
    let (address, answer) = greeter().await;
    answer.send_replace("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    let probe = HttpProbe { url: format!("http://{address}/"), contains: Some("ell".to_owned()), ..HttpProbe::default() };
    let (mut engine, mut seen) = engine();
    engine.add(spec(SpecKind::Http(probe), Connection::Fresh)).unwrap();
    until(&mut seen, |s| s.state == ProbeState::Good && s.detail == "status 200").await;
    answer.send_replace("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nworld");
    until(&mut seen, |s| s.state == ProbeState::Bad && s.detail == "status 200, body lacks `ell`").await;
    answer.send_replace("HTTP/1.1 503 Oops\r\ncontent-length: 0\r\n\r\n");
    until(&mut seen, |s| s.state == ProbeState::Bad && s.detail == "status 503").await;
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_by_name() {
    let (mut engine, _seen) = engine();
    let http = |url: &str, method: &str| {
        SpecKind::Http(HttpProbe { url: url.to_owned(), method: Some(method.to_owned()), ..HttpProbe::default() })
    };
    for (kind, word) in [
        (http("checkout.shop", "GET"), "write `http://…`"),
        (http("http://a/", "G E T"), "not an HTTP method"),
        (tcp("checkout.shop", &[]), "not `host:port`"),
    ] {
        let error = engine.add(spec(kind, Connection::Fresh)).unwrap_err();
        assert!(error.starts_with("probe `p`: ") && error.contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_sampler_that_panics_is_told_and_the_others_go_on() {
    let (mut engine, mut seen) = engine();
    let cadence = Cadence { every: MS * 20, timeout: MS * 20 };
    engine.sample("broken", cadence, ProbeState::Bad, Box::new(|| async { panic!("on purpose") }.boxed()), None);
    engine.sample("sound", cadence, ProbeState::Bad, Box::new(|| async { crate::probe::Outcome::good("ok") }.boxed()), None);
    let (mut told, mut sound) = (None, 0);
    while told.is_none() || sound < 5 {
        match timeout(Duration::from_secs(10), seen.recv()).await.unwrap() {
            Some(Seen::Trouble { probe, detail }) => told = Some((probe, detail)),
            Some(Seen::Sample { probe, .. }) => sound += u32::from(&*probe == "sound"),
            other => panic!("{other:?}"),
        }
    }
    let (probe, detail) = told.unwrap();
    assert_eq!((&*probe, detail.as_str()), ("broken", "its sampler failed: on purpose; it is not sampled any more"));
    engine.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_stop_is_ended_and_told() {
    let (mut engine, _seen) = engine();
    engine.spawn("stuck", sleep(Duration::from_secs(3600)));
    assert_eq!(engine.stop().await, Err("1 samplers did not stop in time and were ended".to_owned()));
}

#[test]
fn passwords_do_not_show_in_debug_output() {
    let target = crate::probe::PgTarget {
        host: "h".to_owned(),
        port: 5432,
        database: "d".to_owned(),
        user: "u".to_owned(),
        password: crate::probe::Secret::new("hunter2".to_owned()),
    };
    let ledger = spec(SpecKind::Ledger(LedgerSpec { target, table: "t".to_owned() }), Connection::Fresh);
    assert!(!format!("{ledger:?}").contains("hunter2"));
}
