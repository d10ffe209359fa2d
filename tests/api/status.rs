//! `GET /status`: once, at the next change, and as a stream.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tollgate::http::HttpLimits;

use crate::common::{MAX_BODY, Server};

#[tokio::test]
async fn reads_batches_in_order() {
    let server = Server::start().await;
    let id = server.submit(1..=5).await;
    let answer = server.get(&format!("/status/{id}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    let start = format!(r#"{{"ingestion_id":"{id}","status":""#);
    assert!(answer.text().starts_with(&start), "{}", answer.text());
    let status = answer.json();
    assert_eq!(status["batches"][0]["batch_id"], "batch1");
    assert_eq!(status["batches"][0]["ids"], serde_json::json!([1, 2, 3]));
    assert_eq!(status["batches"][1]["batch_id"], "batch2");
    assert_eq!(status["batches"][1]["ids"], serde_json::json!([4, 5]));
    assert_eq!(status["queue"], "default");
    assert_eq!(status["priority"], "MEDIUM");
    assert_eq!(status["progress"]["total"], 2);
    assert!(status.get("metadata").is_none());
    // The name is found in either case.
    let upper = server.get(&format!("/status/{}", id.to_uppercase())).await;
    assert_eq!(upper.json()["ingestion_id"], id.as_str());
}

#[tokio::test]
async fn a_summary_has_no_batches_and_a_range_has_its_own() {
    let server = Server::start().await;
    let id = server.submit(1..=30).await;
    let summary = server.get(&format!("/status/{id}?view=summary")).await;
    assert!(summary.json().get("batches").is_none());
    assert_eq!(summary.json()["progress"]["total"], 10);
    let names = async |range: &str| {
        let answer = server.get(&format!("/status/{id}?batches={range}")).await;
        let batches = answer.json()["batches"].as_array().unwrap().clone();
        let name = |batch: &Value| batch["batch_id"].as_str().unwrap().to_owned();
        batches.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names("1-2").await, ["batch2", "batch3"]);
    assert_eq!(names("9-99").await, ["batch10"]);
    assert!(names("10-99").await.is_empty());
}

#[tokio::test]
async fn a_large_answer_comes_in_pieces_and_whole() {
    let server = Server::start().await;
    let id = server.submit(1..=30_000).await;
    let answer = server.get(&format!("/status/{id}")).await;
    assert_eq!(answer.header("transfer-encoding"), "chunked");
    let status = answer.json();
    let batches = status["batches"].as_array().unwrap();
    assert_eq!(batches.len(), 10_000);
    assert_eq!(batches[9_999]["batch_id"], "batch10000");
    assert_eq!(status["progress"]["total"], 10_000);
}

#[tokio::test]
async fn a_wait_ends_with_its_time() {
    let server = Server::start().await;
    let id = server.submit(1..=3000).await;
    for wait in ["0s", "20ms"] {
        let target = format!("/status/{id}?view=summary&wait={wait}");
        assert_eq!(server.get(&target).await.status, 200);
    }
}

#[tokio::test]
async fn those_who_wait_have_a_bound() {
    let limits = HttpLimits {
        max_waiters: 1,
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    let id = server.submit(1..=3000).await;
    let mut first = Events::open(&server, &id).await;
    assert_eq!(first.next().await.unwrap().name, "status");
    let answer = server.get(&format!("/status/{id}?wait=1s")).await;
    answer.assert_problem(429, "rate_limited");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(
        answer.header("ratelimit-policy"),
        "\"waiting-requests\";q=1"
    );
    // Reading at once needs no place.
    assert_eq!(server.get(&format!("/status/{id}")).await.status, 200);
}

/// A client of server-sent events.
struct Events {
    lines: Lines<BufReader<TcpStream>>,
}

struct Event {
    name: String,
    id: u64,
    data: Value,
}

impl Events {
    /// Over HTTP/1.0, where the lines of the stream come without the framing of chunks.
    async fn open(server: &Server, id: &str) -> Self {
        let mut stream = server.connect().await;
        let request =
            format!("GET /status/{id} HTTP/1.0\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        assert!(first.contains(" 200 "), "{first}");
        while !lines.next_line().await.unwrap().unwrap().is_empty() {}
        Self { lines }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (None, None, String::new());
        loop {
            let line = self.lines.next_line().await.unwrap()?;
            match line.split_once(':') {
                Some(("event", it)) => name = Some(it.trim().to_owned()),
                Some(("id", it)) => id = it.trim().parse().ok(),
                Some(("data", it)) => data.push_str(it),
                _ if name.is_some() && !data.is_empty() && line.is_empty() => break,
                _ => {}
            }
        }
        Some(Event {
            name: name.unwrap(),
            id: id.unwrap(),
            data: serde_json::from_str(&data).unwrap(),
        })
    }
}

#[tokio::test]
async fn a_stream_without_news_sends_comments() {
    let limits = HttpLimits {
        heartbeat: Duration::from_millis(10),
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    let id = server.submit(1..=3000).await;
    let mut events = Events::open(&server, &id).await;
    assert_eq!(events.next().await.unwrap().name, "status");
    let mut beats = 0;
    while beats < 3 {
        let line = events.lines.next_line().await.unwrap().unwrap();
        beats += usize::from(line.starts_with(':'));
    }
}

#[tokio::test]
async fn a_wait_ends_with_a_change_and_at_once_after_the_end() {
    let server = Server::start().await;
    let id = server.submit_to("fast", 1..=9).await;
    let target = format!("/status/{id}?wait=60s");
    let mut seen = Vec::new();
    loop {
        let status = server.get(&target).await.json();
        let word = status["status"].as_str().unwrap().to_owned();
        let ended = word == "completed";
        seen.push(word);
        if ended {
            assert_eq!(status["progress"]["completed"], 3);
            break;
        }
    }
    assert!(seen.len() <= 3, "each answer is a change: {seen:?}");
    let again = server.get(&target).await.json();
    assert_eq!(again["status"], "completed");
}

#[tokio::test]
async fn a_stream_tells_the_whole_story_and_ends() {
    let server = Server::start().await;
    let id = server.submit_to("fast", 1..=9).await;
    let mut events = Events::open(&server, &id).await;
    let first = events.next().await.unwrap();
    assert_eq!((first.name.as_str(), first.id), ("status", 0));
    assert_eq!(first.data["ingestion_id"], id.as_str());
    assert_eq!(first.data["batches"].as_array().unwrap().len(), 3);

    let mut last: Vec<Value> = first.data["batches"].as_array().unwrap().clone();
    let mut number = 0;
    let end = loop {
        let event = events.next().await.unwrap();
        number += 1;
        assert_eq!(event.id, number);
        match event.name.as_str() {
            "batch" => {
                let batch = &event.data["batch"];
                let name = batch["batch_id"].as_str().unwrap();
                let index: usize = name.strip_prefix("batch").unwrap().parse().unwrap();
                assert!(event.data["progress"]["total"] == 3 && event.data["status"].is_string());
                last[index - 1] = batch.clone();
            }
            "status" => last = event.data["batches"].as_array().unwrap().clone(),
            "end" => break event.data,
            other => panic!("an event {other}"),
        }
    };
    assert_eq!(end["status"], "completed");
    // The events alone lead to the same end.
    assert_eq!(Value::from(last), end["batches"]);
    assert!(events.next().await.is_none());

    // Who comes later gets the end at once.
    let mut late = Events::open(&server, &id).await;
    let names = [
        late.next().await.unwrap().name,
        late.next().await.unwrap().name,
    ];
    assert_eq!(names, ["status", "end"]);
    assert!(late.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_at_shutdown() {
    let server = Server::alone().await;
    let id = server.submit(1..=3000).await;
    let mut events = Events::open(&server, &id).await;
    assert_eq!(events.next().await.unwrap().name, "status");
    server.shutdown.clone().notify();
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn a_wait_ends_at_shutdown() {
    let server = Server::alone().await;
    let id = server.submit(1..=3000).await;
    let target = format!("/status/{id}?view=summary&wait=60s");
    let shutdown = async {
        // Once the place is taken the request waits.
        while server.state.free_waiters() == server.state.limits.max_waiters {
            tokio::task::yield_now().await;
        }
        server.shutdown.clone().notify();
    };
    let (answer, ()) = tokio::join!(server.get(&target), shutdown);
    assert_eq!(answer.status, 200);
}
