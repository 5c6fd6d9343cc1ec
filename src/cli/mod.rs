//! Arguments, wiring, exit codes. Parses and wires, and decides nothing.

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
enum Command {}

/// The whole program: parses the arguments, runs the command, maps its end to an exit code.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli.command).into(),
        Err(error) => {
            // Help and version are asked for and go to standard output with 0; everything else is wrong usage.
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Passed };
            // A closed pipe is all that can go wrong here, and then nobody reads it.
            let _ = error.print();
            code.into()
        }
    }
}

fn run(command: Command) -> Exit {
    match command {}
}
