//! What suites against a real API server share.
//!
//! They run when `FIREDRILL_TEST_KUBECONFIG` names a kubeconfig of a throw-away cluster (its user must be an administrator);
//! an API server without nodes is enough. Otherwise each says on standard error, uncaptured, that it did not run.

pub(crate) mod cli;

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::Output, time::Duration};

use firedrill::cluster::Cluster;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

/// A namespace of its own on a real API server, and what a drill needs around it. The namespace is deleted by [`World::end`].
pub(crate) struct World {
    /// As the administrator.
    pub(crate) client: Client,
    /// The same as firedrill knows it.
    pub(crate) cluster: Cluster,
    /// The kubeconfig's file.
    pub(crate) kubeconfig: PathBuf,
    /// A namespace that allows drills.
    pub(crate) namespace: String,
    /// Scratch.
    pub(crate) dir: tempfile::TempDir,
}

/// A world, or none where there is no API server to run against; then it is said why and how.
pub(crate) async fn world(test: &str) -> Option<World> {
    let Some(kubeconfig) = std::env::var_os("FIREDRILL_TEST_KUBECONFIG").filter(|v| !v.is_empty()).map(PathBuf::from) else {
        // Past the test harness, which shows nothing of a test that passes.
        let _ =
            writeln!(std::io::stderr(), "{test}: NOT RUN, it needs an API server: tests/engine.sh brings one up and runs all such tests");
        return None;
    };
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(&kubeconfig).unwrap(), &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let namespaces = Api::<Namespace>::all(client.clone());
    let uid = namespaces.get("kube-system").await.unwrap().uid().unwrap();
    let namespace = format!("fd-test-{:08x}", rand::random::<u32>());
    let object = json!({"metadata": {"name": namespace, "labels": {"firedrill.dev/drills": "allowed"}}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let cluster = Cluster::from_client(client.clone(), "test", uid);
    let world = World { client, cluster, kubeconfig, namespace, dir: tempfile::tempdir().unwrap() };
    // Pods are refused until the controller has made their account.
    let accounts = world.api::<ServiceAccount>();
    eventually("the default ServiceAccount", async || accounts.get_opt("default").await.unwrap().is_some()).await;
    Some(world)
}

/// Waits for a condition, at most a minute.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within a minute: {what}");
}

impl World {
    /// Objects of a kind in the world's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from JSON.
    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
        K::DynamicType: Default,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    /// A pod that says of itself that it runs and is ready (there is no kubelet here to say otherwise).
    pub(crate) async fn pod(&self, name: &str, labels: &[(&str, &str)]) -> Pod {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let spec = json!({"containers": [{"name": "main", "image": "none"}], "automountServiceAccountToken": false});
        self.create::<Pod>(json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).await;
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        self.api::<Pod>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap()
    }

    /// Writes a file into the scratch folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// An environment of this cluster whose own namespace is named (and need not exist).
    pub(crate) fn environment(&self, own: &str) -> PathBuf {
        let uid = &self.cluster.uid;
        let text = json!({
            "apiVersion": "firedrill.dev/v1alpha1", "kind": "Environment", "metadata": {"name": "test"},
            "spec": {"clusters": {"main": {"uid": uid}}, "firedrill": {"namespace": own, "watchdog": {"enabled": false}}}
        });
        self.file("environment.yaml", &text.to_string())
    }

    /// A kubeconfig that acts as another user.
    pub(crate) fn kubeconfig_as(&self, user: &str) -> PathBuf {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let mut config: Value = serde_saphyr::from_str(&text).unwrap();
        for entry in config["users"].as_array_mut().unwrap() {
            entry["user"]["as"] = json!(user);
        }
        self.file(&format!("kubeconfig-{user}"), &config.to_string())
    }

    /// Deletes what the test made; the API server's controllers do the rest.
    pub(crate) async fn end(self) {
        let delete = Api::<Namespace>::all(self.client.clone()).delete(&self.namespace, &DeleteParams::default()).await;
        assert!(delete.is_ok(), "{delete:?}");
    }
}

/// Standard output as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
