//! A member of the cluster: its database server, and who decides whether it leads or follows (Patroni).
//!
//! The rules are Patroni's: the leader renews its lock every `loop-wait`; when it has not changed for `ttl`, those who may lead race for
//! it, and who is behind another candidate stays out. A leader that cannot reach the API server for `retry_timeout` steps down by
//! itself; one that is frozen cannot, and does it when it thaws.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::super::{
        control::look::{draw, label, micro_time},
        program::{Env, Volume},
        shell,
    },
    PORT, archive,
    data::{Change, Data, Past, Role, verifier},
    dcs::{Dcs, Member as Peer, View},
    knobs::{Knobs, Synchronous},
    replicate, rest,
    server::{Files, Server, lock},
    wire::{self, Ask, Manners},
};

/// How long the API server may give no good answer until a leader steps down (`retry_timeout`).
pub(super) const RETRY: Duration = Duration::from_secs(3);
/// How long each step takes: initdb with the first rows, a copy of the primary, a start, a promotion; in microseconds.
const BOOTSTRAP_US: (i64, i64) = (2_500_000, 4_000_000);
const COPY_US: (i64, i64) = (1_500_000, 3_000_000);
const START_US: (i64, i64) = (400_000, 1_200_000);
pub(super) const PROMOTE_US: (i64, i64) = (300_000, 900_000);
/// How long a server takes to stop.
const STOP: Duration = Duration::from_millis(200);

/// What a member shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// `running`, `starting`, `stopped`, `creating replica`
    pub(super) state: &'static str,
    pub(super) leads: bool,
    pub(super) timeline: u32,
    pub(super) lsn: u64,
}

/// Whom it follows.
pub(super) struct Following {
    pub(super) leader: String,
    pub(super) stop: CancellationToken,
}

/// A member while its container runs.
pub(super) struct Member {
    pub(super) env: Env,
    pub(super) dcs: Dcs,
    /// Looked up once: a probe is asked while the cluster's state is locked.
    volume: Arc<Volume>,
    knobs: Mutex<Knobs>,
    server: Mutex<Option<(Arc<Server>, archive::Running)>>,
    state: Mutex<&'static str>,
    /// It has the lock, as far as it knows.
    pub(super) locked: Mutex<bool>,
    /// The lock as it was seen last, and when it changed.
    seen: Mutex<Option<(String, Instant)>>,
    pub(super) following: Mutex<Option<Following>>,
    /// What is here does not lead on to the leader's log.
    pub(super) diverged: Arc<Mutex<bool>>,
    /// Records have come, records are replayed.
    pub(super) received: watch::Sender<u64>,
    pub(super) replayed: watch::Sender<u64>,
    steps: AtomicU64,
    pub(super) view: Mutex<View>,
}

/// The files on a volume, once there are any.
pub(super) fn files(env: &Env, path: &str) -> Option<Files> {
    env.volume(path).get::<Mutex<Data>>("pg")
}

/// Puts files on a volume, in place of what is there.
pub(super) fn put_files(env: &Env, path: &str, data: Data) -> Files {
    let files = env.volume(path).get_or_init("pg", || Mutex::new(data.clone()));
    *lock(&files) = data;
    // What `ls` shows; a folder that is there already is none too many.
    let _ = shell::files(env).make_folder(&format!("{path}/pg"));
    files
}

impl Member {
    /// # Errors
    /// A knob is wrong, or the sandbox is ending.
    pub(super) fn new(env: &Env) -> Result<Arc<Self>, String> {
        let knobs = Knobs::read(env)?;
        let client = env.client().ok_or("the sandbox has ended")?;
        let own = |name: &str, default: &str| Some(label(env.pod(), name)).filter(|l| !l.is_empty()).unwrap_or(default).to_owned();
        let cluster = own("cluster", "");
        if cluster.is_empty() {
            return Err("a member's pod has the label `cluster`".to_owned());
        }
        let (hosting, node) = (Arc::clone(env.hosting()), env.node().to_owned());
        // A lost node's network leads to no API server either.
        let online = move || hosting.cluster.upgrade().is_some_and(|cluster| cluster.lock().nodes.reachable(&node));
        let scope = own("cluster-name", &format!("{cluster}-db"));
        let dcs = Dcs::new(client, env.namespace(), &scope, ("cluster", &cluster), Arc::new(online));
        Ok(Arc::new(Self {
            env: env.clone(),
            dcs,
            volume: env.volume(super::DATA),
            knobs: Mutex::new(knobs),
            server: Mutex::default(),
            state: Mutex::new("starting"),
            locked: Mutex::default(),
            seen: Mutex::default(),
            following: Mutex::default(),
            diverged: Arc::default(),
            received: watch::Sender::new(0),
            replayed: watch::Sender::new(0),
            steps: AtomicU64::new(0),
            view: Mutex::default(),
        }))
    }

    pub(super) fn draw(&self, what: &str, range: (i64, i64)) -> Duration {
        let step = self.steps.fetch_add(1, Ordering::Relaxed).to_string();
        Duration::from_micros(draw(self.env.seed(), &[what, &step], range.0, range.1).unsigned_abs())
    }

    pub(super) fn knobs(&self) -> Knobs {
        lock(&self.knobs).clone()
    }

    /// The server, if it runs.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        lock(&self.server).as_ref().map(|(server, _)| Arc::clone(server))
    }

    /// Its files, once there are any.
    pub(super) fn files(&self) -> Option<Files> {
        self.volume.get::<Mutex<Data>>("pg")
    }

    /// Whether it is a primary that has the lock.
    pub(super) fn leads(&self) -> bool {
        *lock(&self.locked) && self.server().is_some_and(|server| !lock(&server.files).standby)
    }

    /// What it shows of itself.
    pub(super) fn shown(&self) -> Shown {
        let past = self.files().map(|files| lock(&files).past.clone());
        let (timeline, lsn) = past.map_or((0, 0), |past| (past.timeline, past.lsn));
        Shown { state: *lock(&self.state), leads: self.leads(), timeline, lsn }
    }

    /// Runs until it is asked to end.
    pub(super) async fn run(self: Arc<Self>) -> i32 {
        self.env.spawn(rest::serve(Arc::clone(&self)));
        self.env.spawn(archive::run(Arc::clone(&self)));
        let (wake, dcs) = (Arc::new(Notify::new()), self.dcs.clone());
        let woken = Arc::clone(&wake);
        self.env.spawn(async move { dcs.watch(|| wake.notify_one()).await });
        let terminated = self.env.terminated();
        // Members do not turn in step.
        let mut wait = self.draw("first", (0, 1_000_000));
        loop {
            tokio::select! {
                biased;
                () = terminated.cancelled() => break,
                () = async {
                    tokio::select! {
                        biased;
                        () = sleep(wait) => {}
                        () = woken.notified() => {}
                    }
                    self.turn().await;
                } => wait = self.knobs().loop_wait,
            }
        }
        self.end().await;
        0
    }

    /// A polite end: the lock is given back when everything is on the replicas.
    async fn end(&self) {
        let leads = self.leads();
        let server = self.server();
        if let Some(server) = &server {
            server.stop.cancel();
        }
        sleep(STOP).await;
        if leads && let (Ok(view), Some(server)) = (self.dcs.load().await, &server) {
            let lsn = lock(&server.files).past.lsn;
            if view.leader == self.env.name()
                && let Err(why) = self.dcs.release(&view, lsn, self.knobs().ttl).await
            {
                self.env.say(&format!("the lock was not given back: {why:?}"));
            }
        }
        self.stop_server();
        self.env.say("stopped");
    }

    /// One turn of the loop.
    async fn turn(self: &Arc<Self>) {
        match Knobs::read(&self.env) {
            Ok(knobs) => *lock(&self.knobs) = knobs,
            Err(why) => self.env.say(&why),
        }
        if self.knobs().down {
            self.stop_server();
            *lock(&self.state) = "stopped";
            return;
        }
        let view = match self.load().await {
            Ok(view) => view,
            Err(why) => {
                if self.is_primary() {
                    self.env.say(&format!("demoting self because DCS is not accessible and I was a leader: {why}"));
                    self.demote();
                }
                return;
            }
        };
        self.observe(&view);
        *lock(&self.view) = view.clone();
        let Some(files) = self.files() else { return self.bootstrap(view).await };
        if self.server().is_none() {
            self.start(&files).await;
        }
        let (mine, primary) = (view.leader == self.env.name(), self.is_primary());
        *lock(&self.locked) = mine;
        match (mine, primary) {
            (true, true) => self.lead(&view).await,
            (true, false) => self.promote(&view, "I had the session lock").await,
            (false, true) if self.alive(&view) => {
                self.env.say(&format!("demoting self because I do not have the lock and {} is the leader", view.leader));
                self.demote();
            }
            (false, false) if self.alive(&view) => self.follow(&view, &files).await,
            (false, _) => self.race(&view).await,
        }
        self.tell().await;
    }

    /// Reads what all know, and tries again for a while.
    async fn load(&self) -> Result<View, String> {
        let start = Instant::now();
        loop {
            match self.dcs.load().await {
                Ok(view) => return Ok(view),
                Err(why) if start.elapsed() >= RETRY => return Err(format!("{why:?}")),
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    pub(super) fn is_primary(&self) -> bool {
        self.server().is_some_and(|server| !lock(&server.files).standby)
    }

    fn observe(&self, view: &View) {
        let key = format!("{} {}", view.leader, view.renewed);
        let mut seen = lock(&self.seen);
        if seen.as_ref().is_none_or(|(known, _)| *known != key) {
            *seen = Some((key, Instant::now()));
        }
    }

    /// Whether somebody has the lock, and has renewed it lately.
    fn alive(&self, view: &View) -> bool {
        !view.leader.is_empty() && lock(&self.seen).as_ref().is_some_and(|(_, since)| since.elapsed() < self.knobs().ttl)
    }

    /// Makes the first files: the whole cluster's, or a copy.
    async fn bootstrap(self: &Arc<Self>, view: View) {
        let env = &self.env;
        match view.system {
            None => {
                // Positive, and the same for the same pod.
                let system = (env.seed() >> 2) | 1 << 60;
                if self.dcs.initialize(system).await.is_err() {
                    return;
                }
                env.say("trying to bootstrap a new cluster");
                sleep(self.draw("bootstrap", BOOTSTRAP_US)).await;
                let mut data = Data::new(system);
                data.commit(vec![Change::Seed { at_us: env.now_us(), roles: self.roles() }], env.now_us());
                let files = put_files(env, super::DATA, data);
                let Ok(view) = self.load().await else { return };
                let lsn = lock(&files).past.lsn;
                if self.dcs.hold(&view, &self.own(), lsn, &micro_time(env.now_us()), self.knobs().ttl).await.is_ok() {
                    *lock(&self.locked) = true;
                    self.run_server(&files);
                    self.led("initialized a new cluster");
                    self.tell().await;
                }
            }
            Some(_) if self.alive(&view) && view.leader != env.name() => {
                *lock(&self.state) = "creating replica";
                env.say(&format!("trying to bootstrap from leader '{}'", view.leader));
                self.copy(&view).await;
            }
            Some(_) => env.say("waiting for leader to bootstrap"),
        }
    }

    /// The roles, with the passwords that the container's environment has.
    fn roles(&self) -> std::collections::BTreeMap<String, Role> {
        let vars = [
            ("postgres", "PATRONI_SUPERUSER_PASSWORD"),
            ("checkout", "APP_PASSWORD"),
            ("firedrill_ledger", "LEDGER_PASSWORD"),
            ("monitor", "MONITOR_PASSWORD"),
            ("usage_metrics", "SCRIPT_PASSWORD"),
        ];
        let role = |(name, var): (&str, &str)| {
            let password = self.env.var(var)?;
            Some((name.to_owned(), Role { verifier: verifier(name, &password), superuser: name == "postgres" }))
        };
        vars.into_iter().filter_map(role).collect()
    }

    pub(super) fn own(&self) -> Peer {
        Peer::own(self.env.name(), self.env.ip())
    }

    /// Copies the leader, in place of what is here.
    pub(super) async fn copy(self: &Arc<Self>, view: &View) {
        let Some(leader) = view.member(&view.leader) else { return };
        let (env, address) = (&self.env, leader.address.clone());
        self.stop_server();
        sleep(self.draw("copy", COPY_US)).await;
        match replicate::copy(env.dialer(), &address, env.name(), env.ip()).await {
            Ok(data) => {
                if let Some(before) = self.files() {
                    self.forget(&lock(&before), &data.past);
                }
                let files = put_files(env, super::DATA, data);
                *lock(&self.diverged) = false;
                self.start(&files).await;
            }
            Err(why) => env.say(&format!("failed to copy {}: {why}", view.leader)),
        }
    }

    /// Tells what is lost when files are replaced: transactions that the new leader's timeline does not have.
    fn forget(&self, before: &Data, now: &Past) {
        let left = now.history.iter().find(|(timeline, _)| *timeline == before.past.timeline).map(|(_, left)| *left);
        let Some(left) = left.filter(|left| *left < before.past.lsn) else { return };
        let gone = before.since(left, usize::MAX).unwrap_or_default();
        let rows: Vec<Value> = gone
            .iter()
            .flat_map(|record| record.changes.iter())
            .filter_map(|change| match change {
                Change::Put { table, pos, row } => {
                    Some(json!({"table": table, "pos": pos, "row": row.iter().map(|c| c.written()).collect::<Vec<_>>()}))
                }
                _ => None,
            })
            .collect();
        self.env.truth("rewound", json!({"timeline": before.past.timeline, "from": before.past.lsn, "to": left, "rows": rows}));
    }

    /// Starts the server as a replica of nobody yet.
    async fn start(self: &Arc<Self>, files: &Files) {
        *lock(&self.state) = "starting";
        sleep(self.draw("start", START_US)).await;
        lock(files).standby = true;
        self.run_server(files);
    }

    fn run_server(self: &Arc<Self>, files: &Files) {
        let env = &self.env;
        let server = Server::new(Arc::clone(files), env.clock(), env.ip());
        let own = env.clone();
        server.on_volume(move || own.volume_full(super::DATA));
        *lock(&self.server) = Some((Arc::clone(&server), archive::Running::new(env)));
        *lock(&self.state) = "running";
        let mut listener = env.listen(PORT);
        let (this, own) = (Arc::clone(self), Arc::clone(&server));
        env.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = own.stop.cancelled() => return,
                    stream = listener.accept() => match stream {
                        Some(stream) => {
                            let (this, own) = (Arc::clone(&this), Arc::clone(&own));
                            this.env.clone().spawn(async move { this.serve(stream, &own).await });
                        }
                        None => return,
                    },
                }
            }
        });
        let (this, own) = (Arc::clone(self), server);
        env.spawn(async move {
            tokio::select! {
                biased;
                () = own.down.cancelled() => {}
                () = this.replay(&own) => {}
            }
        });
    }

    async fn serve(self: &Arc<Self>, stream: crate::net::Stream, server: &Arc<Server>) {
        let this = Arc::downgrade(self);
        let count = AtomicU64::new(0);
        let seed = mix_of(self.env.seed(), self.steps.fetch_add(1, Ordering::Relaxed));
        let ask: Ask = Arc::new(move || {
            let Some(this) = this.upgrade() else { return Manners::default() };
            let knobs = this.knobs();
            let n = count.fetch_add(1, Ordering::Relaxed).to_string();
            let breaks = knobs.loss > 0 && draw(seed, &["loss", &n], 0, 999_999) < i64::from(knobs.loss);
            Manners { latency: knobs.latency, breaks, lies: knobs.synchronous == Synchronous::Lying }
        });
        if let Some(replica) = wire::serve(stream, server, &ask).await {
            replicate::send(replica, server, || self.knobs().transfer).await;
        }
    }

    /// Replays what is received, at once or with the lag that is set.
    async fn replay(&self, server: &Server) {
        let mut received = self.received.subscribe();
        loop {
            received.mark_unchanged();
            let lag_us = i64::try_from(self.knobs().lag.as_micros()).unwrap_or(i64::MAX);
            let now_us = self.env.now_us();
            let (replayed, next) = {
                let mut files = lock(&server.files);
                let replayed = files.standby && files.replay(u64::MAX, now_us.saturating_sub(lag_us));
                (replayed, files.next_at_us().filter(|_| files.standby))
            };
            if replayed {
                server.touch();
                self.replayed.send_modify(|n| *n = n.wrapping_add(1));
            }
            let wait_us = next.map(|at| (at.saturating_add(lag_us) - now_us).max(1000));
            let wait = async {
                match wait_us {
                    Some(us) => sleep(Duration::from_micros(us.unsigned_abs())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = received.changed() => if changed.is_err() { return },
                () = wait => {}
            }
        }
    }

    fn stop_server(&self) {
        if let Some(following) = lock(&self.following).take() {
            following.stop.cancel();
        }
        if let Some((server, _)) = lock(&self.server).take() {
            server.stop.cancel();
            server.down.cancel();
        }
        *lock(&self.locked) = false;
        *lock(&self.state) = "stopped";
    }

    pub(super) fn demote(&self) {
        if let Some(server) = self.server() {
            let past = {
                let mut files = lock(&server.files);
                files.standby = true;
                files.past.clone()
            };
            self.env.truth("demoted", json!({"timeline": past.timeline, "lsn": past.lsn}));
        }
        self.stop_server();
    }

    /// Says in its pod what it is.
    async fn tell(&self) {
        let shown = self.shown();
        let role = if shown.leads { "master" } else { "replica" };
        let (ip, state) = (self.env.ip(), shown.state);
        let status = json!({
            "conn_url": format!("postgres://{ip}:{PORT}/postgres"), "api_url": format!("http://{ip}:{}/patroni", rest::PORT),
            "state": state, "role": role, "version": "3.0.2", "xlog_location": shown.lsn, "timeline": shown.timeline,
        });
        if let Err(why) = self.dcs.tell(self.env.name(), role, &status).await {
            self.env.say(&format!("failed to say what this member is: {why:?}"));
        }
    }
}

fn mix_of(seed: u64, n: u64) -> u64 {
    super::super::super::control::look::mix(&[&seed.to_string(), &n.to_string()])
}
