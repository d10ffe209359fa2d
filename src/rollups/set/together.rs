//! Several sets, block by block.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::bits::{self, Bits, WORDS, count_listed, head, head_mut, ones};
use super::{Block, Members, UserSet};

/// A set that a question looks at: as it is kept, or made for it.
#[derive(Debug)]
pub(in crate::rollups) enum Held<'a> {
    Kept(&'a UserSet),
    Made(Arc<UserSet>),
}

impl Deref for Held<'_> {
    type Target = UserSet;

    fn deref(&self) -> &UserSet {
        match self {
            Self::Kept(set) => set,
            Self::Made(set) => set,
        }
    }
}

/// The sets of a question, in groups: those of a day, say.
#[derive(Debug, Default)]
pub(in crate::rollups) struct Gathered<'a>(Vec<Held<'a>>);

/// Which of the gathered sets.
pub(in crate::rollups) type Group = Range<usize>;

impl<'a> Gathered<'a> {
    pub(in crate::rollups) fn add(&mut self, sets: Vec<Held<'a>>) -> Group {
        let first = self.0.len();
        self.0.extend(sets);
        first..self.0.len()
    }

    /// Goes through the blocks `only`, which are sorted, or through all.
    pub(in crate::rollups) fn together<'b>(&'b self, only: Option<&'b [u16]>) -> Together<'b> {
        Together::new(&self.0, only)
    }
}

/// Goes through the blocks of sets side by side.
pub(in crate::rollups) struct Together<'a> {
    /// What is left of each set.
    rest: Vec<&'a [Block]>,
    /// The blocks that are looked at, sorted; all if `None`.
    only: Option<std::slice::Iter<'a, u16>>,
    here: Vec<Option<&'a Members>>,
}

impl<'a> Together<'a> {
    fn new(sets: &'a [Held<'_>], only: Option<&'a [u16]>) -> Self {
        Self {
            rest: sets.iter().map(|set| set.blocks.as_slice()).collect(),
            only: only.map(<[u16]>::iter),
            here: vec![None; sets.len()],
        }
    }

    fn next_number(&mut self) -> Option<u16> {
        if let Some(only) = &mut self.only {
            return only.next().copied();
        }
        let heads = self.rest.iter().filter_map(|rest| rest.first());
        heads.map(|block| block.number).min()
    }

    /// What each set has in the next block in which any has users.
    pub(in crate::rollups) fn advance(&mut self) -> Option<&[Option<&'a Members>]> {
        loop {
            let number = self.next_number()?;
            let mut any = false;
            for (rest, here) in self.rest.iter_mut().zip(&mut self.here) {
                *here = take(rest, number);
                any |= here.is_some();
            }
            if any {
                return Some(&self.here);
            }
        }
    }
}

/// The block with `number`; what lies before it is left out.
fn take<'a>(rest: &mut &'a [Block], number: u16) -> Option<&'a Members> {
    if rest.first()?.number < number {
        let before = rest.partition_point(|block| block.number < number);
        *rest = rest.get(before..)?;
    }
    let (first, others) = rest.split_first()?;
    if first.number != number {
        return None;
    }
    *rest = others;
    Some(&first.members)
}

/// What a group has in a block.
pub(in crate::rollups) fn of_group<'a, 'b>(
    members: &'b [Option<&'a Members>],
    group: &Group,
) -> impl Iterator<Item = &'a Members> + use<'a, 'b> {
    let members = members.get(group.clone()).unwrap_or_default();
    members.iter().flatten().copied()
}

/// Sets the bits of what a group has in a block; `bits` has [`end_of`] words.
pub(in crate::rollups) fn join_group(
    members: &[Option<&Members>],
    group: &Group,
    bits: &mut [u64],
) {
    for members in of_group(members, group) {
        members.add_to(bits);
    }
}

/// How many words there are up to the last one in which any of them has users.
pub(in crate::rollups) fn end_of(members: &[Option<&Members>]) -> usize {
    let ends = members.iter().flatten().map(|members| members.end());
    ends.max().unwrap_or(0)
}

/// How many users are in any of the sets, in all blocks or in `only` some.
pub(in crate::rollups) fn union_len(sets: &[Held<'_>], only: Option<&[u16]>) -> u64 {
    let mut scratch = [0; WORDS];
    let mut blocks = Together::new(sets, only);
    let mut all = 0;
    while let Some(members) = blocks.advance() {
        all += len_in_block(members, &mut scratch);
    }
    all
}

fn len_in_block(members: &[Option<&Members>], scratch: &mut Bits) -> u64 {
    let mut present = members.iter().copied().flatten();
    match (present.next(), present.next(), present.next()) {
        (Some(only), None, _) => return only.len(),
        (Some(Members::Many(many)), Some(Members::Few(list)), None)
        | (Some(Members::Few(list)), Some(Members::Many(many)), None) => {
            let new = list.len() as u64 - count_listed(many.bits.as_slice(), list);
            return u64::from(many.count) + new;
        }
        (Some(Members::Many(one)), Some(Members::Many(other)), None) => {
            let end = usize::from(one.end.max(other.end));
            return bits::union_len(head(&one.bits, end), head(&other.bits, end));
        }
        _ => {}
    }
    let joined = head_mut(scratch, end_of(members));
    joined.fill(0);
    for members in members.iter().flatten() {
        members.add_to(joined);
    }
    ones(joined)
}
