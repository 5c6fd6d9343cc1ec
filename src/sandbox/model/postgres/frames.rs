//! Messages of the members and the repositories among themselves: JSON with its length before it. Not PostgreSQL's and pgBackRest's
//! own ones, which nobody but they understand.

use std::{io, marker::PhantomData, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::net::{Dialer, Stream};

/// The most in one message.
const LARGEST: usize = 64 << 20;

/// A connection that carries messages: `I` come in, `O` go out.
pub(super) struct Frames<I, O> {
    framed: Framed<Stream, LengthDelimitedCodec>,
    kinds: PhantomData<fn(O) -> I>,
}

impl<I: DeserializeOwned, O: Serialize> Frames<I, O> {
    /// Over a stream of which something was read already.
    pub(super) fn new(stream: Stream, read: BytesMut) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(LARGEST).new_codec();
        let mut parts = tokio_util::codec::FramedParts::new::<Bytes>(stream, codec);
        parts.read_buf = read;
        Self { framed: Framed::from_parts(parts), kinds: PhantomData }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The connection's.
    pub(super) async fn send(&mut self, message: &O) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        self.framed.send(Bytes::from(bytes)).await
    }

    /// The next message; can be dropped and asked again.
    ///
    /// # Errors
    /// The connection's, its end, or something that is no such message.
    pub(super) async fn next(&mut self) -> io::Result<I> {
        let bytes = self.framed.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    /// The next message, if it comes in time.
    ///
    /// # Errors
    /// As [`Frames::next`], or that it does not come.
    pub(super) async fn next_within(&mut self, limit: Duration) -> io::Result<I> {
        tokio::time::timeout(limit, self.next()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Connects, within a limit.
///
/// # Errors
/// The network's, or that it takes too long.
pub(super) async fn dial(dialer: &Dialer, host: &str, port: u16, limit: Duration) -> io::Result<Stream> {
    let connected = tokio::time::timeout(limit, dialer.connect(host, port)).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)
}
