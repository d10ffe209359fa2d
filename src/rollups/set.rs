//! Sets of users.
//!
//! A set lies in blocks of 65,536 numbers, as tenants get them. Of a block with few users their
//! numbers are listed, of one with many there is a bit for each number: the layout of [roaring
//! bitmaps](https://arxiv.org/abs/1402.6407) (Chambi, Lemire, Kaser, Godin: "Better bitmap
//! performance with Roaring bitmaps", 2016).
//!
//! Questions are about many sets at once, and mostly about numbers only. So they go through the
//! sets side by side, block by block ([`together`]): what is joined of a block, 8 KiB, stays near
//! the processor, and no set is made that is only counted.

pub(super) mod bits;
mod dense;
pub(super) mod together;

#[cfg(test)]
pub(super) mod tests;

pub(super) use self::bits::{Bits, WORDS};
pub(super) use self::dense::Dense;
pub(super) use self::together::{Held, union_len};

use self::bits::{each, head, ones};

/// The most users of a block that are listed: more take less space as bits.
const LISTED: usize = 4096;

/// So many users are sorted in the time in which the bits of all blocks are gone through.
const SORTED: usize = 4096;

/// What is gone through at once in a list.
const PIECE: usize = 16;

/// Fewer listed users than this are gone through in the time of one search among all.
const FEW: usize = 64;

/// Users by their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct UserSet {
    /// By number; none is empty.
    blocks: Vec<Block>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Block {
    /// The upper half of its users' numbers.
    number: u16,
    members: Members,
}

/// The lower halves of the numbers of the users of one block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Members {
    /// Up to [`LISTED`], sorted.
    Few(Vec<u16>),
    /// More.
    Many(Many),
}

/// A bit for each number of a block.
#[derive(Clone, Debug)]
pub(super) struct Many {
    bits: Box<Bits>,
    count: u32,
    /// No word from this one on has any: a tenant's numbers begin at the first bit, and few
    /// tenants have all of a block.
    end: u16,
}

impl PartialEq for Many {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.bits == other.bits
    }
}

impl Eq for Many {}

/// The end of the words of which `last` is the last.
fn narrow_end(last: usize) -> u16 {
    u16::try_from(last + 1).unwrap_or(u16::MAX)
}

/// The block in which a user lies.
pub(super) fn upper(user: u32) -> u16 {
    (user >> 16) as u16
}

fn lower(user: u32) -> u16 {
    (user & 0xffff) as u16
}

/// Users that are sorted, by block.
fn runs(users: &[u32]) -> impl Iterator<Item = (u16, &[u32])> {
    let runs = users.chunk_by(|a, b| upper(*a) == upper(*b));
    runs.filter_map(|run| Some((upper(*run.first()?), run)))
}

impl UserSet {
    pub(super) fn len(&self) -> u64 {
        self.blocks.iter().map(|block| block.members.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let members = self.blocks.iter().map(|block| match &block.members {
            Members::Few(list) => size_of_val(list.as_slice()),
            Members::Many(_) => size_of::<Bits>(),
        });
        size_of_val(self.blocks.as_slice()) + members.sum::<usize>()
    }

    /// Inserts `users`, which are sorted and all different, and leaves those in it that are new.
    pub(super) fn insert(&mut self, users: &mut Vec<u32>) {
        self.make_blocks(runs(users).map(|(number, _)| number));
        let mut new = New {
            users: Vec::with_capacity(users.len()),
            places: Vec::new(),
        };
        let mut blocks = self.blocks.iter_mut();
        for (number, run) in runs(users) {
            if let Some(block) = blocks.find(|block| block.number == number) {
                block.members.insert(run, &mut new);
            }
        }
        *users = new.users;
    }

    /// Inserts all users of `other`.
    pub(super) fn join(&mut self, other: &Self) {
        self.make_blocks(other.blocks.iter().map(|block| block.number));
        let mut blocks = self.blocks.iter_mut();
        for new in &other.blocks {
            if let Some(block) = blocks.find(|block| block.number == new.number) {
                block.members.join(&new.members);
            }
        }
    }

    /// Makes those of the blocks with `numbers`, ascending, that are not there yet. Who calls
    /// must see to it that none stays empty.
    fn make_blocks(&mut self, numbers: impl Iterator<Item = u16>) {
        let known = self.blocks.len();
        let mut at = 0;
        for number in numbers {
            let rest = self.blocks.get(at..known).unwrap_or_default();
            at += rest.partition_point(|block| block.number < number);
            let found = self.blocks.get(at).filter(|_| at < known);
            if found.is_none_or(|block| block.number != number) {
                let members = Members::Few(Vec::new());
                self.blocks.push(Block { number, members });
            }
        }
        if self.blocks.len() > known {
            // Two runs, which this sort merges.
            self.blocks.sort_by_key(|block| block.number);
        }
    }

    /// Removes all users of the blocks with `numbers`, which are sorted.
    pub(super) fn remove_blocks(&mut self, numbers: &[u16]) {
        self.blocks
            .retain(|block| numbers.binary_search(&block.number).is_err());
    }
}

impl FromIterator<u32> for UserSet {
    /// Of users in no order.
    fn from_iter<I: IntoIterator<Item = u32>>(users: I) -> Self {
        let mut users: Vec<u32> = users.into_iter().collect();
        if users.len() > SORTED {
            let mut dense = Dense::default();
            dense.insert_all(users);
            return dense.into_set();
        }
        users.sort_unstable();
        users.dedup();
        let mut set = Self::default();
        set.insert(&mut users);
        set
    }
}

/// What an insertion finds out.
struct New {
    /// Users that were not in the set.
    users: Vec<u32>,
    /// Where they belong in the list of their block.
    places: Vec<usize>,
}

impl Members {
    /// Those whose bits are set, if there are any.
    fn of(bits: &[u64]) -> Option<Self> {
        let count = u32::try_from(ones(bits)).ok().filter(|count| *count > 0)?;
        if count as usize > LISTED {
            return Some(Self::Many(Many::of(bits, count)));
        }
        let mut list = Vec::with_capacity(count as usize);
        each(bits, |low| list.push(low));
        Some(Self::Few(list))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Few(list) => list.len() as u64,
            Self::Many(many) => many.count.into(),
        }
    }

    /// How many words there are up to the last one with any.
    pub(super) fn end(&self) -> usize {
        match self {
            Self::Few(list) => list.last().map_or(0, |last| bits::place(*last).0 + 1),
            Self::Many(many) => many.end.into(),
        }
    }

    /// Their bits, if there are so many users that they lie there.
    pub(super) fn bits(&self) -> Option<&Bits> {
        match self {
            Self::Few(_) => None,
            Self::Many(many) => Some(&many.bits),
        }
    }

    /// Sets their bits; `bits` has [`Self::end`] words at least.
    pub(super) fn add_to(&self, bits: &mut [u64]) {
        match self {
            Self::Few(list) => bits::set(bits, list),
            Self::Many(many) => bits::join(bits, head(&many.bits, many.end.into())),
        }
    }

    /// Inserts sorted users of this block.
    fn insert(&mut self, users: &[u32], new: &mut New) {
        let list = match self {
            Self::Many(many) => return many.insert(users, new),
            Self::Few(list) => list,
        };
        let known = new.users.len();
        new.places.clear();
        // Where many are inserted, the next place is near.
        let near = list.len() < users.len() * FEW;
        let mut at = 0;
        for user in users {
            let low = lower(*user);
            let rest = list.get(at..).unwrap_or_default();
            at += if near {
                near_place(rest, low)
            } else {
                rest.partition_point(|known| *known < low)
            };
            if list.get(at) != Some(&low) {
                new.places.push(at);
                new.users.push(*user);
            }
        }
        let added = new.users.get(known..).unwrap_or_default();
        if list.len() + added.len() <= LISTED {
            insert_at(list, &new.places, added);
            return;
        }
        let mut scratch = [0; WORDS];
        bits::set(&mut scratch, list);
        let added: Vec<u16> = added.iter().map(|user| lower(*user)).collect();
        bits::set(&mut scratch, &added);
        if let Some(members) = Self::of(&scratch) {
            *self = members;
        }
    }

    fn join(&mut self, other: &Self) {
        match self {
            Self::Many(many) => many.join(other),
            Self::Few(list) if list.is_empty() => *self = other.clone(),
            Self::Few(list) => {
                let mut scratch = [0; WORDS];
                bits::set(&mut scratch, list);
                other.add_to(&mut scratch);
                if let Some(members) = Self::of(&scratch) {
                    *self = members;
                }
            }
        }
    }
}

/// How many of a sorted list come before `low`, where those are few. The processor compares a
/// piece at once, and has nothing to guess in it.
fn near_place(list: &[u16], low: u16) -> usize {
    let (pieces, rest) = list.as_chunks::<PIECE>();
    let below = |piece: &&[u16; PIECE]| piece.last().is_some_and(|last| *last < low);
    let before = pieces.iter().take_while(below).count();
    let here: u16 = match pieces.get(before) {
        Some(piece) => piece.iter().map(|known| u16::from(*known < low)).sum(),
        None => rest.iter().map(|known| u16::from(*known < low)).sum(),
    };
    before * PIECE + usize::from(here)
}

/// Inserts `users` into a sorted list, each at its place in the list as it is. Each of the listed
/// is moved once, and the memory grows in small steps: there are many lists.
fn insert_at(list: &mut Vec<u16>, places: &[usize], users: &[u32]) {
    let mut end = list.len();
    if list.capacity() < end + places.len() {
        list.reserve_exact(places.len() + end / 16);
    }
    list.resize(end + places.len(), 0);
    let new = places.iter().zip(users).enumerate();
    for (before, (place, user)) in new.rev() {
        let at = place + before;
        list.copy_within(*place..end, at + 1);
        if let Some(slot) = list.get_mut(at) {
            *slot = lower(*user);
        }
        end = *place;
    }
}

impl Many {
    fn of(bits: &[u64], count: u32) -> Self {
        let mut all = Box::new([0; WORDS]);
        bits::join(all.as_mut_slice(), bits);
        let last = all.iter().rposition(|word| *word != 0);
        Self {
            bits: all,
            count,
            end: last.map_or(0, narrow_end),
        }
    }

    fn insert(&mut self, users: &[u32], new: &mut New) {
        let known = new.users.len();
        for user in users {
            let (word, bit) = bits::place(lower(*user));
            if let Some(word) = self.bits.get_mut(word)
                && *word & bit == 0
            {
                *word |= bit;
                new.users.push(*user);
            }
        }
        let added = new.users.get(known..).unwrap_or_default();
        self.count += u32::try_from(added.len()).unwrap_or(u32::MAX);
        if let Some(last) = added.last() {
            let (word, _) = bits::place(lower(*last));
            self.end = self.end.max(narrow_end(word));
        }
    }

    fn join(&mut self, other: &Members) {
        other.add_to(self.bits.as_mut_slice());
        let end = other.end().max(self.end.into());
        self.end = u16::try_from(end).unwrap_or(u16::MAX);
        let count = ones(head(&self.bits, end));
        self.count = u32::try_from(count).unwrap_or(u32::MAX);
    }
}
