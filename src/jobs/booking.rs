//! What of a queue's time is booked: on disk as used before it comes.
//!
//! ```text
//!        asked for    on disk                                     reaches until
//!            │           │        slot                                  │
//! ───────────┴───────────┴─────────┴────────────────────────────────────┴──▶
//!            ╰────── AHEAD ────────╯
//!            ╰──────────────────────── REACH ───────────────────────────╯
//! ```
//!
//! Work whose slot is covered begins without waiting for the disk. A crash does no harm to the pace:
//! the next run of the process starts nothing within an interval of the end of what was booked.
//! A booking reaches over several slots where the interval is short.

use std::time::Duration;

use super::pace::Slot;
use crate::model::time::Now;

/// How long before its next slot, or before the end of what is booked, a queue with a batch ready asks
/// for more: a commit that takes no longer than this less [`SPARE`] holds up no start.
const AHEAD: Duration = Duration::from_millis(50);

/// How long after its slot work may begin and be within what is booked, also where a booking ends.
pub(crate) const SPARE: Duration = Duration::from_millis(25);

/// How far a booking reaches. After a crash, this much may be waited more than the interval.
pub(crate) const REACH: Duration = Duration::from_millis(100);

/// How far a booking reaches where other nodes may take over. The start of a batch books its slot, and
/// nothing is booked ahead.
const SHARED_REACH: Duration = Duration::from_secs(1);

/// Where other nodes may take over, work that has not begun so long before the end of what is booked
/// needs another booking: the clocks of two nodes are that close to each other (an answer of the
/// database about its time is used only if it came sooner).
const SKEW: Duration = Duration::from_millis(500);

/// What one queue has booked. Every booking reaches equally far and they are committed in their
/// order, so the latest on disk is the one that reaches furthest.
#[derive(Debug, Default)]
pub(crate) struct Booking {
    /// Whether other nodes may take over.
    shared: bool,
    /// What is on disk: until when, in monotonic time.
    until: Option<Duration>,
    /// The end of the booking that is on its way to the disk.
    asked: Option<Duration>,
    /// The slot for which the disk took no booking: it is left to the commit of its start.
    refused: Option<Duration>,
    /// Whether work began later than all that is booked.
    passed: bool,
}

impl Booking {
    /// Of a queue that other nodes may take over.
    pub(crate) fn shared() -> Self {
        Self {
            shared: true,
            ..Self::default()
        }
    }

    /// The end of a booking that is made at `now`.
    pub(crate) fn reach(&self, now: Now) -> Slot {
        let reach = if self.shared { SHARED_REACH } else { REACH };
        Slot {
            mono: now.mono.saturating_add(reach),
            wall: now.wall.plus(reach),
        }
    }

    /// How long after a takeover whoever had the queue before may still begin work, if it is within what
    /// it has booked. A process that is gone begins none; another node may not have heard that its term
    /// is over.
    pub(crate) const fn ahead(&self) -> Duration {
        if self.shared {
            SHARED_REACH
        } else {
            Duration::ZERO
        }
    }

    /// After this, in monotonic time, no work may begin before more is booked. Only where other nodes
    /// may take over: whoever does so waits an interval from the end of what was booked, and what
    /// would begin later than that would begin beside them.
    pub(crate) fn not_after(&self) -> Option<Duration> {
        let until = self.until.unwrap_or_default();
        self.shared.then(|| until.saturating_sub(SKEW))
    }

    /// Whether the work of a slot (in monotonic time) may begin before anything more is on disk.
    pub(crate) fn covers(&self, slot: Duration) -> bool {
        !self.shared
            && self
                .until
                .is_some_and(|until| slot.saturating_add(SPARE) <= until)
    }

    /// When to ask for the next booking, if the next slot opens at `opens_at`. `None` while one is on
    /// its way, and after a refusal.
    pub(crate) fn due(&self, opens_at: Duration) -> Option<Duration> {
        let waits = !self.shared && self.asked.is_none() && self.refused != Some(opens_at);
        let covered = self.until.unwrap_or_default();
        waits.then(|| opens_at.max(covered).saturating_sub(AHEAD))
    }

    /// Whether work began at a time that is not on disk as used: that has to be booked at once.
    pub(crate) const fn is_passed(&self) -> bool {
        self.passed
    }

    /// A booking goes to the disk; what was on its way before it counts no longer.
    pub(crate) fn ask(&mut self, now: Now) -> Slot {
        let end = self.reach(now);
        self.asked = Some(end.mono);
        self.passed = false;
        end
    }

    /// The booking until `end` is on disk, with or without a start.
    pub(crate) fn committed(&mut self, end: Slot) {
        self.asked = self.asked.filter(|asked| *asked != end.mono);
        self.until = self.until.max(Some(end.mono));
    }

    /// The disk did not take the booking until `end`. The slot that opens at `opens_at` does without.
    pub(crate) fn refused(&mut self, end: Slot, opens_at: Duration) {
        if self.asked == Some(end.mono) {
            self.asked = None;
            self.refused = Some(opens_at);
        }
    }

    /// Work began at `at`, in monotonic time.
    pub(crate) fn began(&mut self, at: Duration) {
        self.passed |= self.until.is_none_or(|until| at > until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u32) -> Now {
        Now {
            wall: Timestamp::EPOCH.plus(MS * millis),
            mono: MS * millis,
        }
    }

    #[test]
    fn a_slot_is_covered_once_its_booking_is_on_disk() {
        let mut booking = Booking::default();
        assert_eq!(booking.due(1000 * MS), Some(950 * MS));
        let end = booking.ask(at(950));
        assert_eq!(end.wall, at(1050).wall);
        assert!(!booking.covers(1000 * MS));
        assert_eq!(booking.due(1000 * MS), None, "one at a time");
        booking.committed(end);
        assert!(booking.covers(1025 * MS) && !booking.covers(1026 * MS));
        assert_eq!(booking.due(6000 * MS), Some(5950 * MS));
        assert_eq!(booking.due(1020 * MS), Some(1000 * MS), "short intervals");
    }

    #[test]
    fn after_a_refusal_the_slot_is_left_to_its_start() {
        let mut booking = Booking::default();
        let end = booking.ask(at(950));
        booking.refused(end, 1000 * MS);
        assert_eq!(booking.due(1000 * MS), None);
        assert_eq!(booking.due(2000 * MS), Some(1950 * MS));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_any_more_refuses_nothing() {
        let mut booking = Booking::default();
        let (first, second) = (booking.ask(at(0)), booking.ask(at(1)));
        booking.refused(first, 9 * MS);
        assert_eq!(booking.due(9 * MS), None, "the second is on its way");
        booking.committed(second);
        booking.committed(first);
        assert!(booking.covers(76 * MS), "a booking never shrinks");
    }

    #[test]
    fn work_that_began_later_than_all_that_is_booked_is_told_of_once() {
        let mut booking = Booking::default();
        booking.committed(booking.reach(at(0)));
        booking.began(100 * MS);
        assert!(!booking.is_passed());
        booking.began(101 * MS);
        assert!(booking.is_passed());
        booking.ask(at(102));
        assert!(!booking.is_passed());
    }

    #[test]
    fn what_others_may_take_over_is_never_booked_ahead() {
        let mut booking = Booking::shared();
        assert_eq!(booking.due(1000 * MS), None);
        assert_eq!(
            booking.not_after(),
            Some(Duration::ZERO),
            "nothing is booked"
        );
        let end = booking.ask(at(1000));
        assert_eq!(end.mono, 2000 * MS);
        booking.committed(end);
        assert!(!booking.covers(1000 * MS));
        assert_eq!(booking.not_after(), Some(1500 * MS));
        assert_eq!(Booking::default().not_after(), None);
    }
}
