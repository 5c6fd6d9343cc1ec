//! How a Deployment moves pods between its ReplicaSets (`pkg/controller/deployment/rolling.go`, `sync.go`).

use std::sync::Arc;

use super::{
    api::At,
    deployment::{BY, DESIRED, MAX, Rollout, counted, size},
    look::{annotate, available_at, number},
};
use crate::sandbox::{
    core::{State, as_map, map_at, text},
    refusal::Answer,
    store::Stored,
};

/// Gives a set another size, and notes on it how many pods are wanted.
///
/// # Errors
/// Of the writes.
pub(super) fn resize(state: &mut State, rollout: &Rollout, set: &Arc<Stored>, to: i64) -> Answer<()> {
    let name = text(&set.value, "/metadata/name");
    let from = size(set);
    let wanted = rollout.wanted();
    let mut value = set.value.clone();
    map_at(as_map(&mut value), "spec").insert("replicas".to_owned(), serde_json::Value::from(to));
    annotate(&mut value, DESIRED, &wanted.to_string());
    annotate(&mut value, MAX, &(wanted + rollout.fences().0).to_string());
    if value == set.value {
        return Ok(());
    }
    state.change(BY, At::new("apps", "replicasets", rollout.namespace(), name), "", value)?;
    if from != to {
        let how = if to > from { "up" } else { "down" };
        let message = format!("Scaled {how} replica set {name} from {from} to {to}");
        state.tell(BY, ("apps/v1", "Deployment", &rollout.deployment.value), "Normal", "ScalingReplicaSet", &message);
    }
    Ok(())
}

/// One step of a rolling update: up first, and down only in a later one, as the real controller.
///
/// # Errors
/// Of the writes.
pub(super) fn rolling(state: &mut State, rollout: &Rollout, now: i64) -> Answer<()> {
    let Some(new) = &rollout.new else { return Ok(()) };
    let (surge, unavailable) = rollout.fences();
    let (wanted, total) = (rollout.wanted(), rollout.sets().map(|set| size(set)).sum::<i64>());
    let to = match size(new) {
        now if now > wanted => wanted,
        now if now < wanted => now + (wanted + surge - total).clamp(0, wanted - now),
        now => now,
    };
    if to != size(new) {
        return resize(state, rollout, new, to);
    }
    if rollout.old.iter().all(|set| size(set) == 0) {
        // Nothing moves; what is wanted is noted on the set all the same.
        return resize(state, rollout, new, to);
    }
    let least = wanted - unavailable;
    let new_unavailable = size(new) - available(state, rollout, new, now);
    let mut may_go = total - least - new_unavailable;
    if may_go <= 0 {
        return Ok(());
    }
    let mut sizes: Vec<i64> = rollout.old.iter().map(|set| size(set)).collect();
    // Old pods that do not work go first: nobody misses them.
    for (set, size) in rollout.old.iter().zip(&mut sizes) {
        let sick = *size - available(state, rollout, set, now);
        let down = sick.clamp(0, may_go);
        if *size > 0 && down > 0 {
            *size -= down;
            may_go -= down;
        }
    }
    let all_available: i64 = rollout.sets().map(|set| available(state, rollout, set, now)).sum();
    let mut spare = all_available - least;
    for size in &mut sizes {
        let down = spare.clamp(0, *size);
        *size -= down;
        spare -= down;
    }
    for (set, size) in rollout.old.iter().zip(sizes) {
        resize(state, rollout, set, size)?;
    }
    Ok(())
}

/// How many of a set's pods are available: the pods themselves are asked, because its status may be behind.
fn available(state: &State, rollout: &Rollout, set: &Stored, now: i64) -> i64 {
    let min_ready = number(&set.value, "/spec/minReadySeconds").unwrap_or(0);
    let pods = state.controlled("/pods", rollout.namespace(), text(&set.value, "/metadata/uid"));
    let good = pods.iter().filter(|pod| super::look::active(&pod.value) && available_at(&pod.value, min_ready).is_some_and(|at| at <= now));
    i64::try_from(good.count()).unwrap_or(0).min(counted(set, "availableReplicas").max(0))
}

/// Another number of pods is wanted: sets that have some grow or shrink in proportion.
///
/// # Errors
/// Of the writes.
pub(super) fn scale(state: &mut State, rollout: &Rollout) -> Answer<()> {
    let wanted = rollout.wanted();
    let live: Vec<&Arc<Stored>> = rollout.sets().filter(|set| size(set) > 0).collect();
    // One set, or none: it takes all.
    let single = match live.as_slice() {
        [] => rollout.new.as_ref().or(rollout.old.last()),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(set) = single {
        return resize(state, rollout, set, wanted);
    }
    if let Some(new) = &rollout.new
        && size(new) == wanted
        && counted(new, "availableReplicas") == wanted
    {
        for set in &rollout.old {
            resize(state, rollout, set, 0)?;
        }
        return resize(state, rollout, new, wanted);
    }
    let (surge, _) = rollout.fences();
    let allowed = if wanted > 0 { wanted + surge } else { 0 };
    let total: i64 = live.iter().map(|set| size(set)).sum();
    let to_add = allowed - total;
    let mut sorted = live;
    // The largest first; of equals when growing the newest, when shrinking the oldest.
    sorted.sort_by_cached_key(|set| {
        let born = text(&set.value, "/metadata/creationTimestamp").to_owned();
        (-size(set), born)
    });
    if to_add > 0 {
        sorted.sort_by_key(|set| (-size(set), std::cmp::Reverse(set.version)));
    }
    let mut sizes: Vec<i64> = Vec::new();
    let mut added = 0;
    for set in &sorted {
        let share = if to_add == 0 || total == 0 { 0 } else { rounded(size(set) * allowed, total) - size(set) };
        let left = to_add - added;
        let share = if to_add > 0 { share.clamp(0, left.max(0)) } else { share.clamp(left.min(0), 0) };
        added += share;
        sizes.push((size(set) + share).max(0));
    }
    // What rounding left over goes to the first.
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in sorted.into_iter().zip(sizes) {
        resize(state, rollout, set, size)?;
    }
    Ok(())
}

fn rounded(product: i64, total: i64) -> i64 {
    (product * 2 + total).div_euclid(total * 2)
}
