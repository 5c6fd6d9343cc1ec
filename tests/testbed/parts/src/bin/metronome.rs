//! Goes down and up at instants given to it, and says to the microsecond when it did. See `testbed_parts::metronome`.

use std::net::SocketAddr;

use clap::Parser;
use testbed_parts::clock::Clock;
use testbed_parts::metronome::{Metronome, Options};
use tokio::signal::unix::{SignalKind, signal};

/// An HTTP and a TCP server that go down and up at given instants and write down when they really did.
///
/// Prints one line of JSON with the addresses it listens on, then serves until SIGTERM or SIGINT.
#[derive(Parser)]
#[command(name = "metronome")]
struct Arguments {
    /// HTTP data port: answers 200 and "ok"
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// TCP data port: greets, then echoes
    #[arg(long, default_value = "127.0.0.1:0")]
    tcp: SocketAddr,
    /// Control port: POST /schedule, DELETE /schedule, GET /log, GET /time
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Microseconds by which every wall time it takes and gives is ahead of the machine's (may be negative)
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    clock_offset_us: i64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut metronome = Metronome::start(Options {
        http: arguments.http,
        tcp: arguments.tcp,
        control: arguments.control,
        clock: Clock::with_offset(arguments.clock_offset_us),
    })
    .await?;
    println!("{}", serde_json::to_string(&metronome.addresses())?);
    tokio::select! { biased;
        failed = metronome.failed() => return failed,
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    metronome.stop().await
}
