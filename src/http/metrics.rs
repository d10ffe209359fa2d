//! `GET /metrics`: the text exposition for Prometheus, or buckets of events.

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{Request, Responder, State, get, routes};

use super::HttpState;
use super::analytics::buckets::{Buckets, buckets};
use super::analytics::{Answer, Query, Scoped};
use super::call::Call;
use super::error::Problem;
use super::quota;
use crate::model::priority::Priority;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("metrics", |rocket| async {
        quota::mount_if(rocket, routes![metrics], has_parameters)
    })
}

/// The exposition is asked for again and again by whoever watches, and is not counted.
fn has_parameters(request: &Request<'_>) -> bool {
    request.uri().query().is_some_and(|query| !query.is_empty())
}

/// What there is under this path.
#[derive(Responder)]
pub(super) enum Metrics {
    /// Without parameters.
    Text((ContentType, String)),
    /// With parameters.
    Buckets(Answer),
}

/// Metrics for Prometheus, or events by time
///
/// Without any parameter: metrics for Prometheus, as `application/openmetrics-text` for a client that
/// asks for it, else in the text format 0.0.4.
///
/// With parameters: the minutes, hours or days that have events, ascending.
#[utoipa::path(get, path = "/metrics", tag = "analytics",
    params(Scoped,
        ("bucket_size" = Option<String>, Query, description = "`minute`, which is the default, `hour` or `day`."),
        ("from" = Option<String>, Query, description = "Not before: a date in `tz`, or an RFC 3339 time."),
        ("to" = Option<String>, Query, description = "A date in `tz`, included; or an RFC 3339 time, not included."),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has.")),
    responses(
        (status = 200, description = "The metrics, or the buckets.", content(
            (Buckets = "application/json"),
            (String = "text/plain"),
        )),
        (status = 304, description = "No event was accepted since the answer with this `ETag`."),
        (status = 400, description = "`contradictory_parameters`: `from` is after `to`."),
        (status = 422, description = "`invalid_value`: a parameter is unknown or not valid; `too_broad`: more than 100,000 buckets, or too many events would have to be read; or `events_gone`: a segment by a property needs events that are erased or in the cold tier."),
        (status = 503, description = "`unavailable`: the events that were accepted last are not counted yet."),
    ))]
#[get("/metrics")]
pub(super) async fn metrics(
    query: Query<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
) -> Result<Metrics, Problem> {
    if query.is_empty() {
        return Ok(Metrics::Text(exposition(call, state)));
    }
    buckets(query, call, state).await.map(Metrics::Buckets)
}

fn exposition(call: Call<'_>, state: &HttpState) -> (ContentType, String) {
    for queue in state.jobs.queues() {
        for (rank, waiting) in (0..).zip(queue.waiting) {
            if let Some(priority) = Priority::from_rank(rank) {
                state
                    .metrics
                    .set_waiting(queue.name.as_str(), priority, waiting);
            }
        }
    }
    let media_type = if call.accepts("application/openmetrics-text") {
        ContentType::new("application", "openmetrics-text")
            .with_params([("version", "1.0.0"), ("charset", "utf-8")])
    } else {
        ContentType::new("text", "plain").with_params([("version", "0.0.4"), ("charset", "utf-8")])
    };
    (media_type, state.metrics.encode())
}
