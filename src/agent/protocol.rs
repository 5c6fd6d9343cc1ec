//! What runner and agent say to each other: one JSON object a line.
//!
//! The runner opens every connection with `{"id":0,"req":{"hello":…}}`. After that it sends requests `{"id":n,"req":…}`,
//! answered with `{"id":n,"res":…}` in any order, and `{"ack":n}` for events it is done with. The agent sends events
//! `{"seq":n,"ev":…}`, numbered from 1 without holes, at most [`WINDOW`] beyond the last acknowledged one, and keeps them
//! until they are acknowledged. A request that is sent again after a reconnect is not done twice: its answer is sent again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::{ClockId, Stamp};

/// The version of this protocol. Both sides must be of the same.
pub const VERSION: u32 = 2;
/// How many events may be on their way without having been acknowledged.
pub const WINDOW: u64 = 1024;
/// How many requests may be unanswered at one time.
pub const MAX_PENDING: usize = 64;
/// The longest line, in bytes. A longer one ends the connection.
pub const MAX_LINE: usize = 4 << 20;
/// Where the agent listens, in its pod.
pub const SOCKET: &str = "/run/firedrill/agent.sock";

/// A line from runner to agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToAgent {
    /// The request's number; goes up within a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub req: Option<Req>,
    /// All events up to this one are dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<u64>,
}

/// A line from agent to runner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FromAgent {
    /// The request that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub res: Option<Res>,
    /// The event's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ev: Option<Value>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Req {
    /// The first on each connection.
    Hello(Hello),
    /// What time is it there?
    Ping,
    /// Live on for this long from now.
    Renew {
        /// In milliseconds.
        ttl_ms: u64,
    },
    /// Undo everything and exit.
    Bye,
    /// Something for the service that runs in the agent.
    Call(Value),
}

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// The drill.
    pub drill: String,
    /// The drill's token, made by its runner: an agent of another drill refuses.
    pub token: String,
    /// Who connects. A later runner replaces an earlier one for good.
    pub runner: String,
    /// One link of that runner, random. A later one replaces an earlier one.
    pub session: String,
    /// Live on for this long from now, in milliseconds.
    pub ttl_ms: u64,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// firedrill's version in the pod.
    pub version: String,
    /// The agent's clock.
    pub clock: ClockId,
    /// The last event that was acknowledged, by this session or one before it.
    pub acked: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Res {
    /// To a hello.
    Welcome(Welcome),
    /// The hello is refused, and so will be the next one.
    Refused(String),
    /// To a ping.
    Pong(Stamp),
    /// To a renewal, and to a goodbye once all is undone (with what was undone).
    Done(String),
    /// The service's answer.
    Answer(Value),
    /// The service could not do it.
    Failed(String),
}
