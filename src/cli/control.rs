//! `resume`, `revert`, `abort`, `ack`, `list`, `status`: for drills that are running or were left behind, from any machine, by
//! their in-cluster records.

use super::{
    common::{self, CliError, Output},
    out,
    run::{How, finish, keep, whoami},
    stop::refuse_when_stopped,
};
use crate::{
    clock::Clock,
    cluster::{self, Cluster},
    drill::{AckAction, Drill, DrillState, StepState, ack_key},
    exit::Exit,
    journal::{Event, Inbox, InboxItem, Record, ResumeIntent, StoredRecord, find_records},
    scenario::types::OwnPlace,
};

/// Which cluster, and where in it firedrill keeps its records.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    /// The kubeconfig's context; default its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// firedrill's own namespace, as in the environment.
    #[arg(long, short, value_name = "NAME", default_value_t = OwnPlace::default().namespace)]
    pub(super) namespace: String,
}

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

/// Says that a manual step is done, agrees to one that asks, or decides on a failed step of a runbook.
#[derive(Debug, clap::Args)]
pub(crate) struct AckArgs {
    /// The step as the drill shows it: `3`, or `3#1` for a manual item of a runbook.
    step: String,
    /// The drill's name; not needed when there is only one.
    #[arg(long)]
    drill: Option<String>,
    /// It was not done, or is not agreed to.
    #[arg(long, conflicts_with_all = ["retry", "skip"])]
    refuse: bool,
    /// Try a failed runbook step again.
    #[arg(long, conflicts_with = "skip")]
    retry: bool,
    /// Go on without a failed runbook step; needs --remark. Recorded as a deviation.
    #[arg(long, requires = "remark")]
    skip: bool,
    /// A remark or reason, kept in the evidence.
    #[arg(long, default_value = "")]
    remark: String,
    #[command(flatten)]
    place: Where,
}

/// Lists the drills that are running or were left behind.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Where,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Shows where a drill is: its steps, faults, and what is left.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The drill's name; not needed when there is only one.
    drill: Option<String>,
    #[command(flatten)]
    place: Where,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn connect(place: &Where) -> Result<(Cluster, Vec<StoredRecord>), CliError> {
    let cluster = cluster::connect(place.context.as_deref()).await.map_err(CliError::Cluster)?;
    let records = find_records(&cluster.client, &place.namespace).await.map_err(|e| CliError::Refused(e.to_string()))?;
    Ok((cluster, records))
}

/// The drill that is meant.
fn choose(records: Vec<StoredRecord>, named: Option<&str>, place: &Where) -> Result<StoredRecord, CliError> {
    let names: Vec<String> = records.iter().map(|r| r.drill.clone()).collect();
    let mut fitting = records.into_iter().filter(|r| named.is_none_or(|name| name == r.drill));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) if names.is_empty() => {
            Err(CliError::Refused(format!("there is no drill, running or left behind, in namespace {} of this cluster", place.namespace)))
        }
        (None, _) => Err(CliError::Refused(format!("there is no drill `{}`; there is: {}", named.unwrap_or_default(), names.join(", ")))),
        (Some(_), Some(_)) => Err(CliError::Refused(format!("there are several drills, name one: {}", names.join(", ")))),
    }
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
    let (cluster, records) = connect(&args.place).await?;
    let stored = choose(records, args.drill.as_deref(), &args.place)?;
    if intent == ResumeIntent::Resume {
        refuse_when_stopped(&cluster, &args.place.namespace).await?;
    }
    let scenario = stored.scenario.clone();
    let options = args.how.options(Some(format!("{} by taking it over", whoami())));
    let drill = Drill::take_over(cluster, Clock::host(), stored, intent, options).await.map_err(|e| CliError::Refused(e.to_string()))?;
    if !drill.evidence().dir.join("scenario.yaml").exists() {
        keep(&drill, "scenario.yaml", &scenario).await;
    }
    Ok(finish(drill, &args.how).await)
}

/// `firedrill abort`.
pub(crate) async fn abort(args: AbortArgs) -> Exit {
    let leave = async {
        let (cluster, records) = connect(&args.place).await?;
        let stored = choose(records, args.drill.as_deref(), &args.place)?;
        let item = InboxItem { by: whoami(), action: "abort".to_owned(), remark: args.reason.clone() };
        let inbox = Inbox::new(cluster.client.clone(), &args.place.namespace, &stored.drill);
        inbox.leave("abort", &item).await.map_err(|e| CliError::Refused(e.to_string()))?;
        out::line(format_args!(
            "asked {} to abort and revert; follow it with `firedrill status {}`. If its runner is gone: firedrill revert {}",
            stored.drill, stored.drill, stored.drill
        ));
        Ok(Exit::Passed)
    };
    leave.await.unwrap_or_else(|error: CliError| common::report_error(&error))
}

/// `firedrill ack`.
pub(crate) async fn ack(args: AckArgs) -> Exit {
    let leave = async {
        let (cluster, records) = connect(&args.place).await?;
        let stored = choose(records, args.drill.as_deref(), &args.place)?;
        let state = replay(&stored)?;
        let path = args.step.split('#').next().unwrap_or_default();
        if state.plan.as_ref().is_none_or(|plan| plan.step(path).is_none()) {
            let steps: Vec<String> = state
                .plan
                .iter()
                .flat_map(|p| p.leaf_steps().into_iter().map(|s| format!("{} ({})", s.path, s.title)).collect::<Vec<_>>())
                .collect();
            return Err(CliError::Refused(format!("{} has no step {path}; it has: {}", stored.drill, steps.join(", "))));
        }
        let action = match (args.refuse, args.retry, args.skip) {
            (true, ..) => AckAction::Refused,
            (_, true, _) => AckAction::Retry,
            (.., true) => AckAction::Skip,
            _ => AckAction::Done,
        };
        let item = InboxItem { by: whoami(), action: action.as_str().to_owned(), remark: args.remark.clone() };
        let inbox = Inbox::new(cluster.client.clone(), &args.place.namespace, &stored.drill);
        inbox.leave(&ack_key(&args.step), &item).await.map_err(|e| CliError::Refused(e.to_string()))?;
        out::line(format_args!("told {}: step {} {}", stored.drill, args.step, action.as_str()));
        Ok(Exit::Passed)
    };
    leave.await.unwrap_or_else(|error: CliError| common::report_error(&error))
}

fn replay(stored: &StoredRecord) -> Result<DrillState, CliError> {
    let unreadable = |e: &dyn std::fmt::Display| CliError::Refused(format!("the record of {} cannot be read: {e}", stored.drill));
    let records: Vec<Record> =
        stored.lines.iter().map(|l| serde_json::from_str(l)).collect::<Result<_, _>>().map_err(|e| unreadable(&e))?;
    DrillState::replay(&records).map_err(|e| unreadable(&e))
}

/// One line about where a drill is.
fn phase(state: &DrillState) -> String {
    let running: Vec<&str> = state.steps.iter().filter(|(_, s)| matches!(s, StepState::Running { .. })).map(|(p, _)| p.as_str()).collect();
    match state {
        DrillState { ended: Some(true), .. } => "ended, clean".to_owned(),
        DrillState { ended: Some(false), .. } => "ended, NOT CLEAN".to_owned(),
        DrillState { steps_ended: true, .. } => "reverting".to_owned(),
        DrillState { abort: Some((by, why)), .. } => format!("aborted by {by}: {why}"),
        _ if !running.is_empty() => format!("in step {}", running.join(", ")),
        DrillState { steady_before: Some(true), .. } => "between steps".to_owned(),
        DrillState { armed: true, .. } => "waiting for the steady state".to_owned(),
        _ => "starting".to_owned(),
    }
}

fn summary(stored: &StoredRecord, state: &DrillState) -> serde_json::Value {
    let title = |path: &str| state.plan.as_ref().and_then(|p| p.step(path)).map(|s| s.title.clone()).unwrap_or_default();
    let faults: Vec<serde_json::Value> = state
        .faults
        .values()
        .map(|f| {
            serde_json::json!({
                "step": f.step, "title": title(&f.step), "objects": f.objects.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "injected": f.injected.is_some(), "effective": f.effective, "reverted": f.reverted, "gone": f.gone, "settled": f.is_settled(),
            })
        })
        .collect();
    let by = stored.lines.first().and_then(|line| serde_json::from_str::<Record>(line).ok()).map(|first| match first.event {
        Event::Started { by, .. } => (by, first.at.utc()),
        _ => (String::new(), String::new()),
    });
    let (by, at) = by.unwrap_or_default();
    serde_json::json!({"drill": stored.drill, "phase": phase(state), "by": by, "started": at, "faults": faults})
}

/// `firedrill list`.
pub(crate) async fn list(args: ListArgs) -> Exit {
    let show = async {
        let (_, records) = connect(&args.place).await?;
        let all = records.iter().map(|r| Ok(summary(r, &replay(r)?))).collect::<Result<Vec<_>, CliError>>()?;
        if args.output == Output::Json {
            out::line(serde_json::to_string_pretty(&all).unwrap_or_default());
        } else if all.is_empty() {
            out::line("no drill is running or left behind");
        } else {
            for drill in &all {
                let text = |key: &str| drill[key].as_str().unwrap_or_default().to_owned();
                out::line(format_args!("{}  {}  {}  {}", text("drill"), text("started"), text("by"), text("phase")));
            }
        }
        Ok(Exit::Passed)
    };
    show.await.unwrap_or_else(|error: CliError| common::report_error(&error))
}

/// `firedrill status`.
pub(crate) async fn status(args: StatusArgs) -> Exit {
    let show = async {
        let (_, records) = connect(&args.place).await?;
        let stored = choose(records, args.drill.as_deref(), &args.place)?;
        let state = replay(&stored)?;
        let summary = summary(&stored, &state);
        if args.output == Output::Json {
            out::line(serde_json::to_string_pretty(&summary).unwrap_or_default());
            return Ok(Exit::Passed);
        }
        out::line(format_args!("{}: {}", stored.drill, phase(&state)));
        for step in state.plan.iter().flat_map(|plan| plan.leaf_steps().into_iter().cloned().collect::<Vec<_>>()) {
            let now = match state.steps.get(&step.path) {
                None => "to come".to_owned(),
                Some(StepState::Running { start }) => format!("running since {}", start.utc()),
                Some(StepState::Ended { outcome, end, .. }) => format!("{outcome:?} at {}", end.utc()).to_lowercase(),
            };
            out::line(format_args!("  step {:<5} {:<40} {now}", step.path, step.title));
        }
        for fault in state.faults.values() {
            let objects: Vec<String> = fault.objects.iter().map(ToString::to_string).collect();
            let now = if fault.is_settled() {
                "undone"
            } else if fault.is_live() {
                "IN FORCE"
            } else {
                "not yet undone"
            };
            out::line(format_args!("  fault of step {}: {now}: {}", fault.step, objects.join(", ")));
        }
        Ok(Exit::Passed)
    };
    show.await.unwrap_or_else(|error: CliError| common::report_error(&error))
}
