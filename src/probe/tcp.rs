//! `tcp`: a connection, and what is said over it.

use std::sync::Arc;

use futures::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Mutex,
};

use super::{http::contains, sample::Outcome, sampler::Take};
use crate::{
    net::{Dialer, NetError, Stream},
    scenario::types::{Connection, Exchange, TcpProbe},
};

/// The most that is read while waiting for an expected text, in bytes.
const LARGEST: usize = 1 << 20;

struct Prober {
    dialer: Dialer,
    host: String,
    port: u16,
    exchange: Vec<Exchange>,
    kept: Option<Mutex<Option<Stream>>>,
}

/// The samples of a `tcp` probe.
///
/// With `connection: kept` the exchange is repeated on the one connection; without an exchange the connection must
/// only not have been closed.
///
/// # Errors
/// If the address is not `host:port`.
pub(super) fn take(probe: &TcpProbe, connection: Connection, dialer: &Dialer) -> Result<Take, String> {
    let (host, port) = address(&probe.address)?;
    let kept = (connection == Connection::Kept).then(Mutex::default);
    let prober = Arc::new(Prober { dialer: dialer.clone(), host, port, exchange: probe.exchange.clone(), kept });
    Ok(Box::new(move || {
        let prober = prober.clone();
        async move { prober.sample().await }.boxed()
    }))
}

/// `host:port` apart.
pub(super) fn address(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{text}` is not `host:port`");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

impl Prober {
    async fn sample(&self) -> Outcome {
        let done = match &self.kept {
            None => self.fresh().await,
            Some(kept) => self.reuse(kept).await,
        };
        match done {
            Ok(()) => Outcome::good("connected"),
            Err(error) => error.into(),
        }
    }

    async fn fresh(&self) -> Result<(), NetError> {
        let mut stream = self.dialer.connect(&self.host, self.port).await?;
        self.converse(&mut stream).await
    }

    async fn reuse(&self, kept: &Mutex<Option<Stream>>) -> Result<(), NetError> {
        let mut slot = kept.lock().await;
        let mut stream = match slot.take() {
            Some(mut stream) => {
                if self.exchange.is_empty() {
                    still_open(&mut stream).await?;
                }
                stream
            }
            None => self.dialer.connect(&self.host, self.port).await?,
        };
        self.converse(&mut stream).await?;
        *slot = Some(stream);
        Ok(())
    }

    async fn converse(&self, stream: &mut Stream) -> Result<(), NetError> {
        let mut unread = Vec::new();
        for turn in &self.exchange {
            if let Some(text) = &turn.send {
                stream.write_all(text.as_bytes()).await.map_err(|error| NetError::io("send", &error))?;
                stream.flush().await.map_err(|error| NetError::io("send", &error))?;
            }
            if let Some(text) = &turn.expect {
                expect(stream, &mut unread, text).await?;
            }
        }
        Ok(())
    }
}

/// Reads until `text` has come; what came behind it stays for the next turn.
async fn expect(stream: &mut Stream, unread: &mut Vec<u8>, text: &str) -> Result<(), NetError> {
    while !contains(unread, text.as_bytes()) {
        let read = stream.read_buf(unread).await.map_err(|error| NetError::io("receive", &error))?;
        let said = || String::from_utf8_lossy(unread.get(..unread.len().min(100)).unwrap_or_default()).into_owned();
        if read == 0 {
            return Err(NetError::peer(format!("closed before `{}` came; said `{}`", text.escape_debug(), said().escape_debug())));
        }
        if unread.len() > LARGEST {
            return Err(NetError::peer(format!("`{}` is not in the first {LARGEST} bytes", text.escape_debug())));
        }
    }
    let end = unread.windows(text.len().max(1)).position(|window| window == text.as_bytes()).map_or(0, |at| at + text.len());
    unread.drain(..end);
    Ok(())
}

/// Looks whether the other side has closed, without waiting.
async fn still_open(stream: &mut Stream) -> Result<(), NetError> {
    let mut byte = [0; 64];
    match futures::poll!(std::pin::pin!(stream.read(&mut byte))) {
        std::task::Poll::Ready(Ok(0)) => Err(NetError::peer("closed by the other side")),
        std::task::Poll::Ready(Err(error)) => Err(NetError::io("receive", &error)),
        std::task::Poll::Ready(Ok(_)) | std::task::Poll::Pending => Ok(()),
    }
}
