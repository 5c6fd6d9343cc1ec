//! Cutting the traffic of pods, in their own network namespaces.
//!
//! The rules are in a table of nftables that belongs to the helper's socket: the kernel removes it when that is closed, and so also when
//! the helper is killed outright. Nothing that others have made is changed, and a pod in its node's namespace is refused.

mod kernel;
pub(super) mod nft;

pub(crate) use nft::network;

use std::collections::{BTreeMap, btree_map::Entry};

use serde::{Deserialize, Serialize};

use super::{
    processes::{NodePod, Proc},
    volume::Step,
};
use crate::fault::Cut;

/// A pod and what of its traffic is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionAt {
    /// The pod.
    pub pod: NodePod,
    /// What ours is called.
    pub name: String,
    /// What is cut.
    pub cuts: Vec<Cut>,
}

/// What a helper answers about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionSeen {
    /// For a check: the act is proven.
    pub effective: bool,
    /// For a check: how it was undone by others, if it was.
    pub broken: Option<String>,
    /// For a revert: there was something to undo.
    pub lifted: bool,
    /// Whether anything of ours is there.
    pub left: bool,
    /// For people.
    pub detail: String,
}

/// The answer about partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionsReport {
    /// One each, in the order asked.
    pub partitions: Vec<PartitionSeen>,
}

/// Why this machine's kernel cannot cut traffic, if so. Looks for a table that nobody has.
pub(super) fn unusable() -> Option<String> {
    let looked =
        nft::socket().map_err(|e| format!("no socket to nftables: {e}")).and_then(|socket| nft::exists(&socket, "firedrill-doctor"));
    looked.err()
}

/// A cut that is in force. Dropped, it is not any more.
pub trait Cutting: Send + Sync + std::fmt::Debug {
    /// What there is of it.
    ///
    /// # Errors
    /// How it was undone by others.
    fn look(&self) -> Result<String, String>;
    /// Ends it.
    ///
    /// # Errors
    /// It is still there.
    fn lift(&mut self) -> Result<(), String>;
}

impl Proc {
    fn cut(&self, at: &PartitionAt) -> Result<Box<dyn Cutting>, String> {
        match self {
            Self::Kernel(kernel) => kernel.cut(at),
            Self::Table(table) => table.cut(at),
        }
    }

    /// Whether something of this name cuts a pod's traffic, whoever has made it; and that the pod can be cut at all.
    fn is_cut(&self, at: &PartitionAt) -> Result<bool, String> {
        match self {
            Self::Kernel(kernel) => kernel.is_cut(at),
            Self::Table(table) => table.is_cut(at),
        }
    }
}

/// The cuts of a helper.
#[derive(Debug, Default)]
pub(super) struct Partitions(BTreeMap<(String, String), (PartitionAt, Box<dyn Cutting>)>);

fn key(at: &PartitionAt) -> (String, String) {
    (at.pod.uid.clone(), at.name.clone())
}

impl Partitions {
    pub(super) fn answer(&mut self, proc: &Proc, step: Step, all: &[PartitionAt]) -> Result<Vec<PartitionSeen>, String> {
        if matches!(step, Step::Look | Step::Inject) {
            // All must be there before any is touched.
            for at in all {
                if proc.is_cut(at)? && !self.0.contains_key(&key(at)) {
                    return Err(format!("{} is cut off by another helper: nothing was done", at.pod.name));
                }
            }
        }
        all.iter()
            .map(|at| match step {
                Step::Look => Ok(PartitionSeen { detail: format!("{} can be cut off", at.pod.name), ..PartitionSeen::default() }),
                Step::Inject => {
                    // Twice is as good as once.
                    if let Entry::Vacant(free) = self.0.entry(key(at)) {
                        free.insert((at.clone(), proc.cut(at)?));
                    }
                    Ok(self.check(proc, at))
                }
                Step::Check => Ok(self.check(proc, at)),
                Step::Revert => {
                    let lifted = match self.0.get_mut(&key(at)) {
                        Some((_, cut)) => {
                            cut.lift()?;
                            self.0.remove(&key(at));
                            true
                        }
                        None => false,
                    };
                    let detail = if lifted { "has its traffic back" } else { "was not cut off" };
                    Ok(PartitionSeen { lifted, detail: format!("{} {detail}", at.pod.name), ..PartitionSeen::default() })
                }
            })
            .collect()
    }

    fn check(&self, proc: &Proc, at: &PartitionAt) -> PartitionSeen {
        match self.0.get(&key(at)) {
            Some((_, cut)) => match cut.look() {
                Ok(detail) => {
                    PartitionSeen { effective: true, left: true, detail: format!("{}: {detail}", at.pod.name), ..PartitionSeen::default() }
                }
                Err(why) => {
                    PartitionSeen { broken: Some(format!("{}: {why}", at.pod.name)), left: true, detail: why, ..PartitionSeen::default() }
                }
            },
            // The kernel ends a cut with its helper; a pod that is gone has none.
            None => {
                let left = proc.is_cut(at).unwrap_or(false);
                let broken = (!left).then(|| format!("{} is no longer cut off", at.pod.name));
                let detail = format!("{} is {}cut off", at.pod.name, if left { "" } else { "not " });
                PartitionSeen { left, broken, detail, ..PartitionSeen::default() }
            }
        }
    }

    pub(super) fn undo_all(&mut self, said: &mut Vec<String>, failed: &mut Vec<String>) {
        for (at, mut cut) in std::mem::take(&mut self.0).into_values() {
            match cut.lift() {
                Ok(()) => said.push(format!("gave {} its traffic back", at.pod.name)),
                Err(why) => failed.push(format!("{}: {why}", at.pod.name)),
            }
        }
    }
}
