//! The executor: performs the action that [`next`](super::next()) names, appends the events, and goes on until the drill is over.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as SyncMutex},
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Acks, Action, DrillError, DrillState, Fence, LeaseError, next, place::Running, wait::Waited};
use crate::{
    clock::Clock,
    cluster::Cluster,
    fault::FaultCx,
    journal::{
        Event, Inbox, Journal, JournalError, Log, Record, RecordStore, ResumeIntent, SteadyPhase, StoredRecord, find_record, record_exists,
    },
    plan::{Plan, Touched},
    probe::Board,
    scenario::types::{Dur, ProbeState},
};

/// How a drill is run.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// Who runs it: `user@host`.
    pub by: String,
    /// Who agreed to the plan, and how.
    pub confirmed_by: Option<String>,
    /// Manual steps are taken as done, which is a deviation.
    pub auto_ack: bool,
    /// How long a Lease lives without renewal.
    pub lease: Dur,
    /// Where the evidence goes: one folder a drill.
    pub out: PathBuf,
    /// For one who takes a drill over: what it knows already.
    pub takeover: Takeover,
}

/// What one who takes a drill over knows already.
#[derive(Debug, Clone, Default)]
pub struct Takeover {
    /// What it is called in the Leases: `watchdog`; empty for a person's.
    pub role: &'static str,
    /// Versions, by name, of Leases that it has watched for longer than they live without a change.
    pub lapsed: BTreeMap<String, String>,
    /// The uid of the pod it runs in: that one is not removed with the drill's other pods, but last, by itself.
    pub own_pod: Option<String>,
}

/// The folder a drill leaves behind.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The folder.
    pub dir: PathBuf,
}

impl Evidence {
    /// The folder of a drill under `--out`.
    pub fn new(out: &std::path::Path, drill: &str) -> Self {
        Self { dir: out.join(drill) }
    }
    /// Its journal.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal.jsonl")
    }
    /// Its raw series.
    pub fn samples(&self) -> PathBuf {
        self.dir.join("samples")
    }
}

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
    board: watch::Sender<Board>,
    state: watch::Receiver<Arc<DrillState>>,
    illegal: Arc<SyncMutex<Option<String>>>,
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
    trouble: SyncMutex<Option<String>>,
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
    /// A new drill: makes the evidence folder, the journal and the in-cluster record, with the plan as the first record.
    ///
    /// # Errors
    /// The folder or the record cannot be made.
    pub async fn start(
        cluster: Cluster,
        clock: Clock,
        plan: Plan,
        name: &str,
        scenario: &str,
        options: DrillOptions,
    ) -> Result<Arc<Self>, DrillError> {
        let evidence = Evidence::new(&options.out, name);
        make_dir(&evidence)?;
        let log = Log::create(&evidence.journal())?;
        let own = plan.place.firedrill.namespace.clone();
        let store = RecordStore::new(cluster.client.clone(), &own, name, scenario);
        let drill = Self::build(cluster, clock, Arc::new(plan.clone()), name, log, store, DrillState::default(), options, evidence);
        let started = Event::Started {
            drill: name.to_owned(),
            plan: Box::new(plan),
            by: drill.options.by.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sandbox: false,
        };
        drill.record(started).await?;
        if let Err(error) = drill.inbox.create().await {
            // Nothing has happened yet: nothing is left behind either.
            if let Err(error) = drill.journal.delete_record().await {
                tracing::warn!(%error, "the drill's record could not be taken away again");
            }
            return Err(error.into());
        }
        Ok(drill)
    }

    /// Takes a drill over, from its journal file if it is here, else from its in-cluster record alone. Waits until the Leases of
    /// the runner before have run out; if it lives, nothing is touched.
    ///
    /// # Errors
    /// The runner before lives; the journal or the record cannot be read or written.
    pub async fn take_over(
        cluster: Cluster,
        clock: Clock,
        stored: StoredRecord,
        intent: ResumeIntent,
        options: DrillOptions,
    ) -> Result<Arc<Self>, DrillError> {
        let name = stored.drill.clone();
        let (_, plan) = recorded(&stored)?;
        let own = plan.place.firedrill.namespace.clone();
        let fence = Fence::new(cluster.client.clone(), &own, &name, &instance(options.takeover.role), options.lease, clock.clone());
        // Before anything is written: a living runner keeps its record to itself.
        fence.take_lapsed(&plan.leases, &options.takeover.lapsed).await?;
        // Taking them may have taken its time: only now is the record nobody else's.
        let taken = match find_record(&cluster.client, &own, &name).await {
            Ok(Some(stored)) => Self::taken_over(cluster, clock, stored, intent, options, fence.clone()).await,
            Ok(None) => Err(DrillError::Over(name)),
            Err(error) => Err(error.into()),
        };
        if taken.is_err()
            && let Err(error) = fence.give_back().await
        {
            tracing::warn!(%error, "Leases that were taken could not be given back");
        }
        taken
    }

    /// Goes on from a record, with its Leases held.
    async fn taken_over(
        cluster: Cluster,
        clock: Clock,
        stored: StoredRecord,
        intent: ResumeIntent,
        options: DrillOptions,
        fence: Fence,
    ) -> Result<Arc<Self>, DrillError> {
        let name = stored.drill.clone();
        let evidence = Evidence::new(&options.out, &name);
        let (recorded, plan) = recorded(&stored)?;
        let own = plan.place.firedrill.namespace.clone();
        let mut store = RecordStore::adopt(cluster.client.clone(), &own, &stored);
        let (log, records) = if evidence.journal().exists() {
            let (mut log, mut records) = Log::reopen(&evidence.journal())?;
            // The record may know more than a file that could not be written.
            records.extend(log.extend(&stored.lines)?);
            // The file may know more than the record: the record is brought up to it with the next flush.
            let known = recorded.last().map_or(0, |r| r.seq);
            for record in records.iter().filter(|r| r.seq > known && r.event.for_record()) {
                store.push(serde_json::to_string(record).map_err(|e| JournalError::Record {
                    doing: "write",
                    name: name.clone(),
                    detail: e.to_string(),
                })?);
            }
            (log, records)
        } else {
            make_dir(&evidence)?;
            (Log::copy_of(&evidence.journal(), &stored.lines)?, recorded)
        };
        let state = DrillState::replay(&records)?;
        let by = options.by.clone();
        let mut drill = Self::build(cluster, clock, Arc::new(plan), &name, log, store, state, options, evidence);
        let taken = drill.state();
        if let Some(fresh) = Arc::get_mut(&mut drill) {
            fresh.fence = fence;
            for fault in taken.faults.values() {
                fresh.touched.get_mut().add_intent(&fault.undo, fault.objects.iter().map(|o| (o.kind.as_str(), o.uid.as_str())));
            }
        }
        drill.inbox.create().await?;
        let clock = drill.clock.id().clone();
        drill.record(Event::Resumed { by: by.clone(), intent, clock }).await?;
        drill.record(Event::LeasesTaken { leases: drill.plan.leases.clone() }).await?;
        // A drill that ends here by being taken over was aborted, and its evidence says so.
        if let (None, Some((_, reason)), false) = (&taken.abort, drill.state().abort.clone(), taken.steps_ended) {
            drill.record(Event::AbortRequested { by, reason }).await?;
        }
        Ok(drill)
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where the parts of a drill come together")]
    fn build(
        cluster: Cluster,
        clock: Clock,
        plan: Arc<Plan>,
        name: &str,
        log: Log,
        store: RecordStore,
        state: DrillState,
        options: DrillOptions,
        evidence: Evidence,
    ) -> Arc<Self> {
        let abort = CancellationToken::new();
        if state.abort.is_some() {
            abort.cancel();
        }
        let (sender, receiver) = watch::channel(Arc::new(state));
        let illegal: Arc<SyncMutex<Option<String>>> = Arc::default();
        let listener = {
            let (illegal, abort) = (Arc::clone(&illegal), abort.clone());
            Box::new(move |record: &Record| {
                sender.send_modify(|state| {
                    let mut new = (**state).clone();
                    new.next_seq = record.seq;
                    match new.apply(&record.event) {
                        Ok(()) => {
                            if new.abort.is_some() {
                                abort.cancel();
                            }
                            *state = Arc::new(new);
                        }
                        Err(error) => {
                            if let Ok(mut illegal) = illegal.lock() {
                                illegal.get_or_insert_with(|| error.to_string());
                            }
                        }
                    }
                });
            })
        };
        let own = plan.place.firedrill.namespace.clone();
        let journal = Journal::new(log, Some(store), clock.clone(), listener);
        Arc::new(Self {
            fence: Fence::new(cluster.client.clone(), &own, name, &instance(options.takeover.role), options.lease, clock.clone()),
            acks: Acks::new(options.auto_ack, clock.clone()),
            inbox: Inbox::new(cluster.client.clone(), &own, name),
            faults: FaultCx::new(cluster.clone(), clock.clone(), Arc::clone(&plan), name),
            probes: Mutex::new(None),
            board: watch::Sender::new(Board::default()),
            state: receiver,
            illegal,
            abort,
            hurry: CancellationToken::new(),
            over: CancellationToken::new(),
            tasks: Mutex::new(JoinSet::new()),
            touched: Mutex::default(),
            reverting: Mutex::new(()),
            trouble: SyncMutex::new(None),
            name: name.to_owned(),
            cluster,
            clock,
            plan,
            journal,
            options,
            evidence,
        })
    }

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

    /// Appends an event.
    pub(super) async fn record(&self, event: Event) -> Result<(), DrillError> {
        match self.journal.append(event).await {
            Err(error @ JournalError::Fenced { .. }) => Err(DrillError::Fenced(error.to_string())),
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
                tracing::error!(%error, "cannot go on; what is left can be undone with `firedrill revert {}`", self.name);
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

fn make_dir(evidence: &Evidence) -> Result<(), DrillError> {
    std::fs::create_dir_all(evidence.samples())
        .map_err(|source| JournalError::File { doing: "create", path: evidence.samples().display().to_string(), source }.into())
}

/// The records of a stored record, and the plan that the first of them holds.
fn recorded(stored: &StoredRecord) -> Result<(Vec<Record>, Plan), JournalError> {
    let unreadable = |detail: String| JournalError::Record { doing: "read", name: stored.drill.clone(), detail };
    let records: Vec<Record> =
        stored.lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>().map_err(|e| unreadable(e.to_string()))?;
    match records.first().map(|first| &first.event) {
        Some(Event::Started { plan, .. }) => {
            let plan = (**plan).clone();
            Ok((records, plan))
        }
        _ => Err(unreadable("it does not begin with the plan".to_owned())),
    }
}

/// Tells two runners of the same drill apart.
fn instance(role: &str) -> String {
    let number = rand::random::<u32>();
    if role.is_empty() { format!("{number:08x}") } else { format!("{role}-{number:08x}") }
}
