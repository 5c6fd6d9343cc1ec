//! What every service's `main` does: listen, say where, stop when told to.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves `routes` on `listen` until SIGTERM or SIGINT. Connections still open then are dropped: the process is ending.
///
/// # Errors
/// If the address cannot be listened on, or serving fails.
pub async fn until_told(listen: SocketAddr, routes: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    println!("listening on {}", listener.local_addr()?);
    tokio::select! { biased;
        () = told_to_stop() => Ok(()),
        served = axum::serve(listener, routes) => Ok(served?),
    }
}

/// Waits for SIGTERM or SIGINT. As PID 1 of a container a process gets neither unless it asks for it.
pub async fn told_to_stop() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
    tokio::select! { biased;
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
