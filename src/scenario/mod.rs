//! The language: reading a Scenario and an Environment, and saying everything that is wrong with them at once.
//!
//! text → `tree` (YAML with places) → `params` (`${name}`) → [`check`] (shape, then meaning) → [`types`].
//!
//! **Architecture invariant:** nothing here does I/O beyond reading the files it is given, and nothing knows a cluster.

pub mod check;
pub mod diag;
mod load;
mod params;
pub mod schema;
pub mod statement;
pub(crate) mod tree;
pub mod types;

pub use diag::{Diagnostic, Problems, Severity};
pub use load::{Checked, Loaded, check_file, check_text, load_environment, load_scenario, parse_environment, parse_scenario};
