//! `firedrill schema`: JSON Schema of the language, for editors.

use clap::{Args, ValueEnum};

use super::out;
use crate::{exit::Exit, scenario::schema::Document};

/// Print the JSON Schema (draft 2020-12) of scenarios or environments, for editors.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Of which document.
    #[arg(value_enum, default_value_t)]
    document: Kind,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Kind {
    /// A Scenario.
    #[default]
    Scenario,
    /// An Environment.
    Environment,
}

/// Runs the command.
pub(crate) fn run(args: &SchemaArgs) -> Exit {
    let document = match args.document {
        Kind::Scenario => Document::Scenario,
        Kind::Environment => Document::Environment,
    };
    out::line(format_args!("{:#}", document.schema()));
    Exit::Passed
}
