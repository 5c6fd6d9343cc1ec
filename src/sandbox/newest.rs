//! The newest version, and those who wait for the next one. They are woken in the order in which they began to wait: tokio's own `watch` wakes
//! in an order drawn by chance, and the same seed would not be the same history.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// The newest version.
#[derive(Debug, Default)]
pub(super) struct Newest {
    version: AtomicU64,
    changed: Notify,
}

impl Newest {
    pub(super) fn new(version: u64) -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(version), changed: Notify::new() })
    }

    /// Notes it, and wakes those who wait if it is another one.
    pub(super) fn set(&self, version: u64) {
        if self.version.swap(version, Ordering::AcqRel) != version {
            self.changed.notify_waiters();
        }
    }

    fn get(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Somebody who follows it, and has seen the present one.
    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        Follower { newest: Arc::clone(self), seen: self.get() }
    }
}

/// Somebody who waits for versions.
#[derive(Debug)]
pub(super) struct Follower {
    newest: Arc<Newest>,
    seen: u64,
}

impl Follower {
    /// The newest one, which is seen from now on.
    pub(super) fn latest(&mut self) -> u64 {
        self.seen = self.newest.get();
        self.seen
    }

    /// Waits until there is one that was not seen, and sees it.
    pub(super) async fn changed(&mut self) -> u64 {
        loop {
            let notified = self.newest.changed.notified();
            tokio::pin!(notified);
            // From here on nothing is missed.
            notified.as_mut().enable();
            let version = self.newest.get();
            if version != self.seen {
                self.seen = version;
                return version;
            }
            notified.await;
        }
    }
}
