//! Where journals are kept: on the machine's disk, or in memory that loses what was not synced as a disk does that loses its power.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A disk.
#[derive(Debug, Clone, Default)]
pub enum Disk {
    /// This machine's.
    #[default]
    Host,
    /// One in memory, for simulations.
    Memory(MemoryDisk),
}

/// A disk in memory. Cheap to clone: all clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, MemoryFile>>>,
    moment: Option<Moment>,
}

/// Gives the number of what is going on elsewhere, so that a sync can be put in order with it.
pub type Moment = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Debug, Clone, Default)]
struct MemoryFile {
    bytes: Vec<u8>,
    synced: usize,
    syncs: Vec<Synced>,
}

/// A sync of a file in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// When, as the disk's moments are numbered; 0 where they are not.
    pub moment: u64,
    /// How much of the file it made durable, in bytes.
    pub bytes: usize,
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisk").field("files", &self.files).finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// An empty disk whose syncs are numbered.
    pub fn numbered(moment: Moment) -> Self {
        Self { files: Arc::default(), moment: Some(moment) }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, MemoryFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power is lost: every file ends where it was last synced.
    pub fn lose_power(&self) {
        for file in self.files().values_mut() {
            file.bytes.truncate(file.synced);
        }
    }

    /// What a file holds, if it is there.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        self.files().get(path).map(|file| file.bytes.clone())
    }

    /// The syncs of a file, in order.
    pub fn syncs(&self, path: &Path) -> Vec<Synced> {
        self.files().get(path).map(|file| file.syncs.clone()).unwrap_or_default()
    }

    fn with<T>(&self, path: &Path, act: impl FnOnce(&mut MemoryFile) -> T) -> io::Result<T> {
        self.files().get_mut(path).map(act).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// An open file that is only added to.
#[derive(Debug)]
pub(super) enum Open {
    Host(File),
    Memory(MemoryDisk, PathBuf),
}

impl Disk {
    /// Makes a file that is not there yet, durably.
    pub(super) fn create(&self, path: &Path) -> io::Result<Open> {
        match self {
            Self::Host => OpenOptions::new().create_new(true).append(true).open(path).map(Open::Host),
            Self::Memory(disk) => match disk.files().entry(path.to_owned()) {
                std::collections::btree_map::Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(MemoryFile::default());
                    Ok(Open::Memory(disk.clone(), path.to_owned()))
                }
            },
        }
    }

    /// A new file is durable only once its directory is synced too.
    pub(super) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Host => {
                let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(dir).and_then(|d| d.sync_all())
            }
            Self::Memory(_) => Ok(()),
        }
    }

    /// Opens a file for adding to it.
    pub(super) fn open(&self, path: &Path) -> io::Result<Open> {
        match self {
            Self::Host => OpenOptions::new().append(true).open(path).map(Open::Host),
            Self::Memory(disk) => disk.with(path, |_| Open::Memory(disk.clone(), path.to_owned())),
        }
    }

    /// What a file holds.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Host => std::fs::read(path),
            Self::Memory(disk) => disk.with(path, |file| file.bytes.clone()),
        }
    }

    /// Whether a file is there.
    pub fn exists(&self, path: &Path) -> bool {
        match self {
            Self::Host => path.exists(),
            Self::Memory(disk) => disk.files().contains_key(path),
        }
    }
}

impl Open {
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Host(file) => file.write_all(bytes),
            Self::Memory(disk, path) => disk.with(path, |file| file.bytes.extend_from_slice(bytes)),
        }
    }

    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Host(file) => file.metadata().map(|m| m.len()).ok(),
            Self::Memory(disk, path) => disk.with(path, |file| file.bytes.len() as u64).ok(),
        }
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        match self {
            Self::Host(file) => file.set_len(length),
            Self::Memory(disk, path) => disk.with(path, |file| {
                file.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
                file.synced = file.synced.min(file.bytes.len());
            }),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Host(file) => file.sync_data(),
            Self::Memory(disk, path) => {
                let moment = disk.moment.as_ref().map_or(0, |moment| moment());
                disk.with(path, |file| {
                    file.synced = file.bytes.len();
                    file.syncs.push(Synced { moment, bytes: file.synced });
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_loses_what_was_not_synced() {
        let memory = MemoryDisk::numbered(Arc::new(|| 7));
        let (disk, path) = (Disk::Memory(memory.clone()), Path::new("d/journal.jsonl"));
        assert!(disk.open(path).is_err() && !disk.exists(path));
        let mut file = disk.create(path).unwrap();
        assert!(disk.create(path).is_err(), "a journal is never written over");
        file.write_all(b"one\n").unwrap();
        file.sync().unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(disk.read(path).unwrap(), b"one\ntwo\n");
        memory.lose_power();
        assert_eq!((disk.read(path).unwrap(), file.len()), (b"one\n".to_vec(), Some(4)));
        assert_eq!(memory.syncs(path), [Synced { moment: 7, bytes: 4 }]);
    }
}
