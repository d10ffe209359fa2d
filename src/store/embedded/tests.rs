//! What needs a look inside: bounds, groups, failures, migration.

use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;

use uuid::Uuid;

use super::*;
use crate::model::batch::BatchRun;
use crate::model::change::IdempotencyRecord;
use crate::model::id::{Arrival, BatchIndex};
use crate::model::priority::Priority;
use crate::model::queue::QueueId;

fn settings(dir: &Path) -> StoreSettings {
    StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    }
}

fn ingestion(number: u128, ids: i64) -> Ingestion {
    Ingestion {
        id: IngestionId::new(Uuid::from_u128(number)),
        arrival: Arrival(0),
        created_at: Timestamp::EPOCH,
        // Wide ids, so that they take room.
        ids: (0..ids)
            .map(|id| id.wrapping_mul(0x1234_5678_9abc_def1))
            .collect(),
        extras: None,
        runs: None,
        queue: QueueId(0),
        batch_size: NonZeroU16::new(3).unwrap(),
        priority: Priority::Low,
    }
}

fn submission(number: u128, ids: i64) -> Vec<Change> {
    vec![Change::Submitted {
        ingestion: ingestion(number, ids),
        idempotency: None,
    }]
}

/// Polls once, so that a commit is on its way.
async fn start<F: Future<Output = Result<(), StoreError>>>(future: &mut Pin<Box<F>>) {
    let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
    assert!(polled.await.is_pending());
}

/// A store whose `apply` says how many changes it got, and then waits to be let go on.
fn gated(dir: &Path, limits: Limits) -> (Embedded, Receiver<usize>, Sender<()>) {
    let (says, said) = channel();
    let (release, gate) = channel();
    let store = Embedded::open_with(&settings(dir), limits, move |changes| {
        if !changes.is_empty() {
            says.send(changes.len()).unwrap();
            gate.recv().unwrap();
        }
    });
    (store.unwrap(), said, release)
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_what_waits_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        queue: 3,
        ..Limits::default()
    };
    let (store, said, release) = gated(dir.path(), limits);
    let mut first = Box::pin(store.commit(submission(0, 3)));
    start(&mut first).await;
    assert_eq!(said.recv(), Ok(1));
    let mut waiting: Vec<_> = (1..4)
        .map(|number| Box::pin(store.commit(submission(number, 3))))
        .collect();
    for commit in &mut waiting {
        start(commit).await;
    }
    let refused = store.commit(submission(4, 3)).await;
    assert_eq!(refused, Err(StoreError::Busy));
    let at = Timestamp::EPOCH;
    assert_eq!(store.prune(at, at).await, Err(StoreError::Busy));
    release.send(()).unwrap();
    release.send(()).unwrap();
    first.await.unwrap();
    for commit in waiting {
        commit.await.unwrap();
    }
    assert_eq!(said.recv(), Ok(3), "one group of all that waited");
}

#[tokio::test]
async fn the_ids_that_wait_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        waiting: 10_000,
        ..Limits::default()
    };
    let (store, said, release) = gated(dir.path(), limits);
    let mut first = Box::pin(store.commit(submission(0, 3)));
    start(&mut first).await;
    assert_eq!(said.recv(), Ok(1));
    let mut second = Box::pin(store.commit(submission(1, 1000)));
    start(&mut second).await;
    let refused = store.commit(submission(2, 1000)).await;
    assert_eq!(refused, Err(StoreError::Busy));
    release.send(()).unwrap();
    release.send(()).unwrap();
    first.await.unwrap();
    second.await.unwrap();
    release.send(()).unwrap();
    store.commit(submission(3, 1000)).await.unwrap();
}

#[tokio::test]
async fn a_group_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut limits = Limits::default();
    limits.group.commits = 4;
    limits.group.bytes = 100_000;
    let (store, said, release) = gated(dir.path(), limits);
    // One alone; then four by their number; then two by their size, and the last.
    let sizes = [3, 3, 3, 3, 3, 3, 20_000, 3];
    let mut commits: Vec<_> = (0..)
        .zip(sizes)
        .map(|(number, ids)| Box::pin(store.commit(submission(number, ids))))
        .collect();
    start(&mut commits[0]).await;
    assert_eq!(said.recv(), Ok(1));
    for commit in &mut commits[1..] {
        start(commit).await;
    }
    for group in [4, 2, 1] {
        release.send(()).unwrap();
        assert_eq!(said.recv(), Ok(group));
    }
    release.send(()).unwrap();
    for commit in commits {
        commit.await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_in_apply_answers_everyone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&settings(dir.path()), |changes| {
        assert!(changes.is_empty(), "on purpose");
    });
    let store = store.unwrap();
    let failed = |result| matches!(result, Err(StoreError::Failed(_)));
    assert!(failed(store.commit(submission(1, 3)).await));
    assert!(failed(store.commit(submission(2, 3)).await));
    assert!(matches!(store.state(), StoreState::Failed(_)));
    store.close().await;
}

#[tokio::test]
async fn a_writer_that_hangs_keeps_nobody_for_ever() {
    let limits = Limits {
        leave: Duration::from_millis(10),
        ..Limits::default()
    };
    for closing in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, said, release) = gated(dir.path(), limits);
        let mut commit = Box::pin(store.commit(submission(1, 3)));
        start(&mut commit).await;
        assert_eq!(said.recv(), Ok(1));
        drop(commit);
        if closing {
            let mut close = Box::pin(async {
                store.close().await;
                Ok(())
            });
            start(&mut close).await;
        }
        drop(store);
        release.send(()).unwrap();
        // It ends by itself when it can.
        while DirLock::take(dir.path()).is_err() {
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn the_log_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        log: LogLimits {
            start: 64 * 1024,
            finish: 16 * 1024,
            bound: 256 * 1024,
        },
        ..Limits::default()
    };
    let store = Embedded::open_with(&settings(dir.path()), limits, |_| ()).unwrap();
    for number in 0..150 {
        store.commit(submission(number, 1000)).await.unwrap();
    }
    // Three pages or so a commit: without checkpoints it would be ten times the bound.
    let log = fs::metadata(dir.path().join(LOG)).unwrap().len();
    assert!(log < 256 * 1024 + 128 * 1024, "{log} bytes");
    store.close().await;
    assert_eq!(store.state(), StoreState::Ok);
}

/// A writer without its thread.
fn writer(dir: &Path) -> Writer<impl FnMut(Vec<Change>)> {
    let lock = DirLock::take(dir).unwrap();
    schema::create(dir).unwrap();
    let shared = Arc::new(Shared::new());
    let path = dir.join(DATABASE);
    let db = schema::open_writer(&path).unwrap();
    let mut meta = Meta::default();
    Writer {
        events: Arc::new(EventState::open(dir, &db, &mut meta, FollowLimits::default()).unwrap()),
        db,
        meta,
        witness: Witness::set(dir, 0).unwrap(),
        apply: |_| (),
        limits: GroupLimits::default(),
        digest: Digest::default(),
        checkpointer: Checkpointer::start(path, LogLimits::default(), Arc::clone(&shared)).unwrap(),
        shared,
        lock,
    }
}

/// Has the writer commit `changes` on this thread.
fn commit_on(
    writer: &mut Writer<impl FnMut(Vec<Change>)>,
    changes: Vec<Change>,
) -> Result<(), StoreError> {
    let (reply, mut answer) = oneshot::channel();
    writer.commit(vec![Commit {
        changes,
        events: None,
        bytes: 0,
        reply,
    }]);
    answer.try_recv().unwrap()
}

#[test]
fn a_full_disk_passes_and_burns_no_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path());
    let shared = Arc::clone(&writer.shared);
    commit_on(&mut writer, submission(1, 3)).unwrap();
    let limit = |writer: &Writer<_>, pages: i64| {
        let set = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let db = &writer.db;
        db.pragma_update_and_check(None, "max_page_count", pages, set)
            .unwrap();
    };
    limit(&writer, 1);
    let full = commit_on(&mut writer, submission(2, 10_000));
    assert_eq!(
        (full, shared.state()),
        (Err(StoreError::Full), StoreState::Full)
    );
    limit(&writer, 1_000_000);
    commit_on(&mut writer, submission(3, 10_000)).unwrap();
    assert_eq!(shared.state(), StoreState::Ok);
    assert_eq!((writer.meta.commits, writer.meta.last_arrival), (2, 2));
    drop(writer);
    let store = Embedded::open(&settings(dir.path()), |_| ());
    assert!(store.is_ok());
}

#[test]
fn any_other_failed_write_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path());
    commit_on(&mut writer, submission(1, 3)).unwrap();
    writer.db.pragma_update(None, "query_only", true).unwrap();
    let failed = commit_on(&mut writer, submission(2, 3)).unwrap_err();
    assert!(matches!(failed, StoreError::Failed(_)));
    writer.db.pragma_update(None, "query_only", false).unwrap();
    assert_eq!(commit_on(&mut writer, submission(3, 3)), Err(failed));
    assert_eq!(writer.meta.commits, 1);
}

#[test]
fn a_batch_that_skips_another_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path());
    commit_on(&mut writer, submission(1, 30)).unwrap();
    let mut first = ingestion(1, 30);
    first.arrival = Arrival(1);
    let skipping = Change::BatchMoved {
        ingestion: first.key(),
        batch: BatchIndex(1),
        run: BatchRun::first(Timestamp::EPOCH),
    };
    let failed = commit_on(&mut writer, vec![skipping]).unwrap_err();
    assert!(
        failed.to_string().contains("batch 1 of ingestion 1"),
        "{failed}"
    );
}

#[tokio::test]
async fn an_older_directory_is_migrated_with_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    schema::tests::create_format(dir.path(), 1);
    {
        let db = schema::open_writer(&dir.path().join(DATABASE)).unwrap();
        let mut meta = Meta::load(&db, 4).unwrap();
        for number in 1..4 {
            let mut change = submission(number, 5).remove(0);
            jobs::write(&db, &mut meta, &mut Digest::default(), &mut change).unwrap();
        }
        meta.commits = 1;
        meta.save(&db, 4).unwrap();
        Witness::set(dir.path(), 1).unwrap();
    }
    for round in 0..2_usize {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let store = Embedded::open(&settings(dir.path()), move |changes| {
            sink.lock().extend(changes);
        });
        let store = store.unwrap();
        assert_eq!(seen.lock().len(), 3 + round);
        let kept = store.kept_answer(1, Timestamp::EPOCH).await.unwrap();
        assert_eq!(kept.map(|kept| kept.body), (round == 1).then_some(2));
        let change = Change::Submitted {
            ingestion: ingestion(7, 3),
            idempotency: Some(IdempotencyRecord {
                key: 1,
                body: 2,
                expires_at: Timestamp::from_micros(9),
            }),
        };
        store.commit(vec![change]).await.unwrap();
    }
}

#[test]
fn a_newer_directory_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Embedded::open(&settings(dir.path()), |_| ()).unwrap());
    let path = dir.path().join(DATABASE);
    let newer = FORMAT + 1;
    rusqlite::Connection::open(&path)
        .and_then(|db| db.execute_batch(&format!("PRAGMA user_version = {newer}")))
        .unwrap();
    let before = fs::read(&path).unwrap();
    let refusal = Embedded::open(&settings(dir.path()), |_| ())
        .err()
        .unwrap()
        .0;
    let expected = format!("tollgate.db has format {newer}");
    assert!(refusal.contains(&expected), "{refusal}");
    assert_eq!(fs::read(&path).unwrap(), before);
}
