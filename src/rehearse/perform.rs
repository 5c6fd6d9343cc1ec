//! One rehearsal: a drill from its stage to its verdict, in a runtime of its own, as fast as it goes.

use std::{collections::BTreeMap, fmt};

use super::{Mutant, Participants, Stage, StageError, World};
use tokio::sync::broadcast;

use crate::{
    drill::{Drill, DrillOptions, Takeover},
    journal::{Disk, Event, Record, SteadyPhase},
    plan::{self, NoPlan, Plan},
    sandbox::{AuditEntry, Truth, Weather},
    scenario::{
        Loaded,
        types::{Dur, Environment},
    },
    verdict::{self, Verdict},
};

/// How long the Leases of a rehearsal live.
const LEASE: Dur = Dur(std::time::Duration::from_secs(15));

/// What is rehearsed.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The scenario.
    pub loaded: &'a Loaded,
    /// Texts of its runbooks, by file.
    pub runbooks: &'a BTreeMap<String, String>,
    /// What is in the cluster.
    pub world: &'a World,
    /// Where the drill runs in it.
    pub environment: &'a Environment,
    /// From which everything random follows.
    pub seed: u64,
    /// The wall clock at the beginning, in microseconds since the Unix epoch.
    pub wall_us: i64,
    /// What the API server does to the runner.
    pub weather: &'a Weather,
    /// How the world is weak.
    pub mutant: Option<&'a Mutant>,
}

/// Why there was no drill to judge.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The world did not come up.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] NoPlan),
    /// The drill could not begin, or this machine failed.
    #[error("{0}")]
    Refused(String),
}

/// What a rehearsal touched: so many times the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touch {
    /// `patch`, `create` …
    pub verb: String,
    /// `deployments`, `pods/eviction` …
    pub resource: String,
    /// `shop/web`; a name alone for what has no namespace.
    pub name: String,
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.verb, self.resource, self.name)
    }
}

/// A drill that was rehearsed.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    /// Its plan.
    pub plan: Plan,
    /// Its journal.
    pub records: Vec<Record>,
    /// What it showed.
    pub verdict: Verdict,
    /// What was written outside of firedrill's own namespace, and how often.
    pub touched: BTreeMap<Touch, usize>,
    /// What was written in that namespace.
    pub own_writes: usize,
    /// Why it could not go on, if so.
    pub trouble: Option<String>,
    /// What was really so, as the world's models know it.
    pub truth: Vec<Truth>,
}

/// Rehearses. Must not be called within a runtime.
///
/// # Errors
/// As in [`RehearsalError`].
pub fn perform(case: &Case<'_>) -> Result<Rehearsal, RehearsalError> {
    let failed = |error: std::io::Error| RehearsalError::Refused(format!("failed to start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().map_err(failed)?;
    runtime.block_on(async {
        let weak = case.mutant.map(|mutant| mutant.weaken(case.world, &case.loaded.scenario));
        let stage = Stage::open(weak.as_ref().unwrap_or(case.world), case.seed, case.wall_us).await?;
        let result = on(case, &stage).await;
        stage.close().await;
        result
    })
}

async fn on(case: &Case<'_>, stage: &Stage) -> Result<Rehearsal, RehearsalError> {
    let environment = stage.environment(case.environment.clone());
    let refused = |why: String| RehearsalError::Refused(why);
    let plan = plan::plan_on(&stage.cluster, case.loaded, &environment, case.runbooks, case.seed).await?;
    let own = plan.place.firedrill.namespace.clone();
    // Raw samples need a folder; nobody reads them, and it goes with this.
    let folder = tempfile::tempdir().map_err(|error| refused(format!("failed to make a folder for samples: {error}")))?;
    crate::agent::pods::ensure_namespace(&stage.cluster, &own).await.map_err(|error| refused(error.to_string()))?;
    let disk = Disk::Memory(crate::journal::MemoryDisk::default());
    stage.grant(&plan).await?;
    let begun = stage.sandbox.audited(<[AuditEntry]>::len);
    let options = DrillOptions {
        by: "rehearsal".to_owned(),
        confirmed_by: Some("nobody: it is a sandbox".to_owned()),
        auto_ack: false,
        lease: LEASE,
        out: folder.path().to_owned(),
        disk: disk.clone(),
        seed: Some(case.seed),
        sandbox: Some(stage.dialer.clone()),
        takeover: Takeover::default(),
    };
    let name = format!("{}-rehearsal", plan.name.chars().take(30).collect::<String>().trim_end_matches('-'));
    let drill = Drill::start(stage.cluster.clone(), stage.clock.clone(), plan.clone(), &name, &case.loaded.text, options)
        .await
        .map_err(|error| refused(error.to_string()))?;
    stage.sandbox.set_weather(Weather { users: vec![super::stage::ADMIN.to_owned()], ..case.weather.clone() });
    let participants = Participants::of(&drill);
    let records = drill.journal().subscribe();
    let run = drill.run();
    tokio::pin!(run);
    // A drill that ends before its steady state held leaves the world as it was.
    let end = tokio::select! {
        biased;
        end = &mut run => end,
        weakened = weaken(case, stage, records) => {
            let end = run.await;
            weakened.map_err(refused)?;
            end
        }
    };
    drop(participants);
    let mut records = crate::journal::read_on(&disk, &drill.evidence().journal()).map_err(|error| refused(error.to_string()))?;
    records.extend(end.unwritten);
    let mut touched: BTreeMap<Touch, usize> = BTreeMap::new();
    let mut own_writes = 0;
    stage.sandbox.audited(|audit| {
        for entry in audit.iter().skip(begun).filter(|entry| ours(entry)) {
            if entry.namespace == own || entry.resource == "namespaces" {
                own_writes += 1;
            } else {
                *touched.entry(touch(entry)).or_default() += 1;
            }
        }
    });
    let truth = stage.sandbox.truth();
    Ok(Rehearsal { verdict: verdict::judge(&records), plan, records, touched, own_writes, trouble: end.trouble, truth })
}

/// What of a mutant comes once the steady state has held.
async fn weaken(case: &Case<'_>, stage: &Stage, mut records: broadcast::Receiver<Record>) -> Result<(), String> {
    let Some(mutant) = case.mutant.filter(|mutant| mutant.comes_later()) else { return Ok(()) };
    loop {
        match records.recv().await {
            Ok(Record { event: Event::SteadyState { phase: SteadyPhase::Before, held: true, .. }, .. }) => {
                let client = stage.sandbox.client(super::mutants::USER);
                return mutant.weaken_later(&client, case.world).await;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
        }
    }
}

/// A slow and flaky API server, as it is while a cluster is in trouble.
pub fn flaky() -> Weather {
    Weather { refused: 10, lost: 5, slow: 50, slowest: std::time::Duration::from_secs(2), watch_cut: 20, watch_gap: 10, users: Vec::new() }
}

/// A write of the runner's that changed something.
fn ours(entry: &AuditEntry) -> bool {
    let reviews = entry.group == "authorization.k8s.io";
    entry.user == super::stage::ADMIN && entry.is_write() && !entry.dry_run && !reviews && (200..300).contains(&entry.code)
}

fn touch(entry: &AuditEntry) -> Touch {
    let resource = if entry.subresource.is_empty() { entry.resource.clone() } else { format!("{}/{}", entry.resource, entry.subresource) };
    let sent = || entry.request_object().and_then(|object| object.pointer("/metadata/name")?.as_str().map(str::to_owned));
    let name = if entry.name.is_empty() { sent().unwrap_or_else(|| "(new)".to_owned()) } else { entry.name.clone() };
    let name = if entry.namespace.is_empty() { name } else { format!("{}/{name}", entry.namespace) };
    Touch { verb: entry.verb.clone(), resource, name }
}
