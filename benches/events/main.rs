//! Events over HTTP, on the real binary: see `benches/README.md`.
//!
//! `cargo bench --bench events` runs everything; after `--`, names choose: `stream`, `single`,
//! `import`, `others`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise, prints, and reads the clock"
)]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../support/client.rs"]
mod client;
#[path = "../support/figures.rs"]
mod figures;
mod generator;
mod import;
mod load;
#[path = "../support/other.rs"]
mod other;
mod others;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/process.rs"]
mod process;
mod single;
mod stream;

fn main() {
    figures::run(&[
        ("stream", stream::run),
        ("single", single::run),
        ("import", import::run),
        ("others", others::run),
    ]);
}
