//! Analytics over HTTP, on the real binary, and the same questions put to others: see
//! `benches/README.md`.
//!
//! `cargo bench --bench analytics` runs everything; after `--`, names choose: `tollgate`, `sqlite`,
//! `postgres`. The ratios need `tollgate` in the same run.
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
mod in_postgres;
mod in_sqlite;
#[path = "../support/other.rs"]
mod other;
mod others;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/process.rs"]
mod process;
mod questions;
mod stream;
mod tollgate;

fn main() {
    figures::run(&[
        ("tollgate", tollgate::run),
        ("sqlite", in_sqlite::run),
        ("postgres", in_postgres::run),
    ]);
}
