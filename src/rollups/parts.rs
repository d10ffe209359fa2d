//! The users of parts of UTC days, kept from one answer to the next.
//!
//! A day in a zone other than UTC is a part of one UTC day and a part of the next. Finding the
//! users of a part goes through all of its cells; so they are kept as long as no event comes to
//! their day, and as they fit.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::set::UserSet;

/// The most that is kept, in bytes.
const BYTES: usize = 16 << 20;

/// The most sets that are kept.
const SETS: usize = 10_000;

/// Whose part of which day it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Part {
    /// All if `None`.
    pub(super) tenant: Option<u16>,
    pub(super) event_type: Option<u16>,
    /// Minutes of one UTC day.
    pub(super) from: i64,
    pub(super) to: i64,
}

#[derive(Debug)]
struct Kept {
    /// How many events the day had.
    events: u64,
    users: Arc<UserSet>,
    bytes: usize,
    used: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    sets: HashMap<Part, Kept>,
    bytes: usize,
    /// Counts uses.
    now: u64,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Parts(Mutex<Shelf>);

impl Parts {
    /// The users of `part` of a day that has so many `events`, as they are kept or as `find` finds
    /// them.
    pub(super) fn users(
        &self,
        part: Part,
        events: u64,
        find: impl FnOnce() -> UserSet,
    ) -> Arc<UserSet> {
        let kept = self.0.lock().take(part, events);
        kept.unwrap_or_else(|| {
            // Meanwhile others may look for theirs.
            let users = Arc::new(find());
            self.0.lock().keep(part, events, &users);
            users
        })
    }
}

impl Shelf {
    fn take(&mut self, part: Part, events: u64) -> Option<Arc<UserSet>> {
        self.now += 1;
        let kept = self.sets.get_mut(&part)?;
        if kept.events != events {
            self.remove(part);
            return None;
        }
        kept.used = self.now;
        Some(Arc::clone(&kept.users))
    }

    fn remove(&mut self, part: Part) {
        if let Some(removed) = self.sets.remove(&part) {
            self.bytes -= removed.bytes;
        }
    }

    fn keep(&mut self, part: Part, events: u64, users: &Arc<UserSet>) {
        let bytes = users.bytes() + size_of::<(Part, Kept)>();
        if bytes > BYTES / 8 {
            return;
        }
        self.remove(part);
        if self.bytes + bytes > BYTES || self.sets.len() >= SETS {
            self.clear_half();
        }
        self.bytes += bytes;
        let kept = Kept {
            events,
            users: Arc::clone(users),
            bytes,
            used: self.now,
        };
        self.sets.insert(part, kept);
    }

    /// Removes those that were not used for longest.
    fn clear_half(&mut self) {
        let mut uses: Vec<(u64, Part)> = self
            .sets
            .iter()
            .map(|(it, kept)| (kept.used, *it))
            .collect();
        uses.sort_unstable_by_key(|(used, _)| *used);
        for (_, part) in uses {
            if self.bytes <= BYTES / 2 && self.sets.len() <= SETS / 2 {
                break;
            }
            self.remove(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(users: impl IntoIterator<Item = u32>) -> UserSet {
        users.into_iter().collect()
    }

    fn part(from: i64) -> Part {
        Part {
            tenant: None,
            event_type: None,
            from,
            to: from + 60,
        }
    }

    /// Whether the users had to be found.
    fn looked(parts: &Parts, from: i64, events: u64, users: &UserSet) -> bool {
        let mut looked = false;
        let found = parts.users(part(from), events, || {
            looked = true;
            users.clone()
        });
        assert_eq!(*found, *users);
        looked
    }

    #[test]
    fn users_are_kept_until_an_event_comes() {
        let (parts, users) = (Parts::default(), set([1, 2]));
        assert!(looked(&parts, 0, 5, &users));
        assert!(!looked(&parts, 0, 5, &users));
        let more = set([1, 2, 3]);
        assert!(looked(&parts, 0, 6, &more), "another event");
        assert!(looked(&parts, 60, 6, &users), "another part");
        assert!(!looked(&parts, 0, 6, &more));
    }

    #[test]
    fn no_more_is_kept_than_the_bounds() {
        let (parts, users) = (Parts::default(), set([7]));
        for from in 0..30_000 {
            looked(&parts, from, 1, &users);
            looked(&parts, 0, 1, &users);
            assert!(parts.0.lock().sets.len() <= SETS);
        }
        assert!(!looked(&parts, 0, 1, &users), "what is used stays");
        let large = set((0..1_000_000).step_by(2));
        for from in 1..400 {
            looked(&parts, -from, 1, &large);
            let shelf = parts.0.lock();
            assert!(shelf.bytes <= BYTES);
            let bytes: usize = shelf.sets.values().map(|kept| kept.bytes).sum();
            assert_eq!(bytes, shelf.bytes);
        }
        let too_large = set((0..40_000_000).step_by(2));
        assert!(looked(&parts, 9_999_999, 1, &too_large));
        assert!(looked(&parts, 9_999_999, 1, &too_large), "it isn't kept");
    }
}
