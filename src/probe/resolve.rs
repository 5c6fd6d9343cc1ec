//! From what the plan says of a probe to something that can be sampled: Services become hosts and ports, Secrets are
//! read, what is watched through the API server gets its watch.

use k8s_openapi::api::core::v1::Service;
use tokio::sync::mpsc;

use super::{ProbeCx, ProbeSpec, SpecKind, Take, object, pods};
use crate::{
    plan::PlannedProbe,
    scenario::types::{Endpoint, OneOf as _, ProbeState, ServiceRef, Vantage},
};

/// A probe that can be sampled.
pub(super) struct Resolved {
    pub(super) sampled: Sampled,
    /// Whether each sample waits for the one before.
    pub(super) sequential: bool,
}

/// By whom.
pub(super) enum Sampled {
    /// By an engine, there.
    Spec(Box<ProbeSpec>, Vantage),
    /// By the runner, through the API server.
    Here { take: Take, silence: ProbeState, nudges: Option<mpsc::Receiver<()>> },
}

pub(super) async fn resolve(cx: &ProbeCx, name: &str, planned: &PlannedProbe) -> Result<Resolved, String> {
    let spec = &planned.spec;
    if let Some(probe) = &spec.pods {
        return Ok(here(pods::take(cx, probe)?));
    }
    if let Some(probe) = &spec.object {
        return Ok(here(object::take(cx, probe).await?));
    }
    let (kind, from) = if let Some(probe) = &spec.http {
        (SpecKind::Http(probe.clone()), planned.from)
    } else if let Some(probe) = &spec.tcp {
        (SpecKind::Tcp(probe.clone()), planned.from)
    } else if let Some(probe) = &spec.metric {
        let (prometheus, from) = endpoint(cx, cx.plan.place.prometheus.as_ref(), "prometheus").await?;
        (SpecKind::Metric { probe: probe.clone(), prometheus }, from)
    } else {
        return Err(format!("the kind `{}` is not built yet", spec.kind_name().unwrap_or("(none)")));
    };
    let sequential = false;
    let connection = spec.connection.unwrap_or_default();
    let spec = ProbeSpec { name: name.to_owned(), every: planned.every, timeout: planned.timeout, connection, kind };
    Ok(Resolved { sampled: Sampled::Spec(Box::new(spec), from), sequential })
}

fn here((take, nudges): (Take, Option<mpsc::Receiver<()>>)) -> Resolved {
    // The API server is not what these watch: its silence says nothing of the object.
    Resolved { sampled: Sampled::Here { take, silence: ProbeState::Unknown, nudges }, sequential: false }
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
