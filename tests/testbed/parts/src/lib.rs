//! Workloads of the testbed, built for tests only and never shipped.
//!
//! * [`metronome`]: goes down and up at given instants and says, to the microsecond, when it did.

pub mod clock;
pub mod metronome;
