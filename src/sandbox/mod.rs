//! A Kubernetes cluster in the process, behaving as Kubernetes 1.34, in virtual time: an API server behind an ordinary
//! `kube::Client`, and if asked for controllers, kubelets and models of what containers run. `docs/sandbox.md` says what it
//! does and how it differs from a real one.
//!
//! Everything random comes from one seed and every time from tokio's clock, so that the same requests get the same
//! answers. All of it runs in a current-thread runtime, also one that was started with its clock paused.
//!
//! **Architecture invariant:** only this module knows that it is a sandbox. Everything else holds a `kube::Client`.

mod audit;
mod bootstrap;
mod cluster;
mod control;
mod core;
mod crd;
mod decode;
mod defaults;
mod delete;
mod discovery;
mod fields;
mod kinds;
mod kubelet;
mod managed;
mod model;
mod mounts;
mod net;
mod newest;
mod node;
mod patch;
mod program;
mod quantity;
mod rbac;
mod read;
mod refusal;
mod request;
mod schema;
mod security;
mod serve;
mod shell;
mod store;
mod strategy;
mod sub;
mod transport;
mod validate;
mod watch;
mod weather;
mod write;

use std::sync::{Arc, OnceLock};

pub use audit::AuditEntry;
pub use cluster::{ClusterOptions, NotRunning};
pub use kubelet::{ExecAsk, ExecEnd, Kubelets, LogAsk};
pub use model::Signal;
pub use node::NodeState;
pub use program::Truth;
pub use weather::Weather;

/// How a sandbox begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxOptions {
    /// From which everything random follows.
    pub seed: u64,
    /// Its wall clock when it begins, in microseconds since the Unix epoch.
    pub wall_us: i64,
}

/// A cluster in the process. Cheap to clone; it ends when the last handle and the last client of it are gone, or with
/// [`Sandbox::stop`].
#[derive(Debug, Clone)]
pub struct Sandbox {
    server: Arc<transport::Server>,
    /// Once it is started.
    cluster: Arc<OnceLock<Arc<cluster::Cluster>>>,
}

impl Sandbox {
    /// A fresh cluster: its namespaces and its first roles, nothing else. Must be called within a tokio runtime, whose clock it
    /// follows.
    pub fn new(options: SandboxOptions) -> Self {
        let core = Arc::new(core::Core::new(options.seed, options.wall_us));
        Self { server: Arc::new(transport::Server::new(core)), cluster: Arc::default() }
    }

    /// A client for a user. `admin`, and `admin:NAME` for who must be told apart, is of `system:masters` and may do everything; `system:serviceaccount:NAMESPACE:NAME` is a
    /// service account; anybody else may do what roles in the cluster say.
    pub fn client(&self, user: &str) -> kube::Client {
        self.server.client(user)
    }

    /// Every request so far, in order of arrival.
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.server.core.lock().audit.entries().to_vec()
    }

    /// As [`Self::audit`], for who only looks: nothing of it is copied. The API server stands still meanwhile.
    pub fn audited<T>(&self, with: impl FnOnce(&[AuditEntry]) -> T) -> T {
        with(self.server.core.lock().audit.entries())
    }

    /// How many requests there were so far, without a copy of them.
    pub fn asked(&self) -> u64 {
        let state = self.server.core.lock();
        state.audit.entries().len() as u64 + state.audit.dropped()
    }

    /// How many requests the audit log did not keep, because there were more than a million.
    pub fn audit_dropped(&self) -> u64 {
        self.server.core.lock().audit.dropped()
    }

    /// Makes trouble from now on, or none.
    pub fn set_weather(&self, weather: Weather) {
        self.server.core.lock().weather = weather;
    }

    /// Sets who answers `exec` and `log`; none: they are answered as by an API server that reaches no kubelet. One that holds a
    /// client of this sandbox keeps it alive until [`Sandbox::stop`].
    pub fn set_kubelets(&self, kubelets: Option<Arc<dyn Kubelets>>) {
        self.server.core.lock().kubelets = kubelets;
    }

    /// Forgets all changes so far, as etcd's compaction does: a watch or a list of an older version gets 410.
    pub fn compact(&self) {
        self.server.core.lock().store.compact();
    }

    /// Now, by the sandbox's wall clock, in microseconds since the Unix epoch.
    pub fn now_us(&self) -> i64 {
        self.server.core.clock.now().wall_us
    }

    /// Ends all connections and sessions and waits for their tasks. Clients get their connections refused from then on.
    pub async fn stop(&self) {
        if let Some(cluster) = self.cluster.get() {
            cluster.lock().nodes.drop_all();
        }
        self.server.stop().await;
    }
}
