//! Deviations that say the same again and again, as one line with how often and when.

use std::collections::BTreeMap;

use crate::{
    journal::{Event, Record},
    verdict::time,
};

/// One deviation, however often it was said.
#[derive(Debug)]
pub(super) struct Said<'a> {
    /// The first one's text.
    pub(super) text: &'a str,
    /// The number of its first record and of its last.
    pub(super) seq: (u64, u64),
    /// How often.
    pub(super) times: u64,
    first_us: Option<i64>,
    last_us: Option<i64>,
}

impl Said<'_> {
    /// The line for people.
    pub(super) fn line(&self) -> String {
        match (self.times, self.first_us, self.last_us) {
            (1, ..) => self.text.to_owned(),
            (n, Some(first), Some(last)) => format!("{} ({n} times, from {} to {} after the start)", self.text, time(first), time(last)),
            (n, ..) => format!("{} ({n} times)", self.text),
        }
    }
}

/// All deviations of a drill, in the order in which each was first said.
pub(super) fn of(records: &[Record]) -> Vec<Said<'_>> {
    let Some(begin) = records.first().map(|r| &r.at) else { return Vec::new() };
    let mut all: Vec<Said<'_>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let Event::Deviation { detail } = &record.event else { continue };
        let at = (record.at.clock == begin.clock).then(|| record.at.mono_us.saturating_sub(begin.mono_us));
        let next = all.len();
        match known.entry(key(detail)).or_insert(next) {
            i if *i == next => {
                all.push(Said { text: detail, seq: (record.seq, record.seq), times: 1, first_us: at, last_us: at });
            }
            i => {
                if let Some(said) = all.get_mut(*i) {
                    (said.seq.1, said.times, said.last_us) = (record.seq, said.times + 1, at);
                }
            }
        }
    }
    all
}

/// What makes two of them the same. What a probe says of itself differs in times and ports only; what a person did does not repeat
/// like that, and its numbers count.
fn key(detail: &str) -> String {
    if !detail.starts_with("probe `") {
        return detail.to_owned();
    }
    let mut key = String::with_capacity(detail.len());
    for c in detail.chars() {
        if !c.is_ascii_digit() {
            key.push(c);
        } else if !key.ends_with('0') {
            key.push('0');
        }
    }
    key
}
