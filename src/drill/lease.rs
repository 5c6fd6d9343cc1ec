//! Leases: one a namespace and node touched, so that no two drills ever touch the same thing, and fencing, so that a
//! runner that was asleep, cut off or taken over from changes nothing any more.
//!
//! A Lease is somebody else's as long as it is renewed; that is decided by watching it for its whole duration with our
//! own clock, as client-go's leader election does, never by comparing wall clocks of two machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};
use tokio::sync::{Mutex, watch};

use crate::{clock::Clock, cluster, hint, labels, scenario::types::Dur};

/// Why Leases were not taken or are no longer held.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    /// Another drill holds one and renews it.
    #[error("refused: {what} is in use by drill {holder}; wait for it to end, or end it with `{abort}`")]
    Busy {
        /// Namespace or node.
        what: String,
        /// The other drill.
        holder: String,
        /// The command that ends it.
        abort: String,
    },
    /// The API server.
    #[error("failed to {doing} Lease {name}: {detail}")]
    Api {
        /// `take`, `renew` …
        doing: &'static str,
        /// Its name.
        name: String,
        /// Why.
        detail: String,
        /// Whether it may go the next time: no answer, 429 or 5xx.
        passing: bool,
    },
    /// Taken over, or run out.
    #[error("Lease {name} {detail}")]
    Lost {
        /// Its name.
        name: String,
        /// How.
        detail: String,
    },
}

/// The Leases of a drill, renewed in the background, and the right to act that goes with them.
#[derive(Clone)]
pub struct Fence {
    api: Api<Lease>,
    namespace: String,
    clock: Clock,
    /// `drill/instance`: a second runner of the same drill is somebody else.
    holder: String,
    drill: String,
    duration: Dur,
    held: Arc<Mutex<BTreeMap<String, Lease>>>,
    /// Names that may be ours in the cluster though nobody said so: the answer was lost, or giving back failed.
    unsure: Arc<Mutex<BTreeSet<String>>>,
    /// By the runner's own monotonic clock: until then it may act.
    valid_until_us: watch::Sender<i64>,
    lost: watch::Sender<Option<LeaseError>>,
    /// They had run out at least once and were renewed afterwards, because nobody had taken them.
    lapsed: watch::Sender<bool>,
}

impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fence").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// The shortest that a Lease may live without renewal: shorter, and one slow answer of the API server ends the drill.
pub const LEAST_LEASE: Dur = Dur(std::time::Duration::from_secs(2));
/// A part of the duration is never used, so that this runner stops before another may begin even if their clocks run at
/// slightly different rates and the last call takes its time.
const SAFETY: i64 = 5;
/// How often a renewal that was refused is tried again at once.
const RENEW_TRIES: u32 = 3;
/// How often what failed in passing is tried once more while Leases are taken, and how long after the first failure; twice as long
/// after the second, and so on.
const TAKE_TRIES: u32 = 4;
const TAKE_AGAIN: std::time::Duration = std::time::Duration::from_millis(250);
/// How often giving a Lease back is tried.
const GIVE_BACK_TRIES: u32 = 4;

/// Does it again when it failed in passing: what is repeated finds what the first time has done.
async fn patiently<T, F: Future<Output = Result<T, LeaseError>>>(act: impl Fn() -> F) -> Result<T, LeaseError> {
    let mut tries = 1;
    loop {
        match act().await {
            Err(LeaseError::Api { passing: true, .. }) if tries < TAKE_TRIES => tokio::time::sleep(TAKE_AGAIN * tries).await,
            other => return other,
        }
        tries += 1;
    }
}

impl Fence {
    /// A fence that holds nothing yet. `duration` is how long a Lease lives without renewal, at least [`LEAST_LEASE`].
    pub fn new(client: Client, namespace: &str, drill: &str, instance: &str, duration: Dur, clock: Clock) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            clock,
            holder: format!("{drill}/{instance}"),
            drill: drill.to_owned(),
            duration: duration.max(LEAST_LEASE),
            held: Arc::default(),
            unsure: Arc::default(),
            valid_until_us: watch::Sender::new(i64::MIN),
            lost: watch::Sender::new(None),
            lapsed: watch::Sender::new(false),
        }
    }

    /// Takes all Leases, in sorted order. Ones of a dead runner of any drill are waited for until they have run out.
    ///
    /// # Errors
    /// One is held by a living drill, or the API server refuses, or does not answer again and again. What was taken until then is
    /// given back.
    pub async fn take(&self, names: &[String]) -> Result<(), LeaseError> {
        self.take_lapsed(names, &BTreeMap::new()).await
    }

    /// As [`Self::take`], for one who has watched Leases already: those that are still at the version given here have not been
    /// renewed for longer than they live, and are not waited for once more.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn take_lapsed(&self, names: &[String], lapsed: &BTreeMap<String, String>) -> Result<(), LeaseError> {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        let mut oldest_us = i64::MAX;
        for name in &names {
            match patiently(|| self.take_one(name, lapsed.get(name))).await {
                Ok((lease, sent_us)) => {
                    oldest_us = oldest_us.min(sent_us);
                    self.held.lock().await.insert(name.clone(), lease);
                }
                Err(error) => {
                    if !matches!(error, LeaseError::Busy { .. }) {
                        self.unsure.lock().await.insert(name.clone());
                    }
                    // Best effort, and tried again at the end; they run out by themselves.
                    let _ = self.give_back().await;
                    return Err(error);
                }
            }
        }
        if names.is_empty() {
            oldest_us = self.clock.now().mono_us;
        }
        self.valid_until_us.send_replace(self.until(oldest_us));
        // Waiting for the last may have used up the first: renew all before relying on any.
        patiently(|| self.renew_all()).await
    }

    fn until(&self, sent_us: i64) -> i64 {
        let duration = i64::try_from(self.duration.as_micros()).unwrap_or(i64::MAX / 2);
        sent_us.saturating_add(duration - duration / SAFETY)
    }

    fn call_limit(&self) -> std::time::Duration {
        self.duration.0 / 3
    }

    async fn call<T>(
        &self,
        doing: &'static str,
        name: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<T, u16>, LeaseError> {
        let failed = |detail: String, passing| LeaseError::Api { doing, name: name.to_owned(), detail, passing };
        match tokio::time::timeout(self.call_limit(), call).await {
            Err(_) => Err(failed("no answer in time".to_owned(), true)),
            Ok(Ok(value)) => Ok(Ok(value)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(Err(status.code)),
            Ok(Err(error)) => {
                let passing = !matches!(&error, kube::Error::Api(status) if status.code < 500 && status.code != 429);
                Err(failed(cluster::why(&error), passing))
            }
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::from_microsecond(self.clock.now().wall_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH));
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.0.as_secs().max(1)).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    async fn take_one(&self, name: &str, lapsed: Option<&String>) -> Result<(Lease, i64), LeaseError> {
        let mut seen: Option<(Option<String>, i64)> = None;
        loop {
            let sent_us = self.clock.now().mono_us;
            let fresh = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    labels: Some(BTreeMap::from([
                        (labels::DRILL.to_owned(), self.drill.clone()),
                        (labels::ROLE.to_owned(), "lease".to_owned()),
                        (labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned()),
                    ])),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(0)),
            };
            if let Ok(lease) = self.call("take", name, self.api.create(&PostParams::default(), &fresh)).await? {
                return Ok((lease, sent_us));
            }
            let Ok(found) = self.call("read", name, self.api.get(name)).await? else { continue };
            let spec = found.spec.clone().unwrap_or_default();
            let holder = spec.holder_identity.clone().unwrap_or_default();
            let now_us = self.clock.now().mono_us;
            let version = found.resource_version();
            // Ours already: our own creation was applied though its answer was lost.
            let ours = holder == self.holder;
            let lives_us = i64::from(spec.lease_duration_seconds.unwrap_or(15)).saturating_mul(1_000_000);
            match &seen {
                _ if ours => {}
                _ if lapsed.is_some() && lapsed == version.as_ref() => {}
                Some((before, since)) if *before == version => {
                    if now_us - since < lives_us {
                        tokio::time::sleep(Dur::from_millis(250).0).await;
                        continue;
                    }
                }
                // Renewed while we were looking: its drill lives.
                Some(_) => {
                    let holder = holder.split('/').next().unwrap_or_default().to_owned();
                    let abort = hint::command(&format!("abort {holder}"), &self.namespace);
                    return Err(LeaseError::Busy { what: name.to_owned(), holder, abort });
                }
                None => {
                    tracing::info!(lease = name, %holder, "waiting until the Lease runs out, unless its drill lives");
                    seen = Some((version, now_us));
                    continue;
                }
            }
            let mut mine = found;
            mine.metadata.labels = fresh.metadata.labels.clone();
            mine.spec = Some(self.spec(spec.lease_transitions.unwrap_or(0).saturating_add(i32::from(!ours))));
            let sent_us = self.clock.now().mono_us;
            // The resourceVersion we read goes along, so of two who want it one gets it; the other looks again.
            if let Ok(lease) = self.call("take", name, self.api.replace(name, &PostParams::default(), &mine)).await? {
                return Ok((lease, sent_us));
            }
        }
    }

    /// Renews all. Called in the background; also after a sleep, to learn whether they are still ours. Ones that had run out
    /// before are valid again if nobody took them, but that they had is kept: see [`Self::lapsed`].
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when one was taken over, for good; [`LeaseError::Api`] when the API server did not answer.
    pub async fn renew(&self) -> Result<(), LeaseError> {
        // Looked at first: a renewal hides it.
        let valid_until_us = *self.valid_until_us.borrow();
        let ran_out = valid_until_us != i64::MIN && self.clock.now().mono_us >= valid_until_us;
        self.renew_all().await?;
        if ran_out {
            self.lapsed.send_replace(true);
        }
        Ok(())
    }

    async fn renew_all(&self) -> Result<(), LeaseError> {
        let mut held = self.held.lock().await;
        let mut oldest_us = i64::MAX;
        for (name, lease) in held.iter_mut() {
            let mut tries = 0;
            let (renewed, sent_us) = loop {
                if let Some(spec) = &mut lease.spec {
                    spec.renew_time = self.spec(0).renew_time;
                }
                let sent_us = self.clock.now().mono_us;
                let answer = self.call("renew", name, self.api.replace(name, &PostParams::default(), lease)).await?;
                if let Ok(lease) = answer {
                    break (Ok(lease), sent_us);
                }
                match self.call("read", name, self.api.get(name)).await? {
                    // An earlier renewal of ours was applied though its answer was lost, or somebody has touched it. Ours it is, but
                    // this renewal was refused, and whoever watches it has not seen it renewed: once more, against what is there now.
                    Ok(found) if self.holds(&found) => *lease = found,
                    Ok(found) => {
                        let by = found.spec.and_then(|s| s.holder_identity).unwrap_or_default();
                        break (Err(format!("was taken over by {by}")), sent_us);
                    }
                    Err(_) => break (Err("was deleted".to_owned()), sent_us),
                }
                tries += 1;
                if tries >= RENEW_TRIES {
                    let detail = "it is written to all the time".to_owned();
                    return Err(LeaseError::Api { doing: "renew", name: name.clone(), detail, passing: true });
                }
            };
            match renewed {
                Ok(renewed) => *lease = renewed,
                Err(detail) => {
                    let error = LeaseError::Lost { name: name.clone(), detail };
                    self.lost.send_replace(Some(error.clone()));
                    return Err(error);
                }
            }
            oldest_us = oldest_us.min(sent_us);
        }
        if held.is_empty() {
            oldest_us = self.clock.now().mono_us;
        }
        let until = self.until(oldest_us);
        self.valid_until_us.send_modify(|valid| *valid = until.max(*valid));
        Ok(())
    }

    /// Renews until cancelled or until the Leases are lost for good.
    pub async fn keep(self, cancelled: tokio_util::sync::CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(self.duration.0 / 4) => {}
            }
            match self.renew().await {
                Err(LeaseError::Lost { .. }) => return,
                Err(error) => tracing::warn!(%error, "the Leases could not be renewed"),
                Ok(()) => {}
            }
        }
    }

    /// May this runner act now?
    ///
    /// # Errors
    /// The Leases were taken over (for good), or have run out and could not be renewed in time.
    pub fn check(&self) -> Result<(), LeaseError> {
        if planted!(ActAfterFencing) {
            return Ok(());
        }
        if let Some(error) = self.lost.borrow().clone() {
            return Err(error);
        }
        if self.clock.now().mono_us >= *self.valid_until_us.borrow() {
            return Err(LeaseError::Lost { name: self.names(), detail: "has run out without being renewed".to_owned() });
        }
        Ok(())
    }

    fn names(&self) -> String {
        self.held.try_lock().map_or_else(|_| "of the drill".to_owned(), |held| held.keys().cloned().collect::<Vec<_>>().join(", "))
    }

    /// Whether the Leases had run out while this runner held them: it was asleep or cut off, and whatever it knows is old. It
    /// may revert, as long as [`Self::check`] agrees, and nothing else.
    pub fn lapsed(&self) -> bool {
        *self.lapsed.borrow()
    }

    /// Resolves when the Leases have lapsed.
    pub async fn until_lapsed(&self) {
        if self.lapsed.subscribe().wait_for(|lapsed| *lapsed).await.is_err() {
            // The sender lives as long as self; there is nothing to wait for otherwise.
            std::future::pending().await
        }
    }

    /// Resolves when the Leases are lost for good.
    pub async fn lost(&self) -> LeaseError {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            // The sender lives as long as self; there is nothing to wait for otherwise.
            _ => std::future::pending().await,
        }
    }

    /// Deletes the Leases that are still ours.
    ///
    /// # Errors
    /// One could not be deleted; it will run out by itself, but stays as an object. It is tried again the next time.
    pub async fn give_back(&self) -> Result<(), LeaseError> {
        let mut held = self.held.lock().await;
        let mut unsure = self.unsure.lock().await;
        let mut failed = None;
        let leases = std::mem::take(&mut *held).into_iter().map(|(name, lease)| (name, Some(lease)));
        for (name, lease) in leases.chain(std::mem::take(&mut *unsure).into_iter().map(|name| (name, None))) {
            if let Err(error) = self.give_one_back(&name, lease).await {
                failed = Some(error);
                unsure.insert(name);
            }
        }
        self.valid_until_us.send_replace(i64::MIN);
        failed.map_or(Ok(()), Err)
    }

    /// Whether a Lease names this runner.
    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.holder)
    }

    /// Deletes a Lease as it was last seen. A renewal whose answer was lost or late has made it another one, and it is ours all the
    /// same: it is looked at again.
    async fn give_one_back(&self, name: &str, mut seen: Option<Lease>) -> Result<(), LeaseError> {
        let mut tries = 0;
        loop {
            let given = async {
                let lease = match seen.take() {
                    Some(lease) => lease,
                    None => match self.call("read", name, self.api.get(name)).await? {
                        Ok(found) if self.holds(&found) => found,
                        // Gone, or no longer ours: nothing to give back.
                        Ok(_) | Err(_) => return Ok(true),
                    },
                };
                let params = DeleteParams {
                    preconditions: Some(Preconditions { uid: lease.uid(), resource_version: lease.resource_version() }),
                    ..DeleteParams::default()
                };
                let answer = self.call("give back", name, self.api.delete(name, &params)).await?;
                Ok(!matches!(answer, Err(409)))
            };
            tries += 1;
            match given.await {
                Ok(true) => return Ok(()),
                Ok(false) if tries < GIVE_BACK_TRIES => {}
                Ok(false) => {
                    let detail = "it is written to all the time".to_owned();
                    return Err(LeaseError::Api { doing: "give back", name: name.to_owned(), detail, passing: true });
                }
                Err(error) if tries >= GIVE_BACK_TRIES => return Err(error),
                Err(_) => tokio::time::sleep(Dur::from_millis(250).0).await,
            }
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
