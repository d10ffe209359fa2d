//! Which batch goes next: the order of the contract in a [`BinaryHeap`].

use std::collections::BinaryHeap;

use crate::model::id::{Arrival, BatchIndex};
use crate::model::priority::Priority;

/// One ingestion that can start a batch: the more urgent goes first, then the earlier, then its
/// own earlier batch. 16 bytes; the derived order is the order of dispatch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entry {
    /// Two bits of priority above 62 of the inverted arrival.
    rank: u64,
    /// The inverted index of the batch.
    batch: u32,
    /// Where the registry keeps the ingestion.
    slot: u32,
}

const ARRIVAL_MASK: u64 = (1 << 62) - 1;

/// A batch that can start, as [`Heap::peek`] finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ready {
    /// The ingestion's arrival: tells whether the slot was reused since.
    pub(crate) arrival: Arrival,
    /// The ingestion's urgency.
    pub(crate) priority: Priority,
    /// Its batch.
    pub(crate) batch: BatchIndex,
    /// Where the registry keeps the ingestion.
    pub(crate) slot: u32,
}

impl Ready {
    fn entry(self) -> Entry {
        debug_assert!(self.arrival.0 <= ARRIVAL_MASK);
        Entry {
            rank: u64::from(self.priority.rank()) << 62
                | (ARRIVAL_MASK - (self.arrival.0 & ARRIVAL_MASK)),
            batch: u32::MAX - self.batch.0,
            slot: self.slot,
        }
    }
}

impl Entry {
    fn ready(self) -> Ready {
        let rank = u8::try_from(self.rank >> 62).unwrap_or(0);
        Ready {
            arrival: Arrival(ARRIVAL_MASK - (self.rank & ARRIVAL_MASK)),
            priority: Priority::from_rank(rank).unwrap_or(Priority::Low),
            batch: BatchIndex(u32::MAX - self.batch),
            slot: self.slot,
        }
    }
}

/// The batches of one queue that can start: one entry for each ingestion with waiting batches (its
/// next one), and one for each batch that is due to be tried again.
#[derive(Debug, Default)]
pub(crate) struct Heap(BinaryHeap<Entry>);

impl Heap {
    /// All at once, in linear time.
    pub(crate) fn from_unordered(ready: impl Iterator<Item = Ready>) -> Self {
        Self(ready.map(Ready::entry).collect::<Vec<_>>().into())
    }

    pub(crate) fn push(&mut self, ready: Ready) {
        self.0.push(ready.entry());
    }

    /// The batch that goes next.
    pub(crate) fn peek(&self) -> Option<Ready> {
        self.0.peek().map(|entry| entry.ready())
    }

    /// Drops the top.
    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    /// Takes one entry out: at once if it is the top, as it is for every start that the scheduler
    /// decides; else by a walk over all.
    pub(crate) fn take(&mut self, ready: Ready) -> bool {
        let entry = ready.entry();
        if self.0.peek() == Some(&entry) {
            self.0.pop();
            return true;
        }
        let before = self.0.len();
        self.0.retain(|other| *other != entry);
        self.0.len() < before
    }

    /// Keeps only what `keep` says.
    pub(crate) fn retain(&mut self, keep: impl Fn(Ready) -> bool) {
        self.0.retain(|entry| keep(entry.ready()));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All entries, the next one first.
    #[cfg(test)]
    pub(crate) fn in_order(&self) -> Vec<Ready> {
        let mut entries = self.0.clone().into_sorted_vec();
        entries.reverse();
        entries.into_iter().map(Entry::ready).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(priority: Priority, arrival: u64, batch: u32) -> Ready {
        Ready {
            arrival: Arrival(arrival),
            priority,
            batch: BatchIndex(batch),
            slot: 9,
        }
    }

    #[test]
    fn urgent_first_then_early_then_the_earlier_batch() {
        let expected = [
            ready(Priority::High, 5, 0),
            ready(Priority::High, 6, 0),
            ready(Priority::Medium, 1, 2),
            ready(Priority::Medium, 1, 7),
            ready(Priority::Medium, ARRIVAL_MASK, 0),
            ready(Priority::Low, 2, u32::MAX),
        ];
        let mut heap = Heap::from_unordered(expected.into_iter().rev());
        assert_eq!(heap.in_order(), expected);
        assert!(heap.take(expected[3]) && !heap.take(expected[3]));
        for next in expected.into_iter().filter(|entry| *entry != expected[3]) {
            assert_eq!(heap.peek(), Some(next));
            heap.pop();
        }
        assert_eq!(heap.peek(), None);
    }

    #[test]
    fn an_entry_is_16_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
