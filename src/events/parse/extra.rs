//! The keys of an event that have no meaning here, kept as sent.

use std::borrow::Cow;
use std::collections::HashSet;

use super::MAX_EXTRA;

/// With more keys than this, a repetition is found by hashing.
const FEW: usize = 16;

/// What is wrong with one more key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ExtraFault {
    /// It was there before.
    Repeated,
    /// All keys together are too long.
    TooLong,
}

/// JSON text of an object, as it grows.
#[derive(Default)]
pub(super) struct Extra<'a> {
    text: String,
    keys: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Extra<'a> {
    /// Adds a key with the JSON text of its value.
    pub(super) fn add(&mut self, key: Cow<'a, str>, value: &str) -> Result<(), ExtraFault> {
        if self.text.len() + key.len() + value.len() + 5 > MAX_EXTRA {
            return Err(ExtraFault::TooLong);
        }
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        match &key {
            // It came without an escape, so it needs none.
            Cow::Borrowed(plain) => {
                self.text.push('"');
                self.text.push_str(plain);
                self.text.push('"');
            }
            // Text always has a JSON form.
            Cow::Owned(text) => self
                .text
                .push_str(&serde_json::to_string(text).unwrap_or_default()),
        }
        self.text.push(':');
        self.text.push_str(value);
        if self.insert(key) {
            Ok(())
        } else {
            Err(ExtraFault::Repeated)
        }
    }

    /// Whether the key is new.
    fn insert(&mut self, key: Cow<'a, str>) -> bool {
        if !self.many.is_empty() {
            return self.many.insert(key);
        }
        if self.keys.contains(&key) {
            return false;
        }
        self.keys.push(key);
        if self.keys.len() > FEW {
            self.many.extend(self.keys.drain(..));
        }
        true
    }

    /// The text; empty without any key.
    pub(super) fn finish(mut self) -> Cow<'a, str> {
        if !self.text.is_empty() {
            self.text.push('}');
        }
        Cow::Owned(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_keys_and_values_as_sent() {
        let mut extra = Extra::default();
        assert_eq!(extra.add("a".into(), "1.00"), Ok(()));
        assert_eq!(extra.add(Cow::Owned("q\"\n".to_owned()), "[ ]"), Ok(()));
        assert_eq!(extra.finish(), r#"{"a":1.00,"q\"\n":[ ]}"#);
        assert_eq!(Extra::default().finish(), "");
    }

    #[test]
    fn finds_repetitions_among_few_and_among_many() {
        for count in [1, FEW, FEW + 1, 5 * FEW] {
            let mut extra = Extra::default();
            for key in 0..count {
                assert_eq!(extra.add(key.to_string().into(), "0"), Ok(()));
            }
            let last = (count - 1).to_string();
            assert_eq!(extra.add(last.into(), "0"), Err(ExtraFault::Repeated));
        }
    }

    #[test]
    fn has_its_bound() {
        let fits = "9".repeat(MAX_EXTRA - "{\"k\":}".len());
        let mut extra = Extra::default();
        assert_eq!(extra.add("k".into(), &fits), Ok(()));
        assert_eq!(extra.finish().len(), MAX_EXTRA);
        let mut extra = Extra::default();
        let one_more = format!("{fits}9");
        assert_eq!(extra.add("k".into(), &one_more), Err(ExtraFault::TooLong));
    }
}
