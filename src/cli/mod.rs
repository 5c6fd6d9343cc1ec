//! Arguments, wiring, exit codes. Parses and wires, and decides nothing.

// It panics where nothing can be written: `out` remembers it instead.
#![warn(clippy::print_stdout)]

mod ack;
mod agent;
pub(crate) mod common;
mod control;
mod doctor;
mod live;
mod log;
mod out;
mod pace;
mod place;
mod plan;
mod progress;
mod rehearse;
mod report;
mod run;
mod schema;
pub(crate) mod set;
mod status;
mod stop;
mod validate;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Exit;

/// Disaster-recovery game days on Kubernetes staging clusters.
#[derive(Debug, Parser)]
#[command(name = "firedrill", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(hide = true)]
    Agent(agent::Args),
    Doctor(Box<doctor::DoctorArgs>),
    Plan(Box<plan::PlanArgs>),
    Report(report::ReportArgs),
    Verify(verify::VerifyArgs),
    Rehearse(rehearse::RehearseArgs),
    Run(Box<run::Args>),
    Resume(control::ResumeArgs),
    /// Reverts a drill that was left behind, out of its in-cluster record alone
    Revert(control::ResumeArgs),
    Abort(control::AbortArgs),
    Ack(ack::AckArgs),
    Stop(stop::StopArgs),
    List(status::ListArgs),
    Status(status::StatusArgs),
    Validate(validate::ValidateArgs),
    Schema(schema::SchemaArgs),
}

/// The whole program: parses the arguments, runs the command, maps its end to an exit code.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => {
            // As with reports that could not be written: the drill was performed, and its evidence is whole.
            let drill = matches!(cli.command, Command::Run(_) | Command::Resume(_) | Command::Revert(_));
            out::end(run(cli.command), if drill { Exit::Inconclusive } else { Exit::Usage }).into()
        }
        Err(error) => {
            // Help and version are asked for and go to standard output with 0; everything else is wrong usage.
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Passed };
            if let Err(unwritten) = error.print().and_then(|()| std::io::Write::flush(&mut std::io::stdout())) {
                out::failed(unwritten);
            }
            out::end(code, Exit::Usage).into()
        }
    }
}

fn run(command: Command) -> Exit {
    match &command {
        // What an agent says goes over its link.
        Command::Agent(_) => {}
        Command::Run(args) => log::start(args.is_json()),
        Command::Resume(args) | Command::Revert(args) => log::start(args.is_json()),
        _ => log::start(false),
    }
    match command {
        Command::Agent(args) => block_on(agent::run(args)),
        Command::Doctor(args) if args.in_sandbox() => block_in_sandbox(doctor::run(&args)),
        Command::Doctor(args) => block_on(doctor::run(&args)),
        Command::Plan(args) => block_on(plan::run(&args)),
        Command::Rehearse(args) => rehearse::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Run(args) if args.in_sandbox() => block_in_sandbox(run::run(*args)),
        Command::Run(args) => block_on(run::run(*args)),
        Command::Resume(args) => block_on(control::resume(args)),
        Command::Revert(args) => block_on(control::revert(args)),
        Command::Abort(args) => block_on(control::abort(args)),
        Command::Ack(args) => block_on(ack::run(args)),
        Command::Stop(args) => block_on(stop::run(args)),
        Command::List(args) => block_on(status::list(args)),
        Command::Status(args) => block_on(status::status(args)),
        Command::Validate(args) => validate::run(&args),
        Command::Schema(args) => schema::run(&args),
    }
}

/// Runs a command to its end on a runtime of its own.
fn block_on(command: impl Future<Output = Exit>) -> Exit {
    block(tokio::runtime::Builder::new_current_thread().enable_all(), command)
}

/// The same in a time of its own, which goes on as soon as nothing is left to do at an instant.
fn block_in_sandbox(command: impl Future<Output = Exit>) -> Exit {
    block(tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true), command)
}

fn block(runtime: &mut tokio::runtime::Builder, command: impl Future<Output = Exit>) -> Exit {
    match runtime.build() {
        Ok(runtime) => {
            let exit = runtime.block_on(command);
            // A read of standard input cannot be taken back: nothing waits for its thread.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            crate::cli::out::note!("failed to start: {error}");
            Exit::Refused
        }
    }
}
