//! The task of one queue: waits, commits what the scheduler decides, starts the work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::callback::{Callback, Callbacks};
use super::decide::Finished;
use super::live::{Live, QueueHandle};
use super::processor::{Failure, IdResult, Processor, Work};
use super::scheduler::{Outcome, Scheduler, Start};
use crate::clock::Clock;
use crate::model::batch::BatchStatus;
use crate::model::change::Change;
use crate::model::id::{BatchIndex, IngestionRef};
use crate::model::ingestion::Ingestion;
use crate::model::queue::{QueueId, QueueName};
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
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) callbacks: Callbacks,
    pub(crate) processor: Arc<Processor>,
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
        let (sender, mut inbox) = mpsc::channel(FINISHED_AT_ONCE);
        let live = Arc::clone(&self.live);
        let Some(handle) = live.handle(self.queue) else {
            return;
        };
        let mut finished: Vec<Finished> = Vec::new();
        let mut running = 0_usize;
        loop {
            // Armed before anything is looked at: a submission from here on ends the wait below.
            let woken = handle.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let seen = handle.applied.load(std::sync::atomic::Ordering::Acquire);
            while finished.len() < FINISHED_AT_ONCE
                && let Ok(attempt) = inbox.try_recv()
            {
                running -= 1;
                finished.push(attempt);
            }
            // Nobody left to say so is as good as having been told.
            let stopping = *self.stopping.borrow() || self.stopping.has_changed().is_err();
            if stopping && finished.is_empty() && running == 0 {
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
                            running += 1;
                            let late = scheduler.began(start.slot, self.clock.now());
                            self.start(start, &sender);
                            if let Some(late) = late {
                                // If this is refused, the next start says it.
                                self.commit(&[late]).await;
                            }
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
            tokio::select! {
                () = woken => {}
                Some(attempt) = inbox.recv() => { running -= 1; finished.push(attempt); }
                () = sleep_until(&self.clock, until) => {}
                _ = self.stopping.changed(), if !stopping => {}
            }
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

    fn start(&self, start: Start, sender: &mpsc::Sender<Finished>) {
        let Start {
            ingestion,
            work,
            slot,
            created_at,
            ..
        } = start;
        let now = self.clock.now();
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
        let waited = (attempt == 1).then(|| slot.wall.since(created_at));
        let delay = now.mono.saturating_sub(slot.mono);
        self.metrics.started(self.name.as_str(), waited, delay);
        let (processor, clock, sender) = (
            Arc::clone(&self.processor),
            self.clock.clone(),
            sender.clone(),
        );
        tokio::spawn(async move {
            let results = attempt_of(processor, work).await;
            let jitter = fastrand::f64();
            let finished = Finished {
                ingestion,
                batch,
                results,
                at: clock.now().wall,
                jitter,
            };
            // The receiver is gone only when the process ends; the batch is started again then.
            let _ = sender.send(finished).await;
        });
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

/// One attempt; a processor that panics fails every id instead of blocking the queue.
async fn attempt_of(processor: Arc<Processor>, work: Work) -> Vec<IdResult> {
    let due = work.due.clone();
    match tokio::spawn(async move { processor.run(work).await }).await {
        Ok(results) => results,
        Err(error) => {
            tracing::error!("the processor stopped in the middle of a batch: {error}");
            let failure = Failure {
                reason: "the processor stopped in the middle".to_owned(),
                retry_after: None,
            };
            due.into_iter()
                .map(|(position, id)| IdResult {
                    position,
                    id,
                    result: Err(failure.clone()),
                })
                .collect()
        }
    }
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
