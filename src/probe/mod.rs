//! Probes: a file a kind, the sampler that all of them share, and the making of runs out of samples.
//!
//! Samplers run in an [`Engine`], in the runner's process and in the observer pod alike; what they see comes together in
//! one collector on the runner, which makes runs, the live [`Board`], the raw series and events of it.
//!
//! **Architecture invariant:** the engine and what it samples know nothing of Kubernetes; only what the runner samples
//! through the API server does.

mod alert;
mod backup;
mod collect;
pub mod digest;
mod engine;
mod files;
pub(crate) mod forward;
mod http;
mod ledger;
mod metric;
mod object;
mod observer;
mod pg;
mod pods;
mod resolve;
mod runs;
mod sample;
mod sampler;
mod set;
mod sql;
mod tcp;

pub use alert::{AlertSpec, RECEIVER_CLOCK};
pub use collect::Board;
pub use engine::{Engine, ProbeSpec, SpecKind};
pub use ledger::{Copy as LedgerCopy, LedgerSpec, table_name};
pub(crate) use object::cel;
pub(crate) use observer::outside;
pub use observer::{Observer, ObserverPod};
pub use pg::{Pg, PgError, PgTarget, Secret};
pub use runs::{ProbeLive, RunBuilder};
pub use sample::{Cadence, Outcome, Sample, Seen};
pub use sampler::{Sampler, Take};
pub use set::{ProbeCx, ProbeError, ProbeSet};
pub use sql::SqlSpec;
