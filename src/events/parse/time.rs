//! RFC 3339 by hand: a general parser takes longer than all the rest of an event.

use std::ops::RangeInclusive;

use crate::model::event::EventTime;
use crate::model::time::Timestamp;

/// The first and the last second that can be shown as RFC 3339 in UTC: the year 0, and where the
/// dates of the `jiff` library end.
const RANGE: RangeInclusive<i64> = -62_167_219_200..=253_402_207_199;

/// The same in microseconds: no event's time is outside of it.
pub const MICROS: RangeInclusive<i64> =
    *RANGE.start() * 1_000_000..=*RANGE.end() * 1_000_000 + 999_999;

/// Parses RFC 3339, to the nanosecond (further digits are cut). A time without an offset is UTC.
/// A leap second is taken as the second before it.
#[must_use]
pub fn parse(text: &str) -> Option<EventTime> {
    let &[
        y0,
        y1,
        y2,
        y3,
        b'-',
        m0,
        m1,
        b'-',
        d0,
        d1,
        b'T' | b't' | b' ',
        h0,
        h1,
        b':',
        i0,
        i1,
        b':',
        s0,
        s1,
        ref rest @ ..,
    ] = text.as_bytes()
    else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let (hour, minute, mut second) = (two(h0, h1)?, two(i0, i1)?, two(s0, s1)?);
    let (nanos, zone) = fraction(rest)?;
    let minutes = offset(zone)?;
    if !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
        || hour > 23
        || minute > 59
    {
        return None;
    }
    let minute_of_day = hour * 60 + minute - minutes;
    if second == 60 && minute_of_day.rem_euclid(1440) == 1439 {
        second = 59;
    }
    let seconds = days(year, month, day) * 86_400 + minute_of_day * 60 + second;
    (second < 60 && RANGE.contains(&seconds)).then(|| EventTime {
        micros: Timestamp::from_micros(seconds * 1_000_000 + i64::from(nanos / 1000)),
        // Less than a thousand.
        nanos: u16::try_from(nanos % 1000).unwrap_or_default(),
    })
}

/// Two digits.
#[inline]
fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// Nanoseconds, and what stands after them.
#[inline]
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some((b'.', digits)) = text.split_first() else {
        return Some((0, text));
    };
    let (mut nanos, mut unit, mut count) = (0, 100_000_000, 0);
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        nanos += u32::from(digit) * unit;
        unit /= 10;
        count += 1;
    }
    Some((nanos, digits.get(count..)?)).filter(|_| count > 0)
}

/// Minutes east of UTC.
#[inline]
fn offset(zone: &[u8]) -> Option<i64> {
    match *zone {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
            let east = hours * 60 + minutes;
            (hours < 24 && minutes < 60).then_some(if sign == b'-' { -east } else { east })
        }
        _ => None,
    }
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, for years from 0 on. The year is taken to begin in March, so that the
/// day that some years lack is the last one; 153 days are five of its months.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    // 400 years earlier, for January of the year 0.
    let year = year + 400 - (month <= 2) as i64;
    let month = (month + 9) % 12;
    year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day
        - 1
        - 719_468
        - 146_097
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_library() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..50_000 {
            let seconds = rng.i64(RANGE);
            let nanos = rng.i32(0..1_000_000_000);
            let time = jiff::Timestamp::new(seconds, nanos).unwrap_or_default();
            let parsed = parse(&time.to_string()).unwrap();
            assert_eq!(parsed.to_string(), time.to_string());
            let minutes = rng.i32(-1439..=1439);
            let zone = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            let local = zone.to_datetime(time);
            let text = format!(
                "{local}{}{:02}:{:02}",
                if minutes < 0 { '-' } else { '+' },
                minutes.abs() / 60,
                minutes.abs() % 60
            );
            if local.year() >= 0 {
                assert_eq!(parse(&text), Some(parsed), "{text}");
            }
        }
    }

    #[test]
    fn takes_what_the_standard_allows() {
        for (text, shown) in [
            ("2026-11-21T04:11:21", "2026-11-21T04:11:21Z"),
            ("2026-11-21t04:11:21z", "2026-11-21T04:11:21Z"),
            ("2026-11-21 04:11:21+00:00", "2026-11-21T04:11:21Z"),
            ("2026-11-21T04:11:21-00:00", "2026-11-21T04:11:21Z"),
            ("2026-11-21T04:11:21.5+05:45", "2026-11-20T22:26:21.5Z"),
            (
                "2024-02-29T23:59:59.999999999Z",
                "2024-02-29T23:59:59.999999999Z",
            ),
            (
                "2024-02-29T23:59:59.9999999999",
                "2024-02-29T23:59:59.999999999Z",
            ),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
            ("2017-01-01T00:59:60.5+01:00", "2016-12-31T23:59:59.5Z"),
            ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
            ("9999-12-30T21:59:59Z", "9999-12-30T21:59:59Z"),
        ] {
            let parsed = parse(text).map(|time| time.to_string());
            assert_eq!(parsed.as_deref(), Some(shown), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-11-21T04:11",
            "2026-11-21T04:11:21.",
            "2026-11-21T04:11:21.Z",
            "2026-11-21T04:11:21+01",
            "2026-11-21T04:11:21+0100",
            "2026-11-21T04:11:21+24:00",
            "2026-11-21T04:11:21+01:60",
            "2026-11-21T04:11:21ZZ",
            "2026-11-21T04:11:21Z ",
            " 2026-11-21T04:11:21Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T04:60:00Z",
            "2026-11-21T04:11:60Z",
            "2026-11-21T04:11:61Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-1-21T04:11:21Z",
            "20261121T041121Z",
            "+2026-11-21T04:11:21Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59Z",
            "2026-11-21T04:11:21\u{661}",
            "1795234281",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
