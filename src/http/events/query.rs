//! The query of the routes that read events.

use crate::events::parse::time;
use crate::http::error::{Code, Problem};
use crate::model::event::{EventFilter, EventTime, MAX_NAME};

/// Which events; every parameter that is there must match.
#[derive(rocket::FromForm, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[derive(Clone, Copy)]
pub(in crate::http) struct Filter<'r> {
    /// Of this tenant.
    tenant_id: Option<&'r str>,
    /// In this topic; may be empty.
    topic: Option<&'r str>,
    /// From this source.
    source: Option<&'r str>,
    /// Of this type.
    event_type: Option<&'r str>,
    /// Of this user.
    user_id: Option<&'r str>,
    /// Not before this time (RFC 3339, or a day for its begin in UTC).
    from: Option<&'r str>,
    /// Before this time.
    to: Option<&'r str>,
}

impl Filter<'_> {
    /// Checked.
    pub(super) fn parse(self) -> Result<EventFilter, Problem> {
        let topic = match self.topic {
            Some("") => Some(String::new()),
            other => name("topic", other)?,
        };
        let filter = EventFilter {
            tenant: name("tenant_id", self.tenant_id)?,
            topic,
            source: name("source", self.source)?,
            event_type: name("event_type", self.event_type)?,
            user: name("user_id", self.user_id)?,
            from: moment("from", self.from)?,
            to: moment("to", self.to)?,
        };
        if let (Some(from), Some(to)) = (filter.from, filter.to)
            && from > to
        {
            return Err(Problem::new(
                Code::ContradictoryParameters,
                format!("from ({from}) is after to ({to}): no time is in between."),
            ));
        }
        Ok(filter)
    }
}

/// A name of 1 to 256 bytes.
pub(super) fn name(
    parameter: &'static str,
    given: Option<&str>,
) -> Result<Option<String>, Problem> {
    let read = given.map(legal_name).transpose();
    read.map_err(|detail| Problem::parameter(parameter, detail))
}

/// A name of 1 to 256 bytes, or what is wrong with it.
pub(in crate::http) fn legal_name(text: &str) -> Result<String, String> {
    if (1..=MAX_NAME).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        let length = text.len();
        Err(format!("has {length} bytes and must have 1 to {MAX_NAME}"))
    }
}

/// `true` or `false`; absent is `false`.
pub(super) fn flag(parameter: &'static str, given: Option<&str>) -> Result<bool, Problem> {
    match given {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::parameter(parameter, "must be true or false")),
    }
}

/// A whole number within a range; digits only.
pub(in crate::http) fn number(
    parameter: &'static str,
    given: Option<&str>,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Problem> {
    let read = given.map(|text| whole(text, range)).transpose();
    read.map_err(|detail| Problem::parameter(parameter, detail))
}

/// A whole number within a range, digits only; or what is wrong with it.
pub(in crate::http) fn whole(
    text: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && range.contains(&number) => Ok(number),
        _ => Err(format!(
            "must be a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// A time, or the begin of a day.
fn moment(parameter: &'static str, given: Option<&str>) -> Result<Option<EventTime>, Problem> {
    let Some(text) = given else {
        return Ok(None);
    };
    let day = || time::parse(&format!("{text}T00:00:00Z"));
    match instant(text).or_else(day) {
        Some(time) => Ok(Some(time)),
        None => Err(Problem::parameter(
            parameter,
            "must be an RFC 3339 time, such as 2026-11-21T04:11:21Z, or a day, such as 2026-11-21",
        )),
    }
}

/// A time. In a query, a plus that is not written `%2B` stands for a space, so here one may stand
/// for a plus.
pub(in crate::http) fn instant(text: &str) -> Option<EventTime> {
    let zoned = || {
        let (before, zone) = text.rsplit_once(' ')?;
        before
            .contains(['T', 't'])
            .then(|| time::parse(&format!("{before}+{zone}")))?
    };
    time::parse(text).or_else(zoned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_day() {
        for (text, shown) in [
            ("2026-11-21T04:11:21.5Z", "2026-11-21T04:11:21.5Z"),
            ("2026-11-21T04:11:21+02:00", "2026-11-21T02:11:21Z"),
            ("2026-11-21T04:11:21 02:00", "2026-11-21T02:11:21Z"),
            ("2026-11-21T04:11:21", "2026-11-21T04:11:21Z"),
            ("2026-11-21", "2026-11-21T00:00:00Z"),
        ] {
            let found = moment("from", Some(text)).unwrap().unwrap();
            assert_eq!(found.to_string(), shown, "{text}");
        }
        for bad in ["", "today", "2026-11", "2026-02-30", "1795234281"] {
            assert!(moment("from", Some(bad)).is_err(), "{bad}");
        }
        assert!(matches!(moment("from", None), Ok(None)));
    }

    #[test]
    fn numbers_are_digits_in_their_range() {
        let read = |text| number("page", Some(text), 1..=10).ok().flatten();
        assert_eq!(read("1"), Some(1));
        assert_eq!(read("10"), Some(10));
        for bad in ["", "0", "11", "+1", "1.0", "x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
