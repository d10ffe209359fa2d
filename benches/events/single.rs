//! One event a request: each answer comes after its sync.

use std::sync::Arc;

use super::figures::{Row, variable};
use super::generator::Generator;
use super::load::send;
use super::process::Setup;

/// `POST /events` over 64 connections; the middle one of three runs by rate.
pub(crate) fn run(rows: &mut Vec<Row>) {
    let total = variable("BENCH_SINGLE", 120_000);
    let server = Setup::new().start();
    let generator = Arc::new(Generator::new(total * 4 / 3));
    let mut runs: Vec<_> = (0..4)
        .map(|run| {
            let numbers = (run * total / 3, (run + 1) * total / 3);
            let done = send(
                server.address,
                64,
                numbers,
                &generator,
                || Generator::request("/events", 1),
                |generator, request, number| generator.fill(request, std::iter::once(number)),
            );
            assert_eq!(done.accepted, numbers.1 - numbers.0, "accepted");
            done
        })
        .collect();
    // The first one warms up.
    runs.remove(0);
    runs.sort_by_key(|run| run.took);
    let run = &runs[1];
    rows.push(Row::new(
        "single-event POST /events, 64 connections",
        "8,000 a second, p99 under 25 ms",
        format!(
            "{:.0} a second, {}",
            run.latencies.len() as f64 / run.took.as_secs_f64(),
            run.percentiles()
        ),
    ));
}
