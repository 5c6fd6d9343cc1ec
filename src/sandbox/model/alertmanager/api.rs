//! API v2, as far as Prometheus, drills and people ask it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        super::program::Env,
        http::{Reply, Request},
        label::{Labels, Matcher, anchored, is_label_name, rfc3339},
    },
    Inner,
    dispatch::{Alert, Dispatcher, Silence},
    load,
};

/// Answers a request.
pub(super) fn answer(env: &Env, inner: &Inner, ask: &Request) -> Reply {
    let now_us = env.now_us();
    let refused = |why: String| Reply::json(400, &json!(why));
    let with = |what: &dyn Fn(&mut Dispatcher) -> Reply| inner.with(what).unwrap_or_else(|| Reply::text(503, "not ready\n"));
    match ask.route() {
        ("GET", "/api/v2/alerts") => with(&|dispatcher| alerts(dispatcher, ask, now_us).unwrap_or_else(refused)),
        ("POST", "/api/v2/alerts") => match posted(ask) {
            Ok(posted) => with(&|dispatcher| take(dispatcher, &posted, now_us).map_or_else(refused, |()| Reply::json(200, &json!({})))),
            Err(why) => refused(why),
        },
        ("GET", "/api/v2/silences") => with(&|dispatcher| {
            let filters = filters(ask);
            let all = dispatcher.silences.values();
            match filters {
                Ok(filters) => {
                    // By what a silence demands, as by the labels of an alert.
                    let labels = |s: &Silence| -> Labels {
                        s.matchers.iter().filter_map(|m| m.exactly().map(|v| (m.name.clone(), v.to_owned()))).collect()
                    };
                    let fit = all.filter(|s| filters.iter().all(|filter| filter.matches(&labels(s))));
                    Reply::json(200, &fit.map(|s| silence(s, now_us)).collect())
                }
                Err(why) => refused(why),
            }
        }),
        ("POST", "/api/v2/silences") => {
            match serde_json::from_slice::<Posted>(&ask.body).map_err(|e| e.to_string()).and_then(|p| p.read(now_us)) {
                Ok(new) => with(&|dispatcher| match dispatcher.silence(new.clone(), env.seed()) {
                    Ok(id) => Reply::json(200, &json!({ "silenceID": id })),
                    Err(why) => Reply::json(404, &json!(why)),
                }),
                Err(why) => refused(why),
            }
        }
        ("GET" | "DELETE", path) if path.starts_with("/api/v2/silence/") => {
            let id = path.trim_start_matches("/api/v2/silence/");
            with(&|dispatcher| match dispatcher.silences.get_mut(id) {
                None => Reply::json(404, &json!(format!("silence {id} not found"))),
                Some(found) if ask.method == "GET" => Reply::json(200, &silence(found, now_us)),
                Some(found) => {
                    found.ends_us = found.ends_us.min(now_us);
                    Reply::json(200, &json!({}))
                }
            })
        }
        ("GET", "/api/v2/receivers") => with(&|dispatcher| {
            let names: Vec<Value> = dispatcher.config.receivers.keys().map(|name| json!({ "name": name })).collect();
            Reply::json(200, &json!(names))
        }),
        ("GET", "/api/v2/status") => Reply::json(
            200,
            &json!({"cluster": {"status": "disabled", "peers": []}, "versionInfo": {"version": "0.25.0", "revision": "sandbox"}}),
        ),
        ("POST" | "PUT", "/-/reload") => match load(env) {
            Ok(config) => with(&|dispatcher| {
                dispatcher.reload(config.clone(), now_us);
                Reply::text(200, "")
            }),
            Err(why) => Reply::text(500, format!("failed to reload config: {why}\n")),
        },
        ("GET", "/-/ready" | "/-/healthy") => with(&|_| Reply::text(200, "OK")),
        ("GET", "/metrics") => with(&|dispatcher| {
            let active = dispatcher.current(now_us).count();
            Reply::text(
                200,
                format!("alertmanager_alerts{{state=\"active\"}} {active}\nalertmanager_silences {}\n", dispatcher.silences.len()),
            )
        }),
        _ => Reply::not_found(ask),
    }
}

/// An alert as it is posted.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedAlert {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    #[serde(default, rename = "generatorURL")]
    source: String,
}

fn posted(ask: &Request) -> Result<Vec<PostedAlert>, String> {
    serde_json::from_slice(&ask.body).map_err(|error| error.to_string())
}

/// A time of the API; Go's zero counts as none.
fn time(text: Option<&String>) -> Result<Option<i64>, String> {
    let Some(text) = text.filter(|text| !text.is_empty() && !text.starts_with("0001-")) else { return Ok(None) };
    text.parse::<jiff::Timestamp>().map(|at| Some(at.as_microsecond())).map_err(|error| format!("`{text}` is no time: {error}"))
}

/// Takes in all that are well-formed; an error if one is not.
fn take(dispatcher: &mut Dispatcher, posted: &[PostedAlert], now_us: i64) -> Result<(), String> {
    let mut wrong = Ok(());
    for alert in posted {
        let read = || {
            let ends = time(alert.ends_at.as_ref())?;
            let starts = time(alert.starts_at.as_ref())?;
            let starts_us = starts.or(ends.map(|ends| ends.min(now_us))).unwrap_or(now_us);
            let ends_us = ends.unwrap_or(now_us + dispatcher.config.resolve_us);
            let labels: Labels = alert.labels.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.clone(), v.clone())).collect();
            if labels.is_empty() || ends_us < starts_us {
                return Err("an alert has no labels, or ends before it starts".to_owned());
            }
            if let Some(name) = labels.keys().find(|name| !is_label_name(name)) {
                return Err(format!("`{name}` is no name of a label"));
            }
            let annotations = alert.annotations.clone();
            Ok(Alert { labels, annotations, starts_us, ends_us, updated_us: now_us, source: alert.source.clone() })
        };
        match read() {
            Ok(alert) => dispatcher.put(alert, now_us),
            Err(why) => wrong = Err(why),
        }
    }
    wrong
}

fn filters(ask: &Request) -> Result<Vec<Matcher>, String> {
    ask.values("filter").map(Matcher::parse).collect()
}

fn alerts(dispatcher: &Dispatcher, ask: &Request, now_us: i64) -> Result<Reply, String> {
    let filters = filters(ask)?;
    let wants = |name: &str| ask.value(name).is_none_or(|value| value == "true");
    let receiver = ask.value("receiver").map(anchored).transpose()?;
    let mut found = Vec::new();
    for (id, alert) in dispatcher.current(now_us).filter(|(_, alert)| filters.iter().all(|filter| filter.matches(&alert.labels))) {
        let (silenced, inhibited) = dispatcher.muted(alert, now_us).unwrap_or_default();
        let muted = !silenced.is_empty() || !inhibited.is_empty();
        let left_out =
            (!silenced.is_empty() && !wants("silenced")) || (!inhibited.is_empty() && !wants("inhibited")) || (!muted && !wants("active"));
        let mut receivers: Vec<&str> =
            dispatcher.config.route.of(&alert.labels).iter().map(|route| route.options.receiver.as_str()).collect();
        receivers.dedup();
        if left_out || receiver.as_ref().is_some_and(|wanted| !receivers.iter().any(|name| wanted.is_match(name))) {
            continue;
        }
        found.push(json!({
            "labels": alert.labels, "annotations": alert.annotations, "fingerprint": id, "startsAt": rfc3339(alert.starts_us),
            "endsAt": rfc3339(alert.ends_us), "updatedAt": rfc3339(alert.updated_us), "generatorURL": alert.source,
            "receivers": receivers.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
            "status": {"state": if muted { "suppressed" } else { "active" }, "silencedBy": silenced, "inhibitedBy": inhibited},
        }));
    }
    Ok(Reply::json(200, &json!(found)))
}

/// A silence as it is posted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Posted {
    #[serde(default)]
    id: Option<String>,
    matchers: Vec<PostedMatcher>,
    starts_at: String,
    ends_at: String,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    comment: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedMatcher {
    name: String,
    value: String,
    #[serde(default)]
    is_regex: bool,
    is_equal: Option<bool>,
}

impl Posted {
    fn read(self, now_us: i64) -> Result<Silence, String> {
        let starts_us = time(Some(&self.starts_at))?.unwrap_or(now_us);
        let ends_us = time(Some(&self.ends_at))?.ok_or("a silence needs an end")?;
        if ends_us <= starts_us || ends_us <= now_us {
            return Err("Failed to create silence: end time can't be in the past or before the start".to_owned());
        }
        let one = |m: &PostedMatcher| {
            let operator = match (m.is_regex, m.is_equal.unwrap_or(true)) {
                (false, true) => "=",
                (false, false) => "!=",
                (true, true) => "=~",
                (true, false) => "!~",
            };
            Matcher::new(&m.name, operator, &m.value)
        };
        let matchers = self.matchers.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        if matchers.iter().all(|matcher| matcher.matches(&Labels::new())) {
            return Err("silence invalid: at least one matcher must not match the empty string".to_owned());
        }
        let id = self.id.unwrap_or_default();
        let (author, comment) = (self.created_by, self.comment);
        Ok(Silence { id, matchers, starts_us: starts_us.max(now_us), ends_us, updated_us: now_us, author, comment })
    }
}

fn silence(silence: &Silence, now_us: i64) -> Value {
    let matchers = silence.matchers.iter().map(|matcher| {
        let (value, regex, equal) = matcher.shown();
        json!({ "name": matcher.name, "value": value, "isRegex": regex, "isEqual": equal })
    });
    json!({
        "id": silence.id, "matchers": matchers.collect::<Vec<_>>(), "startsAt": rfc3339(silence.starts_us), "endsAt": rfc3339(silence.ends_us),
        "updatedAt": rfc3339(silence.updated_us), "createdBy": silence.author, "comment": silence.comment,
        "status": { "state": silence.state(now_us) },
    })
}
