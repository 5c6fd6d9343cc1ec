//! The shop's checkout service. See `testbed_parts::checkout`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Parser};
use testbed_parts::checkout::{Checkout, Database, Options, Settings};
use testbed_parts::serve;

/// GET /healthz, POST /orders, GET /licence?player=NAME, GET /metrics.
#[derive(Parser)]
#[command(name = "checkout")]
struct Arguments {
    /// Where to listen
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// This instance's name
    #[arg(long, env = "POD_NAME", default_value = "checkout")]
    name: String,
    /// Database host
    #[arg(long, env = "PGHOST", default_value = "localhost")]
    host: String,
    /// Database port
    #[arg(long, env = "PGPORT", default_value_t = 5432)]
    port: u16,
    /// Database
    #[arg(long, env = "PGDATABASE", default_value = "orders")]
    database: String,
    /// Database role
    #[arg(long, env = "PGUSER", default_value = "checkout")]
    user: String,
    /// Its password
    #[arg(long, env = "PGPASSWORD", hide_env_values = true, default_value = "")]
    password: String,
    /// Milliseconds for a health or licence check
    #[arg(long, env = "CHECK_BUDGET_MS", default_value_t = 150)]
    check_budget_ms: u64,
    /// Milliseconds for an order
    #[arg(long, env = "ORDER_BUDGET_MS", default_value_t = 1000)]
    order_budget_ms: u64,
    /// Answer paid players from the cache while the database is away
    #[arg(long, env = "DEGRADED_MODE", action = ArgAction::Set, default_value_t = true)]
    degraded_mode: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = Options {
        name: arguments.name,
        check_budget: Duration::from_millis(arguments.check_budget_ms),
        order_budget: Duration::from_millis(arguments.order_budget_ms),
        degraded_mode: arguments.degraded_mode,
    };
    let Arguments { host, port, database, user, password, .. } = arguments;
    let checkout = Checkout::new(options, Database::new(Settings { host, port, database, user, password })?);
    tokio::select! { biased;
        served = serve::until_told(arguments.listen, checkout.clone().routes()) => served,
        () = checkout.keep_watch() => Ok(()),
    }
}
