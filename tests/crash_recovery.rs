//! The real binary, killed with SIGKILL under load again and again over the same data: nothing
//! acknowledged is lost, nothing is skipped, and the pace and the order hold across all lives.
//!
//! `CRASH_ROUNDS` says how often (default 30), `CRASH_SEED` replays the load and
//! the moments of a run as far as threads allow.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::print_stderr, reason = "the seed of a failing run")]

#[path = "support/http.rs"]
mod http;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use ledger::{Accepted, Ledger, PRIORITIES};
use parking_lot::Mutex;
use serde_json::json;
use server::{Server, Setup, poll};

/// Clients at once.
const CLIENTS: u64 = 4;
/// At most so many answers before the kill; a client gets about one per slot.
const MAX_ANSWERS: usize = 120;
/// A batch starts each 20 ms at most.
const INTERVAL_MICROS: i64 = 20_000;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Microseconds since the epoch, to compare with the server's timestamps.
#[allow(clippy::disallowed_methods, reason = "a client has no other clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

#[test]
fn killed_at_random_moments_it_loses_nothing_and_keeps_the_pace() {
    let rounds = variable("CRASH_ROUNDS", 30);
    let seed = variable("CRASH_SEED", fastrand::u64(..));
    eprintln!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = Rng::with_seed(seed);

    let home = tempfile::tempdir().unwrap();
    let setup = Setup::fast(home.path());
    let ledger = ledger::shared();
    for round in 0..rounds {
        let server = setup.start();
        let known = ledger.lock().last_accepted(50);
        for ingestion in known {
            read(&server, &ingestion, &ledger);
        }
        live_and_die(server, &mut rng, &ledger, round);
    }

    let server = setup.start();
    let ledger_now = ledger.lock().all_accepted();
    assert!(!ledger_now.is_empty(), "no round was long enough");
    for ingestion in &ledger_now {
        poll("everything completes", || {
            let path = format!("/status/{}?view=summary&wait=10s", ingestion.id);
            let reply = server.get(&path).unwrap();
            assert_eq!(reply.status, 200, "{}: {}", ingestion.id, reply.text());
            (reply.json()["status"] == "completed").then_some(())
        });
    }
    for ingestion in &ledger_now {
        read(&server, ingestion, &ledger);
    }
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
    ledger.assert_order(0);
    eprintln!("{}", ledger.summary());
}

/// Here the interval is far longer than a restart, so a queue that forgot its last start would
/// start the next batch too early each time.
#[test]
fn a_restart_inside_an_interval_waits_for_its_slot() {
    let home = tempfile::tempdir().unwrap();
    let setup = Setup::fast(home.path()).with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "500ms");
    let ledger = Mutex::new(Ledger::default());
    let server = setup.start();
    let ids: Vec<i64> = (1..=30).collect();
    submit(&mut server.connect().unwrap(), &ledger, ids, 1).unwrap();
    let ingestion = ledger.lock().all_accepted().remove(0);
    let mut server = Some(server);
    for _ in 0..5 {
        let living = server.take().unwrap_or_else(|| setup.start());
        let before = ledger.lock().starts();
        poll("a batch starts", || {
            read(&living, &ingestion, &ledger);
            (ledger.lock().starts() > before).then_some(())
        });
        living.kill();
    }
    let ledger = ledger.lock();
    ledger.assert_pace(500_000);
    ledger.assert_order(0);
}

/// Puts the server under load and kills it after a random number of answers.
fn live_and_die(server: Server, rng: &mut Rng, ledger: &Arc<Mutex<Ledger>>, round: u64) {
    let answers_until_death = rng.usize(1..=MAX_ANSWERS);
    let dying = Arc::new(AtomicBool::new(false));
    let (answered, answers) = mpsc::channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = Client {
                address: server.address(),
                rng: rng.fork(),
                ledger: Arc::clone(ledger),
                dying: Arc::clone(&dying),
                answered: answered.clone(),
            };
            std::thread::spawn(move || client.run())
        })
        .collect();
    drop(answered);
    let seen = answers.iter().take(answers_until_death).count();
    dying.store(true, Ordering::SeqCst);
    server.kill();
    for client in clients {
        client.join().expect("a client met a wrong answer");
    }
    assert_eq!(
        seen, answers_until_death,
        "round {round}: the clients gave up while the server lived"
    );
}

/// Reads an ingestion and enters what it says.
fn read(server: &Server, ingestion: &Accepted, ledger: &Mutex<Ledger>) {
    let asked = ledger.lock().asks();
    let reply = server.get(&format!("/status/{}", ingestion.id)).unwrap();
    assert_eq!(
        reply.status,
        200,
        "{} is lost: {}",
        ingestion.id,
        reply.text()
    );
    ledger.lock().saw(&reply.json(), asked);
}

/// Submits, and enters it once it is acknowledged.
fn submit(
    connection: &mut http::Connection,
    ledger: &Mutex<Ledger>,
    ids: Vec<i64>,
    rank: usize,
) -> std::io::Result<()> {
    let body = json!({"ids": &ids, "priority": PRIORITIES[rank]}).to_string();
    let sent_at = now();
    let reply = connection.post_json("/ingest", &body)?;
    let answered_at = now();
    assert_eq!(reply.status, 200, "{}", reply.text());
    ledger.lock().accepted(Accepted {
        id: reply.json()["ingestion_id"].as_str().unwrap().to_owned(),
        ids,
        rank,
        sent_at,
        answered_at,
    });
    Ok(())
}

/// One client: submits, watches what it and others submitted, until the connection breaks.
struct Client {
    address: std::net::SocketAddr,
    rng: Rng,
    ledger: Arc<Mutex<Ledger>>,
    dying: Arc<AtomicBool>,
    answered: Sender<()>,
}

impl Client {
    fn run(mut self) {
        let Ok(mut connection) = http::Connection::open(self.address) else {
            return;
        };
        loop {
            let done = if self.rng.u8(0..3) == 0 {
                self.submit(&mut connection)
            } else {
                self.watch(&mut connection)
            };
            if let Err(error) = done {
                let dying = self.dying.load(Ordering::SeqCst);
                assert!(dying, "the connection broke before the kill: {error}");
                return;
            }
            if self.answered.send(()).is_err() {
                return;
            }
        }
    }

    fn submit(&mut self, connection: &mut http::Connection) -> std::io::Result<()> {
        let count = self.rng.usize(1..=7);
        let ids: Vec<i64> = (0..count).map(|_| self.rng.i64(..)).collect();
        let rank = self.rng.usize(0..PRIORITIES.len());
        submit(connection, &self.ledger, ids, rank)
    }

    fn watch(&mut self, connection: &mut http::Connection) -> std::io::Result<()> {
        let chosen = self.ledger.lock().choose(&mut self.rng);
        let path = match chosen {
            Some(ingestion) => format!("/status/{}?wait=30ms", ingestion.id),
            None => "/health".to_owned(),
        };
        let asked = self.ledger.lock().asks();
        let reply = connection.get(&path)?;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        if path != "/health" {
            self.ledger.lock().saw(&reply.json(), asked);
        }
        Ok(())
    }
}
