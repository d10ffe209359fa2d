//! `GET /metrics`: the text exposition for Prometheus.

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{State, get, routes};

use super::HttpState;
use super::call::Call;
use crate::model::priority::Priority;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("metrics", |rocket| async {
        rocket.mount("/", routes![metrics])
    })
}

/// Metrics for Prometheus
///
/// `application/openmetrics-text` for a client that asks for it, else the text format 0.0.4.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain")))]
#[get("/metrics")]
pub(super) fn metrics(call: Call<'_>, state: &State<HttpState>) -> (ContentType, String) {
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
