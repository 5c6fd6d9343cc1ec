//! The paid players known from better times.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What a player pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Plan {
    /// Something.
    Paid,
    /// Nothing.
    Free,
}

/// A bounded set of paid players.
#[derive(Debug)]
pub(super) struct Cache {
    most: usize,
    players: Mutex<BTreeSet<String>>,
}

impl Cache {
    pub(super) const fn new(most: usize) -> Self {
        Self { most, players: Mutex::new(BTreeSet::new()) }
    }

    pub(super) fn learn(&self, players: impl IntoIterator<Item = String>) {
        let mut known = self.players();
        for player in players {
            if known.len() < self.most {
                known.insert(player);
            }
        }
    }

    pub(super) fn forget(&self, player: &str) {
        self.players().remove(player);
    }

    pub(super) fn knows(&self, player: &str) -> bool {
        self.players().contains(player)
    }

    fn players(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn it_is_bounded_and_forgets() {
        let cache = Cache::new(2);
        cache.learn(["a", "b", "c"].map(str::to_owned));
        assert!(cache.knows("a") && cache.knows("b") && !cache.knows("c"));
        cache.forget("a");
        cache.learn(["c".to_owned()]);
        assert!(!cache.knows("a") && cache.knows("c"));
    }
}
