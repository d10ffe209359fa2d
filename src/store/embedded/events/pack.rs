//! The packer: merges blocks whose events belong together.
//!
//! Small commits make small blocks, and events that come out of order make blocks that lie over one
//! another in time, each of which a page has to read. The packer merges up to [`MAX_BLOCKS`]
//! blocks:
//! - *small* ones that arrived one after the other, or
//! - *overlapping* ones: those that have tenants and times in common with one of them. Sorted
//!   together they become as many blocks that hardly overlap.
//!
//! **It comes to an end.** Only blocks that went through the packer equally often are merged, and
//! what they become went through it once more; at [`MAX_PACKED`] they are left alone. So an event
//! is moved at most [`MAX_PACKED`] times.
//!
//! Blocks of one merge arrived within [`MAX_SPAN`] of each other, so that events can still be read
//! in order of arrival.

use std::collections::VecDeque;

use rusqlite::Connection;

use super::super::codec::Digest;
use super::super::fault::Fault;
use super::block::{self, Block, COLUMNS, Contents, MAX_EVENTS, MAX_SPAN, Row, build};
use crate::model::event::{Event, Sequence};

/// The most blocks that are merged at once.
pub(in crate::store::embedded) const MAX_BLOCKS: usize = 64;

/// The fewest.
const MIN_BLOCKS: usize = 8;

/// The fewest overlapping blocks that are merged while more may come that overlap too.
const MIN_EARLY: usize = 32;

/// How often an event goes through the packer.
pub(in crate::store::embedded) const MAX_PACKED: u8 = 4;

/// The most memory that the blocks of a merge take, in bytes; one larger block goes alone.
const MAX_MEMORY: usize = 64 * 1024 * 1024;

/// A block of fewer bytes than this, and less than half of the events that fit, is small.
const SMALL_BYTES: u64 = 32 * 1024;

/// The most rows of blocks that are compared with each other.
const MAX_ROWS: usize = 2048;

/// How many rows are read before they are looked at.
const READ_AHEAD: u32 = 1024;

/// Picks blocks to merge. It remembers how far it looked, and begins anew after a start.
#[derive(Debug, Default)]
pub(in crate::store::embedded) struct Planner {
    /// The id up to which rows were read: blocks that are made later have greater ones.
    read: i64,
    tiers: [Tier; MAX_PACKED as usize],
}

impl Planner {
    /// The ids of blocks worth merging, all of whose events arrived up to `before`.
    ///
    /// They are not proposed again, whether they are then merged or not.
    pub(in crate::store::embedded) fn plan(
        &mut self,
        db: &Connection,
        before: Sequence,
    ) -> Result<Option<Vec<i64>>, Fault> {
        loop {
            if let Some(ids) = self.tiers.iter_mut().find_map(Tier::pick) {
                return Ok(Some(ids));
            }
            if !self.read(db, before)? {
                return Ok(None);
            }
        }
    }

    /// Reads on, a bounded number of rows; whether there were any.
    fn read(&mut self, db: &Connection, before: Sequence) -> Result<bool, Fault> {
        let mut digest = Digest::default();
        let mut statement = db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM block WHERE id > ?1 ORDER BY id LIMIT ?2"
        ))?;
        let mut rows = statement.query((self.read, READ_AHEAD))?;
        let mut any = false;
        while let Some(row) = rows.next()? {
            let row = Row::read(row, &mut digest)?;
            if row.sequences.1 > before.0 {
                break;
            }
            any = true;
            self.read = row.id;
            if let Some(tier) = self.tiers.get_mut(usize::from(row.packed)) {
                tier.insert(row);
            }
        }
        Ok(any)
    }
}

/// The blocks that went through the packer equally often.
#[derive(Debug, Default)]
struct Tier {
    /// In order of last arrival, the newest [`MAX_ROWS`].
    rows: VecDeque<Row>,
    /// How many of them were looked at since a row came.
    looked: usize,
}

impl Tier {
    fn insert(&mut self, row: Row) {
        let place = |row: &Row| (row.sequences.1, row.id);
        let index = self
            .rows
            .partition_point(|other| place(other) < place(&row));
        self.rows.insert(index, row);
        self.looked = 0;
        if self.rows.len() > MAX_ROWS {
            self.rows.pop_front();
        }
    }

    /// Blocks worth merging.
    fn pick(&mut self) -> Option<Vec<i64>> {
        while let Some(row) = self.rows.get(self.looked) {
            let ids = self.small(self.looked).or_else(|| self.overlapping(row));
            if let Some(ids) = ids {
                let looked_at = self.rows.range(..self.looked);
                self.looked -= looked_at.filter(|row| ids.contains(&row.id)).count();
                self.rows.retain(|row| !ids.contains(&row.id));
                return Some(ids);
            }
            self.looked += 1;
        }
        None
    }

    /// A run of small blocks from the one at `index` on, if it is long enough.
    fn small(&self, index: usize) -> Option<Vec<i64>> {
        let first = self.rows.get(index)?;
        let ids: Vec<i64> = self
            .rows
            .range(index..)
            .take_while(|row| is_small(row) && within(first, row))
            .take(MAX_BLOCKS)
            .map(|row| row.id)
            .collect();
        (ids.len() >= MIN_BLOCKS).then_some(ids)
    }

    /// The blocks that overlap `row`, with it, if they are enough.
    fn overlapping(&self, row: &Row) -> Option<Vec<i64>> {
        let complete =
            self.rows.len() >= MAX_ROWS || self.rows.back().is_some_and(|last| !within(row, last));
        let fewest = if complete { MIN_BLOCKS } else { MIN_EARLY };
        let ids: Vec<i64> = self
            .rows
            .iter()
            .filter(|other| overlap(row, other) && within(row, other))
            .take(MAX_BLOCKS)
            .map(|row| row.id)
            .collect();
        (ids.len() >= fewest).then_some(ids)
    }
}

fn is_small(row: &Row) -> bool {
    (row.events as usize) < MAX_EVENTS / 2 && row.bytes < SMALL_BYTES
}

/// Whether two blocks, and any that arrived between them, may be merged: half of the window to
/// either side of one is the whole of it.
fn within(one: &Row, other: &Row) -> bool {
    let first = one.sequences.0.min(other.sequences.0);
    let last = one.sequences.1.max(other.sequences.1);
    last - first < MAX_SPAN / 2
}

/// Whether two blocks have tenants and times in common.
fn overlap(one: &Row, other: &Row) -> bool {
    let apart = one.times.1 < other.times.0
        || other.times.1 < one.times.0
        || one.tenants.1 < other.tenants.0
        || other.tenants.1 < one.tenants.0;
    !apart
}

/// What a merge makes.
#[derive(Debug)]
pub(in crate::store::embedded) struct Merged {
    /// The blocks that were merged: those of the plan that are still there, as many as fit into
    /// memory. They are to be removed in the transaction that inserts the others; if one is gone
    /// by then, its events may be erased, and the merge is void.
    pub(in crate::store::embedded) ids: Vec<i64>,
    /// What they become; their numbers are arrivals, so they are inserted with base 0.
    pub(in crate::store::embedded) blocks: Vec<Block>,
}

/// Merges blocks.
pub(in crate::store::embedded) fn merge(db: &Connection, ids: &[i64]) -> Result<Merged, Fault> {
    merge_within(db, ids, MAX_MEMORY)
}

fn merge_within(db: &Connection, ids: &[i64], memory: usize) -> Result<Merged, Fault> {
    let mut merged = Vec::with_capacity(ids.len().min(MAX_BLOCKS));
    let mut contents: Vec<Contents> = Vec::with_capacity(merged.capacity());
    let mut size = 0;
    for id in ids.iter().take(MAX_BLOCKS) {
        let Some(found) = block::find(db, *id)? else {
            continue;
        };
        size += found.size();
        if size > memory && !contents.is_empty() {
            break;
        }
        merged.push(*id);
        contents.push(found);
    }
    let packed = contents.iter().map(Contents::packed).max().unwrap_or(0);
    let mut events: Vec<(u64, Event<'_>)> = Vec::new();
    for contents in &contents {
        for event in contents.events()? {
            let (sequence, event) = event?;
            events.push((sequence.0, event));
        }
    }
    let numbered = events.iter().map(|(number, event)| (*number, event));
    Ok(Merged {
        ids: merged,
        blocks: build(numbered, packed.saturating_add(1)),
    })
}

#[cfg(test)]
mod tests;
