//! A thing and a fault on it, for every kind that is made through the API server.

#![allow(dead_code, reason = "each suite uses its own part")]

use std::{fmt::Debug, sync::Arc};

use firedrill::{
    fault::{self, FaultCx, Undo},
    journal::RevertResult,
    labels,
    plan::{Plan, ResolvedObject},
    scenario::types::{FaultSpec, OwnPlace},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::NetworkPolicy,
    },
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fault_kit::{self, LIMIT, World, bite, from, resolved, unique, until};

/// A kind of fault on a thing made for one case.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    PodKill,
    ScaleDeployment,
    ScaleStatefulSet,
    Suspend,
    Empty,
    KillRunning,
    Cordon,
    Drain,
    Detach,
    ImageDeployment,
    ImageStatefulSet,
    Hide,
    LoseOfDeployment,
    LoseOfStatefulSet,
    Manifest,
}

/// All of them.
pub const KINDS: [(Kind, &str); 15] = [
    (Kind::PodKill, "podKill"),
    (Kind::ScaleDeployment, "scale Deployment"),
    (Kind::ScaleStatefulSet, "scale StatefulSet"),
    (Kind::Suspend, "cutBackupJob suspend"),
    (Kind::Empty, "cutBackupJob empty"),
    (Kind::KillRunning, "cutBackupJob killRunning"),
    (Kind::Cordon, "cordonNode"),
    (Kind::Drain, "drainNode"),
    (Kind::Detach, "detachService"),
    (Kind::ImageDeployment, "badImage Deployment"),
    (Kind::ImageStatefulSet, "badImage StatefulSet"),
    (Kind::Hide, "hideSecret"),
    (Kind::LoseOfDeployment, "loseVolume Deployment"),
    (Kind::LoseOfStatefulSet, "loseVolume StatefulSet"),
    (Kind::Manifest, "manifest"),
];

impl Kind {
    /// Whether there is a value that others can change, and that a revert sets back.
    pub const fn has_value(self) -> bool {
        !matches!(self, Self::PodKill | Self::KillRunning)
    }

    /// Whether it loses a volume.
    pub const fn loses(self) -> bool {
        matches!(self, Self::LoseOfDeployment | Self::LoseOfStatefulSet)
    }

    /// Whether what it has taken away is gone for good only with its namespace.
    pub const fn goes_with_its_namespace(self) -> bool {
        matches!(self, Self::Hide | Self::LoseOfDeployment | Self::LoseOfStatefulSet)
    }

    /// The kind of the thing that is changed, and whether it has a namespace.
    pub fn resource(self) -> (ApiResource, bool) {
        match self {
            Self::PodKill | Self::ScaleDeployment | Self::ImageDeployment => (ApiResource::erase::<Deployment>(&()), true),
            Self::ScaleStatefulSet | Self::ImageStatefulSet => (ApiResource::erase::<StatefulSet>(&()), true),
            Self::Suspend | Self::Empty | Self::KillRunning => (ApiResource::erase::<CronJob>(&()), true),
            Self::Cordon | Self::Drain => (ApiResource::erase::<Node>(&()), false),
            Self::Detach => (ApiResource::erase::<Service>(&()), true),
            Self::Hide => (ApiResource::erase::<Secret>(&()), true),
            Self::LoseOfDeployment | Self::LoseOfStatefulSet => (ApiResource::erase::<PersistentVolumeClaim>(&()), true),
            Self::Manifest => (ApiResource::erase::<NetworkPolicy>(&()), true),
        }
    }
}

/// A thing and a fault on it.
pub struct Case<'a> {
    pub w: &'a World,
    pub cx: FaultCx,
    pub kind: Kind,
    pub spec: FaultSpec,
    pub objects: Vec<ResolvedObject>,
    pub name: String,
    /// The volume that is lost.
    pub volume: String,
}

fn template(w: &World, labels: &Value) -> Value {
    // What the annotations say is for the sandbox.
    let annotations = json!({"sandbox.firedrill.dev/model": "idle", "sandbox.firedrill.dev/model.dump": "batch", "sandbox.firedrill.dev/runs-for.dump": "1s"});
    let main = if w.kubelets {
        json!({"name": "main", "image": TOOLBOX, "command": ["sleep"], "args": ["9009"]})
    } else {
        json!({"name": "main", "image": "none", "command": ["run"], "args": ["it"]})
    };
    json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [main]}})
}

impl<'a> Case<'a> {
    pub async fn new(w: &'a World, kind: Kind) -> Self {
        let name = unique("thing");
        let labels = json!({"app": name});
        let workload = json!({"metadata": {"name": name}, "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(w, &labels)}});
        let mut set = workload.clone();
        set["spec"]["serviceName"] = json!(name);
        let mut pod = template(w, &labels);
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["initContainers"] = json!([
            {"name": "dump", "image": "none", "command": ["dump"], "args": ["it"]},
            {"name": "sidecar", "image": "none", "restartPolicy": "Always", "command": ["serve"]},
        ]);
        if w.kubelets {
            pod["spec"]["initContainers"] = json!([
                {"name": "dump", "image": TOOLBOX, "command": ["echo"], "args": ["it"]},
                {"name": "sidecar", "image": TOOLBOX, "restartPolicy": "Always", "command": ["sleep"], "args": ["9010"]},
            ]);
        }
        let cron = json!({"metadata": {"name": name}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pod}}}});
        let (mut thing, mut volume) = (name.clone(), String::new());
        let (spec, objects) = match kind {
            Kind::PodKill => {
                w.create::<Deployment>(workload).await;
                let pods = ready_pods(w, &name, 3).await;
                (json!({"podKill": {"target": "t"}}), pods.iter().take(2).map(|p| resolved("Pod", p)).collect())
            }
            Kind::ScaleDeployment | Kind::ImageDeployment => {
                let made = w.create::<Deployment>(workload).await;
                ready_pods(w, &name, 3).await;
                let bad = json!({"badImage": {"target": "t"}});
                let spec = if kind == Kind::ImageDeployment { bad } else { json!({"scale": {"target": "t", "replicas": 0}}) };
                (spec, vec![resolved("Deployment", &made)])
            }
            Kind::ScaleStatefulSet => {
                set["spec"]["podManagementPolicy"] = json!("Parallel");
                let made = w.create::<StatefulSet>(set).await;
                ready_pods(w, &name, 3).await;
                (json!({"scale": {"target": "t", "replicas": 1}}), vec![resolved("StatefulSet", &made)])
            }
            Kind::ImageStatefulSet => {
                // One after the other: a pod that does not start holds up all the others.
                let made = w.create::<StatefulSet>(set).await;
                ready_pods(w, &name, 3).await;
                (json!({"badImage": {"target": "t"}}), vec![resolved("StatefulSet", &made)])
            }
            Kind::Suspend | Kind::Empty | Kind::KillRunning => {
                let made = w.create::<CronJob>(cron).await;
                let how = match kind {
                    Kind::Suspend => "suspend",
                    Kind::Empty => "empty",
                    _ => "killRunning",
                };
                if kind == Kind::KillRunning {
                    run_job(w, &made).await;
                }
                (json!({"cutBackupJob": {"target": "t", "how": how}}), vec![resolved("CronJob", &made)])
            }
            Kind::Cordon => {
                thing = node(w, &name).await;
                let made: Node = w.cluster.get_cluster_opt(&thing).await.unwrap().unwrap();
                (json!({"cordonNode": {"target": "t"}}), vec![resolved("Node", &made)])
            }
            Kind::Drain => {
                let mut workload = workload;
                if w.kubelets {
                    // Where none of the cluster's own pods would have to go.
                    workload["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node(w, &name).await});
                }
                w.create::<Deployment>(workload).await;
                let pods = ready_pods(w, &name, 3).await;
                thing = pods[0].spec.as_ref().unwrap().node_name.clone().unwrap();
                let made: Node = w.cluster.get_cluster_opt(&thing).await.unwrap().unwrap();
                (json!({"drainNode": {"target": "t"}}), vec![resolved("Node", &made)])
            }
            Kind::Detach => {
                let mut workload = workload;
                if w.sandbox.is_none() && !w.kubelets {
                    // Nobody places the pods, and only what is on a node becomes an endpoint; nobody ends them there, either.
                    workload["spec"]["template"]["spec"]["nodeName"] = json!(node(w, &name).await);
                    workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(0);
                }
                w.create::<Deployment>(workload).await;
                ready_pods(w, &name, 3).await;
                let made =
                    w.create::<Service>(json!({"metadata": {"name": name}, "spec": {"selector": labels, "ports": [{"port": 80}]}})).await;
                until("the Service has its endpoints", || async { endpoints(w, &name).await == 3 }).await;
                (json!({"detachService": {"target": "t"}}), vec![resolved("Service", &made)])
            }
            Kind::Hide => {
                let owner = w.create::<ConfigMap>(json!({"metadata": {"name": name}})).await;
                let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner.uid()});
                let metadata = json!({"name": name, "labels": {"a": "b"}, "annotations": {"c": "d"}, "ownerReferences": [owner]});
                let secret = json!({"metadata": metadata, "type": "kubernetes.io/basic-auth", "immutable": true,
                    "stringData": {"username": "jane", "password": PASSWORD}});
                let made = w.create::<Secret>(secret).await;
                (json!({"hideSecret": {"target": "t"}}), vec![resolved("Secret", &made)])
            }
            Kind::LoseOfDeployment | Kind::LoseOfStatefulSet => {
                let class = if w.sandbox.is_some() { "standard" } else { "fixed" };
                let spec =
                    json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "16Mi"}}});
                let mounts = json!([{"name": "data", "mountPath": "/data"}]);
                if kind == Kind::LoseOfDeployment {
                    let metadata = json!({"name": name, "labels": {"a": "b"}, "annotations": {"c": "d"}});
                    w.create::<PersistentVolumeClaim>(json!({"metadata": metadata, "spec": spec})).await;
                    let mut workload = workload;
                    workload["spec"]["replicas"] = json!(1);
                    let pod = &mut workload["spec"]["template"]["spec"];
                    pod["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": name}}]);
                    pod["containers"][0]["volumeMounts"] = mounts;
                    w.create::<Deployment>(workload).await;
                    ready_pods(w, &name, 1).await;
                } else {
                    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": spec}]);
                    set["spec"]["replicas"] = json!(2);
                    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mounts;
                    w.create::<StatefulSet>(set).await;
                    ready_pods(w, &name, 2).await;
                    thing = format!("data-{name}-0");
                }
                let made = bound_claim(w, &thing).await;
                volume = made.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap();
                (json!({"loseVolume": {"target": "t"}}), vec![resolved("PersistentVolumeClaim", &made)])
            }
            Kind::Manifest => {
                let effective = "object.spec.policyTypes.exists(t, t == 'Ingress')";
                (json!({"manifest": {"file": "x.yaml", "effective": effective}}), Vec::new())
            }
        };
        let mut cx = w.cx(&unique("drill"), &[("t", &[])], OwnPlace::default(), LIMIT);
        if kind == Kind::Manifest {
            let step = json!({"path": "1", "title": "break", "spec": {"inject": spec}, "fault": 0, "undo": null, "touches": [],
                "runbookText": null, "children": [], "manifest": {
                    "group": "networking.k8s.io", "plural": "networkpolicies", "apiVersion": "networking.k8s.io/v1",
                    "kind": "NetworkPolicy", "namespace": w.ns, "name": name, "object": policy(&name)}});
            cx.plan = Arc::new(Plan { steps: vec![from(step)], ..(*cx.plan).clone() });
        }
        Self { w, cx, kind, spec: fault_kit::spec(spec), objects, name: thing, volume }
    }

    /// The same as another runner of the same drill has it, on another machine.
    pub fn of(&self, elsewhere: &World) -> FaultCx {
        elsewhere.cx(&self.cx.drill, &[], OwnPlace::default(), LIMIT)
    }

    pub async fn bite(&self) -> Result<Undo, String> {
        let undo = bite(&self.cx, &self.spec, &self.objects).await?;
        if self.kind.loses() {
            // Pods run on what stands in by then, which has data of its own: a revert has to take that away again.
            let set = self.name.strip_prefix("data-").and_then(|name| name.strip_suffix("-0"));
            ready_pods(self.w, set.unwrap_or(&self.name), if set.is_some() { 2 } else { 1 }).await;
        }
        Ok(undo)
    }

    pub async fn revert(&self, undo: &Undo) -> Result<(RevertResult, String), String> {
        fault::revert(&self.cx, undo).await.map_err(|e| format!("revert: {e}"))
    }

    pub async fn gone(&self, undo: &Undo) -> Result<String, String> {
        fault::gone(&self.cx, undo, LIMIT).await.map(|(_, proof)| proof).map_err(|e| format!("gone: {e}"))
    }

    pub async fn holds(&self, undo: &Undo) -> Result<Option<String>, String> {
        fault::holds(&self.cx, &self.spec, undo).await.map_err(|e| format!("holds: {e}"))
    }

    /// The first revert's result when it was injected and nobody disturbed it.
    pub const fn undone(&self) -> RevertResult {
        if self.kind.has_value() { RevertResult::Reverted } else { RevertResult::Nothing }
    }

    pub fn api(&self) -> Api<DynamicObject> {
        let (resource, namespaced) = self.kind.resource();
        let client = self.w.cluster.client.clone();
        if namespaced { Api::namespaced_with(client, &self.w.ns, &resource) } else { Api::all_with(client, &resource) }
    }

    /// The thing as JSON; null when it is not there.
    pub async fn thing(&self) -> Value {
        serde_json::to_value(self.api().get_opt(&self.name).await.unwrap()).unwrap()
    }

    /// What the fault changes, as it is now; and whether the thing bears a drill's mark.
    pub async fn value(&self) -> (Value, bool) {
        let all = self.thing().await;
        let pod = &all["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        let value = match self.kind {
            Kind::Suspend => all["spec"]["suspend"].clone(),
            Kind::Empty => {
                let all = pod["initContainers"].as_array().into_iter().flatten().chain(pod["containers"].as_array().into_iter().flatten());
                all.map(|c| json!([c["name"], c["command"], c["args"]])).collect()
            }
            Kind::Cordon | Kind::Drain => json!(all["spec"]["unschedulable"] == true),
            Kind::Detach => all["spec"]["selector"].clone(),
            Kind::ImageDeployment | Kind::ImageStatefulSet => all["spec"]["template"]["spec"]["containers"].clone(),
            Kind::Hide | Kind::Manifest => bare(all.clone()),
            // Whether it is there, and has what it had.
            Kind::LoseOfDeployment | Kind::LoseOfStatefulSet => json!([!all.is_null(), all["spec"]["volumeName"] == json!(self.volume)]),
            _ => all["spec"]["replicas"].clone(),
        };
        (value, !all["metadata"]["labels"][labels::FAULT].is_null())
    }

    /// The thing's resourceVersion.
    pub async fn version(&self) -> Value {
        self.thing().await["metadata"]["resourceVersion"].clone()
    }

    async fn strategic(&self, patch: Value) {
        let params = PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() };
        self.api().patch(&self.name, &params, &Patch::Strategic(patch)).await.unwrap();
    }

    /// Somebody else changes what the fault changed.
    pub async fn meddle(&self) {
        match self.kind {
            Kind::Suspend => self.strategic(json!({"spec": {"suspend": false}})).await,
            Kind::Empty => {
                let pod = json!({"containers": [{"name": "main", "command": ["another"]}]});
                self.strategic(json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}})).await;
            }
            Kind::Cordon | Kind::Drain => self.strategic(json!({"spec": {"unschedulable": null}})).await,
            Kind::Detach => self.strategic(json!({"spec": {"selector": {labels::DETACHED: null}}})).await,
            Kind::ImageDeployment | Kind::ImageStatefulSet => self.image("another:2").await,
            Kind::Hide => {
                let another = json!({"metadata": {"name": self.name}, "stringData": {"username": "joe", "password": "another"}});
                self.w.create::<Secret>(another).await;
            }
            Kind::LoseOfDeployment | Kind::LoseOfStatefulSet => self.bind_again().await,
            Kind::Manifest => {
                if !self.thing().await.is_null() {
                    self.delete().await;
                }
                self.w.create::<NetworkPolicy>(policy(&self.name)).await;
            }
            _ => self.strategic(json!({"spec": {"replicas": 2}})).await,
        }
    }

    /// Somebody else gives the claim its old volume again, the volume first.
    async fn bind_again(&self) {
        let old = self.thing().await;
        let free = Patch::Merge(json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}}));
        let volumes: Api<PersistentVolume> = self.w.cluster.cluster_api();
        volumes.patch(&self.volume, &PatchParams::default(), &free).await.unwrap();
        let claims: Api<PersistentVolumeClaim> = self.w.cluster.api(&self.w.ns);
        let mut again = json!({"metadata": {"name": self.name}, "spec": old["spec"]});
        again["spec"]["volumeName"] = json!(self.volume);
        claims.delete(&self.name, &DeleteParams::default()).await.unwrap();
        until("the claim has its volume again", || async {
            end_users(self.w, &self.name).await;
            // A StatefulSet may be faster.
            let _ = claims.create(&PostParams::default(), &from(again.clone())).await;
            let now = self.thing().await;
            let uid = &now["metadata"]["uid"];
            if now.is_null() || *uid == old["metadata"]["uid"] {
                return false;
            }
            // The claim that was there may have got it, just before it went.
            let of = serde_json::to_value(volumes.get(&self.volume).await.unwrap()).unwrap()["spec"]["claimRef"]["uid"].take();
            if !of.is_null() && of != *uid {
                volumes.patch(&self.volume, &PatchParams::default(), &free).await.unwrap();
            }
            now["spec"]["volumeName"] == json!(self.volume) && now["status"]["phase"] == "Bound"
        })
        .await;
    }

    /// Somebody else makes the claim anew, without a volume.
    pub async fn replace_claim(&self) {
        let old = self.thing().await;
        let claims: Api<PersistentVolumeClaim> = self.w.cluster.api(&self.w.ns);
        let mut another = json!({"metadata": {"name": self.name}, "spec": old["spec"]});
        another["spec"]["volumeName"] = json!(null);
        claims.delete(&self.name, &DeleteParams::default()).await.unwrap();
        until("the claim is another", || async {
            end_users(self.w, &self.name).await;
            let _ = claims.create(&PostParams::default(), &from(another.clone())).await;
            let now = self.thing().await;
            !now.is_null() && now["metadata"]["uid"] != old["metadata"]["uid"]
        })
        .await;
    }

    /// Somebody else is faster than the inject.
    pub async fn meddle_before(&self) {
        match self.kind {
            Kind::Suspend => self.strategic(json!({"spec": {"suspend": true}})).await,
            Kind::Cordon | Kind::Drain => self.strategic(json!({"spec": {"unschedulable": true}})).await,
            Kind::Detach => {
                // A strategic patch cannot empty a map.
                let patch = Patch::Merge(json!({"spec": {"selector": null}}));
                self.api().patch(&self.name, &PatchParams::default(), &patch).await.unwrap();
            }
            Kind::Hide => {
                self.delete().await;
                self.meddle().await;
            }
            Kind::LoseOfDeployment | Kind::LoseOfStatefulSet => self.replace_claim().await,
            _ => self.meddle().await,
        }
    }

    /// What would break nothing, or could not be put back.
    pub async fn make_unfit(&mut self) {
        match self.kind {
            Kind::Suspend => self.strategic(json!({"spec": {"suspend": true}})).await,
            Kind::Empty => {
                let with = |name: &str, command: &str| json!({"name": name, "image": "none", "command": [command], "args": null});
                let pod = json!({"containers": [with("main", "true")], "initContainers": [with("dump", "true")]});
                self.strategic(json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}})).await;
            }
            Kind::KillRunning => {
                let jobs: Api<Job> = self.w.cluster.api(&self.w.ns);
                jobs.delete_collection(&DeleteParams::background(), &ListParams::default()).await.unwrap();
                until("no Job runs", || async { jobs.list(&ListParams::default()).await.unwrap().items.is_empty() }).await;
            }
            Kind::Cordon | Kind::Drain | Kind::Manifest => self.meddle_before().await,
            Kind::Detach => {
                let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
                let api: Api<Deployment> = self.w.cluster.api(&self.w.ns);
                api.patch(&self.name, &PatchParams::default(), &patch).await.unwrap();
                until("the Service has no endpoint", || async { endpoints(self.w, &self.name).await == 0 }).await;
            }
            Kind::ImageDeployment | Kind::ImageStatefulSet => self.strategic(json!({"spec": {"replicas": 0}})).await,
            Kind::Hide => {
                let name = unique("token");
                let secret = json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "default"}},
                    "type": "kubernetes.io/service-account-token"});
                let made = self.w.create::<Secret>(secret).await;
                self.objects = vec![resolved("Secret", &made)];
            }
            Kind::LoseOfDeployment | Kind::LoseOfStatefulSet => {
                let spec =
                    json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "16Mi"}}});
                let made = self.w.create::<PersistentVolumeClaim>(json!({"metadata": {"name": unique("unbound")}, "spec": spec})).await;
                self.objects = vec![resolved("PersistentVolumeClaim", &made)];
            }
            _ => self.spec = fault_kit::spec(json!({"scale": {"target": "t", "replicas": 3}})),
        }
    }

    async fn image(&self, image: &str) {
        let pod = json!({"containers": [{"name": "main", "image": image}]});
        self.strategic(json!({"spec": {"template": {"spec": pod}}})).await;
    }

    /// What an inject had sent before its revert, against the version that it had read.
    pub async fn late(&self, version: Value) -> kube::Result<()> {
        if self.kind == Kind::Hide || self.kind.loses() {
            let preconditions = kube::api::Preconditions { uid: None, resource_version: version.as_str().map(str::to_owned) };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            return self.api().delete(&self.name, &params).await.map(drop);
        }
        let pod = json!({"containers": [{"name": "main", "image": "none@sha256:0"}]});
        let spec = match self.kind {
            Kind::Suspend => json!({"suspend": true}),
            Kind::Empty => json!({"jobTemplate": {"spec": {"template": {"spec": pod}}}}),
            Kind::Cordon | Kind::Drain => json!({"unschedulable": true}),
            Kind::Detach => json!({"selector": {labels::DETACHED: self.cx.drill}}),
            Kind::ImageDeployment | Kind::ImageStatefulSet => json!({"template": {"spec": pod}}),
            _ => json!({"replicas": 0}),
        };
        let late = Patch::Merge(json!({"metadata": {"resourceVersion": version, "labels": {labels::FAULT: self.cx.drill}}, "spec": spec}));
        self.api().patch(&self.name, &PatchParams::default(), &late).await.map(drop)
    }

    /// Deletes the thing; of a Secret that the fault has deleted already, and of a claim, its namespace.
    pub async fn delete(&self) {
        if self.kind.loses() || self.kind == Kind::Hide && self.thing().await.is_null() {
            let api: Api<Namespace> = self.w.cluster.cluster_api();
            api.delete(&self.w.ns, &DeleteParams::default()).await.unwrap();
            return until("the namespace is gone", || async { api.get_opt(&self.w.ns).await.unwrap().is_none() }).await;
        }
        let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        self.api().delete(&self.name, &params).await.unwrap();
        until("the thing is gone", || async { self.thing().await.is_null() }).await;
        if self.kind == Kind::PodKill {
            let pods: Api<Pod> = self.w.cluster.api(&self.w.ns);
            let mine = ListParams::default().labels(&format!("app={}", self.name));
            until("its pods are gone", || async { pods.list(&mine).await.unwrap().items.is_empty() }).await;
        }
    }
}

/// What the hidden Secret says, and nobody else may.
pub const PASSWORD: &str = "correct-horse-battery";

/// What the `manifest` fault makes: nobody may come in.
fn policy(name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}})
}

/// What real kubelets have.
const TOOLBOX: &str = "localhost/toolbox:1";

/// A node of its own; of real ones, one that the cluster itself has no pods on that could be evicted.
async fn node(w: &World, name: &str) -> String {
    if w.kubelets {
        let pods = w.cluster.list_all(&w.cluster.api::<Pod>("kube-system"), None, "list pods").await.unwrap();
        let by_daemon = |p: &Pod| p.owner_references().iter().any(|o| o.kind == "DaemonSet" || o.kind == "Node");
        let taken: Vec<String> = pods.iter().filter(|p| !by_daemon(p)).filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect();
        let nodes = w.cluster.cluster_api::<Node>().list(&ListParams::default()).await.unwrap();
        return nodes.iter().map(|node| node.name_any()).find(|node| !taken.contains(node)).expect("a node without pods of the cluster's");
    }
    if let Some(sandbox) = &w.sandbox {
        sandbox.add_node(name, "zone-x");
    } else {
        let node: Node = from(json!({"metadata": {"name": name, "labels": {"firedrill.dev/case": w.ns}}}));
        w.cluster.cluster_api::<Node>().create(&PostParams::default(), &node).await.unwrap();
    }
    until("there is the node", || async { w.cluster.get_cluster_opt::<Node>(name).await.unwrap().is_some() }).await;
    name.to_owned()
}

/// A claim once it has its volume.
pub async fn bound_claim(w: &World, name: &str) -> PersistentVolumeClaim {
    let bound = |c: &PersistentVolumeClaim| c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let look = || async { w.cluster.get_opt::<PersistentVolumeClaim>(&w.ns, name).await.unwrap().filter(bound) };
    until("the claim is bound", || async { look().await.is_some() }).await;
    look().await.unwrap()
}

/// Deletes the pods that use a claim and are on a node.
async fn end_users(w: &World, claim: &str) {
    let pods: Api<Pod> = w.cluster.api(&w.ns);
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let spec = serde_json::to_value(&pod.spec).unwrap();
        let uses = spec["volumes"].as_array().into_iter().flatten().any(|v| v["persistentVolumeClaim"]["claimName"] == json!(claim));
        if uses && pod.metadata.deletion_timestamp.is_none() && spec["nodeName"].is_string() {
            // It may have gone in the meantime.
            let _ = pods.delete(&pod.name_any(), &DeleteParams::default()).await;
        }
    }
}

/// Removes what a case on an API server has made, whose pods would be looked at all through the cases that follow.
pub async fn tidy(w: &World) {
    macro_rules! remove {
        ($($kind:ty),*) => {$(
            let api: Api<$kind> = w.cluster.api(&w.ns);
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.unwrap();
        )*};
    }
    remove!(Deployment, StatefulSet, CronJob, Job, NetworkPolicy, PersistentVolumeClaim);
    let mine = ListParams::default().labels(&format!("firedrill.dev/case={}", w.ns));
    w.cluster.cluster_api::<Node>().delete_collection(&DeleteParams::default(), &mine).await.unwrap();
}

/// How many endpoints of a Service are ready.
pub async fn endpoints(w: &World, service: &str) -> usize {
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = w.cluster.api::<EndpointSlice>(&w.ns).list(&params).await.unwrap();
    let all = slices.items.into_iter().flat_map(|slice| slice.endpoints);
    all.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
}

pub async fn delete<K>(w: &World, name: &str, params: &DeleteParams)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    w.cluster.api::<K>(&w.ns).delete(name, params).await.unwrap();
    until("the thing is gone", || async { w.cluster.get_opt::<K>(&w.ns, name).await.unwrap().is_none() }).await;
}

/// The pods of a thing once there are this many, ready.
pub async fn ready_pods(w: &World, app: &str, n: usize) -> Vec<Pod> {
    let params = ListParams::default().labels(&format!("app={app}"));
    let api: Api<Pod> = w.cluster.api(&w.ns);
    let ready = |p: &Pod| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    let look = || async { api.list(&params).await.unwrap().items.into_iter().filter(ready).collect::<Vec<_>>() };
    until("the pods are ready", || async { look().await.len() == n }).await;
    // And the controllers know it.
    until("the workload counts them", || async {
        let deployment = w.cluster.get_opt::<Deployment>(&w.ns, app).await.unwrap().and_then(|d| d.status?.ready_replicas);
        let set = w.cluster.get_opt::<StatefulSet>(&w.ns, app).await.unwrap().and_then(|s| s.status?.ready_replicas);
        deployment.or(set) == Some(i32::try_from(n).unwrap())
    })
    .await;
    look().await
}

/// A Job of a CronJob, running.
pub async fn run_job(w: &World, cron: &CronJob) -> Job {
    let name = unique("run");
    let template = serde_json::to_value(cron.spec.as_ref().unwrap().job_template.spec.as_ref().unwrap()).unwrap();
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": cron.name_any(), "uid": cron.uid(), "controller": true});
    let job = w.create::<Job>(json!({"metadata": {"name": name, "ownerReferences": [owner]}, "spec": template})).await;
    until("the Job runs", || async {
        let job = w.cluster.get_opt::<Job>(&w.ns, &name).await.unwrap();
        job.and_then(|j| j.status?.ready) == Some(1)
    })
    .await;
    job
}

/// An object without what changes with every write, and without what controllers count.
fn bare(mut object: Value) -> Value {
    if let Some(all) = object.as_object_mut() {
        all.remove("status");
        all.remove("revision");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for key in ["resourceVersion", "managedFields", "generation", "uid", "creationTimestamp"] {
            metadata.remove(key);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with("deployment.kubernetes.io/") && key != "node.alpha.kubernetes.io/ttl");
        }
        if metadata.get("annotations").is_some_and(|all| all == &json!({})) {
            metadata.remove("annotations");
        }
        if metadata.get("labels").is_some_and(|all| all == &json!({})) {
            metadata.remove("labels");
        }
    }
    // A node that has no kubelet is found to be lost in the meantime; nobody's cordon tells it so.
    if let Some(spec) = object.pointer_mut("/spec").and_then(Value::as_object_mut) {
        let of_life = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
        let taints = spec.remove("taints").and_then(|taints| taints.as_array().cloned()).unwrap_or_default();
        let others: Vec<Value> = taints.into_iter().filter(|taint| !of_life.iter().any(|key| taint["key"] == *key)).collect();
        if !others.is_empty() {
            spec.insert("taints".to_owned(), Value::Array(others));
        }
    }
    object
}

/// Everything that a fault could leave something in: pods and Jobs apart, which come and go.
pub async fn everything(w: &World) -> std::collections::BTreeMap<String, Value> {
    let mut all = std::collections::BTreeMap::new();
    let own = OwnPlace::default().namespace;
    let kinds = [
        (ApiResource::erase::<Node>(&()), None),
        (ApiResource::erase::<Secret>(&()), Some(own.as_str())),
        (ApiResource::erase::<ConfigMap>(&()), Some(own.as_str())),
        (ApiResource::erase::<Secret>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<ConfigMap>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<Service>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<Deployment>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<StatefulSet>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<ReplicaSet>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<ControllerRevision>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<CronJob>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<PersistentVolumeClaim>(&()), Some(w.ns.as_str())),
        (ApiResource::erase::<NetworkPolicy>(&()), Some(w.ns.as_str())),
    ];
    for (resource, namespace) in kinds {
        let client = w.cluster.client.clone();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        for object in api.list(&ListParams::default()).await.unwrap() {
            let name = format!("{} {}/{}", resource.kind, namespace.unwrap_or_default(), object.name_any());
            all.insert(name, bare(serde_json::to_value(object).unwrap()));
        }
    }
    // Those that are claimed. What a claim of the fault's own had goes when the provisioner gets round to it.
    for volume in w.cluster.cluster_api::<PersistentVolume>().list(&ListParams::default()).await.unwrap() {
        let mut volume = serde_json::to_value(volume).unwrap();
        let name = format!("PersistentVolume {}", volume["metadata"]["name"].as_str().unwrap_or_default());
        let claim = volume["spec"]["claimRef"].take();
        if claim["namespace"] != json!(w.ns) || volume["status"]["phase"] == "Released" {
            continue;
        }
        volume["spec"]["claimRef"] = json!([claim["namespace"], claim["name"]]);
        all.insert(name, bare(volume));
    }
    all
}
