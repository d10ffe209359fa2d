//! The leader is killed again and again: how long until another one starts batches, and whether the
//! pace and the order held.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::client::{load, post};
use super::figures::{Row, percentile, show, variable};
use super::postgres::Postgres;
use super::process::Server;
use super::{database, node};

/// A batch each 50 ms.
const INTERVAL: &str = "50ms";
const INTERVAL_MICROS: i64 = 50_000;

pub(crate) fn run(rows: &mut Vec<Row>) {
    let rounds = variable("BENCH_FAILOVERS", 20);
    let Some(postgres) = database() else { return };
    let setup = || {
        node(&postgres)
            .with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", INTERVAL)
            .with("TOLLGATE_QUEUES__DEFAULT__SIMULATE__MIN", "1ms")
            .with("TOLLGATE_QUEUES__DEFAULT__SIMULATE__MAX", "5ms")
    };
    let mut nodes: Vec<Server> = (0..2).map(|_| setup().start()).collect();
    // More than will be worked off.
    let ids: Vec<i64> = (0..300_000).collect();
    let body = serde_json::json!({"ids": ids, "priority": "MEDIUM"}).to_string();
    load(nodes[0].address, 1, 1, vec![post("/ingest", &body)], None);
    let mut client = Postgres::open(postgres.address).unwrap();
    let mut took = Vec::new();
    for _ in 0..rounds {
        let leader = leader(&nodes);
        let before = starts(&mut client);
        while starts(&mut client) == before {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Dropped: killed.
        drop(nodes.remove(leader));
        let (killed, before) = (Instant::now(), starts(&mut client));
        while starts(&mut client) == before {
            assert!(
                killed.elapsed() < Duration::from_mins(1),
                "nobody starts a batch"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        took.push(killed.elapsed());
        nodes.push(setup().start());
    }
    took.sort_unstable();
    let closest = client
        .ask(&format!(
            "SELECT coalesce(min(gap), {INTERVAL_MICROS}) FROM ({GAPS}) AS it"
        ))
        .unwrap();
    let double = client
        .ask(&format!(
            "SELECT count(*) FROM ({GAPS}) AS it WHERE gap < {INTERVAL_MICROS}"
        ))
        .unwrap();
    let skipped = client
        .ask("SELECT max(batch) + 1 - count(*) FROM run")
        .unwrap();
    rows.push(Row::new(
        format!("from SIGKILL of the leader to the next start, {rounds} times"),
        "under 10 s, no double start, none skipped",
        format!(
            "median {}, slowest {}; {double} starts closer than the interval (the closest {closest} us \
             of {INTERVAL_MICROS}), {skipped} skipped",
            show(percentile(&took, 0.5)),
            show(percentile(&took, 1.0)),
        ),
    ));
}

/// The distances of all starts that were ever recorded, in microseconds.
const GAPS: &str = "SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM (
    SELECT DISTINCT (body::json -> 'batch_moved' -> 'run' ->> 'at')::bigint AS at FROM change
    WHERE body LIKE '{\"batch_moved\"%') AS starts";

fn starts(client: &mut Postgres) -> u64 {
    let count = "SELECT count(*) FROM (SELECT DISTINCT triggered_at, attempt FROM run) AS it";
    client.ask(count).unwrap().parse().unwrap()
}

/// What it says of itself.
fn ready(node: &Server) -> String {
    let mut stream = TcpStream::connect(node.address).unwrap();
    let request = "GET /ready HTTP/1.1\r\nHost: tollgate\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Which of the nodes schedules, once one does.
fn leader(nodes: &[Server]) -> usize {
    loop {
        let leads = |node: &Server| ready(node).contains("\"scheduler\":{\"state\":\"ok\"}");
        if let Some(found) = nodes.iter().position(leads) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
