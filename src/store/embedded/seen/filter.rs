//! The filter of a run: says of most identities, without a read, that the run doesn't have them.
//!
//! A blocked bloom filter: the upper half of an identity chooses a block of 64 bytes (one line of
//! the processor's cache), the lower half a bit in each of its eight words. At 12 bits an identity
//! about one in 200 that the run doesn't have is let through, and costs the read of a page.

use std::io::{self, Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::page::u64_at;
use super::{Identity, lower, upper};

const BITS_PER_IDENTITY: u64 = 12;
/// Bytes of a block.
pub(super) const BLOCK: usize = 64;
/// Blocks that are read or written at once.
const CHUNK: usize = 1024;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([u64; 8]);

/// See the module.
pub(super) struct Filter {
    blocks: Vec<Block>,
}

/// The blocks of a filter for so many identities.
pub(super) fn blocks_for(identities: u64) -> u64 {
    identities
        .saturating_mul(BITS_PER_IDENTITY)
        .div_ceil(BLOCK as u64 * 8)
        .max(1)
}

/// The bytes of a filter for so many identities.
pub(super) fn bytes_for(identities: u64) -> u64 {
    blocks_for(identities).saturating_mul(BLOCK as u64)
}

/// The bit in each word.
fn masks(identity: Identity) -> [u64; 8] {
    let lower = lower(identity);
    std::array::from_fn(|word| 1 << ((lower >> (6 * word)) & 63))
}

impl Filter {
    /// An empty one, for `identities`.
    pub(super) fn new(identities: u64) -> Self {
        let blocks = usize::try_from(blocks_for(identities)).unwrap_or(1);
        Self {
            blocks: vec![Block([0; 8]); blocks],
        }
    }

    fn block_of(&self, identity: Identity) -> usize {
        let scaled = u128::from(upper(identity)) * self.blocks.len() as u128;
        usize::try_from(scaled >> 64).unwrap_or(0)
    }

    /// Adds an identity.
    pub(super) fn insert(&mut self, identity: Identity) {
        let at = self.block_of(identity);
        if let Some(Block(words)) = self.blocks.get_mut(at) {
            for (word, mask) in words.iter_mut().zip(masks(identity)) {
                *word |= mask;
            }
        }
    }

    /// False only for identities that were never inserted.
    pub(super) fn may_have(&self, identity: Identity) -> bool {
        let Some(Block(words)) = self.blocks.get(self.block_of(identity)) else {
            return true;
        };
        let masks = masks(identity);
        let missing = |words: &[u64], masks: &[u64]| {
            let pairs = words.iter().zip(masks);
            pairs.fold(0, |missing, (word, mask)| missing | (!word & mask)) != 0
        };
        // By halves: the first sends most away, and one branch is cheaper than four.
        let (words, more_words) = words.split_at(4);
        let (masks, more_masks) = masks.split_at(4);
        !missing(words, masks) && !missing(more_words, more_masks)
    }

    /// Its bytes in memory and on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK as u64
    }

    /// How many blocks it has.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Writes it, and returns the checksum of what it wrote.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<u64> {
        let mut sum = Xxh3::new();
        let mut bytes = Vec::with_capacity(CHUNK * BLOCK);
        for blocks in self.blocks.chunks(CHUNK) {
            bytes.clear();
            for word in blocks.iter().flat_map(|block| block.0) {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            sum.update(&bytes);
            out.write_all(&bytes)?;
        }
        Ok(sum.digest())
    }

    /// Reads one of `blocks` blocks; `None` if its checksum is not `sum`.
    pub(super) fn read(input: &mut impl Read, blocks: u64, sum: u64) -> io::Result<Option<Self>> {
        let mut left = usize::try_from(blocks).unwrap_or(0);
        let mut read = Vec::with_capacity(left);
        let mut actual = Xxh3::new();
        let mut bytes = vec![0; CHUNK * BLOCK];
        while left > 0 {
            let now = left.min(CHUNK);
            bytes.truncate(now * BLOCK);
            input.read_exact(&mut bytes)?;
            actual.update(&bytes);
            let (parts, _) = bytes.as_chunks::<BLOCK>();
            read.extend(
                parts
                    .iter()
                    .map(|part| Block(std::array::from_fn(|word| u64_at(part, word * 8)))),
            );
            left -= now;
        }
        Ok((actual.digest() == sum).then_some(Self { blocks: read }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::identity;
    use super::*;

    fn filled(count: u64) -> Filter {
        let mut filter = Filter::new(count);
        (0..count).for_each(|n| filter.insert(identity(n)));
        filter
    }

    #[test]
    fn has_all_that_was_inserted_and_little_else() {
        let filter = filled(100_000);
        assert!((0..100_000).all(|n| filter.may_have(identity(n))));
        let through = (100_000..200_000)
            .filter(|&n| filter.may_have(identity(n)))
            .count();
        assert!(through < 1_000, "{through} of 100,000 were let through");
        assert!(through > 0, "a filter of this size can't be that good");
    }

    #[test]
    fn is_read_as_it_was_written() {
        let filter = filled(60_000);
        let mut bytes = Vec::new();
        let sum = filter.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, bytes_for(60_000));
        let again = Filter::read(&mut bytes.as_slice(), filter.blocks(), sum).unwrap();
        let again = again.unwrap();
        assert!(
            again
                .blocks
                .iter()
                .zip(&filter.blocks)
                .all(|(a, b)| a.0 == b.0)
        );
        for at in (0..bytes.len()).step_by(997) {
            bytes[at] ^= 1;
            let damaged = Filter::read(&mut bytes.as_slice(), filter.blocks(), sum).unwrap();
            assert!(damaged.is_none(), "byte {at}");
            bytes[at] ^= 1;
        }
    }
}
