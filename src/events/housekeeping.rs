//! What is done with events later: small blocks are merged, old events of some tenants are erased.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Clock;
use crate::model::event::{EventFilter, EventTime};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError};

/// How often it is looked for blocks to merge.
const EVERY: Duration = Duration::from_secs(1);

/// After how many such rounds old events are looked for.
const ERASE_AFTER: u32 = 60;

/// Runs until the store is closed. May be dropped at any time.
pub(super) async fn run(store: Store, clock: Clock, retention: BTreeMap<String, Duration>) {
    let mut told = false;
    for round in 0_u32.. {
        match tidy(&store, &clock, &retention, round).await {
            Ok(()) => told = false,
            Err(StoreError::Closed) => return,
            Err(error) if !told => {
                tracing::warn!("events can't be tidied up, trying again: {error}");
                told = true;
            }
            Err(_) => {}
        }
        clock.sleep(EVERY).await;
    }
}

async fn tidy(
    store: &Store,
    clock: &Clock,
    retention: &BTreeMap<String, Duration>,
    round: u32,
) -> Result<(), StoreError> {
    while store.pack().await? {}
    if round.is_multiple_of(ERASE_AFTER) {
        erase_old(store, retention, clock.now().wall).await?;
    }
    Ok(())
}

async fn erase_old(
    store: &Store,
    retention: &BTreeMap<String, Duration>,
    now: Timestamp,
) -> Result<(), StoreError> {
    for (tenant, age) in retention {
        let before = EventTime {
            micros: now.minus(*age),
            nanos: 0,
        };
        let old = EventFilter {
            tenant: Some(tenant.clone()),
            to: Some(before),
            ..EventFilter::default()
        };
        let erased = store.erase(old).await?;
        if erased > 0 {
            tracing::info!(tenant, erased, "events past their retention were erased");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Event, Order, PageQuery, Receipt};
    use crate::store::StoreSettings;

    fn event(tenant: &'static str, second: i64) -> Event<'static> {
        Event {
            tenant: tenant.into(),
            topic: "".into(),
            id: second.to_string().into(),
            time: EventTime {
                micros: Timestamp::from_micros(second * 1_000_000),
                nanos: 0,
            },
            source: None,
            event_type: None,
            user: None,
            payload: "{}".into(),
            extra: "".into(),
        }
    }

    #[tokio::test]
    async fn only_old_events_of_tenants_with_a_retention_go() {
        let dir = tempfile::tempdir().unwrap();
        let settings = StoreSettings {
            dir: dir.path().to_owned(),
            accept_loss: false,
        };
        let store = Store::open(&settings, |_| ()).unwrap();
        let events = [event("a", 9), event("a", 10), event("b", 9)];
        let prepared = store.prepare(&events, Vec::new()).unwrap();
        store.append(prepared).await.unwrap();
        let retention = BTreeMap::from([("a".to_owned(), Duration::from_secs(90))]);
        let now = Timestamp::from_micros(100_000_000);
        erase_old(&store, &retention, now).await.unwrap();
        let query = PageQuery {
            filter: EventFilter::default(),
            order: Order::Ascending,
            after: None,
            skip: 0,
            limit: 10,
        };
        let left = store.page(query).await.unwrap().events;
        let left: Vec<_> = left.into_iter().map(|stored| stored.event).collect();
        assert_eq!(left, [event("b", 9), event("a", 10)]);
        let prepared = store.prepare(&events[..1], Vec::new()).unwrap();
        let receipts = store.append(prepared).await.unwrap();
        assert_eq!(receipts, [Receipt::Duplicate { conflicting: false }]);
    }
}
