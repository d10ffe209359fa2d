//! The same stream into what others use: exact deduplication, a sync before each answer where it
//! can be had.

#[path = "others/nats.rs"]
mod nats;
#[path = "others/postgres.rs"]
pub(crate) mod postgres;
#[path = "others/redis.rs"]
mod redis;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::figures::{Row, variable};
use super::generator::{BATCH, Generator, NEW, numbers};
use super::load::send;
use super::other::Other;
use super::postgres::Postgres;
use super::process::Setup;

/// How many clients there are.
pub(crate) const CONNECTIONS: usize = 4;

/// One client of it.
pub(crate) trait Client: Send + Sized + 'static {
    /// A kept connection.
    fn connect(address: SocketAddr) -> Self;
    /// Stores a batch; how many of it were new.
    fn store(&mut self, events: &[Vec<u8>]) -> u64;
}

/// `BENCH_OTHERS` events into each, and into Tollgate.
pub(crate) fn run(rows: &mut Vec<Row>) {
    let requests = variable("BENCH_OTHERS", 1_000_000) / BATCH;
    let ours = tollgate(requests);
    rows.push(Row::new(
        format!("{} events into Tollgate", requests * BATCH),
        "faster than each below",
        format!("{ours:.0} a second"),
    ));
    let name = "Redis: SET NX, then XADD; appendfsync always";
    compare(
        rows,
        name,
        ours,
        redis::start().map(|it| measure::<redis::Redis>(&it, requests)),
    );
    let name = "NATS JetStream: Nats-Msg-Id within an hour, file storage";
    compare(
        rows,
        name,
        ours,
        nats::start().map(|it| measure::<nats::Nats>(&it, requests)),
    );
    let name = "PostgreSQL: unnest, ON CONFLICT DO NOTHING; synchronous_commit on";
    let postgres = postgres::start();
    compare(
        rows,
        name,
        ours,
        postgres.map(|it| measure::<Postgres>(&it, requests)),
    );
}

fn compare(rows: &mut Vec<Row>, name: &str, ours: f64, theirs: Option<f64>) {
    let measured = match theirs {
        Some(rate) => format!(
            "{rate:.0} a second: Tollgate is {:.1} times as fast",
            ours / rate
        ),
        None => "is not installed".to_owned(),
    };
    rows.push(Row::new(format!("the same into {name}"), "", measured));
}

fn tollgate(requests: u64) -> f64 {
    let server = Setup::new().start();
    let generator = Arc::new(Generator::new(requests * NEW));
    let done = send(
        server.address,
        CONNECTIONS,
        (0, requests),
        &generator,
        || Generator::request("/events/bulk", BATCH),
        |generator, request, number| generator.fill(request, numbers(number)),
    );
    assert_eq!(done.accepted, requests * NEW, "accepted");
    (requests * BATCH) as f64 / done.took.as_secs_f64()
}

/// Events a second.
pub(crate) fn measure<C: Client>(other: &Other, requests: u64) -> f64 {
    let generator = Arc::new(Generator::new(requests * NEW));
    let next = Arc::new(AtomicU64::new(0));
    let mut clients: Vec<C> = (0..CONNECTIONS)
        .map(|_| C::connect(other.address))
        .collect();
    let started = Instant::now();
    let threads: Vec<_> = clients
        .drain(..)
        .map(|mut client| {
            let (generator, next) = (Arc::clone(&generator), Arc::clone(&next));
            std::thread::spawn(move || {
                let mut new = 0;
                loop {
                    let request = next.fetch_add(1, Ordering::Relaxed);
                    if request >= requests {
                        return new;
                    }
                    let events: Vec<Vec<u8>> = numbers(request)
                        .map(|number| generator.event(number))
                        .collect();
                    new += client.store(&events);
                }
            })
        })
        .collect();
    let new: u64 = threads.into_iter().map(|it| it.join().unwrap()).sum();
    assert_eq!(new, requests * NEW, "new events");
    (requests * BATCH) as f64 / started.elapsed().as_secs_f64()
}

/// The text of a member of an event that the generator made: no escapes, each key once.
fn member<'a>(event: &'a [u8], key: &str) -> &'a str {
    let event = std::str::from_utf8(event).unwrap();
    let start = event.find(key).unwrap() + key.len() + 3;
    let rest = &event[start..];
    &rest[..rest.find('"').unwrap()]
}
