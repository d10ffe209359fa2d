//! Events over the bus: the real binary and a real NATS server, which is stopped, killed and filled.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/disk.rs"]
mod disk;
#[path = "bus/forgotten.rs"]
mod forgotten;
#[path = "support/home.rs"]
mod home;
#[path = "support/http.rs"]
mod http;
#[path = "bus/killed.rs"]
mod killed;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use backing::Backing;
use disk::Disk;
use home::{Home, err, told};
use http::Reply;
use server::{Server, Setup, poll};

/// NATS, a home, and how the service is started over both; `None` without NATS.
struct World {
    nats: Backing,
    setup: Setup,
    home: TempDir,
}

impl World {
    fn new() -> Option<Self> {
        let nats = Backing::nats()?;
        let home = tempfile::tempdir().unwrap();
        let url = format!("nats://{}", nats.address());
        let setup = Setup::fast(home.path()).with("TOLLGATE_BUS__URL", url);
        Some(Self { nats, setup, home })
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.setup = self.setup.with(key, value);
        self
    }
}

fn events(from: u64, count: u64) -> Value {
    let event = |number: u64| {
        json!({"event_id": format!("e-{number}"), "timestamp": "2026-11-21T04:11:21Z",
            "event_type": "click", "tenant_id": "shop", "payload": {"number": number}})
    };
    (from..from + count).map(event).collect()
}

fn post(server: &Server, path: &str, body: &Value) -> Reply {
    let mut connection = server.connect().unwrap();
    connection.post_json(path, &body.to_string()).unwrap()
}

/// Sends events until they are queued; how many may be in the stream once more, since a 503 doesn't say
/// whether they are.
fn queue(server: &Server, events: &Value) -> u64 {
    let mut again = 0;
    poll("events are queued", || {
        let reply = post(server, "/events/bulk", events);
        match reply.status {
            202 => return Some(()),
            503 => again += events.as_array().unwrap().len() as u64,
            _ => panic!("{}", reply.text()),
        }
        None
    });
    again
}

/// `received`, `unique_processed`, `duplicate_dropped`.
fn stats(server: &Server) -> (u64, u64, u64) {
    let stats = server.get("/stats").unwrap().json();
    let number = |name: &str| stats[name].as_u64().unwrap();
    (
        number("received"),
        number("unique_processed"),
        number("duplicate_dropped"),
    )
}

/// Whether these are the counts, but for up to so many duplicates that were sent again.
fn has_counted(server: &Server, counts: (u64, u64, u64), again: u64) -> bool {
    let (received, unique, duplicates) = stats(server);
    let more = received.saturating_sub(counts.0);
    more <= again && (received, unique, duplicates) == (counts.0 + more, counts.1, counts.2 + more)
}

fn assert_counted(server: &Server, counts: (u64, u64, u64), again: u64) {
    let counted = has_counted(server, counts, again);
    assert!(counted, "{:?}, not {counts:?} + {again}", stats(server));
}

fn await_empty(server: &Server) {
    poll("nothing waits", || {
        (ready(server).1["lag"] == 0).then_some(())
    });
}

fn await_received(server: &Server, events: u64) {
    poll(&format!("{events} events are committed"), || {
        (stats(server).0 >= events).then_some(())
    });
}

/// What `/ready` says of NATS, and the status.
fn ready(server: &Server) -> (u16, Value) {
    let reply = server.get("/ready").unwrap();
    (reply.status, reply.json()["components"]["nats"].clone())
}

fn await_ready(server: &Server, status: u16) -> Value {
    poll(&format!("/ready says {status}"), || {
        let (found, nats) = ready(server);
        (found == status).then_some(nats)
    })
}

/// A counter or a gauge.
fn metric(server: &Server, name: &str) -> f64 {
    let text = server.get("/metrics").unwrap().text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Bytes straight into the stream, as somebody else would write them.
fn publish_raw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    let mut out = b"CONNECT {\"verbose\":false}\r\nSUB answer 1\r\n".to_vec();
    out.extend_from_slice(format!("PUB tollgate.events answer {}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    stream.get_mut().write_all(&out).unwrap();
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "it hung up");
        if let Some(rest) = line.strip_prefix("MSG ") {
            let length = rest.split_whitespace().next_back().unwrap();
            let mut answer = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut answer).unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains("\"seq\""), "{answer}");
            return;
        }
    }
}

#[test]
fn what_is_queued_is_committed_and_duplicates_are_counted_once() {
    let Some(world) = World::new() else { return };
    let server = world.setup.start();

    let one = post(&server, "/events", &events(0, 1)[0]);
    assert_eq!(one.status, 202, "{}", one.text());
    assert_eq!(one.json(), json!({"event_id": "e-0", "status": "queued"}));
    let list = post(&server, "/events/bulk?receipts=true", &events(0, 3));
    assert_eq!(list.status, 202);
    let receipt = |number| json!({"event_id": format!("e-{number}"), "status": "queued"});
    assert_eq!(
        list.json(),
        json!({"accepted": 0, "duplicates": 0, "queued": 3, "rejected": 0, "errors": [],
            "receipts": [receipt(0), receipt(1), receipt(2)]})
    );
    let published = json!([{"topic": "t", "event_id": "p", "timestamp": "2026-11-21T04:11:21Z",
        "source": "s", "payload": {}}]);
    let published = post(&server, "/publish", &published);
    assert_eq!(published.status, 200);
    assert_eq!(
        published.json(),
        json!({"enqueued": 1, "accepted": 0, "duplicates": 0, "queued": 1, "rejected": 0,
            "errors": []})
    );

    await_received(&server, 5);
    assert_eq!(stats(&server), (5, 4, 1));
    let page = server.get("/events?tenant_id=shop").unwrap().json();
    let mut ids: Vec<&str> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["event_id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["e-0", "e-1", "e-2"]);
    assert_eq!(page["events"][0]["payload"]["number"], 0);

    poll("nothing waits", || {
        (ready(&server).1 == json!({"state": "ok", "lag": 0})).then_some(())
    });
    assert!((metric(&server, "bus_published_total") - 3.0).abs() < 0.1);
    poll("the events are counted by their type", || {
        ((killed::committed_by(&server) - 4.0).abs() < 0.1).then_some(())
    });
    poll("the gauges follow", || {
        (metric(&server, "bus_up") > 0.5 && metric(&server, "bus_lag") < 0.5).then_some(())
    });
    let (status, _) = server.terminate();
    assert!(status.success());
}

#[test]
fn messages_with_the_same_events_at_the_same_time_are_each_counted_once() {
    const SENDERS: usize = 4;
    let Some(world) = World::new() else { return };
    let server = Arc::new(world.setup.start());
    // Each list shares events with those beside it, so what one holds others want.
    let all_lists = |server: &Server| -> u64 {
        let lists = (0..20).map(|number| events(number * 50, 100));
        lists.map(|list| queue(server, &list)).sum()
    };
    let again = std::thread::scope(|scope| {
        let senders = [(); SENDERS].map(|()| scope.spawn(|| all_lists(&server)));
        senders.map(|it| it.join().unwrap()).iter().sum()
    });
    let sent = SENDERS as u64 * 20 * 100;
    await_received(&server, sent);
    await_empty(&server);
    assert_counted(&server, (sent, 1050, sent - 1050), again);
}

#[test]
fn a_bad_request_leaves_nothing_and_a_partial_one_its_dead_letters() {
    let Some(world) = World::new() else { return };
    let server = world.setup.start();
    let mut mixed = events(0, 2);
    mixed[1]["timestamp"] = json!("never");
    assert_eq!(post(&server, "/events", &mixed).status, 422);
    assert!(metric(&server, "bus_published_total") < 0.5);

    let partial = post(&server, "/events?partial=true", &mixed);
    assert_eq!(partial.status, 202, "{}", partial.text());
    let answer = partial.json();
    assert_eq!(
        (&answer["queued"], &answer["rejected"]),
        (&json!(1), &json!(1))
    );
    let letters = server.get("/dead-letters").unwrap().json();
    assert_eq!(
        letters["dead_letters"].as_array().unwrap().len(),
        1,
        "{letters}"
    );

    // Put right by hand: straight to the store, so that whoever does it sees what became of it.
    let again = post(&server, "/dead-letters/1/retry", &events(1, 1)[0]);
    assert_eq!(again.status, 201, "{}", again.text());
    await_received(&server, 2);
    assert_eq!(stats(&server), (2, 2, 0));
}

#[test]
fn while_nats_is_away_events_are_refused_and_then_taken_again() {
    let Some(mut world) = World::new() else {
        return;
    };
    let server = world.setup.start();
    queue(&server, &events(0, 1));
    await_received(&server, 1);

    world.nats.kill();
    let refused = poll("events are refused", || {
        let reply = post(&server, "/events", &events(1, 1)[0]);
        (reply.status == 503).then_some(reply)
    });
    assert_eq!(refused.json()["code"], "unavailable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(await_ready(&server, 503)["state"], "away");
    // All else works.
    let submitted = post(&server, "/ingest", &json!({"ids": [1], "priority": "HIGH"}));
    assert_eq!(submitted.status, 200);

    world.nats.resume();
    await_ready(&server, 200);
    queue(&server, &events(1, 1));
    poll("the event is committed", || {
        let page = server.get("/events?tenant_id=shop").unwrap().json();
        (page["events"].as_array().unwrap().len() == 2).then_some(())
    });
}

#[test]
fn a_start_without_nats_waits_for_it_in_the_background() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.nats.kill();
    let server = world.setup.spawn();
    poll("it serves", || server.get("/health").ok());
    assert_eq!(ready(&server).0, 503);
    assert_eq!(post(&server, "/events", &events(0, 1)[0]).status, 503);
    world.nats.resume();
    await_ready(&server, 200);
    queue(&server, &events(0, 1));
    await_received(&server, 1);
}

#[test]
fn a_full_stream_refuses_with_429_and_recovers() {
    let Some(world) = World::new() else { return };
    let world = world.with("TOLLGATE_BUS__MAX_BYTES", "1MiB");
    // With the service stopped nobody takes messages out.
    world.setup.start().terminate();
    let filler = vec![b'x'; 100_000];
    for _ in 0..10 {
        publish_raw(world.nats.address(), &filler);
    }
    // The filler is none of ours: after four deliveries, which take seven seconds, it leaves as dead letters.
    let world = world.with("TOLLGATE_BUS__MAX_DELIVER", "4");
    let server = world.setup.start();
    let noise: Vec<Value> = (0..200)
        .map(|number| {
            let noise: String = std::iter::repeat_with(fastrand::alphanumeric)
                .take(1000)
                .collect();
            json!({"event_id": format!("n-{number}"), "timestamp": "2026-11-21T04:11:21Z",
                "payload": {"noise": noise}})
        })
        .collect();
    let noise = Value::from(noise);
    let refused = post(&server, "/events", &noise);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.json()["code"], "queue_full");
    assert!(refused.header("retry-after").is_some());
    poll("there is room", || {
        (post(&server, "/events", &noise).status == 202).then_some(())
    });
    poll("the events are committed", || {
        (stats(&server).1 == 200).then_some(())
    });
    let letters = server.get("/dead-letters?limit=100").unwrap().json();
    poll("every letter is there", || {
        (metric(&server, "bus_dead_lettered_total") > 9.5).then_some(())
    });
    assert!(letters["dead_letters"].as_array().unwrap().len() <= 10);
    assert!(metric(&server, "events_failed_total{reason=\"queue_full\"}") > 199.0);
}

#[test]
fn what_can_t_be_read_is_a_dead_letter_after_so_many_deliveries() {
    let Some(world) = World::new() else { return };
    let world = world.with("TOLLGATE_BUS__MAX_DELIVER", "2");
    let server = world.setup.start();
    publish_raw(world.nats.address(), b"\x09\xff what is this");
    queue(&server, &events(0, 1));
    await_received(&server, 1);
    let letters = poll("there is a dead letter", || {
        let letters = server.get("/dead-letters").unwrap().json();
        let found = letters["dead_letters"].as_array().unwrap().len() == 1;
        found.then_some(letters)
    });
    let letter = &letters["dead_letters"][0];
    assert_eq!(letter["body"], json!({"base64": "Cf8gd2hhdCBpcyB0aGlz"}));
    let detail = letter["errors"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("version 9") && detail.contains("delivered 2 times"),
        "{detail}"
    );
    await_empty(&server);
    assert!(metric(&server, "bus_redelivered_total") > 0.5);
    assert!((metric(&server, "bus_dead_lettered_total") - 1.0).abs() < 0.1);
}

/// Sends lists with numbers of their own until told to end; what was acknowledged, and how many events may
/// be in the stream once more.
fn load(server: &Server, ends: &AtomicBool, next: &AtomicU64) -> (BTreeSet<u64>, u64) {
    const LIST: u64 = 200;
    let (mut acknowledged, mut again) = (BTreeSet::new(), 0);
    let mut left = Vec::new();
    while !ends.load(Ordering::Relaxed) || !left.is_empty() {
        let from = left
            .pop()
            .unwrap_or_else(|| next.fetch_add(LIST, Ordering::Relaxed));
        let reply = server
            .connect()
            .and_then(|mut it| it.post_json("/events", &events(from, LIST).to_string()));
        match reply.map(|reply| reply.status) {
            Ok(202) => acknowledged.extend(from..from + LIST),
            // As a client does: it is sent again until it is acknowledged.
            Ok(status @ (429 | 503)) => {
                left.push(from);
                again += if status == 503 { LIST } else { 0 };
            }
            other => panic!("{other:?}"),
        }
    }
    (acknowledged, again)
}

#[test]
fn nats_killed_under_load_loses_nothing_and_stores_nothing_twice() {
    let Some(mut world) = World::new() else {
        return;
    };
    let server = Arc::new(world.setup.start());
    let (ends, next) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let (server, ends, next) = (Arc::clone(&server), Arc::clone(&ends), Arc::clone(&next));
            std::thread::spawn(move || load(&server, &ends, &next))
        })
        .collect();
    for round in 1..=backing::rounds(4) {
        let before = stats(&server).1;
        poll("some more is committed", || {
            (stats(&server).1 > before + 500).then_some(())
        });
        if round % 2 == 0 {
            world.nats.end(Signal::TERM);
        } else {
            world.nats.kill();
        }
        world.nats.resume();
        await_ready(&server, 200);
    }
    ends.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for sender in senders {
        acknowledged.extend(sender.join().unwrap().0);
    }
    let sent = acknowledged.len() as u64;
    poll("all that was acknowledged is committed", || {
        let (_, unique, _) = stats(&server);
        (unique >= sent && ready(&server).1["lag"] == 0).then_some(())
    });
    // Every number was sent until it was acknowledged, so there is nothing else.
    assert_eq!(stats(&server).1, sent);
    let mut found = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/events?tenant_id=shop&page_size=10000{cursor}");
        let page = server.get(&path).unwrap().json();
        for event in page["events"].as_array().unwrap() {
            assert!(
                found.insert(event["payload"]["number"].as_u64().unwrap()),
                "twice"
            );
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, acknowledged);
}

#[test]
fn a_lost_acknowledgement_is_not_counted_as_a_duplicate() {
    let Some(mut world) = World::new() else {
        return;
    };
    let server = world.setup.start();
    // Stopped right after it has delivered: what comes back to it is lost with it.
    let mut again = 0;
    for round in 0..5 {
        again += queue(&server, &events(round * 100, 100));
        kill_process(world.nats.pid(), Signal::STOP).unwrap();
        world.nats.kill();
        world.nats.resume();
        await_ready(&server, 200);
    }
    await_received(&server, 500);
    await_empty(&server);
    assert_counted(&server, (500, 500, 0), again);
}

#[test]
fn what_waits_in_the_stream_outlives_a_kill_of_the_service() {
    let Some(world) = World::new() else { return };
    let server = world.setup.start();
    let (mut sent, mut again) = (0, 0);
    for _ in 0..15 {
        again += queue(&server, &events(sent, 1000));
        sent += 1000;
    }
    server.kill();
    let server = world.setup.start();
    poll("all is committed", || {
        (stats(&server).1 == sent).then_some(())
    });
    await_empty(&server);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    let server = world.setup.start();
    assert_counted(&server, (sent, sent, 0), again);
}

#[test]
fn messages_wait_for_a_full_disk_and_are_no_dead_letters() {
    let Some(world) = World::new() else { return };
    // Were a delivery used up by the store, this would be the last one.
    let mut world = world.with("TOLLGATE_BUS__MAX_DELIVER", "1");
    let (disk, setup) = Disk::behind(world.setup, world.home.path());
    world.setup = setup;
    let server = world.setup.start();
    let mut again = queue(&server, &events(0, 10));
    await_received(&server, 10);
    await_empty(&server);
    let before = stats(&server);

    disk.is_full();
    again += queue(&server, &events(10, 10));
    poll("the store has refused", || {
        server.log().contains("wait for the store").then_some(())
    });
    assert_eq!(stats(&server), before);
    // Not by a stop either, which is as quick as any: what is in hand is given back.
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    disk.works();
    let server = world.setup.start();
    poll("they are committed", || {
        has_counted(&server, (20, 20, 0), again).then_some(())
    });

    disk.is_full();
    again += queue(&server, &events(20, 10));
    poll("the store has refused", || {
        server.log().contains("wait for the store").then_some(())
    });
    disk.works();
    poll("they are committed, too", || {
        has_counted(&server, (30, 30, 0), again).then_some(())
    });
    assert!(metric(&server, "bus_dead_lettered_total") < 0.5);
}

#[test]
fn publish_waits_for_the_commits_and_import_says_queued() {
    let Some(world) = World::new() else { return };
    let server = world.setup.start();
    let (home, url) = (Home::new(), format!("http://{}", server.address()));
    let sent = home.run(&url, &["publish", "--events", "1000", "--seed", "7"]);
    assert!(sent.status.success(), "{}", err(&sent));
    assert_eq!(stats(&server), (1000, 800, 200));

    home.write(
        "log.jsonl",
        "{\"event_id\":\"1\",\"timestamp\":\"2026-11-21T04:11:21Z\"}\n",
    );
    let imported = home.run(&url, &["import", "--json", "log.jsonl"]);
    assert!(imported.status.success(), "{}", err(&imported));
    assert_eq!(
        told(&imported),
        json!({"rows": 1, "accepted": 0, "duplicates": 0, "queued": 1, "rejected": 0,
            "rejects": null})
    );
    await_received(&server, 1001);
}

#[test]
fn a_stream_of_another_kind_is_refused_in_one_line() {
    let Some(world) = World::new() else { return };
    let config = r#"{"name":"TOLLGATE_EVENTS","subjects":["tollgate.events"],"storage":"file","retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"num_replicas":1,"discard":"old"}"#;
    let mut stream = BufReader::new(TcpStream::connect(world.nats.address()).unwrap());
    let length = config.len();
    let request = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB $JS.API.STREAM.CREATE.TOLLGATE_EVENTS answer {length}\r\n{config}\r\n"
    );
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    while !line.starts_with("MSG ") {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0);
    }
    let server = world.setup.spawn();
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(1));
    let last = log.lines().next_back().unwrap();
    assert!(
        last.contains("TOLLGATE_EVENTS") && last.contains("work queue"),
        "{log}"
    );
}
