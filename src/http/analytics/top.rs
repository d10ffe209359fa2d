//! `GET /stats/top-events`: the most frequent event types.

use rocket::{State, get};
use serde::Serialize;

use super::answer::{Answer, Fresh};
use super::common::{Between, Scoped, read};
use super::query::Query;
use crate::analytics;
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::Problem;
use crate::http::events::whole;

/// The most types of an answer.
const MAX_LIMIT: u64 = 1_000;

/// How many types an answer has at most, unless the client says.
const DEFAULT_LIMIT: u64 = 10;

/// An event type.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct TopEvent {
    #[schema(example = "purchase")]
    event_type: String,
    /// Its events.
    #[schema(example = 12)]
    count: u64,
    /// Whose they are.
    #[schema(example = 7)]
    unique_users: u64,
}

impl From<analytics::TopType> for TopEvent {
    fn from(found: analytics::TopType) -> Self {
        Self {
            event_type: found.event_type,
            count: found.count,
            unique_users: found.unique_users,
        }
    }
}

/// List the most frequent event types
///
/// By count, then by name. Events without a type are left out.
#[utoipa::path(get, path = "/stats/top-events", tag = "analytics",
    params(Scoped,
        ("from" = Option<String>, Query, description = "Not before: a date in `tz`, or an RFC 3339 time."),
        ("to" = Option<String>, Query, description = "A date in `tz`, included; or an RFC 3339 time, not included."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "How many types at most; 10 if it is missing."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "The types.", body = Vec<TopEvent>),
        (status = 304, description = "No event was accepted since the answer with this `ETag`."),
        (status = 400, description = "`contradictory_parameters`: `from` is after `to`."),
        (status = 422, description = "`invalid_value`: a parameter is unknown or not valid; `too_broad`: too many events would have to be read; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet."),
    ))]
#[get("/stats/top-events")]
pub(in crate::http) async fn top_events(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    let ((limit, between), scope, zone) = read(query, |reader| {
        let limit = reader.one("limit", |text| whole(text, 1..=MAX_LIMIT));
        (limit.unwrap_or(DEFAULT_LIMIT), Between::read(reader))
    })?;
    let range = between.range(&zone)?;
    let fresh = Fresh::now(state, None).await?;
    if fresh.is_known(call) {
        return Ok(fresh.unchanged());
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = state.analytics.top_types(scope, range, limit).await?;
    Ok(fresh.answer(|| found.into_iter().map(TopEvent::from).collect::<Vec<_>>()))
}
