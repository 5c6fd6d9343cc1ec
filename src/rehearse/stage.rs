//! A sandbox with a world in it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams, Request},
    discovery::{self, Scope},
};
use serde_json::{Value, json};

use super::World;
use crate::{
    clock::Clock,
    cluster::{self, Cluster},
    labels,
    lean::LeanPod,
    net::Dialer,
    plan::{Permission, Plan, rbac},
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
    scenario::types::{Dur, Environment},
};

/// The name of a sandbox's cluster, for people.
const CLUSTER: &str = "sandbox";
/// Who the runner is there: of `system:masters`.
pub(super) const ADMIN: &str = "admin";
/// How long a world may take to come up, in the sandbox's time.
const UP_LIMIT: Duration = Duration::from_secs(600);
/// How often its pods are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The zone's label of a Node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The annotation that chooses a pod's model, or with `.CONTAINER` behind it that of one container; and the model of a database's member,
/// which tells its role by the pod's label, as Patroni does.
const MODEL: &str = "sandbox.firedrill.dev/model";
const DATABASE: &str = "postgres";

/// Why a world is not on its stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// An object was refused.
    #[error("{file}: {what} was refused by the sandbox: {why}")]
    Refused {
        /// The file.
        file: String,
        /// Kind and name.
        what: String,
        /// Why.
        why: String,
    },
    /// It did not come up.
    #[error("the world {world} did not come up within {limit} of its own time: {what}")]
    NotUp {
        /// Its path.
        world: String,
        /// The limit.
        limit: Dur,
        /// What is missing.
        what: String,
    },
    /// The sandbox does not answer as it must.
    #[error("failed to {0}")]
    Broken(String),
}

/// A sandbox with a world that has come up.
#[derive(Debug)]
pub struct Stage {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// The way to its cluster, as its administrator.
    pub cluster: Cluster,
    /// The runner's clock.
    pub clock: Clock,
    /// The network as the runner has it, outside of the cluster.
    pub dialer: Dialer,
}

/// Whether a pod is a database's member that has not said yet whether it leads: targets are chosen by that label.
fn lacks_role(pod: &Pod) -> bool {
    let chooses = |(key, model): (&String, &String)| {
        model == DATABASE && key.strip_prefix(MODEL).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    pod.annotations().iter().any(chooses) && !pod.labels().contains_key("role")
}

impl Stage {
    /// Puts a world into a new sandbox and waits until all of its pods are ready. To be called within the runtime in which the drill
    /// runs.
    ///
    /// # Errors
    /// An object is refused, or a pod does not become ready.
    pub async fn open(world: &World, seed: u64, wall_us: i64) -> Result<Self, StageError> {
        let sandbox = Sandbox::new(SandboxOptions { seed, wall_us });
        sandbox.start_cluster(ClusterOptions::default());
        let clock = Clock::virtual_at("runner", wall_us);
        let client = sandbox.client(ADMIN);
        let broken = |what: &str, error: &kube::Error| StageError::Broken(format!("{what}: {}", cluster::why(error)));
        let own =
            Api::<Namespace>::all(client.clone()).get("kube-system").await.map_err(|error| broken("read namespace kube-system", &error))?;
        let cluster = Cluster::from_client(client.clone(), CLUSTER, own.uid().unwrap_or_default());
        let dialer = sandbox.dialer(None);
        let stage = Self { sandbox, cluster, clock, dialer };
        let placed = match stage.fill(&client, world).await {
            Ok(()) => stage.come_up(&client, world).await,
            Err(error) => Err(error),
        };
        if let Err(error) = placed {
            stage.close().await;
            return Err(error);
        }
        Ok(stage)
    }

    /// Does what an owner does with `plan --rbac` for the drill's own pods: gives node helpers the account that they lose nodes
    /// with, and the watchdog its own.
    ///
    /// # Errors
    /// The sandbox refuses it.
    pub async fn grant(&self, plan: &Plan) -> Result<(), StageError> {
        let own = plan.place.firedrill.namespace.as_str();
        let mut accounts = vec![(labels::LOSS_ACCOUNT, rbac::of_node_helper(plan))];
        accounts.extend(plan.watchdog.iter().map(|watchdog| (watchdog.service_account.as_str(), watchdog.rbac.clone())));
        for (account, permissions) in accounts.iter().filter(|(_, permissions)| !permissions.is_empty()) {
            self.account(own, account).await?;
            let broken = |why: String| StageError::Broken(format!("give ServiceAccount {account} what it needs: {why}"));
            self.allowed(account, own, permissions).await.map_err(broken)?;
        }
        Ok(())
    }

    /// Makes an account in firedrill's own namespace, unless the world has it.
    ///
    /// # Errors
    /// The sandbox refuses it.
    pub async fn account(&self, own: &str, name: &str) -> Result<(), StageError> {
        let broken = |why: String| StageError::Broken(format!("make ServiceAccount {own}/{name}: {why}"));
        crate::agent::pods::ensure_namespace(&self.cluster, own).await.map_err(|error| broken(error.to_string()))?;
        self.made::<ServiceAccount>(Some(own), json!({"metadata": {"name": name}})).await.map_err(broken)
    }

    /// Binds an account to a Role or the ClusterRole of its name, in each place where it has a permission.
    async fn allowed(&self, account: &str, own: &str, permissions: &[Permission]) -> Result<(), String> {
        let mut places: BTreeMap<Option<&str>, Vec<Value>> = BTreeMap::new();
        for p in permissions {
            let rule = json!({"apiGroups": [p.group], "resources": [p.resource], "resourceNames": p.names, "verbs": p.verbs});
            places.entry(p.namespace.as_deref()).or_default().push(rule);
        }
        for (namespace, rules) in places {
            let name = json!({"name": account});
            let role = json!({"metadata": name, "rules": rules});
            let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
            let binding = json!({
                "metadata": name, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": account},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": own}],
            });
            match namespace {
                Some(_) => {
                    self.made::<Role>(namespace, role).await?;
                    self.made::<RoleBinding>(namespace, binding).await?;
                }
                None => {
                    self.made::<ClusterRole>(namespace, role).await?;
                    self.made::<ClusterRoleBinding>(namespace, binding).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes an object, in a namespace if its kind has one, unless the world has it.
    async fn made<K>(&self, namespace: Option<&str>, object: Value) -> Result<(), String>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let uri = K::url_path(&(), namespace);
        let request =
            Request::new(uri).create(&PostParams::default(), object.to_string().into_bytes()).map_err(|error| error.to_string())?;
        match self.cluster.client.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(cluster::why(&error)),
            Ok(_) => Ok(()),
        }
    }

    async fn fill(&self, client: &Client, world: &World) -> Result<(), StageError> {
        let mut kinds = BTreeMap::new();
        for (file, object) in &world.objects {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (kind, name) = (text("/kind"), text("/metadata/name"));
            let what = if name.is_empty() { kind.to_owned() } else { format!("{kind} {name}") };
            let refused = |why: String| StageError::Refused { file: file.clone(), what: what.clone(), why };
            if text("/apiVersion") == "v1" && kind == "Node" {
                let zone = object["metadata"]["labels"].get(ZONE).and_then(Value::as_str).unwrap_or_default();
                self.sandbox.add_node(name, zone);
                let rest = json!({
                    "metadata": {"labels": object["metadata"]["labels"], "annotations": object["metadata"]["annotations"]},
                    "spec": object.get("spec").cloned().unwrap_or_else(|| json!({})),
                });
                let nodes = Api::<Node>::all(client.clone());
                let patched = nodes.patch(name, &PatchParams::default(), &Patch::Merge(rest)).await;
                patched.map_err(|error| refused(cluster::why(&error)))?;
                continue;
            }
            let version = text("/apiVersion");
            let group = version.split_once('/').map_or(kube::core::GroupVersionKind::gvk("", version, kind), |(group, version)| {
                kube::core::GroupVersionKind::gvk(group, version, kind)
            });
            let key = (version.to_owned(), kind.to_owned());
            let (resource, scope) = match kinds.get(&key) {
                Some(known) => known,
                None => {
                    let found = discovery::pinned_kind(client, &group).await;
                    let (resource, capabilities) = found.map_err(|error| match error {
                        kube::Error::Discovery(_) => refused(format!(
                            "there is no kind {kind} in {version}; one of your own needs its CustomResourceDefinition in an earlier document"
                        )),
                        other => refused(cluster::why(&other)),
                    })?;
                    kinds.entry(key).or_insert((resource, capabilities.scope))
                }
            };
            let namespace = match text("/metadata/namespace") {
                "" => "default",
                named => named,
            };
            let api: Api<DynamicObject> = match scope {
                Scope::Cluster => Api::all_with(client.clone(), resource),
                Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, resource),
            };
            let dynamic: DynamicObject = serde_json::from_value(object.clone()).map_err(|error| refused(error.to_string()))?;
            match api.create(&PostParams::default(), &dynamic).await {
                Ok(_) => {}
                // What every cluster has, such as the namespace `default`: the world says more about it.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await;
                    patched.map_err(|error| refused(cluster::why(&error)))?;
                }
                Err(error) => return Err(refused(cluster::why(&error))),
            }
        }
        Ok(())
    }

    /// Waits until every pod is ready or has done its work, and every set has as many as it wants.
    async fn come_up(&self, client: &Client, world: &World) -> Result<(), StageError> {
        let deadline = tokio::time::Instant::now() + UP_LIMIT;
        loop {
            let late = tokio::time::Instant::now() >= deadline;
            let missing = self.missing(client, late).await;
            let missing = missing.map_err(|error| StageError::Broken(format!("look at the world: {}", cluster::why(&error))))?;
            if missing.is_empty() {
                return Ok(());
            }
            if late {
                let what = missing.join("; ");
                return Err(StageError::NotUp { world: world.path.clone(), limit: Dur(UP_LIMIT), what });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is missing: all of it, or no more than the first kind of objects of which something is.
    async fn missing(&self, client: &Client, all_of_it: bool) -> kube::Result<Vec<String>> {
        use k8s_openapi::api::{
            apps::v1::{DaemonSet, Deployment, StatefulSet},
            batch::v1::Job,
            policy::v1::PodDisruptionBudget,
        };
        let mut missing = Vec::new();
        let few = |what: &str, name: String, wanted: i32, ready: Option<i32>| {
            let ready = ready.unwrap_or(0);
            (ready < wanted).then(|| format!("{what} {name} has {ready} of {wanted} ready"))
        };
        let all = ListParams::default();
        for set in Api::<Deployment>::all(client.clone()).list(&all).await? {
            let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            missing.extend(few("Deployment", set.name_any(), wanted, set.status.and_then(|s| s.ready_replicas)));
        }
        if !all_of_it && !missing.is_empty() {
            return Ok(missing);
        }
        for set in Api::<StatefulSet>::all(client.clone()).list(&all).await? {
            let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            missing.extend(few("StatefulSet", set.name_any(), wanted, set.status.and_then(|s| s.ready_replicas)));
        }
        if !all_of_it && !missing.is_empty() {
            return Ok(missing);
        }
        for set in Api::<DaemonSet>::all(client.clone()).list(&all).await? {
            let status = set.status.as_ref();
            missing.extend(few(
                "DaemonSet",
                set.name_any(),
                status.map_or(1, |s| s.desired_number_scheduled),
                status.map(|s| s.number_ready),
            ));
        }
        if !all_of_it && !missing.is_empty() {
            return Ok(missing);
        }
        // A plan made before budgets have counted the last pod would find that they allow nothing.
        for budget in Api::<PodDisruptionBudget>::all(client.clone()).list(&all).await? {
            let (name, generation) = (budget.name_any(), budget.metadata.generation);
            let status = budget.status.filter(|s| s.observed_generation >= generation);
            let wanted = status.as_ref().map_or(1, |s| s.expected_pods);
            missing.extend(few("PodDisruptionBudget", name, wanted, status.map(|s| s.current_healthy)));
        }
        if !all_of_it && !missing.is_empty() {
            return Ok(missing);
        }
        for job in Api::<Job>::all(client.clone()).list(&all).await? {
            let done = job.status.as_ref().is_some_and(|s| s.completion_time.is_some());
            if job.owner_references().is_empty() && !done {
                missing.push(format!("Job {} has not completed", job.name_any()));
            }
        }
        if !all_of_it && !missing.is_empty() {
            return Ok(missing);
        }
        for pod in Api::<LeanPod>::all(client.clone()).list(&all).await?.items.into_iter().map(Pod::from) {
            let status = pod.status.as_ref();
            let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
            let ready =
                status.and_then(|s| s.conditions.as_ref()).is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
            if phase == "Running" && ready && lacks_role(&pod) {
                missing.push(format!("Pod {}/{} does not say its role yet", pod.namespace().unwrap_or_default(), pod.name_any()));
                continue;
            }
            if phase == "Succeeded" || phase == "Running" && ready {
                continue;
            }
            let statuses = status.into_iter().flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten());
            let waits =
                statuses.filter_map(|c| c.state.as_ref()?.waiting.as_ref()).find(|w| w.reason.as_deref() != Some("PodInitializing"));
            let unscheduled = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"));
            let why = match (waits, unscheduled) {
                (Some(w), _) => format!(": {} {}", w.reason.as_deref().unwrap_or_default(), w.message.as_deref().unwrap_or_default()),
                (None, Some(c)) => format!(": {}", c.message.as_deref().unwrap_or_default()),
                (None, None) => String::new(),
            };
            // Jobs come and go by their own schedule.
            if pod.owner_references().iter().any(|owner| owner.kind == "Job") && waits.is_none() {
                continue;
            }
            missing.push(format!("Pod {}/{} is {phase}, not ready{}", pod.namespace().unwrap_or_default(), pod.name_any(), why.trim_end()));
        }
        Ok(missing)
    }

    /// An environment as it is on this stage: its first cluster is the sandbox, whatever it says of clusters.
    pub fn environment(&self, mut environment: Environment) -> Environment {
        for cluster in environment.spec.clusters.values_mut() {
            cluster.uid.clone_from(&self.cluster.uid);
            cluster.context = None;
        }
        environment
    }

    /// Ends the sandbox.
    pub async fn close(self) {
        let Self { sandbox, cluster, dialer, .. } = self;
        drop((cluster, dialer));
        sandbox.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_a_database_is_up_once_it_says_its_role() {
        let pod = |annotation: &str, model: &str, labels: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": labels, "annotations": {annotation: model}}})).unwrap()
        };
        assert!(lacks_role(&pod("sandbox.firedrill.dev/model.main", "postgres", json!({"cluster": "a"}))));
        assert!(lacks_role(&pod("sandbox.firedrill.dev/model", "postgres", json!({}))));
        assert!(!lacks_role(&pod("sandbox.firedrill.dev/model.main", "postgres", json!({"role": "replica"}))));
        assert!(!lacks_role(&pod("sandbox.firedrill.dev/model", "web", json!({}))));
    }

    /// Whatever the seed: a plan that is made at once finds its targets by their roles.
    #[test]
    fn a_world_that_is_up_has_all_its_roles() {
        let world = World::load(std::path::Path::new("scenarios/world")).unwrap_or_else(|error| panic!("{error}"));
        for seed in 1..=8 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let stage = Stage::open(&world, seed, 1_767_225_600_000_000).await.unwrap_or_else(|error| panic!("{error}"));
                let mut roles = BTreeMap::new();
                {
                    let pods = Api::<Pod>::namespaced(stage.sandbox.client(ADMIN), "shop");
                    for pod in pods.list(&ListParams::default().labels("cluster=orders")).await.unwrap() {
                        *roles.entry(pod.labels().get("role").cloned().unwrap_or_default()).or_insert(0) += 1;
                    }
                }
                stage.close().await;
                assert_eq!(roles, BTreeMap::from([("master".to_owned(), 1), ("replica".to_owned(), 2)]), "seed {seed}");
            });
        }
    }
}
