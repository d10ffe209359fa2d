//! The pace of a queue: at most one start in an interval, and never two closer than that.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::model::time::{Now, Timestamp};

/// How late a start may come and still count as of its slot.
///
/// Timers fire up to a millisecond late. If every next slot were counted from such a start, the
/// pace would drift by that much a slot; so a start this close after its slot is recorded at the
/// slot. Later ones (the process was stopped, the disk was slow) are recorded when they happen, and
/// the slots after them count from there. So what an upstream sees comes no closer together than the
/// interval less this.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(5);

/// A slot that is open: when, on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) mono: Duration,
    pub(crate) wall: Timestamp,
}

/// When the slots of one queue open. [`governor`] keeps the pace (GCRA with a burst of one), on a
/// clock that stands at the slot.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    limiter: Limiter,
    clock: SlotClock,
    /// When the next slot opens, in monotonic time.
    opens_at: Duration,
    last_slot: Option<Timestamp>,
    /// `last_slot` before the latest slot was taken.
    slot_before: Option<Timestamp>,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, SlotClock, NoOpMiddleware<SlotInstant>>;

impl Pace {
    /// Goes on where the last run of the process stopped: if its last start is less than an interval
    /// ago, the first slot opens an interval after it. Civil time may have been set back since; the
    /// wait is never longer than one interval.
    ///
    /// # Panics
    /// Never: an interval of zero is taken as one nanosecond.
    pub(crate) fn resume(interval: Duration, last_slot: Option<Timestamp>, now: Now) -> Self {
        let interval = interval.max(Duration::from_nanos(1));
        let clock = SlotClock::default();
        let limiter = limiter(interval, &clock);
        let wait = last_slot.map_or(Duration::ZERO, |last| {
            last.plus(interval).since(now.wall).min(interval)
        });
        let mut pace = Self {
            interval,
            limiter,
            clock,
            opens_at: now.mono + wait,
            last_slot,
            slot_before: last_slot,
        };
        if wait > Duration::ZERO {
            pace.clock.set(pace.opens_at, interval);
            pace.clock.0.fetch_sub(nanos(interval), Ordering::Relaxed);
            let _ = pace.limiter.check();
        } else {
            pace.opens_at = now.mono;
        }
        pace
    }

    /// When the next slot opens, in monotonic time.
    pub(crate) const fn opens_at(&self) -> Duration {
        self.opens_at
    }

    /// The slot that is open at `now`, if one is. `waited` says that the queue had a batch ready
    /// before the slot opened; `not_before` is when that batch was submitted.
    pub(crate) fn open_slot(&self, now: Now, waited: bool, not_before: Timestamp) -> Option<Slot> {
        let late = now.mono.checked_sub(self.opens_at)?;
        let exact = Slot {
            mono: self.opens_at,
            wall: back(now.wall, late),
        };
        let here = Slot {
            mono: now.mono,
            wall: now.wall,
        };
        let mut slot = if waited && late <= TOLERANCE && exact.wall >= not_before {
            exact
        } else {
            here
        };
        // The two clocks are read one after the other: don't let those microseconds show two starts
        // as closer than they are.
        if let Some(least) = self.last_slot.map(|last| last.plus(self.interval))
            && slot.wall < least
            && least.since(slot.wall) <= TOLERANCE
        {
            slot.wall = least;
        }
        Some(slot)
    }

    /// The work of a slot began at `now`. Where the disk was slow to record the start, the next slot
    /// opens an interval after this, not after the slot; returned is what to record for the next run
    /// of the process.
    pub(crate) fn began(&mut self, slot: Slot, now: Now) -> Option<Timestamp> {
        if now.mono.saturating_sub(slot.mono) <= TOLERANCE {
            return None;
        }
        self.opens_at = self.opens_at.max(now.mono + self.interval);
        self.last_slot = Some(now.wall);
        self.last_slot
    }

    /// The slot that was taken last is open again, because nothing started in it. Only what comes
    /// after it can be granted, so a limiter that knows of no start grants no more than the old one.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.limiter = limiter(self.interval, &self.clock);
        self.opens_at = slot.mono;
        self.last_slot = self.slot_before;
    }

    /// Uses a slot: the next one opens an interval later. `Err` says when to come again if the
    /// limiter does not grant it.
    pub(crate) fn take(&mut self, slot: Slot) -> Result<(), Duration> {
        self.clock.set(slot.mono, self.interval);
        match self.limiter.check() {
            Ok(()) => {
                self.opens_at = slot.mono + self.interval;
                self.slot_before = self.last_slot.replace(slot.wall);
                Ok(())
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now());
                self.opens_at = slot.mono + wait;
                Err(self.opens_at)
            }
        }
    }
}

fn limiter(interval: Duration, clock: &SlotClock) -> Limiter {
    let quota =
        Quota::with_period(interval).unwrap_or(Quota::per_second(std::num::NonZeroU32::MIN));
    RateLimiter::direct_with_clock(quota, clock.clone())
}

fn back(from: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_micros(
        from.as_micros()
            .saturating_sub(i64::try_from(by.as_micros()).unwrap_or(0)),
    )
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds on the limiter's own scale, which begins an interval before monotonic time does, so
/// that the start before this process has a place on it.
#[derive(Clone, Debug, Default)]
struct SlotClock(Arc<AtomicU64>);

impl SlotClock {
    fn set(&self, mono: Duration, interval: Duration) {
        self.0.store(
            nanos(mono).saturating_add(nanos(interval)),
            Ordering::Relaxed,
        );
    }
}

impl Clock for SlotClock {
    type Instant = SlotInstant;

    fn now(&self) -> SlotInstant {
        SlotInstant(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct SlotInstant(u64);

impl Add<Nanos> for SlotInstant {
    type Output = Self;

    fn add(self, by: Nanos) -> Self {
        Self(self.0.saturating_add(by.as_u64()))
    }
}

impl Reference for SlotInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, by: Nanos) -> Self {
        Self(self.0.saturating_sub(by.as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Now {
        let mono = Duration::from_millis(millis);
        Now {
            wall: Timestamp::EPOCH.plus(Duration::from_secs(1000)).plus(mono),
            mono,
        }
    }

    fn slot(millis: u64) -> Slot {
        Slot {
            mono: at(millis).mono,
            wall: at(millis).wall,
        }
    }

    #[test]
    fn an_idle_queue_starts_at_once_and_then_once_in_an_interval() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        assert_eq!(pace.open_slot(at(700), false, at(0).wall), Some(slot(700)));
        pace.take(slot(700)).unwrap();
        assert_eq!(pace.open_slot(at(5699), true, at(0).wall), None);
        assert_eq!(pace.open_slot(at(5700), true, at(0).wall), Some(slot(5700)));
    }

    #[test]
    fn a_thousand_late_wakings_do_not_drift() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        for k in 0..1000 {
            let late = k % 5;
            let open = pace
                .open_slot(at(k * 5000 + late), k > 0, at(0).wall)
                .unwrap();
            assert_eq!(open, slot(k * 5000));
            pace.take(open).unwrap();
        }
    }

    #[test]
    fn a_start_that_is_too_late_moves_the_slots_after_it() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        pace.take(slot(0)).unwrap();
        let open = pace.open_slot(at(5006), true, at(0).wall).unwrap();
        assert_eq!(open, slot(5006));
        pace.take(open).unwrap();
        assert_eq!(pace.opens_at(), at(10_006).mono);
    }

    #[test]
    fn work_that_begins_late_moves_the_slots_after_it() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        pace.take(slot(0)).unwrap();
        assert_eq!(pace.began(slot(0), at(5)), None);
        assert_eq!(pace.opens_at(), at(5000).mono);
        let recorded = pace.began(slot(0), at(300));
        assert_eq!(pace.opens_at(), at(5300).mono);
        let restarted = Pace::resume(INTERVAL, recorded, at(1000));
        assert_eq!(restarted.opens_at(), at(5300).mono);
        assert_eq!(pace.open_slot(at(5299), true, at(0).wall), None);
    }

    #[test]
    fn a_slot_that_was_given_back_is_open_and_no_earlier_one_is() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        pace.take(slot(0)).unwrap();
        pace.take(slot(5000)).unwrap();
        pace.give_back(slot(5000));
        assert_eq!(pace.open_slot(at(4999), false, at(0).wall), None);
        let open = pace.open_slot(at(6000), false, at(0).wall).unwrap();
        assert_eq!(open, slot(6000));
        pace.take(open).unwrap();
        assert_eq!(pace.opens_at(), at(11_000).mono);
    }

    #[test]
    fn a_slot_is_never_before_the_submission_that_takes_it() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        pace.take(slot(0)).unwrap();
        assert_eq!(
            pace.open_slot(at(5002), true, at(5001).wall),
            Some(slot(5002))
        );
        assert_eq!(
            pace.open_slot(at(5002), false, at(0).wall),
            Some(slot(5002)),
            "nobody waited for it"
        );
    }

    #[test]
    fn the_last_start_of_an_earlier_run_counts() {
        let last = at(0).wall;
        let now = Now {
            wall: at(3000).wall,
            mono: Duration::ZERO,
        };
        let mut pace = Pace::resume(INTERVAL, Some(last), now);
        assert_eq!(pace.opens_at(), Duration::from_secs(2));
        // The limiter knows it too.
        let early = Slot {
            mono: Duration::from_secs(1),
            wall: at(4000).wall,
        };
        assert_eq!(pace.take(early), Err(Duration::from_secs(2)));
        let on_time = Slot {
            mono: Duration::from_secs(2),
            wall: at(5000).wall,
        };
        assert_eq!(pace.take(on_time), Ok(()));
    }

    #[test]
    fn civil_time_that_was_set_back_costs_at_most_one_interval() {
        let now = Now {
            wall: Timestamp::EPOCH,
            mono: Duration::ZERO,
        };
        let pace = Pace::resume(INTERVAL, Some(at(9_000_000).wall), now);
        assert_eq!(pace.opens_at(), INTERVAL);
    }

    #[test]
    fn two_clocks_read_apart_do_not_show_starts_as_too_close() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        pace.take(slot(0)).unwrap();
        let skewed = Now {
            wall: back(at(5000).wall, Duration::from_micros(30)),
            mono: at(5000).mono,
        };
        assert_eq!(
            pace.open_slot(skewed, true, at(0).wall).unwrap().wall,
            at(5000).wall
        );
    }
}
