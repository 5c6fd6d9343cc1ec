//! `custom` with a `job`: each of the scenario's commands is run by a Job of its own, made of the one Job in the scenario's file. For what
//! needs an image, an account or a volume that no target has.
//!
//! The Jobs are called as in the file, with `-inject`, `-effective`, `-revert` or `-gone` behind it; one is there at a time of each, it is
//! marked with the drill, ended by the cluster when its time is over, and deleted when the fault is gone. Whether the commands prove
//! anything is looked at before the intent, as with every fault: those Jobs, like a helper's pod, change nothing.
//!
//! The Job of `inject` stays until the fault is undone. Where it has not come to its end with exit code 0, half of it may be done, and
//! `revert` is run whatever `gone` says.

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::Pod,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{CustomUndo, FaultCx, FaultError, Prepared, Undo, change::until};
use crate::{
    clock::Stamp,
    cluster::named,
    journal::{RevertResult, TouchedObject},
    labels,
    runbook::{self, job_output, waiting_for},
    scenario::types::{CustomFault, Dur, FaultSpec},
};

/// Time between two looks at a Job.
const LOOK: Duration = Duration::from_millis(250);
/// Time between two looks at its pod.
const LOOK_AT_POD: Duration = Duration::from_secs(2);
/// How long after a Job's own time it is waited for that the cluster has ended it.
const AFTER: Duration = Duration::from_secs(30);
/// How long its pod has between SIGTERM and SIGKILL where the file does not say.
const GRACE_SECS: i64 = 5;

/// What a Job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Inject,
    Effective,
    Revert,
    Gone,
}

impl Part {
    const ALL: [Self; 4] = [Self::Inject, Self::Effective, Self::Revert, Self::Gone];

    fn name(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Effective => "effective",
            Self::Revert => "revert",
            Self::Gone => "gone",
        }
    }
}

fn parts(undo: &Undo) -> Result<&CustomUndo, FaultError> {
    match undo {
        Undo::Job(custom) => Ok(custom),
        _ => Err(FaultError::NotBuilt),
    }
}

impl CustomUndo {
    fn job(&self, part: Part) -> String {
        format!("{}-{}", self.name, part.name())
    }

    fn called(&self, part: Part) -> String {
        named("Job", &self.namespace, &self.job(part))
    }

    /// The file's Job with a command, marked, limited, and run once.
    fn made_of(&self, cx: &FaultCx, part: Part, words: &[String]) -> Result<Job, FaultError> {
        let of = |why: String| FaultError::failed(format!("make {}", self.called(part)), why);
        let mut job: Job = serde_json::from_value(self.job.clone()).map_err(|e| of(e.to_string()))?;
        let ours = [(labels::DRILL, cx.drill.as_str()), (labels::ROLE, runbook::FAULT_ROLE), (labels::MANAGED_BY, labels::MANAGER)];
        job.metadata.name = Some(self.job(part));
        job.status = None;
        let spec: &mut JobSpec = job.spec.get_or_insert_default();
        let secs = self.within.0.as_millis().div_ceil(1000).max(1);
        spec.active_deadline_seconds = i64::try_from(secs).ok();
        spec.backoff_limit = Some(0);
        // It must still be there when it is looked at.
        spec.ttl_seconds_after_finished = None;
        spec.suspend = None;
        let of_pods = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
        for (key, value) in ours {
            job.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            of_pods.insert(key.to_owned(), value.to_owned());
        }
        let pod = spec.template.spec.get_or_insert_default();
        pod.restart_policy = Some("Never".to_owned());
        pod.termination_grace_period_seconds.get_or_insert(GRACE_SECS);
        let container = pod.containers.first_mut().ok_or_else(|| of("it has no container".to_owned()))?;
        container.command = Some(words.to_vec());
        container.args = None;
        Ok(job)
    }

    async fn now(&self, cx: &FaultCx, part: Part) -> Result<Option<Job>, FaultError> {
        let found = cx.cluster.get_opt::<Job>(&self.namespace, &self.job(part)).await?;
        if found.as_ref().is_some_and(|job| job.labels().get(labels::DRILL) != Some(&cx.drill)) {
            return Err(FaultError::failed(format!("use {}", self.called(part)), "it is there already, and not this drill's"));
        }
        Ok(found)
    }

    /// Deletes a Job with its pods, and waits until none is left.
    async fn clear(&self, cx: &FaultCx, part: Part) -> Result<(), FaultError> {
        let what = format!("delete {}", self.called(part));
        let deadline = Instant::now() + AFTER + self.grace();
        let mut asked = false;
        while let Some(job) = self.now(cx, part).await? {
            if !asked && job.metadata.deletion_timestamp.is_none() {
                cx.leave.to(&what)?;
                let jobs = cx.cluster.api::<Job>(&self.namespace);
                match cx.cluster.call(&what, jobs.delete(&self.job(part), &DeleteParams::foreground())).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
                asked = true;
            }
            if Instant::now() >= deadline {
                return Err(FaultError::failed(what, "it was asked to end, and is still there"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn grace(&self) -> Duration {
        let secs = self.job.pointer("/spec/template/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(GRACE_SECS);
        Duration::from_secs(u64::try_from(secs).unwrap_or(0))
    }

    /// Runs a command to its end: nothing if it succeeds, else how it failed.
    async fn run(&self, cx: &FaultCx, part: Part, words: &[String]) -> Result<Option<String>, FaultError> {
        let job = self.made_of(cx, part, words)?;
        self.clear(cx, part).await?;
        let what = format!("make {}", self.called(part));
        let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
        cx.leave.to(&what)?;
        match cx.cluster.call(&what, cx.cluster.api::<Job>(&self.namespace).create(&params, &job)).await {
            // That it was made, and the answer was lost, is seen like any other.
            Err(error) if error.is_conflict() && self.now(cx, part).await?.is_some() => {}
            made => drop(made?),
        }
        self.ended(cx, part).await
    }

    /// Waits for the end of a Job: nothing if it succeeds, else how it failed.
    async fn ended(&self, cx: &FaultCx, part: Part) -> Result<Option<String>, FaultError> {
        let failed = |why: String| FaultError::failed(format!("run {}", self.called(part)), why);
        let deadline = Instant::now() + self.within.0 + AFTER;
        let mut looked = Instant::now();
        let mut pod = "no pod of it was seen".to_owned();
        loop {
            let Some(job) = self.now(cx, part).await? else { return Err(failed("it was deleted while it ran".to_owned())) };
            match is_over(&job) {
                Some(Over::Complete) => return Ok(None),
                Some(Over::TimedOut) => return Err(failed(format!("it did not end within {} and was ended: {pod}", self.within))),
                Some(Over::Failed(why)) => {
                    let output = self.output(cx, part).await;
                    return match self.exit_code(cx, part).await? {
                        Some(code) => Ok(Some(format!("exit code {code}: {output}"))),
                        None => Err(failed(format!("it did not run to its end: {why}: {output}"))),
                    };
                }
                None if Instant::now() >= deadline => {
                    return Err(failed(format!("{} after its time the cluster has not ended it: {pod}", Dur(AFTER))));
                }
                None => {}
            }
            // With its time its pod ends, too, and nobody can be asked any more.
            if looked.elapsed() >= LOOK_AT_POD {
                looked = Instant::now();
                if let Some(seen) = self.pods(cx, part).await.unwrap_or_default().first() {
                    pod = waiting_for(seen);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn pods(&self, cx: &FaultCx, part: Part) -> Result<Vec<Pod>, FaultError> {
        let list = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", self.job(part)));
        let pods = cx.cluster.api::<Pod>(&self.namespace);
        Ok(cx.cluster.call(format!("list pods of {}", self.called(part)), pods.list(&list)).await?.items)
    }

    /// The exit code of the command itself: a pod that never came to it has none.
    async fn exit_code(&self, cx: &FaultCx, part: Part) -> Result<Option<i32>, FaultError> {
        let container = self.job.pointer("/spec/template/spec/containers/0/name").and_then(Value::as_str).unwrap_or_default();
        let pods = self.pods(cx, part).await?;
        let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()).flat_map(|s| s.container_statuses.iter().flatten());
        let mut of_it = statuses.filter(|status| status.name == container);
        Ok(of_it.find_map(|status| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)))
    }

    async fn output(&self, cx: &FaultCx, part: Part) -> String {
        job_output(&cx.cluster, &self.namespace, &self.job(part)).await.trim_end().to_owned()
    }
}

/// How a Job is over.
enum Over {
    Complete,
    TimedOut,
    Failed(String),
}

fn is_over(job: &Job) -> Option<Over> {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter(|c| c.status == "True");
    conditions.into_iter().find_map(|condition| match (condition.type_.as_str(), condition.reason.as_deref()) {
        ("Complete", _) => Some(Over::Complete),
        ("Failed", Some("DeadlineExceeded")) => Some(Over::TimedOut),
        ("Failed", _) => Some(Over::Failed(condition.message.clone().unwrap_or_default())),
        _ => None,
    })
}

pub(super) fn prepare(cx: &FaultCx, spec: &FaultSpec, custom: &CustomFault) -> Result<Prepared, FaultError> {
    let planned = super::manifest::planned(cx, spec)?;
    let undo = CustomUndo {
        namespace: planned.namespace.clone(),
        name: planned.name.clone(),
        job: planned.object.clone(),
        revert: custom.revert.clone(),
        gone: custom.gone.clone(),
        within: custom.within.unwrap_or(super::custom::WITHIN),
    };
    // It has no uid yet.
    let object =
        TouchedObject { kind: "Job".to_owned(), namespace: undo.namespace.clone(), name: undo.job(Part::Inject), uid: planned.id() };
    Ok(Prepared { undo: Undo::Job(undo), objects: vec![object] })
}

/// Looks whether the commands could prove anything, before the intent: nobody has to undo what was never begun.
pub(super) async fn arm(cx: &FaultCx, spec: &CustomFault, undo: &Undo) -> Result<(), FaultError> {
    let custom = parts(undo)?;
    let proven = proves(cx, custom, spec).await;
    if proven.is_err() {
        for part in [Part::Gone, Part::Effective] {
            if let Err(error) = custom.clear(cx, part).await {
                tracing::debug!(%error, "a Job stays until the drill's end");
            }
        }
    }
    proven
}

async fn proves(cx: &FaultCx, custom: &CustomUndo, spec: &CustomFault) -> Result<(), FaultError> {
    let failed = |why: String| Err(FaultError::failed(format!("run {}", custom.called(Part::Inject)), why));
    if custom.now(cx, Part::Inject).await?.is_some() {
        return Ok(());
    }
    if let Some(said) = custom.run(cx, Part::Gone, &spec.gone).await? {
        let called = custom.called(Part::Gone);
        return failed(format!("`gone` fails before the fault, so that it could not prove its end: {called}: {said}"));
    }
    match custom.run(cx, Part::Effective, &spec.effective).await? {
        Some(_) => Ok(()),
        None => failed("`effective` succeeds before the fault: it would prove nothing".to_owned()),
    }
}

pub(super) async fn inject(cx: &FaultCx, spec: &CustomFault, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let custom = parts(undo)?;
    let start = cx.clock.now();
    // Once is enough.
    let ran = match custom.now(cx, Part::Inject).await? {
        Some(_) => custom.ended(cx, Part::Inject).await?,
        None => custom.run(cx, Part::Inject, &spec.inject).await?,
    };
    match ran {
        None => Ok((start, cx.clock.now())),
        Some(said) => Err(FaultError::failed(format!("run {}", custom.called(Part::Inject)), said)),
    }
}

pub(super) async fn effective(cx: &FaultCx, spec: &CustomFault, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let called = parts(undo)?.called(Part::Effective);
    until(cx, "that the commands have their effect", limit, || async {
        Ok(match holds(cx, spec, undo).await? {
            None => Ok(format!("`{}` succeeds in {called}", spec.effective.join(" "))),
            Some(how) => Err(how),
        })
    })
    .await
}

pub(super) async fn holds(cx: &FaultCx, spec: &CustomFault, undo: &Undo) -> Result<Option<String>, FaultError> {
    let custom = parts(undo)?;
    let failed = custom.run(cx, Part::Effective, &spec.effective).await?;
    Ok(failed.map(|said| format!("`effective` fails in {}: {said}", custom.called(Part::Effective))))
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let custom = parts(undo)?;
    match undone(cx, custom).await {
        Err(FaultError::Cluster(error)) if error.is_not_found() => {
            Ok((RevertResult::TargetGone, format!("namespace {} is gone", custom.namespace)))
        }
        other => other,
    }
}

async fn undone(cx: &FaultCx, custom: &CustomUndo) -> Result<(RevertResult, String), FaultError> {
    let half = match custom.now(cx, Part::Inject).await? {
        None => false,
        Some(job) => match is_over(&job) {
            Some(Over::Complete) => false,
            Some(_) => true,
            None => {
                end(cx, custom).await?;
                true
            }
        },
    };
    if !half && custom.run(cx, Part::Gone, &custom.gone).await?.is_none() {
        return Ok((RevertResult::Nothing, "`gone` succeeds, and no `inject` was cut short".to_owned()));
    }
    if let Some(said) = custom.run(cx, Part::Revert, &custom.revert).await? {
        return Err(FaultError::failed(format!("run {}", custom.called(Part::Revert)), format!("`revert` fails: {said}")));
    }
    // What was cut short is whole now: another revert has nothing to do.
    custom.clear(cx, Part::Inject).await?;
    Ok((RevertResult::Reverted, format!("`revert` succeeded in {}", custom.called(Part::Revert))))
}

/// Ends the Job of `inject` and leaves it there: whoever undoes it next sees that it was cut short.
async fn end(cx: &FaultCx, custom: &CustomUndo) -> Result<(), FaultError> {
    let what = format!("end {}", custom.called(Part::Inject));
    let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    cx.leave.to(&what)?;
    let now = Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 1}}));
    let jobs = cx.cluster.api::<Job>(&custom.namespace);
    cx.cluster.call(&what, jobs.patch(&custom.job(Part::Inject), &params, &now)).await?;
    let deadline = Instant::now() + AFTER + custom.grace();
    loop {
        let over = custom.now(cx, Part::Inject).await?.is_none_or(|job| is_over(&job).is_some());
        let runs = |pod: &Pod| !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        if over && !custom.pods(cx, Part::Inject).await?.iter().any(runs) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(FaultError::failed(what, "its pod goes on"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let custom = parts(undo)?;
    until(cx, "that nothing is left of the commands", limit, || async {
        let said = match custom.run(cx, Part::Gone, &custom.gone).await {
            Ok(Some(said)) => return Ok(Err(format!("`gone` fails in {}: {said}", custom.called(Part::Gone)))),
            Ok(None) => format!("`gone` succeeds in {}, and its Jobs are deleted", custom.called(Part::Gone)),
            Err(FaultError::Cluster(error)) if error.is_not_found() => return Ok(Ok(format!("namespace {} is gone", custom.namespace))),
            Err(error) => return Err(error),
        };
        for part in Part::ALL {
            custom.clear(cx, part).await?;
        }
        Ok(Ok(said))
    })
    .await
}
