//! Durable submissions to two nodes at once.

use std::time::Instant;

use super::client::{load, post};
use super::figures::Row;
use super::{database, node};

/// Connections to each node.
const CONNECTIONS: usize = 32;

/// Submissions to each node.
const TOTAL: u64 = 30_000;

pub(crate) fn run(rows: &mut Vec<Row>) {
    let Some(postgres) = database() else { return };
    let nodes = [node(&postgres).start(), node(&postgres).start()];
    let bodies = || -> Vec<Vec<u8>> {
        let body = |first: i64| {
            let ids: Vec<i64> = (first..first + 5).collect();
            let body = serde_json::json!({"ids": ids, "priority": "MEDIUM"});
            post("/ingest", &body.to_string())
        };
        (0..999).map(body).collect()
    };
    for node in &nodes {
        load(node.address, CONNECTIONS, 1_000, bodies(), None);
    }
    let began = Instant::now();
    let threads: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (address, bodies) = (node.address, bodies());
            std::thread::spawn(move || load(address, CONNECTIONS, TOTAL, bodies, None))
        })
        .collect();
    let runs: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    let rate = (2 * TOTAL) as f64 / began.elapsed().as_secs_f64();
    let percentiles: Vec<_> = runs.iter().map(super::client::Load::percentiles).collect();
    rows.push(Row::new(
        "durable POST /ingest of 5 ids, 2 nodes, 64 connections",
        "3,000 a second",
        format!("{rate:.0} a second; {}", percentiles.join("; ")),
    ));
}
