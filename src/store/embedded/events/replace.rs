//! Blocks that take the place of others: fewer and fuller ones, or ones without erased events.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::super::Embedded;
use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::Meta;
use super::block::{self, Block};
use super::pack;
use super::spent::{self, Remains};
use crate::model::event::{EventFilter, Sequence};
use crate::rollups::UserKey;
use crate::store::error::StoreError;
use crate::store::identity::Key;

/// How many blocks an erasure reads before it writes.
const ERASED_AT_ONCE: usize = 64;

/// One step of an erasure.
struct Step {
    /// Blocks that hold events to be erased.
    gone: Vec<i64>,
    /// The same without those.
    blocks: Vec<Block>,
    /// What remains of those.
    remains: Vec<Remains>,
    /// Where to go on.
    last: i64,
    /// Whether there was nothing left to look at.
    done: bool,
}

impl Embedded {
    pub(in crate::store) async fn pack(&self) -> Result<bool, StoreError> {
        let (before, planner) = (*self.events.last.borrow(), Arc::clone(&self.events.planner));
        let merged = self.readers.read(move |db| {
            let ids = planner.lock().plan(db, before)?;
            ids.map(|ids| pack::merge(db, &ids)).transpose()
        });
        let Some(merged) = merged.await? else {
            return Ok(false);
        };
        self.other(move |db, meta, digest| exchange(db, meta, digest, &merged.ids, &merged.blocks))
            .await?;
        Ok(true)
    }

    /// What arrived after `last` is not looked at, or this might never end.
    pub(in crate::store) async fn erase(
        &self,
        filter: EventFilter,
        last: Sequence,
    ) -> Result<u64, StoreError> {
        let last = last.min(*self.events.last.borrow());
        let keys = (self.events.key, self.events.user_key);
        let (mut from, mut erased) = (0, 0);
        loop {
            let filter = filter.clone();
            let step = self
                .readers
                .read(move |db| find(db, &filter, keys, from, last))
                .await?;
            (from, erased) = (step.last, erased + step.remains.len() as u64);
            let mut done = step.done;
            if !step.gone.is_empty() {
                let found = step.remains.len() as u64;
                let written = self.other(move |db, meta, digest| {
                    let written = exchange(db, meta, digest, &step.gone, &step.blocks)?;
                    if written > 0 {
                        spent::insert(db, meta, digest, &step.remains)?;
                    }
                    Ok(written)
                });
                if written.await? == 0 {
                    // The packer was faster: what it made has a higher id and is looked at next.
                    (erased, done) = (erased - found, false);
                }
            }
            if done {
                return Ok(erased);
            }
        }
    }
}

/// Removes the blocks `gone` and adds `blocks`, if those are all still there; returns how many went.
fn exchange(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    gone: &[i64],
    blocks: &[Block],
) -> Result<u64, Fault> {
    for id in gone {
        let there: Option<i64> = db
            .prepare_cached("SELECT id FROM block WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if there.is_none() {
            return Ok(0);
        }
    }
    // First the new ones, so that their ids are higher than any that an erasure has passed.
    for block in blocks {
        block::insert(db, meta, digest, block, 0)?;
    }
    for id in gone {
        block::remove(db, meta, digest, *id)?;
    }
    Ok(gone.len() as u64)
}

/// Looks through the next blocks behind `from` for events that `filter` means and that arrived up to
/// `last`.
fn find(
    db: &Connection,
    filter: &EventFilter,
    keys: (Key, UserKey),
    from: i64,
    last: Sequence,
) -> Result<Step, Fault> {
    let mut step = Step {
        gone: Vec::new(),
        blocks: Vec::new(),
        remains: Vec::new(),
        last: from,
        done: false,
    };
    let candidates = candidates(db, filter, from, last)?;
    step.done = candidates.len() < ERASED_AT_ONCE;
    for id in candidates {
        step.last = id;
        let Some(decoded) = block::find(db, id)? else {
            continue;
        };
        let mut kept = Vec::new();
        let before = step.remains.len();
        for event in decoded.events()? {
            let (sequence, event) = event?;
            if sequence <= last && filter.matches(&event) {
                step.remains.push(Remains::of(keys, sequence, &event));
            } else {
                kept.push((sequence.0, event));
            }
        }
        if step.remains.len() > before {
            step.gone.push(id);
            let packed = decoded.packed();
            let kept = kept.iter().map(|(sequence, event)| (*sequence, event));
            step.blocks.extend(block::build(kept, packed));
        }
    }
    Ok(step)
}

/// Ids of the next blocks behind `from` that may hold events that `filter` means.
fn candidates(
    db: &Connection,
    filter: &EventFilter,
    from: i64,
    last: Sequence,
) -> Result<Vec<i64>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT id FROM block
         WHERE id > ?1 AND first_sequence <= ?2
           AND (?3 IS NULL OR ?3 BETWEEN first_tenant AND last_tenant)
           AND last_time >= ?4 AND first_time <= ?5
         ORDER BY id LIMIT ?6",
    )?;
    let micros = |time: Option<crate::model::event::EventTime>, none: i64| {
        time.map_or(none, |time| time.micros.as_micros())
    };
    let limit = i64::try_from(ERASED_AT_ONCE).unwrap_or(i64::MAX);
    let rows = statement.query_map(
        (
            from,
            last.0.cast_signed(),
            filter.tenant.as_deref(),
            micros(filter.from, i64::MIN),
            micros(filter.to, i64::MAX),
            limit,
        ),
        |row| row.get(0),
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}
