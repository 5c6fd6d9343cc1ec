//! `firedrill plan FILE`: what a drill would do, read-only.

use std::path::PathBuf;

use clap::Args;

use super::{
    common::{self, CliError, DrillArgs, Output},
    out,
};
use crate::{
    exit::Exit,
    plan::{rbac, render},
};

/// Show what a drill would touch, and what it may not; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    drill: DrillArgs,
    /// How to print; the JSON document is what `run --plan` reads.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write the plan to this file, for `run --plan FILE`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the Roles the drill needs instead, as YAML.
    #[arg(long)]
    rbac: bool,
    /// Who gets them: `ServiceAccount:namespace/name`, `User:name` or `Group:name`. Default: the ServiceAccount `firedrill` in
    /// firedrill's own namespace, as the environment names it.
    #[arg(long, value_name = "SUBJECT", requires = "rbac")]
    rbac_subject: Option<rbac::Subject>,
}

/// Runs the command.
pub(crate) async fn run(args: &PlanArgs) -> Exit {
    match plan(args).await {
        Ok(()) => Exit::Passed,
        Err(error) => common::report_error(&error),
    }
}

async fn plan(args: &PlanArgs) -> Result<(), CliError> {
    let prepared = common::prepare(&args.drill).await?;
    let plan = &prepared.plan;
    common::show_warnings(&prepared.loaded.warnings);
    let json =
        serde_json::to_string_pretty(plan).map_err(|error| CliError::Usage(format!("failed to write the plan as JSON: {error}")))? + "\n";
    if let Some(path) = &args.out {
        std::fs::write(path, &json).map_err(|error| CliError::Usage(format!("failed to write {}: {error}", path.display())))?;
    }
    let text = match (args.rbac, args.output) {
        (true, _) => {
            let own = || rbac::Subject::service_account(&plan.place.firedrill.namespace, "firedrill");
            rbac::yaml(plan, &args.rbac_subject.clone().unwrap_or_else(own))
        }
        (false, Output::Json) => json,
        (false, Output::Text) => render::render_with(plan, common::width(), common::color_stdout()) + "\n",
    };
    out::print(&text);
    Ok(())
}
