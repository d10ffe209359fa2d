//! The timeline of the wire contract, once in real time: the real binary with its default settings,
//! over a real port.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use server::{Server, Setup, poll};
use tollgate::model::time::Timestamp;

/// From one start to the next.
const SLOT: Duration = Duration::from_secs(5);

fn submit(server: &Server, body: &str) -> String {
    let reply = server
        .connect()
        .unwrap()
        .post_json("/ingest", body)
        .unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["ingestion_id"].as_str().unwrap().to_owned()
}

fn status(server: &Server, id: &str, parameters: &str) -> Value {
    let reply = server.get(&format!("/status/{id}{parameters}")).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Each batch of an ingestion that has ended: when it started, and its ids.
fn starts(server: &Server, id: &str) -> Vec<(Timestamp, Value)> {
    let ended = loop {
        let status = status(server, id, "?wait=30s");
        if status["status"] == "completed" {
            break status;
        }
    };
    let batches = ended["batches"].as_array().unwrap();
    let start = |batch: &Value| {
        let at = Timestamp::parse(batch["triggered_at"].as_str().unwrap()).unwrap();
        (at, batch["ids"].clone())
    };
    batches.iter().map(start).collect()
}

/// How often it is begun anew where a submission came too late for the slot that it was meant for.
const ROUNDS: u32 = 5;

#[allow(clippy::disallowed_methods, reason = "a client has no other clock")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

#[test]
fn the_timeline_of_the_contract_in_real_time() {
    let started = (0..ROUNDS).find_map(|_| timeline());
    let started = started.expect("the second submission came too late, again and again");
    let begin = started[0].0;
    let slots: Vec<(u64, Value)> = started
        .iter()
        .map(|(at, ids)| (at.since(begin).as_secs() / 5, ids.clone()))
        .collect();
    let expected = serde_json::json!([[0, [1, 2, 3]], [1, [6, 7, 8]], [2, [9]], [3, [4, 5]]]);
    assert_eq!(
        serde_json::to_value(&slots).unwrap(),
        expected,
        "{started:?}"
    );
    for pair in started.windows(2) {
        let apart = pair[1].0.since(pair[0].0);
        assert!(apart.as_secs() >= 5, "two starts {apart:?} apart");
    }
}

/// The starts of two submissions to a new server, in order; `None` if the second one was not answered
/// before the second slot, which it is to have.
fn timeline() -> Option<Vec<(Timestamp, Value)>> {
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path()).start();
    let medium = submit(&server, r#"{"ids": [1, 2, 3, 4, 5], "priority": "MEDIUM"}"#);
    let first = poll("the first batch is triggered", || {
        let status = status(&server, &medium, "");
        let started = status["batches"][0]["triggered_at"].as_str()?;
        Some(Timestamp::parse(started).unwrap())
    });
    // It runs for a while, and the slot is far away.
    status(&server, &medium, "?wait=1s");
    let high = submit(&server, r#"{"ids": [6, 7, 8, 9], "priority": "HIGH"}"#);
    let waits = status(&server, &high, "")["status"] == "yet_to_start";
    if now() >= first.plus(SLOT) {
        return None;
    }
    assert!(waits, "it started before its slot");
    let mut started = starts(&server, &medium);
    started.extend(starts(&server, &high));
    started.sort_by_key(|(at, _)| *at);
    Some(started)
}
