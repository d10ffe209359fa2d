//! What a retry is: whether there is one, and when. The only place that decides it.

use std::time::Duration;

use crate::model::queue::RetryPolicy;

/// How long to wait before the next attempt, after attempt number `attempt` (from 1) failed; `None`
/// when the attempts are used up. `jitter` is in `0.0..1.0`.
///
/// The interval is that of Cloud Tasks: it starts at `min_backoff`, doubles `max_doublings` times,
/// then grows by the last step each time, and stays at `max_backoff` once there. Equal jitter is
/// then taken off it, up to half (AWS, "Exponential Backoff And Jitter"), so that batches that
/// failed together don't come back together; but never so much that the wait would be shorter
/// than `min_backoff`, which is a promise to the upstream. Nor is it ever shorter than
/// `retry_after`, even where that is longer than `max_backoff`: the upstream knows best.
#[must_use]
pub fn backoff(
    policy: &RetryPolicy,
    attempt: u32,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Option<Duration> {
    if attempt >= policy.max_attempts.get() {
        return None;
    }
    let interval = interval(policy, attempt.saturating_sub(1));
    let half = interval / 2;
    let share = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let jittered = half.saturating_add(half.mul_f64(share)).min(interval);
    let least = policy.min_backoff.min(policy.max_backoff);
    Some(jittered.max(least).max(retry_after.unwrap_or_default()))
}

/// The wait without jitter after `failures` earlier failures (0 after the first attempt).
fn interval(policy: &RetryPolicy, failures: u32) -> Duration {
    let doublings = failures.min(policy.max_doublings);
    let linear = u128::from(failures - doublings);
    let nanos = 1_u128
        .checked_shl(doublings)
        .unwrap_or(u128::MAX)
        .saturating_mul(policy.min_backoff.as_nanos())
        .saturating_mul(linear.saturating_add(1));
    if nanos >= policy.max_backoff.as_nanos() {
        policy.max_backoff
    } else {
        // Smaller than `max_backoff`, so it is a duration.
        Duration::from_nanos_u128(nanos)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn policy(attempts: u32, min: u64, max: u64, doublings: u32) -> RetryPolicy {
        RetryPolicy {
            max_attempts: NonZeroU32::new(attempts).unwrap(),
            min_backoff: Duration::from_secs(min),
            max_backoff: Duration::from_secs(max),
            max_doublings: doublings,
        }
    }

    #[test]
    fn doubles_then_grows_linearly_then_stays() {
        // The example in Cloud Tasks' own documentation of `maxDoublings`.
        let policy = policy(100, 10, 300, 3);
        let waits: Vec<u64> = (1..=9)
            .map(|attempt| backoff(&policy, attempt, None, 1.0).unwrap().as_secs())
            .collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 240, 300, 300, 300]);
    }

    #[test]
    fn ends_with_the_last_attempt() {
        let three = policy(3, 1, 10, 5);
        assert!(backoff(&three, 2, None, 0.5).is_some());
        assert_eq!(backoff(&three, 3, None, 0.5), None);
        assert_eq!(backoff(&three, 4, Some(Duration::from_secs(1)), 0.5), None);
        assert_eq!(backoff(&policy(1, 1, 10, 5), 1, None, 0.5), None);
    }

    #[test]
    fn jitter_takes_off_up_to_half() {
        let policy = policy(9, 10, 300, 3);
        assert_eq!(
            backoff(&policy, 3, None, 0.0),
            Some(Duration::from_secs(20))
        );
        assert_eq!(
            backoff(&policy, 3, None, 0.5),
            Some(Duration::from_secs(30))
        );
        // The first wait is `min_backoff` already: nothing is taken off.
        assert_eq!(
            backoff(&policy, 1, None, 0.0),
            Some(Duration::from_secs(10))
        );
    }

    #[test]
    fn the_upstream_s_wish_wins_where_it_is_longer() {
        let policy = policy(9, 10, 300, 3);
        let asked = |secs| backoff(&policy, 1, Some(Duration::from_secs(secs)), 0.9);
        assert_eq!(asked(1), Some(Duration::from_secs(10)));
        assert_eq!(asked(3_600), Some(Duration::from_hours(1)));
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..=120_000_u64).prop_map(Duration::from_millis),
            (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n)),
            Just(Duration::ZERO),
            Just(Duration::MAX),
        ]
    }

    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        (
            1..=u32::MAX,
            any_duration(),
            any_duration(),
            prop_oneof![0..200_u32, any::<u32>()],
        )
            .prop_map(
                |(attempts, min_backoff, max_backoff, max_doublings)| RetryPolicy {
                    max_attempts: NonZeroU32::new(attempts).unwrap(),
                    min_backoff,
                    max_backoff,
                    max_doublings,
                },
            )
    }

    fn any_attempt() -> impl Strategy<Value = u32> {
        prop_oneof![0..200_u32, any::<u32>()]
    }

    /// The interval by the definition, a step at a time.
    fn naive(policy: &RetryPolicy, attempt: u32) -> Duration {
        let (mut wait, mut step) = (policy.min_backoff, policy.min_backoff);
        for failure in 1..attempt {
            if failure <= policy.max_doublings {
                wait = wait.saturating_mul(2);
                step = wait;
            } else {
                wait = wait.saturating_add(step);
            }
        }
        wait.min(policy.max_backoff)
    }

    proptest! {
        #[test]
        fn no_input_overflows_or_leaves_the_bounds(
            policy in any_policy(),
            attempt in any_attempt(),
            retry_after in proptest::option::of(any_duration()),
            jitter in any::<f64>(),
        ) {
            let wait = backoff(&policy, attempt, retry_after, jitter);
            prop_assert_eq!(wait.is_none(), attempt >= policy.max_attempts.get());
            if let Some(wait) = wait {
                let asked = retry_after.unwrap_or_default();
                prop_assert!(wait >= asked);
                prop_assert!(wait <= policy.max_backoff.max(asked));
                prop_assert!(wait >= policy.min_backoff.min(policy.max_backoff));
            }
        }

        #[test]
        fn the_interval_is_the_naive_one(policy in any_policy(), attempt in 1..200_u32) {
            prop_assert_eq!(interval(&policy, attempt - 1), naive(&policy, attempt));
        }
    }
}
