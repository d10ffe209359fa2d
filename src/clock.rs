//! The only place that reads a clock. Everything else is handed the time.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::time::{Now, Timestamp};

/// How late [`Clock::sleep_until`] wakes: tokio's timers go in steps of a millisecond, and a thread
/// needs a moment to wake.
const TIMER_STEP: Duration = Duration::from_micros(1_200);

/// How long before a moment [`Clock::approach`] returns, and [`Clock::hold_until`] holds its thread:
/// enough for one thread to wake late, and to hand something to another.
const HAND_OVER: Duration = Duration::from_millis(1);

/// No civil time of others is followed.
const OWN_TIME: i64 = i64::MIN;

/// What others say about the time is left aside if it took longer than this to hear.
const FRESH: Duration = Duration::from_millis(500);

/// A source of time: the machine's, or one that a test moves by hand.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clocks.
    System {
        /// Where monotonic time counts from.
        start: Instant,
        /// Civil time at `start` as others have it, in microseconds since the Unix epoch;
        /// `i64::MIN` while the machine's own counts.
        theirs: Arc<AtomicI64>,
    },
    /// Stands still until it is moved.
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clocks; monotonic time counts from this call.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn system() -> Self {
        Self::System {
            start: Instant::now(),
            theirs: Arc::new(AtomicI64::new(OWN_TIME)),
        }
    }

    /// Both times at once.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Now {
        match self {
            Self::System { start, theirs } => {
                let mono = start.elapsed();
                let theirs = theirs.load(Ordering::Relaxed);
                let wall = if theirs == OWN_TIME {
                    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
                    let micros = wall.unwrap_or_default().as_micros();
                    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
                } else {
                    Timestamp::from_micros(theirs).plus(mono)
                };
                Now { wall, mono }
            }
            Self::Manual(manual) => *manual.0.sender.borrow(),
        }
    }

    /// Civil time goes on from `time`, which somebody else's clock showed after `asked` (monotonic):
    /// never ahead of that clock, and behind it by no more than the quickest answer took. A slow
    /// answer is left aside. Does nothing to a clock under a test's hand.
    ///
    /// An answer that could be told by the time that goes on already changes nothing. If each one did,
    /// two moments would seem closer than they are by what the second answer took longer.
    pub fn follow(&self, time: Timestamp, asked: Duration) {
        if let Self::System { start, theirs } = self {
            let mono = start.elapsed();
            if mono.saturating_sub(asked) <= FRESH {
                let known = theirs.load(Ordering::Relaxed);
                let known = (known != OWN_TIME).then_some(known);
                let now = at_start(known, time, asked..=mono);
                theirs.store(now, Ordering::Relaxed);
            }
        }
    }

    /// Returns once the monotonic time is at least `mono`.
    pub async fn sleep_until(&self, mono: Duration) {
        match self {
            Self::System { start, .. } => {
                tokio::time::sleep_until(tokio::time::Instant::from_std(*start + mono)).await;
            }
            Self::Manual(manual) => {
                let mut receiver = manual.0.sender.subscribe();
                // The sender lives in `manual`, so the wait can't fail.
                let _ = receiver.wait_for(|now| now.mono >= mono).await;
            }
        }
    }

    /// Returns a millisecond before `mono`, a tenth of one at the most later: time for another
    /// thread to take something up and [`Self::hold_until`] then.
    ///
    /// The last step is slept by the thread, not by the task: 1.2 ms at the most in which nothing
    /// else goes on there. So this is for a thread whose tasks can all wait that long.
    pub async fn approach(&self, mono: Duration) {
        let Self::System { start, .. } = self else {
            return;
        };
        self.sleep_until(mono.saturating_sub(HAND_OVER + TIMER_STEP))
            .await;
        let before = mono.saturating_sub(HAND_OVER);
        // sleep: the thread's own sleep is exact to some 60 microseconds, tokio's to a millisecond.
        std::thread::sleep(before.saturating_sub(start.elapsed()));
    }

    /// Returns within a microsecond of `mono` (at once, if it is over), and says when exactly. Its
    /// last millisecond is spent reading the clock: no sleep is as exact.
    pub async fn hold_until(&self, mono: Duration) -> Now {
        match self {
            Self::System { start, .. } => {
                if start.elapsed() + HAND_OVER < mono {
                    self.sleep_until(mono.saturating_sub(HAND_OVER)).await;
                }
                while start.elapsed() < mono {
                    std::hint::spin_loop();
                }
            }
            Self::Manual(_) => self.sleep_until(mono).await,
        }
        self.now()
    }

    /// Returns after `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now().mono.saturating_add(duration))
            .await;
    }
}

/// A clock under a test's own hand. Clones share the time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<ManualInner>);

#[derive(Debug)]
struct ManualInner {
    sender: watch::Sender<Now>,
    /// Serializes moves, so that no two add to the same reading.
    moving: Mutex<()>,
}

impl ManualClock {
    /// Stands at `wall`, zero on the monotonic side.
    #[must_use]
    pub fn starting_at(wall: Timestamp) -> Self {
        let sender = watch::Sender::new(Now {
            wall,
            mono: Duration::ZERO,
        });
        Self(Arc::new(ManualInner {
            sender,
            moving: Mutex::new(()),
        }))
    }

    /// Moves both times forward and wakes those who sleep until then.
    pub fn advance(&self, by: Duration) {
        let _moving = self.0.moving.lock();
        self.0.sender.send_modify(|now| {
            now.wall = now.wall.plus(by);
            now.mono += by;
        });
    }
}

/// What another clock showed when monotonic time began: it shows `time` at some moment of `within`,
/// and was `known` to be there.
fn at_start(known: Option<i64>, time: Timestamp, within: RangeInclusive<Duration>) -> i64 {
    let (asked, answered) = within.into_inner();
    let (least, most) = (time.minus(answered), time.minus(asked));
    let (least, most) = (least.as_micros(), most.as_micros());
    known
        .filter(|known| (least..=most).contains(known))
        .unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_when_it_is_moved() {
        let manual = ManualClock::starting_at(Timestamp::EPOCH);
        let clock = Clock::Manual(manual.clone());
        let mut sleeper = Box::pin(clock.sleep(Duration::from_secs(5)));
        assert!(poll_once(&mut sleeper).await.is_pending());
        manual.advance(Duration::from_secs(4));
        assert!(poll_once(&mut sleeper).await.is_pending());
        assert_eq!(clock.now().wall, Timestamp::from_micros(4_000_000));
        manual.advance(Duration::from_secs(1));
        sleeper.await;
    }

    /// Polls once.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context))
        })
        .await
    }

    #[test]
    fn how_long_answers_take_does_not_move_the_time() {
        let millis = Duration::from_millis;
        // Another clock, which showed a second when monotonic time began and
        // was asked, read and heard then.
        let told = |known, [asked, read, answered]: [u64; 3]| {
            let time = Timestamp::from_micros(1_000_000).plus(millis(read));
            at_start(known, time, millis(asked)..=millis(answered))
        };
        let first = told(None, [100, 110, 140]);
        assert_eq!(first, 970_000, "never ahead");
        let closer = told(Some(first), [200, 201, 203]);
        assert_eq!(closer, 998_000, "a quick answer says more");
        for slow in [[300, 301, 700], [800, 1_290, 1_300], [1_400, 1_401, 1_404]] {
            assert_eq!(told(Some(closer), slow), closer, "{slow:?}");
        }
        let exact = told(Some(closer), [1_500, 1_501, 1_501]);
        assert_eq!(exact, 1_000_000);
        // That clock is set back: what is known can't be any more.
        let back = at_start(Some(exact), Timestamp::EPOCH, millis(5)..=millis(7));
        assert_eq!(back, -7_000);
    }

    #[test]
    fn an_answer_that_took_too_long_is_left_aside() {
        let clock = Clock::system();
        let wall = clock.now().wall;
        let later = wall.plus(Duration::from_hours(1));
        clock.follow(later, clock.now().mono);
        let followed = clock.now().wall;
        assert!(followed >= later);
        let Clock::System { start, theirs } = clock else {
            unreachable!("it is the machine's");
        };
        let long_ago = Clock::System {
            start: start.checked_sub(FRESH * 2).unwrap(),
            theirs,
        };
        let before = long_ago.now().wall;
        long_ago.follow(wall, Duration::ZERO);
        assert!(long_ago.now().wall >= before);
    }

    #[tokio::test]
    async fn nobody_goes_on_before_the_moment() {
        let clock = Clock::system();
        for micros in [0, 10, 499, 501, 3_000] {
            let moment = clock.now().mono + Duration::from_micros(micros);
            clock.approach(moment).await;
            assert!(clock.hold_until(moment).await.mono >= moment);
        }
        let manual = ManualClock::starting_at(Timestamp::EPOCH);
        let clock = Clock::Manual(manual.clone());
        clock.approach(Duration::from_millis(3)).await;
        let mut held = Box::pin(clock.hold_until(Duration::from_millis(3)));
        manual.advance(Duration::from_micros(2_999));
        assert!(poll_once(&mut held).await.is_pending());
        manual.advance(Duration::from_micros(1));
        assert_eq!(held.await.mono, Duration::from_millis(3));
    }

    #[test]
    fn the_machine_s_monotonic_time_never_goes_back() {
        let clock = Clock::system();
        let (first, second) = (clock.now(), clock.now());
        assert!(second.mono >= first.mono);
    }
}
