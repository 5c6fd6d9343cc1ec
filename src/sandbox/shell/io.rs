//! What a command reads from and writes to.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{super::program::Env, files::Files};

/// How much may be kept of what one command says to another, in bytes.
pub(super) const MOST: usize = 8 << 20;

/// The longest line of a log, in bytes: it is broken there.
const LINE: usize = 16 << 10;

/// A stream of the exec that the shell is in.
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Where input comes from.
pub(super) struct Input(tokio::sync::Mutex<Source>);

struct Source {
    /// What has been read and not been taken.
    bytes: Vec<u8>,
    at: usize,
    more: Option<Reader>,
}

impl Input {
    pub(super) fn stream(reader: Reader) -> Arc<Self> {
        Arc::new(Self(tokio::sync::Mutex::new(Source { bytes: Vec::new(), at: 0, more: Some(reader) })))
    }

    pub(super) fn bytes(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(tokio::sync::Mutex::new(Source { bytes, at: 0, more: None })))
    }

    /// The next line with its end. Empty at the end of all input.
    pub(super) async fn line(&self) -> Vec<u8> {
        let mut source = self.0.lock().await;
        let mut looked = source.at;
        loop {
            if let Some(n) = source.bytes[looked..].iter().position(|b| *b == b'\n') {
                let end = looked + n + 1;
                let line = source.bytes[source.at..end].to_vec();
                source.at = end;
                return line;
            }
            looked = source.bytes.len();
            if !source.fill().await {
                let rest = source.bytes[source.at..].to_vec();
                source.at = source.bytes.len();
                return rest;
            }
            looked = looked.min(source.bytes.len()).max(source.at);
        }
    }

    /// All that is left, as far as it is kept.
    pub(super) async fn all(&self) -> Vec<u8> {
        let mut source = self.0.lock().await;
        while source.fill().await {}
        let rest = source.bytes[source.at..].to_vec();
        source.at = source.bytes.len();
        rest
    }

    /// Puts back what was taken.
    pub(super) async fn give_back(&self, mut bytes: Vec<u8>) {
        let mut source = self.0.lock().await;
        bytes.extend_from_slice(&source.bytes[source.at..]);
        (source.bytes, source.at) = (bytes, 0);
    }

    /// What is left of what somebody in the shell made; nothing of the exec's own stream, whose end may never come.
    pub(super) async fn made(&self) -> Vec<u8> {
        if self.0.lock().await.more.is_some() { Vec::new() } else { self.all().await }
    }
}

impl Source {
    /// Reads more. False: there is no more, or no room for it.
    async fn fill(&mut self) -> bool {
        let Some(reader) = &mut self.more else { return false };
        if self.bytes.len() >= MOST {
            return false;
        }
        let mut buffer = [0; 4096];
        match reader.read(&mut buffer).await {
            Ok(n) if n > 0 => {
                self.bytes.extend_from_slice(&buffer[..n]);
                true
            }
            // A broken stream has ended.
            Ok(_) | Err(_) => {
                self.more = None;
                false
            }
        }
    }
}

/// Where output goes to.
#[derive(Clone)]
pub(super) enum Output {
    Nowhere,
    Stream(Arc<tokio::sync::Mutex<Writer>>),
    Kept(Arc<Mutex<Vec<u8>>>),
    File(String),
    /// A container's log, and the line that is not complete yet.
    Log(Env, Arc<Mutex<Vec<u8>>>),
}

impl Output {
    pub(super) fn stream(writer: Writer) -> Self {
        Self::Stream(Arc::new(tokio::sync::Mutex::new(writer)))
    }

    pub(super) fn log(env: Env) -> Self {
        Self::Log(env, Arc::default())
    }

    pub(super) fn kept() -> (Self, Arc<Mutex<Vec<u8>>>) {
        let kept = Arc::new(Mutex::default());
        (Self::Kept(Arc::clone(&kept)), kept)
    }

    /// Writes.
    ///
    /// # Errors
    /// The words of a system call, or none: too much would have to be kept.
    pub(super) async fn write(&self, bytes: &[u8], files: &Files) -> Result<(), Option<String>> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self {
            Self::Nowhere => {}
            Self::Stream(stream) => {
                let mut stream = stream.lock().await;
                // Whether somebody reads what it says does not change how a command ends.
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
            }
            Self::Kept(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() + bytes.len() > MOST {
                    return Err(None);
                }
                kept.extend_from_slice(bytes);
            }
            Self::Log(env, line) => {
                let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
                line.extend_from_slice(bytes);
                while let Some(end) = line.iter().position(|b| *b == b'\n').or_else(|| (line.len() > LINE).then_some(LINE)) {
                    let whole: Vec<u8> = line.drain(..=end).collect();
                    env.say(String::from_utf8_lossy(&whole).trim_end_matches('\n'));
                }
            }
            Self::File(path) => files.write(path, bytes, true).map_err(Some)?,
        }
        Ok(())
    }
}

/// A descriptor.
#[derive(Clone)]
pub(super) enum Fd {
    In(Arc<Input>),
    Out(Output),
}
