//! Nodes are killed between a commit and its acknowledgement: what comes again is not counted again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::backing::{self, Backing, database};
use crate::server::{Server, Setup, poll};
use crate::{
    World, assert_counted, await_empty, await_ready, await_received, events, load, publish_raw,
    queue, stats,
};

/// How many events a list has, and how many of those were sent before.
const LIST: u64 = 100;
const AGAIN: u64 = 10;

/// So many looks, a moment apart, are for what was delivered just before NATS was stopped.
const LOOKS: u32 = 300;

/// A list of which the first ones were in the list before.
fn list(number: u64) -> Value {
    events(number * (LIST - AGAIN), LIST)
}

/// What `/stats` says once so many lists are committed, each once.
fn counts(lists: u64) -> (u64, u64, u64) {
    let duplicates = (lists - 1) * AGAIN;
    (lists * LIST, lists * LIST - duplicates, duplicates)
}

/// Whether there is another round: more of them if no kill was between a commit and its acknowledgement.
fn goes_on(rounds: u64, hits: u64) -> bool {
    let wanted = backing::rounds(4);
    rounds < wanted || hits == 0 && rounds < 2 * wanted
}

/// Whether everything was committed although NATS is stopped: then its acknowledgements are lost with NATS.
fn is_committed(server: &Server, lists: u64) -> bool {
    (0..LOOKS).any(|_| {
        let done = stats(server).0 >= lists * LIST;
        if !done {
            // sleep: the pause between two looks.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        done
    })
}

fn dead_letters(server: &Server) -> usize {
    let letters = server.get("/dead-letters?limit=1000").unwrap().json();
    letters["dead_letters"].as_array().unwrap().len()
}

#[test]
fn a_killed_process_commits_nothing_again_after_its_restart() {
    let Some(world) = World::new() else { return };
    let mut world = world.with("TOLLGATE_BUS__MAX_DELIVER", "1");
    let mut server = world.setup.start();
    let (mut rounds, mut hits, mut again) = (0, 0, 0);
    while goes_on(rounds, hits) {
        publish_raw(world.nats.address(), b"\x09 what is this");
        again += queue(&server, &list(rounds));
        rounds += 1;
        kill_process(world.nats.pid(), Signal::STOP).unwrap();
        hits += u64::from(is_committed(&server, rounds));
        server.kill();
        world.nats.kill();
        world.nats.resume();
        server = world.setup.start();
    }
    await_received(&server, rounds * LIST);
    await_empty(&server);
    assert_counted(&server, counts(rounds), again);
    assert_eq!(dead_letters(&server) as u64, rounds);
    assert!(
        hits > 0,
        "no kill was between a commit and its acknowledgement"
    );
}

/// Two nodes over one database and one NATS.
struct Nodes {
    nats: Backing,
    setups: [Setup; 2],
    _homes: [tempfile::TempDir; 2],
}

impl Nodes {
    fn new() -> Option<Self> {
        let (nats, store) = (Backing::nats()?, database()?);
        let homes = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let url = format!("nats://{}", nats.address());
        let setup = |home: &tempfile::TempDir| {
            Setup::fast(home.path())
                .with("TOLLGATE_BUS__URL", &url)
                .with("TOLLGATE_STORE__URL", &store)
        };
        Some(Self {
            nats,
            setups: homes.each_ref().map(setup),
            _homes: homes,
        })
    }
}

#[test]
fn a_node_commits_nothing_again_that_a_killed_one_has_committed() {
    let Some(mut nodes) = Nodes::new() else {
        return;
    };
    let mut servers = nodes.setups.each_ref().map(Setup::start);
    // Both take some of them.
    let lists = 4;
    let (mut rounds, mut hits, mut again) = (0, 0, 0);
    while goes_on(rounds, hits) {
        for number in 0..lists {
            again += queue(&servers[1], &list(rounds * lists + number));
        }
        rounds += 1;
        kill_process(nodes.nats.pid(), Signal::STOP).unwrap();
        hits += u64::from(is_committed(&servers[0], rounds * lists));
        let killed = usize::try_from(rounds % 2).unwrap();
        servers[killed].signal(Signal::KILL);
        nodes.nats.kill();
        nodes.nats.resume();
        servers[killed] = nodes.setups[killed].start();
        await_ready(&servers[1 - killed], 200);
    }
    await_received(&servers[0], rounds * lists * LIST);
    await_empty(&servers[0]);
    for server in &servers {
        assert_counted(server, counts(rounds * lists), again);
    }
    assert!(
        hits > 0,
        "no kill was between a commit and its acknowledgement"
    );
}

/// The events that this process has taken from the bus and committed.
pub(super) fn committed_by(server: &Server) -> f64 {
    let text = server.get("/metrics").unwrap().text();
    let counted = text
        .lines()
        .find_map(|line| line.strip_prefix("events_received_total{event_type=\"click\"} "));
    counted.map_or(0.0, |number| number.parse().unwrap())
}

#[test]
fn nodes_that_are_killed_under_load_count_nothing_twice() {
    let Some(nodes) = Nodes::new() else { return };
    let [killed, lasting] = nodes.setups.each_ref();
    let (mut killed_one, lasting) = (killed.start(), Arc::new(lasting.start()));
    let (ends, next) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    // Clients of the one that is never killed: each list is sent once, if it is told what became of it.
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (server, ends, next) = (Arc::clone(&lasting), Arc::clone(&ends), Arc::clone(&next));
            std::thread::spawn(move || load(&server, &ends, &next))
        })
        .collect();
    for _ in 0..backing::rounds(3) {
        poll("it commits some of it", || {
            (committed_by(&killed_one) > 2_000.0).then_some(())
        });
        killed_one.kill();
        killed_one = killed.start();
    }
    ends.store(true, Ordering::Relaxed);
    let (mut sent, mut again) = (0, 0);
    for sender in senders {
        let (acknowledged, perhaps) = sender.join().unwrap();
        sent += acknowledged.len() as u64;
        again += perhaps;
    }
    await_received(&lasting, sent);
    await_empty(&lasting);
    for server in [&*lasting, &killed_one] {
        assert_counted(server, (sent, sent, 0), again);
    }
}
