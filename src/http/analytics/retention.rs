//! `GET /stats/retention`: who comes back.

use jiff::ToSpan as _;
use jiff::civil::Date;
use rocket::{State, get};
use serde::Serialize;

use super::answer::{Answer, Fresh};
use super::common::{Scoped, date, read};
use super::query::Query;
use crate::analytics::{self, WindowType};
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::Problem;
use crate::http::events::whole;
use crate::model::time::Timestamp;

/// The most windows of an answer.
const MAX_WINDOWS: u64 = 90;

/// How many windows an answer has, unless the client says.
const DEFAULT_WINDOWS: u16 = 3;

/// Cohorts: users by the window of their first event ever, and how many of them came back.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Retention {
    #[schema(example = "daily")]
    window_type: &'static str,
    /// Whose days these are.
    #[schema(example = "UTC")]
    tz: String,
    /// Every event that was acknowledged before is counted.
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T04:11:21.500000Z")]
    as_of: Timestamp,
    /// One a window, from `start_date` on.
    cohorts: Vec<Cohort>,
}

/// The users that came first in one window. The k-th entry of each list is about the k-th window
/// after it.
#[derive(Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
pub(in crate::http) struct Cohort {
    /// The first day of the window.
    #[schema(value_type = String, format = Date, example = "2026-11-19")]
    cohort_start: Date,
    /// How many they are.
    #[schema(example = 8)]
    size: u64,
    /// How many of them were active in that window; first `size` itself.
    #[schema(example = json!([8, 2, 1]))]
    retained: Vec<u64>,
    /// The same as parts of `size`, to nine digits; 0 where `size` is.
    #[schema(example = json!([1.0, 0.25, 0.125]))]
    rates: Vec<f64>,
    /// Whether that window has ended: if not, more may come.
    #[schema(example = json!([true, true, false]))]
    complete: Vec<bool>,
}

impl From<analytics::Cohort> for Cohort {
    fn from(found: analytics::Cohort) -> Self {
        Self {
            cohort_start: found.start,
            size: found.size,
            rates: found
                .retained
                .iter()
                .map(|n| rate(*n, found.size))
                .collect(),
            retained: found.retained,
            complete: found.complete,
        }
    }
}

/// A part of `size`, to nine digits.
#[expect(clippy::cast_precision_loss, reason = "users are fewer than 2^53")]
fn rate(retained: u64, size: u64) -> f64 {
    if size == 0 {
        return 0.0;
    }
    (retained as f64 / size as f64 * 1e9).round() / 1e9
}

fn window_type(text: &str) -> Result<(WindowType, &'static str), String> {
    match text {
        "daily" => Ok((WindowType::Daily, "daily")),
        "weekly" => Ok((WindowType::Weekly, "weekly")),
        _ => Err("must be daily or weekly".to_owned()),
    }
}

/// The first day, such that the last window ends with today.
fn default_start(today: Date, windows: u16, window_type: WindowType) -> Date {
    let days = match window_type {
        WindowType::Daily => i64::from(windows),
        WindowType::Weekly => 7 * i64::from(windows),
    };
    today.saturating_sub((days - 1).days())
}

/// Follow cohorts of users
///
/// A user belongs to the cohort of the window in which their first event ever lies (of those that the
/// filters let through). A late event may move a user to an earlier cohort.
#[utoipa::path(get, path = "/stats/retention", tag = "analytics",
    params(Scoped,
        ("start_date" = Option<String>, Query, format = Date, description = "The first day of the first window; if it is missing, the last window ends with today."),
        ("windows" = Option<u64>, Query, minimum = 1, maximum = 90, description = "How many cohorts, and through how many windows each is followed; 3 if it is missing."),
        ("window_type" = Option<String>, Query, description = "`daily`, which is the default, or `weekly`: 7 days from `start_date`, and so on."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "The cohorts.", body = Retention),
        (status = 304, description = "Nothing changed since the answer with this `ETag`."),
        (status = 422, description = "`invalid_value`: a parameter is unknown or not valid; `too_broad`: too many events would have to be read; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet."),
    ))]
#[get("/stats/retention")]
pub(in crate::http) async fn retention(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    let ((start, windows, window_type), scope, zone) = read(query, |reader| {
        let windows = reader.one("windows", |text| whole(text, 1..=MAX_WINDOWS));
        (
            reader.one("start_date", date),
            windows.and_then(|windows| u16::try_from(windows).ok()),
            reader.one("window_type", window_type),
        )
    })?;
    let windows = windows.unwrap_or(DEFAULT_WINDOWS);
    let (window_type, name) = window_type.unwrap_or((WindowType::Daily, "daily"));
    // Which windows have ended depends on the day.
    let fresh = Fresh::now(state, Some(&zone)).await?;
    if fresh.is_known(call) {
        return Ok(fresh.unchanged());
    }
    let today = zone.today(fresh.as_of);
    let start = start.unwrap_or_else(|| default_start(today, windows, window_type));
    let found = state
        .analytics
        .retention(scope, start, windows, window_type, zone.zone)
        .await?;
    let as_of = fresh.as_of;
    Ok(fresh.answer(|| Retention {
        window_type: name,
        tz: zone.name,
        as_of,
        cohorts: found.into_iter().map(Cohort::from).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_part_of_the_cohort() {
        assert_eq!(rate(0, 0).to_string(), "0");
        assert_eq!(rate(8, 8).to_string(), "1");
        assert_eq!(rate(1, 3).to_string(), "0.333333333");
    }

    #[test]
    fn the_last_window_ends_with_today() {
        let today: Date = "2026-11-21".parse().unwrap();
        let start = |windows, of| default_start(today, windows, of).to_string();
        assert_eq!(start(1, WindowType::Daily), "2026-11-21");
        assert_eq!(start(3, WindowType::Daily), "2026-11-19");
        assert_eq!(start(1, WindowType::Weekly), "2026-11-15");
        assert_eq!(start(2, WindowType::Weekly), "2026-11-08");
    }
}
