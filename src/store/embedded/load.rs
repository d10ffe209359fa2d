//! The start: checks every row that a later answer depends on, and replays what has not ended.

use rusqlite::{Connection, Rows};

use super::codec::Digest;
use super::ended::EndedEntry;
use super::events;
use super::fault::Fault;
use super::idempotency::KeptRow;
use super::jobs::{IngestionRow, RunRow, gap, select_live, select_run};
use super::meta::{Meta, Table, Tally};
use super::queues::QueueRow;

use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};

/// How many changes are handed on at once.
const CHUNK: usize = 4096;

/// The changes are handed on when they hold more ids than this.
const CHUNK_IDS: usize = 4 * 1024 * 1024;

/// Reads everything in one pass over each table and compares it with `meta`; calls `apply` with
/// each queue, then each live ingestion by order of arrival with what became of its batches.
pub(super) fn replay(
    db: &Connection,
    meta: &Meta,
    apply: &mut impl FnMut(Vec<Change>),
) -> Result<(), Fault> {
    // One transaction: all tables are of the same moment.
    let db = db.unchecked_transaction()?;
    check_index(&db, meta)?;
    check_keys(&db, meta)?;
    events::check(&db, meta)?;
    apply(queues(&db, meta)?);
    live(&db, meta, apply)
}

fn queues(db: &Connection, meta: &Meta) -> Result<Vec<Change>, Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut changes = Vec::new();
    let mut statement = db.prepare("SELECT id, name, last_slot, digest FROM queue ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = QueueRow::read(row, &mut digest)?;
        found.add(row.digest);
        changes.push(Change::QueueConfigured {
            queue: row.id,
            name: row.name,
            last_slot: row.last_slot,
        });
    }
    meta.check(Table::Queue, found)?;
    Ok(changes)
}

/// The index of ended ingestions in its order: so a later look-up goes the right way down.
fn check_index(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut previous: Option<IngestionId> = None;
    let mut statement =
        db.prepare("SELECT id, arrival, content, digest FROM ended_id ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = EndedEntry::read(row, &mut digest)?;
        if previous.is_some_and(|previous| previous >= row.id) {
            return Err(out_of_order(Table::Ended));
        }
        previous = Some(row.id);
        found.add(row.digest);
    }
    meta.check(Table::Ended, found)
}

/// The idempotency keys in their order.
fn check_keys(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut previous = None;
    let mut statement = db
        .prepare("SELECT key, body, ingestion, expires_at, digest FROM idempotency ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = KeptRow::read(row, &mut digest)?;
        if previous.is_some_and(|previous| previous >= row.record.key) {
            return Err(out_of_order(Table::Idempotency));
        }
        previous = Some(row.record.key);
        found.add(row.digest);
    }
    meta.check(Table::Idempotency, found)
}

fn out_of_order(table: Table) -> Fault {
    Fault::Damaged(format!(
        "the rows of table {} are out of order",
        table.name()
    ))
}

/// Live ingestions and their runs, both by arrival, side by side.
fn live(db: &Connection, meta: &Meta, apply: &mut impl FnMut(Vec<Change>)) -> Result<(), Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut chunk = Chunk::new(apply);
    let mut run_statement = db.prepare(select_run!("FROM run ORDER BY arrival, batch"))?;
    let mut runs = RunCursor::new(run_statement.query([])?)?;
    let mut statement = db.prepare(select_live!("FROM live ORDER BY arrival"))?;
    let mut rows = statement.query([])?;
    let mut previous = Arrival(0);
    while let Some(row) = rows.next()? {
        let row = IngestionRow::read_live(row, &mut digest)?;
        let key = row.ingestion.key();
        if key.arrival <= previous || key.arrival.0 > meta.last_arrival {
            return Err(out_of_order(Table::Live));
        }
        previous = key.arrival;
        found.add(row.digest);
        chunk.push(
            row.ingestion.ids.len(),
            Change::Submitted {
                ingestion: row.ingestion,
                idempotency: None,
            },
        );
        runs.replay(key, &mut chunk)?;
    }
    if let Some(orphan) = &runs.next {
        return Err(Fault::Damaged(format!(
            "table run has a batch of ingestion {}, which table live does not have",
            orphan.arrival.0
        )));
    }
    chunk.flush();
    meta.check(Table::Live, found)?;
    meta.check(Table::Run, runs.found)
}

/// The rows of `run`, one ahead.
struct RunCursor<'s> {
    rows: Rows<'s>,
    digest: Digest,
    found: Tally,
    next: Option<RunRow>,
}

impl<'s> RunCursor<'s> {
    fn new(rows: Rows<'s>) -> Result<Self, Fault> {
        let mut cursor = Self {
            rows,
            digest: Digest::default(),
            found: Tally::default(),
            next: None,
        };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), Fault> {
        self.next = match self.rows.next()? {
            Some(row) => {
                let row = RunRow::read(row, &mut self.digest)?;
                self.found.add(row.digest);
                Some(row)
            }
            None => None,
        };
        Ok(())
    }

    /// Hands on the changes of `ingestion`, whose turn it is.
    fn replay(
        &mut self,
        ingestion: IngestionRef,
        chunk: &mut Chunk<'_, impl FnMut(Vec<Change>)>,
    ) -> Result<(), Fault> {
        let mut batches = 0;
        while let Some(row) = self.next.take_if(|row| row.arrival == ingestion.arrival) {
            self.advance()?;
            if row.is_rest() {
                chunk.push(
                    0,
                    Change::RestEnded {
                        ingestion,
                        status: row.run.status,
                        at: row.run.triggered_at,
                    },
                );
                continue;
            }
            if row.batch != batches {
                return Err(gap(row.arrival, row.batch));
            }
            let batch = BatchIndex(row.batch);
            batches += 1;
            let run = row.run;
            chunk.push(
                0,
                Change::BatchMoved {
                    ingestion,
                    batch,
                    run,
                },
            );
        }
        Ok(())
    }
}

/// Changes on their way to `apply`.
struct Chunk<'a, F> {
    apply: &'a mut F,
    changes: Vec<Change>,
    ids: usize,
}

impl<'a, F: FnMut(Vec<Change>)> Chunk<'a, F> {
    fn new(apply: &'a mut F) -> Self {
        Self {
            apply,
            changes: Vec::with_capacity(CHUNK),
            ids: 0,
        }
    }

    fn push(&mut self, ids: usize, change: Change) {
        self.changes.push(change);
        self.ids += ids;
        if self.changes.len() >= CHUNK || self.ids >= CHUNK_IDS {
            let changes = std::mem::replace(&mut self.changes, Vec::with_capacity(CHUNK));
            (self.apply)(changes);
            self.ids = 0;
        }
    }

    fn flush(self) {
        if !self.changes.is_empty() {
            (self.apply)(self.changes);
        }
    }
}
