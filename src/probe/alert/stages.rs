//! An alert's stages, told from what Prometheus, Alertmanager and the receiver say. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::AlertSpec;
use crate::{
    clock::{ClockId, Stamp},
    journal::{AlertSeen, AlertStage},
    probe::Outcome,
};

/// An alert as Alertmanager's API v2 gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AmAlert {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) fingerprint: String,
    #[serde(default)]
    pub(super) starts_at: String,
    pub(super) status: AmStatus,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AmStatus {
    /// `active`, `suppressed` or `unprocessed`.
    pub(super) state: String,
    #[serde(default)]
    pub(super) silenced_by: Vec<String>,
    #[serde(default)]
    pub(super) inhibited_by: Vec<String>,
}

impl AmAlert {
    fn is_suppressed(&self) -> bool {
        self.status.state == "suppressed" || !self.status.silenced_by.is_empty() || !self.status.inhibited_by.is_empty()
    }

    fn why(&self) -> String {
        match (self.status.silenced_by.as_slice(), self.status.inhibited_by.as_slice()) {
            ([], []) => self.status.state.clone(),
            ([], by) => format!("inhibited by {}", by.join(", ")),
            (by, _) => format!("silenced by {}", by.join(", ")),
        }
    }
}

/// `GET /api/v1/alerts` of Prometheus.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PromAlerts {
    pub(super) data: PromData,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PromData {
    pub(super) alerts: Vec<PromAlert>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PromAlert {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub(super) state: String,
    #[serde(default)]
    pub(super) active_at: String,
}

/// `GET /api/v1/rules` of Prometheus.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rules {
    data: RuleGroups,
}

#[derive(Debug, Clone, Deserialize)]
struct RuleGroups {
    groups: Vec<RuleGroup>,
}

#[derive(Debug, Clone, Deserialize)]
struct RuleGroup {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: String,
    /// `ok`, `err` or `unknown`.
    #[serde(default)]
    health: String,
    #[serde(default)]
    last_error: String,
}

impl Rules {
    /// Why a rule of this name cannot be evaluated, if there is one that cannot.
    pub(super) fn broken(&self, name: &str) -> Option<String> {
        let mut rules = self.data.groups.iter().flat_map(|group| &group.rules);
        let broken = rules.find(|rule| rule.name == name && rule.health == "err")?;
        Some(format!("Prometheus cannot evaluate the rule of {name}: {}", broken.last_error))
    }
}

/// A notification as the receiver gives it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Received {
    pub(super) received_us: i64,
    pub(super) received_mono_us: i64,
    pub(super) id: u64,
    #[serde(default)]
    pub(super) alerts: Vec<ReceivedAlert>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceivedAlert {
    /// `firing` or `resolved`.
    pub(super) status: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) starts_at: String,
    #[serde(default)]
    pub(super) fingerprint: String,
}

impl Received {
    /// With its arrival as a stamp of the receiver's clock.
    pub(super) fn at(self, clock: &ClockId) -> Notification {
        let at = Stamp { clock: clock.clone(), mono_us: self.received_mono_us, wall_us: self.received_us };
        Notification { at, id: self.id, alerts: self.alerts }
    }
}

/// A notification that arrived.
#[derive(Debug, Clone)]
pub(super) struct Notification {
    at: Stamp,
    id: u64,
    alerts: Vec<ReceivedAlert>,
}

/// What Alertmanager's alerts mean as a sample.
pub(super) fn judge(alerts: &[AmAlert]) -> Outcome {
    let suppressed = alerts.iter().filter(|alert| alert.is_suppressed()).count();
    match (alerts.first(), suppressed) {
        (None, _) => Outcome::good("not firing"),
        (Some(first), 0) => Outcome::bad(format!("firing since {}", first.starts_at)),
        (Some(first), _) => Outcome::bad(format!("firing, and {suppressed} of {} suppressed: {}", alerts.len(), first.why())),
    }
}

/// What is known of an alert so far.
#[derive(Debug)]
pub(super) struct Stages {
    probe: String,
    name: String,
    labels: BTreeMap<String, String>,
    heartbeat: Option<String>,
    /// By fingerprint: the stage at Alertmanager.
    known: BTreeMap<String, AlertStage>,
    /// The send of the last answer taken in, and so the earliest instant for what the next one shows.
    asked: Option<Stamp>,
    absent_told: bool,
    fired: BTreeSet<String>,
    prometheus_asked: Option<Stamp>,
    told: BTreeSet<(String, String, String)>,
}

impl Stages {
    pub(super) fn new(probe: &str, spec: &AlertSpec) -> Self {
        Self {
            probe: probe.to_owned(),
            name: spec.name.clone(),
            labels: spec.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            heartbeat: spec.heartbeat.clone(),
            known: BTreeMap::new(),
            asked: None,
            absent_told: false,
            fired: BTreeSet::new(),
            prometheus_asked: None,
            told: BTreeSet::new(),
        }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get("alertname") == Some(&self.name) && self.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
    }

    fn seen(
        &self,
        stage: AlertStage,
        fingerprint: &str,
        span: (&Stamp, &Stamp),
        labels: &BTreeMap<String, String>,
        detail: String,
    ) -> AlertSeen {
        let (after, before) = (span.0.clone(), span.1.clone());
        AlertSeen { probe: self.probe.clone(), stage, fingerprint: fingerprint.to_owned(), after, before, labels: labels.clone(), detail }
    }

    /// Takes in what Alertmanager said between `send` and `complete`. Answers that were overtaken are left out.
    pub(super) fn alertmanager(&mut self, alerts: &[AmAlert], send: &Stamp, complete: &Stamp) -> Vec<AlertSeen> {
        if self.asked.as_ref().is_some_and(|asked| asked.mono_us > send.mono_us) {
            return Vec::new();
        }
        // What is there at the first look may have been there long before: it was not seen to come.
        let (after, first) = match self.asked.replace(send.clone()) {
            Some(before) => (before, ""),
            None => (send.clone(), ", already so at the first look"),
        };
        let mut seen = Vec::new();
        let mut there = BTreeMap::new();
        for alert in alerts.iter().filter(|alert| self.matches(&alert.labels)) {
            let stage = if alert.is_suppressed() { AlertStage::Suppressed } else { AlertStage::Notified };
            if self.known.get(&alert.fingerprint) != Some(&stage) {
                let detail = format!("{} since {}{first}", alert.why(), alert.starts_at);
                seen.push(self.seen(stage, &alert.fingerprint, (&after, complete), &alert.labels, detail));
            }
            there.insert(alert.fingerprint.clone(), stage);
        }
        if there.is_empty() && !self.absent_told {
            // It was so while the answer was made: between the two.
            seen.push(self.seen(
                AlertStage::Absent,
                "",
                (send, complete),
                &BTreeMap::new(),
                "neither firing nor silenced nor inhibited".to_owned(),
            ));
        }
        self.absent_told = there.is_empty();
        self.known = there;
        seen
    }

    /// Takes in what Prometheus said.
    pub(super) fn prometheus(&mut self, alerts: &PromAlerts, send: &Stamp, complete: &Stamp) -> Vec<AlertSeen> {
        let after = self.prometheus_asked.replace(send.clone()).unwrap_or_else(|| send.clone());
        let mut seen = Vec::new();
        let mut firing = BTreeSet::new();
        for alert in alerts.data.alerts.iter().filter(|alert| alert.state == "firing" && self.matches(&alert.labels)) {
            let key = format!("{:?} {}", alert.labels, alert.active_at);
            if !self.fired.contains(&key) {
                let detail = format!("condition active since {} by Prometheus' clock", alert.active_at);
                seen.push(self.seen(AlertStage::Firing, "", (&after, complete), &alert.labels, detail));
            }
            firing.insert(key);
        }
        self.fired = firing;
        seen
    }

    /// Takes in a notification: each alert's arrival and end once, every heartbeat.
    pub(super) fn received(&mut self, notification: &Notification) -> Vec<AlertSeen> {
        let mut seen = Vec::new();
        let (at, detail) = (&notification.at, format!("notification {}", notification.id));
        for alert in &notification.alerts {
            let firing = alert.status == "firing";
            if firing && alert.labels.get("alertname") == self.heartbeat.as_ref() && self.heartbeat.is_some() {
                seen.push(self.seen(AlertStage::Heartbeat, &alert.fingerprint, (at, at), &alert.labels, detail.clone()));
            }
            let key = (alert.fingerprint.clone(), alert.starts_at.clone(), alert.status.clone());
            if self.matches(&alert.labels) && self.told.insert(key) {
                let stage = if firing { AlertStage::Received } else { AlertStage::Resolved };
                seen.push(self.seen(stage, &alert.fingerprint, (at, at), &alert.labels, detail.clone()));
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use serde_json::json;

    use super::*;
    use crate::scenario::types::ProbeState;

    fn spec() -> AlertSpec {
        AlertSpec {
            name: "Down".to_owned(),
            labels: IndexMap::from([("team".to_owned(), "db".to_owned())]),
            heartbeat: Some("Heartbeat".to_owned()),
            alertmanager: "http://a".to_owned(),
            prometheus: None,
            receiver: None,
        }
    }

    fn at(us: i64) -> Stamp {
        Stamp { clock: ClockId("c".into()), mono_us: us, wall_us: us }
    }

    fn am(fingerprint: &str, silenced: bool) -> AmAlert {
        let silenced: &[&str] = if silenced { &["s1"] } else { &[] };
        serde_json::from_value(json!({
            "labels": {"alertname": "Down", "team": "db"}, "fingerprint": fingerprint, "startsAt": "2026-01-01T00:00:00Z",
            "status": {"state": if silenced.is_empty() { "active" } else { "suppressed" }, "silencedBy": silenced, "inhibitedBy": []},
        }))
        .unwrap()
    }

    fn shown(seen: &[AlertSeen]) -> Vec<(AlertStage, i64, i64)> {
        seen.iter().map(|s| (s.stage, s.after.mono_us, s.before.mono_us)).collect()
    }

    #[test]
    fn stages_at_alertmanager_lie_between_two_looks() {
        let mut stages = Stages::new("paged", &spec());
        assert_eq!(shown(&stages.alertmanager(&[], &at(0), &at(10))), [(AlertStage::Absent, 0, 10)]);
        assert!(stages.alertmanager(&[], &at(100), &at(110)).is_empty());
        assert_eq!(shown(&stages.alertmanager(&[am("f", false)], &at(200), &at(210))), [(AlertStage::Notified, 100, 210)]);
        assert!(stages.alertmanager(&[am("f", false)], &at(300), &at(310)).is_empty());
        assert_eq!(shown(&stages.alertmanager(&[am("f", true)], &at(400), &at(410))), [(AlertStage::Suppressed, 300, 410)]);
        // Overtaken by the one before.
        assert!(stages.alertmanager(&[], &at(350), &at(420)).is_empty());
        assert_eq!(shown(&stages.alertmanager(&[], &at(500), &at(510))), [(AlertStage::Absent, 500, 510)]);
    }

    #[test]
    fn what_is_there_at_the_first_look_was_not_absent() {
        let mut stages = Stages::new("paged", &spec());
        let seen = stages.alertmanager(&[am("f", false)], &at(0), &at(10));
        assert_eq!(shown(&seen), [(AlertStage::Notified, 0, 10)]);
        assert!(seen[0].detail.contains("already so"));
    }

    #[test]
    fn other_alerts_are_not_ours() {
        let mut other = am("f", false);
        other.labels.insert("team".to_owned(), "web".to_owned());
        let mut stages = Stages::new("paged", &spec());
        assert_eq!(shown(&stages.alertmanager(&[other], &at(0), &at(10))), [(AlertStage::Absent, 0, 10)]);
    }

    #[test]
    fn firing_is_bad_and_a_silence_does_not_make_it_good() {
        assert_eq!(judge(&[]).state, ProbeState::Good);
        assert_eq!(judge(&[am("f", false)]).state, ProbeState::Bad);
        let silenced = judge(&[am("f", true)]);
        assert_eq!((silenced.state, silenced.detail.as_str()), (ProbeState::Bad, "firing, and 1 of 1 suppressed: silenced by s1"));
    }

    #[test]
    fn prometheus_firing_lies_between_two_looks_and_pending_is_not_firing() {
        let alerts = |state: &str| -> PromAlerts {
            let alert = json!({"labels": {"alertname": "Down", "team": "db"}, "state": state, "activeAt": "t"});
            serde_json::from_value(json!({"status": "success", "data": {"alerts": [alert]}})).unwrap()
        };
        let mut stages = Stages::new("paged", &spec());
        assert!(stages.prometheus(&alerts("pending"), &at(0), &at(10)).is_empty());
        assert_eq!(shown(&stages.prometheus(&alerts("firing"), &at(100), &at(110))), [(AlertStage::Firing, 0, 110)]);
        assert!(stages.prometheus(&alerts("firing"), &at(200), &at(210)).is_empty());
    }

    #[test]
    fn a_rule_that_cannot_be_evaluated_is_told_and_others_are_not_ours() {
        let rules = |health: &str| -> Rules {
            let rules = json!([{"name": "Other", "health": "err", "lastError": "x"}, {"name": "Down", "health": health, "lastError": "no such function"}]);
            serde_json::from_value(json!({"status": "success", "data": {"groups": [{"name": "g", "rules": rules}]}})).unwrap()
        };
        assert_eq!(rules("ok").broken("Down"), None);
        assert_eq!(rules("unknown").broken("Down"), None);
        assert_eq!(rules("err").broken("Down").as_deref(), Some("Prometheus cannot evaluate the rule of Down: no such function"));
        assert_eq!(rules("err").broken("Gone"), None);
    }

    #[test]
    fn arrivals_are_told_once_and_heartbeats_every_time() {
        let notification = |id: u64, alerts: serde_json::Value| {
            let received: Received =
                serde_json::from_value(json!({"received_us": 1, "received_mono_us": id, "id": id, "alerts": alerts})).unwrap();
            received.at(&ClockId("receiver".into()))
        };
        let alert = |name: &str, status: &str| json!({"status": status, "labels": {"alertname": name, "team": "db"}, "startsAt": "t", "fingerprint": name});
        let mut stages = Stages::new("paged", &spec());
        let mut take = |id, alerts| shown(&stages.received(&notification(id, alerts)));
        assert_eq!(take(5, json!([alert("Heartbeat", "firing")])), [(AlertStage::Heartbeat, 5, 5)]);
        assert_eq!(
            take(6, json!([alert("Heartbeat", "firing"), alert("Down", "firing"), alert("Other", "firing")])),
            [(AlertStage::Heartbeat, 6, 6), (AlertStage::Received, 6, 6)]
        );
        assert!(take(7, json!([alert("Down", "firing")])).is_empty());
        assert_eq!(take(8, json!([alert("Down", "resolved")])), [(AlertStage::Resolved, 8, 8)]);
    }
}
