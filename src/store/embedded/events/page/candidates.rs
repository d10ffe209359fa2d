//! Blocks in the order in which a page needs them.
//!
//! A page reads a block only when it reaches it, so blocks must come by the first event that they
//! may have in the page's order. The index has them by first time within each level: in ascending
//! order that is it; in descending order a block of level `l` ends less than `2^l` after it begins,
//! so once the index has come to a first time, no block behind it ends later than that. Merging the
//! levels by that bound gives the order, with few rows read ahead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rusqlite::{CachedStatement, Connection, Rows};

use super::key::Key;
use crate::model::event::Order;
use crate::store::embedded::codec::Digest;
use crate::store::embedded::events::block::{COLUMNS, Row};
use crate::store::embedded::fault::Fault;

/// The level whose blocks may span any time.
const UNBOUNDED: u8 = 63;

/// Which blocks are looked for: those that touch these times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The first time, in microseconds.
    pub(super) low: i64,
    /// The last time, in microseconds.
    pub(super) high: i64,
    /// From which end.
    pub(super) order: Order,
}

impl Window {
    /// The first and the last event that a block may have, in this order.
    pub(super) fn ends(&self, row: &Row) -> (Key, Key) {
        let ascending = self.order == Order::Ascending;
        let (first, last) = if ascending {
            row.times
        } else {
            (row.times.1, row.times.0)
        };
        if row.level > 0 {
            return (
                Key::first_at(first, self.order),
                Key::last_at(last, self.order),
            );
        }
        let (low, high) = row.sequences;
        let (first_sequence, last_sequence) = if ascending { (low, high) } else { (high, low) };
        (
            Key::exactly(first, first_sequence, self.order),
            Key::exactly(last, last_sequence, self.order),
        )
    }

    /// Where no block of this level and of this first time, or behind it in the index, begins
    /// before.
    fn bound(&self, level: u8, first_time: i64) -> Key {
        Key::first_at(
            match self.order {
                Order::Ascending => first_time,
                Order::Descending => first_time.saturating_add(longest(level)),
            },
            self.order,
        )
    }
}

/// The longest span of a level, in microseconds.
fn longest(level: u8) -> i64 {
    if level >= UNBOUNDED {
        i64::MAX
    } else {
        (1 << level) - 1
    }
}

/// The index in the window's order, a statement for each level that has blocks.
pub(super) fn statements<'c>(
    db: &'c Connection,
    window: &Window,
) -> Result<Vec<(u8, CachedStatement<'c>)>, Fault> {
    let mut levels = db.prepare_cached("SELECT min(level) FROM block WHERE level > ?1")?;
    let mut after = -1;
    let mut statements = Vec::new();
    while let Some(level) = levels.query_row([after], |row| row.get::<_, Option<u8>>(0))? {
        let direction = match window.order {
            Order::Ascending => "ASC",
            Order::Descending => "DESC",
        };
        let statement = db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM block INDEXED BY block_by_time
             WHERE level = {level} AND first_time BETWEEN ?1 AND ?2
             ORDER BY first_time {direction}"
        ))?;
        statements.push((level, statement));
        after = i32::from(level);
    }
    Ok(statements)
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frontier {
    /// A block; it and all that follow begin here at the earliest.
    Block(Key),
    /// More rows than allowed were read; whatever follows begins here at the earliest.
    Beyond(Key),
    /// Nothing.
    End,
}

/// A level's rows in the order of the index.
struct Stream<'s> {
    level: u8,
    rows: Rows<'s>,
    /// The row that comes next.
    next: Option<Row>,
}

/// Blocks by the first event that they may have.
pub(super) struct Candidates<'s> {
    window: Window,
    streams: Vec<Stream<'s>>,
    /// Read, and not taken yet.
    seen: BinaryHeap<Reverse<Seen>>,
    /// How many rows were read.
    rows: usize,
    digest: Digest,
}

/// A block in the order of its beginning.
struct Seen {
    begins: Key,
    row: Row,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Seen {}

impl PartialOrd for Seen {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seen {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.begins, self.row.id).cmp(&(other.begins, other.row.id))
    }
}

impl<'s> Candidates<'s> {
    pub(super) fn new(
        statements: &'s mut [(u8, CachedStatement<'_>)],
        window: Window,
    ) -> Result<Self, Fault> {
        let mut new = Self {
            window,
            streams: Vec::with_capacity(statements.len()),
            seen: BinaryHeap::new(),
            rows: 0,
            digest: Digest::default(),
        };
        for (level, statement) in statements {
            let earliest = window.low.saturating_sub(longest(*level));
            let earliest = if *level >= UNBOUNDED {
                i64::MIN
            } else {
                earliest
            };
            let mut stream = Stream {
                level: *level,
                rows: statement.query((earliest, window.high))?,
                next: None,
            };
            stream.next = read(&mut stream.rows, &mut new.digest)?;
            new.streams.push(stream);
        }
        Ok(new)
    }

    /// What comes next, of the blocks that are `wanted`; stops when `allowed` rows were read.
    pub(super) fn frontier(
        &mut self,
        allowed: usize,
        wanted: impl Fn(&Row) -> bool,
    ) -> Result<Frontier, Fault> {
        loop {
            let first = self.seen.peek().map(|Reverse(seen)| seen.begins);
            let window = self.window;
            let stream = self
                .streams
                .iter_mut()
                .filter_map(|stream| {
                    let next = stream.next.as_ref()?;
                    Some((window.bound(stream.level, next.times.0), stream))
                })
                .min_by_key(|(bound, _)| *bound);
            let Some((bound, stream)) = stream else {
                return Ok(first.map_or(Frontier::End, Frontier::Block));
            };
            if let Some(first) = first
                && first <= bound
            {
                return Ok(Frontier::Block(first));
            }
            if self.rows >= allowed {
                return Ok(Frontier::Beyond(bound));
            }
            self.rows += 1;
            let next = read(&mut stream.rows, &mut self.digest)?;
            let row = std::mem::replace(&mut stream.next, next);
            if let Some(row) = row
                && row.times.1 >= window.low
                && wanted(&row)
            {
                let begins = window.ends(&row).0;
                self.seen.push(Reverse(Seen { begins, row }));
            }
        }
    }

    /// The block that the frontier told of.
    pub(super) fn take(&mut self) -> Option<Row> {
        self.seen.pop().map(|Reverse(seen)| seen.row)
    }
}

fn read(rows: &mut Rows<'_>, digest: &mut Digest) -> Result<Option<Row>, Fault> {
    rows.next()?.map(|row| Row::read(row, digest)).transpose()
}
