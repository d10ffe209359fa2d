//! Numbers for names.

use hashbrown::HashMap;

/// Numbers names in the order in which they come, up to a bound.
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u16>,
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
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        Some(number)
    }

    pub(super) fn find(&self, name: &str) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    pub(super) fn name(&self, number: u16) -> Option<&str> {
        self.names.get(usize::from(number)).map(AsRef::as_ref)
    }

    /// In the order of their numbers.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }
}
