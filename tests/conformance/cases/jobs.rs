//! What becomes of Jobs and CronJobs, on nodes that run them.

use serde_json::{Value, json};

use crate::{
    Case,
    answer::version,
    bench::{Bench, MERGE},
    case,
    nodes::{holds, name, number, script, template},
};

pub(crate) const CASES: &[Case] = &[
    case!(nodes job_completes, "a Job runs as many pods at once as it may, until as many have succeeded as it wants"),
    case!(nodes job_gives_up, "a Job whose pods fail tries again as often as it may"),
    case!(nodes job_with_indexes, "an indexed Job has a success for each index"),
    case!(nodes job_waits_while_it_is_suspended, "a suspended Job has no pods until it is let go"),
    case!(nodes cron_job_makes_a_job, "a CronJob makes up for the time it has missed, and not while it is suspended"),
];

/// The spec of a Job whose pods run a script.
fn job(text: &str, more: Value) -> Value {
    let mut template = template("work", json!([script("main", text)]));
    template["spec"]["restartPolicy"] = json!("Never");
    let mut spec = json!({"template": template});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    spec
}

async fn make(b: &Bench, spec: Value) -> Value {
    b.account().await;
    b.make("jobs", json!({"metadata": {"name": "work"}, "spec": spec})).await
}

/// The types and reasons of the conditions, in their order.
fn conditions(job: &Value) -> Vec<(&str, &str)> {
    let all = job["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|one| (one["type"].as_str().unwrap_or_default(), one["reason"].as_str().unwrap_or_default())).collect()
}

/// How the pods have ended, as `phase exit-code`.
async fn ends(b: &Bench) -> Vec<String> {
    let pods = b.get("pods?labelSelector=job-name%3Dwork").await.is(200);
    let end = |pod: &Value| {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        format!("{phase} {}", pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])
    };
    pods["items"].as_array().unwrap().iter().map(end).collect()
}

async fn job_completes(b: &Bench) {
    let made = make(b, job("exit 0", json!({"completions": 3, "parallelism": 2}))).await;
    let mut watch = b.watch(&format!("jobs?fieldSelector=metadata.name%3Dwork&resourceVersion={}", version(&made))).await;
    let done = loop {
        let (_, now) = watch.event().await;
        assert!(number(&now, "/status/active") <= 2, "more at once than it may have: {now}");
        if holds(&now, "Complete") {
            break now;
        }
    };
    assert_eq!(conditions(&done), [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")], "{done}");
    assert_eq!((number(&done, "/status/succeeded"), number(&done, "/status/failed")), (3, 0), "{done}");
    assert!(done["status"]["completionTime"].as_str() >= done["status"]["startTime"].as_str(), "{done}");
    assert_eq!(ends(b).await, ["Succeeded 0", "Succeeded 0", "Succeeded 0"]);
}

async fn job_gives_up(b: &Bench) {
    make(b, job("exit 3", json!({"backoffLimit": 1}))).await;
    let end = b.settled("jobs/work", |now| holds(now, "Failed")).await;
    assert_eq!(conditions(&end), [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")], "{end}");
    assert_eq!((number(&end, "/status/failed"), number(&end, "/status/succeeded")), (2, 0), "{end}");
    assert_eq!(end["status"].get("completionTime"), None, "{end}");
    assert_eq!(ends(b).await, ["Failed 3", "Failed 3"]);
}

async fn job_with_indexes(b: &Bench) {
    make(b, job("test \"$JOB_COMPLETION_INDEX\" -ge 0", json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}))).await;
    let done = b.settled("jobs/work", |now| holds(now, "Complete")).await;
    assert_eq!((&done["status"]["completedIndexes"], number(&done, "/status/succeeded")), (&json!("0,1"), 2), "{done}");
    let pods = b.get("pods?labelSelector=job-name%3Dwork").await.is(200);
    let mut indexes: Vec<(String, bool)> = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        let index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap_or_default().to_owned();
        let named = name(pod).starts_with(&format!("work-{index}-"));
        indexes.push((index, named));
    }
    indexes.sort();
    assert_eq!(indexes, [("0".to_owned(), true), ("1".to_owned(), true)], "{pods}");
}

async fn job_waits_while_it_is_suspended(b: &Bench) {
    make(b, job("exit 0", json!({"suspend": true}))).await;
    let held = b.settled("jobs/work", |now| holds(now, "Suspended")).await;
    assert_eq!((conditions(&held), held["status"].get("startTime")), (vec![("Suspended", "JobSuspended")], None), "{held}");
    assert_eq!(ends(b).await, [""; 0]);
    b.patch("jobs/work", MERGE, json!({"spec": {"suspend": false}})).await.is(200);
    let done = b.settled("jobs/work", |now| holds(now, "Complete")).await;
    assert!(!holds(&done, "Suspended") && conditions(&done).contains(&("Suspended", "JobResumed")), "{done}");
    assert_eq!(ends(b).await, ["Succeeded 0"]);
}

async fn cron_job_makes_a_job(b: &Bench) {
    b.account().await;
    let spec = json!({"schedule": "* * * * *", "suspend": true, "jobTemplate": {"spec": job("exit 0", json!({}))}});
    let made = b.make("cronjobs", json!({"metadata": {"name": "nightly"}, "spec": spec})).await;
    // As if it had last run ten minutes ago: then nobody has to wait for the next.
    let born: jiff::Timestamp = made["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
    let last = born.checked_sub(jiff::SignedDuration::from_mins(10)).unwrap().to_string();
    b.patch("cronjobs/nightly/status", MERGE, json!({"status": {"lastScheduleTime": last}})).await.is(200);
    let own = |jobs: &Value| -> Vec<Value> {
        let all = jobs["items"].as_array().into_iter().flatten();
        all.filter(|job| job["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]).cloned().collect()
    };
    assert!(own(&b.get("jobs").await.is(200)).is_empty(), "a Job while it is suspended");
    b.patch("cronjobs/nightly", MERGE, json!({"spec": {"suspend": false}})).await.is(200);
    let jobs = own(&b.settled("jobs", |jobs| !own(jobs).is_empty()).await);
    // Not before the controller has noted it: it writes the version it has read, and does not come back to it while it is suspended.
    b.settled("cronjobs/nightly", |cron| cron["status"]["lastScheduleTime"].as_str() > Some(last.as_str())).await;
    b.patch("cronjobs/nightly", MERGE, json!({"spec": {"suspend": true}})).await.is(200);
    // The last time that was missed, and no other.
    let at = jobs[0]["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str().unwrap_or_default().to_owned();
    let due: jiff::Timestamp = at.parse().unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(name(&jobs[0]), format!("nightly-{}", due.as_second() / 60));
    assert_eq!(due.as_second() % 60, 0, "{at}");
    assert!((-60..=120).contains(&(due.as_second() - born.as_second())), "{at}, made at {born}");
    let owner = &jobs[0]["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"], &owner["controller"]), (&json!("CronJob"), &json!("nightly"), &json!(true)), "{owner}");
    let cron = b.settled("cronjobs/nightly", |cron| cron["status"]["lastSuccessfulTime"].is_string()).await;
    assert!(cron["status"]["lastScheduleTime"].as_str() >= Some(at.as_str()), "{cron}");
    assert!(own(&b.get("jobs").await.is(200)).len() <= 2, "one that was missed, and at most the one of a minute that began meanwhile");
    b.settled(&format!("jobs/{}", name(&jobs[0])), |job| holds(job, "Complete")).await;
    b.settled("cronjobs/nightly", |cron| cron["status"].get("active").is_none()).await;
}
