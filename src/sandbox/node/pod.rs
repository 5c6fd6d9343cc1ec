//! A pod on its node: admission, volumes, network, its containers in their order, and its end (`pkg/kubelet/kubelet.go`,
//! `kuberuntime`).

use std::sync::Arc;

use serde_json::Value;

use super::{
    super::{
        control::look::{self, SECOND, draw, items, number},
        core::{State, text},
        model::{Exec, IMAGES, Log, Signal},
        program::Hosted,
        store::Stored,
    },
    Machine,
    container::{Around, Container, End, Phase, Role},
};

/// How long it takes to make a pod's network.
const NETWORK_US: (i64, i64) = (200_000, 600_000);
/// The first and the longest pause after a volume could not be mounted.
const MOUNT_US: (i64, i64) = (500_000, 122 * SECOND);

/// How far its surroundings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Volumes are to be mounted at this time, and after a failure later by so much.
    Volumes { at: i64, wait: i64 },
    /// Its network is ready then.
    Network { at: i64 },
    /// Containers run.
    Up,
}

/// Why it ends though its containers could go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A pod that a kubelet takes care of.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) node: String,
    pub(super) pod: Arc<Stored>,
    pub(super) uid: String,
    stage: Stage,
    pub(super) address: String,
    pub(super) since: i64,
    pub(super) containers: Vec<Container>,
    pub(super) cut: Option<Cut>,
    /// It is being deleted: since when, and by when it has to be over.
    pub(super) stopping: Option<(i64, i64)>,
    /// What happened since the last report.
    pub(super) events: Vec<(&'static str, &'static str, String)>,
    /// The version of the pod that was last compared with what is.
    pub(super) reported: Option<u64>,
    /// Something has changed since the last report.
    pub(super) changed: bool,
    /// What its namespace says of images, as last heard.
    models: Arc<str>,
}

/// No more events than this wait for a node to come back.
const EVENTS: usize = 256;

impl Run {
    pub(super) fn new(node: &str, pod: Arc<Stored>, now: i64) -> Self {
        let uid = text(&pod.value, "/metadata/uid").to_owned();
        let mut run = Self {
            node: node.to_owned(),
            uid,
            stage: Stage::Volumes { at: now, wait: MOUNT_US.0 },
            address: String::new(),
            since: now,
            containers: Vec::new(),
            cut: None,
            stopping: None,
            events: Vec::new(),
            reported: None,
            changed: true,
            models: Arc::from(""),
            pod,
        };
        run.add_containers();
        // It may have been deleted before its kubelet has ever looked at it.
        run.heed(now);
        run
    }

    fn add_containers(&mut self) {
        let pod = Arc::clone(&self.pod);
        for (list, role) in [("initContainers", Role::Init), ("containers", Role::Main), ("ephemeralContainers", Role::Ephemeral)] {
            for spec in items(&pod.value, &format!("/spec/{list}")) {
                let name = text(spec, "/name");
                let role = if role == Role::Init && text(spec, "/restartPolicy") == "Always" { Role::Sidecar } else { role };
                if !self.containers.iter().any(|c| c.name == name) {
                    self.containers.push(Container::new(name, role));
                    self.changed = true;
                }
            }
        }
    }

    /// Learns what the API server says now.
    pub(super) fn see(&mut self, pod: &Arc<Stored>, now: i64) {
        if self.pod.version == pod.version {
            return;
        }
        self.pod = Arc::clone(pod);
        self.add_containers();
        self.heed(now);
    }

    /// It is to end, if the API server says so, and by when.
    fn heed(&mut self, now: i64) {
        if look::deleting(&self.pod.value) {
            let grace = number(&self.pod.value, "/metadata/deletionGracePeriodSeconds").unwrap_or(30).max(0);
            let since = self.stopping.map_or(now, |(since, _)| since);
            let by = since + grace * SECOND;
            let by = self.stopping.map_or(by, |(_, old)| old.min(by)).max(since);
            if self.stopping != Some((since, by)) {
                self.stopping = Some((since, by));
                self.changed = true;
            }
        }
    }

    /// What was reported may have been overwritten meanwhile.
    pub(super) fn forget_report(&mut self) {
        self.reported = None;
    }

    /// Whether a kubelet under pressure neither evicts nor refuses it (`IsCriticalPod`).
    fn critical(&self) -> bool {
        number(&self.pod.value, "/spec/priority").unwrap_or(0) >= 2_000_000_000
    }

    /// Whether disk pressure may end it: neither gone already nor critical.
    pub(super) fn evictable(&self) -> bool {
        self.cut.is_none() && self.stopping.is_none() && !self.critical() && self.over().is_none()
    }

    /// Ends it for good.
    pub(super) fn evict(&mut self, message: &str) {
        self.cut = Some(Cut { reason: "Evicted", message: message.to_owned() });
        self.changed = true;
    }

    /// What a container's manifest says.
    fn spec<'a>(pod: &'a Value, name: &str) -> &'a Value {
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let mut all = lists.iter().flat_map(|list| pod["spec"].get(*list).and_then(Value::as_array).into_iter().flatten());
        all.find(|c| text(c, "/name") == name).unwrap_or(&Value::Null)
    }

    /// Whether a container that ended is started again.
    fn restarts(pod: &Value, role: Role, end: &End) -> bool {
        match role {
            Role::Ephemeral => false,
            Role::Sidecar => true,
            // An init container that succeeded has done its work.
            Role::Init => end.code != 0 && text(pod, "/spec/restartPolicy") != "Never",
            Role::Main => match text(pod, "/spec/restartPolicy") {
                "Never" => false,
                "OnFailure" => end.code != 0,
                _ => true,
            },
        }
    }

    /// Its containers are through, and how: true when all went well.
    pub(super) fn over(&self) -> Option<bool> {
        let pod = &self.pod.value;
        let failed_init = self.containers.iter().filter(|c| c.role == Role::Init).filter_map(Container::ended);
        if failed_init.into_iter().any(|end| end.code != 0 && !Self::restarts(pod, Role::Init, end)) {
            return Some(false);
        }
        let mut good = true;
        for container in self.containers.iter().filter(|c| c.role == Role::Main) {
            match container.ended() {
                Some(end) if !Self::restarts(pod, Role::Main, end) => good &= end.code == 0,
                _ => return None,
            }
        }
        Some(good)
    }

    /// No process of it runs any more.
    pub(super) fn still(&self) -> bool {
        !self.containers.iter().any(Container::running)
    }

    /// Gets on as far as it can without waiting. When it wants to go on.
    pub(super) fn tick(&mut self, seed: u64, api: Option<&State>, machine: &mut Machine, now: i64) -> Option<i64> {
        if let Some(state) = api {
            let namespace = state.peek("", "namespaces", "", text(&self.pod.value, "/metadata/namespace"));
            let said = namespace.map_or("", |namespace| look::annotation(&namespace.value, IMAGES));
            if *self.models != *said {
                self.models = Arc::from(said);
            }
        }
        if let Some(secs) = number(&self.pod.value, "/spec/activeDeadlineSeconds")
            && self.cut.is_none()
            && self.since + secs * SECOND <= now
        {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.cut = Some(Cut { reason: "DeadlineExceeded", message });
            self.changed = true;
        }
        if self.stopping.is_some() || self.cut.is_some() || self.over().is_some() {
            return self.wind_up(seed, machine, now);
        }
        let next = match self.stage {
            Stage::Volumes { at, .. } | Stage::Network { at } if at > now => Some(at),
            Stage::Volumes { wait, .. } => {
                if machine.pressed(now) && !self.critical() {
                    // Admission: a node under pressure takes nobody else in.
                    self.evict("The node had condition: [DiskPressure]. ");
                    return Some(now);
                }
                match api.map(|state| unmounted(state, &self.pod.value)) {
                    Some(None) => {
                        let at = now + draw(seed, &["network", &self.uid], NETWORK_US.0, NETWORK_US.1);
                        self.stage = Stage::Network { at };
                        Some(at)
                    }
                    Some(Some(why)) => {
                        self.event("Warning", "FailedMount", why);
                        self.stage = Stage::Volumes { at: now + wait, wait: (wait * 2).min(MOUNT_US.1) };
                        Some(now + wait)
                    }
                    None => {
                        self.stage = Stage::Volumes { at: now + wait, wait };
                        Some(now + wait)
                    }
                }
            }
            Stage::Network { .. } => {
                self.address = machine.address();
                self.stage = Stage::Up;
                self.changed = true;
                self.containers_on(seed, api, machine, now)
            }
            Stage::Up => self.containers_on(seed, api, machine, now),
        };
        let deadline = number(&self.pod.value, "/spec/activeDeadlineSeconds").map(|secs| self.since + secs * SECOND);
        [next, deadline].into_iter().flatten().min()
    }

    /// Starts containers in their order, and lets those that run have their turn.
    fn containers_on(&mut self, seed: u64, api: Option<&State>, machine: &mut Machine, now: i64) -> Option<i64> {
        let pod = Arc::clone(&self.pod);
        let models = Arc::clone(&self.models);
        let grace = grace(&pod.value);
        self.end_with_targets(now);
        let mut next: Option<i64> = None;
        let mut blocked = false;
        for n in 0..self.containers.len() {
            let Self { containers, uid, events, node, address, .. } = self;
            let container = &mut containers[n];
            if blocked && container.role != Role::Ephemeral {
                continue;
            }
            let spec = Self::spec(&pod.value, &container.name);
            let before = signature(container);
            let mut around = Around {
                seed,
                pod: &pod.value,
                spec,
                uid,
                grace,
                disk_full: machine.disk_full,
                images: &mut machine.images,
                pids: &mut machine.pids,
                unset: if container.running() { None } else { api.and_then(|state| unset(state, &pod.value, spec)) },
                models: &models,
                hosting: machine.hosting.as_ref(),
                node,
                address,
                now,
                events,
            };
            let role = container.role;
            let wait = container.advance(&mut around, |end| Self::restarts(&pod.value, role, end));
            next = [next, wait].into_iter().flatten().min();
            self.changed |= before != signature(&self.containers[n]);
            let container = &self.containers[n];
            blocked |= match container.role {
                Role::Init => container.ended().is_none_or(|end| end.code != 0),
                Role::Sidecar => !container.started,
                _ => false,
            };
        }
        self.end_with_targets(now);
        self.events.truncate(EVENTS);
        if self.over().is_some() { self.wind_up(seed, machine, now) } else { next }
    }

    /// Whoever has joined the process namespace of a container is killed with its first process.
    fn end_with_targets(&mut self, now: i64) {
        let pod = Arc::clone(&self.pod);
        if look::flag(&pod.value, "/spec/shareProcessNamespace") {
            return;
        }
        let started = |container: &Container| if let Phase::Running(process) = &container.phase { Some(process.started) } else { None };
        let joined = self.containers.iter().filter(|c| c.role == Role::Ephemeral).filter_map(|c| Some((c, started(c)?)));
        let ends = joined.filter(|(container, since)| {
            let target = text(Self::spec(&pod.value, &container.name), "/targetContainerName");
            let runs = self.containers.iter().find(|c| c.name == target).and_then(started);
            !target.is_empty() && runs.is_none_or(|at| at > *since)
        });
        let ends: Vec<String> = ends.map(|(container, _)| container.name.clone()).collect();
        for name in ends {
            self.signal(&name, Signal::Kill, now);
        }
    }

    /// Ends what still runs: first the containers, then the sidecars in reverse order.
    fn wind_up(&mut self, seed: u64, machine: &mut Machine, now: i64) -> Option<i64> {
        let pod = Arc::clone(&self.pod);
        let models = Arc::clone(&self.models);
        let by = match (self.stopping, &self.cut) {
            (Some((_, by)), _) => by,
            // An eviction for want of room does not wait.
            (None, Some(_)) => now,
            (None, None) => now + grace(&pod.value),
        };
        let mut next: Option<i64> = None;
        let mut order: Vec<usize> = (0..self.containers.len()).filter(|n| self.containers[*n].role != Role::Sidecar).collect();
        order.extend((0..self.containers.len()).rev().filter(|n| self.containers[*n].role == Role::Sidecar));
        for n in order {
            let others = self.containers.iter().any(|c| c.role != Role::Sidecar && c.running());
            let Self { containers, uid, events, node, address, .. } = self;
            let container = &mut containers[n];
            if !container.running() {
                continue;
            }
            let before = signature(container);
            let spec = Self::spec(&pod.value, &container.name);
            let mut around = Around {
                seed,
                pod: &pod.value,
                spec,
                uid,
                grace: by - now,
                disk_full: machine.disk_full,
                images: &mut machine.images,
                pids: &mut machine.pids,
                unset: None,
                models: &models,
                hosting: machine.hosting.as_ref(),
                node,
                address,
                now,
                events,
            };
            let asked = matches!(&container.phase, Phase::Running(process) if process.kill_at.is_some());
            if !asked && (container.role != Role::Sidecar || !others) {
                around.events.push(("Normal", "Killing", format!("Stopping container {}", container.name)));
            }
            if container.role != Role::Sidecar || !others || by <= now {
                container.stop(&mut around, by - now);
            }
            let wait = container.advance(&mut around, |_| false);
            next = [next, wait].into_iter().flatten().min();
            self.changed |= before != signature(&self.containers[n]);
            if !self.containers[n].running() {
                // What came before it may be over now: look again at once.
                next = Some(now);
            }
        }
        self.events.truncate(EVENTS);
        next
    }

    pub(super) fn event(&mut self, kind: &'static str, reason: &'static str, message: String) {
        if self.events.len() < EVENTS {
            self.events.push((kind, reason, message));
        }
    }

    /// A signal to a container. False: it does not run.
    pub(super) fn signal(&mut self, container: &str, signal: Signal, now: i64) -> bool {
        let pod = Arc::clone(&self.pod);
        let found = self.containers.iter_mut().find(|c| c.name == container);
        let hit = found.is_some_and(|container| container.signal(&pod.value, false, signal, now));
        self.changed |= hit;
        hit
    }

    /// Its node freezes or goes on.
    pub(super) fn freeze_node(&mut self, frozen: bool) {
        self.containers.iter_mut().for_each(|container| container.freeze_node(frozen));
    }

    /// The program of a container, if it is one and runs.
    pub(super) fn hosted(&self, container: &str) -> Option<&Hosted> {
        self.containers.iter().find(|c| c.name == container)?.hosted()
    }

    /// A command in a container. None: it does not run.
    pub(super) fn exec(&mut self, container: &str, command: &[String], disk_full: bool, now: i64) -> Option<Exec> {
        let pod = Arc::clone(&self.pod);
        self.containers.iter_mut().find(|c| c.name == container)?.exec(&pod.value, disk_full, command, now)
    }

    /// A container's log, of this run of it or of the one before.
    ///
    /// # Errors
    /// There is none, in the kubelet's words.
    pub(super) fn log(&mut self, container: &str, previous: bool) -> Result<&Log, String> {
        self.containers.iter_mut().for_each(Container::fetch_log);
        let pod = text(&self.pod.value, "/metadata/name");
        let found = self.containers.iter().find(|c| c.name == container);
        let Some(found) = found else { return Err(format!("container {container:?} in pod {pod:?} is not available")) };
        if previous {
            let namespace = text(&self.pod.value, "/metadata/namespace");
            let none = format!("previous terminated container {container:?} in pod {pod:?} not found ({namespace})");
            return if found.restarts > 0 { Ok(&found.previous) } else { Err(none) };
        }
        match &found.phase {
            Phase::Waiting { reason, .. } if found.last.is_none() => {
                Err(format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"))
            }
            _ => Ok(&found.log),
        }
    }
}

/// What of a container shows in a pod's status.
fn signature(container: &Container) -> (u8, u32, bool, bool, String) {
    let (phase, detail) = match &container.phase {
        Phase::Waiting { reason, message, .. } => (0, format!("{reason}{message}")),
        Phase::Running(process) => (1, process.id.clone()),
        Phase::Ended(end) => (2, end.id.clone()),
    };
    (phase, container.restarts, container.ready, container.started, detail)
}

fn grace(pod: &Value) -> i64 {
    number(pod, "/spec/terminationGracePeriodSeconds").unwrap_or(30).max(0) * SECOND
}

/// Why a volume cannot be mounted: what it shows is not there.
fn unmounted(state: &State, pod: &Value) -> Option<String> {
    let namespace = text(pod, "/metadata/namespace");
    let missing = |kind: &str, name: &str, optional: bool| {
        let plural = if kind == "secret" { "secrets" } else { "configmaps" };
        (!optional && state.peek("", plural, namespace, name).is_none()).then(|| format!("{kind} {name:?} not found"))
    };
    for volume in items(pod, "/spec/volumes") {
        let name = text(volume, "/name");
        let mut all = Vec::new();
        if let Some(secret) = volume.get("secret").filter(|s| s.is_object()) {
            all.push(("secret", text(secret, "/secretName"), look::flag(secret, "/optional")));
        }
        if let Some(map) = volume.get("configMap").filter(|s| s.is_object()) {
            all.push(("configmap", text(map, "/name"), look::flag(map, "/optional")));
        }
        for source in items(volume, "/projected/sources") {
            for (field, kind) in [("secret", "secret"), ("configMap", "configmap")] {
                if let Some(part) = source.get(field).filter(|s| s.is_object()) {
                    all.push((kind, text(part, "/name"), look::flag(part, "/optional")));
                }
            }
        }
        if let Some(why) = all.into_iter().find_map(|(kind, of, optional)| missing(kind, of, optional)) {
            return Some(format!("MountVolume.SetUp failed for volume {name:?} : {why}"));
        }
    }
    None
}

/// Why a container cannot be configured: a variable's source is not there.
fn unset(state: &State, pod: &Value, container: &Value) -> Option<String> {
    let namespace = text(pod, "/metadata/namespace");
    let kinds = [
        ("secretKeyRef", "secretRef", "secret", "Secret", "secrets"),
        ("configMapKeyRef", "configMapRef", "configmap", "ConfigMap", "configmaps"),
    ];
    for (key_field, whole_field, word, title, plural) in kinds {
        for variable in items(container, "/env") {
            let Some(reference) = variable.pointer(&format!("/valueFrom/{key_field}")).filter(|r| r.is_object()) else { continue };
            let (name, key) = (text(reference, "/name"), text(reference, "/key"));
            if look::flag(reference, "/optional") {
                continue;
            }
            let Some(found) = state.peek("", plural, namespace, name) else { return Some(format!("{word} {name:?} not found")) };
            if found.value.get("data").and_then(|data| data.get(key)).is_none() {
                return Some(format!("couldn't find key {key} in {title} {namespace}/{name}"));
            }
        }
        for source in items(container, "/envFrom") {
            let Some(reference) = source.get(whole_field).filter(|r| r.is_object()) else { continue };
            let name = text(reference, "/name");
            if !look::flag(reference, "/optional") && state.peek("", plural, namespace, name).is_none() {
                return Some(format!("{word} {name:?} not found"));
            }
        }
    }
    None
}
