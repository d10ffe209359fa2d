//! Which messages were committed of late.

use std::collections::{HashSet, VecDeque};

use crate::model::bus::MessageName;

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
/// The store knows which messages were committed, and refuses them: with this it is not asked for those
/// that come back to the process that committed them, as thousands do when the server ends and forgets
/// what was acknowledged. How often the server says that it delivered a message is no help, for it may have
/// lost that, too.
pub(super) struct Recent {
    most: usize,
    in_hand: HashSet<MessageName>,
    names: HashSet<MessageName>,
    order: VecDeque<MessageName>,
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
    pub(super) fn take(&mut self, name: MessageName) -> Known {
        if self.names.contains(&name) {
            Known::Committed
        } else if self.in_hand.insert(name) {
            Known::New
        } else {
            Known::InHand
        }
    }

    /// One was committed; the oldest beyond the bound is forgotten.
    pub(super) fn add(&mut self, name: MessageName) {
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
    pub(super) fn release(&mut self, name: MessageName) {
        self.in_hand.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(place: u64, published: i64) -> MessageName {
        MessageName { place, published }
    }

    #[test]
    fn the_oldest_is_forgotten_for_one_too_many() {
        let mut recent = Recent::new(2);
        recent.add(name(1, 0));
        recent.add(name(1, 0));
        recent.add(name(2, 0));
        assert_eq!(recent.take(name(1, 0)), Known::Committed);
        assert_eq!(recent.take(name(2, 0)), Known::Committed);
        assert_eq!(
            recent.take(name(1, 1)),
            Known::New,
            "of a stream that was made anew"
        );
        recent.add(name(3, 0));
        let known = [1, 2, 3].map(|place| recent.take(name(place, 0)));
        assert_eq!(known, [Known::New, Known::Committed, Known::Committed]);
    }

    #[test]
    fn what_is_in_hand_is_new_again_only_after_it_was_let_go() {
        let mut recent = Recent::new(2);
        assert_eq!(recent.take(name(1, 0)), Known::New);
        assert_eq!(recent.take(name(1, 0)), Known::InHand);
        recent.release(name(1, 0));
        assert_eq!(recent.take(name(1, 0)), Known::New);
        recent.add(name(1, 0));
        recent.release(name(1, 0));
        assert_eq!(recent.take(name(1, 0)), Known::Committed);
    }
}
