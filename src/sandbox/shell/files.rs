//! The files of a container, in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many bytes a tree may hold.
const MOST: usize = 64 << 20;
/// The longest path, in bytes (`PATH_MAX`).
const LONGEST: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder,
    File(Vec<u8>),
    /// A file that is only large: so many bytes that nobody reads.
    Room(u64),
}

/// The files of a volume, or of a container's own file system. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::sandbox) struct Tree(Arc<Mutex<BTreeMap<String, Entry>>>);

impl Tree {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes its files have, without those that nobody reads.
    pub(in crate::sandbox) fn bytes(&self) -> usize {
        self.lock().values().map(|entry| if let Entry::File(bytes) = entry { bytes.len() } else { 0 }).sum()
    }

    /// How many bytes its files take.
    pub(in crate::sandbox) fn room(&self) -> u64 {
        self.lock().values().fold(0, |sum: u64, entry| {
            sum.saturating_add(match entry {
                Entry::Folder => 0,
                Entry::File(bytes) => bytes.len() as u64,
                Entry::Room(bytes) => *bytes,
            })
        })
    }
}

/// A volume where a container sees it.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Mount {
    /// Absolute and without a slash at its end.
    pub(in crate::sandbox) path: String,
    pub(in crate::sandbox) tree: Tree,
    /// Secrets and the like.
    pub(in crate::sandbox) read_only: bool,
    /// In bytes.
    pub(in crate::sandbox) size: u64,
}

/// What a container sees: its own file system and the volumes mounted into it.
#[derive(Debug, Clone, Default)]
pub(in crate::sandbox) struct Files {
    own: Tree,
    mounts: Vec<Mount>,
    /// Nothing more can be written.
    full: bool,
}

/// Folders that every container has.
const FOLDERS: [&str; 5] = ["tmp", "run", "etc", "var", "dev"];

impl Files {
    /// A container's own, and volumes.
    pub(in crate::sandbox) fn new(own: Tree, mut mounts: Vec<Mount>, full: bool) -> Self {
        for folder in FOLDERS {
            own.lock().entry(format!("/{folder}")).or_insert(Entry::Folder);
        }
        // The longest path first: it is the one that counts.
        mounts.sort_by(|a, b| b.path.len().cmp(&a.path.len()).then_with(|| a.path.cmp(&b.path)));
        Self { own, mounts, full }
    }

    /// How many bytes are in the container's own file system.
    pub(super) fn own_bytes(&self) -> usize {
        self.own.bytes()
    }

    /// Whether nothing more can be written.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// The mount of a path, if it is not of the container's own file system.
    pub(in crate::sandbox) fn mount(&self, path: &str) -> Option<&Mount> {
        let path = clean(path);
        self.mounts.iter().find(|m| path == m.path || path.strip_prefix(m.path.as_str()).is_some_and(|rest| rest.starts_with('/')))
    }

    fn place(&self, path: &str) -> (&Tree, String) {
        let path = clean(path);
        match self.mount(&path) {
            Some(mount) => (&mount.tree, path[mount.path.len()..].to_owned()),
            None => (&self.own, path),
        }
    }

    /// Whether there is a file or a folder.
    pub(in crate::sandbox) fn exists(&self, path: &str) -> bool {
        self.is_folder(path) || self.read(path).is_some()
    }

    /// Whether there is a folder.
    pub(in crate::sandbox) fn is_folder(&self, path: &str) -> bool {
        let (tree, at) = self.place(path);
        at.is_empty()
            || at == "/"
            || tree.lock().get(&at) == Some(&Entry::Folder)
            || self.mounts.iter().any(|m| above(&clean(path), &m.path))
    }

    /// A file's content.
    pub(in crate::sandbox) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let (tree, at) = self.place(path);
        match tree.lock().get(&at) {
            Some(Entry::File(bytes)) => Some(bytes.clone()),
            Some(Entry::Room(_)) => Some(Vec::new()),
            _ => None,
        }
    }

    /// A file's size; 0 where there is none.
    pub(in crate::sandbox) fn size(&self, path: &str) -> u64 {
        let (tree, at) = self.place(path);
        match tree.lock().get(&at) {
            Some(Entry::File(bytes)) => bytes.len() as u64,
            Some(Entry::Room(bytes)) => *bytes,
            _ => 0,
        }
    }

    /// Makes a file as large as that, with nothing that anybody would read in it.
    pub(in crate::sandbox) fn take(&self, path: &str, bytes: u64) {
        let (tree, at) = self.place(path);
        tree.lock().insert(at, Entry::Room(bytes));
    }

    /// Renames a file, or a folder with all that is in it, within a volume, and never over something. False: something is there.
    ///
    /// # Errors
    /// There is none, or no folder to put it in.
    pub(in crate::sandbox) fn rename(&self, from: &str, to: &str) -> Result<bool, String> {
        let (from, to) = (clean(from), clean(to));
        if !self.exists(&from) || !self.is_folder(parent(&to)) {
            return Err("No such file or directory".to_owned());
        }
        if self.exists(&to) {
            return Ok(false);
        }
        self.writable(&to, 0)?;
        let ((tree, old), (_, new)) = (self.place(&from), self.place(&to));
        let mut entries = tree.lock();
        let moved: Vec<String> = entries.keys().filter(|entry| **entry == old || above(&old, entry)).cloned().collect();
        for path in moved {
            if let Some(entry) = entries.remove(&path) {
                entries.insert(format!("{new}{}", &path[old.len()..]), entry);
            }
        }
        Ok(true)
    }

    /// Writes a file anew, or at its end.
    ///
    /// # Errors
    /// In the words of a system call: its folder is not there, it is one itself, nothing can be written.
    pub(in crate::sandbox) fn write(&self, path: &str, bytes: &[u8], append: bool) -> Result<(), String> {
        let path = clean(path);
        if !self.is_folder(parent(&path)) {
            return Err("No such file or directory".to_owned());
        }
        if self.is_folder(&path) {
            return Err("Is a directory".to_owned());
        }
        self.writable(&path, bytes.len())?;
        let (tree, at) = self.place(&path);
        let mut entries = tree.lock();
        match entries.get_mut(&at) {
            Some(Entry::File(old)) if append => old.extend_from_slice(bytes),
            _ => drop(entries.insert(at, Entry::File(bytes.to_vec()))),
        }
        Ok(())
    }

    fn writable(&self, path: &str, more: usize) -> Result<(), String> {
        if path.len() > LONGEST {
            return Err("File name too long".to_owned());
        }
        if self.mount(path).is_some_and(|mount| mount.read_only) {
            return Err("Read-only file system".to_owned());
        }
        let (tree, _) = self.place(path);
        // Nothing is written to a full disk, but a file can still be emptied.
        let taken = self.mount(path).is_some_and(|mount| mount.tree.room().saturating_add(more as u64) > mount.size);
        if more > 0 && (self.full || taken) || tree.bytes().saturating_add(more) > MOST {
            return Err("No space left on device".to_owned());
        }
        Ok(())
    }

    /// Makes a folder, and those above it.
    ///
    /// # Errors
    /// A file is in the way; nothing can be written.
    pub(in crate::sandbox) fn make_folder(&self, path: &str) -> Result<(), String> {
        let path = clean(path);
        if self.is_folder(&path) {
            return Ok(());
        }
        self.writable(&path, 1)?;
        self.make_folder(parent(&path))?;
        let (tree, at) = self.place(&path);
        let mut entries = tree.lock();
        if entries.contains_key(&at) {
            return Err("File exists".to_owned());
        }
        entries.insert(at, Entry::Folder);
        Ok(())
    }

    /// Removes a file, or a folder with all that is in it. False: there is none.
    ///
    /// # Errors
    /// It is where a volume is mounted, or cannot be written.
    pub(in crate::sandbox) fn remove(&self, path: &str) -> Result<bool, String> {
        let path = clean(path);
        if !self.exists(&path) {
            return Ok(false);
        }
        if self.mounts.iter().any(|m| m.path == path || above(&path, &m.path)) || path == "/" {
            return Err("Device or resource busy".to_owned());
        }
        self.writable(&path, 0)?;
        let (tree, at) = self.place(&path);
        tree.lock().retain(|entry, _| *entry != at && !above(&at, entry));
        Ok(true)
    }

    /// The names in a folder, in order; none: there is no such folder.
    pub(in crate::sandbox) fn list(&self, path: &str) -> Option<Vec<String>> {
        let path = clean(path);
        if !self.is_folder(&path) {
            return None;
        }
        let (tree, at) = self.place(&path);
        let front = if at == "/" { "/".to_owned() } else { format!("{at}/") };
        let mut names: Vec<String> = tree
            .lock()
            .keys()
            .filter_map(|entry| entry.strip_prefix(front.as_str()).filter(|n| !n.is_empty() && !n.contains('/')).map(str::to_owned))
            .collect();
        let front = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        names.extend(self.mounts.iter().filter_map(|m| Some(m.path.strip_prefix(front.as_str())?.split('/').next()?.to_owned())));
        names.sort();
        names.dedup();
        Some(names)
    }
}

/// Whether a folder is above a path.
fn above(folder: &str, path: &str) -> bool {
    folder == "/" && path != "/" || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
}

/// The folder of a path.
pub(super) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

/// An absolute path without `.`, `..` and double slashes.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_of_the_volume_that_is_mounted_above_them() {
        let (own, data, secret) = (Tree::default(), Tree::default(), Tree::default());
        let mount = |path: &str, tree: &Tree, read_only| Mount { path: path.to_owned(), tree: tree.clone(), read_only, size: 1 << 20 };
        let files = Files::new(own.clone(), vec![mount("/data", &data, false), mount("/etc/tls", &secret, true)], false);
        assert_eq!(files.list("/"), Some(["data", "dev", "etc", "run", "tmp", "var"].map(str::to_owned).to_vec()));
        assert_eq!(files.list("/etc"), Some(vec!["tls".to_owned()]));
        files.make_folder("/data/pg/base").unwrap();
        files.write("/data/pg/../pg/base/1", b"ab", false).unwrap();
        files.write("/data/pg/base/1", b"c", true).unwrap();
        // Another container with the same volume sees it.
        let other = Files::new(Tree::default(), vec![mount("/restored", &data, false)], false);
        assert_eq!(other.read("/restored/pg/base/1"), Some(b"abc".to_vec()));
        assert_eq!(other.list("/restored"), Some(vec!["pg".to_owned()]));
        assert_eq!(files.write("/data/none/x", b"", false), Err("No such file or directory".to_owned()));
        assert_eq!(files.write("/etc/tls/x", b"x", false), Err("Read-only file system".to_owned()));
        assert_eq!(files.remove("/data"), Err("Device or resource busy".to_owned()));
        assert_eq!((files.remove("/data/pg"), files.list("/data")), (Ok(true), Some(Vec::new())));
        assert_eq!((own.bytes(), data.bytes()), (0, 0));
    }

    #[test]
    fn nothing_is_written_to_a_full_disk() {
        let files = Files::new(Tree::default(), Vec::new(), true);
        assert_eq!(files.write("/tmp/x", b"x", false), Err("No space left on device".to_owned()));
        assert_eq!(files.write("/tmp/x", b"", false), Ok(()));
        assert_eq!(files.make_folder("/tmp/d"), Err("No space left on device".to_owned()));
    }
}
