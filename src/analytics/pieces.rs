//! Time in pieces, to the second: dates and hours of any zone.
//!
//! The rollups know minutes, and zones whose offsets are whole ones. Here events are put into their
//! piece first, and each piece then stands at a place of its own in a time of whole minutes in UTC:
//! so the rollups answer for every zone that there ever was.

use hashbrown::HashMap;
use jiff::ToSpan as _;
use jiff::civil::{Date, time};
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::AnalyticsError;
use crate::model::event::EventTime;
use crate::model::time::Timestamp;
use crate::rollups::{Bucket, BucketSize, first_second};

const MICROS: i64 = 1_000_000;

/// How events are put together.
pub(super) enum Pieces {
    /// All of them.
    All,
    /// Those of a date in this zone, at noon of that date in UTC.
    Dates(TimeZone),
    /// Those of a bucket, at a minute of its own.
    Buckets(Box<Buckets>),
}

/// The buckets that were found.
pub(super) struct Buckets {
    size: BucketSize,
    zone: TimeZone,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// The number of the bucket with this first second.
    numbers: HashMap<i64, usize>,
    /// First second, and the one behind the last.
    buckets: Vec<(i64, i64)>,
}

/// Events from `start` until before `end` (in microseconds) have this time instead of theirs.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    start: i64,
    end: i64,
    stands_at: EventTime,
}

impl Piece {
    pub(super) fn holds(&self, time: EventTime) -> bool {
        (self.start..self.end).contains(&time.micros.as_micros())
    }

    pub(super) fn stands_at(&self) -> EventTime {
        self.stands_at
    }
}

impl Pieces {
    pub(super) fn buckets(size: BucketSize, zone: TimeZone) -> Self {
        Self::Buckets(Box::new(Buckets {
            size,
            zone,
            found: Mutex::default(),
        }))
    }

    /// The piece in which `time` lies.
    pub(super) fn of(&self, time: EventTime) -> Result<Piece, AnalyticsError> {
        let second = time.micros.as_micros().div_euclid(MICROS);
        match self {
            Self::All => Ok(Piece {
                start: i64::MIN,
                end: i64::MAX,
                stands_at: EventTime::default(),
            }),
            Self::Dates(zone) => {
                let day = day(zone, second)?;
                Ok(piece((day.start, day.end), noon(day.date)?))
            }
            Self::Buckets(buckets) => buckets.of(second),
        }
    }

    /// The buckets that stood at these minutes, ascending.
    pub(super) fn unfold(&self, stood: Vec<Bucket>) -> Vec<Bucket> {
        let Self::Buckets(buckets) = self else {
            return stood;
        };
        let found = buckets.found.lock();
        let place = |bucket: &Bucket| {
            let minute = bucket.start.as_micros() / (60 * MICROS);
            found.buckets.get(usize::try_from(minute).ok()?).copied()
        };
        let mut unfolded: Vec<Bucket> = stood
            .into_iter()
            .filter_map(|bucket| {
                let (start, end) = place(&bucket)?;
                Some(Bucket {
                    start: Timestamp::from_micros(start.saturating_mul(MICROS)),
                    end: Timestamp::from_micros(end.saturating_mul(MICROS)),
                    ..bucket
                })
            })
            .collect();
        unfolded.sort_unstable_by_key(|bucket| bucket.start);
        unfolded
    }
}

impl Buckets {
    fn of(&self, second: i64) -> Result<Piece, AnalyticsError> {
        let (start, end) = match self.size {
            BucketSize::Minute => {
                let start = second - second.rem_euclid(60);
                (start, start + 60)
            }
            BucketSize::Hour => hour(&self.zone, second)?,
            BucketSize::Day => {
                let day = day(&self.zone, second)?;
                (day.start, day.end)
            }
        };
        let mut found = self.found.lock();
        let Found { numbers, buckets } = &mut *found;
        let number = *numbers.entry(start).or_insert_with(|| {
            buckets.push((start, end));
            buckets.len() - 1
        });
        let minute = i64::try_from(number).unwrap_or(i64::MAX / (60 * MICROS));
        let stands_at = Timestamp::from_micros(minute * 60 * MICROS);
        Ok(piece((start, end), at(stands_at)))
    }
}

fn piece((start, end): (i64, i64), stands_at: EventTime) -> Piece {
    Piece {
        start: start.saturating_mul(MICROS),
        end: end.saturating_mul(MICROS),
        stands_at,
    }
}

fn at(micros: Timestamp) -> EventTime {
    EventTime { micros, nanos: 0 }
}

/// A date of a zone, in seconds.
struct Day {
    date: Date,
    start: i64,
    end: i64,
}

/// The date that `second` belongs to: the last one that has begun. So where clocks go back over
/// midnight, the time that has the earlier date again is part of the later one.
fn day(zone: &TimeZone, second: i64) -> Result<Day, AnalyticsError> {
    let mut date = zone.to_datetime(instant(second)?).date();
    let mut start = begin(zone, date)?;
    let mut end = begin(zone, next(date)?)?;
    if second >= end {
        date = next(date)?;
        (start, end) = (end, begin(zone, next(date)?)?);
    }
    Ok(Day { date, start, end })
}

fn begin(zone: &TimeZone, date: Date) -> Result<i64, AnalyticsError> {
    first_second(zone, date).map_err(|_| AnalyticsError::Range)
}

fn next(date: Date) -> Result<Date, AnalyticsError> {
    date.checked_add(1.day()).map_err(|_| AnalyticsError::Range)
}

fn instant(second: i64) -> Result<jiff::Timestamp, AnalyticsError> {
    jiff::Timestamp::from_second(second).map_err(|_| AnalyticsError::Range)
}

/// When `date` begins.
pub(super) fn start_of(zone: &TimeZone, date: Date) -> Result<EventTime, AnalyticsError> {
    let second = begin(zone, date)?;
    Ok(at(Timestamp::from_micros(second.saturating_mul(MICROS))))
}

/// Where the events of `date` stand.
fn noon(date: Date) -> Result<EventTime, AnalyticsError> {
    let noon = date.to_datetime(time(12, 0, 0, 0));
    let noon = noon
        .to_zoned(TimeZone::UTC)
        .map_err(|_| AnalyticsError::Range)?;
    Ok(at(Timestamp::from_micros(
        noon.timestamp().as_microsecond(),
    )))
}

/// Where `now` stands among the dates of `zone`: windows that have ended have ended before it.
pub(super) fn now_among_dates(
    zone: &TimeZone,
    now: Timestamp,
) -> Result<Timestamp, AnalyticsError> {
    let second = now.as_micros().div_euclid(MICROS);
    Ok(noon(day(zone, second)?.date)?.micros)
}

/// `date` and `days` more, or fewer.
pub(super) fn plus_days(date: Date, days: i64) -> Result<Date, AnalyticsError> {
    let span = jiff::Span::new().try_days(days);
    let span = span.map_err(|_| AnalyticsError::Range)?;
    date.checked_add(span).map_err(|_| AnalyticsError::Range)
}

/// The seconds of one hour of local time around `second`. A change of the offset that is not by
/// whole hours ends one.
fn hour(zone: &TimeZone, second: i64) -> Result<(i64, i64), AnalyticsError> {
    let here = instant(second)?;
    let offset = |at: jiff::Timestamp| i64::from(zone.to_offset(at).seconds());
    let into = (second + offset(here)).rem_euclid(3600);
    let (mut start, mut end) = (second - into, second - into + 3600);
    let apart = |other: jiff::Timestamp| (offset(other) - offset(here)).rem_euclid(3600) != 0;
    // What lies right before a change has the offset before it.
    let before = |change: i64| Ok::<_, AnalyticsError>(apart(instant(change - 1)?));
    for change in zone.preceding(instant(second + 1)?) {
        let change = change.timestamp().as_second();
        if change <= start {
            break;
        }
        if before(change)? {
            start = change;
            break;
        }
    }
    for change in zone.following(here) {
        if change.timestamp().as_second() >= end {
            break;
        }
        if apart(change.timestamp()) {
            end = change.timestamp().as_second();
            break;
        }
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests;
