//! Volumes as the kernel has them.
//!
//! The way in is `/proc/PID/root` of one of the container's processes, and from there `openat2`: no link is followed, and the folder
//! must be the mount itself (by its mount's number), not something below or beside it. Below it nothing leaves the mount. An agent
//! within a pod goes in by its own mounts.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::FileExt as _,
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FallocateFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, fallocate, fstatvfs, fsync,
        mkdirat, openat, openat2, renameat_with, statx, unlinkat,
    },
    io::Errno,
};

use super::{Entry, Kind, Space, Volume, VolumeAt, parts};
use crate::{
    agent::{
        inside,
        processes::{Kernel, Proc, State, own_pid},
    },
    fault::VolumeId,
};

/// Nothing is followed on the way, and the way does not leave the volume.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// What is written where room cannot be taken without writing.
const ZEROS: usize = 1 << 20;
/// What the kubelet mounts into every container out of its own folder.
const OF_KUBELET: [&str; 2] = ["/etc/hosts", "/dev/termination-log"];
/// What the container runtime mounts out of its own.
const OF_RUNTIME: [&str; 2] = ["/etc/hostname", "/etc/resolv.conf"];
/// File systems that live in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

impl Proc {
    /// Opens a volume. `lost`: when its pod is gone, whoever else on this node has it mounted will do.
    ///
    /// # Errors
    /// It is not there, or is no volume of its own.
    pub(super) fn volume(&self, at: &VolumeAt, lost: bool) -> Result<Box<dyn Volume + Send>, String> {
        match self {
            Self::Kernel(kernel) => Ok(Box::new(kernel.volume(at, lost)?)),
            Self::Table(table) => table.volume(at, lost),
        }
    }
}

/// A line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    number: u64,
    device: String,
    root: String,
    point: String,
    kind: String,
}

fn parse(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let number = fields.next()?.parse().ok()?;
    let device = fields.nth(1)?.to_owned();
    Some(Mounted { number, device, root: plain(fields.next()?), point: plain(fields.next()?), kind: after.split(' ').next()?.to_owned() })
}

/// Blanks and the like are written as `\040`.
fn plain(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut n = 0;
    while n < bytes.len() {
        let code = bytes.get(n + 1..n + 4).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code.filter(|_| bytes[n] == b'\\') {
            Some(byte) => {
                out.push(byte);
                n += 4;
            }
            None => {
                out.push(bytes[n]);
                n += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Kernel {
    fn mounts(&self, pid: i32) -> Vec<Mounted> {
        self.read(pid, "mountinfo").unwrap_or_default().lines().filter_map(parse).collect()
    }

    /// The folder of the node's kubelet, on whatever file system that lies.
    fn node_disk(&self) -> Result<Opened, String> {
        let kubelet = self.pids().into_iter().find(|pid| self.read(*pid, "comm").is_some_and(|comm| comm.trim_end() == "kubelet"));
        let line = kubelet.and_then(|pid| self.read(pid, "cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        let told = words.find_map(|word| match word.strip_prefix("--root-dir")? {
            "" => Some(None),
            rest => Some(rest.strip_prefix('=').map(str::to_owned)),
        });
        let folder = told.map(|inline| inline.or_else(|| words.next().map(str::to_owned)));
        let folder = folder.flatten().filter(|f| f.starts_with('/')).unwrap_or_else(|| "/var/lib/kubelet".to_owned());
        let folder = folder.trim_end_matches('/');
        let above = |m: &Mounted| Path::new(folder).starts_with(&m.point);
        // The last of several at one place lies on top.
        let mounted = self.mounts(1).into_iter().filter(above).max_by_key(|m| m.point.len());
        let mounted = mounted.ok_or_else(|| format!("nothing is mounted at or above {folder} on the node"))?;
        let opened = self.open_at(1, folder, mounted.number)?;
        let keep = IN_MEMORY.contains(&mounted.kind.as_str()).then(|| "the kubelet's folder is in memory".to_owned());
        Ok(Opened { keep, ..opened })
    }

    fn volume(&self, at: &VolumeAt, lost: bool) -> Result<Opened, String> {
        if self.inside {
            let name = at.declared.as_deref().filter(|_| !at.of_node).ok_or("which of the pod's volumes it is is not said")?;
            return self.open(own_pid(), &inside::mount(name));
        }
        if at.of_node {
            return self.node_disk();
        }
        let mut found = self.of_pod(&at.pod, self.pids());
        found.retain(|process| process.state != State::Dead);
        let mut why = format!("no process of container {} of {} is on this node", at.container, at.pod.name);
        for process in found.iter().filter(|process| process.container == at.container) {
            match self.open(process.ident.pid, &at.mount) {
                // The number may have been given to another process meanwhile.
                Ok(opened) if self.ident(process.ident.pid) == Some(process.ident) => return Ok(opened),
                Ok(_) => {}
                Err(e) => why = format!("{} of {}: {e}", at.mount, at.pod.name),
            }
        }
        match &at.id {
            Some(id) if lost && found.is_empty() => self
                .elsewhere(id)
                .ok_or_else(|| format!("{why}, and nobody on it has the volume (device {}, {}) mounted any more", id.device, id.root)),
            _ => Err(why),
        }
    }

    /// The volume where anybody has it mounted, the node itself first.
    fn elsewhere(&self, id: &VolumeId) -> Option<Opened> {
        self.pids().into_iter().find_map(|pid| {
            self.mounts(pid).into_iter().filter(|m| m.device == id.device).find_map(|mounted| {
                let rest = Path::new(&id.root).strip_prefix(&mounted.root).ok()?;
                let opened = self.open_at(pid, &Path::new(&mounted.point).join(rest).to_string_lossy(), mounted.number).ok()?;
                Some(Opened { id: id.clone(), ..opened })
            })
        })
    }

    fn open(&self, pid: i32, mount: &str) -> Result<Opened, String> {
        let mount = if mount == "/" { mount } else { mount.trim_end_matches('/') };
        // The last of several at one place lies on top.
        let mounted = self.mounts(pid).into_iter().rfind(|m| m.point == mount && mount != "/");
        let mounted = mounted.ok_or("no volume is mounted there: a path in the container's own file system is not touched")?;
        self.open_at(pid, mount, mounted.number)
    }

    /// Opens a folder as a process sees it, which must be on the mount of this number.
    fn open_at(&self, pid: i32, path: &str, number: u64) -> Result<Opened, String> {
        let failed = |e: Errno| match e {
            Errno::LOOP => format!("{path} leads over a symbolic link, which is not followed: name the real path"),
            Errno::NOSYS => "this node's kernel is older than 5.8, and volumes are not touched there".to_owned(),
            e => format!("failed to open {path}: {e}"),
        };
        let root = self.root.join(pid.to_string()).join("root");
        let root = openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let below = path.trim_start_matches('/');
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat2(&root, if below.is_empty() { "." } else { below }, flags, Mode::empty(), how).map_err(failed)?;
        let is = statx(&top, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | StatxFlags::INO).map_err(failed)?;
        if is.stx_mnt_id != number {
            return Err(format!("{path} is not what is mounted there any more: nothing was touched"));
        }
        let mounted = self.mounts(pid).into_iter().find(|m| m.number == number).ok_or_else(|| format!("{path} was unmounted"))?;
        let rest = Path::new(path).strip_prefix(&mounted.point).unwrap_or(Path::new(""));
        let root = Path::new(&mounted.root).join(rest);
        let id = VolumeId { device: mounted.device, root: root.to_string_lossy().trim_end_matches('/').to_owned() };
        let id = VolumeId { root: if id.root.is_empty() { "/".to_owned() } else { id.root }, ..id };
        let own = self.is_nodes_own((is.stx_dev_major, is.stx_dev_minor));
        let keep = if IN_MEMORY.contains(&mounted.kind.as_str()) {
            Some(format!("it is in memory ({}): filling it would take the node's memory", mounted.kind))
        } else {
            own.then(|| "it lies on the node's own disk, which would be full for everybody: see `fillNodeDisk`".to_owned())
        };
        Ok(Opened { top, id, keep })
    }

    /// Whether a device carries the node itself. What cannot be told is taken for it.
    fn is_nodes_own(&self, device: (u32, u32)) -> bool {
        if self.inside {
            let device = format!("{}:{}", device.0, device.1);
            return on_nodes_disk(&self.mounts(own_pid()), &device);
        }
        let of = |path: &str| {
            let path = self.root.join("1/root").join(path);
            statx(CWD, &path, AtFlags::empty(), StatxFlags::INO).ok().map(|s| (s.stx_dev_major, s.stx_dev_minor))
        };
        let Some(root) = of("") else { return true };
        root == device
            || ["var/lib/kubelet", "var/lib/containerd", "var/lib/containers", "var/log"]
                .iter()
                .filter_map(|path| of(path))
                .any(|d| d == device)
    }
}

/// Whether a device carries the folder of the kubelet, or of the runtime, by what they have mounted into this container. What cannot be
/// told is taken for it.
fn on_nodes_disk(mounts: &[Mounted], device: &str) -> bool {
    let from = |points: &[&str], m: &Mounted| points.contains(&m.point.as_str());
    let known = mounts.iter().any(|m| from(&OF_KUBELET, m));
    !known || mounts.iter().any(|m| (from(&OF_KUBELET, m) || from(&OF_RUNTIME, m)) && m.device == device)
}

/// An open volume.
struct Opened {
    top: OwnedFd,
    id: VolumeId,
    keep: Option<String>,
}

fn said(what: &str, path: &str) -> impl Fn(Errno) -> String {
    move |e| match e {
        Errno::LOOP => format!("failed to {what} {path}: a part of it is a symbolic link, and none is followed"),
        Errno::XDEV => format!("failed to {what} {path}: it leads out of the volume"),
        e => format!("failed to {what} {path}: {e}"),
    }
}

fn told(what: &str, path: &str) -> impl Fn(io::Error) -> String {
    move |e| format!("failed to {what} {path}: {e}")
}

impl Opened {
    /// The folder that a path is in, and the path's last part.
    fn folder<'a>(&self, what: &str, path: &'a str) -> Result<(OwnedFd, &'a str), String> {
        let mut parts = parts(path)?;
        let last = parts.pop().unwrap_or_default();
        self.open(what, &parts.join("/"), OFlags::RDONLY | OFlags::DIRECTORY).map(|fd| (fd, last))
    }

    fn open(&self, what: &str, path: &str, flags: OFlags) -> Result<OwnedFd, String> {
        let below = if path.is_empty() { "." } else { path };
        openat2(&self.top, below, flags | OFlags::CLOEXEC, Mode::empty(), WITHIN).map_err(said(what, path))
    }

    /// A file, if it is a plain one of this number.
    fn file(&self, what: &str, path: &str, inode: u64, flags: OFlags) -> Result<fs::File, String> {
        // Not held up by a pipe that somebody has put in its place.
        let file = fs::File::from(self.open(what, &parts(path)?.join("/"), flags | OFlags::NONBLOCK)?);
        let is = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(said(what, path))?;
        if is.stx_ino != inode || FileType::from_raw_mode(is.stx_mode.into()) != FileType::RegularFile {
            return Err(format!("failed to {what} {path}: it is another file by now"));
        }
        Ok(file)
    }
}

impl Volume for Opened {
    fn id(&self) -> VolumeId {
        self.id.clone()
    }

    fn keep_from_filling(&self) -> Option<String> {
        self.keep.clone()
    }

    fn space(&self) -> Result<Space, String> {
        let s = fstatvfs(&self.top).map_err(said("read the size of", "the volume"))?;
        let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
        Ok(Space { size: bytes(s.f_blocks), free: bytes(s.f_bfree), avail: bytes(s.f_bavail) })
    }

    fn entry(&self, path: &str) -> Result<Option<Entry>, String> {
        let (folder, name) = match self.folder("look at", path) {
            Ok(found) => found,
            Err(e) if e.ends_with(&Errno::NOENT.to_string()) => return Ok(None),
            Err(e) => return Err(e),
        };
        let is = match statx(&folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
            Ok(is) => is,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(said("look at", path)(e)),
        };
        let kind = match FileType::from_raw_mode(is.stx_mode.into()) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            _ => Kind::Other,
        };
        Ok(Some(Entry { inode: is.stx_ino, kind, size: is.stx_size }))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, String> {
        let failed = said("list", folder);
        let fd = self.open("list", folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            // A name that is no text cannot be asked for either.
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &str) -> Result<Entry, String> {
        let (folder, name) = self.folder("make", path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat2(&folder, name, flags, Mode::RUSR | Mode::WUSR, WITHIN).map_err(said("make", path))?;
        let is = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(said("make", path))?;
        fsync(&folder).map_err(said("make", path))?;
        Ok(Entry { inode: is.stx_ino, kind: Kind::File, size: is.stx_size })
    }

    fn make_folder(&self, path: &str) -> Result<(), String> {
        let (folder, name) = self.folder("make", path)?;
        mkdirat(&folder, name, Mode::RWXU).map_err(said("make", path))?;
        fsync(&folder).map_err(said("make", path))
    }

    fn grow(&self, path: &str, inode: u64, by: u64) -> Result<u64, String> {
        let file = self.file("grow", path, inode, OFlags::WRONLY)?;
        let size = || file.metadata().map(|m| m.len()).map_err(told("grow", path));
        let from = size()?;
        let mut by = by;
        while by >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), from, by) {
                Ok(()) => break,
                // A part of it may have been taken.
                Err(Errno::NOSPC | Errno::DQUOT) => by = if size()? > from { 0 } else { by / 2 },
                Err(Errno::INTR) => {}
                // A file system that cannot: what is written takes room as well.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let zeros = vec![0; ZEROS.min(usize::try_from(by).unwrap_or(ZEROS))];
                    match file.write_at(&zeros, from).and_then(|_| file.sync_data()) {
                        Ok(()) => break,
                        Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => by /= 2,
                        Err(e) => return Err(told("grow", path)(e)),
                    }
                }
                Err(e) => return Err(said("grow", path)(e)),
            }
        }
        size()
    }

    fn read(&self, path: &str, inode: u64, offset: u64, length: u64) -> Result<Vec<u8>, String> {
        let file = self.file("read", path, inode, OFlags::RDONLY)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(told("read", path)(e)),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn write(&self, path: &str, inode: u64, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let file = self.file("write", path, inode, OFlags::WRONLY)?;
        file.write_all_at(bytes, offset).and_then(|()| file.sync_all()).map_err(told("write", path))
    }

    fn remove(&self, path: &str) -> Result<bool, String> {
        let Some(entry) = self.entry(path)? else { return Ok(false) };
        let (folder, name) = self.folder("remove", path)?;
        let flags = if entry.kind == Kind::Folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(&folder, name, flags) {
            Ok(()) => fsync(&folder).map(|()| true).map_err(said("remove", path)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(said("remove", path)(e)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<bool, String> {
        let ((a, old), (b, new)) = (self.folder("rename", from)?, self.folder("rename", to)?);
        match renameat_with(a.as_fd(), old, b.as_fd(), new, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(e) => return Err(said("rename", from)(e)),
        }
        fsync(&b).and_then(|()| fsync(&a)).map_err(said("rename", from))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let m = parse("613 600 7:3 /a\\040b /data\\011x rw,noatime shared:1 master:2 - ext4 /dev/loop3 rw").unwrap();
        assert_eq!((m.number, m.device.as_str(), m.root.as_str(), m.point.as_str()), (613, "7:3", "/a b", "/data\tx"));
        assert_eq!(m.kind, "ext4");
        assert!(parse("613 600 7:3 / /data").is_none() && parse("").is_none());
    }
}
