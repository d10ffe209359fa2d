//! The settings of the quota.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::Section;
use super::{ConfigError, DAY};
use crate::model::quota::{QuotaSettings, Rate, RedisSettings, RedisUrl};

const MOST: NonZeroU32 = NonZeroU32::MIN.saturating_add(999_999);

/// Up to half of the time that an `Idempotency-Key` stays claimed.
const PATIENCE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(30);

/// Reads `quota.*`. On a loopback address nothing is limited unless something says how.
pub(super) fn read(section: &Section<'_>, loopback: bool) -> Result<QuotaSettings, ConfigError> {
    section.allow(&["enabled", "patience", "per", "requests", "url"])?;
    let default = Rate::default();
    let rate = Rate {
        requests: section
            .integer("requests", NonZeroU32::MIN..=MOST)?
            .unwrap_or(default.requests),
        per: section
            .duration("per", Duration::from_secs(1)..=DAY)?
            .unwrap_or(default.per),
    };
    let wanted = section.has("requests") || section.has("per") || !loopback;
    let enabled = section.flag("enabled")?.unwrap_or(wanted);
    Ok(QuotaSettings {
        rate: enabled.then_some(rate),
        redis: redis(section, cfg!(feature = "cluster"))?,
    })
}

/// Where Redis is, and how long it is waited for. `built_in` says whether this binary can use it.
fn redis(section: &Section<'_>, built_in: bool) -> Result<Option<RedisSettings>, ConfigError> {
    // Looked at without a Redis, too: what can't be is told.
    let patience = section.duration("patience", PATIENCE)?;
    // A value of another type is not shown either: it may be a password at the wrong place.
    let Some(url) = section.text("url")? else {
        return Ok(None);
    };
    if !built_in {
        let problem = "this binary was built without Redis; build it with --features cluster";
        return Err(section.refuse("url", problem));
    }
    let url = RedisUrl::parse(&url).map_err(|problem| section.refuse("url", &problem))?;
    Ok(Some(RedisSettings {
        url,
        patience: patience.unwrap_or(RedisSettings::PATIENCE),
    }))
}

#[cfg(test)]
mod tests {
    use rocket::figment::Figment;

    use super::*;
    use crate::config::set;

    fn with<T>(
        settings: &[(&str, &str)],
        read: impl Fn(&Section<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, String> {
        let figment = settings
            .iter()
            .fold(Figment::new(), |figment, (key, value)| {
                set(figment, "TEST", &format!("tollgate.quota.{key}"), *value)
            });
        let root = Section::root(&figment, "tollgate").unwrap();
        read(&root.section("quota").unwrap()).map_err(|error| error.to_string())
    }

    fn rate(settings: &[(&str, &str)], loopback: bool) -> Option<Rate> {
        with(settings, |section| read(section, loopback))
            .unwrap()
            .rate
    }

    #[test]
    fn is_off_on_loopback_unless_set() {
        let default = Rate::default();
        assert_eq!(
            (default.requests.get(), default.per),
            (1_000, Duration::from_mins(1))
        );
        assert_eq!(rate(&[], false), Some(default));
        assert_eq!(rate(&[], true), None);
        assert_eq!(rate(&[("enabled", "true")], true), Some(default));
        assert_eq!(rate(&[("enabled", "false")], false), None);
        assert_eq!(rate(&[("url", "redis://h")], true), None);
        let set = rate(&[("requests", "7"), ("per", "1h")], true).unwrap();
        assert_eq!((set.requests.get(), set.per), (7, Duration::from_hours(1)));
        assert_eq!(rate(&[("requests", "7"), ("enabled", "false")], true), None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (key, value, told) in [
            (
                "requests",
                "0",
                "quota.requests (set by TEST): \"0\" is not allowed; allowed: a whole number from 1 to 1000000",
            ),
            ("requests", "1000001", "quota.requests (set by TEST): "),
            (
                "per",
                "999ms",
                "quota.per (set by TEST): \"999ms\" is not allowed; allowed: a duration from 1s to 1d",
            ),
            (
                "burst",
                "1",
                "quota.burst (set by TEST): there is no such setting; allowed here: enabled, patience, per, requests, url",
            ),
            (
                "patience",
                "0s",
                "quota.patience (set by TEST): \"0s\" is not allowed; allowed: a duration from 1ms to 30s",
            ),
            ("patience", "31s", "quota.patience (set by TEST): "),
            (
                "url",
                "redis://:secret@",
                "quota.url (set by TEST): must be redis://host:6379/0",
            ),
        ] {
            let error = with(&[(key, value)], |section| read(section, true)).unwrap_err();
            assert!(error.starts_with(told), "{error}");
            assert!(
                !error.contains("secret") && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn a_binary_without_redis_says_how_to_get_one_with_it() {
        let url = [("url", "redis://:secret@h")];
        let error = with(&url, |section| redis(section, false)).unwrap_err();
        assert_eq!(
            error,
            "quota.url (set by TEST): this binary was built without Redis; \
             build it with --features cluster"
        );
        let there = with(&url, |section| redis(section, true)).unwrap().unwrap();
        assert_eq!(there.url.as_str(), "redis://:secret@h");
        assert_eq!(there.patience, Duration::from_millis(100));
        let patient = [url[0], ("patience", "30s")];
        let there = with(&patient, |section| redis(section, true)).unwrap();
        assert_eq!(there.unwrap().patience, Duration::from_secs(30));
        assert!(
            with(&[], |section| redis(section, false))
                .unwrap()
                .is_none()
        );
    }
}
