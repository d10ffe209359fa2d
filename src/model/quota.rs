//! How much each client may ask for, and which Redis nodes share.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use reqwest::Url;

/// The rate of each client: a bucket that holds `requests` and is filled again within `per`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// The most requests at once.
    pub requests: NonZeroU32,
    /// How long an empty bucket takes to be full.
    pub per: Duration,
}

impl Rate {
    /// How long the bucket takes for one request more.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.per / self.requests.get()
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            requests: NonZeroU32::MIN.saturating_add(999),
            per: Duration::from_mins(1),
        }
    }
}

/// What of requests is limited, and where that is counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QuotaSettings {
    /// What each client may ask for; `None`: as much as it likes.
    pub rate: Option<Rate>,
    /// The Redis that nodes share, for this and for `Idempotency-Key`s.
    pub redis: Option<RedisSettings>,
}

/// The Redis that nodes share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub url: RedisUrl,
    /// The longest that a request waits for it.
    pub patience: Duration,
}

impl RedisSettings {
    /// The longest that a request waits for Redis, if nothing else is set.
    pub const PATIENCE: Duration = Duration::from_millis(100);
}

/// Where a Redis is. It may hold a password, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// `redis://[user:password@]host[:port][/database]`.
    ///
    /// # Errors
    /// A sentence that says what is allowed, and nothing of what was given.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = |url: &Url| {
            let database = url.path().trim_start_matches('/');
            url.scheme() == "redis"
                && url.host_str().is_some_and(|host| !host.is_empty())
                && (database.is_empty() || database.parse::<u16>().is_ok())
        };
        match Url::parse(text) {
            Ok(url) if fits(&url) => Ok(Self(text.to_owned())),
            _ => Err(
                "must be redis://host:6379/0, with user:password@ before the host if that is needed"
                    .to_owned(),
            ),
        }
    }

    /// With the password: for the driver.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_url_has_a_host_and_perhaps_a_database() {
        for good in [
            "redis://h",
            "redis://h:6379",
            "redis://:secret@[::1]:1/",
            "redis://u:secret@h/15",
        ] {
            let url = RedisUrl::parse(good).unwrap();
            assert_eq!(url.as_str(), good);
            assert!(!format!("{url:?}").contains("secret"));
        }
        for bad in [
            "",
            "h:6379",
            "redis://",
            "rediss://:secret@h",
            "http://:secret@h",
            "redis://:secret@h/x",
            "redis://:secret@h:99999",
        ] {
            let problem = RedisUrl::parse(bad).unwrap_err();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
