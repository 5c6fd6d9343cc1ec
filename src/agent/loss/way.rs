//! The way that a lost node keeps: the helper reads one Lease, and says on it how the node is. It needs `get` and `patch` of that Lease alone.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{LossAt, LossSeen};
use crate::labels;

/// How often the Lease is read.
const READ_EVERY: Duration = Duration::from_millis(500);
/// How long one request may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// What a Lease asks of the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To hold the loss.
    Hold,
    /// To give the node back.
    Back,
}

/// The task that reads the Lease and writes on it. It ends with this.
#[derive(Debug)]
pub(super) struct Way {
    asked: watch::Receiver<Asked>,
    word: watch::Sender<String>,
    told: watch::Receiver<String>,
    _task: AbortOnDropHandle<()>,
}

impl Way {
    /// Reads the Lease once, and then again and again.
    ///
    /// # Errors
    /// It cannot be read, or is not this loss's.
    pub(super) async fn open(client: Client, at: &LossAt, kept: watch::Sender<Option<Instant>>) -> Result<Self, String> {
        let api: Api<Lease> = Api::namespaced(client, &at.namespace);
        let lease = read(&api, at).await?;
        let (asked_tx, asked) = watch::channel(asked(&lease));
        let (word, words) = watch::channel(String::new());
        let (told_tx, told) = watch::channel(String::new());
        let ttl = Duration::from_millis(at.ttl_ms.clamp(1_000, 86_400_000));
        kept.send_replace(Some(Instant::now() + ttl));
        let reader = Reader { api, at: at.clone(), ttl, kept, asked: asked_tx, words, told: told_tx, renewed: renewed(&lease) };
        let task = AbortOnDropHandle::new(tokio::spawn(reader.run()));
        Ok(Self { asked, word, told, _task: task })
    }

    pub(super) fn asked(&self) -> Asked {
        *self.asked.borrow()
    }

    /// Has it written on the Lease, if it differs from what stands there.
    pub(super) fn say(&self, seen: &LossSeen) {
        let Ok(text) = serde_json::to_string(seen) else { return };
        self.word.send_if_modified(|word| {
            let new = *word != text;
            *word = text;
            new
        });
    }

    /// Waits until the last word stands on the Lease, or it is clear that it does not come to stand there soon.
    pub(super) async fn told(&mut self) {
        let word = self.word.borrow().clone();
        let written = self.told.wait_for(|told| *told == word);
        // The node is back, whether anybody is told or not.
        drop(tokio::time::timeout(2 * CALL_LIMIT, written).await);
    }
}

struct Reader {
    api: Api<Lease>,
    at: LossAt,
    ttl: Duration,
    kept: watch::Sender<Option<Instant>>,
    asked: watch::Sender<Asked>,
    words: watch::Receiver<String>,
    told: watch::Sender<String>,
    renewed: Option<String>,
}

impl Reader {
    async fn run(mut self) {
        let mut next = Instant::now() + READ_EVERY;
        loop {
            tokio::select! {
                biased;
                changed = self.words.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + READ_EVERY;
                    match read(&self.api, &self.at).await {
                        Ok(lease) => {
                            self.asked.send_replace(asked(&lease));
                            let renewed = renewed(&lease);
                            // By this clock: what counts is that somebody writes, not what time it is there.
                            if renewed != self.renewed {
                                self.renewed = renewed;
                                self.kept.send_replace(Some(Instant::now() + self.ttl));
                            }
                        }
                        // Whatever the reason: without renewals the time to live runs out.
                        Err(why) => tracing::debug!("{why}"),
                    }
                }
            }
            let word = self.words.borrow_and_update().clone();
            if *self.told.borrow() != word && self.write(&word).await {
                self.told.send_replace(word);
            }
        }
    }

    async fn write(&self, word: &str) -> bool {
        let patch = json!({"metadata": {"annotations": {labels::LOSS_SEEN: word}}});
        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        match tokio::time::timeout(CALL_LIMIT, self.api.patch_metadata(&self.at.lease, &params, &patch)).await {
            Ok(Ok(_)) => true,
            // The next look tries again.
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

async fn read(api: &Api<Lease>, at: &LossAt) -> Result<Lease, String> {
    let what = format!("failed to read Lease {}/{}", at.namespace, at.lease);
    let lease = match tokio::time::timeout(CALL_LIMIT, api.get(&at.lease)).await {
        Ok(Ok(lease)) => lease,
        Ok(Err(error)) => return Err(format!("{what}: {}", crate::cluster::why(&error))),
        Err(_) => return Err(format!("{what}: no answer within {} s", CALL_LIMIT.as_secs())),
    };
    if lease.annotations().get(labels::LOSS) != Some(&at.name) {
        return Err(format!("{what}: it is of another loss than {}", at.name));
    }
    Ok(lease)
}

fn asked(lease: &Lease) -> Asked {
    if lease.annotations().contains_key(labels::LOSS_BACK) { Asked::Back } else { Asked::Hold }
}

fn renewed(lease: &Lease) -> Option<String> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0.to_string())
}
