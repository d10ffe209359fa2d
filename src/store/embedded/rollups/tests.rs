use std::fs;
use std::time::Duration;

use tokio::sync::watch;

use super::super::{Embedded, Limits};
use super::*;
use crate::model::event::{Event, EventTime};
use crate::rollups::{Filter, Rollups, Span};
use crate::store::StoreSettings;
use crate::store::rollups::{FILE, FollowLimits, Follower, UNFINISHED};

pub(in super::super) fn open(dir: &Path, rollups: FollowLimits) -> Embedded {
    let settings = StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    };
    let limits = Limits {
        rollups,
        ..Limits::default()
    };
    Embedded::open_with(&settings, limits, |_| ()).unwrap()
}

pub(in super::super) fn event(id: u32) -> Event<'static> {
    Event {
        tenant: "t".into(),
        topic: "".into(),
        id: id.to_string().into(),
        time: EventTime::default(),
        source: None,
        event_type: Some("click".into()),
        user: Some(format!("u{}", id % 7).into()),
        payload: "{}".into(),
        extra: "".into(),
    }
}

pub(in super::super) async fn append(store: &Store, ids: std::ops::Range<u32>) {
    let events: Vec<_> = ids.map(event).collect();
    let prepared = store.prepare(&events, Vec::new(), Vec::new()).unwrap();
    store.append(prepared).await.unwrap();
}

type Store = Embedded;

/// Without a store.
fn start(
    dir: &Path,
    key: Key,
    last: watch::Receiver<Sequence>,
    limits: FollowLimits,
) -> std::io::Result<Follower> {
    Follower::start(
        dir,
        key.of_checkpoints(),
        last,
        limits,
        Blocks::new(dir, key),
    )
}

/// Of all events: how many, and whose.
async fn counted(rollups: &Follower) -> Result<(u64, u64), StoreError> {
    let top = |rollups: &Rollups| rollups.top_types(&Filter::default(), Span::ALL, 10);
    let top = rollups.ask(top).await?.unwrap();
    Ok(top.first().map_or((0, 0), |it| (it.count, it.unique_users)))
}

const EAGER: fn() -> FollowLimits = || FollowLimits {
    checkpoint: 9,
    last_checkpoint: 0,
    ..FollowLimits::default()
};

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

#[test]
fn what_the_feed_has_no_room_for_is_read_from_the_blocks() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let limits = FollowLimits {
        feed: 2,
        ..FollowLimits::default()
    };
    let store = open(dir.path(), limits);
    runtime.block_on(append(&store, 0..1));
    let held = store.events.rollups.hold();
    for id in 1..50 {
        runtime.block_on(append(&store, id..id + 1));
    }
    drop(held);
    let count = || runtime.block_on(counted(&store.events.rollups));
    assert_eq!(count(), Ok((50, 7)));
    runtime.block_on(append(&store, 50..60));
    assert_eq!(count(), Ok((60, 7)));
}

#[test]
fn an_answer_does_not_wait_for_ever() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let limits = FollowLimits {
        patience: Duration::from_millis(1),
        ..FollowLimits::default()
    };
    let store = open(dir.path(), limits);
    let held = store.events.rollups.hold();
    runtime.block_on(append(&store, 0..1));
    let answer = runtime.block_on(counted(&store.events.rollups));
    assert_eq!(answer, Err(StoreError::Behind));
    drop(held);
}

/// A directory with the checkpoint of 30 events, and those.
async fn with_checkpoint() -> (tempfile::TempDir, Key) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), EAGER());
    append(&store, 0..30).await;
    assert_eq!(counted(&store.events.rollups).await, Ok((30, 7)));
    store.close().await;
    assert!(dir.path().join(FILE).exists());
    assert!(!dir.path().join(UNFINISHED).exists());
    (dir, store.events.key)
}

#[tokio::test]
async fn a_checkpoint_is_gone_on_from() {
    let (dir, key) = with_checkpoint().await;
    // Without the store there is nothing else that it could know.
    let alone = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join(FILE), alone.path().join(FILE)).unwrap();
    let (_last, receiver) = watch::channel(Sequence(30));
    let follower = start(alone.path(), key, receiver, EAGER()).unwrap();
    assert_eq!(counted(&follower).await, Ok((30, 7)));
    follower.close();
    // And with it, what came later is counted once.
    let store = open(dir.path(), EAGER());
    append(&store, 20..40).await;
    assert_eq!(counted(&store.events.rollups).await, Ok((40, 7)));
}

#[tokio::test]
async fn a_checkpoint_that_knows_more_than_the_store_is_removed() {
    let (dir, key) = with_checkpoint().await;
    let (_last, receiver) = watch::channel(Sequence(29));
    let follower = start(dir.path(), key, receiver, EAGER()).unwrap();
    assert_eq!(
        counted(&follower).await,
        Ok((30, 7)),
        "read from the blocks"
    );
    follower.close();
    let path = dir.path().join(FILE);
    let rewritten = fs::read(&path).unwrap();
    assert!(!rewritten.is_empty(), "and written anew");
}

#[tokio::test]
async fn a_checkpoint_that_is_cut_or_foreign_is_not_used() {
    let (dir, key) = with_checkpoint().await;
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for bytes in [&whole[..whole.len() - 1], &[], flipped.as_slice()] {
        fs::write(&path, bytes).unwrap();
        let store = open(dir.path(), FollowLimits::default());
        assert_eq!(counted(&store.events.rollups).await, Ok((30, 7)));
        store.close().await;
    }
    fs::write(&path, &whole).unwrap();
    let alone = tempfile::tempdir().unwrap();
    fs::copy(&path, alone.path().join(FILE)).unwrap();
    let (_last, receiver) = watch::channel(Sequence(30));
    let foreign = Key([!key.0[0]; 16]);
    let follower = start(alone.path(), foreign, receiver, EAGER()).unwrap();
    let refused = counted(&follower).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    follower.close();
}

#[tokio::test]
async fn erased_events_are_counted_when_everything_is_counted_anew() {
    let (dir, _) = with_checkpoint().await;
    let store = open(dir.path(), FollowLimits::default());
    let filter = crate::model::event::EventFilter {
        user: Some("u3".to_owned()),
        ..Default::default()
    };
    assert_eq!(store.erase(filter, Sequence(u64::MAX)).await, Ok(4));
    store.close().await;
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let store = open(dir.path(), FollowLimits::default());
    assert_eq!(counted(&store.events.rollups).await, Ok((30, 7)));
}
