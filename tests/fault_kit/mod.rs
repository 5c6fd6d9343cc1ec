//! What the suites of faults share, on real API servers, on kubelets and in the sandbox.
//!
//! Each case that went well is a line `fault<TAB>case<TAB>where<TAB>ok` in the file that `FIREDRILL_FAULT_TABLE` names, if it is set.

#![allow(dead_code, reason = "each suite uses its own part")]

use std::{fmt::Debug, io::Write as _, sync::Arc, time::Duration};

use firedrill::{
    clock::Clock,
    cluster::Cluster,
    fault::{self, FaultCx, Helpers},
    plan::{Plan, ResolvedObject, ResolvedTarget, Scope},
    sandbox::{ClusterOptions, Sandbox, SandboxOptions},
    scenario::types::{EnvironmentSpec, FaultSpec, OwnPlace, Target},
};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Config, Resource, ResourceExt as _,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The longest wait for anything a controller does.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The kubeconfig that a suite needs, from this environment variable; without it, says why the suite does not run.
pub fn kubeconfig(variable: &str, how: &str) -> Option<String> {
    let found = std::env::var(variable).ok().filter(|v| !v.is_empty());
    if found.is_none() {
        println!("SKIPPED: {variable} is not set. This suite needs {how}, then: {variable}=… cargo test --test …");
    }
    found
}

/// A client of its own to the cluster, as another machine would have.
pub async fn connect(kubeconfig: &str) -> Cluster {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    config.read_timeout = None;
    let client = kube::Client::try_from(config).unwrap();
    let uid = Api::<Namespace>::all(client.clone()).get("kube-system").await.unwrap().uid().unwrap();
    Cluster::from_client(client, "test", uid)
}

/// A name that no other run has.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:08x}", rand::random::<u32>())
}

/// A namespace that allows drills, deleted by [`World::end`].
pub struct World {
    pub cluster: Cluster,
    pub ns: String,
    clock: Clock,
    /// The cluster itself, if it is one in the process.
    pub sandbox: Option<Sandbox>,
    /// Whether real kubelets run what is made.
    pub kubelets: bool,
}

impl World {
    pub async fn new(cluster: Cluster, prefix: &str) -> Self {
        Self::made(cluster, unique(prefix), Clock::host(), None).await
    }

    /// One whose pods real kubelets run.
    pub async fn on_kubelets(cluster: Cluster, prefix: &str) -> Self {
        Self { kubelets: true, ..Self::new(cluster, prefix).await }
    }

    /// A namespace that somebody else has made, and ends.
    pub fn existing(cluster: Cluster, ns: &str) -> Self {
        Self { cluster, ns: ns.to_owned(), clock: Clock::host(), sandbox: None, kubelets: false }
    }

    /// One in the process, with three nodes and firedrill's own namespace.
    pub async fn in_sandbox() -> Self {
        let sandbox = Sandbox::new(SandboxOptions { seed: 7, wall_us: 1_767_225_600_000_000 });
        sandbox.start_cluster(ClusterOptions::default());
        for n in 0..3 {
            sandbox.add_node(&format!("n{n}"), &format!("zone-{n}"));
        }
        let cluster = of_sandbox(&sandbox, "admin").await;
        let clock = Clock::virtual_at("runner", sandbox.now_us());
        Self::made(cluster, "shop".to_owned(), clock, Some(sandbox)).await
    }

    /// The same world, as another machine sees it: with a connection of its own.
    pub async fn elsewhere(&self, kubeconfig: &str) -> Self {
        let cluster = match &self.sandbox {
            Some(sandbox) => of_sandbox(sandbox, "admin:elsewhere").await,
            None => connect(kubeconfig).await,
        };
        Self { cluster, ns: self.ns.clone(), clock: self.clock.clone(), sandbox: self.sandbox.clone(), kubelets: self.kubelets }
    }

    async fn made(cluster: Cluster, ns: String, clock: Clock, sandbox: Option<Sandbox>) -> Self {
        let namespace = json!({"metadata": {"name": ns, "labels": {"firedrill.dev/drills": "allowed"}}});
        cluster.cluster_api::<Namespace>().create(&PostParams::default(), &from(namespace)).await.unwrap();
        let own = json!({"metadata": {"name": OwnPlace::default().namespace}});
        // Another suite may have made it.
        match cluster.cluster_api::<Namespace>().create(&PostParams::default(), &from(own)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.unwrap()),
        }
        // Pods are refused until the controller has made this.
        until("the default service account", || async {
            cluster.get_opt::<k8s_openapi::api::core::v1::ServiceAccount>(&ns, "default").await.unwrap().is_some()
        })
        .await;
        Self { cluster, ns, clock, sandbox, kubelets: false }
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + serde::Serialize,
    {
        self.cluster.api::<K>(&self.ns).create(&PostParams::default(), &from(object)).await.unwrap()
    }

    pub async fn end(self) {
        let _ = self.cluster.cluster_api::<Namespace>().delete(&self.ns, &DeleteParams::default()).await;
        if let Some(sandbox) = self.sandbox {
            sandbox.stop().await;
        }
    }

    /// The runner's clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// What a runner has for faults on these targets.
    pub fn cx(&self, drill: &str, targets: &[(&str, &[&str])], own: OwnPlace, ttl: Duration) -> FaultCx {
        let targets = targets.iter().map(|(name, containers)| {
            let spec = Target { containers: containers.iter().map(|c| (*c).to_owned()).collect(), ..Target::default() };
            ((*name).to_owned(), ResolvedTarget { spec, objects: Vec::new(), matched: 0 })
        });
        let place = EnvironmentSpec { firedrill: own, ..EnvironmentSpec::default() };
        let scope = Scope { namespaces: vec![self.ns.clone()], ..Scope::default() };
        let plan = Arc::new(Plan { place, targets: targets.collect(), scope, ..Plan::empty("contract") });
        let (cluster, clock) = (self.cluster.clone(), self.clock.clone());
        let helpers = Helpers::with_ttl(cluster.clone(), clock.clone(), Arc::clone(&plan), drill, ttl);
        FaultCx { helpers, ..FaultCx::new(cluster, clock, plan, drill) }
    }
}

async fn of_sandbox(sandbox: &Sandbox, user: &str) -> Cluster {
    let client = sandbox.client(user);
    let uid = Api::<Namespace>::all(client.clone()).get("kube-system").await.unwrap().uid().unwrap();
    Cluster::from_client(client, "sandbox", uid)
}

pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub fn spec(fault: Value) -> FaultSpec {
    from(fault)
}

pub fn resolved(kind: &str, object: &impl kube::ResourceExt) -> ResolvedObject {
    ResolvedObject {
        kind: kind.to_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap(),
        node: String::new(),
        owner: String::new(),
        ready: true,
        chosen: true,
    }
}

/// Waits for a condition, or fails naming it.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The whole way of a fault up to its proof; returns what the journal would keep, through JSON as the journal keeps it.
pub async fn bite(cx: &FaultCx, spec: &FaultSpec, objects: &[ResolvedObject]) -> Result<fault::Undo, String> {
    let prepared = fault::prepare(cx, spec, objects).await.map_err(|e| format!("prepare: {e}"))?;
    fault::arm(cx, spec, &prepared.undo).await.map_err(|e| format!("arm: {e}"))?;
    fault::inject(cx, spec, &prepared.undo).await.map_err(|e| format!("inject: {e}"))?;
    fault::effective(cx, spec, &prepared.undo, LIMIT).await.map_err(|e| format!("effective: {e}"))?;
    let kept = serde_json::to_string(&prepared.undo).map_err(|e| e.to_string())?;
    serde_json::from_str(&kept).map_err(|e| e.to_string())
}

/// One line a test: `freeze │ inject twice │ ok │ detail`.
pub struct Table {
    place: &'static str,
    lines: Vec<(String, String, Result<String, String>)>,
}

impl Table {
    /// Of cases that run there: `sandbox`, `API server`, `kubelets`.
    pub fn of(place: &'static str) -> Self {
        Self { place, lines: Vec::new() }
    }

    pub fn add(&mut self, fault: &str, case: &str, outcome: Result<String, String>) {
        self.lines.push((fault.to_owned(), case.to_owned(), outcome));
    }

    /// Prints it, and fails if a line failed or there is none.
    pub fn end(self) {
        self.keep();
        let widest = |widths: Vec<usize>| widths.into_iter().max().unwrap_or(0);
        let a = widest(self.lines.iter().map(|r| r.0.len()).collect());
        let b = widest(self.lines.iter().map(|r| r.1.len()).collect());
        println!("\n{:a$} | {:b$} | outcome", "fault", "case");
        for (fault, case, outcome) in &self.lines {
            match outcome {
                Ok(said) => println!("{fault:a$} | {case:b$} | ok: {said}"),
                Err(why) => println!("{fault:a$} | {case:b$} | FAILED: {why}"),
            }
        }
        let (failed, all) = (self.lines.iter().filter(|r| r.2.is_err()).count(), self.lines.len());
        println!("{all} cases, {failed} failed\n");
        assert!(failed == 0 && all > 0, "{failed} of {all} cases failed; see the table");
    }

    /// Adds the cases that went well to the file from which the table in the docs is made.
    fn keep(&self) {
        let Some(path) = std::env::var_os("FIREDRILL_FAULT_TABLE").filter(|path| !path.is_empty()) else { return };
        let lines: String =
            self.lines.iter().filter(|r| r.2.is_ok()).map(|(fault, case, _)| format!("{fault}\t{case}\t{}\tok\n", self.place)).collect();
        // One write, so that suites that run beside each other do not mix their lines.
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}

/// A condition of a case.
pub fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
