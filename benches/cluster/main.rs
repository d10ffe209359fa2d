//! Several nodes over real servers of others, all on this machine: see `benches/README.md`.
//!
//! `cargo bench --bench cluster` runs everything; after `--`, names choose: `events`, `bus`, `submit`,
//! `failover`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise, prints, and reads the clock"
)]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(dead_code, reason = "shared: this benchmark uses its part")]

#[path = "../support/client.rs"]
mod client;
mod events;
mod failover;
#[path = "../support/figures.rs"]
mod figures;
#[path = "../events/generator.rs"]
mod generator;
#[path = "../events/load.rs"]
mod load;
#[path = "../support/other.rs"]
mod other;
#[path = "../events/others.rs"]
mod others;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/process.rs"]
mod process;
mod submit;

use self::other::Other;
use self::process::Setup;

fn main() {
    figures::run(&[
        ("events", events::into_postgres),
        ("bus", events::over_nats),
        ("submit", submit::run),
        ("failover", failover::run),
    ]);
}

/// A node over this database.
fn node(postgres: &Other) -> Setup {
    let url = format!("postgres://postgres@{}/postgres", postgres.address);
    Setup::new().with("TOLLGATE_STORE__URL", url)
}

/// A server of the same settings as the one that others are measured on.
fn database() -> Option<Other> {
    postgres::start("SELECT 1")
}
