//! `resume`, `revert`, `abort`: for drills that are running or were left behind, from any machine, by their in-cluster records.

use super::{
    common::{self, CliError},
    out,
    place::{Where, connect},
    run::{How, finish, keep, whoami},
    stop::refuse_when_stopped,
};
use crate::{
    clock::Clock,
    drill::Drill,
    exit::Exit,
    journal::{Inbox, InboxItem, ResumeIntent},
};

/// Takes a drill over whose runner is gone and goes on with it.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The drill's name (`firedrill list`); not needed when there is only one.
    drill: Option<String>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    how: How,
}

impl ResumeArgs {
    pub(crate) fn is_json(&self) -> bool {
        self.how.is_json()
    }
}

/// Leaves word for the runner of a drill to abort it and revert.
#[derive(Debug, clap::Args)]
pub(crate) struct AbortArgs {
    /// The drill's name; not needed when there is only one.
    drill: Option<String>,
    /// Why; goes into the report.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Where,
}

/// `firedrill resume`.
pub(crate) async fn resume(args: ResumeArgs) -> Exit {
    take_over(args, ResumeIntent::Resume).await.unwrap_or_else(|error| common::report_error(&error))
}

/// `firedrill revert`.
pub(crate) async fn revert(args: ResumeArgs) -> Exit {
    take_over(args, ResumeIntent::Revert).await.unwrap_or_else(|error| common::report_error(&error))
}

async fn take_over(args: ResumeArgs, intent: ResumeIntent) -> Result<Exit, CliError> {
    common::check_out(&args.how.out)?;
    let place = connect(&args.place).await?;
    let stored = place.choose(args.drill.as_deref())?.clone();
    if intent == ResumeIntent::Resume {
        refuse_when_stopped(&place.cluster, &place.namespace).await?;
    }
    let scenario = stored.scenario.clone();
    let options = args.how.options(Some(format!("{} by taking it over", whoami())));
    let drill =
        Drill::take_over(place.cluster, Clock::host(), stored, intent, options).await.map_err(|e| CliError::Refused(e.to_string()))?;
    if !drill.evidence().dir.join("scenario.yaml").exists() {
        keep(&drill, "scenario.yaml", &scenario).await;
    }
    Ok(finish(drill, &args.how, None).await)
}

/// `firedrill abort`.
pub(crate) async fn abort(args: AbortArgs) -> Exit {
    let leave = async {
        let place = connect(&args.place).await?;
        let drill = &place.choose(args.drill.as_deref())?.drill;
        let item = InboxItem { by: whoami(), action: "abort".to_owned(), remark: args.reason.clone() };
        let inbox = Inbox::new(place.cluster.client.clone(), &place.namespace, drill);
        inbox.leave("abort", &item).await.map_err(|e| CliError::Refused(e.to_string()))?;
        out::line(format_args!(
            "asked {drill} to abort and revert; follow it with `{}`. If its runner is gone: {}",
            place.command(&format!("status {drill}")),
            place.command(&format!("revert {drill}"))
        ));
        Ok(Exit::Passed)
    };
    leave.await.unwrap_or_else(|error: CliError| common::report_error(&error))
}
