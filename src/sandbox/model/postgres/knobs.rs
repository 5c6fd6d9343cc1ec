//! How the model can be made weak, by annotations of its pods (`sandbox.firedrill.dev/…`).

use std::time::Duration;

use super::super::super::program::Env;

/// Whether a commit waits for a synchronous replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Synchronous {
    On,
    Off,
    /// It is said to, and does not.
    Lying,
}

/// The knobs of a member, as they were read last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Knobs {
    /// `ttl`, `loop-wait`: of the leader's lock.
    pub(super) ttl: Duration,
    pub(super) loop_wait: Duration,
    /// `synchronous: on | off | lying`
    pub(super) synchronous: Synchronous,
    /// `transfer-delay`: how long the log takes to the replicas. Where commits do not wait for them it is 300 ms unless set, so that a
    /// failover loses what was acknowledged in that time.
    pub(super) transfer: Duration,
    /// `lag`: how long after its commit a replica replays a transaction.
    pub(super) lag: Duration,
    /// `failover: never`: this member never takes the lock over.
    pub(super) never_leads: bool,
    /// `down: "true"`: the server does not run.
    pub(super) down: bool,
    /// `latency`: how long a statement waits before it begins.
    pub(super) latency: Duration,
    /// `loss`: of a million statements, how many find their connection broken.
    pub(super) loss: u32,
    /// `archive: off`: the log goes to no repository.
    pub(super) no_archive: bool,
}

impl Knobs {
    /// Reads them.
    ///
    /// # Errors
    /// One that is not understood.
    pub(super) fn read(env: &Env) -> Result<Self, String> {
        let synchronous = match env.knob("synchronous").as_deref() {
            None | Some("on" | "true") => Synchronous::On,
            Some("off" | "false") => Synchronous::Off,
            Some("lying") => Synchronous::Lying,
            Some(other) => return Err(format!("knob `synchronous` is on, off or lying, not `{other}`")),
        };
        let unsafe_transfer = if synchronous == Synchronous::On { Duration::ZERO } else { Duration::from_millis(300) };
        let never_leads = match env.knob("failover").as_deref() {
            None | Some("automatic") => false,
            Some("never") => true,
            Some(other) => return Err(format!("knob `failover` is automatic or never, not `{other}`")),
        };
        let loss = match env.knob("loss") {
            None => 0,
            Some(text) => share(&text).ok_or_else(|| format!("knob `loss`: `{text}` is no share such as 5%"))?,
        };
        Ok(Self {
            ttl: env.knob_duration("ttl")?.unwrap_or(Duration::from_secs(20)),
            loop_wait: env.knob_duration("loop-wait")?.unwrap_or(Duration::from_secs(2)).max(Duration::from_millis(100)),
            synchronous,
            transfer: env.knob_duration("transfer-delay")?.unwrap_or(unsafe_transfer),
            lag: env.knob_duration("lag")?.unwrap_or_default(),
            never_leads,
            down: flag(env, "down")?,
            latency: env.knob_duration("latency")?.unwrap_or_default(),
            loss,
            no_archive: match env.knob("archive").as_deref() {
                None | Some("on") => false,
                Some("off") => true,
                Some(other) => return Err(format!("knob `archive` is on or off, not `{other}`")),
            },
        })
    }
}

/// A knob that is true or false.
///
/// # Errors
/// It is neither.
pub(super) fn flag(env: &Env, name: &str) -> Result<bool, String> {
    match env.knob(name).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(format!("knob `{name}` is true or false, not `{other}`")),
    }
}

/// `5%` in millionths.
pub(super) fn share(text: &str) -> Option<u32> {
    let (whole, fraction) = text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, ""));
    if whole.is_empty() {
        return None;
    }
    let digits = format!("{whole}{fraction:0<4}");
    let millionths: u32 = digits.parse().ok().filter(|_| fraction.len() <= 4)?;
    (millionths <= 1_000_000).then_some(millionths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        assert_eq!(["0%", "5%", "0.5%", "100%"].map(share), [Some(0), Some(50_000), Some(5000), Some(1_000_000)]);
        assert_eq!(["5", "101%", "x%", "1.23456%", "%"].map(share), [None; 5]);
    }
}
