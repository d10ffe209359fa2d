//! Events in order of arrival.
//!
//! Arrivals are handed out one after the other, so where none is missing the next event is known to
//! be the next. Blocks come by their last arrival; the arrivals of a block lie within [`MAX_SPAN`],
//! so only where an event is missing (it was erased) is it needed to look that far ahead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rusqlite::{Connection, Rows};

use super::{Found, WORK, Work, fetch, signed};
use crate::model::event::{EventFilter, Sequence, StoredEvent};
use crate::store::embedded::codec::Digest;
use crate::store::embedded::events::block::{self, COLUMNS, MAX_SPAN, Row};
use crate::store::embedded::fault::Fault;

/// The next events behind `after` that `filter` means, at most `limit` and no more than fit into the
/// bytes of a page, and the arrival up to which was looked.
pub(in crate::store::embedded) fn since(
    db: &Connection,
    after: Sequence,
    filter: &EventFilter,
    limit: usize,
) -> Result<(Vec<StoredEvent>, Sequence), Fault> {
    since_with(db, after, filter, limit, WORK)
}

pub(super) fn since_with(
    db: &Connection,
    after: Sequence,
    filter: &EventFilter,
    limit: usize,
    work: Work,
) -> Result<(Vec<StoredEvent>, Sequence), Fault> {
    let db = db.unchecked_transaction()?;
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM block INDEXED BY block_by_sequence
         WHERE last_sequence > ?1 ORDER BY last_sequence"
    ))?;
    let mut walk = Walk {
        db: &db,
        filter,
        rows: statement.query([signed(after.0)])?,
        row: None,
        unread: BinaryHeap::new(),
        pending: BinaryHeap::new(),
        digest: Digest::default(),
        pulled: 0,
        blocks: 0,
    };
    walk.pull()?;
    let mut looked = after.0;
    let mut chosen: Vec<Found<u64>> = Vec::new();
    let mut left = work.bytes;
    while chosen.len() < limit.max(1) {
        let used_up = walk.blocks >= work.blocks || walk.pulled >= work.rows;
        if used_up && looked > after.0 {
            break;
        }
        let Some((sequence, found)) = walk.next(looked.saturating_add(1))? else {
            break;
        };
        let bytes = found.map_or(0, |found| found.bytes);
        if bytes > left && !chosen.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes);
        looked = sequence;
        chosen.extend(found);
    }
    Ok((fetch(&db, &chosen)?, Sequence(looked)))
}

/// An event that was found, and whether it is meant.
type Seen = (Found<u64>, bool);

/// An arrival, and where its event is if it is meant.
type Passed = (u64, Option<Found<u64>>);

struct Walk<'q, 'r> {
    db: &'q Connection,
    filter: &'q EventFilter,
    rows: Rows<'r>,
    /// The row that comes next.
    row: Option<Row>,
    /// Blocks by their first arrival, with their ids.
    unread: BinaryHeap<Reverse<(u64, i64)>>,
    pending: BinaryHeap<Reverse<Seen>>,
    digest: Digest,
    /// How many rows were read.
    pulled: usize,
    /// How many blocks were read.
    blocks: usize,
}

impl Walk<'_, '_> {
    /// The first event that arrived at `next` or later.
    fn next(&mut self, mut next: u64) -> Result<Option<Passed>, Fault> {
        loop {
            let first = self.pending.peek().map(|Reverse((found, _))| found.key);
            if first == Some(next) {
                let found = self.pending.pop();
                let found = found.and_then(|Reverse((found, meant))| meant.then_some(found));
                return Ok(Some((next, found)));
            }
            if let Some(Reverse((begins, id))) = self.unread.peek()
                && *begins <= next
            {
                let id = *id;
                self.unread.pop();
                self.read(id, next)?;
                continue;
            }
            // `next` is in no block that is known; others that may hold it come first.
            let unseen = self.row.as_ref().map(|row| earliest(row.sequences.1));
            if unseen.is_some_and(|unseen| unseen <= next) {
                self.pull()?;
                continue;
            }
            let begins = self.unread.peek().map(|Reverse((begins, _))| *begins);
            match [first, begins, unseen].into_iter().flatten().min() {
                Some(there) => next = there.max(next),
                None => return Ok(None),
            }
        }
    }

    /// Goes on to the next row.
    fn pull(&mut self) -> Result<(), Fault> {
        self.pulled += 1;
        let next = self.rows.next()?;
        let next = next
            .map(|row| Row::read(row, &mut self.digest))
            .transpose()?;
        if let Some(row) = std::mem::replace(&mut self.row, next) {
            self.unread.push(Reverse((row.sequences.0, row.id)));
        }
        Ok(())
    }

    fn read(&mut self, id: i64, next: u64) -> Result<(), Fault> {
        self.blocks += 1;
        let contents = block::read(self.db, id)?;
        for (index, event) in contents.events()?.enumerate() {
            let (sequence, event) = event?;
            if sequence.0 >= next {
                let found = Found {
                    key: sequence.0,
                    block: id,
                    index,
                    bytes: block::size_of_record(&event),
                };
                let meant = self.filter.matches(&event);
                self.pending.push(Reverse((found, meant)));
            }
        }
        Ok(())
    }
}

/// The first arrival that a block with this last one may hold.
const fn earliest(last: u64) -> u64 {
    last.saturating_sub(MAX_SPAN - 1)
}
