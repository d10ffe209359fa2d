//! Reading: what an ingestion and a queue look like at one moment.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::{Jobs, live, outlook};
use crate::model::batch::{BatchRun, BatchStatus};
use crate::model::id::{BatchIndex, IngestionId};
use crate::model::ingestion::{Ingestion, Progress};
use crate::model::queue::{QueueId, QueueName, QueueSettings};
use crate::model::time::Timestamp;
use crate::store::StoreError;

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
    /// Batches that wait for a slot, by [`Priority::rank`](crate::model::priority::Priority::rank).
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

impl Jobs {
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

    /// One ingestion with the batches of `range` (cut to what there is), from memory or, once it
    /// has left memory, from disk; `None` if there is no such ingestion.
    pub async fn view(
        &self,
        id: IngestionId,
        range: Range<u32>,
    ) -> Result<Option<View>, StoreError> {
        self.0.store.sync().await?;
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
    pub async fn watch(&self, id: IngestionId) -> Option<Watch> {
        // Another node may just have accepted it. If that can't be told, nor can a view be read.
        self.0.store.sync().await.ok()?;
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
