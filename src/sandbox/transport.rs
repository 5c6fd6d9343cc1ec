//! The way between a `kube::Client` and the API server: HTTP/1.1 over pipes in memory, with real upgrades, so that the
//! client under test is the client that runs in production.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use hyper::{
    Request, Uri,
    http::uri::{Authority, Scheme},
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{
        Client as HttpClient,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use tokio::{io::DuplexStream, task::JoinSet};

use super::{core::Core, request::User, serve};

/// How many bytes a pipe holds before its writer waits.
const PIPE_BYTES: usize = 256 * 1024;

/// The API server's tasks, one a connection. When the last handle goes, they are ended.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) core: Arc<Core>,
    tasks: Mutex<JoinSet<()>>,
}

impl Server {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, tasks: Mutex::new(JoinSet::new()) }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task that ends with the server.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks().spawn(task);
    }

    /// Ends all connections and waits until their tasks have ended. Later ones are refused.
    pub(super) async fn stop(&self) {
        self.core.closed.cancel();
        // Kubelets may hold clients, which hold the server.
        self.core.lock().kubelets = None;
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        let mut sessions = std::mem::take(&mut *self.core.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        sessions.shutdown().await;
    }

    /// A connection for a user.
    fn connect(&self, user: User) -> io::Result<Wire> {
        if self.core.closed.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the sandbox has ended"));
        }
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let core = Arc::clone(&self.core);
        let mut tasks = self.tasks();
        // Ones that have ended are taken out, or the set would grow with every connection.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let closed = core.closed.clone();
            let service = service_fn(move |request| serve::serve(Arc::clone(&core), user.clone(), request));
            // No timer: an idle connection is no reason to end it, and its timers would keep virtual time busy.
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades();
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                // An error is the client's affair: it sees that the connection has ended.
                _ = connection => {}
            }
        });
        Ok(Wire(TokioIo::new(near)))
    }

    /// A client for a user. It keeps the server alive.
    pub(super) fn client(self: &Arc<Self>, user: &str) -> kube::Client {
        let (server, user) = (Arc::clone(self), User::named(user));
        let connector = tower::service_fn(move |_: Uri| std::future::ready(server.connect(user.clone())));
        // A request whose connection ends is not sent again: a repeated fault is another fault.
        let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(None).retry_canceled_requests(false).build(connector);
        let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(Authority::from_static("sandbox"));
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
            http.request(request)
        });
        kube::Client::new(service, "default")
    }
}

/// The client's end of a connection.
#[derive(Debug)]
struct Wire(TokioIo<DuplexStream>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
