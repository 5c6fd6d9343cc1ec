//! One run of a scenario: state, the next action, the executor that performs it, Leases, reverts.
//!
//! [`next`](next::next) and [`DrillState::apply`] are pure. The executor performs actions and appends events; the state
//! changes by events alone, so a drill can be replayed, resumed and reverted from its journal or its in-cluster record.
//!
//! **Architecture invariant:** nothing is changed in the cluster that is not the consequence of an event in the journal.

mod acks;
mod begin;
mod executor;
mod holds;
mod lease;
mod next;
mod place;
mod reverts;
mod state;
mod steps;
mod wait;
mod watchdog;
mod watchers;

pub use acks::{Ack, AckAction, Acks, Question, ack_key, asked_in};
pub use begin::{DrillOptions, Evidence, Takeover};
pub use executor::{Drill, DrillEnd};
pub use lease::{Fence, LEAST_LEASE, LeaseError};
pub use next::{Action, next};
pub use state::{DrillState, FaultState, IllegalTransition, StepState};
pub(crate) use watchdog::{READY, UNABLE, WORD};

/// Why a drill could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    /// The Leases.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// An event that cannot follow.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Something that had to be placed before the drill.
    #[error("failed to place the {what}: {detail}")]
    Place {
        /// `observer` …
        what: &'static str,
        /// Why.
        detail: String,
    },
    /// There is nothing to take over.
    #[error("drill {0} has ended meanwhile and is clean: nothing of it is left to take over")]
    Over(String),
    /// This runner must not act any more.
    #[error("this runner has lost its Leases and changes nothing more: {0}")]
    Fenced(String),
}
