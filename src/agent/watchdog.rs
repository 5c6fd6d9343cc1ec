//! The watchdog of a drill: reverts it, out of the in-cluster record alone, when its runner is lost.
//!
//! It looks at the drill's Leases every few seconds. Whether the runner lives is decided by what it saw and by its own monotonic
//! clock, never by comparing the clocks of two machines: no Lease has changed for longer than it lives. Then it takes the drill
//! over as a person's `firedrill revert` does, so the Leases decide who acts: a runner that wakes up later finds them taken and
//! changes nothing.
//!
//! It acts with the rights of its ServiceAccount alone, which are those of `firedrill plan --rbac`. Its pod is the last thing that
//! it removes.

mod tell;
mod vigil;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Preconditions},
};
use tokio_util::sync::CancellationToken;

pub use vigil::{Look, Seen, Vigil};

use crate::{
    clock::Clock,
    cluster::Cluster,
    drill::{Drill, DrillError, DrillOptions, READY, Takeover, UNABLE, WORD},
    hint,
    journal::{Inbox, InboxItem, ResumeIntent, find_record, record_exists, record_name},
    labels,
    plan::{Plan, may},
    scenario::types::Dur,
};

/// The longest time from one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The first pause after a revert that failed; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(900);
/// How often what it may do is looked at before it says that it may not: a binding takes a moment to be known everywhere.
const TRIES: usize = 4;

/// Which drill, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// The drill.
    pub drill: String,
    /// firedrill's own namespace.
    pub namespace: String,
    /// This pod's name.
    pub pod: String,
    /// This pod's uid; empty when it runs elsewhere than in its pod.
    pub pod_uid: String,
    /// How long the drill's Leases live, where they do not say so.
    pub lease: Dur,
    /// Where the journal of a takeover may be written.
    pub scratch: PathBuf,
    /// Where its lines go.
    pub log: Log,
    /// The disk that the journal is on.
    pub disk: crate::journal::Disk,
    /// Where that comes from which is random; from the system if nothing is said.
    pub seed: Option<u64>,
    /// In a sandbox: the network as its pod has it there.
    pub sandbox: Option<crate::net::Dialer>,
}

/// Where the watchdog's lines go: to standard error, if nobody else takes them. That is what `kubectl logs` shows, whatever the level of
/// logs.
#[derive(Clone)]
pub struct Log(pub Arc<dyn Fn(&str) + Send + Sync>);

impl Default for Log {
    fn default() -> Self {
        Self(Arc::new(|line| eprintln!("{line}")))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

/// Watches until the drill is over, and reverts it if its runner is lost. Says how it ended.
///
/// # Errors
/// The drill is not of this cluster, or its record cannot be understood. Everything else is tried again until `stop`.
pub async fn run(cluster: &Cluster, clock: &Clock, config: &Config, stop: &CancellationToken) -> Result<String, String> {
    let dog = Dog { cluster, clock, config };
    let Some(plan) = dog.introduce(stop).await? else { return dog.leave("the drill is over", stop).await };
    let mut vigil = Vigil::new(config.lease);
    let mut pause = FIRST_PAUSE;
    let mut tries = 0u32;
    loop {
        if !dog.sleep(vigil.every().min(LOOK_EVERY), stop).await {
            return Ok("told to stop".to_owned());
        }
        let seen = dog.look().await;
        if let Err(error) = &seen {
            dog.say(&format!("the drill cannot be seen: {error}"));
        }
        let lapsed = match vigil.look(clock.now().mono_us, seen.ok()) {
            Look::Over => return dog.leave("the drill is over", stop).await,
            Look::Lives => continue,
            Look::Dead { silent, versions } => {
                // Leases that have outlived their drill are no lost runner.
                if matches!(dog.has_record().await, Ok(false)) {
                    return dog.leave("the drill is over", stop).await;
                }
                let lost = format!("no Lease has been renewed for {silent}: the runner is lost, reverting");
                dog.say(&lost);
                if tries == 0 {
                    dog.tell(tell::Kind::Warning, "RunnerLost", &lost).await;
                }
                versions
            }
        };
        tries += 1;
        match dog.revert(&plan, vigil.lease(), lapsed, tries).await {
            Reverted::Clean(what) => {
                dog.tell(tell::Kind::Normal, "Reverted", &what).await;
                return dog.leave(&what, stop).await;
            }
            // Somebody else is at it, or was: look again.
            Reverted::Elsewhere(why) => dog.say(&format!("not reverted here: {why}")),
            Reverted::Failed(why) => {
                let way_out = format!(
                    "{why}. Look at it with `{}` and undo it with `{}`; tried again in {}",
                    hint::command(&format!("status {}", config.drill), &config.namespace),
                    hint::command(&format!("revert {}", config.drill), &config.namespace),
                    Dur(pause)
                );
                dog.say(&format!("NOT CLEAN: {way_out}"));
                dog.tell(tell::Kind::Warning, "NotClean", &way_out).await;
                if !dog.sleep(pause, stop).await {
                    return Ok("told to stop".to_owned());
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        vigil.forget();
    }
}

/// How a try to revert ended.
enum Reverted {
    Clean(String),
    Elsewhere(String),
    Failed(String),
}

struct Dog<'a> {
    cluster: &'a Cluster,
    clock: &'a Clock,
    config: &'a Config,
}

impl Dog<'_> {
    /// Reads the record, looks whether everything in it could be reverted, and tells the runner. None when the drill is over.
    async fn introduce(&self, stop: &CancellationToken) -> Result<Option<Plan>, String> {
        let Config { drill, namespace, .. } = self.config;
        let stored = loop {
            match find_record(&self.cluster.client, namespace, drill).await {
                Ok(Some(stored)) => break stored,
                Ok(None) => return Ok(None),
                Err(error) => self.say(&format!("the record cannot be read yet: {error}")),
            }
            if !self.sleep(Duration::from_secs(1), stop).await {
                return Err("told to stop before the record could be read".to_owned());
            }
        };
        let (_, plan) = stored.read().map_err(|e| e.to_string())?;
        if plan.cluster_uid != self.cluster.uid {
            return Err(format!("drill {drill} is of the cluster with uid {}, and this is {}", plan.cluster_uid, self.cluster.uid));
        }
        let mut missing = Vec::new();
        for n in 0..TRIES {
            if n > 0 && !self.sleep(Duration::from_secs(1), stop).await {
                break;
            }
            missing = match &plan.watchdog {
                Some(watchdog) => {
                    let may::Missing { denied, unknown } = may::missing(self.cluster, &watchdog.rbac).await;
                    // What cannot be found out counts.
                    denied.into_iter().chain(unknown).collect()
                }
                None => vec!["anything: the plan knows of no watchdog".to_owned()],
            };
            if missing.is_empty() {
                break;
            }
        }
        let (action, remark) =
            if missing.is_empty() { (READY, String::new()) } else { (UNABLE, format!("it may not {}", missing.join(", "))) };
        self.say(&format!("{action} to revert drill {drill}{}{remark}", if remark.is_empty() { "" } else { ": " }));
        let word = InboxItem { by: self.config.pod_uid.clone(), action: action.to_owned(), remark };
        let inbox = Inbox::new(self.cluster.client.clone(), namespace, drill);
        // The runner waits for this word, with a limit; when it does not come the drill is refused.
        if let Err(error) = inbox.leave(WORD, &word).await {
            self.say(&format!("the runner could not be told: {error}"));
        }
        Ok(Some(plan))
    }

    async fn has_record(&self) -> Result<bool, String> {
        let Config { drill, namespace, .. } = self.config;
        record_exists(&self.cluster.client, namespace, drill).await.map_err(|e| e.to_string())
    }

    /// The drill as it is now. Where there are Leases nobody asks for its record: whoever ends a drill takes both away.
    async fn look(&self) -> Result<Seen, String> {
        let Config { drill, namespace, .. } = self.config;
        let selector = format!("{}={drill}", labels::DRILL);
        let leases = self.cluster.list_all(&self.cluster.api::<Lease>(namespace), Some(&selector), "list the drill's Leases").await;
        let mut longest = None;
        let mut versions = std::collections::BTreeMap::new();
        for lease in leases.map_err(|e| e.to_string())? {
            let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
            longest = longest.max(seconds.map(Dur::from_secs));
            versions.insert(lease.name_any(), lease.resource_version().unwrap_or_default());
        }
        if versions.is_empty() && !self.has_record().await? {
            return Ok(Seen::Over);
        }
        Ok(Seen::Running { versions, lease: longest })
    }

    async fn revert(&self, plan: &Plan, lease: Dur, lapsed: std::collections::BTreeMap<String, String>, nth: u32) -> Reverted {
        let Config { drill, namespace, pod, pod_uid, scratch, disk, seed, sandbox, .. } = self.config;
        let stored = match find_record(&self.cluster.client, namespace, drill).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Reverted::Elsewhere("the drill is over".to_owned()),
            Err(error) => return Reverted::Elsewhere(error.to_string()),
        };
        // A folder of its own: only the record in the cluster says how the drill is.
        let out = scratch.join(format!("takeover-{nth}-{:016x}", seed.unwrap_or_else(rand::random::<u64>)));
        let own_pod = (!pod_uid.is_empty()).then(|| pod_uid.clone());
        let options = DrillOptions {
            disk: disk.clone(),
            seed: seed.map(|seed| crate::random::mix(seed, nth.into())),
            sandbox: sandbox.clone(),
            by: format!("watchdog (pod {namespace}/{pod})"),
            confirmed_by: None,
            auto_ack: false,
            lease,
            out: out.clone(),
            takeover: Takeover { role: "watchdog", lapsed, own_pod },
        };
        let taken = Drill::take_over(self.cluster.clone(), self.clock.clone(), stored, ResumeIntent::Revert, options).await;
        let ended = match taken {
            Ok(drill) => {
                let end = drill.run().await;
                let state = drill.state();
                let faults = plan.leaf_steps().into_iter().filter_map(|step| Some((step, state.faults.get(&step.fault?)?)));
                let faults: Vec<String> = faults.map(|(step, fault)| format!("`{}` {}", step.title, how(fault))).collect();
                let faults = if faults.is_empty() { "nothing had been broken".to_owned() } else { faults.join(", ") };
                if end.clean {
                    Reverted::Clean(format!("the runner was lost; {faults}; nothing of the drill is left. It did not pass"))
                } else if let Some(lost) = &state.lease_lost {
                    Reverted::Elsewhere(lost.clone())
                } else {
                    let left = state.disarmed.clone().unwrap_or_default();
                    let trouble: Vec<String> = end.trouble.into_iter().chain(left).collect();
                    Reverted::Failed(format!("{faults}{}{}", if trouble.is_empty() { "" } else { "; " }, trouble.join(", ")))
                }
            }
            Err(error @ (DrillError::Over(_) | DrillError::Lease(_) | DrillError::Fenced(_))) => Reverted::Elsewhere(error.to_string()),
            Err(error) => Reverted::Failed(error.to_string()),
        };
        remove_folder(&out);
        ended
    }

    /// Removes its own pod, the last that is left of the drill.
    async fn leave(&self, why: &str, stop: &CancellationToken) -> Result<String, String> {
        let Config { namespace, pod, pod_uid, .. } = self.config;
        let preconditions = Some(Preconditions { uid: Some(pod_uid.clone()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let pods = self.cluster.api::<Pod>(namespace);
        while !pod_uid.is_empty() {
            match self.cluster.call(format!("delete pod {namespace}/{pod}"), pods.delete(pod, &params)).await {
                Ok(_) => break,
                // Gone, or another one of the same name.
                Err(error) if error.is_not_found() || error.is_conflict() => break,
                Err(error) => self.say(&format!("the watchdog's own pod could not be removed yet: {error}")),
            }
            if !self.sleep(LOOK_EVERY, stop).await {
                break;
            }
        }
        Ok(why.to_owned())
    }

    /// Says in the cluster what happened. Best effort: its log says it too.
    async fn tell(&self, kind: tell::Kind, reason: &str, message: &str) {
        let Config { drill, namespace, pod, .. } = self.config;
        let what = tell::Told { kind, reason, message: &format!("drill {drill}: {message}"), about: &record_name(drill), by: pod };
        if let Err(error) = tell::event(self.cluster, self.clock, namespace, &what).await {
            self.say(&format!("no Event could be made: {error}"));
        }
    }

    /// A line of its log.
    fn say(&self, what: &str) {
        (self.config.log.0)(&format!("{} firedrill agent watchdog: {what}", self.clock.now().utc()));
    }

    /// False when it is to stop.
    async fn sleep(&self, time: Duration, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

fn how(fault: &crate::drill::FaultState) -> &'static str {
    if fault.is_settled() { "is undone" } else { "is NOT undone" }
}

fn remove_folder(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::debug!(%error, "the journal of the takeover stays in {}", dir.display());
    }
}
