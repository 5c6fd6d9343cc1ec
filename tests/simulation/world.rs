//! A small shop in a sandbox: two Deployments and a CronJob on two nodes.

use std::time::Duration;

use firedrill::{
    cluster::Cluster,
    labels,
    plan::{self, Inputs, Plan},
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
    scenario,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod},
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::history::{OWN, RUNNER};

/// The sandbox's wall clock when it begins.
pub(crate) const WALL_US: i64 = 1_767_225_600_000_000;
/// How many runners there may be.
pub(crate) const RUNNERS: usize = 12;

/// The shop and its cluster.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) admin: Client,
    pub(crate) uid: String,
}

impl World {
    /// Made, and its pods ready.
    pub(crate) async fn new(seed: u64) -> Result<Self, String> {
        let sandbox = Sandbox::new(SandboxOptions { seed, wall_us: WALL_US });
        sandbox.start_cluster(ClusterOptions::default());
        for n in 0..2 {
            sandbox.add_node(&format!("n{n}"), &format!("zone-{n}"));
        }
        let admin = sandbox.client("admin");
        let mut world = Self { sandbox, admin, uid: String::new() };
        world.fill().await.map_err(|e| format!("the world could not be made: {e}"))?;
        Ok(world)
    }

    async fn fill(&mut self) -> kube::Result<()> {
        let allowed = json!({labels::DRILLS: labels::ALLOWED});
        self.make_for_all::<Namespace>(json!({"metadata": {"name": "shop", "labels": allowed}})).await?;
        self.make_for_all::<Namespace>(json!({"metadata": {"name": OWN}})).await?;
        let subjects: Vec<Value> = (0..RUNNERS)
            .map(|n| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("{RUNNER}{n}")}))
            .collect();
        self.make_for_all::<ClusterRoleBinding>(json!({
            "metadata": {"name": "runners"}, "subjects": subjects,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        }))
        .await?;
        // One that is frozen is not ready for long.
        let ready = json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 2, "failureThreshold": 1});
        let main = json!({"name": "main", "image": "shop", "readinessProbe": ready});
        let pod = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [main]}});
        for (name, replicas) in [("web", 3), ("api", 2)] {
            let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod(name)});
            self.make::<Deployment>(json!({"metadata": {"name": name}, "spec": spec})).await?;
        }
        let mut job = pod("backup");
        job["spec"]["restartPolicy"] = json!("Never");
        job["spec"]["containers"][0] = json!({"name": "main", "image": "shop"});
        let spec = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": job}}});
        self.make::<CronJob>(json!({"metadata": {"name": "backup"}, "spec": spec})).await?;
        self.uid = Api::<Namespace>::all(self.admin.clone()).get("kube-system").await?.uid().unwrap_or_default();
        let deployments = self.api::<Deployment>("shop");
        loop {
            let all = deployments.list(&ListParams::default()).await?.items;
            let is_ready = |d: &Deployment| {
                let wanted = d.spec.as_ref().and_then(|s| s.replicas);
                d.status.as_ref().is_some_and(|s| s.ready_replicas == wanted && s.replicas == wanted)
            };
            if all.iter().all(is_ready) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), namespace)
    }

    async fn make<K>(&self, value: Value) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(value).map_err(kube::Error::SerdeError)?;
        self.api("shop").create(&PostParams::default(), &object).await.map(drop)
    }

    async fn make_for_all<K>(&self, value: Value) -> kube::Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(value).map_err(kube::Error::SerdeError)?;
        Api::<K>::all(self.admin.clone()).create(&PostParams::default(), &object).await.map(drop)
    }

    /// The cluster as a user sees it.
    pub(crate) fn cluster(&self, user: &str) -> Cluster {
        Cluster::from_client(self.sandbox.client(user), "sandbox", self.uid.clone())
    }

    /// A plan, made by somebody whom no weather touches.
    pub(crate) async fn plan(&self, scenario: &Value, seed: u64) -> Result<(Plan, String), String> {
        let text = scenario.to_string();
        let loaded = scenario::parse_scenario("sim.yaml", &text, &[])
            .map_err(|problems| scenario::diag::render(&problems.list, false).to_string())
            .map_err(|why| format!("the scenario has mistakes: {why}"))?;
        let environment = json!({"apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "sim"},
                                 "spec": {"clusters": {"main": {"uid": self.uid}}, "firedrill": {"namespace": OWN, "watchdog": {"enabled": false}}}});
        let environment = scenario::parse_environment("environment.yaml", &environment.to_string())
            .map_err(|problems| format!("the environment has mistakes: {}", scenario::diag::render(&problems.list, false)))?;
        let cluster = self.cluster("admin");
        let snapshot = plan::snapshot::take(&cluster, &loaded.scenario, &environment).await.map_err(|e| e.to_string())?;
        let plan = plan::make(&Inputs {
            scenario: &loaded.scenario,
            scenario_sha256: &loaded.sha256,
            parameters: &loaded.parameters,
            environment: &environment,
            snapshot: &snapshot,
            seed,
            runbooks: &std::collections::BTreeMap::new(),
        })
        .map_err(|refused| format!("refused: {refused}"))?;
        Ok((plan, text))
    }

    /// Everything a drill could change or leave.
    pub(crate) async fn objects(&self) -> kube::Result<Vec<Value>> {
        let mut all = Vec::new();
        macro_rules! of {
            ($namespace:expr, $($kind:ty),*) => {$(
                for object in self.api::<$kind>($namespace).list(&ListParams::default()).await? {
                    let mut object = serde_json::to_value(&object).map_err(kube::Error::SerdeError)?;
                    object["kind"] = json!(<$kind as Resource>::kind(&()));
                    all.push(object);
                }
            )*};
        }
        of!("shop", Deployment, StatefulSet, ReplicaSet, CronJob, Job, Pod, ConfigMap);
        of!(OWN, ConfigMap, Lease, Pod);
        Ok(all)
    }
}
