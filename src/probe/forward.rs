//! The way to a database through the API server: a port-forward to a pod of it.
//!
//! It needs nothing in the cluster, and how long it takes does not matter to who goes it: digests and faults. Measured probes never go
//! that way.

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, ResourceExt};
use tokio_postgres::NoTls;
use tokio_util::task::AbortOnDropHandle;

use super::pods::Matching;
use crate::{
    cluster::Cluster,
    plan::Plan,
    runbook,
    scenario::types::{Postgres, ServiceRef},
};

/// PostgreSQL's port where nothing else is said.
const PORT: u16 = 5432;
/// Tries to connect: right after a failover or a restore a first one may be refused.
pub(crate) const TRIES: u32 = 10;
/// Time between tries.
const AGAIN: Duration = Duration::from_millis(500);
/// No such database, as SQLSTATE.
const NO_DATABASE: &str = "3D000";
/// What the SQLSTATE of a wrong role or password begins with: trying again might lock it.
const NOT_AUTHORIZED: &str = "28";

/// A connection to a database. Dropping it closes it.
pub(crate) struct Database {
    client: tokio_postgres::Client,
    /// What it is called in messages.
    pub(crate) name: String,
    /// Lives as long as the connection does.
    _driver: AbortOnDropHandle<()>,
}

impl Database {
    /// To ask it with. (Not a field: a closure would take that alone, and the connection would end.)
    pub(crate) const fn client(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

/// Why a database was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreached {
    /// What leads to it, or the database itself, is no longer there.
    #[error("{0}")]
    Gone(String),
    /// Not now.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for Unreached {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Connects, as the role of the Secret, after at most so many tries.
///
/// # Errors
/// If that fails; the caller limits the time.
pub(crate) async fn database(cluster: &Cluster, plan: &Plan, drill: &str, at: &Postgres, tries: u32) -> Result<Database, Unreached> {
    let (user, password) = credentials(cluster, at).await?;
    let mut config = tokio_postgres::Config::new();
    config.user(&user).password(&password).dbname(&at.database).application_name("firedrill");
    let mut tried = 0;
    loop {
        tried += 1;
        let (namespace, pod, port) = place(cluster, plan, drill, at).await?;
        let name = format!("database {} in pod {namespace}/{pod} as {user}", at.database);
        match connect(cluster, &namespace, &pod, port, &config).await {
            Ok((client, driver)) => return Ok(Database { client, name, _driver: driver }),
            Err((why, Some(code))) if code == NO_DATABASE => return Err(Unreached::Gone(format!("failed to connect to {name}: {why}"))),
            Err((why, code)) if tried >= tries || code.as_deref().is_some_and(|code| code.starts_with(NOT_AUTHORIZED)) => {
                return Err(Unreached::Failed(format!("failed to connect to {name}: {why}")));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// The server's own words, without the statement.
pub(crate) fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => {
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            format!("{error}: {cause}")
        }
    }
}

/// Why a connection failed, with the server's SQLSTATE where it gave one.
type NotConnected = (String, Option<String>);

async fn connect(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    port: u16,
    config: &tokio_postgres::Config,
) -> Result<(tokio_postgres::Client, AbortOnDropHandle<()>), NotConnected> {
    let pods: Api<Pod> = Api::namespaced(cluster.streams.clone(), namespace);
    let what = format!("forward port {port} of pod {namespace}/{pod}");
    let ports = [port];
    let forward = crate::cluster::limit(pods.portforward(pod, &ports), crate::cluster::CALL_LIMIT, what);
    let mut forward = forward.await.map_err(|e| (e.to_string(), None))?;
    let stream = forward.take_stream(port).ok_or_else(|| ("the port-forward gave no stream".to_owned(), None))?;
    let connected = tokio::time::timeout(crate::cluster::CALL_LIMIT, config.connect_raw(stream, NoTls)).await;
    let connected = connected.map_err(|_| ("no answer".to_owned(), None))?;
    let (client, connection) = connected.map_err(|e| (said(&e), e.code().map(|code| code.code().to_owned())))?;
    let task = tokio::spawn(async move {
        // Its end is told to the query under way; the port-forward lives as long as it does.
        let _ = connection.await;
        forward.abort();
    });
    Ok((client, AbortOnDropHandle::new(task)))
}

async fn credentials(cluster: &Cluster, at: &Postgres) -> Result<(String, String), String> {
    let secret = cluster.get_opt::<Secret>(&at.secret.namespace, &at.secret.name).await.map_err(|e| e.to_string())?;
    let data =
        secret.and_then(|s| s.data).ok_or_else(|| format!("there is no Secret {} with keys `username` and `password`", at.secret))?;
    let key = |key: &str| {
        let value = data.get(key).ok_or_else(|| format!("Secret {} has no key `{key}`", at.secret))?;
        String::from_utf8(value.0.clone()).map_err(|_| format!("key `{key}` of Secret {} is not UTF-8", at.secret))
    };
    Ok((key("username")?, key("password")?))
}

/// The pod and port to connect to.
async fn place(cluster: &Cluster, plan: &Plan, drill: &str, at: &Postgres) -> Result<(String, String, u16), Unreached> {
    match (&at.service, &at.target, &at.runbook) {
        (Some(service), None, None) => behind(cluster, service).await,
        (None, Some(target), None) => in_target(cluster, plan, target).await,
        (None, None, Some(step)) => {
            let planned = plan.step_named(step).ok_or_else(|| format!("there is no step `{step}`"))?;
            let job = planned.spec.runbook.as_ref().and_then(|r| r.run_in.as_ref()).and_then(|r| r.job.as_ref());
            let job = job.ok_or_else(|| format!("step `{step}` is no runbook with `runIn.job`, so no pod was made for it"))?;
            Ok((job.namespace.clone(), runbook::name(drill, &planned.path, 1), PORT))
        }
        _ => Err("the database needs exactly one of `service`, `target` and `runbook`".to_owned().into()),
    }
}

/// The first ready pod, by name, of those that a target matches now.
async fn in_target(cluster: &Cluster, plan: &Plan, target: &str) -> Result<(String, String, u16), Unreached> {
    let spec = &plan.targets.get(target).ok_or_else(|| format!("the plan has no target `{target}`"))?.spec;
    let matching = Matching::of(spec, target)?;
    let namespace = spec.namespace.clone().ok_or_else(|| format!("target `{target}` has no namespace"))?;
    let (api, params) = (cluster.api::<Pod>(&namespace), matching.params());
    let pods = cluster.call(format!("list pods of target `{target}`"), api.list(&params)).await.map_err(|error| error.to_string())?.items;
    let ready = |pod: &Pod| pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    let stays = |pod: &Pod| matching.owns(pod) && pod.metadata.deletion_timestamp.is_none();
    let mut names: Vec<String> = pods.iter().filter(|pod| stays(pod) && ready(pod)).map(ResourceExt::name_any).collect();
    names.sort();
    let count = pods.len();
    let first = names.into_iter().next().ok_or_else(|| format!("no pod of target `{target}` is ready ({count} match)"))?;
    Ok((namespace, first, PORT))
}

/// A ready endpoint: its pod, where it names one, and its addresses; and the port there.
struct Behind {
    pod: Option<String>,
    addresses: Vec<String>,
    port: u16,
}

/// A ready pod behind a Service.
async fn behind(cluster: &Cluster, service: &ServiceRef) -> Result<(String, String, u16), Unreached> {
    let namespace = &service.namespace;
    let found = cluster.get_opt::<Service>(namespace, &service.name).await.map_err(|e| e.to_string())?;
    let gone = || Unreached::Gone(format!("there is no Service {namespace}/{}", service.name));
    let spec = found.and_then(|s| s.spec).ok_or_else(gone)?;
    let wanted = service.port.clone().unwrap_or_else(|| PORT.to_string());
    let port = spec.ports.iter().flatten().find(|p| p.port.to_string() == wanted || p.name.as_deref() == Some(wanted.as_str()));
    let port = port.ok_or_else(|| format!("Service {namespace}/{} has no port {wanted}", service.name))?;
    let slices: Api<EndpointSlice> = cluster.api(namespace);
    let labels = format!("kubernetes.io/service-name={}", service.name);
    let slices =
        cluster.list_all(&slices, Some(&labels), &format!("list endpoints of Service {service}")).await.map_err(|e| e.to_string())?;
    for place in ready(&slices, port.name.as_deref().unwrap_or("")) {
        if let Some(pod) = place.pod {
            return Ok((namespace.clone(), pod, place.port));
        }
        // Endpoints that somebody else writes (Patroni does) may have no more than an address.
        let pods = cluster
            .list_all(&cluster.api::<Pod>(namespace), None, &format!("list pods in {namespace}"))
            .await
            .map_err(|e| e.to_string())?;
        let has = |pod: &Pod| pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_some_and(|ip| place.addresses.contains(ip));
        if let Some(pod) = pods.iter().find(|p| has(p)) {
            return Ok((namespace.clone(), pod.name_any(), place.port));
        }
    }
    Err(format!("Service {service} has no ready endpoint that is a pod").into())
}

/// The ready endpoints of a port.
fn ready(slices: &[EndpointSlice], port: &str) -> Vec<Behind> {
    let mut all = Vec::new();
    for slice in slices {
        let named = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or("") == port);
        let Some(number) = named.and_then(|p| p.port).and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in &slice.endpoints {
            if endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true) {
                let pod = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod")).and_then(|t| t.name.clone());
                all.push(Behind { pod, addresses: endpoint.addresses.clone(), port: number });
            }
        }
    }
    all
}
