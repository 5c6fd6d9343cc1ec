//! `firedrill stop`: ends every drill of a cluster and lets none begin, until it is lifted.

use super::{
    common::{self, CliError},
    control::{Where, connect},
    out,
    run::whoami,
};
use crate::{
    agent::pods,
    cluster::Cluster,
    exit::Exit,
    journal::{Stop, StoredRecord},
};

/// Aborts every drill on the cluster and lets none begin until it is lifted.
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
        Ok(Some(stop)) => Err(CliError::Refused(format!("{stop}; nothing was changed. To let drills run again: firedrill stop --lift"))),
        Err(error) => Err(CliError::Refused(format!("it is unknown whether drills are stopped; nothing was changed: {error}"))),
    }
}

/// Runs the command.
pub(crate) async fn run(args: StopArgs) -> Exit {
    perform(&args).await.unwrap_or_else(|error| common::report_error(&error))
}

async fn perform(args: &StopArgs) -> Result<Exit, CliError> {
    let (cluster, records) = connect(&args.place).await?;
    let namespace = &args.place.namespace;
    let refused = |error: &dyn std::fmt::Display| CliError::Refused(error.to_string());
    if args.lift {
        let was = Stop::lift(&cluster.client, namespace).await.map_err(|e| refused(&e))?;
        out::line(if was { "drills may run again" } else { "drills were not stopped" });
        return Ok(Exit::Passed);
    }
    pods::ensure_namespace(&cluster, namespace).await.map_err(|e| refused(&e))?;
    let stop = Stop { by: whoami(), reason: args.reason.clone() };
    stop.set(&cluster.client, namespace).await.map_err(|e| refused(&e))?;
    out::line(told(&records, &args.place.namespace));
    Ok(Exit::Passed)
}

fn told(records: &[StoredRecord], namespace: &str) -> String {
    let mut text = "no drill begins any more on this cluster, until: firedrill stop --lift".to_owned();
    if namespace != crate::scenario::types::OwnPlace::default().namespace {
        text += &format!(" --namespace {namespace}");
    }
    if records.is_empty() {
        return text + "\nnone is running";
    }
    for record in records {
        let drill = &record.drill;
        text += &format!(
            "\n{drill} aborts and reverts; follow it with `firedrill status {drill}`. If its runner is gone: firedrill revert {drill}"
        );
    }
    text
}
