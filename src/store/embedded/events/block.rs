//! Blocks: made from events, written as rows, read back.

mod row;

use std::cmp::Ordering;

use rusqlite::{Connection, OptionalExtension};
use xxhash_rust::xxh3::xxh3_64;

pub(super) use self::row::level_of;
pub(in crate::store::embedded) use self::row::{COLUMNS, Row};
use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use super::codec::{self, Decoded};
use crate::model::event::{Event, Sequence};

/// The most events of a block.
pub(in crate::store::embedded) const MAX_EVENTS: usize = 512;

/// The most bytes of records of a block before compression; one larger record makes a block alone.
pub(in crate::store::embedded) const MAX_BYTES: usize = 256 * 1024;

/// The numbers of a block's events lie within a window of this many, so that what may hold an
/// arrival can be told from a block's last one.
pub(super) const MAX_SPAN: u64 = 1 << 20;

/// What a record takes besides its texts, about.
const RECORD: usize = 16;

/// A block that is ready to be written, and what its row says.
#[derive(Debug)]
pub(in crate::store::embedded) struct Block {
    /// Least and greatest time, in microseconds.
    pub(in crate::store::embedded) times: (i64, i64),
    /// Least and greatest number (see [`build`]).
    pub(in crate::store::embedded) numbers: (u64, u64),
    /// Least and greatest tenant.
    pub(in crate::store::embedded) tenants: (String, String),
    /// The bits that the span of its times needs, see `events.rs`.
    pub(in crate::store::embedded) level: u8,
    /// How many events.
    pub(in crate::store::embedded) events: u32,
    /// How often its events went through the packer.
    pub(in crate::store::embedded) packed: u8,
    /// The hash of `data`.
    pub(in crate::store::embedded) checksum: u64,
    /// The encoded events; their numbers are kept as differences to the block's least one.
    pub(in crate::store::embedded) data: Vec<u8>,
}

type Numbered<'e> = (u64, &'e Event<'e>);

/// Makes blocks of events that come with their numbers: places in a request while their arrival is
/// not known yet, or arrivals.
pub(in crate::store::embedded) fn build<'e>(
    events: impl Iterator<Item = Numbered<'e>>,
    packed: u8,
) -> Vec<Block> {
    let mut events: Vec<Numbered<'e>> = events.collect();
    let least = events.iter().map(|(number, _)| *number).min().unwrap_or(0);
    let window = |number: u64| number.wrapping_sub(least) / MAX_SPAN;
    events.sort_unstable_by(|a, b| window(a.0).cmp(&window(b.0)).then_with(|| order(a, b)));
    let mut blocks = Vec::with_capacity(events.len() / MAX_EVENTS + 1);
    let mut rest = events.as_slice();
    while let Some((first, _)) = rest.first() {
        let mut bytes = 0;
        let fitting = rest.iter().take(MAX_EVENTS).take_while(|(number, event)| {
            let before = bytes;
            bytes += size_of_record(event);
            window(*number) == window(*first) && (before == 0 || bytes <= MAX_BYTES)
        });
        let (taken, left) = rest.split_at(fitting.count());
        blocks.extend(close(taken, packed));
        rest = left;
    }
    blocks
}

/// By tenant, then time, then number.
fn order(a: &Numbered<'_>, b: &Numbered<'_>) -> Ordering {
    let times = || a.1.time.cmp(&b.1.time).then(a.0.cmp(&b.0));
    a.1.tenant.cmp(&b.1.tenant).then_with(times)
}

/// What an event takes, about, in a block before compression and in memory.
pub(super) fn size_of_record(event: &Event<'_>) -> usize {
    let length = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map_or(0, str::len);
    RECORD
        + event.tenant.len()
        + event.topic.len()
        + event.id.len()
        + length(&event.source)
        + length(&event.event_type)
        + length(&event.user)
        + event.payload.len()
        + event.extra.len()
}

/// A block of these events; `None` of none.
fn close(events: &[Numbered<'_>], packed: u8) -> Option<Block> {
    let (first, last) = (events.first()?.1, events.last()?.1);
    let mut numbers = (u64::MAX, 0);
    let mut times = (i64::MAX, i64::MIN);
    for (number, event) in events {
        let at = event.time.micros.as_micros();
        numbers = (numbers.0.min(*number), numbers.1.max(*number));
        times = (times.0.min(at), times.1.max(at));
    }
    let nanos = events.iter().any(|(_, event)| event.time.nanos != 0);
    let data = codec::encode(events, numbers.0);
    Some(Block {
        times,
        numbers,
        tenants: (
            first.tenant.clone().into_owned(),
            last.tenant.clone().into_owned(),
        ),
        level: level_of(times, nanos),
        events: u32::try_from(events.len()).unwrap_or(u32::MAX),
        packed,
        checksum: xxh3_64(&data),
        data,
    })
}

/// Writes a block whose numbers become arrivals when `base` is added. Returns its id.
pub(in crate::store::embedded) fn insert(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    block: &Block,
    base: u64,
) -> Result<i64, Fault> {
    // An id never comes again: who knows a block by its id may find it gone, but not another one.
    // Nobody checks the row of `sqlite_sequence`, so it isn't believed to be behind the blocks.
    let sql = "SELECT max(coalesce(max(seq), 0), (SELECT coalesce(max(id), 0) FROM block)) + 1
               FROM sqlite_sequence WHERE name = 'block'";
    let id = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let row = Row::of(id, block, base, digest);
    row.insert(db)?;
    db.prepare_cached("INSERT INTO block_data (id, data) VALUES (?1, ?2)")?
        .execute((id, &block.data))?;
    meta.tally(Table::Block).add(row.digest);
    Ok(id)
}

/// Removes a block; whether there was one.
pub(in crate::store::embedded) fn remove(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    id: i64,
) -> Result<bool, Fault> {
    let Some(row) = Row::find(db, id, digest)? else {
        return Ok(false);
    };
    for sql in [
        "DELETE FROM block WHERE id = ?1",
        "DELETE FROM block_data WHERE id = ?1",
    ] {
        db.prepare_cached(sql)?.execute([id])?;
    }
    meta.tally(Table::Block).remove(row.digest);
    Ok(true)
}

/// A block as it was read.
#[derive(Debug)]
pub(in crate::store::embedded) struct Contents {
    row: Row,
    decoded: Decoded,
}

impl Contents {
    /// How often its events went through the packer.
    pub(in crate::store::embedded) const fn packed(&self) -> u8 {
        self.row.packed
    }

    /// How many bytes of memory it takes, about.
    pub(in crate::store::embedded) fn size(&self) -> usize {
        self.decoded.size()
    }

    /// Its events by tenant, time and arrival. After an error there are no more.
    pub(in crate::store::embedded) fn events(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Sequence, Event<'_>), Fault>>, Fault> {
        let events = self.decoded.events().map_err(|_| self.garbage())?;
        if events.size_hint().1 != Some(self.row.events as usize) {
            return Err(self.garbage());
        }
        Ok(events.map(|event| {
            let (number, event) = event.map_err(|_| self.garbage())?;
            let sequence = Sequence(self.row.sequences.0.wrapping_add(number));
            Ok((sequence, event))
        }))
    }

    fn garbage(&self) -> Fault {
        garbage(self.row.id)
    }
}

/// Reads a block and compares it with its row.
pub(in crate::store::embedded) fn read(db: &Connection, id: i64) -> Result<Contents, Fault> {
    find(db, id)?.ok_or_else(|| damaged(id, "is missing"))
}

/// As [`read`], of a block that may have been removed.
pub(super) fn find(db: &Connection, id: i64) -> Result<Option<Contents>, Fault> {
    let row = Row::find(db, id, &mut Digest::default())?;
    row.map(|row| load(db, row)).transpose()
}

/// Reads the data that belongs to a row.
pub(in crate::store::embedded) fn load(db: &Connection, row: Row) -> Result<Contents, Fault> {
    let decoded = with_data(db, &row, Decoded::new)?;
    match decoded {
        Ok(decoded) => Ok(Contents { row, decoded }),
        Err(_) => Err(garbage(row.id)),
    }
}

/// The data that belongs to a row, as it lies there.
pub(super) fn data(db: &Connection, row: &Row) -> Result<Vec<u8>, Fault> {
    with_data(db, row, <[u8]>::to_vec)
}

/// Calls `read` with the data that belongs to a row.
fn with_data<T>(db: &Connection, row: &Row, read: impl FnOnce(&[u8]) -> T) -> Result<T, Fault> {
    let read = db
        .prepare_cached("SELECT data FROM block_data WHERE id = ?1")?
        .query_row([row.id], |found| {
            let Ok(data) = found.get_ref(0)?.as_blob() else {
                return Ok(None);
            };
            let whole = data.len() as u64 == row.bytes && xxh3_64(data) == row.checksum;
            Ok(whole.then(|| read(data)))
        })
        .optional()?;
    match read {
        None => Err(damaged(row.id, "has no data")),
        Some(None) => Err(damaged(row.id, "is not what was written")),
        Some(Some(read)) => Ok(read),
    }
}

/// What a block is whose data is not of the encoder's making.
pub(super) fn garbage(id: i64) -> Fault {
    damaged(id, "can't be decoded")
}

/// Reads every row of a block, not the blocks, and compares them with what was written. The rows
/// come through the index by arrival, and the index by time is compared with them, since whatever
/// reads events later finds them by one of the two.
pub(super) fn check(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let (mut found, mut by_time) = (Tally::default(), Tally::default());
    let mut digest = Digest::default();
    let mut statement = db.prepare(&format!(
        "SELECT {COLUMNS} FROM block INDEXED BY block_by_sequence ORDER BY last_sequence"
    ))?;
    let mut rows = statement.query([])?;
    let mut previous = None;
    while let Some(row) = rows.next()? {
        let row = Row::read(row, &mut digest)?;
        in_order(&mut previous, (row.sequences.1.cast_signed(), 0, row.id))?;
        found.add(row.digest);
        by_time.add(place(&mut digest, row.level, row.times.0, row.id));
    }
    meta.check(Table::Block, found)?;
    check_times(db, by_time)
}

/// Compares the index by time with the rows.
fn check_times(db: &Connection, expected: Tally) -> Result<(), Fault> {
    let mut found = Tally::default();
    let mut digest = Digest::default();
    let mut statement = db.prepare(
        "SELECT level, first_time, id FROM block INDEXED BY block_by_time
         ORDER BY level, first_time",
    )?;
    let mut rows = statement.query([])?;
    let mut previous = None;
    while let Some(row) = rows.next()? {
        let (level, time, id): (u8, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        in_order(&mut previous, (i64::from(level), time, id))?;
        found.add(place(&mut digest, level, time, id));
    }
    if found == expected {
        Ok(())
    } else {
        Err(Fault::Damaged(
            "the index by time of table block is not what was written".to_owned(),
        ))
    }
}

/// The digest of an entry of the index by time.
fn place(digest: &mut Digest, level: u8, first_time: i64, id: i64) -> i64 {
    let entry = digest.row("block_by_time").int(i64::from(level));
    entry.int(first_time).int(id).finish()
}

/// An index whose entries are in order is gone down the right way later.
fn in_order(previous: &mut Option<(i64, i64, i64)>, next: (i64, i64, i64)) -> Result<(), Fault> {
    if previous.replace(next).is_some_and(|before| before >= next) {
        return Err(Fault::Damaged(
            "the rows of table block are out of order".to_owned(),
        ));
    }
    Ok(())
}

fn damaged(id: i64, how: &str) -> Fault {
    Fault::Damaged(format!("block {id} of events {how}"))
}

#[cfg(test)]
mod tests;
