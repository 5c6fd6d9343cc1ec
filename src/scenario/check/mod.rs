//! Checks: first the shape of a document against the schema of the types, then what it means.
//!
//! Both gather everything they find. A part whose shape is wrong is left out of the second check, but for the names in it; and
//! what refers to it is not called dangling.

mod acts;
mod faults;
mod model;
mod names;
mod objectives;
mod probes;
mod shape;
mod spec;
mod steps;
mod targets;
mod text;

pub use faults::{Counts, FaultRule, fault_rule, placements};
pub(crate) use model::Model;
pub(crate) use shape::shape;
pub(crate) use spec::{document, environment, scenario};
pub(crate) use text::is_beside;
