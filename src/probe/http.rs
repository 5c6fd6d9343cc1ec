//! `http`: a request, judged by status and body.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::Mutex;

use super::{sample::Outcome, sampler::Take};
use crate::{
    net::{Answer, Dialer, HttpConn, HttpRequest, NetError},
    scenario::types::{Connection, HttpProbe, StatusClass},
};

/// How much of a body is looked at, in bytes.
const LOOKED_AT: usize = 1 << 20;

struct Prober {
    dialer: Dialer,
    url: crate::net::Url,
    request: HttpRequest,
    accepted: Vec<StatusClass>,
    contains: Option<String>,
    /// With `kept`: the one connection. Samples that overlap wait for it, as they would for a pool's.
    kept: Option<Mutex<Option<HttpConn>>>,
}

/// The samples of an `http` probe.
///
/// # Errors
/// If the request cannot be made out of what the scenario says.
pub(super) fn take(probe: &HttpProbe, connection: Connection, dialer: &Dialer) -> Result<Take, String> {
    let url: crate::net::Url = probe.url.parse()?;
    let headers = probe.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = Bytes::from(probe.body.clone().unwrap_or_default());
    let request = HttpRequest::new(probe.method.as_deref().unwrap_or("GET"), url.clone(), headers, body)?;
    let accepted = if probe.status.is_empty() { vec![StatusClass::Class(2)] } else { probe.status.clone() };
    let kept = (connection == Connection::Kept).then(Mutex::default);
    let prober = Arc::new(Prober { dialer: dialer.clone(), url, request, accepted, contains: probe.contains.clone(), kept });
    Ok(Box::new(move || {
        let prober = prober.clone();
        async move { prober.sample().await }.boxed()
    }))
}

impl Prober {
    async fn sample(&self) -> Outcome {
        match self.answer().await {
            Ok(answer) => self.judge(&answer),
            Err(error) => error.into(),
        }
    }

    async fn answer(&self) -> Result<Answer, NetError> {
        let Some(kept) = &self.kept else {
            return crate::net::request(&self.dialer, &self.request, LOOKED_AT).await;
        };
        let mut slot = kept.lock().await;
        // Taken out, so that a request given up at its time limit takes its connection with it.
        let mut connection = match slot.take().filter(HttpConn::is_usable) {
            Some(connection) => connection,
            None => HttpConn::open(&self.dialer, &self.url).await?,
        };
        let answer = connection.send(&self.request, LOOKED_AT).await?;
        if !answer.cut {
            *slot = Some(connection);
        }
        Ok(answer)
    }

    fn judge(&self, answer: &Answer) -> Outcome {
        let status = answer.status;
        if !self.accepted.iter().any(|class| class.accepts(status)) {
            return Outcome::bad(format!("status {status}"));
        }
        match &self.contains {
            Some(text) if !contains(&answer.body, text.as_bytes()) => Outcome::bad(format!("status {status}, body lacks `{text}`")),
            _ => Outcome::good(format!("status {status}")),
        }
    }
}

/// Whether `text` occurs in `body`.
pub(super) fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}
