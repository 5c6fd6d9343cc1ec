//! Cuts as the kernel has them.

use std::{
    fs::{self, File},
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Cutting, PartitionAt, nft};
use crate::agent::processes::{Kernel, State};

impl Kernel {
    fn namespace_of(&self, pid: i32) -> PathBuf {
        self.root.join(pid.to_string()).join("ns/net")
    }

    /// The network namespace of a pod, and the number by which it is known.
    fn namespace(&self, at: &PartitionAt) -> Result<(File, u64), String> {
        let failed = |what: &str, e: std::io::Error| format!("failed to {what} the network namespace of {}: {e}", at.pod.name);
        let node = fs::metadata(self.namespace_of(1)).map_err(|e| format!("failed to look at the node's own network namespace: {e}"))?;
        let found = self.of_pod(&at.pod, self.pids());
        let first = found
            .iter()
            .find(|process| process.state != State::Dead)
            .ok_or_else(|| format!("pod {} has no process on this node", at.pod.name))?;
        let file = File::open(self.namespace_of(first.ident.pid)).map_err(|e| failed("open", e))?;
        // The number may have been given to another process meanwhile.
        if self.ident(first.ident.pid) != Some(first.ident) {
            return Err(format!("the process of pod {} has just ended", at.pod.name));
        }
        let number = file.metadata().map_err(|e| failed("look at", e))?.ino();
        if number == node.ino() {
            return Err(format!("pod {} is in its node's network namespace: cutting it off would cut off the node", at.pod.name));
        }
        Ok((file, number))
    }

    fn socket(&self, at: &PartitionAt) -> Result<(OwnedFd, u64), String> {
        let (namespace, number) = self.namespace(at)?;
        // A socket stays in the namespace in which it was made. A thread of its own goes there, makes it, and ends: no other code may
        // ever run on a thread that is elsewhere.
        let made = std::thread::Builder::new()
            .name("enter".to_owned())
            .spawn(move || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).and_then(|()| nft::socket()));
        let made = made.map_err(|e| e.to_string()).and_then(|thread| thread.join().map_err(|_| "the thread failed".to_owned()));
        match made {
            Ok(Ok(socket)) => Ok((socket, number)),
            Ok(Err(e)) => Err(format!("failed to enter the network namespace of {}: {e}", at.pod.name)),
            Err(e) => Err(format!("failed to enter the network namespace of {}: {e}", at.pod.name)),
        }
    }

    pub(super) fn is_cut(&self, at: &PartitionAt) -> Result<bool, String> {
        nft::exists(&self.socket(at)?.0, &at.name)
    }

    pub(super) fn cut(&self, at: &PartitionAt) -> Result<Box<dyn Cutting>, String> {
        let (socket, namespace) = self.socket(at)?;
        let rules = nft::make(&socket, &at.name, &at.cuts).map_err(|why| format!("cut off {}: {why}", at.pod.name))?;
        Ok(Box::new(Rules { kernel: self.clone(), at: at.clone(), socket, namespace, rules }))
    }
}

/// Rules in force. The kernel removes them with the socket.
#[derive(Debug)]
struct Rules {
    kernel: Kernel,
    at: PartitionAt,
    socket: OwnedFd,
    namespace: u64,
    rules: usize,
}

impl Cutting for Rules {
    fn look(&self) -> Result<String, String> {
        let (_, now) = self.kernel.namespace(&self.at)?;
        if now != self.namespace {
            return Err("it has another network namespace by now, which is not cut off".to_owned());
        }
        let (rules, packets) = nft::count(&self.socket, &self.at.name)?;
        if rules != self.rules {
            return Err(format!("{rules} of {} rules are left", self.rules));
        }
        Ok(format!("{rules} rules of nftables in its network namespace, {packets} packets dropped"))
    }

    fn lift(&mut self) -> Result<(), String> {
        nft::remove(&self.socket, &self.at.name).map(drop)
    }
}
