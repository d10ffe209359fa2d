//! The HTTP edge: parse, call, map. It decides nothing about jobs or events.
//!
//! One file a resource, each with its own `stage()`; `error` is the only place that makes an
//! answer with a status of 400 or more.

mod analytics;
mod body;
mod call;
mod dashboard;
mod dead_letters;
mod docs;
mod edge;
mod error;
mod events;
mod health;
mod ingest;
mod metrics;
pub mod openapi;
mod queues;
mod quota;
mod request_id;
mod results;
mod stats;
mod status;

use std::sync::Arc;
use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::figment::Figment;
use rocket::figment::providers::Serialized;
use rocket::{Build, Rocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::error::{Code, Problem};
use crate::analytics::Analytics;
use crate::clock::Clock;
use crate::events::Events;
use crate::jobs::Jobs;
use crate::quota::{Quota, Shared};
use crate::telemetry::Metrics;

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct HttpState {
    /// The queues, and the store beneath.
    pub jobs: Jobs,
    /// All events.
    pub events: Events,
    /// Questions about them.
    pub analytics: Analytics,
    /// Counts requests, and is what `/metrics` shows.
    pub metrics: Metrics,
    /// The time for deadlines and waits.
    pub clock: Clock,
    /// How much each client may ask for.
    pub quota: Quota,
    /// What nodes share, for `/ready`.
    pub shared: Shared,
    /// The bounds of the edge.
    pub limits: HttpLimits,
    /// Memory of all request bodies that are being read or parsed.
    bodies: Arc<body::Budget>,
    /// One permit for each long poll and each event stream.
    waiters: Arc<Semaphore>,
    /// A number of this run of the process; of the store, where several nodes share one.
    run: u64,
}

/// The bounds of the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpLimits {
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// The most memory that all request bodies may take together, in bytes.
    pub max_bodies: usize,
    /// The most time for reading one body, from its fifteenth byte on (the framework waits for
    /// those before it without a bound).
    pub body_deadline: Duration,
    /// The most long polls and event streams at once.
    pub max_waiters: usize,
    /// The most buckets of an answer.
    pub max_buckets: usize,
    /// How often an event stream without news sends a comment.
    pub heartbeat: Duration,
}

impl HttpLimits {
    /// The defaults, around the one bound that is a setting.
    #[must_use]
    pub const fn new(max_body: u64) -> Self {
        Self {
            max_body,
            max_bodies: 256 * 1024 * 1024,
            body_deadline: Duration::from_secs(30),
            max_waiters: 10_000,
            max_buckets: 100_000,
            heartbeat: Duration::from_secs(5),
        }
    }
}

impl HttpState {
    /// With the default bounds, no quota, and bodies of at most `max_body` bytes.
    #[must_use]
    pub fn new(jobs: Jobs, metrics: Metrics, clock: Clock, max_body: u64) -> Self {
        Self::with_limits(jobs, metrics, clock, HttpLimits::new(max_body))
    }

    /// With bounds of the caller's own.
    #[must_use]
    pub fn with_limits(jobs: Jobs, metrics: Metrics, clock: Clock, limits: HttpLimits) -> Self {
        let shared_by = jobs.store().shared_by();
        Self {
            events: jobs.events().clone(),
            analytics: jobs.analytics(),
            jobs,
            metrics,
            clock,
            quota: Quota::Off,
            shared: Shared::Nothing,
            limits,
            bodies: Arc::new(body::Budget::new(limits.max_bodies)),
            waiters: Arc::new(Semaphore::new(limits.max_waiters)),
            run: shared_by.unwrap_or_else(|| fastrand::u64(..)),
        }
    }

    /// A place among those that wait, bounded so that they can't take all memory.
    fn waiter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.waiters).try_acquire_owned().map_err(|_| {
            let limit = self.limits.max_waiters;
            Problem::new(
                Code::RateLimited,
                format!(
                    "{limit} requests wait for changes, and no more may. \
                     Read without waiting, or try again in a moment."
                ),
            )
            .retry_after(Duration::from_secs(1))
            .quota("waiting-requests", limit as u64)
        })
    }

    /// How many more long polls and event streams there may be.
    #[must_use]
    pub fn free_waiters(&self) -> usize {
        self.waiters.available_permits()
    }
}

/// The server with every route of the contract, not yet started.
///
/// Rocket's own log of requests is off: it costs as much as half a request, and prints bodies of
/// refused requests.
#[must_use]
pub fn rocket(figment: Figment, state: HttpState) -> Rocket<Build> {
    let figment = figment
        .merge(Serialized::global("log_level", "off"))
        .merge(Serialized::global("cli_colors", false));
    rocket::custom(figment)
        .attach(edge::Edge::new(&state))
        .manage(state)
        .attach(stage())
}

/// All resources.
fn stage() -> AdHoc {
    AdHoc::on_ignite("http", |rocket| async {
        rocket
            .attach(error::stage())
            .attach(health::stage())
            .attach(ingest::stage())
            .attach(status::stage())
            .attach(queues::stage())
            .attach(results::stage())
            .attach(events::stage())
            .attach(dead_letters::stage())
            .attach(stats::stage())
            .attach(analytics::stage())
            .attach(metrics::stage())
            .attach(openapi::stage())
            .attach(docs::stage())
            .attach(dashboard::stage())
    })
}
