//! The cluster around the API server: its controllers, its nodes, and what can be done to them from outside.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    Sandbox, bootstrap,
    control::{self, Control, Item},
    model::Signal,
    net::{Net, Place},
    node::{NodeState, Nodes},
    program::{Hosting, Truth},
};
use crate::net::Dialer;

/// How a cluster's controllers are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterOptions {
    /// How long a node may be silent until it is taken to be lost (`--node-monitor-grace-period`).
    pub node_grace: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { node_grace: Duration::from_secs(40) }
    }
}

/// What of the cluster is not in the API server's store.
pub(super) struct Inner {
    pub(super) control: Control,
    pub(super) nodes: Nodes,
    /// Work that somebody outside of the controllers' task has made.
    pub(super) poked: Vec<Item>,
}

/// The cluster. Where both are locked, the API server's state is locked first.
pub(super) struct Cluster {
    inner: Mutex<Inner>,
    pub(super) poke: Notify,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    fn new(options: ClusterOptions, seed: u64) -> Self {
        let inner = Inner { control: Control::new(options, seed), nodes: Nodes::new(seed), poked: Vec::new() };
        Self { inner: Mutex::new(inner), poke: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts work into the queue, and wakes the controllers.
    pub(super) fn poke(&self, items: impl IntoIterator<Item = Item>) {
        self.lock().poked.extend(items);
        self.poke.notify_one();
    }
}

/// A container that does not run, or is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to signal container {container} of pod {pod}: it does not run")]
pub struct NotRunning {
    /// Namespace and name.
    pub pod: String,
    /// Its name.
    pub container: String,
}

impl Sandbox {
    /// Starts controllers, scheduler and kubelets. Once only: later calls, with whatever options, change nothing.
    pub fn start_cluster(&self, options: ClusterOptions) {
        self.cluster_with(options);
    }

    fn cluster_with(&self, options: ClusterOptions) -> Arc<Cluster> {
        let core = &self.server.core;
        let made = self.cluster.get_or_init(|| {
            let cluster = Arc::new(Cluster::new(options, core.seed));
            let net = Arc::new(Net::new(&self.server, &cluster));
            cluster.lock().nodes.hosting = Some(Arc::new(Hosting::new(&self.server, &cluster, net)));
            {
                let mut state = core.lock();
                bootstrap::cluster(&mut state);
                state.kubelets = Some(Arc::new(super::node::Reach { cluster: Arc::clone(&cluster), clock: core.clock.clone() }));
            }
            self.server.spawn(control::run(Arc::clone(core), Arc::clone(&cluster)));
            cluster
        });
        Arc::clone(made)
    }

    fn cluster(&self) -> Arc<Cluster> {
        self.cluster_with(ClusterOptions::default())
    }

    /// Adds a node with a kubelet, in a zone. The cluster is started if it was not. A node of that name is left as it is.
    pub fn add_node(&self, name: &str, zone: &str) {
        let cluster = self.cluster();
        let mut state = self.server.core.lock();
        let item = cluster.lock().nodes.register(&mut state, name, zone);
        drop(state);
        cluster.poke(item);
    }

    /// Loses a node or brings it back. False: there is none of that name.
    pub fn set_node(&self, name: &str, to: NodeState) -> bool {
        let cluster = self.cluster();
        let now = self.now_us();
        let items = cluster.lock().nodes.set(name, to, now);
        items.map(|items| cluster.poke(items)).is_some()
    }

    /// Fills a node's disk or frees it. False: there is no node of that name.
    pub fn fill_node_disk(&self, name: &str, full: bool) -> bool {
        let cluster = self.cluster();
        let now = self.now_us();
        let items = cluster.lock().nodes.fill(name, full, now);
        items.map(|items| cluster.poke(items)).is_some()
    }

    /// Sends a signal to a container's processes, as somebody does who is on its node.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, namespace: &str, pod: &str, container: &str, signal: Signal) -> Result<(), NotRunning> {
        let cluster = self.cluster();
        let now = self.now_us();
        let items = cluster.lock().nodes.signal((namespace, pod), container, signal, now);
        let missing = || NotRunning { pod: format!("{namespace}/{pod}"), container: container.to_owned() };
        cluster.poke(items.ok_or_else(missing)?);
        Ok(())
    }

    /// The network as a pod of this namespace has it whose node is never lost; or, without one, as a machine outside of the cluster
    /// has it, which can reach nothing in it.
    pub fn dialer(&self, namespace: Option<&str>) -> Dialer {
        let cluster = self.cluster();
        let hosting = cluster.lock().nodes.hosting.clone();
        match (hosting, namespace) {
            (Some(hosting), Some(namespace)) => hosting.net.dialer(Place::within(namespace)),
            (Some(hosting), None) => hosting.net.dialer(Place::outside()),
            // It has ended.
            (None, _) => Net::ended(),
        }
    }

    /// What models have noted to be so, in order: for those who check what was measured.
    pub fn truth(&self) -> Vec<Truth> {
        let hosting = self.cluster().lock().nodes.hosting.clone();
        hosting.map(|hosting| hosting.truths()).unwrap_or_default()
    }

    /// How often controllers and kubelets had something to do so far: what an idle cluster costs.
    pub fn wakes(&self) -> u64 {
        self.cluster().lock().control.wakes
    }
}
