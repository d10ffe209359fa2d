//! Analytics that follow a replica of the database: however far that is behind, answers cover what
//! they say, and where it can't be had they are refused, until it is there again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "replica/promoted.rs"]
mod promoted;
#[path = "cluster/relay.rs"]
mod relay;
#[path = "support/server.rs"]
mod server;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use backing::{Backing, psql, rounds};
use http::Reply;
use parking_lot::Mutex;
use relay::Relay;
use server::{Server, Setup, poll};
use tempfile::TempDir;
use tollgate::model::time::Timestamp;

/// What the rollups answer, and what is answered from the events.
const QUESTIONS: [&str; 2] = [
    "/metrics?bucket_size=day",
    "/metrics?bucket_size=day&segment=properties.country%3DUA",
];

/// A database and its replica.
struct Pair {
    primary: Backing,
    replica: Backing,
    url: String,
    read_url: String,
}

impl Pair {
    fn start() -> Option<Self> {
        let primary = Backing::postgres()?;
        let replica = Backing::replica_of(&primary)?;
        let url = primary.new_database();
        let name = url.rsplit('/').next().unwrap();
        let read_url = replica.url_of(name);
        let pair = Self {
            primary,
            replica,
            url,
            read_url,
        };
        poll("the replica has the database", || {
            psql(&pair.read_url, "SELECT 1").ok()
        });
        Some(pair)
    }

    /// Stops the replica where it is, or lets it go on.
    fn pause(&self, pause: bool) {
        let url = self.replica.url_of("postgres");
        if !pause {
            psql(&url, "SELECT pg_wal_replay_resume()").unwrap();
            return;
        }
        psql(&url, "SELECT pg_wal_replay_pause()").unwrap();
        poll("the replica has stopped where it is", || {
            let state = psql(&url, "SELECT pg_get_wal_replay_pause_state()").unwrap();
            (state == "paused").then_some(())
        });
    }

    /// A node whose questions go to the database itself.
    fn writer(&self) -> (Server, TempDir) {
        let home = tempfile::tempdir().unwrap();
        let setup = Setup::new(home.path()).with("TOLLGATE_STORE__URL", &self.url);
        (setup.start(), home)
    }

    /// A node whose questions go to the replica.
    fn reader(&self, home: &TempDir) -> Setup {
        Setup::new(home.path())
            .with("TOLLGATE_STORE__URL", &self.url)
            .with("TOLLGATE_STORE__READ_URL", &self.read_url)
    }
}

/// Sends events with these numbers, and returns once they are acknowledged.
fn send(server: &Server, numbers: std::ops::Range<u64>) {
    let events: Vec<_> = numbers
        .map(|n| {
            serde_json::json!({"event_id": n.to_string(), "tenant_id": "t", "user_id": "u",
                "event_type": "view", "timestamp": "2026-11-01T10:00:00Z",
                "payload": {"country": "UA"}})
        })
        .collect();
    let body = serde_json::to_string(&events).unwrap();
    let reply = server.connect().unwrap().post_json("/events", &body);
    let reply = reply.unwrap();
    assert_eq!(reply.status, 202, "{}", reply.text());
}

/// The events that an answer counts.
fn count(reply: &Reply) -> u64 {
    let json = reply.json();
    let buckets = json["buckets"].as_array().unwrap();
    buckets.iter().map(|it| it["count"].as_u64().unwrap()).sum()
}

/// The count, if it is answered.
fn answered(server: &Server, question: &str) -> Option<u64> {
    let reply = server.get(question).unwrap();
    (reply.status == 200).then(|| count(&reply))
}

/// Whether `reply` says that it can't be answered now.
fn assert_refused(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["code"], "unavailable");
    assert!(reply.header("retry-after").is_some());
}

/// Microseconds since the epoch, to compare with the server's timestamps.
#[allow(clippy::disallowed_methods, reason = "a client has no other clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

/// Ends the threads of a test with it, also where it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn answers_are_never_staler_than_they_say() {
    let Some(pair) = Pair::start() else { return };
    let (writer, _home) = pair.writer();
    let home = tempfile::tempdir().unwrap();
    let reader = pair.reader(&home).start();
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    // When each request was acknowledged, and how many events there were then.
    let ledger = Mutex::new(Vec::new());
    let more = |events: u64| {
        let target = acknowledged.load(Ordering::SeqCst) + events;
        poll("events are acknowledged", || {
            let there = acknowledged.load(Ordering::SeqCst) >= target;
            (there || stop.load(Ordering::SeqCst)).then_some(())
        });
    };
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            for request in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                send(&writer, request * 5..request * 5 + 5);
                ledger.lock().push((now(), request * 5 + 5));
                acknowledged.store(request * 5 + 5, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                pair.pause(true);
                more(50);
                pair.pause(false);
                more(10);
            }
        });
        for (question, _) in QUESTIONS.iter().cycle().zip(0..rounds(2) * 20) {
            let before = acknowledged.load(Ordering::SeqCst);
            let reply = reader.get(question).unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            let (found, json) = (count(&reply), reply.json());
            assert!(found >= before, "{found} of {before} at least");
            let as_of = Timestamp::parse(json["as_of"].as_str().unwrap()).unwrap();
            let said = ledger.lock().iter().rev().find_map(|(at, events)| {
                let there = *at < as_of.as_micros();
                there.then_some(*events)
            });
            assert!(
                found >= said.unwrap_or(0),
                "{found} of {said:?} as of {as_of}"
            );
        }
    });
    pair.pause(false);
    let all = acknowledged.load(Ordering::SeqCst);
    for question in QUESTIONS {
        assert_eq!(answered(&reader, question), Some(all));
    }
}

#[test]
fn what_a_replica_lacks_is_waited_for_up_to_a_bound() {
    let Some(pair) = Pair::start() else { return };
    let (writer, _home) = pair.writer();
    let home = tempfile::tempdir().unwrap();
    let reader = pair.reader(&home).start();
    send(&writer, 0..10);
    assert_eq!(answered(&reader, QUESTIONS[0]), Some(10));
    pair.pause(true);
    // What a node took itself, it needn't read.
    send(&reader, 10..20);
    assert_eq!(answered(&reader, QUESTIONS[0]), Some(20));
    send(&writer, 20..30);
    std::thread::scope(|scope| {
        for question in QUESTIONS {
            scope.spawn(|| assert_refused(&reader.get(question).unwrap()));
        }
    });
    // All else goes on.
    assert_eq!(reader.get("/ready").unwrap().status, 200);
    let stats = reader.get("/stats").unwrap().json();
    assert_eq!(stats["unique_processed"], 30);
    pair.pause(false);
    for question in QUESTIONS {
        assert_eq!(answered(&reader, question), Some(30));
    }
}

#[test]
fn a_replica_that_was_away_is_found_again() {
    let Some(mut pair) = Pair::start() else {
        return;
    };
    let (writer, _home) = pair.writer();
    let home = tempfile::tempdir().unwrap();
    pair.replica.end(rustix::process::Signal::QUIT);
    let reader = pair.reader(&home).start();
    for round in 0..rounds(2) {
        send(&writer, round * 10..round * 10 + 10);
        for question in QUESTIONS {
            assert_refused(&reader.get(question).unwrap());
        }
        pair.replica.resume();
        for question in QUESTIONS {
            let found = poll("the replica is found again", || answered(&reader, question));
            assert_eq!(found, round * 10 + 10);
        }
        pair.replica.end(rustix::process::Signal::QUIT);
        // What was counted before needs nobody.
        assert_eq!(answered(&reader, QUESTIONS[0]), Some(round * 10 + 10));
    }
    let log = reader.log();
    assert!(
        log.contains("the replica (store.read_url) at 127.0.0.1"),
        "{log}"
    );
    // Once for each reason, not once for each attempt.
    let told = log.matches("events could not be counted").count() as u64;
    assert!((1..=rounds(2) * 4).contains(&told), "{log}");
}

#[test]
fn a_replica_that_hangs_holds_up_no_shutdown() {
    let Some(mut pair) = Pair::start() else {
        return;
    };
    let (writer, _home) = pair.writer();
    let relay = Relay::to(pair.replica.address());
    let direct = pair.replica.address().to_string();
    pair.read_url = pair.read_url.replace(&direct, &relay.address().to_string());
    let home = tempfile::tempdir().unwrap();
    let reader = pair.reader(&home).start();
    send(&writer, 0..10);
    for question in QUESTIONS {
        assert_eq!(answered(&reader, question), Some(10));
    }
    relay.cut(true);
    send(&writer, 10..20);
    poll("the node knows of events that it has not counted", || {
        let stats = reader.get("/stats").unwrap().json();
        (stats["unique_processed"] == 20).then_some(())
    });
    let (status, log) = reader.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_replica_of_another_store_is_refused() {
    let Some(mut pair) = Pair::start() else {
        return;
    };
    let (_writer, _home) = pair.writer();
    let other = pair.primary.new_database();
    let elsewhere = tempfile::tempdir().unwrap();
    let setup = Setup::new(elsewhere.path()).with("TOLLGATE_STORE__URL", &other);
    drop(setup.start());
    pair.read_url = other;
    let home = tempfile::tempdir().unwrap();
    let (status, log) = pair.reader(&home).spawn().end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("store.read_url"), "{log}");
    assert!(log.contains("it is of another store"), "{log}");
}
