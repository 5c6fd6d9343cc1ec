//! Workloads of the testbed, built for tests only and never shipped.
//!
//! * [`metronome`]: goes down and up at given instants and says, to the microsecond, when it did.
//! * [`checkout`]: the shop's service, which needs the database for almost everything.
//! * [`receiver`]: keeps every alert notification with its arrival time.
//! * [`objects`]: shows Kubernetes objects as metrics and as Prometheus's targets.
//! * [`backups`]: shows pgBackRest's own account of its backups as metrics.

pub mod backups;
pub mod checkout;
pub mod clock;
pub mod metronome;
pub mod objects;
pub mod receiver;
pub mod serve;
