//! The executor: performs the action that [`next`](super::next()) names, appends the events, and goes on until the drill is over.

use std::{
    sync::{Arc, Mutex as SyncMutex},
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Acks, Action, DrillError, DrillOptions, DrillState, Evidence, Fence, LeaseError, next, place::Running, wait::Waited};
use crate::{
    clock::Clock,
    cluster::Cluster,
    fault::FaultCx,
    hint,
    journal::{Event, Inbox, Journal, JournalError, Record, SteadyPhase, record_exists},
    plan::{Plan, Touched},
    probe::Board,
    scenario::types::ProbeState,
};

/// How a drill ended, as far as the runner knows; the verdict is computed from the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillEnd {
    /// Whether the cluster is as it was.
    pub clean: bool,
    /// Why it was refused or could not go on, if so.
    pub trouble: Option<String>,
    /// The hash of the journal's last line.
    pub head: String,
    /// Records that the journal's file lacks because it could not be written. If there are any, the record stays in the cluster.
    pub unwritten: Vec<Record>,
}

/// One run of a scenario.
pub struct Drill {
    pub(super) cluster: Cluster,
    pub(super) clock: Clock,
    pub(super) plan: Arc<Plan>,
    pub(super) name: String,
    pub(super) journal: Journal,
    pub(super) options: DrillOptions,
    pub(super) evidence: Evidence,
    pub(super) fence: Fence,
    /// Word from people.
    pub acks: Acks,
    pub(super) inbox: Inbox,
    pub(super) faults: FaultCx,
    pub(super) probes: Mutex<Option<Running>>,
    pub(super) board: watch::Sender<Board>,
    pub(super) state: watch::Receiver<Arc<DrillState>>,
    pub(super) illegal: Arc<SyncMutex<Option<String>>>,
    /// Cancelled when the drill is to be aborted: every wait ends.
    pub(super) abort: CancellationToken,
    /// Cancelled by a second signal: what is not a revert is skipped.
    pub(super) hurry: CancellationToken,
    /// Cancelled when the drill is over: background tasks end.
    pub(super) over: CancellationToken,
    pub(super) tasks: Mutex<JoinSet<()>>,
    pub(super) touched: Mutex<Touched>,
    /// One revert at a time, whoever asks for it.
    pub(super) reverting: Mutex<()>,
    pub(super) trouble: SyncMutex<Option<String>>,
}

impl std::fmt::Debug for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drill").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long after an API server that is away came back reverts still begin by themselves.
const RECONNECT_LIMIT: Duration = Duration::from_secs(120);
/// How long a runner that was taken over from looks on to say how the drill ended.
const ELSEWHERE_LIMIT: Duration = Duration::from_secs(30);

/// How long an abort may take to become an event: the record in the cluster may be slow to answer.
const ABORT_LIMIT: Duration = Duration::from_secs(30);

impl Drill {
    /// The drill's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Its plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Where its evidence goes.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Its state now.
    pub fn state(&self) -> Arc<DrillState> {
        Arc::clone(&self.state.borrow())
    }

    /// What probes show now.
    pub fn board(&self) -> watch::Receiver<Board> {
        self.board.subscribe()
    }

    pub(super) fn show(&self, board: Board) {
        self.board.send_replace(board);
    }

    /// A command about this drill, as people type it: `firedrill revert DRILL`, with the namespace where that is needed.
    pub(crate) fn command(&self, verb: &str) -> String {
        hint::command(&format!("{verb} {}", self.name), &self.plan.place.firedrill.namespace)
    }

    /// Appends an event.
    pub(super) async fn record(&self, event: Event) -> Result<(), DrillError> {
        match self.journal.append(event).await {
            Err(error @ JournalError::Fenced { .. }) => {
                Err(DrillError::Fenced(format!("{error}; to undo what is left: {}", self.command("revert"))))
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Asks for an abort. Only the first one counts.
    pub async fn request_abort(&self, by: &str, reason: &str) {
        if self.state().abort.is_some() || self.state().ended.is_some() {
            return;
        }
        // Even if it cannot be written, nothing more is injected.
        self.abort.cancel();
        if let Err(error) = self.record(Event::AbortRequested { by: by.to_owned(), reason: reason.to_owned() }).await {
            tracing::error!(%error, "the abort could not be journalled");
        }
    }

    fn trouble(&self, what: impl Into<String>) {
        if let Ok(mut trouble) = self.trouble.lock() {
            trouble.get_or_insert_with(|| what.into());
        }
    }

    /// Runs the drill to its end. Never returns with a fault that it could have reverted.
    pub async fn run(self: &Arc<Self>) -> DrillEnd {
        self.spawn_watchers().await;
        let mut failures = 0u32;
        loop {
            if self.abort.is_cancelled() && !self.abort_is_known().await {
                self.trouble("the abort could not be journalled");
                break;
            }
            let state = self.state();
            let action = next(&self.plan, &state);
            tracing::debug!(?action, "next");
            if action == Action::Done {
                break;
            }
            let done = self.perform(action.clone()).await;
            let illegal = self.illegal.lock().ok().and_then(|mut illegal| illegal.take());
            let error = match (done, illegal) {
                (Ok(()), None) => {
                    failures = 0;
                    continue;
                }
                (_, Some(illegal)) => DrillError::Place { what: "journal's event", detail: illegal },
                (Err(error), None) => error,
            };
            self.trouble(error.to_string());
            if matches!(error, DrillError::Fenced(_) | DrillError::Lease(LeaseError::Lost { .. })) {
                self.fenced(&error.to_string()).await;
                break;
            }
            failures += 1;
            let aborted = self.state().abort.is_some();
            if !aborted {
                self.request_abort("firedrill", &error.to_string()).await;
            }
            if (aborted && self.state().abort.is_some() && failures > 3) || failures > 6 {
                tracing::error!(%error, "cannot go on; what is left can be undone with `{}`", self.command("revert"));
                break;
            }
        }
        self.finish().await
    }

    /// An abort ends all waits at once, and is an event a moment later. Until then the next action would be the one that was
    /// just cut short, again and again.
    async fn abort_is_known(&self) -> bool {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| state.abort.is_some() || state.lease_lost.is_some() || state.ended.is_some());
        matches!(tokio::time::timeout(ABORT_LIMIT, known).await, Ok(Ok(_)))
    }

    /// This runner was taken over from: it changes nothing more, neither in the cluster nor in the record.
    async fn fenced(&self, why: &str) {
        self.abort.cancel();
        self.journal.detach_record().await;
        if let Err(error) = self.record(Event::LeaseLost { detail: why.to_owned() }).await {
            tracing::error!(%error, "the loss of the Leases could not be journalled");
        }
        if self.ends_elsewhere().await
            && let Err(error) = self.record(Event::EndedElsewhere { at: self.clock.now() }).await
        {
            tracing::error!(%error, "the drill's end elsewhere could not be journalled");
        }
    }

    /// Whether whoever took over ends the drill clean, looking on for a while. Its record goes only then.
    async fn ends_elsewhere(&self) -> bool {
        let own = &self.plan.place.firedrill.namespace;
        let began = tokio::time::Instant::now();
        loop {
            match record_exists(&self.cluster.client, own, &self.name).await {
                Ok(false) => return true,
                Ok(true) => {}
                Err(error) => tracing::debug!(%error, "it cannot be seen how the drill ends"),
            }
            if began.elapsed() >= ELSEWHERE_LIMIT {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn finish(&self) -> DrillEnd {
        self.over.cancel();
        let probes = self.probes.lock().await.take();
        if let Some(probes) = probes {
            self.stop_probes(probes).await;
        }
        let mut tasks = self.tasks.lock().await;
        let joined = tokio::time::timeout(Duration::from_secs(10), async { while tasks.join_next().await.is_some() {} }).await;
        if joined.is_err() {
            tasks.shutdown().await;
        }
        self.faults.helpers.detach().await;
        if let Err(error) = self.journal.flush().await
            && !matches!(error, JournalError::Record { .. })
        {
            self.trouble(error.to_string());
        }
        let state = self.state();
        let mut clean = state.ended == Some(true);
        let unwritten = self.journal.unwritten().await;
        // The end of a drill is somewhere: if not in its file, then in the cluster.
        if clean
            && unwritten.is_empty()
            && let Err(error) = self.journal.delete_record().await
        {
            self.trouble(error.to_string());
            clean = false;
        }
        DrillEnd { clean, trouble: self.trouble.lock().ok().and_then(|t| t.clone()), head: self.journal.head().await, unwritten }
    }

    async fn perform(self: &Arc<Self>, action: Action) -> Result<(), DrillError> {
        match action {
            Action::Confirm => match self.options.confirmed_by.clone() {
                Some(by) => self.record(Event::Confirmed { by }).await,
                None => {
                    self.request_abort("firedrill", "nobody agreed to the plan").await;
                    Ok(())
                }
            },
            Action::TakeLeases => {
                self.fence.take(&self.plan.leases).await?;
                self.record(Event::LeasesTaken { leases: self.plan.leases.clone() }).await
            }
            Action::Arm => self.arm().await,
            Action::SteadyBefore => self.steady(SteadyPhase::Before).await,
            Action::Step(path) => self.step(&path).await,
            Action::EndSteps => {
                if self.state().abort.is_none() {
                    self.watch_on().await?;
                    self.digests_at_end().await?;
                }
                self.record(Event::StepsEnded { at: self.clock.now() }).await
            }
            Action::Revert(fault) => self.revert(fault, "end of the drill").await,
            Action::Leave(fault) => self.leave(fault).await,
            Action::SteadyAfter => self.steady(SteadyPhase::After).await,
            Action::Readings => {
                let probes = self.probes.lock().await.take();
                if let Some(mut probes) = probes {
                    if let Err(error) = probes.set.readings().await {
                        self.record(Event::Deviation { detail: format!("last readings: {error}") }).await?;
                    }
                    self.stop_probes(probes).await;
                }
                self.record(Event::ReadingsDone { at: self.clock.now() }).await
            }
            Action::Disarm => self.disarm().await,
            Action::End => {
                let clean = self.state().is_clean();
                self.record(Event::Ended { clean, at: self.clock.now() }).await
            }
            Action::Done => Ok(()),
        }
    }

    async fn steady(&self, phase: SteadyPhase) -> Result<(), DrillError> {
        let Some(steady) = &self.plan.steady_state else { return Ok(()) };
        let wanted: Vec<(&str, ProbeState)> =
            steady.good.iter().chain(&steady.quiet).map(|probe| (probe.as_str(), ProbeState::Good)).collect();
        let (met, detail) = match phase {
            SteadyPhase::Before => match self.wait_for(&wanted, steady.hold, steady.timeout).await {
                Waited::Met => (true, format!("held for {}", steady.hold)),
                Waited::TimedOut => (false, super::wait::against(&self.board().borrow(), &wanted)),
                Waited::Aborted => return Ok(()),
            },
            // Looked at even after an abort: a person wants to know whether the reverts have helped. A second signal ends it.
            SteadyPhase::After => match self.wait_for_even_aborted(&wanted, steady.hold, steady.timeout).await {
                Waited::Met => (true, format!("held again for {}", steady.hold)),
                Waited::TimedOut => (false, super::wait::against(&self.board().borrow(), &wanted)),
                Waited::Aborted => (false, "not waited for: asked to be quick".to_owned()),
            },
        };
        self.record(Event::SteadyState { phase, held: met, detail: detail.clone() }).await?;
        if !met && phase == SteadyPhase::Before {
            self.request_abort("firedrill", &format!("the steady state did not hold within {}: {detail}", steady.timeout)).await;
        } else if phase == SteadyPhase::Before {
            self.digests_before().await?;
        }
        Ok(())
    }

    pub(super) async fn abort_lapsed(&self) {
        self.request_abort("firedrill", "the Leases had run out: this runner was asleep or cut off").await;
    }

    /// May this runner act now? Leases that ran out while it slept or was cut off are renewed if nobody took them; the drill
    /// is then aborted, and only reverts follow.
    pub(super) async fn may_act(&self) -> Result<(), DrillError> {
        if planted!(ActAfterFencing) {
            return Ok(());
        }
        let Err(error) = self.fence.check() else {
            if self.fence.lapsed() {
                self.abort_lapsed().await;
            }
            return Ok(());
        };
        let began = tokio::time::Instant::now();
        let mut last = error;
        while began.elapsed() < RECONNECT_LIMIT {
            match self.fence.renew().await {
                Ok(()) => {
                    self.abort_lapsed().await;
                    return Ok(());
                }
                Err(error @ LeaseError::Lost { .. }) => return Err(error.into()),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(last.into())
    }
}
