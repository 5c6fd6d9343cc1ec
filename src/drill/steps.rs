//! The steps, one function a kind.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::{FutureExt as _, LocalBoxFuture};

use super::{
    Acks, DrillError,
    acks::{Ack, AckAction, Question},
    executor::Drill,
    wait::{Waited, against},
};
use crate::{
    cluster::{Fresh, Leave},
    fault,
    journal::{AlertStage, DigestWhich, Event, FaultId, RunbookState, StepOutcome, Stop},
    plan::{self, PlannedStep},
    probe,
    runbook::{self, Answer, Choice, RunbookCx},
    scenario::types::{Approve, DigestSide, Dur, FaultSpec, Manual, OnFailure, RestoreObjective, WaitFor},
};

/// How long the proof that a fault bit may take.
const EFFECTIVE_LIMIT: Duration = Duration::from_secs(30);
/// How long a digest may take.
const DIGEST_LIMIT: Duration = Duration::from_secs(120);

/// How a step ended, and what is to be said of it.
type Ended = (StepOutcome, String);

fn ended(outcome: StepOutcome, detail: impl Into<String>) -> Ended {
    (outcome, detail.into())
}

fn failed(detail: impl std::fmt::Display) -> Ended {
    ended(StepOutcome::Failed, detail.to_string())
}

impl Drill {
    /// Does a step, with its `when` before and its consequences after.
    pub(super) fn step<'a>(self: &'a Arc<Self>, path: &'a str) -> LocalBoxFuture<'a, Result<(), DrillError>> {
        async move {
            let plan = Arc::clone(&self.plan);
            let Some(step) = plan.step(path) else { return Ok(()) };
            if let Some(when) = &step.spec.when {
                let probe = [(when.probe.as_str(), when.state)];
                match self.wait_for(&probe, when.hold, when.timeout).await {
                    Waited::Met => {}
                    Waited::Aborted => return Ok(()),
                    Waited::TimedOut => {
                        let why = format!(
                            "`when` of step {path} did not come true within {}: {}",
                            when.timeout,
                            against(&self.board().borrow(), &probe)
                        );
                        self.record(Event::StepStarted { step: path.to_owned(), start: self.clock.now() }).await?;
                        return self.step_ended(step, failed(why)).await;
                    }
                }
            }
            self.record(Event::StepStarted { step: path.to_owned(), start: self.clock.now() }).await?;
            let (end, ()) = tokio::join!(self.act(step), self.show_begun(step));
            self.step_ended(step, end?).await
        }
        .boxed_local()
    }

    /// Takes a step's beginning to the in-cluster record, where `firedrill status` looks for it: what only waits has no other event
    /// for a long time. Nothing that comes before an inject is held up by it; the inject's own events take along what is not written.
    async fn show_begun(&self, step: &PlannedStep) {
        let spec = &step.spec;
        let waits = step.children.is_empty() && spec.inject.is_none() && spec.revert.is_none() && spec.note.is_none();
        if !waits || self.beside_an_inject(&step.path) {
            return;
        }
        if let Err(error) = self.journal.flush().await {
            tracing::debug!(%error, "the beginning of a step is not in the in-cluster record yet");
        }
    }

    /// Whether an inject of the same `parallel` is not over.
    fn beside_an_inject(&self, path: &str) -> bool {
        let state = self.state();
        let Some((group, _)) = path.split_once('.') else { return false };
        let over = |path: &str| matches!(state.steps.get(path), Some(super::StepState::Ended { .. }));
        let beside = |other: &str| other.split_once('.').is_some_and(|(its, _)| its == group);
        self.plan.leaf_steps().iter().any(|other| other.fault.is_some() && beside(&other.path) && !over(&other.path))
    }

    async fn step_ended(self: &Arc<Self>, step: &PlannedStep, (outcome, detail): Ended) -> Result<(), DrillError> {
        let path = step.path.clone();
        self.record(Event::StepEnded { step: path.clone(), outcome, detail: detail.clone(), end: self.clock.now() }).await?;
        match outcome {
            StepOutcome::Succeeded => self.digests_after(&step.title).await,
            StepOutcome::Failed | StepOutcome::TimedOut => {
                if step.spec.on_failure.unwrap_or_default() == OnFailure::Abort {
                    self.request_abort(&format!("step {path}"), &format!("{}: {detail}", step.title)).await;
                }
                Ok(())
            }
            StepOutcome::Aborted => Ok(()),
        }
    }

    async fn act(self: &Arc<Self>, step: &PlannedStep) -> Result<Ended, DrillError> {
        let spec = &step.spec;
        if let (Some(inject), Some(fault)) = (&spec.inject, step.fault) {
            return self.inject(step, inject, fault).await;
        }
        if let Some(named) = &spec.revert {
            return self.revert_step(named).await;
        }
        if let Some(wait) = &spec.wait_for {
            return Ok(self.wait_step(wait).await);
        }
        if let Some(hold) = spec.hold {
            return Ok(ended(self.pause(hold).await.outcome(), format!("held for {hold}")));
        }
        if spec.runbook.is_some() {
            return self.follow_runbook(step).await;
        }
        if let Some(manual) = &spec.manual {
            return self.manual(step, manual).await;
        }
        if let Some(approve) = &spec.approve {
            return self.approve(step, approve).await;
        }
        if let Some(declare) = &spec.declare {
            return match &declare.alert {
                Some(alert) => self.declared_by(step, alert, declare.within).await,
                None => {
                    let text = "declare the outage".to_owned();
                    self.ask(step, with_role(text, declare.role.as_deref()), declare.within.or(spec.within)).await
                }
            };
        }
        if let Some(note) = &spec.note {
            self.record(Event::Note { text: note.clone() }).await?;
            return Ok(ended(StepOutcome::Succeeded, note.clone()));
        }
        if !step.children.is_empty() {
            let state = self.state();
            let over = |path: &str| matches!(state.steps.get(path), Some(super::StepState::Ended { .. }));
            let children: Vec<_> = step.children.iter().filter(|c| !over(&c.path)).map(|c| self.step(&c.path)).collect();
            for done in futures::future::join_all(children).await {
                done?;
            }
            return Ok(self.sum_up(step));
        }
        Ok(failed("this build cannot do such a step"))
    }

    /// A `parallel` is as good as the worst of its steps.
    fn sum_up(&self, step: &PlannedStep) -> Ended {
        let state = self.state();
        let bad: Vec<&str> = step
            .children
            .iter()
            .filter(|child| !matches!(state.steps.get(&child.path), Some(super::StepState::Ended { outcome: StepOutcome::Succeeded, .. })))
            .map(|child| child.title.as_str())
            .collect();
        match (bad.is_empty(), self.abort.is_cancelled()) {
            (true, _) => ended(StepOutcome::Succeeded, "all done"),
            (false, true) => ended(StepOutcome::Aborted, format!("not done: {}", bad.join(", "))),
            // Each child's own `onFailure` has had its say already.
            (false, false) => ended(StepOutcome::Succeeded, format!("went on without: {}", bad.join(", "))),
        }
    }

    async fn wait_step(&self, wait: &WaitFor) -> Ended {
        let wanted = [(wait.probe.as_str(), wait.state)];
        let waited = self.wait_for(&wanted, wait.hold, wait.timeout).await;
        let detail = match waited {
            Waited::Met => format!("{} is {}", wait.probe, wait.state),
            Waited::TimedOut => format!("not within {}: {}", wait.timeout, against(&self.board().borrow(), &wanted)),
            Waited::Aborted => "aborted".to_owned(),
        };
        ended(waited.outcome(), detail)
    }

    /// prepare → arm → intent → inject → effective, with every guard looked at again first.
    async fn inject(self: &Arc<Self>, step: &PlannedStep, spec: &FaultSpec, id: FaultId) -> Result<Ended, DrillError> {
        self.may_act().await?;
        if self.abort.is_cancelled() {
            return Ok(ended(StepOutcome::Aborted, "aborted before anything was changed"));
        }
        // Asked side by side: what is looked at here is as old as the slowest answer, and the fault comes that much later.
        let touched = self.touched.lock().await.clone();
        let namespaces = self.plan.scope.namespaces.iter().cloned().collect();
        let (stopped, watchdog, rechecked, others) = tokio::join!(
            Stop::read(&self.cluster.client, &self.plan.place.firedrill.namespace),
            self.watchdog_there(),
            plan::recheck(&self.cluster, &self.plan, &step.path, &touched),
            plan::others::look(&self.cluster, &namespaces, Fresh::Seen),
        );
        match stopped {
            Ok(None) => {}
            Ok(Some(stop)) => return Ok(failed(format!("refused, nothing was changed: {stop}"))),
            Err(error) => return Ok(failed(format!("refused, nothing was changed: it is unknown whether drills are stopped: {error}"))),
        }
        if let Err(why) = watchdog {
            return Ok(failed(format!("refused, nothing was changed: {why}")));
        }
        let rechecked = match rechecked {
            Ok(rechecked) => rechecked,
            Err(refused) => return Ok(failed(format!("refused, nothing was changed: {refused}"))),
        };
        let others = match others {
            Ok(others) => others.findings(&self.plan.scope, Some(&self.name)),
            Err(error) => {
                let why = format!("it is unknown whether another tool's experiment is live: {error}");
                return Ok(failed(format!("refused, nothing was changed: {why}")));
            }
        };
        if !others.refusals.is_empty() {
            return Ok(failed(format!("refused, nothing was changed: {}", plan::Refused { reasons: others.refusals })));
        }
        // What the plan said already was agreed to.
        let new = others.warnings.into_iter().filter(|warning| !self.plan.warnings.contains(warning));
        for warning in rechecked.warnings.into_iter().chain(new) {
            self.record(Event::Note { text: warning }).await?;
        }
        let chosen: Vec<_> = rechecked.target.chosen().cloned().collect();
        let prepared = match fault::prepare(&self.faults, spec, &chosen).await {
            Ok(prepared) => prepared,
            Err(error) => return Ok(failed(format!("nothing was changed: {error}"))),
        };
        if let Err(error) = fault::arm(&self.faults, spec, &prepared.undo).await {
            return Ok(failed(format!("nothing was changed: {error}")));
        }
        *self.touched.lock().await = rechecked.touched;
        self.cut_probes().await;
        if self.abort.is_cancelled() {
            return Ok(ended(StepOutcome::Aborted, "aborted before anything was changed"));
        }
        let intent =
            Event::Intent { fault: id, step: step.path.clone(), undo: Box::new(prepared.undo.clone()), objects: prepared.objects.clone() };
        if planted!(InjectBeforeIntent) {
            // What comes of it is seen below, where it is done once more and changes nothing.
            let _ = fault::inject(&self.faults, spec, &prepared.undo).await;
        }
        self.record(intent).await?;
        // The record may have taken its time: the last look before the first change. Leases that ran out and that nobody took
        // abort the drill, and what was broken before is then reverted; the intent just written finds nothing to undo.
        self.may_act().await?;
        if self.abort.is_cancelled() {
            return Ok(ended(StepOutcome::Aborted, "aborted before anything was changed"));
        }
        let start = self.clock.now();
        // Never cancelled half-way: a request that is still under way could land after its revert.
        let injected = fault::inject(&self.faults, spec, &prepared.undo).await;
        self.undo_if_fenced(&prepared.undo).await?;
        let (start, end) = match injected {
            Ok(times) => times,
            Err(error) => {
                self.record(Event::InjectFailed { fault: id, detail: error.to_string(), start }).await?;
                return Ok(failed(error));
            }
        };
        self.record(Event::Injected { fault: id, start, end }).await?;
        match fault::effective(&self.faults, spec, &prepared.undo, EFFECTIVE_LIMIT).await {
            Ok((at, proof)) => {
                self.record(Event::Effective { fault: id, at, proof: proof.clone() }).await?;
                self.watch_fault(id, spec.clone(), prepared.undo).await;
                let what: Vec<String> = prepared.objects.iter().map(ToString::to_string).collect();
                Ok(ended(StepOutcome::Succeeded, format!("{}: {proof}", what.join(", "))))
            }
            Err(error) => {
                self.record(Event::NotEffective { fault: id, detail: error.to_string() }).await?;
                Ok(failed(format!("no proof that it bit: {error}")))
            }
        }
    }

    /// A runner that fell asleep between its last look and its change wakes up and changes something that whoever took over
    /// could not see and has reverted already. Nobody else knows of it: it is undone by the one who did it.
    async fn undo_if_fenced(&self, undo: &fault::Undo) -> Result<(), DrillError> {
        let Err(fenced) = self.may_act().await else { return Ok(()) };
        let faults = fault::FaultCx { leave: Leave::always(), ..self.faults.clone() };
        match fault::revert(&faults, undo).await {
            Ok((result, detail)) => tracing::warn!(?result, detail, "changed something after the Leases were lost, and undid it"),
            Err(error) => tracing::error!(%error, "changed something after the Leases were lost, and could not undo it"),
        }
        Err(fenced)
    }

    async fn revert_step(self: &Arc<Self>, named: &str) -> Result<Ended, DrillError> {
        let Some(fault) = self.plan.step_named(named).and_then(|step| step.fault) else {
            return Ok(failed(format!("there is no fault of a step `{named}`")));
        };
        if !self.state().faults.contains_key(&fault) {
            return Ok(failed(format!("the fault of step `{named}` was never injected")));
        }
        self.revert(fault, "step of the scenario").await?;
        let state = self.state();
        let settled = state.faults.get(&fault).is_some_and(super::FaultState::is_settled);
        Ok(if settled { ended(StepOutcome::Succeeded, "reverted and gone") } else { failed("the revert failed") })
    }

    async fn follow_runbook(self: &Arc<Self>, step: &PlannedStep) -> Result<Ended, DrillError> {
        self.may_act().await?;
        let emitter = Arc::clone(self);
        let asker = self.acks.clone();
        let cx = RunbookCx {
            cluster: self.cluster.clone(),
            clock: self.clock.clone(),
            plan: Arc::clone(&self.plan),
            drill: self.name.clone(),
            emit: Arc::new(move |event| {
                let drill = Arc::clone(&emitter);
                async move { drill.record(event).await.map_err(|e| e.to_string()) }.boxed()
            }),
            ask: Arc::new(move |question| {
                let acks = asker.clone();
                async move { answer(&acks, question).await }.boxed()
            }),
            auto_ack: self.options.auto_ack,
            cancel: self.abort.clone(),
            done: self.runbook_steps_done(&step.path)?,
        };
        Ok(runbook::run(&cx, step).await)
    }

    /// Steps of a runbook that succeeded or were skipped before the drill was taken over.
    fn runbook_steps_done(&self, path: &str) -> Result<BTreeSet<u32>, DrillError> {
        if self.state().resumed.is_none() {
            return Ok(BTreeSet::new());
        }
        let records = crate::journal::read_on(&self.options.disk, &self.evidence.journal())?;
        Ok(records
            .into_iter()
            .filter_map(|record| match record.event {
                Event::RunbookStep(s) if s.step == path && matches!(s.state, RunbookState::Succeeded | RunbookState::Skipped) => {
                    Some(s.index)
                }
                _ => None,
            })
            .collect())
    }

    async fn manual(self: &Arc<Self>, step: &PlannedStep, manual: &Manual) -> Result<Ended, DrillError> {
        let text = with_role(manual.instruction.clone(), manual.role.as_deref());
        self.ask(step, text, manual.within.or(step.spec.within)).await
    }

    async fn approve(self: &Arc<Self>, step: &PlannedStep, approve: &Approve) -> Result<Ended, DrillError> {
        let text = with_role(approve.question.clone(), approve.role.as_deref());
        self.ask(step, text, step.spec.within).await
    }

    async fn ask(&self, step: &PlannedStep, text: String, within: Option<Dur>) -> Result<Ended, DrillError> {
        if self.acks.auto {
            let detail = format!("step {} ({}) was not done by a person: --auto-ack", step.path, step.title);
            self.record(Event::Deviation { detail }).await?;
        }
        let question = Question { step: step.path.clone(), text, failed_step: false };
        let answer = tokio::select! {
            biased;
            () = self.abort.cancelled() => return Ok(ended(StepOutcome::Aborted, "aborted")),
            answer = self.acks.wait(question, within) => answer,
        };
        let Some(Ack { by, action, remark }) = answer else {
            let within = within.unwrap_or_default();
            return Ok(ended(StepOutcome::TimedOut, format!("nobody said within {within} that it is done")));
        };
        let refused = action != AckAction::Done;
        let at = self.clock.now();
        self.record(Event::Acknowledged { step: step.path.clone(), by: by.clone(), refused, remark: remark.clone(), at }).await?;
        let said = if remark.is_empty() { by } else { format!("{by}: {remark}") };
        Ok(if refused { failed(format!("refused by {said}")) } else { ended(StepOutcome::Succeeded, said) })
    }

    /// The outage is declared by the receipt of an alert: the receipt is read from the journal's records as they come.
    async fn declared_by(&self, step: &PlannedStep, alert: &str, within: Option<Dur>) -> Result<Ended, DrillError> {
        let mut records = self.journal.subscribe();
        // It may have been received before this step began, but not before the first fault.
        let since_us = self.state().faults.values().filter_map(|f| f.injected.as_ref()).map(|(start, _)| start.mono_us).min();
        let earlier = crate::journal::read_on(&self.options.disk, &self.evidence.journal())?
            .into_iter()
            .find_map(|record| receipt(&record.event, alert, since_us));
        let limit = within.or(step.spec.within).unwrap_or(self.plan.limits.duration);
        let wait = async {
            if let Some(detail) = earlier {
                return detail;
            }
            loop {
                match records.recv().await {
                    Ok(record) => {
                        if let Some(detail) = receipt(&record.event, alert, None) {
                            return detail;
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            () = self.abort.cancelled() => Ok(ended(StepOutcome::Aborted, "aborted")),
            detail = wait => {
                let (by, at) = (format!("alert {alert}"), self.clock.now());
                self.record(Event::Acknowledged { step: step.path.clone(), by, refused: false, remark: detail.clone(), at }).await?;
                Ok(ended(StepOutcome::Succeeded, detail))
            }
            () = tokio::time::sleep(limit.0) => Ok(ended(StepOutcome::TimedOut, format!("alert {alert} was not received within {limit}"))),
        }
    }

    /// Digests of sources, before anything is broken.
    pub(super) async fn digests_before(&self) -> Result<(), DrillError> {
        self.digests(|objective| objective.source_at.is_none().then_some((DigestWhich::Source, &objective.source))).await
    }

    /// Digests that are due after a step.
    async fn digests_after(&self, title: &str) -> Result<(), DrillError> {
        self.digests(|o| (o.source_at.as_deref() == Some(title)).then_some((DigestWhich::Source, &o.source))).await?;
        self.digests(|o| (o.restored_at.as_deref() == Some(title)).then_some((DigestWhich::Restored, &o.restored))).await
    }

    /// Digests of restored copies, when the steps are over.
    pub(super) async fn digests_at_end(&self) -> Result<(), DrillError> {
        self.digests(|o| o.restored_at.is_none().then_some((DigestWhich::Restored, &o.restored))).await
    }

    async fn digests(&self, due: impl for<'a> Fn(&'a RestoreObjective) -> Option<(DigestWhich, &'a DigestSide)>) -> Result<(), DrillError> {
        for objective in &self.plan.objectives {
            let Some(restore) = &objective.spec.restore else { continue };
            let Some((which, side)) = due(restore) else { continue };
            let begin = self.clock.now();
            let reading = probe::digest::read(&self.cluster, &self.plan, &self.name, side, &restore.query, which, DIGEST_LIMIT).await;
            let event = Event::Reading { of: objective.name.clone(), begin, end: self.clock.now(), reading };
            self.record(event).await?;
        }
        Ok(())
    }
}

/// The receipt of an alert, if that is what an event is, and not of before the instant given.
fn receipt(event: &Event, alert: &str, since_us: Option<i64>) -> Option<String> {
    match event {
        Event::Alert(seen) if seen.probe == alert && seen.stage == AlertStage::Received => {
            since_us.is_none_or(|since| seen.before.mono_us >= since).then(|| format!("received at {}", seen.before.utc()))
        }
        _ => None,
    }
}

/// What a runbook asks, put to the people.
async fn answer(acks: &Acks, question: runbook::Question) -> Answer {
    let asked = Question { step: question.step, text: question.text, failed_step: question.failed };
    match acks.wait(asked, None).await {
        Some(Ack { by, action, remark }) => {
            let choice = match action {
                AckAction::Done => Choice::Done,
                AckAction::Retry => Choice::Retry,
                AckAction::Skip => Choice::Skip,
                AckAction::Refused => Choice::No,
            };
            Answer { by, remark, choice }
        }
        // Without a limit there is always an answer; the runbook bounds the wait by the step's own.
        None => Answer { by: String::new(), remark: "nobody answered".to_owned(), choice: Choice::No },
    }
}

fn with_role(text: String, role: Option<&str>) -> String {
    role.map_or_else(|| text.clone(), |role| format!("{text} ({role})"))
}
