//! Scenario and a snapshot of the cluster → plan.
//!
//! A plan is data: what each step will touch, checked against limits, labels and budgets. It is all that the engine needs to
//! run, resume and revert a drill, so it is the first record of every journal.
//!
//! **Architecture invariant:** planning is pure ([`make`] is a function of its [`Inputs`]); only [`snapshot`] (with [`plan_on`]) and what
//! calls it ([`recheck`], [`resolve::fresh`]), and [`others::look`] do I/O, and they only read; [`may`] asks what is allowed.

mod claims;
mod drain;
mod drift;
mod expected;
pub mod guard;
pub mod kinds;
mod make;
mod manifest;
pub mod may;
pub mod others;
mod placed;
pub mod rbac;
mod recheck;
pub mod render;
pub mod resolve;
pub mod rollout;
pub mod seen;
pub mod snapshot;
mod types;
pub mod wants;

pub use claims::{unfit as unfit_claim, used as claims_used};
pub use drift::{digest, drift};
pub(crate) use guard::DATABASE;
pub use guard::Touched;
pub use kinds::not_built;
pub use make::{Inputs, Refused, make};
pub use recheck::{Rechecked, recheck};
pub use render::render;
pub use snapshot::{NoPlan, plan_on};
pub use types::*;

#[cfg(test)]
mod tests;
