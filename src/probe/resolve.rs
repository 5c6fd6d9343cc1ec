//! From what the plan says of a probe to something that can be sampled: Services become hosts and ports, Secrets are
//! read, what is watched through the API server gets its watch.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Secret as SecretObject, Service};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;

use super::{
    AlertSpec, LedgerCopy, LedgerSpec, PgTarget, ProbeCx, ProbeSpec, Secret, SpecKind, SqlSpec, Take,
    backup::Backup,
    ledger, object,
    pods::{self, Matching},
};
use crate::{
    plan::PlannedProbe,
    scenario::types::{AlertProbe, Endpoint, ObjectName, OneOf as _, Postgres, ProbeState, ServiceRef, Vantage},
};

/// PostgreSQL's port where nothing else is said.
const POSTGRES: u16 = 5432;

/// A probe that can be sampled, by whom.
pub(super) enum Sampled {
    /// By an engine, there.
    Spec(Box<ProbeSpec>, Vantage),
    /// By the runner, through the API server.
    Here { take: Take, silence: ProbeState, nudges: Option<mpsc::Receiver<()>>, backup: Option<Arc<Backup>> },
}

pub(super) async fn resolve(cx: &ProbeCx, name: &str, planned: &PlannedProbe) -> Result<Sampled, String> {
    let spec = &planned.spec;
    if let Some(probe) = &spec.pods {
        return Ok(here(pods::take(cx, probe)?));
    }
    if let Some(probe) = &spec.object {
        return Ok(here(object::take(cx, probe).await?));
    }
    if let Some(probe) = &spec.backup {
        let backup = Arc::new(Backup::new(cx, probe)?);
        return Ok(Sampled::Here { take: backup.take(), silence: ProbeState::Unknown, nudges: None, backup: Some(backup) });
    }
    let (kind, from) = if let Some(probe) = &spec.http {
        (SpecKind::Http(probe.clone()), planned.from)
    } else if let Some(probe) = &spec.tcp {
        (SpecKind::Tcp(probe.clone()), planned.from)
    } else if let Some(probe) = &spec.metric {
        let (prometheus, from) = endpoint(cx, cx.plan.place.prometheus.as_ref(), "prometheus").await?;
        (SpecKind::Metric { probe: probe.clone(), prometheus }, from)
    } else if let Some(probe) = &spec.alert {
        alert(cx, probe).await?
    } else if let Some(probe) = &spec.sql {
        let target = postgres(cx, &probe.postgres).await?;
        let (query, expect) = (probe.query.clone(), probe.expect.clone());
        let sql = SqlSpec { target, query, expect, refused: probe.refused, writes: probe.writes };
        (SpecKind::Sql(sql), spec.from.unwrap_or(Vantage::Cluster))
    } else if let Some(probe) = spec.ledger.as_ref().and_then(|ledger| ledger.postgres.as_ref()) {
        let target = postgres(cx, probe).await?;
        let ledger = LedgerSpec { target, table: ledger::table_name(&cx.drill, name) };
        (SpecKind::Ledger(ledger), spec.from.unwrap_or(Vantage::Cluster))
    } else {
        return Err(format!("the kind `{}` is not built yet", spec.kind_name().unwrap_or("(none)")));
    };
    let connection = spec.connection.unwrap_or_default();
    let spec = ProbeSpec { name: name.to_owned(), every: planned.every, timeout: planned.timeout, connection, kind };
    Ok(Sampled::Spec(Box::new(spec), from))
}

/// An alert is followed from where Alertmanager can be reached.
async fn alert(cx: &ProbeCx, probe: &AlertProbe) -> Result<(SpecKind, Vantage), String> {
    let place = &cx.plan.place;
    let (alertmanager, from) = endpoint(cx, place.alertmanager.as_ref(), "alertmanager").await?;
    let mut others = [None, None];
    for (other, (named, what)) in others.iter_mut().zip([(&place.prometheus, "prometheus"), (&place.receiver, "receiver")]) {
        if named.is_some() {
            let (url, its) = endpoint(cx, named.as_ref(), what).await?;
            if its != from {
                return Err(format!("`alertmanager` and `{what}` of the environment must both be a `service` or both a `url`"));
            }
            *other = Some(url);
        }
    }
    let [prometheus, receiver] = others;
    let heartbeat = probe.heartbeat.clone().or_else(|| place.heartbeat.as_ref().map(|heartbeat| heartbeat.alert.clone()));
    let spec = AlertSpec { name: probe.name.clone(), labels: probe.labels.clone(), heartbeat, alertmanager, prometheus, receiver };
    Ok((SpecKind::Alert(spec), from))
}

/// Where a database is, and its credentials.
async fn postgres(cx: &ProbeCx, at: &Postgres) -> Result<PgTarget, String> {
    let (host, port) = match (&at.service, &at.target) {
        (Some(service), _) => (host(service), port(cx, service, Some(POSTGRES)).await?),
        (None, Some(target)) => {
            let pods = copies(cx, target).await?;
            let pod = pods.into_iter().next().ok_or_else(|| format!("no pod of target `{target}` has an address"))?;
            (pod.host, pod.port)
        }
        (None, None) => return Err("say `service` or `target` of the database".to_owned()),
    };
    let (user, password) = credentials(cx, &at.secret).await?;
    Ok(PgTarget { host, port, database: at.database.clone(), user, password: Secret::new(password) })
}

/// The Secret's `username` and `password`.
async fn credentials(cx: &ProbeCx, name: &ObjectName) -> Result<(String, String), String> {
    let found: Option<SecretObject> = cx.cluster.get_opt(&name.namespace, &name.name).await.map_err(|error| error.to_string())?;
    let mut data = found.and_then(|secret| secret.data).ok_or_else(|| format!("there is no Secret {name}"))?;
    let mut key = |key: &str| {
        let value = data.remove(key).ok_or_else(|| format!("Secret {name} has no key `{key}`"))?;
        // Never the value, not even in an error.
        String::from_utf8(value.0).map_err(|_| format!("key `{key}` of Secret {name} is not text"))
    };
    Ok((key("username")?, key("password")?))
}

/// The pods of a target with their addresses, as places of a PostgreSQL server, sorted by name.
pub(super) async fn copies(cx: &ProbeCx, target: &str) -> Result<Vec<LedgerCopy>, String> {
    let spec = &cx.plan.targets.get(target).ok_or_else(|| format!("there is no target `{target}`"))?.spec;
    let matching = Matching::of(spec, target)?;
    let namespace = spec.namespace.as_deref().ok_or_else(|| format!("target `{target}` has no namespace"))?;
    let api: Api<Pod> = cx.cluster.api(namespace);
    let pods = cx.cluster.call(format!("list pods of target `{target}`"), api.list(&matching.params())).await;
    let pods = pods.map_err(|error| error.to_string())?.items;
    let mut found: Vec<LedgerCopy> = pods
        .iter()
        .filter(|pod| matching.owns(pod) && pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| Some(LedgerCopy { name: pod.name_any(), host: pod.status.as_ref()?.pod_ip.clone()?, port: POSTGRES }))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn here((take, nudges): (Take, Option<mpsc::Receiver<()>>)) -> Sampled {
    // The API server is not what these watch: its silence says nothing of the object.
    Sampled::Here { take, silence: ProbeState::Unknown, nudges, backup: None }
}

/// The address of a service of the environment, and from where it can be reached.
async fn endpoint(cx: &ProbeCx, endpoint: Option<&Endpoint>, what: &str) -> Result<(String, Vantage), String> {
    match endpoint {
        Some(Endpoint { url: Some(url), .. }) => Ok((url.clone(), Vantage::Runner)),
        Some(Endpoint { service: Some(service), .. }) => {
            let port = port(cx, service, None).await?;
            Ok((format!("http://{}:{port}", host(service)), Vantage::Cluster))
        }
        _ => Err(format!("the environment names no {what}: add `spec.{what}`")),
    }
}

/// A Service's name as pods of any namespace look it up.
pub(super) fn host(service: &ServiceRef) -> String {
    format!("{}.{}", service.name, service.namespace)
}

/// The port of a Service: the number, or the port of that name, or the default, or the Service's only one.
pub(super) async fn port(cx: &ProbeCx, service: &ServiceRef, default: Option<u16>) -> Result<u16, String> {
    let wanted = service.port.as_deref();
    if let Some(number) = wanted.and_then(|port| port.parse().ok()).or(default.filter(|_| wanted.is_none())) {
        return Ok(number);
    }
    let found: Option<Service> = cx.cluster.get_opt(&service.namespace, &service.name).await.map_err(|error| error.to_string())?;
    let ports = found
        .ok_or_else(|| format!("there is no Service {}/{}", service.namespace, service.name))?
        .spec
        .and_then(|spec| spec.ports)
        .unwrap_or_default();
    let number = match wanted {
        Some(name) => ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.port),
        None => ports.first().filter(|_| ports.len() == 1).map(|port| port.port),
    };
    let known = || ports.iter().map(|p| format!("{} {}", p.port, p.name.as_deref().unwrap_or_default())).collect::<Vec<_>>().join(", ");
    number
        .and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| format!("`{service}` does not say which port; Service {}/{} has: {}", service.namespace, service.name, known()))
}
