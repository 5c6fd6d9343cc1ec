//! What happened, as brackets.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Service;
use crate::clock::Now;

/// Entries kept; the oldest go first.
const KEPT: usize = 20_000;

/// What happened to a data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The listening socket was closed and every connection reset.
    Closed,
    /// The port listens.
    Opened,
    /// Connections are accepted, requests are no longer answered.
    Hung,
    /// Requests are answered again, those held back too.
    Answering,
}

/// One entry: `event` happened between `begin` and `end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// To which data port.
    pub service: Service,
    /// Its port number.
    pub port: u16,
    /// When it was to happen, wall time in microseconds; absent for the first opening and for a cancelled outage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_us: Option<i64>,
    /// Wall time just before, microseconds since the Unix epoch.
    pub begin_us: i64,
    /// Wall time just after.
    pub end_us: i64,
    /// `CLOCK_MONOTONIC` just before, microseconds.
    pub begin_mono_us: i64,
    /// `CLOCK_MONOTONIC` just after.
    pub end_mono_us: i64,
    /// Connections reset by a `closed`.
    pub connections_reset: usize,
}

/// The log of one metronome.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<VecDeque<Entry>>);

impl Log {
    pub(super) fn write(
        &self,
        (event, service, port): (Event, Service, u16),
        planned_us: Option<i64>,
        (begin, end): (Now, Now),
        connections_reset: usize,
    ) {
        let mut entries = self.lock();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(Entry {
            event,
            service,
            port,
            planned_us,
            begin_us: begin.wall_us,
            end_us: end.wall_us,
            begin_mono_us: begin.mono_us,
            end_mono_us: end.mono_us,
            connections_reset,
        });
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        // An entry is pushed whole or not at all, so a poisoned log is still a good one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
