//! What Prometheus and Alertmanager have in common: labels, matchers, durations.

use std::{collections::BTreeMap, time::Duration};

use regex::Regex;

/// A label set. Labels with an empty value are as if they were not there, and are not kept.
pub(super) type Labels = BTreeMap<String, String>;

/// The label that holds a series' name.
pub(super) const NAME: &str = "__name__";

/// The hash by which both know an alert: FNV-1a over names and values in order (`model.LabelSet.Fingerprint`).
pub(super) fn fingerprint(labels: &Labels) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for (name, value) in labels {
        name.bytes().for_each(&mut add);
        add(255);
        value.bytes().for_each(&mut add);
        add(255);
    }
    format!("{hash:016x}")
}

/// How a matcher compares.
#[derive(Debug, Clone)]
enum Compare {
    Equal(String),
    Differs(String),
    Like(Regex),
    Unlike(Regex),
}

/// A condition on one label. A label that is missing counts as empty.
#[derive(Debug, Clone)]
pub(super) struct Matcher {
    /// The label's name.
    pub(super) name: String,
    compare: Compare,
}

impl Matcher {
    /// A matcher by its operator: `=`, `!=`, `=~` or `!~`.
    ///
    /// # Errors
    /// Another operator, or a regular expression that is none.
    pub(super) fn new(name: &str, operator: &str, value: &str) -> Result<Self, String> {
        let compare = match operator {
            "=" => Compare::Equal(value.to_owned()),
            "!=" => Compare::Differs(value.to_owned()),
            "=~" => Compare::Like(anchored(value)?),
            "!~" => Compare::Unlike(anchored(value)?),
            other => return Err(format!("`{other}` is no operator of a matcher")),
        };
        Ok(Self { name: name.to_owned(), compare })
    }

    /// A matcher as Alertmanager's files and filters have it: `severity="page"`, also without the quotes.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("`{text}` is no matcher such as severity=\"page\"");
        let at = text.find(['=', '!']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(at);
        let operator = ["=~", "!~", "!=", "="].into_iter().find(|o| rest.starts_with(o)).ok_or_else(wrong)?;
        let value = rest[operator.len()..].trim();
        let value = match value.strip_prefix('"') {
            None if value.contains('"') => return Err(wrong()),
            None => value.to_owned(),
            Some(_) => serde_json::from_str(value).map_err(|_| wrong())?,
        };
        let name = name.trim();
        if !is_label_name(name) {
            return Err(wrong());
        }
        Self::new(name, operator, &value)
    }

    /// Whether these labels fulfil it.
    pub(super) fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.name).map_or("", String::as_str);
        match &self.compare {
            Compare::Equal(wanted) => value == wanted,
            Compare::Differs(unwanted) => value != unwanted,
            Compare::Like(pattern) => pattern.is_match(value),
            Compare::Unlike(pattern) => !pattern.is_match(value),
        }
    }

    /// The value that it demands, if it demands exactly one that is not empty.
    pub(super) fn exactly(&self) -> Option<&str> {
        match &self.compare {
            Compare::Equal(value) if !value.is_empty() => Some(value),
            _ => None,
        }
    }

    /// Its value and whether it is a regular expression, and whether it is one that wants equality: as the API shows it.
    pub(super) fn shown(&self) -> (&str, bool, bool) {
        match &self.compare {
            Compare::Equal(value) => (value, false, true),
            Compare::Differs(value) => (value, false, false),
            Compare::Like(pattern) => (bare(pattern), true, true),
            Compare::Unlike(pattern) => (bare(pattern), true, false),
        }
    }
}

fn bare(pattern: &Regex) -> &str {
    let text = pattern.as_str();
    text.strip_prefix("^(?s:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)
}

/// A regular expression that must match the whole.
///
/// # Errors
/// It is none.
pub(super) fn anchored(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?s:{pattern})$")).map_err(|error| format!("`{pattern}` is no regular expression: {error}"))
}

/// Whether a text can name a label.
pub(super) fn is_label_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A duration as Prometheus writes it: `30s`, `1h30m`, `100ms`, `0`. Its length must fit into 292 years.
///
/// # Errors
/// It is none.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 7] =
        [("ms", 1), ("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let wrong = || format!("`{text}` is no duration such as 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let (mut rest, mut total, mut last) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let (unit, ms) = UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
        // Each unit once, from long to short.
        if ms >= last {
            return Err(wrong());
        }
        last = ms;
        rest = &rest[unit.len()..];
        total = count.checked_mul(ms).and_then(|part| total.checked_add(part)).filter(|t| *t < 1 << 53).ok_or_else(wrong)?;
    }
    Ok(Duration::from_millis(total))
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// An instant as both write it: RFC 3339 in UTC.
pub(super) fn rfc3339(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| format!("{us}us"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Labels, Matcher, duration, fingerprint};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn fingerprints_are_those_of_prometheus() {
        // An empty set is the offset of FNV-1a; the other was worked out byte by byte from its definition.
        assert_eq!(fingerprint(&Labels::new()), "cbf29ce484222325");
        let by_hand = "a\u{0}b\u{0}".bytes().map(|b| if b == 0 { 255 } else { b });
        let hash = by_hand.fold(14_695_981_039_346_656_037_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(1_099_511_628_211));
        assert_eq!(fingerprint(&labels(&[("a", "b")])), format!("{hash:016x}"));
        assert_ne!(fingerprint(&labels(&[("a", "bc")])), fingerprint(&labels(&[("ab", "c")])));
    }

    #[test]
    fn matchers_compare_whole_values_and_a_missing_label_is_empty() {
        let set = labels(&[("severity", "page"), ("pod", "orders-0")]);
        for (text, fits) in [
            ("severity=\"page\"", true),
            ("severity = page", true),
            ("severity=pag", false),
            ("severity!=page", false),
            ("pod=~\"orders-[0-9]+\"", true),
            ("pod=~orders", false),
            ("pod!~orders", true),
            ("team=\"\"", true),
            ("team!=\"\"", false),
        ] {
            assert_eq!(Matcher::parse(text).unwrap().matches(&set), fits, "{text}");
        }
        for wrong in ["", "severity", "=page", "a b=c", "a=~(", "a=\"b", "a=b\""] {
            assert!(Matcher::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_go_from_long_to_short() {
        for (text, ms) in [("0", 0), ("100ms", 100), ("30s", 30_000), ("1h30m", 5_400_000), ("1d", 86_400_000), ("1m5s10ms", 65_010)] {
            assert_eq!(duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for wrong in ["", "5", "s", "1s1m", "1s1s", "-1s", "1.5s", "99999999999y"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
