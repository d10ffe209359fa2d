//! Accepting a submission: room in the queue, the key that was seen before, the first start.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;
use uuid::Uuid;

use super::live::QueueHandle;
use super::{Jobs, decide};
use crate::model::change::{Change, IdempotencyRecord};
use crate::model::id::{Arrival, IngestionId};
use crate::model::ingestion::{Extras, Ingestion};
use crate::model::priority::Priority;
use crate::model::queue::QueueId;
use crate::quota::Shared;
use crate::quota::claim::{Answer, Claimed};
use crate::store::{Room, StoreError};
use crate::telemetry::counted;

/// How long an `Idempotency-Key` is remembered.
pub const KEEP_KEYS: Duration = Duration::from_hours(24);

/// The longest that a submission waits for the scheduler of an idle queue to take it up. Reached
/// only if the disk takes that long; the submission itself is durable already.
const TAKE_UP: Duration = Duration::from_secs(2);

/// How often a submission is tried again for which other nodes were faster.
const TRIES: u32 = 3;

/// A request to accept ids. Every field is legal already.
#[derive(Clone, Debug)]
pub struct Submission {
    /// 1 to [`crate::model::ingestion::MAX_IDS`] ids.
    pub ids: Arc<[i64]>,
    /// Its urgency.
    pub priority: Priority,
    /// Into which queue.
    pub queue: QueueId,
    /// Metadata, callback, deadline.
    pub extras: Option<Box<Extras>>,
    /// The hashes of the `Idempotency-Key` and of the body.
    pub idempotency: Option<Idempotency>,
}

/// Under which key a repetition of a submission is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idempotency {
    /// A hash of the key.
    pub key: u128,
    /// A hash of the body's bytes.
    pub body: u128,
}

impl Idempotency {
    /// What a repetition gets: the first answer, if it has the same body.
    fn repeated(self, first: Answer) -> Result<IngestionId, SubmitError> {
        if first.body == self.body {
            Ok(first.ingestion)
        } else {
            Err(SubmitError::KeyReused)
        }
    }
}

/// Why a submission was refused. Nothing of it is kept.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// It alone has more batches than may wait in its queue: it can never be taken.
    #[error("queue {queue:?} takes at most {limit} waiting batches of {batch_size} ids")]
    TooLarge {
        /// Which queue.
        queue: String,
        /// How many batches may wait.
        limit: u64,
        /// The most ids in one of them.
        batch_size: u16,
    },
    /// The queue holds as many waiting batches as it may.
    #[error("queue {queue:?} holds {waiting} waiting batches and takes at most {limit}")]
    QueueFull {
        /// Which queue.
        queue: String,
        /// How many wait.
        waiting: u64,
        /// How many may.
        limit: u64,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The key was used with another body.
    #[error("this Idempotency-Key was used with another body")]
    KeyReused,
    /// A request with this key is being answered now.
    #[error("a request with this Idempotency-Key is still in flight")]
    KeyInFlight,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Jobs {
    /// Accepts a submission: durable, visible, and (on an idle queue) its first batch started,
    /// when this returns.
    pub async fn submit(&self, submission: Submission) -> Result<IngestionId, SubmitError> {
        let Some(key) = submission.idempotency else {
            return self.submit_new(submission).await;
        };
        // While the claim is held, nobody else can be between looking the key up and committing it.
        let _claim =
            KeyClaim::new(&self.0.keys_in_flight, key.key).ok_or(SubmitError::KeyInFlight)?;
        let shared = self.0.shared.get().unwrap_or(&Shared::Nothing);
        let claim = match shared.claim(key.key).await {
            Claimed::Mine(claim) => claim,
            Claimed::Answered(answer) => return key.repeated(answer),
            // Its node may have died right after the commit.
            Claimed::InFlight => {
                let kept = self.kept_answer(key).await?;
                return kept.map_or(Err(SubmitError::KeyInFlight), |kept| key.repeated(kept));
            }
        };
        let done = match self.kept_answer(key).await {
            Ok(Some(kept)) => key.repeated(kept),
            Ok(None) => {
                let done = match self.submit_new(submission).await {
                    // Another node was first, after this one had looked.
                    Err(SubmitError::Store(StoreError::KeyTaken)) => {
                        match self.kept_answer(key).await {
                            Ok(Some(kept)) => key.repeated(kept),
                            Ok(None) => Err(SubmitError::KeyInFlight),
                            Err(error) => Err(error.into()),
                        }
                    }
                    done => done,
                };
                if let Ok(ingestion) = done {
                    let body = key.body;
                    claim.answered(Answer { body, ingestion }, KEEP_KEYS).await;
                    return Ok(ingestion);
                }
                done
            }
            Err(error) => Err(error.into()),
        };
        claim.release().await;
        done
    }

    /// What the store has under this key.
    async fn kept_answer(&self, key: Idempotency) -> Result<Option<Answer>, StoreError> {
        let now = self.0.clock.now().wall;
        let kept = self.0.store.kept_answer(key.key, now).await?;
        Ok(kept.map(|kept| Answer {
            body: kept.body,
            ingestion: kept.ingestion,
        }))
    }

    async fn submit_new(&self, submission: Submission) -> Result<IngestionId, SubmitError> {
        let inner = &self.0;
        let Some(handle) = inner.live.handle(submission.queue) else {
            return Err(StoreError::Closed.into());
        };
        let batches = decide::batch_count(submission.ids.len(), &handle.settings);
        let mut tries = 1..=TRIES;
        loop {
            // Whether there is room is decided on what all nodes have accepted.
            inner.store.sync().await?;
            let reservation = self.reserve(submission.queue, handle, batches)?;
            let ingestion = self.ingestion(&submission, handle);
            let (id, now) = (ingestion.id, ingestion.created_at);
            let change = Change::Submitted {
                ingestion,
                idempotency: submission.idempotency.map(|key| IdempotencyRecord {
                    key: key.key,
                    body: key.body,
                    expires_at: now.plus(KEEP_KEYS),
                }),
            };
            let mut moved = handle.moved.subscribe();
            moved.mark_unchanged();
            match inner.store.submit(change, reservation.room).await {
                // Other nodes were faster: perhaps there is still room.
                Err(StoreError::QueueFull) if tries.next().is_some() => continue,
                Err(StoreError::QueueFull) => {
                    return Err(self.full(submission.queue, handle, reservation.waiting));
                }
                done => done?,
            }
            drop(reservation);
            self.tell_accepted(id, submission.queue, submission.priority, batches);
            self.taken_up(submission.queue, handle, moved).await;
            return Ok(id);
        }
    }

    fn ingestion(&self, submission: &Submission, handle: &QueueHandle) -> Ingestion {
        Ingestion {
            id: IngestionId::new(Uuid::now_v7()),
            arrival: Arrival(0),
            created_at: self.0.clock.now().wall,
            ids: Arc::clone(&submission.ids),
            extras: submission.extras.clone(),
            runs: None,
            queue: submission.queue,
            batch_size: handle.settings.batch_size,
            priority: submission.priority,
        }
    }

    /// Holds room for `batches` in the queue until they are in the registry.
    fn reserve<'a>(
        &self,
        id: QueueId,
        handle: &'a QueueHandle,
        batches: u64,
    ) -> Result<Reservation<'a>, SubmitError> {
        let (limit, batch_size) = (handle.settings.max_waiting, handle.settings.batch_size);
        if batches > limit {
            return Err(SubmitError::TooLarge {
                queue: self.name_of(id).to_owned(),
                limit,
                batch_size: batch_size.get(),
            });
        }
        // Reserved first: two that race for the last room may both be refused, never both let in.
        let reserved = handle.reserved.fetch_add(batches, Ordering::AcqRel) + batches;
        let registry = self.0.live.registry.read();
        let queue = registry.queue(id);
        let waiting = queue.map_or(0, |queue| {
            queue.waiting().iter().sum::<u64>() + queue.retrying() as u64
        });
        let reservation = Reservation {
            reserved: &handle.reserved,
            batches,
            waiting,
            room: Room {
                queue: id,
                after: registry.arrived(),
                batches: limit.saturating_sub(waiting),
            },
        };
        if waiting + reserved > limit {
            return Err(self.full(id, handle, waiting));
        }
        Ok(reservation)
    }

    fn full(&self, queue: QueueId, handle: &QueueHandle, waiting: u64) -> SubmitError {
        SubmitError::QueueFull {
            queue: self.name_of(queue).to_owned(),
            waiting,
            limit: handle.settings.max_waiting,
            retry_after: handle.settings.interval.max(Duration::from_secs(1)),
        }
    }

    /// If the queue could start a batch now, waits until its scheduler has looked: after a POST to an
    /// idle queue has been answered, a GET reads `triggered`.
    /// Where another node schedules, it waits for a move of the queue (`moved`, since before the commit).
    async fn taken_up(
        &self,
        queue: QueueId,
        handle: &QueueHandle,
        mut moved: watch::Receiver<u64>,
    ) {
        let inner = &self.0;
        let open = handle.opens_at() <= inner.clock.now().mono;
        let room = {
            let registry = inner.live.registry.read();
            let running = registry.queue(queue).map_or(0, |queue| queue.running.len());
            running < handle.settings.max_in_flight.get() as usize
        };
        if !open || !room || *inner.stopping.borrow() {
            return;
        }
        if handle.leads.load(Ordering::Acquire) {
            let target = handle.applied.load(Ordering::Acquire);
            let mut considered = handle.considered.subscribe();
            let _ =
                tokio::time::timeout(TAKE_UP, considered.wait_for(|seen| *seen >= target)).await;
        } else {
            let _ = tokio::time::timeout(TAKE_UP, moved.changed()).await;
        }
    }

    fn name_of(&self, queue: QueueId) -> &str {
        let mut queues = self.0.queues.iter();
        queues
            .find(|(_, known)| **known == queue)
            .map_or("", |(name, _)| name.as_str())
    }

    fn tell_accepted(&self, id: IngestionId, queue: QueueId, priority: Priority, batches: u64) {
        let name = self.name_of(queue);
        self.0.metrics.submitted(name, priority);
        match self.0.accepted.count(self.0.clock.now().mono) {
            Some(0) => {
                tracing::info!(queue = %name, ingestion = %id, "accepted {}, {}", counted(batches, "batch", "batches"), priority.as_str());
            }
            Some(more) => tracing::info!(
                queue = %name,
                "accepted {more} more ingestions in the last second"
            ),
            None => {}
        }
    }
}

/// Room in a queue, given back when dropped.
struct Reservation<'a> {
    reserved: &'a AtomicU64,
    batches: u64,
    /// How many waited when it was made.
    waiting: u64,
    /// In all, of which this is a part.
    room: Room,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.batches, Ordering::AcqRel);
    }
}

/// An `Idempotency-Key` in use, released when dropped.
struct KeyClaim<'a> {
    keys: &'a Mutex<HashSet<u128>>,
    key: u128,
}

impl<'a> KeyClaim<'a> {
    fn new(keys: &'a Mutex<HashSet<u128>>, key: u128) -> Option<Self> {
        let fresh = keys.lock().insert(key);
        // Not `then_some`: a claim that was never made must not be released.
        fresh.then(|| Self { keys, key })
    }
}

impl Drop for KeyClaim<'_> {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

/// Keeps the log readable: ten accepted ingestions a second are told one by one, the others as a
/// number in the next second.
#[derive(Debug, Default)]
pub(super) struct AcceptLog(Mutex<(u64, u64)>);

impl AcceptLog {
    const ONE_BY_ONE: u64 = 10;

    /// `Some(0)`: tell of this one. `Some(n)`: tell of `n` that were not told. `None`: say nothing.
    fn count(&self, now: Duration) -> Option<u64> {
        let (second, told) = &mut *self.0.lock();
        let untold = told.saturating_sub(Self::ONE_BY_ONE);
        if now.as_secs() != *second {
            *second = now.as_secs();
            *told = 1;
            return Some(untold);
        }
        *told += 1;
        (*told <= Self::ONE_BY_ONE).then_some(0)
    }
}
