//! Workloads (`pkg/apis/apps/validation`, `pkg/apis/batch/validation`).

use kube::core::SelectorExt as _;
use serde_json::{Value, json};

use super::{names, pods};
use crate::sandbox::{
    core::{pairs, text},
    kinds::Kind,
    refusal::FieldError,
};

fn not_negative(spec: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(n) = spec.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(format!("{path}.{field}"), n, "must be greater than or equal to 0"));
    }
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let selector = serde_json::from_value::<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>(selector.clone()).ok();
    let labels = pairs(labels, "").into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    selector.and_then(|s| kube::core::Selector::try_from(s).ok()).is_some_and(|s| s.matches(&labels))
}

/// Deployments and what is like them.
pub(super) fn replicated(kind: &Kind, value: &Value, errors: &mut Vec<FieldError>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    not_negative(spec, "replicas", "spec", errors);
    let labels = value.pointer("/spec/template/metadata/labels").cloned().unwrap_or(Value::Null);
    let selector = spec.get("selector").cloned().unwrap_or_else(|| json!({}));
    let empty = selector.as_object().is_none_or(serde_json::Map::is_empty);
    if empty {
        errors.push(FieldError::required("spec.selector", ""));
    } else {
        names::labels(&selector["matchLabels"], "spec.selector.matchLabels", errors);
    }
    if empty || !matches(&selector, &labels) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
    }
    names::labels(&labels, "spec.template.labels", errors);
    let mut template = value.pointer("/spec/template/spec").cloned().unwrap_or(Value::Null);
    // Each pod has a volume of the name of each claim template.
    let claims = value.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array).into_iter().flatten();
    let claimed = claims.map(|claim| json!({"name": text(claim, "/metadata/name"), "emptyDir": {}})).collect::<Vec<_>>();
    if let Some(template) = template.as_object_mut().filter(|_| !claimed.is_empty()) {
        let volumes = template.entry("volumes").or_insert_with(|| json!([]));
        volumes.as_array_mut().into_iter().for_each(|volumes| volumes.extend(claimed.clone()));
    }
    pods::spec(&template, "spec.template.spec", errors);
    let policy = text(&template, "/restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    not_negative(spec, "minReadySeconds", "spec", errors);
    not_negative(spec, "revisionHistoryLimit", "spec", errors);
    not_negative(spec, "progressDeadlineSeconds", "spec", errors);
    if kind.kind == "Deployment" {
        let strategy = text(spec, "/strategy/type");
        match strategy {
            "RollingUpdate" => {}
            "Recreate" => {
                if spec.pointer("/strategy/rollingUpdate").is_some() {
                    let why = "may not be specified when strategy `type` is 'Recreate'";
                    errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
                }
            }
            other => errors.push(FieldError::not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"])),
        }
    }
}

/// The numbers of a ReplicaSet's status go together.
pub(super) fn replica_set_status(value: &Value, errors: &mut Vec<FieldError>) {
    let number = |field: &str| value.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    for (field, most) in [
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if number(field) > number(most) {
            errors.push(FieldError::invalid(format!("status.{field}"), number(field), format!("cannot be greater than status.{most}")));
        }
    }
}

/// What of a StatefulSet cannot be changed.
pub(super) fn stateful_set_frozen(old: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let bare = |value: &Value| {
        let mut spec = value.get("spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|field, _| !FREE.contains(&field.as_str()));
        }
        spec
    };
    if bare(old) != bare(value) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                   'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", why));
    }
}

/// A Job's spec.
pub(super) fn job(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        not_negative(spec, field, path, errors);
    }
    let template = spec.pointer("/template/spec").cloned().unwrap_or(Value::Null);
    names::labels(spec.pointer("/template/metadata/labels").unwrap_or(&Value::Null), &format!("{path}.template.labels"), errors);
    pods::spec(&template, &format!("{path}.template.spec"), errors);
    if text(&template, "/restartPolicy") == "Always" {
        let field = format!("{path}.template.spec.restartPolicy");
        let why = "valid values: \"OnFailure\", \"Never\"";
        errors.push(FieldError::new(crate::sandbox::refusal::Wrong::Required, field, Value::Null, why));
    }
}

/// What says where pods may run.
const DIRECTIVES: [&str; 4] = ["nodeSelector", "tolerations", "affinity", "schedulingGates"];

/// What of a Job cannot be changed.
pub(super) fn job_frozen(old: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    let at = |value: &Value, pointer: &str| value.pointer(pointer).cloned().unwrap_or(Value::Null);
    let suspended = |value: &Value| value.pointer("/spec/suspend") == Some(&Value::Bool(true));
    for (field, pointer) in [
        ("spec.completions", "/spec/completions"),
        ("spec.selector", "/spec/selector"),
        ("spec.template", "/spec/template"),
        ("spec.completionMode", "/spec/completionMode"),
        ("spec.podReplacementPolicy", "/spec/podReplacementPolicy"),
    ] {
        let (mut was, mut is) = (at(old, pointer), at(value, pointer));
        if field == "spec.template" && suspended(old) && at(old, "/status/startTime").is_null() {
            // Of a Job that has not started what says where its pods may run can be changed.
            for template in [&mut was, &mut is] {
                for (part, names) in [("metadata", &["labels", "annotations"][..]), ("spec", &DIRECTIVES)] {
                    if let Some(part) = template.get_mut(part).and_then(Value::as_object_mut) {
                        part.retain(|name, _| !names.contains(&name.as_str()));
                    }
                }
            }
        }
        if was != is {
            errors.push(FieldError::invalid(field, is, "field is immutable"));
        }
    }
}

/// A CronJob.
pub(super) fn cron_job(value: &Value, errors: &mut Vec<FieldError>) {
    let schedule = text(value, "/spec/schedule");
    if schedule.is_empty() {
        errors.push(FieldError::required("spec.schedule", ""));
    } else if let Some(why) = wrong_schedule(schedule) {
        errors.push(FieldError::invalid("spec.schedule", schedule, why));
    }
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let zone = text(spec, "/timeZone");
    let areas = ["Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Etc", "Europe", "Indian", "Pacific", "US"];
    // Which places there are in an area nobody here knows; Kubernetes carries a table of them.
    if zone.split_once('/').is_some_and(|(area, _)| !areas.contains(&area)) {
        errors.push(FieldError::invalid("spec.timeZone", zone, format!("unknown time zone {zone}")));
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec, field, "spec", errors);
    }
    let policy = text(spec, "/concurrencyPolicy");
    if !matches!(policy, "Allow" | "Forbid" | "Replace") {
        errors.push(FieldError::not_supported("spec.concurrencyPolicy", policy, &["Allow", "Forbid", "Replace"]));
    }
    job(value.pointer("/spec/jobTemplate/spec").unwrap_or(&Value::Null), "spec.jobTemplate.spec", errors);
}

/// Why a text is not a schedule: five fields, or a name such as `@hourly` (`github.com/robfig/cron`).
fn wrong_schedule(schedule: &str) -> Option<String> {
    if let Some(name) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = name.strip_prefix("every ").is_some_and(|text| !text.trim().is_empty());
        return (!known.contains(&name) && !every).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
    fields.iter().zip(ranges).find_map(|(field, range)| field.split(',').find_map(|part| wrong_part(part, range)))
}

fn wrong_part(part: &str, (least, most): (u32, u32)) -> Option<String> {
    const NAMES: [&str; 19] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "sun", "mon", "tue", "wed", "thu", "fri", "sat",
    ];
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| step.parse::<u32>().map_or(true, |step| step == 0)) {
        return Some(format!("step of range should be a positive number: {part}"));
    }
    if matches!(range, "*" | "?") {
        return None;
    }
    let number = |text: &str| match text.parse::<u32>() {
        Ok(number) => Ok(number),
        Err(_) if NAMES.contains(&text.to_lowercase().as_str()) => Ok(least.max(1)),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")),
    };
    let (start, end) = range.split_once('-').unwrap_or((range, range));
    match (number(start), number(end)) {
        (Err(why), _) | (_, Err(why)) => Some(why),
        (Ok(start), _) if start < least => Some(format!("beginning of range ({start}) below minimum ({least}): {part}")),
        (_, Ok(end)) if end > most => Some(format!("end of range ({end}) above maximum ({most}): {part}")),
        (Ok(start), Ok(end)) if start > end => Some(format!("beginning of range ({start}) beyond end of range ({end}): {part}")),
        _ => None,
    }
}
