//! One request, from its bytes to its answer: weather, authorization, the operation, the audit log.

use std::{io, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming, header};
use serde_json::Value;
use tokio::time::Duration;

use super::{
    audit::AuditEntry,
    core::{Core, State},
    discovery,
    kinds::Kind,
    kubelet, rbac, read,
    refusal::{Answer, FieldError, Refusal, Wrong},
    request::{Ask, Place, User},
    watch,
    weather::Trouble,
    write::Said,
};

/// An answer's body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The largest request, as of a real API server.
const LARGEST_BYTES: usize = 3 * 1024 * 1024;
/// How long a list waits for a version that is not there yet.
const VERSION_WAIT: Duration = Duration::from_secs(3);

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the weather took the answer")]
pub(super) struct Lost;

/// A body of known bytes.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of known bytes.
pub(super) fn full(code: u16, content_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn json(code: u16, bytes: Vec<u8>) -> Response<Body> {
    full(code, "application/json", bytes.into())
}

fn refused(refusal: &Refusal) -> Response<Body> {
    if let Some(text) = refusal.plain() {
        return full(refusal.code(), "text/plain; charset=utf-8", Bytes::from(text.to_owned()));
    }
    let mut response = json(refusal.code(), refusal.status().to_string().into_bytes());
    if let Some(secs) = refusal.retry_after_secs() {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(secs));
    }
    response
}

/// Answers a request.
///
/// # Errors
/// The answer is lost on purpose.
pub(super) async fn serve(core: Arc<Core>, user: User, mut request: Request<Incoming>) -> Result<Response<Body>, Lost> {
    let body = match Limited::new(request.body_mut(), LARGEST_BYTES).collect().await {
        // A copy: the audit log keeps it, and with a part of it hyper's whole buffer would be kept.
        Ok(body) => Bytes::copy_from_slice(&body.to_bytes()),
        Err(_) => {
            let why = format!("Request entity too large: limit is {LARGEST_BYTES}");
            return Ok(refused(&Refusal::new(413, "RequestEntityTooLarge", why)));
        }
    };
    let ask = Arc::new(Ask::read(user, request.method(), request.uri(), request.headers(), body));
    let (number, trouble) = arrive(&core, &ask);
    let answer = match trouble.refused {
        Some(code) => Err(bad_weather(code, &ask)),
        None => answer(&core, &ask, &mut request, &trouble).await,
    };
    let response = answer.unwrap_or_else(|refusal| refused(&refusal));
    core.lock().audit.answered(number, response.status().as_u16());
    if let Some(late) = trouble.late {
        tokio::time::sleep(late).await;
    }
    if trouble.lost { Err(Lost) } else { Ok(response) }
}

/// Notes a request, and what the weather has in store for it.
fn arrive(core: &Core, ask: &Ask) -> (usize, Trouble) {
    let mut state = core.lock();
    let number = state.requests;
    state.requests += 1;
    let trouble = state.weather.at(core.seed, number, &ask.user.name, ask.verb);
    let place = ask.place.clone().unwrap_or_default();
    let entry = AuditEntry {
        at_us: state.now_us,
        user: ask.user.name.clone(),
        verb: ask.verb.to_owned(),
        uri: ask.uri.clone(),
        group: place.group,
        version: place.version,
        resource: place.resource,
        subresource: place.subresource,
        namespace: place.namespace,
        name: place.name,
        patch_type: if ask.verb == "patch" { ask.content_type.clone() } else { String::new() },
        dry_run: ask.option("dryRun") == Some("All"),
        code: 0,
        trouble: match &trouble {
            Trouble { refused: Some(_), .. } => "error",
            Trouble { lost: true, .. } => "lost",
            Trouble { late: Some(_), .. } => "slow",
            _ => "",
        },
        request: ask.body.clone(),
    };
    (state.audit.arrived(entry), trouble)
}

fn bad_weather(code: u16, ask: &Ask) -> Refusal {
    match code {
        409 => {
            let place = ask.place.clone().unwrap_or_default();
            let what = super::refusal::qualified(&place.group, &place.resource);
            let message = format!(
                "Operation cannot be fulfilled on {what} \"{}\": the object has been modified; please apply your changes to the latest \
                 version and try again",
                place.name
            );
            Refusal::new(409, "Conflict", message).with_details(super::refusal::details(&place.group, &place.resource, &place.name))
        }
        429 => Refusal::new(429, "TooManyRequests", "Too many requests, please try again later.").retry_after(1),
        503 => Refusal::new(503, "ServiceUnavailable", "apiserver is shutting down"),
        _ => Refusal::internal("etcdserver: request timed out"),
    }
}

async fn answer(core: &Arc<Core>, ask: &Arc<Ask>, request: &mut Request<Incoming>, trouble: &Trouble) -> Answer<Response<Body>> {
    rbac::authorize(&core.lock(), ask)?;
    if !ask.takes_json() && ask.place.is_some() {
        let why = "only the following media types are accepted: application/json";
        return Err(Refusal::new(406, "NotAcceptable", why));
    }
    let Some(place) = &ask.place else {
        return discovery::answer(&core.lock(), ask);
    };
    let kind = core.lock().kinds.find(&place.group, &place.version, &place.resource).cloned();
    let Some(kind) = kind else {
        return Err(if core.lock().kinds.has_group(&place.group) { Refusal::no_such_resource() } else { Refusal::no_such_page() });
    };
    let unknown = match place.subresource.as_str() {
        "" => false,
        "status" => !kind.status,
        "scale" => !kind.scale,
        other => !kind.subresources.contains(&other),
    };
    let nowhere = kind.namespaced && place.namespace.is_empty();
    let misplaced = nowhere && !place.name.is_empty() && !matches!(ask.verb, "list" | "watch")
        || !kind.namespaced && !place.namespace.is_empty() && kind.kind != "Namespace";
    if unknown || misplaced {
        return Err(Refusal::no_such_resource());
    }
    if nowhere && !matches!(ask.verb, "list" | "watch") && !kind.review {
        return Err(Refusal::method_not_allowed());
    }
    if kind.review {
        let answer = rbac::review(&mut core.lock(), ask, &kind, place)?;
        return Ok(json(201, answer.to_string().into_bytes()));
    }
    match (ask.verb, place.subresource.as_str()) {
        ("list", "") => list(core, ask, &kind, place).await,
        ("watch", "") => {
            let flow = watch::open(core, Arc::clone(ask), &kind, place, trouble.gap, trouble.cut)?;
            let mut response = Response::new(StreamBody::new(flow).boxed_unsync());
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            Ok(response)
        }
        ("get", "log") => kubelet::log(core, &kind, ask, place),
        ("get" | "create", "exec" | "attach" | "portforward") => kubelet::exec(core, &kind, ask, place, request),
        _ => {
            let (done, warnings) = {
                let mut state = core.lock();
                state.warnings.clear();
                let done = operate(&mut state, ask, &kind, place);
                (done, std::mem::take(&mut state.warnings))
            };
            let mut response = match done {
                Ok((code, said)) => json(code, said_json(ask, &kind, said)),
                Err(refusal) => refused(&refusal),
            };
            for text in warnings {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                if let Ok(text) = header::HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                    response.headers_mut().append(header::WARNING, text);
                }
            }
            Ok(response)
        }
    }
}

fn operate(state: &mut State, ask: &Ask, kind: &Arc<Kind>, place: &Place) -> Answer<(u16, Said)> {
    if ask.option("fieldManager").is_some_and(|manager| manager.len() > 128) {
        let error = FieldError::new(Wrong::TooLong, "fieldManager", Value::Null, "may not be more than 128 bytes");
        return Err(Refusal::invalid_as("meta.k8s.io", ask.options_kind(), "", &[error]));
    }
    match (ask.verb, place.subresource.as_str()) {
        ("get", "" | "status") => state.get(kind, place).map(|stored| (200, Said::Object(stored))),
        (_, "scale") => state.scale(ask, kind, place),
        (_, "ephemeralcontainers") => state.ephemeral(ask, kind, place),
        ("create", "") if place.name.is_empty() => state.create(ask, kind, place),
        ("create", "eviction") => state.evict(ask, kind, place),
        ("create", "binding") => state.bind(ask, kind, place),
        ("update", "finalize") => state.finalize(ask, kind, place),
        ("update", "" | "status") if !place.name.is_empty() => state.update(ask, kind, place),
        ("patch", "" | "status") if !place.name.is_empty() => state.patch(ask, kind, place),
        ("delete", "") => state.delete(ask, kind, place),
        ("deletecollection", "") => {
            if kind.kind == "Namespace" {
                Err(Refusal::method_not_allowed())
            } else {
                state.delete_collection(ask, kind, place)
            }
        }
        _ => Err(Refusal::method_not_allowed()),
    }
}

fn said_json(ask: &Ask, kind: &Kind, said: Said) -> Vec<u8> {
    match said {
        Said::Object(stored) => read::object_json(ask, kind, &stored),
        Said::Raw(value) => Value::to_string(&value).into_bytes(),
    }
}

async fn list(core: &Arc<Core>, ask: &Ask, kind: &Kind, place: &Place) -> Answer<Response<Body>> {
    let until = tokio::time::Instant::now() + VERSION_WAIT;
    let mut newest = core.newest.follow();
    loop {
        let found = core.lock().list(ask, kind, place)?;
        let wanted = match found {
            Ok(bytes) => return Ok(json(200, bytes)),
            Err(read::NotYet(wanted)) => wanted,
        };
        let reached = async { while newest.latest() < wanted && newest.changed().await < wanted {} };
        if tokio::time::timeout_at(until, reached).await.is_err() {
            return Err(read::too_new(wanted, core.lock().store.version()));
        }
    }
}
