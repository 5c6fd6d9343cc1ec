//! How a drill begins: anew, or by taking over the one of a runner that is gone.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as SyncMutex},
};

use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Acks, DrillError, DrillState, Fence, executor::Drill};
use crate::{
    clock::Clock,
    cluster::{Cluster, Leave, again},
    fault::FaultCx,
    journal::{Disk, Event, Inbox, Journal, JournalError, Log, Record, RecordStore, ResumeIntent, StoredRecord, find_record},
    net::Dialer,
    plan::Plan,
    probe::Board,
    scenario::types::Dur,
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
    /// The disk that the journal is on. Raw samples are always on this machine's.
    pub disk: Disk,
    /// Where that comes from which is random in this runner, its name in the Leases; from the system if nothing is said.
    pub seed: Option<u64>,
    /// In a sandbox: the network as this runner has it there. The drill is then never evidence of anything.
    pub sandbox: Option<Dialer>,
    /// For one who takes a drill over: what it knows already.
    pub takeover: Takeover,
}

impl DrillOptions {
    /// Tells two runners of the same drill apart.
    fn instance(&self) -> String {
        let number = self.seed.map_or_else(rand::random::<u64>, |seed| crate::random::mix(seed, 0)) >> 32;
        let role = self.takeover.role;
        if role.is_empty() { format!("{number:08x}") } else { format!("{role}-{number:08x}") }
    }
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
        let log = Log::create_on(&options.disk, &evidence.journal())?;
        let own = plan.place.firedrill.namespace.clone();
        let store = RecordStore::new(cluster.client.clone(), &own, name, scenario);
        let drill = Self::build(cluster, clock, Arc::new(plan.clone()), name, log, store, DrillState::default(), options, evidence);
        let started = Event::Started {
            drill: name.to_owned(),
            plan: Box::new(plan),
            by: drill.options.by.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sandbox: drill.options.sandbox.is_some(),
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
        let (_, plan) = stored.read()?;
        let own = plan.place.firedrill.namespace.clone();
        let fence = Fence::new(cluster.client.clone(), &own, &name, &options.instance(), options.lease, clock.clone());
        // Before anything is written: a living runner keeps its record to itself.
        fence.take_lapsed(&plan.leases, &options.takeover.lapsed).await?;
        // Taking them may have taken its time: only now is the record nobody else's.
        let taken = match again(|| find_record(&cluster.client, &own, &name)).await {
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
        let (recorded, plan) = stored.read()?;
        let own = plan.place.firedrill.namespace.clone();
        let mut store = RecordStore::adopt(cluster.client.clone(), &own, &stored);
        let (log, records) = if options.disk.exists(&evidence.journal()) {
            let (mut log, mut records) = Log::reopen_on(&options.disk, &evidence.journal())?;
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
            (Log::copy_of(&options.disk, &evidence.journal(), &stored.lines)?, recorded)
        };
        let state = DrillState::replay(&records)?;
        let by = options.by.clone();
        let mut drill = Self::build(cluster, clock, Arc::new(plan), &name, log, store, state, options, evidence);
        let taken = drill.state();
        if let Some(fresh) = Arc::get_mut(&mut drill) {
            fresh.faults.leave = leave(&fence);
            fresh.fence = fence;
            for fault in taken.faults.values() {
                fresh.touched.get_mut().add_intent(&fault.undo, fault.objects.iter().map(|o| (o.kind.as_str(), o.uid.as_str())));
            }
        }
        let clock = drill.clock.id().clone();
        drill.record(Event::Resumed { by: by.clone(), intent, clock }).await?;
        // Only then: beside a record that others have deleted meanwhile it would stay for ever.
        drill.inbox.create().await?;
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
        let fence = Fence::new(cluster.client.clone(), &own, name, &options.instance(), options.lease, clock.clone());
        Arc::new(Self {
            acks: Acks::new(options.auto_ack, clock.clone()),
            inbox: Inbox::new(cluster.client.clone(), &own, name),
            faults: FaultCx { leave: leave(&fence), ..FaultCx::new(cluster.clone(), clock.clone(), Arc::clone(&plan), name) },
            fence,
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
}

/// Leave to change something as long as the Leases are held.
fn leave(fence: &Fence) -> Leave {
    let fence = fence.clone();
    Leave::new(move || fence.check().map_err(|error| error.to_string()))
}

fn make_dir(evidence: &Evidence) -> Result<(), DrillError> {
    std::fs::create_dir_all(evidence.samples())
        .map_err(|source| JournalError::File { doing: "create", path: evidence.samples().display().to_string(), source }.into())
}
