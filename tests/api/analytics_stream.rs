//! `GET /stats/stream`: what comes in, second by second.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tollgate::http::HttpLimits;

use crate::analytics::send;
use crate::common::{MAX_BODY, Server};

struct Stream(Lines<BufReader<TcpStream>>);

impl Stream {
    /// Over HTTP/1.0, where the lines of the stream come without the framing of chunks.
    async fn open(server: &Server) -> Self {
        let mut stream = server.connect().await;
        let request = "GET /stats/stream HTTP/1.0\r\nHost: h\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        assert!(first.contains(" 200 "), "{first}");
        while !lines.next_line().await.unwrap().unwrap().is_empty() {}
        Self(lines)
    }

    /// The next message; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.0.next_line().await.unwrap()?;
            if let Some(data) = line.strip_prefix("data:") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn tells_what_came_in_since_the_message_before() {
    let server = Server::start().await;
    let old = ("0", "t", "s", "old", "u", "2024-03-01T00:00:00Z");
    send(&server, &[old]).await;
    let mut stream = Stream::open(&server).await;
    let mut message = stream.next().await.unwrap();
    assert!(message["as_of"].is_string());
    message.as_object_mut().unwrap().remove("as_of");
    assert_eq!(
        message,
        json!({"received": 1, "accepted": 1, "duplicates": 0,
            "change": {"received": 0, "accepted": 0, "duplicates": 0}, "by_type": []})
    );
    let new = ["1", "2", "3"].map(|id| (id, "t", "s", "click", "u", "2024-03-01T00:00:00Z"));
    let bare = ("4", "t", "s", "", "u", "2024-03-01T00:00:00Z");
    send(&server, &[new[0], new[1], new[2], bare, old]).await;
    let (mut change, mut types) = ([0; 3], [0; 2]);
    let mut last = Value::Null;
    while change[0] < 5 || types != [3, 1] {
        last = stream.next().await.unwrap();
        for (sum, name) in change
            .iter_mut()
            .zip(["received", "accepted", "duplicates"])
        {
            *sum += last["change"][name].as_u64().unwrap();
        }
        for of_type in last["by_type"].as_array().unwrap() {
            let at = ["click", "none"].map(|name| of_type["event_type"] == name);
            let at = at.iter().position(|it| *it).unwrap();
            types[at] += of_type["accepted"].as_u64().unwrap();
        }
    }
    assert_eq!(change, [5, 4, 1]);
    assert_eq!(
        [&last["received"], &last["accepted"], &last["duplicates"]],
        [6, 5, 1]
    );
}

#[tokio::test]
async fn streams_are_bounded_and_end_at_shutdown() {
    let limits = HttpLimits {
        heartbeat: Duration::from_millis(10),
        max_waiters: 1,
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    let mut stream = Stream::open(&server).await;
    let answer = server.get("/stats/stream").await;
    answer.assert_problem(429, "rate_limited");
    assert!(stream.next().await.is_some());
    server.shutdown.clone().notify();
    while stream.next().await.is_some() {}
}
