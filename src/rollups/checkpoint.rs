//! Rollups as bytes, to go on from at the next start. Whoever keeps them checks that they are whole.

use super::Bound;
use super::cell::{Cell, Entry, Extra};
use super::days::Sets;
use super::fold::{Bounds, Rollups, Tenant};
use super::names::Interner;
use crate::model::event::Sequence;
use roaring::RoaringBitmap;

/// The first byte; another one means another layout.
const VERSION: u8 = 1;

/// Not a checkpoint of this version. The rollups can be made again from the events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no checkpoint of the rollups in the layout of this version")]
pub struct Damaged;

impl Rollups {
    /// A checkpoint. Merges what waits, so that it is worth little less to answer from afterwards.
    pub fn checkpoint(&mut self) -> Vec<u8> {
        self.days.flush_all();
        let mut out = Out(vec![VERSION]);
        out.u64(self.covers.0);
        out.u64(u64::from(self.more_tenants));
        for names in [&self.tenant_names, &self.types, &self.sources] {
            out.len(names.iter().len());
            names.iter().for_each(|name| out.bytes(name.as_bytes()));
        }
        out.len(self.pairs.len());
        for (source, event_type) in &self.pairs {
            out.u16(*source);
            out.u16(*event_type);
        }
        out.len(self.users.blocks().len());
        for block in self.users.blocks() {
            out.len(block.len());
            block.iter().flatten().for_each(|half| out.u64(*half));
        }
        for tenant in &mut self.tenants {
            out.tenant(tenant);
        }
        out.len(self.days.len());
        for (number, day) in self.days.range(i32::MIN..i32::MAX) {
            out.u32(number.cast_unsigned());
            out.len(day.counts.len());
            for ((tenant, pair), count) in &day.counts {
                out.u16(*tenant);
                out.u16(*pair);
                out.u64(*count);
            }
            let none = Sets::default();
            let sets = self.days.sets(number).unwrap_or(&none);
            out.bitmap(&sets.all);
            out.len(sets.types.len());
            for (event_type, users) in &sets.types {
                out.u16(*event_type);
                out.bitmap(users);
            }
        }
        out.0
    }

    /// From a checkpoint.
    pub fn restore(bounds: Bounds, bytes: &[u8]) -> Result<Self, Damaged> {
        let mut input = In(bytes);
        if input.take(1)? != [VERSION] {
            return Err(Damaged);
        }
        let mut rollups = Self::new(bounds);
        rollups.covers = Sequence(input.u64()?);
        rollups.more_tenants = input.u64()? != 0;
        rollups.tenant_names = input.names()?;
        rollups.types = input.names()?;
        rollups.sources = input.names()?;
        for number in 0..input.u64()? {
            let pair = (input.u16()?, input.u16()?);
            let number = u16::try_from(number).map_err(|_| Damaged)?;
            rollups.pairs.push(pair);
            rollups.pair_numbers.insert(pair, number);
        }
        for _ in 0..input.u64()? {
            let users = (0..input.u64()?).map(|_| Ok([input.u64()?, input.u64()?]));
            let users = users.collect::<Result<_, Damaged>>()?;
            rollups.users.restore(users).ok_or(Damaged)?;
        }
        for _ in rollups.tenant_names.iter() {
            let tenant = input.tenant()?;
            rollups.hours += tenant.cells.len();
            rollups.tenants.push(tenant);
        }
        for _ in 0..input.u64()? {
            let number = input.u32()?.cast_signed();
            let day = rollups.days.day(number);
            for _ in 0..input.u64()? {
                let key = (input.u16()?, input.u16()?);
                day.counts.insert(key, input.u64()?);
            }
            let mut sets = Sets {
                all: input.bitmap()?,
                ..Sets::default()
            };
            for _ in 0..input.u64()? {
                let event_type = input.u16()?;
                sets.types.insert(event_type, input.bitmap()?);
            }
            rollups.days.restore(number, sets);
        }
        if input.0.is_empty() {
            Ok(rollups)
        } else {
            Err(Damaged)
        }
    }
}

/// Numbers are little-endian, and what has a length has it in front.
struct Out(Vec<u8>);

impl Out {
    fn u16(&mut self, number: u16) {
        self.0.extend(number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn len(&mut self, length: usize) {
        self.u64(length as u64);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.0.extend(bytes);
    }

    fn bitmap(&mut self, users: &RoaringBitmap) {
        self.len(users.serialized_size());
        // Writing into a vector doesn't fail; if it did, reading would find the length wrong.
        users.serialize_into(&mut self.0).unwrap_or_default();
    }

    fn tenant(&mut self, tenant: &mut Tenant) {
        self.0.push(tenant.spilled.map_or(0, bound_code));
        self.len(tenant.own_pairs);
        self.len(tenant.blocks.len());
        tenant.blocks.iter().for_each(|block| self.u16(*block));
        self.len(tenant.cells.len());
        for (hour, cell) in &mut tenant.cells {
            cell.settle();
            self.u64(hour.cast_unsigned());
            self.len(cell.sorted_len());
            for entry in cell.sorted() {
                self.u16(entry.pair());
                self.0.push(entry.minute());
                self.u32(entry.user());
            }
            self.len(cell.extras().len());
            for extra in cell.extras() {
                self.u16(extra.pair);
                self.0.push(extra.minute);
                self.u64(extra.count);
            }
        }
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.take(N)?.try_into().map_err(|_| Damaged)
    }

    fn u8(&mut self) -> Result<u8, Damaged> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Damaged> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Damaged> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Damaged> {
        self.array().map(u64::from_le_bytes)
    }

    fn len(&mut self) -> Result<usize, Damaged> {
        usize::try_from(self.u64()?).map_err(|_| Damaged)
    }

    fn names(&mut self) -> Result<Interner, Damaged> {
        let mut names = Interner::default();
        for expected in 0..self.u64()? {
            let length = self.len()?;
            let name = std::str::from_utf8(self.take(length)?).map_err(|_| Damaged)?;
            let number = names.number(name, usize::MAX).ok_or(Damaged)?;
            if u64::from(number) != expected {
                return Err(Damaged);
            }
        }
        Ok(names)
    }

    fn bitmap(&mut self) -> Result<RoaringBitmap, Damaged> {
        let length = self.len()?;
        RoaringBitmap::deserialize_from(self.take(length)?).map_err(|_| Damaged)
    }

    fn tenant(&mut self) -> Result<Tenant, Damaged> {
        let mut tenant = Tenant {
            spilled: bound_of(self.u8()?)?,
            own_pairs: self.len()?,
            ..Tenant::default()
        };
        for _ in 0..self.u64()? {
            tenant.blocks.push(self.u16()?);
        }
        for _ in 0..self.u64()? {
            let hour = self.u64()?.cast_signed();
            let mut cell = Cell::default();
            let entries = (0..self.u64()?)
                .map(|_| Ok(Entry::new(self.u16()?, self.u8()?, self.u32()?)))
                .collect::<Result<Vec<Entry>, Damaged>>()?;
            if !entries.is_sorted_by(|a, b| a < b) {
                return Err(Damaged);
            }
            cell.set(&entries);
            for _ in 0..self.u64()? {
                let Extra {
                    pair,
                    minute,
                    count,
                } = Extra {
                    pair: self.u16()?,
                    minute: self.u8()?,
                    count: self.u64()?,
                };
                cell.extra(pair, minute, count);
            }
            tenant.cells.insert(hour, Box::new(cell));
        }
        Ok(tenant)
    }
}

const BOUNDS: [Bound; 5] = [
    Bound::Tenants,
    Bound::Names,
    Bound::Users,
    Bound::Hours,
    Bound::Days,
];

fn bound_code(bound: Bound) -> u8 {
    let codes = (1..).zip(BOUNDS);
    codes
        .into_iter()
        .find(|(_, it)| *it == bound)
        .map_or(0, |(code, _)| code)
}

fn bound_of(code: u8) -> Result<Option<Bound>, Damaged> {
    match code.checked_sub(1) {
        None => Ok(None),
        Some(place) => BOUNDS
            .get(usize::from(place))
            .copied()
            .map(Some)
            .ok_or(Damaged),
    }
}
