//! A small cluster, and how tests talk to it.

#![allow(dead_code, reason = "each suite uses its own part")]

use std::{cell::Cell, fmt::Debug, time::Duration};

use firedrill::sandbox::{Sandbox, SandboxOptions};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

const WALL_US: i64 = 1_767_225_600_000_000;

/// A sandbox with the namespace `shop`.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    client: Client,
    start: Cell<jiff::Timestamp>,
}

/// Status code, reason and message of a refusal.
#[track_caller]
pub(crate) fn refused<T: Debug>(answer: kube::Result<T>) -> (u16, String, String) {
    match answer {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not refused: {other:?}"),
    }
}

impl World {
    /// With nodes n0, n1 … in zones zone-0, zone-1 …
    pub(crate) async fn new(nodes: usize) -> Self {
        Self::seeded(7, nodes).await
    }

    pub(crate) async fn seeded(seed: u64, nodes: usize) -> Self {
        let sandbox = Sandbox::new(SandboxOptions { seed, wall_us: WALL_US });
        sandbox.start_cluster(firedrill::sandbox::ClusterOptions::default());
        for n in 0..nodes {
            sandbox.add_node(&format!("n{n}"), &format!("zone-{n}"));
        }
        let client = sandbox.client("admin");
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        let start = jiff::Timestamp::from_microsecond(WALL_US).unwrap();
        Self { sandbox, client, start: Cell::new(start) }
    }

    pub(crate) async fn stop(&self) {
        self.sandbox.stop().await;
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "shop")
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let object: K = serde_json::from_value(value).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn get<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api().get(name).await.unwrap()
    }

    pub(crate) async fn get_all<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(&self, name: &str) -> K {
        self.all().get(name).await.unwrap()
    }

    pub(crate) async fn list<K>(&self, labels: &str) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let params = if labels.is_empty() { ListParams::default() } else { ListParams::default().labels(labels) };
        self.api().list(&params).await.unwrap().items
    }

    pub(crate) async fn list_all<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(&self) -> Vec<K> {
        self.all().list(&ListParams::default()).await.unwrap().items
    }

    pub(crate) async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    }

    pub(crate) async fn patch_all<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(&self, name: &str, patch: Value) {
        self.all::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn delete<K>(&self, name: &str, params: DeleteParams)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().delete(name, &params).await.unwrap();
    }

    pub(crate) async fn delete_all<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(&self, name: &str) {
        self.all::<K>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until an object is as wanted.
    pub(crate) async fn until<K>(&self, what: &str, secs: u64, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        Self::wait(&self.api(), what, secs, name, wanted).await
    }

    pub(crate) async fn until_all<K>(&self, what: &str, secs: u64, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        Self::wait(&self.all(), what, secs, name, wanted).await
    }

    async fn wait<K>(api: &Api<K>, what: &str, secs: u64, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let mut last = None;
        for _ in 0..secs * 10 {
            last = api.get_opt(name).await.unwrap();
            if let Some(found) = last.as_ref().filter(|found| wanted(found)) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not within {secs} s: {what}: {last:#?}");
    }

    pub(crate) async fn gone<K>(&self, name: &str, secs: u64)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        Self::away(&self.api::<K>(), name, None, secs).await;
    }

    pub(crate) async fn gone_uid<K>(&self, name: &str, uid: &str, secs: u64)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        Self::away(&self.api::<K>(), name, Some(uid), secs).await;
    }

    pub(crate) async fn gone_all<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(&self, name: &str, secs: u64) {
        Self::away(&self.all::<K>(), name, None, secs).await;
    }

    async fn away<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(
        api: &Api<K>,
        name: &str,
        uid: Option<&str>,
        secs: u64,
    ) {
        let mut last = None;
        for _ in 0..secs * 10 {
            last = api.get_opt(name).await.unwrap();
            if last.as_ref().is_none_or(|found| uid.is_some_and(|uid| found.uid().as_deref() != Some(uid))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} is still there after {secs} s: {last:#?}");
    }

    pub(crate) async fn log(&self, pod: &str, previous: bool) -> kube::Result<String> {
        self.api::<Pod>().logs(pod, &LogParams { previous, ..LogParams::default() }).await
    }

    /// The log of a pod on a node.
    pub(crate) async fn logs(&self, node: &str) -> kube::Result<String> {
        let pods: Vec<Pod> = self.list("").await;
        let pod = pods.iter().find(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some(node)).unwrap();
        self.log(&pod.name_any(), false).await
    }

    /// Status, output, and what was said of a failure.
    pub(crate) async fn exec(&self, pod: &str, command: &[&str]) -> (Option<String>, String, String) {
        self.try_exec(pod, command).await.unwrap()
    }

    /// The same, of a container that may be down.
    pub(crate) async fn try_exec(&self, pod: &str, command: &[&str]) -> kube::Result<(Option<String>, String, String)> {
        let params = AttachParams::default().stdout(true).stderr(true);
        let mut session = self.api::<Pod>().exec(pod, command.to_vec(), &params).await?;
        let status = session.take_status().unwrap();
        let mut out = Vec::new();
        session.stdout().unwrap().read_to_end(&mut out).await.unwrap();
        // A damaged file is no text.
        let out = String::from_utf8_lossy(&out).into_owned();
        let status = status.await.unwrap();
        session.join().await.unwrap();
        Ok((status.status, out, status.message.unwrap_or_default()))
    }

    /// The whole minute from which minutes are counted.
    pub(crate) fn start(&self) -> jiff::Timestamp {
        self.start.get()
    }

    /// The next minutes are counted from now on.
    pub(crate) fn restart_clock(&self) {
        let minute = self.sandbox.now_us().div_euclid(60_000_000) * 60;
        self.start.set(jiff::Timestamp::from_second(minute).unwrap());
    }
}
