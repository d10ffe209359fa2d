//! The end of a batch whose retries are used up: recorded by whoever schedules, and by nobody else; its
//! results are there once it has failed, once, and say what the status says.

use std::sync::mpsc::{Sender, channel};

use serde_json::Value;
use tempfile::TempDir;

use crate::backing::{database, psql};
use crate::server::{Server, Setup, poll};
use crate::{Nodes, ledger, load, setup, status, stub};

/// A node whose batches are tried once, and the upstream that they go to.
fn once(url: &str, upstream: &stub::Server) -> (TempDir, Setup) {
    let (home, setup) = setup(url);
    let setup = setup
        .with("TOLLGATE_QUEUES__DEFAULT__PROCESSOR", "http")
        .with(
            "TOLLGATE_QUEUES__DEFAULT__UPSTREAM",
            upstream.url() + "/{id}",
        )
        .with("TOLLGATE_QUEUES__DEFAULT__RETRY__MAX_ATTEMPTS", "1");
    (home, setup)
}

/// The first request fails once it is told to; those after it succeed.
fn fails_once() -> (Sender<()>, stub::Server) {
    let (tell, told) = channel();
    let upstream = stub::Server::start(move |request, _| {
        if request > 0 {
            return Some((200, String::new()));
        }
        told.recv().ok().map(|()| (500, String::new()))
    });
    (tell, upstream)
}

/// The types of the results.
fn results(server: &Server, id: &str) -> Vec<Value> {
    let reply = server.get(&format!("/ingestions/{id}/results")).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut page = reply.json();
    let events = page["events"].as_array_mut().unwrap();
    events
        .iter_mut()
        .map(|it| it["event_type"].take())
        .collect()
}

/// Another term has begun while its last attempt was under way: that one's failure is nothing.
#[test]
fn a_failure_in_the_last_attempt_of_a_deposed_leader_is_no_result() {
    let Some(url) = database() else { return };
    let (tell, upstream) = fails_once();
    let nodes = Nodes::of(vec![once(&url, &upstream)]);
    nodes.leader();
    let node = nodes.node(0);
    let ledger = ledger::shared();
    let mut connection = node.connect().unwrap();
    let id = load::submit(&mut connection, &ledger, vec![1], 0).unwrap();
    poll("the upstream is asked", || {
        (!upstream.requests().is_empty()).then_some(())
    });
    psql(&url, "UPDATE head SET epoch = epoch + 1").unwrap();
    tell.send(()).unwrap();
    load::complete(node, &ledger);
    assert_eq!(status(node, &id)["batches"][0]["attempt"], 2);
    assert_eq!(results(node, &id), ["completed"]);
}

/// Events are not taken while there is a row in this table.
const NO_EVENTS: &str = "
    CREATE TABLE full_disk (one integer);
    INSERT INTO full_disk VALUES (1);
    CREATE FUNCTION refuse_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM full_disk) THEN RAISE 'no space' USING ERRCODE = 'disk_full'; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON identity FOR EACH ROW EXECUTE FUNCTION refuse_event();";

#[test]
fn the_results_of_a_batch_that_is_given_up_are_kept_by_the_next_leader() {
    let Some(url) = database() else { return };
    let (tell, upstream) = fails_once();
    let mut nodes = Nodes::of(vec![once(&url, &upstream), once(&url, &upstream)]);
    let first = nodes.leader();
    psql(&url, NO_EVENTS).unwrap();
    let ledger = ledger::shared();
    let mut connection = nodes.node(first).connect().unwrap();
    let id = load::submit(&mut connection, &ledger, vec![1], 0).unwrap();
    tell.send(()).unwrap();
    poll("it is given up", || {
        let sql = "SELECT count(*) FROM run WHERE completed_at IS NOT NULL";
        (psql(&url, sql).unwrap() == "1").then_some(())
    });
    // Nobody is told of an end whose results can't be read.
    let batch = &status(nodes.node(first), &id)["batches"][0];
    assert_eq!(batch["status"], "triggered", "{batch}");
    assert_eq!(batch["completed_at"], Value::Null, "{batch}");
    nodes.running[first].take().unwrap().kill();
    let next = nodes.node(nodes.leader());
    psql(&url, "DELETE FROM full_disk").unwrap();
    let failed = poll("it fails", || {
        let found = status(next, &id);
        (found["status"] == "failed").then_some(found)
    });
    let batch = &failed["batches"][0];
    assert_eq!(
        (&batch["status"], &batch["attempt"]),
        (&"failed".into(), &1.into())
    );
    assert_eq!(results(next, &id), ["failed"]);
    assert_eq!(upstream.requests().len(), 1, "no other attempt was made");
    let stats = next.get("/stats").unwrap().json();
    assert_eq!(stats["duplicate_dropped"], 0);
}
