//! A standby that takes the place of its database, and lacks what had not reached it.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::backing::psql;
use crate::server::{Server, Setup, poll};
use crate::{Pair, count};

/// With so many the rollups leave a checkpoint at the end.
const EVENTS: u64 = 101_000;

/// How many are sent at once.
const CHUNK: usize = 5_000;

fn send(server: &Server, numbers: std::ops::Range<u64>, day: u64) {
    let events: Vec<_> = numbers
        .map(|n| {
            let time = format!("2026-11-{day:02}T10:00:00Z");
            json!({"event_id": format!("{day}-{n}"), "event_type": "view", "timestamp": time})
        })
        .collect();
    let mut connection = server.connect().unwrap();
    for events in events.chunks(CHUNK) {
        let body = Value::from(events.to_vec()).to_string();
        let reply = connection.post_json("/events/bulk", &body).unwrap();
        assert!(reply.status < 300, "{}", reply.text());
    }
}

fn submit(server: &Server) -> String {
    let body = r#"{"ids": [1, 2, 3], "priority": "HIGH"}"#;
    let mut connection = server.connect().unwrap();
    let reply = connection.post_json("/ingest", body).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["ingestion_id"].as_str().unwrap().to_owned()
}

/// What the rollups say of each day, and of all.
fn days(server: &Server) -> (Value, u64) {
    let reply = server.get("/metrics?bucket_size=day&event_type=view");
    let reply = reply.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    (reply.json()["buckets"].clone(), count(&reply))
}

fn known(server: &Server, id: &str) -> u16 {
    server.get(&format!("/status/{id}")).unwrap().status
}

#[test]
fn a_node_ends_when_a_standby_takes_the_place_of_its_database() {
    let Some(mut pair) = Pair::start() else {
        return;
    };
    let name = pair.url.rsplit('/').next().unwrap();
    let (first, second) = (pair.primary.address(), pair.replica.address());
    let url = format!("postgres://postgres@{first},{second}/{name}");
    let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [one, other] = homes
        .each_ref()
        .map(|home| Setup::fast(home.path()).with("TOLLGATE_STORE__URL", &url));

    let server = one.start();
    let kept = submit(&server);
    send(&server, 0..EVENTS, 1);
    poll("the standby has everything", || {
        let heads = "SELECT change, event FROM head, event_head";
        (psql(&pair.read_url, heads) == psql(&pair.url, heads)).then_some(())
    });
    pair.replica.end(Signal::QUIT);
    let lost = submit(&server);
    send(&server, 0..10, 2);
    assert_eq!(days(&server).1, EVENTS + 10);
    pair.primary.end(Signal::QUIT);
    pair.replica.resume();
    psql(&pair.replica.url_of("postgres"), "SELECT pg_promote()").unwrap();
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another history"), "{log}");

    // Others go on, and give the numbers of what was lost to something else.
    let server = other.start();
    assert_eq!((known(&server, &kept), known(&server, &lost)), (200, 404));
    let new = submit(&server);
    send(&server, 0..500, 3);
    let again = one.start();
    let ids = [&kept, &lost, &new].map(|id| known(&again, id));
    assert_eq!(ids, [200, 404, 200]);
    assert_eq!(days(&again).1, EVENTS + 500);
    assert_eq!(days(&again), days(&server));
}
