//! Drills in the sandbox: the first run on a machine with no cluster, and rehearsals before game day.
//!
//! A **world** is a set of ordinary manifests beside the scenario; a **stage** is a sandbox with a world in it that has come up. On
//! it a drill is performed by the same functions as on a real cluster.

mod mutants;
mod participants;
mod perform;
mod stage;
mod world;

pub use mutants::{Fate, MUTANTS, Mutant};
pub use participants::Participants;
pub use perform::{Case, Rehearsal, RehearsalError, Touch, flaky, perform};
pub use stage::{Stage, StageError};
pub use world::{World, WorldError};
