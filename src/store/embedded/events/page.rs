//! Events as they are asked for: in order of (time, arrival), of arrival, one, or all.
//!
//! A page keeps a *frontier*: no event before it is in a block that was not read yet. Events that
//! were found before the frontier are final, in order; when they are not enough, the block at the
//! frontier is read and the frontier moves on. So a page costs the blocks that touch its times,
//! wherever it begins.
//!
//! What is found is kept as places, not as events: the few that make the page are read again.

mod candidates;
mod key;
mod rows;
mod since;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use rusqlite::Connection;

use self::candidates::{Candidates, Frontier, Window, statements};
use self::key::Key;
pub(super) use self::rows::rows_of;
pub(in crate::store::embedded) use self::since::since;
use super::super::codec::Digest;
use super::super::fault::Fault;
use super::block::{self, COLUMNS, MAX_EVENTS, Row};
use super::count::Count;
use crate::model::event::{
    Event, EventFilter, EventPage, Order, PageQuery, Place, Sequence, StoredEvent,
};

/// How much a page may do.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// How many blocks it may read,
    blocks: usize,
    /// and how many rows of blocks.
    rows: usize,
    /// More found places than this, beyond what the page needs, are forgotten.
    spare: usize,
    /// How many bytes its events may have together; one larger event is a page alone.
    bytes: usize,
}

/// The bounds of one page. They hold unless the page then ended where it began. Those who make text
/// of a page hold it twice, so its bytes are what one reader can take of the memory.
const WORK: Work = Work {
    blocks: 1_000,
    rows: 50_000,
    spare: 1 << 16,
    bytes: 32 << 20,
};

/// An event that was found: where it is in the order, where it lies, and how large it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Found<K> {
    key: K,
    block: i64,
    index: usize,
    bytes: usize,
}

/// A page of events in order of (time, arrival). With much to skip the work is that of several
/// pages, each in a transaction of its own.
pub(in crate::store::embedded) fn page(
    db: &Connection,
    query: &PageQuery,
) -> Result<EventPage, Fault> {
    let mut query = query.clone();
    loop {
        let (page, skipped) = part(db, &query, WORK)?;
        query.skip = query.skip.saturating_sub(skipped);
        match page.next {
            Some(next) if query.skip > 0 => query.after = Some(next),
            _ => return Ok(page),
        }
    }
}

/// As much of a page as `work` allows, and how many events were skipped.
fn part(db: &Connection, query: &PageQuery, work: Work) -> Result<(EventPage, u64), Fault> {
    let snapshot = db.unchecked_transaction()?;
    let window = window_of(query);
    let mut statements = statements(&snapshot, &window)?;
    let candidates = Candidates::new(&mut statements, window)?;
    let mut walk = Walk {
        db: &snapshot,
        query,
        window,
        after: query.after.map(|after| Key::of(after, query.order)),
        pending: BinaryHeap::new(),
        chosen: Vec::new(),
        skipped: 0,
        spare: work.spare,
        left: work.bytes,
    };
    let next = walk.run(candidates, work)?;
    let next = next.map(|key| key.place(query.order));
    let events = fetch(&snapshot, &walk.chosen)?;
    Ok((EventPage { events, next }, walk.skipped))
}

/// The times that the page may have.
fn window_of(query: &PageQuery) -> Window {
    let from = query
        .filter
        .from
        .map_or(i64::MIN, |from| from.micros.as_micros());
    let to = query.filter.to.map_or(i64::MAX, |to| to.micros.as_micros());
    let after = query.after.map(|after| after.time.micros.as_micros());
    let (low, high) = match query.order {
        Order::Ascending => (from.max(after.unwrap_or(from)), to),
        Order::Descending => (from, to.min(after.unwrap_or(to))),
    };
    Window {
        low,
        high,
        order: query.order,
    }
}

/// A page in the making.
struct Walk<'q> {
    db: &'q Connection,
    query: &'q PageQuery,
    window: Window,
    /// The place behind which it begins.
    after: Option<Key>,
    /// Found, and not known to be next.
    pending: BinaryHeap<Reverse<Found<Key>>>,
    chosen: Vec<Found<Key>>,
    skipped: u64,
    spare: usize,
    /// How many bytes of events still fit.
    left: usize,
}

impl Walk<'_> {
    /// Returns the key behind which the next page begins.
    fn run(&mut self, mut candidates: Candidates<'_>, work: Work) -> Result<Option<Key>, Fault> {
        let query = self.query;
        let (after, window) = (self.after, self.window);
        let wanted = |row: &Row| {
            let tenant = query.filter.tenant.as_deref();
            tenant.is_none_or(|tenant| row.may_hold(tenant))
                && after.is_none_or(|after| window.ends(row).1 > after)
        };
        let (mut blocks, mut rows, mut floor) = (0, work.rows, self.after);
        loop {
            let frontier = candidates.frontier(rows, wanted)?;
            let (Frontier::Block(key) | Frontier::Beyond(key)) = frontier else {
                return Ok(self.settle(None).break_value());
            };
            if let ControlFlow::Break(next) = self.settle(Some(key)) {
                return Ok(Some(next));
            }
            let floor = *floor.get_or_insert(key);
            let beyond = matches!(frontier, Frontier::Beyond(_));
            if (beyond || blocks >= work.blocks) && key.before() > floor {
                return Ok(Some(key.before()));
            }
            if beyond {
                rows = rows.saturating_add(work.rows);
                continue;
            }
            let Some(row) = candidates.take() else {
                continue;
            };
            if self.may_skip(&row) {
                let ends = self.window.ends(&row).1;
                let alone = match candidates.frontier(rows, wanted)? {
                    Frontier::Block(next) | Frontier::Beyond(next) => ends < next,
                    Frontier::End => true,
                };
                if alone {
                    self.skipped += u64::from(row.events);
                    continue;
                }
            }
            self.read(row)?;
            blocks += 1;
        }
    }

    /// Chooses what was found before `frontier`; breaks when the page is full and there is more.
    fn settle(&mut self, frontier: Option<Key>) -> ControlFlow<Key> {
        while let Some(Reverse(found)) = self.pending.peek()
            && frontier.is_none_or(|frontier| found.key < frontier)
        {
            if self.skipped < self.query.skip {
                self.skipped += 1;
            } else if self.chosen.is_empty()
                || (self.chosen.len() < self.query.limit && found.bytes <= self.left)
            {
                self.left = self.left.saturating_sub(found.bytes);
                self.chosen.push(*found);
            } else if let Some(last) = self.chosen.last() {
                return ControlFlow::Break(last.key);
            }
            self.pending.pop();
        }
        ControlFlow::Continue(())
    }

    /// Whether all events of a block are meant, and are to be skipped if no other block has events
    /// between them.
    fn may_skip(&self, row: &Row) -> bool {
        let filter = &self.query.filter;
        let all = EventFilter {
            from: filter.from,
            to: filter.to,
            ..EventFilter::default()
        };
        *filter == all
            && self.pending.is_empty()
            && self.query.skip - self.skipped >= u64::from(row.events)
            && self
                .after
                .is_none_or(|after| self.window.ends(row).0 > after)
            && filter
                .from
                .is_none_or(|from| row.times.0 > from.micros.as_micros())
            && filter
                .to
                .is_none_or(|to| row.times.1 < to.micros.as_micros())
    }

    /// Finds the events of a block that are meant.
    fn read(&mut self, row: Row) -> Result<(), Fault> {
        let block = row.id;
        let contents = block::load(self.db, row)?;
        for (index, event) in contents.events()?.enumerate() {
            let (sequence, event) = event?;
            let time = event.time;
            let key = Key::of(Place { time, sequence }, self.query.order);
            if self.after.is_none_or(|after| key > after) && self.query.filter.matches(&event) {
                self.pending.push(Reverse(Found {
                    key,
                    block,
                    index,
                    bytes: block::size_of_record(&event),
                }));
            }
        }
        self.forget();
        Ok(())
    }

    /// Keeps only the places that the page can need, once there are many others.
    fn forget(&mut self) {
        let left = usize::try_from(self.query.skip - self.skipped).unwrap_or(usize::MAX);
        // One more than fit tells that there is more.
        let needed = left
            .saturating_add(self.query.limit.max(1))
            .saturating_add(1);
        if self.pending.len() > needed.saturating_add(self.spare) {
            let mut pending = std::mem::take(&mut self.pending).into_vec();
            pending.select_nth_unstable_by(needed, |a, b| b.cmp(a));
            pending.truncate(needed);
            self.pending = pending.into();
        }
    }
}

/// Reads the events that were found, in the order in which they are given.
fn fetch<K: Copy>(db: &Connection, found: &[Found<K>]) -> Result<Vec<StoredEvent>, Fault> {
    let mut wanted: Vec<(i64, usize, usize)> = found
        .iter()
        .enumerate()
        .map(|(position, found)| (found.block, found.index, position))
        .collect();
    wanted.sort_unstable();
    let mut events = Vec::with_capacity(wanted.len());
    for of_block in wanted.chunk_by(|a, b| a.0 == b.0) {
        let Some((id, ..)) = of_block.first() else {
            continue;
        };
        let contents = block::read(db, *id)?;
        let mut wanted = of_block.iter().peekable();
        for (index, event) in contents.events()?.enumerate() {
            let (sequence, event) = event?;
            if let Some((.., position)) = wanted.next_if(|(_, wanted, _)| *wanted == index) {
                let event = event.into_owned();
                events.push((*position, StoredEvent { sequence, event }));
            }
            if wanted.peek().is_none() {
                break;
            }
        }
    }
    events.sort_unstable_by_key(|(position, _)| *position);
    Ok(events.into_iter().map(|(_, event)| event).collect())
}

/// The event of an identity whose time is known. Reads the blocks that touch that time until it is
/// found.
pub(in crate::store::embedded) fn at(
    db: &Connection,
    time_micros: i64,
    tenant: &str,
    topic: &str,
    id: &str,
) -> Result<Option<StoredEvent>, Fault> {
    let db = db.unchecked_transaction()?;
    let window = Window {
        low: time_micros,
        high: time_micros,
        order: Order::Ascending,
    };
    let mut statements = statements(&db, &window)?;
    let mut candidates = Candidates::new(&mut statements, window)?;
    let wanted = |row: &Row| row.may_hold(tenant);
    while let Frontier::Block(_) = candidates.frontier(usize::MAX, wanted)? {
        let Some(row) = candidates.take() else {
            break;
        };
        let contents = block::load(&db, row)?;
        for event in contents.events()? {
            let (sequence, event) = event?;
            if event.id == id && event.topic == topic && event.tenant == tenant {
                let event = event.into_owned();
                return Ok(Some(StoredEvent { sequence, event }));
            }
        }
    }
    Ok(None)
}

/// Calls `each` with every event that arrived after `after`, a block at a time and in no particular
/// order, until it breaks. Returns the arrival of the last event there is, or `None` after a break.
/// All of it is as of one commit if the caller has begun a transaction.
pub(in crate::store::embedded) fn blocks_after(
    db: &Connection,
    after: Sequence,
    mut each: impl FnMut(&[(Sequence, Event<'_>)]) -> ControlFlow<()>,
) -> Result<Option<Sequence>, Fault> {
    let last = Sequence(Count::load(db)?.0.last_sequence);
    let mut digest = Digest::default();
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM block INDEXED BY block_by_sequence
         WHERE last_sequence > ?1 ORDER BY last_sequence"
    ))?;
    let mut rows = statement.query([signed(after.0)])?;
    while let Some(row) = rows.next()? {
        let contents = block::load(db, Row::read(row, &mut digest)?)?;
        let mut events = Vec::with_capacity(MAX_EVENTS);
        for event in contents.events()? {
            let (sequence, event) = event?;
            if sequence > after {
                events.push((sequence, event));
            }
        }
        if each(&events).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(last))
}

/// An arrival as SQLite stores it; those that it can't store are behind all others.
fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
