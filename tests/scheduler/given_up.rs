//! A batch whose retries are used up, in the lives of a process.

use tollgate::model::batch::{BatchRun, BatchStatus, IdFailure};
use tollgate::model::change::Change;
use tollgate::model::event::{EventFilter, Order, PageQuery};
use tollgate::model::id::{Arrival, BatchIndex};
use tollgate::model::ingestion::Ingestion;
use tollgate::model::queue::QueueId;
use tollgate::store::Store;
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn one_that_was_given_up_before_a_crash_is_not_tried_again_and_has_its_results() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let at = clock_now(&clock);
    let ingestion = Ingestion {
        id: IngestionId::new(Uuid::from_u128(7)),
        arrival: Arrival(1),
        created_at: at,
        ids: [4, 5, 6].into(),
        extras: None,
        runs: None,
        queue: QueueId(0),
        batch_size: 3.try_into().unwrap(),
        priority: Priority::Low,
    };
    let key = ingestion.key();
    let given_up = BatchRun {
        attempt: 5,
        completed_at: Some(at),
        failures: vec![IdFailure::new(1, "no".to_owned())],
        ..BatchRun::first(at)
    };
    let changes = [
        Change::QueueConfigured {
            queue: QueueId(0),
            name: name("default"),
            last_slot: None,
        },
        Change::Submitted {
            ingestion,
            idempotency: None,
        },
        Change::BatchMoved {
            ingestion: key,
            batch: BatchIndex(0),
            run: given_up.clone(),
        },
    ];
    let store = StoreSettings {
        dir: dir.path().to_owned(),
        accept_loss: false,
    };
    let store = Store::open(&store, drop).unwrap();
    for change in changes {
        store.commit(vec![change]).await.unwrap();
    }
    store.close().await;
    drop(store);

    clock.advance(SECOND);
    let jobs = open(dir.path(), &clock).await;
    until(async || view(&jobs, key.id).await.ended_at.is_some()).await;
    let found = view(&jobs, key.id).await;
    let failed = BatchRun {
        status: BatchStatus::Failed,
        ..given_up
    };
    assert_eq!(found.batches[0].run, Some(failed));
    assert_eq!(found.ended_at, Some(clock_now(&clock)));
    let query = PageQuery {
        filter: EventFilter::default(),
        order: Order::Ascending,
        after: None,
        skip: 0,
        limit: 9,
    };
    let events = jobs.store().page(query).await.unwrap().events;
    let payloads: Vec<&str> = events.iter().map(|it| &*it.event.payload).collect();
    assert_eq!(payloads, [r#"{"error":"no","id":5}"#]);
}
