//! `prometheus.yml`: what of it is rehearsable. Whatever else is in it keeps the program from starting.

use std::{collections::BTreeMap, time::Duration};

use regex::Regex;
use serde::Deserialize;

use super::super::label::{self, Labels, NAME, anchored};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    global: Global,
    #[serde(default)]
    rule_files: Vec<String>,
    #[serde(default)]
    alerting: Alerting,
    #[serde(default)]
    scrape_configs: Vec<JobSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Global {
    scrape_interval: Option<String>,
    scrape_timeout: Option<String>,
    evaluation_interval: Option<String>,
    #[serde(default)]
    external_labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alerting {
    #[serde(default)]
    alertmanagers: Vec<Targets>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Targets {
    #[serde(default)]
    static_configs: Vec<Static>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Static {
    pub(super) targets: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Discovery {
    url: String,
    refresh_interval: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobSpec {
    job_name: String,
    scrape_interval: Option<String>,
    scrape_timeout: Option<String>,
    metrics_path: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    static_configs: Vec<Static>,
    #[serde(default)]
    http_sd_configs: Vec<Discovery>,
    #[serde(default)]
    relabel_configs: Vec<RelabelSpec>,
    #[serde(default)]
    metric_relabel_configs: Vec<RelabelSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RelabelSpec {
    action: Option<String>,
    #[serde(default)]
    source_labels: Vec<String>,
    separator: Option<String>,
    target_label: Option<String>,
    regex: Option<String>,
    replacement: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    LabelMap,
    LabelDrop,
    LabelKeep,
}

/// A rule that changes labels.
#[derive(Debug, Clone)]
pub(super) struct Relabel {
    action: Action,
    from: Vec<String>,
    separator: String,
    to: String,
    pattern: Regex,
    with: String,
}

/// What is scraped in one way.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) path: String,
    pub(super) fixed: Vec<Static>,
    /// Addresses that tell targets, and how often they are asked.
    pub(super) discovery: Vec<(String, Duration)>,
    pub(super) relabel: Vec<Relabel>,
    pub(super) metric_relabel: Vec<Relabel>,
}

/// The configuration.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) evaluation: Duration,
    pub(super) external: Labels,
    /// Paths with at most one `*`.
    pub(super) rule_files: Vec<String>,
    /// `host:port`.
    pub(super) alertmanagers: Vec<String>,
    pub(super) jobs: Vec<Job>,
}

/// Reads the configuration.
///
/// # Errors
/// It is none, or not rehearsable.
pub(super) fn read(content: &str) -> Result<Config, String> {
    let file: File = serde_saphyr::from_str(content).map_err(|error| format!("not rehearsable: {error}"))?;
    let or = |text: Option<&String>, otherwise: Duration| text.map_or(Ok(otherwise), |text| label::duration(text));
    let global = &file.global;
    let minute = Duration::from_secs(60);
    let interval = or(global.scrape_interval.as_ref(), minute)?;
    let limit = or(global.scrape_timeout.as_ref(), Duration::from_secs(10))?.min(interval);
    let job = |spec: JobSpec| {
        if spec.scheme.as_deref().is_some_and(|scheme| scheme != "http") {
            return Err(format!("not rehearsable: job {} is scraped over {}", spec.job_name, spec.scheme.unwrap_or_default()));
        }
        let interval = or(spec.scrape_interval.as_ref(), interval)?;
        let timeout = or(spec.scrape_timeout.as_ref(), limit.min(interval))?;
        if interval.is_zero() || timeout > interval {
            return Err(format!("scrape timeout greater than scrape interval for scrape config with job name {:?}", spec.job_name));
        }
        let discovery = spec
            .http_sd_configs
            .iter()
            .map(|sd| Ok((sd.url.clone(), or(sd.refresh_interval.as_ref(), minute)?.max(Duration::from_secs(1)))));
        Ok(Job {
            name: spec.job_name,
            interval,
            timeout,
            path: spec.metrics_path.unwrap_or_else(|| "/metrics".to_owned()),
            fixed: spec.static_configs,
            discovery: discovery.collect::<Result<_, String>>()?,
            relabel: spec.relabel_configs.into_iter().map(relabel).collect::<Result<_, _>>()?,
            metric_relabel: spec.metric_relabel_configs.into_iter().map(relabel).collect::<Result<_, _>>()?,
        })
    };
    let evaluation = or(global.evaluation_interval.as_ref(), minute)?;
    if evaluation.is_zero() {
        return Err("evaluation_interval is 0".to_owned());
    }
    let alertmanagers = file.alerting.alertmanagers.into_iter().flat_map(|a| a.static_configs).flat_map(|s| s.targets).collect();
    let jobs = file.scrape_configs.into_iter().map(job).collect::<Result<_, _>>()?;
    let external = file.global.external_labels.into_iter().collect();
    Ok(Config { evaluation, external, rule_files: file.rule_files, alertmanagers, jobs })
}

fn relabel(spec: RelabelSpec) -> Result<Relabel, String> {
    let action = match spec.action.as_deref().unwrap_or("replace") {
        "replace" => Action::Replace,
        "keep" => Action::Keep,
        "drop" => Action::Drop,
        "labelmap" => Action::LabelMap,
        "labeldrop" => Action::LabelDrop,
        "labelkeep" => Action::LabelKeep,
        other => return Err(format!("not rehearsable: relabel action {other}")),
    };
    if action == Action::Replace && spec.target_label.is_none() {
        return Err("relabel configuration for replace action requires 'target_label' value".to_owned());
    }
    Ok(Relabel {
        action,
        from: spec.source_labels,
        separator: spec.separator.unwrap_or_else(|| ";".to_owned()),
        to: spec.target_label.unwrap_or_default(),
        pattern: anchored(spec.regex.as_deref().unwrap_or("(.*)"))?,
        with: spec.replacement.unwrap_or_else(|| "$1".to_owned()),
    })
}

/// Changes labels by rules, in order. None: a rule says that there is to be nothing.
pub(super) fn relabelled(mut labels: Labels, rules: &[Relabel]) -> Option<Labels> {
    for rule in rules {
        let joined = rule.from.iter().map(|name| labels.get(name).map_or("", String::as_str)).collect::<Vec<_>>().join(&rule.separator);
        match rule.action {
            Action::Keep if !rule.pattern.is_match(&joined) => return None,
            Action::Drop if rule.pattern.is_match(&joined) => return None,
            Action::Keep | Action::Drop => {}
            Action::LabelDrop => labels.retain(|name, _| !rule.pattern.is_match(name)),
            Action::LabelKeep => labels.retain(|name, _| rule.pattern.is_match(name)),
            Action::LabelMap => {
                let mut mapped = Labels::new();
                for (name, value) in &labels {
                    if let Some(captures) = rule.pattern.captures(name) {
                        let mut to = String::new();
                        captures.expand(&rule.with, &mut to);
                        mapped.insert(to, value.clone());
                    }
                }
                labels.extend(mapped);
            }
            Action::Replace => {
                let Some(captures) = rule.pattern.captures(&joined) else { continue };
                let mut value = String::new();
                captures.expand(&rule.with, &mut value);
                if value.is_empty() {
                    labels.remove(&rule.to)
                } else {
                    labels.insert(rule.to.clone(), value)
                };
            }
        }
    }
    Some(labels)
}

/// A target's address and the labels of its series, from what was discovered (`scrape.PopulateLabels`). None: it is not kept.
pub(super) fn target(job: &Job, address: &str, discovered: &BTreeMap<String, String>) -> Option<(String, Labels)> {
    let mut labels: Labels = discovered.clone().into_iter().filter(|(_, value)| !value.is_empty()).collect();
    labels.insert("__address__".to_owned(), address.to_owned());
    labels.entry("job".to_owned()).or_insert_with(|| job.name.clone());
    let mut labels = relabelled(labels, &job.relabel)?;
    let address = labels.get("__address__")?.clone();
    labels.entry("instance".to_owned()).or_insert_with(|| address.clone());
    labels.retain(|name, _| !name.starts_with("__"));
    Some((address, labels))
}

/// The labels of a sample with those of its target. A label that both have is the target's, and the sample's own is kept as
/// `exported_…`. None: a rule drops the sample.
pub(super) fn sample(job: &Job, own: Labels, target: &Labels) -> Option<Labels> {
    let mut labels = own;
    for (name, value) in target {
        if let Some(other) = labels.insert(name.clone(), value.clone()) {
            labels.insert(format!("exported_{name}"), other);
        }
    }
    let labels = relabelled(labels, &job.metric_relabel)?;
    labels.contains_key(NAME).then_some(labels)
}

/// Whether a path is meant by a pattern with at most one `*`, which stands for no `/`.
pub(super) fn fits(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|middle| !middle.contains('/') && before.len() + after.len() <= path.len()),
    }
}
