//! `firedrill agent …`: what firedrill's own pods run. Not for people.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use tokio::sync::mpsc;

use crate::{
    agent::{
        node::Node,
        observe,
        processes::Proc,
        protocol::SOCKET,
        server::{self, Config, EventsOut, Listen},
    },
    clock::Clock,
    exit::Exit,
    scenario::types::Dur,
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
    /// Sample probes from within the cluster, as the runner says.
    Observe {
        #[command(flatten)]
        agent: AgentArgs,
        /// Microseconds by which this observer's clock is ahead of the machine's: for tests of clocks that differ.
        #[arg(long, default_value_t = 0, allow_negative_numbers = true, hide = true)]
        clock_offset_us: i64,
    },
    /// Join standard input and output to the agent's socket.
    Attach {
        /// The agent's socket.
        #[arg(long, default_value = SOCKET)]
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
    /// Where to listen.
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
    /// Talk over standard input and output instead, and end with them.
    #[arg(long)]
    stdio: bool,
    /// The most bytes of events kept while no runner is there to take them.
    #[arg(long, default_value_t = 16 << 20)]
    buffer: usize,
}

/// Runs it.
pub(super) async fn run(args: Args) -> Exit {
    match args.what {
        What::Node(args) => {
            let (orders, rx) = mpsc::channel(64);
            let events = EventsOut::new(args.buffer);
            let clock = Clock::host_as(&format!("agent-{}", args.pod));
            let service = tokio::spawn(Node::new(Proc::default(), args.pod_uid.clone()).run(rx));
            serve(args, clock, events, orders, service).await
        }
        What::Observe { agent, clock_offset_us } => {
            let (orders, rx) = mpsc::channel(64);
            let events = EventsOut::new(agent.buffer);
            let clock = Clock::host_as(&format!("observer/{}", agent.pod)).skewed(clock_offset_us);
            let service = tokio::spawn(observe::run(clock.clone(), events.clone(), rx));
            serve(agent, clock, events, orders, service).await
        }
        What::Attach { socket } => attach(&socket).await,
    }
}

/// Serves a service until its end, and says on standard error why that came.
async fn serve(
    args: AgentArgs,
    clock: Clock,
    events: EventsOut,
    orders: mpsc::Sender<server::Order>,
    service: tokio::task::JoinHandle<Result<String, String>>,
) -> Exit {
    let config = Config { drill: args.drill, token: args.token, ttl: args.ttl.0, end_limit: Duration::from_secs(12) };
    let listen = if args.stdio { Listen::Stdio } else { Listen::Socket(args.socket) };
    // Not tracing: this line is what `kubectl logs` shows, and what the kubelet keeps as the pod's last word.
    match server::serve(config, clock, listen, events, orders, service).await {
        Ok(why) => {
            eprintln!("firedrill agent {}: ended: {why}", args.pod);
            Exit::Passed
        }
        Err(why) => {
            eprintln!("firedrill agent {}: ended, not clean: {why}", args.pod);
            Exit::NotClean
        }
    }
}

async fn attach(socket: &std::path::Path) -> Exit {
    let stream = match tokio::net::UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(e) => {
            eprintln!("failed to connect to the agent at {}: {e}", socket.display());
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
