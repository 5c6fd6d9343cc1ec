//! A member's REST API, as Patroni has it: what it is, by status codes, and its state as JSON.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{
    super::super::program::Env,
    dcs::{self, Member as Peer},
    member::Member,
};
use crate::net::{Url, get_json};

/// Its port.
pub(super) const PORT: u16 = 8008;
/// How long a member is waited for.
const LIMIT: Duration = Duration::from_secs(2);

/// What another member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) name: String,
    pub(super) leads: bool,
    pub(super) lsn: u64,
}

/// Asks a member. One that does not answer in time is none to reckon with.
pub(super) async fn ask(env: &Env, peer: &Peer) -> Option<Answer> {
    let url: Url = format!("http://{}:{PORT}/patroni", peer.address).parse().ok()?;
    let value: Value = tokio::time::timeout(LIMIT, get_json(env.dialer(), &url)).await.ok()?.ok()?;
    let lsn = value.pointer("/xlog/received_location").or_else(|| value.pointer("/xlog/location")).and_then(Value::as_u64)?;
    Some(Answer { name: peer.name.clone(), leads: value["role"] == "master" && value["state"] == "running", lsn })
}

/// Serves it.
pub(super) async fn serve(member: Arc<Member>) {
    let mut listener = member.env.listen(PORT);
    while let Some(stream) = listener.accept().await {
        let own = Arc::clone(&member);
        member.env.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&own, request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            // How it ends is the client's affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The status of a path.
pub(super) fn status(member: &Member, path: &str) -> Option<bool> {
    let shown = member.shown();
    let running = shown.state == "running";
    Some(match path.split('?').next().unwrap_or_default() {
        "/" | "/leader" | "/master" | "/primary" | "/read-write" => running && shown.leads,
        "/replica" => running && !shown.leads,
        "/health" | "/readiness" | "/read-only" => running,
        "/liveness" | "/patroni" | "/cluster" => true,
        _ => return None,
    })
}

fn answer(member: &Member, path: &str) -> Response<Full<Bytes>> {
    let shown = member.shown();
    let body = if path == "/cluster" {
        let members = dcs::listed(&lock_view(member)).into_iter().map(|row| {
            let role = match row["Role"].as_str() {
                Some("Leader") => "leader",
                Some("Sync Standby") => "sync_standby",
                _ => "replica",
            };
            json!({"name": row["Member"], "role": role, "state": row["State"], "host": row["Host"], "port": super::PORT, "timeline": row["TL"]})
        });
        json!({"members": members.collect::<Vec<_>>(), "scope": member.dcs.scope()})
    } else {
        let role = if shown.leads { "master" } else { "replica" };
        let xlog = if shown.leads { json!({"location": shown.lsn}) } else { json!({"received_location": shown.lsn}) };
        json!({
            "state": shown.state, "role": role, "server_version": 150_014, "xlog": xlog, "timeline": shown.timeline,
            "patroni": {"version": "3.0.2", "scope": member.dcs.scope(), "name": member.env.name()},
        })
    };
    let code = match status(member, path) {
        Some(true) => 200,
        Some(false) => 503,
        None => 404,
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn lock_view(member: &Member) -> dcs::View {
    super::server::lock(&member.view).clone()
}
