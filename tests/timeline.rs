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

use serde_json::Value;
use server::{Server, Setup};
use tollgate::model::time::Timestamp;

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

#[test]
fn the_timeline_of_the_contract_in_real_time() {
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path()).start();
    let medium = submit(&server, r#"{"ids": [1, 2, 3, 4, 5], "priority": "MEDIUM"}"#);
    assert_eq!(status(&server, &medium, "")["status"], "triggered");
    // Four of the five seconds pass; the second submission comes before the second slot.
    status(&server, &medium, "?wait=4s");
    let high = submit(&server, r#"{"ids": [6, 7, 8, 9], "priority": "HIGH"}"#);
    assert_eq!(status(&server, &high, "")["status"], "yet_to_start");

    let mut started = starts(&server, &medium);
    started.extend(starts(&server, &high));
    started.sort_by_key(|(at, _)| *at);
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
