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

mod attempt;
mod booking;
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
mod refusals;
mod registry;
pub mod results;
pub mod retry;
mod runner;
mod scheduler;
#[cfg(test)]
mod simulation;
mod submit;
mod thread;
mod view;

pub use submit::{Idempotency, KEEP_KEYS, Submission, SubmitError};
pub use view::{BatchView, Moved, Outlook, QueueView, View, Watch};

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::callback::Callbacks;
use self::live::{Live, QueueHandle};
use self::processor::Processor;
use self::refusals::Refusals;
use self::runner::Runner;
use self::submit::AcceptLog;
use self::thread::SchedulerThread;
use crate::analytics::Analytics;
use crate::clock::Clock;
use crate::events::{Events, EventsSettings};
use crate::model::change::Change;
use crate::model::queue::{ProcessorSettings, QueueId, QueueName, QueueSettings};
use crate::quota::Shared;
#[cfg(feature = "cluster")]
use crate::store::SharedSettings;
use crate::store::{OpenError, Store, StoreError, StoreSettings, Term};
use crate::telemetry::Metrics;

/// How often it is tried to record the queues.
const CONFIGURE: u32 = 5;

/// What the queues are made from.
#[derive(Clone, Debug)]
pub struct JobsSettings {
    /// Every queue; `default` among them.
    pub queues: BTreeMap<QueueName, QueueSettings>,
    /// How long an ended ingestion stays in memory.
    pub keep_ended: Duration,
    /// How long an ended ingestion can be read at all.
    pub retention: Duration,
    /// The bounds of events: results are kept as such, in the same store.
    pub events: EventsSettings,
}

/// The handle to all queues. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    live: Arc<Live>,
    store: Store,
    events: Events,
    clock: Clock,
    metrics: Metrics,
    queues: BTreeMap<QueueName, QueueId>,
    /// Keys whose first request is still being answered.
    keys_in_flight: Mutex<HashSet<u128>>,
    /// Where the keys of other nodes are found.
    shared: OnceLock<Shared>,
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
        let live = Arc::new(Live::new(clock.clone()));
        let store = {
            let (live, store) = (Arc::clone(&live), store.clone());
            let open = move || Store::open(&store, move |changes| live.apply(changes));
            tokio::task::spawn_blocking(open)
                .await
                .map_err(|error| OpenError(error.to_string()))??
        };
        Self::open_over(store, live, settings, clock, metrics).await
    }

    /// The same over a database that other nodes share.
    #[cfg(feature = "cluster")]
    pub async fn open_shared(
        settings: JobsSettings,
        store: &SharedSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let live = Arc::new(Live::new(clock.clone()));
        let apply = {
            let live = Arc::clone(&live);
            move |changes| live.apply(changes)
        };
        let store = Store::connect(store, clock.clone(), apply).await?;
        Self::open_over(store, live, settings, clock, metrics).await
    }

    async fn open_over(
        store: Store,
        live: Arc<Live>,
        settings: JobsSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let queues = configure_queues(&store, &live, &settings).await?;
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
        tell_found(&live);
        let events = Events::new(
            store.clone(),
            clock.clone(),
            metrics.clone(),
            settings.events.clone(),
        );
        let jobs = Self(Arc::new(Inner {
            live,
            store,
            events,
            clock: clock.clone(),
            metrics,
            queues,
            keys_in_flight: Mutex::default(),
            shared: OnceLock::new(),
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
        let thread = SchedulerThread::start()
            .map_err(|error| OpenError(format!("the schedulers have no thread: {error}")))?;
        let mut tasks = Vec::new();
        for (name, queue) in &inner.queues {
            let Some(settings) = settings.queues.get(name) else {
                continue;
            };
            let processor = Processor::new(&settings.processor, inner.clock.clone())
                .map_err(|error| OpenError(format!("queue {name:?}: {error}")))?;
            let runner = Runner {
                queue: *queue,
                name: name.clone(),
                live: Arc::clone(&inner.live),
                store: inner.store.clone(),
                events: inner.events.clone(),
                clock: inner.clock.clone(),
                metrics: inner.metrics.clone(),
                callbacks: callbacks.clone(),
                processor: Arc::new(processor),
                settings: settings.clone(),
                term: Term::NONE,
                workers: Handle::current(),
                stopping: inner.stopping.subscribe(),
                refusals: Refusals::default(),
            };
            tasks.push(thread.spawn(runner.run()));
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

    /// From now on, `Idempotency-Key`s are looked up among those of other nodes, too. The first call
    /// counts.
    pub fn share_keys(&self, shared: Shared) {
        self.0.shared.get_or_init(|| shared);
    }

    /// Starts no more batches, waits until those that run have ended or `grace` is over (they are
    /// then started again after the next start), and closes the store. All of it takes no longer
    /// than `limit`, also on a disk that hangs: what was acknowledged is on it already.
    pub async fn stop(&self, grace: Duration, limit: Duration) {
        self.0.stopping.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        let stopped = async {
            let all = async {
                for task in &mut tasks {
                    let _ = task.await;
                }
            };
            if tokio::time::timeout(grace, all).await.is_err() {
                // The schedulers' thread ends with its tasks.
                tasks.iter().for_each(JoinHandle::abort);
            }
            self.0.store.close().await;
        };
        if tokio::time::timeout(limit, stopped).await.is_err() {
            tracing::warn!(
                "the disk does not answer: stopped without closing the store; nothing that was acknowledged is lost"
            );
        }
    }

    /// Whether every scheduler runs.
    #[must_use]
    pub fn schedulers_run(&self) -> bool {
        let tasks = self.0.tasks.lock();
        !tasks.is_empty() && tasks.iter().all(|task| !task.is_finished())
    }

    /// The handle to the questions about events.
    #[must_use]
    pub fn analytics(&self) -> Analytics {
        Analytics::new(self.0.store.clone(), self.0.clock.clone())
    }

    /// The events beside the jobs, the results of their work among them.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.0.events
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
}

/// Gives every configured queue its number, and puts those into the store that are not there.
async fn configure_queues(
    store: &Store,
    live: &Live,
    settings: &JobsSettings,
) -> Result<BTreeMap<QueueName, QueueId>, OpenError> {
    let mut refused = None;
    // Another node may give the same number to another name at the same time: then the store refuses the
    // later one, and it is looked again.
    for _ in 0..CONFIGURE {
        let queues = number_queues(live, settings)?;
        let missing = {
            let registry = live.registry.read();
            let missing = queues.iter().filter(|(name, queue)| {
                registry
                    .queue(**queue)
                    .is_none_or(|known| known.name != **name)
            });
            let missing = missing.map(|(name, queue)| Change::QueueConfigured {
                queue: *queue,
                name: name.clone(),
                last_slot: None,
            });
            missing.collect::<Vec<_>>()
        };
        if missing.is_empty() {
            return Ok(queues);
        }
        match store.commit(missing).await {
            Ok(()) => return Ok(queues),
            Err(error) => refused = Some(error),
        }
        if let Err(error) = store.sync().await {
            refused = Some(error);
        }
    }
    let refused = refused.unwrap_or(StoreError::Busy);
    Err(OpenError(format!(
        "the queues could not be recorded: {refused}"
    )))
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

/// Says what an earlier run of the process left behind.
fn tell_found(live: &Live) {
    let registry = live.registry.read();
    for (_, queue) in registry.queues().filter(|(_, queue)| queue.ingestions > 0) {
        let (unfinished, retrying) = (queue.ingestions, queue.retrying());
        let ready: u64 = queue.waiting().iter().sum();
        tracing::info!(
            queue = %queue.name,
            "found {unfinished} unfinished ingestions: {ready} batches can start, {retrying} wait to be tried again"
        );
    }
}

/// How long a run is expected to take before any has been seen.
fn typical_run(settings: &QueueSettings) -> Duration {
    match &settings.processor {
        ProcessorSettings::Simulate(simulate) => (simulate.min + simulate.max) / 2,
        ProcessorSettings::Http(_) => Duration::ZERO,
    }
}
