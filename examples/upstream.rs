//! A small upstream to try the `http` processor on.
//!
//! ```sh
//! cargo run --example upstream -- --port 9000 --fail-every 7
//! cargo run -- serve --upstream 'http://127.0.0.1:9000/items/{id}'
//! ```
//!
//! `GET /items/<id>` is answered with `{"id": 4, "name": "item 4"}` after a few milliseconds, and
//! each request is printed with the seconds since the start, so that the pace can be seen.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tollgate::clock::Clock;

/// The longest head of a request, in bytes.
const MAX_HEAD: u64 = 16 * 1024;

/// The most connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 1_024;

/// How many failed ids are remembered before all are forgotten (and fail once more).
const MAX_REMEMBERED: usize = 1_000_000;

/// How long a connection may stay silent.
const IDLE: Duration = Duration::from_mins(1);

/// A small upstream server to try Tollgate's http processor on.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// The port of 127.0.0.1 to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 9000)]
    pub(crate) port: u16,
    /// Answer 503 with `Retry-After: 1` the first time an id divisible by N is asked for.
    #[arg(long, value_name = "N")]
    pub(crate) fail_every: Option<NonZeroU32>,
    /// How many milliseconds an answer takes.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    pub(crate) slow: u64,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    say(&format!(
        "upstream at http://{}/items/{{id}}",
        listener.local_addr()?
    ));
    serve(listener, options).await
}

/// Answers requests until it is dropped or the listener fails.
pub(crate) async fn serve(listener: TcpListener, options: Options) -> io::Result<()> {
    let upstream = Arc::new(Upstream {
        options,
        clock: Clock::system(),
        failed: Mutex::default(),
    });
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let (stream, _) = listener.accept().await?;
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move {
            let _slot = slot;
            // A client that goes away in the middle is its own business.
            let _ = upstream.converse(stream).await;
        });
    }
}

struct Upstream {
    options: Options,
    clock: Clock,
    /// The ids that were refused once.
    failed: Mutex<HashSet<i64>>,
}

/// What is answered: the status line's end, more headers, the body.
type Answer = (&'static str, &'static str, String);

impl Upstream {
    /// Answers the requests of one connection, until the client closes it or falls silent.
    async fn converse(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while let Some(line) = tokio::time::timeout(IDLE, request_line(&mut stream)).await?? {
            let path = line.split(' ').nth(1).unwrap_or_default();
            let (status, headers, body) = if line.starts_with("GET ") {
                self.answer(path).await
            } else {
                ("405 Method Not Allowed", "Allow: GET\r\n", String::new())
            };
            let seconds = self.clock.now().mono.as_secs_f64();
            say(&format!("{seconds:8.3} s  {line} -> {status}"));
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            );
            stream.get_mut().write_all(text.as_bytes()).await?;
        }
        Ok(())
    }

    async fn answer(&self, path: &str) -> Answer {
        let id = path.strip_prefix("/items/").map(str::parse::<i64>);
        let Some(Ok(id)) = id else {
            return (
                "404 Not Found",
                "",
                r#"{"error":"no such item"}"#.to_owned(),
            );
        };
        self.clock
            .sleep(Duration::from_millis(self.options.slow))
            .await;
        if self.fails(id) {
            let body = r#"{"error":"come back later"}"#.to_owned();
            return ("503 Service Unavailable", "Retry-After: 1\r\n", body);
        }
        let item = serde_json::json!({ "id": id, "name": format!("item {id}") });
        ("200 OK", "", item.to_string())
    }

    /// True the first time that an id is asked for which has to fail once.
    fn fails(&self, id: i64) -> bool {
        let due = |every: NonZeroU32| id % i64::from(every.get()) == 0;
        if !self.options.fail_every.is_some_and(due) {
            return false;
        }
        let mut failed = self.failed.lock();
        if failed.len() >= MAX_REMEMBERED {
            failed.clear();
        }
        failed.insert(id)
    }
}

/// `GET /items/4`, with the rest of the head skipped; `None` once the client has closed.
async fn request_line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut head = stream.take(MAX_HEAD);
    let mut first = String::new();
    head.read_line(&mut first).await?;
    if first.is_empty() {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if line.trim_end().is_empty() {
            let line = first.trim_end().trim_end_matches(" HTTP/1.1");
            return Ok(Some(line.to_owned()));
        }
    }
}

#[expect(clippy::print_stdout, reason = "an example talks to who runs it")]
fn say(line: &str) {
    println!("{line}");
}
