//! Points in time. Reading a clock is the business of [`crate::clock`].

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A point in civil time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339; a time without an offset is refused.
    ///
    /// # Errors
    /// The parser's own sentence about what is wrong with `text`.
    pub fn parse(text: &str) -> Result<Self, jiff::Error> {
        let parsed: jiff::Timestamp = text.parse()?;
        Ok(Self(parsed.as_microsecond()))
    }

    /// This point plus `by`; saturates at the end of representable time.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// This point less `by`; saturates at the beginning of representable time.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// How long from `earlier` to this point; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// RFC 3339 in UTC with six digits of a second: `2026-11-21T03:11:21.000000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One reading of a clock: civil time for records and deadlines, monotonic time for pace.
///
/// Civil time may be stepped by an operator or NTP; the monotonic part never is, so it alone
/// decides when the next slot opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Civil time.
    pub wall: Timestamp,
    /// Time since the process's clock was made.
    pub mono: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_rfc_3339() {
        let time = Timestamp::parse("2026-11-21T04:11:21.5+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-21T03:11:21.500000Z");
        assert_eq!(Timestamp::parse(&time.to_string()).unwrap(), time);
        assert!(Timestamp::parse("2026-11-21T04:11:21").is_err());
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn differences_do_not_go_below_zero() {
        let (early, late) = (Timestamp::from_micros(5), Timestamp::from_micros(12));
        assert_eq!(late.since(early), Duration::from_micros(7));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(
            Timestamp::from_micros(i64::MAX)
                .plus(Duration::MAX)
                .as_micros(),
            i64::MAX
        );
    }
}
