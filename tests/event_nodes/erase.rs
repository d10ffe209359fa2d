//! Erasures that meet others, and whom they reach.

use std::collections::BTreeSet;

use tollgate::model::event::{Event, EventFilter, EventTime, Receipt};
use tollgate::model::time::Timestamp;
use tollgate::store::{Store, StoreError, Term};

use super::backing::{database, psql};
use super::claims::until;
use super::verify::wrong;
use super::{Node, all, append, event, node};

/// An erasure removes so many events in one transaction.
const CHUNK: u64 = 10_000;

fn of_tenant(tenant: &str) -> EventFilter {
    EventFilter {
        tenant: Some(tenant.to_owned()),
        ..EventFilter::default()
    }
}

/// A transaction of somebody else that holds what `sql` touches, until it is committed.
async fn hold(url: &str, sql: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(sql).await.unwrap();
    client
}

/// Returns once so many statements of erasures wait for what others hold.
async fn until_wait(url: &str, number: u64) {
    let waiting = format!(
        "SELECT count(*) >= {number} FROM pg_stat_activity WHERE datname = current_database()
             AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM event_2026_09%'"
    );
    until(url, &waiting, "t").await;
}

async fn last(store: &Store) -> tollgate::model::event::Sequence {
    store.sync().await.unwrap();
    *store.last_event().borrow()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_meets_another_one_leaves_nothing() {
    const EVENTS: u64 = CHUNK + 2_000;
    let Some(url) = database() else { return };
    let Node { store, dir: _dir } = node(&url).await;
    let events: Vec<_> = (0..EVENTS).map(event).collect();
    append(&store, &events).await.unwrap();
    // As another erasure would: those that lie first.
    let other = hold(
        &url,
        "DELETE FROM event_2026_09 WHERE ctid = ANY (ARRAY (
             SELECT ctid FROM event_2026_09 ORDER BY ctid LIMIT 10000))",
    )
    .await;
    let erasing = store.clone();
    let erasure = tokio::spawn(async move { erasing.erase(of_tenant("t")).await });
    until_wait(&url, 1).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(erasure.await.unwrap(), Ok(EVENTS - CHUNK));
    let left = all(&store, EventFilter::default()).await.unwrap();
    assert_eq!(left.len(), 0);
}

/// Two erasures of everything at two nodes: each event goes once, and is counted once.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_erasures_of_the_same_each_event_is_removed_by_one() {
    let Some(url) = database() else { return };
    let (one, two) = (node(&url).await, node(&url).await);
    let events: Vec<_> = (0..CHUNK * 2 + 7).map(event).collect();
    append(&one.store, &events).await.unwrap();
    let (first, second) = tokio::join!(
        one.store.erase(of_tenant("t")),
        two.store.erase(of_tenant("t"))
    );
    assert_eq!(first.unwrap() + second.unwrap(), events.len() as u64);
    assert_eq!(all(&two.store, EventFilter::default()).await.unwrap(), []);
    assert_eq!(wrong(&one.store).await, [""; 0]);
}

/// As with a hypertable, where the chunks are tables of their own and all of it is one part.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_part_of_many_tables_only_what_is_meant_goes() {
    let Some(url) = database() else { return };
    let Node { store, dir: _dir } = node(&url).await;
    let in_month = |id: u64, month: i64, tenant: &'static str| Event {
        tenant: tenant.into(),
        time: EventTime {
            micros: Timestamp::from_micros(1_790_000_000_000_000 + month * 30 * 86_400_000_000),
            nanos: 0,
        },
        ..event(id)
    };
    // Where one table has an event of the one tenant, the other has one of the other tenant.
    let tenants = ["a", "b"];
    let events: Vec<_> = (0..40_u64)
        .map(|id| {
            let (month, place) = (usize::from(id >= 20), (id % 2) as usize);
            in_month(id, i64::from(id >= 20), tenants[(place + month) % 2])
        })
        .collect();
    append(&store, &events).await.unwrap();
    let as_one = "DELETE FROM part; INSERT INTO part VALUES ('event', '-infinity', 'infinity')";
    let tables = psql(&url, "SELECT count(*) FROM part").unwrap();
    assert_eq!(tables, "2");
    psql(&url, as_one).unwrap();
    assert_eq!(store.erase(of_tenant("a")).await, Ok(20));
    let left = all(&store, EventFilter::default()).await.unwrap();
    let left: BTreeSet<_> = left.iter().map(|it| it.id.clone()).collect();
    let kept = events.iter().filter(|it| it.tenant == "b");
    assert_eq!(left, kept.map(|it| it.id.clone()).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_two_connections_for_erasures_at_most() {
    let Some(url) = database() else { return };
    let Node { store, dir: _dir } = node(&url).await;
    let events: Vec<_> = (0..50).map(event).collect();
    append(&store, &events).await.unwrap();
    let other = hold(&url, "SELECT FROM event_2026_09 FOR UPDATE").await;
    let erasures: Vec<_> = (0..6)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.erase(of_tenant("t")).await })
        })
        .collect();
    until_wait(&url, 2).await;
    // The others would come while it is looked.
    for _ in 0..20 {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND query LIKE '%DELETE FROM event_2026_09%' AND pid <> pg_backend_pid()";
        assert_eq!(psql(&url, sessions).unwrap(), "2");
        tokio::task::yield_now().await;
    }
    other.batch_execute("COMMIT").await.unwrap();
    let mut erased = 0;
    for erasure in erasures {
        erased += erasure.await.unwrap().unwrap();
    }
    assert_eq!(erased, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_erases_nothing() {
    let Some(url) = database() else { return };
    let Node { store, dir: _dir } = node(&url).await;
    let events: Vec<_> = (0..50).map(event).collect();
    assert_eq!(
        append(&store, &events).await.unwrap(),
        [Receipt::Accepted; 50]
    );
    let mut terms = store.term();
    let term = terms.wait_for(Option::is_some).await.unwrap().unwrap();
    assert_eq!(store.confirm(term).await, Ok(()));
    let last = last(&store).await;
    // As its successor does.
    psql(&url, "UPDATE head SET epoch = epoch + 1").unwrap();
    assert_eq!(store.confirm(term).await, Err(StoreError::Deposed));
    let refused = store.erase_in(term, of_tenant("t"), last).await;
    assert_eq!(refused, Err(StoreError::Deposed));
    let left = all(&store, EventFilter::default()).await.unwrap();
    assert_eq!(left.len(), 50);
    let successor = Term(term.0 + 1);
    assert_eq!(store.confirm(successor).await, Ok(()));
    let erased = store.erase_in(successor, of_tenant("t"), last).await;
    assert_eq!(erased, Ok(50));
    assert_eq!(wrong(&store).await, [""; 0]);
}
