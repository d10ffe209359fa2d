//! Compares what is derived from the events with the events, as of one commit.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::Postgres;
use super::super::connect::{Session, fault};
use super::super::time::At;
use super::facts::chunk_after;
use super::parts::parts_of;
use super::row::{COLUMNS, event};
use crate::model::event::{EventFilter, Sequence};
use crate::model::time::Timestamp;
use crate::rollups::{Bounds, Facts, Rollups, UserKey};
use crate::store::error::StoreError;
use crate::store::identity::{Entry, Key};
use crate::store::{Check, Verified};

/// How many events are looked up at once.
const CHUNK: usize = 4_096;

/// What is found by reading everything.
struct Reading {
    accepted: u64,
    erased: u64,
    events: u64,
    /// Events whose identity is spent, with the same first event.
    known: u64,
    identities: u64,
    /// What follows from the facts.
    facts: Rollups,
    /// What follows from the events: the same, unless some were erased.
    seen: Rollups,
}

impl Postgres {
    pub(in crate::store) async fn verify(&self) -> Result<Verified, StoreError> {
        self.sight.now().await?;
        let session = self.events.server.connect().await?;
        let begun = session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        begun.await.map_err(|error| fault(&error))?;
        let shared = &self.events.shared;
        let reading = read(&session, shared.key, shared.user_key).await?;
        self.sight.now().await?;
        if self.sight.events().event != reading.accepted {
            return Err(StoreError::Busy);
        }
        shared.rollups.counted(Sequence(reading.accepted)).await?;
        let shared = std::sync::Arc::clone(shared);
        let compared = tokio::task::spawn_blocking(move || {
            shared
                .rollups
                .as_they_are(|rollups| reading.compare(rollups))
        });
        compared.await.map_err(|_| StoreError::Closed)
    }
}

async fn read(session: &Session, key: Key, user_key: UserKey) -> Result<Reading, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let head = session
        .query_one(
            "SELECT event, erased, (SELECT count(*) FROM identity) FROM event_head",
            &[],
        )
        .await
        .map_err(failed)?;
    let number = |column: usize| head.try_get::<_, i64>(column).map(i64::cast_unsigned);
    let mut reading = Reading {
        accepted: number(0).map_err(failed)?,
        erased: number(1).map_err(failed)?,
        identities: number(2).map_err(failed)?,
        events: 0,
        known: 0,
        facts: Rollups::new(Bounds::default()),
        seen: Rollups::new(Bounds::default()),
    };
    let mut covered = Sequence(0);
    while let Some(last) = chunk_after(session, covered, |facts, last| {
        reading.facts.fold(facts, last);
    })
    .await?
    {
        covered = last;
    }
    for part in parts_of(session, &EventFilter::default()).await? {
        read_part(session, &part.name, (key, user_key), &mut reading).await?;
    }
    Ok(reading)
}

async fn read_part(
    session: &Session,
    part: &str,
    (key, user_key): (Key, UserKey),
    reading: &mut Reading,
) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let sql = format!("DECLARE reading NO SCROLL CURSOR FOR SELECT {COLUMNS} FROM {part}");
    session.batch_execute(&sql).await.map_err(failed)?;
    loop {
        let fetch = format!("FETCH {CHUNK} FROM reading");
        let rows = session.query_typed_raw::<i64, _>(&fetch, []).await;
        let mut rows = pin!(rows.map_err(failed)?);
        let mut events = Vec::with_capacity(CHUNK);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            events.push(event(&row)?.event);
        }
        if events.is_empty() {
            break;
        }
        reading.events += events.len() as u64;
        reading.seen.add(&Facts::of(user_key, &events));
        let entries: Vec<Entry> = events.iter().map(|event| key.of(event)).collect();
        reading.known += known(session, &entries).await?;
    }
    session.batch_execute("CLOSE reading").await.map_err(failed)
}

/// How many of these are spent, with the same first event.
async fn known(session: &Session, entries: &[Entry]) -> Result<u64, StoreError> {
    let hashes: Vec<Uuid> = entries.iter().map(|it| Uuid::from_u128(it.0)).collect();
    let at = |micros| At(Timestamp::from_micros(micros));
    let times: Vec<At> = entries.iter().map(|it| at(it.1.time)).collect();
    let contents: Vec<i32> = entries
        .iter()
        .map(|it| it.1.content.cast_signed())
        .collect();
    let failed = |error: tokio_postgres::Error| fault(&error);
    let found = session
        .query_typed_one(
            "SELECT count(*) FROM identity
             JOIN unnest($1, $2, $3) AS it(hash, time, content) USING (hash, time, content)",
            &[
                (&hashes, Type::UUID_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
                (&contents, Type::INT4_ARRAY),
            ],
        )
        .await
        .map_err(failed)?;
    let found: i64 = found.try_get(0).map_err(failed)?;
    Ok(found.cast_unsigned())
}

impl Reading {
    fn compare(&self, rollups: &Rollups) -> Verified {
        let check = |what, expected, found| Check {
            what,
            expected,
            found,
        };
        let mut checks = vec![
            check(
                "events, erased ones included",
                self.accepted,
                self.events + self.erased,
            ),
            check(
                "events whose facts are kept",
                self.accepted,
                self.facts.covers().0,
            ),
            check(
                "identities that are known as spent",
                self.accepted,
                self.identities,
            ),
            check("identities of events", self.events, self.known),
            check(
                "days that don't follow from their hours",
                0,
                rollups.wrong_days(),
            ),
        ];
        if self.erased == 0 {
            let tenants = self.facts.compare(&self.seen);
            let differing = tenants.iter().filter(|it| !it.is_same()).count() as u64;
            checks.push(check(
                "tenants whose facts don't follow from their events",
                0,
                differing,
            ));
        }
        Verified {
            checks,
            tenants: rollups.compare(&self.facts),
        }
    }
}
