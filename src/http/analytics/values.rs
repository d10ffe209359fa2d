//! `GET /stats/segments/values`: what segments there are to choose from.

use rocket::{State, get};
use serde::Serialize;

use super::answer::{Answer, Fresh};
use super::common::{Between, Scoped, bounded, read};
use super::query::Query;
use crate::analytics::{SegmentPath, SegmentValue};
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::Problem;
use crate::http::events::whole;
use crate::model::time::Timestamp;

/// The most values of an answer.
const MAX_LIMIT: u64 = 1_000;

/// How many values an answer has at most, unless the client says.
const DEFAULT_LIMIT: u64 = 100;

/// The values at a path.
#[derive(Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
pub(in crate::http) struct Values {
    #[schema(example = "properties.country")]
    path: String,
    /// Every event that was acknowledged before is counted.
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T04:11:21.500000Z")]
    as_of: Timestamp,
    /// By count, then by text.
    values: Vec<Value>,
    /// Whether there are others: more than `limit`, more than are told apart, or ones longer than 256
    /// bytes.
    truncated: bool,
}

/// A value: with the path and a `=` before it, it is a segment.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SegmentValue)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
pub(in crate::http) struct Value {
    /// A string without its quotes; a number, `true`, `false` or `null` as in JSON.
    #[schema(example = "UA")]
    value: String,
    /// Its events.
    #[schema(example = 12)]
    count: u64,
    /// Whose they are.
    #[schema(example = 7)]
    unique_users: u64,
}

impl From<SegmentValue> for Value {
    fn from(found: SegmentValue) -> Self {
        Self {
            value: found.value,
            count: found.count,
            unique_users: found.unique_users,
        }
    }
}

/// List the values of a segment
///
/// What there is at `path` in the events that the filters let through. Values of a property are read
/// from the events themselves.
#[utoipa::path(get, path = "/stats/segments/values", tag = "analytics",
    params(Scoped,
        ("path" = String, Query, description = "`event_type`, or `properties.` and the keys that lead to a value, with dots between.", example = "properties.country"),
        ("from" = Option<String>, Query, description = "Not before: a date in `tz`, or an RFC 3339 time."),
        ("to" = Option<String>, Query, description = "A date in `tz`, included; or an RFC 3339 time, not included."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "How many values at most; 100 if it is missing."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "The values.", body = Values),
        (status = 304, description = "No event was accepted since the answer with this `ETag`."),
        (status = 400, description = "`contradictory_parameters`: `from` is after `to`."),
        (status = 422, description = "`invalid_value`: a parameter is missing, unknown or not valid; `too_broad`: too many events would have to be read; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet, or too many questions wait."),
    ))]
#[get("/stats/segments/values")]
pub(in crate::http) async fn values(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    let ((path, limit, between), scope, zone) = read(query, |reader| {
        let parse = |text: &str| Ok((text.to_owned(), SegmentPath::parse(bounded(text)?)?));
        let path = reader.one("path", parse);
        let limit = reader.one("limit", |text| whole(text, 1..=MAX_LIMIT));
        (path, limit.unwrap_or(DEFAULT_LIMIT), Between::read(reader))
    })?;
    let Some((path, parsed)) = path else {
        return Err(Problem::parameter(
            "path",
            "is missing, and must be event_type, or such as properties.country",
        ));
    };
    let range = between.range(&zone)?;
    let fresh = Fresh::now(state, None).await?;
    if fresh.is_known(call) {
        return Ok(fresh.unchanged());
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = state
        .analytics
        .segment_values(scope, parsed, range, limit)
        .await?;
    let as_of = fresh.as_of;
    Ok(fresh.answer(|| Values {
        path,
        as_of,
        values: found.values.into_iter().map(Value::from).collect(),
        truncated: found.truncated,
    }))
}
