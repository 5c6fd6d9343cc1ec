//! Probes (`pkg/kubelet/prober`): when they are due, and what their results come to.

use serde_json::Value;

use super::super::{
    control::look::{SECOND, number},
    core::{strings, text},
    model::Probe,
};

/// Which probe it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Startup,
    Liveness,
    Readiness,
}

impl Which {
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
        }
    }

    /// In the kubelet's events.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// One probe of a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) which: Which,
    pub(super) probe: Probe,
    pub(super) due: i64,
    period: i64,
    timeout: i64,
    successes: i64,
    failures: i64,
    /// The same result so many times in a row.
    run: (bool, i64),
    /// The result that counts.
    pub(super) good: Option<bool>,
    /// A hanging container's probe: it fails when its time is up.
    hangs: bool,
}

impl Watch {
    /// A container's probes, from when it was started.
    pub(super) fn all(container: &Value, started: i64) -> Vec<Self> {
        let make = |which: Which| {
            let probe = container.get(which.field()).filter(|p| p.is_object())?;
            let of = |field: &str, none: i64| number(probe, &format!("/{field}")).unwrap_or(none).max(0);
            let kind = if let Some(exec) = probe.get("exec") {
                Probe::Exec(strings(exec, "/command").into_iter().map(str::to_owned).collect())
            } else if let Some(http) = probe.get("httpGet") {
                Probe::Http { path: text(http, "/path").to_owned() }
            } else if probe.get("tcpSocket").is_some() {
                Probe::Tcp
            } else {
                Probe::Other("gRPC")
            };
            Some(Self {
                which,
                probe: kind,
                due: started + of("initialDelaySeconds", 0) * SECOND,
                period: of("periodSeconds", 10).max(1) * SECOND,
                timeout: of("timeoutSeconds", 1).max(1) * SECOND,
                successes: of("successThreshold", 1).max(1),
                failures: of("failureThreshold", 3).max(1),
                run: (false, 0),
                good: None,
                hangs: false,
            })
        };
        Which::ALL.into_iter().filter_map(make).collect()
    }

    /// It is time. Of a container that is held the answer does not come: false, and it is due again at its time-out.
    pub(super) fn answers(&mut self, held: bool) -> bool {
        if held && !self.hangs {
            self.hangs = true;
            self.due += self.timeout;
            return false;
        }
        true
    }

    /// A result. True: what counts has changed.
    pub(super) fn result(&mut self, mut good: bool, now: i64) -> bool {
        if self.hangs {
            good = false;
            self.hangs = false;
        }
        self.due = now + self.period;
        self.run = if self.run.0 == good { (good, self.run.1 + 1) } else { (good, 1) };
        let needed = if good { self.successes } else { self.failures };
        if self.run.1 < needed || self.good == Some(good) {
            return false;
        }
        self.good = Some(good);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = json!({"readinessProbe": {"tcpSocket": {}, "successThreshold": 2, "failureThreshold": 3, "initialDelaySeconds": 4}});
        let mut watch = Watch::all(&probe, 0).remove(0);
        assert_eq!(watch.due, 4 * SECOND);
        let mut feed = |good| {
            let due = watch.due;
            watch.result(good, due);
            watch.good
        };
        assert_eq!([true, false, true, true].map(&mut feed), [None, None, None, Some(true)]);
        assert_eq!([false, false, true, false, false, false].map(&mut feed).last(), Some(&Some(false)));
    }

    #[test]
    fn a_container_that_hangs_fails_at_the_time_out() {
        let mut watch = Watch::all(&json!({"livenessProbe": {"tcpSocket": {}, "timeoutSeconds": 3, "failureThreshold": 1}}), 0).remove(0);
        assert!(!watch.answers(true));
        assert_eq!(watch.due, 3 * SECOND);
        assert!(watch.answers(true));
        assert!(watch.result(true, 3 * SECOND));
        assert_eq!(watch.good, Some(false));
    }
}
