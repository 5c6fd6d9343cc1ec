//! What probes and readings saw, as events carry it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{clock::Stamp, scenario::types::ProbeState};

/// A run of adjacent samples in the same state, ordered by their sending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeRun {
    /// The probe.
    pub probe: String,
    /// Their state.
    pub state: ProbeState,
    /// When the first was sent.
    pub first_send: Stamp,
    /// When the first was complete.
    pub first_complete: Stamp,
    /// When the last was sent.
    pub last_send: Stamp,
    /// When the last was complete.
    pub last_complete: Stamp,
    /// How many.
    pub count: u64,
    /// The slowest, in microseconds.
    pub slowest_us: u64,
    /// The largest `next.complete − previous.send` between two adjacent samples of the run, in microseconds: an outage
    /// shorter than this could hide in it. 0 for a single sample.
    pub widest_us: u64,
    /// What the first one said: status, error, value.
    pub detail: String,
    /// Why the run ended: another state, a hole, a cut at a fault, the end.
    pub ended: RunEnd,
}

/// Why a run of samples ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunEnd {
    /// The next sample was in another state.
    Change,
    /// More than twice `every` went by without a sample: what lies between is unknown.
    Hole,
    /// Cut by the runner at a fault, so that before and after can be told apart. The next run may be in the same state.
    Cut,
    /// Sampling ended.
    End,
}

/// A stage of an alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertSeen {
    /// The alert probe.
    pub probe: String,
    /// The stage.
    pub stage: AlertStage,
    /// Alertmanager's fingerprint, where there is one.
    pub fingerprint: String,
    /// The earliest instant at which this can have happened.
    pub after: Stamp,
    /// The latest instant at which this can have happened (when it was seen).
    pub before: Stamp,
    /// The alert's labels.
    pub labels: BTreeMap<String, String>,
    /// What was seen.
    pub detail: String,
}

/// The stages of an alert, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AlertStage {
    /// Neither firing at Alertmanager nor silenced nor inhibited: looked at and absent.
    Absent,
    /// Firing by Prometheus (its `activeAt` or `startsAt`).
    Firing,
    /// Active at Alertmanager.
    Notified,
    /// At Alertmanager but silenced or inhibited.
    Suppressed,
    /// A notification with it arrived at the receiver.
    Received,
    /// A notification of the heartbeat alert arrived at the receiver.
    Heartbeat,
    /// A notification of its end arrived at the receiver.
    Resolved,
}

/// A finding of a probe or an objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reading {
    /// The newest complete backup, by the tool's own word.
    Backup {
        /// The tool's name for it; empty when there is none.
        id: String,
        /// When it was finished, microseconds since the epoch by the tool's clock.
        finished_wall_us: i64,
        /// What it holds, in bytes.
        bytes: u64,
        /// What the tool says of it beyond that.
        detail: String,
    },
    /// A ledger read back at the end.
    Ledger(LedgerReading),
    /// A digest of rows, computed in the database.
    Digest {
        /// `source` or `restored`.
        side: DigestWhich,
        /// Hexadecimal.
        digest: String,
        /// Rows.
        rows: u64,
    },
    /// The reading could not be made.
    Failed {
        /// Why.
        detail: String,
    },
}

/// Which side of a restore a digest is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DigestWhich {
    /// The source.
    Source,
    /// The restored copy.
    Restored,
}

/// What became of a ledger's writes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerReading {
    /// Writes tried.
    pub attempted: u64,
    /// Acknowledged.
    pub ok: u64,
    /// Refused by an error that proves that they did not happen.
    pub failed: u64,
    /// Neither acknowledged nor refused.
    pub unknown: u64,
    /// Acknowledged and not read back.
    pub lost: Vec<LedgerWrite>,
    /// Read back and never tried: how many.
    pub phantom: u64,
    /// Read back more than once: how many.
    pub duplicated: u64,
    /// Read back out of order: how many.
    pub reordered: u64,
    /// The last acknowledged write that was kept and sent before the loss (the one just before the oldest lost).
    pub last_kept: Option<LedgerWrite>,
    /// Replicas read back, and whether each had replayed past the primary's position.
    pub copies: Vec<LedgerCopy>,
    /// File of all attempts, relative to the evidence folder.
    pub samples: String,
}

/// One write of a ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerWrite {
    /// Its number.
    pub n: u64,
    /// When it was sent.
    pub send: Stamp,
    /// When it was acknowledged.
    pub ack: Stamp,
}

/// One copy of a ledger that was read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerCopy {
    /// Which: `primary` or a pod's name.
    pub name: String,
    /// Whether it had replayed past the primary's position before it was read.
    pub caught_up: bool,
    /// How many of the acknowledged writes it lacks.
    pub missing: u64,
    /// What went wrong, if anything.
    pub detail: String,
}
