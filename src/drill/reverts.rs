//! Reverts: from the bare intent, as often as needed, with a proof that nothing is left.

use std::{sync::Arc, time::Duration};

use super::{DrillError, DrillState, StepState, executor::Drill};
use crate::{
    fault,
    journal::{Event, FaultId, RevertResult, StepOutcome},
    plan::Plan,
};

/// How long a revert is tried again when it fails.
const REVERT_LIMIT: Duration = Duration::from_secs(120);
/// How long one that may not be done is tried again: a binding takes a moment to be known everywhere, and the reverts behind it wait.
const FORBIDDEN_LIMIT: Duration = Duration::from_secs(10);
/// How long the proof that nothing is left may take: a StatefulSet's pod may have to start anew.
const GONE_LIMIT: Duration = Duration::from_secs(180);

impl Drill {
    /// Reverts a fault and proves that it is gone. A failure is journalled as its own result, and is not an error of the drill:
    /// the reverts of the other faults must follow.
    pub(super) async fn revert(self: &Arc<Self>, id: FaultId, because: &str) -> Result<(), DrillError> {
        let _one_at_a_time = self.reverting.lock().await;
        let state = self.state();
        let Some(fault) = state.faults.get(&id) else { return Ok(()) };
        if !fault.wants_revert() {
            return Ok(());
        }
        self.may_act().await?;
        self.cut_probes().await;
        self.record(Event::RevertIntent { fault: id, because: because.to_owned() }).await?;
        if planted!(SkipRevert) && id == 0 {
            let detail = "planted: not done".to_owned();
            self.record(Event::Reverted { fault: id, result: RevertResult::Reverted, detail: detail.clone(), end: self.clock.now() })
                .await?;
            return self.record(Event::Gone { fault: id, at: self.clock.now(), proof: detail }).await;
        }
        let undo = fault.undo.clone();
        let began = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(200);
        let (result, detail) = loop {
            // Between two tries the Leases may have run out; only a takeover ends the tries.
            self.may_act().await?;
            match fault::revert(&self.faults, &undo).await {
                Ok(done) => break done,
                Err(error) if began.elapsed() < if error.is_forbidden() { FORBIDDEN_LIMIT } else { REVERT_LIMIT } => {
                    tracing::warn!(%error, "the revert failed and is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                Err(error) => break (RevertResult::Failed, error.to_string()),
            }
        };
        self.record(Event::Reverted { fault: id, result, detail, end: self.clock.now() }).await?;
        if !matches!(result, RevertResult::Reverted | RevertResult::Nothing) {
            return Ok(());
        }
        match fault::gone(&self.faults, &undo, GONE_LIMIT).await {
            Ok((at, proof)) => self.record(Event::Gone { fault: id, at, proof }).await,
            Err(error) => {
                let detail = format!("no proof that nothing is left: {error}");
                self.record(Event::Reverted { fault: id, result: RevertResult::Failed, detail, end: self.clock.now() }).await
            }
        }
    }

    /// Leaves a fault as it is, by its undo policy.
    pub(super) async fn leave(&self, id: FaultId) -> Result<(), DrillError> {
        let detail = "left as it is, by its undo policy".to_owned();
        let state = self.state();
        let fault = state.faults.get(&id);
        let undo = fault.map(|fault| fault.undo.clone());
        let restored = fault.is_some_and(|fault| is_restored(&self.plan, &state, &fault.step));
        drop(state);
        self.record(Event::Reverted { fault: id, result: RevertResult::NotOurs, detail, end: self.clock.now() }).await?;
        // After that record: nobody watches any more whether the fault holds.
        if let Some(undo) = undo
            && let Err(error) = fault::let_go(&self.faults, &undo, restored).await
        {
            self.record(Event::Note { text: error.to_string() }).await?;
        }
        Ok(())
    }
}

/// Whether a runbook that restores what the fault of this step has broken has succeeded.
fn is_restored(plan: &Plan, state: &DrillState, path: &str) -> bool {
    let Some(broken) = plan.step(path) else { return false };
    let name = broken.spec.inject.as_ref().and_then(fault::target_of).or(broken.spec.name.as_deref());
    plan.leaf_steps().iter().any(|step| {
        let restores = step.spec.runbook.as_ref().is_some_and(|runbook| runbook.restores.iter().any(|r| Some(r.as_str()) == name));
        restores && matches!(state.steps.get(&step.path), Some(StepState::Ended { outcome: StepOutcome::Succeeded, .. }))
    })
}
