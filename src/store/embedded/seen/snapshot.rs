//! What is older than fresh: generations that wait to be written, and runs. A snapshot never
//! changes; a new one takes its place.

use std::io;
use std::sync::Arc;

use super::filter::Filter;
use super::fresh::{Map, at, shard_of};
use super::run::Run;
use super::{Entry, First, Identity};

/// A generation that waits to be written.
pub(super) struct Frozen {
    /// By shard, and so in ascending order of identity from map to map.
    pub(super) maps: Vec<Map<First>>,
    /// The sequence that the index covers with this generation.
    pub(super) covers: u64,
}

impl Frozen {
    fn find(&self, identity: Identity) -> Option<First> {
        self.maps.get(shard_of(identity))?.get(&identity).copied()
    }

    pub(super) fn count(&self) -> usize {
        self.maps.iter().map(Map::len).sum()
    }

    /// Bytes of its maps.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.maps.iter().map(Map::allocation_size).sum()
    }
}

/// A run with its filter, if there is room for it in memory.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) run: Arc<Run>,
    pub(super) filter: Option<Arc<Filter>>,
}

impl Held {
    fn may_have(&self, identity: Identity) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.may_have(identity))
    }

    /// Bytes of its filter in memory.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.filter.as_ref().map_or(0, |filter| filter.bytes())
    }
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Snapshot {
    /// Oldest first.
    pub(super) frozen: Vec<Arc<Frozen>>,
    /// In the order in which they were written.
    pub(super) runs: Vec<Held>,
}

impl Snapshot {
    /// Looks for the identities at `positions` of `wanted`; returns those that it has.
    ///
    /// Tier by tier and not identity by identity: the looks into memory then don't wait for one
    /// another, and that is what a look costs.
    pub(super) fn find_all(
        &self,
        wanted: &[Entry],
        mut positions: Vec<u32>,
    ) -> io::Result<Vec<(u32, First)>> {
        let mut found = Vec::new();
        for frozen in self.frozen.iter().rev() {
            positions.retain(|&position| {
                let first = at(wanted, position).and_then(|(identity, _)| frozen.find(identity));
                found.extend(first.map(|first| (position, first)));
                first.is_none()
            });
        }
        let mut maybe = Vec::new();
        for held in self.runs.iter().rev() {
            maybe.clear();
            positions.retain(|&position| {
                let may = at(wanted, position).is_some_and(|(identity, _)| held.may_have(identity));
                if may {
                    maybe.push(position);
                }
                !may
            });
            for &position in &maybe {
                let Some((identity, _)) = at(wanted, position) else {
                    continue;
                };
                match held.run.find(identity)? {
                    Some(first) => found.push((position, first)),
                    None => positions.push(position),
                }
            }
        }
        Ok(found)
    }

    /// How many identities it has.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        let frozen: usize = self.frozen.iter().map(|frozen| frozen.count()).sum();
        frozen as u64 + self.runs.iter().map(|held| held.run.count()).sum::<u64>()
    }

    /// Bytes of all filters.
    pub(super) fn filter_bytes(&self) -> u64 {
        self.runs.iter().map(Held::filter_bytes).sum()
    }
}
