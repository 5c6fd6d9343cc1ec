//! The runner's side of the link: a task that keeps one connection to an agent, attaches again when it drops, renews the
//! agent's time to live, and measures the agent's clock.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::AttachParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    protocol::{FromAgent, Hello, MAX_PENDING, Req, Res, ToAgent, VERSION, WINDOW},
    wire::{Pipe, Wire},
};
use crate::{
    clock::{Clock, ClockId, Stamp},
    scenario::types::Dur,
};

/// How long one attempt to attach may take.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// Longest time without a word from the agent before the connection counts as dead. Pings go out more often than this.
const SILENCE_LIMIT: Duration = Duration::from_secs(8);
/// How often the clock is measured.
const CLOCK_EVERY: Duration = Duration::from_secs(10);
/// How often a ping goes out to see that the connection lives.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How many pings one measurement of the clock takes; the fastest counts.
const CLOCK_PINGS: u32 = 8;

/// Why an agent could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The agent will not talk to this runner.
    #[error("the agent in {at} refused the connection: {why}")]
    Refused {
        /// Which agent.
        at: String,
        /// What it said.
        why: String,
    },
    /// The link has ended for good.
    #[error("the link to the agent in {at} has ended: {why}")]
    Ended {
        /// Which agent.
        at: String,
        /// Why.
        why: String,
    },
    /// No answer in time. Whether it was done is unknown.
    #[error("the agent in {at} did not answer `{what}` within {limit}")]
    TimedOut {
        /// Which agent.
        at: String,
        /// What was asked.
        what: String,
        /// The limit.
        limit: Dur,
    },
    /// The agent answered that it could not.
    #[error("the agent in {at} failed: {why}")]
    Failed {
        /// Which agent.
        at: String,
        /// What it said.
        why: String,
    },
    /// The answer was not what this version understands.
    #[error("the agent in {at} answered `{what}` with something else than expected: {why}")]
    Malformed {
        /// Which agent.
        at: String,
        /// What was asked.
        what: String,
        /// What was wrong.
        why: String,
    },
    /// The agent's pod could not be made, or did not come up.
    #[error("failed to place {at}: {why}")]
    NotPlaced {
        /// Which pod.
        at: String,
        /// Why.
        why: String,
    },
}

/// How the agent is reached.
#[derive(Clone)]
pub enum Transport {
    /// `firedrill agent attach` in a pod, through the API server's exec.
    Exec {
        /// The cluster.
        client: Client,
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
    },
    /// A process on this machine that runs an agent with `--stdio`. It cannot be attached to twice.
    Child {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
    /// An agent's socket on this machine.
    Socket(PathBuf),
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exec { namespace, pod, .. } => write!(f, "pod {namespace}/{pod}"),
            Self::Child { program, .. } => write!(f, "process {}", program.display()),
            Self::Socket(path) => write!(f, "socket {}", path.display()),
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// What a link needs.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    /// The drill.
    pub drill: String,
    /// Its token.
    pub token: String,
    /// The agent's time to live: it undoes everything and exits when it has not heard of the runner for so long.
    pub ttl: Duration,
    /// The way.
    pub transport: Transport,
}

/// The offset between the runner's clock and an agent's, as measured by the fastest of several pings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockLink {
    /// The agent's clock.
    pub clock: ClockId,
    /// The agent's monotonic time minus the runner's, in microseconds.
    pub offset_us: i64,
    /// The largest error of that, half the round trip rounded up, in microseconds.
    pub error_us: i64,
    /// The agent's wall time minus the runner's, in microseconds.
    pub wall_offset_us: i64,
}

impl ClockLink {
    /// From a ping: sent at `sent` and answered at `received` by the runner's clock, with `there` read by the agent in between.
    pub fn measure(sent: &Stamp, there: &Stamp, received: &Stamp) -> Self {
        let round_trip = received.mono_us - sent.mono_us;
        let middle = |a: i64, b: i64| a + (b - a) / 2;
        Self {
            clock: there.clock.clone(),
            offset_us: there.mono_us - middle(sent.mono_us, received.mono_us),
            error_us: round_trip / 2 + 1,
            wall_offset_us: there.wall_us - middle(sent.wall_us, received.wall_us),
        }
    }

    /// As the journal records it.
    pub fn event(&self) -> crate::journal::Event {
        crate::journal::Event::ClockLinked {
            clock: self.clock.clone(),
            offset_us: self.offset_us,
            error_us: self.error_us,
            wall_offset_us: self.wall_offset_us,
        }
    }
}

/// How the link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Connected.
    Attached,
    /// The connection dropped and is being made again.
    Reattaching(String),
    /// Over for good.
    Ended(String),
}

/// What comes from the agent unasked.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkEvent {
    /// An event.
    Event(Value),
    /// This many events were lost, because the agent's buffer was full while nobody listened.
    Lost(u64),
}

/// The agent's events, in order.
#[derive(Debug)]
pub struct Events {
    rx: mpsc::Receiver<(u64, LinkEvent)>,
    done: watch::Sender<u64>,
    given: u64,
}

impl Events {
    /// The next one; `None` when the link has ended. Asking for the next says that the one before is dealt with, and only
    /// then does the agent let go of it. Can be cancelled without losing one.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        if self.given > *self.done.borrow() {
            self.done.send_replace(self.given);
        }
        let (seq, event) = self.rx.recv().await?;
        self.given = seq;
        Some(event)
    }
}

enum Command {
    Call { req: Req, reply: oneshot::Sender<Result<Res, LinkError>> },
}

/// A link to an agent. Clones share it; it ends with [`Link::bye`], or when the last clone is dropped (then the agent is
/// not told, and undoes everything when its time to live has run out).
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    at: String,
    commands: mpsc::Sender<Command>,
    clock: watch::Receiver<Option<ClockLink>>,
    state: watch::Receiver<LinkState>,
    task: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Attaches to an agent that runs already, and measures its clock once, within `limit`.
    ///
    /// # Errors
    /// When the agent cannot be reached in time, or refuses.
    pub async fn attach(spec: LinkSpec, clock: Clock, limit: Duration) -> Result<(Self, Events), LinkError> {
        let at = spec.transport.to_string();
        let (commands, rx) = mpsc::channel(MAX_PENDING);
        let (clock_tx, mut clock_rx) = watch::channel(None);
        let (state_tx, mut state_rx) = watch::channel(LinkState::Reattaching("not attached yet".to_owned()));
        #[expect(clippy::cast_possible_truncation, reason = "a constant of 1024")]
        let (events_tx, events_rx) = mpsc::channel(2 * WINDOW as usize);
        let (done_tx, done_rx) = watch::channel(0);
        let task = Task {
            at: at.clone(),
            session: format!("{:016x}", rand::random::<u64>()),
            spec,
            clock,
            commands: rx,
            clock_link: clock_tx,
            state: state_tx,
            events: events_tx,
            done: done_rx,
            pending: BTreeMap::new(),
            next_id: 1,
            seen: None,
        };
        let task = tokio::spawn(task.run(Instant::now() + limit));
        let link = Self(Arc::new(Inner { at: at.clone(), commands, clock: clock_rx.clone(), state: state_rx.clone(), task }));
        let attached = async {
            tokio::select! {
                biased;
                Ok(_) = clock_rx.wait_for(Option::is_some) => Ok(()),
                ended = state_rx.wait_for(|s| matches!(s, LinkState::Ended(_))) => Err(match ended.map(|s| s.clone()) {
                    Ok(LinkState::Ended(why)) => LinkError::Ended { at: at.clone(), why },
                    _ => LinkError::Ended { at: at.clone(), why: "its task is gone".to_owned() },
                }),
            }
        };
        match tokio::time::timeout(limit, attached).await {
            Ok(Ok(())) => Ok((link, Events { rx: events_rx, done: done_tx, given: 0 })),
            Ok(Err(e)) => Err(e),
            Err(_) => {
                let why = match &*link.0.state.borrow() {
                    LinkState::Attached => "its clock could not be measured".to_owned(),
                    LinkState::Reattaching(why) | LinkState::Ended(why) => why.clone(),
                };
                Err(LinkError::Ended { at, why: format!("not attached within {}: {why}", Dur(limit)) })
            }
        }
    }

    /// Asks the agent's service something, for at most `limit`. A connection that drops meanwhile is made again, and the
    /// question is then not done twice.
    ///
    /// # Errors
    /// When the agent says that it failed, or does not answer in time: then whether it was done is unknown.
    pub async fn call<A: DeserializeOwned>(&self, what: &str, body: &impl Serialize, limit: Duration) -> Result<A, LinkError> {
        let malformed = |why: String| LinkError::Malformed { at: self.0.at.clone(), what: what.to_owned(), why };
        let body = serde_json::to_value(body).map_err(|e| malformed(e.to_string()))?;
        match self.request(what, Req::Call(body), limit).await? {
            Res::Answer(value) => serde_json::from_value(value).map_err(|e| malformed(e.to_string())),
            Res::Failed(why) => Err(LinkError::Failed { at: self.0.at.clone(), why }),
            other => Err(malformed(format!("{other:?}"))),
        }
    }

    /// Tells the agent to undo everything and exit; returns what it undid.
    ///
    /// # Errors
    /// When it could not be told, or could not undo everything.
    pub async fn bye(&self, limit: Duration) -> Result<String, LinkError> {
        match self.request("bye", Req::Bye, limit).await? {
            Res::Done(said) => Ok(said),
            Res::Failed(why) => Err(LinkError::Failed { at: self.0.at.clone(), why }),
            other => Err(LinkError::Malformed { at: self.0.at.clone(), what: "bye".to_owned(), why: format!("{other:?}") }),
        }
    }

    async fn request(&self, what: &str, req: Req, limit: Duration) -> Result<Res, LinkError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            if self.0.commands.send(Command::Call { req, reply }).await.is_err() {
                return Err(self.ended());
            }
            answer.await.unwrap_or_else(|_| Err(self.ended()))
        };
        tokio::time::timeout(limit, asked)
            .await
            .unwrap_or_else(|_| Err(LinkError::TimedOut { at: self.0.at.clone(), what: what.to_owned(), limit: Dur(limit) }))
    }

    fn ended(&self) -> LinkError {
        let why = match &*self.0.state.borrow() {
            LinkState::Ended(why) | LinkState::Reattaching(why) => why.clone(),
            LinkState::Attached => "its task is gone".to_owned(),
        };
        LinkError::Ended { at: self.0.at.clone(), why }
    }

    /// The newest measurement of the agent's clock; made anew every 10 s.
    pub fn clock_link(&self) -> Option<ClockLink> {
        self.0.clock.borrow().clone()
    }

    /// The measurements of the agent's clock as they are made.
    pub fn clock_links(&self) -> watch::Receiver<Option<ClockLink>> {
        self.0.clock.clone()
    }

    /// How the link is, as it changes.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.state.clone()
    }
}

struct Pending {
    req: Req,
    reply: oneshot::Sender<Result<Res, LinkError>>,
}

struct Task {
    at: String,
    session: String,
    spec: LinkSpec,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    clock_link: watch::Sender<Option<ClockLink>>,
    state: watch::Sender<LinkState>,
    events: mpsc::Sender<(u64, LinkEvent)>,
    done: watch::Receiver<u64>,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    /// The last event received.
    seen: Option<u64>,
}

/// Why a connection ended.
enum Cut {
    /// Make it again.
    Broken(String),
    /// It is over.
    Over(LinkError),
}

impl Task {
    /// Attaches, talks, attaches again, until the end. The first connection may take until `first`; later ones as long as
    /// the agent can still live.
    async fn run(mut self, first: Instant) {
        let mut give_up = first;
        let mut wait = Duration::from_millis(100);
        let (error, why) = loop {
            let attempt = Instant::now();
            match self.connect().await {
                Ok(wire) => {
                    self.state.send_replace(LinkState::Attached);
                    wait = Duration::from_millis(100);
                    match self.talk(wire).await {
                        Cut::Over(e) => break (e.clone(), e.to_string()),
                        Cut::Broken(why) if matches!(self.spec.transport, Transport::Child { .. }) => {
                            break (LinkError::Ended { at: self.at.clone(), why: why.clone() }, why);
                        }
                        Cut::Broken(why) => {
                            tracing::info!("link to {} dropped, attaching again: {why}", self.at);
                            self.state.send_replace(LinkState::Reattaching(why));
                            // After its time to live the agent has undone everything and is gone.
                            give_up = Instant::now() + self.spec.ttl + Duration::from_secs(5);
                        }
                    }
                }
                Err(Cut::Over(e)) => break (e.clone(), e.to_string()),
                Err(Cut::Broken(why)) => {
                    if Instant::now() >= give_up {
                        let e = LinkError::Ended { at: self.at.clone(), why: format!("could not attach again: {why}") };
                        break (e.clone(), e.to_string());
                    }
                    self.state.send_replace(LinkState::Reattaching(why));
                    wait = (wait * 2).min(Duration::from_secs(2));
                }
            }
            tokio::time::sleep_until(attempt + wait).await;
        };
        self.state.send_replace(LinkState::Ended(why));
        for (_, pending) in std::mem::take(&mut self.pending) {
            let _ = pending.reply.send(Err(error.clone()));
        }
    }

    async fn connect(&mut self) -> Result<Wire<FromAgent>, Cut> {
        let pipe = match tokio::time::timeout(ATTACH_LIMIT, open(&self.spec.transport)).await {
            Ok(result) => result?,
            Err(_) => return Err(Cut::Broken(format!("no connection within {}", Dur(ATTACH_LIMIT)))),
        };
        let mut wire = Wire::<FromAgent>::new(pipe);
        let hello = Req::Hello(Hello {
            version: VERSION,
            drill: self.spec.drill.clone(),
            token: self.spec.token.clone(),
            session: self.session.clone(),
            ttl_ms: millis(self.spec.ttl),
        });
        let broken = |why: &str| Cut::Broken(why.to_owned());
        wire.send(&ToAgent { id: Some(0), req: Some(hello), ack: None }).map_err(|_| broken("the connection closed at once"))?;
        let answer =
            tokio::time::timeout(ATTACH_LIMIT, wire.incoming.recv()).await.map_err(|_| broken("the agent did not answer the hello"))?;
        match answer {
            Some(Ok(FromAgent { res: Some(Res::Welcome(welcome)), .. })) => {
                let seen = *self.seen.get_or_insert(welcome.acked);
                if seen < welcome.acked {
                    self.seen = Some(welcome.acked);
                }
                Ok(wire)
            }
            Some(Ok(FromAgent { res: Some(Res::Refused(why)), .. })) => Err(Cut::Over(LinkError::Refused { at: self.at.clone(), why })),
            Some(Ok(_)) => Err(broken("the agent answered the hello with something else")),
            Some(Err(why)) => Err(Cut::Broken(why)),
            None => Err(broken("the connection closed before the agent answered")),
        }
    }

    async fn talk(&mut self, mut wire: Wire<FromAgent>) -> Cut {
        let unread = || Cut::Broken("the agent stopped reading".to_owned());
        // Who asked and has gone away since does not want it done late.
        self.pending.retain(|_, p| !p.reply.is_closed());
        for (id, pending) in &self.pending {
            if wire.send(&ToAgent { id: Some(*id), req: Some(pending.req.clone()), ack: None }).is_err() {
                return unread();
            }
        }
        // The last acknowledgement may have been lost with the connection.
        let mut acked = *self.done.borrow_and_update();
        if acked > 0 && wire.send(&ToAgent { ack: Some(acked), ..ToAgent::default() }).is_err() {
            return unread();
        }
        let mut renew = tokio::time::interval((self.spec.ttl / 4).max(Duration::from_millis(250)));
        let mut measure = tokio::time::interval(CLOCK_EVERY);
        let mut alive = tokio::time::interval(PING_EVERY);
        for timer in [&mut renew, &mut measure, &mut alive] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut heard = Instant::now();
        let mut pings: BTreeMap<u64, Stamp> = BTreeMap::new();
        let (mut left, mut best): (u32, Option<ClockLink>) = (0, None);
        loop {
            tokio::select! {
                biased;
                frame = wire.incoming.recv() => {
                    let received = self.clock.now();
                    heard = Instant::now();
                    let frame = match frame {
                        Some(Ok(frame)) => frame,
                        Some(Err(why)) => return Cut::Broken(why),
                        None => return Cut::Broken("the connection closed".to_owned()),
                    };
                    if let (Some(seq), Some(event)) = (frame.seq, frame.ev)
                        && let Err(why) = self.event(&wire, seq, event) {
                            return why;
                        }
                    let (Some(id), Some(res)) = (frame.id, frame.res) else { continue };
                    if let (Res::Pong(there), Some(sent)) = (&res, pings.remove(&id)) {
                        let measured = ClockLink::measure(&sent, there, &received);
                        if left > 0 {
                            left -= 1;
                            if best.as_ref().is_none_or(|b| measured.error_us < b.error_us) {
                                best = Some(measured);
                            }
                            if left == 0 {
                                self.clock_link.send_replace(best.take());
                            } else if self.ping(&wire, &mut pings).is_err() {
                                return unread();
                            }
                        }
                        continue;
                    }
                    let Some(pending) = self.pending.remove(&id) else { continue };
                    let bye = pending.req == Req::Bye;
                    // Who asked may have stopped waiting.
                    let _ = pending.reply.send(Ok(res));
                    if bye {
                        return Cut::Over(LinkError::Ended { at: self.at.clone(), why: "said goodbye".to_owned() });
                    }
                }
                command = self.commands.recv() => {
                    let Some(Command::Call { req, reply }) = command else {
                        return Cut::Over(LinkError::Ended { at: self.at.clone(), why: "dropped by its owner".to_owned() });
                    };
                    self.pending.retain(|_, p| !p.reply.is_closed());
                    if self.pending.len() >= MAX_PENDING {
                        let why = format!("more than {MAX_PENDING} requests at one time");
                        let _ = reply.send(Err(LinkError::Failed { at: self.at.clone(), why }));
                        continue;
                    }
                    let id = self.id();
                    let sent = wire.send(&ToAgent { id: Some(id), req: Some(req.clone()), ack: None });
                    self.pending.insert(id, Pending { req, reply });
                    if sent.is_err() {
                        return unread();
                    }
                }
                Ok(()) = self.done.changed() => {
                    let done = *self.done.borrow_and_update();
                    if done > acked {
                        acked = done;
                        if wire.send(&ToAgent { ack: Some(done), ..ToAgent::default() }).is_err() {
                            return unread();
                        }
                    }
                }
                _ = measure.tick() => {
                    left = CLOCK_PINGS;
                    best = None;
                    if self.ping(&wire, &mut pings).is_err() {
                        return unread();
                    }
                }
                _ = renew.tick() => {
                    let id = self.id();
                    if wire.send(&ToAgent { id: Some(id), req: Some(Req::Renew { ttl_ms: millis(self.spec.ttl) }), ack: None }).is_err() {
                        return unread();
                    }
                }
                _ = alive.tick() => {
                    if heard.elapsed() > SILENCE_LIMIT {
                        return Cut::Broken(format!("not a word from the agent for {}", Dur(SILENCE_LIMIT)));
                    }
                    if left == 0 && self.ping(&wire, &mut pings).is_err() {
                        return unread();
                    }
                }
            }
        }
    }

    fn ping(&mut self, wire: &Wire<FromAgent>, pings: &mut BTreeMap<u64, Stamp>) -> Result<(), super::wire::Broken> {
        let id = self.id();
        pings.insert(id, self.clock.now());
        wire.send(&ToAgent { id: Some(id), req: Some(Req::Ping), ack: None })
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn event(&mut self, wire: &Wire<FromAgent>, seq: u64, event: Value) -> Result<(), Cut> {
        let seen = self.seen.unwrap_or(0);
        if seq <= seen {
            return Ok(());
        }
        self.seen = Some(seq);
        if self.events.is_closed() {
            // Nobody here wants events; the agent need not keep them.
            return wire
                .send(&ToAgent { ack: Some(seq), ..ToAgent::default() })
                .map_err(|_| Cut::Broken("the agent stopped reading".to_owned()));
        }
        let lost = (seq > seen + 1).then_some((seq - 1, LinkEvent::Lost(seq - seen - 1)));
        for item in lost.into_iter().chain([(seq, LinkEvent::Event(event))]) {
            if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(item) {
                return Err(Cut::Broken("more events than agreed came before the earlier ones were acknowledged".to_owned()));
            }
        }
        Ok(())
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

async fn open(transport: &Transport) -> Result<Pipe, Cut> {
    match transport {
        Transport::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| Cut::Broken(format!("failed to connect: {e}")))?;
            let (read, write) = stream.into_split();
            Ok(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(()) })
        }
        Transport::Child { program, args } => {
            let over = |why: String| Cut::Over(LinkError::Ended { at: program.display().to_string(), why });
            let mut child = tokio::process::Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|e| over(format!("failed to start it: {e}")))?;
            let (Some(write), Some(read)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(over("it has no pipes".to_owned()));
            };
            Ok(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(child) })
        }
        Transport::Exec { client, namespace, pod } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let params = AttachParams {
                stdin: true,
                stdout: true,
                stderr: false,
                max_stdin_buf_size: Some(64 << 10),
                max_stdout_buf_size: Some(256 << 10),
                ..AttachParams::default()
            };
            let mut process = match api.exec(pod, ["/firedrill", "agent", "attach"], &params).await {
                Ok(process) => process,
                Err(e) => return Err(exec_failed(&api, pod, &e).await),
            };
            let (Some(read), Some(write)) = (process.stdout(), process.stdin()) else {
                return Err(Cut::Broken("the exec has no streams".to_owned()));
            };
            Ok(Pipe { read: Box::new(read), write: Box::new(write), keep: Box::new(process) })
        }
    }
}

/// An exec that fails may work the next time, except when the pod is gone or over.
async fn exec_failed(api: &Api<Pod>, pod: &str, error: &kube::Error) -> Cut {
    let over = |why: String| Cut::Over(LinkError::Ended { at: format!("pod {pod}"), why });
    match api.get_opt(pod).await {
        Ok(None) => over("the pod is gone".to_owned()),
        Ok(Some(found)) => match found.status.and_then(|s| s.phase).as_deref() {
            Some(phase @ ("Succeeded" | "Failed")) => over(format!("the pod is {phase}")),
            _ => Cut::Broken(format!("failed to exec: {error}")),
        },
        Err(_) => Cut::Broken(format!("failed to exec: {error}")),
    }
}
