//! A node as its kernel has it.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{NodeProcess, Part};
use crate::agent::{
    partition::{Cutting, nft},
    processes::{Ident, Kernel, Proc, State, parse_stat},
};

/// Container runtimes and what they leave beside each container, as the kernel cuts their names (15 bytes).
const RUNTIMES: &[&str] = &["containerd", "containerd-shim", "crio", "conmon", "dockerd", "cri-dockerd"];
/// The kubelet, alone or within a distribution's single program.
const KUBELETS: &[&str] = &["kubelet", "k3s-agent", "rke2"];

impl Proc {
    /// All that is stopped when the node is lost: never this helper, nor another process of its pod.
    pub(super) fn node_processes(&self, own: &str) -> Result<Vec<NodeProcess>, String> {
        match self {
            Self::Kernel(kernel) => kernel.node_processes(own),
            Self::Table(table) => table.node_processes(),
        }
    }

    pub(super) fn cut_node(&self, name: &str, keep: &[SocketAddr]) -> Result<Box<dyn Cutting>, String> {
        match self {
            Self::Kernel(kernel) => kernel.cut_node(name, keep),
            Self::Table(table) => table.cut_node(name),
        }
    }

    /// Whether something of this name cuts the node's network, whoever has made it.
    pub(super) fn node_is_cut(&self, name: &str) -> Result<bool, String> {
        match self {
            Self::Kernel(kernel) => nft::exists(&kernel.node_socket()?, name),
            Self::Table(table) => table.node_is_cut(name),
        }
    }
}

/// The uid of the pod whose cgroup this is, in any layout; a static pod's is a digest without dashes.
fn pod_in_cgroups(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.split('/').find_map(|segment| {
            let plain = segment.strip_suffix(".slice").unwrap_or(segment);
            let (_, uid) = plain.rsplit_once("pod").filter(|(front, _)| front.is_empty() || front.ends_with('-'))?;
            let uid = uid.replace('_', "-");
            let is_uid = uid.len() >= 32 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            is_uid.then_some(uid)
        })
    })
}

impl Kernel {
    fn node_processes(&self, own: &str) -> Result<Vec<NodeProcess>, String> {
        if own.is_empty() {
            return Err("this helper does not know which pod it is in, and could stop itself".to_owned());
        }
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let mut found = Vec::new();
        for pid in self.pids().into_iter().filter(|pid| *pid != me) {
            let (Some(cgroup), Some(stat)) = (self.read(pid, "cgroup"), self.read(pid, "stat").as_deref().and_then(parse_stat)) else {
                continue;
            };
            let part = match pod_in_cgroups(&cgroup) {
                Some(uid) if uid == own => continue,
                Some(_) => Part::Workload,
                None if KUBELETS.contains(&stat.comm.as_str()) => Part::Kubelet,
                None if RUNTIMES.contains(&stat.comm.as_str()) => Part::Runtime,
                None => continue,
            };
            let ident = Ident { pid, start: stat.start };
            let state = self.state(ident);
            if state != State::Dead {
                found.push(NodeProcess { ident, part, comm: stat.comm, state });
            }
        }
        Ok(found)
    }

    /// A socket to the nftables of the node's own network namespace.
    fn node_socket(&self) -> Result<OwnedFd, String> {
        let failed = |e: String| format!("failed to enter the node's network namespace: {e}");
        let namespace = File::open(self.root.join("1/ns/net")).map_err(|e| failed(e.to_string()))?;
        let made = std::thread::Builder::new()
            .name("enter".to_owned())
            .spawn(move || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).and_then(|()| nft::socket()));
        let made = made.map_err(|e| failed(e.to_string()))?.join().map_err(|_| failed("the thread failed".to_owned()))?;
        made.map_err(|e| failed(e.to_string()))
    }

    fn cut_node(&self, name: &str, keep: &[SocketAddr]) -> Result<Box<dyn Cutting>, String> {
        let socket = self.node_socket()?;
        let rules = nft::isolate(&socket, name, keep)?;
        Ok(Box::new(Isolated { socket, name: name.to_owned(), rules }))
    }
}

/// Rules in force. The kernel removes them with the socket.
#[derive(Debug)]
struct Isolated {
    socket: OwnedFd,
    name: String,
    rules: usize,
}

impl Cutting for Isolated {
    fn look(&self) -> Result<String, String> {
        let (rules, packets) = nft::count(&self.socket, &self.name)?;
        if rules == self.rules {
            Ok(format!("{rules} rules of nftables, {packets} packets dropped"))
        } else {
            Err(format!("{rules} of {} rules are left", self.rules))
        }
    }

    fn lift(&mut self) -> Result<(), String> {
        nft::remove(&self.socket, &self.name).map(drop)
    }
}

/// The API server's address, as every pod is told it.
///
/// # Errors
/// There is none, or it is a name: a lost node has nobody to ask for its address.
pub fn api_server() -> Result<SocketAddr, String> {
    let var = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let (host, port) = (var("KUBERNETES_SERVICE_HOST")?, var("KUBERNETES_SERVICE_PORT")?);
    let wrong = || format!("the API server's address, {host}:{port}, is no IP address: a lost node could not look it up");
    Ok(SocketAddr::new(host.parse().map_err(|_| wrong())?, port.parse().map_err(|_| wrong())?))
}

/// This program, whatever becomes of its file.
pub fn this_program() -> std::path::PathBuf {
    fs::read_link("/proc/self/exe").unwrap_or_else(|_| "/firedrill".into())
}

#[cfg(test)]
mod tests {
    use super::pod_in_cgroups;

    #[test]
    fn pods_are_known_by_their_cgroups() {
        let uid = "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0";
        let under = uid.replace('-', "_");
        for text in [
            format!("9:name=systemd:/\n4:memory:/testbed1/kubepods/burstable/pod{uid}/aabb\n0::/\n"),
            format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-aabb.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-conmon-aabb.scope\n"),
        ] {
            assert_eq!(pod_in_cgroups(&text).as_deref(), Some(uid), "{text}");
        }
        let of_file = "0f1c2d3e4b5a69788796a5b4c3d2e1f0";
        assert_eq!(pod_in_cgroups(&format!("0::/kubepods/besteffort/pod{of_file}/aa\n")).as_deref(), Some(of_file));
        for text in
            ["0::/system.slice/containerd.service\n", "0::/podman/x\n", "0::/user.slice/tripod0f1c2d3e4b5a69788796a5b4c3d2e1f0\n", ""]
        {
            assert_eq!(pod_in_cgroups(text), None, "{text}");
        }
    }
}
