//! `list` and `status`: where drills are, from any machine, by their in-cluster records, their Leases and what they ask.

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use serde_json::json;

use super::{
    ack,
    common::{self, CliError, Output},
    out,
    place::{Place, Where, connect, replay},
};
use crate::{
    clock::{Clock, utc},
    drill::{DrillState, FaultState, Question, StepState, asked_in},
    exit::Exit,
    journal::{Event, Inbox, Record},
    labels,
    scenario::types::Dur,
};

/// Lists the drills that are running or were left behind.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Where,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Shows where a drill is: its steps, faults, whom it waits for, whether its runner lives, and what is left.
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

/// The Lease of a drill that was renewed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Renewed {
    /// By the clock of the runner's machine, microseconds since the epoch.
    at_us: i64,
    /// How long it lives from then on.
    lives: Dur,
}

/// What is seen of a drill's runner, by the wall clocks of two machines. That is for people to judge: who takes a drill over watches
/// the Leases with one clock.
#[derive(Debug)]
enum Runner {
    Renewed(Renewed),
    NoLease,
    Unknown(String),
}

impl Runner {
    fn of(leases: &Result<Vec<Lease>, String>, drill: &str) -> Self {
        let leases = match leases {
            Ok(leases) => leases,
            Err(why) => return Self::Unknown(why.clone()),
        };
        let mine = leases.iter().filter(|lease| lease.labels().get(labels::DRILL).is_some_and(|of| of == drill));
        let renewed = mine.filter_map(|lease| {
            let spec = lease.spec.as_ref()?;
            let lives = u64::try_from(spec.lease_duration_seconds.unwrap_or(15)).unwrap_or(0);
            Some(Renewed { at_us: spec.renew_time.as_ref()?.0.as_microsecond(), lives: Dur::from_secs(lives) })
        });
        renewed.max_by_key(|lease| lease.at_us).map_or(Self::NoLease, Self::Renewed)
    }

    /// Whether it has renewed within the time a Lease lives; none when that is not known.
    fn current(&self, now_us: i64) -> Option<bool> {
        match self {
            Self::Renewed(lease) => Some(now_us - lease.at_us <= i64::try_from(lease.lives.as_micros()).unwrap_or(i64::MAX)),
            Self::NoLease => Some(false),
            Self::Unknown(_) => None,
        }
    }

    fn text(&self, now_us: i64) -> String {
        match self {
            Self::Unknown(why) => format!("Leases cannot be seen: {why}"),
            Self::NoLease => "holds no Leases: its runner has yet to take them, or is gone".to_owned(),
            Self::Renewed(lease) => {
                let ago_s = (now_us - lease.at_us) / 1_000_000;
                if ago_s < -1 {
                    return format!("Leases renewed at a time {}s ahead of this machine's clock", -ago_s);
                }
                let ago_s = ago_s.max(0);
                if self.current(now_us) == Some(true) {
                    format!("Leases renewed {ago_s}s ago")
                } else {
                    format!("Leases not renewed for {ago_s}s: its runner is gone or cut off")
                }
            }
        }
    }

    fn json(&self, now_us: i64) -> serde_json::Value {
        let renewed = if let Self::Renewed(lease) = self { Some(lease) } else { None };
        json!({
            "renewed": renewed.map(|lease| utc(lease.at_us)), "livesSeconds": renewed.map(|lease| lease.lives.0.as_secs()),
            "current": self.current(now_us), "text": self.text(now_us),
        })
    }
}

async fn leases(place: &Place) -> Result<Vec<Lease>, String> {
    let selector = format!("{}=lease", labels::ROLE);
    let api = place.cluster.api::<Lease>(&place.namespace);
    place.cluster.list_all(&api, Some(&selector), "list the drills' Leases").await.map_err(|e| e.to_string())
}

/// One line about where a drill is.
fn phase(state: &DrillState) -> String {
    let title = |path: &str| state.plan.as_ref().and_then(|plan| plan.step(path)).map(|step| step.title.clone()).unwrap_or_default();
    // A `parallel` says nothing beside its steps.
    let leaf = |path: &str| state.plan.as_ref().and_then(|plan| plan.step(path)).is_none_or(|step| step.children.is_empty());
    let running: Vec<String> = state
        .steps
        .iter()
        .filter(|(path, step)| matches!(step, StepState::Running { .. }) && leaf(path))
        .map(|(path, _)| format!("{path} ({})", title(path)))
        .collect();
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

fn summary(drill: &str, records: &[Record], state: &DrillState, runner: &Runner, now_us: i64) -> serde_json::Value {
    let title = |path: &str| state.plan.as_ref().and_then(|p| p.step(path)).map(|s| s.title.clone()).unwrap_or_default();
    let faults: Vec<serde_json::Value> = state
        .faults
        .values()
        .map(|f| {
            json!({
                "step": f.step, "title": title(&f.step), "objects": f.objects.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "injected": f.injected.is_some(), "effective": f.effective, "reverted": f.reverted, "gone": f.gone, "settled": f.is_settled(),
            })
        })
        .collect();
    let (by, at) = match records.first().map(|first| (&first.event, &first.at)) {
        Some((Event::Started { by, .. }, at)) => (by.clone(), at.utc()),
        _ => (String::new(), String::new()),
    };
    json!({"drill": drill, "phase": phase(state), "by": by, "started": at, "faults": faults, "leases": runner.json(now_us)})
}

/// `firedrill list`.
pub(crate) async fn list(args: ListArgs) -> Exit {
    show_all(&args).await.unwrap_or_else(|error: CliError| common::report_error(&error))
}

async fn show_all(args: &ListArgs) -> Result<Exit, CliError> {
    let place = connect(&args.place).await?;
    let namespace = &place.namespace;
    if place.records.is_empty() {
        match place.exists().await {
            Ok(true) => {}
            Ok(false) => {
                return Err(CliError::Refused(format!(
                    "there is no namespace {namespace} on this cluster: no drill has run there. Drills of another environment are found with \
                     --environment FILE or --namespace NAME"
                )));
            }
            Err(why) => crate::cli::out::note!("whether there is a namespace {namespace} could not be checked: {why}"),
        }
    }
    let (leases, now_us) = (leases(&place).await, Clock::host().now().wall_us);
    let mut all = Vec::new();
    for stored in &place.records {
        let (records, state) = replay(stored)?;
        all.push(summary(&stored.drill, &records, &state, &Runner::of(&leases, &stored.drill), now_us));
    }
    if args.output == Output::Json {
        out::line(serde_json::to_string_pretty(&all).unwrap_or_default());
    } else if all.is_empty() {
        out::line(format_args!("no drill is running or left behind in namespace {namespace}"));
    } else {
        for drill in &all {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let shown = ["drill", "started", "by", "phase"].map(|key| text(&drill[key])).join("  ");
            out::line(format_args!("{shown}  {}", text(&drill["leases"]["text"])));
        }
    }
    Ok(Exit::Passed)
}

/// `firedrill status`.
pub(crate) async fn status(args: StatusArgs) -> Exit {
    show_one(&args).await.unwrap_or_else(|error: CliError| common::report_error(&error))
}

async fn show_one(args: &StatusArgs) -> Result<Exit, CliError> {
    let place = connect(&args.place).await?;
    let stored = place.choose(args.drill.as_deref())?;
    let drill = &stored.drill;
    let (records, state) = replay(stored)?;
    let inbox = Inbox::new(place.cluster.client.clone(), &place.namespace, drill);
    // What it asks is a help beside the record; without it the rest is shown all the same.
    let asked = inbox.read().await.map(|items| asked_in(&items)).map_err(|e| e.to_string());
    let (runner, now_us) = (Runner::of(&leases(&place).await, drill), Clock::host().now().wall_us);
    if args.output == Output::Json {
        let mut summary = summary(drill, &records, &state, &runner, now_us);
        summary["waitsFor"] = json!(asked.ok());
        out::line(serde_json::to_string_pretty(&summary).unwrap_or_default());
        return Ok(Exit::Passed);
    }
    out::line(format_args!("{drill}: {}", phase(&state)));
    out::line(format_args!("  {}", runner.text(now_us)));
    if runner.current(now_us) == Some(false) && state.leased {
        let (resume, revert) = (place.command(&format!("resume {drill}")), place.command(&format!("revert {drill}")));
        out::line(format_args!("    take it over with `{resume}` or undo it with `{revert}`"));
    }
    match asked {
        Ok(asked) => asked.iter().for_each(|question| out::line(how_to_answer(question, drill, &place))),
        Err(why) => out::line(format_args!("  whether it waits for a person cannot be seen: {why}")),
    }
    for step in state.plan.iter().flat_map(|plan| plan.leaf_steps()) {
        out::line(format_args!("  step {:<5} {:<40} {}", step.path, step.title, step_now(state.steps.get(&step.path))));
    }
    for fault in state.faults.values() {
        let objects: Vec<String> = fault.objects.iter().map(ToString::to_string).collect();
        out::line(format_args!("  fault of step {}: {}: {}", fault.step, fault_now(fault), objects.join(", ")));
    }
    Ok(Exit::Passed)
}

fn how_to_answer(question: &Question, drill: &str, place: &Place) -> String {
    // Some shells take a `#` within a word for something of their own.
    let step = if question.step.contains('#') { format!("'{}'", question.step) } else { question.step.clone() };
    let ack = place.command(&format!("ack {step} --drill {drill}"));
    let how = if question.failed_step {
        format!("{ack} --retry (or --skip --remark REASON, or --refuse)")
    } else {
        format!("{ack} (or --refuse)")
    };
    format!("  waits for a person, step {}: {}\n    {how}", question.step, question.text)
}

fn step_now(step: Option<&StepState>) -> String {
    match step {
        None => "to come".to_owned(),
        Some(StepState::Running { start }) => format!("running since {}", start.utc()),
        Some(StepState::Ended { outcome, end, .. }) => format!("{} at {}", ack::outcome(*outcome), end.utc()),
    }
}

fn fault_now(fault: &FaultState) -> &'static str {
    if fault.is_settled() {
        "undone"
    } else if fault.is_live() {
        "IN FORCE"
    } else {
        "not yet undone"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_said_to_live_as_long_as_its_lease() {
        let runner = Runner::Renewed(Renewed { at_us: 100_000_000, lives: Dur::from_secs(15) });
        let said = |now_s: i64| (runner.current(now_s * 1_000_000), runner.text(now_s * 1_000_000));
        assert_eq!(said(103), (Some(true), "Leases renewed 3s ago".to_owned()));
        assert_eq!(said(99), (Some(true), "Leases renewed 0s ago".to_owned()));
        assert_eq!(said(140), (Some(false), "Leases not renewed for 40s: its runner is gone or cut off".to_owned()));
        assert_eq!(said(70).1, "Leases renewed at a time 30s ahead of this machine's clock");
        assert_eq!(Runner::NoLease.current(0), Some(false));
        assert_eq!(Runner::Unknown("forbidden".to_owned()).current(0), None);
    }

    #[test]
    fn times_of_steps_are_rfc_3339() {
        let clock = Clock::host();
        let end = clock.now();
        let step = StepState::Ended { start: end.clone(), outcome: crate::journal::StepOutcome::TimedOut, end };
        let said = step_now(Some(&step));
        assert!(said.starts_with("timed out at 2") && said.ends_with('Z') && said.contains('T'), "{said}");
    }
}
