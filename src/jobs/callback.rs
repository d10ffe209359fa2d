//! Tells a client's own server that an ingestion has ended.
//!
//! Best effort: a callback is tried a few times and then given up with a warning in the log. It is
//! kept in memory only, so one that was not delivered when the process stopped is not sent again.
//! The truth is in the ingestion's status; a callback only saves its reader from asking for it.

#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::jobs::outbound::{Limits, Outbound, retry_after};
use crate::jobs::retry;
use crate::model::batch::BatchStatus;
use crate::model::id::IngestionId;
use crate::model::ingestion::Progress;
use crate::model::queue::RetryPolicy;
use crate::model::time::Timestamp;

/// The most callbacks that are kept, waiting ones and those between two attempts included.
const MAX_PENDING: usize = 10_000;

/// The most requests at once.
const MAX_CONCURRENT: usize = 8;

/// When a callback is tried again: after about 1, 2, 4 and 8 seconds.
const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: NonZeroU32::MIN.saturating_add(4),
    min_backoff: Duration::from_secs(1),
    max_backoff: Duration::from_mins(1),
    max_doublings: 6,
};

/// The news that an ingestion has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callback {
    /// Where it is posted: an `http` or `https` URL.
    pub url: Box<str>,
    /// Which ingestion.
    pub ingestion: IngestionId,
    /// How its batches ended; says the overall status, too.
    pub progress: Progress,
    /// When the last batch ended.
    pub completed_at: Timestamp,
}

/// The JSON body of a callback.
#[derive(Serialize)]
struct Body {
    ingestion_id: IngestionId,
    status: BatchStatus,
    progress: Ends,
    completed_at: Timestamp,
}

/// How many batches ended in which way. There are no others: the ingestion has ended.
#[derive(Serialize)]
struct Ends {
    total: u32,
    completed: u32,
    failed: u32,
    cancelled: u32,
    expired: u32,
}

impl From<&Callback> for Body {
    fn from(callback: &Callback) -> Self {
        let progress = &callback.progress;
        Self {
            ingestion_id: callback.ingestion,
            status: progress.status(),
            progress: Ends {
                total: progress.total,
                completed: progress.completed,
                failed: progress.failed,
                cancelled: progress.cancelled,
                expired: progress.expired,
            },
            completed_at: callback.completed_at,
        }
    }
}

/// Sends callbacks in the background. Cheap to clone; when the last clone is dropped, what was not
/// delivered is given up.
#[derive(Clone, Debug)]
pub struct Callbacks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    /// One task a callback; dropping them ends them.
    tasks: Mutex<JoinSet<()>>,
    max_pending: usize,
    delivery: Arc<Delivery>,
}

/// What the tasks share. It must not hold `Inner`, or that would never be dropped.
#[derive(Debug)]
struct Delivery {
    clock: Clock,
    timeout: Duration,
    slots: Semaphore,
    /// Made with the first callback, because reading the machine's root certificates takes a
    /// while and few services ever send one.
    outbound: OnceLock<Result<Outbound, String>>,
}

impl Callbacks {
    /// Sends nothing yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(clock: Clock) -> Self {
        Self::with_limits(clock, MAX_PENDING, Duration::from_secs(10))
    }

    fn with_limits(clock: Clock, max_pending: usize, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            runtime: Handle::current(),
            tasks: Mutex::default(),
            max_pending,
            delivery: Arc::new(Delivery {
                clock,
                timeout,
                slots: Semaphore::new(MAX_CONCURRENT),
                outbound: OnceLock::new(),
            }),
        }))
    }

    /// Returns at once, from any thread. While 10,000 callbacks are on their way, a further one is
    /// dropped with a warning.
    pub fn send(&self, callback: Callback) {
        let Inner {
            runtime,
            tasks,
            max_pending,
            delivery,
        } = &*self.0;
        let mut tasks = tasks.lock();
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= *max_pending {
            warn!(
                ingestion = %callback.ingestion,
                "callback dropped: {max_pending} others are on their way"
            );
            return;
        }
        let delivery = Arc::clone(delivery);
        tasks.spawn_on(async move { delivery.deliver(&callback).await }, runtime);
    }
}

/// Why an attempt failed, and when the server wants the next one.
type Miss = (String, Option<Duration>);

impl Delivery {
    /// Ends after at most five attempts, each of which has a bound.
    async fn deliver(&self, callback: &Callback) {
        let ingestion = callback.ingestion;
        for attempt in 1.. {
            let (reason, asked) = match self.attempt(callback).await {
                Ok(()) => {
                    debug!(%ingestion, attempt, "callback delivered");
                    return;
                }
                Err(miss) => miss,
            };
            let Some(wait) = retry::backoff(&RETRY, attempt, asked, fastrand::f64()) else {
                warn!(%ingestion, attempt, "callback given up: {reason}");
                return;
            };
            debug!(%ingestion, attempt, ?wait, "callback failed: {reason}");
            self.clock.sleep(wait).await;
        }
    }

    /// One request. The slot is held for it alone, not for the wait until the next attempt: a
    /// server that is down must not keep the others waiting.
    async fn attempt(&self, callback: &Callback) -> Result<(), Miss> {
        let none = |reason| (reason, None);
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|error| none(error.to_string()))?;
        let outbound = self
            .outbound
            .get_or_init(|| client(self.timeout))
            .as_ref()
            .map_err(|reason| none(reason.clone()))?;
        let response = outbound
            .client()
            .post(&*callback.url)
            .header("Idempotency-Key", format!("{}:ended", callback.ingestion))
            .json(&Body::from(callback))
            .send()
            .await
            .map_err(|error| none(outbound.sentence(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let asked = retry_after(response.headers(), self.clock.now().wall);
        Err((outbound.answered(status), asked))
    }
}

/// Redirects are not followed: the client named the server that is to be told.
fn client(timeout: Duration) -> Result<Outbound, String> {
    let limits = Limits {
        peer: "callback server",
        connect_timeout: timeout.min(Duration::from_secs(2)),
        timeout,
        redirects: 0,
    };
    Outbound::new(limits, false)
}
