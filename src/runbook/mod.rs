//! Runbooks: Markdown as teams keep it, or an existing Job, followed step by step and timed.
//!
//! **Architecture invariant:** a runbook never decides a drill's verdict; it says what was done, by whom and how long it took.

mod parse;

pub use parse::{Action, ParseError, RunbookItem, Shell, parse};
