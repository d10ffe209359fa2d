//! What every store promises, whatever holds the data.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "store_conformance/messages.rs"]
mod messages;
#[path = "store_conformance/nodes.rs"]
mod nodes;
#[path = "support/port.rs"]
mod port;
#[path = "store_conformance/queues.rs"]
mod queues;
#[path = "cluster/relay.rs"]
mod relay;
#[path = "support/store_model.rs"]
mod store_model;
#[path = "store_conformance/texts.rs"]
mod texts;

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use store_model::{History, Opened, State, connect, open, settings};
use tollgate::model::batch::{BatchRun, BatchStatus};
use tollgate::model::change::{Change, IdempotencyRecord};
use tollgate::model::id::{BatchIndex, IngestionId};
use tollgate::model::ingestion::Ingestion;
use tollgate::model::time::Timestamp;
use tollgate::store::{SharedSettings, Store, StoreError, StoreState};
use uuid::Uuid;

/// Few cases, since each writes files; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig {
            cases: 32,
            ..default
        },
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Where a store is, in each of its arms.
enum Place {
    Directory(tempfile::TempDir),
    Database(SharedSettings, tempfile::TempDir),
}

impl Place {
    fn directory() -> Self {
        Self::Directory(tempfile::tempdir().unwrap())
    }

    /// `None` where PostgreSQL isn't installed.
    fn database() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let settings = SharedSettings {
            url: backing::database()?,
            read_url: None,
            dir: dir.path().to_owned(),
        };
        Some(Self::Database(settings, dir))
    }

    /// Of a database.
    fn url(&self) -> String {
        match self {
            Self::Directory(_) => panic!("a directory has no URL"),
            Self::Database(settings, _) => settings.url.clone(),
        }
    }

    async fn open(&self) -> Opened {
        match self {
            Self::Directory(dir) => open(&settings(dir.path())).unwrap(),
            Self::Database(settings, _) => connect(settings).await.unwrap(),
        }
    }
}

/// A random history of `commits`, pruned and reopened now and then.
async fn holds_what_a_naive_model_holds(place: Place, seed: u64, commits: usize) {
    let mut history = History::new(seed);
    let mut opened = place.open().await;
    for _ in 0..commits {
        match history.rng.u8(..20) {
            0 => {
                let (ended_before, now) = (history.now(), history.now());
                while opened.store.prune(ended_before, now).await.unwrap() > 0 {}
                history.state.prune(ended_before, now);
            }
            1 => {
                if history.rng.bool() {
                    opened.store.close().await;
                }
                drop(opened);
                opened = place.open().await;
            }
            _ => opened.store.commit(history.commit()).await.unwrap(),
        }
    }
    let everything = opened.applied.lock().live.clone();
    assert_eq!(everything, history.state.live);
    drop(opened);
    expect_same(&place.open().await, &history.state).await;
}

fn submitted(history: &mut History) -> (Change, Ingestion) {
    let change = history.submission();
    history.state.apply(&change);
    let Change::Submitted { ingestion, .. } = &change else {
        unreachable!("a submission is Submitted");
    };
    let ingestion = ingestion.clone();
    (change, ingestion)
}

async fn expect_same(opened: &Opened, expected: &State) {
    {
        let applied = opened.applied.lock();
        assert_eq!(applied.live, expected.live);
        assert_eq!(applied.queues, expected.queues);
    }
    for ingestion in expected.ended.values() {
        let found = opened.store.ended(ingestion.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(ingestion));
    }
    for ingestion in expected.live.values() {
        assert_eq!(opened.store.ended(ingestion.id).await.unwrap(), None);
    }
    for key in 0..40 {
        let found = opened
            .store
            .kept_answer(key, Timestamp::EPOCH)
            .await
            .unwrap();
        assert_eq!(found, expected.kept.get(&key).map(|(answer, _)| *answer));
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn a_store_holds_what_a_naive_model_holds(seed: u64, commits in 1_usize..80) {
        runtime().block_on(holds_what_a_naive_model_holds(Place::directory(), seed, commits));
    }
}

proptest! {
    // Each makes a database.
    #![proptest_config(ProptestConfig { cases: config().cases.div_ceil(4), ..config() })]
    #[test]
    fn a_shared_store_holds_what_a_naive_model_holds(seed: u64, commits in 1_usize..80) {
        if let Some(place) = Place::database() {
            runtime().block_on(holds_what_a_naive_model_holds(place, seed, commits));
        }
    }
}

#[tokio::test]
async fn arrivals_are_contiguous_in_the_order_of_the_commits() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let store = Store::open(&settings(dir.path()), move |changes| {
        for change in changes {
            if let Change::Submitted { ingestion, .. } = change {
                sink.lock().push((ingestion.arrival.0, ingestion.id));
            }
        }
    })
    .unwrap();
    let mut history = History::new(1);
    let mut order = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (change, ingestion) = submitted(&mut history);
        order.push(ingestion.id);
        let store = store.clone();
        // A current-thread runtime polls new tasks in the order in which they were made.
        tasks.spawn(async move { store.commit(vec![change]).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let expected: Vec<_> = (1..).zip(order).collect();
    assert_eq!(*seen.lock(), expected);
}

#[tokio::test]
async fn an_answer_comes_after_its_changes_were_applied() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(2);
    for count in 1..=20 {
        let (change, _) = submitted(&mut history);
        opened.store.commit(vec![change]).await.unwrap();
        assert_eq!(opened.applied.lock().live.len(), count);
    }
    opened.store.commit(Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(3);
    let (change, _) = submitted(&mut history);
    {
        let mut commit = Box::pin(opened.store.commit(vec![change]));
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(commit.as_mut().poll(context).is_pending())
        });
        let _ = polled.await;
    }
    opened.store.close().await;
    assert_eq!(opened.applied.lock().live, history.state.live);
}

#[tokio::test]
async fn an_answer_is_kept_until_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(4);
    let (mut change, ingestion) = submitted(&mut history);
    let at = Timestamp::from_micros;
    if let Change::Submitted { idempotency, .. } = &mut change {
        *idempotency = Some(IdempotencyRecord {
            key: 7,
            body: 8,
            expires_at: at(100),
        });
    }
    opened.store.commit(vec![change]).await.unwrap();
    let kept = opened.store.kept_answer(7, at(99)).await.unwrap().unwrap();
    assert_eq!((kept.body, kept.ingestion), (8, ingestion.id));
    assert_eq!(opened.store.kept_answer(7, at(100)).await.unwrap(), None);
    assert_eq!(opened.store.kept_answer(8, at(99)).await.unwrap(), None);
    opened.store.prune(at(0), at(99)).await.unwrap();
    assert!(opened.store.kept_answer(7, at(0)).await.unwrap().is_some());
    opened.store.prune(at(0), at(100)).await.unwrap();
    assert_eq!(opened.store.kept_answer(7, at(0)).await.unwrap(), None);
}

#[tokio::test]
async fn a_prune_removes_a_bounded_number() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(5);
    let mut changes = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..600 {
        let (change, ingestion) = submitted(&mut history);
        keys.push(ingestion.key());
        changes.push(change);
    }
    opened.store.commit(changes).await.unwrap();
    let end = |(number, key): (i64, &_)| Change::IngestionEnded {
        ingestion: *key,
        at: Timestamp::from_micros(number),
    };
    let ends = (0..).zip(&keys).map(end).collect();
    opened.store.commit(ends).await.unwrap();
    let limit = Timestamp::from_micros(599);
    let mut pruned = Vec::new();
    loop {
        match opened.store.prune(limit, limit).await.unwrap() {
            0 => break,
            count => pruned.push(count),
        }
    }
    assert_eq!(pruned, [256, 256, 87]);
    assert_eq!(opened.store.ended(keys[598].id).await.unwrap(), None);
    assert!(opened.store.ended(keys[599].id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_prune_goes_on_until_no_expired_key_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(8);
    let at = Timestamp::from_micros;
    let changes = (0..20_000).map(|key| {
        let (mut change, _) = submitted(&mut history);
        if let Change::Submitted { idempotency, .. } = &mut change {
            *idempotency = Some(IdempotencyRecord {
                key,
                body: 0,
                expires_at: at(100),
            });
        }
        change
    });
    opened.store.commit(changes.collect()).await.unwrap();
    while opened.store.prune(at(0), at(100)).await.unwrap() > 0 {}
    for key in 0..20_000 {
        assert_eq!(opened.store.kept_answer(key, at(0)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn the_largest_ingestion_ends_and_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(6);
    let (mut change, mut ingestion) = submitted(&mut history);
    ingestion.ids = (0..1_000_000).map(|id| id << 20).collect();
    ingestion.batch_size = std::num::NonZeroU16::new(3).unwrap();
    if let Change::Submitted { ingestion: it, .. } = &mut change {
        *it = ingestion.clone();
    }
    opened.store.commit(vec![change]).await.unwrap();
    let at = Timestamp::from_micros;
    let key = ingestion.key();
    let moves = (0..333_334).map(|batch| {
        let run = BatchRun {
            status: BatchStatus::Completed,
            completed_at: Some(at(i64::from(batch) + 5)),
            ..BatchRun::first(at(i64::from(batch)))
        };
        (BatchIndex(batch), run)
    });
    let mut changes = Vec::new();
    for (batch, run) in moves {
        ingestion.set_run(batch, run.clone());
        changes.push(Change::BatchMoved {
            ingestion: key,
            batch,
            run,
        });
    }
    opened.store.commit(changes).await.unwrap();
    let ended = Change::IngestionEnded {
        ingestion: key,
        at: at(9),
    };
    opened.store.commit(vec![ended.clone()]).await.unwrap();
    ingestion.runs.as_mut().unwrap().ended_at = Some(at(9));
    let found = opened.store.ended(ingestion.id).await.unwrap().unwrap();
    assert!(found == ingestion, "the ended ingestion differs");
}

#[tokio::test]
async fn a_change_that_comes_twice_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(dir.path()), |_| ()).unwrap();
    let mut history = History::new(7);
    let (change, ingestion) = submitted(&mut history);
    store.commit(vec![change]).await.unwrap();
    let at = Timestamp::from_micros(5);
    let moved = Change::BatchMoved {
        ingestion: ingestion.key(),
        batch: BatchIndex(0),
        run: BatchRun::first(at),
    };
    let rest = Change::RestEnded {
        ingestion: ingestion.key(),
        status: BatchStatus::Expired,
        at,
    };
    let ended = Change::IngestionEnded {
        ingestion: ingestion.key(),
        at,
    };
    for change in [&moved, &moved, &rest, &rest, &ended, &ended, &moved, &rest] {
        store.commit(vec![change.clone()]).await.unwrap();
    }
    let found = store.ended(ingestion.id).await.unwrap().unwrap();
    assert_eq!(found.started_count(), 1);
    drop(store);
    let opened = open(&settings(dir.path())).unwrap();
    assert!(opened.applied.lock().live.is_empty());
}

#[tokio::test]
async fn the_first_start_survives_a_second_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(dir.path()), |_| ()).unwrap();
    let mut history = History::new(8);
    let (change, ingestion) = submitted(&mut history);
    store.commit(vec![change]).await.unwrap();
    let at = Timestamp::from_micros;
    let first = BatchRun::first(at(10));
    let again = first.again(at(20));
    for run in [first, again.clone(), again.again(at(30))] {
        let moved = Change::BatchMoved {
            ingestion: ingestion.key(),
            batch: BatchIndex(0),
            run,
        };
        store.commit(vec![moved]).await.unwrap();
    }
    drop(store);
    let opened = open(&settings(dir.path())).unwrap();
    let applied = opened.applied.lock();
    let found = &applied.live[&1];
    assert_eq!(found.started_at(), Some(at(10)));
    let run = found.run(BatchIndex(0)).unwrap();
    assert_eq!((run.attempt, run.triggered_at), (3, at(30)));
}

#[tokio::test]
async fn a_closed_store_refuses_writes_and_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let mut history = History::new(9);
    let (change, _) = submitted(&mut history);
    opened.store.commit(vec![change.clone()]).await.unwrap();
    opened.store.close().await;
    opened.store.close().await;
    let refused = opened.store.commit(vec![change]).await;
    assert_eq!(refused, Err(StoreError::Closed));
    let at = Timestamp::EPOCH;
    assert_eq!(opened.store.prune(at, at).await, Err(StoreError::Closed));
    // The old handle is still there, and does not keep the directory.
    let again = open(&settings(dir.path())).unwrap();
    assert_eq!(again.applied.lock().live, history.state.live);
    assert_eq!(again.store.state(), StoreState::Ok);
    let log = dir.path().join("tollgate.db-wal");
    assert!(!log.exists() || log.metadata().unwrap().len() == 0);
}

#[tokio::test]
async fn an_unknown_ingestion_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&settings(dir.path())).unwrap();
    let id = IngestionId::new(Uuid::from_u128(5));
    assert_eq!(opened.store.ended(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_second_opening_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("a/b");
    let opened = open(&settings(&nested)).unwrap();
    let refused = Store::open(&settings(&nested), |_| ()).err().unwrap().0;
    assert!(refused.contains("a/b is in use by another"), "{refused}");
    assert_eq!(refused.lines().count(), 1);
    drop(opened);
    open(&settings(&nested)).unwrap();
}
