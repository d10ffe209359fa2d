//! How many batches go first: a count for each ingestion in order of arrival, with fast prefix sums.

use std::collections::VecDeque;

/// How many ingestions share one tree. A sum looks at one total for each chunk before it, and at
/// eleven nodes: at ten million ingestions that is under 5,000 additions over adjacent memory.
const CHUNK: usize = 2048;

/// The place of an ingestion in a [`Backlog`], in order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Ordinal(u64);

/// Startable batches of one queue and priority, counted for each ingestion in order of arrival.
///
/// A Fenwick tree (Fenwick 1994, "A New Data Structure for Cumulative Frequency Tables") cut into
/// chunks: growing copies nothing, and chunks whose ingestions have all started cost no tree.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Contiguous; the first one holds the ordinals from `base`.
    chunks: VecDeque<Chunk>,
    /// A multiple of `CHUNK`.
    base: u64,
    /// The next ordinal to hand out.
    next: u64,
    total: u64,
}

#[derive(Debug, Default)]
struct Chunk {
    total: u64,
    /// `None` while all counts are zero. 32 bits hold the sum of a chunk: an ingestion has at most
    /// a million batches, and 2048 of them stay under 2^31.
    tree: Option<Box<[u32; CHUNK]>>,
}

impl Backlog {
    /// All startable batches.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Appends an ingestion with `count` startable batches.
    pub(crate) fn push(&mut self, count: u32) -> Ordinal {
        let ordinal = Ordinal(self.next);
        self.next += 1;
        self.add(ordinal, count);
        ordinal
    }

    /// `count` more batches of this ingestion can start.
    pub(crate) fn add(&mut self, ordinal: Ordinal, count: u32) {
        if count > 0 {
            self.change(ordinal, i64::from(count));
        }
    }

    /// `count` fewer batches of this ingestion can start.
    pub(crate) fn remove(&mut self, ordinal: Ordinal, count: u32) {
        if count > 0 {
            self.change(ordinal, -i64::from(count));
            while self.chunks.front().is_some_and(|chunk| chunk.total == 0) {
                self.chunks.pop_front();
                self.base += CHUNK as u64;
            }
        }
    }

    /// Startable batches of the ingestions that arrived before this one.
    pub(crate) fn before(&self, ordinal: Ordinal) -> u64 {
        let Some(offset) = ordinal.0.checked_sub(self.base) else {
            return 0;
        };
        let (chunk, within) = split(offset);
        let earlier: u64 = self
            .chunks
            .iter()
            .take(chunk)
            .map(|chunk| chunk.total)
            .sum();
        earlier
            + self
                .chunks
                .get(chunk)
                .map_or(0, |chunk| chunk.prefix(within))
    }

    /// Startable batches of this ingestion.
    pub(crate) fn count(&self, ordinal: Ordinal) -> u32 {
        let Some(offset) = ordinal.0.checked_sub(self.base) else {
            return 0;
        };
        let (chunk, within) = split(offset);
        let sum = self
            .chunks
            .get(chunk)
            .map_or(0, |chunk| chunk.prefix(within + 1) - chunk.prefix(within));
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    fn change(&mut self, ordinal: Ordinal, by: i64) {
        if self.chunks.is_empty() {
            self.base = ordinal.0 - ordinal.0 % CHUNK as u64;
        }
        while ordinal.0 < self.base {
            self.chunks.push_front(Chunk::default());
            self.base -= CHUNK as u64;
        }
        let (index, within) = split(ordinal.0 - self.base);
        while self.chunks.len() <= index {
            self.chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = self.chunks.get_mut(index) {
            chunk.change(within, by);
        }
        self.total = self.total.saturating_add_signed(by);
    }
}

/// Which chunk, and where in it.
fn split(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    (offset / CHUNK, offset % CHUNK)
}

impl Chunk {
    fn change(&mut self, within: usize, by: i64) {
        let tree = self.tree.get_or_insert_with(|| Box::new([0; CHUNK]));
        let mut node = within + 1;
        while let Some(sum) = tree.get_mut(node - 1) {
            let changed = i64::from(*sum) + by;
            debug_assert!(changed >= 0, "more batches removed than were there");
            *sum = u32::try_from(changed).unwrap_or(0);
            node += node & node.wrapping_neg();
        }
        self.total = self.total.saturating_add_signed(by);
        if self.total == 0 {
            self.tree = None;
        }
    }

    /// The sum of the first `count` places.
    fn prefix(&self, count: usize) -> u64 {
        let Some(tree) = &self.tree else { return 0 };
        let mut node = count;
        let mut sum = 0;
        while let Some(part) = node.checked_sub(1).and_then(|index| tree.get(index)) {
            sum += u64::from(*part);
            node &= node - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_cross_the_edges_of_chunks() {
        let mut backlog = Backlog::default();
        let ordinals: Vec<_> = (0..3 * CHUNK).map(|_| backlog.push(2)).collect();
        assert_eq!(backlog.before(ordinals[CHUNK - 1]), 2 * (CHUNK as u64 - 1));
        assert_eq!(backlog.before(ordinals[2 * CHUNK]), 4 * CHUNK as u64);
        for ordinal in &ordinals[..2 * CHUNK] {
            backlog.remove(*ordinal, 2);
        }
        assert_eq!(
            backlog.chunks.len(),
            1,
            "chunks in front that are used up go"
        );
        assert_eq!(backlog.before(ordinals[2 * CHUNK]), 0);
        backlog.add(ordinals[3], 1);
        assert_eq!(
            backlog.before(ordinals[2 * CHUNK]),
            1,
            "a retry may come back to a chunk that went"
        );
        assert_eq!(
            (backlog.count(ordinals[3]), backlog.count(ordinals[4])),
            (1, 0)
        );
    }

    #[test]
    fn a_full_chunk_of_the_largest_ingestions_does_not_overflow() {
        let mut backlog = Backlog::default();
        let ordinals: Vec<_> = (0..CHUNK).map(|_| backlog.push(1_000_000)).collect();
        assert_eq!(
            backlog.before(ordinals[CHUNK - 1]),
            1_000_000 * (CHUNK as u64 - 1)
        );
        assert_eq!(backlog.total(), 1_000_000 * CHUNK as u64);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(steps in proptest::collection::vec((any::<u16>(), 0_u32..5), 1..300)) {
            let mut backlog = Backlog::default();
            let mut plain: Vec<(Ordinal, u32)> = Vec::new();
            for (pick, count) in steps {
                match pick % 3 {
                    0 => {
                        // Many empty ones between, so that several chunks come into being.
                        for _ in 0..700 { let ordinal = backlog.push(0); plain.push((ordinal, 0)); }
                        plain.push((backlog.push(count), count));
                    }
                    _ if plain.is_empty() => {}
                    1 => {
                        let index = usize::from(pick) * 7 % plain.len();
                        backlog.add(plain[index].0, count);
                        plain[index].1 += count;
                    }
                    _ => {
                        let index = usize::from(pick) * 7 % plain.len();
                        let count = plain[index].1.min(count);
                        backlog.remove(plain[index].0, count);
                        plain[index].1 -= count;
                    }
                }
            }
            let mut sum = 0;
            for (ordinal, count) in plain {
                prop_assert_eq!(backlog.before(ordinal), sum);
                prop_assert_eq!(backlog.count(ordinal), count);
                sum += u64::from(count);
            }
            prop_assert_eq!(backlog.total(), sum);
        }
    }
}
