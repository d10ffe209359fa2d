//! Durable submissions: each answer comes after its sync.

use super::client::{load, post};
use super::process::Setup;
use super::{Row, percentile, show};
use std::time::Duration;

/// Bodies of `count` ids each; `variety` of them.
pub(crate) fn bodies(count: i64, variety: i64) -> Vec<Vec<u8>> {
    let priorities = ["HIGH", "MEDIUM", "LOW"];
    (0..variety)
        .zip(priorities.iter().cycle())
        .map(|(number, priority)| {
            let first = number * count;
            let ids: Vec<i64> = (first..first + count).collect();
            let body = serde_json::json!({"ids": ids, "priority": priority});
            post("/ingest", &body.to_string())
        })
        .collect()
}

/// Five ids in each, over 64, 16 and 1 connections.
pub(crate) fn small(rows: &mut Vec<Row>) {
    let setup = Setup::new();
    let server = setup.start();
    load(server.address, 64, 5_000, bodies(5, 999), None);
    let cases = [
        (64, 120_000, "12,000 a second, p99 25 ms"),
        (16, 60_000, "6,000 a second"),
        (1, 10_000, "800 a second"),
    ];
    for (connections, total, target) in cases {
        // The middle one of three by rate: a single run may meet a busy moment of the machine.
        let mut runs: Vec<_> = (0..3)
            .map(|_| load(server.address, connections, total / 3, bodies(5, 999), None))
            .collect();
        runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let run = &runs[1];
        rows.push(Row::new(
            format!("durable POST /ingest of 5 ids, {connections} connections"),
            target,
            format!("{:.0} a second, {}", run.rate(), run.percentiles()),
        ));
    }
}

/// A million ids in one.
pub(crate) fn big(rows: &mut Vec<Row>) {
    let server = Setup::new().start();
    let ids: Vec<i64> = (1..=1_000_000).collect();
    let body = serde_json::json!({"ids": ids, "priority": "MEDIUM"}).to_string();
    let run = load(server.address, 1, 9, vec![post("/ingest", &body)], None);
    let at = |share| {
        show(Duration::from_micros(
            percentile(&run.latencies, share).into(),
        ))
    };
    rows.push(Row::new(
        "one POST /ingest of 1,000,000 ids, median and slowest of 9",
        "500 ms",
        format!("{}, {}", at(0.5), at(1.0)),
    ));
}
