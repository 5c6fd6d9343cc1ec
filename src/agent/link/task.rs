//! The task behind a link: keeps one connection, makes it again, renews the agent's time to live, measures its clock.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{ClockLink, Command, LinkError, LinkEvent, LinkSpec, LinkState, Transport, connect::open};
use crate::{
    agent::{
        protocol::{FromAgent, Hello, MAX_PENDING, Req, Res, ToAgent, VERSION},
        wire::Wire,
    },
    clock::{Clock, Stamp},
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

pub(super) struct Pending {
    req: Req,
    reply: oneshot::Sender<Result<Res, LinkError>>,
}

pub(super) struct Task {
    pub(super) at: String,
    pub(super) session: String,
    pub(super) spec: LinkSpec,
    pub(super) clock: Clock,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) clock_link: watch::Sender<Option<ClockLink>>,
    pub(super) state: watch::Sender<LinkState>,
    pub(super) events: mpsc::Sender<(u64, LinkEvent)>,
    pub(super) done: watch::Receiver<u64>,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) next_id: u64,
    /// The last event received.
    pub(super) seen: Option<u64>,
}

/// Why a connection ended.
pub(super) enum Cut {
    /// Make it again.
    Broken(String),
    /// It is over.
    Over(LinkError),
}

impl Task {
    /// Attaches, talks, attaches again, until the end. The first connection may take until `first`; later ones as long as
    /// the agent can still live.
    pub(super) async fn run(mut self, first: Instant) {
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
            runner: self.spec.runner.clone(),
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

    fn ping(&mut self, wire: &Wire<FromAgent>, pings: &mut BTreeMap<u64, Stamp>) -> Result<(), crate::agent::wire::Broken> {
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
