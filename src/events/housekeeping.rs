//! What is done with events later: small blocks are merged, old events of some tenants are erased,
//! old events of all are moved to the cold tier, and messages are forgotten that the bus has done with.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Events;
use super::cold::{Cold, ColdError, Step};
use crate::clock::Clock;
use crate::model::bus::MessageName;
use crate::model::event::{EventFilter, EventTime};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError, Term};
use crate::telemetry::Metrics;

/// How often it is looked for blocks to merge.
const EVERY: Duration = Duration::from_secs(1);

/// After how many such rounds old events are looked for.
const ERASE_AFTER: u32 = 60;

/// After how many such rounds messages of the bus are forgotten that are not delivered any more.
const FORGET_AFTER: u32 = 10;

/// After how many such rounds a move to the cold tier that failed is tried again.
const MOVE_AFTER: u32 = 60;

/// Runs until the store is closed. May be dropped at any time.
pub(super) async fn run(events: Events) {
    let Events {
        store,
        clock,
        metrics,
        settings,
        bus,
        ..
    } = events;
    let mut forgotten = None;
    let cold = settings.cold;
    let cold = cold.map(|cold| Cold::new(store.clone(), cold, Term::NONE));
    let mut mover = cold.map(|cold| Mover::new(cold, metrics));
    let mut told = false;
    for round in 0_u32.. {
        let term = *store.term().borrow();
        let Some(term) = term else {
            // Another node does it.
            if let Some(mover) = &mover {
                mover.rest();
            }
            clock.sleep(EVERY).await;
            continue;
        };
        let tidied = async {
            if round.is_multiple_of(FORGET_AFTER) {
                forget(&store, bus.settled(), &mut forgotten).await?;
            }
            tidy(&store, &clock, &settings.retention, round).await
        };
        match tidied.await {
            Ok(()) => told = false,
            Err(StoreError::Closed) => return,
            Err(error) if !told => {
                tracing::warn!("events can't be tidied up, trying again: {error}");
                told = true;
            }
            Err(_) => {}
        }
        if let Some(mover) = &mut mover {
            mover.round(term, clock.now().wall).await;
        }
        clock.sleep(EVERY).await;
    }
}

/// Moves events to the cold tier, one part in a round.
pub(super) struct Mover {
    cold: Cold,
    metrics: Metrics,
    /// How many rounds to leave out.
    pause: u32,
    /// Whether the failure was told.
    told: bool,
}

impl Mover {
    pub(super) fn new(cold: Cold, metrics: Metrics) -> Self {
        Self {
            cold,
            metrics,
            pause: 0,
            told: false,
        }
    }

    /// Another node moves events, or nobody does: if that fails, it doesn't here.
    fn rest(&self) {
        self.metrics.set_cold_failing(false);
    }

    /// Moves a part as the leader of `term`.
    pub(super) async fn round(&mut self, term: Term, now: Timestamp) {
        if self.cold.term() != term {
            self.cold = self.cold.in_term(term);
            self.pause = 0;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        match self.cold.step(now).await {
            Ok(Step::Nothing) => {}
            Ok(Step::Moved(events)) => {
                tracing::info!(events, "events were moved to the cold tier");
                self.metrics.events_moved(events);
            }
            // The next round ends, or begins with the next term.
            Err(ColdError::Store(StoreError::Closed | StoreError::Deposed)) => return,
            Err(error) => {
                self.pause = MOVE_AFTER;
                self.metrics.set_cold_failing(true);
                if !self.told {
                    tracing::warn!("events can't be moved to the cold tier, trying again: {error}");
                    self.told = true;
                }
                return;
            }
        }
        self.metrics.set_cold_failing(false);
        self.told = false;
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

/// Forgets the messages up to this place, unless that was done: it is a write, also where nothing goes.
async fn forget(
    store: &Store,
    settled: Option<u64>,
    done: &mut Option<u64>,
) -> Result<(), StoreError> {
    let Some(place) = settled else { return Ok(()) };
    let stretch = MessageName::stretch_of(place);
    if *done != Some(stretch) {
        while store.forget_messages(place).await? > 0 {}
        *done = Some(stretch);
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
    use crate::model::event::{ColdSettings, Event, Order, PageQuery, Receipt};
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

    fn open(dir: &std::path::Path) -> Store {
        let settings = StoreSettings {
            dir: dir.to_owned(),
            accept_loss: false,
        };
        Store::open(&settings, |_| ()).unwrap()
    }

    #[tokio::test]
    async fn a_move_that_fails_is_seen_and_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("data"));
        let prepared = store.prepare(&[event("a", 9)], Vec::new()).unwrap();
        store.append(prepared).await.unwrap();
        // A file where the directory should be.
        let cold = ColdSettings {
            after: Duration::from_hours(24),
            dir: dir.path().join("cold"),
        };
        std::fs::write(&cold.dir, "").unwrap();
        let metrics = Metrics::new();
        let mut mover = Mover::new(Cold::new(store, cold, Term::NONE), metrics.clone());
        let shows = |line: &str| metrics.encode().lines().any(|it| it == line);
        assert!(shows("cold_tier_failing 0"));
        let now = Timestamp::from_micros(10 * 86_400_000_000);
        mover.round(Term::ONLY, now).await;
        assert!(shows("cold_tier_failing 1") && mover.told);
        std::fs::remove_file(dir.path().join("cold")).unwrap();
        for _ in 0..MOVE_AFTER {
            mover.round(Term::ONLY, now).await;
            assert!(shows("cold_tier_failing 1"), "it is left alone for a while");
        }
        mover.round(Term::ONLY, now).await;
        assert!(shows("cold_tier_failing 0") && !mover.told);
        assert!(shows("events_moved_total 1"));
    }

    #[tokio::test]
    async fn messages_that_the_bus_has_done_with_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let name = |place| MessageName {
            place,
            published: 0,
        };
        let names = vec![name(1), name(5_000), name(1_000_000)];
        let prepared = store.prepare_messages(&[event("a", 1)], Vec::new(), names.clone());
        store.append(prepared.unwrap()).await.unwrap();
        let known = async || store.known_messages(names.clone()).await.unwrap();
        let mut done = None;
        forget(&store, None, &mut done).await.unwrap();
        assert_eq!(known().await, names);
        forget(&store, Some(10_000), &mut done).await.unwrap();
        assert_eq!(known().await, [name(1_000_000)]);
        assert_eq!(done, Some(MessageName::stretch_of(10_000)));
        // Of a stream that was made anew.
        let prepared = store.prepare_messages(&[], Vec::new(), vec![name(2)]);
        store.append(prepared.unwrap()).await.unwrap();
        forget(&store, Some(10_001), &mut done).await.unwrap();
        assert_eq!(
            store.known_messages(vec![name(2)]).await.unwrap(),
            [name(2)]
        );
        forget(&store, Some(3_000), &mut done).await.unwrap();
        assert_eq!(store.known_messages(vec![name(2)]).await.unwrap(), []);
        assert_eq!(known().await, [name(1_000_000)]);
    }

    #[tokio::test]
    async fn only_old_events_of_tenants_with_a_retention_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
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
