//! Rules: groups of them, evaluated one after another, and the states that alerts go through. Pure: times are handed in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::label::{self, Labels, NAME, micros, rfc3339},
    eval,
    parse::{Expr, parse},
    store::{Store, Writer, written},
    template::expand,
};

/// How long an alert that has ended is still told of (`resolvedRetention`).
const RESOLVED_KEPT_US: i64 = 15 * 60 * 1_000_000;

/// A file of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    groups: Vec<GroupSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupSpec {
    name: String,
    interval: Option<String>,
    #[serde(default)]
    rules: Vec<RuleSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSpec {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    r#for: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An alert's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Its condition no longer holds.
    Inactive,
    /// Its condition holds, but not yet for long enough.
    Pending,
    Firing,
}

impl State {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Firing => "firing",
        }
    }
}

/// An alert.
#[derive(Debug, Clone)]
pub(super) struct Active {
    labels: Labels,
    annotations: Labels,
    pub(super) state: State,
    value: f64,
    active_us: i64,
    fired_us: i64,
    resolved_us: Option<i64>,
    sent_us: Option<i64>,
}

/// An alert on its way to Alertmanager.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sent {
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) starts_us: i64,
    pub(super) ends_us: i64,
}

#[derive(Debug)]
struct Rule {
    /// An alert's or a new series' name.
    name: String,
    records: bool,
    text: String,
    /// Or why it is not rehearsable.
    expr: Result<Expr, String>,
    hold_us: i64,
    labels: Labels,
    annotations: Labels,
    active: BTreeMap<Labels, Active>,
    error: Option<String>,
    evaluated_us: Option<i64>,
    writer: Writer,
}

/// A group of rules.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    file: String,
    pub(super) interval_us: i64,
    rules: Vec<Rule>,
    evaluated_us: Option<i64>,
}

/// Reads a file of rules. An expression that is not rehearsable is kept as a rule that cannot be evaluated.
///
/// # Errors
/// Prometheus would refuse the file, or does not start with it in a sandbox.
pub(super) fn read(file: &str, content: &str, interval_us: i64) -> Result<Vec<Group>, String> {
    let wrong = |why: String| format!("{file}: {why}");
    let parsed: File = serde_saphyr::from_str(content).map_err(|error| wrong(format!("not rehearsable: {error}")))?;
    let group = |spec: GroupSpec| {
        let interval_us = spec.interval.as_deref().map(label::duration).transpose()?.map_or(interval_us, micros);
        if interval_us == 0 {
            return Err(format!("group {} has an interval of 0", spec.name));
        }
        let rules = spec.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Group { name: spec.name, file: file.to_owned(), interval_us, rules, evaluated_us: None })
    };
    parsed.groups.into_iter().map(group).collect::<Result<_, String>>().map_err(wrong)
}

fn rule(spec: RuleSpec) -> Result<Rule, String> {
    let (name, records) = match (spec.alert, spec.record) {
        (Some(alert), None) => (alert, false),
        (None, Some(record)) => (record, true),
        _ => return Err(format!("a rule has either `alert` or `record`: {}", spec.expr)),
    };
    let expr = parse(&spec.expr);
    if let Err(why) = &expr
        && !why.starts_with("not rehearsable")
    {
        return Err(format!("{name}: could not parse expression: {why}"));
    }
    let hold_us = spec.r#for.as_deref().map(label::duration).transpose()?.map_or(0, micros);
    let RuleSpec { labels, annotations, expr: text, .. } = spec;
    let error = expr.as_ref().err().cloned();
    let active = BTreeMap::new();
    Ok(Rule { name, records, text, expr, hold_us, labels, annotations, active, error, evaluated_us: None, writer: Writer::default() })
}

impl Group {
    /// What tells it from others.
    pub(super) fn key(&self) -> String {
        format!("{};{}", self.file, self.name)
    }

    /// Evaluates its rules over what was known at `data_us`, in order. Alerts to be sent now, where one that goes on is sent
    /// again after `resend_us`.
    pub(super) fn evaluate(&mut self, store: &mut Store, now_us: i64, data_us: i64, resend_us: i64) -> Vec<Sent> {
        self.evaluated_us = Some(now_us);
        let interval = self.interval_us;
        let mut sent = Vec::new();
        for rule in &mut self.rules {
            rule.evaluated_us = Some(now_us);
            let found = rule.expr.as_ref().map_err(Clone::clone).and_then(|expr| eval::vector(store, expr, data_us / 1000));
            let done =
                found.and_then(|found| if rule.records { rule.record(store, found, now_us) } else { rule.follow(store, found, now_us) });
            // What cannot be evaluated leaves alerts as they were.
            rule.error = done.err();
            if !rule.records {
                sent.extend(rule.send(now_us, resend_us, interval));
            }
        }
        sent
    }

    /// Goes on with the alerts of the group that it replaces, as far as their rules are the same.
    pub(super) fn adopt(&mut self, old: &mut Self) {
        for rule in &mut self.rules {
            let same = |other: &&mut Rule| {
                (&rule.name, &rule.text, rule.hold_us, &rule.labels) == (&other.name, &other.text, other.hold_us, &other.labels)
            };
            if let Some(other) = old.rules.iter_mut().find(same) {
                rule.active = std::mem::take(&mut other.active);
                rule.writer = std::mem::take(&mut other.writer);
            }
        }
    }

    /// Ends the series that its rules have written: the group is gone.
    pub(super) fn end(&mut self, store: &mut Store, at_ms: i64) {
        self.rules.iter_mut().for_each(|rule| rule.writer.end(store, at_ms));
    }

    /// The alerts that are pending or firing, as the API shows them.
    pub(super) fn alerts(&self) -> Vec<Value> {
        self.rules.iter().flat_map(Rule::alerts).collect()
    }

    /// The group as the API shows it; with alerts' rules or the others left out if asked for.
    pub(super) fn shown(&self, only: Option<&str>, names: &[&str]) -> Value {
        let kind = |rule: &Rule| if rule.records { "recording" } else { "alerting" };
        let wanted = |rule: &&Rule| {
            let fits = match only {
                Some("alert") => !rule.records,
                Some("record") => rule.records,
                _ => true,
            };
            fits && (names.is_empty() || names.contains(&rule.name.as_str()))
        };
        let rules = self.rules.iter().filter(wanted).map(|rule| {
            let health = match (&rule.error, rule.evaluated_us) {
                (Some(_), _) => "err",
                (None, None) => "unknown",
                (None, Some(_)) => "ok",
            };
            let mut shown = json!({
                "name": rule.name, "query": rule.text, "labels": rule.labels, "health": health, "type": kind(rule),
                "evaluationTime": 0.001, "lastEvaluation": rule.evaluated_us.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), rfc3339),
            });
            if let Some(error) = &rule.error {
                shown["lastError"] = json!(error);
            }
            if !rule.records {
                let state = rule.active.values().map(|active| active.state).max().unwrap_or(State::Inactive);
                shown["state"] = json!(state.name());
                shown["duration"] = json!(rule.hold_us as f64 / 1e6);
                shown["annotations"] = json!(rule.annotations);
                shown["alerts"] = json!(rule.alerts());
            }
            shown
        });
        json!({
            "name": self.name, "file": self.file, "interval": self.interval_us as f64 / 1e6, "limit": 0, "rules": rules.collect::<Vec<_>>(),
            "evaluationTime": 0.001, "lastEvaluation": self.evaluated_us.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), rfc3339),
        })
    }
}

impl Rule {
    fn alerts(&self) -> Vec<Value> {
        let shown = |active: &Active| {
            json!({
                "labels": active.labels, "annotations": active.annotations, "state": active.state.name(),
                "activeAt": rfc3339(active.active_us), "value": written(active.value),
            })
        };
        self.active.values().filter(|active| active.state != State::Inactive).map(shown).collect()
    }

    fn record(&mut self, store: &mut Store, found: eval::Vector, now_us: i64) -> Result<(), String> {
        let named: Vec<(Labels, f64)> =
            found.into_iter().map(|(labels, value)| (self.with(labels, NAME, &self.name, value), value)).collect();
        self.writer.write(store, now_us / 1000, named.iter().map(|(labels, value)| (labels, *value)))
    }

    /// The labels of a result with those of the rule.
    fn with(&self, found: Labels, key: &str, name: &str, value: f64) -> Labels {
        let mut labels = found.clone();
        labels.remove(NAME);
        for (own, template) in &self.labels {
            labels.insert(own.clone(), expand(template, &found, value));
        }
        labels.insert(key.to_owned(), name.to_owned());
        labels.retain(|_, value| !value.is_empty());
        labels
    }

    /// The states that follow from what the expression gave (`AlertingRule.Eval`).
    fn follow(&mut self, store: &mut Store, found: eval::Vector, now_us: i64) -> Result<(), String> {
        let mut holds = BTreeMap::new();
        for (result, value) in found {
            let labels = self.with(result.clone(), "alertname", &self.name, value);
            let annotations = self.annotations.iter().map(|(name, text)| (name.clone(), expand(text, &result, value))).collect();
            if holds.insert(labels, (annotations, value)).is_some() {
                return Err("vector contains metrics with the same labelset after applying alert labels".to_owned());
            }
        }
        for (labels, (annotations, value)) in &holds {
            match self.active.get_mut(labels).filter(|active| active.state != State::Inactive) {
                Some(active) => (active.value, active.annotations) = (*value, Labels::clone(annotations)),
                None => {
                    let (labels, annotations) = (labels.clone(), annotations.clone());
                    let began = Active {
                        labels: labels.clone(),
                        annotations,
                        state: State::Pending,
                        value: *value,
                        active_us: now_us,
                        fired_us: 0,
                        resolved_us: None,
                        sent_us: None,
                    };
                    self.active.insert(labels, began);
                }
            }
        }
        let hold_us = self.hold_us;
        self.active.retain(|labels, active| {
            if holds.contains_key(labels) {
                if active.state == State::Pending && now_us - active.active_us >= hold_us {
                    (active.state, active.fired_us) = (State::Firing, now_us);
                }
                return true;
            }
            let forgotten = active.resolved_us.is_some_and(|at| now_us - at > RESOLVED_KEPT_US);
            if active.state == State::Pending || forgotten {
                return false;
            }
            if active.state != State::Inactive {
                (active.state, active.resolved_us) = (State::Inactive, Some(now_us));
            }
            true
        });
        let series: Vec<Labels> = self.active.values().filter(|active| active.state != State::Inactive).map(series).collect();
        self.writer.write(store, now_us / 1000, series.iter().map(|labels| (labels, 1.0)))
    }

    /// Those that Alertmanager is to hear of now (`needsSending`). An alert holds until three times the time to its next telling
    /// have passed without one.
    fn send(&mut self, now_us: i64, resend_us: i64, interval_us: i64) -> Vec<Sent> {
        let until = now_us + 4 * resend_us.max(interval_us);
        let mut sent = Vec::new();
        for active in self.active.values_mut().filter(|active| active.state != State::Pending) {
            let ended = active.resolved_us.is_some_and(|at| active.sent_us.is_none_or(|sent| at > sent));
            let again = active.sent_us.is_none_or(|sent| sent + resend_us < now_us);
            if ended || again {
                active.sent_us = Some(now_us);
                let Active { labels, annotations, .. } = active.clone();
                sent.push(Sent { labels, annotations, starts_us: active.fired_us, ends_us: active.resolved_us.unwrap_or(until) });
            }
        }
        sent
    }
}

/// The series that shows an alert.
fn series(active: &Active) -> Labels {
    let mut labels = active.labels.clone();
    labels.insert(NAME.to_owned(), "ALERTS".to_owned());
    labels.insert("alertstate".to_owned(), active.state.name().to_owned());
    labels
}
