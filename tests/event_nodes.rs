//! Several nodes over one PostgreSQL: what one acknowledges, all know.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "event_nodes/claims.rs"]
mod claims;
#[path = "event_nodes/cold.rs"]
mod cold;
#[path = "event_nodes/erase.rs"]
mod erase;
#[path = "support/port.rs"]
mod port;
#[path = "event_nodes/timescale.rs"]
mod timescale;
#[path = "event_nodes/verify.rs"]
mod verify;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backing::{Backing, database, psql};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::model::event::{
    Event, EventFilter, EventTime, Order, PageQuery, Receipt, Scan, ScanQuery, Sequence,
};
use tollgate::model::time::Timestamp;
use tollgate::rollups::{Filter, Span};
use tollgate::store::{NewLetter, SharedSettings, Store, StoreError};
use verify::wrong;

struct Node {
    store: Store,
    dir: TempDir,
}

async fn node(url: &str) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let store = connect(url, &dir).await.unwrap();
    Node { store, dir }
}

async fn connect(url: &str, dir: &TempDir) -> Result<Store, tollgate::store::OpenError> {
    let settings = SharedSettings {
        url: url.to_owned(),
        read_url: None,
        dir: dir.path().to_owned(),
    };
    Store::connect(&settings, Clock::system(), |_| {}).await
}

fn event(id: u64) -> Event<'static> {
    Event {
        tenant: "t".into(),
        topic: format!("topic-{}", id % 3).into(),
        id: id.to_string().into(),
        time: EventTime {
            micros: Timestamp::from_micros(1_790_000_000_000_000 + id.cast_signed()),
            nanos: 7,
        },
        source: None,
        event_type: Some("click".into()),
        user: Some(format!("u{}", id % 5).into()),
        payload: format!("{{\"n\":{id}}}").into(),
        extra: "".into(),
    }
}

async fn append(store: &Store, events: &[Event<'static>]) -> Result<Vec<Receipt>, StoreError> {
    store.append(store.prepare(events, Vec::new())?).await
}

async fn all(store: &Store, filter: EventFilter) -> Result<Vec<Event<'static>>, StoreError> {
    let mut query = PageQuery {
        filter,
        order: Order::Ascending,
        after: None,
        skip: 0,
        limit: 1_000,
    };
    let mut found = Vec::new();
    loop {
        let page = store.page(query.clone()).await?;
        found.extend(page.events.into_iter().map(|it| it.event));
        query.after = page.next;
        if query.after.is_none() {
            return Ok(found);
        }
    }
}

/// Events and users by the rollups.
async fn counted(store: &Store) -> Result<(u64, u64), StoreError> {
    let top = store.rollups(|it| it.top_types(&Filter::default(), Span::ALL, 10));
    let top = top.await?.unwrap();
    Ok(top.first().map_or((0, 0), |it| (it.count, it.unique_users)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_accepts_the_other_knows_at_once() {
    let Some(url) = database() else { return };
    let (one, two) = (node(&url).await, node(&url).await);
    for round in 0..10 {
        let events: Vec<_> = (round * 20..round * 20 + 20).map(event).collect();
        let (first, second) = if round % 2 == 0 {
            (&one.store, &two.store)
        } else {
            (&two.store, &one.store)
        };
        assert_eq!(
            append(first, &events).await.unwrap(),
            [Receipt::Accepted; 20]
        );
        let total = (round + 1) * 20;
        assert_eq!(counted(second).await, Ok((total, 5)));
        second.sync().await.unwrap();
        let counts = second.event_counts();
        assert_eq!((counts.accepted, counts.last), (total, Sequence(total)));
        assert_eq!(counts.topics, ["topic-0", "topic-1", "topic-2"]);
        assert_eq!(*second.last_event().borrow(), Sequence(total));
        assert_eq!(
            all(second, EventFilter::default()).await.unwrap().len() as u64,
            total
        );
        let again = append(second, &events).await.unwrap();
        assert_eq!(again, [Receipt::Duplicate { conflicting: false }; 20]);
    }
    one.store.sync().await.unwrap();
    assert_eq!(one.store.event_counts().duplicates, 200);
    // What one node erases, the other knows too; the rollups go on counting it.
    let filter = EventFilter {
        user: Some("u1".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(one.store.erase(filter).await.unwrap(), 40);
    two.store.sync().await.unwrap();
    assert_eq!(two.store.erasures(), 40);
    assert_eq!(
        all(&two.store, EventFilter::default()).await.unwrap().len(),
        160
    );
    assert_eq!(counted(&two.store).await, Ok((200, 5)));
    for checked in [&one.store, &two.store] {
        assert_eq!(wrong(checked).await, [""; 0]);
        let verified = checked.verify().await.unwrap();
        assert!(
            verified
                .tenants
                .iter()
                .all(|it| it.is_same() && it.events == (200, 200))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_equal_events_at_two_nodes_one_is_accepted() {
    let Some(url) = database() else { return };
    let nodes = [node(&url).await, node(&url).await];
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let store = nodes[n % 2].store.clone();
        tasks.spawn(async move { append(&store, &[event(1)]).await.unwrap()[0] });
    }
    let receipts = tasks.join_all().await;
    let accepted = receipts.iter().filter(|it| **it == Receipt::Accepted);
    assert_eq!(accepted.count(), 1);
    for node in &nodes {
        node.store.sync().await.unwrap();
        let counts = node.store.event_counts();
        assert_eq!((counts.accepted, counts.duplicates), (1, 199));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_overlap_in_any_order_all_end() {
    let Some(url) = database() else { return };
    let nodes = [node(&url).await, node(&url).await];
    let mut tasks = JoinSet::new();
    for n in 0..40_usize {
        let store = nodes[n % 2].store.clone();
        tasks.spawn(async move {
            let mut events: Vec<_> = (0..300).map(event).collect();
            fastrand::Rng::with_seed(n as u64).shuffle(&mut events);
            let receipts = append(&store, &events).await.unwrap();
            receipts
                .iter()
                .filter(|it| **it == Receipt::Accepted)
                .count()
        });
    }
    let accepted: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(accepted, 300);
    assert_eq!(counted(&nodes[0].store).await, Ok((300, 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_time_has_its_partition() {
    let Some(url) = database() else { return };
    let nodes = [node(&url).await, node(&url).await];
    let times = [
        ("0000-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", 999),
        ("1999-12-31T23:59:59.999999Z", 999),
        ("2000-01-01T00:00:00Z", 0),
        ("2024-02-29T23:59:59.999999Z", 999),
        ("2024-03-01T00:00:00Z", 0),
        ("2099-12-31T23:59:59.999999Z", 999),
        ("2100-01-01T00:00:00Z", 0),
        ("9999-12-30T21:59:59.999999Z", 999),
    ];
    let events: Vec<Event<'static>> = (0..)
        .zip(times)
        .map(|(id, (text, nanos))| Event {
            time: EventTime {
                micros: Timestamp::parse(text).unwrap(),
                nanos,
            },
            ..event(id)
        })
        .collect();
    // Both make the same partitions at once.
    let (one, two) = tokio::join!(
        append(&nodes[0].store, &events),
        append(&nodes[1].store, &events)
    );
    let receipts = [one.unwrap(), two.unwrap()].concat();
    let accepted = receipts.iter().filter(|it| **it == Receipt::Accepted);
    assert_eq!(accepted.count(), events.len());
    assert_eq!(
        all(&nodes[1].store, EventFilter::default()).await.unwrap(),
        events
    );
    for (place, event) in events.iter().enumerate() {
        let filter = EventFilter {
            from: Some(event.time),
            to: events.get(place + 1).map(|next| next.time),
            ..EventFilter::default()
        };
        let found = all(&nodes[0].store, filter).await.unwrap();
        assert_eq!(found, std::slice::from_ref(event));
        let (tenant, topic, id) = (&event.tenant, &event.topic, &event.id);
        let found = nodes[0].store.event(tenant, topic, id).await.unwrap();
        assert_eq!(found.unwrap().event, *event);
    }
    let parts = psql(&url, "SELECT count(*) FROM part").unwrap();
    assert_eq!(parts, "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_the_database_has_no_place_for_is_kept() {
    let Some(url) = database() else { return };
    let node = node(&url).await;
    let odd = |id: &'static str, user: &'static str| Event {
        tenant: "a\0b".into(),
        topic: "\u{1}".into(),
        id: id.into(),
        user: Some(user.into()),
        ..event(1)
    };
    let events = [
        odd("\0", "x\0"),
        odd("\u{1}0", "x\u{1}0"),
        odd("\u{1}", "x"),
    ];
    let receipts = append(&node.store, &events).await.unwrap();
    assert_eq!(receipts, [Receipt::Accepted; 3]);
    let filter = EventFilter {
        tenant: Some("a\0b".to_owned()),
        user: Some("x\0".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(all(&node.store, filter).await.unwrap(), events[..1]);
    let found = node.store.event("a\0b", "\u{1}", "\u{1}0").await.unwrap();
    assert_eq!(found.unwrap().event, events[1]);
    node.store.sync().await.unwrap();
    assert_eq!(node.store.event_counts().topics, ["\u{1}"]);
    let letter = NewLetter {
        refused_at: Timestamp::EPOCH,
        errors: "[]".to_owned(),
        body: "\0\u{1}".to_owned(),
    };
    let prepared = node.store.prepare(&[], vec![letter]).unwrap();
    node.store.append(prepared).await.unwrap();
    assert_eq!(node.store.letter(1).await.unwrap().unwrap().body, "\0\u{1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_and_topics_have_their_bounds() {
    let Some(url) = database() else { return };
    drop(node(&url).await);
    let fill = "INSERT INTO letter SELECT n, now(), '[]', '{}' FROM generate_series(1, 100000) n;
        INSERT INTO topic SELECT n, 'z' || n FROM generate_series(1, 9999) n;
        UPDATE event_head SET letter = 100000, topics = 9999";
    psql(&url, fill).unwrap();
    let node = node(&url).await;
    let letter = NewLetter {
        refused_at: Timestamp::EPOCH,
        errors: "[]".to_owned(),
        body: "{}".to_owned(),
    };
    let events = [event(0), event(1), event(2)];
    let prepared = node.store.prepare(&events, vec![letter]).unwrap();
    node.store.append(prepared).await.unwrap();
    let (letters, more) = node.store.letters(0, 2).await.unwrap();
    assert_eq!((letters[0].id, letters[1].id, more), (2, 3, true));
    assert!(node.store.letter(100_001).await.unwrap().is_some());
    node.store.sync().await.unwrap();
    let topics = node.store.event_counts().topics;
    assert_eq!(topics.len(), 10_000);
    assert_eq!(
        topics.iter().filter(|it| it.starts_with("topic")).count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_shows_all_or_refuses() {
    let Some(url) = database() else { return };
    let node = node(&url).await;
    let mut events: Vec<_> = (0..2_000).map(event).collect();
    events[7].time = EventTime::default();
    append(&node.store, &events).await.unwrap();
    let scan = |limit: u64, most: u64| {
        let seen = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&seen);
        let query = ScanQuery {
            source: None,
            event_types: Vec::new(),
            payloads: true,
            tenant: Some("t".to_owned()),
            from: None,
            to: None,
            limit,
        };
        let store = &node.store;
        async move {
            let found = store.scan(query, move |events| {
                let seen = counting.fetch_add(events.len() as u64, Ordering::Relaxed);
                if seen >= most {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            (found.await.unwrap(), seen.load(Ordering::Relaxed))
        }
    };
    assert_eq!(scan(2_000, u64::MAX).await, (Scan::Whole, 2_000));
    assert_eq!(scan(1_999, u64::MAX).await, (Scan::TooBroad, 0));
    assert_eq!(scan(2_000, 0).await.0, Scan::Left);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_table_is_an_error_and_no_answer() {
    let Some(url) = database() else { return };
    let first = node(&url).await;
    let events: Vec<_> = (0..50).map(event).collect();
    append(&first.store, &events).await.unwrap();
    for table in [
        "event",
        "event_2026_09",
        "identity",
        "fact",
        "part",
        "event_head",
        "topic",
        "erased",
    ] {
        let refused = psql(&url, &format!("TRUNCATE {table}")).unwrap_err();
        assert!(refused.contains("never truncated"), "{table}: {refused}");
    }
    psql(&url, "ALTER TABLE event DETACH PARTITION event_2026_09; ALTER TABLE event_2026_09 RENAME TO lost")
        .unwrap();
    let read = all(&first.store, EventFilter::default()).await;
    assert!(matches!(read, Err(StoreError::Damaged(_))), "{read:?}");
    let since = first
        .store
        .events_since(Sequence(0), EventFilter::default(), 10)
        .await;
    assert!(since.is_err(), "{since:?}");
    assert!(append(&first.store, &[event(99)]).await.is_err());
    psql(
        &url,
        "ALTER TABLE lost RENAME TO event_2026_09; ALTER TABLE event ATTACH PARTITION event_2026_09
        FOR VALUES FROM ('2026-09-01 00:00:00+00') TO ('2026-10-01 00:00:00+00')",
    )
    .unwrap();
    assert_eq!(
        append(&first.store, &[event(99)]).await.unwrap(),
        [Receipt::Accepted]
    );
    // Two rows of facts, of which the first goes: counting from the beginning finds that.
    let second = node(&url).await;
    assert_eq!(counted(&second.store).await, Ok((51, 5)));
    psql(&url, "DELETE FROM fact WHERE first = 1").unwrap();
    let third = node(&url).await;
    let refused = counted(&third.store).await;
    assert!(
        matches!(refused, Err(StoreError::Damaged(_))),
        "{refused:?}"
    );
    psql(&url, "DELETE FROM fact").unwrap();
    assert!(connect(&url, &third.dir).await.is_err());
    psql(&url, "DROP TABLE identity").unwrap();
    assert!(append(&second.store, &[event(1)]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_under_load_loses_nothing_that_was_acknowledged() {
    let Some(mut server) = Backing::postgres() else {
        return;
    };
    let url = server.new_database();
    let nodes = [node(&url).await, node(&url).await];
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for worker in 0..4_u64 {
        let (store, done) = (
            nodes[usize::from(worker % 2 == 0)].store.clone(),
            Arc::clone(&acknowledged),
        );
        tasks.spawn(async move {
            let mut ids = BTreeSet::new();
            for round in 0..60 {
                let from = worker * 100_000 + round * 50;
                let events: Vec<_> = (from..from + 50).map(event).collect();
                // A client that is refused tries again, until it is told that all is there.
                let mut tries = 0;
                while let Err(error) = append(&store, &events).await {
                    assert!(matches!(error, StoreError::Away(_)), "{error}");
                    tries += 1;
                    assert!(tries < 2_000, "{error}");
                    // sleep: the pause of a client between two attempts.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                ids.extend(from..from + 50);
                done.fetch_add(1, Ordering::Relaxed);
            }
            ids
        });
    }
    for (after, kill) in [(30, true), (90, false), (150, true)] {
        while acknowledged.load(Ordering::Relaxed) < after {
            tokio::task::yield_now().await;
        }
        tokio::task::block_in_place(|| {
            if kill {
                server.end(Signal::QUIT);
            } else {
                server.end(Signal::INT);
            }
            server.resume();
        });
    }
    let expected: BTreeSet<u64> = tasks.join_all().await.into_iter().flatten().collect();
    for node in &nodes {
        let found = all(&node.store, EventFilter::default()).await.unwrap();
        assert_eq!(found.len(), expected.len(), "nothing twice");
        let found: BTreeSet<u64> = found.iter().map(|it| it.id.parse().unwrap()).collect();
        assert_eq!(found, expected);
        let total = expected.len() as u64;
        let mut count = counted(&node.store).await;
        while count.is_err() {
            // Its connection may be the old one still.
            count = counted(&node.store).await;
        }
        assert_eq!(count, Ok((total, 5)));
        let verified = node.store.verify().await.unwrap();
        assert!(
            verified.checks.iter().all(|it| it.expected == it.found),
            "{verified:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_in_the_middle_does_not_hold_up_the_others() {
    let Some(url) = database() else { return };
    let node = node(&url).await;
    assert_eq!(
        append(&node.store, &[event(1)]).await.unwrap(),
        [Receipt::Accepted]
    );
    let hanging = format!("{url}?application_name=tollgate");
    let (hanging, connection) = tokio_postgres::connect(&hanging, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    hanging
        .batch_execute("BEGIN; UPDATE event_head SET event = event + 1")
        .await
        .unwrap();
    // It has begun to send rows, and sends none.
    let rows = hanging.copy_in::<_, &[u8]>("COPY letter FROM STDIN");
    let rows = rows.await.unwrap();
    assert_eq!(
        append(&node.store, &[event(2)]).await.unwrap(),
        [Receipt::Accepted]
    );
    assert_eq!(counted(&node.store).await, Ok((2, 2)));
    drop(rows);
}
