//! A set that is filled in no order.

use super::bits::{WORDS, place};
use super::{Block, Members, UserSet, lower, upper};

/// A bit for each user, in blocks that are as long as their largest number needs.
#[derive(Default)]
pub(in crate::rollups) struct Dense {
    blocks: Vec<Vec<u64>>,
    inserted: Vec<u32>,
}

/// The word and the bit of a user in its block.
fn bit(bits: &mut Vec<u64>, user: u32) -> (Option<&mut u64>, u64) {
    let (word, bit) = place(lower(user));
    if word >= bits.len() {
        lengthen(bits, word);
    }
    (bits.get_mut(word), bit)
}

#[cold]
fn lengthen(bits: &mut Vec<u64>, word: usize) {
    bits.resize((word + 1).next_power_of_two().min(WORDS), 0);
}

impl Dense {
    fn block(&mut self, block: u16) -> Option<&mut Vec<u64>> {
        let block = usize::from(block);
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, Vec::new);
        }
        self.blocks.get_mut(block)
    }

    /// Of `users`, neighbours in one block cost least.
    pub(in crate::rollups) fn insert_all(&mut self, users: impl IntoIterator<Item = u32>) {
        let mut users = users.into_iter().peekable();
        while let Some(first) = users.peek().copied() {
            let block = upper(first);
            let Some(bits) = self.block(block) else {
                return;
            };
            while let Some(user) = users.next_if(|user| upper(*user) == block) {
                if let (Some(word), bit) = bit(bits, user) {
                    *word |= bit;
                }
            }
        }
    }

    /// Inserts a user until [`Self::clear`]; returns whether it is new.
    pub(in crate::rollups) fn insert_briefly(&mut self, user: u32) -> bool {
        let Some((Some(word), bit)) = self.block(upper(user)).map(|bits| bit(bits, user)) else {
            return false;
        };
        let new = *word & bit == 0;
        *word |= bit;
        if new {
            self.inserted.push(user);
        }
        new
    }

    /// Removes what was inserted briefly.
    pub(in crate::rollups) fn clear(&mut self) {
        for user in std::mem::take(&mut self.inserted) {
            if let Some((Some(word), bit)) = self.block(upper(user)).map(|bits| bit(bits, user)) {
                *word &= !bit;
            }
        }
    }

    pub(in crate::rollups) fn into_set(self) -> UserSet {
        let blocks = (0..=u16::MAX).zip(&self.blocks);
        let blocks = blocks.filter_map(|(number, bits)| {
            let members = Members::of(bits)?;
            Some(Block { number, members })
        });
        UserSet {
            blocks: blocks.collect(),
        }
    }
}
