//! Alerts, their groups, and when a group is told: Alertmanager's dispatcher and its pipeline as a state machine. Pure: times
//! are handed in, in microseconds since the Unix epoch.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::label::{Labels, Matcher, fingerprint},
    config::{Config, GroupBy, Options, Route, Webhook},
};

/// The most alerts and silences that are kept.
const MOST: usize = 20_000;
/// A flush has at least this long until it is given up (`dispatch.MinTimeout`).
const LEAST_LIMIT_US: i64 = 10_000_000;
/// How long alerts that have ended are kept (`--alerts.gc-interval`).
const ENDED_KEPT_US: i64 = 30 * 60 * 1_000_000;

/// An alert.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alert {
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) starts_us: i64,
    pub(super) ends_us: i64,
    pub(super) updated_us: i64,
    pub(super) source: String,
}

impl Alert {
    /// Whether it has ended by then.
    pub(super) const fn resolved(&self, now_us: i64) -> bool {
        self.ends_us <= now_us
    }
}

/// Alerts that match are not told of for a time.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    pub(super) id: String,
    pub(super) matchers: Vec<Matcher>,
    pub(super) starts_us: i64,
    pub(super) ends_us: i64,
    pub(super) updated_us: i64,
    pub(super) author: String,
    pub(super) comment: String,
}

impl Silence {
    /// `pending`, `active` or `expired`.
    pub(super) const fn state(&self, now_us: i64) -> &'static str {
        match (now_us < self.starts_us, now_us < self.ends_us) {
            (true, _) => "pending",
            (false, true) => "active",
            (false, false) => "expired",
        }
    }
}

/// Which group: its route's place and its labels.
pub(super) type GroupKey = (String, Labels);

#[derive(Debug)]
struct Group {
    options: Options,
    /// By fingerprint, as they were last heard of.
    alerts: BTreeMap<String, Alert>,
    due_us: i64,
    flushed: bool,
    /// Notifications of it that are under way, and when all were told.
    busy: usize,
    failed: bool,
    /// What the flush under way tells.
    telling: Vec<(String, Alert)>,
}

/// What was told last to a place of a group.
#[derive(Debug, Clone)]
struct Told {
    firing: BTreeSet<String>,
    resolved: BTreeSet<String>,
    at_us: i64,
}

/// A notification to be delivered.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) group: GroupKey,
    pub(super) webhook: Webhook,
    pub(super) receiver: String,
    /// Which of the receiver's places.
    index: usize,
    /// With whether they have ended.
    pub(super) alerts: Vec<(Alert, bool)>,
    firing: BTreeSet<String>,
    resolved: BTreeSet<String>,
    /// When it is given up.
    pub(super) until_us: i64,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) config: Config,
    alerts: BTreeMap<String, Alert>,
    pub(super) silences: BTreeMap<String, Silence>,
    groups: BTreeMap<GroupKey, Group>,
    told: BTreeMap<(GroupKey, usize), Told>,
    made: u64,
}

impl Dispatcher {
    pub(super) fn new(config: Config) -> Self {
        let (alerts, silences) = (BTreeMap::new(), BTreeMap::new());
        Self { config, alerts, silences, groups: BTreeMap::new(), told: BTreeMap::new(), made: 0 }
    }

    /// Takes an alert in. One that is known and has not ended goes on since it began.
    pub(super) fn put(&mut self, mut alert: Alert, now_us: i64) {
        let id = fingerprint(&alert.labels);
        self.alerts.retain(|_, alert| now_us - alert.ends_us < ENDED_KEPT_US);
        if !self.alerts.contains_key(&id) && self.alerts.len() >= MOST {
            return;
        }
        if let Some(old) = self.alerts.get(&id) {
            let overlap = alert.starts_us < old.ends_us && alert.ends_us > old.starts_us;
            if overlap {
                alert.starts_us = alert.starts_us.min(old.starts_us);
            }
        }
        self.alerts.insert(id.clone(), alert.clone());
        let routes: Vec<Route> = self.config.route.of(&alert.labels).into_iter().cloned().collect();
        for route in routes {
            let labels = match &route.options.by {
                GroupBy::All => alert.labels.clone(),
                GroupBy::Labels(by) => alert.labels.iter().filter(|(k, _)| by.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect(),
            };
            let key = (route.key.clone(), labels);
            let known = self.groups.contains_key(&key);
            // An alert that has ended opens no group.
            if !known && alert.resolved(now_us) {
                continue;
            }
            let options = route.options.clone();
            let group = self.groups.entry(key).or_insert_with(|| Group {
                due_us: now_us + options.wait_us,
                options,
                alerts: BTreeMap::new(),
                flushed: false,
                busy: 0,
                failed: false,
                telling: Vec::new(),
            });
            group.alerts.insert(id.clone(), alert.clone());
            // One that began long enough ago need not wait for others.
            if !group.flushed && alert.starts_us + group.options.wait_us < now_us {
                group.due_us = now_us;
            }
        }
    }

    /// Takes over another configuration: alerts are grouped anew, and what was told is known still.
    pub(super) fn reload(&mut self, config: Config, now_us: i64) {
        self.config = config;
        self.groups.clear();
        for alert in self.alerts.clone().into_values().filter(|alert| !alert.resolved(now_us)) {
            self.put(alert, now_us);
        }
    }

    /// When [`Self::due`] has something to do next.
    pub(super) fn next_us(&self) -> Option<i64> {
        self.groups.values().filter(|group| group.busy == 0).map(|group| group.due_us).min()
    }

    /// The notifications that are to be delivered now. Each must be reported by [`Self::done`].
    pub(super) fn due(&mut self, now_us: i64) -> Vec<Job> {
        let due: Vec<GroupKey> =
            self.groups.iter().filter(|(_, g)| g.busy == 0 && g.due_us <= now_us).map(|(key, _)| key.clone()).collect();
        let mut jobs = Vec::new();
        for key in due {
            let Some(group) = self.groups.get_mut(&key) else { continue };
            if group.alerts.is_empty() {
                self.groups.remove(&key);
                continue;
            }
            group.due_us += group.options.interval_us;
            if group.due_us <= now_us {
                group.due_us = now_us + group.options.interval_us;
            }
            group.flushed = true;
            group.telling = group.alerts.iter().map(|(id, alert)| (id.clone(), alert.clone())).collect();
            let (options, telling) = (group.options.clone(), group.telling.clone());
            let audible: Vec<_> = telling.into_iter().filter(|(_, alert)| self.muted(alert, now_us).is_none()).collect();
            let webhooks = self.config.receivers.get(&options.receiver).cloned().unwrap_or_default();
            let mut begun = 0;
            // Where all are kept back nothing is noted either: it is as if nobody had looked.
            let webhooks = if audible.is_empty() { Vec::new() } else { webhooks };
            for (index, webhook) in webhooks.into_iter().enumerate() {
                let by = |resolved: bool| audible.iter().filter(move |(_, a)| a.resolved(now_us) == resolved).map(|(id, _)| id.clone());
                let (firing, resolved): (BTreeSet<_>, BTreeSet<_>) = (by(false).collect(), by(true).collect());
                let place = (key.clone(), index);
                if !self.wants(&place, &webhook, (&firing, &resolved), options.repeat_us, now_us) {
                    continue;
                }
                let shown = audible.iter().map(|(_, alert)| (alert.clone(), alert.resolved(now_us)));
                let alerts: Vec<_> = shown.filter(|(_, ended)| webhook.send_resolved || !ended).collect();
                if alerts.is_empty() {
                    // Nothing to be said, and that is noted.
                    self.told.insert(place, Told { firing, resolved, at_us: now_us });
                    continue;
                }
                let until_us = now_us + options.interval_us.max(LEAST_LIMIT_US);
                let receiver = options.receiver.clone();
                jobs.push(Job { group: key.clone(), webhook, receiver, index, alerts, firing, resolved, until_us });
                begun += 1;
            }
            if let Some(group) = self.groups.get_mut(&key) {
                (group.busy, group.failed) = (begun, false);
            }
            if begun == 0 {
                self.flushed(&key, now_us);
            }
        }
        jobs
    }

    /// Whether a place is to be told (`DedupStage.needsUpdate`).
    fn wants(
        &self,
        place: &(GroupKey, usize),
        webhook: &Webhook,
        (firing, resolved): (&BTreeSet<String>, &BTreeSet<String>),
        repeat_us: i64,
        now_us: i64,
    ) -> bool {
        // What was noted is forgotten after twice the time after which it is said again.
        let Some(told) = self.told.get(place).filter(|told| now_us - told.at_us < 2 * repeat_us) else { return !firing.is_empty() };
        if !firing.is_subset(&told.firing) {
            return true;
        }
        if firing.is_empty() {
            return !told.firing.is_empty();
        }
        if webhook.send_resolved && !resolved.is_subset(&told.resolved) {
            return true;
        }
        told.at_us < now_us - repeat_us
    }

    /// A notification was delivered, or was given up.
    pub(super) fn done(&mut self, job: Job, delivered: bool, now_us: i64) {
        let Job { group: key, index, firing, resolved, .. } = job;
        if delivered {
            self.told.insert((key.clone(), index), Told { firing, resolved, at_us: now_us });
        }
        let Some(group) = self.groups.get_mut(&key) else { return };
        group.busy = group.busy.saturating_sub(1);
        group.failed |= !delivered;
        if group.busy == 0 {
            self.flushed(&key, now_us);
        }
    }

    /// A flush is over: what was told to have ended, and has not changed since, leaves the group.
    fn flushed(&mut self, key: &GroupKey, now_us: i64) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let telling = std::mem::take(&mut group.telling);
        if group.failed {
            return;
        }
        for (id, alert) in telling {
            if alert.resolved(now_us) && group.alerts.get(&id) == Some(&alert) {
                group.alerts.remove(&id);
            }
        }
        if group.alerts.is_empty() {
            self.groups.remove(key);
        }
    }

    /// Whether an alert is kept back now: by these silences, by these alerts (fingerprints).
    pub(super) fn muted(&self, alert: &Alert, now_us: i64) -> Option<(Vec<String>, Vec<String>)> {
        let silences = self.silences.values().filter(|silence| silence.state(now_us) == "active");
        let silenced: Vec<String> =
            silences.filter(|s| s.matchers.iter().all(|m| m.matches(&alert.labels))).map(|silence| silence.id.clone()).collect();
        let inhibited = self.inhibited(alert, now_us);
        (!silenced.is_empty() || !inhibited.is_empty()).then_some((silenced, inhibited))
    }

    fn inhibited(&self, alert: &Alert, now_us: i64) -> Vec<String> {
        let all = |matchers: &[Matcher], labels: &Labels| matchers.iter().all(|matcher| matcher.matches(labels));
        let mut by = Vec::new();
        for rule in self.config.inhibit.iter().filter(|rule| all(&rule.target, &alert.labels)) {
            // An alert that is on both sides is not kept back by others that are.
            let both = all(&rule.source, &alert.labels);
            for (id, source) in &self.alerts {
                let same = rule.equal.iter().all(|name| source.labels.get(name) == alert.labels.get(name));
                let counts = !source.resolved(now_us) && all(&rule.source, &source.labels) && same;
                if counts && !(both && all(&rule.target, &source.labels)) {
                    by.push(id.clone());
                }
            }
        }
        by.dedup();
        by
    }

    /// The alerts that go on, by fingerprint.
    pub(super) fn current(&self, now_us: i64) -> impl Iterator<Item = (&String, &Alert)> {
        self.alerts.iter().filter(move |(_, alert)| !alert.resolved(now_us))
    }

    /// Adds a silence or, if it has an id that is known, replaces it; gives its id.
    ///
    /// # Errors
    /// There are too many, or none of that id.
    pub(super) fn silence(&mut self, mut silence: Silence, seed: u64) -> Result<String, String> {
        if silence.id.is_empty() {
            if self.silences.len() >= MOST {
                return Err(format!("there are more than {MOST} silences"));
            }
            self.made += 1;
            silence.id = id(seed, self.made);
        } else if !self.silences.contains_key(&silence.id) {
            return Err(format!("silence {} not found", silence.id));
        }
        let id = silence.id.clone();
        self.silences.insert(id.clone(), silence);
        Ok(id)
    }
}

/// An id in the form of a UUID.
fn id(seed: u64, number: u64) -> String {
    let part = |n: &str| crate::sandbox::control::look::mix(&[&seed.to_string(), "silence", &number.to_string(), n]);
    let (a, b) = (format!("{:016x}", part("a")), format!("{:016x}", part("b")));
    format!("{}-{}-4{}-8{}-{}", &a[..8], &a[8..12], &a[13..16], &b[1..4], &b[4..16])
}
