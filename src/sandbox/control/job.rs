//! Jobs (`pkg/controller/job`): pods until enough have succeeded, or too many have failed.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    job_status::{self, Counts},
    look::{self, SECOND, annotate, deleting, flag, holds, items, number, owner_reference, pod_from, set_label},
};
use crate::sandbox::{
    core::{State, meta, text},
    refusal::Answer,
    store::{Key, Stored},
};

pub(super) const BY: By<'_> = controller!("job-controller");
const TTL: By<'_> = controller!("ttl-after-finished-controller");
/// Keeps a pod until the Job has counted it (KEP-2307).
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The first and the longest pause after a pod has failed.
const BACKOFF_US: (i64, i64) = (10 * SECOND, 600 * SECOND);

/// A Job has one of its last conditions.
pub(super) fn finished(job: &Value) -> bool {
    holds(job, "Complete") || holds(job, "Failed")
}

/// A pod counts as succeeded, or as failed (`isPodFailed`: also when it is deleted before it has ended, unless only
/// failed ones are replaced).
pub(super) fn outcome(job: &Value, pod: &Value) -> Option<bool> {
    match text(pod, "/status/phase") {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        _ if deleting(pod) && text(job, "/spec/podReplacementPolicy") != "Failed" => Some(false),
        _ => None,
    }
}

/// When a pod ended.
pub(super) fn ended_at(pod: &Value) -> Option<i64> {
    let containers = items(pod, "/status/containerStatuses").iter();
    let last = containers.filter_map(|c| look::time(c, "/state/terminated/finishedAt")).max();
    last.or_else(|| look::time(pod, "/metadata/deletionTimestamp"))
}

/// Makes it true.
pub(super) fn reconcile(state: &mut State, key: &Key, now: i64) -> Again {
    let Some(job) = state.peek("batch", "jobs", &key.0, &key.1).cloned() else {
        release_orphans(state, key)?;
        return Ok(None);
    };
    if finished(&job.value) {
        release(state, &job, &job_status::pods(state, &job))?;
        return expire(state, &job, now);
    }
    if deleting(&job.value) {
        release(state, &job, &job_status::pods(state, &job))?;
        return Ok(None);
    }
    state.claim(BY, ("", "pods"), ("batch/v1", "Job"), &job.value)?;
    let pods = job_status::pods(state, &job);
    let counts = Counts::of(&job.value, &pods);
    let suspended = flag(&job.value, "/spec/suspend");
    let mut verdict =
        if suspended && job.value.pointer("/status/startTime").is_none() { None } else { judge(&job.value, &counts, &pods, now) };
    // What was decided stays decided while the last pods end.
    for (kind, end) in [("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")] {
        if let Some(decided) = look::condition(&job.value, kind).filter(|c| text(c, "/status") == "True") {
            verdict = Some(Verdict { end, reason: text(decided, "/reason").to_owned(), message: text(decided, "/message").to_owned() });
        }
    }
    let mut again: Option<i64> = None;
    let mut done = Ok(());
    if verdict.is_some() || suspended {
        for pod in pods.iter().filter(|pod| look::active(&pod.value)) {
            state.remove(BY, At::pod(&key.0, text(&pod.value, "/metadata/name")), &json!({}))?;
        }
    } else {
        match manage(state, &job, &counts, &pods, now) {
            Ok(at) => again = at,
            Err(refusal) => done = Err(refusal),
        }
    }
    let pods = job_status::pods(state, &job);
    let next = job_status::write(state, &job, &pods, verdict.as_ref(), suspended)?;
    release(state, &job, &pods)?;
    let deadline = number(&job.value, "/spec/activeDeadlineSeconds").zip(look::time(&job.value, "/status/startTime").or(Some(now)));
    let deadline = deadline.map(|(secs, since)| since + secs * SECOND).filter(|at| *at > now && verdict.is_none() && !suspended);
    done.map(|()| [again, next, deadline].into_iter().flatten().min())
}

/// How a Job ends.
pub(super) struct Verdict {
    /// `Complete` or `Failed`.
    pub(super) end: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

fn judge(job: &Value, counts: &Counts, pods: &[Arc<Stored>], now: i64) -> Option<Verdict> {
    let verdict = |end, reason: &str, message: &str| Some(Verdict { end, reason: reason.to_owned(), message: message.to_owned() });
    let limit = number(job, "/spec/backoffLimit").unwrap_or(6);
    let in_place = text(job, "/spec/template/spec/restartPolicy") == "OnFailure" && {
        let restarts = |pod: &Value| -> i64 {
            let all = items(pod, "/status/initContainerStatuses").iter().chain(items(pod, "/status/containerStatuses"));
            all.filter_map(|c| number(c, "/restartCount")).sum()
        };
        let alive = pods.iter().filter(|pod| matches!(text(&pod.value, "/status/phase"), "Running" | "Pending"));
        let restarts: i64 = alive.map(|pod| restarts(&pod.value)).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    };
    if counts.failed > limit || in_place {
        return verdict("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let since = look::time(job, "/status/startTime");
    if let Some((secs, since)) = number(job, "/spec/activeDeadlineSeconds").zip(since)
        && since + secs * SECOND <= now
        && !flag(job, "/spec/suspend")
    {
        return verdict("Failed", "DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let complete = match number(job, "/spec/completions") {
        Some(wanted) => counts.succeeded >= wanted,
        None => counts.succeeded > 0 && counts.active == 0,
    };
    if complete {
        return verdict("Complete", "CompletionsReached", "Reached expected number of succeeded pods");
    }
    None
}

/// Makes and deletes pods. When it may make the next, if it has to wait.
fn manage(state: &mut State, job: &Stored, counts: &Counts, pods: &[Arc<Stored>], now: i64) -> Answer<Option<i64>> {
    let value = &job.value;
    let namespace = text(value, "/metadata/namespace");
    let parallelism = number(value, "/spec/parallelism").unwrap_or(1);
    let wanted = match number(value, "/spec/completions") {
        Some(completions) => (completions - counts.succeeded).clamp(0, parallelism),
        // Once one has succeeded there are no new ones.
        None if counts.succeeded > 0 => counts.active.min(parallelism),
        None => parallelism,
    };
    let active: Vec<&Arc<Stored>> = pods.iter().filter(|pod| look::active(&pod.value)).collect();
    let surplus = counts.active - wanted;
    if surplus > 0 {
        // Those that have run for the shortest time.
        let mut young = active;
        young.sort_by_key(|pod| std::cmp::Reverse(pod.version));
        for pod in young.into_iter().take(usize::try_from(surplus).unwrap_or(0)) {
            state.remove(BY, At::pod(namespace, text(&pod.value, "/metadata/name")), &json!({}))?;
        }
        return Ok(None);
    }
    let only_failed = text(value, "/spec/podReplacementPolicy") == "Failed";
    let leaving = if only_failed { counts.terminating } else { 0 };
    let missing = (wanted - counts.active - leaving).max(0);
    if missing == 0 {
        return Ok(None);
    }
    let ready_at = backoff(value, pods);
    if ready_at > now {
        return Ok(Some(ready_at));
    }
    let mut free = counts.free_indexes(value, pods);
    for _ in 0..missing {
        let indexed = text(value, "/spec/completionMode") == "Indexed";
        let index = if indexed { free.next() } else { None };
        if indexed && index.is_none() {
            break;
        }
        let made = make(state, job, index)?;
        let message = format!("Created pod: {}", text(&made.value, "/metadata/name"));
        state.tell(BY, ("batch/v1", "Job", value), "Normal", "SuccessfulCreate", &message);
    }
    Ok(None)
}

/// Until when no new pod is made: 10 s after a failure, twice as long after each further one, at most 10 min; a success
/// forgives (`backoff_utils.go`).
fn backoff(job: &Value, pods: &[Arc<Stored>]) -> i64 {
    let of = |good: bool| pods.iter().filter(move |pod| outcome(job, &pod.value) == Some(good)).filter_map(|pod| ended_at(&pod.value));
    let forgiven = of(true).max().unwrap_or(i64::MIN);
    let failed: Vec<i64> = of(false).filter(|at| *at > forgiven).collect();
    let Some(last) = failed.iter().max() else { return 0 };
    let doubled = u32::try_from(failed.len() - 1).unwrap_or(u32::MAX).min(10);
    last + (BACKOFF_US.0 << doubled).min(BACKOFF_US.1)
}

fn make(state: &mut State, job: &Stored, index: Option<i64>) -> Answer<Arc<Stored>> {
    let value = &job.value;
    let (namespace, name) = (text(value, "/metadata/namespace"), text(value, "/metadata/name"));
    let template = value.pointer("/spec/template").unwrap_or(&Value::Null);
    let mut pod = pod_from(template, owner_reference("batch/v1", "Job", value));
    let metadata = meta(&mut pod);
    metadata.insert("finalizers".to_owned(), json!([TRACKING]));
    let prefix = index.map_or_else(|| format!("{name}-"), |index| format!("{name}-{index}-"));
    metadata.insert("generateName".to_owned(), Value::from(prefix));
    if let Some(index) = index {
        annotate(&mut pod, INDEX, &index.to_string());
        set_label(&mut pod, INDEX, &index.to_string());
        let from = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": format!("metadata.labels['{INDEX}']")}}});
        for list in ["/spec/initContainers", "/spec/containers"] {
            for container in pod.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let env = crate::sandbox::core::as_map(container).entry("env").or_insert_with(|| json!([]));
                if let Value::Array(env) = env {
                    env.push(from.clone());
                }
            }
        }
        look::part(&mut pod, "spec").insert("hostname".to_owned(), Value::from(format!("{name}-{index}")));
    }
    match state.make(BY, At::pod(namespace, ""), pod) {
        Ok(made) => Ok(made),
        Err(refusal) => {
            let message = format!("Error creating: {}", refusal.status()["message"].as_str().unwrap_or_default());
            state.tell(BY, ("batch/v1", "Job", value), "Warning", "FailedCreate", &message);
            Err(refusal)
        }
    }
}

/// The index of an indexed Job's pod.
pub(super) fn index_of(pod: &Value) -> Option<i64> {
    look::annotation(pod, INDEX).parse().ok()
}

/// Lets go of pods that were counted.
fn release(state: &mut State, job: &Stored, pods: &[Arc<Stored>]) -> Answer<()> {
    let all = finished(&job.value) || deleting(&job.value);
    for pod in pods {
        let held = crate::sandbox::core::strings(&pod.value, "/metadata/finalizers").contains(&TRACKING);
        if held && (all || outcome(&job.value, &pod.value).is_some()) {
            let_go(state, &pod.value)?;
        }
    }
    Ok(())
}

fn let_go(state: &mut State, pod: &Value) -> Answer<()> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let Some(stored) = state.peek("", "pods", namespace, name).cloned() else { return Ok(()) };
    let mut value = stored.value.clone();
    if let Some(Value::Array(finalizers)) = meta(&mut value).get_mut("finalizers") {
        finalizers.retain(|f| f != TRACKING);
    }
    state.change(BY, At::pod(namespace, name), "", value).map(drop)
}

/// Pods of a Job that is gone are nobody's to count.
fn release_orphans(state: &mut State, key: &Key) -> Answer<()> {
    let held = |pod: &Value| {
        crate::sandbox::core::strings(pod, "/metadata/finalizers").contains(&TRACKING)
            && look::controller_of(pod).is_none_or(|(kind, name, _)| kind == "Job" && name == key.1)
            && look::label(pod, "batch.kubernetes.io/job-name") == key.1
    };
    let pods: Vec<Arc<Stored>> =
        state.store.list("/pods", &key.0).filter(|(_, pod)| held(&pod.value)).map(|(_, pod)| Arc::clone(pod)).collect();
    pods.iter().try_for_each(|pod| let_go(state, &pod.value))
}

/// `ttlSecondsAfterFinished`.
fn expire(state: &mut State, job: &Stored, now: i64) -> Again {
    let value = &job.value;
    let Some(ttl) = number(value, "/spec/ttlSecondsAfterFinished").filter(|_| !deleting(value)) else { return Ok(None) };
    let ends = ["Complete", "Failed"].into_iter().filter_map(|kind| look::condition(value, kind));
    let finished = ends.filter_map(|c| look::time(c, "/lastTransitionTime")).min().unwrap_or(now);
    let at = finished + ttl * SECOND;
    if at > now {
        return Ok(Some(at));
    }
    let options = json!({"propagationPolicy": "Foreground", "preconditions": {"uid": text(value, "/metadata/uid")}});
    state.remove(TTL, At::new("batch", "jobs", text(value, "/metadata/namespace"), text(value, "/metadata/name")), &options)?;
    Ok(None)
}
