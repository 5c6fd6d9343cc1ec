//! Pod Security admission (`k8s.io/pod-security-admission`): what a namespace's labels forbid its pods, and warn of.
//!
//! Nothing is labelled unless somebody does it, as on a cluster without a configuration of its own: everything is allowed then, and nobody is exempt.

mod checks;

use serde_json::Value;

use super::{
    core::{State, pairs, text},
    kinds::Kind,
    refusal::{Answer, FieldError, Refusal},
};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// What `latest` means here: the minor version of the Kubernetes that this is.
const NEWEST: u32 = 34;

/// How much a pod may ask for; the later the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.name() == text)
    }
}

/// A level as some version of Kubernetes has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    level: Level,
    /// None: the newest.
    minor: Option<u32>,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.minor {
            None => write!(f, "{}:latest", self.level.name()),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
        }
    }
}

impl Policy {
    /// What a pod has that this does not allow: `host namespaces (hostPID=true), privileged (…)`, or without the details.
    fn forbids(self, pod: &Value, details: bool) -> Option<String> {
        let minor = self.minor.unwrap_or(NEWEST).min(NEWEST);
        let found = match self.level {
            Level::Privileged => Vec::new(),
            Level::Baseline => checks::violations(pod, false, minor),
            Level::Restricted => checks::violations(pod, true, minor),
        };
        let told = found.into_iter().map(|(reason, detail)| if details { format!("{reason} ({detail})") } else { reason.to_owned() });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// What a namespace's labels say, and what is wrong with them. Of what only the audit log would tell nothing is kept.
struct Labels {
    enforce: Policy,
    warn: Policy,
    wrong: Vec<FieldError>,
}

impl Labels {
    fn of(namespace: &Value) -> Self {
        let labels = pairs(namespace, "/metadata/labels");
        let label = |name: &str| labels.iter().find(|(key, _)| key.strip_prefix(PREFIX) == Some(name)).map(|(_, value)| *value);
        let mut wrong = Vec::new();
        let mut error =
            |name: &str, value: &str, why: &str| wrong.push(FieldError::invalid(format!("metadata.labels[{PREFIX}{name}]"), value, why));
        // A mode with its level, or what counts if that cannot be read.
        let mut mode = |name: &str, otherwise: Level| {
            let level = label(name)
                .map(|text| Level::read(text).ok_or_else(|| error(name, text, "must be one of privileged, baseline, restricted")));
            let version = format!("{name}-version");
            let minor = label(&version).filter(|text| *text != "latest").and_then(|text| {
                let number =
                    text.strip_prefix("v1.").filter(|n| n.bytes().all(|c| c.is_ascii_digit()) && (*n == "0" || !n.starts_with('0')));
                let minor = number.and_then(|number| number.parse::<u32>().ok());
                if minor.is_none() {
                    error(&version, text, "must be \"latest\" or \"v1.x\"");
                }
                minor
            });
            let policy = Policy { level: level.map_or(Level::Privileged, |level| level.unwrap_or(otherwise)), minor };
            (policy, level)
        };
        let (enforce, said) = mode("enforce", Level::Restricted);
        mode("audit", Level::Privileged);
        let (mut warn, warned) = mode("warn", Level::Privileged);
        // Who forbids something warns of it, unless the labels say otherwise.
        if let (Some(Ok(level)), None) = (said, warned)
            && level > warn.level
        {
            warn.level = level;
            if label("warn-version").is_none() {
                warn.minor = enforce.minor;
            }
        }
        Self { enforce, warn, wrong }
    }
}

/// The pod that a workload makes.
fn template<'a>(kind: &Kind, value: &'a Value) -> Option<&'a Value> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => value.pointer("/spec/template"),
        ("batch", "CronJob") => value.pointer("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

impl State {
    /// Admission of what is to be written: a new object, or a change of one (or of a pod's ephemeral containers).
    ///
    /// # Errors
    /// 403: a pod that its namespace does not allow. 422: labels of a namespace that mean nothing.
    pub(super) fn admit_secure(&mut self, kind: &Kind, subresource: &str, old: Option<&Value>, value: &Value) -> Answer<()> {
        if kind.custom() || !matches!(subresource, "" | "ephemeralcontainers") {
            return Ok(());
        }
        if kind.group.is_empty() && kind.kind == "Namespace" {
            return self.admit_labels(kind, old, value);
        }
        let pod = kind.group.is_empty() && kind.kind == "Pod";
        let made = if pod { Some(value) } else { template(kind, value) };
        let Some(made) = made else { return Ok(()) };
        let Some(namespace) = self.peek("", "namespaces", "", text(value, "/metadata/namespace")) else { return Ok(()) };
        let labels = Labels::of(&namespace.value);
        if pod && old.is_some_and(|old| !matters(old, value)) {
            return Ok(());
        }
        if pod && let Some(why) = labels.enforce.forbids(made, true) {
            let why = format!("violates PodSecurity \"{}\": {why}", labels.enforce);
            return Err(Refusal::forbidden("", "pods", text(value, "/metadata/name"), &why));
        }
        if let Some(why) = labels.warn.forbids(made, true) {
            self.warnings.push(format!("would violate PodSecurity \"{}\": {why}", labels.warn));
        }
        Ok(())
    }

    /// Labels that mean nothing are refused, unless they have been there; whoever forbids more is told which pods that are there it would have met.
    fn admit_labels(&mut self, kind: &Kind, old: Option<&Value>, value: &Value) -> Answer<()> {
        let (new, name) = (Labels::of(value), text(value, "/metadata/name"));
        let before = old.map(Labels::of);
        let known = before.as_ref().is_some_and(|before| {
            let (was, is) = (Refusal::invalid(kind, name, &before.wrong), Refusal::invalid(kind, name, &new.wrong));
            was.status() == is.status()
        });
        if !new.wrong.is_empty() && !known {
            return Err(Refusal::invalid(kind, name, &new.wrong));
        }
        let Some(before) = before.filter(|before| before.enforce != new.enforce) else { return Ok(()) };
        if before.enforce.minor == new.enforce.minor && new.enforce.level <= before.enforce.level {
            return Ok(());
        }
        // Each reason with the first pod's name, and how many there are.
        let mut found: std::collections::BTreeMap<String, (String, usize)> = std::collections::BTreeMap::new();
        for (key, pod) in self.store.list("/pods", name) {
            if let Some(why) = new.enforce.forbids(&pod.value, false) {
                found.entry(why).or_insert_with(|| (key.1.clone(), 0)).1 += 1;
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.warnings.push(format!("existing pods in namespace \"{name}\" violate the new PodSecurity enforce level \"{}\"", new.enforce));
        let mut told: Vec<String> = found
            .into_iter()
            .map(|(why, (pod, count))| match count {
                1 => format!("{pod}: {why}"),
                2 => format!("{pod} (and 1 other pod): {why}"),
                _ => format!("{pod} (and {} other pods): {why}", count - 1),
            })
            .collect();
        told.sort();
        self.warnings.append(&mut told);
        Ok(())
    }
}

/// Whether a change of a pod is one that is looked at: other containers, or other images.
fn matters(old: &Value, new: &Value) -> bool {
    let list = |pod: &Value, at: &str| -> Vec<(String, String)> {
        let all = pod.pointer(at).and_then(Value::as_array).into_iter().flatten();
        all.map(|container| (text(container, "/name").to_owned(), text(container, "/image").to_owned())).collect()
    };
    let images = |pod: &Value, at: &str| -> Vec<String> { list(pod, at).into_iter().map(|(_, image)| image).collect() };
    let before = list(old, "/spec/ephemeralContainers");
    images(old, "/spec/containers") != images(new, "/spec/containers")
        || images(old, "/spec/initContainers") != images(new, "/spec/initContainers")
        || list(new, "/spec/ephemeralContainers").iter().any(|container| !before.contains(container))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labelled(labels: &[(&str, &str)]) -> Labels {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), Value::from(*value))).collect();
        Labels::of(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn labels_are_read_as_kubernetes_reads_them() {
        let said = |labels: &[(&str, &str)]| {
            let labels = labelled(labels);
            (labels.enforce.to_string(), labels.warn.to_string(), labels.wrong.len())
        };
        let wanted = |enforce: &str, warn: &str, wrong: usize| (enforce.to_owned(), warn.to_owned(), wrong);
        assert_eq!(said(&[]), wanted("privileged:latest", "privileged:latest", 0));
        assert_eq!(said(&[("enforce", "baseline"), ("enforce-version", "v1.30")]), wanted("baseline:v1.30", "baseline:v1.30", 0));
        assert_eq!(said(&[("enforce", "restricted"), ("warn", "privileged")]), wanted("restricted:latest", "privileged:latest", 0));
        assert_eq!(said(&[("warn", "restricted")]), wanted("privileged:latest", "restricted:latest", 0));
        assert_eq!(said(&[("enforce", "strict"), ("warn", "soft"), ("audit", "x")]), wanted("restricted:latest", "privileged:latest", 3));
        assert_eq!(said(&[("enforce", "baseline"), ("enforce-version", "v1.030")]), wanted("baseline:latest", "baseline:latest", 1));
    }

    #[test]
    fn a_change_of_a_pod_counts_by_its_images() {
        let pod = |image: &str, ephemeral: Value| json!({"spec": {"containers": [{"name": "a", "image": image}], "ephemeralContainers": ephemeral}});
        let old = pod("a:1", json!([]));
        assert!(!matters(&old, &pod("a:1", json!([]))));
        assert!(matters(&old, &pod("a:2", json!([]))));
        let more = pod("a:1", json!([{"name": "b", "image": "b:1"}]));
        assert!(matters(&old, &more) && !matters(&more, &old));
    }
}
