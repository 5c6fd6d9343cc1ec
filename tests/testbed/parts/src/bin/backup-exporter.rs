//! Shows pgBackRest's own account of its backups as metrics. See `testbed_parts::backups`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use clap::Parser;
use testbed_parts::{backups, serve};
use tokio::sync::RwLock;
use tokio::time::{MissedTickBehavior, interval};

/// Runs `pgbackrest info` every few seconds and serves what it said at /metrics.
#[derive(Parser)]
#[command(name = "backup-exporter")]
struct Arguments {
    /// Copy this program into a directory and end: the image it comes in has no shell and no pgBackRest
    #[arg(long, value_name = "DIRECTORY")]
    install_to: Option<PathBuf>,
    /// Where to listen
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Seconds from one run to the next
    #[arg(long, env = "EVERY_SECONDS", default_value_t = 5)]
    every_seconds: u64,
    /// The command to run
    #[arg(last = true, default_values = ["pgbackrest", "info", "--output=json"])]
    command: Vec<String>,
}

#[tokio::main(worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(directory) = arguments.install_to {
        let to = directory.join("backup-exporter");
        let from = std::env::current_exe().context("failed to find this program's file")?;
        tokio::fs::copy(from, &to).await.with_context(|| format!("failed to copy it to {}", to.display()))?;
        return Ok(());
    }
    let every = Duration::from_secs(arguments.every_seconds.max(1));
    let said = Arc::new(RwLock::new(String::new()));
    let shown = said.clone();
    let routes = Router::new().route("/metrics", get(move || async move { shown.read().await.clone() }));
    let ask = async {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let metrics = backups::metrics(&arguments.command, Duration::from_secs(20)).await;
            *said.write().await = metrics;
        }
    };
    tokio::select! { biased;
        served = serve::until_told(arguments.listen, routes) => served,
        () = ask => Ok(()),
    }
}
