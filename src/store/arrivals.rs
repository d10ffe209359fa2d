//! Which arrivals were met: for finding out that each is there once.

use crate::model::event::Sequence;

/// A bit for each arrival.
#[derive(Default)]
pub(in crate::store) struct Arrivals {
    met: Vec<u64>,
    noted: u64,
    /// Of those, how many were met before.
    again: u64,
}

impl Arrivals {
    pub(in crate::store) fn note(&mut self, Sequence(arrival): Sequence) {
        let (word, bit) = (
            usize::try_from(arrival / 64).unwrap_or(usize::MAX),
            1 << (arrival % 64),
        );
        if self.met.len() <= word {
            self.met.resize(word + 1, 0);
        }
        self.noted += 1;
        if let Some(word) = self.met.get_mut(word) {
            self.again += u64::from(*word & bit != 0);
            *word |= bit;
        }
    }

    /// How many times one was met.
    pub(in crate::store) fn noted(&self) -> u64 {
        self.noted
    }

    /// How many were met once.
    pub(in crate::store) fn once(&self) -> u64 {
        self.noted - 2 * self.again.min(self.noted / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_that_is_there_twice_does_not_count() {
        let mut arrivals = Arrivals::default();
        for arrival in [1, 2, 3, 200, 2, 64] {
            arrivals.note(Sequence(arrival));
        }
        assert_eq!((arrivals.noted(), arrivals.once()), (6, 4));
    }
}
