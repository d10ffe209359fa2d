//! `GET /events/stream`: events in the order of commits.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tollgate::http::HttpLimits;

use crate::common::{MAX_BODY, Server};

/// An open stream.
struct Stream {
    lines: Lines<BufReader<TcpStream>>,
}

impl Stream {
    /// Over HTTP/1.0, where the lines of the stream come without the framing of chunks.
    async fn open(server: &Server, query: &str, headers: &str) -> Self {
        let mut stream = server.connect().await;
        let request = format!("GET /events/stream{query} HTTP/1.0\r\nHost: h\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        assert!(first.contains(" 200 "), "{first}");
        while !lines.next_line().await.unwrap().unwrap().is_empty() {}
        Self { lines }
    }

    /// Sequence and identifier of the next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(u64, String)> {
        let (mut id, mut data) = (None, String::new());
        loop {
            let line = self.lines.next_line().await.unwrap()?;
            match line.split_once(':') {
                Some(("id", it)) => id = it.trim().parse().ok(),
                Some(("data", it)) => data.push_str(it),
                _ if line.is_empty() && !data.is_empty() => break,
                _ => {}
            }
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        Some((id.unwrap(), event["event_id"].as_str().unwrap().to_owned()))
    }

    async fn next_id(&mut self) -> String {
        self.next().await.expect("the stream goes on").1
    }
}

async fn store(server: &Server, ids: std::ops::Range<u32>) {
    let events: Vec<Value> = ids
        .map(|n| {
            // Older ones arrive later: the stream is in order of arrival.
            json!({"event_id": n.to_string(), "timestamp": "2026-11-21T00:00:00Z",
                "event_type": if n % 2 == 0 { "even" } else { "odd" }})
        })
        .collect();
    let answer = server.post("/events/bulk", json!(events).to_string()).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn events_come_in_the_order_of_commits_and_resume() {
    let server = Server::start().await;
    store(&server, 0..3).await;
    let mut new = Stream::open(&server, "", "").await;
    let mut all = Stream::open(&server, "?after=0", "").await;
    store(&server, 3..5).await;
    for expected in ["3", "4"] {
        assert_eq!(new.next_id().await, expected);
    }
    let mut places = Vec::new();
    for expected in ["0", "1", "2", "3", "4"] {
        let (place, id) = all.next().await.unwrap();
        assert_eq!(id, expected);
        places.push(place);
    }
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    drop(all);
    // Where the first stream broke off; what was sent meanwhile is not missed.
    store(&server, 5..6).await;
    let last = format!("Last-Event-ID: {}\r\n", places[2]);
    let mut again = Stream::open(&server, "?after=0", &last).await;
    for expected in ["3", "4", "5"] {
        assert_eq!(again.next_id().await, expected);
    }
}

#[tokio::test]
async fn a_place_behind_the_end_is_the_end() {
    let server = Server::start().await;
    store(&server, 0..2).await;
    let mut stream = Stream::open(&server, "", "Last-Event-ID: 18446744073709551615\r\n").await;
    let mut other = Stream::open(&server, "?after=1000", "").await;
    store(&server, 2..3).await;
    assert_eq!(stream.next_id().await, "2");
    assert_eq!(other.next_id().await, "2");
}

#[tokio::test]
async fn a_stream_takes_the_filters_of_a_page() {
    let server = Server::start().await;
    let mut even = Stream::open(&server, "?event_type=even&tenant_id=default", "").await;
    let mut odd = Stream::open(&server, "?event_type=odd&after=0", "").await;
    // More than are read at once, and a duplicate, which is no event.
    store(&server, 0..200).await;
    store(&server, 0..1).await;
    for n in 0..100 {
        assert_eq!(even.next_id().await, (2 * n).to_string());
        assert_eq!(odd.next_id().await, (2 * n + 1).to_string());
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let server = Server::start().await;
    let mut slow = Stream::open(&server, "", "").await;
    let payload = json!({"a": "x".repeat(60_000)});
    for n in 0..200 {
        let event = json!([{"event_id": n.to_string(), "timestamp": "2026-11-21T00:00:00Z", "payload": payload}]);
        let answer = server.post("/events", event.to_string()).await;
        assert_eq!(answer.status, 202);
    }
    for n in 0..200 {
        assert_eq!(slow.next_id().await, n.to_string());
    }
}

#[tokio::test]
async fn streams_are_bounded_and_beat_and_end_at_shutdown() {
    let limits = HttpLimits {
        heartbeat: Duration::from_millis(10),
        max_waiters: 2,
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    let mut one = Stream::open(&server, "", "").await;
    let mut two = Stream::open(&server, "?topic=none", "").await;
    let answer = server.get("/events/stream").await;
    answer.assert_problem(429, "rate_limited");
    let mut beats = 0;
    while beats < 3 {
        let line = one.lines.next_line().await.unwrap().unwrap();
        beats += usize::from(line.starts_with(':'));
    }
    server.shutdown.clone().notify();
    assert_eq!(one.next().await, None);
    assert_eq!(two.next().await, None);
}

#[tokio::test]
async fn a_bad_place_is_refused() {
    let server = Server::start().await;
    for query in ["after=x", "after=-1", "from=x"] {
        let answer = server.get(&format!("/events/stream?{query}")).await;
        answer.assert_problem(422, "invalid_value");
    }
    let request = "GET /events/stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                   Last-Event-ID: x\r\n\r\n";
    let answer = server.send(request).await;
    answer.assert_problem(422, "invalid_value");
    assert_eq!(answer.json()["errors"][0]["header"], "Last-Event-ID");
    let answer = server
        .get("/events/stream?from=2026-11-22&to=2026-11-21")
        .await;
    answer.assert_problem(400, "contradictory_parameters");
}
