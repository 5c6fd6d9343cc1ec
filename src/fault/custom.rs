//! `custom`: the user's own commands, run in the target's containers under the same contract as every other fault.
//!
//! What they do is not known here, so what can be seen of them is held to: before the fault `gone` must succeed and `effective` must
//! not, else neither would prove anything. `inject` and `revert` may be run twice, where one was cut short or an answer was lost.
//!
//! A pod that is replaced while the fault holds takes along what lived in its containers; what lives longer (a volume, another
//! system) stays. Which it is, is asked: `gone` is run in the pod that has come in its place, and `revert` only where it fails.
//!
//! A command that a runner left running when it died is ended before its revert; it is found by the name of its shell.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};

use super::{FaultCx, FaultError, PodRef, Prepared, RunsIn, Undo, change::until, owner};
use crate::{
    clock::Stamp,
    journal::{RevertResult, TouchedObject},
    plan::{ResolvedObject, rollout::which},
    runbook::{Command, command, quoted},
    scenario::types::{CustomFault, Dur},
};

/// How long a command may take where the scenario does not say.
pub(super) const WITHIN: Dur = Dur::from_secs(60);
/// How many commands run at once.
const AT_ONCE: usize = 10;
/// How long it may take to end what a lost runner has left running.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Time between two looks by a command.
const AGAIN: Duration = Duration::from_millis(400);
/// What the shells of checks are called: they change nothing, and nobody has to end them.
const CHECK: &str = "firedrill-check";

/// Ends the commands of a mark with all they have started, and says `ended` if there were any. A container without `/proc` or `cat`
/// cannot be looked through.
const END: &str = r#"for f in /proc/[0-9]*/cmdline; do
  p=${f#/proc/}; p=${p%/cmdline}
  [ "$p" != "$$" ] || continue
  c=$(cat "$f" 2>/dev/null) || continue
  case $c in *MARK*) ;; *) continue ;; esac
  kill -TERM "-$p" 2>/dev/null || continue
  echo ended
  i=0
  while [ $i -lt 15 ] && kill -0 "-$p" 2>/dev/null; do sleep 0.2 2>/dev/null || { sleep 1; i=$((i+4)); }; i=$((i+1)); done
  kill -KILL "-$p" 2>/dev/null || true
done 2>/dev/null
exit 0
"#;

/// An undo taken apart.
struct Custom<'a> {
    at: &'a [RunsIn],
    revert: &'a [String],
    gone: &'a [String],
    within: Duration,
    mark: &'a str,
}

fn parts(undo: &Undo) -> Result<Custom<'_>, FaultError> {
    match undo {
        Undo::Custom { at, revert, gone, within, mark } => Ok(Custom { at, revert, gone, within: within.0, mark }),
        _ => Err(FaultError::NotBuilt),
    }
}

/// A container of a pod as it is now.
#[derive(Clone, Copy)]
struct In<'a> {
    pod: &'a Pod,
    container: &'a str,
}

impl In<'_> {
    fn called(&self) -> String {
        format!("pod {}/{} ({})", self.pod.namespace().unwrap_or_default(), self.pod.name_any(), self.container)
    }

    /// Runs a command to its end: nothing if it succeeds, else what it said.
    async fn run(&self, cx: &FaultCx, argv: &[String], name: &str, within: Duration) -> Result<Option<String>, String> {
        let script = quoted(argv);
        let what = Command { pod: self.pod, container: self.container, script: &script, name, within };
        let ran = command(&cx.cluster, what).await.map_err(|why| format!("{}: {why}", self.called()))?;
        if ran.code == 0 {
            return Ok(None);
        }
        Ok(Some(format!("{}: {}", self.called(), ran.told(&cx.cluster, &cx.plan, self.pod).await)))
    }

    /// Ends what was left running of a mark, and says whether there was anything.
    async fn end(&self, cx: &FaultCx, mark: &str) -> Result<bool, String> {
        let script = END.replace("MARK", mark);
        let what = Command { pod: self.pod, container: self.container, script: &script, name: CHECK, within: END_LIMIT };
        let ran = command(&cx.cluster, what).await.map_err(|why| format!("{}: {why}", self.called()))?;
        Ok(ran.output().contains("ended"))
    }
}

/// Whether commands can be run in a pod.
fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}

async fn read(cx: &FaultCx, at: &PodRef) -> Result<Option<Pod>, FaultError> {
    Ok(cx.cluster.get_opt::<Pod>(&at.namespace, &at.name).await?)
}

/// The very pod of an undo.
async fn same(cx: &FaultCx, at: &PodRef) -> Result<Option<Pod>, FaultError> {
    Ok(read(cx, at).await?.filter(|pod| pod.uid().as_deref() == Some(&at.uid) && runs(pod)))
}

pub(super) async fn prepare(
    cx: &FaultCx,
    spec: &CustomFault,
    targets: &[ResolvedObject],
    chosen: &[String],
) -> Result<Prepared, FaultError> {
    let (mut at, mut objects) = (Vec::new(), Vec::new());
    let within = spec.within.unwrap_or(WITHIN);
    for target in targets {
        let called = format!("run commands in pod {}/{}", target.namespace, target.name);
        let refused = |why: String| Err(FaultError::failed(&called, why));
        let pod = PodRef { namespace: target.namespace.clone(), name: target.name.clone(), uid: target.uid.clone() };
        let Some(found) = read(cx, &pod).await?.filter(|now| now.uid() == Some(pod.uid.clone())) else {
            return refused("it is no longer there".to_owned());
        };
        if !runs(&found) {
            return refused("it does not run".to_owned());
        }
        let has: Vec<String> = found.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone()).collect();
        if let Some(why) = which(&has, chosen) {
            return refused(why);
        }
        let containers = if chosen.is_empty() { has } else { chosen.to_vec() };
        for container in &containers {
            let here = In { pod: &found, container };
            let checked = async {
                let gone = here.run(cx, &spec.gone, CHECK, within.0).await?;
                let effective = here.run(cx, &spec.effective, CHECK, within.0).await?;
                Ok::<_, String>((gone, effective))
            };
            match checked.await {
                Ok((None, Some(_))) => {}
                Ok((Some(said), _)) => {
                    return refused(format!("`gone` fails before the fault, so that it could not prove its end: {said}"));
                }
                Ok((None, None)) => {
                    return refused(format!("`effective` succeeds before the fault in {}: it would prove nothing", here.called()));
                }
                Err(why) => return refused(why),
            }
        }
        objects.push(touched(target));
        at.push(RunsIn { pod, containers, owner: owner::of(cx, &found).await? });
    }
    let text = serde_json::to_string(&(&cx.drill, spec)).map_err(|e| FaultError::failed("run commands", e.to_string()))?;
    let mark = format!("firedrill-custom-{}", hex::encode(&Sha256::digest(text)[..16]));
    Ok(Prepared { undo: Undo::Custom { at, revert: spec.revert.clone(), gone: spec.gone.clone(), within, mark }, objects })
}

fn touched(target: &ResolvedObject) -> TouchedObject {
    TouchedObject { kind: "Pod".to_owned(), namespace: target.namespace.clone(), name: target.name.clone(), uid: target.uid.clone() }
}

/// What is run in every container, [`AT_ONCE`] at a time, to the end of all of them; then the first failure.
async fn everywhere<'a, F>(at: &'a [RunsIn], run: impl Fn(&'a RunsIn, &'a str) -> F) -> Result<(), FaultError>
where
    F: Future<Output = Result<(), FaultError>>,
{
    let all = at.iter().flat_map(|place| place.containers.iter().map(move |container| (place, container.as_str())));
    let done: Vec<_> = stream::iter(all).map(|(place, container)| run(place, container)).buffered(AT_ONCE).collect().await;
    done.into_iter().collect()
}

pub(super) async fn inject(cx: &FaultCx, spec: &CustomFault, undo: &Undo) -> Result<(Stamp, Stamp), FaultError> {
    let Custom { at, within, mark, .. } = parts(undo)?;
    let start = cx.clock.now();
    everywhere(at, |place, container| async move {
        let PodRef { namespace, name, uid } = &place.pod;
        let what = format!("run `inject` in pod {namespace}/{name}");
        let Some(pod) = same(cx, &place.pod).await? else { return Err(FaultError::failed(what, "it is no longer there")) };
        let here = In { pod: &pod, container };
        let failed = |why: String| FaultError::failed(&what, why);
        // Once is enough, where it has its effect.
        let begun = format!("{mark} {uid} {container}");
        if cx.deleted.has(&begun) && here.run(cx, &spec.effective, CHECK, within).await.map_err(failed)?.is_none() {
            return Ok(());
        }
        cx.leave.to(&what)?;
        cx.deleted.add(&begun);
        here.run(cx, &spec.inject, mark, within).await.map_err(failed)?.map_or(Ok(()), |said| Err(failed(said)))
    })
    .await?;
    Ok((start, cx.clock.now()))
}

pub(super) async fn effective(cx: &FaultCx, spec: &CustomFault, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    until(cx, "that the commands have their effect", limit, || async {
        Ok(match holds(cx, spec, undo).await? {
            None => Ok(format!("`{}` succeeds in {}", spec.effective.join(" "), places(undo)?)),
            Some(how) => {
                tokio::time::sleep(AGAIN).await;
                Err(how)
            }
        })
    })
    .await
}

/// Where it was done, for people.
fn places(undo: &Undo) -> Result<String, FaultError> {
    let at = parts(undo)?.at;
    let names: Vec<String> = at.iter().take(5).map(|place| format!("pod {}/{}", place.pod.namespace, place.pod.name)).collect();
    let more = at.len().saturating_sub(names.len());
    Ok(if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") })
}

pub(super) async fn holds(cx: &FaultCx, spec: &CustomFault, undo: &Undo) -> Result<Option<String>, FaultError> {
    let Custom { at, within, .. } = parts(undo)?;
    for place in at {
        let PodRef { namespace, name, .. } = &place.pod;
        let Some(pod) = same(cx, &place.pod).await? else { return Ok(Some(format!("pod {namespace}/{name} is gone"))) };
        for container in &place.containers {
            let here = In { pod: &pod, container };
            let said = here.run(cx, &spec.effective, CHECK, within).await;
            if let Some(said) = said.map_err(|why| FaultError::failed("run `effective`", why))? {
                return Ok(Some(format!("`effective` fails in {said}")));
            }
        }
    }
    Ok(None)
}

/// Where a pod of an undo is by now.
enum There {
    /// The very same.
    Same(Pod),
    /// One that has come in its place.
    Another(Pod),
    /// One is to come in its place.
    Coming(String),
    /// Nothing comes in its place.
    Gone(String),
}

async fn there(cx: &FaultCx, place: &RunsIn) -> Result<There, FaultError> {
    let called = format!("pod {}/{}", place.pod.namespace, place.pod.name);
    let now = read(cx, &place.pod).await?;
    let Some(of) = &place.owner else {
        return Ok(match now.filter(|pod| pod.uid().as_deref() == Some(&place.pod.uid) && runs(pod)) {
            Some(pod) => There::Same(pod),
            None => There::Gone(format!("{called} is gone, and nothing brings it back")),
        });
    };
    match now {
        Some(pod) if pod.uid().as_deref() == Some(&place.pod.uid) && runs(&pod) => return Ok(There::Same(pod)),
        // A pod of the same name has the same volumes.
        Some(pod)
            if pod.uid().as_deref() != Some(&place.pod.uid) && owner::of(cx, &pod).await?.is_some_and(|above| above.name == of.name) =>
        {
            let ready = owner::is_ready(&pod);
            return Ok(if ready { There::Another(pod) } else { There::Coming(format!("{called} is made anew and not ready")) });
        }
        _ => {}
    }
    let by = format!("{} {}/{}", of.kind, of.namespace, of.name);
    Ok(match owner::ready_pod(cx, of).await? {
        None => There::Gone(format!("{called} is gone, and so is {by}")),
        Some((0, None)) => There::Gone(format!("{called} is gone, and {by} wants no pods")),
        Some((_, None)) => There::Coming(format!("{called} is gone, and {by} has no ready pod yet")),
        Some((_, Some(pod))) => There::Another(pod),
    })
}

pub(super) async fn revert(cx: &FaultCx, undo: &Undo) -> Result<(RevertResult, String), FaultError> {
    let Custom { at, revert, gone, within, mark } = parts(undo)?;
    let (mut reverted, mut nothing, mut lost) = (Vec::new(), 0, Vec::new());
    for place in at {
        let what = format!("undo it in pod {}/{}", place.pod.namespace, place.pod.name);
        let failed = |why: String| FaultError::failed(&what, why);
        let (pod, is_same) = match there(cx, place).await? {
            There::Same(pod) => (pod, true),
            There::Another(pod) => (pod, false),
            There::Coming(why) => return Err(failed(why)),
            There::Gone(why) => {
                lost.push(why);
                continue;
            }
        };
        let mut here_is_none = true;
        for container in &place.containers {
            let here = In { pod: &pod, container };
            // What was cut short in the middle may look undone and not be.
            let cut = is_same && here.end(cx, mark).await.map_err(failed)?;
            if !cut && here.run(cx, gone, CHECK, within).await.map_err(failed)?.is_none() {
                continue;
            }
            here_is_none = false;
            cx.leave.to(&what)?;
            if let Some(said) = here.run(cx, revert, mark, within).await.map_err(failed)? {
                return Err(failed(format!("`revert` fails: {said}")));
            }
            reverted.push(here.called());
        }
        match (here_is_none, is_same) {
            (false, _) => {}
            (true, true) => nothing += 1,
            (true, false) => lost.push(format!("pod {}/{} is gone, and it with it", place.pod.namespace, place.pod.name)),
        }
    }
    Ok(match (reverted.is_empty(), nothing, lost.is_empty()) {
        (false, _, _) => (RevertResult::Reverted, format!("`revert` succeeded in {}", reverted.join(", "))),
        (true, 0, false) => (RevertResult::TargetGone, lost.join("; ")),
        (true, _, _) => (RevertResult::Nothing, "`gone` succeeds, and nothing was left running".to_owned()),
    })
}

pub(super) async fn gone(cx: &FaultCx, undo: &Undo, limit: Duration) -> Result<(Stamp, String), FaultError> {
    let Custom { at, gone, within, .. } = parts(undo)?;
    until(cx, "that nothing is left of the commands", limit, || async {
        let mut said = Vec::new();
        for place in at {
            let pod = match there(cx, place).await? {
                There::Same(pod) | There::Another(pod) => pod,
                There::Coming(why) => return Ok(Err(why)),
                There::Gone(why) => {
                    said.push(why);
                    continue;
                }
            };
            for container in &place.containers {
                let here = In { pod: &pod, container };
                let failed = here.run(cx, gone, CHECK, within).await.map_err(|why| FaultError::failed("run `gone`", why))?;
                if let Some(failed) = failed {
                    tokio::time::sleep(AGAIN).await;
                    return Ok(Err(format!("`gone` fails in {failed}")));
                }
                said.push(format!("`gone` succeeds in {}", here.called()));
            }
        }
        Ok(Ok(said.join("; ")))
    })
    .await
}
