//! What samplers say.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    clock::{ClockId, Stamp},
    journal::{AlertSeen, Reading},
    scenario::types::ProbeState,
};

/// One sample of a probe: at some instant between `send` and `complete` the probed thing was in `state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Its number within the probe, from 0, in order of sending and without holes.
    pub n: u64,
    /// Before anything was sent.
    pub send: Stamp,
    /// After the answer was judged, or the time limit was over.
    pub complete: Stamp,
    /// What it says.
    pub state: ProbeState,
    /// Status, value or error.
    pub detail: String,
}

/// What one sample found, without its instants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it says.
    pub state: ProbeState,
    /// Status, value or error.
    pub detail: String,
}

impl Outcome {
    /// As it should be.
    pub fn good(detail: impl Into<String>) -> Self {
        Self { state: ProbeState::Good, detail: detail.into() }
    }

    /// Not as it should be.
    pub fn bad(detail: impl Into<String>) -> Self {
        Self { state: ProbeState::Bad, detail: detail.into() }
    }

    /// The observer failed.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self { state: ProbeState::Unknown, detail: detail.into() }
    }
}

impl From<crate::net::NetError> for Outcome {
    fn from(error: crate::net::NetError) -> Self {
        match error.whose {
            crate::net::Whose::Peer => Self::bad(error.detail),
            crate::net::Whose::Own => Self::unknown(error.detail),
        }
    }
}

/// What a sampler tells, in the runner's process or over the observer's link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Seen {
    /// A sample is complete. They come in order of completion, which is not that of sending.
    Sample {
        /// The probe.
        probe: Arc<str>,
        /// The sample.
        sample: Sample,
    },
    /// Samples that were taken and could not be kept: what they said is not known.
    Lost {
        /// The probe.
        probe: Arc<str>,
        /// The first one's number.
        from: u64,
        /// The last one's number.
        to: u64,
    },
    /// A ledger is about to send a write.
    Attempt {
        /// The probe.
        probe: Arc<str>,
        /// The write's number, from 1.
        write: u64,
        /// Just before it is sent.
        send: Stamp,
    },
    /// A ledger's write has ended.
    Written {
        /// The probe.
        probe: Arc<str>,
        /// The write's number.
        write: u64,
        /// `ok`, `fail` or `unknown`.
        outcome: String,
        /// When.
        end: Stamp,
    },
    /// An alert went through a stage.
    Alert(Box<AlertSeen>),
    /// A third clock (the alert receiver's) was compared with this sampler's own.
    Linked {
        /// The other clock.
        clock: ClockId,
        /// The clock it was compared with.
        base: ClockId,
        /// Other clock's monotonic time minus the base's, microseconds.
        offset_us: i64,
        /// Largest error of that, microseconds.
        error_us: i64,
        /// Other clock's wall time minus the base's, microseconds.
        wall_offset_us: i64,
    },
    /// Something was read for the journal.
    Reading {
        /// The probe.
        of: Arc<str>,
        /// When it was asked for.
        begin: Stamp,
        /// When it was complete.
        end: Stamp,
        /// What was found.
        reading: Box<Reading>,
    },
    /// A sampler has trouble of its own: goes into the report as a deviation.
    Trouble {
        /// The probe.
        probe: Arc<str>,
        /// What.
        detail: String,
    },
}

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// Time from one sample's start to the next.
    pub every: std::time::Duration,
    /// How long one sample may take.
    pub timeout: std::time::Duration,
}

impl Cadence {
    /// How many samples may be under way at a time: those started within one time limit, and one more.
    pub fn in_flight(self) -> usize {
        let every = self.every.as_nanos().max(1);
        usize::try_from(self.timeout.as_nanos().div_ceil(every)).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// How many samples may have been sent behind one that is not complete, extra ones on an occasion included.
    pub fn window(self) -> usize {
        self.in_flight().saturating_add(8)
    }
}
