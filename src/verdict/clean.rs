//! Whether the cluster was proven to be as it was.

use super::facts::Facts;
use crate::{
    journal::RevertResult,
    scenario::types::{OneOf as _, UndoPolicy},
};

/// What stays of faults that were declared irreversible: nobody undoes them, and nobody looks whether they are gone.
pub(super) fn stays(facts: &Facts<'_>) -> Vec<String> {
    let of_plan = facts.plan.leaf_steps();
    let left = facts.faults.iter().filter(|(_, fault)| matches!(fault.reverted, Some((_, RevertResult::NotOurs, _))) && !fault.of_helper);
    left.filter_map(|(id, fault)| {
        let step = of_plan.iter().find(|step| step.fault == Some(*id))?;
        let spec = step.spec.inject.as_ref().filter(|spec| spec.undo == Some(UndoPolicy::None))?;
        let objects: Vec<String> = fault.objects.iter().map(ToString::to_string).collect();
        let on = if objects.is_empty() { String::new() } else { format!(" on {}", objects.join(", ")) };
        Some(format!("what `{}` did{on} (`{}`)", step.title, spec.kind_name().unwrap_or("fault")))
    })
    .collect()
}

/// What is left, or not proven to be gone. Empty when clean: silence is not proof.
pub(super) fn left(facts: &Facts<'_>) -> Vec<String> {
    // The proofs are in the hands of whoever took over from this runner; that one's last act was to delete the record.
    if facts.ended_elsewhere && facts.lease_lost.is_some() {
        return Vec::new();
    }
    let mut left: Vec<String> = Vec::new();
    for (id, fault) in &facts.faults {
        if fault.intent.is_none() && fault.injected.is_none() {
            continue;
        }
        let title = facts.fault_title(*id);
        match fault.reverted {
            None => left.push(format!("the fault of `{title}` was not reverted")),
            Some((_, RevertResult::Failed, detail)) => left.push(format!("the revert of `{title}` failed: {detail}")),
            Some((_, RevertResult::Reverted, _)) if fault.gone.is_none() => {
                left.push(format!("the fault of `{title}` was reverted, but not proven to be gone"));
            }
            Some((_, RevertResult::Reverted | RevertResult::Nothing | RevertResult::Superseded, _)) => {}
            Some((_, RevertResult::TargetGone | RevertResult::NotOurs, _)) => {}
        }
    }
    left.extend(facts.left.iter().map(|l| (*l).to_owned()));
    match facts.ended {
        Some((_, true)) => {}
        Some((_, false)) if left.is_empty() => left.push("the drill said at its end that the cluster is not as it was".to_owned()),
        Some((_, false)) => {}
        None if facts.touched => left.push("the drill never ended: its helpers, Leases and record may still be there".to_owned()),
        None => {}
    }
    left
}
