//! A digest of rows, computed in the database: whether a restored copy holds what its source holds.
//!
//! Only three numbers leave the database: how many rows the query gives, and the sums of the two halves of the first 128
//! bits of each row's SHA-256, as whole numbers of any size. Sums, because they stream: a hash over all rows in order
//! (`string_agg`) holds the whole table in one value of at most 1 GB, and depends on an order that differs between
//! collations of two machines; rows in a table have no order to compare anyway. A row changed, missing, added or doubled
//! changes the sums; two different sets of rows with the same sums would be a collision of 128 bits, which chance does not
//! make. A row's text is read under fixed settings (time zone, dates, floats, bytea), so that two servers write equal rows alike.
//!
//! The way there is a port-forward through the API server: it needs nothing in the cluster, and how long it takes does not
//! matter here. Measured probes never go that way.

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, ResourceExt as _};
use sha2::{Digest as _, Sha256};
use tokio_postgres::NoTls;

use crate::{
    cluster::Cluster,
    journal::{DigestWhich, Reading},
    plan::Plan,
    runbook,
    scenario::types::{DigestSide, Postgres, ServiceRef},
};

/// PostgreSQL's port where nothing else is said.
const PORT: u16 = 5432;
/// Tries to connect: right after a failover or a restore a first one may be refused.
const TRIES: u32 = 10;
/// Time between tries.
const AGAIN: Duration = Duration::from_millis(500);

/// Reads one side's digest within a limit. What goes wrong becomes [`Reading::Failed`]: a digest that could not be read decides nothing.
pub async fn read(
    cluster: &Cluster,
    plan: &Plan,
    drill: &str,
    side: &DigestSide,
    query: &str,
    which: DigestWhich,
    limit: Duration,
) -> Reading {
    match tokio::time::timeout(limit, digest(cluster, plan, drill, &side.postgres, query, limit)).await {
        Ok(Ok((rows, digest))) => Reading::Digest { side: which, digest, rows },
        Ok(Err(detail)) => Reading::Failed { detail },
        Err(_) => Reading::Failed { detail: format!("the digest was not computed within {}", crate::scenario::types::Dur(limit)) },
    }
}

async fn digest(cluster: &Cluster, plan: &Plan, drill: &str, at: &Postgres, query: &str, limit: Duration) -> Result<(u64, String), String> {
    let (user, password) = credentials(cluster, at).await?;
    let mut config = tokio_postgres::Config::new();
    config.user(&user).password(&password).dbname(&at.database).application_name("firedrill digest");
    let mut tried = 0;
    let (client, connection, name) = loop {
        tried += 1;
        let (namespace, pod, port) = place(cluster, plan, drill, at).await?;
        let name = format!("database {} in pod {namespace}/{pod} as {user}", at.database);
        match connect(cluster, &namespace, &pod, port, &config).await {
            Ok((client, connection)) => break (client, connection, name),
            Err(why) if tried >= TRIES => return Err(format!("failed to connect to {name}: {why}")),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    };
    let row = ask(&client, query, limit).await;
    connection.abort();
    let (rows, first, second) = row.map_err(|e| format!("failed to compute the digest in {name}: {}", said(&e)))?;
    let rows = u64::try_from(rows).map_err(|_| format!("{name} counted {rows} rows"))?;
    Ok((rows, hex::encode(&Sha256::digest(format!("{rows} {first} {second}"))[..16])))
}

/// The wrapped query. The user's is a sub-select on lines of its own, so that a remark at its end does not eat the rest.
fn wrapped(query: &str) -> String {
    let query = query.trim().trim_end_matches(';');
    let half = |from: u8| format!("coalesce(sum(('x' || substr(h, {from}, 16))::bit(64)::bigint::numeric), 0)::text");
    format!(
        "select count(*), {}, {} from (select encode(sha256(convert_to(r::text, 'UTF8')), 'hex') as h from (\n{query}\n) as r) as hashes",
        half(1),
        half(17)
    )
}

async fn ask(client: &tokio_postgres::Client, query: &str, limit: Duration) -> Result<(i64, String, String), tokio_postgres::Error> {
    // One snapshot, nothing written, and rows written as text alike on every server.
    let settings = format!(
        "begin transaction isolation level repeatable read read only; set local statement_timeout = {}; set local timezone = 'UTC'; \
         set local datestyle = 'ISO, YMD'; set local intervalstyle = 'iso_8601'; set local extra_float_digits = 1; \
         set local bytea_output = 'hex'; set local xmlbinary = 'base64'",
        limit.as_millis().min(i32::MAX as u128)
    );
    client.batch_execute(&settings).await?;
    let row = client.query_one(wrapped(query).as_str(), &[]).await?;
    let answer = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    client.batch_execute("rollback").await?;
    Ok(answer)
}

/// The server's own words, without the statement.
fn said(error: &tokio_postgres::Error) -> String {
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

/// Ends its task when it is dropped.
struct Connection(tokio::task::JoinHandle<()>);

impl Connection {
    fn abort(self) {
        drop(self);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    port: u16,
    config: &tokio_postgres::Config,
) -> Result<(tokio_postgres::Client, Connection), String> {
    let pods: Api<Pod> = Api::namespaced(cluster.streams.clone(), namespace);
    let what = format!("forward port {port} of pod {namespace}/{pod}");
    let ports = [port];
    let forward = crate::cluster::limit(pods.portforward(pod, &ports), crate::cluster::CALL_LIMIT, what);
    let mut forward = forward.await.map_err(|e| e.to_string())?;
    let stream = forward.take_stream(port).ok_or("the port-forward gave no stream")?;
    let connected = tokio::time::timeout(crate::cluster::CALL_LIMIT, config.connect_raw(stream, NoTls)).await;
    let (client, connection) = connected.map_err(|_| "no answer".to_owned())?.map_err(|e| said(&e))?;
    let task = tokio::spawn(async move {
        // Its end is told to the query under way; the port-forward lives as long as it does.
        let _ = connection.await;
        forward.abort();
    });
    Ok((client, Connection(task)))
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
async fn place(cluster: &Cluster, plan: &Plan, drill: &str, at: &Postgres) -> Result<(String, String, u16), String> {
    match (&at.service, &at.target, &at.runbook) {
        (Some(service), None, None) => behind(cluster, service).await,
        (None, Some(target), None) => {
            let pod = runbook::in_target(cluster, plan, target).await?;
            Ok((pod.namespace().unwrap_or_default(), pod.name_any(), PORT))
        }
        (None, None, Some(step)) => {
            let planned = plan.step_named(step).ok_or_else(|| format!("there is no step `{step}`"))?;
            let job = planned.spec.runbook.as_ref().and_then(|r| r.run_in.as_ref()).and_then(|r| r.job.as_ref());
            let job = job.ok_or_else(|| format!("step `{step}` is no runbook with `runIn.job`, so no pod was made for it"))?;
            Ok((job.namespace.clone(), runbook::name(drill, &planned.path, 1), PORT))
        }
        _ => Err("the database needs exactly one of `service`, `target` and `runbook`".to_owned()),
    }
}

/// A ready pod behind a Service.
async fn behind(cluster: &Cluster, service: &ServiceRef) -> Result<(String, String, u16), String> {
    let namespace = &service.namespace;
    let found = cluster.get_opt::<Service>(namespace, &service.name).await.map_err(|e| e.to_string())?;
    let spec = found.and_then(|s| s.spec).ok_or_else(|| format!("there is no Service {namespace}/{}", service.name))?;
    let wanted = service.port.clone().unwrap_or_else(|| PORT.to_string());
    let port = spec.ports.iter().flatten().find(|p| p.port.to_string() == wanted || p.name.as_deref() == Some(wanted.as_str()));
    let port = port.ok_or_else(|| format!("Service {namespace}/{} has no port {wanted}", service.name))?;
    let slices: Api<EndpointSlice> = cluster.api(namespace);
    let labels = format!("kubernetes.io/service-name={}", service.name);
    let slices =
        cluster.list_all(&slices, Some(&labels), &format!("list endpoints of Service {service}")).await.map_err(|e| e.to_string())?;
    for slice in slices {
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or(""))
            .and_then(|p| p.port);
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)) {
            if let Some(name) = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod")).and_then(|t| t.name.clone()) {
                return Ok((namespace.clone(), name, number));
            }
            // Endpoints that somebody else writes (Patroni does) may have no more than an address.
            let pods = cluster
                .list_all(&cluster.api::<Pod>(namespace), None, &format!("list pods in {namespace}"))
                .await
                .map_err(|e| e.to_string())?;
            let has = |pod: &Pod| pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_some_and(|ip| endpoint.addresses.contains(ip));
            if let Some(pod) = pods.iter().find(|p| has(p)) {
                return Ok((namespace.clone(), pod.name_any(), number));
            }
        }
    }
    Err(format!("Service {service} has no ready endpoint that is a pod"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_wrapped_whole() {
        let sql = wrapped(" select id from t -- all of it\n ;");
        assert!(sql.contains("from (\nselect id from t -- all of it\n \n) as r"), "{sql}");
        assert!(sql.contains("substr(h, 1, 16)") && sql.contains("substr(h, 17, 16)"));
    }
}
