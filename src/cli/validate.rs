//! `firedrill validate FILE…`: everything that is wrong with scenarios and environments, at once.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{
    common::{self, Output},
    out,
};
use crate::{
    exit::Exit,
    scenario::{
        Diagnostic, Severity, check_file,
        diag::{counted, escaped, render},
    },
};

/// Check scenarios and environments; shows all mistakes of all files with their places.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files with Scenario and Environment documents.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A new value for a parameter, as for `run`.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::set::parse)]
    sets: Vec<(String, String)>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &ValidateArgs) -> Exit {
    let mut wrong = false;
    let mut files = Vec::new();
    let color = common::color_stdout();
    for path in &args.files {
        let name = path.display().to_string();
        let checked = check_file(path, &args.sets);
        let mistakes = checked.diagnostics.iter().filter(|d| d.severity == Severity::Mistake).count();
        let warnings = checked.diagnostics.len() - mistakes;
        wrong |= mistakes > 0;
        if args.output == Output::Json {
            files.push(json!({
                "file": name,
                "ok": mistakes == 0,
                "mistakes": mistakes,
                "warnings": warnings,
                "diagnostics": checked.diagnostics.iter().map(as_json).collect::<Vec<_>>(),
            }));
            continue;
        }
        let name = escaped(&name);
        let mut text = render(&checked.diagnostics, color);
        text.push_str(&match (mistakes, warnings) {
            (0, 0) => format!("{name}: ok\n"),
            (0, _) => format!("{name}: ok, {}\n", counted(warnings, "warning")),
            _ => format!("{}, {} in {name}\n", counted(mistakes, "mistake"), counted(warnings, "warning")),
        });
        out::print(&text);
    }
    if args.output == Output::Json {
        out::line(format_args!("{:#}", json!({ "files": files })));
    }
    if wrong { Exit::Usage } else { Exit::Passed }
}

fn as_json(diagnostic: &Diagnostic) -> serde_json::Value {
    let severity = match diagnostic.severity {
        Severity::Mistake => "mistake",
        Severity::Warning => "warning",
    };
    let also: Vec<_> =
        diagnostic.also.iter().map(|(span, word)| json!({"line": span.line, "column": span.column, "message": word})).collect();
    json!({
        "severity": severity,
        "line": diagnostic.span.map(|s| s.line),
        "column": diagnostic.span.map(|s| s.column),
        "length": diagnostic.span.map(|s| s.len),
        "message": diagnostic.message,
        "help": diagnostic.help,
        "also": also,
    })
}
