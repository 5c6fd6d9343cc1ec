//! `restore`: the restored copy holds the same rows as the source.

use super::{Bracket, Judged, Outcome, Unit, facts::Facts};
use crate::{
    journal::{DigestWhich, Reading},
    scenario::types::RestoreObjective,
};

pub(super) fn judge(facts: &Facts<'_>, name: &str, spec: &RestoreObjective) -> Judged {
    // A restore of nothing proves nothing, whatever the scenario says.
    let least = spec.min_rows.max(1);
    let mut judged = Judged::against(format!("equal digests of ≥ {least} rows"));
    let readings = facts.readings.get(name).map_or(&[] as &[_], Vec::as_slice);
    let side = |which: DigestWhich| {
        readings.iter().rev().find_map(|r| match r.reading {
            Reading::Digest { side, digest, rows } if *side == which => Some((digest.as_str(), *rows, r.end)),
            _ => None,
        })
    };
    let failed = readings
        .iter()
        .rev()
        .find_map(|r| if let Reading::Failed { detail } = r.reading { Some((detail.as_str(), r.begin)) } else { None });
    let why = |what: &str| match failed {
        Some((detail, _)) => format!("{what} could not be read: {detail}"),
        None => format!("{what} was never read"),
    };
    for (which, label) in [(DigestWhich::Source, "source"), (DigestWhich::Restored, "restored")] {
        if let Some((digest, rows, _)) = side(which) {
            judged.part(label, Bracket::exact(i64::try_from(rows).unwrap_or(i64::MAX)), Unit::Rows).detail = digest.to_owned();
        }
    }
    let Some((source, source_rows, _)) = side(DigestWhich::Source) else { return judged.inconclusive(why("the source")) };
    let Some((restored, rows, read_at)) = side(DigestWhich::Restored) else { return judged.inconclusive(why("the restored copy")) };
    if let Some((detail, at)) = failed
        && facts.clocks.surely_after(at, read_at)
    {
        return judged.inconclusive(format!("the last reading failed: {detail}"));
    }
    (judged.unit, judged.measured) = (Unit::Rows, Some(Bracket::exact(i64::try_from(rows).unwrap_or(i64::MAX))));
    if source.is_empty() || restored.is_empty() {
        return judged.inconclusive("a digest is empty");
    }
    if source_rows < least {
        return judged.inconclusive(format!("the source has {source_rows} rows, fewer than {least}: comparing them proves nothing"));
    }
    match (rows == source_rows, restored == source) {
        (true, true) => judged.say(Outcome::Met, format!("source and restored copy hold the same {rows} rows")),
        (false, _) => judged.say(Outcome::Missed, format!("the restored copy holds {rows} rows, the source {source_rows}")),
        (true, false) => judged.say(Outcome::Missed, format!("both hold {rows} rows, but not the same: their digests differ")),
    }
}
