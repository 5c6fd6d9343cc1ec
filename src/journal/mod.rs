//! The drill's append-only event log. Everything else derives from it.
//!
//! **Architecture invariant:** the journal knows nothing of how events come about; it makes them durable, in order.

mod event;

pub use event::*;
