//! The task of one queue: waits, commits what the scheduler decides, starts the work.
//!
//! It lives on the schedulers' own thread; the work is done by the runtime that serves requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::callback::{Callback, Callbacks};
use super::decide::Finished;
use super::live::{Live, QueueHandle};
use super::processor::{Failure, IdResult, Processor, Work};
use super::results;
use super::scheduler::{Outcome, Scheduler, Start};
use crate::clock::Clock;
use crate::events::Events;
use crate::model::batch::BatchStatus;
use crate::model::change::Change;
use crate::model::id::{BatchIndex, IngestionRef};
use crate::model::ingestion::Ingestion;
use crate::model::queue::{QueueId, QueueName};
use crate::model::time::Now;
use crate::store::{Store, StoreError};
use crate::telemetry::{Metrics, counted};

/// How long to wait after the store refused a commit.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The most ended attempts that are recorded in one commit.
const FINISHED_AT_ONCE: usize = 256;

/// The most ids of a batch that a line of the log names.
const TOLD_IDS: usize = 10;

/// What a queue's task works with.
pub(crate) struct Runner {
    pub(crate) queue: QueueId,
    pub(crate) name: QueueName,
    pub(crate) live: Arc<Live>,
    pub(crate) store: Store,
    /// Where results are kept.
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) callbacks: Callbacks,
    pub(crate) processor: Arc<Processor>,
    /// Where the work is done.
    pub(crate) workers: Handle,
    /// True once no more batches shall start.
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) refusals: Refusals,
}

/// The store's refusals as the log tells them: each kind once until a commit succeeds, not once a
/// second for as long as the disk is full.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Option<StoreError>);

impl Refusals {
    /// Whether the log has to say so.
    fn is_news(&mut self, error: &StoreError) -> bool {
        let news = self.0.as_ref() != Some(error);
        self.0 = Some(error.clone());
        news
    }

    /// Whether no later commit can succeed either.
    fn are_final(&self) -> bool {
        matches!(self.0, Some(StoreError::Closed | StoreError::Failed(_)))
    }

    /// A commit succeeded: whether the one before it did not.
    fn are_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

impl Runner {
    /// Runs until told to stop and nothing runs any more.
    pub(crate) async fn run(mut self, mut scheduler: Scheduler) {
        let live = Arc::clone(&self.live);
        let Some(handle) = live.handle(self.queue) else {
            return;
        };
        let mut finished: Vec<Finished> = Vec::new();
        let mut launching: Vec<Start> = Vec::new();
        let mut works: JoinSet<Finished> = JoinSet::new();
        loop {
            // Armed before anything is looked at: a submission from here on ends the wait below.
            let woken = handle.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let seen = handle.applied.load(std::sync::atomic::Ordering::Acquire);
            while finished.len() < FINISHED_AT_ONCE
                && let Some(attempt) = works.try_join_next()
            {
                finished.extend(attempt);
            }
            // Nobody left to say so is as good as having been told.
            let stopping = *self.stopping.borrow() || self.stopping.has_changed().is_err();
            if stopping && finished.is_empty() && launching.is_empty() && works.is_empty() {
                return;
            }
            // What the store takes no more is started again after the next start.
            if stopping && self.refusals.are_final() {
                return;
            }
            let until = if stopping && finished.is_empty() {
                None
            } else {
                let outcome = scheduler.tick(&live.registry, &finished, self.clock.now());
                match outcome {
                    Outcome::Commit(changes) => {
                        if self.commit(&changes).await {
                            self.tell(handle, &finished, &changes);
                            finished.clear();
                        }
                        continue;
                    }
                    Outcome::Start(start) => {
                        if self.commit(&start.changes).await {
                            launching.push(start);
                        } else {
                            scheduler.not_started(&start);
                        }
                        continue;
                    }
                    Outcome::Wait(until) => {
                        finished.clear();
                        until
                    }
                }
            };
            // Only now: until a start is committed, a submission must see its slot as open and wait.
            handle.set_opens_at(scheduler.opens_at());
            handle.considered.send_replace(seen);
            if !launching.is_empty() {
                self.launch(&mut scheduler, std::mem::take(&mut launching), &mut works)
                    .await;
                continue;
            }
            tokio::select! {
                () = woken => {}
                Some(attempt) = works.join_next() => finished.extend(attempt),
                () = sleep_until(&self.clock, until) => {}
                _ = self.stopping.changed(), if !stopping => {}
            }
        }
    }

    /// The work of starts that are committed begins, all at once, when the pace allows it.
    async fn launch(
        &mut self,
        scheduler: &mut Scheduler,
        starts: Vec<Start>,
        works: &mut JoinSet<Finished>,
    ) {
        let begins_at = scheduler.begins_at();
        self.clock.approach(begins_at).await;
        let mut begun = Vec::with_capacity(starts.len());
        for start in starts {
            let (sender, beginning) = oneshot::channel();
            let gate = Gate {
                clock: self.clock.clone(),
                begins_at,
                begun: sender,
            };
            let attempt = Attempt {
                processor: Arc::clone(&self.processor),
                events: self.events.clone(),
                ingestion: start.ingestion,
                work: start.work.clone(),
                last: scheduler.is_last(start.work.attempt),
                gate,
            };
            works.spawn_on(attempt.run(), &self.workers);
            begun.push((start, beginning));
        }
        let mut late = None;
        for (start, beginning) in begun {
            // Without an answer the runtime is gone, and the work with it.
            let at = beginning.await.unwrap_or_else(|_| self.clock.now());
            late = scheduler.began(start.slot, at).or(late);
            self.tell_of_start(&start, at);
        }
        if let Some(late) = late {
            // If this is refused, the next start says it.
            self.commit(&[late]).await;
        }
    }

    /// Whether the changes were committed. If not, pauses: the disk may be full for a while.
    async fn commit(&mut self, changes: &[Change]) -> bool {
        match self.store.commit(changes.to_vec()).await {
            Ok(()) => {
                if self.refusals.are_over() {
                    tracing::info!(queue = %self.name, "what happened is recorded again");
                }
                true
            }
            Err(error) => {
                let news = self.refusals.is_news(&error);
                if error == StoreError::Closed {
                    return false;
                }
                if news {
                    tracing::warn!(queue = %self.name, "could not record what happened, trying again: {error}");
                }
                self.clock.sleep(STORE_PAUSE).await;
                false
            }
        }
    }

    fn tell_of_start(&self, start: &Start, at: Now) {
        let Start {
            ingestion,
            work,
            slot,
            created_at,
            ..
        } = start;
        let (batch, attempt) = (work.batch, work.attempt);
        let ids: Vec<i64> = work.due.iter().map(|(_, id)| *id).collect();
        let ids = match ids.len() {
            0..=TOLD_IDS => format!("{ids:?}"),
            more => format!("{more} ids"),
        };
        let again = if attempt > 1 {
            format!(" (attempt {attempt})")
        } else {
            String::new()
        };
        tracing::info!(queue = %self.name, ingestion = %ingestion.id, "started {} with {ids}{again}", batch.batch_id());
        let waited = (attempt == 1).then(|| slot.wall.since(*created_at));
        let delay = at.mono.saturating_sub(slot.mono);
        self.metrics.started(self.name.as_str(), waited, delay);
    }

    /// Says in the log, the metrics and to the callbacks what was committed.
    fn tell(&self, handle: &QueueHandle, finished: &[Finished], changes: &[Change]) {
        for change in changes {
            match change {
                Change::BatchMoved {
                    ingestion,
                    batch,
                    run,
                } => {
                    let at = finished
                        .iter()
                        .find(|f| f.ingestion == *ingestion && f.batch == *batch)
                        .map(|f| f.at);
                    let took = at.unwrap_or(run.triggered_at).since(run.triggered_at);
                    handle.ran(took);
                    self.tell_of_batch(*ingestion, *batch, run.status, run, took);
                }
                Change::RestEnded {
                    ingestion, status, ..
                } => self.tell_of_rest(*ingestion, *status),
                Change::IngestionEnded { ingestion, at } => {
                    self.tell_of_end(*ingestion, *at);
                    self.live.registry.write().told(*ingestion, *at);
                }
                _ => {}
            }
        }
    }

    fn tell_of_batch(
        &self,
        ingestion: IngestionRef,
        batch: BatchIndex,
        status: BatchStatus,
        run: &crate::model::batch::BatchRun,
        took: Duration,
    ) {
        let (id, batch) = (ingestion.id, batch.batch_id());
        let failures = counted(run.failures.len() as u64, "id", "ids");
        let first = run
            .failures
            .first()
            .map_or("", |failure| failure.reason.as_str());
        match (status, run.retry_at) {
            (BatchStatus::Triggered, Some(at)) => {
                tracing::warn!(queue = %self.name, ingestion = %id, "{batch}: {failures} failed in attempt {}, tried again at {at}: {first}", run.attempt);
                return;
            }
            (BatchStatus::Failed, _) => {
                tracing::warn!(queue = %self.name, ingestion = %id, "{batch} failed for good in attempt {}, {failures}: {first}", run.attempt);
            }
            _ => {
                tracing::info!(queue = %self.name, ingestion = %id, "{} {batch} after {} ms", status.as_str(), took.as_millis());
            }
        }
        self.metrics.finished(self.name.as_str(), status, took);
    }

    fn tell_of_rest(&self, key: IngestionRef, status: BatchStatus) {
        let progress = self
            .live
            .registry
            .read()
            .get(key.id)
            .map(Ingestion::progress);
        let batches = progress.map_or(0, |progress| progress.cancelled + progress.expired);
        let batches_told = counted(u64::from(batches), "batch", "batches");
        let (name, status_name) = (self.name.as_str(), status.as_str());
        tracing::info!(queue = %name, ingestion = %key.id, "{status_name}: {batches_told} that had not started");
        self.metrics.ended_unstarted(name, status, batches);
    }

    fn tell_of_end(&self, key: IngestionRef, at: crate::model::time::Timestamp) {
        let registry = self.live.registry.read();
        let Some(ingestion) = registry.get(key.id) else {
            return;
        };
        let progress = ingestion.progress();
        tracing::info!(queue = %self.name, ingestion = %key.id, "{}: {} ended", progress.status().as_str(), counted(u64::from(progress.total), "batch has", "batches have"));
        if let Some(url) = ingestion
            .extras
            .as_ref()
            .and_then(|extras| extras.callback_url.as_deref())
        {
            self.callbacks.send(Callback {
                url: url.into(),
                ingestion: key.id,
                progress,
                completed_at: at,
            });
        }
    }
}

/// Holds the work back until the pace allows it, and tells when it began.
struct Gate {
    clock: Clock,
    begins_at: Duration,
    begun: oneshot::Sender<Now>,
}

/// One attempt at a batch.
struct Attempt {
    processor: Arc<Processor>,
    events: Events,
    ingestion: IngestionRef,
    work: Work,
    /// Whether there is none after it.
    last: bool,
    gate: Gate,
}

impl Attempt {
    /// Does the work and keeps its results.
    async fn run(self) -> Finished {
        let (clock, gate) = (self.gate.clock.clone(), self.gate);
        let (processor, work) = (self.processor, self.work.clone());
        // Through the gate in the task that does the work: between the moment it tells and the work
        // there is nothing that could take time.
        let done = tokio::spawn(async move {
            let at = gate.clock.hold_until(gate.begins_at).await;
            // The receiver is gone only when the process ends.
            let _ = gate.begun.send(at);
            processor.run(work).await
        });
        let mut results = done.await.unwrap_or_else(|error| {
            tracing::error!("the processor stopped in the middle of a batch: {error}");
            broken_down(&self.work)
        });
        let at = clock.now().wall;
        if !results::keep(&self.events, &clock, &self.work, &results, self.last, at).await {
            tracing::warn!(ingestion = %self.ingestion.id, "{}: its results could not be kept", self.work.batch.batch_id());
            results = results::not_kept(results);
        }
        Finished {
            ingestion: self.ingestion,
            batch: self.work.batch,
            results,
            at,
            jitter: fastrand::f64(),
        }
    }
}

/// A processor that panics fails every id instead of blocking the queue.
fn broken_down(work: &Work) -> Vec<IdResult> {
    let failure = Failure {
        reason: "the processor stopped in the middle".to_owned(),
        retry_after: None,
    };
    let due = work.due.iter();
    due.map(|(position, id)| IdResult {
        position: *position,
        id: *id,
        result: Err(failure.clone()),
    })
    .collect()
}

async fn sleep_until(clock: &Clock, mono: Option<Duration>) {
    match mono {
        Some(mono) => clock.sleep_until(mono).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_stays_full_is_told_once() {
        let mut refusals = Refusals::default();
        assert!(!refusals.are_over());
        let told = (0..100).filter(|_| refusals.is_news(&StoreError::Full));
        assert_eq!(told.count(), 1);
        assert!(refusals.is_news(&StoreError::Failed("sync".to_owned())));
        assert!(refusals.are_over());
        assert!(!refusals.are_over());
        assert!(refusals.is_news(&StoreError::Full));
    }

    #[test]
    fn only_a_store_that_is_over_ends_the_retries() {
        let mut refusals = Refusals::default();
        assert!(!refusals.are_final());
        for (error, over) in [
            (StoreError::Full, false),
            (StoreError::Busy, false),
            (StoreError::Failed("sync".to_owned()), true),
            (StoreError::Closed, true),
        ] {
            refusals.is_news(&error);
            assert_eq!(refusals.are_final(), over, "{error}");
        }
    }
}
