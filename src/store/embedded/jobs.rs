//! Changes of jobs as SQL, and rows of jobs as values.

use std::num::NonZeroU16;

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::codec::{Digest, decode_failures, decode_ids, encode_failures, encode_ids};
use super::fault::Fault;
use super::meta::{Meta, Table};
use super::{ended, idempotency, queues};
use crate::model::batch::{BatchRun, BatchStatus};
use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use crate::model::ingestion::{Extras, Ingestion, Runs};
use crate::model::priority::Priority;
use crate::model::queue::QueueId;
use crate::model::time::Timestamp;

/// The columns of `live`, in the order of [`IngestionRow`]; `ended` has them too.
macro_rules! select_live {
    ($rest:literal) => {
        concat!(
            "SELECT arrival, id, created_at, queue, batch_size, priority, metadata, ",
            "callback_url, deadline, digest, ids ",
            $rest
        )
    };
}
pub(super) use select_live;

/// The columns of `run`, in the order of [`RunRow`].
macro_rules! select_run {
    ($rest:literal) => {
        concat!(
            "SELECT arrival, batch, status, attempt, triggered_at, first_triggered_at, completed_at, ",
            "retry_at, failures, digest ",
            $rest
        )
    };
}
pub(super) use select_run;

/// In the place of a batch: all that were never started.
const REST: u32 = u32::MAX;

/// Writes one change, inside a transaction. A `Submitted` gets its arrival.
pub(super) fn write(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    change: &mut Change,
) -> Result<(), Fault> {
    match change {
        Change::QueueConfigured {
            queue,
            name,
            last_slot,
        } => queues::configure(db, meta, digest, *queue, Some(name), *last_slot),
        Change::SlotTaken { queue, at } => {
            queues::configure(db, meta, digest, *queue, None, Some(*at))
        }
        Change::Submitted {
            ingestion,
            idempotency,
        } => {
            meta.last_arrival += 1;
            ingestion.arrival = Arrival(meta.last_arrival);
            insert_live(db, meta, digest, ingestion)?;
            match idempotency {
                Some(record) => idempotency::keep(db, meta, digest, record, ingestion.id),
                None => Ok(()),
            }
        }
        Change::BatchMoved {
            ingestion,
            batch,
            run,
        } => move_batch(db, meta, digest, *ingestion, *batch, run),
        Change::RestEnded {
            ingestion,
            status,
            at,
        } => {
            let run = BatchRun {
                status: *status,
                attempt: 0,
                ..BatchRun::first(*at)
            };
            move_batch(db, meta, digest, *ingestion, BatchIndex(REST), &run)
        }
        Change::IngestionEnded { ingestion, at } => ended::end(db, meta, digest, *ingestion, *at),
    }
}

fn insert_live(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    it: &Ingestion,
) -> Result<(), Fault> {
    let ids = encode_ids(&it.ids);
    let digest = digest.row("live").ingestion(it, &ids).finish();
    let extras = it.extras.as_deref();
    db.prepare_cached(
        "INSERT INTO live (arrival, id, created_at, queue, batch_size, priority, metadata,
                           callback_url, deadline, digest, ids)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        it.arrival.0.cast_signed(),
        it.id.uuid().as_bytes(),
        it.created_at.as_micros(),
        it.queue.0,
        it.batch_size.get(),
        it.priority.rank(),
        extras.and_then(|extras| extras.metadata.as_deref()),
        extras.and_then(|extras| extras.callback_url.as_deref()),
        it.deadline().map(Timestamp::as_micros),
        digest,
        ids
    ])?;
    meta.tally(Table::Live).add(digest);
    Ok(())
}

/// An ingestion as a row, without its runs.
pub(super) struct IngestionRow<'r> {
    pub(super) ingestion: Ingestion,
    /// The ids as they are stored.
    pub(super) ids: &'r [u8],
    /// The digest that the row carries.
    pub(super) digest: i64,
}

impl<'r> IngestionRow<'r> {
    /// Reads the columns of `select_live!`; the caller checks the digest.
    pub(super) fn read(row: &'r Row<'_>) -> Result<Self, Fault> {
        let arrival = row.get::<_, i64>(0)?.cast_unsigned();
        let ids = row.get_ref(10)?.as_blob().map_err(rusqlite::Error::from)?;
        let damaged = || not_as_written(Table::Live, arrival);
        let extras = Extras {
            metadata: row.get(6)?,
            callback_url: row.get(7)?,
            deadline: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_micros),
        };
        let ingestion = Ingestion {
            id: IngestionId::new(Uuid::from_bytes(row.get(1)?)),
            arrival: Arrival(arrival),
            created_at: Timestamp::from_micros(row.get(2)?),
            ids: decode_ids(ids).ok_or_else(damaged)?,
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
            runs: None,
            queue: QueueId(row.get(3)?),
            batch_size: NonZeroU16::new(row.get(4)?).ok_or_else(damaged)?,
            priority: Priority::from_rank(row.get(5)?).ok_or_else(damaged)?,
        };
        Ok(Self {
            ingestion,
            ids,
            digest: row.get(9)?,
        })
    }

    /// Reads a row of `live` and checks it.
    pub(super) fn read_live(row: &'r Row<'_>, digest: &mut Digest) -> Result<Self, Fault> {
        let found = Self::read(row)?;
        let expected = digest
            .row("live")
            .ingestion(&found.ingestion, found.ids)
            .finish();
        if found.digest == expected {
            Ok(found)
        } else {
            Err(not_as_written(Table::Live, found.ingestion.arrival.0))
        }
    }
}

/// A row of `run`.
pub(super) struct RunRow {
    pub(super) arrival: Arrival,
    pub(super) batch: u32,
    pub(super) run: BatchRun,
    pub(super) digest: i64,
}

impl RunRow {
    /// Reads the columns of `select_run!` and checks them.
    pub(super) fn read(row: &Row<'_>, digest: &mut Digest) -> Result<Self, Fault> {
        let time = |column| -> Result<Option<Timestamp>, Fault> {
            Ok(row
                .get::<_, Option<i64>>(column)?
                .map(Timestamp::from_micros))
        };
        let arrival = Arrival(row.get::<_, i64>(0)?.cast_unsigned());
        let damaged = || not_as_written(Table::Run, arrival.0);
        let failures = row
            .get_ref(8)?
            .as_blob_or_null()
            .map_err(rusqlite::Error::from)?;
        let found = Self {
            arrival,
            batch: row.get(1)?,
            run: BatchRun {
                status: BatchStatus::from_code(row.get(2)?).ok_or_else(damaged)?,
                attempt: row.get(3)?,
                first_triggered_at: Timestamp::from_micros(row.get(5)?),
                triggered_at: Timestamp::from_micros(row.get(4)?),
                completed_at: time(6)?,
                retry_at: time(7)?,
                failures: decode_failures(failures).ok_or_else(damaged)?,
            },
            digest: row.get(9)?,
        };
        if found.digest == found.digest_of(digest, failures) {
            Ok(found)
        } else {
            Err(damaged())
        }
    }

    fn digest_of(&self, digest: &mut Digest, failures: Option<&[u8]>) -> i64 {
        digest
            .row("run")
            .int(self.arrival.0.cast_signed())
            .int(i64::from(self.batch))
            .int(i64::from(self.run.status.code()))
            .int(i64::from(self.run.attempt))
            .int(self.run.triggered_at.as_micros())
            .int(self.run.first_triggered_at.as_micros())
            .opt_int(self.run.completed_at.map(Timestamp::as_micros))
            .opt_int(self.run.retry_at.map(Timestamp::as_micros))
            .opt_bytes(failures)
            .finish()
    }

    /// Whether it stands for all batches that were never started.
    pub(super) const fn is_rest(&self) -> bool {
        self.batch == REST
    }

    /// Adds it to the runs before it, which must be all of them.
    pub(super) fn append_to(self, runs: &mut Runs) -> Result<(), Fault> {
        if self.is_rest() {
            runs.rest = Some((self.run.status, self.run.triggered_at));
            return Ok(());
        }
        if self.batch as usize != runs.started.len() {
            return Err(gap(self.arrival, self.batch));
        }
        runs.completed += u32::from(self.run.status == BatchStatus::Completed);
        runs.failed += u32::from(self.run.status == BatchStatus::Failed);
        runs.started.push(self.run);
        Ok(())
    }
}

/// A batch was started although the one before it was not.
pub(super) fn gap(arrival: Arrival, batch: u32) -> Fault {
    Fault::Damaged(format!(
        "batch {batch} of ingestion {} was started, the one before it was not",
        arrival.0
    ))
}

/// Inserts or replaces the row of a batch. An ingestion that has ended already keeps its state: a
/// change that comes twice does no harm.
fn move_batch(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    ingestion: IngestionRef,
    batch: BatchIndex,
    run: &BatchRun,
) -> Result<(), Fault> {
    let arrival = ingestion.arrival.0.cast_signed();
    if !exists(db, "SELECT 1 FROM live WHERE arrival = ?1", [arrival])? {
        tracing::debug!(ingestion = %ingestion.id, "a change of an ended ingestion was dropped");
        return Ok(());
    }
    let before = db
        .prepare_cached(select_run!("FROM run WHERE arrival = ?1 AND batch = ?2"))?
        .query([arrival, i64::from(batch.0)])?
        .next()?
        .map(|row| RunRow::read(row, digest))
        .transpose()?;
    if before.is_none() && batch.0 != 0 && batch.0 != REST {
        let previous = [arrival, i64::from(batch.0) - 1];
        let sql = "SELECT 1 FROM run WHERE arrival = ?1 AND batch = ?2";
        if !exists(db, sql, previous)? {
            return Err(gap(ingestion.arrival, batch.0));
        }
    }
    let mut row = RunRow {
        arrival: ingestion.arrival,
        batch: batch.0,
        run: run.clone(),
        digest: 0,
    };
    let failures = encode_failures(&row.run.failures);
    row.digest = row.digest_of(digest, failures.as_deref());
    insert_run(db, &row, failures.as_deref())?;
    let tally = meta.tally(Table::Run);
    if let Some(before) = &before {
        tally.remove(before.digest);
    }
    tally.add(row.digest);
    Ok(())
}

fn insert_run(db: &Connection, row: &RunRow, failures: Option<&[u8]>) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO run (arrival, batch, status, attempt, triggered_at,
                                     first_triggered_at, completed_at, retry_at, failures, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        row.arrival.0.cast_signed(),
        row.batch,
        row.run.status.code(),
        row.run.attempt,
        row.run.triggered_at.as_micros(),
        row.run.first_triggered_at.as_micros(),
        row.run.completed_at.map(Timestamp::as_micros),
        row.run.retry_at.map(Timestamp::as_micros),
        failures,
        row.digest
    ])?;
    Ok(())
}

fn exists<P: rusqlite::Params>(db: &Connection, sql: &str, params: P) -> Result<bool, Fault> {
    let found: Option<i64> = db
        .prepare_cached(sql)?
        .query_row(params, |row| row.get(0))
        .optional()?;
    Ok(found.is_some())
}

/// The row of `table` with this number is not what was written.
pub(super) fn not_as_written(table: Table, number: u64) -> Fault {
    Fault::Damaged(format!(
        "row {number} of table {} is not what was written",
        table.name()
    ))
}
