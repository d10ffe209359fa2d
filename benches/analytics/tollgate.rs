//! Fills the real binary, and asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Connection, get, post};
use super::figures::{Row, percentile, show};
use super::others::{self, Told};
use super::process::{Server, Setup};
use super::questions::QUESTIONS;
use super::stream::{Event, total};

/// Events a request.
const BATCH: u64 = 5_000;

/// How many requests are on their way at once.
const CONNECTIONS: usize = 4;

pub(crate) fn run(rows: &mut Vec<Row>) {
    let total = total();
    let setup = Setup::new();
    let server = setup.start();
    let took = fill(&server, total);
    let rate = total as f64 / took.as_secs_f64();
    rows.push(Row::new(
        format!("{total} events"),
        "",
        format!("{rate:.0} a second"),
    ));
    server.settle();
    ask(&server, rows);
    let memory = server.memory() as f64 / f64::from(1 << 20);
    rows.push(Row::new(
        "memory (VmRSS) after that",
        "",
        format!("{memory:.0} MiB"),
    ));
    server.kill();
    let path = "/stats/dau?from=2026-03-02&to=2026-03-31";
    let (server, took) = setup.start_until(path);
    rows.push(Row::new(
        "start after a kill, to the first answer",
        "",
        show(took),
    ));
    let took = server.terminate();
    rows.push(Row::new("a graceful stop", "10 s", show(took)));
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

fn fill(server: &Server, total: u64) -> Duration {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    runtime().block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut connection = Connection::open(server.address).await;
            let next = Arc::clone(&next);
            clients.spawn(async move {
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= total {
                        return;
                    }
                    let mut body = String::from("[");
                    for number in first..total.min(first + BATCH) {
                        Event::new(number, total).json(&mut body);
                        body.push(',');
                    }
                    body.pop();
                    body.push(']');
                    connection.call(&post("/events/bulk", &body)).await;
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
    });
    started.elapsed()
}

fn ask(server: &Server, rows: &mut Vec<Row>) {
    let runtime = runtime();
    for question in QUESTIONS {
        let (mut times, counted) = runtime.block_on(async {
            let mut connection = Connection::open(server.address).await;
            let request = get(question.path);
            let mut times = Vec::new();
            // The first answer is timed like the others: nothing is computed beforehand.
            for _ in 0..question.times {
                let started = Instant::now();
                connection.call(&request).await;
                times.push(started.elapsed());
            }
            let answer: Value = serde_json::from_slice(connection.call(&request).await).unwrap();
            (times, sum(&answer, question.counts))
        });
        let first = times[0];
        times.sort_unstable();
        let at = |share| percentile(&times, share);
        others::tell(
            question.name,
            Told {
                took: at(0.5),
                counted,
            },
        );
        rows.push(Row::new(
            question.name,
            question.target,
            format!(
                "p50 {}, p99 {}, max {}, first {}",
                show(at(0.5)),
                show(at(0.99)),
                show(at(1.0)),
                show(first)
            ),
        ));
    }
}

/// Of all numbers under `key`, however deep.
fn sum(answer: &Value, key: &str) -> u64 {
    match answer {
        Value::Array(entries) => entries.iter().map(|entry| sum(entry, key)).sum(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                if name == key {
                    numbers(value)
                } else {
                    sum(value, key)
                }
            })
            .sum(),
        _ => 0,
    }
}

fn numbers(value: &Value) -> u64 {
    match value {
        Value::Array(entries) => entries.iter().map(numbers).sum(),
        other => other.as_u64().unwrap_or(0),
    }
}
