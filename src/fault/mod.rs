//! Faults, a file a kind, each keeping the whole contract: prepare → arm → inject → effective → holds → revert → gone.
//!
//! **Architecture invariant:** an undo is data. It never holds the contents of a Secret or a file, it is enough for a
//! revert from another machine, and it names the lasting thing (the CronJob, the StatefulSet), not what comes and goes.

mod undo;

pub use undo::*;
