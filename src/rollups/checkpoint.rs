//! Rollups as a stream of bytes, to go on from at the next start.
//!
//! A [`Snapshot`] shares what it holds with the rollups that go on: it is taken in an instant, and
//! written while they change. What is derived from cells, the days, is not in it.

mod stream;

use std::io::{Read, Write};
use std::sync::Arc;

use self::stream::{In, Out};
use super::Bound;
use super::cell::{Cell, Entry};
use super::fold::{Bounds, Pair, Rollups, Tenant};
use super::names::Interner;
use super::users::Users;
use crate::model::event::Sequence;

#[cfg(test)]
pub(super) use self::stream::CHUNK;

/// Why there are no rollups in a stream. They can be made again from the events.
#[derive(Debug, thiserror::Error)]
pub enum Unrestored {
    /// It is cut or changed, or of other events, bounds, or another layout.
    #[error("this is no whole checkpoint of these rollups in the layout of this version")]
    Damaged,
    /// It can't be read.
    #[error("the checkpoint of the rollups can't be read: {0}")]
    Unread(std::io::Error),
}

/// Rollups as they were.
#[derive(Debug)]
pub struct Snapshot {
    bounds: Bounds,
    covers: Sequence,
    more_tenants: bool,
    /// Tenants, types, sources.
    names: [Vec<Arc<str>>; 3],
    pairs: Vec<Pair>,
    users: Users,
    tenants: Vec<Arc<Tenant>>,
}

impl Rollups {
    /// What to write a checkpoint from: a few thousand pointers, so that a lock is held briefly.
    /// While it is kept, what changes is copied first, in pieces of some kilobytes.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bounds: self.bounds,
            covers: self.covers,
            more_tenants: self.more_tenants,
            names: [&self.tenant_names, &self.types, &self.sources].map(|it| it.names().to_vec()),
            pairs: self.pairs.clone(),
            users: self.users.clone(),
            tenants: self.tenants.clone(),
        }
    }

    /// From what [`Snapshot::write_to`] wrote with this `identity`, and with these bounds: others
    /// would have kept other tenants.
    pub fn read_from(
        bounds: Bounds,
        identity: [u8; 16],
        input: &mut impl Read,
    ) -> Result<Self, Unrestored> {
        let mut input = In::new(input, identity)?;
        let mut rollups = Self::new(bounds);
        for bound in numbers_of(bounds) {
            if input.number()? != bound {
                return Err(Unrestored::Damaged);
            }
        }
        rollups.covers = Sequence(input.number()?);
        rollups.more_tenants = input.number()? != 0;
        rollups.tenant_names = names(&mut input)?;
        rollups.types = names(&mut input)?;
        rollups.sources = names(&mut input)?;
        for number in 0..input.small::<u16>()? {
            let pair: Pair = (input.small()?, input.small()?);
            let known = usize::from(pair.0) <= rollups.sources.names().len()
                && usize::from(pair.1) <= rollups.types.names().len();
            rollups.pairs.push(pair);
            if !known || rollups.pair_numbers.insert(pair, number).is_some() {
                return Err(Unrestored::Damaged);
            }
        }
        rollups.users = users(&mut input)?;
        let mut owned = vec![false; rollups.users.blocks().len()];
        for _ in 0..rollups.tenant_names.names().len() {
            let tenant = tenant(&mut input, &rollups.users, rollups.pairs.len())?;
            for block in &tenant.blocks {
                match owned.get_mut(usize::from(*block)) {
                    Some(owned) if !*owned => *owned = true,
                    _ => return Err(Unrestored::Damaged),
                }
            }
            rollups.hours += tenant.cells.len();
            rollups.events += tenant.events;
            rollups.tenants.push(Arc::new(tenant));
        }
        input.finish()?;
        rollups.derive_days();
        Ok(rollups)
    }
}

impl Snapshot {
    /// The arrival of the last event that it knows.
    #[must_use]
    pub fn covers(&self) -> Sequence {
        self.covers
    }

    /// Writes all of it, in pieces of 256 KiB. `identity` says whose events these are.
    pub fn write_to(&self, identity: [u8; 16], out: &mut impl Write) -> std::io::Result<()> {
        let mut out = Out::new(out, identity)?;
        for bound in numbers_of(self.bounds) {
            out.number(bound)?;
        }
        out.number(self.covers.0)?;
        out.number(u64::from(self.more_tenants))?;
        for names in &self.names {
            out.length(names.len())?;
            for name in names {
                out.length(name.len())?;
                out.raw(name.as_bytes())?;
            }
        }
        out.length(self.pairs.len())?;
        for (source, event_type) in &self.pairs {
            out.number((*source).into())?;
            out.number((*event_type).into())?;
        }
        out.length(self.users.blocks().len())?;
        for users in self.users.blocks() {
            out.number((*users).into())?;
        }
        for (id, number) in self.users.iter() {
            out.number(number.into())?;
            for half in id {
                out.raw(&half.to_le_bytes())?;
            }
        }
        for tenant in &self.tenants {
            write_tenant(&mut out, tenant)?;
        }
        out.finish()
    }
}

fn numbers_of(bounds: Bounds) -> [u64; 8] {
    let Bounds {
        tenants,
        names,
        pairs,
        own_pairs,
        users,
        hours,
        days,
        events,
    } = bounds;
    [tenants, names, pairs, own_pairs, users, hours, days, events].map(|bound| bound as u64)
}

fn write_tenant(out: &mut Out<'_, impl Write>, tenant: &Tenant) -> std::io::Result<()> {
    out.number(tenant.spilled.map_or(0, bound_code))?;
    out.length(tenant.own_pairs)?;
    out.length(tenant.blocks.len())?;
    for block in &tenant.blocks {
        out.number((*block).into())?;
    }
    out.length(tenant.cells.len())?;
    let mut before = 0_i64;
    for (hour, cell) in &tenant.cells {
        out.number(hour.wrapping_sub(before).cast_unsigned())?;
        before = *hour;
        write_cell(out, &cell.settled())?;
    }
    Ok(())
}

/// The bits of a minute.
const MINUTE: u32 = 6;

/// An entry is one number: the minutes since the entry before, and the user, or in the same minute
/// how far it is behind the user before.
fn write_cell(out: &mut Out<'_, impl Write>, cell: &Cell) -> std::io::Result<()> {
    out.length(cell.columns().count())?;
    for (pair, minutes, users) in cell.columns() {
        out.number(pair.into())?;
        out.length(users.len())?;
        let (mut minute, mut user) = (0, 0);
        for (new_minute, new_user) in minutes.iter().zip(users.iter()) {
            let minutes = u64::from(new_minute - minute);
            let base = if minutes == 0 { user } else { 0 };
            out.number(u64::from(new_user - base) << MINUTE | minutes)?;
            (minute, user) = (*new_minute, new_user);
        }
    }
    out.length(cell.extras().len())?;
    for extra in cell.extras() {
        out.number(extra.pair.into())?;
        out.number(extra.minute.into())?;
        out.number(extra.count)?;
    }
    Ok(())
}

fn names(input: &mut In<'_, impl Read>) -> Result<Interner, Unrestored> {
    let mut names = Interner::default();
    for expected in 0..input.number()? {
        let length = input.small()?;
        let name = String::from_utf8(input.raw(length)?).map_err(|_| Unrestored::Damaged)?;
        if names.number(&name, usize::MAX).map(u64::from) != Some(expected) {
            return Err(Unrestored::Damaged);
        }
    }
    Ok(names)
}

fn users(input: &mut In<'_, impl Read>) -> Result<Users, Unrestored> {
    let mut blocks: Vec<u32> = Vec::new();
    for _ in 0..input.number()? {
        blocks.push(input.small()?);
    }
    let count: u64 = blocks.iter().map(|users| u64::from(*users)).sum();
    let mut users = Users::restore(blocks).ok_or(Unrestored::Damaged)?;
    for _ in 0..count {
        let number = input.small()?;
        let id = [input.piece()?, input.piece()?].map(u64::from_le_bytes);
        let taken = users.restore_user(id, number);
        taken.ok_or(Unrestored::Damaged)?;
    }
    users.is_whole().then_some(users).ok_or(Unrestored::Damaged)
}

fn tenant(
    input: &mut In<'_, impl Read>,
    users: &Users,
    pairs: usize,
) -> Result<Tenant, Unrestored> {
    let mut tenant = Tenant {
        spilled: bound_of(input.small()?)?,
        own_pairs: input.small()?,
        ..Tenant::default()
    };
    for _ in 0..input.number()? {
        tenant.blocks.push(input.small()?);
    }
    let mut before = 0_i64;
    let mut entries = Vec::new();
    for _ in 0..input.number()? {
        let hour = before.wrapping_add(input.number()?.cast_signed());
        let cell = cell(input, users, pairs, &mut entries)?;
        cell.totals(|_, n| tenant.events += usize::try_from(n).unwrap_or(usize::MAX));
        if tenant.cells.insert(hour, Arc::new(cell)).is_some() {
            return Err(Unrestored::Damaged);
        }
        before = hour;
    }
    Ok(tenant)
}

fn cell(
    input: &mut In<'_, impl Read>,
    users: &Users,
    pairs: usize,
    entries: &mut Vec<Entry>,
) -> Result<Cell, Unrestored> {
    entries.clear();
    let known = |pair: u16| usize::from(pair) < pairs;
    for _ in 0..input.number()? {
        let pair: u16 = input.small()?;
        let (mut minute, mut user) = (0_u64, 0_u64);
        for _ in 0..input.number()? {
            let entry = input.number()?;
            let minutes = entry & ((1 << MINUTE) - 1);
            let base = if minutes == 0 { user } else { 0 };
            user = base + (entry >> MINUTE);
            minute += minutes;
            let (Ok(number), Ok(minute @ ..60)) = (u32::try_from(user), u8::try_from(minute))
            else {
                return Err(Unrestored::Damaged);
            };
            if !users.has(number) {
                return Err(Unrestored::Damaged);
            }
            entries.push(Entry::new(pair, minute, number));
        }
        if !known(pair) {
            return Err(Unrestored::Damaged);
        }
    }
    if !entries.is_sorted_by(|a, b| a < b) {
        return Err(Unrestored::Damaged);
    }
    let mut cell = Cell::default();
    cell.set(entries);
    for _ in 0..input.number()? {
        let (pair, minute) = (input.small()?, input.small()?);
        if !known(pair) || minute >= 60 {
            return Err(Unrestored::Damaged);
        }
        cell.extra(pair, minute, input.number()?);
    }
    Ok(cell)
}

const BOUNDS: [Bound; 6] = [
    Bound::Tenants,
    Bound::Names,
    Bound::Users,
    Bound::Hours,
    Bound::Days,
    Bound::Events,
];

fn bound_code(bound: Bound) -> u64 {
    let code = (1..).zip(BOUNDS).find(|(_, it)| *it == bound);
    code.map_or(0, |(code, _)| code)
}

fn bound_of(code: usize) -> Result<Option<Bound>, Unrestored> {
    let bound = code.checked_sub(1).map(|place| BOUNDS.get(place).copied());
    match bound {
        None => Ok(None),
        Some(None) => Err(Unrestored::Damaged),
        Some(known) => Ok(known),
    }
}
