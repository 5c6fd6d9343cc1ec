//! The language: reading a Scenario and an Environment, and saying everything that is wrong with them at once.
//!
//! **Architecture invariant:** nothing here does I/O beyond reading the files it is given, and nothing knows a cluster.

pub mod types;
