//! What people, CI systems and auditors read of a drill, all made from its records alone.
//!
//! **Architecture invariant:** nothing here knows a cluster or reads a clock. The same records give the same reports, byte
//! for byte, whenever and wherever they are made.

mod data;
mod deviations;
mod json;
mod junit;
mod markdown;
mod sums;
mod terminal;
#[cfg(test)]
mod tests;
mod timeline;
mod touched;
mod write;

pub(crate) use data::revert_word;
pub use data::{Report, SCHEMA, collect};
pub use json::{json, schema};
pub(crate) use terminal::at_blanks;
pub use terminal::terminal;
pub(crate) use touched::beyond_api;
pub use write::{FILES, ReportError, altered, differing, write};

use crate::{
    exit::Exit,
    verdict::{DrillVerdict, Verdict},
};

/// The exit code of a drill: what is left in the cluster wins over all else. `docs/exit-codes.md` is the list.
pub fn exit(verdict: &Verdict) -> Exit {
    match (verdict.clean, verdict.drill) {
        (false, _) => Exit::NotClean,
        (true, DrillVerdict::Passed) => Exit::Passed,
        (true, DrillVerdict::Failed) => Exit::Failed,
        (true, DrillVerdict::Inconclusive) => Exit::Inconclusive,
        (true, DrillVerdict::Aborted) => Exit::Refused,
    }
}
