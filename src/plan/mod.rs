//! Scenario and a snapshot of the cluster → plan.
//!
//! A plan is data: what each step will touch, checked against limits, labels and budgets. It is all that the engine needs to
//! run, resume and revert a drill, so it is the first record of every journal.
//!
//! **Architecture invariant:** planning is pure (`fn plan(&Scenario, &Environment, &Snapshot)`); only [`snapshot`](self) does I/O, and it only reads.

mod types;

pub use types::*;
