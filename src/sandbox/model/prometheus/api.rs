//! The HTTP API, as far as drills and people ask it.

use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        super::program::Env,
        http::{Reply, Request},
        label::rfc3339,
    },
    Reload, Shared,
    eval::{self, Value},
    lock,
    parse::parse,
    store::written,
};

/// Answers a request.
pub(super) async fn answer(env: &Env, shared: &Shared, reload: &mpsc::Sender<Reload>, ask: &Request) -> Reply {
    match ask.route() {
        ("GET" | "POST", "/api/v1/query") => query(env, shared, ask),
        ("GET", "/api/v1/alerts") => {
            let alerts: Vec<Json> = lock(shared).groups.values().flat_map(super::rules::Group::alerts).collect();
            success(&json!({ "alerts": alerts }))
        }
        ("GET", "/api/v1/rules") => {
            let names: Vec<&str> = ask.values("rule_name[]").collect();
            let only = ask.value("type");
            let groups: Vec<Json> = lock(shared).groups.values().map(|group| group.shown(only, &names)).collect();
            success(&json!({ "groups": groups }))
        }
        ("GET", "/api/v1/targets") => targets(shared),
        ("GET", "/api/v1/status/buildinfo") => success(&json!({ "version": "2.42.0", "revision": "sandbox" })),
        ("GET", "/-/ready") => Reply::text(200, "Prometheus Server is Ready.\n"),
        ("GET", "/-/healthy") => Reply::text(200, "Prometheus Server is Healthy.\n"),
        ("POST" | "PUT", "/-/reload") => {
            let (done, wait) = oneshot::channel();
            // It is loaded at once: nothing is waited for but a turn.
            let asked = reload.send(done).await.is_ok();
            match wait.await {
                Ok(Ok(())) if asked => Reply::text(200, ""),
                Ok(Err(why)) => Reply::text(500, format!("failed to reload config: {why}\n")),
                _ => Reply::text(500, "failed to reload config\n"),
            }
        }
        ("GET", "/metrics") => {
            let inner = lock(shared);
            Reply::text(200, format!("prometheus_ready {}\nprometheus_targets {}\n", u8::from(inner.ready), inner.targets.len()))
        }
        _ => Reply::not_found(ask),
    }
}

fn success(data: &Json) -> Reply {
    Reply::json(200, &json!({ "status": "success", "data": data }))
}

fn failure(status: u16, kind: &str, why: &str) -> Reply {
    Reply::json(status, &json!({ "status": "error", "errorType": kind, "error": why }))
}

/// A time in seconds or in RFC 3339, as milliseconds.
fn instant(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.abs() < 1e12)?;
    #[expect(clippy::cast_possible_truncation, reason = "its size was looked at")]
    Some((seconds * 1000.0).round() as i64)
}

fn query(env: &Env, shared: &Shared, ask: &Request) -> Reply {
    let Some(text) = ask.value("query") else {
        return failure(400, "bad_data", "invalid parameter \"query\": unknown position: no expression found in input");
    };
    let at_ms = match ask.value("time") {
        None => env.now_us() / 1000,
        Some(text) => match instant(text) {
            Some(ms) => ms,
            None => return failure(400, "bad_data", &format!("invalid parameter \"time\": cannot parse {text:?} to a valid timestamp")),
        },
    };
    let expr = match parse(text) {
        Ok(expr) => expr,
        Err(why) if why.starts_with("not rehearsable") => return failure(422, "execution", &why),
        Err(why) => return failure(400, "bad_data", &format!("invalid parameter \"query\": {why}")),
    };
    let seconds = at_ms as f64 / 1000.0;
    match eval::eval(&lock(shared).store, &expr, at_ms) {
        Err(why) => failure(422, "execution", &why),
        Ok(value) => {
            let pair = |seconds: f64, value: f64| json!([seconds, written(value)]);
            let (kind, result) = match value {
                Value::Scalar(value) => ("scalar", pair(seconds, value)),
                Value::Text(text) => ("string", json!([seconds, text])),
                Value::Vector(vector) => {
                    let one = |(labels, value): (_, f64)| json!({ "metric": labels, "value": pair(seconds, value) });
                    ("vector", vector.into_iter().map(one).collect())
                }
                Value::Matrix(matrix) => {
                    let all = |samples: Vec<(i64, f64)>| {
                        samples.into_iter().map(|(ms, value)| pair(ms as f64 / 1000.0, value)).collect::<Vec<_>>()
                    };
                    ("matrix", matrix.into_iter().map(|(labels, samples)| json!({ "metric": labels, "values": all(samples) })).collect())
                }
            };
            success(&json!({ "resultType": kind, "result": result }))
        }
    }
}

fn targets(shared: &Shared) -> Reply {
    let inner = lock(shared);
    let active = inner.targets.values().map(|target| {
        let (health, error, last) = match &target.last {
            None => ("unknown", "", "0001-01-01T00:00:00Z".to_owned()),
            Some((at, None)) => ("up", "", rfc3339(*at)),
            Some((at, Some(why))) => ("down", why.as_str(), rfc3339(*at)),
        };
        json!({
            "labels": target.labels, "scrapePool": target.job, "scrapeUrl": target.url, "health": health, "lastError": error, "lastScrape": last,
        })
    });
    let active: Vec<Json> = active.collect();
    success(&json!({ "activeTargets": active, "droppedTargets": [] }))
}
