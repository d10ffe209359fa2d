//! How much each client may ask for: a token bucket for each, here or in a Redis that nodes share.
//!
//! ```text
//!             ┌──────────── up ───────────▶ one bucket in Redis, by Redis's own clock
//! take ──▶ Redis?
//!             └─ none, away, or slow ─────▶ a bucket of this process (governor)
//! ```
//!
//! That Redis never makes a request fail: where it does not answer at once, the buckets of the process
//! decide, and the `Idempotency-Key`s are looked up in the store alone.
#![cfg_attr(
    not(feature = "cluster"),
    expect(
        unused_variables,
        clippy::unused_async,
        reason = "what is needed and awaited for Redis only"
    )
)]

pub mod claim;
mod local;
#[cfg(feature = "cluster")]
pub mod redis;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use self::claim::{Claim, Claimed};
use self::local::Local;
use crate::clock::Clock;
use crate::model::quota::{QuotaSettings, Rate};
use crate::telemetry::Metrics;

/// Decides for each request whether its client may make it. Cheap to clone.
#[derive(Clone)]
pub enum Quota {
    /// Everybody may do everything.
    Off,
    /// By buckets of this process.
    Local(Arc<Local>),
    /// By buckets in Redis, and by those of this process while it is away.
    #[cfg(feature = "cluster")]
    Redis(redis::Redis, Arc<Local>),
}

impl Quota {
    /// By the settings; `shared` is the Redis, if one is set.
    #[must_use]
    pub fn new(rate: Option<Rate>, shared: &Shared, clock: &Clock) -> Self {
        let Some(rate) = rate else {
            return Self::Off;
        };
        let local = Arc::new(Local::new(rate, clock.clone()));
        match shared {
            Shared::Nothing => Self::Local(local),
            #[cfg(feature = "cluster")]
            Shared::Redis(redis) => Self::Redis(redis.clone(), local),
        }
    }

    /// What each client may do; `None` if nothing is limited.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        match self {
            Self::Off => None,
            Self::Local(local) => Some(local.rate()),
            #[cfg(feature = "cluster")]
            Self::Redis(_, local) => Some(local.rate()),
        }
    }

    /// Takes one request out of the client's bucket, if there is one in it; `None` if nothing is
    /// limited. Waits for Redis no longer than the settings say.
    pub async fn take(&self, client: &Client) -> Option<Verdict> {
        match self {
            Self::Off => None,
            Self::Local(local) => Some(local.take(client)),
            #[cfg(feature = "cluster")]
            Self::Redis(redis, local) => match redis.take(local.rate(), client).await {
                Some(verdict) => Some(verdict),
                None => Some(local.take(client)),
            },
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether it may be made.
    pub allowed: bool,
    /// How many more may be made at once.
    pub remaining: u32,
    /// After how long the bucket is full.
    pub full_in: Duration,
    /// After how long there is a request in the bucket; zero if there is one.
    pub retry_in: Duration,
}

/// Whose bucket it is: of an API key, else of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// Names the bucket.
    bucket: u128,
    /// Where the client is.
    address: u128,
}

impl Client {
    /// By its API key, of which a hash is kept, else by its address. Of IPv6 addresses the first
    /// half counts: whoever has one, has all with that half.
    #[must_use]
    pub fn new(key: Option<&str>, address: Option<IpAddr>) -> Self {
        let address = match address.map(|it| it.to_canonical()) {
            None => 0,
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped().to_bits(),
            Some(IpAddr::V6(address)) => address.to_bits() >> 64 << 64,
        };
        Self {
            bucket: key.map_or(address, hash),
            address,
        }
    }
}

/// The first half of its SHA-256.
fn hash(key: &str) -> u128 {
    let digest = digest(&SHA256, key.as_bytes());
    let half = digest.as_ref().first_chunk().copied();
    u128::from_be_bytes(half.unwrap_or_default())
}

/// What nodes share beside their store. Cheap to clone.
#[derive(Clone, Default)]
pub enum Shared {
    /// Nothing.
    #[default]
    Nothing,
    /// A Redis.
    #[cfg(feature = "cluster")]
    Redis(redis::Redis),
}

impl Shared {
    /// By the settings. Returns at once: whether the Redis is there shows later.
    ///
    /// # Errors
    /// What is wrong with the settings, in one line that does not show the URL.
    pub fn connect(
        settings: &QuotaSettings,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        match &settings.redis {
            None => Ok(Self::Nothing),
            #[cfg(feature = "cluster")]
            Some(settings) => {
                redis::Redis::connect(settings, clock.clone(), metrics.clone()).map(Self::Redis)
            }
            #[cfg(not(feature = "cluster"))]
            Some(_) => Err("this build is without Redis".to_owned()),
        }
    }

    /// Whether the Redis answers; `None` if none is set.
    #[must_use]
    pub fn is_up(&self) -> Option<bool> {
        match self {
            Self::Nothing => None,
            #[cfg(feature = "cluster")]
            Self::Redis(redis) => Some(redis.is_up()),
        }
    }

    /// Claims an `Idempotency-Key` (a hash of it) among all nodes.
    pub async fn claim(&self, key: u128) -> Claimed {
        match self {
            Self::Nothing => Claimed::Mine(Claim::Local),
            #[cfg(feature = "cluster")]
            Self::Redis(redis) => redis.claim(key).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_its_key_or_else_its_address() {
        let at = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let of = |key, address| Client::new(key, address).bucket;
        assert_eq!(of(Some("k"), at("10.0.0.1")), of(Some("k"), at("10.0.0.2")));
        assert_ne!(of(Some("k"), at("10.0.0.1")), of(Some("l"), at("10.0.0.1")));
        assert_ne!(of(Some("k"), at("10.0.0.1")), of(None, at("10.0.0.1")));
        assert_ne!(of(None, at("10.0.0.1")), of(None, at("10.0.0.2")));
        assert_eq!(of(None, at("::ffff:10.0.0.1")), of(None, at("10.0.0.1")));
        assert_eq!(of(None, at("2001:db8::1")), of(None, at("2001:db8::2:3")));
        assert_ne!(of(None, at("2001:db8::1")), of(None, at("2001:db9::1")));
        // Known from elsewhere: SHA-256 of "abc" begins so.
        assert_eq!(hash("abc"), 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223);
    }
}
