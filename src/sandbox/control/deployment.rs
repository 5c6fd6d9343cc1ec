//! Deployments (`pkg/controller/deployment`): which ReplicaSet is the new one, and what the status says. How pods move
//! from the old to the new is in `rollout.rs`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Again,
    api::{At, By, controller},
    look::{self, SECOND, annotate, annotation, deleting, flag, hash, number, owner_reference, scaled, set_count, set_label},
    rollout,
};
use crate::sandbox::{
    core::{State, as_map, map_at, meta, text},
    refusal::Answer,
    store::{Key, Stored},
};

pub(super) const BY: By<'_> = controller!("deployment-controller");
const HASH: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment and what belongs to it.
pub(super) struct Rollout {
    pub(super) deployment: Arc<Stored>,
    /// The set of the present template, if there is one.
    pub(super) new: Option<Arc<Stored>>,
    /// The others, oldest first.
    pub(super) old: Vec<Arc<Stored>>,
}

impl Rollout {
    pub(super) fn namespace(&self) -> &str {
        text(&self.deployment.value, "/metadata/namespace")
    }

    /// `spec.replicas`.
    pub(super) fn wanted(&self) -> i64 {
        number(&self.deployment.value, "/spec/replicas").unwrap_or(1)
    }

    fn strategy(&self) -> &str {
        text(&self.deployment.value, "/spec/strategy/type")
    }

    /// Surge and unavailable, as numbers (`ResolveFenceposts`: never both 0).
    pub(super) fn fences(&self) -> (i64, i64) {
        if self.strategy() != "RollingUpdate" {
            return (0, self.wanted());
        }
        let at = |field: &str| self.deployment.value.pointer(&format!("/spec/strategy/rollingUpdate/{field}"));
        let surge = scaled(at("maxSurge"), self.wanted(), true);
        let unavailable = scaled(at("maxUnavailable"), self.wanted(), false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(self.wanted().max(1))) }
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.old.iter().chain(&self.new)
    }
}

/// A set's `spec.replicas`.
pub(super) fn size(set: &Stored) -> i64 {
    number(&set.value, "/spec/replicas").unwrap_or(0)
}

/// A number of a set's status.
pub(super) fn counted(set: &Stored, field: &str) -> i64 {
    number(&set.value, &format!("/status/{field}")).unwrap_or(0)
}

/// Makes it true.
pub(super) fn reconcile(state: &mut State, key: &Key, now: i64) -> Again {
    let Some(deployment) = state.peek("apps", "deployments", &key.0, &key.1).cloned() else { return Ok(None) };
    let sets = state.claim(BY, ("apps", "replicasets"), ("apps/v1", "Deployment"), &deployment.value)?;
    let mut rollout = gather(deployment, sets);
    if deleting(&rollout.deployment.value) {
        return write_status(state, &rollout, now);
    }
    let paused = flag(&rollout.deployment.value, "/spec/paused");
    if !paused && rollout.new.is_none() && (rollout.strategy() == "RollingUpdate" || !running_old(state, &rollout)) {
        // Recreate: the new set is made once the last old pod has ended.
        if rollout.strategy() == "RollingUpdate" || rollout.old.iter().all(|set| size(set) == 0) {
            rollout = make_new(state, rollout)?;
        }
    }
    if !paused && rollout.new.is_some() {
        rollout = number_revision(state, rollout)?;
    }
    if paused || scaling(&rollout) {
        rollout::scale(state, &rollout)?;
    } else if rollout.strategy() == "RollingUpdate" {
        rollout::rolling(state, &rollout, now)?;
    } else {
        recreate(state, &rollout)?;
    }
    let Some(rollout) = again(state, key) else { return Ok(None) };
    if !paused && complete(&rollout) {
        clean_up(state, &rollout)?;
    }
    write_status(state, &rollout, now)
}

fn again(state: &State, key: &Key) -> Option<Rollout> {
    let deployment = state.peek("apps", "deployments", &key.0, &key.1).cloned()?;
    let sets = state.controlled("apps/replicasets", &key.0, text(&deployment.value, "/metadata/uid"));
    Some(gather(deployment, sets))
}

fn gather(deployment: Arc<Stored>, mut sets: Vec<Arc<Stored>>) -> Rollout {
    sets.sort_by_cached_key(|set| {
        (text(&set.value, "/metadata/creationTimestamp").to_owned(), set.version, text(&set.value, "/metadata/name").to_owned())
    });
    let template = bare(deployment.value.pointer("/spec/template"));
    let is_new = |set: &Arc<Stored>| bare(set.value.pointer("/spec/template")) == template;
    let new = sets.iter().position(is_new).map(|n| sets.remove(n));
    Rollout { deployment, new, old: sets }
}

/// A template without the label that tells the sets apart (`EqualIgnoreHash`).
fn bare(template: Option<&Value>) -> Value {
    let mut template = template.cloned().unwrap_or_default();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH);
    }
    // Created empty by the server or left out by the author: the same.
    if let Some(metadata) = template.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("creationTimestamp");
    }
    template
}

fn make_new(state: &mut State, rollout: Rollout) -> Answer<Rollout> {
    let deployment = &rollout.deployment.value;
    let (namespace, name) = (text(deployment, "/metadata/namespace"), text(deployment, "/metadata/name"));
    let mut template = deployment.pointer("/spec/template").cloned().unwrap_or_default();
    let collisions = number(deployment, "/status/collisionCount").unwrap_or(0).to_string();
    let hash = hash(&[&bare(Some(&template)).to_string(), &collisions]);
    set_label(&mut template, HASH, &hash);
    let mut selector = deployment.pointer("/spec/selector").cloned().unwrap_or_else(|| json!({}));
    map_at(as_map(&mut selector), "matchLabels").insert(HASH.to_owned(), Value::from(hash.as_str()));
    let (surge, _) = rollout.fences();
    let total: i64 = rollout.old.iter().map(|set| size(set)).sum();
    let wanted = rollout.wanted();
    let replicas = if rollout.strategy() == "RollingUpdate" { (wanted + surge - total).clamp(0, wanted) } else { wanted };
    let set_name = format!("{name}-{hash}");
    let mut set = json!({
        "metadata": {
            "name": set_name, "namespace": namespace,
            "ownerReferences": [owner_reference("apps/v1", "Deployment", deployment)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    if let Some(min_ready) = number(deployment, "/spec/minReadySeconds").filter(|n| *n > 0) {
        set["spec"]["minReadySeconds"] = Value::from(min_ready);
    }
    let labels = set.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    meta(&mut set).insert("labels".to_owned(), labels);
    for (key, value) in look::strings_at(deployment, "/metadata/annotations") {
        if key != "kubectl.kubernetes.io/last-applied-configuration" && key != REVISION {
            annotate(&mut set, &key, &value);
        }
    }
    annotate(&mut set, REVISION, &next_revision(&rollout).to_string());
    annotate(&mut set, DESIRED, &wanted.to_string());
    annotate(&mut set, MAX, &(wanted + surge).to_string());
    match state.make(BY, At::new("apps", "replicasets", namespace, ""), set) {
        Ok(new) => {
            let message = format!("Scaled up replica set {set_name} from 0 to {replicas}");
            if replicas > 0 {
                state.tell(BY, ("apps/v1", "Deployment", deployment), "Normal", "ScalingReplicaSet", &message);
            }
            Ok(Rollout { new: Some(new), ..rollout })
        }
        // Another template has this hash, or somebody else's set this name: the next hash is another one.
        Err(refusal) if refusal.code() == 409 => {
            let mut status = deployment.get("status").cloned().unwrap_or_else(|| json!({}));
            let count = number(deployment, "/status/collisionCount").unwrap_or(0) + 1;
            as_map(&mut status).insert("collisionCount".to_owned(), Value::from(count));
            state.change_status(BY, At::new("apps", "deployments", namespace, name), &rollout.deployment, status)?;
            Err(refusal)
        }
        Err(refusal) => Err(refusal),
    }
}

fn revision(set: &Stored) -> i64 {
    annotation(&set.value, REVISION).parse().unwrap_or(0)
}

fn next_revision(rollout: &Rollout) -> i64 {
    rollout.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
}

/// The new set has the highest revision, also when it is an old one that was rolled back to; the Deployment has its set's.
fn number_revision(state: &mut State, rollout: Rollout) -> Answer<Rollout> {
    let Some(mut new) = rollout.new.clone() else { return Ok(rollout) };
    let namespace = rollout.namespace().to_owned();
    let wanted = next_revision(&rollout);
    if revision(&new) < wanted {
        let mut value = new.value.clone();
        annotate(&mut value, REVISION, &wanted.to_string());
        new = state.change(BY, At::new("apps", "replicasets", &namespace, text(&new.value, "/metadata/name")), "", value)?;
    }
    let mut deployment = Arc::clone(&rollout.deployment);
    let number = annotation(&new.value, REVISION).to_owned();
    if annotation(&deployment.value, REVISION) != number {
        let mut value = deployment.value.clone();
        annotate(&mut value, REVISION, &number);
        // By way of the status, so that the generation stays.
        deployment =
            state.change(BY, At::new("apps", "deployments", &namespace, text(&deployment.value, "/metadata/name")), "status", value)?;
    }
    Ok(Rollout { deployment, new: Some(new), old: rollout.old })
}

/// The number of pods was changed (`isScalingEvent`): sets remember how many were wanted.
fn scaling(rollout: &Rollout) -> bool {
    rollout.sets().filter(|set| size(set) > 0).any(|set| {
        let desired: Option<i64> = annotation(&set.value, DESIRED).parse().ok();
        desired.is_some_and(|desired| desired != rollout.wanted())
    })
}

fn running_old(state: &State, rollout: &Rollout) -> bool {
    let namespace = rollout.namespace();
    rollout.old.iter().any(|set| {
        let pods = state.controlled("/pods", namespace, text(&set.value, "/metadata/uid"));
        pods.iter().any(|pod| !look::ended(&pod.value))
    })
}

fn recreate(state: &mut State, rollout: &Rollout) -> Answer<()> {
    for set in &rollout.old {
        rollout::resize(state, rollout, set, 0)?;
    }
    match &rollout.new {
        Some(new) if !running_old(state, rollout) => rollout::resize(state, rollout, new, rollout.wanted()),
        _ => Ok(()),
    }
}

/// `DeploymentComplete`.
fn complete(rollout: &Rollout) -> bool {
    let wanted = rollout.wanted();
    let total = |field: &str| rollout.sets().map(|set| counted(set, field)).sum::<i64>();
    let updated = rollout.new.as_ref().map_or(0, |new| counted(new, "replicas"));
    updated == wanted && total("replicas") == wanted && total("availableReplicas") == wanted
}

/// Old sets without pods are kept for rolling back, so many of them.
fn clean_up(state: &mut State, rollout: &Rollout) -> Answer<()> {
    let limit = number(&rollout.deployment.value, "/spec/revisionHistoryLimit").unwrap_or(10);
    let mut old: Vec<&Arc<Stored>> = rollout.old.iter().filter(|set| !deleting(&set.value)).collect();
    let surplus = i64::try_from(old.len()).unwrap_or(0) - limit;
    if surplus <= 0 {
        return Ok(());
    }
    old.sort_by_key(|set| revision(set));
    for set in old.into_iter().take(usize::try_from(surplus).unwrap_or(0)) {
        let unused = counted(set, "replicas") == 0 && size(set) == 0;
        if unused {
            let name = text(&set.value, "/metadata/name");
            state.remove(BY, At::new("apps", "replicasets", rollout.namespace(), name), &json!({}))?;
        }
    }
    Ok(())
}

/// `calculateStatus` and `syncRolloutStatus`. When the progress deadline runs out.
fn write_status(state: &mut State, rollout: &Rollout, now: i64) -> Again {
    let old = Arc::clone(&rollout.deployment);
    let total = |field: &str| usize::try_from(rollout.sets().map(|set| counted(set, field)).sum::<i64>()).unwrap_or(0);
    let wanted = usize::try_from(rollout.wanted()).unwrap_or(0);
    let updated = rollout.new.as_ref().map_or(0, |new| usize::try_from(counted(new, "replicas")).unwrap_or(0));
    let (replicas, available) = (total("replicas"), total("availableReplicas"));
    let mut status = json!({"observedGeneration": old.value["metadata"]["generation"]});
    set_count(&mut status, "replicas", replicas);
    set_count(&mut status, "updatedReplicas", updated);
    set_count(&mut status, "readyReplicas", total("readyReplicas"));
    set_count(&mut status, "availableReplicas", available);
    set_count(&mut status, "unavailableReplicas", replicas.max(wanted).saturating_sub(available));
    for kept in ["collisionCount", "conditions"] {
        if let Some(value) = old.value.pointer(&format!("/status/{kept}")) {
            status[kept] = value.clone();
        }
    }
    let stamp = state.now();
    let (_, unavailable) = rollout.fences();
    let enough = i64::try_from(available).unwrap_or(0) >= rollout.wanted() - unavailable;
    let mut set = |kind: &str, is: &str, reason: &str, message: &str, touch: bool| {
        let same =
            look::condition(&json!({"status": status}), kind).is_some_and(|c| text(c, "/status") == is && text(c, "/reason") == reason);
        if same && !touch {
            return;
        }
        look::set_condition(&mut status, kind, is, reason, message, &stamp);
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter(|c| text(c, "/type") == kind) {
            condition["lastUpdateTime"] = Value::from(stamp.as_str());
        }
    };
    if enough {
        set("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", false);
    } else {
        set("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", false);
    }
    let new_name = rollout.new.as_ref().map(|new| text(&new.value, "/metadata/name").to_owned());
    let name = text(&old.value, "/metadata/name");
    let of = new_name.map_or_else(|| format!("Deployment \"{name}\""), |new| format!("ReplicaSet \"{new}\""));
    let deadline_us = number(&old.value, "/spec/progressDeadlineSeconds").unwrap_or(600) * SECOND;
    let mut next = None;
    // Numbers that grew, or old pods that went, are progress.
    let count = |field: &str| number(&old.value, &format!("/status/{field}")).unwrap_or(0);
    let is = |n: usize| i64::try_from(n).unwrap_or(0);
    let progressed = is(updated) > count("updatedReplicas")
        || is(replicas - updated.min(replicas)) < count("replicas") - count("updatedReplicas")
        || is(total("readyReplicas")) > count("readyReplicas")
        || is(available) > count("availableReplicas");
    let progressing = look::condition(&old.value, "Progressing");
    let done = progressing.is_some_and(|c| text(c, "/reason") == "NewReplicaSetAvailable");
    if flag(&old.value, "/spec/paused") {
        set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", false);
    } else if complete(rollout) {
        set("Progressing", "True", "NewReplicaSetAvailable", &format!("{of} has successfully progressed."), false);
    } else if progressing.is_none() {
        set(
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            &format!("Created new replica set {}", of.trim_start_matches("ReplicaSet ")),
            false,
        );
        next = Some(now + deadline_us);
    } else if progressed || done && updated < wanted {
        set("Progressing", "True", "ReplicaSetUpdated", &format!("{of} is progressing."), true);
        next = Some(now + deadline_us);
    } else if !done {
        let since = progressing.and_then(|c| look::time(c, "/lastUpdateTime")).unwrap_or(now);
        if since + deadline_us <= now {
            set("Progressing", "False", "ProgressDeadlineExceeded", &format!("{of} has timed out progressing."), false);
        } else {
            next = Some(since + deadline_us);
        }
    }
    state.change_status(BY, At::new("apps", "deployments", rollout.namespace(), name), &old, status)?;
    Ok(next)
}
