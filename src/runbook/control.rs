//! Following a runbook: one step after another, each timed; what fails stops it until a person says retry or skip.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    job::{self, JobEnded},
    mask::{KEEP, Masks, Tail},
    parse::{self, Action, RunbookItem},
    place,
    shell::{self, Ended, Place},
};
use crate::{
    clock::Clock,
    cluster::Cluster,
    journal::{AUTO_ACK, Event, RunbookState, RunbookStep, StepOutcome},
    plan::{Plan, PlannedStep},
    scenario::types::{Dur, Runbook},
};

/// Writes an event into the journal; returns when it is as durable as its kind demands.
pub type Emit = Arc<dyn Fn(Event) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
/// Asks a person; may wait for ever, whoever calls it sets a limit.
pub type Ask = Arc<dyn Fn(Question) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What a person is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What the answer is for: the step's path, `3#2` for the second manual item of step 3's runbook, `3#step2` for the
    /// runbook's second step that failed.
    pub step: String,
    /// What to do, or what failed.
    pub text: String,
    /// A step failed: the answers are retry, skip and no (give up). Otherwise done and no.
    pub failed: bool,
}

/// What a person said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who.
    pub by: String,
    /// A remark; a skip needs one, as its reason.
    pub remark: String,
    /// What.
    pub choice: Choice,
}

/// The answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// It is done.
    Done,
    /// Try the failed step again.
    Retry,
    /// Go on without it.
    Skip,
    /// It cannot be done; give up.
    No,
}

/// All that following a runbook needs.
#[derive(Clone)]
pub struct RunbookCx {
    /// The cluster.
    pub cluster: Cluster,
    /// The runner's clock.
    pub clock: Clock,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The drill's name.
    pub drill: String,
    /// Where events go.
    pub emit: Emit,
    /// Who is asked.
    pub ask: Ask,
    /// `--auto-ack`: nobody is asked; manual items are taken as done, which is a deviation, and a failed step fails the runbook.
    pub auto_ack: bool,
    /// Cancelled when the drill is aborted. [`run`] must be awaited then: it ends what runs in the pod.
    pub cancel: CancellationToken,
    /// Steps of the runbook that the journal says have succeeded or were skipped before the drill was resumed.
    pub done: BTreeSet<u32>,
}

/// What a runbook is made of.
enum Work {
    Markdown(Vec<RunbookItem>),
    Job(String),
}

/// How one try of a step ended.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    Succeeded,
    Failed,
    TimedOut,
    Aborted,
}

/// Follows the runbook of a step. Returns how the step ended and why, for the event that ends it.
pub async fn run(cx: &RunbookCx, step: &PlannedStep) -> (StepOutcome, String) {
    let Some(runbook) = &step.spec.runbook else { return (StepOutcome::Failed, "the step has no runbook".to_owned()) };
    let work = match (&step.runbook_text, &runbook.cron_job) {
        (Some(text), None) => match parse::parse(text) {
            Ok(items) => Work::Markdown(items),
            Err(error) => return (StepOutcome::Failed, format!("runbook {}: {error}", runbook.file.as_deref().unwrap_or_default())),
        },
        (None, Some(template)) => Work::Job(template.clone()),
        _ => return (StepOutcome::Failed, "the step needs exactly one of `file` and `cronJob`".to_owned()),
    };
    let whole = step.spec.within.unwrap_or(cx.plan.limits.duration).0;
    let follow = Follow { cx, step, runbook, deadline: Instant::now() + whole, place: None, manual: 0 };
    match follow.all(work).await {
        Ok(ended) => ended,
        Err(error) => (StepOutcome::Aborted, format!("failed to write the journal: {error}")),
    }
}

/// One runbook being followed.
struct Follow<'a> {
    cx: &'a RunbookCx,
    step: &'a PlannedStep,
    runbook: &'a Runbook,
    /// When the whole must be done.
    deadline: Instant,
    /// Where blocks run, once it is ready.
    place: Option<(Place, Masks, Vec<String>)>,
    /// How many manual items were met.
    manual: u32,
}

impl Follow<'_> {
    async fn all(mut self, work: Work) -> Result<(StepOutcome, String), String> {
        let begin = Instant::now();
        let (items, template) = match work {
            Work::Markdown(items) => (items, None),
            Work::Job(template) => {
                (vec![RunbookItem { title: format!("Job from {template}"), within: None, line: 0, actions: Vec::new() }], Some(template))
            }
        };
        // Slow beginnings (a pod, its image) are the runbook's time and not its first step's.
        let runs = items.iter().flat_map(|i| &i.actions).any(|a| matches!(a, Action::Run { .. }));
        if runs && let Err(why) = self.make_ready().await {
            let outcome = if self.cx.cancel.is_cancelled() { StepOutcome::Aborted } else { StepOutcome::Failed };
            return Ok((outcome, why));
        }
        let (total, mut skipped) = (items.len(), 0u32);
        for (index, item) in (0u32..).zip(&items) {
            if self.cx.done.contains(&index) {
                continue;
            }
            let mut attempt = 1;
            loop {
                let (tried, detail) = self.attempt(index, item, attempt, template.as_deref()).await?;
                let outcome = match tried {
                    Tried::Succeeded => break,
                    Tried::Failed => StepOutcome::Failed,
                    Tried::TimedOut => StepOutcome::TimedOut,
                    Tried::Aborted => {
                        return Ok((StepOutcome::Aborted, format!("aborted in step `{}`: {}", item.title, first_line(&detail))));
                    }
                };
                match self.after_failure(index, item, attempt, &detail).await? {
                    Choice::Retry => attempt += 1,
                    Choice::Skip => {
                        skipped += 1;
                        break;
                    }
                    Choice::Done | Choice::No => {
                        return Ok((outcome, format!("step `{}` ({} of {total}): {}", item.title, index + 1, first_line(&detail))));
                    }
                }
            }
        }
        let took = Dur::from_millis(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
        let but = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        Ok((StepOutcome::Succeeded, format!("{total} steps in {took}{but}")))
    }

    async fn make_ready(&mut self) -> Result<(), String> {
        let Some(run_in) = &self.runbook.run_in else {
            return Err("the runbook has shell blocks, but the step does not say where they run: add `runIn`".to_owned());
        };
        if self.place.is_none() {
            let ready = tokio::time::timeout_at(self.deadline, place::ready(self.cx, self.step, run_in));
            self.place = Some(ready.await.map_err(|_| "where its blocks run did not become ready in time".to_owned())??);
        }
        Ok(())
    }

    /// Begins, tries and ends one step.
    async fn attempt(&mut self, index: u32, item: &RunbookItem, attempt: u32, template: Option<&str>) -> Result<(Tried, String), String> {
        let own = item.within.or(self.runbook.step_within);
        self.tell(index, item, attempt, own, RunbookState::Started, String::new()).await?;
        let deadline = own.map_or(self.deadline, |d| self.deadline.min(Instant::now() + d.0));
        let (tried, detail) = match template {
            Some(template) => self.job(template, attempt, deadline).await,
            None => self.actions(item, deadline).await?,
        };
        let detail = end_of(&detail, KEEP);
        let state = match tried {
            Tried::Succeeded => RunbookState::Succeeded,
            Tried::TimedOut => RunbookState::TimedOut,
            Tried::Failed | Tried::Aborted => RunbookState::Failed,
        };
        self.tell(index, item, attempt, own, state, detail.clone()).await?;
        Ok((tried, detail))
    }

    async fn job(&self, template: &str, attempt: u32, deadline: Instant) -> (Tried, String) {
        match job::run(self.cx, &self.step.path, template, attempt, deadline.saturating_duration_since(Instant::now())).await {
            JobEnded::Succeeded(detail) => (Tried::Succeeded, detail),
            JobEnded::Failed(detail) => (Tried::Failed, detail),
            JobEnded::TimedOut(detail) => (Tried::TimedOut, detail),
            JobEnded::Cancelled(detail) => (Tried::Aborted, detail),
        }
    }

    /// Does what stands under a heading, until something fails.
    async fn actions(&mut self, item: &RunbookItem, deadline: Instant) -> Result<(Tried, String), String> {
        let mut detail = String::new();
        for action in &item.actions {
            let (tried, what) = match action {
                Action::Run { shell, script, line } => {
                    let name = format!("line {line}");
                    self.block(*shell, script, &name, deadline).await
                }
                Action::Manual { text, .. } => self.manual(text, deadline).await?,
            };
            // What went wrong stands first, for whoever reads only one line.
            if tried == Tried::Succeeded {
                detail.push_str(&what);
            } else {
                return Ok((tried, format!("{what}{}{detail}", if detail.is_empty() { "" } else { "\nbefore that:\n" })));
            }
        }
        Ok((Tried::Succeeded, detail))
    }

    async fn block(&self, shell: parse::Shell, script: &str, name: &str, deadline: Instant) -> (Tried, String) {
        let Some((place, masks, unreadable)) = &self.place else { return (Tried::Failed, "nowhere to run".to_owned()) };
        let (begin, mut tail) = (Instant::now(), Tail::default());
        let within = deadline.saturating_duration_since(begin);
        let ended = shell::run(place, shell, script, name, within, &self.cx.cancel, &mut tail).await;
        let took = Dur::from_millis(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
        let output = match unreadable.first() {
            None => tail.show(masks),
            Some(first) => format!("output not kept, because it could not be masked: {first}\n"),
        };
        let (tried, how) = match ended {
            Ended::Code(0) => (Tried::Succeeded, format!("exit code 0 after {took}")),
            Ended::Code(code) => (Tried::Failed, format!("exit code {code} after {took}")),
            Ended::TimedOut(how) => (Tried::TimedOut, format!("its time was over after {took}, {how}")),
            Ended::Cancelled(how) => (Tried::Aborted, format!("stopped after {took}, {how}")),
            Ended::Lost(why) => (Tried::Failed, masks.text(&why)),
        };
        let newline = if output.is_empty() || output.ends_with('\n') { "" } else { "\n" };
        (tried, format!("block at {name}: {how}\n{output}{newline}"))
    }

    async fn manual(&mut self, text: &str, deadline: Instant) -> Result<(Tried, String), String> {
        self.manual += 1;
        let path = format!("{}#{}", self.step.path, self.manual);
        if self.cx.auto_ack {
            let detail = format!("step {path}: `{text}` was taken as done by --auto-ack; nobody did it");
            self.emit(Event::Deviation { detail }).await?;
            return self.acknowledged(path, text, Answer { by: AUTO_ACK.to_owned(), remark: String::new(), choice: Choice::Done }).await;
        }
        let question = Question { step: path.clone(), text: text.to_owned(), failed: false };
        match self.question(question, deadline).await {
            Some(answer) => self.acknowledged(path, text, answer).await,
            None if self.cx.cancel.is_cancelled() => Ok((Tried::Aborted, format!("nobody had said that `{text}` is done\n"))),
            None => Ok((Tried::TimedOut, format!("nobody said in time that `{text}` is done\n"))),
        }
    }

    async fn acknowledged(&self, step: String, text: &str, answer: Answer) -> Result<(Tried, String), String> {
        let refused = answer.choice == Choice::No;
        let remark = if answer.remark.is_empty() { String::new() } else { format!(": {}", answer.remark) };
        let (by, at) = (answer.by.clone(), self.cx.clock.now());
        self.emit(Event::Acknowledged { step, by: answer.by, refused, remark: answer.remark, at }).await?;
        Ok(match answer.choice {
            Choice::Done | Choice::Retry => (Tried::Succeeded, format!("`{text}` done by {by}{remark}\n")),
            Choice::Skip => {
                self.emit(Event::Deviation { detail: format!("`{text}` was left out by {by}{remark}") }).await?;
                (Tried::Succeeded, format!("`{text}` left out by {by}{remark}\n"))
            }
            Choice::No => (Tried::Failed, format!("`{text}` could not be done, says {by}{remark}\n")),
        })
    }

    /// Asks what to do about a step that failed.
    async fn after_failure(&self, index: u32, item: &RunbookItem, attempt: u32, detail: &str) -> Result<Choice, String> {
        if self.cx.auto_ack {
            return Ok(Choice::No);
        }
        let mut text = format!("step `{}` failed: {}", item.title, first_line(detail));
        // A person who forgets the reason is asked again, a broken way of asking is not asked for ever.
        for _ in 0..5 {
            let question = Question { step: format!("{}#step{}", self.step.path, index + 1), text: text.clone(), failed: true };
            let Some(answer) = self.question(question, self.deadline).await else { return Ok(Choice::No) };
            let because = if answer.remark.is_empty() { String::new() } else { format!(": {}", answer.remark) };
            match answer.choice {
                Choice::Skip if answer.remark.trim().is_empty() => text = format!("skipping step `{}` needs a reason", item.title),
                Choice::Skip => {
                    let own = item.within.or(self.runbook.step_within);
                    let detail = format!("skipped by {}{because}", answer.by);
                    self.tell(index, item, attempt, own, RunbookState::Skipped, detail.clone()).await?;
                    self.emit(Event::Deviation { detail: format!("runbook step `{}` was {detail}", item.title) }).await?;
                    return Ok(Choice::Skip);
                }
                Choice::Retry | Choice::Done => {
                    let detail = format!("runbook step `{}` was tried again by {} after attempt {attempt}{because}", item.title, answer.by);
                    self.emit(Event::Deviation { detail }).await?;
                    return Ok(Choice::Retry);
                }
                Choice::No => return Ok(Choice::No),
            }
        }
        Ok(Choice::No)
    }

    async fn question(&self, question: Question, deadline: Instant) -> Option<Answer> {
        tokio::select! {
            biased;
            () = self.cx.cancel.cancelled() => None,
            answer = tokio::time::timeout_at(deadline, (self.cx.ask)(question)) => answer.ok(),
        }
    }

    async fn tell(
        &self,
        index: u32,
        item: &RunbookItem,
        attempt: u32,
        within: Option<Dur>,
        state: RunbookState,
        detail: String,
    ) -> Result<(), String> {
        let step = RunbookStep {
            step: self.step.path.clone(),
            index,
            title: item.title.clone(),
            attempt,
            state,
            within_us: within.map(Dur::as_micros),
            detail,
            at: self.cx.clock.now(),
        };
        self.emit(Event::RunbookStep(step)).await
    }

    async fn emit(&self, event: Event) -> Result<(), String> {
        (self.cx.emit)(event).await
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The end of a text, at most this many bytes of it, after its first line, which says how it ended.
pub(super) fn end_of(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let first: String = first_line(text).chars().take(300).collect();
    let mut from = text.len() - most;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("{first}\n… {from} bytes left out\n{}", &text[from..])
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
