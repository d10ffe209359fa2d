//! Numbers for names.

use std::sync::Arc;

use hashbrown::HashMap;

/// Numbers names in the order in which they come, up to a bound.
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u16>,
}

impl Interner {
    /// The number of `name`; a new one if there are fewer than `bound`.
    pub(super) fn number(&mut self, name: &str, bound: usize) -> Option<u16> {
        if let Some(known) = self.find(name) {
            return Some(known);
        }
        if self.names.len() >= bound {
            return None;
        }
        let number = u16::try_from(self.names.len()).ok()?;
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        Some(number)
    }

    pub(super) fn find(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    pub(super) fn name(&self, number: u16) -> Option<&str> {
        self.names.get(usize::from(number)).map(AsRef::as_ref)
    }

    /// In the order of their numbers.
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }
}
