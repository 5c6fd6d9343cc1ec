//! The agent's side of the link: one actor that owns the connection, the time to live and the events not yet acknowledged.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use serde_json::Value;
use tokio::{
    io::DuplexStream,
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    protocol::{FromAgent, Hello, MAX_PENDING, Req, Res, ToAgent, VERSION, WINDOW, Welcome},
    socket,
    wire::{Pipe, Wire},
};
use crate::clock::Clock;

/// How long a service of firedrill's own may take to undo everything: less than its pod's grace period.
pub const END_LIMIT: Duration = Duration::from_secs(12);

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The drill.
    pub drill: String,
    /// Its token.
    pub token: String,
    /// How long to wait for the first runner.
    pub ttl: Duration,
    /// How long the service may take to undo everything at the end.
    pub end_limit: Duration,
    /// Until when it lives by other renewals than the link's, if by any.
    pub kept: Option<watch::Receiver<Option<Instant>>>,
    /// What ends it where the process is not its own; else SIGTERM and SIGINT do.
    pub stop: Option<CancellationToken>,
}

/// Where the runner comes from.
#[derive(Debug)]
pub enum Listen {
    /// Through `firedrill agent attach`, again and again.
    Socket(PathBuf),
    /// This process's standard input and output, once.
    Stdio,
    /// Connections that somebody in this process makes.
    Given(mpsc::Receiver<DuplexStream>),
}

/// What the actor asks of the service.
#[derive(Debug)]
pub enum Order {
    /// Do something and answer.
    Call {
        /// What.
        body: Value,
        /// The answer goes here.
        reply: oneshot::Sender<Result<Value, String>>,
    },
    /// Undo everything and return.
    End {
        /// Why.
        why: String,
    },
}

/// Events for the runner. Pushing never waits.
#[derive(Debug, Clone)]
pub struct EventsOut(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    changed: Notify,
}

#[derive(Debug)]
struct Buffer {
    events: VecDeque<(u64, Value, usize)>,
    bytes: usize,
    max_bytes: usize,
    next_seq: u64,
    acked: u64,
}

impl EventsOut {
    /// An empty buffer of at most this many bytes of JSON.
    pub fn new(max_bytes: usize) -> Self {
        let buffer = Buffer { events: VecDeque::new(), bytes: 0, max_bytes, next_seq: 1, acked: 0 };
        Self(Arc::new(Shared { buffer: Mutex::new(buffer), changed: Notify::new() }))
    }

    /// Keeps an event until the runner has acknowledged it. When the buffer is full, the oldest events are dropped; the
    /// runner is told how many by the hole in their numbers.
    pub fn push(&self, event: Value) {
        let size = event.to_string().len();
        let mut b = self.lock();
        let seq = b.next_seq;
        b.next_seq += 1;
        b.bytes += size;
        b.events.push_back((seq, event, size));
        while b.bytes > b.max_bytes && b.events.len() > 1 {
            if let Some((_, _, size)) = b.events.pop_front() {
                b.bytes -= size;
            }
        }
        drop(b);
        self.0.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // Nothing in a critical section can leave the buffer half changed.
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ack(&self, seq: u64) {
        let mut b = self.lock();
        if seq <= b.acked || seq >= b.next_seq {
            return;
        }
        b.acked = seq;
        while b.events.front().is_some_and(|(s, ..)| *s <= seq) {
            if let Some((_, _, size)) = b.events.pop_front() {
                b.bytes -= size;
            }
        }
    }

    fn acked(&self) -> u64 {
        self.lock().acked
    }

    /// The events after `sent` that may be sent now.
    fn after(&self, sent: u64) -> Vec<(u64, Value)> {
        let b = self.lock();
        let last = b.acked + WINDOW;
        b.events.iter().filter(|(s, ..)| *s > sent && *s <= last).map(|(s, v, _)| (*s, v.clone())).collect()
    }
}

struct Connection {
    wire: Wire<ToAgent>,
    /// The last event sent on it.
    sent: u64,
}

type Answer = (String, u64, Result<Value, String>);

struct Actor {
    config: Config,
    clock: Clock,
    events: EventsOut,
    connection: Option<Connection>,
    runner: String,
    session: String,
    superseded: VecDeque<String>,
    /// Answers of this session by request; `None` while it is being done.
    answers: BTreeMap<u64, Option<Res>>,
    deadline: Instant,
    ttl: Duration,
    bye: Option<u64>,
}

/// What asks an agent's process to end.
enum Ends {
    Signals { terminate: Signal, interrupt: Signal },
    Token(CancellationToken),
}

impl Ends {
    fn new(stop: Option<CancellationToken>) -> Result<Self, String> {
        if let Some(stop) = stop {
            return Ok(Self::Token(stop));
        }
        let of = |kind, name| signal(kind).map_err(|e| format!("failed to wait for {name}: {e}"));
        Ok(Self::Signals { terminate: of(SignalKind::terminate(), "SIGTERM")?, interrupt: of(SignalKind::interrupt(), "SIGINT")? })
    }

    async fn next(&mut self) -> &'static str {
        match self {
            Self::Signals { terminate, interrupt } => tokio::select! {
                biased;
                _ = terminate.recv() => "told to terminate",
                _ = interrupt.recv() => "interrupted",
            },
            Self::Token(stop) => {
                stop.cancelled().await;
                "told to terminate"
            }
        }
    }
}

/// Runs an agent until it is told goodbye, its time to live runs out or it gets SIGTERM; then the service undoes everything.
/// Returns why it ended. Dropped, it ends at once and nothing is undone, as at SIGKILL.
///
/// # Errors
/// When the socket cannot be made, or the service does not come to its end in time.
pub async fn serve(
    config: Config,
    clock: Clock,
    listen: Listen,
    events: EventsOut,
    orders: mpsc::Sender<Order>,
    service: impl Future<Output = Result<String, String>> + Send + 'static,
) -> Result<String, String> {
    let service = AbortOnDropHandle::new(tokio::spawn(service));
    let mut ends = Ends::new(config.stop.clone())?;
    let (candidates_tx, mut candidates) = mpsc::channel(8);
    let stdio = matches!(listen, Listen::Stdio);
    let acceptor = AbortOnDropHandle::new(match listen {
        Listen::Socket(path) => {
            let listener = socket::listen(&path).map_err(|e| format!("failed to listen on {}: {e}", path.display()))?;
            tokio::spawn(accept(listener, candidates_tx))
        }
        Listen::Stdio => tokio::spawn(async move {
            let pipe = Pipe { read: Box::new(tokio::io::stdin()), write: Box::new(tokio::io::stdout()), keep: Box::new(()) };
            greet(pipe, candidates_tx).await;
        }),
        Listen::Given(connections) => tokio::spawn(accept_given(connections, candidates_tx)),
    });
    let ttl = config.ttl;
    let mut actor = Actor {
        config,
        clock,
        events,
        connection: None,
        runner: String::new(),
        session: String::new(),
        superseded: VecDeque::new(),
        answers: BTreeMap::new(),
        deadline: Instant::now() + ttl,
        ttl,
        bye: None,
    };
    let mut doing: FuturesUnordered<tokio::task::JoinHandle<Answer>> = FuturesUnordered::new();
    let why = loop {
        let incoming = async {
            match actor.connection.as_mut() {
                Some(c) => c.wire.incoming.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = ends.next() => break why.to_owned(),
            () = tokio::time::sleep_until(actor.deadline) => match actor.kept() {
                Some(until) => actor.deadline = until,
                None => break format!("no runner renewed the time to live of {}", crate::scenario::types::Dur(actor.ttl)),
            },
            Some(Ok((session, id, answer))) = doing.next(), if !doing.is_empty() => actor.answered(&session, id, answer),
            frame = incoming => match frame {
                Some(Ok(frame)) => {
                    if let Some(call) = actor.frame(frame, &orders) {
                        doing.push(call);
                    }
                    if actor.bye.is_some() {
                        break "goodbye".to_owned();
                    }
                }
                Some(Err(why)) => {
                    tracing::warn!("connection dropped: {why}");
                    actor.connection = None;
                }
                None => {
                    actor.connection = None;
                    if stdio {
                        // There is no second connection to wait for.
                        break "standard input was closed".to_owned();
                    }
                }
            },
            Some((hello, wire)) = candidates.recv() => actor.connect(hello, wire),
            () = actor.events.0.changed.notified() => {}
        }
        actor.pump();
    };
    drop(acceptor);
    tracing::info!("ending: {why}");
    let end_limit = actor.config.end_limit;
    let ended = tokio::time::timeout(end_limit, async {
        // A service that is gone already has nothing to be told.
        let _ = orders.send(Order::End { why: why.clone() }).await;
        drop(orders);
        service.await
    })
    .await;
    let result = match ended {
        Err(_) => Err(format!("the service did not end within {}", crate::scenario::types::Dur(end_limit))),
        Ok(Err(e)) => Err(format!("the service failed: {e}")),
        Ok(Ok(Err(e))) => Err(e),
        Ok(Ok(Ok(said))) => Ok(said),
    };
    actor.pump();
    if let Some(connection) = actor.connection.take() {
        if let Some(id) = actor.bye {
            let res = match &result {
                Ok(said) => Res::Done(said.clone()),
                Err(e) => Res::Failed(e.clone()),
            };
            let _ = connection.wire.send(&FromAgent { id: Some(id), res: Some(res), ..FromAgent::default() });
        }
        connection.wire.close(Duration::from_secs(2)).await;
    }
    result.map(|said| if said.is_empty() { why.clone() } else { format!("{why}; {said}") }).map_err(|e| format!("{why}; {e}"))
}

impl Actor {
    fn connect(&mut self, hello: Hello, wire: Wire<ToAgent>) {
        let refused = if hello.version != VERSION {
            Some(format!("the runner speaks version {} and the agent {VERSION}: use an image of the runner's version", hello.version))
        } else if hello.drill != self.config.drill || hello.token != self.config.token {
            Some(format!("this agent belongs to another drill than `{}`, or to another token", hello.drill))
        } else if self.superseded.contains(&hello.runner) {
            Some("another runner has taken this agent over".to_owned())
        } else {
            None
        };
        let reply = |res| FromAgent { id: Some(0), res: Some(res), ..FromAgent::default() };
        if let Some(why) = refused {
            tracing::warn!("refused a runner: {why}");
            let _ = wire.send(&reply(Res::Refused(why)));
            tokio::spawn(wire.close(Duration::from_secs(2)));
            return;
        }
        if hello.runner != self.runner {
            if !self.runner.is_empty() {
                self.superseded.push_back(std::mem::take(&mut self.runner));
                if self.superseded.len() > 64 {
                    self.superseded.pop_front();
                }
            }
            self.runner = hello.runner;
        }
        if hello.session != self.session {
            self.session = hello.session;
            self.answers.clear();
        }
        self.renew(hello.ttl_ms);
        let acked = self.events.acked();
        let welcome = Welcome { version: env!("CARGO_PKG_VERSION").to_owned(), clock: self.clock.id().clone(), acked };
        if wire.send(&reply(Res::Welcome(welcome))).is_ok() {
            self.connection = Some(Connection { wire, sent: acked });
        }
    }

    /// Until when it lives although the link renews nothing.
    fn kept(&self) -> Option<Instant> {
        let until = *self.config.kept.as_ref()?.borrow();
        until.filter(|until| *until > Instant::now())
    }

    fn renew(&mut self, ttl_ms: u64) {
        // At least a second, at most a day: neither a slip nor an overflow may make an agent immortal.
        self.ttl = Duration::from_millis(ttl_ms.clamp(1_000, 86_400_000));
        self.deadline = Instant::now() + self.ttl;
    }

    fn send(&mut self, frame: &FromAgent) {
        if self.connection.as_ref().is_some_and(|c| c.wire.send(frame).is_err()) {
            // The runner attaches again and asks again.
            self.connection = None;
        }
    }

    fn respond(&mut self, id: u64, res: Res) {
        self.send(&FromAgent { id: Some(id), res: Some(res), ..FromAgent::default() });
    }

    fn frame(&mut self, frame: ToAgent, orders: &mpsc::Sender<Order>) -> Option<JoinHandle<Answer>> {
        if let Some(seq) = frame.ack {
            self.events.ack(seq);
        }
        let (Some(id), Some(req)) = (frame.id, frame.req) else { return None };
        match req {
            Req::Ping => self.respond(id, Res::Pong(self.clock.now())),
            Req::Renew { ttl_ms } => {
                self.renew(ttl_ms);
                self.respond(id, Res::Done(String::new()));
            }
            Req::Hello(_) => self.respond(id, Res::Failed("said hello twice".to_owned())),
            Req::Bye => self.bye = Some(id),
            Req::Call(body) => match self.answers.get(&id) {
                Some(None) => {} // being done; the answer will come
                Some(Some(res)) => self.respond(id, res.clone()),
                None => {
                    if self.answers.values().filter(|a| a.is_none()).count() >= MAX_PENDING {
                        self.respond(id, Res::Failed(format!("more than {MAX_PENDING} requests at one time")));
                        return None;
                    }
                    let (reply, answer) = oneshot::channel();
                    if orders.try_send(Order::Call { body, reply }).is_err() {
                        self.respond(id, Res::Failed("the service is not taking requests".to_owned()));
                        return None;
                    }
                    self.answers.insert(id, None);
                    let session = self.session.clone();
                    return Some(tokio::spawn(async move {
                        (session, id, answer.await.unwrap_or_else(|_| Err("the service dropped the request".to_owned())))
                    }));
                }
            },
        }
        None
    }

    fn answered(&mut self, session: &str, id: u64, answer: Result<Value, String>) {
        if session != self.session {
            return;
        }
        let res = match answer {
            Ok(value) => Res::Answer(value),
            Err(why) => Res::Failed(why),
        };
        self.respond(id, res.clone());
        self.answers.insert(id, Some(res));
        while self.answers.len() > 4 * MAX_PENDING {
            let Some(oldest) = self.answers.iter().find(|(_, a)| a.is_some()).map(|(id, _)| *id) else { break };
            self.answers.remove(&oldest);
        }
    }

    /// Sends the events that may be sent.
    fn pump(&mut self) {
        let Some(sent) = self.connection.as_ref().map(|c| c.sent) else { return };
        for (seq, event) in self.events.after(sent) {
            self.send(&FromAgent { seq: Some(seq), ev: Some(event), ..FromAgent::default() });
            let Some(connection) = self.connection.as_mut() else { return };
            connection.sent = seq;
        }
    }
}

async fn accept(listener: UnixListener, candidates: mpsc::Sender<(Hello, Wire<ToAgent>)>) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(8));
    loop {
        let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if !socket::is_own(&stream) => tracing::warn!("dropped a connection: it is another user's"),
            Ok((stream, _)) => {
                let candidates = candidates.clone();
                tokio::spawn(async move {
                    let (read, write) = stream.into_split();
                    greet(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(()) }, candidates).await;
                    drop(permit);
                });
            }
            Err(e) => {
                // Out of file descriptors and the like: it may pass, and the time to live goes on running.
                tracing::warn!("failed to accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn accept_given(mut connections: mpsc::Receiver<DuplexStream>, candidates: mpsc::Sender<(Hello, Wire<ToAgent>)>) {
    let mut strangers = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = strangers.join_next(), if !strangers.is_empty() => {}
            // Who comes while eight others have not said who they are waits in the channel.
            Some(stream) = connections.recv(), if strangers.len() < 8 => {
                let (read, write) = tokio::io::split(stream);
                strangers.spawn(greet(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(()) }, candidates.clone()));
            }
            else => return,
        }
    }
}

/// Waits for the hello. Who does not say it within 10 s is dropped.
async fn greet(pipe: Pipe, candidates: mpsc::Sender<(Hello, Wire<ToAgent>)>) {
    let mut wire = Wire::<ToAgent>::new(pipe);
    match tokio::time::timeout(Duration::from_secs(10), wire.incoming.recv()).await {
        Ok(Some(Ok(ToAgent { req: Some(Req::Hello(hello)), .. }))) => {
            // The actor is gone only when the agent ends.
            let _ = candidates.send((hello, wire)).await;
        }
        Ok(Some(Err(why))) => tracing::warn!("dropped a connection: {why}"),
        Ok(Some(Ok(_))) => tracing::warn!("dropped a connection: it did not begin with a hello"),
        Ok(None) => {}
        Err(_) => tracing::warn!("dropped a connection: no hello within 10 s"),
    }
}
