//! `POST /ingest`: accepts ids.

mod careful;
mod parse;

use rocket::data::Data;
use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{State, post, routes};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::HttpState;
use super::body;
use super::call::Call;
use super::error::{Code, Offences, Problem, shown};
use super::quota;
use crate::jobs::{Idempotency, Submission};
use crate::model::id::IngestionId;
use crate::model::ingestion::Extras;
use crate::model::queue::QueueName;
use parse::Request;

/// The longest `Idempotency-Key`, in characters.
const MAX_KEY: usize = 255;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("ingest", |rocket| async {
        quota::mount(rocket, routes![ingest])
    })
}

/// The body of a submission.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IngestRequest, example = json!({"ids": [1, 2, 3, 4, 5], "priority": "HIGH"}))]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
pub(super) struct IngestBody {
    /// 1 to 1,000,000 integers in the 64-bit range, written without fraction and exponent.
    /// Duplicates are kept as sent.
    #[schema(min_items = 1, max_items = 1_000_000)]
    ids: Vec<i64>,
    /// How urgent it is.
    priority: crate::model::priority::Priority,
    /// Into which queue; `default` if absent.
    #[schema(value_type = String, required = false, default = "default", max_length = 64)]
    queue: String,
    /// An object of at most 4096 bytes, returned as sent.
    #[schema(value_type = Object, required = false)]
    metadata: IgnoredAny,
    /// An `http` or `https` URL that the final status is posted to.
    #[schema(value_type = String, required = false, format = "uri", max_length = 2048)]
    callback_url: String,
    /// RFC 3339, in the future: batches that have not started by then expire.
    #[schema(value_type = String, required = false, format = DateTime)]
    deadline: String,
}

/// The answer to a submission.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(example = json!({"ingestion_id": "01936f5e-7c1a-7d3a-b5f0-0a1b2c3d4e5f"}))]
pub(super) struct IngestAnswer {
    /// The name under which `GET /status/{ingestion_id}` finds it.
    #[schema(value_type = String, format = Uuid)]
    ingestion_id: IngestionId,
}

/// Submit ids
///
/// When the answer has come, the ids are on disk, every later read sees them, and on an idle
/// queue the first batch has started.
#[utoipa::path(
    post, path = "/ingest", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 visible ASCII characters. A repetition with the same key and the same body within 24 hours gets the first answer.")),
    request_body(content = IngestBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Accepted.", body = IngestAnswer),
        (status = 400, description = "`malformed_json`: not UTF-8, not JSON, cut off, nested deeper than 128, or more than one value."),
        (status = 404, description = "`not_found`: there is no such queue."),
        (status = 408, description = "`request_timeout`: the body did not arrive in time."),
        (status = 409, description = "`idempotency_key_in_flight`: a request with this key is being answered."),
        (status = 413, description = "`body_too_large`: the body has more bytes than allowed (16 MiB unless set)."),
        (status = 415, description = "`unsupported_media_type`: only `application/json` is taken."),
        (status = 422, description = "`invalid_value`, `too_many_items` or `idempotency_key_reused`: JSON, and no submission; more ids than one request or all waiting batches of the queue may have; or a key that was used with another body."),
        (status = 429, description = "`queue_full`: the queue holds as many waiting batches as it may."),
        (status = 503, description = "`unavailable`: the store takes no writes now."),
    )
)]
#[post("/ingest", data = "<data>")]
pub(super) async fn ingest(
    call: Call<'_>,
    data: Data<'_>,
    state: &State<HttpState>,
) -> Result<(ContentType, String), Problem> {
    let body = body::read_json(call, data, state).await?;
    let key = idempotency_key(call)?;
    let submission = submission(body.bytes(), key, state)?;
    drop(body);
    let id = state.jobs.submit(submission).await?;
    Ok((ContentType::JSON, format!("{{\"ingestion_id\":\"{id}\"}}")))
}

/// Parses the body into something that can be submitted.
fn submission(body: &[u8], key: Option<u128>, state: &HttpState) -> Result<Submission, Problem> {
    let now = state.clock.now().wall;
    let request = match parse::fast(body, now) {
        Some(request) => request,
        None => careful::parse(body, now)?,
    };
    let name = request.queue.as_deref().unwrap_or(QueueName::DEFAULT);
    let Some(queue) = state.jobs.queue(name) else {
        let mut offences = Offences::default();
        offences.add(&["queue"], "unknown_queue", || {
            "no queue has this name".to_owned()
        });
        return Err(Problem::new(
            Code::NotFound,
            format!(
                "There is no queue named {}; GET /queues lists those there are.",
                shown(name)
            ),
        )
        .with_offences(offences));
    };
    Ok(Submission {
        idempotency: key.map(|key| Idempotency {
            key,
            body: xxh3_128(body),
        }),
        priority: request.priority,
        queue,
        extras: extras(&request),
        ids: request.ids.into(),
    })
}

/// What few submissions carry.
fn extras(request: &Request<'_>) -> Option<Box<Extras>> {
    let extras = Extras {
        metadata: request.metadata.map(Into::into),
        callback_url: request.callback_url.as_deref().map(Into::into),
        deadline: request.deadline,
    };
    (extras != Extras::default()).then(|| Box::new(extras))
}

/// A hash of the `Idempotency-Key`, if there is one.
fn idempotency_key(call: Call<'_>) -> Result<Option<u128>, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = call.headers(NAME);
    let Some(key) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::header(NAME, "is there more than once"));
    }
    if !(1..=MAX_KEY).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::header(
            NAME,
            "must be 1 to 255 visible ASCII characters, without spaces",
        ));
    }
    Ok(Some(xxh3_128(key.as_bytes())))
}
