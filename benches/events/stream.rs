//! Twenty million events: how fast they go in, what they cost, how fast they come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Connection, get};
use super::figures::{Row, percentile, show, variable};
use super::generator::{BATCH, EVENT, Generator, NEW, numbers};
use super::load::send;
use super::process::{Server, Setup};

/// Pages that are read at each place.
const PAGES: usize = 1_000;

/// Fills to `BENCH_EVENTS` stored events, in parts, and measures on the way.
pub(crate) fn run(rows: &mut Vec<Row>) {
    let total = variable("BENCH_EVENTS", 20_000_000);
    let setup = Setup::new();
    let server = setup.start();
    let generator = Arc::new(Generator::new(total));
    println!("  an event has {} bytes of JSON", EVENT - 1);
    let marks = [0, total / 10, total / 2, total / 4 * 3, total];
    let mut memory = Vec::new();
    for pair in marks.windows(2) {
        let (first, end) = (pair[0].div_ceil(NEW), pair[1].div_ceil(NEW));
        let done = send(
            server.address,
            4,
            (first, end),
            &generator,
            || Generator::request("/events/bulk", BATCH),
            |generator, request, number| generator.fill(request, numbers(number)),
        );
        // A duplicate may overtake the first, which is then the duplicate: the sum is the same.
        assert_eq!(done.accepted, (end - first) * NEW, "accepted");
        let target = match (pair[0], pair[1]) {
            (0, _) => "400,000 a second",
            (_, end) if end == total => "250,000 a second",
            _ => "",
        };
        rows.push(Row::new(
            format!("events a second, {} to {} stored", pair[0], end * NEW),
            target,
            format!(
                "{:.0} a second; a request: {}",
                ((end - first) * BATCH) as f64 / done.took.as_secs_f64(),
                done.percentiles()
            ),
        ));
        memory.push((end * NEW, settled(&server)));
    }
    costs(&setup, &memory, rows);
    pages(&server, "", rows);
    restart(&setup, server, rows);
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

fn costs(setup: &Setup, memory: &[(u64, u64)], rows: &mut Vec<Row>) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (half, whole) = (memory[1], memory[3]);
    rows.push(Row::new(
        format!("memory (VmRSS) at {} and at {} events", half.0, whole.0),
        "under 1 GiB, at most 100 MiB more",
        format!(
            "{:.0} MiB, {:.0} MiB ({:+.0} MiB)",
            mib(half.1),
            mib(whole.1),
            mib(whole.1) - mib(half.1)
        ),
    ));
    rows.push(Row::new(
        format!("disk for an event, {} stored", whole.0),
        "under 200 bytes",
        format!("{:.1} bytes", setup.disk() as f64 / whole.0 as f64),
    ));
}

/// Pages of 100 events, one behind the other by cursor, from several days on.
fn pages(server: &Server, note: &str, rows: &mut Vec<Row>) {
    for (place, day) in [
        ("at the beginning", 1),
        ("in the middle", 16),
        ("near the end", 30),
    ] {
        for (filter, words) in [("", ""), ("&tenant_id=shop-07", " of one tenant")] {
            let mut times = read(server, day, filter);
            times.sort_unstable();
            let at = |share| show(percentile(&times, share));
            rows.push(Row::new(
                format!("a page of 100 events{words} by cursor, {place}{note}"),
                "p99 under 10 ms",
                format!("p50 {}, p99 {}, max {}", at(0.5), at(0.99), at(1.0)),
            ));
        }
    }
}

fn read(server: &Server, day: u64, filter: &str) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut connection = Connection::open(server.address).await;
        let mut path = format!("/events?page_size=100&from=2026-01-{day:02}T00:00:00Z{filter}");
        let mut times = Vec::new();
        for _ in 0..PAGES {
            let request = get(&path);
            let started = Instant::now();
            let answer = connection.call(&request).await;
            times.push(started.elapsed());
            let answer: serde_json::Value = serde_json::from_slice(answer).unwrap();
            let Some(cursor) = answer["next_cursor"].as_str() else {
                break;
            };
            path = format!(
                "/events?page_size=100&from=2026-01-{day:02}T00:00:00Z{filter}&cursor={cursor}"
            );
        }
        times
    })
}

fn restart(setup: &Setup, server: Server, rows: &mut Vec<Row>) {
    server.kill();
    let (server, took) = setup.start_until("/ready");
    rows.push(Row::new("start after a kill, to /ready", "3 s", show(took)));
    pages(&server, ", after that start", rows);
    server.terminate();
}
