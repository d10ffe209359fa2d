//! Jobs: from a submission to its last batch.
//!
//! ```text
//! submit ──decide──▶ Store::commit ──▶ Live::apply ──▶ answer
//!                         ▲                 │ wakes
//!                         │                 ▼
//!                      Runner ◀── tick ── Scheduler        one of each for every queue
//!                         │
//!                         └──▶ Processor ──▶ (ended) ──▶ Runner
//! ```

pub mod callback;
mod decide;
mod heap;
mod housekeeping;
mod live;
mod outbound;
mod outlook;
mod pace;
mod position;
pub mod processor;
mod registry;
pub mod retry;
mod runner;
mod scheduler;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::callback::Callbacks;
use self::live::{Live, QueueHandle};
use self::processor::Processor;
use self::runner::Runner;
use self::scheduler::Scheduler;
use crate::clock::Clock;
use crate::model::batch::{BatchRun, BatchStatus};
use crate::model::change::{Change, IdempotencyRecord};
use crate::model::id::{Arrival, BatchIndex, IngestionId};
use crate::model::ingestion::{Extras, Ingestion, Progress};
use crate::model::priority::Priority;
use crate::model::queue::{ProcessorSettings, QueueId, QueueName, QueueSettings};
use crate::model::time::Timestamp;
use crate::store::{OpenError, Store, StoreError, StoreSettings};
use crate::telemetry::Metrics;

/// How long an `Idempotency-Key` is remembered.
pub const KEEP_KEYS: Duration = Duration::from_hours(24);

/// The longest that a submission waits for the scheduler of an idle queue to take it up. Reached
/// only if the disk takes that long; the submission itself is durable already.
const TAKE_UP: Duration = Duration::from_secs(2);

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

/// Why a submission was refused. Nothing of it is kept.
#[derive(Debug, Error)]
pub enum SubmitError {
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

/// One reading of an ingestion, consistent in itself.
#[derive(Clone, Debug)]
pub struct View {
    /// The ingestion without its runs (`runs` is `None`): ids, metadata, times.
    pub ingestion: Ingestion,
    /// Its queue.
    pub queue: QueueName,
    /// How many batches are in which state; `progress.status()` is the overall status.
    pub progress: Progress,
    /// When the first batch started.
    pub started_at: Option<Timestamp>,
    /// When the last batch ended.
    pub ended_at: Option<Timestamp>,
    /// The batches of the range that was asked for, in order.
    pub batches: Vec<BatchView>,
    /// What is still to come; `None` once it has ended.
    pub outlook: Option<Outlook>,
}

/// One batch of a [`View`]; its ids are `ingestion.ids_of(index)`.
#[derive(Clone, Debug)]
pub struct BatchView {
    /// Which one.
    pub index: BatchIndex,
    /// Its status.
    pub status: BatchStatus,
    /// Its latest run, if it was ever started.
    pub run: Option<BatchRun>,
}

/// What is still to come for an ingestion.
#[derive(Clone, PartialEq, Debug)]
pub struct Outlook {
    /// How many batches of this queue go before the next batch of this ingestion; `None` when
    /// none of its batches waits.
    pub position: Option<u64>,
    /// The estimated time until its last batch has ended.
    pub eta: Duration,
    /// Why nothing of it starts at this moment, in words; `None` when nothing waits.
    pub waiting_reason: Option<String>,
}

/// One thing that happened to a watched ingestion: a batch that moved (or a rest that ended).
#[derive(Clone, Debug)]
pub struct Moved {
    /// The batch; `None` where all waiting ones ended at once.
    pub batch: Option<BatchView>,
    /// Counts and overall status after it.
    pub progress: Progress,
    /// Whether this was the last move: the ingestion has ended.
    pub ended: bool,
}

/// Follows one ingestion. Subscribe first, then read a [`View`]: so no change falls between.
#[derive(Debug)]
pub struct Watch(pub broadcast::Receiver<Moved>);

/// One reading of a queue.
#[derive(Clone, Debug)]
pub struct QueueView {
    /// Its name.
    pub name: QueueName,
    /// Its settings.
    pub settings: QueueSettings,
    /// Batches that wait for a slot, by [`Priority::rank`].
    pub waiting: [u64; 3],
    /// Batches that run now.
    pub running: u32,
    /// Batches between two attempts.
    pub retrying: u64,
    /// Ingestions in memory that have not ended.
    pub live_ingestions: u64,
    /// How long until the next slot opens; zero when it is open.
    pub next_slot_in: Duration,
}

/// What the queues are made from.
#[derive(Clone, Debug)]
pub struct JobsSettings {
    /// Every queue; `default` among them.
    pub queues: BTreeMap<QueueName, QueueSettings>,
    /// How long an ended ingestion stays in memory.
    pub keep_ended: Duration,
    /// How long an ended ingestion can be read at all.
    pub retention: Duration,
}

/// The handle to all queues. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    live: Arc<Live>,
    store: Store,
    clock: Clock,
    metrics: Metrics,
    queues: BTreeMap<QueueName, QueueId>,
    /// Keys whose first request is still being answered.
    keys_in_flight: Mutex<HashSet<u128>>,
    accepted: AcceptLog,
    stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Jobs {
    /// Opens the store, replays it, and starts every queue.
    ///
    /// # Errors
    /// One line for the operator: what is wrong with the data directory, a processor's settings, or
    /// a queue that has unfinished ingestions and is no longer configured.
    pub async fn open(
        settings: JobsSettings,
        store: &StoreSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let live = Arc::new(Live::default());
        let store = {
            let (live, store) = (Arc::clone(&live), store.clone());
            let open = move || Store::open(&store, move |changes| live.apply(changes));
            tokio::task::spawn_blocking(open)
                .await
                .map_err(|error| OpenError(error.to_string()))??
        };
        let queues = number_queues(&live, &settings)?;
        let configured = queues.iter().map(|(name, queue)| Change::QueueConfigured {
            queue: *queue,
            name: name.clone(),
            last_slot: None,
        });
        store
            .commit(configured.collect())
            .await
            .map_err(|error| OpenError(error.to_string()))?;
        let count = queues
            .values()
            .map(|queue| queue.index() + 1)
            .max()
            .unwrap_or(0);
        let mut handles: Vec<Option<QueueHandle>> = (0..count).map(|_| None).collect();
        for (name, queue) in &queues {
            if let (Some(place), Some(settings)) =
                (handles.get_mut(queue.index()), settings.queues.get(name))
            {
                *place = Some(QueueHandle::new(settings.clone(), typical_run(settings)));
            }
        }
        live.open(handles);
        let jobs = Self(Arc::new(Inner {
            live,
            store,
            clock: clock.clone(),
            metrics,
            queues,
            keys_in_flight: Mutex::default(),
            accepted: AcceptLog::default(),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
        }));
        jobs.start(&settings)?;
        Ok(jobs)
    }

    fn start(&self, settings: &JobsSettings) -> Result<(), OpenError> {
        let inner = &self.0;
        let callbacks = Callbacks::start(inner.clock.clone());
        let now = inner.clock.now();
        let mut tasks = Vec::new();
        for (name, queue) in &inner.queues {
            let Some(settings) = settings.queues.get(name) else {
                continue;
            };
            let processor = Processor::new(&settings.processor, inner.clock.clone())
                .map_err(|error| OpenError(format!("queue {name:?}: {error}")))?;
            let last_slot = inner
                .live
                .registry
                .read()
                .queue(*queue)
                .and_then(|queue| queue.last_slot);
            let scheduler = Scheduler::new(*queue, settings.clone(), last_slot, now);
            if let Some(handle) = inner.live.handle(*queue) {
                handle.set_opens_at(scheduler.opens_at());
            }
            let runner = Runner {
                queue: *queue,
                name: name.clone(),
                live: Arc::clone(&inner.live),
                store: inner.store.clone(),
                clock: inner.clock.clone(),
                metrics: inner.metrics.clone(),
                callbacks: callbacks.clone(),
                processor: Arc::new(processor),
                stopping: inner.stopping.subscribe(),
            };
            tasks.push(tokio::spawn(runner.run(scheduler)));
        }
        let keeper = housekeeping::Housekeeping {
            live: Arc::clone(&inner.live),
            store: inner.store.clone(),
            clock: inner.clock.clone(),
            keep_ended: settings.keep_ended,
            retention: settings.retention,
            stopping: inner.stopping.subscribe(),
        };
        tasks.push(tokio::spawn(keeper.run()));
        inner.tasks.lock().extend(tasks);
        Ok(())
    }

    /// Starts no more batches, waits until those that run have ended or `grace` is over (they are
    /// then started again after the next start), and closes the store.
    pub async fn stop(&self, grace: Duration) {
        self.0.stopping.send_replace(true);
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(grace, all).await;
        self.0.store.close().await;
    }

    /// Whether every scheduler runs.
    #[must_use]
    pub fn schedulers_run(&self) -> bool {
        let tasks = self.0.tasks.lock();
        !tasks.is_empty() && tasks.iter().all(|task| !task.is_finished())
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The number of a configured queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueId> {
        let inner = &self.0;
        inner
            .queues
            .iter()
            .find(|(known, _)| known.as_str() == name)
            .map(|(_, queue)| *queue)
    }

    /// Every queue, by name.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueView> {
        let inner = &self.0;
        let now = inner.clock.now();
        let registry = inner.live.registry.read();
        let view = |(name, id): (&QueueName, &QueueId)| {
            let (queue, handle) = (registry.queue(*id)?, inner.live.handle(*id)?);
            Some(QueueView {
                name: name.clone(),
                settings: handle.settings.clone(),
                waiting: queue.waiting(),
                running: u32::try_from(queue.running.len()).unwrap_or(u32::MAX),
                retrying: queue.retrying() as u64,
                live_ingestions: queue.ingestions,
                next_slot_in: handle.opens_at().saturating_sub(now.mono),
            })
        };
        inner.queues.iter().filter_map(view).collect()
    }

    /// Accepts a submission: durable, visible, and (on an idle queue) its first batch started,
    /// when this returns.
    pub async fn submit(&self, submission: Submission) -> Result<IngestionId, SubmitError> {
        let Some(key) = submission.idempotency else {
            return self.submit_new(submission).await;
        };
        // While the claim is held, nobody else can be between looking the key up and committing it.
        let _claim =
            KeyClaim::new(&self.0.keys_in_flight, key.key).ok_or(SubmitError::KeyInFlight)?;
        match self
            .0
            .store
            .kept_answer(key.key, self.0.clock.now().wall)
            .await?
        {
            Some(kept) if kept.body == key.body => Ok(kept.ingestion),
            Some(_) => Err(SubmitError::KeyReused),
            None => self.submit_new(submission).await,
        }
    }

    async fn submit_new(&self, submission: Submission) -> Result<IngestionId, SubmitError> {
        let inner = &self.0;
        let Some(handle) = inner.live.handle(submission.queue) else {
            return Err(StoreError::Closed.into());
        };
        let now = inner.clock.now();
        let batches = decide::batch_count(submission.ids.len(), &handle.settings);
        let reservation = self.reserve(submission.queue, handle, batches)?;
        let id = IngestionId::new(Uuid::now_v7());
        let priority = submission.priority;
        let change = Change::Submitted {
            ingestion: Ingestion {
                id,
                arrival: Arrival(0),
                created_at: now.wall,
                ids: submission.ids,
                extras: submission.extras,
                runs: None,
                queue: submission.queue,
                batch_size: handle.settings.batch_size,
                priority,
            },
            idempotency: submission.idempotency.map(|key| IdempotencyRecord {
                key: key.key,
                body: key.body,
                expires_at: now.wall.plus(KEEP_KEYS),
            }),
        };
        inner.store.commit(vec![change]).await?;
        drop(reservation);
        self.tell_accepted(id, submission.queue, priority, batches);
        self.taken_up(submission.queue, handle).await;
        Ok(id)
    }

    /// Holds room for `batches` in the queue until they are in the registry.
    fn reserve<'a>(
        &self,
        queue: QueueId,
        handle: &'a QueueHandle,
        batches: u64,
    ) -> Result<Reservation<'a>, SubmitError> {
        let limit = handle.settings.max_waiting;
        // Reserved first: two that race for the last room may both be refused, never both let in.
        let reserved = handle.reserved.fetch_add(batches, Ordering::AcqRel) + batches;
        let reservation = Reservation {
            reserved: &handle.reserved,
            batches,
        };
        let registry = self.0.live.registry.read();
        let Some(queue) = registry.queue(queue) else {
            return Err(StoreError::Closed.into());
        };
        let waiting = queue.waiting().iter().sum::<u64>() + queue.retrying() as u64;
        if waiting + reserved > limit {
            return Err(SubmitError::QueueFull {
                queue: queue.name.to_string(),
                waiting,
                limit,
                retry_after: handle.settings.interval.max(Duration::from_secs(1)),
            });
        }
        Ok(reservation)
    }

    /// If the queue could start a batch now, waits until its scheduler has looked: after a POST to an
    /// idle queue has been answered, a GET reads `triggered`.
    async fn taken_up(&self, queue: QueueId, handle: &QueueHandle) {
        let inner = &self.0;
        let open = handle.opens_at() <= inner.clock.now().mono;
        let room = {
            let registry = inner.live.registry.read();
            let running = registry.queue(queue).map_or(0, |queue| queue.running.len());
            running < handle.settings.max_in_flight.get() as usize
        };
        if open && room && !*inner.stopping.borrow() {
            let target = handle.applied.load(Ordering::Acquire);
            let mut considered = handle.considered.subscribe();
            let _ =
                tokio::time::timeout(TAKE_UP, considered.wait_for(|seen| *seen >= target)).await;
        }
    }

    fn tell_accepted(&self, id: IngestionId, queue: QueueId, priority: Priority, batches: u64) {
        let name = self
            .0
            .queues
            .iter()
            .find(|(_, known)| **known == queue)
            .map_or("", |(name, _)| name.as_str());
        self.0.metrics.submitted(name, priority);
        match self.0.accepted.count(self.0.clock.now().mono) {
            Some(0) => {
                tracing::info!(queue = name, ingestion = %id, "accepted {batches} batches, {}", priority.as_str());
            }
            Some(more) => tracing::info!(
                queue = name,
                "accepted {more} more ingestions in the last second"
            ),
            None => {}
        }
    }

    /// One ingestion with the batches of `range` (cut to what there is), from memory or, once it
    /// has left memory, from disk; `None` if there is no such ingestion.
    pub async fn view(
        &self,
        id: IngestionId,
        range: Range<u32>,
    ) -> Result<Option<View>, StoreError> {
        if let Some(view) = self.live_view(id, &range) {
            return Ok(Some(view));
        }
        let Some(ended) = self.0.store.ended(id).await? else {
            return Ok(None);
        };
        Ok(Some(self.view_of(&ended, &range, None)))
    }

    fn live_view(&self, id: IngestionId, range: &Range<u32>) -> Option<View> {
        let inner = &self.0;
        let registry = inner.live.registry.read();
        let ingestion = registry.get(id)?;
        let handle = inner.live.handle(ingestion.queue)?;
        let outlook = outlook::outlook(&registry, ingestion, handle.pace(), inner.clock.now());
        Some(self.view_of(ingestion, range, outlook))
    }

    fn view_of(&self, ingestion: &Ingestion, range: &Range<u32>, outlook: Option<Outlook>) -> View {
        let name = self
            .0
            .queues
            .iter()
            .find(|(_, queue)| **queue == ingestion.queue)
            .map(|(name, _)| name.clone());
        let batches = range.start..range.end.min(ingestion.batch_count());
        let head = Ingestion {
            ids: Arc::clone(&ingestion.ids),
            extras: ingestion.extras.clone(),
            runs: None,
            ..*ingestion
        };
        View {
            queue: name.unwrap_or_else(QueueName::former),
            progress: ingestion.progress(),
            started_at: ingestion.started_at(),
            ended_at: ingestion.ended_at(),
            batches: batches
                .map(|index| live::batch_view(ingestion, BatchIndex(index)))
                .collect(),
            outlook,
            ingestion: head,
        }
    }

    /// Follows an ingestion that has not ended; `None` if it isn't in memory, or if too many are
    /// watched already. A slow reader loses the oldest moves (`RecvError::Lagged`) and should read a
    /// view again.
    #[must_use]
    pub fn watch(&self, id: IngestionId) -> Option<Watch> {
        self.0.live.watch(id)
    }

    /// The newest ingestions in memory, newest first, at most `limit` and never more than 1,000, each
    /// without batches.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<View> {
        let inner = &self.0;
        let registry = inner.live.registry.read();
        let view = |ingestion: &Ingestion| {
            let pace = inner.live.handle(ingestion.queue)?.pace();
            let outlook = outlook::outlook(&registry, ingestion, pace, inner.clock.now());
            Some(self.view_of(ingestion, &(0..0), outlook))
        };
        registry.recent(limit).filter_map(view).collect()
    }
}

/// Gives every configured queue its number: the one in the store, or the next free one.
fn number_queues(
    live: &Live,
    settings: &JobsSettings,
) -> Result<BTreeMap<QueueName, QueueId>, OpenError> {
    let registry = live.registry.read();
    let mut known: BTreeMap<QueueName, QueueId> = BTreeMap::new();
    for (id, queue) in registry.queues() {
        if !settings.queues.contains_key(&queue.name) && queue.ingestions > 0 {
            return Err(OpenError(format!(
                "queue {:?} has {} unfinished ingestions and is not configured: add [default.tollgate.queues.{}]",
                queue.name.as_str(),
                queue.ingestions,
                queue.name
            )));
        }
        known.insert(queue.name.clone(), id);
    }
    let mut next = known.values().map(|queue| queue.0 + 1).max().unwrap_or(0);
    let number = |name: &QueueName| {
        let id = known.get(name).copied().unwrap_or_else(|| {
            next += 1;
            QueueId(next - 1)
        });
        (name.clone(), id)
    };
    Ok(settings.queues.keys().map(number).collect())
}

/// How long a run is expected to take before any has been seen.
fn typical_run(settings: &QueueSettings) -> Duration {
    match &settings.processor {
        ProcessorSettings::Simulate(simulate) => (simulate.min + simulate.max) / 2,
        ProcessorSettings::Http(_) => Duration::ZERO,
    }
}

/// Room in a queue, given back when dropped.
struct Reservation<'a> {
    reserved: &'a AtomicU64,
    batches: u64,
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
struct AcceptLog(Mutex<(u64, u64)>);

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
