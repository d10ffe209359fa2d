//! Queues: their names and the slots they used last.

use rusqlite::{Connection, Row, params};

use super::codec::Digest;
use super::fault::Fault;
use super::jobs::not_as_written;
use super::meta::{Meta, Table};
use crate::model::queue::{QueueId, QueueName};
use crate::model::time::Timestamp;

/// A row of `queue`.
pub(super) struct QueueRow {
    pub(super) id: QueueId,
    pub(super) name: QueueName,
    pub(super) last_slot: Option<Timestamp>,
    pub(super) digest: i64,
}

impl QueueRow {
    /// Reads `id, name, last_slot, digest` and checks them.
    pub(super) fn read(row: &Row<'_>, digest: &mut Digest) -> Result<Self, Fault> {
        let id: u16 = row.get(0)?;
        let name: String = row.get(1)?;
        let found = Self {
            id: QueueId(id),
            name: QueueName::try_from(name).map_err(Fault::Damaged)?,
            last_slot: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_micros),
            digest: row.get(3)?,
        };
        if found.digest == found.digest_of(digest) {
            Ok(found)
        } else {
            Err(not_as_written(Table::Queue, u64::from(id)))
        }
    }

    fn digest_of(&self, digest: &mut Digest) -> i64 {
        digest
            .row("queue")
            .int(i64::from(self.id.0))
            .bytes(self.name.as_str().as_bytes())
            .opt_int(self.last_slot.map(Timestamp::as_micros))
            .finish()
    }
}

/// Sets what is given, and keeps the rest of the row.
pub(super) fn configure(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    id: QueueId,
    name: Option<&QueueName>,
    last_slot: Option<Timestamp>,
) -> Result<(), Fault> {
    let before = db
        .prepare_cached("SELECT id, name, last_slot, digest FROM queue WHERE id = ?1")?
        .query([id.0])?
        .next()?
        .map(|row| QueueRow::read(row, digest))
        .transpose()?;
    let (known_name, known_slot) = before
        .as_ref()
        .map_or((None, None), |row| (Some(&row.name), row.last_slot));
    let Some(name) = name.or(known_name) else {
        return Err(Fault::Damaged(format!(
            "a slot was taken by queue {}, which is not configured",
            id.0
        )));
    };
    let mut row = QueueRow {
        id,
        name: name.clone(),
        last_slot: last_slot.or(known_slot),
        digest: 0,
    };
    row.digest = row.digest_of(digest);
    db.prepare_cached(
        "INSERT OR REPLACE INTO queue (id, name, last_slot, digest) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        row.id.0,
        row.name.as_str(),
        row.last_slot.map(Timestamp::as_micros),
        row.digest
    ])?;
    let tally = meta.tally(Table::Queue);
    if let Some(before) = &before {
        tally.remove(before.digest);
    }
    tally.add(row.digest);
    Ok(())
}
