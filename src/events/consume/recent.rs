//! Which messages were committed of late.

use std::collections::{HashSet, VecDeque};

/// A message: its place in the stream, and when it got there.
type Name = (u64, i128);

/// What is known of a message that was delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Nothing: it is in hand from now on.
    New,
    /// Another delivery of it is being committed.
    InHand,
    /// It was committed.
    Committed,
}

/// The messages in hand, and the last ones that were committed, a bounded number of them.
///
/// A message that is delivered again because its acknowledgement was lost would be committed again, as
/// duplicates. That loses nothing, but nobody sent them twice: with this they are not counted so. How
/// often the server says that it delivered a message is no help, for it may have lost that, too.
pub(super) struct Recent {
    most: usize,
    in_hand: HashSet<Name>,
    names: HashSet<Name>,
    order: VecDeque<Name>,
}

impl Recent {
    /// Of `most` committed messages.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            in_hand: HashSet::new(),
            names: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// One was delivered.
    pub(super) fn take(&mut self, name: Name) -> Known {
        if self.names.contains(&name) {
            Known::Committed
        } else if self.in_hand.insert(name) {
            Known::New
        } else {
            Known::InHand
        }
    }

    /// One was committed; the oldest beyond the bound is forgotten.
    pub(super) fn add(&mut self, name: Name) {
        if !self.names.insert(name) {
            return;
        }
        self.order.push_back(name);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    /// One is no longer in hand, committed or not.
    pub(super) fn release(&mut self, name: Name) {
        self.in_hand.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_for_one_too_many() {
        let mut recent = Recent::new(2);
        recent.add((1, 0));
        recent.add((1, 0));
        recent.add((2, 0));
        assert_eq!(recent.take((1, 0)), Known::Committed);
        assert_eq!(recent.take((2, 0)), Known::Committed);
        assert_eq!(
            recent.take((1, 1)),
            Known::New,
            "of a stream that was made anew"
        );
        recent.add((3, 0));
        let known = [1, 2, 3].map(|place| recent.take((place, 0)));
        assert_eq!(known, [Known::New, Known::Committed, Known::Committed]);
    }

    #[test]
    fn what_is_in_hand_is_new_again_only_after_it_was_let_go() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.take((1, 0)), Known::New);
        assert_eq!(recent.take((1, 0)), Known::InHand);
        recent.release((1, 0));
        assert_eq!(recent.take((1, 0)), Known::New);
        recent.add((1, 0));
        recent.release((1, 0));
        assert_eq!(recent.take((1, 0)), Known::Committed);
    }
}
