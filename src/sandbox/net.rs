//! The cluster's network: names, Services and connections between pods, as they look from a place in it.
//!
//! A connection leads to a listener of a program ([`super::program::Env::listen`]). Service addresses lead to a ready endpoint of their
//! EndpointSlices, as kube-proxy does it; without one the connection is refused. Between nodes of which one has lost its network
//! nothing passes: no answer, no end; what was on its way arrives when the network is back.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};

use super::{
    cluster::Cluster,
    control::look::{self, draw},
    core::{State, text},
    transport::Server,
};
use crate::{
    fault::Cut,
    net::{Dialer, NetError, Network, Stream},
    scenario::types::Direction,
};

/// How many bytes are on their way in one direction at most.
const WINDOW: usize = 64 * 1024;
/// How many connections wait to be accepted (`somaxconn`).
const BACKLOG: usize = 128;
/// A round trip between pods.
const ROUND_TRIP_US: (i64, i64) = (100, 400);
/// How long it takes to learn that nobody has an address: three questions of ARP, one a second.
const UNREACHABLE: Duration = Duration::from_secs(3);
/// Where names are looked up, and how long that is tried: two questions of five seconds (`resolv.conf`).
const DNS: u16 = 53;
const DNS_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is tried where nothing answers: six repeats of SYN (`tcp_syn_retries`).
const SYN_LIMIT: Duration = Duration::from_secs(127);

/// Where somebody looks from.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Place {
    /// The namespace in which short names are looked up; none outside of the cluster.
    namespace: Option<String>,
    /// The node; none for those that no loss of a node befalls.
    node: Option<String>,
    /// The pod's address; none for those that no partition befalls.
    ip: Option<IpAddr>,
}

impl Place {
    /// A pod on a node.
    pub(in crate::sandbox) fn pod(namespace: &str, node: &str, ip: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), node: Some(node.to_owned()), ip: ip.parse().ok() }
    }

    /// A node itself, as it reaches what runs on it without their network.
    pub(in crate::sandbox) fn node(namespace: &str, node: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), node: Some(node.to_owned()), ip: None }
    }

    /// In the cluster, on a node that is never lost.
    pub(in crate::sandbox) fn within(namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), node: None, ip: None }
    }

    /// Outside of the cluster.
    pub(in crate::sandbox) const fn outside() -> Self {
        Self { namespace: None, node: None, ip: None }
    }
}

#[derive(Default)]
struct Inner {
    listeners: BTreeMap<SocketAddr, (u64, mpsc::Sender<Stream>)>,
    /// Nodes without network.
    down: BTreeMap<String, ()>,
    /// Pods' traffic that is cut, by address and the cut's name.
    cuts: BTreeMap<(IpAddr, String), Vec<Cut>>,
    /// Who waits for a network to come back, by the numbers of connections' ends.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
    connections: u64,
}

/// The network.
pub(in crate::sandbox) struct Net {
    server: Weak<Server>,
    cluster: Weak<Cluster>,
    seed: u64,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}

impl Net {
    pub(in crate::sandbox) fn new(server: &Arc<Server>, cluster: &Arc<Cluster>) -> Self {
        let seed = server.core.seed;
        Self { server: Arc::downgrade(server), cluster: Arc::downgrade(cluster), seed, inner: Mutex::default() }
    }

    /// What is left when the sandbox has ended.
    pub(in crate::sandbox) fn ended() -> Dialer {
        let net = Arc::new(Self { server: Weak::new(), cluster: Weak::new(), seed: 0, inner: Mutex::default() });
        net.dialer(Place::outside())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as it looks from a place.
    pub(in crate::sandbox) fn dialer(self: &Arc<Self>, place: Place) -> Dialer {
        Dialer::Other(Arc::new(View { net: Arc::clone(self), place }))
    }

    /// A node loses its network, or has it again.
    pub(in crate::sandbox) fn set_node(&self, node: &str, up: bool) {
        let mut inner = self.lock();
        if up {
            inner.down.remove(node);
        } else {
            inner.down.insert(node.to_owned(), ());
        }
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Cuts a part of an address's traffic; without cuts it has it back.
    pub(in crate::sandbox) fn set_cuts(&self, ip: IpAddr, name: &str, cuts: Option<Vec<Cut>>) {
        let mut inner = self.lock();
        match cuts {
            Some(cuts) => drop(inner.cuts.insert((ip, name.to_owned()), cuts)),
            None => drop(inner.cuts.remove(&(ip, name.to_owned()))),
        }
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Whether there is a cut of this name.
    pub(in crate::sandbox) fn has_cuts(&self, ip: IpAddr, name: &str) -> bool {
        self.lock().cuts.contains_key(&(ip, name.to_owned()))
    }

    /// Takes connections at an address from now on.
    pub(in crate::sandbox) fn listen(self: &Arc<Self>, ip: &str, port: u16) -> Listener {
        let (queue, streams) = mpsc::channel(BACKLOG);
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let at = ip.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port));
        if let Some(at) = at {
            inner.listeners.insert(at, (id, queue));
        }
        Listener { net: Arc::clone(self), at, id, streams }
    }

    fn state<T>(&self, with: impl FnOnce(&State) -> T) -> Option<T> {
        let server = self.server.upgrade()?;
        let state = server.core.lock();
        Some(with(&state))
    }
}

/// Takes connections until it is dropped.
#[derive(Debug)]
pub(in crate::sandbox) struct Listener {
    net: Arc<Net>,
    at: Option<SocketAddr>,
    id: u64,
    streams: mpsc::Receiver<Stream>,
}

impl Listener {
    /// The next connection; `None` when another listener has taken the port over.
    pub(in crate::sandbox) async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut inner = self.net.lock();
        if let Some(at) = self.at
            && inner.listeners.get(&at).is_some_and(|(id, _)| *id == self.id)
        {
            inner.listeners.remove(&at);
        }
    }
}

/// The network from a place.
struct View {
    net: Arc<Net>,
    place: Place,
}

/// What a name in a cluster means.
struct Named<'a> {
    host: Option<&'a str>,
    service: &'a str,
    namespace: &'a str,
}

/// Reads a name as a pod's search domains do: `service`, `service.namespace`, with `.svc` and `.svc.cluster.local`, and one of a
/// headless Service's pods before all that.
fn read<'a>(name: &'a str, own: &'a str) -> Vec<Named<'a>> {
    let name = name.trim_end_matches('.');
    let whole = name.strip_suffix(".cluster.local").unwrap_or(name);
    let (parts, full) = match whole.strip_suffix(".svc") {
        Some(rest) => (rest.split('.').collect::<Vec<_>>(), true),
        None if whole.len() != name.len() => return Vec::new(),
        None => (whole.split('.').collect(), false),
    };
    match parts.as_slice() {
        [service] if !full => vec![Named { host: None, service, namespace: own }],
        [service, namespace] if full => vec![Named { host: None, service, namespace }],
        [first, second] => {
            vec![Named { host: Some(first), service: second, namespace: own }, Named { host: None, service: first, namespace: second }]
        }
        [host, service, namespace] => vec![Named { host: Some(host), service, namespace }],
        _ => Vec::new(),
    }
}

/// The endpoints of a Service that are ready, by the name of a port if one is asked for: host name, address, port.
fn endpoints(state: &State, namespace: &str, service: &str, port: Option<&str>, unready: bool) -> Vec<(String, IpAddr, u16)> {
    let mut found = Vec::new();
    for (_, slice) in state.store.list("discovery.k8s.io/endpointslices", namespace) {
        let slice = &slice.value;
        if look::label(slice, "kubernetes.io/service-name") != service {
            continue;
        }
        let ports = look::items(slice, "/ports");
        let number = match port {
            Some(wanted) => ports.iter().find(|p| text(p, "/name") == wanted).and_then(|p| look::number(p, "/port")),
            None => Some(0),
        };
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in look::items(slice, "/endpoints") {
            let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
            if !ready && !unready {
                continue;
            }
            let host = text(endpoint, "/hostname");
            let host = if host.is_empty() { text(endpoint, "/targetRef/name") } else { host };
            let addresses = look::items(endpoint, "/addresses").iter().filter_map(|a| a.as_str()?.parse().ok());
            found.extend(addresses.map(|address| (host.to_owned(), address, number)));
        }
    }
    found.sort();
    found
}

/// Where an address leads.
enum Way {
    /// To a pod, or what may be one.
    To(SocketAddr),
    /// To a Service without an endpoint, or without such a port.
    Refused,
}

/// Follows an address as kube-proxy does.
fn follow(state: &State, to: SocketAddr, draw: impl Fn(usize) -> usize) -> Way {
    let ip = to.ip().to_string();
    let service = state.store.list("/services", "").find(|(_, service)| text(&service.value, "/spec/clusterIP") == ip);
    let Some((key, service)) = service else { return Way::To(to) };
    let port = look::items(&service.value, "/spec/ports").iter().find(|p| look::number(p, "/port") == Some(i64::from(to.port())));
    let Some(port) = port else { return Way::Refused };
    let ready = endpoints(state, &key.0, &key.1, Some(text(port, "/name")), false);
    match ready.len() {
        0 => Way::Refused,
        n => ready.get(draw(n)).map_or(Way::Refused, |(_, ip, port)| Way::To(SocketAddr::new(*ip, *port))),
    }
}

impl View {
    fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let none = || NetError::peer(format!("look up {host}: no such name"));
        // Whatever it is, a sandbox cannot say: neither good nor bad.
        let Some(own) = &self.place.namespace else {
            return Err(NetError::own(format!("not rehearsable: {host} is looked for from outside of the sandbox")));
        };
        let found = self.net.state(|state| {
            for named in read(host, own) {
                let Some(service) = state.peek("", "services", named.namespace, named.service) else { continue };
                let address = text(&service.value, "/spec/clusterIP");
                if let (None, Ok(address)) = (named.host, address.parse()) {
                    return vec![address];
                }
                let unready = look::flag(&service.value, "/spec/publishNotReadyAddresses");
                let all = endpoints(state, named.namespace, named.service, None, unready);
                let mine = all.into_iter().filter(|(host, ..)| named.host.is_none_or(|wanted| wanted == host));
                let mut found: Vec<IpAddr> = mine.map(|(_, address, _)| address).collect();
                found.dedup();
                if !found.is_empty() {
                    return found;
                }
            }
            Vec::new()
        });
        found.filter(|found| !found.is_empty()).ok_or_else(none)
    }

    async fn open(&self, to: SocketAddr) -> Result<Stream, NetError> {
        let net = &self.net;
        let number = {
            let mut inner = net.lock();
            inner.connections += 1;
            inner.connections
        };
        let chance = |what: &str, from: i64, to: i64| draw(net.seed, &["connection", &number.to_string(), what], from, to);
        tokio::time::sleep(Duration::from_micros(chance("round trip", ROUND_TRIP_US.0, ROUND_TRIP_US.1).unsigned_abs())).await;
        let refused = |at: SocketAddr| {
            let error = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
            NetError::io(&format!("connect to {at}"), &error)
        };
        let pick = |n: usize| usize::try_from(chance("endpoint", 0, i64::try_from(n).unwrap_or(1) - 1)).unwrap_or(0);
        let at = match net.state(|state| follow(state, to, pick)) {
            Some(Way::To(at)) if self.place.namespace.is_some() => at,
            Some(Way::Refused) if self.place.namespace.is_some() => return Err(refused(to)),
            _ => return Err(unreachable(to, UNREACHABLE).await),
        };
        let holder = net.cluster.upgrade().and_then(|cluster| cluster.lock().nodes.holder(&at.ip().to_string()).map(str::to_owned));
        let Some(node) = holder else { return Err(unreachable(at, UNREACHABLE).await) };
        let path = Arc::new(Path { net: Arc::clone(net), from: self.place.node.clone(), to: node, ip: self.place.ip, at });
        if !path.is_open() {
            tokio::select! {
                biased;
                () = path.opened() => {}
                error = unreachable(at, SYN_LIMIT) => return Err(error),
            }
        }
        let (near, far) = tokio::io::duplex(WINDOW);
        let far: Stream = Box::new(Wire::new(far, Arc::clone(&path)));
        let queue = net.lock().listeners.get(&at).map(|(_, queue)| queue.clone());
        match queue.map(|queue| queue.try_send(far)) {
            Some(Ok(())) => Ok(Box::new(Wire::new(near, path))),
            // Full: the kernel does not answer, and the other side tries again until it gives up.
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(unreachable(at, SYN_LIMIT).await),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Err(refused(at)),
        }
    }
}

/// What one learns in the end where nothing answers.
async fn unreachable(at: SocketAddr, after: Duration) -> NetError {
    tokio::time::sleep(after).await;
    let errno = if after == SYN_LIMIT { rustix::io::Errno::TIMEDOUT } else { rustix::io::Errno::HOSTUNREACH };
    NetError::io(&format!("connect to {at}"), &io::Error::from_raw_os_error(errno.raw_os_error()))
}

impl Network for View {
    fn name(&self) -> String {
        format!("sandbox, from {:?}", self.place)
    }

    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, NetError>> {
        // The cluster's name servers have no address here: names are cut off with all traffic, or with their port.
        let dns = |cut: &Cut| cut.network.is_none() && (cut.ports.is_empty() || cut.ports.contains(&DNS));
        let cut = self.place.ip.is_some_and(|ip| self.net.lock().cuts.iter().any(|((pod, _), cuts)| *pod == ip && cuts.iter().any(dns)));
        async move {
            if cut && host.parse::<IpAddr>().is_err() {
                tokio::time::sleep(DNS_LIMIT).await;
                return Err(NetError::peer(format!("look up {host}: no answer")));
            }
            self.look_up(host)
        }
        .boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, Result<Stream, NetError>> {
        self.open(to).boxed()
    }
}

/// What a connection passes over.
struct Path {
    net: Arc<Net>,
    from: Option<String>,
    to: String,
    /// Who has made the connection, if it is a pod, and to where.
    ip: Option<IpAddr>,
    at: SocketAddr,
}

impl Path {
    fn is_open(&self) -> bool {
        let inner = self.net.lock();
        if inner.cuts.iter().any(|((pod, _), cuts)| cuts.iter().any(|cut| self.is_cut(*pod, cut))) {
            return false;
        }
        self.from.as_deref() == Some(&self.to)
            || !(inner.down.contains_key(&self.to) || self.from.as_ref().is_some_and(|from| inner.down.contains_key(from)))
    }

    /// Whether packets of one of its two ways are dropped in a pod. What is cut for some ports only is cut on the way there: the
    /// answers come from these ports and go to others.
    fn is_cut(&self, pod: IpAddr, cut: &Cut) -> bool {
        let within = |peer: Option<IpAddr>| match cut.network.as_deref() {
            None => true,
            Some(network) => peer.is_some_and(|peer| holds(network, peer)),
        };
        let cuts = |way: Direction| cut.direction.is_none_or(|only| only == way);
        let port = cut.ports.is_empty() || cut.ports.contains(&self.at.port());
        let back = cut.ports.is_empty();
        (self.ip == Some(pod)
            && self.at.ip() != pod
            && within(Some(self.at.ip()))
            && (cuts(Direction::Egress) && port || cuts(Direction::Ingress) && back))
            || (self.at.ip() == pod
                && self.ip != Some(pod)
                && within(self.ip)
                && (cuts(Direction::Ingress) && port || cuts(Direction::Egress) && back))
    }

    fn number(&self) -> u64 {
        let mut inner = self.net.lock();
        inner.next += 1;
        inner.next
    }

    /// Pending while it is cut; the waker is called when that may have changed.
    fn poll_open(&self, id: u64, cx: &Context<'_>) -> Poll<()> {
        if self.is_open() {
            return Poll::Ready(());
        }
        self.net.lock().waiting.insert(id, cx.waker().clone());
        Poll::Pending
    }

    async fn opened(&self) {
        let id = self.number();
        std::future::poll_fn(|cx| self.poll_open(id, cx)).await;
    }
}

/// Whether an address is of a network.
fn holds(network: &str, address: IpAddr) -> bool {
    let Ok((first, bits)) = crate::agent::partition::network(network) else { return false };
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, true),
        IpAddr::V6(ip) => (u128::from(ip), false),
    };
    let ((a, four), (b, also)) = (number(first), number(address));
    four == also && (bits == 0 || (a ^ b) >> (128 - u32::from(bits)) == 0)
}

/// An end of a connection. What is written while the network is gone waits in the sender's buffer; what is read comes when it is back.
struct Wire {
    stream: DuplexStream,
    path: Arc<Path>,
    id: u64,
}

impl Wire {
    fn new(stream: DuplexStream, path: Arc<Path>) -> Self {
        let id = path.number();
        Self { stream, path, id }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.path.net.lock().waiting.remove(&self.id);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.path.poll_open(self.id, cx));
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
