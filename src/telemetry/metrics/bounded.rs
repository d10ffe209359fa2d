//! A table of handles by name that stops growing at its bound.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::OTHER;

/// Handles by name. Names past the bound share the handle of `other`.
pub(super) struct Bounded<T> {
    bound: usize,
    entries: RwLock<HashMap<Arc<str>, Arc<T>, std::hash::RandomState>>,
}

impl<T> Bounded<T> {
    /// For at most `bound` names, and `other` beside them.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            bound,
            entries: RwLock::new(HashMap::with_hasher(std::hash::RandomState::new())),
        }
    }

    /// The handle of `name`, made if it is new.
    pub(super) fn get(&self, name: &str, make: impl FnOnce(&Arc<str>) -> T) -> Arc<T> {
        let entries = self.entries.read();
        if let Some(found) = entries.get(name) {
            return Arc::clone(found);
        }
        // Full, but for `other`: no name after this takes the write lock again.
        if entries.len() > self.bound
            && let Some(other) = entries.get(OTHER)
        {
            return Arc::clone(other);
        }
        drop(entries);
        self.insert(name, make)
    }

    /// All names with what `read` makes of their handles, by name.
    pub(super) fn all<R>(&self, read: impl Fn(&T) -> R) -> Vec<(Arc<str>, R)> {
        let entries = self.entries.read();
        let mut all: Vec<(Arc<str>, R)> = entries
            .iter()
            .map(|(name, handle)| (Arc::clone(name), read(handle)))
            .collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    #[cold]
    fn insert(&self, name: &str, create: impl FnOnce(&Arc<str>) -> T) -> Arc<T> {
        let mut entries = self.entries.write();
        let named = entries.len() - usize::from(entries.contains_key(OTHER));
        let name = if named < self.bound { name } else { OTHER };
        if let Some(found) = entries.get(name) {
            return Arc::clone(found);
        }
        let name: Arc<str> = Arc::from(name);
        let handle = Arc::new(create(&name));
        entries.insert(name, Arc::clone(&handle));
        handle
    }
}
