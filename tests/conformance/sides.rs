//! The two sides that every case runs on: the sandbox, and an API server or a cluster with nodes that is real.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use firedrill::sandbox::{AuditEntry, ClusterOptions, Sandbox, SandboxOptions};
use futures::FutureExt as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    Case, answer,
    asked::{Asked, Log},
    bench::{Bench, Users},
    differences::Side,
};

/// No case takes longer, neither in real time nor in virtual.
const LIMIT: Duration = Duration::from_secs(180);
/// When the sandbox's clock begins: 2026-01-01T00:00:00Z.
const BEGIN_US: i64 = 1_767_225_600_000_000;

/// The variable that names the kubeconfig of a real side's cluster.
pub(crate) fn variable(side: Side) -> &'static str {
    if side == Side::Kubelets { "FIREDRILL_TESTBED_KUBECONFIG" } else { "FIREDRILL_TEST_KUBECONFIG" }
}

/// The cluster that a real side runs against, if one is named.
pub(crate) fn kubeconfig(side: Side) -> Option<PathBuf> {
    std::env::var_os(variable(side)).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// What a case that ran on a sandbox has asked, by its own account and by the sandbox's audit log.
#[derive(Clone)]
pub(crate) struct Ran {
    pub(crate) asked: Vec<Asked>,
    pub(crate) audited: Vec<Asked>,
}

/// Runs a case on a new sandbox, in virtual time.
pub(crate) fn on_sandbox(case: &'static Case) -> Result<Ran, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let sandbox = Sandbox::new(SandboxOptions { seed: 1, wall_us: BEGIN_US });
        if case.nodes {
            sandbox.start_cluster(ClusterOptions::default());
            for n in 1..=3 {
                sandbox.add_node(&format!("node{n}"), &format!("zone-{n}"));
            }
        }
        let users: Users = {
            let sandbox = sandbox.clone();
            Arc::new(move |user| sandbox.client(user))
        };
        let log = Log::default();
        let ended = run(case, Side::Sandbox, "conf-00000001".to_owned(), users, Arc::clone(&log)).await;
        sandbox.stop().await;
        ended?;
        let asked = log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let audited = sandbox.audit().iter().map(audited).collect();
        Ok(Ran { asked, audited })
    })
}

/// An entry of the sandbox's audit log in the suite's words.
fn audited(entry: &AuditEntry) -> Asked {
    let mut resource = if entry.resource.is_empty() { "-".to_owned() } else { entry.resource.clone() };
    for (mark, part) in [('.', &entry.group), ('/', &entry.subresource)] {
        if !part.is_empty() && !entry.resource.is_empty() {
            resource.push(mark);
            resource += part;
        }
    }
    let patch = entry.patch_type.trim_start_matches("application/").split(['-', '+']).next().unwrap_or_default();
    let patch = if patch.is_empty() { "-" } else { patch }.to_owned();
    Asked { verb: entry.verb.clone(), resource, patch, status: entry.code }
}

/// Runs a case on a real API server, or on a real cluster with nodes.
pub(crate) fn on_real(case: &'static Case, side: Side, kubeconfig: &PathBuf) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(|error| error.to_string())?;
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(|error| error.to_string())?;
        // A request is made once, and its answer is what is looked at.
        config.default_retry = false;
        let users: Users = Arc::new(move |user| {
            let mut config = config.clone();
            if user != "admin" {
                config.auth_info.impersonate = Some(user.to_owned());
            }
            Client::try_from(config).unwrap_or_else(|error| panic!("no client for {user}: {error}"))
        });
        run(case, side, format!("conf-{:08x}", rand::random::<u32>()), users, Log::default()).await
    })
}

/// Runs a case in a namespace and takes everything away afterwards, however it ended.
async fn run(case: &'static Case, side: Side, namespace: String, users: Users, log: Log) -> Result<(), String> {
    // What a case before it on this thread left unsaid is not this one's.
    drop(answer::wrong());
    let bench = Bench::new(side, namespace, users, log).await;
    // What a case that panics leaves behind is thrown away.
    let ended = tokio::time::timeout(LIMIT, AssertUnwindSafe((case.run)(&bench)).catch_unwind()).await;
    bench.end().await;
    let mut wrong = answer::wrong();
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => wrong.push(said(&*panic)),
        Err(_) => wrong.push(format!("not over within {LIMIT:?}")),
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}
