//! Compares what is derived from the events with the events.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::Connection;

use super::Embedded;
use super::events::EventState;
use super::events::page::blocks_after;
use super::events::spent;
use super::fault::Fault;
use super::meta::{Meta, TABLES};
use super::seen::Entry;
use crate::model::event::Sequence;
use crate::rollups::{Bounds, Facts, Rollups};
use crate::store::arrivals::Arrivals;
use crate::store::error::StoreError;
use crate::store::{Check, Verified};

impl Embedded {
    pub(in crate::store) async fn verify(&self) -> Result<Verified, StoreError> {
        let last = *self.events.last.borrow();
        let state = Arc::clone(&self.events);
        let reading = self.readers.read(move |db| Reading::of(db, &state)).await?;
        if *self.events.last.borrow() != last {
            return Err(StoreError::Busy);
        }
        self.events.rollups.counted(last).await?;
        let state = Arc::clone(&self.events);
        let compared = tokio::task::spawn_blocking(move || {
            state.rollups.as_they_are(|it| reading.compare(it))
        });
        compared.await.map_err(|_| StoreError::Closed)
    }
}

/// What is found by reading every event, and what remains of erased ones.
struct Reading {
    rollups: Rollups,
    /// As they were counted when they came.
    accepted: u64,
    events: u64,
    erased: u64,
    /// Identities that the index knows, with the same first event.
    known: u64,
    arrivals: Arrivals,
    /// Erased events whose arrivals were not kept yet by the version that erased them.
    unnumbered: u64,
}

impl Reading {
    fn of(db: &Connection, state: &EventState) -> Result<Self, Fault> {
        let db = db.unchecked_transaction()?;
        let meta = Meta::load(&db, TABLES)?;
        let mut reading = Self {
            rollups: Rollups::new(Bounds::default()),
            accepted: meta.events.accepted,
            events: 0,
            erased: 0,
            known: 0,
            arrivals: Arrivals::default(),
            unnumbered: 0,
        };
        let mut unread = None;
        blocks_after(&db, Sequence(0), |events| {
            let facts = Facts::of(state.user_key, events.iter().map(|(_, event)| event));
            reading.rollups.add(&facts);
            reading.events += events.len() as u64;
            for (sequence, event) in events {
                reading.arrivals.note(*sequence);
                if let Err(error) = reading.look_up(state, state.key.of(event)) {
                    unread = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        spent::facts_after(&db, &meta, Sequence(0), |arrivals, facts| {
            reading.rollups.add(facts);
            for arrival in arrivals {
                reading.arrivals.note(*arrival);
            }
        })?;
        let numbered = reading.arrivals.noted() - reading.events;
        spent::each_after(&db, &meta, 0, |identities| {
            reading.erased += identities.len() as u64;
            for identity in identities {
                if let Err(error) = reading.look_up(state, *identity) {
                    unread = Some(error);
                }
            }
        })?;
        if let Some(error) = unread {
            let sentence = format!("the identity index can't be read: {error}");
            return Err(Fault::Damaged(sentence));
        }
        reading.unnumbered = reading.erased.saturating_sub(numbered);
        Ok(reading)
    }

    fn look_up(&mut self, state: &EventState, (identity, first): Entry) -> io::Result<()> {
        self.known += u64::from(state.seen.find(identity)? == Some(first));
        Ok(())
    }

    fn compare(&self, rollups: &Rollups) -> Verified {
        let there = self.events + self.erased;
        let check = |what, expected, found| Check {
            what,
            expected,
            found,
        };
        Verified {
            checks: vec![
                check("events, erased ones included", self.accepted, there),
                check(
                    "arrivals that are there once",
                    self.accepted - self.unnumbered.min(self.accepted),
                    self.arrivals.once(),
                ),
                check("identities that are known as spent", there, self.known),
                check(
                    "days that don't follow from their hours",
                    0,
                    rollups.wrong_days(),
                ),
            ],
            tenants: rollups.compare(&self.rollups),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rollups::tests::{append, event, open};
    use super::*;
    use crate::model::event::EventFilter;
    use crate::store::rollups::FollowLimits;

    fn wrong(verified: &Verified) -> Vec<&str> {
        let checks = verified.checks.iter().filter(|it| it.expected != it.found);
        let tenants = verified.tenants.iter().filter(|it| !it.is_same());
        checks
            .map(|it| it.what)
            .chain(tenants.map(|it| it.tenant.as_str()))
            .collect()
    }

    #[tokio::test]
    async fn a_sound_store_is_found_sound_and_its_numbers_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), FollowLimits::default());
        assert_eq!(wrong(&store.verify().await.unwrap()), [""; 0]);
        append(&store, 0..700).await;
        append(&store, 600..800).await;
        let filter = EventFilter {
            user: Some("u3".to_owned()),
            ..EventFilter::default()
        };
        let erased = store.erase(filter, Sequence(u64::MAX)).await.unwrap();
        assert!(erased > 0);
        let verified = store.verify().await.unwrap();
        assert_eq!(wrong(&verified), [""; 0]);
        let found: Vec<u64> = verified.checks.iter().map(|it| it.found).collect();
        assert_eq!(found, [800, 800, 800, 0]);
        let tenant = verified.tenants.first().unwrap();
        assert_eq!((tenant.events, tenant.users), ((800, 800), (7, 7)));
    }

    #[tokio::test]
    async fn rollups_that_know_an_event_too_many_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), FollowLimits::default());
        append(&store, 0..100).await;
        let state = &store.events;
        state.rollups.counted(Sequence(100)).await.unwrap();
        let facts = Facts::of(state.user_key, [&event(1_000)]);
        state.rollups.miscount(&facts);
        assert_eq!(wrong(&store.verify().await.unwrap()), ["t"]);
    }
}
