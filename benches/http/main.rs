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

mod client;
mod memory;
mod process;
mod slots;
mod submit;

use std::time::Duration;

use process::Setup;

/// One line of the final table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) target: &'static str,
    pub(crate) measured: String,
}

impl Row {
    /// Prints the figure at once: the table comes only after the last one.
    pub(crate) fn new(what: impl Into<String>, target: &'static str, measured: String) -> Self {
        let what = what.into();
        println!("  {what}: {measured}");
        Self {
            what,
            target,
            measured,
        }
    }
}

/// Measures, and adds its figures.
type Case = fn(&mut Vec<Row>);

/// `12.3 ms`, or in seconds from one second on.
pub(crate) fn show(duration: Duration) -> String {
    if duration >= Duration::from_secs(1) {
        format!("{:.2} s", duration.as_secs_f64())
    } else {
        format!("{:.2} ms", duration.as_secs_f64() * 1_000.0)
    }
}

/// The value below which `share` of `sorted` lies.
pub(crate) fn percentile<T: Copy>(sorted: &[T], share: f64) -> T {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is an index"
    )]
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index]
}

/// A whole number from the environment.
pub(crate) fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

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
    // Cargo passes `--bench`; names are what is left.
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let cases: [(&str, Case); 6] = [
        ("start", start),
        ("post", submit::small),
        ("big", submit::big),
        ("slots", slots::slots),
        ("memory1000", memory::thousands),
        ("memory3", memory::threes),
    ];
    for name in &names {
        let known = cases.iter().any(|(case, _)| case == name);
        assert!(known, "no case {name:?}");
    }
    let mut rows = Vec::new();
    for (name, run) in cases {
        if names.is_empty() || names.iter().any(|chosen| chosen == name) {
            println!("{name}");
            run(&mut rows);
        }
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("\n{cores} cores, shared by the server and the load generator\n");
    println!("| what | at least | measured |\n|---|---|---|");
    for row in rows {
        println!("| {} | {} | {} |", row.what, row.target, row.measured);
    }
}
