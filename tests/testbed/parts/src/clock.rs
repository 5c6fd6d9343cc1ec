//! The one place that reads clocks.

use std::time::{Duration, SystemTime};

/// One instant, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Now {
    /// Wall time, microseconds since the Unix epoch, with the clock's offset added.
    pub wall_us: i64,
    /// `CLOCK_MONOTONIC`, microseconds since the machine's boot: every process of the machine reads the same.
    pub mono_us: i64,
}

/// A clock that can be made to lie about wall time, so that clock differences can be tested on one machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    offset_us: i64,
}

impl Clock {
    /// A clock whose wall time is `offset_us` microseconds ahead of the machine's.
    pub const fn with_offset(offset_us: i64) -> Self {
        Self { offset_us }
    }

    /// The instant now. Both clocks are read one after the other, less than a microsecond apart when undisturbed.
    pub fn now(&self) -> Now {
        let wall = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        };
        let mono = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Now { wall_us: wall.saturating_add(self.offset_us), mono_us: mono.tv_sec * 1_000_000 + mono.tv_nsec / 1_000 }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn an_offset_moves_wall_time_only() {
        let (honest, lying) = (Clock::default().now(), Clock::with_offset(5_000_000).now());
        let (wall, mono) = (lying.wall_us - honest.wall_us, lying.mono_us - honest.mono_us);
        assert!((5_000_000..6_000_000).contains(&wall), "wall moved by {wall} us");
        assert!((0..1_000_000).contains(&mono), "mono moved by {mono} us");
    }
}
