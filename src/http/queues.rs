//! `GET /queues` and `GET /ingestions`: what there is, at a glance.

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{State, get, routes};
use serde::Serialize;

use super::HttpState;
use super::error::Problem;
use super::health::{json, seconds};
use super::quota;
use super::status::Summary;
use crate::jobs::QueueView;
use crate::model::priority::Priority;
use crate::model::queue::ProcessorSettings;

/// How many ingestions are listed, unless the client says.
const DEFAULT_LIMIT: usize = 20;

/// The most ingestions that are listed.
const MAX_LIMIT: usize = 100;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("queues", |rocket| async {
        quota::mount(rocket, routes![queues, ingestions])
    })
}

/// All queues.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Queues {
    queues: Vec<Queue>,
}

/// One queue: its settings, and where it is.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Queue {
    #[schema(example = "default")]
    name: String,
    /// The least time between two starts.
    #[schema(example = 5.0)]
    interval_seconds: f64,
    /// The most ids in a batch.
    #[schema(example = 3)]
    batch_size: u16,
    /// How many batches may run at once.
    #[schema(example = 1)]
    max_in_flight: u32,
    /// Whether a slot takes several small batches.
    pack_slots: bool,
    /// `simulate` or `http`.
    #[schema(example = "simulate")]
    processor: &'static str,
    /// The most batches that may wait.
    #[schema(example = 20_000_000)]
    max_waiting: u64,
    waiting: Waiting,
    /// Batches that run now.
    running: u32,
    /// Batches between two attempts.
    retrying: u64,
    /// Ingestions that have not ended.
    live_ingestions: u64,
    /// How long until the next slot opens; 0 when it is open.
    #[schema(example = 3.2)]
    next_slot_in_seconds: f64,
}

/// Batches that wait for a slot.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Waiting {
    total: u64,
    #[serde(rename = "HIGH")]
    high: u64,
    #[serde(rename = "MEDIUM")]
    medium: u64,
    #[serde(rename = "LOW")]
    low: u64,
}

impl From<QueueView> for Queue {
    fn from(view: QueueView) -> Self {
        let of = |priority: Priority| {
            let rank = usize::from(priority.rank());
            view.waiting.get(rank).copied().unwrap_or_default()
        };
        Self {
            interval_seconds: seconds(view.settings.interval),
            batch_size: view.settings.batch_size.get(),
            max_in_flight: view.settings.max_in_flight.get(),
            pack_slots: view.settings.pack_slots,
            processor: match view.settings.processor {
                ProcessorSettings::Simulate(_) => "simulate",
                ProcessorSettings::Http(_) => "http",
            },
            max_waiting: view.settings.max_waiting,
            waiting: Waiting {
                total: view.waiting.iter().sum(),
                high: of(Priority::High),
                medium: of(Priority::Medium),
                low: of(Priority::Low),
            },
            running: view.running,
            retrying: view.retrying,
            live_ingestions: view.live_ingestions,
            next_slot_in_seconds: seconds(view.next_slot_in),
            name: view.name.to_string(),
        }
    }
}

/// The newest ingestions.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Ingestions {
    /// Newest first.
    ingestions: Vec<Summary>,
}

/// List the queues
#[utoipa::path(get, path = "/queues", tag = "jobs",
    responses((status = 200, description = "Every queue, by name.", body = Queues)))]
#[get("/queues")]
pub(super) async fn queues(state: &State<HttpState>) -> Result<(ContentType, String), Problem> {
    state.jobs.store().sync().await?;
    Ok(json(&Queues {
        queues: state.jobs.queues().into_iter().map(Queue::from).collect(),
    }))
}

/// List the newest ingestions
///
/// Those in memory: all that have not ended, and those that ended a short while ago.
#[utoipa::path(get, path = "/ingestions", tag = "jobs",
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 100,
        description = "How many at most; 20 if absent.")),
    responses(
        (status = 200, description = "Newest first, without their batches.", body = Ingestions),
        (status = 422, description = "`invalid_value`: `limit` is not 1 to 100."),
    ))]
#[get("/ingestions?<limit>")]
pub(super) async fn ingestions(
    limit: Option<&str>,
    state: &State<HttpState>,
) -> Result<(ContentType, String), Problem> {
    let limit = match limit.map(str::parse) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
        Some(_) => {
            return Err(Problem::parameter(
                "limit",
                format!("must be a number from 1 to {MAX_LIMIT}"),
            ));
        }
    };
    state.jobs.store().sync().await?;
    let recent = state.jobs.recent(limit);
    Ok(json(&Ingestions {
        ingestions: recent.iter().map(Summary::of).collect(),
    }))
}
