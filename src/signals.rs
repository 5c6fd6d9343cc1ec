//! The signals that ask a process of firedrill to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What [`Signals::next`] calls them.
pub(crate) const NAMES: [&str; 3] = ["SIGINT", "SIGTERM", "SIGHUP"];

/// SIGINT, SIGTERM and SIGHUP, from its making on. They no longer end the process by themselves.
pub(crate) struct Signals {
    int: Signal,
    term: Signal,
    /// A terminal that was closed, a connection that dropped. None under `nohup`, which asks to outlive just that.
    hup: Option<Signal>,
}

impl Signals {
    /// Takes them over.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(crate) fn new() -> io::Result<Self> {
        // What cannot be read says nothing of `nohup`.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hup = if hup_is_ignored(&status) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())?, hup })
    }

    /// Waits for the next one, and says which.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hup = async {
            match &mut self.hup {
                Some(hup) => drop(hup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
            () = hup => "SIGHUP",
        }
    }
}

/// Whether a process whose `/proc/PID/status` this is ignores SIGHUP, the first bit of its mask.
fn hup_is_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn nohup_is_seen() {
        assert!(super::hup_is_ignored("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!super::hup_is_ignored("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!super::hup_is_ignored(""));
    }
}
