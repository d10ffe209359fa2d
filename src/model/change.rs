//! Everything that ever happens to a job, as values.
//!
//! A `decide` function makes changes, the store commits them, and the registry applies them: live,
//! at start-up, and (past one machine) on a node that follows another. A change carries the new
//! state, not a difference, so applying one twice does no harm to the store.

use super::batch::{BatchRun, BatchStatus};
use super::id::{BatchIndex, IngestionRef};
use super::ingestion::Ingestion;
use super::queue::{QueueId, QueueName};
use super::time::Timestamp;

/// One thing that happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A queue exists, under this number.
    QueueConfigured {
        /// Its number.
        queue: QueueId,
        /// Its name.
        name: QueueName,
        /// Until when its slots are booked, over all runs of the process.
        last_slot: Option<Timestamp>,
    },
    /// An ingestion was accepted. The store sets `ingestion.arrival`.
    Submitted {
        /// With no runs.
        ingestion: Ingestion,
        /// Under which key a repetition finds it.
        idempotency: Option<IdempotencyRecord>,
    },
    /// A queue has booked the slots up to a moment that is still to come: after a crash, nothing of it
    /// starts within an interval of that.
    SlotTaken {
        /// Which queue.
        queue: QueueId,
        /// Until when.
        at: Timestamp,
    },
    /// A batch was started, ended, or waits to be tried again.
    BatchMoved {
        /// Whose batch.
        ingestion: IngestionRef,
        /// Which one.
        batch: BatchIndex,
        /// Its new state.
        run: BatchRun,
    },
    /// All batches that had not started by then ended without a start.
    RestEnded {
        /// Whose batches.
        ingestion: IngestionRef,
        /// `Expired` or `Cancelled`.
        status: BatchStatus,
        /// When.
        at: Timestamp,
    },
    /// The last batch ended: nothing about it changes any more.
    IngestionEnded {
        /// Which one.
        ingestion: IngestionRef,
        /// When.
        at: Timestamp,
    },
}

/// Remembers the answer to a request that carried an `Idempotency-Key`
/// (draft-ietf-httpapi-idempotency-key-header).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdempotencyRecord {
    /// A hash of the key.
    pub key: u128,
    /// A hash of the body: another body under the same key is refused.
    pub body: u128,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}
