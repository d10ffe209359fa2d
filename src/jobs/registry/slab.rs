//! Where ingestions live in memory: one vector, found by name through small hash tables.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::super::heap::Ready;
use super::super::position::Ordinal;
use crate::model::batch::BatchStatus;
use crate::model::id::{BatchIndex, IngestionId};
use crate::model::ingestion::Ingestion;

/// An ingestion, and its place in the order of its queue and priority.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ingestion: Ingestion,
    pub(super) ordinal: Ordinal,
}

impl Entry {
    pub(super) fn new(ingestion: Ingestion) -> Self {
        Self {
            ingestion,
            ordinal: Ordinal::default(),
        }
    }

    /// One of its batches, as the heap orders it.
    pub(super) fn ready(&self, slot: u32, batch: BatchIndex) -> Ready {
        Ready {
            arrival: self.ingestion.arrival,
            priority: self.ingestion.priority,
            batch,
            slot,
        }
    }
}

/// How many tables share the names. A table that grows moves all that it holds while everybody
/// waits: 256 small pauses instead of one of half a second at ten million.
const TABLES: usize = 256;

/// Ingestions by slot and by name.
#[derive(Debug)]
pub(super) struct Slab {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Slots, by the hash of the name of the ingestion in it.
    names: Vec<HashTable<u32>>,
    hasher: DefaultHashBuilder,
}

impl Default for Slab {
    fn default() -> Self {
        let names = (0..TABLES).map(|_| HashTable::new()).collect();
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            names,
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Slab {
    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// All slots in use.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..)
            .zip(&self.entries)
            .filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
    }

    pub(super) fn find(&self, id: IngestionId) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        let table = self.names.get(table_of(hash))?;
        table
            .find(hash, |slot| {
                self.get(*slot)
                    .is_some_and(|entry| entry.ingestion.id == id)
            })
            .copied()
    }

    /// Takes it in; its name must be new.
    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        let hash = self.hasher.hash_one(entry.ingestion.id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // 2^32 ingestions in memory would need 600 GB.
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.entries.get_mut(slot as usize) {
            *place = Some(entry);
        }
        let (entries, hasher) = (&self.entries, &self.hasher);
        if let Some(table) = self.names.get_mut(table_of(hash)) {
            table.insert_unique(hash, slot, |slot| {
                let entry = entries.get(*slot as usize).and_then(Option::as_ref);
                entry.map_or(0, |entry| hasher.hash_one(entry.ingestion.id))
            });
        }
        slot
    }

    pub(super) fn remove(&mut self, id: IngestionId) {
        let hash = self.hasher.hash_one(id);
        let entries = &mut self.entries;
        let Some(table) = self.names.get_mut(table_of(hash)) else {
            return;
        };
        let is_it = |slot: &u32| {
            let entry = entries.get(*slot as usize).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.ingestion.id == id)
        };
        if let Ok(found) = table.find_entry(hash, is_it) {
            let (slot, _) = found.remove();
            if let Some(place) = entries.get_mut(slot as usize) {
                *place = None;
            }
            self.free.push(slot);
        }
    }

    /// Whether a heap entry still stands for a batch that can start: the next of its ingestion, or
    /// one that is to be tried again.
    pub(super) fn can_start(&self, ready: Ready) -> bool {
        self.get(ready.slot).is_some_and(|entry| {
            let ingestion = &entry.ingestion;
            let again = ingestion
                .run(ready.batch)
                .is_some_and(|run| run.status == BatchStatus::Triggered);
            ingestion.arrival == ready.arrival
                && (again || ingestion.next_batch() == Some(ready.batch))
        })
    }
}

/// Bits in the middle: a `HashTable` picks a bucket by the low ones and tells entries apart by the
/// seven highest.
fn table_of(hash: u64) -> usize {
    usize::try_from(hash >> 40).unwrap_or(usize::MAX) % TABLES
}
