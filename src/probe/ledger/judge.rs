//! What became of a write, and what the rows say of all of them. Pure.

use std::{collections::BTreeMap, fmt};

use crate::{
    clock::{ClockId, Stamp},
    journal::{LedgerReading, LedgerWrite},
    probe::pg::PgError,
};

/// What is known of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Acknowledged, without a warning.
    Ok,
    /// Refused by an error that proves that it did not happen.
    Failed,
    /// Neither.
    Unknown,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Failed => "fail",
            Self::Unknown => "unknown",
        })
    }
}

/// A write that was tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) send_us: i64,
    pub(super) wall_us: i64,
    pub(super) end_us: i64,
    pub(super) fate: Fate,
}

/// SQLSTATEs that, as an ERROR (not FATAL) to a single autocommitted `INSERT`, prove that it was rolled back: they are
/// raised before the commit begins, and an error before that aborts the transaction. From PostgreSQL's Appendix A; whole
/// classes by their first two characters. What is raised at or after commit (08, 57P01, 57P02, XX) is not here. 57014 is:
/// a cancel during the wait for a synchronous standby comes as a WARNING, not as this error.
const PROVES_FAILURE: &[&str] =
    &["22", "23", "25", "28", "3D", "3F", "40001", "40P01", "42", "53100", "53200", "53400", "54", "55P03", "57014"];

/// What an answer says of the write.
pub(super) fn fate(error: Option<&PgError>, warning: Option<&str>) -> Fate {
    match error {
        // A warning on an INSERT is that of a cancelled wait for the synchronous standby: committed here, maybe not there.
        None => warning.map_or(Fate::Ok, |_| Fate::Unknown),
        Some(PgError { code: Some(code), fatal: false, .. }) if PROVES_FAILURE.iter().any(|known| code.starts_with(known)) => Fate::Failed,
        Some(_) => Fate::Unknown,
    }
}

/// Which of the acknowledged writes a copy lacks: how many.
pub(super) fn missing(attempts: &[Attempt], first: u64, rows: &[i64]) -> u64 {
    let there: std::collections::BTreeSet<i64> = rows.iter().copied().collect();
    let lacking = attempts
        .iter()
        .enumerate()
        .filter(|(i, attempt)| attempt.fate == Fate::Ok && i64::try_from(first + *i as u64).is_ok_and(|n| !there.contains(&n)));
    lacking.count() as u64
}

/// What the rows of the primary, in order of their position, say of the writes. Numbers start at `first`.
pub(super) fn judge(clock: &ClockId, attempts: &[Attempt], first: u64, rows: &[i64]) -> LedgerReading {
    let count = |fate| attempts.iter().filter(|attempt| attempt.fate == fate).count() as u64;
    let attempt = |n: i64| u64::try_from(n).ok().and_then(|n| n.checked_sub(first)).and_then(|i| attempts.get(usize::try_from(i).ok()?));
    let mut times: BTreeMap<i64, u64> = BTreeMap::new();
    let (mut phantom, mut reordered, mut highest) = (0, 0, i64::MIN);
    for n in rows {
        *times.entry(*n).or_default() += 1;
        match attempt(*n).map(|attempt| attempt.fate) {
            // Never tried, or proven not to have happened.
            None | Some(Fate::Failed) => phantom += 1,
            // A write that was given up may be carried out later, after those that followed it: that is no fault.
            Some(Fate::Unknown) => {}
            Some(Fate::Ok) => {
                reordered += u64::from(*n < highest);
                highest = highest.max(*n);
            }
        }
    }
    let write = |i: usize, attempt: &Attempt| {
        let stamp = |mono_us: i64| Stamp { clock: clock.clone(), mono_us, wall_us: attempt.wall_us + (mono_us - attempt.send_us) };
        LedgerWrite { n: first + i as u64, send: stamp(attempt.send_us), ack: stamp(attempt.end_us) }
    };
    let (mut lost, mut last_kept) = (Vec::new(), None);
    for (i, attempt) in attempts.iter().enumerate().filter(|(_, attempt)| attempt.fate == Fate::Ok) {
        let kept = i64::try_from(first + i as u64).is_ok_and(|n| times.contains_key(&n));
        if !kept {
            lost.push(write(i, attempt));
        } else if lost.is_empty() {
            last_kept = Some(write(i, attempt));
        }
    }
    LedgerReading {
        attempted: attempts.len() as u64,
        ok: count(Fate::Ok),
        failed: count(Fate::Failed),
        unknown: count(Fate::Unknown),
        lost,
        phantom,
        duplicated: times.values().filter(|times| **times > 1).count() as u64,
        reordered,
        last_kept,
        copies: Vec::new(),
        samples: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{NetError, Whose};

    fn error(code: &str, fatal: bool) -> PgError {
        PgError { whose: Whose::Peer, code: Some(code.to_owned()), fatal, detail: String::new() }
    }

    #[test]
    fn only_what_proves_it_is_a_failure() {
        for code in ["23505", "25006", "40001", "42501", "42P01", "53100", "57014"] {
            assert_eq!(fate(Some(&error(code, false)), None), Fate::Failed, "{code}");
            assert_eq!(fate(Some(&error(code, true)), None), Fate::Unknown, "{code} FATAL");
        }
        for code in ["08006", "57P01", "57P02", "XX000", "58030", "40003"] {
            assert_eq!(fate(Some(&error(code, false)), None), Fate::Unknown, "{code}");
        }
        assert_eq!(fate(Some(&NetError::peer("connection reset").into()), None), Fate::Unknown);
        assert_eq!(fate(None, None), Fate::Ok);
        assert_eq!(fate(None, Some("01000: canceling wait for synchronous replication")), Fate::Unknown);
    }

    fn attempts(fates: &[Fate]) -> Vec<Attempt> {
        let at = |i: usize| i64::try_from(i).unwrap() * 1000;
        fates.iter().enumerate().map(|(i, fate)| Attempt { send_us: at(i), wall_us: at(i), end_us: at(i) + 5, fate: *fate }).collect()
    }

    #[test]
    fn rows_are_set_against_attempts() {
        use Fate::{Failed, Ok, Unknown};
        // Writes 1 to 8.
        let tried = attempts(&[Ok, Ok, Unknown, Failed, Ok, Ok, Unknown, Ok]);
        let clock = ClockId("c".into());
        // 2 twice, 4 although it failed, 5 and 6 gone, 7 late and unknown (no fault), 99 never tried.
        let reading = judge(&clock, &tried, 1, &[1, 2, 2, 4, 8, 7, 99]);
        assert_eq!((reading.attempted, reading.ok, reading.failed, reading.unknown), (8, 5, 1, 2));
        assert_eq!(
            reading.lost.iter().map(|w| (w.n, w.send.mono_us, w.ack.mono_us)).collect::<Vec<_>>(),
            [(5, 4000, 4005), (6, 5000, 5005)]
        );
        assert_eq!(reading.last_kept.map(|w| w.n), Some(2));
        assert_eq!((reading.phantom, reading.duplicated, reading.reordered), (2, 1, 0));
        assert_eq!(missing(&tried, 1, &[1, 2, 5, 6]), 1);
    }

    #[test]
    fn acknowledged_writes_out_of_order_are_counted() {
        let reading = judge(&ClockId("c".into()), &attempts(&[Fate::Ok; 4]), 1, &[1, 3, 2, 4]);
        assert_eq!((reading.reordered, reading.lost.len()), (1, 0));
    }

    #[test]
    fn numbers_may_start_anywhere() {
        let reading = judge(&ClockId("c".into()), &attempts(&[Fate::Ok; 2]), 11, &[10, 11]);
        assert_eq!((reading.phantom, reading.lost.iter().map(|w| w.n).collect::<Vec<_>>()), (1, vec![12]));
    }
}
