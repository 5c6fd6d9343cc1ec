//! CronJobs (`pkg/controller/cronjob`): a Job at each time of a schedule.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    cron::Schedule,
    job::finished,
    look::{self, SECOND, annotate, deleting, flag, holds, items, number, owner_reference},
};
use crate::sandbox::{
    core::{State, meta, seconds, text},
    refusal::Answer,
    store::{Key, Stored},
};

const BY: By<'_> = controller!("cronjob-controller");

/// Makes it true.
pub(super) fn reconcile(state: &mut State, key: &Key, now: i64) -> Again {
    let Some(cron) = state.peek("batch", "cronjobs", &key.0, &key.1).cloned() else { return Ok(None) };
    let jobs = state.controlled("batch/jobs", &key.0, text(&cron.value, "/metadata/uid"));
    let mut status = cron.value.get("status").cloned().unwrap_or_else(|| json!({}));
    follow(state, &cron, &jobs, &mut status);
    clean_up(state, &cron, &jobs)?;
    let again = if deleting(&cron.value) { Ok(None) } else { start(state, &cron, &mut status, now) };
    let at = At::new("batch", "cronjobs", &key.0, &key.1);
    if let Some(stored) = state.peek("batch", "cronjobs", &key.0, &key.1).cloned() {
        state.change_status(BY, at, &stored, status)?;
    }
    again
}

fn about(cron: &Stored) -> (&str, &str, &Value) {
    ("batch/v1", "CronJob", &cron.value)
}

/// Notes which Jobs have ended, and drops those that are gone.
fn follow(state: &mut State, cron: &Stored, jobs: &[Arc<Stored>], status: &mut Value) {
    let mut active: Vec<Value> = Vec::new();
    for entry in items(&cron.value, "/status/active") {
        let job = jobs.iter().find(|job| text(&job.value, "/metadata/uid") == text(entry, "/uid"));
        match job {
            Some(job) if finished(&job.value) => {
                let how = if holds(&job.value, "Complete") { "Complete" } else { "Failed" };
                let message = format!("Saw completed job: {}, condition: {how}", text(&job.value, "/metadata/name"));
                state.tell(BY, about(cron), "Normal", "SawCompletedJob", &message);
                if let Some(done) = job.value.pointer("/status/completionTime") {
                    let newer = text(status, "/lastSuccessfulTime") < done.as_str().unwrap_or_default();
                    if newer {
                        status["lastSuccessfulTime"] = done.clone();
                    }
                }
            }
            Some(_) => active.push(entry.clone()),
            None => {
                let message = format!("Active job went missing: {}", text(entry, "/name"));
                state.tell(BY, about(cron), "Normal", "MissingJob", &message);
            }
        }
    }
    set_active(status, active);
}

fn set_active(status: &mut Value, active: Vec<Value>) {
    let map = crate::sandbox::core::as_map(status);
    if active.is_empty() {
        map.shift_remove("active");
    } else {
        map.insert("active".to_owned(), Value::Array(active));
    }
}

/// Starts the Job whose time has come. When the next one's comes.
fn start(state: &mut State, cron: &Stored, status: &mut Value, now: i64) -> Again {
    let value = &cron.value;
    if flag(value, "/spec/suspend") {
        return Ok(None);
    }
    let schedule = match Schedule::parse(text(value, "/spec/schedule")) {
        Ok(schedule) => schedule,
        Err(why) => {
            let message = format!("unparseable schedule: {:?} : {why}", text(value, "/spec/schedule"));
            state.tell(BY, about(cron), "Warning", "UnparseableSchedule", &message);
            return Ok(None);
        }
    };
    let zone = text(value, "/spec/timeZone");
    if !matches!(zone, "" | "UTC" | "Etc/UTC") {
        let message = format!("invalid timeZone: {zone:?}: the sandbox knows only UTC");
        state.tell(BY, about(cron), "Warning", "UnknownTimeZone", &message);
        return Ok(None);
    }
    let born = look::time(value, "/metadata/creationTimestamp").unwrap_or(now);
    let since = look::time(value, "/status/lastScheduleTime").unwrap_or(born);
    let deadline = number(value, "/spec/startingDeadlineSeconds").map(|secs| secs * SECOND);
    let since = deadline.map_or(since, |deadline| since.max(now - deadline));
    let again = schedule.after(now);
    let Some(due) = last_before(&schedule, since, now) else { return Ok(again) };
    if deadline.is_some_and(|deadline| due + deadline < now) {
        let message = format!("Missed scheduled time to start a job: {}", seconds(due));
        state.tell(BY, about(cron), "Warning", "MissSchedule", &message);
        return Ok(again);
    }
    let running = items(status, "/active").to_vec();
    match text(value, "/spec/concurrencyPolicy") {
        "Forbid" if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            state.tell(BY, about(cron), "Normal", "JobAlreadyActive", message);
            return Ok(again);
        }
        "Replace" => {
            for entry in &running {
                delete(state, cron, text(entry, "/name"))?;
            }
            set_active(status, Vec::new());
        }
        _ => {}
    }
    let made = match state.make(BY, At::new("batch", "jobs", text(value, "/metadata/namespace"), ""), job(cron, due)) {
        Ok(made) => made,
        // A Job of this time is there: it was started, and that was not noted.
        Err(refusal) if refusal.code() == 409 => {
            status["lastScheduleTime"] = Value::from(seconds(due));
            return Ok(again);
        }
        Err(refusal) => {
            let message = format!("Error creating job: {}", refusal.status()["message"].as_str().unwrap_or_default());
            state.tell(BY, about(cron), "Warning", "FailedCreate", &message);
            return Err(refusal);
        }
    };
    let name = text(&made.value, "/metadata/name");
    state.tell(BY, about(cron), "Normal", "SuccessfulCreate", &format!("Created job {name}"));
    let mut active = items(status, "/active").to_vec();
    active.push(json!({
        "kind": "Job", "namespace": text(value, "/metadata/namespace"), "name": name, "uid": text(&made.value, "/metadata/uid"),
        "apiVersion": "batch/v1", "resourceVersion": made.version.to_string(),
    }));
    set_active(status, active);
    status["lastScheduleTime"] = Value::from(seconds(due));
    Ok(again)
}

/// The last time of a schedule that has come. A long pause is stepped over, not counted out.
fn last_before(schedule: &Schedule, since: i64, now: i64) -> Option<i64> {
    let mut last = schedule.after(since).filter(|at| *at <= now)?;
    // A time within the last day, if there is one, is found in few steps; else the schedule is a rare one.
    for back in [3600, 86_400, 31 * 86_400] {
        if let Some(near) = schedule.after(now - back * SECOND).filter(|at| *at <= now && *at > last) {
            last = near;
            break;
        }
    }
    while let Some(next) = schedule.after(last).filter(|at| *at <= now) {
        last = next;
    }
    Some(last)
}

fn job(cron: &Stored, due: i64) -> Value {
    let value = &cron.value;
    let template = value.pointer("/spec/jobTemplate").unwrap_or(&Value::Null);
    // Its name tells its time, in minutes, so that no time is served twice.
    let name = format!("{}-{}", text(value, "/metadata/name"), due.div_euclid(60 * SECOND));
    let mut job = json!({
        "metadata": {
            "name": name, "namespace": text(value, "/metadata/namespace"),
            "ownerReferences": [owner_reference("batch/v1", "CronJob", value)],
        },
        "spec": template.get("spec").cloned().unwrap_or_default(),
    });
    for field in ["labels", "annotations"] {
        if let Some(found) = template.pointer(&format!("/metadata/{field}")) {
            meta(&mut job).insert(field.to_owned(), found.clone());
        }
    }
    annotate(&mut job, "batch.kubernetes.io/cronjob-scheduled-timestamp", &seconds(due));
    job
}

fn delete(state: &mut State, cron: &Stored, name: &str) -> Answer<()> {
    let namespace = text(&cron.value, "/metadata/namespace");
    state.remove(BY, At::new("batch", "jobs", namespace, name), &json!({"propagationPolicy": "Background"}))?;
    state.tell(BY, about(cron), "Normal", "SuccessfulDelete", &format!("Deleted job {name}"));
    Ok(())
}

/// Of Jobs that have ended only so many are kept.
fn clean_up(state: &mut State, cron: &Stored, jobs: &[Arc<Stored>]) -> Answer<()> {
    for (end, field, none) in [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)] {
        let limit = number(&cron.value, &format!("/spec/{field}")).unwrap_or(none);
        let mut ended: Vec<&Arc<Stored>> = jobs.iter().filter(|job| holds(&job.value, end) && !deleting(&job.value)).collect();
        ended.sort_by_key(|job| text(&job.value, "/status/startTime").to_owned());
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(surplus) {
            delete(state, cron, text(&job.value, "/metadata/name"))?;
        }
    }
    Ok(())
}
