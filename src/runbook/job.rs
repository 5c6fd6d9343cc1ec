//! A runbook that is a Job: the template of an existing CronJob (or Job) started anew, waited for, and its output kept.

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::{CronJob, Job, JobSpec},
    core::v1::Pod,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams, PostParams},
};

use super::{
    control::RunbookCx,
    mask::{KEEP, Tail},
    place,
};
use crate::{
    cluster::{CALL_LIMIT, Cluster},
    labels,
    scenario::types::ObjectName,
};

/// Time between looks at the Job.
const LOOK: Duration = Duration::from_millis(250);

/// How a Job ended.
pub(super) enum JobEnded {
    /// Complete.
    Succeeded(String),
    /// Failed, or it could not be made or followed.
    Failed(String),
    /// Its time was over; it was deleted.
    TimedOut(String),
    /// The drill is aborted; it was deleted.
    Cancelled(String),
}

/// Starts a Job from a template and follows it to its end.
pub(super) async fn run(cx: &RunbookCx, step: &str, template: &str, attempt: u32, within: Duration) -> JobEnded {
    let (job, full) = match make(cx, step, template, attempt).await {
        Ok(made) => made,
        Err(why) => return JobEnded::Failed(why),
    };
    let ended = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => None,
        ended = tokio::time::timeout(within, wait(cx, &job, &full)) => Some(ended),
    };
    let output = output(&cx.cluster, &job.namespace().unwrap_or_default(), &job.name_any()).await;
    match ended {
        Some(Ok(Ok(()))) => JobEnded::Succeeded(format!("{full} is complete\n{output}")),
        Some(Ok(Err(why))) => JobEnded::Failed(format!("{full}: {why}\n{output}")),
        Some(Err(_)) => JobEnded::TimedOut(format!("{full} {}\n{output}", stop(cx, &job).await)),
        None => JobEnded::Cancelled(format!("{full} {}\n{output}", stop(cx, &job).await)),
    }
}

/// Makes the Job, as `kubectl create job --from` does, with the drill's labels on it and on its pods.
async fn make(cx: &RunbookCx, step: &str, template: &str, attempt: u32) -> Result<(Job, String), String> {
    let from: ObjectName = template.parse()?;
    let namespace = &from.namespace;
    let cron = cx.cluster.get_opt::<CronJob>(namespace, &from.name).await.map_err(|e| e.to_string())?;
    let (spec, mut labels, mut annotations) = match cron.and_then(|c| c.spec).map(|s| s.job_template) {
        Some(template) => {
            let meta = template.metadata.unwrap_or_default();
            (template.spec, meta.labels.unwrap_or_default(), meta.annotations.unwrap_or_default())
        }
        None => {
            let job = cx.cluster.get_opt::<Job>(namespace, &from.name).await.map_err(|e| e.to_string())?;
            let job = job.ok_or_else(|| format!("there is neither a CronJob nor a Job {template}"))?;
            (job.spec.map(as_template), job.metadata.labels.unwrap_or_default(), std::collections::BTreeMap::new())
        }
    };
    let mut spec = spec.ok_or_else(|| format!("{template} has no template"))?;
    let ours = [(labels::DRILL, cx.drill.as_str()), (labels::ROLE, place::ROLE), (labels::MANAGED_BY, labels::MANAGER)];
    let pods = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in ours {
        labels.insert(key.to_owned(), value.to_owned());
        pods.insert(key.to_owned(), value.to_owned());
    }
    annotations.insert("cronjob.kubernetes.io/instantiate".to_owned(), "manual".to_owned());
    // It must still be there when its output is read; the drill removes it.
    spec.ttl_seconds_after_finished = None;
    let name = place::name(&cx.drill, step, attempt);
    let full = format!("Job {namespace}/{name}");
    let job = Job {
        metadata: kube::core::ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    };
    let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
    match cx.cluster.call(format!("create {full} from {template}"), cx.cluster.api::<Job>(namespace).create(&params, &job)).await {
        Ok(made) => Ok((made, full)),
        // Of this drill before it was interrupted.
        Err(e) if e.is_conflict() => match cx.cluster.get_opt::<Job>(namespace, &name).await {
            Ok(Some(job)) if job.labels().get(labels::DRILL) == Some(&cx.drill) => Ok((job, full)),
            _ => Err(e.to_string()),
        },
        Err(e) => Err(e.to_string()),
    }
}

/// A Job's spec without what the Job controller put in.
fn as_template(mut spec: JobSpec) -> JobSpec {
    spec.selector = None;
    spec.manual_selector = None;
    if let Some(labels) = spec.template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.retain(|key, _| {
            !matches!(key.as_str(), "controller-uid" | "job-name" | "batch.kubernetes.io/controller-uid" | "batch.kubernetes.io/job-name")
        });
    }
    spec
}

async fn wait(cx: &RunbookCx, job: &Job, full: &str) -> Result<(), String> {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    // A look that fails is not the Job's failure; many in a row are the end of knowing.
    let mut failed_looks = 0;
    loop {
        match cx.cluster.get_opt::<Job>(&namespace, &name).await {
            Ok(None) => return Err("it was deleted while it ran".to_owned()),
            Ok(Some(job)) => {
                failed_looks = 0;
                for condition in job.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter(|c| c.status == "True") {
                    let why = || [&condition.reason, &condition.message].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
                    match condition.type_.as_str() {
                        "Complete" => return Ok(()),
                        "Failed" => return Err(why()),
                        _ => {}
                    }
                }
            }
            Err(error) => {
                failed_looks += 1;
                if failed_looks == 10 {
                    return Err(format!("failed to follow {full}: {error}"));
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The end of what the newest pod of a Job wrote, masked.
pub(crate) async fn output(cluster: &Cluster, namespace: &str, name: &str) -> String {
    let pods = cluster.api::<Pod>(namespace);
    let list = ListParams::default().labels(&format!("job-name={name}"));
    let mut pods_of = match cluster.call(format!("list pods of Job {namespace}/{name}"), pods.list(&list)).await {
        Ok(list) => list.items,
        Err(error) => return format!("its output could not be read: {error}"),
    };
    pods_of.sort_by_key(|p| p.creation_timestamp().map(|t| t.0));
    let Some(pod) = pods_of.pop() else { return "no pod of it is left, so there is no output".to_owned() };
    let (masks, unreadable) = place::masks(cluster, &place::secrets_of(namespace, pod.spec.as_ref())).await;
    if let Some(first) = unreadable.first() {
        return format!("output not kept, because it could not be masked: {first}");
    }
    let containers = pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone()).collect::<Vec<_>>();
    let mut shown = String::new();
    for container in containers {
        let params = LogParams { container: Some(container.clone()), tail_lines: Some(400), ..LogParams::default() };
        let mut tail = Tail::default();
        let name = pod.name_any();
        match crate::cluster::limit(pods.logs(&name, &params), CALL_LIMIT, format!("read the log of {namespace}/{name} {container}")).await
        {
            Ok(log) => tail.push(log.as_bytes()),
            // No log because it never ran: then why it did not run is what matters.
            Err(error) => tail.push(format!("{error} ({})", place::waiting_for(&pod)).as_bytes()),
        }
        shown.push_str(&format!("[{container}] {}\n", tail.show(&masks)));
    }
    super::control::end_of(&shown, KEEP)
}

async fn stop(cx: &RunbookCx, job: &Job) -> String {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let jobs = cx.cluster.api::<Job>(&namespace);
    match cx.cluster.call(format!("delete Job {namespace}/{name}"), jobs.delete(&name, &DeleteParams::background())).await {
        Ok(_) => "was deleted with its pods".to_owned(),
        Err(e) if e.is_not_found() => "was gone".to_owned(),
        Err(e) => e.to_string(),
    }
}
