//! Outages asked for, and how they become instants.

use serde::{Deserialize, Serialize};

/// A data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The HTTP port.
    Http,
    /// The TCP port.
    Tcp,
}

impl Service {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http, Self::Tcp];
}

/// How a port is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The listening socket is closed: connections are refused.
    #[default]
    Refuse,
    /// Connections are accepted, nothing is answered until the outage ends.
    Hang,
}

/// An outage as asked for: by wall time (`down_at_us`, `up_at_us`) or from now on (`in_ms`, `for_ms`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Wall time to go down at, microseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_at_us: Option<i64>,
    /// Wall time to come up at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_at_us: Option<i64>,
    /// Milliseconds from now to go down in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_ms: Option<u32>,
    /// Milliseconds to stay down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u32>,
    /// How to be down.
    #[serde(default)]
    pub mode: Mode,
    /// Which port; both if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// An outage with its instants, wall time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// To go down at.
    pub down_at_us: i64,
    /// To come up at.
    pub up_at_us: i64,
    /// How to be down.
    pub mode: Mode,
    /// Which port; both if absent.
    pub service: Option<Service>,
}

impl Planned {
    /// True if it concerns `service`.
    pub fn concerns(&self, service: Service) -> bool {
        self.service.is_none_or(|only| only == service)
    }

    fn meets(&self, other: &Self) -> bool {
        let same = Service::ALL.into_iter().any(|service| self.concerns(service) && other.concerns(service));
        same && self.down_at_us <= other.up_at_us && other.down_at_us <= self.up_at_us
    }
}

/// Turns outages into instants, in order of going down, or says what is wrong with the first that makes no sense.
/// `taken` are those planned before and not over.
pub(super) fn plan(outages: &[Outage], taken: &[Planned], now_us: i64) -> Result<Vec<Planned>, String> {
    let mut planned: Vec<Planned> = Vec::with_capacity(outages.len());
    for (index, outage) in outages.iter().enumerate() {
        let wrong = |what: &str| Err(format!("outages[{index}]: {what}"));
        let (down_at_us, up_at_us) = match outage {
            Outage { down_at_us: Some(down), up_at_us: Some(up), in_ms: None, for_ms: None, .. } => (*down, *up),
            Outage { down_at_us: None, up_at_us: None, in_ms: Some(after), for_ms: Some(length), .. } => {
                let down = now_us + i64::from(*after) * 1_000;
                (down, down + i64::from(*length) * 1_000)
            }
            _ => return wrong("give down_at_us and up_at_us, or in_ms and for_ms"),
        };
        if down_at_us < now_us {
            return wrong(&format!("down_at_us {down_at_us} is past: now is {now_us}"));
        }
        if up_at_us <= down_at_us {
            return wrong("it must come up after it goes down");
        }
        let next = Planned { down_at_us, up_at_us, mode: outage.mode, service: outage.service };
        if let Some(other) = taken.iter().chain(&planned).find(|other| other.meets(&next)) {
            return wrong(&format!("it meets the outage from {} to {}", other.down_at_us, other.up_at_us));
        }
        planned.push(next);
    }
    planned.sort_by_key(|outage| outage.down_at_us);
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::{Mode, Outage, Planned, Service, plan};

    fn at(down: i64, up: i64) -> Outage {
        Outage { down_at_us: Some(down), up_at_us: Some(up), ..Outage::default() }
    }

    #[test]
    fn relative_outages_start_from_now() {
        let outage = Outage { in_ms: Some(5), for_ms: Some(2), mode: Mode::Hang, ..Outage::default() };
        let expected = Planned { down_at_us: 6_000, up_at_us: 8_000, mode: Mode::Hang, service: None };
        assert_eq!(plan(&[outage], &[], 1_000), Ok(vec![expected]));
    }

    #[test]
    fn outages_are_put_in_order() {
        let planned = plan(&[at(50, 60), at(10, 20)], &[], 0).unwrap_or_default();
        assert_eq!(planned.iter().map(|outage| outage.down_at_us).collect::<Vec<_>>(), [10, 50]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let half = Outage { down_at_us: Some(10), ..Outage::default() };
        let both = Outage { in_ms: Some(1), for_ms: Some(1), ..at(10, 20) };
        for (outages, word) in [
            (vec![half], "outages[0]: give"),
            (vec![both], "outages[0]: give"),
            (vec![at(4, 9)], "outages[0]: down_at_us 4 is past"),
            (vec![at(10, 10)], "come up after"),
            (vec![at(10, 20), at(20, 30)], "outages[1]: it meets the outage from 10 to 20"),
        ] {
            let refused = plan(&outages, &[], 5).err().unwrap_or_default();
            assert!(refused.contains(word), "{outages:?} gave {refused:?}");
        }
    }

    #[test]
    fn ports_apart_may_overlap() {
        let http = Outage { service: Some(Service::Http), ..at(10, 20) };
        let tcp = Outage { service: Some(Service::Tcp), ..at(15, 25) };
        let both = at(18, 30);
        assert!(plan(&[http.clone(), tcp.clone()], &[], 0).is_ok());
        assert!(plan(&[http, tcp, both], &[], 0).is_err());
    }
}
