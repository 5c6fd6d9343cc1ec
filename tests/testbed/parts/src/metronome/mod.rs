//! A server that goes down and up when told, and writes down when it really did: the yardstick for whoever measures
//! outages from outside.
//!
//! Every change is logged as a bracket: it happened between `begin` and `end`. Before `begin` of a `closed` every
//! request was served; after its `end` the listening socket is gone and every connection was reset. Before `begin` of an
//! `opened` connections were refused; after its `end` they are accepted.

mod control;
mod log;
mod port;
mod schedule;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clock::Clock;
pub use log::{Entry, Event};
pub use schedule::{Mode, Outage, Planned, Service};

/// What a metronome is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the HTTP data port listens (port 0: any free one).
    pub http: SocketAddr,
    /// Where the TCP data port listens.
    pub tcp: SocketAddr,
    /// Where the control port listens.
    pub control: SocketAddr,
    /// The clock whose times are taken and given.
    pub clock: Clock,
}

/// The addresses really listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    /// Answers `GET` with 200 and `ok`.
    pub http: SocketAddr,
    /// Greets with `port::BANNER`, then echoes.
    pub tcp: SocketAddr,
    /// Takes schedules, gives the log.
    pub control: SocketAddr,
}

/// A running metronome. Dropping it stops it; [`Metronome::stop`] also waits for that.
#[derive(Debug)]
pub struct Metronome {
    addresses: Addresses,
    stop: watch::Sender<bool>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Metronome {
    /// Opens all three ports and starts serving.
    ///
    /// # Errors
    /// If a port cannot be listened on.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let log = Arc::new(log::Log::default());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (http, http_orders) = port::Port::open(Service::Http, options.http, options.clock, log.clone())
            .with_context(|| format!("failed to listen on {} for HTTP", options.http))?;
        let (tcp, tcp_orders) = port::Port::open(Service::Tcp, options.tcp, options.clock, log.clone())
            .with_context(|| format!("failed to listen on {} for TCP", options.tcp))?;
        let control = tokio::net::TcpListener::bind(options.control)
            .await
            .with_context(|| format!("failed to listen on {} for control", options.control))?;
        let addresses = Addresses { http: http.address(), tcp: tcp.address(), control: control.local_addr()? };
        let state = control::State::new(options.clock, log, Orders { http: http_orders, tcp: tcp_orders });
        tasks.spawn(http.run(stopped.clone()));
        tasks.spawn(tcp.run(stopped.clone()));
        tasks.spawn(control::serve(control, state, stopped));
        Ok(Self { addresses, stop, tasks })
    }

    /// The addresses really listened on.
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits until a part of it ends, which only a failure or [`Metronome::stop`] makes it do.
    ///
    /// # Errors
    /// What made it end.
    pub async fn failed(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => ended.context("a task of the metronome failed")?,
            None => Ok(()),
        }
    }

    /// Stops serving and waits for every task.
    ///
    /// # Errors
    /// The first failure of a task.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.context("a task of the metronome failed").and_then(|result| result);
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }
}

/// How the control port reaches the data ports.
#[derive(Debug)]
struct Orders {
    http: mpsc::Sender<port::Order>,
    tcp: mpsc::Sender<port::Order>,
}

impl Orders {
    const fn of(&self, service: Service) -> &mpsc::Sender<port::Order> {
        match service {
            Service::Http => &self.http,
            Service::Tcp => &self.tcp,
        }
    }
}
