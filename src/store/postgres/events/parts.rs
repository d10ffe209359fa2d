//! The partitions of `event`.
//!
//! A month has one as soon as an event of it comes. It is made in a transaction of its own, and before
//! the one that writes the event: attaching a partition then waits for no reader, and two nodes that
//! make the same one do it one after the other.

use std::collections::BTreeSet;

use jiff::Zoned;
use jiff::civil::date;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use tokio_postgres::types::Type;

use super::super::connect::{Session, fault};
use super::super::time::At;
use crate::model::event::EventFilter;
use crate::model::time::Timestamp;
use crate::store::error::StoreError;

/// The first year that has a partition for each month, and the first that has none again.
const YEARS: (i16, i16) = (2000, 2100);

/// The advisory lock of those that make partitions.
const LOCK: i64 = 0x746f_6c6c_6761_7403;

/// What a partition is made for: a month since the beginning of [`YEARS`], or all time before or after.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::store::postgres) enum Month {
    Before,
    Of(i16, i8),
    After,
}

impl Month {
    pub(in crate::store::postgres) fn of(time: Timestamp) -> Self {
        let Ok(time) = jiff::Timestamp::from_microsecond(time.as_micros()) else {
            return if time < Timestamp::EPOCH {
                Self::Before
            } else {
                Self::After
            };
        };
        let date = TimeZone::UTC.to_datetime(time);
        match date.year() {
            year if year < YEARS.0 => Self::Before,
            year if year >= YEARS.1 => Self::After,
            year => Self::Of(year, date.month()),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Before => format!("event_before_{}", YEARS.0),
            Self::Of(year, month) => format!("event_{year}_{month:02}"),
            Self::After => format!("event_from_{}", YEARS.1),
        }
    }

    /// Its bounds as PostgreSQL writes them.
    fn bounds(self) -> (String, String) {
        let first = |year: i16, month: i8| format!("{year:04}-{month:02}-01 00:00:00+00");
        match self {
            Self::Before => ("-infinity".to_owned(), first(YEARS.0, 1)),
            Self::Of(year, 12) => (first(year, 12), first(year + 1, 1)),
            Self::Of(year, month) => (first(year, month), first(year, month + 1)),
            Self::After => (first(YEARS.1, 1), "infinity".to_owned()),
        }
    }
}

/// How long the month of `time` lasts, for callers that go through many times.
pub(super) fn span_of(month: Month) -> (i64, i64) {
    let micros = |year: i16, month: i8| {
        let first: Result<Zoned, _> = date(year, month, 1).to_zoned(TimeZone::UTC);
        first.map_or(i64::MAX, |first| first.timestamp().as_microsecond())
    };
    match month {
        Month::Before => (i64::MIN, micros(YEARS.0, 1)),
        Month::Of(year, 12) => (micros(year, 12), micros(year + 1, 1)),
        Month::Of(year, month) => (micros(year, month), micros(year, month + 1)),
        Month::After => (micros(YEARS.1, 1), i64::MAX),
    }
}

/// A partition that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// As it stands in SQL.
    pub(super) name: String,
}

/// The partitions that this node knows to be there.
#[derive(Default)]
pub(in crate::store::postgres) struct Parts {
    known: Mutex<BTreeSet<Month>>,
}

impl Parts {
    /// Makes those of `months` that aren't there.
    pub(in crate::store::postgres) async fn ensure(
        &self,
        session: &Session,
        months: &BTreeSet<Month>,
    ) -> Result<(), StoreError> {
        let missing: Vec<Month> = {
            let known = self.known.lock();
            months.difference(&known).copied().collect()
        };
        for month in missing {
            make(session, month).await.map_err(|error| fault(&error))?;
            self.known.lock().insert(month);
        }
        Ok(())
    }
}

async fn make(session: &Session, month: Month) -> Result<(), tokio_postgres::Error> {
    let (low, high) = month.bounds();
    let name = month.name();
    // With a hypertable there is one part for all times.
    let there =
        format!("SELECT EXISTS (SELECT FROM part WHERE low <= '{low}' AND high >= '{high}')");
    if session.query_one_scalar(&there, &[]).await? {
        return Ok(());
    }
    let (from, to) = match month {
        Month::Before => ("MINVALUE".to_owned(), format!("'{high}'")),
        Month::Of(..) => (format!("'{low}'"), format!("'{high}'")),
        Month::After => (format!("'{low}'"), "MAXVALUE".to_owned()),
    };
    // One statement string: it is all done or not at all, and holds its lock no longer than it takes.
    let make = format!(
        "DO $$ BEGIN
             PERFORM pg_advisory_xact_lock({LOCK});
             IF NOT EXISTS (SELECT FROM part WHERE name = '{name}') THEN
                 CREATE TABLE {name} (LIKE event INCLUDING ALL);
                 ALTER TABLE event ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to});
                 CREATE TRIGGER kept BEFORE TRUNCATE ON {name} EXECUTE FUNCTION refuse_truncate();
                 INSERT INTO part VALUES ('{name}', '{low}', '{high}');
             END IF;
         END $$"
    );
    session.batch_execute(&make).await
}

/// The partitions that may have what `filter` means, the earliest first. As of now, so that they have
/// all events that were acknowledged before.
pub(super) async fn parts_of(
    session: &Session,
    filter: &EventFilter,
) -> Result<Vec<Part>, StoreError> {
    let from = filter.from.map(|from| from.micros);
    // The end itself may have nanoseconds.
    let to = filter.to.map(|to| to.micros);
    parts_between(session, from, to).await
}

/// The partitions that touch these times, both included.
pub(super) async fn parts_between(
    session: &Session,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<Vec<Part>, StoreError> {
    let (from, to) = (from.map(At), to.map(At));
    let rows = session
        .query_typed(
            "SELECT name FROM part WHERE ($1 IS NULL OR high > $1) AND ($2 IS NULL OR low <= $2)
             ORDER BY low",
            &[(&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ)],
        )
        .await
        .map_err(|error| fault(&error))?;
    rows.iter()
        .map(|row| {
            let name = row.try_get(0).map_err(|error| fault(&error))?;
            Ok(Part { name })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_month_whose_bounds_hold_it() {
        for (text, name) in [
            ("0000-01-01T00:00:00Z", "event_before_2000"),
            ("1969-12-31T23:59:59.999999Z", "event_before_2000"),
            ("1999-12-31T23:59:59.999999Z", "event_before_2000"),
            ("2000-01-01T00:00:00Z", "event_2000_01"),
            ("2024-02-29T23:59:59.999999Z", "event_2024_02"),
            ("2024-12-31T23:59:59.999999Z", "event_2024_12"),
            ("2099-12-31T23:59:59.999999Z", "event_2099_12"),
            ("2100-01-01T00:00:00Z", "event_from_2100"),
            ("9999-12-30T00:00:00Z", "event_from_2100"),
        ] {
            let time = Timestamp::parse(text).unwrap();
            let month = Month::of(time);
            assert_eq!(month.name(), name, "{text}");
            let (low, high) = span_of(month);
            assert!(low <= time.as_micros() && time.as_micros() < high, "{text}");
        }
        assert_eq!(Month::of(Timestamp::from_micros(i64::MIN)), Month::Before);
        assert_eq!(Month::of(Timestamp::from_micros(i64::MAX)), Month::After);
        let bounds = Month::Of(2024, 12).bounds();
        assert_eq!(bounds.1, Month::Of(2025, 1).bounds().0);
    }
}
