//! Kubernetes objects as metrics and as Prometheus's targets. See `testbed_parts::objects`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use testbed_parts::objects::{Objects, Target};
use testbed_parts::serve;
use tokio::sync::RwLock;
use tokio::time::{MissedTickBehavior, interval};

/// GET /metrics, and GET /targets/pods and /targets/nodes for Prometheus's http_sd_configs.
#[derive(Parser)]
#[command(name = "object-metrics")]
struct Arguments {
    /// Where to listen
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Seconds from one reading of the cluster to the next
    #[arg(long, env = "EVERY_SECONDS", default_value_t = 2)]
    every_seconds: u64,
}

/// The last reading; targets outlive a reading that failed, metrics do not.
#[derive(Default)]
struct Seen {
    pods: Vec<Target>,
    nodes: Vec<Target>,
    metrics: String,
}

type Shared = State<Arc<RwLock<Seen>>>;

#[tokio::main(worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = kube::Client::try_default().await?;
    let seen = Arc::new(RwLock::new(Seen::default()));
    let routes = Router::new()
        .route("/metrics", get(async |State(seen): Shared| seen.read().await.metrics.clone()))
        .route("/targets/pods", get(async |State(seen): Shared| Json(seen.read().await.pods.clone())))
        .route("/targets/nodes", get(async |State(seen): Shared| Json(seen.read().await.nodes.clone())))
        .with_state(seen.clone());
    let read = async {
        let mut ticks = interval(Duration::from_secs(arguments.every_seconds.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let read = Objects::read(&client, Duration::from_secs(5)).await;
            let mut seen = seen.write().await;
            match read {
                Ok(objects) => {
                    *seen = Seen {
                        pods: objects.pod_targets(),
                        nodes: objects.node_targets(),
                        metrics: objects.metrics() + "object_metrics_read_success 1\n",
                    };
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    seen.metrics = "object_metrics_read_success 0\n".to_owned();
                }
            }
        }
    };
    tokio::select! { biased;
        served = serve::until_told(arguments.listen, routes) => served,
        () = read => Ok(()),
    }
}
