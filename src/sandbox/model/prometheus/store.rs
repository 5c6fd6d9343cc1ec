//! Series of samples, in memory, and the text that targets show them in.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::super::label::{Labels, Matcher, NAME};

/// How long samples are kept, in milliseconds.
const KEPT_MS: i64 = 2 * 3_600_000;
/// The most series there may be: more are refused, as a sample limit does.
const MOST_SERIES: usize = 50_000;
/// How far back an instant's value is looked for, in milliseconds (`--query.lookback-delta`).
const LOOKBACK_MS: i64 = 300_000;

/// A value at a time; none: the series ended here (a staleness marker).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Milliseconds since the Unix epoch.
    pub(super) ms: i64,
    pub(super) value: Option<f64>,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    samples: VecDeque<Sample>,
}

/// All series.
#[derive(Debug, Default)]
pub(super) struct Store {
    series: Vec<Series>,
    /// Only looked up in: labels of one metric differ late, which makes ordered ones slow to find.
    by_labels: HashMap<Labels, usize>,
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Store {
    /// The number by which a series is written to; it is made if there is none.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn series(&mut self, labels: &Labels) -> Result<usize, String> {
        if let Some(id) = self.by_labels.get(labels) {
            return Ok(*id);
        }
        if self.series.len() >= MOST_SERIES {
            return Err(format!("there are more than {MOST_SERIES} series"));
        }
        let id = self.series.len();
        self.series.push(Series { labels: labels.clone(), samples: VecDeque::new() });
        self.by_labels.insert(labels.clone(), id);
        self.by_name.entry(labels.get(NAME).cloned().unwrap_or_default()).or_default().push(id);
        Ok(id)
    }

    /// Adds a sample to a series. One that is not newer than the last is left out, as Prometheus does.
    pub(super) fn add(&mut self, id: usize, sample: Sample) {
        let Some(series) = self.series.get_mut(id) else { return };
        if series.samples.back().is_some_and(|last| last.ms >= sample.ms) {
            return;
        }
        while series.samples.front().is_some_and(|first| first.ms < sample.ms - KEPT_MS) {
            series.samples.pop_front();
        }
        series.samples.push_back(sample);
    }

    fn chosen<'a>(&'a self, matchers: &'a [Matcher]) -> impl Iterator<Item = &'a Series> {
        let named = matchers.iter().find(|m| m.name == NAME).and_then(Matcher::exactly);
        let (some, all) = match named {
            Some(name) => (self.by_name.get(name).map(Vec::as_slice).unwrap_or_default(), 0..0),
            None => (&[] as &[usize], 0..self.series.len()),
        };
        let ids = some.iter().copied().chain(all);
        ids.filter_map(|id| self.series.get(id)).filter(move |series| matchers.iter().all(|m| m.matches(&series.labels)))
    }

    /// What the series that match are worth at a time: the last sample of the five minutes before, unless the series has ended. In
    /// the order of their labels, with the time of the sample.
    pub(super) fn instant(&self, matchers: &[Matcher], at_ms: i64) -> Vec<(Labels, f64, i64)> {
        let mut found: Vec<_> = self
            .chosen(matchers)
            .filter_map(|series| {
                let end = series.samples.partition_point(|sample| sample.ms <= at_ms);
                let last = series.samples.get(end.checked_sub(1)?)?;
                let value = last.value.filter(|_| last.ms >= at_ms - LOOKBACK_MS)?;
                Some((series.labels.clone(), value, last.ms))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// The samples of the series that match, from one time to another, both included. Series without any are left out.
    pub(super) fn range(&self, matchers: &[Matcher], from_ms: i64, to_ms: i64) -> Vec<(Labels, Vec<(i64, f64)>)> {
        let mut found: Vec<_> = self
            .chosen(matchers)
            .filter_map(|series| {
                let begin = series.samples.partition_point(|sample| sample.ms < from_ms);
                let within = series.samples.range(begin..).take_while(|sample| sample.ms <= to_ms);
                let values: Vec<_> = within.filter_map(|sample| sample.value.map(|value| (sample.ms, value))).collect();
                (!values.is_empty()).then(|| (series.labels.clone(), values))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

/// What one writer (a target, a rule) wrote last time, so that what it leaves out this time is marked as ended.
#[derive(Debug, Default)]
pub(super) struct Writer {
    live: BTreeSet<usize>,
}

impl Writer {
    /// Writes these series at a time and ends all others that were written before.
    ///
    /// # Errors
    /// There are too many series; those that there was room for are written.
    pub(super) fn write<'a>(
        &mut self,
        store: &mut Store,
        at_ms: i64,
        samples: impl IntoIterator<Item = (&'a Labels, f64)>,
    ) -> Result<(), String> {
        let mut now = BTreeSet::new();
        let mut full = Ok(());
        for (labels, value) in samples {
            match store.series(labels) {
                Ok(id) => {
                    store.add(id, Sample { ms: at_ms, value: Some(value) });
                    now.insert(id);
                }
                Err(why) => full = Err(why),
            }
        }
        for ended in self.live.difference(&now) {
            store.add(*ended, Sample { ms: at_ms, value: None });
        }
        self.live = now;
        full
    }

    /// Ends all its series.
    pub(super) fn end(&mut self, store: &mut Store, at_ms: i64) {
        for ended in std::mem::take(&mut self.live) {
            store.add(ended, Sample { ms: at_ms, value: None });
        }
    }
}

/// The lines of Prometheus' text format: name and labels, and the value. Comments are skipped; timestamps are not taken.
///
/// # Errors
/// A line that is none, with its text: then nothing of the answer counts.
pub(super) fn exposition(text: &str) -> Result<Vec<(Labels, f64)>, String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(exposed).collect()
}

fn exposed(line: &str) -> Result<(Labels, f64), String> {
    let wrong = || format!("`{}` is no sample", line.chars().take(200).collect::<String>());
    let end = line.find(['{', ' ', '\t']).ok_or_else(wrong)?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::from([(NAME.to_owned(), name.to_owned())]);
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches([',', ' ']);
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = inner.split_once('=').ok_or_else(wrong)?;
            let quoted = quoted.trim_start().strip_prefix('"').ok_or_else(wrong)?;
            let (value, after) = unquoted(quoted).ok_or_else(wrong)?;
            if !value.is_empty() {
                labels.insert(label.trim().to_owned(), value);
            }
            inner = after;
        }
    }
    let value = rest.split_whitespace().next().ok_or_else(wrong)?;
    if name.is_empty() {
        return Err(wrong());
    }
    Ok((labels, number(value).ok_or_else(wrong)?))
}

/// A value up to its closing quote, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match (escaped, c) {
            (true, 'n') => value.push('\n'),
            (true, c) => value.push(c),
            (false, '\\') => {
                escaped = true;
                continue;
            }
            (false, '"') => return Some((value, &text[at + 1..])),
            (false, c) => value.push(c),
        }
        escaped = false;
    }
    None
}

/// A number as Prometheus writes it.
pub(super) fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        other if other.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => other.parse().ok(),
        _ => None,
    }
}

/// A number as the API writes it.
pub(super) fn written(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, pairs: &[(&str, &str)]) -> Labels {
        let own = [(NAME.to_owned(), name.to_owned())];
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).chain(own).collect()
    }

    fn only(name: &str) -> Vec<Matcher> {
        vec![Matcher::new(NAME, "=", name).unwrap()]
    }

    #[test]
    fn the_text_format_is_read_and_one_bad_line_spoils_it() {
        let read = exposition("# HELP a b\na 1\n\nb{x=\"1\",y=\"q\\\"u\\\\\\n\"} -2.5e3 1700000000\nc{} +Inf\n").unwrap();
        assert_eq!(read[0], (named("a", &[]), 1.0));
        assert_eq!(read[1], (named("b", &[("x", "1"), ("y", "q\"u\\\n")]), -2500.0));
        assert_eq!(read[2], (named("c", &[]), f64::INFINITY));
        for wrong in ["a", "a{x=\"1\" 1", "a{x=1} 1", "a x", "{x=\"1\"} 1", "<html> 1x"] {
            assert!(exposition(&format!("good 1\n{wrong}\n")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_lasts_five_minutes_and_ends_with_a_marker() {
        let (mut store, mut target) = (Store::default(), Writer::default());
        let (a, b) = (named("m", &[("pod", "a")]), named("m", &[("pod", "b")]));
        target.write(&mut store, 1_000, [(&a, 1.0), (&b, 2.0)]).unwrap();
        target.write(&mut store, 2_000, [(&a, 3.0)]).unwrap();
        let at = |store: &Store, ms| store.instant(&only("m"), ms).into_iter().map(|(l, v, _)| (l["pod"].clone(), v)).collect::<Vec<_>>();
        assert!(at(&store, 999).is_empty());
        assert_eq!(at(&store, 1_999), [("a".to_owned(), 1.0), ("b".to_owned(), 2.0)]);
        assert_eq!(at(&store, 2_000), [("a".to_owned(), 3.0)], "b has ended");
        assert_eq!(at(&store, 302_000), [("a".to_owned(), 3.0)]);
        assert!(at(&store, 302_001).is_empty(), "too old");
        target.end(&mut store, 3_000);
        assert!(at(&store, 3_000).is_empty());
        let ranges = store.range(&only("m"), 1_000, 3_000);
        assert_eq!(ranges[0].1, [(1_000, 1.0), (2_000, 3.0)], "markers are no values");
        assert_eq!(ranges[1].1, [(1_000, 2.0)]);
    }
}
