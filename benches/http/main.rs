//! What a client measures over HTTP, on the real binary: see `benches/README.md`.
//!
//! `cargo bench --bench http` runs everything; after `--`, names choose: `start`, `post`, `big`,
//! `slots`, `memory1000`, `memory3`.
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
mod memory;
#[path = "../support/process.rs"]
mod process;
mod slots;
mod submit;

use std::time::Duration;

use figures::{Row, percentile, show, variable};
use process::Setup;

/// An empty directory: start to first answer, and memory at rest.
fn start(rows: &mut Vec<Row>) {
    let mut times = Vec::new();
    let mut memory = 0;
    for _ in 0..15 {
        let (server, took) = Setup::new().start_until("/");
        times.push(took);
        // At rest: what start-up needed is given back by then.
        std::thread::sleep(Duration::from_secs(1));
        memory = memory.max(server.memory());
        server.terminate();
    }
    times.sort_unstable();
    rows.push(Row::new(
        "empty directory: start to first answer, median and slowest of 15",
        "100 ms",
        format!(
            "{}, {}",
            show(percentile(&times, 0.5)),
            show(percentile(&times, 1.0))
        ),
    ));
    rows.push(Row::new(
        "idle memory (VmRSS), largest of 15",
        "30 MiB",
        format!("{:.1} MiB", memory as f64 / f64::from(1 << 20)),
    ));
}

fn main() {
    figures::run(&[
        ("start", start),
        ("post", submit::small),
        ("big", submit::big),
        ("slots", slots::slots),
        ("memory1000", memory::thousands),
        ("memory3", memory::threes),
    ]);
}
