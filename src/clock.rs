//! The one place where time is read.
//!
//! Every instant carries the clock it was read on. On one host the monotonic part is `CLOCK_BOOTTIME`, which goes on
//! while the machine sleeps, so that a runner that was suspended notices that its Lease has run out, and so that a
//! drill resumed on the same boot of the same host goes on with the same clock. In virtual time both parts follow
//! tokio's clock.
//!
//! **Architecture invariant:** no other module reads a clock of the operating system.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

/// The name of a clock. Two stamps can be compared directly only if their clocks are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockId(pub Arc<str>);

impl fmt::Display for ClockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An instant as one clock read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// The clock.
    pub clock: ClockId,
    /// Monotonic time of that clock, in microseconds from an arbitrary origin.
    pub mono_us: i64,
    /// Wall time of that clock, in microseconds since the Unix epoch. For showing, never for measuring.
    pub wall_us: i64,
}

impl Stamp {
    /// The wall time in UTC, as RFC 3339 with milliseconds.
    pub fn utc(&self) -> String {
        utc(self.wall_us)
    }
}

/// Microseconds since the Unix epoch as RFC 3339 in UTC with milliseconds.
pub fn utc(wall_us: i64) -> String {
    jiff::Timestamp::from_microsecond(wall_us).map_or_else(|_| format!("{wall_us}us"), |t| format!("{t:.3}"))
}

#[derive(Debug, Clone)]
enum Source {
    Host,
    Virtual {
        origin: tokio::time::Instant,
        wall_us: i64,
        /// How far its wall time was set since.
        set_us: Arc<AtomicI64>,
    },
}

/// A clock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock {
    id: ClockId,
    source: Source,
    /// Added to the wall time: only tests make it differ from 0.
    wall_offset_us: i64,
}

impl Clock {
    /// This host's clock. Its id names the boot, so that it is the same clock for every process until the next reboot.
    pub fn host() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim();
        let id = if boot.len() >= 8 { format!("host-{}", &boot[..8]) } else { format!("host-pid{}", std::process::id()) };
        Self { id: ClockId(id.into()), source: Source::Host, wall_offset_us: 0 }
    }

    /// This host's clock under another name: what an agent in a pod uses, so that it is never taken for the runner's
    /// clock without having been measured against it.
    pub fn host_as(id: &str) -> Self {
        Self { id: ClockId(id.into()), source: Source::Host, wall_offset_us: 0 }
    }

    /// A clock that follows tokio's (which tests and the sandbox may pause), starting now at the given wall time.
    pub fn virtual_at(id: &str, wall_us: i64) -> Self {
        Self {
            id: ClockId(id.into()),
            source: Source::Virtual { origin: tokio::time::Instant::now(), wall_us, set_us: Arc::default() },
            wall_offset_us: 0,
        }
    }

    /// The same clock with its wall time wrong by this much, and its monotonic time shifted too, as on another host.
    #[must_use]
    pub fn skewed(mut self, offset_us: i64) -> Self {
        self.wall_offset_us = offset_us;
        self
    }

    /// The same clock under another name, as that of another machine.
    #[must_use]
    pub fn named(mut self, id: &str) -> Self {
        self.id = ClockId(id.into());
        self
    }

    /// Sets the wall time of a virtual clock forward or back, for all its clones, as NTP or a person does it. The host's clock is not
    /// ours to set.
    pub fn set_wall(&self, by_us: i64) {
        if let Source::Virtual { set_us, .. } = &self.source {
            set_us.fetch_add(by_us, Ordering::Relaxed);
        }
    }

    /// Its name.
    pub fn id(&self) -> &ClockId {
        &self.id
    }

    /// Now.
    pub fn now(&self) -> Stamp {
        let (mono_us, wall_us) = match &self.source {
            Source::Host => {
                let mono = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
                (mono.tv_sec * 1_000_000 + mono.tv_nsec / 1_000, wall.tv_sec * 1_000_000 + wall.tv_nsec / 1_000)
            }
            Source::Virtual { origin, wall_us, set_us } => {
                let elapsed = i64::try_from(origin.elapsed().as_micros()).unwrap_or(i64::MAX);
                (elapsed, wall_us.saturating_add(elapsed).saturating_add(set_us.load(Ordering::Relaxed)))
            }
        };
        Stamp { clock: self.id.clone(), mono_us: mono_us + self.wall_offset_us, wall_us: wall_us + self.wall_offset_us }
    }
}
