//! The fresh part of the index, in memory: who holds what is being committed, and what was
//! committed since the last generation left.
//!
//! It lies in shards, by the first bits of an identity, each under a lock of its own; a shard's
//! identities come before those of the next, which is half the sorting of a run.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Place;
use parking_lot::Mutex;

use super::tickets::TicketId;
use super::{Claim, Entry, First, Identity, lower};

pub(super) const SHARDS: usize = 16;

/// Identities are hashes already, so the table takes half of one as it is. The lower half: the
/// upper one chose the shard.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, identity: u128) {
        self.0 = lower(identity);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by identity.
pub(super) type Map<V> = HashMap<Identity, V, BuildHasherDefault<AsIs>>;

/// Which shard an identity is in.
pub(super) fn shard_of(identity: Identity) -> usize {
    usize::try_from(identity >> 124).unwrap_or(0)
}

/// Who holds an identity that is not committed.
#[derive(Clone, Copy)]
struct Holder {
    ticket: TicketId,
    /// Where it is in the call that reserved it.
    position: u32,
}

#[derive(Default)]
struct Shard {
    pending: Map<Holder>,
    recent: Map<First>,
}

/// All shards.
pub(super) struct Fresh {
    shards: [Mutex<Shard>; SHARDS],
    /// Identities that a shard's map is made for.
    capacity: usize,
}

/// Positions in a call, by shard.
fn by_shard(entries: &[Entry]) -> [Vec<u32>; SHARDS] {
    let mut groups: [Vec<u32>; SHARDS] = std::array::from_fn(|_| Vec::new());
    for (position, (identity, _)) in (0..).zip(entries) {
        if let Some(group) = groups.get_mut(shard_of(*identity)) {
            group.push(position);
        }
    }
    groups
}

/// What is at a position of a call.
pub(super) fn at(entries: &[Entry], position: u32) -> Option<Entry> {
    entries.get(usize::try_from(position).ok()?).copied()
}

impl Fresh {
    /// For generations of so many identities.
    pub(super) fn new(generation: usize) -> Self {
        Self {
            // The first maps grow as they are used, so that a store without events takes no memory.
            shards: std::array::from_fn(|_| Mutex::default()),
            // Shards differ a little in size, and a commit may pass the bound of a generation.
            capacity: generation / SHARDS + generation / (8 * SHARDS),
        }
    }

    /// Maps for the generation after a full one.
    fn maps(&self) -> Vec<Map<First>> {
        (0..SHARDS)
            .map(|_| Map::with_capacity_and_hasher(self.capacity, BuildHasherDefault::default()))
            .collect()
    }

    fn groups<'a>(
        &'a self,
        entries: &[Entry],
    ) -> impl Iterator<Item = (&'a Mutex<Shard>, Vec<u32>)> {
        self.shards
            .iter()
            .zip(by_shard(entries))
            .filter(|(_, positions)| !positions.is_empty())
    }

    /// Reserves for `ticket` what is not in here, and returns its positions; for the rest, writes
    /// into `claims` why not.
    pub(super) fn reserve(
        &self,
        ticket: TicketId,
        wanted: &[Entry],
        claims: &mut [Claim],
    ) -> Vec<u32> {
        let mut reserved = Vec::with_capacity(wanted.len());
        for (shard, positions) in self.groups(wanted) {
            let mut shard = shard.lock();
            let Shard { pending, recent } = &mut *shard;
            for position in positions {
                let index = usize::try_from(position).unwrap_or(usize::MAX);
                let (Some((identity, _)), Some(claim)) = (wanted.get(index), claims.get_mut(index))
                else {
                    continue;
                };
                if let Some(first) = recent.get(identity) {
                    *claim = Claim::Seen(*first);
                    continue;
                }
                match pending.entry(*identity) {
                    Place::Vacant(vacant) => {
                        vacant.insert(Holder { ticket, position });
                        reserved.push(position);
                    }
                    Place::Occupied(held) if held.get().ticket == ticket => {
                        *claim = Claim::Twice(held.get().position);
                    }
                    Place::Occupied(held) => *claim = Claim::Pending(held.get().ticket),
                }
            }
        }
        reserved
    }

    /// Takes reservations back.
    pub(super) fn release(&self, entries: &[Entry]) {
        for (shard, positions) in self.groups(entries) {
            let mut shard = shard.lock();
            for (identity, _) in positions.iter().filter_map(|&p| at(entries, p)) {
                shard.pending.remove(&identity);
            }
        }
    }

    /// Makes these committed, whether they were reserved or not. The first of an identity stays.
    pub(super) fn commit(&self, entries: &[Entry]) {
        for (shard, positions) in self.groups(entries) {
            let mut shard = shard.lock();
            for (identity, first) in positions.iter().filter_map(|&p| at(entries, p)) {
                shard.pending.remove(&identity);
                shard.recent.entry(identity).or_insert(first);
            }
        }
    }

    /// Takes out all that was committed and hands it to `publish` before anybody can see that it
    /// is gone.
    pub(super) fn freeze(&self, publish: impl FnOnce(Vec<Map<First>>)) {
        let fresh = self.maps();
        let mut shards: Vec<_> = self.shards.iter().map(Mutex::lock).collect();
        publish(
            shards
                .iter_mut()
                .zip(fresh)
                .map(|(shard, map)| std::mem::replace(&mut shard.recent, map))
                .collect(),
        );
    }

    /// One that was committed.
    pub(super) fn find(&self, identity: Identity) -> Option<First> {
        let shard = self.shards.get(shard_of(identity))?.lock();
        shard.recent.get(&identity).copied()
    }

    /// How many were committed.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.shards.iter().map(|s| s.lock().recent.len()).sum()
    }

    /// Bytes of all maps.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let bytes =
            |shard: &Shard| shard.pending.allocation_size() + shard.recent.allocation_size();
        self.shards.iter().map(|shard| bytes(&shard.lock())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{entries, identity};
    use super::*;

    #[test]
    fn what_is_frozen_is_published_before_anybody_can_miss_it() {
        let fresh = Fresh::new(100);
        let all = entries(0..500);
        fresh.commit(&all);
        let mut published = Vec::new();
        fresh.freeze(|maps| {
            assert!(fresh.shards.iter().all(Mutex::is_locked));
            published = maps;
        });
        assert_eq!(fresh.count(), 0);
        assert_eq!(published.iter().map(Map::len).sum::<usize>(), 500);
        let mut last = 0;
        for map in published {
            let lowest = map.keys().min().copied().unwrap();
            assert!(last <= lowest, "the maps are in order");
            last = map.keys().max().copied().unwrap();
        }
    }

    #[test]
    fn what_is_pending_stays_when_a_generation_leaves() {
        let fresh = Fresh::new(100);
        let tickets = super::super::tickets::Tickets::default();
        let (mine, other) = (tickets.begin(), tickets.begin());
        let wanted = entries(0..50);
        let mut claims = vec![Claim::New; 50];
        assert_eq!(fresh.reserve(mine, &wanted, &mut claims).len(), 50);
        fresh.freeze(|maps| assert!(maps.iter().all(Map::is_empty)));
        assert!(fresh.reserve(other, &wanted, &mut claims).is_empty());
        assert_eq!(claims, vec![Claim::Pending(mine); 50]);
        fresh.release(&wanted);
        assert_eq!(fresh.reserve(other, &wanted, &mut claims).len(), 50);
        assert_eq!(fresh.find(identity(1)), None);
    }
}
