//! `dataLoss`: acknowledged writes that are gone.

use super::{Bracket, Judged, Outcome, Unit, facts::Facts, facts::Origin, micros, series::Series};
use crate::{
    journal::{LedgerReading, LedgerWrite, Reading},
    scenario::types::{DataLoss, ProbeState},
};

pub(super) fn judge(facts: &Facts<'_>, spec: &DataLoss) -> Judged {
    let writes = spec.writes.or(if spec.within.is_none() { Some(0) } else { None });
    let target = match (writes, spec.within) {
        (Some(n), Some(t)) => format!("≤ {n} writes and ≤ {t}"),
        (None, Some(t)) => format!("≤ {t}"),
        (n, None) => format!("≤ {} writes", n.unwrap_or(0)),
    };
    let mut judged = Judged::against(target);
    let last = facts.last_reading(&spec.ledger);
    let read = match last.map(|r| r.reading) {
        Some(Reading::Ledger(read)) => read,
        Some(Reading::Failed { detail }) => return judged.inconclusive(format!("`{}` could not be read back: {detail}", spec.ledger)),
        Some(_) | None => return judged.inconclusive(format!("`{}` was never read back", spec.ledger)),
    };
    let origin = facts.origin(spec.after.as_deref());
    let count = lost(read);
    counts(read, count, &mut judged);
    // Before any number is said: what one writer wrote is not known to the next, who may even have found the table gone.
    if let Some(why) = facts.taken_over(last.as_ref()) {
        return judged.inconclusive(format!("`{}` was not written by one writer from beginning to end: {why}", spec.ledger));
    }
    (judged.unit, judged.measured) = (Unit::Writes, Some(Bracket::exact(count)));
    judged.target_value = writes.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut outcome = Outcome::Met;
    let mut reasons = Vec::new();
    if let Some(n) = judged.target_value
        && count > n
    {
        outcome = Outcome::Missed;
        reasons.push(format!("{count} acknowledged writes are gone"));
    }
    if let (Some(within), Ok(origin)) = (spec.within, &origin) {
        let (point, split) = recovery_point(facts, read, origin);
        let part = judged.part("achieved recovery point", point, Unit::Microseconds);
        part.outcome = Some(point.at_most(micros(within)));
        if split > 0 {
            part.detail = format!("{split} lost writes were acknowledged after the fault took effect (split brain) and are not part of it");
        }
        if writes.is_none() {
            (judged.unit, judged.measured, judged.target_value) = (Unit::Microseconds, Some(point), Some(micros(within)));
        }
        let of_point = point.at_most(micros(within));
        if of_point != Outcome::Met {
            reasons.push(format!("the achieved recovery point is {}", point.as_time()));
        }
        outcome = outcome.max(of_point);
    }
    // A loss is a fact, whatever else is not known; but nothing less than everything shows that there was none.
    if outcome == Outcome::Missed {
        return judged.say(outcome, reasons.join("; "));
    }
    if let Err(why) = origin.and_then(|origin| nothing_vacuous(facts, spec, read, &origin)) {
        return judged.inconclusive(why);
    }
    if outcome == Outcome::Met {
        let copies = read.copies.len();
        reasons.push(format!(
            "{count} of {} acknowledged writes are gone; read back from {copies} {}",
            read.ok,
            if copies == 1 { "copy" } else { "copies" }
        ));
    } else {
        judged.hint = Some("more frequent writes would narrow the recovery point".to_owned());
    }
    judged.say(outcome, reasons.join("; "))
}

/// How many acknowledged writes are gone: those lost, or those that a copy lacks which has replayed everything.
fn lost(read: &LedgerReading) -> i64 {
    let lacking = read.copies.iter().filter(|c| c.caught_up).map(|c| c.missing).max().unwrap_or(0);
    i64::try_from(lacking.max(u64::try_from(read.lost.len()).unwrap_or(u64::MAX))).unwrap_or(i64::MAX)
}

fn counts(read: &LedgerReading, lost: i64, judged: &mut Judged) {
    for (name, n) in [
        ("attempted", read.attempted),
        ("acknowledged", read.ok),
        ("refused", read.failed),
        ("outcome unknown", read.unknown),
        ("lost", u64::try_from(lost).unwrap_or(0)),
        ("phantom", read.phantom),
        ("duplicated", read.duplicated),
        ("reordered", read.reordered),
    ] {
        judged.part(name, Bracket::exact(i64::try_from(n).unwrap_or(i64::MAX)), Unit::Writes);
    }
    for copy in &read.copies {
        let missing = Bracket::exact(i64::try_from(copy.missing).unwrap_or(i64::MAX));
        judged.part(format!("missing in {}", copy.name), missing, Unit::Writes).detail = if copy.caught_up {
            copy.detail.clone()
        } else {
            format!("had not replayed everything. {}", copy.detail).trim_end().to_owned()
        };
    }
}

/// The achieved recovery point, `[F.start − oldestLost.ack, F.effective − lastKept.send]` and not below 0, with the number
/// of lost writes that were acknowledged only after the fault took effect: those are a split brain's and belong to no
/// point before the fault.
pub(super) fn recovery_point(facts: &Facts<'_>, read: &LedgerReading, origin: &Origin<'_>) -> (Bracket, usize) {
    let clocks = &facts.clocks;
    let after: Vec<&LedgerWrite> = read.lost.iter().filter(|w| clocks.surely_after(&w.ack, origin.effective)).collect();
    let before = read.lost.iter().filter(|w| !clocks.surely_after(&w.ack, origin.effective));
    let Some(oldest) = before.min_by_key(|w| w.n) else {
        return (Bracket::exact(0), after.len());
    };
    let lower = clocks.between(origin.start, &oldest.ack).lower;
    let upper = read.last_kept.as_ref().and_then(|kept| clocks.between(origin.effective, &kept.send).upper);
    (Bracket { lower, upper }.not_negative(), after.len())
}

/// All that must be so before "nothing was lost" means anything.
fn nothing_vacuous(facts: &Facts<'_>, spec: &DataLoss, read: &LedgerReading, origin: &Origin<'_>) -> Result<(), String> {
    let ledger = &spec.ledger;
    if read.ok == 0 {
        return Err(format!("`{ledger}` had no acknowledged write: there was nothing to lose"));
    }
    if let Some((_, why)) = facts.hold_broken(origin.fault) {
        return Err(why);
    }
    let good_before =
        |r: &&crate::journal::ProbeRun| r.state == ProbeState::Good && facts.clocks.surely_after(origin.effective, &r.first_complete);
    if !Series::of(facts, ledger).runs.iter().copied().any(|r| good_before(&r)) {
        return Err(format!(
            "`{ledger}` is not known to have had a write acknowledged before the fault took effect: there was nothing to lose"
        ));
    }
    if read.copies.is_empty() {
        return Err(format!("`{ledger}` was read back from nowhere"));
    }
    if let Some(copy) = read.copies.iter().find(|c| !c.caught_up) {
        return Err(format!("{} of `{ledger}` had not replayed everything when it was read: {}", copy.name, copy.detail));
    }
    let replicas = facts.plan.probes.get(ledger).and_then(|p| p.spec.ledger.as_ref()?.replicas.as_deref());
    if let (Some(target), true) = (replicas, read.copies.iter().all(|c| c.name == "primary")) {
        return Err(format!("no replica of `{target}` was read back"));
    }
    if read.phantom > 0 {
        return Err(format!("{} rows were read back that nobody wrote: the ledger cannot be trusted", read.phantom));
    }
    Ok(())
}
