//! `signal`: one signal to one process of each target pod, by a helper on its node or in its pod.
//!
//! The process is chosen when the fault is prepared and is in the undo by number and start time, so that whoever reverts wakes exactly
//! that one. Only what stops (SIGSTOP, SIGTSTP) has something to undo. The helper's side is [`crate::agent::signals`].

use std::time::Duration;

use super::{
    FaultCx, FaultError, Home, PodOnNode, Prepared, ProcessFault, SignalledProcess, Undo,
    change::until,
    home::{self, On},
    on_nodes::{self, broken, said, still_there},
    processes,
};
use crate::{
    agent::{
        LinkError,
        inside::Work,
        node::NodeReq,
        signals::{self, SignalSeen, SignalTo},
        volume::Step,
    },
    clock::Stamp,
    journal::RevertResult,
    plan::ResolvedObject,
    scenario::types::{FaultSpec, Placement, Signal},
};

/// A process that is meant, chosen or not yet.
type Meant<'a> = (&'a PodOnNode, &'a str, Option<crate::agent::processes::Ident>);

pub(super) async fn prepare(
    cx: &FaultCx,
    fault: &FaultSpec,
    spec: &Signal,
    targets: &[ResolvedObject],
    containers: &[String],
) -> Result<Prepared, FaultError> {
    let what = format!("send {} to process `{}`", spec.signal, spec.process);
    signals::by_name(&spec.signal).map_err(|why| FaultError::failed(&what, why))?;
    let inside = (home::placement(cx, fault) == Placement::Pod).then_some(On::One);
    let (pods, objects) = processes::pods(cx, targets, containers, &what, inside).await?;
    processes::see_containers(cx, &pods).await?;
    let id = format!("{:x}", cx.clock.now().wall_us);
    let meant: Vec<Meant<'_>> = pods.iter().map(|pod| (pod, spec.process.as_str(), None)).collect();
    let seen = ask(cx, Step::Look, &spec.signal, &id, &meant).await?;
    let mut to = Vec::new();
    for (pod, seen) in pods.iter().zip(seen) {
        let ident = seen.ident.ok_or_else(|| {
            FaultError::failed(&what, format!("the helper {} does not say which process", Home::of(pod, Work::Processes)))
        })?;
        to.push(SignalledProcess { pod: pod.clone(), process: spec.process.clone(), ident });
    }
    Ok(Prepared { undo: Undo::Signal { to, signal: spec.signal.clone(), id }, objects })
}

async fn ask(cx: &FaultCx, step: Step, signal: &str, id: &str, meant: &[Meant<'_>]) -> Result<Vec<SignalSeen>, FaultError> {
    let one = |(pod, process, ident): &Meant<'_>| SignalTo {
        pod: processes::on_node(cx, pod),
        process: (*process).to_owned(),
        ident: *ident,
        signal: signal.to_owned(),
        id: id.to_owned(),
    };
    let request = |which: &[&Meant<'_>]| NodeReq::Signals { step, to: which.iter().map(|meant| one(meant)).collect() };
    on_nodes::ask(cx, meant, |(pod, ..)| Home::of(pod, Work::Processes), ("signal", processes::ASK_LIMIT), request).await
}

fn meant(to: &[SignalledProcess]) -> Vec<Meant<'_>> {
    to.iter().map(|to| (&to.pod, to.process.as_str(), Some(to.ident))).collect()
}

/// Places the helpers, and looks whether each still sees its process.
pub(super) async fn arm(cx: &FaultCx, to: &[SignalledProcess], signal: &str, id: &str) -> Result<(), FaultError> {
    let pods: Vec<PodOnNode> = to.iter().map(|to| to.pod.clone()).collect();
    processes::see_containers(cx, &pods).await?;
    ask(cx, Step::Look, signal, id, &meant(to)).await.map(drop)
}

pub(super) async fn inject(cx: &FaultCx, to: &[SignalledProcess], signal: &str, id: &str) -> Result<(Stamp, Stamp), FaultError> {
    let start = cx.clock.now();
    match ask(cx, Step::Inject, signal, id, &meant(to)).await {
        // An agent within the pod may have ended with the process that it sent the signal to; whether it has is for the proof to say.
        Err(error) if ends_with_it(to, signal) && is_lost(&error) => {}
        answer => drop(answer?),
    }
    Ok((start, cx.clock.now()))
}

pub(super) async fn effective(
    cx: &FaultCx,
    to: &[SignalledProcess],
    signal: &str,
    id: &str,
    limit: Duration,
) -> Result<(Stamp, String), FaultError> {
    let look = || async {
        match ask_those_left(cx, to, signal, id).await? {
            Some(seen) => Ok(seen),
            None => ask(cx, Step::Check, signal, id, &meant(to)).await,
        }
    };
    on_nodes::effective(cx, "that the signal arrived", limit, look).await
}

/// Whether an agent may end by what it does: it is in the process namespace of the one container whose process gets the signal.
fn ends_with_it(to: &[SignalledProcess], signal: &str) -> bool {
    !signals::stops(signal) && to.iter().any(|to| to.pod.placement == Placement::Pod)
}

/// Whether an agent did not answer as one does not that has ended: the link may learn of that late.
const fn is_lost(error: &FaultError) -> bool {
    matches!(error, FaultError::Link(LinkError::Ended { .. } | LinkError::TimedOut { .. }))
}

/// What became of the processes where an agent may have ended with one: the container that was seen when it was armed does not run any
/// more. None: no agent can have.
async fn ask_those_left(cx: &FaultCx, to: &[SignalledProcess], signal: &str, id: &str) -> Result<Option<Vec<SignalSeen>>, FaultError> {
    if !ends_with_it(to, signal) {
        return Ok(None);
    }
    let mut all = Vec::new();
    for one in to {
        let before = cx.helpers.containers(&one.pod.uid).unwrap_or_default();
        let now = processes::there(cx, &one.pod).await?.map(|pod| processes::container_ids(&pod)).unwrap_or_default();
        let mut meant_ones = before.iter().filter(|(_, name)| one.pod.containers.contains(name)).peekable();
        let (pod, container) = (format!("{}/{}", one.pod.namespace, one.pod.name), one.pod.containers.join(", "));
        if meant_ones.peek().is_some() && meant_ones.all(|(id, _)| !now.contains_key(id)) {
            let detail = format!("process {} of {pod} got {signal} and container {container} has ended", one.ident.pid);
            all.push(SignalSeen { ident: Some(one.ident), effective: true, detail, ..SignalSeen::default() });
        } else if cx.existing_helper(&Home::of(&one.pod, Work::Processes)).await?.is_some() {
            match ask(cx, Step::Check, signal, id, &meant(std::slice::from_ref(one))).await {
                Ok(seen) => all.extend(seen),
                Err(error) if is_lost(&error) => all.push(unseen(one, &pod)),
                Err(error) => return Err(error),
            }
        } else {
            all.push(unseen(one, &pod));
        }
    }
    Ok(Some(all))
}

/// The agent has ended, and its kubelet does not say yet what has become of the container beside it.
fn unseen(one: &SignalledProcess, pod: &str) -> SignalSeen {
    let detail = format!("the agent in pod {pod} has ended, and its containers are said to run");
    SignalSeen { ident: Some(one.ident), detail, ..SignalSeen::default() }
}

pub(super) async fn holds(cx: &FaultCx, to: &[SignalledProcess], signal: &str, id: &str) -> Result<Option<String>, FaultError> {
    if !signals::stops(signal) {
        return Ok(None);
    }
    Ok(broken(&ask(cx, Step::Check, signal, id, &meant(to)).await?))
}

pub(super) async fn revert(cx: &FaultCx, to: &[SignalledProcess], signal: &str, id: &str) -> Result<(RevertResult, String), FaultError> {
    if !signals::stops(signal) {
        return Ok((RevertResult::Nothing, format!("{signal} has nothing to undo")));
    }
    let there = still_there(cx, to, |to| &to.pod).await?;
    if there.is_empty() {
        return Ok((RevertResult::TargetGone, "none of the pods exists any more".to_owned()));
    }
    // Where no helper is left, somebody may have been stopped and nobody is there to wake him: a new one.
    let seen = ask(cx, Step::Revert, signal, id, &meant(&there)).await?;
    let result = if seen.iter().any(|s| s.woken) { RevertResult::Reverted } else { RevertResult::Nothing };
    Ok((result, said(&seen)))
}

/// What was stopped runs, or is gone with its pod; after any other signal the containers run, or the pods' owners have their pods back.
pub(super) async fn gone(
    cx: &FaultCx,
    to: &[SignalledProcess],
    signal: &str,
    id: &str,
    limit: Duration,
) -> Result<(Stamp, String), FaultError> {
    let pods: Vec<PodOnNode> = to.iter().map(|to| to.pod.clone()).collect();
    if !signals::stops(signal) {
        return processes::gone(cx, &pods, ProcessFault::Crash, limit).await;
    }
    until(cx, "that nothing is stopped any more", limit, || async {
        let there = still_there(cx, to, |to| &to.pod).await?;
        let seen = ask(cx, Step::Check, signal, id, &meant(&there)).await?;
        let pods = if there.len() < to.len() { format!("{} pods are gone; ", to.len() - there.len()) } else { String::new() };
        Ok(if seen.iter().any(|s| s.stopped) { Err(said(&seen)) } else { Ok(format!("{pods}{}", said(&seen))) })
    })
    .await
}
