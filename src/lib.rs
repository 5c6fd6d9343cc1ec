//! firedrill runs disaster-recovery game days on Kubernetes staging clusters: it reads a YAML scenario, breaks what the
//! scenario says, watches failover, alerts, backups and restore runbooks, measures recovery time and data loss with their
//! error, gives a verdict with evidence, and leaves the cluster clean.
//!
//! Data moves one way: [`scenario`] → [`plan`] → `drill` → [`journal`] → `verdict` → `report`; no module reaches
//! backwards. `docs/architecture.md` has the map.

/// Whether a bug is planted: see [`planted`]. Never in a release build.
#[cfg(debug_assertions)]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is($crate::planted::Bug::$bug)
    };
}
#[cfg(not(debug_assertions))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub mod agent;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod doctor;
pub mod drill;
pub mod exit;
pub mod fault;
pub mod gate;
mod hint;
pub mod journal;
pub mod labels;
mod lean;
pub mod net;
pub mod plan;
#[cfg(debug_assertions)]
pub mod planted;
pub mod probe;
pub mod random;
pub mod rehearse;
pub mod report;
pub mod runbook;
pub mod sandbox;
pub mod scenario;
pub mod selector;
mod signals;
pub mod verdict;
