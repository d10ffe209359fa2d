//! Reads jobs back: all that have not ended at the start, single ones later.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::connect::{Session, fault};
use super::events::escape::unescape;
use super::rows::{Head, status_of};
use super::time::At;
use crate::model::batch::{BatchRun, IdFailure};
use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use crate::model::ingestion::{Extras, Ingestion};
use crate::model::priority::Priority;
use crate::model::queue::{QueueId, QueueName};
use crate::store::error::StoreError;

/// How many changes are handed on at once.
const CHUNK: usize = 4096;

/// The columns that [`ingestion`] reads.
pub(super) const INGESTION: &str = "arrival, id, queue, priority, created_at, batch_size, metadata,
    callback_url, deadline, ids, rest, rest_at, ended_at";

/// The columns that [`run`] reads.
pub(super) const RUN: &str = "arrival, batch, status, attempt, first_triggered_at, triggered_at,
    completed_at, retry_at, failures::text";

/// Hands everything that has not ended to `apply`, as of one moment: each queue, each ingestion by
/// arrival, and then what became of its batches. Returns that moment.
pub(super) async fn replay(
    session: &Session,
    apply: &mut (impl FnMut(Vec<Change>) + Send),
) -> Result<Head, StoreError> {
    let replayed = async {
        session
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .map_err(|error| fault(&error))?;
        let head = replay_snapshot(session, apply).await?;
        let ended = session.batch_execute("COMMIT").await;
        ended.map_err(|error| fault(&error))?;
        Ok(head)
    };
    replayed.await
}

async fn replay_snapshot(
    session: &Session,
    apply: &mut (impl FnMut(Vec<Change>) + Send),
) -> Result<Head, StoreError> {
    let failed = |error: Error| fault(&error);
    let row = session
        .query_one("SELECT change, arrival FROM head", &[])
        .await
        .map_err(failed)?;
    let head = Head {
        change: row.try_get(0).map_err(failed)?,
        arrival: row.try_get(1).map_err(failed)?,
    };
    let queues = session
        .query("SELECT id, name, last_slot FROM queue ORDER BY id", &[])
        .await
        .map_err(failed)?;
    let queues = queues.iter().map(queue).collect::<Result<Vec<_>, _>>();
    apply(queues.map_err(failed)?);
    let live = format!("SELECT {INGESTION} FROM ingestion WHERE ended_at IS NULL ORDER BY arrival");
    let runs = format!(
        "SELECT {RUN} FROM run JOIN ingestion USING (arrival) WHERE ended_at IS NULL
         ORDER BY arrival, batch"
    );
    // Both by arrival, side by side. The second is asked for when the first is through: one
    // connection answers in order.
    let mut chunk = Vec::new();
    let mut rests = Vec::new();
    {
        let rows = session.query_raw(&live, no_parameters()).await;
        let mut rows = pin!(rows.map_err(failed)?);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let found = ingestion(&row)?;
            let key = found.key();
            if let Some((status, at)) = rest(&row)? {
                rests.push(Change::RestEnded {
                    ingestion: key,
                    status,
                    at,
                });
            }
            chunk.push(Change::Submitted {
                ingestion: found,
                idempotency: None,
            });
            if chunk.len() >= CHUNK {
                apply(std::mem::take(&mut chunk));
            }
        }
    }
    {
        let sql = runs.replacen("SELECT arrival", "SELECT id, arrival", 1);
        let rows = session.query_raw(&sql, no_parameters()).await;
        let mut rows = pin!(rows.map_err(failed)?);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let (arrival, batch, run) = run(&row, 1)?;
            let id: Uuid = row.try_get(0).map_err(failed)?;
            chunk.push(Change::BatchMoved {
                ingestion: IngestionRef {
                    id: IngestionId::new(id),
                    arrival,
                },
                batch,
                run,
            });
            if chunk.len() >= CHUNK {
                apply(std::mem::take(&mut chunk));
            }
        }
    }
    chunk.extend(rests);
    apply(chunk);
    Ok(head)
}

/// The ingestions that arrived in `(after, up_to]`, by arrival: the first one, and those behind it that
/// have at most so many ids with it.
pub(super) async fn arrived(
    session: &Session,
    after: i64,
    up_to: i64,
    most: i64,
) -> Result<Vec<Ingestion>, StoreError> {
    let sql = format!(
        "SELECT {INGESTION} FROM (
             SELECT *, sum(cardinality(ids)) OVER line AS total, row_number() OVER line AS number
             FROM ingestion WHERE arrival > $1 AND arrival <= $2
             WINDOW line AS (ORDER BY arrival ROWS UNBOUNDED PRECEDING)) AS it
         WHERE number = 1 OR total <= $3 ORDER BY arrival"
    );
    let rows = session.query(&sql, &[&after, &up_to, &most]).await;
    let rows = rows.map_err(|error| fault(&error))?;
    rows.iter().map(ingestion).collect()
}

/// An ingestion that has ended, with what became of it.
pub(super) async fn find(
    session: &Session,
    id: IngestionId,
) -> Result<Option<Ingestion>, StoreError> {
    let failed = |error: Error| fault(&error);
    let sql = format!("SELECT {INGESTION} FROM ingestion WHERE id = $1 AND ended_at IS NOT NULL");
    let row = session.query_opt(&sql, &[&id.uuid()]).await;
    let Some(row) = row.map_err(failed)? else {
        return Ok(None);
    };
    let mut found = ingestion(&row)?;
    let sql = format!("SELECT {RUN} FROM run WHERE arrival = $1 ORDER BY batch");
    let arrival = found.arrival.0.cast_signed();
    let runs = session.query(&sql, &[&arrival]).await.map_err(failed)?;
    for row in &runs {
        let (_, batch, run) = run(row, 0)?;
        found.set_run(batch, run);
    }
    if let Some((status, at)) = rest(&row)? {
        found.give_up_rest(status, at);
    }
    if let Some(At(at)) = row.try_get(12).map_err(failed)? {
        found.runs.get_or_insert_default().ended_at = Some(at);
    }
    Ok(Some(found))
}

fn no_parameters() -> [&'static (dyn tokio_postgres::types::ToSql + Sync); 0] {
    []
}

pub(super) fn queue(row: &Row) -> Result<Change, Error> {
    let name: String = row.try_get(1)?;
    let slot: Option<At> = row.try_get(2)?;
    Ok(Change::QueueConfigured {
        queue: QueueId(row.try_get::<_, i16>(0)?.cast_unsigned()),
        name: QueueName::try_from(name).unwrap_or_else(|_| QueueName::former()),
        last_slot: slot.map(|At(at)| at),
    })
}

/// Reads [`INGESTION`], without what became of it.
pub(super) fn ingestion(row: &Row) -> Result<Ingestion, StoreError> {
    let read = || -> Result<Option<Ingestion>, Error> {
        let At(created_at) = row.try_get(4)?;
        let (metadata, callback_url): (Option<String>, Option<String>) =
            (row.try_get(6)?, row.try_get(7)?);
        let deadline: Option<At> = row.try_get(8)?;
        let extras = Extras {
            metadata: metadata.map(plain),
            callback_url: callback_url.map(plain),
            deadline: deadline.map(|At(at)| at),
        };
        let ids: Vec<i64> = row.try_get(9)?;
        let batch_size = u16::try_from(row.try_get::<_, i32>(5)?).ok();
        let rank = u8::try_from(row.try_get::<_, i16>(3)?).ok();
        let (Some(batch_size), Some(priority)) = (
            batch_size.and_then(NonZeroU16::new),
            rank.and_then(Priority::from_rank),
        ) else {
            return Ok(None);
        };
        Ok(Some(Ingestion {
            id: IngestionId::new(row.try_get(1)?),
            arrival: Arrival(row.try_get::<_, i64>(0)?.cast_unsigned()),
            created_at,
            ids: ids.into(),
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
            runs: None,
            queue: QueueId(row.try_get::<_, i16>(2)?.cast_unsigned()),
            batch_size,
            priority,
        }))
    };
    read().map_err(|error| fault(&error))?.ok_or_else(|| {
        StoreError::Damaged("a row of table ingestion is not one of ours".to_owned())
    })
}

/// The text that is stored in this form. Rows of earlier versions have it as it is, also where it has
/// the escape in it.
fn plain(stored: String) -> Box<str> {
    let plain = unescape(&stored).map(Cow::into_owned);
    plain.unwrap_or(stored).into()
}

pub(super) type Rest = (
    crate::model::batch::BatchStatus,
    crate::model::time::Timestamp,
);

/// How the batches ended that never started, from [`INGESTION`].
pub(super) fn rest(row: &Row) -> Result<Option<Rest>, StoreError> {
    let failed = |error: Error| fault(&error);
    let status: Option<&str> = row.try_get(10).map_err(failed)?;
    let at: Option<At> = row.try_get(11).map_err(failed)?;
    let status = status.and_then(status_of);
    Ok(status.zip(at).map(|(status, At(at))| (status, at)))
}

/// Reads [`RUN`] from column `first` on.
pub(super) fn run(row: &Row, first: usize) -> Result<(Arrival, BatchIndex, BatchRun), StoreError> {
    #[derive(serde::Deserialize)]
    struct Failure {
        position: u16,
        reason: String,
    }
    let read = || -> Result<_, Error> {
        let failures: Option<&str> = row.try_get(first + 8)?;
        let failures = failures.map(serde_json::from_str::<Vec<Failure>>);
        let Ok(failures) = failures.transpose() else {
            return Ok(None);
        };
        let Some(status) = status_of(row.try_get(first + 2)?) else {
            return Ok(None);
        };
        let time = |column: usize| row.try_get(first + column).map(|At(at)| at);
        let maybe = |column: usize| {
            let at: Result<Option<At>, Error> = row.try_get(first + column);
            at.map(|at| at.map(|At(at)| at))
        };
        let failures = failures.unwrap_or_default().into_iter();
        let run = BatchRun {
            status,
            attempt: u32::try_from(row.try_get::<_, i64>(first + 3)?).unwrap_or(u32::MAX),
            first_triggered_at: time(4)?,
            triggered_at: time(5)?,
            completed_at: maybe(6)?,
            retry_at: maybe(7)?,
            failures: failures
                .map(|it| IdFailure::new(it.position, it.reason))
                .collect(),
        };
        let arrival = Arrival(row.try_get::<_, i64>(first)?.cast_unsigned());
        let batch = BatchIndex(row.try_get::<_, i32>(first + 1)?.cast_unsigned());
        Ok(Some((arrival, batch, run)))
    };
    read()
        .map_err(|error| fault(&error))?
        .ok_or_else(|| StoreError::Damaged("a row of table run is not one of ours".to_owned()))
}
