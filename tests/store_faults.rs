//! The real binary on a disk that fails: a sync that fails or hangs, and no space left. The disk is made to
//! fail by a small library that is preloaded into the server (`tests/faults/shim.c`).
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use disk::Disk;
use http::{Connection, Reply};
use serde_json::json;
use server::{Setup, poll};

fn submit(connection: &mut Connection, ids: &[i64]) -> Reply {
    let body = json!({"ids": ids, "priority": "MEDIUM"}).to_string();
    connection.post_json("/ingest", &body).unwrap()
}

/// Submits and returns the ingestion's id; panics unless it was accepted.
fn accepted(connection: &mut Connection, ids: &[i64]) -> String {
    let reply = submit(connection, ids);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["ingestion_id"].as_str().unwrap().to_owned()
}

fn assert_unavailable(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["code"], "unavailable", "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json")
    );
}

/// The ids of an ingestion as its batches tell them.
fn ids_of(connection: &mut Connection, ingestion: &str) -> Vec<i64> {
    let reply = connection.get(&format!("/status/{ingestion}")).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let status = reply.json();
    let batches = status["batches"].as_array().unwrap();
    batches
        .iter()
        .flat_map(|batch| batch["ids"].as_array().unwrap())
        .map(|id| id.as_i64().unwrap())
        .collect()
}

fn wait_until_completed(connection: &mut Connection, ingestion: &str) {
    let path = format!("/status/{ingestion}?view=summary&wait=1s");
    poll("the ingestion completes", || {
        let reply = connection.get(&path).unwrap();
        (reply.json()["status"] == "completed").then_some(())
    });
}

fn post_event(connection: &mut Connection, id: &str) -> Reply {
    let event = json!({"event_id": id, "event_type": "load", "tenant_id": "t",
        "timestamp": "2026-01-01T00:00:00Z", "payload": {"of": id}});
    connection.post_json("/events", &event.to_string()).unwrap()
}

/// The ids of all events, in order of arrival; each has its own payload.
fn events(connection: &mut Connection) -> Vec<String> {
    let reply = connection.get("/events?page_size=10000").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = reply.json();
    let event = |event: &serde_json::Value| {
        assert_eq!(event["payload"]["of"], event["event_id"]);
        event["event_id"].as_str().unwrap().to_owned()
    };
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(event)
        .collect()
}

/// What `/stats` says was received, and how much of it was new.
fn received(connection: &mut Connection) -> (u64, u64) {
    let reply = connection.get("/stats").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let stats = reply.json();
    let count = |key: &str| stats[key].as_u64().unwrap();
    (count("received"), count("unique_processed"))
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (disk, setup) = Disk::behind(Setup::fast(home.path()), home.path());
    let server = setup.start();
    let mut client = server.connect().unwrap();
    let ids: Vec<i64> = (1..=30).collect();
    let kept = accepted(&mut client, &ids);

    disk.syncs_fail();
    assert_unavailable(&submit(&mut client, &[101]));
    // The disk says that it is well again. After a failed sync no one knows what it holds.
    disk.works();
    assert_unavailable(&submit(&mut client, &[102]));

    assert_eq!(ids_of(&mut client, &kept), ids);
    let ready = client.get("/ready").unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(ready.text().contains("store"), "{}", ready.text());
    assert_eq!(client.get("/health").unwrap().status, 200);
    server.kill();

    let server = setup.start();
    let mut client = server.connect().unwrap();
    assert_eq!(ids_of(&mut client, &kept), ids);
    wait_until_completed(&mut client, &kept);
    let later = accepted(&mut client, &[103]);
    wait_until_completed(&mut client, &later);
}

#[test]
fn a_sync_that_hangs_does_not_keep_it_from_stopping() {
    let home = tempfile::tempdir().unwrap();
    let (disk, setup) = Disk::behind(Setup::fast(home.path()), home.path());
    let server = setup.start();
    let mut client = server.connect().unwrap();
    // Two hundred slots of work: the queue is in the middle of it.
    let ids: Vec<i64> = (1..=600).collect();
    let kept = accepted(&mut client, &ids);

    disk.syncs_hang();
    // One client waits for an answer that can't come. Whatever it gets, it is no 200.
    let waiting = std::thread::spawn({
        let mut client = server.connect().unwrap();
        move || client.post_json("/ingest", r#"{"ids": [1], "priority": "LOW"}"#)
    });
    let (status, log) = server.terminate();
    assert!(status.success(), "stopped with {status}:\n{log}");
    assert!(log.contains("the disk does not answer"), "{log}");
    let unanswered = waiting.join().unwrap();
    assert!(
        unanswered
            .as_ref()
            .map_or(true, |reply| reply.status == 503),
        "{unanswered:?}"
    );

    disk.works();
    let server = setup.start();
    let mut client = server.connect().unwrap();
    assert_eq!(ids_of(&mut client, &kept), ids);
    let later = accepted(&mut client, &[2]);
    wait_until_completed(&mut client, &later);
}

#[test]
fn a_full_disk_refuses_writes_until_space_returns() {
    let home = tempfile::tempdir().unwrap();
    let (disk, setup) = Disk::behind(Setup::fast(home.path()), home.path());
    let server = setup.start();
    let mut client = server.connect().unwrap();
    // Forty slots of work, so that the disk fills up in the middle of it.
    let ids: Vec<i64> = (1..=120).collect();
    let running = accepted(&mut client, &ids);

    disk.is_full();
    for id in 201..=220 {
        assert_unavailable(&submit(&mut client, &[id]));
        assert_eq!(ids_of(&mut client, &running), ids);
    }
    disk.works();
    let after = poll("writes resume", || {
        let reply = submit(&mut client, &[300]);
        if reply.status == 200 {
            return Some(reply.json()["ingestion_id"].as_str().unwrap().to_owned());
        }
        assert_unavailable(&reply);
        None
    });
    poll("/ready answers 200 again", || {
        (client.get("/ready").unwrap().status == 200).then_some(())
    });
    // What ran and waited through it goes on without a restart.
    wait_until_completed(&mut client, &running);
    wait_until_completed(&mut client, &after);
    server.kill();

    let server = setup.start();
    let mut client = server.connect().unwrap();
    assert_eq!(ids_of(&mut client, &running), ids);
    assert_eq!(ids_of(&mut client, &after), [300]);
    wait_until_completed(&mut client, &running);
}

#[test]
fn a_disk_that_is_full_at_the_kill_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (disk, setup) = Disk::behind(Setup::fast(home.path()), home.path());
    let server = setup.start();
    let mut client = server.connect().unwrap();
    let kept: Vec<String> = (0..20)
        .map(|id| accepted(&mut client, &[id, id + 1]))
        .collect();
    disk.is_full();
    assert_unavailable(&submit(&mut client, &[500]));
    server.kill();

    disk.works();
    let server = setup.start();
    let mut client = server.connect().unwrap();
    for (id, ingestion) in (0..).zip(&kept) {
        assert_eq!(ids_of(&mut client, ingestion), [id, id + 1]);
    }
    wait_until_completed(&mut client, kept.last().unwrap());
}

#[test]
fn a_full_disk_refuses_events_until_space_returns() {
    let home = tempfile::tempdir().unwrap();
    let (disk, setup) = Disk::behind(Setup::new(home.path()), home.path());
    let server = setup.start();
    let mut client = server.connect().unwrap();
    let mut kept: Vec<String> = (0..20).map(|n| format!("kept{n}")).collect();
    for id in &kept {
        assert_eq!(post_event(&mut client, id).status, 201);
    }

    disk.is_full();
    for n in 0..20 {
        assert_unavailable(&post_event(&mut client, &format!("late{n}")));
        // A duplicate is counted, and that is a write too.
        assert_unavailable(&post_event(&mut client, "kept0"));
        assert_eq!(events(&mut client), kept);
        assert_eq!(received(&mut client), (20, 20));
    }
    disk.works();
    // What was refused was let go of: it is new, once.
    let reply = poll("writes resume", || {
        let reply = post_event(&mut client, "late0");
        (reply.status != 503).then_some(reply)
    });
    assert_eq!(reply.status, 201, "{}", reply.text());
    kept.push("late0".to_owned());
    assert_eq!(post_event(&mut client, "late0").status, 200);
    assert_eq!(events(&mut client), kept);

    // Full at the stop, too: what can't be written then is made anew by the next start.
    disk.is_full();
    let (status, log) = server.terminate();
    assert!(status.success(), "stopped with {status}:\n{log}");
    disk.works();
    let server = setup.start();
    let mut client = server.connect().unwrap();
    assert_eq!(events(&mut client), kept);
    assert_eq!(received(&mut client), (22, 21));
    for id in &kept {
        assert_eq!(post_event(&mut client, id).status, 200, "{id}");
    }
    assert_eq!(post_event(&mut client, "late1").status, 201);
}

#[test]
fn a_sync_that_fails_while_events_come_in_loses_none_that_was_acknowledged() {
    const CLIENTS: usize = 4;
    let home = tempfile::tempdir().unwrap();
    let (disk, setup) = Disk::behind(Setup::new(home.path()), home.path());
    let server = setup.start();
    let (answered, answers) = std::sync::mpsc::channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut connection = server.connect().unwrap();
            let answered = answered.clone();
            std::thread::spawn(move || {
                let ids = (0..).map(|n| format!("c{client}n{n}"));
                let mut kept = Vec::new();
                for id in ids {
                    let reply = post_event(&mut connection, &id);
                    let _ = answered.send(());
                    if reply.status != 201 {
                        assert_unavailable(&reply);
                        return (kept, id);
                    }
                    kept.push(id);
                }
                unreachable!("ids have no end")
            })
        })
        .collect();
    assert_eq!(answers.iter().take(200).count(), 200);
    disk.syncs_fail();
    let left = clients.into_iter().map(|client| client.join().unwrap());
    let (kept, refused): (Vec<_>, Vec<_>) = left.unzip();
    let kept = kept.concat();
    disk.works();

    let mut client = server.connect().unwrap();
    assert_unavailable(&post_event(&mut client, "after"));
    let mut shown = events(&mut client);
    shown.sort_unstable();
    let mut acknowledged = kept.clone();
    acknowledged.sort_unstable();
    assert_eq!(shown, acknowledged);
    assert_eq!(received(&mut client).1, kept.len() as u64);
    let ready = client.get("/ready").unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(ready.text().contains("store"), "{}", ready.text());
    server.kill();

    let server = setup.start();
    let mut client = server.connect().unwrap();
    for id in &kept {
        assert_eq!(post_event(&mut client, id).status, 200, "{id}");
    }
    // The commit in doubt may be there. Sent again, all of it is, once.
    for id in &refused {
        let status = post_event(&mut client, id).status;
        assert!(status == 200 || status == 201, "{id}: {status}");
    }
    let mut expected = [kept, refused].concat();
    expected.sort_unstable();
    let mut shown = events(&mut client);
    shown.sort_unstable();
    assert_eq!(shown, expected);
    assert_eq!(received(&mut client).1, expected.len() as u64);
}
