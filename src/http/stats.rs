//! `GET /stats`: what was ever received.

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{State, get, routes};
use serde::Serialize;

use super::HttpState;
use super::error::Problem;
use super::health::{json, seconds};
use super::quota;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("stats", |rocket| async {
        quota::mount(rocket, routes![stats])
    })
}

/// What was ever received.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Stats {
    /// Valid events, duplicates included.
    #[schema(example = 5000)]
    received: u64,
    /// Events that were the first of their identity.
    #[schema(example = 4000)]
    unique_processed: u64,
    /// Events that were dropped because their identity was spent.
    #[schema(example = 1000)]
    duplicate_dropped: u64,
    /// Of those, events that said something else than the first one.
    #[schema(example = 0)]
    conflicting: u64,
    /// Since the process started.
    #[schema(example = 12.5)]
    uptime_seconds: f64,
    /// Every topic that has or had events, by name, but for the empty one; the first 10,000 there
    /// were.
    #[schema(example = json!(["ingest", "orders"]))]
    topics: Vec<String>,
}

/// Count the events
///
/// Since the store was made: a restart changes nothing but `uptime_seconds`.
#[utoipa::path(get, path = "/stats", tag = "events",
    responses((status = 200, description = "The counts.", body = Stats)))]
#[get("/stats")]
pub(super) async fn stats(state: &State<HttpState>) -> Result<(ContentType, String), Problem> {
    state.events.store.sync().await?;
    let mut counts = state.events.store.event_counts();
    counts.topics.retain(|topic| !topic.is_empty());
    Ok(json(&Stats {
        received: counts.accepted + counts.duplicates,
        unique_processed: counts.accepted,
        duplicate_dropped: counts.duplicates,
        conflicting: counts.conflicting,
        uptime_seconds: seconds(state.clock.now().mono),
        topics: counts.topics,
    }))
}
