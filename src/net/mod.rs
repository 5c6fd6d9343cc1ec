//! The network as probes use it: names, connections and a small HTTP client, each failure told apart by whose it is.
//!
//! Names are looked up by a resolver in the process (`/etc/hosts`, `/etc/resolv.conf` with its search domains), not by
//! the C library: a static binary in a pod has none that can. Nothing is cached, because a fresh look-up is what tells
//! a moved Service from a dead one. Nothing here limits time by itself: every caller does.

mod http;
mod tls;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError as ResolveError, runtime::TokioRuntimeProvider},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub use http::{Answer, HttpConn, HttpRequest, Url, get_json, request};

/// Whose failure it is that something could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The other side's, or the way's: what a client suffers. A sample with it is bad.
    Peer,
    /// This machine's own (out of sockets, no network, nobody to ask for names): says nothing of the other side.
    Own,
}

/// Why something could not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct NetError {
    /// Whose failure it is.
    pub whose: Whose,
    /// What failed, for people.
    pub detail: String,
}

impl NetError {
    /// The other side failed.
    pub fn peer(detail: impl Into<String>) -> Self {
        Self { whose: Whose::Peer, detail: detail.into() }
    }

    /// This machine failed.
    pub fn own(detail: impl Into<String>) -> Self {
        Self { whose: Whose::Own, detail: detail.into() }
    }

    /// An error of the operating system while doing `what`.
    pub fn io(what: &str, error: &io::Error) -> Self {
        Self { whose: whose(error), detail: format!("{what}: {error}") }
    }
}

/// Errors of a system call that are this machine's own: no descriptors, no memory, no local port, no interface that is
/// up. `ENETUNREACH` is among them because Linux gives it when the machine has no route at all; a Service without
/// endpoints gives `ECONNREFUSED` and a vanished pod `EHOSTUNREACH` or silence.
fn whose(error: &io::Error) -> Whose {
    use rustix::io::Errno;
    let own = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::ACCESS,
        Errno::PERM,
    ];
    match error.raw_os_error() {
        Some(code) if own.iter().any(|e| e.raw_os_error() == code) => Whose::Own,
        _ => Whose::Peer,
    }
}

/// A byte stream to somewhere.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection made by a [`Dialer`].
pub type Stream = Box<dyn Io>;

/// A network that is not this machine's: that of a sandbox.
pub trait Network: Send + Sync {
    /// What it is called in messages for programmers.
    fn name(&self) -> String;
    /// The addresses of a name that is no address.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, NetError>>;
    /// Opens a connection to an address.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, Result<Stream, NetError>>;
}

/// Who opens connections.
#[derive(Clone)]
pub enum Dialer {
    /// This machine's network.
    Host(HostDialer),
    /// Another one.
    Other(Arc<dyn Network>),
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(_) => f.write_str("Dialer::Host"),
            Self::Other(network) => write!(f, "Dialer::Other({})", network.name()),
        }
    }
}

/// This machine's network and its way of looking names up.
#[derive(Clone)]
pub struct HostDialer {
    resolver: Arc<TokioResolver>,
    /// Whether a resolver that gives no answer is part of what clients use too (a pod's cluster DNS), and so its
    /// silence is bad, or only this machine's affair, and so unknown.
    dns_is_shared: bool,
    roots: tls::Roots,
}

impl Dialer {
    /// This machine's network, as the runner uses it: a name server that gives no answer says nothing of the system
    /// under test.
    ///
    /// # Errors
    /// If `/etc/resolv.conf` cannot be understood.
    pub fn host() -> Result<Self, NetError> {
        Self::of_host(false)
    }

    /// A pod's network, as the observer uses it: the name server is the cluster's, and its silence is an outage that
    /// every client of the cluster suffers too.
    ///
    /// # Errors
    /// If `/etc/resolv.conf` cannot be understood.
    pub fn pod() -> Result<Self, NetError> {
        Self::of_host(true)
    }

    fn of_host(dns_is_shared: bool) -> Result<Self, NetError> {
        // A machine without name servers still reaches addresses and what /etc/hosts says.
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name server: only addresses and names of /etc/hosts can be reached");
            let none = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(none, TokioRuntimeProvider::default())
        });
        Self::with(builder, dns_is_shared)
    }

    fn with(mut builder: hickory_resolver::ResolverBuilder<TokioRuntimeProvider>, dns_is_shared: bool) -> Result<Self, NetError> {
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        let resolver = builder.build().map_err(|error| NetError::own(format!("failed to set up name look-up: {error}")))?;
        Ok(Self::Host(HostDialer { resolver: Arc::new(resolver), dns_is_shared, roots: tls::Roots::default() }))
    }

    /// The addresses of a name, IPv4 first; an address is its own.
    ///
    /// # Errors
    /// If the name does not exist (the other side's), or nobody could be asked (see [`Dialer::host`], [`Dialer::pod`]).
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        if bare.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let mut found: Vec<IpAddr> = match self {
            Self::Host(own) => match own.resolver.lookup_ip(bare).await {
                Ok(found) => found.iter().collect(),
                Err(error) => return Err(own.unresolved(bare, &error)),
            },
            Self::Other(network) => network.resolve(bare).await?,
        };
        found.sort_by_key(IpAddr::is_ipv6);
        if found.is_empty() { Err(NetError::peer(format!("look up {bare}: no address"))) } else { Ok(found) }
    }

    /// Opens a TCP connection, trying every address of the name in turn.
    ///
    /// # Errors
    /// That of the look-up, or of the last address tried.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Stream, NetError> {
        let mut last = None;
        for address in self.resolve(host).await? {
            let to = SocketAddr::new(address, port);
            if let Self::Other(network) = self {
                match network.connect(to).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error),
                }
                continue;
            }
            match TcpStream::connect(to).await {
                Ok(stream) => {
                    // Requests are small and their latency is what is measured.
                    stream.set_nodelay(true).map_err(|error| NetError::io("set TCP_NODELAY", &error))?;
                    return Ok(Box::new(stream));
                }
                Err(error) => last = Some(NetError::io(&format!("connect to {host}:{port} ({address})"), &error)),
            }
        }
        Err(last.unwrap_or_else(|| NetError::peer(format!("look up {host}: no address"))))
    }

    /// Opens a TLS connection over TCP, verified against this machine's root certificates.
    ///
    /// # Errors
    /// That of [`Dialer::connect`], of the handshake, that this machine has no root certificates, or that the network has no TLS.
    pub async fn connect_tls(&self, host: &str, port: u16) -> Result<Stream, NetError> {
        let Self::Host(own) = self else {
            return Err(NetError::own(format!("not rehearsable: TLS to {host}:{port}")));
        };
        let connector = own.roots.connector()?;
        let stream = self.connect(host, port).await?;
        tls::handshake(&connector, host, stream).await
    }
}

impl HostDialer {
    fn unresolved(&self, name: &str, error: &ResolveError) -> NetError {
        let whose = match error {
            // A server answered: the name is not there, or its zone is broken.
            ResolveError::Dns(DnsError::NoRecordsFound(_) | DnsError::ResponseCode(_)) => Whose::Peer,
            ResolveError::Io(error) if whose(error) == Whose::Own => Whose::Own,
            _ if self.dns_is_shared => Whose::Peer,
            _ => Whose::Own,
        };
        let detail = if error.is_nx_domain() || error.is_no_records_found() {
            format!("look up {name}: no such name")
        } else {
            format!("look up {name}: {error}")
        };
        NetError { whose, detail }
    }
}

#[cfg(test)]
mod tests;
