//! `agent`: a container that runs `firedrill agent …`. It is the real agent: observer, node helper and watchdog as they are, behind the
//! real server, with the pod's network, the node's processes and the pod's service account.
//!
//! Its clock is one of its own, so that the runner has to measure it. Knob `clock-skew`: how far it is ahead.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use send_wrapper::SendWrapper;
use serde_json::Value;
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    runtime::RuntimeFlavor,
    sync::{mpsc, watch},
};

use super::{
    super::{
        control::look,
        kubelet::{ExecAsk, ExecEnd},
        node::NodeTable,
        program::{Env, Program},
    },
    Probe,
};
use crate::{
    agent::{
        loss::{Means, guard::GuardBy},
        node::Node,
        observe,
        processes::Proc,
        server::{self, Config, EventsOut, Listen},
        watchdog,
    },
    clock::Clock,
    cluster,
    exit::Exit,
    journal::{Disk, MemoryDisk},
    scenario::types::Dur,
};

/// The most bytes of events kept while no runner is there to take them, as the real one has it.
const BUFFER: usize = 16 << 20;
/// How many bytes wait in a connection.
const PIPE: usize = 256 << 10;
/// How many connections wait to be taken.
const WAITING: usize = 8;
/// How long the API server may be away when the watchdog begins.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);

/// One container with an agent.
#[derive(Debug, Default)]
pub(super) struct Agent {
    /// Its socket, while it listens.
    socket: Mutex<Option<mpsc::Sender<DuplexStream>>>,
}

/// What it is told by its environment.
struct Told {
    drill: String,
    token: String,
    ttl: Dur,
    pod: String,
    pod_uid: String,
    clock: Clock,
}

impl Told {
    fn new(env: &Env, clock_name: &str) -> Result<Self, String> {
        let vars = env.vars();
        let var = |name: &str| vars.get(name).cloned();
        let needed = |name: &str| var(name).ok_or_else(|| format!("{name} is not set"));
        let pod = var("FIREDRILL_POD").unwrap_or_else(|| "agent".to_owned());
        let skew = env.knob_duration("clock-skew")?.unwrap_or_default();
        let skew = i64::try_from(skew.as_micros()).map_err(|_| "annotation clock-skew is too long".to_owned())?;
        Ok(Self {
            drill: needed("FIREDRILL_DRILL")?,
            token: var("FIREDRILL_TOKEN").unwrap_or_default(),
            ttl: duration(var("FIREDRILL_TTL").as_deref().unwrap_or("30s"))?,
            pod_uid: var("FIREDRILL_POD_UID").unwrap_or_default(),
            clock: Clock::virtual_at(&format!("{clock_name}{pod}"), env.now_us()).skewed(skew),
            pod,
        })
    }
}

fn duration(text: &str) -> Result<Dur, String> {
    text.parse().map_err(|error| format!("`{text}` is no duration: {error}"))
}

impl Agent {
    /// A connection to it, as its socket gives one.
    async fn connect(&self) -> Option<DuplexStream> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (near, far) = tokio::io::duplex(PIPE);
        socket.send(far).await.ok().map(|()| near)
    }

    async fn agent(&self, env: &Env, what: &str) -> Result<Result<String, String>, String> {
        let told = Told::new(env, if what == "observe" { "observer/" } else { "agent-" })?;
        let (socket, connections) = mpsc::channel(WAITING);
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        let (orders, rx) = mpsc::channel(64);
        let events = EventsOut::new(BUFFER);
        let (kept, until) = watch::channel(None);
        let config = Config {
            drill: told.drill,
            token: told.token,
            ttl: told.ttl.0,
            end_limit: server::END_LIMIT,
            kept: Some(until),
            stop: Some(env.terminated()),
        };
        let listen = Listen::Given(connections);
        let ended = if what == "pod" {
            let hosting = env.hosting();
            let table = NodeTable::new(hosting.cluster.clone(), hosting.clock.clone(), env.node(), env.pod(), env.container());
            let service = Node::new(Proc::Table(Arc::new(table)), told.pod_uid).run(rx);
            server::serve(config, told.clock, listen, events, orders, service).await
        } else if what == "observe" {
            let service = observe::run(told.clock.clone(), env.dialer().clone(), events.clone(), rx);
            server::serve(config, told.clock, listen, events, orders, service).await
        } else {
            let hosting = env.hosting();
            let table = NodeTable::new(hosting.cluster.clone(), hosting.clock.clone(), env.node(), env.pod(), env.container());
            let own = env.clone();
            let means = Means {
                client: Arc::new(move || own.client().ok_or_else(|| "the sandbox is ending".to_owned())),
                server: None,
                guard: GuardBy::Nobody,
                kept,
                clock: told.clock.clone(),
            };
            let service = Node::new(Proc::Table(Arc::new(table)), told.pod_uid).losing(means).run(rx);
            server::serve(config, told.clock, listen, events, orders, service).await
        };
        let said = match &ended {
            Ok(why) => format!("ended: {why}"),
            Err(why) => format!("ended, not clean: {why}"),
        };
        env.say(&format!("firedrill agent {}: {said}", told.pod));
        Ok(ended)
    }

    async fn watchdog(&self, env: &Env) -> Result<String, String> {
        let told = Told::new(env, "watchdog/")?;
        let own = env.clone();
        // For raw samples, of which a revert has none. Gone with this, also when the sandbox ends in the middle of a revert.
        let scratch = tempfile::Builder::new().prefix(&format!("firedrill-sandbox-{}-", std::process::id())).tempdir();
        let scratch = scratch.map_err(|error| format!("failed to make a folder for samples: {error}"))?;
        let config = watchdog::Config {
            drill: told.drill,
            namespace: env.var("FIREDRILL_NAMESPACE").ok_or("FIREDRILL_NAMESPACE is not set")?,
            pod: told.pod,
            pod_uid: told.pod_uid,
            lease: duration(&env.var("FIREDRILL_LEASE").unwrap_or_else(|| "15s".to_owned()))?,
            scratch: scratch.path().to_owned(),
            log: watchdog::Log(Arc::new(move |line| own.say(line))),
            disk: Disk::Memory(MemoryDisk::default()),
            seed: Some(env.seed()),
            sandbox: Some(env.dialer().clone()),
        };
        let stop = env.terminated();
        let began = tokio::time::Instant::now();
        let cluster = loop {
            let client = env.client().ok_or("the sandbox is ending")?;
            match cluster::behind(client, "in-cluster").await {
                Ok(cluster) => break cluster,
                Err(error) if began.elapsed() >= CONNECT_LIMIT => return Err(error.to_string()),
                Err(error) => env.say(&format!("firedrill agent watchdog: {error}")),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok("told to stop".to_owned()),
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        };
        watchdog::run(&cluster, &told.clock, &config, &stop).await
    }
}

impl Program for Agent {
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32> {
        async move {
            let words: Vec<String> = command(&env);
            let exit = match words.get(2).map(String::as_str) {
                Some(what @ ("observe" | "node" | "pod")) => {
                    self.agent(&env, what).await.map(|ended| if ended.is_ok() { Exit::Passed } else { Exit::NotClean })
                }
                Some("watchdog") => {
                    let own = (Arc::clone(&self), env.clone());
                    let watchdog = async move { own.0.watchdog(&own.1).await };
                    // What it reverts with is no future for several threads. A sandbox has one.
                    let ended = match tokio::runtime::Handle::current().runtime_flavor() {
                        RuntimeFlavor::CurrentThread => SendWrapper::new(watchdog).await,
                        _ => Err("not rehearsable: a watchdog needs a runtime of one thread".to_owned()),
                    };
                    let said = match &ended {
                        Ok(why) | Err(why) => format!("firedrill agent watchdog: ended: {why}"),
                    };
                    env.say(&said);
                    Ok(if ended.is_ok() { Exit::Passed } else { Exit::Refused })
                }
                _ => Err(format!("not rehearsable: {words:?}")),
            };
            let exit = exit.unwrap_or_else(|why| {
                env.say(&why);
                Exit::Usage
            });
            i32::from(exit.code())
        }
        .boxed()
    }

    fn probe(&self, probe: &Probe) -> Result<(), String> {
        Err(format!("not rehearsable: an agent has no answer to {probe:?}"))
    }

    fn exec(self: Arc<Self>, _env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd> {
        async move {
            let ExecAsk { command, mut stdin, mut stdout, mut stderr, .. } = ask;
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            if !matches!(words.as_slice(), [program, "agent", "attach"] if program.ends_with("firedrill")) {
                return ExecEnd::Failed(format!("not rehearsable: an agent has no answer to {words:?}"));
            }
            let Some(connection) = self.connect().await else {
                // Nobody reads it: that does not change how it ends.
                let _ = stderr.write_all(b"failed to connect to the agent: it does not listen\n").await;
                return ExecEnd::Exit(i32::from(Exit::Refused.code()));
            };
            let (mut from, mut to) = tokio::io::split(connection);
            // Either side's end is the end: the runner attaches again if it wants to.
            tokio::select! {
                biased;
                _ = tokio::io::copy(&mut from, &mut stdout) => {}
                _ = tokio::io::copy(&mut stdin, &mut to) => {}
            }
            ExecEnd::Exit(0)
        }
        .boxed()
    }
}

/// The container's command and its arguments.
fn command(env: &Env) -> Vec<String> {
    let spec = env.spec();
    ["/command", "/args"].iter().flat_map(|at| look::items(spec, at)).filter_map(Value::as_str).map(str::to_owned).collect()
}
