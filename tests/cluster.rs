//! Several nodes over one PostgreSQL, as real processes: any of them answers everything, one of them
//! schedules, and whoever is killed or stopped, nothing acknowledged is lost, nothing is skipped, and
//! the pace holds.
//!
//! `FAULT_ROUNDS` says how often each fault happens (default 2), `CLUSTER_SEED` replays the moments
//! of a run as far as processes allow.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::print_stderr, reason = "the seed of a failing run")]

#[path = "cluster/away.rs"]
mod away;
#[path = "support/backing.rs"]
mod backing;
#[path = "cluster/given_up.rs"]
mod given_up;
#[path = "cluster/hanging.rs"]
mod hanging;
#[path = "support/http.rs"]
mod http;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/namespace.rs"]
mod namespace;
#[path = "support/port.rs"]
mod port;
#[path = "cluster/relay.rs"]
mod relay;
#[path = "support/server.rs"]
mod server;
#[path = "support/stub.rs"]
mod stub;

use std::collections::BTreeSet;

use backing::{Backing, database, psql, rounds};
use fastrand::Rng;
use load::{Load, complete, now, submit};
use namespace::Namespace;
use relay::Relay;
use rustix::process::Signal;
use serde_json::Value;
use server::{Server, Setup, poll};
use tempfile::TempDir;

/// A batch starts each 50 ms at most.
const INTERVAL_MICROS: i64 = 50_000;

/// What another node has accepted is known to the one that schedules at its next look at the database,
/// and what it decides at a slot may rest on a look that began some time before: that an ingestion goes
/// before others is promised from the look after it was accepted. So long a look takes nowhere.
const LEAD_MICROS: i64 = 10 * INTERVAL_MICROS;

/// A submission waits so long for its start at the most.
const TAKE_UP_MICROS: i64 = 2_000_000;

fn rng() -> Rng {
    let seed = std::env::var("CLUSTER_SEED").map_or_else(
        |_| fastrand::u64(..),
        |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("CLUSTER_SEED={text} is no number"))
        },
    );
    eprintln!("CLUSTER_SEED={seed}");
    Rng::with_seed(seed)
}

/// The nodes of a cluster, each over a directory of its own.
struct Nodes {
    homes: Vec<(TempDir, Setup)>,
    running: Vec<Option<Server>>,
}

/// A node over a directory of its own.
fn setup(url: &str) -> (TempDir, Setup) {
    let home = tempfile::tempdir().unwrap();
    let setup = Setup::fast(home.path())
        .with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "50ms")
        .with("TOLLGATE_STORE__URL", url);
    (home, setup)
}

impl Nodes {
    fn start(url: &str, count: usize) -> Self {
        Self::over(&vec![url.to_owned(); count])
    }

    /// One for each URL.
    fn over(urls: &[String]) -> Self {
        Self::of(urls.iter().map(|url| setup(url)).collect())
    }

    fn of(homes: Vec<(TempDir, Setup)>) -> Self {
        let running = homes.iter().map(|(_, setup)| Some(setup.start())).collect();
        Self { homes, running }
    }

    fn node(&self, index: usize) -> &Server {
        self.running[index].as_ref().unwrap()
    }

    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.running.iter().flatten().map(Server::address).collect()
    }

    /// The node that schedules, once one does.
    fn leader(&self) -> usize {
        poll("a node schedules", || {
            let mut running = self.running.iter().enumerate();
            let leads = |server: &Server| {
                let ready = server.get("/ready").ok()?;
                let leads = ready.json()["components"]["scheduler"]["state"] == "ok";
                leads.then_some(())
            };
            running.find_map(|(index, server)| {
                let server = server.as_ref()?;
                leads(server).map(|()| index)
            })
        })
    }

    fn restart(&mut self, index: usize) {
        self.running[index] = Some(self.homes[index].1.start());
    }
}

fn status(server: &Server, id: &str) -> Value {
    let reply = server.get(&format!("/status/{id}")).unwrap();
    assert_eq!(reply.status, 200, "{id}: {}", reply.text());
    reply.json()
}

#[test]
fn what_one_node_acknowledged_every_node_answers() {
    let Some(url) = database() else { return };
    let nodes = Nodes::start(&url, 2);
    let ledger = ledger::shared();
    for round in 0..40 {
        let (here, there) = (nodes.node(round % 2), nodes.node((round + 1) % 2));
        let mut connection = here.connect().unwrap();
        let id = submit(&mut connection, &ledger, (0..7).collect(), round % 3).unwrap();
        // At the very next request, on the other node.
        let asked = ledger.lock().asks();
        let seen = status(there, &id);
        assert_eq!(seen["batches"].as_array().unwrap().len(), 3);
        ledger.lock().saw(&seen, asked);
    }
    complete(nodes.node(0), &ledger);
    let ids = ledger.lock().all_accepted();
    for accepted in ids {
        let (one, other) = (
            status(nodes.node(0), &accepted.id),
            status(nodes.node(1), &accepted.id),
        );
        assert_eq!(one, other);
    }
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
    ledger.assert_order(LEAD_MICROS);
    // And so says the database.
    let left = psql(
        &url,
        "SELECT count(*) FROM ingestion WHERE ended_at IS NULL",
    )
    .unwrap();
    assert_eq!(left, "0");
}

#[test]
fn the_first_batch_of_an_idle_queue_is_triggered_when_any_node_has_answered() {
    let Some(url) = database() else { return };
    let nodes = Nodes::start(&url, 2);
    let other = 1 - nodes.leader();
    let ledger = ledger::shared();
    // A submission that took as long as it waits for its start may have returned without one.
    let mut in_time = 0;
    for _ in 0..20 {
        poll("the queue is idle", || {
            let queues = nodes.node(other).get("/queues").unwrap().json();
            (queues["queues"][0]["next_slot_in_seconds"] == 0.0).then_some(())
        });
        let mut connection = nodes.node(other).connect().unwrap();
        let id = submit(&mut connection, &ledger, vec![1], 0).unwrap();
        let first = &status(nodes.node(other), &id)["batches"][0];
        let submission = &ledger.lock().last_accepted(1)[0];
        if submission.answered_at - submission.sent_at < TAKE_UP_MICROS {
            assert_ne!(first["status"], "yet_to_start", "{first}");
            in_time += 1;
        }
        complete(nodes.node(other), &ledger);
        if in_time == 5 {
            return;
        }
    }
    panic!("{in_time} of 20 submissions were answered in time");
}

#[test]
fn one_key_sent_to_both_nodes_at_once_is_one_ingestion() {
    let Some(url) = database() else { return };
    let nodes = Nodes::start(&url, 2);
    let addresses = nodes.addresses();
    for round in 0..30 {
        let send = move |address| {
            let mut connection = http::Connection::open(address).unwrap();
            let body = "{\"ids\":[1],\"priority\":\"LOW\"}";
            let head = format!(
                "POST /ingest HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
                 Idempotency-Key: round-{round}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            connection.send(&head, body).unwrap()
        };
        let replies = std::thread::scope(|scope| {
            let both = [addresses[0], addresses[1]].map(|it| scope.spawn(move || send(it)));
            both.map(|reply| reply.join().unwrap())
        });
        // The other one may be told that the first is still in flight.
        assert!(
            replies
                .iter()
                .all(|reply| matches!(reply.status, 200 | 409))
        );
        let answered = replies.iter().filter(|reply| reply.status == 200);
        let ids: BTreeSet<String> = answered.map(http::Reply::text).collect();
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
    }
    let there = psql(&url, "SELECT count(*) FROM ingestion").unwrap();
    assert_eq!(there, "30", "each key is one ingestion");
}

/// All nodes accept at the same time, each on what it has seen: together no more than may wait.
#[test]
fn a_queue_takes_no_more_than_its_bound_from_all_nodes_together() {
    const BOUND: u64 = 40;
    let Some(url) = database() else { return };
    let homes = [(); 2].map(|()| {
        let (home, setup) = setup(&url);
        let setup = setup
            .with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "24h")
            .with("TOLLGATE_QUEUES__DEFAULT__MAX_WAITING", BOUND.to_string());
        (home, setup)
    });
    let nodes = Nodes::of(homes.into());
    let submit = |connection: &mut http::Connection| {
        let body = r#"{"ids": [1, 2, 3], "priority": "LOW"}"#;
        connection.post_json("/ingest", body).unwrap().status
    };
    // The slot goes to the first one.
    let leader = nodes.node(nodes.leader());
    assert_eq!(submit(&mut leader.connect().unwrap()), 200);
    poll("the first one has started", || {
        let queues = leader.get("/queues").unwrap().json();
        (queues["queues"][0]["waiting"]["LOW"] == 0).then_some(())
    });
    std::thread::scope(|scope| {
        for address in nodes.addresses().into_iter().cycle().take(16) {
            scope.spawn(move || {
                let mut connection = http::Connection::open(address).unwrap();
                let refused = loop {
                    let status = submit(&mut connection);
                    if status != 200 {
                        break status;
                    }
                };
                assert_eq!(refused, 429);
            });
        }
    });
    let waiting = || {
        let queues = nodes.node(0).get("/queues").unwrap().json();
        queues["queues"][0]["waiting"]["LOW"].as_u64().unwrap()
    };
    let accepted = waiting();
    assert!(accepted <= BOUND, "{accepted} wait");
    // Those that raced may have refused each other, never let one too many in.
    let mut connection = leader.connect().unwrap();
    for _ in accepted..BOUND {
        assert_eq!(submit(&mut connection), 200);
    }
    assert_eq!(submit(&mut connection), 429);
    assert_eq!(waiting(), BOUND);
}

/// Which fault a node has.
#[derive(Clone, Copy)]
enum Fault {
    Killed,
    Stopped,
}

fn a_leader_fails(fault: Fault) {
    let Some(url) = database() else { return };
    let mut rng = rng();
    let mut nodes = Nodes::start(&url, 2);
    let ledger = ledger::shared();
    let mut stopped = None;
    for _ in 0..rounds(2) {
        let leader = nodes.leader();
        let load = Load::start(&nodes.addresses(), &mut rng, &ledger);
        load.wait_for(rng.usize(5..60));
        match fault {
            Fault::Killed => nodes.running[leader].take().unwrap().kill(),
            Fault::Stopped => {
                let server = nodes.running[leader].take().unwrap();
                server.signal(Signal::STOP);
                stopped = Some(server);
            }
        }
        let next = nodes.leader();
        assert_ne!(next, leader);
        load.wait_for(20);
        if let Some(server) = stopped.take() {
            // It wakes up and still believes that it schedules.
            server.signal(Signal::CONT);
            nodes.running[leader] = Some(server);
            load.wait_for(20);
        }
        load.stop();
        if nodes.running[leader].is_none() {
            nodes.restart(leader);
        }
    }
    complete(nodes.node(0), &ledger);
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
    ledger.assert_order(LEAD_MICROS);
    eprintln!("{}", ledger.summary());
}

#[test]
fn a_leader_that_is_killed_is_followed_by_another() {
    a_leader_fails(Fault::Killed);
}

#[test]
fn a_leader_that_was_stopped_and_wakes_up_does_no_harm() {
    a_leader_fails(Fault::Stopped);
}

#[test]
fn a_leader_that_is_cut_off_from_the_database_is_followed_by_another() {
    let Some(postgres) = Backing::postgres() else {
        return;
    };
    let mut rng = rng();
    let url = postgres.new_database();
    let direct = postgres.address().to_string();
    let relays = [(); 2].map(|()| Relay::to(postgres.address()));
    let urls = relays
        .each_ref()
        .map(|relay| url.replace(&direct, &relay.address().to_string()));
    let nodes = Nodes::over(&urls);
    let ledger = ledger::shared();
    for _ in 0..rounds(2) {
        let leader = nodes.leader();
        let load = Load::start(&nodes.addresses(), &mut rng, &ledger);
        load.wait_for(rng.usize(5..60));
        relays[leader].cut(true);
        poll("the other one schedules", || {
            let ready = nodes.node(1 - leader).get("/ready").ok()?.json();
            (ready["components"]["scheduler"]["state"] == "ok").then_some(())
        });
        load.wait_for(20);
        // What it wrote into the void arrives after all.
        relays[leader].cut(false);
        load.wait_for(20);
        load.stop();
    }
    complete(nodes.node(0), &ledger);
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
    ledger.assert_order(LEAD_MICROS);
}

/// Its attempt ends while it hears nothing. When it hears again, its successor has made another attempt
/// and recorded the end of the batch: there is nothing left to record, and it can lead again.
#[test]
fn an_attempt_that_ends_while_its_leader_is_cut_off_is_passed_over() {
    let Some(postgres) = Backing::postgres() else {
        return;
    };
    // Each first attempt fails when it is told to; each second one succeeds.
    let (tell, told) = std::sync::mpsc::channel();
    let upstream = stub::Server::start(move |request, _| {
        if request % 2 == 1 {
            return Some((200, String::new()));
        }
        told.recv().ok().map(|()| (500, String::new()))
    });
    let url = postgres.new_database();
    let direct = postgres.address().to_string();
    let relays = [(); 2].map(|()| Relay::to(postgres.address()));
    let homes = relays.each_ref().map(|relay| {
        let (home, setup) = setup(&url.replace(&direct, &relay.address().to_string()));
        let setup = setup
            .with("TOLLGATE_QUEUES__DEFAULT__PROCESSOR", "http")
            .with(
                "TOLLGATE_QUEUES__DEFAULT__UPSTREAM",
                upstream.url() + "/{id}",
            );
        (home, setup)
    });
    let mut nodes = Nodes::of(homes.into());
    let ledger = ledger::shared();
    for round in 0..usize::try_from(rounds(1)).unwrap() {
        let first = nodes.leader();
        let next = 1 - first;
        let mut connection = nodes.node(first).connect().unwrap();
        let id = submit(&mut connection, &ledger, vec![1], 0).unwrap();
        poll("the upstream is asked", || {
            (upstream.requests().len() > 2 * round).then_some(())
        });
        relays[first].cut(true);
        tell.send(()).unwrap();
        complete(nodes.node(next), &ledger);
        let end = status(nodes.node(next), &id);
        assert_eq!(end["batches"][0]["attempt"], 2, "{end}");
        relays[first].cut(false);
        poll("it sees what its successor did", || {
            let reply = nodes.node(first).get(&format!("/status/{id}")).ok()?;
            (reply.status == 200 && reply.json() == end).then_some(())
        });
        nodes.running[next].take().unwrap().kill();
        assert_eq!(nodes.leader(), first);
        nodes.restart(next);
    }
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
}

/// The commit of a start takes so long that its work may not begin without another booking, and for
/// that one there is no space at first.
const SLOW_START_THEN_FULL: &str = "
    CREATE SEQUENCE starts; CREATE SEQUENCE bookings;
    CREATE FUNCTION slow_start() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('starts') = 1 THEN PERFORM pg_sleep(0.7); END IF;
        RETURN new;
    END $$;
    CREATE FUNCTION refuse_booking() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('bookings') = 2 THEN RAISE 'no space' USING ERRCODE = 'disk_full'; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER slow BEFORE INSERT ON run FOR EACH ROW EXECUTE FUNCTION slow_start();
    CREATE TRIGGER refuse BEFORE UPDATE ON queue FOR EACH ROW EXECUTE FUNCTION refuse_booking();";

#[test]
fn work_that_was_held_up_begins_once_the_database_has_space_again() {
    let Some(url) = database() else { return };
    let nodes = Nodes::start(&url, 1);
    nodes.leader();
    psql(&url, SLOW_START_THEN_FULL).unwrap();
    let ledger = ledger::shared();
    let mut connection = nodes.node(0).connect().unwrap();
    submit(&mut connection, &ledger, vec![1], 0).unwrap();
    complete(nodes.node(0), &ledger);
    let bookings = psql(&url, "SELECT last_value FROM bookings").unwrap();
    // More of them if the disk was slow.
    let bookings: u64 = bookings.parse().unwrap();
    assert!(
        bookings >= 3,
        "of the start, refused, of the work: {bookings}"
    );
    ledger.lock().assert_complete();
}

/// The number of the term: it grows with each node that becomes the leader.
fn epoch(url: &str) -> u64 {
    let epoch = psql(url, "SELECT epoch FROM head").unwrap();
    epoch.parse().unwrap()
}

#[test]
fn a_leader_whose_network_is_gone_is_followed_by_another() {
    let Some(network) = Namespace::new() else {
        return;
    };
    let (here, there) = (network.here.to_string(), network.there);
    let listens = format!("listen_addresses=127.0.0.1,{here}");
    let postgres = Backing::postgres_with(&[listens.as_str()], |data| {
        let rules = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        let rules = format!("{rules}host all all {there}/32 trust\n");
        std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
    });
    let Some(postgres) = postgres else { return };
    let url = postgres.new_database();
    let (home, inside) = setup(&url.replace("127.0.0.1", &here));
    // Its clients are not on its own machine: then there is a quota.
    let inside = inside
        .inside(network.name(), there)
        .with("TOLLGATE_QUOTA__ENABLED", "false");
    let mut nodes = Nodes::of(vec![(home, inside), setup(&url)]);
    let (cut_off, other) = (0, 1);
    let mut rng = rng();
    let ledger = ledger::shared();
    for _ in 0..rounds(2) {
        if nodes.leader() == other {
            nodes.running[other].take().unwrap().terminate();
            assert_eq!(nodes.leader(), cut_off);
            nodes.restart(other);
        }
        let term = epoch(&url);
        let load = Load::start(&nodes.addresses(), &mut rng, &ledger);
        load.wait_for(rng.usize(5..60));
        let cut_at = now();
        network.cut(true);
        poll("the other one schedules", || {
            let ready = nodes.node(other).get("/ready").ok()?.json();
            (ready["components"]["scheduler"]["state"] == "ok").then_some(())
        });
        let millis = (now() - cut_at) / 1000;
        eprintln!("another node schedules {millis} ms after the cut");
        load.wait_for(20);
        network.cut(false);
        poll("the one that was cut off knows that it does not", || {
            let ready = nodes.node(cut_off).get("/ready").ok()?.json();
            let stands_by = ready["components"]["scheduler"]["state"] == "standby";
            // Where the machine stood still for seconds, the database has ended the session of the other
            // one, too, and either may have been elected in a later term.
            (stands_by || epoch(&url) > term + 1).then_some(())
        });
        load.wait_for(20);
        load.stop();
        assert!(epoch(&url) > term, "another term has begun");
    }
    complete(nodes.node(cut_off), &ledger);
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
    ledger.assert_order(LEAD_MICROS);
}

#[test]
fn a_database_that_is_restarted_loses_nothing() {
    let Some(mut postgres) = Backing::postgres() else {
        return;
    };
    let mut rng = rng();
    let url = postgres.new_database();
    let nodes = Nodes::start(&url, 2);
    let ledger = ledger::shared();
    for _ in 0..rounds(2) {
        let load = Load::start(&nodes.addresses(), &mut rng, &ledger);
        load.wait_for(rng.usize(5..60));
        // Its connections are cut, and what was not committed is gone.
        postgres.end(Signal::QUIT);
        postgres.resume();
        load.wait_for(20);
        load.stop();
    }
    complete(nodes.node(0), &ledger);
    let ledger = ledger.lock();
    ledger.assert_complete();
    ledger.assert_pace(INTERVAL_MICROS);
}
