//! Reads everything back, to be compared with where it came from.

use std::pin::pin;

use futures_util::TryStreamExt;
use postgres_types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::super::connect::fault;
use super::super::events::escape::unescape;
use super::super::events::facts::chunk_after;
use super::super::events::letters::letter;
use super::super::events::messages::name;
use super::super::events::remains::{REMAINS, Remains, remains};
use super::super::events::row::{COLUMNS, event};
use super::super::load::{INGESTION, RUN, ingestion, rest, run};
use super::super::time::At;
use super::Target;
use crate::model::change::IdempotencyRecord;
use crate::model::event::Sequence;
use crate::model::id::IngestionId;
use crate::model::queue::{QueueId, QueueName};
use crate::store::embedded::source::{Kept, Queue};
use crate::store::error::{OpenError, StoreError};
use crate::store::identity::{First, Key};
use crate::store::migration::Sums;

/// After so many rows it is said how far this is.
const SHOWN: usize = 10_000;

impl Target {
    /// Adds all rows, as of one moment; those that are counted as progress are told to `show`.
    pub(in crate::store) async fn sums(
        &self,
        sums: &mut Sums,
        with_key: bool,
        show: &mut impl FnMut(usize),
    ) -> Result<(), OpenError> {
        let read = async {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            self.control(begin).await?;
            self.jobs(sums, show).await?;
            self.events_of(sums, show).await?;
            self.counts(sums, with_key).await?;
            self.control("COMMIT").await
        };
        read.await
            .map_err(|error: StoreError| OpenError(format!("{}: {error}", self.place)))
    }

    async fn control(&self, sql: &str) -> Result<(), StoreError> {
        let done = self.session.batch_execute(sql).await;
        done.map_err(|error| fault(&error))
    }

    async fn jobs(&self, sums: &mut Sums, show: &mut impl FnMut(usize)) -> Result<(), StoreError> {
        self.each("SELECT id, name, last_slot FROM queue", |row| {
            sums.queue(&queue(row)?);
            Ok(())
        })
        .await?;
        let mut count = Counter::new(show);
        let sql = format!("SELECT {INGESTION} FROM ingestion");
        self.each(&sql, |row| {
            let mut found = ingestion(row)?;
            if let Some((status, at)) = rest(row)? {
                found.runs.get_or_insert_default().rest = Some((status, at));
            }
            let ended: Option<At> = row.try_get(12).map_err(failed)?;
            if let Some(At(at)) = ended {
                found.runs.get_or_insert_default().ended_at = Some(at);
            }
            sums.ingestion(&found);
            count.one();
            Ok(())
        })
        .await?;
        self.each(&format!("SELECT {RUN} FROM run"), |row| {
            let (arrival, batch, run) = run(row, 0)?;
            sums.run(arrival.0, batch.0, &run);
            Ok(())
        })
        .await?;
        let sql = "SELECT key, body, ingestion, expires_at FROM kept_answer";
        self.each(sql, |row| {
            sums.answer(&answer(row).map_err(failed)?);
            count.one();
            Ok(())
        })
        .await?;
        count.end();
        Ok(())
    }

    async fn events_of(
        &self,
        sums: &mut Sums,
        show: &mut impl FnMut(usize),
    ) -> Result<(), StoreError> {
        let mut count = Counter::new(show);
        let sql = "SELECT number, refused_at, errors, body FROM letter";
        self.each(sql, |row| {
            sums.letter(&letter(row)?);
            count.one();
            Ok(())
        })
        .await?;
        self.each(&format!("SELECT {COLUMNS} FROM event"), |row| {
            let found = event(row)?;
            sums.event(found.sequence, &found.event);
            count.one();
            Ok(())
        })
        .await?;
        self.each(&format!("SELECT {REMAINS} FROM erased"), |row| {
            let Remains {
                event,
                user,
                sequence,
                identity,
            } = remains(row)?;
            let sequence = sequence.ok_or_else(damaged)?;
            sums.erased(identity.ok_or_else(damaged)?, &(sequence, event, user));
            count.one();
            Ok(())
        })
        .await?;
        count.end();
        self.each("SELECT hash, time, content FROM identity", |row| {
            let read = || -> Result<_, Error> {
                let (hash, At(time)): (Uuid, At) = (row.try_get(0)?, row.try_get(1)?);
                let content = row.try_get::<_, i32>(2)?.cast_unsigned();
                let time = time.as_micros();
                Ok((hash.as_u128(), First { time, content }))
            };
            sums.identity(read().map_err(failed)?);
            Ok(())
        })
        .await?;
        self.each("SELECT name FROM topic", |row| {
            sums.topic(&text(row, 0)?.ok_or_else(damaged)?);
            Ok(())
        })
        .await?;
        let sql = "SELECT name.place, name.published
                   FROM message, unnest(places, published) AS name (place, published)";
        self.each(sql, |row| {
            sums.message(name(row).map_err(failed)?);
            Ok(())
        })
        .await?;
        let mut covered = Sequence(0);
        while let Some(last) =
            chunk_after(&self.session, covered, |facts, _| sums.facts(facts)).await?
        {
            covered = last;
        }
        Ok(())
    }

    async fn counts(&self, sums: &mut Sums, with_key: bool) -> Result<(), StoreError> {
        let sql = "SELECT arrival, event, duplicates, conflicting, erased, topics, letter, key
                   FROM head, event_head";
        self.each(sql, |row| {
            let mut numbers = [0; 7];
            for (column, number) in numbers.iter_mut().enumerate() {
                *number = row
                    .try_get::<_, i64>(column)
                    .map_err(failed)?
                    .cast_unsigned();
            }
            let key: Vec<u8> = row.try_get(7).map_err(failed)?;
            let key = key.try_into().map_err(|_| damaged())?;
            sums.counts(numbers, with_key.then_some(Key(key)));
            Ok(())
        })
        .await
    }

    /// Calls `take` with every row.
    async fn each(
        &self,
        sql: &str,
        mut take: impl FnMut(&Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let none: [&(dyn ToSql + Sync); 0] = [];
        let rows = self.session.query_raw(sql, none).await;
        let mut rows = pin!(rows.map_err(failed)?);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            take(&row)?;
        }
        Ok(())
    }
}

/// Tells how many rows were read, some at a time.
struct Counter<'s, S> {
    show: &'s mut S,
    rows: usize,
}

impl<'s, S: FnMut(usize)> Counter<'s, S> {
    fn new(show: &'s mut S) -> Self {
        Self { show, rows: 0 }
    }

    fn one(&mut self) {
        self.rows += 1;
        if self.rows == SHOWN {
            self.end();
        }
    }

    fn end(&mut self) {
        (self.show)(std::mem::take(&mut self.rows));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: Error) -> StoreError {
    fault(&error)
}

fn damaged() -> StoreError {
    StoreError::Damaged("a row is not one that was written".to_owned())
}

fn queue(row: &Row) -> Result<Queue, StoreError> {
    let (id, name): (i16, String) = (
        row.try_get(0).map_err(failed)?,
        row.try_get(1).map_err(failed)?,
    );
    let slot: Option<At> = row.try_get(2).map_err(failed)?;
    Ok(Queue {
        id: QueueId(id.cast_unsigned()),
        name: QueueName::try_from(name).map_err(|_| damaged())?,
        last_slot: slot.map(|At(at)| at),
    })
}

fn answer(row: &Row) -> Result<Kept, Error> {
    let uuid = |column: usize| row.try_get::<_, Uuid>(column);
    let At(expires_at) = row.try_get(3)?;
    Ok(Kept {
        record: IdempotencyRecord {
            key: uuid(0)?.as_u128(),
            body: uuid(1)?.as_u128(),
            expires_at,
        },
        ingestion: IngestionId::new(uuid(2)?),
    })
}

fn text(row: &Row, column: usize) -> Result<Option<String>, StoreError> {
    let text: Option<&str> = row.try_get(column).map_err(failed)?;
    let plain = text.map(|text| unescape(text).ok_or_else(damaged));
    Ok(plain.transpose()?.map(std::borrow::Cow::into_owned))
}
