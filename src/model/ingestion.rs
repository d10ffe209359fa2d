//! One submission: its ids, what was asked of it, and how far it is.

use std::num::NonZeroU16;
use std::ops::Range;
use std::sync::Arc;

use super::batch::{BatchRun, BatchStatus};
use super::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use super::priority::Priority;
use super::queue::QueueId;
use super::time::Timestamp;

/// The most ids in one ingestion.
pub const MAX_IDS: usize = 1_000_000;

/// The longest `metadata`, in bytes of its JSON text.
pub const MAX_METADATA: usize = 4096;

/// What few ingestions carry, kept apart so that the others don't pay for it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extras {
    /// A JSON object as it was sent, byte for byte.
    pub metadata: Option<Box<str>>,
    /// Where the final status is posted to.
    pub callback_url: Option<Box<str>>,
    /// Batches that have not started by then expire.
    pub deadline: Option<Timestamp>,
}

/// One submission. Batches are not stored: batch `i` is the `i`-th run of `batch_size` ids, and
/// has state of its own only once it was started.
///
/// Batches of one ingestion start in order, so those that were started are a prefix; those that
/// were cancelled or have expired without a start are the whole rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingestion {
    /// The public name.
    pub id: IngestionId,
    /// The order of arrival; 0 until the store has assigned it.
    pub arrival: Arrival,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// At least one, in the order sent, duplicates kept.
    pub ids: Arc<[i64]>,
    /// Only where any was given.
    pub extras: Option<Box<Extras>>,
    /// Only once a batch was started or the rest was given up.
    pub runs: Option<Box<Runs>>,
    /// The queue whose pace it follows.
    pub queue: QueueId,
    /// The queue's batch size when it was accepted.
    pub batch_size: NonZeroU16,
    /// Its urgency.
    pub priority: Priority,
}

/// The state of the batches of an ingestion that are no longer waiting.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs {
    /// The batches that were started, from the first.
    pub started: Vec<BatchRun>,
    /// All later batches ended without a start: how, and when.
    pub rest: Option<(BatchStatus, Timestamp)>,
    /// When the last batch ended; `None` while any has not.
    pub ended_at: Option<Timestamp>,
    /// How many of `started` completed.
    pub completed: u32,
    /// How many of `started` failed.
    pub failed: u32,
}

/// How many batches are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// All batches.
    pub total: u32,
    /// Not started, and still to be.
    pub waiting: u32,
    /// Started and not ended.
    pub triggered: u32,
    /// Done.
    pub completed: u32,
    /// Retries used up.
    pub failed: u32,
    /// Taken back.
    pub cancelled: u32,
    /// Deadline passed.
    pub expired: u32,
}

impl Progress {
    /// The overall status that the contract derives from the batches: all waiting, all
    /// completed, else `triggered` until every batch has ended; then the worst end wins:
    /// `failed`, `cancelled`, `expired`.
    #[must_use]
    pub const fn status(&self) -> BatchStatus {
        if self.waiting == self.total {
            BatchStatus::YetToStart
        } else if self.completed == self.total {
            BatchStatus::Completed
        } else if self.waiting > 0 || self.triggered > 0 {
            BatchStatus::Triggered
        } else if self.failed > 0 {
            BatchStatus::Failed
        } else if self.cancelled > 0 {
            BatchStatus::Cancelled
        } else {
            BatchStatus::Expired
        }
    }
}

impl Ingestion {
    /// Name and row.
    #[must_use]
    pub const fn key(&self) -> IngestionRef {
        IngestionRef {
            id: self.id,
            arrival: self.arrival,
        }
    }

    /// How many batches it is split into; at least 1.
    #[must_use]
    pub fn batch_count(&self) -> u32 {
        let count = self.ids.len().div_ceil(usize::from(self.batch_size.get()));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Where the ids of `batch` stand in `ids`; empty past the last batch.
    #[must_use]
    pub fn id_range(&self, batch: BatchIndex) -> Range<usize> {
        let size = usize::from(self.batch_size.get());
        let start = (batch.index() * size).min(self.ids.len());
        start..(start + size).min(self.ids.len())
    }

    /// The ids of `batch`; empty past the last batch.
    #[must_use]
    pub fn ids_of(&self, batch: BatchIndex) -> &[i64] {
        self.ids.get(self.id_range(batch)).unwrap_or_default()
    }

    /// The state of `batch` if it was ever started.
    #[must_use]
    pub fn run(&self, batch: BatchIndex) -> Option<&BatchRun> {
        self.runs.as_ref()?.started.get(batch.index())
    }

    /// The status of `batch`.
    #[must_use]
    pub fn status_of(&self, batch: BatchIndex) -> BatchStatus {
        match (
            self.run(batch),
            self.runs.as_ref().and_then(|runs| runs.rest),
        ) {
            (Some(run), _) => run.status,
            (None, Some((status, _))) => status,
            (None, None) => BatchStatus::YetToStart,
        }
    }

    /// How many batches were ever started: also the index of the next to start, while any waits.
    #[must_use]
    pub fn started_count(&self) -> u32 {
        let started = self.runs.as_ref().map_or(0, |runs| runs.started.len());
        u32::try_from(started).unwrap_or(u32::MAX)
    }

    /// The next batch to start for the first time.
    #[must_use]
    pub fn next_batch(&self) -> Option<BatchIndex> {
        (self.waiting_count() > 0).then(|| BatchIndex(self.started_count()))
    }

    /// How many batches wait for their first start.
    #[must_use]
    pub fn waiting_count(&self) -> u32 {
        match &self.runs {
            Some(runs) if runs.rest.is_some() => 0,
            _ => self.batch_count() - self.started_count().min(self.batch_count()),
        }
    }

    /// How many batches are in which state; the same cost for every size.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let total = self.batch_count();
        let waiting = self.waiting_count();
        let started = self.started_count();
        let Some(runs) = &self.runs else {
            return Progress {
                total,
                waiting,
                ..Progress::default()
            };
        };
        let rest = total - started - waiting;
        let (cancelled, expired) = match runs.rest {
            Some((BatchStatus::Cancelled, _)) => (rest, 0),
            Some(_) => (0, rest),
            None => (0, 0),
        };
        Progress {
            total,
            waiting,
            triggered: started - runs.completed - runs.failed,
            completed: runs.completed,
            failed: runs.failed,
            cancelled,
            expired,
        }
    }

    /// The overall status.
    #[must_use]
    pub fn status(&self) -> BatchStatus {
        self.progress().status()
    }

    /// When the first batch started.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        Some(self.runs.as_ref()?.started.first()?.first_triggered_at)
    }

    /// When the last batch ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.runs.as_ref()?.ended_at
    }

    /// The deadline, if one was given.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.extras.as_ref()?.deadline
    }

    /// Records the new state of a batch: the next one to start, or one that was started.
    /// Returns the state it had, `None` for a first start.
    ///
    /// # Panics
    /// In debug builds, if `batch` is not the next one and was never started.
    pub fn set_run(&mut self, batch: BatchIndex, run: BatchRun) -> Option<BatchRun> {
        let runs = self.runs.get_or_insert_default();
        runs.completed += u32::from(run.status == BatchStatus::Completed);
        runs.failed += u32::from(run.status == BatchStatus::Failed);
        let Some(place) = runs.started.get_mut(batch.index()) else {
            debug_assert_eq!(batch.index(), runs.started.len(), "batches start in order");
            runs.started.push(run);
            return None;
        };
        let before = std::mem::replace(place, run);
        runs.completed -= u32::from(before.status == BatchStatus::Completed);
        runs.failed -= u32::from(before.status == BatchStatus::Failed);
        Some(before)
    }

    /// Ends every batch that waits for its first start.
    pub fn give_up_rest(&mut self, status: BatchStatus, at: Timestamp) {
        debug_assert!(matches!(
            status,
            BatchStatus::Cancelled | BatchStatus::Expired
        ));
        self.runs.get_or_insert_default().rest = Some((status, at));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ingestion(ids: i64) -> Ingestion {
        Ingestion {
            id: IngestionId::new(Uuid::from_u128(7)),
            arrival: Arrival(1),
            created_at: Timestamp::EPOCH,
            ids: (1..=ids).collect(),
            extras: None,
            runs: None,
            queue: QueueId(0),
            batch_size: NonZeroU16::new(3).unwrap(),
            priority: Priority::Medium,
        }
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn ended(status: BatchStatus) -> BatchRun {
        BatchRun {
            status,
            completed_at: Some(at(9)),
            ..BatchRun::first(at(1))
        }
    }

    #[test]
    fn splits_in_order_with_a_short_last_batch() {
        let five = ingestion(5);
        assert_eq!(five.batch_count(), 2);
        assert_eq!(five.ids_of(BatchIndex(0)), [1, 2, 3]);
        assert_eq!(five.ids_of(BatchIndex(1)), [4, 5]);
        assert_eq!(five.ids_of(BatchIndex(2)), [0_i64; 0]);
        assert_eq!(ingestion(3).batch_count(), 1);
    }

    #[test]
    fn a_waiting_ingestion_stays_small() {
        assert!(
            size_of::<Ingestion>() <= 72,
            "{} bytes",
            size_of::<Ingestion>()
        );
    }

    #[test]
    fn overall_status_follows_the_batches() {
        let mut it = ingestion(5);
        assert_eq!(it.status(), BatchStatus::YetToStart);
        it.set_run(BatchIndex(0), BatchRun::first(at(1)));
        assert_eq!(it.status(), BatchStatus::Triggered);
        it.set_run(BatchIndex(0), ended(BatchStatus::Completed));
        assert_eq!(it.status(), BatchStatus::Triggered);
        it.set_run(BatchIndex(1), BatchRun::first(at(2)));
        it.set_run(BatchIndex(1), ended(BatchStatus::Completed));
        assert_eq!(it.status(), BatchStatus::Completed);
        it.set_run(BatchIndex(1), ended(BatchStatus::Failed));
        assert_eq!(it.status(), BatchStatus::Failed);
    }

    #[test]
    fn a_rest_that_was_given_up_ends_it_only_with_the_running_batch() {
        let mut it = ingestion(9);
        it.set_run(BatchIndex(0), BatchRun::first(at(1)));
        it.give_up_rest(BatchStatus::Expired, at(2));
        assert_eq!(it.status(), BatchStatus::Triggered);
        assert_eq!(it.next_batch(), None);
        assert_eq!(it.status_of(BatchIndex(2)), BatchStatus::Expired);
        it.set_run(BatchIndex(0), ended(BatchStatus::Completed));
        assert_eq!(it.status(), BatchStatus::Expired);
        assert_eq!(it.progress().expired, 2);
    }
}
