//! The runner's side of the link: a task that keeps one connection to an agent, attaches again when it drops, renews the
//! agent's time to live, and measures the agent's clock.

mod connect;
mod task;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::protocol::{MAX_PENDING, Req, Res, WINDOW};
use task::Task;

use crate::{
    clock::{Clock, ClockId, Stamp},
    scenario::types::Dur,
};

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
        /// The container, where it is not the pod's only one.
        container: Option<String>,
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
            Self::Exec { namespace, pod, container: None, .. } => write!(f, "pod {namespace}/{pod}"),
            Self::Exec { namespace, pod, container: Some(container), .. } => write!(f, "container {container} of pod {namespace}/{pod}"),
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

/// A name for a runner, unlike that of any other.
pub fn runner() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// What a link needs.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    /// The drill.
    pub drill: String,
    /// Its token.
    pub token: String,
    /// Who attaches, as [`runner`] makes it: the same for all links of one runner. An agent that another runner has taken over
    /// refuses this one from then on, also when it comes with a new link.
    pub runner: String,
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
        let task = tokio::spawn(crate::gate::own(task.run(Instant::now() + limit)));
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
