//! Requests of events over kept connections, each waiting for its answer before the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::Connection;
use super::figures::{percentile, show};
use super::generator::{Generator, Request};

/// What a run of load gave.
pub(crate) struct Load {
    /// One for each answer, in microseconds, sorted.
    pub(crate) latencies: Vec<u32>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// What the answers say was accepted, all together.
    pub(crate) accepted: u64,
}

impl Load {
    /// `p50, p99, max`.
    pub(crate) fn percentiles(&self) -> String {
        let at = |share| {
            show(Duration::from_micros(
                percentile(&self.latencies, share).into(),
            ))
        };
        format!("p50 {}, p99 {}, max {}", at(0.5), at(0.99), at(1.0))
    }
}

/// How a request is made of its number.
pub(crate) type Fill = fn(&Generator, &mut Request, u64);

/// Sends the requests from `first` to before `end` over `connections`.
pub(crate) fn send(
    address: SocketAddr,
    connections: usize,
    (first, end): (u64, u64),
    generator: &Arc<Generator>,
    request: impl Fn() -> Request,
    fill: Fill,
) -> Load {
    // One thread: the server shares these cores.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let next = Arc::new(AtomicU64::new(first));
    runtime.block_on(async move {
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(Connection::open(address).await);
        }
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for mut connection in opened {
            let (next, generator, mut request) =
                (Arc::clone(&next), Arc::clone(generator), request());
            clients.spawn(async move {
                let (mut latencies, mut accepted) = (Vec::new(), 0);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return (latencies, accepted);
                    }
                    fill(&generator, &mut request, number);
                    let began = Instant::now();
                    let answer = connection.call(&request.bytes).await;
                    latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                    accepted += accepted_of(answer);
                }
            });
        }
        let mut load = Load {
            latencies: Vec::new(),
            took: Duration::ZERO,
            accepted: 0,
        };
        while let Some(done) = clients.join_next().await {
            let (latencies, accepted) = done.unwrap();
            load.latencies.extend(latencies);
            load.accepted += accepted;
        }
        load.took = started.elapsed();
        load.latencies.sort_unstable();
        load
    })
}

/// From `{"accepted": n, ...}`, or `{"event_id": ..., "status": "accepted"}`.
fn accepted_of(answer: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap();
    answer["accepted"]
        .as_u64()
        .unwrap_or_else(|| u64::from(answer["status"] == "accepted"))
}
