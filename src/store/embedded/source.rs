//! A data directory that is moved elsewhere: opened alone, checked as at a start, and only read.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::codec::Digest;
use super::ended;
use super::events::block::{self, COLUMNS, Contents};
use super::events::spent::{self, Gone, GoneEvent, Place};
use super::events::{self, count::Count};
use super::fault::Fault;
use super::idempotency::KeptRow;
use super::jobs::{IngestionRow, RunRow, not_as_written, select_live, select_run};
use super::lock::DirLock;
use super::meta::{Meta, TABLES, Table};
use super::queues::QueueRow;
use super::schema::{self, DATABASE, FORMAT, name_of};
use super::witness::{self, Witness};
use super::{compare, is_empty, load};
use crate::model::bus::MessageName;
use crate::model::change::IdempotencyRecord;
use crate::model::event::{DeadLetter, Event, Sequence};
use crate::model::id::IngestionId;
use crate::model::ingestion::{Ingestion, Runs};
use crate::model::queue::{QueueId, QueueName};
use crate::model::time::Timestamp;
use crate::store::error::OpenError;
use crate::store::identity::Key;

/// The most ids that are read at once; one larger ingestion is read alone.
const IDS: usize = 1 << 20;

/// See the module.
pub(in crate::store) struct Source {
    db: Connection,
    name: String,
    meta: Meta,
    /// Where what remains of erased events stands.
    gone: Vec<Place>,
    /// Keeps other processes out.
    _lock: DirLock,
}

/// A queue as it stands.
pub(in crate::store) struct Queue {
    pub(in crate::store) id: QueueId,
    pub(in crate::store) name: QueueName,
    pub(in crate::store) last_slot: Option<Timestamp>,
}

/// An answer that is kept.
pub(in crate::store) struct Kept {
    pub(in crate::store) record: IdempotencyRecord,
    pub(in crate::store) ingestion: IngestionId,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Counts {
    /// The arrival of the last ingestion.
    pub(in crate::store) arrival: u64,
    pub(in crate::store) queues: u64,
    pub(in crate::store) live: u64,
    pub(in crate::store) ended: u64,
    pub(in crate::store) answers: u64,
    /// Events that were accepted, and so the arrival of the last one.
    pub(in crate::store) accepted: u64,
    pub(in crate::store) duplicates: u64,
    pub(in crate::store) conflicting: u64,
    pub(in crate::store) topics: u64,
    pub(in crate::store) letters: u64,
    pub(in crate::store) last_letter: u64,
}

/// A block of events.
pub(in crate::store) struct Block {
    /// The last arrival.
    pub(in crate::store) last: u64,
    contents: Contents,
}

impl Source {
    /// Refuses a directory that a server uses, that is damaged, or that there is not.
    pub(in crate::store) fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(DATABASE);
        let name = name_of(&path);
        if !path.exists() {
            let dir = dir.display();
            return Err(OpenError(format!("there is no store in {dir}")));
        }
        let lock = DirLock::take(dir)?;
        let testimony = Witness::read(dir).map_err(|error| {
            OpenError(format!("{}: {error}", dir.join(witness::NAME).display()))
        })?;
        if is_empty(&path) {
            return Err(OpenError(format!("{name} is damaged: it is empty")));
        }
        let refuse = |fault: Fault| fault.into_open_error(&name);
        let db = schema::open_reader(&path).map_err(refuse)?;
        let format = schema::examine(&db, &path)?;
        if format < FORMAT {
            return Err(OpenError(format!(
                "{name} has format {format}, expected {FORMAT}: start this version of tollgate \
                 once on it"
            )));
        }
        let meta = Meta::load(&db, TABLES).map_err(refuse)?;
        compare(dir, &meta, testimony, false)?;
        load::replay(&db, &meta, &mut |_| {}).map_err(refuse)?;
        let Count {
            accepted,
            last_sequence,
            ..
        } = meta.events;
        if accepted != last_sequence {
            return Err(OpenError(format!(
                "{name} is damaged: {accepted} events were accepted, and the last has number \
                 {last_sequence}"
            )));
        }
        let (gone, unknown) = spent::places(&db, &meta).map_err(refuse)?;
        if unknown > 0 {
            return Err(OpenError(format!(
                "{name} can't be moved: {unknown} of its events were erased by an early version that \
                 kept nothing of them but their identities"
            )));
        }
        Ok(Self {
            db,
            name,
            meta,
            gone,
            _lock: lock,
        })
    }

    /// The key of the identities; none in a store that never had an event.
    pub(in crate::store) fn key(&self) -> Option<Key> {
        self.meta.events.key
    }

    /// Tells its content from every other that it had or will have.
    pub(in crate::store) fn content(&self) -> i64 {
        self.meta.content()
    }

    pub(in crate::store) fn counts(&self) -> Counts {
        let rows = |table| self.meta.rows(table);
        let events = &self.meta.events;
        Counts {
            arrival: self.meta.last_arrival,
            queues: rows(Table::Queue),
            live: rows(Table::Live),
            ended: rows(Table::Ended),
            answers: rows(Table::Idempotency),
            accepted: events.accepted,
            duplicates: events.duplicates,
            conflicting: events.conflicting,
            topics: rows(Table::Topic),
            letters: rows(Table::Letter),
            last_letter: events.last_letter,
        }
    }

    pub(in crate::store) fn queues(&self) -> Result<Vec<Queue>, OpenError> {
        let read = || -> Result<_, Fault> {
            let mut digest = Digest::default();
            let mut statement = self
                .db
                .prepare("SELECT id, name, last_slot, digest FROM queue ORDER BY id")?;
            let mut rows = statement.query([])?;
            let mut queues = Vec::new();
            while let Some(row) = rows.next()? {
                let row = QueueRow::read(row, &mut digest)?;
                queues.push(Queue {
                    id: row.id,
                    name: row.name,
                    last_slot: row.last_slot,
                });
            }
            Ok(queues)
        };
        self.said(read())
    }

    pub(in crate::store) fn topics(&self) -> Result<BTreeSet<String>, OpenError> {
        self.said(events::write::load_topics(&self.db, &self.meta))
    }

    /// The next ingestions that have not ended, by arrival, with what became of their batches.
    pub(in crate::store) fn live_after(
        &self,
        arrival: u64,
        limit: usize,
    ) -> Result<Vec<Ingestion>, OpenError> {
        let read = || -> Result<_, Fault> {
            let mut digest = Digest::default();
            let mut statement = self.db.prepare_cached(select_live!(
                "FROM live WHERE arrival > ?1 ORDER BY arrival LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![arrival.cast_signed(), most(limit)])?;
            let (mut found, mut ids) = (Vec::new(), 0);
            while ids < IDS
                && let Some(row) = rows.next()?
            {
                let mut ingestion = IngestionRow::read_live(row, &mut digest)?.ingestion;
                ids += ingestion.ids.len();
                ingestion.runs = self.runs(ingestion.arrival.0, &mut digest)?;
                found.push(ingestion);
            }
            Ok(found)
        };
        self.said(read())
    }

    fn runs(&self, arrival: u64, digest: &mut Digest) -> Result<Option<Box<Runs>>, Fault> {
        let mut statement = self
            .db
            .prepare_cached(select_run!("FROM run WHERE arrival = ?1 ORDER BY batch"))?;
        let mut rows = statement.query([arrival.cast_signed()])?;
        let mut runs = None;
        while let Some(row) = rows.next()? {
            let row = RunRow::read(row, digest)?;
            row.append_to(runs.get_or_insert_default())?;
        }
        Ok(runs.map(Box::new))
    }

    /// The next ingestions that have ended, by arrival.
    pub(in crate::store) fn ended_after(
        &self,
        arrival: u64,
        limit: usize,
    ) -> Result<Vec<Ingestion>, OpenError> {
        let read = || -> Result<_, Fault> {
            let mut statement = self.db.prepare_cached(
                "SELECT arrival, id FROM ended WHERE arrival > ?1 ORDER BY arrival LIMIT ?2",
            )?;
            let mut rows = statement.query(params![arrival.cast_signed(), most(limit)])?;
            let (mut found, mut ids) = (Vec::new(), 0);
            while ids < IDS
                && let Some(row) = rows.next()?
            {
                let arrival = row.get::<_, i64>(0)?.cast_unsigned();
                let id = IngestionId::new(Uuid::from_bytes(row.get(1)?));
                let ingestion = ended::find(&self.db, id)?
                    .filter(|it| it.arrival.0 == arrival)
                    .ok_or_else(|| not_as_written(Table::Ended, arrival))?;
                ids += ingestion.ids.len();
                found.push(ingestion);
            }
            Ok(found)
        };
        self.said(read())
    }

    /// Kept answers by their key, behind the first `skip`.
    pub(in crate::store) fn answers(
        &self,
        skip: u64,
        limit: usize,
    ) -> Result<Vec<Kept>, OpenError> {
        let read = || -> Result<_, Fault> {
            let mut digest = Digest::default();
            let mut statement = self.db.prepare_cached(
                "SELECT key, body, ingestion, expires_at, digest FROM idempotency
                 ORDER BY key LIMIT ?2 OFFSET ?1",
            )?;
            let mut rows = statement.query(params![skip.cast_signed(), most(limit)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let row = KeptRow::read(row, &mut digest)?;
                found.push(Kept {
                    record: row.record,
                    ingestion: row.ingestion,
                });
            }
            Ok(found)
        };
        self.said(read())
    }

    /// The next dead letters, not many bytes at once.
    pub(in crate::store) fn letters_after(
        &self,
        number: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, OpenError> {
        let found = events::letters::list(&self.db, number, limit);
        self.said(found.map(|(letters, _)| letters))
    }

    /// The names of the next messages of the bus by their rows, with the number of the last row.
    pub(in crate::store) fn messages_after(
        &self,
        row: u64,
        limit: usize,
    ) -> Result<Option<(u64, Vec<MessageName>)>, OpenError> {
        self.said(events::messages::after(&self.db, row, most(limit)))
    }

    /// The next block by its last arrival, with all its events.
    pub(in crate::store) fn block_after(&self, last: u64) -> Result<Option<Block>, OpenError> {
        let read = || -> Result<_, Fault> {
            let mut statement = self.db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM block INDEXED BY block_by_sequence
                 WHERE last_sequence > ?1 ORDER BY last_sequence LIMIT 1"
            ))?;
            let mut rows = statement.query([last.cast_signed()])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let row = block::Row::read(row, &mut Digest::default())?;
            let last = row.sequences.1;
            let contents = block::load(&self.db, row)?;
            Ok(Some(Block { last, contents }))
        };
        self.said(read())
    }

    /// The events of a block.
    pub(in crate::store) fn events_of<'b>(
        &self,
        block: &'b Block,
    ) -> Result<Vec<(Sequence, Event<'b>)>, OpenError> {
        self.said(block.contents.events().and_then(Iterator::collect))
    }

    /// Where what remains of erased events stands, by the first arrival.
    pub(in crate::store) fn gone(&self) -> &[Place] {
        &self.gone
    }

    /// What remains there.
    pub(in crate::store) fn gone_at(&self, place: Place) -> Result<Gone, OpenError> {
        self.said(Gone::read(&self.db, place))
    }

    /// The events of which that remains.
    pub(in crate::store) fn events_gone<'g>(
        &self,
        gone: &'g Gone,
    ) -> Result<Vec<GoneEvent<'g>>, OpenError> {
        self.said(gone.events())
    }

    /// Says that the store is damaged.
    pub(in crate::store) fn damaged(&self, sentence: String) -> OpenError {
        Fault::Damaged(sentence).into_open_error(&self.name)
    }

    fn said<T>(&self, read: Result<T, Fault>) -> Result<T, OpenError> {
        read.map_err(|fault| fault.into_open_error(&self.name))
    }
}

fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
