//! What `verify` finds of what was changed behind the store's back.

use tollgate::model::event::{Event, EventFilter};
use tollgate::store::Store;

use crate::backing::{database, psql};
use crate::{append, event, node};

/// Which numbers are not those that follow from the events.
pub(crate) async fn wrong(store: &Store) -> Vec<&'static str> {
    let verified = store.verify().await.unwrap();
    let wrong = verified.checks.iter().filter(|it| it.expected != it.found);
    let wrong = wrong.map(|it| it.what);
    let tenants = verified.tenants.iter().filter(|it| !it.is_same());
    wrong.chain(tenants.map(|_| "rollups")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_whatever_was_changed_is_found() {
    let Some(url) = database() else { return };
    let node = node(&url).await;
    let viewed = |id| Event {
        event_type: Some("view".into()),
        ..event(id)
    };
    let clicks: Vec<_> = (1..=50).map(event).collect();
    let views: Vec<_> = (51..=100).map(viewed).collect();
    append(&node.store, &clicks).await.unwrap();
    append(&node.store, &views).await.unwrap();
    let filter = EventFilter {
        user: Some("u1".to_owned()),
        ..EventFilter::default()
    };
    // Of one node's events the numbers are the arrivals: the first is erased, the second is there.
    assert_eq!(node.store.erase(filter).await.unwrap(), 20);
    assert_eq!(wrong(&node.store).await, [""; 0]);
    let tables = ["event", "erased", "identity", "fact", "event_head"];
    for table in tables {
        psql(&url, &format!("CREATE TABLE kept_{table} AS TABLE {table}")).unwrap();
    }
    let events = "events, erased ones included";
    let remains = "erased events of which something remains";
    let arrivals = "arrivals that are there once";
    let facts = "tenants whose facts don't follow from their events";
    let identities = "identities of events";
    let spent = "identities that are known as spent";
    for (change, found) in [
        (
            "DELETE FROM erased WHERE sequence = 1",
            &[remains, arrivals, facts][..],
        ),
        (
            "INSERT INTO erased SELECT * FROM erased WHERE sequence = 1",
            &[remains, arrivals, facts],
        ),
        (
            "UPDATE erased SET type = 'other' WHERE sequence = 1",
            &[facts],
        ),
        (
            "UPDATE erased SET user_hash = gen_random_uuid() WHERE sequence = 1",
            &[facts],
        ),
        (
            "UPDATE erased SET time = time + '1 minute' WHERE sequence = 1",
            &[facts, identities],
        ),
        (
            "UPDATE erased SET identity = gen_random_uuid() WHERE sequence = 1",
            &[identities],
        ),
        (
            "UPDATE erased SET sequence = 2 WHERE sequence = 1",
            &[arrivals],
        ),
        ("UPDATE event_head SET erased = 21", &[events, remains]),
        (
            "DELETE FROM event WHERE sequence = 2",
            &[events, arrivals, facts],
        ),
        (
            "UPDATE event SET type = 'other' WHERE sequence = 2",
            &[facts, identities],
        ),
        (
            "UPDATE event SET user_id = 'u9' WHERE sequence = 2",
            &[facts, identities],
        ),
        (
            "UPDATE event SET sequence = 3 WHERE sequence = 2",
            &[arrivals],
        ),
        (
            "UPDATE fact SET facts = (SELECT facts FROM fact WHERE first = 51)",
            &[facts, "rollups"],
        ),
        (
            "DELETE FROM identity USING erased WHERE hash = identity AND sequence = 1",
            &[spent, identities],
        ),
        (
            "UPDATE identity SET time = now() FROM erased WHERE hash = identity AND sequence = 1",
            &[identities],
        ),
    ] {
        psql(&url, change).unwrap();
        assert_eq!(wrong(&node.store).await, found, "{change}");
        for table in tables {
            let back =
                format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}");
            psql(&url, &back).unwrap();
        }
        assert_eq!(wrong(&node.store).await, [""; 0], "after {change}");
    }
    // What was erased by the version before is counted, and no more is known of it.
    psql(
        &url,
        "UPDATE erased SET sequence = NULL, identity = NULL WHERE sequence < 30",
    )
    .unwrap();
    assert_eq!(wrong(&node.store).await, [""; 0]);
}
