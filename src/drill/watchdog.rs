//! The drill's watchdog as the runner sees it: placed before anything is broken, and asked whether it could revert it.
//! What it does is in [`crate::agent::watchdog`].

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::{DrillError, executor::Drill};
use crate::{
    agent::pods::{self, AgentKind, PodSpec},
    journal::Event,
    probe,
    scenario::types::Dur,
};

/// The key of the watchdog's word in the drill's inbox.
pub(crate) const WORD: &str = "watchdog";
/// It can revert the drill.
pub(crate) const READY: &str = "ready";
/// It cannot; the remark says why.
pub(crate) const UNABLE: &str = "unable";

/// How long it may take to be running and to have looked at what it may do.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How often its word is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much longer than the drill the kubelet lets its pod live: long enough for an API server that is away for a night.
const LAST_RESORT: Duration = Duration::from_secs(12 * 3600);

fn not_placed(detail: impl Into<String>) -> DrillError {
    DrillError::Place { what: "watchdog", detail: detail.into() }
}

impl Drill {
    /// Makes the watchdog's pod, if the environment has a watchdog and the drill breaks something; where there is none, that is
    /// noted.
    pub(super) async fn place_watchdog(&self) -> Result<Option<Pod>, DrillError> {
        let Some(watchdog) = &self.plan.watchdog else {
            if self.plan.leaf_steps().iter().any(|step| step.fault.is_some()) {
                let text = "there is no watchdog: if the runner is lost, what it changed through the API stays until `firedrill revert`";
                self.record(Event::Note { text: text.to_owned() }).await?;
            }
            return Ok(None);
        };
        let (avoid_nodes, remark) = probe::outside(&self.cluster, &self.plan, "watchdog").await.map_err(not_placed)?;
        let service_account = watchdog.service_account.clone();
        let spec = PodSpec {
            kind: AgentKind::Watchdog { avoid_nodes, service_account, lease: self.options.lease },
            drill: self.name.clone(),
            token: String::new(),
            runner: String::new(),
            place: self.plan.place.firedrill.clone(),
            ttl: Duration::ZERO,
            deadline: self.plan.limits.duration.0 + LAST_RESORT,
        };
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        let pod = pods::make(&self.cluster, &spec, &self.faults.leave, deadline)
            .await
            .map_err(|e| not_placed(format!("{e}; {}", self.way_out())))?;
        if let Some(detail) = remark {
            self.record(Event::Deviation { detail }).await?;
        }
        Ok(Some(pod))
    }

    fn way_out(&self) -> String {
        let account = self.plan.watchdog.as_ref().map(|w| w.service_account.as_str()).unwrap_or_default();
        format!(
            "nothing was changed. An owner makes ServiceAccount {}/{account} and what it may do with `firedrill plan --rbac`",
            self.plan.place.firedrill.namespace
        )
    }

    /// Waits until the watchdog has said that it could revert the drill.
    pub(super) async fn watchdog_ready(&self, pod: &Pod) -> Result<(), DrillError> {
        let (name, uid) = (pod.name_any(), pod.uid());
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            match self.inbox.read().await {
                Ok(items) => match items.get(WORD).filter(|word| Some(&word.by) == uid.as_ref()) {
                    Some(word) if word.action == READY => break,
                    Some(word) => {
                        let missing = &word.remark;
                        return Err(not_placed(format!("it could not revert this drill: {missing}; {}", self.way_out())));
                    }
                    None => {}
                },
                Err(error) => tracing::debug!(%error, "the inbox cannot be read"),
            }
            let seen = match self.watchdog_pod(&name, uid.as_deref()).await {
                Ok(pod) => pods::waiting_for(&pod),
                Err(Lost::Gone(why)) => return Err(not_placed(format!("{why}; {}", self.way_out()))),
                Err(Lost::Unknown(why)) => why,
            };
            if self.abort.is_cancelled() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let limit = Dur(READY_LIMIT);
                return Err(not_placed(format!("it did not say within {limit} that it could revert this drill: {seen}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let pod = format!("{}/{name}", self.plan.place.firedrill.namespace);
        self.record(Event::Armed { what: "watchdog".to_owned(), pod }).await
    }

    /// Whether the drill still has its watchdog: looked at before each fault. Says what is wrong.
    pub(super) async fn watchdog_there(&self) -> Result<(), String> {
        let Some(watchdog) = &self.plan.watchdog else { return Ok(()) };
        let (service_account, lease) = (watchdog.service_account.clone(), self.options.lease);
        let name = AgentKind::Watchdog { avoid_nodes: Vec::new(), service_account, lease }.pod_name(&self.name);
        match self.watchdog_pod(&name, None).await {
            Ok(_) => Ok(()),
            Err(Lost::Gone(why) | Lost::Unknown(why)) => Err(format!("the watchdog is lost: {why}")),
        }
    }

    async fn watchdog_pod(&self, name: &str, uid: Option<&str>) -> Result<Pod, Lost> {
        let own = &self.plan.place.firedrill.namespace;
        let found = self.cluster.get_opt::<Pod>(own, name).await.map_err(|e| Lost::Unknown(e.to_string()))?;
        let gone = |why: String| Lost::Gone(format!("pod {own}/{name} {why}"));
        match found.filter(|pod| uid.is_none() || pod.uid().as_deref() == uid) {
            None => Err(gone("was deleted".to_owned())),
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => Err(gone("is being deleted".to_owned())),
            Some(pod) => match pods::hopeless(&pod) {
                Some(why) => Err(gone(format!("does not run: {why}"))),
                None => Ok(pod),
            },
        }
    }
}

/// Why the watchdog's pod is not as it must be.
enum Lost {
    /// For good.
    Gone(String),
    /// It cannot be seen.
    Unknown(String),
}
