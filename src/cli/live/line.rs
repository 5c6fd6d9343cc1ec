//! One line of plain text for an event: what logs and the upper part of the live view show.

use crate::{
    journal::{AlertStage, Event, Reading, RunbookState, SteadyPhase, StepOutcome},
    plan::Plan,
    scenario::types::Dur,
};

/// How loud a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Something broke or failed, or was broken on purpose.
    Bad,
    /// Worth a second look.
    Warn,
    /// The rest.
    Plain,
}

/// The line for an event, or none for those that would drown the others (probe runs come as changes of state instead).
pub(super) fn of(plan: &Plan, event: &Event) -> Option<(Tone, String)> {
    let step = |path: &str| {
        plan.step(path).map_or_else(|| format!("step {path}"), |s| format!("step {path} {}", super::screen::untitled(&s.title, path)))
    };
    let fault = |id: u32| {
        let of = plan.leaf_steps().into_iter().find(|s| s.fault == Some(id));
        of.map_or_else(|| format!("fault {id}"), |s| format!("fault of step {} {}", s.path, s.title))
    };
    Some(match event {
        Event::Started { drill, by, .. } => (Tone::Plain, format!("drill {drill} started by {by}")),
        Event::Confirmed { by } => (Tone::Plain, format!("plan agreed to by {by}")),
        Event::Resumed { by, intent, .. } => (Tone::Warn, format!("taken over by {by} to {intent:?}").to_lowercase()),
        Event::LeasesTaken { leases } if leases.is_empty() => (Tone::Plain, "no lease is needed: nothing is touched".to_owned()),
        Event::LeasesTaken { leases } => (Tone::Plain, format!("leases held: {}", leases.join(", "))),
        Event::LeaseLost { detail } => (Tone::Bad, format!("lease lost: {detail}")),
        Event::EndedElsewhere { .. } => (Tone::Plain, "ended clean by whoever took it over".to_owned()),
        Event::Armed { what, pod } => (Tone::Plain, format!("armed: {what} in pod {pod}")),
        Event::ArmingDone { .. } => (Tone::Plain, "armed; waiting for the steady state".to_owned()),
        Event::ReadingsDone { .. } => (Tone::Plain, "everything is read back".to_owned()),
        Event::SteadyState { phase, held, detail } => {
            let when = match phase {
                SteadyPhase::Before => "before the steps",
                SteadyPhase::After => "after the reverts",
            };
            if *held {
                (Tone::Good, format!("steady state held {when}: {detail}"))
            } else {
                (Tone::Bad, format!("no steady state {when}: {detail}"))
            }
        }
        Event::Alert(seen) => {
            let tone = match seen.stage {
                AlertStage::Firing | AlertStage::Notified | AlertStage::Received => Tone::Warn,
                AlertStage::Suppressed => Tone::Bad,
                AlertStage::Absent | AlertStage::Heartbeat => return None,
                AlertStage::Resolved => Tone::Good,
            };
            (tone, format!("alert {}: {}", seen.probe, format!("{:?}", seen.stage).to_lowercase()))
        }
        Event::Reading { of, reading, .. } => match reading {
            Reading::Backup { id, detail, .. } if id.is_empty() => (Tone::Warn, format!("{of}: no backup ({detail})")),
            Reading::Backup { id, bytes, .. } => (Tone::Plain, format!("{of}: newest backup {id}, {bytes} bytes")),
            Reading::Ledger(ledger) => {
                let tone = if ledger.lost.is_empty() { Tone::Good } else { Tone::Bad };
                (tone, format!("{of}: {} writes acknowledged, {} lost, {} unknown", ledger.ok, ledger.lost.len(), ledger.unknown))
            }
            Reading::Digest { side, digest, rows } => {
                let side = format!("{side:?}").to_lowercase();
                (Tone::Plain, format!("{of}: {side} has {rows} rows, digest {}", digest.get(..16).unwrap_or(digest)))
            }
            Reading::Failed { detail } => (Tone::Bad, format!("{of}: could not be read: {detail}")),
        },
        Event::StepStarted { step: path, .. } => (Tone::Plain, step(path)),
        Event::StepEnded { step: path, outcome, detail, .. } => {
            let (tone, word) = match outcome {
                StepOutcome::Succeeded => (Tone::Good, "done"),
                StepOutcome::Failed => (Tone::Bad, "failed"),
                StepOutcome::TimedOut => (Tone::Bad, "timed out"),
                StepOutcome::Aborted => (Tone::Warn, "aborted"),
            };
            (tone, format!("{} {word}{}", step(path), behind(detail)))
        }
        Event::Intent { fault: id, objects, .. } => {
            let objects: Vec<String> = objects.iter().map(ToString::to_string).collect();
            (Tone::Bad, format!("{} breaks {}", fault(*id), objects.join(", ")))
        }
        Event::Injected { fault: id, .. } => (Tone::Bad, format!("{} injected", fault(*id))),
        Event::InjectFailed { fault: id, detail, .. } => (Tone::Bad, format!("{} could not be injected: {detail}", fault(*id))),
        Event::Effective { fault: id, proof, .. } => (Tone::Bad, format!("{} bit: {proof}", fault(*id))),
        Event::NotEffective { fault: id, detail } => (Tone::Bad, format!("{} had no effect: {detail}", fault(*id))),
        Event::HoldBroken { fault: id, detail, .. } => (Tone::Bad, format!("{} did not hold: {detail}", fault(*id))),
        Event::RevertIntent { fault: id, because } => (Tone::Plain, format!("{} is being undone ({because})", fault(*id))),
        Event::Reverted { fault: id, result, detail, .. } => {
            let tone = if *result == crate::journal::RevertResult::Failed { Tone::Bad } else { Tone::Plain };
            (tone, format!("{}: {}{}", fault(*id), crate::report::revert_word(*result), behind(detail)))
        }
        Event::Gone { fault: id, proof, .. } => (Tone::Good, format!("{} is gone: {proof}", fault(*id))),
        Event::RunbookStep(s) => {
            let (tone, word) = match s.state {
                RunbookState::Started if s.attempt > 1 => (Tone::Plain, format!("attempt {}", s.attempt)),
                RunbookState::Started => {
                    (Tone::Plain, s.within_us.map_or_else(String::new, |us| format!("within {}", Dur::from_micros(us))))
                }
                RunbookState::Succeeded => (Tone::Good, "done".to_owned()),
                RunbookState::Failed => (Tone::Bad, "failed".to_owned()),
                RunbookState::Skipped => (Tone::Warn, "skipped".to_owned()),
                RunbookState::TimedOut => (Tone::Bad, "timed out".to_owned()),
            };
            let more = if s.state == RunbookState::Succeeded { String::new() } else { behind(&s.detail) };
            (tone, format!("runbook {}.{} {} {word}{more}", s.step, s.index + 1, s.title).trim_end().to_owned())
        }
        Event::Acknowledged { step: path, by, refused, remark, .. } => {
            let (tone, word) = if *refused { (Tone::Bad, "refused") } else { (Tone::Good, "acknowledged") };
            (tone, format!("step {path} {word} by {by}{}", behind(remark)))
        }
        Event::Deviation { detail } => (Tone::Warn, format!("deviation: {detail}")),
        Event::Note { text } => (Tone::Plain, format!("note: {text}")),
        Event::AbortRequested { by, reason } => {
            let again = if by.starts_with("SIG") { " (a second one skips all waiting but the undoing)" } else { "" };
            (Tone::Bad, format!("abort requested by {by}: {reason}{again}"))
        }
        Event::StepsEnded { .. } => (Tone::Plain, "steps ended; what was broken is undone now".to_owned()),
        Event::Disarmed { left } if left.is_empty() => (Tone::Good, "disarmed: nothing is left".to_owned()),
        Event::Disarmed { left } => (Tone::Bad, format!("left behind: {}", left.join(", "))),
        Event::Ended { clean: true, .. } => (Tone::Good, "drill ended, the cluster is clean".to_owned()),
        Event::Ended { clean: false, .. } => (Tone::Bad, "drill ended, the cluster is NOT clean".to_owned()),
        Event::Run(_) | Event::ClockLinked { .. } => return None,
    })
}

/// `: detail`, its first line, or nothing.
fn behind(detail: &str) -> String {
    let first = detail.lines().next().unwrap_or_default().trim();
    if first.is_empty() { String::new() } else { format!(": {first}") }
}

/// Text without control characters, for terminals and logs: details come from clusters and commands.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
