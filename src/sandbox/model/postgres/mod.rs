//! A replicated PostgreSQL as Patroni makes it on Kubernetes, with pgBackRest's repositories. Four models:
//!
//! - `postgres`: a member. Its label `cluster` names the cluster, `cluster-name` the Endpoints that hold the leader's lock.
//! - `pgbackrest`: the container beside it, which repositories' hosts copy from.
//! - `backup-repository`: a repository's host; `backup-job`: the container of the Job that takes a backup into its volume.
//! - `postgres-tools`: a pod with the programs, where a runbook restores a backup and starts a server on it.
//!
//! The data are real: rows, transactions, positions in a log, timelines; the log really travels over the sandbox's network, and a commit
//! really waits for its replica. So a failover loses what it would lose. What a member says of itself is in its REST API, its pod and
//! `pg_stat_replication`; what is true besides goes to the sandbox's ground truth: `primary`, `demoted`, `rewound` (with the rows that
//! nobody has any more), `backup`.

mod archive;
mod ast;
mod backup;
mod data;
mod dcs;
mod eval;
mod execute;
mod frames;
mod ha;
mod knobs;
mod lex;
mod member;
mod parcel;
mod parse;
mod pgbackrest;
mod psql;
mod replicate;
mod repository;
mod rest;
mod restored;
mod seed;
mod server;
#[cfg(test)]
mod tests;
mod tools;
mod value;
mod wire;

pub(super) use archive::PgBackRest;
pub(super) use backup::BackupJob;
pub(super) use repository::{BackupRepository, info_here};
pub(super) use tools::{Postgres, PostgresTools};

/// PostgreSQL's port.
const PORT: u16 = 5432;
/// Where a database's volume is mounted.
const DATA: &str = "/data";
