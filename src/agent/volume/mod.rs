//! What a node helper does to volumes: fill them, damage a file, take files away, and undo all of it.
//!
//! A volume is what is mounted at a path of a container. It is opened anew for every act, through the file system of one of the
//! container's processes, and closed at once: a folder that is held open would keep the kubelet from unmounting the volume of a pod
//! that is deleted meanwhile. Below its mount point no link and no other mount is ever followed ([`Volume`]).
//!
//! Whatever is ours on a volume lies at its top and has the drill's name in its own. So a helper that comes later, and knows nothing
//! but what the undo says, finds it.

mod corrupt;
mod delete;
mod fill;
mod kernel;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use self::fill::Fill;
use super::processes::{NodePod, Proc};
use crate::{
    fault::{VolumeAct, VolumeId},
    journal::RevertResult,
};

/// How often a slow fill goes on.
pub const FILL_EVERY: Duration = Duration::from_millis(100);
/// How long an inject waits for a fill that is to be at once. What takes longer goes on by itself, and the proof waits for it.
const FILL_AT_ONCE: Duration = Duration::from_secs(3);

/// What all files of ours on volumes are called at the beginning.
pub const OURS: &str = ".firedrill-";

/// Which part of a fault's contract is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Whether it could be done, and what exactly; changes nothing.
    Look,
    /// Do it.
    Inject,
    /// Did it bite, and does it still?
    Check,
    /// Undo it.
    Revert,
}

/// A volume, as it is mounted in a pod, and what is to be done with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeAt {
    /// The pod.
    pub pod: NodePod,
    /// The container that it is looked for in.
    pub container: String,
    /// Where it is mounted there.
    pub mount: String,
    /// Which it is, once that is known: it is found by this when the pod is gone.
    pub id: Option<VolumeId>,
    /// What is ours on it is called so.
    pub name: String,
    /// What is done.
    pub act: VolumeAct,
    /// It is no pod's volume, but the disk of the node's kubelet.
    #[serde(default)]
    pub of_node: bool,
    /// For an agent within the pod, which has the pod's volumes mounted by their names: this one's.
    #[serde(default)]
    pub declared: Option<String>,
}

/// What a helper answers about a volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSeen {
    /// The pod's uid.
    pub uid: String,
    /// Which volume it is.
    pub id: Option<VolumeId>,
    /// The act, with what was found out about it.
    pub act: Option<VolumeAct>,
    /// For a check: the act is proven.
    pub effective: bool,
    /// For a check: how it was undone by others, if it was.
    pub broken: Option<String>,
    /// For a revert.
    pub result: Option<RevertResult>,
    /// Whether anything of ours is on it.
    pub left: bool,
    /// For people.
    pub detail: String,
}

/// The answer about volumes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumesReport {
    /// One each, in the order asked.
    pub volumes: Vec<VolumeSeen>,
    /// How long it took on the node, in microseconds.
    pub took_us: u64,
}

/// What there is on a volume under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number on the volume.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A link, a socket and so on: never touched, but it can be renamed as it is.
    Other,
}

/// A volume's size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub size: u64,
    /// Free, with what is kept for root.
    pub free: u64,
    /// Free for everybody.
    pub avail: u64,
}

impl Space {
    /// How full it is in percent, as `df` has it.
    pub fn share(&self) -> f64 {
        let used = self.size.saturating_sub(self.free);
        #[expect(clippy::cast_precision_loss, reason = "a share of a disk, for people and for a comparison in steps of a percent")]
        let share = used as f64 * 100.0 / (used.saturating_add(self.avail)).max(1) as f64;
        share
    }
}

/// A volume that is open. Paths are relative to where it is mounted; no part of one may be a link, `..` or another mount.
pub trait Volume {
    /// Which it is.
    fn id(&self) -> VolumeId;
    /// Why it must not be filled, if it must not.
    fn keep_from_filling(&self) -> Option<String>;
    /// How large and how full it is.
    ///
    /// # Errors
    /// It cannot be read.
    fn space(&self) -> Result<Space, String>;
    /// What is under a path; a link is not followed.
    ///
    /// # Errors
    /// It cannot be read, or the path leads out of the volume.
    fn entry(&self, path: &str) -> Result<Option<Entry>, String>;
    /// The names in a folder, in order; an empty path is the top.
    ///
    /// # Errors
    /// It is no folder, or cannot be read.
    fn list(&self, folder: &str) -> Result<Vec<String>, String>;
    /// Makes an empty file where there is nothing.
    ///
    /// # Errors
    /// Something is there, or nothing can be written.
    fn create(&self, path: &str) -> Result<Entry, String>;
    /// Makes a folder where there is nothing.
    ///
    /// # Errors
    /// Something is there, or nothing can be written.
    fn make_folder(&self, path: &str) -> Result<(), String>;
    /// Makes a file longer by at most `by`, and takes the room for it. Gives its size: the old one when no room is left.
    ///
    /// # Errors
    /// It is not the file of this number, or cannot be written.
    fn grow(&self, path: &str, inode: u64, by: u64) -> Result<u64, String>;
    /// Reads so many bytes, fewer at the end of the file.
    ///
    /// # Errors
    /// It is not the file of this number, or cannot be read.
    fn read(&self, path: &str, inode: u64, offset: u64, length: u64) -> Result<Vec<u8>, String>;
    /// Writes bytes and waits until they are on the disk.
    ///
    /// # Errors
    /// It is not the file of this number, or cannot be written.
    fn write(&self, path: &str, inode: u64, offset: u64, bytes: &[u8]) -> Result<(), String>;
    /// Removes a file, or an empty folder. False: there is none.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&self, path: &str) -> Result<bool, String>;
    /// Renames, and never over something that is there. False: something is.
    ///
    /// # Errors
    /// It cannot be renamed.
    fn rename(&self, from: &str, to: &str) -> Result<bool, String>;
}

/// The parts of a path on a volume.
///
/// # Errors
/// One of them is `..`, or there is none.
pub(crate) fn parts(path: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") || path.contains('\0') {
        return Err(format!("`{path}` is refused: a path on a volume has no `..`"));
    }
    if parts.is_empty() {
        return Err("a path on a volume is needed, not the volume's own".to_owned());
    }
    Ok(parts)
}

struct Act {
    at: VolumeAt,
    fill: Option<Fill>,
}

/// The volumes that a helper acts on.
#[derive(Default)]
pub(super) struct Volumes(BTreeMap<String, Act>);

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Volumes {
    /// Whether a fill is to go on.
    pub(super) fn busy(&self) -> bool {
        self.0.values().any(|act| act.fill.as_ref().is_some_and(Fill::goes_on))
    }

    /// Lets all fills go on.
    pub(super) fn turn(&mut self, proc: &Proc) {
        for act in self.0.values_mut() {
            if let Some(fill) = act.fill.as_mut().filter(|fill| fill.goes_on()) {
                match proc.volume(&act.at, false) {
                    Ok(volume) => fill.advance(&*volume, &act.at.name),
                    // Its pod may be between two lives; the next turn looks again.
                    Err(why) => tracing::debug!("{why}"),
                }
            }
        }
    }

    pub(super) async fn answer(&mut self, proc: &Proc, step: Step, volumes: Vec<VolumeAt>) -> Result<Vec<VolumeSeen>, String> {
        let mut seen = Vec::new();
        if matches!(step, Step::Look | Step::Inject) {
            // All must be there before any is touched.
            for at in &volumes {
                self.look(proc, at)?;
            }
        }
        for at in volumes {
            seen.push(match step {
                Step::Look => self.look(proc, &at)?,
                Step::Inject => self.inject(proc, at).await?,
                Step::Check => self.check(proc, &at)?,
                Step::Revert => self.revert(proc, &at)?,
            });
        }
        Ok(seen)
    }

    fn look(&self, proc: &Proc, at: &VolumeAt) -> Result<VolumeSeen, String> {
        let volume = proc.volume(at, false)?;
        let id = volume.id();
        if let Some(known) = &at.id
            && *known != id
        {
            return Err(format!("{} of {} is another volume by now: nothing was done", at.mount, at.pod.name));
        }
        let left = volume.entry(&at.name)?.is_some();
        let failed = |why: String| format!("{} on {} of {}: {why}", at.act.verb(), at.mount, at.pod.name);
        let (act, detail) = match &at.act {
            VolumeAct::Fill { goal, .. } => {
                let space = volume.space()?;
                if let Some(why) = volume.keep_from_filling() {
                    return Err(failed(why));
                }
                if at.of_node {
                    fill::leaves_floor(*goal, space).map_err(failed)?;
                }
                if !left {
                    fill::wanted(*goal, space).map_err(failed)?;
                }
                (at.act.clone(), fill::level(space))
            }
            VolumeAct::Corrupt { path, bytes, range } => {
                let range = match range {
                    Some(range) => range.clone(),
                    None => corrupt::choose(&*volume, path, *bytes).map_err(failed)?,
                };
                let detail = format!("{} bytes of {path} at {}", range.length, range.offset);
                (VolumeAct::Corrupt { path: path.clone(), bytes: *bytes, range: Some(range) }, detail)
            }
            VolumeAct::Delete { path } => {
                let found = if left { Vec::new() } else { delete::matching(&*volume, path).map_err(failed)? };
                (at.act.clone(), format!("{} match {path}", found.len()))
            }
        };
        Ok(VolumeSeen { uid: at.pod.uid.clone(), id: Some(id), act: Some(act), left, detail: at.says(&detail), ..VolumeSeen::default() })
    }

    async fn inject(&mut self, proc: &Proc, at: VolumeAt) -> Result<VolumeSeen, String> {
        let name = at.name.clone();
        // Before anything is written: whatever happens from here on is undone at the end.
        let act = self.0.entry(name.clone()).or_insert_with(|| Act { at: at.clone(), fill: None });
        match &at.act {
            VolumeAct::Fill { goal, over } => {
                if act.fill.is_none() {
                    act.fill = Some(Fill::begin(&*proc.volume(&at, false)?, &name, *goal, over.map(|o| o.0))?);
                }
                let began = tokio::time::Instant::now();
                while let Some(fill) = act.fill.as_mut().filter(|fill| fill.goes_on()) {
                    fill.advance(&*proc.volume(&at, false)?, &name);
                    if over.is_some() || began.elapsed() >= FILL_AT_ONCE {
                        break;
                    }
                    // Renewals come in between.
                    tokio::task::yield_now().await;
                }
            }
            VolumeAct::Corrupt { path, range, .. } => {
                let range = range.as_ref().ok_or("which bytes is not said: look first")?;
                corrupt::inject(&*proc.volume(&at, false)?, &name, path, range)?;
            }
            VolumeAct::Delete { path } => delete::inject(&*proc.volume(&at, false)?, &name, path)?,
        }
        self.check(proc, &at)
    }

    fn check(&self, proc: &Proc, at: &VolumeAt) -> Result<VolumeSeen, String> {
        let volume = proc.volume(at, true)?;
        let left = volume.entry(&at.name)?.is_some();
        let mut seen = VolumeSeen { uid: at.pod.uid.clone(), id: Some(volume.id()), left, ..VolumeSeen::default() };
        let (effective, broken, detail) = match &at.act {
            VolumeAct::Fill { goal, over } => {
                let known = self.0.get(&at.name).and_then(|act| act.fill.as_ref());
                fill::check(&*volume, &at.name, known, *goal, over.is_some())?
            }
            VolumeAct::Corrupt { path, range, .. } => match range {
                Some(range) => corrupt::check(&*volume, path, range)?,
                None => (false, None, "nothing was chosen".to_owned()),
            },
            VolumeAct::Delete { .. } => delete::check(&*volume, &at.name)?,
        };
        seen.effective = effective;
        seen.broken = broken;
        seen.detail = at.says(&detail);
        Ok(seen)
    }

    fn revert(&mut self, proc: &Proc, at: &VolumeAt) -> Result<VolumeSeen, String> {
        // No more is written from here on, even if what follows fails.
        let inode = self.0.get_mut(&at.name).and_then(|act| act.fill.take()).map(|fill| fill.inode);
        let volume = proc.volume(at, true)?;
        let (result, detail) = match &at.act {
            VolumeAct::Fill { .. } => fill::revert(&*volume, &at.name, inode)?,
            VolumeAct::Corrupt { path, range, .. } => corrupt::revert(&*volume, &at.name, path, range.as_ref())?,
            VolumeAct::Delete { .. } => delete::revert(&*volume, &at.name)?,
        };
        self.0.remove(&at.name);
        let left = volume.entry(&at.name)?.is_some();
        Ok(VolumeSeen {
            uid: at.pod.uid.clone(),
            id: Some(volume.id()),
            result: Some(result),
            left,
            detail: at.says(&detail),
            ..VolumeSeen::default()
        })
    }

    /// Undoes everything. What was undone, and what could not be.
    pub(super) fn undo_all(&mut self, proc: &Proc, said: &mut Vec<String>, failed: &mut Vec<String>) {
        let all: Vec<VolumeAt> = self.0.values().map(|act| act.at.clone()).collect();
        for at in all {
            match self.revert(proc, &at) {
                Ok(seen) if seen.result == Some(RevertResult::Nothing) => {}
                Ok(seen) => said.push(seen.detail),
                Err(why) => failed.push(format!("{why}; what is left of it there is called {}", at.name)),
            }
        }
        self.0.clear();
    }
}

impl VolumeAt {
    fn says(&self, what: &str) -> String {
        format!("{} of {}: {what}", self.mount, self.pod.name)
    }
}
