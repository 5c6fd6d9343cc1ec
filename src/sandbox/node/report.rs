//! What a kubelet says about a pod: its status, and that it is over (`pkg/kubelet/status`, `kubelet_pods.go`).

use serde_json::{Value, json};

use super::{
    super::{
        control::{
            api::At,
            look::{self, items, number},
        },
        core::{State, as_map, strings, text},
        refusal::Answer,
    },
    Machine, by,
    container::{Container, End, Phase, Role},
    pod::Run,
    stamp,
};

impl Run {
    /// Writes the status if it differs, and takes the pod away when it has been deleted and is over. True: it is no longer
    /// this kubelet's.
    ///
    /// # Errors
    /// Of the writes.
    pub(super) fn report(&mut self, state: &mut State, machine: &Machine) -> Answer<bool> {
        let user = format!("system:node:{}", self.node);
        let (namespace, name) =
            (text(&self.pod.value, "/metadata/namespace").to_owned(), text(&self.pod.value, "/metadata/name").to_owned());
        for (kind, reason, message) in std::mem::take(&mut self.events) {
            state.tell(by(&user), ("v1", "Pod", &self.pod.value), kind, reason, &message);
        }
        let done = self.still() && (self.stopping.is_some() || self.cut.is_some() || self.over().is_some());
        let Some(stored) = state.peek("", "pods", &namespace, &name).cloned() else { return Ok(true) };
        if self.changed || self.reported != Some(stored.version) {
            let status = self.status(&stored.value, machine, done, &state.now());
            state.change_status(by(&user), At::pod(&namespace, &name), &stored, status)?;
            self.changed = false;
        }
        let Some(stored) = state.peek("", "pods", &namespace, &name).cloned() else { return Ok(true) };
        self.reported = Some(stored.version);
        self.pod = std::sync::Arc::clone(&stored);
        if !(done && self.stopping.is_some()) {
            return Ok(false);
        }
        // One that a finalizer holds is said to be over once; it goes when the finalizer does.
        let held = !strings(&stored.value, "/metadata/finalizers").is_empty();
        if held && number(&stored.value, "/metadata/deletionGracePeriodSeconds") == Some(0) {
            return Ok(false);
        }
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}});
        state.remove(by(&user), At::pod(&namespace, &name), &options)?;
        Ok(state.peek("", "pods", &namespace, &name).is_none())
    }

    /// The pod's status. Of what others say of it, everything stays.
    fn status(&self, pod: &Value, machine: &Machine, done: bool, now: &str) -> Value {
        let mut status = pod.get("status").cloned().unwrap_or_else(|| json!({}));
        let phase = self.phase(done);
        status["phase"] = Value::from(phase);
        if let Some(generation) = number(pod, "/metadata/generation") {
            status["observedGeneration"] = Value::from(generation);
        }
        status["hostIP"] = Value::from(machine.host());
        status["hostIPs"] = json!([{"ip": machine.host()}]);
        status["startTime"] = stamp(self.since);
        let address = if look::flag(pod, "/spec/hostNetwork") && !self.address.is_empty() { machine.host() } else { self.address.clone() };
        if !address.is_empty() {
            status["podIP"] = Value::from(address.as_str());
            status["podIPs"] = json!([{"ip": address}]);
        }
        if let Some(cut) = &self.cut {
            status["reason"] = Value::from(cut.reason);
            status["message"] = Value::from(cut.message.as_str());
        }
        let roles: [(&str, &[Role]); 3] = [
            ("initContainerStatuses", &[Role::Init, Role::Sidecar]),
            ("containerStatuses", &[Role::Main]),
            ("ephemeralContainerStatuses", &[Role::Ephemeral]),
        ];
        for (field, roles) in roles {
            let own = self.containers.iter().filter(|c| roles.contains(&c.role));
            let all: Vec<Value> = own.map(|c| self.container(c, pod, done)).collect();
            if !all.is_empty() {
                status[field] = Value::Array(all);
            }
        }
        self.conditions(pod, &mut status, phase, now);
        status
    }

    /// `getPhase`.
    fn phase(&self, done: bool) -> &'static str {
        if self.cut.is_some() && self.still() {
            return "Failed";
        }
        if let Some(good) = self.over().filter(|_| self.still()) {
            return if good { "Succeeded" } else { "Failed" };
        }
        if done {
            let ends = self.containers.iter().filter(|c| c.role == Role::Main);
            let good = ends.clone().all(|c| c.ended().is_some_and(|end| end.code == 0));
            return if good { "Succeeded" } else { "Failed" };
        }
        let init = self.containers.iter().any(|c| match c.role {
            Role::Init => c.ended().is_none_or(|end| end.code != 0),
            Role::Sidecar => !c.started && c.last.is_none() && c.ended().is_none(),
            _ => false,
        });
        let never_ran = |c: &&Container| c.role == Role::Main && matches!(c.phase, Phase::Waiting { .. }) && c.last.is_none();
        if init || self.containers.iter().any(|c| never_ran(&c)) { "Pending" } else { "Running" }
    }

    fn container(&self, container: &Container, pod: &Value, done: bool) -> Value {
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let spec = lists.iter().flat_map(|list| items(&pod["spec"], &format!("/{list}"))).find(|c| text(c, "/name") == container.name);
        let image = spec.map_or("", |spec| text(spec, "/image"));
        let ended = |end: &End| {
            json!({"terminated": {
                "exitCode": end.code, "reason": end.reason, "startedAt": stamp(end.started), "finishedAt": stamp(end.ended),
                "containerID": end.id,
            }})
        };
        let (state, id) = match &container.phase {
            Phase::Waiting { reason, message, .. } => {
                // A pull is part of creating it.
                let creating = if matches!(container.role, Role::Init | Role::Sidecar) { "PodInitializing" } else { "ContainerCreating" };
                let waits = container.role == Role::Main && self.waits_for_init();
                let reason = if *reason == "Pulling" {
                    creating
                } else if waits {
                    "PodInitializing"
                } else {
                    *reason
                };
                let mut waiting = json!({"reason": reason});
                if !message.is_empty() {
                    waiting["message"] = Value::from(message.as_str());
                }
                if done && container.last.is_none() {
                    // It never ran, and never will.
                    let reason = "ContainerStatusUnknown";
                    let message = "The container could not be located when the pod was terminated";
                    let dead = json!({"terminated": {"exitCode": 137, "reason": reason, "message": message, "startedAt": null, "finishedAt": null}});
                    (dead, String::new())
                } else {
                    (json!({"waiting": waiting}), container.last.as_ref().map(|end| end.id.clone()).unwrap_or_default())
                }
            }
            Phase::Running(process) => (json!({"running": {"startedAt": stamp(process.started)}}), process.id.clone()),
            Phase::Ended(end) => (ended(end), end.id.clone()),
        };
        let mut status = json!({
            "name": container.name, "state": state, "lastState": {}, "ready": self.ready_flag(container), "restartCount": container.restarts,
            "image": image, "imageID": "", "started": container.started && container.running(),
        });
        if let Some(last) = &container.last {
            status["lastState"] = ended(last);
        }
        if !id.is_empty() {
            status["containerID"] = Value::from(id);
            status["imageID"] = Value::from(format!("sandbox@{image}"));
        }
        status
    }

    fn waits_for_init(&self) -> bool {
        self.containers.iter().any(|c| match c.role {
            Role::Init => c.ended().is_none_or(|end| end.code != 0),
            Role::Sidecar => !c.started,
            _ => false,
        })
    }

    /// An init container is ready when it has succeeded.
    fn ready_flag(&self, container: &Container) -> bool {
        match container.role {
            Role::Init => container.ended().is_some_and(|end| end.code == 0),
            Role::Ephemeral => false,
            _ => container.ready && container.running(),
        }
    }

    fn conditions(&self, pod: &Value, status: &mut Value, phase: &str, now: &str) {
        let generation = pod.pointer("/metadata/generation").cloned();
        let mut set = |kind: &str, good: bool, reason: &str, message: &str| {
            look::set_condition(status, kind, if good { "True" } else { "False" }, reason, message, now);
            for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
                if text(condition, "/type") == kind {
                    let map = as_map(condition);
                    if let Some(generation) = &generation {
                        map.insert("observedGeneration".to_owned(), generation.clone());
                    }
                }
            }
        };
        let initial: Vec<&str> = self
            .containers
            .iter()
            .filter(|c| match c.role {
                Role::Init => c.ended().is_none_or(|end| end.code != 0),
                Role::Sidecar => !c.started && c.last.is_none(),
                _ => false,
            })
            .map(|c| c.name.as_str())
            .collect();
        let over = matches!(phase, "Succeeded" | "Failed");
        set("PodReadyToStartContainers", !self.address.is_empty() && !over, "", "");
        match (phase, initial.is_empty()) {
            ("Succeeded", _) => set("Initialized", true, "PodCompleted", ""),
            (_, true) => set("Initialized", true, "", ""),
            _ => set(
                "Initialized",
                false,
                "ContainersNotInitialized",
                &format!("containers with incomplete status: [{}]", initial.join(" ")),
            ),
        }
        let counts = |c: &&Container| matches!(c.role, Role::Main | Role::Sidecar);
        let unready: Vec<&str> = self.containers.iter().filter(counts).filter(|c| !self.ready_flag(c)).map(|c| c.name.as_str()).collect();
        let gates: Vec<&str> =
            items(pod, "/spec/readinessGates").iter().map(|g| text(g, "/conditionType")).filter(|g| !look::holds(pod, g)).collect();
        let (reason, message) = match phase {
            "Succeeded" => ("PodCompleted", String::new()),
            "Failed" => ("PodFailed", String::new()),
            _ => ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
        };
        let ready = unready.is_empty() && !over;
        if ready {
            set("ContainersReady", true, "", "");
        } else {
            set("ContainersReady", false, reason, &message);
        }
        if ready && !gates.is_empty() {
            let message = format!("corresponding condition of pod readiness gate {:?} does not exist.", gates.join(" "));
            set("Ready", false, "ReadinessGatesNotReady", &message);
        } else if ready {
            set("Ready", true, "", "");
        } else {
            set("Ready", false, reason, &message);
        }
    }
}
