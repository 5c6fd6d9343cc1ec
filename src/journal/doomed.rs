//! Debug builds alone, for tests: a runner that dies by SIGKILL at a given record of its journal, as by chance any runner may. A
//! release build has nothing of this.

use super::Event;

/// `FIREDRILL_TEST_KILL_AT=intent:1:written`: at the second intent (counted from 0), as soon as the file has it, unsynced. `…:recorded`: once
/// it is as durable as its kind demands, and before anybody acts on it.
const VARIABLE: &str = "FIREDRILL_TEST_KILL_AT";

/// When it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Written,
    Recorded,
}

#[derive(Debug)]
pub(super) struct Doomed {
    at: Option<(String, u64, Moment)>,
    /// How many of that kind were written.
    written: u64,
}

impl Doomed {
    pub(super) fn from_environment() -> Self {
        let at = std::env::var(VARIABLE).ok().and_then(|text| {
            let mut parts = text.split(':');
            let (kind, nth) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            Some((kind, nth, if parts.next()? == "recorded" { Moment::Recorded } else { Moment::Written }))
        });
        Self { at, written: 0 }
    }

    /// A record has come to a moment.
    pub(super) fn passes(&mut self, event: &Event, moment: Moment) {
        let Some((kind, nth, when)) = &self.at else { return };
        if kind_of(event) != *kind {
            return;
        }
        self.written += u64::from(moment == Moment::Written);
        if moment == *when && self.written == nth + 1 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

/// As in the journal.
fn kind_of(event: &Event) -> String {
    match serde_json::to_value(event) {
        Ok(serde_json::Value::Object(object)) => object.keys().next().cloned().unwrap_or_default(),
        Ok(serde_json::Value::String(kind)) => kind,
        _ => String::new(),
    }
}
