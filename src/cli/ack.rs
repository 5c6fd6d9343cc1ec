//! `firedrill ack`: a person's word for the runner of a drill, refused where nobody asks for it.

use std::collections::BTreeMap;

use super::{
    common::{self, CliError},
    out,
    place::{Where, connect, replay},
    run::whoami,
};
use crate::{
    drill::{AckAction, DrillState, Question, StepState, ack_key, asked_in},
    exit::Exit,
    journal::{Event, Inbox, InboxItem, Record, StepOutcome},
    plan::PlannedStep,
    runbook,
};

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

/// Runs the command.
pub(crate) async fn run(args: AckArgs) -> Exit {
    leave(args).await.unwrap_or_else(|error| common::report_error(&error))
}

async fn leave(args: AckArgs) -> Result<Exit, CliError> {
    let place = connect(&args.place).await?;
    let stored = place.choose(args.drill.as_deref())?;
    let (records, state) = replay(stored)?;
    let inbox = Inbox::new(place.cluster.client.clone(), &place.namespace, &stored.drill);
    let items = inbox.read().await.map_err(|e| CliError::Refused(e.to_string()))?;
    let action = match (args.refuse, args.retry, args.skip) {
        (true, ..) => AckAction::Refused,
        (_, true, _) => AckAction::Retry,
        (.., true) => AckAction::Skip,
        _ => AckAction::Done,
    };
    let fits = fits(&records, &state, &items, &args.step, action);
    let early = fits.map_err(|why| CliError::Refused(format!("{}: {why}; {}", stored.drill, waiting(&asked_in(&items)))))?;
    let item = InboxItem { by: whoami(), action: action.as_str().to_owned(), remark: args.remark.clone() };
    inbox.leave(&ack_key(&args.step), &item).await.map_err(|e| CliError::Refused(e.to_string()))?;
    let early = if early { "; it does not ask yet, and will be told when it does" } else { "" };
    out::line(format_args!("told {}: step {} {}{early}", stored.drill, args.step, action.as_str()));
    Ok(Exit::Passed)
}

fn waiting(asked: &[Question]) -> String {
    if asked.is_empty() {
        return "nothing waits for a person now".to_owned();
    }
    let all: Vec<String> = asked.iter().map(|question| format!("`{}` ({})", question.step, question.text)).collect();
    format!("what waits for a person now: {}", all.join(", "))
}

/// How a step ended, for people.
pub(super) const fn outcome(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Succeeded => "succeeded",
        StepOutcome::Failed => "failed",
        StepOutcome::TimedOut => "timed out",
        StepOutcome::Aborted => "aborted",
    }
}

/// Whether an answer is of use; true when it is given before its step asks. Else why not.
fn fits(
    records: &[Record],
    state: &DrillState,
    inbox: &BTreeMap<String, InboxItem>,
    step: &str,
    action: AckAction,
) -> Result<bool, String> {
    let (path, item) = step.split_once('#').map_or((step, None), |(path, item)| (path, Some(item)));
    let Some(planned) = state.plan.as_ref().and_then(|plan| plan.step(path)) else {
        let all =
            state.plan.iter().flat_map(|p| p.leaf_steps().into_iter().map(|s| format!("{} ({})", s.path, s.title)).collect::<Vec<_>>());
        return Err(format!("there is no step {path} in its plan, which has: {}", all.collect::<Vec<_>>().join(", ")));
    };
    if let Some(said) = inbox.get(&ack_key(step)) {
        return Err(format!("step {step} was answered already, with `{}` by {}; its runner has yet to read it", said.action, said.by));
    }
    let asked = asked_in(inbox);
    let asks = asked.iter().find(|question| question.step == step);
    let failed_step = asks.is_some_and(|question| question.failed_step);
    if !failed_step && (action == AckAction::Retry || (action == AckAction::Skip && item.is_none())) {
        return Err(format!("--{} is an answer to a failed step of a runbook, which {step} is not", action.as_str()));
    }
    if asks.is_some() {
        return Ok(false);
    }
    if let Some(StepState::Ended { outcome: how, end, .. }) = state.steps.get(path) {
        return Err(format!("step {path} ({}) is over: it {} at {}", planned.title, outcome(*how), end.utc()));
    }
    let answered = records.iter().any(|r| matches!(&r.event, Event::Acknowledged { step: said, .. } if said == step));
    if answered && item.is_some() {
        return Err(format!("step {step} has been answered"));
    }
    if state.steps_ended || state.abort.is_some() {
        return Err(format!("step {step} will not ask any more: the drill ends"));
    }
    will_ask(planned, item).map(|()| true)
}

/// How many things a person does in a runbook. One that cannot be read asks nobody.
fn manual_items(text: &str) -> usize {
    let items = runbook::parse(text).unwrap_or_default();
    items.iter().flat_map(|item| &item.actions).filter(|action| matches!(action, runbook::Action::Manual { .. })).count()
}

/// Whether a step that is not over will ask what is answered here.
fn will_ask(step: &PlannedStep, item: Option<&str>) -> Result<(), String> {
    let (path, title, spec) = (&step.path, &step.title, &step.spec);
    if spec.runbook.is_some() {
        let manual = step.runbook_text.as_deref().map_or(0, manual_items);
        let Some(item) = item else {
            let form =
                if manual == 0 { "which asks nobody unless a step of it fails" } else { "whose manual items are answered one by one" };
            return Err(format!(
                "step {path} ({title}) is a runbook, {form}: `{path}#1` is its first, `{path}#step1` its first step, if that fails"
            ));
        };
        if item.starts_with("step") {
            return Err(format!("no step of the runbook asks as `{path}#{item}`: one does when it has failed"));
        }
        return match item.parse::<usize>() {
            Ok(n) if (1..=manual).contains(&n) => Ok(()),
            _ => Err(format!("the runbook of step {path} ({title}) has no manual item {item}: it has {manual}")),
        };
    }
    let asks = spec.manual.is_some() || spec.approve.is_some() || spec.declare.as_ref().is_some_and(|declare| declare.alert.is_none());
    match item {
        _ if !asks => Err(format!("step {path} ({title}) asks nobody")),
        Some(item) => Err(format!("step {path} ({title}) is no runbook: there is no {path}#{item}, answer `{path}`")),
        None => Ok(()),
    }
}
