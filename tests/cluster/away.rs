//! A node that was away for longer than what it has missed is kept for it.

use rustix::process::Signal;

use super::{Nodes, setup, status};
use crate::backing::{database, psql};
use crate::ledger;
use crate::load::submit;

#[test]
fn a_node_that_was_away_for_too_long_ends() {
    let Some(url) = database() else { return };
    let mut nodes = Nodes::of(vec![setup(&url), setup(&url)]);
    let away = 1 - nodes.leader();
    let sleeper = nodes.running[away].take().unwrap();
    sleeper.signal(Signal::STOP);
    let ledger = ledger::shared();
    let mut connection = nodes.node(1 - away).connect().unwrap();
    let id = submit(&mut connection, &ledger, vec![1, 2, 3], 0).unwrap();
    psql(&url, "DELETE FROM change").unwrap();
    sleeper.signal(Signal::CONT);
    let (ended, log) = sleeper.end();
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("away for too long"), "{log}");
    nodes.restart(away);
    assert_eq!(status(nodes.node(away), &id)["ingestion_id"], id);
}
