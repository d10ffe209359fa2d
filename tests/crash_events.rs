//! The real binary, killed with SIGKILL while events come in, again and again over the same data:
//! every acknowledged event is there once, with its payload byte for byte, and the counts add up. Jobs
//! run meanwhile: whichever is completed has one result for each of its ids.
//!
//! `CRASH_ROUNDS` says how often (default 30), `CRASH_SEED` replays the load and the moments of a
//! run as far as threads allow.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::print_stderr, reason = "the seed of a failing run")]

#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};

use fastrand::Rng;
use parking_lot::Mutex;
use server::{Server, Setup, poll};

/// Clients at once.
const CLIENTS: u64 = 4;
/// At most so many answers before the kill.
const MAX_ANSWERS: usize = 60;
/// At most so many ingestions a round.
const MAX_INGESTIONS: usize = 3;
/// Event ids are drawn from so few that many are sent more than once.
const IDS: u32 = 4_000;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// What the clients know.
#[derive(Default)]
struct Ledger {
    /// Ids that some answer of 2xx spoke of.
    acknowledged: BTreeSet<u32>,
    /// Of how many events an answer said that they are new; never more often than once an id.
    accepted: u64,
    /// Ingestions that were accepted, with their ids.
    ingestions: BTreeMap<String, Vec<i64>>,
}

/// The payload of an id: always the same, with white space that must survive.
fn payload(id: u32) -> String {
    let mut rng = Rng::with_seed(u64::from(id));
    let mut text = format!("{{ \"n\": {id}.0,  \"text\":\"");
    for _ in 0..rng.usize(..200) {
        let _ = write!(text, "\\u00{:02x}", rng.u8(0x20..0x7f));
    }
    text.push_str("\" }");
    text
}

fn event(id: u32) -> String {
    let mut rng = Rng::with_seed(u64::from(id));
    let (tenant, second) = (rng.u8(..3), rng.u8(..60));
    format!(
        "{{\"event_id\":\"e{id}\",\"tenant_id\":\"t{tenant}\",\"event_type\":\"load\",\
         \"timestamp\":\"2026-01-01T00:00:{second:02}Z\",\"payload\":{}}}",
        payload(id)
    )
}

struct Client {
    address: std::net::SocketAddr,
    rng: Rng,
    ledger: Arc<Mutex<Ledger>>,
    dying: Arc<AtomicBool>,
    answered: Sender<()>,
}

impl Client {
    /// Sends until the connection breaks.
    fn run(mut self) {
        let Ok(mut connection) = http::Connection::open(self.address) else {
            return;
        };
        loop {
            let most = if self.rng.u8(..4) == 0 { 200 } else { 3 };
            let ids: Vec<u32> = (0..self.rng.usize(1..=most))
                .map(|_| self.rng.u32(..IDS))
                .collect();
            let events: Vec<String> = ids.iter().copied().map(event).collect();
            let body = format!("[{}]", events.join(","));
            let reply = match connection.post_json("/events", &body) {
                Ok(reply) => reply,
                Err(error) => {
                    let dying = self.dying.load(Ordering::SeqCst);
                    assert!(dying, "the connection broke before the kill: {error}");
                    return;
                }
            };
            assert_eq!(reply.status, 202, "{}", reply.text());
            let answer = reply.json();
            let count = |key: &str| answer[key].as_u64().unwrap();
            assert_eq!(count("accepted") + count("duplicates"), ids.len() as u64);
            {
                let mut ledger = self.ledger.lock();
                ledger.acknowledged.extend(ids);
                ledger.accepted += count("accepted");
            }
            if self.answered.send(()).is_err() {
                return;
            }
        }
    }
}

/// Submits ingestions of a few ids until the connection breaks or `MAX_INGESTIONS` were accepted.
fn submit(server: &Server, mut rng: Rng, ledger: &Mutex<Ledger>) {
    let Ok(mut connection) = server.connect() else {
        return;
    };
    for _ in 0..MAX_INGESTIONS {
        let ids: Vec<i64> = (0..rng.usize(1..=7)).map(|_| rng.i64(..)).collect();
        let body = format!("{{\"ids\":{ids:?},\"priority\":\"MEDIUM\"}}");
        // Whether a request without an answer was accepted can't be known.
        let Ok(reply) = connection.post_json("/ingest", &body) else {
            return;
        };
        assert_eq!(reply.status, 200, "{}", reply.text());
        let id = reply.json()["ingestion_id"].as_str().unwrap().to_owned();
        ledger.lock().ingestions.insert(id, ids);
    }
}

/// Compares the results of the ingestions that are completed with their ids; how many those are.
fn check_results<'a>(
    server: &Server,
    ingestions: impl Iterator<Item = (&'a String, &'a Vec<i64>)>,
) -> usize {
    let mut connection = server.connect().unwrap();
    let mut get = |path: &str| {
        let reply = connection.get(path).unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    };
    let mut completed = 0;
    for (ingestion, ids) in ingestions {
        let status = get(&format!("/status/{ingestion}?view=summary"));
        if status["status"] != "completed" {
            continue;
        }
        completed += 1;
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = get(&format!(
                "/ingestions/{ingestion}/results?page_size=2{cursor}"
            ));
            let results = page["events"].as_array().unwrap();
            found.extend(
                results
                    .iter()
                    .map(|it| it["payload"]["id"].as_i64().unwrap()),
            );
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        found.sort_unstable();
        let mut expected = ids.clone();
        expected.sort_unstable();
        assert_eq!(found, expected, "the results of {ingestion}");
    }
    completed
}

/// Puts the server under load and kills it after a random number of answers.
fn live_and_die(server: Server, rng: &mut Rng, ledger: &Arc<Mutex<Ledger>>) {
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
    submit(&server, rng.fork(), ledger);
    let seen = answers.iter().take(answers_until_death).count();
    dying.store(true, Ordering::SeqCst);
    server.kill();
    for client in clients {
        client.join().expect("a client met a wrong answer");
    }
    assert_eq!(seen, answers_until_death, "the clients gave up too early");
}

/// Every event there is, by id, with the text of its payload.
fn everything(server: &Server) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    let mut connection = server.connect().unwrap();
    let mut cursor = String::new();
    loop {
        let path = format!("/events?topic=&page_size=500{cursor}");
        let reply = connection.get(&path).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page: Page<'_> = serde_json::from_slice(&reply.body).unwrap();
        for event in page.events {
            let id: u32 = event.event_id[1..].parse().unwrap();
            let twice = found.insert(id, event.payload.get().to_owned());
            assert_eq!(twice, None, "e{id} is there twice");
        }
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<Kept<'a>>,
    next_cursor: Option<String>,
}

#[derive(serde::Deserialize)]
struct Kept<'a> {
    event_id: String,
    #[serde(borrow)]
    payload: &'a serde_json::value::RawValue,
}

#[test]
fn killed_at_random_moments_it_keeps_every_acknowledged_event_once() {
    let rounds = variable("CRASH_ROUNDS", 30);
    let seed = variable("CRASH_SEED", fastrand::u64(..));
    eprintln!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut rng = Rng::with_seed(seed);
    let home = tempfile::tempdir().unwrap();
    let setup = Setup::fast(home.path());
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for _ in 0..rounds {
        let server = setup.start();
        // Their ids are in order of time: those of the last rounds.
        let recent = ledger.lock().ingestions.clone();
        check_results(&server, recent.iter().rev().take(2 * MAX_INGESTIONS));
        live_and_die(server, &mut rng, &ledger);
    }
    let server = setup.start();
    let ledger = ledger.lock();
    assert!(!ledger.ingestions.is_empty(), "no round was long enough");
    poll(
        "all ingestions are completed, each with its results",
        || {
            (check_results(&server, ledger.ingestions.iter()) == ledger.ingestions.len())
                .then_some(())
        },
    );
    let found = everything(&server);
    let lost: Vec<_> = ledger
        .acknowledged
        .iter()
        .filter(|id| !found.contains_key(*id))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    for (id, text) in &found {
        assert_eq!(*text, payload(*id), "the payload of e{id}");
    }
    // Ingestions whose answer was lost in a kill have results, too, and may still run.
    let stats = poll("every event that was counted is there", || {
        let results = server.get("/events?topic=ingest&page_size=10000").unwrap();
        let results = results.json()["events"].as_array().unwrap().len();
        let stats = server.get("/stats").unwrap().json();
        (stats["unique_processed"] == found.len() + results).then_some(stats)
    });
    let count = |key: &str| stats[key].as_u64().unwrap();
    assert_eq!(
        count("received"),
        count("unique_processed") + count("duplicate_dropped")
    );
    assert!(
        ledger.accepted <= found.len() as u64,
        "an event was called new twice"
    );
    assert!(!found.is_empty(), "no round was long enough");
}
