//! Text that PostgreSQL has no place for, in the jobs of a directory.

use tollgate::model::batch::{BatchRun, IdFailure};
use tollgate::model::change::Change;
use tollgate::model::id::{Arrival, BatchIndex, IngestionId};
use tollgate::model::ingestion::{Extras, Ingestion};
use tollgate::model::priority::Priority;
use tollgate::model::queue::{QueueId, QueueName};
use tollgate::model::time::Timestamp;
use tollgate::store::{Store, StoreSettings};
use uuid::Uuid;

use crate::backing::{database, psql};
use crate::{get, home, migrate, setup};

/// An early version took any URL that its parser did.
async fn write(dir: std::path::PathBuf, id: Uuid) {
    let settings = StoreSettings {
        dir,
        accept_loss: false,
    };
    let store = Store::open(&settings, drop).unwrap();
    let at = Timestamp::parse("2026-11-21T12:00:00Z").unwrap();
    let ingestion = Ingestion {
        id: IngestionId::new(id),
        arrival: Arrival(1),
        created_at: at,
        ids: [1].into(),
        extras: Some(Box::new(Extras {
            callback_url: Some("http://127.0.0.1:9/a\0b\u{1}c".into()),
            ..Extras::default()
        })),
        runs: None,
        queue: QueueId(0),
        batch_size: 3.try_into().unwrap(),
        priority: Priority::Low,
    };
    let key = ingestion.key();
    let changes = [
        Change::QueueConfigured {
            queue: QueueId(0),
            name: QueueName::try_from("stuck".to_owned()).unwrap(),
            last_slot: None,
        },
        Change::Submitted {
            ingestion,
            idempotency: None,
        },
        Change::BatchMoved {
            ingestion: key,
            batch: BatchIndex(0),
            run: BatchRun {
                failures: vec![IdFailure::new(0, "no\0 such".to_owned())],
                ..BatchRun::first(at)
            },
        },
    ];
    for change in changes {
        store.commit(vec![change]).await.unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn jobs_with_any_text_are_moved() {
    let Some(url) = database() else { return };
    let home = tempfile::tempdir().unwrap();
    let setup = setup(home.path());
    let id = Uuid::from_u128(7);
    write(setup.data_dir(), id).await;
    let output = migrate(home.path(), &url, &[]);
    assert!(output.status.success(), "{}", home::err(&output));
    let stored = "SELECT callback_url = E'http://127.0.0.1:9/a\\x010b\\x011c' FROM ingestion";
    assert_eq!(psql(&url, stored).unwrap(), "t");
    let server = setup.with("TOLLGATE_STORE__URL", &url).start();
    let found = get(&server, &format!("/status/{id}"));
    assert_eq!(
        found["batches"][0]["error"]["ids"][0]["reason"], "no\0 such",
        "{found}"
    );
}
