//! The results of ingestions, as their jobs leave them.

use std::collections::BTreeSet;

use clap::Parser;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tollgate::model::queue::{HttpSettings, ProcessorSettings, UpstreamTemplate};

use crate::common::Server;
use crate::events_read::{ids_of, store};

#[allow(dead_code, reason = "its main is not called here")]
#[path = "../../examples/upstream.rs"]
mod upstream;

/// Waits for the end of an ingestion.
async fn completed(server: &Server, id: &str) {
    loop {
        let status = server.get(&format!("/status/{id}?wait=10s")).await.json();
        match status["status"].as_str().unwrap() {
            "completed" => return,
            "triggered" | "yet_to_start" => {}
            other => panic!("{other}: {status}"),
        }
    }
}

#[tokio::test]
async fn the_results_of_a_job_are_there_when_it_is_completed() {
    let server = Server::start().await;
    let id = server.submit_to("fast", 1..=8).await;
    completed(&server, &id).await;
    let target = format!("/ingestions/{id}/results");
    let page = server.get(&target).await.json();
    let places: BTreeSet<String> = ids_of(&page).into_iter().collect();
    let place = |n: usize| format!("{id}:{}:{}", n / 3, n % 3);
    assert_eq!(places, (0..8).map(place).collect());
    assert_eq!(page["has_more"], false);
    for event in page["events"].as_array().unwrap() {
        assert_eq!(
            (&event["topic"], &event["source"]),
            (&json!("ingest"), &json!(id))
        );
        let [batch, position] = [1, 2].map(|part| {
            let place = event["event_id"].as_str().unwrap();
            place.split(':').nth(part).unwrap().parse::<i64>().unwrap()
        });
        let done = json!({"id": batch * 3 + position + 1, "status": 200, "body": ""});
        assert_eq!(event["payload"], done);
    }
    let mut seen = BTreeSet::new();
    let mut next = format!("{target}?page_size=3&order=desc");
    loop {
        let page = server.get(&next).await.json();
        seen.extend(ids_of(&page));
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("{target}?page_size=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, places);
    let stats = server.get("/stats").await.json();
    assert_eq!(
        (&stats["unique_processed"], &stats["topics"]),
        (&json!(8), &json!(["ingest"]))
    );
}

#[tokio::test]
async fn results_of_an_upstream_hold_what_it_answered_the_second_time_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ["upstream", "--fail-every", "5", "--slow", "1"];
    tokio::spawn(upstream::serve(
        listener,
        upstream::Options::parse_from(options),
    ));
    let template = UpstreamTemplate::parse(&format!("http://{address}/items/{{id}}")).unwrap();
    let processor = ProcessorSettings::Http(Box::new(HttpSettings::new(template)));
    let server = Server::with_processor(processor).await;
    let id = server.submit_to("upstream", 4..=6).await;
    completed(&server, &id).await;
    let page = server
        .get(&format!("/ingestions/{id}/results"))
        .await
        .json();
    let mut payloads: Vec<Value> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["payload"].clone())
        .collect();
    payloads.sort_by_key(|payload| payload["id"].as_i64());
    let answered =
        |n: i64| json!({"id": n, "status": 200, "body": {"id": n, "name": format!("item {n}")}});
    assert_eq!(payloads, [4, 5, 6].map(answered));
    // 5 failed at first: it was asked for again, and the others were not.
    let status = server.get(&format!("/status/{id}")).await.json();
    assert_eq!(status["batches"][0]["attempt"], 2);
    assert_eq!(server.get("/stats").await.json()["duplicate_dropped"], 0);
}

#[tokio::test]
async fn results_are_those_of_one_ingestion() {
    let server = Server::start().await;
    // The first takes the slot, so the second has no results of its own.
    server.submit(1..=3).await;
    let id = server.submit(1..=3).await;
    let now = server.state.clock.now().wall.to_string();
    let result = |source: &str, id: &str| json!({"event_id": id, "topic": "ingest", "source": source, "timestamp": now});
    let events = json!([
        result(&id, "1"),
        result(&id, "2"),
        result("another", "3"),
        {"event_id": "4", "source": id, "timestamp": now},
    ]);
    store(&server, &events).await;
    let target = format!("/ingestions/{id}/results");
    let page = server.get(&target).await.json();
    assert_eq!(ids_of(&page), ["1", "2"]);
    let first = server
        .get(&format!("{target}?page_size=1&order=desc"))
        .await
        .json();
    assert_eq!(ids_of(&first), ["2"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = server
        .get(&format!("{target}?cursor={cursor}"))
        .await
        .json();
    assert_eq!(ids_of(&second), ["1"]);
    let unknown = uuid::Uuid::now_v7();
    for other in [unknown.to_string(), "x".to_owned()] {
        let answer = server.get(&format!("/ingestions/{other}/results")).await;
        answer.assert_problem(404, "not_found");
    }
    let answer = server.get(&format!("{target}?page_size=0")).await;
    answer.assert_problem(422, "invalid_value");
}
