//! How fast a sandbox's time goes.
//!
//! Left alone it goes on as soon as nothing is left to do at an instant. To slow it down, its only thread is put to sleep now and
//! then: everything happens at the same instants and in the same order at every pace.

use std::{str::FromStr, time::Duration};

use tokio::task::JoinHandle;

use crate::clock::Clock;

/// How often the two times are compared, in the sandbox's time.
const STEP: Duration = Duration::from_millis(10);
/// The slowest and the fastest that can be asked for.
const RANGE: std::ops::RangeInclusive<f64> = 0.1..=10_000.0;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// As fast as it can.
    Max,
    /// So many times as fast as the machine's.
    Times(f64),
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => return Ok(Self::Max),
            "realtime" => return Ok(Self::Times(1.0)),
            _ => {}
        }
        let times = text.strip_suffix('x').and_then(|number| number.parse().ok()).filter(|times| RANGE.contains(times));
        times
            .map(Self::Times)
            .ok_or_else(|| format!("`{text}` is none of `max`, `realtime` and, for example, `10x` ({} to {})", RANGE.start(), RANGE.end()))
    }
}

/// Keeps a pace until it is dropped.
#[derive(Debug)]
pub(crate) struct Pacer(Option<JoinHandle<()>>);

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Pace {
    /// Keeps it from now on.
    pub(crate) fn keep(self) -> Pacer {
        let Self::Times(times) = self else { return Pacer(None) };
        Pacer(Some(tokio::spawn(async move {
            let (host, began) = (Clock::host(), tokio::time::Instant::now());
            let start_us = host.now().mono_us;
            loop {
                tokio::time::sleep(STEP).await;
                let due = began.elapsed().div_f64(times);
                let passed = Duration::from_micros((host.now().mono_us - start_us).unsigned_abs());
                // The whole process waits, and with it its time: that is what this is for.
                std::thread::sleep(due.saturating_sub(passed));
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_read_or_explained() {
        assert_eq!("max".parse(), Ok(Pace::Max));
        assert_eq!("realtime".parse(), Ok(Pace::Times(1.0)));
        assert_eq!("2.5x".parse(), Ok(Pace::Times(2.5)));
        for wrong in ["", "10", "0x", "-1x", "x", "1e9x", "NaNx"] {
            assert!(wrong.parse::<Pace>().unwrap_err().contains("10x"), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_takes_as_long_as_the_pace_says() {
        let host = Clock::host();
        let before = host.now().mono_us;
        let pacer = Pace::Times(300.0).keep();
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(pacer);
        let took = host.now().mono_us - before;
        assert!(took >= 190_000, "60 s at 300x: {took} us");
    }
}
