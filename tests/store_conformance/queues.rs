//! Nodes with different queues over one database.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::events::EventsSettings;
use tollgate::jobs::{Jobs, JobsSettings};
use tollgate::model::change::Change;
use tollgate::model::queue::{QueueId, QueueName, QueueSettings};
use tollgate::model::time::Timestamp;
use tollgate::store::StoreError;
use tollgate::telemetry::Metrics;

use crate::Place;
use crate::backing::psql;

fn name(name: &str) -> QueueName {
    QueueName::try_from(name.to_owned()).unwrap()
}

fn configured(queue: u16, queue_name: &str, last_slot: Option<Timestamp>) -> Vec<Change> {
    vec![Change::QueueConfigured {
        queue: QueueId(queue),
        name: name(queue_name),
        last_slot,
    }]
}

#[tokio::test]
async fn a_number_is_of_one_queue_and_a_queue_has_one_number() {
    let Some(place) = Place::database() else {
        return;
    };
    let (one, other) = (place.open().await, place.open().await);
    let at = Some(Timestamp::from_micros(7));
    one.store.commit(configured(0, "a", at)).await.unwrap();
    for (queue, name) in [(0, "b"), (1, "a")] {
        let refused = other.store.commit(configured(queue, name, None)).await;
        assert!(
            matches!(refused, Err(StoreError::Refused(_))),
            "{refused:?}"
        );
    }
    // It is there already, as it shall be.
    other.store.commit(configured(0, "a", None)).await.unwrap();
    other.store.commit(configured(1, "b", None)).await.unwrap();
    one.store.sync().await.unwrap();
    let queues = BTreeMap::from([(0, (name("a"), at)), (1, (name("b"), None))]);
    assert_eq!(one.applied.lock().queues, queues);
    assert_eq!(other.applied.lock().queues, queues);
    drop((one, other));
    assert_eq!(place.open().await.applied.lock().queues, queues);
}

/// The commits that record queues wait for each other, longer than it takes to number them.
const SLOW: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep(0.5); RETURN new; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON queue FOR EACH STATEMENT EXECUTE FUNCTION slow();";

#[tokio::test]
async fn nodes_that_start_at_once_with_different_queues_give_each_its_own_number() {
    let Some(place) = Place::database() else {
        return;
    };
    let Place::Database(shared, _) = &place else {
        panic!("it is one");
    };
    drop(place.open().await);
    psql(&place.url(), SLOW).unwrap();
    let mut nodes = JoinSet::new();
    for own in ["a", "b", "c"] {
        let shared = shared.clone();
        nodes.spawn(async move {
            let queues = ["default", own].map(|it| (name(it), QueueSettings::default()));
            let settings = JobsSettings {
                queues: queues.into(),
                keep_ended: Duration::from_mins(1),
                retention: Duration::from_hours(1),
                events: EventsSettings::default(),
            };
            let (clock, metrics) = (Clock::system(), Metrics::new());
            let jobs = Jobs::open_shared(settings, &shared, clock, metrics).await;
            (own, jobs.unwrap())
        });
    }
    let nodes = nodes.join_all().await;
    let sql = "SELECT string_agg(name || ' ' || id, ', ' ORDER BY name) FROM queue";
    let mut numbers = Vec::new();
    for (own, jobs) in &nodes {
        for name in ["default", own] {
            numbers.push(format!("{name} {}", jobs.queue(name).unwrap().0));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(psql(&place.url(), sql).unwrap(), numbers.join(", "));
    assert_eq!(numbers.len(), 4);
    for (_, jobs) in nodes {
        jobs.stop(Duration::ZERO, Duration::from_mins(1)).await;
    }
}
