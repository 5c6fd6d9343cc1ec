//! One data port: its socket, its connections, and going down and up.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::log::{Event, Log};
use super::schedule::{Mode, Planned, Service};
use crate::clock::Clock;

/// What the TCP port says first.
pub const BANNER: &[u8] = b"220 metronome ready\r\n";
/// Connections served at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
const BACKLOG: i32 = 1024;
/// The longest request head taken.
const HEAD: usize = 8192;

/// What the control port tells a data port.
#[derive(Debug)]
pub(super) enum Order {
    /// Outages to come, in order.
    Add(Vec<Planned>),
    /// Forget what is to come, and come up now.
    Cancel,
}

/// A data port.
pub(super) struct Port {
    service: Service,
    address: SocketAddr,
    clock: Clock,
    log: Arc<Log>,
    orders: mpsc::Receiver<Order>,
    /// The next socket to listen on. It is bound long before, so that opening is one system call, and so that nobody
    /// takes the port while it is closed.
    next: Socket,
    listener: Option<TcpListener>,
    answering: watch::Sender<bool>,
    connections: JoinSet<()>,
    waiting: VecDeque<Planned>,
    down: Option<Planned>,
}

impl Port {
    /// Opens the port and logs that.
    pub(super) fn open(service: Service, address: SocketAddr, clock: Clock, log: Arc<Log>) -> io::Result<(Self, mpsc::Sender<Order>)> {
        let next = bound(address)?;
        let address = next.local_addr()?.as_socket().ok_or_else(|| io::Error::other("the socket has no IP address"))?;
        let (send, orders) = mpsc::channel(16);
        let mut port = Self {
            service,
            address,
            clock,
            log,
            orders,
            next,
            listener: None,
            answering: watch::Sender::new(true),
            connections: JoinSet::new(),
            waiting: VecDeque::new(),
            down: None,
        };
        port.listen(None)?;
        Ok((port, send))
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves, and goes down and up as ordered, until stopped.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
        loop {
            let due = self.due();
            tokio::select! { biased;
                () = told(&mut stopped) => break,
                () = at(due) => self.turn().await?,
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await?,
                    None => break,
                },
                Some(_) = self.connections.join_next(), if !self.connections.is_empty() => {}
                stream = accept(self.listener.as_ref()), if self.connections.len() < CONNECTIONS => {
                    // A connection that died in the queue is the client's affair.
                    if let Ok(stream) = stream {
                        self.connections.spawn(serve(self.service, stream, self.answering.subscribe()));
                    }
                }
            }
        }
        self.listener = None;
        self.connections.shutdown().await;
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Add(outages) => {
                self.waiting.extend(outages);
                self.waiting.make_contiguous().sort_by_key(|outage| outage.down_at_us);
                Ok(())
            }
            Order::Cancel => {
                self.waiting.clear();
                match self.down.take() {
                    Some(outage) => self.come_up(outage.mode, None),
                    None => Ok(()),
                }
            }
        }
    }

    /// When the next change is due. Wall time is turned into a wait anew each time, so that a step of the wall clock is
    /// followed.
    fn due(&self) -> Option<Instant> {
        let at_us = match (&self.down, self.waiting.front()) {
            (Some(outage), _) => outage.up_at_us,
            (None, Some(outage)) => outage.down_at_us,
            (None, None) => return None,
        };
        let wait_us = u64::try_from(at_us.saturating_sub(self.clock.now().wall_us)).unwrap_or(0);
        Instant::now().checked_add(Duration::from_micros(wait_us))
    }

    async fn turn(&mut self) -> io::Result<()> {
        if let Some(outage) = self.down.take() {
            self.come_up(outage.mode, Some(outage.up_at_us))
        } else if let Some(outage) = self.waiting.pop_front() {
            self.down = Some(outage);
            self.go_down(outage).await;
            Ok(())
        } else {
            Ok(())
        }
    }

    async fn go_down(&mut self, outage: Planned) {
        let begin = self.clock.now();
        let (event, reset) = match outage.mode {
            Mode::Refuse => {
                self.listener = None;
                let reset = self.connections.len();
                self.connections.shutdown().await;
                (Event::Closed, reset)
            }
            // Waits for every answer being written: see `Answer`.
            Mode::Hang => {
                self.answering.send_replace(false);
                (Event::Hung, 0)
            }
        };
        let bracket = (begin, self.clock.now());
        self.log.write((event, self.service, self.address.port()), Some(outage.down_at_us), bracket, reset);
    }

    fn come_up(&mut self, mode: Mode, planned_us: Option<i64>) -> io::Result<()> {
        match mode {
            Mode::Refuse => self.listen(planned_us),
            Mode::Hang => {
                let begin = self.clock.now();
                self.answering.send_replace(true);
                let bracket = (begin, self.clock.now());
                self.log.write((Event::Answering, self.service, self.address.port()), planned_us, bracket, 0);
                Ok(())
            }
        }
    }

    fn listen(&mut self, planned_us: Option<i64>) -> io::Result<()> {
        let begin = self.clock.now();
        self.next.listen(BACKLOG)?;
        let bracket = (begin, self.clock.now());
        self.log.write((Event::Opened, self.service, self.address.port()), planned_us, bracket, 0);
        let listening = std::mem::replace(&mut self.next, bound(self.address)?);
        self.listener = Some(TcpListener::from_std(listening.into())?);
        Ok(())
    }
}

/// A socket bound to `address` that does not listen. Many may be bound to it; only those that listen get connections.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}

/// Waits until told to stop, or until nobody is left to tell.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => future::pending().await,
    }
}

/// A connection: reset when dropped, unless it ended well.
struct Connection {
    stream: TcpStream,
    answering: watch::Receiver<bool>,
}

async fn serve(service: Service, stream: TcpStream, answering: watch::Receiver<bool>) {
    let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    let mut connection = Connection { stream, answering };
    let served = match service {
        Service::Http => connection.http().await,
        Service::Tcp => connection.tcp().await,
    };
    if served.is_ok() && linger.is_ok() {
        // Nothing is left to do if this fails: the client sees a reset after the end of its answer.
        let _ = SockRef::from(&connection.stream).set_linger(None);
    }
}

impl Connection {
    async fn http(&mut self) -> io::Result<()> {
        let mut head = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if head.len() >= HEAD {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if self.read(&mut head).await? == 0 {
                    return Ok(());
                }
            };
            let request = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
            head.drain(..end);
            let body = if request.starts_with("head ") { "" } else { "ok\n" };
            // A body would be taken for the next request.
            let bad = request.contains("\r\ncontent-length: ") || request.contains("\r\ntransfer-encoding:");
            let last = bad || request.contains("\r\nconnection: close") || request.contains(" http/1.0\r\n");
            let status = if bad { "400 Bad Request" } else { "200 OK" };
            let connection = if last { "close" } else { "keep-alive" };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: 3\r\nconnection: {connection}\r\n\r\n{body}");
            self.answer(answer.as_bytes()).await?;
            if last {
                return Ok(());
            }
        }
    }

    async fn tcp(&mut self) -> io::Result<()> {
        self.answer(BANNER).await?;
        let mut received = Vec::new();
        while self.read(&mut received).await? != 0 {
            self.answer(&received).await?;
            received.clear();
        }
        Ok(())
    }

    /// Reads what is there onto the end of `into`; 0 when the client has finished.
    async fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = [0; 2048];
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut buffer) {
                Ok(length) => {
                    into.extend_from_slice(&buffer[..length]);
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes an answer once answering is on. It is written while holding the switch, so that no answer is under way
    /// when turning it off has returned.
    async fn answer(&mut self, answer: &[u8]) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
        let held = self.answering.wait_for(|answering| *answering).await.map_err(gone)?;
        let written = self.stream.try_write(answer)?;
        drop(held);
        // Answers are small and the client reads them: a full buffer means a client that does not.
        if written == answer.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
