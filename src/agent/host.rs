//! What a node has that helpers on it need, and what its service manager would do about a kubelet that hangs: looked at, not changed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    partition,
    processes::{Kernel, Proc},
};

/// The names under which a kubelet runs.
const KUBELETS: [&str; 4] = ["kubelet", "k3s-server", "k3s-agent", "k0s"];
/// Where systemd looks for units; the first that has one wins.
const UNITS: [&str; 5] =
    ["etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// The largest unit that is read.
const MAX_UNIT: u64 = 64 << 10;

/// What was seen on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// The version of cgroups: 1 or 2.
    pub cgroup: Option<u8>,
    /// Whether there is a freezer.
    pub freezer: bool,
    /// Why folders cannot be opened safely, if so.
    pub openat2: Option<String>,
    /// Why traffic cannot be cut, if so.
    pub nftables: Option<String>,
    /// The kubelet, if it was found.
    pub kubelet: Option<Kubelet>,
}

/// A kubelet, and who would start it anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kubelet {
    /// Its process.
    pub process: String,
    /// The node's first process: `systemd`.
    pub manager: String,
    /// Its unit there.
    pub unit: Option<String>,
    /// When it is started anew: `always`, `on-failure`.
    pub restart: Option<String>,
    /// After how long without a sign of life it is killed.
    pub watchdog: Option<String>,
}

impl Proc {
    /// What the node has.
    pub fn host(&self) -> Host {
        match self {
            Self::Kernel(kernel) => kernel.host(),
            Self::Table(table) => table.host(),
        }
    }
}

impl Kernel {
    fn host(&self) -> Host {
        let cgroup = self.read(1, "cgroup").and_then(|text| version_of(&text));
        let freezer = match cgroup {
            // Every group but the topmost has one since then.
            Some(2) => fs::read_to_string(self.root.join("sys/kernel/osrelease")).is_ok_and(|release| kernel(&release) >= Some((5, 2))),
            _ => {
                let controllers = fs::read_to_string(self.root.join("cgroups")).unwrap_or_default();
                controllers.lines().any(|line| line.split_whitespace().next() == Some("freezer") && line.ends_with('1'))
            }
        };
        let kubelet = self.kubelet(&self.root.join("1/root"));
        Host { cgroup, freezer, openat2: no_openat2(), nftables: partition::unusable(), kubelet }
    }

    fn kubelet(&self, root: &Path) -> Option<Kubelet> {
        let comm = |pid: i32| self.read(pid, "comm").map(|name| name.trim().to_owned());
        let mut found = self.pids().into_iter().filter_map(|pid| Some((pid, comm(pid)?)));
        let (pid, process) = found.find(|(_, name)| KUBELETS.contains(&name.as_str()))?;
        let unit = self.read(pid, "cgroup").and_then(|text| unit_of(&text));
        let settings = unit.as_deref().map(|unit| settings(root, unit)).unwrap_or_default();
        let of = |key: &str| settings.get(key).cloned();
        let watchdog = of("WatchdogSec").filter(|time| !matches!(time.as_str(), "" | "0" | "0s" | "infinity"));
        Some(Kubelet { process, manager: comm(1).unwrap_or_default(), unit, restart: of("Restart"), watchdog })
    }
}

fn no_openat2() -> Option<String> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
        Ok(_) => None,
        Err(Errno::NOSYS) => Some("this kernel does not know openat2".to_owned()),
        Err(error) => Some(format!("openat2: {error}")),
    }
}

/// The version of cgroups by `/proc/1/cgroup`: the second has one line, `0::/…`, and no controllers beside it.
fn version_of(text: &str) -> Option<u8> {
    let mut controllers = text.lines().filter_map(|line| line.split(':').nth(1)).filter(|name| !name.starts_with("name="));
    let unified = text.lines().any(|line| line.starts_with("0::"));
    if controllers.any(|name| !name.is_empty()) { Some(1) } else { unified.then_some(2) }
}

/// The first two numbers of a kernel's version: `6.12.90+deb13-amd64`.
pub fn kernel(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The unit in `/proc/PID/cgroup`: `0::/system.slice/kubelet.service`.
fn unit_of(text: &str) -> Option<String> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// The settings of a unit's section `[Service]`, what is dropped in beside it included.
fn settings(root: &Path, unit: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if unit.contains("..") {
        return all;
    }
    if let Some(text) = UNITS.iter().find_map(|dir| text(root, &Path::new(dir).join(unit)).ok()) {
        read_into(&text, &mut all);
    }
    // By their names, whatever folder they are in; of one name the first.
    let mut dropped: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in UNITS {
        let dir = Path::new(dir).join(format!("{unit}.d"));
        for entry in fs::read_dir(root.join(&dir)).into_iter().flatten().flatten().take(100) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") {
                dropped.entry(name.clone()).or_insert_with(|| dir.join(name));
            }
        }
    }
    for path in dropped.into_values() {
        if let Ok(text) = text(root, &path) {
            read_into(&text, &mut all);
        }
    }
    all
}

/// A file below another root, through one link: links of units are absolute, and would lead to our own files.
fn text(root: &Path, path: &Path) -> io::Result<String> {
    let mut at = root.join(path);
    if let Ok(target) = fs::read_link(&at) {
        at = if target.is_absolute() { root.join(target.strip_prefix("/").unwrap_or(&target)) } else { at.with_file_name("").join(target) };
    }
    if fs::metadata(&at)?.len() > MAX_UNIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(at)
}

fn read_into(text: &str, all: &mut BTreeMap<String, String>) {
    let mut service = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            service = section.trim_end_matches(']') == "Service";
        } else if let Some((key, value)) = line.split_once('=').filter(|_| service && !line.starts_with(['#', ';'])) {
            all.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_units_settings_are_those_of_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            "usr/lib/systemd/system/kubelet.service",
            "[Unit]\nRestart=no\n[Service]\nRestart=always\nWatchdogSec=10s\n# WatchdogSec=1\n",
        );
        let all = |root: &Path| settings(root, "kubelet.service");
        assert_eq!(all(root).get("Restart").map(String::as_str), Some("always"));
        assert_eq!(all(root).get("WatchdogSec").map(String::as_str), Some("10s"));
        write(root, "etc/systemd/system/kubelet.service.d/20-own.conf", "[Service]\nWatchdogSec = 30s\n");
        write(root, "usr/lib/systemd/system/kubelet.service.d/10-dist.conf", "[Service]\nWatchdogSec=5s\nRestart=on-failure\n");
        // Not one by its name, and one that another of its name hides.
        write(root, "etc/systemd/system/kubelet.service.d/99.bak", "[Service]\nWatchdogSec=1s\n");
        write(root, "usr/lib/systemd/system/kubelet.service.d/20-own.conf", "[Service]\nWatchdogSec=2s\n");
        assert_eq!(all(root).get("WatchdogSec").map(String::as_str), Some("30s"));
        assert_eq!(all(root).get("Restart").map(String::as_str), Some("on-failure"));
        // An alias is a link from the node's own root.
        write(root, "opt/kubelet.service", "[Service]\nRestart=never\n");
        std::os::unix::fs::symlink("/opt/kubelet.service", root.join("etc/systemd/system/kubelet.service")).unwrap();
        fs::remove_dir_all(root.join("usr/lib/systemd/system/kubelet.service.d")).unwrap();
        assert_eq!(all(root).get("Restart").map(String::as_str), Some("never"));
        assert_eq!(settings(root, "../../kubelet.service"), BTreeMap::new());
    }

    #[test]
    fn a_node_is_read_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        for (pid, comm, cgroup) in
            [(1, "systemd", "0::/init.scope"), (7, "sh", "0::/"), (42, "kubelet", "0::/system.slice/kubelet.service")]
        {
            write(proc, &format!("{pid}/comm"), &format!("{comm}\n"));
            write(proc, &format!("{pid}/cgroup"), &format!("{cgroup}\n"));
        }
        write(proc, "sys/kernel/osrelease", "4.20.1\n");
        write(proc, "1/root/etc/systemd/system/kubelet.service", "[Service]\nRestart=always\nWatchdogSec=0\n");
        let host = || Proc::at(proc.to_owned()).host();
        let (cgroup, freezer) = (host().cgroup, host().freezer);
        assert_eq!((cgroup, freezer), (Some(2), false), "too old for a freezer");
        let kubelet = host().kubelet.unwrap();
        assert_eq!((kubelet.manager.as_str(), kubelet.unit.as_deref()), ("systemd", Some("kubelet.service")));
        assert_eq!((kubelet.restart.as_deref(), kubelet.watchdog), (Some("always"), None));
        write(proc, "sys/kernel/osrelease", "6.12.90+deb13-amd64\n");
        write(proc, "1/root/etc/systemd/system/kubelet.service.d/w.conf", "[Service]\nWatchdogSec=45s\n");
        assert!(host().freezer);
        assert_eq!(host().kubelet.unwrap().watchdog.as_deref(), Some("45s"));
        // The first version.
        write(proc, "1/cgroup", "9:name=systemd:/\n4:memory:/\n0::/init.scope\n");
        write(proc, "cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nfreezer\t7\t100\t1\n");
        assert_eq!((host().cgroup, host().freezer), (Some(1), true));
        write(proc, "cgroups", "freezer\t7\t100\t0\n");
        assert!(!host().freezer);
        fs::remove_dir_all(proc.join("42")).unwrap();
        assert_eq!(host().kubelet, None);
    }
}
