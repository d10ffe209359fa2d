//! Events into PostgreSQL, at once and over JetStream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::figures::{Row, variable};
use super::generator::{BATCH, Generator, NEW, numbers};
use super::load::{Load, send};
use super::others::{self, CONNECTIONS, measure};
use super::postgres::Postgres;
use super::process::Server;
use super::{database, node, other};

/// Requests of `BENCH_OTHERS` events in all, a fifth of them duplicates.
fn requests() -> u64 {
    variable("BENCH_OTHERS", 1_000_000) / BATCH
}

fn push(server: &Server, requests: u64) -> Load {
    let generator = Arc::new(Generator::new(requests * NEW));
    send(
        server.address,
        CONNECTIONS,
        (0, requests),
        &generator,
        || Generator::request("/events/bulk", BATCH),
        |generator, request, number| generator.fill(request, numbers(number)),
    )
}

fn rate(requests: u64, took: Duration) -> f64 {
    (requests * BATCH) as f64 / took.as_secs_f64()
}

/// Through Tollgate, and by a hand-written client, each into a server of its own, one after the other.
pub(crate) fn into_postgres(rows: &mut Vec<Row>) {
    let requests = requests();
    let Some(postgres) = database() else { return };
    let server = node(&postgres).start();
    let done = push(&server, requests);
    assert_eq!(done.accepted, requests * NEW, "accepted");
    let ours = rate(requests, done.took);
    let latencies = done.percentiles();
    drop((server, postgres));
    let Some(postgres) = others::postgres::start() else {
        return;
    };
    let theirs = measure::<Postgres>(&postgres, requests);
    rows.push(Row::new(
        format!(
            "{} events into PostgreSQL through one node",
            requests * BATCH
        ),
        "as many as below",
        format!("{ours:.0} a second, {latencies}"),
    ));
    rows.push(Row::new(
        "the same by a hand-written client: unnest, ON CONFLICT DO NOTHING",
        "",
        format!(
            "{theirs:.0} a second: Tollgate is {:.2} times as fast",
            ours / theirs
        ),
    ));
}

/// Acknowledged by JetStream, and committed to PostgreSQL meanwhile and afterwards.
pub(crate) fn over_nats(rows: &mut Vec<Row>) {
    let requests = requests();
    let Some(postgres) = database() else { return };
    let nats = other::Other::start("nats-server", |home, port| {
        let mut command = std::process::Command::new(other::find("nats-server").unwrap());
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]);
        command.arg(home.path());
        command
    });
    let Some(nats) = nats else { return };
    let url = format!("nats://{}", nats.address);
    let server = node(&postgres).with("TOLLGATE_BUS__URL", url).start();
    let began = Instant::now();
    let done = push(&server, requests);
    let acknowledged = rate(requests, done.took);
    let mut client = Postgres::open(postgres.address).unwrap();
    let stored = |client: &mut Postgres| {
        let count = client
            .ask("SELECT event + duplicates FROM event_head")
            .unwrap();
        count.parse::<u64>().unwrap()
    };
    let behind = requests * BATCH - stored(&mut client);
    while stored(&mut client) < requests * BATCH {
        assert!(
            began.elapsed() < Duration::from_mins(10),
            "not all is committed"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let committed = rate(requests, began.elapsed());
    let unique: u64 = client
        .ask("SELECT event FROM event_head")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(unique, requests * NEW, "accepted");
    rows.push(Row::new(
        format!("{} events acknowledged by JetStream", requests * BATCH),
        "100,000 a second",
        format!("{acknowledged:.0} a second, {}", done.percentiles()),
    ));
    rows.push(Row::new(
        "the same until all are committed to PostgreSQL",
        "",
        format!("{committed:.0} a second; {behind} were not yet when the last was acknowledged"),
    ));
}
