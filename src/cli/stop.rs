//! `firedrill stop`: ends every drill of a namespace of firedrill's and lets none begin, until it is lifted.

use super::{
    common::{self, CliError},
    out,
    place::{Place, Where, connect},
    run::whoami,
};
use crate::{agent::pods, cluster::Cluster, exit::Exit, hint, journal::Stop};

/// Aborts every drill of the environment and lets none begin until it is lifted.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Why; whoever is refused reads it.
    #[arg(long, default_value = "", conflicts_with = "lift")]
    reason: String,
    /// Let drills run again.
    #[arg(long)]
    lift: bool,
    #[command(flatten)]
    place: Where,
}

/// Refuses while all drills are stopped.
///
/// # Errors
/// They are, or it cannot be known.
pub(crate) async fn refuse_when_stopped(cluster: &Cluster, namespace: &str) -> Result<(), CliError> {
    match Stop::read(&cluster.client, namespace).await {
        Ok(None) => Ok(()),
        Ok(Some(stop)) => {
            let lift = hint::command("stop --lift", namespace);
            Err(CliError::Refused(format!("{stop}; nothing was changed. To let drills run again: {lift}")))
        }
        Err(error) => Err(CliError::Refused(format!("it is unknown whether drills are stopped; nothing was changed: {error}"))),
    }
}

/// Runs the command.
pub(crate) async fn run(args: StopArgs) -> Exit {
    perform(&args).await.unwrap_or_else(|error| common::report_error(&error))
}

async fn perform(args: &StopArgs) -> Result<Exit, CliError> {
    let place = connect(&args.place).await?;
    let namespace = &place.namespace;
    let refused = |error: &dyn std::fmt::Display| CliError::Refused(error.to_string());
    if args.lift {
        let was = Stop::lift(&place.cluster.client, namespace).await.map_err(|e| refused(&e))?;
        let said = if was { "may run again" } else { "were not stopped" };
        out::line(format_args!("drills that keep their records in namespace {namespace} {said}"));
        return Ok(Exit::Passed);
    }
    let there = place.exists().await;
    pods::ensure_namespace(&place.cluster, namespace).await.map_err(|e| refused(&e))?;
    let stop = Stop { by: whoami(), reason: args.reason.clone() };
    stop.set(&place.cluster.client, namespace).await.map_err(|e| refused(&e))?;
    out::line(told(&place, there == Ok(false)));
    Ok(Exit::Passed)
}

fn told(place: &Place, made: bool) -> String {
    let namespace = &place.namespace;
    let lift = place.command("stop --lift");
    let mut text = format!("no drill that keeps its records in namespace {namespace} begins any more on this cluster, until: {lift}");
    if made {
        text += &format!(
            "\nthere was no namespace {namespace}, it was made: if drills keep their records elsewhere, they go on; stop them with \
             --environment FILE or --namespace NAME"
        );
    }
    if place.records.is_empty() {
        return text + "\nnone is running there";
    }
    for record in &place.records {
        let drill = &record.drill;
        let (status, revert) = (place.command(&format!("status {drill}")), place.command(&format!("revert {drill}")));
        text += &format!("\n{drill} aborts and reverts; follow it with `{status}`. If its runner is gone: {revert}");
    }
    text
}
