//! What can happen in a drill. Everything else (state, verdict, report, resume, revert) derives from these.

use serde::{Deserialize, Serialize};

use super::{AlertSeen, ProbeRun, Reading};
use crate::{
    clock::{ClockId, Stamp},
    fault::Undo,
    plan::Plan,
};

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its number, from 0, without holes.
    pub seq: u64,
    /// SHA-256 (hex) of the line before; 64 zeros for the first.
    pub prev: String,
    /// When it was written, by the runner's clock.
    pub at: Stamp,
    /// What happened.
    pub event: Event,
}

/// The number of a fault within its drill: the index of its `inject` step in order of the plan.
pub type FaultId = u32;

/// Who acknowledges when the drill is told to take all manual steps as done: nobody.
pub const AUTO_ACK: &str = "--auto-ack";

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The first record of every journal. It holds the whole plan, so that a drill can be judged, resumed and reverted
    /// out of its records alone.
    Started {
        /// The drill's name, unique: scenario name, date, random part.
        drill: String,
        /// The plan.
        plan: Box<Plan>,
        /// Who started it: `user@host`.
        by: String,
        /// firedrill's version.
        version: String,
        /// Whether this is a sandbox drill and so never evidence.
        sandbox: bool,
    },
    /// A person, or `--yes`, agreed to the plan.
    Confirmed {
        /// Who and how.
        by: String,
    },
    /// A runner took the drill over from a dead one, or from an interrupted one.
    Resumed {
        /// Who.
        by: String,
        /// What it came for.
        intent: ResumeIntent,
        /// Its clock; if that is not the clock of the records before, times across this record cannot be measured.
        clock: ClockId,
    },
    /// All Leases of the drill are held.
    LeasesTaken {
        /// Their names, sorted.
        leases: Vec<String>,
    },
    /// The Leases ran out or were taken over: nothing more is changed by this runner.
    LeaseLost {
        /// Why.
        detail: String,
    },
    /// This runner was taken over from, and whoever did that has ended the drill clean: its record is gone from the cluster,
    /// and a record goes only when all faults are reverted and nothing is left.
    EndedElsewhere {
        /// When that was seen.
        at: Stamp,
    },
    /// Offset between the runner's clock and another one, by ping.
    ClockLinked {
        /// The other clock.
        clock: ClockId,
        /// Other clock's monotonic time minus the runner's, in microseconds.
        offset_us: i64,
        /// Largest error of that, half the round trip, in microseconds.
        error_us: i64,
        /// Other clock's wall time minus the runner's, in microseconds.
        wall_offset_us: i64,
    },
    /// An observer or a node helper is in its place, inert.
    Armed {
        /// What: `observer`, `node helper node2` …
        what: String,
        /// Pod, `namespace/name`.
        pod: String,
    },
    /// All observers and helpers are in their places and all probes are being sampled.
    ArmingDone {
        /// When.
        at: Stamp,
    },
    /// The steady state was looked at.
    SteadyState {
        /// Before the first step or after the reverts.
        phase: SteadyPhase,
        /// Whether it held.
        held: bool,
        /// What did not hold, or how long it held.
        detail: String,
    },
    /// A run of equal samples of a probe ended (or was cut, at a fault or at the end).
    Run(ProbeRun),
    /// An alert of an alert probe went through a stage.
    Alert(AlertSeen),
    /// Something a probe found out that is not a state: a backup's identity, an end reading of a ledger, a digest.
    Reading {
        /// The probe, or the objective the reading was made for.
        of: String,
        /// When it was asked for.
        begin: Stamp,
        /// When it was complete.
        end: Stamp,
        /// What was found.
        reading: Reading,
    },
    /// A step begins.
    StepStarted {
        /// Its path in the plan, such as `2` or `3.1` within a parallel step.
        step: String,
        /// When.
        start: Stamp,
    },
    /// A step ended.
    StepEnded {
        /// Its path.
        step: String,
        /// How.
        outcome: StepOutcome,
        /// Why, or what was seen.
        detail: String,
        /// When.
        end: Stamp,
    },
    /// A fault is about to be injected. Durable (file synced and in-cluster record written) before anything changes.
    Intent {
        /// Which.
        fault: FaultId,
        /// The step it belongs to.
        step: String,
        /// How to undo it: data, never secrets.
        undo: Box<Undo>,
        /// What it acts on: `Pod shop/orders-0 uid …`.
        objects: Vec<TouchedObject>,
    },
    /// A fault was injected.
    Injected {
        /// Which.
        fault: FaultId,
        /// Before the first change.
        start: Stamp,
        /// After the last change was answered.
        end: Stamp,
    },
    /// The injection failed, wholly or in part; the revert will deal with what there is.
    InjectFailed {
        /// Which.
        fault: FaultId,
        /// Why.
        detail: String,
        /// Before the first change was tried.
        start: Stamp,
    },
    /// Proof that the fault bit.
    Effective {
        /// Which.
        fault: FaultId,
        /// When the proof was complete.
        at: Stamp,
        /// The proof.
        proof: String,
    },
    /// No proof could be had in time.
    NotEffective {
        /// Which.
        fault: FaultId,
        /// What was seen instead.
        detail: String,
    },
    /// The fault did not hold while it should: others have undone it, or it did not come to what it was to be.
    HoldBroken {
        /// Which.
        fault: FaultId,
        /// When that was seen.
        at: Stamp,
        /// What was seen.
        detail: String,
    },
    /// A revert is about to begin. Durable before anything changes.
    RevertIntent {
        /// Which.
        fault: FaultId,
        /// Why: `end of drill`, `step 4`, `aborted`, `firedrill revert`.
        because: String,
    },
    /// A revert ended.
    Reverted {
        /// Which.
        fault: FaultId,
        /// How.
        result: RevertResult,
        /// What was done or seen.
        detail: String,
        /// When.
        end: Stamp,
    },
    /// Proof that nothing of the fault is left.
    Gone {
        /// Which.
        fault: FaultId,
        /// When the proof was complete.
        at: Stamp,
        /// The proof.
        proof: String,
    },
    /// A runbook's step began, ended, was retried or skipped.
    RunbookStep(RunbookStep),
    /// A person said that something is done, or agreed, or declared the outage.
    Acknowledged {
        /// The step's path (with `#n` behind for the n-th manual item of a runbook).
        step: String,
        /// Who.
        by: String,
        /// Said no instead (an approval refused, a manual step that failed).
        refused: bool,
        /// A remark.
        remark: String,
        /// When.
        at: Stamp,
    },
    /// Something was not as the scenario says it should be done; goes into the report.
    Deviation {
        /// What.
        detail: String,
    },
    /// A remark for the timeline.
    Note {
        /// What.
        text: String,
    },
    /// The drill is to be aborted; only reverts follow.
    AbortRequested {
        /// Who: a person, `abortIf`, the time limit, a signal, a failed step.
        by: String,
        /// Why.
        reason: String,
    },
    /// All steps are done (or given up): reverts follow.
    StepsEnded {
        /// When.
        at: Stamp,
    },
    /// Ledgers and backups have been read and sampling has ended.
    ReadingsDone {
        /// When.
        at: Stamp,
    },
    /// Observers, helpers, Leases and the like are removed.
    Disarmed {
        /// What is left, empty when clean.
        left: Vec<String>,
    },
    /// The last record. The verdict is not in here: it is computed.
    Ended {
        /// Whether the cluster is as it was.
        clean: bool,
        /// When.
        at: Stamp,
    },
}

impl Event {
    /// Whether this event belongs into the in-cluster record: all that resume and revert need. Probe runs and readings
    /// stay in the file alone.
    pub fn for_record(&self) -> bool {
        !matches!(self, Self::Run(_) | Self::Alert(_) | Self::Reading { .. } | Self::ClockLinked { .. } | Self::Note { .. })
    }

    /// Whether the drill may go on only once this event is on the disk *and* in the in-cluster record. All others are
    /// written at once, and synced and recorded with the next one that is.
    pub fn must_be_durable(&self) -> bool {
        matches!(self, Self::Started { .. } | Self::Resumed { .. } | Self::Intent { .. })
    }

    /// Whether this event is worth a sync and an attempt at the in-cluster record right away, without which the drill
    /// goes on all the same: a revert must not wait for its book-keeping.
    pub fn should_be_durable(&self) -> bool {
        matches!(
            self,
            Self::Injected { .. }
                | Self::InjectFailed { .. }
                | Self::RevertIntent { .. }
                | Self::Reverted { .. }
                | Self::Gone { .. }
                | Self::StepEnded { .. }
                | Self::Acknowledged { .. }
                | Self::AbortRequested { .. }
                | Self::StepsEnded { .. }
                | Self::Ended { .. }
        )
    }
}

/// What a second runner came for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResumeIntent {
    /// To go on with the steps.
    Resume,
    /// To revert and end.
    Revert,
}

/// When the steady state is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SteadyPhase {
    /// Before the first step.
    Before,
    /// After the reverts.
    After,
}

/// An object that a fault acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TouchedObject {
    /// `Pod`, `CronJob` …
    pub kind: String,
    /// Namespace, empty for nodes.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// uid.
    pub uid: String,
}

impl std::fmt::Display for TouchedObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepOutcome {
    /// As it should.
    Succeeded,
    /// It failed, or its condition did not come in time.
    Failed,
    /// It took longer than `within`.
    TimedOut,
    /// Given up because the drill was aborted.
    Aborted,
}

/// What a revert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevertResult {
    /// The old state is back.
    Reverted,
    /// There was nothing (any more) to undo.
    Nothing,
    /// The value is no longer ours: somebody else changed it; nothing was overwritten.
    Superseded,
    /// The thing is gone, and its undo with it.
    TargetGone,
    /// Left to the runbook or declared irreversible, by the fault's policy.
    NotOurs,
    /// It failed; a person must act.
    Failed,
}

/// A step of a runbook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunbookStep {
    /// The drill's step.
    pub step: String,
    /// Number within the runbook, from 0.
    pub index: u32,
    /// Its heading.
    pub title: String,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// What happened to it.
    pub state: RunbookState,
    /// Its target time, in microseconds, if it has one.
    pub within_us: Option<u64>,
    /// Output (masked, its end if long), exit code, reason of a skip.
    pub detail: String,
    /// When.
    pub at: Stamp,
}

/// What happened to a runbook's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunbookState {
    /// It began.
    Started,
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It was skipped, with a reason: a deviation.
    Skipped,
    /// It took longer than its `within`.
    TimedOut,
}
