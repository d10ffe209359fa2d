//! Up to which place of the stream every message was acknowledged, for good.
//!
//! The server syncs acknowledgements every two minutes: killed, it forgets the last ones and delivers their
//! messages again. So a floor counts once it was one for longer than that.

use std::collections::VecDeque;
use std::time::Duration;

/// After which time a floor counts.
const SETTLES: Duration = Duration::from_mins(10);

/// How many looks are kept of that time.
const LOOKS: u32 = 20;

/// What was seen of the floor.
#[derive(Default)]
pub(super) struct Floor {
    /// When it was looked at, and the lowest since then; the oldest look first.
    looks: VecDeque<(Duration, u64)>,
}

impl Floor {
    /// Whether it is to be looked at: for some seconds the last look is enough.
    fn is_due(&self, now: Duration) -> bool {
        let last = self.looks.back().map(|(at, _)| *at);
        last.is_none_or(|last| now.saturating_sub(last) >= SETTLES / LOOKS)
    }

    /// At the time `now` it is at this place. It may be lower than before, also since the stream was made
    /// anew.
    pub(super) fn look(&mut self, now: Duration, floor: u64) {
        for (_, lowest) in &mut self.looks {
            *lowest = floor.min(*lowest);
        }
        if self.is_due(now) {
            self.looks.push_back((now, floor));
        }
        // The oldest one that counts is enough.
        while let Some((next, _)) = self.looks.get(1)
            && now.saturating_sub(*next) >= SETTLES
        {
            self.looks.pop_front();
        }
    }

    /// The place, if there was one for long enough.
    pub(super) fn settled(&self) -> Option<u64> {
        let ((first, floor), (last, _)) = (self.looks.front()?, self.looks.back()?);
        (last.saturating_sub(*first) >= SETTLES).then_some(*floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One a second.
    fn look(floor: &mut Floor, seconds: std::ops::RangeInclusive<u64>, place: impl Fn(u64) -> u64) {
        for second in seconds {
            floor.look(Duration::from_secs(second), place(second));
        }
    }

    #[test]
    fn a_floor_counts_after_ten_minutes() {
        let mut floor = Floor::default();
        look(&mut floor, 5..=604, |second| second * 10);
        assert_eq!(floor.settled(), None);
        look(&mut floor, 605..=605, |second| second * 10);
        assert_eq!(floor.settled(), Some(50));
        look(&mut floor, 606..=2_000, |second| second * 10);
        let settled = floor.settled().unwrap();
        assert!((13_700..=14_000).contains(&settled), "{settled}");
        assert!(floor.looks.len() <= LOOKS as usize + 2);
    }

    #[test]
    fn a_floor_that_went_back_counts_no_more() {
        let mut floor = Floor::default();
        look(&mut floor, 0..=900, |_| 1_000);
        assert_eq!(floor.settled(), Some(1_000));
        floor.look(Duration::from_secs(901), 700);
        assert_eq!(floor.settled(), Some(700));
        // A stream made anew.
        floor.look(Duration::from_secs(902), 0);
        look(&mut floor, 903..=1_400, |_| 5_000);
        assert_eq!(floor.settled(), Some(0));
        look(&mut floor, 1_401..=1_600, |_| 5_000);
        assert_eq!(floor.settled(), Some(5_000));
    }
}
