//! What `verify` finds of what was changed behind the store's back.

use tollgate::model::event::{Event, EventFilter};
use tollgate::store::Store;

use crate::backing::{database, psql};
use crate::{append, event, node};

const EVENTS: &str = "events, erased ones included";
const REMAINS: &str = "erased events of which something remains";
const ARRIVALS: &str = "arrivals that are there once";
const FACTS: &str = "tenants whose facts don't follow from their events";
const IDENTITIES: &str = "identities of events";
const SPENT: &str = "identities that are known as spent";

/// Which numbers are not those that follow from the events.
pub(crate) async fn wrong(store: &Store) -> Vec<&'static str> {
    let verified = store.verify().await.unwrap();
    let wrong = verified.checks.iter().filter(|it| it.expected != it.found);
    let wrong = wrong.map(|it| it.what);
    let tenants = verified.tenants.iter().filter(|it| !it.is_same());
    wrong.chain(tenants.map(|_| "rollups")).collect()
}

/// A hundred events, of which 20 are erased. Their numbers are their arrivals: the first is gone, the
/// second is there.
async fn erase_some(store: &Store) {
    let viewed = |id| Event {
        event_type: Some("view".into()),
        ..event(id)
    };
    let clicks: Vec<_> = (1..=50).map(event).collect();
    let views: Vec<_> = (51..=100).map(viewed).collect();
    append(store, &clicks).await.unwrap();
    append(store, &views).await.unwrap();
    let filter = EventFilter {
        user: Some("u1".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(store.erase(filter).await.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_whatever_was_changed_is_found() {
    let Some(url) = database() else { return };
    let node = node(&url).await;
    erase_some(&node.store).await;
    assert_eq!(wrong(&node.store).await, [""; 0]);
    let tables = ["event", "erased", "identity", "fact", "event_head"];
    for table in tables {
        psql(&url, &format!("CREATE TABLE kept_{table} AS TABLE {table}")).unwrap();
    }
    for (change, found) in [
        (
            "DELETE FROM erased WHERE sequence = 1",
            &[REMAINS, ARRIVALS, FACTS][..],
        ),
        (
            "INSERT INTO erased SELECT * FROM erased WHERE sequence = 1",
            &[REMAINS, ARRIVALS, FACTS],
        ),
        (
            "UPDATE erased SET type = 'other' WHERE sequence = 1",
            &[FACTS],
        ),
        (
            "UPDATE erased SET user_hash = gen_random_uuid() WHERE sequence = 1",
            &[FACTS],
        ),
        (
            "UPDATE erased SET time = time + '1 minute' WHERE sequence = 1",
            &[FACTS, IDENTITIES],
        ),
        (
            "UPDATE erased SET identity = gen_random_uuid() WHERE sequence = 1",
            &[IDENTITIES],
        ),
        (
            "UPDATE erased SET sequence = 2 WHERE sequence = 1",
            &[ARRIVALS],
        ),
        ("UPDATE event_head SET erased = 21", &[EVENTS, REMAINS]),
        (
            "DELETE FROM event WHERE sequence = 2",
            &[EVENTS, ARRIVALS, FACTS],
        ),
        (
            "UPDATE event SET type = 'other' WHERE sequence = 2",
            &[FACTS, IDENTITIES],
        ),
        (
            "UPDATE event SET user_id = 'u9' WHERE sequence = 2",
            &[FACTS, IDENTITIES],
        ),
        (
            "UPDATE event SET sequence = 3 WHERE sequence = 2",
            &[ARRIVALS],
        ),
        (
            "UPDATE fact SET facts = (SELECT facts FROM fact WHERE first = 51)",
            &[FACTS, "rollups"],
        ),
        (
            "DELETE FROM identity USING erased WHERE hash = identity AND sequence = 1",
            &[SPENT, IDENTITIES],
        ),
        (
            "UPDATE identity SET time = now() FROM erased WHERE hash = identity AND sequence = 1",
            &[IDENTITIES],
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
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_the_version_before_erased_the_facts_are_compared() {
    let Some(url) = database() else { return };
    erase_some(&node(&url).await.store).await;
    // It did not say which events those were.
    psql(
        &url,
        "ALTER TABLE erased DROP COLUMN sequence, DROP COLUMN identity;
         DROP TRIGGER kept ON erased;
         DROP TABLE message;
         DROP FUNCTION known_messages, take_messages, keep_within;
         DELETE FROM tollgate_version WHERE version >= 3",
    )
    .unwrap();
    let newer = node(&url).await;
    assert_eq!(wrong(&newer.store).await, [""; 0]);
    psql(&url, "TRUNCATE erased").unwrap_err();
    psql(&url, "DELETE FROM erased WHERE type = 'view'").unwrap();
    assert_eq!(wrong(&newer.store).await, [REMAINS, ARRIVALS, FACTS]);
}
