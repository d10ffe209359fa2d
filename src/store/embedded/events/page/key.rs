//! Places in the order of a page.

use crate::model::event::{EventTime, Order, Place, Sequence};
use crate::model::time::Timestamp;

/// The most nanoseconds beyond a microsecond.
const LAST_NANO: u16 = 999;

/// A place that compares as its events come: (time, arrival), all of it mirrored in descending
/// order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    micros: i64,
    nanos: u16,
    sequence: u64,
}

impl Key {
    /// The key of a place.
    pub(super) fn of(place: Place, order: Order) -> Self {
        let key = Self {
            micros: place.time.micros.as_micros(),
            nanos: place.time.nanos,
            sequence: place.sequence.0,
        };
        match order {
            Order::Ascending => key,
            Order::Descending => key.mirrored(),
        }
    }

    /// The place of a key of this order.
    pub(super) fn place(self, order: Order) -> Place {
        let key = match order {
            Order::Ascending => self,
            Order::Descending => self.mirrored(),
        };
        Place {
            time: EventTime {
                micros: Timestamp::from_micros(key.micros),
                nanos: key.nanos,
            },
            sequence: Sequence(key.sequence),
        }
    }

    fn mirrored(self) -> Self {
        Self {
            micros: !self.micros,
            nanos: LAST_NANO.saturating_sub(self.nanos),
            sequence: !self.sequence,
        }
    }

    /// The key of an event without nanoseconds.
    pub(super) fn exactly(micros: i64, sequence: u64, order: Order) -> Self {
        let time = EventTime {
            micros: Timestamp::from_micros(micros),
            nanos: 0,
        };
        let sequence = Sequence(sequence);
        Self::of(Place { time, sequence }, order)
    }

    /// The first key of a microsecond, in this order.
    pub(super) fn first_at(micros: i64, order: Order) -> Self {
        Self {
            nanos: 0,
            sequence: 0,
            ..Self::exactly(micros, 0, order)
        }
    }

    /// The last key of a microsecond, in this order.
    pub(super) fn last_at(micros: i64, order: Order) -> Self {
        Self {
            nanos: LAST_NANO,
            sequence: u64::MAX,
            ..Self::exactly(micros, 0, order)
        }
    }

    /// The key right before.
    pub(super) fn before(self) -> Self {
        let (nanos, micros) = (self.nanos, self.micros);
        if let Some(sequence) = self.sequence.checked_sub(1) {
            return Self { sequence, ..self };
        }
        let (micros, nanos) = match nanos.checked_sub(1) {
            Some(nanos) => (micros, nanos),
            None => (micros.saturating_sub(1), LAST_NANO),
        };
        Self {
            micros,
            nanos,
            sequence: u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::samples;
    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        (
            samples::time(),
            prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
        )
            .prop_map(|(time, sequence)| Place {
                time,
                sequence: Sequence(sequence),
            })
    }

    proptest! {
        #[test]
        fn keys_compare_as_places_do(a in place(), b in place()) {
            let (up, down) = (Order::Ascending, Order::Descending);
            prop_assert_eq!(Key::of(a, up).cmp(&Key::of(b, up)), a.cmp(&b));
            prop_assert_eq!(Key::of(a, down).cmp(&Key::of(b, down)), b.cmp(&a));
            for order in [up, down] {
                let (key, before) = (Key::of(a, order), Key::of(a, order).before());
                prop_assert_eq!(key.place(order), a);
                prop_assert!(before < key);
                prop_assert!(Key::of(b, order) <= before || Key::of(b, order) >= key);
                prop_assert_eq!(Key::of(before.place(order), order), before);
                prop_assert!(Key::first_at(a.time.micros.as_micros(), order) <= key);
                prop_assert!(Key::last_at(a.time.micros.as_micros(), order) >= key);
            }
        }
    }
}
