//! Arming and disarming: observers, helpers and probes are put in their places before the drill and taken away after it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{ResourceExt, api::DeleteParams};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{DrillError, executor::Drill};
use crate::{
    cluster::again,
    fault, gate,
    journal::Event,
    labels,
    net::Dialer,
    probe::{ProbeCx, ProbeSet},
    runbook,
};

/// How many events probes may be ahead of the journal.
const EVENT_BACKLOG: usize = 1024;
/// How long the journal may take to take in the last events of the probes.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// How long pods may take to go.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

/// The probes of a drill and the tasks that carry what they see.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) set: ProbeSet,
    /// Events into the journal; ends when the probes have.
    drain: JoinHandle<()>,
    /// The board to displays; ends when the probes have.
    forward: JoinHandle<()>,
}

impl Drill {
    /// Places what is needed, inert, and starts the probes.
    pub(super) async fn arm(self: &Arc<Self>) -> Result<(), DrillError> {
        // First, because it has the longest to start; it is waited for last.
        let watchdog = self.place_watchdog().await?;
        // What is slow in a fault (a helper on a node) is done now, with the targets of the plan; at the inject all is looked at
        // again, and what has moved is armed anew.
        for step in self.plan.leaf_steps() {
            let Some(spec) = step.spec.inject.as_ref().filter(|spec| fault::needs_helper(spec)) else { continue };
            let Some(target) = fault::target_of(spec).and_then(|name| self.plan.targets.get(name)) else { continue };
            let chosen: Vec<_> = target.chosen().cloned().collect();
            let place = |detail: String| DrillError::Place { what: "node helper", detail };
            let prepared = fault::prepare(&self.faults, spec, &chosen).await.map_err(|e| place(e.to_string()))?;
            fault::arm(&self.faults, spec, &prepared.undo).await.map_err(|e| place(e.to_string()))?;
        }
        for (what, pod) in self.faults.helpers.placed().await {
            self.record(Event::Armed { what, pod }).await?;
        }
        self.start_probes().await?;
        if let Some(watchdog) = watchdog {
            self.watchdog_ready(&watchdog).await?;
        }
        self.record(Event::ArmingDone { at: self.clock.now() }).await
    }

    async fn start_probes(self: &Arc<Self>) -> Result<(), DrillError> {
        let dialer = match &self.options.sandbox {
            Some(dialer) => dialer.clone(),
            None => Dialer::host().map_err(|error| DrillError::Place { what: "probes", detail: error.to_string() })?,
        };
        let cx = ProbeCx {
            dialer,
            clock: self.clock.clone(),
            cluster: self.cluster.clone(),
            plan: Arc::clone(&self.plan),
            samples_dir: self.evidence.samples(),
            drill: self.name.clone(),
        };
        let (events, mut seen) = mpsc::channel(EVENT_BACKLOG);
        let journal = self.journal.clone();
        let drain = tokio::spawn(gate::own(async move {
            while let Some(event) = seen.recv().await {
                if let Err(error) = journal.append(event).await {
                    tracing::warn!(%error, "what a probe saw could not be journalled");
                }
            }
        }));
        let set = match ProbeSet::start(cx, events).await {
            Ok(set) => set,
            Err(error) => {
                drain.abort();
                return Err(DrillError::Place { what: "probes", detail: error.to_string() });
            }
        };
        let mut board = set.board();
        let drill = Arc::clone(self);
        let forward = tokio::spawn(gate::own(async move {
            loop {
                let now = board.borrow_and_update().clone();
                drill.show(now);
                if board.changed().await.is_err() {
                    return;
                }
            }
        }));
        *self.probes.lock().await = Some(Running { set, drain, forward });
        Ok(())
    }

    /// Ends the runs of all probes here, so that before and after a fault can be told apart.
    pub(super) async fn cut_probes(&self) {
        if let Some(probes) = &*self.probes.lock().await {
            probes.set.cut().await;
        }
    }

    /// Ends the sampling; when this returns, everything seen is in the journal.
    pub(super) async fn stop_probes(&self, probes: Running) {
        let Running { set, mut drain, forward } = probes;
        let fenced = self.state().lease_lost.is_some();
        let stopped = if fenced { set.leave().await } else { set.stop().await };
        if let Err(error) = stopped {
            tracing::warn!(%error, "sampling did not end as it should");
        }
        if tokio::time::timeout(DRAIN_LIMIT, &mut drain).await.is_err() {
            tracing::warn!("the journal did not take in all that the probes saw within {}s", DRAIN_LIMIT.as_secs());
            drain.abort();
        }
        forward.abort();
        // It was told to end just above; its being cancelled is no finding.
        let _ = forward.await;
    }

    /// Removes observers, helpers, runbook pods and Leases, and looks whether anything of the drill is left.
    pub(super) async fn disarm(&self) -> Result<(), DrillError> {
        // What carries the drill's name may be that of a runner who has taken over.
        if self.state().leased {
            self.may_act().await?;
        }
        let mut left = BTreeSet::new();
        // Agents first: they revert what they hold when told to go.
        left.extend(self.faults.helpers.remove_all(REMOVE_LIMIT).await);
        let scope = &self.plan.scope.namespaces;
        // An API server that is busy for a moment is asked again: whoever hears of something left has to look after it.
        match again(|| runbook::cleanup(&self.cluster, &self.name, scope)).await {
            Ok(rest) => left.extend(rest),
            Err(error) => drop(left.insert(error.to_string())),
        }
        if let Err(error) = self.remove_pods().await {
            left.insert(error);
        }
        if let Err(error) = again(|| self.leftovers(scope)).await.map(|found| left.extend(found)) {
            left.insert(error);
        }
        if let Err(error) = self.fence.give_back().await {
            left.insert(error.to_string());
        }
        self.record(Event::Disarmed { left: left.into_iter().collect() }).await
    }

    /// Deletes the drill's pods in firedrill's own namespace (an observer, helpers of a runner that died) and waits until they are gone.
    async fn remove_pods(&self) -> Result<(), String> {
        let own = &self.plan.place.firedrill.namespace;
        let api: kube::Api<Pod> = self.cluster.api(own);
        let selector = format!("{}={}", labels::DRILL, self.name);
        let deadline = tokio::time::Instant::now() + REMOVE_LIMIT;
        loop {
            let mut pods =
                again(|| self.cluster.list_all(&api, Some(&selector), "list the drill's pods")).await.map_err(|e| e.to_string())?;
            // A watchdog that ends the drill removes its own pod when all is done.
            pods.retain(|pod| self.options.takeover.own_pod.is_none() || pod.uid() != self.options.takeover.own_pod);
            if pods.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
                return Err(format!("pods in {own} that do not go: {}", names.join(", ")));
            }
            for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                let name = pod.name_any();
                let what = format!("delete pod {own}/{name}");
                // A second look follows; what failed is tried again.
                if let Err(error) = self.cluster.call(&what, api.delete(&name, &DeleteParams::default())).await {
                    tracing::debug!(%error, "not deleted yet");
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Whatever else carries the drill's label where the drill was.
    async fn leftovers(&self, namespaces: &[String]) -> Result<Vec<String>, String> {
        let selector = format!("{}={}", labels::DRILL, self.name);
        let mut left = Vec::new();
        for namespace in namespaces {
            let pods = self.cluster.list_all(&self.cluster.api::<Pod>(namespace), Some(&selector), "list the drill's pods").await;
            left.extend(pods.map_err(|e| e.to_string())?.iter().map(|pod| format!("Pod {namespace}/{}", pod.name_any())));
            let jobs = self.cluster.list_all(&self.cluster.api::<Job>(namespace), Some(&selector), "list the drill's Jobs").await;
            left.extend(jobs.map_err(|e| e.to_string())?.iter().map(|job| format!("Job {namespace}/{}", job.name_any())));
        }
        Ok(left)
    }
}
