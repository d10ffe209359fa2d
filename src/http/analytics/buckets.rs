//! `GET /metrics` with parameters: events by minute, hour or day.

use jiff::tz::TimeZone;
use rocket::State;
use serde::Serialize;

use super::answer::{Answer, Fresh, shown};
use super::common::{Between, read};
use super::query::Query;
use crate::analytics::{self, BucketSize};
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::{Code, Problem};
use crate::model::time::Timestamp;

/// An answer with more buckets is made on a thread for blocking work.
const MANY: usize = 2_000;

/// Buckets with events.
#[derive(Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the wire")]
pub(in crate::http) struct Buckets {
    /// The tenant that was asked for; null for all.
    #[schema(example = "shop")]
    tenant_id: Option<String>,
    #[schema(example = "minute")]
    bucket_size: &'static str,
    /// Whose days and hours these are.
    #[schema(example = "UTC")]
    tz: String,
    /// Every event that was acknowledged before is counted.
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T04:11:21.500000Z")]
    as_of: Timestamp,
    /// Those with events, ascending.
    buckets: Vec<Bucket>,
}

/// A bucket.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Bucket {
    /// Its first instant, in UTC or with the offset of the zone.
    #[schema(format = DateTime, example = "2026-11-21T04:11:00Z")]
    start: String,
    /// Behind its last instant.
    #[schema(format = DateTime, example = "2026-11-21T04:12:00Z")]
    end: String,
    /// Its events.
    #[schema(example = 12)]
    count: u64,
    /// Whose they are.
    #[schema(example = 7)]
    unique_users: u64,
}

fn bucket_size(text: &str) -> Result<(BucketSize, &'static str), String> {
    match text {
        "minute" => Ok((BucketSize::Minute, "minute")),
        "hour" => Ok((BucketSize::Hour, "hour")),
        "day" => Ok((BucketSize::Day, "day")),
        _ => Err("must be minute, hour or day".to_owned()),
    }
}

/// The buckets that `query` asks for.
pub(in crate::http) async fn buckets(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Answer, Problem> {
    let ((size, between), scope, zone) = read(query, |reader| {
        (
            reader.one("bucket_size", bucket_size),
            Between::read(reader),
        )
    })?;
    let (size, name) = size.unwrap_or((BucketSize::Minute, "minute"));
    let range = between.range(&zone)?;
    let fresh = Fresh::now(state, None).await?;
    if fresh.is_known(call) {
        return Ok(fresh.unchanged());
    }
    let tenant_id = scope.tenant.clone();
    let found = state
        .analytics
        .buckets(scope, range, size, zone.zone.clone())
        .await?;
    let (count, most) = (found.len(), state.limits.max_buckets);
    if count > most {
        return Err(Problem::new(
            Code::TooBroad,
            format!(
                "There are {count} buckets with events, and an answer has at most {most}. \
                 Ask for a larger bucket_size or for a shorter time (from, to)."
            ),
        ));
    }
    let as_of = fresh.as_of;
    let wire = move || Buckets {
        tenant_id,
        bucket_size: name,
        tz: zone.name,
        as_of,
        buckets: found.iter().map(|it| bucket(it, &zone.zone)).collect(),
    };
    Ok(if count > MANY {
        fresh.long_answer(wire).await
    } else {
        fresh.answer(wire)
    })
}

fn bucket(found: &analytics::Bucket, zone: &TimeZone) -> Bucket {
    Bucket {
        start: shown(found.start, zone),
        end: shown(found.end, zone),
        count: found.count,
        unique_users: found.unique_users,
    }
}
