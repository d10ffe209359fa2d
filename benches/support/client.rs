//! The load generator: rendered requests over kept connections, answers barely parsed, so that
//! on shared cores it takes as little as it can from the server.

#![allow(dead_code, reason = "shared: each benchmark uses its part")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::figures::{percentile, show};

/// One request as bytes.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: tollgate\r\n\r\n").into_bytes()
}

/// One JSON request as bytes.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: tollgate\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The status of one request on a connection of its own; `None` if there is no answer.
pub(crate) fn get_once(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    stream.write_all(&get(path)).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

/// One kept connection.
pub(crate) struct Connection {
    stream: tokio::net::TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
        }
    }

    /// Sends `request` and returns the body of its answer, which must be good and have a
    /// `Content-Length`.
    pub(crate) async fn call(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        let (mut body, mut end) = (0, usize::MAX);
        while self.buffer.len() < end {
            let got = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert_ne!(got, 0, "the server closed the connection");
            if end == usize::MAX
                && let Some(head) = find(&self.buffer, b"\r\n\r\n")
            {
                body = head + 4;
                end = body + content_length(&self.buffer[..body]).unwrap();
            }
        }
        assert!(
            self.buffer.starts_with(b"HTTP/1.1 20"),
            "{}",
            String::from_utf8_lossy(&self.buffer)
        );
        &self.buffer[body..end]
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head))
}

/// What a run of load gave.
pub(crate) struct Load {
    /// One for each answer, in microseconds, sorted.
    pub(crate) latencies: Vec<u32>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// The ingestion ids of some of the answers.
    pub(crate) ids: Vec<String>,
}

impl Load {
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// `p50, p99, max`.
    pub(crate) fn percentiles(&self) -> String {
        let at = |share| {
            show(Duration::from_micros(
                percentile(&self.latencies, share).into(),
            ))
        };
        format!("p50 {}, p99 {}, max {}", at(0.5), at(0.99), at(1.0))
    }
}

/// Sends `total` requests, taken from `requests` in turn, over `connections` that each wait for
/// an answer before the next request. Keeps the ingestion id of each `keep_every`-th answer.
pub(crate) fn load(
    address: SocketAddr,
    connections: usize,
    total: u64,
    requests: Vec<Vec<u8>>,
    keep_every: Option<u64>,
) -> Load {
    // One thread: the server shares these cores.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicU64::new(0));
    runtime.block_on(async move {
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(Connection::open(address).await);
        }
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for connection in opened {
            let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
            clients.spawn(client(connection, total, requests, next, keep_every));
        }
        let mut load = Load {
            latencies: Vec::new(),
            took: Duration::ZERO,
            ids: Vec::new(),
        };
        while let Some(done) = clients.join_next().await {
            let (latencies, ids) = done.unwrap();
            load.latencies.extend(latencies);
            load.ids.extend(ids);
        }
        load.took = started.elapsed();
        load.latencies.sort_unstable();
        load
    })
}

async fn client(
    mut connection: Connection,
    total: u64,
    requests: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicU64>,
    keep_every: Option<u64>,
) -> (Vec<u32>, Vec<String>) {
    let (mut latencies, mut ids) = (Vec::new(), Vec::new());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return (latencies, ids);
        }
        let index = usize::try_from(number).unwrap() % requests.len();
        let started = Instant::now();
        let body = connection.call(&requests[index]).await;
        latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        if keep_every.is_some_and(|every| number.is_multiple_of(every)) {
            ids.push(ingestion_id(body));
        }
    }
}

/// From `{"ingestion_id": "..."}`.
pub(crate) fn ingestion_id(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap();
    answer["ingestion_id"].as_str().unwrap().to_owned()
}
