//! A small HTTP/1.1 client over the [`Dialer`].

use std::{fmt, str::FromStr};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use super::{Dialer, NetError};

/// The most of an API's answer that is taken, in bytes.
const LARGEST_ANSWER: usize = 16 << 20;

/// An `http` or `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub tls: bool,
    /// Host: a name or an address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, starting with `/`.
    pub path: String,
    /// What goes into the `Host` header.
    authority: String,
}

impl Url {
    /// The same place with another path (and query) behind its own.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let base = self.path.split('?').next().unwrap_or_default().trim_end_matches('/');
        Self { path: format!("{base}{path}"), ..self.clone() }
    }
}

impl FromStr for Url {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: hyper::Uri = text.parse().map_err(|error| format!("`{text}` is not an address: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{text}` is not an address: write `http://…` or `https://…`")),
        };
        let authority = uri.authority().ok_or_else(|| format!("`{text}` names no host"))?;
        if authority.as_str().contains('@') {
            return Err(format!(
                "the address of `{}` holds a user or a password, and the scenario is part of the evidence: take it out",
                authority.host()
            ));
        }
        let host = authority.host().to_owned();
        if host.is_empty() {
            return Err(format!("`{text}` names no host"));
        }
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, path, authority: authority.to_string() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    method: hyper::Method,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl HttpRequest {
    /// A GET.
    pub fn get(url: Url) -> Self {
        Self { method: hyper::Method::GET, url, headers: Vec::new(), body: Bytes::new() }
    }

    /// Any request.
    ///
    /// # Errors
    /// If the method or a header cannot be sent.
    pub fn new<'a>(method: &str, url: Url, headers: impl IntoIterator<Item = (&'a str, &'a str)>, body: Bytes) -> Result<Self, String> {
        let method = method.parse().map_err(|_| format!("`{method}` is not an HTTP method"))?;
        let headers = headers
            .into_iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is not the name of a header"))?;
                let value = value.parse().map_err(|_| format!("the value of header `{name}` cannot be sent"))?;
                Ok((name, value))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { method, url, headers, body })
    }

    fn build(&self) -> Result<hyper::Request<Full<Bytes>>, NetError> {
        let mut request = hyper::Request::builder().method(self.method.clone()).uri(&self.url.path);
        if !self.headers.iter().any(|(name, _)| name == HOST) {
            request = request.header(HOST, &self.url.authority);
        }
        request = request.header(USER_AGENT, concat!("firedrill/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone())).map_err(|error| NetError::own(format!("failed to make the request: {error}")))
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body, or its beginning.
    pub body: Bytes,
    /// Whether the body was longer than was taken.
    pub cut: bool,
}

/// A connection that may carry one request after another.
#[derive(Debug)]
pub struct HttpConn {
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; ends with the connection, and is stopped when this is dropped.
    _driver: AbortOnDropHandle<()>,
}

impl HttpConn {
    /// Connects.
    ///
    /// # Errors
    /// If the connection cannot be made.
    pub async fn open(dialer: &Dialer, url: &Url) -> Result<Self, NetError> {
        let stream = if url.tls { dialer.connect_tls(&url.host, url.port).await? } else { dialer.connect(&url.host, url.port).await? };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(url, &error))?;
        // An error of the connection is told to the request that was under way.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether it can take another request.
    pub fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and takes at most `largest` bytes of the answer's body.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is not HTTP.
    pub async fn send(&mut self, request: &HttpRequest, largest: usize) -> Result<Answer, NetError> {
        let url = &request.url;
        self.sender.ready().await.map_err(|error| failed(url, &error))?;
        let answer = self.sender.send_request(request.build()?).await.map_err(|error| failed(url, &error))?;
        let status = answer.status().as_u16();
        let (mut body, mut taken) = (answer.into_body(), BytesMut::new());
        let mut cut = false;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|error| failed(url, &error))?.into_data() {
                let room = largest - taken.len();
                cut |= data.len() > room;
                taken.extend_from_slice(data.get(..room).unwrap_or(&data));
                if cut {
                    break;
                }
            }
        }
        Ok(Answer { status, body: taken.freeze(), cut })
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// If the connection cannot be made or breaks.
pub async fn request(dialer: &Dialer, request: &HttpRequest, largest: usize) -> Result<Answer, NetError> {
    HttpConn::open(dialer, &request.url).await?.send(request, largest).await
}

/// A GET of a JSON document on a connection of its own.
///
/// # Errors
/// If it cannot be had, its status is not 2xx, or it is not what was expected.
pub async fn get_json<T: DeserializeOwned>(dialer: &Dialer, url: &Url) -> Result<T, NetError> {
    let answer = request(dialer, &HttpRequest::get(url.clone()), LARGEST_ANSWER).await?;
    if !(200..300).contains(&answer.status) {
        let said: String = String::from_utf8_lossy(&answer.body).trim().chars().take(200).collect();
        return Err(NetError::peer(format!("GET {url}: status {}: {said}", answer.status)));
    }
    if answer.cut {
        return Err(NetError::peer(format!("GET {url}: the answer is longer than {LARGEST_ANSWER} bytes")));
    }
    serde_json::from_slice(&answer.body).map_err(|error| NetError::peer(format!("GET {url}: not the expected JSON: {error}")))
}

/// An error of hyper: the first cause says more than its own word.
fn failed(url: &Url, error: &hyper::Error) -> NetError {
    let at = format!("HTTP with {}", url.authority);
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return NetError::io(&at, io);
        }
        cause = inner.source();
    }
    NetError::peer(format!("{at}: {error}"))
}
