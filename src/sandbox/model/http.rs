//! HTTP as models speak it: a server over the sandbox's network, and a client that keeps its connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use super::super::{
    control::look,
    core::text,
    kubelet::{ExecAsk, ExecEnd},
    program::Env,
    request::read_query,
};
use super::Probe;
use crate::net::{Answer, Dialer, HttpConn, HttpRequest, NetError, Stream, Url};

/// How many connections are open at a time; more are dropped.
const CONNECTIONS: usize = 512;
/// The most of a request's body that is taken, in bytes.
const LARGEST: usize = 4 << 20;
/// The most of an answer that a client takes, in bytes.
const LARGEST_ANSWER: usize = 16 << 20;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    /// Names and values, decoded, in their order; also those of a form.
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Request {
    /// The first value of a name in the query.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name in the query.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Method and path, to be matched on.
    pub(super) fn route(&self) -> (&str, &str) {
        (self.method.as_str(), self.path.as_str())
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// Text.
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.into().into_bytes() }
    }

    /// JSON.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self { status, kind: "application/json", body: body.to_string().into_bytes() }
    }

    /// There is no such path.
    pub(super) fn not_found(ask: &Request) -> Self {
        Self::text(404, format!("not rehearsable, or not there: {} {}\n", ask.method, ask.path))
    }
}

/// Who answers. None: the connection is closed without an answer.
pub(super) type Site = Arc<dyn Fn(Request) -> BoxFuture<'static, Option<Reply>> + Send + Sync>;

/// Answers at a port until the program is asked to end; gives the exit code.
pub(super) async fn serve(env: &Env, port: u16, site: Site) -> i32 {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    env.serve(port, |stream| {
        let (permit, site) = (Arc::clone(&room).try_acquire_owned(), Arc::clone(&site));
        async move {
            // One too many is closed without an answer.
            let Ok(_permit) = permit else { return };
            connection(stream, site).await;
        }
    })
    .await
}

async fn connection(stream: Stream, site: Site) {
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { answer(request, &site).await }
    });
    // How it ended is the client's to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: hyper::Request<Incoming>, site: &Site) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let mut query = read_query(head.uri.query().unwrap_or_default());
    let reply = match Limited::new(body, LARGEST).collect().await {
        Err(error) => Some(Reply::text(413, format!("{error}\n"))),
        Ok(body) => {
            let body = body.to_bytes();
            let form = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
            if form {
                query.extend(read_query(&String::from_utf8_lossy(&body)));
            }
            site(Request { method: head.method, path: head.uri.path().to_owned(), query, body }).await
        }
    };
    let Some(reply) = reply else { return Err(std::io::ErrorKind::ConnectionReset.into()) };
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(reply.kind));
    Ok(response)
}

/// The port at which a container says that it answers: that of the name, else its first, else another.
pub(super) fn port(env: &Env, name: &str, otherwise: u16) -> u16 {
    let ports = look::items(env.spec(), "/ports");
    let found = ports.iter().find(|port| text(port, "/name") == name).or_else(|| ports.first());
    found.and_then(|port| look::number(port, "/containerPort")).and_then(|port| u16::try_from(port).ok()).unwrap_or(otherwise)
}

/// A client of one place that keeps its connection from one request to the next, as Go's does.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<HttpConn>);

impl Kept {
    /// Sends a request within a time. A connection that was kept and fails is tried once more as a fresh one.
    ///
    /// # Errors
    /// There is no answer, or not in time.
    pub(super) async fn send(&mut self, dialer: &Dialer, url: &Url, request: &HttpRequest, limit: Duration) -> Result<Answer, NetError> {
        let sent = async {
            if let Some(mut connection) = self.0.take().filter(HttpConn::is_usable)
                && let Ok(answer) = connection.send(request, LARGEST_ANSWER).await
            {
                return Ok((connection, answer));
            }
            let mut connection = HttpConn::open(dialer, url).await?;
            let answer = connection.send(request, LARGEST_ANSWER).await?;
            Ok((connection, answer))
        };
        let (connection, answer) = timeout(limit, sent).await.map_err(|_| NetError::peer("context deadline exceeded"))??;
        if !answer.cut {
            self.0 = Some(connection);
        }
        Ok(answer)
    }
}

/// A kubelet's probe of a program that answers HTTP, with the status of its answer for a path.
///
/// # Errors
/// It does not answer, or the status means failure.
pub(super) fn probed(model: &str, up: bool, probe: &Probe, status: impl Fn(&str) -> u16) -> Result<(), String> {
    match probe {
        Probe::Http { .. } | Probe::Tcp if !up => Err("dial tcp: connect: connection refused".to_owned()),
        Probe::Tcp => Ok(()),
        Probe::Http { path } => match status(path.split('?').next().unwrap_or_default()) {
            200..400 => Ok(()),
            status => Err(format!("HTTP probe failed with statuscode: {status}")),
        },
        other => Err(format!("not rehearsable: {model} has no answer to {other:?}")),
    }
}

/// Commands of containers that have no shell.
pub(super) async fn no_commands(model: &str, ask: ExecAsk) -> ExecEnd {
    ExecEnd::Failed(format!("not rehearsable: {model} has no answer to {:?}", ask.command))
}
