//! `metric`: a PromQL expression against bounds. What Prometheus does not know is unknown, not bad.

use std::sync::Arc;

use futures::FutureExt as _;
use serde::Deserialize;

use super::{sample::Outcome, sampler::Take};
use crate::{
    net::{Dialer, Url, get_json},
    scenario::types::MetricProbe,
};

/// The samples of a `metric` probe, by the Prometheus at `prometheus`.
///
/// # Errors
/// If the address is none.
pub(super) fn take(probe: &MetricProbe, prometheus: &str, dialer: &Dialer) -> Result<Take, String> {
    let base: Url = prometheus.parse()?;
    let url = base.join(&format!("/api/v1/query?query={}", percent(&probe.query)));
    let shared = Arc::new((url, probe.clone(), dialer.clone()));
    Ok(Box::new(move || {
        let shared = shared.clone();
        async move {
            let (url, probe, dialer) = &*shared;
            match get_json(dialer, url).await {
                Ok(answer) => judge(probe, &answer),
                Err(error) => Outcome::unknown(error.detail),
            }
        }
        .boxed()
    }))
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: serde_json::Value,
}

fn judge(probe: &MetricProbe, answer: &Answer) -> Outcome {
    let value = match value(&answer.data) {
        Ok(value) => value,
        Err(why) => return Outcome::unknown(why),
    };
    match (probe.min, probe.max) {
        (Some(min), _) if value < min => Outcome::bad(format!("{value} is less than {min}")),
        (_, Some(max)) if value > max => Outcome::bad(format!("{value} is more than {max}")),
        _ => Outcome::good(format!("{value}")),
    }
}

fn value(data: &Data) -> Result<f64, String> {
    let pair = match data.result_type.as_str() {
        "scalar" => &data.result,
        "vector" => match data.result.as_array().map(Vec::as_slice) {
            Some([one]) => &one["value"],
            Some([]) => return Err("the expression gives nothing".to_owned()),
            Some(many) => return Err(format!("the expression gives {} series: aggregate them to one", many.len())),
            None => return Err("Prometheus gave a vector that is none".to_owned()),
        },
        other => return Err(format!("the expression gives a {other}: write one that gives a scalar or one series")),
    };
    let text = pair[1].as_str().ok_or("Prometheus gave a value that is none")?;
    match text.parse::<f64>() {
        Ok(value) if !value.is_nan() => Ok(value),
        _ => Err(format!("the value is {text}")),
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986).
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Answer, judge, percent};
    use crate::scenario::types::{MetricProbe, ProbeState};

    fn state(min: Option<f64>, max: Option<f64>, data: serde_json::Value) -> ProbeState {
        let answer: Answer = serde_json::from_value(json!({ "status": "success", "data": data })).unwrap();
        judge(&MetricProbe { query: "x".to_owned(), min, max }, &answer).state
    }

    #[test]
    fn bounds_decide_and_what_is_not_one_number_is_unknown() {
        let one = |v: &str| json!({"resultType": "vector", "result": [{"metric": {}, "value": [1.0, v]}]});
        assert_eq!(state(Some(1.0), Some(3.0), one("2")), ProbeState::Good);
        assert_eq!(state(Some(1.0), Some(3.0), one("1")), ProbeState::Good);
        assert_eq!(state(Some(1.0), Some(3.0), one("0.5")), ProbeState::Bad);
        assert_eq!(state(Some(1.0), Some(3.0), one("+Inf")), ProbeState::Bad);
        assert_eq!(state(Some(1.0), Some(3.0), one("NaN")), ProbeState::Unknown);
        assert_eq!(state(None, Some(3.0), json!({"resultType": "scalar", "result": [1.0, "4"]})), ProbeState::Bad);
        assert_eq!(state(None, Some(3.0), json!({"resultType": "vector", "result": []})), ProbeState::Unknown);
        let two = json!({"resultType": "vector", "result": [{"value": [1.0, "1"]}, {"value": [1.0, "1"]}]});
        assert_eq!(state(None, Some(3.0), two), ProbeState::Unknown);
        assert_eq!(state(None, Some(3.0), json!({"resultType": "matrix", "result": []})), ProbeState::Unknown);
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(percent(r#"up{job="a b"}+1"#), "up%7Bjob%3D%22a%20b%22%7D%2B1");
    }
}
