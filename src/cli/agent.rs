//! `firedrill agent …`: what firedrill's own pods run. Not for people.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        loss::{
            self, Means,
            guard::{self, GuardBy},
        },
        node::Node,
        observe,
        processes::Proc,
        protocol::SOCKET,
        server::{self, Config, EventsOut, Listen},
        socket, watchdog,
    },
    clock::Clock,
    cluster::{self, Cluster},
    exit::Exit,
    journal::Disk,
    net::Dialer,
    scenario::types::Dur,
    signals::Signals,
};

/// What firedrill runs in its own pods.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Act on the processes of this node, as the runner says.
    Node(AgentArgs),
    /// Act on the pod that this is an ephemeral container of, as the runner says.
    Pod(AgentArgs),
    /// Sample probes from within the cluster, as the runner says.
    Observe {
        #[command(flatten)]
        agent: AgentArgs,
        /// Microseconds by which this observer's clock is ahead of the machine's: for tests of clocks that differ.
        #[arg(long, default_value_t = 0, allow_negative_numbers = true, hide = true)]
        clock_offset_us: i64,
    },
    /// Revert a drill when its runner is lost.
    Watchdog(WatchdogArgs),
    /// Let processes that a node helper has stopped go on when that helper dies.
    Guard,
    /// Join standard input and output to the agent's socket.
    Attach {
        /// The agent's socket.
        #[arg(long, env = "FIREDRILL_SOCKET", default_value = SOCKET)]
        socket: PathBuf,
    },
}

/// What all agents are told.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct AgentArgs {
    /// The drill.
    #[arg(long, env = "FIREDRILL_DRILL")]
    drill: String,
    /// The drill's token.
    #[arg(long, env = "FIREDRILL_TOKEN", hide_env_values = true)]
    token: String,
    /// How long to live without a renewal.
    #[arg(long, env = "FIREDRILL_TTL", default_value = "30s")]
    ttl: Dur,
    /// This pod's name.
    #[arg(long, env = "FIREDRILL_POD", default_value = "agent")]
    pod: String,
    /// This pod's uid.
    #[arg(long, env = "FIREDRILL_POD_UID", default_value = "")]
    pod_uid: String,
    /// Where to listen: a path, or `@` and a name without a file.
    #[arg(long, env = "FIREDRILL_SOCKET", default_value = SOCKET)]
    socket: PathBuf,
    /// Talk over standard input and output instead, and end with them.
    #[arg(long)]
    stdio: bool,
    /// The most bytes of events kept while no runner is there to take them.
    #[arg(long, default_value_t = 16 << 20)]
    buffer: usize,
}

/// What the watchdog is told.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct WatchdogArgs {
    /// The drill.
    #[arg(long, env = "FIREDRILL_DRILL")]
    drill: String,
    /// firedrill's own namespace.
    #[arg(long, env = "FIREDRILL_NAMESPACE")]
    namespace: String,
    /// This pod's name.
    #[arg(long, env = "FIREDRILL_POD", default_value = "watchdog")]
    pod: String,
    /// This pod's uid; without it nothing is said to the runner and no pod is removed at the end.
    #[arg(long, env = "FIREDRILL_POD_UID", default_value = "")]
    pod_uid: String,
    /// How long the drill's Leases live, where they do not say so.
    #[arg(long, env = "FIREDRILL_LEASE", default_value = "15s")]
    lease: Dur,
    /// A folder that may be written to.
    #[arg(long, default_value = "/run/firedrill")]
    scratch: PathBuf,
}

/// Runs it.
pub(super) async fn run(args: Args) -> Exit {
    match args.what {
        What::Watchdog(args) => watchdog(args).await,
        What::Node(args) => {
            let (orders, rx) = mpsc::channel(64);
            let events = EventsOut::new(args.buffer);
            let clock = Clock::host_as(&format!("agent-{}", args.pod));
            let (kept, until) = watch::channel(None);
            let node = Node::new(Proc::default(), args.pod_uid.clone());
            // Without an account it does everything but lose its node.
            let node = match loss::api_server() {
                Ok(server) => {
                    let client = Arc::new(|| cluster::in_pod().map_err(|error| error.to_string()));
                    let guard = GuardBy::Process(loss::this_program());
                    node.losing(Means { client, server: Some(server), guard, kept, clock: clock.clone() })
                }
                Err(why) => {
                    tracing::debug!("{why}");
                    node
                }
            };
            serve(args, clock, events, orders, node.run(rx), Some(until)).await
        }
        What::Pod(args) => {
            let (orders, rx) = mpsc::channel(64);
            let events = EventsOut::new(args.buffer);
            let clock = Clock::host_as(&format!("agent-in-{}", args.pod));
            let node = Node::new(Proc::in_pod(), args.pod_uid.clone());
            serve(args, clock, events, orders, node.run(rx), None).await
        }
        What::Observe { agent, clock_offset_us } => {
            let (orders, rx) = mpsc::channel(64);
            let events = EventsOut::new(agent.buffer);
            let clock = Clock::host_as(&format!("observer/{}", agent.pod)).skewed(clock_offset_us);
            let dialer = Dialer::pod().map_err(|error| error.to_string());
            let (own, out) = (clock.clone(), events.clone());
            let service = async move { observe::run(own, dialer?, out, rx).await };
            serve(agent, clock, events, orders, service, None).await
        }
        What::Guard => match guard::run(&Proc::default(), tokio::io::stdin()).await {
            Ok(0) => Exit::Passed,
            Ok(woken) => {
                crate::cli::out::note!("firedrill agent guard: its helper is gone; let {woken} processes go on");
                Exit::Passed
            }
            Err(why) => {
                crate::cli::out::note!("firedrill agent guard: {why}");
                Exit::NotClean
            }
        },
        What::Attach { socket } => attach(&socket).await,
    }
}

/// Serves a service until its end, and says on standard error why that came.
async fn serve(
    args: AgentArgs,
    clock: Clock,
    events: EventsOut,
    orders: mpsc::Sender<server::Order>,
    service: impl Future<Output = Result<String, String>> + Send + 'static,
    kept: Option<watch::Receiver<Option<Instant>>>,
) -> Exit {
    let config = Config { drill: args.drill, token: args.token, ttl: args.ttl.0, end_limit: server::END_LIMIT, kept, stop: None };
    let listen = if args.stdio { Listen::Stdio } else { Listen::Socket(args.socket) };
    // Not tracing: this line is what `kubectl logs` shows, and what the kubelet keeps as the pod's last word.
    match server::serve(config, clock, listen, events, orders, service).await {
        Ok(why) => {
            crate::cli::out::note!("firedrill agent {}: ended: {why}", args.pod);
            Exit::Passed
        }
        Err(why) => {
            crate::cli::out::note!("firedrill agent {}: ended, not clean: {why}", args.pod);
            Exit::NotClean
        }
    }
}

/// How long the API server may be away at the start; the kubelet begins the pod anew after that.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);

async fn watchdog(args: WatchdogArgs) -> Exit {
    let WatchdogArgs { drill, namespace, pod, pod_uid, lease, scratch } = args;
    let config = watchdog::Config {
        drill,
        namespace,
        pod,
        pod_uid,
        lease,
        scratch,
        log: watchdog::Log::default(),
        disk: Disk::default(),
        seed: None,
        sandbox: None,
    };
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_at_a_signal(stop.clone()));
    let ended = tokio::select! {
        biased;
        connected = connected() => match connected {
            Ok(cluster) => watchdog::run(&cluster, &Clock::host_as(&format!("watchdog/{}", config.pod)), &config, &stop).await,
            Err(why) => Err(why),
        },
        () = stop.cancelled() => Ok("told to stop".to_owned()),
    };
    signals.abort();
    // It was told to end just above.
    drop(signals.await);
    // Not tracing: this line is what the kubelet keeps as the pod's last word.
    match ended {
        Ok(why) => {
            crate::cli::out::note!("firedrill agent watchdog: ended: {why}");
            Exit::Passed
        }
        Err(why) => {
            crate::cli::out::note!("firedrill agent watchdog: ended: {why}");
            Exit::Refused
        }
    }
}

async fn connected() -> Result<Cluster, String> {
    let began = tokio::time::Instant::now();
    loop {
        match cluster::connect(None).await {
            Ok(cluster) => return Ok(cluster),
            Err(error) if began.elapsed() >= CONNECT_LIMIT => return Err(error.to_string()),
            Err(error) => crate::cli::out::note!("firedrill agent watchdog: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The main process of a container gets no signal that it does not handle.
async fn stop_at_a_signal(stop: CancellationToken) {
    if let Ok(mut signals) = Signals::new() {
        signals.next().await;
        stop.cancel();
    }
}

async fn attach(at: &std::path::Path) -> Exit {
    let stream = match socket::connect(at).await {
        Ok(stream) => stream,
        Err(e) => {
            crate::cli::out::note!("failed to connect to the agent at {}: {e}", at.display());
            return Exit::Refused;
        }
    };
    let (mut from, mut to) = stream.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
    };
    let down = async {
        let _ = tokio::io::copy(&mut from, &mut tokio::io::stdout()).await;
    };
    // Either side's end is the end: the runner attaches again if it wants to.
    tokio::select! {
        biased;
        () = down => {}
        () = up => {}
    }
    Exit::Passed
}
