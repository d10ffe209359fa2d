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
/// In this time the scheduler wakes (up to a millisecond late), chooses, and hands the work over; none
/// of that shows in the distance between two beginnings, since each has the same allowance.
pub(crate) const LAUNCH: Duration = Duration::from_millis(3);

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
///    │ chosen             │ the work begins    │
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
    /// Whether the work of the slot that was taken last has not begun: meanwhile none opens.
    launching: bool,
    last_slot: Option<Timestamp>,
    /// `last_slot` before the latest slot was taken.
    slot_before: Option<Timestamp>,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, SlotClock, NoOpMiddleware<SlotInstant>>;

impl Pace {
    /// Goes on where whoever had the queue before stopped: it begins no work after `booked_until`, and
    /// none more than `ahead` after `now`, so the next slot opens an interval after the earlier of the
    /// two. If it is dead, `ahead` is zero. Civil time may have been set back since; that never adds
    /// more than one interval to it.
    ///
    /// # Panics
    /// Never: an interval of zero is taken as one nanosecond.
    pub(crate) fn resume(
        interval: Duration,
        booked_until: Option<Timestamp>,
        ahead: Duration,
        now: Now,
    ) -> Self {
        let interval = interval.max(Duration::from_nanos(1));
        let clock = SlotClock::default();
        let limiter = limiter(interval, &clock);
        let last_slot = booked_until.map(|until| until.min(now.wall.plus(ahead)));
        let wait = last_slot.map_or(Duration::ZERO, |last| last.plus(interval).since(now.wall));
        let opens_at = now.mono + wait;
        let pace = Self {
            interval,
            limiter,
            clock,
            opens_at,
            begins_at: if wait.is_zero() {
                opens_at
            } else {
                opens_at + LAUNCH
            },
            launching: false,
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

    /// Whether the work of the slot that was taken last has not begun.
    pub(crate) const fn is_launching(&self) -> bool {
        self.launching
    }

    /// The slot that is open at `now`, if one is. `waited` says that the queue had a batch ready
    /// before the slot opened; `not_before` is when that batch was submitted.
    pub(crate) fn open_slot(&self, now: Now, waited: bool, not_before: Timestamp) -> Option<Slot> {
        let late = now.mono.checked_sub(self.opens_at)?;
        if self.launching {
            return None;
        }
        // One that is chosen later than its work shall begin is moved: the work begins at once.
        let late = late.min(LAUNCH);
        let exact = Slot {
            mono: now.mono.saturating_sub(late),
            wall: back(now.wall, late),
        };
        let here = Slot {
            mono: now.mono,
            wall: now.wall,
        };
        let mut slot = if waited && exact.wall >= not_before {
            exact
        } else {
            here
        };
        // The two clocks are read one after the other: don't let those microseconds show two starts
        // as closer than they are.
        if let Some(least) = self.last_slot.map(|last| last.plus(self.interval))
            && slot.wall < least
            && least.since(slot.wall) <= LAUNCH
        {
            slot.wall = least;
        }
        Some(slot)
    }

    /// The work of the slot that was taken last began at `at`, in monotonic time.
    pub(crate) fn began(&mut self, slot: Slot, at: Duration) {
        self.launching = false;
        let late = at.saturating_sub(slot.mono + LAUNCH);
        self.opens_at = self.opens_at.max(slot.mono + late + self.interval);
        self.begins_at = self.opens_at + LAUNCH;
    }

    /// The slot that was taken last is open again, because nothing started in it. Only what comes
    /// after it can be granted, so a limiter that knows of no start grants no more than the old one.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.limiter = limiter(self.interval, &self.clock);
        self.launching = false;
        self.opens_at = slot.mono;
        self.last_slot = self.slot_before;
    }

    /// Uses a slot: the next one opens an interval later. `Err` says when to come again if the
    /// limiter does not grant it.
    pub(crate) fn take(&mut self, slot: Slot) -> Result<(), Duration> {
        self.clock.set(slot.mono, self.interval);
        match self.limiter.check() {
            Ok(()) => {
                self.launching = true;
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

    /// Takes the slot, and its work begins as it shall.
    fn begin_in(pace: &mut Pace, slot: Slot) {
        pace.take(slot).unwrap();
        pace.began(slot, slot.mono + LAUNCH);
    }

    #[test]
    fn an_idle_queue_starts_at_once_and_then_once_in_an_interval() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        assert_eq!(pace.open_slot(at(700), false, at(0).wall), Some(slot(700)));
        begin_in(&mut pace, slot(700));
        assert_eq!(pace.open_slot(at(5699), true, at(0).wall), None);
        assert_eq!(pace.open_slot(at(5700), true, at(0).wall), Some(slot(5700)));
    }

    #[test]
    fn a_thousand_late_wakings_do_not_drift() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        for k in 0..1000 {
            let late = k % 4;
            let open = pace
                .open_slot(at(k * 5000 + late), k > 0, at(0).wall)
                .unwrap();
            let late = if k > 0 { 0 } else { late };
            assert_eq!(open, slot(k * 5000 + late));
            begin_in(&mut pace, open);
        }
    }

    #[test]
    fn no_slot_opens_until_the_work_of_the_last_one_has_begun() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        pace.take(slot(0)).unwrap();
        assert_eq!(pace.open_slot(at(6000), true, at(0).wall), None);
        pace.began(slot(0), at(6000).mono);
        assert_eq!(pace.open_slot(at(10_996), true, at(0).wall), None);
        let next = pace.open_slot(at(10_997), true, at(0).wall);
        assert_eq!(next, Some(slot(10_997)));
    }

    #[test]
    fn a_start_that_is_too_late_moves_the_slots_after_it() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        begin_in(&mut pace, slot(0));
        let open = pace.open_slot(at(5007), true, at(0).wall).unwrap();
        assert_eq!(open, slot(5004), "its work begins at once");
        pace.take(open).unwrap();
        assert_eq!(pace.opens_at(), at(10_004).mono);
    }

    #[test]
    fn work_that_begins_late_moves_the_slots_after_it() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        begin_in(&mut pace, slot(0));
        assert_eq!(pace.opens_at(), at(5000).mono, "that is what is allowed");
        assert_eq!(pace.begins_at(), at(5003).mono);
        pace.take(slot(5000)).unwrap();
        pace.began(slot(5000), at(5005).mono);
        assert_eq!(pace.begins_at(), at(10_005).mono);
        assert_eq!(pace.opens_at(), at(10_002).mono);
        pace.take(slot(10_002)).unwrap();
        pace.began(slot(10_002), at(10_302).mono);
        assert_eq!(pace.begins_at(), at(15_302).mono);
        assert_eq!(pace.open_slot(at(15_298), true, at(0).wall), None);
    }

    /// Slot after slot, chosen and begun as late as `late` says (in microseconds), and never before
    /// it is allowed: the moments at which work began.
    fn beginnings(late: impl Iterator<Item = (u64, u64)>) -> (Pace, Vec<Duration>) {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        let mut began = Vec::new();
        for (wake, hand_over) in late {
            let mono = pace.opens_at() + Duration::from_micros(wake);
            let wall = at(0).wall.plus(mono);
            let open = pace.open_slot(Now { wall, mono }, true, at(0).wall);
            let open = open.unwrap();
            pace.take(open).unwrap();
            let begins = (mono + Duration::from_micros(hand_over)).max(pace.begins_at());
            pace.began(open, begins);
            began.push(begins);
        }
        (pace, began)
    }

    #[test]
    fn wakes_and_ways_within_the_allowance_do_not_drift() {
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
    fn a_restart_waits_an_interval_from_the_end_of_what_was_booked() {
        let until = at(100).wall;
        // Whenever it comes back, also in the last milliseconds.
        for back_at in [101, 1000, 5099, 5100, 5101, 9000] {
            let pace = Pace::resume(INTERVAL, Some(until), Duration::ZERO, at(back_at));
            assert_eq!(pace.opens_at(), at(back_at.max(5100)).mono, "{back_at}");
            assert!(pace.opens_at() <= pace.begins_at());
        }
        // What was booked has not come yet, and nothing began in it.
        let pace = Pace::resume(INTERVAL, Some(until), Duration::ZERO, at(60));
        assert_eq!(pace.opens_at(), at(5060).mono);
        assert_eq!(pace.begins_at(), at(5063).mono);
    }

    #[test]
    fn a_takeover_waits_for_what_another_node_may_still_begin() {
        let ahead = Duration::from_secs(1);
        let now = at(100);
        for (until, waits) in [
            (0, 4900),
            (100, 5000),
            (900, 5800),
            (1100, 6000),
            (9000, 6000),
        ] {
            let pace = Pace::resume(INTERVAL, Some(at(until).wall), ahead, now);
            assert_eq!(
                pace.opens_at(),
                at(100 + waits).mono,
                "booked until {until}"
            );
            assert_eq!(pace.begins_at(), pace.opens_at() + LAUNCH);
        }
    }

    #[test]
    fn a_slot_that_was_given_back_is_open_and_no_earlier_one_is() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        begin_in(&mut pace, slot(0));
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
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        begin_in(&mut pace, slot(0));
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
        let mut pace = Pace::resume(INTERVAL, Some(last), Duration::ZERO, now);
        let (opens_at, wall) = (Duration::from_secs(2), at(5000).wall);
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
        let pace = Pace::resume(INTERVAL, Some(at(9_000_000).wall), Duration::ZERO, now);
        assert_eq!(pace.begins_at(), INTERVAL + LAUNCH);
    }

    #[test]
    fn two_clocks_read_apart_do_not_show_starts_as_too_close() {
        let mut pace = Pace::resume(INTERVAL, None, Duration::ZERO, at(0));
        begin_in(&mut pace, slot(0));
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
