//! A day in UTC.

use std::fmt;

use crate::model::event::EventTime;
use crate::model::time::Timestamp;

/// Microseconds a day.
const MICROS: i64 = 86_400_000_000;

/// A day in UTC, as days since 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Day(i64);

impl Day {
    /// The day that `time` is in.
    #[must_use]
    pub fn of(time: Timestamp) -> Self {
        Self(time.as_micros().div_euclid(MICROS))
    }

    /// The day before.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Its first moment.
    #[must_use]
    pub fn start(self) -> EventTime {
        EventTime {
            micros: Timestamp::from_micros(self.0.saturating_mul(MICROS)),
            nanos: 0,
        }
    }

    /// The first moment of the next day.
    #[must_use]
    pub fn end(self) -> EventTime {
        Self(self.0.saturating_add(1)).start()
    }

    /// The folder of its files, which is how Hive names a part of a table: `day=2026-01-31`.
    #[must_use]
    pub fn folder(self) -> String {
        format!("day={self}")
    }
}

/// As in `2026-01-31`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.start().micros.as_micros()) {
            Ok(start) => write!(f, "{}", start.strftime("%Y-%m-%d")),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::parse::time;

    #[test]
    fn a_day_begins_at_midnight_in_utc_also_before_1970() {
        for (moment, day) in [
            ("1970-01-01T00:00:00Z", "1970-01-01"),
            ("1969-12-31T23:59:59.999999Z", "1969-12-31"),
            ("2026-11-21T00:30:00+01:00", "2026-11-20"),
            ("0000-01-01T00:00:00Z", "0000-01-01"),
            ("9999-12-30T21:59:59Z", "9999-12-30"),
        ] {
            let time = time::parse(moment).unwrap();
            let found = Day::of(time.micros);
            assert_eq!(found.to_string(), day);
            assert!(found.start() <= time && time < found.end(), "{moment}");
            assert_eq!(found.before().end(), found.start());
        }
    }
}
