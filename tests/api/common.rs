//! A server in this process on a port of its own, and a client that can misbehave.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rocket::fairing::AdHoc;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tollgate::clock::Clock;
use tollgate::events::EventsSettings;
use tollgate::http::{self, HttpLimits, HttpState};
use tollgate::jobs::{Jobs, JobsSettings};
use tollgate::model::queue::{ProcessorSettings, QueueName, QueueSettings, SimulateSettings};
use tollgate::store::{SharedSettings, StoreSettings};
use tollgate::telemetry::Metrics;

use crate::backing;

/// No answer takes this long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// The largest body in these tests, in bytes.
pub(crate) const MAX_BODY: u64 = 16 * 1024 * 1024;

/// What is tested: one server, or several over one database that take requests in turn. They stop
/// with the test's runtime.
pub(crate) struct Server {
    nodes: Vec<Node>,
    next: AtomicUsize,
    /// Of the first.
    pub(crate) state: HttpState,
    pub(crate) shutdown: rocket::Shutdown,
}

struct Node {
    address: SocketAddr,
    _dir: TempDir,
}

impl Server {
    /// With the default bounds.
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    /// With bounds of the test's own; one server, since each has its own.
    pub(crate) async fn with_limits(limits: HttpLimits) -> Self {
        Self::of_nodes(1, limits, None, |_| ()).await
    }

    /// With one more queue, `upstream`, that has this processor.
    pub(crate) async fn with_processor(processor: ProcessorSettings) -> Self {
        Self::with(Some(processor)).await
    }

    /// At most `events` are read for an answer about them.
    pub(crate) async fn reading_at_most(events: u64) -> Self {
        Self::of_nodes(crate::NODES, HttpLimits::new(MAX_BODY), None, |state| {
            state.analytics = state.analytics.clone().reading_at_most(events);
        })
        .await
    }

    /// One server, also where all else is tested over several: the test takes hold of it.
    pub(crate) async fn alone() -> Self {
        Self::of_nodes(1, HttpLimits::new(MAX_BODY), None, |_| ()).await
    }

    async fn with(upstream: Option<ProcessorSettings>) -> Self {
        Self::of_nodes(crate::NODES, HttpLimits::new(MAX_BODY), upstream, |_| ()).await
    }

    async fn of_nodes(
        count: usize,
        limits: HttpLimits,
        upstream: Option<ProcessorSettings>,
        change: impl Fn(&mut HttpState),
    ) -> Self {
        // Several need a database; without one, it is said so, and one is tested again.
        let url = if count > 1 { backing::database() } else { None };
        let count = if url.is_some() { count } else { 1 };
        let mut nodes = Vec::new();
        let mut first = None;
        for _ in 0..count {
            let dir = tempfile::tempdir().unwrap();
            let mut state = state(dir.path(), url.as_deref(), limits, upstream.clone()).await;
            change(&mut state);
            let (address, shutdown) = Self::serve(state.clone()).await;
            first.get_or_insert((state, shutdown));
            nodes.push(Node { address, _dir: dir });
        }
        let (state, shutdown) = first.unwrap();
        Self {
            nodes,
            next: AtomicUsize::new(0),
            state,
            shutdown,
        }
    }

    async fn serve(state: HttpState) -> (SocketAddr, rocket::Shutdown) {
        let figment = rocket::Config::figment()
            .merge(("address", "127.0.0.1"))
            .merge(("port", 0))
            .merge(("shutdown.ctrlc", false));
        let (sender, receiver) = oneshot::channel();
        let sender = parking_lot::Mutex::new(Some(sender));
        let rocket = http::rocket(figment, state.clone())
            .mount("/", rocket::routes![panics])
            .attach(AdHoc::on_liftoff("address", move |rocket| {
                let config = rocket.config();
                let address = SocketAddr::new(config.address, config.port);
                let sender = sender.lock().take();
                let started = (address, rocket.shutdown());
                Box::pin(async move { assert!(sender.unwrap().send(started).is_ok()) })
            }));
        tokio::spawn(async move { rocket.launch().await.map(|_| ()) });
        receiver.await.expect("the server starts")
    }

    /// One request over a connection of its own.
    pub(crate) async fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        Answer::read(&mut stream).await
    }

    /// A connection, to the next node.
    pub(crate) async fn connect(&self) -> TcpStream {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let node = &self.nodes[turn % self.nodes.len()];
        TcpStream::connect(node.address).await.unwrap()
    }

    /// `GET`.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    /// A request without a body.
    pub(crate) async fn call(&self, method: &str, target: &str) -> Answer {
        self.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    /// `POST` of a body with its media type.
    pub(crate) async fn post_as(
        &self,
        target: &str,
        media_type: &str,
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let body = body.as_ref();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
             Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send([head.as_bytes(), body].concat()).await
    }

    /// `POST` of JSON.
    pub(crate) async fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.post_as(target, "application/json", body).await
    }

    /// `POST /ingest` with a JSON body.
    pub(crate) async fn ingest(&self, body: impl AsRef<[u8]>) -> Answer {
        self.ingest_with("Content-Type: application/json\r\n", body)
            .await
    }

    /// `POST /ingest` with header lines of the test's own.
    pub(crate) async fn ingest_with(&self, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let mut request = format!(
            "POST /ingest HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.send(request).await
    }

    /// Submits these ids and returns the name of the ingestion.
    pub(crate) async fn submit(&self, ids: std::ops::RangeInclusive<i64>) -> String {
        self.submit_to("default", ids).await
    }

    /// The same, to a queue of the test's choice.
    pub(crate) async fn submit_to(
        &self,
        queue: &str,
        ids: std::ops::RangeInclusive<i64>,
    ) -> String {
        let ids: Vec<i64> = ids.collect();
        let body =
            serde_json::json!({"ids": ids, "priority": "MEDIUM", "queue": queue}).to_string();
        let answer = self.ingest(body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = answer.json()["ingestion_id"].as_str().unwrap().to_owned();
        let exactly = format!("{{\"ingestion_id\":\"{id}\"}}");
        assert_eq!(answer.text(), exactly);
        id
    }

    /// Returns once the first batch has started, at most a minute later.
    pub(crate) async fn until_started(&self, id: &str) {
        let started = async {
            while self.get(&format!("/status/{id}")).await.json()["status"] == "yet_to_start" {
                tokio::task::yield_now().await;
            }
        };
        let started = tokio::time::timeout(PATIENCE, started).await;
        started.expect("the first batch starts");
    }

    /// Whatever happened before: it still answers.
    pub(crate) async fn still_serves(&self) {
        assert_eq!(self.get("/health").await.status, 200);
    }
}

#[rocket::get("/panics")]
fn panics() -> &'static str {
    panic!("on purpose")
}

/// What the server works with. Queue `default` starts one batch and then none for an hour, `fast`
/// runs through, and `full` holds no waiting batch beside the first of a submission.
async fn state(
    dir: &Path,
    url: Option<&str>,
    limits: HttpLimits,
    upstream: Option<ProcessorSettings>,
) -> HttpState {
    let processor = ProcessorSettings::Simulate(SimulateSettings {
        min: Duration::from_millis(1),
        max: Duration::from_millis(5),
        seed: Some(7),
    });
    let slow = QueueSettings {
        interval: Duration::from_hours(1),
        processor,
        ..QueueSettings::default()
    };
    let fast = QueueSettings {
        interval: Duration::from_millis(10),
        ..slow.clone()
    };
    let full = QueueSettings {
        max_waiting: 1,
        ..slow.clone()
    };
    let upstream = upstream.map(|processor| QueueSettings {
        processor,
        ..fast.clone()
    });
    let queues = [("default", slow), ("fast", fast), ("full", full)]
        .into_iter()
        .chain(upstream.map(|queue| ("upstream", queue)))
        .map(|(name, queue)| (QueueName::try_from(name.to_owned()).unwrap(), queue));
    let settings = JobsSettings {
        queues: queues.collect(),
        keep_ended: Duration::from_hours(1),
        retention: Duration::from_hours(24),
        events: EventsSettings::default(),
    };
    let store = StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    };
    let (clock, metrics) = (Clock::system(), Metrics::new());
    let jobs = match url {
        None => Jobs::open(settings, &store, clock.clone(), metrics.clone()).await,
        Some(url) => {
            let shared = SharedSettings {
                url: url.to_owned(),
                read_url: None,
                dir: store.dir,
            };
            Jobs::open_shared(settings, &shared, clock.clone(), metrics.clone()).await
        }
    };
    let jobs = jobs.unwrap();
    HttpState::with_limits(jobs, metrics, clock, limits)
}

/// One answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads until the server closes the connection.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut bytes = Vec::new();
        let reading = stream.read_to_end(&mut bytes);
        // A reset after the answer is no answer less.
        let _ = tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("the server answers and closes");
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: HashMap<_, _> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers
            .get("transfer-encoding")
            .is_some_and(|it| it == "chunked")
        {
            body = unchunk(&body);
        }
        Self {
            status: status.parse().unwrap(),
            headers,
            body,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    /// Holds every member and header that a problem must have.
    pub(crate) fn assert_problem(&self, status: u16, code: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{text}");
        assert_eq!(problem["status"], status, "{text}");
        assert_eq!(problem["type"], format!("urn:tollgate:problem:{code}"));
        assert!(!problem["title"].as_str().unwrap().is_empty(), "{text}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.ends_with('.') && detail.len() > 15, "{text}");
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{text}");
        problem
    }

    /// The pointers of a problem, in order.
    pub(crate) fn pointers(&self) -> Vec<String> {
        let problem = self.json();
        let errors = problem["errors"].as_array().unwrap();
        errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|window| window == b"\r\n")
            .unwrap();
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
}
