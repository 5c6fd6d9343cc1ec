//! PromQL's functions of numbers and of ranges.

/// A function of one value and some numbers.
pub(super) fn single(name: &str, value: f64, numbers: &[f64]) -> f64 {
    let number = |n: usize, otherwise: f64| numbers.get(n).copied().unwrap_or(otherwise);
    match name {
        "abs" => value.abs(),
        "ceil" => value.ceil(),
        "floor" => value.floor(),
        "exp" => value.exp(),
        "ln" => value.ln(),
        "sqrt" => value.sqrt(),
        "sgn" if value > 0.0 => 1.0,
        "sgn" if value < 0.0 => -1.0,
        "sgn" => value,
        "clamp" => value.max(number(0, f64::NAN)).min(number(1, f64::NAN)),
        "clamp_min" => value.max(number(0, f64::NAN)),
        "clamp_max" => value.min(number(0, f64::NAN)),
        "round" => {
            // To the nearest multiple; ties go up.
            let inverse = 1.0 / number(0, 1.0);
            (value * inverse + 0.5).floor() / inverse
        }
        _ => f64::NAN,
    }
}

/// The quantile of some values, between the two nearest.
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let rank = q * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
    let below = (rank.floor() as usize).min(last);
    let weight = rank - rank.floor();
    values[below] * (1.0 - weight) + values[(below + 1).min(last)] * weight
}

/// A function of a range from one time to another (milliseconds). None: there are too few samples.
pub(super) fn over(name: &str, samples: &[(i64, f64)], from: i64, to: i64, extra: Option<f64>) -> Option<f64> {
    let values = || samples.iter().map(|(_, value)| *value);
    let count = samples.len() as f64;
    let last = samples.last()?;
    let pairs = || samples.windows(2).filter_map(|pair| if let [a, b] = pair { Some((a.1, b.1)) } else { None });
    Some(match name {
        "count_over_time" => count,
        "present_over_time" => 1.0,
        "last_over_time" => last.1,
        "sum_over_time" => values().sum(),
        "avg_over_time" => values().sum::<f64>() / count,
        "min_over_time" => values().fold(f64::NAN, f64::min),
        "max_over_time" => values().fold(f64::NAN, f64::max),
        "stdvar_over_time" => variance(&values().collect::<Vec<_>>()),
        "stddev_over_time" => variance(&values().collect::<Vec<_>>()).sqrt(),
        "changes" => pairs().filter(|(a, b)| a != b && !(a.is_nan() && b.is_nan())).count() as f64,
        "resets" => pairs().filter(|(a, b)| b < a).count() as f64,
        "rate" => extrapolated(samples, from, to, true)? / ((to - from) as f64 / 1000.0),
        "increase" => extrapolated(samples, from, to, true)?,
        "delta" => extrapolated(samples, from, to, false)?,
        "irate" | "idelta" => {
            let before = samples.get(samples.len().checked_sub(2)?)?;
            let seconds = (last.0 - before.0) as f64 / 1000.0;
            match name {
                "idelta" => last.1 - before.1,
                // A counter that went down was set to 0 in between.
                _ if last.1 < before.1 => last.1 / seconds,
                _ => (last.1 - before.1) / seconds,
            }
        }
        "deriv" => line(samples, samples.first()?.0)?.0,
        "predict_linear" => {
            let (slope, now) = line(samples, to)?;
            slope * extra? + now
        }
        _ => return None,
    })
}

fn variance(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count
}

/// Slope (per second) and value at a time, by least squares. None: fewer than two samples.
fn line(samples: &[(i64, f64)], at: i64) -> Option<(f64, f64)> {
    if samples.len() < 2 {
        return None;
    }
    let count = samples.len() as f64;
    let (mut x, mut y, mut xy, mut xx) = (0.0, 0.0, 0.0, 0.0);
    for (ms, value) in samples {
        let seconds = (ms - at) as f64 / 1000.0;
        x += seconds;
        y += value;
        xy += seconds * value;
        xx += seconds * seconds;
    }
    let slope = (xy - x * y / count) / (xx - x * x / count);
    Some((slope, y / count - slope * x / count))
}

/// How much a series grew from one time to another, extended to both ends of the range as far as its samples let one
/// expect (`extrapolatedRate`).
fn extrapolated(samples: &[(i64, f64)], from: i64, to: i64, counter: bool) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    if samples.len() < 2 {
        return None;
    }
    let mut grown = last.1 - first.1;
    if counter {
        grown += samples.windows(2).filter_map(|pair| if let [a, b] = pair { (b.1 < a.1).then_some(a.1) } else { None }).sum::<f64>();
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let mut to_start = seconds(first.0 - from);
    let to_end = seconds(to - last.0);
    let sampled = seconds(last.0 - first.0);
    let average = sampled / (samples.len() as f64 - 1.0);
    if counter && grown > 0.0 && first.1 >= 0.0 {
        // A counter was never below 0.
        to_start = to_start.min(sampled * (first.1 / grown));
    }
    let reach = average * 1.1;
    let extended = sampled + if to_start < reach { to_start } else { average / 2.0 } + if to_end < reach { to_end } else { average / 2.0 };
    Some(grown * extended / sampled)
}
