//! `pods`: how many pods of a target are ready.
//!
//! Each sample is a read of its own, because a read has a beginning and an end between which its answer was true; the
//! state a watch delivers was true some unknown time ago. The watch says when to take a sample out of turn, so that a
//! change is not seen only at the next tick. A watch that breaks costs speed, and never truth.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PartialObjectMeta},
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{ProbeCx, sample::Outcome, sampler::Take};
use crate::{
    cluster::{WATCH_SECS, WatchPause, why},
    lean::LeanPod,
    scenario::types::{PodsProbe, Target},
};

/// The samples of a `pods` probe.
pub(super) fn take(cx: &ProbeCx, probe: &PodsProbe) -> Result<(Take, Option<mpsc::Receiver<()>>), String> {
    let target = cx.plan.targets.get(&probe.target).ok_or_else(|| format!("there is no target `{}`", probe.target))?;
    let matching = Arc::new(Matching::of(&target.spec, &probe.target)?);
    let namespace = target.spec.namespace.clone().ok_or_else(|| format!("target `{}` has no namespace", probe.target))?;
    let (nudge, nudges) = mpsc::channel(1);
    let watched: Api<PartialObjectMeta<Pod>> = Api::namespaced(cx.cluster.streams.clone(), &namespace);
    let events = watcher::watcher(watched, matching.config());
    let watch = Arc::new(AbortOnDropHandle::new(tokio::spawn(crate::gate::own(follow(events, nudge)))));
    let api: Api<LeanPod> = Api::namespaced(cx.cluster.client.clone(), &namespace);
    let ready = probe.ready;
    let take: Take = Box::new(move || {
        let (api, matching, watch) = (api.clone(), matching.clone(), watch.clone());
        async move {
            let outcome = count(&api, &matching, ready).await;
            drop(watch);
            outcome
        }
        .boxed()
    });
    Ok((take, Some(nudges)))
}

/// Which pods a target means, told from the pods alone.
#[derive(Debug)]
pub(super) struct Matching {
    labels: Option<String>,
    name: Option<String>,
    owner: Option<(String, String)>,
}

impl Matching {
    pub(super) fn of(target: &Target, name: &str) -> Result<Self, String> {
        let none = Self { labels: None, name: None, owner: None };
        if let Some(selector) = &target.pods {
            return Ok(Self { labels: Some(selector.0.clone()), ..none });
        }
        if let Some(pod) = &target.name {
            return Ok(Self { name: Some(pod.clone()), ..none });
        }
        let owner = match (&target.owner, &target.stateful_set, &target.deployment) {
            (Some(owner), ..) => owner.split_once('/').map(|(kind, name)| (kind.to_owned(), name.to_owned())),
            (_, Some(name), _) => Some(("StatefulSet".to_owned(), name.clone())),
            (_, _, Some(name)) => Some(("Deployment".to_owned(), name.clone())),
            _ => None,
        };
        match owner {
            Some(owner) => Ok(Self { owner: Some(owner), ..none }),
            None => Err(format!("target `{name}` is not one of pods: say `pods`, `name`, `owner`, `statefulSet` or `deployment`")),
        }
    }

    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default().timeout(WATCH_SECS);
        let config = self.labels.iter().fold(config, |config, labels| config.labels(labels));
        self.name.iter().fold(config, |config, name| config.fields(&format!("metadata.name={name}")))
    }

    pub(super) fn params(&self) -> ListParams {
        let params = ListParams::default();
        let params = self.labels.iter().fold(params, |params, labels| params.labels(labels));
        self.name.iter().fold(params, |params, name| params.fields(&format!("metadata.name={name}")))
    }

    /// For `owner`: whether the pod belongs to it. A Deployment owns by a ReplicaSet named after it and the pod's
    /// `pod-template-hash`.
    pub(super) fn owns(&self, pod: &Pod) -> bool {
        let Some((kind, name)) = &self.owner else { return true };
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        owners.iter().filter(|owner| owner.controller == Some(true)).any(|owner| {
            if kind == "Deployment" && owner.kind == "ReplicaSet" {
                let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
                return hash.is_some_and(|hash| owner.name == format!("{name}-{hash}"));
            }
            owner.kind == *kind && owner.name == *name
        })
    }
}

async fn count(api: &Api<LeanPod>, matching: &Matching, wanted: u32) -> Outcome {
    let pods = match api.list(&matching.params()).await {
        Ok(pods) => pods.items,
        Err(error) => return Outcome::unknown(format!("failed to list pods: {}", why(&error))),
    };
    let pods: Vec<Pod> = pods.into_iter().map(Pod::from).collect();
    judge(pods.iter().filter(|pod| matching.owns(pod)), wanted)
}

fn judge<'a>(pods: impl Iterator<Item = &'a Pod>, wanted: u32) -> Outcome {
    let (mut all, mut ready) = (0u32, Vec::new());
    for pod in pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        all += 1;
        if is_ready(pod) {
            ready.push(pod.metadata.name.as_deref().unwrap_or_default());
        }
    }
    ready.sort_unstable();
    let names = if ready.len() <= 5 { ready.join(", ") } else { format!("{}, …", ready[..5].join(", ")) };
    let detail = format!("{} of {all} ready{}{names}", ready.len(), if ready.is_empty() { "" } else { ": " });
    if ready.len() >= wanted as usize { Outcome::good(detail) } else { Outcome::bad(detail) }
}

/// Whether a pod's `Ready` condition is true.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Nudges at every event of a stream of watch events.
pub(super) async fn follow<T>(
    events: impl futures::Stream<Item = Result<watcher::Event<T>, watcher::Error>> + Send,
    nudge: mpsc::Sender<()>,
) {
    // A watch that breaks is opened again after a while that grows; the ticks go on all the same.
    let mut events = pin!(events.backoff(WatchPause::default()));
    while !nudge.is_closed() {
        tokio::select! {
            biased;
            () = nudge.closed() => return,
            event = events.next() => match event {
                // A nudge that waits already is as good as two.
                Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_))) => drop(nudge.try_send(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::debug!(%error, "watch broke"),
                None => tokio::time::sleep(Duration::from_secs(1)).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::types::{ProbeState, Selector};

    fn pod(name: &str, ready: bool, owner: (&str, &str), deleted: bool) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "labels": {"pod-template-hash": "abc"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": "u", "controller": true}]},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn ready_pods_are_counted_and_going_ones_are_not() {
        let set = ("StatefulSet", "orders");
        let pods = [pod("a", true, set, false), pod("b", false, set, false), pod("c", true, set, true)];
        assert_eq!(judge(pods.iter(), 1), Outcome::good("1 of 2 ready: a"));
        assert_eq!(judge(pods.iter(), 2), Outcome::bad("1 of 2 ready: a"));
        assert_eq!(judge([].iter(), 1).state, ProbeState::Bad);
    }

    #[test]
    fn owners_are_told_from_the_pod() {
        let owner = |kind: &str, name: &str| Target { owner: Some(format!("{kind}/{name}")), ..Target::default() };
        let owns = |target: &Target, pod: &Pod| Matching::of(target, "t").unwrap().owns(pod);
        assert!(owns(&owner("StatefulSet", "orders"), &pod("a", true, ("StatefulSet", "orders"), false)));
        assert!(!owns(&owner("StatefulSet", "orders"), &pod("a", true, ("StatefulSet", "orders-2"), false)));
        assert!(owns(&owner("Deployment", "web"), &pod("a", true, ("ReplicaSet", "web-abc"), false)));
        assert!(!owns(&owner("Deployment", "web"), &pod("a", true, ("ReplicaSet", "web-2-abc"), false)));
        assert!(Matching::of(&Target { pvc: Some("x".to_owned()), ..Target::default() }, "t").is_err());
        let all = Target { pods: Some(Selector("a=b".to_owned())), ..Target::default() };
        assert!(owns(&all, &pod("a", true, ("Job", "x"), false)));
    }
}
