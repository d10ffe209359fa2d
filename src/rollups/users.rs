//! Numbers for users.
//!
//! A tenant gets numbers in blocks of 65,536, and a [set](super::set) lies in the same blocks: so
//! the users of a tenant lie together, and a set of all tenants' users answers for one of them by
//! looking at its blocks only.
//!
//! The table that finds them is many small ones: none takes long to grow, and what is shared with
//! a snapshot is copied in small pieces. A number and its user lie together in it, so that finding
//! one waits for memory once.

use std::sync::Arc;

use hashbrown::HashTable;

use super::facts::UserId;
use super::set::Dense;

/// The numbers of a block.
const BLOCK: usize = 1 << 16;

/// How many tables there are.
const SHARDS: usize = 1 << 10;

/// A user and its number.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// All but the lowest bits of the user: that there are two of ten million users that have the
    /// same is less likely than one in 10^15.
    id: [u32; 3],
    number: u32,
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

impl Known {
    fn id_of([first, second]: UserId) -> [u32; 3] {
        let [high, low] = halves(first);
        [high, low, halves(second)[0]]
    }

    fn id(&self) -> UserId {
        let [high, low, second] = self.id.map(u64::from);
        [high << 32 | low, second << 32]
    }
}

/// The last shard gets twice as many users as the first, and those between accordingly: so they
/// don't all grow at the same time.
fn shard_of(id: UserId) -> usize {
    // From 2^20 up to 2^22, so from 2^10 up to 2^11 at its root.
    let even = (1 << 20) + ((u64::from(halves(id[1])[0]) * 3) >> 12);
    halves(even)[1].isqrt() as usize - SHARDS
}

/// Numbers of users.
#[derive(Clone, Debug)]
pub(super) struct Users {
    shards: Vec<Arc<HashTable<Known>>>,
    /// How many users each block has; a number's upper half names its block.
    blocks: Vec<u32>,
    len: usize,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            shards: vec![Arc::default(); SHARDS],
            blocks: Vec::new(),
            len: 0,
        }
    }
}

impl Users {
    /// The number of a user.
    pub(super) fn find(&self, id: UserId) -> Option<u32> {
        let known = Known::id_of(id);
        let shard = self.shards.get(shard_of(id))?;
        let found = shard.find(id[0], |it| it.id == known)?;
        Some(found.number)
    }

    /// The number of a user of the tenant with the blocks `own`; a new one if there are fewer than
    /// `bound`.
    pub(super) fn number(&mut self, id: UserId, own: &mut Vec<u16>, bound: usize) -> Option<u32> {
        if let Some(known) = self.find(id) {
            return Some(known);
        }
        if self.len >= bound {
            return None;
        }
        let number = self.append(own)?;
        self.index(id, number);
        Some(number)
    }

    /// A number that nobody has.
    fn append(&mut self, own: &mut Vec<u16>) -> Option<u32> {
        let open = own.last().copied().filter(|block| {
            let users = self.blocks.get(usize::from(*block));
            users.is_some_and(|users| (*users as usize) < BLOCK)
        });
        let block = if let Some(open) = open {
            open
        } else {
            let new = u16::try_from(self.blocks.len()).ok()?;
            self.blocks.push(0);
            own.push(new);
            new
        };
        let users = self.blocks.get_mut(usize::from(block))?;
        let number = u32::from(block) << 16 | *users;
        *users += 1;
        Some(number)
    }

    fn index(&mut self, id: UserId, number: u32) {
        let known = Known {
            id: Known::id_of(id),
            number,
        };
        if let Some(shard) = self.shards.get_mut(shard_of(id)) {
            Arc::make_mut(shard).insert_unique(id[0], known, |it| it.id()[0]);
            self.len += 1;
        }
    }

    /// How many users each block has.
    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// All users and their numbers, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UserId, u32)> {
        let shards = self.shards.iter();
        shards.flat_map(|users| users.iter().map(|it| (it.id(), it.number)))
    }

    /// Without any users yet, in blocks that have so many. `None` if those can't be.
    pub(super) fn restore(blocks: Vec<u32>) -> Option<Self> {
        let whole = blocks.iter().all(|users| *users as usize <= BLOCK);
        (whole && blocks.len() <= BLOCK).then(|| Self {
            blocks,
            ..Self::default()
        })
    }

    /// Whether anybody may have this number.
    pub(super) fn has(&self, number: u32) -> bool {
        let users = self.blocks.get((number >> 16) as usize);
        users.is_some_and(|users| number & 0xffff < *users)
    }

    /// Takes the next user from a checkpoint. `None` if it can't be one.
    pub(super) fn restore_user(&mut self, id: UserId, number: u32) -> Option<()> {
        (self.has(number) && self.find(id).is_none()).then(|| self.index(id, number))
    }

    /// Whether each number has its user, after a restoration.
    pub(super) fn is_whole(&self) -> bool {
        let mut numbers = Dense::default();
        numbers.insert_all(self.iter().map(|(_, number)| number));
        let expected: u64 = self.blocks.iter().map(|users| u64::from(*users)).sum();
        self.len as u64 == expected && numbers.into_set().len() == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_shard() {
        let shards = [0, 1 << 31, 3 << 30, u32::MAX].map(|it| shard_of([0, u64::from(it) << 32]));
        assert_eq!(shards, [0, 595, 822, SHARDS - 1]);
    }
}
