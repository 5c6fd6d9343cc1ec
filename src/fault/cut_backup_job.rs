//! `cutBackupJob`: a backup job that never starts (`suspend`), is killed in the middle (`killRunning`), or says that it has
//! succeeded and has copied nothing (`empty`).

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Container, ContainerState, Pod, PodSpec},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Preconditions, PropagationPolicy},
};

use super::{
    ContainerCommand, CronJobChange, FaultCx, FaultError, Prepared, Undo,
    change::{Decision, as_is, change, mark, marked_by, only, refuse_foreign, touched, unmark, until},
};
use crate::{
    clock::Stamp,
    journal::{RevertResult, TouchedObject},
    plan::ResolvedObject,
    scenario::types::{CutBackupJob, CutHow, Dur, FaultSpec},
};

/// What `empty` puts in place of every container's command: it succeeds and does nothing, in an image that has it. Whether an
/// image does cannot be seen in the API; [`holds`] looks at the pods that were made since.
const STAND_IN: &str = "true";
/// How often a Job is looked at again when its status changes under the deletion.
const CHANGES: usize = 8;

/// An undo taken apart.
struct Cut<'a> {
    id: (&'a str, &'a str, &'a str),
    change: &'a CronJobChange,
}

fn parts(undo: &Undo) -> Result<Cut<'_>, FaultError> {
    match undo {
        Undo::CronJob { namespace, name, uid, change } => Ok(Cut { id: (namespace, name, uid), change }),
        _ => Err(FaultError::NotBuilt),
    }
}

fn is_suspended(cron: &CronJob) -> bool {
    cron.spec.as_ref().and_then(|s| s.suspend).unwrap_or(false)
}

fn pod_spec(cron: &CronJob) -> Option<&PodSpec> {
    cron.spec.as_ref()?.job_template.spec.as_ref()?.template.spec.as_ref()
}

/// The containers that must end for the Job to succeed: a sidecar (an init container that is always restarted) is not waited
/// for, and is left alone.
fn ends(container: &Container) -> bool {
    container.restart_policy.as_deref() != Some("Always")
}

/// The command lines of a pod's containers and init containers: either may be what copies the data. Names are unique in a pod.
fn command_lines(spec: &PodSpec) -> Vec<ContainerCommand> {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.filter(|c| ends(c))
        .map(|c| ContainerCommand { container: c.name.clone(), command: c.command.clone(), args: c.args.clone() })
        .collect()
}

fn commands(cron: &CronJob) -> Vec<ContainerCommand> {
    pod_spec(cron).map(command_lines).unwrap_or_default()
}

fn stand_ins(before: &[ContainerCommand]) -> Vec<ContainerCommand> {
    before
        .iter()
        .map(|c| ContainerCommand { container: c.container.clone(), command: Some(vec![STAND_IN.to_owned()]), args: None })
        .collect()
}

/// A merge patch that sets the containers' commands. A merge patch replaces a list whole, so all of each container goes along as
/// it was read; the resourceVersion that goes along too refuses it if anything has changed since.
fn with_commands(cron: &CronJob, wanted: &[ContainerCommand]) -> serde_json::Value {
    let changed = |containers: &[Container]| {
        let mut all = containers.to_vec();
        for container in &mut all {
            if let Some(wanted) = wanted.iter().find(|w| w.container == container.name) {
                container.command.clone_from(&wanted.command);
                container.args.clone_from(&wanted.args);
            }
        }
        all
    };
    let mut spec = serde_json::json!({});
    if let Some(now) = pod_spec(cron) {
        spec["containers"] = serde_json::json!(changed(&now.containers));
        if let Some(init) = now.init_containers.as_deref().filter(|init| !init.is_empty()) {
            spec["initContainers"] = serde_json::json!(changed(init));
        }
    }
    serde_json::json!({"jobTemplate": {"spec": {"template": {"spec": spec}}}})
}

pub(super) async fn prepare(cx: &FaultCx, spec: &CutBackupJob, targets: &[ResolvedObject]) -> Result<Prepared, FaultError> {
    let target = only(targets, "cut the backup job", "CronJob")?;
    let (namespace, name, uid) = (target.namespace.clone(), target.name.clone(), target.uid.clone());
    let called = format!("cut CronJob {namespace}/{name}");
    let cron = as_is::<CronJob>(cx, target, &called).await?;
    let mut objects = vec![touched(target)];
    let change = match spec.how {
        CutHow::Suspend if is_suspended(&cron) => {
            return Err(FaultError::failed(called, "it is suspended already: nothing would change"));
        }
        CutHow::Suspend => CronJobChange::Suspended { before: false },
        CutHow::Empty => {
            let before = commands(&cron);
            if before == stand_ins(&before) {
                return Err(FaultError::failed(called, format!("its command is `{STAND_IN}` already: nothing would change")));
            }
            CronJobChange::Emptied { before }
        }
        CutHow::KillRunning => {
            let Some(job) = running(cx, &namespace, &uid).await? else {
                return Err(FaultError::failed(called, "no Job of it is running: let the step wait for one with `when`"));
            };
            let (name, uid) = (job.name_any(), job.uid().unwrap_or_default());
            objects = vec![TouchedObject { kind: "Job".to_owned(), namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }];
            CronJobChange::JobKilled { job: name, uid }
        }
    };
    Ok(Prepared { undo: Undo::CronJob { namespace, name, uid, change }, objects })
}

/// The youngest running Job of a CronJob.
async fn running(cx: &FaultCx, namespace: &str, cron_uid: &str) -> Result<Option<Job>, FaultError> {
    let jobs = cx.cluster.list_all(&cx.cluster.api::<Job>(namespace), None, &format!("list Jobs in {namespace}")).await?;
    let mut running: Vec<Job> = jobs
        .into_iter()
        .filter(|job| job.owner_references().iter().any(|o| o.uid == cron_uid))
        .filter(|job| job.status.as_ref().is_some_and(|s| s.active.unwrap_or(0) > 0) && job.metadata.deletion_timestamp.is_none())
        .collect();
    running.sort_by_key(|job| (job.creation_timestamp().map(|t| t.0), job.name_any()));
    Ok(running.pop())
}

/// Waits for the moment of the Job's run at which it is to be killed.
pub(super) async fn arm(cx: &FaultCx, spec: &FaultSpec, undo: &Undo) -> Result<(), FaultError> {
    let (Some(after), CronJobChange::JobKilled { job, .. }) = (spec.cut_backup_job.as_ref().and_then(|c| c.after), parts(undo)?.change)
    else {
        return Ok(());
    };
    let namespace = parts(undo)?.id.0;
    let Some(found) = cx.cluster.get_opt::<Job>(namespace, job).await? else { return Ok(()) };
    let Some(started) = found.status.and_then(|s| s.start_time) else { return Ok(()) };
    let ran_us = cx.clock.now().wall_us.saturating_sub(started.0.as_microsecond()).max(0);
    let left = after.as_micros().saturating_sub(ran_us.unsigned_abs());
    tokio::time::sleep(Dur::from_micros(left).0).await;
    Ok(())
}

pub(super) async fn inject(cx: &FaultCx, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let cut = parts(undo)?;
    let called = format!("cut CronJob {}/{}", cut.id.0, cut.id.1);
    let start = cx.clock.now();
    if let CronJobChange::JobKilled { job, uid } = cut.change {
        kill(cx, cut.id.0, job, uid).await?;
        return Ok((start, cx.clock.now()));
    }
    let done = change::<CronJob, ()>(cx, cut.id, |now| {
        refuse_foreign(cx, now, &called)?;
        let ours = marked_by(now).is_some();
        let mut patch = mark(&cx.drill);
        match cut.change {
            CronJobChange::Suspended { .. } if is_suspended(now) && ours => return Ok(Decision::Done(())),
            CronJobChange::Suspended { .. } if is_suspended(now) => {
                return Err(FaultError::failed(&called, "others have suspended it meanwhile"));
            }
            CronJobChange::Suspended { .. } => patch["spec"]["suspend"] = true.into(),
            CronJobChange::Emptied { before } if ours && commands(now) == stand_ins(before) => return Ok(Decision::Done(())),
            CronJobChange::Emptied { before } if commands(now) == *before => patch["spec"] = with_commands(now, &stand_ins(before)),
            CronJobChange::Emptied { .. } => return Err(FaultError::failed(&called, "others have changed its command meanwhile")),
            CronJobChange::JobKilled { .. } => return Ok(Decision::Done(())),
        }
        Ok(Decision::Patch(patch, ()))
    })
    .await?;
    done.map(|()| (start, cx.clock.now())).ok_or_else(|| FaultError::failed(called, "it is no longer there"))
}

/// Deletes a Job and kills its pods without grace, all at once, so that it cannot finish. Only a Job that still runs: the
/// deletion is of the very version in which it was seen to run.
async fn kill(cx: &FaultCx, namespace: &str, job: &str, uid: &str) -> Result<(), FaultError> {
    let called = format!("kill Job {namespace}/{job}");
    let api = cx.cluster.api::<Job>(namespace);
    let mut tries = 0;
    while !cx.deleted.has(uid) {
        let Some(found) = cx.cluster.get_opt::<Job>(namespace, job).await?.filter(|j| j.uid().as_deref() == Some(uid)) else {
            return Err(FaultError::failed(called, "it is no longer there: it ended before it was killed"));
        };
        if let Some(how) = ended(&found, &pods_of(cx, namespace, uid).await?) {
            return Err(FaultError::failed(called, format!("it {how} before it was killed")));
        }
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: found.resource_version() }),
            ..DeleteParams::default()
        };
        cx.leave.to(&called)?;
        match cx.cluster.call(&format!("delete Job {namespace}/{job}"), api.delete(job, &params)).await {
            Ok(_) => cx.deleted.add(uid),
            Err(error) if (error.is_conflict() || error.is_not_found()) && tries < CHANGES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let pods = pods_of(cx, namespace, uid).await?;
    // The Job's status lags behind its pods', so they have the last word.
    let too_late = pods.iter().any(|pod| phase(pod) == "Succeeded").then(|| format!("a pod of it succeeded before it was killed ({job})"));
    for pod in pods {
        let name = pod.name_any();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        cx.leave.to(&called)?;
        match cx.cluster.call(format!("delete pod {namespace}/{name}"), cx.cluster.api::<Pod>(namespace).delete(&name, &params)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error.into()),
            _ => {}
        }
    }
    too_late.map_or(Ok(()), |why| Err(FaultError::failed(called, why)))
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// How a Job has ended, if it has, by its own word or by its pods'.
fn ended(job: &Job, pods: &[Pod]) -> Option<&'static str> {
    let status = job.status.as_ref()?;
    let is = |of: &str| status.conditions.iter().flatten().any(|c| c.type_ == of && c.status == "True");
    if is("Complete") || is("SuccessCriteriaMet") || status.completion_time.is_some() {
        return Some("had succeeded");
    }
    if is("Failed") || is("FailureTarget") {
        return Some("had failed");
    }
    // Between the end of its pod and the Job's own word.
    let wanted = job.spec.as_ref().and_then(|s| s.completions).unwrap_or(1);
    let succeeded = pods.iter().filter(|pod| phase(pod) == "Succeeded").count();
    (i32::try_from(succeeded).unwrap_or(i32::MAX) >= wanted).then_some("had succeeded")
}

async fn pods_of(cx: &FaultCx, namespace: &str, job_uid: &str) -> Result<Vec<Pod>, FaultError> {
    let selector = format!("batch.kubernetes.io/controller-uid={job_uid}");
    Ok(cx.cluster.list_all(&cx.cluster.api::<Pod>(namespace), Some(&selector), &format!("list pods in {namespace}")).await?)
}

/// Whether a Job and its pods are gone; else what is left.
async fn job_left(cx: &FaultCx, namespace: &str, job: &str, uid: &str) -> Result<Option<String>, FaultError> {
    let found = cx.cluster.get_opt::<Job>(namespace, job).await?.filter(|j| j.uid().as_deref() == Some(uid));
    if found.is_some() {
        return Ok(Some(format!("Job {namespace}/{job} is still there")));
    }
    let pods = pods_of(cx, namespace, uid).await?;
    Ok(pods.first().map(|pod| format!("pod {namespace}/{} is still there", pod.name_any())))
}

pub(super) async fn effective(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let cut = parts(undo)?;
    until(cx, "that the backup job is cut", limit, || async {
        if let CronJobChange::JobKilled { job, uid } = cut.change {
            return Ok(match job_left(cx, cut.id.0, job, uid).await? {
                None => Ok(format!("Job {job} and its pods are gone")),
                Some(left) => Err(left),
            });
        }
        Ok(match broken(cx, &cut).await? {
            None if matches!(cut.change, CronJobChange::Suspended { .. }) => Ok("it is suspended".to_owned()),
            None => Ok(format!("its command is `{STAND_IN}`: its next Job copies nothing")),
            Some(how) => Err(how),
        })
    })
    .await
}

/// How the change does not hold (any more), if it does not.
async fn broken(cx: &FaultCx, cut: &Cut<'_>) -> Result<Option<String>, FaultError> {
    let Some(now) = cx.cluster.get_opt::<CronJob>(cut.id.0, cut.id.1).await?.filter(|c| c.uid().as_deref() == Some(cut.id.2)) else {
        return Ok(Some("the CronJob is gone".to_owned()));
    };
    Ok(match cut.change {
        CronJobChange::Suspended { .. } => (!is_suspended(&now)).then(|| "others have resumed the CronJob".to_owned()),
        CronJobChange::Emptied { before } => {
            (commands(&now) != stand_ins(before)).then(|| "others have changed the CronJob's command".to_owned())
        }
        CronJobChange::JobKilled { .. } => None,
    })
}

pub(super) async fn holds(cx: &FaultCx, undo: &Undo) -> Result<Option<String>, FaultError> {
    let cut = parts(undo)?;
    if let CronJobChange::JobKilled { .. } = cut.change {
        return Ok(None);
    }
    match (broken(cx, &cut).await?, cut.change) {
        (None, CronJobChange::Emptied { before }) => did_not_start(cx, &cut, &stand_ins(before)).await,
        (broken, _) => Ok(broken),
    }
}

/// A pod of an emptied Job whose stand-in could not be started or failed: that Job *fails*, which is another fault than the one
/// that was asked for.
async fn did_not_start(cx: &FaultCx, cut: &Cut<'_>, stand_ins: &[ContainerCommand]) -> Result<Option<String>, FaultError> {
    let namespace = cut.id.0;
    let jobs = cx.cluster.list_all(&cx.cluster.api::<Job>(namespace), None, &format!("list Jobs in {namespace}")).await?;
    for job in jobs.iter().filter(|job| job.owner_references().iter().any(|o| o.uid == cut.id.2)) {
        let spec = job.spec.as_ref().and_then(|s| s.template.spec.as_ref());
        let (Some(uid), true) = (job.uid(), spec.is_some_and(|spec| command_lines(spec) == stand_ins)) else { continue };
        for pod in pods_of(cx, namespace, &uid).await? {
            let statuses = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]).flatten().flatten();
            for container in statuses.filter(|s| stand_ins.iter().any(|c| c.container == s.name)) {
                let last = container.last_state.as_ref();
                if let Some(why) = container.state.as_ref().and_then(failed_start).or_else(|| last.and_then(failed_start)) {
                    let (job, container) = (job.name_any(), &container.name);
                    return Ok(Some(format!(
                        "Job {job} does not succeed with nothing in it: container {container}'s image cannot run `{STAND_IN}` ({why})"
                    )));
                }
            }
        }
    }
    Ok(None)
}

/// Why the stand-in did not do what it is for, if so.
fn failed_start(state: &ContainerState) -> Option<String> {
    if let Some(ended) = state.terminated.as_ref().filter(|t| t.exit_code != 0) {
        return Some(format!("exit code {}, {}", ended.exit_code, ended.reason.as_deref().unwrap_or("no reason given")));
    }
    let reason = state.waiting.as_ref()?.reason.as_deref()?;
    matches!(reason, "RunContainerError" | "CreateContainerError" | "CrashLoopBackOff").then(|| reason.to_owned())
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let cut = parts(undo)?;
    if matches!(cut.change, CronJobChange::JobKilled { .. }) {
        return Ok((RevertResult::Nothing, "the CronJob starts the next Job by itself".to_owned()));
    }
    let done = change::<CronJob, _>(cx, cut.id, |now| {
        let ours = marked_by(now) == Some(&cx.drill);
        let superseded = |why: &str| (RevertResult::Superseded, format!("{why}; left so"));
        Ok(match cut.change {
            CronJobChange::Suspended { before } => match (ours, is_suspended(now)) {
                (true, true) => {
                    let mut patch = unmark();
                    patch["spec"]["suspend"] = (*before).into();
                    Decision::Patch(patch, (RevertResult::Reverted, "it is no longer suspended".to_owned()))
                }
                (true, false) => Decision::Patch(unmark(), superseded("others have resumed it")),
                (false, true) => Decision::Done(superseded("others have suspended it")),
                (false, false) => Decision::Fence((RevertResult::Nothing, "it is not suspended".to_owned())),
            },
            CronJobChange::Emptied { before } if ours && commands(now) == stand_ins(before) => {
                let mut patch = unmark();
                patch["spec"] = with_commands(now, before);
                Decision::Patch(patch, (RevertResult::Reverted, "its command is as before".to_owned()))
            }
            CronJobChange::Emptied { .. } if ours => Decision::Patch(unmark(), superseded("others have changed its command")),
            CronJobChange::Emptied { before } if commands(now) == *before => {
                Decision::Fence((RevertResult::Nothing, "its command is as before".to_owned()))
            }
            CronJobChange::Emptied { .. } => Decision::Done(superseded("others have changed its command")),
            CronJobChange::JobKilled { .. } => Decision::Done((RevertResult::Nothing, String::new())),
        })
    })
    .await?;
    Ok(done.unwrap_or((RevertResult::TargetGone, "the CronJob is gone".to_owned())))
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let cut = parts(undo)?;
    until(cx, "that the backup job is as before", limit, || async {
        if let CronJobChange::JobKilled { job, uid } = cut.change {
            let found = cx.cluster.get_opt::<Job>(cut.id.0, job).await?.filter(|j| j.uid().as_deref() == Some(uid));
            if found.is_some_and(|j| j.metadata.deletion_timestamp.is_none()) {
                return Ok(Ok(format!("Job {job} was not killed: it is still there")));
            }
            return Ok(match job_left(cx, cut.id.0, job, uid).await? {
                None => Ok(format!("nothing of Job {job} is left")),
                Some(left) => Err(left),
            });
        }
        let found = cx.cluster.get_opt::<CronJob>(cut.id.0, cut.id.1).await?.filter(|c| c.uid().as_deref() == Some(cut.id.2));
        let Some(now) = found else { return Ok(Ok("the CronJob is gone".to_owned())) };
        let as_before = match cut.change {
            CronJobChange::Suspended { before } => is_suspended(&now) == *before,
            CronJobChange::Emptied { before } => commands(&now) == *before,
            CronJobChange::JobKilled { .. } => true,
        };
        Ok(match (as_before, marked_by(&now) == Some(&cx.drill)) {
            (true, false) => Ok("the CronJob is as before and carries no mark".to_owned()),
            (_, true) => Err("it still carries the drill's mark".to_owned()),
            (false, false) => Err("it is not as before".to_owned()),
        })
    })
    .await
}
