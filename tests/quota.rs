//! The quota of clients over a real port, alone and with nodes that share a real Redis.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;
#[path = "quota/shared.rs"]
mod shared;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backing::Backing;
use http::Reply;
use rustix::process::{Signal, kill_process};
use server::{Server, Setup, poll};

/// How long nodes wait for Redis where it is there: so long that a busy machine doesn't pass for a Redis
/// that is away.
const PATIENCE: Duration = Duration::from_secs(30);

const INGEST: &str = r#"{"ids": [1], "priority": "LOW"}"#;

/// `GET`, with header lines.
fn get(server: &Server, path: &str, headers: &str) -> Reply {
    let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    server.connect().unwrap().send(&head, "").unwrap()
}

/// `POST /ingest` of `body` with an `Idempotency-Key`.
fn ingest(server: &Server, key: &str, body: &str) -> Reply {
    let head = format!(
        "POST /ingest HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    server.connect().unwrap().send(&head, body).unwrap()
}

/// What is left, by the field `RateLimit`.
fn left(reply: &Reply) -> u32 {
    let field = reply.header("ratelimit").unwrap();
    let (_, rest) = field.split_once("\"requests\";r=").unwrap();
    rest.split(';').next().unwrap().parse().unwrap()
}

fn assert_limited(reply: &Reply, q: u32, w: u32) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(reply.json()["code"], "rate_limited");
    let retry: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=w).contains(&retry), "{retry}");
    let policy = format!("\"requests\";q={q};w={w}");
    assert_eq!(reply.header("ratelimit-policy"), Some(policy.as_str()));
    let state = reply.header("ratelimit").unwrap();
    let reset = state.strip_prefix("\"requests\";r=0;t=").unwrap();
    let reset: u32 = reset.parse().unwrap();
    assert!((retry..=w).contains(&reset), "{state}");
}

fn metric(server: &Server, line: &str) -> bool {
    let text = server.get("/metrics").unwrap().text();
    text.lines().any(|it| it == line)
}

#[test]
fn on_loopback_nothing_is_limited_unless_set() {
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path()).start();
    let reply = get(&server, "/queues", "");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("ratelimit"), None);
    assert_eq!(reply.header("ratelimit-policy"), None);
    drop(server);
    let all = Setup::new(home.path())
        .with("ROCKET_ADDRESS", "0.0.0.0")
        .start();
    let reply = get(&all, "/queues", "");
    assert_eq!(left(&reply), 999);
    let policy = reply.header("ratelimit-policy");
    assert_eq!(policy, Some("\"requests\";q=1000;w=60"));
}

#[test]
fn a_client_is_refused_past_its_quota_and_others_are_not() {
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path())
        .with("TOLLGATE_QUOTA__REQUESTS", "3")
        .with("TOLLGATE_QUOTA__PER", "1d")
        .with("ROCKET_IP_HEADER", "X-Real-IP")
        .start();
    let day = 86_400;
    for remaining in [2, 1, 0] {
        assert_eq!(left(&get(&server, "/queues", "")), remaining);
    }
    assert_limited(&get(&server, "/queues", ""), 3, day);
    // Nor is the body of another request looked at, and unknown paths count, too.
    let mut connection = server.connect().unwrap();
    for _ in 0..2 {
        let reply = connection.post_json("/ingest", "not JSON").unwrap();
        assert_limited(&reply, 3, day);
    }
    let large = "x".repeat(8 << 20);
    let reply = server.connect().unwrap().post_json("/ingest", &large);
    assert_limited(&reply.unwrap(), 3, day);
    assert_limited(&get(&server, "/nowhere", ""), 3, day);
    assert_limited(&get(&server, "/metrics?bucket_size=day", ""), 3, day);
    assert!(metric(&server, "rate_limit_exceeded_total 6"));

    // Whoever shows a key has its bucket, from wherever it comes.
    for (headers, remaining) in [
        ("X-Api-Key: hushed-1\r\n", 2),
        ("X-Api-Key: hushed-1\r\nX-Real-IP: 10.0.0.9\r\n", 1),
        ("Authorization: Bearer hushed-1\r\n", 0),
        ("Authorization: bearer hushed-2\r\n", 2),
        ("X-Real-IP: 10.0.0.1\r\n", 2),
        ("X-Real-IP: 10.0.0.2\r\n", 2),
        ("X-Real-IP: 10.0.0.1\r\nX-Api-Key: \r\n", 1),
    ] {
        assert_eq!(
            left(&get(&server, "/queues", headers)),
            remaining,
            "{headers}"
        );
    }
    assert_limited(&get(&server, "/queues", "X-Api-Key: hushed-1\r\n"), 3, day);
    let lost = get(&server, "/nowhere", "X-Api-Key: lost\r\n");
    assert_eq!((lost.status, left(&lost)), (404, 2));
    let head = "HEAD /queues HTTP/1.1\r\nHost: h\r\nX-Api-Key: lost\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"requests\";r=1;"), "{answer}");
    // What the service says of itself is free.
    for path in [
        "/",
        "/health",
        "/health/liveness",
        "/ready",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/dashboard",
    ] {
        let reply = get(&server, path, "");
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("ratelimit"), None, "{path}");
    }
    assert!(!server.log().contains("hushed"), "{}", server.log());
}

#[test]
fn the_description_says_which_routes_count() {
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path())
        .with("TOLLGATE_QUOTA__REQUESTS", "1")
        .with("TOLLGATE_QUOTA__PER", "1d")
        .start();
    let document = server.get("/openapi.json").unwrap().json();
    get(&server, "/queues", "");
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let limited = operation["responses"]["429"]["description"].to_string();
            let counts = limited.contains("`rate_limited`: this client");
            let query = if path == "/metrics" {
                "?tenant_id=a"
            } else {
                ""
            };
            let head = format!(
                "{} {path}{query} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
                method.to_uppercase()
            );
            let reply = server.connect().unwrap().send(&head, "").unwrap();
            assert_eq!(reply.status == 429, counts, "{method} {path}: {limited}");
            assert_eq!(
                reply.header("ratelimit").is_some(),
                counts,
                "{method} {path}"
            );
        }
    }
}

#[test]
fn a_full_queue_is_told_beside_the_quota() {
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path())
        .with("TOLLGATE_QUOTA__REQUESTS", "100")
        .with("TOLLGATE_QUOTA__PER", "1d")
        .with("TOLLGATE_QUEUES__DEFAULT__MAX_WAITING", "1")
        .with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "1h")
        .start();
    let mut connection = server.connect().unwrap();
    let mut submit = |status| {
        let reply = connection.post_json("/ingest", INGEST).unwrap();
        assert_eq!(reply.status, status, "{}", reply.text());
        reply
    };
    // The slot goes to the first one.
    submit(200);
    poll("the first one has started", || {
        metric(&server, "batches_started_total{queue=\"default\"} 1").then_some(())
    });
    submit(200);
    let reply = submit(429);
    assert_eq!(reply.json()["code"], "queue_full");
    assert_eq!(
        reply.header("ratelimit-policy"),
        Some("\"waiting-batches\";q=1, \"requests\";q=100;w=86400")
    );
    assert_eq!(left(&reply), 97);
}

fn url(redis: &Backing) -> String {
    format!("redis://{}", redis.address())
}

/// A Redis command over a connection of its own, and the first line of the answer.
fn command(redis: &Backing, line: &str) -> String {
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

/// For a node with data of its own, `requests` a day, that knows of this Redis.
fn setup(home: &std::path::Path, redis: &Backing, requests: &str) -> Setup {
    Setup::new(home)
        .with("TOLLGATE_QUOTA__REQUESTS", requests)
        .with("TOLLGATE_QUOTA__PER", "1d")
        .with("TOLLGATE_QUOTA__URL", url(redis))
}

/// Such a node that has reached its Redis, and waits for it.
fn node(home: &std::path::Path, redis: &Backing, requests: &str) -> Server {
    let server = setup(home, redis, requests)
        .with("TOLLGATE_QUOTA__PATIENCE", format!("{PATIENCE:?}"))
        .start();
    await_redis(&server, "ok");
    server
}

fn await_redis(server: &Server, state: &str) {
    poll(state, || {
        let reply = server.get("/ready").unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        let ready = reply.json()["components"]["redis"]["state"] == state;
        ready.then_some(())
    });
}

#[test]
fn nodes_share_one_bucket() {
    let Some(redis) = Backing::redis() else {
        return;
    };
    let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let nodes = [0, 1].map(|n| node(homes[n].path(), &redis, "6"));
    for (n, remaining) in [5, 4, 3, 2, 1, 0].into_iter().enumerate() {
        assert_eq!(left(&get(&nodes[n % 2], "/queues", "")), remaining);
    }
    for node in &nodes {
        assert_limited(&get(node, "/queues", ""), 6, 86_400);
        assert_eq!(
            left(&get(node, "/queues", &format!("X-Api-Key: {node:p}\r\n"))),
            5
        );
        assert!(metric(node, "quota_redis_up{} 1"));
    }
    // What is kept of a client expires, and doesn't say who it is.
    get(&nodes[0], "/queues", "X-Api-Key: secret-key\r\n");
    let keys = command(
        &redis,
        "EVAL \"return #redis.call('KEYS', 'tollgate:quota:*')\" 0",
    );
    assert_eq!(keys, ":4");
    let lasting = "EVAL \"for _, k in ipairs(redis.call('KEYS', '*')) do \
        if redis.call('PTTL', k) < 0 or string.find(k, 'secret') then return k end end \
        return 'none'\" 0";
    assert_eq!(command(&redis, lasting), "$4");
    // Flushed: the bucket is a new one.
    assert_eq!(command(&redis, "FLUSHALL"), "+OK");
    assert_eq!(left(&get(&nodes[0], "/queues", "")), 5);
    assert_eq!(left(&get(&nodes[1], "/queues", "")), 4);
}

#[test]
fn a_bucket_in_redis_fills_again() {
    let Some(redis) = Backing::redis() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path())
        .with("TOLLGATE_QUOTA__REQUESTS", "2")
        .with("TOLLGATE_QUOTA__PER", "2s")
        .with("TOLLGATE_QUOTA__URL", url(&redis))
        .start();
    await_redis(&server, "ok");
    poll("a refusal", || {
        (get(&server, "/queues", "").status == 429).then_some(())
    });
    poll("an answer", || {
        (get(&server, "/queues", "").status == 200).then_some(())
    });
}

/// Ends the traffic when dropped, also if the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests until this is over, each answered and none refused.
fn traffic(server: &Server, stop: &AtomicBool) -> u32 {
    let mut connection = server.connect().unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let reply = connection.get("/queues").unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        count += 1;
    }
    count
}

#[test]
fn without_redis_each_node_counts_for_itself_and_goes_back() {
    let Some(mut redis) = Backing::redis() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let server = setup(home.path(), &redis, "1000000").start();
    await_redis(&server, "ok");
    let is = |state: &str| {
        let line = format!("quota_redis_up{{}} {}", u8::from(state == "ok"));
        metric(&server, &line)
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = End(&stop);
        let clients = [0, 1].map(|_| scope.spawn(|| traffic(&server, &stop)));
        for _ in 0..backing::rounds(1) {
            assert_eq!(command(&redis, "FLUSHALL"), "+OK");
            redis.kill();
            poll("away", || is("away").then_some(()));
            redis.resume();
            poll("back", || is("ok").then_some(()));
            // It hangs: connections are taken, and nothing is answered.
            kill_process(redis.pid(), Signal::STOP).unwrap();
            poll("away", || is("away").then_some(()));
            kill_process(redis.pid(), Signal::CONT).unwrap();
            poll("back", || is("ok").then_some(()));
        }
        // It answers, and takes no writes.
        assert_eq!(command(&redis, "CONFIG SET maxmemory 1"), "+OK");
        poll("away", || is("away").then_some(()));
        assert_eq!(command(&redis, "CONFIG SET maxmemory 0"), "+OK");
        poll("back", || is("ok").then_some(()));
        drop(end);
        assert!(clients.into_iter().all(|it| it.join().unwrap() > 10));
    });
    // Once, not once a request and not once a fault within the same minute.
    let log = server.log();
    if backing::rounds(1) == 1 {
        assert_eq!(log.matches("redis is away").count(), 1, "{log}");
        assert_eq!(log.matches("redis answers").count(), 2, "{log}");
    }
}

#[test]
fn a_server_starts_without_its_redis_and_finds_it_later() {
    let Some(mut redis) = Backing::redis() else {
        return;
    };
    redis.kill();
    let home = tempfile::tempdir().unwrap();
    let server = Setup::new(home.path())
        .with("TOLLGATE_QUOTA__REQUESTS", "2")
        .with("TOLLGATE_QUOTA__PER", "1d")
        .with(
            "TOLLGATE_QUOTA__URL",
            format!("redis://:hush@{}", redis.address()),
        )
        .with("TOLLGATE_QUOTA__PATIENCE", format!("{PATIENCE:?}"))
        .start();
    await_redis(&server, "away");
    assert_eq!(left(&get(&server, "/queues", "")), 1);
    assert_eq!(left(&get(&server, "/queues", "")), 0);
    assert_limited(&get(&server, "/queues", ""), 2, 86_400);
    assert!(metric(&server, "quota_redis_up{} 0"));
    redis.resume();
    // A password that it doesn't want is as good as no Redis; with one it is found.
    assert_eq!(command(&redis, "CONFIG SET requirepass hush"), "+OK");
    await_redis(&server, "ok");
    assert_eq!(left(&get(&server, "/queues", "")), 1);
    assert!(!server.log().contains("hush"), "{}", server.log());
}

#[test]
fn a_bad_url_is_refused_without_showing_it() {
    let home = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .current_dir(home.path())
        .env("TOLLGATE_QUOTA__URL", "rediss://:hush@h")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("error: quota.url (set by TOLLGATE_QUOTA__URL): must be redis://"));
    assert!(
        told.lines().count() == 1 && !told.contains("hush"),
        "{told}"
    );
}

#[test]
fn an_idempotency_key_is_known_to_every_node() {
    let Some(mut redis) = Backing::redis() else {
        return;
    };
    let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let nodes = [0, 1].map(|n| node(homes[n].path(), &redis, "1000"));
    let first = ingest(&nodes[0], "k", INGEST);
    assert_eq!(first.status, 200, "{}", first.text());
    for node in &nodes {
        assert_eq!(ingest(node, "k", INGEST).json(), first.json());
        let other = ingest(node, "k", r#"{"ids": [2], "priority": "LOW"}"#);
        assert_eq!(other.status, 422);
        assert_eq!(other.json()["code"], "idempotency_key_reused");
    }
    // A refused submission leaves its key to others.
    let refused = ingest(&nodes[0], "l", r#"{"ids": [], "priority": "LOW"}"#);
    assert_eq!(refused.status, 422);
    assert_eq!(ingest(&nodes[1], "l", INGEST).status, 200);

    // Flushed, or gone: the node that has it in its store still knows.
    assert_eq!(command(&redis, "FLUSHALL"), "+OK");
    assert_eq!(ingest(&nodes[0], "k", INGEST).json(), first.json());
    redis.kill();
    assert_eq!(ingest(&nodes[0], "k", INGEST).json(), first.json());
    assert_eq!(ingest(&nodes[0], "m", INGEST).status, 200);
    for node in &nodes {
        await_redis(node, "away");
    }
    redis.resume();
    for node in &nodes {
        await_redis(node, "ok");
    }

    // The same key, in flight on another node.
    let claimed = "EVAL \"for _, k in ipairs(redis.call('KEYS', 'tollgate:key:*')) do \
        redis.call('SET', k, 'claim 1', 'PX', 60000) end return redis.status_reply('OK')\" 0";
    let fresh = ingest(&nodes[0], "n", INGEST);
    assert_eq!(command(&redis, claimed), "+OK");
    let waiting = ingest(&nodes[1], "n", INGEST);
    assert_eq!(waiting.status, 409, "{}", waiting.text());
    assert_eq!(waiting.json()["code"], "idempotency_key_in_flight");
    assert_eq!(waiting.header("retry-after"), Some("1"));
    // The store of this one has the answer, whatever Redis says.
    assert_eq!(ingest(&nodes[0], "n", INGEST).json(), fresh.json());
}
