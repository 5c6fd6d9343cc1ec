//! Programs: models that are ordinary asynchronous code, with a network, a volume and the API server as a container has them.
//!
//! Those that only wait and answer are stepped by the kubelet ([`super::model::Model`]); what talks to others is a [`Program`].
//! The kubelet hosts one as it hosts any model ([`Hosted`]): it starts it, asks its probes, signals it and drops it.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    cluster::Cluster,
    control::{Who, look},
    core::text,
    kubelet::{ExecAsk, ExecEnd},
    model::{self, Exec, Log, Model, Next, Probe, Turn},
    net::{Listener, Net, Place},
    shell,
    store::{Key, Stored},
    transport::Server,
};
use crate::{
    clock::Clock,
    gate::Gate,
    net::{Dialer, Stream},
};

/// A container's process, as asynchronous code.
pub(in crate::sandbox) trait Program: Send + Sync {
    /// From its start to its end by itself; gives the exit code. It is dropped on SIGKILL, and not polled while it is frozen.
    /// SIGTERM cancels [`Env::terminated`]; one that does not end then is killed after its grace.
    fn run(self: Arc<Self>, env: Env) -> BoxFuture<'static, i32>;

    /// A probe of the kubelet, answered at once.
    ///
    /// # Errors
    /// It fails, with the kubelet's words.
    fn probe(&self, probe: &Probe) -> Result<(), String>;

    /// A command in its container. It is held as the program itself is.
    fn exec(self: Arc<Self>, env: Env, ask: ExecAsk) -> BoxFuture<'static, ExecEnd>;
}

/// Something that is so, whatever anybody has measured: what checkers compare results with.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// When, in microseconds since the Unix epoch, by the sandbox's wall clock.
    pub at_us: i64,
    /// The pod that knows, `namespace/name`.
    pub pod: String,
    /// What kind of fact.
    pub what: String,
    /// The fact.
    pub fact: Value,
}

/// The most facts that are kept.
const TRUTHS: usize = 1_000_000;
/// How many lines wait for the kubelet to fetch them.
const LINES: usize = 10_000;

/// What the programs of a cluster have in common.
#[derive(Debug)]
pub(in crate::sandbox) struct Hosting {
    pub(in crate::sandbox) server: Weak<Server>,
    pub(in crate::sandbox) cluster: Weak<Cluster>,
    pub(in crate::sandbox) clock: Clock,
    pub(in crate::sandbox) seed: u64,
    pub(in crate::sandbox) net: Arc<Net>,
    volumes: Mutex<BTreeMap<String, Arc<Volume>>>,
    truths: Mutex<Vec<Truth>>,
}

impl Hosting {
    pub(in crate::sandbox) fn new(server: &Arc<Server>, cluster: &Arc<Cluster>, net: Arc<Net>) -> Self {
        Self {
            server: Arc::downgrade(server),
            cluster: Arc::downgrade(cluster),
            clock: server.core.clock.clone(),
            seed: server.core.seed,
            net,
            volumes: Mutex::default(),
            truths: Mutex::default(),
        }
    }

    /// Notes something that is so, as a pod (`namespace/name`) knows it.
    pub(in crate::sandbox) fn note(&self, pod: String, what: &str, fact: Value) {
        let mut truths = lock(&self.truths);
        if truths.len() < TRUTHS {
            truths.push(Truth { at_us: self.clock.now().wall_us, pod, what: what.to_owned(), fact });
        }
    }

    /// The claim of a pod's volume, if it is one of a claim that is there.
    pub(in crate::sandbox) fn claim_of(&self, pod: &Value, volume: &str) -> Option<Arc<Stored>> {
        let found = look::items(pod, "/spec/volumes").iter().find(|v| text(v, "/name") == volume)?;
        let claim = match text(found, "/persistentVolumeClaim/claimName") {
            "" if found.get("ephemeral").is_some() => format!("{}-{volume}", text(pod, "/metadata/name")),
            "" => return None,
            claim => claim.to_owned(),
        };
        let server = self.server.upgrade()?;
        server.core.lock().peek("", "persistentvolumeclaims", text(pod, "/metadata/namespace"), &claim).cloned()
    }

    /// What a pod's volume is kept under: the PersistentVolume's name if it is of a claim, else the pod's.
    pub(in crate::sandbox) fn volume_key(&self, pod: &Value, volume: &str) -> String {
        match self.claim_of(pod, volume) {
            Some(claim) if !text(&claim.value, "/spec/volumeName").is_empty() => {
                format!("volume {}", text(&claim.value, "/spec/volumeName"))
            }
            Some(claim) => format!("claim {}", text(&claim.value, "/metadata/uid")),
            None => format!("pod {} {volume}", text(pod, "/metadata/uid")),
        }
    }

    /// What is kept under a name.
    pub(in crate::sandbox) fn contents(&self, key: &str) -> Arc<Volume> {
        Arc::clone(lock(&self.volumes).entry(key.to_owned()).or_default())
    }

    /// All facts so far, in order.
    pub(in crate::sandbox) fn truths(&self) -> Vec<Truth> {
        lock(&self.truths).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The contents of a volume: named things of whatever type the models that share it agree on.
#[derive(Default)]
pub(in crate::sandbox) struct Volume(Mutex<BTreeMap<String, Arc<dyn Any + Send + Sync>>>);

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.0).keys()).finish()
    }
}

impl Volume {
    /// What is there under a name; made if there is nothing, or something of another type.
    pub(in crate::sandbox) fn get_or_init<T: Send + Sync + 'static>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = lock(&self.0);
        if let Some(found) = all.get(name).and_then(|found| Arc::clone(found).downcast().ok()) {
            return found;
        }
        let made = Arc::new(make());
        all.insert(name.to_owned(), Arc::clone(&made) as Arc<dyn Any + Send + Sync>);
        made
    }

    /// What is there under a name, if it is of that type.
    pub(in crate::sandbox) fn get<T: Send + Sync + 'static>(&self, name: &str) -> Option<Arc<T>> {
        lock(&self.0).get(name).and_then(|found| Arc::clone(found).downcast().ok())
    }
}

/// Of one run of a container.
struct Own {
    hosting: Arc<Hosting>,
    pod: Value,
    container: String,
    node: String,
    ip: String,
    seed: u64,
    dialer: Dialer,
    gate: Gate,
    terminated: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    lines: Mutex<Vec<(i64, String)>>,
    ended: Mutex<Option<i32>>,
}

/// A program's surroundings. Clones share them.
#[derive(Clone)]
pub(in crate::sandbox) struct Env(Arc<Own>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("pod", &self.name()).field("container", &self.0.container).finish_non_exhaustive()
    }
}

impl Env {
    /// Its pod as it was when the container started.
    pub(in crate::sandbox) fn pod(&self) -> &Value {
        &self.0.pod
    }

    /// The pod's namespace.
    pub(in crate::sandbox) fn namespace(&self) -> &str {
        text(&self.0.pod, "/metadata/namespace")
    }

    /// The pod's name.
    pub(in crate::sandbox) fn name(&self) -> &str {
        text(&self.0.pod, "/metadata/name")
    }

    /// The pod's uid.
    pub(in crate::sandbox) fn uid(&self) -> &str {
        text(&self.0.pod, "/metadata/uid")
    }

    /// Its node.
    pub(in crate::sandbox) fn node(&self) -> &str {
        &self.0.node
    }

    /// The container's name.
    pub(in crate::sandbox) fn container(&self) -> &str {
        &self.0.container
    }

    /// The container as its pod's manifest has it.
    pub(in crate::sandbox) fn spec(&self) -> &Value {
        let lists = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
        let mut all = lists.iter().flat_map(|at| look::items(&self.0.pod, at));
        all.find(|container| text(container, "/name") == self.container()).unwrap_or(&Value::Null)
    }

    /// The pod's address.
    pub(in crate::sandbox) fn ip(&self) -> &str {
        &self.0.ip
    }

    /// What everything random in this run of the container follows from.
    pub(in crate::sandbox) fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The sandbox's clock.
    pub(in crate::sandbox) fn clock(&self) -> &Clock {
        &self.0.hosting.clock
    }

    /// Now, in microseconds since the Unix epoch.
    pub(in crate::sandbox) fn now_us(&self) -> i64 {
        self.0.hosting.clock.now().wall_us
    }

    /// The network as its pod has it.
    pub(in crate::sandbox) fn dialer(&self) -> &Dialer {
        &self.0.dialer
    }

    /// The cluster's containers, for those that act on a node from outside of their own pod.
    pub(in crate::sandbox) fn hosting(&self) -> &Arc<Hosting> {
        &self.0.hosting
    }

    /// The API server, as its service account. `None`: the sandbox is ending.
    pub(in crate::sandbox) fn client(&self) -> Option<kube::Client> {
        let account = text(&self.0.pod, "/spec/serviceAccountName");
        let account = if account.is_empty() { "default" } else { account };
        let user = format!("system:serviceaccount:{}:{account}", self.namespace());
        Some(self.0.hosting.server.upgrade()?.client(&user))
    }

    /// A knob: the container's own, or that of the pod, as the annotations say now; as they said at the start if the pod is gone.
    pub(in crate::sandbox) fn knob(&self, name: &str) -> Option<String> {
        let server = self.0.hosting.server.upgrade();
        let found = server.and_then(|server| server.core.lock().peek("", "pods", self.namespace(), self.name()).cloned());
        let same = found.filter(|pod| text(&pod.value, "/metadata/uid") == self.uid());
        let pod = same.as_ref().map_or(&self.0.pod, |pod| &pod.value);
        model::knob(pod, self.container(), name).map(str::to_owned)
    }

    /// A knob that is a duration.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::sandbox) fn knob_duration(&self, name: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.knob(name) else { return Ok(None) };
        let us = model::parse_duration(name, &text)?;
        Ok(Some(Duration::from_micros(us.unsigned_abs())))
    }

    /// A variable of the container's environment.
    pub(in crate::sandbox) fn var(&self, name: &str) -> Option<String> {
        let (pod, spec) = (&self.0.pod, self.spec());
        let stored = |plural: &str, of: &str, key: &str| -> Option<String> {
            let content = self.stored(plural, of)?.get("data")?.get(key)?.as_str()?.to_owned();
            if plural == "configmaps" { Some(content) } else { model::unbase64(&content) }
        };
        // The last of a name counts, and those named one by one before those of a whole object.
        let one = look::items(spec, "/env").iter().rev().find(|variable| text(variable, "/name") == name);
        if let Some(variable) = one {
            if let Some(value) = variable.get("value").and_then(Value::as_str) {
                return Some(value.to_owned());
            }
            let at = |field: &str, part: &str| text(variable, &format!("/valueFrom/{field}/{part}")).to_owned();
            return match variable.get("valueFrom").and_then(Value::as_object).and_then(|from| from.keys().next()).map(String::as_str) {
                Some("secretKeyRef") => stored("secrets", &at("secretKeyRef", "name"), &at("secretKeyRef", "key")),
                Some("configMapKeyRef") => stored("configmaps", &at("configMapKeyRef", "name"), &at("configMapKeyRef", "key")),
                Some("fieldRef") => match at("fieldRef", "fieldPath").as_str() {
                    "status.podIP" => Some(self.ip().to_owned()),
                    "spec.nodeName" => Some(self.node().to_owned()),
                    path => Some(field(pod, path).to_owned()),
                },
                _ => None,
            };
        }
        look::items(spec, "/envFrom").iter().rev().find_map(|source| {
            let prefix = text(source, "/prefix");
            let key = name.strip_prefix(prefix)?;
            match (text(source, "/secretRef/name"), text(source, "/configMapRef/name")) {
                (secret, _) if !secret.is_empty() => stored("secrets", secret, key),
                (_, map) if !map.is_empty() => stored("configmaps", map, key),
                _ => None,
            }
        })
    }

    /// All variables of the container's environment that the manifest names one by one, `$(NAME)` in them replaced.
    pub(in crate::sandbox) fn vars(&self) -> BTreeMap<String, String> {
        let spec = self.spec();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        for source in look::items(spec, "/envFrom") {
            let kinds = [("secrets", text(source, "/secretRef/name")), ("configmaps", text(source, "/configMapRef/name"))];
            for (plural, name) in kinds.into_iter().filter(|(_, name)| !name.is_empty()) {
                let found = self.stored(plural, name);
                for key in found.as_ref().and_then(|f| f.get("data")).and_then(Value::as_object).into_iter().flat_map(|data| data.keys()) {
                    let name = format!("{}{key}", text(source, "/prefix"));
                    all.extend(self.var(&name).map(|value| (name, value)));
                }
            }
        }
        for name in look::items(spec, "/env").iter().map(|variable| text(variable, "/name")) {
            let Some(mut value) = self.var(name) else { continue };
            // Those defined before it may be named in it.
            for (other, content) in &all {
                value = value.replace(&format!("$({other})"), content);
            }
            all.insert(name.to_owned(), value);
        }
        all
    }

    /// An object of the pod's namespace as it is stored now, whoever may read it: what the kubelet mounts into the pod.
    pub(in crate::sandbox) fn stored(&self, plural: &str, name: &str) -> Option<Value> {
        let server = self.0.hosting.server.upgrade()?;
        let found = server.core.lock().peek("", plural, self.namespace(), name).cloned();
        found.map(|found| found.value.clone())
    }

    /// Takes connections at a port of the pod's address from now on. A second listener of the same port takes it over.
    pub(in crate::sandbox) fn listen(&self, port: u16) -> Listener {
        self.0.hosting.net.listen(self.ip(), port)
    }

    /// Takes connections at a port, a task each, until the program is asked to end (0) or another listener takes the port over (1).
    pub(in crate::sandbox) async fn serve<F>(&self, port: u16, mut with: impl FnMut(Stream) -> F) -> i32
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut listener = self.listen(port);
        let terminated = self.terminated();
        loop {
            tokio::select! {
                biased;
                () = terminated.cancelled() => return 0,
                stream = listener.accept() => match stream {
                    Some(stream) => self.spawn(with(stream)),
                    None => return 1,
                },
            }
        }
    }

    /// Starts a task of the program: held with it, ended with it.
    pub(in crate::sandbox) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.0.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(self.0.gate.hold(task));
    }

    /// Writes a line to the container's log.
    pub(in crate::sandbox) fn say(&self, line: &str) {
        let mut lines = lock(&self.0.lines);
        if lines.len() < LINES {
            lines.push((self.now_us(), line.to_owned()));
        }
    }

    /// Cancelled by SIGTERM.
    pub(in crate::sandbox) fn terminated(&self) -> CancellationToken {
        self.0.terminated.clone()
    }

    /// Nothing can be written to the node's disk.
    pub(in crate::sandbox) fn disk_full(&self) -> bool {
        self.0.hosting.cluster.upgrade().is_some_and(|cluster| cluster.lock().nodes.disk_full(self.node()))
    }

    /// The volume that is mounted at a path. Its contents outlive the container: they are the claim's if it is of a claim, else the
    /// pod's. A path where nothing is mounted is the container's own and forgotten with it.
    pub(in crate::sandbox) fn volume(&self, mount_path: &str) -> Arc<Volume> {
        let pod = &self.0.pod;
        let mount = look::items(self.spec(), "/volumeMounts")
            .iter()
            .find(|mount| text(mount, "/mountPath").trim_end_matches('/') == mount_path.trim_end_matches('/'));
        let Some(name) = mount.map(|mount| text(mount, "/name")) else {
            return self.0.hosting.contents(&format!("container {} {} {mount_path}", self.uid(), self.0.seed));
        };
        self.0.hosting.contents(&self.0.hosting.volume_key(pod, name))
    }

    /// Nothing can be written to the volume that is mounted at a path: it is full, or its node's disk is.
    pub(in crate::sandbox) fn volume_full(&self, mount_path: &str) -> bool {
        self.disk_full() || shell::is_full(self, mount_path)
    }

    /// Notes something that is so, for checkers.
    pub(in crate::sandbox) fn truth(&self, what: &str, fact: Value) {
        self.0.hosting.note(format!("{}/{}", self.namespace(), self.name()), what, fact);
    }

    fn finished(&self, code: i32) {
        *lock(&self.0.ended) = Some(code);
        if let Some(cluster) = self.0.hosting.cluster.upgrade() {
            cluster.poke([(Who::Kubelet, Key(self.namespace().to_owned(), self.name().to_owned()))]);
        }
    }
}

/// A program as a kubelet runs it.
pub(in crate::sandbox) struct Hosted {
    program: Arc<dyn Program>,
    hosting: Arc<Hosting>,
    /// Node and address.
    at: (String, String),
    env: Option<Env>,
}

impl Hosted {
    pub(in crate::sandbox) fn new(program: Arc<dyn Program>, hosting: Arc<Hosting>) -> Self {
        Self { program, hosting, at: (String::new(), String::new()), env: None }
    }

    /// A command in the container, if the program runs. It ends with the container.
    pub(in crate::sandbox) fn command(&self, ask: ExecAsk) -> Option<BoxFuture<'static, ExecEnd>> {
        let env = self.env.clone()?;
        let gate = env.0.gate.clone();
        let run = gate.hold(Arc::clone(&self.program).exec(env, ask));
        Some(Box::pin(async move {
            tokio::select! {
                biased;
                () = gate.dead() => ExecEnd::Exit(137),
                end = run => end,
            }
        }))
    }
}

impl Model for Hosted {
    fn place(&mut self, node: &str, address: &str) {
        self.at = (node.to_owned(), address.to_owned());
    }

    fn start(&mut self, turn: &mut Turn<'_>) -> Result<Next, String> {
        let (uid, now) = (text(turn.pod, "/metadata/uid"), turn.now_us.to_string());
        let seed = look::mix(&[&self.hosting.seed.to_string(), uid, turn.container, &now]);
        let (node, ip) = self.at.clone();
        let place = Place::pod(text(turn.pod, "/metadata/namespace"), &node, &ip);
        let env = Env(Arc::new(Own {
            dialer: self.hosting.net.dialer(place),
            hosting: Arc::clone(&self.hosting),
            pod: turn.pod.clone(),
            container: turn.container.to_owned(),
            node,
            ip,
            seed,
            gate: Gate::new(),
            terminated: CancellationToken::new(),
            tasks: Mutex::default(),
            lines: Mutex::default(),
            ended: Mutex::default(),
        }));
        let (program, own) = (Arc::clone(&self.program), env.clone());
        env.spawn(async move {
            let code = program.run(own.clone()).await;
            own.finished(code);
        });
        self.env = Some(env);
        Ok(Next::Runs(None))
    }

    fn turn(&mut self, _turn: &mut Turn<'_>) -> Next {
        let ended = self.env.as_ref().and_then(|env| *lock(&env.0.ended));
        ended.map_or(Next::Runs(None), Next::Ended)
    }

    fn stop(&mut self, turn: &mut Turn<'_>) -> Next {
        if let Some(env) = &self.env {
            env.0.terminated.cancel();
        }
        self.turn(turn)
    }

    fn probe(&mut self, turn: &mut Turn<'_>, probe: &Probe) -> Result<(), String> {
        // Two knobs that every program has: it may not ask for its own here, with the cluster's state locked.
        match probe {
            Probe::Http { .. } | Probe::Tcp if turn.knob("down") == Some("true") => Err("dial tcp: connect: connection refused".to_owned()),
            Probe::Http { .. } if turn.knob("unready") == Some("true") => Err("HTTP probe failed with statuscode: 503".to_owned()),
            other => self.program.probe(other),
        }
    }

    fn exec(&mut self, _turn: &mut Turn<'_>, command: &[String]) -> Exec {
        Exec::NotRehearsable(format!("not rehearsable: the model runs {command:?} only when it is asked over the API server"))
    }

    fn due(&self) -> bool {
        self.env.as_ref().is_some_and(|env| lock(&env.0.ended).is_some())
    }

    fn drain(&mut self, log: &mut Log) {
        if let Some(env) = &self.env {
            lock(&env.0.lines).drain(..).for_each(|(at, line)| log.add(at, line));
        }
    }

    fn gate(&self) -> Option<&Gate> {
        self.env.as_ref().map(|env| &env.0.gate)
    }

    fn hosted(&self) -> Option<&Hosted> {
        Some(self)
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        if let Some(env) = &self.env {
            env.0.gate.kill();
            lock(&env.0.tasks).abort_all();
        }
    }
}

/// A field of a pod as a `fieldRef` names it: `metadata.name`, `metadata.labels['a.b/c']`.
fn field<'a>(pod: &'a Value, path: &str) -> &'a str {
    match path.split_once("['") {
        Some((map, key)) => {
            let pointer = format!("/{}", map.replace('.', "/"));
            pod.pointer(&pointer).and_then(|map| map.get(key.trim_end_matches("']"))).and_then(Value::as_str).unwrap_or_default()
        }
        None => text(pod, &format!("/{}", path.replace('.', "/"))),
    }
}
