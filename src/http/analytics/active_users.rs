//! `GET /stats/dau`, `/stats/wau`, `/stats/mau`: users by day.

use jiff::ToSpan as _;
use jiff::civil::Date;
use rocket::{State, get};
use serde::Serialize;

use super::answer::{Answer, Fresh};
use super::common::{Scoped, backward, date, read};
use super::query::Query;
use crate::analytics::Active;
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::{Code, Problem};

/// The most days of an answer: ten years.
const MAX_DAYS: i64 = 3_660;

/// How many days an answer has, unless the client says.
const DEFAULT_DAYS: i64 = 30;

/// The users of a day.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Dau {
    #[schema(value_type = String, format = Date, example = "2026-11-21")]
    date: Date,
    /// How many users were active on it.
    #[schema(example = 7)]
    dau: u64,
}

/// The users of a week.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Wau {
    #[schema(value_type = String, format = Date, example = "2026-11-21")]
    date: Date,
    /// How many users were active on it or on one of the 6 days before.
    #[schema(example = 31)]
    wau: u64,
}

/// The users of a month.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Mau {
    #[schema(value_type = String, format = Date, example = "2026-11-21")]
    date: Date,
    /// How many users were active on it or on one of the 29 days before.
    #[schema(example = 90)]
    mau: u64,
}

impl From<Active> for Dau {
    fn from(Active { date, users }: Active) -> Self {
        Self { date, dau: users }
    }
}

impl From<Active> for Wau {
    fn from(Active { date, users }: Active) -> Self {
        Self { date, wau: users }
    }
}

impl From<Active> for Mau {
    fn from(Active { date, users }: Active) -> Self {
        Self { date, mau: users }
    }
}

/// Count users by day
///
/// An entry for each day from `from` to `to`, zeros included.
#[utoipa::path(get, path = "/stats/dau", tag = "analytics",
    params(Scoped,
        ("from" = Option<String>, Query, format = Date, description = "The first day; 29 days before `to` if it is missing."),
        ("to" = Option<String>, Query, format = Date, description = "The last day, included; today if it is missing. At most 3,660 days at once."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "A day each.", body = Vec<Dau>),
        (status = 304, description = "No event was accepted since the answer with this `ETag`."),
        (status = 400, description = "`contradictory_parameters`: `from` is after `to`."),
        (status = 422, description = "`invalid_value`: a parameter is unknown or not valid; `too_broad`: too many days; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet."),
    ))]
#[get("/stats/dau")]
pub(in crate::http) async fn dau(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    active::<Dau>(query, call, state, 1).await
}

/// Count users by week
///
/// As `/stats/dau`; each entry counts the users of the 7 days that end with its date.
#[utoipa::path(get, path = "/stats/wau", tag = "analytics",
    params(Scoped,
        ("from" = Option<String>, Query, format = Date, description = "The first date; 29 days before `to` if it is missing."),
        ("to" = Option<String>, Query, format = Date, description = "The last date, included; today if it is missing. At most 3,660 days at once."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "A date each.", body = Vec<Wau>),
        (status = 304, description = "No event was accepted since the answer with this `ETag`."),
        (status = 400, description = "`contradictory_parameters`: `from` is after `to`."),
        (status = 422, description = "`invalid_value`: a parameter is unknown or not valid; `too_broad`: too many days; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet."),
    ))]
#[get("/stats/wau")]
pub(in crate::http) async fn wau(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    active::<Wau>(query, call, state, 7).await
}

/// Count users by month
///
/// As `/stats/dau`; each entry counts the users of the 30 days that end with its date.
#[utoipa::path(get, path = "/stats/mau", tag = "analytics",
    params(Scoped,
        ("from" = Option<String>, Query, format = Date, description = "The first date; 29 days before `to` if it is missing."),
        ("to" = Option<String>, Query, format = Date, description = "The last date, included; today if it is missing. At most 3,660 days at once."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "A date each.", body = Vec<Mau>),
        (status = 304, description = "No event was accepted since the answer with this `ETag`."),
        (status = 400, description = "`contradictory_parameters`: `from` is after `to`."),
        (status = 422, description = "`invalid_value`: a parameter is unknown or not valid; `too_broad`: too many days; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet."),
    ))]
#[get("/stats/mau")]
pub(in crate::http) async fn mau(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    active::<Mau>(query, call, state, 30).await
}

async fn active<T: From<Active> + Serialize>(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
    days: u16,
) -> Result<Answer, Problem> {
    let (given, scope, zone) = read(query, |reader| {
        (reader.one("from", date), reader.one("to", date))
    })?;
    // Only a missing `to` makes the answer another one tomorrow.
    let fresh = Fresh::now(state, Some(&zone).filter(|_| given.1.is_none())).await?;
    let dates = dates(given, zone.today(fresh.as_of))?;
    if fresh.is_known(call) {
        return Ok(fresh.unchanged());
    }
    let found = state
        .analytics
        .active_users(scope, dates, days, zone.zone)
        .await?;
    Ok(fresh.answer(|| found.into_iter().map(T::from).collect::<Vec<_>>()))
}

/// The first and the last day.
fn dates(given: (Option<Date>, Option<Date>), today: Date) -> Result<(Date, Date), Problem> {
    let (first, last) = match given {
        (Some(first), Some(last)) => (first, last),
        // From a day to come to today would be no day at all.
        (Some(first), None) => (first, today.max(first)),
        (None, last) => {
            let last = last.unwrap_or(today);
            (last.saturating_sub((DEFAULT_DAYS - 1).days()), last)
        }
    };
    if first > last {
        return Err(backward());
    }
    let days = last.duration_since(first).as_hours() / 24 + 1;
    if days > MAX_DAYS {
        return Err(Problem::new(
            Code::TooBroad,
            format!(
                "From {first} to {last} are {days} days, and an answer has at most {MAX_DAYS}. \
                 Ask for them in several parts."
            ),
        ));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_defaults_and_a_bound() {
        let day = |text: &str| -> Option<Date> { text.parse().ok() };
        let today = day("2026-11-21").unwrap();
        let read = |from, to| {
            let found = dates((from, to), today).ok();
            found.map(|(from, to)| format!("{from} {to}"))
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(read(None, None), is("2026-10-23 2026-11-21"));
        assert_eq!(read(None, day("2026-03-01")), is("2026-01-31 2026-03-01"));
        assert_eq!(read(day("2026-11-20"), None), is("2026-11-20 2026-11-21"));
        assert_eq!(read(day("2027-01-01"), None), is("2027-01-01 2027-01-01"));
        assert_eq!(read(day("2026-11-22"), day("2026-11-21")), None);
        // 3,660 days, and one more.
        assert!(read(day("2016-11-14"), day("2026-11-21")).is_some());
        assert!(read(day("2016-11-13"), day("2026-11-21")).is_none());
    }
}
