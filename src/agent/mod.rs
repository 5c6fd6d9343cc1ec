//! What runs on nodes and in pods, and the way to talk to it.
//!
//! There is one mechanism for everything that firedrill runs inside a cluster: a pod of its own whose main process is
//! `firedrill agent …`, listening on a Unix socket, and `firedrill agent attach`, started in that pod through the API
//! server's exec, which joins its standard input and output to that socket. So nothing needs a Service, a port or a
//! credential of the cluster in the pod, and a dropped exec is attached again without a loss ([`link`], [`server`]).
//!
//! The watchdog is the exception: nobody attaches to it, and it does need the API server, for that is where it reverts.
//!
//! **Architecture invariant:** an agent undoes by itself whatever it did when nobody renews its time to live, and it
//! needs neither the API server nor the network for that.

pub mod host;
pub mod inside;
pub mod link;
pub mod loss;
pub mod node;
pub mod observe;
pub mod partition;
pub mod pods;
pub mod processes;
pub mod protocol;
pub mod server;
pub mod signals;
pub mod socket;
pub mod volume;
pub mod watchdog;
mod wire;

pub use link::{ClockLink, Events, Link, LinkError, LinkEvent, LinkSpec, LinkState, Transport};
