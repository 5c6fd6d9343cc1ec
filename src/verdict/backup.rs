//! `backup`: the newest backup is young enough and holds something, by the backup tool's own word.

use super::{Bracket, Judged, Outcome, Unit, facts::Facts, micros};
use crate::{clock::utc, journal::Reading, scenario::types::BackupObjective};

/// Backup tools say when a backup was finished in whole seconds, cut off: it may have been up to this much later.
const WHOLE_SECOND: i64 = 1_000_000;

pub(super) fn judge(facts: &Facts<'_>, spec: &BackupObjective) -> Judged {
    let probe = facts.plan.probes.get(&spec.probe).and_then(|p| p.spec.backup.as_ref());
    let Some(max_age) = spec.max_age.or(probe.map(|p| p.max_age)) else {
        return Judged::default().inconclusive(format!("the plan has no backup probe `{}`", spec.probe));
    };
    let mut judged = Judged::within(max_age);
    judged.target = format!("age ≤ {max_age}");
    let Some(read) = facts.last_reading(&spec.probe) else {
        return judged.inconclusive(format!("`{}` was never read", spec.probe));
    };
    let (id, finished, bytes, detail) = match read.reading {
        Reading::Backup { id, finished_wall_us, bytes, detail } => (id, *finished_wall_us, *bytes, detail),
        Reading::Failed { detail } => return judged.inconclusive(format!("the backup tool could not be asked: {detail}")),
        Reading::Ledger(_) | Reading::Digest { .. } => {
            return judged.inconclusive(format!("`{}` gave a reading of another kind", spec.probe));
        }
    };
    if id.is_empty() {
        return judged.say(Outcome::Missed, format!("there is no complete backup. {detail}").trim_end().to_owned());
    }
    judged.part("size", Bracket::exact(i64::try_from(bytes).unwrap_or(i64::MAX)), Unit::Bytes).detail = format!("backup {id}");
    let age =
        Bracket::new(read.begin.wall_us.saturating_sub(finished).saturating_sub(WHOLE_SECOND), read.end.wall_us.saturating_sub(finished));
    let when = utc(finished);
    if age.upper.is_some_and(|u| u < 0) {
        return judged.inconclusive(format!("backup {id} says it was finished at {when}, which is in the future: the clocks disagree"));
    }
    let age = age.not_negative();
    judged.measured = Some(age);
    let least = probe.and_then(|p| p.min_size).map_or(1, |q| q.0.max(1));
    if bytes < least {
        return judged
            .say(Outcome::Missed, format!("backup {id} holds {bytes} bytes, less than {least}: a backup of nothing is no backup"));
    }
    let mut outcome = age.at_most(micros(max_age));
    let mut reason = format!("backup {id}, finished {when}, is {} old", age.as_time());
    if let Some(after) = &spec.after {
        match since(facts, after, finished) {
            Ok(Outcome::Met) => {}
            Ok(o) => {
                let word = if o == Outcome::Missed { "was" } else { "may have been" };
                reason.push_str(&format!("; it {word} finished before `{after}`"));
                outcome = outcome.max(o);
            }
            Err(why) => return judged.inconclusive(why),
        }
    }
    judged.say(outcome, reason)
}

/// Whether a backup was finished after a step began.
fn since(facts: &Facts<'_>, after: &str, finished: i64) -> Result<Outcome, String> {
    let origin = facts.origin(Some(after))?;
    Ok(if finished >= origin.start.wall_us {
        Outcome::Met
    } else if finished.saturating_add(WHOLE_SECOND) <= origin.start.wall_us {
        Outcome::Missed
    } else {
        Outcome::Inconclusive
    })
}
