//! Days, hours and minutes of a time zone, as spans of UTC minutes.

use std::ops::Range;

use jiff::ToSpan as _;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::Unanswered;
use crate::model::event::EventTime;
use crate::model::time::Timestamp;

const MICROS: i64 = 60_000_000;

/// The minute since the epoch in which `time` lies.
pub(super) fn minute_of(time: EventTime) -> i64 {
    time.micros.as_micros().div_euclid(MICROS)
}

/// Minutes since the epoch, half open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Span {
    /// All of time.
    pub const ALL: Self = Self {
        from: i64::MIN / MICROS,
        to: i64::MAX / MICROS,
    };

    /// From `from` until before `to`, where given. Times within a minute are refused: the rollups
    /// know no seconds.
    pub fn new(from: Option<EventTime>, to: Option<EventTime>) -> Result<Self, Unanswered> {
        let whole = |time: EventTime| {
            let whole = time.nanos == 0 && time.micros.as_micros().rem_euclid(MICROS) == 0;
            whole.then(|| minute_of(time)).ok_or(Unanswered::Seconds)
        };
        Ok(Self {
            from: from.map_or(Ok(Self::ALL.from), whole)?,
            to: to.map_or(Ok(Self::ALL.to), whole)?,
        })
    }

    pub(super) fn within(self, other: Range<i64>) -> Self {
        let from = self.from.max(other.start);
        Self {
            from,
            to: self.to.min(other.end).max(from),
        }
    }
}

/// How long a bucket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BucketSize {
    /// A minute.
    Minute,
    /// Minutes of one hour of local time. A change of the offset by less than an hour ends one.
    Hour,
    /// From the first instant of a local date to the first of the next.
    Day,
}

/// The start of a minute as a time.
pub(super) fn time_of(minute: i64) -> Timestamp {
    Timestamp::from_micros(minute.saturating_mul(MICROS))
}

fn instant(minute: i64) -> Result<jiff::Timestamp, Unanswered> {
    jiff::Timestamp::from_second(minute.saturating_mul(60)).map_err(|_| Unanswered::Range)
}

/// The minutes of the offset at `minute`.
fn offset(zone: &TimeZone, minute: i64) -> Result<i64, Unanswered> {
    let seconds = i64::from(zone.to_offset(instant(minute)?).seconds());
    if seconds % 60 == 0 {
        Ok(seconds / 60)
    } else {
        Err(Unanswered::Seconds)
    }
}

/// The first second of `date`; of one that the zone left out, the first of the date behind it.
///
/// Where clocks go forward over midnight that is the moment at which they do: jiff's start of such a
/// day is later by what the gap has before midnight.
pub fn first_second(zone: &TimeZone, date: Date) -> Result<i64, Unanswered> {
    let midnight = zone.to_ambiguous_timestamp(date.to_datetime(Time::midnight()));
    let left_out = matches!(midnight.offset(), AmbiguousOffset::Gap { .. });
    let first = midnight.compatible().map_err(|_| Unanswered::Range)?;
    let first = first.as_second();
    if left_out {
        let behind = jiff::Timestamp::from_second(first + 1).map_err(|_| Unanswered::Range)?;
        if let Some(change) = zone.preceding(behind).next() {
            return Ok(change.timestamp().as_second());
        }
    }
    Ok(first)
}

/// The first minute of `date`.
pub(super) fn day_start(zone: &TimeZone, date: Date) -> Result<i64, Unanswered> {
    let second = first_second(zone, date)?;
    if second % 60 == 0 {
        Ok(second / 60)
    } else {
        Err(Unanswered::Seconds)
    }
}

/// `date` and `days` more, or fewer.
pub(super) fn plus_days(date: Date, days: i64) -> Result<Date, Unanswered> {
    let span = jiff::Span::new()
        .try_days(days)
        .map_err(|_| Unanswered::Range)?;
    date.checked_add(span).map_err(|_| Unanswered::Range)
}

/// The bucket in which `minute` lies.
pub(super) fn bucket(
    size: BucketSize,
    zone: &TimeZone,
    minute: i64,
) -> Result<Range<i64>, Unanswered> {
    match size {
        BucketSize::Minute => Ok(minute..minute + 1),
        BucketSize::Hour => {
            let here = offset(zone, minute)?;
            let start = minute - (minute + here).rem_euclid(60);
            hour(zone, minute, here, start)
        }
        BucketSize::Day => {
            let date = zone.to_datetime(instant(minute)?).date();
            let mut start = day_start(zone, date)?;
            let mut next = date.checked_add(1.day()).map_err(|_| Unanswered::Range)?;
            let mut end = day_start(zone, next)?;
            if minute >= end {
                // Clocks went back over midnight: the minute has the earlier date for a second
                // time, but the next date has begun before it.
                (start, next) = (end, plus_days(next, 1)?);
                end = day_start(zone, next)?;
            }
            Ok(start..end)
        }
    }
}

/// Of the hour from `start`, the part around `minute` that has one offset, unless the change is
/// by whole hours and so keeps the hours where they are.
fn hour(zone: &TimeZone, minute: i64, here: i64, start: i64) -> Result<Range<i64>, Unanswered> {
    let apart = |other: i64| Ok::<_, Unanswered>((offset(zone, other)? - here).rem_euclid(60) != 0);
    let mut range = start..start + 60;
    if apart(range.start)? || apart(range.end - 1)? {
        while apart(range.start)? && range.start < minute {
            range.start += 1;
        }
        while apart(range.end - 1)? && range.end - 1 > minute {
            range.end -= 1;
        }
    }
    Ok(range)
}
