//! Changes of a probe's state as lines: each as it comes, unless they come so fast that they would drown everything else.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::line::Tone;

/// How many changes of one probe are said one by one within a window.
const ONE_BY_ONE: u32 = 4;
/// The first window; each one that is too full is followed by one twice as long.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest window.
const LONGEST: Duration = Duration::from_secs(160);

/// A probe's changes in its present window.
#[derive(Debug)]
struct Window {
    began: Instant,
    lasts: Duration,
    /// How many may still be said.
    left: u32,
    /// How many were not.
    unsaid: u32,
    /// The last of those.
    last: Option<(Tone, String)>,
}

/// What was said of each probe lately.
#[derive(Debug, Default)]
pub(super) struct Flaps(BTreeMap<String, Window>);

impl Flaps {
    /// A probe changed: the line to say now, or none if it is kept for the window's end.
    pub(super) fn changed(&mut self, probe: &str, tone: Tone, line: String) -> Option<(Tone, String)> {
        let now = Instant::now();
        let window =
            self.0.entry(probe.to_owned()).or_insert(Window { began: now, lasts: SHORTEST, left: ONE_BY_ONE, unsaid: 0, last: None });
        if window.left > 0 {
            window.left -= 1;
            return Some((tone, line));
        }
        (window.unsaid, window.last) = (window.unsaid.saturating_add(1), Some((tone, line)));
        None
    }

    /// The lines of windows that are over; all of them at the end of the drill.
    pub(super) fn due(&mut self, end: bool) -> Vec<(Tone, String)> {
        let now = Instant::now();
        let mut lines = Vec::new();
        self.0.retain(|probe, window| {
            if !end && now.duration_since(window.began) < window.lasts {
                return true;
            }
            // A quiet window ends it: the next change is said at once.
            let Some((tone, line)) = window.last.take() else { return false };
            let times = if window.unsaid == 1 { "once more".to_owned() } else { format!("{} times more", window.unsaid) };
            let secs = now.duration_since(window.began).as_secs().max(1);
            lines.push((tone, format!("probe {probe} changed {times} in {secs}s (it flaps). Now: {line}")));
            (window.began, window.lasts, window.left, window.unsaid) = (now, (window.lasts * 2).min(LONGEST), 0, 0);
            true
        });
        lines
    }
}
