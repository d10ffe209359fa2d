//! What every question has: which events it is about, in which zone, and when.

use jiff::Zoned;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::query::{Query, Reader};
use crate::analytics::{Scope, Segment, TimeRange};
use crate::http::error::{Code, Problem};
use crate::http::events::{instant, legal_name};
use crate::model::event::EventTime;
use crate::model::offence::shown;
use crate::model::time::Timestamp;

/// The most segments of a question.
const MAX_SEGMENTS: usize = 10;

/// The longest segment, in bytes.
const MAX_SEGMENT: usize = 1_024;

/// Which events, and in which zone.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query for the OpenAPI document")]
pub(in crate::http) struct Scoped {
    /// Only events of this tenant.
    #[param(max_length = 256, example = "shop")]
    tenant_id: Option<String>,
    /// Only events from this source.
    #[param(max_length = 256)]
    source: Option<String>,
    /// Only events of this type.
    #[param(max_length = 256)]
    event_type: Option<String>,
    /// Only events of this segment: `event_type:purchase`, or `properties.country=UA` for those
    /// whose payload has this value at this path (more dots lead deeper). May be given up to 10
    /// times: all must match.
    #[param(max_items = 10, example = json!(["event_type:purchase"]))]
    segment: Option<Vec<String>>,
    /// The IANA time zone whose days and hours are meant.
    #[param(default = "UTC", example = "Europe/Kyiv")]
    tz: Option<String>,
}

/// A time zone by its name.
#[derive(Clone)]
pub(super) struct Zone {
    /// Its days.
    pub(super) zone: TimeZone,
    /// Its name as the database of zones writes it.
    pub(super) name: String,
}

impl Zone {
    /// `Z` is no name: UTC is the default.
    fn utc() -> Self {
        Self {
            zone: TimeZone::UTC,
            name: "UTC".to_owned(),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        // In a query, a plus that is not written %2B stands for a space; no zone has one.
        let name = text.replace(' ', "+");
        let zone = TimeZone::get(&name).ok().filter(|zone| !zone.is_unknown());
        match zone {
            Some(zone) => {
                let name = zone.iana_name().unwrap_or(&name).to_owned();
                // The same, without a table to look into.
                let zone = if name == "Etc/UTC" {
                    TimeZone::UTC
                } else {
                    zone
                };
                Ok(Self { zone, name })
            }
            None => Err(format!(
                "must be an IANA time zone, such as Europe/Kyiv, and is {}",
                shown(text)
            )),
        }
    }

    /// The local time.
    pub(super) fn local(&self, time: Timestamp) -> Zoned {
        let time = jiff::Timestamp::from_microsecond(time.as_micros()).unwrap_or_default();
        time.to_zoned(self.zone.clone())
    }

    /// The date.
    pub(super) fn today(&self, now: Timestamp) -> Date {
        self.local(now).date()
    }

    /// The first instant of a date; `None` beyond the calendar.
    fn begin(&self, date: Date) -> Option<EventTime> {
        let begin = date.to_zoned(self.zone.clone()).ok()?.timestamp();
        Some(EventTime {
            micros: Timestamp::from_micros(begin.as_microsecond()),
            nanos: 0,
        })
    }
}

/// The events and the zone of a question.
pub(super) fn scoped(reader: &mut Reader<'_>) -> (Scope, Zone) {
    let tenant = reader.one("tenant_id", legal_name);
    let source = reader.one("source", legal_name);
    let event_type = reader.one("event_type", legal_name);
    let mut segments = reader.all("segment", MAX_SEGMENTS, segment);
    segments.extend(event_type.map(Segment::EventType));
    let zone = reader.one("tz", Zone::parse).unwrap_or_else(Zone::utc);
    let scope = Scope {
        tenant,
        source,
        segments,
    };
    (scope, zone)
}

fn segment(text: &str) -> Result<Segment, String> {
    match Segment::parse(bounded(text)?)? {
        Segment::EventType(name) => legal_name(&name).map(Segment::EventType),
        property @ Segment::Property { .. } => Ok(property),
    }
}

/// A text that is not too long for a segment.
pub(super) fn bounded(text: &str) -> Result<&str, String> {
    if text.len() <= MAX_SEGMENT {
        Ok(text)
    } else {
        let length = text.len();
        Err(format!(
            "has {length} bytes and must have at most {MAX_SEGMENT}"
        ))
    }
}

/// A date of the form `2026-11-21`.
pub(super) fn date(text: &str) -> Result<Date, String> {
    // The library takes other forms of the standard, too.
    let form = text.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let date = text.parse().ok().filter(|_| form && text.len() == 10);
    date.ok_or_else(|| "must be a date, such as 2026-11-21".to_owned())
}

/// A whole date, or a time.
#[derive(Clone, Copy)]
enum When {
    Date(Date),
    Time(EventTime),
}

impl When {
    fn parse(text: &str) -> Result<Self, String> {
        let time = || instant(text).map(Self::Time);
        let found = date(text).ok().map(Self::Date).or_else(time);
        found.ok_or_else(|| {
            "must be a date, such as 2026-11-21, or an RFC 3339 time, such as 2026-11-21T04:11:00Z"
                .to_owned()
        })
    }

    /// As the beginning of a range.
    fn begin(self, zone: &Zone) -> Option<EventTime> {
        match self {
            Self::Time(time) => Some(time),
            Self::Date(date) => zone.begin(date),
        }
    }

    /// As the end of one, in which a date is included.
    fn end(self, zone: &Zone) -> Option<EventTime> {
        match self {
            Self::Time(time) => Some(time),
            Self::Date(date) => zone.begin(date.tomorrow().ok()?),
        }
    }
}

/// `from` and `to`, not yet in a zone.
pub(super) struct Between {
    from: Option<When>,
    to: Option<When>,
}

impl Between {
    /// What is given of them.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            from: reader.one("from", When::parse),
            to: reader.one("to", When::parse),
        }
    }

    /// Half open; an end that is missing, or lies beyond the calendar, is open.
    pub(super) fn range(&self, zone: &Zone) -> Result<TimeRange, Problem> {
        let from = self.from.and_then(|from| from.begin(zone));
        let to = self.to.and_then(|to| to.end(zone));
        let backwards = match (self.from, self.to) {
            // The end of the date may well be after the beginning of a later one, where a zone left
            // a date out.
            (Some(When::Date(from)), Some(When::Date(to))) => from > to,
            _ => matches!((from, to), (Some(from), Some(to)) if from > to),
        };
        if backwards {
            return Err(backward());
        }
        Ok((from, to))
    }
}

/// That `from` is after `to`.
pub(super) fn backward() -> Problem {
    Problem::new(
        Code::ContradictoryParameters,
        "from is after to: no time is in between.",
    )
}

/// Reads a whole query: its own part by `own`, and what every question has.
pub(super) fn read<T>(
    query: Query<'_>,
    own: impl FnOnce(&mut Reader<'_>) -> T,
) -> Result<(T, Scope, Zone), Problem> {
    let mut reader = query.read();
    let own = own(&mut reader);
    let (scope, zone) = scoped(&mut reader);
    reader.finish()?;
    Ok((own, scope, zone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::analytics::answer::shown;

    #[test]
    fn a_time_is_shown_in_its_zone() {
        let time = Timestamp::parse("2026-11-20T22:00:00Z").unwrap();
        for (name, expected) in [
            ("Europe/Kyiv", "2026-11-21T00:00:00+02:00"),
            ("Europe/London", "2026-11-20T22:00:00+00:00"),
            ("UTC", "2026-11-20T22:00:00Z"),
            ("etc/utc", "2026-11-20T22:00:00Z"),
        ] {
            let zone = Zone::parse(name).unwrap();
            assert_eq!(shown(time, &zone.zone), expected);
            assert!(zone.name.eq_ignore_ascii_case(name));
        }
    }

    #[test]
    fn dates_have_one_form() {
        assert_eq!(date("2024-02-29").unwrap().to_string(), "2024-02-29");
        for bad in [
            "",
            "2024-2-29",
            "20240229",
            "2023-02-29",
            "2024-02-29 ",
            "-02024-02-2",
        ] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_day_that_a_zone_left_out_is_no_contradiction() {
        // Apia had no 30th of December 2011.
        let zone = Zone::parse("Pacific/Apia").unwrap();
        let day = When::parse("2011-12-30").ok();
        let between = Between { from: day, to: day };
        let (from, to) = between.range(&zone).unwrap();
        assert!(from <= to, "{from:?} {to:?}");
    }
}
