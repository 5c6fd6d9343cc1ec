//! The link between runner and agent over connections that drop, and what an agent does when nobody renews it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use firedrill::{
    agent::{
        Events, Link, LinkError, LinkEvent, LinkSpec, LinkState, Transport,
        server::{Config, EventsOut, Listen, Order, serve},
    },
    clock::Clock,
};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};

const LIMIT: Duration = Duration::from_secs(10);

/// An agent in this process whose service counts and echoes, and undoes nothing.
struct Agent {
    socket: PathBuf,
    events: EventsOut,
    done: Arc<AtomicU32>,
    ended: JoinHandle<Result<String, String>>,
    _dir: tempfile::TempDir,
}

fn agent(ttl: Duration, buffer: usize, clock: Clock) -> Agent {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let events = EventsOut::new(buffer);
    let done = Arc::new(AtomicU32::new(0));
    let (orders, mut rx) = mpsc::channel(64);
    let count = Arc::clone(&done);
    let service = async move {
        while let Some(order) = rx.recv().await {
            match order {
                Order::Call { body, reply } => {
                    tokio::time::sleep(Duration::from_millis(body["ms"].as_u64().unwrap_or(0))).await;
                    let n = count.fetch_add(1, Ordering::SeqCst) + 1;
                    let answer =
                        if body["fail"] == json!(true) { Err("cannot".to_owned()) } else { Ok(json!({"n": n, "echo": body["say"]})) };
                    let _ = reply.send(answer);
                }
                Order::End { why } => return Ok(format!("undone because {why}")),
            }
        }
        Ok("undone".to_owned())
    };
    let config = Config { drill: "d".to_owned(), token: "t".to_owned(), ttl, end_limit: LIMIT, kept: None, stop: None };
    let ended = tokio::spawn(serve(config, clock, Listen::Socket(socket.clone()), events.clone(), orders, service));
    Agent { socket, events, done, ended, _dir: dir }
}

/// A socket before the agent's that cuts all its connections when told to, and lets none through while closed.
fn proxy(to: &Path) -> (PathBuf, watch::Sender<bool>) {
    let path = to.with_extension("proxy");
    let listener = UnixListener::bind(&path).unwrap();
    let (open, rx) = watch::channel(true);
    let to = to.to_owned();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let (to, mut rx) = (to.clone(), rx.clone());
            tokio::spawn(async move {
                if !*rx.borrow_and_update() {
                    return;
                }
                let mut far = UnixStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    Ok(_) = rx.wait_for(|open| !open) => {}
                }
            });
        }
    });
    (path, open)
}

/// As a runner that has not been there before.
async fn attach(socket: &Path, token: &str, ttl: Duration) -> Result<(Link, Events), LinkError> {
    attach_as(&firedrill::agent::link::runner(), socket, token, ttl).await
}

async fn attach_as(runner: &str, socket: &Path, token: &str, ttl: Duration) -> Result<(Link, Events), LinkError> {
    for _ in 0..100 {
        if socket.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spec = LinkSpec {
        drill: "d".to_owned(),
        token: token.to_owned(),
        runner: runner.to_owned(),
        ttl,
        transport: Transport::Socket(socket.to_owned()),
    };
    Link::attach(spec, Clock::host(), LIMIT).await
}

async fn call(link: &Link, body: Value) -> Result<Value, LinkError> {
    link.call("test", &body, LIMIT).await
}

#[tokio::test]
async fn a_request_whose_connection_drops_is_answered_and_not_done_twice() {
    let agent = agent(LIMIT, 1 << 20, Clock::host_as("there"));
    let (socket, open) = proxy(&agent.socket);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (link, _events) = attach(&socket, "t", LIMIT).await.unwrap();
    for round in 1..=3u32 {
        let (asked, ()) = tokio::join!(call(&link, json!({"ms": 300, "say": round})), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            open.send_replace(false);
            tokio::time::sleep(Duration::from_millis(50)).await;
            open.send_replace(true);
        });
        assert_eq!(asked.unwrap(), json!({"n": round, "echo": round}));
    }
    assert_eq!(agent.done.load(Ordering::SeqCst), 3);
    assert!(matches!(call(&link, json!({"fail": true})).await, Err(LinkError::Failed { why, .. }) if why == "cannot"));
}

#[tokio::test]
async fn events_arrive_once_and_in_order_over_dropped_connections() {
    let agent = agent(LIMIT, 1 << 20, Clock::host_as("there"));
    let (socket, open) = proxy(&agent.socket);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (_link, mut events) = attach(&socket, "t", LIMIT).await.unwrap();
    let out = agent.events.clone();
    let pushing = tokio::spawn(async move {
        for n in 0..6000 {
            out.push(json!(n));
            if n % 1500 == 700 {
                open.send_replace(false);
                tokio::time::sleep(Duration::from_millis(50)).await;
                open.send_replace(true);
            }
            if n % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    for n in 0..6000 {
        let event = tokio::time::timeout(LIMIT, events.next()).await.expect("events stopped coming");
        assert_eq!(event, Some(LinkEvent::Event(json!(n))));
    }
    pushing.await.unwrap();
}

#[tokio::test]
async fn events_that_did_not_fit_are_counted() {
    // Each event is 8 bytes of JSON; 100 of them fit.
    let agent = agent(LIMIT, 800, Clock::host_as("there"));
    for n in 0..1000 {
        agent.events.push(json!(format!("{n:06}")));
    }
    let (_link, mut events) = attach(&agent.socket, "t", LIMIT).await.unwrap();
    assert_eq!(events.next().await, Some(LinkEvent::Lost(900)));
    assert_eq!(events.next().await, Some(LinkEvent::Event(json!("000900"))));
}

#[tokio::test]
async fn a_runner_with_another_token_is_refused_and_a_later_one_takes_over() {
    let agent = agent(LIMIT, 1 << 20, Clock::host_as("there"));
    let stranger = attach(&agent.socket, "other", LIMIT).await;
    assert!(matches!(&stranger, Err(LinkError::Ended { why, .. }) if why.contains("another drill")), "{:?}", stranger.err());
    let (first, mut first_events) = attach(&agent.socket, "t", LIMIT).await.unwrap();
    agent.events.push(json!("seen by the first"));
    agent.events.push(json!("taken by the first, not dealt with"));
    assert!(first_events.next().await.is_some() && first_events.next().await.is_some());
    // The second `next` acknowledged the first event only; give that a moment to arrive.
    call(&first, json!({})).await.unwrap();
    let (second, mut events) = attach(&agent.socket, "t", LIMIT).await.unwrap();
    assert_eq!(events.next().await, Some(LinkEvent::Event(json!("taken by the first, not dealt with"))));
    assert!(call(&second, json!({"say": 1})).await.is_ok());
    let mut state = first.state();
    let ended = tokio::time::timeout(LIMIT, state.wait_for(|s| matches!(s, LinkState::Ended(_)))).await.unwrap().unwrap().clone();
    assert!(matches!(&ended, LinkState::Ended(why) if why.contains("taken this agent over")), "{ended:?}");
    assert!(call(&first, json!({})).await.is_err());
}

#[tokio::test]
async fn a_runner_that_was_taken_over_is_refused_though_its_link_is_new() {
    let agent = agent(LIMIT, 1 << 20, Clock::host_as("there"));
    let (first, _) = attach_as("first", &agent.socket, "t", LIMIT).await.unwrap();
    drop(first);
    // Its own second link is welcome.
    let (again, _) = attach_as("first", &agent.socket, "t", LIMIT).await.unwrap();
    call(&again, json!({})).await.unwrap();
    let (second, _) = attach_as("second", &agent.socket, "t", LIMIT).await.unwrap();
    call(&second, json!({})).await.unwrap();
    let late = attach_as("first", &agent.socket, "t", LIMIT).await;
    assert!(matches!(&late, Err(LinkError::Ended { why, .. }) if why.contains("taken this agent over")), "{:?}", late.err());
    assert!(call(&second, json!({})).await.is_ok(), "the second is not disturbed");
}

#[tokio::test]
async fn an_agent_that_is_not_renewed_undoes_everything_and_ends_and_one_that_is_lives_on() {
    let ttl = Duration::from_secs(1);
    let agent = agent(ttl, 1 << 20, Clock::host_as("there"));
    let (link, _events) = attach(&agent.socket, "t", ttl).await.unwrap();
    tokio::time::sleep(3 * ttl).await;
    assert!(!agent.ended.is_finished(), "it was renewed");
    assert!(call(&link, json!({})).await.is_ok());
    drop(link);
    let why = tokio::time::timeout(ttl + Duration::from_secs(2), agent.ended).await.expect("it lives on").unwrap().unwrap();
    assert!(why.contains("no runner renewed the time to live of 1s; undone because"), "{why}");
}

#[tokio::test]
async fn goodbye_undoes_and_says_what() {
    let agent = agent(LIMIT, 1 << 20, Clock::host_as("there"));
    let (link, _events) = attach(&agent.socket, "t", LIMIT).await.unwrap();
    assert_eq!(link.bye(LIMIT).await.unwrap(), "undone because goodbye");
    assert_eq!(agent.ended.await.unwrap().unwrap(), "goodbye; undone because goodbye");
    assert!(matches!(call(&link, json!({})).await, Err(LinkError::Ended { .. })));
}

#[tokio::test]
async fn the_agents_clock_is_measured_though_it_is_an_hour_wrong() {
    let hour = 3_600_000_000;
    let agent = agent(LIMIT, 1 << 20, Clock::host_as("there").skewed(hour));
    let (link, _events) = attach(&agent.socket, "t", LIMIT).await.unwrap();
    let measured = link.clock_link().unwrap();
    assert_eq!(&*measured.clock.0, "there");
    assert!((measured.offset_us - hour).abs() <= measured.error_us, "{measured:?}");
    assert!((measured.wall_offset_us - hour).abs() <= measured.error_us + 1_000, "{measured:?}");
    assert!(measured.error_us < 50_000, "{measured:?}");
}

#[tokio::test]
async fn a_child_process_serves_over_its_standard_input_and_ends_with_it() {
    let args = ["agent", "node", "--stdio", "--drill", "d", "--token", "t", "--pod-uid", "own"];
    let transport = Transport::Child { program: env!("CARGO_BIN_EXE_firedrill").into(), args: args.map(str::to_owned).to_vec() };
    let spec = LinkSpec { drill: "d".to_owned(), token: "t".to_owned(), runner: "r".to_owned(), ttl: LIMIT, transport };
    let (link, _events) = Link::attach(spec, Clock::host(), LIMIT).await.unwrap();
    let own = json!({"look": {"pods": [{"uid": "own", "name": "x/own", "containers": [], "ids": {}}]}});
    assert!(matches!(call(&link, own).await, Err(LinkError::Failed { why, .. }) if why.contains("own pod")));
    let nobody = json!({"inject": {"how": "freeze", "pods": [{"uid": "00000000-none", "name": "x/none", "containers": [], "ids": {}}]}});
    assert!(matches!(call(&link, nobody).await, Err(LinkError::Failed { why, .. }) if why.contains("nothing was done")));
    assert_eq!(link.bye(LIMIT).await.unwrap(), "");
}
