//! Facts of events that come in no particular order, as rows of arrivals without gaps.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use super::FactRow;
use crate::model::event::Sequence;
use crate::model::time::Timestamp;
use crate::rollups::{Facts, Notes};

/// How many events a row is of; the last one may be of fewer.
const ROW: usize = 4_096;

/// What is known of the arrivals behind those that were taken.
pub(super) struct Window {
    /// The last arrival that was taken.
    covered: u64,
    /// The arrivals behind it.
    slots: VecDeque<Option<Slot>>,
    /// What the slots point to, and how many do.
    notes: HashMap<u32, (Notes, usize)>,
    next: u32,
}

/// One event.
#[derive(Clone, Copy)]
struct Slot {
    notes: u32,
    /// Its place in the notes.
    place: u32,
    time: Timestamp,
}

impl Window {
    /// Of the arrivals behind `covered`.
    pub(super) fn new(covered: u64) -> Self {
        Self {
            covered,
            slots: VecDeque::new(),
            notes: HashMap::new(),
            next: 0,
        }
    }

    /// Adds events with their notes, which are in their order. Those that were taken already are left
    /// out; fails with an arrival that comes twice.
    pub(super) fn add(
        &mut self,
        notes: Notes,
        events: impl Iterator<Item = (Sequence, Timestamp)>,
    ) -> Result<(), Sequence> {
        let number = self.next;
        let mut added = 0;
        for (place, (sequence, time)) in (0..).zip(events) {
            let Some(behind) = sequence.0.checked_sub(self.covered + 1) else {
                continue;
            };
            let behind = usize::try_from(behind).unwrap_or(usize::MAX);
            if self.slots.len() <= behind {
                self.slots.resize(behind + 1, None);
            }
            let slot = Slot {
                notes: number,
                place,
                time,
            };
            match self.slots.get_mut(behind) {
                Some(free @ None) => *free = Some(slot),
                _ => return Err(sequence),
            }
            added += 1;
        }
        if added > 0 {
            self.notes.insert(number, (notes, added));
            self.next = self.next.wrapping_add(1);
        }
        Ok(())
    }

    /// The next row, if all of its arrivals are there. `all`: no more come, so it may be short.
    pub(super) fn take(&mut self, all: bool) -> Option<FactRow> {
        let there = self.slots.iter().take(ROW).map_while(|slot| *slot).count();
        if there == 0 || there < ROW && !all {
            return None;
        }
        let taken: Vec<Slot> = self.slots.drain(..there).flatten().collect();
        let mut chosen: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for slot in &taken {
            chosen.entry(slot.notes).or_default().push(slot.place);
        }
        for places in chosen.values_mut() {
            places.sort_unstable();
        }
        let noted = chosen.iter().filter_map(|(number, places)| {
            let (notes, _) = self.notes.get(number)?;
            Some((notes, places.as_slice()))
        });
        let facts = Facts::of_noted(noted).encode();
        for (number, places) in &chosen {
            if let Some((_, left)) = self.notes.get_mut(number) {
                *left = left.saturating_sub(places.len());
                if *left == 0 {
                    self.notes.remove(number);
                }
            }
        }
        let first = self.covered + 1;
        self.covered += there as u64;
        let times = || taken.iter().map(|slot| slot.time);
        Some(FactRow {
            first,
            last: self.covered,
            low: times().min()?,
            high: times().max()?,
            facts,
        })
    }

    /// The last arrival that was taken.
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Event, EventTime};
    use crate::rollups::UserKey;

    fn event(arrival: u64) -> Event<'static> {
        Event {
            tenant: "t".into(),
            topic: "".into(),
            id: arrival.to_string().into(),
            time: EventTime {
                micros: Timestamp::from_micros(arrival.cast_signed() * 60_000_000),
                nanos: 0,
            },
            source: None,
            event_type: None,
            user: Some(format!("u{}", arrival % 7).into()),
            payload: "".into(),
            extra: "".into(),
        }
    }

    fn add(window: &mut Window, arrivals: &[u64]) -> Result<(), Sequence> {
        let events: Vec<_> = arrivals.iter().map(|it| event(*it)).collect();
        let notes = Notes::of(UserKey([1; 16]), &events);
        let times = events.iter().map(|event| event.time.micros);
        window.add(notes, arrivals.iter().map(|it| Sequence(*it)).zip(times))
    }

    #[test]
    fn rows_come_when_their_arrivals_are_there_whatever_came_first() {
        let all: Vec<u64> = (1..=ROW as u64 + 3).collect();
        let (odd, even): (Vec<u64>, Vec<u64>) = all.iter().partition(|it| *it % 2 == 1);
        let mut window = Window::new(0);
        add(&mut window, &even).unwrap();
        assert!(window.take(false).is_none());
        add(&mut window, &odd).unwrap();
        let row = window.take(false).unwrap();
        assert_eq!((row.first, row.last), (1, ROW as u64));
        assert_eq!(row.low, event(1).time.micros);
        assert_eq!(row.high, event(ROW as u64).time.micros);
        let events: Vec<_> = (1..=ROW as u64).map(event).collect();
        let expected = Facts::of(UserKey([1; 16]), &events);
        let found = Facts::decode(&row.facts).unwrap();
        assert_eq!(found.len(), expected.len());
        assert!(window.take(false).is_none());
        let row = window.take(true).unwrap();
        assert_eq!((row.first, row.last), (ROW as u64 + 1, ROW as u64 + 3));
        assert!(window.take(true).is_none());
        assert!(window.notes.is_empty() && window.slots.is_empty());
    }

    #[test]
    fn what_was_taken_is_left_out_and_what_comes_twice_is_refused() {
        let mut window = Window::new(4);
        add(&mut window, &[3, 4, 5]).unwrap();
        assert_eq!(add(&mut window, &[5]), Err(Sequence(5)));
        add(&mut window, &[7]).unwrap();
        // 6 is missing.
        let row = window.take(true).unwrap();
        assert_eq!((row.first, row.last), (5, 5));
        assert!(window.take(true).is_none());
        assert_eq!(window.covered(), 5);
    }
}
