//! The contract of a fault, and every way in which it can be disturbed, in the same words for every kind.

#![allow(dead_code, reason = "each suite uses its own part")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use firedrill::{
    cluster::Leave,
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    scenario::types::OwnPlace,
};
use serde_json::Value;

use super::{
    fault_kit::{LIMIT, World, ensure, unique},
    things::{Case, Kind, everything},
};

pub type Outcome = Result<String, String>;

/// How often a fault is cut short at most: more writes than any of them makes.
const MOST_WRITES: usize = 20;

pub async fn inject_twice(c: &Case<'_>) -> Outcome {
    let undo = c.bite().await?;
    let once = c.value().await;
    fault::inject(&c.cx, &c.spec, &undo).await.map_err(|e| format!("second inject: {e}"))?;
    ensure(c.value().await == once, format!("the second inject changed {once:?} to {:?}", c.value().await))?;
    let (_, proof) = fault::effective(&c.cx, &c.spec, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    ensure(c.holds(&undo).await?.is_none(), "it does not hold")?;
    let (result, _) = c.revert(&undo).await?;
    ensure(result == c.undone(), format!("reverted as {result:?}"))?;
    c.gone(&undo).await?;
    Ok(proof)
}

pub async fn revert_twice(c: &Case<'_>) -> Outcome {
    let before = c.value().await;
    let undo = c.bite().await?;
    let (first, _) = c.revert(&undo).await?;
    ensure(first == c.undone(), format!("the first revert was {first:?}"))?;
    let (second, said) = c.revert(&undo).await?;
    ensure(second == RevertResult::Nothing, format!("the second revert was {second:?}: {said}"))?;
    let proof = c.gone(&undo).await?;
    ensure(c.value().await == before, format!("{before:?} became {:?}", c.value().await))?;
    Ok(proof)
}

pub async fn revert_without_inject(c: &Case<'_>) -> Outcome {
    let before = c.value().await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    ensure(!prepared.objects.is_empty(), "it names no object")?;
    let (result, said) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("it was {result:?}"))?;
    ensure(c.value().await == before, "it changed something")?;
    // Also of a Job that was to be killed: it is still there, as it was, and nothing is left of the fault.
    c.gone(&prepared.undo).await?;
    Ok(said)
}

pub async fn target_gone(c: &Case<'_>) -> Outcome {
    let undo = c.bite().await?;
    c.delete().await;
    let (result, said) = c.revert(&undo).await?;
    // Where there is nothing to undo there is no thing to miss.
    let expected = if c.kind == Kind::Manifest { RevertResult::Nothing } else { RevertResult::TargetGone };
    ensure(result == expected || !c.kind.has_value(), format!("it was {result:?}: {said}"))?;
    c.gone(&undo).await?;
    // What a fault makes anew is not missed.
    let stale = fault::prepare(&c.cx, &c.spec, &c.objects).await;
    ensure(stale.is_err() || c.kind == Kind::Manifest, "what is gone could be prepared again")?;
    Ok(said)
}

pub async fn value_changed(c: &Case<'_>) -> Outcome {
    let undo = c.bite().await?;
    c.meddle().await;
    let theirs = c.value().await.0;
    let broken = c.holds(&undo).await?.ok_or("the change of others was not seen by `holds`")?;
    let (result, said) = c.revert(&undo).await?;
    ensure(result == RevertResult::Superseded, format!("it was {result:?}: {said}"))?;
    let (now, marked) = c.value().await;
    ensure(now == theirs, format!("{theirs} of somebody else was overwritten with {now}"))?;
    ensure(!marked, "the mark was left behind")?;
    if c.kind == Kind::Hide {
        // What was set aside is kept, and is put back if theirs goes.
        c.delete().await;
        ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "what was set aside could not be put back")?;
        c.gone(&undo).await?;
    }
    Ok(format!("{broken} / {said}"))
}

pub async fn changed_between(c: &Case<'_>) -> Outcome {
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    c.meddle_before().await;
    let theirs = c.value().await;
    let error = fault::inject(&c.cx, &c.spec, &prepared.undo).await.err().ok_or("it was injected over the change of others")?;
    ensure(c.value().await == theirs, "something was changed all the same")?;
    c.revert(&prepared.undo).await?;
    ensure(c.value().await == theirs, "the revert changed what was not ours")?;
    Ok(error.to_string())
}

pub async fn another_drill(c: &Case<'_>) -> Outcome {
    let undo = c.bite().await?;
    let during = c.value().await;
    let other = Case {
        cx: FaultCx { plan: Arc::clone(&c.cx.plan), ..c.w.cx(&unique("other"), &[("t", &[])], OwnPlace::default(), LIMIT) },
        spec: c.spec.clone(),
        objects: c.objects.clone(),
        name: c.name.clone(),
        volume: c.volume.clone(),
        ..*c
    };
    let error = fault::prepare(&other.cx, &other.spec, &other.objects).await.err().ok_or("two drills may break one thing")?;
    match other.revert(&undo).await {
        Ok((result, said)) => ensure(
            matches!(result, RevertResult::Superseded | RevertResult::Nothing),
            format!("another drill's revert was {result:?}: {said}"),
        )?,
        // What is set aside is not given to another drill.
        Err(said) => ensure(c.kind == Kind::Hide && said.contains("not set aside by this drill"), said)?,
    }
    ensure(c.value().await == during, "another drill's revert changed the value")?;
    ensure(c.revert(&undo).await?.0 == RevertResult::Reverted, "it could not be reverted afterwards")?;
    c.gone(&undo).await?;
    Ok(error.to_string())
}

pub async fn another_machine(c: &Case<'_>, elsewhere: &World) -> Outcome {
    let before = c.value().await;
    let undo = c.bite().await?;
    let cx = c.of(elsewhere);
    let (result, said) = fault::revert(&cx, &undo).await.map_err(|e| e.to_string())?;
    ensure(result == c.undone(), format!("it was {result:?}"))?;
    fault::gone(&cx, &undo, LIMIT).await.map_err(|e| e.to_string())?;
    ensure(c.value().await == before, format!("{before:?} became {:?}", c.value().await))?;
    Ok(said)
}

/// An inject that the API server carries out after its revert (it hung; the runner gave up or died) is refused.
pub async fn late_inject(c: &Case<'_>) -> Outcome {
    let before = c.value().await;
    let prepared = fault::prepare(&c.cx, &c.spec, &c.objects).await.map_err(|e| e.to_string())?;
    let version = c.version().await;
    let (result, _) = c.revert(&prepared.undo).await?;
    ensure(result == RevertResult::Nothing, format!("it was {result:?}"))?;
    let error = c.late(version).await.err().ok_or("it was carried out after the revert")?;
    ensure(matches!(&error, kube::Error::Api(status) if status.code == 409), error.to_string())?;
    ensure(c.value().await == before, "something was changed, or a mark is left")?;
    Ok("refused: 409".to_owned())
}

/// What would break nothing is no fault.
pub async fn without_effect(mut c: Case<'_>) -> Outcome {
    c.make_unfit().await;
    let error = fault::prepare(&c.cx, &c.spec, &c.objects).await.err();
    error.map(|e| e.to_string()).ok_or_else(|| "it may be injected".to_owned())
}

/// Objects before and after are the same.
pub async fn nothing_left(c: &Case<'_>) -> Outcome {
    let before = everything(c.w).await;
    let undo = c.bite().await?;
    let during = everything(c.w).await;
    ensure(during != before || !c.kind.has_value(), "this case cannot fail: nothing that it looks at changed")?;
    c.revert(&undo).await?;
    c.gone(&undo).await?;
    same(&before, &everything(c.w).await)?;
    Ok(format!("{} objects as before", before.len()))
}

fn same(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Result<(), String> {
    let names = before.keys().chain(after.keys());
    let differ: Vec<String> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| format!("{name}: {:?} became {:?}", before.get(name).map(Value::to_string), after.get(name).map(Value::to_string)))
        .collect();
    ensure(differ.is_empty(), format!("something is left: {}", differ.join("; ")))
}

/// A runner that is killed after so many writes: it never comes to the next one.
fn dying(cx: &FaultCx, writes: usize) -> (FaultCx, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let leave = Leave::new(move || if count.fetch_add(1, Ordering::SeqCst) < writes { Ok(()) } else { Err("killed here".to_owned()) });
    (FaultCx { leave, ..cx.clone() }, asked)
}

/// Another runner of the drill, on another machine, finishes the revert; then everything is as it was.
async fn finish(c: &Case<'_>, elsewhere: &World, undo: &Undo, before: &BTreeMap<String, Value>) -> Result<RevertResult, String> {
    let cx = c.of(elsewhere);
    let (result, said) = fault::revert(&cx, undo).await.map_err(|e| format!("revert elsewhere: {e}"))?;
    ensure(matches!(result, RevertResult::Reverted | RevertResult::Nothing), format!("revert elsewhere: {result:?}: {said}"))?;
    fault::gone(&cx, undo, LIMIT).await.map_err(|e| format!("gone elsewhere: {e}"))?;
    same(before, &everything(c.w).await)?;
    Ok(result)
}

/// Killed before each of its writes, and after the last.
pub async fn killed_in_inject(w: &World, kind: Kind, elsewhere: &World) -> Outcome {
    for writes in 0..MOST_WRITES {
        let c = Case::new(w, kind).await;
        let before = everything(w).await;
        let (cx, asked) = dying(&c.cx, writes);
        let prepared = fault::prepare(&cx, &c.spec, &c.objects).await.map_err(|e| format!("prepare: {e}"))?;
        fault::arm(&cx, &c.spec, &prepared.undo).await.map_err(|e| format!("arm: {e}"))?;
        ensure(asked.load(Ordering::SeqCst) == 0, "it wrote before it was injected")?;
        let injected = fault::inject(&cx, &c.spec, &prepared.undo).await;
        let done = match injected {
            Ok(_) => true,
            Err(error) if error.to_string().contains("killed here") => false,
            Err(error) => return Err(format!("inject, killed after {writes} writes: {error}")),
        };
        finish(&c, elsewhere, &prepared.undo, &before).await.map_err(|e| format!("killed after {writes} writes: {e}"))?;
        if done {
            ensure(writes > 0, "it injected without a write that is asked about")?;
            return Ok(format!("killed before each of {writes} writes, and after the last"));
        }
    }
    Err(format!("it makes more than {MOST_WRITES} writes"))
}

/// Killed before each write of the revert and of the proof that it is gone.
pub async fn killed_in_revert(w: &World, kind: Kind, elsewhere: &World) -> Outcome {
    for writes in 0..MOST_WRITES {
        let c = Case::new(w, kind).await;
        let before = everything(w).await;
        let undo = c.bite().await?;
        let (cx, asked) = dying(&c.of(elsewhere), writes);
        let reverted = fault::revert(&cx, &undo).await.is_ok();
        // A proof that may not write is not there in time; it is not waited for as long as one that may.
        let limit = std::time::Duration::from_secs(if kind == Kind::Hide { 2 } else { 60 });
        let done = reverted && fault::gone(&cx, &undo, limit).await.is_ok();
        finish(&c, elsewhere, &undo, &before).await.map_err(|e| format!("killed after {writes} writes: {e}"))?;
        if done && asked.load(Ordering::SeqCst) <= writes {
            ensure(writes > 0 || !kind.has_value(), "it reverted without a write that is asked about")?;
            return Ok(format!("killed before each of {writes} writes, and after the last"));
        }
    }
    Err(format!("it makes more than {MOST_WRITES} writes"))
}
