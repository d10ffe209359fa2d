//! The cold tier of the real binary, killed with SIGKILL whenever a file becomes final: each event is
//! in the store or in one file, once and as it was sent, and stays a duplicate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use server::{Server, Setup, poll};
use tollgate::events::part::PartRows;

/// So many days are old, with so many events each.
const DAYS: usize = 4;
const EVENTS: usize = 3_000;

fn id(day: usize, number: usize) -> String {
    format!("{day}-{number}")
}

/// An event of an old day; its payload tells it from all others.
fn event(day: usize, number: usize) -> String {
    let (minute, second) = (number / 60, number % 60);
    format!(
        r#"{{"event_id":"{}","timestamp":"2024-02-{:02}T{:02}:{:02}:{second:02}Z","payload":{{"n":{number}.0}}}}"#,
        id(day, number),
        21 + day,
        minute / 60,
        minute % 60,
    )
}

/// Sends events; how many were new.
fn send(server: &Server, events: &[String]) -> u64 {
    let body = format!("[{}]", events.join(","));
    let reply = server.connect().unwrap().post_json("/events/bulk", &body);
    let reply = reply.unwrap();
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["accepted"].as_u64().unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let inside = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path())
    };
    inside(dir)
        .filter(|path| path.is_dir())
        .flat_map(|folder| inside(&folder))
        .collect()
}

/// Ids and payloads of what `GET /events` shows.
fn shown(server: &Server) -> Vec<(String, String)> {
    let reply = server.get("/events?page_size=10000").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = reply.json();
    assert_eq!(page["has_more"], false);
    let event = |event: &Value| {
        let id = event["event_id"].as_str().unwrap().to_owned();
        (id, event["payload"].to_string())
    };
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(event)
        .collect()
}

#[test]
fn events_are_in_one_place_whenever_the_process_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("elsewhere");
    let plain = Setup::new(home.path());
    let server = plain.start();
    let fresh = r#"{"event_id":"fresh","timestamp":"2999-01-01T00:00:00Z"}"#.to_owned();
    let mut expected = BTreeMap::from([("fresh".to_owned(), "{}".to_owned())]);
    assert_eq!(send(&server, &[fresh]), 1);
    for day in 0..DAYS {
        let events: Vec<String> = (0..EVENTS).map(|number| event(day, number)).collect();
        assert_eq!(send(&server, &events), EVENTS as u64);
        expected
            .extend((0..EVENTS).map(|number| (id(day, number), format!("{{\"n\":{number}.0}}"))));
    }
    server.kill();
    let setup = Setup::new(home.path())
        .with("TOLLGATE_EVENTS__COLD__AFTER", "30d")
        .with("TOLLGATE_EVENTS__COLD__DIR", &dir);
    for day in 1..=DAYS {
        let server = setup.start();
        poll("a file becomes final", || {
            (files(&dir).len() >= day).then_some(())
        });
        server.kill();
    }
    let server = setup.start();
    // A late event for a day that was moved, too.
    let late = event(0, EVENTS);
    send(&server, std::slice::from_ref(&late));
    server.kill();
    expected.insert(id(0, EVENTS), format!("{{\"n\":{EVENTS}.0}}"));
    let server = setup.start();
    poll("only the event of today is shown", || {
        (shown(&server).len() == 1).then_some(())
    });
    let mut found = shown(&server);
    for file in files(&dir) {
        for row in PartRows::open(&file).unwrap() {
            let (_, event) = row.unwrap();
            found.push((event.id.into_owned(), event.payload.into_owned()));
        }
    }
    found.sort();
    assert_eq!(found.len(), expected.len());
    assert!(found.into_iter().eq(expected));
    let again: Vec<String> = (0..EVENTS).map(|number| event(1, number)).collect();
    assert_eq!(send(&server, &again), 0);
    assert_eq!(send(&server, &[late]), 0);
    let counts = server.get("/stats").unwrap().json();
    assert_eq!(counts["unique_processed"], (DAYS * EVENTS + 2) as u64);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn answers_that_need_what_is_in_the_cold_tier_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let setup = Setup::new(home.path()).with("TOLLGATE_EVENTS__COLD__AFTER", "30d");
    let server = Setup::new(home.path()).start();
    let fresh = r#"{"event_id":"fresh","timestamp":"2999-01-01T00:00:00Z","payload":{"n":1}}"#;
    assert_eq!(
        send(&server, &[event(0, 1), event(1, 1), fresh.to_owned()]),
        3
    );
    server.kill();
    let server = setup.start();
    poll("only the event of today is shown", || {
        (shown(&server).len() == 1).then_some(())
    });
    let ask = |question: &str| {
        let target = format!("/metrics?bucket_size=day&{question}");
        let reply = server.get(&target).unwrap();
        (reply.status, reply.json())
    };
    let (status, problem) = ask("segment=properties.n=1");
    assert_eq!((status, &problem["code"]), (422, &"events_gone".into()));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("the last of them at 2024-02-22T00:00:01Z"),
        "{detail}"
    );
    // What it says to ask instead.
    let (status, later) = ask("segment=properties.n=1&from=2024-02-22T00:00:02Z");
    assert_eq!(
        (status, later["buckets"].as_array().unwrap().len()),
        (200, 1)
    );
    let (status, days) = ask("from=2024-02-21T00:00:01Z");
    assert_eq!(
        (status, days["buckets"].as_array().unwrap().len()),
        (200, 3)
    );
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
}

#[test]
fn a_cold_tier_that_can_t_be_written_to_is_told_once_and_stops_nothing() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    let setup = Setup::new(home.path())
        .with("TOLLGATE_EVENTS__COLD__AFTER", "30d")
        .with("TOLLGATE_EVENTS__COLD__DIR", "file");
    let server = Setup::new(home.path()).start();
    assert_eq!(send(&server, &[event(0, 0)]), 1);
    server.kill();
    let server = setup.start();
    let failing = || server.get("/metrics").unwrap().text();
    poll("it fails", || {
        failing().contains("\ncold_tier_failing 1\n").then_some(())
    });
    assert_eq!(send(&server, &[event(0, 1)]), 1);
    assert_eq!(shown(&server).len(), 2);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(
        log.matches("can't be moved to the cold tier").count(),
        1,
        "{log}"
    );
}
