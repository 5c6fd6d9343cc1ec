//! The socket that an agent listens on and `firedrill agent attach` connects to.
//!
//! A path, or, where it begins with `@`, a name without a file: an agent in an ephemeral container has no folder of its own that it may
//! write to, and must leave nothing behind in one of others. Such a name is everybody's in the pod's network, so that on either
//! kind of socket only this program's own user is listened to.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    },
    path::Path,
};

use tokio::net::{UnixListener, UnixStream};

fn name(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix('@')
}

/// Listens. A file left by a container that was restarted in place is removed.
///
/// # Errors
/// The name is taken, or the file cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let Some(name) = name(path) else {
        let _ = std::fs::remove_file(path);
        return UnixListener::bind(path);
    };
    let listener = StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Connects.
///
/// # Errors
/// Nobody listens.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let Some(name) = name(path) else { return UnixStream::connect(path).await };
    // On the same machine it is there at once, or not at all.
    let stream = StdStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Whether whoever has connected is of this process's user.
pub(super) fn is_own(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_without_a_file_is_connected_to_and_gone_with_its_owner() {
        let path = format!("@firedrill-test-{}", std::process::id());
        let path = Path::new(&path);
        assert!(connect(path).await.is_err(), "nobody listens yet");
        let listener = listen(path).unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), connect(path));
        assert!(is_own(&accepted.unwrap().0) && connected.is_ok());
        assert!(listen(path).is_err(), "a name that is taken");
        drop(listener);
        assert!(connect(path).await.is_err() && !path.exists());
    }
}
