//! Many waiting batches: what they cost, how fast a status is among them, how long a start takes.

use super::client::{get, load};
use super::process::{Server, Setup};
use super::submit::bodies;
use super::{Row, percentile, show, variable};
use std::time::Duration;

struct Case {
    /// Ids in each ingestion.
    ids: i64,
    /// Batches in each ingestion.
    batches: u64,
    memory: &'static str,
    restart: &'static str,
}

/// In ingestions of 1,000 ids.
pub(crate) fn thousands(rows: &mut Vec<Row>) {
    let case = Case {
        ids: 1_000,
        batches: 334,
        memory: "32 bytes",
        restart: "3 s",
    };
    fill(&case, rows);
}

/// In ingestions of 3 ids.
pub(crate) fn threes(rows: &mut Vec<Row>) {
    let case = Case {
        ids: 3,
        batches: 1,
        memory: "200 bytes",
        restart: "15 s",
    };
    fill(&case, rows);
}

fn fill(case: &Case, rows: &mut Vec<Row>) {
    let ingestions = variable("TOLLGATE_BENCH_BATCHES", 10_000_000) / case.batches;
    let waiting = ingestions * case.batches;
    // Nothing moves while it is measured: after the first batch, the next slot is a day away.
    let setup = Setup::new()
        .with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "24h")
        .with("TOLLGATE_QUEUES__DEFAULT__MAX_WAITING", "100000000");
    let server = setup.start();
    // The buffers of a server under load belong to no batch.
    load(server.address, 64, 1_000, bodies(case.ids, 99), None);
    let before = settled(&server);
    let every = ingestions.div_ceil(20_000);
    let filled = load(
        server.address,
        64,
        ingestions,
        bodies(case.ids, 999),
        Some(every),
    );
    let grown = settled(&server).saturating_sub(before);
    let name = format!("{waiting} waiting in ingestions of {} ids", case.ids);
    println!(
        "  {name}: filled in {} ({:.0} POST /ingest a second, {}), {:.0} MiB on disk",
        show(filled.took),
        filled.rate(),
        filled.percentiles(),
        setup.disk() as f64 / f64::from(1 << 20)
    );
    rows.push(Row::new(
        format!("memory for a waiting batch, {name}"),
        case.memory,
        format!("{:.1} bytes", grown as f64 / waiting as f64),
    ));
    statuses(&server, &filled.ids, &name, rows);
    restarts(&setup, server, &name, case.restart, rows);
}

/// The memory once it stops falling: the allocator and the log's checkpoint need a moment.
fn settled(server: &Server) -> u64 {
    let mut least = server.memory();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(1));
        least = least.min(server.memory());
    }
    least
}

fn statuses(server: &Server, ids: &[String], name: &str, rows: &mut Vec<Row>) {
    for (query, note) in [("", ""), ("?view=summary", " (summary)")] {
        let mut requests: Vec<_> = ids
            .iter()
            .map(|id| get(&format!("/status/{id}{query}")))
            .collect();
        fastrand::Rng::with_seed(1).shuffle(&mut requests);
        for connections in [1, 16] {
            let run = load(server.address, connections, 20_000, requests.clone(), None);
            rows.push(Row::new(
                format!("GET /status{note}, {connections} connections, {name}"),
                "p99 2 ms",
                format!("{}, {:.0} a second", run.percentiles(), run.rate()),
            ));
        }
    }
}

fn restarts(setup: &Setup, server: Server, name: &str, target: &'static str, rows: &mut Vec<Row>) {
    server.kill();
    let (server, after_kill) = setup.start_until("/ready");
    let stop = server.terminate();
    let mut times = Vec::new();
    let mut memory = 0;
    for _ in 0..3 {
        let (server, took) = setup.start_until("/ready");
        times.push(took);
        memory = server.memory();
        server.terminate();
    }
    times.sort_unstable();
    rows.push(Row::new(
        format!("start to /ready with {name}: median of 3, and after a kill"),
        target,
        format!("{}, {}", show(percentile(&times, 0.5)), show(after_kill)),
    ));
    println!(
        "  {name}: graceful stop in {}; {:.0} MiB after a start",
        show(stop),
        memory as f64 / f64::from(1 << 20)
    );
}
