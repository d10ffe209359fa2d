//! Numbers for users.
//!
//! A tenant gets numbers in blocks of 65,536, which is what a roaring bitmap holds in one
//! container: so the users of a tenant lie together, and a bitmap of all tenants' users answers
//! for one of them by looking at its containers only.

use hashbrown::HashTable;
use roaring::RoaringBitmap;

use super::facts::UserId;

/// The numbers of a block.
const BLOCK: usize = 1 << 16;

/// Numbers of users.
#[derive(Debug, Default)]
pub(super) struct Users {
    numbers: HashTable<u32>,
    /// The user of each number, by block; a number's upper half names its block.
    blocks: Vec<Vec<UserId>>,
}

impl Users {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of a user of the tenant with the blocks `own`; a new one if there are fewer than
    /// `bound`.
    pub(super) fn number(&mut self, id: UserId, own: &mut Vec<u16>, bound: usize) -> Option<u32> {
        let blocks = &self.blocks;
        let same = |number: &u32| user(blocks, *number) == Some(&id);
        if let Some(known) = self.numbers.find(id[0], same) {
            return Some(*known);
        }
        if self.len() >= bound {
            return None;
        }
        let number = self.append(id, own)?;
        self.index(id, number);
        Some(number)
    }

    fn append(&mut self, id: UserId, own: &mut Vec<u16>) -> Option<u32> {
        let open = own.last().copied().filter(|block| {
            let users = self.blocks.get(usize::from(*block));
            users.is_some_and(|users| users.len() < BLOCK)
        });
        let block = if let Some(open) = open {
            open
        } else {
            let new = u16::try_from(self.blocks.len()).ok()?;
            self.blocks.push(Vec::new());
            own.push(new);
            new
        };
        let users = self.blocks.get_mut(usize::from(block))?;
        let place = u16::try_from(users.len()).ok()?;
        users.push(id);
        Some(u32::from(block) << 16 | u32::from(place))
    }

    fn index(&mut self, id: UserId, number: u32) {
        let blocks = &self.blocks;
        let rehash = |number: &u32| user(blocks, *number).map_or(0, |id| id[0]);
        self.numbers.insert_unique(id[0], number, rehash);
    }

    /// The users of each block, in the order of their numbers.
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = &[UserId]> {
        self.blocks.iter().map(Vec::as_slice)
    }

    /// Takes the next block from a checkpoint. `None` if it can't be one.
    pub(super) fn restore(&mut self, users: Vec<UserId>) -> Option<()> {
        let block = u16::try_from(self.blocks.len()).ok()?;
        if users.len() > BLOCK {
            return None;
        }
        self.blocks.push(users);
        let length = self.blocks.last().map_or(0, Vec::len);
        for (number, place) in (u32::from(block) << 16..).zip(0..length) {
            let id = *self.blocks.last()?.get(place)?;
            self.index(id, number);
        }
        Some(())
    }
}

fn user(blocks: &[Vec<UserId>], number: u32) -> Option<&UserId> {
    let [high, low] = [number >> 16, number & 0xffff].map(|half| half as usize);
    blocks.get(high)?.get(low)
}

/// All numbers of `blocks`.
pub(super) fn numbers_of(blocks: &[u16]) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    for block in blocks {
        let first = u32::from(*block) << 16;
        all.insert_range(first..=first | 0xffff);
    }
    all
}

/// A set of users that is filled in no order: a bit each, in blocks like theirs.
#[derive(Default)]
pub(super) struct Dense {
    blocks: Vec<Option<Box<Bits>>>,
    inserted: Vec<u32>,
}

/// Of one block.
type Bits = [u8; BLOCK / 8];

/// The byte and the bit of a user in its block.
fn bit(bits: &mut Bits, user: u32) -> (Option<&mut u8>, u8) {
    let place = (user & 0xffff) as usize / 8;
    (bits.get_mut(place), 1 << (user & 7))
}

impl Dense {
    fn block(&mut self, block: u32) -> Option<&mut Bits> {
        let block = block as usize;
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, || None);
        }
        let slot = self.blocks.get_mut(block)?;
        Some(slot.get_or_insert_with(|| Box::new([0; BLOCK / 8])))
    }

    /// Of `users`, neighbours in one block cost least.
    pub(super) fn insert_all(&mut self, users: impl IntoIterator<Item = u32>) {
        let mut users = users.into_iter().peekable();
        while let Some(first) = users.peek().copied() {
            let block = first >> 16;
            let Some(bits) = self.block(block) else {
                return;
            };
            while let Some(user) = users.next_if(|user| user >> 16 == block) {
                if let (Some(byte), bit) = bit(bits, user) {
                    *byte |= bit;
                }
            }
        }
    }

    /// Inserts a user until [`Self::clear`]; returns whether it is new.
    pub(super) fn insert_briefly(&mut self, user: u32) -> bool {
        let Some((Some(byte), bit)) = self.block(user >> 16).map(|bits| bit(bits, user)) else {
            return false;
        };
        let new = *byte & bit == 0;
        *byte |= bit;
        if new {
            self.inserted.push(user);
        }
        new
    }

    /// Removes what was inserted briefly.
    pub(super) fn clear(&mut self) {
        for user in std::mem::take(&mut self.inserted) {
            if let Some((Some(byte), bit)) = self.block(user >> 16).map(|bits| bit(bits, user)) {
                *byte &= !bit;
            }
        }
    }

    pub(super) fn into_bitmap(self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        for (block, bits) in (0_u32..).zip(&self.blocks) {
            if let Some(bits) = bits {
                all |= RoaringBitmap::from_lsb0_bytes(block << 16, bits.as_slice());
            }
        }
        all
    }
}
