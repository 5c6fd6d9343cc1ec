//! Volumes of a node's pods, as a helper on it reaches them: the files that models and the shell see. A file that takes room takes it
//! from the claim's size. Numbers of files are made of their paths: there is nothing else that could tell two of one name apart.

use std::sync::{Arc, Weak};

use serde_json::Value;

use super::{
    super::{
        cluster::Cluster,
        core::text,
        program::Hosting,
        shell::{Files, Mount, Tree, volume_size},
    },
    Nodes,
};
use crate::{
    agent::volume::{Entry, Kind, Space, Volume, VolumeAt, parts},
    clock::Clock,
    fault::VolumeId,
};

/// Where the volume is while a helper looks at it.
const TOP: &str = "/v";

impl Nodes {
    /// The manifest of a pod that runs on a node.
    pub(super) fn pod_on(&self, node: &str, uid: &str) -> Option<Value> {
        let found = self.runs.iter().find(|((_, of), run)| of == uid && run.node == node);
        found.map(|(_, run)| run.pod.value.clone())
    }
}

/// Opens a volume of a pod, or, without one, that of this name.
pub(super) fn open(hosting: &Arc<Hosting>, pod: Option<&Value>, at: &VolumeAt) -> Result<Opened, String> {
    let (key, size, read_only) = match pod {
        Some(pod) => {
            let spec =
                super::look::items(pod, "/spec/containers").iter().find(|c| text(c, "/name") == at.container).unwrap_or(&Value::Null);
            let clean = |path: &str| path.trim_end_matches('/').to_owned();
            let mount = super::look::items(spec, "/volumeMounts").iter().find(|m| clean(text(m, "/mountPath")) == clean(&at.mount));
            let mount = mount.ok_or_else(|| format!("{} of {}: no volume is mounted there", at.mount, at.pod.name))?;
            let key = hosting.volume_key(pod, text(mount, "/name"));
            (key, volume_size(hosting, pod, text(mount, "/name")), super::look::flag(mount, "/readOnly"))
        }
        None => match &at.id {
            Some(id) => (id.root.clone(), None, false),
            None => return Err(format!("no process of container {} of {} is on this node", at.container, at.pod.name)),
        },
    };
    let tree = hosting.contents(&key).get_or_init("files", Tree::default);
    let own = size.is_none();
    let size = size.unwrap_or(super::super::shell::SIZE);
    let mount = Mount { path: TOP.to_owned(), tree: (*tree).clone(), read_only, size };
    Ok(Opened { files: Files::new(Tree::default(), vec![mount], false), tree: (*tree).clone(), size, own, key, node: None })
}

/// Opens a volume of a pod by its name, whole, as an agent within the pod has it mounted.
pub(super) fn open_whole(hosting: &Arc<Hosting>, pod: Option<&Value>, name: &str, writes: bool) -> Result<Opened, String> {
    let pod = pod.ok_or("the pod is gone")?;
    let key = hosting.volume_key(pod, name);
    let size = volume_size(hosting, pod, name);
    let tree = hosting.contents(&key).get_or_init("files", Tree::default);
    let own = size.is_none();
    let size = size.unwrap_or(super::super::shell::SIZE);
    let mount = Mount { path: TOP.to_owned(), tree: (*tree).clone(), read_only: !writes, size };
    Ok(Opened { files: Files::new(Tree::default(), vec![mount], false), tree: (*tree).clone(), size, own, key, node: None })
}

/// A node, whose disk is under pressure when less than a tenth of it is free (`nodefs.available`).
pub(super) struct OfNode {
    pub(super) cluster: Weak<Cluster>,
    pub(super) clock: Clock,
    pub(super) name: String,
}

/// Opens the disk of a node's kubelet. What pods write is not on it.
pub(super) fn open_disk(hosting: &Arc<Hosting>, node: OfNode) -> Opened {
    let key = format!("node/{}", node.name);
    let tree = hosting.contents(&key).get_or_init("files", Tree::default);
    let size = super::super::shell::SIZE;
    let mount = Mount { path: TOP.to_owned(), tree: (*tree).clone(), read_only: false, size };
    Opened { files: Files::new(Tree::default(), vec![mount], false), tree: (*tree).clone(), size, own: false, key, node: Some(node) }
}

/// An open volume.
pub(super) struct Opened {
    files: Files,
    tree: Tree,
    size: u64,
    /// It has no size of its own: it is a folder of the node's disk.
    own: bool,
    key: String,
    /// It is a node's, and not a pod's.
    node: Option<OfNode>,
}

fn below(path: &str) -> Result<String, String> {
    Ok(format!("{TOP}/{}", parts(path)?.join("/")))
}

fn number(path: &str) -> u64 {
    super::look::mix(&[path])
}

impl Opened {
    /// Tells the kubelet whose disk it is how full that is.
    fn weigh(&self) {
        let Some(node) = &self.node else { return };
        let Some(cluster) = node.cluster.upgrade() else { return };
        let full = self.size.saturating_sub(self.tree.room()) < self.size / 10;
        let now = node.clock.now().wall_us;
        let items = {
            let mut inner = cluster.lock();
            let changes = inner.nodes.disk_full(&node.name) != full;
            changes.then(|| inner.nodes.fill(&node.name, full, now)).flatten()
        };
        cluster.poke(items.into_iter().flatten());
    }

    fn same(&self, path: &str, inode: u64) -> Result<String, String> {
        let at = below(path)?;
        if number(&at) == inode && self.files.exists(&at) && !self.files.is_folder(&at) {
            Ok(at)
        } else {
            Err(format!("{path} is another file by now"))
        }
    }
}

impl Volume for Opened {
    fn id(&self) -> VolumeId {
        VolumeId { device: "sandbox".to_owned(), root: self.key.clone() }
    }

    fn keep_from_filling(&self) -> Option<String> {
        self.own.then(|| "it lies on the node's own disk, which would be full for everybody: see `fillNodeDisk`".to_owned())
    }

    fn space(&self) -> Result<Space, String> {
        let free = self.size.saturating_sub(self.tree.room());
        Ok(Space { size: self.size, free, avail: free })
    }

    fn entry(&self, path: &str) -> Result<Option<Entry>, String> {
        let at = below(path)?;
        let kind = if self.files.is_folder(&at) { Kind::Folder } else { Kind::File };
        Ok(self.files.exists(&at).then(|| Entry { inode: number(&at), kind, size: self.files.size(&at) }))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, String> {
        let at = if folder.is_empty() { TOP.to_owned() } else { below(folder)? };
        self.files.list(&at).ok_or_else(|| format!("failed to list {folder}: No such file or directory"))
    }

    fn create(&self, path: &str) -> Result<Entry, String> {
        let at = below(path)?;
        if self.files.exists(&at) {
            return Err(format!("failed to make {path}: File exists"));
        }
        self.files.write(&at, &[], false).map_err(|e| format!("failed to make {path}: {e}"))?;
        Ok(Entry { inode: number(&at), kind: Kind::File, size: 0 })
    }

    fn make_folder(&self, path: &str) -> Result<(), String> {
        self.files.make_folder(&below(path)?).map_err(|e| format!("failed to make {path}: {e}"))
    }

    fn grow(&self, path: &str, inode: u64, by: u64) -> Result<u64, String> {
        let at = self.same(path, inode)?;
        let by = by.min(self.size.saturating_sub(self.tree.room()));
        let size = self.files.size(&at) + by;
        self.files.take(&at, size);
        self.weigh();
        Ok(size)
    }

    fn read(&self, path: &str, inode: u64, offset: u64, length: u64) -> Result<Vec<u8>, String> {
        let bytes = self.files.read(&self.same(path, inode)?).unwrap_or_default();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    fn write(&self, path: &str, inode: u64, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let at = self.same(path, inode)?;
        let mut all = self.files.read(&at).unwrap_or_default();
        let from = usize::try_from(offset).map_err(|e| e.to_string())?;
        all.resize(all.len().max(from + bytes.len()), 0);
        all[from..from + bytes.len()].copy_from_slice(bytes);
        self.files.write(&at, &all, false).map_err(|e| format!("failed to write {path}: {e}"))
    }

    fn remove(&self, path: &str) -> Result<bool, String> {
        let at = below(path)?;
        if self.files.list(&at).is_some_and(|names| !names.is_empty()) {
            return Err(format!("failed to remove {path}: Directory not empty"));
        }
        let removed = self.files.remove(&at).map_err(|e| format!("failed to remove {path}: {e}"))?;
        self.weigh();
        Ok(removed)
    }

    fn rename(&self, from: &str, to: &str) -> Result<bool, String> {
        self.files.rename(&below(from)?, &below(to)?).map_err(|e| format!("failed to rename {from}: {e}"))
    }
}
