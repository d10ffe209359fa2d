//! Answers that are kept under an `Idempotency-Key`.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::codec::Digest;
use super::fault::Fault;
use super::meta::{Meta, Table};
use crate::model::change::IdempotencyRecord;
use crate::model::id::IngestionId;
use crate::model::time::Timestamp;
use crate::store::KeptAnswer;

/// The most idempotency keys that one prune removes.
pub(super) const PRUNE_KEYS: u32 = 16_384;

/// A row of `idempotency`.
pub(super) struct KeptRow {
    pub(super) record: IdempotencyRecord,
    pub(super) ingestion: IngestionId,
    pub(super) digest: i64,
}

impl KeptRow {
    /// Reads `key, body, ingestion, expires_at, digest` and checks them.
    pub(super) fn read(row: &Row<'_>, digest: &mut Digest) -> Result<Self, Fault> {
        let found = Self {
            record: IdempotencyRecord {
                key: u128::from_be_bytes(row.get(0)?),
                body: u128::from_be_bytes(row.get(1)?),
                expires_at: Timestamp::from_micros(row.get(3)?),
            },
            ingestion: IngestionId::new(Uuid::from_bytes(row.get(2)?)),
            digest: row.get(4)?,
        };
        if found.digest == found.digest_of(digest) {
            Ok(found)
        } else {
            Err(Fault::Damaged(format!(
                "the row of key {:032x} in table idempotency is not what was written",
                found.record.key
            )))
        }
    }

    fn digest_of(&self, digest: &mut Digest) -> i64 {
        digest
            .row("idempotency")
            .bytes(&self.record.key.to_be_bytes())
            .bytes(&self.record.body.to_be_bytes())
            .bytes(self.ingestion.uuid().as_bytes())
            .int(self.record.expires_at.as_micros())
            .finish()
    }

    fn find(db: &Connection, key: u128, digest: &mut Digest) -> Result<Option<Self>, Fault> {
        db.prepare_cached(
            "SELECT key, body, ingestion, expires_at, digest FROM idempotency WHERE key = ?1",
        )?
        .query([key.to_be_bytes()])?
        .next()?
        .map(|row| Self::read(row, digest))
        .transpose()
    }
}

/// Keeps the answer to a request; under a key that was used before, in its place.
pub(super) fn keep(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    record: &IdempotencyRecord,
    ingestion: IngestionId,
) -> Result<(), Fault> {
    let before = KeptRow::find(db, record.key, digest)?;
    let mut row = KeptRow {
        record: *record,
        ingestion,
        digest: 0,
    };
    row.digest = row.digest_of(digest);
    db.prepare_cached(
        "INSERT OR REPLACE INTO idempotency (key, body, ingestion, expires_at, digest)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        record.key.to_be_bytes(),
        record.body.to_be_bytes(),
        ingestion.uuid().as_bytes(),
        record.expires_at.as_micros(),
        row.digest
    ])?;
    let tally = meta.tally(Table::Idempotency);
    if let Some(before) = before {
        tally.remove(before.digest);
    }
    tally.add(row.digest);
    Ok(())
}

/// What was answered under `key`, if it has not expired by `now`.
pub(super) fn find(
    db: &Connection,
    key: u128,
    now: Timestamp,
) -> Result<Option<KeptAnswer>, Fault> {
    let row = KeptRow::find(db, key, &mut Digest::default())?;
    Ok(row
        .filter(|row| row.record.expires_at > now)
        .map(|row| KeptAnswer {
            body: row.record.body,
            ingestion: row.ingestion,
        }))
}

/// Removes a bounded number of keys that expired by `now`; returns how many went.
pub(super) fn prune(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    now: Timestamp,
) -> Result<u64, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT key, body, ingestion, expires_at, digest FROM idempotency
         WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
    )?;
    let mut rows = statement.query(params![now.as_micros(), PRUNE_KEYS])?;
    let mut expired = Vec::new();
    while let Some(row) = rows.next()? {
        expired.push(KeptRow::read(row, digest)?);
    }
    drop(rows);
    let gone = expired.len() as u64;
    for row in expired {
        db.prepare_cached("DELETE FROM idempotency WHERE key = ?1")?
            .execute([row.record.key.to_be_bytes()])?;
        meta.tally(Table::Idempotency).remove(row.digest);
    }
    Ok(gone)
}
