//! Compares what is derived from the events with the events, as of one commit.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::Postgres;
use super::super::connect::{Session, fault};
use super::super::time::At;
use super::facts::chunk_after;
use super::parts::parts_of;
use super::remains::{REMAINS, Remains, remains};
use super::row::{COLUMNS, event};
use crate::model::event::{EventFilter, Sequence};
use crate::model::time::Timestamp;
use crate::rollups::{Bounds, Facts, Rollups, UserKey};
use crate::store::arrivals::Arrivals;
use crate::store::error::StoreError;
use crate::store::identity::{Entry, Identity, Key};
use crate::store::{Check, Verified};

/// How many events are looked up at once.
const CHUNK: usize = 4_096;

/// What is found by reading everything.
#[derive(Default)]
struct Reading {
    accepted: u64,
    /// As they were counted.
    erased: u64,
    events: u64,
    /// Rows of what remains of erased events.
    remains: u64,
    /// Of those, how many say which event they were.
    numbered: u64,
    arrivals: Arrivals,
    /// Events whose identity is spent, with the same first event, and erased ones.
    known: u64,
    identities: u64,
}

/// What is derived twice.
struct Derived {
    /// From the facts.
    facts: Rollups,
    /// From the events and what remains of erased ones.
    seen: Rollups,
}

impl Postgres {
    pub(in crate::store) async fn verify(&self) -> Result<Verified, StoreError> {
        self.sight.now().await?;
        let session = self.events.server.connect().await?;
        let begun = session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        begun.await.map_err(|error| fault(&error))?;
        let shared = &self.events.shared;
        let (reading, derived) = read(&session, shared.key, shared.user_key).await?;
        self.sight.now().await?;
        if self.sight.events().event != reading.accepted {
            return Err(StoreError::Busy);
        }
        shared.rollups.counted(Sequence(reading.accepted)).await?;
        let shared = std::sync::Arc::clone(shared);
        let compared = tokio::task::spawn_blocking(move || {
            shared
                .rollups
                .as_they_are(|rollups| reading.compare(&derived, rollups))
        });
        compared.await.map_err(|_| StoreError::Closed)
    }
}

async fn read(
    session: &Session,
    key: Key,
    user_key: UserKey,
) -> Result<(Reading, Derived), StoreError> {
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
        ..Reading::default()
    };
    let mut derived = Derived {
        facts: Rollups::new(Bounds::default()),
        seen: Rollups::new(Bounds::default()),
    };
    let mut covered = Sequence(0);
    while let Some(last) = chunk_after(session, covered, |facts, last| {
        derived.facts.fold(facts, last);
    })
    .await?
    {
        covered = last;
    }
    for part in parts_of(session, &EventFilter::default()).await? {
        open(session, &format!("SELECT {COLUMNS} FROM {}", part.name)).await?;
        loop {
            let found = fetch(session, event).await?;
            if found.is_empty() {
                break;
            }
            derived
                .seen
                .add(&Facts::of(user_key, found.iter().map(|it| &it.event)));
            let entries: Vec<Entry> = found.iter().map(|it| key.of(&it.event)).collect();
            reading.known += known(session, &entries).await?;
            reading.events += found.len() as u64;
            for it in &found {
                reading.arrivals.note(it.sequence);
            }
        }
        close(session).await?;
    }
    open(session, &format!("SELECT {REMAINS} FROM erased")).await?;
    loop {
        let found = fetch(session, remains).await?;
        if found.is_empty() {
            break;
        }
        let users = found.iter().map(|it| (&it.event, it.user));
        derived.seen.add(&Facts::of_hashed(users));
        reading.take_remains(session, &found).await?;
    }
    close(session).await?;
    Ok((reading, derived))
}

/// Begins to read the rows of `sql`, one chunk after the other.
async fn open(session: &Session, sql: &str) -> Result<(), StoreError> {
    let sql = format!("DECLARE reading NO SCROLL CURSOR FOR {sql}");
    let opened = session.batch_execute(&sql).await;
    opened.map_err(|error| fault(&error))
}

/// The next chunk; empty at the end.
async fn fetch<T>(
    session: &Session,
    read: impl Fn(&Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let sql = format!("FETCH {CHUNK} FROM reading");
    let rows = session.query_typed_raw::<i64, _>(&sql, []).await;
    let mut rows = pin!(rows.map_err(failed)?);
    let mut found = Vec::with_capacity(CHUNK);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        found.push(read(&row)?);
    }
    Ok(found)
}

async fn close(session: &Session) -> Result<(), StoreError> {
    let closed = session.batch_execute("CLOSE reading").await;
    closed.map_err(|error| fault(&error))
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

/// How many of these are spent, at these times.
async fn known_erased(
    session: &Session,
    entries: &[(Identity, Timestamp)],
) -> Result<u64, StoreError> {
    let hashes: Vec<Uuid> = entries.iter().map(|it| Uuid::from_u128(it.0)).collect();
    let times: Vec<At> = entries.iter().map(|it| At(it.1)).collect();
    let failed = |error: tokio_postgres::Error| fault(&error);
    let found = session
        .query_typed_one(
            "SELECT count(*) FROM identity JOIN unnest($1, $2) AS it(hash, time) USING (hash, time)",
            &[
                (&hashes, Type::UUID_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
            ],
        )
        .await
        .map_err(failed)?;
    let found: i64 = found.try_get(0).map_err(failed)?;
    Ok(found.cast_unsigned())
}

impl Reading {
    async fn take_remains(
        &mut self,
        session: &Session,
        found: &[Remains],
    ) -> Result<(), StoreError> {
        self.remains += found.len() as u64;
        let mut entries = Vec::with_capacity(found.len());
        for it in found {
            if let (Some(sequence), Some(identity)) = (it.sequence, it.identity) {
                self.numbered += 1;
                self.arrivals.note(sequence);
                entries.push((identity, it.event.time.micros));
            }
        }
        self.known += known_erased(session, &entries).await?;
        Ok(())
    }

    fn compare(&self, derived: &Derived, rollups: &Rollups) -> Verified {
        let check = |what, expected, found| Check {
            what,
            expected,
            found,
        };
        let unnumbered = self.remains - self.numbered;
        let tenants = derived.facts.compare(&derived.seen);
        let differing = tenants.iter().filter(|it| !it.is_same()).count() as u64;
        Verified {
            checks: vec![
                check(
                    "events, erased ones included",
                    self.accepted,
                    self.events + self.erased,
                ),
                check(
                    "erased events of which something remains",
                    self.erased,
                    self.remains,
                ),
                check(
                    "arrivals that are there once",
                    self.accepted.saturating_sub(unnumbered),
                    self.arrivals.once(),
                ),
                check(
                    "events whose facts are kept",
                    self.accepted,
                    derived.facts.covers().0,
                ),
                check(
                    "tenants whose facts don't follow from their events",
                    0,
                    differing,
                ),
                check(
                    "identities that are known as spent",
                    self.accepted,
                    self.identities,
                ),
                check(
                    "identities of events",
                    self.events + self.numbered,
                    self.known,
                ),
                check(
                    "days that don't follow from their hours",
                    0,
                    rollups.wrong_days(),
                ),
            ],
            tenants: rollups.compare(&derived.facts),
        }
    }
}
