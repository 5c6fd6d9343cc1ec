//! Lines over any pair of byte streams, read and written by tasks of their own, so that a peer that does not read can
//! never stop the other direction.

use std::any::Any;

use futures::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::protocol::{MAX_LINE, MAX_PENDING, WINDOW};

/// Two byte streams, and what must live as long as they do (a child process, an attached exec).
pub(super) struct Pipe {
    pub(super) read: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) write: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) keep: Box<dyn Any + Send>,
}

/// A connection that carries lines.
pub(super) struct Wire<In> {
    /// Ends when the connection does; the last item may be an error.
    pub(super) incoming: mpsc::Receiver<Result<In, String>>,
    out: Option<mpsc::Sender<String>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    _keep: Box<dyn Any + Send>,
}

/// Why a line could not be sent: the connection is broken, or its peer has stopped to read.
#[derive(Debug)]
pub(super) struct Broken;

impl<In: DeserializeOwned + Send + 'static> Wire<In> {
    pub(super) fn new(pipe: Pipe) -> Self {
        let (tx_in, incoming) = mpsc::channel(256);
        #[expect(clippy::cast_possible_truncation, reason = "a constant of 1024")]
        let (out, mut rx_out) = mpsc::channel::<String>(WINDOW as usize + 4 * MAX_PENDING);
        let mut lines = FramedRead::new(pipe.read, LinesCodec::new_with_max_length(MAX_LINE));
        let reader = tokio::spawn(async move {
            while let Some(line) = lines.next().await {
                let item = match line {
                    Ok(line) if line.is_empty() => continue,
                    Ok(line) => serde_json::from_str(&line).map_err(|e| format!("malformed line: {e}")),
                    Err(e) => Err(e.to_string()),
                };
                let last = item.is_err();
                if tx_in.send(item).await.is_err() || last {
                    return;
                }
            }
        });
        let mut write = pipe.write;
        let writer = tokio::spawn(async move {
            while let Some(line) = rx_out.recv().await {
                let mut batch = line.into_bytes();
                batch.push(b'\n');
                while batch.len() < 64 << 10 {
                    let Ok(line) = rx_out.try_recv() else { break };
                    batch.extend_from_slice(line.as_bytes());
                    batch.push(b'\n');
                }
                if write.write_all(&batch).await.is_err() || write.flush().await.is_err() {
                    return;
                }
            }
            // Everything is written: tell the peer, as far as the stream can.
            let _ = write.shutdown().await;
        });
        Self { incoming, out: Some(out), reader, writer, _keep: pipe.keep }
    }
}

impl<In> Wire<In> {
    /// Queues a line. Never waits: a full queue means a peer that has stopped to read, and that is a broken connection.
    pub(super) fn send(&self, line: &impl Serialize) -> Result<(), Broken> {
        let line = serde_json::to_string(line).map_err(|_| Broken)?;
        self.out.as_ref().ok_or(Broken)?.try_send(line).map_err(|_| Broken)
    }

    /// Writes what is queued, for at most this long, and closes.
    pub(super) async fn close(mut self, limit: std::time::Duration) {
        drop(self.out.take());
        // Whether the last lines arrived is the peer's to find out: it asks again when they did not.
        let _ = tokio::time::timeout(limit, &mut self.writer).await;
    }
}

impl<In> Drop for Wire<In> {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}
