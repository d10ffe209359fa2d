//! Text of any kind: what one commit says is nobody else's fault.

use tokio::task::JoinSet;
use tollgate::model::batch::{BatchRun, BatchStatus, IdFailure};
use tollgate::model::change::Change;
use tollgate::model::id::BatchIndex;
use tollgate::model::ingestion::{Extras, Ingestion};
use tollgate::model::time::Timestamp;
use tollgate::store::{Store, StoreError};

use crate::Place;
use crate::backing::psql;
use crate::store_model::History;

/// How many are beside the one.
const OTHERS: usize = 50;

/// Every character that is special anywhere.
const TEXT: &str = "\0 \u{1} \u{1}0 \u{1}1 \\u0000 \" ' \u{7f} \u{85} \u{fffe} ü \u{10ffff}";

/// A submission that has these texts.
fn submission(history: &mut History, extras: Option<Extras>) -> Change {
    let mut change = history.submission();
    if let Change::Submitted {
        ingestion,
        idempotency,
    } = &mut change
    {
        ingestion.extras = extras.map(Box::new);
        *idempotency = None;
    }
    change
}

/// One among the others, all at once; what became of each, in their order.
async fn commit_all(store: &Store, changes: Vec<Change>) -> Vec<Result<(), StoreError>> {
    let mut tasks = JoinSet::new();
    for (place, change) in changes.into_iter().enumerate() {
        let store = store.clone();
        // A runtime of one thread polls all of them before the task that writes: they are one group.
        tasks.spawn(async move { (place, store.commit(vec![change]).await) });
    }
    let mut done = tasks.join_all().await;
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, done)| done).collect()
}

/// Every text that jobs have is taken as it is, and comes back so.
async fn takes_any_text(place: Place) {
    let opened = place.open().await;
    let mut history = History::new(1);
    let mut changes = Vec::new();
    for number in 0..=OTHERS {
        let extras = (number == OTHERS / 2).then(|| Extras {
            metadata: Some(TEXT.into()),
            callback_url: Some(TEXT.into()),
            deadline: None,
        });
        let change = submission(&mut history, extras);
        history.state.apply(&change);
        changes.push(change);
    }
    let done = commit_all(&opened.store, changes).await;
    assert_eq!(done, vec![Ok(()); OTHERS + 1]);
    assert_eq!(opened.applied.lock().live, history.state.live);

    // Two fail, and one of them has ended.
    let at = Timestamp::from_micros(5);
    let keys: Vec<_> = history.state.live.values().map(Ingestion::key).collect();
    for (place, status) in [(1, BatchStatus::Triggered), (2, BatchStatus::Failed)] {
        let run = BatchRun {
            status,
            failures: vec![IdFailure::new(0, TEXT.to_owned())],
            ..BatchRun::first(at)
        };
        let mut changes = vec![Change::BatchMoved {
            ingestion: keys[place],
            batch: BatchIndex(0),
            run,
        }];
        if status.has_ended() {
            changes.push(Change::IngestionEnded {
                ingestion: keys[place],
                at,
            });
        }
        for change in &changes {
            history.state.apply(change);
        }
        opened.store.commit(changes).await.unwrap();
    }
    drop(opened);
    let opened = place.open().await;
    assert_eq!(opened.applied.lock().live, history.state.live);
    let ended = opened.store.ended(keys[2].id).await.unwrap();
    assert_eq!(ended.as_ref(), Some(&history.state.ended[&3]));
}

#[tokio::test]
async fn a_store_takes_any_text() {
    takes_any_text(Place::directory()).await;
}

#[tokio::test]
async fn a_shared_store_takes_any_text() {
    if let Some(place) = Place::database() {
        takes_any_text(place).await;
    }
}

#[tokio::test]
async fn another_node_sees_any_text_as_it_was_sent() {
    let Some(place) = Place::database() else {
        return;
    };
    let (opened, other) = (place.open().await, place.open().await);
    let mut history = History::new(2);
    let extras = Extras {
        metadata: Some(TEXT.into()),
        callback_url: Some(TEXT.into()),
        deadline: None,
    };
    let change = submission(&mut history, Some(extras));
    history.state.apply(&change);
    let key = history.state.live[&1].key();
    let run = BatchRun {
        failures: vec![IdFailure::new(0, TEXT.to_owned())],
        ..BatchRun::first(Timestamp::EPOCH)
    };
    let failed = Change::BatchMoved {
        ingestion: key,
        batch: BatchIndex(0),
        run,
    };
    history.state.apply(&failed);
    for change in [change, failed] {
        opened.store.commit(vec![change]).await.unwrap();
    }
    other.store.sync().await.unwrap();
    assert_eq!(other.applied.lock().live, history.state.live);
}

/// Where an earlier version wrote a text as it is, the escape among it.
#[tokio::test]
async fn a_text_that_was_written_without_escapes_is_read() {
    let Some(place) = Place::database() else {
        return;
    };
    let mut history = History::new(3);
    let extras = Extras {
        callback_url: Some("http://h/\u{1}x".into()),
        ..Extras::default()
    };
    let change = submission(&mut history, Some(extras));
    history.state.apply(&change);
    let opened = place.open().await;
    opened.store.commit(vec![change]).await.unwrap();
    drop(opened);
    let plain = "UPDATE ingestion SET callback_url = E'http://h/\\x01x'";
    psql(&place.url(), plain).unwrap();
    let opened = place.open().await;
    assert_eq!(opened.applied.lock().live, history.state.live);
}

/// Whatever the database does not take.
const REFUSES: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF new.metadata IN ('22021', '23514') THEN RAISE 'no' USING ERRCODE = new.metadata; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON ingestion FOR EACH ROW EXECUTE FUNCTION refuse();";

#[tokio::test]
async fn what_the_database_does_not_take_fails_alone() {
    let Some(place) = Place::database() else {
        return;
    };
    let opened = place.open().await;
    psql(&place.url(), REFUSES).unwrap();
    let mut history = History::new(4);
    for state in ["22021", "23514"] {
        let mut changes = Vec::new();
        for number in 0..=OTHERS {
            let bad = number == OTHERS / 2;
            let extras = bad.then(|| Extras {
                metadata: Some(state.into()),
                ..Extras::default()
            });
            let arrivals = history.arrivals;
            let change = submission(&mut history, extras);
            if bad {
                // It never arrives.
                history.arrivals = arrivals;
            } else {
                history.state.apply(&change);
            }
            changes.push(change);
        }
        let done = commit_all(&opened.store, changes).await;
        for (number, done) in done.into_iter().enumerate() {
            let expected = if number == OTHERS / 2 {
                Err(StoreError::Refused("no".to_owned()))
            } else {
                Ok(())
            };
            assert_eq!(done, expected, "{state}: number {number}");
        }
        assert_eq!(opened.applied.lock().live, history.state.live);
    }
}
