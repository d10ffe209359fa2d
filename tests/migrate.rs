//! `tollgate migrate`: a data directory of a real server is moved into PostgreSQL, and a server over
//! that answers as the former did; whenever the move is killed, the next run goes on.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/home.rs"]
mod home;
#[path = "support/http.rs"]
mod http;
#[path = "migrate/killed.rs"]
mod killed;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;
#[path = "migrate/texts.rs"]
mod texts;

use std::fs;
use std::path::Path;
use std::process::Output;

use backing::{database, psql};
use http::Reply;
use serde_json::{Value, json};
use server::{Server, Setup, poll};
use tempfile::TempDir;

/// Runs `tollgate migrate` on `data` below `home`.
fn migrate(home: &Path, url: &str, more: &[&str]) -> Output {
    let arguments = [&["migrate", "--to", url][..], more].concat();
    home::command(home, "", &arguments).output().unwrap()
}

fn setup(home: &Path) -> Setup {
    let nobody = "http://127.0.0.1:9/{id}";
    Setup::fast(home)
        .with("TOLLGATE_QUEUES__STUCK__INTERVAL", "20ms")
        .with("TOLLGATE_QUEUES__STUCK__SIMULATE__MIN", "1h")
        .with("TOLLGATE_QUEUES__STUCK__SIMULATE__MAX", "1h")
        .with("TOLLGATE_QUEUES__BROKEN__INTERVAL", "20ms")
        .with("TOLLGATE_QUEUES__BROKEN__PROCESSOR", "http")
        .with("TOLLGATE_QUEUES__BROKEN__UPSTREAM", nobody)
        .with("TOLLGATE_QUEUES__BROKEN__RETRY__MAX_ATTEMPTS", "2")
        .with("TOLLGATE_QUEUES__BROKEN__RETRY__MIN_BACKOFF", "10ms")
}

fn post(server: &Server, path: &str, key: Option<&str>, body: &Value) -> Reply {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n"));
    let (key, body) = (key.unwrap_or_default(), body.to_string());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{key}\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    server.connect().unwrap().send(&head, &body).unwrap()
}

fn submit(server: &Server, key: Option<&str>, body: &Value) -> String {
    let reply = post(server, "/ingest", key, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["ingestion_id"].as_str().unwrap().to_owned()
}

fn get(server: &Server, path: &str) -> Value {
    let reply = server.get(path).unwrap();
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

fn reaches(server: &Server, id: &str, status: &str) {
    poll(&format!("{id} is {status}"), || {
        let found = get(server, &format!("/status/{id}"));
        (found["status"] == status).then_some(())
    });
}

/// Ingestions by what became of them.
struct Jobs {
    ended: Vec<String>,
    stuck: Vec<String>,
    keyed: Value,
}

fn submit_jobs(server: &Server) -> Jobs {
    let keyed = json!({"ids": [7, -7, i64::MAX], "priority": "LOW"});
    let done = json!({"ids": (0..10).collect::<Vec<_>>(), "priority": "HIGH",
        "metadata": {"for": "ü\u{1}"}});
    let completed = [
        submit(server, Some("k"), &keyed),
        submit(server, None, &done),
    ];
    let broken = json!({"ids": [1, 2, 3, 4], "priority": "LOW", "queue": "broken"});
    let failed = submit(server, None, &broken);
    let mut stuck = Vec::new();
    for (n, priority) in ["HIGH", "LOW", "MEDIUM"].into_iter().enumerate() {
        let body = json!({"ids": [n, 2, 3, 4, 5], "priority": priority, "queue": "stuck"});
        stuck.push(submit(server, None, &body));
    }
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let late = json!({"ids": [1], "priority": "LOW", "queue": "stuck",
        "deadline": now.to_string()});
    let expired = submit(server, None, &late);
    for id in &completed {
        reaches(server, id, "completed");
    }
    reaches(server, &failed, "failed");
    reaches(server, &expired, "expired");
    reaches(server, &stuck[0], "triggered");
    let mut ended = completed.to_vec();
    ended.extend([failed, expired]);
    Jobs {
        ended,
        stuck,
        keyed,
    }
}

const TIMES: [&str; 6] = [
    "1970-01-01T00:00:00Z",
    "1969-12-31T23:59:59.999999999Z",
    "2000-01-01T00:00:00.000000001Z",
    "2026-11-20T12:00:00+02:00",
    "2026-11-21T00:00:01Z",
    "9999-01-01T00:00:00Z",
];

fn event(n: usize) -> Value {
    let tenant = ["a", "b", "nul\u{0}\u{1}"][n % 3];
    let (topic, kind) = [("s", "view"), ("t\u{0}", "buy")][n % 2];
    let source = ["web", "app"][n / 2 % 2];
    json!({"event_id": format!("e{n}"), "timestamp": TIMES[n % TIMES.len()], "tenant_id": tenant,
        "topic": topic, "user_id": format!("u{}\u{0}", n % 5), "event_type": kind,
        "source": source, "payload": {"n": n, "at": "x\u{0}"}, "more": [n]})
}

fn send_events(server: &Server) {
    for chunk in 0..8 {
        let events: Vec<Value> = (chunk * 50..chunk * 50 + 60).map(event).collect();
        let reply = post(server, "/events", None, &json!(events));
        assert_eq!(reply.status, 202, "{}", reply.text());
    }
    let mut other = event(1);
    other["payload"] = json!("not an object");
    let letters = json!([other, {"event_id": "x"}, event(1)]);
    let reply = post(server, "/events?partial=true", None, &letters);
    assert_eq!(reply.json()["rejected"], 2, "{}", reply.text());
    for query in ["tenant_id=b&user_id=u2%00", "user_id=u3%00"] {
        let head = format!("DELETE /events?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        let reply = server.connect().unwrap().send(&head, "").unwrap();
        assert!(reply.json()["erased"].as_u64().unwrap() > 0, "{query}");
    }
}

/// Everything that is asked of both servers.
fn answers(server: &Server, jobs: &Jobs) -> Vec<(String, Value)> {
    let mut paths: Vec<String> = [
        "/events?page_size=500",
        "/events?page_size=50&page=3&order=desc",
        "/events?tenant_id=nul%00%01&topic=t%00",
        "/events?user_id=u1%00&from=1970-01-01&to=2026-11-21",
        "/events?topic=ingest",
        "/events/e1?tenant_id=b&topic=t%00",
        "/dead-letters",
        "/stats/top-events",
        "/stats/top-events?tenant_id=nul%00%01&tz=Asia/Kathmandu",
        "/stats/top-events?segment=event_type:buy",
        "/stats/dau?from=2026-11-19&to=2026-11-21",
        "/stats/mau?from=2026-11-19&to=2026-11-21",
        "/stats/retention?start_date=1969-12-31&windows=3",
        "/metrics?bucket_size=day",
        "/metrics?bucket_size=hour&tenant_id=a",
        "/queues",
    ]
    .map(str::to_owned)
    .into();
    for id in &jobs.ended {
        paths.push(format!("/status/{id}"));
        paths.push(format!("/ingestions/{id}/results"));
    }
    let mut found: Vec<(String, Value)> = paths
        .into_iter()
        .map(|path| {
            let answer = get(server, &path);
            (path, answer)
        })
        .collect();
    let mut stats = get(server, "/stats");
    stats.as_object_mut().unwrap().remove("uptime_seconds");
    found.push(("/stats".to_owned(), stats));
    for (path, answer) in &mut found {
        if let Some(answer) = answer.as_object_mut() {
            answer.remove("as_of");
        }
        if path == "/queues" {
            *answer = answer["queues"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["name"].clone())
                .collect();
        }
    }
    found
}

/// What of the state of an ingestion does not change when it is started again.
fn lasting(mut status: Value) -> Value {
    let batches: Vec<Value> = status["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| json!([it["batch_id"], it["ids"], it["status"]]))
        .collect();
    let kept = ["ingestion_id", "status", "queue", "priority", "created_at"];
    status
        .as_object_mut()
        .unwrap()
        .retain(|key, _| kept.contains(&key.as_str()));
    status["batches"] = json!(batches);
    status
}

fn digest(data: &Path) -> Vec<Vec<u8>> {
    let files = ["tollgate.db", "tollgate.db-wal", "witness"];
    files
        .iter()
        .map(|file| fs::read(data.join(file)).unwrap_or_default())
        .collect()
}

fn refused(output: &Output, reason: &str) {
    let said = home::err(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(reason), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[test]
fn a_server_over_the_database_answers_as_the_one_over_the_directory_did() {
    let Some(url) = database() else { return };
    let home = tempfile::tempdir().unwrap();
    let setup = setup(home.path());
    let server = setup.start();
    let jobs = submit_jobs(&server);
    send_events(&server);
    let before = answers(&server, &jobs);
    let stuck = |server: &Server| -> Vec<Value> {
        let ids = jobs.stuck.iter();
        ids.map(|id| lasting(get(server, &format!("/status/{id}"))))
            .collect()
    };
    let stuck_before = stuck(&server);
    refused(
        &migrate(home.path(), &url, &[]),
        "is in use by another tollgate process",
    );
    server.kill();

    let data = digest(&setup.data_dir());
    let output = migrate(home.path(), &url, &["--json", "--batch", "7"]);
    assert!(output.status.success(), "{}", home::err(&output));
    let told: Value = serde_json::from_str(home::out(&output)).unwrap();
    assert_eq!(told["ok"], true);
    let rows = |what: &str| {
        let compared = told["compared"].as_array().unwrap();
        let line = compared.iter().find(|it| it["what"] == what).unwrap();
        assert_eq!(line["directory"], line["database"]);
        line["database"].as_u64().unwrap()
    };
    assert_eq!(
        (
            rows("ingestions"),
            rows("kept answers"),
            rows("dead letters")
        ),
        (7, 1, 2)
    );
    assert_eq!(
        rows("identities"),
        rows("events by arrival") + rows("erased events")
    );
    assert!(rows("erased events") > 100);
    assert_eq!(digest(&setup.data_dir()), data);
    // Its end is told again, as long as no node has started.
    assert!(migrate(home.path(), &url, &[]).status.success());

    let other = tempfile::tempdir().unwrap();
    let server = self::setup(other.path())
        .with("TOLLGATE_STORE__URL", &url)
        .start();
    assert_eq!(stuck(&server), stuck_before);
    for ((path, expected), (_, found)) in before.iter().zip(answers(&server, &jobs)) {
        assert_eq!(*expected, found, "{path}");
    }
    // The key still answers, and every event, also an erased one, is a duplicate.
    assert_eq!(submit(&server, Some("k"), &jobs.keyed), jobs.ended[0]);
    let again: Vec<Value> = (0..410).map(event).collect();
    let counts = post(&server, "/events", None, &json!(again)).json();
    assert_eq!(
        (&counts["accepted"], &counts["duplicates"]),
        (&json!(0), &json!(410))
    );
    refused(
        &migrate(home.path(), &url, &[]),
        "a data directory was moved into it",
    );
    // And it goes on: the next ones come behind.
    let id = submit(&server, None, &json!({"ids": [1], "priority": "LOW"}));
    reaches(&server, &id, "completed");
    let counts = post(&server, "/events", None, &json!([event(1_000)])).json();
    assert_eq!(counts["accepted"], 1);
}

#[test]
fn what_is_no_empty_database_or_no_store_is_refused() {
    let Some(url) = database() else { return };
    let homes: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    refused(
        &migrate(homes[0].path(), &url, &[]),
        "there is no store in data",
    );
    assert!(!homes[0].path().join("data").exists());
    let usage = home::command(homes[0].path(), "", &["migrate"])
        .env_remove("TOLLGATE_STORE__URL")
        .output()
        .unwrap();
    assert_eq!(usage.status.code(), Some(2), "{}", home::err(&usage));
    let usage = migrate(homes[0].path(), "mysql://h/d", &[]);
    assert_eq!(usage.status.code(), Some(2));

    for home in &homes[..2] {
        let server = setup(home.path()).start();
        post(
            &server,
            "/events",
            None,
            &json!([event(home.path().as_os_str().len())]),
        );
        assert!(server.terminate().0.success());
    }
    // Begun with one directory.
    let output = migrate(homes[0].path(), &url, &[]);
    assert!(output.status.success(), "{}", home::err(&output));
    psql(&url, "UPDATE migration SET finished_at = NULL").unwrap();
    refused(
        &migrate(homes[1].path(), &url, &[]),
        "another data directory is being moved",
    );
    // No node starts.
    let refused_start = home::command(homes[2].path(), "", &["serve", "--port", "1"])
        .env("TOLLGATE_STORE__URL", &url)
        .output()
        .unwrap();
    assert_eq!(refused_start.status.code(), Some(1));
    assert!(
        home::err(&refused_start).contains("let `tollgate migrate` finish first"),
        "{}",
        home::err(&refused_start)
    );
    // Served meanwhile, the directory has something else.
    let server = setup(homes[0].path()).start();
    post(&server, "/events", None, &json!([event(7_000)]));
    assert!(server.terminate().0.success());
    refused(
        &migrate(homes[0].path(), &url, &[]),
        "was changed since its migration began",
    );

    // A database that was served.
    let url = database().unwrap();
    let server = setup(homes[2].path())
        .with("TOLLGATE_STORE__URL", &url)
        .start();
    assert!(server.terminate().0.success());
    refused(
        &migrate(homes[0].path(), &url, &[]),
        "it has data of tollgate",
    );
}

#[test]
fn a_row_that_is_not_what_was_moved_is_found_and_no_node_starts() {
    let Some(url) = database() else { return };
    let home = tempfile::tempdir().unwrap();
    let server = setup(home.path()).start();
    let events: Vec<Value> = (0..20).map(event).collect();
    assert_eq!(post(&server, "/events", None, &json!(events)).status, 202);
    assert!(server.terminate().0.success());
    assert!(migrate(home.path(), &url, &[]).status.success());
    psql(&url, "UPDATE migration SET finished_at = NULL").unwrap();
    psql(&url, "UPDATE event SET payload = '{}' WHERE sequence = 7").unwrap();
    let output = migrate(home.path(), &url, &[]);
    assert_eq!(output.status.code(), Some(1));
    let table = home::out(&output);
    let differing: Vec<&str> = table.lines().filter(|it| it.ends_with("DIFFERS")).collect();
    assert_eq!(differing.len(), 1, "{table}");
    assert!(differing[0].starts_with("events by arrival"), "{table}");
    assert_eq!(
        psql(&url, "SELECT finished_at IS NULL FROM migration").unwrap(),
        "t"
    );
}
