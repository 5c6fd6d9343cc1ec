//! Runbooks: Markdown as teams keep it, or an existing Job, followed step by step and timed.
//!
//! - [`parse`](fn@parse): Markdown → steps. Pure.
//! - [`run`]: follows the steps. Shell blocks run in a pod, a person does the `- [ ]` lines, what fails stops the runbook.
//! - [`cleanup`]: removes what runbooks made, by the drill's label alone.
//!
//! **Architecture invariant:** a runbook never decides a drill's verdict; it says what was done, by whom and how long it took.
//! No value of a Secret leaves `mask` unmasked.

mod command;
mod control;
mod job;
mod mask;
mod parse;
mod place;
mod shell;

pub(crate) use command::{Command, command, quoted};
pub use control::{Answer, Ask, Choice, Emit, Question, RunbookCx, run};
pub(crate) use job::output as job_output;
pub use mask::{KEEP, Masks};
pub use parse::{Action, ParseError, RunbookItem, Shell, parse};
pub(crate) use place::waiting_for;
pub use place::{FAULT_ROLE, ROLE, cleanup, in_target, name};
