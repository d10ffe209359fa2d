//! Ingestions that have ended: moved out of `live`, found by their uuid, removed by their age.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::codec::{Digest, decode_runs, encode_runs};
use super::fault::Fault;
use super::jobs::{IngestionRow, RunRow, not_as_written, select_live, select_run};
use super::meta::{Meta, Table};
use crate::model::id::{IngestionId, IngestionRef};
use crate::model::ingestion::{Ingestion, Runs};
use crate::model::time::Timestamp;

/// The most ingestions that one prune removes.
pub(super) const PRUNE_INGESTIONS: u32 = 256;

/// After so many bytes of ids, a prune removes no more ingestions.
const PRUNE_BYTES: i64 = 32 * 1024 * 1024;

/// Moves an ingestion from `live` and `run` to `ended`, its runs folded into one blob.
pub(super) fn end(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    ingestion: IngestionRef,
    at: Timestamp,
) -> Result<(), Fault> {
    let arrival = ingestion.arrival.0.cast_signed();
    let mut statement = db.prepare_cached(select_live!("FROM live WHERE arrival = ?1"))?;
    let mut rows = statement.query([arrival])?;
    let Some(row) = rows.next()? else {
        tracing::debug!(ingestion = %ingestion.id, "an ingestion ended twice");
        return Ok(());
    };
    let live = IngestionRow::read_live(row, digest)?;
    let runs = take_runs(db, meta, digest, arrival)?;
    let runs = encode_runs(&runs);
    let content = digest_of_ended(digest, &live.ingestion, live.ids, at, &runs);
    db.prepare_cached(
        "INSERT INTO ended (arrival, id, created_at, queue, batch_size, priority, metadata,
                            callback_url, deadline, digest, ended_at, runs, ids)
         SELECT arrival, id, created_at, queue, batch_size, priority, metadata,
                callback_url, deadline, ?2, ?3, ?4, ids
         FROM live WHERE arrival = ?1",
    )?
    .execute(params![arrival, content, at.as_micros(), runs])?;
    let id = live.ingestion.id;
    let entry = digest_of_entry(digest, id, arrival, content);
    db.prepare_cached(
        "INSERT INTO ended_id (id, arrival, content, digest) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![id.uuid().as_bytes(), arrival, content, entry])?;
    meta.tally(Table::Live).remove(live.digest);
    meta.tally(Table::Ended).add(entry);
    drop(rows);
    db.prepare_cached("DELETE FROM live WHERE arrival = ?1")?
        .execute([arrival])?;
    Ok(())
}

/// Reads and removes all rows of `run` of one ingestion.
fn take_runs(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    arrival: i64,
) -> Result<Runs, Fault> {
    let mut runs = Runs::default();
    let mut statement =
        db.prepare_cached(select_run!("FROM run WHERE arrival = ?1 ORDER BY batch"))?;
    let mut rows = statement.query([arrival])?;
    while let Some(row) = rows.next()? {
        let row = RunRow::read(row, digest)?;
        meta.tally(Table::Run).remove(row.digest);
        row.append_to(&mut runs)?;
    }
    drop(rows);
    db.prepare_cached("DELETE FROM run WHERE arrival = ?1")?
        .execute([arrival])?;
    Ok(runs)
}

fn digest_of_ended(
    digest: &mut Digest,
    it: &Ingestion,
    ids: &[u8],
    at: Timestamp,
    runs: &[u8],
) -> i64 {
    digest
        .row("ended")
        .ingestion(it, ids)
        .int(at.as_micros())
        .bytes(runs)
        .finish()
}

fn digest_of_entry(digest: &mut Digest, id: IngestionId, arrival: i64, content: i64) -> i64 {
    digest
        .row("ended_id")
        .bytes(id.uuid().as_bytes())
        .int(arrival)
        .int(content)
        .finish()
}

/// A row of `ended_id`: where an ended ingestion is, and what its row must hold.
pub(super) struct EndedEntry {
    pub(super) id: IngestionId,
    pub(super) arrival: i64,
    pub(super) content: i64,
    pub(super) digest: i64,
}

impl EndedEntry {
    /// Reads `id, arrival, content, digest` and checks them.
    pub(super) fn read(row: &Row<'_>, digest: &mut Digest) -> Result<Self, Fault> {
        let found = Self {
            id: IngestionId::new(Uuid::from_bytes(row.get(0)?)),
            arrival: row.get(1)?,
            content: row.get(2)?,
            digest: row.get(3)?,
        };
        if found.digest == digest_of_entry(digest, found.id, found.arrival, found.content) {
            Ok(found)
        } else {
            Err(not_as_written(Table::Ended, found.arrival.cast_unsigned()))
        }
    }

    fn find(db: &Connection, id: IngestionId, digest: &mut Digest) -> Result<Option<Self>, Fault> {
        db.prepare_cached("SELECT id, arrival, content, digest FROM ended_id WHERE id = ?1")?
            .query([id.uuid().as_bytes()])?
            .next()?
            .map(|row| Self::read(row, digest))
            .transpose()
    }
}

/// An ingestion that has ended.
pub(super) fn find(db: &Connection, id: IngestionId) -> Result<Option<Ingestion>, Fault> {
    // One transaction: the entry and the row are of the same moment.
    let db = db.unchecked_transaction()?;
    let mut digest = Digest::default();
    let Some(entry) = EndedEntry::find(&db, id, &mut digest)? else {
        return Ok(None);
    };
    let damaged = || not_as_written(Table::Ended, entry.arrival.cast_unsigned());
    let mut statement = db.prepare_cached(select_live!(
        ", ended_at, runs FROM ended WHERE arrival = ?1"
    ))?;
    let mut rows = statement.query([entry.arrival])?;
    let row = rows.next()?.ok_or_else(damaged)?;
    let found = IngestionRow::read(row)?;
    let ended_at = Timestamp::from_micros(row.get(11)?);
    let blob = row.get_ref(12)?.as_blob().map_err(rusqlite::Error::from)?;
    let content = digest_of_ended(&mut digest, &found.ingestion, found.ids, ended_at, blob);
    if content != entry.content || content != found.digest || found.ingestion.id != id {
        return Err(damaged());
    }
    let mut runs = decode_runs(blob).ok_or_else(damaged)?;
    runs.ended_at = Some(ended_at);
    let mut ingestion = found.ingestion;
    ingestion.runs = Some(Box::new(runs));
    Ok(Some(ingestion))
}

/// Removes a bounded number of ingestions that ended before `ended_before`; returns how many
/// went.
pub(super) fn prune(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    ended_before: Timestamp,
) -> Result<u64, Fault> {
    let mut gone = 0;
    let mut bytes = 0;
    for (arrival, id, length) in oldest(db, ended_before)? {
        let entry = EndedEntry::find(db, id, digest)?
            .filter(|entry| entry.arrival == arrival)
            .ok_or_else(|| not_as_written(Table::Ended, arrival.cast_unsigned()))?;
        db.prepare_cached("DELETE FROM ended_id WHERE id = ?1")?
            .execute([id.uuid().as_bytes()])?;
        db.prepare_cached("DELETE FROM ended WHERE arrival = ?1")?
            .execute([arrival])?;
        meta.tally(Table::Ended).remove(entry.digest);
        gone += 1;
        bytes += length;
        if bytes >= PRUNE_BYTES {
            break;
        }
    }
    Ok(gone)
}

type Oldest = (i64, IngestionId, i64);

/// Arrival, id and length of the ids of those that ended first.
fn oldest(db: &Connection, ended_before: Timestamp) -> Result<Vec<Oldest>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT arrival, id, length(ids) FROM ended WHERE ended_at < ?1 ORDER BY ended_at LIMIT ?2",
    )?;
    let rows = statement.query_map(params![ended_before.as_micros(), PRUNE_INGESTIONS], |row| {
        let id = IngestionId::new(Uuid::from_bytes(row.get(1)?));
        Ok((row.get(0)?, id, row.get(2)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
