//! Buckets of this process: a [`governor`] limiter on the project's clock, over a bounded store.

use std::collections::HashMap;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota as Parameters, RateLimiter};
use parking_lot::Mutex;

use super::{Client, Verdict};
use crate::clock::Clock;
use crate::model::quota::Rate;

/// The most clients with a bucket of their own.
const MAX_CLIENTS: usize = 100_000;

/// Between how many buckets all others are divided, by their address.
const SHARED: u16 = 1_024;

/// How often, at the most, full buckets are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// The limiter.
pub struct Local {
    limiter: RateLimiter<Client, Buckets, Mono, StateInformationMiddleware>,
    rate: Rate,
    max: usize,
    /// When full buckets were last looked for.
    swept: Mutex<Option<Duration>>,
}

impl Local {
    /// Each client has a full bucket.
    pub(super) fn new(rate: Rate, clock: Clock) -> Self {
        Self::bounded(rate, clock, MAX_CLIENTS)
    }

    fn bounded(rate: Rate, clock: Clock, max: usize) -> Self {
        // Never shorter than a nanosecond, or it would be no quota at all.
        let step = rate.step().max(Duration::from_nanos(1));
        let parameters = Parameters::with_period(step)
            .unwrap_or(Parameters::per_second(rate.requests))
            .allow_burst(rate.requests);
        Self {
            limiter: RateLimiter::new(parameters, Buckets::new(max), Mono(clock)),
            rate,
            max,
            swept: Mutex::default(),
        }
    }

    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one request out of the client's bucket, if there is one in it.
    pub(super) fn take(&self, client: &Client) -> Verdict {
        self.make_room();
        let all = self.rate.requests.get();
        match self.limiter.check_key(client) {
            Ok(after) => {
                let remaining = after.remaining_burst_capacity();
                Verdict {
                    allowed: true,
                    remaining,
                    full_in: self.rate.step() * all.saturating_sub(remaining),
                    retry_in: Duration::ZERO,
                }
            }
            Err(until) => {
                let retry_in = until.wait_time_from(self.limiter.clock().now());
                Verdict {
                    allowed: false,
                    remaining: 0,
                    full_in: self.rate.step() * (all - 1) + retry_in,
                    retry_in,
                }
            }
        }
    }

    /// Forgets full buckets (they are as good as new ones), if there are as many as there may be.
    fn make_room(&self) {
        if self.limiter.len() < self.max {
            return;
        }
        let now = self.limiter.clock().0.now().mono;
        let mut swept = self.swept.lock();
        if swept.is_none_or(|last| now.saturating_sub(last) >= SWEEP) {
            *swept = Some(now);
            self.limiter.retain_recent();
        }
    }
}

/// The project's clock, as governor wants it.
#[derive(Clone)]
struct Mono(Clock);

impl governor::clock::Clock for Mono {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let mono = self.0.now().mono.as_nanos();
        Nanos::from(u64::try_from(mono).unwrap_or(u64::MAX))
    }
}

/// What is known of each bucket, as governor has it: the moment at which it is full. A client for
/// whom there is no room shares a bucket with others, chosen by its address: keys can be made up,
/// addresses not so easily.
struct Buckets {
    inner: Mutex<Inner>,
    max: usize,
}

struct Inner {
    own: HashMap<u128, Nanos>,
    shared: HashMap<u16, Nanos>,
}

impl Buckets {
    fn new(max: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                own: HashMap::new(),
                shared: HashMap::new(),
            }),
            max,
        }
    }
}

/// Which of the shared buckets is this client's.
fn shared_by(client: &Client) -> u16 {
    let hash = xxhash_rust::xxh3::xxh3_64(&client.address.to_be_bytes());
    u16::try_from(hash % u64::from(SHARED)).unwrap_or_default()
}

impl StateStore for Buckets {
    type Key = Client;

    fn measure_and_replace<T, F, E>(&self, client: &Client, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Inner { own, shared } = &mut *self.inner.lock();
        if let Some(full_at) = own.get_mut(&client.bucket) {
            let (done, next) = decide(Some(*full_at))?;
            *full_at = next;
            return Ok(done);
        }
        if own.len() < self.max {
            let (done, next) = decide(None)?;
            own.insert(client.bucket, next);
            return Ok(done);
        }
        let place = shared_by(client);
        let (done, next) = decide(shared.get(&place).copied())?;
        shared.insert(place, next);
        Ok(done)
    }
}

impl ShrinkableKeyedStateStore<Client> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut inner = self.inner.lock();
        inner.own.retain(|_, full_at| *full_at > drop_below);
    }

    fn len(&self) -> usize {
        self.inner.lock().own.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU32;

    use super::*;
    use crate::clock::ManualClock;
    use crate::model::time::Timestamp;

    fn limiter(requests: u32, per: Duration, max: usize) -> (Local, ManualClock) {
        let manual = ManualClock::starting_at(Timestamp::EPOCH);
        let rate = Rate {
            requests: NonZeroU32::new(requests).unwrap(),
            per,
        };
        let local = Local::bounded(rate, Clock::Manual(manual.clone()), max);
        (local, manual)
    }

    fn key(key: &str) -> Client {
        Client::new(Some(key), None)
    }

    fn at(address: u32) -> Client {
        Client::new(None, Some(IpAddr::V4(Ipv4Addr::from_bits(address))))
    }

    #[test]
    fn a_burst_is_exact_and_comes_back_at_its_rate() {
        let (local, clock) = limiter(1_000, Duration::from_mins(1), 10);
        let client = key("k");
        for left in (0..1_000).rev() {
            let verdict = local.take(&client);
            assert!(verdict.allowed, "{left} left");
            assert_eq!(verdict.remaining, left);
            assert_eq!(verdict.full_in, Duration::from_millis(60) * (1_000 - left));
        }
        let refused = Verdict {
            allowed: false,
            remaining: 0,
            full_in: Duration::from_mins(1),
            retry_in: Duration::from_millis(60),
        };
        assert_eq!(local.take(&client), refused);
        // Another client has all of its own.
        assert_eq!(local.take(&key("l")).remaining, 999);
        clock.advance(Duration::from_nanos(59_999_999));
        assert_eq!(local.take(&client).retry_in, Duration::from_nanos(1));
        clock.advance(Duration::from_nanos(1));
        assert!(local.take(&client).allowed);
        assert!(!local.take(&client).allowed);
        clock.advance(Duration::from_hours(1));
        assert_eq!(local.take(&client).remaining, 999);
    }

    #[test]
    fn one_request_is_a_quota_too() {
        let (local, clock) = limiter(1, Duration::from_hours(24), 10);
        assert!(local.take(&key("k")).allowed);
        assert_eq!(local.take(&key("k")).retry_in, Duration::from_hours(24));
        clock.advance(Duration::from_hours(24));
        assert!(local.take(&key("k")).allowed);
    }

    #[test]
    fn past_the_bound_newcomers_share_buckets_by_address() {
        let (local, clock) = limiter(2, Duration::from_hours(1), 3);
        let known = [at(1), at(2), at(3)];
        for client in &known {
            assert_eq!(local.take(client).remaining, 1);
        }
        // One with a key of its own and one without, at the same address.
        let newcomer = Client::new(Some("made up"), Some(IpAddr::V4(Ipv4Addr::from_bits(4))));
        assert_eq!(local.take(&newcomer).remaining, 1);
        assert_eq!(local.take(&at(4)).remaining, 0);
        assert!(!local.take(&newcomer).allowed);
        // Those known before have what they had.
        assert_eq!(local.take(&at(1)).remaining, 0);
        for n in 5..100_000 {
            local.take(&at(n));
        }
        let inner = local.limiter.into_state_store().inner.into_inner();
        assert_eq!(inner.own.len(), 3);
        assert_eq!(inner.shared.len(), usize::from(SHARED));
        drop(clock);
    }

    #[test]
    fn full_buckets_make_room() {
        let (local, clock) = limiter(2, Duration::from_secs(2), 2);
        local.take(&at(1));
        local.take(&at(1));
        local.take(&at(2));
        assert_eq!(local.limiter.len(), 2);
        local.take(&at(3));
        // The second one is full again for a step; the first one is not.
        clock.advance(Duration::from_secs(2));
        local.take(&at(3));
        let own = local.limiter.into_state_store().inner.into_inner().own;
        let has = |client: Client| own.contains_key(&client.bucket);
        assert!(has(at(1)) && !has(at(2)) && has(at(3)));
    }
}
