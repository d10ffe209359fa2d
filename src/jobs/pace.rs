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

/// How long after its slot the work of a batch begins.
///
/// In this time the scheduler wakes (up to a millisecond late), chooses, and has the start on disk
/// (its slowest hundredth takes about as long under load). None of that shows in the distance between
/// two beginnings, since each has the same allowance.
pub(crate) const LAUNCH: Duration = Duration::from_millis(3);

/// How long after its slot the work of a batch may begin and the slot still tell of it.
///
/// A start that is chosen this close after its slot is recorded at the slot. One that is chosen later
/// is recorded when that happens; of one whose work begins later, that too is recorded, for a restart.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(5);

/// A slot that is open: when, on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) mono: Duration,
    pub(crate) wall: Timestamp,
}

/// When the slots of one queue open, and when the work of a slot begins. [`governor`] keeps the pace
/// (GCRA with a burst of one), on a clock that stands at the slot.
///
/// ```text
///   slot                 slot + LAUNCH        the next slot
///    │ chosen, committed  │ the work begins    │
/// ───┴────────────────────┴────────────────────┴────────▶
///    ╰────────────── interval ─────────────────╯
/// ```
///
/// Two beginnings are never closer than the interval: where one comes later than [`LAUNCH`] after its
/// slot, all slots after it are moved by the difference.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    limiter: Limiter,
    clock: SlotClock,
    /// When the next slot opens, in monotonic time.
    opens_at: Duration,
    /// Before this, in monotonic time, no work begins: an interval after the last beginning.
    begins_at: Duration,
    last_slot: Option<Timestamp>,
    /// `last_slot` before the latest slot was taken.
    slot_before: Option<Timestamp>,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, SlotClock, NoOpMiddleware<SlotInstant>>;

impl Pace {
    /// Goes on where the last run of the process stopped: if its last start is less than an interval
    /// ago, no work begins before the rest of it is over. How long after its slot that start's work
    /// began is not known, so the most that it can have been is waited as well. Civil time may have
    /// been set back since; that never adds more than one interval.
    ///
    /// # Panics
    /// Never: an interval of zero is taken as one nanosecond.
    pub(crate) fn resume(interval: Duration, last_slot: Option<Timestamp>, now: Now) -> Self {
        let interval = interval.max(Duration::from_nanos(1));
        let clock = SlotClock::default();
        let limiter = limiter(interval, &clock);
        let rest_of = |whole: Duration| {
            last_slot.map_or(Duration::ZERO, |last| {
                last.plus(whole).since(now.wall).min(whole)
            })
        };
        let wait = rest_of(interval + TOLERANCE.saturating_sub(LAUNCH));
        let pace = Self {
            interval,
            limiter,
            clock,
            opens_at: now.mono + wait,
            begins_at: now.mono + rest_of(interval + TOLERANCE),
            last_slot,
            slot_before: last_slot,
        };
        if wait > Duration::ZERO {
            pace.clock.set(pace.opens_at, interval);
            pace.clock.0.fetch_sub(nanos(interval), Ordering::Relaxed);
            let _ = pace.limiter.check();
        }
        pace
    }

    /// When the next slot opens, in monotonic time.
    pub(crate) const fn opens_at(&self) -> Duration {
        self.opens_at
    }

    /// When the work of the slot that was taken last may begin, in monotonic time.
    pub(crate) const fn begins_at(&self) -> Duration {
        self.begins_at
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

    /// The work of the slot that was taken last began at `at`. Returned is what to record for the next
    /// run of the process, if the slot no longer tells of it.
    pub(crate) fn began(&mut self, slot: Slot, at: Now) -> Option<Timestamp> {
        let late = at.mono.saturating_sub(slot.mono + LAUNCH);
        self.opens_at = self.opens_at.max(slot.mono + late + self.interval);
        self.begins_at = self.opens_at + LAUNCH;
        (at.mono.saturating_sub(slot.mono) > TOLERANCE).then_some(at.wall)
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
        assert_eq!(pace.began(slot(0), at(3)), None);
        assert_eq!(pace.opens_at(), at(5000).mono, "that is what is allowed");
        assert_eq!(pace.begins_at(), at(5003).mono);
        pace.take(slot(5000)).unwrap();
        assert_eq!(pace.began(slot(5000), at(5005)), None);
        assert_eq!(pace.begins_at(), at(10_005).mono);
        assert_eq!(pace.opens_at(), at(10_002).mono);
        pace.take(slot(10_002)).unwrap();
        let recorded = pace.began(slot(10_002), at(10_302));
        assert_eq!(recorded, Some(at(10_302).wall));
        assert_eq!(pace.begins_at(), at(15_302).mono);
        assert_eq!(pace.open_slot(at(15_298), true, at(0).wall), None);
        let restarted = Pace::resume(INTERVAL, recorded, at(11_000));
        assert!(restarted.begins_at() >= at(15_302).mono);
    }

    /// Slot after slot, chosen and begun as late as `late` says (in microseconds), and never before
    /// it is allowed: the moments at which work began.
    fn beginnings(late: impl Iterator<Item = (u64, u64)>) -> (Pace, Vec<Duration>) {
        let after = |moment: Duration, micros: u64| {
            let mono = moment + Duration::from_micros(micros);
            Now {
                wall: at(0).wall.plus(mono),
                mono,
            }
        };
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        let mut began = Vec::new();
        for (wake, write) in late {
            let chosen = after(pace.opens_at(), wake);
            let open = pace.open_slot(chosen, true, at(0).wall).unwrap();
            pace.take(open).unwrap();
            let committed = after(chosen.mono, write);
            let begins = after(committed.mono.max(pace.begins_at()), 0);
            pace.began(open, begins);
            began.push(begins.mono);
        }
        (pace, began)
    }

    #[test]
    fn wakes_and_commits_within_the_allowance_do_not_drift() {
        let (pace, began) = beginnings((0..1000).map(|k| (k * 37 % 1_100, k * 91 % 1_900)));
        for pair in began.windows(2).skip(1) {
            assert_eq!(pair[1], pair[0] + INTERVAL);
        }
        assert_eq!(pace.opens_at(), at(1000 * 5000).mono);
    }

    #[test]
    fn beginnings_are_never_closer_than_the_interval_however_late_they_are() {
        let late = |k: u64| (k * 7_919 % 9_000, k * 104_729 % 40_000);
        let (pace, began) = beginnings((0..1000).map(late));
        assert!(began.windows(2).all(|pair| pair[1] >= pair[0] + INTERVAL));
        assert_eq!(pace.begins_at(), began[999] + INTERVAL);
    }

    #[test]
    fn a_restart_allows_for_the_latest_beginning_that_its_slot_tells_of() {
        let mut pace = Pace::resume(INTERVAL, None, at(0));
        pace.take(slot(0)).unwrap();
        assert_eq!(pace.began(slot(0), at(5)), None);
        // Whenever it comes back, also in the last milliseconds.
        for back_at in [1000, 4999, 5001, 5002, 5003, 5004, 5005, 9000] {
            let restarted = Pace::resume(INTERVAL, Some(slot(0).wall), at(back_at));
            let begins = restarted.begins_at();
            assert_eq!(begins, at(back_at.max(5005)).mono, "back at {back_at}");
            assert!(restarted.opens_at() <= begins);
        }
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
        let (opens_at, wall) = (Duration::from_millis(2002), at(5002).wall);
        assert_eq!(pace.opens_at(), opens_at);
        // The limiter knows it too.
        let early = Slot {
            mono: Duration::from_secs(1),
            wall: at(4000).wall,
        };
        assert_eq!(pace.take(early), Err(opens_at));
        let mono = opens_at;
        assert_eq!(pace.take(Slot { mono, wall }), Ok(()));
    }

    #[test]
    fn civil_time_that_was_set_back_costs_at_most_one_interval() {
        let now = Now {
            wall: Timestamp::EPOCH,
            mono: Duration::ZERO,
        };
        let pace = Pace::resume(INTERVAL, Some(at(9_000_000).wall), now);
        assert_eq!(pace.begins_at(), INTERVAL + TOLERANCE);
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
