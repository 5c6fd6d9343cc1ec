//! Keeps every alert notification with its arrival time. See `testbed_parts::receiver`.

use std::net::SocketAddr;

use clap::Parser;
use testbed_parts::clock::Clock;
use testbed_parts::receiver::{Inbox, KEPT};
use testbed_parts::serve;

/// A webhook for Alertmanager: POST /alerts, GET and DELETE /notifications, GET /time.
#[derive(Parser)]
#[command(name = "alert-receiver")]
struct Arguments {
    /// Where to listen
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Notifications kept; the oldest go first
    #[arg(long, env = "KEPT", default_value_t = KEPT)]
    kept: usize,
    /// Microseconds by which its wall time is ahead of the machine's (may be negative)
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    clock_offset_us: i64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let inbox = Inbox::new(Clock::with_offset(arguments.clock_offset_us), arguments.kept);
    serve::until_told(arguments.listen, inbox.routes()).await
}
