//! `alertmanager.yml`: what of it is rehearsable. Whatever else is in it keeps the program from starting.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::label::{self, Labels, Matcher, micros};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    global: Global,
    route: RouteSpec,
    receivers: Vec<ReceiverSpec>,
    #[serde(default)]
    inhibit_rules: Vec<InhibitSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Global {
    resolve_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteSpec {
    receiver: Option<String>,
    group_by: Option<Vec<String>>,
    group_wait: Option<String>,
    group_interval: Option<String>,
    repeat_interval: Option<String>,
    #[serde(default)]
    matchers: Vec<String>,
    #[serde(default)]
    r#match: BTreeMap<String, String>,
    #[serde(default)]
    match_re: BTreeMap<String, String>,
    #[serde(default)]
    r#continue: bool,
    #[serde(default)]
    routes: Vec<Self>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiverSpec {
    name: String,
    #[serde(default)]
    webhook_configs: Vec<WebhookSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookSpec {
    url: String,
    send_resolved: Option<bool>,
    #[serde(default)]
    max_alerts: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InhibitSpec {
    #[serde(default)]
    source_matchers: Vec<String>,
    #[serde(default)]
    source_match: BTreeMap<String, String>,
    #[serde(default)]
    source_match_re: BTreeMap<String, String>,
    #[serde(default)]
    target_matchers: Vec<String>,
    #[serde(default)]
    target_match: BTreeMap<String, String>,
    #[serde(default)]
    target_match_re: BTreeMap<String, String>,
    #[serde(default)]
    equal: Vec<String>,
}

/// By what alerts become one notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GroupBy {
    All,
    Labels(Vec<String>),
}

/// How alerts of a route are told. Times in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) receiver: String,
    pub(super) by: GroupBy,
    pub(super) wait_us: i64,
    pub(super) interval_us: i64,
    pub(super) repeat_us: i64,
}

/// A route and those below it.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// Tells it from all others: `{}/{severity="page"}`.
    pub(super) key: String,
    pub(super) options: Options,
    matchers: Vec<Matcher>,
    goes_on: bool,
    routes: Vec<Self>,
}

/// A place that notifications are posted to.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) url: String,
    pub(super) send_resolved: bool,
    /// The most alerts in a notification; 0: all.
    pub(super) most: usize,
}

/// Alerts that silence others while they fire.
#[derive(Debug, Clone)]
pub(super) struct Inhibit {
    pub(super) source: Vec<Matcher>,
    pub(super) target: Vec<Matcher>,
    pub(super) equal: Vec<String>,
}

/// The configuration.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) resolve_us: i64,
    pub(super) route: Route,
    pub(super) receivers: BTreeMap<String, Vec<Webhook>>,
    pub(super) inhibit: Vec<Inhibit>,
}

/// Reads the configuration.
///
/// # Errors
/// It is none, or not rehearsable.
pub(super) fn read(content: &str) -> Result<Config, String> {
    let file: File = serde_saphyr::from_str(content).map_err(|error| format!("not rehearsable: {error}"))?;
    let mut receivers = BTreeMap::new();
    for ReceiverSpec { name, webhook_configs } in file.receivers {
        let webhooks = webhook_configs.into_iter().map(|w| {
            let _: crate::net::Url = w.url.parse()?;
            Ok(Webhook { url: w.url, send_resolved: w.send_resolved.unwrap_or(true), most: w.max_alerts })
        });
        let webhooks = webhooks.collect::<Result<_, String>>()?;
        if receivers.insert(name.clone(), webhooks).is_some() {
            return Err(format!("notification config name {name:?} is not unique"));
        }
    }
    let root = &file.route;
    let Some(receiver) = root.receiver.clone() else { return Err("root route must specify a default receiver".to_owned()) };
    if !(root.matchers.is_empty() && root.r#match.is_empty() && root.match_re.is_empty()) || root.r#continue {
        return Err("root route must not have any matchers, and cannot go on".to_owned());
    }
    let minute = 60_000_000;
    let above =
        Options { receiver, by: GroupBy::Labels(Vec::new()), wait_us: minute / 2, interval_us: 5 * minute, repeat_us: 4 * 60 * minute };
    let route = route(file.route, &above, "")?;
    let mut named = Vec::new();
    route.named(&mut named);
    if let Some(unknown) = named.iter().find(|name| !receivers.contains_key(**name)) {
        return Err(format!("undefined receiver {unknown:?} used in route"));
    }
    let inhibit = file.inhibit_rules.into_iter().map(|spec| {
        Ok(Inhibit {
            source: matchers(&spec.source_matchers, &spec.source_match, &spec.source_match_re)?,
            target: matchers(&spec.target_matchers, &spec.target_match, &spec.target_match_re)?,
            equal: spec.equal,
        })
    });
    let inhibit = inhibit.collect::<Result<_, String>>()?;
    let resolve_us = file.global.resolve_timeout.map(|text| label::duration(&text)).transpose()?.map_or(5 * minute, micros);
    Ok(Config { resolve_us, route, receivers, inhibit })
}

fn matchers(all: &[String], equal: &BTreeMap<String, String>, like: &BTreeMap<String, String>) -> Result<Vec<Matcher>, String> {
    let split = all.iter().flat_map(|text| split(text));
    let mut found = split.map(|text| Matcher::parse(&text)).collect::<Result<Vec<_>, _>>()?;
    for (name, value) in equal {
        found.push(Matcher::new(name, "=", value)?);
    }
    for (name, value) in like {
        found.push(Matcher::new(name, "=~", value)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `{a="b", c="d"}` and `a="b", c="d"` are several matchers.
fn split(text: &str) -> Vec<String> {
    let text = text.trim();
    let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
    let (mut parts, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for c in text.chars() {
        match c {
            ',' if !quoted => {
                parts.push(String::new());
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    if parts.last().is_some_and(|last| last.trim().is_empty()) && parts.len() > 1 {
        parts.pop();
    }
    parts
}

fn route(spec: RouteSpec, above: &Options, path: &str) -> Result<Route, String> {
    let time = |text: &Option<String>, otherwise: i64| text.as_deref().map_or(Ok(otherwise), |text| label::duration(text).map(micros));
    let by = match spec.group_by {
        None => above.by.clone(),
        Some(labels) if labels == ["..."] => GroupBy::All,
        Some(labels) => GroupBy::Labels(labels),
    };
    let options = Options {
        receiver: spec.receiver.unwrap_or_else(|| above.receiver.clone()),
        by,
        wait_us: time(&spec.group_wait, above.wait_us)?,
        interval_us: time(&spec.group_interval, above.interval_us)?,
        repeat_us: time(&spec.repeat_interval, above.repeat_us)?,
    };
    if options.interval_us == 0 || options.repeat_us == 0 {
        return Err("group_interval and repeat_interval cannot be zero".to_owned());
    }
    let matchers = matchers(&spec.matchers, &spec.r#match, &spec.match_re)?;
    let shown: Vec<String> = matchers.iter().map(shown).collect();
    let own = format!("{{{}}}", shown.join(","));
    let key = if path.is_empty() { own } else { format!("{path}/{own}") };
    let routes = spec.routes.into_iter().map(|below| route(below, &options, &key)).collect::<Result<_, _>>()?;
    Ok(Route { key, options, matchers, goes_on: spec.r#continue, routes })
}

/// A matcher as Alertmanager writes it.
fn shown(matcher: &Matcher) -> String {
    let (value, regex, equal) = matcher.shown();
    let operator = match (regex, equal) {
        (false, true) => "=",
        (false, false) => "!=",
        (true, true) => "=~",
        (true, false) => "!~",
    };
    format!("{}{operator}{value:?}", matcher.name)
}

impl Route {
    fn named<'a>(&'a self, into: &mut Vec<&'a str>) {
        into.push(&self.options.receiver);
        self.routes.iter().for_each(|below| below.named(into));
    }

    /// The routes that an alert takes: the deepest that fit; further ones only after one that says `continue`.
    pub(super) fn of(&self, labels: &Labels) -> Vec<&Self> {
        if !self.matchers.iter().all(|matcher| matcher.matches(labels)) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for below in &self.routes {
            let more = below.of(labels);
            let ends = !more.is_empty() && !below.goes_on;
            found.extend(more);
            if ends {
                break;
            }
        }
        if found.is_empty() { vec![self] } else { found }
    }
}
