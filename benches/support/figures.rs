//! Figures, and the table of them.
#![allow(dead_code, reason = "shared: each benchmark uses its part")]

use std::time::Duration;

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

/// Runs the cases that the arguments name, or all, and prints the table.
pub(crate) fn run(cases: &[(&str, Case)]) {
    // Cargo passes `--bench`; names are what is left.
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
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
