//! firedrill runs disaster-recovery game days on Kubernetes staging clusters: it reads a YAML scenario, breaks what the
//! scenario says, watches failover, alerts, backups and restore runbooks, measures recovery time and data loss with their
//! error, gives a verdict with evidence, and leaves the cluster clean.
//!
//! Data moves one way: [`scenario`] → [`plan`] → `drill` → [`journal`] → `verdict` → `report`; no module reaches
//! backwards. `docs/architecture.md` has the map.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod drill;
pub mod exit;
pub mod fault;
mod hint;
pub mod journal;
pub mod labels;
pub mod net;
pub mod plan;
pub mod probe;

pub mod report;
pub mod runbook;
pub mod sandbox;
pub mod scenario;
pub mod selector;
mod signals;
pub mod verdict;
